//! cni: what the network of ours needs on each node to connect a pod. Who lays it out is flannel's own pod, and the
//! package that comes with the kubelet; nothing here where the network is somebody else's.

use serde_json::Value;

use crate::cluster::{Cluster, Network};
use crate::error::{Error, Kind, Result};
use crate::shell::KUBELETS_KUBECTL;
use crate::step::{Cx, Step, WITH_THE_MEMBER, Want};
use crate::steps::{network, runtime};

pub const STEP: Step =
    Step { name: "cni", why: "a pod starts only where containerd finds the network's plugins", wants };

const CONFIG: &str = "/etc/cni/net.d/10-flannel.conflist";

fn wants(cx: &Cx) -> Result<Vec<Want>> {
    if !matches!(cx.cluster.network, Network::Flannel(_)) {
        return Ok(vec![]);
    }
    // Before flannel ran here, a node with its files would pass for one whose network is ready.
    let ran = cx.machine.is_member() && cx.machine.has("flannel");
    Ok(vec![
        Want::file("the network is known to containerd", CONFIG, 0o644, &conflist(cx.cluster)?)
            .only(ran)
            .nothing_to_undo(WITH_THE_MEMBER),
        packaged(cx.cluster).only(cx.machine.is_member()).nothing_to_undo(WITH_THE_MEMBER),
        Want::that("flannel's plugin is here")
            .ask("if [ -x /opt/cni/bin/flannel ]; then echo yes; else echo no; fi")
            .is("yes")
            .run(AGAIN.replace("NODE", &cx.node.name).replace("KUBECTL", KUBELETS_KUBECTL))
            .only(ran)
            .nothing_to_undo(WITH_THE_MEMBER),
    ])
}

/// The text that flannel's pod copies to each node.
fn conflist(cluster: &Cluster) -> Result<String> {
    let text = |object: &Value| Some(object.get("data")?.get("cni-conf.json")?.as_str()?.to_string());
    let found = network::objects(cluster)?.iter().find_map(text);
    found.ok_or_else(|| Error::new(Kind::Local, "flannel's template has no cni-conf.json"))
}

/// What flannel hands over to.
fn packaged(cluster: &Cluster) -> Want {
    Want::that("the plugins of kubernetes-cni are here")
        .ask("for p in bridge host-local loopback portmap; do [ -x /opt/cni/bin/$p ] || echo \"/opt/cni/bin/$p is gone\"; done")
        .is("")
        .run(format!("{}apt update\npackages kubelet --reinstall kubernetes-cni", runtime::exports(cluster)))
}

/// A new pod copies the plugin as the first thing it does. Kubelets may delete the pods of their own node (Kubernetes'
/// documentation, "Using Node Authorization").
const AGAIN: &str = "\
KUBECTL -n kube-flannel delete pod --wait=false --field-selector \"spec.nodeName=NODE\" -l app=flannel
n=0
until [ -x /opt/cni/bin/flannel ]; do
  n=$((n + 1)); [ $n -lt 240 ] || { echo 'no pod of flannel has brought it back'; exit 1; }; sleep 0.25
done";
