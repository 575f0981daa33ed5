//! Addons: a custom resource with its definition, a Deployment, and a manifest from a URL. ironstrap applies them in order,
//! waits for them, and repairs their drift.

use std::fs;

use serde_json::Value;
use toml::Table;

use crate::client::{Ended, key};
use crate::lab::signal;
use crate::world::{PATIENCE, World, set};
use crate::{Ground, Scenario, so};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        says: "addons are applied in order, waited for, repaired, and downloaded only once",
        ground: Ground::Cluster,
        run: addons,
    },
    Scenario {
        says: "a crash-looping controller manager is restarted at once while an addon is awaited",
        ground: Ground::Cluster,
        run: controllers,
    },
];

/// The custom resource comes before its definition on purpose.
const FIRST: &str = r#"
apiVersion: example.com/v1
kind: Widget
metadata: {name: small, namespace: addons}
spec: {size: 1}
---
apiVersion: v1
kind: Namespace
metadata: {name: addons}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {kind: Widget, plural: widgets, singular: widget}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties: {spec: {type: object, properties: {size: {type: integer}}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: addons}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: nginx, image: "docker.io/library/nginx:1"}]
"#;

const SECOND: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: ours}
data: {key: value}
---
apiVersion: batch/v1
kind: Job
metadata: {name: once, namespace: addons}
spec:
  template:
    spec:
      restartPolicy: Never
      containers: [{name: once, image: "docker.io/library/nginx:1", command: ["/bin/sh", "-c", "sleep 1"]}]
"#;

/// It becomes available when the test writes a file into its container.
const HELD: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: held, namespace: default}
spec:
  replicas: 1
  selector: {matchLabels: {app: held}}
  template:
    metadata: {labels: {app: held}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: nginx
        image: "docker.io/library/nginx:1"
        readinessProbe: {exec: {command: [/bin/sh, -c, ": </ready"]}, periodSeconds: 1}
"#;

fn inventory(inventory: &mut Table) {
    let sha256 = ironstrap::step::sha256(SECOND.as_bytes());
    set(inventory, &["addons", "first"], r#"{ manifest = "first.yaml" }"#);
    let url = "http://198.18.0.1:8080/second.yaml";
    set(inventory, &["addons", "second"], &format!(r#"{{ manifest = "{url}", sha256 = "{sha256}" }}"#));
}

/// The index of the event with which the fix of this want begins.
fn begins(ended: &Ended, id: &str) -> usize {
    let begins = |event: &Value| event["event"] == "fixing" && key(event) == id;
    ended.events.iter().position(begins).unwrap_or_else(|| panic!("no fix of {id}"))
}

fn addons(world: &World) {
    let served = world.lab.home.join("web/second.yaml");
    fs::write(world.dir.join("first.yaml"), FIRST).unwrap();
    fs::write(&served, SECOND).unwrap();
    world.inventory(inventory);
    let made = world.apply().good();
    let ours = "addons.object[ConfigMap ours]";
    assert!(begins(&made, "addons.available[first]") < begins(&made, ours));
    begins(&made, "addons.available[second]");
    assert_eq!(
        world.kubectl(&["-n", "addons", "get", "job", "once", "-o", "jsonpath={.status.succeeded}"]),
        "1"
    );
    let labelled = ["get", "widgets,deployments", "-A", "-l", "ironstrap.dev/addon=first", "-o", "name"];
    assert_eq!(world.kubectl(&labelled).lines().count(), 2);

    // A downloaded manifest is not downloaded again.
    fs::remove_file(&served).unwrap();
    world.assert_converged();
    assert_eq!(world.plan().good().of_node("m1", "execs"), 1);
    drift_is_repaired(world, ours);

    // The URL now has another content, and no copy of the old one remains.
    fs::write(&served, SECOND.replace("value", "another")).unwrap();
    fs::remove_dir_all(world.dir.join("demo.fetched")).unwrap();
    let refused = world.plan();
    assert_eq!(refused.code, Some(3), "{}", refused.stderr);
    assert!(refused.stderr.contains("inventory.toml:"), "{}", refused.stderr);
    assert!(refused.stderr.contains("its SHA-256 differs"), "{}", refused.stderr);
    fs::remove_file(&served).unwrap();

    world.inventory(|_| {});
    world.kubectl(&[
        "delete",
        "--wait=false",
        "configmap/ours",
        "namespace/addons",
        "crd/widgets.example.com",
    ]);
    world.assert_converged();
}

/// A kubelet restarts a container that ended for the third time after 20 seconds, and later after 40, 80, 160 and 300
/// seconds. Until then no controller updates the status of the addon.
fn controllers(world: &World) {
    let m1 = world.lab.machine("m1");
    fs::write(world.dir.join("held.yaml"), HELD).unwrap();
    world.inventory(|inventory| set(inventory, &["addons", "held"], r#"{ manifest = "held.yaml" }"#));
    let kubelet = || m1.running("kubelet", &[]).first().map(|process| process.pid);
    let before = kubelet();
    let mut client = world.applying();
    client.event("the run waits for the addon", 60, |e| {
        e["event"] == "fixing" && key(e) == "addons.available[held]"
    });
    let phase = ["-n", "default", "get", "pods", "-l", "app=held", "-o", "jsonpath={.items[*].status.phase}"];
    client.until("its pod runs", 60, |_| so(world.kubectl(&phase) == "Running"));
    client.until("the kubelet is restarted", 120, |_| {
        signal("KILL", &m1.running("kube-controller-manager", &[]));
        so(before.is_some() && kubelet().is_some() && kubelet() != before)
    });
    world.kubectl(&["-n", "default", "exec", "deployment/held", "--", "/bin/sh", "-c", ": >/ready"]);
    let made = client.end(PATIENCE).good();
    assert!(made.triples("fixed").iter().any(|(_, _, id)| id == "addons.available[held]"));

    world.inventory(|_| {});
    world.kubectl(&["-n", "default", "delete", "deployment", "held"]);
    world.settled();
    world.assert_converged();
}

fn drift_is_repaired(world: &World, ours: &str) {
    world.kubectl(&["delete", "configmap", "ours"]);
    world.kubectl(&[
        "-n",
        "addons",
        "patch",
        "widget",
        "small",
        "--type=merge",
        "-p",
        r#"{"spec":{"size":9}}"#,
    ]);
    let planned = world.plan().good().triples("drift");
    let triple = |that: &str| ("m1".to_string(), "addons".to_string(), that.to_string());
    let expected = [triple("addons.object[Widget addons/small]"), triple(ours)];
    assert_eq!(planned, expected.into());
    assert_eq!(world.apply().good().triples("fixed"), planned);
    let size = ["-n", "addons", "get", "widget", "small", "-o", "jsonpath={.spec.size}"];
    assert_eq!(world.kubectl(&size), "1");
    world.assert_converged();
}
