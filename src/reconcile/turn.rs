//! The order of work on a machine: first its own stages, then the stages for the cluster. Last come the stages that
//! ironstrap can judge only when nothing changes any more.

use tokio::task::JoinSet;

use std::time::Duration;

use super::work::Done;
use super::{Host, Reconciler};
use crate::fleet::Blocked;
use crate::plan::{Change, State};
use crate::report::Event;
use crate::report::group::names;
use crate::shell::Shell;
use crate::steps::{Needs, Stage, Via};

/// The groups of stages, in the order in which ironstrap goes through them on a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Own,
    Api,
    Last,
}

impl Turn {
    pub(super) const ALL: [Turn; 3] = [Turn::Own, Turn::Api, Turn::Last];

    pub(super) fn of(stage: &Stage) -> Turn {
        match stage.via {
            Via::Api => Turn::Api,
            Via::Node if stage.needs == Needs::OthersDone => Turn::Last,
            Via::Node => Turn::Own,
        }
    }
}

/// The `Blocked` value of a machine that waits for these nodes.
pub(super) fn for_nodes(nodes: Vec<String>) -> Blocked {
    let words = names(&nodes);
    Blocked::on(nodes, words)
}

impl<S: Shell> Reconciler<S> {
    /// Whether the answers of a machine count for the stages that come when everything else is done. If not, the machine
    /// waits for the others. Or ironstrap asks it again, because the others changed something since its last answers.
    pub(super) fn others_are_done(&mut self, i: usize, working: &mut JoinSet<(usize, Done)>) -> bool {
        let at_work = |(k, host): &(usize, &Host<S>)| {
            let fixes = host.progress.stage.is_some_and(|t| Turn::of(&self.stages[t]) != Turn::Last);
            *k != i && host.quarantined.is_none() && !host.excluded && (fixes || host.progress.pending > 0)
        };
        let others = self.hosts.iter().enumerate().filter(at_work);
        let others: Vec<String> = others.map(|(_, m)| m.node.name.clone()).collect();
        if !others.is_empty() {
            self.wait(i, for_nodes(others));
            return false;
        }
        if self.hosts[i].progress.asked_after < self.fixes {
            self.ask(i, Duration::ZERO, working);
            return false;
        }
        true
    }

    pub(super) fn wait(&mut self, i: usize, for_what: Blocked) {
        let host = &mut self.hosts[i];
        host.progress.disrupts.clear();
        if host.progress.waits.as_ref() != Some(&for_what) {
            let event = Event::Waiting { node: host.node.name.clone(), for_what: for_what.to_string() };
            self.events.tell(event);
            host.progress.waits = Some(for_what);
        }
    }

    /// Counts the wants that do not hold on a machine, without those that only wait for another node.
    pub(super) fn count_pending(&mut self, i: usize, stages: &[Vec<Change>]) {
        let counts = |change: &&Change| !matches!(change.state, State::Waits(_));
        let pressing = stages.iter().flatten().filter(counts).count();
        let earlier = self.stages.iter().zip(stages).filter(|(stage, _)| Turn::of(stage) != Turn::Last);
        let pending = earlier.flat_map(|(_, all)| all).filter(|change| change.state.blocks_others()).count();
        self.hosts[i].pending = pressing;
        self.hosts[i].progress.pending = pending;
    }
}
