//! The registry of the secrets of a run, in every form in which one can appear in a text.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::OnceLock;

use aho_corasick::{AhoCorasick, AhoCorasickKind};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE};
use regex::Regex;

use super::clean::clean;
use super::{HIDDEN, shapes};

/// The fewest characters of a secret that is hidden wherever it stands. A shorter one is hidden only after the
/// name of its field, because `true` or `a` stand in too many texts.
const SHORTEST: usize = 6;
/// The fewest characters of a line that is a secret by itself, in a secret of many lines.
const SHORTEST_LINE: usize = 16;

/// Words that ironstrap and Kubernetes use themselves, and that are also values of many Secrets. Like short
/// secrets, they are hidden only after the name of their field.
const WORDS: &[&str] = &[
    "127.0.0.1",
    "answered",
    "attached",
    "authentication",
    "cluster.local",
    "config",
    "control-plane",
    "converged",
    "default",
    "disabled",
    "drifted",
    "enabled",
    "fixing",
    "interrupted",
    "inventory",
    "ironstrap",
    "kube-public",
    "kube-system",
    "kubeadm",
    "kubelet",
    "kubernetes",
    "localhost",
    "looked",
    "opaque",
    "partial",
    "password",
    "quarantined",
    "refused",
    "script",
    "service",
    "skipped",
    "stopping",
    "unknown",
    "unreachable",
    "username",
    "waiting",
    "worker",
];

/// The secrets that are known. This type is pure. The registry of the running program is in `secret`.
#[derive(Default)]
pub struct Registry {
    known: BTreeSet<String>,
    /// Names that are not secret, even if a secret has the same text.
    plain: BTreeSet<String>,
    /// Patterns of short secrets: after the names of their fields, or in a URL.
    behind: Vec<Regex>,
    /// Finds all of `known` at once. It is made when it is needed, and again after `known` has changed.
    finder: OnceLock<Option<AhoCorasick>>,
}

impl Registry {
    /// Adds a secret in all its forms: whole, line by line, in base64, and as shells, JSON and YAML write it.
    pub fn add(&mut self, text: &str) {
        let whole = text.trim();
        let lines = whole.lines().map(str::trim);
        let lines = lines.filter(|line| line.chars().count() >= SHORTEST_LINE && !line.starts_with("-----"));
        let mut forms: BTreeSet<String> = lines.chain([whole]).flat_map(written).collect();
        if self.stands_alone(whole) {
            forms.extend([text, whole].into_iter().flat_map(encoded));
        }
        let new = forms.into_iter().filter(|form| self.stands_alone(form) && !self.known.contains(form));
        let new: Vec<String> = new.collect();
        if !new.is_empty() {
            self.known.extend(new);
            self.finder = OnceLock::new();
        }
    }

    /// Adds a secret that is the value of this field. A short one is hidden where the field is shown.
    pub fn add_field(&mut self, field: &str, text: &str) {
        self.add(text);
        let whole = text.trim();
        if whole.is_empty() || self.known.contains(whole) || whole == HIDDEN {
            return;
        }
        let forms: BTreeSet<String> = written(whole).into_iter().chain(encoded(text)).collect();
        let forms: Vec<String> = forms.iter().map(|form| regex::escape(form)).collect();
        let shape = format!(
            r#"(?m)(?<before>(?:^|[^\w-]){}\\*["']?\s*[:=]\s*\\*["']?)(?:{})(?<after>\\*["']|[\s,;}}\]]|$)"#,
            regex::escape(field),
            forms.join("|")
        );
        self.add_shape(&shape);
    }

    fn add_shape(&mut self, shape: &str) {
        if self.behind.iter().all(|known| known.as_str() != shape) {
            self.behind.extend(Regex::new(shape));
        }
    }

    /// Adds a name that everybody may read. A secret of the same text is not hidden, because that would reveal the secret.
    pub fn add_plain(&mut self, name: &str) {
        self.plain.insert(name.into());
        if self.known.remove(name) {
            self.finder = OnceLock::new();
        }
    }

    /// Adds the credentials before the `@` of a URL: the password, the token, and both without
    /// percent-encoding. A short one is hidden in its URL.
    pub fn add_url(&mut self, url: &str) {
        for info in user_infos(url) {
            let secret = info.split_once(':').map_or(info, |(_, password)| password);
            for text in [info, secret] {
                self.add(text);
                self.add(&without_percent(text));
            }
            let forms: BTreeSet<String> = written(info).iter().map(|form| regex::escape(form)).collect();
            let forms: Vec<String> = forms.into_iter().collect();
            self.add_shape(&format!("(?<before>://)(?:{})(?<after>@)", forms.join("|")));
        }
    }

    /// The text without secrets, both those in the registry and those that `shapes` recognizes.
    pub fn hide<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut text = self.without_known(text);
        for behind in &self.behind {
            if behind.is_match(&text) {
                let hidden = behind.replace_all(&text, format!("${{before}}{HIDDEN}${{after}}"));
                text = hidden.into_owned().into();
            }
        }
        shapes::hide(text)
    }

    /// The text without secrets, and without characters that a terminal obeys.
    pub fn shown(&self, text: &str) -> String {
        super::shown(text, |text| self.hide(text))
    }

    fn without_known<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if self.known.is_empty() {
            return text.into();
        }
        // There are too many secrets for an automaton. Then ironstrap cannot tell any text from a secret, so it hides all of it.
        let Some(finder) = self.finder.get_or_init(|| automaton(&self.known)) else {
            return HIDDEN.into();
        };
        let mut found: Vec<(usize, usize)> =
            finder.find_overlapping_iter(text).map(|found| (found.start(), found.end())).collect();
        if found.is_empty() {
            return text.into();
        }
        found.sort_unstable();
        // Matches that overlap or touch become one. The text between two matches could otherwise be a piece of a secret.
        let mut merged: Vec<(usize, usize)> = Vec::new();
        for (start, end) in found {
            match merged.last_mut() {
                Some((_, until)) if start <= *until => *until = end.max(*until),
                _ => merged.push((start, end)),
            }
        }
        let (mut kept, mut at) = (String::new(), 0);
        for (start, end) in merged {
            kept += &text[at..start];
            kept += HIDDEN;
            at = end;
        }
        (kept + &text[at..]).into()
    }

    /// Whether a text is hidden wherever it stands.
    fn stands_alone(&self, text: &str) -> bool {
        text.chars().count() >= SHORTEST
            && !WORDS.contains(&text.to_lowercase().as_str())
            && !HIDDEN.contains(text)
            && !self.plain.contains(text)
    }
}

/// Builds the finder. Its kind is quick to build rather than quick to search: a run shows little text, and
/// registers secrets often. `None`: there are too many secrets.
fn automaton(known: &BTreeSet<String>) -> Option<AhoCorasick> {
    AhoCorasick::builder().kind(Some(AhoCorasickKind::ContiguousNFA)).build(known).ok()
}

/// A text in the forms in which others write it: as JSON, as JSON within JSON, and in single quotes of a shell
/// or of YAML. One more form is without characters that a terminal obeys.
fn written(text: &str) -> Vec<String> {
    let json = |text: &str| {
        let quoted = serde_json::Value::from(text).to_string();
        quoted[1..quoted.len() - 1].to_string()
    };
    let (once, cleaned) = (json(text), clean(text).into_owned());
    let twice = json(&once);
    vec![
        text.to_string(),
        once,
        twice,
        json(&cleaned),
        cleaned,
        text.replace('\'', r"'\''"),
        text.replace('\'', "''"),
    ]
}

/// A text in both alphabets of base64, with and without padding.
fn encoded(text: &str) -> Vec<String> {
    let both = [BASE64_STANDARD.encode(text), BASE64_URL_SAFE.encode(text)];
    both.iter().flat_map(|text| [text.clone(), text.trim_end_matches('=').to_string()]).collect()
}

/// The credentials before the `@` of a URL, in each possible reading. A password may contain `/`, `?`, `#` or `@`,
/// although a URL does not allow that. Then there are several readings. `https://host:443/name@1.2` has no credentials.
fn user_infos(url: &str) -> Vec<&str> {
    let Some((_, rest)) = url.split_once("://") else { return vec![] };
    // The whole text is a URL here, so a quote in it does not end it.
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    let right = authority.rsplit_once('@').map(|(info, _)| info);
    let is_port = |text: &str| text.chars().all(|c| c.is_ascii_digit()) && !text.is_empty();
    let is_password =
        authority.rsplit_once(':').is_some_and(|(_, text)| !is_port(text) && !text.ends_with(']'));
    let longest = rest.rsplit_once('@').map(|(info, _)| info).filter(|_| right.is_some() || is_password);
    let mut infos: Vec<&str> = right.into_iter().chain(longest).filter(|info| !info.is_empty()).collect();
    infos.dedup();
    infos
}

/// The text without percent-encoding (RFC 3986). A `%` that encodes nothing stays.
pub fn without_percent(text: &str) -> String {
    let hex = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let (mut rest, mut plain) = (text.as_bytes(), Vec::new());
    while let [first, after @ ..] = rest {
        let byte = if *first == b'%' { after.get(..2).and_then(hex) } else { None };
        plain.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&plain).into_owned()
}
