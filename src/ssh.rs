//! A machine reached over SSH, as a `Shell`. Everything that can go wrong on the way in is told here and in the
//! files beneath; what is run is none of its business.

mod auth;
mod connect;
mod exec;
mod trust;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use russh::Disconnect;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::cluster::{self, Node};
use crate::error::Result;
use crate::shell::{Output, Shell};
use connect::Connection;

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
    /// Where `.ssh` is.
    pub home: Option<PathBuf>,
    /// The socket of an agent that holds keys.
    pub agent: Option<PathBuf>,
}

impl Operator {
    /// Whoever runs this program.
    pub fn present() -> Self {
        let agent = std::env::var_os("SSH_AUTH_SOCK").filter(|socket| !socket.is_empty());
        Operator { home: std::env::home_dir(), agent: agent.map(PathBuf::from) }
    }

    fn shown(&self, path: &Path) -> String {
        crate::known_hosts::shown(path, self.home.as_deref())
    }
}

/// One machine over SSH: connected to when there is something to run, and again when the connection was lost.
pub struct Ssh {
    target: Target,
    connection: Mutex<Option<Arc<Connection>>>,
}

/// All that connecting needs to know.
struct Target {
    /// The node's name, for messages.
    name: String,
    ssh: cluster::Ssh,
    options: Options,
    operator: Operator,
}

impl Ssh {
    pub fn new(node: &Node, options: Options) -> Self {
        Ssh::of(node, options, Operator::present())
    }

    /// For an operator other than the present one.
    pub fn of(node: &Node, options: Options, operator: Operator) -> Self {
        let target = Target { name: node.name.clone(), ssh: node.ssh.clone(), options, operator };
        Ssh { target, connection: Mutex::new(None) }
    }

    /// Ends the connection, if there is one. Takes a second at most.
    pub async fn close(&self) {
        if let Some(connection) = self.connection.lock().await.take() {
            part(connection).await;
        }
    }

    /// The connection, made if need be. Those who come while it is being made wait for it.
    async fn connection(&self) -> Result<Arc<Connection>> {
        let mut kept = self.connection.lock().await;
        if let Some(connection) = kept.as_ref().filter(|connection| !connection.handle.is_closed()) {
            return Ok(connection.clone());
        }
        let connection = Arc::new(connect::connect(&self.target).await?);
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

    async fn run_once(&self, script: &str, heard: &mut (dyn FnMut(&[u8]) + Send)) -> Result<Output> {
        let mut connection = self.connection().await?;
        let mut session = connection.session().await;
        if session.is_err() && connection.handle.is_closed() {
            // Nothing of the script has been sent yet: the machine may have rebooted since the last one.
            self.forget(&connection).await;
            connection = self.connection().await?;
            session = connection.session().await;
        }
        let user = &self.target.ssh.user;
        let (channel, _slot) = session.map_err(|error| exec::no_session(&error))?;
        let result = exec::exec(channel, exec::command(user), script, heard).await;
        match result {
            Ok(output) => match exec::sudo_refusal(user, &output) {
                Some(refusal) => Err(refusal),
                None => Ok(output),
            },
            Err(cut) => {
                if let exec::Cut::Lost(_) = cut {
                    self.forget(&connection).await;
                }
                Err(cut.told(user, connection.parting().as_deref()))
            }
        }
    }
}

impl Shell for Ssh {
    /// One that is dropped before its end leaves the script running over there.
    async fn run(&self, script: &str, heard: &mut (dyn FnMut(&[u8]) + Send)) -> Result<Output> {
        self.run_once(script, heard).await.map_err(|error| error.on(&self.target.name))
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
        // Only who is the last to hold it can wait for it; a script that still runs is told soon enough.
        if let (Ok(()), Ok(connection)) = (said, Arc::try_unwrap(connection)) {
            let _ = connection.handle.await;
        }
    };
    let _ = timeout(GOODBYE, goodbye).await;
}
