//! nodes: the programs behind webhooks and aggregated APIs answer. A webhook that must answer, and whose program is gone,
//! refuses requests of the control plane itself: the scheduler cannot bind pods, components cannot renew their Leases. Such a
//! webhook is often left by a program that somebody removed.

use crate::shell::{KUBECTL, Sh};
use crate::step::{Ask, Cx, Verdict, WITH_THE_CLUSTER, Want};

const FUNCTIONS: Sh = Sh::raw(include_str!("../../../templates/webhooks.sh"));

/// The beginning of a line about an aggregated API.
const API: &str = "APIService ";

pub(super) fn wants(cx: &Cx) -> [Want; 2] {
    let waits = cx.cluster.nodes.iter().find_map(|node| cx.fleet.before_ready(&node.name));
    let ask = Ask::api(KUBECTL + FUNCTIONS + "webhooks_away");
    let webhooks = Want::new("nodes.webhooks", "every webhook that must answer has a ready pod")
        .ask(ask.clone())
        .judged(move |answer| {
            let away: String =
                lines(answer).filter(|line| !line.starts_with(API)).map(|line| format!("{line}\n")).collect();
            match &waits {
                _ if away.is_empty() => Verdict::Holds,
                // Its pods may be on that node.
                Some(for_what) => {
                    Verdict::Waits { have: away, want: String::new(), for_what: for_what.clone() }
                }
                None => Verdict::Differs { have: away, want: String::new() },
            }
        })
        .run(KUBECTL + FUNCTIONS + "webhooks_answer")
        .eventually()
        .nothing_to_undo(WITH_THE_CLUSTER);
    let apis = Want::new("nodes.aggregated-apis", "whether aggregated APIs are available").ask(ask).judged(|answer| {
        let away: Vec<&str> = lines(answer).filter_map(|line| line.strip_prefix(API)).collect();
        match away.is_empty() {
            true => Verdict::Holds,
            false => Verdict::Noted(format!(
                "these APIServices are not available, so a deleted namespace may stay in Terminating: {}; restore their \
                 Services, or run kubectl delete apiservice NAME",
                away.join("; ")
            )),
        }
    });
    [webhooks, apis]
}

fn lines(answer: &str) -> impl Iterator<Item = &str> {
    answer.lines().filter(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_without_pods_differs_an_api_is_noted() {
        let cluster = crate::pki::tests::cluster();
        let pki = crate::pki::ClusterPki::make(&cluster, crate::pki::tests::NOW).unwrap();
        let (machine, fleet) = (crate::machine::Machine::default(), crate::fleet::Fleet::default());
        let node = &cluster.nodes[0];
        let cx = Cx {
            cluster: &cluster,
            node,
            pki: &pki,
            now: crate::pki::tests::NOW,
            machine: &machine,
            fleet: &fleet,
        };
        let [webhooks, apis] = wants(&cx).map(|want| match want.expect {
            crate::step::Expect::Judged(judge) => judge,
            _ => panic!(),
        });
        let (gone, api) =
            ("ValidatingWebhookConfiguration x: a.b must answer\n", "APIService v1.x \"no such service\"\n");
        let both = format!("{api}{gone}");
        assert_eq!((webhooks(""), apis("")), (Verdict::Holds, Verdict::Holds));
        assert_eq!(webhooks(&both), Verdict::Differs { have: gone.into(), want: String::new() });
        assert_eq!((webhooks(api), apis(gone)), (Verdict::Holds, Verdict::Holds));
        let Verdict::Noted(words) = apis(&both) else { panic!() };
        assert!(words.contains("Terminating: v1.x \"no such service\";"), "{words}");
    }
}
