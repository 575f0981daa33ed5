//! From a name to a connection that is logged in, within the time allowed; and what to say if it does not come to that.

use std::borrow::Cow;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use russh::client::{self, Config, Handle, Msg};
use russh::keys::Algorithm;
use russh::{Channel, ChannelOpenFailure, Preferred, cipher};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

use super::trust::{Parting, Trouble, Trust, last_words};
use super::{KEEPALIVE, KEEPALIVES_UNANSWERED, SCRIPTS_AT_ONCE, STUCK_WRITE, Target, auth};
use crate::error::{Error, Kind, Result};
use crate::known_hosts::KnownHosts;

/// sshd turns away some of many that come at once (MaxStartups): so often it is asked in all.
const ATTEMPTS: u32 = 3;
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// How long to wait for a session that sshd still counts, though we saw its end.
const SESSION_WAIT: Duration = Duration::from_secs(5);

/// A connection that is logged in.
pub(super) struct Connection {
    pub handle: Handle<Trust>,
    slots: Arc<Semaphore>,
    parting: Parting,
}

/// How far we got, for saying what the time ran out on.
#[derive(Clone, Copy)]
enum Stage {
    Name,
    Tcp,
    Greeting,
    Login,
}

pub(super) async fn connect(target: &Target) -> Result<Connection> {
    let mut stage = Stage::Name;
    let result = timeout(target.options.timeout, attempt(target, &mut stage)).await;
    result.unwrap_or_else(|_| Err(stage.timed_out(target)))
}

async fn attempt(target: &Target, stage: &mut Stage) -> Result<Connection> {
    let key = target.ssh.key.as_deref().map(|path| auth::given(path, &target.operator)).transpose()?;
    let known = KnownHosts::load(target.ssh.known_hosts.as_deref(), target.operator.home.as_deref())?;
    let parting = Parting::default();
    let trust = Trust {
        name: target.name.clone(),
        host: target.ssh.host.clone(),
        port: target.ssh.port,
        known: Arc::new(known),
        accept_new: target.options.accept_new_host_keys,
        parting: parting.clone(),
    };
    let mut handle = greet(target, trust, stage).await?;
    *stage = Stage::Login;
    auth::login(&mut handle, target, key, &parting).await?;
    Ok(Connection { handle, slots: Arc::new(Semaphore::new(SCRIPTS_AT_ONCE)), parting })
}

/// Connects as far as the host key, and again if the server was merely too busy.
async fn greet(target: &Target, trust: Trust, stage: &mut Stage) -> Result<Handle<Trust>> {
    let ssh = &target.ssh;
    let config = Arc::new(config(trust.known.algorithms(&ssh.host, ssh.port)));
    let mut wait = FIRST_WAIT;
    for left in (0..ATTEMPTS).rev() {
        let socket = dial(target, stage).await?;
        *stage = Stage::Greeting;
        match client::connect_stream(config.clone(), socket, trust.clone()).await {
            Ok(handle) => return Ok(handle),
            Err(Trouble::Ssh(error)) if left > 0 && may_pass(&error) => {
                sleep(wait + wait.mul_f64(jitter())).await;
                wait *= 2;
            }
            Err(Trouble::Refused(error)) => return Err(*error),
            Err(Trouble::Ssh(error)) => return Err(no_greeting(target, &error, &trust.parting)),
        }
    }
    unreachable!("the last attempt returns");
}

async fn dial(target: &Target, stage: &mut Stage) -> Result<TcpStream> {
    *stage = Stage::Name;
    let (host, name) = (target.ssh.host.as_str(), &target.name);
    let found = tokio::net::lookup_host((host, target.ssh.port)).await;
    let addresses: Vec<_> = found.map(Iterator::collect).map_err(|error| {
        Error::new(Kind::Unreachable, format!("there is no address for {host}"))
            .because(error.to_string())
            .hint(format!("correct the host of {name} in the inventory, or give its address"))
    })?;
    *stage = Stage::Tcp;
    let socket = TcpStream::connect(&addresses[..]).await.map_err(|error| unreachable(target, &error))?;
    // Nagle's algorithm would add the other side's delayed acknowledgement to every request.
    socket.set_nodelay(true).map_err(|error| unreachable(target, &error))?;
    Ok(socket)
}

fn config(known: Vec<Algorithm>) -> Config {
    Config {
        window_size: 16 << 20,
        keepalive_interval: Some(KEEPALIVE),
        keepalive_max: KEEPALIVES_UNANSWERED,
        // Answered questions count as activity, so this ends only what cannot ask: a write that is stuck, and
        // a handshake that was given up while the server was silent.
        inactivity_timeout: Some(STUCK_WRITE),
        preferred: Preferred {
            key: Cow::Owned(host_key_algorithms(&known)),
            // Every processor that runs a cluster has instructions for AES: a third faster than ChaCha20.
            cipher: Cow::Borrowed(&[
                cipher::AES_128_GCM,
                cipher::AES_256_GCM,
                cipher::CHACHA20_POLY1305,
                cipher::AES_256_CTR,
            ]),
            ..Preferred::DEFAULT
        },
        ..Config::default()
    }
}

/// All that russh can, those of known keys first, without RSA over SHA-1.
fn host_key_algorithms(known: &[Algorithm]) -> Vec<Algorithm> {
    let is_known = |one: &Algorithm| {
        known.iter().any(|known| {
            known == one || matches!((known, one), (Algorithm::Rsa { .. }, Algorithm::Rsa { .. }))
        })
    };
    let mut all = Preferred::DEFAULT.key.into_owned();
    all.retain(|one| *one != Algorithm::Rsa { hash: None });
    all.sort_by_key(|one| !is_known(one));
    all
}

/// Nothing was asked of the server yet, so it may be asked again.
fn may_pass(error: &russh::Error) -> bool {
    match error {
        russh::Error::Disconnect | russh::Error::HUP => true,
        russh::Error::IO(error) => matches!(
            error.kind(),
            ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe
        ),
        _ => false,
    }
}

/// Between 0 and 1, so that those who were turned away together do not come back together.
fn jitter() -> f64 {
    RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64
}

fn unreachable(target: &Target, error: &std::io::Error) -> Error {
    let address = target.address();
    let what = match error.kind() {
        ErrorKind::ConnectionRefused => format!("{address} refuses the connection"),
        _ => format!("cannot connect to {address}"),
    };
    Error::new(Kind::Unreachable, what).because(error.to_string()).hint(format!(
        "is it up, and does sshd listen on port {}? {}",
        target.ssh.port,
        target.by_hand()
    ))
}

fn no_greeting(target: &Target, error: &russh::Error, parting: &Parting) -> Error {
    let address = target.address();
    let (what, hint) = match may_pass(error) {
        true => (
            format!("{address} closes the connection before it says who it is"),
            "does its sshd have too many visitors (MaxStartups), or is this address banned for a while?",
        ),
        false => (format!("{address} accepts the connection, but does not agree on SSH"), "compare with:"),
    };
    let told = Error::new(Kind::Unreachable, what).because(error.to_string());
    let told = last_words(parting).into_iter().fold(told, |told, why| told.because(why));
    told.hint(format!("{hint} {}", target.by_hand()))
}

impl Stage {
    fn timed_out(self, target: &Target) -> Error {
        let Target { name, ssh, .. } = target;
        let (address, by_hand) = (target.address(), target.by_hand());
        let (during, hint) = match self {
            Stage::Name => (
                format!("while looking for the address of {}", ssh.host),
                format!("does this machine reach its name server? or give {name}'s address as its host"),
            ),
            Stage::Tcp => (
                format!("while connecting to {address}: nothing answers"),
                format!("is it up, and does a firewall let port {} through? {by_hand}", ssh.port),
            ),
            Stage::Greeting => (
                format!("connected to {address}, but it does not answer as an SSH server"),
                format!("is it overloaded, or is that port not sshd's? {by_hand}"),
            ),
            Stage::Login => (
                format!("while logging in to {address} as {}", ssh.user),
                format!("does your ssh-agent wait for you, or its sshd for a name server? {by_hand}"),
            ),
        };
        let after = target.options.timeout.as_secs_f64();
        Error::new(Kind::Unreachable, format!("timed out after {after} s")).because(during).hint(hint)
    }
}

impl Target {
    pub(super) fn address(&self) -> String {
        match self.ssh.host.contains(':') {
            true => format!("[{}]:{}", self.ssh.host, self.ssh.port),
            false => format!("{}:{}", self.ssh.host, self.ssh.port),
        }
    }

    /// The command that does the same.
    pub(super) fn by_hand(&self) -> String {
        let port = if self.ssh.port == 22 { String::new() } else { format!("-p {} ", self.ssh.port) };
        format!("ssh -v {port}{}@{}", self.ssh.user, self.ssh.host)
    }
}

impl Connection {
    /// A channel for one script, and its place among those that may run at once.
    pub(super) async fn session(
        &self,
    ) -> std::result::Result<(Channel<Msg>, OwnedSemaphorePermit), russh::Error> {
        let slot = self.slots.clone().acquire_owned().await.map_err(|_| russh::Error::Disconnect)?;
        let (mut wait, mut waited) = (Duration::from_millis(10), Duration::ZERO);
        loop {
            match self.handle.channel_open_session().await {
                Err(russh::Error::ChannelOpenFailure(ChannelOpenFailure::ConnectFailed))
                    if waited < SESSION_WAIT =>
                {
                    sleep(wait).await;
                    waited += wait;
                    wait *= 2;
                }
                opened => return Ok((opened?, slot)),
            }
        }
    }

    pub(super) fn parting(&self) -> Option<String> {
        last_words(&self.parting)
    }
}

#[cfg(test)]
mod tests {
    use russh::keys::HashAlg;

    use super::*;

    #[test]
    fn the_kinds_of_key_that_are_known_come_first_and_sha1_never() {
        let rsa = |hash| Algorithm::Rsa { hash: Some(hash) };
        let all = host_key_algorithms(&[Algorithm::Rsa { hash: None }]);
        assert_eq!(all[..3], [rsa(HashAlg::Sha512), rsa(HashAlg::Sha256), Algorithm::Ed25519]);
        assert!(!all.contains(&Algorithm::Rsa { hash: None }));
        assert_eq!(host_key_algorithms(&[])[0], Algorithm::Ed25519);
    }
}
