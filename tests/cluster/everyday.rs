//! Everyday work with a running cluster: a limit, a log, Ctrl-C, and kubeconfigs for others.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::lab::{assert_untouched, signal};
use crate::world::{PATIENCE, World, real};
use crate::{Ground, Scenario, so, until};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        says: "an apply with a limit repairs one node and leaves the others as they are",
        ground: Ground::Cluster,
        run: limit_to_one_node,
    },
    Scenario {
        says: "a run's log contains its scripts and no secret of the cluster PKI",
        ground: Ground::Cluster,
        run: run_log,
    },
    Scenario {
        says: "Ctrl-C lets a run finish the fixes that it began, and the run reports its progress",
        ground: Ground::Cluster,
        run: interrupt,
    },
    Scenario {
        says: "Ctrl-C at the confirmation changes nothing",
        ground: Ground::Cluster,
        run: interrupt_at_the_confirmation,
    },
    Scenario {
        says: "an issued kubeconfig has the rights of its role bindings until it expires",
        ground: Ground::Cluster,
        run: issued_kubeconfig,
    },
    Scenario {
        says: "a merged kubeconfig reaches the cluster",
        ground: Ground::Cluster,
        run: merged_kubeconfig,
    },
];

const EDIT: &str = "echo '# edited' >>/etc/containerd/config.toml";

fn limit_to_one_node(world: &World) {
    world.lab.ssh("w1", EDIT);
    world.lab.ssh("w2", EDIT);
    let before: Vec<_> = ["m1", "w2"].map(|node| world.lab.looks(node)).into();
    let run = world.start(&["apply", "--yes", "--limit", "w[1-1]"]).end(PATIENCE).good();
    let after: Vec<_> = ["m1", "w2"].map(|node| world.lab.looks(node)).into();
    assert_untouched(&before, &after);
    let fixed = real(&run, "fixed");
    assert!(fixed.len() == 2 && fixed.iter().all(|(node, ..)| node == "w1"), "{fixed:#?}");
    assert_eq!(run.of_node("w1", "state"), "converged");
    for node in ["m1", "w2"] {
        // If w1 is not Ready for a moment, m1 waits for it.
        if node == "w2" || run.changes() == 2 {
            let (state, execs) = (run.of_node(node, "state"), run.of_node(node, "execs"));
            assert_eq!((state, execs), ("skipped".into(), 1.into()), "{node}");
        }
    }
    let left = real(&world.plan().good(), "drift");
    assert!(left.len() == 2 && left.iter().all(|(node, ..)| node == "w2"), "{left:#?}");
    let unknown = world.start(&["plan", "--limit", "w3"]).end(60);
    assert!(unknown.code == Some(2) && unknown.stderr.contains("did you mean w"), "{}", unknown.stderr);
    world.apply().good();
}

/// The secret part of the cluster PKI: the lines of its keys.
fn secrets(dir: &Path) -> Vec<String> {
    let (mut secrets, mut folders) = (vec![], vec![dir.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "key") {
                let text = fs::read_to_string(path).unwrap();
                secrets.extend(text.lines().filter(|line| !line.starts_with("---")).map(str::to_string));
            }
        }
    }
    assert!(secrets.len() > 30);
    secrets
}

fn run_log(world: &World) {
    world.lab.ssh("m1", "chmod 644 /etc/kubernetes/pki/sa.key");
    let log = world.dir.join("run.log");
    let _ = fs::remove_file(&log);
    let run = world.start(&["apply", "--yes", "-v", "--log", log.to_str().unwrap()]).end(PATIENCE).good();
    // The second change is the restart of the programs that read the key.
    assert_eq!(real(&run, "fixed").len(), 2, "{:#?}", run.triples("fixed"));
    let written = fs::read_to_string(&log).unwrap();
    fs::remove_file(&log).unwrap();
    let shown: String = run.events.iter().map(|event| format!("{event}\n")).collect();
    for text in [&written, &shown] {
        assert!(text.contains("write_file /etc/kubernetes/pki/sa.key 600") && text.contains("[secret]"));
        for secret in secrets(&world.dir.join("demo.trust")) {
            assert!(!text.contains(&secret), "a secret is shown");
        }
    }
    assert!(written.contains("pki: checking whether sa.key"), "{}", &written[..2000]);
}

fn interrupt(world: &World) {
    world.lab.ssh("w1", EDIT);
    let mut client = world.applying();
    let w1 = world.lab.machine("w1");
    let of_w1 = |kind: &str, event: &Value| event["event"] == kind && event["node"] == "w1";
    client.event("a fix on w1 begins", 60, |event| of_w1("fixing", event));
    let scripts = w1.running("sh", &["-s"]);
    signal("STOP", &scripts);
    client.signal("INT");
    client.event("it says that it stops", 10, |event| {
        event["event"] == "stopping" && event["at_once"] == false
    });
    signal("CONT", &scripts);
    let ended = client.end(60);
    let errors = ended.errors();
    assert_eq!(ended.code, Some(130), "{errors}");
    assert!(errors.contains("-: stopped after the fixes that were running: done: m1, w1, w2"), "{errors}");
    world.assert_converged();
}

fn interrupt_at_the_confirmation(world: &World) {
    world.lab.ssh("w1", EDIT);
    let before = world.lab.look_at_all();
    let inventory = world.dir.join("inventory.toml");
    let asking = format!("{} apply -i {}", World::binary(), inventory.display());
    let mut command = world.lab.command(&["exec", "script", "-qec", &asking, "/dev/null"]);
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut terminal = command.spawn().unwrap();
    let (mut keys, mut screen) = (terminal.stdin.take().unwrap(), terminal.stdout.take().unwrap());
    let (mut said, mut piece) = (String::new(), [0; 4096]);
    while !said.contains("[y/N]") {
        let n = screen.read(&mut piece).unwrap();
        assert!(n > 0, "it ended without asking for confirmation: {said}");
        said += &String::from_utf8_lossy(&piece[..n]);
    }
    assert!(said.contains("Apply 2 changes on 3 nodes?"), "{said}");
    keys.write_all(b"\x03").unwrap();
    let mut rest = String::new();
    screen.read_to_string(&mut rest).unwrap();
    assert_eq!(terminal.wait().unwrap().code(), Some(130), "{said}{rest}");
    assert!(rest.contains("stopped; no node was changed"), "{rest}");
    assert_untouched(&before, &world.lab.look_at_all());
    world.apply().good();
}

/// Runs `ironstrap kubeconfig` and returns its messages.
fn kubeconfig(world: &World, args: &[&str], own: &Path) -> String {
    let mut command = Command::new(World::binary());
    command.args(["kubeconfig", "-i"]).arg(world.dir.join("inventory.toml")).args(args);
    let output = command.env("KUBECONFIG", own).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

fn issued_kubeconfig(world: &World) {
    let folder = tempfile::tempdir().unwrap();
    let (alice, brief) = (folder.path().join("alice"), folder.path().join("brief"));
    let issue = |file: &Path, lasts: &str| {
        let file = file.to_str().unwrap();
        let args = ["--as", "alice", "--group", "dev", "--group", "on-call", "--for", lasts, "--write", file];
        kubeconfig(world, &args, folder.path());
    };
    issue(&alice, "1h");
    issue(&brief, "10s");
    // Both kubeconfigs work at first. This one stops working when it expires.
    let me = world.kubectl_with(&brief, &["auth", "whoami", "-o", "json"]).unwrap();
    let me: Value = serde_json::from_str(&me).unwrap();
    let info = &me["status"]["userInfo"];
    assert_eq!(
        (&info["username"], &info["groups"]),
        (&"alice".into(), &serde_json::json!(["dev", "on-call", "system:authenticated"]))
    );
    let pods = ["get", "pods", "-n", "default"];
    let refused = world.kubectl_with(&alice, &pods).unwrap_err();
    assert!(refused.contains("Forbidden") && refused.contains("\"alice\""), "{refused}");
    world.kubectl(&[
        "create",
        "rolebinding",
        "on-call",
        "--clusterrole=view",
        "--group=on-call",
        "-n",
        "default",
    ]);
    until("the role binding takes effect", 20, || world.kubectl_with(&alice, &pods).ok());
    assert!(world.kubectl_with(&alice, &["get", "nodes"]).unwrap_err().contains("Forbidden"));
    until("the short-lived kubeconfig has expired", 30, || {
        so(world
            .kubectl_with(&brief, &pods)
            .is_err_and(|why| why.contains("must be logged in") || why.contains("Unauthorized")))
    });
    world.kubectl_with(&alice, &pods).unwrap();
    world.kubectl(&["delete", "rolebinding", "on-call", "-n", "default"]);
}

fn merged_kubeconfig(world: &World) {
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("config");
    let theirs = "contexts: [{name: work, context: {cluster: work, user: me}}]\ncurrent-context: work\n";
    fs::write(&own, theirs).unwrap();
    kubeconfig(world, &["--merge"], &own);
    let nodes = world.kubectl_with(&own, &["--context", "demo", "get", "nodes", "-o", "name"]).unwrap();
    assert_eq!(nodes, "node/m1\nnode/w1\nnode/w2\n");
    let contexts = world.kubectl_with(&own, &["config", "get-contexts", "-o", "name"]).unwrap();
    assert_eq!(contexts, "demo\nwork\n");
    assert_eq!(world.kubectl_with(&own, &["config", "current-context"]).unwrap(), "work\n");
}
