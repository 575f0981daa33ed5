//! The Node of a machine that is a member. ironstrap creates it again if somebody deleted it.

use serde_json::{Value, json};

use crate::error::Result;
use crate::shell::{KUBELETS_KUBECTL, Sh, here, sh};
use crate::step::{Ask, Cx, Verdict, WITH_THE_MEMBER, Want};
use crate::steps::kubeadm;
use crate::steps::labels;

/// The want that the Node of this member exists. A kubelet creates its Node only when it starts. If the Node exists
/// already, the kubelet fills it in. Only the API knows whether the Node exists.
pub(super) fn want(cx: &Cx) -> Result<Want> {
    let name = &cx.node.name;
    let gone = cx.fleet.unregistered.contains(name);
    // A Node that ironstrap created has no version until the kubelet reports what it is.
    let said = sh!(
        "{KUBELETS_KUBECTL} get node {name} -o 'jsonpath={.status.nodeInfo.kubeletVersion}'",
        KUBELETS_KUBECTL,
        name
    );
    let mut fix = kept(cx)
        + sh!(
            "[ -n \"$made\" ] || systemctl restart kubelet\nn=0\nuntil [ -n \"$({said} 2>/dev/null)\" ]; do\n\
         n=$((n + 1)); [ $n -lt 120 ] || { echo 'the kubelet has not registered its Node; see journalctl -u kubelet'; exit 1; }; sleep 0.5; done",
            said
        );
    if cx.node.is_control_plane() {
        let mark = Sh::raw("kubeadm init phase mark-control-plane --config $c");
        fix += "\n";
        fix += kubeadm::with(cx, &kubeadm::init(cx, false)?, &mark)?;
    }
    let (have, want) = ("the cluster has no such Node".to_string(), format!("Node {name}"));
    Ok(Want::new("member.node-object", format!("the Node of {name} exists in the cluster"))
        .ask(Ask::Facts)
        .judged(move |_| match gone {
            true => Verdict::Differs { have: have.clone(), want: want.clone() },
            false => Verdict::Holds,
        })
        .run(fix)
        .nothing_to_undo(WITH_THE_MEMBER)
        .disrupts())
}

/// Shell that creates the Node with the range of pods that it had, if no other Node got that range in the meantime.
///
/// With another range, all its pods would have to restart. flannel on other nodes would also go on sending to the old
/// range: it ignores an update that does not change how the Node is reached (flannel, `pkg/subnet/kube`,
/// `handleUpdateLeaseEvent`).
///
/// The shell does this only if the kubelet has been running for a while. Such a kubelet reports how much room there is
/// within ten seconds (`nodeStatusUpdateFrequency`). A kubelet that starts would take a Node without that report for a Node
/// without room, and would reject its own static pods.
fn kept(cx: &Cx) -> Sh {
    let name = &cx.node.name;
    let taint = |t: crate::cluster::Taint| json!({"key": t.key, "value": t.value, "effect": t.effect});
    let taints: Vec<Value> = labels::taints(cx.node).into_iter().map(taint).collect();
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {
            "name": name,
            "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"},
            "labels": {
                "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "ARCH",
                "beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": "ARCH",
            },
        },
        "spec": {"podCIDR": "FIRST", "podCIDRs": ["ALL"], "taints": taints},
    });
    let node = here(
        r#"sed -e "s/\"ARCH\"/\"$arch\"/g" -e "s|\"FIRST\"|\"$first\"|" -e "s|\"ALL\"|\"$ranges\"|""#,
        &node.to_string(),
    );
    let taken: Vec<&str> = cx.fleet.ranges.iter().map(String::as_str).collect();
    let taken = format!(" {} ", taken.join(" "));
    KEPT.replaced("TAKEN", taken).replaced("KUBECTL", KUBELETS_KUBECTL).replaced("MANIFEST", node)
}

/// The shell of `kept`. flannel notes the first address of each range. For IPv4 that is one more than the range. For IPv6
/// it ends in 1.
const KEPT: Sh = Sh::raw(
    r#"ranges= first= subnets=/run/flannel/subnet.env
[ -r $subnets ] || subnets=/dev/null
while IFS='=' read -r key at; do
  case $key in
  FLANNEL_SUBNET) range=$(echo "$at" | awk -F '[./]' '{ printf "%s.%s.%s.%d/%s", $1, $2, $3, $4 - 1, $5 }') ;;
  FLANNEL_IPV6_SUBNET) range=$(echo "$at" | sed 's,::1/,::/,') ;;
  *) continue ;;
  esac
  case $range in '' | *[!0-9a-f.:/]*) continue ;; esac
  case TAKEN in *" $range "*) ranges=; break ;; esac
  first=${first:-$range} ranges="$ranges${ranges:+\",\"}$range"
done <$subnets
made= arch=$(dpkg --print-architecture)
since=$(date -d "$(systemctl show -p ActiveEnterTimestamp --value kubelet)" +%s 2>/dev/null) || since=
if [ -n "$ranges" ] && [ -n "$since" ] && systemctl is-active -q kubelet && [ $(($(date +%s) - since)) -gt 20 ]; then
  if { MANIFEST} | KUBECTL create -f - >/dev/null; then made=yes; fi
fi
"#,
);
