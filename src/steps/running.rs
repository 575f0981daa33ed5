//! Compares the settings that a program says it runs with (`/configz`) with those that it should have.

use serde_json::Value;

use crate::manifest::same_quantity;
use crate::secret;
use crate::step::Verdict;

/// The part `name` of an answer of `/configz`. It is `None` if the answer has no such settings.
pub(super) fn settings(name: &str, said: &str) -> Option<Value> {
    let mut answer: Value = serde_json::from_str(said).ok()?;
    let runs = answer.get_mut(name)?.take();
    runs.is_object().then_some(runs)
}

/// Whether a program that runs with `runs` has all of `wanted`.
pub(super) fn judged(wanted: &Value, runs: &Value) -> Verdict {
    let mut found = Vec::new();
    compare("", wanted, Some(runs), &mut found);
    match found.is_empty() {
        true => Verdict::Holds,
        false => Verdict::Differs {
            have: found.iter().map(|(path, has, _)| format!("{path}: {has}\n")).collect(),
            want: found.iter().map(|(path, _, wants)| format!("{path}: {wants}\n")).collect(),
        },
    }
}

/// The fields in which 0 is a value. In other fields 0 stands for the default (kubelet,
/// pkg/kubelet/apis/config/v1beta1/defaults.go, and kube-proxy, pkg/proxy/apis/config/v1alpha1/defaults.go). The fields here
/// are pointers, or have the default 0.
const ZERO_COUNTS: [&str; 16] = [
    "conntrack.maxPerCore",
    "conntrack.min",
    "containerLogMaxFiles",
    "eventRecordQPS",
    "evictionMaxPodGracePeriod",
    "healthzPort",
    "imageGCHighThresholdPercent",
    "imageGCLowThresholdPercent",
    "iptables.masqueradeBit",
    "kubeAPIQPS",
    "memoryThrottlingFactor",
    "nodeStatusMaxImages",
    "oomScoreAdj",
    "podsPerCore",
    "readOnlyPort",
    "registryPullQPS",
];

/// Adds each field of `wanted` that differs in `has` to `found`, with both values. A value that says nothing stands for the
/// program's default.
fn compare(path: &str, wanted: &Value, has: Option<&Value>, found: &mut Vec<(String, String, String)>) {
    let has = has.unwrap_or(&Value::Null);
    match (wanted, has) {
        (Value::Object(fields), has) => {
            for (key, wanted) in fields {
                if path.is_empty() && matches!(key.as_str(), "apiVersion" | "kind") {
                    continue;
                }
                let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                compare(&below, wanted, has.get(key), found);
            }
        }
        (Value::Array(wanted), Value::Array(has)) if wanted.len() == has.len() => {
            for (i, (wanted, has)) in wanted.iter().zip(has).enumerate() {
                compare(&format!("{path}[{i}]"), wanted, Some(has), found);
            }
        }
        _ if says_nothing(path, wanted) || is_same(wanted, has) => {}
        _ => {
            let text = |value: &Value| match value {
                Value::Null => "not set".to_string(),
                Value::String(text) => secret::beginning(text, 200),
                other => secret::beginning(&other.to_string(), 200),
            };
            found.push((path.into(), text(has), text(wanted)));
        }
    }
}

fn says_nothing(path: &str, value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Number(number) => number.as_f64() == Some(0.0) && !ZERO_COUNTS.contains(&path),
        Value::String(text) => text.is_empty() || seconds(text) == Some(0.0),
        Value::Array(_) | Value::Bool(_) | Value::Object(_) => false,
    }
}

fn is_same(wanted: &Value, has: &Value) -> bool {
    match (wanted, has) {
        (Value::String(a), Value::String(b)) => {
            a == b || seconds(a).is_some_and(|a| Some(a) == seconds(b)) || same_quantity(wanted, has)
        }
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        // A program leaves out a value that is false, 0 or empty.
        (Value::Bool(false), Value::Null) => true,
        (Value::Number(zero), Value::Null) => zero.as_f64() == Some(0.0),
        (Value::Array(items), Value::Null) => items.is_empty(),
        (wanted, has) => wanted == has,
    }
}

/// The seconds of a duration as Go writes it, such as `1h30m0s` (Go, `time.ParseDuration`).
fn seconds(text: &str) -> Option<f64> {
    let mut rest = text;
    let mut all = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, behind) = rest.split_at(end);
        let end = behind.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(end);
        let unit = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 0.001,
            "us" | "µs" => 0.000_001,
            "ns" => 0.000_000_001,
            _ => return None,
        };
        all += number.parse::<f64>().ok()? * unit;
        rest = behind;
    }
    (!text.is_empty()).then_some(all)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_compared_by_their_meaning() {
        let wanted = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "maxPods": 60, "failSwapOn": false, "staticPodPath": "/etc/kubernetes/manifests",
            "syncFrequency": "90s", "httpCheckFrequency": "0s", "port": 0, "resolvConf": "", "podCIDR": null,
            "readOnlyPort": 0, "registryPullQPS": 0, "allowedUnsafeSysctls": [],
            "reservedMemory": [{"numaNode": 0, "limits": {"memory": "1024Mi"}}],
            "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": true}},
            "clusterDNS": ["10.96.0.10"], "memoryThrottlingFactor": 1, "evictionHard": {"memory.available": "100Mi"},
        });
        let runs = json!({
            "maxPods": 60, "failSwapOn": false, "staticPodPath": "/etc/kubernetes/manifests",
            "syncFrequency": "1m30s", "httpCheckFrequency": "20s", "port": 10250, "resolvConf": "/etc/resolv.conf",
            "registryPullQPS": 0, "reservedMemory": [{"limits": {"memory": "1Gi"}, "numaNode": 0}],
            "authentication": {"anonymous": {}, "webhook": {"enabled": true, "cacheTTL": "2m0s"}},
            "clusterDNS": ["10.96.0.10"], "memoryThrottlingFactor": 1.0,
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "10%"},
        });
        assert_eq!(judged(&wanted, &runs), Verdict::Holds);
        for (pointer, value, have, want) in [
            ("/maxPods", json!(5), "maxPods: 5\n", "maxPods: 60\n"),
            ("/registryPullQPS", json!(5), "registryPullQPS: 5\n", "registryPullQPS: 0\n"),
            (
                "/reservedMemory/0/limits/memory",
                json!("2Gi"),
                "reservedMemory[0].limits.memory: 2Gi\n",
                "reservedMemory[0].limits.memory: 1024Mi\n",
            ),
            ("/failSwapOn", json!(true), "failSwapOn: true\n", "failSwapOn: false\n"),
            (
                "/authentication/anonymous",
                json!({"enabled": true}),
                "authentication.anonymous.enabled: true\n",
                "authentication.anonymous.enabled: false\n",
            ),
            (
                "/authentication/webhook",
                json!(null),
                "authentication.webhook.enabled: not set\n",
                "authentication.webhook.enabled: true\n",
            ),
            ("/syncFrequency", json!("1m0s"), "syncFrequency: 1m0s\n", "syncFrequency: 90s\n"),
            (
                "/clusterDNS",
                json!(["10.96.0.11"]),
                "clusterDNS[0]: 10.96.0.11\n",
                "clusterDNS[0]: 10.96.0.10\n",
            ),
            (
                "/evictionHard",
                json!({}),
                "evictionHard.memory.available: not set\n",
                "evictionHard.memory.available: 100Mi\n",
            ),
        ] {
            let mut runs = runs.clone();
            *runs.pointer_mut(pointer).unwrap() = value;
            assert_eq!(
                judged(&wanted, &runs),
                Verdict::Differs { have: have.into(), want: want.into() },
                "{pointer}"
            );
        }
    }

    #[test]
    fn an_empty_value_counts_if_it_has_no_default() {
        let runs = json!({"readOnlyPort": 10255, "allowedUnsafeSysctls": ["net.*"], "port": 10250});
        for (wanted, field) in [
            (json!({"readOnlyPort": 0}), "readOnlyPort"),
            (json!({"allowedUnsafeSysctls": []}), "allowedUnsafeSysctls"),
        ] {
            let verdict = judged(&wanted, &runs);
            assert!(
                matches!(&verdict, Verdict::Differs { have, .. } if have.starts_with(field)),
                "{verdict:?}"
            );
            assert_eq!(judged(&wanted, &json!({})), Verdict::Holds);
        }
        assert_eq!(judged(&json!({"port": 0}), &runs), Verdict::Holds);
    }

    #[test]
    fn an_answer_without_settings_is_refused() {
        for said in
            ["", "{}", "{\"x\": 1}", "Error from server (NotFound): nodes \"w1\" not found", "{\"x\": {"]
        {
            assert_eq!(settings("x", said), None, "{said}");
        }
        assert_eq!(settings("x", "{\"x\": {\"maxPods\": 5}}"), Some(json!({"maxPods": 5})));
    }

    #[test]
    fn durations_are_parsed_as_in_go() {
        for (text, value) in
            [("1h30m0s", 5400.0), ("90m", 5400.0), ("1.5h", 5400.0), ("500ms", 0.5), ("0s", 0.0)]
        {
            assert_eq!(seconds(text), Some(value), "{text}");
        }
        for text in ["", "5", "s", "1d", "100Mi", "/etc", "10%"] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }
}
