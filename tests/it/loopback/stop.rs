//! Tests a run that the user stops early: what it still does, and what it reports about each node.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ironstrap::error::{Error, Kind};
use ironstrap::reconcile::Stop;
use ironstrap::report::Event;
use tokio::sync::watch;

use super::fleet::Fleet;

/// Stops a run when this fix begins on this node. Returns its error.
async fn stopped_at(fleet: &Fleet, node: &str, that: &str, wish: Stop) -> Error {
    let (mut work, mut events) = fleet.look().await;
    assert!(work.preflight(("demo.trust", true)).errors.is_empty());
    let (stopper, mut stop) = watch::channel(Stop::Never);
    let (node, that) = (node.to_string(), that.to_string());
    let user = tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            if matches!(&event, Event::Fixing { node: n, of } if *n == node && of.that == that) {
                stopper.send(wish).unwrap();
                // The sender must live on. Without it, the run would not stop.
                return Some(stopper);
            }
        }
        None
    });
    let run = tokio::time::timeout(Duration::from_secs(20), work.apply(&mut stop));
    let error = run.await.expect("it hangs").unwrap_err();
    assert!(user.await.unwrap().is_some(), "the test did not stop the run");
    error
}

#[tokio::test]
async fn a_stopped_run_begins_nothing_new() {
    let fleet = Fleet::of(&["m1"]).await;
    let (mut work, _) = fleet.look().await;
    let (_sender, mut stop) = watch::channel(Stop::Soon);
    let error = work.apply(&mut stop).await.unwrap_err();
    assert_eq!(error.kind, Kind::Interrupted);
    assert_eq!(fleet.machine("m1").read("etc/toy/switch"), "absent");
}

#[tokio::test]
async fn the_first_interrupt_finishes_running_fixes() {
    let fleet = Fleet::of(&["m1", "w1"]).await;
    for name in ["m1", "w1"] {
        fleet.machine(name).command("switch", "sleep 1; echo on >$ROOT/etc/toy/switch");
    }
    let settled = Fleet::settled(&["m1", "w1", "w2"]).await;
    for name in ["m1", "w1"] {
        settled.machine(name).write("etc/toy/switch", "off\n");
        settled.machine(name).command("switch", "sleep 1; echo on >$ROOT/etc/toy/switch");
    }
    let error = stopped_at(&settled, "m1", "the switch is on", Stop::Soon).await;
    assert_eq!(error.cause, ["done: m1, w1, w2"], "the running fixes are finished and verified");
    let error = stopped_at(&fleet, "m1", "the switch is on", Stop::Soon).await;
    super::reads("error-stopped", std::slice::from_ref(&error));
    assert_eq!(error.cause, ["remaining: m1 (2 changes), w1 (1 change)"]);
    assert_eq!(fleet.machine("m1").read("etc/toy/switch"), "on\n", "the run waited for the running fix");
    assert_eq!(fleet.machine("m1").read("etc/kubernetes/kubelet.conf"), "absent", "no other fix began");
    let lease = fleet.machine("m1").read("run/ironstrap/lease");
    assert_eq!(lease.split(' ').nth(2), Some("0"), "the lease is released: {lease}");
    fleet.converge().await;
}

#[tokio::test]
async fn the_second_interrupt_waits_for_nothing() {
    let fleet = Fleet::settled(&["m1", "w1"]).await;
    fleet.machine("w1").write("etc/toy/switch", "off\n");
    fleet.machine("w1").command("switch", "sleep 30");
    let since = Instant::now();
    let error = stopped_at(&fleet, "w1", "the switch is on", Stop::Now).await;
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    assert_eq!((error.kind, error.what.as_str()), (Kind::Interrupted, "stopped at once"));
    assert_eq!(error.cause, ["done: m1", "may continue without ironstrap: w1 (prepare)"]);
}

/// Types `keys` at the question of an apply on a terminal. Returns the exit code and the text of the screen.
fn answered(inventory: &std::path::Path, keys: &[u8]) -> (Option<i32>, String) {
    let asking = format!("{} apply -i {}", env!("CARGO_BIN_EXE_ironstrap"), inventory.display());
    let mut terminal = Command::new("script")
        .args(["-qec", &asking, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut keyboard, mut screen) = (terminal.stdin.take().unwrap(), terminal.stdout.take().unwrap());
    let (mut said, mut piece) = (String::new(), [0; 4096]);
    while !said.contains("[y/N]") {
        let n = screen.read(&mut piece).unwrap();
        assert!(n > 0, "the program ended without a question: {said}");
        said += &String::from_utf8_lossy(&piece[..n]);
    }
    keyboard.write_all(keys).unwrap();
    screen.read_to_string(&mut said).unwrap();
    (terminal.wait().unwrap().code(), said)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_no_and_ctrl_c_at_the_question_change_nothing() {
    if which::which("script").is_err() {
        // The test harness hides the output of println! if the test passes.
        let said = b"SKIPPED: no script on this machine, so there was no terminal to ask on\n";
        std::io::stderr().write_all(said).unwrap();
        return;
    }
    let fleet = Fleet::of(&["m1", "w1"]).await;
    for machine in &fleet.machines {
        // The program has the real steps, which could change the host. Without flock no script of fixes runs.
        machine.command("flock", "exit 1");
    }
    let before: Vec<_> = fleet.machines.iter().map(|machine| machine.files()).collect();
    for (keys, words) in
        [(b"\x03".as_slice(), "stopped; no node was changed"), (b"n\n", "cancelled; no node was changed")]
    {
        let inventory = fleet.inventory();
        let (code, said) = tokio::task::spawn_blocking(move || answered(&inventory, keys)).await.unwrap();
        assert_eq!(code, Some(130), "{said}");
        assert!(said.contains("changes on 2 nodes?") && said.contains(words), "{said}");
        assert!(!fleet.inventory().with_file_name("demo.trust").exists(), "the cluster PKI was created");
    }
    let after: Vec<_> = fleet.machines.iter().map(|machine| machine.files()).collect();
    assert_eq!(before, after);
    for machine in &fleet.machines {
        assert_eq!(machine.read("run/ironstrap/lease"), "absent");
    }
}
