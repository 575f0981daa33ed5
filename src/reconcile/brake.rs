//! Limits how many members a run interrupts at the same time. A member that such a change broke still counts, so that one
//! wrong value in the inventory cannot stop a whole cluster.
//!
//! The root user of a worker can make any change fail. So the failure of one worker does not always count. It does not if
//! the same change went well on a control plane, or on two other workers. Before that, ironstrap cannot tell a forged
//! failure from a harmful change. Then the failure counts, and the run names the worker. A change that broke two members,
//! or a control plane, always counts.

use std::collections::BTreeSet;

use super::turn::for_nodes;
use super::{Host, Reconciler};
use crate::fleet::Blocked;
use crate::machine::Machine;
use crate::plan::Change;
use crate::shell::Shell;
use crate::step::Id;

/// The changes that interrupt a member.
pub(super) fn interruptions(changes: &[Change]) -> BTreeSet<Id> {
    changes.iter().filter(|change| change.disrupts).map(|change| change.id.clone()).collect()
}

impl<S: Shell> Reconciler<S> {
    /// The members to wait for before these changes may interrupt one. `None` if they interrupt nothing, or need not wait.
    ///
    /// A run interrupts one control plane at a time, because etcd could lose its majority otherwise. It interrupts one in
    /// ten workers at a time. Members that the same changes broke count too, whatever their role.
    pub(super) fn brake(&self, i: usize, changes: &[Change]) -> Option<Blocked> {
        let host = &self.hosts[i];
        if interruptions(changes).is_empty() || !host.machine.as_ref().is_some_and(Machine::is_member) {
            return None;
        }
        let group = |k: &usize| self.hosts[*k].node.role == host.node.role;
        let others = || (0..self.hosts.len()).filter(|k| *k != i);
        let limit =
            if host.node.is_control_plane() { 1 } else { (others().filter(group).count() + 1).div_ceil(10) };
        let mut holders: BTreeSet<usize> = self.broken_by(i, changes).into_iter().collect();
        holders.extend(others().filter(group).filter(|k| !self.hosts[*k].progress.disrupts.is_empty()));
        let names = || holders.iter().map(|k| self.hosts[*k].node.name.clone()).collect();
        (holders.len() >= limit).then(|| for_nodes(names()))
    }

    /// The other members that these changes broke. For a control plane, also the other control planes that any change
    /// broke.
    fn broken_by(&self, i: usize, changes: &[Change]) -> Vec<usize> {
        let (ours, changes) = (&self.hosts[i].node, interruptions(changes));
        let broke = |(k, host): &(usize, &Host<S>)| {
            let any = ours.is_control_plane() && host.node.is_control_plane();
            let mut broke = host.progress.broke.intersection(&changes);
            *k != i && (any && !host.progress.broke.is_empty() || broke.any(|change| self.is_harmful(change)))
        };
        self.hosts.iter().enumerate().filter(broke).map(|(k, _)| k).collect()
    }

    /// Whether a change that broke a member may break others.
    fn is_harmful(&self, change: &Id) -> bool {
        let is_plane = |host: &&Host<S>| host.node.is_control_plane();
        let broke: Vec<_> = self.hosts.iter().filter(|host| host.progress.broke.contains(change)).collect();
        // A member that was quarantined after the change does not prove that the change is harmless.
        let went_well = |host: &&Host<S>| host.quarantined.is_none() && host.progress.well.contains(change);
        let well: Vec<_> = self.hosts.iter().filter(went_well).collect();
        let proven = well.iter().any(is_plane) || well.len() >= 2;
        broke.len() >= 2 || broke.iter().any(is_plane) || !proven
    }

    /// Records which changes that interrupted a member went well. The member was asked since then. `stages` is what it
    /// still needs, or what is unknown there, and no longer contains these changes.
    pub(super) fn went_well(&mut self, i: usize, stages: &[Vec<Change>]) {
        let open = stages.iter().flatten().map(|change| change.id.clone()).collect();
        let work = &mut self.hosts[i].progress;
        work.well.extend(work.disrupts.difference(&open).cloned());
    }

    /// Records the members that a change broke, if a node does not get the change for that reason.
    pub(super) fn hold_back(&mut self, i: usize, changes: &[Change]) {
        let is_member = self.hosts[i].machine.as_ref().is_some_and(Machine::is_member);
        let broken = if is_member { self.broken_by(i, changes) } else { Vec::new() };
        let broken: Vec<String> = broken.into_iter().map(|k| self.hosts[k].node.name.clone()).collect();
        self.hosts[i].progress.held_back_by = broken;
    }
}

impl<S> Host<S> {
    /// The members that a change broke, if this host did not get the same change for that reason.
    pub fn held_back_by(&self) -> &[String] {
        if self.quarantined.is_none() && self.pending > 0 { &self.progress.held_back_by } else { &[] }
    }
}
