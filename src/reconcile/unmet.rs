//! Wants that do not hold. ironstrap keeps them between two asks of a machine, so that it can report each want that now
//! holds.

use std::collections::{BTreeMap, BTreeSet};

use super::Reconciler;
use crate::error::Result;
use crate::plan::{Change, State, WantName};
use crate::report::Event;
use crate::shell::Shell;
use crate::step::Id;
use crate::steps::Via;

/// Wants that do not hold.
pub(super) type Unmet = BTreeMap<Id, WantName>;

impl<S: Shell> Reconciler<S> {
    /// Records which wants do not hold on a machine, and reports those that did not hold before and hold now.
    pub(super) fn note(&mut self, i: usize, stages: &[Vec<Change>], speaks: bool) {
        let (mut own, mut whole) = (Unmet::new(), Unmet::new());
        let (mut unsure, mut unasked) = (BTreeSet::new(), BTreeSet::new());
        for (stage, changes) in self.stages.iter().zip(stages) {
            for change in changes {
                let id = change.id.clone();
                match (&change.state, stage.via) {
                    (State::Unknown { .. }, _) => drop(unsure.insert(id)),
                    (State::Waits(for_what), _) if for_what.asks_again => drop(unasked.insert(id)),
                    (_, Via::Api) => drop(whole.insert(id, change.name())),
                    (_, Via::Node) => drop(own.insert(id, change.name())),
                }
            }
        }
        self.count_pending(i, stages);
        if unsure.is_empty() {
            self.hosts[i].progress.unsure = None;
        }
        // A want that is unknown now was neither fixed nor broken.
        unsure.extend(unasked);
        let settle = |open: &mut Unmet, mut now: Unmet| -> Unmet {
            let (unknown, known) = std::mem::take(open).into_iter().partition(|(id, _)| unsure.contains(id));
            let mended = Unmet::into_iter(known).filter(|(id, _)| !now.contains_key(id)).collect();
            now.extend(Unmet::into_iter(unknown));
            *open = now;
            mended
        };
        let mut mended = settle(&mut self.hosts[i].open, own);
        if speaks {
            mended.extend(settle(&mut self.unmet, whole));
        }
        for (id, of) in mended {
            self.hosts[i].progress.tried.remove(&id);
            self.hosts[i].changed.insert(id);
            let node = self.hosts[i].node.name.clone();
            self.events.tell(Event::Fixed { node, of });
        }
    }

    /// Records at the end of a run which wants still do not hold, on nodes that ironstrap no longer works on.
    pub(super) fn note_unmet(&mut self) -> Result<()> {
        let fleet = self.fleet();
        let speaks = self.api_host_of(&fleet);
        for i in 0..self.hosts.len() {
            if self.hosts[i].machine.is_some() && !self.hosts[i].progress.stale {
                let stages = self.judge_in(i, &fleet)?;
                self.note(i, &stages, speaks == Some(i));
            }
        }
        Ok(())
    }
}
