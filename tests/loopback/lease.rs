//! One operator at a time: how a lease is taken, refused, lost and given back.

use std::time::{SystemTime, UNIX_EPOCH};

use ironstrap::error::Kind;
use ironstrap::reconcile::Stop;

use crate::fleet::Fleet;

const LEASE: &str = "run/ironstrap/lease";

/// A lease of somebody's that ends so many seconds from now.
fn of(owner: &str, seconds: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    format!("4 theirs {} {now} {owner}\n", now + seconds)
}

fn words(lease: &str) -> Vec<&str> {
    lease.split_whitespace().collect()
}

#[tokio::test]
async fn while_somebody_else_has_a_machine_nothing_is_changed_and_they_are_named() {
    let fleet = Fleet::of(&["m1", "w1"]).await;
    let lease = of("alice@desk", 60);
    fleet.machine("w1").write(LEASE, &lease);
    let outcome = fleet.apply().await;
    let error = outcome.result.unwrap_err();
    crate::reads("error-lease-held", std::slice::from_ref(&error));
    assert_eq!((error.kind, error.node.as_deref()), (Kind::Busy, Some("w1")));
    assert!(error.what.starts_with("is being changed by alice@desk since "), "{error}");
    assert_eq!((fleet.machine("w1").read(LEASE), fleet.machine("m1").read(LEASE)), (lease, "absent".into()));
    assert_eq!(fleet.machine("m1").read("etc/toy/switch"), "absent");
}

#[tokio::test]
async fn who_comes_between_look_and_apply_is_not_overrun() {
    let fleet = Fleet::of(&["m1", "w1"]).await;
    let (mut work, _) = fleet.look().await;
    let lease = of("alice@desk", 60);
    fleet.machine("m1").write(LEASE, &lease);
    let (_sender, mut stop) = tokio::sync::watch::channel(Stop::Never);
    let error = work.apply(&mut stop).await.unwrap_err();
    assert_eq!((error.kind, error.node.as_deref()), (Kind::Busy, Some("m1")));
    assert_eq!(error.cause, ["lease lost: alice@desk took it"]);
    assert_eq!(fleet.machine("m1").read(LEASE), lease);
    for machine in &fleet.machines {
        assert_eq!(machine.read("etc/toy/switch"), "absent");
    }
}

#[tokio::test]
async fn the_same_owner_takes_over_at_once_and_an_expired_lease_is_nobodys() {
    for lease in [of("me@here", 60), of("alice@desk", -1)] {
        let fleet = Fleet::of(&["m1"]).await;
        fleet.machine("m1").write(LEASE, &lease);
        fleet.converge().await;
        let after = fleet.machine("m1").read(LEASE);
        assert_eq!(
            (words(&after)[0], words(&after)[2], words(&after)[4]),
            ("5", "0", "me@here"),
            "given back"
        );
    }
}

#[tokio::test]
async fn a_run_that_lost_its_lease_stops_at_the_next_fix() {
    let fleet = Fleet::of(&["m1"]).await;
    let m1 = fleet.machine("m1");
    // While the first stage runs, alice takes the machine.
    let lease = of("alice@desk", 60).replace("4 theirs", "9 theirs");
    m1.write("alice", &lease);
    m1.command("switch", "echo on >$ROOT/etc/toy/switch; cp $ROOT/alice $ROOT/run/ironstrap/lease");
    let outcome = fleet.apply().await;
    crate::reads("error-lease-lost", &outcome.left);
    assert_eq!((outcome.left.len(), outcome.left[0].kind), (1, Kind::Busy), "{}", outcome.shown);
    assert!(outcome.left[0].cause[0].contains("alice@desk"), "{}", outcome.left[0]);
    assert_eq!(m1.read("etc/kubernetes/kubelet.conf"), "absent", "the next stage does not run");
    assert_eq!(m1.read(LEASE), lease, "and hers is not given back");
}

#[tokio::test]
async fn a_run_with_nothing_to_do_takes_no_lease() {
    let fleet = Fleet::of(&["m1", "w1"]).await;
    fleet.converge().await;
    let leases = || fleet.machines.iter().map(|machine| machine.read(LEASE)).collect::<Vec<String>>();
    let before = leases();
    fleet.converge().await;
    assert_eq!(leases(), before);
    std::fs::remove_file(fleet.machine("m1").path(LEASE)).unwrap();
    fleet.converge().await;
    assert_eq!(fleet.machine("m1").read(LEASE), "absent");
}

#[tokio::test]
async fn long_work_keeps_a_lease_alive() {
    let fleet = Fleet::of(&["m1"]).await;
    fleet.machine("m1").write(LEASE, &of("alice@desk", -1000));
    fleet.machine("m1").write("run/systemd/transient/ironstrap-kubeadm.service", "");
    let error = fleet.apply().await.result.unwrap_err();
    assert_eq!(error.kind, Kind::Busy);
    assert!(error.what.contains("alice@desk"), "{error}");
}
