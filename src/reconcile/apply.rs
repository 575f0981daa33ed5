//! Decides which node works next. Each time a piece of work ends, ironstrap judges every node again, and starts what each
//! can do now. The run ends when no node can do anything more.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::brake::interruptions;
use super::decide::Next;
use super::turn::{Turn, for_nodes};
use super::work::{self, Done};
use super::{Operation, Reconciler};
use crate::error::{Error, Kind, Result};
use crate::fleet::{Blocked, Fleet};
use crate::machine::Machine;
use crate::plan::Change;
use crate::report::Event;
use crate::shell::Shell;
use crate::steps::{Needs, Via};

/// How many times ironstrap tries again to reach a machine that went away. Each pause is twice as long as the one before.
/// The pauses are two minutes in all, which is enough for a reboot.
const RECONNECTS: u32 = 6;
/// How many times in a row a script may break off before its first fix is done. A script that breaks the connection to its
/// own machine would break off each time.
const CUTS: u32 = 3;

/// How soon the user wants the run to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    Never,
    /// ironstrap starts nothing new, and waits for what runs.
    Soon,
    /// ironstrap does not wait for what runs on the machines.
    Now,
}

pub(super) type Working = JoinSet<(usize, Done)>;

/// The values that stay the same while ironstrap judges every node once.
struct Round {
    fleet: Fleet,
    /// The index of the API host: the control plane whose API server is asked about the cluster.
    speaks: Option<usize>,
    /// Whether the init node has everything that a join needs. ironstrap determines it once, when a node first needs to
    /// know.
    door: OnceCell<bool>,
}

impl<S: Shell> Reconciler<S> {
    /// Runs the fixes. Call `observe` and `preflight` first. Ends when every node is converged or quarantined. `hosts` says
    /// which.
    pub async fn apply(&mut self, stop: &mut tokio::sync::watch::Receiver<Stop>) -> Result<()> {
        if !self.acquire_first().await? {
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
            // Takes in all other work that has ended by now, too, because judging every node takes a while if there are
            // many.
            for done in std::iter::once(done).chain(std::iter::from_fn(|| working.try_join_next())) {
                let (i, done) = done.map_err(|e| {
                    Error::new(Kind::Failed, "an internal task failed").because(e.to_string())
                })?;
                self.take_in(i, done);
            }
        }
        if *stop.borrow() != Stop::Never {
            self.refresh(stop).await?;
        }
        self.note_unmet()?;
        self.diagnose().await;
        self.release().await;
        match *stop.borrow() {
            Stop::Never => {
                self.quarantine_waiting_for_excluded();
                Ok(())
            }
            _ => Err(self.stopped("stopped after the fixes that were running")),
        }
    }

    /// Gives each node that has nothing to do the next piece of work it can do now.
    fn hand_out(&mut self, working: &mut Working) -> Result<()> {
        let mut again = true;
        // Others may have waited for a node that was just quarantined, or that has nothing left to do. They can go on now.
        while again {
            again = false;
            for host in self.hosts.iter_mut().filter(|host| host.quarantined.is_some()) {
                let disrupts = std::mem::take(&mut host.progress.disrupts);
                host.progress.broke.extend(disrupts);
            }
            let fleet = self.fleet();
            let round = Round { speaks: self.api_host_of(&fleet), fleet, door: OnceCell::new() };
            for i in 0..self.hosts.len() {
                if self.hosts[i].progress.busy || self.hosts[i].quarantined.is_some() {
                    continue;
                }
                let host = &self.hosts[i];
                let (pressing, disrupts) = (host.pending, !host.progress.disrupts.is_empty());
                let failed = self.failed_wants.len();
                self.next(i, &round, working)?;
                let host = &self.hosts[i];
                again |= host.quarantined.is_some() || self.failed_wants.len() > failed;
                again |= pressing > 0 && host.pending == 0 || disrupts && host.progress.disrupts.is_empty();
            }
        }
        Ok(())
    }

    fn next(&mut self, i: usize, round: &Round, working: &mut Working) -> Result<()> {
        let host = &self.hosts[i];
        let Some(machine) = host.machine.as_ref().filter(|_| !host.progress.stale) else {
            let lost = Duration::from_secs(1 << host.progress.lost) - Duration::from_secs(1);
            let pause = std::mem::take(&mut self.hosts[i].progress.pause);
            self.ask(i, lost + pause, working);
            return Ok(());
        };
        if let Some(error) = self.taken_over(host) {
            self.hosts[i].quarantined = Some(error);
            return Ok(());
        }
        if let Some(unit) = machine.busy.first().cloned() {
            // The next run follows a drain that an earlier run began, on whichever machine that drain runs.
            let removes = matches!(self.operation, Operation::Remove(_)) && round.speaks == Some(i);
            if !host.excluded || removes {
                self.attach(i, unit, working);
            }
            return Ok(());
        }
        self.advance(i, round, working)
    }

    /// Starts the first piece of work that a node needs and that need not wait. The state of the node is known.
    fn advance(&mut self, i: usize, round: &Round, working: &mut Working) -> Result<()> {
        if self.is_known_clean(i, &round.fleet) {
            self.went_well(i, &[]);
            self.hosts[i].progress.disrupts.clear();
            return Ok(());
        }
        let (stages, speaks) = (self.judge_all(i, &round.fleet)?, round.speaks == Some(i));
        self.went_well(i, &stages);
        self.keep_whether_clean(i, &round.fleet, &stages);
        let stages = self.ours(i, stages);
        self.note(i, &stages, speaks);
        for turn in Turn::ALL {
            for (t, changes) in stages.iter().enumerate() {
                if changes.is_empty() || Turn::of(&self.stages[t]) != turn || (turn == Turn::Api && !speaks) {
                    continue;
                }
                // An excluded host creates no cluster, so no API server exists that could answer about the others.
                if turn == Turn::Api && self.hosts[i].excluded && !round.fleet.exists {
                    continue;
                }
                if turn == Turn::Last && !self.others_are_done(i, working) {
                    return Ok(());
                }
                match self.decide(i, changes) {
                    Next::Clean => continue,
                    Next::Again => self.ask(i, Duration::from_secs(1), working),
                    Next::Leave(failure) => self.quarantine_stuck(i, t, failure),
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
        self.hosts[i].progress.disrupts.clear();
        if let Some((t, change)) = self.to_prove(i).filter(|_| speaks)
            && self.others_are_done(i, working)
        {
            self.hosts[i].progress.proves = true;
            self.fix(i, t, vec![change], working);
        }
        Ok(())
    }

    /// The nodes or programs that a stage has to wait for before it may change anything.
    fn waits(&self, i: usize, t: usize, changes: &[Change], round: &Round) -> Result<Option<Blocked>> {
        let (host, fleet) = (&self.hosts[i], &round.fleet);
        match self.operation {
            Operation::Apply => {}
            Operation::Remove(_) if self.stages[t].via == Via::Node => return self.still_in(fleet),
            _ => return Ok(None),
        }
        let is_member = host.machine.as_ref().is_some_and(Machine::is_member);
        if self.stages[t].needs == Needs::AfterInit && host.node.name != fleet.init_node {
            let init_node = self.hosts.iter().position(|m| m.node.name == fleet.init_node);
            let (clean, left) = match init_node {
                Some(init_node) => {
                    (self.accepts_joins(init_node, round)?, self.hosts[init_node].quarantined.is_some())
                }
                None => (false, true),
            };
            if !(clean || is_member && left) {
                return Ok(Some(for_nodes(vec![fleet.init_node.clone()])));
            }
            // etcd accepts one learner at a time. A machine whose connection was lost may still be joining.
            let joins = |m: &&super::Host<S>| {
                let other = m.node.is_control_plane() && m.node.name != host.node.name;
                other && (m.progress.stage == Some(t) || m.may_still_join(fleet))
            };
            let mut rivals = self.hosts.iter().filter(|_| host.node.is_control_plane());
            if let Some(other) = rivals.find(joins) {
                return Ok(Some(for_nodes(vec![other.node.name.clone()])));
            }
        }
        Ok(self.brake(i, changes))
    }

    /// Whether nodes may join: the init node has no change of its own left, and the cluster accepts joins.
    fn accepts_joins(&self, init_node: usize, round: &Round) -> Result<bool> {
        if self.hosts[init_node].progress.busy
            && self.hosts[init_node].progress.stage.is_some_and(|t| self.stages[t].via == Via::Node)
        {
            return Ok(false);
        }
        if let Some(open) = round.door.get() {
            return Ok(*open);
        }
        let open = round.fleet.exists && self.api_lets_nodes_join(init_node, &round.fleet)?;
        Ok(*round.door.get_or_init(|| open))
    }

    fn api_lets_nodes_join(&self, init_node: usize, fleet: &Fleet) -> Result<bool> {
        let (stages, excluded) = (self.judge_all(init_node, fleet)?, self.hosts[init_node].excluded);
        let access = self.stages.iter().position(|stage| stage.via == Via::Api);
        // If the init node is excluded, only what other nodes need for a join must hold there.
        let own =
            |t: usize| self.stages[t].is_own() && (!excluded || self.stages[t].needs == Needs::AfterInit);
        let door = |t: usize, change: &&Change| {
            own(t) || Some(t) == access && self.is_in_scope(init_node, Via::Api, change)
        };
        let clean = |(t, changes): (usize, &Vec<Change>)| {
            let mut matters = changes.iter().filter(|change| door(t, change));
            matters.all(|change| !change.state.blocks_others())
        };
        Ok(stages.iter().enumerate().all(clean))
    }

    pub(super) fn ask(&mut self, i: usize, after: Duration, working: &mut Working) {
        let host = &mut self.hosts[i];
        host.execs += 1;
        host.progress.disturbed = false;
        host.progress.asked_after = self.fixes;
        let work = work::ask_later(host.shell.clone(), host.questions(), after);
        self.begin(i, working, work);
    }

    fn fix(&mut self, i: usize, t: usize, mut changes: Vec<Change>, working: &mut Working) {
        let left = match self.is_endless(i).map_or_else(|| self.time_left(i), Err) {
            Ok(left) => left,
            Err(error) => return self.hosts[i].quarantine_and_ask_why(error.into()),
        };
        self.hosts[i].progress.rounds += 1;
        if let Err(error) = self.sign(&mut changes) {
            let error = error.on(&self.hosts[i].node.name);
            return self.hosts[i].quarantine_and_ask_why(error.into());
        }
        let host = &mut self.hosts[i];
        let is_member = host.machine.as_ref().is_some_and(Machine::is_member);
        (host.progress.stage, host.progress.holds) = (Some(t), true);
        (host.progress.began, host.progress.at_it) = (Some(Instant::now()), Some(Instant::now()));
        host.progress.entering |= self.stages[t].needs == Needs::AfterInit;
        host.progress.disrupts = if is_member { interruptions(&changes) } else { BTreeSet::new() };
        let reaching = changes.iter().filter(|change| change.invalidates);
        host.progress.invalidates = reaching.flat_map(|change| change.about.clone()).collect();
        host.execs += 1;
        let (node, stage) = (host.node.name.clone(), self.stages[t].name.to_string());
        if !host.progress.proves {
            self.events.tell(Event::Stage { node: node.clone(), stage, changes: changes.len() });
        }
        let lease = host.machine.as_ref().and_then(|machine| machine.lease.clone());
        let run = (self.run.clone(), left);
        let work = work::fix(host.shell.clone(), node, run, lease, changes, self.events.clone());
        self.begin(i, working, work);
    }

    pub(super) fn begin(
        &mut self,
        i: usize,
        working: &mut Working,
        work: impl Future<Output = Done> + Send + 'static,
    ) {
        self.hosts[i].progress.busy = true;
        self.hosts[i].progress.waits = None;
        self.hosts[i].progress.held_back_by.clear();
        working.spawn(async move { (i, work.await) });
    }

    fn take_in(&mut self, i: usize, done: Done) {
        let ended = self.hosts[i].progress.stage.take();
        let work = &mut self.hosts[i].progress;
        work.busy = false;
        work.spent += work.at_it.take().map_or(Duration::ZERO, |began| began.elapsed());
        match done {
            Done::Asked(result) => match *result {
                Err(error) if error.kind.may_come_back() && work.lost < RECONNECTS => {
                    (work.stale, work.lost) = (true, work.lost + 1);
                }
                result => {
                    (work.stale, work.lost) = (std::mem::take(&mut work.disturbed), 0);
                    self.take_answers(i, result);
                    self.judge_suspected(i);
                }
            },
            Done::Fixed(done, failure) => {
                self.fixes += 1;
                let proves = std::mem::take(&mut work.proves) && failure.is_none();
                work.stale = true;
                work.cut = if done.is_empty() && failure.is_some() { work.cut + 1 } else { 0 };
                work.tried.extend(done.iter().cloned());
                match failure {
                    // ironstrap does not know how far the script got, so it asks the machine again.
                    Some(failure) if failure.error.kind.may_come_back() && work.cut < CUTS => work.lost += 1,
                    Some(failure) => self.blame(i, ended, failure),
                    None => {}
                }
                self.proved(proves.then_some(&done[..]));
                self.disturb(i, ended);
            }
            Done::Attached(None) => work.stale = true,
            Done::Attached(Some(failure)) => self.hosts[i].quarantine_and_ask_why(failure),
        }
    }

    /// Marks the answers that a fix made stale. A machine that joined appears in the API, so what the API host said before
    /// is out of date. If a fix for the whole cluster changed other machines, what those said is out of date, too.
    fn disturb(&mut self, i: usize, ended: Option<usize>) {
        let entered = ended.is_some_and(|t| self.stages[t].needs == Needs::AfterInit);
        self.unregistered.retain(|name| !entered || *name != self.hosts[i].node.name);
        let api = entered.then(|| self.api_host_of(&self.fleet())).flatten().filter(|api| *api != i);
        let reached = std::mem::take(&mut self.hosts[i].progress.invalidates);
        let others = (0..self.hosts.len()).filter(|k| *k != i);
        let told: Vec<usize> =
            others.filter(|k| api == Some(*k) || reached.contains(&self.hosts[*k].node.name)).collect();
        for k in told {
            let work = &mut self.hosts[k].progress;
            (work.stale, work.disturbed) = (true, work.busy);
        }
    }
}
