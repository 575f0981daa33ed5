//! Reads OpenPGP public keys as package repositories publish them (RFC 4880, RFC 9580). It reads whose keys
//! they are and when they end, and nothing else in the file. It verifies no signature, because apt does that.

mod ends;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use time::{Duration, OffsetDateTime};

pub use ends::End;

const BEGIN: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";
const END: &str = "-----END PGP PUBLIC KEY BLOCK-----";
/// The largest armored text that is read, in bytes. The largest keys with many signatures have some hundred thousand bytes.
const LARGEST: usize = 1 << 20;
/// How long before the end of a key ironstrap looks for the key again where it came from.
const SOON: Duration = Duration::days(30);

/// One or more public keys.
#[derive(Clone, Debug, PartialEq)]
pub struct Keys {
    /// The fingerprint of each primary key, in upper-case hex.
    pub fingerprints: Vec<String>,
    /// The end of each primary key, in the same order.
    ends: Vec<End>,
    blocks: Vec<Vec<u8>>,
}

impl Keys {
    /// Reads an armored text. The error says what prevents that, as the end of a sentence that begins with "it".
    pub fn read(text: &str) -> Result<Keys, String> {
        if text.len() > LARGEST {
            return Err(format!("is larger than {LARGEST} bytes"));
        }
        let begins: Vec<&str> =
            text.lines().map(str::trim).filter(|l| l.starts_with("-----BEGIN ")).collect();
        if let Some(line) =
            begins.iter().find(|line| line.contains("PRIVATE KEY") || line.contains("SECRET KEY"))
        {
            return Err(format!("holds a private key ({})", line.trim_matches('-')));
        }
        if let Some(line) = begins.iter().find(|line| **line != BEGIN) {
            return Err(format!("holds something other than public keys ({line})"));
        }
        if begins.is_empty() {
            return Err(format!("holds no public key (no line {BEGIN})"));
        }
        let blocks = blocks(text)?;
        let (mut fingerprints, mut ends) = (vec![], vec![]);
        for block in &blocks {
            for (fingerprint, end) in primaries(block)? {
                fingerprints.push(fingerprint);
                ends.push(end);
            }
        }
        Ok(Keys { fingerprints, ends, blocks })
    }

    /// When the first of its keys ends.
    pub fn end(&self) -> End {
        let at = |end: &End| if let End::At(at) = end { Some(*at) } else { None };
        match self.ends.iter().filter_map(at).min() {
            Some(at) => End::At(at),
            None if self.ends.iter().all(|end| *end == End::Never) => End::Never,
            None => End::Unknown,
        }
    }

    /// When the first of the keys ends, if that is over or near. An end that cannot be read is not near.
    pub fn ends_soon(&self, now: OffsetDateTime) -> Option<OffsetDateTime> {
        match self.end() {
            End::At(at) if at <= now + SOON => Some(at),
            _ => None,
        }
    }

    /// Whether this is a text of the same keys by which they are valid for longer.
    pub fn renews(&self, old: &Keys) -> bool {
        self.fingerprints == old.fingerprints
            && match (self.end(), old.end()) {
                (End::Never, End::At(_)) => true,
                (End::At(new), End::At(old)) => new > old,
                _ => false,
            }
    }

    /// The keys alone, armored, without comments and anything else that stood around them.
    pub fn armored(&self) -> String {
        let mut text = String::new();
        for block in &self.blocks {
            text += &format!("{BEGIN}\n\n");
            let packed = BASE64_STANDARD.encode(block);
            for line in packed.as_bytes().chunks(64) {
                text.extend(line.iter().map(|byte| char::from(*byte)));
                text.push('\n');
            }
            let sum = crc24(block).to_be_bytes();
            text += &format!("={}\n{END}\n", BASE64_STANDARD.encode(&sum[1..]));
        }
        text
    }
}

/// The bytes of each armored block.
fn blocks(text: &str) -> Result<Vec<Vec<u8>>, String> {
    let (mut blocks, mut lines) = (vec![], text.lines().map(str::trim));
    while lines.by_ref().any(|line| line == BEGIN) {
        let mut body = String::new();
        let (mut sum, mut ended, mut heads) = (None, false, true);
        for line in lines.by_ref() {
            match line {
                END => {
                    ended = true;
                    break;
                }
                "" => heads = false,
                // A header such as `Version: …`. Headers stand only before the first empty line.
                _ if heads && line.contains(": ") => {}
                _ if sum.is_some() => return Err("has data after its checksum".into()),
                _ => match line.strip_prefix('=') {
                    Some(packed) => sum = Some(packed.to_string()),
                    None => {
                        heads = false;
                        body += line;
                    }
                },
            }
        }
        if !ended {
            return Err("is cut off".into());
        }
        let bytes = BASE64_STANDARD.decode(&body).map_err(|_| "is not valid base64")?;
        let sum = sum.map(|packed| BASE64_STANDARD.decode(packed).unwrap_or_default());
        if sum.is_some_and(|sum| sum != crc24(&bytes).to_be_bytes()[1..]) {
            return Err("is damaged: its checksum is wrong".into());
        }
        blocks.push(bytes);
    }
    Ok(blocks)
}

/// The fingerprint and the end of each primary key of a block. Everything in the block must belong to a public key.
fn primaries(mut rest: &[u8]) -> Result<Vec<(String, End)>, String> {
    let mut found = vec![];
    while !rest.is_empty() {
        let (tag, body, after) = packet(rest).ok_or("is damaged: a part of it is incomplete")?;
        match tag {
            6 => {
                let fingerprint = fingerprint(body)?;
                let end = ends::end(body, &fingerprint, after);
                found.push((fingerprint, end));
            }
            5 | 7 => return Err("holds a private key".into()),
            // These packets are, in order: a signature, trust, a name, a subkey, a picture, padding.
            2 | 12 | 13 | 14 | 17 | 21 if !found.is_empty() => {}
            _ => return Err(format!("holds something that is not part of a public key (packet {tag})")),
        }
        rest = after;
    }
    match found.is_empty() {
        true => Err("holds no public key".into()),
        false => Ok(found),
    }
}

/// Splits off the first packet: its kind, its body and the bytes after it. Packets whose length is not stated
/// beforehand do not occur in keys.
fn packet(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (first, rest) = bytes.split_first()?;
    let number = |bytes: &[u8]| bytes.iter().fold(0_usize, |n, byte| n << 8 | usize::from(*byte));
    let (tag, used, length) = match (first >> 6, *first) {
        (0b11, first) => match *rest.first()? {
            short @ ..=191 => (first & 0x3f, 1, usize::from(short)),
            high @ 192..=223 => {
                (first & 0x3f, 2, ((usize::from(high) - 192) << 8) + usize::from(*rest.get(1)?) + 192)
            }
            255 => (first & 0x3f, 5, number(rest.get(1..5)?)),
            _ => return None,
        },
        (0b10, first) => {
            let used = match first & 3 {
                kind @ 0..=2 => 1 << kind,
                _ => return None,
            };
            (first >> 2 & 0x0f, used, number(rest.get(..used)?))
        }
        _ => return None,
    };
    let body = rest.get(used..used.checked_add(length)?)?;
    Some((tag, body, &rest[used + length..]))
}

/// The fingerprint of a key (RFC 4880, 12.2, and RFC 9580, 5.5.4.3).
fn fingerprint(body: &[u8]) -> Result<String, String> {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02X}")).collect::<String>();
    let length = u32::try_from(body.len()).map_err(|_| "is too long")?.to_be_bytes();
    match body.first() {
        Some(4) if body.len() <= usize::from(u16::MAX) => Ok(hex(&Sha1::new()
            .chain_update([0x99])
            .chain_update(&length[2..])
            .chain_update(body)
            .finalize())),
        Some(6) => {
            Ok(hex(&Sha256::new().chain_update([0x9b]).chain_update(length).chain_update(body).finalize()))
        }
        Some(version) => Err(format!("is a key of version {version}: ironstrap supports 4 and 6")),
        None => Err("is damaged: a key in it is empty".into()),
    }
}

/// The checksum of an armored block (RFC 4880, 6.1).
fn crc24(bytes: &[u8]) -> u32 {
    let byte = |sum: u32, byte: &u8| {
        (0..8).fold(sum ^ u32::from(*byte) << 16, |sum, _| {
            let sum = sum << 1;
            if sum & 0x0100_0000 != 0 { sum ^ 0x0186_4cfb } else { sum }
        })
    };
    bytes.iter().fold(0x00b7_04ce, byte) & 0x00ff_ffff
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The key with which pkgs.k8s.io signed until 2026.
    pub const KUBERNETES: &str = include_str!("../tests/keys/kubernetes.asc");
    /// A key that GnuPG made for these tests.
    pub const OTHER: &str = include_str!("../tests/keys/other.asc");
    const SECRET: &str = include_str!("../tests/keys/secret.asc");

    /// Returns the same key with its expiry `days` later, as its owner could set it. The signatures no longer match.
    pub fn put_off(text: &str, days: u32) -> String {
        let mut keys = Keys::read(text).unwrap();
        let lives = 1_798_508_024_u32 - 1_661_444_471;
        let (old, new) = (lives.to_be_bytes(), (lives + days * 86_400).to_be_bytes());
        for block in &mut keys.blocks {
            let at: Vec<usize> = (1..block.len() - 4)
                .filter(|at| block[*at - 1] & 0x7f == 9 && block[*at..*at + 4] == old)
                .collect();
            assert!(!at.is_empty());
            at.into_iter().for_each(|at| block[at..at + 4].copy_from_slice(&new));
        }
        keys.armored()
    }

    #[test]
    fn a_later_expiry_renews_the_same_key() {
        let keys = |text: &str| Keys::read(text).unwrap();
        let (old, new, other) = (keys(KUBERNETES), keys(&put_off(KUBERNETES, 90)), keys(OTHER));
        assert!(new.renews(&old) && !old.renews(&new) && !old.renews(&old));
        assert!(!other.renews(&old), "another key renews nothing");
        let end = time::macros::datetime!(2026-12-29 1:33:44 UTC);
        assert_eq!(old.ends_soon(end - SOON - Duration::SECOND), None);
        assert_eq!(old.ends_soon(end - SOON), Some(end));
        assert_eq!((old.ends_soon(end + SOON), other.ends_soon(end)), (Some(end), None));
    }

    fn read(text: &str) -> Result<Vec<String>, String> {
        Keys::read(text).map(|keys| keys.fingerprints)
    }

    #[test]
    fn fingerprints_match_those_of_gpg() {
        let (kubernetes, other) =
            ("DE15B14486CD377B9E876E1A234654DA9A296436", "F16CCF68362E170D47EE5AA83D130A3219ACBF0A");
        assert_eq!(read(KUBERNETES).unwrap(), [kubernetes]);
        assert_eq!(read(OTHER).unwrap(), [other]);
        assert_eq!(read(&format!("# two\n{KUBERNETES}\n{OTHER}")).unwrap(), [kubernetes, other]);
        assert_eq!(read(&KUBERNETES.replace('\n', "\r\n")).unwrap(), [kubernetes]);
    }

    #[test]
    fn two_keys_in_one_block_are_both_read() {
        let both = [&KUBERNETES, &OTHER].map(|text| Keys::read(text).unwrap().blocks.concat()).concat();
        let text = Keys { fingerprints: vec![], ends: vec![], blocks: vec![both] }.armored();
        assert_eq!(read(&text).unwrap().len(), 2);
    }

    #[test]
    fn only_the_keys_are_written_back() {
        let text = format!("password: hunter2\n{KUBERNETES}more\n{OTHER}");
        let again = Keys::read(&text).unwrap().armored();
        assert_eq!(Keys::read(&again).unwrap(), Keys::read(&text).unwrap());
        assert_eq!(Keys::read(&again).unwrap().armored(), again);
        assert!(
            !again.contains("hunter2") && !again.contains("Version") && !again.contains("more"),
            "{again}"
        );
        // The text equals the output of GnuPG byte for byte.
        assert_eq!(Keys::read(OTHER).unwrap().armored(), OTHER);
    }

    #[test]
    fn a_private_key_is_refused_in_any_armor() {
        assert!(read(SECRET).unwrap_err().contains("private key"));
        assert!(read(&format!("{KUBERNETES}{SECRET}")).unwrap_err().contains("private key"));
        let disguised = SECRET.replace("PRIVATE", "PUBLIC");
        assert!(read(&disguised).unwrap_err().contains("private key"), "the packets show that it is private");
        let ssh = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n";
        assert!(read(&format!("{OTHER}{ssh}")).unwrap_err().contains("private key"));
    }

    #[test]
    fn an_invalid_key_is_refused_with_a_reason() {
        for (text, why) in [
            ("", "no public key"),
            ("<html>not found</html>", "no public key"),
            (&OTHER.replace("xGY2", "xGY3"), "checksum"),
            (&OTHER.replace("mDME", "mDMF"), "checksum"),
            (OTHER.split("-----END").next().unwrap(), "is cut off"),
            (&OTHER.replace("mDME", "m*ME"), "base64"),
            ("-----BEGIN CERTIFICATE-----", "something other"),
            (&format!("{BEGIN}\n\n{END}"), "no public key"),
        ] {
            let said = read(text).unwrap_err();
            assert!(said.contains(why), "{why}: {said}");
        }
    }

    #[test]
    fn packets_are_split_by_their_lengths() {
        let long = vec![7; 200];
        for head in [
            &[0xc6, 192, 8][..],
            &[0xc6, 255, 0, 0, 0, 200],
            &[0x98, 200],
            &[0x99, 0, 200],
            &[0x9a, 0, 0, 0, 200],
        ] {
            let bytes = [head, &long, b"rest"].concat();
            assert_eq!(packet(&bytes), Some((6, &long[..], &b"rest"[..])), "{head:?}");
            for end in 0..bytes.len() - 4 {
                assert_eq!(packet(&bytes[..end]), None, "{head:?}, cut at {end}");
            }
        }
        for head in [&[0x9b][..], &[0xc6, 224], &[0x40, 0], &[0xc6, 255, 255, 255, 255, 255]] {
            assert_eq!(packet(&[head, &long].concat()), None, "{head:?}");
        }
    }
}
