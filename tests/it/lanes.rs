//! The runner of the lanes (tests/lanes), with stubs for cargo and the lab.

use std::fs;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::support::command::program;

/// The leftovers that the lab LAB finds on a host with these network namespaces and cgroups. Its machine w9 is gone.
fn leftovers(names: &[&str]) -> String {
    // The process id is in the name, because a real lab may run on this host at the same time.
    let (host, lab) = (tempfile::tempdir().unwrap(), format!("lab{}", std::process::id()));
    let (at, names) = (host.path().display(), names.join(" ").replace("LAB", &lab));
    let known = host.path().join(format!("machines-{lab}"));
    fs::write(&known, "w9\n").unwrap();
    for name in names.split(' ') {
        fs::create_dir_all(host.path().join("cgroup").join(name)).unwrap();
    }
    let script = format!(
        "set -euo pipefail\nIRONSTRAP_LAB_CACHE={at} IRONSTRAP_LAB={at}/{lab}\n. tests/lab/common.sh\n\
         . tests/lab/machines.sh\nip() {{ printf '%s (id: 1)\\n' {names}; }}\ncontrollers() {{ echo {at}/cgroup; }}\n\
         check_clean\n"
    );
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.success(), said.is_empty(), "{said}");
    // The list of machines stays as long as something is left of them.
    assert_eq!(known.exists(), !said.is_empty());
    said.replace(&format!("{at}/"), "").replace(&lab, "LAB")
}

#[test]
fn a_lab_finds_only_its_own_leftovers() {
    let others = ["LAB-drift-1", "LAB-drift-1-m1", "LAB-m1x", "x-LAB"];
    assert_eq!(leftovers(&others), "");
    let all = [&others[..], &["LAB", "LAB-m1", "LAB-w9"]].concat();
    assert_eq!(
        leftovers(&all),
        "network namespace LAB\nnetwork namespace LAB-m1\nnetwork namespace LAB-w9\ncgroup cgroup/LAB-m1\n\
         cgroup cgroup/LAB-w9\n"
    );
}

/// A repository with the runner, and with a cargo that fails or takes long for some arguments.
struct Stage(tempfile::TempDir);

impl Stage {
    fn new() -> Stage {
        let stage = Stage(tempfile::tempdir().unwrap());
        for folder in ["src", "templates", "inventories"] {
            stage.write(&format!("{folder}/file"), "one\n");
        }
        for file in ["Cargo.lock", "Cargo.toml", "Makefile", "clippy.toml", "rustfmt.toml"] {
            stage.write(file, "one\n");
        }
        stage.script("tests/lanes", &fs::read_to_string("tests/lanes").unwrap());
        let note = "echo \"$(basename \"$0\") ${IRONSTRAP_LAB-} $*\" >>\"$SAID\"\n";
        stage.script("tests/lab/lab", &format!("#!/bin/sh\n{note}"));
        stage.script("tests/shellcheck", "#!/bin/sh\n");
        let cargo = "case \"$*\" in\n\
            *' --drift --part=1/5') echo '3 passed, 2 failed'; exit 1 ;;\n\
            *' --drift --part=2/5') echo slow; sleep 60 ;;\n\
            *'--test scripts --test fuzz') echo 'test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured' ;;\n\
            *' --include-ignored') echo 'test result: ok. 7 passed; 0 failed; 1 ignored; 0 measured'\n\
              echo 'test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured' ;;\n\
            *'cluster -- --part'*) echo '4 passed, 0 failed' ;;\n\
            clippy*) exit \"${LINT:-0}\" ;;\n\
            esac\n";
        stage.script("bin/cargo", &format!("#!/bin/sh\n{note}{cargo}"));
        for git in ["init -q", "add -A", "-c user.name=a -c user.email=a@example.org commit -q -m one"] {
            let status = Command::new("git").args(git.split(' ')).current_dir(stage.0.path()).status();
            assert!(status.unwrap().success());
        }
        stage
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn script(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        program(&path, text);
    }

    /// The calls of the stubs, with their arguments.
    fn said(&self) -> String {
        fs::read_to_string(self.0.path().join(".git/said")).unwrap_or_default()
    }

    fn lanes(&self, words: &str) -> Command {
        let root = self.0.path();
        let path = format!("{}:{}", root.join("bin").display(), std::env::var("PATH").unwrap());
        let mut lanes = Command::new(root.join("tests/lanes"));
        lanes.args(words.split(' ')).env("PATH", path).env("SAID", root.join(".git/said"));
        lanes.env("IRONSTRAP_TEST_RESULTS", root.join(".git/results")).env("TMPDIR", root.join(".git"));
        lanes.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        lanes
    }

    fn run(&self, words: &str) -> (Option<i32>, String) {
        ended(self.lanes(words).output().unwrap())
    }
}

fn ended(output: Output) -> (Option<i32>, String) {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

fn has(text: &str, line: &str) -> bool {
    text.lines().any(|l| l.split_whitespace().collect::<Vec<_>>().join(" ").starts_with(line))
}

#[test]
fn lanes_end_with_the_sum_of_their_tests() {
    let stage = Stage::new();
    let (code, said) = stage.run("run quick cluster");
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(said.lines().last(), Some("26 passed, 0 failed"), "{said}");
    assert!(said.contains("quick: test result: ok. 7 passed"), "{said}");
    let calls = stage.said();
    for part in ["1/3", "2/3", "3/3"] {
        let lane = part.split('/').next().unwrap();
        let lab = format!("/var/lib/ironstrap-lab-cluster-{lane}");
        assert!(
            has(&calls, &format!("cargo {lab} test --locked --test cluster -- --part={part}")),
            "{calls}"
        );
        for command in ["up", "down", "check-clean"] {
            assert!(has(&calls, &format!("lab {lab} {command}")), "{command}: {calls}");
        }
    }
}

#[test]
fn a_failed_lane_is_listed_and_its_lab_is_removed() {
    let stage = Stage::new();
    let (code, said) = stage.run("run drift-1 cluster-1");
    assert_eq!((code, said.lines().last()), (Some(1), Some("7 passed, 2 failed")), "{said}");
    let row = said.lines().find(|line| line.starts_with("drift-1 ") && line.ends_with("FAILED"));
    assert_eq!(row.unwrap().split_whitespace().skip(2).collect::<Vec<_>>(), ["3", "2", "FAILED"]);
    assert!(has(&stage.said(), "lab /var/lib/ironstrap-lab-drift-1 down"), "{}", stage.said());
    // A failed step that is no test counts as one failed test.
    let (code, said) = ended(stage.lanes("run quick").env("LINT", "1").output().unwrap());
    assert_eq!((code, said.lines().last()), (Some(1), Some("14 passed, 1 failed")), "{said}");
    assert_eq!(stage.run("run nothing").0, Some(2));
}

#[test]
fn a_result_counts_only_for_the_same_files() {
    let stage = Stage::new();
    assert!(has(&stage.run("results").1, "cluster-1 not run"));
    stage.run("run cluster-1 drift-1");
    let results = stage.run("results").1;
    assert!(has(&results, "cluster-1 passed at ") && has(&results, "drift-1 failed at "), "{results}");
    stage.write("README.md", "other\n");
    assert!(has(&stage.run("results").1, "cluster-1 passed at "), "no test reads README.md");
    for file in ["src/file", "templates/new", "tests/lab/lab", "Cargo.lock"] {
        let path = stage.0.path().join(file);
        let before = fs::read_to_string(&path);
        stage.write(file, "other\n");
        assert!(has(&stage.run("results").1, "cluster-1 not run"), "{file}");
        match before {
            Ok(text) => stage.write(file, &text),
            Err(_) => fs::remove_file(path).unwrap(),
        }
        assert!(has(&stage.run("results").1, "cluster-1 passed at "), "{file}");
    }
}

#[test]
fn a_stopped_run_removes_its_labs() {
    let stage = Stage::new();
    let child = stage.lanes("run drift-2 cluster-1").spawn().unwrap();
    let since = Instant::now();
    while !has(&stage.said(), "cargo /var/lib/ironstrap-lab-drift-2 test") {
        assert!(since.elapsed() < Duration::from_secs(50), "{}", stage.said());
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let (code, said) = ended(child.wait_with_output().unwrap());
    assert_eq!(code, Some(1), "{said}");
    assert!(since.elapsed() < Duration::from_secs(55), "the runner waited for the end of the lane");
    assert!(has(&stage.said(), "lab /var/lib/ironstrap-lab-drift-2 down"), "{}", stage.said());
}
