//! The settings by which ssh_config allows less than ironstrap would. ironstrap obeys them, or does not connect to
//! the machine. It never accepts what `ssh` would refuse.

use std::net::IpAddr;
use std::path::PathBuf;

use super::said::{Fill, Said};
use crate::error::{Error, Kind, Result};

/// The limits that ssh_config sets. `None` means that ssh_config sets nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Narrow {
    pub kex: Option<Allowed>,
    pub ciphers: Option<Allowed>,
    pub macs: Option<Allowed>,
    /// Algorithms of host keys and of host certificates.
    pub host_keys: Option<Allowed>,
    /// Algorithms by which a CA signs host certificates.
    pub authorities: Option<Allowed>,
    /// Algorithms by which a user key signs.
    pub user_keys: Option<Allowed>,
    /// Minimum size of an RSA key, in bits.
    pub rsa_bits: usize,
    /// Files with keys that no host may have.
    pub revoked: Vec<PathBuf>,
    pub forbidden: Forbidden,
    pub family: Option<Family>,
    /// The source address or interface for connections, as in ssh_config: `BindAddress 198.18.0.1`.
    pub bound: Option<String>,
    /// ironstrap may not ask for a passphrase or a password.
    pub batch: bool,
}

/// Login methods that ssh_config forbids, each with the setting that forbids it: `PasswordAuthentication is no`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Forbidden {
    pub keys: Option<String>,
    pub password: Option<String>,
    /// The method keyboard-interactive.
    pub questions: Option<String>,
}

/// The only address family that ironstrap may connect to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    fn read(said: &Said) -> Option<Family> {
        match said.word("addressfamily")? {
            "inet" => Some(Family::V4),
            "inet6" => Some(Family::V6),
            _ => None,
        }
    }

    /// The name of the family in ssh_config.
    pub fn word(self) -> &'static str {
        match self {
            Family::V4 => "inet",
            Family::V6 => "inet6",
        }
    }

    pub fn has(self, address: IpAddr) -> bool {
        address.is_ipv4() == (self == Family::V4)
    }
}

impl Forbidden {
    fn read(said: &Said) -> Result<Forbidden> {
        let preferred = said.word("preferredauthentications");
        let batch = is_batch(said).then(|| "BatchMode is yes".to_string());
        let reason = |key: &str, word: &str, method: &str| {
            let listed = |list: &&str| list.split(',').all(|name| name.trim() != method);
            let off = said.word(key).filter(|value| ["no", "false"].contains(value));
            off.map(|_| format!("{word} is no"))
                .or_else(|| Some(format!("PreferredAuthentications is {}", preferred.filter(listed)?)))
        };
        let all = [
            reason("pubkeyauthentication", "PubkeyAuthentication", "publickey"),
            reason("passwordauthentication", "PasswordAuthentication", "password"),
            reason("kbdinteractiveauthentication", "KbdInteractiveAuthentication", "keyboard-interactive"),
        ];
        let [keys, password, questions] = all;
        let all = [keys, password.or(batch.clone()), questions.or(batch)];
        if all.iter().all(Option::is_some) {
            let none =
                Error::new(Kind::Local, "your ssh_config allows no login method that ironstrap supports");
            let mut said: Vec<String> = all.into_iter().flatten().collect();
            said.dedup();
            let told = said.into_iter().fold(none, |told, why| told.answered(why));
            return Err(told
                .because("nothing was sent")
                .hint("allow publickey, password or keyboard-interactive for this host in your ssh_config"));
        }
        let [keys, password, questions] = all;
        Ok(Forbidden { keys, password, questions })
    }
}

fn is_batch(said: &Said) -> bool {
    said.word("batchmode").is_some_and(|value| ["yes", "true"].contains(&value))
}

/// A list of algorithm names, and the keyword of ssh_config that sets it.
#[derive(Clone, Debug, PartialEq)]
pub struct Allowed {
    pub word: &'static str,
    names: Vec<String>,
}

impl Allowed {
    pub fn has(&self, name: &str) -> bool {
        self.names.iter().any(|one| one == name)
    }

    /// The error if ironstrap supports no algorithm of the list.
    pub fn leaves_nothing(&self) -> Error {
        Error::new(
            Kind::Local,
            format!("your ssh_config sets {} to nothing that ironstrap supports", self.word),
        )
        .because(format!("it allows: {}", self.names.join(", ")))
        .because("nothing was sent")
        .hint(format!("allow more {} for this host; `ssh -Q` lists what ssh supports", self.word))
    }
}

/// Whether ssh_config allows the algorithm of this name. Without a list it allows all. russh and ssh_config use the same
/// names.
pub fn allows(list: Option<&Allowed>, name: &str) -> bool {
    list.is_none_or(|list| list.has(name))
}

impl Narrow {
    pub(super) fn read(said: &Said, fill: &Fill) -> Result<Narrow> {
        let value =
            |key: &str| said.word(key).filter(|value| !["none", "no", "false", "ask"].contains(value));
        for (key, word) in
            [("knownhostscommand", "KnownHostsCommand"), ("verifyhostkeydns", "VerifyHostKeyDNS")]
        {
            if value(key).is_some() {
                return Err(unsupported(word));
            }
        }
        let list = |key: &str, word| {
            let names = said.word(key)?.split(',').map(|name| name.trim().to_string()).collect();
            Some(Allowed { word, names })
        };
        Ok(Narrow {
            kex: list("kexalgorithms", "KexAlgorithms"),
            ciphers: list("ciphers", "Ciphers"),
            macs: list("macs", "MACs"),
            host_keys: list("hostkeyalgorithms", "HostKeyAlgorithms"),
            authorities: list("casignaturealgorithms", "CASignatureAlgorithms"),
            user_keys: list("pubkeyacceptedalgorithms", "PubkeyAcceptedAlgorithms")
                .or_else(|| list("pubkeyacceptedkeytypes", "PubkeyAcceptedKeyTypes")),
            rsa_bits: said.word("requiredrsasize").and_then(|bits| bits.parse().ok()).unwrap_or(0),
            revoked: said.files("revokedhostkeys", fill),
            forbidden: Forbidden::read(said)?,
            family: Family::read(said),
            bound: [("bindaddress", "BindAddress"), ("bindinterface", "BindInterface")]
                .into_iter()
                .find_map(|(key, word)| Some(format!("{word} {}", value(key)?))),
            batch: is_batch(said),
        })
    }
}

/// The error for a setting that ironstrap does not support. It leaves out the value, which may be a command with a
/// password.
fn unsupported(word: &str) -> Error {
    Error::new(Kind::Local, format!("your ssh_config sets {word}, which ironstrap does not support"))
        .because("nothing was sent")
        .hint(format!(
            "set {word} to no or none for this host, and put its host key into known_hosts, or into `host-key` of the \
             inventory"
        ))
}
