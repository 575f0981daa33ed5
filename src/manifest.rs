//! Objects as a manifest has them against objects as the cluster has them. Only what the manifest says counts:
//! defaults, status and what others added are left alone. Pure.

use serde_json::Value;

/// A field that is not as the manifest says.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// `spec.template.spec.containers[flannel].image`
    pub path: String,
    pub have: Option<Value>,
    pub want: Value,
}

/// Maps that mean less with every key that is added; the API server itself replaces them as a whole.
const EXACT: &[&str] = &["selector", "matchLabels", "nodeSelector"];

/// Where `have` is not what `want` says.
pub fn differences(want: &Value, have: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    compare("", want, Some(have), &mut found);
    found
}

/// Differences as two texts, to be shown as one diff.
pub fn texts(differences: &[Difference]) -> (String, String) {
    let line = |path: &str, value: &Value| format!("{path}: {value}\n");
    let have = differences.iter().filter_map(|d| d.have.as_ref().map(|have| line(&d.path, have))).collect();
    let want = differences.iter().map(|d| line(&d.path, &d.want)).collect();
    (have, want)
}

fn compare(path: &str, want: &Value, have: Option<&Value>, found: &mut Vec<Difference>) {
    match (want, have) {
        (Value::Object(want), Some(Value::Object(have))) => {
            for (key, value) in want {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                compare(&path, value, have.get(key), found);
            }
            if EXACT.iter().any(|key| path == *key || path.ends_with(&format!(".{key}"))) {
                let more = have.iter().filter(|(key, _)| !want.contains_key(*key));
                let more = more.map(|(key, value)| (format!("{path}.{key}"), Some(value.clone())));
                found.extend(more.map(|(path, have)| Difference { path, have, want: Value::Null }));
            }
        }
        (Value::Array(want), Some(Value::Array(have))) if want.iter().all(|item| name(item).is_some()) => {
            for item in want {
                let theirs = have.iter().find(|other| name(other) == name(item));
                compare(&format!("{path}[{}]", name(item).unwrap_or_default()), item, theirs, found);
            }
        }
        (Value::Array(want), Some(Value::Array(have))) if want.len() == have.len() => {
            for (i, (want, have)) in want.iter().zip(have).enumerate() {
                compare(&format!("{path}[{i}]"), want, Some(have), found);
            }
        }
        (want, have) if same(want, have) => {}
        (want, have) => found.push(Difference { path: path.into(), have: have.cloned(), want: want.clone() }),
    }
}

/// What lists of a pod, and most others, are keyed by.
fn name(item: &Value) -> Option<&str> {
    item.get("name").and_then(Value::as_str)
}

/// Equal as the API server sees it: it drops what is empty, and writes quantities its own way.
fn same(want: &Value, have: Option<&Value>) -> bool {
    let empty = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(true) => false,
    };
    let Some(have) = have else { return empty(want) };
    let equal_quantities = || matches!((quantity(want), quantity(have)), (Some(a), Some(b)) if a == b);
    want == have || (empty(want) && empty(have)) || equal_quantities()
}

/// `100m`, `1Gi`, `0.5`, `2` as thousandths of one.
fn quantity(value: &Value) -> Option<u128> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let factor: f64 = match unit {
        "m" => 1.0,
        "" => 1e3,
        "k" => 1e6,
        "M" => 1e9,
        "G" => 1e12,
        "T" => 1e15,
        "Ki" => 1e3 * 1024.0,
        "Mi" => 1e3 * 1048576.0,
        "Gi" => 1e3 * 1073741824.0,
        "Ti" => 1e3 * 1099511627776.0,
        _ => return None,
    };
    Some((digits.parse::<f64>().ok()? * factor).round() as u128)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_the_manifest_does_not_say_is_left_alone() {
        let want = json!({"spec": {"replicas": 2, "list": [{"name": "a", "image": "x:1"}]}});
        let have = json!({"spec": {"replicas": 2, "extra": true, "list": [{"name": "side"}, {"name": "a", "image": "x:1", "more": 1}]}, "status": {}});
        assert_eq!(differences(&want, &have), []);
    }

    #[test]
    fn a_changed_and_a_missing_field_are_named_by_path() {
        let want = json!({"spec": {"containers": [{"name": "a", "image": "x:2"}], "hostNetwork": true}});
        let have = json!({"spec": {"containers": [{"name": "a", "image": "x:1"}]}});
        let found = differences(&want, &have);
        let paths: Vec<&str> = found.iter().map(|d| d.path.as_str()).collect();
        assert_eq!(paths, ["spec.containers[a].image", "spec.hostNetwork"]);
        assert_eq!(texts(&found).0, "spec.containers[a].image: \"x:1\"\n");
    }

    #[test]
    fn quantities_and_empty_values_are_the_same_however_they_are_written() {
        for (want, have) in
            [(json!("1000m"), json!("1")), (json!(0.5), json!("500m")), (json!("1024Mi"), json!("1Gi"))]
        {
            assert!(same(&want, Some(&have)), "{want} {have}");
        }
        assert!(same(&json!(false), None) && same(&json!({}), None) && !same(&json!(true), None));
        assert!(!same(&json!("100m"), Some(&json!("200m"))));
    }

    #[test]
    fn a_selector_has_no_keys_beside_those_of_the_manifest() {
        let want = json!({"spec": {"selector": {"app": "a"}, "template": {"spec": {"nodeSelector": {"os": "linux"}}}}});
        let mut have = want.clone();
        have["spec"]["more"] = json!({"a": 1});
        assert_eq!(differences(&want, &have), []);
        have["spec"]["selector"]["tier"] = json!("b");
        have["spec"]["template"]["spec"]["nodeSelector"]["gone"] = json!("yes");
        let found = differences(&want, &have);
        let paths: Vec<&str> = found.iter().map(|d| d.path.as_str()).collect();
        assert_eq!(paths, ["spec.selector.tier", "spec.template.spec.nodeSelector.gone"]);
    }

    #[test]
    fn a_list_without_names_must_have_the_same_items() {
        assert_eq!(differences(&json!(["a", "b"]), &json!(["a", "b"])), []);
        assert_eq!(differences(&json!(["a"]), &json!(["a", "b"])).len(), 1);
    }
}
