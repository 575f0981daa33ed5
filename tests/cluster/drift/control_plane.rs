//! Drift of the control plane: kubeadm's files on the machine and its ConfigMaps in the cluster.

use super::By::{Kubectl, Root};
use super::{KIND, Kind};

const WROTE: &str = "member.kubeadm-files";
const EDITED: &str = "it was edited since kubeadm wrote it";

pub const KINDS: &[Kind] = &[
    Kind {
        says: "control plane: the scheduler's manifest is edited",
        by: Root(
            "m1",
            "sed -i s/--kube-api-qps=51/--kube-api-qps=52/ /etc/kubernetes/manifests/kube-scheduler.yaml",
        ),
        shows: &[(".", "member", WROTE, "/etc/kubernetes/manifests/kube-scheduler.yaml was edited")],
        ..KIND
    },
    Kind {
        // The kubelet uses kubeadm's file, which comes first.
        says: "control plane: a copy of the scheduler's manifest is beside it",
        by: Root("m1", "cd /etc/kubernetes/manifests; cp -p kube-scheduler.yaml kube-scheduler.yaml.old"),
        shows: &[(
            ".",
            "member",
            "member.static-pods",
            "/etc/kubernetes/manifests/kube-scheduler.yaml.old defines the pod kube-scheduler, too",
        )],
        by_hand: "rm /etc/kubernetes/manifests/kube-scheduler.yaml.old",
        ..KIND
    },
    Kind {
        says: "control plane: a foreign manifest is noted and stays",
        by: Root("m1", "echo '# mine' >/etc/kubernetes/manifests/mine.yaml"),
        notes: "the kubelet also runs manifests that are not kubeadm's: /etc/kubernetes/manifests/mine.yaml",
        differs: &["/etc/kubernetes/manifests/mine.yaml"],
        then: "rm /etc/kubernetes/manifests/mine.yaml",
        ..KIND
    },
    Kind {
        says: "control plane: the scheduler's manifest is missing",
        by: Root("m1", "rm /etc/kubernetes/manifests/kube-scheduler.yaml"),
        shows: &[(".", "member", WROTE, "/etc/kubernetes/manifests/kube-scheduler.yaml is missing")],
        ..KIND
    },
    Kind {
        says: "control plane: the API server's manifest is missing",
        by: Root("m1", "rm /etc/kubernetes/manifests/kube-apiserver.yaml"),
        shows: &[(".", "member", WROTE, "/etc/kubernetes/manifests/kube-apiserver.yaml is missing")],
        silences_the_api: true,
        alone: "without the API, no other kind can follow it",
        ..KIND
    },
    Kind {
        // Long enough that the kubelet waits ever longer before it restarts the API server.
        says: "control plane: etcd's manifest is missing, and the API server crash-loops",
        by: Root("m1", "rm /etc/kubernetes/manifests/etcd.yaml; sleep 80"),
        shows: &[(".", "member", WROTE, "/etc/kubernetes/manifests/etcd.yaml is missing")],
        silences_the_api: true,
        alone: "without the API, no other kind can follow it",
        ..KIND
    },
    Kind {
        says: "control plane: the ConfigMap kubelet-config is edited",
        by: Kubectl(
            "k -n kube-system get configmap kubelet-config -o yaml | sed 's/maxPods: 77/maxPods: 79/' | k replace -f -",
        ),
        shows: &[("m1", "uploads", "kubeadm-config.config[kubelet-config]", EDITED)],
        ..KIND
    },
    Kind {
        says: "control plane: the ConfigMap kubeadm-config is edited",
        by: Kubectl(
            "k -n kube-system get configmap kubeadm-config -o yaml | sed 's/event-ttl/event-qps/' | k replace -f -",
        ),
        shows: &[("m1", "uploads", "kubeadm-config.config[kubeadm-config]", EDITED)],
        ..KIND
    },
    Kind {
        says: "control plane: the ConfigMap of kube-proxy is edited",
        by: Kubectl(
            "k -n kube-system get configmap kube-proxy -o yaml | sed 's/mode: nftables/mode: iptables/' | k replace -f -",
        ),
        shows: &[("m1", "uploads", "kubeadm-config.config[kube-proxy]", EDITED)],
        ..KIND
    },
    Kind {
        says: "control plane: the ConfigMap of kube-proxy is missing",
        by: Kubectl("k -n kube-system delete configmap kube-proxy"),
        shows: &[("m1", "uploads", "kubeadm-config.config[kube-proxy]", "it does not exist")],
        ..KIND
    },
];
