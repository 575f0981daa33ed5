//! Reports text that is not TOML. The messages are those of the parser, without those that only repeat the first
//! mistake. Nobody can tell which part of a line that cannot be read is a password. So a report shows the value only of
//! a field that never has a secret. Otherwise it shows only the key.

use std::sync::LazyLock;

use regex::Regex;
use toml::de::Error;

use super::diagnostic::{Mistakes, Span};
use super::fields::{has_no_secret, nearest, tables};

/// Number of mistakes that are reported. After one mistake the parser reports many more, and only the first few are useful.
const MOST: usize = 3;

/// Reports the first mistakes of syntax.
pub fn report(errors: &[Error], text: &str, mistakes: &mut Mistakes) {
    let end = text.len();
    let mut errors: Vec<(Span, &str)> =
        errors.iter().map(|error| (error.span().unwrap_or(end..end), error.message())).collect();
    errors.sort_by_key(|(at, _)| at.start);
    errors.dedup_by(|(at, says), (first, first_says)| {
        let between = text.get(first.start..at.start).unwrap_or_default();
        let same_line = !between.contains('\n');
        // A table that is written twice has its fields twice, too.
        let same_table = *says == TWICE && *first_says == TWICE && !between.contains("\n[");
        same_line || same_table
    });
    for (at, says) in errors.into_iter().take(MOST) {
        hide_lines(&at, text, mistakes);
        let says = says.trim_end_matches(", expected nothing");
        let bare = ["invalid float", "invalid integer", "invalid datetime", "string values must be quoted"];
        match says {
            TWICE => {
                let what = text.get(at.clone()).unwrap_or_default();
                mistakes.add(&at, format!("`{what}` is defined twice: here, and in an earlier line"));
            }
            _ if bare.iter().any(|start| says.starts_with(start)) => {
                mistakes.add_help(&at, says, "put text in quotes: \"1.36.3\", \"198.18.0.11\"");
            }
            _ if opens_range(&at, text) => {
                mistakes.add_help(&at, says, "put a name with a range in quotes: [nodes.\"w[1-3]\"]");
            }
            _ => mistakes.add(&at, says),
        }
    }
}

const TWICE: &str = "duplicate key";

/// Whether the line of a mistake is the head of a table whose name has a range without quotes.
fn opens_range(at: &Span, text: &str) -> bool {
    let start = text[..at.start.min(text.len())].rfind('\n').map_or(0, |at| at + 1);
    let line = text[start..].lines().next().unwrap_or_default().trim_start();
    line.starts_with("[nodes.") && line[1..].contains('[') && !line.contains(['"', '\''])
}

/// Hides the part of a mistake's line that may be a password. If the mistake is at the end of the file, this also hides
/// the line before.
fn hide_lines(at: &Span, text: &str, mistakes: &mut Mistakes) {
    let mut end = at.start.min(text.len());
    loop {
        let start = text[..end].rfind('\n').map_or(0, |at| at + 1);
        let line = text[start..].lines().next().unwrap_or_default();
        mistakes.hide(&(start + shown(line)..start + line.len()));
        match start == text.len() && start > 0 {
            true => end = start - 1,
            false => return,
        }
    }
}

/// Matches `[table`, with a name that may be in quotes.
static TABLE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r#"^\s*\[{1,2}\s*(?<table>[A-Za-z0-9_-]+)[\w."' \[\]-]*"#)
        .expect("it is a constant, and tested")
});

/// Matches a key and its value, up to a character that may begin a second key or a password.
static FIELD: LazyLock<Regex> = LazyLock::new(|| {
    let field = r#"^\s*(?:[\w-]+\s*\.\s*)*["']?(?<key>[\w-]+)["']?\s*=(?<value>[^=@:#{]*)"#;
    Regex::new(field).expect("it is a constant, and tested")
});

/// The number of bytes of a line that may be shown. A line without a key may be the rest of a value, so nothing of it is shown.
fn shown(line: &str) -> usize {
    let end = |found: Option<regex::Match>| found.map_or(0, |found| found.end());
    if let Some(found) = TABLE.captures(line) {
        let is_ours = nearest(&found["table"], tables()).is_some();
        return if is_ours { end(found.get(0)) } else { 0 };
    }
    let Some(found) = FIELD.captures(line) else { return 0 };
    // The end of a password in base64 ends with `=`, like a key without a value.
    let is_padding = line[end(found.name("key"))..].trim_start_matches('=').trim().is_empty();
    match has_no_secret(&found["key"]) {
        true => end(found.name("value")),
        false if is_padding => 0,
        false => found.name("value").map_or(0, |value| value.start()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreadable_line_shows_no_password() {
        for (line, visible) in [
            ("pasword = hunter2", "pasword ="),
            ("  passwort = \"hunter2", "  passwort ="),
            ("key = 'hunter2", "key ="),
            ("tokn.x = hunter2", "tokn.x ="),
            ("pasword: hunter2", ""),
            ("hunter2'", ""),
            ("aHVudGVyMg==", ""),
            ("aHVudGVyMg=", ""),
            ("['hunter2'", ""),
            ("[hunter2", ""),
            ("name = 'demo' pasword = 'hunter2'", "name = 'demo' pasword "),
            ("m1 = { address = 1.2.3, pasword = 'hunter2' }", "m1 ="),
            ("labels = { a = b }", "labels = "),
            ("user = 'root:hunter2", "user = 'root"),
            ("http = http://me:hunter2:proxy", "http = http"),
            ("jump = [root:hunter2", "jump = [root"),
            ("name =", "name ="),
            ("kubernetes = 1.36.3", "kubernetes = 1.36.3"),
            ("address = 198.18.0.11:22", "address = 198.18.0.11"),
            ("[nodes.m1", "[nodes.m1"),
            ("[nodes.'w[1-2]'", "[nodes.'w[1-2]'"),
            ("[registries.'me:hunter2:r.example'", "[registries.'me"),
        ] {
            let end = shown(line);
            assert!(!line[..end].contains("hunter"), "{line}: {}", &line[..end]);
            assert_eq!(&line[..end], visible);
        }
    }
}
