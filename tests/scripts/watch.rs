//! Runs questions that never end in real shells. The watchdog ends them, reports that, and leaves no process behind.

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use ironstrap::cluster::ETCD_DIR;
use ironstrap::probe::{self, Limits};
use ironstrap::step::{Answer, Ask};

use crate::support::{self, shells, tools};

const BOUNDARY: &str = "--boundary";

/// Limits with half a second per question.
const QUICK: Limits = Limits { tick: Duration::from_millis(250), each: 2, all: 60 };

fn ask(body: &str) -> Ask {
    Ask::Shell(support::sh(body))
}

/// A number of seconds for which no other process sleeps.
fn long(n: u32) -> String {
    format!("{}{n}", 100_000 + std::process::id())
}

/// The processes that sleep for this time.
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
    let output = support::run(shell, &probe::script_within(asks, BOUNDARY, ETCD_DIR, limits));
    (output, since.elapsed())
}

fn said(text: &str) -> Answer {
    Answer::Said(text.into())
}

#[test]
fn a_hanging_question_is_ended_and_the_others_are_answered() {
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
fn a_timely_script_does_not_wait_for_its_watchdog() {
    // A process that holds the script's output would keep the channel open. `run` returns only without one.
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
fn all_questions_together_have_a_time_limit() {
    let limits = Limits { tick: Duration::from_millis(250), each: 8, all: 4 };
    for shell in shells() {
        let slow: Vec<Ask> = (0..20).map(|n| ask(&format!("sleep 0.5; echo {n}"))).collect();
        let asks: Vec<&Ask> = slow.iter().collect();
        let (output, took) = run(shell, &asks, &limits);
        assert!(probe::answers(&output.stdout, &asks, BOUNDARY).is_err(), "{shell}");
        let late = probe::late(&output.stdout, &asks, BOUNDARY, &limits);
        assert_eq!(late.len(), 1, "{shell}: {late:?}");
        assert!(late[0].what.starts_with("the questions did not end within 1 s; the last one: sleep 0.5"));
        assert!(took < Duration::from_secs(10), "{shell}: {took:?}");
    }
}

#[test]
fn a_silent_api_server_is_not_blamed_on_the_machine() {
    for shell in shells() {
        let seconds = long(5);
        let get = Ask::api(support::sh(format!("kubectl() {{ sleep {seconds}; }}\nkubectl get nodes")));
        let (output, _) = run(shell, &[&get], &QUICK);
        let (_, answers) = probe::answers(&output.stdout, &[&get], BOUNDARY).unwrap();
        assert!(matches!(&answers[0], Answer::Unknown(_)), "{shell}: {answers:?}");
        assert_eq!(probe::late(&output.stdout, &[&get], BOUNDARY, &QUICK), [], "{shell}");
        assert_eq!(sleepers(&seconds), Vec::<u32>::new(), "{shell}");
    }
}

/// Starts a script with a file as its output. A process that survives could keep a pipe open.
fn start(shell: &str, script: &str, output: &std::path::Path) -> std::process::Child {
    let script_file = output.with_extension("sh");
    std::fs::write(&script_file, script).unwrap();
    let file = |path: &std::path::Path| std::fs::File::open(path).unwrap();
    Command::new(shell)
        .arg("-s")
        .env("PATH", tools::path())
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
fn an_unkillable_process_does_not_block_the_script() {
    let dir = tempfile::tempdir().unwrap();
    for shell in shells() {
        let (seconds, path) = (long(6), dir.path().join(shell));
        let hangs = ask(&format!("sleep {seconds}; true"));
        // Signals have no effect, as for a process that waits for a disk.
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
fn a_hanging_question_is_ended_after_a_cut_connection() {
    let dir = tempfile::tempdir().unwrap();
    for shell in shells() {
        let (seconds, path) = (long(7), dir.path().join(shell));
        let hangs = ask(&format!("sleep {seconds}"));
        let mut child = start(shell, &probe::script_within(&[&hangs], BOUNDARY, ETCD_DIR, &QUICK), &path);
        let since = Instant::now();
        while sleepers(&seconds).is_empty() {
            assert!(since.elapsed() < Duration::from_secs(20), "{shell}: the question has not begun");
            std::thread::sleep(Duration::from_millis(20));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        while !sleepers(&seconds).is_empty() {
            if since.elapsed() > Duration::from_secs(40) {
                end(&sleepers(&seconds));
                panic!("{shell}: the question still runs");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
