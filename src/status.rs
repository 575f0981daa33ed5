//! The state of the fleet at a glance. It is made from the answers to the wants' questions, and to a few questions of `status`
//! itself. It is pure: it asks nothing and prints nothing.

use std::collections::BTreeSet;

use serde::{Serialize, Serializer};
use time::OffsetDateTime;

use crate::cluster::{Cluster, Network, Node};
use crate::error::Error;
use crate::machine::Machine;
use crate::plan::{Change, State, WantName};
use crate::step::Answer;
use crate::steps::packets::tunnels;

mod ask;
mod packets;
mod quantity;
mod read;
mod whole;

pub use ask::{Topic, questions};
pub use packets::{Packets, Reached};
pub use quantity::{billionths, by_node};

/// A value that may not exist, and may not be visible. In JSON it is the value, or `null` if it does not exist or nobody could
/// see it. If nobody could see it, `unseen` has the reason.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen<T> {
    Is(T),
    Nothing,
    /// The value is unknown, for this reason.
    Unknown(String),
}

impl<T> Seen<T> {
    pub fn is(&self) -> Option<&T> {
        if let Seen::Is(value) = self { Some(value) } else { None }
    }

    pub fn why(&self) -> Option<&str> {
        if let Seen::Unknown(why) = self { Some(why) } else { None }
    }

    /// Applies `next` to a value that was seen.
    fn then<U>(self, next: impl FnOnce(T) -> Seen<U>) -> Seen<U> {
        match self {
            Seen::Is(value) => next(value),
            Seen::Nothing => Seen::Nothing,
            Seen::Unknown(why) => Seen::Unknown(why),
        }
    }
}

impl<T: Serialize> Serialize for Seen<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.is().serialize(serializer)
    }
}

/// The whole status. The names of its fields are those of `status --json`, and do not change.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Status {
    pub cluster: ClusterStatus,
    /// In the order of the inventory.
    pub nodes: Vec<NodeStatus>,
    /// How many wants do not hold, as `plan` counts them.
    pub changes: usize,
    /// The values that ironstrap could not see, with the reasons.
    pub unseen: Vec<Unseen>,
    /// The errors that prevent changes to machines, as `plan` shows them.
    pub errors: Vec<Error>,
    /// Notes about the operator's side, for people: files of the inventory, and the end of the CA.
    pub notes: Vec<String>,
}

impl Status {
    /// Removes these nodes from the status. Their answers about the cluster stay.
    pub fn leave_out(&mut self, is_excluded: impl Fn(&str) -> bool) {
        self.nodes.retain(|node| !is_excluded(&node.name));
        self.unseen.retain(|unseen| unseen.node.as_deref().is_none_or(|name| !is_excluded(name)));
    }
}

/// The state of the cluster, as the control planes report it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClusterStatus {
    pub name: String,
    /// How many nodes the inventory has.
    pub nodes: usize,
    /// The version of Kubernetes in the inventory.
    pub kubernetes: String,
    /// The URL of the API.
    pub endpoint: String,
    /// The API server of each control plane.
    pub api: Vec<Api>,
    pub etcd: Seen<Vec<Member>>,
    pub network: NetworkStatus,
    /// The join token that is valid longest.
    pub token: Seen<Token>,
    /// How many nodes of the inventory are Ready.
    pub ready: Seen<usize>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Api {
    pub node: String,
    pub health: Seen<Health>,
    /// Why it is not healthy.
    pub why: Option<String>,
}

/// The answer of an API server to `/readyz`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    Healthy,
    /// It answers, and says that something is wrong.
    Failing,
    /// It does not answer.
    Down,
}

/// A member of etcd.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Member {
    pub name: String,
    /// Whether the member says that it is healthy.
    pub healthy: Seen<bool>,
    /// Whether the member has no vote yet.
    pub learner: Seen<bool>,
    pub why: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NetworkStatus {
    /// `flannel`, `manifests` or `none`, from the inventory.
    pub kind: &'static str,
    /// The range of the pods' addresses.
    pub pods: String,
    /// How many pods of its DaemonSets are ready. `wanted`: how many pods there should be.
    pub ready: Seen<u64>,
    pub wanted: Seen<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Token {
    /// `None`: the token never expires.
    #[serde(with = "time::serde::rfc3339::option")]
    pub until: Option<OffsetDateTime>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeStatus {
    pub name: String,
    /// `control-plane` or `worker`.
    pub role: &'static str,
    /// The address for SSH.
    pub address: String,
    pub reachable: bool,
    /// Whether the node is Ready, as the API reports it.
    pub ready: Seen<bool>,
    /// Why the node is not Ready.
    pub not_ready: Option<String>,
    /// `false`: the node is cordoned.
    pub schedulable: Seen<bool>,
    pub versions: Versions,
    pub drift: Seen<Vec<Drift>>,
    /// The targets that the node reaches over the network of pods and Services.
    pub packets: Seen<Packets>,
    /// The certificate that expires first, of all certificates that the node uses.
    pub certificate: Seen<Certificate>,
    /// Cores.
    pub cpu: Share<f64>,
    /// Bytes.
    pub memory: Share<u64>,
    pub pods: Share<u64>,
    /// Seconds.
    pub uptime: Seen<u64>,
}

/// The versions on a node, without what the distribution appends to those of packages.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Versions {
    pub kubelet: Seen<String>,
    pub runtime: Runtime,
    /// The same as `runtime.version`, for readers of schema 1. The release after this one removes it.
    pub containerd: Seen<String>,
    /// The kernel that runs.
    pub kernel: Seen<String>,
    pub os: Seen<String>,
}

/// The container runtime.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Runtime {
    pub name: &'static str,
    pub version: Seen<String>,
}

/// A want that does not hold, as `plan` shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Drift {
    #[serde(flatten)]
    pub of: WantName,
    pub state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Certificate {
    pub file: String,
    #[serde(with = "time::serde::rfc3339")]
    pub expires: OffsetDateTime,
    /// Whole days from now.
    pub days: i64,
}

/// The amount that a node offers to pods, and the part of it that its pods request.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Share<T> {
    pub allocatable: Seen<T>,
    pub requested: Seen<T>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Unseen {
    /// `None`: it is about the cluster.
    pub node: Option<String>,
    /// A field of the node or the cluster, or `machine` for everything that a machine would have said about itself.
    pub what: &'static str,
    pub why: String,
}

/// A node, and what it answered.
pub struct NodeEvidence<'a> {
    pub node: &'a Node,
    pub machine: Option<&'a Machine>,
    /// The answers to `questions`, in the same order.
    pub answers: &'a [Answer],
    pub changes: &'a [Change],
    /// Why the node is quarantined.
    pub left: Option<&'a Error>,
}

/// Makes the status. `speaks`: the place of the API host in `told`. `errors`: what the preflight found.
pub fn status(
    cluster: &Cluster,
    told: &[NodeEvidence],
    speaks: Option<usize>,
    errors: Vec<Error>,
    now: OffsetDateTime,
) -> Status {
    let view = whole::ApiView::new(cluster, told, speaks);
    let said = told.iter().map(|told| read::said(cluster, told, Topic::Packets));
    let said: Vec<String> = said.filter_map(|said| said.is().cloned()).collect();
    let at_ends: BTreeSet<&str> = said.iter().flat_map(|said| tunnels::answered(said)).collect();
    let node = |(i, told)| node(cluster, told, &view.of_node(i), &at_ends, now);
    let nodes: Vec<NodeStatus> = told.iter().enumerate().map(node).collect();
    let cluster = view.whole(&nodes, now);
    let changes = told.iter().map(|told| told.changes.len()).sum();
    let mut unseen = cluster.unseen();
    unseen.extend(nodes.iter().zip(told).flat_map(|(node, told)| node.unseen(told)));
    Status { cluster, nodes, changes, unseen, errors, notes: vec![] }
}

fn node(
    cluster: &Cluster,
    told: &NodeEvidence,
    said: &whole::ApiNode,
    at_ends: &BTreeSet<&str>,
    now: OffsetDateTime,
) -> NodeStatus {
    let about = |topic| read::said(cluster, told, topic);
    let drift = |change: &Change| {
        let unheard = said.ready.why().filter(|_| change.of_cluster);
        let state = if unheard.is_some() { "unknown" } else { change.state.word() };
        Drift { of: change.name(), state }
    };
    let system = |key| about(Topic::System).then(|text| read::line(&text, key));
    let package = |name| about(Topic::Packages).then(|text| read::version(&text, name));
    NodeStatus {
        name: told.node.name.clone(),
        role: if told.node.is_control_plane() { "control-plane" } else { "worker" },
        address: told.node.ssh.host.clone(),
        reachable: told.machine.is_some(),
        ready: said.ready.clone(),
        not_ready: said.not_ready.clone(),
        schedulable: said.schedulable.clone(),
        versions: Versions {
            kubelet: package("kubelet"),
            runtime: Runtime { name: "containerd", version: package("containerd") },
            containerd: package("containerd"),
            kernel: system("kernel"),
            os: system("os"),
        },
        drift: read::machine(told).then(|_| Seen::Is(told.changes.iter().map(drift).collect())),
        packets: about(Topic::Packets).then(|text| packets::read(cluster, told.node, &text, at_ends)),
        certificate: about(Topic::Certificates).then(|text| read::nearest(&text, now)),
        cpu: said.cpu.clone(),
        memory: said.memory.clone(),
        pods: said.pods.clone(),
        uptime: system("uptime").then(|text| read::seconds(&text)),
    }
}

impl NodeStatus {
    fn unseen(&self, told: &NodeEvidence) -> Vec<Unseen> {
        let unseen = |(what, why): (&'static str, Option<&str>)| {
            Some(Unseen { node: Some(self.name.clone()), what, why: why?.into() })
        };
        let api = [
            ("ready", self.ready.why()),
            ("cpu", self.cpu.why()),
            ("memory", self.memory.why()),
            ("pods", self.pods.why()),
        ];
        let own = [
            ("kubelet", self.versions.kubelet.why()),
            ("containerd", self.versions.runtime.version.why()),
            ("kernel", self.versions.kernel.why()),
            ("os", self.versions.os.why()),
            ("packets", self.packets.why()),
            ("certificate", self.certificate.why()),
            ("uptime", self.uptime.why()),
        ];
        let wants = told.changes.iter().map(|change| match &change.state {
            State::Unknown { why, .. } => ("drift", Some(why.as_str())),
            // What was judged by objects of the cluster means nothing while no API server shows any.
            _ => ("drift", self.ready.why().filter(|_| change.of_cluster)),
        });
        let machine = read::machine(told);
        let own: Vec<_> = match machine.why() {
            Some(_) => vec![("machine", machine.why())],
            None => own.into_iter().chain(wants).collect(),
        };
        let mut all: Vec<Unseen> = own.into_iter().chain(api).filter_map(unseen).collect();
        all.dedup();
        all
    }
}

impl<T> Share<T> {
    fn why(&self) -> Option<&str> {
        self.allocatable.why().or(self.requested.why())
    }
}

impl ClusterStatus {
    fn unseen(&self) -> Vec<Unseen> {
        let about = |node: Option<&str>, what, why: Option<&str>| {
            Some(Unseen { node: node.map(str::to_string), what, why: why?.into() })
        };
        let apis = self.api.iter().map(|api| about(Some(&api.node), "api", api.health.why()));
        let members = self.etcd.is().into_iter().flatten();
        let members = members.map(|it| about(Some(&it.name), "etcd", it.healthy.why().or(it.learner.why())));
        let rest = [
            about(None, "etcd", self.etcd.why()),
            about(None, "network", self.network.ready.why()),
            about(None, "token", self.token.why()),
            about(None, "ready", self.ready.why()),
        ];
        apis.chain(members).chain(rest).flatten().collect()
    }
}

impl NetworkStatus {
    fn kind(cluster: &Cluster) -> &'static str {
        match cluster.network {
            Network::Flannel(_) => "flannel",
            Network::Manifests(_) => "manifests",
            Network::None => "none",
        }
    }
}
