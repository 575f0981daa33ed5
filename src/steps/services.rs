//! services: the rules that lead the addresses of Services to pods are in place. kube-proxy writes these rules when something
//! changes. It does not notice that somebody deleted them.

use super::packets;
use crate::cluster::Network;
use crate::error::Result;
use crate::shell::{DAEMONS, PACKETS, PODS, sh};
use crate::step::{Cx, Step, Verdict, WITH_THE_MEMBER, Want};

pub const STEP: Step =
    Step { name: "services", why: "pods find each other by the addresses of Services", wants };

fn wants(cx: &Cx) -> Result<Vec<Want>> {
    if !cx.cluster.has_addon("proxy") {
        return Ok(vec![]);
    }
    let address = cx.cluster.service_ip(1).to_string();
    let have = format!("{address}: no answer, but the API server answers at its own address");
    Ok(vec![
        routes(cx).only(cx.machine.is_member()).nothing_to_undo(WITH_THE_MEMBER),
        Want::new("services.rules", "kube-proxy's rules are in place")
            .ask(packets::ask(cx.cluster, cx.node))
            .judged(move |answer| {
                let runs = answer.lines().any(|line| line == packets::PROXY);
                match packets::state(answer, "service") {
                    Some("silent" | "refused") if runs && packets::server_answers(answer) => {
                        packets::restartable(answer, have.clone(), "the API's Service answers".into())
                    }
                    // Either the Service answers, or nothing is known about the rules and `packets` says so.
                    _ => Verdict::Holds,
                }
            })
            .run(sh!(
                "{PODS}{DAEMONS}{PACKETS}proxy_again {node} {address} 443",
                PODS,
                DAEMONS,
                PACKETS,
                node = cx.node.name,
                address
            ))
            .only(cx.machine.is_member())
            .nothing_to_undo(WITH_THE_MEMBER),
    ])
}

/// The want that no route refuses packets to a part of the Services' range. A packet of the machine itself gets a route before
/// kube-proxy's rules give it the address of a pod, so such a route cuts off kubelets, flannel and the API server. Another network
/// may have such routes on purpose (Calico, for addresses that it announces). The kernel says whether a better route is used instead.
fn routes(cx: &Cx) -> Want {
    let own = !matches!(cx.cluster.network, Network::Manifests(_)) && cx.cluster.services.addr().is_ipv4();
    let refusing = sh!(
        "refusing() {\n  ip -4 route show root {services} | sed -n -E 's/ +$//; /^(blackhole|unreachable|prohibit|throw) /p' |\n\
         while read -r type to rest; do\n    ip -4 route get \"${to%/*}\" >/dev/null 2>&1 || echo \"$type $to${rest:+ $rest}\"\n  done\n}\n",
        services = cx.cluster.services.to_string()
    );
    Want::new("services.routes", "no route rejects packets to Services")
        .ask(refusing.clone() + "refusing\n")
        .is("")
        .run(refusing + "refusing | while read -r route; do ip -4 route delete $route; done\n")
        .only(own)
}
