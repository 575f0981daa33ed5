//! Whether machines are who they seem to be: clones that were never made to differ, addresses that are somebody else's
//! or lie in the way. Asked of those that are not in the cluster yet; whoever runs in it has shown that it works. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::Machines;
use crate::cluster::{Cluster, Node};
use crate::error::{Error, Kind};
use crate::machine::Machine;

/// Something that speaks against a machine, unless the inventory wants it only told.
#[derive(Clone, Debug, PartialEq)]
pub struct Misfit {
    /// As `ignore-preflight` names it.
    pub check: &'static str,
    pub error: Error,
    /// No more than a warning, whoever sees it.
    pub harmless: bool,
}

/// What no two machines may have in common: how it is called, read, and made another.
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
        remedy: "give the virtual machine a UUID of its own in its hypervisor: kubelets and storage tell machines by it",
    },
    Unique {
        check: "MACAddress",
        what: "MAC address",
        // Of the card that counts: a hypervisor's own networks are alike on all its machines, down to this.
        read: |node, machine| {
            let card = machine.addresses.get(&node.ip).and_then(|card| machine.macs.get(card));
            card.into_iter().filter(|mac| *mac != "00:00:00:00:00:00").cloned().collect()
        },
        remedy: "give its network card an address of its own in the hypervisor",
    },
    Unique {
        check: "HostKey",
        what: "SSH host key",
        read: |_, machine| machine.host_keys.iter().cloned().collect(),
        remedy: "rm /etc/ssh/ssh_host_*_key*; ssh-keygen -A; systemctl restart ssh",
    },
];

/// What is wrong with machines that are not members yet, taken together and with the cluster's addresses.
pub fn misfits(cluster: &Cluster, machines: &Machines) -> Vec<Misfit> {
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

/// Told of the machine that can still be changed: one that is not a member, and the later of two such. What only a worker
/// says of itself is a reason to compare the two, and none to change the other.
fn twins(cluster: &Cluster, machines: &Machines) -> Vec<Misfit> {
    let mut found = Vec::new();
    for unique in UNIQUE {
        let mut holders: BTreeMap<String, Vec<&Node>> = BTreeMap::new();
        for node in &cluster.nodes {
            let values =
                heard(machines, node).map(|machine| (unique.read)(node, machine)).unwrap_or_default();
            values.into_iter().for_each(|value| holders.entry(value).or_default().push(node));
        }
        let member = |node: &&Node| heard(machines, node).is_some_and(Machine::is_member);
        let mut told: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
        for (value, mut nodes) in holders {
            nodes.sort_by_key(|node| !member(node));
            for pair in nodes.windows(2).filter(|pair| !member(&pair[1])) {
                told.entry((&pair[1].name, &nodes[0].name)).or_default().push(value.clone());
            }
        }
        let plane = |name: &str| cluster.node(name).is_some_and(Node::is_control_plane);
        let misfit = |((name, other), values): ((&str, &str), Vec<String>)| {
            let what = format!("has the {} of {other}: is one a clone of the other?", unique.what);
            let error = Error::new(Kind::Refused, what).on(name).because(values.join(", "));
            let hint = match plane(other) {
                true => format!("on {name}: {}", unique.remedy),
                false => format!(
                    "compare the two, for {other} could say so without having it; where {name} is the clone, there: {}",
                    unique.remedy
                ),
            };
            Misfit { check: unique.check, error: error.hint(hint), harmless: false }
        };
        found.extend(told.into_iter().map(misfit));
    }
    found
}

/// The kubelet refuses an address that none of the machine's interfaces has. A machine that cannot list them is not
/// judged.
fn elsewhere(node: &Node, machine: &Machine) -> Option<Misfit> {
    if machine.addresses.is_empty() || machine.addresses.contains_key(&node.ip) {
        return None;
    }
    let has: Vec<String> =
        machine.addresses.keys().filter(|ip| reaches_others(ip)).map(IpAddr::to_string).collect();
    let error = Error::new(
        Kind::Refused,
        format!("{}, its address in the cluster, is on none of its interfaces", node.ip),
    )
    .on(&node.name)
    .because(format!("it has: {}", has.join(", ")))
    .hint(format!("put the one by which the other nodes reach it into `ip` of [nodes.{}]", node.name));
    Some(Misfit { check: "NodeAddress", error, harmless: false })
}

/// Who has an address on one of its interfaces, in the order of the inventory.
type Holders<'a> = BTreeMap<IpAddr, Vec<&'a str>>;

fn holders<'a>(cluster: &'a Cluster, machines: &Machines) -> Holders<'a> {
    let mut holders = Holders::new();
    for node in &cluster.nodes {
        let addresses = heard(machines, node).into_iter().flat_map(|machine| machine.addresses.keys());
        addresses.for_each(|ip| holders.entry(*ip).or_default().push(&node.name));
    }
    holders
}

/// Two machines that answer to one address get each other's packets. Told of the one that can still be changed; but of a
/// worker that has the address which the inventory gives to another machine, where that machine has it: its root could claim
/// any address.
fn somebody_elses(cluster: &Cluster, node: &Node, machines: &Machines, holders: &Holders) -> Option<Misfit> {
    let member = |name: &str| machines.get(name).is_some_and(|machine| machine.is_member());
    let (name, ours) = (node.name.as_str(), member(&node.name));
    let other = *holders.get(&node.ip)?.iter().find(|other| **other != name && !(ours && member(other)))?;
    let worker = cluster.node(other).is_some_and(|other| !other.is_control_plane());
    let has_it = heard(machines, node).is_some_and(|machine| machine.addresses.contains_key(&node.ip));
    let (told, what) = match ours || worker && has_it {
        true => (other, format!("has {}, the address of {name} in the cluster", node.ip)),
        false => (name, format!("{other} has {}, its address in the cluster, too", node.ip)),
    };
    let error = Error::new(Kind::Refused, what)
        .on(told)
        .hint("give each machine an address of its own, and put it into `ip`");
    Some(Misfit { check: "Address", error, harmless: false })
}

/// Routes to what the cluster wants for pods or Services. A wider one only hides some of its addresses from pods.
fn in_the_way(cluster: &Cluster, node: &Node, machine: &Machine) -> Vec<Misfit> {
    let ranges = [("pods", cluster.pods), ("services", cluster.services)];
    let clash = |(field, range): &(&str, IpNet), route: &IpNet| {
        let (inside, around) = (range.contains(route), route.contains(range));
        (inside || around).then(|| {
            let what = format!("its route to {route} lies across {field} = \"{range}\" of the cluster");
            let why = if inside {
                "pods there would be sought elsewhere"
            } else {
                "pods would not reach all of it"
            };
            let error = Error::new(Kind::Refused, what).on(&node.name).because(why);
            let hint =
                format!("choose another range for `{field}` in [cluster], or take the route off the machine");
            Misfit { check: "Routes", error: error.hint(hint), harmless: !inside }
        })
    };
    let pairs = ranges.iter().flat_map(|range| machine.routes.iter().map(move |route| (range, route)));
    pairs.filter_map(|(range, route)| clash(range, route)).collect()
}

/// Not an address that every machine has, or has on a link alone.
fn reaches_others(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet(edit: impl Fn(&str, &mut Machine)) -> (Cluster, BTreeMap<String, Machine>) {
        let cluster = crate::pki::tests::cluster();
        let machine = |node: &Node| {
            let name = node.name.as_str();
            let mut machine = Machine {
                machine_id: Some(format!("id-{name}")),
                macs: [("eth0".to_string(), format!("02:{name}"))].into(),
                host_keys: vec![format!("key-{name}")],
                addresses: [(node.ip, "eth0".into()), ("169.254.1.1".parse().unwrap(), "eth0".into())].into(),
                ..Machine::default()
            };
            edit(name, &mut machine);
            (node.name.clone(), machine)
        };
        let machines = cluster.nodes.iter().map(machine).collect();
        (cluster, machines)
    }

    fn told(cluster: &Cluster, machines: &BTreeMap<String, Machine>) -> Vec<Misfit> {
        misfits(cluster, &machines.iter().map(|(name, machine)| (name.as_str(), machine)).collect())
    }

    fn found(edit: impl Fn(&str, &mut Machine)) -> Vec<(&'static str, String, String)> {
        let (cluster, machines) = fleet(edit);
        told(&cluster, &machines)
            .into_iter()
            .map(|m| (m.check, m.error.node.unwrap(), m.error.what))
            .collect()
    }

    #[test]
    fn machines_that_differ_are_fine() {
        assert_eq!(found(|_, _| {}), []);
    }

    #[test]
    fn a_clone_is_told_by_each_thing_that_it_shares() {
        let (cluster, _) = fleet(|_, _| {});
        let names: Vec<&str> = cluster.nodes.iter().map(|node| node.name.as_str()).collect();
        assert!(names.len() > 1);
        let found = found(|_, machine| {
            machine.machine_id = Some("same".into());
            machine.product_uuid = Some("same".into());
            machine.macs.insert("eth0".into(), "02:same".into());
            machine.host_keys.push("same".into());
            // As those of a hypervisor's own network are.
            machine.macs.insert("nat0".into(), "02:nat".into());
            machine.addresses.insert("203.0.113.9".parse().unwrap(), "nat0".into());
        });
        let checks: Vec<&str> = found.iter().map(|(check, ..)| *check).collect();
        for check in ["MachineID", "ProductUUID", "MACAddress", "HostKey"] {
            assert_eq!(checks.iter().filter(|c| **c == check).count(), names.len() - 1, "{check}: {found:?}");
        }
        assert_eq!(checks.len(), 4 * (names.len() - 1), "{found:?}");
        assert!(
            found
                .iter()
                .all(|(_, node, what)| *node != names[0] && what.contains(&format!("of {}", names[0])))
        );
    }

    #[test]
    fn an_address_that_another_machine_has_too_is_told() {
        let (cluster, _) = fleet(|_, _| {});
        let (first, last) = (cluster.nodes[0].clone(), cluster.nodes.last().unwrap().name.clone());
        // A worker claims it. Where the other machine does not have it, the inventory may be wrong.
        for (has_it, to_blame) in [(true, &last), (false, &first.name)] {
            let found = found(|name, machine| {
                if name == last {
                    machine.has.insert("client-certificate".into());
                    machine.addresses.insert(first.ip, "eth1".into());
                }
                if name == first.name && !has_it {
                    machine.addresses = [("203.0.113.1".parse().unwrap(), "eth0".into())].into();
                }
            });
            let told: Vec<_> = found.iter().filter(|(check, ..)| *check == "Address").collect();
            assert_eq!(told.iter().map(|(_, node, _)| node).collect::<Vec<_>>(), [to_blame], "{found:?}");
        }
        // Of a member nothing is asked that would tell, and it is not told: the newcomer is.
        let mut members = vec![first.name.clone()];
        for _ in 0..2 {
            let found = self::found(|name, machine| {
                if members.contains(&name.to_string()) {
                    machine.has.insert("client-certificate".into());
                    machine.addresses = [("203.0.113.1".parse().unwrap(), "eth0".into())].into();
                    machine.routes = vec![cluster_inside()];
                }
                if name == last {
                    machine.addresses.insert(first.ip, "eth1".into());
                }
            });
            let told: Vec<_> = found.iter().map(|(check, node, _)| (*check, node)).collect();
            assert_eq!(told, if members.len() == 1 { vec![("Address", &last)] } else { vec![] }, "{found:?}");
            members.push(last.clone());
        }
    }

    #[test]
    fn a_machine_is_not_to_be_changed_by_the_word_of_a_worker() {
        let (cluster, machines) = fleet(|_, machine| machine.host_keys = vec!["same".into()]);
        let hints = |member: &str| -> Vec<String> {
            let mut machines = machines.clone();
            machines.get_mut(member).unwrap().has.insert("client-certificate".into());
            told(&cluster, &machines).into_iter().filter_map(|misfit| misfit.error.hint).collect()
        };
        let worker = cluster.nodes.iter().find(|node| !node.is_control_plane()).unwrap();
        assert!(hints(&worker.name).iter().all(|hint| hint.starts_with("compare the two")));
        let plane = cluster.control_planes().next().unwrap();
        assert!(hints(&plane.name).iter().all(|hint| hint.starts_with("on ")));
    }

    #[test]
    fn members_are_left_in_peace_and_who_is_like_one_is_told() {
        let member = |machine: &mut Machine| machine.has.extend(["client-certificate".to_string()]);
        let same = |_: &str, machine: &mut Machine| machine.machine_id = Some("same".into());
        assert_eq!(
            found(|name, machine| {
                same(name, machine);
                member(machine)
            }),
            []
        );
        let (cluster, _) = fleet(|_, _| {});
        let last = cluster.nodes.last().unwrap().name.clone();
        let found = found(|name, machine| {
            same(name, machine);
            if name == last {
                member(machine)
            }
        });
        assert_eq!(found.len(), cluster.nodes.len() - 1);
        assert!(found.iter().all(|(_, node, what)| *node != last && what.contains(&format!("of {last}"))));
    }

    #[test]
    fn an_address_that_is_not_the_machines_is_told_unless_it_cannot_list_any() {
        let none = found(|_, machine| machine.addresses.clear());
        assert_eq!(none, []);
        let other = found(|name, machine| {
            machine.addresses =
                [(format!("203.0.113.{}", name.as_bytes()[1]).parse().unwrap(), "eth0".into())].into()
        });
        assert!(other.iter().all(|(check, ..)| *check == "NodeAddress") && !other.is_empty(), "{other:?}");
    }

    #[test]
    fn a_route_into_the_clusters_ranges_is_refused_and_a_wider_one_told() {
        let (cluster, machines) = fleet(|_, machine| {
            let inside = cluster_inside();
            machine.routes = vec![inside, "10.0.0.0/8".parse().unwrap(), "203.0.113.0/24".parse().unwrap()];
        });
        let found = told(&cluster, &machines);
        let of_first: Vec<bool> = found
            .iter()
            .filter(|m| m.error.node.as_ref() == Some(&cluster.nodes[0].name))
            .map(|m| m.harmless)
            .collect();
        // 10.0.0.0/8 is around both ranges.
        assert_eq!(of_first, [false, true, true]);
    }

    /// Part of the pods' range.
    fn cluster_inside() -> IpNet {
        let pods = crate::pki::tests::cluster().pods;
        IpNet::new(pods.network(), pods.prefix_len() + 4).unwrap()
    }
}
