//! Fuzzes the parsers of input from machines, the operator and OpenSSH. They reject wrong input, and never panic or hang.

use std::path::Path;

use ironstrap::inventory;
use ironstrap::known_hosts::{KnownHosts, Verdict};
use ironstrap::probe;
use ironstrap::report::group;
use ironstrap::status;
use ironstrap::step::{Answer, Ask, Object};
use russh::keys::PublicKey;

use crate::support::fuzz;

const BOUNDARY: &str = "--0123456789abcdef0123456789abcdef";

#[test]
fn mutated_ranges_do_not_break_the_inventory() {
    let seeds = ["w[01-40]", "w[1-3]", "m1", "10.0.0.[1-2]:22", "[fd00::[1-2]]:22", "n[0-0]x", "a[10-9]"];
    let cluster = "[cluster]\nname = 'demo'\nkubernetes = '1.36.3'\n[nodes.m1]\naddress = '198.18.0.11'\nrole = 'control-plane'\n";
    let known = inventory::parse(cluster, Path::new("demo.toml")).unwrap();
    let make = |random: &mut fuzz::Random| (random.text(&seeds), random.text(&seeds));
    fuzz::each(1500, make, |(name, address)| {
        let quoted = |text: &str| serde_json::to_string(text).unwrap();
        let text = format!("{cluster}[nodes.{}]\naddress = {}\n", quoted(name), quoted(address));
        if let Ok(cluster) = inventory::parse(&text, Path::new("demo.toml")) {
            assert!(cluster.nodes.len() <= 5001, "{}", cluster.nodes.len());
            assert!(cluster.nodes.iter().all(|node| node.name.is_ascii() && node.name.len() < 254));
        }
        let _ = inventory::select(&known, std::slice::from_ref(name));
        let names: Vec<String> = (0..9).map(|n| format!("{name}{n}{address}")).collect();
        let _ = (group::names(&names), group::names([name; 9]));
    });
}

/// The reply of a machine. Each body has its output, its exit code and its errors.
fn reply(bodies: &[(&str, i32, &str)]) -> String {
    bodies
        .iter()
        .enumerate()
        .map(|(number, (out, status, err))| {
            format!("{out}\n{BOUNDARY} {number} {status}\n{err}\n{BOUNDARY}\n")
        })
        .collect()
}

#[test]
fn mutated_replies_do_not_break_the_parser() {
    let asks = [
        Ask::Shell(ironstrap::shell::Sh::raw("a")),
        Ask::Facts,
        Ask::File("/a".into()),
        Ask::Hash("/b".into()),
        Ask::Kubeconfig("/c".into()),
        Ask::Unit { unit: "u.service".into(), reads: vec!["/a".into()] },
        Ask::Packages(vec!["p".into()]),
        Ask::Objects(vec![Object::new("v1", "ConfigMap", "kube-system", "x")]),
        Ask::Nodes,
        Ask::Listed,
    ];
    let asks: Vec<&Ask> = asks.iter().collect();
    let facts = "os debian\nclock 1795278001.25\ninit systemd\ncpus 4\nmemory 4194304\nkubelet 90500000 100.75\n\
        lease 3 r1 1795278001 1795278000 me@here\naddress eth0 10.0.0.1\nroute 10.0.0.0/8\n";
    let stat = "/a\tregular file\tmode 644 root:root\t3\t1.5\n/b\tregular file\tmode 600 root:root\t0\t1.5\n";
    let unit = "Id=u.service\nLoadState=loaded\nUnitFileState=enabled\nActiveState=active\n\
        ActiveEnterTimestamp=Sat 2026-11-21 16:20:01.123456 UTC\nNeedDaemonReload=no\n";
    let nodes = "ConfigMap/kube-system/x {\"kind\":\"ConfigMap\"}\nNode//m1 {\"spec\":{\"podCIDRs\":[\"10.0.0.0/24\"]}}\nbeside the nodes\nClusterRole x get\nall nodes\n";
    let whole = reply(&[
        (facts, 0, ""),
        ("", 0, ""),
        ("", 0, ""),
        (stat, 1, "stat: cannot statx '/c': No such file or directory"),
        ("one", 0, ""),
        ("abc  /b\n", 0, ""),
        ("", 0, ""),
        (unit, 0, ""),
        ("p\tii \t1.0\n", 0, ""),
        (nodes, 0, ""),
        ("yes\n", 0, ""),
        ("1795278002.5\n", 0, ""),
    ]);
    let (machine, right) = probe::answers(whole.as_bytes(), &asks, BOUNDARY).unwrap();
    assert!(!right.iter().any(|answer| matches!(answer, Answer::Unknown(_))), "the seed is right: {right:?}");
    assert_eq!(machine.took, 1.25);
    let late = whole.replace("yes\n\n", &format!("\n{BOUNDARY} late 10 4711 df\n\n"));
    assert_eq!(probe::late(late.as_bytes(), &asks, BOUNDARY, &probe::Limits::default()).len(), 1, "{late}");
    let mark = format!("\n{BOUNDARY} stuck 3 1 x\n");
    let seeds = [whole.as_bytes(), late.as_bytes(), mark.as_bytes(), BOUNDARY.as_bytes()];
    fuzz::each(
        3000,
        |random| random.mutated(&seeds),
        |reply| {
            let _ = probe::late(reply, &asks, BOUNDARY, &probe::Limits::default());
            if let Ok((machine, answers)) = probe::answers(reply, &asks, BOUNDARY) {
                assert_eq!(answers.len(), asks.len());
                assert!(machine.clock.is_finite() && machine.took.is_finite());
                assert!(machine.kubelet_age.is_none_or(f64::is_finite));
                let _ = (
                    machine.kubelet_since(),
                    machine.is_taken(),
                    machine.lease.as_ref().map(|lease| lease.since()),
                );
            }
        },
    );
}

#[test]
fn mutated_known_hosts_never_hide_a_revoked_key() {
    const A: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDUalGL/Qoxjl9vcLmxyET8xCyEw0nyo60nuteyYJrhs";
    const B: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDQeOxgwVhTVTUEeFBJihp6BCS3q/omiK92i3J06xSWF";
    let hashed = "|1|g3Dn0aUjC2GEkwhslFz65D6tCeU=|cKPfEk/82GXCy1u19d5l2Qnwry0=";
    let all = format!(
        "# mine\nm1.example {B}\n*.example,!m2.example {A}\n@revoked * {B}\n@cert-authority * {B}\n{hashed} {A}\n"
    );
    let revoked = format!("# stolen\n{B}\n{A}\n");
    let (seeds, lists) = ([all.as_str(), A, B, hashed], [revoked.as_str(), A, B]);
    let (dir, key) = (tempfile::tempdir().unwrap(), PublicKey::from_openssh(B).unwrap());
    let (file, list) = (dir.path().join("known_hosts"), dir.path().join("revoked"));
    let make = |random: &mut fuzz::Random| (random.text(&seeds), random.text(&lists));
    fuzz::each(1500, make, |(text, other)| {
        std::fs::write(&file, text).unwrap();
        std::fs::write(&list, other).unwrap();
        let known = KnownHosts::load(std::slice::from_ref(&file), &[], None, None).unwrap();
        let _ = (known.check("m1.example", 22, &key), known.check("m1.example", 2222, &key));
        let _ = (known.algorithms("m1.example", 22), known.has_authority("m1.example", 22));
        // A line with exactly this key revokes it, regardless of the other lines.
        if let Ok(known) = known.revoking(std::slice::from_ref(&list), None) {
            let listed = other.lines().any(|line| line.trim() == B);
            let refused = matches!(known.check("m1.example", 22, &key), Verdict::Revoked(_));
            assert!(refused || !listed, "{text:?} {other:?}");
        }
    });
}

#[test]
fn mutated_quantities_do_not_break_the_status() {
    let seeds = ["100m", "70Mi", "1.5Gi", "1e3", "12e-1", "0.000000001", "8Ei", "+2", "24619320Ki"];
    let pod = "m1\t\t\t={\"cpu\":\"100m\",\"memory\":\"70Mi\"} \tAlways={\"cpu\":\"1\"} \n";
    let make = |random: &mut fuzz::Random| (random.text(&seeds), random.text(&[pod]));
    fuzz::each(20_000, make, |(text, pods)| {
        assert!(status::billionths(text).is_none_or(|amount| amount >= 0), "{text}");
        let _ = status::by_node(pods);
        let huge = pod.replace("100m", text);
        let _ = status::by_node(&huge.repeat(3));
    });
}

#[test]
fn an_overflowing_sum_saturates() {
    let pod = format!("m1\t\t\t={{\"cpu\":\"{}\"}} \t\n", "9".repeat(29));
    let one = status::by_node(&pod).unwrap()["m1"].cpu;
    let many = status::by_node(&pod.repeat(10)).unwrap()["m1"].cpu;
    assert!(one > 0 && many == i128::MAX, "{one} {many}");
}
