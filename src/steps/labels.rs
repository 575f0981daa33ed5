//! labels: labels and taints as the inventory says; what others set is left alone.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::cluster::{Node, Taint};
use crate::error::Result;
use crate::shell::{APPLY, Sh, here, kubectl, sh};
use crate::step::{Ask, Cx, Object, Step, Verdict, WITH_THE_CLUSTER, Want};

pub const STEP: Step = Step { name: "labels", why: "the scheduler places pods by them", wants };

/// What we set, so that it can be taken back when the inventory no longer says it.
const SET_BY_US: &str = "ironstrap.dev/set";

fn wants(cx: &Cx) -> Result<Vec<Want>> {
    Ok(cx.cluster.nodes.iter().map(|node| as_said(cx, node)).collect())
}

fn as_said(cx: &Cx, node: &Node) -> Want {
    let waits = cx.fleet.before_known(&node.name);
    let wanted = node.clone();
    Want::that(format!("{} has its labels and taints", node.name))
        .asks(Ask::Objects(vec![Object::node(&node.name)]))
        .about([node.name.clone()])
        .judged(move |answer| {
            let object: Value = serde_json::from_str(answer).unwrap_or(Value::Null);
            let (have, want) = compare(&wanted, &object);
            match (&waits, have == want) {
                (_, true) => Verdict::Holds,
                (Some(for_what), _) => Verdict::Waits { have, want, for_what: for_what.clone() },
                (None, _) => Verdict::Differs { have, want },
            }
        })
        .run(set(node))
        .nothing_to_undo(WITH_THE_CLUSTER)
}

/// What kubeadm marks control planes with (kubeadm `markcontrolplane.go`).
const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";

/// The inventory's, and kubeadm's mark of a control plane.
fn labels(node: &Node) -> BTreeMap<String, String> {
    let mark = node.is_control_plane().then(|| (CONTROL_PLANE.to_string(), String::new()));
    node.labels.clone().into_iter().chain(mark).collect()
}

/// The inventory's; where it says nothing of a control plane's, kubeadm's.
pub(super) fn taints(node: &Node) -> Vec<Taint> {
    let taint = || Taint { key: CONTROL_PLANE.into(), value: String::new(), effect: "NoSchedule".into() };
    let kubeadms = || node.is_control_plane().then(taint).into_iter().collect();
    node.taints.clone().unwrap_or_else(kubeadms)
}

/// What we are to see to, a line each.
fn ours(node: &Node) -> Vec<String> {
    let labels = labels(node).into_iter().map(|(key, value)| format!("label {key}={value}"));
    let taints = taints(node).into_iter().map(|taint| format!("taint {taint}"));
    labels.chain(taints).collect()
}

/// Keys of what we see to, for `SET_BY_US`.
fn keys(node: &Node) -> String {
    let labels = labels(node).into_keys().map(|key| format!("label {key}"));
    let taints = taints(node).into_iter().map(|taint| format!("taint {}:{}", taint.key, taint.effect));
    labels.chain(taints).collect::<Vec<_>>().join(",")
}

fn compare(node: &Node, object: &Value) -> (String, String) {
    let labels = object.pointer("/metadata/labels").and_then(Value::as_object).cloned().unwrap_or_default();
    let noted =
        object.pointer("/metadata/annotations").and_then(|a| a.get(SET_BY_US)).and_then(Value::as_str);
    let noted = noted.unwrap_or_default();
    // What kubeadm set at the beginning is ours to take back too.
    let kubeadms = format!("taint {CONTROL_PLANE}:NoSchedule");
    let taints: Vec<Taint> =
        object.pointer("/spec/taints").and_then(Value::as_array).into_iter().flatten().map(taint).collect();
    let mut have: Vec<String> = Vec::new();
    let mine = |kind: &str, key: &str| {
        format!(",{kubeadms},{noted},{},", keys(node)).contains(&format!(",{kind} {key},"))
    };
    have.extend(
        labels
            .iter()
            .filter(|(key, _)| mine("label", key))
            .map(|(k, v)| format!("label {k}={}", v.as_str().unwrap_or_default())),
    );
    have.extend(
        taints
            .iter()
            .filter(|t| mine("taint", &format!("{}:{}", t.key, t.effect)))
            .map(|t| format!("taint {t}")),
    );
    let mut want = ours(node);
    have.sort();
    want.sort();
    let text = |lines: Vec<String>| lines.iter().map(|line| format!("{line}\n")).collect();
    (text(have), text(want))
}

fn taint(value: &Value) -> Taint {
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_string();
    Taint { key: text("key"), value: text("value"), effect: text("effect") }
}

/// Server-side apply takes back labels that we set once and no longer say. It cannot do that for taints, which
/// are one list for all who set them: those go one by one.
fn set(node: &Node) -> Sh {
    let name = &node.name;
    let labels: Map<String, Value> = labels(node).into_iter().map(|(k, v)| (k, json!(v))).collect();
    let object = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": labels, "annotations": {SET_BY_US: keys(node)}},
    });
    let noted = format!("jsonpath={{.metadata.annotations.{}}}", SET_BY_US.replace('.', "\\."));
    let mut script = kubectl() + sh!("set_before=$(kubectl get node -o {noted} -- {name})\n", noted, name);
    script += sh!(
        "echo \"$set_before,\"{mark} | tr , '\\n' | while read -r kind key; do\n\
           [ \"$kind\" = taint ] || continue\n\
           case {kept} in *\",taint $key,\"*) ;; *) kubectl taint node -- {name} \"$key-\" || : ;; esac\ndone\n",
        mark = format!("taint {CONTROL_PLANE}:NoSchedule"),
        kept = format!(",{},", keys(node)),
        name
    );
    for taint in taints(node) {
        script += sh!("kubectl taint node --overwrite -- {name} {taint}\n", name, taint = taint.to_string());
    }
    script + here(APPLY, &object.to_string())
}
