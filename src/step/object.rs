//! The name of an object in the cluster's API, and how it gets rid of what others added to it.

use serde_json::Value;

use crate::manifest::{self, Whose};
use crate::shell::{Sh, here, sh};

/// The name of an object in the cluster's API.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Object {
    pub api_version: String,
    pub kind: String,
    /// Empty where the kind has none.
    pub namespace: String,
    pub name: String,
}

impl Object {
    /// The answer for a Secret that is there. Its content stays where it is.
    pub const SECRET: &str = "secret";

    pub fn new(api_version: &str, kind: &str, namespace: &str, name: &str) -> Self {
        let text = str::to_string;
        Object {
            api_version: text(api_version),
            kind: text(kind),
            namespace: text(namespace),
            name: text(name),
        }
    }

    /// The name of an object as a manifest has it.
    pub fn of(manifest: &Value) -> Self {
        let text = |pointer: &str| manifest.pointer(pointer).and_then(Value::as_str).unwrap_or("");
        Object::new(text("/apiVersion"), text("/kind"), text("/metadata/namespace"), text("/metadata/name"))
    }

    pub fn node(name: &str) -> Self {
        Object::new("v1", "Node", "", name)
    }

    /// What ironstrap set on Nodes, as it noted it. The answer is a string: the note on the Node that is asked for beside it.
    pub fn notes() -> Self {
        Object::new("v1", "ConfigMap", "kube-system", "ironstrap")
    }
}

impl Object {
    /// How the answer to a question names it: no other object is called so.
    pub fn key(&self) -> String {
        format!("{}/{}/{}", self.kind, self.namespace, self.name)
    }
}

impl std::fmt::Display for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.namespace.is_empty() {
            true => write!(f, "{} {}", self.kind, self.name),
            false => write!(f, "{} {}/{}", self.kind, self.namespace, self.name),
        }
    }
}

/// Shell that takes out of an object what its manifest lacks, of what is compared as a whole; after `kubectl` and `OBJECTS`.
/// Empty where nothing is.
pub fn trim(manifest: &Value, whose: Whose) -> Sh {
    let Some(patch) = manifest::patch(manifest, whose) else { return Sh::EMPTY };
    // JSON is YAML.
    here(sh!("trim_object {patch}", patch = patch.to_string()), &manifest.to_string())
}
