//! Tests of the probes between machines, and of how ironstrap judges their results.

use super::*;
use crate::cluster::{Flannel, Role};

/// A cluster with this many control planes and workers.
fn cluster(control_planes: usize, workers: usize) -> Cluster {
    let mut cluster = crate::pki::tests::cluster();
    let first = cluster.nodes[0].clone();
    let node = |i: usize| Node {
        name: format!("n{i}"),
        role: if i < control_planes { Role::ControlPlane } else { Role::Worker },
        ip: IpAddr::from([198, 18, (i / 200) as u8, (i % 200 + 1) as u8]),
        ..first.clone()
    };
    cluster.nodes = (0..control_planes + workers).map(node).collect();
    cluster.network = Network::Flannel(Flannel { image: "flannel".into(), plugin: "plugin".into() });
    cluster
}

fn names(cluster: &Cluster, from: usize) -> BTreeSet<String> {
    cluster.nodes[from..].iter().map(|node| node.name.clone()).collect()
}

fn shown(probes: &[Probe]) -> Vec<String> {
    let one = |probe: &Probe| {
        format!("{} {} {}{}", probe.from, probe.to, probe.port, if probe.udp { "u" } else { "" })
    };
    probes.iter().map(one).collect()
}

#[test]
fn probed_ports_follow_the_roles_of_both_nodes() {
    let cluster = cluster(2, 1);
    let all = names(&cluster, 0);
    let api = cluster.api_port();
    let probes = shown(&super::probes(&cluster, &all, &all));
    let has = |probe: &str| probes.contains(&probe.to_string());
    assert!(has(&format!("n2 n0 {api}")) && has(&format!("n0 n1 {api}")) && has("n2 n1 8472u"), "{probes:?}");
    assert!(has("n0 n1 2379") && has("n1 n0 2380") && has("n0 n2 10250"), "{probes:?}");
    let mut own = cluster.clone();
    own.network = Network::None;
    assert!(super::probes(&own, &all, &all).iter().all(|probe| !probe.udp), "only flannel uses UDP");
    assert!(!has("n2 n0 2379") && !has("n2 n0 10250") && !has(&format!("n0 n2 {api}")), "{probes:?}");
}

#[test]
fn connections_between_members_are_not_probed() {
    let cluster = cluster(1, 2);
    let (all, new) = (names(&cluster, 0), names(&cluster, 2));
    let probes = shown(&super::probes(&cluster, &all, &new));
    assert!(probes.iter().all(|probe| probe.contains("n2")), "{probes:?}");
    // The kernel of a member holds the port of the overlay, and answers no unknown sender.
    assert!(probes.iter().all(|probe| !probe.starts_with("n2 ") || !probe.ends_with('u')), "{probes:?}");
    assert!(probes.contains(&"n1 n2 8472u".to_string()), "{probes:?}");
    assert_eq!(super::probes(&cluster, &all, &BTreeSet::new()), []);
}

#[test]
fn a_worker_in_a_large_fleet_probes_few_nodes() {
    let cluster = cluster(3, 297);
    let all = names(&cluster, 0);
    let probes = super::probes(&cluster, &all, &all);
    let of =
        |name: &str, udp: bool| probes.iter().filter(|probe| probe.from == name && probe.udp == udp).count();
    assert_eq!((of("n100", true), of("n100", false)), (3 + NEIGHBOURS, 3));
    assert!(probes.len() < 300 * 16, "{}", probes.len());
    assert_eq!(of("n0", true), 299, "a control plane probes all nodes");
    let reached: BTreeSet<&str> =
        probes.iter().filter(|probe| probe.udp).map(|probe| probe.to.as_str()).collect();
    assert_eq!(reached.len(), 300, "every node is probed");
}

#[test]
fn a_member_that_refuses_a_connection_is_reachable() {
    let cluster = cluster(1, 1);
    let probe = Probe { from: "n1".into(), to: "n0".into(), port: cluster.api_port(), udp: false };
    let wrong = |how: &str, joining: BTreeSet<String>| {
        let came = [(probe.clone(), ProbeResult::Failed(how.into()))];
        judge(&cluster, &came, &joining, &BTreeMap::new()).len()
    };
    assert_eq!(wrong(REFUSED, names(&cluster, 1)), 0, "this run may have to repair its API server");
    assert_eq!(wrong("no answer", names(&cluster, 1)), 1);
    let came = [(probe.clone(), ProbeResult::Failed("no answer".into()))];
    let found = judge(&cluster, &came, &names(&cluster, 1), &BTreeMap::new());
    assert_eq!(
        found[0].error.node.as_deref(),
        Some("n1"),
        "the joining node is to blame, because the member works"
    );
    assert_eq!(wrong(REFUSED, names(&cluster, 0)), 1, "a listener of ironstrap refused the connection");
}

/// The findings for these results: the node, whether it is only a warning, and what is wrong.
fn judged(
    cluster: &Cluster,
    came: &[(Probe, ProbeResult)],
    joining: &BTreeSet<String>,
) -> Vec<(String, bool, String)> {
    let found = judge(cluster, came, joining, &BTreeMap::new());
    found.into_iter().map(|m| (m.error.node.unwrap(), m.harmless, m.error.what)).collect()
}

fn overlay(from: &str, to: &str, end: ProbeResult) -> (Probe, ProbeResult) {
    (Probe { from: from.into(), to: to.into(), port: VXLAN, udp: true }, end)
}

fn lost() -> ProbeResult {
    ProbeResult::Failed("no answer".into())
}

fn narrow() -> ProbeResult {
    ProbeResult::Passed { mtu: 1500, largest: 1300 }
}

#[test]
fn a_workers_report_about_another_node_only_warns() {
    // n0 is the control plane, n1 is a member, and n2 and n3 have still to join.
    let (cluster, new) = (cluster(1, 3), names(&cluster(1, 3), 2));
    let lies = [
        overlay("n1", "n2", lost()),
        overlay("n1", "n2", narrow()),
        overlay("n1", "n2", ProbeResult::Failed(STRANGER.into())),
    ];
    for lie in lies {
        let found = judged(
            &cluster,
            &[lie.clone(), overlay("n0", "n2", ProbeResult::Passed { mtu: 1500, largest: 1500 })],
            &new,
        );
        assert_eq!(found.len(), 1, "{found:?}");
        let (node, harmless, what) = &found[0];
        assert!(*harmless && node == "n1" && what.contains("n2"), "the warning names both nodes: {found:?}");
    }
    let other = judged(&cluster, &[overlay("n3", "n2", lost()), overlay("n3", "n0", narrow())], &new);
    assert!(
        other.iter().any(|(node, harmless, what)| *harmless && node == "n3" && what.contains("n2")),
        "{other:?}"
    );
    assert!(
        other.iter().all(|(node, ..)| node != "n2"),
        "a joining node cannot accuse another one: {other:?}"
    );
}

#[test]
fn control_planes_and_the_joining_node_report_errors() {
    let (cluster, new) = (cluster(1, 3), names(&cluster(1, 3), 2));
    let refused = |came: &[(Probe, ProbeResult)]| -> Vec<String> {
        let found = judged(&cluster, came, &new);
        found.into_iter().filter(|(_, harmless, _)| !harmless).map(|(node, ..)| node).collect()
    };
    for end in [lost(), narrow()] {
        assert_eq!(refused(&[overlay("n0", "n2", end.clone())]), ["n2"]);
        // Two reports about one firewall cause one error.
        assert_eq!(refused(&[overlay("n0", "n2", end.clone()), overlay("n1", "n2", end)]), ["n2"]);
    }
    assert_eq!(refused(&[overlay("n2", "n3", narrow())]), ["n2"], "a node's own report counts for itself");
    let api = Probe { from: "n2".into(), to: "n0".into(), port: 6443, udp: false };
    for end in [lost(), narrow(), ProbeResult::Failed(STRANGER.into())] {
        assert_eq!(refused(&[(api.clone(), end)]), ["n2"], "the joining node is to blame, not the member");
    }
}

#[test]
fn another_program_is_looked_for_at_the_address_that_was_asked() {
    let (cluster, new) = (cluster(1, 3), names(&cluster(1, 3), 2));
    let hint = |from: &str, to: &str| {
        let probe = Probe { from: from.into(), to: to.into(), port: 6443, udp: false };
        let came = [(probe, ProbeResult::Failed(STRANGER.into()))];
        judge(&cluster, &came, &new, &BTreeMap::new()).remove(0).error.hint.unwrap()
    };
    assert!(hint("n0", "n2").starts_with("find the host that has the address of n2, "));
    // The joining node is refused, but it asked the other one.
    assert!(hint("n2", "n0").starts_with("find the host that has the address of n0, "));
}

#[test]
fn before_the_cluster_exists_every_report_counts() {
    let cluster = cluster(1, 2);
    let all = names(&cluster, 0);
    let api = Probe { from: "n1".into(), to: "n0".into(), port: 6443, udp: false };
    assert_eq!(judged(&cluster, &[(api, lost())], &all)[0].0, "n0");
}

#[test]
fn a_port_without_a_listener_is_not_probed() {
    let cluster = cluster(1, 1);
    let probe = |port, udp| Probe { from: "n1".into(), to: "n0".into(), port, udp };
    let asked = |said: Option<&str>, joining: BTreeSet<String>| {
        let listening =
            said.map(|said| ("n0".to_string(), Listening::read(said, "1f"))).into_iter().collect();
        let probes = vec![probe(6443, false), probe(VXLAN, true)];
        let round = Round { nonce: "1f".into(), probes, joining, listening };
        let Ask::Shell(script) = ask(&cluster, &cluster.nodes[1], &round)? else { panic!() };
        let (_, document) = script.rsplit_once(" <<'").unwrap();
        let lines = document.lines().skip(1).filter(|line| !line.starts_with("--"));
        Some(lines.map(|line| format!("{line}\n")).collect::<String>())
    };
    let (all, one) = (names(&cluster, 0), names(&cluster, 1));
    let up = "1f up tcp 6443\n1f up udp 8472\n1f ready\n";
    let both = "tcp 198.18.0.1 6443 greets\nudp 198.18.0.1 8472 greets\n";
    assert_eq!(asked(Some(up), all.clone()).unwrap(), both);
    let held = "1f held tcp 6443\n1f held udp 8472\n1f ready\n";
    assert_eq!(asked(Some(held), all.clone()).unwrap(), "tcp 198.18.0.1 6443 silent\n");
    assert_eq!(asked(Some("1f closed tcp 6443\n"), all.clone()), None);
    assert_eq!(asked(None, all), None);
    let member = "tcp 198.18.0.1 6443 silent\nudp 198.18.0.1 8472 silent\n";
    assert_eq!(asked(None, one).unwrap(), member, "a member's own services answer");
}

#[test]
fn an_unreadable_line_affects_no_other_probe() {
    let cluster = cluster(1, 1);
    let probe = |port, udp| Probe { from: "n1".into(), to: "n0".into(), port, udp };
    let probes = [probe(6443, false), probe(VXLAN, true)];
    let read = |answer: &str| read(&cluster, &cluster.nodes[1], &probes, answer);
    let others = read("tcp 198.18.0.2 6443 lost\nudp 198.18.0.2 8472 lost");
    assert_eq!(others, (vec![], vec![]), "198.18.0.2 was not probed");
    let end = |answer: &str| read(answer).0.remove(0).1;
    assert_eq!(end("tcp 198.18.0.1 6443 ok 1500"), ProbeResult::Reached { milliseconds: 1.5 });
    assert_eq!(end("udp 198.18.0.1 8472 ok 1500 1450"), ProbeResult::Passed { mtu: 1500, largest: 1450 });
    assert_eq!(end("udp 198.18.0.1 8472 failed Broken pipe"), ProbeResult::Failed("Broken pipe".into()));
    let lost = (probe(VXLAN, true), ProbeResult::Failed("no answer".into()));
    for bad in ["ok soon", "ok 1500 1e+100", "ok 1500 -1", "ok", "ok 1 2 3"] {
        let (came, odd) = read(&format!("tcp 198.18.0.1 6443 {bad}\nudp 198.18.0.1 8472 lost"));
        let failed = (probe(6443, false), ProbeResult::Failed(ODD.into()));
        assert_eq!((came, odd.len()), (vec![failed, lost.clone()], 0), "{bad}");
    }
    for wrong in ["tcp 198.18.0.9 6443 ok 1", "tcp 198.18.0.1 6443", "hello", "tcp 198.18.0.1 x ok 1"] {
        let said = format!("{wrong}\nudp 198.18.0.1 8472 lost");
        assert_eq!(read(&said), (vec![lost.clone()], vec![wrong.to_string()]));
    }
}
