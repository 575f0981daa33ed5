//! A run that is about some of the nodes only. The others are asked, for who begins the cluster and who joins it is
//! read from all; they are not changed, and how they are is no failure of this run.

use std::collections::BTreeSet;

use super::{Fleetwork, Member};
use crate::error::{Error, Kind};
use crate::fleet::Fleet;
use crate::plan::Change;
use crate::shell::Shell;
use crate::steps::Via;

impl<S: Shell> Fleetwork<S> {
    /// Only these nodes are judged and changed. What the cluster itself keeps about them (labels, taints)
    /// is among it, and is set at a control plane, whether that is one of them or not.
    pub fn limit(&mut self, names: &BTreeSet<String>) {
        for member in &mut self.members {
            member.spared = !names.contains(&member.node.name);
        }
    }

    fn is_spared(&self, name: &str) -> bool {
        self.members.iter().any(|member| member.spared && member.node.name == name)
    }

    /// Whether a change is any business of this run.
    pub(super) fn concerns(&self, i: usize, via: Via, change: &Change) -> bool {
        match via {
            Via::Api if !change.about.is_empty() => change.about.iter().any(|name| !self.is_spared(name)),
            _ => !self.members[i].spared,
        }
    }

    /// Whether an error of one node stands in the way. What is wrong with a node that this run is not about does
    /// not, but for a control plane that may already run the cluster that would be begun.
    pub(super) fn stands_in_the_way(&self, error: &Error, fleet: &Fleet) -> bool {
        let Some(member) = self.members.iter().find(|member| error.node.as_ref() == Some(&member.node.name))
        else {
            return true;
        };
        let decides = !fleet.exists && member.node.is_control_plane() && member.machine.is_none();
        !member.spared || decides || error.concerns.iter().any(|name| !self.is_spared(name))
    }

    /// Quarantines nodes that wait for a node which this run never changes, with an error: their wait would never end.
    pub(super) fn give_up_on_the_spared(&mut self) {
        for i in 0..self.members.len() {
            let member = &self.members[i];
            let Some(for_what) = member.work.waits.as_ref().filter(|_| member.left.is_none()) else {
                continue;
            };
            if for_what.on.iter().any(|name| self.is_spared(name)) {
                let error =
                    Error::new(Kind::Refused, format!("waits for {for_what}, which --limit leaves out"));
                let hint = format!("name {for_what} too, or say nothing of --limit");
                self.members[i].left = Some(error.on(&self.members[i].node.name).hint(hint));
            }
        }
    }
}

impl<S> Member<S> {
    /// This run is about it, or had to do something at it for those that it is about.
    pub fn counts(&self) -> bool {
        !self.spared || self.work.holds || self.pressing > 0
    }
}
