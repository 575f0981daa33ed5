//! flannel: everything that flannel makes on each node is there, and containerd uses it. flannel checks its own work when it
//! starts, and hardly ever later. If somebody removes a part of it later, that part stays away until flannel restarts.

use crate::cluster::Network;
use crate::error::Result;
use crate::shell::{DAEMONS, FLANNEL, LINKS, PACKETS, PODS, POLICY_RULES, sh};
use crate::step::{Ask, Cx, Step, Verdict, WITH_THE_MEMBER, Want};
use crate::steps::packets;

pub const STEP: Step =
    Step { name: "flannel", why: "pods of different nodes reach each other through flannel", wants };

fn wants(cx: &Cx) -> Result<Vec<Want>> {
    if !matches!(cx.cluster.network, Network::Flannel(_)) {
        return Ok(vec![]);
    }
    let is_member = cx.machine.is_member();
    let (node, ip, pods) = (&cx.node.name, cx.node.ip.to_string(), cx.cluster.pods.to_string());
    Ok(vec![
        Want::new("flannel.interface", "flannel's interface and routes are as flannel set them up")
            .ask(Ask::api(sh!(
                "{PODS}{DAEMONS}{PACKETS}{FLANNEL}flannel_drift {ip} {pods} {service}",
                PODS,
                DAEMONS,
                PACKETS,
                FLANNEL,
                ip,
                pods,
                service = cx.cluster.service_ip(1).to_string()
            )))
            .judged(|answer| match packets::but_lacking(answer) {
                faults if faults.is_empty() => Verdict::Holds,
                faults => packets::restartable(answer, faults, String::new()),
            })
            .run(sh!(
                "{PODS}{DAEMONS}{FLANNEL}flannel_again {node} {ip} {pods}",
                PODS,
                DAEMONS,
                FLANNEL,
                node,
                ip,
                pods
            ))
            .only(is_member)
            .nothing_to_undo(WITH_THE_MEMBER),
        first(cx).only(is_member).nothing_to_undo(WITH_THE_MEMBER),
        links().only(is_member).nothing_to_undo(WITH_THE_MEMBER),
        rules(cx).only(is_member).nothing_to_undo(WITH_THE_MEMBER),
    ])
}

/// The want that each pod's link to the bridge is as the CNI plugin made it. Nobody repairs one that changes later.
fn links() -> Want {
    Want::new("flannel.links", "the pods of this node are connected to the bridge cni0")
        .ask(LINKS + "link_drift")
        .judged(|answer| match answer {
            "" => Verdict::Holds,
            faults => Verdict::Differs { have: faults.into(), want: String::new() },
        })
        .run(PODS + LINKS + "links_again")
}

/// The want that the kernel gives packets of pods the routes that flannel made, whatever policy rules the machine has. Such a
/// rule belongs to a human or to another program, so ironstrap does not delete it.
fn rules(cx: &Cx) -> Want {
    let (pods, services) = (cx.cluster.pods.to_string(), cx.cluster.services.to_string());
    Want::new("flannel.rules", "no policy rule diverts packets of pods")
        .ask(FLANNEL + POLICY_RULES + sh!("rule_faults {pods} {services}", pods, services))
        .judged(|answer| match answer {
            "" => Verdict::Holds,
            faults => Verdict::Differs { have: faults.into(), want: String::new() },
        })
        .by_hand(format!(
            "delete the policy rule that diverts packets of pods with ip rule delete pref NUMBER, where NUMBER comes before its \
             colon; or add a rule with a lower number that sends them to the main table, such as ip rule add pref NUMBER to \
             {pods} lookup main"
        ))
}

/// The want that containerd uses flannel's configuration. containerd takes the first configuration by name (go-cni,
/// `loadFromConfDir`). Networks that build on flannel, such as Multus, come first on purpose and name it. On a new node
/// flannel writes its own configuration only later. So the question counts flannel's file even before it exists.
fn first(cx: &Cx) -> Want {
    let ignored = cx.cluster.ignores("Leftovers");
    Want::new("flannel.first", "containerd uses flannel's CNI configuration")
        .ask(FIRST)
        .judged(move |answer| match answer.split_once(' ') {
            None => Verdict::Holds,
            Some((how, file)) if how == "flannel" || ignored => Verdict::Noted(format!(
                "containerd uses {file}, which comes before flannel's 10-flannel.conflist"
            )),
            Some((_, file)) => {
                let have = format!("{file} comes first and does not mention flannel");
                Verdict::Differs { have, want: "10-flannel.conflist comes first".into() }
            }
        })
        .by_hand(
            "move that file out of /etc/cni/net.d, because new pods of this node get another network, and delete the pods that \
             started while it was there; or keep it: ignore-preflight = [\"Leftovers\"] in [cluster]",
        )
}

const FIRST: &str = r#"first=$(for f in /etc/cni/net.d/*.conf /etc/cni/net.d/*.conflist /etc/cni/net.d/*.json; do [ ! -e "$f" ] || echo "$f"; done |
  { cat; echo /etc/cni/net.d/10-flannel.conflist; } | LC_ALL=C sort | head -n 1)
case $first in
*/10-flannel.conflist) ;;
*) if grep -q flannel "$first"; then echo "flannel $first"; else echo "other $first"; fi ;;
esac"#;
