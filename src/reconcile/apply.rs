//! Who is worked on next. Each time a piece of work ends, every node is looked at again and given what it can
//! do now; when nobody can do anything any more, the run is over.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::brake::interruptions;
use super::decide::Next;
use super::rest::{Turn, for_nodes};
use super::work::{self, Done};
use super::{Fleetwork, Reading};
use crate::error::{Error, Kind, Result};
use crate::fleet::{Blocked, Fleet};
use crate::machine::Machine;
use crate::plan::Change;
use crate::report::Event;
use crate::shell::Shell;
use crate::steps::{Needs, Via};

/// How often a machine that went away is tried again, each time after twice as long: two minutes in all, time
/// enough to reboot.
const RECONNECTS: u32 = 6;
/// How often a script may be cut before its first fix is done. A script that brings down the connection to its own
/// machine would be cut each time.
const CUTS: u32 = 3;

/// How soon the user wants it to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    Never,
    /// Nothing new is begun, and what runs is waited for.
    Soon,
    /// What runs on the machines is left to itself.
    Now,
}

pub(super) type Working = JoinSet<(usize, Done)>;

/// What is the same for all while everybody is looked at once.
struct Round {
    fleet: Fleet,
    /// Who speaks for the cluster.
    speaks: Option<usize>,
    /// Whether the init node has everything that a join needs. It is found out once, when a node first needs to know.
    door: OnceCell<bool>,
}

impl<S: Shell> Fleetwork<S> {
    /// Runs the fixes. `look` and `survey` come first. Ends when every node is converged or quarantined; the members
    /// say which.
    pub async fn apply(&mut self, stop: &mut tokio::sync::watch::Receiver<Stop>) -> Result<()> {
        if !self.take_first().await? {
            return Ok(());
        }
        let mut working = Working::new();
        loop {
            if *stop.borrow() == Stop::Never {
                self.hand_out(&mut working)?;
            }
            let done = tokio::select! {
                done = working.join_next() => done,
                Ok(_) = stop.wait_for(|stop| *stop == Stop::Now) => return Err(self.stopped("stopped at once")),
            };
            let Some(done) = done else { break };
            // Whatever else has ended by now is taken in with it: to look at everybody takes a while where there are many.
            for done in std::iter::once(done).chain(std::iter::from_fn(|| working.try_join_next())) {
                let (i, done) =
                    done.map_err(|e| Error::new(Kind::Failed, "a task broke off").because(e.to_string()))?;
                self.take_in(i, done);
            }
        }
        if *stop.borrow() != Stop::Never {
            self.look_back(stop).await?;
        }
        self.note_open()?;
        self.diagnose().await;
        self.release().await;
        match *stop.borrow() {
            Stop::Never => {
                self.give_up_on_the_spared();
                Ok(())
            }
            _ => Err(self.stopped("stopped after the fixes that were running")),
        }
    }

    /// Gives each node that has nothing to do the next piece of work it can do now.
    fn hand_out(&mut self, working: &mut Working) -> Result<()> {
        let mut again = true;
        // A node that is left, or has nothing left to do, can be what others waited for, or what lets them go.
        while again {
            again = false;
            for member in self.members.iter_mut().filter(|member| member.left.is_some()) {
                let disrupts = std::mem::take(&mut member.work.disrupts);
                member.work.broke.extend(disrupts);
            }
            let fleet = self.fleet();
            let round = Round { speaks: self.api(&fleet), fleet, door: OnceCell::new() };
            for i in 0..self.members.len() {
                if self.members[i].work.busy || self.members[i].left.is_some() {
                    continue;
                }
                let member = &self.members[i];
                let (pressing, disrupts) = (member.pressing, !member.work.disrupts.is_empty());
                let given_up = self.given_up.len();
                self.next(i, &round, working)?;
                let member = &self.members[i];
                again |= member.left.is_some() || self.given_up.len() > given_up;
                again |= pressing > 0 && member.pressing == 0 || disrupts && member.work.disrupts.is_empty();
            }
        }
        Ok(())
    }

    fn next(&mut self, i: usize, round: &Round, working: &mut Working) -> Result<()> {
        let member = &self.members[i];
        let Some(machine) = member.machine.as_ref().filter(|_| !member.work.stale) else {
            let lost = Duration::from_secs(1 << member.work.lost) - Duration::from_secs(1);
            let pause = std::mem::take(&mut self.members[i].work.pause);
            self.ask(i, lost + pause, working);
            return Ok(());
        };
        if let Some(error) = self.taken_over(member) {
            self.members[i].left = Some(error);
            return Ok(());
        }
        if let Some(unit) = machine.busy.first().cloned() {
            // A drain that an earlier run began is the business of the next, wherever it runs.
            let removes = matches!(self.reading, Reading::Removal(_)) && round.speaks == Some(i);
            if !member.spared || removes {
                self.attach(i, unit, working);
            }
            return Ok(());
        }
        self.advance(i, round, working)
    }

    /// Gives a node whose state is known the first piece of work that it needs and need not wait for.
    fn advance(&mut self, i: usize, round: &Round, working: &mut Working) -> Result<()> {
        if self.is_calm(i, &round.fleet) {
            self.went_well(i, &[]);
            self.members[i].work.disrupts.clear();
            return Ok(());
        }
        let (stages, speaks) = (self.judge_all(i, &round.fleet)?, round.speaks == Some(i));
        self.went_well(i, &stages);
        self.calm(i, &round.fleet, &stages);
        let stages = self.ours(i, stages);
        self.note(i, &stages, speaks);
        for turn in Turn::ALL {
            for (t, changes) in stages.iter().enumerate() {
                if changes.is_empty() || Turn::of(&self.stages[t]) != turn || (turn == Turn::Api && !speaks) {
                    continue;
                }
                // Who is left alone begins no cluster, and so there is none to tell anything about the others.
                if turn == Turn::Api && self.members[i].spared && !round.fleet.exists {
                    continue;
                }
                if turn == Turn::Rest && !self.rests(i, working) {
                    return Ok(());
                }
                match self.decide(i, changes) {
                    Next::Clean => continue,
                    Next::Again => self.ask(i, Duration::from_secs(1), working),
                    Next::Leave(wrong) => self.leave_stuck(i, t, wrong),
                    Next::Fix(changes) => match self.waits(i, t, &changes, round)? {
                        Some(for_what) => {
                            self.hold_back(i, &changes);
                            self.wait(i, for_what);
                        }
                        None => self.fix(i, t, changes, working),
                    },
                }
                return Ok(());
            }
        }
        self.members[i].work.disrupts.clear();
        if let Some((t, change)) = self.to_prove(i).filter(|_| speaks)
            && self.rests(i, working)
        {
            self.members[i].work.proves = true;
            self.fix(i, t, vec![change], working);
        }
        Ok(())
    }

    /// What a stage has to wait for before it may change anything.
    fn waits(&self, i: usize, t: usize, changes: &[Change], round: &Round) -> Result<Option<Blocked>> {
        let (member, fleet) = (&self.members[i], &round.fleet);
        match self.reading {
            Reading::Forwards => {}
            Reading::Removal(_) if self.stages[t].via == Via::Node => return self.still_in(fleet),
            _ => return Ok(None),
        }
        let is_member = member.machine.as_ref().is_some_and(Machine::is_member);
        if self.stages[t].needs == Needs::SeedFirst && member.node.name != fleet.seed {
            let seed = self.members.iter().position(|m| m.node.name == fleet.seed);
            let (clean, left) = match seed {
                Some(seed) => (self.lets_in(seed, round)?, self.members[seed].left.is_some()),
                None => (false, true),
            };
            if !(clean || is_member && left) {
                return Ok(Some(for_nodes(vec![fleet.seed.clone()])));
            }
            // etcd takes one learner at a time. One whose connection was lost may still be at it.
            let joins = |m: &&super::Member<S>| {
                let other = m.node.is_control_plane() && m.node.name != member.node.name;
                other && (m.work.stage == Some(t) || m.may_still_join(fleet))
            };
            let mut rivals = self.members.iter().filter(|_| member.node.is_control_plane());
            if let Some(other) = rivals.find(joins) {
                return Ok(Some(for_nodes(vec![other.node.name.clone()])));
            }
        }
        Ok(self.brake(i, changes))
    }

    /// Whether nodes may join: the init node has no change of its own left, and the cluster accepts joins.
    fn lets_in(&self, seed: usize, round: &Round) -> Result<bool> {
        if self.members[seed].work.busy
            && self.members[seed].work.stage.is_some_and(|t| self.stages[t].via == Via::Node)
        {
            return Ok(false);
        }
        if let Some(open) = round.door.get() {
            return Ok(*open);
        }
        let open = round.fleet.exists && self.is_open(seed, &round.fleet)?;
        Ok(*round.door.get_or_init(|| open))
    }

    fn is_open(&self, seed: usize, fleet: &Fleet) -> Result<bool> {
        let (stages, spared) = (self.judge_all(seed, fleet)?, self.members[seed].spared);
        let access = self.stages.iter().position(|stage| stage.via == Via::Api);
        // Of a seed that is left alone only what others enter by has to be right.
        let own = |t: usize| self.stages[t].is_own() && (!spared || self.stages[t].needs == Needs::SeedFirst);
        let door =
            |t: usize, change: &&Change| own(t) || Some(t) == access && self.concerns(seed, Via::Api, change);
        let clean = |(t, changes): (usize, &Vec<Change>)| {
            let mut matters = changes.iter().filter(|change| door(t, change));
            matters.all(|change| !change.state.holds_up())
        };
        Ok(stages.iter().enumerate().all(clean))
    }

    pub(super) fn ask(&mut self, i: usize, after: Duration, working: &mut Working) {
        let member = &mut self.members[i];
        member.execs += 1;
        member.work.disturbed = false;
        member.work.asked_after = self.fixes;
        let work = work::ask_later(member.shell.clone(), member.questions(), after);
        self.begin(i, working, work);
    }

    fn fix(&mut self, i: usize, t: usize, mut changes: Vec<Change>, working: &mut Working) {
        let left = match self.is_endless(i).map_or_else(|| self.time_left(i), Err) {
            Ok(left) => left,
            Err(error) => return self.members[i].leave(error.into()),
        };
        self.members[i].work.rounds += 1;
        if let Err(error) = self.sign(&mut changes) {
            let error = error.on(&self.members[i].node.name);
            return self.members[i].leave(error.into());
        }
        let member = &mut self.members[i];
        let is_member = member.machine.as_ref().is_some_and(Machine::is_member);
        (member.work.stage, member.work.holds) = (Some(t), true);
        (member.work.began, member.work.at_it) = (Some(Instant::now()), Some(Instant::now()));
        member.work.entering |= self.stages[t].needs == Needs::SeedFirst;
        member.work.disrupts = if is_member { interruptions(&changes) } else { BTreeSet::new() };
        let reaching = changes.iter().filter(|change| change.reaches);
        member.work.reaches = reaching.flat_map(|change| change.about.clone()).collect();
        member.execs += 1;
        let (node, stage) = (member.node.name.clone(), self.stages[t].name.to_string());
        if !member.work.proves {
            self.events.tell(Event::Stage { node: node.clone(), stage, changes: changes.len() });
        }
        let lease = member.machine.as_ref().and_then(|machine| machine.lease.clone());
        let run = (self.run.clone(), left);
        let work = work::fix(member.shell.clone(), node, run, lease, changes, self.events.clone());
        self.begin(i, working, work);
    }

    pub(super) fn begin(
        &mut self,
        i: usize,
        working: &mut Working,
        work: impl Future<Output = Done> + Send + 'static,
    ) {
        self.members[i].work.busy = true;
        self.members[i].work.waits = None;
        self.members[i].work.held_back_by.clear();
        working.spawn(async move { (i, work.await) });
    }

    fn take_in(&mut self, i: usize, done: Done) {
        let ended = self.members[i].work.stage.take();
        let work = &mut self.members[i].work;
        work.busy = false;
        work.spent += work.at_it.take().map_or(Duration::ZERO, |began| began.elapsed());
        match done {
            Done::Asked(result) => match *result {
                Err(error) if error.kind.may_come_back() && work.lost < RECONNECTS => {
                    (work.stale, work.lost) = (true, work.lost + 1);
                }
                result => {
                    (work.stale, work.lost) = (std::mem::take(&mut work.disturbed), 0);
                    self.heard(i, result);
                    self.judge_suspected(i);
                }
            },
            Done::Fixed(done, wrong) => {
                self.fixes += 1;
                let proves = std::mem::take(&mut work.proves) && wrong.is_none();
                work.stale = true;
                work.cut = if done.is_empty() && wrong.is_some() { work.cut + 1 } else { 0 };
                work.tried.extend(done.iter().cloned());
                match wrong {
                    // Nobody knows how far the script got; the machine does.
                    Some(wrong) if wrong.error.kind.may_come_back() && work.cut < CUTS => work.lost += 1,
                    Some(wrong) => self.blame(i, ended, wrong),
                    None => {}
                }
                self.proved(proves.then_some(&done[..]));
                self.disturb(i, ended);
            }
            Done::Attached(None) => work.stale = true,
            Done::Attached(Some(wrong)) => self.members[i].leave(wrong),
        }
    }

    /// A machine that joined shows up at the API, so what the API said before is out of date; and what machines said of
    /// themselves, where a fix for the whole cluster reached them.
    fn disturb(&mut self, i: usize, ended: Option<usize>) {
        let entered = ended.is_some_and(|t| self.stages[t].needs == Needs::SeedFirst);
        self.unregistered.retain(|name| !entered || *name != self.members[i].node.name);
        let api = entered.then(|| self.api(&self.fleet())).flatten().filter(|api| *api != i);
        let reached = std::mem::take(&mut self.members[i].work.reaches);
        let others = (0..self.members.len()).filter(|k| *k != i);
        let told: Vec<usize> =
            others.filter(|k| api == Some(*k) || reached.contains(&self.members[*k].node.name)).collect();
        for k in told {
            let work = &mut self.members[k].work;
            (work.stale, work.disturbed) = (true, work.busy);
        }
    }
}
