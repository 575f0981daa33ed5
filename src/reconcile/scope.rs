//! The scope of a run that is about some of the nodes only. ironstrap asks the other nodes, too. The answers of all nodes
//! decide which node is the init node and which nodes join. The run never changes the others, and their state is no failure
//! of it.

use std::collections::BTreeSet;

use super::{Host, Reconciler};
use crate::error::{Error, Kind};
use crate::fleet::Fleet;
use crate::plan::Change;
use crate::report::group::names;
use crate::shell::Shell;
use crate::steps::Via;

impl<S: Shell> Reconciler<S> {
    /// Limits the run to these nodes: ironstrap judges and changes only them. That includes what the cluster keeps about
    /// them (labels, taints). A control plane sets those, whether it is one of these nodes or not.
    pub fn limit(&mut self, names: &BTreeSet<String>) {
        for host in &mut self.hosts {
            host.excluded = !names.contains(&host.node.name);
        }
    }

    fn is_excluded(&self, name: &str) -> bool {
        self.hosts.iter().any(|host| host.excluded && host.node.name == name)
    }

    /// Whether a change is in scope of this run.
    pub(super) fn is_in_scope(&self, i: usize, via: Via, change: &Change) -> bool {
        match via {
            Via::Api if !change.about.is_empty() => change.about.iter().any(|name| !self.is_excluded(name)),
            _ => !self.hosts[i].excluded,
        }
    }

    /// Whether an error of one node forbids the run. An error of an excluded node does not, unless it also concerns a node
    /// in scope. One more exception is a control plane that does not answer: it may already run the cluster that this run
    /// would create.
    pub(super) fn stands_in_the_way(&self, error: &Error, fleet: &Fleet) -> bool {
        let Some(host) = self.hosts.iter().find(|host| error.node.as_ref() == Some(&host.node.name)) else {
            return true;
        };
        let decides = !fleet.exists && host.node.is_control_plane() && host.machine.is_none();
        !host.excluded || decides || error.concerns.iter().any(|name| !self.is_excluded(name))
    }

    /// Quarantines nodes that wait for an excluded node, with an error. This run never changes that node, so their wait
    /// would never end.
    pub(super) fn quarantine_waiting_for_excluded(&mut self) {
        for i in 0..self.hosts.len() {
            let host = &self.hosts[i];
            let Some(for_what) = host.progress.waits.as_ref().filter(|_| host.quarantined.is_none()) else {
                continue;
            };
            if for_what.on.iter().any(|name| self.is_excluded(name)) {
                let error =
                    Error::new(Kind::Refused, format!("waits for {for_what}, which --limit excludes"));
                let hint = format!("add {} to --limit, or run without --limit", names(&for_what.on));
                self.hosts[i].quarantined = Some(error.on(&self.hosts[i].node.name).hint(hint));
            }
        }
    }
}

impl<S> Host<S> {
    /// Whether this host is in scope, or the run had to do something on it for hosts that are.
    pub fn is_affected(&self) -> bool {
        !self.excluded || self.progress.holds || self.pending > 0
    }
}
