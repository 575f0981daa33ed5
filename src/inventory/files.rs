//! The files that an inventory names: keys, certificates, manifests. Where they are, and what is in them.

use std::path::{Path, PathBuf};

use serde_json::Value;
use time::OffsetDateTime;

use super::bundle;
use super::mistake::Mistakes;
use super::secrets;
use super::table::Text;
use super::words;
use crate::cluster::Manifest;
use crate::openpgp::Keys;
use crate::yaml;

/// Where relative paths start: the folder of the inventory.
pub struct Folder<'a>(pub &'a Path);

impl Folder<'_> {
    /// The path as it is meant: `~` is the home directory, relative ones are beside the inventory.
    pub fn path(&self, text: &str) -> PathBuf {
        let home = text.strip_prefix("~/").and_then(|rest| Some(std::env::home_dir()?.join(rest)));
        home.unwrap_or_else(|| self.0.join(text))
    }

    /// A file's text.
    pub fn read(&self, text: &Text, mistakes: &mut Mistakes) -> Option<String> {
        let path = self.path(text.is);
        match std::fs::read_to_string(&path) {
            Ok(content) => Some(content),
            Err(error) => {
                mistakes.add(&text.at, format!("cannot read {}: {}", path.display(), plain(&error)));
                None
            }
        }
    }

    /// A private key. Only that it is there and no public one: reading it may take a passphrase.
    pub fn private_key(&self, text: &Text, mistakes: &mut Mistakes) -> Option<PathBuf> {
        let content = self.read(text, mistakes)?;
        let public = ["ssh-", "ecdsa-", "sk-"].iter().any(|start| content.starts_with(start));
        if public {
            let help = text
                .is
                .strip_suffix(".pub")
                .map_or("name the private one".into(), |path| format!("as in key = {path:?}"));
            mistakes.add_help(&text.at, "this is a public key; logging in takes the private one", help);
        }
        (!public).then(|| self.path(text.is))
    }

    /// A file of CA certificates, and nothing else of it: it is laid out on machines.
    pub fn certificates(&self, text: &Text, mistakes: &mut Mistakes) -> Option<String> {
        let content = self.read(text, mistakes)?;
        match bundle::certificates(&content, OffsetDateTime::now_utc()) {
            Ok(bundle) => {
                bundle
                    .odd
                    .into_iter()
                    .for_each(|says| mistakes.warn(&text.at, format!("{}: {says}", text.is)));
                Some(bundle.text)
            }
            Err(why) => {
                let help = "name a file that holds the certificates alone: every machine gets a copy";
                mistakes.add_help(&text.at, format!("{} {why}", text.is), help);
                None
            }
        }
    }

    /// A file of armored OpenPGP public keys, and nothing else of it: likewise.
    pub fn public_keys(&self, text: &Text, mistakes: &mut Mistakes) -> Option<Keys> {
        let content = self.read(text, mistakes)?;
        match Keys::read(&content) {
            Ok(keys) => Some(keys),
            Err(why) => {
                let help = "name a file that holds the public key alone, as gpg --armor --export prints it";
                mistakes.add_help(&text.at, format!("{} {why}", text.is), help);
                None
            }
        }
    }

    /// A YAML file of Kubernetes objects.
    pub fn manifest(&self, text: &Text, mistakes: &mut Mistakes) -> Option<Manifest> {
        let content = self.read(text, mistakes)?;
        let (objects, wrong) = objects(&content, text.is);
        wrong.into_iter().for_each(|why| mistakes.add(&text.at, why));
        Some(Manifest { path: text.is.to_string(), objects: objects? })
    }
}

/// The objects of a YAML text, those of lists one by one, and what is wrong with them; `None` where it is no YAML.
/// `shown` is how the text is called.
pub fn objects(content: &str, shown: &str) -> (Option<Vec<Value>>, Vec<String>) {
    let documents = match yaml::read_all(content) {
        Ok(documents) => documents,
        Err(error) => {
            let why = error.lines().next().unwrap_or_default().trim_start_matches("error: ");
            return (None, vec![format!("{shown} is not YAML: {why}")]);
        }
    };
    let items = |document: Value| match (document["kind"].as_str(), document["items"].as_array()) {
        (Some(kind), Some(items)) if kind.ends_with("List") => items.clone(),
        _ => vec![document],
    };
    let objects: Vec<Value> = documents.into_iter().flat_map(items).collect();
    objects.iter().for_each(secrets::learn_object);
    let mut wrong = Vec::new();
    if objects.is_empty() {
        wrong.push(format!("{shown} holds no objects"));
    }
    for (n, object) in objects.iter().enumerate() {
        let said =
            |pointer: &str| object.pointer(pointer).and_then(Value::as_str).is_some_and(|s| !s.is_empty());
        let needed = ["/apiVersion", "/kind", "/metadata/name"];
        if let Some(lacking) = needed.into_iter().find(|pointer| !said(pointer)) {
            let lacking = lacking[1..].replace('/', ".");
            wrong.push(format!("object {} of {shown} lacks {lacking}", n + 1));
        } else if let Some(why) = misnamed(object) {
            wrong.push(format!("object {} of {shown} {why}", n + 1));
        }
    }
    (Some(objects), wrong)
}

/// Why an object cannot be asked for by what it says of itself: Kubernetes' own rules, where they are the same for all.
fn misnamed(object: &Value) -> Option<String> {
    let said = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let is_version = |text: &str| match text.split_once('/') {
        Some((group, version)) => words::is_subdomain(group) && words::is_label(version),
        None => words::is_label(text),
    };
    let is_kind = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(|c| c.is_ascii_alphanumeric())
    };
    let is_segment = |text: &str| {
        text != "." && text != ".." && !text.contains(|c: char| c == '/' || c == '%' || c.is_control())
    };
    let namespace = object.pointer("/metadata/namespace").filter(|namespace| !namespace.is_null());
    let is_namespace = namespace.is_none_or(|namespace| namespace.as_str().is_some_and(words::is_label));
    let rules = [
        ("apiVersion", is_version(said("/apiVersion")), "GROUP/VERSION or VERSION, as in apps/v1"),
        ("kind", is_kind(said("/kind")), "letters and digits, as in ConfigMap"),
        ("metadata.namespace", is_namespace, "a-z, 0-9 and -, at most 63 of them"),
        ("metadata.name", is_segment(said("/metadata/name")), "without /, % and control characters"),
    ];
    let wrong = rules.into_iter().find(|(_, right, _)| !right);
    wrong.map(|(what, _, rule)| format!("has no valid {what}: it is {rule}"))
}

/// The system's words, without its numbers.
pub fn plain(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".into(),
        std::io::ErrorKind::InvalidData => "it is not text".into(),
        _ => {
            let text = error.to_string();
            text.split(" (os error").next().unwrap_or_default().to_lowercase()
        }
    }
}
