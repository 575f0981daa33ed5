//! This ironstrap takes over a cluster that an older one created. It plans and changes only what the two versions do
//! differently, and a reset undoes everything. `IRONSTRAP_OLDER` is the older program (tests/older builds it).

use std::collections::BTreeSet;

use crate::client::{Ended, Triple};
use crate::lab::NODES;
use crate::reset;
use crate::world::{PATIENCE, World, real};
use crate::{Ground, Scenario};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        says: "a plan and an apply of an older ironstrap's cluster contain only intended changes",
        ground: Ground::Fresh,
        run: planned_and_changed,
    },
    Scenario {
        says: "a reset undoes the changes of an older ironstrap and of this one",
        ground: Ground::Before,
        run: undone,
    },
    Scenario {
        says: "a reset undoes the changes of an older ironstrap without a run in between",
        ground: Ground::Fresh,
        run: undone_without_a_run,
    },
];

/// The intended differences between the versions: node, step and want.
const INTENDED: &[(&str, &str, &str)] = &[
    ("m1", "access", "bootstrap.no-token"),
    ("m1", "member", "member.no-super-admin"),
    // A ConfigMap records which labels and taints the inventory sets.
    ("m1", "labels", "labels.node[w1]"),
    ("m1", "labels", "labels.node[w2]"),
    ("m1", "kernel", LIMITS),
    ("w1", "kernel", LIMITS),
    ("w2", "kernel", LIMITS),
];
const LIMITS: &str = "kernel.inotify-at-boot";

/// Node, step and want of these events. It leaves out the present limit of inotify, which depends on the lab's host.
fn shown(ended: &Ended, kind: &str) -> BTreeSet<Triple> {
    real(ended, kind)
        .into_iter()
        .filter(|(_, _, that)| !that.starts_with("kernel.sysctl[fs.inotify."))
        .collect()
}

fn older(world: &World) -> Ended {
    // The older program does not know kubelet settings for a single node.
    world.inventory(|inventory| {
        inventory["nodes"]["w2"].as_table_mut().unwrap().remove("kubelet");
    });
    let program = std::env::var("IRONSTRAP_OLDER").expect("IRONSTRAP_OLDER is the older program");
    world.start_program(&program, &["apply", "--yes"]).with_other_schema().end(PATIENCE).good()
}

/// The file that keeps the machines' first state for the next scenario.
fn state_file(world: &World) -> std::path::PathBuf {
    world.dir.join("before-older")
}

fn planned_and_changed(world: &World) {
    let before = reset::look_at_all(world);
    std::fs::write(state_file(world), serde_json::to_string(&before).unwrap()).unwrap();
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

fn undone(world: &World) {
    let before: Vec<BTreeSet<String>> =
        serde_json::from_str(&std::fs::read_to_string(state_file(world)).unwrap()).unwrap();
    reset::reset(world, &NODES).good();
    reset::assert_as_before(world, &before);
}

fn undone_without_a_run(world: &World) {
    let before = reset::look_at_all(world);
    older(world);
    reset::reset(world, &NODES).good();
    reset::assert_as_before(world, &before);
}
