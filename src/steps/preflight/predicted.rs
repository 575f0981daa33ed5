//! What kubeadm itself checks before it begins (1.36, `app/preflight`), and what of ours says it first. Every name is one
//! that `ignore-preflight` understands.

/// How a check of kubeadm's comes to pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// A question to each machine, before anything is touched.
    Asked,
    /// A step has brought it about by then.
    BroughtAbout,
    /// All machines together were tried, before anything is touched.
    Tried,
    /// It cannot fail here.
    Never,
}

use How::{Asked, BroughtAbout, Never, Tried};

/// What only ironstrap checks: kubeadm has nothing of these names.
pub const OURS: &[&str] = &[
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

/// kubeadm's name of a check, how it comes to pass; and the want, with what is the same for every cluster, or why.
pub const PREDICTED: &[(&str, How, &str)] = &[
    ("IsPrivilegedUser", Asked, "commands run as root"),
    ("NumCPU", Asked, "there are CPUs enough"),
    ("Mem", Asked, "there is memory enough"),
    ("Port-6443", Asked, "the ports of Kubernetes are free"),
    ("Port-10250", Asked, "the ports of Kubernetes are free"),
    ("Port-10257", Asked, "the ports of Kubernetes are free"),
    ("Port-10259", Asked, "the ports of Kubernetes are free"),
    ("Port-2379", Asked, "the ports of Kubernetes are free"),
    ("Port-2380", Asked, "the ports of Kubernetes are free"),
    ("FileAvailable--etc-kubernetes-manifests-kube-apiserver.yaml", Asked, "no static pods are here yet"),
    (
        "FileAvailable--etc-kubernetes-manifests-kube-controller-manager.yaml",
        Asked,
        "no static pods are here yet",
    ),
    ("FileAvailable--etc-kubernetes-manifests-kube-scheduler.yaml", Asked, "no static pods are here yet"),
    ("FileAvailable--etc-kubernetes-manifests-etcd.yaml", Asked, "no static pods are here yet"),
    ("DirAvailable--var-lib-etcd", Asked, "no data of another etcd is here"),
    ("SystemVerification", Asked, "the kernel has what kubeadm looks for"),
    ("Firewalld", Asked, "whether something here may get in the way"),
    ("Hostname", BroughtAbout, "the cluster's names are in /etc/hosts"),
    ("Swap", BroughtAbout, "no swap is active"),
    ("CRI", BroughtAbout, "containerd runs its current config"),
    ("ContainerRuntimeVersion", BroughtAbout, "containerd is installed and held"),
    ("KubernetesVersion", BroughtAbout, "kubelet, kubeadm and kubectl"),
    ("KubeletVersion", BroughtAbout, "kubelet, kubeadm and kubectl"),
    ("FileExisting-losetup", BroughtAbout, "kubelet, kubeadm and kubectl"),
    ("FileExisting-mount", BroughtAbout, "kubelet, kubeadm and kubectl"),
    ("FileExisting-cp", BroughtAbout, "kubelet, kubeadm and kubectl"),
    ("Service-kubelet", BroughtAbout, "the kubelet starts at boot"),
    ("FileContent--proc-sys-net-ipv4-ip_forward", BroughtAbout, "net.ipv4.ip_forward is 1"),
    (
        "FileContent--proc-sys-net-ipv6-conf-default-forwarding",
        BroughtAbout,
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
        "a worker gets it when it joins; of another cluster it is refused",
    ),
    ("HTTPProxy", Never, "kubeadm is given no proxy for what belongs to the cluster"),
    ("HTTPProxyCIDR", Never, "as HTTPProxy"),
    ("ExternalEtcdVersion", Never, "etcd runs on the control planes"),
    ("ExternalEtcdClientCertificates", Never, "etcd runs on the control planes"),
];
