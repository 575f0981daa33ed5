//! hosts: every node resolves the endpoint's name and the nodes' names, without a DNS server of ironstrap's.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::cluster::Cluster;
use crate::error::Result;
use crate::shell::{Sh, sh};
use crate::step::{Cx, Step, Verdict, Want};

pub const STEP: Step = Step {
    name: "hosts",
    why: "every node must resolve the API and the other nodes by name, even without DNS",
    wants,
};

const CLOUD: Sh = Sh::raw(include_str!("../../templates/cloud-hosts.sh"));

fn wants(cx: &Cx) -> Result<Vec<Want>> {
    let lines = lines(cx.cluster);
    let mark = mark(cx.cluster);
    let at_boot = at_boot(&lines, &mark);
    let (there, gone) = (mark.clone(), mark);
    let endpoint = &cx.cluster.endpoint;
    let name = (endpoint.managed && endpoint.host.parse::<IpAddr>().is_err()).then(|| endpoint.host.clone());
    let planes: Vec<IpAddr> = cx.cluster.control_planes().map(|node| node.ip).collect();
    let now = Want::edit(
        "hosts.file",
        "the cluster's names are in /etc/hosts",
        "/etc/hosts",
        move |hosts| edit(&comment_out(hosts, name.as_deref(), &planes, &there), &lines, &there),
        move |hosts| bring_back(&edit(hosts, &[], &gone)),
    );
    Ok(vec![now, at_boot, leads(cx)])
}

/// The want that the endpoint's name leads to the control planes. It asks for the effect. Another source of names may come
/// before /etc/hosts, or the system may not read that file at all (nsswitch.conf(5)).
fn leads(cx: &Cx) -> Want {
    let endpoint = &cx.cluster.endpoint;
    let planes: Vec<IpAddr> = cx.cluster.control_planes().map(|node| node.ip).collect();
    let ask = sh!("timeout 5 getent ahosts {host} || :\n", host = &endpoint.host);
    let script = sh!("found=$({ask})\n{LEADS_NOT}", ask = ask.clone(), LEADS_NOT);
    Want::new("hosts.endpoint", "the endpoint's name resolves to the control planes")
        .ask(ask)
        .judged(move |answer| led_to(answer, &planes))
        .run(script)
        .nothing_to_undo("it is checked, not changed")
        .only(endpoint.managed && cx.machine.is_member())
}

/// Judges which addresses the endpoint's name leads to. `answer`: the output of getent, an address with its kind of socket on
/// each line.
fn led_to(answer: &str, planes: &[IpAddr]) -> Verdict {
    let stream = |line: &str| {
        let mut words = line.split_whitespace();
        let address = words.next()?.to_string();
        (words.next() == Some("STREAM")).then_some(address)
    };
    let found: BTreeSet<String> = answer.lines().filter_map(stream).collect();
    let ours = |address: &String| address.parse().is_ok_and(|ip| planes.contains(&ip));
    if !found.is_empty() && found.iter().all(ours) {
        return Verdict::Holds;
    }
    let lines = |all: Vec<String>| all.concat();
    Verdict::Differs {
        have: lines(found.iter().map(|address| format!("{address}\n")).collect()),
        want: lines(planes.iter().map(|ip| format!("{ip}\n")).collect()),
    }
}

/// Shell that says why the name leads elsewhere. It succeeds if an earlier fix has repaired the name: then /etc/hosts has
/// every address that was found.
const LEADS_NOT: Sh = Sh::raw(
    r#"found=$(printf '%s\n' "$found" | awk '$2 == "STREAM" { print $1 }' | sort -u)
others=$found
for address in $found; do
  grep -qF -- "$address " /etc/hosts || { others=; break; }
done
[ -z "$others" ] || exit 0
echo "reason: the name resolves to ${found:-nothing}, and /etc/nsswitch.conf has $(grep '^hosts:' /etc/nsswitch.conf)" | xargs
echo 'by hand: names'
exit 1
"#,
);

/// The want that cloud-init keeps the cluster's names. cloud-init may replace the whole file /etc/hosts at each boot. A
/// kubelet would then not find the API by its name.
fn at_boot(lines: &[String], mark: &str) -> Want {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    Want::new("hosts.cloud-init", "cloud-init keeps the cluster's names in /etc/hosts")
        .ask(sh!("{CLOUD}cloud_hosts_say {mark}\n", CLOUD, mark))
        .judged(move |answer| match answer.trim_end() == text.trim_end() {
            true => Verdict::Holds,
            false => Verdict::Differs { have: answer.into(), want: text.clone() },
        })
        .run(sh!("{CLOUD}cloud_hosts_put {mark} {lines}\n", CLOUD, mark, lines = Sh::words(lines)))
        .nothing_to_undo("the file that it edits is kept by itself, and comes back")
}

/// The end of each line that ironstrap writes. Every other line is somebody else's.
fn mark(cluster: &Cluster) -> String {
    format!("# ironstrap: {}", cluster.name)
}

/// The lines for /etc/hosts. If ironstrap manages the endpoint's name, each control plane has a line with that name. Clients
/// try these lines in turn, so that no load balancer is needed. After them, each node has a line with its own name.
fn lines(cluster: &Cluster) -> Vec<String> {
    let mark = mark(cluster);
    let endpoint = cluster.control_planes().filter(|_| cluster.endpoint.managed);
    let endpoint = endpoint.map(|node| format!("{} {}", node.ip, cluster.endpoint.host));
    let nodes = cluster.nodes.iter().map(|node| format!("{} {}", node.ip, node.name));
    endpoint.chain(nodes).map(|line| line + " " + &mark).collect()
}

const OUT: &str = "# ironstrap: ";

/// Comments out lines of others that give the endpoint's name another address. Programs try the addresses in the order of the
/// lines.
fn comment_out(hosts: &str, name: Option<&str>, planes: &[IpAddr], mark: &str) -> String {
    let Some(name) = name else { return hosts.to_string() };
    let theirs = |line: &str| {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let right = words.next().is_none_or(|word| word.parse().is_ok_and(|ip| planes.contains(&ip)));
        !line.trim_end().ends_with(mark) && !right && words.any(|word| word.eq_ignore_ascii_case(name))
    };
    let line = |line: &str| if theirs(line) { format!("{OUT}{line}") } else { line.to_string() };
    hosts.split_inclusive('\n').map(line).collect()
}

fn bring_back(hosts: &str) -> String {
    hosts.split_inclusive('\n').map(|line| line.strip_prefix(OUT).unwrap_or(line)).collect()
}

/// Replaces ironstrap's present lines with `lines`, which are the right ones.
fn edit(hosts: &str, lines: &[String], mark: &str) -> String {
    let ours = |line: &&str| line.trim_end().ends_with(mark);
    let present: Vec<&str> = hosts.lines().filter(ours).map(str::trim_end).collect();
    if present == lines {
        return hosts.to_string();
    }
    let mut text: String = hosts.split_inclusive('\n').filter(|line| !ours(line)).collect();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text + &lines.iter().map(|line| format!("{line}\n")).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_other_addresses_is_reported() {
        let planes = ["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()];
        let says = |answer: &str| match led_to(answer, &planes) {
            Verdict::Holds => "right".to_string(),
            Verdict::Differs { have, .. } => have,
            verdict => panic!("{verdict:?}"),
        };
        let line = |ip: &str| {
            format!("{ip}        STREAM api.demo.internal\n{ip}        DGRAM  \n{ip}        RAW    \n")
        };
        assert_eq!(says(&line("10.0.0.2")), "right");
        assert_eq!(says(&[line("10.0.0.1"), line("10.9.9.9")].concat()), "10.0.0.1\n10.9.9.9\n");
        assert_eq!(says(""), "");
    }

    #[test]
    fn other_lines_with_the_endpoints_name_are_commented_out() {
        let mark = "# ironstrap: demo";
        let planes = ["10.0.0.1".parse().unwrap()];
        let out = |text: &str| comment_out(text, Some("api.demo.internal"), &planes, mark);
        let before = "10.0.0.1 api.demo.internal\n10.9.9.9 x API.demo.internal # old\n10.0.0.1 api.demo.internal # ironstrap: demo\n# 10.9.9.8 api.demo.internal\n";
        let after = out(before);
        assert!(after.contains("\n# ironstrap: 10.9.9.9 x "), "{after}");
        assert_eq!(after.matches(OUT).count(), 2, "{after}");
        assert_eq!(out(&after), after, "a second edit changes nothing");
        assert_eq!(bring_back(&after), before);
        assert_eq!(comment_out(before, None, &planes, mark), before, "ironstrap does not manage the name");
    }

    #[test]
    fn only_our_lines_are_replaced() {
        let lines = vec!["10.0.0.1 m1 # ironstrap: demo".to_string()];
        let edit = |text: &str| edit(text, &lines, "# ironstrap: demo");
        assert_eq!(edit("127.0.0.1 localhost"), "127.0.0.1 localhost\n10.0.0.1 m1 # ironstrap: demo\n");
        let old = "127.0.0.1 localhost\n10.0.0.9 m1 # ironstrap: demo\n10.0.0.7 x # ironstrap: demo2\n";
        let new = "127.0.0.1 localhost\n10.0.0.7 x # ironstrap: demo2\n10.0.0.1 m1 # ironstrap: demo\n";
        assert_eq!(edit(old), new);
        assert_eq!(edit(new), new, "a second edit changes nothing");
        let back = super::edit(new, &[], "# ironstrap: demo");
        assert_eq!(back, "127.0.0.1 localhost\n10.0.0.7 x # ironstrap: demo2\n");
    }
}
