//! A report of a run as one text, for people who were not there: inventory, versions, answers, events and logs. `store` writes
//! it to a file.

use super::Event;
use crate::diagnosis::NodeLogs;
use crate::error::{Error, QUOTE, indented};
use crate::secret::Shown;

/// Everything that is known at the end of a run.
pub struct Bundle<'a> {
    pub inventory: &'a str,
    /// The description that each machine gives of itself, one line each.
    pub machines: Vec<String>,
    /// The node, the question and the answer.
    pub answers: Vec<(String, String, String)>,
    pub events: &'a [Event],
    pub errors: &'a [Error],
    pub logs: Vec<NodeLogs>,
}

impl Bundle<'_> {
    /// Returns the text of the report, without secrets.
    pub fn text(&self) -> Shown {
        let mut text = format!("ironstrap {}, secrets removed\n", env!("CARGO_PKG_VERSION"));
        section(&mut text, "errors", self.errors.iter().map(super::trouble));
        section(&mut text, "inventory", [self.inventory.to_string()]);
        section(&mut text, "machines", self.machines.iter().cloned());
        let answer = |(node, asked, said): &(String, String, String)| {
            format!("{node}\tquestion: {}\n{}", indented(asked), quoted(said))
        };
        section(&mut text, "answers", self.answers.iter().map(answer));
        let events = self.events.iter().map(super::exit::json_line);
        section(&mut text, "events", events);
        for logs in &self.logs {
            let line = |(place, line): &(String, String)| quoted(&format!("{place}\t{line}"));
            section(&mut text, &format!("logs of {}", logs.node), logs.lines.iter().map(line));
        }
        Shown::of(&text)
    }
}

/// Quotes words of a machine, with a mark before each line. It removes secrets first, because some have several lines.
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
