//! Tests that only one operator changes a machine at a time: how a lease is taken, refused, lost and released.

use std::time::{SystemTime, UNIX_EPOCH};

use ironstrap::error::Kind;
use ironstrap::ledger::Kin;
use ironstrap::reconcile::Stop;

use super::fleet::Fleet;

pub const LEASE: &str = "run/ironstrap/lease";

/// A lease of this owner that ends this many seconds from now.
pub fn of(owner: &str, seconds: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    format!("4 theirs {} {now} {owner}\n", now + seconds)
}

fn words(lease: &str) -> Vec<&str> {
    lease.split_whitespace().collect()
}

#[tokio::test]
async fn a_lease_of_another_user_stops_the_run() {
    let fleet = Fleet::of(&["m1", "w1"]).await;
    let lease = of("alice@desk", 600);
    fleet.machine("w1").write(LEASE, &lease);
    let outcome = fleet.apply().await;
    let error = outcome.result.unwrap_err();
    super::reads("error-lease-held", std::slice::from_ref(&error));
    assert_eq!((error.kind, error.node.as_deref()), (Kind::Busy, Some("w1")));
    assert!(error.what.starts_with("is being changed by alice@desk (run thei, since "), "{error}");
    assert_eq!((fleet.machine("w1").read(LEASE), fleet.machine("m1").read(LEASE)), (lease, "absent".into()));
    assert_eq!(fleet.machine("m1").read("etc/toy/switch"), "absent");
}

#[tokio::test]
async fn a_lease_taken_after_the_observation_is_respected() {
    let fleet = Fleet::of(&["m1", "w1"]).await;
    let (mut work, _) = fleet.look().await;
    let lease = of("alice@desk", 600);
    fleet.machine("m1").write(LEASE, &lease);
    let (_sender, mut stop) = tokio::sync::watch::channel(Stop::Never);
    let error = work.apply(&mut stop).await.unwrap_err();
    assert_eq!((error.kind, error.node.as_deref()), (Kind::Busy, Some("m1")));
    assert_eq!(error.cause, ["lease lost: alice@desk (run thei) took it"]);
    assert_eq!(fleet.machine("m1").read(LEASE), lease);
    for machine in &fleet.machines {
        assert_eq!(machine.read("etc/toy/switch"), "absent");
    }
}

/// The lease of a run of the same user on the same host that was killed a moment ago.
fn of_a_killed_run(kin: &Kin) -> String {
    format!("{} {}\n", of("me@here", 600).trim_end(), kin.proof("theirs").unwrap_or_default())
}

#[tokio::test]
async fn a_killed_run_of_the_same_directory_is_replaced() {
    let kin = Kin::new("5ec2e7", "lock 1");
    for lease in [of_a_killed_run(&kin), of("alice@desk", -1), of("me@here", -1)] {
        let mut fleet = Fleet::of(&["m1"]).await;
        fleet.kin = kin.clone();
        fleet.machine("m1").write(LEASE, &lease);
        fleet.converge().await;
        let after = fleet.machine("m1").read(LEASE);
        assert_eq!((words(&after)[0], words(&after)[2], words(&after)[4]), ("5", "0", "me@here"), "released");
        assert_eq!(words(&after)[5], kin.proof(words(&after)[1]).unwrap(), "its successor will recognize it");
    }
}

#[tokio::test]
async fn another_directory_of_the_same_user_is_refused() {
    let other = Kin::new("5ec2e7", "lock 1");
    // A copy of the directory, the directory of another cluster, a run of an earlier version.
    // Then a lease of an earlier version.
    let cases = [
        (Kin::new("5ec2e7", "lock 2"), of_a_killed_run(&other)),
        (Kin::new("another", "lock 1"), of_a_killed_run(&other)),
        (Kin::default(), of_a_killed_run(&other)),
        (other.clone(), of("me@here", 600)),
    ];
    for (kin, lease) in cases {
        let mut fleet = Fleet::of(&["m1", "w1"]).await;
        fleet.kin = kin;
        fleet.machine("w1").write(LEASE, &lease);
        let error = fleet.apply().await.result.unwrap_err();
        assert_eq!((error.kind, error.node.as_deref()), (Kind::Busy, Some("w1")), "{error}");
        assert!(error.what.starts_with("is being changed by me@here (run thei, since "), "{error}");
        assert!(error.hint.as_deref().unwrap_or_default().contains("--take-over"), "{error}");
        assert_eq!(fleet.machine("w1").read(LEASE), lease);
        assert_eq!(fleet.machine("m1").read("etc/toy/switch"), "absent");
        fleet.take_over = true;
        fleet.converge().await;
        assert_eq!(words(&fleet.machine("w1").read(LEASE))[..1], ["5"]);
    }
}

#[tokio::test]
async fn take_over_is_refused_while_a_unit_is_active() {
    let mut fleet = Fleet::of(&["m1", "w1"]).await;
    fleet.take_over = true;
    fleet.machine("w1").write(LEASE, &of("alice@desk", 600));
    fleet.machine("w1").write("run/systemd/transient/ironstrap-kubeadm.service", "");
    let error = fleet.apply().await.result.unwrap_err();
    super::reads("error-lease-works", std::slice::from_ref(&error));
    assert!(
        error.what.starts_with("the unit ironstrap-kubeadm, which alice@desk (run thei, since "),
        "{error}"
    );
    assert!(error.what.ends_with(" started, still runs"), "{error}");
    assert_eq!(fleet.machine("m1").read("etc/toy/switch"), "absent");
}

#[tokio::test]
async fn a_lease_lost_during_a_fix_is_not_a_failed_fix() {
    let fleet = Fleet::of(&["m1"]).await;
    let m1 = fleet.machine("m1");
    let lease = of("alice@desk", 600).replace("4 theirs", "9 theirs");
    m1.write("alice", &lease);
    // A script that waits for an API server exits with 75 when the lease is lost.
    m1.command("switch", "cp $ROOT/alice $ROOT/run/ironstrap/lease; exit 75");
    let outcome = fleet.apply().await;
    assert_eq!((outcome.left.len(), outcome.left[0].kind), (1, Kind::Busy), "{}", outcome.shown);
    assert_eq!(outcome.left[0].what, "another run is changing this machine");
    assert_eq!(m1.read(LEASE), lease);
}

#[tokio::test]
async fn a_run_that_lost_its_lease_stops_at_the_next_fix() {
    let fleet = Fleet::of(&["m1"]).await;
    let m1 = fleet.machine("m1");
    // alice takes the lease during the first stage.
    let lease = of("alice@desk", 600).replace("4 theirs", "9 theirs");
    m1.write("alice", &lease);
    m1.command("switch", "echo on >$ROOT/etc/toy/switch; cp $ROOT/alice $ROOT/run/ironstrap/lease");
    let outcome = fleet.apply().await;
    super::reads("error-lease-lost", &outcome.left);
    assert_eq!((outcome.left.len(), outcome.left[0].kind), (1, Kind::Busy), "{}", outcome.shown);
    assert!(outcome.left[0].cause[0].contains("alice@desk"), "{}", outcome.left[0]);
    assert_eq!(m1.read("etc/kubernetes/kubelet.conf"), "absent", "the next stage does not run");
    assert_eq!(m1.read(LEASE), lease, "the lease of alice is not released");
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
async fn an_active_unit_keeps_a_lease_alive() {
    let fleet = Fleet::of(&["m1"]).await;
    fleet.machine("m1").write(LEASE, &of("alice@desk", -1000));
    fleet.machine("m1").write("run/systemd/transient/ironstrap-kubeadm.service", "");
    let error = fleet.apply().await.result.unwrap_err();
    assert_eq!(error.kind, Kind::Busy);
    assert!(error.what.contains("alice@desk"), "{error}");
}
