//! Keys that a host may not have, whatever other files say: `@revoked` lines of known_hosts, and the file that
//! `RevokedHostKeys` of ssh_config names.

use std::path::Path;

use russh::keys::PublicKey;
use russh::keys::ssh_key::public::KeyData;

use super::{KnownHosts, Mark, Sighting, fingerprint, name};
use crate::error::{Error, Kind, Result};

/// The first bytes of a key revocation list (OpenSSH, PROTOCOL.krl).
const KRL: &[u8] = b"SSHKRL\n\0";

impl KnownHosts {
    /// Returns the line that forbids this host one of these keys.
    pub fn revoked(&self, host: &str, port: u16, keys: &[&KeyData]) -> Option<&Sighting> {
        let mut all = self.all_revoked(host, port);
        all.find(|(key, _)| keys.contains(&key.key_data())).map(|(_, seen)| seen)
    }

    /// Whether any key is forbidden to this host. If so, ironstrap must see the host's certificate, because the
    /// forbidden key can be the one that signed it.
    pub fn has_revoked(&self, host: &str, port: u16) -> bool {
        self.all_revoked(host, port).next().is_some()
    }

    fn all_revoked(&self, host: &str, port: u16) -> impl Iterator<Item = (&PublicKey, &Sighting)> {
        let name = name(host, port);
        let is_about = move |line: &&super::Line| line.mark == Mark::Revoked && line.hosts.matches(&name);
        let marked = self.lines.iter().filter(is_about).map(|line| (&line.key, &line.seen));
        self.revoked.iter().map(|(key, seen)| (key, seen)).chain(marked)
    }
}

/// Reads the keys of a RevokedHostKeys file, one per line. It fails if the file is unreadable: then
/// ironstrap cannot tell a revoked key from others. OpenSSH refuses all hosts in that case, too.
pub(super) fn read(file: &Path, shown: &str) -> Result<Vec<(PublicKey, Sighting)>> {
    let failed = |why: &str, hint: &str| {
        Error::new(Kind::Local, format!("cannot read the revoked host keys in {shown}"))
            .because(why)
            .because("nothing was sent")
            .hint(hint)
    };
    let readable = "your ssh_config names it as RevokedHostKeys: make it readable, or name another file";
    let bytes = std::fs::read(file).map_err(|error| failed(&error.to_string(), readable))?;
    if bytes.starts_with(KRL) {
        let why = "it is a key revocation list (KRL), which ironstrap does not support";
        return Err(failed(
            why,
            "list the revoked public keys in a text file, one per line; ssh reads that, too",
        ));
    }
    let text = String::from_utf8(bytes).map_err(|_| failed("it is not a text file", readable))?;
    let mut keys = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (shown, line_number) = (format!("{shown}:{}", at + 1), at + 1);
        let key = PublicKey::from_openssh(line)
            .map_err(|error| failed(&format!("{shown}: {error}"), "write one public key per line"))?;
        let seen = Sighting { key: fingerprint(&key), file: file.into(), line: line_number, shown };
        keys.push((key, seen));
    }
    Ok(keys)
}
