//! The loop: ask, plan, fix the first unfinished stage, ask again. There is no separate check that a fix took:
//! the next ask is the check, and a run with nothing to do is one ask per node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::cluster::{Cluster, Node};
use crate::diagnosis::Heard;
use crate::error::{Error, Result};
use crate::fleet::identity::Misfit;
use crate::fleet::{CLOCKS_WITHIN_SECONDS, Fleet, Machines, keys};
use crate::ledger::Run;
use crate::machine::Machine;
use crate::openpgp::Keys;
use crate::pki::Trust;
use crate::probe::Answer;
use crate::report::{Event, Events};
use crate::shell::Shell;
use crate::step::{Ask, Confirmation, Id};
use crate::steps::Stage;

mod apply;
mod blame;
mod brake;
mod credentials;
mod decide;
mod diagnose;
mod endless;
mod hold;
mod judge;
mod limit;
mod limits;
mod looks;
mod prove;
mod reading;
mod remedies;
mod reset;
mod rest;
mod standing;
mod survey;
mod told;
mod trial;
mod unmet;
mod work;

pub use apply::Stop;
pub use decide::CANNOT_TELL;
pub use judge::Note;
pub use limits::Limits;
pub use reading::Reading;
pub use survey::Survey;
use told::Told;

/// How long an API server may take to come back after a change, and a machine to answer again.
const PATIENCE: Duration = Duration::from_secs(120);

/// A fleet and what is known of it. `look` first; then either read the plan or `apply` it.
pub struct Fleetwork<S> {
    cluster: Arc<Cluster>,
    reading: Reading,
    stages: Vec<Stage>,
    trust: Trust,
    members: Vec<Member<S>>,
    run: Run,
    events: Events,
    /// Nothing is run after the questions, so no machine is held on to.
    looks_only: bool,
    /// How many machines may still be spoken to at the same time.
    places: Arc<Semaphore>,
    /// Wants of the API stages that did not hold when last judged.
    open: unmet::Unmet,
    /// What machines said after something failed.
    heard: Vec<Heard>,
    /// Members of which the API last said that it has no Node.
    unregistered: BTreeSet<String>,
    strangers: BTreeSet<String>,
    /// What came of trying out machines that are to join.
    tried: Vec<Misfit>,
    /// The signing key of the Kubernetes repository, as it was shown to machines in this run.
    shown: BTreeMap<String, Keys>,
    /// Ranges of pods that the cluster's Nodes have.
    ranges: BTreeSet<String>,
    /// What the survey found that does not stand in the way.
    told: Vec<Note>,
    /// How many scripts of fixes have ended.
    fixes: usize,
    /// What the operator confirmed on its own.
    confirmed: BTreeSet<&'static Confirmation>,
    proof: prove::Proof,
    /// Wants about workers that went wrong, and are not tried again in this run.
    given_up: BTreeSet<Id>,
}

/// One node, its shell, and the last that it said.
pub struct Member<S> {
    pub node: Node,
    shell: Arc<Told<S>>,
    /// Stage and question, in the order in which they are asked.
    asks: Vec<(usize, Ask)>,
    /// Questions that no want asks; they come after all others.
    looks: Vec<Ask>,
    pub execs: u32,
    pub machine: Option<Machine>,
    answers: Vec<Answer>,
    /// The signing key of the Kubernetes repository in its file; `None` where there is none.
    keys: Option<Keys>,
    /// What kubelets told its API server of their settings.
    kubelets: BTreeMap<String, Arc<str>>,
    /// Nodes that answered it at the end of flannel's tunnel.
    tunnels: BTreeSet<String>,
    /// Its API server had an answer to every question about the cluster.
    api_answers: bool,
    /// To `looks`, in their order; empty before the machine has answered.
    pub looked: Vec<Answer>,
    /// How far its clock is ahead of ours, in seconds.
    clock: f64,
    /// Why nothing more is done here.
    pub left: Option<Error>,
    /// What else the survey had against it.
    unfit: Vec<Error>,
    /// It is asked, and otherwise left alone: this run is about others.
    pub spared: bool,
    /// Wants that did not hold when last judged.
    open: unmet::Unmet,
    /// How many wants did not hold when last judged, without those that only wait for another node.
    pub pressing: usize,
    /// Wants that were found wrong and later right.
    pub changed: BTreeSet<Id>,
    work: work::State,
}

impl<S: Shell> Fleetwork<S> {
    /// `shells`: one for each node of the cluster, in its order. Asks nothing yet.
    pub fn new(
        cluster: Arc<Cluster>,
        stages: &'static [Stage],
        trust: Trust,
        shells: Vec<S>,
        run: Run,
        events: Events,
    ) -> Result<Self> {
        Self::read(Reading::Forwards, stages.to_vec(), (cluster, trust), shells, run, events)
    }

    /// Speaks to at most `n` machines at the same time. To be called once, before anything is asked.
    pub fn at_most(&self, n: usize) {
        self.places.forget_permits(Semaphore::MAX_PERMITS.saturating_sub(n));
    }

    /// Asks every machine once, all at the same time. Who does not answer is left, with the reason.
    pub async fn look(&mut self) {
        let (mut asking, since) = (JoinSet::new(), std::time::Instant::now());
        for (i, member) in self.members.iter_mut().enumerate() {
            member.execs += 1;
            let (shell, rests) = (member.shell.clone(), self.looks_only);
            let ask = work::ask(shell.clone(), member.questions());
            asking.spawn(async move {
                let said = ask.await;
                if rests {
                    shell.rest().await;
                }
                (i, said)
            });
        }
        let mut answered = Vec::new();
        while let Some(done) = asking.join_next().await {
            let Ok((i, result)) = done else { continue };
            self.heard(i, result);
            answered.push((i, since.elapsed().as_secs_f64()));
        }
        // What is wanted of one depends on all, so nobody is judged before.
        let fleet = self.fleet();
        for (i, seconds) in answered {
            let Some(answering) = self.members[i].machine.as_ref().map(|machine| machine.took) else {
                continue;
            };
            let stages = self.judge_all(i, &fleet).ok();
            stages.iter().for_each(|stages| self.calm(i, &fleet, stages));
            let stages = self.ours(i, stages.unwrap_or_default());
            self.press(i, &stages);
            let (node, changes) = (self.members[i].node.name.clone(), stages.iter().flatten().count());
            self.events.tell(Event::Looked { node, changes, answering, seconds });
        }
    }

    /// Takes in what a machine said.
    fn heard(&mut self, i: usize, result: Result<work::Said>) {
        let member = &mut self.members[i];
        match result {
            Ok(said) => {
                // One was counted when it was asked.
                member.execs += said.execs - 1;
                member.machine = Some(Machine { proven_key: member.shell.host_key(), ..said.machine });
                member.work.entering = false;
                member.answers = said.answers;
                member.looked = member.answers.split_off(member.asks.len());
                member.api_answers = member.hears_the_api();
                member.keys = member.package_keys();
                member.kubelets = member.told_by_kubelets();
                member.tunnels = member.answered_tunnels();
                member.work.calm = None;
                member.clock = said.clock;
            }
            Err(error) => member.left = Some(error.on(&member.node.name)),
        }
        self.tell_answers(i);
        let member = &self.members[i];
        let may_speak = member.node.is_control_plane() && !member.work.stale;
        if may_speak && self.api(&Fleet::see(&self.cluster, &self.machines())) == Some(i) {
            self.unregistered = member.unknown_nodes();
            let ours: BTreeSet<&String> = self.members.iter().map(|member| &member.node.name).collect();
            let named = member.named_nodes();
            self.strangers = named.keys().filter(|name| !ours.contains(name)).cloned().collect();
            self.ranges = named.into_values().flatten().collect();
        }
    }

    fn machines(&self) -> Machines<'_> {
        self.members.iter().filter_map(|m| Some((m.node.name.as_str(), m.machine.as_ref()?))).collect()
    }

    pub fn fleet(&self) -> Fleet {
        let machines = self.machines();
        let mut fleet = Fleet::see(&self.cluster, &machines);
        // A machine may have begun to join since its last answer. Then a Node of its name is no earlier machine's.
        let busy = |m: &Member<S>| m.machine.as_ref().is_some_and(|machine| !machine.busy.is_empty());
        let begun = self.members.iter().filter(|member| member.work.entering || busy(member));
        fleet.half_joined.extend(begun.map(|member| member.node.name.clone()));
        let member = |name: &&String| machines.get(name.as_str()).is_some_and(|m| m.is_member());
        fleet.unregistered = self.unregistered.iter().filter(member).cloned().collect();
        fleet.strangers.clone_from(&self.strangers);
        fleet.ranges.clone_from(&self.ranges);
        let latest = OffsetDateTime::now_utc().unix_timestamp() + CLOCKS_WITHIN_SECONDS as i64;
        fleet.kubelets.values_mut().for_each(|since| *since = (*since).min(latest));
        for member in &self.members {
            fleet.kubelets_run.extend(member.kubelets.clone());
            fleet.tunnels.extend(member.tunnels.iter().cloned());
            // Of one that is being asked, the answer is still to come.
            let is_stale = member.work.asked_after < self.fixes || member.work.stale || member.work.busy;
            fleet.kubelets_stale.extend(member.kubelets.keys().filter(|_| is_stale).cloned());
        }
        let given_up = self.members.iter().filter(|member| member.left.is_some());
        fleet.shown_keys.clone_from(&self.shown);
        fleet.package_key = keys::agreed(&self.cluster, &self.seen_keys());
        fleet.given_up = given_up.map(|member| member.node.name.clone()).collect();
        let speaks = self.api(&fleet);
        let unmended = self.members.iter().enumerate().filter(|(i, member)| {
            speaks != Some(*i) && member.work.unmended > 0 && member.left.is_none() && !member.spared
        });
        fleet.unmended = unmended.map(|(_, member)| member.node.name.clone()).collect();
        fleet
    }

    pub fn members(&self) -> &[Member<S>] {
        &self.members
    }

    /// Lets this run replace what needs this confirmation.
    pub fn confirm(&mut self, confirmation: &'static Confirmation) {
        self.confirmed.insert(confirmation);
    }
}

impl<S> Member<S> {
    /// It was joining when last heard of, and nobody knows how that ended.
    fn may_still_join(&self, fleet: &Fleet) -> bool {
        let at_it = self.machine.as_ref().is_some_and(|machine| !machine.busy.is_empty());
        self.left.is_none() && fleet.joining.contains(&self.node.name) && (self.work.stale || at_it)
    }

    /// All that it was left for.
    pub fn wrong(&self) -> impl Iterator<Item = &Error> {
        self.left.iter().chain(&self.unfit)
    }

    fn questions(&self) -> Vec<Ask> {
        self.asks.iter().map(|(_, ask)| ask).chain(&self.looks).cloned().collect()
    }
}
