//! Whether what runs in the cluster is available, by the rules of `kubectl rollout status`.

use serde_json::Value;

use super::{Ask, Blame, Cx, Object, Verdict, WITH_THE_CLUSTER, Want};
use crate::shell::{KUBECTL, Sh, controllers, sh};

const FUNCTIONS: Sh = Sh::raw(include_str!("../../templates/rollout.sh"));

/// The objects of these manifests that run something, and that can be waited for.
pub fn running(manifests: &[Value]) -> Vec<Object> {
    const KINDS: &[(&str, &str)] = &[
        ("apps/v1", "Deployment"),
        ("apps/v1", "DaemonSet"),
        ("apps/v1", "StatefulSet"),
        ("batch/v1", "Job"),
    ];
    let runs = |object: &&Value| KINDS.contains(&(text(object, "apiVersion"), text(object, "kind")));
    manifests.iter().filter(runs).map(Object::of).collect()
}

/// The want that all of these are available, as far as nodes of the inventory are concerned. It says nothing about an
/// unmanaged node. While a node still has to join or to answer, their pods may have no place to run.
pub fn available(cx: &Cx, id: &'static str, that: String, running: Vec<Object>) -> Want {
    available_on_each(cx, id, that, running, &[])
}

/// As `available`. `each`: the objects that every node of the inventory must have. The controller counts only the Nodes
/// that its DaemonSet selects (kubernetes, pkg/controller/daemon/daemon_controller.go, `updateDaemonSetStatus`).
pub fn available_on_each(
    cx: &Cx,
    id: &'static str,
    that: String,
    running: Vec<Object>,
    each: &[Object],
) -> Want {
    let waits = cx.cluster.nodes.iter().find_map(|node| cx.fleet.before_ready(&node.name));
    let fix = KUBECTL + controllers(&cx.node.name) + waiting(cx, &running, each);
    let (unmanaged_nodes, nodes) = (cx.fleet.unmanaged_nodes.len() as u64, cx.cluster.nodes.len() as u64);
    let objects: Vec<(Object, u64)> = running
        .iter()
        .map(|object| (object.clone(), if each.contains(object) { nodes } else { 0 }))
        .collect();
    Want::new(id, that)
        .ask(Ask::Objects(running))
        .judged_objects(move |found| {
            let state = |((object, least), found): (&(Object, u64), &Option<Value>)| {
                let lacks = match found {
                    Some(found) => lacks(found, unmanaged_nodes, *least, nodes)?,
                    None => "missing".to_string(),
                };
                Some(format!("{object}: {lacks}\n"))
            };
            let have: String = objects.iter().zip(found).filter_map(state).collect();
            let want = "all available\n".to_string();
            match &waits {
                _ if have.is_empty() => Verdict::Holds,
                Some(for_what) => Verdict::Waits { have, want, for_what: for_what.clone() },
                None => Verdict::Differs { have, want },
            }
        })
        .run(fix)
        .blame(Blame::Rollout)
        .eventually()
        .nothing_to_undo(WITH_THE_CLUSTER)
}

/// Shell that waits until these are available, or until one of their pods cannot start however long it waits. It prints
/// which workers lack a pod of a DaemonSet that runs on other nodes. `faults` reads those lines. `each`: as in
/// `available_on_each`.
pub fn waiting(cx: &Cx, running: &[Object], each: &[Object]) -> Sh {
    let (unmanaged_nodes, nodes) = (cx.fleet.unmanaged_nodes.len(), cx.cluster.nodes.len());
    let workers = cx.cluster.nodes.iter().filter(|node| !node.is_control_plane());
    let workers: Vec<&str> = workers.map(|node| node.name.as_str()).collect();
    let wait = |object: &Object| {
        let least = if each.contains(object) { nodes } else { 0 };
        let command = match object.kind.as_str() {
            "DaemonSet" => {
                let (namespace, name) = (namespace(object), &object.name);
                sh!(
                    "covers {namespace} {name} {unmanaged_nodes} {least} {nodes}",
                    namespace,
                    name,
                    unmanaged_nodes,
                    least,
                    nodes
                )
            }
            _ => wait(object),
        };
        let what = format!("{}/{}", object.kind, object.name);
        let wait = sh!("retry up {namespace} {what} {command}", namespace = namespace(object), what, command);
        if object.kind != "DaemonSet" || workers.is_empty() {
            return wait;
        }
        let (name, workers) = (&object.name, Sh::words(&workers));
        wait + sh!(
            " || { not_up {namespace} {name} {workers}; exit 1; }",
            namespace = namespace(object),
            name,
            workers
        )
    };
    let nodes: Vec<&str> = cx.cluster.nodes.iter().map(|node| node.name.as_str()).collect();
    let nodes = sh!("rollout_nodes={nodes}\n", nodes = nodes.join(" "));
    FUNCTIONS + nodes + Sh::join("\n", running.iter().map(wait))
}

/// The nodes with a fault, as lines of `waiting` report it, and what is wrong there.
pub fn faults<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<(String, String)> {
    let fault = |line: &str| {
        let (what, node) = line.strip_prefix("rollout: ")?.split_once(" is not up on ")?;
        Some((node.to_string(), format!("{what} has no ready pod there")))
    };
    lines.filter_map(fault).collect()
}

/// Shell that makes crashing pods of DaemonSets and Deployments among these try again at once. A kubelet waits up to five
/// minutes, also when the cause of the crashes is long over (kubernetes.io, "Pod Lifecycle"). If that cannot be done, the
/// run still waits for them.
pub fn at_once(running: &[Object]) -> Sh {
    let mut script = FUNCTIONS;
    for object in running {
        if !["DaemonSet", "Deployment"].contains(&object.kind.as_str()) {
            continue;
        }
        let owner = format!("{}/{}", object.kind, object.name);
        script += sh!("dying {namespace} {owner}\n", namespace = namespace(object), owner);
    }
    script
}

fn namespace(object: &Object) -> &str {
    if object.namespace.is_empty() { "default" } else { &object.namespace }
}

fn wait(object: &Object) -> Sh {
    let what = format!("{}/{}", object.kind.to_lowercase(), object.name);
    let how = match object.kind.as_str() {
        "Job" => Sh::raw("wait --for=condition=Complete"),
        _ => Sh::raw("rollout status"),
    };
    let namespace = namespace(object);
    sh!("kubectl -n {namespace} {how} {what} --timeout=5s >/dev/null", namespace, how, what)
}

/// The reason why an object is not available, by its status and the rules of `kubectl rollout status`. `least`: a DaemonSet
/// must be meant for so many Nodes. `nodes`: how many the inventory has. With the unmanaged nodes, there are no more. The
/// status of a DaemonSet still counts a Node that was deleted, for up to five minutes: its controller has no handler for that
/// (kubernetes, pkg/controller/daemon/daemon_controller.go).
fn lacks(object: &Value, unmanaged_nodes: u64, least: u64, nodes: u64) -> Option<String> {
    let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_u64);
    let status = |key: &str| number(&format!("/status/{key}")).unwrap_or(0);
    if text(object, "kind") == "Job" {
        let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
        let is =
            |kind: &str| conditions.into_iter().flatten().any(|c| c["type"] == kind && c["status"] == "True");
        return match (is("Complete"), is("Failed")) {
            (true, _) => None,
            (_, true) => Some("the Job has failed".into()),
            _ => Some("the Job is not complete".into()),
        };
    }
    if status("observedGeneration") < number("/metadata/generation").unwrap_or(0) {
        return Some("its controller has not seen the last change yet".into());
    }
    let (wanted, updated, up) = match text(object, "kind") {
        "DaemonSet" => {
            let meant = status("desiredNumberScheduled");
            if meant < least {
                return Some(format!("selects only {meant} of {least} nodes"));
            }
            let wanted = meant.saturating_sub(unmanaged_nodes).min(nodes);
            (wanted, status("updatedNumberScheduled"), status("numberAvailable"))
        }
        "StatefulSet" => {
            let replicas = number("/spec/replicas").unwrap_or(1);
            (replicas, replicas, status("readyReplicas"))
        }
        _ => (number("/spec/replicas").unwrap_or(1), status("updatedReplicas"), status("availableReplicas")),
    };
    (updated < wanted || up < wanted).then(|| format!("{} of {wanted} available", up.min(updated)))
}

fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object[key].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(object: Value) -> Option<String> {
        lacks(&object, 0, 0, 9)
    }

    #[test]
    fn a_workload_is_available_after_its_last_change() {
        let deployment = |generation: u64, updated: u64, up: u64| {
            said(
                json!({"kind": "Deployment", "metadata": {"generation": generation}, "spec": {"replicas": 2},
                "status": {"observedGeneration": 3, "updatedReplicas": updated, "availableReplicas": up}}),
            )
        };
        assert_eq!(deployment(3, 2, 2), None);
        assert_eq!(deployment(4, 2, 2).as_deref(), Some("its controller has not seen the last change yet"));
        assert_eq!(deployment(3, 1, 2).as_deref(), Some("1 of 2 available"));
        let daemons = json!({"kind": "DaemonSet", "metadata": {}, "status": {"desiredNumberScheduled": 3, "updatedNumberScheduled": 3, "numberAvailable": 2}});
        assert_eq!(said(daemons.clone()).as_deref(), Some("2 of 3 available"));
        assert_eq!(lacks(&daemons, 1, 0, 2), None, "one of the three Nodes is unmanaged");
        assert_eq!(lacks(&daemons, 0, 0, 2), None, "one of the three Nodes has just been deleted");
        assert_eq!(said(json!({"kind": "StatefulSet", "status": {"readyReplicas": 1}})), None);
        let mut up = daemons.clone();
        up["status"]["numberAvailable"] = json!(3);
        assert_eq!((lacks(&up, 0, 3, 3), lacks(&up, 1, 3, 3)), (None, None));
        assert_eq!(
            lacks(&up, 0, 4, 4).as_deref(),
            Some("selects only 3 of 4 nodes"),
            "the pods are available, but one node has none"
        );
    }

    #[test]
    fn a_job_is_available_when_it_is_complete() {
        let job = |condition: &str| {
            said(json!({"kind": "Job", "status": {"conditions": [{"type": condition, "status": "True"}]}}))
        };
        assert_eq!((job("Complete"), job("Failed").as_deref()), (None, Some("the Job has failed")));
        assert_eq!(said(json!({"kind": "Job"})).as_deref(), Some("the Job is not complete"));
    }
}
