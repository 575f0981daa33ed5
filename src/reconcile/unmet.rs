//! Wants that do not hold: kept between two looks at a machine, so that ironstrap reports each that now holds.

use std::collections::{BTreeMap, BTreeSet};

use super::Fleetwork;
use crate::error::Result;
use crate::plan::{Change, State, WantName};
use crate::report::Event;
use crate::shell::Shell;
use crate::step::Id;
use crate::steps::Via;

/// Wants that do not hold.
pub(super) type Unmet = BTreeMap<Id, WantName>;

impl<S: Shell> Fleetwork<S> {
    /// Keeps book of what did not hold and now does.
    pub(super) fn note(&mut self, i: usize, stages: &[Vec<Change>], speaks: bool) {
        let (mut own, mut whole, mut unsure) = (Unmet::new(), Unmet::new(), BTreeSet::new());
        for (stage, changes) in self.stages.iter().zip(stages) {
            for change in changes {
                let id = change.id.clone();
                match (&change.state, stage.via) {
                    (State::Unknown { .. }, _) => drop(unsure.insert(id)),
                    (_, Via::Api) => drop(whole.insert(id, change.name())),
                    (_, Via::Node) => drop(own.insert(id, change.name())),
                }
            }
        }
        self.press(i, stages);
        if unsure.is_empty() {
            self.members[i].work.unsure = None;
        }
        // What cannot be told now was neither mended nor broken.
        let settle = |open: &mut Unmet, mut now: Unmet| -> Unmet {
            let (unknown, known) = std::mem::take(open).into_iter().partition(|(id, _)| unsure.contains(id));
            let mended = Unmet::into_iter(known).filter(|(id, _)| !now.contains_key(id)).collect();
            now.extend(Unmet::into_iter(unknown));
            *open = now;
            mended
        };
        let mut mended = settle(&mut self.members[i].open, own);
        if speaks {
            mended.extend(settle(&mut self.open, whole));
        }
        for (id, of) in mended {
            self.members[i].work.tried.remove(&id);
            self.members[i].changed.insert(id);
            let node = self.members[i].node.name.clone();
            self.events.tell(Event::Fixed { node, of });
        }
    }

    /// The last word: what is still open on nodes that nobody works on any more.
    pub(super) fn note_open(&mut self) -> Result<()> {
        let fleet = self.fleet();
        let speaks = self.api(&fleet);
        for i in 0..self.members.len() {
            if self.members[i].machine.is_some() && !self.members[i].work.stale {
                let stages = self.judge_in(i, &fleet)?;
                self.note(i, &stages, speaks == Some(i));
            }
        }
        Ok(())
    }
}
