//! Leases: only one run at a time changes a machine, and a run notices when another run took a machine over.

use tokio::task::JoinSet;

use super::limits::Limits;
use super::{Host, Operation, Reconciler};
use crate::error::{Error, Kind, Result};
use crate::ledger::{self, Kin};
use crate::machine::UNIT;
use crate::plan::State;
use crate::shell::Shell;

impl<S> Host<S> {
    fn is_silent(&self) -> bool {
        self.quarantined.as_ref().is_some_and(|error| error.kind == Kind::Silent)
    }
}

impl<S: Shell> Reconciler<S> {
    /// Sets which leases this run may replace: those of its `kin`, and with `take_over` those of any other run. Call it
    /// while you hold the lock of the PKI directory, before `held_by_others`.
    pub fn use_lease(&mut self, kin: Kin, take_over: bool) {
        (self.run.kin, self.run.take_over) = (kin, take_over);
    }

    /// Errors for machines that another run holds, if these errors stop the whole run. Units of a dead run of the same PKI
    /// directory do not count, because this run waits for them.
    ///
    /// If the cluster exists, a worker that another run holds is quarantined, and the others go on. The same holds for a
    /// reset. The root user of a worker could write any lease, and two runs over all machines meet at a control plane.
    pub fn held_by_others(&mut self) -> Vec<Error> {
        let exists = self.fleet().exists;
        let mut errors = Vec::new();
        for i in 0..self.hosts.len() {
            let Some(error) = self.held(&self.hosts[i]) else { continue };
            let host = &mut self.hosts[i];
            let backwards = self.operation == Operation::Reset;
            let alone = (exists || backwards) && !host.node.is_control_plane();
            if alone && host.excluded {
                continue;
            }
            match self.operation {
                Operation::Apply if alone => {
                    host.quarantined.get_or_insert(error);
                }
                _ if self.goes_alone(i) => self.disregard(i, error),
                _ => errors.push(error),
            }
        }
        errors
    }

    /// An error that names the run which holds a machine, if this run may not take that machine.
    fn held(&self, host: &Host<S>) -> Option<Error> {
        let machine = host.machine.as_ref().filter(|machine| machine.is_taken())?;
        let lease = machine.lease.as_ref().filter(|lease| !self.run.kin.knows(lease))?;
        let (what, hint) = match machine.busy.first() {
            Some(unit) => (
                format!("the unit {UNIT}{unit}, which {} started, still runs", lease.holder()),
                format!("wait until it has ended; on the machine, journalctl -fu {UNIT}{unit} shows what it does"),
            ),
            None if self.run.take_over => return None,
            None => (
                format!("is being changed by {}", lease.holder()),
                "wait until that run has ended; if it was killed, its lease expires after two minutes, and --take-over takes the machine at once"
                    .into(),
            ),
        };
        Some(Error::new(Kind::Busy, what).on(&host.node.name).hint(hint))
    }

    /// An error that names the run which took a machine over from this run. This run then leaves the machine alone,
    /// instead of taking it back.
    pub(super) fn taken_over(&self, host: &Host<S>) -> Option<Error> {
        let lease = host.machine.as_ref()?.lease.as_ref()?;
        if !host.progress.holds || lease.run == self.run.id {
            return None;
        }
        let error = Error::new(Kind::Busy, format!("{} took over this machine", lease.holder()));
        Some(error.on(&host.node.name).hint("run the command again when that run has ended"))
    }

    /// Takes the first control plane of the inventory before any other machine. Two runs meet there, so that neither holds
    /// half of the fleet. Returns whether there is anything to do.
    ///
    /// A node on which a unit of an earlier run still works belongs to no other run. This run takes it when that unit has
    /// ended. If there is nothing to do, the run takes nothing. A run without a control plane takes each worker when it
    /// changes it. So what one worker says about its lease does not stop the others.
    pub(super) async fn acquire_first(&mut self) -> Result<bool> {
        let fleet = self.fleet();
        let (mut any, mut ready) = (false, false);
        for i in 0..self.hosts.len() {
            for change in self.judge_in(i, &fleet)?.iter().flatten() {
                any = true;
                ready |= change.state == State::Ready && self.hosts[i].quarantined.is_none();
            }
        }
        let idle = |m: &Host<S>| m.machine.as_ref().is_some_and(|machine| machine.busy.is_empty());
        let first = self
            .hosts
            .iter()
            .position(|m| m.node.is_control_plane() && idle(m) && m.quarantined.is_none() && !m.excluded);
        let Some(first) = first.filter(|_| ready) else {
            return Ok(any);
        };
        let host = &mut self.hosts[first];
        let seen = host.machine.as_ref().and_then(|machine| machine.lease.clone());
        host.execs += 1;
        let output = {
            let script = ledger::take(&self.run, seen.as_ref());
            host.shell.run_within(&script, &Limits::brief(), &mut |_| {}).await?
        };
        if let Some(lost) = ledger::lease_lost(&output) {
            let error = ledger::taken(lost).on(&host.node.name);
            return Err(error);
        }
        if output.status != 0 {
            let error = Error::new(Kind::Failed, "cannot take the lease of the machine").on(&host.node.name);
            return Err(error.quoting(String::from_utf8_lossy(&output.stderr)));
        }
        host.progress.holds = true;
        // The lease in its last answer is older than this one.
        host.machine.iter_mut().for_each(|machine| machine.lease = None);
        Ok(true)
    }

    /// Gives back every machine that this run has taken. On a machine that ironstrap cannot reach, or that says nothing,
    /// the lease ends by itself.
    pub(super) async fn release(&mut self) {
        let mut releasing = JoinSet::new();
        for host in self.hosts.iter_mut().filter(|m| m.progress.holds && !m.is_silent()) {
            host.execs += 1;
            let script = match self.operation {
                Operation::Apply => ledger::release(&self.run),
                _ => ledger::cleanup_run_dir(&self.run),
            };
            let shell = host.shell.clone();
            releasing.spawn(async move {
                shell.run_within(&script, &Limits::brief(), &mut |_| {}).await.map(drop)
            });
        }
        while releasing.join_next().await.is_some() {}
    }
}
