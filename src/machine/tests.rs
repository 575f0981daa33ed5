//! Tests how the facts of a machine are read, and which facts are refused.

use super::*;

const FACTS: &str = "os debian\ncodename trixie\narch x86_64\nuid 0\nclock 1795278001.250000000\ncpus 4\n\
    hostname m1\nboot 0b\ninit systemd\nmemory 4194304\nbusy kubeadm\n\
    lease 3 run 1795278100 1795278000 me@here\nhas kubelet.conf\nhas client-certificate\n";

#[test]
fn the_facts_of_a_machine_are_parsed() {
    let machine =
        Machine::read(FACTS, "kubelet.conf QUJD\npki/ca.crt REVG\n", "pods 10.244.0.0/16\nname demo\n");
    let machine = machine.unwrap();
    assert_eq!((machine.os.as_str(), machine.codename.as_str(), machine.cpus), ("debian", "trixie", 4));
    assert_eq!((machine.uid, machine.clock, machine.memory), (0, 1795278001.25, 4194304));
    assert!(machine.is_member() && !machine.runs_control_plane());
    let lease = machine.lease.as_ref().unwrap();
    assert_eq!((lease.epoch, lease.owner.as_str(), lease.since().as_str()), (3, "me@here", "16:20:00 UTC"));
    assert_eq!(lease.kin, "", "a lease of an earlier version");
    assert_eq!(lease.holder(), "me@here (run run, since 16:20:00 UTC)");
    let facts = FACTS.replace("me@here\n", "me@here 0af1\n");
    let lease = Machine::read(&facts, "", "").unwrap().lease.unwrap();
    assert_eq!((lease.owner.as_str(), lease.kin.as_str()), ("me@here", "0af1"));
    assert_eq!(machine.authorities[1], ("pki/ca.crt".into(), "REVG".into()));
    assert_eq!(machine.identity["pods"], "10.244.0.0/16");
}

#[test]
fn an_empty_operating_system_name_is_accepted() {
    let facts = FACTS.replace("os debian", "os ").replace("codename trixie", "codename ");
    assert_eq!(Machine::read(&facts, "", "").unwrap().os, "");
}

#[test]
fn invalid_and_incomplete_facts_are_refused() {
    let wrong = [
        "",
        "Welcome!\n",
        "cpus many\n",
        "lease x\n",
        "lease 1 run 2 3\n",
        "lease 1 $(run) 2 3 me@here\n",
        "clock now\n",
    ];
    for more in wrong {
        let facts = if more.is_empty() { String::new() } else { format!("{FACTS}{more}") };
        assert!(Machine::read(&facts, "", "").is_err(), "{more:?}");
    }
    let halfway = FACTS.split("init").next().unwrap();
    assert_eq!(Machine::read(halfway, "", "").unwrap_err(), "the facts about the machine are incomplete");
}

#[test]
fn the_kubelets_age_begins_with_its_last_start() {
    let read = |line: &str| Machine::read(&format!("{FACTS}{line}"), "", "");
    assert_eq!(read("kubelet 90500000 100.75\n").unwrap().kubelet_since(), Some(1795277991));
    assert_eq!(read("kubelet 0 100.75\n").unwrap().kubelet_since(), None);
    let now = read("kubelet 100750000 100.75\n").unwrap().kubelet_since();
    assert_eq!(
        read("kubelet 99900750000 100.75\n").unwrap().kubelet_since(),
        now,
        "the start is never in the future"
    );
    assert!(read("kubelet 5\n").is_err());
}

#[test]
fn a_leased_or_busy_machine_is_taken() {
    let read = |facts: &str| Machine::read(facts, "", "").unwrap();
    let idle = FACTS.replace("busy kubeadm\n", "");
    assert!(read(&idle).is_taken());
    let expired = idle.replace("1795278100", "1795278000");
    assert!(!read(&expired).is_taken());
    assert!(read(&expired.replace("init", "busy kubeadm\ninit")).is_taken());
}

#[test]
fn oversized_lists_in_the_facts_are_refused() {
    let read = |more: String| Machine::read(&format!("{FACTS}{more}"), "", "");
    let plain = FACTS.replace("has client-certificate\n", "");
    let route = |n: usize| format!("route 10.{}.{}.0/24\n", n / 256 % 256, n % 256);
    let routes =
        |n: usize| Machine::read(&format!("{plain}{}", (0..n).map(route).collect::<String>()), "", "");
    assert_eq!(routes(3000).unwrap().routes.len(), 3000);
    assert_eq!(routes(5000).unwrap_err(), "it reports more than 4096 lines of route");
    let same = format!("{plain}{}", "route 10.0.0.0/24\n".repeat(3000));
    assert_eq!(Machine::read(&same, "", "").unwrap().routes.len(), 1);
    for key in ["host-key ssh-rsa A", "busy x", "has x"] {
        let word = key.split(' ').next().unwrap();
        let error = read((0..100).map(|n| format!("{key}{n}\n")).collect()).unwrap_err();
        assert_eq!(error, format!("it reports more than 64 lines of {word}"));
    }
    let error = read(format!("os {}\n", "x".repeat(10_000))).unwrap_err();
    assert!(error.starts_with("a line is longer than 8192 bytes: \"os xxx") && error.len() < 200, "{error}");
    let many = "pki/ca.crt QUJD\n".repeat(100);
    assert_eq!(Machine::read(FACTS, &many, "").unwrap_err(), "it reports more than 64 authorities");
}
