//! A matching cluster stays unchanged: after a second apply, two plans in a row, and a reboot.

use crate::lab::{NODES, assert_untouched};
use crate::world::World;
use crate::{Ground, Scenario, so, until};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        says: "a second apply changes nothing and runs one script per node",
        ground: Ground::Cluster,
        run: second_apply,
    },
    Scenario {
        says: "two plans in a row leave every machine as it was",
        ground: Ground::Cluster,
        run: plans_leave_no_trace,
    },
    Scenario {
        says: "after a reboot of every machine the cluster is Ready and an apply changes nothing",
        ground: Ground::Cluster,
        run: reboot,
    },
];

fn assert_nothing_done(world: &World) {
    let again = world.apply().good();
    assert_eq!(again.changes(), 0, "changed: {:#?}", again.triples("fixed"));
    for node in NODES {
        assert_eq!(again.of_node(node, "execs"), 1, "{node}");
        assert_eq!(again.of_node(node, "state"), "converged", "{node}");
    }
}

fn second_apply(world: &World) {
    world.assert_converged();
    let before = world.lab.look_at_all();
    assert_nothing_done(world);
    assert_untouched(&before, &world.lab.look_at_all());
}

fn plans_leave_no_trace(world: &World) {
    let before = world.lab.look_at_all();
    for _ in 0..2 {
        assert_eq!(world.plan().good().changes(), 0);
        assert_untouched(&before, &world.lab.look_at_all());
    }
}

fn reboot(world: &World) {
    let boot = |node: &str| world.lab.ssh(node, "cat /proc/sys/kernel/random/boot_id").trim().to_string();
    let before = NODES.map(boot);
    world.lab.all("reboot");
    let after = NODES.map(boot);
    for node in 0..3 {
        assert_ne!(before[node], after[node], "{} was not rebooted", NODES[node]);
    }
    // The API reports rebooted nodes as Ready for a while, so compare the boot id as well.
    let ready = r#"jsonpath={.status.nodeInfo.bootID} {.status.conditions[?(@.type=="Ready")].status}"#;
    for (node, boot) in NODES.iter().zip(&after) {
        until(&format!("{node} is Ready after its reboot"), 120, || {
            so(world.try_kubectl(&["get", "node", node, "-o", ready]).ok()? == format!("{boot} True"))
        });
    }
    // Components that ended without the API restart later, and kube-proxy writes its rules again.
    world.assert_pods_reached();
    world.assert_converged();
    assert_nothing_done(world);
    for node in NODES {
        assert_eq!(world.lab.ssh(node, "tail -n +2 /proc/swaps"), "", "swap came back on {node}");
    }
}
