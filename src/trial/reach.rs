//! Whether machines reach each other on the ports of Kubernetes, by listeners of our own where nobody listens yet. Which
//! ways there are and what comes of them; pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::cluster::{Cluster, Network, Node};
use crate::machine::finite;
use crate::shell::{Sh, here, sh};
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
/// The overlay of flannel.
const VXLAN: u16 = 8472;
/// In a large fleet each machine tries the overlay with the control planes and so many others.
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
            way(10250, false, us);
            let overlay = matches!(cluster.network, Network::Flannel(_));
            way(VXLAN, true, overlay && (nodes.len() <= ALL || them || near));
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
        "{\nexport LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n\
         for u in ufw firewalld nftables; do ! systemctl is-active -q $u || echo {nonce} firewall $u; done\n\
         {RULES}rules {nonce} {tables}\nperl -e {LISTEN} {nonce} {ip} {tcp} {udp}\n} </dev/null\n",
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

/// How the ways of a machine came out, by what `ask` has printed. What it says of others counts for nothing.
pub fn read(cluster: &Cluster, node: &Node, ways: &[Way], answer: &str) -> Option<Vec<(Way, End)>> {
    let name = |ip: &str| {
        let ip: IpAddr = ip.parse().ok()?;
        cluster.nodes.iter().find(|node| node.ip == ip).map(|node| node.name.clone())
    };
    let line = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let [kind, ip, port, how, more @ ..] = words.as_slice() else { return None };
        let end = match (*how, more) {
            ("ok", [mtu, largest]) => End::Passed { mtu: mtu.parse().ok()?, largest: largest.parse().ok()? },
            ("ok", [rtt]) => End::Reached { milliseconds: finite(rtt)? / 1000.0 },
            ("refused", _) => End::Failed(REFUSED.into()),
            ("lost", _) => End::Failed("no answer".into()),
            ("unreachable", _) => End::Failed("no way there".into()),
            ("other", _) => End::Failed(STRANGER.into()),
            _ => End::Failed(more.join(" ")),
        };
        let way =
            Way { from: node.name.clone(), to: name(ip)?, port: port.parse().ok()?, udp: *kind == "udp" };
        Some((way, end))
    };
    let mut came: Vec<(Way, End)> = answer.lines().map(line).collect::<Option<_>>()?;
    came.retain(|(way, _)| {
        ways.iter().any(|asked| (&asked.from, &asked.to, asked.udp) == (&way.from, &way.to, way.udp))
    });
    Some(came)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Flannel, Role};

    /// So many control planes and workers.
    fn cluster(control_planes: usize, workers: usize) -> Cluster {
        let mut cluster = crate::pki::tests::cluster();
        let first = cluster.nodes[0].clone();
        let node = |i: usize| Node {
            name: format!("n{i}"),
            role: if i < control_planes { Role::ControlPlane } else { Role::Worker },
            ip: IpAddr::from([198, 18, (i / 200) as u8, (i % 200 + 1) as u8]),
            ..first.clone()
        };
        cluster.nodes = (0..control_planes + workers).map(node).collect();
        cluster.network = Network::Flannel(Flannel { image: "flannel".into(), plugin: "plugin".into() });
        cluster
    }

    fn names(cluster: &Cluster, from: usize) -> BTreeSet<String> {
        cluster.nodes[from..].iter().map(|node| node.name.clone()).collect()
    }

    fn shown(ways: &[Way]) -> Vec<String> {
        let one =
            |way: &Way| format!("{} {} {}{}", way.from, way.to, way.port, if way.udp { "u" } else { "" });
        ways.iter().map(one).collect()
    }

    #[test]
    fn each_needs_of_the_others_what_its_role_needs() {
        let cluster = cluster(2, 1);
        let all = names(&cluster, 0);
        let api = cluster.api_port();
        let ways = shown(&ways(&cluster, &all, &all));
        let has = |way: &str| ways.contains(&way.to_string());
        assert!(
            has(&format!("n2 n0 {api}")) && has(&format!("n0 n1 {api}")) && has("n2 n1 8472u"),
            "{ways:?}"
        );
        assert!(has("n0 n1 2379") && has("n1 n0 2380") && has("n0 n2 10250"), "{ways:?}");
        let mut own = cluster.clone();
        own.network = Network::None;
        assert!(
            super::ways(&own, &all, &all).iter().all(|way| !way.udp),
            "whatever it is, flannel's it is not"
        );
        assert!(!has("n2 n0 2379") && !has("n2 n0 10250") && !has(&format!("n0 n2 {api}")), "{ways:?}");
    }

    #[test]
    fn what_runs_already_is_not_tried_again() {
        let cluster = cluster(1, 2);
        let (all, new) = (names(&cluster, 0), names(&cluster, 2));
        let ways = shown(&ways(&cluster, &all, &new));
        assert!(ways.iter().all(|way| way.contains("n2")), "{ways:?}");
        // The kernel of a member has the overlay's port, and answers nobody else.
        assert!(ways.iter().all(|way| !way.starts_with("n2 ") || !way.ends_with('u')), "{ways:?}");
        assert!(ways.contains(&"n1 n2 8472u".to_string()), "{ways:?}");
        assert_eq!(super::ways(&cluster, &all, &BTreeSet::new()), []);
    }

    #[test]
    fn in_a_large_fleet_each_tries_a_few() {
        let cluster = cluster(3, 297);
        let all = names(&cluster, 0);
        let ways = ways(&cluster, &all, &all);
        let of = |name: &str, udp: bool| ways.iter().filter(|way| way.from == name && way.udp == udp).count();
        assert_eq!((of("n100", true), of("n100", false)), (3 + NEIGHBOURS, 3));
        assert!(ways.len() < 300 * 14, "{}", ways.len());
        let reached: BTreeSet<&str> = ways.iter().filter(|way| way.udp).map(|way| way.to.as_str()).collect();
        assert_eq!(reached.len(), 300, "everybody is tried by somebody");
    }

    #[test]
    fn a_member_that_turns_one_away_is_reached() {
        let cluster = cluster(1, 1);
        let way = Way { from: "n1".into(), to: "n0".into(), port: cluster.api_port(), udp: false };
        let wrong = |how: &str, joining: BTreeSet<String>| {
            let came = [(way.clone(), End::Failed(how.into()))];
            judge(&cluster, &came, &joining, &BTreeMap::new()).len()
        };
        assert_eq!(wrong(REFUSED, names(&cluster, 1)), 0, "its API server may be what this run is to mend");
        assert_eq!(wrong("no answer", names(&cluster, 1)), 1);
        let came = [(way.clone(), End::Failed("no answer".into()))];
        let found = judge(&cluster, &came, &names(&cluster, 1), &BTreeMap::new());
        assert_eq!(found[0].error.node.as_deref(), Some("n1"), "a member has shown that it works");
        assert_eq!(wrong(REFUSED, names(&cluster, 0)), 1, "there is a listener of ours");
    }

    #[test]
    fn who_does_not_listen_is_not_tried_and_who_holds_a_port_need_not_greet() {
        let cluster = cluster(1, 1);
        let way = |port, udp| Way { from: "n1".into(), to: "n0".into(), port, udp };
        let asked = |said: Option<&str>, joining: BTreeSet<String>| {
            let listening =
                said.map(|said| ("n0".to_string(), Listening::read(said, "1f"))).into_iter().collect();
            let ways = vec![way(6443, false), way(VXLAN, true)];
            let round = Round { nonce: "1f".into(), ways, joining, listening };
            let Ask::Shell(script) = ask(&cluster, &cluster.nodes[1], &round)? else { panic!() };
            let (_, document) = script.rsplit_once(" <<'").unwrap();
            let lines = document.lines().skip(1).filter(|line| !line.starts_with("--"));
            Some(lines.map(|line| format!("{line}\n")).collect::<String>())
        };
        let (all, one) = (names(&cluster, 0), names(&cluster, 1));
        let up = "1f up tcp 6443\n1f up udp 8472\n1f ready\n";
        let both = "tcp 198.18.0.1 6443 greets\nudp 198.18.0.1 8472 greets\n";
        assert_eq!(asked(Some(up), all.clone()).unwrap(), both);
        let held = "1f held tcp 6443\n1f held udp 8472\n1f ready\n";
        assert_eq!(asked(Some(held), all.clone()).unwrap(), "tcp 198.18.0.1 6443 silent\n");
        assert_eq!(asked(Some("1f closed tcp 6443\n"), all.clone()), None);
        assert_eq!(asked(None, all), None);
        let member = "tcp 198.18.0.1 6443 silent\nudp 198.18.0.1 8472 silent\n";
        assert_eq!(asked(None, one).unwrap(), member, "its own services answer");
    }

    #[test]
    fn an_answer_that_cannot_be_read_is_none() {
        let cluster = cluster(1, 1);
        let way = |port, udp| Way { from: "n1".into(), to: "n0".into(), port, udp };
        let ways = [way(6443, false), way(VXLAN, true)];
        let read = |answer: &str| read(&cluster, &cluster.nodes[1], &ways, answer);
        assert_eq!(
            read("tcp 198.18.0.2 6443 lost\nudp 198.18.0.2 8472 lost"),
            Some(vec![]),
            "it was not asked"
        );
        let end = |answer: &str| read(answer).unwrap().remove(0).1;
        assert_eq!(end("tcp 198.18.0.1 6443 ok 1500"), End::Reached { milliseconds: 1.5 });
        assert_eq!(end("udp 198.18.0.1 8472 ok 1500 1450"), End::Passed { mtu: 1500, largest: 1450 });
        assert_eq!(end("udp 198.18.0.1 8472 failed Broken pipe"), End::Failed("Broken pipe".into()));
        for wrong in
            ["tcp 198.18.0.9 6443 ok 1", "tcp 198.18.0.1 6443", "hello", "tcp 198.18.0.1 6443 ok soon"]
        {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
