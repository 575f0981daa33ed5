//! Objects in the cluster's API: their names, the verdict on them, and how to remove what others added to them.

use serde_json::Value;

use super::Verdict;
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
    /// The answer for a Secret that is there, as a JSON string. The content of the Secret stays in the cluster.
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

    /// The name of the object that a manifest describes.
    pub fn of(manifest: &Value) -> Self {
        let text = |pointer: &str| manifest.pointer(pointer).and_then(Value::as_str).unwrap_or("");
        Object::new(text("/apiVersion"), text("/kind"), text("/metadata/namespace"), text("/metadata/name"))
    }

    pub fn node(name: &str) -> Self {
        Object::new("v1", "Node", "", name)
    }

    /// The ConfigMap where ironstrap notes what it set on Nodes. The answer about it is a JSON string: the note about the
    /// Node that the same ask names.
    pub fn notes() -> Self {
        Object::new("v1", "ConfigMap", "kube-system", "ironstrap")
    }
}

impl Object {
    /// The name of the object in the answer to a question. No other object has this name.
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

/// The verdict on an object that has a manifest.
pub(super) fn judge(manifest: &Value, have: Option<&Value>, whose: Whose) -> Verdict {
    let Some(have) = have else {
        return Verdict::Differs { have: String::new(), want: format!("{}\n", Object::of(manifest)) };
    };
    if have == Object::SECRET {
        return Verdict::Holds;
    }
    if let Some(leaving) = leaving(have) {
        return leaving;
    }
    let differences = manifest::differences(manifest, have, whose);
    let (have, want) = manifest::texts(&differences);
    if differences.is_empty() { Verdict::Holds } else { Verdict::Differs { have, want } }
}

/// The verdict on an object that somebody deleted, and that is there until its finalizers are gone. No write keeps such an
/// object (kubernetes.io, "Finalizers"). A Namespace has finalizers of its own in its spec. `None`: the object stays.
pub fn leaving(object: &Value) -> Option<Verdict> {
    object.pointer("/metadata/deletionTimestamp").filter(|since| !since.is_null())?;
    let finalizers = ["/metadata/finalizers", "/spec/finalizers"].map(|at| object.pointer(at)?.as_array());
    let names: Vec<&str> = finalizers.into_iter().flatten().flatten().filter_map(Value::as_str).collect();
    let object = Object::of(object);
    let have = match names.is_empty() {
        true => format!("{object} is being deleted\n"),
        false => format!("{object} is being deleted, and waits for its finalizers: {}\n", names.join(", ")),
    };
    Some(Verdict::Differs { have, want: format!("{object} exists and is not being deleted\n") })
}

/// Shell that removes from an object what its manifest lacks, in the parts that are compared as a whole. It comes after
/// `kubectl` and `OBJECTS`. It is empty if no part is compared as a whole.
pub fn trim(manifest: &Value, whose: Whose) -> Sh {
    let Some(patch) = manifest::patch(manifest, whose) else { return Sh::EMPTY };
    // JSON is YAML.
    here(sh!("trim_object {patch}", patch = patch.to_string()), &manifest.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_being_deleted_differs_with_its_finalizers() {
        let manifest =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "b"}});
        let judged = |more: Value| {
            let mut object = manifest.clone();
            object["metadata"].as_object_mut().unwrap().append(more.clone().as_object_mut().unwrap());
            judge(&manifest, Some(&object), Whose::Ours)
        };
        assert_eq!(judged(json!({"finalizers": ["example.com/x"]})), Verdict::Holds);
        let deleted = |more: Value| match judged(more) {
            Verdict::Differs { have, .. } => have,
            other => panic!("{other:?}"),
        };
        let since = "2026-11-29T10:00:00Z";
        let have = deleted(json!({"deletionTimestamp": since, "finalizers": ["example.com/x", "y"]}));
        assert_eq!(have, "ConfigMap b/a is being deleted, and waits for its finalizers: example.com/x, y\n");
        assert_eq!(deleted(json!({"deletionTimestamp": since})), "ConfigMap b/a is being deleted\n");
    }
}
