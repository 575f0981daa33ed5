//! The main loop: ask, plan, fix the first unfinished stage, ask again. There is no separate check that a fix worked,
//! because the next ask is that check. A run with nothing to do asks each node once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::cluster::{Cluster, Node};
use crate::diagnosis::NodeLogs;
use crate::error::{Error, Result};
use crate::fleet::identity::Finding;
use crate::fleet::{CLOCKS_WITHIN_SECONDS, Fleet, Machines, keys};
use crate::ledger::Run;
use crate::machine::Machine;
use crate::openpgp::Keys;
use crate::pki::ClusterPki;
use crate::report::{Event, Events};
use crate::shell::Shell;
use crate::step::{Answer, Ask, Confirmation, Id};
use crate::steps::Stage;

mod active_checks;
mod apply;
mod blame;
mod brake;
mod credentials;
mod decide;
mod diagnose;
mod endless;
mod extra_asks;
mod interrupt;
mod judge;
mod lease;
mod limits;
mod preflight;
mod prove;
mod reading;
mod remedies;
mod reset;
mod scope;
mod trace;
mod turn;
mod unmet;
mod work;

pub use apply::Stop;
pub use decide::CANNOT_TELL;
pub use judge::Note;
pub use limits::Limits;
pub use preflight::PreflightReport;
pub use reading::Operation;
use trace::TracedShell;

/// How long ironstrap waits for an API server to come back after a change. It waits as long for a want that may come and go
/// to hold again.
const PATIENCE: Duration = Duration::from_secs(120);

/// The machines of a cluster, and what ironstrap knows about them. Call `observe` first. Then either read the plan or
/// `apply` it.
pub struct Reconciler<S> {
    cluster: Arc<Cluster>,
    operation: Operation,
    stages: Vec<Stage>,
    pki: ClusterPki,
    hosts: Vec<Host<S>>,
    run: Run,
    events: Events,
    /// The run ends after the questions, so it keeps no connection.
    observes_only: bool,
    /// Permits for scripts. Each script that runs on a machine holds one.
    places: Arc<Semaphore>,
    /// Wants of the API stages that did not hold when last judged.
    unmet: unmet::Unmet,
    /// The logs and states that machines reported after something failed.
    logs: Vec<NodeLogs>,
    /// Members that have no Node, as the API last said.
    unregistered: BTreeSet<String>,
    unmanaged_nodes: BTreeSet<String>,
    /// The findings of the active checks.
    tried: Vec<Finding>,
    /// The signing key of the Kubernetes repository, as the repository showed it to each machine in this run.
    shown: BTreeMap<String, Keys>,
    /// The pod ranges of the cluster's Nodes.
    ranges: BTreeSet<String>,
    /// The results of the preflight checks that do not block the run.
    preflight_notes: Vec<Note>,
    /// How many scripts of fixes have ended.
    fixes: usize,
    /// The confirmations that the operator gave, each separately.
    confirmed: BTreeSet<&'static Confirmation>,
    proof: prove::Proof,
    /// Wants about workers that failed. This run does not try them again.
    failed_wants: BTreeSet<Id>,
}

/// One node, its shell, and its last answers.
pub struct Host<S> {
    pub node: Node,
    shell: Arc<TracedShell<S>>,
    /// The questions of all wants, each with its stage, in the order in which ironstrap asks them.
    asks: Vec<(usize, Ask)>,
    /// Questions that belong to no want. They come after all others.
    extra_asks: Vec<Ask>,
    pub execs: u32,
    pub machine: Option<Machine>,
    answers: Vec<Answer>,
    /// The signing key of the Kubernetes repository in its file on this machine. `None` if it has none.
    keys: Option<Keys>,
    /// The settings that kubelets reported to this host's API server, by node.
    kubelets: BTreeMap<String, Arc<str>>,
    /// Nodes that answered this host at the end of their flannel tunnel.
    tunnels: BTreeSet<String>,
    /// Its API server answered every question about the cluster.
    api_answers: bool,
    /// The answers to `extra_asks`, in their order. Empty before the machine has answered.
    pub extra_answers: Vec<Answer>,
    /// How far the clock is ahead of the operator's, in seconds.
    clock: f64,
    /// The reason why this host is quarantined.
    pub quarantined: Option<Error>,
    /// Further errors of this host, from preflight checks or found after it was quarantined.
    preflight_errors: Vec<Error>,
    /// ironstrap asks this host and never changes it, because this run is about others.
    pub excluded: bool,
    /// Wants that did not hold when last judged.
    open: unmet::Unmet,
    /// How many wants did not hold when last judged, without those that only wait for another node.
    pub pending: usize,
    /// Wants that did not hold at first, and held later.
    pub changed: BTreeSet<Id>,
    progress: work::HostProgress,
}

impl<S: Shell> Reconciler<S> {
    /// Makes a reconciler that applies these stages. It asks nothing yet. `shells`: one for each node of the cluster, in
    /// the order of its nodes.
    pub fn new(
        cluster: Arc<Cluster>,
        stages: &'static [Stage],
        pki: ClusterPki,
        shells: Vec<S>,
        run: Run,
        events: Events,
    ) -> Result<Self> {
        Self::with_stages(Operation::Apply, stages.to_vec(), (cluster, pki), shells, run, events)
    }

    /// Limits how many machines ironstrap speaks to at the same time. Call it once, before the first question.
    pub fn limit_connections(&self, n: usize) {
        self.places.forget_permits(Semaphore::MAX_PERMITS.saturating_sub(n));
    }

    /// Asks every machine once, all at the same time. A machine that does not answer is quarantined, with the reason.
    pub async fn observe(&mut self) {
        let (mut asking, since) = (JoinSet::new(), std::time::Instant::now());
        for (i, host) in self.hosts.iter_mut().enumerate() {
            host.execs += 1;
            let (shell, disconnects) = (host.shell.clone(), self.observes_only);
            let ask = work::ask(shell.clone(), host.questions());
            asking.spawn(async move {
                let said = ask.await;
                if disconnects {
                    shell.disconnect().await;
                }
                (i, said)
            });
        }
        let mut answered = Vec::new();
        while let Some(done) = asking.join_next().await {
            let Ok((i, result)) = done else { continue };
            self.take_answers(i, result);
            answered.push((i, since.elapsed().as_secs_f64()));
        }
        // The wants of one machine depend on all machines, so ironstrap judges none before all have answered.
        let fleet = self.fleet();
        for (i, seconds) in answered {
            let Some(answering) = self.hosts[i].machine.as_ref().map(|machine| machine.took) else {
                continue;
            };
            let stages = self.judge_all(i, &fleet).ok();
            stages.iter().for_each(|stages| self.keep_whether_clean(i, &fleet, stages));
            let stages = self.ours(i, stages.unwrap_or_default());
            self.count_pending(i, &stages);
            let (node, changes) = (self.hosts[i].node.name.clone(), stages.iter().flatten().count());
            self.events.tell(Event::Looked { node, changes, answering, seconds });
        }
    }

    /// Stores the answers of a machine, or quarantines it with the error.
    fn take_answers(&mut self, i: usize, result: Result<work::Said>) {
        let host = &mut self.hosts[i];
        match result {
            Ok(said) => {
                // The first script was counted when ironstrap sent it.
                host.execs += said.execs - 1;
                host.machine = Some(Machine { proven_key: host.shell.host_key(), ..said.machine });
                host.progress.entering = false;
                host.answers = said.answers;
                host.extra_answers = host.answers.split_off(host.asks.len());
                host.api_answers = host.hears_the_api();
                host.keys = host.package_keys();
                host.kubelets = host.told_by_kubelets();
                host.tunnels = host.answered_tunnels();
                host.progress.clean_for = None;
                host.clock = said.clock;
            }
            Err(error) => host.quarantined = Some(error.on(&host.node.name)),
        }
        self.tell_answers(i);
        let host = &self.hosts[i];
        let may_speak = host.node.is_control_plane() && !host.progress.stale;
        if may_speak && self.api_host_of(&Fleet::see(&self.cluster, &self.machines())) == Some(i) {
            self.unregistered = host.unknown_nodes();
            let ours: BTreeSet<&String> = self.hosts.iter().map(|host| &host.node.name).collect();
            let named = host.named_nodes();
            self.unmanaged_nodes = named.keys().filter(|name| !ours.contains(name)).cloned().collect();
            self.ranges = named.into_values().flatten().collect();
        }
    }

    fn machines(&self) -> Machines<'_> {
        self.hosts.iter().filter_map(|m| Some((m.node.name.as_str(), m.machine.as_ref()?))).collect()
    }

    pub fn fleet(&self) -> Fleet {
        let machines = self.machines();
        let mut fleet = Fleet::see(&self.cluster, &machines);
        // A machine may have begun to join since its last answer. Then a Node of its name is its own, and not one of an
        // earlier machine.
        let busy = |m: &Host<S>| m.machine.as_ref().is_some_and(|machine| !machine.busy.is_empty());
        let begun = self.hosts.iter().filter(|host| host.progress.entering || busy(host));
        fleet.joining_started.extend(begun.map(|host| host.node.name.clone()));
        let host = |name: &&String| machines.get(name.as_str()).is_some_and(|m| m.is_member());
        fleet.unregistered = self.unregistered.iter().filter(host).cloned().collect();
        fleet.unmanaged_nodes.clone_from(&self.unmanaged_nodes);
        fleet.ranges.clone_from(&self.ranges);
        let latest = OffsetDateTime::now_utc().unix_timestamp() + CLOCKS_WITHIN_SECONDS as i64;
        fleet.kubelets.values_mut().for_each(|since| *since = (*since).min(latest));
        for host in &self.hosts {
            fleet.kubelets_run.extend(host.kubelets.clone());
            if host.quarantined.is_none() && !host.progress.stale {
                fleet.tunnels.extend(host.tunnels.iter().cloned());
            }
            // A busy host is being asked or changed, so its next answer is still to come.
            let is_stale =
                host.progress.asked_after < self.fixes || host.progress.stale || host.progress.busy;
            if is_stale {
                fleet.stale.insert(host.node.name.clone());
            }
            fleet.kubelets_stale.extend(host.kubelets.keys().filter(|_| is_stale).cloned());
        }
        let quarantined = self.hosts.iter().filter(|host| host.quarantined.is_some());
        fleet.shown_keys.clone_from(&self.shown);
        fleet.package_key = keys::agreed(&self.cluster, &self.seen_keys());
        fleet.quarantined = quarantined.map(|host| host.node.name.clone()).collect();
        let speaks = self.api_host_of(&fleet);
        let pending = self.hosts.iter().enumerate().filter(|(i, host)| {
            speaks != Some(*i) && host.progress.pending > 0 && host.quarantined.is_none() && !host.excluded
        });
        fleet.pending = pending.map(|(_, host)| host.node.name.clone()).collect();
        fleet
    }

    pub fn hosts(&self) -> &[Host<S>] {
        &self.hosts
    }

    /// Allows this run to replace what needs this confirmation.
    pub fn confirm(&mut self, confirmation: &'static Confirmation) {
        self.confirmed.insert(confirmation);
    }
}

impl<S> Host<S> {
    /// Whether this host may still be joining. It was joining at its last answer, and ironstrap does not know how that
    /// ended.
    fn may_still_join(&self, fleet: &Fleet) -> bool {
        let at_it = self.machine.as_ref().is_some_and(|machine| !machine.busy.is_empty());
        self.quarantined.is_none()
            && fleet.joining.contains(&self.node.name)
            && (self.progress.stale || at_it)
    }

    /// All errors for which this host is quarantined.
    pub fn quarantined(&self) -> impl Iterator<Item = &Error> {
        self.quarantined.iter().chain(&self.preflight_errors)
    }

    fn questions(&self) -> Vec<Ask> {
        self.asks.iter().map(|(_, ask)| ask).chain(&self.extra_asks).cloned().collect()
    }
}
