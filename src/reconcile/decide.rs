//! What can be done about the changes of a stage on one machine, right now. Whether it has to wait for others is up to
//! `apply`.

use std::time::{Duration, Instant};

use super::work::Wrong;
use super::{Fleetwork, PATIENCE};
use crate::error::{Error, Kind};
use crate::plan::{Change, State};
use crate::shell::Shell;
use crate::step::Fix;

/// What to do where a question had no answer.
pub const CANNOT_TELL: &str = "what cannot be told is left as it is; find out on the machine why the question fails (-v shows all of them)";

/// How long an answer that settles may stay unknown. kube-proxy and CoreDNS need up to a minute to find an API server again that was away
/// for half a minute.
const SETTLING: Duration = Duration::from_secs(75);

/// What the changes of a stage allow.
pub(super) enum Next {
    /// Nothing to do, or nothing that can be done before others did something.
    Clean,
    Fix(Vec<Change>),
    /// The answer will come: ask again.
    Again,
    Leave(Wrong),
}

impl<S: Shell> Fleetwork<S> {
    /// What can be done about the changes of a stage.
    pub(super) fn decide(&mut self, i: usize, changes: &[Change]) -> Next {
        let member = &mut self.members[i];
        let name = member.node.name.clone();
        let ready: Vec<Change> = changes.iter().filter(|c| c.state == State::Ready).cloned().collect();
        if let Some(change) = changes.iter().find(|c| c.state == State::ByHand) {
            return leave(by_hand(&name, change), change);
        }
        let unknown = changes.iter().find(|c| matches!(c.state, State::Unknown { .. }));
        if let Some(again) = ready.iter().find(|c| member.work.tried.contains(&c.id)) {
            let since = *member.work.unsettled.get_or_insert_with(Instant::now);
            if !again.settles || since.elapsed() >= PATIENCE {
                return leave(self::stuck(&name, again), again);
            }
            member.work.tried.remove(&again.id);
            return Next::Again;
        }
        if ready.iter().any(|change| change.fix != Fix::Above) {
            return Next::Fix(ready);
        }
        if let Some(change) = unknown {
            let since = *member.work.unsure.get_or_insert_with(Instant::now);
            // An API server that was just restarted will answer; a file that cannot be read will not.
            return match since.elapsed() < patience(change) {
                true => Next::Again,
                false => leave(cannot_tell(&name, change), change),
            };
        }
        match ready.first() {
            Some(above) => leave(self::stuck(&name, above), above),
            None => Next::Clean,
        }
    }
}

/// What only people can bring about.
pub(super) fn by_hand(node: &str, change: &Change) -> Error {
    let hint = if let Fix::ByHand(hint) = &change.fix { hint.as_str() } else { "" };
    let what = format!("{}: not so, and only you can change it: {}", change.step, change.that);
    Error::new(Kind::Refused, what).on(node).answered(format!("it has: {}", change.have)).hint(hint)
}

fn leave(error: Error, change: &Change) -> Next {
    let want = Some(change.id.clone());
    Next::Leave(Wrong { about: change.about.clone(), want, ..Wrong::from(error) })
}

/// How long the answer may take to come.
fn patience(change: &Change) -> Duration {
    match &change.state {
        State::Unknown { awaits_api: true, .. } => PATIENCE,
        // Everything else is done by then.
        State::Unknown { .. } if change.settles => SETTLING,
        _ => Duration::ZERO,
    }
}

fn stuck(node: &str, change: &Change) -> Error {
    let mut error =
        Error::new(Kind::Failed, format!("{}: the fix had no effect; wanted: {}", change.step, change.that))
            .on(node);
    let (have, want) = (change.have.trim(), change.want.trim());
    error = error.answered(format!("it has: {}", if have.is_empty() { "nothing" } else { have }));
    error = error.answered(format!("wanted: {}", if want.is_empty() { "nothing" } else { want }));
    error.hint("its fix ran to the end without effect: look for what undoes it there, then run it again")
}

fn cannot_tell(node: &str, change: &Change) -> Error {
    let State::Unknown { asked, why, .. } = &change.state else { return stuck(node, change) };
    Error::new(Kind::Unknown, format!("{}: cannot tell whether {}", change.step, change.that))
        .on(node)
        .answered(format!("answered: {why}"))
        .because(format!("asked: {}", asked.lines().next().unwrap_or_default()))
        .hint(CANNOT_TELL)
}
