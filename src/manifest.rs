//! Compares the objects of a manifest with the objects in the cluster. Status, metadata that others added and the API
//! server's defaults do not count. All functions are pure.

use serde_json::{Map, Value};

mod defaults;
mod equal;
mod patch;

pub use equal::same_quantity;
pub use patch::patch;

/// The owner of a manifest, which decides how closely its object is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The manifest is ironstrap's own or kubeadm's. A field that it lacks must have the API server's default.
    Ours,
    /// The manifest is the user's. Controllers and other tools may add fields, and only rights are compared as a whole.
    Users,
}

/// A field that differs from the manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The place of the field, such as `spec.template.spec.containers[flannel].image`.
    pub path: String,
    pub have: Option<Value>,
    /// The right value. Null: the field must be absent.
    pub want: Value,
}

/// Maps that select fewer things with every key that is added. The API server itself replaces them as a whole.
const EXACT: &[&str] = &["selector", "matchLabels", "nodeSelector"];

/// The fields of RBAC objects that grant rights.
const RIGHTS: &[&str] = &["rules", "aggregationRule", "subjects", "roleRef"];

/// The fields of other objects, by kind, in which an addition changes what runs.
const WHOLE: &[(&str, &str)] = &[
    ("DaemonSet", "spec"),
    ("Deployment", "spec"),
    ("Service", "spec"),
    ("ServiceAccount", "automountServiceAccountToken"),
];

/// The place of labels and annotations of pods. `kubectl rollout restart` adds an annotation there.
const POD_METADATA: &str = "spec.template.metadata";

/// Finds the fields in which `have` differs from `want`.
pub fn differences(want: &Value, have: &Value, whose: Whose) -> Vec<Difference> {
    let mut comparison = Comparison { whole: whole(want, whose), found: Vec::new() };
    comparison.value(&Place::default(), want, Some(have));
    comparison.found
}

/// Turns differences into two texts, of the present and of the right values, to be shown as one diff.
pub fn texts(differences: &[Difference]) -> (String, String) {
    let line = |path: &str, value: &Value| match value {
        Value::Null => format!("{path}: none\n"),
        value => format!("{path}: {value}\n"),
    };
    let have = differences.iter().filter_map(|d| d.have.as_ref().map(|have| line(&d.path, have))).collect();
    let want = differences.iter().map(|d| line(&d.path, &d.want)).collect();
    (have, want)
}

/// The fields of this object that are compared as a whole.
fn whole(manifest: &Value, whose: Whose) -> Vec<&'static str> {
    let text = |key: &str| manifest.get(key).and_then(Value::as_str).unwrap_or_default();
    if text("apiVersion").starts_with("rbac.authorization.k8s.io/") {
        // A controller fills in the rules of an aggregated ClusterRole.
        let filled = manifest.get("aggregationRule").is_some_and(|rule| !rule.is_null());
        return RIGHTS.iter().copied().filter(|field| !(filled && *field == "rules")).collect();
    }
    let of_kind = WHOLE.iter().filter(|(kind, _)| whose == Whose::Ours && *kind == text("kind"));
    of_kind.map(|(_, field)| *field).collect()
}

/// The place in an object that a comparison has reached.
#[derive(Default)]
struct Place {
    /// The place with items of lists, for people.
    path: String,
    /// The same place without items of lists.
    trail: String,
}

impl Place {
    fn field(&self, key: &str) -> Place {
        let under = |text: &str| if text.is_empty() { key.to_string() } else { format!("{text}.{key}") };
        Place { path: under(&self.path), trail: under(&self.trail) }
    }

    fn item(&self, item: &Value, at: usize) -> Place {
        let label = name(item).map_or_else(|| at.to_string(), str::to_string);
        Place { path: format!("{}[{label}]", self.path), trail: self.trail.clone() }
    }

    fn first(&self) -> &str {
        self.trail.split('.').next().unwrap_or_default()
    }
}

struct Comparison {
    whole: Vec<&'static str>,
    found: Vec<Difference>,
}

impl Comparison {
    fn value(&mut self, at: &Place, want: &Value, have: Option<&Value>) {
        match (want, have) {
            (Value::Object(want), Some(Value::Object(have))) => self.fields(at, want, have),
            (Value::Array(want), Some(Value::Array(have))) => self.items(at, want, have),
            (want, have) if equal::same(at, want, have) => {}
            (want, have) => self.found(at, have, want.clone()),
        }
    }

    fn fields(&mut self, at: &Place, want: &Map<String, Value>, have: &Map<String, Value>) {
        for (key, value) in want {
            self.value(&at.field(key), value, have.get(key));
        }
        let selects = EXACT.iter().any(|key| at.trail == *key || at.trail.ends_with(&format!(".{key}")));
        for (key, value) in have.iter().filter(|(key, _)| !want.contains_key(*key)) {
            let at = at.field(key);
            match self.is_whole(&at).then(|| defaults::of(&at.trail, want)) {
                Some(Some(default)) => self.value(&at, &default, Some(value)),
                Some(None) if !is_nothing(value) => self.found(&at, Some(value), Value::Null),
                None if selects => self.found(&at, Some(value), Value::Null),
                _ => {}
            }
        }
    }

    fn items(&mut self, at: &Place, want: &[Value], have: &[Value]) {
        // The order of rights has no meaning.
        let in_any_order = want.iter().all(|item| name(item).is_some()) || self.gives_rights(at);
        if in_any_order {
            self.items_in_any_order(at, want, have);
        } else if want.len() == have.len() {
            for (i, (want, have)) in want.iter().zip(have).enumerate() {
                self.value(&at.item(&Value::Null, i), want, Some(have));
            }
        } else {
            self.found(at, Some(&Value::from(have)), Value::from(want));
        }
    }

    fn items_in_any_order(&mut self, at: &Place, want: &[Value], have: &[Value]) {
        let mut left: Vec<(usize, &Value)> = have.iter().enumerate().collect();
        let mut changed: Vec<(usize, &Value)> = Vec::new();
        for (i, item) in want.iter().enumerate() {
            match left.iter().position(|(_, other)| self.is_equal(at, item, other)) {
                Some(equal) => drop(left.remove(equal)),
                None => changed.push((i, item)),
            }
        }
        for (i, item) in changed {
            let group = left.iter().position(|(_, other)| name(other) == name(item));
            let theirs = group.map(|group| left.remove(group).1);
            self.value(&at.item(item, i), item, theirs);
        }
        if self.is_whole(at) {
            for (i, item) in left {
                self.found(&at.item(item, i), Some(item), Value::Null);
            }
        }
    }

    fn is_equal(&self, at: &Place, want: &Value, have: &Value) -> bool {
        let mut comparison = Comparison { whole: self.whole.clone(), found: Vec::new() };
        comparison.value(at, want, Some(have));
        comparison.found.is_empty()
    }

    fn is_whole(&self, at: &Place) -> bool {
        let metadata = at.trail == POD_METADATA || at.trail.starts_with(&format!("{POD_METADATA}."));
        self.whole.contains(&at.first()) && !metadata
    }

    fn gives_rights(&self, at: &Place) -> bool {
        self.is_whole(at) && RIGHTS.contains(&at.first())
    }

    fn found(&mut self, at: &Place, have: Option<&Value>, want: Value) {
        self.found.push(Difference { path: at.path.clone(), have: have.cloned(), want });
    }
}

/// Whether this is no value, or a list without items. The API server keeps either.
fn is_nothing(value: &Value) -> bool {
    value.is_null() || value.as_array().is_some_and(Vec::is_empty)
}

/// The name of an item. Lists of a pod, and most others, have it as their key.
fn name(item: &Value) -> Option<&str> {
    item.get("name").and_then(Value::as_str)
}

#[cfg(test)]
mod tests;
