//! When two values are the same to the API server: it leaves out what is empty, and writes quantities its own way.

use serde_json::Value;

use super::Place;

/// Fields of Kubernetes' own kinds that are pointers there: a value that looks empty is kept, and means something else than
/// no value (`k8s.io/api`: `core/v1`, `apps/v1`, `batch/v1`, `policy/v1`).
const KEPT: &[&str] = &[
    "activeDeadlineSeconds",
    "allowPrivilegeEscalation",
    "automountServiceAccountToken",
    "backoffLimit",
    "completions",
    "enableServiceLinks",
    "fsGroup",
    "maxSurge",
    "maxUnavailable",
    "minAvailable",
    "minReplicas",
    "parallelism",
    "progressDeadlineSeconds",
    "replicas",
    "revisionHistoryLimit",
    "runAsGroup",
    "runAsUser",
    "terminationGracePeriodSeconds",
    "ttlSecondsAfterFinished",
];

/// Maps whose values are quantities, and fields that are one.
const OF_QUANTITIES: &[&str] = &[
    "allocatable",
    "capacity",
    "default",
    "defaultRequest",
    "hard",
    "limits",
    "max",
    "maxLimitRequestRatio",
    "min",
    "podFixed",
    "requests",
];
const QUANTITIES: &[&str] = &["averageValue", "divisor", "sizeLimit"];

/// API groups of Kubernetes' own kinds, beside those without a dot.
const OWN_GROUPS: &str = ".k8s.io";

/// Whether an object is of a custom resource. The API server keeps all its values as they were written.
pub(super) fn is_custom(manifest: &Value) -> bool {
    let version = manifest.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    let group = version.split_once('/').map_or("", |(group, _)| group);
    group.contains('.') && !group.ends_with(OWN_GROUPS)
}

/// Whether two values at a place are the same to the API server. `custom`: of a custom resource.
pub(super) fn same(at: &Place, custom: bool, want: &Value, have: Option<&Value>) -> bool {
    let field = at.trail.rsplit('.').next().unwrap_or_default();
    let Some(have) = have else {
        let dropped = !custom && !KEPT.contains(&field);
        return want.is_null() || dropped && is_empty(want);
    };
    let kept = want.is_boolean() || want.is_number();
    want == have
        || !custom && !kept && is_empty(want) && is_empty(have)
        || !custom && is_quantity(at, field) && same_quantity(want, have)
}

/// What the API server leaves out of most fields.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(true) => false,
    }
}

/// Whether a quantity stands at a place. In labels, annotations, arguments and the data of a ConfigMap the same words are
/// only text.
fn is_quantity(at: &Place, field: &str) -> bool {
    let parent = at.trail.rsplit('.').nth(1).unwrap_or_default();
    QUANTITIES.contains(&field) || OF_QUANTITIES.contains(&parent) && !at.trail.contains("metadata.")
}

/// Two quantities of Kubernetes that are the same amount: `1024Mi` and `1Gi`.
pub fn same_quantity(want: &Value, have: &Value) -> bool {
    matches!((quantity(want), quantity(have)), (Some(a), Some(b)) if a == b)
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
