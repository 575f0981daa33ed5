//! nodes: the API server admits new pods. A webhook that does not answer, a quota or a policy may refuse them while
//! everything that runs goes on. Then a pod that ends does not come back, and pods of a DaemonSet seem to be missing from
//! their nodes.

use crate::fleet::Blocked;
use crate::shell::{KUBECTL, Sh, sh};
use crate::step::{Ask, Cx, Verdict, WITH_THE_CLUSTER, Want};

const FUNCTIONS: Sh = Sh::raw(include_str!("../../../templates/new-pods.sh"));

pub(super) fn want(cx: &Cx) -> Want {
    let image = cx.cluster.pause_image();
    let waits = cx.cluster.nodes.iter().find_map(|node| cx.fleet.before_ready(&node.name));
    Want::new("nodes.new-pods", "the API server admits new pods")
        .ask(Ask::api(sh!(
            "{KUBECTL}{FUNCTIONS}new_pods {image}",
            KUBECTL,
            FUNCTIONS,
            image = image.as_str()
        )))
        .judged(move |answer| judge(answer, waits.as_ref()))
        .run(sh!("{KUBECTL}{FUNCTIONS}new_pods_refused {image}", KUBECTL, FUNCTIONS, image = image.as_str()))
        .eventually()
        .nothing_to_undo(WITH_THE_CLUSTER)
}

/// The end of kubectl's own words. The words of the API server follow.
const BEFORE: &str = "error when creating \"STDIN\": ";

/// The verdict on the answer. In kube-system every refusal counts, because kubeadm's own pods are there. The default
/// namespace stands for all namespaces of the users. There a refusal counts only if a webhook does not answer. Other
/// refusals are the users' own decision.
fn judge(answer: &str, waits: Option<&Blocked>) -> Verdict {
    let admitted =
        |namespace: &str| answer.lines().any(|line| line == format!("pod/ironstrap-in-{namespace}"));
    if admitted("default") && admitted("kube-system") {
        return Verdict::Holds;
    }
    let later =
        |have: &str, for_what| Verdict::Waits { have: have.into(), want: "an answer".into(), for_what };
    match waits {
        _ if answer.contains("error looking up service account") => {
            return later(
                "a new namespace has no ServiceAccount yet",
                Blocked::by_cluster("the controller manager to create it"),
            );
        }
        // A plan foresees a question that is asked once there is a cluster.
        Some(for_what) if answer.is_empty() => return later("no API server runs yet", for_what.clone()),
        None if answer.is_empty() => return Verdict::Holds,
        _ => {}
    }
    let errors = answer.lines().filter(|line| line.starts_with("Error from server"));
    let mut errors: Vec<&str> =
        errors.map(|line| line.split_once(BEFORE).map_or(line, |(_, why)| why)).collect();
    errors.dedup();
    if let Some(why) = errors.iter().find(|line| line.contains("does not support dry run")) {
        return Verdict::Unchecked((*why).into());
    }
    let any = |words: &[&str]| errors.iter().any(|line| words.iter().any(|words| line.contains(words)));
    let refused = any(&["is forbidden", "denied the request"]);
    match admitted("kube-system") {
        _ if any(&["failed calling webhook"]) => {
            Verdict::Differs { have: errors.join("\n"), want: String::new() }
        }
        // The step `member` reports that the administrator has no rights.
        _ if any(&["User \"kubernetes-admin\" cannot"]) => Verdict::Holds,
        true if refused => Verdict::Holds,
        false if refused => Verdict::Differs { have: errors.join("\n"), want: String::new() },
        _ => Verdict::Unknown(answer.lines().next().unwrap_or_default().into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(answer: &str) -> Verdict {
        super::judge(answer, None)
    }

    #[test]
    fn the_check_waits_until_the_cluster_is_ready() {
        let waits = Blocked::until("m1", "to join");
        let early = super::judge("", Some(&waits));
        assert!(matches!(early, Verdict::Waits { for_what, .. } if for_what == waits));
        let account = r#"Error from server (Forbidden): error when creating "STDIN": pods "ironstrap-in-default" is forbidden: error looking up service account default/default: serviceaccount "default" not found"#;
        assert!(matches!(judge(account), Verdict::Waits { .. }));
        assert_eq!(super::judge(BOTH, Some(&waits)), Verdict::Holds);
    }

    const BOTH: &str = "pod/ironstrap-in-default\npod/ironstrap-in-kube-system";

    #[test]
    fn failed_webhooks_and_refusals_in_kube_system_count() {
        let webhook = r#"Error from server (InternalError): error when creating "STDIN": Internal error occurred: failed calling webhook "c.example.com": failed to call webhook: service "gone" not found"#;
        let Verdict::Differs { have, .. } = judge(webhook) else { panic!() };
        assert!(have.starts_with("Internal error occurred: failed calling webhook"), "{have}");
        let one = format!("pod/ironstrap-in-kube-system\n{webhook}");
        assert!(matches!(judge(&one), Verdict::Differs { .. }), "a webhook of one namespace is enough");
        let refused = r#"Error from server (Forbidden): error when creating "STDIN": pods "ironstrap-in-NS" is forbidden: exceeded quota"#;
        let of = |other: &str, ns: &str| format!("pod/ironstrap-in-{other}\n{}", refused.replace("NS", ns));
        assert!(matches!(judge(&of("default", "kube-system")), Verdict::Differs { .. }));
        assert_eq!(
            judge(&of("kube-system", "default")),
            Verdict::Holds,
            "a quota in a user's namespace is intended"
        );
        assert_eq!((judge(BOTH), judge("")), (Verdict::Holds, Verdict::Holds));
        let warned = format!("Warning: would violate PodSecurity\n{BOTH}");
        assert_eq!(judge(&warned), Verdict::Holds);
    }

    #[test]
    fn a_failed_request_is_not_judged() {
        let away = "The connection to the server 198.18.0.11:6443 was refused - did you specify the right host or port?";
        assert_eq!(judge(away), Verdict::Unknown(away.into()));
        let dry = r#"Error from server (BadRequest): error when creating "STDIN": admission webhook "x" does not support dry run"#;
        assert!(matches!(judge(dry), Verdict::Unchecked(_)));
        let etcd = "Error from server: etcdserver: request timed out";
        assert_eq!(judge(etcd), Verdict::Unknown(etcd.into()));
        let rights = r#"Error from server (Forbidden): error when creating "STDIN": pods is forbidden: User "kubernetes-admin" cannot create resource "pods""#;
        assert_eq!(judge(rights), Verdict::Holds);
    }
}
