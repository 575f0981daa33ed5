//! Makes JSON patches that remove what others added to an object. `kubectl apply` keeps every field that its manifest lacks.

use serde_json::{Value, json};

use super::{Whose, whole};

/// The parts of each kind that a patch puts back. No part contains what a cluster decides for itself: replicas, selectors
/// (they are fixed for the life of an object), metadata of pods.
const PARTS: &[(&str, &[&str])] = &[
    (
        "DaemonSet",
        &[
            "/spec/template/spec",
            "/spec/updateStrategy",
            "/spec/minReadySeconds",
            "/spec/revisionHistoryLimit",
        ],
    ),
    (
        "Deployment",
        &[
            "/spec/template/spec",
            "/spec/strategy",
            "/spec/minReadySeconds",
            "/spec/revisionHistoryLimit",
            "/spec/progressDeadlineSeconds",
            "/spec/paused",
        ],
    ),
    ("Service", &["/spec"]),
    ("ServiceAccount", &["/automountServiceAccountToken"]),
    ("ClusterRole", &["/rules", "/aggregationRule"]),
    ("Role", &["/rules"]),
    ("ClusterRoleBinding", &["/subjects", "/roleRef"]),
    ("RoleBinding", &["/subjects", "/roleRef"]),
];

/// A JSON patch that puts back each part of the object that is compared as a whole. A part that the manifest lacks becomes
/// null, so it gets the API server's default. `None`: no part is compared as a whole.
pub fn patch(manifest: &Value, whose: Whose) -> Option<Value> {
    let fields = whole(manifest, whose);
    let kind = manifest.get("kind").and_then(Value::as_str).unwrap_or_default();
    let (_, parts) = PARTS.iter().find(|(of, _)| *of == kind)?;
    let compared = |part: &&&str| part[1..].split('/').next().is_some_and(|first| fields.contains(&first));
    let put = |part: &&str| {
        let value = manifest.pointer(part).cloned().unwrap_or(Value::Null);
        // `add` also replaces a present value (RFC 6902, 4.1).
        json!({"op": "add", "path": part, "value": value})
    };
    let operations: Vec<Value> = parts.iter().filter(compared).map(put).collect();
    (!operations.is_empty()).then(|| Value::from(operations))
}
