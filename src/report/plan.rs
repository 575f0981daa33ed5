//! A plan as people read it: by node and step, each want that does not hold with what changes as a diff.

use crate::plan::{Change, State, diff};
use crate::report::count;
use crate::report::redact::Secrets;
use crate::step::Fix;

/// Longer diffs are cut; the JSON has them whole.
const LINES: usize = 40;

/// The lines of a whole plan: nodes in order, with their changes.
pub fn lines(plan: &[(String, Vec<Change>)]) -> Vec<String> {
    let (mut lines, secrets) = (Vec::new(), Secrets::default());
    for (node, changes) in plan {
        let mut step = "";
        for change in changes {
            if change.step != step {
                step = change.step;
                lines.push(format!("{node}  {} — {}", change.step, change.why));
            }
            lines.extend(one(change).iter().map(|line| secrets.hide(line).into_owned()));
        }
    }
    lines
}

fn one(change: &Change) -> Vec<String> {
    let sign = if matches!(change.state, State::Unknown { .. }) { '?' } else { '✗' };
    let place = if let Fix::Write { path, .. } = &change.fix { path.as_str() } else { "" };
    let mut lines = vec![format!("  {sign} {:<50} {place}", change.that).trim_end().to_string()];
    // Where there is no file yet, the hash of what will be in it tells nobody anything.
    let told_by_name = change.have.is_empty() && change.want.contains("\nsha256 ");
    let diff = if told_by_name { vec![] } else { diff(&change.have, &change.want) };
    let more = diff.len().saturating_sub(LINES);
    lines.extend(diff.into_iter().take(LINES).map(|line| format!("      {line}").trim_end().to_string()));
    if more > 0 {
        lines.push(format!("      … {}", count(more, "more line")));
    }
    match &change.state {
        State::Ready => {}
        State::Waits(for_what) => lines.push(format!("      waits for {for_what}")),
        State::ByHand => {
            if let Fix::ByHand(hint) = &change.fix {
                lines.push(format!("      by hand: {hint}"));
            }
        }
        State::Unknown { why, .. } => lines.push(format!("      cannot tell: {why}")),
    }
    lines
}
