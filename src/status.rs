//! The fleet at a glance: what the answers to the wants' questions, and to a few of status' own, come to. Pure: it
//! asks nothing and prints nothing.

use std::collections::BTreeSet;

use serde::{Serialize, Serializer};
use time::OffsetDateTime;

use crate::cluster::{Cluster, Network, Node};
use crate::error::Error;
use crate::machine::Machine;
use crate::plan::{Change, State, WantName};
use crate::probe::Answer;
use crate::steps::packets::tunnels;
use crate::steps::{STAGES, Via};

mod ask;
mod packets;
mod quantity;
mod read;
mod whole;

pub use ask::{Topic, questions};
pub use packets::{Packets, Reached};
pub use quantity::{billionths, by_node};

/// Something that may be there, and may be visible. In JSON its value; `null` where there is none or nobody could
/// see it, and then `unseen` has the reason.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen<T> {
    Is(T),
    Nothing,
    /// Nobody knows, and why.
    Unknown(String),
}

impl<T> Seen<T> {
    pub fn is(&self) -> Option<&T> {
        if let Seen::Is(value) = self { Some(value) } else { None }
    }

    pub fn why(&self) -> Option<&str> {
        if let Seen::Unknown(why) = self { Some(why) } else { None }
    }

    /// Goes on with what was seen.
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

/// All of it. The names of the fields are those of `status --json`, and stay.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Status {
    pub cluster: Whole,
    /// In the order of the inventory.
    pub nodes: Vec<NodeStatus>,
    /// How many wants do not hold, as `plan` counts them.
    pub changes: usize,
    /// What nobody could see.
    pub unseen: Vec<Unseen>,
    /// What stands against touching machines, as `plan` says it.
    pub errors: Vec<Error>,
    /// What people should know of the operator's side: files of the inventory, the end of the CA.
    pub notes: Vec<String>,
}

impl Status {
    /// Nothing of these nodes is to be shown. What they say of the cluster stays.
    pub fn leave_out(&mut self, spared: impl Fn(&str) -> bool) {
        self.nodes.retain(|node| !spared(&node.name));
        self.unseen.retain(|unseen| unseen.node.as_deref().is_none_or(|name| !spared(name)));
    }
}

/// What the control planes say of the cluster.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Whole {
    pub name: String,
    /// How many nodes the inventory has.
    pub nodes: usize,
    /// The version that the inventory wants.
    pub kubernetes: String,
    /// The URL of the API.
    pub endpoint: String,
    /// By control plane.
    pub api: Vec<Api>,
    pub etcd: Seen<Vec<Member>>,
    pub network: NetworkStatus,
    /// The join token that is good for longest.
    pub token: Seen<Token>,
    /// How many nodes of the inventory are Ready.
    pub ready: Seen<usize>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Api {
    pub node: String,
    pub health: Seen<Health>,
    /// What it lacks of health.
    pub why: Option<String>,
}

/// What an API server says to `/readyz`.
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
    /// By its own word.
    pub healthy: Seen<bool>,
    /// It has no vote yet.
    pub learner: Seen<bool>,
    pub why: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NetworkStatus {
    /// `flannel`, `manifests` or `none`, as the inventory has it.
    pub kind: &'static str,
    /// The range of the pods' addresses.
    pub pods: String,
    /// Pods of its DaemonSets: how many are ready, of how many.
    pub ready: Seen<u64>,
    pub wanted: Seen<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Token {
    /// `None`: it never expires.
    #[serde(with = "time::serde::rfc3339::option")]
    pub until: Option<OffsetDateTime>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeStatus {
    pub name: String,
    /// `control-plane` or `worker`.
    pub role: &'static str,
    /// Where SSH goes.
    pub address: String,
    pub reachable: bool,
    /// As the API has it.
    pub ready: Seen<bool>,
    /// Why it is not Ready.
    pub not_ready: Option<String>,
    /// `false`: it is cordoned.
    pub schedulable: Seen<bool>,
    pub versions: Versions,
    pub drift: Seen<Vec<Drift>>,
    /// What it reaches over the network of pods and Services.
    pub packets: Seen<Packets>,
    /// Of the certificates that it uses, the one that ends first.
    pub certificate: Seen<Certificate>,
    /// Cores.
    pub cpu: Share<f64>,
    /// Bytes.
    pub memory: Share<u64>,
    pub pods: Share<u64>,
    /// Seconds.
    pub uptime: Seen<u64>,
}

/// What is installed, without what the distribution appends.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Versions {
    pub kubelet: Seen<String>,
    pub runtime: Runtime,
    /// The same as `runtime.version`, for readers of schema 1. It goes with the release after.
    pub containerd: Seen<String>,
    /// That runs.
    pub kernel: Seen<String>,
    pub os: Seen<String>,
}

/// The container runtime.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Runtime {
    pub name: &'static str,
    pub version: Seen<String>,
}

/// A want that does not hold, as `plan` has it.
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
    /// From now on, rounded down.
    pub days: i64,
}

/// What a node has for pods, and what of it they asked for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Share<T> {
    pub allocatable: Seen<T>,
    pub requested: Seen<T>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Unseen {
    /// `None`: it is about the cluster.
    pub node: Option<String>,
    /// A field of the node or the cluster; `machine` for all that a machine would have said of itself.
    pub what: &'static str,
    pub why: String,
}

/// A node, and what it said.
pub struct Witness<'a> {
    pub node: &'a Node,
    pub machine: Option<&'a Machine>,
    /// To `questions`, in their order.
    pub answers: &'a [Answer],
    pub changes: &'a [Change],
    /// Why nothing more is done there.
    pub left: Option<&'a Error>,
}

/// `speaks`: the place in `told` of the control plane that speaks for the cluster. `errors`: what a survey found.
pub fn status(
    cluster: &Cluster,
    told: &[Witness],
    speaks: Option<usize>,
    errors: Vec<Error>,
    now: OffsetDateTime,
) -> Status {
    let voice = whole::Voice::new(cluster, told, speaks);
    let said = told.iter().map(|told| read::said(cluster, told, Topic::Packets));
    let said: Vec<String> = said.filter_map(|said| said.is().cloned()).collect();
    let at_ends: BTreeSet<&str> = said.iter().flat_map(|said| tunnels::answered(said)).collect();
    let node = |(i, told)| node(cluster, told, &voice.of_node(i), &at_ends, now);
    let nodes: Vec<NodeStatus> = told.iter().enumerate().map(node).collect();
    let cluster = voice.whole(&nodes, now);
    let changes = told.iter().map(|told| told.changes.len()).sum();
    let mut unseen = cluster.unseen();
    unseen.extend(nodes.iter().zip(told).flat_map(|(node, told)| node.unseen(told)));
    Status { cluster, nodes, changes, unseen, errors, notes: vec![] }
}

fn node(
    cluster: &Cluster,
    told: &Witness,
    said: &whole::OfNode,
    at_ends: &BTreeSet<&str>,
    now: OffsetDateTime,
) -> NodeStatus {
    let about = |topic| read::said(cluster, told, topic);
    let drift = |change: &Change| {
        let unheard = said.ready.why().filter(|_| is_by_api(change));
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

/// What was judged by objects of the cluster: worth nothing while no API server shows any.
fn is_by_api(change: &Change) -> bool {
    let mut stages = STAGES.iter().filter(|stage| stage.via == Via::Api);
    stages.any(|stage| stage.steps.iter().any(|step| step.name == change.step))
}

impl NodeStatus {
    fn unseen(&self, told: &Witness) -> Vec<Unseen> {
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
            _ => ("drift", self.ready.why().filter(|_| is_by_api(change))),
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

impl Whole {
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
