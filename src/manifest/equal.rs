//! Tells whether two values are equal to the API server, which omits empty values and writes quantities in its own way.

use serde_json::Value;

use super::Place;

/// Fields that are pointers in Kubernetes' own kinds. The API server keeps a value there that looks empty. It means
/// something else than no value (`k8s.io/api`: `core/v1`, `apps/v1`, `batch/v1`, `policy/v1`).
const KEPT: &[&str] = &[
    "activeDeadlineSeconds",
    "allowPrivilegeEscalation",
    "automountServiceAccountToken",
    "backoffLimit",
    "completions",
    "enableServiceLinks",
    "fsGroup",
    "hostUsers",
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
    "startingDeadlineSeconds",
    "terminationGracePeriodSeconds",
    "tolerationSeconds",
    "ttlSecondsAfterFinished",
];

/// Fields in which an empty object means everything, and a missing object means nothing.
const KEPT_OBJECTS: &[&str] = &["emptyDir", "namespaceSelector"];

/// Whether two values at a place are equal to the API server.
pub(super) fn same(at: &Place, want: &Value, have: Option<&Value>) -> bool {
    let field = at.trail.rsplit('.').next().unwrap_or_default();
    let Some(have) = have else {
        let kept = KEPT.contains(&field) || want.is_object() && KEPT_OBJECTS.contains(&field);
        return want.is_null() || !kept && is_empty(want);
    };
    let same_number = || want.as_f64().is_some() && want.as_f64() == have.as_f64();
    want == have
        || same_number()
        || is_empty(want) && is_empty(have)
        || !is_text(at, field) && same_quantity(want, have)
}

/// Whether this is a value that the API server leaves out of most fields.
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

/// Whether a value at a place is only text, even if it looks like a quantity. This holds for labels, annotations, data,
/// arguments and environment variables.
fn is_text(at: &Place, field: &str) -> bool {
    let of_metadata =
        ["metadata.labels.", "metadata.annotations."].iter().any(|part| at.trail.contains(part));
    let is_data = ["data", "stringData", "binaryData"].contains(&at.first());
    of_metadata || is_data || ["args", "command"].contains(&field) || at.trail.ends_with("env.value")
}

/// Whether two Kubernetes quantities are the same amount, such as `1024Mi` and `1Gi`.
pub fn same_quantity(want: &Value, have: &Value) -> bool {
    matches!((quantity(want), quantity(have)), (Some(a), Some(b)) if a == b)
}

/// Parses a quantity, such as `100m`, `1Gi`, `0.5` or `2`, as thousandths of one.
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
