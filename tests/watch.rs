//! Questions that never end, in real shells: the watchdog ends them, says so, and leaves nothing behind.

// clippy sees no test in what the tests share.
#![allow(clippy::unwrap_used)]

mod common;

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::shells;
use ironstrap::cluster::ETCD_DIR;
use ironstrap::probe::{self, Limits};
use ironstrap::step::{Answer, Ask};

const BOUNDARY: &str = "--boundary";

/// Half a second for a question.
const QUICK: Limits = Limits { tick: Duration::from_millis(250), each: 2, all: 60 };

fn ask(body: &str) -> Ask {
    Ask::Shell(common::sh(body))
}

/// A number of seconds that no other process sleeps for.
fn long(n: u32) -> String {
    format!("{}{n}", 100_000 + std::process::id())
}

/// Processes that sleep for so long.
fn sleepers(seconds: &str) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let pid = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse::<u32>().ok();
    let sleeps = |pid: &u32| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words == format!("sleep\0{seconds}\0").as_bytes()
    };
    all.filter_map(pid).filter(sleeps).collect()
}

fn run(shell: &str, asks: &[&Ask], limits: &Limits) -> (Output, Duration) {
    let since = Instant::now();
    let output = common::run(shell, &probe::script_within(asks, BOUNDARY, ETCD_DIR, limits));
    (output, since.elapsed())
}

fn said(text: &str) -> Answer {
    Answer::Said(text.into())
}

#[test]
fn a_question_that_never_ends_is_ended_and_named_and_the_others_are_answered() {
    for shell in shells() {
        for (n, how) in ["", "trap '' TERM; "].into_iter().enumerate() {
            let (child, own) = (long(1 + 2 * n as u32), long(2 + 2 * n as u32));
            let hangs = ask(&format!("# a comment\n{how}sleep {child} &\nsleep {own}"));
            let (one, two) = (ask("echo one"), ask("echo two"));
            let asks = [&one, &hangs, &two];
            let (output, took) = run(shell, &asks, &QUICK);
            let (_, answers) = probe::answers(&output.stdout, &asks, BOUNDARY).unwrap();
            assert_eq!((&answers[0], &answers[2]), (&said("one\n"), &said("two\n")), "{shell}");
            let Answer::Unknown(why) = &answers[1] else { panic!("{shell}: {answers:?}") };
            assert!(why.starts_with("no answer within 20 s: "), "{shell}: {why}");
            let late = probe::late(&output.stdout, &asks, BOUNDARY, &Limits::default());
            assert_eq!(late.len(), 1, "{shell}: {late:?}");
            assert!(late[0].what.starts_with("no answer within 20 s: "), "{shell}: {late:?}");
            assert!(late[0].what.contains("sleep "), "{shell}: the command is named: {late:?}");
            assert!(late[0].process.contains(" (sleep)"), "{shell}: {late:?}");
            assert!(took < Duration::from_secs(20), "{shell}: {took:?}");
            assert_eq!((sleepers(&child), sleepers(&own)), (vec![], vec![]), "{shell}");
        }
    }
}

#[test]
fn a_script_in_time_waits_for_nothing_that_watches_it() {
    // A process that held the script's output would keep the channel open: the run below ends when none does.
    let limits = Limits { tick: Duration::from_secs(60), ..QUICK };
    for shell in shells() {
        let one = ask("echo one");
        let (output, took) = run(shell, &[&one], &limits);
        let (_, answers) = probe::answers(&output.stdout, &[&one], BOUNDARY).unwrap();
        assert_eq!(answers, [said("one\n")], "{shell}");
        assert_eq!(output.status.code(), Some(0), "{shell}");
        assert!(took < Duration::from_secs(30), "{shell}: {took:?}");
    }
}

#[test]
fn questions_that_are_slow_one_by_one_are_bounded_together() {
    let limits = Limits { tick: Duration::from_millis(250), each: 8, all: 4 };
    for shell in shells() {
        let slow: Vec<Ask> = (0..20).map(|n| ask(&format!("sleep 0.5; echo {n}"))).collect();
        let asks: Vec<&Ask> = slow.iter().collect();
        let (output, took) = run(shell, &asks, &limits);
        assert!(probe::answers(&output.stdout, &asks, BOUNDARY).is_err(), "{shell}");
        let late = probe::late(&output.stdout, &asks, BOUNDARY, &limits);
        assert_eq!(late.len(), 1, "{shell}: {late:?}");
        assert!(
            late[0].what.starts_with("the questions did not end within 1 s, the last of them: sleep 0.5")
        );
        assert!(took < Duration::from_secs(10), "{shell}: {took:?}");
    }
}

#[test]
fn an_api_server_that_does_not_answer_is_no_fault_of_the_machine() {
    for shell in shells() {
        let seconds = long(5);
        let get = Ask::api(common::sh(format!("kubectl() {{ sleep {seconds}; }}\nkubectl get nodes")));
        let (output, _) = run(shell, &[&get], &QUICK);
        let (_, answers) = probe::answers(&output.stdout, &[&get], BOUNDARY).unwrap();
        assert!(matches!(&answers[0], Answer::Unknown(_)), "{shell}: {answers:?}");
        assert_eq!(probe::late(&output.stdout, &[&get], BOUNDARY, &QUICK), [], "{shell}");
        assert_eq!(sleepers(&seconds), Vec::<u32>::new(), "{shell}");
    }
}

/// Starts a script whose output goes to a file, for nothing ends what writes to it.
fn start(shell: &str, script: &str, output: &std::path::Path) -> std::process::Child {
    let script_file = output.with_extension("sh");
    std::fs::write(&script_file, script).unwrap();
    let file = |path: &std::path::Path| std::fs::File::open(path).unwrap();
    Command::new(shell)
        .arg("-s")
        .stdin(file(&script_file))
        .stdout(std::fs::File::create(output).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn end(pids: &[u32]) {
    for pid in pids {
        Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
    }
}

#[test]
fn a_process_that_nothing_ends_is_named_and_the_script_ends_without_it() {
    let dir = tempfile::tempdir().unwrap();
    for shell in shells() {
        let (seconds, path) = (long(6), dir.path().join(shell));
        let hangs = ask(&format!("sleep {seconds}; true"));
        // As for a process that waits for a disk, signals have no effect.
        let script =
            probe::script_within(&[&hangs], BOUNDARY, ETCD_DIR, &QUICK).replace("kill -\"$1\"", ": -\"$1\"");
        let mut child = start(shell, &script, &path);
        let since = Instant::now();
        while child.try_wait().unwrap().is_none() {
            assert!(since.elapsed() < Duration::from_secs(40), "{shell}: the script does not end");
            std::thread::sleep(Duration::from_millis(50));
        }
        let left = sleepers(&seconds);
        end(&left);
        assert_eq!(left.len(), 1, "{shell}: {left:?}");
        let reply = std::fs::read(&path).unwrap();
        assert!(probe::answers(&reply, &[&hangs], BOUNDARY).is_err(), "{shell}");
        let late = probe::late(&reply, &[&hangs], BOUNDARY, &Limits::default());
        let process = format!("the process that it waits for cannot be ended: {} (sleep)", left[0]);
        assert!(late.iter().any(|late| late.process == process), "{shell}: {late:?}");
    }
}

#[test]
fn a_question_that_hangs_when_the_connection_is_cut_is_ended_too() {
    let dir = tempfile::tempdir().unwrap();
    for shell in shells() {
        let (seconds, path) = (long(7), dir.path().join(shell));
        let hangs = ask(&format!("sleep {seconds}"));
        let mut child = start(shell, &probe::script_within(&[&hangs], BOUNDARY, ETCD_DIR, &QUICK), &path);
        let since = Instant::now();
        while sleepers(&seconds).is_empty() {
            assert!(since.elapsed() < Duration::from_secs(20), "{shell}: it has not begun");
            std::thread::sleep(Duration::from_millis(20));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        while !sleepers(&seconds).is_empty() {
            if since.elapsed() > Duration::from_secs(40) {
                end(&sleepers(&seconds));
                panic!("{shell}: it goes on");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
