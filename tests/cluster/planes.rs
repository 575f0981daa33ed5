//! Several control planes. They join one after the other, an API server is available during a rollout, and etcd keeps its
//! majority.

use std::fs;
use std::process::{Child, Stdio};

use serde_json::{Value, json};
use toml::Table;

use crate::client::Ended;
use crate::lab::{Machine, NODES, assert_untouched, signal};
use crate::world::{PATIENCE, World, set};
use crate::{Ground, Scenario, so, until};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        says: "three control planes are created, and they join one after the other",
        ground: Ground::Fresh,
        run: three_are_created,
    },
    Scenario {
        says: "a rollout of an argument and certificates keeps at least one API server available",
        ground: Ground::Before,
        run: changes_are_rolled_out,
    },
    Scenario {
        says: "an unknown member of etcd is reported and not removed",
        ground: Ground::Before,
        run: unknown_member,
    },
    Scenario {
        says: "a control plane that etcd needs for its majority is not removed",
        ground: Ground::Before,
        run: majority_is_kept,
    },
    Scenario {
        says: "a removal that is killed after etcd lost the member is completed by the next run",
        ground: Ground::Before,
        run: killed_removal_is_completed,
    },
    Scenario {
        says: "after kubeadm is killed while it joins etcd, the next run completes the join",
        ground: Ground::Before,
        run: killed_joining_etcd,
    },
    Scenario {
        says: "the reinstalled first control plane joins the others instead of a new cluster",
        ground: Ground::Before,
        run: first_is_reinstalled,
    },
];

fn planes(table: &mut Table) {
    for node in ["w1", "w2"] {
        set(table, &["nodes", node, "role"], "\"control-plane\"");
    }
}

fn status(world: &World) -> Value {
    let ended = world.start(&["status"]).end(90);
    ended.events.last().unwrap().clone()
}

/// Checks that all three are healthy voting members of etcd, and that their API servers are healthy.
fn assert_all_well(world: &World) {
    let status = status(world);
    let member = |name: &str| json!({"name": name, "healthy": true, "learner": false, "why": null});
    let mut etcd = status["cluster"]["etcd"].as_array().unwrap().clone();
    etcd.sort_by_key(|member| member["name"].as_str().map(String::from));
    assert_eq!(etcd, NODES.map(member));
    let api = NODES.map(|node| json!({"node": node, "health": "healthy", "why": null}));
    assert_eq!(status["cluster"]["api"], json!(api));
    assert_eq!(status["cluster"]["ready"], json!(3));
}

/// The begin and the end of each node's member stage, in the order of the events.
fn turns(ended: &Ended) -> Vec<(&'static str, String)> {
    let turn = |event: &Value| {
        let node = event["node"].as_str()?.to_string();
        match event["event"].as_str()? {
            "stage" if event["stage"] == "member" => Some(("begins", node)),
            "fixed" if event["step"] == "member" => Some(("ends", node)),
            _ => None,
        }
    };
    ended.events.iter().filter_map(turn).collect()
}

fn assert_in_turn(ended: &Ended) {
    let turns = turns(ended);
    for (i, (_, node)) in turns.iter().enumerate().filter(|(_, (what, _))| *what == "begins") {
        let next = turns[i + 1..].iter().find(|(what, other)| *what == "begins" || other == node);
        assert_eq!(next, Some(&("ends", node.clone())), "two at a time: {turns:?}");
    }
    for node in NODES {
        assert!(turns.contains(&("begins", node.into())), "{node} had no member stage: {turns:?}");
    }
}

fn three_are_created(world: &World) {
    world.inventory(planes);
    assert_in_turn(&world.apply().good());
    let again = world.apply().good();
    assert_eq!(again.changes(), 0);
    for node in NODES {
        assert_eq!(again.of_node(node, "execs"), 1);
    }
    assert_all_well(world);
}

/// Polls the readiness of all API servers and records which are ready.
struct Watch<'a> {
    world: &'a World,
    child: Child,
}

impl Watch<'_> {
    fn begin(world: &World) -> Watch<'_> {
        let (seen, end) = (world.dir.join("seen"), world.dir.join("end"));
        let _ = fs::remove_file(&end);
        let script = format!(
            "n=0; while [ $n -lt 600 ] && [ ! -e {} ]; do n=$((n + 1)); up=\n\
             for a in 11 12 13; do if curl -skf --max-time 2 https://198.18.0.$a:6443/readyz >/dev/null; then up=\"$up $a\"; fi; done\n\
             echo \"up$up\"; sleep 0.2; done",
            end.display()
        );
        let mut command = world.lab.command(&["exec", "sh", "-c", &script]);
        let child = command.stdout(fs::File::create(seen).unwrap()).stderr(Stdio::null()).spawn().unwrap();
        Watch { world, child }
    }

    /// The number of ready API servers in each poll.
    fn end(mut self) -> Vec<usize> {
        fs::write(self.world.dir.join("end"), "").unwrap();
        assert!(self.child.wait().unwrap().success());
        let seen = fs::read_to_string(self.world.dir.join("seen")).unwrap();
        seen.lines().map(|line| line.split(' ').count() - 1).collect()
    }
}

fn changes_are_rolled_out(world: &World) {
    world.inventory(|table| {
        planes(table);
        set(table, &["api-server", "event-ttl"], "\"3h0m0s\"");
        set(table, &["cluster", "api-names"], "[\"k8s.example.org\"]");
    });
    let watch = Watch::begin(world);
    let changed = world.apply().good();
    let up = watch.end();
    assert!(up.len() > 20, "{up:?}");
    assert!(up.iter().all(|up| *up >= 1), "no API server was ready for a while: {up:?}");
    assert!(up.iter().any(|up| *up < 3), "no API server restarted: {up:?}");
    assert_in_turn(&changed);
    for node in NODES {
        let server = world.lab.machine(node).running("kube-apiserver", &["--event-ttl=3h0m0s"]);
        assert_eq!(server.len(), 1, "{node}");
        let names = world.lab.ssh("m1", &format!("echo | openssl s_client -connect {node}:6443 2>/dev/null | openssl x509 -noout -ext subjectAltName"));
        assert!(names.contains("k8s.example.org"), "{node}: {names}");
    }
    world.assert_converged();
    assert_all_well(world);
}

fn unknown_member(world: &World) {
    const ID: &str = "bootstrap.etcd-members";
    let member = |what: &str, body: &str| {
        world.lab.ssh(
            "m1",
            &format!(
                "p=/etc/kubernetes/pki/etcd; echo '{body}' | kubectl --kubeconfig /dev/null --server https://127.0.0.1:2379 \
                 --certificate-authority $p/ca.crt --client-certificate $p/healthcheck-client.crt \
                 --client-key $p/healthcheck-client.key create --raw /v3/cluster/member/{what} -f -"
            ),
        )
    };
    let added = member("add", r#"{"peerURLs": ["https://198.18.0.99:2380"], "isLearner": true}"#);
    let added: Value = serde_json::from_str(&added).unwrap();
    let plan = world.plan();
    let drift = plan.events.iter().find(|event| event["event"] == "drift" && event["id"] == ID);
    let drift = drift.unwrap_or_else(|| panic!("{:?}", plan.triples("drift")));
    assert_eq!((&drift["step"], &drift["state"]), (&json!("access"), &json!("by-hand")));
    let have = drift["have"].as_str().unwrap();
    assert!(
        have.contains("https://198.18.0.99:2380") && have.contains("not a control plane of the inventory"),
        "{have}"
    );
    member("remove", &json!({"ID": added["member"]["ID"]}).to_string());
    world.assert_converged();
}

fn remove(world: &World, node: &str) -> Ended {
    world.start(&["remove", "--yes", node]).end(PATIENCE)
}

fn majority_is_kept(world: &World) {
    let manifest = "/etc/kubernetes/manifests/etcd.yaml";
    world.lab.ssh("w2", &format!("mv {manifest} /root/"));
    let w2 = world.lab.machine("w2");
    until("etcd of w2 has ended", 60, || so(w2.running("etcd", &[]).is_empty()));
    let before = world.lab.look_at_all();
    remove(world, "w1").refused(5, "w1", &["etcd would lose its majority", "silent: w2"]);
    assert_untouched(&before, &world.lab.look_at_all());
    world.lab.ssh("w2", &format!("mv /root/etcd.yaml {manifest}"));
    // Its API server ended meanwhile, and the kubelet restarts it ever more rarely.
    until("w2 is back", 240, || so(world.start(&["plan", "--exit-code"]).end(60).code == Some(0)));
}

fn members(world: &World) -> Vec<String> {
    let status = status(world);
    let name = |member: &Value| member["name"].as_str().unwrap().to_string();
    let mut names: Vec<String> = status["cluster"]["etcd"].as_array().unwrap().iter().map(name).collect();
    names.sort();
    names
}

fn killed_removal_is_completed(world: &World) {
    let mut client = world.start(&["remove", "--yes", "w2"]);
    client.event("the removal from etcd begins", PATIENCE, |event| {
        event["event"] == "fixing" && event["id"] == "remove.etcd-member"
    });
    until("w2 is no member of etcd", 60, || so(members(world) == ["m1", "w1"]));
    client.signal("KILL");
    drop(client.end(30));
    remove(world, "w2").good();
    assert_eq!(members(world), ["m1", "w1"]);
    assert_eq!(world.kubectl(&["get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"]), "m1 w1");
    assert!(
        !world.lab.machine("w2").has("/etc/kubernetes")
            && !world.lab.machine("w2").has("/var/lib/etcd/member")
    );
    world.inventory(|table| {
        planes(table);
        table["nodes"].as_table_mut().unwrap().remove("w2").unwrap();
    });
    world.apply().good();
    world.assert_converged();
}

/// Starts an apply, and kills kubeadm on w2 when `is` holds there.
fn kill_in_join(world: &World, what: &str, is: impl Fn(&Machine) -> bool) {
    let mut client = world.applying();
    let w2 = world.lab.machine("w2");
    let kubeadm = client.until(what, PATIENCE, |_| {
        let kubeadm = w2.running("kubeadm", &["join"]);
        (is(&w2) && !kubeadm.is_empty()).then_some(kubeadm)
    });
    signal("KILL", &kubeadm);
    assert!(!w2.has("/var/lib/ironstrap/kubeadm-receipt"), "kubeadm had already completed the join");
    let ended = client.end(PATIENCE);
    assert_ne!(ended.code, Some(0), "{}", ended.errors());
}

fn killed_joining_etcd(world: &World) {
    world.inventory(planes);
    kill_in_join(world, "kubeadm joins etcd", |w2| w2.has("/etc/kubernetes/manifests/etcd.yaml"));
    // Now etcd has a member without a vote, and the API server of w2 has no data.
    kill_in_join(world, "the kubelet has its credentials", |w2| {
        w2.has("/var/lib/kubelet/pki/kubelet-client-current.pem")
    });
    world.apply().good();
    world.assert_converged();
    assert_all_well(world);
}

fn first_is_reinstalled(world: &World) {
    let before = world.kubectl(&["get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}"]);
    world.lab.run(&["fresh", "m1"]);
    world.apply().good();
    world.assert_converged();
    assert_all_well(world);
    let after = world.kubectl(&["get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}"]);
    assert_eq!(before, after, "it is another cluster");
    let initial =
        world.lab.ssh("m1", "grep -c initial-cluster-state=existing /etc/kubernetes/manifests/etcd.yaml");
    assert_eq!(initial.trim(), "1");
}
