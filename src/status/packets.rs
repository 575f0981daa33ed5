//! What a node reaches over the network of pods and Services, by the answer to real packets.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Seen;
use crate::cluster::{Cluster, Network, Node};
use crate::plan::NOT_HERE;
use crate::steps::packets;

/// How a question came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reached {
    Reached,
    NotReached,
    /// Nobody could be asked: there is no pod with an address of its own, or nothing to ask with.
    NotChecked,
}

/// All that one node was to reach.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Packets {
    /// The API's Service.
    pub service: Reached,
    /// The cluster's DNS; `null` where the cluster has none of its own.
    pub dns: Option<Reached>,
    /// A pod of each of these nodes; only control planes ask pods.
    pub pods: BTreeMap<String, Reached>,
    /// Nodes without a pod that could be asked.
    #[serde(skip)]
    pub without_pod: Vec<String>,
}

impl Packets {
    /// How many were reached, how many were not, and how many were not checked.
    pub fn sum(&self) -> (usize, usize, usize) {
        let all = [Some(self.service), self.dns].into_iter().flatten().chain(self.pods.values().copied());
        let all: Vec<Reached> = all.collect();
        let count = |what: Reached| all.iter().filter(|it| **it == what).count();
        (count(Reached::Reached), count(Reached::NotReached), count(Reached::NotChecked))
    }
}

/// Reads an answer; nothing of a machine that is no member.
pub(super) fn read(cluster: &Cluster, node: &Node, answer: &str) -> Seen<Packets> {
    if answer.trim_end() == NOT_HERE {
        return Seen::Nothing;
    }
    let state = |name: &str, refused: Reached| match packets::state(answer, name) {
        Some("reached") => Reached::Reached,
        Some("refused") => refused,
        Some(_) => Reached::NotReached,
        None => Reached::NotChecked,
    };
    let asks_pods = node.is_control_plane() && cluster.network != Network::None;
    let others = packets::asked_about(cluster, node).filter(|_| asks_pods);
    let has_dns = cluster.has_addon("dns") && cluster.network != Network::None;
    let pods: BTreeMap<String, Reached> = others
        .map(|node| (node.name.clone(), state(&format!("pod:{}", node.name), Reached::Reached)))
        .collect();
    let unasked = pods.iter().filter(|(_, it)| **it == Reached::NotChecked).map(|(name, _)| name.clone());
    // Where nothing could be asked, the result is unknown.
    let asks = answer.lines().any(|line| line.starts_with("service "));
    let lists = packets::state(answer, "pods unknown:").is_none();
    Seen::Is(Packets {
        without_pod: unasked.filter(|_| asks && lists).collect(),
        service: state("service", Reached::NotReached),
        dns: has_dns.then(|| state("dns", Reached::NotReached)),
        // A connection that is refused has reached the pod.
        pods,
    })
}
