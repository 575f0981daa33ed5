//! What every command that asks machines takes and begins with: the inventory, the trust, a first look at everybody.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use clap::Args;
use time::OffsetDateTime;
use tokio::signal::unix::Signal;
use tokio::task::JoinHandle;

use super::entrance::Entrance;
use super::{Inventory, interrupted, interrupts};
use crate::cluster::{Cluster, Node};
use crate::error::{Error, Kind, Result};
use crate::fetch;
use crate::inventory;
use crate::ledger::{Kin, Run};
use crate::pki::Trust;
use crate::probe;
use crate::reconcile::{Fleetwork, Member, Reading};
use crate::report::alike::remarked;
use crate::report::detail::Log;
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
    /// Show every question with its answer, and every script with its output. Secrets are hidden.
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
    entrance: Entrance,
    /// Connect to at most N machines at the same time. Without it, to all.
    #[arg(long, alias = "parallel", value_name = "N", help_heading = "Connection",
        value_parser = clap::value_parser!(u16).range(1..=10_000))]
    concurrency: Option<u16>,
}

/// Questions that no want asks, to each node.
pub(super) type Looks = fn(&Cluster, &Node) -> Vec<Ask>;

#[derive(Args, Default)]
pub(super) struct Limit {
    /// Work on these nodes only: w1 w3, or a range as in w[1-3]. The other nodes are queried, and never changed.
    #[arg(long, value_name = "NODE", num_args = 1.., value_delimiter = ',', help_heading = "Scope")]
    limit: Vec<String>,
}

#[derive(Args, Default)]
pub(super) struct Taking {
    /// Take over machines that another run holds. Refused while a unit of that run still works.
    #[arg(long)]
    pub take_over: bool,
}

/// What a run begins with, once every machine was asked.
pub(super) struct Start {
    pub cluster: Arc<Cluster>,
    pub store: Store,
    /// The trust was there before this run.
    pub kept: bool,
    /// What was made to complete the trust, in words.
    pub made: Vec<String>,
    /// What people should know of the operator's side: the step that it belongs to, and the words.
    pub warnings: Vec<(&'static str, String)>,
    pub trust: Trust,
    pub work: Fleetwork<Ssh>,
    pub events: Events,
    pub printer: JoinHandle<Vec<Event>>,
    /// Ctrl-C, heard since before the first question.
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

    /// Reads the inventory and the trust, and asks every machine once.
    pub async fn start(&self, style: Style, limit: &Limit) -> Result<Start> {
        self.start_reading(Reading::Forwards, style, &limit.limit, None).await
    }

    /// The same for a run that changes nothing, with these questions to each node beyond those of the wants.
    pub async fn start_looking(&self, style: Style, limit: &Limit, looks: Looks) -> Result<Start> {
        self.start_reading(Reading::Forwards, style, &limit.limit, Some(looks)).await
    }

    /// For a run that reads the list of wants this way and is about the nodes of these names, or all. With `looks`, it
    /// changes nothing.
    pub async fn start_reading(
        &self,
        reading: Reading,
        style: Style,
        names: &[String],
        looks: Option<Looks>,
    ) -> Result<Start> {
        let (since, mut interrupts) = (Instant::now(), interrupts()?);
        let (events, receiver) = Events::channel();
        let events = events.in_detail(self.verbose || self.log.is_some());
        let said = command_line(std::env::args().skip(1));
        let log = self.log.as_deref().map(store::log).transpose()?.map(|file| Log::begin(file, &said));
        // Lines that come by the hundred leave no room for a live display.
        let style = if self.verbose && style == Style::Term { Style::Lines } else { style };
        let audience = Audience { style, verbose: self.verbose, log, keeps: self.save_report.is_some() };
        let printer = tokio::spawn(report::show(receiver, audience));
        let look = async {
            let mut begun = self.begin(reading, names, &events).await?;
            if let Some(looks) = looks {
                begun.3.look_also(|node| looks(&begun.0, node));
                begun.3.only_look();
            }
            begun.3.look().await;
            Ok(begun)
        };
        let begun = tokio::select! {
            error = interrupted(&mut interrupts) => Err(error),
            begun = look => begun,
        };
        match begun {
            Ok((cluster, store, (trust, kept, made), work)) => {
                let warnings = warnings(&cluster, &trust);
                Ok(Start {
                    cluster,
                    store,
                    kept,
                    made,
                    warnings,
                    trust,
                    work,
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

    /// What comes before any machine is asked.
    async fn begin(
        &self,
        reading: Reading,
        names: &[String],
        events: &Events,
    ) -> Result<(Arc<Cluster>, Store, Loaded, Fleetwork<Ssh>)> {
        let mut cluster = inventory::read(&self.inventory.inventory)?;
        let chosen = inventory::select(&cluster, names)?;
        let store = Store::new(&cluster);
        for note in unsafe_files(&store) {
            events.tell(Event::Note { node: String::new(), step: "pki".into(), note });
        }
        if reading == Reading::Forwards {
            fetch::addons(&mut cluster, &store).await?;
        }
        let cluster = Arc::new(cluster);
        let loaded = load(&cluster, &store)?;
        let client = Arc::new(self.entrance.client());
        let shells = cluster.nodes.iter().map(|node| Ssh::new(node, &client)).collect();
        let id = probe::boundary().map_err(|e| {
            Error::new(Kind::Local, "cannot read random bytes for the id of this run").because(e)
        })?;
        let run = Run { wait: self.wait_timeout, ..Run::new(id.trim_matches('-'), owner()) };
        let known = (cluster.clone(), loaded.0.clone());
        let mut work = Fleetwork::reading(reading, known, shells, run, events.clone())?;
        self.concurrency.into_iter().for_each(|n| work.at_most(n.into()));
        if !chosen.is_empty() {
            work.limit(&chosen);
        }
        Ok((cluster, store, loaded, work))
    }
}

/// A trust that is complete, whether it was there before, and what was made to complete it.
type Loaded = (Trust, bool, Vec<String>);

fn load(cluster: &Cluster, store: &Store) -> Result<Loaded> {
    let now = OffsetDateTime::now_utc();
    let loaded = store.load()?;
    let kept = loaded.is_some();
    // On machines that know no cluster a throw-away trust shows what would be laid out; only an apply keeps it.
    let mut trust = match loaded {
        Some(trust) => trust,
        None => Trust::make(cluster, now)?,
    };
    let made = trust.complete(cluster, now)?;
    Ok((trust, kept, made))
}

/// What is not wrong yet, in the files that the inventory names and in the trust.
fn warnings(cluster: &Cluster, trust: &Trust) -> Vec<(&'static str, String)> {
    let ends = trust.ca_warning(OffsetDateTime::now_utc()).map(|words| ("pki", words));
    cluster.warnings.iter().map(|words| ("inventory", words.clone())).chain(ends).collect()
}

impl Start {
    /// The nodes that this run has to do with.
    pub fn about(&self) -> impl Iterator<Item = &Member<Ssh>> {
        self.work.members().iter().filter(|member| member.counts())
    }

    /// Tries what has to work before machines join; where none does, nothing.
    pub async fn try_out(&mut self) -> Result<()> {
        tokio::select! {
            error = interrupted(&mut self.interrupts) => Err(error),
            () = self.work.try_out() => Ok(()),
        }
    }

    /// Makes this run recognize machines that an earlier run of this PKI directory holds.
    pub fn recognize(&mut self, lock: &Lock, taking: &Taking) -> Result<()> {
        let secret = self.store.lease_secret()?.unwrap_or_default();
        self.work.claims(Kin::new(secret, lock.place()), taking.take_over);
        Ok(())
    }

    /// The same, before the first machine is taken: from here on later runs of this PKI directory recognize this one.
    pub fn introduce(&mut self, lock: &Lock, taking: &Taking) -> Result<()> {
        let secret = self.store.keep_lease_secret()?.unwrap_or_default();
        self.work.claims(Kin::new(secret, lock.place()), taking.take_over);
        Ok(())
    }

    /// Tells what was seen and is left as it is.
    pub fn tell_notes(&self) -> Result<()> {
        for (step, note) in self.warnings.clone() {
            self.events.tell(Event::Note { node: String::new(), step: step.into(), note });
        }
        for (node, step, note) in self.work.notes()? {
            self.events.tell(Event::Note { node, step: step.into(), note });
        }
        Ok(())
    }

    /// Those that it was not about, in words; `None` without `--limit`.
    pub fn left_out(&self) -> Option<String> {
        let spared = self.work.members().iter().filter(|member| member.spared);
        let named: Vec<(&str, &str)> = spared
            .map(|member| match member.machine {
                Some(_) if member.counts() => {
                    (member.node.name.as_str(), " (but for what the cluster keeps about the others)")
                }
                Some(_) => (&*member.node.name, ""),
                None => (&*member.node.name, " (does not answer)"),
            })
            .collect();
        (!named.is_empty()).then(|| format!("--limit left out: {}", remarked(&named)))
    }
}

/// Files of the PKI directory that others can use, a line each. Said once, however often a command looks.
fn unsafe_files(store: &Store) -> Vec<String> {
    static SAID: AtomicBool = AtomicBool::new(false);
    if SAID.swap(true, Ordering::Relaxed) { vec![] } else { store.warnings() }
}

/// Says so where a command has no events.
pub(super) fn warn_of_unsafe_files(cluster: &Cluster) {
    unsafe_files(&Store::new(cluster)).iter().for_each(|note| report::err(&format!("warning: {note}")));
}

/// The command line as the log has it: a command that prints a password may have the password in it.
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

/// `user@host`, as other operators see who changes a machine.
fn owner() -> String {
    let user =
        ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()));
    let host =
        hostname::get().map_or_else(|_| "somewhere".into(), |host| host.to_string_lossy().into_owned());
    // It becomes a word of shell.
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
