//! The live display: a line for each node that ironstrap works on, with what it does there right now.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Event, count, line};
use crate::secret::Shown;

/// The lines on the screen.
pub struct Display {
    all: MultiProgress,
    nodes: BTreeMap<String, ProgressBar>,
}

impl Default for Display {
    fn default() -> Self {
        Self::new()
    }
}

impl Display {
    pub fn new() -> Self {
        Display::on(ProgressDrawTarget::stderr())
    }

    /// Makes a display on another screen than standard error.
    pub fn on(screen: ProgressDrawTarget) -> Self {
        Display { all: MultiProgress::with_draw_target(screen), nodes: BTreeMap::new() }
    }

    pub fn show(&mut self, event: &Event) {
        match event {
            Event::Stage { node, stage, changes } => {
                let bar = self.node(node);
                bar.reset_elapsed();
                bar.set_prefix(fit(&format!("{node}  {stage}")));
                bar.set_message(count(*changes, "change"));
            }
            Event::Fixing { node, of } => self.node(node).set_message(fit(&of.to_string())),
            Event::Said { node, line } => {
                let bar = self.node(node);
                let doing = bar.message();
                let doing = doing.split(" — ").next().unwrap_or_default().to_string();
                bar.set_message(format!("{doing} — {}", fit(line)));
            }
            Event::Attached { .. } | Event::Waiting { .. } => {
                if let (Some(text), Event::Attached { node, .. } | Event::Waiting { node, .. }) =
                    (line(event), event)
                {
                    self.node(node).set_message(fit(&text));
                }
            }
            Event::Trust { .. } | Event::Stopping { .. } | Event::Note { .. } => {
                let _ = self.all.println(Shown::of(&line(event).unwrap_or_default()).as_str());
            }
            Event::Done { .. } => {
                for bar in self.nodes.values() {
                    bar.finish_and_clear();
                }
                self.nodes.clear();
            }
            Event::Looked { .. } | Event::Drift { .. } | Event::Fixed { .. } | Event::Error { .. } => {}
            // The error at the end shows the cause.
            Event::Cause { .. } => {}
            // With `-v`, lines show these instead of this display.
            Event::Unchecked { .. } | Event::Asked { .. } | Event::Script { .. } | Event::Ended { .. } => {}
        }
    }

    fn node(&mut self, name: &str) -> ProgressBar {
        let all = &self.all;
        let make = || {
            let bar = all.add(ProgressBar::new_spinner());
            let style = ProgressStyle::with_template("  {prefix:<16} {spinner} {wide_msg} {elapsed:>5}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        };
        self.nodes.entry(name.to_string()).or_insert_with(make).clone()
    }
}

/// Returns a text that is safe to show on one line.
fn fit(text: &str) -> String {
    Shown::of(text).as_str().replace(['\n', '\t'], " ")
}
