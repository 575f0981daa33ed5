//! The cluster that an inventory describes, checked and with all defaults. Steps have nothing left to check or to
//! choose. `inventory` defines how it is written.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use semver::Version;
use serde_json::{Map, Value};

use crate::secret::without_percent;

mod coredns;
pub mod kubeadm_checks;
mod proxy;
mod registries;

pub use coredns::CoreDns;
pub use registries::{Login, Registry, authority, direct, image_name, image_parts, registry_of};

/// A whole cluster, as its inventory describes it.
#[derive(Clone, Debug)]
pub struct Cluster {
    pub name: String,
    /// The exact Kubernetes version, without a leading `v`.
    pub kubernetes: Version,
    pub pods: IpNet,
    pub services: IpNet,
    /// The DNS domain of Services: `cluster.local`.
    pub domain: String,
    pub endpoint: Endpoint,
    /// More names and addresses that the API server's certificate is valid for.
    pub api_names: Vec<String>,
    pub network: Network,
    pub coredns: CoreDns,
    /// The repository of the Kubernetes images, such as `registry.k8s.io`.
    pub image_repository: String,
    /// Preflight checks whose failure is only a warning, by kubeadm's names and our own. They run before the first change.
    pub ignore_preflight: Vec<String>,
    /// KubeletConfiguration fields, merged over ours.
    pub kubelet: Map<String, Value>,
    /// KubeProxyConfiguration fields, merged over ours.
    pub kube_proxy: Map<String, Value>,
    /// ClusterConfiguration (kubeadm v1beta4) fields, merged over ours.
    pub kubeadm: Map<String, Value>,
    pub api_server: Args,
    pub controller_manager: Args,
    pub scheduler: Args,
    pub etcd: Args,
    /// containerd's configuration (`version = 2`), merged over ours.
    pub containerd: toml::Table,
    pub registries: Vec<Registry>,
    pub packages: Packages,
    pub proxy: Proxy,
    /// The order is that of the inventory. It is also the order in which they are applied.
    pub addons: Vec<Addon>,
    /// The order is that of the inventory.
    pub nodes: Vec<Node>,
    /// Warnings about what is not wrong yet but what people should know, as `demo.toml:12: …`.
    pub warnings: Vec<String>,
    /// The folder of the inventory. The PKI directory and the kubeconfig are beside the inventory.
    pub dir: PathBuf,
    /// The path of the inventory file.
    pub file: PathBuf,
}

/// Command-line flags of a component, without dashes; a flag may be given more than once.
pub type Args = Vec<(String, String)>;

/// The address at which clients find the API.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// A name or an address.
    pub host: String,
    pub port: u16,
    /// Whether ironstrap manages the name. It then keeps the name in `/etc/hosts` of every node, with one line per
    /// control plane.
    pub managed: bool,
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// The network that connects the pods.
#[derive(Clone, Debug, PartialEq)]
pub enum Network {
    Flannel(Flannel),
    /// Manifests that the user provides.
    Manifests(Vec<Manifest>),
    /// ironstrap installs no network. The user installs one.
    None,
}

/// Images of flannel, with their tags.
#[derive(Clone, Debug, PartialEq)]
pub struct Flannel {
    pub image: String,
    pub plugin: String,
}

/// A YAML file of Kubernetes objects, read and parsed.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// The path as the inventory writes it.
    pub path: String,
    pub objects: Vec<Value>,
}

/// Manifests that are applied once the cluster is up.
#[derive(Clone, Debug, PartialEq)]
pub struct Addon {
    pub name: String,
    pub origin: Origin,
    /// Whether later addons wait until this one runs.
    pub wait: bool,
    /// An addon from a URL has no objects until it is fetched.
    pub objects: Vec<Value>,
    /// Where the inventory names the addon, as in `demo.toml:12`.
    pub written: String,
}

/// Where an addon's objects come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Origin {
    File,
    /// `sha256` is the hash that the file behind the URL must have, in lower-case hex.
    Url {
        url: String,
        sha256: Option<String>,
    },
}

/// The source of the Kubernetes packages.
#[derive(Clone, Debug, PartialEq)]
pub struct Packages {
    /// The apt repository of Kubernetes for the minor version, with a trailing slash.
    pub kubernetes: String,
    /// The signing key of the repository, armored. Without it, machines fetch `Release.key` from the repository itself.
    pub key: Option<String>,
}

/// The OpenPGP fingerprint of the primary key of pkgs.k8s.io, "isv:kubernetes OBS Project". It stays the same when the
/// expiry date of the key is extended. Public sources agree on it. One is kubernetes/kubernetes issue 128609 (gpg's
/// output for v1.25 to v1.27). Another is devantler-tech/ksail, package kubeadmbootstrap (beside the key that it
/// embeds). Other installers and tests embed the packets of the key. By GnuPG and by `openpgp`, those have this
/// fingerprint, too. One of them is tests/keys/kubernetes.asc.
const KUBERNETES_KEY: &str = "DE15B14486CD377B9E876E1A234654DA9A296436";

impl Packages {
    /// The fingerprint that the repository's key must have, if ironstrap knows it.
    pub fn pinned(&self) -> Option<&'static str> {
        let rest = self.kubernetes.split_once("://").map_or("", |(_, rest)| rest);
        let authority = rest.split('/').next().unwrap_or_default();
        let host = authority.rsplit('@').next().unwrap_or_default();
        let host = host.split(':').next().unwrap_or_default().trim_end_matches('.');
        host.eq_ignore_ascii_case("pkgs.k8s.io").then_some(KUBERNETES_KEY)
    }
}

/// Proxies for package installation and image pulls. A field is empty if there is no proxy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Proxy {
    pub http: String,
    pub https: String,
    /// Hosts and ranges that are reached directly. The steps add those of the cluster.
    pub no: Vec<String>,
}

/// One machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The Node's name in Kubernetes.
    pub name: String,
    pub role: Role,
    pub ssh: Ssh,
    /// The node's address in the cluster.
    pub ip: IpAddr,
    pub labels: BTreeMap<String, String>,
    /// `None` means kubeadm's default: `node-role.kubernetes.io/control-plane:NoSchedule` on control planes.
    pub taints: Option<Vec<Taint>>,
    /// KubeletConfiguration fields of this node alone. They override those of the cluster.
    pub kubelet: Map<String, Value>,
}

impl Node {
    pub fn is_control_plane(&self) -> bool {
        self.role == Role::ControlPlane
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    ControlPlane,
    Worker,
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Role::ControlPlane => "control plane",
            Role::Worker => "worker",
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Taint {
    pub key: String,
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

impl std::fmt::Display for Taint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.value.is_empty() {
            true => write!(f, "{}:{}", self.key, self.effect),
            false => write!(f, "{}={}:{}", self.key, self.value, self.effect),
        }
    }
}

/// How ironstrap reaches a machine. For a field that is `None`, the operator's own ssh configuration counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ssh {
    /// A name, an address, or an alias of the operator's ssh_config.
    pub host: String,
    pub port: Option<u16>,
    pub user: Option<String>,
    /// The only private key file that is tried.
    pub key: Option<PathBuf>,
    /// The file in which host keys are looked up, and to which new ones are added.
    pub known_hosts: Option<PathBuf>,
    /// Jump hosts in order, as `user@host:port`. An empty list means none.
    pub jump: Option<Vec<String>>,
    /// The only accepted host key, as `SHA256:…`.
    pub host_key: Option<String>,
}

/// The folder in which etcd keeps its data, unless the inventory names another one. It is kubeadm's default.
pub const ETCD_DIR: &str = "/var/lib/etcd";

/// Whether `ignore-preflight` has this check, or all checks. Small and capital letters are the same, as in kubeadm.
pub fn is_ignored(ignore_preflight: &[String], check: &str) -> bool {
    let is_same =
        |name: &String| [check, kubeadm_checks::ALL].iter().any(|other| name.eq_ignore_ascii_case(other));
    ignore_preflight.iter().any(is_same)
}

impl Cluster {
    pub fn control_planes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.is_control_plane())
    }

    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// The URL at which the operator finds the API. A managed name is known only to the nodes, so the address of the
    /// first control plane replaces it.
    pub fn operators_url(&self) -> String {
        let first = self.control_planes().next().filter(|_| self.endpoint.managed);
        match first {
            Some(node) => {
                format!("https://{}", Endpoint { host: node.ip.to_string(), ..self.endpoint.clone() })
            }
            None => format!("https://{}", self.endpoint),
        }
    }

    /// Whether a failure of this check is only a warning, and no reason to quarantine a machine.
    pub fn ignores(&self, check: &str) -> bool {
        is_ignored(&self.ignore_preflight, check)
    }

    /// The folder in which etcd keeps its data on control planes. Everything that asks for that data uses this.
    pub fn etcd_dir(&self) -> &str {
        let local = self.kubeadm.get("etcd").and_then(|etcd| etcd.get("local"));
        let dir = local.and_then(|local| local.get("dataDir")).and_then(Value::as_str);
        dir.unwrap_or(ETCD_DIR)
    }

    /// The port on which the kubelet of this node serves.
    pub fn kubelet_port(&self, node: &Node) -> u16 {
        let port = node.kubelet.get("port").or_else(|| self.kubelet.get("port")).and_then(Value::as_u64);
        port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0).unwrap_or(10250)
    }

    /// Whether kubeadm installs this addon, `dns` or `proxy` (field `disabled` of kubeadm v1beta4).
    pub fn has_addon(&self, name: &str) -> bool {
        self.kubeadm.get(name).and_then(|addon| addon.get("disabled")) != Some(&true.into())
    }

    /// The minor version, such as `1.36`.
    pub fn minor(&self) -> String {
        format!("{}.{}", self.kubernetes.major, self.kubernetes.minor)
    }

    /// The pause image that kubeadm of this version uses (kubeadm's `constants.go`, per minor version).
    pub fn pause_image(&self) -> String {
        let tag = match self.kubernetes.minor {
            ..=33 => "3.10",
            34 | 35 => "3.10.1",
            _ => "3.10.2",
        };
        format!("{}/pause:{tag}", self.image_repository)
    }

    /// The n-th address of the service range. The first belongs to the API server, the tenth to CoreDNS.
    pub fn service_ip(&self, n: u32) -> IpAddr {
        match self.services {
            IpNet::V4(net) => IpAddr::V4((u32::from(net.network()) + n).into()),
            IpNet::V6(net) => IpAddr::V6((u128::from(net.network()) + u128::from(n)).into()),
        }
    }
}

/// The URL without user and password, and these two without percent-encoding.
pub fn login(url: &str) -> (String, Option<(String, String)>) {
    let Some((scheme, rest)) = url.split_once("://") else { return (url.into(), None) };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let Some((login, host)) = authority.rsplit_once('@') else { return (url.into(), None) };
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    (format!("{scheme}://{host}{path}"), Some((without_percent(user), without_percent(password))))
}

impl Packages {
    /// The repository's address without the login. Everybody may see it.
    pub fn address(&self) -> String {
        login(&self.kubernetes).0
    }

    /// The line with which apt logs in to the repository (apt_auth.conf(5)). Only root may read it.
    pub fn credentials(&self) -> Option<String> {
        let (address, login) = login(&self.kubernetes);
        let (user, password) = login?;
        let password = if password.is_empty() { password } else { format!(" password {password}") };
        Some(format!("machine {address} login {user}{password}\n"))
    }
}

impl Cluster {
    /// The port that the API server itself listens on.
    pub fn api_port(&self) -> u16 {
        if self.endpoint.managed { self.endpoint.port } else { 6443 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_official_repository_is_recognized_by_its_host() {
        for (url, is_official) in [
            ("https://pkgs.k8s.io/core:/stable:/v1.36/deb/", true),
            ("https://PKGS.k8s.io:443/core:/", true),
            ("https://me:x@pkgs.k8s.io./", true),
            ("https://pkgs.k8s.io.example.com/", false),
            ("https://example.com/pkgs.k8s.io/", false),
            ("https://198.18.0.1:8443/core:/stable:/v1.36/deb/", false),
            ("", false),
        ] {
            let packages = Packages { kubernetes: url.into(), key: None };
            assert_eq!(packages.pinned().is_some(), is_official, "{url}");
        }
    }
}
