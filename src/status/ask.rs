//! The questions that `status` asks beyond those of the wants. They are part of the same script, and only `status` sends them.

use crate::cluster::{Cluster, Network, Node};
use crate::etcd::{self, MEMBERS};
use crate::shell::{KUBECTL, Sh, sh};
use crate::step::{Ask, Object};
use crate::steps::packets;

/// The subject of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    System,
    Packages,
    Certificates,
    Packets,
    /// This topic and those below are for control planes only. `Api` is about this machine's API server, and `Etcd` about its
    /// etcd.
    Api,
    Etcd,
    /// Any control plane can answer this topic and those below for the whole cluster.
    Members,
    Nodes,
    Network,
    Tokens,
    Pods,
}

/// Returns all questions to a node. Like those of the wants, they depend on the inventory alone.
pub fn questions(cluster: &Cluster, node: &Node) -> Vec<(Topic, Ask)> {
    let mut all = vec![
        (Topic::System, Ask::Shell(SYSTEM.into())),
        (Topic::Packages, Ask::Packages(vec!["kubelet".into(), "containerd".into()])),
        (Topic::Certificates, Ask::Shell(CERTIFICATES.into())),
        // This is the same text as the ask of the wants, so the machine answers it only once.
        (Topic::Packets, packets::ask(cluster, node)),
    ];
    if node.is_control_plane() {
        let nodes = cluster.nodes.iter().map(|node| Object::node(&node.name)).collect();
        all.extend([
            (Topic::Api, Ask::api(traces(cluster) + KUBECTL + READY)),
            (Topic::Etcd, Ask::api_in_turn(etcd::ask(HEALTH))),
            (Topic::Members, Ask::api_in_turn(etcd::ask(MEMBERS))),
            (Topic::Nodes, Ask::Objects(nodes)),
            (Topic::Network, Ask::Objects(daemon_sets(cluster))),
            (Topic::Tokens, Ask::api(traces(cluster) + KUBECTL + TOKENS)),
            (Topic::Pods, Ask::whole_api(traces(cluster) + KUBECTL + PODS)),
        ]);
    }
    all
}

/// Returns the DaemonSets that run the network on every node.
fn daemon_sets(cluster: &Cluster) -> Vec<Object> {
    match &cluster.network {
        Network::Flannel(_) => vec![Object::new("apps/v1", "DaemonSet", "kube-flannel", "flannel")],
        Network::Manifests(files) => {
            let objects = files.iter().flat_map(|file| &file.objects).map(Object::of);
            objects.filter(|object| object.kind == "DaemonSet").collect()
        }
        Network::None => vec![],
    }
}

const SYSTEM: &str = r#"read -r up x </proc/uptime; echo "uptime $up"
echo "kernel $(uname -r)"
PRETTY_NAME=
if [ -e /etc/os-release ]; then . /etc/os-release; fi
echo "os $PRETTY_NAME""#;

/// Prints the certificates of a node, and nothing else of their files, which may also hold keys. It leaves out the kubelet's
/// own serving certificate, because nobody checks when that expires.
const CERTIFICATES: &str = r#"for f in /etc/kubernetes/pki/*.crt /etc/kubernetes/pki/etcd/*.crt /etc/kubernetes/*.conf /var/lib/kubelet/pki/kubelet-client-current.pem; do
  [ ! -f "$f" ] || set -- "$@" "$f"
done
[ $# = 0 ] || awk 'FNR == 1 { print "file " FILENAME }
  /-BEGIN CERTIFICATE-/, /-END CERTIFICATE-/ { print; next }
  sub(/^ *client-certificate-data: */, "")' "$@""#;

fn traces(cluster: &Cluster) -> Sh {
    sh!("etcd={etcd}\n", etcd = cluster.etcd_dir()) + TRACES
}

/// Answers instead of an API server that never existed, or that does not exist now.
const TRACES: Sh = Sh::raw(
    r#"cd /etc/kubernetes 2>/dev/null || not_here
if [ ! -e manifests/kube-apiserver.yaml ]; then
  if [ -e "$etcd/member" ] || [ -e manifests/etcd.yaml ]; then echo 'down: there is no /etc/kubernetes/manifests/kube-apiserver.yaml'; exit 0; fi
  not_here
fi
[ -e admin.conf ] || { echo 'there is no /etc/kubernetes/admin.conf to ask it with' >&2; exit 1; }
"#,
);

const READY: &str = r#"if said=$(kubectl get --request-timeout=5s --raw '/readyz?verbose' 2>&1); then echo healthy; exit 0; fi
case $said in
  *'[-]'*) echo "failing: $said" ;;
  *refused* | *'deadline exceeded'* | *imeout*) echo "down: $said" ;;
  *) echo "$said" >&2; exit 1 ;;
esac"#;

const HEALTH: &str =
    r#"if said=$(etcd get --raw /health 2>&1); then echo "$said"; else echo "unhealthy: $said"; fi"#;

/// Asks when each token expires, and whether it allows a login. The answer has nothing of the token itself.
const TOKENS: &str = r#"kubectl -n kube-system get secrets --request-timeout=5s --field-selector type=bootstrap.kubernetes.io/token \
  -o jsonpath='{range .items[*]}{.data.usage-bootstrap-authentication}{"\t"}{.data.expiration}{"\n"}{end}'"#;

/// Asks what each pod requests that is on a node and has not ended. The fields are the node, the overhead, the pod as a whole,
/// its containers and its init containers. The answer has nothing else about pods.
const PODS: &str = r#"kubectl get pods -A --request-timeout=5s \
  --field-selector 'spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed' -o jsonpath='{range .items[*]}{.spec.nodeName}{"\t"}{.spec.overhead}{"\t"}{.spec.resources.requests}{"\t"}{range .spec.containers[*]}={.resources.requests} {end}{"\t"}{range .spec.initContainers[*]}{.restartPolicy}={.resources.requests} {end}{"\n"}{end}'"#;
