//! The certificates of a control plane, as kubeadm's `certlist.go` lists them, and the operator's own. Not
//! how they are made: that is `cert`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::cluster::{Cluster, Node};
use crate::pki::cert::Wanted;

/// Which CA signs a leaf.
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

    /// The CA's files in the operator's directory, without `.crt` and `.key`.
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
    /// What it has to say on this node.
    pub wanted: fn(&Cluster, &Node) -> Wanted,
}

/// All of them.
pub const LEAVES: [Leaf; 7] = [
    Leaf { path: "apiserver", signer: Signer::Cluster, wanted: apiserver },
    // Without an organization: kubeadm put it into kubeadm:cluster-admins until 1.36.0 and dropped that
    // (kubernetes/kubernetes#138957). A ClusterRoleBinding `kubeadm:apiserver-kubelet-client` replaces it.
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

/// The operator's client certificate. kubeadm binds this group to `cluster-admin` in every version since
/// 1.29 (kubernetes/kubernetes#121837).
pub fn admin(cluster: &Cluster) -> Wanted {
    Wanted { organization: Some("kubeadm:cluster-admins".into()), ..client(&admin_name(cluster)) }
}

/// Who the operator is to the API server.
pub fn admin_name(cluster: &Cluster) -> String {
    format!("{}-admin", cluster.name)
}

/// A client of the API server.
pub fn user(name: &str, group: Option<&str>) -> Wanted {
    Wanted { organization: group.map(String::from), ..client(name) }
}

fn client(name: &str) -> Wanted {
    Wanted { common_name: name.into(), client: true, ..Wanted::default() }
}

/// kubeadm `pki_helpers.go`, `GetAPIServerAltNames`.
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

/// kubeadm `pki_helpers.go`, `getAltNames`. A server that is also a client, as etcd needs it
/// (etcd-io/etcd#9785).
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
