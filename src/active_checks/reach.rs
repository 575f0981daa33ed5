//! The connectivity check: whether machines reach each other on the ports of Kubernetes. Where nothing listens yet,
//! ironstrap starts listeners of its own. This module decides which probes machines send, and reads the results. It is
//! pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::cluster::{Cluster, Network, Node};
use crate::machine::finite;
use crate::shell::{PRELUDE, Sh, here, sh};
use crate::step::Ask;

mod judge;
mod rules;

pub use judge::judge;
use rules::{Filter, RULES};

const LISTEN: &str = include_str!("../../templates/listen.pl");
const REACH: &str = include_str!("../../templates/reach.pl");
/// The result if the machine answers, and nothing listens on the port.
const REFUSED: &str = "refused";
/// The result if a program answers that ironstrap did not start.
const STRANGER: &str = "another program answers";
/// The result if ironstrap cannot read the answer.
const ODD: &str = "an unreadable answer";
/// The port of flannel's overlay network.
const VXLAN: u16 = 8472;
/// Up to this many nodes, every node probes the overlay with all others. In a larger fleet, a worker probes it with the
/// control planes and `NEIGHBOURS` other nodes. Control planes always probe it with all nodes. The reason is that a failure
/// which only a worker reports does not count against the other machine.
const ALL: usize = 12;
const NEIGHBOURS: usize = 4;

/// A port on which one machine needs another, as the page "Ports and Protocols" of kubernetes.io lists them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Probe {
    pub from: String,
    pub to: String,
    pub port: u16,
    pub udp: bool,
}

/// The result of a probe.
#[derive(Clone, Debug, PartialEq)]
pub enum ProbeResult {
    /// The other machine answered. The round trip took this many milliseconds.
    Reached {
        milliseconds: f64,
    },
    /// Packets went through. `mtu`: the largest packet that fits the link of the sender. `largest`: the largest one that
    /// went through. Both are in bytes.
    Passed {
        mtu: u32,
        largest: u32,
    },
    Failed(String),
}

/// The state of the ports on which a machine should listen, as the machine reports it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listening {
    /// The ports on which a listener of ironstrap listens: whether UDP, and the number.
    up: BTreeSet<(bool, u16)>,
    /// The ports on which another program listens.
    held: BTreeSet<(bool, u16)>,
    pub firewall: Option<String>,
    pub filter: Filter,
}

/// One round in which machines try to reach each other.
pub struct Round {
    /// A word that only this run knows. A program that answers with it is a listener of this run.
    pub nonce: String,
    pub probes: Vec<Probe>,
    pub joining: BTreeSet<String>,
    pub listening: BTreeMap<String, Listening>,
}

/// The probes that this run needs among the machines in `able`. Each is from or to a machine that has still to join,
/// because members have proven already that they reach each other.
pub fn probes(cluster: &Cluster, able: &BTreeSet<String>, joining: &BTreeSet<String>) -> Vec<Probe> {
    let nodes: Vec<&Node> = cluster.nodes.iter().filter(|node| able.contains(&node.name)).collect();
    let mut probes = Vec::new();
    for (i, from) in nodes.iter().enumerate() {
        for (j, to) in nodes.iter().enumerate().filter(|(j, _)| *j != i) {
            let is_new = |node: &Node| joining.contains(&node.name);
            if !is_new(from) && !is_new(to) {
                continue;
            }
            let (us, them) = (from.is_control_plane(), to.is_control_plane());
            let mut probe = |port: u16, udp: bool, needed: bool| {
                // The kernel of a member holds the port of the overlay itself, and answers no unknown sender.
                if needed && (!udp || is_new(to)) {
                    probes.push(Probe { from: from.name.clone(), to: to.name.clone(), port, udp });
                }
            };
            let near = (j + nodes.len() - i) % nodes.len() <= NEIGHBOURS;
            probe(cluster.api_port(), false, them);
            [2379, 2380].into_iter().for_each(|port| probe(port, false, us && them));
            probe(cluster.kubelet_port(to), false, us);
            let overlay = matches!(cluster.network, Network::Flannel(_));
            probe(VXLAN, true, overlay && (nodes.len() <= ALL || us || them || near));
        }
    }
    probes
}

/// Shell that listens on the ports where others will try to reach this machine, until `end` stops it.
pub fn listen(node: &Node, round: &Round) -> Sh {
    let nonce = &round.nonce;
    let ports = |udp: bool| {
        let here = round.probes.iter().filter(|probe| probe.to == node.name && probe.udp == udp);
        let ports: BTreeSet<String> = here.map(|probe| probe.port.to_string()).collect();
        ports.into_iter().collect::<Vec<_>>().join(",")
    };
    let tables = if node.ip.is_ipv4() { "iptables" } else { "ip6tables" };
    sh!(
        "{\n{PRELUDE}\
         for u in ufw firewalld nftables; do ! systemctl is-active -q $u || echo {nonce} firewall $u; done\n\
         {RULES}rules {nonce} {tables}\nperl -e {LISTEN} {nonce} {ip} {tcp} {udp}\n} </dev/null\n",
        PRELUDE,
        nonce,
        RULES,
        tables,
        LISTEN,
        ip = node.ip,
        tcp = ports(false),
        udp = ports(true)
    )
}

/// Whether a machine listens now, according to the output of `listen`.
pub fn is_ready(said: &str, nonce: &str) -> bool {
    said.lines().any(|line| line.trim_end() == format!("{nonce} ready"))
}

/// Shell that ends `listen`.
pub fn end(node: &Node, round: &Round) -> Sh {
    sh!(
        "perl -MSocket -e 'socket(my $s, AF_UNIX, SOCK_STREAM, 0); connect($s, pack_sockaddr_un(\"\\0$ARGV[0] $ARGV[1]\"))' {nonce} {ip} </dev/null 2>/dev/null || :\n",
        nonce = round.nonce,
        ip = node.ip
    )
}

impl Listening {
    pub fn read(said: &str, nonce: &str) -> Listening {
        let ours = said.lines().filter_map(|line| line.strip_prefix(nonce)?.strip_prefix(' '));
        let mut listening = Listening { filter: Filter::read(ours), ..Listening::default() };
        for line in said.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                [n, "firewall", name] if *n == nonce => listening.firewall = Some(name.to_string()),
                [n, state, kind, port] if *n == nonce => {
                    let Ok(port) = port.parse() else { continue };
                    let ports = if *state == "up" { &mut listening.up } else { &mut listening.held };
                    if *state == "up" || *state == "held" {
                        ports.insert((*kind == "udp", port));
                    }
                }
                _ => {}
            }
        }
        listening
    }
}

/// The question with which a machine sends its probes. `None` if it has none. On a member, its own services answer. On
/// other machines, only a listener of ironstrap answers, or a program that holds the port.
pub fn ask(cluster: &Cluster, node: &Node, round: &Round) -> Option<Ask> {
    let line = |probe: &Probe| {
        let (to, port) = (cluster.node(&probe.to)?, (probe.udp, probe.port));
        let there = round.listening.get(&probe.to);
        let greets = match there {
            Some(there) if there.up.contains(&port) => "greets",
            Some(there) if there.held.contains(&port) && !probe.udp => "silent",
            _ if round.joining.contains(&probe.to) => return None,
            _ => "silent",
        };
        Some(format!("{} {} {} {greets}\n", if probe.udp { "udp" } else { "tcp" }, to.ip, probe.port))
    };
    let lines: String =
        round.probes.iter().filter(|probe| probe.from == node.name).filter_map(line).collect();
    let script = here(sh!("perl -e {REACH} {nonce}", REACH, nonce = round.nonce), &lines);
    (!lines.is_empty()).then_some(Ask::Shell(script))
}

/// Reads the results of a machine's probes from the output of `ask`. Also returns the lines that are about no probe, as
/// they were printed. Results about other pairs of machines are ignored. A line contains words of the probed machine, so a
/// bad line costs only its own result.
pub fn read(
    cluster: &Cluster,
    node: &Node,
    probes: &[Probe],
    answer: &str,
) -> (Vec<(Probe, ProbeResult)>, Vec<String>) {
    let name = |ip: &str| {
        let ip: IpAddr = ip.parse().ok()?;
        cluster.nodes.iter().find(|node| node.ip == ip).map(|node| node.name.clone())
    };
    let line = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let [kind, ip, port, how, more @ ..] = words.as_slice() else { return None };
        let probe =
            Probe { from: node.name.clone(), to: name(ip)?, port: port.parse().ok()?, udp: *kind == "udp" };
        Some((probe, came_of(how, more)))
    };
    let (mut came, mut odd) = (Vec::new(), Vec::new());
    for text in answer.lines() {
        match line(text) {
            Some(it) => came.push(it),
            None => odd.push(text.to_string()),
        }
    }
    came.retain(|(probe, _)| {
        probes.iter().any(|asked| (&asked.from, &asked.to, asked.udp) == (&probe.from, &probe.to, probe.udp))
    });
    (came, odd)
}

fn came_of(how: &str, more: &[&str]) -> ProbeResult {
    let good = match (how, more) {
        ("ok", [mtu, largest]) => mtu
            .parse()
            .ok()
            .zip(largest.parse().ok())
            .map(|(mtu, largest)| ProbeResult::Passed { mtu, largest }),
        ("ok", [rtt]) => finite(rtt).map(|rtt| ProbeResult::Reached { milliseconds: rtt / 1000.0 }),
        _ => None,
    };
    let failed = match how {
        "ok" => ODD.into(),
        "refused" => REFUSED.into(),
        "lost" => "no answer".into(),
        "unreachable" => "unreachable".into(),
        "other" => STRANGER.into(),
        _ => more.join(" "),
    };
    good.unwrap_or(ProbeResult::Failed(failed))
}

#[cfg(test)]
mod tests;
