//! Mutates whole inventories. A mistake is reported with its line, and an accepted inventory gives steps and scripts.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use ironstrap::cluster::{Cluster, Node};
use ironstrap::error::Kind;
use ironstrap::fleet::Fleet;
use ironstrap::ledger::{self, Run};
use ironstrap::machine::Machine;
use ironstrap::operations::reset;
use ironstrap::pki::ClusterPki;
use ironstrap::plan;
use ironstrap::probe;
use ironstrap::step::{Answer, Cx, Step, Want};
use ironstrap::steps::STAGES;
use ironstrap::{active_checks, inventory, status};
use time::OffsetDateTime;
use toml::{Table, Value};

use crate::support::{self, fuzz};

const BOUNDARY: &str = "--0123456789abcdef0123456789abcdef";

/// Every inventory of the repository, also those with mistakes. The files that they name are beside the latter.
fn seeds() -> Vec<String> {
    let files = |dir: &str| fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = files("inventories").chain(files("tests/inventories")).collect();
    files.sort();
    let all = files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "toml"));
    let mut all: Vec<String> = all.map(|path| fs::read_to_string(path).unwrap()).collect();
    all.push(RICH.into());
    assert!(all.len() > 60, "only {} inventories", all.len());
    all
}

/// A valid inventory with files, ranges, addons and mirrors. The other inventories have these only beside a mistake.
const RICH: &str = r#"
[cluster]
name = "demo"
kubernetes = "1.35.1"
network = { manifests = ["good.yaml"] }
pods = "10.244.0.0/16"
[kubelet]
evictionHard = { "memory.available" = "200Mi" }
[kubeadm]
apiServer = { extraVolumes = [{ name = "zone", hostPath = "/usr/share/zoneinfo", mountPath = "/z", readOnly = true }] }
[containerd.plugins."io.containerd.grpc.v1.cri"]
max_concurrent_downloads = 6
[registries."docker.io"]
mirrors = ["https://mirror.example:5000"]
ca = "mirror-ca.pem"
[packages]
kubernetes = "https://me:secret-word@packages.example/v{minor}/deb/"
key = "../keys/other.asc"
[proxy]
https = "http://proxy.example:3128"
[addons.a]
manifest = "good.yaml"
[nodes."m[1-3]"]
address = "198.18.0.[11-13]"
role = "control-plane"
taints = []
[nodes."w[01-40]"]
address = "198.18.1.[101-140]"
role = "worker"
labels = { disk = "ssd" }
"#;

/// Valid and invalid strings of inventories.
const WORDS: &[&str] = &[
    "",
    "w[01-40]",
    "w[1-9]",
    "198.18.0.[11-99]",
    "fd00::[1-9]",
    "fd00::1",
    "[fd00::1]:22",
    "0.0.0.0",
    "::",
    "m1",
    "demo",
    "127.0.0.1:65536",
    "a.example.com:0",
    "control-plane",
    "worker",
    "root",
    "none",
    "flannel",
    "1.36.3",
    "1.99.0",
    "v1.36.0-rc.0",
    "10.0.0.0/8",
    "10.0.0.0/0",
    "10.0.0.0/32",
    "fd00::/108",
    "fd00::/0,10.0.0.0/16",
    "https://me:secret-1@a",
    "http://",
    "https://a/{minor}/",
    "key.pub",
    "mirror-ca.pem",
    "good.yaml",
    "broken.yaml",
    ".",
    "/",
    "..",
    "~",
    "~/x",
    "a=b:NoSchedule",
    "a:NoExecute",
    "=",
    "a=",
    "%s",
    "{{ x }}",
    "{minor}",
    "SHA256:uNiVztksCsDhcc0u9e8BrQXVUpKZIDTMczCvj3tD2+s",
    "SHA256:",
    "yes",
    "0644",
    "1e3",
    " x ",
    "a\nb",
    "a\tb",
    "\u{0}",
    "\u{2028}",
    "\u{202e}",
    "é",
    "'",
    "\"",
    "$(x)",
    "\\",
];

/// The paths to all values of a table.
fn places(value: &Value, at: &[String], found: &mut Vec<Vec<String>>) {
    let below = |key: &str| [at, &[key.to_string()]].concat();
    found.push(at.to_vec());
    match value {
        Value::Array(all) => {
            all.iter().enumerate().for_each(|(i, one)| places(one, &below(&i.to_string()), found));
        }
        Value::Table(all) => all.iter().for_each(|(key, one)| places(one, &below(key), found)),
        _ => {}
    }
}

fn at<'a>(mut value: &'a mut Value, place: &[String]) -> Option<&'a mut Value> {
    for key in place {
        value = match value {
            Value::Array(all) => all.get_mut(key.parse::<usize>().ok()?)?,
            Value::Table(all) => all.get_mut(key)?,
            _ => return None,
        };
    }
    Some(value)
}

/// A value of any kind.
fn any(random: &mut fuzz::Random, seeds: &[&str]) -> Value {
    match random.below(9) {
        0 => Value::Integer(random.next() as i64),
        1 => Value::Integer(random.below(70_000) as i64 - 100),
        2 => Value::Float([f64::NAN, f64::INFINITY, -0.0, 1e300, 0.5][random.below(5)]),
        3 => Value::Boolean(random.below(2) == 0),
        4 => Value::Datetime("1979-05-27T07:32:00Z".parse().unwrap()),
        5 => Value::Array(vec![random.one_of(WORDS).into(), random.one_of(WORDS).into()]),
        6 => {
            Value::Table(Table::from_iter([(random.one_of(WORDS).to_string(), random.one_of(WORDS).into())]))
        }
        7 => Value::String(random.text(seeds).chars().take(random.below(90)).collect()),
        _ => random.one_of(WORDS).into(),
    }
}

/// A valid inventory, with a few values changed, added, removed, or copied from another inventory.
fn changed(random: &mut fuzz::Random, right: &[&str], seeds: &[&str]) -> String {
    let parsed = |text: &str| Value::Table(text.parse().unwrap());
    let (mut whole, mut donor) = (parsed(random.one_of(right)), parsed(random.one_of(right)));
    let mut theirs = Vec::new();
    places(&donor, &[], &mut theirs);
    for _ in 0..=random.below(3) {
        let mut all = Vec::new();
        places(&whole, &[], &mut all);
        let there = &all[1 + random.below(all.len() - 1)];
        let from = &theirs[1 + random.below(theirs.len() - 1)];
        match random.below(5) {
            // The same field of another inventory.
            0 => {
                let field = at(&mut donor, from).cloned();
                let (key, table) = from.split_last().unwrap();
                if let (Some(field), Some(Value::Table(table))) = (field, at(&mut whole, table)) {
                    table.insert(key.clone(), field);
                }
            }
            1 => {
                let (key, table) = there.split_last().unwrap();
                if let Some(Value::Table(table)) = at(&mut whole, table) {
                    table.remove(key);
                }
            }
            2 => match at(&mut whole, there).unwrap() {
                Value::Table(table) => drop(table.insert(random.one_of(WORDS).into(), any(random, seeds))),
                Value::Array(list) => list.push(any(random, seeds)),
                value => *value = any(random, seeds),
            },
            _ => match at(&mut whole, there).unwrap() {
                Value::Integer(number) => *number = random.next() as i64 >> random.below(64),
                Value::Boolean(is) => *is = !*is,
                value @ Value::String(_) => *value = random.one_of(WORDS).into(),
                value => *value = any(random, seeds),
            },
        }
    }
    toml::to_string(&whole).unwrap()
}

/// Makes everything that a run needs for a node: the wants of each stage and of a reset, and their scripts.
fn worked_out(cluster: &Cluster, node: &Node, pki: &ClusterPki, fleet: &Fleet) {
    let (machine, now) = (Machine::default(), OffsetDateTime::now_utc());
    let cx = Cx { cluster, node, pki, now, machine: &machine, fleet };
    let mut wants: Vec<(&'static Step, Want)> = Vec::new();
    for stage in STAGES.iter().filter(|stage| stage.is_asked_of(node)) {
        for step in stage.steps {
            wants.extend((step.wants)(&cx).unwrap().into_iter().map(|want| (step, want)));
        }
    }
    let run = Run::new("me", "r1");
    let asks: Vec<_> = wants.iter().map(|(_, want)| &want.ask).collect();
    assert!(probe::script(&asks, BOUNDARY, ironstrap::cluster::ETCD_DIR).to_string().contains(BOUNDARY));
    let unknown = Answer::Unknown("nobody asked".into());
    let answers: Vec<_> = wants.iter().map(|(step, want)| (*step, want, &unknown)).collect();
    let changes = plan::changes(&answers, &mut BTreeSet::new());
    let _ = ledger::fix(&run, None, &changes.iter().collect::<Vec<_>>(), BOUNDARY);
    for stage in reset::stages().iter().filter(|stage| stage.is_asked_of(node)) {
        let _ = reset::wants(stage, &cx).unwrap();
    }
    let _ = (status::questions(cluster, node), active_checks::alone(cluster, node, true));
}

/// Returns whether an error report names the file, and an existing line for each mistake.
fn is_report(text: &str, report: &str) -> bool {
    let lines = text.lines().count().max(1) + 1;
    let places: Vec<&str> =
        report.lines().filter_map(|line| line.trim_start().strip_prefix("--> ")).collect();
    let is_place = |place: &&str| match place.strip_prefix("tests/inventories/demo.toml") {
        Some("") => true,
        Some(rest) => {
            let line = rest.trim_start_matches(':').split(':').next().and_then(|line| line.parse().ok());
            line.is_some_and(|line: usize| (1..=lines).contains(&line))
        }
        None => false,
    };
    !places.is_empty() && places.iter().all(is_place)
}

#[test]
fn a_mutated_inventory_is_rejected_or_usable() {
    let seeds = seeds();
    let seeds: Vec<&str> = seeds.iter().map(String::as_str).collect();
    let path = Path::new("tests/inventories/demo.toml");
    let right: Vec<&str> =
        seeds.iter().copied().filter(|text| inventory::parse(text, path).is_ok()).collect();
    assert!(right.len() > 1, "only {} inventories are right", right.len());
    let make = |random: &mut fuzz::Random| match random.below(4) {
        0 => random.text(&seeds),
        _ => changed(random, &right, &seeds),
    };
    let accepted = std::cell::Cell::new(0);
    fuzz::each(40, make, |text| {
        let cluster = match inventory::parse(text, path) {
            Ok(cluster) => cluster,
            Err(error) => {
                assert_eq!(error.kind, Kind::Inventory);
                assert!(is_report(text, &error.what), "{}", error.what);
                return;
            }
        };
        accepted.set(accepted.get() + 1);
        let (pki, mut fleet) = (support::pki(&cluster), Fleet::default());
        fleet.init_node = cluster.control_planes().next().unwrap().name.clone();
        // With many nodes, also takes the last one. Its name and address come from a range.
        let few = cluster.nodes.iter().take(2).chain(cluster.nodes.iter().skip(2).last());
        few.for_each(|node| worked_out(&cluster, node, &pki, &fleet));
    });
    eprintln!("{} of them were accepted", accepted.get());
}
