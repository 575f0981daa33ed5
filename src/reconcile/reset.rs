//! The preflight checks of a reset and of a removal. The reset itself runs in the same loop as an apply.

use super::{CANNOT_TELL, Host, Operation, PreflightReport, Reconciler, decide};
use crate::error::{Error, Kind, Result};
use crate::fleet::{self, Blocked, Fleet};
use crate::machine::Machine;
use crate::operations::{self, remove::Removal};
use crate::plan::{Change, State, after_whether};
use crate::report::group::names;
use crate::shell::Shell;
use crate::step::Fix;

impl<S: Shell> Reconciler<S> {
    /// Why a machine that is being removed must still wait: the cluster has to release it first. The answers of the API
    /// host show whether it has. `None` once it has.
    pub(super) fn still_in(&self, fleet: &Fleet) -> Result<Option<Blocked>> {
        let lets_go = Blocked::by_cluster(format!("{} to release it", self.cluster.name));
        let Some(api) = self.api_host_of(fleet) else { return Ok(Some(lets_go)) };
        let host = &self.hosts[api];
        let known = host.machine.is_some() && !host.progress.busy && !host.progress.stale;
        let let_go = known && self.judge_in(api, fleet)?.iter().all(Vec::is_empty);
        Ok((!let_go).then_some(lets_go))
    }

    /// Collects the errors that forbid a reset or a removal. An error of a control plane forbids changing all machines,
    /// because half of the operation may be worse than none. A control plane that only does not answer is an exception. A
    /// worker in a reset is quarantined alone for its error, because its root user can make it say anything.
    pub fn reset_preflight(&mut self, kept: (&str, bool)) -> Result<PreflightReport> {
        let fleet = self.fleet();
        let mut errors = Vec::new();
        for i in 0..self.hosts.len() {
            let changes: Vec<Change> = self.judge_in(i, &fleet)?.into_iter().flatten().collect();
            let host = &self.hosts[i];
            if let Some(machine) = host.machine.as_ref().filter(|_| !host.excluded) {
                // The role decides whether etcd has to release a control plane. For a worker, etcd itself tells
                // (`operations::remove`).
                let removal = matches!(self.operation, Operation::Remove(_));
                let removed = removal && host.node.is_control_plane();
                let mut own: Vec<Error> =
                    fleet::stranger(&host.node, machine, &self.pki, kept).into_iter().collect();
                own.extend(fleet::changed_role(&host.node, machine).filter(|_| removed));
                let worker = !host.node.is_control_plane();
                own.extend(self.leaves_others(i).filter(|_| worker && !removal));
                own.extend(not_root(host, machine));
                own.extend(unknown(host, &changes));
                let by_hand = changes.iter().filter(|change| change.state == State::ByHand);
                own.extend(by_hand.map(|change| decide::by_hand(&host.node.name, change)));
                match own.first() {
                    Some(first) if self.goes_alone(i) => self.disregard(i, first.clone()),
                    _ => errors.extend(own),
                }
            }
        }
        match &self.operation {
            Operation::Remove(removal) => {
                errors.extend(self.not_to_be_removed(&removal.clone(), &self.fleet())?);
            }
            _ => errors.extend(self.left_behind()),
        }
        let blocked = !errors.is_empty();
        // The errors that forbid the operation come last, because the last error says how the run ends.
        let silent = self.hosts.iter().filter(|host| !host.excluded).filter_map(|m| m.quarantined.clone());
        Ok(PreflightReport { errors: silent.chain(errors).collect(), blocked })
    }

    /// Whether an error of this machine quarantines only this machine, and does not stop the run. That is so for a worker
    /// in a reset. It is also so for a worker that leaves the cluster with `--force`: nothing that its machine says may
    /// keep it there.
    pub(super) fn goes_alone(&self, i: usize) -> bool {
        let host = &self.hosts[i];
        let goes = match &self.operation {
            Operation::Apply => false,
            Operation::Reset => true,
            Operation::Remove(removal) => removal.force,
        };
        goes && !host.excluded && !host.node.is_control_plane()
    }

    /// Quarantines a machine with this error, and treats it as if it did not answer.
    pub(super) fn disregard(&mut self, i: usize, error: Error) {
        let host = &mut self.hosts[i];
        (host.quarantined, host.machine) = (Some(error), None);
    }

    /// The excluded nodes that stay in the cluster. A node that does not answer may be one of them.
    pub fn staying(&self) -> Vec<&str> {
        let stays = |host: &&Host<S>| host.excluded && host.machine.as_ref().is_none_or(Machine::is_member);
        self.hosts.iter().filter(stays).map(|host| host.node.name.as_str()).collect()
    }

    fn not_to_be_removed(&self, removal: &Removal, fleet: &Fleet) -> Result<Option<Error>> {
        let refused = |what: &str| Some(Error::new(Kind::Refused, what).on(&removal.node));
        let Some(host) = self.hosts.iter().find(|host| !host.excluded) else { return Ok(None) };
        // A node that does not answer may run a control plane. The check of etcd's majority covers that. A worker never
        // counts as a control plane, whatever it says.
        let may_run = |m: &Host<S>| m.machine.as_ref().is_none_or(Machine::runs_control_plane);
        let other = |m: &Host<S>| m.excluded && m.node.is_control_plane() && may_run(m);
        if host.node.is_control_plane() && !self.hosts.iter().any(other) {
            let error = refused("is the last control plane; the cluster cannot exist without it");
            return Ok(error.map(|e| e.hint("run `ironstrap reset` to delete the whole cluster")));
        }
        if host.machine.is_none() && !removal.force {
            let error =
                refused("does not answer, so ironstrap can neither drain the node nor reset its machine");
            return Ok(error.map(|e| {
                e.hint("bring the machine back, or use --force to remove it from the cluster only")
            }));
        }
        let api = self.api_host_of(fleet).map(|api| (api, &self.hosts[api]));
        let Some((api, speaker)) = api.filter(|(_, speaker)| speaker.machine.is_some()) else {
            let others = self.hosts.iter().filter(|m| m.excluded && m.node.is_control_plane());
            let why = others.filter_map(|m| m.quarantined.clone()).next();
            return Ok(why);
        };
        let changes: Vec<Change> = self.judge_in(api, fleet)?.into_iter().flatten().collect();
        // A lost majority of etcd comes first: without it, no other answer is certain.
        let Some(change) = changes.iter().find(|change| change.state == State::ByHand) else {
            return Ok(unknown(speaker, &changes));
        };
        let hint = if let Fix::ByHand(hint) = &change.fix { hint.as_str() } else { "" };
        let error = refused(operations::remove::refusal(&change.id));
        Ok(error.map(|e| e.quoting(&change.have).hint(hint)))
    }

    /// The error for a control plane that is reset while other nodes stay. They would lose the cluster, or etcd would lose
    /// a vote that it still counts.
    fn left_behind(&self) -> Option<Error> {
        let planes = (0..self.hosts.len()).filter(|i| self.hosts[*i].node.is_control_plane());
        planes.filter_map(|i| self.leaves_others(i)).next()
    }

    fn leaves_others(&self, i: usize) -> Option<Error> {
        let (host, staying) = (&self.hosts[i], self.staying());
        let runs = host.machine.as_ref().is_some_and(Machine::runs_control_plane);
        if host.excluded || !runs || staying.is_empty() {
            return None;
        }
        let error = Error::new(Kind::Refused, "is a control plane of nodes that are not part of this reset");
        Some(error.on(&host.node.name).because(format!("these nodes: {}", names(staying))).hint(
            "run `ironstrap reset` without names to reset all nodes, or `ironstrap remove` for this one if there are other control planes",
        ))
    }
}

fn not_root<S>(host: &Host<S>, machine: &Machine) -> Option<Error> {
    let error = Error::new(Kind::Refused, "commands do not run as root").on(&host.node.name);
    let hint = "log in as root, or as a user with sudo";
    (machine.uid != 0).then(|| error.hint(hint))
}

fn unknown<S>(host: &Host<S>, changes: &[Change]) -> Option<Error> {
    changes.iter().find_map(|change| {
        let State::Unknown { why, .. } = &change.state else { return None };
        let what = format!("cannot determine whether {}", after_whether(&change.that));
        let error = Error::new(Kind::Unknown, what).on(&host.node.name);
        Some(error.answered(format!("the machine answered: {why}")).hint(CANNOT_TELL))
    })
}
