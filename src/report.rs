//! Events: what happens in a run, on one channel. ironstrap shows them as lines or JSON here, and as a live display in `term`.
//! In this module, only `exit` and that display write to the terminal.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use crate::error::count;
use crate::error::{Error, indented};
use crate::plan::WantName;
use crate::secret as secrets;
pub use exit::{err, json, out, raw, tell_panics};
pub use prompt::{Typed, ask, ask_for, over, secret};

pub mod bundle;
pub mod color;
pub mod detail;
pub mod exit;
pub mod group;
mod grouping;
pub mod plan;
pub mod prompt;
pub mod status;
pub mod term;

/// Something that happened. In JSON it is one object a line, whose field `event` names the kind.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// A machine answered for the first time. `changes`: how many of its wants do not hold. `answering`: seconds that the
    /// machine itself needed. `seconds`: since the first question of the run, including the time to connect.
    Looked { node: String, changes: usize, answering: f64, seconds: f64 },
    /// A want does not hold, as `plan` shows it.
    Drift {
        node: String,
        #[serde(flatten)]
        of: WantName,
        state: String,
        have: String,
        want: String,
    },
    /// A want was not checked, because no machine could answer its question. `node`: the machine that had to ask.
    Unchecked {
        node: String,
        #[serde(flatten)]
        of: WantName,
        why: String,
    },
    /// Something that people should know of, and that ironstrap does not change. `node`: the machine that says so, or empty for
    /// the operator's side.
    Note { node: String, step: String, note: String },
    /// ironstrap created the keys and certificates of the cluster PKI in this folder.
    Trust { path: String },
    /// The fixes of a stage begin on a node.
    Stage { node: String, stage: String, changes: usize },
    /// One fix begins.
    Fixing {
        node: String,
        #[serde(flatten)]
        of: WantName,
    },
    /// A fix printed this line.
    Said { node: String, line: String },
    /// ironstrap asked again about a want that did not hold, and it holds now.
    Fixed {
        node: String,
        #[serde(flatten)]
        of: WantName,
    },
    /// Work of an earlier run continues on a node, and ironstrap waits for it.
    Attached { node: String, unit: String },
    /// A node must wait, because something else must be done first.
    Waiting { node: String, for_what: String },
    /// A question to a machine, and its answer. Only a run with `-v` or `--log` has this event.
    Asked {
        node: String,
        #[serde(flatten)]
        of: WantName,
        asked: String,
        answered: String,
    },
    /// ironstrap sends a script that changes something. Its output is `Said`. Only a run with `-v` or `--log` has this event.
    Script { node: String, script: String },
    /// Such a script ended. Only a run with `-v` or `--log` has this event.
    Ended { node: String, status: i32, stderr: String },
    /// The user wants the run to end: after the fixes that run now, or at once.
    Stopping { at_once: bool },
    /// Something went wrong.
    Error { node: Option<String>, kind: String, what: String, cause: Vec<String>, hint: Option<String> },
    /// The cause of a node's quarantine, as far as logs show it. `on`, `place`: the machine and the log with the evidence.
    Cause {
        node: String,
        cause: String,
        what: String,
        on: String,
        place: String,
        evidence: String,
        remedy: String,
    },
    /// The run ends.
    Done { changes: usize, nodes: BTreeMap<String, Tally>, seconds: f64 },
}

/// The result of a run on one node.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Tally {
    /// How many scripts ironstrap started on the node, or tried to start.
    pub execs: u32,
    /// How many wants did not hold: found by a plan, or fixed by an apply.
    pub changes: usize,
    pub state: NodeState,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    Converged,
    Drifted,
    Quarantined,
    /// `--limit` excluded the node.
    Skipped,
}

impl Event {
    /// Whether only `-v` and `--log` show this event.
    fn is_detail(&self) -> bool {
        matches!(self, Event::Asked { .. } | Event::Script { .. } | Event::Ended { .. })
    }
}

impl From<&Error> for Event {
    fn from(error: &Error) -> Self {
        let Error { kind, node, what, cause, hint, .. } = error.clone();
        Event::Error { node, kind: format!("{kind:?}").to_lowercase(), what, cause, hint }
    }
}

/// The sending end of the channel. It removes secrets. A clone is cheap, and a sender never waits for the reader.
#[derive(Clone)]
pub struct Events {
    sender: tokio::sync::mpsc::UnboundedSender<Event>,
    detailed: bool,
}

impl Events {
    /// Makes a channel: the sending end, and the end that a printer reads.
    pub fn channel() -> (Events, tokio::sync::mpsc::UnboundedReceiver<Event>) {
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        (Events { sender, detailed: false }, receiver)
    }

    /// Also sends every question and every script if `detailed` is set.
    pub fn in_detail(self, detailed: bool) -> Self {
        Events { detailed, ..self }
    }

    /// Whether questions and scripts become events. Composing these events costs time, so callers check this first.
    pub fn are_detailed(&self) -> bool {
        self.detailed
    }

    pub fn tell(&self, event: Event) {
        // At the end of the program nobody reads any more, and then the event is lost.
        let _ = self.sender.send(redacted(event));
    }
}

/// Returns the event without secrets. They are removed before a text is cut, wrapped or indented, and once more before output.
fn redacted(event: Event) -> Event {
    let unfit = || Event::Said { node: String::new(), line: "[text that may contain a secret]".into() };
    let Ok(mut value) = serde_json::to_value(&event) else { return unfit() };
    match secrets::hide_in(&mut value) {
        true => serde_json::from_value(value).unwrap_or_else(|_| unfit()),
        false => event,
    }
}

/// How events are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// One JSON object a line, on standard output.
    Json,
    /// One line for each thing that matters, on standard error.
    Lines,
    /// A live display on a terminal.
    Term,
    /// Only errors, and what people should know of.
    Quiet,
}

/// Where events are shown, and in which form.
pub struct Audience {
    pub style: Style,
    /// Whether every question and script is shown.
    pub verbose: bool,
    /// The file that gets every event in full.
    pub log: Option<detail::Log>,
    /// Whether `show` returns the events at the end.
    pub keeps: bool,
}

/// Shows events until the last sender is gone. Returns them if `audience.keeps` is set.
pub async fn show(
    mut events: tokio::sync::mpsc::UnboundedReceiver<Event>,
    mut audience: Audience,
) -> Vec<Event> {
    let mut kept = Vec::new();
    let mut term = (audience.style == Style::Term).then(term::Display::new);
    let mut grouping = grouping::Grouping::default();
    while let Some(event) = events.recv().await {
        audience.log.iter_mut().for_each(|log| log.write(&detail::lines(&event)));
        if event.is_detail() && !audience.verbose {
            continue;
        }
        grouping.hear(&event);
        match (&mut term, audience.style) {
            (Some(display), _) if !grouping.is_large() => display.show(&event),
            (_, Style::Json) => {
                json(&event);
            }
            // Errors and drift are shown once, at the end.
            _ if audience.verbose && !matches!(event, Event::Error { .. } | Event::Drift { .. }) => {
                detail::lines(&event).iter().for_each(|line| err(line));
            }
            (_, Style::Quiet) if !matches!(event, Event::Note { .. }) => {}
            _ => grouping.lines(&event).iter().for_each(|line| err(line)),
        }
        if audience.keeps {
            kept.push(event);
        }
    }
    grouping.rest().iter().for_each(|line| err(line));
    kept
}

/// Returns the line of an event. Most events have none.
fn line(event: &Event) -> Option<String> {
    words(event).map(|words| indented(&words))
}

fn words(event: &Event) -> Option<String> {
    match event {
        Event::Trust { path } => Some(format!("created the cluster PKI in {path} (keep it safe)")),
        Event::Stage { node, stage, changes } => {
            Some(format!("{node}  {stage}: {}", count(*changes, "change")))
        }
        Event::Fixed { node, of } => Some(format!("{node}  {of}")),
        Event::Note { node, note, .. } if node.is_empty() => Some(format!("! {note}")),
        Event::Note { node, note, .. } => Some(format!("! {node}: {note}")),
        Event::Attached { node, unit } => {
            Some(format!("{node}  {unit} of an earlier run is still active; waiting for it"))
        }
        Event::Stopping { at_once: true } => Some("stopping at once".into()),
        Event::Stopping { at_once: false } => Some(
            "stopping after the running fixes; Ctrl-C again stops at once, and fixes may continue on the machines"
                .into(),
        ),
        Event::Waiting { node, for_what } => Some(format!("{node}  waiting for {for_what}")),
        _ => None,
    }
}

/// Returns an error as people read it. An error of the inventory already shows the place in the file.
pub fn trouble(error: &Error) -> String {
    match error.kind {
        crate::error::Kind::Inventory => format!("error: {error}"),
        _ => format!("✗ {error}"),
    }
}

#[cfg(test)]
mod tests;
