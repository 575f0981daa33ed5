//! The want that the API's Service leads to API servers alone.

use crate::shell::{Sh, kubectl, sh};
use crate::step::{Ask, Cx, Verdict, WITH_THE_CLUSTER, Want};

/// The want that no EndpointSlice of the API's Service leads elsewhere. kube-proxy spreads connections over all
/// EndpointSlices that name the Service.
pub(super) fn want(cx: &Cx) -> Want {
    let planes: Vec<String> = cx.cluster.control_planes().map(|node| node.ip.to_string()).collect();
    Want::new("bootstrap.api-service", "the Service default/kubernetes has only API servers as endpoints")
        .ask(Ask::Listed)
        .judged({
            let planes = planes.clone();
            move |answer| judge(answer, &planes)
        })
        .run_for(move |answer| {
            let foreign = foreign(answer, &planes).into_iter();
            let delete = |(name, _)| {
                sh!("kubectl -n default delete endpointslice --ignore-not-found -- {name}\n", name)
            };
            kubectl() + foreign.map(delete).collect::<Sh>()
        })
        .nothing_to_undo(WITH_THE_CLUSTER)
        .only(cx.fleet.exists)
}

/// EndpointSlices of the API's Service that lead elsewhere, each with its addresses. The API servers' own EndpointSlice has
/// the name of the Service. They correct it every few seconds (pkg/controlplane/reconcilers).
fn foreign<'a>(answer: &'a str, planes: &[String]) -> Vec<(&'a str, Vec<String>)> {
    let slice = |line: &'a str| {
        let (name, lists) = line.strip_prefix("EndpointSlice ")?.split_once(' ')?;
        let lists = serde_json::Deserializer::from_str(lists).into_iter::<Vec<String>>();
        let mut addresses: Vec<String> = lists.map_while(std::result::Result::ok).flatten().collect();
        addresses.retain(|address| !planes.contains(address));
        Some((name, addresses)).filter(|(name, addresses)| *name != "kubernetes" && !addresses.is_empty())
    };
    answer.lines().filter_map(slice).collect()
}

fn judge(answer: &str, planes: &[String]) -> Verdict {
    let line = |(name, addresses): (&str, Vec<String>)| {
        format!("EndpointSlice default/{name} has other endpoints: {}\n", addresses.join(", "))
    };
    match foreign(answer, planes) {
        none if none.is_empty() => Verdict::Holds,
        foreign => Verdict::Differs { have: foreign.into_iter().map(line).collect(), want: String::new() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_slice_with_other_addresses_is_reported() {
        let planes = ["198.18.0.11".to_string()];
        let own = "EndpointSlice kubernetes [\"198.18.0.11\"] [\"198.18.0.12\"]\n";
        for fine in ["", own, "EndpointSlice empty \n", "EndpointSlice twice [\"198.18.0.11\"]\n"] {
            assert_eq!(judge(fine, &planes), Verdict::Holds, "{fine}");
        }
        let foreign = format!("{own}EndpointSlice mine [\"198.18.0.11\"] [\"192.0.2.1\",\"192.0.2.2\"]\n");
        let Verdict::Differs { have, .. } = judge(&foreign, &planes) else { panic!("{foreign}") };
        assert_eq!(have, "EndpointSlice default/mine has other endpoints: 192.0.2.1, 192.0.2.2\n");
    }
}
