//! How long a machine may take over what it is given to do. A machine that takes longer is left, and holds up nobody else.

use std::time::Duration;

use super::Fleetwork;
use crate::ledger::Run;
use crate::plan::Change;
use crate::probe;
use crate::shell::{Bounds, SILENCE, Shell};
use crate::step::Fix;

/// A script that only reads or writes the lease.
const BRIEF: Duration = Duration::from_secs(120);
/// The longest that any unit may run.
const UNIT: Duration = Duration::from_secs(60 * 60);

#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// The machine's own, for its questions.
    pub questions: probe::Limits,
    /// Ours, for all questions together.
    pub answers: Option<Duration>,
    /// Without a word from a fix, or from work that an earlier run began.
    pub silence: Option<Duration>,
}

impl Limits {
    /// For questions. The machine keeps its limits if its shell still runs; this one ends what it cannot end.
    pub(super) fn questions(&self) -> Bounds {
        Bounds::within(self.answers.unwrap_or(self.questions.longest()))
    }

    /// For fixes, which may wait for others for as long as the user says, and follow work that has a limit of its own.
    pub(super) fn fixes(&self, run: &Run, changes: &[Change]) -> Bounds {
        let minutes = changes.iter().map(|change| match &change.fix {
            Fix::Unit { minutes, .. } => u64::from(*minutes),
            _ => 0,
        });
        let unit = Duration::from_secs(60 * minutes.max().unwrap_or(0));
        let waits = Duration::from_secs(run.wait.into());
        Bounds::fixes(self.silence.unwrap_or(SILENCE.max(unit) + waits))
    }

    /// For following work that an earlier run began.
    pub(super) fn attached(&self) -> Bounds {
        Bounds::fixes(self.silence.unwrap_or(UNIT))
    }

    /// For tries of what a machine reaches, which wait for what does not answer.
    pub(super) fn tries() -> Limits {
        let usual = probe::Limits::default();
        let questions = probe::Limits { each: 4 * usual.each, all: 2 * usual.all, ..usual };
        Limits { questions, ..Limits::default() }
    }

    pub(super) fn brief() -> Bounds {
        Bounds::within(BRIEF)
    }
}

impl<S: Shell> Fleetwork<S> {
    /// Other limits than the usual ones. To be called once, before anything is asked.
    pub fn bound(&mut self, limits: Limits) {
        if let Some(member) = self.members.first() {
            let _ = member.shell.limits.set(limits);
        }
    }
}
