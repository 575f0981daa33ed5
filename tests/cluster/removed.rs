//! A node is removed from a running cluster. Its pods move to other nodes, its machine is restored, and it can join again.

use serde_json::Value;

use crate::client::Ended;
use crate::lab::assert_untouched;
use crate::world::{PATIENCE, World};
use crate::{Ground, Scenario, so, until};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        says: "a removal that would lose the control plane or pods is refused without a change",
        ground: Ground::Cluster,
        run: refused,
    },
    Scenario {
        says: "a disruption budget stops a removal, and the machine stays in the cluster",
        ground: Ground::Cluster,
        run: disruption_budget,
    },
    Scenario {
        says: "the next run completes a removal that was killed after the cordon",
        ground: Ground::Cluster,
        run: killed_and_finished,
    },
    Scenario { says: "a removed node joins again", ground: Ground::Before, run: joins_again },
    Scenario {
        says: "a machine that does not answer is removed only with --force",
        ground: Ground::Cluster,
        run: silent_machine,
    },
];

/// Three pods on both workers with a disruption budget.
const PAGES: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: spread, namespace: default}
spec:
  replicas: 3
  selector: {matchLabels: {app: spread}}
  template:
    metadata: {labels: {app: spread}}
    spec:
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: spread}}}
      affinity:
        podAntiAffinity:
          preferredDuringSchedulingIgnoredDuringExecution:
          - {weight: 100, podAffinityTerm: {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: spread}}}}
      containers: [{name: nginx, image: "docker.io/library/nginx:1"}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: spread, namespace: default}
spec:
  minAvailable: AVAILABLE
  selector: {matchLabels: {app: spread}}
"#;

fn spread(world: &World, available: u32) {
    world.create("spread.yaml", &PAGES.replace("AVAILABLE", &available.to_string()));
    world.kubectl(&["rollout", "status", "deployment/spread", "--timeout=90s"]);
    until("a pod of spread runs on w2", 10, || {
        so(on(world, "w2").iter().any(|pod| pod.starts_with("spread-")))
    });
}

fn delete_spread(world: &World) {
    world.kubectl(&["delete", "pdb/spread", "deployment/spread", "--ignore-not-found"]);
}

/// The names of a node's pods in the default namespace.
fn on(world: &World, node: &str) -> Vec<String> {
    let selector = format!("spec.nodeName={node}");
    let pods = world.kubectl_json(&["get", "pods", "--field-selector", &selector, "-o", "json"]);
    let name = |pod: &Value| pod["metadata"]["name"].as_str().unwrap().to_string();
    pods["items"].as_array().unwrap().iter().map(name).collect()
}

fn nodes(world: &World) -> String {
    world.kubectl(&["get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"])
}

fn is_cordoned(world: &World, node: &str) -> bool {
    world.kubectl(&["get", "node", node, "-o", "jsonpath={.spec.unschedulable}"]) == "true"
}

fn remove(world: &World, node: &str, args: &[&str]) -> Ended {
    world.start(&[&["remove", "--yes", node], args].concat()).end(PATIENCE)
}

fn refused(world: &World) {
    let before = world.lab.look_at_all();
    remove(world, "m1", &[]).refused(5, "m1", &["is the last control plane"]);
    assert_eq!(remove(world, "w9", &[]).code, Some(2));
    world.kubectl(&[
        "run",
        "alone",
        "--image=docker.io/library/nginx:1",
        "--restart=Never",
        "--overrides",
        r#"{"spec": {"nodeName": "w2"}}"#,
    ]);
    world.kubectl(&["wait", "--for=condition=Ready", "pod/alone", "--timeout=60s"]);
    remove(world, "w2", &[]).refused(5, "w2", &["runs pods without a controller", "default/alone"]);
    assert!(!is_cordoned(world, "w2"));
    assert!(on(world, "w2").contains(&"alone".to_string()));
    world.kubectl(&["delete", "pod", "alone", "--grace-period=1"]);
    assert_untouched(&before, &world.lab.look_at_all());
}

fn disruption_budget(world: &World) {
    spread(world, 3);
    let ended = remove(world, "w2", &["--drain-timeout", "8"]);
    ended.refused(7, "m1", &["removal: the fix failed", "disruption budget"]);
    assert!(is_cordoned(world, "w2") && !on(world, "w2").is_empty());
    assert!(world.lab.machine("w2").has("/etc/kubernetes/kubelet.conf"), "its machine was changed");
    delete_spread(world);
    world.kubectl(&["uncordon", "w2"]);
    world.assert_converged();
}

fn killed_and_finished(world: &World) {
    spread(world, 2);
    let mut client = world.start(&["remove", "--yes", "w2"]);
    client.event("the drain begins", 60, |e| e["event"] == "fixing" && e["id"] == "remove.drain");
    client.kill();
    assert!(is_cordoned(world, "w2"));
    remove(world, "w2", &[]).good();
    assert_eq!(nodes(world), "m1 w1");
    world.kubectl(&["rollout", "status", "deployment/spread", "--timeout=60s"]);
    assert_eq!(on(world, "w1").iter().filter(|pod| pod.starts_with("spread-")).count(), 3);
    assert!(!on(world, "w2").iter().any(|pod| pod.starts_with("spread-")));
    let machine = world.lab.machine("w2");
    for path in
        ["/var/lib/ironstrap", "/run/ironstrap", "/etc/kubernetes", "/usr/bin/kubelet", "/usr/bin/containerd"]
    {
        assert!(!machine.has(path), "{path} is left on w2");
    }
    assert_eq!(remove(world, "w2", &[]).good().changes(), 0);
    delete_spread(world);
}

fn joins_again(world: &World) {
    world.apply().good();
    world.assert_converged();
    assert_eq!(nodes(world), "m1 w1 w2");
    assert!(!is_cordoned(world, "w2"));
}

fn silent_machine(world: &World) {
    world.lab.run(&["halt", "w2"]);
    remove(world, "w2", &[]).refused(5, "w2", &["does not answer"]);
    assert_eq!(nodes(world), "m1 w1 w2");
    let ended = remove(world, "w2", &["--force"]);
    ended.refused(
        8,
        "w2",
        &["was removed from demo, but its machine did not answer", "cluster keys are still on it"],
    );
    assert_eq!(nodes(world), "m1 w1");
    world.lab.run(&["boot", "w2"]);
    world.start(&["reset", "--yes", "w2"]).end(PATIENCE).good();
    assert!(!world.lab.machine("w2").has("/etc/kubernetes"));
    joins_again(world);
}
