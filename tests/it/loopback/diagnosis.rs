//! Tests what a run reports about a failure beyond the output of the fix: causes that it finds on the machine.

use ironstrap::report::Event;

use super::fleet::Fleet;
use super::reads;

/// A fleet in which the fix on w1 fails, and its journal has this text.
async fn fails_with(journal: &str) -> Fleet {
    let fleet = Fleet::settled(&["m1", "w1"]).await;
    let w1 = fleet.machine("w1");
    w1.command("switch", "echo it is jammed; exit 3");
    w1.write("journal", journal);
    // The last argument is the unit.
    w1.command("journalctl", "for unit; do :; done\n[ $unit != kubelet ] || cat $ROOT/journal");
    w1.write("etc/toy/switch", "off\n");
    fleet
}

#[tokio::test]
async fn a_failure_is_reported_with_cause_evidence_and_remedy() {
    let line = "E1121 20:19:57.907063     199 run.go:72] \"command failed\" err=\"failed to run Kubelet: running with swap on is not supported, please disable swap or set --fail-swap-on flag to false\"\n";
    let fleet = fails_with(line).await;
    let outcome = fleet.apply().await;
    reads("error-cause", &outcome.left);
    let named = outcome
        .at(|event| matches!(event, Event::Cause { node, cause, .. } if node == "w1" && cause == "swap-on"));
    assert!(named.is_some(), "{}", outcome.shown);
    // w1: the observation, the fixes, the diagnosis, and the release of the lease. m1: operators meet there.
    assert_eq!((fleet.machine("m1").execs(), fleet.machine("w1").execs()), (3, 4));
}

#[tokio::test]
async fn an_unknown_failure_shows_log_lines_without_secrets() {
    let fleet = fails_with(
        "I1121 20:00:00.0 1 a.go:1] fine\nE1121 20:00:00.1 1 a.go:1] no luck with abcdef.0123456789abcdef\n",
    )
    .await;
    let reason = fleet.apply().await;
    assert!(
        !format!("{:?}", reason.left).contains("last lines of the logs"),
        "the fix gave its reason: {:?}",
        reason.left
    );
    fleet.machine("w1").command("switch", "exit 3");
    let outcome = fleet.apply().await;
    reads("error-last-words", &outcome.left);
    assert!(outcome.at(|event| matches!(event, Event::Cause { .. })).is_none(), "{}", outcome.shown);
    assert!(!outcome.shown.contains("0123456789abcdef"), "{}", outcome.shown);
}
