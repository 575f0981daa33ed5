//! A new machine joins, and a reinstalled machine joins again. The other machines stay unchanged.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use crate::client::Triple;
use crate::drift::certificates::kubelets;
use crate::killed::bootstrapping;
use crate::lab::{signal, text};
use crate::world::{PATIENCE, World, set};
use crate::{Ground, Scenario, so};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        says: "a machine added to the inventory joins, and the others get only its name",
        ground: Ground::Fresh,
        run: machine_is_added,
    },
    Scenario {
        says: "a reinstalled machine joins only after its new host key is accepted",
        ground: Ground::Before,
        run: machine_is_reinstalled,
    },
    Scenario {
        says: "a machine that lost power before it got its certificate joins with the next run",
        ground: Ground::Cluster,
        run: power_is_lost_before_the_certificate,
    },
    Scenario {
        says: "machines come back after the certificates of their kubelets expired",
        ground: Ground::Cluster,
        run: certificates_expired,
    },
];

const OTHERS: [&str; 2] = ["m1", "w1"];
const TOKENS: &[&str] = &[
    "-n",
    "kube-system",
    "get",
    "secrets",
    "--field-selector",
    "type=bootstrap.kubernetes.io/token",
    "-o",
    "name",
];

/// The state of a machine that must not change when another joins. It leaves out /etc/hosts and ironstrap's record of it.
fn unchanged_state(world: &World, node: &str) -> BTreeSet<String> {
    let grows = |line: &String| {
        let mut words = line.split(' ');
        words.any(|word| word == "/etc" || word == "/etc/hosts" || word.starts_with("/var/lib/ironstrap"))
    };
    world.lab.looks(node).into_iter().filter(|line| !grows(line)).collect()
}

/// The programs that must not restart, with their process ids.
fn programs(world: &World, node: &str) -> Vec<(String, u32)> {
    let machine = world.lab.machine(node);
    let names = ["kubelet", "containerd", "kube-apiserver", "etcd", "flanneld", "kube-proxy"];
    let running = names.into_iter().flat_map(|name| machine.running(name, &[]));
    running.map(|process| (process.words[0].clone(), process.pid)).collect()
}

fn triple(node: &str, step: &str, that: &str) -> Triple {
    (node.into(), step.into(), that.into())
}

fn machine_is_added(world: &World) {
    world.inventory(|table| {
        table["nodes"].as_table_mut().unwrap().remove("w2").unwrap();
    });
    world.apply().good();
    assert_eq!(world.kubectl(TOKENS), "", "a token is left");
    world.assert_converged();
    let before = OTHERS.map(|node| (unchanged_state(world, node), programs(world, node)));

    world.inventory(|_| {});
    let planned = world.plan().triples("drift");
    let of_others: BTreeSet<Triple> = planned.into_iter().filter(|(node, ..)| node != "w2").collect();
    let of_w2 = |(_, step, that): &&Triple| {
        !(step == "nodes" || step == "labels" || that == "bootstrap.earlier-machine[w2]")
    };
    let of_others: BTreeSet<Triple> = of_others.iter().filter(of_w2).cloned().collect();
    let names = "hosts.file";
    let due = [triple("m1", "hosts", names), triple("w1", "hosts", names)];
    assert_eq!(of_others, BTreeSet::from(due));

    world.apply().good();
    for (node, before) in OTHERS.iter().zip(&before) {
        let after = (unchanged_state(world, node), programs(world, node));
        assert_eq!(&after, before, "{node} was touched");
    }
    assert_eq!(world.kubectl(TOKENS), "", "a token was made");
    assert_is_ready(world);
    world.assert_converged();
}

fn assert_is_ready(world: &World) {
    let ready = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status} {.status.nodeInfo.machineID}"#;
    let id = world.lab.ssh("w2", "cat /etc/machine-id");
    assert_eq!(world.kubectl(&["get", "node", "w2", "-o", ready]), format!("True {}", id.trim()));
}

fn machine_is_reinstalled(world: &World) {
    // The operator's own known_hosts file, because the lab rewrites its own.
    let (known, lab) = (world.dir.join("known_hosts"), &world.lab.home);
    fs::copy(lab.join("known_hosts"), &known).unwrap();
    let path = format!("{:?}", known.to_str().unwrap());
    world.inventory(|table| set(table, &["ssh", "known-hosts"], &path));
    let old = fingerprint(world);
    for file in ["w2", "w2.pub"] {
        fs::remove_file(lab.join("hostkeys").join(file)).unwrap();
    }
    world.lab.run(&["fresh", "w2"]);
    let new = fingerprint(world);
    let before = OTHERS.map(|node| (unchanged_state(world, node), programs(world, node)));

    let refused = world.apply().refused(8, "w2", &["the host key of 198.18.0.13", &old, &new]);
    assert_eq!(refused.changes(), 0);
    let hints: Vec<&str> = refused.events.iter().filter_map(|event| event["hint"].as_str()).collect();
    let command = hints.iter().find_map(|hint| hint.split_once(": ")?.1.split_once(", then again with"));
    let (command, rest) = command.unwrap_or_else(|| panic!("no hint contains a command: {hints:?}"));
    assert!(rest.contains("--accept-new-host-keys"), "{rest}");
    let done = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(done.status.success(), "{command}: {}", text(&done.stderr));

    world.start(&["apply", "--yes", "--accept-new-host-keys"]).end(crate::world::PATIENCE).good();
    assert_is_ready(world);
    for (node, before) in OTHERS.iter().zip(&before) {
        let after = (unchanged_state(world, node), programs(world, node));
        assert_eq!(&after, before, "{node} was touched");
    }
    world.assert_converged();
}

/// The controller manager is stopped while w2 joins, so its kubelet waits for a certificate.
fn power_is_lost_before_the_certificate(world: &World) {
    let (m1, w2) = (world.lab.machine("m1"), world.lab.machine("w2"));
    world.start(&["remove", "--yes", "w2"]).end(PATIENCE).good();
    let managers = m1.running("kube-controller-manager", &[]);
    assert_eq!(managers.len(), 1);
    let mut client = world.applying();
    client.until("w2 joins", PATIENCE, |_| so(!w2.running("kubeadm", &["join"]).is_empty()));
    // Not earlier: the kubelet restarts a controller manager that does not answer for 80 seconds.
    signal("STOP", &managers);
    client.until("w2 asks for its certificate", 60, |_| so(bootstrapping(&w2)));
    world.lab.run(&["cut", "w2"]);
    client.kill();
    world.lab.run(&["boot", "w2"]);
    assert!(!w2.has("/var/lib/kubelet/pki/kubelet-client-current.pem"), "w2 has its certificate already");

    let plan = world.plan();
    let (drift, member) = (plan.triples("drift"), triple("w2", "member", "member.joined"));
    assert!(drift.contains(&member), "the plan treats it as joined: {drift:#?} {}", plan.errors());
    signal("CONT", &managers);
    world.apply().good();
    assert_is_ready(world);
    world.assert_converged();
}

/// A kubelet with an expired certificate ends as soon as it starts, so the control plane does not start by itself.
fn certificates_expired(world: &World) {
    for node in ["m1", "w1"] {
        kubelets(world, node, "ca", "", -1);
        world.lab.run(&["cut", node]);
        world.lab.run(&["boot", node]);
    }
    let valid = |node: &str| triple(node, "kubeconfigs", "kubeconfigs.kubelet-certificate");
    let planned = world.plan().triples("drift");
    assert!(planned.contains(&valid("m1")) && planned.contains(&valid("w1")), "{planned:#?}");
    let applied = world.apply().good().triples("fixed");
    assert!(applied.contains(&valid("m1")) && applied.contains(&valid("w1")), "{applied:#?}");
    world.settled();
    world.assert_pods_reached();
    world.assert_converged();
}

/// The fingerprint of w2's present host key, in the format of ssh-keygen.
pub fn fingerprint(world: &World) -> String {
    let key = world.lab.home.join("hostkeys/w2.pub");
    let shown = Command::new("ssh-keygen").args(["-l", "-f"]).arg(key).output().unwrap();
    text(&shown.stdout).split(' ').nth(1).unwrap().to_string()
}
