//! The status as text and as JSON, made from answers of machines. The snapshots are in `tests/golden`.

use std::process::Command;

use ironstrap::cluster::{Cluster, Role};
use ironstrap::error::{Error, Kind};
use ironstrap::fleet::Blocked;
use ironstrap::machine::Machine;
use ironstrap::pki::ClusterPki;
use ironstrap::plan::{Change, State};
use ironstrap::report;
use ironstrap::status::{self, NodeEvidence, Seen, Status, Topic};
use ironstrap::step::{Answer, Ask, Fix, Id};
use serde_json::json;
use time::OffsetDateTime;
use time::macros::datetime;

use crate::support::{clusters, lab, pipe, pki, run, schemas, shells};

const NOW: OffsetDateTime = datetime!(2026-11-21 16:20:00 UTC);

/// A machine and its answers.
struct Node {
    machine: Option<Machine>,
    answers: Vec<(Topic, Answer)>,
    changes: Vec<Change>,
    left: Option<Error>,
}

struct Fleet {
    cluster: Cluster,
    nodes: Vec<Node>,
}

fn said(text: &str) -> Answer {
    Answer::Said(text.into())
}

fn objects(objects: &[serde_json::Value]) -> Answer {
    Answer::Objects(objects.iter().map(|object| Some(object.to_string().into())).collect())
}

fn node_object(ready: bool, message: &str) -> serde_json::Value {
    let status = if ready { "True" } else { "Unknown" };
    json!({
        "kind": "Node", "spec": {},
        "status": {
            "conditions": [
                {"type": "MemoryPressure", "status": "False"},
                {"type": "Ready", "status": status, "message": message},
            ],
            "allocatable": {"cpu": "2", "memory": "24619320Ki", "pods": "110"},
        },
    })
}

fn token(until: &str) -> String {
    use base64::Engine;
    let encoded = |text: &str| base64::prelude::BASE64_STANDARD.encode(text);
    format!("{}\t{}\n", encoded("true"), encoded(until))
}

const PODS: &str = "\
m1\t\t\t={\"cpu\":\"100m\",\"memory\":\"100Mi\"} \t\n\
m1\t\t\t={\"cpu\":\"250m\"} \t\n\
m1\t\t\t={\"cpu\":\"100m\",\"memory\":\"70Mi\"} \t= ={\"cpu\":\"300m\"} \n\
w1\t\t\t={\"cpu\":\"1500m\",\"memory\":\"12Gi\"} ={\"cpu\":\"100m\"} \tAlways={\"memory\":\"512Mi\"} \n\
w2\t\t\t= \t\n";

const HEALTH: &str = "{\"health\":\"true\",\"reason\":\"\"}";
const MEMBERS: &str = r#"{"header":{"cluster_id":"1"},"members":[{"ID":"2","name":"m1","peerURLs":["https://198.18.0.11:2380"]}]}"#;

/// What the script `CERTIFICATES` prints on a node.
fn certificates(pki: &ClusterPki) -> String {
    let leaf = &pki.leaves["m1"]["apiserver"].cert;
    format!(
        "file /etc/kubernetes/pki/apiserver.crt\n{leaf}file /etc/kubernetes/pki/ca.crt\n{}file /etc/kubernetes/kubelet.conf\n",
        pki.ca.cert
    )
}

impl Fleet {
    /// A cluster that matches its inventory.
    fn converged() -> Fleet {
        Fleet::of(lab())
    }

    /// A cluster of a thousand nodes that matches its inventory.
    fn large() -> Fleet {
        let mut cluster = lab();
        let [init_node, worker] = [0, 1].map(|i| cluster.nodes[i].clone());
        let worker = |i: usize| ironstrap::cluster::Node { name: format!("w{i:03}"), ..worker.clone() };
        cluster.nodes = std::iter::once(init_node).chain((1..1000).map(worker)).collect();
        Fleet::of(cluster)
    }

    fn of(cluster: Cluster) -> Fleet {
        let pki = ClusterPki::make(&cluster, NOW).unwrap();
        let node = |node: &ironstrap::cluster::Node| {
            let answer = |topic| match topic {
                Topic::System => {
                    said("uptime 187265.41\nkernel 6.12.48+deb13-amd64\nos Debian GNU/Linux 13 (trixie)\n")
                }
                Topic::Packages => said("kubelet hi 1.36.3-1.1\ncontainerd hi 1.7.24~ds1-6+b4\n"),
                Topic::Certificates => said(&certificates(&pki)),
                Topic::Packets => said(
                    "kube-proxy runs\nservice reached\nserver0 reached\ndns reached\npod:w1 reached\npod:w2 reached\n",
                ),
                Topic::Api => said("healthy\n"),
                Topic::Etcd => said(HEALTH),
                Topic::Members => said(MEMBERS),
                Topic::Nodes => {
                    objects(&vec![node_object(true, "kubelet is posting ready status"); cluster.nodes.len()])
                }
                Topic::Network => {
                    objects(&[json!({"status": {"numberReady": 3, "desiredNumberScheduled": 3}})])
                }
                Topic::Tokens => said(&(token("2026-11-21T08:00:00Z") + &token("2026-11-22T16:00:00Z"))),
                Topic::Pods => said(PODS),
            };
            let asked = status::questions(&cluster, node);
            Node {
                machine: Some(Machine::default()),
                answers: asked.into_iter().map(|(topic, _)| (topic, answer(topic))).collect(),
                changes: vec![],
                left: None,
            }
        };
        let nodes = cluster.nodes.iter().map(node).collect();
        Fleet { cluster, nodes }
    }

    fn answer(&mut self, i: usize, topic: Topic, answer: Answer) {
        let place = self.nodes[i].answers.iter_mut().find(|(about, _)| *about == topic).unwrap();
        place.1 = answer;
    }

    fn status(&self) -> Status {
        let answers: Vec<Vec<Answer>> = self
            .nodes
            .iter()
            .map(|node| node.answers.iter().map(|(_, answer)| answer.clone()).collect())
            .collect();
        let told = self.cluster.nodes.iter().zip(&self.nodes).zip(&answers);
        let told: Vec<NodeEvidence> = told
            .map(|((node, said), answers)| NodeEvidence {
                node,
                machine: said.machine.as_ref(),
                answers: if said.machine.is_some() { answers } else { &[] },
                changes: &said.changes,
                left: said.left.as_ref(),
            })
            .collect();
        let errors = self.nodes.iter().filter_map(|node| node.left.clone()).collect();
        status::status(&self.cluster, &told, Some(0), errors, NOW)
    }

    fn off(&mut self, i: usize) {
        let name = &self.cluster.nodes[i].name;
        let error = Error::new(Kind::Unreachable, "cannot be reached").on(name);
        self.nodes[i].machine = None;
        self.nodes[i].left =
            Some(error.because("198.18.0.13:22 did not answer within 10 s").hint("is it on?"));
    }
}

fn change(step: &'static str, that: &str, state: State) -> Change {
    Change {
        step,
        why: "",
        id: Id { name: "test.want", subject: that.into() },
        that: that.into(),
        keeps: None,
        answer: Answer::Said(String::new()),
        have: String::new(),
        want: String::new(),
        fix: Fix::FromPrevious,
        credential: None,
        disrupts: false,
        eventually: false,
        secret: false,
        touches: vec![],
        about: vec![],
        invalidates: false,
        blame: Default::default(),
        of_cluster: step == "nodes",
        state,
    }
}

fn snapshot(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../golden");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

/// Compares the text and the JSON of a status with a snapshot.
fn assert_snapshots(name: &str, status: &Status) {
    let screen = report::status::lines(status, None, false, false).join("\n");
    let json = serde_json::to_string_pretty(status).unwrap();
    let mut document: serde_json::Value = serde_json::from_str(&json).unwrap();
    document["schema"] = json!(2);
    schemas::assert_valid("status", &document);
    snapshot(name, &format!("{screen}\n\n{json}"));
}

#[test]
fn a_converged_cluster_is_healthy() {
    assert_snapshots("status-converged", &Fleet::converged().status());
}

#[test]
fn similar_nodes_of_a_large_cluster_share_a_row() {
    let mut fleet = Fleet::large();
    (40..90).for_each(|i| fleet.off(i));
    (200..203).for_each(|i| fleet.nodes[i].changes = vec![change("swap", "swap is off", State::Ready)]);
    let status = fleet.status();
    snapshot("status-large", &report::status::lines(&status, None, false, false).join("\n"));
    let all = report::status::lines(&status, None, false, true);
    assert_eq!(all.iter().filter(|line| line.contains("  worker  ")).count(), 999);
}

#[test]
fn a_narrow_terminal_drops_the_least_important_columns() {
    let status = Fleet::converged().status();
    let at = |width: usize| {
        let lines = report::status::lines(&status, Some(width), false, false);
        let wide = lines[7..].iter().filter(|line| line.chars().count() > width).count();
        assert!(wide == 0, "wider than {width}: {lines:#?}");
        format!("{width}\n{}", lines[7..].join("\n"))
    };
    snapshot("status-narrow", &[140, 100, 80, 60, 40, 20].map(at).join("\n\n"));
}

#[test]
fn drift_and_unknown_states_are_described() {
    let mut fleet = Fleet::converged();
    let unknown = || State::Unknown {
        asked: "cat /x".into(),
        why: "exit 1: cat: /x: Input/output error".into(),
        awaits_api: false,
    };
    fleet.nodes[0].changes = vec![
        change("labels", "w1 has its labels and taints", State::Ready),
        change("nodes", "w2 is Ready", State::Waits(Blocked::until("w2", "to join"))),
    ];
    fleet.nodes[1].changes = vec![
        change("swap", "swap is off in fstab", State::Ready),
        change("swap", "swap is off", State::Ready),
        change("runtime", "containerd runs its current config", State::Ready),
        change("kernel", "net.ipv4.ip_forward is 1", unknown()),
    ];
    fleet.answer(2, Topic::Packages, said("kubelet absent\ncontainerd rc 1.7.24~ds1-6\n"));
    let mut nodes = [(); 3].map(|()| node_object(true, ""));
    nodes[1]["spec"]["unschedulable"] = true.into();
    fleet.answer(0, Topic::Nodes, objects(&nodes));
    fleet.answer(0, Topic::Tokens, said(&token("2026-11-21T08:00:00Z")));
    assert_snapshots("status-drifted", &fleet.status());
}

#[test]
fn facts_of_an_unreachable_machine_are_unknown() {
    let mut fleet = Fleet::converged();
    fleet.off(2);
    let mut nodes = [(); 3].map(|()| node_object(true, ""));
    nodes[2] = node_object(false, "Kubelet stopped posting node status.");
    fleet.answer(0, Topic::Nodes, objects(&nodes));
    assert_snapshots("status-node-down", &fleet.status());
}

#[test]
fn reasons_come_first_if_no_machine_answers() {
    let mut fleet = Fleet::converged();
    (0..3).for_each(|i| fleet.off(i));
    let lines = report::status::lines(&fleet.status(), None, false, false);
    let reasons = lines.iter().take_while(|line| !line.is_empty());
    let heads: Vec<&str> = reasons.filter(|line| line.starts_with('✗')).map(String::as_str).collect();
    assert_eq!(heads, ["✗ m1  cannot be reached", "✗ w1  cannot be reached", "✗ w2  cannot be reached"]);
    assert!(lines[0].starts_with('✗') && lines.iter().any(|line| line.starts_with("NODE")), "{lines:#?}");
}

#[test]
fn facts_from_the_api_are_unknown_without_it() {
    let mut fleet = Fleet::converged();
    let refused =
        "The connection to the server 198.18.0.11:6443 was refused - did you specify the right host or port?";
    fleet.answer(0, Topic::Api, said(&format!("down: {refused}\n")));
    // The script prints this if the machine has no manifests. It says nothing about the objects.
    fleet.answer(0, Topic::Nodes, Answer::Objects(vec![None; 3]));
    let why = format!("kubectl: exit 1: {refused}");
    fleet.nodes[0].changes = vec![
        change(
            "member",
            "m1 runs the control plane of demo",
            State::Unknown { asked: "kubectl".into(), why, awaits_api: true },
        ),
        change("nodes", "w1 is Ready", State::Ready),
    ];
    assert_snapshots("status-api-down", &fleet.status());
}

#[test]
fn an_unchecked_probe_is_not_shown_as_reached() {
    let mut fleet = Fleet::converged();
    for (i, answer) in [
        (
            0,
            "service reached\nserver0 reached\ndns silent\npod-dns-from kube-system/coredns-1\npod-dns silent\nown-pod reached\ntunnel:w1 refused\ntunnel:w2 silent\npod:w2 silent\n",
        ),
        (
            1,
            "service refused\nserver0 silent\ndns refused\nown-pod-of shop/web\nown-pod silent\ntunnel:m1 absent\ntunnel:w2 reached\n",
        ),
        (2, "the machine has no bash, which this check needs\n"),
    ] {
        let packets = fleet.nodes[i].answers.iter_mut().find(|(topic, _)| *topic == Topic::Packets);
        packets.unwrap().1 = said(answer);
    }
    let status = serde_json::to_value(fleet.status()).unwrap();
    let packets = |i: usize| status["nodes"][i]["packets"].clone();
    let pods = json!({"w1": "not-checked", "w2": "not-reached"});
    let servers = |m1: &str| json!({"m1": m1});
    assert_eq!(
        packets(0),
        json!({"service": "reached", "servers": servers("reached"), "dns": "not-reached", "pod_dns": "not-reached",
            "own_pod": "reached", "tunnels": {"w1": "reached", "w2": "not-reached"}, "pods": pods})
    );
    assert_eq!(
        packets(1),
        json!({"service": "not-reached", "servers": servers("not-reached"), "dns": "not-reached", "pod_dns": null,
            "own_pod": "not-checked", "tunnels": {"m1": "not-reached", "w2": "reached"}, "pods": {}})
    );
    assert_eq!(
        packets(2),
        json!({"service": "not-checked", "servers": servers("not-checked"), "dns": "not-checked", "pod_dns": null,
            "own_pod": null, "tunnels": {"m1": "not-checked", "w1": "not-checked"}, "pods": {}})
    );
    let lines = report::status::lines(&fleet.status(), None, false, false).join("\n");
    assert!(
        lines.contains("? w1  packets: not checked, because no pod that can be probed runs there"),
        "{lines}"
    );
    let row = |name: &str| lines.lines().find(|line| line.starts_with(name)).unwrap().to_string();
    assert!(row("m1").contains(" 4/8 (1 ?) ") && row("w1").contains(" 1/5 (1 ?) "), "{lines}");
    assert!(row("w2").contains("  ?  "), "{lines}");
}

#[test]
fn nothing_is_unknown_before_a_cluster_exists() {
    let mut fleet = Fleet::converged();
    for i in 0..3 {
        for (topic, answer) in fleet.nodes[i].answers.iter_mut() {
            *answer = match topic {
                Topic::System => continue,
                Topic::Packages => said("kubelet absent\ncontainerd absent\n"),
                Topic::Certificates => said(""),
                Topic::Packets => said("no member\n"),
                Topic::Etcd | Topic::Members => Answer::Absent,
                Topic::Nodes => Answer::Objects(vec![None; 3]),
                Topic::Network => Answer::Objects(vec![None]),
                Topic::Api | Topic::Tokens | Topic::Pods => Answer::NotHere,
            };
        }
        fleet.nodes[i].changes = vec![change("swap", "swap is off", State::Ready)];
    }
    let status = fleet.status();
    assert_eq!(status.unseen, []);
    assert_snapshots("status-nothing-yet", &status);
}

#[test]
fn a_silent_control_plane_may_run_a_cluster() {
    let mut fleet = Fleet::converged();
    fleet.cluster.nodes[1].role = Role::ControlPlane;
    fleet.off(1);
    fleet.answer(0, Topic::Api, Answer::NotHere);
    let status = fleet.status();
    let why = "m1 runs no cluster, and w1 did not answer";
    assert!(status.nodes.iter().all(|node| node.ready == Seen::Unknown(why.into())), "{status:#?}");
}

#[test]
fn an_etcd_member_is_shown_without_a_member_list() {
    let mut fleet = Fleet::converged();
    fleet.answer(0, Topic::Members, Answer::Unknown("exit 1: it timed out".into()));
    fleet.answer(0, Topic::Etcd, said("unhealthy: RAFT NO LEADER\n"));
    let status = fleet.status();
    let member = &status.cluster.etcd.is().unwrap()[0];
    assert_eq!((&member.healthy, member.why.as_deref()), (&Seen::Is(false), Some("RAFT NO LEADER")));
    assert_eq!(member.learner, Seen::Unknown("m1: exit 1: it timed out".into()));
    // The health of a member that is not in the inventory is unknown.
    fleet.answer(0, Topic::Members, said(&MEMBERS.replace("\"m1\"", "\"m9\",\"isLearner\":true")));
    let status = fleet.status();
    let member = &status.cluster.etcd.is().unwrap()[0];
    assert!(member.name == "m9" && member.learner == Seen::Is(true) && member.healthy.why().is_some());
}

#[test]
fn an_unhealthy_api_server_names_its_failed_checks() {
    let mut fleet = Fleet::converged();
    let said = "failing: Error from server (InternalError): an error on the server (\"[+]ping ok\\n[-]etcd failed: reason withheld\n[-]etcd-readiness failed: reason withheld\nreadyz check failed\") has prevented the request from succeeding";
    fleet.answer(0, Topic::Api, Answer::Said(said.into()));
    let api = &fleet.status().cluster.api[0];
    assert_eq!(api.why.as_deref(), Some("etcd, etcd-readiness"));
}

#[test]
fn every_question_can_be_parsed_by_every_shell() {
    for (_, cluster) in clusters() {
        for (topic, ask) in cluster.nodes.iter().flat_map(|node| status::questions(&cluster, node)) {
            let Ask::Shell(ask) = ask else { continue };
            for shell in shells() {
                let output = pipe(Command::new(shell).arg("-n"), &format!("( set -eu\n{ask}\n)\n"));
                assert!(output.status.success() && output.stderr.is_empty(), "{shell}: {topic:?}");
            }
        }
    }
}

#[test]
fn certificate_questions_return_no_private_keys() {
    let (cluster, root) = (lab(), tempfile::tempdir().unwrap());
    let pki = pki(&cluster);
    let node = cluster.control_planes().next().unwrap();
    let write = |path: &str, text: &str| {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    for file in pki.files(node) {
        write(file.path.trim_start_matches('/'), file.text);
    }
    write("etc/kubernetes/admin.conf", &pki.admin_kubeconfig(&cluster, "https://a"));
    let both = format!("{}{}", pki.admin.key.reveal(), pki.admin.cert);
    write("var/lib/kubelet/pki/kubelet-client-current.pem", &both);
    let asks = status::questions(&cluster, node);
    let (_, ask) = asks.into_iter().find(|(topic, _)| *topic == Topic::Certificates).unwrap();
    let Ask::Shell(ask) = ask else { panic!("{ask:?}") };
    let root = root.path().display().to_string();
    let ask = ask.replace("/etc/", &format!("{root}/etc/")).replace("/var/", &format!("{root}/var/"));
    for shell in shells() {
        let output = run(shell, &format!("set -eu\n{ask}\n"));
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{shell}");
        // Ten files in kubeadm's folder, admin.conf, and the certificate of the kubelet.
        assert_eq!(text.matches("file ").count(), 12, "{text}");
        assert!(!text.contains("PRIVATE"));
        let secrets =
            pki.admin.key.reveal().lines().chain(pki.ca.key.reveal().lines()).filter(|line| line.len() > 40);
        for secret in secrets {
            assert!(!text.contains(secret));
        }
        let key = pki.admin_kubeconfig(&cluster, "https://a");
        let key = key.lines().find_map(|line| line.trim().strip_prefix("client-key-data: ")).unwrap();
        assert!(!text.contains(key));
    }
}
