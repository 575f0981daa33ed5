//! The questions of `packets` to and from the machine's own pods. Their packets pass chains and routes that those of the machine to
//! others do not.

use super::{asked, asked_about, asking, differs, state, waiting, waits};
use crate::shell::sh;
use crate::step::{Cx, Verdict, Want};

/// The name of the query for DNS that a pod of the machine sends.
pub const POD_DNS: &str = "pod-dns";

/// The name of the question to the pods of the machine itself.
pub const OWN_POD: &str = "own-pod";

/// The want that a pod of this machine answers the machine. The kubelet asks pods for their health on this way.
pub(super) fn own_pod(cx: &Cx) -> Want {
    let want = asked(
        cx,
        "connectivity.own-pod",
        "the pods of this node answer the node itself".into(),
        OWN_POD,
        &["reached"],
        |answer| match state(answer, OWN_POD) {
            Some("silent") => {
                let of = asked_pods(answer, "own-pod-of ").join(" and ");
                match is_proof(answer, OWN_POD) {
                    true => differs(&format!("pod {of}, asked from this node"), "silent"),
                    false => Verdict::Unchecked(format!("no answer from pod {of}: {SPECIAL}")),
                }
            }
            _ => Verdict::Holds,
        },
    );
    want.run(asking(cx) + sh!("wait_at_most 15\nanswered {OWN_POD} reached", OWN_POD))
        .about([cx.node.name.clone()])
}

/// The want that DNS answers a pod of this machine, too. Packets of a pod pass chains and routes that those of the machine do not.
/// If DNS does not answer the machine either, `dns` says so. A machine without a pod has none that could lack DNS.
pub(super) fn dns(cx: &Cx) -> Want {
    let (address, waits) = (cx.cluster.service_ip(10), waits(cx));
    let want = asked(
        cx,
        "connectivity.pod-dns",
        "the cluster's DNS answers the pods of this node".into(),
        POD_DNS,
        &["reached"],
        move |answer| match (state(answer, POD_DNS), state(answer, "dns"), &waits) {
            (Some("reached"), ..) => Verdict::Holds,
            (Some(said), ..) if said.starts_with("unknown: ") => {
                Verdict::Unchecked(said["unknown: ".len()..].into())
            }
            (Some(said), Some("reached"), waits) => {
                let from = asked_pods(answer, "pod-dns-from ");
                if !is_proof(answer, POD_DNS) {
                    return Verdict::Unchecked(format!(
                        "pod {} gets no answer: {SPECIAL}",
                        from.join(" and ")
                    ));
                }
                let what = format!("{address} port 53, asked from pod {}", from.join(" and "));
                waiting(differs(&what, said), waits.as_ref())
            }
            _ => Verdict::Holds,
        },
    );
    // DNS answers the machine, so nothing more comes up by itself.
    let fix = asking(cx) + sh!("wait_at_most 15\nanswered {POD_DNS} reached", POD_DNS);
    let others = asked_about(cx.cluster, cx.node);
    want.run(fix).about(std::iter::once(cx.node).chain(others).map(|node| node.name.clone()))
}

/// Why the silence of a user's pod proves nothing.
const SPECIAL: &str =
    "a NetworkPolicy, a sandbox such as gVisor, or a packet filter in the pod may be the reason";

/// The pods that lines with this beginning name, each as `NAMESPACE/NAME`.
fn asked_pods<'a>(answer: &'a str, beginning: &str) -> Vec<&'a str> {
    answer.lines().filter_map(|line| line.strip_prefix(beginning)).collect()
}

/// Whether a silent answer to this question proves a fault: one of the pods was one of kubeadm's, such as CoreDNS. Such a pod has an
/// ordinary network.
pub fn is_proof(answer: &str, question: &str) -> bool {
    let mut asked = answer.lines().filter_map(|line| line.strip_prefix(question)?.split_once(' '));
    asked.any(|(which, pod)| ["-of", "-from"].contains(&which) && pod.starts_with("kube-system/"))
}
