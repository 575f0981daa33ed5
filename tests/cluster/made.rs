//! A new cluster works: pods run on every node, resolve names, reach each other, and the operator can reach them.

use ironstrap::pki::{ClusterPki, Credential};
use serde_json::Value;
use time::{Duration, OffsetDateTime};

use crate::lab::{NODES, assert_untouched, text};
use crate::world::World;
use crate::{Ground, Scenario, so, until};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        says: "a plan of new machines is complete and writes nothing",
        ground: Ground::Fresh,
        run: plan_writes_nothing,
    },
    Scenario {
        says: "an apply makes exactly the planned changes and creates a cluster",
        ground: Ground::Before,
        run: apply_as_planned,
    },
    Scenario {
        says: "every node is Ready with the inventory's version and address",
        ground: Ground::Cluster,
        run: nodes_are_ready,
    },
    Scenario {
        says: "no join token, no super-admin.conf and no join credential remains",
        ground: Ground::Cluster,
        run: no_credentials_remain,
    },
    Scenario {
        says: "a machine's join credential works only for its own name",
        ground: Ground::Cluster,
        run: join_credential_is_limited,
    },
    Scenario { says: "a page is served on every node", ground: Ground::Cluster, run: page },
    Scenario {
        says: "pods on every node resolve names and reach each other",
        ground: Ground::Cluster,
        run: pods_talk,
    },
    Scenario { says: "logs and exec work on every node", ground: Ground::Cluster, run: logs_and_exec },
];

fn plan_writes_nothing(world: &World) {
    let (before, kept) = (world.lab.look_at_all(), world.kept());
    let plan = world.plan();
    assert_eq!(plan.code, Some(0), "{}", plan.errors());
    let steps: std::collections::BTreeSet<String> = plan.triples("drift").into_iter().map(|t| t.1).collect();
    for step in [
        "swap", "kernel", "hosts", "runtime", "kubelet", "pki", "member", "access", "network", "nodes",
        "labels",
    ] {
        assert!(steps.contains(step), "the plan lacks the step {step}");
    }
    for node in NODES {
        // One script observes the machine. Three test connections: start listeners, connect, stop listeners.
        assert_eq!(plan.of_node(node, "execs"), 4);
        assert_eq!(plan.of_node(node, "state"), "drifted");
    }
    let dry = world.start(&["apply", "--dry-run"]).end(60).good();
    assert_eq!(dry.triples("drift"), plan.triples("drift"), "a dry run shows the same as a plan");
    assert_eq!(world.start(&["plan", "--exit-code"]).end(60).code, Some(1));
    assert_eq!(world.kept(), kept, "a plan wrote a file beside the inventory");
    assert_untouched(&before, &world.lab.look_at_all());
}

fn apply_as_planned(world: &World) {
    let planned = world.plan().triples("drift");
    let made = world.apply().good();
    let fixed = made.triples("fixed");
    let (unsaid, undone): (Vec<_>, Vec<_>) =
        (fixed.difference(&planned).collect(), planned.difference(&fixed).collect());
    assert!(unsaid.is_empty() && undone.is_empty(), "not planned {unsaid:#?}, not done {undone:#?}");
    assert_eq!(made.changes(), planned.len() as u64);
    for node in NODES {
        assert_eq!(made.of_node(node, "state"), "converged");
    }
}

/// The values of all nodes at a JSON pointer.
fn of_nodes(nodes: &Value, pointer: &str) -> Vec<String> {
    let items = nodes["items"].as_array().unwrap();
    items.iter().map(|node| node.pointer(pointer).unwrap().as_str().unwrap().to_string()).collect()
}

fn nodes_are_ready(world: &World) {
    let nodes = world.kubectl_json(&["get", "nodes", "-o", "json"]);
    assert_eq!(of_nodes(&nodes, "/metadata/name"), NODES);
    assert_eq!(of_nodes(&nodes, "/status/nodeInfo/kubeletVersion"), ["v1.36.3"; 3]);
    for (node, octet) in nodes["items"].as_array().unwrap().iter().zip([11, 12, 13]) {
        let (status, name) = (&node["status"], &node["metadata"]["name"]);
        let is = |condition: &&Value| condition["type"] == "Ready";
        let ready = status["conditions"].as_array().unwrap().iter().find(is).unwrap();
        assert_eq!(ready["status"], "True", "{name}: {ready}");
        let is = |address: &&Value| address["type"] == "InternalIP";
        let address = status["addresses"].as_array().unwrap().iter().find(is).unwrap();
        assert_eq!(address["address"], format!("198.18.0.{octet}"), "{name}");
    }
}

fn no_credentials_remain(world: &World) {
    let tokens = ["-n", "kube-system", "get", "secrets", "-o", "name", "--field-selector"];
    let tokens = [&tokens[..], &["type=bootstrap.kubernetes.io/token"]].concat();
    assert_eq!(world.kubectl(&tokens), "", "a token is left");
    assert!(!world.dir.join("demo.trust/token").exists());
    for node in NODES {
        let machine = world.lab.machine(node);
        for name in ["kubeadm.yaml", "discovery.conf", "masters.conf", "kubeadm.sh"] {
            assert!(!machine.has(&format!("/run/ironstrap/{name}")), "{node} has {name}");
        }
        for name in ["super-admin.conf", "bootstrap-kubelet.conf"] {
            assert!(!machine.has(&format!("/etc/kubernetes/{name}")), "{node} has {name}");
        }
        let until = world.lab.ssh(
            node,
            "openssl x509 -noout -checkend 86400 -in /var/lib/kubelet/pki/kubelet-client-current.pem",
        );
        assert!(
            until.contains("will not expire"),
            "the kubelet of {node} has no long-lived certificate: {until}"
        );
    }
}

/// Requests a kubelet certificate for w1 and for w2 with the join credential of w2.
const ASKS: &str = r#"set -e
k="kubectl --kubeconfig /root/joins.conf"
for name in w1 w2; do
  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout /root/asks.key \
    -subj "/O=system:nodes/CN=system:node:$name" -out /root/asks.csr 2>/dev/null
  $k create -f - 2>&1 <<CSR || [ $name = w1 ]
apiVersion: certificates.k8s.io/v1
kind: CertificateSigningRequest
metadata: {name: asks-$name}
spec: {signerName: kubernetes.io/kube-apiserver-client-kubelet, usages: [digital signature, client auth], request: $(base64 -w 0 /root/asks.csr)}
CSR
done
for what in 'get secrets -A' 'get configmap extension-apiserver-authentication -n kube-system' 'get node w1' 'get pods -A'; do
  if $k $what >/dev/null 2>&1; then echo "may $what"; fi
done
rm /root/joins.conf /root/asks.*"#;

fn join_credential_is_limited(world: &World) {
    let (cluster, kept) = (crate::diagnosis::cluster(world), world.dir.join("demo.trust"));
    let pki = ClusterPki::from_kept(&[], |file| Ok(std::fs::read_to_string(kept.join(file)).ok())).unwrap();
    let joins = Credential::of_node("w2", &cluster, Duration::minutes(15));
    let signed = pki.sign(&joins, &cluster, Duration::ZERO, OffsetDateTime::now_utc()).unwrap();
    std::fs::write(world.lab.disk("m1", "/root/joins.conf"), signed.kubeconfig).unwrap();
    let said = world.lab.ssh("m1", ASKS);
    assert!(!said.contains("may "), "{said}");
    // The admission plugin NodeRestriction rejects the request before any approval.
    assert!(said.contains("can only create a node CSR with CN=system:node:w2"), "{said}");
    let state = |name: &str| world.kubectl(&["get", "csr", name, "-o", "jsonpath={.status}"]);
    until("the certificate for its own name is signed", 60, || so(state("asks-w2").contains("certificate")));
    assert_eq!(world.kubectl(&["get", "csr", "asks-w1", "--ignore-not-found"]), "");
    world.kubectl(&["delete", "csr", "asks-w2"]);
}

/// A pod with nginx on each node, a Deployment, and a NodePort Service for the Deployment.
const PAGES: &str = r#"
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: each, namespace: default}
spec:
  selector: {matchLabels: {app: each}}
  template:
    metadata: {labels: {app: each}}
    spec:
      tolerations: [{operator: Exists}]
      containers: [{name: nginx, image: "docker.io/library/nginx:1"}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: page, namespace: default}
spec:
  replicas: 2
  selector: {matchLabels: {app: page}}
  template:
    metadata: {labels: {app: page}}
    spec:
      containers: [{name: nginx, image: "docker.io/library/nginx:1"}]
---
apiVersion: v1
kind: Service
metadata: {name: page, namespace: default}
spec:
  type: NodePort
  selector: {app: page}
  ports: [{port: 80, nodePort: 30080}]
"#;

fn pages(world: &World) {
    world.create("pages.yaml", PAGES);
    world.kubectl(&["rollout", "status", "daemonset/each", "--timeout=120s"]);
    world.kubectl(&["rollout", "status", "deployment/page", "--timeout=120s"]);
}

fn page(world: &World) {
    pages(world);
    for octet in [11, 12, 13] {
        let url = format!("http://198.18.0.{octet}:30080/");
        // kube-proxy adds the rules of a new Service a moment later.
        until("the page is served", 20, || {
            let page = world.lab.try_run(&["exec", "curl", "-sS", "--max-time", "3", &url]);
            so(page.status.success() && text(&page.stdout).contains("Welcome to nginx"))
        });
    }
}

/// Name, node and address of each pod of the DaemonSet.
fn each(world: &World) -> Vec<(String, String, String)> {
    let pods = world.kubectl_json(&["get", "pods", "-l", "app=each", "-o", "json"]);
    let [names, nodes, ips] =
        ["/metadata/name", "/spec/nodeName", "/status/podIP"].map(|p| of_nodes(&pods, p));
    let mut each: Vec<_> = names.into_iter().zip(nodes).zip(ips).map(|((a, b), c)| (a, b, c)).collect();
    each.sort_by(|a, b| a.1.cmp(&b.1));
    assert_eq!(each.iter().map(|pod| pod.1.as_str()).collect::<Vec<_>>(), NODES, "a pod on each node");
    each
}

fn pods_talk(world: &World) {
    pages(world);
    let pods = each(world);
    let in_pod = |pod: &str, script: &str| world.kubectl(&["exec", pod, "--", "bash", "-c", script]);
    for (pod, node, _) in &pods {
        let found = in_pod(pod, "getent hosts kubernetes.default.svc.cluster.local");
        assert!(found.starts_with("10.96.0.1 "), "a pod of {node} finds {found}");
        for (_, other, ip) in &pods {
            let get = |to: &str| {
                format!("exec 3<>/dev/tcp/{to}/80; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3")
            };
            let page = in_pod(pod, &get(ip));
            assert!(page.contains("Welcome to nginx"), "from {node} to {other}: {page}");
            let page = in_pod(pod, &get("page.default.svc.cluster.local"));
            assert!(page.contains("Welcome to nginx"), "from {node} to the Service: {page}");
        }
    }
}

fn logs_and_exec(world: &World) {
    pages(world);
    for (pod, node, ip) in each(world) {
        let asked = format!("http://{ip}/asked-of-{node}");
        world.lab.run(&["ssh", &node, &format!("exec 3<>/dev/tcp/{ip}/80; printf 'GET /asked-of-{node} HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3 >/dev/null")]);
        let logs = until("the log contains the request", 10, || {
            let logs = world.kubectl(&["logs", &pod]);
            logs.contains(&format!("GET /asked-of-{node}")).then_some(logs)
        });
        assert!(!logs.is_empty(), "{asked}");
        let uptime = world.kubectl(&["exec", &pod, "--", "cat", "/etc/hostname"]);
        assert_eq!(uptime.trim(), pod, "on {node}");
    }
}
