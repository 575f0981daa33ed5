//! Plans, configurations, scripts and errors match reviewed snapshots. The snapshots are in `tests/golden`. Filters
//! replace random text.

use std::collections::BTreeMap;

use ironstrap::cluster::{Addon, Cluster, Node, Origin};
use ironstrap::error::Error;
use ironstrap::fleet::{self, Fleet, Machines};
use ironstrap::ledger::{self, Run};
use ironstrap::machine::Machine;
use ironstrap::openpgp::Keys;
use ironstrap::operations::reset;
use ironstrap::pki::ClusterPki;
use ironstrap::plan::{self, Change};
use ironstrap::probe;
use ironstrap::report;
use ironstrap::shell::Sh;
use ironstrap::step::{Answer, Ask, Cx, Fix, Step, Want};
use ironstrap::steps::{STAGES, Via};
use time::OffsetDateTime;

use crate::support::{fit, lab, new_pki, pki, wants};

const BOUNDARY: &str = "--0123456789abcdef";

fn snapshot(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../golden");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.add_filter(r"\b[0-9a-f]{64}\b", "[hash]");
    settings.add_filter(r"--[0-9a-f]{32}\b", "--[end]");
    settings.add_filter(r"\b[a-z0-9]{6}\.[a-z0-9]{16}\b", "[token]");
    settings.add_filter(r"(?s)-----BEGIN [A-Z ]+-----.*?-----END [A-Z ]+-----", "[pem]");
    settings.add_filter(r"(certificate-authority-data: )\S{100,}", "$1[base64]");
    settings.bind(|| insta::assert_snapshot!(name, text));
}

/// A fresh Debian machine that passes all preflight checks.
fn untouched(name: &str) -> Machine {
    Machine {
        os: "debian".into(),
        codename: "trixie".into(),
        arch: "x86_64".into(),
        clock: 1.8e9,
        cpus: 2,
        memory: 4 << 20,
        hostname: name.into(),
        boot: "0b".into(),
        init: "systemd".into(),
        ..Machine::default()
    }
}

/// The answer of a new machine to the shell of this want.
fn new_machine_shell_answer(want: &Want) -> Answer {
    let text = match want.id.name {
        "swap.active" => "/swap.img\n",
        "kernel.module" => "no\n",
        "kernel.sysctl" => "0\n",
        "hosts.cloud-init" => return Answer::NotHere,
        "member.kubeadm-files" | "member.static-pods" => "no receipt\n",
        "processes.kubelet" | "processes.kubelet-arguments" | "processes.stopped" => "no member\n",
        "runtime.config-in-use" => return Answer::Absent,
        _ if want.id.name.starts_with("preflight.") => fit(want),
        _ => "",
    };
    Answer::Said(text.into())
}

/// The answer of a new machine to this want.
fn new_machine_answer(want: &Want) -> Answer {
    let text = match &want.ask {
        Ask::Facts | Ask::Nodes | Ask::Listed => String::new(),
        Ask::Administrator => "no cluster".into(),
        Ask::File(path) if path == "/etc/fstab" => {
            "mode 644 root:root\nUUID=a / ext4 defaults 0 1\n/swap.img none swap sw 0 0\n".into()
        }
        Ask::File(path) if path == "/etc/hosts" => "mode 644 root:root\n127.0.0.1 localhost\n".into(),
        Ask::File(_) | Ask::Hash(_) | Ask::Kubeconfig(_) | Ask::Unit { .. } => return Answer::Absent,
        Ask::Packages(names) => names.iter().map(|name| format!("{name} absent\n")).collect(),
        Ask::Objects(objects) => return Answer::Objects(vec![None; objects.len()]),
        Ask::OnlyBeforeJoin(_) => fit(want).into(),
        Ask::Shell(_) | Ask::Api { .. } => return new_machine_shell_answer(want),
    };
    Answer::Said(text)
}

fn heard(machines: &BTreeMap<String, Machine>) -> Machines<'_> {
    machines.iter().map(|(name, machine)| (name.as_str(), machine)).collect()
}

struct Untouched {
    cluster: Cluster,
    pki: ClusterPki,
    machines: BTreeMap<String, Machine>,
    fleet: Fleet,
}

impl Untouched {
    fn lab() -> Untouched {
        Untouched::of(lab())
    }

    /// The lab's control plane and 999 workers.
    fn large() -> Untouched {
        let mut cluster = lab();
        let [init_node, worker] = [0, 1].map(|i| cluster.nodes[i].clone());
        let worker = |i: usize| Node {
            name: format!("w{i:03}"),
            ip: std::net::Ipv4Addr::from(0x0a20_0000 + i as u32).into(),
            ..worker.clone()
        };
        cluster.nodes = std::iter::once(init_node).chain((1..1000).map(worker)).collect();
        Untouched::of(cluster)
    }

    fn of(cluster: Cluster) -> Untouched {
        let machines: BTreeMap<String, Machine> =
            cluster.nodes.iter().map(|node| (node.name.clone(), untouched(&node.name))).collect();
        let mut fleet = Fleet::see(&cluster, &heard(&machines));
        fleet.package_key = Keys::read(include_str!("../keys/other.asc")).ok();
        Untouched { pki: pki(&cluster), fleet, machines, cluster }
    }

    fn wants(&self, node: &Node) -> Vec<(&'static str, &'static str, Want)> {
        let about = (&self.machines[&node.name], &self.fleet);
        wants((&self.cluster, node), &self.pki, about, OffsetDateTime::now_utc())
    }

    /// The changes in the stages that `of` selects.
    fn changes(&self, node: &Node, of: impl Fn(&str) -> bool) -> Vec<Change> {
        let steps: BTreeMap<&str, &'static Step> =
            STAGES.iter().flat_map(|stage| stage.steps).map(|step| (step.name, step)).collect();
        let wants = self.wants(node);
        let wants: Vec<_> = wants.iter().filter(|(stage, ..)| of(stage)).collect();
        let answers: Vec<Answer> = wants.iter().map(|(.., want)| new_machine_answer(want)).collect();
        let judged: Vec<plan::Answered> =
            wants.iter().zip(&answers).map(|((_, step, want), answer)| (steps[step], want, answer)).collect();
        plan::changes(&judged, &mut Default::default())
    }

    fn node(&self, name: &str) -> &Node {
        self.cluster.node(name).unwrap()
    }
}

/// The changes of each node.
type Plan = Vec<(String, Vec<Change>)>;

impl Untouched {
    fn plan(&self) -> Plan {
        let api = |stage: &str| STAGES.iter().any(|s| s.name == stage && s.via == Via::Api);
        let changes = |node: &Node| self.changes(node, |stage| node.is_control_plane() || !api(stage));
        self.cluster.nodes.iter().map(|node| (node.name.clone(), changes(node))).collect()
    }
}

#[test]
fn the_plan_for_new_machines_matches() {
    let lab = Untouched::lab();
    let lines = report::plan::lines(&lab.plan(), &lab.cluster.nodes).join("\n");
    assert!(!lines.contains("preflight"), "a new machine passes the preflight checks");
    snapshot("plan", &lines);
}

#[test]
fn a_plan_groups_machines_with_the_same_changes() {
    let lab = Untouched::large();
    let mut plan = lab.plan();
    let lines = report::plan::lines(&plan, &lab.cluster.nodes);
    assert!(lines.len() < 500, "{} lines", lines.len());
    snapshot("plan-large", &lines.join("\n"));
    // A running fleet in which some machines have drifted, in three ways.
    let drifts = ["runtime", "swap", "kernel"];
    for (i, (_, changes)) in plan.iter_mut().enumerate() {
        changes.retain(|change| match i % 50 {
            7 => change.step == drifts[0],
            20..30 => change.step == drifts[1],
            _ => i == 501 && change.step == drifts[2],
        });
    }
    snapshot("plan-large-drift", &report::plan::lines(&plan, &lab.cluster.nodes).join("\n"));
}

/// The here-document that a script passes to this command.
fn document(script: &str, command: &str) -> String {
    let (_, after) = script.split_once(&format!("{command} <<'")).unwrap();
    let (end, after) = after.split_once("'\n").unwrap();
    after[..after.find(&format!("\n{end}\n")).unwrap() + 1].to_string()
}

fn enter(lab: &Untouched, node: &str) -> Sh {
    let changes = lab.changes(lab.node(node), |stage| stage == "member");
    let Fix::Unit { script, .. } = &changes[0].fix else { panic!("{:?}", changes[0].fix) };
    script.clone()
}

#[test]
fn kubeadm_configurations_match() {
    let mut lab = Untouched::lab();
    // Checks of ironstrap that kubeadm does not know must not appear in its configuration.
    lab.cluster.ignore_preflight.extend(["reach".to_string(), "MachineID".to_string()]);
    snapshot("kubeadm-init", &document(&enter(&lab, "m1"), "cat >$c )"));
    snapshot("kubeadm-join", &document(&enter(&lab, "w2"), "cat >$c )"));
}

#[test]
fn the_files_of_containerd_match() {
    let lab = Untouched::lab();
    let mut text = String::new();
    for change in lab.changes(lab.node("w1"), |stage| stage == "prepare") {
        if let Fix::Write { path, text: Some(content), .. } = &change.fix
            && path.starts_with("/etc/containerd")
        {
            text += &format!("==> {path}\n{content}\n");
        }
    }
    snapshot("containerd", &text);
}

/// A script with its shared templates replaced by their names.
fn own(script: &str) -> String {
    let part = |name: &str| std::fs::read_to_string(format!("templates/{name}.sh")).unwrap();
    let shared = ["lib", "credentials", "undo"].map(part).join("\n");
    let script = script.replace(&shared, "[templates/lib.sh, credentials.sh, undo.sh]\n");
    script.replace(&part("leave"), "[templates/leave.sh]\n")
}

#[test]
fn scripts_match() {
    let lab = Untouched::lab();
    let node = lab.node("w2");
    let wants = lab.wants(node);
    let asks: Vec<&Ask> = wants.iter().map(|(.., want)| &want.ask).collect();
    snapshot("probe", &probe::script(&asks, BOUNDARY, lab.cluster.etcd_dir()));
    let run = Run::new("1f2e", "me@here");
    for stage in ["prepare", "member"] {
        let changes = lab.changes(node, |name| name == stage);
        let script = ledger::fix(&run, None, &changes.iter().collect::<Vec<_>>(), BOUNDARY);
        snapshot(&format!("fix-{stage}"), &own(&script));
    }
}

/// The answer of a machine to a want of a reset, after an apply.
fn reset_answer(want: &Want) -> Answer {
    let said = match want.id.to_string().as_str() {
        "member.joined" => {
            "now the kubelet and its credentials\nnow 14 containers of Kubernetes, and its images\nwas \n"
        }
        "kubelet.packages" => {
            "now conntrack ii 1.4\nnow kubelet hi 1.36.3-1.1\nwas kubelet absent\nwas kubeadm absent\n"
        }
        "runtime.packages" => "now containerd hi 1.7.24\nwas containerd ii 1.7.24\n",
        "runtime.unit" => "now enabled active\nwas disabled inactive current\n",
        "runtime.config" => "now version = 2\nwas version = 3\n",
        "kernel.sysctl[net.ipv4.ip_forward]" => "now 1\nwas 0\n",
        "swap.active" => "was /swap.img\n",
        "swap.fstab" => "mode 644 root:root\n# ironstrap: /swap.img none swap sw 0 0\n",
        "ledger.empty" => "/var/lib/ironstrap\n/run/ironstrap\n",
        "ledger.files" => "",
        _ if matches!(want.fix, Fix::ByHand(_)) => "",
        _ if matches!(want.ask, Ask::File(_)) => return Answer::Absent,
        _ => return Answer::NotHere,
    };
    Answer::Said(said.into())
}

#[test]
fn the_plan_and_the_scripts_of_a_reset_match() {
    let lab = Untouched::lab();
    let (node, now) = (lab.node("w2"), OffsetDateTime::now_utc());
    let (machine, fleet) = (&lab.machines["w2"], &lab.fleet);
    let cx = Cx { cluster: &lab.cluster, node, pki: &lab.pki, now, machine, fleet };
    let run = Run::new("1f2e", "me@here");
    let (mut all, mut scripts) = (Vec::new(), String::new());
    for stage in reset::stages().iter().filter(|stage| stage.is_asked_of(node)) {
        let wants = reset::wants(stage, &cx).unwrap();
        let answers: Vec<Answer> = wants.iter().map(|(_, want)| reset_answer(want)).collect();
        let judged: Vec<plan::Answered> =
            wants.iter().zip(&answers).map(|((step, want), answer)| (*step, want, answer)).collect();
        let changes = plan::changes(&judged, &mut Default::default());
        let script = ledger::fix(&run, None, &changes.iter().collect::<Vec<_>>(), BOUNDARY);
        scripts += &format!("==> {}\n{}\n", stage.name, own(&script));
        all.extend(changes);
    }
    let plan = [("w2".to_string(), all)];
    snapshot("reset-plan", &report::plan::reset(&plan, &lab.cluster.nodes, false).join("\n"));
    snapshot("reset-plan-verbose", &report::plan::reset(&plan, &lab.cluster.nodes, true).join("\n"));
    snapshot("reset-scripts", &scripts);
}

#[test]
fn the_changes_for_an_addon_match() {
    let mut lab = Untouched::lab();
    let manifest = "apiVersion: example.com/v1\nkind: Widget\nmetadata: {name: small}\nspec: {size: 1}\n---\n\
        apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: widgets.example.com}\n---\n\
        apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: shop}\n";
    let (objects, wrong) = ironstrap::inventory::objects(manifest, "widgets.yaml");
    assert_eq!(wrong, Vec::<String>::new());
    lab.cluster.addons = vec![Addon {
        name: "widgets".into(),
        origin: Origin::File,
        wait: true,
        objects: objects.unwrap(),
        written: "demo.toml:7".into(),
    }];
    let changes = lab.changes(lab.node("m1"), |stage| stage == "settle");
    let changes: Vec<Change> = changes.into_iter().filter(|change| change.step == "addons").collect();
    let run = Run::new("1f2e", "me@here");
    let script = ledger::fix(&run, None, &changes.iter().collect::<Vec<_>>(), BOUNDARY);
    snapshot("fix-addons", &own(&script));
    snapshot("plan-addons", &report::plan::lines(&[("m1".into(), changes)], &lab.cluster.nodes).join("\n"));
}

#[test]
fn errors_about_the_fleet_match() {
    let mut lab = Untouched::lab();
    let stranger = new_pki(&lab.cluster);
    let m1 = lab.machines.get_mut("m1").unwrap();
    m1.has.insert("manifests/kube-apiserver.yaml".into());
    let identity = [
        ("kubernetes", "1.35.0"),
        ("pods", "10.245.0.0/16"),
        ("services", "10.96.0.0/12"),
        ("endpoint", "api.demo.internal:6443"),
        ("name", "demo"),
    ];
    m1.identity = identity.map(|(key, value)| (key.to_string(), value.to_string())).into();
    lab.machines.get_mut("w1").unwrap().authorities = vec![("kubelet.conf".into(), stranger.ca.cert.clone())];
    lab.machines.get_mut("w2").unwrap().hostname = "w1".into();
    let clocks = [("m1", 0.2), ("w1", -3600.4), ("w2", 0.0)].map(|(name, ahead)| (name.to_string(), ahead));
    let mut errors: Vec<Error> = Vec::new();
    for kept in [true, false] {
        let refusals = fleet::refusals(&lab.cluster, &heard(&lab.machines), &lab.pki, ("demo.trust", kept));
        errors.extend(refusals.into_iter().map(|(error, _)| error));
    }
    errors.extend(fleet::findings(&lab.cluster, &heard(&lab.machines), &clocks.into()));
    let text: Vec<String> =
        errors.iter().map(|error| format!("[{}]\n{}", error.kind.code(), report::trouble(error))).collect();
    snapshot("errors-fleet", &text.join("\n\n"));
}
