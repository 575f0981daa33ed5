//! What is made of ways that were tried: one error for one firewall, not one for each of its victims.

use std::collections::{BTreeMap, BTreeSet};

use super::rules::Side;
use super::{End, Listening, REFUSED, STRANGER, VXLAN, Way};
use crate::cluster::{Cluster, Network, Node};
use crate::error::{Error, Kind, QUOTE};
use crate::fleet::identity::Misfit;

/// etcd's heartbeat is 100 ms; a way there and back that takes half of it leaves little room.
const FAR: f64 = 50.0;
/// Of so many at the other end the rules are shown, too.
const NEAR: usize = 2;

/// `listening`: what machines say of themselves, and so of their firewalls.
pub fn judge(
    cluster: &Cluster,
    came: &[(Way, End)],
    joining: &BTreeSet<String>,
    listening: &BTreeMap<String, Listening>,
) -> Vec<Misfit> {
    // A member that turns one away is there to be reached; what should listen may be what this run is about to mend.
    let away = |way: &Way, how: &str| how == REFUSED && !joining.contains(&way.to);
    let failed: Vec<(&Way, &str)> = came
        .iter()
        .filter_map(|(way, end)| if let End::Failed(how) = end { Some((way, how.as_str())) } else { None })
        .filter(|(way, how)| !away(way, how))
        .collect();
    let (doubted, failed): (Vec<_>, Vec<_>) =
        failed.iter().partition(|(way, _)| is_doubted(cluster, came, &failed, joining, way));
    let mut found = cut_off(cluster, came, &failed, joining, listening);
    found.extend(doubts(cluster, &doubted));
    found.extend(narrow(cluster, came, joining));
    found.extend(far(came));
    found.extend(shut(cluster, joining, listening));
    found
}

/// Machines that let nothing through to pods. The ports of machines are open there, and pods reach nobody.
fn shut(
    cluster: &Cluster,
    joining: &BTreeSet<String>,
    listening: &BTreeMap<String, Listening>,
) -> Vec<Misfit> {
    let misfit = |name: &String| {
        let node = cluster.node(name).filter(|_| matches!(cluster.network, Network::Flannel(_)))?;
        let chains = listening.get(name)?.filter.shown(Side::Forward, &[], node.ip.is_ipv6());
        let hint = format!(
            "let these chains accept what comes from and goes to {pods}, and write that where the firewall keeps its rules: \
             nft add rule CHAIN ip saddr {pods} accept; nft add rule CHAIN ip daddr {pods} accept",
            pods = cluster.pods
        );
        let error =
            Error::new(Kind::Refused, "its packet filter drops what it forwards, and so what pods send")
                .on(name)
                .hint(hint);
        let error = chains.iter().fold(error, |error, chain| error.heard(chain.clone()));
        (!chains.is_empty()).then_some(Misfit { check: "Reach", error, harmless: false })
    };
    joining.iter().filter_map(misfit).collect()
}

/// Who is to blame, and whether for what it sends: the machine that is not reached, but for a newcomer that reaches nobody
/// where others do. Members have shown that they work.
fn blamed<'a>(way: &'a Way, came: &[(Way, End)], joining: &BTreeSet<String>) -> (&'a str, bool) {
    let fails = |end: &End| matches!(end, End::Failed(_));
    let mute = joining.contains(&way.from)
        && came.iter().filter(|(other, _)| other.from == way.from).all(|(_, end)| fails(end));
    let targets: BTreeSet<&str> =
        came.iter().filter(|(other, _)| other.from == way.from).map(|(other, _)| other.to.as_str()).collect();
    let others_reach =
        came.iter().any(|(other, end)| other.to == way.to && other.from != way.from && !fails(end));
    let outbound = !joining.contains(&way.to) || (mute && targets.len() > 1 && others_reach);
    if outbound { (&way.from, true) } else { (&way.to, false) }
}

/// Whether only a worker says that a machine is not reached which has still to join. While no cluster exists everybody is new,
/// and one machine that is unfit stops the run in any case.
fn is_doubted(
    cluster: &Cluster,
    came: &[(Way, End)],
    failed: &[(&Way, &str)],
    joining: &BTreeSet<String>,
    way: &Way,
) -> bool {
    let exists = came.iter().any(|(way, _)| [&way.from, &way.to].iter().any(|end| !joining.contains(*end)));
    let confirms = |other: &Way| {
        is_believed(cluster, other) && (&other.to, other.port, other.udp) == (&way.to, way.port, way.udp)
    };
    exists && blamed(way, came, joining).0 == way.to && !failed.iter().any(|(other, _)| confirms(other))
}

/// What a control plane of the inventory says of a machine that has still to join counts against that machine.
fn is_believed(cluster: &Cluster, way: &Way) -> bool {
    cluster.node(&way.from).is_some_and(Node::is_control_plane)
}

/// Warnings of what only a worker says, one for each pair.
fn doubts(cluster: &Cluster, doubted: &[(&Way, &str)]) -> Vec<Misfit> {
    let mut pairs: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
    for (way, how) in doubted {
        let port = service(cluster, (way.port, way.udp));
        pairs.entry((&way.from, &way.to)).or_default().push(format!("{port}: {how}"));
    }
    let pair = |((from, to), ports): ((&str, &str), Vec<String>)| {
        let error =
            Error::new(Kind::Refused, format!("says that it cannot reach {to}")).on(from).concerning([to]);
        doubt("Reach", error.because(ports.join(", ")), to)
    };
    pairs.into_iter().map(pair).collect()
}

fn doubt(check: &'static str, error: Error, newcomer: &str) -> Misfit {
    let why = format!("no control plane says so, and therefore {newcomer} may join");
    Misfit { check, error: error.because(why), harmless: true }
}

/// The results by port, and the machines at the other end of each.
type Ports<'a> = BTreeMap<(u16, bool), BTreeMap<&'a str, Vec<&'a str>>>;

fn cut_off(
    cluster: &Cluster,
    came: &[(Way, End)],
    failed: &[(&Way, &str)],
    joining: &BTreeSet<String>,
    listening: &BTreeMap<String, Listening>,
) -> Vec<Misfit> {
    let mut groups: BTreeMap<(&str, bool), Ports> = BTreeMap::new();
    for (way, how) in failed {
        let (blamed, outbound) = blamed(way, came, joining);
        let other = if outbound { &way.to } else { &way.from };
        let ports = groups.entry((blamed, outbound)).or_default();
        ports.entry((way.port, way.udp)).or_default().entry(how).or_default().push(other);
    }
    let misfit = |((node, outbound), ports): ((&str, bool), Ports)| {
        let named: Vec<String> = ports.keys().map(|port| service(cluster, *port)).collect();
        let verb = if outbound { "cannot reach others" } else { "cannot be reached" };
        let mut error = Error::new(Kind::Refused, format!("{verb} on {}", named.join(", "))).on(node);
        for (port, ends) in &ports {
            for (how, others) in ends {
                let way = if outbound { "to" } else { "from" };
                error = error.answered(format!("{}: {how}, {way} {}", number(*port), few(others)));
            }
        }
        error = rules(cluster, listening, (node, outbound), &ports).iter().fold(error, Error::answered);
        let at = listening.get(node).filter(|_| !outbound);
        let wall = at.and_then(|at| at.firewall.as_deref());
        let numbers: Vec<String> = ports.keys().map(|port| number(*port)).collect();
        Misfit { check: "Reach", error: error.hint(open(wall, node, &numbers, outbound)), harmless: false }
    };
    groups.into_iter().map(misfit).collect()
}

/// What machines themselves have against it, line by line: the one to blame, and those at the other end if they have
/// something.
fn rules(
    cluster: &Cluster,
    listening: &BTreeMap<String, Listening>,
    (node, outbound): (&str, bool),
    ports: &Ports,
) -> Vec<String> {
    let numbers: Vec<u16> = ports.keys().map(|(port, _)| *port).collect();
    let ends = || ports.values().flatten().filter(|(how, _)| **how != STRANGER);
    let others: BTreeSet<&str> = ends().flat_map(|(_, others)| others.iter().copied()).collect();
    let of = |name: &str, side: Side| {
        let (filter, node) = (&listening.get(name)?.filter, cluster.node(name)?);
        let shown = filter.shown(side, &numbers, node.ip.is_ipv6());
        let title = (!shown.is_empty()).then(|| format!("rules of {name} that may drop or reject this:"));
        let shown = shown.into_iter().map(|rule| format!("{QUOTE}{rule}"));
        Some((title.into_iter().chain(shown).collect::<Vec<String>>(), filter))
    };
    let (here, there) = if outbound { (Side::Out, Side::In) } else { (Side::In, Side::Out) };
    let Some((mut lines, filter)) = of(node, here).filter(|_| ends().next().is_some()) else { return vec![] };
    lines.extend(filter.unread.iter().map(|why| format!("not all rules of {node} could be read: {why}")));
    if filter.read && lines.is_empty() {
        lines.push(format!("no rule of {node} itself drops or rejects this"));
    }
    let theirs = others.into_iter().filter_map(|other| of(other, there)).map(|(lines, _)| lines);
    let theirs: Vec<Vec<String>> = theirs.filter(|lines| !lines.is_empty()).collect();
    let more = theirs.len().saturating_sub(NEAR);
    lines.extend(theirs.into_iter().take(NEAR).flatten());
    lines.extend((more > 0).then(|| format!("… and {more} more have such rules")));
    lines
}

fn number((port, udp): (u16, bool)) -> String {
    format!("{port}/{}", if udp { "udp" } else { "tcp" })
}

fn service(cluster: &Cluster, port: (u16, bool)) -> String {
    let what = match port.0 {
        VXLAN => "pods",
        10250 => "its kubelet",
        2379 | 2380 => "etcd",
        port if port == cluster.api_port() => "the API",
        _ => return number(port),
    };
    format!("{} ({what})", number(port))
}

/// Names, as many as are read.
fn few(names: &[&str]) -> String {
    match names.len() {
        0..=6 => names.join(", "),
        n => format!("{} and {} more", names[..5].join(", "), n - 5),
    }
}

/// What opens these ports.
fn open(firewall: Option<&str>, node: &str, ports: &[String], outbound: bool) -> String {
    match firewall {
        Some("ufw") => {
            let rules: Vec<String> = ports.iter().map(|port| format!("ufw allow {port}")).collect();
            format!("on {node}, where ufw is active: {}", rules.join("; "))
        }
        Some("firewalld") => {
            let rules: Vec<String> = ports.iter().map(|port| format!("--add-port={port}")).collect();
            format!(
                "on {node}, where firewalld is active: firewall-cmd --permanent {}; firewall-cmd --reload",
                rules.join(" ")
            )
        }
        _ => {
            let way = if outbound { "out of" } else { "to" };
            format!(
                "let {} through {way} {node}: `nft list ruleset` there shows its own rules; then see the firewalls, security groups and VLANs in between",
                ports.join(", ")
            )
        }
    }
}

/// Packets as large as the link takes them, which the network between does not carry: what pods send over the overlay
/// would be lost without a word.
fn narrow(cluster: &Cluster, came: &[(Way, End)], joining: &BTreeSet<String>) -> Vec<Misfit> {
    let lost: Vec<(&Way, u32, u32)> = came
        .iter()
        .filter_map(|(way, end)| match end {
            End::Passed { mtu, largest } if largest < mtu => Some((way, *mtu, *largest)),
            _ => None,
        })
        .collect();
    let is_new = |way: &Way| joining.contains(&way.from);
    let confirmed = |to: &str| lost.iter().any(|(way, ..)| way.to == to && is_believed(cluster, way));
    let counts = |way: &Way| is_new(way) || confirmed(&way.to);
    let mut groups: BTreeMap<(&str, u32, u32), Vec<&str>> = BTreeMap::new();
    for (way, mtu, largest) in lost.iter().filter(|(way, ..)| counts(way)) {
        let (node, other) = if is_new(way) { (&way.from, &way.to) } else { (&way.to, &way.from) };
        groups.entry((node, *mtu, *largest)).or_default().push(other);
    }
    let misfit = |((node, mtu, largest), others): ((&str, u32, u32), Vec<&str>)| {
        let error = too_large(mtu, largest, &others).on(node).hint(format!(
            "ip link set dev CARD mtu {largest}, and in the machine's network configuration; or let {mtu} through in between"
        ));
        Misfit { check: "MTU", error, harmless: false }
    };
    let doubtful = lost.iter().filter(|(way, ..)| !counts(way));
    let doubtful = doubtful.map(|(way, mtu, largest)| {
        doubt("MTU", too_large(*mtu, *largest, &[&way.to]).on(&way.from), &way.to)
    });
    groups.into_iter().map(misfit).chain(doubtful).collect()
}

fn too_large(mtu: u32, largest: u32, to: &[&str]) -> Error {
    let what = format!("packets of {mtu} bytes, as its link takes them, get lost on the way to {}", few(to));
    Error::new(Kind::Refused, what)
        .concerning(to.iter().copied())
        .because(format!("of those that were tried, {largest} bytes got through"))
}

fn far(came: &[(Way, End)]) -> Vec<Misfit> {
    let far = |(way, end): &(Way, End)| match end {
        End::Reached { milliseconds } if *milliseconds > FAR && way.port == 2380 => {
            let what = format!("it takes {milliseconds:.0} ms to {} and back", way.to);
            let error = Error::new(Kind::Refused, what).on(&way.from).concerning([way.to.as_str()]);
            let why = "etcd expects a heartbeat every 100 ms: raise heartbeat-interval and election-timeout under [etcd]";
            Some(Misfit { check: "Latency", error: error.because(why), harmless: true })
        }
        _ => None,
    };
    came.iter().filter_map(far).collect()
}
