//! Drift of modes and owners.

use super::By::{Anywhere, Root};
use super::{KIND, Kind};

const MODES: &str = "permissions.modes";
const APTS: &str = "permissions.package-sources";

pub const KINDS: &[Kind] = &[
    Kind {
        says: "files: the folder of static pods is world-writable",
        by: Root("m1", "chmod 777 /etc/kubernetes/manifests"),
        shows: &[(".", "files", MODES, "/etc/kubernetes/manifests: mode 777 root:root")],
        ..KIND
    },
    Kind {
        says: "files: a static pod's manifest is world-writable",
        by: Root("m1", "chmod 666 /etc/kubernetes/manifests/etcd.yaml"),
        shows: &[(".", "files", MODES, "/etc/kubernetes/manifests/etcd.yaml: mode 666 root:root")],
        ..KIND
    },
    Kind {
        says: "files: the kubelet's key is world-readable",
        by: Anywhere("w1", "chmod 644 $(readlink -f /var/lib/kubelet/pki/kubelet-client-current.pem)"),
        shows: &[(".", "files", MODES, ".pem: mode 644 root:root")],
        ..KIND
    },
    Kind {
        says: "files: the kubelet's flags file is world-writable",
        by: Anywhere("w2", "chmod 666 /var/lib/kubelet/kubeadm-flags.env"),
        shows: &[
            (".", "files", MODES, "/var/lib/kubelet/kubeadm-flags.env: mode 666 root:root"),
            (".", "member", "member.kubelet-unit", "but /var/lib/kubelet/kubeadm-flags.env"),
        ],
        ..KIND
    },
    Kind {
        says: "files: etcd's folder has another owner",
        by: Root("m1", "chown ops: /var/lib/etcd"),
        shows: &[(".", "files", MODES, "/var/lib/etcd: mode 700 ops:ops")],
        then: "[ \"$(stat -c '%a %U:%G' /var/lib/etcd)\" = '700 root:root' ]",
        ..KIND
    },
    Kind {
        says: "files: apt cannot read its folder of keys",
        by: Anywhere("w1", "chmod 700 /etc/apt/keyrings"),
        shows: &[(".", "kubelet", APTS, "/etc/apt/keyrings: mode 700 root:root")],
        ..KIND
    },
];
