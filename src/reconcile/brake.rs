//! How many members a run interrupts at a time. A member that such a change broke keeps its place among them, so that
//! one wrong value in the inventory cannot stop a whole cluster.
//!
//! A worker whose root lies can fail any change. So the failure of one worker does not count if the same change went well
//! elsewhere: on a control plane, or on two other workers. Before that nobody can tell a lie from a change that harms. Then
//! the failure counts, and the run names the worker. A change that broke two members, or a control plane, always counts.

use std::collections::BTreeSet;

use super::rest::for_nodes;
use super::{Fleetwork, Member};
use crate::fleet::Blocked;
use crate::machine::Machine;
use crate::plan::Change;
use crate::shell::Shell;
use crate::step::Id;

/// The changes that interrupt a member.
pub(super) fn interruptions(changes: &[Change]) -> BTreeSet<Id> {
    changes.iter().filter(|change| change.disrupts).map(|change| change.id.clone()).collect()
}

impl<S: Shell> Fleetwork<S> {
    /// The members to wait for before these changes may interrupt one; none where they interrupt nothing.
    ///
    /// Of control planes one is interrupted at a time, or etcd could lose its majority; of workers one in ten. Members
    /// that the same changes broke count, too, whatever their role.
    pub(super) fn brake(&self, i: usize, changes: &[Change]) -> Option<Blocked> {
        let member = &self.members[i];
        if interruptions(changes).is_empty() || !member.machine.as_ref().is_some_and(Machine::is_member) {
            return None;
        }
        let alike = |k: &usize| self.members[*k].node.role == member.node.role;
        let others = || (0..self.members.len()).filter(|k| *k != i);
        let limit = if member.node.is_control_plane() {
            1
        } else {
            (others().filter(alike).count() + 1).div_ceil(10)
        };
        let mut holders: BTreeSet<usize> = self.broken_by(i, changes).into_iter().collect();
        holders.extend(others().filter(alike).filter(|k| !self.members[*k].work.disrupts.is_empty()));
        let names = || holders.iter().map(|k| self.members[*k].node.name.clone()).collect();
        (holders.len() >= limit).then(|| for_nodes(names()))
    }

    /// The other members that these changes broke; among control planes, those that any change broke.
    fn broken_by(&self, i: usize, changes: &[Change]) -> Vec<usize> {
        let (ours, changes) = (&self.members[i].node, interruptions(changes));
        let broke = |(k, member): &(usize, &Member<S>)| {
            let any = ours.is_control_plane() && member.node.is_control_plane();
            let mut broke = member.work.broke.intersection(&changes);
            *k != i && (any && !member.work.broke.is_empty() || broke.any(|change| self.is_harmful(change)))
        };
        self.members.iter().enumerate().filter(broke).map(|(k, _)| k).collect()
    }

    /// Whether a change that broke somebody may break others.
    fn is_harmful(&self, change: &Id) -> bool {
        let is_plane = |member: &&Member<S>| member.node.is_control_plane();
        let broke: Vec<_> = self.members.iter().filter(|member| member.work.broke.contains(change)).collect();
        // A member that broke after it proves nothing.
        let went_well = |member: &&Member<S>| member.left.is_none() && member.work.well.contains(change);
        let well: Vec<_> = self.members.iter().filter(went_well).collect();
        let proven = well.iter().any(is_plane) || well.len() >= 2;
        broke.len() >= 2 || broke.iter().any(is_plane) || !proven
    }

    /// Notes which changes that interrupted a member went well: the member was asked since, and `stages`, what it still
    /// needs or what is unknown there, does not have them.
    pub(super) fn went_well(&mut self, i: usize, stages: &[Vec<Change>]) {
        let open = stages.iter().flatten().map(|change| change.id.clone()).collect();
        let work = &mut self.members[i].work;
        work.well.extend(work.disrupts.difference(&open).cloned());
    }

    /// Notes which members a change broke that a node does not get for that reason.
    pub(super) fn hold_back(&mut self, i: usize, changes: &[Change]) {
        let is_member = self.members[i].machine.as_ref().is_some_and(Machine::is_member);
        let broken = if is_member { self.broken_by(i, changes) } else { Vec::new() };
        let broken: Vec<String> = broken.into_iter().map(|k| self.members[k].node.name.clone()).collect();
        self.members[i].work.held_back_by = broken;
    }
}

impl<S> Member<S> {
    /// The members that the same change broke, where this one is as it was for that reason.
    pub fn held_back_by(&self) -> &[String] {
        if self.left.is_none() && self.pressing > 0 { &self.work.held_back_by } else { &[] }
    }
}
