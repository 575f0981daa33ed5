//! The client, kubeadm or a machine is killed in the middle of an apply, and the next run completes it. The tests stop
//! processes with SIGSTOP, so that a step is certainly incomplete.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client::Client;
use crate::lab::{Machine, NODES, Process, alive, signal};
use crate::world::{PATIENCE, World};
use crate::{Ground, Scenario, so, until};

/// One apply of new machines. Its client is killed many times.
pub const CLIENT: &[Scenario] = &[
    Scenario {
        says: "after a kill while apt unpacks, the next run waits for apt",
        ground: Ground::Fresh,
        run: while_apt_unpacks,
    },
    Scenario {
        says: "client and script are killed while half of the PKI is written",
        ground: Ground::Before,
        run: half_of_the_pki,
    },
    Scenario {
        says: "the client is killed in init, before the API answers",
        ground: Ground::Before,
        run: before_the_api,
    },
    Scenario {
        says: "the client is killed in init, after the API is ready and before kubeadm uploads its configuration",
        ground: Ground::Before,
        run: before_upload,
    },
    Scenario {
        says: "the client is killed while half of the network is applied and a worker requests its certificate",
        ground: Ground::Before,
        run: network_and_bootstrap,
    },
    Scenario {
        says: "after all these kills the next run completes the cluster",
        ground: Ground::Before,
        run: finished,
    },
];

/// A second apply of new machines. Machines lose power, and kubeadm is killed.
pub const NODE: &[Scenario] = &[
    Scenario {
        says: "a power loss of a worker in apt and a killed kubeadm init fail the run",
        ground: Ground::Fresh,
        run: worker_cut_and_init_killed,
    },
    Scenario {
        says: "a run continues after a power loss of the control plane in init",
        ground: Ground::Before,
        run: init_cut,
    },
    Scenario {
        says: "after a killed kubeadm join the next run completes the cluster",
        ground: Ground::Before,
        run: join_killed,
    },
];

/// A third apply of new machines. Only SSH connections are cut.
pub const WAY: &[Scenario] = &[Scenario {
    says: "a run completes the cluster although its connections are cut many times",
    ground: Ground::Fresh,
    run: cut_over_and_over,
}];

/// In seconds: long enough for each intermediate step on two busy cores.
const SOON: u64 = 120;

/// Waits until dpkg unpacks the kubelet's package, and stops it.
pub fn dpkg_unpacking(client: &mut Client, machine: &Machine) -> Vec<Process> {
    client.until("dpkg unpacks the kubelet", SOON, |_| so(machine.has("/usr/bin/kubelet.dpkg-new")));
    let dpkg = machine.running("dpkg", &[]);
    signal("STOP", &dpkg);
    assert!(machine.has("/usr/bin/kubelet.dpkg-new"), "the package is not half unpacked any more");
    dpkg
}

fn while_apt_unpacks(world: &World) {
    // The next scenario needs m1 without its PKI, so this run excludes m1.
    let limited = ["apply", "--yes", "--limit", "w1"];
    let mut client = world.start(&limited);
    let w1 = world.lab.machine("w1");
    let dpkg = dpkg_unpacking(&mut client, &w1);
    client.kill();
    assert!(!dpkg.is_empty() && dpkg.iter().all(alive), "dpkg outlives the client");
    assert!(w1.has("/run/systemd/transient/ironstrap-kubelet.service"));
    assert!(!w1.has("/usr/bin/kubelet"), "the kubelet is already unpacked");
    // A run from another folder cannot take over.
    let copy = world.copy("copy");
    let over = world.start_as("operator", &copy, &["apply", "--yes", "--limit", "w1", "--take-over"]).end(60);
    over.refused(9, "w1", &["the unit ironstrap-kubelet, which operator@", " still "]);
    std::fs::remove_dir_all(&copy).unwrap();
    let script = world.lab.ssh("w1", "echo /run/ironstrap/kubelet.*.sh");
    let script = script.trim().to_string();
    assert!(w1.has(&script), "{script}");
    let mut next = world.start(&limited);
    next.event("the next run waits for apt on w1", SOON, |e| attached(e, "w1", "kubelet"));
    next.event("it shows what apt has said", SOON, |e| e["event"] == "said" && e["node"] == "w1");
    signal("CONT", &dpkg);
    until("apt is done on w1", SOON, || so(w1.has("/usr/bin/kubelet") && w1.has("/usr/bin/kubeadm")));
    // w1 cannot join, because --limit excludes m1.
    let ended = next.end(SOON);
    let code = ended.code.unwrap();
    ended.refused(code, "w1", &["waits for m1, which --limit excludes"]);
    assert!(code == 5 || code == 8, "{code}");
    assert!(!world.lab.machine("m1").has("/etc/kubernetes"), "m1 was changed");
    assert!(!w1.has(&script) && !w1.has(&script.replace(".sh", ".log")), "the next run deletes: {script}");
}

pub fn attached(event: &Value, node: &str, unit: &str) -> bool {
    event["event"] == "attached" && event["node"] == node && event["unit"] == unit
}

fn half_of_the_pki(world: &World) {
    let mut client = world.applying();
    let m1 = world.lab.machine("m1");
    client.until("the first file of the PKI exists", SOON, |_| so(m1.has("/etc/kubernetes/pki/ca.key")));
    let scripts = m1.running("sh", &["-s"]);
    signal("STOP", &scripts);
    let is_half = || m1.has("/etc/kubernetes/pki/ca.key") && !m1.has("/etc/kubernetes/pki/sa.pub");
    assert!(is_half(), "not exactly half of the PKI is written");
    client.kill();
    signal("KILL", &scripts);
    until("the script has ended", 10, || so(!scripts.iter().any(alive)));
    assert!(is_half(), "not exactly half of the PKI is written");
}

/// Waits until kubeadm waits for the API server, and stops it.
fn init_waiting(client: &mut Client, m1: &Machine) -> Vec<Process> {
    let begun =
        || m1.has("/etc/kubernetes/manifests/kube-apiserver.yaml") && !m1.running("kubelet", &[]).is_empty();
    client.until("init waits for the API server", SOON, |_| so(begun()));
    let kubeadm = m1.running("kubeadm", &["init"]);
    signal("STOP", &kubeadm);
    assert!(!m1.listens(6443), "the API server listens already");
    assert!(kubeadm.len() == 1 && alive(&kubeadm[0]), "kubeadm runs: {kubeadm:?}");
    kubeadm
}

fn before_the_api(world: &World) {
    let mut client = world.applying();
    let m1 = world.lab.machine("m1");
    let kubeadm = init_waiting(&mut client, &m1);
    client.kill();
    assert!(!m1.listens(6443), "the API server listens already");
    assert!(kubeadm.iter().all(alive), "kubeadm outlives the client");
}

/// kubectl on m1 before the end of init.
const SUPER_KUBECTL: &str = "kubectl --kubeconfig /etc/kubernetes/super-admin.conf --request-timeout=5s";

/// Waits until the API is ready, and checks that kubeadm has not uploaded its configuration yet.
fn api_up_and_nothing_uploaded(world: &World, m1: &Machine) {
    until("the API server listens", SOON, || so(m1.listens(6443)));
    let ready = format!("{SUPER_KUBECTL} get --raw /readyz 2>&1 || :");
    until("the API is ready", SOON, || so(world.lab.ssh("m1", &ready) == "ok"));
    let get = format!("{SUPER_KUBECTL} -n kube-system get configmap kubeadm-config 2>&1 || :");
    let maps = world.lab.ssh("m1", &get);
    assert!(maps.contains("NotFound"), "kubeadm-config exists already: {maps}");
}

fn before_upload(world: &World) {
    let m1 = world.lab.machine("m1");
    let kubeadm = m1.running("kubeadm", &["init"]);
    assert_eq!(kubeadm.len(), 1, "the scenario before left a stopped kubeadm");
    let mut client = world.applying();
    client.event("the client waits for init", SOON, |e| attached(e, "m1", "kubeadm"));
    api_up_and_nothing_uploaded(world, &m1);
    client.kill();
    assert!(kubeadm.iter().all(alive), "kubeadm outlives the client");
    api_up_and_nothing_uploaded(world, &m1);
}

/// Whether a worker's kubelet runs and waits for its certificate.
pub fn bootstrapping(machine: &Machine) -> bool {
    machine.has("/etc/kubernetes/bootstrap-kubelet.conf")
        && !machine.has("/var/lib/kubelet/pki/kubelet-client-current.pem")
        && !machine.running("kubelet", &[]).is_empty()
}

/// Whether the client has begun to apply flannel.
fn applies_the_network(client: &mut Client) -> bool {
    client.listen();
    client.seen.iter().any(|e| e["event"] == "fixing" && e["step"] == "network")
}

/// A port of m1 that accepts connections and never answers.
const SILENT_PORT: &str = "9999";

/// Adds a webhook that never answers. A request to create flannel's DaemonSet now waits for half a minute and then fails.
fn hold_daemonsets(world: &World) {
    let webhook = format!(
        r#"{{"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {{"name": "hold"}}, "webhooks": [{{
          "name": "hold.lab.test", "timeoutSeconds": 30, "failurePolicy": "Fail", "sideEffects": "None",
          "admissionReviewVersions": ["v1"], "clientConfig": {{"url": "https://127.0.0.1:{SILENT_PORT}/"}},
          "namespaceSelector": {{"matchLabels": {{"kubernetes.io/metadata.name": "kube-flannel"}}}},
          "rules": [{{"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["daemonsets"]}}]
        }}]}}"#
    );
    let silent =
        format!("systemd-run --quiet --unit=silent systemd-socket-activate -l {SILENT_PORT} sleep 600");
    world.lab.ssh("m1", &format!("{silent}; {SUPER_KUBECTL} create -f - <<'E'\n{webhook}\nE"));
}

fn release_daemonsets(world: &World) {
    let delete = format!("{SUPER_KUBECTL} delete validatingwebhookconfiguration hold; systemctl stop silent");
    world.lab.ssh("m1", &delete.replace("super-admin", "admin"));
}

/// Whether the cluster has this object of flannel.
fn is_there(world: &World, object: &str) -> bool {
    let get =
        "kubectl --kubeconfig /etc/kubernetes/admin.conf get --ignore-not-found -o name -n kube-flannel";
    !world.lab.ssh("m1", &format!("{get} {object}")).trim().is_empty()
}

fn network_and_bootstrap(world: &World) {
    let (m1, w1) = (world.lab.machine("m1"), world.lab.machine("w1"));
    let kubeadm = m1.running("kubeadm", &["init"]);
    let mut client = world.applying();
    client.event("the client waits for init", SOON, |e| attached(e, "m1", "kubeadm"));
    hold_daemonsets(world);
    signal("CONT", &kubeadm);
    let (mut joining, mut network) = (None, vec![]);
    client.until("a worker joins and the network is applied", SOON, |client| {
        if joining.is_none() && bootstrapping(&w1) {
            let both = [w1.running("kubelet", &[]), w1.running("kubeadm", &["join"])].concat();
            signal("STOP", &both);
            assert!(bootstrapping(&w1), "w1 has its certificate already");
            joining = Some(both);
        }
        if network.is_empty() && applies_the_network(client) {
            network = m1.running("kubectl", &["apply"]);
            signal("STOP", &network);
        }
        so(joining.is_some() && !network.is_empty())
    });
    let joining = joining.unwrap();
    signal("CONT", &network);
    until("flannel's namespace is there", SOON, || so(is_there(world, "namespace kube-flannel")));
    assert_half_network(world);
    client.kill();
    assert!(joining.iter().all(alive), "kubelet and kubeadm outlive the client: {joining:?}");
    until("kubectl has ended", 60, || so(!network.iter().any(alive)));
    assert_half_network(world);
    release_daemonsets(world);
    assert!(bootstrapping(&w1));
    let mut next = world.applying();
    next.event("the next run waits for join on w1", SOON, |e| attached(e, "w1", "kubeadm"));
    signal("CONT", &joining);
    next.kill();
}

/// Checks that flannel's namespace exists and its DaemonSet does not.
fn assert_half_network(world: &World) {
    let there = ["namespace kube-flannel", "daemonset flannel"].map(|object| is_there(world, object));
    assert_eq!(there, [true, false]);
}

fn finished(world: &World) {
    world.apply().good();
    let again = world.apply().good();
    assert_eq!(again.changes(), 0);
    for node in NODES {
        assert_eq!(again.of_node(node, "execs"), 1);
    }
}

fn worker_cut_and_init_killed(world: &World) {
    let mut client = world.applying();
    let (m1, w1) = (world.lab.machine("m1"), world.lab.machine("w1"));
    dpkg_unpacking(&mut client, &w1);
    world.lab.run(&["cut", "w1"]);
    assert!(world.lab.disk("w1", "/usr/bin/kubelet.dpkg-new").exists(), "the package is half unpacked");
    let mut boot = world.lab.begin(&["boot", "w1"]);
    let kubeadm = init_waiting(&mut client, &m1);
    signal("KILL", &kubeadm);
    assert!(boot.wait().unwrap().success(), "w1 boots");
    let ended = client.end(PATIENCE);
    assert!(!m1.has("/var/lib/ironstrap/kubeadm-receipt"), "init ended successfully");
    let code = ended.code.unwrap();
    assert!(code == 7 || code == 8, "{code}: {}", ended.errors());
    ended.refused(code, "m1", &["member: the fix failed: expected that m1 runs the control plane"]);
}

fn init_cut(world: &World) {
    let mut client = world.applying();
    let m1 = world.lab.machine("m1");
    let kubeadm = client
        .until("init runs again", SOON, |_| Some(m1.running("kubeadm", &["init"])).filter(|k| !k.is_empty()));
    signal("STOP", &kubeadm);
    api_up_and_nothing_uploaded(world, &m1);
    world.lab.run(&["cut", "m1"]);
    world.lab.run(&["boot", "m1"]);
    let w1 = world.lab.machine("w1");
    client.until("w1 joins", PATIENCE, |_| so(bootstrapping(&w1)));
    let (kubelet, kubeadm) = (w1.running("kubelet", &[]), w1.running("kubeadm", &["join"]));
    signal("STOP", &kubelet);
    signal("KILL", &kubeadm);
    assert!(kubeadm.len() == 1 && bootstrapping(&w1), "killed in the middle of join");
    signal("CONT", &kubelet);
    let ended = client.end(PATIENCE);
    ended.refused(8, "w1", &["member: the fix failed: expected that w1 is a member of demo"]);
}

fn join_killed(world: &World) {
    world.apply().good();
    world.assert_converged();
    let nodes = world.kubectl(&[
        "get",
        "nodes",
        "-o",
        r#"jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}"#,
    ]);
    assert_eq!(nodes, "True True True");
}

/// The pause between two cuts of connections, and their number. The machines take turns.
const CUT_EVERY: Duration = Duration::from_secs(2);
const CUTS: usize = 40;

fn cut_over_and_over(world: &World) {
    let machines = NODES.map(|node| world.lab.machine(node));
    let (mut client, mut cuts, mut next) = (world.applying(), 0, Instant::now());
    let end = Instant::now() + Duration::from_secs(PATIENCE);
    while !client.has_ended() && cuts < CUTS && Instant::now() < end {
        if Instant::now() >= next {
            let of_sshd =
                |p: &Process| p.words.first().is_some_and(|word| word.starts_with("sshd-session: "));
            let sessions: Vec<Process> =
                machines[cuts % NODES.len()].processes().into_iter().filter(of_sshd).collect();
            signal("KILL", &sessions);
            // Only a machine with a session counts.
            cuts += usize::from(!sessions.is_empty());
            next = Instant::now() + CUT_EVERY;
        }
        client.listen();
        std::thread::sleep(Duration::from_millis(50));
    }
    client.end(PATIENCE).good();
    println!("  cut {cuts} times");
    assert!(cuts >= 5, "only {cuts} connections were cut");
    world.assert_converged();
}
