//! Whether a file is one of known host keys. ironstrap adds lines to such a file, and to no other: a line in
//! `authorized_keys` could let somebody log in.

use std::fs::{File, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::error::{Error, Kind, Result};

/// Words that begin a line of `authorized_keys` (sshd(8)), and are no host there.
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

/// Fails if the file is there and is not one of known host keys. `shown`: the file as a user writes it.
pub fn check(path: &Path, shown: &str) -> Result<()> {
    // Another error than that it is not there is reported where the file is read.
    let Ok(found) = std::fs::metadata(path) else { return Ok(()) };
    check_kind(&found).map_err(|why| refused(shown, &why))?;
    match std::fs::read(path) {
        Ok(bytes) if found.is_file() => check_text(&bytes, shown).map_err(|why| refused(shown, &why)),
        _ => Ok(()),
    }
}

/// The same, of a file that is open and locked.
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
        // /dev/null is a file that some use here.
        _ if !kind.is_file() && !kind.is_char_device() => Err("it is not a file".into()),
        owner if owner != me && owner != 0 => Err(format!("it belongs to another user (uid {owner})")),
        _ => Ok(()),
    }
}

fn check_text(bytes: &[u8], shown: &str) -> std::result::Result<(), String> {
    for (at, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let line = std::str::from_utf8(line).ok().map(str::trim);
        if !line.is_some_and(|line| line.is_empty() || line.starts_with('#') || is_known_host(line)) {
            return Err(format!("{shown}:{} is no line of known host keys", at + 1));
        }
    }
    Ok(())
}

/// Whether it is a line as sshd(8) describes them ("SSH_KNOWN_HOSTS FILE FORMAT"), of any kind of key.
fn is_known_host(line: &str) -> bool {
    let mut words = line.split_ascii_whitespace().peekable();
    // Marks that later versions may bring are marks, too.
    words.next_if(|word| word.starts_with('@'));
    let (Some(hosts), Some(kind), Some(key)) = (words.next(), words.next(), words.next()) else {
        return false;
    };
    let is_number = |word: &str| word.chars().all(|c| c.is_ascii_digit());
    // Version 1 of the protocol had numbers: bits, exponent, modulus.
    is_hosts(hosts) && (has_kind(key, kind) || is_number(kind) && is_number(key))
}

/// Names, addresses and patterns; or a hash of one.
fn is_hosts(word: &str) -> bool {
    let is_hash = |rest: &str| rest.chars().all(|c| c.is_ascii_alphanumeric() || "+/=|".contains(c));
    let is_host = |host: &str| {
        let inner = |c: char| c.is_alphanumeric() || "-_.:%*?![]".contains(c);
        !host.is_empty() && host.chars().all(inner) && !OPTIONS.contains(&host.to_lowercase().as_str())
    };
    match word.strip_prefix('|') {
        Some(rest) => is_hash(rest),
        None => word.split(',').all(|host| host.is_empty() || is_host(host)),
    }
}

/// Whether the key says of itself that it is of this kind, which ironstrap need not know (RFC 4253, 6.6).
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
    fn files_of_openssh_are_fine_whatever_keys_they_have() {
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
        ] {
            assert_eq!(said(&text), None, "{text}");
        }
        assert_eq!(check("/nowhere/at/all".as_ref(), "x"), Ok(()));
        assert_eq!(check("/dev/null".as_ref(), "x"), Ok(()));
    }

    #[test]
    fn files_of_another_purpose_are_refused_with_the_line() {
        for (text, line) in [
            (format!("ssh-ed25519 {KEY} me@laptop\n"), 1),
            (format!("# keys\n\nssh-ed25519 {KEY}\n"), 3),
            (format!("restrict ssh-ed25519 {KEY} me\n"), 1),
            (format!("no-pty,no-X11-forwarding ssh-ed25519 {KEY}\n"), 1),
            (format!("command=\"x\" ssh-ed25519 {KEY}\n"), 1),
            (format!("me@example.com ssh-ed25519 {KEY}\n"), 1),
            (format!("m1 ssh-ed25519 {KEY}\nm2 ssh-rsa {KEY}\n"), 2),
            ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl\n".into(), 1),
            ("Host m1\n  User me\n".into(), 1),
        ] {
            let said = said(&text).unwrap_or_else(|| panic!("{text}"));
            assert!(said.starts_with(&format!("~/known:{line} is no line")), "{said}");
        }
        assert!(said(b"\x7fELF\x02\xff\x00\x00").is_some());
        assert!(said("m1 ssh-ed25519 AAAA\n").is_some());
        let dir = tempfile::tempdir().unwrap();
        assert!(check(dir.path(), "x").unwrap_err().cause.contains(&"it is not a file".to_string()));
    }

    #[test]
    fn a_file_of_another_user_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("known");
        fs::write(&path, "").unwrap();
        // Only root can give a file away; others cannot have one of another user here.
        if std::os::unix::fs::chown(&path, Some(12345), None).is_ok() {
            let error = check(&path, "x").unwrap_err();
            assert!(error.cause[0].contains("another user (uid 12345)"), "{error}");
        }
    }
}
