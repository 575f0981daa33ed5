//! A cluster that an older ironstrap made belongs to this one: it plans what it does otherwise and nothing else, changes
//! that, and takes everything back. `IRONSTRAP_OLDER` is the older program (tests/older builds it).

use std::collections::BTreeSet;

use crate::client::{Ended, Triple};
use crate::lab::NODES;
use crate::reset;
use crate::world::{PATIENCE, World, real};
use crate::{Ground, Scenario};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        says: "of an older ironstrap's cluster, a plan shows what is intended and an apply changes that",
        ground: Ground::Fresh,
        run: planned_and_changed,
    },
    Scenario {
        says: "a reset takes back what an older ironstrap did, and what this one changed since",
        ground: Ground::Before,
        run: taken_back,
    },
    Scenario {
        says: "a reset takes back what an older ironstrap did, without a run in between",
        ground: Ground::Fresh,
        run: taken_back_at_once,
    },
];

/// What this version does otherwise: node, step, and what must be true.
const INTENDED: &[(&str, &str, &str)] = &[
    ("m1", "access", "bootstrap.no-token"),
    ("m1", "member", "member.no-super-admin"),
    // A ConfigMap notes which labels and taints are the inventory's.
    ("m1", "labels", "labels.node[w1]"),
    ("m1", "labels", "labels.node[w2]"),
    ("m1", "kernel", LIMITS),
    ("w1", "kernel", LIMITS),
    ("w2", "kernel", LIMITS),
];
const LIMITS: &str = "kernel.inotify-at-boot";

/// What these events are about. Whether the limit itself is too low depends on the lab's host.
fn shown(ended: &Ended, kind: &str) -> BTreeSet<Triple> {
    real(ended, kind)
        .into_iter()
        .filter(|(_, _, that)| !that.starts_with("kernel.sysctl[fs.inotify."))
        .collect()
}

fn older(world: &World) -> Ended {
    // The older program knows no settings of the kubelet for one node alone.
    world.inventory(|inventory| {
        inventory["nodes"]["w2"].as_table_mut().unwrap().remove("kubelet");
    });
    let program = std::env::var("IRONSTRAP_OLDER").expect("IRONSTRAP_OLDER is the older program");
    world.start_program(&program, &["apply", "--yes"]).with_other_schema().end(PATIENCE).good()
}

/// Where the look of the machines before anything is kept for the next scenario.
fn looks(world: &World) -> std::path::PathBuf {
    world.dir.join("before-older")
}

fn planned_and_changed(world: &World) {
    let before = reset::look_at_all(world);
    std::fs::write(looks(world), serde_json::to_string(&before).unwrap()).unwrap();
    older(world);
    let intended: BTreeSet<_> =
        INTENDED.iter().map(|(n, s, t)| (n.to_string(), s.to_string(), t.to_string())).collect();
    let plan = world.plan();
    assert_eq!(plan.code, Some(0), "{}", plan.errors());
    assert_eq!(shown(&plan, "drift"), intended, "what the plan shows");
    let applied = world.apply().good();
    assert_eq!(shown(&applied, "fixed"), intended, "what the apply changes");
    world.assert_converged();
}

fn taken_back(world: &World) {
    let before: Vec<BTreeSet<String>> =
        serde_json::from_str(&std::fs::read_to_string(looks(world)).unwrap()).unwrap();
    reset::reset(world, &NODES).good();
    reset::assert_as_before(world, &before);
}

fn taken_back_at_once(world: &World) {
    let before = reset::look_at_all(world);
    older(world);
    reset::reset(world, &NODES).good();
    reset::assert_as_before(world, &before);
}
