//! The messages of preflight checks. A fake machine reports each possible problem, and a snapshot has the message that
//! the user reads.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use ironstrap::cluster::Role;
use ironstrap::error::Result;
use ironstrap::fleet::Fleet;
use ironstrap::inventory;
use ironstrap::ledger::Run;
use ironstrap::machine::Machine;
use ironstrap::reconcile::Reconciler;
use ironstrap::report::{self, Events};
use ironstrap::shell::{Output, Sh, Shell};
use ironstrap::step::Ask;
use ironstrap::steps::STAGES;
use ironstrap::steps::preflight::kubeadm_checks::{ONLY_OURS, PREDICTED};
use time::OffsetDateTime;

use crate::support::{fit, pki, wants};

const INVENTORY: &str = "[cluster]
name = 'demo'
kubernetes = '1.36.3'
ignore-preflight = []
[kubelet]
maxPods = 110
[nodes.m1]
address = '198.18.0.11'
role = 'control-plane'
[nodes.w1]
address = '198.18.0.12'
role = 'worker'
";

/// A fake machine with prepared answers.
struct Played {
    facts: String,
    ahead: f64,
    /// The answers to the questions of wants, in order, without duplicates. `Err`: the question fails with this text.
    says: Vec<std::result::Result<String, String>>,
    /// The results of active checks that differ from the good ones.
    tries: Vec<(&'static str, std::result::Result<&'static str, &'static str>)>,
    /// The name of its firewall.
    wall: Option<&'static str>,
    /// The rules of its packet filter, one per line.
    rules: Vec<&'static str>,
}

impl Shell for Played {
    async fn run(&self, script: &Sh, heard: &mut (dyn FnMut(&[u8]) + Send)) -> Result<Output> {
        let said = if script.contains("Listens for those who") {
            self.listens(script)
        } else if script.contains("AF_UNIX") {
            String::new()
        } else if script.contains("fetch_to=") || script.contains("Tries to reach other machines") {
            self.replies(script, &self.tried(script))
        } else {
            self.replies(script, &self.says)
        };
        heard(said.as_bytes());
        Ok(Output { status: 0, stdout: said.into_bytes(), stderr: vec![] })
    }
}

impl Played {
    fn replies(&self, script: &str, said: &[std::result::Result<String, String>]) -> String {
        let boundary = script.rsplit_once("%s\\n' ").unwrap().1.split(' ').next().unwrap().trim_matches('\'');
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64() + self.ahead;
        let (mut reply, mut number) = (String::new(), 0);
        let mut one = |text: &str, status: i32, words: &str| {
            reply += &format!("{text}\n{boundary} {number} {status}\n{words}\n{boundary}\n");
            number += 1;
        };
        one(&format!("{}clock {now}\n", self.facts), 0, "");
        // These tests leave authorities, identity, six tables and objects empty.
        (0..9).for_each(|_| one("", 0, ""));
        for said in said {
            match said {
                Ok(text) => one(text, 0, ""),
                Err(words) => one("", 2, words),
            }
        }
        one(&format!("{now}\n"), 0, "");
        reply
    }

    /// The output of the listener: all ports are open.
    fn listens(&self, script: &str) -> String {
        let line = script.lines().rev().find_map(|line| line.strip_prefix("' ")).unwrap();
        let words: Vec<&str> = line.split(' ').map(|word| word.trim_matches('\'')).collect();
        let [nonce, _, tcp, udp] = words.as_slice() else { panic!("{line}") };
        let wall = self.wall.iter().map(|name| format!("{nonce} firewall {name}\n"));
        let rules = self.rules.iter().flat_map(|text| text.lines()).map(|line| format!("{nonce} {line}\n"));
        let up = |kind: &str, ports: &str| -> String {
            ports.split(',').map(|port| format!("{nonce} up {kind} {port}\n")).collect()
        };
        wall.chain(rules).collect::<String>()
            + &up("tcp", tcp)
            + &up("udp", udp)
            + &format!("{nonce} ready\n")
    }

    /// The results of the active checks, in their order.
    fn tried(&self, script: &str) -> Vec<std::result::Result<String, String>> {
        let wrong =
            |what: &str| self.tries.iter().find(|(other, _)| what.starts_with(other)).map(|(_, how)| *how);
        let mut said = Vec::new();
        if let Some((_, document)) = script.split_once(" <<'--") {
            let ways = document.lines().skip(1).take_while(|line| !line.starts_with("--"));
            let ways = ways.map(|way| way.rsplit_once(' ').unwrap().0);
            let come = |way: &str| match wrong(way) {
                Some(how) => format!("{way} {}\n", how.unwrap()),
                None if way.starts_with("udp") => format!("{way} ok 1500 1500\n"),
                None => format!("{way} ok 210\n"),
            };
            let fails = wrong("reach").and_then(|how| how.err());
            said.push(fails.map_or_else(|| Ok(ways.map(come).collect()), |words| Err(words.to_string())));
        }
        let all = [
            ("packages", "sources_dead |", "versions 1.36.2-1.1 1.36.3-1.1\ncontainerd 1.7.24~ds1-6+b4\n"),
            ("registries", "/v2/", ""),
            ("endpoint", "getent ahosts", ""),
            ("fsync", "conv=notrunc,fdatasync", "1.2 500\n"),
            ("key", "Release.key", include_str!("../keys/kubernetes.asc")),
        ];
        for (what, mark, fine) in all.into_iter().filter(|(_, mark, _)| script.contains(mark)) {
            assert!(!mark.is_empty());
            said.push(wrong(what).unwrap_or(Ok(fine)).map(String::from).map_err(String::from));
        }
        said
    }
}

/// A problem: in the inventory, in the facts of a machine, in its answer to a want, or in an active check.
#[derive(Clone, Copy)]
enum Wrong {
    Inventory(&'static str, &'static str),
    Facts(&'static str, &'static str, &'static str),
    Ahead(&'static str, f64),
    Says(&'static str, &'static str, &'static str),
    Fails(&'static str, &'static str, &'static str),
    /// The result of an active check, such as `tcp ADDRESS PORT` or `packages`.
    Tries(&'static str, &'static str, &'static str),
    TryFails(&'static str, &'static str, &'static str),
    Wall(&'static str, &'static str),
    /// The rules of its packet filter, as the listener prints them.
    Rules(&'static str, &'static str),
}

use Wrong::{Ahead, Facts, Fails, Inventory, Rules, Says, Tries, TryFails, Wall};

fn facts(name: &str, ip: &str) -> String {
    let n = &ip[ip.len() - 1..];
    format!(
        "os debian\ncodename trixie\narch x86_64\nuid 0\ncpus 2\nhostname {name}\nboot 0b{n}\ninit systemd\nmemory 4194304\n\
         machine-id 1d{n}\nproduct_uuid 4c{n}\nhost-key ssh-ed25519 AAAA{n}\nmac eth0 02:00:00:00:00:0{n}\n\
         address eth0 {ip}\nroute 198.18.0.0/24\n"
    )
}

/// What the user reads about a fleet with these problems: first the errors, then the notes.
async fn messages(wrong: &[Wrong]) -> String {
    let mut text = INVENTORY.to_string();
    for wrong in wrong {
        if let Inventory(old, new) = wrong {
            assert!(text.contains(old), "{old}");
            text = text.replace(old, new);
        }
    }
    let mut cluster =
        inventory::parse(&text, Path::new("demo.toml")).unwrap_or_else(|error| panic!("{error}"));
    for node in cluster.nodes.iter_mut().filter(|node| node.name.starts_with('m')) {
        node.role = Role::ControlPlane;
    }
    let pki = pki(&cluster);
    let mut machines = Vec::new();
    for node in &cluster.nodes {
        let about = (&Machine::default(), &Fleet::default());
        let all = wants((&cluster, node), &pki, about, OffsetDateTime::now_utc());
        let (mut asks, mut says, mut ahead): (Vec<Ask>, Vec<_>, f64) = (vec![], vec![], 0.0);
        let mut facts = facts(&node.name, &node.ip.to_string());
        let mut unheard: BTreeMap<&str, ()> = BTreeMap::new();
        for wrong in wrong {
            match wrong {
                Facts(name, old, new) if *name == node.name => {
                    assert!(facts.contains(old), "{old}");
                    facts = facts.replace(old, new);
                }
                Ahead(name, by) if *name == node.name => ahead = *by,
                Says(name, id, _) | Fails(name, id, _) if *name == node.name => {
                    unheard.insert(id, ());
                }
                _ => {}
            }
        }
        for (_, _, want) in all.iter().filter(|(stage, ..)| *stage == "preflight") {
            unheard.remove(want.id.to_string().as_str());
            if !matches!(want.ask, Ask::Shell(_) | Ask::OnlyBeforeJoin(_)) || asks.contains(&want.ask) {
                continue;
            }
            asks.push(want.ask.clone());
            let about = |name: &str, id: &str| {
                let same = |(_, _, other): &&(_, _, ironstrap::step::Want)| other.id.to_string() == id;
                name == node.name && all.iter().find(same).is_some_and(|(.., other)| other.ask == want.ask)
            };
            let said = wrong.iter().find_map(|wrong| match wrong {
                Says(name, id, said) if about(name, id) => Some(Ok(said.to_string())),
                Fails(name, id, words) if about(name, id) => Some(Err(words.to_string())),
                _ => None,
            });
            says.push(said.unwrap_or_else(|| Ok(fit(want).to_string())));
        }
        assert!(unheard.is_empty(), "no want asks this: {unheard:?}");
        let tries = wrong.iter().filter_map(|wrong| match wrong {
            Tries(name, what, how) if *name == node.name => Some((*what, Ok(*how))),
            TryFails(name, what, words) if *name == node.name => Some((*what, Err(*words))),
            _ => None,
        });
        let wall = wrong.iter().find_map(|wrong| match wrong {
            Wall(name, wall) if *name == node.name => Some(*wall),
            _ => None,
        });
        let rules = wrong.iter().filter_map(|wrong| match wrong {
            Rules(name, rules) if *name == node.name => Some(*rules),
            _ => None,
        });
        let (tries, rules) = (tries.collect(), rules.collect());
        machines.push(Played { facts, ahead, says, tries, wall, rules });
    }
    let (events, _receiver) = Events::channel();
    let run = Run::new("1f", "me@here");
    let mut work = Reconciler::new(Arc::new(cluster), &STAGES[..1], pki, machines, run, events).unwrap();
    work.observe().await;
    work.run_active_checks().await;
    let survey = work.preflight(("demo.trust", false));
    let mut lines: Vec<String> = survey.errors.iter().map(report::trouble).collect();
    let notes = work.notes().unwrap();
    lines.extend(notes.into_iter().map(|(node, step, words)| format!("  {node}  {step}: {words}")));
    lines.join("\n")
}

/// The problems, in the order of docs/preflight.md.
const CASES: &[(&str, &[Wrong])] = &[
    ("somebody who is not root", &[Facts("w1", "uid 0", "uid 1000")]),
    ("another init", &[Facts("w1", "init systemd", "init runit")]),
    ("another release", &[Facts("w1", "codename trixie", "codename sid")]),
    ("another system", &[Facts("w1", "os debian", "os devuan")]),
    ("a host name with a capital letter", &[Facts("w1", "hostname w1", "hostname W1")]),
    ("a host name that two have", &[Facts("w1", "hostname w1", "hostname m1")]),
    ("a clock that is wrong", &[Ahead("w1", -3600.0)]),
    ("one processor", &[Facts("m1", "cpus 2", "cpus 1")]),
    (
        "little memory",
        &[Facts("m1", "memory 4194304", "memory 1048576"), Facts("w1", "memory 4194304", "memory 524288")],
    ),
    (
        "a processor that is downgraded to a warning",
        &[
            Facts("m1", "cpus 2", "cpus 1"),
            Inventory("ignore-preflight = []", "ignore-preflight = ['NumCPU']"),
        ],
    ),
    (
        "a clone",
        &[
            Facts("w1", "machine-id 1d2", "machine-id 1d1"),
            Facts("w1", "product_uuid 4c2", "product_uuid 4c1"),
            Facts("w1", "02:00:00:00:00:02", "02:00:00:00:00:01"),
            Facts("w1", "AAAA2", "AAAA1"),
        ],
    ),
    (
        "an address that is on no interface",
        &[Facts(
            "w1",
            "address eth0 198.18.0.12",
            "address eth0 198.18.0.99\naddress lo0 127.0.0.2\naddress eth0 169.254.7.7\naddress lo0 ::1\naddress eth0 fe80::7",
        )],
    ),
    ("an address that another has, too", &[Facts("m1", "route", "address eth1 198.18.0.12\nroute")]),
    ("a route into the range of pods", &[Facts("m1", "route 198.18.0.0/24", "route 10.244.7.0/24")]),
    ("a wide route across the range of Services", &[Facts("m1", "route 198.18.0.0/24", "route 10.0.0.0/8")]),
    ("cgroup v1", &[Says("w1", CGROUPS, "version 1\n")]),
    (
        "cgroups without memory, as on a Raspberry Pi",
        &[Says("w1", CGROUPS, "version 2 cpuset cpu io pids\n")],
    ),
    ("cgroups without anything that is needed", &[Says("w1", CGROUPS, "version 2 io\n")]),
    ("a kernel that nobody tests", &[Says("w1", "preflight.kernel-version", "5.14.0-503.el9.x86_64\n")]),
    ("a kernel without its configuration", &[Says("w1", KERNEL, "no configuration\n")]),
    (
        "a kernel without what is needed",
        &[Says(
            "w1",
            KERNEL,
            "NAMESPACES\nNET_NS\nPID_NS\nIPC_NS\nUTS_NS\nINET\nPROC_FS\nIP_NF_TARGET_REDIRECT\nCGROUPS\nCGROUP_BPF\nCGROUP_PIDS\nCGROUP_SCHED\nCPUSETS\nMEMCG\nFAIR_GROUP_SCHED\nEXT4_FS\n",
        )],
    ),
    (
        "packages that are half installed",
        &[Says("w1", "preflight.packages-whole", "libc6\nopenssh-server\n")],
    ),
    (
        "packages that would have to go",
        &[Says("w1", REMOVALS, "containerd.io (on hold) would be removed\ndocker-ce would be removed\n")],
    ),
    (
        "packages of which nothing can be told",
        &[Fails(
            "w1",
            REMOVALS,
            "dpkg-query: error: failed to open package info file '/var/lib/dpkg/status'",
        )],
    ),
    (
        "SELinux and AppArmor",
        &[Says(
            "w1",
            "preflight.protections",
            "SELinux is enforcing: containers need its policy container-selinux, and containerd needs enable_selinux = true\n\
         AppArmor is on, but nothing loads its profiles, so containers run without them (apt-get install apparmor)\n",
        )],
    ),
    (
        "a full disk",
        &[Says(
            "m1",
            DISK,
            "/etc/kubernetes / 900 9000 1000000 rw ext4\n/usr/bin / 900 9000 1000000 rw ext4\n/var/lib/containerd / 900 9000 1000000 rw ext4\n/var/lib/etcd /var/lib/etcd 100 9000 1000000 rw,noatime ext4\n",
        )],
    ),
    (
        "a disk of which nothing can be told",
        &[Fails("w1", DISK, "stat: cannot read file system information for '/usr/bin': Input/output error")],
    ),
    ("a disk that has something else wrong", &[Says("w1", DISK, "df: what?\n")]),
    (
        "no inodes",
        &[Says(
            "w1",
            DISK,
            "/etc/kubernetes / 20000 1500 1000000 rw ext4\n/var/lib/containerd /var/lib/containerd 90000 0 0 rw ext4\n/var/log / 20000 1500 1000000 rw ext4\n/var/lib/kubelet / 20000 1500 1000000 rw ext4\n",
        )],
    ),
    (
        "a disk that was mounted read-only",
        &[Says(
            "w1",
            DISK,
            "/etc/kubernetes / 20000 900000 1000000 ro,relatime ext4\n/var/log /var/log 20000 900000 1000000 rw ext4\n",
        )],
    ),
    (
        "a disk from which nothing is started",
        &[Says(
            "w1",
            DISK,
            "/opt/cni/bin /opt 20000 900000 1000000 rw,nosuid,noexec ext4\n/var/lib/kubelet /var 20000 900000 1000000 rw,noexec ext4\n",
        )],
    ),
    (
        "a hardened /var, where dpkg cannot run the scripts of packages",
        &[Says(
            "w1",
            DISK,
            "/var/lib/dpkg/info /var 20000 900000 1000000 rw,nosuid,nodev,noexec,relatime ext4\n",
        )],
    ),
    (
        "containers on a file system of another machine",
        &[Says(
            "w1",
            DISK,
            "/var/lib/containerd /var/lib/containerd 90000 900000 1000000 rw,vers=4.2 nfs4\n",
        )],
    ),
    (
        "containers on a file system, with the check ignored",
        &[
            Says("w1", DISK, "/var/lib/containerd / 90000 900000 1000000 rw fuse.mergerfs\n"),
            Inventory("ignore-preflight = []", "ignore-preflight = ['Snapshotter']"),
        ],
    ),
    (
        "a kernel that was replaced, and one without modules",
        &[
            Says(
                "m1",
                "preflight.kernel-modules",
                "no modules for the running kernel 6.12.41 in /usr/lib/modules, only for 6.12.48\n",
            ),
            Says("w1", "preflight.kernel-modules", "no module vxlan for kernel 6.12.41\n"),
        ],
    ),
    (
        "a container without the kernel's log",
        &[Says("w1", "preflight.kernel-log", "ls: cannot access '/dev/kmsg': No such file or directory\n")],
    ),
    (
        "a disk that is downgraded to a warning",
        &[
            Says("w1", DISK, "/var/lib/containerd / 900 900000 1000000 rw ext4\n"),
            Inventory("ignore-preflight = []", "ignore-preflight = ['disk']"),
        ],
    ),
    ("no default route", &[Says("w1", "preflight.default-route", "")]),
    ("several networks", &[Says("w1", "preflight.default-route", "default via 10.0.2.2 dev eth9\n")]),
    ("no resolv.conf", &[Says("w1", DNS, "no /etc/resolv.conf\n")]),
    (
        "a resolv.conf that leads to itself",
        &[Says("w1", DNS, "in /etc/resolv.conf\nnameserver 127.0.0.53\nnameserver ::1\n")],
    ),
    ("a resolv.conf that names nobody", &[Says("w1", DNS, "in /etc/resolv.conf\n")]),
    (
        "a resolv.conf that names too many",
        &[Says(
            "w1",
            DNS,
            "in /etc/resolv.conf\nnameserver 10.0.0.1\nnameserver 10.0.0.2\nnameserver 10.0.0.3\nnameserver 10.0.0.4\nsearch a b c d e f g h i j k l m n o p q r s t u v w x y z aa bb cc dd ee ff gg\n",
        )],
    ),
    (
        "a proxy that the inventory does not name",
        &[Says(
            "w1",
            "preflight.proxy",
            "apt uses http://proxy.example:3128\nhttps_proxy=http://proxy.example:3128 in /etc/environment\n",
        )],
    ),
    (
        "flags that wait for the kubelet",
        &[Says(
            "w1",
            FLAGS,
            "/etc/default/kubelet:2: --node-ip=10.0.2.15\n/etc/systemd/system/kubelet.service.d/20-more.conf:3: --max-pods=5\n",
        )],
    ),
    (
        "files that change how units start",
        &[Says(
            "w1",
            STARTS,
            "containerd: /etc/systemd/system/containerd.service.d/http-proxy.conf:2: Environment=HTTP_PROXY\n\
             kubelet: /etc/systemd/system/kubelet.service.d/20-more.conf:3: ExecStartPre=/bin/false\n",
        )],
    ),
    (
        "files that change how units start, with the check ignored",
        &[
            Says(
                "w1",
                STARTS,
                "kubelet: /etc/systemd/system/kubelet.service.d/20-more.conf:3: ExecStartPre=/bin/true\n",
            ),
            Inventory("ignore-preflight = []", "ignore-preflight = ['UnitFiles']"),
        ],
    ),
    (
        "flags that wait for the kubelet, with the check ignored",
        &[
            Says("w1", FLAGS, "/etc/default/kubelet:1: --node-ip=10.0.2.15\n"),
            Inventory("ignore-preflight = []", "ignore-preflight = ['KubeletArgs']"),
        ],
    ),
    (
        "ports that somebody holds",
        &[
            Says("m1", "preflight.ports", "port 2379 is in use by etcd\nport 6443 is in use by haproxy\n"),
            Says("w1", "preflight.ports", "port 10250 is in use by k3s-agent\n"),
        ],
    ),
    (
        "a port that is downgraded to a warning, and one that is not",
        &[
            Says("m1", "preflight.ports", "port 2379 is in use by etcd\nport 6443 is in use by haproxy\n"),
            Inventory("ignore-preflight = []", "ignore-preflight = ['Port-2379']"),
        ],
    ),
    ("another etcd's data", &[Says("m1", "preflight.etcd-data", "member\n")]),
    (
        "a file system of its own for etcd",
        &[
            Says("m1", "preflight.etcd-data", "lost+found\n"),
            Inventory("ignore-preflight = []", "ignore-preflight = ['DirAvailable--var-lib-etcd']"),
        ],
    ),
    (
        "folders of others on the way to etcd's data",
        &[Says(
            "m1",
            "preflight.etcd-folder",
            "/srv is writable by all users (mode 1777)\n/srv/etcd belongs to uid 1000\n",
        )],
    ),
    ("static pods", &[Says("m1", "preflight.static-pods", "etcd.yaml\nkube-apiserver.yaml\n")]),
    (
        "another network plugin",
        &[Says("w1", "preflight.cni", "05-cilium.conflist\n87-podman-bridge.conflist\n")],
    ),
    ("a network plugin that comes later", &[Says("w1", "preflight.cni", "87-podman-bridge.conflist\n")]),
    (
        "another network plugin, with a network of one's own",
        &[
            Says("w1", "preflight.cni", "05-cilium.conflist\n"),
            Inventory("[kubelet]", "network = 'none'\n[kubelet]"),
        ],
    ),
    (
        "another network plugin that is downgraded to a warning",
        &[
            Says("w1", "preflight.cni", "05-cilium.conflist\n"),
            Inventory("ignore-preflight = []", "ignore-preflight = ['all']"),
        ],
    ),
    ("another pod network", &[Says("w1", "preflight.pod-network", "cali0f1e2d3c4b5\nvxlan.calico\n")]),
    (
        "what else an earlier cluster left",
        &[Says(
            "w1",
            "preflight.leftovers",
            "3 pod folders, with volumes, in /var/lib/kubelet/pods (unmount the volumes, then delete the folders)\n41 iptables rules (a reboot removes them)\n",
        )],
    ),
    (
        "a firewall, another runtime, a reboot, no time service",
        &[Says(
            "w1",
            "preflight.beside",
            "ufw is active: it must allow the ports of Kubernetes between nodes, and the traffic of pods\ndocker also runs on the machine\na reboot is pending\nno time service runs: certificates need synchronized clocks\n",
        )],
    ),
    (
        "a firewall in front of a worker",
        &[
            Tries("m1", "tcp 198.18.0.12 10250", "lost"),
            Tries("m1", "udp 198.18.0.12 8472", "lost"),
            Wall("w1", "ufw"),
            Rules("w1", UFW),
        ],
    ),
    (
        "a firewall in front of a control plane",
        &[
            Tries("w1", "tcp 198.18.0.11 6443", "unreachable"),
            Wall("m1", "firewalld"),
            Rules("m1", FIREWALLD),
        ],
    ),
    (
        "rules of iptables and of nft, without a service of theirs",
        &[
            Tries("m1", "tcp 198.18.0.12 10250", "refused"),
            Rules(
                "w1",
                "read nft\nnft table inet mine {\nnft \tchain input {\nnft \t\ttype filter hook input priority filter; policy accept;\nnft \t\ttcp dport 22 ip saddr @banned drop\nnft \t\ttcp dport 10000-11000 reject with tcp reset\n",
            ),
            Rules(
                "w1",
                "read iptables\niptables *filter\niptables :INPUT ACCEPT [0:0]\niptables -A INPUT -p tcp -m tcp --dport 6443 -j DROP\niptables -A INPUT -p tcp -m multiport --dports 10248,10250 -j REJECT --reject-with icmp-port-unreachable\n",
            ),
        ],
    ),
    (
        "a machine that keeps itself from another",
        &[
            Tries("w1", "tcp 198.18.0.11 6443", "lost"),
            Rules("m1", "read nft\n"),
            Rules(
                "w1",
                "read nft\nnft table ip filter {\nnft \tchain OUTPUT {\nnft \t\ttype filter hook output priority filter; policy drop;\n",
            ),
        ],
    ),
    (
        "a firewall of which nothing can be told",
        &[
            Tries("w1", "tcp 198.18.0.11 6443", "lost"),
            Rules("m1", "unread nft is not installed (apt-get install nftables)\n"),
        ],
    ),
    ("a firewall somewhere", &[Tries("w1", "tcp 198.18.0.11 6443", "unreachable")]),
    (
        "a firewall that is downgraded to a warning",
        &[
            Tries("w1", "tcp 198.18.0.11 6443", "lost"),
            Inventory("ignore-preflight = []", "ignore-preflight = ['Reach']"),
        ],
    ),
    ("somebody else at an address", &[Tries("w1", "tcp 198.18.0.11 6443", "other"), Rules("m1", UFW)]),
    (
        "a machine that gets nothing out",
        &[
            Inventory("[nodes.w1]", "[nodes.m2]\naddress = '198.18.0.13'\nrole = 'worker'\n[nodes.w1]"),
            Tries("w1", "tcp ", "lost"),
            Tries("w1", "udp ", "lost"),
            Wall("w1", "ufw"),
        ],
    ),
    (
        "machines of which none reaches another",
        &[
            Inventory("[nodes.w1]", "[nodes.m2]\naddress = '198.18.0.13'\nrole = 'worker'\n[nodes.w1]"),
            Tries("m1", "tcp", "lost"),
            Tries("m1", "udp", "lost"),
            Tries("m2", "tcp", "lost"),
            Tries("m2", "udp", "lost"),
            Tries("w1", "tcp", "lost"),
            Tries("w1", "udp", "lost"),
        ],
    ),
    (
        "a control plane that many do not reach, and a stranger at its address",
        &[
            Inventory("[nodes.w1]", MANY),
            Tries("m1", "udp", "lost"),
            Rules("m1", "read nft\n"),
            Tries("w2", "tcp", "lost"),
            Tries("w3", "tcp", "lost"),
            Tries("w4", "tcp", "lost"),
            Tries("w5", "tcp", "lost"),
            Tries("w6", "tcp", "lost"),
            Tries("w7", "tcp", "lost"),
            Tries("w8", "tcp", "lost"),
            Tries("w1", "tcp", "other"),
            Rules("w4", KEEPS_IN),
            Rules("w5", KEEPS_IN),
            Rules("w6", KEEPS_IN),
            Rules("w7", KEEPS_IN),
            Rules("w8", KEEPS_IN),
        ],
    ),
    (
        "a network that carries less than its links",
        &[
            Tries("m1", "udp 198.18.0.12 8472", "ok 1500 1450"),
            Tries("w1", "udp 198.18.0.11 8472", "ok 1500 1450"),
        ],
    ),
    (
        "control planes that are far apart",
        &[
            Inventory("[nodes.w1]", "[nodes.m2]\naddress = '198.18.0.13'\nrole = 'worker'\n[nodes.w1]"),
            Tries("m1", "tcp 198.18.0.13 2380", "ok 82000"),
        ],
    ),
    ("a machine that cannot try", &[TryFails("w1", "reach", "perl: not found")]),
    ("a slow disk for etcd", &[Tries("m1", "fsync", "10.00 341\n")]),
    ("a disk so slow for etcd that few writes are tried", &[Tries("m1", "fsync", "412.7 17\n")]),
    (
        "a disk for etcd that cannot be tried",
        &[TryFails("m1", "fsync", "dd: error writing '/dev/fd/4': No space left on device")],
    ),
    (
        "a repository that does not answer",
        &[Tries(
            "w1",
            "packages",
            "no https://pkgs.k8s.io/core:/stable:/v1.36/deb/Packages: E: Failed to fetch … Temporary failure resolving 'pkgs.k8s.io'\n",
        )],
    ),
    (
        "a version that the repository does not have",
        &[Tries("m1", "packages", "versions 1.36.0-1.1 1.36.1-1.1 1.36.2-1.1\n")],
    ),
    (
        "a version that begins like one that the repository has",
        &[Tries("m1", "packages", "versions 1.36.2-1.1 1.36.30-1.1\n")],
    ),
    (
        "a repository that shows a key which is not Kubernetes' own, to one machine",
        &[Tries("w1", "key", include_str!("../keys/other.asc"))],
    ),
    (
        "a repository that shows another key beside Kubernetes' own",
        &[Tries(
            "m1",
            "key",
            concat!(include_str!("../keys/kubernetes.asc"), include_str!("../keys/other.asc")),
        )],
    ),
    (
        "another repository, which does not show all machines the same key",
        &[
            Inventory("[kubelet]", "[packages]\nkubernetes = 'https://packages.example.com/deb'\n[kubelet]"),
            Tries("w1", "key", include_str!("../keys/other.asc")),
        ],
    ),
    (
        "a repository that has something else in place of its key",
        &[
            Tries("m1", "key", "<html>404</html>\n"),
            Tries("w1", "key", "no https://x/Release.key: Connection failed\n"),
        ],
    ),
    ("a key that cannot be asked for", &[TryFails("w1", "key", "no apt-helper")]),
    ("a repository that lists no kubelet", &[Tries("m1", "packages", "versions \n")]),
    (
        "a containerd that is too old",
        &[Tries("w1", "packages", "versions 1.36.3-1.1\ncontainerd 1.6.20~ds1-1+b1\n")],
    ),
    (
        "sources of packages that apt cannot read",
        &[Tries(
            "w1",
            "packages",
            "versions 1.36.3-1.1\nsource /etc/apt/sources.list:7: The repository 'cdrom://[Debian GNU/Linux 13.0.0] trixie Release' does not have a Release file.\nsource /etc/apt/sources.list.d/kubernetes.list:1: The repository 'http://apt.kubernetes.io kubernetes-xenial Release' does not have a Release file.\n",
        )],
    ),
    (
        "a source of packages that apt cannot read, with the check ignored",
        &[
            Tries(
                "w1",
                "packages",
                "versions 1.36.3-1.1\nsource /etc/apt/sources.list:7: http://x.example trixie: Could not resolve 'x.example'\n",
            ),
            Inventory("ignore-preflight = []", "ignore-preflight = ['Sources']"),
        ],
    ),
    (
        "the Kubernetes repository with another key",
        &[Says(
            "w1",
            "preflight.package-sources",
            "/etc/apt/sources.list.d/k8s.sources:2: Conflicting values set for option Signed-By regarding source https://pkgs.k8s.io/core:/stable:/v1.36/deb/ /: /etc/apt/keyrings/mine.asc != /etc/apt/keyrings/kubernetes-apt-keyring.asc\n",
        )],
    ),
    (
        "a registry that does not answer",
        &[Tries(
            "w1",
            "registries",
            "no https://registry.k8s.io/v2/: E: Could not connect to registry.k8s.io:443 (34.96.108.209). - connect (111: Connection refused)\n",
        )],
    ),
    (
        "an endpoint that leads nowhere",
        &[
            Inventory("[cluster]", "[cluster]\nendpoint = 'k8s.example.com:6443'"),
            Tries("w1", "endpoint", "nowhere\n"),
        ],
    ),
    (
        "an endpoint that does not answer",
        &[
            Inventory("[cluster]", "[cluster]\nendpoint = 'k8s.example.com:6443'"),
            Tries("w1", "endpoint", "silent\n"),
        ],
    ),
    (
        "much at once",
        &[
            Facts("w1", "init systemd", "init runit"),
            Says("w1", CGROUPS, "version 1\n"),
            Facts("m1", "cpus 2", "cpus 1"),
            Says("m1", "preflight.etcd-data", "member\n"),
            Facts("m1", "route 198.18.0.0/24", "route 10.244.7.0/24"),
        ],
    ),
];

/// The rules of ufw after `ufw enable`, without those that accept packets.
const UFW: &str = "read nft
unread iptables-legacy-save: no answer within 3 s
nft table ip filter {
nft 	chain ufw-before-input {
nft 		ct state invalid counter jump ufw-logging-deny
nft 		ct state invalid counter drop
nft 		counter jump ufw-not-local
nft 		counter jump ufw-user-input
nft 	chain ufw-after-input {
nft 		udp dport 137 counter jump ufw-skip-to-policy-input
nft 		fib daddr type broadcast counter jump ufw-skip-to-policy-input
nft 	chain ufw-not-local {
nft 		limit rate 3/minute burst 10 packets counter jump ufw-logging-deny
nft 		counter drop
nft 	chain ufw-skip-to-policy-input {
nft 		counter drop
nft 	chain ufw-skip-to-policy-forward {
nft 		counter drop
nft 	chain INPUT {
nft 		type filter hook input priority filter; policy drop;
nft 		counter jump ufw-before-input
nft 		counter jump ufw-after-input
nft 	chain FORWARD {
nft 		type filter hook forward priority filter; policy drop;
nft 		counter jump ufw-skip-to-policy-forward
nft 	chain OUTPUT {
nft 		type filter hook output priority filter; policy accept;
";
/// The rules of firewalld for its zone `public`, without those that accept packets.
const FIREWALLD: &str = "read nft
nft table inet firewalld {
nft 	chain filter_INPUT {
nft 		type filter hook input priority filter + 10; policy accept;
nft 		ct state invalid drop
nft 		jump filter_INPUT_POLICIES
nft 		reject with icmpx admin-prohibited
nft 	chain filter_FORWARD {
nft 		type filter hook forward priority filter + 10; policy accept;
nft 		reject with icmpx admin-prohibited
nft 	chain filter_INPUT_POLICIES {
nft 		iifname \"eth0\" jump filter_IN_public
nft 		iifname \"eth0\" reject with icmpx admin-prohibited
nft 	chain filter_IN_public {
nft 		jump filter_IN_public_deny
";
/// An inventory with seven more workers.
const MANY: &str = "[nodes.w2]
address = '198.18.0.3'
role = 'worker'
[nodes.w3]
address = '198.18.0.4'
role = 'worker'
[nodes.w4]
address = '198.18.0.5'
role = 'worker'
[nodes.w5]
address = '198.18.0.6'
role = 'worker'
[nodes.w6]
address = '198.18.0.7'
role = 'worker'
[nodes.w7]
address = '198.18.0.8'
role = 'worker'
[nodes.w8]
address = '198.18.0.9'
role = 'worker'
[nodes.w1]";
const KEEPS_IN: &str = "read iptables
iptables *filter
iptables :OUTPUT DROP [0:0]
iptables -A OUTPUT -d 198.18.0.11/32 -j REJECT --reject-with icmp-port-unreachable
";
/// Machines without any message.
const FINE: &[(&str, &[Wrong])] = &[
    ("a machine that is fit", &[]),
    (
        "cgroup v1 that is borne",
        &[Says("w1", CGROUPS, "version 1\n"), Inventory("maxPods = 110", "failCgroupV1 = false")],
    ),
    (
        "cgroup v1 with a Kubernetes that knew it",
        &[
            Says("w1", CGROUPS, "version 1\n"),
            Inventory("'1.36.3'", "'1.34.2'"),
            Tries("m1", "packages", "versions 1.34.2-1.1\n"),
            Tries("w1", "packages", "versions 1.34.2-1.1\n"),
        ],
    ),
    ("flannel's own file", &[Says("w1", "preflight.cni", "10-flannel.conflist\n")]),
    (
        "one name server of two that is the machine itself",
        &[Says("w1", DNS, "in /etc/resolv.conf\nnameserver 127.0.0.1\nnameserver 10.0.0.1\n")],
    ),
    (
        "many search domains, and a last line of few",
        &[Says(
            "w1",
            DNS,
            "in /etc/resolv.conf\nnameserver 10.0.0.1\nsearch a b c d e f g h i j k l m n o p q r s t u v w x y z aa bb cc dd ee ff gg\nsearch a\n",
        )],
    ),
    (
        "a containerd with an epoch",
        &[Tries("w1", "packages", "versions 1.36.3-1.1\ncontainerd 1:1.7.24~ds1-6\n")],
    ),
    (
        "cards without a MAC address",
        &[
            Facts("m1", "02:00:00:00:00:01", "00:00:00:00:00:00"),
            Facts("w1", "02:00:00:00:00:02", "00:00:00:00:00:00"),
        ],
    ),
    ("a machine that cannot list its addresses", &[Facts("w1", "address eth0 198.18.0.12\n", "")]),
    ("an API that is far away", &[Tries("w1", "tcp 198.18.0.11 6443", "ok 90000")]),
];
const CGROUPS: &str = "preflight.cgroups";
const KERNEL: &str = "preflight.kernel-config";
const STARTS: &str = "preflight.unit-files";
const FLAGS: &str = "preflight.kubelet-flags";
const REMOVALS: &str = "preflight.package-removals";
const DISK: &str = "preflight.disk";
const DNS: &str = "preflight.name-servers";

#[tokio::test]
async fn a_machine_without_problems_gets_no_message() {
    for (name, wrong) in FINE {
        assert_eq!(messages(wrong).await, "", "{name}");
    }
}

#[tokio::test]
async fn each_problem_is_reported_with_its_remedy() {
    let (mut text, mut downgraded) = (String::new(), BTreeSet::new());
    assert!(CASES.len() > 60, "{}", CASES.len());
    for (name, wrong) in CASES {
        let told = messages(wrong).await;
        assert!(!told.is_empty(), "{name}");
        text += &format!("# {name}\n{told}\n\n");
        let names = told.split("ignore-preflight = [\"").skip(1).filter_map(|rest| rest.split('"').next());
        let known = |name: &str| {
            ONLY_OURS.contains(&name)
                || name.ends_with("-NUMBER")
                || PREDICTED.iter().any(|(check, ..)| *check == name)
        };
        for check in names {
            assert!(known(check) || check.ends_with("-FILE"), "{name}: {check} is not the name of a check");
            downgraded.insert(check.to_string());
        }
    }
    assert!(
        ONLY_OURS.iter().all(|name| downgraded.contains(*name)),
        "each check of ironstrap has a message: {downgraded:?}"
    );
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../golden");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!("unfit", text));
}
