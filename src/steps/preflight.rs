//! preflight: what only a human can change, asked before anything is changed.

use crate::cluster::{Cluster, Node};
use crate::error::Result;
use crate::machine::Machine;
use crate::step::{Ask, Cx, Step, Verdict, Want};

pub const STEP: Step =
    Step { name: "preflight", why: "a machine that cannot carry its part is better left alone", wants };

// kubeadm's own limits (`app/constants`, `ControlPlaneNumCPU`, `ControlPlaneMem`); for workers what a kubelet,
// a runtime and a network need.
const CPUS: u32 = 2;
const MEMORY_CONTROL_PLANE: u64 = 1700;
const MEMORY_WORKER: u64 = 700;
/// Room for images, packages and logs, in mebibytes.
const DISK: u64 = 4096;

fn wants(cx: &Cx) -> Result<Vec<Want>> {
    let (node, machine) = (cx.node, cx.machine);
    let memory = if node.is_control_plane() { MEMORY_CONTROL_PLANE } else { MEMORY_WORKER };
    let mut wants = vec![
        head(machine, "commands run as root", |m| (m.uid == 0, format!("uid {}", m.uid), "uid 0".into()))
            .by_hand("log in as root, or as somebody who may use sudo"),
        head(machine, "systemd runs the machine", |m| {
            (m.init == "systemd", m.init.clone(), "systemd".into())
        })
        .by_hand("ironstrap and the kubelet need systemd as process 1"),
        head(machine, "the system is one that ironstrap knows", |m| {
            (
                m.os == "debian" && m.codename == "trixie",
                format!("{} {}", m.os, m.codename),
                "debian trixie".into(),
            )
        })
        .by_hand("only Debian 13 (trixie) is supported so far"),
        head(machine, "the machine has a valid host name", |m| {
            (is_host_name(&m.hostname), m.hostname.clone(), "lower-case letters, digits, - and .".into())
        })
        .by_hand("hostnamectl set-hostname NAME"),
        cgroups(cx.cluster),
        disk(),
        ports(cx.cluster, node),
        beside(),
    ];
    if node.is_control_plane() && !ignored(cx.cluster, "NumCPU") {
        let enough =
            |m: &Machine| (m.cpus >= CPUS, format!("{} CPUs", m.cpus), format!("{CPUS} CPUs or more"));
        wants.push(head(machine, "there are CPUs enough", enough).by_hand("give the machine more CPUs"));
    }
    if !(node.is_control_plane() && ignored(cx.cluster, "Mem")) {
        let enough = move |m: &Machine| {
            let mebibytes = m.memory / 1024;
            (mebibytes >= memory, format!("{mebibytes} MiB"), format!("{memory} MiB or more"))
        };
        wants.push(head(machine, "there is memory enough", enough).by_hand("give the machine more memory"));
    }
    Ok(wants)
}

fn ignored(cluster: &Cluster, check: &str) -> bool {
    cluster.ignore_preflight.iter().any(|name| name.eq_ignore_ascii_case(check) || name == "all")
}

/// Something that the head of the reply tells: whether it is right, what it is, what it should be.
fn head(machine: &Machine, that: &str, test: impl Fn(&Machine) -> (bool, String, String)) -> Want {
    let (holds, have, want) = test(machine);
    let verdict = if holds { Verdict::Holds } else { Verdict::Differs { have, want } };
    Want::that(that).asks(Ask::Head).judged(move |_| verdict.clone())
}

/// RFC 1123, as Kubernetes takes it.
fn is_host_name(name: &str) -> bool {
    let label = |label: &str| {
        let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        !label.is_empty()
            && label.len() <= 63
            && label.chars().all(inside)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

/// Kubelets from 1.35 on refuse cgroup v1 unless they are told to bear it (KEP-5573).
fn cgroups(cluster: &Cluster) -> Want {
    let bears = cluster.kubernetes.minor < 35 || cluster.kubelet.get("failCgroupV1") == Some(&false.into());
    Want::that("the kubelet runs with the machine's cgroups")
        .ask("if [ -e /sys/fs/cgroup/cgroup.controllers ]; then echo version 2; else echo version 1; fi")
        .passes("version 2", move |version| bears || version == "version 2")
        .by_hand(
            "boot it with systemd.unified_cgroup_hierarchy=1 on the kernel's command line; or, as long as that works, \
             failCgroupV1 = false under [kubelet] and ignore-preflight = [\"SystemVerification\"] under [cluster]",
        )
}

/// What runs beside Kubernetes, or does not, and may be why something fails later: for people to know of.
fn beside() -> Want {
    Want::that("whether something here may get in the way").ask(BESIDE).judged(|answer| match answer.trim() {
        "" => Verdict::Holds,
        lines => Verdict::Noted(lines.replace('\n', "; ")),
    })
}

const BESIDE: &str = r#"for f in /etc/kubernetes/kubelet.conf /var/lib/kubelet/pki/kubelet-client-current.pem; do
  [ ! -e $f ] || exit 0
done
runs() { systemctl is-active -q "$@"; }
for u in firewalld ufw; do
  ! runs $u || echo "$u is active: nodes must reach each other on the ports of Kubernetes, and pods too"
done
for u in docker crio k3s k3s-agent rke2-server rke2-agent snap.microk8s.daemon-kubelite; do ! runs $u || echo "$u runs here, too"; done
[ ! -e /run/reboot-required ] || echo "a reboot is pending"
runs chrony || runs chronyd || runs systemd-timesyncd || runs ntpsec || runs ntpd || runs ntp ||
  echo "no time service runs: certificates need clocks that agree"
"#;

/// Asked only of machines that are not members yet: later the kubelet watches the disk itself.
fn disk() -> Want {
    let enough =
        |free: &str| free == "a member" || free.parse::<u64>().is_ok_and(|mebibytes| mebibytes >= DISK);
    Want::that("there is disk enough under /var/lib")
        .ask("if [ -e /etc/kubernetes/kubelet.conf ] || [ -e /var/lib/kubelet/pki/kubelet-client-current.pem ]; then echo a member; exit 0; fi\nset -- $(stat -f -c '%a %S' /var/lib)\necho $(($1 * $2 / 1048576))")
        .passes(format!("{DISK} MiB or more"), enough)
        .by_hand("make room under /var/lib, where images, packages and logs go")
}

/// The ports of kubeadm's own check, unless this machine is a member: then Kubernetes itself holds them.
fn ports(cluster: &Cluster, node: &Node) -> Want {
    let mut ports = vec![10250];
    if node.is_control_plane() {
        ports.extend([cluster.api_port(), 10257, 10259, 2379, 2380]);
    }
    let ours = |port: &u16| !ignored(cluster, &format!("Port-{port}"));
    let hex: Vec<String> =
        ports.iter().filter(|port| ours(port)).map(|port| format!("{port:04X}={port}")).collect();
    Want::that("the ports of Kubernetes are free")
        .ask(PORTS.replace("PORTS", &hex.join(" ")))
        .is("")
        .by_hand("stop what listens there, or take it off the machine")
}

/// Prints who listens where it should not. A kubelet that was installed but never configured, or a kubeadm that
/// was killed, is our own business.
const PORTS: &str = r#"for f in /etc/kubernetes/kubelet.conf /etc/kubernetes/bootstrap-kubelet.conf /var/lib/kubelet/pki/kubelet-client-current.pem; do
  [ ! -e $f ] || exit 0
done
tables=/proc/net/tcp
[ ! -e /proc/net/tcp6 ] || tables="$tables /proc/net/tcp6"
found=$(awk -v ports="PORTS" 'BEGIN { n = split(ports, a, " "); for (i = 1; i <= n; i++) { split(a[i], p, "="); want[p[1]] = p[2] } }
  $4 == "0A" { split($2, l, ":"); if (l[2] in want) print want[l[2]], $10 }' $tables)
[ -n "$found" ] || exit 0
echo "$found" | while read -r port inode; do
  who=
  for fd in /proc/[0-9]*/fd/*; do
    [ "$(readlink "$fd" 2>/dev/null || :)" = "socket:[$inode]" ] || continue
    pid=${fd#/proc/}; pid=${pid%%/*}
    read -r who <"/proc/$pid/comm" || who=
    break
  done
  echo "port $port is held by ${who:-an unknown process}"
done | sort -u"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_those_of_rfc_1123() {
        assert!(is_host_name("m1") && is_host_name("node-1.example.org"));
        for name in ["", "-a", "a-", "A", "a_b", "a..b", &"x".repeat(64)] {
            assert!(!is_host_name(name), "{name}");
        }
    }
}
