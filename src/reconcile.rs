//! The loop: ask, plan, fix the first unfinished stage, ask again. There is no separate check that a fix took:
//! the next ask is the check, and a run with nothing to do is one ask per node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::cluster::{Cluster, Node};
use crate::error::{Error, Kind, Result};
use crate::fleet::{self, Fleet, Machines};
use crate::ledger::Run;
use crate::machine::Machine;
use crate::pki::Trust;
use crate::plan::{self, Change, State};
use crate::probe::{self, Answer};
use crate::report::{Event, Events};
use crate::shell::Shell;
use crate::step::{Ask, Cx, Fix, Step, Want};
use crate::steps::{Stage, Via};

mod apply;
mod hold;
mod limit;
mod looks;
mod reading;
mod reset;
mod standing;
mod told;
mod work;

pub use apply::Stop;
pub use reading::Reading;
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
    /// How many machines may still be spoken to at the same time.
    places: Arc<Semaphore>,
    /// Wants of the API stages that did not hold when last judged.
    open: BTreeSet<String>,
}

/// What stands against touching machines.
pub struct Survey {
    pub errors: Vec<Error>,
    /// Nobody may be touched, not only those whom the errors name.
    pub blocked: bool,
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
    /// To `looks`, in their order; empty before the machine has answered.
    pub looked: Vec<Answer>,
    /// How far its clock is ahead of ours, in seconds.
    clock: f64,
    /// Why nothing more is done here.
    pub left: Option<Error>,
    /// It is asked, and otherwise left alone: this run is about others.
    pub spared: bool,
    /// Wants that did not hold when last judged.
    open: BTreeSet<String>,
    /// How many wants did not hold when last judged, without those that only wait for another node.
    pub pressing: usize,
    /// Wants that were found wrong and later right.
    pub changed: BTreeSet<String>,
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
            let ask = work::ask(member.shell.clone(), member.questions());
            asking.spawn(async move { (i, ask.await) });
        }
        while let Some(done) = asking.join_next().await {
            let Ok((i, result)) = done else { continue };
            self.heard(i, result);
            if let Some(machine) = &self.members[i].machine {
                let changes = self.judge(i).map_or(0, |stages| stages.iter().flatten().count());
                let (node, answering) = (self.members[i].node.name.clone(), machine.took);
                self.events.tell(Event::Looked {
                    node,
                    changes,
                    answering,
                    seconds: since.elapsed().as_secs_f64(),
                });
            }
        }
        for i in 0..self.members.len() {
            self.members[i].pressing = self.judge(i).map_or(0, |stages| pressing(&stages));
        }
    }

    /// Takes in what a machine said.
    fn heard(&mut self, i: usize, result: Result<work::Said>) {
        let member = &mut self.members[i];
        match result {
            Ok(said) => {
                member.machine = Some(said.machine);
                member.work.entering = false;
                member.answers = said.answers;
                member.looked = member.answers.split_off(member.asks.len());
                member.clock = said.clock;
            }
            Err(error) => member.left = Some(error.on(&member.node.name)),
        }
        self.tell_answers(i);
    }

    fn machines(&self) -> Machines {
        let known = self.members.iter().filter_map(|m| Some((m.node.name.clone(), m.machine.clone()?)));
        known.collect()
    }

    pub fn fleet(&self) -> Fleet {
        let mut fleet = Fleet::see(&self.cluster, &self.machines());
        // Whoever has begun to join since it was last heard of: a Node of that name is no earlier machine's.
        let busy = |m: &Member<S>| m.machine.as_ref().is_some_and(|machine| !machine.busy.is_empty());
        let begun = self.members.iter().filter(|member| member.work.entering || busy(member));
        fleet.half_joined.extend(begun.map(|member| member.node.name.clone()));
        fleet
    }

    pub fn members(&self) -> &[Member<S>] {
        &self.members
    }

    /// The control plane that is asked about the cluster as a whole: one whose API server answers, else the seed.
    fn api(&self, fleet: &Fleet) -> Option<usize> {
        let answers = |member: &Member<S>| {
            let unknown = |((_, ask), answer): (&(usize, Ask), &Answer)| {
                matches!((ask, answer), (Ask::Objects(_), Answer::Unknown(_)))
            };
            let runs = member.machine.as_ref().is_some_and(Machine::runs_control_plane);
            member.left.is_none() && runs && !member.asks.iter().zip(&member.answers).any(unknown)
        };
        let seed = || self.members.iter().position(|member| member.node.name == fleet.seed);
        let ours = self.members.iter().position(|member| !member.spared && answers(member));
        ours.or_else(|| self.members.iter().position(answers)).or_else(seed)
    }

    /// What does not hold on a node, by stage; of the stages for the whole cluster only where it speaks for it.
    fn judge(&self, i: usize) -> Result<Vec<Vec<Change>>> {
        self.judge_in(i, &self.fleet())
    }

    /// The same, for this state of the fleet.
    fn judge_in(&self, i: usize, fleet: &Fleet) -> Result<Vec<Vec<Change>>> {
        let mut stages = self.judge_all(i, fleet)?;
        for (stage, changes) in self.stages.iter().zip(&mut stages) {
            changes.retain(|change| self.concerns(i, stage.via, change));
        }
        Ok(stages)
    }

    /// The same, whether it is any business of this run or not.
    fn judge_all(&self, i: usize, fleet: &Fleet) -> Result<Vec<Vec<Change>>> {
        let member = &self.members[i];
        let nothing = || self.stages.iter().map(|_| vec![]).collect();
        let Some(machine) = &member.machine else { return Ok(nothing()) };
        let wants = self.wants_of(member, machine, fleet)?;
        let mut answers = member.answers.iter();
        let speaks = self.api(fleet) == Some(i);
        let judged = self.stages.iter().zip(&wants).map(|(stage, wants)| {
            let pairs: Vec<plan::Judged> = wants
                .iter()
                .zip(answers.by_ref())
                .map(|((step, want), answer)| (*step, want, answer))
                .collect();
            if stage.via == Via::Api && !speaks { vec![] } else { plan::changes(&pairs) }
        });
        Ok(judged.collect())
    }

    /// All wants of a node by stage, each with its step.
    fn wants_of(
        &self,
        member: &Member<S>,
        machine: &Machine,
        fleet: &Fleet,
    ) -> Result<Vec<Vec<(&'static Step, Want)>>> {
        let cx = Cx {
            cluster: &self.cluster,
            node: &member.node,
            trust: &self.trust,
            now: OffsetDateTime::now_utc(),
            machine,
            fleet,
        };
        self.stages.iter().map(|stage| self.reading.wants(stage, &cx)).collect()
    }

    /// The whole plan, by node. Wants of which nobody knows whether they hold are in it, and marked.
    pub fn plan(&self) -> Result<Vec<(String, Vec<Change>)>> {
        let fleet = self.fleet();
        let changes = |(i, member): (usize, &Member<S>)| {
            Ok((member.node.name.clone(), self.judge_in(i, &fleet)?.into_iter().flatten().collect()))
        };
        self.members.iter().enumerate().map(changes).collect()
    }

    /// How many wants there are in all, on machines that answered.
    pub fn wants(&self) -> usize {
        let speaks = self.api(&self.fleet());
        let counted = |i: usize, member: &Member<S>| {
            let counts = |stage: usize| self.stages[stage].via == Via::Node || speaks == Some(i);
            let asked = member.machine.is_some() && !member.spared;
            member.asks.iter().filter(|(stage, _)| asked && counts(*stage)).count()
        };
        self.members.iter().enumerate().map(|(i, member)| counted(i, member)).sum()
    }

    /// What stands against touching machines, and whether it stands against touching any.
    ///
    /// While no cluster exists nobody is touched while anybody is unfit; once there is one, the unfit are left and
    /// the others go on. `kept`: where the trust is, and whether there is one.
    pub fn survey(&mut self, kept: (&str, bool)) -> Survey {
        let (fleet, machines) = (self.fleet(), self.machines());
        let clocks = self.members.iter().filter(|m| m.machine.is_some());
        let clocks: BTreeMap<String, f64> = clocks.map(|m| (m.node.name.clone(), m.clock)).collect();
        // A machine of another cluster is not asked for more; one with a misfit is, so that all is said at once.
        let mut errors = fleet::misfits(&machines, &clocks);
        errors.retain(|error| self.stands_in_the_way(error, &fleet));
        let misfits = errors.len();
        let refusals = fleet::refusals(&self.cluster, &machines, &self.trust, kept);
        let blocked = !fleet.exists
            || refusals.iter().any(|(_, everybody)| *everybody)
            || errors.iter().any(|error| error.node.is_none());
        let matters = |(error, all): &(Error, bool)| *all || self.stands_in_the_way(error, &fleet);
        errors.extend(refusals.into_iter().filter(matters).map(|(error, _)| error));
        for i in 0..self.members.len() {
            let name = &self.members[i].node.name;
            let known = errors[misfits..].iter().any(|error| error.node.as_ref() == Some(name));
            if let Some(stages) = self.judge_in(i, &fleet).ok().filter(|_| !known) {
                errors.extend(stages.first().and_then(|preflight| unfit(&self.members[i].node, preflight)));
            }
        }
        for i in 0..self.members.len() {
            let member = &mut self.members[i];
            match errors.iter().find(|error| error.node.as_ref() == Some(&member.node.name)) {
                Some(error) => drop(member.left.get_or_insert(error.clone())),
                None => {
                    let silent = member.left.clone();
                    errors.extend(silent.filter(|error| self.stands_in_the_way(error, &fleet)));
                }
            }
        }
        Survey { blocked: blocked && !errors.is_empty(), errors }
    }
}

impl<S> Member<S> {
    /// It was joining when last heard of, and nobody knows how that ended.
    fn may_still_join(&self, fleet: &Fleet) -> bool {
        let at_it = self.machine.as_ref().is_some_and(|machine| !machine.busy.is_empty());
        self.left.is_none() && fleet.joining.contains(&self.node.name) && (self.work.stale || at_it)
    }

    fn questions(&self) -> Vec<Ask> {
        self.asks.iter().map(|(_, ask)| ask).chain(&self.looks).cloned().collect()
    }
}

/// How many wants do not hold, without those that only wait for another node.
fn pressing(stages: &[Vec<Change>]) -> usize {
    stages.iter().flatten().filter(|change| !matches!(change.state, State::Waits(_))).count()
}

/// Everything that only a human can change on a machine, as one error.
fn unfit(node: &Node, preflight: &[Change]) -> Option<Error> {
    if preflight.is_empty() {
        return None;
    }
    let unknown = preflight.iter().any(|change| matches!(change.state, State::Unknown { .. }));
    let (kind, what) = match unknown {
        true => (Kind::Unknown, "cannot tell whether it is fit"),
        false => (Kind::Refused, "is not fit for the cluster"),
    };
    let mut error = Error::new(kind, what).on(&node.name);
    let mut hints: Vec<&str> = Vec::new();
    for change in preflight {
        match &change.state {
            State::Unknown { why, .. } => {
                error = error.because(format!("{}: cannot tell: {why}", change.that))
            }
            _ => {
                error = error.because(format!(
                    "not so: {}; it has: {}",
                    change.that,
                    change.have.replace('\n', ", ")
                ))
            }
        }
        if let Fix::ByHand(hint) = &change.fix {
            hints.push(hint);
        }
    }
    Some(if hints.is_empty() { error } else { error.hint(hints.join("; ")) })
}

/// Seconds since 1970 by our own clock.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// A word that no output contains.
fn boundary() -> Result<String> {
    probe::boundary().map_err(|e| Error::new(Kind::Local, "no randomness to be had").because(e))
}
