//! Reads when a public key ends, as the newest signature by the key itself says (RFC 4880, 5.2.3.6). It does not verify
//! that signature. ironstrap only reports the end, and decides by it which of two texts of the same key is the newer one.

use time::OffsetDateTime;

use super::packet;

/// When a key expires.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum End {
    Never,
    At(OffsetDateTime),
    /// The key has no end that can be read here.
    Unknown,
}

/// Kinds of packets. The signatures after a subkey are about that subkey.
const SIGNATURE: u8 = 2;
const SUBKEY: u8 = 14;
/// Kinds of subpackets: the time of the signature, the key's lifetime in seconds, and the signer by its ID or fingerprint.
const CREATED: u8 = 2;
const EXPIRES: u8 = 9;
const ISSUER: u8 = 16;
const ISSUER_FINGERPRINT: u8 = 33;

/// The end of the primary key with this packet and fingerprint. `rest` is the packets after it, which are read
/// up to the next subkey or primary key.
pub(super) fn end(key: &[u8], fingerprint: &str, rest: &[u8]) -> End {
    let made = match key {
        [4, made @ ..] => made.get(..4).map(number),
        _ => None,
    };
    let (Some(made), Some(lives)) = (made, newest(fingerprint, rest)) else { return End::Unknown };
    match lives {
        0 => End::Never,
        lives => OffsetDateTime::from_unix_timestamp(i64::from(made) + i64::from(lives))
            .map_or(End::Unknown, End::At),
    }
}

/// The lifetime of the key in seconds, as its newest signature by itself says. 0: the key never ends.
fn newest(fingerprint: &str, mut rest: &[u8]) -> Option<u32> {
    let mut newest: Option<(u32, u32)> = None;
    while let Some((tag, body, after)) = packet(rest).filter(|(tag, ..)| *tag != SUBKEY && *tag != 6) {
        if tag == SIGNATURE
            && let Some(signed) = signed(body, fingerprint)
        {
            newest = newest.max(Some(signed));
        }
        rest = after;
    }
    newest.map(|(_, lives)| lives)
}

/// When this signature was made, and the lifetime of the key that it states. `None` unless the key itself made
/// it, in version 4, over a user ID or itself.
fn signed(body: &[u8], fingerprint: &str) -> Option<(u32, u32)> {
    let [4, 0x10..=0x13 | 0x1f, _, _, rest @ ..] = body else { return None };
    let (hashed, rest) = part(rest)?;
    let (unhashed, _) = part(rest)?;
    // Only the hashed part counts, because the signature covers it. The other part may also name the signer.
    let (covered, more) = (subpackets(hashed)?, subpackets(unhashed)?);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02X}")).collect::<String>();
    let is_own = covered.iter().chain(&more).any(|(kind, body)| match *kind {
        ISSUER => body.len() == 8 && fingerprint.ends_with(&hex(body)),
        ISSUER_FINGERPRINT => body.get(1..).is_some_and(|issuer| hex(issuer) == fingerprint),
        _ => false,
    });
    let of = |kind: u8| covered.iter().find(|(it, body)| *it == kind && body.len() == 4);
    let lives = of(EXPIRES).map_or(0, |(_, body)| number(body));
    of(CREATED).filter(|_| is_own).map(|(_, body)| (number(body), lives))
}

/// Splits off a part that begins with its length in two bytes. Returns the part and the bytes after it.
fn part(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = usize::from(u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?));
    bytes.get(2..)?.split_at_checked(length)
}

/// The kind and the body of each subpacket.
fn subpackets(mut bytes: &[u8]) -> Option<Vec<(u8, &[u8])>> {
    let mut all = vec![];
    while let [first, rest @ ..] = bytes {
        let (length, rest) = match *first {
            short @ ..=191 => (usize::from(short), rest),
            high @ 192..=254 => {
                (((usize::from(high) - 192) << 8) + usize::from(*rest.first()?) + 192, rest.get(1..)?)
            }
            255 => (usize::try_from(number(rest.get(..4)?)).ok()?, rest.get(4..)?),
        };
        let (body, after) = rest.split_at_checked(length)?;
        let (kind, body) = body.split_first()?;
        // The highest bit is no part of the kind. It says that a reader must understand the subpacket.
        all.push((kind & 0x7f, body));
        bytes = after;
    }
    Some(all)
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::openpgp::Keys;
    use crate::openpgp::tests::{KUBERNETES, OTHER};

    fn subpacket(kind: u8, body: &[u8]) -> Vec<u8> {
        [&[u8::try_from(body.len() + 1).unwrap(), kind][..], body].concat()
    }

    /// A signature by the key with this ID, made at the second `made`. It says that the key is valid for `lives` seconds.
    fn signature(kind: u8, issuer: &[u8; 8], made: u32, lives: Option<u32>) -> Vec<u8> {
        let mut hashed = subpacket(CREATED, &made.to_be_bytes());
        hashed.extend(lives.into_iter().flat_map(|lives| subpacket(0x80 | EXPIRES, &lives.to_be_bytes())));
        // The signature does not cover this part, so its lifetime must not count.
        let unhashed = [subpacket(ISSUER, issuer), subpacket(EXPIRES, &[0, 0, 0, 1])].concat();
        let sized = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat();
        let body = [&[4, kind, 1, 8][..], &sized(&hashed), &sized(&unhashed), &[0; 6]].concat();
        [&[0xc2, u8::try_from(body.len()).unwrap()][..], &body].concat()
    }

    #[test]
    fn real_keys_expire_when_gpg_says() {
        let end = |text: &str| Keys::read(text).unwrap().end();
        assert_eq!(end(KUBERNETES), End::At(datetime!(2026-12-29 1:33:44 UTC)));
        assert_eq!(end(OTHER), End::Never);
        assert_eq!(end(&format!("{OTHER}{KUBERNETES}")), end(KUBERNETES), "the earliest expiry counts");
    }

    #[test]
    fn the_newest_self_signature_sets_the_expiry() {
        let (key, own, other) = ([4, 0, 0, 0, 100, 1], [7; 8], [8; 8]);
        let fingerprint = format!("{}{}", "AB".repeat(12), "07".repeat(8));
        let at = |seconds| End::At(OffsetDateTime::from_unix_timestamp(seconds).unwrap());
        let of = |signatures: &[Vec<u8>]| end(&key, &fingerprint, &signatures.concat());
        let (old, new) = (signature(0x13, &own, 200, Some(50)), signature(0x13, &own, 300, Some(90)));
        assert_eq!(of(std::slice::from_ref(&old)), at(150));
        assert_eq!((of(&[old.clone(), new.clone()]), of(&[new.clone(), old.clone()])), (at(190), at(190)));
        assert_eq!(of(&[old.clone(), signature(0x1f, &own, 400, None)]), End::Never);
        let others = [signature(0x13, &other, 400, Some(9)), signature(0x18, &own, 400, Some(9))];
        assert_eq!(
            of(&[&others[..], std::slice::from_ref(&old)].concat()),
            at(150),
            "signatures by other keys and of other kinds do not count"
        );
        assert_eq!(of(&others), End::Unknown);
        let subkey = vec![0xce, 1, 4];
        assert_eq!(
            of(&[old.clone(), subkey, new]),
            at(150),
            "a signature after a subkey is about the subkey"
        );
        assert_eq!(end(&[6, 0, 0, 0, 100], &fingerprint, &old), End::Unknown);
        for length in 0..old.len() {
            assert_eq!(end(&key, &fingerprint, &old[..length]), End::Unknown, "{length}");
        }
    }
}
