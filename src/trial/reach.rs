//! Whether machines reach each other on the ports of Kubernetes, by listeners of our own where nobody listens yet. Which
//! ways there are and what comes of them; pure.

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
/// How it came out where somebody is there, and nothing listens.
const REFUSED: &str = "refused";
/// And where it is somebody that we did not put up.
const STRANGER: &str = "somebody else answers";
/// And where what came back cannot be read.
const ODD: &str = "an answer that cannot be read";
/// The overlay of flannel.
const VXLAN: u16 = 8472;
/// In a large fleet each worker tries the overlay with the control planes and so many others. Control planes try it with all:
/// what only a worker says of another machine does not count against that one.
const ALL: usize = 12;
const NEIGHBOURS: usize = 4;

/// A port on which one machine needs another, as kubernetes.io has them ("Ports and Protocols").
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Way {
    pub from: String,
    pub to: String,
    pub port: u16,
    pub udp: bool,
}

/// How it came out.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// There and back in so many milliseconds.
    Reached {
        milliseconds: f64,
    },
    /// The largest packet that fits its link, and the largest that went through.
    Passed {
        mtu: u32,
        largest: u32,
    },
    Failed(String),
}

/// What a machine says of the ports on which it was to listen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listening {
    /// Where a listener of ours is.
    up: BTreeSet<(bool, u16)>,
    /// Where somebody else listens.
    held: BTreeSet<(bool, u16)>,
    pub firewall: Option<String>,
    pub filter: Filter,
}

/// A time at which machines try to reach each other.
pub struct Round {
    /// A word that only this run knows: who says it is no stranger.
    pub nonce: String,
    pub ways: Vec<Way>,
    pub joining: BTreeSet<String>,
    pub listening: BTreeMap<String, Listening>,
}

/// The ways that are not proven: from or to one that has still to join, among machines that can be tried.
pub fn ways(cluster: &Cluster, able: &BTreeSet<String>, joining: &BTreeSet<String>) -> Vec<Way> {
    let nodes: Vec<&Node> = cluster.nodes.iter().filter(|node| able.contains(&node.name)).collect();
    let mut ways = Vec::new();
    for (i, from) in nodes.iter().enumerate() {
        for (j, to) in nodes.iter().enumerate().filter(|(j, _)| *j != i) {
            let is_new = |node: &Node| joining.contains(&node.name);
            if !is_new(from) && !is_new(to) {
                continue;
            }
            let (us, them) = (from.is_control_plane(), to.is_control_plane());
            let mut way = |port: u16, udp: bool, needed: bool| {
                // Of a member the kernel itself holds the overlay's port, and says nothing to strangers.
                if needed && (!udp || is_new(to)) {
                    ways.push(Way { from: from.name.clone(), to: to.name.clone(), port, udp });
                }
            };
            let near = (j + nodes.len() - i) % nodes.len() <= NEIGHBOURS;
            way(cluster.api_port(), false, them);
            [2379, 2380].into_iter().for_each(|port| way(port, false, us && them));
            way(cluster.kubelet_port(to), false, us);
            let overlay = matches!(cluster.network, Network::Flannel(_));
            way(VXLAN, true, overlay && (nodes.len() <= ALL || us || them || near));
        }
    }
    ways
}

/// Shell that listens on a machine where others will try to reach it, until `end`.
pub fn listen(node: &Node, round: &Round) -> Sh {
    let nonce = &round.nonce;
    let ports = |udp: bool| {
        let here = round.ways.iter().filter(|way| way.to == node.name && way.udp == udp);
        let ports: BTreeSet<String> = here.map(|way| way.port.to_string()).collect();
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

/// Whether a machine listens now, by what `listen` has printed.
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

/// What a machine asks to try its ways; `None` where it has none. To a member its own services answer; to others
/// only a listener that is up, or somebody who holds the port.
pub fn ask(cluster: &Cluster, node: &Node, round: &Round) -> Option<Ask> {
    let line = |way: &Way| {
        let (to, port) = (cluster.node(&way.to)?, (way.udp, way.port));
        let there = round.listening.get(&way.to);
        let greets = match there {
            Some(there) if there.up.contains(&port) => "greets",
            Some(there) if there.held.contains(&port) && !way.udp => "silent",
            _ if round.joining.contains(&way.to) => return None,
            _ => "silent",
        };
        Some(format!("{} {} {} {greets}\n", if way.udp { "udp" } else { "tcp" }, to.ip, way.port))
    };
    let lines: String = round.ways.iter().filter(|way| way.from == node.name).filter_map(line).collect();
    let script = here(sh!("perl -e {REACH} {nonce}", REACH, nonce = round.nonce), &lines);
    (!lines.is_empty()).then_some(Ask::Shell(script))
}

/// How the ways of a machine came out, by what `ask` has printed; and the lines that are about no way, as it printed them. What
/// it says of others counts for nothing. A line has words of the machine that was tried, so a bad one costs only its own way.
pub fn read(cluster: &Cluster, node: &Node, ways: &[Way], answer: &str) -> (Vec<(Way, End)>, Vec<String>) {
    let name = |ip: &str| {
        let ip: IpAddr = ip.parse().ok()?;
        cluster.nodes.iter().find(|node| node.ip == ip).map(|node| node.name.clone())
    };
    let line = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let [kind, ip, port, how, more @ ..] = words.as_slice() else { return None };
        let way =
            Way { from: node.name.clone(), to: name(ip)?, port: port.parse().ok()?, udp: *kind == "udp" };
        Some((way, came_of(how, more)))
    };
    let (mut came, mut odd) = (Vec::new(), Vec::new());
    for text in answer.lines() {
        match line(text) {
            Some(it) => came.push(it),
            None => odd.push(text.to_string()),
        }
    }
    came.retain(|(way, _)| {
        ways.iter().any(|asked| (&asked.from, &asked.to, asked.udp) == (&way.from, &way.to, way.udp))
    });
    (came, odd)
}

fn came_of(how: &str, more: &[&str]) -> End {
    let good = match (how, more) {
        ("ok", [mtu, largest]) => {
            mtu.parse().ok().zip(largest.parse().ok()).map(|(mtu, largest)| End::Passed { mtu, largest })
        }
        ("ok", [rtt]) => finite(rtt).map(|rtt| End::Reached { milliseconds: rtt / 1000.0 }),
        _ => None,
    };
    let failed = match how {
        "ok" => ODD.into(),
        "refused" => REFUSED.into(),
        "lost" => "no answer".into(),
        "unreachable" => "no way there".into(),
        "other" => STRANGER.into(),
        _ => more.join(" "),
    };
    good.unwrap_or(End::Failed(failed))
}

#[cfg(test)]
mod tests;
