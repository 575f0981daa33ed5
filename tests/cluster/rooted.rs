//! A worker whose root account belongs to an attacker. Its login shell forges the answers in many ways. That must not harm
//! other machines, the cluster or the operator's computer.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use crate::lab::text;
use crate::world::World;
use crate::{Ground, Scenario};

pub const SCENARIOS: &[Scenario] = &[Scenario {
    says: "a worker with forged answers harms no other machine",
    ground: Ground::Cluster,
    run: forged,
}];

const ROGUE: &str = "w1";

/// The login shell of root on the worker. It runs ironstrap's script and forges the output.
const SHELL: &str = r#"#!/bin/bash
real() { /bin/bash "$@"; }
case $(cat /root/forge 2>/dev/null) in
clock) real "$@" | sed 's/^clock .*/clock NaN/' ;;
name) real "$@" | sed 's/^hostname .*/hostname m1/' ;;
twin) real "$@" | sed "s/^machine-id .*/machine-id $(cat /root/id)/" ;;
terminal)
  printf '\033[2J\033]0;OWNED\a\033]52;c;T1dORUQ=\a' >&2
  real "$@" | sed $'s/^codename .*/codename \033[2J\033]0;OWNED\a\r\u202e\u009b2J/' ;;
shell) real "$@" | sed -e "s,^hostname .*,hostname \$(touch /owned)'\`touch /owned\`\";touch /owned," \
  -e "s,^busy .*,busy ';touch /owned;'," -e "s,^lease .*,lease 7 ';touch\${IFS}/owned;' 9999999999 1 \$(touch\${IFS}/owned)," ;;
speaker) real "$@" | sed 's,^init .*,&\nhas manifests/kube-apiserver.yaml\nhas admin.conf\nhas etcd\nhas receipt,' ;;
absent) real "$@" | sed -e 's/^mode .*/absent/' -e 's/^enabled .*/absent/' ;;
flood) printf '\n--ironstrap begins--\n'; yes 'a line that is one of many' | head -c 300000000 ;;
line) printf '\n--ironstrap begins--\n'; tr '\0' a </dev/zero | head -c 300000000 ;;
noise) printf '\n--ironstrap begins--\n'; head -c 3000000 /dev/urandom ;;
banner) tr '\0' a </dev/zero | head -c 300000000 ;;
silent) printf '\n--ironstrap begins--\n'; sleep 900 ;;
*) exec /bin/bash "$@" ;;
esac
"#;

/// The way in which an answer is forged, and whether the run can detect it.
const FORGED: &[(&str, bool)] = &[
    ("clock", true),
    ("name", true),
    ("twin", false),
    ("terminal", true),
    ("shell", true),
    ("speaker", false),
    ("absent", false),
    ("flood", true),
    ("line", true),
    ("noise", true),
    ("banner", true),
    ("silent", true),
];

fn forged(world: &World) {
    world.assert_converged();
    let switch = world.lab.disk(ROGUE, "/root/forge");
    world.lab.ssh(
        ROGUE,
        &format!("cat >/usr/local/sbin/forge <<'SHELL'\n{SHELL}SHELL\nchmod 755 /usr/local/sbin/forge"),
    );
    let id = world.lab.ssh("m1", "cat /etc/machine-id");
    fs::write(world.lab.disk(ROGUE, "/root/id"), id.trim()).unwrap();
    world.lab.ssh(ROGUE, "usermod -s /usr/local/sbin/forge root");
    let before = others(world);
    for (how, told) in FORGED {
        fs::write(&switch, how).unwrap();
        // With a silent machine, each command takes as long as its time limit.
        let verbs = if *how == "silent" { 1 } else { 3 };
        for verb in &[&["plan"][..], &["status"], &["apply", "--yes"]][..verbs] {
            let since = Instant::now();
            let output = run(world, verb);
            let (code, took) = (output.status.code(), since.elapsed());
            println!("  {how}: {} ended with {code:?} in {:.0} s", verb[0], took.as_secs_f64());
            assert!(took < Duration::from_secs(200), "{how}: {} took {took:?}", verb[0]);
            for stream in [&output.stdout, &output.stderr] {
                assert_clean(how, &text(stream));
            }
            let blind = *told && verb[0] != "status";
            assert!(
                !blind || code != Some(0),
                "{how}: {} reports no problem: {}",
                verb[0],
                text(&output.stdout)
            );
        }
        let after = others(world);
        let changed: Vec<&String> = before.symmetric_difference(&after).collect();
        assert!(changed.is_empty(), "{how} changed: {changed:#?}");
    }
    fs::remove_file(&switch).unwrap();
    world.lab.ssh(ROGUE, "usermod -s /bin/bash root; rm -f /usr/local/sbin/forge /root/id");
    world.mended();
}

/// Runs the program without --json, as an operator does.
fn run(world: &World, verb: &[&str]) -> std::process::Output {
    let mut command = world.lab.command(&["exec", &World::binary()]);
    command.args(verb).arg("-i").arg(world.dir.join("inventory.toml"));
    command.output().unwrap()
}

/// Checks that the output contains no control characters, which could move the cursor, set a title or change the text
/// direction.
fn assert_clean(how: &str, shown: &str) {
    let forbidden =
        |c: &char| (c.is_control() && !matches!(c, '\n' | '\t')) || matches!(c, '\u{202a}'..='\u{202e}');
    let found: Vec<char> = shown.chars().filter(forbidden).collect();
    assert!(found.is_empty(), "{how}: the terminal gets {found:?}");
}

/// Everything that can be seen of the other machines, the cluster's Nodes and the operator's files.
fn others(world: &World) -> BTreeSet<String> {
    let mut all: BTreeSet<String> = BTreeSet::new();
    for node in ["m1", "w2"] {
        all.extend(world.lab.looks(node).into_iter().map(|line| format!("{node}: {line}")));
        let owned = world.lab.ssh(node, "ls /owned /root/owned 2>/dev/null || :");
        assert_eq!(owned, "", "a script of {node} ran what {ROGUE} answered");
    }
    assert!(!std::path::Path::new("/owned").exists(), "the operator's side ran what {ROGUE} answered");
    let path = "jsonpath={range .items[*]}{.metadata.name} {.metadata.labels} {.spec}{\"\\n\"}{end}";
    all.extend(world.kubectl(&["get", "nodes", "-o", path]).lines().map(str::to_string));
    files(&world.dir, &mut all);
    all
}

/// Adds path and content of each file. It leaves out the lock, which each run takes.
fn files(folder: &std::path::Path, all: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files(&path, all),
            false if path.ends_with(".demo.lock") => {}
            false => drop(all.insert(format!("{} {:?}", path.display(), fs::read(&path).unwrap()))),
        }
    }
}
