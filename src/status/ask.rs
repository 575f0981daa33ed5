//! What status asks beyond the wants. It goes along in the same script, and only where status is asked for.

use crate::cluster::{Cluster, Network, Node};
use crate::etcd::{ETCD, MEMBERS};
use crate::shell::{KUBECTL, Sh, sh};
use crate::step::{Ask, Object};
use crate::steps::packets;

/// What a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    System,
    Packages,
    Certificates,
    Packets,
    /// From here on of control planes only: this one's API server, and its etcd.
    Api,
    Etcd,
    /// And what any one of them can tell of the whole.
    Members,
    Nodes,
    Network,
    Tokens,
    Pods,
}

/// All questions to a node. As the wants' they depend on the inventory alone.
pub fn questions(cluster: &Cluster, node: &Node) -> Vec<(Topic, Ask)> {
    let mut all = vec![
        (Topic::System, Ask::Shell(SYSTEM.into())),
        (Topic::Packages, Ask::Packages(vec!["kubelet".into(), "containerd".into()])),
        (Topic::Certificates, Ask::Shell(CERTIFICATES.into())),
        // In the words of the wants, so that it is asked once.
        (Topic::Packets, packets::ask(cluster, node)),
    ];
    if node.is_control_plane() {
        let nodes = cluster.nodes.iter().map(|node| Object::node(&node.name)).collect();
        all.extend([
            (Topic::Api, Ask::api(traces(cluster) + KUBECTL + READY)),
            (Topic::Etcd, Ask::api_in_turn(ETCD + HEALTH)),
            (Topic::Members, Ask::api_in_turn(ETCD + MEMBERS)),
            (Topic::Nodes, Ask::Objects(nodes)),
            (Topic::Network, Ask::Objects(daemon_sets(cluster))),
            (Topic::Tokens, Ask::api(traces(cluster) + KUBECTL + TOKENS)),
            (Topic::Pods, Ask::whole_api(traces(cluster) + KUBECTL + PODS)),
        ]);
    }
    all
}

/// What runs the network on every node.
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

/// Certificates alone: what stands beside them in the same file may be a key. The kubelet's own serving
/// certificate is left out, for nobody looks at when it ends.
const CERTIFICATES: &str = r#"for f in /etc/kubernetes/pki/*.crt /etc/kubernetes/pki/etcd/*.crt /etc/kubernetes/*.conf /var/lib/kubelet/pki/kubelet-client-current.pem; do
  [ ! -f "$f" ] || set -- "$@" "$f"
done
[ $# = 0 ] || awk 'FNR == 1 { print "file " FILENAME }
  /-BEGIN CERTIFICATE-/, /-END CERTIFICATE-/ { print; next }
  sub(/^ *client-certificate-data: */, "")' "$@""#;

fn traces(cluster: &Cluster) -> Sh {
    sh!("etcd={etcd}\n", etcd = cluster.etcd_dir()) + TRACES
}

/// What answers in place of an API server that was never there, or is not there now.
const TRACES: Sh = Sh::raw(
    r#"cd /etc/kubernetes 2>/dev/null || { echo no cluster; exit 0; }
if [ ! -e manifests/kube-apiserver.yaml ]; then
  if [ -e "$etcd/member" ] || [ -e manifests/etcd.yaml ]; then echo 'down: there is no /etc/kubernetes/manifests/kube-apiserver.yaml'; else echo no cluster; fi
  exit 0
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

/// When each token that lets somebody in ends; nothing of the token itself.
const TOKENS: &str = r#"kubectl -n kube-system get secrets --request-timeout=5s --field-selector type=bootstrap.kubernetes.io/token \
  -o jsonpath='{range .items[*]}{.data.usage-bootstrap-authentication}{"\t"}{.data.expiration}{"\n"}{end}'"#;

/// What each pod requests that is on a node and has not ended: node, overhead, the pod as a whole, containers,
/// init containers. Nothing else of pods travels.
const PODS: &str = r#"kubectl get pods -A --request-timeout=5s \
  --field-selector 'spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed' -o jsonpath='{range .items[*]}{.spec.nodeName}{"\t"}{.spec.overhead}{"\t"}{.spec.resources.requests}{"\t"}{range .spec.containers[*]}={.resources.requests} {end}{"\t"}{range .spec.initContainers[*]}{.restartPolicy}={.resources.requests} {end}{"\n"}{end}'"#;
