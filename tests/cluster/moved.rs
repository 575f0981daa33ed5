//! A machine gets another address in the cluster. For a worker, all parts of the cluster learn it. For a control plane,
//! ironstrap refuses it.

use serde_json::Value;

use crate::lab::NODES;
use crate::world::{World, set};
use crate::{Ground, Scenario};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        says: "a worker's new address reaches the whole cluster, even after three killed runs",
        ground: Ground::Cluster,
        run: worker,
    },
    Scenario {
        says: "a control plane's new address is refused before the first change",
        ground: Ground::Before,
        run: control_plane,
    },
];

const NEW: &str = "198.18.0.33";

/// Adds a second address to the interface that has the machine's first.
fn add_address(world: &World, node: &str) {
    let card = "$(ip -o -4 address show to 198.18.0.0/24 | awk 'NR == 1 { print $2 }')";
    world.lab.ssh(node, &format!("ip address add {NEW}/24 dev {card}"));
}

fn delete_address(world: &World, node: &str) {
    let card = format!("$(ip -o -4 address show to {NEW} | awk '{{ print $2 }}')");
    world.lab.ssh(node, &format!("ip address delete {NEW}/24 dev {card}"));
}

/// Kills an apply when it begins this step on this node.
fn killed_at(world: &World, node: &str, step: &str) {
    let mut client = world.applying();
    client.event(&format!("{step} of {node} begins"), 120, |e: &Value| {
        e["event"] == "fixing" && e["node"] == node && e["step"] == step
    });
    client.kill();
}

/// Checks that the Node, flannel and the other machines' tunnels use this address for w2.
fn assert_known_by(world: &World, address: &str) {
    world.assert_converged();
    let node = world.kubectl_json(&["get", "node", "w2", "-o", "json"]);
    let addresses = node["status"]["addresses"].as_array().unwrap();
    assert!(addresses.iter().any(|a| a["type"] == "InternalIP" && a["address"] == address), "{addresses:?}");
    assert_eq!(node["metadata"]["annotations"]["flannel.alpha.coreos.com/public-ip"], address);
    for other in NODES.into_iter().filter(|node| *node != "w2") {
        let ends = world.lab.ssh(other, "bridge fdb show dev flannel.1");
        assert!(ends.contains(&format!("dst {address} ")), "{other} has no tunnel to {address}:\n{ends}");
    }
    world.assert_pods_reached();
    world.assert_pods_start();
}

fn worker(world: &World) {
    add_address(world, "w2");
    world.inventory(|table| set(table, &["nodes", "w2", "ip"], &format!("{NEW:?}")));
    killed_at(world, "m1", "hosts");
    killed_at(world, "w2", "member");
    killed_at(world, "m1", "nodes");
    world.apply().good();
    assert_known_by(world, NEW);
    world.inventory(|_| {});
    world.apply().good();
    assert_known_by(world, "198.18.0.13");
    delete_address(world, "w2");
}

fn control_plane(world: &World) {
    add_address(world, "m1");
    world.inventory(|table| set(table, &["nodes", "m1", "ip"], &format!("{NEW:?}")));
    let before = world.lab.look_at_all();
    let words = ["is a control plane with the address 198.18.0.11, but the inventory says 198.18.0.33"];
    world.apply().refused(5, "m1", &words);
    crate::lab::assert_untouched(&before, &world.lab.look_at_all());
    world.inventory(|_| {});
    world.assert_converged();
    delete_address(world, "m1");
}
