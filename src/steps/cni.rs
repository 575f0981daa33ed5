//! cni: the files that flannel, ironstrap's own network, needs on each node to connect a pod. flannel's pod and a package
//! that comes with the kubelet install them. For another network the step has no wants.

use serde_json::Value;

use crate::cluster::{Cluster, Network};
use crate::error::{Error, Kind, Result};
use crate::shell::{ADDRESSES, DAEMONS, KUBELETS_KUBECTL, LINKS, PODS, Sh};
use crate::step::{Cx, Step, Verdict, WITH_THE_MEMBER, Want};
use crate::steps::{network, programs, runtime};

pub const STEP: Step =
    Step { name: "cni", why: "pods start only on nodes where containerd finds the CNI plugins", wants };

const CONFIG: &str = "/etc/cni/net.d/10-flannel.conflist";

fn wants(cx: &Cx) -> Result<Vec<Want>> {
    if !matches!(cx.cluster.network, Network::Flannel(_)) {
        return Ok(vec![]);
    }
    // Before flannel has run here, its files would make the node look as if its network were ready.
    let ran = cx.machine.is_member() && cx.machine.has("flannel");
    Ok(vec![
        Want::file("cni.config", "containerd has flannel's CNI configuration", CONFIG, 0o644, &conflist(cx.cluster)?)
            .allow_narrower_mode()
            .only(ran)
            .nothing_to_undo(WITH_THE_MEMBER),
        packaged(cx.cluster).only(cx.machine.is_member()).nothing_to_undo(WITH_THE_MEMBER),
        Want::new("cni.flannel-plugin", "flannel's CNI plugin works")
            .ask(PLUGIN + "if plugin; then echo yes; else echo no; fi")
            .is("yes")
            .run(DAEMONS + PLUGIN + AGAIN.replaced("NODE", &cx.node.name))
            .only(ran)
            .nothing_to_undo(WITH_THE_MEMBER),
        Want::new("cni.bridge", "the bridge cni0 has an address of this node's pod range")
            .ask(BRIDGE)
            .is("")
            .run(PODS + LINKS + RENUMBERED.replaced("NODE", &cx.node.name).replaced("KUBECTL", KUBELETS_KUBECTL))
            .only(ran)
            .nothing_to_undo(WITH_THE_MEMBER)
            .disrupts(),
        Want::new("cni.addresses", "this node has free addresses for new pods")
            .ask(ADDRESSES + "addresses_taken")
            .judged(taken)
            .run(ADDRESSES + "addresses_free")
            .only(ran)
            .nothing_to_undo(WITH_THE_MEMBER),
        Want::new("cni.range", "the pods of this node leave free addresses for new pods")
            .ask(ADDRESSES + "addresses_taken")
            .judged(full)
            .by_hand(
                "delete pods of this node or move some to other nodes, because no new pod can start here; then set maxPods in \
                 [kubelet] or [nodes.NAME.kubelet] to less than the number of addresses",
            )
            .only(ran)
            .nothing_to_undo(WITH_THE_MEMBER),
    ])
}

/// Judges how many addresses pods that are gone have taken, as the shell function `addresses_taken` prints it.
fn taken(answer: &str) -> Verdict {
    match numbers(answer).as_deref() {
        Some([] | [_, _, 0, _]) => Verdict::Holds,
        Some([size, taken, gone, _]) => Verdict::Differs {
            have: format!(
                "{taken} of {size} addresses are taken, {gone} of them by pods that no longer exist"
            ),
            want: "free addresses".into(),
        },
        _ => Verdict::Unknown(format!("cannot read \"{answer}\"")),
    }
}

/// Judges the same answer: existing pods hold all addresses, so the node's range is too small for them.
fn full(answer: &str) -> Verdict {
    match numbers(answer).as_deref() {
        Some([size, taken, 0, 0]) => Verdict::Differs {
            have: format!("existing pods have taken {taken} of {size} addresses"),
            want: "free addresses".into(),
        },
        Some([size, taken, 0, young]) => Verdict::Unchecked(format!(
            "{taken} of {size} addresses are taken, {young} of them in the last ten minutes by pods that containerd does not know"
        )),
        _ => Verdict::Holds,
    }
}

fn numbers(answer: &str) -> Option<Vec<u32>> {
    answer.split_whitespace().map(|word| word.parse().ok()).collect()
}

/// The CNI configuration that flannel's pod copies to each node.
fn conflist(cluster: &Cluster) -> Result<String> {
    let text = |object: &Value| Some(object.get("data")?.get("cni-conf.json")?.as_str()?.to_string());
    let found = network::objects(cluster)?.iter().find_map(text);
    found.ok_or_else(|| Error::new(Kind::Local, "flannel's template has no cni-conf.json"))
}

/// The want for the plugins to which flannel's plugin delegates. Another network may bring its own programs of these names.
fn packaged(cluster: &Cluster) -> Want {
    programs::want("cni.programs", "kubernetes-cni", "kubelet", runtime::update(cluster))
}

/// Defines `plugin`, which tests whether flannel's plugin answers as the CNI specification says. No package has this plugin,
/// so its right content is not known.
const PLUGIN: Sh = Sh::raw(
    "plugin() {
  [ -x /opt/cni/bin/flannel ] || return 1
  case $(CNI_COMMAND=VERSION timeout 5 /opt/cni/bin/flannel </dev/null 2>/dev/null) in *supportedVersions*) ;; *) return 1 ;; esac
}
",
);

/// Shell that replaces flannel's pod and waits until the plugin works. A new pod copies the plugin before it does anything
/// else. Kubelets may delete the pods of their own node (Kubernetes' documentation, "Using Node Authorization").
const AGAIN: Sh = Sh::raw(
    "\
delete_pods NODE kube-flannel app=flannel
n=0
until plugin; do
  n=$((n + 1)); [ $n -lt 240 ] || { echo 'flannel has not installed its CNI plugin again'; exit 1; }; sleep 0.25
done",
);

/// Prints a line if the bridge does not have the range that flannel has. A bridge keeps the addresses that it was made with.
/// Its plugin then refuses new pods (`cni0" already has an IP address different from`). flannel notes the range that it read
/// when it started.
const BRIDGE: &str = r#"[ -e /run/flannel/subnet.env ] && grep -q '^ *cni0:' /proc/net/dev || exit 0
has() { ip -o "$1" addr show dev cni0 scope global | while read -r _ _ _ address _; do echo "$address"; done; }
while IFS='=' read -r key want; do
  case $key in
  FLANNEL_SUBNET) have=$(has -4) ;;
  FLANNEL_IPV6_SUBNET) have=$(has -6) ;;
  *) continue ;;
  esac
  case "$have" in '' | "$want" | *"
$want"* | "$want
"*) ;; *) echo "cni0 has the address $have, but flannel has $want" ;; esac
done </run/flannel/subnet.env
"#;

/// Shell that makes the bridge and the pods again, with the present range.
const RENUMBERED: Sh = Sh::raw(
    r#"set -- /run/netns/cni-*
[ -e "$1" ] || set --
end_sandboxes "$@"
ip link delete cni0
await_removal "$@"
n=0
until grep -q '^ *cni0:' /proc/net/dev || [ $n -ge 60 ]; do n=$((n + 1)); sleep 0.5; done
KUBECTL wait pod -A --field-selector spec.nodeName=NODE,status.phase=Running --for=condition=Ready --timeout=60s >/dev/null ||
  echo 'some pods of this node are not Ready yet'
"#,
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_taken_by_deleted_pods_are_reported() {
        assert_eq!(taken(""), Verdict::Holds);
        assert_eq!(
            (taken("253 253 0 0\n"), full("253 254 7 0\n"), full("")),
            (Verdict::Holds, Verdict::Holds, Verdict::Holds)
        );
        let Verdict::Differs { have, .. } = full("253 253 0 0\n") else { panic!() };
        assert!(matches!(full("253 253 0 9\n"), Verdict::Unchecked(_)));
        assert_eq!(have, "existing pods have taken 253 of 253 addresses");
        let Verdict::Differs { have, .. } = taken("253 254 7 2\n") else { panic!() };
        assert_eq!(have, "254 of 253 addresses are taken, 7 of them by pods that no longer exist");
        assert!(matches!(taken("253 all 7 0\n"), Verdict::Unknown(_)));
    }
}
