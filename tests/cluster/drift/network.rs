//! Drift of the network.

use super::By::{Anywhere, Kubectl, Root};
use super::{KIND, Kind};

const BRIDGE: &str = "the bridge of the pods has its node's range";
const CONFLIST: &str = "the network is known to containerd";

pub const KINDS: &[Kind] = &[
    Kind {
        says: "network: the CNI configuration gone",
        by: Root("w1", "rm /etc/cni/net.d/10-flannel.conflist"),
        shows: &[(".", "cni", CONFLIST, "\"type\": \"flannel\"")],
        ..KIND
    },
    Kind {
        says: "network: the CNI configuration edited",
        by: Anywhere("w2", "sed -i s/portmap/bandwidth/ /etc/cni/net.d/10-flannel.conflist"),
        shows: &[(".", "cni", CONFLIST, "\"type\": \"bandwidth\"")],
        ..KIND
    },
    Kind {
        says: "network: a plugin of the package gone",
        by: Anywhere("w2", "rm /opt/cni/bin/bridge"),
        shows: &[(".", "cni", "the plugins of kubernetes-cni are here", "/opt/cni/bin/bridge is gone")],
        ..KIND
    },
    Kind {
        says: "network: flannel's own plugin gone",
        by: Anywhere("w1", "rm /opt/cni/bin/flannel"),
        shows: &[(".", "cni", "flannel's plugin is here", "no\nyes")],
        ..KIND
    },
    Kind {
        says: "network: the bridge has another node's range",
        // Where coredns is: others may have no pods, and so no bridge.
        by: Root("m1", "ip address flush dev cni0 scope global; ip address add 10.244.77.1/24 dev cni0"),
        shows: &[(".", "cni", BRIDGE, "cni0 has 10.244.77.1/24, and flannel 10.244.")],
        ..KIND
    },
    Kind {
        says: "network: a Node no longer says how to reach its pods",
        by: Kubectl("k annotate node w2 flannel.alpha.coreos.com/public-ip-"),
        shows: &[("m1", "nodes", "the pods of w2 can be reached", "no word of how to reach its pods")],
        ..KIND
    },
    Kind {
        says: "network: flannel's DaemonSet edited",
        by: Kubectl("k -n kube-flannel set resources daemonset/flannel -c flannel --requests=cpu=50m"),
        shows: &[("m1", "network", "DaemonSet kube-flannel/flannel is as wanted", "cpu: \"50m\"")],
        ..KIND
    },
    Kind {
        says: "network: flannel's ConfigMap edited",
        by: Kubectl("k -n kube-flannel patch configmap flannel -p '{\"data\": {\"net-conf.json\": \"{}\"}}'"),
        shows: &[("m1", "network", "ConfigMap kube-flannel/flannel is as wanted", "10.244.0.0/16")],
        ..KIND
    },
    Kind {
        says: "network: flannel's ConfigMap gone",
        by: Kubectl("k -n kube-flannel delete configmap flannel"),
        shows: &[(
            "m1",
            "network",
            "ConfigMap kube-flannel/flannel is as wanted",
            "ConfigMap kube-flannel/flannel",
        )],
        ..KIND
    },
    Kind {
        says: "network: flannel no longer lets in",
        by: Kubectl("k delete clusterrolebinding flannel"),
        shows: &[("m1", "network", "ClusterRoleBinding flannel is as wanted", "ClusterRoleBinding flannel")],
        ..KIND
    },
];
