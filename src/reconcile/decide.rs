//! Decides what can be done right now about the changes of a stage on one machine. `apply` decides whether the machine has
//! to wait for others.

use std::time::{Duration, Instant};

use super::work::Failure;
use super::{PATIENCE, Reconciler};
use crate::error::{Error, Kind};
use crate::plan::{Change, State, after_whether};
use crate::shell::Shell;
use crate::step::Fix;

/// The hint for a question that had no answer.
pub const CANNOT_TELL: &str = "find out on the machine why the check fails (-v shows the commands of all checks); ironstrap changes nothing in an unknown state";

/// How long the answer about an `eventually` want may stay unknown. kube-proxy and CoreDNS need up to a minute to find an
/// API server again that was away for half a minute.
const SETTLING: Duration = Duration::from_secs(75);

/// The next action for the changes of a stage on one machine.
pub(super) enum Next {
    /// There is nothing to do, or others must do something first.
    Clean,
    Fix(Vec<Change>),
    /// The answer will come, so ironstrap asks again.
    Again,
    Leave(Failure),
}

impl<S: Shell> Reconciler<S> {
    /// Decides on the next action for the changes of a stage.
    pub(super) fn decide(&mut self, i: usize, changes: &[Change]) -> Next {
        let host = &mut self.hosts[i];
        let name = host.node.name.clone();
        let ready: Vec<Change> = changes.iter().filter(|c| c.state == State::Ready).cloned().collect();
        if let Some(change) = changes.iter().find(|c| c.state == State::ByHand) {
            return give_up(by_hand(&name, change), change);
        }
        let unknown = changes.iter().find(|c| matches!(c.state, State::Unknown { .. }));
        if let Some(again) = ready.iter().find(|c| host.progress.tried.contains(&c.id)) {
            let since = *host.progress.unsettled.get_or_insert_with(Instant::now);
            if !again.eventually || since.elapsed() >= PATIENCE {
                return give_up(self::stuck(&name, again), again);
            }
            host.progress.tried.remove(&again.id);
            return Next::Again;
        }
        if ready.iter().any(|change| change.fix != Fix::FromPrevious) {
            return Next::Fix(ready);
        }
        if let Some(change) = unknown {
            let since = *host.progress.unsure.get_or_insert_with(Instant::now);
            // An API server that was just restarted will answer. A file that cannot be read will stay so.
            return match since.elapsed() < patience(change) {
                true => Next::Again,
                false => give_up(cannot_tell(&name, change), change),
            };
        }
        match ready.first() {
            Some(above) => give_up(self::stuck(&name, above), above),
            None => Next::Clean,
        }
    }
}

/// The error for a want that only people can make true.
pub(super) fn by_hand(node: &str, change: &Change) -> Error {
    let hint = if let Fix::ByHand(hint) = &change.fix { hint.as_str() } else { "" };
    let what = format!("{}: only you can fix this: expected that {}", change.step, change.that);
    Error::new(Kind::Refused, what).on(node).answered(format!("found: {}", change.have)).hint(hint)
}

fn give_up(error: Error, change: &Change) -> Next {
    let want = Some(change.id.clone());
    Next::Leave(Failure { about: change.about.clone(), want, ..Failure::from(error) })
}

/// How long the answer about this change may stay unknown.
fn patience(change: &Change) -> Duration {
    match &change.state {
        State::Unknown { awaits_api: true, .. } => PATIENCE,
        // ironstrap asks for such a want when everything else is done.
        State::Unknown { .. } if change.eventually => SETTLING,
        _ => Duration::ZERO,
    }
}

fn stuck(node: &str, change: &Change) -> Error {
    let mut error = Error::new(
        Kind::Failed,
        format!("{}: the fix had no effect: expected that {}", change.step, change.that),
    )
    .on(node);
    let (have, want) = (change.have.trim(), change.want.trim());
    error = error.answered(format!("found: {}", if have.is_empty() { "nothing" } else { have }));
    error = error.answered(format!("expected: {}", if want.is_empty() { "nothing" } else { want }));
    error.hint("find out on the machine what undoes the fix, then run the command again")
}

fn cannot_tell(node: &str, change: &Change) -> Error {
    let State::Unknown { asked, why, .. } = &change.state else { return stuck(node, change) };
    Error::new(
        Kind::Unknown,
        format!("{}: cannot determine whether {}", change.step, after_whether(&change.that)),
    )
    .on(node)
    .answered(format!("the machine answered: {why}"))
    .because(format!("the check runs: {}", asked.lines().next().unwrap_or_default()))
    .hint(CANNOT_TELL)
}
