//! How many members a run interrupts at a time. A member that such a change broke keeps its place among them, so that
//! one wrong value in the inventory cannot stop a whole cluster.

use std::collections::BTreeSet;

use super::{Fleetwork, Member};
use crate::machine::Machine;
use crate::plan::Change;
use crate::report::alike::names;
use crate::shell::Shell;

/// The changes that interrupt a member, by step and want.
pub(super) fn interruptions(changes: &[Change]) -> BTreeSet<String> {
    let disrupting = changes.iter().filter(|change| change.disrupts);
    disrupting.map(|change| format!("{}\n{}", change.step, change.that)).collect()
}

impl<S: Shell> Fleetwork<S> {
    /// The members to wait for before these changes may interrupt one; none where they interrupt nothing.
    ///
    /// Of control planes one is interrupted at a time, or etcd could lose its majority; of workers one in ten. Members
    /// that the same changes broke count, too, whatever their role.
    pub(super) fn brake(&self, i: usize, changes: &[Change]) -> Option<String> {
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
        (holders.len() >= limit).then(|| names(holders.iter().map(|k| &self.members[*k].node.name)))
    }

    /// The other members that these changes broke; among control planes, those that any change broke.
    fn broken_by(&self, i: usize, changes: &[Change]) -> Vec<usize> {
        let (ours, changes) = (&self.members[i].node, interruptions(changes));
        let broke = |(k, member): &(usize, &Member<S>)| {
            let any = ours.is_control_plane() && member.node.is_control_plane();
            let broke = &member.work.broke;
            *k != i && (any && !broke.is_empty() || !broke.is_disjoint(&changes))
        };
        self.members.iter().enumerate().filter(broke).map(|(k, _)| k).collect()
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
