//! Taking one node out of a running cluster: no new pods, then no pods, then no Node. What happens to the machine
//! after that is `backwards`.

use serde_json::Value;

use crate::cluster::{Cluster, Node};
use crate::etcd::{self, ETCD, FORGET};
use crate::shell::{KUBECTL, SERVING, Sh, kubectl, sh};
use crate::step::{Ask, Cx, Id, Object, Step, Verdict, Want};
use crate::steps::{Needs, On, Stage, Via, serving};

/// Who is to go, and at what price.
#[derive(Clone, Debug, PartialEq)]
pub struct Removal {
    pub node: String,
    /// Also pods that nobody would make again, and a machine that does not answer.
    pub force: bool,
    /// How long pods may take to go elsewhere, in seconds.
    pub drain_seconds: u32,
}

const STEP: Step = Step {
    name: "removal",
    why: "its pods go elsewhere before it goes, as far as their disruption budgets let them",
    wants: |_| Ok(vec![]),
};

pub const STAGE: Stage =
    Stage { name: "removal", on: On::ControlPlanes, via: Via::Api, needs: Needs::Nothing, steps: &[STEP] };

/// Shell that deletes what its kubelet asked the cluster to sign. It comes last: a list that breaks off is not asked for twice
/// into the same answer, as `kubectl()` would.
fn requests(cx: &Cx, node: &str) -> Sh {
    match cx.cluster.nodes.iter().any(|node| serving::asks(cx.cluster, node)) {
        true => sh!("\n{KUBECTL}{SERVING}forget_requests {node}", KUBECTL, SERVING, node),
        false => Sh::EMPTY,
    }
}

/// Why a reset takes none of it back.
const FOR_GOOD: &str = "a node that was removed can join again";

/// What is wanted of the cluster, asked on a control plane that stays.
pub fn wants(removal: &Removal, cx: &Cx) -> Vec<(&'static Step, Want)> {
    let node = &removal.node;
    // Nobody can end the pods of a machine that is gone; they go with the Node.
    let gone = removal.force && cx.fleet.absent.contains(node);
    let mut wants = vec![unmanaged(removal, gone), cordoned(node), drained(removal, cx.cluster, gone)];
    // etcd itself says whether it has to let a worker go: the machine could say anything.
    match cx.cluster.node(node) {
        Some(plane) if plane.is_control_plane() => {
            wants.insert(0, majority(plane));
            wants.push(forgotten(plane));
        }
        Some(worker) => wants.insert(0, no_member(worker)),
        None => {}
    }
    wants.push(
        Want::new("remove.node-object", format!("{node} is no Node of {}", cx.cluster.name))
            .asks(Ask::Objects(vec![Object::node(node)]))
            .judged(registered)
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

/// What stands in the way where a want that only people can bring about is not so.
pub fn refusal(id: &Id) -> &'static str {
    match id.name {
        QUORUM => "etcd would lose its majority, and the cluster with it",
        WORKER_IN_ETCD => "is a member of etcd, and the inventory says worker",
        _ => "runs pods that nobody would make again",
    }
}

/// Without a majority etcd takes no more writes, not even those that would help (etcd's documentation, "FAQ").
fn majority(plane: &Node) -> Want {
    let (name, ip) = (plane.name.clone(), plane.ip);
    Want::new(QUORUM, format!("etcd keeps its majority without {name}"))
        .asks(Ask::api_in_turn(etcd::well()))
        .judged(move |answer| match etcd::needs(answer, &name, ip) {
            Ok(None) => Verdict::Holds,
            Ok(Some(why)) | Err(why) => Verdict::Differs { have: why, want: String::new() },
        })
        .by_hand(
            "bring the others back first: `ironstrap status` says how they are, `ironstrap apply` mends them",
        )
}

/// Told before its machine is taken down: a member that etcd goes on counting is one that it misses.
fn forgotten(plane: &Node) -> Want {
    let (name, ip) = (plane.name.clone(), plane.ip);
    Want::new("remove.etcd-member", format!("etcd has no member on {name}"))
        .asks(Ask::api_in_turn(ETCD + etcd::MEMBERS))
        .judged(move |answer| match etcd::members(answer) {
            Some(all) if !all.iter().any(|member| member.is_of(&name, ip)) => Verdict::Holds,
            Some(_) => Verdict::Differs { have: "a member".into(), want: String::new() },
            None => Verdict::Differs { have: answer.into(), want: String::new() },
        })
        .run(ETCD + FORGET + sh!("patiently forget {name} {ip}", name = plane.name, ip))
}

/// A control plane that the inventory calls a worker would leave etcd with a voice to count and nobody behind it.
fn no_member(worker: &Node) -> Want {
    let (name, ip) = (worker.name.clone(), worker.ip);
    Want::new(WORKER_IN_ETCD, format!("etcd has no member on the worker {name}"))
        .asks(Ask::api_in_turn(ETCD + etcd::MEMBERS))
        .judged(move |answer| match etcd::members(answer) {
            Some(all) if !all.iter().any(|member| member.is_of(&name, ip)) => Verdict::Holds,
            Some(_) => Verdict::Differs { have: "a member".into(), want: String::new() },
            None => Verdict::Unknown(answer.into()),
        })
        .by_hand("put role = \"control-plane\" back, and run it again")
}

fn registered(answer: &str) -> Verdict {
    match answer {
        "absent" => Verdict::Holds,
        _ => Verdict::Differs { have: "registered".into(), want: String::new() },
    }
}

fn cordoned(node: &str) -> Want {
    Want::new("remove.cordon", format!("{node} takes no new pods"))
        .asks(Ask::Objects(vec![Object::node(node)]))
        .judged(|answer| {
            let object: Value = serde_json::from_str(answer).unwrap_or(Value::Null);
            match object.is_null() || object.pointer("/spec/unschedulable") == Some(&Value::Bool(true)) {
                true => Verdict::Holds,
                false => Verdict::Differs { have: "schedulable".into(), want: "cordoned".into() },
            }
        })
        .run(kubectl() + sh!("kubectl cordon -- {node}", node))
}

/// Prints the pods of a node, a line each: name, owners, whether the kubelet itself made it, whether it has volumes that end
/// with it. `phase`: of these phases alone. A tenant chooses the annotations and the kinds of owners, and a kubelet the phase. The
/// first two come as JSON, which keeps them on their line, and has no quote in a text without a backslash. kubectl sorts the keys.
fn pods(node: &str, phase: &'static str, filter: &'static str) -> Ask {
    let ask = Sh::raw(
        r#"[ -e /etc/kubernetes/admin.conf ] && [ -e /etc/kubernetes/manifests/kube-apiserver.yaml ] || { echo 'not here'; exit 0; }
pods=$(kubectl get pods -A --request-timeout=10s --field-selector spec.nodeName=NODEPHASE -o 'jsonpath={range .items[*]}{.metadata.namespace}/{.metadata.name}{"\t"}{.metadata.ownerReferences}{"\t"}{.metadata.annotations}{"\t"}{range .spec.volumes[?(@.emptyDir)]}{.name} {end}{"\n"}{end}')
echo "$pods" | awk -F '\t' 'NF == 4 && $2 !~ /"controller":true,"kind":"DaemonSet","/ && $3 !~ /[{,]"kubernetes.io\/config.mirror":"/ FILTER { print $1 ($4 == "" ? "" : "  (loses what it keeps in emptyDir: " $4 ")") }' | sort"#,
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
    Want::new("remove.bare-pods", format!("no pod of {node} is one that nobody would make again"))
        .asks(pods(
            node,
            ",status.phase!=Succeeded,status.phase!=Failed",
            r#"&& $2 !~ /"controller":true,"kind":"/"#,
        ))
        .judged(none_left(gone || force, ""))
        .by_hand("save what they are for and delete them, or say --force and they are deleted")
}

/// Says which pods are deleted, and stay for what somebody else has to do first.
const STUCK: &str = r#"stuck() {
  kubectl get pods -A --request-timeout=10s --field-selector spec.nodeName="$NODE" -o 'jsonpath={range .items[?(@.metadata.deletionTimestamp)]}{.metadata.namespace}{" "}{.metadata.name}{" "}{.metadata.finalizers}{"\n"}{end}' |
    while read -r namespace pod finalizers; do
      [ -n "$finalizers" ] || continue
      echo "reason: pod $namespace/$pod is deleted, and stays for its finalizers $finalizers"
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
             echo 'they may have nowhere to go, or a PodDisruptionBudget of '{cluster}' keeps them: kubectl get pdb -A'; exit 1; }",
            drain_seconds,
            force,
            node,
            cluster = cluster.name
        );
    Want::new("remove.drain", format!("no pods run on {node} that belong elsewhere"))
        .asks(pods(node, "", ""))
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
    use crate::pki::Trust;
    use crate::plan::{self, Change, State};
    use crate::probe::Answer;
    use crate::shell::PRELUDE;

    #[test]
    fn no_annotation_of_a_tenant_hides_a_pod_from_a_drain() {
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
        assert!(script.contains("{.metadata.annotations}"), "JSON has no line break: {script}");
    }

    /// What each shell makes of these lines of kubectl.
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
    fn no_owner_of_a_tenants_pod_hides_it_or_forges_another_one() {
        let removal = Removal { node: "w1".into(), force: false, drain_seconds: 1 };
        let want = unmanaged(&removal, false);
        let unmanaged = want.ask.shell().unwrap();
        let drained = pods("w1", "", "").shell().unwrap().to_string();
        for script in [&unmanaged.to_string(), &drained] {
            assert!(script.contains("{.metadata.ownerReferences}{\"\\t\"}"), "{script}");
            assert!(!script.contains("{.status.phase}"), "a kubelet writes it: {script}");
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

    /// What is to be done about etcd for a node, by what a control plane says of etcd's members, and its own machine of itself.
    fn about_etcd(node: &Node, has: &[&str], members: &str) -> Vec<Change> {
        let cluster = crate::pki::tests::cluster();
        let trust = Trust::make(&cluster, crate::pki::tests::NOW).unwrap();
        let machine = Machine { has: has.iter().map(|has| has.to_string()).collect(), ..Machine::default() };
        let machines = [(node.name.as_str(), &machine)].into();
        let fleet = Fleet::see(&cluster, &machines);
        let (speaker, now) = (cluster.control_planes().next().unwrap(), OffsetDateTime::UNIX_EPOCH);
        let cx =
            Cx { cluster: &cluster, node: speaker, trust: &trust, now, machine: &machine, fleet: &fleet };
        let removal = Removal { node: node.name.clone(), force: false, drain_seconds: 1 };
        let wants = wants(&removal, &cx);
        let wants: Vec<_> = wants.iter().filter(|(_, want)| want.id.name.contains("etcd")).collect();
        assert!(!wants.is_empty());
        let answer = Answer::Said(members.into());
        let judged: Vec<_> = wants.iter().map(|(step, want)| (*step, want, &answer)).collect();
        plan::changes(&judged, &mut BTreeSet::new())
    }

    fn list(nodes: &[&Node]) -> String {
        let one = |node: &&Node| {
            let (name, ip) = (&node.name, node.ip);
            serde_json::json!({"name": name, "peerURLs": [format!("https://{ip}:2380")], "clientURLs": [format!("https://{ip}:2379")]})
        };
        serde_json::json!({"members": nodes.iter().map(one).collect::<Vec<_>>()}).to_string()
    }

    #[test]
    fn etcd_says_whether_it_has_to_let_a_worker_go() {
        let cluster = crate::pki::tests::cluster();
        let planes: Vec<&Node> = cluster.control_planes().collect();
        let worker = cluster.nodes.iter().find(|node| !node.is_control_plane()).unwrap();
        // A worker's own traces of a control plane change nothing.
        for has in [&[][..], &["client-certificate", "etcd", "manifests/kube-apiserver.yaml"]] {
            assert_eq!(about_etcd(worker, has, &list(&planes)), []);
            let all = [&planes[..], &[worker]].concat();
            let changes = about_etcd(worker, has, &list(&all));
            assert_eq!(changes.len(), 1, "{changes:?}");
            assert_eq!(changes[0].state, State::ByHand);
            assert_eq!(refusal(&changes[0].id), "is a member of etcd, and the inventory says worker");
            let changes = about_etcd(worker, has, "no etcd");
            assert!(matches!(changes[0].state, State::Unknown { .. }), "unknown is not absent: {changes:?}");
        }
        // Of a control plane etcd forgets its member.
        let changes = about_etcd(planes[0], &[], &list(&planes));
        assert!(changes.iter().any(|change| change.id.name == "remove.etcd-member"), "{changes:?}");
    }
}
