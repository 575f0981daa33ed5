//! The host keys that the operator knows, in OpenSSH's files. This module reads, matches and adds them. The module
//! `ssh` decides what to do about an unknown key.
//!
//! russh has a matcher of its own. That one accepts revoked keys, and takes a known host with another key for a new host.

mod purpose;
mod revoked;

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use russh::keys::{Algorithm, Certificate, HashAlg, PublicKey};
use sha1::Sha1;

use crate::error::{Error, Kind, Result};
pub use purpose::{check as check_purpose, check_named};

/// Host keys in the operator's files.
#[derive(Clone, Debug)]
pub struct KnownHosts {
    lines: Vec<Line>,
    /// Keys that no host may have.
    revoked: Vec<(PublicKey, Sighting)>,
    /// Whether to store new keys without the host's name.
    hashed: bool,
    /// The file for new keys, or `None` if there is no home directory.
    own: Option<PathBuf>,
    own_shown: String,
}

/// The verdict of the files on a host and its key.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    Known,
    /// The host is known, but by these other keys.
    Changed(Vec<Sighting>),
    /// The operator revoked this key.
    Revoked(Sighting),
    Unknown,
}

/// A key, and its place in a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Sighting {
    /// `ED25519 SHA256:…`, with the kind as ssh-keygen names it.
    pub key: String,
    pub file: PathBuf,
    /// The line number, as in an editor.
    pub line: usize,
    /// `~/.ssh/known_hosts:14`
    pub shown: String,
}

#[derive(Clone, Debug)]
struct Line {
    mark: Mark,
    hosts: Hosts,
    key: PublicKey,
    seen: Sighting,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mark {
    None,
    Revoked,
    /// The key signs host certificates.
    Authority,
}

#[derive(Clone, Debug)]
enum Hosts {
    /// Patterns in lower case, separated by commas, with `*`, `?`, and `!` in front.
    Patterns(String),
    Hashed {
        salt: Vec<u8>,
        hash: Vec<u8>,
    },
}

impl KnownHosts {
    /// Reads the files of the operator, and the files for all users of this computer. New keys go to the first of the
    /// operator's files. A missing file knows no host. An unreadable file is an error, or every host in it would look
    /// new. `whose`: keep only the lines about the host of this name. A thousand machines mean a thousand lines, and each
    /// machine would keep them all.
    pub fn load(
        own: &[PathBuf],
        system: &[PathBuf],
        home: Option<&Path>,
        whose: Option<&str>,
    ) -> Result<Self> {
        let own_shown = own.first().map_or("~/.ssh/known_hosts".into(), |file| shown(file, home));
        let mut lines = vec![];
        for file in own.iter().chain(system) {
            lines.extend(read(file, &shown(file, home), whose)?);
        }
        let (own, revoked) = (own.first().cloned(), vec![]);
        Ok(KnownHosts { lines, revoked, hashed: false, own, own_shown })
    }

    /// Also refuses the keys in these files, for all hosts.
    pub fn revoking(mut self, files: &[PathBuf], home: Option<&Path>) -> Result<Self> {
        for file in files {
            self.revoked.extend(revoked::read(file, &shown(file, home))?);
        }
        Ok(self)
    }

    /// Stores new keys with a hash of the host's name, if ssh_config says so.
    pub fn hashing(self, hashed: bool) -> Self {
        KnownHosts { hashed, ..self }
    }

    /// Returns the file for new keys, as a user writes it.
    pub fn own_file(&self) -> &str {
        &self.own_shown
    }

    pub fn check(&self, host: &str, port: u16, key: &PublicKey) -> Verdict {
        if let Some(seen) = self.revoked(host, port, &[key.key_data()]) {
            return Verdict::Revoked(seen.clone());
        }
        let name = name(host, port);
        // A `PublicKey` has a comment, which is not part of the key.
        let same = |line: &&Line| line.key.key_data() == key.key_data();
        let about: Vec<_> = self.lines.iter().filter(|line| line.hosts.matches(&name)).collect();
        let of = |mark: Mark| about.iter().copied().filter(move |line| line.mark == mark);
        match of(Mark::None).any(|line| same(&line)) {
            true => Verdict::Known,
            false if of(Mark::None).next().is_none() => Verdict::Unknown,
            false => Verdict::Changed(of(Mark::None).map(|line| line.seen.clone()).collect()),
        }
    }

    /// Whether a CA may sign certificates of this host. If so, ironstrap may ask the host for its certificate.
    pub fn has_authority(&self, host: &str, port: u16) -> bool {
        self.authorities(host, port).next().is_some()
    }

    fn authorities(&self, host: &str, port: u16) -> impl Iterator<Item = &Line> {
        let name = name(host, port);
        self.lines.iter().filter(move |line| line.mark == Mark::Authority && line.hosts.matches(&name))
    }

    /// Whether one of the host's CAs vouches for the certificate at the time `now`, in seconds since 1970. The error says
    /// why not. The rules are those of sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT", and of OpenSSH's PROTOCOL.certkeys.
    pub fn vouches(
        &self,
        host: &str,
        port: u16,
        certificate: &Certificate,
        now: u64,
    ) -> std::result::Result<(), String> {
        let signer = certificate.signature_key();
        if let Some(seen) = self.revoked(host, port, &[signer, certificate.public_key()]) {
            return Err(format!("one of its keys is revoked in {}", seen.shown));
        }
        let ours: Vec<_> =
            self.authorities(host, port).map(|line| line.key.fingerprint(HashAlg::Sha256)).collect();
        certificate.validate_at(now, &ours).map_err(|_| {
            match ours.contains(&signer.fingerprint(HashAlg::Sha256)) {
                false => format!(
                    "it is signed by {}, which is not one of your authorities",
                    signer.fingerprint(HashAlg::Sha256)
                ),
                true => "it is not valid now, or its signature is wrong".to_string(),
            }
        })?;
        if !certificate.cert_type().is_host() {
            return Err("it is a user certificate, not a host certificate".into());
        }
        if !certificate.critical_options().is_empty() {
            return Err("it has unknown critical options".into());
        }
        let host = host.to_lowercase();
        match certificate.valid_principals().iter().any(|pattern| glob(&pattern.to_lowercase(), &host)) {
            true => Ok(()),
            false if certificate.valid_principals().is_empty() => Err("it names no host".into()),
            false => Err(format!("it is for {}, not for {host}", certificate.valid_principals().join(", "))),
        }
    }

    /// Returns the algorithms of the keys by which a host is known. ironstrap must ask for them first. Otherwise the host
    /// may answer with a key of an unknown kind.
    pub fn algorithms(&self, host: &str, port: u16) -> Vec<Algorithm> {
        let name = name(host, port);
        let about = self.lines.iter().filter(|line| line.mark == Mark::None && line.hosts.matches(&name));
        about.map(|line| line.key.algorithm()).collect()
    }

    /// Appends a new key to the operator's file. The host is known the next time that ironstrap loads the file.
    pub fn add(&self, host: &str, port: u16, key: &PublicKey) -> Result<()> {
        let failed = |why: &dyn fmt::Display| {
            Error::new(Kind::Local, format!("cannot add a host key to {}", self.own_shown))
                .because(why.to_string())
                .hint(
                    "make it a writable file of known host keys, or name another one as \
                     `known-hosts` in the inventory",
                )
        };
        let file = self.own.as_deref().ok_or_else(|| failed(&"there is no home directory"))?;
        let key = PublicKey::new(key.key_data().clone(), "");
        let text = key.to_openssh().map_err(|error| failed(&error))?;
        let name = name(host, port);
        let name = if self.hashed {
            hashed(&name).ok_or_else(|| failed(&"the system provides no random bytes"))?
        } else {
            name
        };
        let line = format!("{name} {}", text.trim_end());
        append(file, &line, &self.own_shown).map_err(|why| failed(&why))
    }
}

/// Returns `ED25519 SHA256:…`, with the kind as ssh-keygen names it.
pub fn fingerprint(key: &PublicKey) -> String {
    let kind = match key.algorithm() {
        Algorithm::Ed25519 => "ED25519".to_string(),
        Algorithm::Ecdsa { .. } => "ECDSA".to_string(),
        Algorithm::Rsa { .. } => "RSA".to_string(),
        Algorithm::SkEd25519 => "ED25519-SK".to_string(),
        Algorithm::SkEcdsaSha2NistP256 => "ECDSA-SK".to_string(),
        other => other.to_string(),
    };
    format!("{kind} {}", key.fingerprint(HashAlg::Sha256))
}

/// Returns `|1|SALT|HASH`, the format of `HashKnownHosts` in ssh_config.
fn hashed(name: &str) -> Option<String> {
    let mut salt = [0; 20];
    getrandom::fill(&mut salt).ok()?;
    let mac = Hmac::<Sha1>::new_from_slice(&salt).ok()?.chain_update(name).finalize().into_bytes();
    Some(format!("|1|{}|{}", STANDARD.encode(salt), STANDARD.encode(mac)))
}

/// Returns the name of a host in these files.
pub fn name(host: &str, port: u16) -> String {
    let host = host.to_lowercase();
    if port == 22 { host } else { format!("[{host}]:{port}") }
}

/// Returns a path as a user writes it.
pub fn shown(path: &Path, home: Option<&Path>) -> String {
    match home.and_then(|home| path.strip_prefix(home).ok()) {
        Some(rest) => format!("~/{}", rest.display()),
        None => path.display().to_string(),
    }
}

fn read(file: &Path, shown: &str, whose: Option<&str>) -> Result<Vec<Line>> {
    let bytes = match std::fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => {
            return Err(Error::new(Kind::Local, format!("cannot read the known host keys in {shown}"))
                .because(error.to_string())
                .hint("make it readable: ironstrap cannot verify host keys without it"));
        }
    };
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.lines().enumerate();
    Ok(lines.filter_map(|(at, line)| parse(line, (file, shown, at + 1), whose)).collect())
}

/// Reads a line. It skips empty lines, comments and broken lines, as OpenSSH does, and lines about other hosts.
fn parse(line: &str, (file, shown, number): (&Path, &str, usize), whose: Option<&str>) -> Option<Line> {
    let mut words = line.split_ascii_whitespace().peekable();
    let mark = match *words.peek()? {
        "@revoked" => Mark::Revoked,
        "@cert-authority" => Mark::Authority,
        word if word.starts_with(['@', '#']) => return None,
        _ => Mark::None,
    };
    if mark != Mark::None {
        words.next();
    }
    let hosts = Hosts::parse(words.next()?)?;
    if whose.is_some_and(|name| !hosts.matches(name)) {
        return None;
    }
    let key = PublicKey::from_openssh(&format!("{} {}", words.next()?, words.next()?)).ok()?;
    let shown = format!("{shown}:{number}");
    let seen = Sighting { key: fingerprint(&key), file: file.into(), line: number, shown };
    Some(Line { mark, hosts, key, seen })
}

impl Hosts {
    fn parse(word: &str) -> Option<Self> {
        let Some(hashed) = word.strip_prefix("|1|") else {
            return Some(Hosts::Patterns(word.to_lowercase()));
        };
        let (salt, hash) = hashed.split_once('|')?;
        Some(Hosts::Hashed { salt: STANDARD.decode(salt).ok()?, hash: STANDARD.decode(hash).ok()? })
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Hosts::Hashed { salt, hash } => Hmac::<Sha1>::new_from_slice(salt)
                .is_ok_and(|mac| mac.chain_update(name).verify_slice(hash).is_ok()),
            Hosts::Patterns(patterns) => {
                let mut any = false;
                for pattern in patterns.split(',') {
                    match pattern.strip_prefix('!') {
                        Some(not) if glob(not, name) => return false,
                        Some(_) => {}
                        None => any |= glob(pattern, name),
                    }
                }
                any
            }
        }
    }
}

/// Matches a pattern: `*` is any run of characters, and `?` is any one. No other character is special, not even brackets.
fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // The place after the last `*`, and how much of the text that `*` has matched.
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                p += 1;
                star = Some((p, t));
            }
            Some(&wanted) if wanted == b'?' || wanted == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((after, eaten)) => {
                    star = Some((after, eaten + 1));
                    p = after;
                    t = eaten + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&rest| rest == b'*')
}

/// Appends a line under a lock. ironstrap connects to many nodes at the same time, and their lines must not mix. A file
/// of another purpose stays as it is.
fn append(path: &Path, line: &str, shown: &str) -> std::result::Result<(), String> {
    let mut file = open_to_append(path).map_err(|error| error.to_string())?;
    purpose::check_open(&mut file, shown)?;
    write_line(&mut file, line).map_err(|error| error.to_string())
}

fn open_to_append(path: &Path) -> std::io::Result<File> {
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
    file.lock()?;
    Ok(file)
}

fn write_line(file: &mut File, line: &str) -> std::io::Result<()> {
    let newline = if ends_mid_line(file)? { "\n" } else { "" };
    file.write_all(format!("{newline}{line}\n").as_bytes())?;
    // Some users set /dev/null as their file. It cannot be synced.
    if file.metadata()?.is_file() { file.sync_all() } else { Ok(()) }
}

fn ends_mid_line(file: &mut File) -> std::io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(false);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

#[cfg(test)]
mod tests;
