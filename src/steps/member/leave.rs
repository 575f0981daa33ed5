//! Takes this one machine out of the cluster. It does what `kubeadm reset` does, and removes what `kubeadm reset` leaves
//! behind. The cluster does not learn of it here. The removal of a node tells the cluster (`operations::remove`).

use super::ETCD_IS;
use crate::cluster::Network;
use crate::shell::{PODS, REMAINS, Sh, sh};
use crate::step::{Back, Cx, Undo};

const LEAVE: Sh = Sh::raw(include_str!("../../../templates/leave.sh"));

pub(super) fn undo(cx: &Cx) -> Undo {
    let network = match &cx.cluster.network {
        Network::Flannel(_) => "flannel",
        Network::Manifests(_) => "manifests",
        Network::None => "none",
    };
    let etcd = sh!("ETCD={etcd}\n", etcd = cx.cluster.etcd_dir());
    let head = sh!(
        "{etcd}NETWORK={network}\n{PODS}{REMAINS}{ETCD_IS}{LEAVE}",
        etcd,
        network,
        PODS,
        REMAINS,
        ETCD_IS,
        LEAVE
    );
    let is = etcd + ETCD_IS + "etcd_is\n";
    let (node, cluster) = (&cx.node.name, &cx.cluster.name);
    Undo::Back(
        Back::new("member", format!("the machine of {node} is no member of {cluster}"))
            .keep(head.clone() + "\ntraces")
            .now(is + NOW)
            .script(head + "\nleave"),
    )
}

const NOW: &str = r#"[ ! -e /etc/kubernetes/kubelet.conf ] || echo "the kubelet and its credentials"
if [ -e "$ETCD/member" ]; then echo "etcd and all data of the cluster, $(du -sm -- "$ETCD/member" | cut -f 1) MiB in $ETCD/member"; fi
if [ -S /run/containerd/containerd.sock ]; then
  n=$(timeout 10 ctr -n k8s.io containers ls -q 2>/dev/null | wc -l)
  [ "$n" = 0 ] || echo "$n containers of Kubernetes, and its images"
fi
for i in cni0 flannel.1 flannel-v6.1 kube-ipvs0; do ip -o link show "$i" >/dev/null 2>&1 && echo "interface $i" || :; done
for d in /etc/kubernetes /var/lib/kubelet /var/lib/cni; do [ ! -e $d ] || echo "files that were added to $d"; done"#;
