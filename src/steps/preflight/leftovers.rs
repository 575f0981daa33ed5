//! Leftovers of an earlier cluster on a machine. ironstrap asks only before the first change, because later finds may be
//! its own.

use super::{UNTOUCHED, nothing};
use crate::cluster::{Cluster, Network, Node};
use crate::shell::{Sh, sh};
use crate::step::{Ask, Verdict, Want};

/// The name of flannel's configuration. containerd takes the first by name.
const FLANNELS: &str = "10-flannel.conflist";
/// Interfaces that networks of pods leave behind, as a pattern of `case`.
const LINKS: Sh = Sh::raw(
    "cni0 | cbr0 | flannel* | cali* | tunl0 | vxlan.calico | cilium_* | lxc* | weave | kube-bridge | kube-ipvs0 | antrea-gw0 | ovn-k8s-mp0",
);

pub(super) fn wants(cluster: &Cluster, node: &Node) -> Vec<Want> {
    let mut wants = vec![manifests(cluster), plugins(cluster), links(cluster), others()];
    if node.is_control_plane() {
        wants.insert(0, etcd(cluster));
    }
    wants
}

fn ask(shell: impl Into<Sh>) -> Ask {
    Ask::OnlyBeforeJoin(UNTOUCHED + shell)
}

fn etcd(cluster: &Cluster) -> Want {
    let dir = cluster.etcd_dir();
    // This is kubeadm's name of the check (`app/preflight`, `DirAvailableCheck`).
    let name = format!("DirAvailable-{}", dir.replace('/', "-"));
    let entries =
        ask(sh!("for f in {dir}/* {dir}/.[!.]*; do [ ! -e \"$f\" ] || echo \"${f##*/}\"; done", dir));
    let named = name.clone();
    nothing(cluster, "preflight.etcd-data", "the folder for etcd's data is empty", entries, move |_| {
        named.clone()
    })
    .by_hand(format!(
        "if nobody needs that data any more, delete it: rm -rf {dir}/*; if it is only the lost+found of a separate \
         file system, keep it: ignore-preflight = [\"{name}\"] in [cluster]"
    ))
}

/// The want that there are no static pods yet. kubeadm looks for its own four manifests. Any other manifest is a pod that
/// the kubelet will run.
fn manifests(cluster: &Cluster) -> Want {
    let files =
        ask("for f in /etc/kubernetes/manifests/*.yaml; do [ ! -e \"$f\" ] || echo \"${f##*/}\"; done");
    let name = |file: &str| format!("FileAvailable--etc-kubernetes-manifests-{file}");
    nothing(cluster, "preflight.static-pods", "no static pods exist yet", files, name).by_hand(
        "remove an earlier cluster with `kubeadm reset`, or a single manifest with rm /etc/kubernetes/manifests/FILE; or downgrade the \
         check to a warning: ignore-preflight = [\"FileAvailable--etc-kubernetes-manifests-FILE\"] in [cluster]",
    )
}

/// The want that no other network plugin is set up. With flannel, another plugin's configuration is in the way if it comes
/// first by name. With a network of your own, it may be there on purpose.
fn plugins(cluster: &Cluster) -> Want {
    let flannel = matches!(cluster.network, Network::Flannel(_));
    let ignored = cluster.ignores("Leftovers");
    let files = "for f in /etc/cni/net.d/*.conf /etc/cni/net.d/*.conflist /etc/cni/net.d/*.json; do [ ! -e \"$f\" ] || echo \"${f##*/}\"; done";
    Want::new("preflight.cni", "no other network plugin is configured")
        .ask(ask(files))
        .judged(move |answer| {
            let first = answer.lines().any(|file| flannel && file < FLANNELS);
            let have = answer.replace('\n', ", ");
            match answer {
                "" | FLANNELS => Verdict::Holds,
                _ if first && !ignored => Verdict::Differs { have, want: String::new() },
                _ => Verdict::Noted(format!("/etc/cni/net.d contains {have}; containerd uses the first file by name")),
            }
        })
        .by_hand("delete the file, because containerd would use it instead of flannel's: rm /etc/cni/net.d/FILE; or downgrade the check to a warning: ignore-preflight = [\"Leftovers\"] in [cluster]")
}

fn links(cluster: &Cluster) -> Want {
    let links = ask(sh!(
        "while read -r d x; do\n  case ${d%:*} in {LINKS}) echo \"${d%:*}\" ;; esac\ndone </proc/net/dev",
        LINKS
    ));
    nothing(cluster, "preflight.pod-network", "no interface of an earlier pod network is left", links, |_| {
        "Leftovers".into()
    })
    .by_hand(
        "ip link delete NAME, or reboot; or downgrade the check to a warning: \
         ignore-preflight = [\"Leftovers\"] in [cluster]",
    )
}

/// Notes leftovers that a new cluster can live with.
fn others() -> Want {
    Want::new("preflight.leftovers", "whether an earlier cluster left anything else").ask(ask(OTHERS)).judged(
        |answer| match answer {
            "" => Verdict::Holds,
            lines => Verdict::Noted(format!("an earlier cluster left {}", lines.replace('\n', "; "))),
        },
    )
}

const OTHERS: &str = r#"count() { [ "$1" = 0 ] || echo "$1 $2"; }
set -- /var/lib/kubelet/pods/*
[ ! -e "$1" ] || count $# "pod folders, with volumes, in /var/lib/kubelet/pods (unmount the volumes, then delete the folders)"
if command -v iptables-save >/dev/null; then
  n=$(iptables-save 2>/dev/null | grep -c -e '-A KUBE-' -e '-A CILIUM_' -e '-A cali-') || :
  count "${n:-0}" "iptables rules (a reboot removes them)"
fi
if command -v ctr >/dev/null && systemctl is-active -q containerd; then
  n=$(ctr -n k8s.io containers ls -q 2>/dev/null | grep -c .) || :
  count "${n:-0}" "Kubernetes containers (kubeadm reset removes them)"
fi"#;
