//! Hides passwords in a report of mistakes. The text before an `@` can be a password. A value with a mistake has no
//! known form, so nobody can tell where a password in it begins or ends.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

use crate::secret::{HIDDEN, hide_login, hide_mistaken};

/// Matches one key at the beginning of a line, up to its `=`.
static KEY: LazyLock<Regex> = LazyLock::new(|| {
    let key = r#"^\s*(?<key>(?:[A-Za-z0-9_-]+|"[^"@]*"|'[^'@]*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"@]*"|'[^'@]*'))*)\s*="#;
    Regex::new(key).expect("it is a constant, and tested")
});

/// Matches the characters that can stand between the `=` and the text of a value.
static OPENS: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r#"^[\s\[{"']*(?:https?://)?"#).expect("it is a constant, and tested"));

/// Matches a hidden part in front of an `@`, in a picture of lines.
static STARS: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\*+@").expect("it is a constant, and tested"));

/// Matches a hidden value without an `@`, in a picture of lines.
static VALUE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\*{2,}").expect("it is a constant, and tested"));

/// Fields in which a user stands before an `@`. A password is no part of any of them.
const LOGINS: [&str; 3] = ["address", "jump", "user"];

/// A part of the inventory that no report shows.
pub struct Hidden {
    /// Where it is written.
    pub at: Range<usize>,
    /// The value that is written there. The hidden part begins at `from`. If the value is empty, everything at `at` is hidden.
    pub value: String,
    pub from: usize,
}

impl Hidden {
    /// The place of the hidden part in the text of the inventory. A value that is written with escapes is hidden as a whole.
    fn range(&self, text: &str) -> Range<usize> {
        let written = text.get(self.at.clone()).unwrap_or_default();
        let part = self.value.get(self.from..).filter(|part| !part.is_empty());
        match part.and_then(|part| Some((written.rfind(part)?, part))) {
            Some((at, part)) => self.at.start + at..self.at.start + at + part.len(),
            None => self.at.clone(),
        }
    }
}

/// An inventory whose lines may be shown, and what is hidden in it.
pub struct Masked {
    /// The text of the inventory. Each hidden byte is a `*`, so the length stays the same. Line breaks stay.
    pub text: String,
    hidden: Vec<String>,
    /// Values with a hidden part, each with its replacement in a message.
    values: Vec<(String, String)>,
}

impl Masked {
    pub fn new(text: &str) -> Masked {
        let (mut masked, mut hidden) = (String::with_capacity(text.len()), Vec::new());
        for line in text.split_inclusive('\n') {
            match login(line) {
                Some(range) => {
                    masked += &line[..range.start];
                    masked += &"*".repeat(range.len());
                    masked += &line[range.end..];
                    hidden.push(line[range].to_string());
                }
                None => masked += line,
            }
        }
        Masked { text: masked, hidden, values: vec![] }
    }

    /// Hides these places, too. `text` is the inventory as it is written.
    pub fn without(mut self, text: &str, places: Vec<Hidden>) -> Masked {
        for hidden in places {
            let place = hidden.range(text);
            let Some(value) = self.text.get(place.clone()).filter(|value| !value.is_empty()) else {
                continue;
            };
            let stars: String = value.split_inclusive('\n').map(stars).collect();
            self.text.replace_range(place, &stars);
            self.hidden.push(stars);
            if let Some(shown) = hidden.value.get(..hidden.from).filter(|_| !hidden.value.is_empty()) {
                self.values.push((hidden.value.clone(), format!("{shown}{HIDDEN}")));
            }
        }
        self
    }

    /// A message without the hidden parts. Messages may repeat values.
    pub fn words(&self, words: &str) -> String {
        let mut words = words.to_string();
        for (value, shown) in &self.values {
            for form in [value.clone(), value.escape_debug().to_string()] {
                words = words.replace(&form, shown);
            }
        }
        for hidden in &self.hidden {
            for form in [hidden.clone(), hidden.escape_debug().to_string()] {
                words = words.replace(&format!("{form}@"), &format!("{HIDDEN}@"));
            }
        }
        // A hidden part can span a whole list, and a message can repeat only one element of it.
        hide_login(&words).into_owned()
    }

    /// A picture of lines of the masked text, with `HIDDEN` in place of the stars.
    pub fn picture(&self, picture: &str) -> String {
        match self.hidden.is_empty() {
            true => picture.to_string(),
            false => {
                let picture = STARS.replace_all(picture, format!("{HIDDEN}@"));
                let picture = hide_mistaken(&picture).into_owned();
                VALUE.replace_all(&picture, HIDDEN).into_owned()
            }
        }
    }
}

/// As many stars as a line has bytes, followed by its line break.
fn stars(line: &str) -> String {
    let text = line.trim_end_matches('\n');
    "*".repeat(text.len()) + &line[text.len()..]
}

/// Whether a text is the digest of an image. The text is what follows an `@`.
fn is_digest(text: &str) -> bool {
    let hex = text.strip_prefix("sha256:").map_or("", |hex| hex);
    hex.chars().take_while(char::is_ascii_hexdigit).count() == 64
}

/// The part of a line from the beginning of its value to its last `@`. An `@` in front of an image's digest does not count.
fn login(line: &str) -> Option<Range<usize>> {
    let is_login = |at: &usize| !is_digest(&line[at + 1..]);
    let at = line.rmatch_indices('@').map(|(at, _)| at).find(is_login)?;
    let before = &line[..at];
    let key = KEY.captures(before);
    let from = key.as_ref().and_then(|key| key.get(0)).map_or(0, |key| key.end());
    let from = from + OPENS.find(&before[from..]).map_or(0, |opens| opens.end());
    let value = &before[from..];
    let named = key.as_ref().and_then(|key| key.name("key")).map(|key| key.as_str());
    let is_user = named.is_some_and(|key| LOGINS.contains(&key)) && !value.contains([':', '/']);
    (!value.is_empty() && !is_user).then_some(from..at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_before_an_at_sign_is_hidden() {
        for (line, shown) in [
            ("http = \"me:pw@proxy:3128\"", "http = \"[secret]@proxy:3128\""),
            ("http = \"t0ken@proxy:3128\"", "http = \"[secret]@proxy:3128\""),
            ("http = http://me:p w@proxy", "http = http://[secret]@proxy"),
            ("http = 'http://me:p'w\"=@x@proxy'", "http = 'http://[secret]@proxy'"),
            ("mirrors = [ \"https://me:pw@m\"]", "mirrors = [ \"https://[secret]@m\"]"),
            ("  'me=pw@m',", "  '[secret]@m',"),
            ("proxy = { http = 'me:pw@m' }", "proxy = { [secret]@m' }"),
            ("[registries.\"me:p=w@r\"]", "[registries.\"me:p=w@r\"]"),
            ("a.\"b c\" = 'me:pw@m'", "a.\"b c\" = '[secret]@m'"),
            ("address = \"me:pw@198.18.0.11\"", "address = \"[secret]@198.18.0.11\""),
            ("address = \"root@198.18.0.11\"", "address = \"root@198.18.0.11\""),
            ("jump = [\"ops@bastion\"]", "jump = [\"ops@bastion\"]"),
            ("http = 'me:pw@sha256:3128'", "http = '[secret]@sha256:3128'"),
            ("user = \"me\" # * @", "user = \"me\" # * @"),
        ] {
            let masked = Masked::new(line);
            assert_eq!(masked.text.len(), line.len(), "{line}");
            let shown = match line.starts_with("[registries") {
                // The whole line is one key.
                true => "[secret]@r\"]",
                false => shown,
            };
            let picture = masked.picture(&masked.text);
            assert!(picture.ends_with(shown), "{line}: {picture}");
            assert!(!picture.contains("pw"), "{picture}");
        }
    }

    #[test]
    fn an_image_digest_is_not_hidden() {
        let line = format!("image = \"docker.io/a/b:1@sha256:{}\"", "0a".repeat(32));
        assert_eq!(Masked::new(&line).text, line);
    }

    #[test]
    fn a_message_does_not_repeat_hidden_text() {
        let masked = Masked::new("ip = 'me:p \"w@1.2.3.4'\nmirrors = ['a:b@x', 'c:d@y']\n");
        assert_eq!(
            masked.words("\"me:p \\\"w@1.2.3.4\" is not an IP address"),
            "\"[secret]@1.2.3.4\" is not an IP address"
        );
        assert_eq!(masked.words("cannot read /x/a:b@x: c:d@y"), "cannot read [secret]@x: [secret]@y");
        assert_eq!(
            masked.words("as in \"ops@bastion.example.com:2222\""),
            "as in \"ops@bastion.example.com:2222\""
        );
    }
}
