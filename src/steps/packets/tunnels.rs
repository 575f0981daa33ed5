//! The ends of flannel's tunnels on other nodes. Each node asks them, because no control plane sees the tunnel between two
//! workers.

use super::{asked, asking, differs, sample, state, waiting};
use crate::cluster::{Cluster, Network, Node};
use crate::fleet::Blocked;
use crate::shell::{Sh, sh};
use crate::step::{Cx, Verdict, Want};

/// The wants that the end of each tunnel answers.
pub(super) fn wants(cx: &Cx) -> Vec<Want> {
    asked_of(cx.cluster, cx.node).map(|other| want(cx, other).only(cx.machine.is_member())).collect()
}

/// Shell that adds the ends of the tunnels to the questions. It asks the kubelet's port, because a firewall there must let the API
/// server through to it. A machine that refuses the connection has answered. A kubelet gets a packet of full size, too.
pub(super) fn ends(cluster: &Cluster, node: &Node) -> Sh {
    let mut ends = Sh::EMPTY;
    for other in asked_of(cluster, node) {
        ends += sh!(
            " {name} {ip} {port}",
            name = other.name,
            ip = other.ip.to_string(),
            port = format!("large:{}", cluster.kubelet_port(other))
        );
    }
    if ends.is_empty() {
        return ends;
    }
    sh!(
        "tunnels=$(tunnels_to{ends})\n\
         printf '%s\\n' \"$tunnels\" | grep ' absent$' || :\n\
         set -- \"$@\" $(printf '%s\\n' \"$tunnels\" | grep -v ' absent$')\n",
        ends
    )
}

/// The other nodes whose end of the tunnel a node asks. They are those whose pods control planes ask, too. With IPv6, flannel has
/// another interface, which ironstrap does not ask.
pub fn asked_of<'a>(cluster: &'a Cluster, node: &'a Node) -> impl Iterator<Item = &'a Node> {
    let has = matches!(cluster.network, Network::Flannel(_)) && cluster.pods.addr().is_ipv4();
    sample(cluster).filter(move |other| has && other.name != node.name)
}

/// The nodes that answered at the end of the tunnel to them.
pub fn answered(answer: &str) -> impl Iterator<Item = &str> {
    answer.lines().filter_map(|line| {
        let (node, how) = line.strip_prefix("tunnel:")?.split_once(' ')?;
        matches!(how, "reached" | "refused" | "partly").then_some(node)
    })
}

/// The want that one node answers at the end of its tunnel. A firewall there may drop packets to the machine itself and let those to
/// pods through. So a silent machine is a fault only if it answers another node.
fn want(cx: &Cx, other: &Node) -> Want {
    let (name, waits) = (other.name.clone(), cx.fleet.before_ready(&other.name));
    let answers_others = cx.fleet.tunnels.contains(&name);
    // Something changed since this machine answered. A want that waits makes ironstrap ask the machine again.
    let (me, stale) = (cx.node.name.clone(), cx.fleet.stale.contains(&cx.node.name));
    let (question, port) = (format!("tunnel:{name}"), cx.cluster.kubelet_port(other));
    let what = format!("flannel.1 of {name}, asked from this node");
    let want = asked(
        cx,
        "connectivity.tunnel",
        format!("{name} answers through flannel's tunnel"),
        &question.clone(),
        &["reached", "refused"],
        move |answer| match (state(answer, &question), &waits) {
            (Some("absent" | "silent" | "partly"), _) if stale => Verdict::Waits {
                have: String::new(),
                want: String::new(),
                for_what: Blocked::until_asked_again(&me),
            },
            (Some("partly"), waits) => waiting(partly(&name), waits.as_ref()),
            // While nobody reaches that machine, other wants say what it lacks.
            (Some("absent"), None) if answers_others => Verdict::Differs {
                have: format!("flannel.1 has no entries for the pods of {name}"),
                want: format!("a neighbour and a forwarding entry for {name}"),
            },
            (Some("silent"), waits) if answers_others => waiting(differs(&what, "silent"), waits.as_ref()),
            (Some("silent"), None) => Verdict::Unchecked(format!(
                "{name} answers no node through its tunnel: a firewall there may drop packets to port {port} of flannel.1"
            )),
            _ => Verdict::Holds,
        },
    );
    let again = sh!("tunnel_again {node} {name}", node = cx.node.name, name = other.name);
    want.run(asking(cx) + again).of(&other.name).about([cx.node.name.clone(), other.name.clone()])
}

/// The verdict on a tunnel that carries small packets and loses large ones.
fn partly(name: &str) -> Verdict {
    Verdict::Differs {
        have: format!("small packets reach {name} through flannel's tunnel, but large ones do not"),
        want: "packets of any size that the MTU of flannel.1 allows".into(),
    }
}
