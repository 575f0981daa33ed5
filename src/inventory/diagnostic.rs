//! Collects the mistakes of an inventory while it is read, and reports them all at once in the order of the file. Other
//! modules decide what is right.

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
    /// `None` means that the mistake is about something that the file does not have.
    at: Option<Span>,
    says: String,
    help: Option<String>,
}

impl Mistakes {
    /// Adds a mistake that is written at `at`. `says` is a lower-case sentence that says what would be right.
    pub fn add(&mut self, at: &Span, says: impl Into<String>) {
        self.0.push(Mistake { at: Some(at.clone()), says: says.into(), help: None });
    }

    /// Adds a mistake with a second sentence, which says why it is wrong or what to do.
    pub fn add_help(&mut self, at: &Span, says: impl Into<String>, help: impl Into<String>) {
        self.0.push(Mistake { at: Some(at.clone()), says: says.into(), help: Some(help.into()) });
    }

    /// Adds a mistake about something that should be in the file and is not.
    pub fn add_missing(&mut self, says: impl Into<String>) {
        self.0.push(Mistake { at: None, says: says.into(), help: None });
    }

    /// Hides the text at `at` in all reports.
    pub fn hide(&mut self, at: &Span) {
        self.2.push(Hidden { at: at.clone(), value: String::new(), from: 0 });
    }

    /// Hides the value that is written at `at` in all reports, from the place `from` in it to its end.
    pub fn hide_from(&mut self, at: &Span, value: &str, from: usize) {
        self.2.push(Hidden { at: at.clone(), value: value.into(), from });
    }

    /// Adds a warning about a text at `at`, which is not wrong, but which people should know of.
    pub fn warn(&mut self, at: &Span, says: impl Into<String>) {
        self.1.push((at.clone(), says.into()));
    }

    /// All warnings, in the order of the file. `place` returns where something is written, as in `demo.toml:12`.
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

    /// All mistakes as one error, whose `what` is the whole report.
    pub fn into_error(mut self, text: &str, path: &str) -> Error {
        self.sort();
        let count = count(self.0.len(), "mistake");
        // No value with a mistake in it may show its password. Nobody can tell where the password begins and ends.
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
        // The report has one title for all mistakes, so the title of this one is left out.
        let body = rendered.split_once('\n').map_or("", |(_, body)| body);
        masked.picture(&body.lines().map(str::trim_end).collect::<Vec<_>>().join("\n"))
    }
}

/// The part of `at` on its first line. An underline over many lines would hide more than it shows.
fn on_one_line(at: &Span, text: &str) -> Span {
    let start = at.start.min(text.len());
    let end = at.end.clamp(start, text.len());
    let length = text.get(start..end).and_then(|part| part.lines().next()).map_or(0, str::len);
    start..start + length
}
