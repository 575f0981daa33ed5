//! Holding the machines: one run at a time changes them, and knows when it was put out.

use tokio::task::JoinSet;

use super::limits::Limits;
use super::{Fleetwork, Member, Reading};
use crate::error::{Error, Kind, Result};
use crate::ledger::{self, Kin};
use crate::machine::UNIT;
use crate::plan::State;
use crate::shell::Shell;

impl<S> Member<S> {
    fn is_silent(&self) -> bool {
        self.left.as_ref().is_some_and(|error| error.kind == Kind::Silent)
    }
}

impl<S: Shell> Fleetwork<S> {
    /// What this run may take: machines of its `kin`, and with `take_over` those that any other run holds. Call it under the
    /// lock, before `others`.
    pub fn claims(&mut self, kin: Kin, take_over: bool) {
        (self.run.kin, self.run.take_over) = (kin, take_over);
    }

    /// Runs that hold machines which this run may not take, where that stands against touching any. The units of a dead run
    /// of the same PKI directory are waited for, so those are not among them.
    ///
    /// In a cluster that exists, a worker that is held is left, and the others go on. So is one of a reset. Its root could
    /// write any lease, and two runs over all machines meet at a control plane.
    pub fn others(&mut self) -> Vec<Error> {
        let exists = self.fleet().exists;
        let mut errors = Vec::new();
        for i in 0..self.members.len() {
            let Some(error) = self.held(&self.members[i]) else { continue };
            let member = &mut self.members[i];
            let backwards = self.reading == Reading::Backwards;
            let alone = (exists || backwards) && !member.node.is_control_plane();
            if alone && member.spared {
                continue;
            }
            match self.reading {
                Reading::Forwards if alone => {
                    member.left.get_or_insert(error);
                }
                _ if self.goes_alone(i) => self.disregard(i, error),
                _ => errors.push(error),
            }
        }
        errors
    }

    /// The run that holds a machine which this run may not take.
    fn held(&self, member: &Member<S>) -> Option<Error> {
        let machine = member.machine.as_ref().filter(|machine| machine.is_taken())?;
        let lease = machine.lease.as_ref().filter(|lease| !self.run.kin.knows(lease))?;
        let (what, hint) = match machine.busy.first() {
            Some(unit) => {
                (format!("{UNIT}{unit} of {} still works", lease.holder()), "wait until that unit has ended")
            }
            None if self.run.take_over => return None,
            None => (
                format!("is held by {}", lease.holder()),
                "wait until that run is done, or use --take-over; the lease of a dead run ends after two minutes",
            ),
        };
        Some(Error::new(Kind::Busy, what).on(&member.node.name).hint(hint))
    }

    /// An error that names the run which took a machine over from this run. This run then leaves the machine alone,
    /// instead of taking it back.
    pub(super) fn taken_over(&self, member: &Member<S>) -> Option<Error> {
        let lease = member.machine.as_ref()?.lease.as_ref()?;
        if !member.work.holds || lease.run == self.run.id {
            return None;
        }
        let error = Error::new(Kind::Busy, format!("{} took this machine", lease.holder()));
        Some(error.on(&member.node.name).hint("run the command again when that run is done"))
    }

    /// Two runs meet at the first control plane of the inventory, so that neither holds half of the fleet. A node on which a
    /// unit of an earlier run still works belongs to nobody else, and is taken when that unit has ended. Nothing is taken where
    /// nothing is to be done. A run that has no control plane takes its workers when it changes them: what one says of its
    /// lease does not stop the others.
    pub(super) async fn take_first(&mut self) -> Result<bool> {
        let fleet = self.fleet();
        let (mut any, mut ready) = (false, false);
        for i in 0..self.members.len() {
            for change in self.judge_in(i, &fleet)?.iter().flatten() {
                any = true;
                ready |= change.state == State::Ready && self.members[i].left.is_none();
            }
        }
        let idle = |m: &Member<S>| m.machine.as_ref().is_some_and(|machine| machine.busy.is_empty());
        let first = self
            .members
            .iter()
            .position(|m| m.node.is_control_plane() && idle(m) && m.left.is_none() && !m.spared);
        let Some(first) = first.filter(|_| ready) else {
            return Ok(any);
        };
        let member = &mut self.members[first];
        let seen = member.machine.as_ref().and_then(|machine| machine.lease.clone());
        member.execs += 1;
        let output = {
            let script = ledger::take(&self.run, seen.as_ref());
            member.shell.run_within(&script, &Limits::brief(), &mut |_| {}).await?
        };
        if let Some(lost) = ledger::lease_lost(&output) {
            let error = ledger::taken(lost).on(&member.node.name);
            return Err(error);
        }
        if output.status != 0 {
            let error = Error::new(Kind::Failed, "cannot take the machine").on(&member.node.name);
            return Err(error.heard(String::from_utf8_lossy(&output.stderr)));
        }
        member.work.holds = true;
        // What it said of a lease was before this.
        member.machine.iter_mut().for_each(|machine| machine.lease = None);
        Ok(true)
    }

    /// Gives every machine back that this run has taken. A machine that cannot be reached or says nothing forgets by itself.
    pub(super) async fn release(&mut self) {
        let mut releasing = JoinSet::new();
        for member in self.members.iter_mut().filter(|m| m.work.holds && !m.is_silent()) {
            member.execs += 1;
            let script = match self.reading {
                Reading::Forwards => ledger::release(&self.run),
                _ => ledger::vanish(&self.run),
            };
            let shell = member.shell.clone();
            releasing.spawn(async move {
                shell.run_within(&script, &Limits::brief(), &mut |_| {}).await.map(drop)
            });
        }
        while releasing.join_next().await.is_some() {}
    }
}
