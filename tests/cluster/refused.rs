//! Refusals without any change: unfit machines, a cluster that contradicts the inventory, and a second operator at the same
//! time.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use toml::Table;

use crate::lab::{NODES, assert_untouched};
use crate::world::{Moved, PATIENCE, World, real, set};
use crate::{Ground, Scenario, so, until};

pub const UNFIT: &[Scenario] = &[
    Scenario {
        says: "all unfit machines are reported and none is changed",
        ground: Ground::Fresh,
        run: unfit,
    },
    Scenario {
        says: "cloned machines, wrong addresses and overlapping routes are refused unless ignored",
        ground: Ground::Fresh,
        run: clones_and_routes,
    },
    Scenario {
        says: "leftovers, full disks, missing routes and name servers are refused unless ignored",
        ground: Ground::Fresh,
        run: leftovers_and_resources,
    },
    Scenario {
        says: "missing connections between machines, repositories and endpoint are found before the first change",
        ground: Ground::Fresh,
        run: missing_connections,
    },
];

pub const SCENARIOS: &[Scenario] = &[
    Scenario { says: "a cluster is refused without its PKI", ground: Ground::Cluster, run: no_pki },
    Scenario {
        says: "another Kubernetes version, range, name or role in the inventory is refused",
        ground: Ground::Cluster,
        run: identity,
    },
    Scenario {
        says: "a kubeconfig of another cluster is refused before the first change",
        ground: Ground::Cluster,
        run: another_kubeconfig,
    },
    Scenario {
        says: "a second operator is refused with the name of the first",
        ground: Ground::Cluster,
        run: second_operator,
    },
    Scenario {
        says: "a killed run's lease passes to its own folder at once, and to a copy only with --take-over",
        ground: Ground::Cluster,
        run: replaced,
    },
    Scenario { says: "a killed unit leaves no script behind", ground: Ground::Cluster, run: no_script_left },
];

/// Checks that plan and apply refuse with these words on m1, and that no machine changes.
fn assert_refused(world: &World, words: &[&str]) {
    assert_refused_on(world, "m1", words);
}

fn assert_refused_on(world: &World, node: &str, words: &[&str]) {
    let before = world.lab.look_at_all();
    world.apply().refused(5, node, words);
    world.plan().refused(5, node, words);
    assert_untouched(&before, &world.lab.look_at_all());
}

fn another_kubeconfig(world: &World) {
    let path = world.dir.join("demo.kubeconfig");
    let ours = fs::read_to_string(&path).unwrap();
    fs::write(&path, ours.replace("demo", "another")).unwrap();
    world.lab.ssh("w1", "systemctl disable -q kubelet");
    let before = world.lab.look_at_all();
    let ended = world.apply();
    assert_eq!(ended.code, Some(10), "{}", ended.errors());
    assert!(ended.errors().contains("demo.kubeconfig does not belong to this cluster"), "{}", ended.errors());
    assert_untouched(&before, &world.lab.look_at_all());
    fs::write(&path, ours).unwrap();
    assert!(world.apply().good().changes() > 0);
}

fn unfit(world: &World) {
    let (m1, w1) = (world.lab.machine("m1"), world.lab.machine("w1"));
    world.lab.ssh("m1", "systemd-run -q --unit=other /usr/sbin/sshd -D -p 6443");
    world.lab.ssh("w1", "systemd-run -q --unit=other /usr/sbin/sshd -D -p 10250; hostnamectl hostname w2");
    world.lab.ssh("w2", "sed -i s/^VERSION_CODENAME=.*/VERSION_CODENAME=sid/ /usr/lib/os-release");
    until("the ports are in use", 10, || so(m1.listens(6443) && w1.listens(10250)));
    let (before, kept) = (world.lab.look_at_all(), world.kept());
    for run in [world.apply(), world.plan()] {
        let run = run.refused(5, "m1", &["port 6443 is in use by sshd"]);
        let run = run.refused(5, "w1", &["duplicate host name w2", "w2"]);
        let run = run.refused(5, "w1", &["port 10250 is in use by sshd"]);
        run.refused(5, "w2", &["debian sid"]);
    }
    assert_untouched(&before, &world.lab.look_at_all());
    // A run leaves its lock file.
    let mut left = world.kept();
    left.retain(|name| name != ".demo.lock");
    assert_eq!(left, kept, "something was written beside the inventory");
}

fn clones_and_routes(world: &World) {
    let of_m1 = |file: &str| world.lab.ssh("m1", &format!("cat {file}"));
    let (id, key) = (of_m1("/etc/machine-id"), of_m1("/etc/ssh/ssh_host_ed25519_key.pub"));
    world.lab.ssh("w1", &format!("echo '{}' >/etc/machine-id", id.trim()));
    world.lab.ssh("w1", &format!("echo '{}' >/etc/ssh/ssh_host_rsa_key.pub", key.trim()));
    world.lab.ssh("m1", "ip route add 10.244.7.0/24 dev eth0");
    world.lab.ssh("w2", "ip route add 10.0.0.0/8 dev eth0");
    let elsewhere = |i: &mut Table| set(i, &["nodes", "w2", "ip"], "\"198.18.0.99\"");
    world.inventory(elsewhere);
    let before = world.lab.look_at_all();
    for run in [world.apply(), world.plan()] {
        let run = run.refused(5, "w1", &["has the same machine-id as m1", id.trim()]);
        let run = run.refused(5, "w1", &["claims the SSH host key of m1"]);
        let run = run.refused(
            5,
            "w2",
            &["no network interface has the cluster address 198.18.0.99", "198.18.0.13"],
        );
        let run = run.refused(5, "m1", &["the route to 10.244.7.0/24 overlaps pods", "10.244.0.0/16"]);
        let hints: Vec<&str> = run.events.iter().filter_map(|event| event["hint"].as_str()).collect();
        assert!(hints.iter().any(|hint| hint.contains("systemd-machine-id-setup")), "{hints:#?}");
        assert!(hints.iter().any(|hint| hint.contains("ignore-preflight = [\"Routes\"]")), "{hints:#?}");
    }
    assert_untouched(&before, &world.lab.look_at_all());
    world.inventory(|i| {
        elsewhere(i);
        let names = r#"["SystemVerification", "MachineID", "HostKey", "NodeAddress", "routes"]"#;
        set(i, &["cluster", "ignore-preflight"], names);
    });
    let plan = world.plan().good();
    let notes: Vec<&str> = plan.events.iter().filter_map(|event| event["note"].as_str()).collect();
    for piece in ["machine-id as m1", "host key of m1", "198.18.0.99", "10.244.7.0/24", "10.0.0.0/8"] {
        assert!(notes.iter().any(|note| note.contains(piece)), "no {piece:?} among {notes:#?}");
    }
}

/// Node, the script that causes the problem, words of the error, and the name of the check for `ignore-preflight`.
const LEFTOVERS: &[(&str, &str, &str, &str)] = &[
    (
        "m1",
        "mkdir -p /var/lib/etcd/member",
        "the folder for etcd's data is empty",
        "DirAvailable--var-lib-etcd",
    ),
    (
        "m1",
        "mkdir -p /etc/kubernetes/manifests; echo >/etc/kubernetes/manifests/etcd.yaml",
        "found: etcd.yaml",
        "FileAvailable--etc-kubernetes-manifests-etcd.yaml",
    ),
    (
        "w1",
        "mkdir -p /etc/cni/net.d; echo {} >/etc/cni/net.d/05-other.conflist",
        "05-other.conflist",
        "Leftovers",
    ),
    ("w1", "ip link add cali0123 type bridge", "cali0123", "Leftovers"),
    ("w1", "mount -t tmpfs -o size=20m tmpfs /var/log", "MiB free on /var/log", "Disk"),
    ("w2", "mount -t tmpfs -o nr_inodes=100 tmpfs /var/log", "inodes free on /var/log", "Inodes"),
    (
        "w2",
        "ip route add 198.18.0.1 dev eth0; ip route del default",
        "there is a default route",
        "DefaultRoute",
    ),
    ("w2", "echo nameserver 127.0.0.53 >/etc/resolv.conf", "only 127.0.0.53", "ResolvConf"),
];

fn leftovers_and_resources(world: &World) {
    for (node, script, ..) in LEFTOVERS {
        world.lab.ssh(node, script);
    }
    world.lab.ssh("w1", "mkdir -p /opt/cni/bin; mount -t tmpfs -o noexec tmpfs /opt/cni/bin");
    world.lab.ssh("w2", "mkdir -p /etc/kubernetes; mount -t tmpfs -o ro tmpfs /etc/kubernetes");
    let before = world.lab.look_at_all();
    for mut run in [world.apply(), world.plan()] {
        for (node, _, words, _) in LEFTOVERS {
            run = run.refused(5, node, &[words]);
        }
        run = run.refused(5, "w1", &["/opt/cni/bin", "noexec"]);
        run.refused(5, "w2", &["/etc/kubernetes", "read-only"]);
    }
    assert_untouched(&before, &world.lab.look_at_all());
    world.lab.ssh("w1", "umount /opt/cni/bin");
    world.lab.ssh("w2", "umount /etc/kubernetes");
    let names: Vec<String> = LEFTOVERS.iter().map(|(.., name)| format!("\"{name}\"")).collect();
    let names = format!("[\"SystemVerification\", {}]", names.join(", "));
    world.inventory(|i| set(i, &["cluster", "ignore-preflight"], &names));
    let plan = world.plan().good();
    let notes: Vec<&str> = plan.events.iter().filter_map(|event| event["note"].as_str()).collect();
    for (_, _, words, _) in LEFTOVERS {
        assert!(notes.iter().any(|note| note.contains(words)), "no {words:?} among {notes:#?}");
    }
}

fn missing_connections(world: &World) {
    // The programs of a firewall. ironstrap itself needs neither.
    world.lab.ssh("w2", "apt-get -qq update && apt-get -qq install -y nftables >/dev/null");
    world.lab.ssh("m1", "apt-get -qq update && apt-get -qq install -y iptables >/dev/null");
    let nft = "add table inet mine; add chain inet mine input { type filter hook input priority filter; }; \
               add chain inet mine kubernetes; add rule inet mine input tcp dport 23 drop; \
               add rule inet mine input iifname eth0 jump kubernetes; \
               add rule inet mine kubernetes ip saddr 198.18.0.11 tcp dport { 10250, 10255 } reject";
    world.lab.ssh("w2", &format!("nft '{nft}'"));
    world.lab.ssh("m1", "iptables-legacy -A INPUT -s 198.18.0.13 -p udp --dport 8472 -j DROP");
    // w1 cannot answer the control plane, and w2 accepts only small packets. SSH still works with both.
    world.lab.ssh("w1", "ip route add prohibit 198.18.0.11/32");
    world.lab.ssh("w2", "ip link set dev eth0 mtu 1400");
    let edit = |i: &mut Table| {
        set(i, &["packages", "kubernetes"], "\"https://198.18.0.1:9/deb/\"");
        set(i, &["cluster", "endpoint"], "\"nowhere.invalid:6443\"");
    };
    world.inventory(edit);
    let before = world.lab.look_at_all();
    for run in [world.apply(), world.plan()] {
        let run = run.refused(5, "m1", &["cannot be reached on 6443/tcp (the API)", "from w1"]);
        let run = run.refused(
            5,
            "w1",
            &["cannot be reached on", "10250/tcp", "from m1", "not all rules of w1 could be read"],
        );
        let rule = "nft inet mine kubernetes: ip saddr 198.18.0.11 tcp dport { 10250, 10255 } reject";
        let run = run.refused(5, "w2", &["cannot be reached on 10250/tcp", "rules of w2 that may", rule]);
        let rule = "iptables -A INPUT -s 198.18.0.13/32 -p udp -m udp --dport 8472 -j DROP";
        let run = run.refused(5, "m1", &["8472/udp: no answer, from w2", "rules of m1 that may", rule]);
        let run =
            run.refused(5, "m1", &["packets of 1500 bytes", "w2", "packet that got through had 1400 bytes"]);
        let run = run.refused(5, "w2", &["a package repository does not answer", "198.18.0.1:9"]);
        run.refused(5, "w2", &["cannot resolve nowhere.invalid"]);
    }
    assert_untouched(&before, &world.lab.look_at_all());
    for (node, port) in [("m1", 6443), ("w2", 10250)] {
        assert!(!world.lab.machine(node).listens(port), "something still listens on {port} of {node}");
    }
}

fn no_pki(world: &World) {
    let away = Moved::new(world.dir.join("demo.trust"), world.dir.join("elsewhere"));
    assert_refused(world, &["belongs to a cluster with another PKI", "demo.trust does not exist"]);
    assert!(!world.dir.join("demo.trust").exists(), "a second PKI was created");
    drop(away);
    world.assert_converged();
}

fn identity(world: &World) {
    type Edit = fn(&mut Table);
    let edits: [(Edit, &[&str]); 4] = [
        (
            |i| set(i, &["cluster", "kubernetes"], r#""1.36.2""#),
            &["kubernetes: the cluster has 1.36.3", "1.36.2"],
        ),
        (
            |i| set(i, &["cluster", "pods"], r#""10.200.0.0/16""#),
            &["pods: the cluster has 10.244.0.0/16", "10.200.0.0/16"],
        ),
        (
            |i| set(i, &["cluster", "services"], r#""10.97.0.0/16""#),
            &["services: the cluster has 10.96.0.0/12"],
        ),
        (|i| set(i, &["cluster", "name"], r#""other""#), &["other.trust does not exist"]),
    ];
    for (edit, words) in edits {
        world.inventory(edit);
        assert_refused(world, words);
    }
    assert!(!world.dir.join("other.trust").exists(), "a second PKI was created");
    // Only the name differs; the PKI is the right one.
    let moved = Moved::new(world.dir.join("demo.trust"), world.dir.join("other.trust"));
    assert_refused(world, &["name: the cluster has demo, the inventory says other"]);
    drop(moved);
    // The role decides whether a removal changes etcd, so a removal with the wrong role is refused, too.
    world.inventory(|i| set(i, &["nodes", "w1", "role"], "\"control-plane\""));
    let is = "is a worker in its cluster, but the inventory says control-plane";
    assert_refused_on(world, "w1", &[is]);
    world.start(&["remove", "--yes", "w1"]).end(PATIENCE).refused(5, "w1", &[is]);
    world.inventory(|_| {});
    world.assert_converged();
}

fn second_operator(world: &World) {
    // Bob uses a copy of the folder, because the lock of the same folder would refuse him first.
    let bobs = world.copy("bob");
    world.lab.ssh("w2", "echo '# edited' >>/etc/containerd/config.toml");
    let mut alice = world.start_as("alice", &world.dir, &["apply", "--yes"]);
    alice.event("alice's run begins a stage", 60, |event| event["event"] == "stage");
    alice.signal("STOP");
    let before: Vec<_> = ["m1", "w1"].map(|node| world.lab.looks(node)).into();
    let bob = world.start_as("bob", &bobs, &["apply", "--yes"]).end(60);
    let herself = world.start_as("alice", &bobs, &["apply", "--yes"]).end(60);
    let same_folder = world.start_as("bob", &world.dir, &["apply", "--yes"]).end(60);
    let after: Vec<_> = ["m1", "w1"].map(|node| world.lab.looks(node)).into();
    alice.signal("CONT");
    let alice = alice.end(PATIENCE);
    bob.refused(9, "m1", &["is being changed by alice@", "(run "]);
    herself.refused(9, "m1", &["is being changed by alice@", "(run "]);
    same_folder.refused(9, "-", &["is working on cluster demo"]);
    assert_untouched(&before, &after);
    let fixed = alice.good().triples("fixed");
    assert!(fixed.iter().any(|(node, step, _)| node == "w2" && step == "runtime"), "{fixed:#?}");
    // After her run, others may run. Her changes may still have consequences.
    let bob = world.start_as("bob", &bobs, &["apply", "--yes"]).end(PATIENCE).good();
    assert_eq!(real(&bob, "fixed"), BTreeSet::new());
    let _ = fs::remove_dir_all(&bobs);
    // No script of an ended run is left.
    for node in NODES {
        assert!(world.lab.machine(node).running("sh", &["-s"]).is_empty(), "a script still runs on {node}");
    }
}

/// Starts an apply in the folder, kills it when it holds the machines' leases, and returns the run that holds m1's lease.
fn killed_in(world: &World, dir: &Path) -> String {
    world.lab.ssh("w2", "echo '# edited' >>/etc/containerd/config.toml");
    let mut client = world.start_as("alice", dir, &["apply", "--yes"]);
    client.event("the run begins a stage", 60, |event| event["event"] == "stage");
    client.kill();
    // The killed run's fix may still succeed. Add more drift, so that the next run needs the lease.
    world.lab.ssh("w2", "rm /etc/sysctl.d/99-zz-ironstrap.conf");
    let lease =
        world.lab.ssh("m1", "read -r x r until x </run/ironstrap/lease; echo $((until - $(date +%s))) $r");
    let (left, run) = lease.trim().split_once(' ').unwrap();
    assert!(left.parse::<i64>().unwrap() > 60, "the lease is still held: {lease}");
    run.into()
}

fn replaced(world: &World) {
    let copy = world.copy("copy");
    let killed = killed_in(world, &world.dir);
    let words = ["is being changed by alice@", "(run "];
    world.start_as("alice", &copy, &["apply", "--yes"]).end(60).refused(9, "m1", &words);
    let lease = "read -r x r x </run/ironstrap/lease; echo $r";
    assert_eq!(world.lab.ssh("m1", lease).trim(), killed);
    world.start_as("alice", &world.dir, &["apply", "--yes"]).end(PATIENCE).good();
    assert_ne!(world.lab.ssh("m1", lease).trim(), killed, "the next run took the lease");
    // The same from another folder.
    let killed = killed_in(world, &world.dir);
    world.start_as("alice", &copy, &["apply", "--yes", "--take-over"]).end(PATIENCE).good();
    assert_ne!(world.lab.ssh("m1", lease).trim(), killed, "the run took over the lease");
    let _ = fs::remove_dir_all(&copy);
    world.assert_converged();
}

fn no_script_left(world: &World) {
    let lib = include_str!("../../templates/lib.sh");
    let script = format!(
        "set -eu\n{lib}\nmkdir -p $RUN; lease_run=ffff\n\
         ( until [ -e $RUN/toy.ffff.sh ]; do sleep 0.1; done; systemctl kill -s KILL ironstrap-toy ) &\n\
         run_as_unit toy 1 <<'END' || :\nsleep 600\nEND\nls $RUN; rm -f $RUN/toy.ffff.*"
    );
    let said = world.lab.ssh("w1", &script);
    assert!(said.contains("ironstrap-toy was stopped before it finished"), "{said}");
    assert!(said.contains("toy.ffff.log") && !said.contains("toy.ffff.sh"), "{said}");
}
