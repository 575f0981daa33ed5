//! Ready means ready: what the API says of a node counts when it is from after its kubelet's start, and with all that
//! the network runs there. Whom something went wrong with, nobody waits for.

// clippy sees no test in what the tests share.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use ironstrap::fleet::Fleet;
use ironstrap::machine::Machine;
use ironstrap::step::{Expect, Verdict};
use time::OffsetDateTime;

const NETWORK: &str = "every node has its network";

/// What step nodes makes of this answer for this want.
fn said(that: &str, fleet: &Fleet, answer: &str) -> Verdict {
    let cluster = common::lab();
    let (trust, machine) = (common::trust(&cluster), Machine::default());
    let about = (&machine, fleet);
    let wants = common::wants((&cluster, &cluster.nodes[0]), &trust, about, OffsetDateTime::now_utc());
    let want = wants.into_iter().find(|(_, step, want)| *step == "nodes" && want.that == that).unwrap().2;
    let Expect::Judged(judge) = want.expect else { panic!("{that} is not judged") };
    judge(answer)
}

fn lacks(verdict: Verdict) -> String {
    match verdict {
        Verdict::Holds => String::new(),
        Verdict::Differs { have, .. } => have,
        Verdict::Waits { for_what, .. } => format!("waits for {for_what}"),
        Verdict::Noted(words) => panic!("{words}"),
    }
}

#[test]
fn what_was_said_of_a_node_before_its_kubelet_started_does_not_count() {
    let since = OffsetDateTime::parse("2026-11-21T10:00:05Z", &time::format_description::well_known::Rfc3339);
    let fleet =
        Fleet { kubelets: [("w1".into(), since.unwrap().unix_timestamp())].into(), ..Fleet::default() };
    let node = |status: &str, time: &str| {
        let ready = format!(
            r#"{{"type":"Ready","status":"{status}","lastHeartbeatTime":"{time}","message":"said"}}"#
        );
        lacks(said("w1 is Ready", &fleet, &format!(r#"{{"status":{{"conditions":[{ready}]}}}}"#)))
    };
    assert_eq!(node("True", "2026-11-21T10:00:05Z"), "");
    assert_eq!(node("True", "2026-11-21T10:00:04Z"), "no word of it since its kubelet started");
    assert_eq!(node("True", "?"), "no word of it since its kubelet started");
    assert_eq!(node("False", "2026-11-21T10:00:06Z"), "said");
    assert_eq!(lacks(said("w1 is Ready", &fleet, r#"{"status":{}}"#)), "no word of it");
}

#[test]
fn the_network_is_up_when_each_node_has_it() {
    let set = |up: u64| {
        format!(
            r#"{{"kind":"DaemonSet","status":{{"desiredNumberScheduled":3,"updatedNumberScheduled":3,"numberAvailable":{up}}}}}"#
        )
    };
    let fleet = Fleet::default();
    assert_eq!(lacks(said(NETWORK, &fleet, &format!("{}\n{}\n", set(3), set(3)))), "");
    let lacking = lacks(said(NETWORK, &fleet, &format!("{}\n{}\n", set(3), set(2))));
    assert_eq!(lacking, "DaemonSet kube-system/kube-proxy: 2 of 3 available\n");
    assert!(lacks(said(NETWORK, &fleet, &set(3))).ends_with("kube-proxy: not there\n"));
}

#[test]
fn nobody_waits_in_vain_for_whom_something_went_wrong_with() {
    let w2 = || ["w2".to_string()].into();
    let fleets = [
        (Fleet { given_up: w2(), ..Fleet::default() }, "waits for w2 to be mended"),
        (Fleet { absent: w2(), given_up: w2(), ..Fleet::default() }, "waits for w2 to answer"),
        (Fleet { joining: w2(), ..Fleet::default() }, "waits for w2 to join"),
        (Fleet { unregistered: w2(), ..Fleet::default() }, "waits for the kubelet of w2 to register"),
    ];
    for (fleet, words) in fleets {
        assert_eq!(lacks(said(NETWORK, &fleet, "")), words);
        assert_eq!(lacks(said("w2 is Ready", &fleet, "absent")), words);
        assert!(!lacks(said("w1 is Ready", &fleet, "absent")).starts_with("waits"));
    }
}
