//! Inventories, contexts and real shells, for tests that need no machine.

// Each test file uses some of it; and clippy sees no test in what tests share.
#![allow(dead_code, clippy::unwrap_used)]

pub mod command;
pub mod fuzz;
pub mod relay;
pub mod root;
pub mod schemas;
pub mod ssh_server;
pub mod tools;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;

use ironstrap::cluster::{Cluster, Node};
use ironstrap::fleet::Fleet;
use ironstrap::inventory;
use ironstrap::machine::Machine;
use ironstrap::pki::ClusterPki;
use ironstrap::shell::Sh;
use ironstrap::step::{Answer, Ask, Cx, Verdict, Want};
use ironstrap::steps::STAGES;
use time::OffsetDateTime;

/// The lab's inventory. Its SSH key and known hosts are in a temporary folder that no longer exists.
pub fn lab() -> Cluster {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("id_ed25519"), "-----BEGIN OPENSSH PRIVATE KEY-----").unwrap();
    let text = std::fs::read_to_string("tests/lab/inventory.toml").unwrap();
    let text = text.replace("/var/lib/ironstrap-lab", &dir.path().display().to_string());
    inventory::parse(&text, Path::new("demo.toml")).unwrap_or_else(|error| panic!("{error}"))
}

/// The clusters of the valid inventories of the repository, with names.
pub fn clusters() -> Vec<(&'static str, Cluster)> {
    let read = |path: &str| inventory::read(Path::new(path)).unwrap_or_else(|error| panic!("{error}"));
    vec![
        ("minimal", read("inventories/minimal.toml")),
        ("full", read("inventories/full.toml")),
        ("lab", lab()),
    ]
}

/// A PKI for this cluster. Clusters with the same control planes share one, because ironstrap registers each key of its
/// process as a secret, and searches every text for all of them.
pub fn pki(cluster: &Cluster) -> ClusterPki {
    static MADE: Mutex<BTreeMap<String, ClusterPki>> = Mutex::new(BTreeMap::new());
    let planes: Vec<_> = cluster.control_planes().map(|node| (&node.name, node.ip)).collect();
    let mut made = MADE.lock().unwrap();
    let pki = made.entry(format!("{planes:?}")).or_insert_with(|| new_pki(cluster));
    pki.complete(cluster, OffsetDateTime::now_utc()).unwrap();
    pki.clone()
}

/// A PKI that differs from all others.
pub fn new_pki(cluster: &Cluster) -> ClusterPki {
    ClusterPki::make(cluster, OffsetDateTime::now_utc()).unwrap()
}

/// Every want of a node, with the names of its stage and step.
pub fn wants(
    (cluster, node): (&Cluster, &Node),
    pki: &ClusterPki,
    (machine, fleet): (&Machine, &Fleet),
    now: OffsetDateTime,
) -> Vec<(&'static str, &'static str, Want)> {
    let cx = Cx { cluster, node, pki, now, machine, fleet };
    let mut all = Vec::new();
    for stage in STAGES.iter().filter(|stage| stage.is_asked_of(node)) {
        for step in stage.steps {
            let wants = (step.wants)(&cx).unwrap();
            all.extend(wants.into_iter().map(|want| (stage.name, step.name, want)));
        }
    }
    all
}

/// The installed shells among those that a machine can have as `/bin/sh`. A message names each one that is missing.
pub fn shells() -> Vec<&'static str> {
    let there = |shell: &&str| {
        let there = which::which(shell).is_ok();
        if !there {
            // Not println, because the harness hides its output if the test passes.
            let said =
                format!("SKIPPED: no {shell} on this machine, so the scripts were not tried with it\n");
            std::io::stderr().write_all(said.as_bytes()).unwrap();
        }
        there
    };
    let mut shells: Vec<&str> = ["dash", "bash"].into_iter().filter(there).collect();
    let real = |shell: &&str| which::which(shell).ok().and_then(|path| path.canonicalize().ok());
    if !shells.iter().any(|shell| real(shell) == real(&"sh")) {
        shells.push("sh");
    }
    shells
}

/// Runs a script in a shell, with the PATH of `tools`. As with sshd, the script arrives on standard input.
pub fn run(shell: &str, script: &str) -> Output {
    let mut shell = Command::new(shell);
    pipe(shell.arg("-s").env("PATH", tools::path()), script)
}

/// Runs a command to its end, with this standard input.
pub fn pipe(command: &mut Command, input: &str) -> Output {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A command may end before it has read everything.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// The answer of a machine that passes all preflight checks to a preflight question.
pub fn fit(want: &Want) -> &'static str {
    match want.id.to_string().as_str() {
        "preflight.cgroups" => "version 2 cpuset cpu io memory hugetlb pids\n",
        "preflight.kernel-version" => "6.12.41+deb13-amd64\n",
        "preflight.kernel-config" => {
            "NAMESPACES\nNET_NS\nPID_NS\nIPC_NS\nUTS_NS\nCPUSETS\nMEMCG\nINET\nEXT4_FS\nPROC_FS\n\
             NETFILTER_XT_TARGET_REDIRECT\nNETFILTER_XT_MATCH_COMMENT\nFAIR_GROUP_SCHED\nCGROUPS\nCGROUP_BPF\n\
             CGROUP_PIDS\nCGROUP_SCHED\n"
        }
        "preflight.disk"
        | "preflight.inodes"
        | "preflight.snapshotter"
        | "preflight.read-only"
        | "preflight.noexec" => {
            "/etc/kubernetes / 20000 900000 1000000 rw,relatime ext4\n/opt/cni/bin / 20000 900000 1000000 rw,relatime ext4\n\
             /usr/bin / 20000 900000 1000000 rw,relatime ext4\n/var/lib/containerd / 20000 900000 1000000 rw,relatime ext4\n\
             /var/lib/kubelet / 20000 900000 1000000 rw,relatime ext4\n/var/log / 20000 900000 1000000 rw,relatime ext4\n\
             /var/lib/dpkg/info / 20000 900000 1000000 rw,relatime ext4\n/var/lib/etcd / 20000 900000 1000000 rw,relatime ext4\n"
        }
        "preflight.kernel-log" => "yes\n",
        "preflight.default-route" | "preflight.cluster-network" => "default via 198.18.0.1 dev eth0\n",
        "preflight.name-servers" | "preflight.name-server-limits" => {
            "in /etc/resolv.conf\nnameserver 198.18.0.1\nsearch example.org\n"
        }
        _ => "",
    }
}

/// Makes shell from text of a test. The program itself can only make it from constants.
pub fn sh(text: impl Into<String>) -> Sh {
    Sh::raw(text.into().leak())
}

/// The ownerReferences of an object that KIND/NAME controls, as kubectl prints them: JSON with sorted keys.
pub fn owner(by: &str) -> String {
    let (kind, name) = by.split_once('/').unwrap();
    let other = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "8"});
    let own = serde_json::json!({
        "apiVersion": "apps/v1", "blockOwnerDeletion": true, "controller": true, "kind": kind, "name": name, "uid": "9",
    });
    serde_json::json!([other, own]).to_string()
}

/// The verdict of a want on these lines, as an answer in the form of its ask. The line `absent` stands for an object or
/// a file that does not exist.
pub fn verdict(want: &Want, lines: &str) -> Verdict {
    let object = |line: &str| (line != "absent").then(|| line.into());
    let answer = match &want.ask {
        Ask::Objects(objects) => {
            let mut found: Vec<_> = lines.lines().map(object).collect();
            found.resize(objects.len(), None);
            Answer::Objects(found)
        }
        _ if lines.trim_end() == "absent" => Answer::Absent,
        _ => Answer::Said(lines.into()),
    };
    ironstrap::plan::verdict(want, &answer).unwrap_or_else(|| panic!("no verdict on {answer}"))
}
