//! A machine that hangs, floods or never ends a line is quarantined. The other two machines of the fleet are still
//! changed within the limits.

use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use ironstrap::error::Kind;
use ironstrap::probe;
use ironstrap::reconcile::Limits;

use super::fleet::{Fleet, Outcome};
use super::machine::Harm;

/// Limits that are long enough for a working machine on a busy host.
fn limits() -> Limits {
    Limits {
        questions: probe::Limits { tick: Duration::from_millis(500), each: 8, all: 60 },
        answers: Some(Duration::from_secs(12)),
        silence: Some(Duration::from_secs(12)),
        fixes: None,
        machine: None,
    }
}

/// A cluster with one harmful worker. All three machines need a fix.
async fn fleet(harm: Option<Harm>) -> Fleet {
    let mut fleet = Fleet::settled(&["m1", "w1", "w2"]).await;
    fleet.limits = limits();
    for name in ["m1", "w1", "w2"] {
        fleet.machine(name).write("etc/toy/switch", "off\n");
    }
    *fleet.machine("w1").seen.harm.lock().unwrap() = harm;
    fleet
}

fn others_are_fixed(outcome: &Outcome) {
    assert_eq!(outcome.result, Ok(()), "{}", outcome.shown);
    for name in ["m1", "w2"] {
        let fix = (name.to_string(), "the switch is on".to_string());
        assert!(outcome.planned.contains(&fix), "{name} is in the plan");
        assert!(outcome.changed.contains(&fix), "{name} is fixed");
    }
}

async fn is_quarantined(harm: Harm, kind: Kind, what: &str) {
    let mut fleet = fleet(Some(harm)).await;
    if harm == Harm::Drip {
        fleet.limits.fixes = Some(Duration::from_secs(14));
    }
    let since = Instant::now();
    let outcome = fleet.apply().await;
    others_are_fixed(&outcome);
    assert_eq!(outcome.left.len(), 1, "{harm:?}: {:?}", outcome.left);
    let error = &outcome.left[0];
    assert_eq!((error.node.as_deref(), error.kind), (Some("w1"), kind), "{harm:?}: {error}");
    assert!(error.what.contains(what), "{harm:?}: {error}");
    assert!(since.elapsed() < Duration::from_secs(50), "{harm:?}: {:?}", since.elapsed());
    assert_ne!(kind.code(), 0);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "waits for time limits; make test-quick runs it"]
async fn a_silent_machine_is_quarantined() {
    is_quarantined(Harm::Silence, Kind::Silent, "did not end within 12 s").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flooding_machine_is_quarantined() {
    is_quarantined(Harm::Flood, Kind::Silent, "has printed more than 4096 KiB").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_prints_an_endless_line_is_quarantined() {
    is_quarantined(Harm::Line, Kind::Silent, "has printed more than 4096 KiB").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_with_an_endless_banner_is_quarantined() {
    is_quarantined(
        Harm::Banner,
        Kind::Unreachable,
        "the machine printed more than 64 KiB before the script started",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "waits for time limits; make test-quick runs it"]
async fn a_fix_that_never_ends_its_line_times_out() {
    is_quarantined(Harm::Fix, Kind::Silent, "has printed nothing for 12 s").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "waits for time limits; make test-quick runs it"]
async fn a_fix_that_prints_endlessly_times_out() {
    is_quarantined(Harm::Drip, Kind::Silent, "did not end within 14 s").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "waits for time limits; make test-quick runs it"]
async fn an_earlier_unit_that_prints_endlessly_times_out() {
    let mut fleet = fleet(Some(Harm::Drip)).await;
    fleet.limits.fixes = Some(Duration::from_secs(14));
    fleet.machine("w1").write("run/systemd/transient/ironstrap-drain.service", "");
    let outcome = fleet.apply().await;
    others_are_fixed(&outcome);
    let error = &outcome.left[0];
    assert_eq!((outcome.left.len(), error.node.as_deref(), error.kind), (1, Some("w1"), Kind::Silent));
    assert_eq!(error.what, "ironstrap-drain of an earlier run: a script did not end within 14 s");
    assert!(error.hint.as_ref().unwrap().contains("systemctl stop ironstrap-drain"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_fixes_of_a_machine_share_a_time_limit() {
    let mut fleet = fleet(None).await;
    fleet.limits.machine = Some(Duration::from_secs(4));
    let w1 = fleet.machine("w1");
    // Each fix ends in time. The second undoes the first, so together they exceed the limit.
    w1.command("switch", "sleep 3; echo on >$ROOT/etc/toy/switch; echo goodbye >$ROOT/etc/toy/greeting");
    w1.command("restarting", "echo off >$ROOT/etc/toy/switch");
    let outcome = fleet.apply().await;
    others_are_fixed(&outcome);
    let error = &outcome.left[0];
    assert_eq!((outcome.left.len(), error.node.as_deref()), (1, Some("w1")), "{error}");
    let takes = ["did not end within", "the fixes have taken more than 4 s in this run"];
    assert!(takes.iter().any(|what| error.what.contains(what)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn channels_that_a_machine_opens_are_rejected() {
    let fleet = fleet(Some(Harm::Channels)).await;
    let outcome = fleet.apply().await;
    others_are_fixed(&outcome);
    assert_eq!(outcome.left, [], "the machine works normally");
    let (accepted, rejected) = &fleet.machine("w1").seen.channels;
    assert_eq!(accepted.load(SeqCst), 0);
    assert!(rejected.load(SeqCst) >= 120, "they were opened");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversized_answer_is_reported_with_its_question() {
    let fleet = fleet(None).await;
    fleet.machine("w1").write("etc/toy/switch", &"on\n".repeat(1 << 19));
    let outcome = fleet.apply().await;
    others_are_fixed(&outcome);
    let error = &outcome.left[0];
    assert_eq!((outcome.left.len(), error.node.as_deref(), error.kind), (1, Some("w1"), Kind::Unknown));
    assert_eq!(error.what, "toy: cannot determine whether the switch is on");
    assert!(
        error.cause.iter().any(|line| line.contains("the answer is larger than 1024 KiB: if [ -e")),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "waits for time limits; make test-quick runs it"]
async fn a_hanging_question_is_reported_by_name() {
    let fleet = fleet(None).await;
    // Reading a pipe without a writer hangs.
    let path = fleet.machine("w1").path("etc/toy/switch");
    std::fs::remove_file(&path).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let outcome = fleet.apply().await;
    others_are_fixed(&outcome);
    let error = &outcome.left[0];
    assert_eq!((outcome.left.len(), error.node.as_deref(), error.kind), (1, Some("w1"), Kind::Unknown));
    assert_eq!(
        error.what,
        "no answer within 4 s: if [ -e /etc/toy/switch ]; then cat /etc/toy/switch; else echo off; fi"
    );
    assert!(error.cause[0].starts_with("the process that it waited for was ended: "), "{error}");
    assert_eq!(fleet.machine("w1").read("run/ironstrap/lease"), "absent", "nothing is changed there");
    assert_ne!(error.kind.code(), 0);
}
