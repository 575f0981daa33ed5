//! The one place where text leaves the process for the terminal. The result of a command goes to standard output, and progress
//! goes to standard error. This module removes secrets and what a terminal obeys, and then adds colour.

use std::io::Write;

use console::{Term, truncate_str};
use serde::Serialize;
use serde_json::Value;

use super::{color, count};
use crate::secret::{self, Shown};

/// Prints a line of the command's result on standard output.
pub fn out(line: &str) {
    // A reader may stop early, as `head` does. That is no error.
    let _ = writeln!(anstream::stdout(), "{}", painted(line));
}

/// Prints a line about the progress on standard error.
pub fn err(line: &str) {
    let _ = writeln!(anstream::stderr(), "{}", painted(line));
}

/// Prints a question on standard error. The user types the answer behind it.
pub fn prompt(question: &str) {
    let _ = write!(anstream::stderr(), "{}", Shown::of(question));
}

/// Prints the line break that the terminal did not show after a hidden answer.
pub fn end_of_answer() {
    let _ = writeln!(anstream::stderr());
}

/// The version of all JSON output. A new version removes a field, or changes the meaning of one.
const SCHEMA: u32 = 2;

#[derive(Serialize)]
struct Document<'a, T> {
    schema: u32,
    #[serde(flatten)]
    of: &'a T,
}

/// Prints a value as one line of JSON on standard output, with `schema` as its first field. Returns whether anybody still
/// reads.
pub fn json(value: &impl Serialize) -> bool {
    writeln!(std::io::stdout(), "{}", json_line(&Document { schema: SCHEMA, of: value })).is_ok()
}

/// Prints lines that have ironstrap's own colours on standard output. Returns whether anybody still reads.
pub fn coloured(lines: &[String]) -> bool {
    lines.iter().all(|line| writeln!(std::io::stdout(), "{line}").is_ok())
}

/// Draws such lines over the previous ones, without flicker. It cuts long lines, because a wrapped line would push others off
/// the screen. Returns whether anybody still reads.
pub fn redraw(mut lines: Vec<String>, foot: &str) -> bool {
    let term = Term::stdout();
    let (rows, columns) = term.size();
    let room = usize::from(rows).saturating_sub(2);
    let hidden = lines.len().saturating_sub(room);
    lines.truncate(room);
    let more = format!("{} below; ", count(hidden, "more line"));
    lines.push(format!("{}{foot}", if hidden > 0 { more.as_str() } else { "" }));
    let draw = || {
        term.move_cursor_to(0, 0)?;
        for line in &lines {
            term.clear_line()?;
            term.write_line(&truncate_str(line, columns.into(), "…"))?;
        }
        term.clear_to_end_of_screen()
    };
    draw().is_ok()
}

/// Prints bytes on standard output unchanged: credentials that the user asked for, and pages for other programs.
pub fn raw(bytes: &[u8]) {
    let mut stdout = std::io::stdout();
    let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
}

/// Reports panics from now on. The report of the standard library could show secrets.
pub fn tell_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let why = payload.downcast_ref::<&str>().copied();
        let why = why.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        err(&panicked(why, panic.location()));
    }));
}

fn panicked(why: Option<&str>, place: Option<&std::panic::Location<'_>>) -> String {
    let place = place.map_or(String::new(), |place| format!(" at {place}"));
    let why = why.unwrap_or("no reason was given");
    format!("✗ ironstrap failed{place}: {why}\n      hint: this is a bug in ironstrap; please report it")
}

/// Returns a text that is safe to show, with its colour.
pub fn painted(text: &str) -> String {
    color::paint(&Shown::of(text))
}

/// Returns a value as one line of JSON that is safe to show. The fields keep their order.
pub fn json_line(value: &impl Serialize) -> String {
    let json = serde_json::to_string(value).unwrap_or_default();
    let (mut rest, mut shown) = (json.as_str(), String::with_capacity(json.len()));
    while let Some(start) = rest.find('"') {
        shown += &rest[..start];
        rest = &rest[start..];
        let (string, after) = rest.split_at(end_of_string(rest));
        // The names of fields come from ironstrap, so they hold no secret.
        let text = if after.starts_with(':') { None } else { serde_json::from_str::<String>(string).ok() };
        shown += &text.map_or(string.to_string(), |text| Value::from(secret::hide(&text)).to_string());
        rest = after;
    }
    shown += rest;
    secret::clean_json(&shown).into_owned()
}

/// Returns the place after the quote that ends the JSON string at the beginning of this text.
fn end_of_string(json: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in json.bytes().enumerate().skip(1) {
        match byte {
            b'"' if !escaped => return at + 1,
            b'\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    json.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_begins_with_its_schema_version() {
        let event = crate::report::Event::Said { node: "w1".into(), line: "x".into() };
        let line = json_line(&Document { schema: SCHEMA, of: &event });
        assert_eq!(line, r#"{"schema":2,"event":"said","node":"w1","line":"x"}"#);
    }

    #[test]
    fn json_keeps_its_fields_and_hides_secrets() {
        secret::learn("json-secret-\"7\"");
        let value = serde_json::json!({"json-secret-\"7\"": ["x json-secret-\"7\"", 1.5, {"b": "\\"}], "a": "\u{9b}\n"});
        let text = json_line(&value);
        assert!(!text.contains(secret::is_forbidden), "{text:?}");
        let read: Value = serde_json::from_str(&text).unwrap();
        let kept =
            serde_json::json!({"json-secret-\"7\"": ["x [secret]", 1.5, {"b": "\\"}], "a": "\u{9b}\n"});
        assert_eq!(read, kept);
    }

    #[test]
    fn a_panic_shows_place_and_reason_without_secrets() {
        secret::learn("panicking-secret");
        let told =
            painted(&panicked(Some("no key panicking-secret\x1b"), Some(std::panic::Location::caller())));
        assert!(told.contains("src/report/exit.rs:") && told.contains("no key [secret]\\u{1b}"), "{told:?}");
    }
}
