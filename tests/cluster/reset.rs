//! A reset restores the state of a machine before ironstrap, and foreign programs on it keep running. The tests compare lists
//! of everything that can be seen on the machine. `NAMED` has the exceptions.

use std::collections::BTreeSet;
use std::process::Command;

use crate::killed;
use crate::lab::{NODES, text};
use crate::world::{Moved, PATIENCE, World};
use crate::{Ground, Scenario, so, until};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        says: "a reset after a killed apply restores the machines",
        ground: Ground::Fresh,
        run: half_installed,
    },
    Scenario {
        says: "a reset restores every machine and keeps foreign programs on it",
        ground: Ground::Fresh,
        run: as_before,
    },
    Scenario { says: "a second reset does nothing", ground: Ground::Before, run: twice },
    Scenario { says: "an apply after a reset creates a cluster again", ground: Ground::Before, run: again },
    Scenario {
        says: "a reset of the only control plane or of a foreign cluster is refused",
        ground: Ground::Before,
        run: refused,
    },
    Scenario {
        says: "a reset that is killed many times completes",
        ground: Ground::Before,
        run: killed_over_and_over,
    },
];

/// Paths that may differ, with the reason.
const NAMED: &[(&str, &str)] = &[
    ("/var/lib/apt/lists/", "what apt knows of repositories, fetched by apt-get update"),
    ("/var/lib/apt/extended_states", "who asked for a package: compared as `manual` below"),
    ("/var/lib/dpkg/status", "packages with their times: compared one by one below"),
    (
        "/var/lib/dpkg/info/",
        "packages' files: dpkg forgets folders that it found empty; packages are compared below",
    ),
    ("/var/lib/dpkg/available", "a cache of dpkg's"),
    ("/var/lib/dpkg/diversions-old", "the file before the last change"),
    ("/var/lib/dpkg/statoverride-old", "the file before the last change"),
    ("/var/lib/systemd/timers/", "when timers last ran"),
];

/// Prints everything that can be seen on a machine, one per line. It covers more than `Lab::looks`.
const LOOK: &str = r#"set -eu; export LC_ALL=C
find /etc /usr/local /opt /var/lib /root /home -xdev ! -type f -printf '%y %p %m %U:%G %l\n'
find /etc /usr/local /opt /var/lib /root /home -xdev -type f -printf '%y %p %m %U:%G\n'
find /etc /usr/local /opt /var/lib /root /home -xdev -type f -exec sha256sum {} +
for d in /var/lib/kubelet /var/lib/containerd /var/lib/etcd; do [ ! -d $d ] || ls -A $d | sed "s|^|in $d: |"; done
dpkg-query -W -f 'package ${Package} ${db:Status-Abbrev} ${Version}\n'
apt-mark showmanual | sed 's/^/manual /'
systemctl list-unit-files --no-legend --plain | sed 's/  */ /g; s/^/unit file /'
systemctl list-units --all --no-legend --plain | awk '/kube|containerd|cri-|swap|ironstrap/ { print "unit", $1, $2, $3 }'
for s in net/ipv4/ip_forward net/bridge/bridge-nf-call-iptables net/bridge/bridge-nf-call-ip6tables \
  net/ipv4/conf/all/route_localnet vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops \
  kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
  [ ! -e /proc/sys/$s ] || echo "sysctl $s $(cat /proc/sys/$s)"
done
ip -o link | sed 's/^[0-9]*: \([^:@]*\).*/interface \1/'
ip route | sed 's/^/route /'
awk '{ print "mount", $2, $3 }' /proc/mounts
ls -A /run | sed 's/^/run /'
sed 's/^/swap /' /proc/swaps
echo 'the end'"#;

pub fn look(world: &World, node: &str) -> BTreeSet<String> {
    let said = world.lab.ssh(node, LOOK);
    assert!(said.ends_with("the end\n"), "the output of {node} is incomplete");
    let named = |line: &&str| NAMED.iter().any(|(path, _)| line.contains(path));
    let mut all: BTreeSet<String> = said.lines().filter(|line| !named(line)).map(str::to_string).collect();
    all.extend(rules(world, node));
    all
}

/// The kernel's packet filter rules, listed from the host, because the machine may have no program for that. An empty table
/// is left out: it does nothing, and a machine without nft cannot remove it.
fn rules(world: &World, node: &str) -> Vec<String> {
    let (pid, part) = (world.lab.run(&["pid", node]), world.lab.run(&["part", "userland"]));
    let root = format!("{}/root", part.trim());
    let mut nft = Command::new("nsenter");
    nft.args(["-t", pid.trim(), "-n", "chroot", &root, "nft", "-s", "list", "ruleset"]);
    let output = nft.output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let (mut table, mut chain, mut found) = (String::new(), String::new(), vec![]);
    for line in text(&output.stdout).lines().map(str::trim) {
        match line.split_once(' ') {
            Some(("table", name)) => table = name.into(),
            Some(("chain", name)) => chain = name.into(),
            Some(("type", kind)) if kind.ends_with("policy accept;") => {}
            _ if line.is_empty() || line == "}" || line.starts_with('#') => {}
            _ => found.push(format!("rule {table} {chain} {line}")),
        }
    }
    found
}

pub fn look_at_all(world: &World) -> Vec<BTreeSet<String>> {
    NODES.map(|node| look_without_foreign_store(world, node)).into()
}

/// Leaves out containerd's store on w1, because the containerd that existed before keeps using it.
fn look_without_foreign_store(world: &World, node: &str) -> BTreeSet<String> {
    let mut all = look(world, node);
    all.retain(|line| node != "w1" || !line.contains("/var/lib/containerd"));
    all
}

/// Checks that the machines are as before. It retries, because services and interfaces disappear a moment later than the
/// programs they belong to.
pub fn assert_as_before(world: &World, before: &[BTreeSet<String>]) {
    let mut last = String::new();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while std::time::Instant::now() < end {
        last.clear();
        for (node, before) in NODES.iter().zip(before) {
            let after = look_without_foreign_store(world, node);
            let gone: Vec<&String> = before.difference(&after).collect();
            let come: Vec<&String> = after.difference(before).collect();
            if !(gone.is_empty() && come.is_empty()) {
                last += &format!("{node}: gone {gone:#?}, come {come:#?}\n");
            }
        }
        if last.is_empty() {
            return;
        }
    }
    panic!("the machines are not as before:\n{last}");
}

/// Checks that one machine is as before.
pub fn assert_one_as_before(world: &World, node: &str, before: &BTreeSet<String>) {
    let mut last = (vec![], vec![]);
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while std::time::Instant::now() < end {
        let after = look(world, node);
        let lines = |these: &BTreeSet<String>, those| these.difference(those).cloned().collect::<Vec<_>>();
        last = (lines(before, &after), lines(&after, before));
        if last.0.is_empty() && last.1.is_empty() {
            return;
        }
    }
    panic!("{node} is not as before: gone {:#?}, come {:#?}", last.0, last.1);
}

pub fn reset(world: &World, nodes: &[&str]) -> crate::client::Ended {
    world.start(&[&["reset", "--yes"], nodes].concat()).end(PATIENCE)
}

fn half_installed(world: &World) {
    let before = look_at_all(world);
    let mut client = world.applying();
    let w1 = world.lab.machine("w1");
    let dpkg = killed::dpkg_unpacking(&mut client, &w1);
    client.kill();
    let mut resetting = world.start(&["reset", "--yes"]);
    resetting.event("the reset waits for apt on w1", 60, |e| killed::attached(e, "w1", "kubelet"));
    crate::lab::signal("CONT", &dpkg);
    resetting.end(PATIENCE).good();
    assert_as_before(world, &before);
}

/// Installs foreign programs on w1 before ironstrap: a container runtime with a container, a container network and firewall
/// rules.
const OTHERS: &str = r#"set -e; export DEBIAN_FRONTEND=noninteractive
apt-get -qq update; apt-get -qq -y install --no-install-recommends containerd iptables nftables >/dev/null
mkdir -p /etc/containerd /opt/cni/bin /var/lib/cni/networks/theirs
echo theirs | tee /opt/cni/bin/theirs >/var/lib/cni/networks/theirs/10.88.0.2
containerd config default >/etc/containerd/config.toml
systemctl restart containerd
iptables -N THEIRS; iptables -A THEIRS -s 203.0.113.7 -j DROP; iptables -A INPUT -j THEIRS
ip link add theirs0 type bridge
ctr -n theirs images pull --plain-http 198.18.0.1:5000/pause:3.10.2 >/dev/null
ctr -n theirs run -d 198.18.0.1:5000/pause:3.10.2 theirs
iptables -N KUBE-THEIRS; iptables -A KUBE-THEIRS -s 203.0.113.8 -j DROP
ip link add cni01 type bridge
ip netns add blue; ip netns add cni-theirs
mkdir -p /var/lib/kubelet/theirs /var/lib/kubelet-theirs /var/lib/etcd2/member /srv/theirs
echo theirs | tee '/srv/theirs/a b' /var/lib/kubelet-theirs/config.yaml >/var/lib/etcd2/member/theirs
mount --bind /srv/theirs /var/lib/kubelet/theirs
"#;

/// Adds more foreign files while the cluster exists. `AWAY` checks and removes them.
const THEIRS_SINCE: &str = r#"mkdir -p /etc/kubernetes-theirs /var/lib/kubelet2
echo theirs | tee /etc/kubernetes-theirs/admin.conf >/var/lib/kubelet2/config.yaml
ip netns add green"#;
const AWAY: &str = r#"set -e
cat /etc/kubernetes-theirs/admin.conf /var/lib/kubelet2/config.yaml '/var/lib/kubelet/theirs/a b' >/dev/null
mountpoint -q /var/lib/kubelet/theirs
ip netns exec green true; ip netns exec blue true; ip netns exec cni-theirs true
ip netns delete green; rm -r /etc/kubernetes-theirs /var/lib/kubelet2"#;

/// Written a second time after the cluster exists. Without another configuration, the kubelet would use it for the cluster.
const THEIR_NETWORK: &str = r#"mkdir -p /etc/cni/net.d
echo '{"cniVersion": "0.4.0", "name": "theirs", "plugins": [{"type": "bridge"}]}' >/etc/cni/net.d/87-theirs.conflist"#;

/// The process of the foreign container. It changes if the container restarts.
fn their_container(world: &World) -> String {
    let tasks = world.lab.ssh("w1", "ctr -n theirs tasks ls");
    let running = tasks.lines().find(|line| line.starts_with("theirs ")).unwrap_or_default();
    assert!(running.contains("RUNNING"), "the foreign container does not run: {tasks}");
    running.to_string()
}

fn as_before(world: &World) {
    world.lab.ssh("w1", OTHERS);
    world.lab.ssh("w1", THEIR_NETWORK);
    let (before, theirs) = (look_at_all(world), their_container(world));
    world.lab.ssh("w1", "rm /etc/cni/net.d/87-theirs.conflist");
    world.apply().good();
    assert_eq!(their_container(world), theirs, "the foreign container keeps running during an apply");
    world.lab.ssh("w1", THEIR_NETWORK);
    world.lab.ssh("w1", THEIRS_SINCE);
    let asked = world.start(&["reset"]).end(60);
    assert_eq!(asked.code, Some(5), "without a terminal a reset cannot ask for confirmation");
    assert!(asked.errors().contains("cannot ask for confirmation"), "{}", asked.errors());
    world.assert_converged();
    let done = reset(world, &[]).good();
    for node in NODES {
        assert!(done.of_node(node, "changes").as_u64().unwrap() > 12, "{node}");
        assert_eq!(done.of_node(node, "state"), "converged", "{node}");
    }
    assert_eq!(their_container(world), theirs, "the foreign container keeps running after a reset");
    world.lab.ssh("w1", AWAY);
    assert_as_before(world, &before);
}

fn twice(world: &World) {
    let before = look_at_all(world);
    let again = reset(world, &[]).good();
    assert_eq!(again.changes(), 0);
    for node in NODES {
        assert_eq!(again.of_node(node, "execs"), 1, "{node}");
    }
    assert_as_before(world, &before);
}

fn again(world: &World) {
    world.apply().good();
    world.assert_converged();
    their_container(world);
}

fn refused(world: &World) {
    let before = world.lab.look_at_all();
    reset(world, &["m1"]).refused(
        5,
        "m1",
        &["is a control plane of nodes that are not part of this reset", "w1, w2"],
    );
    let away = Moved::new(world.dir.join("demo.trust"), world.dir.join("elsewhere"));
    reset(world, &[]).refused(5, "m1", &["belongs to a cluster with another PKI"]);
    drop(away);
    let strange = reset(world, &["w9"]);
    assert_eq!(strange.code, Some(2), "{}", strange.stderr);
    crate::lab::assert_untouched(&before, &world.lab.look_at_all());
    world.assert_converged();
}

/// Kills a reset once in each of its stages.
fn killed_over_and_over(world: &World) {
    for stage in ["member", "prepare"] {
        let mut client = world.start(&["reset", "--yes"]);
        client.event(&format!("{stage} begins on w1"), 120, |e| {
            e["event"] == "stage" && e["node"] == "w1" && e["stage"] == stage
        });
        client.kill();
    }
    reset(world, &[]).good();
    for node in NODES {
        let machine = world.lab.machine(node);
        let left = ["/var/lib/ironstrap", "/run/ironstrap", "/etc/kubernetes", "/usr/bin/kubelet"];
        until(&format!("nothing is left on {node}"), 10, || so(left.iter().all(|path| !machine.has(path))));
    }
    their_container(world);
    assert_eq!(reset(world, &[]).good().changes(), 0);
}
