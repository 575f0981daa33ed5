//! What somebody who was not there needs to understand a run, as one text: inventory, versions, answers, events, logs.
//! `store` writes it down.

use super::Event;
use crate::diagnosis::Heard;
use crate::error::{Error, QUOTE, indented};
use crate::secret::Shown;

/// All that is known at the end of a run.
pub struct Bundle<'a> {
    pub inventory: &'a str,
    /// A line for each machine: what it said of itself.
    pub machines: Vec<String>,
    /// By node: what was asked, and what came back.
    pub answers: Vec<(String, String, String)>,
    pub events: &'a [Event],
    pub errors: &'a [Error],
    pub heard: Vec<Heard>,
}

impl Bundle<'_> {
    /// The text, without secrets.
    pub fn text(&self) -> Shown {
        let mut text = format!("ironstrap {}, secrets taken out\n", env!("CARGO_PKG_VERSION"));
        section(&mut text, "errors", self.errors.iter().map(super::trouble));
        section(&mut text, "inventory", [self.inventory.to_string()]);
        section(&mut text, "machines", self.machines.iter().cloned());
        let answer = |(node, asked, said): &(String, String, String)| {
            format!("{node}\tasked: {}\n{}", indented(asked), quoted(said))
        };
        section(&mut text, "answers", self.answers.iter().map(answer));
        let events = self.events.iter().map(super::exit::json_line);
        section(&mut text, "events", events);
        for heard in &self.heard {
            let line = |(place, line): &(String, String)| quoted(&format!("{place}\t{line}"));
            section(&mut text, &format!("logs of {}", heard.node), heard.lines.iter().map(line));
        }
        Shown::of(&text)
    }
}

/// Words of a machine, each line with a mark before it. Secrets go first: some have several lines.
fn quoted(words: &str) -> String {
    let shown = Shown::of(words);
    shown.as_str().lines().map(|line| format!("{QUOTE}{line}")).collect::<Vec<_>>().join("\n")
}

fn section(text: &mut String, name: &str, lines: impl IntoIterator<Item = String>) {
    *text += &format!("\n== {name}\n");
    for line in lines {
        *text += line.trim_end();
        *text += "\n";
    }
}
