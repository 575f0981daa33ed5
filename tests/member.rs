//! What the fixes of step member do on a machine that is one, in every shell: a Node made anew, etcd's manifest again.

// clippy sees no test in what the tests share.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs;
use std::path::Path;

use ironstrap::fleet::Fleet;
use ironstrap::machine::Machine;
use ironstrap::shell::Sh;
use ironstrap::step::Fix;
use time::OffsetDateTime;

/// The fix of this want of the step on this node, in a fleet where its Node is gone and somebody has these ranges.
fn fix(node: usize, that: &str, ranges: &[&str]) -> Sh {
    let cluster = common::lab();
    let node = &cluster.nodes[node];
    let has = ["kubelet.conf", "client-certificate", "receipt", "manifests/kube-apiserver.yaml"];
    let machine = Machine { has: has.map(String::from).into(), ..Machine::default() };
    let fleet = Fleet {
        exists: true,
        unregistered: [node.name.clone()].into(),
        ranges: ranges.iter().map(|range| range.to_string()).collect(),
        ..Fleet::default()
    };
    let own = fleet.own(&node.name);
    let wants = common::wants(
        (&cluster, node),
        &common::trust(&cluster),
        (&machine, &own),
        OffsetDateTime::now_utc(),
    );
    let want = wants.into_iter().find(|(_, step, want)| *step == "member" && want.that == that).unwrap().2;
    match want.fix {
        Fix::Run(script) | Fix::Unit { script, .. } => script,
        other => panic!("{other:?}"),
    }
}

/// The shell with its paths in this folder.
fn moved(script: &str, root: &Path) -> String {
    let dirs = ["/run/", "/etc/kubernetes/", "/var/lib/etcd"];
    dirs.iter()
        .fold(script.to_string(), |script, dir| script.replace(dir, &format!("{}{dir}", root.display())))
}

/// The Node that is made, or nothing, where flannel noted this and others have these ranges; by a kubelet that has been
/// running for an hour.
fn made(flannel: &str, ranges: &[&str]) -> String {
    made_after(3600, flannel, ranges)
}

/// The same, with a kubelet that has been running for so many seconds.
fn made_after(seconds: u32, flannel: &str, ranges: &[&str]) -> String {
    let fix = fix(1, "the kubelet of w1 is known to the cluster", ranges);
    let (making, _) = fix.split_once("[ -n \"$made\" ]").unwrap();
    let ran = common::shells().into_iter().map(|shell| {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("run/flannel")).unwrap();
        fs::write(root.path().join("run/flannel/subnet.env"), flannel).unwrap();
        let head = format!(
            "set -eu\nkubectl() {{ cat >{}/made; }}\ndpkg() {{ echo arm64; }}\n\
             systemctl() {{ case $1 in show) date -d '-{seconds} seconds' ;; is-active) true ;; esac; }}\n",
            root.path().display()
        );
        let output = common::run(shell, &(head + &moved(making, root.path())));
        assert!(output.status.success(), "{shell}: {output:?}");
        fs::read_to_string(root.path().join("made")).unwrap_or_default().trim().to_string()
    });
    let ran: Vec<String> = ran.collect();
    assert!(ran.iter().all(|made| *made == ran[0]), "every shell does the same: {ran:?}");
    ran[0].clone()
}

#[test]
fn a_node_is_made_anew_with_the_range_that_it_had_if_nobody_else_has_it() {
    let four = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\n";
    let node: serde_json::Value = serde_json::from_str(&made(four, &["10.244.0.0/24"])).unwrap();
    assert_eq!(node["metadata"]["name"], "w1");
    assert_eq!(node["metadata"]["labels"]["kubernetes.io/arch"], "arm64");
    assert_eq!(node["spec"]["podCIDR"], "10.244.1.0/24");
    assert_eq!(node["spec"]["podCIDRs"], serde_json::json!(["10.244.1.0/24"]));
    let both = format!("{four}FLANNEL_IPV6_NETWORK=fd00::/48\nFLANNEL_IPV6_SUBNET=fd00:0:0:1::1/64\n");
    let node: serde_json::Value = serde_json::from_str(&made(&both, &[])).unwrap();
    assert_eq!(node["spec"]["podCIDR"], "10.244.1.0/24");
    assert_eq!(node["spec"]["podCIDRs"], serde_json::json!(["10.244.1.0/24", "fd00:0:0:1::/64"]));
    assert_eq!(made("FLANNEL_SUBNET=10.244.1.129/25\n", &[]).matches("10.244.1.128/25").count(), 2);
    for taken in ["10.244.1.0/24", "fd00:0:0:1::/64"] {
        assert_eq!(made(&both, &[taken]), "", "somebody has {taken}");
    }
    assert_eq!(made("", &[]), "", "flannel never ran here");
    assert_eq!(made_after(15, four, &[]), "", "a kubelet that starts would turn its static pods away");
}

/// Has etcd's manifest written again, where the old one had these lines and there is data or none; how it ended, what
/// it said, and the new one.
fn again(old: &str, data: bool) -> (bool, String, String) {
    let fix = fix(0, "what kubeadm wrote is as it wrote it, from this inventory", &[]);
    let from = fix.find("m=/etc/kubernetes/manifests/etcd.yaml n=").unwrap();
    let to = fix.find("kubeadm init phase control-plane").unwrap();
    let ran = common::shells().into_iter().map(|shell| {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        fs::create_dir_all(path("etc/kubernetes/manifests")).unwrap();
        fs::create_dir_all(path("run/ironstrap")).unwrap();
        fs::create_dir_all(path(if data { "var/lib/etcd/member" } else { "var/lib/etcd" })).unwrap();
        fs::write(path("etc/kubernetes/manifests/etcd.yaml"), old).unwrap();
        let new = format!(
            "    - --data-dir={}\\n    - --initial-cluster=m1=https://a:2380\\n    - --new-flag=1\\n",
            path("var/lib/etcd").display()
        );
        let head = format!(
            "set -eu\nRUN={}\nc=config\nkubeadm() {{ printf '{new}' >$KUBEADM_INIT_DRYRUN_DIR/etcd.yaml; }}\nput() {{ cat >\"$1\"; }}\n",
            path("run/ironstrap").display()
        );
        let output = common::run(shell, &(head + &moved(&fix[from..to], root.path())));
        let manifest = fs::read_to_string(path("etc/kubernetes/manifests/etcd.yaml")).unwrap();
        (
            output.status.success(),
            String::from_utf8(output.stdout).unwrap().replace(&root.path().display().to_string(), ""),
            manifest.replace(&root.path().display().to_string(), ""),
        )
    });
    let ran: Vec<_> = ran.collect();
    assert!(ran.iter().all(|one| *one == ran[0]), "every shell does the same: {ran:?}");
    ran[0].clone()
}

#[test]
fn an_etcd_that_joined_others_stays_so_and_one_without_data_is_not_begun_anew() {
    let joined = "    - --initial-cluster=m2=https://b:2380,m1=https://a:2380\n    - --initial-cluster-state=existing\n";
    let (good, _, manifest) = again(&format!("    - --old-flag=1\n{joined}"), true);
    assert!(good && manifest.contains(joined) && manifest.contains("--new-flag=1"), "{manifest}");
    assert!(!manifest.contains("--old-flag"), "{manifest}");
    let (good, _, manifest) = again("    - --initial-cluster=m1=https://a:2380\n", true);
    assert!(good && !manifest.contains("existing") && manifest.contains("--new-flag=1"), "{manifest}");
    let (good, said, manifest) = again(joined, false);
    assert!(!good && said.contains("etcd has lost its data, /var/lib/etcd/member"), "{said}");
    assert_eq!(manifest, joined, "and nothing is changed");
}
