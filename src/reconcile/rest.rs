//! Whose turn it is: what a machine wants for itself, then what the cluster wants, and then what can only be told once
//! nobody changes anything any more.

use tokio::task::JoinSet;

use std::time::Duration;

use super::work::Done;
use super::{Fleetwork, Member};
use crate::fleet::Blocked;
use crate::plan::{Change, State};
use crate::report::Event;
use crate::report::alike::names;
use crate::shell::Shell;
use crate::steps::{Needs, Stage, Via};

/// In which order the stages of a machine are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Own,
    Api,
    Rest,
}

impl Turn {
    pub(super) const ALL: [Turn; 3] = [Turn::Own, Turn::Api, Turn::Rest];

    pub(super) fn of(stage: &Stage) -> Turn {
        match stage.via {
            Via::Api => Turn::Api,
            Via::Node if stage.needs == Needs::Rest => Turn::Rest,
            Via::Node => Turn::Own,
        }
    }
}

/// Waits for these nodes.
pub(super) fn for_nodes(nodes: Vec<String>) -> Blocked {
    let words = names(&nodes);
    Blocked::on(nodes, words)
}

impl<S: Shell> Fleetwork<S> {
    /// Whether a machine's answers count for what is asked when everything else is done. If not, it waits for the others,
    /// or is asked again because they changed something since.
    pub(super) fn rests(&mut self, i: usize, working: &mut JoinSet<(usize, Done)>) -> bool {
        let at_work = |(k, member): &(usize, &Member<S>)| {
            let fixes = member.work.stage.is_some_and(|t| Turn::of(&self.stages[t]) != Turn::Rest);
            *k != i && member.left.is_none() && !member.spared && (fixes || member.work.unmended > 0)
        };
        let others = self.members.iter().enumerate().filter(at_work);
        let others: Vec<String> = others.map(|(_, m)| m.node.name.clone()).collect();
        if !others.is_empty() {
            self.wait(i, for_nodes(others));
            return false;
        }
        if self.members[i].work.asked_after < self.fixes {
            self.ask(i, Duration::ZERO, working);
            return false;
        }
        true
    }

    pub(super) fn wait(&mut self, i: usize, for_what: Blocked) {
        let member = &mut self.members[i];
        member.work.disrupts.clear();
        if member.work.waits.as_ref() != Some(&for_what) {
            let event = Event::Waiting { node: member.node.name.clone(), for_what: for_what.to_string() };
            self.events.tell(event);
            member.work.waits = Some(for_what);
        }
    }

    /// Counts what does not hold on a machine, without what only waits for another node.
    pub(super) fn press(&mut self, i: usize, stages: &[Vec<Change>]) {
        let counts = |change: &&Change| !matches!(change.state, State::Waits(_));
        let pressing = stages.iter().flatten().filter(counts).count();
        let earlier = self.stages.iter().zip(stages).filter(|(stage, _)| Turn::of(stage) != Turn::Rest);
        let unmended = earlier.flat_map(|(_, all)| all).filter(|change| change.state.holds_up()).count();
        self.members[i].pressing = pressing;
        self.members[i].work.unmended = unmended;
    }
}
