//! Failures and their causes. Each scenario causes a real failure, and an apply reports the cause with evidence and a
//! remedy. After the repair, an apply succeeds.
//!
//! ironstrap would prevent or repair many of these failures. So the scenarios use drop-ins, packet filters between machines,
//! and an inventory that ignores checks. One failure is simulated: the lab's machines share the host's clock, so a
//! certificate from the future replaces a clock that is behind.

use std::fs;
use std::path::Path;
use std::process::Command;

use ironstrap::pki::ClusterPki;
use ironstrap::store::Store;
use time::{Duration, OffsetDateTime};
use toml::Table;

use crate::lab::text;
use crate::world::{PATIENCE, World, set};
use crate::{Ground, Scenario, so, until};

/// A failure, and the cause that an apply must report.
struct Injection {
    /// The name of the cause in the event.
    cause: &'static str,
    /// The node that fails, and the node with the evidence.
    node: &'static str,
    on: &'static str,
    /// Words of the evidence and of the remedy.
    evidence: &'static str,
    remedy: &'static str,
    inventory: fn(&mut Table),
    /// Options of the apply.
    options: &'static [&'static str],
    break_it: fn(&World),
    mend: fn(&World),
    /// Whether this scenario ends with an apply that succeeds. If not, a later scenario does.
    converges: bool,
}

const PLAIN: Injection = Injection {
    cause: "",
    node: "w2",
    on: "w2",
    evidence: "",
    remedy: "",
    inventory: |_| {},
    options: &[],
    break_it: |_| {},
    mend: |_| {},
    converges: true,
};

/// The nft of kube-proxy's image, because the machines have none.
const NFT: &str = "chroot /proc/$(pidof kube-proxy)/root nft";

macro_rules! injected {
    ($($ground:ident $says:literal: $injection:expr;)+) => {
        &[$(Scenario {
            says: concat!("cause: ", $says),
            ground: Ground::$ground,
            run: |world| injected(world, $injection),
        }),+]
    };
}

pub const SCENARIOS: &[Scenario] = injected! {
    Cluster "a packet filter drops forwarded packets": Injection {
        cause: "forward-drop",
        on: "m1",
        evidence: "chain forward of table inet mine has policy drop",
        remedy: "range of the pods",
        break_it: |w| {
            w.lab.ssh("m1", &format!("{NFT} add table inet mine; {NFT} add chain inet mine forward '{{ type filter hook forward priority 0; policy drop; }}'"));
        },
        mend: |w| drop(w.lab.ssh("m1", &format!("{NFT} delete table inet mine"))),
        ..PLAIN
    };
    Cluster "a packet filter drops forwarded packets on a node without pods": Injection {
        cause: "forward-drop",
        // m1 detects it.
        node: "w1",
        on: "w1",
        evidence: "chain forward of table inet mine has policy drop",
        remedy: "range of the pods",
        break_it: drop_unseen,
        mend: |w| {
            w.lab.ssh("w1", &format!("{NFT} delete table inet mine"));
            until("no probe pod of an earlier run is left", 30, || {
                let left = ["get", "pods", "-A", "-l", "app.kubernetes.io/component=packets", "-o", "name"];
                so(w.kubectl(&left).is_empty())
            });
        },
        ..PLAIN
    };
    Cluster "containerd does not start": Injection {
        cause: "containerd-stopped",
        evidence: "ActiveState=",
        remedy: "systemctl cat containerd",
        inventory: without_unit_file_check,
        break_it: |w| {
            drop_in(w, "containerd", "[Service]\nExecStartPre=/bin/false\n");
            w.lab.ssh("w2", "systemctl stop containerd");
        },
        mend: |w| undrop(w, "containerd"),
        ..PLAIN
    };
    Cluster "swap is on each time the kubelet starts": Injection {
        cause: "swap-on",
        evidence: "running with swap on is not supported",
        remedy: "swapoff -a",
        inventory: without_unit_file_check,
        break_it: |w| {
            drop_in(w, "kubelet", "[Service]\nExecStartPre=/usr/sbin/swapon /swap.img\n");
            w.lab.ssh("w2", "systemctl stop kubelet");
        },
        mend: |w| undrop(w, "kubelet"),
        ..PLAIN
    };
    Cluster "the kubelet's port is in use": Injection {
        cause: "port-taken",
        evidence: ":10250: bind: address already in use",
        remedy: "ss -ltnp 'sport = :10250'",
        break_it: |w| {
            w.lab.ssh("w2", "systemctl stop kubelet; systemd-run -q --unit=other /usr/sbin/sshd -D -p 10250");
        },
        mend: |w| drop(w.lab.ssh("w2", "systemctl stop other")),
        ..PLAIN
    };
    Cluster "a package repository does not exist": Injection {
        cause: "package-source-unreachable",
        evidence: "198.18.0.1:8444",
        remedy: "[packages]",
        inventory: |i| set(i, &["packages", "kubernetes"], r#""https://198.18.0.1:8444/core:/stable:/v{minor}/deb/""#),
        break_it: |w| drop(w.lab.ssh("w2", "dpkg --force-all -r kubectl")),
        ..PLAIN
    };
    Cluster "a field is unknown to kubeadm": Injection {
        cause: "field-unknown",
        node: "m1",
        on: "m1",
        evidence: r#"unknown field "apiServer.extraEnvs[0].valueFrom.noSuchField""#,
        remedy: "remove 'apiServer.extraEnvs[0].valueFrom.noSuchField' from",
        // The only fields that `check` does not know are those below `valueFrom`.
        inventory: |i| set(i, &["kubeadm", "apiServer"], r#"{ extraEnvs = [{ name = "A", valueFrom = { noSuchField = 1 } }] }"#),
        ..PLAIN
    };
    Cluster "an argument is unknown to the API server": Injection {
        cause: "argument-unknown",
        node: "m1",
        on: "m1",
        evidence: "unknown flag: --no-such-flag",
        remedy: "remove --no-such-flag from",
        inventory: |i| set(i, &["api-server", "no-such-flag"], r#""1""#),
        ..PLAIN
    };
    Cluster "a joining machine has no route to the API": Injection {
        cause: "endpoint-unreachable",
        evidence: "198.18.0.11:6443",
        remedy: "check ip route",
        inventory: without_connectivity_checks,
        break_it: |w| {
            leave(w);
            w.lab.ssh("w2", "ip route add unreachable 198.18.0.11/32");
        },
        mend: |w| drop(w.lab.ssh("w2", "ip route del unreachable 198.18.0.11/32")),
        converges: false,
        ..PLAIN
    };
    Before "the endpoint's name does not resolve": Injection {
        cause: "name-unresolved",
        evidence: "lookup api.demo.internal",
        remedy: "getent hosts api.demo.internal",
        break_it: |w| {
            w.lab.ssh("w2", "cp -p /etc/nsswitch.conf /root/; sed -i 's/^hosts:.*/hosts: dns/' /etc/nsswitch.conf");
        },
        mend: |w| drop(w.lab.ssh("w2", "mv /root/nsswitch.conf /etc/")),
        converges: false,
        ..PLAIN
    };
    Before "another cluster answers at the endpoint": Injection {
        cause: "authority-unknown",
        inventory: without_connectivity_checks,
        evidence: "x509: certificate signed by unknown authority",
        remedy: "getent ahosts",
        break_it: |w| {
            let other = ClusterPki::make(&cluster(w), OffsetDateTime::now_utc()).unwrap();
            impostor(w, other, OffsetDateTime::now_utc());
        },
        mend: no_impostor,
        converges: false,
        ..PLAIN
    };
    Before "a certificate becomes valid in an hour, as if the clock were an hour behind": Injection {
        cause: "clock",
        inventory: without_connectivity_checks,
        evidence: " is before ",
        remedy: "date -u",
        break_it: |w| {
            let kept = w.dir.join("demo.trust");
            let ours = ClusterPki::from_kept(&[], |file| Ok(fs::read_to_string(kept.join(file)).ok())).unwrap();
            impostor(w, ours, OffsetDateTime::now_utc() + Duration::hours(2));
        },
        mend: no_impostor,
        converges: false,
        ..PLAIN
    };
    Before "the disk of the kubelet is full": Injection {
        cause: "disk-full",
        evidence: "no space left on device",
        remedy: "df -h",
        break_it: |w| {
            w.lab.ssh("w2", "mount -t tmpfs -o size=64k full /var/lib/kubelet; head -c 64k /dev/zero >/var/lib/kubelet/big || :");
        },
        mend: |w| drop(w.lab.ssh("w2", "systemctl stop kubelet; umount -l /var/lib/kubelet")),
        converges: false,
        ..PLAIN
    };
    Fresh "a packet filter drops forwarded packets on a machine before it joins": Injection {
        cause: "forward-drop",
        evidence: "chain forward of table inet filter has policy drop",
        remedy: "range of the pods",
        inventory: without_connectivity_checks,
        break_it: |w| {
            w.lab.ssh(
                "w2",
                "apt-get -qq update && apt-get -qq install -y nftables >/dev/null && nft add table inet filter &&
                nft add chain inet filter forward '{ type filter hook forward priority 0; policy drop; }'",
            );
        },
        mend: |w| drop(w.lab.ssh("w2", "nft delete table inet filter")),
        ..PLAIN
    };
    Fresh "an image is missing in the registry": Injection {
        cause: "image-not-found",
        node: "m1",
        on: "m1",
        evidence: "registry.k8s.io/nowhere/",
        remedy: "image-repository",
        inventory: |i| {
            alone(i);
            set(i, &["cluster", "image-repository"], r#""registry.k8s.io/nowhere""#);
            // Otherwise a preflight check would find it.
            set(i, &["cluster", "ignore-preflight"], r#"["SystemVerification", "Sources"]"#);
        },
        converges: false,
        ..PLAIN
    };
    Before "a registry does not answer": Injection {
        cause: "registry-unreachable",
        node: "m1",
        on: "m1",
        evidence: "198.18.0.1:5999: connect: connection refused",
        remedy: "/etc/containerd/certs.d",
        inventory: |i| {
            alone(i);
            set(i, &["cluster", "ignore-preflight"], r#"["SystemVerification", "Sources"]"#);
            set(i, &["registries", "registry.k8s.io", "mirrors"], r#"["http://198.18.0.1:5999"]"#);
        },
        converges: false,
        ..PLAIN
    };
    Before "the etcd data of another cluster is on the machine": Injection {
        cause: "etcd-data",
        node: "m1",
        on: "m1",
        evidence: "/var/lib/etcd is not empty",
        remedy: "mv -T /var/lib/etcd",
        inventory: alone,
        break_it: foreign_etcd,
        mend: |w| drop(w.lab.ssh("m1", "rm -rf /var/lib/etcd/*")),
        converges: false,
        ..PLAIN
    };
    Before "the kubelet uses another cgroup driver": Injection {
        cause: "cgroup-driver",
        node: "m1",
        on: "m1",
        evidence: "for systemd cgroups",
        remedy: "SystemdCgroup",
        inventory: |i| {
            alone(i);
            // Otherwise a preflight check would find it.
            set(i, &["cluster", "ignore-preflight"], r#"["SystemVerification", "KubeletArgs"]"#);
        },
        break_it: |w| drop(w.lab.ssh("m1", "echo KUBELET_EXTRA_ARGS=--cgroup-driver=cgroupfs >/etc/default/kubelet")),
        mend: |w| drop(w.lab.ssh("m1", "rm /etc/default/kubelet; systemctl stop kubelet")),
        ..PLAIN
    };
    Fresh "kube-proxy may not set its host's limits": Injection {
        cause: "conntrack-limits",
        node: "m1",
        on: "m1",
        evidence: "nf_conntrack_max: permission denied",
        remedy: "maxPerCore = 0 and min = 0 under [kube-proxy.conntrack]",
        inventory: |i| {
            alone(i);
            set(i, &["kube-proxy", "conntrack"], "{maxPerCore = 32768, min = 131072}");
        },
        ..PLAIN
    };
    Cluster "a network plugin is missing": Injection {
        cause: "cni-plugin-missing",
        node: "m1",
        on: "m1",
        evidence: "failed to find plugin",
        remedy: "kubernetes-cni",
        // Otherwise ironstrap would refuse another network whose configuration comes first.
        inventory: |i| set(i, &["cluster", "ignore-preflight"], r#"["SystemVerification", "Leftovers"]"#),
        options: &["--wait", "20"],
        break_it: |w| {
            // ironstrap would restore its own plugin before anything fails. So this is the plugin of another network,
            // and its configuration comes first.
            w.lab.each(&format!("echo '{OTHER_NETWORK}' >{OTHER_CONFIG}"));
            w.kubectl(&["-n", "kube-system", "delete", "pod", "-l", "k8s-app=kube-dns", "--wait=false"]);
            let up = ["-n", "kube-system", "get", "deployment", "coredns", "-o", "jsonpath={.status.availableReplicas}"];
            until("no pod of coredns is available", 60, || crate::so(w.kubectl(&up).is_empty()));
        },
        mend: |w| w.lab.each(&format!("rm {OTHER_CONFIG}")),
        ..PLAIN
    };
    Cluster "the host name of a machine changes after the join": Injection {
        cause: "hostname-changed",
        evidence: "cannot read 'other', only its own Node",
        remedy: "hostnamectl set-hostname w2",
        break_it: |w| {
            w.lab.ssh("w2", "hostnamectl hostname other; systemctl restart kubelet");
            w.kubectl(&["delete", "node", "w2"]);
        },
        mend: |w| drop(w.lab.ssh("w2", "hostnamectl hostname w2; systemctl restart kubelet")),
        ..PLAIN
    };
    Cluster "an addon's image is missing in the registry": Injection {
        cause: "image-not-found",
        evidence: "docker.io/library/nowhere:1",
        remedy: "image-repository",
        break_it: |w| stuck(w, r#"{containers: [{name: web, image: "docker.io/library/nowhere:1"}]}"#),
        ..STUCK
    };
    Before "an addon's pod fits on no node": Injection {
        cause: "no-node",
        evidence: "pod default/stuck-",
        remedy: "kubectl describe nodes",
        break_it: |w| stuck(w, r#"{nodeSelector: {nowhere: "yes"}, containers: [{name: web, image: "docker.io/library/nginx:1"}]}"#),
        ..STUCK
    };
    Before "the API server refuses an addon's pod": Injection {
        cause: "pod-refused",
        evidence: "violates PodSecurity",
        remedy: "pod-security.kubernetes.io/enforce=privileged",
        break_it: |w| {
            w.kubectl(&["label", "namespace", "default", "pod-security.kubernetes.io/enforce=restricted"]);
            stuck(w, r#"{hostNetwork: true, containers: [{name: web, image: "docker.io/library/nginx:1"}]}"#);
        },
        mend: |w| {
            w.kubectl(&["label", "namespace", "default", "pod-security.kubernetes.io/enforce-"]);
            w.kubectl(&["delete", "deployment", "stuck"]);
        },
        ..STUCK
    };
};

/// An addon that never becomes available. The apply fails long before the end of its waiting time.
const STUCK: Injection = Injection {
    node: "m1",
    on: "m1",
    options: &["--wait", "900"],
    mend: |w| drop(w.kubectl(&["delete", "deployment", "stuck"])),
    inventory: |i| set(i, &["addons", "stuck"], r#"{ manifest = "stuck.yaml" }"#),
    ..PLAIN
};

fn stuck(world: &World, pod: &str) {
    let manifest = format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: stuck, namespace: default}}\nspec:\n  \
         selector: {{matchLabels: {{app: stuck}}}}\n  template:\n    metadata: {{labels: {{app: stuck}}}}\n    \
         spec: {pod}\n"
    );
    fs::write(world.dir.join("stuck.yaml"), manifest).unwrap();
}

const OTHER_CONFIG: &str = "/etc/cni/net.d/00-other.conflist";
const OTHER_NETWORK: &str = r#"{"cniVersion": "0.3.1", "name": "other", "plugins": [{"type": "nosuch"}]}"#;

/// Disables the connectivity checks, which would find the failure first.
fn without_connectivity_checks(inventory: &mut Table) {
    set(inventory, &["cluster", "ignore-preflight"], r#"["SystemVerification", "Reach"]"#);
}

/// Disables the check of unit files, which would comment out the lines of the drop-in.
fn without_unit_file_check(inventory: &mut Table) {
    set(inventory, &["cluster", "ignore-preflight"], r#"["SystemVerification", "UnitFiles"]"#);
}

fn injected(world: &World, injection: Injection) {
    world.inventory(injection.inventory);
    (injection.break_it)(world);
    let report = world.dir.join("report.txt");
    let apply = ["apply", "--yes", "--save-report", report.to_str().unwrap()];
    let apply = [&apply, injection.options].concat();
    let ended = world.start(&apply).end(PATIENCE + 120);
    (injection.mend)(world);
    assert!(matches!(ended.code, Some(6..=8)), "{:?}: {}{}", ended.code, ended.errors(), ended.stderr);
    let named = ended.causes(injection.node);
    let words: Vec<&str> = named.iter().filter_map(|event| event["cause"].as_str()).collect();
    assert_eq!(words, [injection.cause], "{named:#?}\n{}", ended.errors());
    for (key, piece) in [("evidence", injection.evidence), ("remedy", injection.remedy), ("on", injection.on)]
    {
        assert!(named[0][key].as_str().unwrap().contains(piece), "{key}: {:#?}", named[0]);
    }
    assert_report_without_secrets(world, &report);
    if injection.converges {
        world.inventory(|_| {});
        world.apply().good();
        world.assert_converged();
    }
}

/// Checks that only its owner can read the report, that all its parts exist, and that it contains no secret of the PKI.
fn assert_report_without_secrets(world: &World, report: &Path) {
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(fs::metadata(report).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(report).unwrap();
    for part in ["== errors\n", "== inventory\n", "== answers\n", "== events\n", "== logs of "] {
        assert!(text.contains(part), "the report has no {part}");
    }
    let kept = Store::new(&cluster(world)).load().unwrap().unwrap();
    for file in kept.kept().iter().filter(|file| file.secret) {
        for line in file.text.lines().filter(|line| line.len() >= 16 && !line.starts_with("-----")) {
            let secret = line.split_once('.').map_or(line, |(_, secret)| secret);
            assert!(!text.contains(secret), "a secret of {} is in the report", file.path);
        }
    }
}

pub fn cluster(world: &World) -> ironstrap::cluster::Cluster {
    ironstrap::inventory::read(&world.dir.join("inventory.toml")).unwrap()
}

/// Adds a chain on w1 that drops packets for its pods. w1 has no pods, so a plan cannot test the connection and reports it as
/// unchecked. w2 gets another drift, so the apply has something to do.
fn drop_unseen(world: &World) {
    world.lab.ssh(
        "m1",
        r#"set -e; k() { kubectl --kubeconfig /etc/kubernetes/admin.conf "$@"; }
        k cordon w1; k cordon w2; k -n kube-system delete pod -l k8s-app=kube-dns
        k -n kube-system rollout status deployment coredns --timeout=90s; k uncordon w1; k uncordon w2"#,
    );
    let chain = "{ type filter hook forward priority 0; policy drop; }";
    world.lab.ssh("w1", &format!("{NFT} add table inet mine; {NFT} add chain inet mine forward '{chain}'"));
    let plan = world.plan().good();
    let asked = |event: &&serde_json::Value| event["event"] == "unchecked";
    let unchecked: Vec<_> = plan.events.iter().filter(asked).map(crate::client::key).collect();
    assert_eq!(unchecked, ["connectivity.node[w1]", "connectivity.node[w2]"]);
    assert_eq!(plan.changes(), 0);
    world.lab.ssh("w2", "sed -i '/ip_forward/s/1/0/' /etc/sysctl.d/99-zz-ironstrap.conf");
}

fn alone(inventory: &mut Table) {
    inventory["nodes"].as_table_mut().unwrap().retain(|name, _| name == "m1");
}

fn drop_in(world: &World, unit: &str, text: &str) {
    let folder = format!("/etc/systemd/system/{unit}.service.d");
    let text = text.replace('\n', "\\n");
    world
        .lab
        .ssh("w2", &format!("mkdir -p {folder}; printf '{text}' >{folder}/zz.conf; systemctl daemon-reload"));
}

fn undrop(world: &World, unit: &str) {
    let file = format!("/etc/systemd/system/{unit}.service.d/zz.conf");
    world.lab.ssh("w2", &format!("rm {file}; systemctl daemon-reload; systemctl reset-failed {unit}"));
}

/// Removes w2 from the cluster: kubeadm resets it, and its Node is deleted.
fn leave(world: &World) {
    world.lab.ssh("w2", "kubeadm reset -f >/dev/null 2>&1; rm -f /etc/cni/net.d/*; ip link del cni0 || :; ip link del flannel.1 || :");
    world.kubectl(&["delete", "node", "w2", "--ignore-not-found"]);
}

/// Starts a server on w2 that answers at the API's address, with a certificate that this PKI signs at this time.
fn impostor(world: &World, mut pki: ClusterPki, now: OffsetDateTime) {
    pki.complete(&cluster(world), now).unwrap();
    for (file, end) in [("nodes/m1/apiserver.crt", "crt"), ("nodes/m1/apiserver.key", "key")] {
        let kept = pki.kept().into_iter().find(|kept| kept.path == file).unwrap().text.to_string();
        fs::write(world.lab.disk("w2", &format!("/root/impostor.{end}")), kept).unwrap();
    }
    world.lab.ssh(
        "w2",
        "ip address add 198.18.0.11/32 dev lo; systemd-run -q --unit=impostor \\
           openssl s_server -accept 6443 -cert /root/impostor.crt -key /root/impostor.key -www",
    );
}

fn no_impostor(world: &World) {
    world
        .lab
        .ssh("w2", "systemctl stop impostor; ip address delete 198.18.0.11/32 dev lo; rm /root/impostor.*");
}

/// Writes the data of a foreign etcd on m1.
fn foreign_etcd(world: &World) {
    let (part, data) = (world.lab.run(&["part", "etcd"]), world.dir.join("etcd"));
    let etcd = Path::new(part.trim()).join("etcd");
    let (etcd, folder) = (etcd.to_str().unwrap(), data.to_str().unwrap());
    world.lab.try_run(&[
        "exec",
        "timeout",
        "3",
        etcd,
        "--name=other",
        "--data-dir",
        folder,
        "--listen-client-urls=http://127.0.0.1:12379",
        "--advertise-client-urls=http://127.0.0.1:12379",
        "--listen-peer-urls=http://127.0.0.1:12380",
        "--initial-advertise-peer-urls=http://127.0.0.1:12380",
        "--initial-cluster=other=http://127.0.0.1:12380",
    ]);
    world.lab.ssh("m1", "mkdir -p -m 700 /var/lib/etcd");
    let to = world.lab.machine("m1").file("/var/lib/etcd/member");
    let copied = Command::new("cp").arg("-a").arg(data.join("member")).arg(&to).output().unwrap();
    assert!(copied.status.success(), "{}", text(&copied.stderr));
    fs::remove_dir_all(&data).unwrap();
}
