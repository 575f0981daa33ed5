//! The preflight checks of kubeadm (1.36, `app/preflight`), each with the part of ironstrap that finds the same problem
//! first. The checks that only ironstrap has are here, too. `ignore-preflight` understands all these names.

/// How ironstrap makes sure that a check of kubeadm passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// ironstrap asks each machine before the first change.
    Asked,
    /// A step has made it true before kubeadm runs.
    EnsuredByStep,
    /// ironstrap tries it on all machines together before the first change.
    Tried,
    /// The check cannot fail in a cluster of ironstrap.
    Never,
}

use How::{Asked, EnsuredByStep, Never, Tried};

/// Checks that only ironstrap has. kubeadm has no checks with these names.
pub const ONLY_OURS: &[&str] = &[
    "MachineID",
    "ProductUUID",
    "MACAddress",
    "HostKey",
    "NodeAddress",
    "Address",
    "Routes",
    "Disk",
    "Inodes",
    "Snapshotter",
    "Packages",
    "DefaultRoute",
    "ResolvConf",
    "EtcdFolder",
    "Leftovers",
    "KubeletArgs",
    "UnitFiles",
    "Reach",
    "MTU",
    "Sources",
    "Endpoint",
];

/// kubeadm's checks: the name, how ironstrap makes sure that it passes, and a text. For `Asked` and `EnsuredByStep` the
/// text is the want's sentence, up to the part that depends on the cluster. For `Tried` it is the name of our check.
/// For `Never` it is the reason.
pub const PREDICTED: &[(&str, How, &str)] = &[
    ("IsPrivilegedUser", Asked, "commands run as root"),
    ("NumCPU", Asked, "the machine has enough CPUs"),
    ("Mem", Asked, "the machine has enough memory"),
    ("Port-6443", Asked, "the ports of Kubernetes are free"),
    ("Port-10250", Asked, "the ports of Kubernetes are free"),
    ("Port-10257", Asked, "the ports of Kubernetes are free"),
    ("Port-10259", Asked, "the ports of Kubernetes are free"),
    ("Port-2379", Asked, "the ports of Kubernetes are free"),
    ("Port-2380", Asked, "the ports of Kubernetes are free"),
    ("FileAvailable--etc-kubernetes-manifests-kube-apiserver.yaml", Asked, "no static pods exist yet"),
    (
        "FileAvailable--etc-kubernetes-manifests-kube-controller-manager.yaml",
        Asked,
        "no static pods exist yet",
    ),
    ("FileAvailable--etc-kubernetes-manifests-kube-scheduler.yaml", Asked, "no static pods exist yet"),
    ("FileAvailable--etc-kubernetes-manifests-etcd.yaml", Asked, "no static pods exist yet"),
    ("DirAvailable--var-lib-etcd", Asked, "the folder for etcd's data is empty"),
    ("SystemVerification", Asked, "the kernel has the options that kubeadm looks for"),
    ("Firewalld", Asked, "whether anything on the machine may interfere with Kubernetes"),
    ("Hostname", EnsuredByStep, "the cluster's names are in /etc/hosts"),
    ("Swap", EnsuredByStep, "swap is off"),
    ("CRI", EnsuredByStep, "containerd runs its current config"),
    ("ContainerRuntimeVersion", EnsuredByStep, "containerd is installed and held"),
    ("KubernetesVersion", EnsuredByStep, "kubelet, kubeadm and kubectl"),
    ("KubeletVersion", EnsuredByStep, "kubelet, kubeadm and kubectl"),
    ("FileExisting-losetup", EnsuredByStep, "kubelet, kubeadm and kubectl"),
    ("FileExisting-mount", EnsuredByStep, "kubelet, kubeadm and kubectl"),
    ("FileExisting-cp", EnsuredByStep, "kubelet, kubeadm and kubectl"),
    ("Service-kubelet", EnsuredByStep, "the kubelet starts at boot"),
    ("FileContent--proc-sys-net-ipv4-ip_forward", EnsuredByStep, "net.ipv4.ip_forward is 1"),
    (
        "FileContent--proc-sys-net-ipv6-conf-default-forwarding",
        EnsuredByStep,
        "net.ipv6.conf.default.forwarding is 1",
    ),
    ("ImagePull", Tried, "Sources"),
    (
        "FileAvailable--etc-kubernetes-kubelet.conf",
        Never,
        "a machine that has it has begun to join, and goes on without kubeadm's checks",
    ),
    ("FileAvailable--etc-kubernetes-bootstrap-kubelet.conf", Never, "as kubelet.conf"),
    (
        "FileAvailable--etc-kubernetes-pki-ca.crt",
        Never,
        "a worker gets it when it joins, and a CA of another cluster is refused",
    ),
    ("HTTPProxy", Never, "ironstrap gives kubeadm no proxy for the addresses of the cluster"),
    ("HTTPProxyCIDR", Never, "as HTTPProxy"),
    ("ExternalEtcdVersion", Never, "etcd runs on the control planes"),
    ("ExternalEtcdClientCertificates", Never, "etcd runs on the control planes"),
];

/// The name that stands for every check with a name.
pub const ALL: &str = "all";

/// Beginnings of names. kubeadm has one such name for each port, program, folder or kernel setting that it checks. The
/// full list depends on its version and on the cluster's settings.
const FAMILIES: [&str; 4] = ["Port-", "FileExisting-", "DirAvailable--", "FileContent--proc-sys-"];

/// The names of all checks.
pub fn names() -> impl Iterator<Item = &'static str> {
    ONLY_OURS.iter().copied().chain(PREDICTED.iter().map(|(name, ..)| *name)).chain([ALL])
}

/// Whether there may be a check with this name. Upper and lower case are the same, as in kubeadm.
pub fn is_known(name: &str) -> bool {
    let of_family = FAMILIES.iter().any(|family| match name.get(..family.len()) {
        Some(start) if start.eq_ignore_ascii_case(family) => {
            let rest = &name[family.len()..];
            !rest.is_empty() && (*family != "Port-" || rest.chars().all(|c| c.is_ascii_digit()))
        }
        _ => false,
    });
    of_family || names().any(|known| known.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_kubeadms_checks_are_known() {
        assert!(names().all(|name| is_known(name) && is_known(&name.to_lowercase())));
        for name in ["Port-8443", "DirAvailable--srv-etcd", "FileExisting-crictl", "ALL"] {
            assert!(is_known(name), "{name}");
        }
        for name in [
            "Bogus",
            "",
            "Port-",
            "Port-ssh",
            "NumCPUs",
            "FileAvailable--etc-x",
            "FileExisting-",
            "rout\u{e9}s",
        ] {
            assert!(!is_known(name), "{name}");
        }
    }
}
