//! The cluster matches its inventory: the settings that each component runs with, the PKI, labels and taints.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::lab::{NODES, text};
use crate::world::{PATIENCE, World, real, set};
use crate::{Ground, Scenario, until};

/// The settings that the tests add to the lab's inventory, at least one for each component.
pub const SETTINGS: &[(&[&str], &str)] = &[
    (&["kubelet", "maxPods"], "77"),
    (&["nodes", "w2", "kubelet"], "{ podsPerCore = 40, evictionHard = { \"memory.available\" = \"50Mi\" } }"),
    (&["kube-proxy", "metricsBindAddress"], r#""0.0.0.0:10249""#),
    (&["api-server", "event-ttl"], r#""2h0m0s""#),
    (&["controller-manager", "terminated-pod-gc-threshold"], "501"),
    (&["scheduler", "kube-api-qps"], "51"),
    (&["etcd", "quota-backend-bytes"], "4294967296"),
    (&["containerd", "plugins", "io.containerd.grpc.v1.cri", "max_concurrent_downloads"], "4"),
];

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        says: "each component runs with the inventory's settings",
        ground: Ground::Cluster,
        run: components,
    },
    Scenario { says: "the operator's PKI is on the control plane only", ground: Ground::Cluster, run: pki },
    Scenario { says: "openssl verifies every certificate", ground: Ground::Cluster, run: openssl },
    Scenario {
        says: "labels and taints match the inventory, and foreign ones stay",
        ground: Ground::Cluster,
        run: labels,
    },
    Scenario {
        says: "a process with the name of a control plane component keeps running",
        ground: Ground::Cluster,
        run: process_with_the_same_name,
    },
    Scenario {
        says: "changed settings, labels and taints are planned, rolled out and reverted",
        ground: Ground::Cluster,
        run: changes,
    },
    Scenario {
        says: "a setting that the kubelet refuses breaks only one worker and is reported",
        ground: Ground::Cluster,
        run: refused_setting,
    },
];

/// The configuration with which a node's kubelet runs.
fn configz(world: &World, node: &str) -> Value {
    let path = format!("/api/v1/nodes/{node}/proxy/configz");
    world.kubectl_json(&["get", "--raw", &path])["kubeletconfig"].clone()
}

/// Checks that m1 runs one process of this program, and that it has this argument.
fn assert_runs_with(world: &World, program: &str, word: &str) {
    let processes = world.lab.machine("m1").running(program, &[]);
    assert_eq!(processes.len(), 1, "{program} runs once on m1");
    assert!(
        processes[0].words.iter().any(|w| w == word),
        "{program} runs without {word}: {:?}",
        processes[0].words
    );
}

fn components(world: &World) {
    for (node, octet) in NODES.iter().zip([11, 12, 13]) {
        let kubelet = configz(world, node);
        let own = (kubelet["podsPerCore"].as_i64(), kubelet["evictionHard"]["memory.available"].as_str());
        assert_eq!(
            own,
            if *node == "w2" { (Some(40), Some("50Mi")) } else { (None, Some("100Mi")) },
            "{node}"
        );
        assert_eq!(kubelet["maxPods"], 77, "{node}");
        assert_eq!(kubelet["cgroupDriver"], "systemd", "{node}");
        // The inventory makes kube-proxy's metrics port reachable. It reports the proxy mode.
        let url = format!("http://198.18.0.{octet}:10249/proxyMode");
        assert_eq!(world.lab.run(&["exec", "curl", "-sS", "--max-time", "5", &url]), "nftables", "{node}");
        let dump = world.lab.ssh(node, "containerd config dump");
        let dump: Vec<&str> = dump.lines().map(str::trim).collect();
        for line in ["max_concurrent_downloads = 4", "SystemdCgroup = true", "restrict_oom_score_adj = true"]
        {
            assert!(dump.contains(&line), "{node}: containerd does not have {line}");
        }
    }
    let config = world.kubectl(&[
        "-n",
        "kube-system",
        "get",
        "configmap",
        "kube-proxy",
        "-o",
        r"jsonpath={.data.config\.conf}",
    ]);
    assert!(config.contains("\nmode: nftables\n"), "{config}");
    assert_runs_with(world, "kube-apiserver", "--event-ttl=2h0m0s");
    assert_runs_with(world, "kube-controller-manager", "--terminated-pod-gc-threshold=501");
    assert_runs_with(world, "kube-scheduler", "--kube-api-qps=51");
    assert_runs_with(world, "etcd", "--quota-backend-bytes=4294967296");
}

/// All files below a folder, with their paths in it.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap().map(Result::unwrap) {
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false => {
                    let name = entry.path().strip_prefix(folder).unwrap().to_str().unwrap().to_string();
                    found.insert(name, fs::read(entry.path()).unwrap());
                }
            }
        }
    }
    found
}

/// The files of the operator's folder that m1 must have below /etc/kubernetes/pki.
fn ours(world: &World) -> BTreeMap<String, Vec<u8>> {
    let kept = files(&world.dir.join("demo.trust"));
    let on_node = |(name, bytes): (String, Vec<u8>)| {
        let name = match name.strip_prefix("nodes/m1/") {
            Some(leaf) => leaf.replacen("etcd-", "etcd/", 1).replace("apiserver-etcd/", "apiserver-etcd-"),
            None => name.replacen("etcd-", "etcd/", 1),
        };
        let stays_here = name.starts_with("admin.") || name == "lease-secret";
        (!stays_here).then_some((name, bytes))
    };
    kept.into_iter().filter_map(on_node).collect()
}

fn pki(world: &World) {
    let (ours, there) = (ours(world), files(&world.lab.disk("m1", "/etc/kubernetes/pki")));
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&there), names(&ours), "the files of m1 are exactly the operator's");
    for (name, bytes) in &ours {
        assert!(there[name] == *bytes, "{name} on m1 differs from the operator's");
    }
    for node in ["w1", "w2"] {
        let there = files(&world.lab.disk(node, "/etc/kubernetes/pki"));
        assert_eq!(names(&there), ["ca.crt"], "{node}");
        assert!(there["ca.crt"] == ours["ca.crt"], "{node}");
    }
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let kept = world.dir.join("demo.trust");
    assert_eq!(mode(&kept), 0o700);
    assert_eq!(mode(&world.dir.join("demo.kubeconfig")), 0o600);
    for name in files(&kept).keys().filter(|name| name.ends_with(".key")) {
        assert_eq!(mode(&kept.join(name)), 0o600, "{name}");
    }
    for name in ours.keys().filter(|name| name.ends_with(".key")) {
        assert_eq!(mode(&world.lab.disk("m1", "/etc/kubernetes/pki").join(name)), 0o600, "{name}");
    }
}

fn openssl(world: &World) {
    let pki = world.lab.disk("m1", "/etc/kubernetes/pki");
    let leaves = [
        ("ca.crt", "sslserver", "apiserver.crt"),
        ("ca.crt", "sslclient", "apiserver-kubelet-client.crt"),
        ("front-proxy-ca.crt", "sslclient", "front-proxy-client.crt"),
        ("etcd/ca.crt", "sslserver", "etcd/server.crt"),
        ("etcd/ca.crt", "sslclient", "etcd/server.crt"),
        ("etcd/ca.crt", "sslserver", "etcd/peer.crt"),
        ("etcd/ca.crt", "sslclient", "etcd/peer.crt"),
        ("etcd/ca.crt", "sslclient", "etcd/healthcheck-client.crt"),
        ("etcd/ca.crt", "sslclient", "apiserver-etcd-client.crt"),
    ];
    for (ca, purpose, leaf) in leaves {
        let mut verify = Command::new("openssl");
        verify
            .args(["verify", "-x509_strict", "-purpose", purpose, "-CAfile"])
            .arg(pki.join(ca))
            .arg(pki.join(leaf));
        let output = verify.output().unwrap();
        assert!(output.status.success(), "{leaf}: {}{}", text(&output.stdout), text(&output.stderr));
    }
    // The API server serves with the certificate that was verified.
    let shown = world.lab.run(&[
        "exec",
        "sh",
        "-c",
        "openssl s_client -connect 198.18.0.11:6443 </dev/null 2>/dev/null | openssl x509",
    ]);
    assert_eq!(shown.trim(), fs::read_to_string(pki.join("apiserver.crt")).unwrap().trim());
}

/// A Node's labels, and its taints as `key=value:effect`.
fn marks(world: &World, node: &str) -> (Value, Vec<String>) {
    let node = world.kubectl_json(&["get", "node", node, "-o", "json"]);
    let word = |taint: &Value, key: &str| taint[key].as_str().unwrap_or_default().to_string();
    let taint = |t: &Value| format!("{}={}:{}", word(t, "key"), word(t, "value"), word(t, "effect"));
    let taints = node["spec"]["taints"].as_array().map(|all| all.iter().map(taint).collect());
    (node["metadata"]["labels"].clone(), taints.unwrap_or_default())
}

fn labels(world: &World) {
    assert_eq!(marks(world, "w1").0["disk"], "ssd");
    assert_eq!(marks(world, "w1").1, Vec::<String>::new());
    assert_eq!(marks(world, "w2").1, ["lab=yes:PreferNoSchedule"]);
    assert_eq!(marks(world, "m1").1, ["node-role.kubernetes.io/control-plane=:NoSchedule"]);
    world.kubectl(&["label", "node", "w1", "w2", "somebody=else"]);
    world.assert_converged();
    world.kubectl(&["label", "node", "w1", "disk-"]);
    world.apply().good();
    let (labels, _) = marks(world, "w1");
    assert_eq!((&labels["disk"], &labels["somebody"]), (&"ssd".into(), &"else".into()));
    // A kubelet can write this annotation, so ironstrap must not treat the label as its own.
    world.kubectl(&["annotate", "node", "w1", "ironstrap.dev/set=label somebody"]);
    let told = |event: &Value| event.to_string().contains("label somebody=else stays");
    assert!(world.plan().good().events.iter().any(told));
    world.apply().good();
    assert_eq!(marks(world, "w1").0["somebody"], "else");
    world.assert_converged();
    world.kubectl(&["label", "node", "w1", "w2", "somebody-"]);
}

/// Starts a script whose process has the name and the arguments of an API server.
const NAMESAKE: &str = r#"printf '#!/bin/sh\nsleep 3600\n' >/root/kube-apiserver
chmod 755 /root/kube-apiserver
systemd-run --quiet --unit namesake /root/kube-apiserver --client-ca-file=/etc/kubernetes/pki/ca.crt
sleep 1.5
chmod 644 /etc/kubernetes/pki/ca.crt"#;

fn process_with_the_same_name(world: &World) {
    world.lab.ssh("m1", NAMESAKE);
    let process = || world.lab.ssh("m1", "systemctl show -p MainPID --value namesake");
    let before = process();
    assert_eq!(world.lab.ssh("m1", &format!("cat /proc/{}/comm", before.trim())).trim(), "kube-apiserver");
    let current = |(_, step, _): &&(String, String, String)| step == "static-pods";
    let planned = world.plan().good().triples("drift");
    assert_eq!(planned.iter().filter(current).count(), 1, "the certificate is newer: {planned:#?}");
    world.apply().good();
    world.assert_converged();
    assert_eq!(process(), before, "the process keeps running");
    world.lab.ssh("m1", "systemctl stop namesake; rm /root/kube-apiserver");
}

fn changes(world: &World) {
    world.inventory(|inventory| {
        set(inventory, &["kubelet", "maxPods"], "78");
        set(inventory, &["api-server", "event-ttl"], r#""3h0m0s""#);
        set(inventory, &["nodes", "w1", "labels"], r#"{ rack = "a1" }"#);
        set(inventory, &["nodes", "w1", "kubelet"], "{ maxPods = 79 }");
        set(
            inventory,
            &["nodes", "w2", "taints"],
            r#"["lab=no:PreferNoSchedule", "other:PreferNoSchedule"]"#,
        );
    });
    let planned = real(&world.plan().good(), "drift");
    let written = "member.kubeadm-files";
    for (node, that) in NODES
        .map(|node| (node, written))
        .into_iter()
        .chain([("m1", "labels.node[w1]"), ("m1", "labels.node[w2]")])
    {
        assert!(
            planned.iter().any(|(n, _, t)| n == node && t == that),
            "not planned: {node}: {that}: {planned:#?}"
        );
    }
    let changed = world.apply().good();
    assert_eq!(real(&changed, "fixed"), planned, "the apply makes exactly the planned changes");
    world.assert_converged();
    for node in NODES {
        assert_eq!(configz(world, node)["maxPods"], if node == "w1" { 79 } else { 78 }, "{node}");
    }
    assert_runs_with(world, "kube-apiserver", "--event-ttl=3h0m0s");
    let labels = marks(world, "w1").0;
    assert_eq!((&labels["rack"], &labels["disk"]), (&"a1".into(), &Value::Null));
    let mut taints = marks(world, "w2").1;
    taints.sort();
    assert_eq!(taints, ["lab=no:PreferNoSchedule", "other=:PreferNoSchedule"]);
    world.inventory(|_| {});
    world.apply().good();
    world.assert_converged();
    until("the old setting is back", 5, || (configz(world, "w1")["maxPods"] == 77).then_some(()));
    labels_are_back(world);
}

const HEALTHZ: &str = r#"timeout 5 bash -c 'exec 3<>/dev/tcp/127.0.0.1/10248 && printf "GET /healthz HTTP/1.0\r\n\r\n" >&3 && cat <&3' || :"#;

/// The type is right, so `check` accepts the value. The kubelet requires that the low threshold, 80, is below it.
fn refused_setting(world: &World) {
    world.inventory(|inventory| set(inventory, &["kubelet", "imageGCHighThresholdPercent"], "10"));
    let ended = world.start(&["apply", "--yes"]).end(PATIENCE);
    assert_eq!(ended.code, Some(8), "{}{}", ended.errors(), ended.stderr);
    let serves = |node: &&&str| world.lab.ssh(node, HEALTHZ).ends_with("ok");
    let broken: Vec<&str> = ["w1", "w2"].iter().filter(|node| !serves(node)).copied().collect();
    assert_eq!(broken.len(), 1, "only one of two workers is changed at a time: {}", ended.errors());
    let named = ended.causes(broken[0]);
    assert_eq!(named.len(), 1, "{}", ended.errors());
    assert_eq!(named[0]["cause"], "kubelet-ends");
    assert!(named[0]["what"].as_str().unwrap().contains("imageGCHighThresholdPercent"), "{:#?}", named[0]);
    assert!(ended.stderr.contains("not changed, because the same change broke"), "{}", ended.stderr);
    world.inventory(|_| {});
    world.apply().good();
    world.assert_converged();
}

fn labels_are_back(world: &World) {
    let (labels, _) = marks(world, "w1");
    assert_eq!((&labels["disk"], &labels["rack"]), (&"ssd".into(), &Value::Null));
    assert_eq!(marks(world, "w2").1, ["lab=yes:PreferNoSchedule"]);
}
