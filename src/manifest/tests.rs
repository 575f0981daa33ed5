//! Tests which values count as differences.

use super::*;
use serde_json::json;

/// The differences as two texts, of the present and of the right values.
fn said(want: &Value, have: &Value, whose: Whose) -> (String, String) {
    texts(&differences(want, have, whose))
}

#[test]
fn fields_that_the_manifest_lacks_are_ignored() {
    let want = json!({"spec": {"replicas": 2, "list": [{"name": "a", "image": "x:1"}]}});
    let have = json!({"spec": {"replicas": 2, "extra": true, "list": [{"name": "side"}, {"name": "a", "image": "x:1", "more": 1}]}, "status": {}});
    assert_eq!(differences(&want, &have, Whose::Users), []);
}

#[test]
fn changed_and_missing_fields_are_reported_by_path() {
    let want = json!({"spec": {"containers": [{"name": "a", "image": "x:2"}], "hostNetwork": true}});
    let have = json!({"spec": {"containers": [{"name": "a", "image": "x:1"}]}});
    let found = differences(&want, &have, Whose::Users);
    let paths: Vec<&str> = found.iter().map(|d| d.path.as_str()).collect();
    assert_eq!(paths, ["spec.containers[a].image", "spec.hostNetwork"]);
    assert_eq!(texts(&found).0, "spec.containers[a].image: \"x:1\"\n");
}

/// A pod of this API version, with a container that has this field.
fn with(version: &str, field: &str, value: Value) -> Value {
    json!({"apiVersion": version, "kind": "Pod", "spec": {"containers": [{"name": "a", field: value}]}})
}

#[test]
fn only_quantities_are_compared_by_value() {
    let is_same = |want: Value, have: Value| differences(&want, &have, Whose::Users).is_empty();
    for (want, have) in
        [(json!("1000m"), json!("1")), (json!(0.5), json!("500m")), (json!("1024Mi"), json!("1Gi"))]
    {
        let of = |field: &str, value: &Value| with("v1", field, json!({"limits": {"x": value}}));
        assert!(is_same(of("resources", &want), of("resources", &have)), "{want} {have}");
        let label = |value: &Value| json!({"apiVersion": "v1", "metadata": {"labels": {"limits": value}}, "data": {"max": value}});
        assert_eq!(differences(&label(&want), &label(&have), Whose::Users).len(), 2, "{want} {have}");
        let argument = |value: &Value| with("v1", "args", json!([value]));
        assert!(!is_same(argument(&want), argument(&have)), "{want} {have}");
    }
    let gpus = |value: Value| with("v1", "resources", json!({"limits": {"nvidia.com/gpu": value}}));
    assert!(is_same(gpus(json!(1)), gpus(json!("1"))));
    let percentage = |value: Value| with("example.com/v1", "percentage", value);
    assert!(is_same(percentage(json!(100.0)), percentage(json!(100))));
}

#[test]
fn an_omitted_field_differs_only_if_it_has_meaning() {
    let missing = |field: &str, value: Value| {
        let have = json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": "a"}]}});
        differences(&with("v1", field, value), &have, Whose::Users).len()
    };
    for (field, value) in
        [("stdin", json!(false)), ("env", json!([])), ("resources", json!({})), ("workingDir", json!(""))]
    {
        assert_eq!(missing(field, value), 0, "{field}");
    }
    for (field, value) in [
        ("allowPrivilegeEscalation", json!(false)),
        ("automountServiceAccountToken", json!(false)),
        ("enableServiceLinks", json!(false)),
        ("hostUsers", json!(false)),
        ("runAsUser", json!(0)),
        ("terminationGracePeriodSeconds", json!(0)),
        ("namespaceSelector", json!({})),
        ("stdin", json!(true)),
    ] {
        assert_eq!(missing(field, value), 1, "{field}");
    }
    let is = |value: Value| with("v1", "allowPrivilegeEscalation", value);
    assert_eq!(differences(&is(json!(false)), &is(json!(true)), Whose::Users).len(), 1);
}

#[test]
fn an_additional_selector_key_is_a_difference() {
    let want =
        json!({"spec": {"selector": {"app": "a"}, "template": {"spec": {"nodeSelector": {"os": "linux"}}}}});
    let mut have = want.clone();
    have["spec"]["more"] = json!({"a": 1});
    assert_eq!(differences(&want, &have, Whose::Users), []);
    have["spec"]["selector"]["tier"] = json!("b");
    have["spec"]["template"]["spec"]["nodeSelector"]["gone"] = json!("yes");
    let found = differences(&want, &have, Whose::Users);
    let paths: Vec<&str> = found.iter().map(|d| d.path.as_str()).collect();
    assert_eq!(paths, ["spec.selector.tier", "spec.template.spec.nodeSelector.gone"]);
}

#[test]
fn lists_without_names_must_have_equal_items() {
    assert_eq!(differences(&json!(["a", "b"]), &json!(["a", "b"]), Whose::Users), []);
    assert_eq!(differences(&json!(["a"]), &json!(["a", "b"]), Whose::Users).len(), 1);
}

fn binding(subjects: Value) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "b"},
        "roleRef": {"kind": "ClusterRole", "name": "cluster-admin"}, "subjects": subjects,
    })
}

#[test]
fn an_additional_subject_of_a_binding_is_a_difference() {
    let (group, anonymous) =
        (json!({"kind": "Group", "name": "g"}), json!({"kind": "User", "name": "system:anonymous"}));
    let want = binding(json!([group]));
    let mut have = binding(json!([{"kind": "Group", "name": "g", "apiGroup": "rbac.authorization.k8s.io"}]));
    have["roleRef"]["apiGroup"] = json!("rbac.authorization.k8s.io");
    have["metadata"] = json!({"name": "b", "uid": "1", "labels": {"a": "b"}});
    for whose in [Whose::Ours, Whose::Users] {
        assert_eq!(differences(&want, &have, whose), [], "the API server fills in apiGroup");
        let mut more = have.clone();
        more["subjects"].as_array_mut().unwrap().insert(0, anonymous.clone());
        let (present, right) = said(&want, &more, whose);
        assert_eq!(
            present,
            "subjects[system:anonymous]: {\"kind\":\"User\",\"name\":\"system:anonymous\"}\n"
        );
        assert_eq!(right, "subjects[system:anonymous]: none\n");
        for nobody in [json!(null), json!([])] {
            more["subjects"] = nobody;
            assert!(!differences(&want, &more, whose).is_empty());
        }
        more = have.clone();
        more["subjects"][0]["apiGroup"] = json!("example.com");
        assert_eq!(said(&want, &more, whose).1, "subjects[g].apiGroup: \"rbac.authorization.k8s.io\"\n");
    }
}

#[test]
fn subjects_differ_by_namespace_and_have_no_order() {
    let account =
        |namespace: &str| json!({"kind": "ServiceAccount", "name": "default", "namespace": namespace});
    let want = binding(json!([account("a"), account("b")]));
    assert_eq!(differences(&want, &binding(json!([account("b"), account("a")])), Whose::Users), []);
    let (have, right) = said(&want, &binding(json!([account("b"), account("c")])), Whose::Users);
    assert_eq!(
        (have.as_str(), right.as_str()),
        ("subjects[default].namespace: \"c\"\n", "subjects[default].namespace: \"a\"\n")
    );
    // An account that is there twice grants no more rights, but it differs from the manifest.
    let twice = binding(json!([account("a"), account("b"), account("a")]));
    assert_eq!(said(&want, &twice, Whose::Users).1, "subjects[default]: none\n");
}

fn role(rules: Value) -> Value {
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "r"}, "rules": rules})
}

#[test]
fn additional_rules_and_verbs_are_differences() {
    let rule =
        |resource: &str, verbs: Value| json!({"apiGroups": [""], "resources": [resource], "verbs": verbs});
    let (pods, nodes) = (rule("pods", json!(["get"])), rule("nodes", json!(["get", "list"])));
    let want = role(json!([pods, nodes]));
    for whose in [Whose::Ours, Whose::Users] {
        let paths = |have: Value| -> Vec<String> {
            differences(&want, &have, whose).into_iter().map(|difference| difference.path).collect()
        };
        let turned = role(json!([rule("nodes", json!(["list", "get"])), pods]));
        assert_eq!(paths(turned), [""; 0], "the order of rules and verbs has no meaning");
        let mut more = want.clone();
        more["rules"].as_array_mut().unwrap().push(rule("secrets", json!(["list"])));
        assert_eq!(paths(more), ["rules[2]"]);
        assert_eq!(paths(role(json!([rule("pods", json!(["*"])), nodes]))), ["rules[0].verbs[0]"]);
        assert_eq!(
            paths(role(json!([rule("pods", json!(["get", "delete"])), nodes]))),
            ["rules[0].verbs[1]"]
        );
        assert_eq!(paths(role(json!([nodes]))), ["rules[0]"]);
        assert_eq!(paths(role(json!(null))), ["rules"]);
        let mut narrowed = want.clone();
        narrowed["rules"][0]["resourceNames"] = json!(["x"]);
        assert_eq!(paths(narrowed), ["rules[0].resourceNames"]);
    }
}

#[test]
fn the_rules_of_an_aggregated_role_are_ignored() {
    let rules = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]);
    let selectors = json!({"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]});
    let (mut want, mut have) = (role(json!([])), role(rules.clone()));
    assert_eq!(differences(&want, &have, Whose::Users).len(), 1);
    (want["aggregationRule"], have["aggregationRule"]) = (selectors.clone(), selectors);
    assert_eq!(differences(&want, &have, Whose::Users), []);
    let found = said(&role(rules.clone()), &have, Whose::Users).1;
    assert_eq!(found, "aggregationRule: none\n", "rules of other roles would be added");
    have["aggregationRule"] = json!(null);
    assert_eq!(differences(&role(rules), &have, Whose::Users), []);
}

#[test]
fn only_manifest_fields_of_a_users_workload_count() {
    let want = json!({"kind": "Deployment", "spec": {"template": {"spec": {"containers": [{"name": "a", "args": ["x"]}]}}}});
    let mut have = want.clone();
    have["spec"]["replicas"] = json!(7);
    have["spec"]["template"]["spec"]["affinity"] = json!({"nodeAffinity": {}});
    have["spec"]["template"]["spec"]["containers"].as_array_mut().unwrap().push(json!({"name": "proxy"}));
    assert_eq!(differences(&want, &have, Whose::Users), []);
    let mut paths: Vec<String> =
        differences(&want, &have, Whose::Ours).into_iter().map(|difference| difference.path).collect();
    paths.sort();
    assert_eq!(
        paths,
        ["spec.replicas", "spec.template.spec.affinity", "spec.template.spec.containers[proxy]"]
    );
}

#[test]
fn defaults_of_the_api_server_are_no_differences() {
    let want = json!({"kind": "DaemonSet", "spec": {"template": {"metadata": {"labels": {"a": "b"}}, "spec": {
        "serviceAccountName": "x", "containers": [{"name": "a", "image": "x:1"}]}}}});
    let mut have = want.clone();
    have["metadata"] = json!({"annotations": {"deprecated.daemonset.template.generation": "1"}});
    have["status"] = json!({"numberReady": 1});
    have["spec"]["template"]["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/restartedAt": "now"});
    have["spec"]["template"]["metadata"]["labels"]["team"] = json!("x");
    have["spec"]["template"]["metadata"]["creationTimestamp"] = json!(null);
    have["spec"]["updateStrategy"] =
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}});
    let pod = |have: &mut Value, key: &str, value: Value| have["spec"]["template"]["spec"][key] = value;
    pod(&mut have, "serviceAccount", json!("x"));
    pod(&mut have, "securityContext", json!({}));
    assert_eq!(differences(&want, &have, Whose::Ours), []);
    for (key, value) in [
        ("serviceAccount", json!("other")),
        ("securityContext", json!({"runAsUser": 0})),
        ("hostPID", json!(true)),
        ("automountServiceAccountToken", json!(false)),
        ("terminationGracePeriodSeconds", json!(0)),
        ("nodeName", json!("w1")),
    ] {
        let mut other = have.clone();
        pod(&mut other, key, value);
        assert_eq!(differences(&want, &other, Whose::Ours).len(), 1, "{key}");
    }
    have["spec"]["updateStrategy"] = json!({"type": "OnDelete"});
    assert_eq!(said(&want, &have, Whose::Ours).1, "spec.updateStrategy.type: \"RollingUpdate\"\n");
}

#[test]
fn a_patch_restores_only_fields_compared_as_a_whole() {
    let paths = |manifest: &Value, whose: Whose| -> Vec<String> {
        let operations =
            patch(manifest, whose).and_then(|patch| patch.as_array().cloned()).unwrap_or_default();
        operations.iter().map(|operation| operation["path"].as_str().unwrap().to_string()).collect()
    };
    let deployment = json!({"kind": "Deployment", "spec": {"replicas": 2, "selector": {}, "template": {"spec": {"a": 1}}}});
    assert_eq!(paths(&deployment, Whose::Users), [""; 0]);
    let all = paths(&deployment, Whose::Ours);
    assert!(all.contains(&"/spec/template/spec".into()) && all.contains(&"/spec/paused".into()), "{all:?}");
    let kept = ["/spec", "/spec/replicas", "/spec/selector", "/spec/template", "/spec/template/metadata"];
    assert!(!all.iter().any(|path| kept.contains(&path.as_str())), "{all:?}");
    let patch = patch(&deployment, Whose::Ours).unwrap();
    let value =
        |path: &str| patch.as_array().unwrap().iter().find(|o| o["path"] == path).unwrap()["value"].clone();
    assert_eq!((value("/spec/template/spec"), value("/spec/paused")), (json!({"a": 1}), json!(null)));

    let mut aggregated = role(json!([]));
    assert_eq!(paths(&aggregated, Whose::Users), ["/rules", "/aggregationRule"]);
    aggregated["aggregationRule"] = json!({"clusterRoleSelectors": []});
    assert_eq!(paths(&aggregated, Whose::Users), ["/aggregationRule"]);
    assert_eq!(paths(&binding(json!([])), Whose::Users), ["/subjects", "/roleRef"]);
    assert_eq!(paths(&json!({"kind": "Namespace", "spec": {}}), Whose::Ours), [""; 0]);
}

#[test]
fn every_field_compared_as_a_whole_has_a_patch() {
    for (kind, field) in WHOLE {
        let patch = patch(&json!({"kind": kind}), Whose::Ours).unwrap();
        let path = patch[0]["path"].as_str().unwrap();
        assert!(path.starts_with(&format!("/{field}")), "{kind}: {path}");
    }
}
