//! Shows every event in full, as the lines that `-v` prints and `--log` writes.

use std::fs::File;
use std::io::Write;

use time::OffsetDateTime;

use super::{Event, count};
use crate::error::{QUOTE, indented};
use crate::plan::{after_whether, diff};
use crate::secret::Shown;

/// Returns the lines of an event. The first one says what happened, and the others are indented.
pub fn lines(event: &Event) -> Vec<String> {
    parts(event).iter().map(|part| indented(part)).collect()
}

fn parts(event: &Event) -> Vec<String> {
    match event {
        Event::Asked { node, of, asked, answered } => {
            let mut lines =
                vec![format!("{node}  {}: checking whether {}", of.step, after_whether(&of.that))];
            lines.extend(body("question", asked));
            lines.extend(body("answer", answered));
            lines
        }
        Event::Script { node, script } => {
            let mut lines =
                vec![format!("{node}  runs a script of {}", count(script.lines().count(), "line"))];
            lines.extend(script.lines().map(|line| format!("      {QUOTE}{line}").trim_end().to_string()));
            lines
        }
        Event::Ended { node, status, stderr } => {
            let mut lines = vec![format!("{node}  the script ended with {status}")];
            lines.extend(stderr.lines().map(|line| format!("      {QUOTE}{line}").trim_end().to_string()));
            lines
        }
        Event::Drift { node, of, state, have, want } => {
            let mut lines = vec![format!("{node}  {}: differs ({state}): {}", of.step, of.that)];
            lines.extend(diff(have, want).iter().map(|line| format!("      {line}")));
            lines
        }
        Event::Unchecked { node, of, why } => {
            vec![format!("{node}  {}: not checked: {}", of.step, of.that), format!("      {QUOTE}{why}")]
        }
        Event::Error { node, what, cause, hint, .. } => {
            let node = node.as_ref().map_or(String::new(), |node| format!("{node}  "));
            let mut lines = vec![format!("✗ {node}{what}")];
            lines.extend(cause.iter().map(|line| format!("      {line}")));
            lines.extend(hint.iter().map(|hint| format!("      hint: {hint}")));
            lines
        }
        other => vec![short(other)],
    }
}

/// Returns the text of an event that needs only one line.
fn short(event: &Event) -> String {
    match event {
        Event::Looked { node, changes, seconds, .. } => {
            format!("{node}  answered after {seconds:.1} s; {}", count(*changes, "difference"))
        }
        Event::Fixing { node, of } => format!("{node}  {}: fixing: {}", of.step, of.that),
        Event::Fixed { node, of } => format!("{node}  {}: fixed: {}", of.step, of.that),
        Event::Said { node, line } => format!("{node}      {line}"),
        Event::Done { changes, nodes, seconds } => {
            let states = nodes.iter().map(|(name, tally)| format!("{name} {:?}", tally.state).to_lowercase());
            let states: Vec<String> = states.collect();
            format!("done in {seconds:.1} s with {}: {}", count(*changes, "change"), states.join(", "))
        }
        other => super::line(other).unwrap_or_default(),
    }
}

/// Returns a text behind its name, with further lines quoted below the first.
fn body(name: &str, text: &str) -> Vec<String> {
    let text = if text.trim().is_empty() { "nothing" } else { text.trim_end() };
    let name = |n: usize| if n == 0 { format!("{name}:") } else { QUOTE.to_string() };
    text.lines()
        .enumerate()
        .map(|(n, line)| format!("      {:<9} {line}", name(n)).trim_end().into())
        .collect()
}

/// A log file that gets every event of a run, each with its time.
pub struct Log(File);

impl Log {
    /// Begins the log of this run with `said`, the command line.
    pub fn begin(file: File, said: &str) -> Log {
        let mut log = Log(file);
        log.write(&[format!("ironstrap {}: {said}", env!("CARGO_PKG_VERSION"))]);
        log
    }

    pub fn write(&mut self, lines: &[String]) {
        let format = time::macros::format_description!(
            "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"
        );
        let now = OffsetDateTime::now_utc().format(format).unwrap_or_default();
        let text: String = lines.iter().enumerate().fold(String::new(), |text, (n, line)| match n {
            0 => text + &format!("{now}  {line}\n"),
            _ => text + line + "\n",
        });
        // A full disk is no reason to stop in the middle of a change.
        let _ = self.0.write_all(Shown::of(&text).as_str().as_bytes());
    }
}
