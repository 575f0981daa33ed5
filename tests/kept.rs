//! What an older ironstrap kept on its machines, as this one reads it: `tests/fixtures` has the folders of a control plane
//! and of a worker as version 0.1.0 left them. Whatever changes in the program, a machine that was changed by it
//! then can be taken back now.

// clippy sees no test in what the tests share.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use common::{lab, run, shells};
use ironstrap::cluster::{Cluster, ETCD_DIR};
use ironstrap::fleet::Fleet;
use ironstrap::ledger::{self, Run};
use ironstrap::machine::{Lease, Machine};
use ironstrap::operations::reset;
use ironstrap::probe;
use ironstrap::step::{Answer, Ask, Cx, Fix, Want};
use time::OffsetDateTime;

const FIXTURES: &str = "tests/fixtures/kept-0.1.0";
const BOUNDARY: &str = "--0123456789abcdef";

/// Paths of a machine that are below a folder here.
const MOVED: [&str; 6] = ["/run/", "/var/lib/", "/etc/", "/opt/", "/proc/sys/net/", "/proc/swaps"];

/// Programs that must not touch the machine that the tests run on: each only notes its words.
const STUBS: [&str; 20] = [
    "apt-get",
    "apt-mark",
    "chroot",
    "conntrack",
    "ctr",
    "dpkg",
    "dpkg-query",
    "ip",
    "ipvsadm",
    "iptables-save",
    "kubectl",
    "modprobe",
    "mount",
    "nft",
    "swapoff",
    "swapon",
    "sysctl",
    "systemctl",
    "systemd-run",
    "umount",
];

/// A machine with what is kept in a fixture.
struct Kept {
    root: tempfile::TempDir,
}

impl Kept {
    fn new(node: &str) -> Kept {
        let kept = Kept { root: tempfile::tempdir().unwrap() };
        copy(&Path::new(FIXTURES).join(node), kept.root.path());
        for dir in ["bin", "etc", "opt", "proc/sys", "run/systemd/transient", "run/ironstrap"] {
            fs::create_dir_all(kept.path(dir)).unwrap();
        }
        fs::write(kept.path("proc/swaps"), "Filename Type Size Used Priority\n").unwrap();
        // The paths that are written down in there are the machine's, too.
        for file in files(&kept.path("var/lib/ironstrap")) {
            if file.ends_with("folders") || file.extension().is_some_and(|e| e == "path") {
                let text = fs::read_to_string(&file).unwrap();
                let moved = text.lines().map(|line| format!("{}{line}\n", kept.root.path().display()));
                fs::write(&file, moved.collect::<String>()).unwrap();
            }
        }
        for stub in STUBS {
            kept.stub(stub, "");
        }
        kept
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name.trim_start_matches('/'))
    }

    fn stub(&self, name: &str, script: &str) {
        let (path, said) = (self.path(&format!("bin/{name}")), self.path("said"));
        fs::write(&path, format!("#!/bin/sh\necho \"{name} $*\" >>{}\n{script}\n", said.display())).unwrap();
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    }

    fn said(&self) -> String {
        fs::read_to_string(self.path("said")).unwrap_or_default()
    }

    fn moved(&self, script: &str) -> String {
        let root = self.root.path().display();
        let moved =
            MOVED.iter().fold(script.to_string(), |script, dir| script.replace(dir, &format!("{root}{dir}")));
        moved.replace("PATH=/usr", &format!("PATH={root}/bin:/usr"))
    }

    /// Runs what fixes share, and then this.
    fn lib(&self, shell: &str, script: &str) -> Output {
        let lib =
            ["lib", "undo"].map(|name| fs::read_to_string(format!("templates/{name}.sh")).unwrap()).concat();
        let path = format!("PATH={}:$PATH", self.path("bin").display());
        run(
            shell,
            &self.moved(&format!("{{\nset -eu\n{path}\nWAIT_TIMEOUT=3\n{lib}\n{script}\n}} </dev/null\n")),
        )
    }

    /// What is kept: by key, the endings of its files.
    fn entries(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut entries: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for file in files(&self.path("var/lib/ironstrap/before")) {
            let name = file.file_name().unwrap().to_str().unwrap().to_string();
            let (key, end) = name.rsplit_once('.').unwrap();
            entries.entry(key.into()).or_default().insert(end.into());
        }
        entries
    }

    fn lease(&self) -> String {
        fs::read_to_string(self.path("run/ironstrap/lease")).unwrap().trim().to_string()
    }
}

fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let to = to.join(file.strip_prefix(from).unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(file, to).unwrap();
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { all.extend(files(&path)) } else { all.push(path) }
    }
    all.sort();
    all
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The wants of a node's way back, with the key of what each reads; of the whole, none.
fn back(cluster: &Cluster, name: &str) -> Vec<(Option<String>, Want)> {
    let pki = common::pki(cluster);
    let node = cluster.nodes.iter().find(|node| node.name == name).unwrap();
    let (machine, fleet) = (Machine::default(), Fleet::default());
    let cx =
        Cx { cluster, node, pki: &pki, now: OffsetDateTime::now_utc(), machine: &machine, fleet: &fleet };
    let mut all = Vec::new();
    for stage in reset::stages().iter().filter(|stage| stage.is_asked_of(node)) {
        for (_, want) in reset::wants(stage, &cx).unwrap() {
            let Ask::Shell(ask) = &want.ask else { continue };
            let key = ask.split("/var/lib/ironstrap/before/").nth(1).map(|rest| {
                let end = rest.find([' ', '\n']).unwrap();
                rest[..end].rsplit_once('.').unwrap().0.to_string()
            });
            all.push((key.filter(|key| !key.contains('*')), want));
        }
    }
    all
}

/// What was kept under a key that no step has any more would stay on the machine; of a file, `orphans` brings back the
/// whole, so that what others wrote in a shared one is lost. `keys-m1` has all keys of version 0.1.0 for a control plane of
/// the lab, `keys-w1` those for a worker.
#[test]
fn everything_that_was_kept_still_has_its_step() {
    let cluster = lab();
    let pki = common::pki(&cluster);
    for node in cluster.nodes.iter().filter(|node| ["m1", "w1"].contains(&node.name.as_str())) {
        let facts = (&Machine::default(), &Fleet::default());
        let wants = common::wants((&cluster, node), &pki, facts, OffsetDateTime::now_utc());
        let keys = wants.iter().filter_map(|(_, step, want)| want.undo.key(step));
        let known: BTreeSet<String> = keys.collect();
        let file = Path::new(FIXTURES).join(format!("keys-{}", node.name));
        let keys = fs::read_to_string(file).unwrap();
        let kept: BTreeSet<String> = keys.lines().map(str::to_string).collect();
        assert!(kept.len() > 15 && Kept::new(&node.name).entries().keys().all(|key| kept.contains(key)));
        let shared = ["file-etc-fstab", "file-etc-hosts"];
        let lost = |key: &&String| {
            !known.contains(*key) && (!key.starts_with("file-") || shared.contains(&key.as_str()))
        };
        let lost: Vec<&String> = kept.iter().filter(lost).collect();
        assert!(lost.is_empty(), "{}: no step reads {lost:?}", node.name);
    }
}

/// A file that no step writes any more comes back, too.
#[test]
fn a_file_that_no_step_writes_any_more_comes_back() {
    let cluster = lab();
    for shell in shells() {
        let kept = Kept::new("w1");
        let entry = |end: &str| kept.path(&format!("var/lib/ironstrap/before/file-etc-older.conf.{end}"));
        let path = kept.path("etc/older.conf");
        fs::write(entry("path"), format!("{}\n", path.display())).unwrap();
        fs::write(entry("file"), "before\n").unwrap();
        fs::write(&path, "ours\n").unwrap();
        let of_earlier =
            |want: &Want| want.that == "files of an earlier inventory are restored to their earlier state";
        let (_, want) = back(&cluster, "w1").into_iter().find(|(_, want)| of_earlier(want)).unwrap();
        let Fix::Run(script) = &want.fix else { panic!("{:?}", want.that) };
        let output = kept.lib(shell, script);
        assert!(output.status.success(), "{shell}: {}", text(&output.stderr));
        assert_eq!(fs::read_to_string(&path).unwrap(), "before\n", "{shell}");
        assert!(kept.entries().contains_key("kernel-overlay"), "{shell}: it takes only its own");
    }
}

/// A question about what was kept answers with it, and not that nothing was.
#[test]
fn every_question_of_a_reset_reads_what_was_kept() {
    let cluster = lab();
    for (name, shell) in
        ["m1", "w1"].into_iter().flat_map(|name| shells().into_iter().map(move |shell| (name, shell)))
    {
        let kept = Kept::new(name);
        let entries = kept.entries();
        let wants = back(&cluster, name);
        let wants: Vec<_> = wants
            .iter()
            .filter_map(|(key, want)| Some((key.as_ref()?, want)))
            .filter(|(key, _)| entries.contains_key(*key))
            .collect();
        assert!(!wants.is_empty());
        for (key, want) in wants {
            let asks = [&want.ask];
            let output = run(shell, &kept.moved(&probe::script(&asks, BOUNDARY, ETCD_DIR)));
            let (_, answers) = probe::answers(&output.stdout, &asks, BOUNDARY)
                .unwrap_or_else(|why| panic!("{why}: {}", text(&output.stderr)));
            let Answer::Said(said) = &answers[0] else { panic!("{shell} {name} {key}: {:?}", answers[0]) };
            let answer = kept.path(&format!("var/lib/ironstrap/before/{key}.answer"));
            let was = fs::read_to_string(answer).unwrap_or_default();
            for line in was.lines() {
                assert!(
                    said.lines().any(|said| said == format!("was {line}")),
                    "{shell} {name} {key}: {said}"
                );
            }
        }
    }
}

/// Files come back as they were, and those that were not there go, with the folders that were made for them.
#[test]
fn files_come_back_from_what_was_kept() {
    for (name, shell) in
        ["m1", "w1"].into_iter().flat_map(|name| shells().into_iter().map(move |shell| (name, shell)))
    {
        let kept = Kept::new(name);
        let files: Vec<_> = kept.entries().into_iter().filter(|(_, ends)| ends.contains("path")).collect();
        assert!(
            files.iter().any(|(_, ends)| ends.contains("file"))
                && files.iter().any(|(_, ends)| ends.contains("absent"))
        );
        for (key, ends) in files {
            let entry = |end: &str| kept.path(&format!("var/lib/ironstrap/before/{key}.{end}"));
            let path = fs::read_to_string(entry("path")).unwrap();
            let path = Path::new(path.trim());
            assert!(path.starts_with(kept.root.path()), "{}", path.display());
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "ours\n").unwrap();
            let before = ends.contains("file").then(|| fs::read(entry("file")).unwrap());
            let output = kept.lib(shell, &format!("restore {key}"));
            assert!(output.status.success(), "{shell} {key}: {}", text(&output.stderr));
            assert_eq!(fs::read(path).ok(), before, "{shell} {}", path.display());
            assert!(!kept.entries().contains_key(&key), "{shell} {key} is still kept");
        }
        let folders = fs::read_to_string(kept.path("var/lib/ironstrap/folders")).unwrap_or_default();
        let empty = |folder: &&str| fs::read_dir(folder).is_ok_and(|mut dir| dir.next().is_none());
        let left: Vec<&str> = folders.lines().filter(empty).collect();
        assert!(left.is_empty(), "{shell} {name}: made for files that are gone: {left:?}");
    }
}

/// What is not a file comes back by the answer from before: units, kernel settings, packages, swap. What leaves the
/// cluster is for a machine that is in one (tests/cluster).
#[test]
fn the_rest_comes_back_by_the_answers_from_before() {
    let cluster = lab();
    for (name, shell) in
        ["m1", "w1"].into_iter().flat_map(|name| shells().into_iter().map(move |shell| (name, shell)))
    {
        let kept = Kept::new(name);
        fs::create_dir_all(kept.path("proc/sys/net/ipv4")).unwrap();
        fs::write(kept.path("proc/sys/net/ipv4/ip_forward"), "1\n").unwrap();
        let mut done = BTreeSet::new();
        for (key, want) in back(&cluster, name) {
            let Some(key) = key.filter(|key| kept.entries().contains_key(key)) else { continue };
            if key.starts_with("file-") || key.starts_with("member-") {
                continue;
            }
            let (Fix::Run(script) | Fix::Unit { script, .. }) = &want.fix else { panic!("{key}") };
            let output = kept.lib(shell, script);
            let said = [text(&output.stdout), text(&output.stderr)].concat();
            assert!(output.status.success(), "{shell} {name} {key}: {said}");
            assert!(!kept.entries().contains_key(&key), "{shell} {name}: {key} is still kept");
            done.insert(key);
        }
        for key in ["swap-active", "swap-swap.target", "kernel-net.ipv4.ip-forward"] {
            assert!(done.contains(key), "{shell} {name}: {key} was not kept, or has no step: {done:?}");
        }
        let said = kept.said();
        for words in
            ["swapon /swap.img", "sysctl -qw net.ipv4.ip_forward=0", "systemctl unmask -q swap.target"]
        {
            assert!(said.lines().any(|line| line == words), "{shell} {name}: no {words} in {said}");
        }
    }
}

fn me() -> Run {
    Run::new("1f2e", "me@here")
}

/// The lease as a machine tells it among its facts.
fn told(lease: &str, clock: u64) -> Machine {
    let facts = format!(
        "os debian\ncodename trixie\narch x86_64\nuid 0\nclock {clock}.0\ncpus 4\nhostname m1\nboot 0b\ninit systemd\nmemory 4194304\nlease {lease}\n"
    );
    Machine::read(&facts, "", "").unwrap()
}

/// Exit code of a script that takes the machine, and the lease afterwards.
fn taken(kept: &Kept, shell: &str, seen: &Lease) -> (Option<i32>, String) {
    let output = run(shell, &kept.moved(&ledger::take(&me(), Some(seen))));
    (output.status.code(), kept.lease())
}

#[test]
fn an_old_lease_is_read_heeded_while_it_lives_and_taken_over_afterwards() {
    let now = OffsetDateTime::now_utc().unix_timestamp() as u64;
    for name in ["m1", "w1"] {
        for shell in shells() {
            let kept = Kept::new(name);
            let old = kept.lease();
            let words: Vec<&str> = old.split(' ').collect();
            let until =
                |until: u64| [words[0], words[1], &until.to_string(), words[3], "alice@desk"].join(" ");
            // What it was when the fixture was made is over, or was given back.
            let lease = told(&old, now).lease.unwrap();
            assert_eq!(lease.epoch.to_string(), words[0]);
            assert!(!told(&old, now).is_taken() && told(&until(now + 60), now).is_taken());

            fs::write(kept.path("run/ironstrap/lease"), until(now + 60) + "\n").unwrap();
            assert_eq!(
                taken(&kept, shell, &lease),
                (Some(ledger::LEASE_LOST), until(now + 60)),
                "{shell} {name}"
            );
            fs::write(kept.path("run/ironstrap/lease"), until(now - 60) + "\n").unwrap();
            let (code, after) = taken(&kept, shell, &lease);
            assert_eq!(code, Some(0), "{shell} {name}: {after}");
            assert_eq!(after.split(' ').next(), Some((lease.epoch + 1).to_string().as_str()), "{after}");
        }
    }
}

/// Nothing that somebody could use is in the fixture: no key, no token, no certificate.
#[test]
fn fixtures_have_no_secrets() {
    let token = |word: &str| {
        let group = |part: &str, len| {
            part.len() == len && part.chars().all(|c| c.is_ascii_digit() || c.is_ascii_lowercase())
        };
        word.split_once('.').is_some_and(|(id, secret)| group(id, 6) && group(secret, 16))
    };
    for file in files(Path::new(FIXTURES)) {
        let text = fs::read_to_string(&file).unwrap();
        assert!(!text.contains("-----BEGIN"), "{} has a key or a certificate", file.display());
        let word = text
            .split(|c: char| !(c.is_ascii_alphanumeric() || "+/=.-_:".contains(c)))
            .find(|word| token(word) || word.len() > 100);
        assert_eq!(word, None, "{}", file.display());
    }
}

/// What a machine says to the want of this name, before it goes back.
fn noted(kept: &Kept, shell: &str, that: &str) -> String {
    let (_, want) = back(&lab(), "w1").into_iter().find(|(_, want)| want.that == that).unwrap();
    let output = run(shell, &kept.moved(&probe::script(&[&want.ask], BOUNDARY, ETCD_DIR)));
    let (_, answers) = probe::answers(&output.stdout, &[&want.ask], BOUNDARY).unwrap();
    let Answer::Said(said) = &answers[0] else { panic!("{shell}: {:?}", answers[0]) };
    assert!(matches!(want.fix, Fix::ByHand(_)), "{that}");
    said.clone()
}

const WHOLE: &str = "the records of the earlier state are undamaged";

#[test]
fn a_note_that_was_damaged_since_is_named_and_not_trusted() {
    for shell in shells() {
        let kept = Kept::new("w1");
        assert_eq!(noted(&kept, shell, WHOLE), "", "{shell}: what an older ironstrap noted has no sums");
        for (key, file, was) in
            [("one", "etc/one", "1\n"), ("two", "etc/two", "2\n"), ("three", "etc/three", "3\n")]
        {
            fs::write(kept.path(file), was).unwrap();
            let output = kept.lib(shell, &format!("backup_file {key} /{file}"));
            assert!(output.status.success(), "{shell}: {}", text(&output.stderr));
        }
        let answer = "keep() { echo kept; }; backup_extra four; echo was | backup_answer four";
        assert!(kept.lib(shell, answer).status.success());
        assert_eq!(noted(&kept, shell, WHOLE), "", "{shell}");
        let entry = |name: &str| kept.path(&format!("var/lib/ironstrap/before/{name}"));
        // One is cut to nothing, one is lost, one has other text, and one is as it was.
        fs::write(entry("one.file"), "").unwrap();
        fs::remove_file(entry("two.path")).unwrap();
        fs::write(entry("four.kept"), "other\n").unwrap();
        let said = noted(&kept, shell, WHOLE).replace(&kept.path("").display().to_string(), "/");
        let right = "four is damaged\none is damaged (/etc/one)\ntwo is damaged\n";
        assert_eq!(said, right, "{shell}");
        // It was given up: what stands there stays, and the rest goes back.
        for name in ["one", "two", "four"] {
            for end in ["sum", "path", "file", "answer", "kept"] {
                let _ = fs::remove_file(entry(&format!("{name}.{end}")));
            }
        }
        assert_eq!(noted(&kept, shell, WHOLE), "", "{shell}");
        assert!(kept.lib(shell, "restore three").status.success());
        assert!(!entry("three.sum").exists(), "{shell}: its sum goes with it");
    }
}

#[test]
fn notes_of_an_older_ironstrap_that_cannot_be_whole_are_named() {
    for shell in shells() {
        let kept = Kept::new("w1");
        let entry = |name: &str| kept.path(&format!("var/lib/ironstrap/before/{name}"));
        fs::write(entry("member-member.answer"), "no member\n").unwrap();
        fs::write(entry("swap-swap.target.answer"), "").unwrap();
        // Its own lines are taken out of the file; what is kept of it is not needed.
        fs::write(entry("file-etc-hosts.path"), "").unwrap();
        let right = "member-member is damaged\nswap-swap.target is damaged\n";
        assert_eq!(noted(&kept, shell, WHOLE), right, "{shell}");
    }
}

#[test]
fn a_member_without_notes_is_no_machine_that_nothing_was_done_to() {
    let (member, files) = (
        "the state before the machine joined is recorded",
        "the earlier contents of files that ironstrap wrote are recorded",
    );
    for shell in shells() {
        let kept = Kept::new("w1");
        fs::remove_dir_all(kept.path("var/lib/ironstrap")).unwrap();
        assert_eq!([member, files].map(|that| noted(&kept, shell, that)).concat(), "", "{shell}");
        fs::create_dir_all(kept.path("etc/kubernetes")).unwrap();
        fs::write(kept.path("etc/kubernetes/kubelet.conf"), "").unwrap();
        assert!(noted(&kept, shell, member).starts_with("it is a member of a cluster"), "{shell}");
        fs::create_dir_all(kept.path("etc/containerd")).unwrap();
        fs::write(kept.path("etc/containerd/config.toml"), "# Kept by ironstrap: x\n").unwrap();
        let said = noted(&kept, shell, files);
        assert!(said.ends_with("/etc/containerd/config.toml was written by ironstrap, and there is no record of an earlier file\n"), "{shell}: {said}");
        fs::write(kept.path("etc/containerd/config.toml"), "version = 2\n").unwrap();
        assert_eq!(noted(&kept, shell, files), "", "{shell}");
    }
}
