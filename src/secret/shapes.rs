//! Finds secrets that are not registered, by the words around them or by their form.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::{Captures, Regex};

use super::HIDDEN;

/// The text without private keys, passwords and tokens of anybody, and without the credentials of URLs.
pub fn hide(text: Cow<'_, str>) -> Cow<'_, str> {
    let mut text = text;
    for (from, to) in BETWEEN {
        if text.contains(from) {
            text = between(&text, from, *to).into();
        }
    }
    if text.contains("://") {
        text = credentials(&text).into();
    }
    for shape in SHAPED.iter() {
        if shape.is_match(&text) {
            text = shape.replace_all(&text, hidden).into_owned().into();
        }
    }
    text
}

/// Pairs of texts with a secret between them. Without a second text, the secret goes to the end of the line.
const BETWEEN: &[(&str, Option<&str>)] = &[
    ("PRIVATE KEY-----", Some("-----END")),
    ("client-key-data:", None),
    ("token-secret:", None),
    // How containerd logs in to a registry.
    ("password =", None),
    ("identitytoken =", None),
    ("auth =", None),
];

/// Patterns of texts that look like a secret. The group `before` stays visible. A variable of a shell in `value` is not a secret.
static SHAPED: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    let shapes = [
        // A PEM within base64, as kubeconfigs and Secrets have it.
        r"(?<before>)LS0tLS1CRUdJTi[A-Za-z0-9+/=]{20,}",
        r"(?<before>)\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]+",
        // A bootstrap token (Kubernetes' documentation, "Bootstrap Tokens").
        r"\b(?<before>[a-z0-9]{6}\.)[a-z0-9]{16}\b",
        r"(?i)(?<before>\b(?:bearer|basic)\s+)[A-Za-z0-9+/=._~-]{8,}",
        // `private-key = "…"`, `token: …`, `password=…`, also inside a JSON string, where quotes have a backslash before
        // them. A path or a table of that name is not a secret. A quote that nothing closes hides the rest of the line.
        r#"(?i)(?<before>[\w.-]*(?:passw(?:or)?d|secret|token|certificate-?key|private-?key|auth)\\*"?\s*[=:]\s*)(?<value>\\"(?:[^"\\\n]|\\\\\\"|\\\\|\\[^"\\\n])*\\"|"(?:[^"\\\n]|\\[^\n])*"|'[^'\n]*'|\\*["'][^\n]*|[^\s"'{\[(,/\\][^\s,}\\]*)"#,
        // How apt logs in to a repository (apt_auth.conf(5)).
        r#"(?<before>\bmachine\s+[^\s"'\\]*[./:][^\s"'\\]*\s+login\s+)[^\s"'\\]+(?:\s+password\s+[^\s"'\\]+)?"#,
        r#"(?m)(?<before>^[ \t+-]*login\s+[^\s"'\\]+\s+password\s+)[^\s"'\\]+"#,
        r"(?i)(?<before>--(?:token|certificate-key|password)\s+)\S+",
        r"(?<before>certificate[ -]key:?\s+)[0-9a-f]{64}\b",
    ];
    shapes.iter().map(|shape| Regex::new(shape).expect("the shapes are constants, and tested")).collect()
});

fn hidden(found: &Captures<'_>) -> String {
    let value = found.name("value").map_or("", |value| value.as_str());
    // A field with the name of a secret may be a switch, such as automountServiceAccountToken, or sudo's `NOPASSWD: ALL`.
    match is_variable(value) || [HIDDEN, "true", "false", "none", "ALL"].contains(&value) {
        true => found[0].to_string(),
        false => format!("{}{HIDDEN}", &found["before"]),
    }
}

/// Whether this is `$name`, `${name}` or `$(command`: the place where a shell finds the value, and not the value itself.
fn is_variable(value: &str) -> bool {
    let Some(rest) = value.trim_matches('"').strip_prefix('$') else { return false };
    let name = rest.trim_end_matches(';');
    rest.starts_with(['(', '{'])
        || !name.is_empty() && name.chars().all(|c| c.is_ascii_alphabetic() || c == '_')
}

fn between(text: &str, from: &str, to: Option<&str>) -> String {
    let (mut rest, mut kept) = (text, String::new());
    while let Some(at) = rest.find(from) {
        let (before, after) = rest.split_at(at + from.len());
        kept += before;
        // The end of a key has the same words as its beginning. It does not begin another key.
        let is_end = to.is_some_and(|to| before.rfind(to) > before.rfind("-----BEGIN"));
        let end = after.find(to.unwrap_or("\n")).unwrap_or(after.len());
        if !is_end && end > 0 {
            kept += &format!(" {HIDDEN} ");
        }
        rest = if is_end { after } else { &after[end..] };
    }
    kept + rest
}

/// Hides the credentials of URLs, as in `https://[secret]@host`. It hides both parts of `user:password@`,
/// because many servers take a token as the user.
fn credentials(text: &str) -> String {
    let mut parts = text.split("://");
    let mut kept = parts.next().unwrap_or_default().to_string();
    for part in parts {
        kept += "://";
        match user_info(part) {
            Some(info) => kept += &format!("{HIDDEN}{}", &part[info.len()..]),
            None => kept += part,
        }
    }
    kept
}

/// Hides the credentials in a text whose URLs may be mistaken. It hides everything before the last `@` of a
/// URL, whatever that contains.
pub fn hide_mistaken(text: &str) -> Cow<'_, str> {
    MISTAKEN.replace_all(text, format!("${{before}}{HIDDEN}@"))
}

static MISTAKEN: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r#"(?<before>://)[^\s"']+@"#).expect("it is a constant, and tested"));

/// Hides what stands before the `@` of `user:password@`, as messages have it.
pub fn hide_login(text: &str) -> Cow<'_, str> {
    LOGIN.replace_all(text, format!("{HIDDEN}@"))
}

static LOGIN: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r#"[^\s"'`@]*:[^\s"'`]*@"#).expect("it is a constant, and tested"));

/// The credentials before the `@` of a URL. `rest` is the text of the URL after `://`.
fn user_info(rest: &str) -> Option<&str> {
    let ends = |c: char| c.is_whitespace() || "/?#\"'<>`".contains(c);
    let authority = &rest[..rest.find(ends).unwrap_or(rest.len())];
    authority.rfind('@').map(|at| &authority[..at]).filter(|info| !info.is_empty())
}

#[cfg(test)]
mod tests {
    const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEG\nCCqGSM49AwEHBG0wawIBAQQg\n-----END PRIVATE KEY-----\n";

    fn hide(text: &str) -> String {
        super::hide(text.into()).into_owned()
    }

    #[test]
    fn an_unknown_private_key_is_hidden() {
        assert_eq!(hide(KEY), "-----BEGIN PRIVATE KEY----- [secret] -----END PRIVATE KEY-----\n");
        let two = hide(&format!("{KEY}and\n{KEY}"));
        assert!(two.contains("and") && !two.contains("MIGH"), "{two}");
        assert_eq!(hide(&KEY[..40]), "-----BEGIN PRIVATE KEY----- [secret] ");
        assert_eq!(hide("client-key-data: TUlH\nx: y"), "client-key-data: [secret] \nx: y");
    }

    #[test]
    fn only_the_credentials_of_a_url_are_hidden() {
        for (text, hidden) in [
            ("a http://me:pw@proxy:3128/x b", "a http://[secret]@proxy:3128/x b"),
            ("https://glpat-0123@gitlab.example/x", "https://[secret]@gitlab.example/x"),
            ("https://a:p@ss@host", "https://[secret]@host"),
            ("https://[fd00::1]:6443 a@b", "https://[fd00::1]:6443 a@b"),
            ("docker://quay.io/x@sha256:0a", "docker://quay.io/x@sha256:0a"),
            ("'http://me:pw@a', \"http://me:pw@b\"", "'http://[secret]@a', \"http://[secret]@b\""),
        ] {
            assert_eq!(hide(text), hidden);
        }
    }

    #[test]
    fn invalid_urls_are_hidden_up_to_the_last_at() {
        for (text, hidden) in [
            ("http = \"http://me:a/12/34@proxy:3128\"", "http = \"http://[secret]@proxy:3128\""),
            ("'https://12?3#4@h', \"https://host/x\"", "'https://[secret]@h', \"https://host/x\""),
        ] {
            assert_eq!(super::hide_mistaken(text), hidden);
        }
    }

    #[test]
    fn only_text_that_looks_like_a_secret_is_hidden() {
        let cases = [
            ("client-key: LS0tLS1CRUdJTiBFQyBQUklWQVRFIEtFWS0tLS0tCg==", "client-key: [secret]"),
            ("kubeadm join --token abcdef.0123456789abcdef", "kubeadm join --token [secret]"),
            ("the token abcdef.0123456789abcdef is", "the token abcdef.[secret] is"),
            ("https = \"http://me:pw@proxy:3128\"", "https = \"http://[secret]@proxy:3128\""),
            ("Authorization: Bearer abcdefgh12345", "Authorization: Bearer [secret]"),
            ("password = \"hunter2\"", "password = [secret] "),
            ("identitytoken = 'x'\n", "identitytoken = [secret] \n"),
            ("certificateKey: 0123abcd", "certificateKey: [secret]"),
            ("sa eyJhbGciOiJSUzI1NiI.eyJpc3MiOiJrdWJl.c2ln", "sa [secret]"),
            ("username = 'me'\n  password = 'pw'\n", "username = 'me'\n  password = [secret] \n"),
            (r#"{"password":"hun\"ter2","a":"b"}"#, r#"{"password":[secret],"a":"b"}"#),
            ("password: \"never closed", "password: [secret]"),
            ("machine https://h/x/ login me password pw1\n", "machine https://h/x/ login [secret]\n"),
            ("machine h:80 login t0ken", "machine h:80 login [secret]"),
            ("  login me password pw1", "  login me password [secret]"),
            (
                "{\"x\":\"machine h.example login me password pw1\\n\"}",
                "{\"x\":\"machine h.example login [secret]\\n\"}",
            ),
        ];
        for (text, clean) in cases {
            assert_eq!(hide(text), clean);
            assert_eq!(hide(clean), clean, "hidden text does not change again");
        }
        for text in [
            "[ssh]\nkey = \"~/.ssh/id_ed25519\"",
            "tokenTTL: {a: 1}",
            "open /etc/kubernetes/pki/ca.key: no such file",
            "dial tcp 198.18.0.11:6443: connect: connection refused",
            "authentication = { anonymous = { enabled = false } }",
            "token=$(cat /etc/x) password=$word auth=${x}",
            "automountServiceAccountToken: false\\n",
            "this machine cannot login by password",
            "it may login without password because",
            "deploy ALL=(ALL) NOPASSWD: ALL",
        ] {
            assert_eq!(hide(text), text);
        }
    }

    #[test]
    fn a_secret_inside_a_json_string_is_hidden() {
        let line = "client_token = \"hun\\\"ter2\" and sa_password: \"swordfish\"";
        let mut json = serde_json::json!({"event": "said", "line": line}).to_string();
        for _ in 0..2 {
            let hidden = hide(&json);
            assert!(!hidden.contains("ter2") && !hidden.contains("swordfish"), "{hidden}");
            json = serde_json::Value::String(json).to_string();
        }
    }
}
