//! Lists the certificates of a control plane, as kubeadm's `certlist.go` does, and the operator's own. `cert` makes them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::cluster::{Cluster, Node};
use crate::pki::cert::Wanted;

/// The CA that signs a leaf certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signer {
    Cluster,
    FrontProxy,
    Etcd,
}

impl Signer {
    /// The CA's files below kubeadm's `certificatesDir`, without `.crt` and `.key`.
    pub fn path(self) -> &'static str {
        match self {
            Signer::Cluster => "ca",
            Signer::FrontProxy => "front-proxy-ca",
            Signer::Etcd => "etcd/ca",
        }
    }

    /// The CA's files in the PKI directory, without `.crt` and `.key`.
    pub fn file(self) -> &'static str {
        match self {
            Signer::Cluster => "ca",
            Signer::FrontProxy => "front-proxy-ca",
            Signer::Etcd => "etcd-ca",
        }
    }
}

/// One certificate that every control plane has.
pub struct Leaf {
    /// Its files below kubeadm's `certificatesDir`, without `.crt` and `.key`.
    pub path: &'static str,
    pub signer: Signer,
    /// The contents that the certificate must have on this node.
    pub wanted: fn(&Cluster, &Node) -> Wanted,
}

/// All certificates that every control plane has.
pub const LEAVES: [Leaf; 7] = [
    Leaf { path: "apiserver", signer: Signer::Cluster, wanted: apiserver },
    // This certificate has no organization. kubeadm put it into kubeadm:cluster-admins until 1.36.0 and dropped that
    // (kubernetes/kubernetes#138957). A ClusterRoleBinding `kubeadm:apiserver-kubelet-client` replaces the group.
    Leaf {
        path: "apiserver-kubelet-client",
        signer: Signer::Cluster,
        wanted: |_, _| client("kube-apiserver-kubelet-client"),
    },
    Leaf {
        path: "front-proxy-client",
        signer: Signer::FrontProxy,
        wanted: |_, _| client("front-proxy-client"),
    },
    Leaf {
        path: "apiserver-etcd-client",
        signer: Signer::Etcd,
        wanted: |_, _| client("kube-apiserver-etcd-client"),
    },
    Leaf { path: "etcd/server", signer: Signer::Etcd, wanted: etcd },
    Leaf { path: "etcd/peer", signer: Signer::Etcd, wanted: etcd },
    Leaf {
        path: "etcd/healthcheck-client",
        signer: Signer::Etcd,
        wanted: |_, _| client("kube-etcd-healthcheck-client"),
    },
];

/// The operator's client certificate. kubeadm binds its group to `cluster-admin` in every version since 1.29
/// (kubernetes/kubernetes#121837).
pub fn admin(cluster: &Cluster) -> Wanted {
    Wanted { organization: Some("kubeadm:cluster-admins".into()), ..client(&admin_name(cluster)) }
}

/// The operator's user name at the API server.
pub fn admin_name(cluster: &Cluster) -> String {
    format!("{}-admin", cluster.name)
}

/// The client certificate of a user of the API server.
pub fn user(name: &str, group: Option<&str>) -> Wanted {
    Wanted { organization: group.map(String::from), ..client(name) }
}

fn client(name: &str) -> Wanted {
    Wanted { common_name: name.into(), client: true, ..Wanted::default() }
}

/// The API server's serving certificate (kubeadm `pki_helpers.go`, `GetAPIServerAltNames`).
fn apiserver(cluster: &Cluster, node: &Node) -> Wanted {
    let mut wanted = Wanted { common_name: "kube-apiserver".into(), server: true, ..Wanted::default() };
    wanted.names.extend(["kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(String::from));
    wanted.names.insert(format!("kubernetes.default.svc.{}", cluster.domain));
    wanted.names.insert(node.name.clone());
    wanted.addresses.extend([cluster.service_ip(1), node.ip]);
    for name in cluster.api_names.iter().chain([&cluster.endpoint.host]) {
        match name.parse::<IpAddr>() {
            Ok(address) => wanted.addresses.insert(address),
            Err(_) => wanted.names.insert(name.clone()),
        };
    }
    wanted
}

/// The certificates `etcd/server` and `etcd/peer` (kubeadm `pki_helpers.go`, `getAltNames`). Each is for a
/// server that is also a client, because etcd needs that (etcd-io/etcd#9785).
fn etcd(_: &Cluster, node: &Node) -> Wanted {
    let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
    Wanted {
        common_name: node.name.clone(),
        server: true,
        client: true,
        names: [node.name.clone(), "localhost".into()].into(),
        addresses: loopback.into_iter().chain([node.ip]).collect(),
        ..Wanted::default()
    }
}
