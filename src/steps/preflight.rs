//! preflight: checks of what only a human can change, before anything is changed. This file checks the machine itself. The
//! files below check what the machine offers and what is in the way. `fleet` judges what all machines together say.

pub use crate::cluster::kubeadm_checks;
use crate::cluster::{Cluster, Node, is_ignored};
use crate::error::{Result, count};
use crate::machine::Machine;
use crate::shell::{Sh, sh};
use crate::step::{Ask, Cx, Expect, Fix, Step, Verdict, Want};

mod disk;
mod flags;
mod leftovers;
mod network;
mod owners;
mod packages;
mod system;

pub const STEP: Step = Step {
    name: "preflight",
    why: "ironstrap changes no machine that cannot run its part of the cluster",
    wants,
};

// For control planes these are kubeadm's own limits (`app/constants`, `ControlPlaneNumCPU`, `ControlPlaneMem`). For workers
// they are what a kubelet, a runtime and a network need.
const CPUS: u32 = 2;
const MEMORY_CONTROL_PLANE: u64 = 1700;
const MEMORY_WORKER: u64 = 700;

/// Ends a question on a machine that ironstrap has begun to change. The question would find there what may be ironstrap's
/// own.
const UNTOUCHED: Sh = Sh::raw("[ ! -e /var/lib/ironstrap ] || not_here\n");

fn wants(cx: &Cx) -> Result<Vec<Want>> {
    let mut wants = machine(cx.machine);
    wants.extend(size(cx));
    wants.extend(system::wants(cx.cluster));
    wants.extend(packages::wants(cx.cluster));
    wants.extend(disk::wants(cx.cluster, cx.node));
    wants.extend(network::wants(cx));
    wants.extend(flags::wants(cx));
    wants.push(ports(cx.cluster, cx.node));
    wants.extend(cx.node.is_control_plane().then(|| owners::etcd(cx.cluster)));
    wants.extend(leftovers::wants(cx.cluster, cx.node));
    wants.push(beside());
    Ok(wants)
}

/// The wants without which nothing can be done.
fn machine(machine: &Machine) -> Vec<Want> {
    vec![
        head(machine, "preflight.root", "commands run as root", |m| {
            (m.uid == 0, format!("uid {}", m.uid), "uid 0".into())
        })
        .by_hand("log in as root, or as a user who may use sudo"),
        head(machine, "preflight.systemd", "systemd is process 1", |m| {
            (m.init == "systemd", m.init.clone(), "systemd".into())
        })
        .by_hand("boot the machine with systemd: ironstrap and the kubelet need it"),
        head(machine, "preflight.system", "the operating system is supported", |m| {
            (
                m.os == "debian" && m.codename == "trixie",
                format!("{} {}", m.os, m.codename),
                "debian trixie".into(),
            )
        })
        .by_hand("install Debian 13 (trixie): ironstrap supports no other system yet"),
        head(machine, "preflight.host-name", "the machine has a valid host name", |m| {
            (is_host_name(&m.hostname), m.hostname.clone(), "lower-case letters, digits, - and .".into())
        })
        .by_hand("hostnamectl set-hostname NAME"),
    ]
}

fn size(cx: &Cx) -> Vec<Want> {
    let control_plane = cx.node.is_control_plane();
    let memory = if control_plane { MEMORY_CONTROL_PLANE } else { MEMORY_WORKER };
    let cpus = |m: &Machine| (m.cpus >= CPUS, count(m.cpus as usize, "CPU"), format!("{CPUS} CPUs or more"));
    let mebibytes = move |m: &Machine| {
        let has = m.memory / 1024;
        (has >= memory, format!("{has} MiB"), format!("{memory} MiB or more"))
    };
    let cpus = head(cx.machine, "preflight.cpus", "the machine has enough CPUs", cpus)
        .by_hand("give the machine more CPUs");
    let memory = head(cx.machine, "preflight.memory", "the machine has enough memory", mebibytes)
        .by_hand("give the machine more memory");
    let mut wants = vec![named(cx.cluster, "Mem", memory)];
    if control_plane {
        wants.insert(0, named(cx.cluster, "NumCPU", cpus));
    }
    wants
}

/// A want about a fact from the head of the reply. `test` says whether the fact is right, what it is, and what it should be.
fn head(
    machine: &Machine,
    id: &'static str,
    that: &str,
    test: impl Fn(&Machine) -> (bool, String, String),
) -> Want {
    let (holds, have, want) = test(machine);
    let verdict = if holds { Verdict::Holds } else { Verdict::Differs { have, want } };
    Want::new(id, that).ask(Ask::Facts).judged(move |_| verdict.clone())
}

/// A want that the inventory can downgrade to a warning, by this name of the check. The hint says so.
fn named(cluster: &Cluster, name: &str, want: Want) -> Want {
    if cluster.ignores(name) {
        return told(want);
    }
    let Fix::ByHand(hint) = &want.fix else { return want };
    let hint =
        format!("{hint}; or downgrade the check to a warning: ignore-preflight = [\"{name}\"] in [cluster]");
    want.by_hand(hint)
}

/// Turns a failure of the want into a note, which blocks nothing.
fn told(want: Want) -> Want {
    let that = want.that.clone();
    let want = match want.expect.clone() {
        Expect::Is(right) => want.passes("", move |have| have.trim_end() == right.trim_end()),
        _ => want,
    };
    want.map_verdict(move |verdict| match verdict {
        Verdict::Differs { have, .. } => Verdict::Noted(noted(&that, &have)),
        Verdict::Unknown(why) => {
            Verdict::Noted(format!("cannot determine whether {that}, downgraded to a warning: {why}"))
        }
        verdict => verdict,
    })
}

fn noted(that: &str, have: &str) -> String {
    format!(
        "requirement not met, downgraded to a warning: {that}; found: {}",
        have.trim_end().replace('\n', ", ")
    )
}

/// A want whose answer must be empty. Each line of the answer is something wrong. It has a name by which the inventory can
/// downgrade it to a warning.
fn nothing(
    cluster: &Cluster,
    id: &'static str,
    that: &str,
    ask: Ask,
    name: impl Fn(&str) -> String + Send + Sync + 'static,
) -> Want {
    let (checks, text) = (cluster.ignore_preflight.clone(), that.to_string());
    let ignored = move |line: &str| is_ignored(&checks, &name(line));
    Want::new(id, that).ask(ask).judged(move |answer| {
        let (told, wrong): (Vec<&str>, Vec<&str>) = answer.lines().partition(|line| ignored(line));
        match (told.is_empty(), wrong.is_empty()) {
            (true, true) => Verdict::Holds,
            (false, true) => Verdict::Noted(noted(&text, &told.join("\n"))),
            _ => Verdict::Differs { have: wrong.join("\n"), want: String::new() },
        }
    })
}

/// Whether this is a host name by RFC 1123, as Kubernetes accepts it.
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

/// Notes programs that run beside Kubernetes, or that do not run, and that may be why something fails later.
fn beside() -> Want {
    Want::new("preflight.beside", "whether anything on the machine may interfere with Kubernetes")
        .ask(Ask::OnlyBeforeJoin(BESIDE.into()))
        .judged(|answer| match answer.trim() {
            "" => Verdict::Holds,
            lines => Verdict::Noted(lines.replace('\n', "; ")),
        })
}

const BESIDE: &str = r#"runs() { systemctl is-active -q "$@"; }
for u in firewalld ufw; do
  ! runs $u || echo "$u is active: it must allow the ports of Kubernetes between nodes, and the traffic of pods"
done
for u in docker crio k3s k3s-agent rke2-server rke2-agent snap.microk8s.daemon-kubelite; do ! runs $u || echo "$u also runs on the machine"; done
[ ! -e /run/reboot-required ] || echo "a reboot is pending"
runs chrony || runs chronyd || runs systemd-timesyncd || runs ntpsec || runs ntpd || runs ntp ||
  echo "no time service runs: certificates need synchronized clocks"
"#;

/// The want that the ports of kubeadm's own check are free.
fn ports(cluster: &Cluster, node: &Node) -> Want {
    let mut ports = vec![cluster.kubelet_port(node)];
    if node.is_control_plane() {
        ports.extend([cluster.api_port(), 10257, 10259, 2379, 2380]);
    }
    let hex: Vec<String> = ports.iter().map(|port| format!("{port:04X}={port}")).collect();
    let ask = Ask::OnlyBeforeJoin(sh!("ports={hex}\n", hex = hex.join(" ")) + PORTS);
    let name = |line: &str| format!("Port-{}", line.split(' ').nth(1).unwrap_or_default());
    nothing(cluster, "preflight.ports", "the ports of Kubernetes are free", ask, name)
        .by_hand("stop or uninstall the program that uses the port (`ss -ltnp` shows it); or downgrade the check to a warning: ignore-preflight = [\"Port-NUMBER\"] in [cluster]")
}

/// Shell that prints each of these ports that is in use, and the process that listens there.
const PORTS: &str = r#"tables=/proc/net/tcp
[ ! -e /proc/net/tcp6 ] || tables="$tables /proc/net/tcp6"
found=$(awk -v ports="$ports" 'BEGIN { n = split(ports, a, " "); for (i = 1; i <= n; i++) { split(a[i], p, "="); want[p[1]] = p[2] } }
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
  echo "port $port is in use by ${who:-an unknown process}"
done | sort -u"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ignored_check_without_a_readable_answer_is_only_noted() {
        let unreadable = Want::new("preflight.disk", "there is room")
            .judged(|_| Verdict::Unknown("unreadable output of df".into()));
        let Expect::Judged(judge) = told(unreadable).expect else { panic!() };
        let Verdict::Noted(words) = judge("") else { panic!() };
        assert!(
            words.ends_with("there is room, downgraded to a warning: unreadable output of df"),
            "{words}"
        );
    }

    #[test]
    fn host_names_follow_rfc_1123() {
        assert!(is_host_name("m1") && is_host_name("node-1.example.org"));
        for name in ["", "-a", "a-", "A", "a_b", "a..b", &"x".repeat(64), &"a.b".repeat(85)] {
            assert!(!is_host_name(name), "{name}");
        }
    }
}
