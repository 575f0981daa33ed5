//! Tests runs with `--limit`, and runs with a limited number of parallel connections.

use ironstrap::error::Kind;

use super::fleet::{Fleet, secret};
use super::pairs;

fn only(names: &[&str]) -> std::collections::BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn a_limit_leaves_excluded_nodes_unchanged() {
    let mut fleet = Fleet::settled(&["m1", "w1", "w2"]).await;
    for machine in &fleet.machines {
        machine.write("etc/toy/switch", "off\n");
    }
    fleet.limit = only(&["w1"]);
    let before = ["m1", "w2"].map(|name| fleet.machine(name).files());
    let outcome = fleet.apply().await;
    assert_eq!((outcome.result, outcome.left), (Ok(()), vec![]));
    let wanted = pairs(&[("w1", "the switch is on")]);
    assert_eq!((outcome.planned, outcome.changed), (wanted.clone(), wanted));
    assert_eq!(["m1", "w2"].map(|name| fleet.machine(name).files()), before);
    for name in ["m1", "w2"] {
        assert_eq!(fleet.machine(name).execs(), 1, "{name} is asked");
        assert_eq!(fleet.machine(name).read("run/ironstrap/lease"), "absent", "{name} gets no lease");
    }
}

#[tokio::test]
async fn a_problem_of_an_excluded_node_is_not_a_failure() {
    let mut fleet = Fleet::settled(&["m1", "w1", "w2", "w3"]).await;
    fleet.machine("w1").write("etc/toy/switch", "off\n");
    fleet.machine("w2").write("proc/1/comm", "runit\n");
    fleet.unplug("w3");
    fleet.limit = only(&["w1"]);
    let outcome = fleet.apply().await;
    assert_eq!((outcome.result, outcome.left), (Ok(()), vec![]));
    assert_eq!(outcome.changed, pairs(&[("w1", "the switch is on")]));
}

#[tokio::test]
async fn a_node_that_joins_alone_gets_only_its_labels() {
    let mut fleet = Fleet::of(&["m1", "w1", "w2"]).await;
    for name in ["m1", "w1"] {
        fleet.machine(name).settle(&secret(&fleet.pki));
    }
    let m1 = fleet.machine("m1");
    m1.write("etc/kubernetes/manifests/kube-apiserver.yaml", "\n");
    m1.write("etc/toy/switch", "off\n");
    fleet.limit = only(&["w2"]);
    let outcome = fleet.apply().await;
    assert_eq!((outcome.result, outcome.left), (Ok(()), vec![]), "{}", outcome.shown);
    assert!(outcome.changed.contains(&("w2".into(), "w2 is a member".into())), "{:?}", outcome.changed);
    let m1 = fleet.machine("m1");
    assert_eq!((m1.read("etc/toy/labels").as_str(), m1.read("etc/toy/switch").as_str()), ("w2\n", "off\n"));
}

#[tokio::test]
async fn waiting_for_an_excluded_node_is_an_error() {
    let mut fleet = Fleet::of(&["m1", "w1"]).await;
    fleet.limit = only(&["w1"]);
    let outcome = fleet.apply().await;
    super::reads("error-limit-waits", &outcome.left);
    assert_eq!((outcome.left.len(), outcome.left[0].node.as_deref()), (1, Some("w1")));
    assert_eq!(fleet.machine("w1").read("etc/toy/switch"), "on\n", "it is still prepared");
    assert_eq!(fleet.machine("m1").read("etc/toy/switch"), "absent");
    assert_eq!(fleet.machine("m1").execs(), 1, "there is no cluster yet that could be asked");
}

#[tokio::test]
async fn a_silent_excluded_control_plane_stops_a_new_cluster() {
    let mut fleet = Fleet::of(&["m1", "m2"]).await;
    fleet.unplug("m2");
    fleet.limit = only(&["m1"]);
    let before = fleet.machine("m1").files();
    let error = fleet.apply().await.result.unwrap_err();
    assert_eq!((error.kind, error.node.as_deref()), (Kind::Unreachable, Some("m2")));
    assert_eq!(fleet.machine("m1").files(), before);
}

#[tokio::test]
async fn the_number_of_parallel_connections_is_limited() {
    let names = ["m1", "w1", "w2", "w3", "w4", "w5"];
    let mut most = vec![];
    for parallel in [2, usize::MAX] {
        let mut fleet = Fleet::settled(&names).await;
        let shared = tempfile::tempdir().unwrap();
        for machine in &fleet.machines {
            // Every observation calls nproc. The script notes how many machines run it at once.
            let (dir, name) = (shared.path().display(), &machine.name);
            let script = format!(
                "mkdir {dir}/{name}; ls {dir} | wc -l >>{dir}.most; sleep 0.3; rmdir {dir}/{name}; echo 4"
            );
            machine.command("nproc", &script);
        }
        fleet.parallel = parallel;
        let outcome = fleet.apply().await;
        assert_eq!((outcome.result, outcome.changed.len()), (Ok(()), 0));
        let noted = std::fs::read_to_string(shared.path().with_extension("most")).unwrap();
        let counts: Vec<usize> = noted.lines().map(|line| line.trim().parse().unwrap()).collect();
        assert_eq!(counts.len(), names.len());
        most.push(counts.into_iter().max().unwrap());
    }
    assert!(most[0] <= 2 && most[1] > 2, "{most:?}");
}

#[tokio::test]
async fn an_excluded_new_machine_gets_no_active_checks() {
    let mut fleet = Fleet::of(&["m1", "w1", "w2"]).await;
    fleet.machine("m1").settle(&secret(&fleet.pki));
    fleet.limit = only(&["w1"]);
    let (mut work, _) = fleet.look().await;
    work.run_active_checks().await;
    assert!(fleet.machine("w1").execs() > 1, "a joining machine is checked");
    assert_eq!(fleet.machine("w2").execs(), 1);
}

#[tokio::test]
async fn an_excluded_clone_blocks_its_twin() {
    let mut fleet = Fleet::of(&["m1", "w1", "w2", "w3"]).await;
    fleet.machine("m1").settle(&secret(&fleet.pki));
    for name in ["w1", "w2"] {
        fleet.machine(name).write("etc/machine-id", "0b57c7a1d3c94f7a8a3c1d2e3f405162\n");
    }
    let mut named = Vec::new();
    for limit in ["w1", "w3"] {
        fleet.limit = only(&[limit]);
        let (mut work, _) = fleet.look().await;
        let errors = work.preflight(("demo.trust", true)).errors;
        named.push(errors.iter().any(|error| error.what.starts_with("has the same machine-id as w1")));
    }
    assert_eq!(named, [true, false]);
}
