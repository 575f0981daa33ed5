//! Whether the machine that answers is the one meant. Nothing is sent to one that cannot prove it.

use std::sync::{Arc, Mutex, PoisonError};

use russh::client::{DisconnectReason, Handler};
use russh::keys::{PublicKey, PublicKeyOrCertificate};

use crate::error::{Error, Kind};
use crate::known_hosts::{self, KnownHosts, Sighting, Verdict};

/// Why the other side, or the protocol, ended the connection. russh tells only its `Handler`.
pub(super) type Parting = Arc<Mutex<Option<String>>>;

pub(super) fn last_words(parting: &Parting) -> Option<String> {
    parting.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// What russh asks on the way.
#[derive(Clone)]
pub(super) struct Trust {
    pub name: String,
    pub host: String,
    pub port: u16,
    pub known: Arc<KnownHosts>,
    pub accept_new: bool,
    pub parting: Parting,
}

/// What ends a handshake: our own refusal, or anything else.
#[derive(Debug)]
pub(super) enum Trouble {
    Refused(Box<Error>),
    Ssh(russh::Error),
}

impl From<russh::Error> for Trouble {
    fn from(error: russh::Error) -> Self {
        Trouble::Ssh(error)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Trouble::Refused(Box::new(error))
    }
}

impl Handler for Trust {
    type Error = Trouble;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, Trouble> {
        match shown {
            PublicKeyOrCertificate::PublicKey { key, .. } => self.check(key).await.map(|()| true),
            // Never asked for, so never a reason to trust.
            PublicKeyOrCertificate::Certificate(_) => Ok(false),
        }
    }

    async fn disconnected(&mut self, reason: DisconnectReason<Trouble>) -> Result<(), Trouble> {
        let (why, result) = match reason {
            DisconnectReason::ReceivedDisconnect(info) if info.message.is_empty() => {
                (format!("{:?}", info.reason_code), Ok(()))
            }
            DisconnectReason::ReceivedDisconnect(info) => (info.message, Ok(())),
            DisconnectReason::Error(Trouble::Ssh(error)) => (error.to_string(), Err(Trouble::Ssh(error))),
            DisconnectReason::Error(Trouble::Refused(error)) => {
                (error.what.clone(), Err(Trouble::Refused(error)))
            }
        };
        *self.parting.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        result
    }
}

impl Trust {
    async fn check(&self, key: &PublicKey) -> Result<(), Trouble> {
        match self.known.check(&self.host, self.port, key) {
            Verdict::Known => Ok(()),
            Verdict::Changed(old) => Err(self.changed(key, &old).into()),
            Verdict::Revoked(seen) => Err(self.revoked(&seen).into()),
            Verdict::Unknown if self.accept_new => self.note(key.clone()).await,
            Verdict::Unknown => Err(self.unknown(key).into()),
        }
    }

    /// Apart, because it waits for a lock and a disk.
    async fn note(&self, key: PublicKey) -> Result<(), Trouble> {
        let (known, host, port) = (self.known.clone(), self.host.clone(), self.port);
        let noted = tokio::task::spawn_blocking(move || known.add(&host, port, &key)).await;
        Ok(noted.map_err(|panic| russh::Error::IO(std::io::Error::other(panic)))??)
    }

    fn unknown(&self, key: &PublicKey) -> Error {
        let port = if self.port == 22 { String::new() } else { format!("-p {} ", self.port) };
        Error::new(Kind::Unreachable, format!("the host key of {} is not known", self.host))
            .because(format!("now:    {}", known_hosts::fingerprint(key)))
            .because("nothing was sent")
            .hint(format!(
                "if that is its fingerprint: --accept-new-host-keys, or ssh-keyscan {port}{} >> {}",
                self.host,
                self.known.own_file()
            ))
    }

    fn changed(&self, key: &PublicKey, old: &[Sighting]) -> Error {
        let mut error =
            Error::new(Kind::Unreachable, format!("the host key of {} is not the one you know", self.host));
        for old in old {
            error = error.because(format!("known:  {}    {}", old.key, old.shown));
        }
        let name = match known_hosts::name(&self.host, self.port) {
            name if self.port == 22 => name,
            name => format!("'{name}'"),
        };
        let file = match old.first().and_then(|old| old.shown.rsplit_once(':')) {
            None | Some(("~/.ssh/known_hosts", _)) => String::new(),
            Some((file, _)) => format!(" -f {file}"),
        };
        error.because(format!("now:    {}", known_hosts::fingerprint(key))).because("nothing was sent").hint(
            format!(
                "if you reinstalled {}: ssh-keygen -R {name}{file}, then again with --accept-new-host-keys; \
                 if you did not, somebody may be between you and it",
                self.name
            ),
        )
    }

    fn revoked(&self, seen: &Sighting) -> Error {
        Error::new(Kind::Unreachable, format!("the host key of {} is revoked", self.host))
            .because(format!("revoked:  {}    {}", seen.key, seen.shown))
            .because("nothing was sent")
            .hint(format!("somebody may hold a copy of that key: give {} a new one", self.name))
    }
}
