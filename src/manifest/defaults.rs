//! Defaults that the API server sets for fields that a manifest lacks, for the kinds that are compared as a whole. The
//! source is Kubernetes' `pkg/apis/{core,apps,rbac}/v1/defaults.go`. The comments of `k8s.io/api` repeat the defaults.
//! Versions 1.32 to 1.37 agree.

use serde_json::{Map, Value, json};

/// The default of the field at this place. `beside` are the fields that the manifest has there. `None`: the API server
/// leaves the field out.
pub(super) fn of(trail: &str, beside: &Map<String, Value>) -> Option<Value> {
    let (parents, field) = trail.rsplit_once('.').unwrap_or(("", trail));
    let parent = parents.rsplit('.').next().unwrap_or_default();
    let text = |key: &str| beside.get(key).and_then(Value::as_str).unwrap_or_default();
    Some(match (parent, field) {
        ("spec", "progressDeadlineSeconds") => json!(600),
        ("spec", "revisionHistoryLimit") => json!(10),
        ("rollingUpdate", "maxSurge") => json!("25%"),
        ("spec", "updateStrategy") => json!({"type": "RollingUpdate"}),
        ("updateStrategy", "rollingUpdate") => json!({"maxSurge": 0, "maxUnavailable": 1}),

        ("spec", "dnsPolicy") => json!("ClusterFirst"),
        ("spec", "restartPolicy") => json!("Always"),
        ("spec", "schedulerName") => json!("default-scheduler"),
        ("spec", "terminationGracePeriodSeconds") => json!(30),
        ("spec", "securityContext") => json!({}),
        // `serviceAccount` is the older name, and the API server keeps both equal (`pkg/apis/core/v1/conversion.go`).
        ("spec", "serviceAccount") => beside.get("serviceAccountName")?.clone(),
        ("configMap", "defaultMode") => json!(0o644),
        ("hostPath", "type") => json!(""),

        ("containers" | "initContainers", "imagePullPolicy") => json!(pull_policy(text("image"))),
        ("containers" | "initContainers", "resources") => json!({}),
        ("containers" | "initContainers", "terminationMessagePath") => json!("/dev/termination-log"),
        ("containers" | "initContainers", "terminationMessagePolicy") => json!("File"),
        ("fieldRef", "apiVersion") => json!("v1"),
        ("livenessProbe" | "readinessProbe", "timeoutSeconds" | "successThreshold") => json!(1),
        ("livenessProbe" | "readinessProbe", "periodSeconds") => json!(10),
        ("livenessProbe" | "readinessProbe", "failureThreshold") => json!(3),

        ("spec", "clusterIPs") => json!([text("clusterIP")]),
        ("spec", "ipFamilies") => json!([if text("clusterIP").contains(':') { "IPv6" } else { "IPv4" }]),
        ("spec", "ipFamilyPolicy") => json!("SingleStack"),
        ("spec", "internalTrafficPolicy") => json!("Cluster"),
        ("spec", "sessionAffinity") => json!("None"),

        ("", "automountServiceAccountToken") => json!(true),
        ("subjects" | "roleRef", "apiGroup") => json!("rbac.authorization.k8s.io"),
        _ => return None,
    })
}

/// The default pull policy of an image. A tag that may move is looked up at each start (`SetDefaults_Container`).
fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').map_or((image, false), |(name, _)| (name, true));
    let last = name.rsplit('/').next().unwrap_or_default();
    match last.split_once(':') {
        Some((_, "latest")) => "Always",
        None if !digest => "Always",
        _ => "IfNotPresent",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_untagged_and_latest_images_are_always_pulled() {
        let digest = "a".repeat(64);
        for (image, policy) in [
            ("registry.k8s.io/kube-proxy:v1.36.3", "IfNotPresent"),
            ("localhost:5000/x", "Always"),
            ("localhost:5000/x:latest", "Always"),
            (&format!("docker.io/x/y@sha256:{digest}"), "IfNotPresent"),
            (&format!("docker.io/x/y:v1@sha256:{digest}"), "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }
}
