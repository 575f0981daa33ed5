//! Rules for every want of every step, for every inventory of the tests.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use ironstrap::cluster::{Cluster, ETCD_DIR, Node, Role};
use ironstrap::diagnosis::LOGS;
use ironstrap::fleet::Fleet;
use ironstrap::ledger::{self, Run};
use ironstrap::machine::{Lease, Machine};
use ironstrap::openpgp::Keys;
use ironstrap::operations::reset;
use ironstrap::pki::ClusterPki;
use ironstrap::plan::{self, Change};
use ironstrap::probe;
use ironstrap::shell::Sh;
use ironstrap::status;
use ironstrap::step::{Answer, Ask, Cx, Expect, Fix, Step, Undo, Want};
use ironstrap::steps::preflight::kubeadm_checks::{How, PREDICTED};
use ironstrap::steps::{STAGES, Stage};
use time::{Duration, OffsetDateTime};

use crate::support::{self, clusters, fit, lab, new_pki, pipe, pki, sh, shells, wants};

const BOUNDARY: &str = "--0123456789abcdef";

/// Calls `test` with the wants of every node of every inventory. Nothing is known about the machines.
fn each(mut test: impl FnMut(&str, &Node, &[(&'static str, &'static str, Want)])) {
    for (name, cluster) in clusters() {
        let pki = pki(&cluster);
        for node in &cluster.nodes {
            let fleet = Fleet { init_node: cluster.nodes[0].name.clone(), ..Fleet::default() };
            let defaults = (&Machine::default(), &fleet);
            let wants = wants((&cluster, node), &pki, defaults, OffsetDateTime::now_utc());
            assert!(wants.len() > 20, "{name} {}: only {} wants", node.name, wants.len());
            test(&format!("{name} {}", node.name), node, &wants);
        }
    }
}

fn unique<'a>(whose: &str, all: impl Iterator<Item = &'a str>) {
    let mut seen = BTreeSet::new();
    for one in all {
        assert!(seen.insert(one), "{whose}: duplicate: {one}");
    }
}

#[test]
fn wants_of_a_node_have_unique_texts() {
    each(|whose, _, wants| unique(whose, wants.iter().map(|(.., want)| want.that.as_str())));
}

/// Users' programs refer to wants by name. A name that disappears from this list breaks them.
#[test]
fn the_names_of_wants_do_not_change() {
    let mut names = BTreeSet::new();
    each(|whose, _, wants| {
        let ids: Vec<String> = wants.iter().map(|(.., want)| want.id.to_string()).collect();
        unique(whose, ids.iter().map(String::as_str));
        names.extend(wants.iter().map(|(.., want)| want.id.name));
    });
    each_back(|whose, _, wants| {
        let ids: Vec<String> = wants.iter().map(|(_, want)| want.id.to_string()).collect();
        unique(whose, ids.iter().map(String::as_str));
        names.extend(wants.iter().map(|(_, want)| want.id.name));
    });
    for name in &names {
        let part = |part: &str| {
            !part.is_empty() && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        };
        let (area, what) = name.split_once('.').unwrap_or_default();
        assert!(part(area) && part(what), "{name}");
    }
    let list: Vec<&str> = names.into_iter().collect();
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../golden");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!("names", list.join("\n")));
}

#[test]
fn each_file_is_written_by_one_want_only() {
    each(|whose, _, wants| {
        let path = |(.., want): &'_ (_, _, Want)| match &want.fix {
            Fix::Write { path, .. } => Some(path.clone()),
            _ => None,
        };
        let paths: Vec<String> = wants.iter().filter_map(path).collect();
        assert!(paths.len() > 4);
        unique(whose, paths.iter().map(String::as_str));
    });
}

#[test]
fn protect_kernel_defaults_adds_kernel_wants() {
    let mut cluster = clusters().remove(0).1;
    let about = |cluster: &Cluster| -> String {
        let defaults = (&Machine::default(), &Fleet::default());
        let wants = wants((cluster, &cluster.nodes[0]), &pki(cluster), defaults, OffsetDateTime::now_utc());
        wants.iter().map(|(.., want)| format!("{}\n{:?}\n", want.that, want.fix)).collect()
    };
    assert!(!about(&cluster).contains("kernel.panic"), "by default the kubelet sets them itself");
    cluster.kubelet.insert("protectKernelDefaults".into(), true.into());
    let wanted = about(&cluster);
    assert!(wanted.contains("\nkernel.panic is 10\n"), "at run time: {wanted}");
    assert!(wanted.contains("kernel.panic = 10"), "at boot: {wanted}");
}

/// A machine and a fleet that differ from the defaults in every field.
fn running(cluster: &Cluster, node: &Node) -> (Machine, Fleet) {
    let has = ["kubelet.conf", "client-certificate", "manifests/kube-apiserver.yaml", "etcd"];
    let machine = Machine {
        os: "debian".into(),
        codename: "bookworm".into(),
        arch: "aarch64".into(),
        uid: 1000,
        clock: 1.7e9,
        cpus: 64,
        memory: 1 << 28,
        hostname: "elsewhere".into(),
        init: "systemd".into(),
        busy: vec!["kubeadm".into()],
        lease: Some(Lease { epoch: 7, owner: "alice@desk".into(), ..Lease::default() }),
        has: has.map(String::from).into(),
        ..Machine::default()
    };
    let all: BTreeSet<String> = cluster.nodes.iter().map(|node| node.name.clone()).collect();
    let fleet = Fleet {
        init_node: node.name.clone(),
        exists: true,
        joining: all.clone(),
        joining_started: all.clone(),
        unreachable: all.clone(),
        unregistered: all.clone(),
        unserved: all.clone(),
        kubelets: all.iter().map(|name| (name.clone(), i64::MAX)).collect(),
        kubelets_run: all.iter().map(|name| (name.clone(), "{}".into())).collect(),
        kubelets_stale: all.clone(),
        stale: BTreeSet::new(),
        tunnels: BTreeSet::new(),
        ranges: BTreeSet::new(),
        unmanaged_nodes: ["stranger".to_string()].into(),
        quarantined: all.clone(),
        pending: all,
        package_key: Keys::read(include_str!("../keys/other.asc")).ok(),
        shown_keys: BTreeMap::new(),
    };
    (machine, fleet)
}

#[test]
fn asks_depend_on_the_inventory_alone() {
    for (name, cluster) in clusters() {
        let (one, other) = (pki(&cluster), new_pki(&cluster));
        assert_ne!(one.ca.key, other.ca.key);
        for node in &cluster.nodes {
            let now = OffsetDateTime::now_utc();
            let asks = |pki: &ClusterPki, machine: &Machine, fleet: &Fleet, now| -> Vec<Ask> {
                let wants = wants((&cluster, node), pki, (machine, fleet), now);
                wants.into_iter().map(|(.., want)| want.ask).collect()
            };
            let first = asks(&one, &Machine::default(), &Fleet::default(), now);
            let (machine, fleet) = running(&cluster, node);
            for (what, asks) in [
                ("trust", asks(&other, &Machine::default(), &Fleet::default(), now)),
                ("machine", asks(&one, &machine, &Fleet::default(), now)),
                ("fleet", asks(&one, &Machine::default(), &fleet, now)),
                ("time", asks(&one, &Machine::default(), &Fleet::default(), now + Duration::days(700))),
                ("all", asks(&other, &machine, &fleet, now + Duration::days(700))),
            ] {
                assert_eq!(first, asks, "{name} {}: the asks depend on the {what}", node.name);
            }
        }
    }
}

#[path = "../kernel/rows.rs"]
mod kernel_rows;

/// The lane that uses these rows is slow. This test finds a wrong name early.
#[test]
fn kernel_test_rows_name_existing_wants() {
    let mut cluster = support::lab();
    cluster.kubelet.insert("protectKernelDefaults".into(), true.into());
    let (pki, fleet) = (pki(&cluster), Fleet::default());
    let defaults = (&Machine::default(), &fleet);
    let wants = wants((&cluster, &cluster.nodes[0]), &pki, defaults, OffsetDateTime::now_utc());
    let ids: BTreeSet<_> =
        wants.iter().map(|(_, step, want)| (step.to_string(), want.id.to_string())).collect();
    let rows = kernel_rows::LIVE.iter().flat_map(|row| row.shows.iter().map(|shows| (row.breaks, shows)));
    for (breaks, (step, id)) in
        rows.chain(kernel_rows::AT_BOOT_EXPECTED.iter().map(|it| (kernel_rows::AT_BOOT, it)))
    {
        assert!(
            ids.contains(&(step.to_string(), id.to_string())),
            "{breaks}: there is no want {id} of {step}"
        );
    }
}

#[test]
fn texts_of_wants_follow_the_house_style() {
    each(|whose, node, wants| {
        for (_, _, want) in wants {
            let that = &want.that;
            assert!(!that.is_empty() && that.trim() == that && !that.contains('\n'), "{whose}: {that:?}");
            assert!(!that.ends_with(['.', '!', '?', ':']), "{whose}: ends like a sentence: {that}");
            // The kind of an object begins with a capital letter.
            let is_kind = matches!(&want.ask, Ask::Objects(objects) if that.starts_with(&objects[0].kind));
            let lower = that.starts_with(|c: char| c.is_lowercase() || c.is_ascii_digit());
            assert!(lower || is_kind || that.starts_with(&node.name), "{whose}: {that}");
            if let Fix::ByHand(hint) = &want.fix {
                assert!(!hint.is_empty() && !hint.ends_with('.'), "{whose}: {that}: {hint}");
            }
        }
    });
    unique("steps", STAGES.iter().flat_map(|stage| stage.steps).map(|step| step.name));
    unique("stages", STAGES.iter().map(|stage| stage.name));
    for step in STAGES.iter().flat_map(|stage| stage.steps) {
        assert!(!step.why.is_empty() && !step.why.ends_with('.'), "{}: {}", step.name, step.why);
        assert!(step.why.starts_with(char::is_lowercase) || step.why.starts_with("kube"), "{}", step.why);
    }
}

#[test]
fn a_diagnosis_reads_the_log_of_every_unit() {
    let mut units = BTreeSet::new();
    each(|_, _, wants| {
        units.extend(wants.iter().filter_map(|(.., want)| match want.fix {
            Fix::Unit { name, .. } => Some(name),
            _ => None,
        }));
    });
    // The only unit of `remove`, which is not part of the steps.
    units.insert("drain");
    assert_eq!(units, BTreeSet::from(LOGS));
}

/// Each want as a change, as if its state were unknown.
fn as_changes(node: &Node, wants: &[(&'static str, &'static str, Want)]) -> Vec<(&'static str, Change)> {
    let steps = STAGES.iter().filter(|stage| stage.is_asked_of(node)).flat_map(|stage| stage.steps);
    let steps: BTreeMap<&str, &'static ironstrap::step::Step> = steps.map(|step| (step.name, step)).collect();
    let unknown = Answer::Unknown("nobody asked".into());
    let change = |(stage, step, want): &(&'static str, &'static str, Want)| {
        (*stage, plan::changes(&[(steps[step], want, &unknown)], &mut BTreeSet::new()).remove(0))
    };
    wants.iter().map(change).collect()
}

#[test]
fn each_backup_has_a_unique_name() {
    each(|whose, node, wants| {
        let changes = as_changes(node, wants);
        let keys = changes.iter().filter_map(|(_, change)| Some(change.keeps.as_ref()?.0.as_str()));
        let keys: Vec<&str> = keys.collect();
        unique(whose, keys.iter().copied());
        assert!(keys.len() > 15, "{whose}: {keys:?}");
        for key in keys {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
            assert!(key.chars().all(plain), "{key}");
            // The file name also has a prefix and an ending.
            assert!(key.len() < 240, "too long for a file name: {key}");
        }
    });
}

#[test]
fn every_fix_has_an_undo_or_a_reason_for_none() {
    each(|whose, _, wants| {
        for (.., want) in wants {
            match &want.undo {
                Undo::Nothing("") => {
                    let does = !matches!(want.fix, Fix::FromPrevious | Fix::ByHand(_));
                    assert!(!does, "{whose}: no undo and no reason for none: {}", want.that);
                }
                Undo::Nothing(why) => assert!(!why.ends_with('.'), "{whose}: {why}"),
                // The undo restores the file that the fix writes.
                Undo::File(path) | Undo::Edit { path, .. } => {
                    let writes = if let Fix::Write { path, .. } = &want.fix { path } else { path };
                    assert_eq!(writes, path, "{whose}: {}", want.that);
                }
                Undo::Back(back) => assert!(!back.script.is_empty() && !back.that.is_empty(), "{whose}"),
                Undo::OfReset => panic!("{whose}: this is not a reset: {}", want.that),
            }
        }
    });
}

/// Calls `test` with every stage of a reset and its wants.
fn each_back(mut test: impl FnMut(&str, &Stage, &[(&'static Step, Want)])) {
    for (name, cluster) in clusters() {
        let (pki, now) = (pki(&cluster), OffsetDateTime::now_utc());
        for node in &cluster.nodes {
            let (machine, fleet) = Default::default();
            let cx = Cx { cluster: &cluster, node, pki: &pki, now, machine: &machine, fleet: &fleet };
            for stage in reset::stages().iter().filter(|stage| stage.is_asked_of(node)) {
                test(&format!("{name} {}", node.name), stage, &reset::wants(stage, &cx).unwrap());
            }
        }
    }
}

#[test]
fn a_reset_keeps_no_backups_and_shows_no_secret() {
    let mut wants = 0;
    each_back(|whose, _, back| {
        for (_, want) in back {
            assert!(matches!(want.undo, Undo::OfReset), "{whose}: {}", want.that);
            let shown = |ask: &str| ask.lines().any(|line| line.contains("cat <") && line.contains(".key"));
            assert!(!want.ask.shell().is_some_and(|ask| shown(ask)), "{whose}: {}", want.that);
        }
        wants += back.len();
    });
    assert!(wants > 100, "only {wants} wants");
}

#[test]
fn every_reset_script_can_be_parsed_by_every_shell() {
    let run = Run::new("1f", "me@here");
    let mut scripts: BTreeMap<Sh, String> = BTreeMap::new();
    each_back(|whose, stage, back| {
        let unknown = Answer::Unknown("nobody asked".into());
        let judged: Vec<plan::Answered> = back.iter().map(|(step, want)| (*step, want, &unknown)).collect();
        let changes = plan::changes(&judged, &mut Default::default());
        let script = ledger::fix(&run, None, &changes.iter().collect::<Vec<_>>(), BOUNDARY);
        scripts.entry(script).or_insert(format!("{whose}: {}", stage.name));
        for (_, want) in back {
            if let Some(ask) = want.ask.shell() {
                scripts
                    .entry(sh(format!("( set -eu\n{ask}\n)\n")))
                    .or_insert(format!("{whose}: {}", want.that));
            }
            if let Fix::Run(script) | Fix::Unit { script, .. } = &want.fix {
                scripts.entry(sh(format!("{{\n{script}\n}}\n"))).or_insert(format!("{whose}: {}", want.that));
            }
        }
    });
    scripts.insert(ledger::cleanup_run_dir(&run), "cleanup_run_dir".into());
    assert!(scripts.len() > 60, "only {} scripts", scripts.len());
    for shell in shells() {
        for (script, what) in &scripts {
            let output = pipe(Command::new(shell).arg("-n"), script);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && said.is_empty(), "{shell}: {what}: {said}\n{script}");
        }
    }
}

#[test]
fn asks_that_call_kubectl_are_marked_as_api_asks() {
    let calls = |ask: &Ask| {
        let is_in =
            |shell: &Sh| ["kubectl() {", "kubectl --", "kubectl get"].iter().any(|call| shell.contains(call));
        ask.shell().is_some_and(is_in)
    };
    let mut found = 0;
    let mut check = |ask: &Ask, what: &str| {
        assert!(!calls(ask) || ask.is_about_api(), "{what}");
        found += usize::from(calls(ask));
    };
    each(|whose, _, wants| {
        wants.iter().for_each(|(.., want)| check(&want.ask, &format!("{whose}: {}", want.id)))
    });
    // Questions about etcd need several control planes.
    let mut planes = lab();
    planes.nodes.iter_mut().for_each(|node| node.role = Role::ControlPlane);
    let about = (&Machine::default(), &Fleet::default());
    for (.., want) in wants((&planes, &planes.nodes[0]), &pki(&planes), about, OffsetDateTime::now_utc()) {
        check(&want.ask, &want.id.to_string());
    }
    for (topic, ask) in status::questions(&planes, &planes.nodes[0]) {
        check(&ask, &format!("{topic:?}"));
    }
    assert!(found > 10, "only {found}");
}

/// The functions that a script defines, and the text of each.
fn functions(script: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let mut rest = script;
    while let Some(at) = rest.find("() {\n") {
        let name = rest[..at].rsplit(['\n', ' ', '\t']).next().unwrap_or_default();
        let body = &rest[at..];
        let end = body.find("\n}").map_or(body.len(), |end| end + 2);
        found.push((name, &body[..end]));
        rest = &rest[at + 4..];
    }
    found
}

/// Fails if a script defines a function twice. The second definition would replace the first, even while that runs.
fn assert_defined_once(script: &str, what: &str) -> usize {
    let mut all: BTreeMap<&str, &str> = BTreeMap::new();
    let functions = functions(script);
    for (name, body) in &functions {
        let first = all.entry(name).or_insert(body);
        assert!(first == body, "{what}: {name} is defined twice");
    }
    functions.len()
}

#[test]
fn no_ask_or_fix_defines_a_function_twice() {
    let (run, mut seen) = (Run::new("1f", "me@here"), 0);
    let fix = |change: &Change| ledger::fix(&run, None, &[change], BOUNDARY);
    each(|whose, node, wants| {
        for ((.., want), (_, change)) in wants.iter().zip(as_changes(node, wants)) {
            let what = format!("{whose}: {}", want.id);
            seen += assert_defined_once(&fix(&change), &what);
            seen += want.ask.shell().map_or(0, |ask| assert_defined_once(ask, &what));
        }
    });
    each_back(|whose, _, back| {
        let unknown = Answer::Unknown("nobody asked".into());
        for (step, want) in back {
            let changes = plan::changes(&[(*step, want, &unknown)], &mut BTreeSet::new());
            let what = format!("{whose}: the reset of {}", want.id);
            seen += changes.iter().map(|change| assert_defined_once(&fix(change), &what)).sum::<usize>();
            seen += want.ask.shell().map_or(0, |ask| assert_defined_once(ask, &what));
        }
    });
    assert!(seen > 1000, "only {seen}");
}

/// Every script that ironstrap sends but for a reset, and each ask and each fix alone, with what it is.
fn scripts() -> BTreeMap<Sh, String> {
    let run = Run::new("1f", "me@here");
    let mut scripts: BTreeMap<Sh, String> = BTreeMap::new();
    let mut note = |script: Sh, what: String| {
        scripts.entry(script).or_insert(what);
    };
    each(|whose, node, wants| {
        let asks: Vec<&Ask> = wants.iter().map(|(.., want)| &want.ask).collect();
        note(probe::script(&asks, BOUNDARY, ETCD_DIR), format!("{whose}: all asks"));
        for (.., want) in wants {
            if let Some(ask) = want.ask.shell() {
                note(sh(format!("( set -eu\n{ask}\n)\n")), format!("{whose}: the ask of: {}", want.that));
            }
            // A shell does not parse a here-document in advance, so its script is checked separately.
            if let Fix::Run(script) | Fix::Unit { script, .. } = &want.fix {
                note(sh(format!("{{\n{script}\n}}\n")), format!("{whose}: the fix of: {}", want.that));
            }
        }
        let changes = as_changes(node, wants);
        for stage in STAGES {
            let of_stage = changes.iter().filter(|(name, _)| *name == stage.name);
            let of_stage: Vec<&Change> = of_stage.map(|(_, change)| change).collect();
            let lease = Lease { epoch: 3, ..Lease::default() };
            note(
                ledger::fix(&run, Some(&lease), &of_stage, BOUNDARY),
                format!("{whose}: fixes of {}", stage.name),
            );
        }
    });
    note(ledger::take(&run, None), "take".into());
    note(ledger::release(&run), "release".into());
    note(ledger::attach("kubeadm", BOUNDARY), "attach".into());
    assert!(scripts.len() > 60, "only {} scripts", scripts.len());
    scripts
}

/// The words that stand alone on a line of a script, outside the text of other programs, and are no functions of the script.
fn unknown_words(script: &str) -> BTreeSet<&str> {
    // `next` is awk's, and the modules stand in a file. The head of a fix that calls `readmit` defines `by_its_certificate`.
    const SHELL: &str = "if then else elif fi do done case esac in while until exit return break continue set shift wait \
        true false cat date id sort sync next overlay br_netfilter nf_conntrack by_its_certificate";
    let is_name = |line: &str| line.len() > 2 && line.bytes().all(|c| c.is_ascii_lowercase() || c == b'_');
    let lone = script.lines().map(str::trim).filter(|line| is_name(line));
    lone.filter(|word| !SHELL.split_whitespace().any(|known| known == *word))
        .filter(|word| !script.lines().any(|line| line.trim_start().starts_with(&format!("{word}() {{"))))
        .collect()
}

#[test]
fn scripts_define_the_functions_that_they_call() {
    // A script of asks also brings functions that only fixes call.
    let (mut seen, mut wrong) = (0, BTreeSet::new());
    for (script, what) in scripts().iter().filter(|(_, what)| what.contains(": fixes of ")) {
        seen += 1;
        wrong.extend(unknown_words(script).into_iter().map(|word| format!("{what}: {word}")));
    }
    assert!(seen > 20, "only {seen} whole scripts");
    assert_eq!(wrong, BTreeSet::new());
    assert_eq!(unknown_words("here() {\n  there\n}\nhere\nexit\n"), BTreeSet::from(["there"]));
}

#[test]
fn every_script_can_be_parsed_by_every_shell() {
    let scripts = scripts();
    for shell in shells() {
        for (script, what) in &scripts {
            let output = pipe(Command::new(shell).arg("-n"), script);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && said.is_empty(), "{shell}: {what}: {said}\n{script}");
        }
    }
}

#[test]
fn a_secret_file_ends_in_a_line_break() {
    // A here-document always ends in a line break. Without one in the text, the hash would never match.
    each(|whose, _, wants| {
        for (.., want) in wants {
            if let (Ask::Hash(_), Fix::Write { text: Some(text), .. }) = (&want.ask, &want.fix) {
                assert!(text.ends_with('\n'), "{whose}: {}", want.that);
            }
        }
    });
}

#[test]
fn no_ask_contains_a_secret() {
    for (name, cluster) in clusters() {
        let pki = pki(&cluster);
        for node in &cluster.nodes {
            let (machine, fleet) = running(&cluster, node);
            for (.., want) in wants((&cluster, node), &pki, (&machine, &fleet), OffsetDateTime::now_utc()) {
                let shown = format!("{:?} {}", want.ask, want.that);
                let right = if let Expect::Is(right) = &want.expect { right.as_str() } else { "" };
                for text in [shown.as_str(), right] {
                    assert!(!text.contains("PRIVATE KEY"), "{name}: {}", want.that);
                }
            }
        }
    }
}

#[test]
fn downloads_use_the_proxy_of_the_inventory() {
    let (_, cluster) = clusters().into_iter().find(|(name, _)| *name == "full").unwrap();
    let (pki, fleet) = (pki(&cluster), Fleet::default());
    assert!(!cluster.proxy.http.is_empty(), "full.toml has a proxy");
    let wants =
        wants((&cluster, &cluster.nodes[0]), &pki, (&Machine::default(), &fleet), OffsetDateTime::now_utc());
    let scripts = wants.iter().filter_map(|(.., want)| match &want.fix {
        Fix::Run(script) | Fix::Unit { script, .. } => Some(script),
        _ => None,
    });
    let fetching: Vec<&Sh> =
        scripts.filter(|s| s.contains("apt_get update") || s.contains("apt-helper")).collect();
    assert!(fetching.len() >= 2, "{fetching:?}");
    for script in fetching {
        let export = format!("export http_proxy='{}'\n", cluster.proxy.http);
        let first = script.find("apt").unwrap();
        assert!(script.find(&export).is_some_and(|at| at < first), "{script}");
        assert!(script.contains("export no_proxy=") && script.contains(&cluster.nodes[0].ip.to_string()));
    }
    let containerd = wants.iter().any(|(.., want)| want.id.to_string() == "runtime.proxy");
    assert!(containerd, "containerd pulls images through it too");
}

#[test]
fn the_node_of_a_half_joined_machine_is_kept() {
    let (_, cluster) = clusters().into_iter().find(|(name, _)| *name == "lab").unwrap();
    let pki = pki(&cluster);
    let verdict = |half_joined: &[&str]| {
        let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
        let (joining, half_joined) = (names(&["w1"]), names(half_joined));
        let fleet = Fleet {
            init_node: "m1".into(),
            exists: true,
            joining,
            joining_started: half_joined,
            ..Fleet::default()
        };
        let wants = wants(
            (&cluster, &cluster.nodes[0]),
            &pki,
            (&Machine::default(), &fleet),
            OffsetDateTime::now_utc(),
        );
        let want =
            wants.into_iter().find(|(.., want)| want.id.to_string() == "bootstrap.earlier-machine[w1]");
        support::verdict(&want.unwrap().2, "{\"kind\": \"Node\"}")
    };
    assert!(
        matches!(verdict(&[]), ironstrap::step::Verdict::Differs { .. }),
        "reinstalled: its old Node goes"
    );
    assert_eq!(verdict(&["w1"]), ironstrap::step::Verdict::Holds, "killed while it joined: its Node stays");
}

/// The verdict of a want about an answer. The machine is a member.
fn judged(node: usize, fleet: &Fleet, id: &str, answer: &str) -> ironstrap::step::Verdict {
    let (_, cluster) = clusters().into_iter().find(|(name, _)| *name == "lab").unwrap();
    let pki = pki(&cluster);
    let machine = Machine { has: ["client-certificate".to_string()].into(), ..Machine::default() };
    let wants = wants((&cluster, &cluster.nodes[node]), &pki, (&machine, fleet), OffsetDateTime::now_utc());
    let want = wants.into_iter().find(|(.., want)| want.id.to_string() == id).unwrap().2;
    support::verdict(&want, answer)
}

#[test]
fn a_member_without_a_node_must_register_first() {
    use ironstrap::step::Verdict::{Differs, Holds, Waits};
    let known = Fleet { init_node: "m1".into(), exists: true, ..Fleet::default() };
    let gone = Fleet { unregistered: ["w1".to_string()].into(), ..known.clone() };
    let registers = "member.node-object";
    assert_eq!(judged(1, &known, registers, ""), Holds);
    assert!(matches!(judged(1, &gone, registers, ""), Differs { .. }));
    assert!(matches!(judged(0, &gone, "nodes.ready[w1]", "absent"), Waits { .. }));
    assert!(matches!(judged(0, &known, "nodes.ready[w1]", "absent"), Differs { .. }));
}

#[test]
fn deliberate_changes_are_only_noted() {
    use ironstrap::step::Verdict::{Holds, Noted};
    let fleet = Fleet::default();
    let cordoned = |spec: &str| judged(0, &fleet, "nodes.schedulable[w2]", spec);
    assert!(matches!(cordoned(r#"{"spec": {"unschedulable": true}}"#), Noted(words) if words.contains("w2")));
    assert_eq!(cordoned(r#"{"spec": {}}"#), Holds);
    let tainted =
        r#"{"spec": {"unschedulable": true, "taints": [{"key": "repair", "effect": "NoExecute"}]}}"#;
    let both =
        |words: &str| words.contains("w2 is cordoned") && words.ends_with("inventory: repair:NoExecute");
    assert!(matches!(cordoned(tainted), Noted(words) if both(&words)));
    let tainted = tainted.replace("true", "false");
    assert!(matches!(cordoned(&tainted), Noted(words) if words.starts_with("w2 has a taint")));
    let strange = "nodes.unmanaged";
    assert_eq!(judged(0, &fleet, strange, "m1\nw1\nw2\n"), Holds);
    assert!(matches!(judged(0, &fleet, strange, "m1\nx9\n"), Noted(words) if words.ends_with(": x9")));
}

#[test]
fn untested_kernels_and_missing_options_are_noted() {
    use ironstrap::step::Verdict::{Holds, Noted};
    let about = |id: &str, answer: &str| judged(0, &Fleet::default(), id, answer);
    for release in
        ["5.4.0-216-generic", "5.10.0-36-amd64", "5.15.0-1", "6.1.0", "6.12.41+deb13-amd64", "7.0.1"]
    {
        assert_eq!(about("preflight.kernel-version", release), Holds, "{release}");
    }
    for release in ["4.19.0-27-amd64", "5.14.0-503.el9.x86_64", "3.10.0", "unknown"] {
        let verdict = about("preflight.kernel-version", release);
        assert!(matches!(verdict, Noted(words) if words.contains(release)), "{release}");
    }
    let (_, cluster) = clusters().into_iter().find(|(name, _)| *name == "lab").unwrap();
    let all = wants(
        (&cluster, &cluster.nodes[0]),
        &pki(&cluster),
        (&Machine::default(), &Fleet::default()),
        OffsetDateTime::now_utc(),
    );
    let want = all.iter().find(|(.., want)| want.id.to_string() == "preflight.kernel-config").unwrap();
    let whole = fit(&want.2);
    assert_eq!(about("preflight.kernel-config", whole), Holds);
    for key in whole.lines() {
        let without: String =
            whole.lines().filter(|line| *line != key).map(|line| format!("{line}\n")).collect();
        let verdict = about("preflight.kernel-config", &without);
        // The inventory of the lab downgrades this check to a note.
        assert!(
            matches!(&verdict, Noted(words) if words.contains(&format!("CONFIG_{key}"))),
            "{key}: {verdict:?}"
        );
    }
    let other = whole.replace("NETFILTER_XT_TARGET_REDIRECT", "IP_NF_TARGET_REDIRECT");
    assert_eq!(about("preflight.kernel-config", &other), Holds, "either will do");
}

#[test]
fn each_role_checks_only_the_ports_it_needs() {
    let (_, cluster) = clusters().into_iter().find(|(name, _)| *name == "lab").unwrap();
    let ports = |node: usize| {
        let about = (&Machine::default(), &Fleet::default());
        let all = wants((&cluster, &cluster.nodes[node]), &pki(&cluster), about, OffsetDateTime::now_utc());
        let want = all.into_iter().find(|(.., want)| want.id.to_string() == "preflight.ports").unwrap().2;
        let Ask::OnlyBeforeJoin(ask) = want.ask else { panic!() };
        let list = ask.split_once("ports='").unwrap().1.split('\'').next().unwrap();
        list.split(' ').map(|pair| pair.split_once('=').unwrap().1.to_string()).collect::<BTreeSet<String>>()
    };
    let of_all = ["10250", "6443", "10257", "10259", "2379", "2380"].map(String::from);
    assert_eq!((ports(0), ports(1)), (of_all.clone().into(), of_all[..1].iter().cloned().collect()));
}

/// The rows of docs/preflight.md: each check of kubeadm, and how ironstrap deals with it.
fn predicted_rows() -> String {
    let mut rows: Vec<(Vec<&str>, How, &str)> = Vec::new();
    for (check, how, text) in PREDICTED {
        match rows.last_mut() {
            Some((checks, same, about)) if (*same, *about) == (*how, *text) => checks.push(check),
            _ => rows.push((vec![check], *how, text)),
        }
    }
    let row = |(checks, how, text): &(Vec<&str>, How, &str)| {
        let what = match how {
            How::Asked => format!("checked first: {text}"),
            How::EnsuredByStep => format!("fixed first: {text}"),
            How::Tried => format!("tested: `{text}`"),
            How::Never => format!("cannot fail: {text}"),
        };
        let checks: Vec<String> = checks.iter().map(|check| format!("`{check}`")).collect();
        format!("| {} | {what} |\n", checks.join(", "))
    };
    rows.iter().map(row).collect()
}

#[test]
fn every_kubeadm_check_is_predicted() {
    let mut cluster = lab();
    let wanted = |cluster: &Cluster| -> Vec<(&str, String)> {
        let defaults = (&Machine::default(), &Fleet::default());
        let wants = wants((cluster, &cluster.nodes[0]), &pki(cluster), defaults, OffsetDateTime::now_utc());
        wants.into_iter().map(|(stage, _, want)| (stage, want.that)).collect()
    };
    let mut there = wanted(&cluster);
    cluster.pods = "fd00:10::/56".parse().unwrap();
    there.extend(wanted(&cluster));
    unique("kubeadm's checks", PREDICTED.iter().map(|(check, ..)| *check));
    for (check, how, text) in PREDICTED {
        let named = there.iter().filter(|(_, that)| that.starts_with(text));
        let stages: BTreeSet<&str> = named.map(|(stage, _)| *stage).collect();
        match how {
            How::Asked => assert_eq!(stages, ["preflight"].into(), "{check}: {text}"),
            How::EnsuredByStep => assert_eq!(stages, ["prepare"].into(), "{check}: {text}"),
            How::Tried | How::Never => assert!(stages.is_empty(), "{check}: {text}"),
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        assert!(check.chars().all(plain), "ignore-preflight would not take {check}");
    }
    let page = std::fs::read_to_string("docs/preflight.md").unwrap();
    assert!(page.contains(&predicted_rows()), "docs/preflight.md has other rows than\n{}", predicted_rows());
}
