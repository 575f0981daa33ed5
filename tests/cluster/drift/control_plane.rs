//! Drift of the control plane: what kubeadm wrote on the machine, and what it keeps in the cluster.

use super::By::{Kubectl, Root};
use super::{KIND, Kind};

const WROTE: &str = "member.kubeadm-files";
const EDITED: &str = "it was edited since kubeadm wrote it";

pub const KINDS: &[Kind] = &[
    Kind {
        says: "control plane: the scheduler's manifest edited",
        by: Root(
            "m1",
            "sed -i s/--kube-api-qps=51/--kube-api-qps=52/ /etc/kubernetes/manifests/kube-scheduler.yaml",
        ),
        shows: &[(".", "member", WROTE, "/etc/kubernetes/manifests/kube-scheduler.yaml was edited")],
        ..KIND
    },
    Kind {
        // The kubelet takes kubeadm's, which comes first.
        says: "control plane: a copy of the scheduler's manifest beside it",
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
        says: "control plane: a manifest of somebody's own is noted, and stays",
        by: Root("m1", "echo '# mine' >/etc/kubernetes/manifests/mine.yaml"),
        notes: "the kubelet also runs manifests that are not kubeadm's: /etc/kubernetes/manifests/mine.yaml",
        differs: &["/etc/kubernetes/manifests/mine.yaml"],
        then: "rm /etc/kubernetes/manifests/mine.yaml",
        ..KIND
    },
    Kind {
        says: "control plane: the scheduler's manifest gone",
        by: Root("m1", "rm /etc/kubernetes/manifests/kube-scheduler.yaml"),
        shows: &[(".", "member", WROTE, "/etc/kubernetes/manifests/kube-scheduler.yaml is missing")],
        ..KIND
    },
    Kind {
        says: "control plane: the API server's manifest gone",
        by: Root("m1", "rm /etc/kubernetes/manifests/kube-apiserver.yaml"),
        shows: &[(".", "member", WROTE, "/etc/kubernetes/manifests/kube-apiserver.yaml is missing")],
        silences_the_api: true,
        alone: "with the API away, nothing can be broken in the cluster after it",
        ..KIND
    },
    Kind {
        // Long enough for the kubelet to wait between two starts of the API server, ever longer.
        says: "control plane: etcd's manifest gone for so long that the API server keeps ending",
        by: Root("m1", "rm /etc/kubernetes/manifests/etcd.yaml; sleep 80"),
        shows: &[(".", "member", WROTE, "/etc/kubernetes/manifests/etcd.yaml is missing")],
        silences_the_api: true,
        alone: "with the API away, nothing can be broken in the cluster after it",
        ..KIND
    },
    Kind {
        says: "control plane: kubelet-config edited in the cluster",
        by: Kubectl(
            "k -n kube-system get configmap kubelet-config -o yaml | sed 's/maxPods: 77/maxPods: 79/' | k replace -f -",
        ),
        shows: &[("m1", "uploads", "kubeadm-config.config[kubelet-config]", EDITED)],
        ..KIND
    },
    Kind {
        says: "control plane: kubeadm-config edited in the cluster",
        by: Kubectl(
            "k -n kube-system get configmap kubeadm-config -o yaml | sed 's/event-ttl/event-qps/' | k replace -f -",
        ),
        shows: &[("m1", "uploads", "kubeadm-config.config[kubeadm-config]", EDITED)],
        ..KIND
    },
    Kind {
        says: "control plane: kube-proxy's settings edited in the cluster",
        by: Kubectl(
            "k -n kube-system get configmap kube-proxy -o yaml | sed 's/mode: nftables/mode: iptables/' | k replace -f -",
        ),
        shows: &[("m1", "uploads", "kubeadm-config.config[kube-proxy]", EDITED)],
        ..KIND
    },
    Kind {
        says: "control plane: kube-proxy's settings deleted in the cluster",
        by: Kubectl("k -n kube-system delete configmap kube-proxy"),
        shows: &[("m1", "uploads", "kubeadm-config.config[kube-proxy]", "it does not exist")],
        ..KIND
    },
];
