//! A machine that ironstrap reaches over SSH, as a `Shell`. This module and its submodules report every failure of the
//! connection and of the login. They do not judge what the scripts do.

mod auth;
mod connect;
mod deadline;
mod dial;
mod escalation;
mod exec;
mod greeting;
mod host_key;
mod keys;
mod offer;
mod route;
mod secrets;

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
use connect::{ConnectRequest, Connection};
use deadline::PausableTimeout;
use escalation::{Escalation, NextEscalation};
use exec::ExecError;
use greeting::NodeLogs;
use keys::KeyFiles;
pub use route::{Route, Via};
pub use secrets::{Ask, Question, Secret};
use secrets::{CandidateSecret, Secrets};

/// Default time limit for connecting and logging in together. The operator can change it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// After this long without data from the server, the client asks whether the connection is still alive.
pub const KEEPALIVE: Duration = Duration::from_secs(15);
/// Number of these requests in a row that may stay unanswered.
pub const KEEPALIVES_UNANSWERED: usize = 3;
/// Time limit for one stuck write. russh sends no keepalive requests while it waits to write.
const STUCK_WRITE: Duration = Duration::from_secs(300);
/// Maximum number of scripts at once on one connection. sshd allows 10 sessions, but frees one only some time after its
/// end. Above 5, sshd refuses some.
pub const SCRIPTS_AT_ONCE: usize = 4;
/// Longest wait for the other side to end. ironstrap says goodbye to be polite, and does not wait longer for the end.
const GOODBYE: Duration = Duration::from_secs(1);
/// Time limit until a script begins, as a multiple of the time limit for connecting.
const BEGINS_WITHIN: u32 = 3;
/// Maximum number of routes that ironstrap resolves at the same time.
const LOOKUPS: usize = 8;
/// Maximum number of handshakes at the same time. Each is some milliseconds of work, while all their time limits run.
const HANDSHAKES: usize = 128;

/// Longest time until ironstrap notices that a machine vanished under a running script.
pub const fn longest_silence() -> Duration {
    KEEPALIVE.saturating_mul(KEEPALIVES_UNANSWERED as u32 + 1)
}

/// The operator's choices for a whole run.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Accept and store the key of an unknown host, instead of refusing it. ironstrap always refuses a changed key.
    pub accept_new_host_keys: bool,
    /// Time limit for connecting and logging in together.
    pub timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options { accept_new_host_keys: false, timeout: CONNECT_TIMEOUT }
    }
}

/// Facts about the operator's own computer and account.
#[derive(Clone, Debug, Default)]
pub struct Operator {
    /// The login user where neither the inventory nor ssh_config names one.
    pub user: String,
    /// The home directory, which contains `.ssh`.
    pub home: Option<PathBuf>,
    /// The socket of the ssh-agent.
    pub agent: Option<PathBuf>,
    /// The `ssh` program. It reads the operator's ssh_config.
    pub ssh: Option<PathBuf>,
    /// A file to read instead of the operator's ssh_config.
    pub config: Option<PathBuf>,
}

impl Operator {
    /// Describes the user who runs this program.
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

/// The state that all connections of a run share: options, operator, secrets, keys, and connections to jump hosts.
pub struct Client {
    options: Options,
    operator: Operator,
    secrets: Secrets,
    keys: KeyFiles,
    /// One connection to each jump host.
    hops: std::sync::Mutex<BTreeMap<String, Arc<Kept>>>,
    /// Limits the routes that are resolved at the same time. Each lookup is a process.
    lookups: Semaphore,
    handshakes: Semaphore,
}

/// A slot for a connection. The first task that needs the connection makes it.
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

    /// Sets how to ask the operator for secrets. `tries`: how often to ask for one secret, if the answers are wrong.
    pub fn asking(self, ask: Ask, tries: u8) -> Self {
        Client { secrets: Secrets::new(ask, tries), ..self }
    }

    async fn route(&self, ssh: &cluster::Ssh) -> Result<Route> {
        let _place = self.lookups.acquire().await;
        route::resolve(ssh, &self.operator).await
    }

    /// Returns the connection to a jump host on the route to the node `name`. All machines behind the jump host share it.
    async fn hop(&self, name: &str, hop: &Route) -> Result<Arc<Connection>> {
        let id = hop.hops().into_iter().chain([hop]).map(Route::shown).collect::<Vec<_>>().join(",");
        let kept = {
            let mut all = self.hops.lock().unwrap_or_else(PoisonError::into_inner);
            all.entry(id).or_default().clone()
        };
        let mut kept = kept.lock().await;
        if let Some(connection) = kept.as_ref().filter(|connection| !connection.handle.is_closed()) {
            return Ok(connection.clone());
        }
        let request = ConnectRequest {
            client: self,
            name,
            whose: hop.shown(),
            route: Arc::new(hop.clone()),
            heard: NodeLogs::default(),
        };
        let connection = Arc::new(connect::connect(request).await?);
        *kept = Some(connection.clone());
        Ok(connection)
    }
}

/// One machine over SSH. It connects when there is a script to run, and again after the connection was lost.
pub struct Ssh {
    /// The node's name, for messages.
    name: String,
    ssh: cluster::Ssh,
    client: Arc<Client>,
    route: OnceCell<Arc<Route>>,
    connection: Kept,
    host_key: std::sync::Mutex<Option<String>>,
}

/// How ironstrap connected to a machine, logged in and became root.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteReport {
    pub route: Route,
    /// The key or the method of the successful login.
    pub by: String,
    /// How scripts become root.
    pub root: &'static str,
    /// How long each part took.
    pub took: Vec<(&'static str, Duration)>,
}

impl Ssh {
    pub fn new(node: &Node, client: &Arc<Client>) -> Self {
        let (name, ssh) = (node.name.clone(), node.ssh.clone());
        let (connection, host_key) = (Mutex::default(), Default::default());
        Ssh { name, ssh, client: client.clone(), route: OnceCell::new(), connection, host_key }
    }

    /// Ends the connection, if there is one. This takes a second at most.
    pub async fn close(&self) {
        if let Some(connection) = self.connection.lock().await.take() {
            part(connection).await;
        }
    }

    /// Connects, becomes root, and reports how.
    pub async fn route_report(&self) -> Result<RouteReport> {
        let since = Instant::now();
        let on = |error: crate::error::Error| error.on(&self.name);
        let route = self.route().await.map_err(on)?;
        let found = since.elapsed();
        let connection = self.connection().await.map_err(on)?;
        let since = Instant::now();
        let bounds = Bounds::within(self.client.options.timeout * BEGINS_WITHIN);
        self.run_once(&Sh::EMPTY, &bounds, &mut |_| {}).await.map_err(on)?;
        let root = connection.escalation.lock().await.as_ref().map_or("", Escalation::shown);
        let took = [("config", found)].into_iter().chain(connection.took.iter().copied());
        let took = took.chain([("root", since.elapsed())]).collect();
        Ok(RouteReport { route: (*route).clone(), by: connection.entry.by.clone(), root, took })
    }

    async fn route(&self) -> Result<Arc<Route>> {
        let route = self.route.get_or_try_init(|| async { self.client.route(&self.ssh).await.map(Arc::new) });
        route.await.cloned()
    }

    /// Returns the connection, and makes it if necessary. Tasks that come meanwhile wait for it.
    async fn connection(&self) -> Result<Arc<Connection>> {
        let mut kept = self.connection.lock().await;
        if let Some(connection) = kept.as_ref().filter(|connection| !connection.handle.is_closed()) {
            return Ok(connection.clone());
        }
        let route = self.route().await?;
        let request = ConnectRequest {
            client: &self.client,
            name: &self.name,
            whose: route.user.clone(),
            route,
            heard: NodeLogs::default(),
        };
        let connection = Arc::new(connect::connect(request).await?);
        *self.host_key.lock().unwrap_or_else(PoisonError::into_inner) = connection.host_key.clone();
        *kept = Some(connection.clone());
        Ok(connection)
    }

    /// Drops a lost connection, unless another one has already replaced it.
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
        let user = connection.route.user.clone();
        let mut known = connection.escalation.lock().await.clone();
        let mut candidate: Option<CandidateSecret> = None;
        loop {
            let escalation = known.clone().unwrap_or_else(|| Escalation::first(&user));
            let mut session = connection.session().await;
            if session.is_err() && connection.handle.is_closed() {
                // Nothing of the script was sent yet. The machine may have rebooted since the last script.
                self.forget(&connection).await;
                connection = self.connection().await?;
                session = connection.session().await;
            }
            let (channel, _slot) = session.map_err(|error| exec::no_session(&error))?;
            let said = match exec::exec(channel, &escalation, script, (patience, bounds), heard).await {
                Ok(output) => {
                    candidate.map(CandidateSecret::confirm);
                    *connection.escalation.lock().await = Some(escalation);
                    return Ok(output);
                }
                Err(ExecError::NotBegun(said)) => said,
                Err(cut) => return Err(self.explain_failure(cut, &connection, &user, &escalation).await),
            };
            match self.other_means(&escalation, &said, &connection, &mut candidate).await? {
                Some(other) => known = Some(other),
                None => return Err(escalation.refused(&user, &said)),
            }
        }
    }

    /// Makes the error of a failed script. Drops a lost connection, and closes one with too much output or without end.
    async fn explain_failure(
        &self,
        cut: ExecError,
        connection: &Arc<Connection>,
        user: &str,
        escalation: &Escalation,
    ) -> Error {
        let ends = matches!(
            cut,
            ExecError::Noise(_) | ExecError::Flood(_) | ExecError::Quiet(_) | ExecError::Late(_)
        );
        if ends || matches!(cut, ExecError::Lost(_)) {
            self.forget(connection).await;
        }
        if ends {
            tokio::spawn(part(connection.clone()));
        }
        cut.told(user, escalation, connection.parting().as_deref())
    }

    /// Returns what to try after `escalation` failed to become root, or `None` if nothing is left.
    async fn other_means(
        &self,
        escalation: &Escalation,
        said: &Output,
        connection: &Connection,
        candidate: &mut Option<CandidateSecret>,
    ) -> Result<Option<Escalation>> {
        let (terminal, used) = match escalation.next(said) {
            NextEscalation::Refused => return Ok(None),
            NextEscalation::Doas => return Ok(Some(Escalation::Doas)),
            NextEscalation::Terminal => return Ok(Some(Escalation::Terminal(None))),
            NextEscalation::Password { terminal } => (terminal, false),
            NextEscalation::Again => (escalation.on_terminal(), true),
        };
        let with = |word: SecretText| {
            if terminal { Escalation::Terminal(Some(word)) } else { Escalation::Password(word) }
        };
        // Most of the time sudo takes the password of the login.
        if let Some(word) = connection.entry.password.clone().filter(|_| !used) {
            return Ok(Some(with(word)));
        }
        let (what, secrets) = (Secret::Sudo(connection.route.user.clone()), &self.client.secrets);
        let asks = format!("{} ({})", self.name, connection.route.shown());
        if let Some(candidate) = candidate.take() {
            secrets.refused(&what, &asks, candidate).await;
        }
        let deadline = PausableTimeout::new(self.client.options.timeout);
        *candidate = secrets.offer(&what, &asks, &deadline).await?;
        Ok(candidate.as_ref().map(|candidate| with(candidate.word.clone())))
    }
}

impl Shell for Ssh {
    /// If the caller drops the future before its end, the script keeps running on the machine.
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

    /// Closes the connection in the background.
    async fn disconnect(&self) {
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
        // Only the last owner can wait for the end of the connection. A running script notices the end soon enough.
        if let (Ok(()), Ok(connection)) = (said, Arc::try_unwrap(connection)) {
            let _ = connection.handle.await;
        }
    };
    let _ = timeout(GOODBYE, goodbye).await;
}
