//! Fuzzes the redactor with random secrets in random texts. No secret may be shown.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ironstrap::secret::{Registry, clean, clean_json, is_forbidden};
use serde_json::Value;

use crate::support::fuzz;

/// The pieces of secrets and texts, with quotes, escapes, line ends and invisible characters.
const PIECES: &[&str] = &[
    "a",
    "Zq",
    "0",
    "hunter2",
    "-",
    "_",
    ".",
    "/",
    "+",
    "=",
    "==",
    "%40",
    "@",
    ":",
    "://",
    "'",
    "\"",
    "\\",
    "\\\"",
    "$",
    "`",
    "$(x)",
    "é",
    "日",
    "\u{9b}",
    "\x1b[2J",
    "\x07",
    "\r",
    "\n",
    "\r\n",
    "\t",
    " ",
    "\u{202e}",
    "\u{2028}",
    "{",
    "}",
    ",",
    ";",
    "\0",
    "\u{7f}",
    "x9K",
    "MIGHAgEAMBMGByqGSM49",
    "correct horse",
    "#",
    "?",
    "&",
    "|",
    "<",
    ">",
    "*",
    "~",
    "!",
];
/// More pieces of texts.
const TEXTS: &[&str] = &[
    "w1  ",
    "password: ",
    "password = \"",
    "token=",
    "\\\"auth\\\": \\\"",
    "https://",
    "http://me:",
    "-----BEGIN PRIVATE KEY-----\n",
    "-----END PRIVATE KEY-----",
    "Bearer ",
    "client-key-data: ",
    "eyJhbGciOiJSUzI1NiI.",
    "--token ",
    "LS0tLS1CRUdJTi",
    "key: ",
    "✔ ",
    "      hint: ",
];

/// A text that contains these secrets in several encodings.
fn text(random: &mut fuzz::Random, secrets: &[String]) -> String {
    let mut text = String::new();
    for _ in 0..1 + random.below(8) {
        let secret = &secrets[random.below(secrets.len())];
        text += &match random.below(8) {
            0 => random.one_of(TEXTS).to_string(),
            1 => random.several(PIECES, 4),
            2 => serde_json::json!(secret).to_string(),
            3 => BASE64_STANDARD.encode(secret),
            4 => format!("'{}'", secret.replace('\'', r"'\''")),
            5 => secret.chars().take(1 + random.below(9)).collect(),
            6 => secret.replace('\n', "\n      | "),
            _ => secret.clone(),
        };
    }
    text
}

#[test]
fn shown_text_has_no_secrets_or_control_characters() {
    let make = |random: &mut fuzz::Random| {
        let secrets: Vec<String> = (0..1 + random.below(5)).map(|_| random.several(PIECES, 12)).collect();
        let text = text(random, &secrets);
        (secrets, text)
    };
    fuzz::each(500, make, |(secrets, text)| {
        let mut registry = Registry::default();
        secrets.iter().for_each(|secret| registry.add(secret));
        let hidden = registry.hide(text);
        let shown = registry.shown(text);
        assert!(!shown.contains(is_forbidden), "{shown:?}");
        assert_eq!(clean(&shown), *shown);
        for secret in secrets.iter().map(|secret| secret.trim()).filter(|secret| secret.chars().count() >= 6)
        {
            let forms = [secret.to_string(), clean(secret).into(), BASE64_STANDARD.encode(secret)];
            for form in forms {
                assert!(!shown.contains(&form), "{form:?} of {text:?} is in {shown:?}");
            }
        }
        let json = serde_json::json!({"line": hidden}).to_string();
        let cleaned = clean_json(&json);
        assert!(!cleaned.contains(is_forbidden), "{cleaned:?}");
        let read: Value = serde_json::from_str(&cleaned).unwrap();
        assert_eq!(read["line"], *hidden);
    });
}
