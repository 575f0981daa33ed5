//! Runs ironstrap's scripts in real shells: asks, truncated scripts, and the functions that fixes share. Text
//! replacement moves the paths of a machine below a folder. Its commands are scripts in that folder.

mod addresses;
mod components;
mod containerd;
mod diagnose;
mod early;
mod files;
mod images;
mod kubelet_files;
mod lease;
mod leases;
mod packages;
mod programs;
mod registries;
mod rollout;
mod serving;
mod units;

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use ironstrap::cluster::ETCD_DIR;
use ironstrap::ledger::{self, Run};
use ironstrap::machine::Lease;
use ironstrap::plan::{self, Change};
use ironstrap::probe;
use ironstrap::shell::PRELUDE;
use ironstrap::step::{Answer, Ask, Back, Step, Undo, Want};

use crate::support::root::{Root, templates};
use crate::support::{run, sh, shells};

const BOUNDARY: &str = "--0123456789abcdef";

const TOY: Step = Step { name: "toy", why: "so that something is changed", wants: |_| Ok(vec![]) };

/// The answers of the host, in this shell.
fn answers(shell: &str, asks: &[Ask]) -> Vec<Answer> {
    let asks: Vec<&Ask> = asks.iter().collect();
    let output = run(shell, &probe::script(&asks, BOUNDARY, ETCD_DIR));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{shell}: {said}");
    let (machine, answers) = probe::answers(&output.stdout, &asks, BOUNDARY).unwrap();
    assert!(!machine.boot.is_empty() && machine.cpus > 0 && machine.memory > 0, "{machine:?}");
    answers
}

fn said(text: &str) -> Answer {
    Answer::Said(text.into())
}

#[test]
fn an_ask_returns_its_exact_output_or_unknown() {
    let unknown = |why: &str| Answer::Unknown(why.into());
    let cases = [
        ("echo yes", said("yes\n")),
        ("printf 'no end'", said("no end")),
        ("x='a\\nb\\tc\\\\d\\0e\\c'; echo \"$x\" f", said("a\\nb\\tc\\\\d\\0e\\c f\n")),
        (":", said("")),
        ("exit 0; echo more", said("")),
        ("exit 3", unknown("exit 3: ")),
        ("echo half; exit 3", unknown("exit 3: ")),
        ("false; echo x", unknown("exit 1: ")),
        ("x=$(false); echo x", unknown("exit 1: ")),
        ("set +e; false", unknown("exit 1: ")),
        ("set +e; false; echo x", said("x\n")),
        ("( exit 7 ); echo x", unknown("exit 7: ")),
        ("echo noise >&2; echo x", unknown("exit 0: noise")),
        ("printf '\\377\\376'", unknown("the answer is not UTF-8 text")),
        ("printf 'caf\\303\\251'", said("café")),
        ("printf '\\n--fedcba9876543210 0\\n\\n--fedcba9876543210\\n'", {
            said("\n--fedcba9876543210 0\n\n--fedcba9876543210\n")
        }),
        ("cat", said("")),
        ("read -r x || echo nothing", said("nothing\n")),
        ("cd /tmp; x=left; set -- a b", said("")),
        ("echo \"${x-}$#\"; pwd", said("0\n/\n")),
        ("cat <<'EOF'\n}\n$x `y` \\\nEOF", said("}\n$x `y` \\\n")),
        ("exec 3>/dev/null; echo x", said("x\n")),
        ("trap 'echo bye' EXIT; echo x", said("x\nbye\n")),
    ];
    for shell in shells() {
        let asks: Vec<Ask> = cases.iter().map(|(ask, _)| Ask::Shell((*ask).into())).collect();
        for ((ask, right), answer) in cases.iter().zip(answers(shell, &asks)) {
            assert_eq!(answer, *right, "{shell}: {ask}");
        }
    }
}

#[test]
fn output_on_stderr_makes_an_answer_unknown() {
    for shell in shells() {
        let asks = ["cat /missing/file | sort", "echo \"$nowhere\"", "missing-command", "cat </missing/file"];
        for (ask, answer) in asks.iter().zip(answers(shell, &asks.map(|ask| Ask::Shell(ask.into())))) {
            let Answer::Unknown(why) = answer else { panic!("{shell}: {ask}: {answer:?}") };
            assert!(why.len() > "exit 0: ".len(), "{shell}: {ask}: no reason: {why}");
        }
    }
}

#[test]
fn a_long_answer_arrives_whole() {
    for shell in shells() {
        let asks =
            [Ask::Shell("head -c 1048576 /dev/zero | tr '\\0' x".into()), Ask::Shell("echo after".into())];
        let answers = answers(shell, &asks);
        assert!(
            matches!(&answers[0], Answer::Said(text) if text.len() == 1 << 20 && text.starts_with("xxx"))
        );
        assert_eq!(answers[1], said("after\n"));
    }
}

#[test]
fn files_are_read_exactly() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let texts = [("a", "one\n"), ("b", ""), ("c", "no end"), ("d", "\n--0123 0\n\n"), ("e", "last\n\n\n")];
    for (name, text) in texts {
        fs::write(path(name), text).unwrap();
        fs::set_permissions(path(name), Permissions::from_mode(0o640)).unwrap();
    }
    fs::write(path("binary"), b"\xff\xfe").unwrap();
    fs::create_dir(path("folder")).unwrap();
    symlink(path("c"), path("link")).unwrap();
    symlink(path("nowhere"), path("broken")).unwrap();
    let names = ["a", "b", "c", "d", "e", "link", "missing", "broken", "a/below", "binary", "folder"];
    let asks: Vec<Ask> = names.iter().map(|name| Ask::File(path(name))).collect();
    for shell in shells() {
        let answers = answers(shell, &asks);
        for (i, text) in texts.iter().map(|(_, text)| *text).chain(["no end"]).enumerate() {
            let Answer::Said(answer) = &answers[i] else { panic!("{:?}", answers[i]) };
            let (head, body) = answer.split_once('\n').unwrap();
            assert!(head.starts_with("mode 640 "), "{head}");
            assert_eq!(body, text, "{shell}: {}", names[i]);
        }
        assert_eq!(answers[6..9], [Answer::Absent, Answer::Absent, Answer::Absent]);
        assert_eq!(answers[9], Answer::Unknown(format!("{} is not UTF-8 text", path("binary"))));
        assert_eq!(answers[10], Answer::Unknown(format!("{} is not a regular file", path("folder"))));
        let hash = &self::answers(shell, &[Ask::Hash(path("a"))])[0];
        let right = "\nsha256 2c8b08da5ce60398e1f19af0e5dccc744df274b826abe585eaba68c525434806";
        assert!(matches!(hash, Answer::Said(text) if text.ends_with(right)), "{hash:?}");
    }
}

/// A machine whose scripts have the functions that fixes share.
fn new_root() -> Root {
    let root = Root::new(&["/run/", "/var/lib/", "/etc/"])
        .before(&format!("WAIT_TIMEOUT=300\n{}", templates(&["lib", "undo"])));
    for dir in ["bin", "run/systemd/transient", "var/lib/dpkg", "var/lib/apt/lists"] {
        fs::create_dir_all(root.path(dir)).unwrap();
    }
    root
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn me() -> Run {
    Run::new("1f2e", "me@here")
}

/// Changes that touch one file each.
fn touches(root: &Root, names: &[&str]) -> Vec<Change> {
    let change = |name: &&str| {
        let want = Want::new("test.want", format!("{name} is there"))
            .is("yes")
            .run(sh(format!("touch {}", root.path(name).display())))
            .undone_by(Undo::Back(Back::new(name, format!("{name} is gone")).keep("echo of old")));
        plan::changes(&[(&TOY, &want, &Answer::Said("no\n".into()))], &mut Default::default()).remove(0)
    };
    names.iter().map(change).collect()
}

#[test]
fn scripts_find_only_listed_programs_of_this_computer() {
    let names = "for name in ctr docker ip kubectl nft systemctl; do command -v $name || :; done";
    for shell in shells() {
        let root = new_root();
        assert_eq!(root.good(shell, names), "", "{shell}");
        assert_eq!(root.good(shell, &format!("{PRELUDE}\n{names}")), "", "{shell}");
        root.command("ctr", "");
        assert!(root.good(shell, &format!("{PRELUDE}\n{names}")).ends_with("/bin/ctr\n"), "{shell}");
    }
}

#[test]
fn a_truncated_script_runs_nothing() {
    let root = new_root();
    let changes = touches(&root, &["one", "two"]);
    let changes: Vec<&Change> = changes.iter().collect();
    let seen = Lease::default();
    let fix = root.moved(&ledger::fix(&me(), Some(&seen), &changes, BOUNDARY));
    let touch = Ask::Shell(sh(format!("touch {}", root.path("asked").display())));
    let probe = root.moved(&probe::script(&[&touch, &Ask::Facts], BOUNDARY, ETCD_DIR));
    let traces = ["one", "two", "asked", "run/ironstrap", "var/lib/ironstrap"];
    for (script, does) in [(fix, "one"), (probe, "asked")] {
        // A shell runs the group only after its closing brace has arrived.
        let end = "\n} </dev/null\n";
        assert!(script.starts_with("{\n") && script.ends_with(end), "one group: {script}");
        let brace = script.len() - end.len() + 2;
        for shell in shells() {
            // Near the end, cut at every byte. Before that, the first shell cuts at every byte and the others at
            // every 7th. Far from the end, every 97th is enough.
            let step = if shell == shells()[0] { 1 } else { 7 };
            let ends = (0..brace).filter(|end| match brace - end {
                ..40 => true,
                40..600 => end % step == 0,
                _ => end % 97 == 0,
            });
            for end in ends {
                run(shell, &script[..end]);
                for trace in traces {
                    assert!(!root.path(trace).exists(), "{shell} ran a script of {end} bytes: {trace}");
                }
            }
            run(shell, &script);
            assert!(root.path(does).exists(), "{shell}: the whole script runs");
            for trace in traces {
                let path = root.path(trace);
                let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
            }
        }
    }
}

#[test]
fn a_script_stops_at_the_first_failed_fix() {
    for shell in shells() {
        let root = new_root();
        let mut changes = touches(&root, &["one", "two", "three"]);
        changes[1].fix = ironstrap::step::Fix::Run("echo before\nfalse\necho never".into());
        let changes: Vec<&Change> = changes.iter().collect();
        let output = run(shell, &root.moved(&ledger::fix(&me(), None, &changes, BOUNDARY)));
        let out = text(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{shell}: {out}{}", text(&output.stderr));
        let mut parser = ledger::OutputParser::new(BOUNDARY);
        use ledger::OutputLine::{Done, Said, Started};
        let heard = parser.feed(&output.stdout);
        assert_eq!(
            heard,
            [Started(0), Done(0, 0), Started(1), Said("before".into()), Done(1, 1)],
            "{shell}: {out}"
        );
        assert!(root.path("one").exists() && !root.path("three").exists());
        assert_eq!(root.read("var/lib/ironstrap/before/toy-one.answer"), "no\n");
        assert_eq!(root.read("var/lib/ironstrap/before/toy-one.kept"), "of old\n");
        assert_eq!(root.read("var/lib/ironstrap/before/toy-three.answer"), "absent");
    }
}

#[test]
fn write_file_sets_content_and_mode() {
    for shell in shells() {
        let root = new_root();
        root.good(shell, "write_file /etc/new/file 640 <<'END'\n$x `y` \\z\n}\nEND");
        assert_eq!(root.read("etc/new/file"), "$x `y` \\z\n}\n");
        assert_eq!(root.mode("etc/new/file"), 0o640);
        root.good(shell, "write_file /etc/new/file 600 <<'END'\nEND");
        assert_eq!((root.read("etc/new/file").as_str(), root.mode("etc/new/file")), ("", 0o600));
        assert_eq!(fs::read_dir(root.path("etc/new")).unwrap().count(), 1, "nothing is left beside it");
    }
}

#[test]
fn a_stricter_file_mode_is_kept_and_a_wider_one_fixed() {
    // The user of the test owns the files. On a machine they belong to root.
    let roots = |answer: &Answer| match answer {
        Answer::Said(text) => {
            let (head, rest) = text.split_once('\n').unwrap();
            let mode = head.rsplit_once(' ').unwrap().0;
            Answer::Said(format!("{mode} root:root\n{rest}"))
        }
        unknown => unknown.clone(),
    };
    for shell in shells() {
        let root = new_root();
        let path = root.path("etc/cni/net.d/10-flannel.conflist").display().to_string();
        let want = Want::file("test.want", "it is ours", &path, 0o644, "{}\n")
            .allow_narrower_mode()
            .nothing_to_undo("a test");
        for (text, mode, left) in [
            ("{}\n", 0o600, None),
            ("{}\n", 0o400, None),
            ("{}\n", 0o644, None),
            ("old\n", 0o600, Some(0o600)),
            ("old\n", 0o440, Some(0o440)),
            ("{}\n", 0o666, Some(0o644)),
            ("old\n", 0o755, Some(0o644)),
            ("{}\n", 0o200, Some(0o644)),
        ] {
            root.write("etc/cni/net.d/10-flannel.conflist", text);
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let answer = roots(&answers(shell, std::slice::from_ref(&want.ask))[0]);
            let changes = plan::changes(&[(&TOY, &want, &answer)], &mut Default::default());
            assert_eq!(changes.len(), usize::from(left.is_some()), "{shell}: {text:?} with {mode:o}");
            let Some(left) = left else { continue };
            let changes: Vec<&Change> = changes.iter().collect();
            // This path is below the folder already, so it must not be moved twice.
            let script = ledger::fix(&me(), None, &changes, BOUNDARY).replace(&path, "THE-PATH");
            let output = run(shell, &root.moved(&script).replace("THE-PATH", &path));
            assert!(output.status.success(), "{shell}: {}{}", text_of(&output), output.status);
            assert_eq!(
                (fs::read_to_string(&path).unwrap().as_str(), root.mode("etc/cni/net.d/10-flannel.conflist")),
                ("{}\n", left)
            );
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        }
    }
}

fn text_of(output: &Output) -> String {
    text(&output.stdout) + &text(&output.stderr)
}

#[test]
fn write_file_can_keep_the_mode_and_follows_links() {
    for shell in shells() {
        let root = new_root();
        root.write("etc/kept", "no end");
        fs::set_permissions(root.path("etc/kept"), Permissions::from_mode(0o604)).unwrap();
        symlink("kept", root.path("etc/link")).unwrap();
        root.good(shell, "write_file /etc/link kept <<'END'\nnew\nEND");
        assert_eq!((root.read("etc/kept").as_str(), root.mode("etc/kept")), ("new\n", 0o604));
        assert!(fs::symlink_metadata(root.path("etc/link")).unwrap().is_symlink());
    }
}

#[test]
fn a_backup_is_made_only_once() {
    for shell in shells() {
        let root = new_root();
        root.write("etc/a", "first");
        fs::set_permissions(root.path("etc/a"), Permissions::from_mode(0o604)).unwrap();
        let kept = "var/lib/ironstrap/before";
        root.good(shell, "backup_file a /etc/a; backup_file b /etc/b\nbackup_answer c <<'END'\none\nEND");
        root.write("etc/a", "second");
        root.write("etc/b", "new");
        root.good(shell, "backup_file a /etc/a; backup_file b /etc/b\nbackup_answer c <<'END'\ntwo\nEND");
        assert_eq!(root.read(&format!("{kept}/a.file")), "first");
        assert_eq!(root.mode(&format!("{kept}/a.file")), 0o604);
        assert_eq!(root.read(&format!("{kept}/b.absent")), "");
        assert_eq!(root.read(&format!("{kept}/b.file")), "absent");
        assert_eq!(root.read(&format!("{kept}/c.answer")), "one\n");
        assert_eq!((root.mode(kept), root.mode(&format!("{kept}/c.answer"))), (0o700, 0o600));
        assert_eq!(fs::read_dir(root.path(kept)).unwrap().count(), 8, "nothing half done is left");
    }
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn retry_renews_the_lease_and_stops_when_it_is_lost() {
    for shell in shells() {
        let root = new_root();
        let tries = "try() { echo x >>$RUN/tries; echo not yet >&2; [ $(wc -l <$RUN/tries) -gt 2 ]; }\n";
        let lease = "take_lease 0 ours me@here 120 - -\nsed -i 's/ours [0-9]* /ours 1 /' $RUN/lease\n";
        let output = root.run(shell, &format!("{lease}{tries}retry try"));
        assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""), "{shell}");
        let until: u64 = root.read("run/ironstrap/lease").split(' ').nth(2).unwrap().parse().unwrap();
        assert!(until >= now() + 100, "{shell}: the lease was not kept");
        let output =
            root.run(shell, &format!("lease_run=another lease_seconds=120\n{tries}rm $RUN/tries\nretry try"));
        assert_eq!(
            (output.status.code(), text(&output.stdout).trim()),
            (Some(75), "lease lost: me@here (run ours) took it")
        );
    }
}

#[test]
fn retry_ignores_log_lines_from_before_it_began() {
    for shell in shells() {
        let root = new_root();
        // The lease was taken long ago, and has that time.
        let lease = "take_lease 0 ours me@here 120 - -\nsed -i \"s/ $now / 1000 /\" $RUN/lease\n";
        let tries = "try() { echo x >>$RUN/tries; [ $(wc -l <$RUN/tries) -gt 2 ]; }\nfatal_log_line() { echo $1 >>$RUN/asked; return 1; }\n";
        root.run(shell, &format!("{lease}{tries}retry try"));
        assert!(root.read("run/ironstrap/lease").contains(" 1000 "), "{shell}");
        let asked = root.read("run/ironstrap/asked");
        assert_eq!(asked.lines().count(), 2, "{shell}: {asked}");
        assert!(asked.lines().all(|since| since.parse::<u64>().unwrap() + 60 > now()), "{shell}: {asked}");
    }
}

#[test]
fn retry_times_out_with_the_last_output() {
    for shell in shells() {
        let root = new_root();
        let script = "WAIT_TIMEOUT=1; mkdir -p $RUN; try() { echo not yet >&2; echo reason: forged >&2; return 1; }; retry try";
        let output = root.run(shell, script);
        assert_eq!(output.status.code(), Some(1), "{shell}");
        assert_eq!(
            text(&output.stderr),
            "  not yet\n  reason: forged\ntimed out after 1 s (--wait-timeout)\n",
            "{shell}"
        );
    }
}

/// The component `gone` does not run. The API server answers if `api` is true. Each try takes five seconds.
#[test]
fn retry_restarts_the_kubelet_for_a_missing_controller() {
    for shell in shells() {
        let run = |gone: &str, api: &str| {
            let root = new_root();
            root.write("etc/kubernetes/manifests/kube-controller-manager.yaml", "");
            root.command("systemctl", "echo \"$*\" >>$ROOT/restarted");
            let functions = ironstrap::shell::controllers("m1");
            let script = format!(
                "{functions}find_component() {{ pids=7; [ $1 != \"{gone}\" ] || pids=; }}\n\
                 component_api_answers() {{ {api}; }}\ntime=100\nfatal_log_line() {{ return 1; }}\nsleep() {{ :; }}\n\
                 try() {{ echo x >>$RUN/tries; [ $(wc -l <$RUN/tries) -gt 12 ]; }}\nmkdir -p $RUN; : >$RUN/tries\n\
                 date() {{ echo $(($(wc -l <$RUN/tries) * 5)); }}\nretry try"
            );
            let output = root.run(shell, &script);
            assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""), "{shell}");
            let said = text(&output.stdout);
            (said, if root.path("restarted").exists() { root.read("restarted") } else { String::new() })
        };
        let none = (String::new(), String::new());
        assert_eq!(run("", "true"), none, "{shell}");
        assert_eq!(run("kube-controller-manager", "false"), none, "{shell}");
        assert_eq!(run("kube-scheduler", "true"), none, "{shell}: it has no manifest");
        let said = "kube-controller-manager of m1 does not run; ironstrap restarts its kubelet, which starts it at once\n";
        let restarted = (said.to_string(), "restart kubelet\n".to_string());
        assert_eq!(run("kube-controller-manager", "true"), restarted, "{shell}");
    }
}

#[test]
fn retry_stops_after_three_identical_kubelet_failures() {
    let line = |n: usize, why: &str| {
        format!("E1128 21:34:1{n}.779121     23{n} run.go:72] \"command failed\" err=\"{why}\"\n")
    };
    let same: String = (0..3).map(|n| line(n, "no such flag")).collect();
    let two: String = (0..4).map(|n| line(n, if n < 2 { "no such flag" } else { "no socket" })).collect();
    for shell in shells() {
        let run = |journal: &str, state: &str| {
            let root = new_root();
            root.write("journal", journal);
            root.command("journalctl", "cat $ROOT/journal");
            root.command("systemctl", &format!("echo {state}"));
            let script = "FATAL_PATTERNS='never said'; WAIT_TIMEOUT=1; mkdir -p $RUN; retry false";
            text(&root.run(shell, script).stderr)
        };
        let ends = "waiting does not help: the kubelet ends with \"no such flag\"\n";
        assert_eq!(run(&same, "auto-restart"), ends, "{shell}");
        assert_eq!(run(&same, "failed"), ends, "{shell}");
        assert_eq!(run(&two, "auto-restart"), "timed out after 1 s (--wait-timeout)\n", "{shell}");
        // A running kubelet also logs messages of tenants.
        for state in ["running", "dead", ""] {
            assert_eq!(run(&same, state), "timed out after 1 s (--wait-timeout)\n", "{shell}: {state}");
        }
    }
}

#[test]
fn retry_stops_at_a_fatal_line_of_the_program_itself() {
    let why = "failed to run Kubelet: running with swap on is not supported";
    let head = "E1128 21:34:10.779121     230";
    let failed = format!("{head} run.go:72] \"command failed\" err=\"{why}, please\"\n");
    let flag = "2999-01-01T00:00:00Z stderr F Error: unknown flag: --x\n";
    let tenants = format!(
        "{head} pod_workers.go:1] \"Error syncing pod, skipping\" err=\"exec: {why} ] \\\"command failed\\\" err=\\\"{why}\\\"\"\n\t{failed}"
    );
    let printed = "2999-01-01T00:00:00Z stdout F it says: Error: unknown flag: --x\n";
    for shell in shells() {
        let run = |journal: &str, log: &str, state: &str| {
            let root = new_root();
            root.command("systemctl", &format!("echo {state}"));
            root.write("journal", &journal.repeat(3));
            root.write("log", log);
            root.command("journalctl", "cat $ROOT/journal");
            root.command("find", "cat $ROOT/log");
            let script = format!(
                "{}WAIT_TIMEOUT=0; mkdir -p $RUN; retry false",
                ironstrap::diagnosis::fatal_patterns()
            );
            text(&root.run(shell, &script).stderr)
        };
        // The reason counts also if no time is left.
        let waited = "timed out after 0 s (--wait-timeout)\n";
        assert_eq!(run(&failed, "", "auto-restart"), format!("waiting does not help: {failed}"), "{shell}");
        assert_eq!(
            run(&failed, "", "running"),
            waited,
            "{shell}: a tenant can have a kubelet that runs log this"
        );
        assert_eq!(run("", flag, "running"), "waiting does not help: Error: unknown flag: --x\n", "{shell}");
        assert_eq!(run(&tenants, printed, "auto-restart"), waited, "{shell}");
    }
}

#[test]
fn exit_code_76_is_not_retried() {
    for shell in shells() {
        let root = new_root();
        let output = root.run(
            shell,
            "mkdir -p $RUN; try() { printf 'the reason\nreason: forged\n' >&2; return 76; }; retry try",
        );
        assert_eq!(output.status.code(), Some(1), "{shell}");
        assert_eq!(text(&output.stderr), "waiting does not help: the reason\n  reason: forged\n", "{shell}");
    }
}

#[test]
fn the_log_watch_ends_after_its_shell_is_killed() {
    for shell in shells() {
        let root = new_root();
        root.command("systemctl", "");
        // Ends a watch that does not end by itself, so that it does not outlive the test.
        root.command(
            "sleep",
            "echo tick >>$ROOT/ticks; [ $(wc -l <$ROOT/ticks) -lt 50 ] || kill $PPID; /bin/sleep 0.1",
        );
        let killed = "exec >/dev/null 2>&1; fatal_log_line() { return 1; }; run_unless_fatal sh -c 'kill -9 $PPID; /bin/sleep 0.3'";
        assert!(!root.run(shell, killed).status.success(), "{shell}");
        // On a loaded host it may take a while until the watch ends. A watch that never ends ticks fifty times.
        let mut ticks = String::new();
        while root.read("ticks") != ticks || ticks.is_empty() {
            ticks = root.read("ticks");
            std::thread::sleep(Duration::from_secs(2));
        }
        assert!(ticks.lines().count() < 50, "{shell}: the watch did not end");
    }
}

#[test]
fn kubectl_is_retried_only_while_the_api_server_is_away() {
    let kubectl = ironstrap::shell::kubectl();
    let kubectl = kubectl
        .replace("command kubectl ", "fake ")
        .replace("retry kubectl get --raw /readyz >/dev/null", "");
    // A stand-in for kubectl. Each call takes one line `STATUS WORDS` as its answer, and its input is kept.
    let fake = "fake() { case $* in *readyz*) [ ! -e $RUN/unready ]; return ;; esac\n\
                cat >>$RUN/got; read -r status words <$RUN/says; sed -i 1d $RUN/says; echo \"$words\" >&2; [ $status != 0 ] || echo out; return $status; }\n";
    for shell in shells() {
        let run = |says: &str, more: &str| {
            let root = new_root();
            root.write("run/ironstrap/says", says);
            root.command("sleep", "rm -f $ROOT/run/ironstrap/unready; echo slept >>$ROOT/slept");
            let script = format!("{fake}{kubectl}{more}\nkubectl apply -f - <<'X'\none\ntwo\nX");
            let output = root.run(shell, &script);
            let slept = root.read("slept").lines().filter(|line| *line == "slept").count();
            (
                output.status.code(),
                text(&output.stdout),
                text(&output.stderr),
                root.read("run/ironstrap/got"),
                slept,
            )
        };
        let (code, out, err, got, slept) =
            run("1 dial tcp: connection refused\n1 unexpected EOF\n0 done\n", "");
        assert_eq!(
            (code, out.as_str(), err.as_str(), slept),
            (Some(0), "out\n", "kubectl: done\n", 2),
            "{shell}"
        );
        assert_eq!(got, "one\ntwo\n".repeat(3), "{shell}: each try gets the whole input");
        let (code, _, err, _, slept) = run("1 Forbidden\n0 done\n", ": >$RUN/unready");
        assert_eq!((code, err.as_str(), slept), (Some(0), "kubectl: done\n", 1), "{shell}: not ready yet");
        let (code, _, err, _, slept) = run("1 Forbidden\n0 done\n", "");
        assert_eq!(
            (code, err.as_str(), slept),
            (Some(1), "kubectl: Forbidden\n", 0),
            "{shell}: this is a real refusal"
        );
        let (code, ..) = run("1 connection refused\n0 done\n", "WAIT_TIMEOUT=0");
        assert_eq!(code, Some(1), "{shell}: the time limit is over");
    }
}

/// Starts a process that locks a file until its input is closed.
fn locked(path: &std::path::Path) -> std::process::Child {
    let mut flock = Command::new("flock");
    let mut child = flock.arg(path).arg("-c").arg("echo locked; read x || :");
    let mut child = {
        child = child.stdin(Stdio::piped()).stdout(Stdio::piped());
        child.spawn().unwrap()
    };
    let mut word = [0; 7];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut word).unwrap();
    child
}

#[test]
fn package_commands_wait_for_the_lock_and_name_its_holder() {
    if fs::read_to_string("/proc/locks").is_err() || which::which("flock").is_err() {
        std::io::stderr().write_all(b"SKIPPED: this machine does not tell who holds a lock\n").unwrap();
        return;
    }
    for shell in shells() {
        let root = new_root();
        let mut holder = locked(&root.path("var/lib/dpkg/lock-frontend"));
        let who = format!("waits for: the package lock, held by process {} (flock)\n", holder.id());
        root.command("systemctl", "echo \"$*\" >>$ROOT/systemctl");
        // After two calls of sleep the lock is free. They do not really sleep.
        root.command("sleep", "echo slept >>$ROOT/slept");
        let locked = "if [ ! -e $ROOT/slept ] || [ $(wc -l <$ROOT/slept) -lt 2 ]; then";
        root.command(
            "apt-get",
            &format!(
                "echo \"$*\" >>$ROOT/apt\n{locked} echo 'E: Could not get lock /var/lib/dpkg/lock-frontend.'; exit 100; fi\necho done"
            ),
        );
        let out = root.good(shell, "mkdir -p /run/ironstrap; apt_get update");
        assert_eq!(out.matches("waits for: ").count(), 1, "{shell}: {out}");
        assert!(out.contains(&who) && out.ends_with("done\n"), "{shell}: {out} {who}");
        assert_eq!(root.read("slept"), "slept\nslept\n");
        assert!(root.read("apt").lines().all(|line| line.contains("-y") && line.ends_with("update")));

        fs::remove_file(root.path("slept")).unwrap();
        root.command(
            "dpkg",
            &format!("echo \"$*\" >>$ROOT/dpkg\n{locked} echo 'dpkg: error: lock is held'; exit 2; fi"),
        );
        let out = root.good(shell, "pkg_install toy 'kubelet=1.36.3-*'");
        assert_eq!(out.matches(&who).count(), 1, "{shell}: {out}");
        assert!(root.read("dpkg").starts_with("--configure -a"));
        assert!(root.read("apt").ends_with(
            "install --no-remove --allow-change-held-packages --allow-downgrades kubelet=1.36.3-*\n"
        ));
        // The package of kubeadm has only a drop-in, and does not reload systemd.
        assert_eq!(root.read("systemctl"), "daemon-reload\n", "{shell}");
        drop(holder.stdin.take());
        holder.wait().unwrap();
    }
}

#[test]
fn an_install_that_would_remove_packages_is_refused() {
    for shell in shells() {
        let root = new_root();
        root.command("dpkg", ":");
        let apt = r#"echo "$*" >>$ROOT/apt
case " $* " in *' -s '*) echo 'Remv docker-ce [5:28]'; echo 'Remv containerd.io [1.7]'; echo 'Inst containerd (1.7 x)' ;; esac"#;
        root.command("apt-get", apt);
        let output = root.run(shell, "pkg_install toy containerd; echo never");
        assert_eq!(output.status.code(), Some(1), "{shell}");
        assert_eq!(text(&output.stdout), "these packages would be removed: docker-ce containerd.io\n");
        assert_eq!(root.read("apt").lines().count(), 1, "{shell}: it only asked");
        assert_eq!(root.read("var/lib/ironstrap/came/toy"), "absent", "{shell}");
    }
}

#[test]
fn an_unavailable_package_fails_at_once() {
    for shell in shells() {
        let root = new_root();
        root.command("sleep", "echo slept >>$ROOT/slept");
        root.command("apt-get", "echo 'E: Unable to locate package kubelet'; exit 100");
        let output = root.run(shell, "mkdir -p /run/ironstrap; apt_get install kubelet; echo never");
        assert_eq!(output.status.code(), Some(100), "{shell}");
        assert_eq!(text(&output.stdout), "E: Unable to locate package kubelet\n");
        assert_eq!(root.read("slept"), "absent");
    }
}

#[test]
fn quoting_keeps_every_byte() {
    let word = "a'b\"c $d `e` \\f\n*;|&<>(){}~#!é";
    for shell in shells() {
        let script = format!("printf %s {}", ironstrap::shell::quote(word));
        assert_eq!(text(&run(shell, &script).stdout), word, "{shell}");
    }
}

#[test]
fn restore_puts_a_backup_back_and_deletes_it() {
    for shell in shells() {
        let root = new_root();
        root.write("etc/a", "first");
        fs::set_permissions(root.path("etc/a"), Permissions::from_mode(0o604)).unwrap();
        root.good(shell, "backup_file a /etc/a; backup_file b /etc/new/folder/b");
        root.good(shell, "for f in a new/folder/b; do echo ours | write_file /etc/$f 640; done");
        root.good(shell, "restore b; restore a; restore a");
        assert_eq!((root.read("etc/a").as_str(), root.mode("etc/a")), ("first", 0o604));
        assert!(!root.path("etc/new/folder/b").exists());
        assert_eq!(fs::read_dir(root.path("var/lib/ironstrap/before")).unwrap().count(), 0);
        let folders = format!("{0}/etc/new/folder\n{0}/etc/new\n", root.text());
        assert_eq!(root.read("var/lib/ironstrap/folders"), folders, "a reset deletes them at its end");
        // An earlier restore was killed before it deleted its last file. The restored file stays.
        root.write("var/lib/ironstrap/before/a.path", &format!("{}\n", root.path("etc/a").display()));
        root.good(shell, "restore a");
        assert_eq!(root.read("etc/a"), "first");
    }
}

/// Stand-ins for dpkg and apt. Each line of `packages` is `NAME STATUS DEPENDENT…`.
fn played_packages(root: &Root, packages: &str, manual: &str) {
    root.write("packages", packages);
    root.write("manual", manual);
    root.command(
        "dpkg-query",
        r#"for p; do :; done; sed -n "s/^$p \([a-z]*\).*/\1 /p" $ROOT/packages | grep . "#,
    );
    root.command("dpkg", "[ \"$1\" != -L ] || echo /usr/lib/systemd/system/$2.service");
    root.command("systemctl", "echo \"$*\" >>$ROOT/systemctl");
    root.command("apt-mark", "echo \"$*\" >>$ROOT/marks");
    root.command(
        "apt-get",
        r#"verb= names= sim=
for a; do case $a in -s) sim=yes ;; purge | remove | autoremove) verb=$a ;; -* | *=*) ;; *) [ -z "$verb" ] || names="$names $a" ;; esac; done
[ $verb != autoremove ] || names=$(cat $ROOT/alone)
if [ -n "$sim" ]; then
  for n in $names; do for r in $n $(sed -n "s/^$n [a-z]* *//p" $ROOT/packages); do echo "Remv $r [1]"; done; done
else echo "$verb$names" >>$ROOT/removed; fi"#,
    );
}

#[test]
fn pkg_remove_keeps_packages_that_were_there_before() {
    for shell in shells() {
        let root = new_root();
        played_packages(&root, "kubelet hi\nruntime hi\ntool hi\nold hi\n", "tool\n");
        root.write("alone", "came-too others-orphan");
        root.write("var/lib/ironstrap/came/x", "kubelet\ncame-too\n");
        root.write("was", "kubelet absent\nruntime ii 1\ntool ii 1\nold hi 1\n");
        root.good(
            shell,
            "pkg_remove $ROOT/was $ROOT/manual kubelet runtime tool old"
                .replace("$ROOT", &root.text())
                .as_str(),
        );
        assert_eq!(root.read("removed"), "purge kubelet\npurge came-too\n", "{shell}");
        let marks = "unhold kubelet\nunhold runtime\nauto runtime\nunhold tool\n";
        let mut found: Vec<String> = root.read("marks").lines().map(str::to_string).collect();
        found.sort();
        let mut right: Vec<&str> = marks.lines().collect();
        right.sort();
        assert_eq!(found, right, "{shell}");
        assert!(root.read("systemctl").contains("disable -q --now kubelet.service"));
    }
}

#[test]
fn a_package_that_others_depend_on_stays() {
    for shell in shells() {
        let root = new_root();
        played_packages(&root, "containerd hi docker\nrunc ii containerd\n", "");
        root.write("alone", "");
        root.write("var/lib/ironstrap/came/x", "containerd\nrunc\n");
        root.write("was", "containerd absent\n");
        let out =
            root.good(shell, &"pkg_remove $ROOT/was $ROOT/manual containerd".replace("$ROOT", &root.text()));
        assert_eq!(out, "containerd stays: apt would also remove docker\n", "{shell}");
        assert_eq!(root.read("removed"), "absent");
        assert_eq!(root.read("marks"), "unhold containerd\nauto containerd\n");
    }
}

/// What iptables-save prints on a member that also has rules of other programs.
const RULES: &str = r#"# Generated by iptables-save
*nat
:PREROUTING ACCEPT [0:0]
:CNI-DN-1a CNI
:CNI-DN-2b - [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
:CNI-f0 - [0:0]
:FLANNEL-POSTRTG - [0:0]
:KUBE-SERVICES - [0:0]
:OTHERS - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A PREROUTING -s 203.0.113.7/32 -j OTHERS
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A POSTROUTING -s 10.88.0.2/32 -m comment --comment "name: \"theirs\" id: \"x\"" -j CNI-f0
-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \"cbr0\" id: \"a\"" -j CNI-DN-1a
-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \"theirs\" id: \"b\"" -j CNI-DN-2b
-A KUBE-SERVICES -j RETURN
COMMIT
*filter
:INPUT DROP [0:0]
-A INPUT -m comment --comment "KUBE-ish but mine" -j ACCEPT
COMMIT
"#;

#[test]
fn only_iptables_rules_of_the_cluster_are_removed() {
    let leave =
        ["pods", "leave"].map(|name| fs::read_to_string(format!("templates/{name}.sh")).unwrap()).concat();
    for shell in shells() {
        let root = new_root();
        root.write("kept", "link lo\n");
        let ours = |rules: &str| {
            root.write("rules", rules);
            let dir = root.text();
            root.good(
                shell,
                &format!("ETCD=/x NETWORK=flannel\n{leave}\nkept={dir}/kept\nour_rules cbr0 <{dir}/rules"),
            )
        };
        let nat = "*nat\n:CNI-DN-1a - [0:0]\n:FLANNEL-POSTRTG - [0:0]\n:KUBE-SERVICES - [0:0]\n\
            -D PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
            -D POSTROUTING -m comment --comment \"flanneld masq\" -j FLANNEL-POSTRTG\n\
            -D CNI-HOSTPORT-DNAT -p tcp -m comment --comment \"dnat name: \\\"cbr0\\\" id: \\\"a\\\"\" -j CNI-DN-1a\n\
            -X CNI-DN-1a\n-X FLANNEL-POSTRTG\n-X KUBE-SERVICES\nCOMMIT\n";
        assert_eq!(ours(RULES), nat, "{shell}");
        // The chains that all CNI plugins share go with their last rule, unless they were there before.
        let alone: String = RULES
            .lines()
            .filter(|l| !l.contains("dnat name: \\\"theirs"))
            .map(|l| format!("{l}\n"))
            .collect();
        assert!(ours(&alone).contains("-X CNI-HOSTPORT-DNAT\n"), "{shell}");
        root.write("kept", "chain CNI-HOSTPORT-DNAT\n");
        assert!(!ours(&alone).contains("-X CNI-HOSTPORT-DNAT\n"), "{shell}");
        assert_eq!(ours("*filter\n:INPUT DROP [0:0]\n-A INPUT -j ACCEPT\nCOMMIT\n"), "");
    }
}
