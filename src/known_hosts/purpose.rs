//! Checks whether a file contains known host keys. ironstrap adds lines only to such a file: a line in
//! `authorized_keys` could let somebody log in.

use std::fs::{File, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::error::{Error, Kind, Result};

/// Options without a value that begin a line of `authorized_keys` (sshd(8)). They are not host names there.
const OPTIONS: [&str; 15] = [
    "restrict",
    "cert-authority",
    "verify-required",
    "no-touch-required",
    "agent-forwarding",
    "port-forwarding",
    "pty",
    "user-rc",
    "x11-forwarding",
    "no-agent-forwarding",
    "no-port-forwarding",
    "no-pty",
    "no-user-rc",
    "no-x11-forwarding",
    "touch-required",
];

/// Options of `authorized_keys` with a value, and options of `allowed_signers` (ssh-keygen(1)).
const VALUED: [&str; 11] = [
    "command",
    "environment",
    "expiry-time",
    "from",
    "permitlisten",
    "permitopen",
    "principals",
    "tunnel",
    "namespaces",
    "valid-after",
    "valid-before",
];

/// Checks a file that an inventory names. Fails wherever a connection would. `shown`: the file as a user writes it.
pub fn check_named(path: &Path, shown: &str) -> Result<()> {
    check(path, shown)?;
    super::read(path, shown, Some("")).map(drop)
}

/// Fails if the file exists and does not contain known host keys. `shown`: the file as a user writes it.
pub fn check(path: &Path, shown: &str) -> Result<()> {
    // If the file exists but has another error, reading it later reports that.
    let Ok(found) = std::fs::metadata(path) else { return Ok(()) };
    check_kind(&found).map_err(|why| refused(shown, &why))?;
    match std::fs::read(path) {
        Ok(bytes) if found.is_file() => check_text(&bytes, shown).map_err(|why| refused(shown, &why)),
        _ => Ok(()),
    }
}

/// Checks a file that is open and locked, like `check`.
pub(super) fn check_open(file: &mut File, shown: &str) -> std::result::Result<(), String> {
    let found = file.metadata().map_err(|error| error.to_string())?;
    check_kind(&found)?;
    if !found.is_file() {
        return Ok(());
    }
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(file, &mut bytes).map_err(|error| error.to_string())?;
    check_text(&bytes, shown)
}

fn refused(shown: &str, why: &str) -> Error {
    Error::new(Kind::Local, format!("{shown} is not a file of known host keys"))
        .because(why)
        .because("nothing was written to it")
        .hint("correct that line, or name another file as `known-hosts` in the inventory; it need not exist yet")
}

fn check_kind(found: &Metadata) -> std::result::Result<(), String> {
    let kind = found.file_type();
    let me = rustix::process::geteuid().as_raw();
    match found.uid() {
        // Some users set /dev/null as their file.
        _ if !kind.is_file() && !kind.is_char_device() => Err("it is not a file".into()),
        owner if owner != me && owner != 0 => Err(format!("it belongs to another user (uid {owner})")),
        _ => Ok(()),
    }
}

/// Refuses only text that shows another purpose. OpenSSH skips a line that it cannot read, and so does ironstrap.
fn check_text(bytes: &[u8], shown: &str) -> std::result::Result<(), String> {
    if bytes.contains(&0) {
        return Err(format!("{shown} is not a text file"));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let (mut odd, mut any) = (None, false);
    for (at, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        // Comments may have any encoding.
        let line = String::from_utf8_lossy(line);
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match words.as_slice() {
            [] => {}
            [first, ..] if first.starts_with('#') => {}
            words if is_another(words) => {
                return Err(format!("{shown}:{} is not a known_hosts line", at + 1));
            }
            words if is_known_host(words) => any = true,
            _ => odd = odd.or(Some(at + 1)),
        }
    }
    match odd {
        Some(line) if !any => {
            Err(format!("{shown}:{line} is not a known_hosts line, and neither is any other line"))
        }
        _ => Ok(()),
    }
}

/// Whether the line begins like one of `authorized_keys` or `allowed_signers`, or like a key file.
fn is_another(words: &[&str]) -> bool {
    let second = words.get(1).copied().unwrap_or_default();
    let is_key = |word: &str| word.starts_with("AAAA");
    let is_header = words[0].starts_with("----") || words[0].starts_with("PuTTY-User-Key-File");
    is_header || is_kind(words[0]) && is_key(second) || is_options(words[0]) || has_value(second)
}

/// Whether the whole word is a list of options of `authorized_keys`. sshd accepts no line with other words in that
/// place. A value is in quotes, and can contain spaces and commas.
fn is_options(word: &str) -> bool {
    let all = |word: &str| word.split(',').all(|option| OPTIONS.contains(&option.to_lowercase().as_str()));
    has_value(word) || all(word)
}

fn has_value(word: &str) -> bool {
    let names = word.split_once("=\"").map(|(names, _)| names.rsplit(',').next().unwrap_or_default());
    names.is_some_and(|name| VALUED.contains(&name.to_lowercase().as_str()))
}

/// Whether the line looks as sshd(8) describes it ("SSH_KNOWN_HOSTS FILE FORMAT"), even if its end is missing.
fn is_known_host(words: &[&str]) -> bool {
    // Unknown marks of later versions count as marks, too.
    let words = if words[0].starts_with('@') { &words[1..] } else { words };
    let is_number = |word: &str| word.chars().all(|c| c.is_ascii_digit());
    match words {
        // Version 1 of the protocol had numbers: bits, exponent, modulus.
        [_, kind, key, ..] => is_kind(kind) || has_kind(key, kind) || is_number(kind) && is_number(key),
        [_, kind] => is_kind(kind),
        _ => false,
    }
}

/// Whether this looks like the name of a kind of key. ironstrap does not know all kinds.
fn is_kind(word: &str) -> bool {
    ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-", "webauthn-sk-", "rsa-sha2-"]
        .iter()
        .any(|kind| word.starts_with(kind))
}

/// Whether the key itself names this kind (RFC 4253, 6.6). ironstrap need not know the kind.
fn has_kind(key: &str, kind: &str) -> bool {
    let Ok(bytes) = STANDARD.decode(key) else { return false };
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else { return false };
    let length = u32::from_be_bytes(*length) as usize;
    !kind.is_empty() && rest.get(..length).is_some_and(|said| said == kind.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const KEY: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIGPKSUTyz1HwHReFVvD5obVsALAgJRNarH4TRpNePnAS";

    fn said(text: impl AsRef<[u8]>) -> Option<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("known");
        fs::write(&path, text).unwrap();
        check(&path, "~/known").err().map(|error| error.cause.join("; "))
    }

    #[test]
    fn known_hosts_files_of_openssh_are_accepted() {
        let unknown = STANDARD.encode([&[0, 0, 0, 9][..], b"ssh-pq-99", b"\0\0\0\x01x"].concat());
        for text in [
            String::new(),
            "# a comment\n\n   \n".into(),
            format!("m1,198.18.0.11 ssh-ed25519 {KEY} a comment\n"),
            format!("[m1]:2222 ssh-ed25519 {KEY}\r\n*.example.com,!x.example.com ssh-ed25519 {KEY}"),
            format!("|1|F1E1KeoE/eEWhi10WpGv4OdiO6Y=|3988QV0VE8wmZL7suNrYQLITLCg= ssh-ed25519 {KEY}\n"),
            format!("@cert-authority * ssh-ed25519 {KEY}\n@revoked * ssh-ed25519 {KEY}\n"),
            format!("fe80::1%eth0 ssh-pq-99 {unknown}\n@later m1 ssh-pq-99 {unknown}\n"),
            "m1 1024 35 1234567890\n".into(),
            format!("my+alias,aws/prod-1,vm#1 ssh-ed25519 {KEY}\nroot@web1 ssh-ed25519 {KEY}\n"),
            format!("\u{feff}m1 ssh-ed25519 {KEY}\n"),
            format!("m1 ssh-ed25519 {KEY}\nm2\nm3 ssh-rsa\nm4 ssh-rsa {KEY}\nm5 ssh-ed25519 AAAA"),
            "m1 ssh-ed25519 AAAA\n".into(),
            format!("restrict.example ssh-ed25519 {KEY}\nssh-gateway ssh-ed25519 {KEY}\n"),
        ] {
            assert_eq!(said(&text), None, "{text}");
        }
        let latin = [b"# Schl\xfcssel\nm1 ssh-ed25519 ", KEY.as_bytes(), b" B\xfcro\n"].concat();
        assert_eq!(said(latin), None);
        assert_eq!(check("/nowhere/at/all".as_ref(), "x"), Ok(()));
        assert_eq!(check("/dev/null".as_ref(), "x"), Ok(()));
    }

    #[test]
    fn other_files_are_refused_with_the_line_number() {
        for (text, line) in [
            (format!("ssh-ed25519 {KEY} me@laptop\n"), 1),
            (format!("# keys\n\nssh-ed25519 {KEY}\n"), 3),
            (format!("restrict ssh-ed25519 {KEY} me\n"), 1),
            (format!("no-pty,no-X11-forwarding ssh-ed25519 {KEY}\n"), 1),
            (format!("command=\"x\" ssh-ed25519 {KEY}\n"), 1),
            (format!("\u{feff}ssh-ed25519 {KEY}\n"), 1),
            (format!("m1 ssh-ed25519 {KEY}\nfrom=\"10.0.0.1\",pty ssh-ed25519 {KEY}\n"), 2),
            (format!("m1 ssh-ed25519 {KEY}\npty,command=\"a b\" ssh-ed25519 {KEY}\n"), 2),
            (format!("m1 ssh-ed25519 {KEY}\nssh-rsa {KEY} me\n"), 2),
            (format!("me@example.com namespaces=\"git\" ssh-ed25519 {KEY}\n"), 1),
            ("127.0.0.1 localhost\n".into(), 1),
            ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl\n".into(), 1),
            ("Host m1\n  User me\n".into(), 1),
        ] {
            let said = said(&text).unwrap_or_else(|| panic!("{text}"));
            assert!(said.starts_with(&format!("~/known:{line} is not a known_hosts line")), "{said}");
        }
        assert!(said(b"\x7fELF\x02\xff\x00\x00").is_some());
        assert!(said(format!("m1 ssh-ed25519 {KEY}\n\0").as_bytes()).is_some());
        let dir = tempfile::tempdir().unwrap();
        assert!(check(dir.path(), "x").unwrap_err().cause.contains(&"it is not a file".to_string()));
    }

    #[test]
    fn a_file_of_another_user_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("known");
        fs::write(&path, "").unwrap();
        // Only root can change the owner of a file. For other users, this test cannot make such a file.
        if std::os::unix::fs::chown(&path, Some(12345), None).is_ok() {
            let error = check(&path, "x").unwrap_err();
            assert!(error.cause[0].contains("another user (uid 12345)"), "{error}");
        }
    }
}
