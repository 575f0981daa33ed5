//! What must never be shown, and how a text looks without it. The one place where that is decided: every event passes
//! here on its way to whatever shows or writes it.

use std::borrow::Cow;
use std::sync::LazyLock;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use regex::Regex;
use serde_json::Value;

/// What stands where a secret was.
const HIDDEN: &str = "[secret]";
/// Anything shorter would make other texts unreadable, and no secret of ours is.
const SHORTEST: usize = 6;
/// A line of a secret text that is at least so long is a secret by itself.
const SHORTEST_LINE: usize = 16;

/// Secrets that are known, and what gives others away.
#[derive(Default)]
pub struct Secrets {
    /// The longest first, so that none is hidden in part only.
    known: Vec<String>,
}

impl Secrets {
    /// Takes in a secret: a key, a token, the text of a file. Whole, line by line, and as kubeconfigs have it.
    pub fn add(&mut self, text: &str) {
        let whole = text.trim();
        if whole.len() < SHORTEST {
            return;
        }
        let lines = whole.lines().filter(|line| line.len() >= SHORTEST_LINE && !line.starts_with("-----"));
        self.known.extend(lines.map(str::to_string));
        self.known.extend([whole.to_string(), BASE64_STANDARD.encode(text)]);
        self.known.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        self.known.dedup();
    }

    /// The text without secrets: those that are known, private keys of anybody, passwords in addresses.
    pub fn hide<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(text);
        for secret in &self.known {
            if text.contains(secret.as_str()) {
                text = text.replace(secret.as_str(), HIDDEN).into();
            }
        }
        for (from, to) in BETWEEN {
            if text.contains(from) {
                text = between(&text, from, *to).into();
            }
        }
        if text.contains("://") { passwords(&text).into() } else { text }
    }

    /// The same for what others wrote, in whose words anything can be a secret: what looks like one is hidden, too.
    pub fn hide_from_strangers(&self, text: &str) -> String {
        SHAPED.iter().fold(self.hide(text).into_owned(), |text, shape| {
            shape.replace_all(&text, format!("${{before}}{HIDDEN}")).into_owned()
        })
    }

    /// The same for every string of a value; whether there was anything to hide.
    pub fn hide_in(&self, value: &mut Value) -> bool {
        match value {
            Value::String(text) => match self.hide(text) {
                hidden if hidden == *text => false,
                hidden => {
                    *text = hidden.into_owned();
                    true
                }
            },
            Value::Array(values) => values.iter_mut().fold(false, |any, value| self.hide_in(value) | any),
            Value::Object(map) => map.values_mut().fold(false, |any, value| self.hide_in(value) | any),
            _ => false,
        }
    }
}

/// What stands between these is a secret, whoever's it is. Without an end: to the end of the line.
const BETWEEN: &[(&str, Option<&str>)] = &[
    ("PRIVATE KEY-----", Some("-----END")),
    ("client-key-data:", None),
    ("token-secret:", None),
    // How containerd logs in to a registry.
    ("password =", None),
    ("identitytoken =", None),
    ("auth =", None),
];

/// What looks like a secret, whoever's it is; `before` stays.
static SHAPED: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    let shapes = [
        // A PEM within base64, as kubeconfigs and Secrets have it.
        r"(?<before>)LS0tLS1CRUdJTi[A-Za-z0-9+/=]{20,}",
        r"(?<before>)\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]+",
        // A bootstrap token (Kubernetes' documentation, "Bootstrap Tokens").
        r"\b(?<before>[a-z0-9]{6}\.)[a-z0-9]{16}\b",
        r"(?i)(?<before>\b(?:bearer|basic)\s+)[A-Za-z0-9+/=._~-]{8,}",
        // `key = "…"`, `token: …`, `password=…`; a path or a table of that name is none.
        r#"(?i)(?<before>[\w.-]*(?:passw(?:or)?d|secret|token|certificate-?key|private-?key|auth)"?\s*[=:]\s*)(?:"[^"\n]*"|'[^'\n]*'|[^\s"'{\[(,/][^\s,}]*)"#,
        r"(?i)(?<before>--(?:token|certificate-key|password)\s+)\S+",
        r"(?<before>certificate[ -]key:?\s+)[0-9a-f]{64}\b",
    ];
    shapes.iter().map(|shape| Regex::new(shape).expect("the shapes are constants, and tested")).collect()
});

fn between(text: &str, from: &str, to: Option<&str>) -> String {
    let (mut rest, mut kept) = (text, String::new());
    while let Some(at) = rest.find(from) {
        let (before, after) = rest.split_at(at + from.len());
        kept += before;
        // The end of a key is followed by the same words as its beginning: that is no other key.
        let is_end = to.is_some_and(|to| before.rfind(to) > before.rfind("-----BEGIN"));
        let end = after.find(to.unwrap_or("\n")).unwrap_or(after.len());
        if !is_end && end > 0 {
            kept += &format!(" {HIDDEN} ");
        }
        rest = if is_end { after } else { &after[end..] };
    }
    kept + rest
}

/// `http://user:password@host`
fn passwords(text: &str) -> String {
    let mut parts = text.split("://");
    let mut kept = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let end = part.find(|c: char| c.is_whitespace() || "/\"'".contains(c)).unwrap_or(part.len());
        let password = part[..end].rfind('@').and_then(|at| Some((part[..at].find(':')?, at)));
        kept += "://";
        kept += &match password {
            Some((colon, at)) => format!("{}:{HIDDEN}{}", &part[..colon], &part[at..]),
            None => part.to_string(),
        };
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEG\nCCqGSM49AwEHBG0wawIBAQQg\n-----END PRIVATE KEY-----\n";

    #[test]
    fn a_known_secret_is_hidden_whole_in_part_and_packed() {
        let mut secrets = Secrets::default();
        secrets.add(KEY);
        let packed = format!("key: {}", BASE64_STANDARD.encode(KEY));
        for text in [KEY, "x MIGHAgEAMBMGByqGSM49AgEG y", &packed] {
            let hidden = secrets.hide(text);
            assert!(hidden.contains(HIDDEN) && !hidden.contains("MIGH"), "{hidden}");
        }
        assert_eq!(
            secrets.hide("-----BEGIN CERTIFICATE-----\nMIIB\n"),
            "-----BEGIN CERTIFICATE-----\nMIIB\n"
        );
    }

    #[test]
    fn a_strangers_secret_is_told_by_what_is_around_it() {
        let hidden = Secrets::default().hide(KEY).into_owned();
        assert_eq!(hidden, "-----BEGIN PRIVATE KEY----- [secret] -----END PRIVATE KEY-----\n");
        let two = Secrets::default().hide(&format!("{KEY}and\n{KEY}")).into_owned();
        assert!(two.contains("and") && !two.contains("MIGH"), "{two}");
        let cut = Secrets::default().hide(&KEY[..40]).into_owned();
        assert_eq!(cut, "-----BEGIN PRIVATE KEY----- [secret] ");
        assert_eq!(
            Secrets::default().hide("client-key-data: TUlH\nx: y"),
            "client-key-data: [secret] \nx: y"
        );
    }

    #[test]
    fn what_containerd_logs_in_by_is_hidden() {
        let hidden = Secrets::default().hide("username = 'me'\n  password = 'pw'\n").into_owned();
        assert_eq!(hidden, "username = 'me'\n  password = [secret] \n");
    }

    #[test]
    fn a_password_in_an_address_is_hidden_and_the_address_is_not() {
        let hide = |text: &str| Secrets::default().hide(text).into_owned();
        assert_eq!(hide("a http://me:pw@proxy:3128/x b"), "a http://me:[secret]@proxy:3128/x b");
        assert_eq!(hide("https://[fd00::1]:6443 a@b"), "https://[fd00::1]:6443 a@b");
    }

    #[test]
    fn strings_are_found_wherever_they_are_in_a_value() {
        let mut secrets = Secrets::default();
        secrets.add("abcdef.0123456789abcdef");
        let mut value = serde_json::json!({"a": ["x", {"b": "t=abcdef.0123456789abcdef"}], "n": 1});
        assert!(secrets.hide_in(&mut value) && !secrets.hide_in(&mut serde_json::json!(["x", 2])));
        assert_eq!(value, serde_json::json!({"a": ["x", {"b": "t=[secret]"}], "n": 1}));
    }

    #[test]
    fn what_looks_like_a_secret_is_hidden_from_what_others_wrote_and_the_rest_stays() {
        let hide = |text: &str| Secrets::default().hide_from_strangers(text);
        let cases = [
            ("client-key: LS0tLS1CRUdJTiBFQyBQUklWQVRFIEtFWS0tLS0tCg==", "client-key: [secret]"),
            ("kubeadm join --token abcdef.0123456789abcdef", "kubeadm join --token [secret]"),
            ("the token abcdef.0123456789abcdef is", "the token abcdef.[secret] is"),
            ("https = \"http://me:pw@proxy:3128\"", "https = \"http://me:[secret]@proxy:3128\""),
            ("Authorization: Bearer abcdefgh12345", "Authorization: Bearer [secret]"),
            ("password = \"hunter2\"", "password = [secret] "),
            ("identitytoken = 'x'\n", "identitytoken = [secret] \n"),
            ("certificateKey: 0123abcd", "certificateKey: [secret]"),
            ("sa eyJhbGciOiJSUzI1NiI.eyJpc3MiOiJrdWJl.c2ln", "sa [secret]"),
        ];
        for (text, clean) in cases {
            assert_eq!(hide(text), clean);
        }
        for text in [
            "[ssh]\nkey = \"~/.ssh/id_ed25519\"",
            "tokenTTL: {a: 1}",
            "open /etc/kubernetes/pki/ca.key: no such file",
            "dial tcp 198.18.0.11:6443: connect: connection refused",
            "authentication = { anonymous = { enabled = false } }",
        ] {
            assert_eq!(hide(text), text);
        }
    }
}
