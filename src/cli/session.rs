//! The common part of all commands that ask machines: options, the inventory, the cluster PKI, and the first questions.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use clap::Args;
use time::OffsetDateTime;
use tokio::signal::unix::Signal;
use tokio::task::JoinHandle;

use super::ssh_args::SshArgs;
use super::{Inventory, interrupted, interrupts};
use crate::cluster::{Cluster, Node};
use crate::error::{Error, Kind, Result};
use crate::fetch;
use crate::inventory;
use crate::ledger::{Kin, Run};
use crate::pki::ClusterPki;
use crate::probe;
use crate::reconcile::{Host, Operation, Reconciler};
use crate::report::detail::Log;
use crate::report::group::remarked;
use crate::report::{self, Audience, Event, Events, Style};
use crate::secret::HIDDEN;
use crate::ssh::Ssh;
use crate::step::Ask;
use crate::store::{self, Lock, Store};

#[derive(Args)]
pub(super) struct FleetArgs {
    #[command(flatten)]
    pub inventory: Inventory,
    /// Seconds to wait for external conditions: a package lock, a Ready node, pods that start.
    #[arg(long, alias = "wait", value_name = "SECONDS", default_value_t = Run::WAIT,
        value_parser = clap::value_parser!(u32).range(1..=86_400))]
    wait_timeout: u32,
    /// Print events as JSON on standard output, one object per line.
    #[arg(long, help_heading = "Output")]
    pub json: bool,
    /// Show every check with its answer, and every script with its output. Secrets are hidden.
    #[arg(long, short, help_heading = "Output")]
    pub verbose: bool,
    /// Append everything that --verbose shows to this file.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    log: Option<PathBuf>,
    /// Write a report that helps others to understand this run: errors, inventory, answers, events, and the logs of failed
    /// nodes. Secrets are hidden.
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub save_report: Option<PathBuf>,
    #[command(flatten)]
    ssh_args: SshArgs,
    /// Connect to at most N machines at the same time [default: all].
    #[arg(long, alias = "parallel", value_name = "N", help_heading = "Connection",
        value_parser = clap::value_parser!(u16).range(1..=10_000))]
    concurrency: Option<u16>,
}

/// Questions to each node that no want asks.
pub(super) type ExtraAsks = fn(&Cluster, &Node) -> Vec<Ask>;

#[derive(Args, Default)]
pub(super) struct Limit {
    /// Work on these nodes only: w1 w3 or w1,w3, or a range as in w[1-3]. The other nodes are queried, and never changed.
    #[arg(long, value_name = "NODE", num_args = 1.., value_delimiter = ',', help_heading = "Scope")]
    limit: Vec<String>,
}

#[derive(Args, Default)]
pub(super) struct Taking {
    /// Take over machines that another run holds. Refused while a systemd unit of that run is active.
    #[arg(long)]
    pub take_over: bool,
}

/// The state with which a run begins, after every machine was asked.
pub(super) struct Session {
    pub cluster: Arc<Cluster>,
    pub store: Store,
    /// Whether the cluster PKI existed before this run.
    pub pki_exists: bool,
    /// The parts that this run made to complete the cluster PKI, in words.
    pub made: Vec<String>,
    /// Notes about the operator's side, for people: the step that each one belongs to, and the words.
    pub warnings: Vec<(&'static str, String)>,
    pub pki: ClusterPki,
    pub reconciler: Reconciler<Ssh>,
    pub events: Events,
    pub printer: JoinHandle<Vec<Event>>,
    /// Ctrl-C, which is caught from before the first question.
    pub interrupts: Signal,
    pub since: Instant,
}

impl FleetArgs {
    pub fn style(&self) -> Style {
        match (self.json, std::io::stderr().is_terminal()) {
            (true, _) => Style::Json,
            (false, true) => Style::Term,
            (false, false) => Style::Lines,
        }
    }

    /// Reads the inventory and the cluster PKI, and asks every machine once.
    pub async fn start(&self, style: Style, limit: &Limit) -> Result<Session> {
        self.start_operation(Operation::Apply, style, &limit.limit, None).await
    }

    /// Does the same for a run that changes nothing. `looks`: questions to each node beyond those of the wants.
    pub async fn start_observing(&self, style: Style, limit: &Limit, looks: ExtraAsks) -> Result<Session> {
        self.start_operation(Operation::Apply, style, &limit.limit, Some(looks)).await
    }

    /// Starts a run that reads the list of wants for this operation. It is about the nodes with these names, or about all. With
    /// `looks`, it changes nothing.
    pub async fn start_operation(
        &self,
        operation: Operation,
        style: Style,
        names: &[String],
        looks: Option<ExtraAsks>,
    ) -> Result<Session> {
        let (since, mut interrupts) = (Instant::now(), interrupts()?);
        let (events, receiver) = Events::channel();
        let events = events.in_detail(self.verbose || self.log.is_some());
        let said = command_line(std::env::args().skip(1));
        let log = self.log.as_deref().map(store::log).transpose()?.map(|file| Log::begin(file, &said));
        // Hundreds of lines leave no room for a live display.
        let style = if self.verbose && style == Style::Term { Style::Lines } else { style };
        let audience = Audience { style, verbose: self.verbose, log, keeps: self.save_report.is_some() };
        let printer = tokio::spawn(report::show(receiver, audience));
        let look = async {
            let mut begun = self.begin(operation, names, &events).await?;
            if let Some(looks) = looks {
                begun.3.ask_also(|node| looks(&begun.0, node));
                begun.3.only_observe();
            }
            begun.3.observe().await;
            Ok(begun)
        };
        let begun = tokio::select! {
            error = interrupted(&mut interrupts) => Err(error),
            begun = look => begun,
        };
        match begun {
            Ok((cluster, store, (pki, kept, made), reconciler)) => {
                let warnings = warnings(&cluster, &pki);
                Ok(Session {
                    cluster,
                    store,
                    pki_exists: kept,
                    made,
                    warnings,
                    pki,
                    reconciler,
                    events,
                    printer,
                    interrupts,
                    since,
                })
            }
            Err(error) => {
                events.tell((&error).into());
                drop(events);
                let _ = printer.await;
                Err(error)
            }
        }
    }

    /// Prepares the run, before any machine is asked.
    async fn begin(
        &self,
        operation: Operation,
        names: &[String],
        events: &Events,
    ) -> Result<(Arc<Cluster>, Store, Loaded, Reconciler<Ssh>)> {
        let mut cluster = inventory::read(&self.inventory.inventory)?;
        let chosen = inventory::select(&cluster, names)?;
        let store = Store::new(&cluster);
        for note in unsafe_files(&store) {
            events.tell(Event::Note { node: String::new(), step: "pki".into(), note });
        }
        if operation == Operation::Apply {
            fetch::addons(&mut cluster, &store).await?;
        }
        let cluster = Arc::new(cluster);
        let loaded = load(&cluster, &store)?;
        let client = Arc::new(self.ssh_args.client());
        let shells = cluster.nodes.iter().map(|node| Ssh::new(node, &client)).collect();
        let id = probe::boundary().map_err(|e| {
            Error::new(Kind::Local, "cannot read random bytes for the id of this run").because(e)
        })?;
        let run = Run { wait: self.wait_timeout, ..Run::new(id.trim_matches('-'), owner()) };
        let known = (cluster.clone(), loaded.0.clone());
        let mut reconciler = Reconciler::for_operation(operation, known, shells, run, events.clone())?;
        self.concurrency.into_iter().for_each(|n| reconciler.limit_connections(n.into()));
        if !chosen.is_empty() {
            reconciler.limit(&chosen);
        }
        Ok((cluster, store, loaded, reconciler))
    }
}

/// A complete cluster PKI, whether it existed before, and what was made to complete it.
type Loaded = (ClusterPki, bool, Vec<String>);

fn load(cluster: &Cluster, store: &Store) -> Result<Loaded> {
    let now = OffsetDateTime::now_utc();
    let loaded = store.load()?;
    let kept = loaded.is_some();
    // On machines that belong to no cluster, a temporary PKI shows what would be written. Only an apply keeps it.
    let mut pki = match loaded {
        Some(pki) => pki,
        None => ClusterPki::make(cluster, now)?,
    };
    let made = pki.complete(cluster, now)?;
    Ok((pki, kept, made))
}

/// Returns what is not wrong yet, in the files that the inventory names and in the cluster PKI.
fn warnings(cluster: &Cluster, pki: &ClusterPki) -> Vec<(&'static str, String)> {
    let ends = pki.ca_warning(OffsetDateTime::now_utc()).map(|words| ("pki", words));
    cluster.warnings.iter().map(|words| ("inventory", words.clone())).chain(ends).collect()
}

impl Session {
    /// Returns the nodes that this run affects.
    pub fn about(&self) -> impl Iterator<Item = &Host<Ssh>> {
        self.reconciler.hosts().iter().filter(|host| host.is_affected())
    }

    /// Runs the active checks: what has to work before machines join. If no machine joins, they check at most the signing key
    /// of the Kubernetes repository.
    pub async fn run_active_checks(&mut self) -> Result<()> {
        tokio::select! {
            error = interrupted(&mut self.interrupts) => Err(error),
            () = self.reconciler.run_active_checks() => Ok(()),
        }
    }

    /// Makes this run recognize machines that an earlier run of this PKI directory holds.
    pub fn recognize(&mut self, lock: &Lock, taking: &Taking) -> Result<()> {
        let secret = self.store.lease_secret()?.unwrap_or_default();
        self.reconciler.use_lease(Kin::new(secret, lock.place()), taking.take_over);
        Ok(())
    }

    /// Does the same, before the first machine is taken. From here on, later runs of this PKI directory recognize this run.
    pub fn introduce(&mut self, lock: &Lock, taking: &Taking) -> Result<()> {
        let secret = self.store.keep_lease_secret()?.unwrap_or_default();
        self.reconciler.use_lease(Kin::new(secret, lock.place()), taking.take_over);
        Ok(())
    }

    /// Reports what ironstrap saw and does not change.
    pub fn tell_notes(&self) -> Result<()> {
        for (step, note) in self.warnings.clone() {
            self.events.tell(Event::Note { node: String::new(), step: step.into(), note });
        }
        for (node, step, note) in self.reconciler.notes()? {
            self.events.tell(Event::Note { node, step: step.into(), note });
        }
        Ok(())
    }

    /// Returns the nodes that `--limit` excluded, in words. `None` without `--limit`.
    pub fn left_out(&self) -> Option<String> {
        let excluded = self.reconciler.hosts().iter().filter(|host| host.excluded);
        let named: Vec<(&str, &str)> = excluded
            .map(|host| match host.machine {
                Some(_) if host.is_affected() => {
                    (host.node.name.as_str(), " (except for cluster objects of the other nodes)")
                }
                Some(_) => (&*host.node.name, ""),
                None => (&*host.node.name, " (does not answer)"),
            })
            .collect();
        (!named.is_empty()).then(|| format!("excluded by --limit: {}", remarked(&named)))
    }
}

/// Returns a line for each file that other users can use or change: of the PKI directory, the kubeconfig and the inventory.
/// Only the first call returns them, however often a command asks.
fn unsafe_files(store: &Store) -> Vec<String> {
    static SAID: AtomicBool = AtomicBool::new(false);
    if SAID.swap(true, Ordering::Relaxed) { vec![] } else { store.warnings() }
}

/// Prints these files, for a command that has no events.
pub(super) fn warn_of_unsafe_files(cluster: &Cluster) {
    unsafe_files(&Store::new(cluster)).iter().for_each(|note| report::err(&format!("warning: {note}")));
}

/// Returns the command line for the log. A command that prints a password may contain the password, so such commands are
/// hidden.
fn command_line(words: impl Iterator<Item = String>) -> String {
    const HIDES: [&str; 2] = ["--password-command", "--passphrase-command"];
    let mut is_secret = false;
    let shown = words.map(|word| {
        let option = word.split('=').next().unwrap_or_default();
        match (std::mem::take(&mut is_secret), HIDES.contains(&option)) {
            (true, _) => HIDDEN.to_string(),
            (_, true) if word.contains('=') => format!("{option}={HIDDEN}"),
            (_, hides) => {
                is_secret = hides;
                word
            }
        }
    });
    shown.collect::<Vec<_>>().join(" ")
}

/// Returns `user@host`, as other operators see who changes a machine.
fn owner() -> String {
    let user =
        ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()));
    let host =
        hostname::get().map_or_else(|_| "somewhere".into(), |host| host.to_string_lossy().into_owned());
    // The text becomes a word of shell.
    let plain = |text: &str| text.replace(|c: char| !c.is_ascii_alphanumeric() && !"._-".contains(c), "-");
    format!("{}@{}", plain(&user.unwrap_or_else(|| "somebody".into())), plain(&host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_on_the_command_line_is_not_in_the_log() {
        let said = |line: &str| command_line(line.split(' ').map(String::from));
        assert_eq!(
            said("apply --password-command echo\u{a0}hunter2 -i x --passphrase-command=cat\u{a0}f -v"),
            "apply --password-command [secret] -i x --passphrase-command=[secret] -v"
        );
        assert_eq!(said("plan --passphrase-command"), "plan --passphrase-command");
    }
}
