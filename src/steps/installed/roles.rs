//! Roles that the API server writes itself when it starts. kubeadm's bindings and the control plane refer to them. While
//! the API server runs, it does not notice that a role or a right is missing.

use serde_json::Value;

use super::api_again;
use crate::step::{Ask, Cx, Object, Verdict, WITH_THE_CLUSTER, Want, leaving};

/// API group, resource, name of the object if the right is about a single one, and verbs.
type Right = (&'static str, &'static str, &'static str, &'static str);

/// The rights that each role must have at least. Rules come and go with versions and feature gates. These rules are the
/// same from 1.32 to 1.37 (plugin/pkg/auth/authorizer/rbac/bootstrappolicy/policy.go).
const ROLES: &[(&str, &[Right])] = &[
    (
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        &[("certificates.k8s.io", "certificatesigningrequests/nodeclient", "", "create")],
    ),
    (
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        &[("certificates.k8s.io", "certificatesigningrequests/selfnodeclient", "", "create")],
    ),
    (
        "system:kube-controller-manager",
        &[
            ("", "configmaps", "", "get"),
            ("", "events", "", "create patch update"),
            ("", "namespaces", "", "get"),
            ("", "secrets", "", "create delete get update"),
            ("", "serviceaccounts", "", "create get update"),
            ("", "serviceaccounts/token", "", "create"),
            ("*", "*", "", "list watch"),
            ("authentication.k8s.io", "tokenreviews", "", "create"),
            ("authorization.k8s.io", "subjectaccessreviews", "", "create"),
            ("coordination.k8s.io", "leases", "", "create"),
            ("coordination.k8s.io", "leases", "kube-controller-manager", "get update"),
        ],
    ),
    (
        "system:kube-scheduler",
        &[
            ("", "bindings", "", "create"),
            ("", "events", "", "create patch update"),
            ("", "namespaces", "", "get list watch"),
            ("", "nodes", "", "get list watch"),
            ("", "persistentvolumeclaims", "", "get list watch"),
            ("", "persistentvolumes", "", "get list watch"),
            ("", "pods", "", "delete get list watch"),
            ("", "pods/binding", "", "create"),
            ("", "pods/status", "", "patch update"),
            ("", "replicationcontrollers", "", "get list watch"),
            ("", "services", "", "get list watch"),
            ("apps", "replicasets", "", "get list watch"),
            ("apps", "statefulsets", "", "get list watch"),
            ("authentication.k8s.io", "tokenreviews", "", "create"),
            ("authorization.k8s.io", "subjectaccessreviews", "", "create"),
            ("coordination.k8s.io", "leases", "", "create"),
            ("coordination.k8s.io", "leases", "kube-scheduler", "get update"),
            ("policy", "poddisruptionbudgets", "", "get list watch"),
            ("storage.k8s.io", "csidrivers", "", "get list watch"),
            ("storage.k8s.io", "csinodes", "", "get list watch"),
            ("storage.k8s.io", "csistoragecapacities", "", "get list watch"),
        ],
    ),
    (
        "system:kubelet-api-admin",
        &[
            ("", "nodes", "", "get list proxy watch"),
            ("", "nodes/log", "", "*"),
            ("", "nodes/metrics", "", "*"),
            ("", "nodes/proxy", "", "*"),
            ("", "nodes/stats", "", "*"),
        ],
    ),
    (
        "system:node-bootstrapper",
        &[("certificates.k8s.io", "certificatesigningrequests", "", "create get list watch")],
    ),
    (
        "system:node-proxier",
        &[
            ("", "events", "", "create patch update"),
            ("", "nodes", "", "get list watch"),
            ("", "services", "", "list watch"),
            ("discovery.k8s.io", "endpointslices", "", "list watch"),
        ],
    ),
];

pub(super) fn want(cx: &Cx) -> Want {
    let object = |(name, _): &(&str, _)| Object::new("rbac.authorization.k8s.io/v1", "ClusterRole", "", name);
    Want::new("kubeadm-objects.roles", "the API server's default ClusterRoles have their rules")
        .ask(Ask::Objects(ROLES.iter().map(object).collect()))
        .judged_objects(judge)
        .run(api_again(&cx.node.name))
        .nothing_to_undo(WITH_THE_CLUSTER)
        .disrupts()
}

fn judge(roles: &[Option<Value>]) -> Verdict {
    let (mut have, mut want) = (String::new(), String::new());
    for ((name, rights), role) in ROLES.iter().zip(roles) {
        if let Some(leaving) = role.as_ref().and_then(leaving) {
            return leaving;
        }
        let rules = role.as_ref().and_then(|role| role.get("rules")).and_then(Value::as_array);
        let rules = rules.map(Vec::as_slice).unwrap_or_default();
        if rules.is_empty() {
            let lacks = if role.is_some() { "no rules" } else { "does not exist" };
            have += &format!("ClusterRole {name}: {lacks}\n");
            want += &format!("ClusterRole {name}: the rules that the API server writes at its start\n");
            continue;
        }
        for right in *rights {
            want.extend(lacks(rules, right).map(|verbs| format!("ClusterRole {name}: {verbs}\n")));
        }
    }
    if want.is_empty() { Verdict::Holds } else { Verdict::Differs { have, want } }
}

/// The verbs of a right that no rule gives, and the resource that they are for.
fn lacks(rules: &[Value], (group, resource, name, verbs): &Right) -> Option<String> {
    let has = |rule: &Value, key: &str, word: &str| {
        rule[key].as_array().is_some_and(|all| all.iter().any(|other| *other == word || *other == "*"))
    };
    let covers = |rule: &&Value| {
        let names = rule["resourceNames"].as_array().map(Vec::as_slice).unwrap_or_default();
        let named = names.is_empty() || names.iter().any(|other| !name.is_empty() && *other == *name);
        named && has(rule, "apiGroups", group) && has(rule, "resources", resource)
    };
    let given = |verb: &&str| rules.iter().filter(covers).any(|rule| has(rule, "verbs", verb));
    let missing: Vec<&str> = verbs.split(' ').filter(|verb| !given(verb)).collect();
    let resource = if group.is_empty() { resource.to_string() } else { format!("{resource}.{group}") };
    let resource = if name.is_empty() { resource } else { format!("{resource}/{name}") };
    (!missing.is_empty()).then(|| format!("may {} {resource}", missing.join(", ")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The verdict if each role has exactly the rights that it must have, except that the role at `at` is `other`.
    fn judged(at: usize, other: Option<Value>) -> Verdict {
        let rule = |(group, resource, name, verbs): &Right| {
            let names: Vec<&str> = [*name].into_iter().filter(|name| !name.is_empty()).collect();
            let verbs: Vec<&str> = verbs.split(' ').collect();
            json!({"apiGroups": [group], "resources": [resource], "resourceNames": names, "verbs": verbs})
        };
        let role = |rights: &[Right]| Some(json!({"rules": rights.iter().map(rule).collect::<Vec<_>>()}));
        let roles = ROLES.iter().enumerate();
        let roles = roles.map(|(i, (_, rights))| if i == at { other.clone() } else { role(rights) });
        judge(&roles.collect::<Vec<_>>())
    }

    #[test]
    fn empty_and_missing_roles_are_reported() {
        assert_eq!(judged(ROLES.len(), None), Verdict::Holds);
        let have = |role: Option<Value>| match judged(6, role.clone()) {
            Verdict::Differs { have, .. } => have,
            other => panic!("{role:?}: {other:?}"),
        };
        for role in [json!({}), json!({"rules": null}), json!({"rules": []})] {
            assert_eq!(have(Some(role)), "ClusterRole system:node-proxier: no rules\n");
        }
        assert_eq!(have(None), "ClusterRole system:node-proxier: does not exist\n");
    }

    #[test]
    fn a_right_that_a_role_lost_is_reported() {
        let wants = |at: usize, rules: Value| match judged(at, Some(json!({"rules": rules}))) {
            Verdict::Differs { want, .. } => want,
            Verdict::Holds => String::new(),
            other => panic!("{other:?}"),
        };
        let all = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
        assert_eq!(wants(6, all.clone()), "", "additional rights do not matter here");
        let nodes = json!([{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}]);
        let proxier = "ClusterRole system:node-proxier: may ";
        assert_eq!(
            wants(6, nodes),
            format!(
                "{proxier}create, patch, update events\n{proxier}list, watch nodes\n{proxier}list, watch services\n\
                 {proxier}list, watch endpointslices.discovery.k8s.io\n"
            )
        );
        let mut one = all;
        one[0]["resourceNames"] = json!(["kube-scheduler"]);
        let said = wants(3, one);
        assert!(
            said.contains("may create leases.coordination.k8s.io\n") && !said.contains("io/kube-scheduler"),
            "{said}"
        );
    }
}
