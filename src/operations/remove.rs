//! Takes one node out of a running cluster: first no new pods, then no pods, then no Node. `reset` decides what
//! happens to the machine after that.

use std::net::IpAddr;

use serde_json::Value;

use crate::cluster::{Cluster, Node};
use crate::etcd::{self, ETCD, REMOVE_MEMBER};
use crate::shell::{KUBECTL, SERVING, Sh, kubectl, sh};
use crate::step::{Ask, Cx, Id, Object, Step, Verdict, Want};
use crate::steps::{Needs, On, Stage, Via, serving};

/// The node to remove, and what the operator accepts for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Removal {
    pub node: String,
    /// Whether to remove the node even if it runs pods that nobody would make again, or its machine does not answer.
    pub force: bool,
    /// How long pods may take to leave the node, in seconds.
    pub drain_seconds: u32,
}

const STEP: Step = Step {
    name: "removal",
    why: "pods move to other nodes before the node leaves, within their disruption budgets",
    wants: |_| Ok(vec![]),
};

pub const STAGE: Stage =
    Stage { name: "removal", on: On::ControlPlanes, via: Via::Api, needs: Needs::Nothing, steps: &[STEP] };

/// Shell that deletes what the node's kubelet asked the cluster to sign. It comes last, because it replaces the function
/// `kubectl` by one without retries. With retries, as in `kubectl()`, a list that breaks off would be twice in the same answer.
fn requests(cx: &Cx, node: &str) -> Sh {
    match cx.cluster.nodes.iter().any(|node| serving::asks(cx.cluster, node)) {
        true => sh!("\n{KUBECTL}{SERVING}forget_requests {node}", KUBECTL, SERVING, node),
        false => Sh::EMPTY,
    }
}

/// Why a reset does not undo a removal.
const FOR_GOOD: &str = "a node that was removed can join again";

/// The wants of a removal. ironstrap asks them on a control plane that stays.
pub fn wants(removal: &Removal, cx: &Cx) -> Vec<(&'static Step, Want)> {
    let node = &removal.node;
    // Nobody can end the pods of a machine that does not answer. They go with the Node.
    let gone = removal.force && cx.fleet.unreachable.contains(node);
    let mut wants = vec![unmanaged(removal, gone), cordoned(node), drained(removal, cx.cluster, gone)];
    // etcd itself says whether it has a member on a worker, because the worker's machine could say anything.
    match cx.cluster.node(node) {
        Some(plane) if plane.is_control_plane() => {
            wants.insert(0, majority(plane));
            wants.push(forgotten(plane));
        }
        Some(worker) => wants.insert(0, no_member(worker)),
        None => {}
    }
    wants.push(
        Want::new("remove.node-object", format!("{node} is not a Node of {}", cx.cluster.name))
            .ask(Ask::Objects(vec![Object::node(node)]))
            .judged_object(registered)
            .run(
                kubectl()
                    + sh!("kubectl delete node --ignore-not-found -- {node}", node)
                    + requests(cx, node),
            ),
    );
    wants
        .into_iter()
        .map(|want| (&STAGE.steps[0], want.about([node.clone()]).nothing_to_undo(FOR_GOOD)))
        .collect()
}

const QUORUM: &str = "remove.etcd-quorum";
const WORKER_IN_ETCD: &str = "remove.worker-in-etcd";

/// Why a removal is refused, if a want that only people can fix does not hold.
pub fn refusal(id: &Id) -> &'static str {
    match id.name {
        QUORUM => "etcd would lose its majority, and the cluster would stop",
        WORKER_IN_ETCD => "is a member of etcd, but the inventory says worker",
        _ => "runs pods without a controller",
    }
}

/// The want that etcd keeps its majority without this control plane. Without a majority, etcd takes no more
/// writes, not even those that would help (etcd's documentation, "FAQ").
fn majority(plane: &Node) -> Want {
    let (name, ip) = (plane.name.clone(), plane.ip);
    Want::new(QUORUM, format!("etcd keeps its majority without {name}"))
        .ask(Ask::api_in_turn(etcd::health()))
        .judged_presence(move |answer| {
            let loss = answer.map_or(Err(NO_ETCD.into()), |answer| etcd::quorum_loss(answer, &name, ip));
            match loss {
                Ok(None) => Verdict::Holds,
                Ok(Some(why)) | Err(why) => Verdict::Differs { have: why, want: String::new() },
            }
        })
        .by_hand(
            "repair the other control planes first: `ironstrap status` shows them, `ironstrap apply` repairs them",
        )
}

/// The want that etcd has no member on this control plane. Its fix runs before the machine is taken down.
/// Otherwise etcd would go on counting a member that it misses.
fn forgotten(plane: &Node) -> Want {
    let (name, ip) = (plane.name.clone(), plane.ip);
    Want::new("remove.etcd-member", format!("etcd has no member on {name}"))
        .ask(Ask::api_in_turn(etcd::ask(etcd::MEMBERS)))
        .judged_presence(move |list| no_member_of(list, &name, ip))
        .run(ETCD + REMOVE_MEMBER + sh!("retry remove_member {name} {ip}", name = plane.name, ip))
}

/// The want that etcd has no member on this worker. If the machine is really a control plane, etcd would go on
/// counting its vote after the removal.
fn no_member(worker: &Node) -> Want {
    let (name, ip) = (worker.name.clone(), worker.ip);
    Want::new(WORKER_IN_ETCD, format!("etcd has no member on the worker {name}"))
        .ask(Ask::api_in_turn(etcd::ask(etcd::MEMBERS)))
        .judged_presence(move |list| no_member_of(list, &name, ip))
        .by_hand("set role = \"control-plane\" in the inventory again, and run the command again")
}

/// Why a control plane that stays cannot tell the members of etcd.
const NO_ETCD: &str = "no etcd runs on the control plane that was asked";

/// The verdict on a list of etcd's members, which must not have this machine. Without a list, nobody knows.
fn no_member_of(list: Option<&str>, name: &str, ip: IpAddr) -> Verdict {
    match list.map(|list| (etcd::members(list), list)) {
        Some((Some(all), _)) if !all.iter().any(|member| member.is_of(name, ip)) => Verdict::Holds,
        Some((Some(_), _)) => Verdict::Differs { have: "a member".into(), want: String::new() },
        Some((None, list)) => Verdict::Unknown(list.into()),
        None => Verdict::Unknown(NO_ETCD.into()),
    }
}

fn registered(node: Option<&Value>) -> Verdict {
    match node {
        None => Verdict::Holds,
        Some(_) => Verdict::Differs { have: "registered".into(), want: String::new() },
    }
}

fn cordoned(node: &str) -> Want {
    Want::new("remove.cordon", format!("{node} takes no new pods"))
        .ask(Ask::Objects(vec![Object::node(node)]))
        .judged_object(|object| match object.map(|object| object.pointer("/spec/unschedulable")) {
            None | Some(Some(Value::Bool(true))) => Verdict::Holds,
            _ => Verdict::Differs { have: "schedulable".into(), want: "cordoned".into() },
        })
        .run(kubectl() + sh!("kubectl cordon -- {node}", node))
}

/// Asks for the pods of a node, a line each, without those of DaemonSets and those that the kubelet itself made. kubectl
/// prints for each pod its name, its owners, its annotations and its volumes that end with it. An annotation says whether
/// the kubelet itself made the pod. `phase` limits the list to some phases, and `filter` is a further condition. A tenant
/// chooses the annotations and the kinds of owners, and a kubelet chooses the phase. Owners and annotations come as JSON,
/// which keeps them on their line. In JSON, each quote within a text has a backslash before it. kubectl sorts the keys.
fn pods(node: &str, phase: &'static str, filter: &'static str) -> Ask {
    let ask = Sh::raw(
        r#"[ -e /etc/kubernetes/admin.conf ] && [ -e /etc/kubernetes/manifests/kube-apiserver.yaml ] || not_here
pods=$(kubectl get pods -A --request-timeout=10s --field-selector spec.nodeName=NODEPHASE -o 'jsonpath={range .items[*]}{.metadata.namespace}/{.metadata.name}{"\t"}{.metadata.ownerReferences}{"\t"}{.metadata.annotations}{"\t"}{range .spec.volumes[?(@.emptyDir)]}{.name} {end}{"\n"}{end}')
echo "$pods" | awk -F '\t' 'NF == 4 && $2 !~ /"controller":true,"kind":"DaemonSet","/ && $3 !~ /[{,]"kubernetes.io\/config.mirror":"/ FILTER { print $1 ($4 == "" ? "" : "  (loses its data in emptyDir: " $4 ")") }' | sort"#,
    );
    Ask::api(
        KUBECTL
            + ask
                .replaced("PHASE", Sh::raw(phase))
                .replaced("NODE", node)
                .replaced("FILTER", Sh::raw(filter)),
    )
}

fn none_left(gone: bool, want: &'static str) -> impl Fn(&str) -> Verdict + Send + Sync + 'static {
    move |pods| match gone || pods.trim().is_empty() {
        true => Verdict::Holds,
        false => Verdict::Differs { have: format!("{}\n", pods.trim_end()), want: want.into() },
    }
}

fn unmanaged(removal: &Removal, gone: bool) -> Want {
    let (node, force) = (&removal.node, removal.force);
    Want::new("remove.bare-pods", format!("every pod of {node} has a controller"))
        .ask(pods(
            node,
            ",status.phase!=Succeeded,status.phase!=Failed",
            r#"&& $2 !~ /"controller":true,"kind":"/"#,
        ))
        .judged(none_left(gone || force, ""))
        .by_hand("save what you need of them and delete them, or use --force to delete them")
}

/// Defines the shell function `stuck`. It says which pods are deleted, but stay because somebody else has to do something first.
const STUCK: &str = r#"stuck() {
  kubectl get pods -A --request-timeout=10s --field-selector spec.nodeName="$NODE" -o 'jsonpath={range .items[?(@.metadata.deletionTimestamp)]}{.metadata.namespace}{" "}{.metadata.name}{" "}{.metadata.finalizers}{"\n"}{end}' |
    while read -r namespace pod finalizers; do
      [ -n "$finalizers" ] || continue
      echo "reason: pod $namespace/$pod is being deleted, but its finalizers keep it: $finalizers"
      echo "by hand: finalizers"
    done
}
"#;

fn drained(removal: &Removal, cluster: &Cluster, gone: bool) -> Want {
    let Removal { node, force, drain_seconds } = removal;
    let force = Sh::raw(if *force { " --force" } else { "" });
    let drain = kubectl()
        + sh!("NODE={node}\n", node)
        + STUCK
        + sh!(
            "kubectl drain --ignore-daemonsets --delete-emptydir-data --timeout={drain_seconds}s{force} -- {node} || {\n  stuck\n  \
             echo 'other nodes may have no room for these pods, or a PodDisruptionBudget of '{cluster}' keeps them: kubectl get pdb -A'; exit 1; }",
            drain_seconds,
            force,
            node,
            cluster = cluster.name
        );
    Want::new("remove.drain", format!("only pods of DaemonSets and static pods run on {node}"))
        .ask(pods(node, "", ""))
        .judged(none_left(gone, ""))
        .run_as_unit("drain", drain_seconds / 60 + 2, drain)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use time::OffsetDateTime;

    use super::*;
    use crate::fleet::Fleet;
    use crate::machine::Machine;
    use crate::pki::ClusterPki;
    use crate::plan::{self, Change, State};
    use crate::shell::PRELUDE;
    use crate::step::Answer;

    #[test]
    fn an_annotation_cannot_hide_a_pod_from_the_drain() {
        let script = pods("w1", "", "").shell().unwrap().to_string();
        let (_, reads) = script.split_once("\necho \"$pods\" | ").unwrap();
        let pod = |name: &str, annotations: &str| format!("shop/{name}\t\t{annotations}\t\n");
        let lines = pod("static", r#"{"a":"b","kubernetes.io/config.mirror":"1"}"#)
            + &pod("plain", "")
            + &pod("blog", r#"{"note":"a\nb\tc\"d","kubernetes.io/config.mirror/":"1"}"#)
            + &pod(
                "web",
                r#"{"x":"{\"kubernetes.io/config.mirror\":\"1\"}","y":",\"kubernetes.io/config.mirror\":\"1\""}"#,
            );
        assert_eq!(read(reads, &lines), "shop/blog\nshop/plain\nshop/web\n");
        assert!(
            script.contains("{.metadata.annotations}"),
            "the script prints annotations as JSON, which has no line breaks: {script}"
        );
    }

    /// Runs the end of the script on these lines of kubectl. sh and bash must print the same.
    fn read(reads: &str, lines: &str) -> String {
        let run = format!("{PRELUDE}pods=$1; echo \"$pods\" | {reads}");
        let said = ["sh", "bash"].map(|shell| {
            let output = std::process::Command::new(shell).args(["-c", &run, "sh", lines]).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        });
        assert_eq!(said[0], said[1]);
        said[0].clone()
    }

    #[test]
    fn an_owner_reference_cannot_hide_or_forge_a_pod() {
        let removal = Removal { node: "w1".into(), force: false, drain_seconds: 1 };
        let want = unmanaged(&removal, false);
        let unmanaged = want.ask.shell().unwrap();
        let drained = pods("w1", "", "").shell().unwrap().to_string();
        for script in [&unmanaged.to_string(), &drained] {
            assert!(script.contains("{.metadata.ownerReferences}{\"\\t\"}"), "{script}");
            assert!(
                !script.contains("{.status.phase}"),
                "a kubelet writes the phase, so the script must not use it: {script}"
            );
        }
        assert!(unmanaged.contains("spec.nodeName=w1,status.phase!=Succeeded,status.phase!=Failed -o"));
        let pod = |name: &str, kind: &str, controller: bool| {
            let mut owner =
                serde_json::json!({"apiVersion": "apps/v1", "kind": kind, "name": "x", "uid": "9"});
            if controller {
                owner["controller"] = true.into();
            }
            format!("shop/{name}\t{}\t\t\n", serde_json::json!([owner]))
        };
        let lines = pod("daemon", "DaemonSet", true)
            + &pod("owned", "ReplicaSet", true)
            + &pod("loose", "DaemonSet", false)
            + &pod("odd", "x\nshop/forged\t\t\t\ny", true)
            + &pod("hides", "x\",\"controller\":true,\"kind\":\"DaemonSet\",\"", false);
        let reads = |script: &str| script.split_once("\necho \"$pods\" | ").unwrap().1.to_string();
        assert_eq!(read(&reads(&drained), &lines), "shop/hides\nshop/loose\nshop/odd\nshop/owned\n");
        assert_eq!(read(&reads(unmanaged), &lines), "shop/hides\nshop/loose\n");
    }

    /// The changes about etcd when a node is removed. `members` is a control plane's list of the etcd members.
    /// `has` lists the traces that the node's own machine reports.
    fn about_etcd(node: &Node, has: &[&str], members: Answer) -> Vec<Change> {
        let cluster = crate::pki::tests::cluster();
        let pki = ClusterPki::make(&cluster, crate::pki::tests::NOW).unwrap();
        let machine = Machine { has: has.iter().map(|has| has.to_string()).collect(), ..Machine::default() };
        let machines = [(node.name.as_str(), &machine)].into();
        let fleet = Fleet::see(&cluster, &machines);
        let (speaker, now) = (cluster.control_planes().next().unwrap(), OffsetDateTime::UNIX_EPOCH);
        let cx = Cx { cluster: &cluster, node: speaker, pki: &pki, now, machine: &machine, fleet: &fleet };
        let removal = Removal { node: node.name.clone(), force: false, drain_seconds: 1 };
        let wants = wants(&removal, &cx);
        let wants: Vec<_> = wants.iter().filter(|(_, want)| want.id.name.contains("etcd")).collect();
        assert!(!wants.is_empty());
        let judged: Vec<_> = wants.iter().map(|(step, want)| (*step, want, &members)).collect();
        plan::changes(&judged, &mut BTreeSet::new())
    }

    fn list(nodes: &[&Node]) -> Answer {
        let one = |node: &&Node| {
            let (name, ip) = (&node.name, node.ip);
            serde_json::json!({"name": name, "peerURLs": [format!("https://{ip}:2380")], "clientURLs": [format!("https://{ip}:2379")]})
        };
        Answer::Said(serde_json::json!({"members": nodes.iter().map(one).collect::<Vec<_>>()}).to_string())
    }

    #[test]
    fn etcd_decides_whether_a_worker_is_its_member() {
        let cluster = crate::pki::tests::cluster();
        let planes: Vec<&Node> = cluster.control_planes().collect();
        let worker = cluster.nodes.iter().find(|node| !node.is_control_plane()).unwrap();
        // Traces of a control plane that a worker itself reports change nothing.
        for has in [&[][..], &["client-certificate", "etcd", "manifests/kube-apiserver.yaml"]] {
            assert_eq!(about_etcd(worker, has, list(&planes)), []);
            let all = [&planes[..], &[worker]].concat();
            let changes = about_etcd(worker, has, list(&all));
            assert_eq!(changes.len(), 1, "{changes:?}");
            assert_eq!(changes[0].state, State::ByHand);
            assert_eq!(refusal(&changes[0].id), "is a member of etcd, but the inventory says worker");
            for nothing in [Answer::Absent, Answer::Said("unavailable".into())] {
                let changes = about_etcd(worker, has, nothing);
                assert!(matches!(changes[0].state, State::Unknown { .. }), "{changes:?}");
            }
        }
        // If the node is a control plane, etcd forgets its member.
        let changes = about_etcd(planes[0], &[], list(&planes));
        assert!(changes.iter().any(|change| change.id.name == "remove.etcd-member"), "{changes:?}");
    }
}
