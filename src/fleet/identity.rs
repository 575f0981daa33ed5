//! Checks whether machines are what they seem to be. It finds clones that still share identifiers, addresses
//! that belong to another machine, and routes that are in the way. It judges machines that are not in the
//! cluster yet, because a member has shown that it works. This module is pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::Machines;
use crate::cluster::{Cluster, Node};
use crate::error::{Error, Kind};
use crate::machine::Machine;

/// The result of a check that a machine failed. The inventory may downgrade it to a warning.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// The name of the check, as in `ignore-preflight`.
    pub check: &'static str,
    pub error: Error,
    /// Whether it is only a warning, with and without `ignore-preflight`.
    pub harmless: bool,
}

/// A property that no two machines may share: its name, how to read it, and how to change it.
struct Unique {
    check: &'static str,
    what: &'static str,
    read: fn(&Node, &Machine) -> BTreeSet<String>,
    remedy: &'static str,
}

const UNIQUE: &[Unique] = &[
    Unique {
        check: "MachineID",
        what: "machine-id",
        read: |_, machine| machine.machine_id.iter().cloned().collect(),
        remedy: "rm -f /etc/machine-id /var/lib/dbus/machine-id; systemd-machine-id-setup; reboot",
    },
    Unique {
        check: "ProductUUID",
        what: "product_uuid",
        read: |_, machine| machine.product_uuid.iter().cloned().collect(),
        remedy: "give the virtual machine its own UUID in the hypervisor: kubelets and storage identify machines by it",
    },
    Unique {
        check: "MACAddress",
        what: "MAC address",
        // Only the network card with the node's address counts. A hypervisor's own networks are the same on all
        // its machines, including the MAC address.
        read: |node, machine| {
            let card = machine.addresses.get(&node.ip).and_then(|card| machine.macs.get(card));
            card.into_iter().filter(|mac| *mac != "00:00:00:00:00:00").cloned().collect()
        },
        remedy: "give its network card its own MAC address in the hypervisor",
    },
    Unique {
        check: "HostKey",
        what: "SSH host key",
        read: |_, machine| machine.host_keys.iter().cloned().collect(),
        remedy: "rm /etc/ssh/ssh_host_*_key*; ssh-keygen -A; systemctl restart ssh",
    },
];

/// The findings about machines that are not members yet, compared with each other and with the cluster's addresses.
/// A finding names a member only if that is a worker that claims a host key or an address of another machine.
pub fn findings(cluster: &Cluster, machines: &Machines) -> Vec<Finding> {
    let (mut found, holders) = (twins(cluster, machines), holders(cluster, machines));
    for node in &cluster.nodes {
        let Some(machine) = heard(machines, node) else { continue };
        found.extend(somebody_elses(cluster, node, machines, &holders));
        if !machine.is_member() {
            found.extend(elsewhere(node, machine));
            found.extend(in_the_way(cluster, node, machine));
        }
    }
    found
}

fn heard<'a>(machines: &Machines<'a>, node: &Node) -> Option<&'a Machine> {
    machines.get(node.name.as_str()).copied()
}

/// Pairs of nodes that share a property, each with the shared values.
type Common<'a> = BTreeMap<(&'a str, &'a str), Vec<String>>;

/// Finds machines that share a property. The finding names the machine that can still be changed: one that is not a member,
/// or the later of two such machines. If a worker only claims the host key of another machine, the finding names that worker.
fn twins(cluster: &Cluster, machines: &Machines) -> Vec<Finding> {
    let mut found = Vec::new();
    let member = |node: &&Node| heard(machines, node).is_some_and(Machine::is_member);
    for unique in UNIQUE {
        let mut holders: BTreeMap<String, Vec<&Node>> = BTreeMap::new();
        for node in &cluster.nodes {
            let values =
                heard(machines, node).map(|machine| (unique.read)(node, machine)).unwrap_or_default();
            values.into_iter().for_each(|value| holders.entry(value).or_default().push(node));
        }
        let (mut told, mut claimed) = <(Common, Common)>::default();
        for (value, mut nodes) in holders {
            if let Some(owner) = nodes.iter().copied().find(|node| proven(machines, node) == Some(&value)) {
                let (claim, have) = nodes.into_iter().partition(|node| only_claims(machines, node, &value));
                nodes = have;
                for node in claim {
                    claimed.entry((&node.name, &owner.name)).or_default().push(value.clone());
                }
            }
            nodes.sort_by_key(|node| (!member(node), !node.is_control_plane()));
            for pair in nodes.windows(2).filter(|pair| !member(&pair[1])) {
                told.entry((&pair[1].name, &nodes[0].name)).or_default().push(value.clone());
            }
        }
        found.extend(told.into_iter().map(|(pair, values)| {
            let sure = is_sure(cluster, machines, pair);
            twin(unique, pair, &values, sure)
        }));
        found.extend(claimed.into_iter().map(|(pair, values)| claim(unique, pair, &values)));
    }
    found
}

/// The host key by which ironstrap reached a machine.
fn proven<'a>(machines: &Machines<'a>, node: &Node) -> Option<&'a String> {
    heard(machines, node)?.proven_key.as_ref()
}

/// Whether this is a worker that names a host key, although ironstrap reached it by another one of the same kind.
fn only_claims(machines: &Machines, node: &Node, key: &str) -> bool {
    let kind = |key: &str| key.split(' ').next().map(str::to_string);
    let another = |proven: &String| *proven != key && kind(proven) == kind(key);
    !node.is_control_plane() && proven(machines, node).is_some_and(another)
}

/// Whether two machines share a property by more than the word of a worker. Either a control plane says so, or
/// ironstrap reached both by the same host key.
fn is_sure(cluster: &Cluster, machines: &Machines, (name, other): (&str, &str)) -> bool {
    let key = |name: &str| machines.get(name).and_then(|machine| machine.proven_key.as_ref());
    let plane = cluster.node(other).is_some_and(Node::is_control_plane);
    plane || key(name).is_some() && key(name) == key(other)
}

fn twin(unique: &Unique, (name, other): (&str, &str), values: &[String], sure: bool) -> Finding {
    let what = format!("has the same {} as {other}: one may be a clone of the other", unique.what);
    let hint = match sure {
        true => format!("on {name}: {}", unique.remedy),
        // Only the operator can know whether it is true.
        false => format!(
            "if {name} and {other} come from one image, on {name}: {}; if they do not, {other} reports a false value: \
             find out who changed it, and reinstall {other}",
            unique.remedy
        ),
    };
    let error = Error::new(Kind::Refused, what).on(name).concerning([other]).quoting(values.join(", "));
    Finding { check: unique.check, error: error.hint(hint), harmless: false }
}

fn claim(unique: &Unique, (name, owner): (&str, &str), values: &[String]) -> Finding {
    let what = format!("claims the {} of {owner}, but ironstrap reached it by another one", unique.what);
    let error = Error::new(Kind::Refused, what).on(name).concerning([owner]).quoting(values.join(", ")).hint(format!(
        "check /etc/ssh/ssh_host_*_key.pub of {name}, and delete what an image left there; if no image did, find out who \
         changed it, `ironstrap remove {name}`, and reinstall it"
    ));
    Finding { check: unique.check, error, harmless: false }
}

/// The finding that no interface of a machine has the node's address. The kubelet refuses such an address. A
/// machine that cannot list its addresses is not judged.
fn elsewhere(node: &Node, machine: &Machine) -> Option<Finding> {
    if machine.addresses.is_empty() || machine.addresses.contains_key(&node.ip) {
        return None;
    }
    let has: Vec<String> =
        machine.addresses.keys().filter(|ip| reaches_others(ip)).map(IpAddr::to_string).collect();
    let error =
        Error::new(Kind::Refused, format!("no network interface has the cluster address {}", node.ip))
            .on(&node.name)
            .because(format!("found: {}", has.join(", ")))
            .hint(format!(
                "set `ip` of [nodes.{}] to the address by which the other nodes reach it",
                node.name
            ));
    Some(Finding { check: "NodeAddress", error, harmless: false })
}

/// The nodes that have an address on one of their interfaces, by address, in the order of the inventory.
type Holders<'a> = BTreeMap<IpAddr, Vec<&'a str>>;

fn holders<'a>(cluster: &'a Cluster, machines: &Machines) -> Holders<'a> {
    let mut holders = Holders::new();
    for node in &cluster.nodes {
        let addresses = heard(machines, node).into_iter().flat_map(|machine| machine.addresses.keys());
        addresses.for_each(|ip| holders.entry(*ip).or_default().push(&node.name));
    }
    holders
}

/// The finding that another machine has the address of this node. Two machines that answer to one address get
/// each other's packets. The finding names the machine that can still be changed, with one exception. A worker
/// may have the address that the inventory gives to another machine, while that machine has it, too. Then the
/// finding names the worker, because its root could claim any address.
fn somebody_elses(cluster: &Cluster, node: &Node, machines: &Machines, holders: &Holders) -> Option<Finding> {
    let member = |name: &str| machines.get(name).is_some_and(|machine| machine.is_member());
    let (name, ours) = (node.name.as_str(), member(&node.name));
    let other = *holders.get(&node.ip)?.iter().find(|other| **other != name && !(ours && member(other)))?;
    let worker = cluster.node(other).is_some_and(|other| !other.is_control_plane());
    let has_it = heard(machines, node).is_some_and(|machine| machine.addresses.contains_key(&node.ip));
    let (told, what) = match ours || worker && has_it {
        true => (other, format!("has {}, the cluster address of {name}", node.ip)),
        false => (name, format!("the cluster address {} is also on {other}", node.ip)),
    };
    let error = Error::new(Kind::Refused, what)
        .on(told)
        .concerning([name, other].into_iter().filter(|node| *node != told))
        .hint("give each machine its own address, and set it as `ip` of the node");
    Some(Finding { check: "Address", error, harmless: false })
}

/// The most routes of one machine that are named.
const MOST_ROUTES: usize = 8;

/// The findings about routes to what the cluster wants for pods or Services. A wider route is only a warning:
/// it hides some of its addresses from pods.
fn in_the_way(cluster: &Cluster, node: &Node, machine: &Machine) -> Vec<Finding> {
    let ranges = [("pods", cluster.pods), ("services", cluster.services)];
    let clash = |(field, range): &(&str, IpNet), route: &IpNet| {
        let (inside, around) = (range.contains(route), route.contains(range));
        (inside || around).then(|| {
            let what = format!("the route to {route} overlaps {field} = \"{range}\" of the cluster");
            let why = if inside {
                "packets to these addresses would take that route"
            } else {
                "pods could not reach all addresses of that route"
            };
            let error = Error::new(Kind::Refused, what).on(&node.name).quoting(why);
            let hint = format!(
                "choose another range for `{field}` in [cluster], or remove the route from the machine"
            );
            Finding { check: "Routes", error: error.hint(hint), harmless: !inside }
        })
    };
    let pairs = ranges.iter().flat_map(|range| machine.routes.iter().map(move |route| (range, route)));
    pairs.filter_map(|(range, route)| clash(range, route)).take(MOST_ROUTES).collect()
}

/// Whether an address can reach other machines. It is neither one that every machine has, nor one of a single link.
fn reaches_others(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests;
