//! The status of a real cluster: complete if everything works, and otherwise with a list of what it cannot observe.

use serde_json::{Value, json};

use crate::lab::NODES;
use crate::world::World;
use crate::{Ground, Scenario, so, until};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        says: "status of a matching cluster is complete, and its sums are those of kubectl",
        ground: Ground::Cluster,
        run: complete_status,
    },
    Scenario {
        says: "status with --watch repeats until Ctrl-C",
        ground: Ground::Cluster,
        run: watch_repeats,
    },
    Scenario { says: "status shows drift and cordoned nodes", ground: Ground::Cluster, run: drift_is_shown },
    Scenario {
        says: "status shows the other machines if one is off",
        ground: Ground::Cluster,
        run: machine_off,
    },
    Scenario {
        says: "status without an API server reports unknown values and no missing Nodes",
        ground: Ground::Cluster,
        run: api_down,
    },
];

/// The exit code and the one document that it printed.
fn status(world: &World, args: &[&str]) -> (Option<i32>, Value) {
    let ended = world.start(&[&["status"], args].concat()).end(90);
    let [_, document] = ended.events.as_slice() else { panic!("not one document: {ended:#?}") };
    (ended.code, document.clone())
}

fn node<'a>(document: &'a Value, name: &str) -> &'a Value {
    let nodes = document["nodes"].as_array().unwrap();
    nodes.iter().find(|node| node["name"] == name).unwrap()
}

/// The reason why a value of a node, or with `null` of the cluster, is unknown.
fn unseen<'a>(document: &'a Value, node: &Value, what: &str) -> Option<&'a str> {
    let all = document["unseen"].as_array().unwrap();
    all.iter().find(|it| it["node"] == *node && it["what"] == what)?["why"].as_str()
}

fn complete_status(world: &World) {
    let (code, document) = status(world, &["--exit-code"]);
    assert_eq!((code, &document["unseen"], &document["errors"]), (Some(0), &json!([]), &json!([])));
    let cluster = &document["cluster"];
    assert_eq!(cluster["api"], json!([{"node": "m1", "health": "healthy", "why": null}]));
    assert_eq!(cluster["etcd"], json!([{"name": "m1", "healthy": true, "learner": false, "why": null}]));
    let (network, ready) = (&cluster["network"], &cluster["ready"]);
    assert_eq!((&network["ready"], &network["wanted"], ready), (&json!(3), &json!(3), &json!(3)));
    assert_eq!(cluster["token"], Value::Null);
    for name in NODES {
        let node = node(&document, name);
        assert_eq!(
            (&node["reachable"], &node["ready"], &node["drift"]),
            (&json!(true), &json!(true), &json!([]))
        );
        assert_eq!(node["versions"]["kubelet"], "1.36.3");
        assert_eq!(node["versions"]["kernel"], world.lab.ssh(name, "uname -r").trim());
        let days = node["certificate"]["days"].as_i64().unwrap();
        assert!((300..366).contains(&days), "{name}: {days} days");
        assert_sums(world, name, node);
    }
}

/// Compares with the sums of requests by `kubectl describe`, which has its own implementation.
fn assert_sums(world: &World, name: &str, node: &Value) {
    let described = world.kubectl(&["describe", "node", name]);
    let pods = node["pods"]["requested"].as_u64().unwrap();
    assert!(described.contains(&format!("({pods} in total)")), "{name}: {pods} pods: {described}");
    let requests = described.split("Allocated resources:").nth(1).unwrap();
    let request = |resource: &str| {
        let line = requests.lines().find(|line| line.trim_start().starts_with(resource)).unwrap();
        ironstrap::status::billionths(line.split_whitespace().nth(1).unwrap()).unwrap()
    };
    let cores = node["cpu"]["requested"].as_f64().unwrap();
    assert_eq!((cores * 1000.0).round() as i128 * 1_000_000, request("cpu "), "{name}: {described}");
    let bytes = i128::from(node["memory"]["requested"].as_u64().unwrap());
    assert_eq!(bytes * 1_000_000_000, request("memory "), "{name}: {described}");
    let object = world.kubectl_json(&["get", "node", name, "-o", "json"]);
    assert_eq!(
        node["pods"]["allocatable"].to_string(),
        object["status"]["allocatable"]["pods"].as_str().unwrap()
    );
}

fn watch_repeats(world: &World) {
    let mut client = world.start(&["status", "--watch", "1"]);
    for turn in ["first", "second"] {
        client.event(&format!("the {turn} document"), 60, |event| event["cluster"]["ready"] == 3);
    }
    client.signal("INT");
    assert_eq!(client.end(20).code, Some(0));
}

fn drift_is_shown(world: &World) {
    world.lab.ssh("w2", "sysctl -qw net.ipv4.ip_forward=0");
    world.kubectl(&["cordon", "w1"]);
    let (code, document) = status(world, &[]);
    assert_eq!((code, &document["changes"]), (Some(0), &json!(1)));
    let drift = json!([{
        "step": "kernel", "id": "kernel.sysctl", "subject": "net.ipv4.ip_forward",
        "that": "net.ipv4.ip_forward is 1", "state": "ready"
    }]);
    for (name, drift) in [("m1", json!([])), ("w1", json!([])), ("w2", drift)] {
        assert_eq!(node(&document, name)["drift"], drift, "{name}");
        assert_eq!(node(&document, name)["schedulable"], name != "w1", "{name}");
    }
    assert_eq!(status(world, &["--exit-code"]).0, Some(1));
    world.kubectl(&["uncordon", "w1"]);
    world.apply().good();
}

fn machine_off(world: &World) {
    world.lab.run(&["halt", "w2"]);
    let (code, document) = status(world, &["--timeout", "5"]);
    assert_eq!(code, Some(4), "the same exit code as a plan");
    let w2 = node(&document, "w2");
    assert_eq!(
        (&w2["reachable"], &w2["drift"], &w2["versions"]["kubelet"]),
        (&json!(false), &Value::Null, &Value::Null)
    );
    assert!(unseen(&document, &json!("w2"), "machine").is_some(), "{document:#}");
    assert_eq!(document["errors"][0]["node"], "w2");
    for name in ["m1", "w1"] {
        let node = node(&document, name);
        assert_eq!((&node["reachable"], &node["ready"]), (&json!(true), &json!(true)));
        assert_eq!(node["versions"]["kubelet"], "1.36.3");
    }
    let (code, document) = status(world, &["--timeout", "5", "--limit", "m1", "w1"]);
    let shown: Vec<&Value> = document["nodes"].as_array().unwrap().iter().map(|node| &node["name"]).collect();
    assert_eq!((code, shown), (Some(0), vec![&json!("m1"), &json!("w1")]));
    assert_eq!((&document["unseen"], &document["errors"]), (&json!([]), &json!([])), "a limit leaves out w2");
    world.lab.run(&["boot", "w2"]);
    world.apply().good();
}

fn api_down(world: &World) {
    let manifest = "/etc/kubernetes/manifests/kube-apiserver.yaml";
    world.lab.ssh("m1", &format!("mv {manifest} /root/"));
    let m1 = world.lab.machine("m1");
    until("the API server has ended", 90, || so(!m1.listens(6443)));
    let (code, document) = status(world, &[]);
    world.lab.ssh("m1", &format!("mv /root/kube-apiserver.yaml {manifest}"));
    assert_eq!((code, &document["cluster"]["api"][0]["health"]), (Some(6), &json!("down")));
    assert_eq!(
        document["cluster"]["etcd"][0]["healthy"], true,
        "the health of etcd is known without the API: {document:#}"
    );
    assert!(unseen(&document, &Value::Null, "token").unwrap().contains(manifest));
    let drift = node(&document, "m1")["drift"].as_array().unwrap();
    let guessed = |it: &&Value| it["step"] == "nodes" && it["state"] != "unknown";
    assert_eq!(drift.iter().find(guessed), None, "without the API, the state of a Node is unknown");
    for name in NODES {
        let node = node(&document, name);
        assert_eq!((&node["reachable"], &node["versions"]["kubelet"]), (&json!(true), &json!("1.36.3")));
        assert_eq!((&node["ready"], &node["cpu"]["requested"]), (&Value::Null, &Value::Null));
        for what in ["ready", "cpu", "memory", "pods"] {
            assert!(unseen(&document, &json!(name), what).unwrap().contains(manifest), "{name}: {what}");
        }
    }
    until("the API server is back", 120, || so(world.try_kubectl(&["get", "--raw", "/readyz"]).is_ok()));
}
