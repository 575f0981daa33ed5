//! What others write never runs: each string that an inventory, a manifest, a machine or the API server may hold is made
//! hostile, every script is made of it and run by every shell, and the canary never sings. The machine is played: its
//! paths are below a folder, and its commands are scripts that answer with hostile words, too.

// clippy sees no test in what the tests share.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{pki, shells};
use ironstrap::active_checks::{self, reach};
use ironstrap::cluster::{Addon, Cluster, Manifest, Network, Node, Origin};
use ironstrap::diagnosis;
use ironstrap::fleet::Fleet;
use ironstrap::inventory;
use ironstrap::ledger::{self, Run};
use ironstrap::machine::{Lease, Machine};
use ironstrap::operations::remove::{self, Removal};
use ironstrap::operations::reset;
use ironstrap::plan;
use ironstrap::probe;
use ironstrap::shell::{PRELUDE, Sh};
use ironstrap::status;
use ironstrap::step::{Answer, Ask, Cx, Fix, Step, Want};
use ironstrap::steps::STAGES;
use time::OffsetDateTime;
use toml::Value;

const BOUNDARY: &str = "--0123456789abcdef";
/// On one line: what ends quotes of either kind, and what is run without any. Shell that can be parsed wherever it stands,
/// or it would not be run.
const LINE: &str = "x$(canary)`canary`'$(canary)'\\y\"z\"";
/// Words that have ended a here-document of ours.
const ENDS: &str = "OBJECTS KUBECONFIG KUBEADM DISCOVERY WAYS SECRET SUBNETS NODE LOCKS";

/// The same, with line breaks and every word that ends something.
fn lines(ends: &BTreeSet<String>) -> String {
    let mut text = format!("{LINE}\n");
    for end in ends.iter().map(String::as_str).chain(ENDS.split(' ')).chain([BOUNDARY, "}", ")"]) {
        text += &format!("{end}\ncanary\n$(canary)\n");
    }
    text + "x"
}

/// Every place of a string in a value, as the keys on the way to it.
fn places(value: &Value, at: &[String], found: &mut Vec<Vec<String>>) {
    let below = |key: &str| [at, &[key.to_string()]].concat();
    match value {
        Value::String(_) => found.push(at.to_vec()),
        Value::Array(all) => {
            all.iter().enumerate().for_each(|(i, one)| places(one, &below(&i.to_string()), found));
        }
        Value::Table(all) => all.iter().for_each(|(key, one)| places(one, &below(key), found)),
        _ => {}
    }
}

/// Every table that has an entry, as the keys on the way to it.
fn tables(value: &Value, at: &[String], found: &mut Vec<Vec<String>>) {
    let below = |key: &str| [at, &[key.to_string()]].concat();
    match value {
        Value::Array(all) => {
            all.iter().enumerate().for_each(|(i, one)| tables(one, &below(&i.to_string()), found));
        }
        Value::Table(all) => {
            if !all.is_empty() {
                found.push(at.to_vec());
            }
            all.iter().for_each(|(key, one)| tables(one, &below(key), found));
        }
        _ => {}
    }
}

/// The table gets another entry, under this key: what one of its entries is. Only a table that is open to any key takes it.
fn put_key(value: &mut Value, at: &[String], text: &str, which: usize) -> bool {
    let Some((first, rest)) = at.split_first() else {
        let Value::Table(all) = value else { return false };
        let Some(entry) = all.values().nth(which).cloned() else { return false };
        return all.insert(text.into(), entry).is_none();
    };
    match value {
        Value::Array(all) => put_key(&mut all[first.parse::<usize>().unwrap()], rest, text, which),
        Value::Table(all) => put_key(all.get_mut(first).unwrap(), rest, text, which),
        _ => false,
    }
}

fn put(value: &mut Value, at: &[String], text: &str) {
    let Some((first, rest)) = at.split_first() else {
        *value = Value::String(text.into());
        return;
    };
    match value {
        Value::Array(all) => put(&mut all[first.parse::<usize>().unwrap()], rest, text),
        Value::Table(all) => put(all.get_mut(first).unwrap(), rest, text),
        _ => {}
    }
}

/// `inventories/full.toml`, which has every field (a test in `inventory::fields` holds that), with those that are
/// commented out, and with what ironstrap itself reads of other programs' tables.
fn full() -> Value {
    let text = fs::read_to_string("inventories/full.toml").unwrap();
    let mut value: Value = toml::from_str::<toml::Table>(&text).unwrap().into();
    let of = |text: &str| Value::Table(toml::from_str(text).unwrap());
    let root = value.as_table_mut().unwrap();
    let mut add = |table: &str, key: &str, more: Value| {
        let table = root.entry(table).or_insert_with(|| of("")).as_table_mut().unwrap();
        table.entry(key).or_insert(more);
    };
    add("kubeadm", "etcd", of("local = { dataDir = '/srv/etcd' }"));
    add("kubelet", "resolvConf", Value::String("/etc/resolv.conf".into()));
    value
}

fn read(value: &Value) -> Option<Cluster> {
    inventory::parse(&toml::to_string(value).unwrap(), Path::new("inventories/full.toml")).ok()
}

/// Puts this text as a key into each table that may have it; how many have.
fn keys(value: &mut Value, text: &str) -> usize {
    let (mut found, mut taken) = (Vec::new(), 0);
    tables(value, &[], &mut found);
    for place in found {
        let before = value.clone();
        for which in 0.. {
            *value = before.clone();
            if !put_key(value, &place, text, which) {
                break;
            }
            if read(value).is_some() {
                taken += 1;
                break;
            }
        }
        if read(value).is_none() {
            *value = before;
        }
    }
    taken
}

/// The cluster of an inventory in which each string is this text that may be, and how many are.
fn hostile(text: &str) -> (Cluster, usize) {
    let (mut value, mut found) = (full(), Vec::new());
    places(&value, &[], &mut found);
    assert!(found.len() > 40, "only {} strings", found.len());
    let mut taken = 0;
    for place in found {
        let before = value.clone();
        put(&mut value, &place, text);
        match read(&value) {
            Some(_) => taken += 1,
            None => value = before,
        }
    }
    // A fleet of each role, also where the inventory's own nodes are few.
    let open = keys(&mut value, text);
    assert!(open > 2, "only {open} tables take it as a key");
    (read(&value).unwrap(), taken)
}

/// Objects with this text in each place that takes it; of a manifest that asks for more than there is.
fn manifest(text: &str) -> Vec<serde_json::Value> {
    let plain = serde_json::json!({
        "apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "a", "namespace": "b", "labels": {"c": "d"}},
        "spec": {"e": ["f"]},
    });
    let mut all = Vec::new();
    let kinds = [
        ("v1", "Secret"),
        ("apps/v1", "DaemonSet"),
        ("apps/v1", "Deployment"),
        ("batch/v1", "Job"),
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
        ("v1", "ConfigMap"),
    ];
    for (version, kind) in kinds {
        let mut object = plain.clone();
        (object["apiVersion"], object["kind"]) = (version.into(), kind.into());
        let pointers = [
            "/apiVersion",
            "/kind",
            "/metadata/name",
            "/metadata/namespace",
            "/metadata/labels/c",
            "/spec/e/0",
        ];
        for pointer in pointers {
            let before = object.clone();
            *object.pointer_mut(pointer).unwrap() = text.into();
            let yaml = serde_json::to_string(&object).unwrap();
            let (read, wrong) = inventory::objects(&yaml, "manifest");
            if read.is_none() || !wrong.is_empty() {
                object = before;
            }
        }
        for pointer in ["/metadata/labels", "/spec", "/metadata"] {
            let mut with_key = object.clone();
            with_key.pointer_mut(pointer).unwrap()[text] = "f".into();
            let (read, wrong) = inventory::objects(&serde_json::to_string(&with_key).unwrap(), "manifest");
            if read.is_some() && wrong.is_empty() {
                object = with_key;
            }
        }
        all.push(object);
    }
    all
}

/// Everything that a machine and the API server say of themselves.
fn liar(cluster: &Cluster, text: &str) -> (Machine, Fleet) {
    let has =
        ["kubelet.conf", "client-certificate", "manifests/kube-apiserver.yaml", "etcd", "flannel", "receipt"];
    let all: BTreeSet<String> = cluster.nodes.iter().map(|node| node.name.clone()).collect();
    let machine = Machine {
        os: text.into(),
        hostname: text.into(),
        busy: vec![text.into()],
        lease: Some(Lease { epoch: 7, run: text.into(), owner: text.into(), ..Lease::default() }),
        has: has.map(String::from).into_iter().chain([text.to_string()]).collect(),
        authorities: vec![(text.into(), text.into())],
        identity: [("name".to_string(), text.to_string())].into(),
        ..Machine::default()
    };
    let fleet = Fleet {
        init_node: cluster.nodes[0].name.clone(),
        exists: true,
        joining: all.clone(),
        unregistered: all.clone(),
        ranges: [text.to_string(), "10.0.0.0/24".to_string()].into(),
        unmanaged_nodes: [text.to_string()].into(),
        ..Fleet::default()
    };
    (machine, fleet)
}

/// Scripts as they are sent, and what they carry to be run on the machine later.
#[derive(Default)]
struct Scripts(BTreeMap<String, String>);

impl Scripts {
    fn whole(&mut self, script: &Sh, what: &str) {
        self.0.entry(script.to_string()).or_insert_with(|| what.to_string());
    }

    /// A part by itself, so that nothing that fails before keeps it from being run.
    fn part(&mut self, script: &Sh, what: &str) {
        let lib = ["lib", "undo"].map(|name| fs::read_to_string(format!("templates/{name}.sh")).unwrap());
        let text = format!("{PRELUDE}cd /\nWAIT_TIMEOUT=1\n{}\n(\n{script}\n)\n", lib.join("\n"));
        self.0.entry(text).or_insert_with(|| what.to_string());
    }

    fn wants(&mut self, wants: &[(&'static Step, Want)], text: &str, run: &Run) {
        for (step, want) in wants {
            if let Some(ask) = want.ask.shell() {
                self.part(ask, &want.that);
            }
            let unknown = Answer::Unknown("nobody asked".into());
            let mut change = plan::changes(&[(step, want, &unknown)], &mut BTreeSet::new()).remove(0);
            (change.answer, change.want) = (Answer::Said(text.into()), text.into());
            let lease = Lease { run: text.into(), owner: text.into(), ..Lease::default() };
            self.whole(&ledger::fix(run, Some(&lease), &[&change], BOUNDARY), &want.that);
            if let Fix::Run(script) | Fix::Unit { script, .. } = &want.fix {
                self.part(script, &want.that);
            }
            if let Some((_, plan::Keep::Answer(keep))) = &change.keeps {
                self.part(keep, &want.that);
            }
        }
    }
}

/// Every script that there is of this cluster, where all who may say something say this.
fn scripts(cluster: &Cluster, text: &str) -> Scripts {
    let (pki, now) = (pki(cluster), OffsetDateTime::now_utc());
    let mut scripts = Scripts::default();
    let run = Run { wait: 1, ..Run::new(text, text) };
    let (machine, mut fleet) = liar(cluster, text);
    for (i, node) in cluster.nodes.iter().enumerate() {
        for newcomer in [true, false] {
            let stranger = Machine::default();
            let about = if newcomer { &stranger } else { &machine };
            fleet.exists = !newcomer;
            let cx = Cx { cluster, node, pki: &pki, now, machine: about, fleet: &fleet };
            let mut asks: Vec<Ask> = Vec::new();
            for stage in STAGES.iter().filter(|stage| stage.is_asked_of(node)) {
                for step in stage.steps {
                    let wants: Vec<_> =
                        (step.wants)(&cx).unwrap().into_iter().map(|want| (step, want)).collect();
                    asks.extend(wants.iter().map(|(_, want)| want.ask.clone()));
                    scripts.wants(&wants, text, &run);
                }
            }
            for stage in reset::stages().iter().filter(|stage| stage.is_asked_of(node)) {
                scripts.wants(&reset::wants(stage, &cx).unwrap(), text, &run);
            }
            let removal = Removal { node: node.name.clone(), force: i == 0, drain_seconds: 1 };
            scripts.wants(&remove::wants(&removal, &cx), text, &run);
            asks.extend(status::questions(cluster, node).into_iter().map(|(_, ask)| ask));
            scripts.whole(
                &probe::script(&asks.iter().collect::<Vec<_>>(), BOUNDARY, cluster.etcd_dir()),
                "the probe",
            );
        }
        tried(&mut scripts, cluster, node, text);
    }
    scripts.whole(&ledger::take(&run, None), "take");
    scripts.whole(&ledger::release(&run), "release");
    scripts.whole(&ledger::cleanup_run_dir(&run), "cleanup_run_dir");
    scripts.whole(&ledger::attach(text, BOUNDARY), "attach");
    scripts.whole(&diagnosis::script(Duration::from_secs(1), cluster.etcd_dir()), "diagnosis");
    scripts
}

fn tried(scripts: &mut Scripts, cluster: &Cluster, node: &Node, text: &str) {
    let all: BTreeSet<String> = cluster.nodes.iter().map(|node| node.name.clone()).collect();
    let said = format!("1f up tcp 6443\n1f firewall {text}\n1f {text}\n1f ready\n");
    let listening = all.iter().map(|name| (name.clone(), reach::Listening::read(&said, "1f"))).collect();
    let ways = reach::probes(cluster, &all, &all);
    let round = reach::Round { nonce: "1f".into(), probes: ways, joining: all, listening };
    let asks = active_checks::alone(cluster, node, true).into_iter().chain(reach::ask(cluster, node, &round));
    for ask in asks {
        if let Some(ask) = ask.shell() {
            scripts.part(ask, "a trial");
        }
    }
    scripts.whole(&reach::listen(node, &round), "listen");
    scripts.whole(&reach::end(node, &round), "end");
}

/// A folder that stands for a machine.
struct Cage(tempfile::TempDir);

/// They only read and write what they are given.
const REAL: &[&str] = &[
    "awk",
    "base64",
    "basename",
    "bash",
    "cat",
    "cut",
    "date",
    "dirname",
    "grep",
    "head",
    "mkdir",
    "mktemp",
    "od",
    "printf",
    "sed",
    "seq",
    "sh",
    "sha256sum",
    "sort",
    "tail",
    "tr",
    "uniq",
    "wc",
];
/// They say what others wrote.
const SAY: &[&str] = &[
    "apt-cache",
    "apt-get",
    "apt-mark",
    "containerd",
    "crictl",
    "ctr",
    "df",
    "dpkg",
    "dpkg-query",
    "du",
    "find",
    "findmnt",
    "getent",
    "id",
    "ip",
    "ip6tables-nft-save",
    "ip6tables-save",
    "iptables-nft-save",
    "iptables-save",
    "journalctl",
    "kubeadm",
    "kubectl",
    "ls",
    "lsblk",
    "md5sum",
    "nft",
    "nproc",
    "perl",
    "pgrep",
    "readlink",
    "ss",
    "stat",
    "sysctl",
    "systemctl",
    "uname",
    "zcat",
];
/// They do nothing.
const MUTE: &[&str] = &[
    "apt-config",
    "chmod",
    "chown",
    "chroot",
    "cmp",
    "cp",
    "dd",
    "flock",
    "ip6tables-nft-restore",
    "ip6tables-restore",
    "iptables-nft-restore",
    "iptables-restore",
    "kill",
    "ln",
    "modprobe",
    "mount",
    "mountpoint",
    "mv",
    "rm",
    "rmdir",
    "rmmod",
    "sleep",
    "swapoff",
    "swapon",
    "sync",
    "systemd-run",
    "touch",
    "umount",
    "xargs",
];

impl Cage {
    fn new(text: &str) -> Cage {
        let cage = Cage(tempfile::tempdir().unwrap());
        for dir in [
            "bin",
            "run/ironstrap",
            "var/lib/ironstrap/before",
            "etc/kubernetes/manifests",
            "etc/kubernetes/pki",
        ] {
            fs::create_dir_all(cage.path(dir)).unwrap();
        }
        for file in ["etc/kubernetes/manifests/kube-apiserver.yaml", "etc/kubernetes/manifests/etcd.yaml"] {
            fs::write(cage.path(file), "").unwrap();
        }
        for file in
            ["etc/kubernetes/admin.conf", "etc/kubernetes/kubelet.conf", "var/lib/ironstrap/kubeadm-receipt"]
        {
            fs::write(cage.path(file), text).unwrap();
        }
        // A lock is compared with the open file.
        fs::create_dir_all(cage.path("proc")).unwrap();
        symlink("/proc/self", cage.path("proc/self")).unwrap();
        fs::create_dir_all(cage.path("run/flannel")).unwrap();
        let subnets = format!("FLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_IPV6_SUBNET={LINE}\n");
        fs::write(cage.path("run/flannel/subnet.env"), subnets).unwrap();
        fs::write(cage.path("said"), format!("{text}\n{LINE} {LINE}\n")).unwrap();
        let dash = which::which("dash").or(which::which("sh")).unwrap();
        let stub = |name: &str, does: &str| {
            let path = cage.path(&format!("bin/{name}"));
            fs::write(&path, format!("#!{}\n{does}\n", dash.display())).unwrap();
            fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        };
        for name in REAL {
            symlink(which::which(name).unwrap(), cage.path(&format!("bin/{name}"))).unwrap();
        }
        let said = format!("while IFS= read -r l; do echo \"$l\"; done <{}", cage.path("said").display());
        SAY.iter().for_each(|name| stub(name, &said));
        MUTE.iter().for_each(|name| stub(name, ":"));
        stub("timeout", "while :; do case $1 in -*) shift ;; *) shift; break ;; esac; done; exec \"$@\"");
        stub("canary", &format!(": >{}", cage.path("sang").display()));
        cage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn moved(&self, script: &str) -> String {
        let root = self.0.path().display().to_string();
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let script = script.replace(path, &format!("PATH={root}/bin"));
        let script =
            script.replace("cd /\n", &format!("cd {root}\n")).replace("cd / ||", &format!("cd {root} ||"));
        ["/etc/", "/run/", "/var/", "/opt/", "/usr/", "/proc/", "/sys/", "/boot/"]
            .iter()
            .fold(script, |script, dir| script.replace(dir, &format!("{root}{dir}")))
    }

    /// Whether something ran that should not have.
    fn sings(&self, shell: &str, script: &str) -> bool {
        let bin = self.path("bin");
        let mut command = Command::new(which::which("timeout").unwrap());
        command
            .args(["-s", "KILL", "3"])
            .arg(which::which(shell).unwrap())
            .arg("-s")
            .current_dir(self.0.path());
        command.env_clear().env("PATH", format!("{}:/usr/bin:/bin", bin.display()));
        let _ = common::pipe(command.stderr(Stdio::null()), &self.moved(script));
        let sang = self.path("sang").exists();
        let _ = fs::remove_file(self.path("sang"));
        sang
    }
}

fn ends(scripts: &Scripts) -> BTreeSet<String> {
    let of = |script: &str| -> Vec<String> {
        let ends = script
            .match_indices("<<'")
            .map(|(at, _)| script[at + 3..].split('\'').next().unwrap_or_default());
        ends.map(String::from).collect()
    };
    scripts.0.keys().flat_map(|script| of(script)).collect()
}

/// The cluster with hostile manifests as its addons, and one node of each sort.
fn with_manifests(mut cluster: Cluster, text: &str, network: bool) -> Cluster {
    let objects = manifest(text);
    cluster.addons.push(Addon {
        name: "hostile".into(),
        origin: Origin::File,
        wait: true,
        objects: objects.clone(),
        written: "demo.toml:1".into(),
    });
    if network {
        cluster.network = Network::Manifests(vec![Manifest { path: "hostile.yaml".into(), objects }]);
    }
    let first = cluster.control_planes().next().unwrap().clone();
    let second = Node { name: "m9".into(), ip: "198.18.0.99".parse().unwrap(), ..first.clone() };
    let worker = cluster.nodes.iter().find(|node| !node.is_control_plane()).unwrap().clone();
    // One that begins the cluster, one that joins it, a worker.
    cluster.nodes = vec![first, second, worker];
    cluster
}

#[test]
fn what_others_write_never_runs() {
    let text = toml::to_string(&full()).unwrap();
    let plain =
        inventory::parse(&text, Path::new("inventories/full.toml")).unwrap_or_else(|error| panic!("{error}"));
    let ends = ends(&scripts(&plain, "plain"));
    assert!(ends.len() > 10, "{ends:?}");
    let both = [(LINE.to_string(), false), (lines(&ends), true)];
    std::thread::scope(|threads| {
        for (text, manifests) in both {
            threads.spawn(move || never_runs(&text, manifests));
        }
    });
}

/// With hostile manifests as its network's, too, or with flannel.
fn never_runs(text: &str, manifests: bool) {
    let (cluster, taken) = hostile(text);
    // Paths, and what other programs read: of those a string may be anything.
    assert!(taken > 3, "only {taken} places take it");
    let cage = Cage::new(text);
    let all = scripts(&with_manifests(cluster, text, manifests), text);
    assert!(all.0.len() > 200, "only {} scripts", all.0.len());
    for shell in shells() {
        assert!(cage.sings(shell, "echo \"$(canary)\""), "it can sing");
        let sang = all.0.iter().find(|(script, _)| cage.sings(shell, script));
        assert!(sang.is_none(), "{shell}: {}\n{}", sang.unwrap().1, sang.unwrap().0);
    }
}
