//! The rights of the controllers that the controller manager runs. Without these rights, the controller manager runs but
//! does nothing.

use std::collections::BTreeSet;

use serde_json::Value;

use super::api_again;
use crate::step::{Ask, Cx, Verdict, WITH_THE_CLUSTER, Want};

/// Controllers that have a ClusterRole and a ClusterRoleBinding of their own in each version from 1.32 to 1.37, whatever the feature
/// gates (plugin/pkg/auth/authorizer/rbac/bootstrappolicy/controller_policy.go). The API server writes them when it starts.
const CONTROLLERS: &str = "attachdetach-controller certificate-controller clusterrole-aggregation-controller cronjob-controller \
    daemon-set-controller deployment-controller disruption-controller endpoint-controller endpointslice-controller \
    endpointslicemirroring-controller ephemeral-volume-controller expand-controller generic-garbage-collector \
    horizontal-pod-autoscaler job-controller namespace-controller node-controller persistent-volume-binder pod-garbage-collector \
    pv-protection-controller pvc-protection-controller replicaset-controller replication-controller resourcequota-controller \
    root-ca-cert-publisher service-account-controller statefulset-controller \
    ttl-after-finished-controller ttl-controller";

pub(super) fn want(cx: &Cx) -> Want {
    Want::new("kubeadm-objects.controllers", "the controllers have their RBAC rights")
        .ask(Ask::Listed)
        .judged(judge)
        .run(api_again(&cx.node.name))
        .nothing_to_undo(WITH_THE_CLUSTER)
        .disrupts()
}

fn judge(answer: &str) -> Verdict {
    let rights: BTreeSet<&str> = answer.lines().map(str::trim_end).collect();
    let role = |name: &str| {
        let start = format!("ClusterRole {name} ");
        rights.range(&*start..).next().is_some_and(|line| line.starts_with(&start))
    };
    let binding = |name: &str, account: &str| {
        let start = format!("ClusterRoleBinding {name} {name} ");
        let line = rights.range(&*start..).next().and_then(|line| line.strip_prefix(&start));
        let subjects: Value =
            line.and_then(|subjects| serde_json::from_str(subjects).ok()).unwrap_or_default();
        let is = |subject: &Value| {
            subject["kind"] == "ServiceAccount"
                && subject["name"] == account
                && subject["namespace"] == "kube-system"
        };
        subjects.as_array().is_some_and(|all| all.iter().any(is))
    };
    let (mut have, mut want) = (String::new(), String::new());
    for account in CONTROLLERS.split_whitespace() {
        let name = format!("system:controller:{account}");
        if !role(&name) {
            have += &format!("ClusterRole {name}: missing, or without rules\n");
            want += &format!("ClusterRole {name}\n");
        }
        if !binding(&name, account) {
            have += &format!("ClusterRoleBinding {name}: missing, or bound to other subjects\n");
            want += &format!("ClusterRoleBinding {name}\n");
        }
    }
    if have.is_empty() { Verdict::Holds } else { Verdict::Differs { have, want } }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> String {
        let lines = |account: &str| {
            let name = format!("system:controller:{account}");
            let subject =
                format!(r#"{{"kind":"ServiceAccount","name":"{account}","namespace":"kube-system"}}"#);
            format!("ClusterRole {name} get list\nClusterRoleBinding {name} {name} [{subject}]\n")
        };
        CONTROLLERS.split_whitespace().map(lines).collect()
    }

    #[test]
    fn missing_controller_roles_and_bindings_are_reported() {
        let names = |answer: &str| match judge(answer) {
            Verdict::Differs { want, .. } => want,
            Verdict::Holds => String::new(),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            names(include_str!("../../../tests/fixtures/listed-1.36.3.txt")),
            "",
            "these are the objects of a real API server"
        );
        let (all, name) = (all(), "system:controller:endpointslice-controller");
        assert_eq!(names(&all), "");
        let binding = format!("ClusterRoleBinding {name}\n");
        let gone = |start: &str| -> String {
            all.lines().filter(|line| !line.starts_with(start)).map(|line| format!("{line}\n")).collect()
        };
        assert_eq!(names(&gone(&format!("ClusterRoleBinding {name} "))), binding);
        assert_eq!(names(&gone(&format!("ClusterRole {name} "))), format!("ClusterRole {name}\n"));
        let bare = all.replace(&format!("ClusterRole {name} get list"), &format!("ClusterRole {name} "));
        assert_eq!(names(&bare), format!("ClusterRole {name}\n"), "a role without rules");
        assert_eq!(names(&all.replace(&format!("{name} {name}"), &format!("{name} view"))), binding);
        let other = all.replace(r#""name":"endpointslice-controller""#, r#""name":"other""#);
        assert_eq!(names(&other), binding);
        assert_eq!(names("").lines().count(), 2 * CONTROLLERS.split_whitespace().count());
    }
}
