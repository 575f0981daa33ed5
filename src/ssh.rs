//! A machine reached over SSH, as a `Shell`. This module and its submodules report everything that can go wrong
//! with connection and login. What the scripts do is not their concern.

mod auth;
mod clock;
mod connect;
mod dial;
mod exec;
mod greeting;
mod keys;
mod offer;
mod root;
mod secrets;
mod trust;
mod way;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use russh::Disconnect;
use tokio::sync::{Mutex, OnceCell, Semaphore};
use tokio::time::timeout;

use crate::cluster::{self, Node};
use crate::error::{Error, Result};
use crate::secret::SecretText;
use crate::shell::{Bounds, Output, Sh, Shell};
use clock::Clock;
use connect::{Connection, Visit};
use exec::Cut;
use greeting::Heard;
use keys::KeyFiles;
use root::{Means, Next};
pub use secrets::{Ask, Question, Secret};
use secrets::{Lent, Secrets};
pub use way::{Through, Way};

/// How long connecting and logging in may take together, unless the user says otherwise.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection on which nothing came for this long is asked whether it is still there.
pub const KEEPALIVE: Duration = Duration::from_secs(15);
/// So many questions in a row may stay unanswered.
pub const KEEPALIVES_UNANSWERED: usize = 3;
/// russh does not ask while it waits to write: what it wrote must be gone after this long.
const STUCK_WRITE: Duration = Duration::from_secs(300);
/// sshd allows 10 sessions on a connection, but frees one only a while after it ended: above 5, some are refused.
pub const SCRIPTS_AT_ONCE: usize = 4;
/// Saying goodbye is polite, waiting for it is not.
const GOODBYE: Duration = Duration::from_secs(1);
/// How long a command may take until the script begins, in times of the timeout for connecting.
const BEGINS_WITHIN: u32 = 3;
/// Ways that are looked up at the same time.
const LOOKUPS: usize = 8;
/// Handshakes at the same time: each is some milliseconds of work, while the clocks of all of them run.
const HANDSHAKES: usize = 128;

/// How long a machine that vanished under a running script is still believed in.
pub const fn longest_silence() -> Duration {
    KEEPALIVE.saturating_mul(KEEPALIVES_UNANSWERED as u32 + 1)
}

/// What the user decides for a whole run.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Note the key of a host that is not known, instead of refusing. A changed key is always refused.
    pub accept_new_host_keys: bool,
    /// Of connecting and logging in together.
    pub timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options { accept_new_host_keys: false, timeout: CONNECT_TIMEOUT }
    }
}

/// What is looked up on the operator's own side.
#[derive(Clone, Debug, Default)]
pub struct Operator {
    /// Who logs in where nothing says otherwise.
    pub user: String,
    /// Where `.ssh` is.
    pub home: Option<PathBuf>,
    /// The socket of an agent that holds keys.
    pub agent: Option<PathBuf>,
    /// The program that knows the operator's ssh_config.
    pub ssh: Option<PathBuf>,
    /// Another file than theirs.
    pub config: Option<PathBuf>,
}

impl Operator {
    /// The user who runs this program.
    pub fn present() -> Self {
        let agent = std::env::var_os("SSH_AUTH_SOCK").filter(|socket| !socket.is_empty());
        let user =
            ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok().filter(|u| !u.is_empty()));
        Operator {
            user: user.unwrap_or_else(|| "root".into()),
            home: std::env::home_dir(),
            agent: agent.map(PathBuf::from),
            ssh: which::which("ssh").ok(),
            config: None,
        }
    }

    fn shown(&self, path: &Path) -> String {
        crate::known_hosts::shown(path, self.home.as_deref())
    }
}

/// What all connections of a run share: who connects, with what, and the hosts that are gone through on the way.
pub struct Client {
    options: Options,
    operator: Operator,
    secrets: Secrets,
    keys: KeyFiles,
    /// Connections to jump hosts, one each.
    hops: std::sync::Mutex<BTreeMap<String, Arc<Kept>>>,
    /// How many ways are looked up at the same time: each is a process.
    lookups: Semaphore,
    handshakes: Semaphore,
}

/// A connection. The first task that needs it makes it.
type Kept = Mutex<Option<Arc<Connection>>>;

impl Client {
    pub fn new(options: Options, operator: Operator) -> Self {
        let (secrets, keys) = (Secrets::none(), KeyFiles::default());
        Client {
            options,
            operator,
            secrets,
            keys,
            hops: Default::default(),
            lookups: Semaphore::new(LOOKUPS),
            handshakes: Semaphore::new(HANDSHAKES),
        }
    }

    /// The operator can be asked for what only they know, as often as `tries` where it turns out wrong.
    pub fn asking(self, ask: Ask, tries: u8) -> Self {
        Client { secrets: Secrets::new(ask, tries), ..self }
    }

    async fn way(&self, ssh: &cluster::Ssh) -> Result<Way> {
        let _place = self.lookups.acquire().await;
        way::resolve(ssh, &self.operator).await
    }

    /// The connection to a jump host on the way to the node `name`; all who go through it share it.
    async fn hop(&self, name: &str, hop: &Way) -> Result<Arc<Connection>> {
        let id = hop.hops().into_iter().chain([hop]).map(Way::shown).collect::<Vec<_>>().join(",");
        let kept = {
            let mut all = self.hops.lock().unwrap_or_else(PoisonError::into_inner);
            all.entry(id).or_default().clone()
        };
        let mut kept = kept.lock().await;
        if let Some(connection) = kept.as_ref().filter(|connection| !connection.handle.is_closed()) {
            return Ok(connection.clone());
        }
        let visit = Visit {
            client: self,
            name,
            whose: hop.shown(),
            way: Arc::new(hop.clone()),
            heard: Heard::default(),
        };
        let connection = Arc::new(connect::connect(visit).await?);
        *kept = Some(connection.clone());
        Ok(connection)
    }
}

/// One machine over SSH: connected to when there is something to run, and again when the connection was lost.
pub struct Ssh {
    /// The node's name, for messages.
    name: String,
    ssh: cluster::Ssh,
    client: Arc<Client>,
    way: OnceCell<Arc<Way>>,
    connection: Kept,
    host_key: std::sync::Mutex<Option<String>>,
}

/// How a machine was got into.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    pub way: Way,
    /// The key or the method that let us in.
    pub by: String,
    /// How scripts come to run as root.
    pub root: &'static str,
    /// How long each part took.
    pub took: Vec<(&'static str, Duration)>,
}

impl Ssh {
    pub fn new(node: &Node, client: &Arc<Client>) -> Self {
        let (name, ssh) = (node.name.clone(), node.ssh.clone());
        let (connection, host_key) = (Mutex::default(), Default::default());
        Ssh { name, ssh, client: client.clone(), way: OnceCell::new(), connection, host_key }
    }

    /// Ends the connection, if there is one. Takes a second at most.
    pub async fn close(&self) {
        if let Some(connection) = self.connection.lock().await.take() {
            part(connection).await;
        }
    }

    /// Gets in, becomes root, and tells how.
    pub async fn route(&self) -> Result<Route> {
        let since = Instant::now();
        let on = |error: crate::error::Error| error.on(&self.name);
        let way = self.way().await.map_err(on)?;
        let found = since.elapsed();
        let connection = self.connection().await.map_err(on)?;
        let since = Instant::now();
        let bounds = Bounds::within(self.client.options.timeout * BEGINS_WITHIN);
        self.run_once(&Sh::EMPTY, &bounds, &mut |_| {}).await.map_err(on)?;
        let root = connection.means.lock().await.as_ref().map_or("", Means::shown);
        let took = [("config", found)].into_iter().chain(connection.took.iter().copied());
        let took = took.chain([("root", since.elapsed())]).collect();
        Ok(Route { way: (*way).clone(), by: connection.entry.by.clone(), root, took })
    }

    async fn way(&self) -> Result<Arc<Way>> {
        let way = self.way.get_or_try_init(|| async { self.client.way(&self.ssh).await.map(Arc::new) });
        way.await.cloned()
    }

    /// The connection, made if need be. Those who come while it is being made wait for it.
    async fn connection(&self) -> Result<Arc<Connection>> {
        let mut kept = self.connection.lock().await;
        if let Some(connection) = kept.as_ref().filter(|connection| !connection.handle.is_closed()) {
            return Ok(connection.clone());
        }
        let way = self.way().await?;
        let visit = Visit {
            client: &self.client,
            name: &self.name,
            whose: way.user.clone(),
            way,
            heard: Heard::default(),
        };
        let connection = Arc::new(connect::connect(visit).await?);
        *self.host_key.lock().unwrap_or_else(PoisonError::into_inner) = connection.host_key.clone();
        *kept = Some(connection.clone());
        Ok(connection)
    }

    /// Forgets a connection that turned out to be lost, unless another has already taken its place.
    async fn forget(&self, lost: &Arc<Connection>) {
        let mut kept = self.connection.lock().await;
        if kept.as_ref().is_some_and(|connection| Arc::ptr_eq(connection, lost)) {
            *kept = None;
        }
    }

    async fn run_once(
        &self,
        script: &Sh,
        bounds: &Bounds,
        heard: &mut (dyn FnMut(&[u8]) + Send),
    ) -> Result<Output> {
        let patience = self.client.options.timeout * BEGINS_WITHIN;
        let mut connection = self.connection().await?;
        let user = connection.way.user.clone();
        let mut known = connection.means.lock().await.clone();
        let mut lent: Option<Lent> = None;
        loop {
            let means = known.clone().unwrap_or_else(|| Means::first(&user));
            let mut session = connection.session().await;
            if session.is_err() && connection.handle.is_closed() {
                // Nothing of the script has been sent yet: the machine may have rebooted since the last one.
                self.forget(&connection).await;
                connection = self.connection().await?;
                session = connection.session().await;
            }
            let (channel, _slot) = session.map_err(|error| exec::no_session(&error))?;
            let said = match exec::exec(channel, &means, script, (patience, bounds), heard).await {
                Ok(output) => {
                    lent.map(Lent::proved);
                    *connection.means.lock().await = Some(means);
                    return Ok(output);
                }
                Err(Cut::NotBegun(said)) => said,
                Err(cut) => return Err(self.given_up(cut, &connection, &user, &means).await),
            };
            match self.other_means(&means, &said, &connection, &mut lent).await? {
                Some(other) => known = Some(other),
                None => return Err(means.refused(&user, &said)),
            }
        }
    }

    /// A connection that was lost is forgotten, and one on which too much comes or nothing ends is ended.
    async fn given_up(&self, cut: Cut, connection: &Arc<Connection>, user: &str, means: &Means) -> Error {
        let ends = matches!(cut, Cut::Noise(_) | Cut::Flood(_) | Cut::Quiet(_) | Cut::Late(_));
        if ends || matches!(cut, Cut::Lost(_)) {
            self.forget(connection).await;
        }
        if ends {
            tokio::spawn(part(connection.clone()));
        }
        cut.told(user, means, connection.parting().as_deref())
    }

    /// What to try after `means` did not make us root; `None` where nothing is left.
    async fn other_means(
        &self,
        means: &Means,
        said: &Output,
        connection: &Connection,
        lent: &mut Option<Lent>,
    ) -> Result<Option<Means>> {
        let (terminal, used) = match means.next(said) {
            Next::Refused => return Ok(None),
            Next::Doas => return Ok(Some(Means::Doas)),
            Next::Terminal => return Ok(Some(Means::Terminal(None))),
            Next::Password { terminal } => (terminal, false),
            Next::Again => (means.on_terminal(), true),
        };
        let with =
            |word: SecretText| if terminal { Means::Terminal(Some(word)) } else { Means::Password(word) };
        // Most of the time it is the one that let us in.
        if let Some(word) = connection.entry.password.clone().filter(|_| !used) {
            return Ok(Some(with(word)));
        }
        let (what, secrets) = (Secret::Sudo(connection.way.user.clone()), &self.client.secrets);
        let asks = format!("{} ({})", self.name, connection.way.shown());
        if let Some(lent) = lent.take() {
            secrets.refused(&what, &asks, lent).await;
        }
        let clock = Clock::new(self.client.options.timeout);
        *lent = secrets.lend(&what, &asks, &clock).await?;
        Ok(lent.as_ref().map(|lent| with(lent.word.clone())))
    }
}

impl Shell for Ssh {
    /// One that is dropped before its end leaves the script running over there.
    async fn run(&self, script: &Sh, heard: &mut (dyn FnMut(&[u8]) + Send)) -> Result<Output> {
        self.run_within(script, &Bounds::default(), heard).await
    }

    async fn run_within(
        &self,
        script: &Sh,
        bounds: &Bounds,
        heard: &mut (dyn FnMut(&[u8]) + Send),
    ) -> Result<Output> {
        self.run_once(script, bounds, heard).await.map_err(|error| error.on(&self.name))
    }

    fn host_key(&self) -> Option<String> {
        self.host_key.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says goodbye, and does not wait for it.
    async fn rest(&self) {
        self.connection.lock().await.take().map(|connection| tokio::spawn(part(connection)));
    }
}

impl Drop for Ssh {
    fn drop(&mut self) {
        if let (Some(connection), Ok(runtime)) =
            (self.connection.get_mut().take(), tokio::runtime::Handle::try_current())
        {
            runtime.spawn(part(connection));
        }
    }
}

async fn part(connection: Arc<Connection>) {
    let goodbye = async {
        let said = connection.handle.disconnect(Disconnect::ByApplication, "", "en").await;
        // Only the last owner of the connection can wait for its end. A script that still runs notices it soon enough.
        if let (Ok(()), Ok(connection)) = (said, Arc::try_unwrap(connection)) {
            let _ = connection.handle.await;
        }
    };
    let _ = timeout(GOODBYE, goodbye).await;
}
