//! What happens, as events on one channel, and how ironstrap shows them: lines or JSON here, a live display in `term`.
//! Only `exit` in here writes to the terminal.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use crate::error::count;
use crate::error::{Error, indented};
use crate::plan::WantName;
use crate::secret as secrets;
pub use ask::{Typed, ask, ask_for, over, secret};
pub use exit::{err, json, out, raw, tell_panics};

pub mod alike;
pub mod ask;
pub mod bundle;
pub mod color;
mod crowd;
pub mod detail;
pub mod exit;
pub mod plan;
pub mod status;
pub mod term;

/// Something that happened. As JSON: one object a line, `event` says which.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// A machine was asked for the first time, and this many of its wants do not hold. `answering`: seconds that
    /// the machine itself took; `seconds`: since the first question went out, the connection included.
    Looked { node: String, changes: usize, answering: f64, seconds: f64 },
    /// A want that does not hold, as `plan` shows it.
    Drift {
        node: String,
        #[serde(flatten)]
        of: WantName,
        state: String,
        have: String,
        want: String,
    },
    /// A want of which nobody could be asked whether it holds. `node`: the machine that was to ask.
    Unchecked {
        node: String,
        #[serde(flatten)]
        of: WantName,
        why: String,
    },
    /// Something that is left as it is, and that people should know of. `node`: who said so.
    Note { node: String, step: String, note: String },
    /// Keys and certificates were made, into this folder.
    Trust { path: String },
    /// Fixes of a stage begin on a node.
    Stage { node: String, stage: String, changes: usize },
    /// One fix begins.
    Fixing {
        node: String,
        #[serde(flatten)]
        of: WantName,
    },
    /// What a fix printed.
    Said { node: String, line: String },
    /// A want that did not hold was asked again, and holds.
    Fixed {
        node: String,
        #[serde(flatten)]
        of: WantName,
    },
    /// Work of an earlier run goes on, and is waited for.
    Attached { node: String, unit: String },
    /// Nothing can be done on a node until something else is done.
    Waiting { node: String, for_what: String },
    /// A question, and what the machine said to it. Only told to those who want every detail.
    Asked {
        node: String,
        #[serde(flatten)]
        of: WantName,
        asked: String,
        answered: String,
    },
    /// A script that changes something is sent; what it prints is `Said`. Likewise.
    Script { node: String, script: String },
    /// Such a script ended. Likewise.
    Ended { node: String, status: i32, stderr: String },
    /// The user wants it to end: after the fixes that run, or at once.
    Stopping { at_once: bool },
    /// Something went wrong.
    Error { node: Option<String>, kind: String, what: String, cause: Vec<String>, hint: Option<String> },
    /// Why a node was left, as far as logs tell. `on`, `place`: the machine and the log that have the evidence.
    Cause {
        node: String,
        cause: String,
        what: String,
        on: String,
        place: String,
        evidence: String,
        remedy: String,
    },
    /// The end.
    Done { changes: usize, nodes: BTreeMap<String, Tally>, seconds: f64 },
}

/// What a run came to on one node.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Tally {
    /// Scripts run.
    pub execs: u32,
    /// Wants that did not hold: found by a plan, mended by an apply.
    pub changes: usize,
    pub state: NodeState,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    Converged,
    Drifted,
    Quarantined,
    /// Left out by `--limit`.
    Skipped,
}

impl Event {
    /// Whether only `-v` and `--log` show it.
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

/// Where events go, without secrets. Cheap to clone; nobody waits for who reads.
#[derive(Clone)]
pub struct Events {
    sender: tokio::sync::mpsc::UnboundedSender<Event>,
    detailed: bool,
}

impl Events {
    /// The sending end, and the end that a printer reads.
    pub fn channel() -> (Events, tokio::sync::mpsc::UnboundedReceiver<Event>) {
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        (Events { sender, detailed: false }, receiver)
    }

    /// Tells every question and script, too.
    pub fn in_detail(self, detailed: bool) -> Self {
        Events { detailed, ..self }
    }

    /// Whether questions and scripts become events. To compose those costs time, so callers check first.
    pub fn are_detailed(&self) -> bool {
        self.detailed
    }

    pub fn tell(&self, event: Event) {
        // Nobody listens any more when the program ends; then there is nobody to tell.
        let _ = self.sender.send(redacted(event));
    }
}

/// The event without secrets. They are taken out before a text is cut, broken or indented, and a second time where it
/// leaves.
fn redacted(event: Event) -> Event {
    let unfit = || Event::Said { node: String::new(), line: "[something that may hold a secret]".into() };
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
    /// A line for each thing that matters, on standard error.
    Lines,
    /// A live display on a terminal.
    Term,
    /// Only what goes wrong, and what people should know of.
    Quiet,
}

/// Who gets to see events.
pub struct Audience {
    pub style: Style,
    /// Every question and script is shown.
    pub verbose: bool,
    /// Everything is written down here.
    pub log: Option<detail::Log>,
    /// What was told is given back at the end.
    pub keeps: bool,
}

/// Shows events until the last sender is gone. Gives them back where they are to be kept.
pub async fn show(
    mut events: tokio::sync::mpsc::UnboundedReceiver<Event>,
    mut audience: Audience,
) -> Vec<Event> {
    let mut kept = Vec::new();
    let mut term = (audience.style == Style::Term).then(term::Display::new);
    let mut crowd = crowd::Crowd::default();
    while let Some(event) = events.recv().await {
        audience.log.iter_mut().for_each(|log| log.write(&detail::lines(&event)));
        if event.is_detail() && !audience.verbose {
            continue;
        }
        crowd.hear(&event);
        match (&mut term, audience.style) {
            (Some(display), _) if !crowd.is_large() => display.show(&event),
            (_, Style::Json) => {
                json(&event);
            }
            // What went wrong is said once, at the end.
            _ if audience.verbose && !matches!(event, Event::Error { .. } | Event::Drift { .. }) => {
                detail::lines(&event).iter().for_each(|line| err(line));
            }
            (_, Style::Quiet) if !matches!(event, Event::Note { .. }) => {}
            _ => crowd.lines(&event).iter().for_each(|line| err(line)),
        }
        if audience.keeps {
            kept.push(event);
        }
    }
    crowd.rest().iter().for_each(|line| err(line));
    kept
}

/// An event as a line; most have none.
fn line(event: &Event) -> Option<String> {
    words(event).map(|words| indented(&words))
}

fn words(event: &Event) -> Option<String> {
    match event {
        Event::Trust { path } => Some(format!("made a new trust in {path} (keep it safe)")),
        Event::Stage { node, stage, changes } => {
            Some(format!("{node}  {stage}: {}", count(*changes, "change")))
        }
        Event::Fixed { node, of } => Some(format!("{node}  {of}")),
        Event::Note { note, .. } => Some(format!("! {note}")),
        Event::Attached { node, unit } => {
            Some(format!("{node}  {unit} of an earlier run goes on; waiting for it"))
        }
        Event::Stopping { at_once: true } => Some("stopping at once".into()),
        Event::Stopping { at_once: false } => Some(
            "stopping after the fixes that run now; Ctrl-C again stops at once, and what runs goes on without us"
                .into(),
        ),
        Event::Waiting { node, for_what } => Some(format!("{node}  waiting for {for_what}")),
        _ => None,
    }
}

/// An error as people read it. One of the inventory comes with its own picture of where it is.
pub fn trouble(error: &Error) -> String {
    match error.kind {
        crate::error::Kind::Inventory => format!("error: {error}"),
        _ => format!("✗ {error}"),
    }
}

#[cfg(test)]
mod tests;
