//! Verifies that the machine that answers is the intended one. ironstrap sends nothing to a machine that cannot prove it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use russh::client::{ChannelOpenHandle, DisconnectReason, Handler, Msg, Session};
use russh::keys::ssh_key::encoding as ssh_encoding;
use russh::keys::{Certificate, HashAlg, PublicKey, PublicKeyOrCertificate};
use russh::{Channel, ChannelOpenFailure};

use super::route::{Route, allows};
use crate::error::{Error, Kind};
use crate::known_hosts::{self, KnownHosts, Sighting, Verdict};

/// The host key that was accepted last: its kind and its base64 text.
pub(super) type Shown = Arc<Mutex<Option<String>>>;

/// The reason why the other side, or the protocol, ended the connection. russh passes it only to its `Handler`.
pub(super) type DisconnectMessage = Arc<Mutex<Option<String>>>;

pub(super) fn last_words(parting: &DisconnectMessage) -> Option<String> {
    parting.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// The reason where russh ends the connection because a text is not UTF-8. Before the login, servers show only one text:
/// their banner.
pub(super) const NO_UTF8: &str = "its banner is not UTF-8, and ironstrap's SSH library accepts nothing else";

/// Answers what russh asks during a connection, above all whether to accept the host key.
#[derive(Clone)]
pub(super) struct HostKeyVerifier {
    pub name: String,
    pub route: Arc<Route>,
    pub known: Arc<KnownHosts>,
    pub accept_new: bool,
    pub parting: DisconnectMessage,
    pub shown: Shown,
}

/// The reason why a handshake ended: a refusal by ironstrap, or anything else.
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

impl Handler for HostKeyVerifier {
    type Error = Trouble;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, Trouble> {
        let key = match shown {
            PublicKeyOrCertificate::PublicKey { key, .. } => {
                self.check(key).await?;
                PublicKey::new(key.key_data().clone(), "")
            }
            PublicKeyOrCertificate::Certificate(certificate) => {
                self.certified(certificate).await?;
                PublicKey::new(certificate.public_key().clone(), "")
            }
        };
        let text = key.to_openssh().ok().map(|text| text.trim().to_string());
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = text;
        Ok(true)
    }

    // These handlers cover every kind of channel that a server can open. russh would accept each channel and keep it.

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Trouble> {
        reject(reply).await
    }

    async fn server_channel_open_forwarded_streamlocal(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Trouble> {
        reject(reply).await
    }

    async fn server_channel_open_agent_forward(
        &mut self,
        _: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Trouble> {
        reject(reply).await
    }

    async fn server_channel_open_session(
        &mut self,
        _: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Trouble> {
        reject(reply).await
    }

    async fn server_channel_open_direct_tcpip(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Trouble> {
        reject(reply).await
    }

    async fn server_channel_open_direct_streamlocal(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Trouble> {
        reject(reply).await
    }

    async fn server_channel_open_x11(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Trouble> {
        reject(reply).await
    }

    async fn disconnected(&mut self, reason: DisconnectReason<Trouble>) -> Result<(), Trouble> {
        let (why, result) = match reason {
            DisconnectReason::ReceivedDisconnect(info) if info.message.is_empty() => {
                (format!("{:?}", info.reason_code), Ok(()))
            }
            DisconnectReason::ReceivedDisconnect(info) => (info.message, Ok(())),
            DisconnectReason::Error(Trouble::Ssh(
                error @ russh::Error::SshEncoding(ssh_encoding::Error::CharacterEncoding),
            )) => (NO_UTF8.into(), Err(Trouble::Ssh(error))),
            DisconnectReason::Error(Trouble::Ssh(error)) => (error.to_string(), Err(Trouble::Ssh(error))),
            DisconnectReason::Error(Trouble::Refused(error)) => {
                (error.what.clone(), Err(Trouble::Refused(error)))
            }
        };
        *self.parting.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        result
    }
}

/// Rejects a channel. ironstrap never requests forwarding, so it expects no channel from the server.
async fn reject(reply: ChannelOpenHandle) -> Result<(), Trouble> {
    reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
    Ok(())
}

impl HostKeyVerifier {
    async fn check(&self, key: &PublicKey) -> Result<(), Trouble> {
        let (host, port) = self.route.looked_up();
        if let Some(seen) = self.known.revoked(host, port, &[key.key_data()]) {
            return Err(self.revoked(seen).into());
        }
        if let Some(bits) = rsa_bits(key).filter(|bits| *bits < self.route.narrow.rsa_bits) {
            return Err(self.too_short(key, bits).into());
        }
        if let Some(pinned) = &self.route.pinned {
            let same = key.fingerprint(HashAlg::Sha256).to_string() == *pinned;
            return if same { Ok(()) } else { Err(self.another(key, pinned).into()) };
        }
        match self.known.check(host, port, key) {
            Verdict::Known => Ok(()),
            Verdict::Changed(old) => Err(self.changed(key, &old).into()),
            Verdict::Revoked(seen) => Err(self.revoked(&seen).into()),
            Verdict::Unknown if self.accept_new => self.note(key.clone()).await,
            Verdict::Unknown => Err(self.unknown(key).into()),
        }
    }

    /// Verifies a host certificate by the operator's CAs. If that fails, the key in it counts like any other key. A
    /// certificate of a revoked signer is always refused. If a key is pinned, no CA helps another key.
    async fn certified(&self, certificate: &Certificate) -> Result<(), Trouble> {
        let (host, port) = self.route.looked_up();
        if let Some(seen) = self.known.revoked(host, port, &[certificate.signature_key()]) {
            return Err(self.signed_by_revoked(seen).into());
        }
        let key = PublicKey::new(certificate.public_key().clone(), "");
        if self.route.pinned.is_some() {
            return self.check(&key).await;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let algorithm = certificate.signature().algorithm();
        let allowed = allows(self.route.narrow.authorities.as_ref(), algorithm.as_str());
        let vouched = match allowed {
            true => self.known.vouches(host, port, certificate, now),
            false => {
                Err(format!("your ssh_config allows no signature by {algorithm} (CASignatureAlgorithms)"))
            }
        };
        let Err(why) = vouched else { return self.long_enough(&key) };
        let checked = self.check(&key).await;
        checked.map_err(|trouble| match trouble {
            Trouble::Refused(error) => {
                let told = error.answered(format!("its host certificate is refused: {why}"));
                Trouble::Refused(Box::new(told))
            }
            other => other,
        })
    }

    fn long_enough(&self, key: &PublicKey) -> Result<(), Trouble> {
        match rsa_bits(key).filter(|bits| *bits < self.route.narrow.rsa_bits) {
            Some(bits) => Err(self.too_short(key, bits).into()),
            None => Ok(()),
        }
    }

    fn too_short(&self, key: &PublicKey, bits: usize) -> Error {
        let least = self.route.narrow.rsa_bits;
        Error::new(Kind::Unreachable, format!("the host key of {} is too short", self.route.host))
            .because(format!("now:    {}, {bits} bits", known_hosts::fingerprint(key)))
            .because(format!("your ssh_config sets RequiredRSASize {least}"))
            .because("nothing was sent")
            .hint(format!("give {} a longer host key, or one of another kind", self.name))
    }

    /// Adds a new key to known_hosts. A task of its own does it, because it waits for a lock and a disk.
    async fn note(&self, key: PublicKey) -> Result<(), Trouble> {
        let (known, route) = (self.known.clone(), self.route.clone());
        let noted = tokio::task::spawn_blocking(move || {
            let (host, port) = route.looked_up();
            known.add(host, port, &key)
        })
        .await;
        Ok(noted.map_err(|panic| russh::Error::IO(std::io::Error::other(panic)))??)
    }

    fn unknown(&self, key: &PublicKey) -> Error {
        let (host, port) = (&self.route.host, self.route.port);
        let port = if port == 22 { String::new() } else { format!("-p {port} ") };
        Error::new(Kind::Unreachable, format!("the host key of {host} is not known"))
            .because(format!("now:    {}", known_hosts::fingerprint(key)))
            .because("nothing was sent")
            .hint(format!(
                "if that is its fingerprint, use --accept-new-host-keys, or run: ssh-keyscan {port}{host} >> {}",
                self.known.own_file()
            ))
    }

    fn another(&self, key: &PublicKey, pinned: &str) -> Error {
        Error::new(Kind::Unreachable, format!("the host key of {} is not the one in the inventory", self.route.host))
            .because(format!("pinned: {pinned}"))
            .because(format!("now:    {}", known_hosts::fingerprint(key)))
            .because("nothing was sent")
            .hint(format!(
                "if you reinstalled {}, put the new one into `host-key`; if you did not, suspect an attacker between you \
                 and it",
                self.name
            ))
    }

    fn changed(&self, key: &PublicKey, old: &[Sighting]) -> Error {
        let mut error =
            Error::new(Kind::Unreachable, format!("the host key of {} has changed", self.route.host));
        for old in old {
            error = error.because(format!("known:  {}    {}", old.key, old.shown));
        }
        let (host, port) = self.route.looked_up();
        let name = match known_hosts::name(host, port) {
            name if port == 22 => name,
            name => format!("'{name}'"),
        };
        let file = match old.first().and_then(|old| old.shown.rsplit_once(':')) {
            None | Some(("~/.ssh/known_hosts", _)) => String::new(),
            Some((file, _)) => format!(" -f {file}"),
        };
        error.because(format!("now:    {}", known_hosts::fingerprint(key))).because("nothing was sent").hint(
            format!(
                "if you reinstalled {}: ssh-keygen -R {name}{file}, then again with --accept-new-host-keys; \
                 if you did not, suspect an attacker between you and it",
                self.name
            ),
        )
    }

    fn revoked(&self, seen: &Sighting) -> Error {
        Error::new(Kind::Unreachable, format!("the host key of {} is revoked", self.route.host))
            .because(format!("revoked:  {}    {}", seen.key, seen.shown))
            .because("nothing was sent")
            .hint(format!("give {} a new host key: another party may have a copy of this one", self.name))
    }

    fn signed_by_revoked(&self, seen: &Sighting) -> Error {
        let host = &self.route.host;
        Error::new(Kind::Unreachable, format!("a revoked key signed the host certificate of {host}"))
            .because(format!("revoked:  {}    {}", seen.key, seen.shown))
            .because("nothing was sent")
            .hint(format!(
                "sign the host key of {} with another authority, or remove its certificate",
                self.name
            ))
    }
}

/// Returns the length of an RSA key in bits.
pub(super) fn rsa_bits(key: &PublicKey) -> Option<usize> {
    let number = key.key_data().rsa()?.n().as_positive_bytes()?;
    Some(8 * number.len() - number.first().map_or(0, |byte| byte.leading_zeros() as usize))
}
