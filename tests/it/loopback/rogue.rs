//! Tests machines whose root user lies to ironstrap.

use ironstrap::error::Kind;
use ironstrap::operations::remove::Removal;
use ironstrap::reconcile::{Operation, Stop};

use super::fleet::{Fleet, PREPARED};
use super::lease::{LEASE, of};
use super::machine::{Harm, Machine, SYSTEMCTL};
use super::pairs;

#[tokio::test]
async fn a_worker_never_becomes_the_api_host() {
    let fleet = Fleet::settled(&["a1", "m1"]).await;
    fleet.machine("m1").write("etc/toy/labels", "a1\n");
    fleet.machine("a1").write("etc/kubernetes/manifests/kube-apiserver.yaml", "\n");
    let (work, _) = fleet.look().await;
    let speaker = work.api_host().map(|i| work.hosts()[i].node.name.clone());
    assert_eq!(speaker.as_deref(), Some("m1"), "`status` asks a control plane of the inventory");
    let run = fleet.apply().await;
    assert_eq!(run.planned, pairs(&[("m1", "m1 is labelled")]), "the drift that only m1 can see is planned");
    assert_eq!(
        fleet.machine("a1").read("etc/toy/labels"),
        "absent",
        "a1 does not run the stages of the cluster"
    );
}

/// A fleet in which every member needs a restart. It fails on `a1`.
async fn interrupting(names: &[&str]) -> Fleet {
    let fleet = Fleet::settled(names).await;
    for machine in &fleet.machines {
        machine.write("etc/toy/greeting", "hello\n");
    }
    // The failure comes after the first node of each role is done.
    fleet.machine("a1").command("restarting", "sleep 3; echo no more; exit 1");
    fleet
}

#[tokio::test]
async fn one_failing_worker_does_not_hold_back_a_proven_change() {
    let fleet = interrupting(&["a1", "m1", "w1", "w2", "w3"]).await;
    let run = fleet.apply().await;
    let left: Vec<_> = run.left.iter().map(|error| error.node.clone().unwrap()).collect();
    assert_eq!((left, run.held_back.len()), (vec!["a1".to_string()], 0), "{}", run.shown);
    for name in ["m1", "w1", "w2", "w3"] {
        assert!(run.began(name, "prepare").is_some(), "{name}: {}", run.shown);
    }
}

#[tokio::test]
async fn two_failing_workers_hold_back_a_proven_change() {
    let fleet = interrupting(&["a1", "m1", "w1", "w2", "w3"]).await;
    for name in ["w1", "w2", "w3"] {
        fleet.machine(name).command("restarting", "echo no more; exit 1");
    }
    let run = fleet.apply().await;
    assert_eq!((run.left.len(), run.held_back.len()), (2, 2), "{}", run.shown);
}

/// A cluster of a1, m1 and w2. w2 needs a fix, and the test prepares the worker a1.
async fn fleet_with_a1(a1: impl Fn(&Fleet)) -> Fleet {
    let fleet = Fleet::settled(&["a1", "m1", "w2"]).await;
    fleet.machine("w2").write("etc/toy/switch", "off\n");
    a1(&fleet);
    fleet
}

/// Applies, and asserts that only a1 is quarantined and w2 is fixed. Returns the error of a1.
async fn only_a1_is_quarantined(fleet: &Fleet) -> ironstrap::error::Error {
    let run = fleet.apply().await;
    assert_eq!(run.result, Ok(()), "{}", run.shown);
    assert!(run.changed.contains(&("w2".into(), "the switch is on".into())), "{:?}", run.changed);
    assert_eq!(run.left.len(), 1, "{:?}", run.left);
    assert_eq!(run.left[0].node.as_deref(), Some("a1"), "{:?}", run.left);
    run.left[0].clone()
}

#[tokio::test]
async fn a_worker_that_claims_another_role_is_quarantined() {
    let fleet = fleet_with_a1(|fleet| {
        fleet.machine("a1").write("etc/kubernetes/manifests/kube-apiserver.yaml", "\n");
    });
    let error = only_a1_is_quarantined(&fleet.await).await;
    assert_eq!(error.what, "has the manifest of an API server, but the inventory says worker");
    assert!(!error.hint.unwrap_or_default().contains("role = \"control-plane\""));
}

#[tokio::test]
async fn a_failed_label_quarantines_only_its_worker() {
    for (label, says) in [
        ("[ $1 != a1 ] || { echo no word of a1; exit 1; }\necho $1 >>$ROOT/etc/toy/labels", "no word of a1"),
        ("[ $1 = a1 ] || echo $1 >>$ROOT/etc/toy/labels", "found: none"),
    ] {
        let fleet = fleet_with_a1(|fleet| {
            let m1 = fleet.machine("m1");
            m1.write("etc/toy/labels", "m1\n");
            m1.command("label", label);
        })
        .await;
        let error = only_a1_is_quarantined(&fleet).await;
        assert!(error.what.contains("a1 is labelled"), "{error}");
        assert!(error.words().any(|line| line == says), "{:?}", error.cause);
        assert!(error.cause.iter().any(|line| line == "detected from m1"), "{:?}", error.cause);
        assert!(
            fleet.machine("m1").read("etc/toy/labels").ends_with("w2\n"),
            "the other nodes get their labels"
        );
    }
    // If the control plane itself is at fault, it is quarantined.
    let fleet = fleet_with_a1(|fleet| {
        let m1 = fleet.machine("m1");
        m1.write("etc/toy/labels", "a1\n");
        m1.command("label", "exit 1");
    })
    .await;
    let run = fleet.apply().await;
    let left: Vec<_> = run.left.iter().map(|error| error.node.as_deref()).collect();
    assert_eq!(left, [Some("m1")], "{}", run.shown);
}

#[tokio::test]
async fn a_worker_cannot_blame_other_nodes() {
    let fleet = fleet_with_a1(|fleet| {
        let a1 = fleet.machine("a1");
        a1.write("etc/toy/switch", "off\n");
        let lines = ["pod:a1 is reached", "no new pod starts on m1: x", "pod:w2 is silent"];
        a1.command(
            "switch",
            &format!("{}exit 1", lines.map(|line| format!("echo 'packets: {line}'\n")).concat()),
        );
    })
    .await;
    let error = only_a1_is_quarantined(&fleet).await;
    assert!(error.what.contains("the switch is on"), "{error}");
}

#[tokio::test]
async fn a_lease_on_a_worker_stops_only_that_worker() {
    let show = |fleet: &Fleet| fleet.machine("a1").write(LEASE, &of("eve@laptop", 600));
    let works = |fleet: &Fleet| {
        show(fleet);
        fleet.machine("a1").write("run/systemd/transient/ironstrap-x.service", "");
    };
    for take_over in [false, true] {
        let mut fleet = fleet_with_a1(works).await;
        fleet.take_over = take_over;
        let error = only_a1_is_quarantined(&fleet).await;
        assert_eq!(error.kind, Kind::Busy);
        assert!(error.what.starts_with("the unit ironstrap-x, which eve@laptop"), "{error}");
        fleet.limit = ["w2".to_string()].into();
        fleet.machine("w2").write("etc/toy/switch", "off\n");
        let run = fleet.apply().await;
        assert_eq!((run.result, run.left), (Ok(()), vec![]), "{}", run.shown);
    }
    // A lease that appears after the observation, on the first node of the inventory.
    let fleet = fleet_with_a1(|fleet| fleet.machine("a1").write("etc/toy/switch", "off\n")).await;
    let (mut work, _) = fleet.look().await;
    show(&fleet);
    let (_sender, mut stop) = tokio::sync::watch::channel(Stop::Never);
    assert_eq!(work.apply(&mut stop).await, Ok(()));
    assert_eq!(fleet.machine("w2").read("etc/toy/switch"), "on\n");
    let left = work.hosts().iter().filter_map(|member| member.quarantined.as_ref()).collect::<Vec<_>>();
    assert_eq!((left.len(), left[0].kind, left[0].node.as_deref()), (1, Kind::Busy, Some("a1")));
}

#[tokio::test]
#[ignore = "waits for time limits; make test-quick runs it"]
async fn a_unit_that_never_ends_quarantines_its_machine() {
    let fleet = fleet_with_a1(|fleet| {
        let a1 = fleet.machine("a1");
        a1.write("run/systemd/transient/ironstrap-x.service", "");
        a1.command("systemctl", &format!("case \"$*\" in *MainPID*) echo 0; exit ;; esac\n{SYSTEMCTL}"));
        a1.command("sleep", "");
    });
    let error = only_a1_is_quarantined(&fleet.await).await;
    assert_eq!(error.what, "ironstrap-x does not end");
}

#[tokio::test]
async fn a_fix_that_did_not_run_is_an_error() {
    let fleet = fleet_with_a1(|fleet| {
        let a1 = fleet.machine("a1");
        a1.write("etc/toy/switch", "off\n");
        *a1.seen.harm.lock().unwrap() = Some(Harm::Nothing);
    });
    let error = only_a1_is_quarantined(&fleet.await).await;
    assert_eq!(error.what, "toy: the fix did not run, but the machine reports success");
    assert_eq!(error.cause, ["no result for this fix: the switch is on"]);
}

#[tokio::test]
async fn fixes_that_undo_each_other_are_given_up() {
    let mut fleet = fleet_with_a1(|fleet| {
        let a1 = fleet.machine("a1");
        a1.write("etc/toy/switch", "off\n");
        a1.command("switch", "echo on >$ROOT/etc/toy/switch; echo goodbye >$ROOT/etc/toy/greeting");
        a1.command("restarting", "echo off >$ROOT/etc/toy/switch");
    })
    .await;
    fleet.stages = PREPARED;
    let error = only_a1_is_quarantined(&fleet).await;
    assert_eq!(error.what, "still needs fixes after too many rounds");
}

/// The text of an error, and a function that makes a machine cause it.
type Excuse = (&'static str, fn(&Machine));

/// Reasons that a machine may pretend, so that it is not reset.
const EXCUSES: [Excuse; 4] = [
    ("is being changed by eve@laptop", |machine| machine.write(LEASE, &of("eve@laptop", 600))),
    ("the unit ironstrap-x, which eve@laptop", |machine| {
        machine.write(LEASE, &of("eve@laptop", 600));
        machine.write("run/systemd/transient/ironstrap-x.service", "");
    }),
    ("commands do not run as root", |machine| {
        machine.command("id", "echo 1000");
    }),
    ("belongs to a cluster with another PKI", |machine| {
        machine.write("etc/kubernetes/pki/ca.crt", "theirs");
    }),
];

/// Machines without a cluster on which a reset has only a last file to delete.
async fn almost_reset() -> Fleet {
    let mut fleet = Fleet::of(&["a1", "m1", "w2"]).await;
    fleet.reading = Operation::Reset;
    for machine in &fleet.machines {
        machine.write("run/ironstrap/output", "of long work");
    }
    fleet
}

#[tokio::test]
async fn a_worker_cannot_prevent_the_reset_of_others() {
    for (excuse, says) in EXCUSES {
        let fleet = almost_reset().await;
        says(fleet.machine("a1"));
        let run = fleet.apply().await;
        assert_eq!(run.result, Ok(()), "{excuse}: {}", run.shown);
        assert_eq!(run.left.len(), 1, "{excuse}: {:?}", run.left);
        let error = &run.left[0];
        assert_eq!(error.node.as_deref(), Some("a1"), "{error}");
        assert!(error.what.starts_with(excuse), "{error}");
        assert!(run.planned.iter().all(|(node, _)| node != "a1"), "{excuse}: {:?}", run.planned);
        let is_reset = |name: &str| fleet.machine(name).read("run/ironstrap/output") == "absent";
        assert_eq!(["a1", "m1", "w2"].map(is_reset), [false, true, true], "{excuse}");
    }
}

#[tokio::test]
async fn a_control_plane_can_prevent_a_reset() {
    for (excuse, says) in EXCUSES {
        let fleet = almost_reset().await;
        says(fleet.machine("m1"));
        let run = fleet.apply().await;
        let error = run.result.expect_err(excuse);
        assert_eq!(error.node.as_deref(), Some("m1"), "{error}");
        assert!(error.what.starts_with(excuse), "{error}");
        for machine in &fleet.machines {
            assert_eq!(machine.read("run/ironstrap/output"), "of long work", "{excuse}");
        }
    }
}

#[tokio::test]
async fn a_false_control_plane_is_reset_only_with_all_nodes() {
    let claims = |fleet: &Fleet| {
        fleet.machine("a1").write("etc/kubernetes/manifests/kube-apiserver.yaml", "\n");
    };
    let mut fleet = almost_reset().await;
    claims(&fleet);
    let run = fleet.apply().await;
    assert_eq!((run.result, run.left), (Ok(()), vec![]), "{}", run.shown);
    assert_eq!(fleet.machine("a1").read("run/ironstrap/output"), "absent");
    for machine in &fleet.machines {
        machine.write("run/ironstrap/output", "of long work");
    }
    fleet.machine("m1").write("var/lib/kubelet/pki/kubelet-client-current.pem", "\n");
    fleet.limit = ["a1", "w2"].map(String::from).into();
    let run = fleet.apply().await;
    assert_eq!(run.result, Ok(()), "{}", run.shown);
    let left: Vec<_> = run.left.iter().map(|e| (e.node.as_deref(), e.what.as_str())).collect();
    assert_eq!(left, [(Some("a1"), "is a control plane of nodes that are not part of this reset")]);
    assert_eq!(fleet.machine("w2").read("run/ironstrap/output"), "absent");
    assert_eq!(fleet.machine("a1").read("run/ironstrap/output"), "of long work");
}

#[tokio::test]
async fn force_removes_a_worker_despite_its_answers() {
    let (excuse, says) = EXCUSES[0];
    for force in [false, true] {
        let mut fleet = Fleet::settled(&["a1", "m1"]).await;
        fleet.reading = Operation::Remove(Removal { node: "a1".into(), force, drain_seconds: 1 });
        fleet.limit = ["a1".to_string()].into();
        says(fleet.machine("a1"));
        let (mut work, _) = fleet.look().await;
        // A folder has no real cluster, so m1 may report errors of its own.
        work.reset_preflight(("demo.trust", true)).unwrap();
        let stands = work.held_by_others();
        assert_eq!(stands.iter().any(|error| error.what.starts_with(excuse)), !force, "{stands:?}");
    }
    let (excuse, says) = EXCUSES[2];
    for force in [false, true] {
        let mut fleet = Fleet::settled(&["a1", "m1"]).await;
        fleet.reading = Operation::Remove(Removal { node: "a1".into(), force, drain_seconds: 1 });
        fleet.limit = ["a1".to_string()].into();
        says(fleet.machine("a1"));
        let (mut work, _) = fleet.look().await;
        let survey = work.reset_preflight(("demo.trust", true)).unwrap();
        assert!(survey.errors.iter().any(|error| error.what.starts_with(excuse)), "{:?}", survey.errors);
        let a1 = work.hosts().iter().find(|member| member.node.name == "a1").unwrap();
        assert_eq!(a1.machine.is_none(), force, "with --force it counts as a machine that does not answer");
    }
}

#[tokio::test]
async fn a_worker_that_claims_a_foreign_host_key_excludes_itself() {
    let fleet = Fleet::settled(&["a1", "m1", "w2"]).await;
    let key = |name: &str| format!("{}\n", fleet.machine(name).host_key.to_openssh().unwrap());
    let file = |kind: &str| format!("etc/ssh/ssh_host_{kind}_key.pub");
    for machine in &fleet.machines {
        machine.write(&file("ed25519"), &key(&machine.name));
    }
    fleet.machine("a1").write(&file("other"), &key("w2"));
    for name in ["etc/kubernetes/kubelet.conf", "var/lib/kubelet/pki/kubelet-client-current.pem"] {
        std::fs::remove_file(fleet.machine("w2").path(name)).unwrap();
    }
    let run = fleet.apply().await;
    assert_eq!(run.result, Ok(()), "{}", run.shown);
    let left: Vec<_> = run.left.iter().map(|e| (e.node.as_deref(), e.what.as_str())).collect();
    let what = "claims the SSH host key of w2, but ironstrap reached it by another one";
    assert_eq!(left, [(Some("a1"), what)]);
    assert!(run.changed.contains(&("w2".into(), "w2 is a member".into())), "{:?}", run.changed);
}
