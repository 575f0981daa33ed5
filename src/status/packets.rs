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
    /// Nobody asked: there is no pod with an address of its own, or nothing to ask with.
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
}

impl Packets {
    /// How many were reached, of how many that were asked.
    pub fn sum(&self) -> (usize, usize) {
        let all = [Some(self.service), self.dns].into_iter().flatten().chain(self.pods.values().copied());
        let asked: Vec<Reached> = all.filter(|it| *it != Reached::NotChecked).collect();
        (asked.iter().filter(|it| **it == Reached::Reached).count(), asked.len())
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
    Seen::Is(Packets {
        service: state("service", Reached::NotReached),
        dns: has_dns.then(|| state("dns", Reached::NotReached)),
        // A connection that is refused has reached the pod.
        pods: others
            .map(|node| (node.name.clone(), state(&format!("pod:{}", node.name), Reached::Reached)))
            .collect(),
    })
}
