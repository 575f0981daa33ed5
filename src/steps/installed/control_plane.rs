//! Wants that the control plane needs to work. They are about the rights of the administrators, the rights of its
//! components, and the admission of its pods to Namespace kube-system.

use serde_json::Value;

use super::{controllers, documents, install, roles};
use crate::error::Result;
use crate::manifest::Whose;
use crate::shell::{kubectl, sh};
use crate::step::{Ask, Cx, Object, Verdict, WITH_THE_CLUSTER, Want};
use crate::steps::member::rights;

pub(super) fn wants(cx: &Cx, values: &Value) -> Result<Vec<Want>> {
    let mut wants = Vec::new();
    for object in documents(values, "administrators.yaml")? {
        let want = Want::object("kubeadm-objects.object", &object, Whose::Ours, &install(&object)?);
        let ours = object["metadata"]["name"] == "kubeadm:cluster-admins";
        // This binding gives ironstrap itself the right to change things.
        wants.push(if ours { rights::bound(cx, want) } else { want });
    }
    wants.push(roles::want(cx));
    wants.push(controllers::want(cx));
    wants.push(admits());
    Ok(wants)
}

/// The label by which Pod Security rejects pods (`k8s.io/pod-security-admission/api`). Without the label, there is no such
/// rule.
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

/// The want that kube-system admits the pods of the control plane. If it does not, running pods stay, but pods of
/// kube-proxy and of the control plane do not come back.
fn admits() -> Want {
    Want::new("kubeadm-objects.admission", "Namespace kube-system admits the pods of the control plane")
        .ask(Ask::Objects(vec![Object::new("v1", "Namespace", "", "kube-system")]))
        .judged_object(judge_admission)
        .run(
            kubectl()
                + sh!(
                    "kubectl label namespace kube-system {label} >/dev/null",
                    label = format!("{ENFORCE}-")
                ),
        )
        .nothing_to_undo(WITH_THE_CLUSTER)
}

fn judge_admission(namespace: Option<&Value>) -> Verdict {
    // Every cluster has this Namespace, so it is absent only where no cluster runs.
    let Some(namespace) = namespace else { return Verdict::Holds };
    let label = namespace.pointer("/metadata/labels").and_then(|labels| labels.get(ENFORCE)?.as_str());
    match label {
        None | Some("" | "privileged") => Verdict::Holds,
        Some(level) => Verdict::Differs {
            have: format!("label {ENFORCE}={level}\n"),
            want: format!("label {ENFORCE}=privileged, or none\n"),
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_label_that_rejects_pods_is_reported() {
        let judge = |labels: Value| judge_admission(Some(&json!({"metadata": {"labels": labels}})));
        for labels in [
            json!({}),
            json!({ENFORCE: "privileged"}),
            json!({"pod-security.kubernetes.io/warn": "restricted"}),
        ] {
            assert_eq!(judge(labels.clone()), Verdict::Holds, "{labels}");
        }
        for level in ["baseline", "restricted"] {
            let Verdict::Differs { have, .. } = judge(json!({ENFORCE: level})) else { panic!("{level}") };
            assert!(have.contains(level), "{have}");
        }
        assert_eq!(judge_admission(None), Verdict::Holds);
    }
}
