//! Makes a connection along a route and logs in, within a time limit. If that fails, it explains why.

use std::convert::Infallible;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::ErrorKind;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use russh::client::{self, Config, Handle, Msg};
use russh::{Channel, ChannelOpenFailure, Preferred};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

use super::auth::{self, Entry, Login};
use super::deadline::PausableTimeout;
use super::dial::{Hop, Program, Stage, dial};
use super::escalation::Escalation;
use super::greeting::NodeLogs;
use super::host_key::{DisconnectMessage, HostKeyVerifier, Shown, Trouble, last_words};
use super::offer::{self, Certificates};
use super::route::{Route, Via};
use super::{Client, KEEPALIVE, KEEPALIVES_UNANSWERED, SCRIPTS_AT_ONCE, STUCK_WRITE};
use crate::error::{Error, Kind, Result};
use crate::known_hosts::{self, KnownHosts};

/// First wait before ironstrap connects again. sshd turns away some of many connections that come at once (MaxStartups).
/// Each wait is twice as long as the one before, for as long as there is time for another try.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Longest wait before ironstrap connects again.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// If connecting and login take longer than this, the connection goes on, and another one may begin.
const LONGEST_HANDSHAKE: Duration = Duration::from_secs(1);
/// How long a living server may take to open a session. ironstrap notices a dead server sooner, and connects again.
const OPENS_WITHIN: Duration = super::longest_silence().saturating_mul(2);
/// How long to wait for a session that sshd still counts, although ironstrap saw its end.
const SESSION_WAIT: Duration = Duration::from_secs(5);

/// A connection that is logged in.
pub(super) struct Connection {
    pub handle: Handle<HostKeyVerifier>,
    pub route: Arc<Route>,
    pub entry: Entry,
    /// The host key that proved the machine's identity.
    pub host_key: Option<String>,
    /// How to become root on the machine, once a script has found it out.
    pub escalation: tokio::sync::Mutex<Option<Escalation>>,
    /// How long each part of connecting took, in order.
    pub took: Vec<(&'static str, Duration)>,
    slots: Arc<Semaphore>,
    parting: DisconnectMessage,
    /// The connection to the jump host. It must not end before this one.
    _via: Option<Arc<Connection>>,
    _program: Option<Program>,
}

/// The host to connect to. `name` is the node, and `whose` names the owner of the password in a question.
pub(super) struct ConnectRequest<'a> {
    pub client: &'a Client,
    pub name: &'a str,
    pub whose: String,
    pub route: Arc<Route>,
    /// The bytes that came before the SSH greeting, or in place of one.
    pub heard: NodeLogs,
}

type Connecting<'a> = Pin<Box<dyn Future<Output = Result<Connection>> + Send + 'a>>;

/// Connects and logs in, through jump hosts if necessary. Each host on the route has its own time limit.
pub(super) fn connect(request: ConnectRequest<'_>) -> Connecting<'_> {
    Box::pin(async move {
        let via = via(&request).await?;
        let place = request.client.handshakes.acquire().await;
        let (deadline, mut stage, since) =
            (PausableTimeout::new(request.client.options.timeout), Stage::Name, Instant::now());
        let mut took: Vec<(&'static str, Duration)> = via.iter().flat_map(|via| via.took.clone()).collect();
        if via.is_some() {
            took = vec![("jump", took.iter().map(|(_, time)| *time).sum())];
        }
        let work = attempt(&request, via, &deadline, &mut stage, (&mut took, since));
        // Handshakes that hang do not block others: each gives up its slot after this time.
        let makes_room = async {
            sleep(LONGEST_HANDSHAKE).await;
            drop(place);
            std::future::pending::<Infallible>().await
        };
        let result = tokio::select! {
            result = deadline.within(work) => result,
            never = makes_room => match never {},
        };
        result.unwrap_or_else(|| Err(stage.timed_out(&request)))
    })
}

/// Returns the connection to the last jump host.
async fn via(request: &ConnectRequest<'_>) -> Result<Option<Arc<Connection>>> {
    let Via::Host(hop) = &request.route.via else { return Ok(None) };
    let connected = request.client.hop(request.name, hop).await;
    connected
        .map(Some)
        .map_err(|error| Error { what: format!("at the jump host {}: {}", hop.shown(), error.what), ..error })
}

async fn attempt(
    request: &ConnectRequest<'_>,
    via: Option<Arc<Connection>>,
    deadline: &PausableTimeout,
    stage: &mut Stage,
    (took, since): (&mut Vec<(&'static str, Duration)>, Instant),
) -> Result<Connection> {
    let ConnectRequest { client, name, whose, route, .. } = request;
    let (host, port) = route.looked_up();
    let home = client.operator.home.as_deref();
    // A file that the inventory names stands alone. ironstrap reports an unsuitable file even if it adds no key to it.
    if let ([file], true) = (&route.known[..], route.known_to_all.is_empty()) {
        known_hosts::check_purpose(file, &known_hosts::shown(file, home))?;
    }
    let known =
        KnownHosts::load(&route.known, &route.known_to_all, home, Some(&known_hosts::name(host, port)))?;
    let known = known.revoking(&route.narrow.revoked, home)?.hashing(route.hashed);
    let (parting, shown) = (DisconnectMessage::default(), Shown::default());
    let verifier = HostKeyVerifier {
        name: name.to_string(),
        route: route.clone(),
        known: Arc::new(known),
        accept_new: client.options.accept_new_host_keys || route.accept_new,
        parting: parting.clone(),
        shown: shown.clone(),
    };
    let (mut handle, program, dialled) = greet(request, via.as_deref(), verifier, stage).await?;
    took.extend([("tcp", dialled.duration_since(since)), ("greeting", dialled.elapsed())]);
    *stage = Stage::Login;
    let since = Instant::now();
    let (handle_of, parting_of, seen) = (&mut handle, &parting, auth::Seen::default());
    let login = Login { handle: handle_of, client, route, name, whose, deadline, parting: parting_of, seen };
    let entry = auth::login(login).await?;
    took.push(("login", since.elapsed()));
    Ok(Connection {
        handle,
        route: route.clone(),
        entry,
        host_key: last_words(&shown),
        escalation: tokio::sync::Mutex::default(),
        took: std::mem::take(took),
        slots: Arc::new(Semaphore::new(SCRIPTS_AT_ONCE)),
        parting,
        _via: via,
        _program: program,
    })
}

/// Connects and checks the host key. It tries again if the server was only too busy. The result also has
/// the time when the transport was open.
async fn greet(
    request: &ConnectRequest<'_>,
    via: Option<&Connection>,
    verifier: HostKeyVerifier,
    stage: &mut Stage,
) -> Result<(Handle<HostKeyVerifier>, Option<Program>, Instant)> {
    let (host, port) = request.route.looked_up();
    let certificates = Certificates::of(&request.route, &verifier.known);
    let algorithms = verifier.known.algorithms(host, port);
    let config = Arc::new(config(offer::preferred(&request.route.narrow, &algorithms, certificates)?));
    let (mut wait, since) = (FIRST_WAIT, Instant::now());
    loop {
        let left = since.elapsed() + wait * 3 < request.client.options.timeout;
        let via = via.map(|via| Hop { handle: &via.handle, route: &via.route });
        let line = dial(&request.route, request.name, via.as_ref(), stage).await?;
        let dialled = Instant::now();
        *stage = Stage::Greeting;
        let stream = request.heard.listen(line.stream);
        let greeted = client::connect_stream(config.clone(), stream, verifier.clone()).await;
        let is_stranger = || request.heard.stranger().is_some();
        match greeted {
            Ok(handle) => return Ok((handle, line.program, dialled)),
            Err(Trouble::Ssh(error))
                if left && line.program.is_none() && may_pass(&error) && !is_stranger() =>
            {
                sleep(wait + wait.mul_f64(jitter())).await;
                wait = LONGEST_WAIT.min(wait * 2);
            }
            Err(Trouble::Refused(error)) => return Err(*error),
            Err(Trouble::Ssh(error)) => {
                return Err(no_greeting(request, &error, &verifier.parting, line.program).await);
            }
        }
    }
}

fn config(preferred: Preferred) -> Config {
    Config {
        window_size: 16 << 20,
        keepalive_interval: Some(KEEPALIVE),
        keepalive_max: KEEPALIVES_UNANSWERED,
        // Keepalive replies count as activity. The limit therefore ends only what cannot send keepalives: a stuck write,
        // and an abandoned handshake with a silent server.
        inactivity_timeout: Some(STUCK_WRITE),
        preferred,
        ..Config::default()
    }
}

/// Whether another try may succeed. ironstrap has requested nothing from the server yet, so it may try again.
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

/// A random number between 0 and 1. It spreads the retries of clients that sshd turned away together.
fn jitter() -> f64 {
    RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64
}

async fn no_greeting(
    request: &ConnectRequest<'_>,
    error: &russh::Error,
    parting: &DisconnectMessage,
    program: Option<Program>,
) -> Error {
    let (address, by_hand) = (request.route.address(), request.route.by_hand());
    let first_line = request.heard.first_line();
    if let Some(program) = program {
        let told =
            Error::new(Kind::Unreachable, "the ProxyCommand of your ssh_config does not reach an SSH server");
        let told = program.words().await.into_iter().chain(first_line).fold(told, Error::quoting);
        return told.quoting(error.to_string()).hint(format!("compare with: {by_hand}"));
    }
    if let Some(line) = request.heard.stranger() {
        return another_server(request, &line);
    }
    let (what, hint) = match may_pass(error) {
        true => (
            format!("{address} closes the connection before the SSH handshake"),
            "check MaxStartups in its sshd_config, and whether it has banned your address; compare with:",
        ),
        false => (format!("{address} accepts the connection, but the SSH handshake fails"), "compare with:"),
    };
    let told = Error::new(Kind::Unreachable, what);
    let told = first_line.into_iter().fold(told, Error::quoting).quoting(error.to_string());
    let told = last_words(parting).into_iter().fold(told, |told, why| told.quoting(why));
    told.hint(format!("{hint} {by_hand}"))
}

/// The error for a server that does not speak SSH. `line`: the first line of its answer.
fn another_server(request: &ConnectRequest, line: &str) -> Error {
    let (address, by_hand) = (request.route.address(), request.route.by_hand());
    Error::new(Kind::Unreachable, format!("{address} does not answer as an SSH server"))
        .because("its answer begins:")
        .quoting(line)
        .hint(format!(
            "check the port {} of {}; compare with: {by_hand}",
            request.route.port, request.route.host
        ))
}

impl Stage {
    fn timed_out(self, request: &ConnectRequest) -> Error {
        let ConnectRequest { name, route, client, heard, .. } = request;
        if let (Stage::Greeting, Some(line)) = (self, heard.stranger()) {
            return another_server(request, &line);
        }
        let (address, by_hand) = (route.address(), route.by_hand());
        let (during, hint) = match self {
            Stage::Name => (
                format!("while resolving the name {}", route.host),
                format!(
                    "check that this machine reaches its name server, or give {name} an IP address \
                         in the inventory"
                ),
            ),
            Stage::Tcp => (
                format!("while connecting to {address}: no answer"),
                format!(
                    "check that the machine is up and that no firewall blocks port {}; compare with: {by_hand}",
                    route.port
                ),
            ),
            Stage::Greeting => (
                format!("connected to {address}, but it does not answer as an SSH server"),
                format!(
                    "check that sshd listens on that port and that the machine is not overloaded; \
                         compare with: {by_hand}"
                ),
            ),
            Stage::Login => (
                format!("while logging in to {address} as {}", route.user),
                format!(
                    "check whether your ssh-agent waits for you, or its sshd for a name server; \
                         compare with: {by_hand}"
                ),
            ),
        };
        let after = client.options.timeout.as_secs_f64();
        Error::new(Kind::Unreachable, format!("timed out after {after} s")).because(during).hint(hint)
    }
}

impl Connection {
    /// Opens a channel for one script. It also returns the permit, which limits the scripts that run at once.
    pub(super) async fn session(
        &self,
    ) -> std::result::Result<(Channel<Msg>, OwnedSemaphorePermit), russh::Error> {
        let slot = self.slots.clone().acquire_owned().await.map_err(|_| russh::Error::Disconnect)?;
        let (mut wait, mut waited) = (Duration::from_millis(10), Duration::ZERO);
        loop {
            let opened = timeout(OPENS_WITHIN, self.handle.channel_open_session()).await;
            match opened.unwrap_or(Err(russh::Error::ConnectionTimeout)) {
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
