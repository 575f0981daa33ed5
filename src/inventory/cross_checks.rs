//! Checks that concern several nodes, or nodes and the cluster. `nodes` checks each node by itself.

use std::collections::HashMap;
use std::hash::Hash;

use super::diagnostic::{Mistakes, Span};
use super::network::Ranges;
use super::nodes::Written;
use crate::cluster::Endpoint;

/// Reports names and addresses that nodes share, addresses that do not fit the cluster's ranges, and a missing control plane.
pub fn check(nodes: &[Written], ranges: &Ranges, mistakes: &mut Mistakes) {
    twice(nodes, |node| Some(node.node.name.clone()), |node| &node.name_at, "called", mistakes);
    let sound = |node: &Written| !node.doubtful;
    let address = |node: &Written| {
        let (host, port) = (&node.node.ssh.host, node.node.ssh.port.unwrap_or(22));
        sound(node)
            .then(|| if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
    };
    let same_address = twice(nodes, address, |node| &node.address_at, "reached at", mistakes);
    // If `ip` is not written, it is the address. A shared address is already reported.
    let ip =
        |node: &Written| (sound(node) && !same_address.contains(&node.node.name)).then_some(node.node.ip);
    twice(nodes, ip, |node| &node.ip_at, "at ip", mistakes);
    for node in nodes.iter().filter(|node| sound(node)) {
        check_ranges(node, ranges, mistakes);
    }
    check_control_planes(nodes, mistakes);
}

/// Reports nodes that have the same value. Returns the names of all but the first of them.
fn twice<T: Hash + Eq + std::fmt::Display>(
    nodes: &[Written],
    what: impl Fn(&Written) -> Option<T>,
    at: impl Fn(&Written) -> &Span,
    says: &str,
    mistakes: &mut Mistakes,
) -> Vec<String> {
    let mut seen: HashMap<T, &str> = HashMap::new();
    let mut later = vec![];
    for node in nodes {
        let Some(value) = what(node) else { continue };
        let name = node.node.name.as_str();
        match seen.get(&value) {
            Some(first) if *first == name => {
                mistakes.add(at(node), format!("another table also has a node {says} {value}"));
            }
            Some(first) => {
                let both = format!("{name} and {first} are both {says} {value}");
                mistakes.add_help(at(node), both, "each node needs its own");
            }
            None => {
                seen.insert(value, name);
                continue;
            }
        }
        later.push(name.to_string());
    }
    later
}

/// Names that already mean something else on every machine or in every pod.
const TAKEN: [&str; 5] =
    ["localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback", "kubernetes"];

/// Reports nodes whose names already mean something else. The names of nodes are in /etc/hosts of all nodes.
pub fn check_names(nodes: &[Written], endpoint: &Endpoint, mistakes: &mut Mistakes) {
    for node in nodes {
        let name = node.node.name.as_str();
        if TAKEN.contains(&name) || name.starts_with("kubernetes.default") {
            mistakes.add_help(
                &node.name_at,
                format!("{name} means something else on every machine"),
                "rename the node",
            );
        } else if name == endpoint.host && endpoint.managed {
            let says =
                format!("{name} is the name of the API endpoint, which resolves to the control planes");
            mistakes.add_help(
                &node.name_at,
                says,
                "rename the node, or give `endpoint` in [cluster] another name",
            );
        }
    }
}

fn check_ranges(node: &Written, ranges: &Ranges, mistakes: &mut Mistakes) {
    let (name, ip) = (&node.node.name, node.node.ip);
    for (range, what) in [(&ranges.pods, "pods"), (&ranges.services, "services")] {
        if let Some(range) = range.as_ref().filter(|range| range.net.contains(&ip)) {
            let says = format!("{name}'s ip {ip} is in {what} ({}); they must not overlap", range.net);
            mistakes.add_help(&node.ip_at, says, format!("give `{what}` in [cluster] another range"));
        }
    }
    if let Some(pods) = ranges.pods.as_ref().filter(|pods| pods.net.addr().is_ipv4() != ip.is_ipv4()) {
        let says = format!("{name}'s ip {ip} and pods ({}) must both be IPv4, or both IPv6", pods.net);
        mistakes.add(&node.ip_at, says);
    }
}

fn check_control_planes(nodes: &[Written], mistakes: &mut Mistakes) {
    let unclear = nodes.is_empty() || nodes.iter().any(|node| !node.role_known);
    if !unclear && !nodes.iter().any(|node| node.node.is_control_plane()) {
        mistakes.add_missing("no node is a control plane; at least one needs role = \"control-plane\"");
    }
}
