//! What is wrong with an inventory, collected while reading goes on, and shown all at once in the order of
//! the file. Not what is right.

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

use super::masked::{Hidden, Masked};
use crate::error::{Error, Kind, count};

/// Where something is written: a range of bytes of the file.
pub type Span = Range<usize>;

/// Collects mistakes.
#[derive(Default)]
pub struct Mistakes(Vec<Mistake>, Vec<(Span, String)>, Vec<Hidden>);

struct Mistake {
    /// `None`: it is about something that is nowhere in the file.
    at: Option<Span>,
    says: String,
    help: Option<String>,
}

impl Mistakes {
    /// Something written at `at` is wrong: a lower-case sentence that says what would be right.
    pub fn add(&mut self, at: &Span, says: impl Into<String>) {
        self.0.push(Mistake { at: Some(at.clone()), says: says.into(), help: None });
    }

    /// The same, with a second sentence: why it is so, or what to do.
    pub fn add_help(&mut self, at: &Span, says: impl Into<String>, help: impl Into<String>) {
        self.0.push(Mistake { at: Some(at.clone()), says: says.into(), help: Some(help.into()) });
    }

    /// Something should be in the file and is not.
    pub fn add_missing(&mut self, says: impl Into<String>) {
        self.0.push(Mistake { at: None, says: says.into(), help: None });
    }

    /// No report shows what is written at `at`.
    pub fn hide(&mut self, at: &Span) {
        self.2.push(Hidden { at: at.clone(), value: String::new(), from: 0 });
    }

    /// No report shows this value, which is written at `at`, from this place on.
    pub fn hide_from(&mut self, at: &Span, value: &str, from: usize) {
        self.2.push(Hidden { at: at.clone(), value: value.into(), from });
    }

    /// Something written at `at` is not wrong, and people should know of it.
    pub fn warn(&mut self, at: &Span, says: impl Into<String>) {
        self.1.push((at.clone(), says.into()));
    }

    /// All such, in the order of the file; `place` says where something is written.
    pub fn warnings(&mut self, place: &dyn Fn(&Span) -> String) -> Vec<String> {
        self.1.sort_by_key(|(at, _)| at.start);
        self.1.iter().map(|(at, says)| format!("{}: {says}", place(at))).collect()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn sort(&mut self) {
        self.0.sort_by_key(|mistake| mistake.at.as_ref().map_or(usize::MAX, |at| at.start));
    }

    /// All of them as one error, whose `what` is the whole report.
    pub fn into_error(mut self, text: &str, path: &str) -> Error {
        self.sort();
        let count = count(self.0.len(), "mistake");
        // No value with a mistake in it may show its password: where the password begins and ends, nobody can tell.
        let masked = Masked::new(text).without(text, self.2);
        let shown: Vec<String> = self.0.iter().map(|mistake| mistake.render(&masked, path)).collect();
        let shown = shown.join("\n");
        Error::new(Kind::Inventory, format!("{count} in {path}\n{shown}"))
    }
}

impl Mistake {
    fn render(&self, masked: &Masked, path: &str) -> String {
        let (text, says) = (masked.text.as_str(), masked.words(&self.says));
        let Some(at) = &self.at else {
            return format!(" --> {path}\n  |\n  = {says}");
        };
        let label = AnnotationKind::Primary.span(on_one_line(at, text)).label(&says);
        let snippet = Snippet::source(text).path(path).annotation(label);
        let mut group = Level::ERROR.primary_title("").element(snippet);
        if let Some(help) = self.help.as_ref().map(|help| masked.words(help)) {
            group = group.element(Level::HELP.message(help));
        }
        let rendered = Renderer::plain().render(&[group]);
        // The title is the report's, once for all mistakes.
        let body = rendered.split_once('\n').map_or("", |(_, body)| body);
        masked.picture(&body.lines().map(str::trim_end).collect::<Vec<_>>().join("\n"))
    }
}

/// The part of `at` on its first line: an underline over many lines hides more than it shows.
fn on_one_line(at: &Span, text: &str) -> Span {
    let start = at.start.min(text.len());
    let end = at.end.clamp(start, text.len());
    let length = text.get(start..end).and_then(|part| part.lines().next()).map_or(0, str::len);
    start..start + length
}
