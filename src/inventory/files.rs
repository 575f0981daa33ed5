//! Reads the files that an inventory names: keys, certificates, manifests. Finds where they are, and checks their contents.

use std::path::{Path, PathBuf};

use serde_json::Value;
use time::OffsetDateTime;

use super::bundle;
use super::diagnostic::Mistakes;
use super::names;
use super::secrets;
use super::table::Text;
use crate::cluster::Manifest;
use crate::openpgp::Keys;
use crate::yaml;

/// The folder of the inventory, where relative paths start.
pub struct Folder<'a>(pub &'a Path);

impl Folder<'_> {
    /// The full path. `~` is the home directory, and relative paths start at the folder of the inventory.
    pub fn path(&self, text: &str) -> PathBuf {
        let home = text.strip_prefix("~/").and_then(|rest| Some(std::env::home_dir()?.join(rest)));
        home.unwrap_or_else(|| self.0.join(text))
    }

    /// The text of a file.
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

    /// The path of a private key. The only checks are that the file exists and that it is not a public key. Reading the
    /// key may need a passphrase.
    pub fn private_key(&self, text: &Text, mistakes: &mut Mistakes) -> Option<PathBuf> {
        let content = self.read(text, mistakes)?;
        let public = ["ssh-", "ecdsa-", "sk-"].iter().any(|start| content.starts_with(start));
        if public {
            let help = text
                .is
                .strip_suffix(".pub")
                .map_or("name the private key".into(), |path| format!("as in key = {path:?}"));
            mistakes.add_help(&text.at, "this is a public key; login requires the private key", help);
        }
        (!public).then(|| self.path(text.is))
    }

    /// The certificates of a file of CA certificates, without any other text of the file. ironstrap copies them to machines.
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
                let help = "name a file that holds only certificates, because every machine gets a copy";
                mistakes.add_help(&text.at, format!("{} {why}", text.is), help);
                None
            }
        }
    }

    /// The keys of a file of armored OpenPGP public keys, without any other text of the file. ironstrap copies them to
    /// machines.
    pub fn public_keys(&self, text: &Text, mistakes: &mut Mistakes) -> Option<Keys> {
        let content = self.read(text, mistakes)?;
        match Keys::read(&content) {
            Ok(keys) => Some(keys),
            Err(why) => {
                let help = "name a file that holds only the public key, as gpg --armor --export prints it";
                mistakes.add_help(&text.at, format!("{} {why}", text.is), help);
                None
            }
        }
    }

    /// The objects of a YAML file of Kubernetes objects.
    pub fn manifest(&self, text: &Text, mistakes: &mut Mistakes) -> Option<Manifest> {
        let content = self.read(text, mistakes)?;
        let (objects, wrong) = objects(&content, text.is);
        wrong.into_iter().for_each(|why| mistakes.add(&text.at, why));
        Some(Manifest { path: text.is.to_string(), objects: objects? })
    }
}

/// The objects of a YAML text, and what is wrong with them. The items of a list are returned one by one. The objects
/// are `None` if the text is not YAML. Messages call the text `shown`.
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
        wrong.push(format!("{shown} contains no objects"));
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

/// Why the API cannot be asked for an object by its own kind, version, namespace and name. The rules are those of
/// Kubernetes that hold for all kinds.
fn misnamed(object: &Value) -> Option<String> {
    let said = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let is_version = |text: &str| match text.split_once('/') {
        Some((group, version)) => names::is_subdomain(group) && names::is_label(version),
        None => names::is_label(text),
    };
    let is_kind = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(|c| c.is_ascii_alphanumeric())
    };
    let is_segment = |text: &str| {
        text != "." && text != ".." && !text.contains(|c: char| c == '/' || c == '%' || c.is_control())
    };
    let namespace = object.pointer("/metadata/namespace").filter(|namespace| !namespace.is_null());
    let is_namespace = namespace.is_none_or(|namespace| namespace.as_str().is_some_and(names::is_label));
    let rules = [
        ("apiVersion", is_version(said("/apiVersion")), "GROUP/VERSION or VERSION, as in apps/v1"),
        ("kind", is_kind(said("/kind")), "letters and digits, as in ConfigMap"),
        ("metadata.namespace", is_namespace, "a-z, 0-9 and -, at most 63 of them"),
        ("metadata.name", is_segment(said("/metadata/name")), "without /, % and control characters"),
    ];
    let wrong = rules.into_iter().find(|(_, right, _)| !right);
    wrong.map(|(what, _, rule)| format!("has no valid {what}: it is {rule}"))
}

/// The message of the operating system, without the error number.
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
