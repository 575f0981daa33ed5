//! Files that the kubelet keeps for itself, and reads only when it starts or renews its certificates. A kubelet that runs
//! does not show that it could not do that again.

use serde_json::Value;

use crate::shell::{KUBELET_FILES, sh};
use crate::step::{Cx, WITH_THE_MEMBER, Want};

pub(super) fn wants(cx: &Cx) -> Vec<Want> {
    let pair = if serves_with_its_own(cx) { "pair" } else { "" };
    vec![
        Want::new("kubeconfigs.renewal", "the kubelet can renew its certificates")
            .ask(KUBELET_FILES + "kubelet_links")
            .is("")
            .run(KUBELET_FILES + "kubelet_links_again")
            .nothing_to_undo(WITH_THE_MEMBER)
            .only(cx.machine.is_member()),
        Want::new("kubeconfigs.kubelet-state", "the kubelet can read its own files when it starts")
            .ask(sh!("{KUBELET_FILES}kubelet_unreadable {pair}", KUBELET_FILES, pair))
            .is("")
            .run(sh!("{KUBELET_FILES}kubelet_readable_again {pair}", KUBELET_FILES, pair))
            .nothing_to_undo(WITH_THE_MEMBER)
            .only(cx.machine.is_member()),
    ]
}

/// Whether the kubelet itself makes the certificate that it serves with.
fn serves_with_its_own(cx: &Cx) -> bool {
    let set = |key: &str| cx.node.kubelet.get(key).or_else(|| cx.cluster.kubelet.get(key));
    let is_empty = |key: &str| set(key).and_then(Value::as_str).unwrap_or_default().is_empty();
    set("serverTLSBootstrap") != Some(&Value::Bool(true))
        && is_empty("tlsCertFile")
        && is_empty("tlsPrivateKeyFile")
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::fleet::Fleet;
    use crate::machine::Machine;
    use crate::pki::ClusterPki;
    use crate::pki::tests::{NOW, cluster};

    #[test]
    fn only_a_serving_pair_of_the_kubelet_is_checked() {
        let mut cluster = cluster();
        let pki = ClusterPki::make(&cluster, NOW).unwrap();
        let (machine, fleet) = (Machine::default(), Fleet::default());
        let mut looks = |key: &str, value: Value| {
            if !key.is_empty() {
                cluster.nodes[0].kubelet = [(key.to_string(), value)].into_iter().collect();
            }
            let (node, now) = (&cluster.nodes[0], OffsetDateTime::UNIX_EPOCH);
            let cx = Cx { cluster: &cluster, node, pki: &pki, now, machine: &machine, fleet: &fleet };
            format!("{:?}", wants(&cx)[1].ask).contains("kubelet_unreadable pair")
        };
        assert!(looks("", Value::Null) && looks("serverTLSBootstrap", false.into()));
        assert!(!looks("serverTLSBootstrap", true.into()) && !looks("tlsCertFile", "/a".into()));
    }
}
