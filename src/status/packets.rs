//! The targets that a node reaches over the network of pods and Services, as the answers to real packets show.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::Seen;
use crate::cluster::{Cluster, Network, Node};
use crate::steps::packets::{self, tunnels};

/// The result of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reached {
    Reached,
    NotReached,
    /// ironstrap could not ask: there is no pod with an address of its own, or nothing to ask with.
    NotChecked,
}

/// Everything that one node should reach.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Packets {
    /// The Service of the API.
    pub service: Reached,
    /// The API server of each control plane, at its own address.
    pub servers: BTreeMap<String, Reached>,
    /// The cluster's DNS. `null` if the cluster has none of its own.
    pub dns: Option<Reached>,
    /// The same, asked from within a pod of this node. `null` if none could be asked.
    pub pod_dns: Option<Reached>,
    /// A pod of this node, asked from this node. `null` if there is none with flannel's network.
    pub own_pod: Option<Reached>,
    /// The end of flannel's tunnel on each of these nodes. Empty with another network.
    pub tunnels: BTreeMap<String, Reached>,
    /// A pod on each of these nodes. Only control planes ask pods.
    pub pods: BTreeMap<String, Reached>,
    /// Nodes without a pod that could be asked.
    #[serde(skip)]
    pub without_pod: Vec<String>,
}

impl Packets {
    /// Returns how many were reached, how many were not, and how many were not checked.
    pub fn sum(&self) -> (usize, usize, usize) {
        let maps = [&self.servers, &self.tunnels, &self.pods];
        let all = [Some(self.service), self.dns, self.pod_dns, self.own_pod].into_iter().flatten();
        let all: Vec<Reached> = all.chain(maps.into_iter().flat_map(BTreeMap::values).copied()).collect();
        let count = |what: Reached| all.iter().filter(|it| **it == what).count();
        (count(Reached::Reached), count(Reached::NotReached), count(Reached::NotChecked))
    }
}

/// Reads an answer. Returns `Seen::Nothing` if the question does not concern the machine. `at_ends`: the nodes that answered any
/// node at the end of a tunnel. If another node is silent there, nothing is known of it: a firewall of that machine may drop such
/// packets.
pub(super) fn read(cluster: &Cluster, node: &Node, answer: &str, at_ends: &BTreeSet<&str>) -> Seen<Packets> {
    if answer.trim_end() == packets::NO_MEMBER {
        return Seen::Nothing;
    }
    let state = |name: &str, refused: Reached| match packets::state(answer, name) {
        Some("reached") => Reached::Reached,
        Some("refused") => refused,
        Some(_) => Reached::NotReached,
        None => Reached::NotChecked,
    };
    let tunnel = |name: &str| match packets::state(answer, &format!("tunnel:{name}")) {
        Some("silent") if !at_ends.contains(name) => Reached::NotChecked,
        _ => state(&format!("tunnel:{name}"), Reached::Reached),
    };
    let tunnels = tunnels::asked_of(cluster, node).map(|node| (node.name.clone(), tunnel(&node.name)));
    let servers = cluster.control_planes().enumerate();
    let servers =
        servers.map(|(n, plane)| (plane.name.clone(), state(&format!("server{n}"), Reached::Reached)));
    let asks_pods = node.is_control_plane() && cluster.network != Network::None;
    let others = packets::asked_about(cluster, node).filter(|_| asks_pods);
    let has_dns = cluster.has_addon("dns") && cluster.network != Network::None;
    let pods: BTreeMap<String, Reached> = others
        .map(|node| (node.name.clone(), state(&format!("pod:{}", node.name), Reached::Reached)))
        .collect();
    let unasked = pods.iter().filter(|(_, it)| **it == Reached::NotChecked).map(|(name, _)| name.clone());
    // If nothing could be asked, or the pods are unknown, then nobody knows which nodes have no pod.
    let asks = answer.lines().any(|line| line.starts_with("service "));
    let lists = packets::state(answer, "pods unknown:").is_none();
    // The silence of users' pods proves nothing.
    let of_pod = |name: &str, refused: Reached| {
        packets::state(answer, name).map(|_| match state(name, refused) {
            Reached::NotReached if !packets::is_proof(answer, name) => Reached::NotChecked,
            known => known,
        })
    };
    Seen::Is(Packets {
        without_pod: unasked.filter(|_| asks && lists).collect(),
        service: state("service", Reached::NotReached),
        servers: servers.collect(),
        dns: has_dns.then(|| state("dns", Reached::NotReached)),
        pod_dns: of_pod(packets::POD_DNS, Reached::NotReached),
        own_pod: of_pod(packets::OWN_POD, Reached::Reached),
        tunnels: tunnels.collect(),
        // A connection that is refused has reached the pod.
        pods,
    })
}
