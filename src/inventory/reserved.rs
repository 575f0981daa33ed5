//! Settings of other programs that the inventory may not make. Its own fields, kubeadm or ironstrap decide them, and
//! the message says which. `components` defines which fields exist, and the types of their values.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Mistakes, Span};
use super::names;
use super::table::Table;

/// A setting that the inventory may not make, or only with some values.
struct Owned {
    table: &'static str,
    /// Keys from the table to the setting. `*` stands for any one key.
    path: &'static [&'static str],
    wrong: fn(&DeValue) -> bool,
    says: &'static str,
}

const fn owned(table: &'static str, path: &'static [&'static str], says: &'static str) -> Owned {
    Owned { table, path, wrong: |_| true, says }
}

const CRI: &str = "io.containerd.grpc.v1.cri";
const PKI: &str = "ironstrap creates the certificates and kubeadm sets their paths; it cannot be set";
const KUBECONFIG: &str = "kubeadm creates the kubeconfig and sets its path; it cannot be set";
const ETCD: &str = "kubeadm decides where etcd listens and which members it has; it cannot be set";

const PODS: &str = "ironstrap uses it to find the processes of pods; leave it out";
const CERTIFICATES: &str = "ironstrap creates the certificates; leave it out";
const FOLDER: &str = "etcd needs its own directory: an absolute path of at least two names with only A-Z, a-z, 0-9, -, \
                      _ and ., as in \"/srv/etcd\", which neither the system nor Kubernetes uses";
const OWNED: &[Owned] = &[
    Owned {
        table: "kubeadm",
        path: &["etcd", "local", "dataDir"],
        wrong: |value| value.as_str().is_some_and(|path| !names::is_own_folder(path)),
        says: FOLDER,
    },
    Owned {
        table: "kubelet",
        path: &["resolvConf"],
        wrong: |value| value.as_str().is_some_and(|path| !path.is_empty() && !names::is_path(path)),
        says: "this must be an absolute path, or empty",
    },
    owned("kubelet", &["apiVersion"], "it is always kubelet.config.k8s.io/v1beta1; leave it out"),
    owned("kubelet", &["kind"], "it is always KubeletConfiguration; leave it out"),
    Owned {
        table: "kubelet",
        path: &["cgroupDriver"],
        wrong: |value| value.as_str().is_some_and(|driver| driver != "systemd"),
        says: "it is always \"systemd\": containerd is set up for that, and the two must agree",
    },
    Owned {
        table: "kubelet",
        path: &["rotateCertificates"],
        wrong: |value| value.as_bool() == Some(false),
        says: "kubeadm always turns it on",
    },
    owned("kubelet", &["clusterDomain"], "set `domain` in [cluster] instead"),
    owned("kubelet", &["registerWithTaints"], "set `taints` in [nodes.…] instead"),
    owned(
        "kubelet",
        &["containerRuntimeEndpoint"],
        "it is always the endpoint of containerd; it cannot be set",
    ),
    owned("kubelet", &["podLogsDir"], PODS),
    owned("kubelet", &["cgroupRoot"], PODS),
    owned("kubelet", &["cgroupsPerQOS"], PODS),
    owned("kubelet", &["staticPodPath"], "kubeadm writes its manifests there; it cannot be set"),
    owned("kube-proxy", &["apiVersion"], "it is always kubeproxy.config.k8s.io/v1alpha1; leave it out"),
    owned("kube-proxy", &["kind"], "it is always KubeProxyConfiguration; leave it out"),
    owned("kube-proxy", &["clusterCIDR"], "set `pods` in [cluster] instead"),
    owned("kube-proxy", &["hostnameOverride"], "it is the Node's name; it cannot be set"),
    owned("kubeadm", &["apiVersion"], "it is always kubeadm.k8s.io/v1beta4; leave it out"),
    owned("kubeadm", &["kind"], "it is always ClusterConfiguration; leave it out"),
    owned("kubeadm", &["kubernetesVersion"], "set `kubernetes` in [cluster] instead"),
    owned("kubeadm", &["clusterName"], "set `name` in [cluster] instead"),
    owned("kubeadm", &["controlPlaneEndpoint"], "set `endpoint` in [cluster] instead"),
    owned("kubeadm", &["imageRepository"], "set `image-repository` in [cluster] instead"),
    owned("kubeadm", &["networking", "podSubnet"], "set `pods` in [cluster] instead"),
    owned("kubeadm", &["networking", "serviceSubnet"], "set `services` in [cluster] instead"),
    owned("kubeadm", &["networking", "dnsDomain"], "set `domain` in [cluster] instead"),
    owned("kubeadm", &["certificatesDir"], "it is always /etc/kubernetes/pki; it cannot be set"),
    owned("kubeadm", &["certificateValidityPeriod"], CERTIFICATES),
    owned("kubeadm", &["caCertificateValidityPeriod"], CERTIFICATES),
    Owned {
        table: "kubeadm",
        path: &["encryptionAlgorithm"],
        wrong: |value| value.as_str().is_some_and(|name| name != "ECDSA-P256"),
        says: "ironstrap creates the certificates, always with ECDSA-P256",
    },
    owned("kubeadm", &["etcd", "local", "serverCertSANs"], CERTIFICATES),
    owned("kubeadm", &["etcd", "local", "peerCertSANs"], CERTIFICATES),
    owned("kubeadm", &["apiServer", "extraArgs"], "set the flags in [api-server] instead"),
    owned("kubeadm", &["apiServer", "certSANs"], "set `api-names` in [cluster] instead"),
    owned("kubeadm", &["controllerManager", "extraArgs"], "set the flags in [controller-manager] instead"),
    owned("kubeadm", &["scheduler", "extraArgs"], "set the flags in [scheduler] instead"),
    owned("kubeadm", &["etcd", "local", "extraArgs"], "set the flags in [etcd] instead"),
    owned(
        "kubeadm",
        &["etcd", "external"],
        "etcd runs on the control planes; an external one is not supported",
    ),
    owned("api-server", &["advertise-address"], "set `ip` in [nodes.…] instead"),
    owned("api-server", &["secure-port"], "kubeadm decides where the API server listens; it cannot be set"),
    owned("api-server", &["service-cluster-ip-range"], "set `services` in [cluster] instead"),
    owned("api-server", &["etcd-servers"], ETCD),
    owned("api-server", &["etcd-cafile"], PKI),
    owned("api-server", &["etcd-certfile"], PKI),
    owned("api-server", &["etcd-keyfile"], PKI),
    owned("api-server", &["client-ca-file"], PKI),
    owned("api-server", &["tls-cert-file"], PKI),
    owned("api-server", &["tls-private-key-file"], PKI),
    owned("api-server", &["kubelet-client-certificate"], PKI),
    owned("api-server", &["kubelet-client-key"], PKI),
    owned("api-server", &["service-account-key-file"], PKI),
    owned("api-server", &["service-account-signing-key-file"], PKI),
    owned("controller-manager", &["cluster-cidr"], "set `pods` in [cluster] instead"),
    owned("controller-manager", &["service-cluster-ip-range"], "set `services` in [cluster] instead"),
    owned("controller-manager", &["cluster-name"], "set `name` in [cluster] instead"),
    owned("controller-manager", &["cluster-signing-cert-file"], PKI),
    owned("controller-manager", &["cluster-signing-key-file"], PKI),
    owned("controller-manager", &["root-ca-file"], PKI),
    owned("controller-manager", &["service-account-private-key-file"], PKI),
    owned("controller-manager", &["kubeconfig"], KUBECONFIG),
    owned("scheduler", &["kubeconfig"], KUBECONFIG),
    owned("etcd", &["name"], ETCD),
    owned("etcd", &["initial-cluster"], ETCD),
    owned("etcd", &["initial-cluster-state"], ETCD),
    owned("etcd", &["initial-advertise-peer-urls"], ETCD),
    owned("etcd", &["advertise-client-urls"], ETCD),
    owned("etcd", &["listen-client-urls"], ETCD),
    owned("etcd", &["listen-peer-urls"], ETCD),
    owned("etcd", &["cert-file"], PKI),
    owned("etcd", &["key-file"], PKI),
    owned("etcd", &["trusted-ca-file"], PKI),
    owned("etcd", &["data-dir"], "set `etcd.local.dataDir` in [kubeadm] instead"),
    Owned {
        table: "containerd",
        path: &["version"],
        wrong: |value| value.as_integer().is_none_or(|number| number.as_str() != "2"),
        says: "it is always 2: the only format that containerd 1.6 to 2.x all read",
    },
    Owned {
        table: "containerd",
        path: &["plugins", CRI, "containerd", "runtimes", "*", "options", "SystemdCgroup"],
        wrong: |value| value.as_bool() != Some(true),
        says: "it is always true: the kubelet's cgroup driver is systemd, and the two must agree",
    },
    owned("containerd", &["plugins", CRI, "registry"], REGISTRIES),
    owned("containerd", &["plugins", CRI, "sandbox_image"], "set `image-repository` in [cluster] instead"),
    owned("containerd", &["plugins", CRI, "cni", "bin_dir"], "it is always /opt/cni/bin; it cannot be set"),
    owned(
        "containerd",
        &["plugins", CRI, "cni", "conf_dir"],
        "it is always /etc/cni/net.d; it cannot be set",
    ),
    owned("containerd", &["grpc", "address"], "the kubelet finds it at /run/containerd; it cannot be set"),
    owned("containerd", &["state"], "it is always /run/containerd; it cannot be set"),
    owned("containerd", &["root"], "mount a disk at /var/lib/containerd instead, or make that a link"),
    Owned {
        table: "containerd",
        path: &["disabled_plugins"],
        wrong: |value| value.as_array().is_some_and(|names| names.iter().any(is_cri)),
        says: "without its CRI plugin the kubelet cannot use containerd",
    },
    owned("containerd", &["plugins", "io.containerd.cri.v1.runtime"], VERSION_3),
    owned("containerd", &["plugins", "io.containerd.cri.v1.images"], VERSION_3),
];

const REGISTRIES: &str =
    "set `mirrors`, `ca`, or `user` and `password-file` in [registries.\"registry.example.com\"] instead";
const VERSION_3: &str = "this name belongs to `version = 3`; in version 2, which ironstrap uses, it is \
                         \"io.containerd.grpc.v1.cri\"";

fn is_cri(name: &Spanned<DeValue>) -> bool {
    name.get_ref().as_str().is_some_and(|name| name == "cri" || name == CRI)
}

/// Reports settings in `[name]` that the inventory may not make.
pub fn check(root: &Table, name: &str, mistakes: &mut Mistakes) {
    let Some(DeValue::Table(table)) = root.value(name).map(Spanned::get_ref) else { return };
    for owned in OWNED.iter().filter(|owned| owned.table == name) {
        let mut found = vec![];
        find(table, owned.path, &mut found);
        for (at, _) in found.into_iter().filter(|(_, value)| (owned.wrong)(value)) {
            mistakes.add(&at, owned.says);
        }
    }
}

/// Finds every value at `path`, with the place where its key is written.
fn find<'a>(table: &'a DeTable<'a>, path: &[&str], found: &mut Vec<(Span, &'a DeValue<'a>)>) {
    let Some((first, rest)) = path.split_first() else { return };
    for (key, value) in table.iter().filter(|(key, _)| *first == "*" || key.get_ref() == first) {
        match value.get_ref() {
            value if rest.is_empty() => found.push((key.span(), value)),
            DeValue::Table(inner) => find(inner, rest, found),
            _ => {}
        }
    }
}
