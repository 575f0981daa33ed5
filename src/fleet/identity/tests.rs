//! Tests the findings about machines that share a property, or whose address or route conflicts with the cluster.

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

fn told(cluster: &Cluster, machines: &BTreeMap<String, Machine>) -> Vec<Finding> {
    findings(cluster, &machines.iter().map(|(name, machine)| (name.as_str(), machine)).collect())
}

fn found(edit: impl Fn(&str, &mut Machine)) -> Vec<(&'static str, String, String)> {
    let (cluster, machines) = fleet(edit);
    told(&cluster, &machines).into_iter().map(|m| (m.check, m.error.node.unwrap(), m.error.what)).collect()
}

#[test]
fn distinct_machines_cause_no_finding() {
    assert_eq!(found(|_, _| {}), []);
}

#[test]
fn each_identifier_that_clones_share_is_reported() {
    let (cluster, _) = fleet(|_, _| {});
    let names: Vec<&str> = cluster.nodes.iter().map(|node| node.name.as_str()).collect();
    assert!(names.len() > 1);
    let found = found(|_, machine| {
        machine.machine_id = Some("same".into());
        machine.product_uuid = Some("same".into());
        machine.macs.insert("eth0".into(), "02:same".into());
        machine.host_keys.push("same".into());
        // These are the same on all machines, as in a hypervisor's own network.
        machine.macs.insert("nat0".into(), "02:nat".into());
        machine.addresses.insert("203.0.113.9".parse().unwrap(), "nat0".into());
    });
    let checks: Vec<&str> = found.iter().map(|(check, ..)| *check).collect();
    for check in ["MachineID", "ProductUUID", "MACAddress", "HostKey"] {
        assert_eq!(checks.iter().filter(|c| **c == check).count(), names.len() - 1, "{check}: {found:?}");
    }
    assert_eq!(checks.len(), 4 * (names.len() - 1), "{found:?}");
    assert!(
        found.iter().all(|(_, node, what)| *node != names[0] && what.contains(&format!("as {}:", names[0])))
    );
}

#[test]
fn a_duplicate_address_is_reported() {
    let (cluster, _) = fleet(|_, _| {});
    let (first, last) = (cluster.nodes[0].clone(), cluster.nodes.last().unwrap().name.clone());
    // A worker claims the address. If the other machine does not have it, the inventory may be wrong.
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
    // ironstrap does not ask a member for its addresses and routes, and does not name it. It names the joining machine.
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

/// The hints for machines that share something with this member.
fn hints(member: &str, same: impl Fn(&str, &mut Machine)) -> Vec<String> {
    let (cluster, mut machines) = fleet(same);
    machines.get_mut(member).unwrap().has.insert("client-certificate".into());
    told(&cluster, &machines).into_iter().filter_map(|finding| finding.error.hint).collect()
}

#[test]
fn an_unproven_claim_of_a_worker_makes_conditional_hints() {
    let (cluster, _) = fleet(|_, _| {});
    let worker = &cluster.nodes.iter().find(|node| !node.is_control_plane()).unwrap().name;
    let plane = &cluster.control_planes().next().unwrap().name;
    type Same = fn(&str, &mut Machine);
    let same: [Same; 3] = [
        |_, machine| machine.machine_id = Some("same".into()),
        |_, machine| machine.product_uuid = Some("same".into()),
        |_, machine| machine.host_keys = vec!["ssh-rsa same".into()],
    ];
    for same in same {
        let (of_worker, of_plane) = (hints(worker, same), hints(plane, same));
        assert!(!of_worker.is_empty() && !of_plane.is_empty());
        assert!(
            of_worker.iter().all(|hint| hint.starts_with("if ") && hint.contains(" come from one image"))
        );
        assert!(of_plane.iter().all(|hint| hint.starts_with("on ")));
    }
    // The keys of the connections prove that machines are clones, regardless of their answers.
    let clones = |_: &str, machine: &mut Machine| {
        machine.machine_id = Some("same".into());
        machine.host_keys = vec!["ssh-rsa same".into()];
        machine.proven_key = Some("ssh-rsa same".into());
    };
    let hints = hints(worker, clones);
    assert_eq!(hints.len(), 2 * (cluster.nodes.len() - 1));
    assert!(hints.iter().all(|hint| hint.starts_with("on ")), "{hints:?}");
}

#[test]
fn a_worker_that_claims_anothers_host_key_is_blamed() {
    let (cluster, _) = fleet(|_, _| {});
    let planes = |plane: bool| cluster.nodes.iter().filter(move |node| node.is_control_plane() == plane);
    let liar = &planes(false).next().unwrap().name;
    let other = &cluster.nodes.iter().rfind(|node| node.name != *liar).unwrap().name;
    let key = format!("ssh-ed25519 {other}");
    // The kind of key by which ironstrap reached the liar, whether the liar is a member, and which machine is to blame.
    for (kind, joined, at_fault) in [
        ("ssh-ed25519", true, liar),
        ("ssh-ed25519", false, liar),
        ("ssh-rsa", true, other),
        ("", true, other),
    ] {
        let found = found(|name, machine| {
            machine.host_keys = vec![format!("ssh-ed25519 {name}")];
            machine.proven_key = Some(format!("ssh-ed25519 {name}"));
            if name == liar {
                machine.host_keys.push(key.clone());
                machine.proven_key = Some(format!("{kind} {name}")).filter(|_| !kind.is_empty());
                machine.has.extend(Some("client-certificate".to_string()).filter(|_| joined));
            }
        });
        let told: Vec<_> = found.iter().map(|(check, node, _)| (*check, node)).collect();
        assert_eq!(told, [("HostKey", at_fault)], "{kind} {joined}: {found:?}");
        assert!(found[0].2.contains(if at_fault == liar { other.as_str() } else { liar }), "{found:?}");
    }
    // ironstrap believes the claim of a control plane.
    let plane = &planes(true).next().unwrap().name;
    let other = &planes(false).next().unwrap().name;
    let found = found(|name, machine| {
        machine.proven_key = Some(format!("ssh-ed25519 {name}"));
        machine.host_keys = vec![format!("ssh-ed25519 {name}")];
        if name == plane {
            machine.host_keys.push(format!("ssh-ed25519 {other}"));
        }
    });
    assert_eq!(found.iter().map(|(_, node, _)| node).collect::<Vec<_>>(), [other], "{found:?}");
}

#[test]
fn only_joining_machines_are_blamed_as_clones() {
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
    assert!(found.iter().all(|(_, node, what)| *node != last && what.contains(&format!("as {last}:"))));
}

#[test]
fn a_node_address_that_the_machine_lacks_is_reported() {
    let none = found(|_, machine| machine.addresses.clear());
    assert_eq!(none, []);
    let other = found(|name, machine| {
        machine.addresses =
            [(format!("203.0.113.{}", name.as_bytes()[1]).parse().unwrap(), "eth0".into())].into()
    });
    assert!(other.iter().all(|(check, ..)| *check == "NodeAddress") && !other.is_empty(), "{other:?}");
}

#[test]
fn routes_in_cluster_ranges_fail_and_wider_ones_warn() {
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
    // 10.0.0.0/8 contains both ranges.
    assert_eq!(of_first, [false, true, true]);
}

/// A part of the pod range.
fn cluster_inside() -> IpNet {
    let pods = crate::pki::tests::cluster().pods;
    IpNet::new(pods.network(), pods.prefix_len() + 4).unwrap()
}
