//! Judges the results of probes. One firewall makes one error, not one error for each machine that it blocks.

use std::collections::{BTreeMap, BTreeSet};

use super::rules::Side;
use super::{Listening, Probe, ProbeResult, REFUSED, STRANGER, VXLAN};
use crate::cluster::{Cluster, Network, Node};
use crate::error::{Error, Kind, QUOTE, count};
use crate::fleet::identity::Finding;

/// A round trip that is long for etcd, in milliseconds. etcd's heartbeat is 100 ms, and a round trip of half of that leaves
/// little time.
const FAR: f64 = 50.0;
/// An error also shows the packet filter rules of up to this many machines at the other end.
const NEAR: usize = 2;

/// Turns the results of probes into findings. `listening`: what machines report about themselves, and so about their
/// firewalls.
pub fn judge(
    cluster: &Cluster,
    came: &[(Probe, ProbeResult)],
    joining: &BTreeSet<String>,
    listening: &BTreeMap<String, Listening>,
) -> Vec<Finding> {
    // A member that refuses a connection can be reached. This run may be about to repair the program that should listen
    // there.
    let away = |probe: &Probe, how: &str| how == REFUSED && !joining.contains(&probe.to);
    let failed: Vec<(&Probe, &str)> = came
        .iter()
        .filter_map(
            |(probe, end)| {
                if let ProbeResult::Failed(how) = end { Some((probe, how.as_str())) } else { None }
            },
        )
        .filter(|(probe, how)| !away(probe, how))
        .collect();
    let (doubted, failed): (Vec<_>, Vec<_>) =
        failed.iter().partition(|(probe, _)| is_doubted(cluster, came, &failed, joining, probe));
    let mut found = unreachable(cluster, came, &failed, joining, listening);
    found.extend(doubts(cluster, &doubted));
    found.extend(mtu(cluster, came, joining));
    found.extend(latency(came));
    found.extend(closed(cluster, joining, listening));
    found
}

/// Findings for joining machines whose packet filter drops the packets of pods. The ports of such a machine are open, but
/// its pods reach nothing.
fn closed(
    cluster: &Cluster,
    joining: &BTreeSet<String>,
    listening: &BTreeMap<String, Listening>,
) -> Vec<Finding> {
    let finding = |name: &String| {
        let node = cluster.node(name).filter(|_| matches!(cluster.network, Network::Flannel(_)))?;
        let chains = listening.get(name)?.filter.shown(Side::Forward, &[], node.ip.is_ipv6());
        let hint = format!(
            "accept packets from and to {pods} in these chains, and add that to the saved rules of the firewall: \
             nft add rule CHAIN ip saddr {pods} accept; nft add rule CHAIN ip daddr {pods} accept",
            pods = cluster.pods
        );
        let error =
            Error::new(Kind::Refused, "the packet filter drops all forwarded packets, also those of pods")
                .on(name)
                .hint(hint);
        let error = chains.iter().fold(error, |error, chain| error.quoting(chain.clone()));
        (!chains.is_empty()).then_some(Finding { check: "Reach", error, harmless: false })
    };
    joining.iter().filter_map(finding).collect()
}

/// The machine to blame for a failed probe, and whether the fault is in what it sends. Usually it is the machine that was
/// not reached. It is the sender if a joining machine reaches none of several machines, and others reach this one. It is
/// also the sender if the other machine is a member, because members have shown that they work.
fn culprit<'a>(
    probe: &'a Probe,
    came: &[(Probe, ProbeResult)],
    joining: &BTreeSet<String>,
) -> (&'a str, bool) {
    let fails = |end: &ProbeResult| matches!(end, ProbeResult::Failed(_));
    let mute = joining.contains(&probe.from)
        && came.iter().filter(|(other, _)| other.from == probe.from).all(|(_, end)| fails(end));
    let targets: BTreeSet<&str> = came
        .iter()
        .filter(|(other, _)| other.from == probe.from)
        .map(|(other, _)| other.to.as_str())
        .collect();
    let others_reach =
        came.iter().any(|(other, end)| other.to == probe.to && other.from != probe.from && !fails(end));
    let outbound = !joining.contains(&probe.to) || (mute && targets.len() > 1 && others_reach);
    if outbound { (&probe.from, true) } else { (&probe.to, false) }
}

/// Whether only workers report that a joining machine is not reached. While no cluster exists, every machine is joining,
/// and nothing is in doubt: one unfit machine stops the run in any case.
fn is_doubted(
    cluster: &Cluster,
    came: &[(Probe, ProbeResult)],
    failed: &[(&Probe, &str)],
    joining: &BTreeSet<String>,
    probe: &Probe,
) -> bool {
    let exists =
        came.iter().any(|(probe, _)| [&probe.from, &probe.to].iter().any(|end| !joining.contains(*end)));
    let confirms = |other: &Probe| {
        is_believed(cluster, other)
            && (&other.to, other.port, other.udp) == (&probe.to, probe.port, probe.udp)
    };
    exists && culprit(probe, came, joining).0 == probe.to && !failed.iter().any(|(other, _)| confirms(other))
}

/// Whether this probe counts against a joining machine at the other end. It does if a control plane of the inventory sent
/// it.
fn is_believed(cluster: &Cluster, probe: &Probe) -> bool {
    cluster.node(&probe.from).is_some_and(Node::is_control_plane)
}

/// Warnings for failures that only a worker reports, one for each pair of machines.
fn doubts(cluster: &Cluster, doubted: &[(&Probe, &str)]) -> Vec<Finding> {
    let mut pairs: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
    for (probe, how) in doubted {
        let port = service(cluster, (probe.port, probe.udp));
        pairs.entry((&probe.from, &probe.to)).or_default().push(format!("{port}: {how}"));
    }
    let pair = |((from, to), ports): ((&str, &str), Vec<String>)| {
        let error =
            Error::new(Kind::Refused, format!("reports that it cannot reach {to}")).on(from).concerning([to]);
        doubt("Reach", error.because(ports.join(", ")), to)
    };
    pairs.into_iter().map(pair).collect()
}

fn doubt(check: &'static str, error: Error, newcomer: &str) -> Finding {
    let why = format!("no control plane reports this, so {newcomer} may join");
    Finding { check, error: error.because(why), harmless: true }
}

/// The failed probes of one machine by port and result, with the machines at the other end of each.
type Ports<'a> = BTreeMap<(u16, bool), BTreeMap<&'a str, Vec<&'a str>>>;

fn unreachable(
    cluster: &Cluster,
    came: &[(Probe, ProbeResult)],
    failed: &[(&Probe, &str)],
    joining: &BTreeSet<String>,
    listening: &BTreeMap<String, Listening>,
) -> Vec<Finding> {
    let mut groups: BTreeMap<(&str, bool), Ports> = BTreeMap::new();
    for (probe, how) in failed {
        let (at_fault, outbound) = culprit(probe, came, joining);
        let other = if outbound { &probe.to } else { &probe.from };
        let ports = groups.entry((at_fault, outbound)).or_default();
        ports.entry((probe.port, probe.udp)).or_default().entry(how).or_default().push(other);
    }
    let finding = |((node, outbound), ports): ((&str, bool), Ports)| {
        let named: Vec<String> = ports.keys().map(|port| service(cluster, *port)).collect();
        let verb = if outbound { "cannot reach other machines" } else { "cannot be reached" };
        let mut error = Error::new(Kind::Refused, format!("{verb} on {}", named.join(", "))).on(node);
        for (port, ends) in &ports {
            for (how, others) in ends {
                let probe = if outbound { "to" } else { "from" };
                error = error.answered(format!("{}: {how}, {probe} {}", number(*port), few(others)));
            }
        }
        error = rules(cluster, listening, (node, outbound), &ports).iter().fold(error, Error::answered);
        let at = listening.get(node).filter(|_| !outbound);
        let wall = at.and_then(|at| at.firewall.as_deref());
        let numbers: Vec<String> = ports.keys().map(|port| number(*port)).collect();
        let is_other = ports.values().all(|ends| ends.keys().all(|how| *how == STRANGER));
        let hint = match is_other {
            true => {
                let others: BTreeSet<&str> =
                    ports.values().flat_map(|ends| ends.values()).flatten().copied().collect();
                let asked = if outbound { few(&Vec::from_iter(others)) } else { node.to_string() };
                format!(
                    "find the host that has the address of {asked}, or the proxy or NAT rule that redirects {}",
                    numbers.join(", ")
                )
            }
            false => open(wall, node, &numbers, outbound),
        };
        Finding { check: "Reach", error: error.hint(hint), harmless: false }
    };
    groups.into_iter().map(finding).collect()
}

/// The packet filter rules that may block these ports, line by line. They are of the machine to blame, and of machines at
/// the other end that have such rules.
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
    lines.extend((more > 0).then(|| format!("… and {} with such rules", count(more, "more machine"))));
    lines
}

fn number((port, udp): (u16, bool)) -> String {
    format!("{port}/{}", if udp { "udp" } else { "tcp" })
}

fn service(cluster: &Cluster, port: (u16, bool)) -> String {
    let what = match port.0 {
        VXLAN => "pods",
        10250 => "kubelet",
        2379 | 2380 => "etcd",
        port if port == cluster.api_port() => "the API",
        _ => return number(port),
    };
    format!("{} ({what})", number(port))
}

/// A list of names, shortened if there are more than people read.
fn few(names: &[&str]) -> String {
    match names.len() {
        0..=6 => names.join(", "),
        n => format!("{} and {} more", names[..5].join(", "), n - 5),
    }
}

/// The hint that says how to open these ports.
fn open(firewall: Option<&str>, node: &str, ports: &[String], outbound: bool) -> String {
    match firewall {
        Some("ufw") => {
            let rules: Vec<String> = ports.iter().map(|port| format!("ufw allow {port}")).collect();
            format!("open the ports on {node}, where ufw is active: {}", rules.join("; "))
        }
        Some("firewalld") => {
            let rules: Vec<String> = ports.iter().map(|port| format!("--add-port={port}")).collect();
            format!(
                "open the ports on {node}, where firewalld is active: firewall-cmd --permanent {}; firewall-cmd --reload",
                rules.join(" ")
            )
        }
        _ => {
            let probe = if outbound { "from" } else { "to" };
            format!(
                "allow {} {probe} {node}: check its own rules with `nft list ruleset`, then the firewalls, security groups and VLANs in between",
                ports.join(", ")
            )
        }
    }
}

/// Findings for a network between machines that loses packets as large as the link takes them. Such a network would lose
/// what pods send over the overlay, without any message.
fn mtu(cluster: &Cluster, came: &[(Probe, ProbeResult)], joining: &BTreeSet<String>) -> Vec<Finding> {
    let lost: Vec<(&Probe, u32, u32)> = came
        .iter()
        .filter_map(|(probe, end)| match end {
            ProbeResult::Passed { mtu, largest } if largest < mtu => Some((probe, *mtu, *largest)),
            _ => None,
        })
        .collect();
    let is_new = |probe: &Probe| joining.contains(&probe.from);
    let confirmed = |to: &str| lost.iter().any(|(probe, ..)| probe.to == to && is_believed(cluster, probe));
    let counts = |probe: &Probe| is_new(probe) || confirmed(&probe.to);
    let mut groups: BTreeMap<(&str, u32, u32), Vec<&str>> = BTreeMap::new();
    for (probe, mtu, largest) in lost.iter().filter(|(probe, ..)| counts(probe)) {
        let (node, other) = if is_new(probe) { (&probe.from, &probe.to) } else { (&probe.to, &probe.from) };
        groups.entry((node, *mtu, *largest)).or_default().push(other);
    }
    let finding = |((node, mtu, largest), others): ((&str, u32, u32), Vec<&str>)| {
        let error = too_large(mtu, largest, &others).on(node).hint(format!(
            "set the MTU to {largest} (ip link set dev CARD mtu {largest}, and in the machine's network configuration), or let packets of {mtu} bytes through in between"
        ));
        Finding { check: "MTU", error, harmless: false }
    };
    let doubtful = lost.iter().filter(|(probe, ..)| !counts(probe));
    let doubtful = doubtful.map(|(probe, mtu, largest)| {
        doubt("MTU", too_large(*mtu, *largest, &[&probe.to]).on(&probe.from), &probe.to)
    });
    groups.into_iter().map(finding).chain(doubtful).collect()
}

fn too_large(mtu: u32, largest: u32, to: &[&str]) -> Error {
    let what = format!("packets of {mtu} bytes, the MTU of its link, are lost on the way to {}", few(to));
    Error::new(Kind::Refused, what)
        .concerning(to.iter().copied())
        .because(format!("the largest packet that got through had {largest} bytes"))
}

fn latency(came: &[(Probe, ProbeResult)]) -> Vec<Finding> {
    let far = |(probe, end): &(Probe, ProbeResult)| match end {
        ProbeResult::Reached { milliseconds } if *milliseconds > FAR && probe.port == 2380 => {
            let what = format!("the round trip to {} takes {milliseconds:.0} ms", probe.to);
            let error = Error::new(Kind::Refused, what).on(&probe.from).concerning([probe.to.as_str()]);
            let why = "etcd expects a heartbeat every 100 ms: raise heartbeat-interval and election-timeout under [etcd]";
            Some(Finding { check: "Latency", error: error.because(why), harmless: true })
        }
        _ => None,
    };
    came.iter().filter_map(far).collect()
}
