//! This version reads the records that an older version kept on its machines. `tests/fixtures` has the folders of a
//! control plane and of a worker from version 0.1.0. Every later version must be able to reset such machines.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use ironstrap::cluster::{Cluster, ETCD_DIR};
use ironstrap::fleet::Fleet;
use ironstrap::ledger::{self, Run};
use ironstrap::machine::{Lease, Machine};
use ironstrap::operations::reset;
use ironstrap::probe;
use ironstrap::step::{Answer, Ask, Cx, Fix, Want};
use time::OffsetDateTime;

use crate::support::command::command;
use crate::support::{self, lab, run, shells, tools};

const FIXTURES: &str = "tests/fixtures/kept-0.1.0";
const BOUNDARY: &str = "--0123456789abcdef";

/// Paths of a machine that are below a folder here.
const MOVED: [&str; 6] = ["/run/", "/var/lib/", "/etc/", "/opt/", "/proc/sys/net/", "/proc/swaps"];

/// Programs that would change the machine that runs the tests. Stubs replace them and only record their arguments.
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

/// A folder that stands for a machine, with the records of a fixture.
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
        // The records contain paths. These must be below the folder, too.
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
        command(&path, &format!("echo \"{name} $*\" >>{}\n{script}\n", said.display()));
    }

    fn said(&self) -> String {
        fs::read_to_string(self.path("said")).unwrap_or_default()
    }

    fn moved(&self, script: &str) -> String {
        let root = self.root.path().display();
        let moved =
            MOVED.iter().fold(script.to_string(), |script, dir| script.replace(dir, &format!("{root}{dir}")));
        moved.replace(tools::SYSTEM_PATH, &format!("{root}/bin:{}", tools::path()))
    }

    /// Runs a script after the functions that fixes share.
    fn lib(&self, shell: &str, script: &str) -> Output {
        let lib =
            ["lib", "undo"].map(|name| fs::read_to_string(format!("templates/{name}.sh")).unwrap()).concat();
        let path = format!("PATH={}:$PATH", self.path("bin").display());
        run(
            shell,
            &self.moved(&format!("{{\nset -eu\n{path}\nWAIT_TIMEOUT=3\n{lib}\n{script}\n}} </dev/null\n")),
        )
    }

    /// The records: the endings of the files of each key.
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

/// The wants of a reset of a node, each with the key of the record that it reads. A want that reads all records has no
/// key.
fn reset_wants(cluster: &Cluster, name: &str) -> Vec<(Option<String>, Want)> {
    let pki = support::pki(cluster);
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

/// If no step had the key of a record, nothing would restore it. For a file, `orphans` restores the whole file, so
/// changes of others in a shared file would be lost. `keys-m1` has all keys of version 0.1.0 for a control plane of the
/// lab, and `keys-w1` those for a worker.
#[test]
fn every_record_still_has_a_step() {
    let cluster = lab();
    let pki = support::pki(&cluster);
    for node in cluster.nodes.iter().filter(|node| ["m1", "w1"].contains(&node.name.as_str())) {
        let facts = (&Machine::default(), &Fleet::default());
        let wants = support::wants((&cluster, node), &pki, facts, OffsetDateTime::now_utc());
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

#[test]
fn a_file_that_no_step_writes_any_more_is_restored() {
    let cluster = lab();
    for shell in shells() {
        let kept = Kept::new("w1");
        let entry = |end: &str| kept.path(&format!("var/lib/ironstrap/before/file-etc-older.conf.{end}"));
        let path = kept.path("etc/older.conf");
        fs::write(entry("path"), format!("{}\n", path.display())).unwrap();
        fs::write(entry("file"), "before\n").unwrap();
        fs::write(&path, "ours\n").unwrap();
        let of_earlier = |want: &Want| want.id.to_string() == "ledger.files";
        let (_, want) = reset_wants(&cluster, "w1").into_iter().find(|(_, want)| of_earlier(want)).unwrap();
        let Fix::Run(script) = &want.fix else { panic!("{:?}", want.that) };
        let output = kept.lib(shell, script);
        assert!(output.status.success(), "{shell}: {}", text(&output.stderr));
        assert_eq!(fs::read_to_string(&path).unwrap(), "before\n", "{shell}");
        assert!(kept.entries().contains_key("kernel-overlay"), "{shell}: other records stay");
    }
}

/// A question about a record answers with the content of the record.
#[test]
fn every_question_of_a_reset_reads_the_records() {
    let cluster = lab();
    for (name, shell) in
        ["m1", "w1"].into_iter().flat_map(|name| shells().into_iter().map(move |shell| (name, shell)))
    {
        let kept = Kept::new(name);
        let entries = kept.entries();
        let wants = reset_wants(&cluster, name);
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

/// Files get their earlier content. Files that did not exist are deleted, with the folders that were made for them.
#[test]
fn files_are_restored_from_their_records() {
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
        assert!(left.is_empty(), "{shell} {name}: empty folders are left: {left:?}");
    }
}

/// Units, kernel settings, packages and swap are restored from the recorded answers. tests/cluster has the tests for
/// machines that leave a cluster.
#[test]
fn units_settings_and_packages_are_restored_from_records() {
    let cluster = lab();
    for (name, shell) in
        ["m1", "w1"].into_iter().flat_map(|name| shells().into_iter().map(move |shell| (name, shell)))
    {
        let kept = Kept::new(name);
        fs::create_dir_all(kept.path("proc/sys/net/ipv4")).unwrap();
        fs::write(kept.path("proc/sys/net/ipv4/ip_forward"), "1\n").unwrap();
        let mut done = BTreeSet::new();
        for (key, want) in reset_wants(&cluster, name) {
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

/// The facts of a machine with this lease.
fn with_lease(lease: &str, clock: u64) -> Machine {
    let facts = format!(
        "os debian\ncodename trixie\narch x86_64\nuid 0\nclock {clock}.0\ncpus 4\nhostname m1\nboot 0b\ninit systemd\nmemory 4194304\nlease {lease}\n"
    );
    Machine::read(&facts, "", "").unwrap()
}

/// Runs the script that takes the lease of a machine. Returns its exit code and the lease afterwards.
fn take_lease(kept: &Kept, shell: &str, seen: &Lease) -> (Option<i32>, String) {
    let output = run(shell, &kept.moved(&ledger::take(&me(), Some(seen))));
    (output.status.code(), kept.lease())
}

#[test]
fn an_old_lease_is_respected_until_it_expires() {
    let now = OffsetDateTime::now_utc().unix_timestamp() as u64;
    for name in ["m1", "w1"] {
        for shell in shells() {
            let kept = Kept::new(name);
            let old = kept.lease();
            let words: Vec<&str> = old.split(' ').collect();
            let until =
                |until: u64| [words[0], words[1], &until.to_string(), words[3], "alice@desk"].join(" ");
            // The lease of the fixture has expired or was released.
            let lease = with_lease(&old, now).lease.unwrap();
            assert_eq!(lease.epoch.to_string(), words[0]);
            assert!(!with_lease(&old, now).is_taken() && with_lease(&until(now + 60), now).is_taken());

            fs::write(kept.path("run/ironstrap/lease"), until(now + 60) + "\n").unwrap();
            assert_eq!(
                take_lease(&kept, shell, &lease),
                (Some(ledger::LEASE_LOST), until(now + 60)),
                "{shell} {name}"
            );
            fs::write(kept.path("run/ironstrap/lease"), until(now - 60) + "\n").unwrap();
            let (code, after) = take_lease(&kept, shell, &lease);
            assert_eq!(code, Some(0), "{shell} {name}: {after}");
            assert_eq!(after.split(' ').next(), Some((lease.epoch + 1).to_string().as_str()), "{after}");
        }
    }
}

/// The fixtures have no keys, tokens and certificates.
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

/// The answer of a machine to this want of a reset, which users have to repair by hand.
fn answer_by_hand(kept: &Kept, shell: &str, id: &str) -> String {
    let (_, want) =
        reset_wants(&lab(), "w1").into_iter().find(|(_, want)| want.id.to_string() == id).unwrap();
    let output = run(shell, &kept.moved(&probe::script(&[&want.ask], BOUNDARY, ETCD_DIR)));
    let (_, answers) = probe::answers(&output.stdout, &[&want.ask], BOUNDARY).unwrap();
    let Answer::Said(said) = &answers[0] else { panic!("{shell}: {:?}", answers[0]) };
    assert!(matches!(want.fix, Fix::ByHand(_)), "{id}");
    said.clone()
}

const WHOLE: &str = "notes.whole";

#[test]
fn damaged_records_are_named() {
    for shell in shells() {
        let kept = Kept::new("w1");
        assert_eq!(
            answer_by_hand(&kept, shell, WHOLE),
            "",
            "{shell}: records of an older version have no checksums"
        );
        for (key, file, was) in
            [("one", "etc/one", "1\n"), ("two", "etc/two", "2\n"), ("three", "etc/three", "3\n")]
        {
            fs::write(kept.path(file), was).unwrap();
            let output = kept.lib(shell, &format!("backup_file {key} /{file}"));
            assert!(output.status.success(), "{shell}: {}", text(&output.stderr));
        }
        let answer = "keep() { echo kept; }; backup_extra four; echo was | backup_answer four";
        assert!(kept.lib(shell, answer).status.success());
        assert_eq!(answer_by_hand(&kept, shell, WHOLE), "", "{shell}");
        let entry = |name: &str| kept.path(&format!("var/lib/ironstrap/before/{name}"));
        // The first record is truncated, the second is lost, and the fourth has other text. The third is unchanged.
        fs::write(entry("one.file"), "").unwrap();
        fs::remove_file(entry("two.path")).unwrap();
        fs::write(entry("four.kept"), "other\n").unwrap();
        let said = answer_by_hand(&kept, shell, WHOLE).replace(&kept.path("").display().to_string(), "/");
        let right = ["four.* is damaged", "one.* is damaged (the record of /etc/one)", "two.* is damaged"]
            .map(|line| format!("/var/lib/ironstrap/before/{line}\n"));
        assert_eq!(said, right.concat(), "{shell}");
        // The user deletes the damaged records. Those files keep their content, and the rest is restored.
        for name in ["one", "two", "four"] {
            for end in ["sum", "path", "file", "answer", "kept"] {
                let _ = fs::remove_file(entry(&format!("{name}.{end}")));
            }
        }
        assert_eq!(answer_by_hand(&kept, shell, WHOLE), "", "{shell}");
        assert!(kept.lib(shell, "restore three").status.success());
        assert!(!entry("three.sum").exists(), "{shell}: the checksum is deleted, too");
    }
}

#[test]
fn damaged_records_of_an_older_version_are_named() {
    for shell in shells() {
        let kept = Kept::new("w1");
        let entry = |name: &str| kept.path(&format!("var/lib/ironstrap/before/{name}"));
        fs::write(entry("member-member.answer"), "no member\n").unwrap();
        fs::write(entry("swap-swap.target.answer"), "").unwrap();
        // The reset only removes ironstrap's lines from this file, so it does not need the record.
        fs::write(entry("file-etc-hosts.path"), "").unwrap();
        let said = answer_by_hand(&kept, shell, WHOLE).replace(&entry("").display().to_string(), "");
        assert_eq!(said, "member-member.* is damaged\nswap-swap.target.* is damaged\n", "{shell}");
    }
}

#[test]
fn a_member_without_records_is_named() {
    let (member, files) = ("notes.before-join", "notes.files");
    for shell in shells() {
        let kept = Kept::new("w1");
        fs::remove_dir_all(kept.path("var/lib/ironstrap")).unwrap();
        assert_eq!([member, files].map(|id| answer_by_hand(&kept, shell, id)).concat(), "", "{shell}");
        fs::create_dir_all(kept.path("etc/kubernetes")).unwrap();
        fs::write(kept.path("etc/kubernetes/kubelet.conf"), "").unwrap();
        assert!(answer_by_hand(&kept, shell, member).starts_with("it is a member of a cluster"), "{shell}");
        fs::create_dir_all(kept.path("etc/containerd")).unwrap();
        fs::write(kept.path("etc/containerd/config.toml"), "# Kept by ironstrap: x\n").unwrap();
        let said = answer_by_hand(&kept, shell, files);
        assert!(said.ends_with("/etc/containerd/config.toml was written by ironstrap, and there is no record of an earlier file\n"), "{shell}: {said}");
        fs::write(kept.path("etc/containerd/config.toml"), "version = 2\n").unwrap();
        assert_eq!(answer_by_hand(&kept, shell, files), "", "{shell}");
    }
}
