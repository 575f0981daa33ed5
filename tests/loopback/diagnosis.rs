//! What a run says about a failure beyond the words of the fix: what the machine itself knows of it.

use ironstrap::report::Event;

use crate::fleet::Fleet;
use crate::reads;

/// A fleet in which w1 cannot be made right, and its journal says this.
async fn fails_with(journal: &str) -> Fleet {
    let fleet = Fleet::settled(&["m1", "w1"]).await;
    let w1 = fleet.machine("w1");
    w1.command("switch", "echo it is jammed; exit 3");
    w1.write("journal", journal);
    // The unit is the last word.
    w1.command("journalctl", "for unit; do :; done\n[ $unit != kubelet ] || cat $ROOT/journal");
    w1.write("etc/toy/switch", "off\n");
    fleet
}

#[tokio::test]
async fn a_failure_is_told_with_its_cause_the_evidence_and_a_remedy() {
    let line = "E1121 20:19:57.907063     199 run.go:72] \"command failed\" err=\"failed to run Kubelet: running with swap on is not supported, please disable swap or set --fail-swap-on flag to false\"\n";
    let fleet = fails_with(line).await;
    let outcome = fleet.apply().await;
    reads("error-cause", &outcome.left);
    let named = outcome
        .at(|event| matches!(event, Event::Cause { node, cause, .. } if node == "w1" && cause == "swap-on"));
    assert!(named.is_some(), "{}", outcome.shown);
    // w1: a look, fixes, one more script because they failed, and its lease back; m1 is where operators meet.
    assert_eq!((fleet.machine("m1").execs(), fleet.machine("w1").execs()), (3, 4));
}

#[tokio::test]
async fn a_failure_that_nobody_knows_is_told_with_the_last_words_and_without_secrets() {
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
