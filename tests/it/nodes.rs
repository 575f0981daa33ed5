//! When a node counts as ready: its status must be newer than its kubelet's start, and the network must run on it.
//! ironstrap does not wait for a node with a fault.

use ironstrap::fleet::Fleet;
use ironstrap::machine::Machine;
use ironstrap::step::{Cx, Fix, Object, Verdict, Want, rollout};
use time::OffsetDateTime;

use crate::support::{self, owner};

const NETWORK: &str = "nodes.network";

/// A want of step nodes.
fn want(id: &str, fleet: &Fleet) -> Want {
    let cluster = support::lab();
    let (pki, machine) = (support::pki(&cluster), Machine::default());
    let about = (&machine, fleet);
    let wants = support::wants((&cluster, &cluster.nodes[0]), &pki, about, OffsetDateTime::now_utc());
    wants.into_iter().find(|(_, step, want)| *step == "nodes" && want.id.to_string() == id).unwrap().2
}

/// The verdict of a want of step nodes about this answer.
fn said(id: &str, fleet: &Fleet, answer: &str) -> Verdict {
    support::verdict(&want(id, fleet), answer)
}

fn lacks(verdict: Verdict) -> String {
    match verdict {
        Verdict::Holds => String::new(),
        Verdict::Differs { have, .. } | Verdict::Unconfirmed { have, .. } => have,
        Verdict::Waits { for_what, .. } => format!("waits for {for_what}"),
        Verdict::Noted(words) | Verdict::Unknown(words) | Verdict::Unchecked(words) => panic!("{words}"),
    }
}

#[test]
fn a_node_status_from_before_the_kubelet_started_is_ignored() {
    let since = OffsetDateTime::parse("2026-11-21T10:00:05Z", &time::format_description::well_known::Rfc3339);
    let fleet =
        Fleet { kubelets: [("w1".into(), since.unwrap().unix_timestamp())].into(), ..Fleet::default() };
    let node = |status: &str, time: &str| {
        let ready = format!(
            r#"{{"type":"Ready","status":"{status}","lastHeartbeatTime":"{time}","message":"said"}}"#
        );
        lacks(said("nodes.ready[w1]", &fleet, &format!(r#"{{"status":{{"conditions":[{ready}]}}}}"#)))
    };
    assert_eq!(node("True", "2026-11-21T10:00:05Z"), "");
    assert_eq!(node("True", "2026-11-21T10:00:04Z"), "it has not reported since its kubelet started");
    assert_eq!(node("True", "?"), "it has not reported since its kubelet started");
    assert_eq!(node("False", "2026-11-21T10:00:06Z"), "said");
    assert_eq!(lacks(said("nodes.ready[w1]", &fleet, r#"{"status":{}}"#)), "it has not reported its state");
}

#[test]
fn a_node_under_pressure_is_named_with_the_reason() {
    const PRESSURE: &str = "nodes.pressure[w1]";
    let node = |kind: &str, status: &str| {
        format!(
            r#"{{"status":{{"conditions":[{{"type":"Ready","status":"True"}},{{"type":"{kind}","status":"{status}","message":"said"}}]}}}}"#
        )
    };
    for kind in ["MemoryPressure", "DiskPressure", "PIDPressure", "NetworkUnavailable"] {
        let have = lacks(said(PRESSURE, &Fleet::default(), &node(kind, "True")));
        assert_eq!(have, format!("{kind}: said\n"));
        assert_eq!(lacks(said(PRESSURE, &Fleet::default(), &node(kind, "False"))), "");
    }
    assert_eq!(
        lacks(said(PRESSURE, &Fleet::default(), &node("Other", "True"))),
        "",
        "other conditions are ignored"
    );
    assert_eq!(
        lacks(said(PRESSURE, &Fleet::default(), "absent")),
        "",
        "another want reports the missing Node"
    );
    let Fix::ByHand(hint) = want(PRESSURE, &Fleet::default()).fix else { panic!("no fix makes room") };
    assert!(hint.contains("DiskPressure: "), "{hint}");
    let quarantined = Fleet { quarantined: ["w1".to_string()].into(), ..Fleet::default() };
    assert_eq!(
        lacks(said(PRESSURE, &quarantined, &node("DiskPressure", "True"))),
        "waits for w1 to be repaired"
    );
}

#[test]
fn the_network_is_up_when_it_runs_on_every_node() {
    let set = |up: u64| {
        format!(
            r#"{{"kind":"DaemonSet","status":{{"desiredNumberScheduled":3,"updatedNumberScheduled":3,"numberAvailable":{up}}}}}"#
        )
    };
    let fleet = Fleet::default();
    assert_eq!(lacks(said(NETWORK, &fleet, &format!("{}\n{}\n", set(3), set(3)))), "");
    let lacking = lacks(said(NETWORK, &fleet, &format!("{}\n{}\n", set(3), set(2))));
    assert_eq!(lacking, "DaemonSet kube-system/kube-proxy: 2 of 3 available\n");
    assert!(lacks(said(NETWORK, &fleet, &set(3))).ends_with("kube-proxy: missing\n"));
    let fewer = set(2).replace("Scheduled\":3", "Scheduled\":2");
    let lacking = lacks(said(NETWORK, &fleet, &format!("{fewer}\n{fewer}\n")));
    assert_eq!(
        lacking,
        "DaemonSet kube-flannel/flannel: selects only 2 of 3 nodes\nDaemonSet kube-system/kube-proxy: selects only 2 of 3 nodes\n"
    );
}

#[test]
fn wants_that_need_a_faulty_node_are_pending() {
    let w2 = || ["w2".to_string()].into();
    let fleets = [
        (Fleet { quarantined: w2(), ..Fleet::default() }, "waits for w2 to be repaired"),
        (Fleet { pending: w2(), ..Fleet::default() }, "waits for w2 to be repaired"),
        (Fleet { unreachable: w2(), quarantined: w2(), ..Fleet::default() }, "waits for w2 to answer"),
        (Fleet { joining: w2(), ..Fleet::default() }, "waits for w2 to join"),
        (Fleet { unregistered: w2(), ..Fleet::default() }, "waits for w2 to register"),
    ];
    for (fleet, words) in fleets {
        assert_eq!(lacks(said(NETWORK, &fleet, "")), words);
        assert_eq!(lacks(said("nodes.ready[w2]", &fleet, "absent")), words);
        assert!(!lacks(said("nodes.ready[w1]", &fleet, "absent")).starts_with("waits"));
    }
}

#[test]
fn dns_is_expected_once_its_nodes_are_repaired() {
    const DNS: &str = "nodes.dns";
    let fleet = |unmended: &[&str]| Fleet {
        pending: unmended.iter().map(|name| name.to_string()).collect(),
        ..Fleet::default()
    };
    let up = r#"{"status":{"availableReplicas":1}}"#;
    assert_eq!(lacks(said(DNS, &fleet(&["w1", "w2"]), "absent")), "waits for w1 to be repaired");
    assert_eq!(lacks(said(DNS, &fleet(&[]), "absent")), "no replica of coredns is available");
    assert_eq!(lacks(said(DNS, &fleet(&["w1"]), up)), "");
}

/// Runs a script of step nodes in every shell, with this shell code as kubectl. Returns whether it succeeded, and the
/// calls of kubectl.
fn runs(script: &str, kubectl: &str) -> Vec<(bool, String)> {
    let head = format!("set -eu\nretry() {{ \"$@\"; }}\nkubectl() {{ echo \"$*\" >&2; {kubectl}; }}\n");
    let one = |shell: &str| {
        let output = support::run(shell, &format!("{head}{script}"));
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    support::shells().into_iter().map(one).collect()
}

#[test]
fn an_unmanaged_node_is_not_waited_for() {
    let cluster = support::lab();
    let (pki, machine) = (support::pki(&cluster), Machine::default());
    let fleet = Fleet { unmanaged_nodes: ["x9".to_string()].into(), ..Fleet::default() };
    let (node, now) = (&cluster.nodes[0], OffsetDateTime::now_utc());
    let cx = Cx { cluster: &cluster, node, pki: &pki, now, machine: &machine, fleet: &fleet };
    let flannel = [Object::new("apps/v1", "DaemonSet", "kube-flannel", "flannel")];
    let script = rollout::waiting(&cx, &flannel, &[]);
    for (counts, good) in [
        ("4/4/3/1/1", true),
        ("4/3/3/1/1", true),
        ("4/4/2/1/1", false),
        ("4/2/3/1/1", false),
        ("4///1/1", false),
        ("4/4/3/2/1", false),
    ] {
        assert!(runs(&script, &format!("echo {counts}")).iter().all(|(ended, _)| *ended == good), "{counts}");
    }
    assert!(runs(&script, "return 1").iter().all(|(ended, _)| !ended), "without an answer, the wait goes on");
    // Each of the three nodes must have a pod. The DaemonSet counts a recreated Node only a moment later.
    let fleet = Fleet::default();
    let cx = Cx { fleet: &fleet, ..cx };
    let script = rollout::waiting(&cx, &flannel, &flannel);
    for (counts, good) in [("3/3/3/1/1", true), ("2/2/2/1/1", false), ("////", false)] {
        assert!(runs(&script, &format!("echo {counts}")).iter().all(|(ended, _)| *ended == good), "{counts}");
    }
}

/// Waits for Deployment net/web, in every shell. The cluster has this pod and this ReplicaSet, and an event that
/// somebody forged. The wait began this many seconds ago. Returns the exit statuses of two tries, and their output with
/// the pods that they deleted.
fn waits_for(pod: &str, set: &str, seconds: u64) -> Vec<(String, String)> {
    waits_for_a("Deployment", pod, set, seconds)
}

/// The same for a `web` of another kind.
fn waits_for_a(kind: &str, pod: &str, set: &str, seconds: u64) -> Vec<(String, String)> {
    let cluster = support::lab();
    let (pki, machine, fleet) = (support::pki(&cluster), Machine::default(), Fleet::default());
    let (node, now) = (&cluster.nodes[0], OffsetDateTime::now_utc());
    let cx = Cx { cluster: &cluster, node, pki: &pki, now, machine: &machine, fleet: &fleet };
    let script = rollout::waiting(&cx, &[Object::new("apps/v1", kind, "net", "web")], &[]);
    let forged = r#"event\tReplicaSet/web-77f\t2999-01-01T00:00:00Z\tpods "web-77f-" is forbidden: no"#;
    let head = format!(
        "exec 3>&1\nset -u\nuid=1 retry_since=$(($(date +%s) - {seconds}))\n\
         retry() {{ for n in 1 2; do r=0; \"$@\" || r=$?; echo $r >&3; uid=2; done; }}\n\
         kubectl() {{ case \"$3 $4\" in 'get pods') printf '{pod}\\n' ;; 'get replicasets') printf '{set}\\n' ;;\n\
         'get events') printf '{forged}\\n' ;; 'delete pod') echo \"deleted $5\" >&2 ;; *) return 1 ;; esac; }}\n"
    );
    let one = |shell: &str| {
        let output = support::run(shell, &format!("{head}{script}"));
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (text(output.stdout).split_whitespace().collect::<Vec<_>>().join(" "), text(output.stderr))
    };
    support::shells().into_iter().map(one).collect()
}

#[test]
fn a_missing_image_ends_the_wait_after_one_retry() {
    let pod = |reason: &str, why: &str| {
        format!(
            r#"pod\t{}\tweb-77f-x\t'$uid'\t{{"message":"{why}","reason":"{reason}"}}\t\t2026-11-28T21:00:00Z\tw1\t"#,
            owner("ReplicaSet/web-77f")
        )
    };
    for (ended, said) in waits_for(&pod("ImagePullBackOff", r#"no \\"web:9\\": web:9: not found"#), "", 0) {
        assert_eq!(ended, "1 76", "{said}");
        assert_eq!(
            said,
            "deleted web-77f-x\npod net/web-77f-x has no image: no \"web:9\": web:9: not found\n"
        );
    }
    let older =
        pod("ErrImagePull", "web:9: not found").replace("-77f", "-66e").replace("\\tw1\\t", "\\tw1\\t\\n");
    for pod in [
        older.replace("2026", "2025") + &pod("ContainerCreating", "").replace("$uid", "3"),
        pod("ImagePullBackOff", "connection refused"),
        pod("ContainerCreating", "web:9: not found"),
        pod("ErrImagePull", "web:9: not found").replace("web-77f", "web-two-77f"),
        String::new(),
    ] {
        assert!(
            waits_for(&pod, "", 60).iter().all(|(ended, said)| ended == "1 1" && said.is_empty()),
            "{pod}"
        );
    }
}

#[test]
fn owners_of_a_tenants_pod_cannot_forge_another_pod() {
    let pod = |by: &str, name: &str, waiting: &str| {
        format!(
            r"pod\t{}\t{name}\t1\t{waiting}\t\t2026-11-28T21:00:00Z\tw1\t\n",
            owner(by).replace('\\', r"\\")
        )
    };
    let waiting = r#"{"message":"forged","reason":"ErrImageNeverPull"}"#;
    let line = format!("pod\tReplicaSet/web-77f\tvictim\t9\t{waiting}\t\t2999-01-01T00:00:00Z\tw1");
    for by in
        [format!("X/x\n{line}\ny"), format!("X/x\tReplicaSet/web-77f\tvictim\t9\t{waiting}\t\t2999\tw1")]
    {
        let pods = pod("ReplicaSet/web-77f", "web-77f-x", "") + &pod(&by, "tenant", "");
        for (ended, said) in waits_for(&pods, "", 60) {
            assert!(ended == "1 1" && said.is_empty(), "{by}: {said}");
        }
    }
}

#[test]
fn an_unschedulable_or_refused_pod_gets_time_first() {
    let pod = r#"pod\tOWNER\tweb-77f-x\t1\t\t{"message":"0/3 nodes are available","reason":"Unschedulable"}\t2026-11-28T21:00:00Z\tNODE\t"#;
    let pod = pod.replace("OWNER", &owner("ReplicaSet/web-77f"));
    let (running, pod) = (pod.replace("NODE", "w1"), pod.replace("NODE", ""));
    let pod = pod.as_str();
    let set = r#"set\tOWNER\t2026-11-28T21:00:00Z\t{"lastTransitionTime":"2001-01-01T00:00:00Z","message":"pods \\"web-77f-\\" is forbidden: no","reason":"FailedCreate","status":"True","type":"ReplicaFailure"}"#;
    let set = set.replace("OWNER", &owner("Deployment/web"));
    let set = set.as_str();
    let cases = [
        (pod, "", "pod net/web-77f-x has no node: 0/3 nodes are available\n"),
        ("", set, "no pod of Deployment/web in net is allowed: pods \"web-77f-\" is forbidden: no\n"),
    ];
    for (pod, set, words) in cases {
        assert!(waits_for(pod, set, 10).iter().all(|(ended, _)| ended == "1 1"), "{words}");
        for (ended, said) in waits_for(pod, set, 60) {
            assert_eq!((ended.as_str(), said), ("76 76", words.repeat(2)));
        }
    }
    let fresh = set.replace("2001", "2999");
    assert!(
        waits_for("", &fresh, 0).iter().all(|(ended, _)| ended == "76 76"),
        "a refusal during the wait ends it at once"
    );
    let newer = format!(r"set\t{}\t2026-11-28T22:00:00Z\t", owner("Deployment/web"));
    for (pod, set) in [
        // This pod has a node, so its kubelet reported the condition.
        (running, String::new()),
        (String::new(), set.replace("\"True\"", "\"False\"")),
        (String::new(), set.replace(r#""name":"web""#, r#""name":"other""#)),
        (String::new(), format!("{fresh}\\n{newer}")),
    ] {
        assert!(waits_for(&pod, &set, 60).iter().all(|(ended, _)| ended == "1 1"), "{pod}{set}");
    }
}

/// A DaemonSet makes a pod for each Node, even if the inventory does not have the Node, or the Node no longer exists.
#[test]
fn a_pod_for_an_unmanaged_node_ends_no_wait() {
    let pod = |kind: &str, node: &str| {
        let owner = owner(&format!("{kind}/web"));
        let fields = format!(r#"[{{"key":"metadata.name","operator":"In","values":["{node}"]}}]"#);
        let scheduled = r#"{"message":"0/4 nodes are available","reason":"Unschedulable"}"#;
        format!(r"pod\t{owner}\tweb-x\t1\t\t{scheduled}\t2026-11-28T21:00:00Z\t\t{fields}")
    };
    // The kubelet of an unmanaged Node can report any state of its pod.
    let waiting = r#"{"message":"web:9: not found","reason":"ErrImagePull"}"#;
    let without_image =
        pod("DaemonSet", "x9").replace(r"web-x\t1\t\t", &format!(r"web-x\t'$uid'\t{waiting}\t"));
    assert!(
        waits_for_a("DaemonSet", &without_image, "", 60)
            .iter()
            .all(|(is, said)| is == "1 1" && said.is_empty())
    );
    for (kind, node, ended) in [
        ("DaemonSet", "w1", "76 76"),
        ("DaemonSet", "x9", "1 1"),
        ("DaemonSet", "w", "1 1"),
        // For pods of other kinds, the node in the affinity proves nothing.
        ("StatefulSet", "x9", "76 76"),
    ] {
        for (is, said) in waits_for_a(kind, &pod(kind, node), "", 60) {
            assert_eq!(is, ended, "{kind} {node}: {said}");
        }
        assert!(
            waits_for_a(kind, &pod(kind, node), "", 10).iter().all(|(is, _)| is == "1 1"),
            "{kind} {node}"
        );
    }
}

#[test]
fn workers_that_lack_a_pod_are_named() {
    let cluster = support::lab();
    let (pki, machine, fleet) = (support::pki(&cluster), Machine::default(), Fleet::default());
    let (node, now) = (&cluster.nodes[0], OffsetDateTime::now_utc());
    let cx = Cx { cluster: &cluster, node, pki: &pki, now, machine: &machine, fleet: &fleet };
    let script = rollout::waiting(&cx, &[Object::new("apps/v1", "DaemonSet", "net", "web")], &[]);
    let (web, other) = (owner("DaemonSet/web"), owner("DaemonSet/other"));
    let pods = |w1: &str| {
        let others: String =
            cluster.nodes.iter().filter(|node| node.name != "w1").fold(String::new(), |all, node| {
                format!(r#"{all}{web}\t{}\t\t{{"status":"True"}}\n"#, node.name)
            });
        format!("case $* in *'get pods'*) printf '{others}{w1}' ;; *) return 1 ;; esac")
    };
    let says = "rollout: DaemonSet/web is not up on w1\n";
    for (w1, said) in [
        ("", says),
        (&format!(r#"{web}\tw1\t\t{{"status":"False"}}\n"#), says),
        (&format!(r#"{other}\tw1\t\t{{"status":"True"}}\n"#), says),
        (&format!(r#"{web}\tw1\t\t{{"status":"True"}}\n"#), ""),
    ] {
        for shell in support::shells() {
            let head = format!("set -eu\nretry() {{ \"$@\"; }}\nkubectl() {{ {}; }}\n", pods(w1));
            let output = support::run(shell, &format!("{head}{script}"));
            let out = String::from_utf8(output.stdout).unwrap();
            assert_eq!((output.status.code(), out.as_str()), (Some(1), said), "{shell}: {w1}");
        }
    }
    let nowhere = format!(
        r#"case $* in *'get pods'*) printf '{web}\tw1\t\t{{"status":"False"}}\n' ;; *) return 1 ;; esac"#
    );
    for shell in support::shells() {
        let head = format!("set -eu\nretry() {{ \"$@\"; }}\nkubectl() {{ {nowhere}; }}\n");
        let output = support::run(shell, &format!("{head}{script}"));
        assert_eq!(
            (output.status.code(), output.stdout),
            (Some(1), vec![]),
            "{shell}: the pod runs nowhere, so no node is named"
        );
    }
    let found = rollout::faults(
        ["rollout: DaemonSet/web is not up on w1", "  rollout: DaemonSet/web is not up on m1"].into_iter(),
    );
    assert_eq!(found, [("w1".to_string(), "DaemonSet/web has no ready pod there".to_string())]);
}

#[test]
fn only_crashing_pods_of_the_network_are_restarted() {
    let running = [
        Object::new("apps/v1", "DaemonSet", "net", "flannel"),
        Object::new("apps/v1", "Deployment", "net", "dns"),
    ];
    let script = rollout::at_once(&running);
    let pod = |name: &str, by: &str, state: &str| {
        format!(r"printf '%s\t%s\t%s\n' '{name}' '{}' '{state}'", owner(by)) + "\n"
    };
    let dying = r#"{"message":"back-off","reason":"CrashLoopBackOff"}"#;
    let forged =
        r#"{"message":"\n--all\tDaemonSet/flannel\t{\"reason\":\"CrashLoopBackOff\"}","reason":"x"}"#;
    let pods: String = [
        pod("a", "DaemonSet/flannel", dying),
        pod("b", "DaemonSet/flannel", ""),
        pod("c", "DaemonSet/other", dying),
        pod("d", "DaemonSet/flannel", r#"{"reason":"ContainerCreating"}"#),
        pod("e", "ReplicaSet/dns-77f", dying),
        pod("f", "ReplicaSet/dnsmasq", dying),
        pod("g", "ReplicaSet/dns-autoscaler-77f", dying),
        pod("h", "DaemonSet/flannel", forged),
        pod("--all", "DaemonSet/flannel", dying),
        // A tenant made these: the owner's kind and name can have any text.
        pod("i", "DaemonSet/x\nvictim\tDaemonSet/flannel\t{\"reason\":\"CrashLoopBackOff\"}\ny", dying),
        pod("j", "X/x\",\"controller\":true,\"kind\":\"DaemonSet\",\"name\":\"flannel\",", dying),
        pod("k", "DaemonSet/flannel", dying).replace("\"controller\":true,", ""),
        pod("l", "DaemonSet/flannel", dying).replace("apps/v1", "example.com/v1"),
    ]
    .concat();
    for (good, asked) in runs(&script, &format!("case $3 in get) {pods} ;; esac")) {
        let deleted: Vec<&str> = asked.lines().filter(|line| line.contains(" delete ")).collect();
        assert!(good, "{asked}");
        let delete = |pod: &str| format!("-n net delete pod {pod} --ignore-not-found --timeout=20s");
        assert_eq!(deleted, [delete("a"), delete("e")]);
    }
    let fails = format!("case $3 in get) {pods} ;; *) return 1 ;; esac");
    assert!(
        runs(&script, &fails).iter().all(|(good, _)| *good),
        "a pod that cannot be deleted does not end the wait"
    );
}

#[test]
fn flannel_is_restarted_if_it_does_not_announce_its_node() {
    let Fix::Run(fix) = want("nodes.announced[w1]", &Fleet::default()).fix else { panic!() };
    let (_, own) = fix.split_once("announced() {").unwrap();
    let address = support::lab().nodes.iter().find(|node| node.name == "w1").unwrap().ip;
    let ago = |seconds: i64| {
        let rfc3339 = &time::format_description::well_known::Rfc3339;
        (OffsetDateTime::now_utc() - time::Duration::seconds(seconds)).format(rfc3339).unwrap()
    };
    let run = |node: String, pod: String| {
        let kubectl = format!("case $* in *' node '*) echo {node} ;; *pods*) echo {pod} ;; esac");
        let ran = runs(&format!("announced() {{{own}"), &kubectl).into_iter();
        let deleted = |asked: String| asked.contains("delete pod f --wait=false");
        let ran: Vec<(bool, bool)> = ran.map(|(good, asked)| (good, deleted(asked))).collect();
        assert!(ran.iter().all(|each| *each == ran[0]), "every shell does the same: {ran:?}");
        ran[0]
    };
    assert_eq!(
        run(format!("{} {address}", ago(5)), format!("f {}", ago(60))),
        (true, false),
        "flannel announced its address"
    );
    assert_eq!(run(ago(5), format!("f {}", ago(60))), (false, true), "the pod is older than the Node");
    let elsewhere = format!("{} 10.0.0.2", ago(600));
    assert_eq!(run(elsewhere, format!("f {}", ago(60))), (false, true), "the Node has another address now");
    assert_eq!(run(ago(600), format!("f {}", ago(60))), (false, true), "the pod has had enough time");
    assert_eq!(run(ago(9), format!("f {}", ago(5))), (false, false), "the pod has just started");
    assert_eq!(run(ago(9), "f".into()), (false, false), "the pod does not run");
    let away = runs(&format!("announced() {{{own} || echo tried again >&2"), "return 1");
    assert!(
        away.iter().all(|(good, said)| *good && said.contains("tried again")),
        "an API server without an answer does not end the wait: {away:?}"
    );
}
