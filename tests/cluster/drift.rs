//! Drift of real machines: each of these is broken by hand, shown by a plan as that and nothing else, and
//! mended by an apply.

use std::collections::BTreeSet;

use crate::client::Triple;
use crate::lab::NODES;
use crate::world::World;
use crate::{Ground, Scenario};

macro_rules! drift {
    ($($says:literal: $node:literal $script:literal => $($on:literal $step:literal $that:literal),+;)+) => {
        &[$(Scenario {
            says: concat!("mended: ", $says),
            ground: Ground::Cluster,
            run: |world| drifts(world, $node, $script, &[$(($on, $step, $that)),+]),
        }),+]
    };
}

pub const SCENARIOS: &[Scenario] = drift! {
    "an edit of containerd's config": "w1" "echo '# edited' >>/etc/containerd/config.toml" =>
        "w1" "runtime" "containerd's config is ours",
        "w1" "runtime" "containerd runs its current config";
    "containerd stopped": "w2" "systemctl stop containerd" =>
        "w2" "runtime" "containerd runs its current config";
    "the kubelet stopped and disabled": "w1" "systemctl disable -q --now kubelet" =>
        "w1" "kubelet" "the kubelet starts at boot",
        "w1" "member" "kubelet runs its current config";
    "a swap line back in fstab": "w1" "echo '/swap.img none swap sw 0 0' >>/etc/fstab" =>
        "w1" "swap" "fstab brings no swap back";
    "swap on": "w2" "swapon /swap.img" =>
        "w2" "swap" "no swap is active";
    "a kernel setting": "w2" "sysctl -qw net.ipv4.ip_forward=0" =>
        "w2" "kernel" "net.ipv4.ip_forward is 1";
    "a name lost from /etc/hosts": "m1" "sed -i '/ w2 /d' /etc/hosts" =>
        "m1" "hosts" "the cluster's names are in /etc/hosts";
    "a package no longer held": "w2" "apt-mark unhold kubeadm" =>
        "w2" "kubelet" "kubelet, kubeadm and kubectl are 1.36.3 and held";
    "a leaf certificate gone": "m1" "rm /etc/kubernetes/pki/apiserver-kubelet-client.crt" =>
        "m1" "pki" "apiserver-kubelet-client.crt is the trust's";
    "a manifest of kubeadm's edited": "m1" "sed -i s/--kube-api-qps=51/--kube-api-qps=52/ /etc/kubernetes/manifests/kube-scheduler.yaml" =>
        "m1" "member" "what kubeadm wrote is as it wrote it, from this inventory";
    "the network's DaemonSet edited": "m1" "kubectl --kubeconfig /etc/kubernetes/admin.conf -n kube-flannel set resources daemonset/flannel -c flannel --requests=cpu=50m" =>
        "m1" "network" "DaemonSet kube-flannel/flannel is as wanted";
    "the API server's access to kubelets gone": "m1" "kubectl --kubeconfig /etc/kubernetes/admin.conf delete clusterrolebinding kubeadm:apiserver-kubelet-client" =>
        "m1" "access" "ClusterRoleBinding kubeadm:apiserver-kubelet-client is as wanted";
    "a label gone": "m1" "kubectl --kubeconfig /etc/kubernetes/admin.conf label node w1 disk-" =>
        "m1" "labels" "w1 has its labels and taints";
};

fn drifts(world: &World, node: &str, script: &str, expected: &[(&str, &str, &str)]) {
    let expected: BTreeSet<Triple> =
        expected.iter().map(|(n, s, t)| (n.to_string(), s.to_string(), t.to_string())).collect();
    world.lab.ssh(node, script);
    let plan = world.plan().good();
    assert_eq!(plan.triples("drift"), expected);
    let mended = world.apply().good();
    assert_eq!(mended.triples("fixed"), expected);
    for node in NODES {
        let touched = expected.iter().any(|(n, ..)| n == node);
        // The first of the inventory is where two operators would meet; nobody else is even spoken to.
        assert!(touched || node == "m1" || mended.of_node(node, "execs") == 1, "{node} was worked on");
    }
    world.assert_converged();
}
