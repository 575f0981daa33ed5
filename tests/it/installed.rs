//! The objects that kubeadm installs in a cluster. ironstrap wants them as kubeadm made them. Each fix is shell that
//! does the same in every shell.

use std::collections::BTreeMap;

use ironstrap::cluster::{Addon, Cluster, Origin};
use ironstrap::fleet::Fleet;
use ironstrap::machine::Machine;
use ironstrap::step::{Ask, Fix, Object, Verdict, Want};
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::support::{self, lab, pki, shells, wants};

/// The objects of a cluster that kubeadm 1.36.3 made for the lab's inventory, one on each line
/// (tests/fixtures/README.md).
const MADE: &str = include_str!("../fixtures/kubeadm-1.36.3.jsonl");

/// The objects of flannel in this cluster, which ironstrap made.
const FLANNEL: &str = include_str!("../fixtures/flannel-1.36.3.jsonl");

fn made() -> BTreeMap<String, Value> {
    let objects = MADE.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    objects.map(|object| (Object::of(&object).to_string(), object)).collect()
}

fn installed(cluster: &Cluster, exists: bool) -> Vec<Want> {
    of_step("installed", cluster, exists)
}

fn of_step(name: &str, cluster: &Cluster, exists: bool) -> Vec<Want> {
    let fleet = Fleet { exists, ..Fleet::default() };
    let now = OffsetDateTime::now_utc();
    let all = wants((cluster, &cluster.nodes[0]), &pki(cluster), (&Machine::default(), &fleet), now);
    let asks = |want: &Want| matches!(want.ask, Ask::Objects(_));
    let of_step = all.into_iter().filter(|(_, step, want)| *step == name && asks(want));
    of_step.map(|(.., want)| want).collect()
}

fn all_asked(want: &Want) -> Vec<String> {
    let Ask::Objects(objects) = &want.ask else { panic!("{}", want.that) };
    objects.iter().map(Object::to_string).collect()
}

fn asked(want: &Want) -> String {
    all_asked(want).remove(0)
}

fn judged(want: &Want, answer: &str) -> Verdict {
    support::verdict(want, answer)
}

const INFO: &str = "ConfigMap kube-public/cluster-info";

#[test]
fn every_object_of_kubeadm_is_wanted_and_matches() {
    let mut made = made();
    for want in installed(&lab(), true) {
        let names = all_asked(&want);
        if names[0] == INFO {
            continue;
        }
        let object = |name: &String| made.remove(name).unwrap_or_else(|| panic!("kubeadm makes no {name}"));
        let lines: Vec<String> = names.iter().map(object).map(|object| object.to_string()).collect();
        assert_eq!(judged(&want, &lines.join("\n")), Verdict::Holds, "{names:?}");
        let absent = judged(&want, &vec!["absent"; names.len()].join("\n"));
        let is_namespace = names[0].starts_with("Namespace ");
        assert!(is_namespace || matches!(absent, Verdict::Differs { .. }), "{names:?} is missing");
    }
    assert_eq!(made.keys().collect::<Vec<_>>(), Vec::<&String>::new(), "each object has a want");
}

/// An object, a place in it, the value that somebody put there (or added to a list), and a part of the diff.
type Tampered = (&'static str, &'static str, fn() -> Value, &'static str);

const POD: &str = "/spec/template/spec";

/// Harmful changes. They add an administrator, add or remove rights, change or stop pods, or redirect a Service.
fn tampered() -> Vec<Tampered> {
    const ADMINS: &str = "ClusterRoleBinding kubeadm:cluster-admins";
    const PROXY: &str = "DaemonSet kube-system/kube-proxy";
    const DNS: &str = "Deployment kube-system/coredns";
    const SERVICE: &str = "Service kube-system/kube-dns";
    fn anybody() -> Value {
        json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:anonymous"})
    }
    fn anything() -> Value {
        json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]})
    }
    vec![
        (ADMINS, "/subjects/-", anybody, "subjects[system:anonymous]: none"),
        (ADMINS, "/roleRef/name", || json!("view"), "roleRef.name: \"cluster-admin\""),
        ("ClusterRoleBinding cluster-admin", "/subjects/-", anybody, "subjects[system:anonymous]: none"),
        (
            "ClusterRoleBinding kubeadm:node-autoapprove-bootstrap",
            "/subjects/-",
            anybody,
            "[system:anonymous]: none",
        ),
        (
            "ClusterRoleBinding system:kube-scheduler",
            "/subjects",
            || json!([]),
            "subjects[system:kube-scheduler]: {",
        ),
        (
            "RoleBinding kube-system/kubeadm:kubelet-config",
            "/subjects/-",
            anybody,
            "[system:anonymous]: none",
        ),
        ("ClusterRole kubeadm:get-nodes", "/rules/0/verbs", || json!(["*"]), "rules[0].verbs[0]: \"get\""),
        ("ClusterRole kubeadm:get-nodes", "/rules/-", anything, "rules[1]: none"),
        ("ClusterRole system:coredns", "/rules", || json!(null), "rules: [{"),
        (
            "Role kube-system/kube-proxy",
            "/rules/0/resourceNames",
            || json!(null),
            "resourceNames: [\"kube-proxy\"]",
        ),
        (
            "ServiceAccount kube-system/coredns",
            "/automountServiceAccountToken",
            || json!(false),
            "Token: true",
        ),
        (PROXY, "POD/affinity", || json!({"nodeAffinity": {}}), "affinity: none"),
        (PROXY, "POD/schedulerName", || json!("nobody"), "schedulerName: \"default-scheduler\""),
        (PROXY, "POD/hostPID", || json!(true), "hostPID: none"),
        (PROXY, "POD/dnsPolicy", || json!("None"), "dnsPolicy: \"ClusterFirst\""),
        (PROXY, "POD/priorityClassName", || json!("low"), "priorityClassName: \"system-node-critical\""),
        (PROXY, "POD/nodeName", || json!("w1"), "nodeName: none"),
        (PROXY, "POD/runtimeClassName", || json!("kata"), "runtimeClassName: none"),
        (PROXY, "POD/serviceAccountName", || json!("default"), "serviceAccountName: \"kube-proxy\""),
        (PROXY, "POD/tolerations", || json!([]), "tolerations: [{"),
        (PROXY, "POD/tolerations/0/effect", || json!("NoSchedule"), "tolerations[0].effect: none"),
        (PROXY, "POD/securityContext", || json!({"runAsUser": 1}), "securityContext.runAsUser: none"),
        (PROXY, "POD/containers/-", || json!({"name": "side", "image": "x"}), "containers[side]: none"),
        (PROXY, "POD/initContainers", || json!([{"name": "first", "image": "x"}]), "initContainers: none"),
        (
            PROXY,
            "POD/volumes/-",
            || json!({"name": "host", "hostPath": {"path": "/"}}),
            "volumes[host]: none",
        ),
        (PROXY, "POD/containers/0/args", || json!(["--cleanup"]), "args: none"),
        (PROXY, "POD/containers/0/command/-", || json!("--v=9"), "command: ["),
        (PROXY, "POD/containers/0/env/-", || json!({"name": "X", "value": "y"}), "env[X]: none"),
        (
            PROXY,
            "POD/containers/0/env/-",
            || json!({"name": "NODE_NAME", "value": "y"}),
            "env[NODE_NAME]: none",
        ),
        (PROXY, "POD/containers/0/envFrom", || json!([{"secretRef": {"name": "x"}}]), "envFrom: none"),
        (PROXY, "POD/containers/0/securityContext/runAsUser", || json!(1), "securityContext.runAsUser: none"),
        (PROXY, "POD/containers/0/ports", || json!([{"containerPort": 1}]), "ports: none"),
        (PROXY, "POD/containers/0/lifecycle", || json!({"preStop": {}}), "lifecycle: none"),
        (PROXY, "POD/containers/0/livenessProbe", || json!({"exec": {}}), "livenessProbe: none"),
        (PROXY, "POD/containers/0/resources", || json!({"limits": {"cpu": "1m"}}), "resources.limits: none"),
        (
            PROXY,
            "POD/containers/0/volumeMounts/-",
            || json!({"name": "x", "mountPath": "/x"}),
            "volumeMounts[x]: none",
        ),
        (PROXY, "/spec/minReadySeconds", || json!(9), "minReadySeconds: none"),
        (
            PROXY,
            "/spec/updateStrategy",
            || json!({"type": "OnDelete"}),
            "updateStrategy.type: \"RollingUpdate\"",
        ),
        (PROXY, "/spec/updateStrategy/rollingUpdate/maxUnavailable", || json!("100%"), "maxUnavailable: 1"),
        (DNS, "/spec/paused", || json!(true), "paused: false"),
        (DNS, "/spec/strategy", || json!({"type": "Recreate"}), "strategy.type: \"RollingUpdate\""),
        (DNS, "POD/affinity", || json!(null), "affinity: {"),
        (DNS, "POD/affinity/nodeAffinity", || json!({}), "affinity.nodeAffinity: none"),
        (DNS, "POD/hostNetwork", || json!(true), "hostNetwork: none"),
        (DNS, "POD/terminationGracePeriodSeconds", || json!(0), "terminationGracePeriodSeconds: 30"),
        (DNS, "POD/containers/0/ports/-", || json!({"containerPort": 1, "name": "x"}), "ports[x]: none"),
        (DNS, "POD/containers/0/readinessProbe/periodSeconds", || json!(600), "periodSeconds: 10"),
        (DNS, "POD/containers/0/imagePullPolicy", || json!("Never"), "imagePullPolicy: \"IfNotPresent\""),
        (SERVICE, "/spec/internalTrafficPolicy", || json!("Local"), "internalTrafficPolicy: \"Cluster\""),
        (SERVICE, "/spec/externalTrafficPolicy", || json!("Local"), "externalTrafficPolicy: none"),
        (SERVICE, "/spec/sessionAffinity", || json!("ClientIP"), "sessionAffinity: \"None\""),
        (SERVICE, "/spec/externalIPs", || json!(["192.0.2.1"]), "externalIPs: none"),
        (SERVICE, "/spec/ports/-", || json!({"name": "x", "port": 1}), "ports[x]: none"),
        (SERVICE, "/spec/selector/tier", || json!("x"), "selector.tier: none"),
        (SERVICE, "/spec/type", || json!("NodePort"), "type: \"ClusterIP\""),
        (SERVICE, "/spec/publishNotReadyAddresses", || json!(true), "publishNotReadyAddresses: none"),
    ]
}

/// Puts a value at a place. A place that ends in `-` is the end of a list.
fn put(object: &mut Value, place: &str, value: Value) {
    let (parent, last) = place.rsplit_once('/').unwrap();
    let last = &last.replace("~1", "/");
    match object.pointer_mut(parent).unwrap_or_else(|| panic!("no {place}")) {
        Value::Array(items) if last == "-" => items.push(value),
        parent => parent[last.as_str()] = value,
    }
}

#[test]
fn every_change_to_an_object_is_named() {
    let (made, wants) = (made(), installed(&lab(), true));
    for (name, place, value, says) in tampered() {
        let mut object = made[name].clone();
        put(&mut object, &place.replace("POD", POD), value());
        let want = wants.iter().find(|want| asked(want) == name).unwrap_or_else(|| panic!("{name}"));
        let Verdict::Differs { want, .. } = judged(want, &object.to_string()) else {
            panic!("{name}: no difference at {place}")
        };
        assert!(want.contains(says) && want.lines().count() <= 2, "{name}: {place}: no {says:?} in\n{want}");
    }
}

#[test]
fn legitimate_changes_are_no_difference() {
    let restarted = || json!({"kubectl.kubernetes.io/restartedAt": "2026-11-28T23:00:00Z"});
    let cases: [(&str, &str, Value); 5] = [
        ("DaemonSet kube-system/kube-proxy", "/spec/template/metadata/annotations", restarted()),
        ("Deployment kube-system/coredns", "/spec/template/metadata/labels/team", json!("x")),
        ("Deployment kube-system/coredns", "/spec/replicas", json!(5)),
        ("ServiceAccount kube-system/coredns", "/imagePullSecrets", json!([{"name": "registry"}])),
        ("ClusterRoleBinding kubeadm:cluster-admins", "/metadata/labels", json!({"team": "x"})),
    ];
    let (made, wants) = (made(), installed(&lab(), true));
    for (name, place, value) in cases {
        let mut object = made[name].clone();
        put(&mut object, place, value);
        let want = wants.iter().find(|want| asked(want) == name).unwrap();
        assert_eq!(judged(want, &object.to_string()), Verdict::Holds, "{name}: {place}");
    }
}

#[test]
fn missing_objects_are_expected_before_the_cluster_exists() {
    for want in installed(&lab(), false) {
        let absent = vec!["absent"; all_asked(&want).len()].join("\n");
        assert_eq!(judged(&want, &absent), Verdict::Holds, "{}", want.that);
    }
}

#[test]
fn a_disabled_kubeadm_addon_has_no_objects() {
    let mut cluster = lab();
    cluster.kubeadm.insert("dns".into(), json!({"disabled": true}));
    cluster.kubeadm.insert("proxy".into(), json!({"disabled": true}));
    // Only wants with a fix. The others look for what an earlier inventory left.
    let wants = installed(&cluster, true).into_iter().filter(|want| want.fix != Fix::FromPrevious);
    let names: Vec<String> = wants.map(|want| asked(&want)).collect();
    assert!(
        !names.is_empty() && names.iter().all(|name| !name.contains("dns") && !name.contains("prox")),
        "{names:?}"
    );
}

#[test]
fn probes_have_the_ports_of_their_version() {
    for (minor, liveness) in [(33, json!(8080)), (34, json!("liveness-probe"))] {
        let mut cluster = lab();
        cluster.kubernetes = semver::Version::new(1, minor, 0);
        let wants = installed(&cluster, true);
        let want = wants.iter().find(|want| asked(want) == "Deployment kube-system/coredns").unwrap();
        let Verdict::Differs { want, .. } = judged(want, "{}") else { panic!("an empty object must differ") };
        assert!(want.contains(&format!("\"port\":{liveness}")), "{minor}: {want}");
    }
}

#[test]
fn cluster_info_is_judged_by_its_server_and_ca() {
    let (cluster, pki) = (lab(), pki(&lab()));
    let fleet = Fleet { exists: true, ..Fleet::default() };
    let machine = Machine::default();
    let all = wants((&cluster, &cluster.nodes[0]), &pki, (&machine, &fleet), OffsetDateTime::now_utc());
    let want = all.into_iter().map(|(.., want)| want).find(|want| want.that.starts_with(INFO)).unwrap();
    let judge = |text: String| judged(&want, &json!({"data": {"kubeconfig": text}}).to_string());
    let right = pki.cluster_info("https://api.demo.internal:6443");
    assert_eq!(judge(right.clone()), Verdict::Holds);
    let mut other = pki.clone();
    other.ca = pki.front_proxy_ca.clone();
    let have =
        |verdict| if let Verdict::Differs { have, .. } = verdict { have } else { panic!("{verdict:?}") };
    let of_another = have(judge(other.cluster_info("https://api.demo.internal:6443")));
    assert_eq!(of_another, "server: https://api.demo.internal:6443\nCA: of another cluster\n");
    assert!(
        have(judge(pki.cluster_info("https://192.0.2.1:6443")))
            .starts_with("server: https://192.0.2.1:6443\n")
    );
    assert!(!have(judge("no YAML: [".into())).is_empty());
    assert_eq!(have(judged(&want, "absent")), "");
}

/// Runs the fix of a want in every shell, with the shell code `does` as its kubectl. Returns whether the fix succeeded,
/// the calls of kubectl, and the text of the file `put`, which `does` can write.
fn runs(want: &Want, does: &str) -> Vec<(bool, String, String)> {
    let Fix::Run(fix) = &want.fix else { panic!("{}", want.that) };
    let (_, own) = fix.split_once("kubectl get --raw /readyz >/dev/null\n").unwrap();
    let run = |shell: &'static str| {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().display();
        let script = format!(
            "set -eu\nkubectl() {{\necho \"$*\" >>{root}/asked\n{}\n}}\n{}",
            does.replace("ROOT", &root.to_string()),
            own.replace("/run/ironstrap", &root.to_string())
        );
        let ran = support::run(shell, &script);
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap_or_default();
        (ran.status.success(), read("asked").replace(&root.to_string(), "ROOT"), read("put"))
    };
    let ran: Vec<(bool, String, String)> = shells().into_iter().map(run).collect();
    assert!(ran.iter().all(|each| *each == ran[0]), "every shell does the same: {ran:#?}");
    ran
}

fn want(cluster: &Cluster, object: &str) -> Want {
    installed(cluster, true).into_iter().find(|want| asked(want) == object).unwrap()
}

#[test]
fn coredns_keeps_its_replicas_unless_the_inventory_sets_them() {
    let kubectl = |present: &str| {
        format!("case $* in *'get deployment/coredns'*) printf '{present}' ;; apply*) cat >ROOT/put ;; esac")
    };
    let mut cluster = lab();
    for (said, present, put) in
        [(None, "", 2), (None, "0", 2), (None, "1", 1), (None, "7", 7), (Some(3), "7", 3)]
    {
        cluster.coredns.replicas = said;
        let (good, _, text) =
            runs(&want(&cluster, "Deployment kube-system/coredns"), &kubectl(present)).remove(0);
        let object: Value = ironstrap::yaml::read(&text).unwrap();
        assert_eq!((good, &object["spec"]["replicas"]), (true, &json!(put)), "{said:?} {present:?}: {text}");
    }
}

#[test]
fn immutable_objects_are_replaced_but_other_errors_fail() {
    let service = want(&lab(), "Service kube-system/kube-dns");
    let kubectl = |patched: &str, applied: &str, replaced: &str| {
        let fails = |said: &str| match said {
            "" => "return 0".to_string(),
            said => format!("echo '{said}' >&2; return 1"),
        };
        format!(
            "case $* in patch*) cat >ROOT/put; {} ;; apply*) cat >/dev/null; {} ;; 'replace -f -') cat >/dev/null; return {replaced} ;; esac",
            fails(patched),
            fails(applied)
        )
    };
    let asked_of = |want: &Want, patched: &str, applied: &str, replaced: &str| {
        let (good, asked, put) = runs(want, &kubectl(patched, applied, replaced)).remove(0);
        assert!(!put.is_empty(), "kubectl gets the object for the patch");
        assert!(asked.starts_with("patch --type=json --field-manager=ironstrap -p [{"), "{asked}");
        let word = |line: &str| line.split(" --").next().unwrap_or_default().to_string();
        (
            good,
            asked.lines().map(word).collect::<Vec<_>>().join(", ")
                + if asked.contains("--force -f") { ", force" } else { "" },
        )
    };
    let asked = |patched: &str, applied: &str, replaced: &str| asked_of(&service, patched, applied, replaced);
    let invalid = "The Service \"kube-dns\" is invalid: spec.ports[2].name: Duplicate value: \"dns\"";
    let forbidden = "Error from server (Forbidden): no";
    assert_eq!(asked("", "", "0"), (true, "patch, apply".into()));
    assert_eq!(
        asked("Error from server (NotFound): no such Service", "", "0"),
        (true, "patch, apply".into())
    );
    assert_eq!(asked(invalid, "", "0"), (true, "patch, apply".into()));
    assert_eq!(asked(forbidden, "", "0"), (false, "patch".into()));
    assert_eq!(asked("", invalid, "0"), (true, "patch, apply, replace -f -".into()));
    assert_eq!(asked("", invalid, "1"), (true, "patch, apply, replace -f -, replace, force".into()));
    assert_eq!(asked("", forbidden, "0"), (false, "patch, apply".into()));
    let binding = want(&lab(), "ClusterRoleBinding kubeadm:node-proxier");
    let another =
        "The ClusterRoleBinding \"x\" is invalid: roleRef: Invalid value: {}: cannot change roleRef";
    assert_eq!(asked_of(&binding, another, "", "0"), (true, "patch, replace, apply, force".into()));
}

/// ironstrap works with the rights that this binding gives, so it needs another credential to restore it.
#[test]
fn the_administrators_binding_is_restored_with_a_credential() {
    let want = want(&lab(), "ClusterRoleBinding kubeadm:cluster-admins");
    let Fix::Run(fix) = &want.fix else { panic!("{}", want.that) };
    assert!(fix.ends_with("administer") && want.credential.is_some(), "{fix}");
}

#[test]
fn a_replaced_corefile_is_kept_and_pods_are_restarted() {
    let mut cluster = lab();
    cluster.coredns.corefile = Some(".:53 {\n    whoami\n}\n".into());
    let kubectl = "case $* in *'get configmap coredns'*) echo '.:53 { theirs }' ;; *create*) cat ROOT/Corefile >ROOT/put ;; apply*) cat >/dev/null ;; *-o' 'name) echo it ;; esac";
    let (good, asked, kept) = runs(&want(&cluster, "ConfigMap kube-system/coredns"), kubectl).remove(0);
    assert_eq!((good, kept.as_str()), (true, ".:53 { theirs }\n"));
    assert!(asked.contains("create configmap coredns-replaced --from-file="), "{asked}");
    assert!(asked.ends_with("rollout restart deployment/coredns\n"), "{asked}");
    let account = want(&cluster, "ServiceAccount kube-system/kube-proxy");
    assert!(runs(&account, kubectl)[0].1.ends_with("rollout restart daemonset/kube-proxy\n"));
    let none = "case $* in apply*) cat >/dev/null ;; esac";
    let (good, asked, _) = runs(&account, none).remove(0);
    assert!(good && !asked.contains("restart"), "there are no pods to restart: {asked}");
}

/// The commands of kubectl that the fix of a want runs. `there`: the objects that kubectl finds.
fn calls(want: &Want, there: &str) -> Vec<String> {
    let kubectl =
        format!("case $* in get*) cat >/dev/null; printf '{there}' ;; patch*|apply*) cat >/dev/null ;; esac");
    let (good, asked, _) = runs(want, &kubectl).remove(0);
    assert!(good, "{asked}");
    asked.lines().map(|line| line.split(' ').next().unwrap().to_string()).collect()
}

#[test]
fn flannel_is_applied_once_or_patched_per_object() {
    let wants = of_step("network", &lab(), true);
    assert_eq!(calls(&wants[0], ""), ["get", "apply"]);
    // ServiceAccount, ClusterRole, ClusterRoleBinding, DaemonSet.
    assert_eq!(
        calls(&wants[0], "daemonset.apps/flannel"),
        ["get", "patch", "patch", "patch", "patch", "apply"]
    );
    let made = FLANNEL.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut made: BTreeMap<String, Value> =
        made.map(|object| (Object::of(&object).to_string(), object)).collect();
    for want in &wants {
        let mut object = made.remove(&asked(want)).unwrap_or_else(|| panic!("no {}", asked(want)));
        assert_eq!(judged(want, &object.to_string()), Verdict::Holds, "{}", asked(want));
        let (place, value) = match object["kind"].as_str().unwrap() {
            "Namespace" => ("/metadata/labels/pod-security.kubernetes.io~1enforce", json!("restricted")),
            "ServiceAccount" => ("/automountServiceAccountToken", json!(false)),
            "ClusterRole" => {
                ("/rules/-", json!({"apiGroups": [""], "resources": ["secrets"], "verbs": ["list"]}))
            }
            "ClusterRoleBinding" => {
                ("/subjects/-", json!({"kind": "Group", "name": "system:unauthenticated"}))
            }
            "ConfigMap" => ("/data/net-conf.json", json!("{}")),
            _ => ("/spec/template/spec/initContainers/0/args", json!(["/etc"])),
        };
        put(&mut object, place, value);
        assert!(matches!(judged(want, &object.to_string()), Verdict::Differs { .. }), "{}", asked(want));
    }
    assert_eq!(made.keys().collect::<Vec<_>>(), Vec::<&String>::new());
}

#[test]
fn rights_in_user_manifests_are_compared_as_a_whole() {
    let manifest = "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: r, namespace: shop}\n\
        rules: [{apiGroups: [''], resources: [pods], verbs: [get]}]\n---\n\
        apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: shop}\nspec: {paused: false}\n";
    let mut cluster = lab();
    cluster.addons = vec![Addon {
        name: "shop".into(),
        origin: Origin::File,
        wait: false,
        objects: ironstrap::inventory::objects(manifest, "shop.yaml").0.unwrap(),
        written: "demo.toml:7".into(),
    }];
    let wants = of_step("addons", &cluster, true);
    let [role, web] = [&wants[0], &wants[1]];
    assert_eq!(
        (calls(role, ""), calls(web, "")),
        (vec!["patch".into(), "apply".into()], vec!["apply".to_string()])
    );
    let labels = json!({"ironstrap.dev/addon": "shop"});
    let judge_role = |verbs: Value| {
        let rules = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": verbs}]);
        let object = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "rules": rules,
            "metadata": {"name": "r", "namespace": "shop", "labels": labels}});
        judged(role, &object.to_string())
    };
    assert_eq!(judge_role(json!(["get"])), Verdict::Holds);
    assert!(matches!(judge_role(json!(["get", "list"])), Verdict::Differs { .. }));
    let scaled = json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": 3, "paused": false},
        "metadata": {"name": "web", "namespace": "shop", "labels": labels}});
    assert_eq!(judged(web, &scaled.to_string()), Verdict::Holds);
}
