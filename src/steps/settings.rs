//! settings: each kubelet runs with the settings that its file gives it. The file proves nothing: a kubelet that nobody
//! restarted runs with the settings that it read before. So the API server asks the kubelet itself (`/configz`).

use crate::cluster::{Cluster, Node};
use crate::error::Result;
use crate::fleet::Blocked;
use crate::secret;
use crate::shell::{KUBECTL, Sh, sh};
use crate::step::{Ask, Cx, Step, Verdict, WITH_THE_MEMBER, Want};
use crate::steps::{kubeadm, running};

pub const STEP: Step =
    Step { name: "settings", why: "a kubelet that was not restarted still uses old settings", wants };

/// How many nodes a run asks at most. For the others, only local checks compare files, arguments and start times.
const MOST: usize = 12;

const SETTINGS: Sh = Sh::raw(include_str!("../../templates/settings.sh"));

fn wants(cx: &Cx) -> Result<Vec<Want>> {
    // In this case the machine's own flags may override the file.
    if cx.cluster.ignores("KubeletArgs") {
        return Ok(vec![]);
    }
    let asks = cx.node.is_control_plane().then(|| asking(cx));
    let is_asked = asked(cx.cluster).any(|node| node.name == cx.node.name);
    let runs = if is_asked { Some(running_with(cx)?) } else { None };
    Ok(asks.into_iter().chain(runs).collect())
}

/// The nodes whose kubelets are asked.
fn asked(cluster: &Cluster) -> impl Iterator<Item = &Node> {
    let workers = cluster.nodes.iter().filter(|node| !node.is_control_plane());
    cluster.control_planes().chain(workers).take(MOST)
}

/// The nodes among these whose kubelets this control plane asks.
fn share<'a>(cluster: &'a Cluster, asking: &Node) -> Vec<&'a Node> {
    let planes: Vec<&str> = cluster.control_planes().map(|node| node.name.as_str()).collect();
    let is_ours = |n: usize| planes[n % planes.len()] == asking.name;
    asked(cluster).enumerate().filter(|(n, _)| is_ours(*n)).map(|(_, node)| node).collect()
}

/// The control plane that asks the kubelet of this node.
fn asker(cluster: &Cluster, node: &Node) -> Option<String> {
    let asks = |plane: &&Node| share(cluster, plane).iter().any(|asked| asked.name == node.name);
    cluster.control_planes().find(asks).map(|plane| plane.name.clone())
}

/// Collects at a control plane what the kubelets of its share of the nodes say. Each node judges its own kubelet. ironstrap
/// asks again after every change.
fn asking(cx: &Cx) -> Want {
    let nodes = share(cx.cluster, cx.node);
    let names: Vec<String> = nodes.iter().map(|node| node.name.clone()).collect();
    let is_stale = names.iter().any(|name| cx.fleet.kubelets_stale.contains(name));
    let expected: Vec<String> =
        names.iter().filter(|name| cx.fleet.before_ready(name).is_none()).cloned().collect();
    let (me, is_member) = (cx.node.name.clone(), cx.machine.is_member());
    Want::new("kubelet-settings.readable", "kubelets report the settings that they use")
        .ask(Ask::whole_api(sh!(
            "[ -e /etc/kubernetes/manifests/kube-apiserver.yaml ] || exit 0\n{KUBECTL}{SETTINGS}{KUBELETS} {names}",
            KUBECTL,
            SETTINGS,
            KUBELETS = Sh::raw(KUBELETS),
            names = Sh::words(names.iter().map(String::as_str))
        )))
        .about(names)
        .judged(move |answer| {
            if !is_member {
                return Verdict::Holds;
            }
            if is_stale {
                let for_what = Blocked::until_asked_again(&me);
                return Verdict::Waits { have: String::new(), want: String::new(), for_what };
            }
            let silent = |name: &&String| line(answer, name).is_some_and(|said| running::settings(NAME, said).is_none());
            let words = |name: &String| {
                let said = line(answer, name).unwrap_or_default();
                format!("{name}: {}", secret::beginning(said.trim(), 200))
            };
            let silent: Vec<String> = expected.iter().filter(silent).map(words).collect();
            match silent.is_empty() {
                true => Verdict::Holds,
                false => Verdict::Unchecked(format!("the API server got no settings: {}", silent.join("; "))),
            }
        })
        .nothing_to_undo(WITH_THE_MEMBER)
}

fn running_with(cx: &Cx) -> Result<Want> {
    let name = &cx.node.name;
    let wanted = kubeadm::kubelet(cx)?;
    let said = cx.fleet.kubelets_run.get(name).cloned();
    let stale = cx.fleet.kubelets_stale.contains(name);
    let judge = move |_: &str| {
        let runs = said.as_deref().and_then(|said| running::settings(NAME, said));
        match runs.map(|runs| running::judged(&wanted, &runs)) {
            Some(Verdict::Differs { have, want }) if stale => Verdict::Waits {
                have,
                want,
                for_what: Blocked::by_cluster("the API server to ask the kubelet again"),
            },
            Some(verdict) => verdict,
            None => Verdict::Holds,
        }
    };
    Ok(Want::new("kubelet-settings.kubelet", "the kubelet uses its current settings")
        .ask(Ask::Facts)
        .judged(judge)
        .run("systemctl restart kubelet\nstays_active kubelet")
        .nothing_to_undo(WITH_THE_MEMBER)
        .disrupts()
        // The control plane that asks this kubelet asks it again, even if the run is limited to other nodes.
        .about(asker(cx.cluster, cx.node))
        .invalidates())
}

/// The shell function whose answer says which settings kubelets run with.
const KUBELETS: &str = "kubelets_run_with";
/// The part of a kubelet's answer that has the settings (kubelet, pkg/kubelet/server/server.go, `configz`).
const NAME: &str = "kubeletconfig";

/// Whether this question asks which settings kubelets run with.
pub fn is_about_kubelets(ask: &Ask) -> bool {
    matches!(ask, Ask::Api { shell, grows: true, .. } if shell.contains(KUBELETS))
}

/// Each node of an answer, and the text about it.
pub fn lines(answer: &str) -> impl Iterator<Item = (&str, &str)> {
    answer.lines().filter_map(|line| line.split_once('\t'))
}

fn line<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    lines(answer).find(|(node, _)| *node == name).map(|(_, said)| said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_belongs_to_the_node_that_it_names() {
        assert_eq!(line("w1\t{}\nw10\tx", "w10"), Some("x"));
        assert_eq!(line("w10\tx", "w1"), None);
    }

    #[test]
    fn control_planes_share_at_most_twelve_nodes() {
        let mut cluster = crate::pki::tests::cluster();
        let (plane, worker) = (
            cluster.nodes[0].clone(),
            cluster.nodes.iter().find(|node| !node.is_control_plane()).unwrap().clone(),
        );
        let named = |node: &Node, name: String| Node { name, ..node.clone() };
        cluster.nodes = (1..20).map(|n| named(&worker, format!("w{n}"))).collect();
        cluster.nodes.extend((1..4).map(|n| named(&plane, format!("m{n}"))));
        let asked: Vec<Vec<&str>> = cluster
            .control_planes()
            .map(|node| share(&cluster, node).iter().map(|node| node.name.as_str()).collect())
            .collect();
        assert_eq!(asked, [["m1", "w1", "w4", "w7"], ["m2", "w2", "w5", "w8"], ["m3", "w3", "w6", "w9"]]);
    }
}
