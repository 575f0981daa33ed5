//! labels: each node has the labels and taints that the inventory says. ironstrap leaves those of others alone.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::cluster::{Node, Taint};
use crate::error::Result;
use crate::shell::{Sh, kubectl, sh};
use crate::step::{Ask, Cx, Object, Step, Verdict, WITH_THE_CLUSTER, Want};

pub const STEP: Step = Step { name: "labels", why: "the scheduler places pods by labels and taints", wants };

const LABELS: Sh = Sh::raw(include_str!("../../templates/labels.sh"));
/// The annotation in which an older ironstrap noted what it set. A kubelet may write there, so ironstrap does not trust it.
const SET_BY_US: &str = "ironstrap.dev/set";

fn wants(cx: &Cx) -> Result<Vec<Want>> {
    Ok(cx.cluster.nodes.iter().map(|node| as_said(cx, node)).collect())
}

fn as_said(cx: &Cx, node: &Node) -> Want {
    let waits = cx.fleet.before_known(&node.name);
    let wanted = node.clone();
    Want::new("labels.node", format!("{} has its labels and taints", node.name))
        .of(&node.name)
        .ask(Ask::Objects(vec![Object::node(&node.name), Object::notes()]))
        .about([node.name.clone()])
        .judged_objects(move |objects| {
            let (object, note) = read(objects);
            let (have, want) = compare(&wanted, object, note);
            match (&waits, have == want) {
                (_, true) => Verdict::Holds,
                (Some(for_what), _) => Verdict::Waits { have, want, for_what: for_what.clone() },
                (None, _) => Verdict::Differs { have, want },
            }
        })
        .run_for_objects({
            let node = node.clone();
            move |objects| set(&node, read(objects).0)
        })
        .nothing_to_undo(WITH_THE_CLUSTER)
}

/// The Node and the note on it, from an answer. The Node is null if it does not exist.
fn read(objects: &[Option<Value>]) -> (&Value, &str) {
    let object = |at: usize| objects.get(at).and_then(Option::as_ref);
    (object(0).unwrap_or(&Value::Null), object(1).and_then(Value::as_str).unwrap_or_default())
}

/// The mark that kubeadm sets on control planes, together with `NO_BALANCER` (kubeadm `markcontrolplane.go`, `labelsToAdd`).
const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";
const NO_BALANCER: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// The labels that a node should have: the inventory's, kubeadm's marks of a control plane, and those that every Node has.
fn labels(node: &Node, object: &Value) -> BTreeMap<String, String> {
    let marks = [CONTROL_PLANE, NO_BALANCER].into_iter().filter(|_| node.is_control_plane());
    let marks = marks.map(|mark| (mark.to_string(), String::new()));
    let all = registered(node, object).into_iter().map(|(key, value)| (key.to_string(), value));
    all.chain(node.labels.clone()).chain(marks).collect()
}

/// The labels that a kubelet puts on its Node when it registers (kubernetes, pkg/kubelet/kubelet_node_status.go,
/// `initialNode` and `updateDefaultLabels`). kube-proxy and CoreDNS select Nodes by them. While it runs, a kubelet of 1.36
/// restores the operating system and the architecture within seconds. It does not restore the hostname.
fn registered(node: &Node, object: &Value) -> Vec<(&'static str, String)> {
    if object.is_null() {
        return vec![];
    }
    let mut all = vec![("kubernetes.io/hostname", node.name.clone()), ("kubernetes.io/os", "linux".into())];
    let arch = object.pointer("/status/nodeInfo/architecture").and_then(Value::as_str).unwrap_or_default();
    if !arch.is_empty() && arch.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
        all.push(("kubernetes.io/arch", arch.into()));
    }
    all
}

/// The taints that a node should have. If the inventory says nothing about a control plane's taints, these are kubeadm's.
pub(super) fn taints(node: &Node) -> Vec<Taint> {
    let taint = || Taint { key: CONTROL_PLANE.into(), value: String::new(), effect: "NoSchedule".into() };
    let kubeadms = || node.is_control_plane().then(taint).into_iter().collect();
    node.taints.clone().unwrap_or_else(kubeadms)
}

/// The labels and taints that a node should have, a line each.
fn ours(node: &Node, object: &Value) -> Vec<String> {
    let labels = labels(node, object).into_iter().map(|(key, value)| format!("label {key}={value}"));
    let taints = taints(node).into_iter().map(|taint| format!("taint {taint}"));
    labels.chain(taints).collect()
}

/// The names of labels and taints, in the form that notes have.
fn names<'a>(labels: impl Iterator<Item = &'a String>, taints: &[Taint]) -> String {
    let labels = labels.map(|key| format!("label {key}"));
    let taints = taints.iter().map(|taint| format!("taint {}:{}", taint.key, taint.effect));
    labels.chain(taints).collect::<Vec<_>>().join(",")
}

/// The text of the note: the names of what the inventory says. ironstrap may take back what kubeadm sets even without a note.
fn note(node: &Node) -> String {
    names(node.labels.keys(), node.taints.as_deref().unwrap_or_default())
}

/// The labels and taints that a node has, and those that it should have, as two texts. They are compared only if the
/// inventory says them or ironstrap noted them. Only administrators can write that note.
fn compare(node: &Node, object: &Value, noted: &str) -> (String, String) {
    let kubeadms = format!("taint {CONTROL_PLANE}:NoSchedule");
    let wanted = names(labels(node, object).keys(), &taints(node));
    let listed = |list: &str, name: &str| list.split(',').any(|other| other == name);
    let mine = |name: &str| [kubeadms.as_str(), noted, &wanted].iter().any(|list| listed(list, name));
    let has: Vec<(String, String)> = marks(object);
    let mut have: Vec<String> =
        has.iter().filter(|(name, _)| mine(name)).map(|(_, text)| text.clone()).collect();
    let mut want = ours(node, object);
    have.sort();
    want.sort();
    // If anything else differs, a difference of the note needs no line of its own.
    if have == want && noted != note(node) {
        have.extend(noted.split(',').filter(|name| !name.is_empty()).map(|name| format!("noted: {name}")));
        want.extend(
            note(node).split(',').filter(|name| !name.is_empty()).map(|name| format!("noted: {name}")),
        );
    }
    let old = object.pointer("/metadata/annotations").and_then(|all| all.get(SET_BY_US));
    if let Some(old) = old.map(|old| old.as_str().unwrap_or_default()) {
        have.push(format!("annotation {SET_BY_US}"));
        let unknown = has.iter().filter(|(name, _)| listed(old, name) && !mine(name));
        have.extend(unknown.map(|(_, text)| {
            format!("{text} stays: an older ironstrap or the node itself set it; remove it by hand")
        }));
    }
    let text = |lines: Vec<String>| lines.iter().map(|line| format!("{line}\n")).collect();
    (text(have), text(want))
}

/// The name and the text of each label and taint that a Node has.
fn marks(object: &Value) -> Vec<(String, String)> {
    let labels = object.pointer("/metadata/labels").and_then(Value::as_object).into_iter().flatten();
    let labels = labels.map(|(key, value)| {
        (format!("label {key}"), format!("label {key}={}", value.as_str().unwrap_or_default()))
    });
    let taints = object.pointer("/spec/taints").and_then(Value::as_array).into_iter().flatten().map(taint);
    let taints = taints.map(|t| (format!("taint {}:{}", t.key, t.effect), format!("taint {t}")));
    labels.chain(taints).collect()
}

/// The beginnings of keys of taints that Kubernetes and its cloud controllers set and take back themselves.
const KUBERNETES: [&str; 2] = ["node.kubernetes.io/", "node.cloudprovider.kubernetes.io/"];
/// The only one of these taints that a human sets (kubernetes.io, "Well-Known Labels, Annotations and Taints").
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// The taints that keep pods away and that somebody else set. Neither the inventory nor kubeadm nor Kubernetes itself set
/// them.
pub(super) fn foreign_taints(node: &Node, objects: &[Option<Value>]) -> Vec<String> {
    let (object, note) = read(objects);
    let ours = format!("{},{note}", names([].iter(), &taints(node)));
    let all = object.pointer("/spec/taints").and_then(Value::as_array).into_iter().flatten().map(taint);
    let foreign = all.filter(|taint| {
        let own = KUBERNETES.iter().any(|start| taint.key.starts_with(start)) && taint.key != OUT_OF_SERVICE;
        let name = names([].iter(), std::slice::from_ref(taint));
        let ours = taint.key == CONTROL_PLANE || ours.split(',').any(|other| other == name);
        !own && !ours && taint.effect != "PreferNoSchedule"
    });
    foreign.map(|taint| taint.to_string()).collect()
}

fn taint(value: &Value) -> Taint {
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_string();
    Taint { key: text("key"), value: text("value"), effect: text("effect") }
}

/// Shell that sets the labels and taints one by one, without server-side apply. With that, the Node's managed fields would
/// say what is taken back, and a kubelet may write them.
fn set(node: &Node, object: &Value) -> Sh {
    let (name, list) = (&node.name, note(node));
    let wanted = names(labels(node, object).keys(), &taints(node));
    let kubeadms = format!("taint {CONTROL_PLANE}:NoSchedule");
    let unmark = sh!("unmark {name} {list} {wanted} {kubeadms}\n", name, list, wanted, kubeadms);
    let mut script = kubectl() + LABELS + unmark;
    let labels: Vec<String> =
        labels(node, object).iter().map(|(key, value)| format!("{key}={value}")).collect();
    if !labels.is_empty() {
        let words = Sh::words(labels);
        script += sh!("kubectl label --overwrite node -- {name} {words} >/dev/null\n", name, words);
    }
    let taints: Vec<String> = taints(node).iter().map(Taint::to_string).collect();
    if !taints.is_empty() {
        let words = Sh::words(taints);
        script += sh!("kubectl taint --overwrite node -- {name} {words} >/dev/null\n", name, words);
    }
    script + sh!("marked {name} {list}", name, list)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cluster::{Role, Ssh};

    fn node(role: Role, labels: &[(&str, &str)], taints: Option<Vec<Taint>>) -> Node {
        let labels = labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        let ip = std::net::IpAddr::from([198, 18, 0, 11]);
        Node {
            name: "w1".into(),
            role,
            ssh: Ssh::default(),
            ip,
            labels,
            taints,
            kubelet: serde_json::Map::new(),
        }
    }

    fn quarantined(annotation: &str) -> Value {
        let labels =
            json!({"team": "x", "disk": "ssd", "kubernetes.io/hostname": "w1", "kubernetes.io/os": "linux"});
        json!({"metadata": {"labels": labels, "annotations": {SET_BY_US: annotation}},
            "spec": {"taints": [{"key": "quarantine", "effect": "NoExecute"}]}})
    }

    /// The labels that every Node has.
    const OWN: &str = "label kubernetes.io/hostname=w1\nlabel kubernetes.io/os=linux\n";

    #[test]
    fn annotations_of_a_kubelet_remove_nothing_from_its_node() {
        let node = node(Role::Worker, &[("disk", "ssd")], None);
        let (have, want) =
            compare(&node, &quarantined("taint quarantine:NoExecute,label team"), "label disk");
        assert_eq!(want, format!("label disk=ssd\n{OWN}"));
        let by_hand = "stays: an older ironstrap or the node itself set it; remove it by hand";
        let stays = |text: &str| format!("{text} {by_hand}\n");
        let stays = stays("label team=x") + &stays("taint quarantine:NoExecute");
        assert_eq!(have, format!("label disk=ssd\n{OWN}annotation {SET_BY_US}\n{stays}"));
        let script = set(&node, &Value::Null);
        assert!(!script.contains("--server-side") && !script.contains("annotations"), "{script}");
    }

    #[test]
    fn labels_that_ironstrap_recorded_are_removed() {
        let node = node(Role::Worker, &[], Some(vec![]));
        let mut object = quarantined("");
        object["metadata"]["annotations"] = json!({});
        let (have, want) = compare(&node, &object, "taint quarantine:NoExecute,label team");
        assert_eq!(want, OWN);
        assert_eq!(have, format!("{OWN}label team=x\ntaint quarantine:NoExecute\n"));
        let bare = compare(&node, &Value::Null, "label team,label b");
        assert_eq!(bare, ("noted: label team\nnoted: label b\n".into(), String::new()));
        assert_eq!(compare(&node, &object, ""), (OWN.into(), OWN.into()), "labels and taints of others stay");
    }

    #[test]
    fn kubeadms_labels_and_taints_need_no_record() {
        let labels = json!({CONTROL_PLANE: "", NO_BALANCER: "", "kubernetes.io/hostname": "w1", "kubernetes.io/os": "linux"});
        let mark = json!({"metadata": {"labels": labels}, "spec": {"taints": [{"key": CONTROL_PLANE, "effect": "NoSchedule"}]}});
        let (have, want) = compare(&node(Role::ControlPlane, &[], None), &mark, "");
        assert_eq!(have, want);
        let (have, want) = compare(&node(Role::ControlPlane, &[], Some(vec![])), &mark, "");
        assert!(have.contains("taint ") && !want.contains("taint "), "{have}{want}");
    }

    #[test]
    fn labels_of_the_registration_are_restored() {
        let node = node(Role::Worker, &[], None);
        let bare = json!({"metadata": {}, "status": {"nodeInfo": {"architecture": "arm64"}}});
        let (have, want) = compare(&node, &bare, "");
        assert_eq!((have.as_str(), want), ("", format!("label kubernetes.io/arch=arm64\n{OWN}")));
        let script = set(&node, &bare);
        let set = "'kubernetes.io/arch=arm64' 'kubernetes.io/hostname=w1' 'kubernetes.io/os=linux'";
        assert!(script.contains(&format!("kubectl label --overwrite node -- w1 {set} ")), "{script}");
        let forged = json!({"status": {"nodeInfo": {"architecture": "x y=z"}}});
        assert_eq!(compare(&node, &forged, "").1, OWN, "a forged architecture sets no label");
        assert_eq!(
            compare(&node, &Value::Null, ""),
            Default::default(),
            "the kubelet sets these labels when it registers"
        );
    }

    #[test]
    fn a_foreign_taint_that_repels_pods_is_reported() {
        let taint = |key: &str, effect: &str| json!({"key": key, "effect": effect});
        let all = [
            taint("maintenance", "NoExecute"),
            taint(OUT_OF_SERVICE, "NoExecute"),
            taint("node.kubernetes.io/unreachable", "NoExecute"),
            taint("node.cloudprovider.kubernetes.io/uninitialized", "NoSchedule"),
            taint("lab", "PreferNoSchedule"),
            taint("ours", "NoSchedule"),
            taint("before", "NoSchedule"),
            taint(CONTROL_PLANE, "NoSchedule"),
        ];
        let own = Taint { key: "ours".into(), value: String::new(), effect: "NoSchedule".into() };
        let objects = [Some(json!({"spec": {"taints": all}})), Some(json!("taint before:NoSchedule"))];
        let found = foreign_taints(&node(Role::Worker, &[], Some(vec![own])), &objects);
        assert_eq!(found, ["maintenance:NoExecute", "node.kubernetes.io/out-of-service:NoExecute"]);
        assert!(foreign_taints(&node(Role::Worker, &[], None), &[None, None]).is_empty());
    }
}
