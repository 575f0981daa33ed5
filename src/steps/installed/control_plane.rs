//! What the control plane works by: who may administer the cluster, the rights of its components, and that Namespace
//! kube-system admits its pods.

use serde_json::Value;

use super::{FUNCTIONS, documents, install};
use crate::error::Result;
use crate::manifest::Whose;
use crate::shell::{OBJECTS, PODS, kubectl, sh};
use crate::step::{Ask, Cx, Object, Verdict, WITH_THE_CLUSTER, Want};
use crate::steps::member::rights;

/// Roles that the API server writes itself when it starts, and that kubeadm's bindings and the control plane lead to. Their
/// rules are different in each version, and a running API server does not miss them.
const ROLES: &[&str] = &[
    "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
    "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
    "system:kube-controller-manager",
    "system:kube-scheduler",
    "system:kubelet-api-admin",
    "system:node-bootstrapper",
    "system:node-proxier",
];

pub(super) fn wants(cx: &Cx, values: &Value) -> Result<Vec<Want>> {
    let mut wants = Vec::new();
    for object in documents(values, "administrators.yaml")? {
        let want = Want::object(&object, Whose::Ours, &install(&object)?);
        let ours = object["metadata"]["name"] == "kubeadm:cluster-admins";
        // By that binding ironstrap itself changes things.
        wants.push(if ours { rights::bound(cx, want) } else { want });
    }
    wants.push(roles(cx));
    wants.push(admits());
    Ok(wants)
}

/// How many rules a role of the API server's has is not compared: only that it has some.
fn roles(cx: &Cx) -> Want {
    let roles = ROLES.iter().map(|name| Object::new("rbac.authorization.k8s.io/v1", "ClusterRole", "", name));
    Want::that("the API server's own ClusterRoles have rules")
        .asks(Ask::Objects(roles.collect()))
        .judged(judge_roles)
        .run(kubectl() + PODS + OBJECTS + FUNCTIONS + sh!("api_again {node}", node = cx.node.name))
        .nothing_to_undo(WITH_THE_CLUSTER)
        .disrupts()
}

fn judge_roles(answer: &str) -> Verdict {
    let mut empty = String::new();
    for (name, line) in ROLES.iter().zip(answer.lines().chain(std::iter::repeat(""))) {
        let role: Value = match serde_json::from_str(line) {
            Ok(role) => role,
            Err(_) if line == "absent" => Value::Null,
            Err(error) => return Verdict::Unknown(format!("ClusterRole {name} is no JSON: {error}")),
        };
        if role.get("rules").and_then(Value::as_array).is_none_or(Vec::is_empty) {
            empty += &format!("ClusterRole {name}: no rules\n");
        }
    }
    match empty.is_empty() {
        true => Verdict::Holds,
        false => Verdict::Differs {
            want: empty.replace("no rules", "those that the API server gives it when it starts"),
            have: empty,
        },
    }
}

/// The label by which Pod Security turns pods away (`k8s.io/pod-security-admission/api`). Without it there is no such rule.
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

/// Running pods stay. kube-proxy and those of the control plane would not come back.
fn admits() -> Want {
    Want::that("Namespace kube-system admits the pods of the control plane")
        .asks(Ask::Objects(vec![Object::new("v1", "Namespace", "", "kube-system")]))
        .judged(judge_admission)
        .run(
            kubectl()
                + sh!(
                    "kubectl label namespace kube-system {label} >/dev/null",
                    label = format!("{ENFORCE}-")
                ),
        )
        .nothing_to_undo(WITH_THE_CLUSTER)
}

fn judge_admission(answer: &str) -> Verdict {
    let namespace: Value = match serde_json::from_str(answer) {
        Ok(namespace) => namespace,
        // No cluster has none.
        Err(_) if answer == "absent" => return Verdict::Holds,
        Err(error) => return Verdict::Unknown(format!("Namespace kube-system is no JSON: {error}")),
    };
    let label = namespace.pointer("/metadata/labels").and_then(|labels| labels.get(ENFORCE)?.as_str());
    match label {
        None | Some("" | "privileged") => Verdict::Holds,
        Some(level) => Verdict::Differs {
            have: format!("label {ENFORCE}={level}\n"),
            want: format!("label {ENFORCE}=privileged, or none\n"),
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_role_without_rules_and_one_that_is_gone_are_named() {
        let role = json!({"rules": [{"verbs": ["get"]}]}).to_string();
        let answer = |at: usize, line: &str| {
            let lines: Vec<&str> = (0..ROLES.len()).map(|i| if i == at { line } else { &role }).collect();
            judge_roles(&lines.join("\n"))
        };
        assert_eq!(answer(6, &role), Verdict::Holds);
        for line in ["absent", "{}", r#"{"rules":null}"#, r#"{"rules":[]}"#] {
            let Verdict::Differs { have, .. } = answer(6, line) else { panic!("{line}") };
            assert_eq!(have, "ClusterRole system:node-proxier: no rules\n");
        }
        assert!(matches!(judge_roles(&role), Verdict::Unknown(_)), "an answer that breaks off");
    }

    #[test]
    fn a_label_that_turns_pods_away_is_named_and_no_other() {
        let judge = |labels: Value| judge_admission(&json!({"metadata": {"labels": labels}}).to_string());
        for labels in [
            json!({}),
            json!({ENFORCE: "privileged"}),
            json!({"pod-security.kubernetes.io/warn": "restricted"}),
        ] {
            assert_eq!(judge(labels.clone()), Verdict::Holds, "{labels}");
        }
        for level in ["baseline", "restricted"] {
            let Verdict::Differs { have, .. } = judge(json!({ENFORCE: level})) else { panic!("{level}") };
            assert!(have.contains(level), "{have}");
        }
        assert_eq!(judge_admission("absent"), Verdict::Holds);
        assert!(matches!(judge_admission("{"), Verdict::Unknown(_)));
    }
}
