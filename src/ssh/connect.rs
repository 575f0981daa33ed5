//! From a way to a connection that is logged in, within the time allowed; and what to say if it does not come to that.

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
use super::clock::Clock;
use super::dial::{Program, Stage, Via, dial};
use super::greeting::Heard;
use super::offer::{self, Certificates};
use super::root::Means;
use super::trust::{Parting, Shown, Trouble, Trust, last_words};
use super::way::{Through, Way};
use super::{Client, KEEPALIVE, KEEPALIVES_UNANSWERED, SCRIPTS_AT_ONCE, STUCK_WRITE};
use crate::error::{Error, Kind, Result};
use crate::known_hosts::{self, KnownHosts};

/// sshd turns away some of many that come at once (MaxStartups). It is asked again, each time after twice as long, up
/// to this, for as long as there is time for another try.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// A connection that takes longer than this to open and to log in goes on, and another may begin.
const LONGEST_HANDSHAKE: Duration = Duration::from_secs(1);
/// How long a server that is still there may take to open a session. One that is gone is noticed sooner, and connected to
/// again.
const OPENS_WITHIN: Duration = super::longest_silence().saturating_mul(2);
/// How long to wait for a session that sshd still counts, though we saw its end.
const SESSION_WAIT: Duration = Duration::from_secs(5);

/// A connection that is logged in.
pub(super) struct Connection {
    pub handle: Handle<Trust>,
    pub way: Arc<Way>,
    pub entry: Entry,
    /// By what it proved who it is.
    pub host_key: Option<String>,
    /// How to become root there, once somebody had to find out.
    pub means: tokio::sync::Mutex<Option<Means>>,
    /// How long each part took, in order.
    pub took: Vec<(&'static str, Duration)>,
    slots: Arc<Semaphore>,
    parting: Parting,
    /// What it goes through, and must not end before it.
    _via: Option<Arc<Connection>>,
    _program: Option<Program>,
}

/// The host to connect to: `name` is the node's, and `whose` says whose password a question asks for.
pub(super) struct Visit<'a> {
    pub client: &'a Client,
    pub name: &'a str,
    pub whose: String,
    pub way: Arc<Way>,
    /// What came before a greeting, or in place of one.
    pub heard: Heard,
}

type Connecting<'a> = Pin<Box<dyn Future<Output = Result<Connection>> + Send + 'a>>;

/// Through other hosts where need be, each within a time of its own.
pub(super) fn connect(visit: Visit<'_>) -> Connecting<'_> {
    Box::pin(async move {
        let via = through(&visit).await?;
        let place = visit.client.handshakes.acquire().await;
        let (clock, mut stage, since) =
            (Clock::new(visit.client.options.timeout), Stage::Name, Instant::now());
        let mut took: Vec<(&'static str, Duration)> = via.iter().flat_map(|via| via.took.clone()).collect();
        if via.is_some() {
            took = vec![("jump", took.iter().map(|(_, time)| *time).sum())];
        }
        let work = attempt(&visit, via, &clock, &mut stage, (&mut took, since));
        // However many hang, nobody waits for them.
        let makes_room = async {
            sleep(LONGEST_HANDSHAKE).await;
            drop(place);
            std::future::pending::<Infallible>().await
        };
        let result = tokio::select! {
            result = clock.within(work) => result,
            never = makes_room => match never {},
        };
        result.unwrap_or_else(|| Err(stage.timed_out(&visit)))
    })
}

/// The last host in between, connected to.
async fn through(visit: &Visit<'_>) -> Result<Option<Arc<Connection>>> {
    let Through::Host(hop) = &visit.way.through else { return Ok(None) };
    let connected = visit.client.hop(visit.name, hop).await;
    connected
        .map(Some)
        .map_err(|error| Error { what: format!("at the jump host {}: {}", hop.shown(), error.what), ..error })
}

async fn attempt(
    visit: &Visit<'_>,
    via: Option<Arc<Connection>>,
    clock: &Clock,
    stage: &mut Stage,
    (took, since): (&mut Vec<(&'static str, Duration)>, Instant),
) -> Result<Connection> {
    let Visit { client, name, whose, way, .. } = visit;
    let (host, port) = way.looked_up();
    let home = client.operator.home.as_deref();
    // Only a file that the inventory names stands alone. What is wrong with it must be said also if nothing is added.
    if let ([file], true) = (&way.known[..], way.known_to_all.is_empty()) {
        known_hosts::check_purpose(file, &known_hosts::shown(file, home))?;
    }
    let known = KnownHosts::load(&way.known, &way.known_to_all, home, Some(&known_hosts::name(host, port)))?;
    let known = known.revoking(&way.narrow.revoked, home)?.hashing(way.hashed);
    let (parting, shown) = (Parting::default(), Shown::default());
    let trust = Trust {
        name: name.to_string(),
        way: way.clone(),
        known: Arc::new(known),
        accept_new: client.options.accept_new_host_keys || way.accept_new,
        parting: parting.clone(),
        shown: shown.clone(),
    };
    let (mut handle, program, dialled) = greet(visit, via.as_deref(), trust, stage).await?;
    took.extend([("tcp", dialled.duration_since(since)), ("greeting", dialled.elapsed())]);
    *stage = Stage::Login;
    let since = Instant::now();
    let (handle_of, parting_of, seen) = (&mut handle, &parting, auth::Seen::default());
    let login = Login { handle: handle_of, client, way, name, whose, clock, parting: parting_of, seen };
    let entry = auth::login(login).await?;
    took.push(("login", since.elapsed()));
    Ok(Connection {
        handle,
        way: way.clone(),
        entry,
        host_key: last_words(&shown),
        means: tokio::sync::Mutex::default(),
        took: std::mem::take(took),
        slots: Arc::new(Semaphore::new(SCRIPTS_AT_ONCE)),
        parting,
        _via: via,
        _program: program,
    })
}

/// Connects as far as the host key, and again if the server was merely too busy. With it, since when there was a line.
async fn greet(
    visit: &Visit<'_>,
    via: Option<&Connection>,
    trust: Trust,
    stage: &mut Stage,
) -> Result<(Handle<Trust>, Option<Program>, Instant)> {
    let (host, port) = visit.way.looked_up();
    let certificates = Certificates::of(&visit.way, &trust.known);
    let algorithms = trust.known.algorithms(host, port);
    let config = Arc::new(config(offer::preferred(&visit.way.narrow, &algorithms, certificates)?));
    let (mut wait, since) = (FIRST_WAIT, Instant::now());
    loop {
        let left = since.elapsed() + wait * 3 < visit.client.options.timeout;
        let via = via.map(|via| Via { handle: &via.handle, way: &via.way });
        let line = dial(&visit.way, visit.name, via.as_ref(), stage).await?;
        let dialled = Instant::now();
        *stage = Stage::Greeting;
        let stream = visit.heard.listen(line.stream);
        let greeted = client::connect_stream(config.clone(), stream, trust.clone()).await;
        let is_stranger = || visit.heard.stranger().is_some();
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
                return Err(no_greeting(visit, &error, &trust.parting, line.program).await);
            }
        }
    }
}

fn config(preferred: Preferred) -> Config {
    Config {
        window_size: 16 << 20,
        keepalive_interval: Some(KEEPALIVE),
        keepalive_max: KEEPALIVES_UNANSWERED,
        // Answered questions count as activity, so this ends only what cannot ask: a write that is stuck, and
        // a handshake that was given up while the server was silent.
        inactivity_timeout: Some(STUCK_WRITE),
        preferred,
        ..Config::default()
    }
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

async fn no_greeting(
    visit: &Visit<'_>,
    error: &russh::Error,
    parting: &Parting,
    program: Option<Program>,
) -> Error {
    let (address, by_hand) = (visit.way.address(), visit.way.by_hand());
    let first_line = visit.heard.first_line();
    if let Some(program) = program {
        let told =
            Error::new(Kind::Unreachable, "the ProxyCommand of your ssh_config leads to no SSH server");
        let told = program.words().await.into_iter().chain(first_line).fold(told, Error::heard);
        return told.heard(error.to_string()).hint(format!("compare with: {by_hand}"));
    }
    if let Some(line) = visit.heard.stranger() {
        return another_server(visit, &line);
    }
    let (what, hint) = match may_pass(error) {
        true => (
            format!("{address} closes the connection before it says who it is"),
            "does its sshd have too many visitors (MaxStartups), or is this address banned for a while?",
        ),
        false => (format!("{address} accepts the connection, but does not agree on SSH"), "compare with:"),
    };
    let told = Error::new(Kind::Unreachable, what);
    let told = first_line.into_iter().fold(told, Error::heard).heard(error.to_string());
    let told = last_words(parting).into_iter().fold(told, |told, why| told.heard(why));
    told.hint(format!("{hint} {by_hand}"))
}

/// `line`: the first that the other server said.
fn another_server(visit: &Visit, line: &str) -> Error {
    let (address, by_hand) = (visit.way.address(), visit.way.by_hand());
    Error::new(Kind::Unreachable, format!("{address} does not answer as an SSH server"))
        .because("its answer begins:")
        .heard(line)
        .hint(format!("check the port {} of {}; compare with: {by_hand}", visit.way.port, visit.way.host))
}

impl Stage {
    fn timed_out(self, visit: &Visit) -> Error {
        let Visit { name, way, client, heard, .. } = visit;
        if let (Stage::Greeting, Some(line)) = (self, heard.stranger()) {
            return another_server(visit, &line);
        }
        let (address, by_hand) = (way.address(), way.by_hand());
        let (during, hint) = match self {
            Stage::Name => (
                format!("while looking for the address of {}", way.host),
                format!("does this machine reach its name server? or give {name}'s address as its host"),
            ),
            Stage::Tcp => (
                format!("while connecting to {address}: nothing answers"),
                format!("is it up, and does a firewall let port {} through? {by_hand}", way.port),
            ),
            Stage::Greeting => (
                format!("connected to {address}, but it does not answer as an SSH server"),
                format!("is it overloaded, or is that port not sshd's? {by_hand}"),
            ),
            Stage::Login => (
                format!("while logging in to {address} as {}", way.user),
                format!("does your ssh-agent wait for you, or its sshd for a name server? {by_hand}"),
            ),
        };
        let after = client.options.timeout.as_secs_f64();
        Error::new(Kind::Unreachable, format!("timed out after {after} s")).because(during).hint(hint)
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
