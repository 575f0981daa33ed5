//! Pods that ironstrap creates to ask nodes that have none, and deletes after that. ironstrap creates them at the end of a
//! run that changed something. A run that was killed can leave some. The next run deletes them.

use serde_json::Value;

use super::{ALL, sample};
use crate::cluster::{Cluster, Network, Node};
use crate::shell::{DAEMONS, KUBECTL, PACKETS, PODS, SHORT_LIVED, Sh, kubectl, sh};
use crate::step::{Ask, Blame, Object, Verdict, WITH_THE_CLUSTER, Want};

/// The want that all of `nodes` answer the control plane `own`. If there are many nodes, it is about those of the sample
/// and some that the run changed. `None`: there is no node to ask.
pub fn asked(cluster: &Cluster, own: &Node, nodes: &[&Node], changed: &[&Node]) -> Option<Want> {
    let sample: Vec<&Node> = sample(cluster).collect();
    let more = changed.iter().filter(|node| !sample.contains(node)).take(ALL);
    let all = sample.iter().chain(more).filter(|node| nodes.contains(node));
    let targets: Vec<&str> = all.map(|node| node.name.as_str()).collect();
    if cluster.network == Network::None || targets.iter().all(|name| *name == own.name) {
        return None;
    }
    let fix = sh!(
        "{PODS}{DAEMONS}{PACKETS}{KUBECTL}{SHORT_LIVED}ask_nodes {own} {image} {targets}",
        PODS,
        DAEMONS,
        PACKETS,
        KUBECTL,
        SHORT_LIVED,
        own = own.name,
        image = cluster.pause_image(),
        targets = Sh::words(&targets)
    );
    let want = Want::new("connectivity.pod", "a pod answers on each node")
        .run(fix)
        .blame(Blame::Packets)
        .about(targets.iter().map(ToString::to_string));
    Some(want.nothing_to_undo("the pods are deleted at once"))
}

/// The fault of a node where such a pod runs, but does not answer.
pub const SILENT: &str = "a new pod on it does not answer";

/// The node whose pod answered, if a line of that fix says so.
pub fn reached(line: &str) -> Option<&str> {
    let node = line.strip_prefix("packets: pod:")?.strip_suffix(" is reached")?;
    (!node.contains(' ')).then_some(node)
}

/// The nodes with a fault, as lines of that fix report it, and what is wrong there. If no node's pod answers, the node that
/// asks may have the fault.
pub fn faults<'a>(lines: impl Iterator<Item = &'a str> + Clone) -> Vec<(String, String)> {
    let answers = lines.clone().any(|line| reached(line).is_some());
    let fault = |line: &str| {
        let line = line.strip_prefix("packets: ")?;
        if let Some(rest) = line.strip_prefix("no new pod starts on ") {
            let (node, why) = rest.split_once(": ")?;
            return Some((node.to_string(), format!("no new pod starts: {why}")));
        }
        let node = line.strip_prefix("pod:")?.strip_suffix(" is silent").filter(|_| answers)?;
        Some((node.to_string(), SILENT.to_string()))
    };
    lines.filter_map(fault).collect()
}

/// The want that no such pod is left. A pod that is already being deleted needs no fix.
pub(in crate::steps) fn none_left(cluster: &Cluster) -> Want {
    let pod =
        |node: &Node| Object::new("v1", "Pod", "kube-system", &format!("ironstrap-packets-{}", node.name));
    let stays = |pod: &&Value| !pod["metadata"]["deletionTimestamp"].is_string();
    let fix = "kubectl -n kube-system delete pods --wait=false \
               -l app.kubernetes.io/managed-by=ironstrap,app.kubernetes.io/component=packets\n";
    Want::new("bootstrap.probe-pods", "no probe pod of an earlier run is left")
        .ask(Ask::Objects(sample(cluster).map(pod).collect()))
        .judged_objects(move |pods| match pods.iter().flatten().filter(stays).count() {
            0 => Verdict::Holds,
            n => Verdict::Differs { have: format!("probe pods in kube-system: {n}"), want: String::new() },
        })
        .run(kubectl() + fix)
        .nothing_to_undo(WITH_THE_CLUSTER)
}
