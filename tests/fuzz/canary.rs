//! Text of others never runs as shell. The test puts hostile text into each string of an inventory, a manifest, a
//! machine and the API server. It makes every script from these, and runs each in every shell. The hostile text calls
//! the command `canary`, which must never run. The paths of the machine are below a folder, and its commands are
//! scripts that print hostile text, too.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

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

use crate::support::command::command;
use crate::support::{self, pki, shells};

const BOUNDARY: &str = "--0123456789abcdef";
/// Hostile text on one line. It ends quotes of both kinds, and has substitutions that run without quotes. It is valid
/// shell in every place, because a shell that cannot parse a script would run none of it.
const LINE: &str = "x$(canary)`canary`'$(canary)'\\y\"z\"";
/// Words that ended here-documents in earlier versions.
const ENDS: &str = "OBJECTS KUBECONFIG KUBEADM DISCOVERY WAYS SECRET SUBNETS NODE LOCKS";

/// Hostile text on several lines. It has every word that ends a here-document or another part of a script.
fn lines(ends: &BTreeSet<String>) -> String {
    let mut text = format!("{LINE}\n");
    for end in ends.iter().map(String::as_str).chain(ENDS.split(' ')).chain([BOUNDARY, "}", ")"]) {
        text += &format!("{end}\ncanary\n$(canary)\n");
    }
    text + "x"
}

/// Finds every string in a value. A place is the list of keys that leads to it.
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

/// Finds every table that has an entry. A place is the list of keys that leads to it.
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

/// Adds an entry with this key to a table. Its value is a copy of another entry of the table. Returns whether it could.
fn add_key(value: &mut Value, at: &[String], text: &str, which: usize) -> bool {
    let Some((first, rest)) = at.split_first() else {
        let Value::Table(all) = value else { return false };
        let Some(entry) = all.values().nth(which).cloned() else { return false };
        return all.insert(text.into(), entry).is_none();
    };
    match value {
        Value::Array(all) => add_key(&mut all[first.parse::<usize>().unwrap()], rest, text, which),
        Value::Table(all) => add_key(all.get_mut(first).unwrap(), rest, text, which),
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

/// `inventories/full.toml`, which has every field (a test in `inventory::fields` checks that). It gets more fields
/// here: those of other programs' tables that ironstrap itself reads.
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

/// Adds this text as a key to each table that allows it. Returns the number of these tables.
fn add_keys(value: &mut Value, text: &str) -> usize {
    let (mut found, mut taken) = (Vec::new(), 0);
    tables(value, &[], &mut found);
    for place in found {
        let before = value.clone();
        for which in 0.. {
            *value = before.clone();
            if !add_key(value, &place, text, which) {
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

/// The cluster of an inventory in which this text replaces each string that may have it, and the number of these
/// strings.
fn hostile_cluster(text: &str) -> (Cluster, usize) {
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
    // Tables with free keys get this text as a key, too.
    let open = add_keys(&mut value, text);
    assert!(open > 2, "only {open} tables take it as a key");
    (read(&value).unwrap(), taken)
}

/// Objects of a manifest, with this text in each place that allows it.
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

/// A machine and a fleet with this text in everything that a machine and the API server report.
fn lying_machine(cluster: &Cluster, text: &str) -> (Machine, Fleet) {
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

/// The scripts that ironstrap sends, and the parts of them that the machine runs later. The values say what they are
/// for.
#[derive(Default)]
struct Scripts(BTreeMap<String, String>);

impl Scripts {
    fn whole(&mut self, script: &Sh, what: &str) {
        self.0.entry(script.to_string()).or_insert_with(|| what.to_string());
    }

    /// Adds a part by itself. In a whole script, an earlier failure would keep the part from running.
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

/// Every script for this cluster, where the machines and the API server report this text.
fn scripts(cluster: &Cluster, text: &str) -> Scripts {
    let (pki, now) = (pki(cluster), OffsetDateTime::now_utc());
    let mut scripts = Scripts::default();
    let run = Run { wait: 1, ..Run::new(text, text) };
    let (machine, mut fleet) = lying_machine(cluster, text);
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
        active_check_scripts(&mut scripts, cluster, node, text);
    }
    scripts.whole(&ledger::take(&run, None), "take");
    scripts.whole(&ledger::release(&run), "release");
    scripts.whole(&ledger::cleanup_run_dir(&run), "cleanup_run_dir");
    scripts.whole(&ledger::attach(text, BOUNDARY), "attach");
    scripts.whole(&diagnosis::script(Duration::from_secs(1), cluster.etcd_dir()), "diagnosis");
    scripts
}

fn active_check_scripts(scripts: &mut Scripts, cluster: &Cluster, node: &Node, text: &str) {
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

/// Programs that only read and write what they are given. The machine has the real ones.
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
/// Programs whose output others can influence. On the machine, they print hostile text.
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
/// Programs that do nothing on the machine.
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
        let stub = |name: &str, does: &str| {
            command(&cage.path(&format!("bin/{name}")), &format!("{does}\n"));
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

    /// Runs a script. Returns whether the canary ran.
    fn sings(&self, shell: &str, script: &str) -> bool {
        let bin = self.path("bin");
        let mut command = Command::new(which::which("timeout").unwrap());
        command
            .args(["-s", "KILL", "3"])
            .arg(which::which(shell).unwrap())
            .arg("-s")
            .current_dir(self.0.path());
        command.env_clear().env("PATH", format!("{}:/usr/bin:/bin", bin.display()));
        let _ = support::pipe(command.stderr(Stdio::null()), &self.moved(script));
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

/// The cluster with hostile manifests as its addons, and with one node of each kind.
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
    // The init node, a control plane that joins, and a worker.
    cluster.nodes = vec![first, second, worker];
    cluster
}

#[test]
fn hostile_text_never_runs() {
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

/// Runs all scripts with this text. `manifests`: hostile manifests are the network instead of flannel.
fn never_runs(text: &str, manifests: bool) {
    let (cluster, taken) = hostile_cluster(text);
    // Paths, and strings for other programs, can be any text.
    assert!(taken > 3, "only {taken} places take it");
    let cage = Cage::new(text);
    let all = scripts(&with_manifests(cluster, text, manifests), text);
    assert!(all.0.len() > 200, "only {} scripts", all.0.len());
    for shell in shells() {
        assert!(cage.sings(shell, "echo \"$(canary)\""), "the canary can run");
        let sang = all.0.iter().find(|(script, _)| cage.sings(shell, script));
        assert!(sang.is_none(), "{shell}: {}\n{}", sang.unwrap().1, sang.unwrap().0);
    }
}
