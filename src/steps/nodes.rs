//! nodes: every machine is registered as the inventory says, and ready.

use std::collections::BTreeSet;

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::cluster::{Network, Node};
use crate::diagnosis;
use crate::error::Result;
use crate::fleet::Blocked;
use crate::shell::{KUBECTL, Sh, controllers, sh};
use crate::step::{Ask, Cx, Object, Step, Verdict, WITH_THE_CLUSTER, Want, rollout};
use crate::steps::{labels, network, packets};

mod new_pods;
mod webhooks;

pub const STEP: Step =
    Step { name: "nodes", why: "the scheduler places pods only on nodes that are Ready", wants };

fn wants(cx: &Cx) -> Result<Vec<Want>> {
    let mut wants: Vec<Want> = vec![new_pods::want(cx)];
    wants.extend(webhooks::wants(cx));
    for node in &cx.cluster.nodes {
        wants.push(registered(cx, node));
        // If the inventory has no network, nobody knows when the nodes get one.
        if cx.cluster.network != Network::None {
            wants.push(ready(cx, node));
        }
        if matches!(cx.cluster.network, Network::Flannel(_)) {
            wants.push(announced(cx, node));
        }
        wants.push(pressed(cx, node));
        wants.push(takes_pods(node));
    }
    wants.push(unmanaged(cx));
    wants.extend(even(cx));
    let daemons = daemons(cx)?;
    if !daemons.is_empty() {
        let each = each(cx);
        let waiting = rollout::waiting(cx, &daemons, &each);
        let fix = within_the_cluster(cx) + rollout::at_once(&daemons) + waiting;
        let that = "the network runs on every node".to_string();
        wants.push(rollout::available_on_each(cx, "nodes.network", that, daemons, &each).run(fix));
    }
    if cx.cluster.network != Network::None && cx.cluster.has_addon("dns") {
        wants.push(dns(cx));
    }
    Ok(wants)
}

/// The beginning of each fix here. The fix then asks the API server, and waits only as long as waiting helps.
fn within_the_cluster(cx: &Cx) -> Sh {
    diagnosis::fatal_patterns() + KUBECTL + controllers(&cx.node.name)
}

/// Only notes that the node is cordoned or tainted. The person who did that had a reason, and knows when it is over.
fn takes_pods(node: &Node) -> Want {
    let node = node.clone();
    let asks = Ask::Objects(vec![Object::node(&node.name), Object::notes()]);
    Want::new("nodes.schedulable", format!("whether {} accepts new pods", node.name))
        .of(&node.name)
        .ask(asks)
        .judged_objects(move |objects| {
            let (name, taints) = (&node.name, labels::foreign_taints(&node, objects).join(", "));
            let object = objects.first().and_then(Option::as_ref);
            let cordoned =
                format!("{name} is cordoned: it gets no new pods until you run kubectl uncordon {name}");
            let tainted =
                format!("{name} has a taint that keeps pods away and is not in the inventory: {taints}");
            match (
                object.and_then(|node| node.pointer("/spec/unschedulable")) == Some(&Value::Bool(true)),
                taints.is_empty(),
            ) {
                (false, true) => Verdict::Holds,
                (true, true) => Verdict::Noted(cordoned),
                (false, false) => Verdict::Noted(tainted),
                (true, false) => Verdict::Noted(format!("{cordoned}; {tainted}")),
            }
        })
}

/// The conditions, beside `Ready`, that are a problem when they are true, and what you do about them.
const PRESSURE: [(&str, &str); 4] = [
    ("MemoryPressure", "add memory, or move pods to other nodes"),
    ("DiskPressure", "free disk space (df -h; crictl rmi --prune)"),
    ("PIDPressure", "find what starts so many processes (ps -eLf)"),
    ("NetworkUnavailable", "read the log of the network's pod on that node"),
];

/// The want that a node is under no pressure. A node under pressure is Ready, but rejects pods or evicts them (kubernetes.io,
/// "Node-pressure Eviction").
fn pressed(cx: &Cx, node: &Node) -> Want {
    let waits = cx.fleet.before_ready(&node.name);
    let hints = PRESSURE.map(|(name, hint)| format!("{name}: {hint}")).join("; ");
    Want::new("nodes.pressure", format!("{} is under no pressure", node.name))
        .of(&node.name)
        .about([node.name.clone()])
        .ask(Ask::Objects(vec![Object::node(&node.name)]))
        .judged_object(move |node| {
            let have = node.map(pressures).unwrap_or_default();
            let want = "no pressure\n".to_string();
            match &waits {
                _ if have.is_empty() => Verdict::Holds,
                Some(for_what) => Verdict::Waits { have, want, for_what: for_what.clone() },
                None => Verdict::Differs { have, want },
            }
        })
        .by_hand(hints)
}

/// A line for each condition of `PRESSURE` that is true.
fn pressures(node: &Value) -> String {
    let conditions = node.pointer("/status/conditions").and_then(Value::as_array);
    let is = |condition: &&Value| {
        condition["status"] == "True" && PRESSURE.iter().any(|(name, _)| condition["type"] == *name)
    };
    let word = |condition: &Value, key: &str| condition[key].as_str().unwrap_or_default().to_string();
    let line = |condition: &Value| format!("{}: {}\n", word(condition, "type"), word(condition, "message"));
    conditions.into_iter().flatten().filter(is).map(line).collect()
}

/// Only notes Nodes that the inventory does not have. Such a Node may belong to somebody else, or be forgotten.
fn unmanaged(cx: &Cx) -> Want {
    let known: BTreeSet<String> = cx.cluster.nodes.iter().map(|node| node.name.clone()).collect();
    Want::new("nodes.unmanaged", "whether the cluster has Nodes that are not in the inventory")
        .ask(Ask::Nodes)
        .judged(move |answer| {
            let names = answer.lines().filter_map(|line| line.split(' ').next());
            let strange: Vec<&str> = names.filter(|name| !known.contains(*name)).collect();
            match strange.is_empty() {
                true => Verdict::Holds,
                false => {
                    Verdict::Noted(format!("Nodes that are not in the inventory: {}", strange.join(", ")))
                }
            }
        })
}

/// Notes an even number of control planes. The majority of an even number is one more than half. So these members survive no
/// more losses than one member fewer.
fn even(cx: &Cx) -> Option<Want> {
    let n = cx.cluster.control_planes().count();
    let words = format!("{n} control planes tolerate no more failures than {}: use {}", n - 1, n + 1);
    let want =
        Want::new("nodes.even-control-planes", "whether the number of control planes is odd").ask(Ask::Facts);
    n.is_multiple_of(2).then(|| want.judged(move |_| Verdict::Noted(words.clone())))
}

fn about(
    cx: &Cx,
    node: &Node,
    id: &'static str,
    that: String,
    want: String,
    test: impl Fn(&Value) -> (bool, String) + Send + Sync + 'static,
) -> Want {
    let waits = cx.fleet.before_ready(&node.name);
    let asks = Want::new(id, that).of(&node.name).ask(Ask::Objects(vec![Object::node(&node.name)]));
    let want = asks.about([node.name.clone()]).judged_object(move |node| {
        let (holds, have) = node.map_or_else(|| (false, "not registered".into()), &test);
        match &waits {
            _ if holds => Verdict::Holds,
            Some(for_what) => Verdict::Waits { have, want: want.clone(), for_what: for_what.clone() },
            None => Verdict::Differs { have, want: want.clone() },
        }
    });
    want.eventually().nothing_to_undo(WITH_THE_CLUSTER)
}

fn registered(cx: &Cx, node: &Node) -> Want {
    let (ip, version) = (node.ip.to_string(), format!("v{}", cx.cluster.kubernetes));
    let want = format!("{ip}, {version}");
    let test = move |object: &Value| {
        let addresses =
            object.pointer("/status/addresses").and_then(Value::as_array).cloned().unwrap_or_default();
        let internal = addresses.iter().find(|address| address["type"] == "InternalIP");
        let has_ip = internal
            .map_or(String::new(), |address| address["address"].as_str().unwrap_or_default().to_string());
        let has_version =
            object.pointer("/status/nodeInfo/kubeletVersion").and_then(Value::as_str).unwrap_or_default();
        (has_ip == ip && has_version == version, format!("{has_ip}, {has_version}"))
    };
    let name = &node.name;
    about(cx, node, "nodes.registered", format!("{name} is registered as {want}"), want, test).run(sh!(
        "{cluster}registered() {\n  said=$(kubectl get node {name} -o {path}) || return 1\n  case \"$said \" in 'v'{version}' '{ip}' '*) ;; *) return 1 ;; esac\n}\n\
         retry registered ||\n\
         { echo 'the kubelet of '{name}' has not registered; on that node, run: journalctl -u kubelet'; exit 1; }",
        cluster = within_the_cluster(cx),
        name,
        path = r#"jsonpath={.status.nodeInfo.kubeletVersion} {.status.addresses[?(@.type=="InternalIP")].address}"#,
        version = cx.cluster.kubernetes,
        ip = node.ip
    ))
}

/// The want that a node is Ready. If its kubelet started a moment ago, the cluster knows only what the kubelet said before
/// that.
fn ready(cx: &Cx, node: &Node) -> Want {
    let name = &node.name;
    let since = cx.fleet.kubelets.get(name).copied().unwrap_or(0);
    let test = move |object: &Value| {
        let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
        let ready = conditions.into_iter().flatten().find(|condition| condition["type"] == "Ready");
        let word = |key: &str| ready.and_then(|ready| ready[key].as_str());
        let heard = word("lastHeartbeatTime").and_then(|time| OffsetDateTime::parse(time, &Rfc3339).ok());
        match heard.is_some_and(|time| time.unix_timestamp() >= since) {
            _ if ready.is_none() => (false, "it has not reported its state".into()),
            false => (false, "it has not reported since its kubelet started".into()),
            true => (word("status") == Some("True"), word("message").unwrap_or_default().into()),
        }
    };
    about(cx, node, "nodes.ready", format!("{name} is Ready"), "Ready".into(), test)
        .run(within_the_cluster(cx) + HEARD + sh!("retry heard {name} {since}", name, since))
}

/// Defines `heard NODE SECONDS`, which succeeds if the cluster has heard since then that the node is Ready.
const HEARD: &str = r#"heard() {
  kubectl wait --for=condition=Ready "node/$1" --timeout=20s >/dev/null || return 1
  time=$(kubectl get node "$1" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].lastHeartbeatTime}') || return 1
  [ "$(date -d "$time" +%s)" -ge "$2" ] || { echo "$1 has not reported since its kubelet started" >&2; return 1; }
}
"#;

/// The want that flannel announces how to reach the pods of a node. A Node that was created again has another range of pods,
/// and no annotation that says how to reach it. flannel reads the range and writes the annotation only when it starts
/// (flannel, `pkg/subnet/kube`). The same is true of the Node's address.
fn announced(cx: &Cx, node: &Node) -> Want {
    const REACHED_BY: &str = "flannel.alpha.coreos.com/public-ip";
    let (name, ip) = (&node.name, node.ip.to_string());
    let fix = Sh::raw(ANNOUNCED).replaced("NODE", name).replaced("ADDRESS", &ip);
    let test = move |object: &Value| {
        let by = object.pointer("/metadata/annotations").and_then(|all| all[REACHED_BY].as_str());
        let have = by.map_or("flannel does not announce its pods".into(), |by| {
            format!("announced by flannel at {by}")
        });
        (by == Some(ip.as_str()), have)
    };
    about(
        cx,
        node,
        "nodes.announced",
        format!("flannel announces the pods of {name}"),
        format!("announced by flannel at {}", node.ip),
        test,
    )
    .run(within_the_cluster(cx) + fix + "retry announced")
    .invalidates()
}

/// Defines `announced`, which succeeds if flannel announces the node at its address. Otherwise it deletes flannel's pod
/// there, so that a new one starts. A pod that started in the last 20 seconds is still at work and stays, unless the Node was
/// made after that.
const ANNOUNCED: &str = r#"announced() {
  said=$(kubectl get node NODE -o 'jsonpath={.metadata.creationTimestamp} {.metadata.annotations.flannel\.alpha\.coreos\.com/public-ip}') || return 1
  set -- $said
  [ "${2:-}" != ADDRESS ] || return 0
  made=${1:-}
  [ -n "$made" ] || return 1
  echo 'flannel does not announce the pods of' NODE at ADDRESS >&2
  all=$(kubectl -n kube-flannel get pods --field-selector spec.nodeName=NODE -l app=flannel \
    -o 'jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[0].state.running.startedAt}{"\n"}{end}') || return 1
  echo "$all" | while read -r pod started; do
    [ -n "$started" ] || continue
    since=$(date -d "$started" +%s)
    if [ "$since" -lt "$(date -d "$made" +%s)" ] || [ $(($(date +%s) - since)) -gt 20 ]; then
      kubectl -n kube-flannel delete pod "$pod" --wait=false >/dev/null
    fi
  done
  return 1
}
"#;

/// The programs that give each node its network. A kubelet reports its node Ready as soon as the network has left its
/// configuration there. It does so even if that was long ago, and the program that wrote it keeps dying.
fn daemons(cx: &Cx) -> Result<Vec<Object>> {
    let mut all = rollout::running(&network::objects(cx.cluster)?);
    all.extend(proxy(cx));
    Ok(all)
}

/// The programs among these that no node can do without. A manifest of the user's may select Nodes.
fn each(cx: &Cx) -> Vec<Object> {
    let flannel = Object::new("apps/v1", "DaemonSet", "kube-flannel", "flannel");
    let flannel = Some(flannel).filter(|_| matches!(cx.cluster.network, Network::Flannel(_)));
    flannel.into_iter().chain(proxy(cx)).collect()
}

fn proxy(cx: &Cx) -> Option<Object> {
    let proxy = || Object::new("apps/v1", "DaemonSet", "kube-system", "kube-proxy");
    cx.cluster.has_addon("proxy").then(proxy)
}

/// The want that the cluster's DNS answers. Its pods may be on any node. As long as this run is at work on a machine, they
/// may be on that one.
fn dns(cx: &Cx) -> Want {
    let waits = cx.fleet.pending.first().map(|name| Blocked::until(name, "to be repaired"));
    let coredns = Object::new("apps/v1", "Deployment", "kube-system", "coredns");
    let nodes = cx.cluster.nodes.iter();
    Want::new("nodes.dns", "the cluster's DNS answers")
        .ask(Ask::Objects(vec![coredns.clone()]))
        .judged_object(move |deployment| {
            let up = deployment.and_then(|object| object.pointer("/status/availableReplicas")?.as_u64()).unwrap_or(0);
            let refused = deployment.and_then(refused);
            let (have, want) = match refused {
                Some(why) => (format!("the API server refuses a pod of coredns: {why}"), "all replicas of coredns".to_string()),
                None => ("no replica of coredns is available".to_string(), "at least one replica available".to_string()),
            };
            match &waits {
                _ if up > 0 && refused.is_none() => Verdict::Holds,
                Some(for_what) => Verdict::Waits { have, want, for_what: for_what.clone() },
                None => Verdict::Differs { have, want },
            }
        })
        .run(sh!(
            "{cluster}dns_up() {\n{at_once}kubectl -n kube-system wait --for=condition=Available deployment/coredns --timeout=20s >/dev/null\n}\n\
             refused() { kubectl -n kube-system get deployment coredns -o {refused} 2>/dev/null | tr '\\n' ' ' | cut -c 1-400; }\n\
             tries=0\nwhile said=$(refused) && [ -n \"$said\" ]; do\n\
             # The controller waits longer each time. A change of the ReplicaSet makes it try at once.\n\
             [ $((tries % 5)) != 0 ] || for to in =yes -; do\n\
             kubectl -n kube-system annotate replicasets -l k8s-app=kube-dns --overwrite \"ironstrap.dev/again$to\" >/dev/null 2>&1 || :\ndone\n\
             tries=$((tries + 1))\n[ $tries -lt 15 ] || { echo \"reason: $said\"; echo 'by hand: new-pods'; exit 1; }\nrenew_lease\nsleep 1\ndone\n\
             retry dns_up",
            cluster = within_the_cluster(cx),
            at_once = rollout::at_once(&[coredns]),
            refused = r#"jsonpath={.status.conditions[?(@.reason=="FailedCreate")].message}"#
        ))
        .eventually()
        // These machines may also tell why DNS does not answer.
        .about(nodes.filter(|_| cx.cluster.nodes.len() <= packets::ALL).map(|node| node.name.clone()))
        .nothing_to_undo(WITH_THE_CLUSTER)
}

/// The reason why a pod of a Deployment cannot be created, such as a quota (kubernetes, `DeploymentReplicaFailure`). `None`: there
/// is none.
fn refused(deployment: &Value) -> Option<&str> {
    let conditions = deployment.pointer("/status/conditions").and_then(Value::as_array);
    let failure = conditions.into_iter().flatten().find(|it| {
        it["type"] == "ReplicaFailure" && it["status"] == "True" && it["reason"] == "FailedCreate"
    });
    failure?["message"].as_str()
}
