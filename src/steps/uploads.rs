//! uploads: the configuration that kubeadm keeps in the cluster is what it made of this inventory. Joining machines and
//! kube-proxy read it. A note on each object says what kubeadm wrote there, and from which settings.

use serde_json::{Value, json};

use crate::error::Result;
use crate::shell::{KUBECTL, Sh, kubectl, sh};
use crate::step::{Ask, Cx, Object, Step, Verdict, WITH_THE_CLUSTER, Want, sha256};
use crate::steps::kubeadm;

pub const STEP: Step =
    Step { name: "uploads", why: "joining nodes and kube-proxy read their settings from the cluster", wants };

/// The annotation about what kubeadm wrote: a hash of ironstrap's configuration, and a hash of kubeadm's own text.
const NOTE: &str = "ironstrap.dev/kubeadm";

/// A ConfigMap in kube-system that kubeadm writes.
struct Upload {
    name: &'static str,
    /// The keys of its data, as they are and as jsonpath has them.
    keys: &'static [(&'static str, &'static str)],
    /// The part of kubeadm's configuration that it is made of. The argument has the documents of init, cluster, kubelet and
    /// kube-proxy.
    from: fn(&[Value]) -> Value,
    phases: &'static [&'static str],
    /// Shell that restarts the programs that run with it. It is empty if nothing restarts.
    then: &'static str,
    /// Whether `member` has kubeadm make it once more if it is gone.
    made_by_member: bool,
}

const KUBEADM: Upload = Upload {
    name: "kubeadm-config",
    keys: &[("ClusterConfiguration", "{.data.ClusterConfiguration}")],
    from: |documents| documents[1].clone(),
    phases: &["upload-config kubeadm", "addon coredns"],
    then: "",
    made_by_member: true,
};
const KUBELET: Upload = Upload {
    name: "kubelet-config",
    keys: &[("kubelet", "{.data.kubelet}")],
    from: |documents| documents[2].clone(),
    phases: &["upload-config kubelet"],
    then: "",
    made_by_member: true,
};
const PROXY: Upload = Upload {
    name: "kube-proxy",
    keys: &[("config.conf", r"{.data.config\.conf}"), ("kubeconfig.conf", r"{.data.kubeconfig\.conf}")],
    // The settings of the API server do not concern kube-proxy.
    from: |documents| {
        let keys = ["controlPlaneEndpoint", "imageRepository", "kubernetesVersion", "networking"];
        json!([documents[3], keys.map(|key| documents[1][key].clone())])
    },
    phases: &["addon kube-proxy"],
    then: "retry kubectl -n kube-system rollout restart daemonset/kube-proxy\n",
    made_by_member: false,
};

fn uploads(cx: &Cx) -> Vec<Upload> {
    let phases = if cx.cluster.has_addon("dns") { KUBEADM.phases } else { &KUBEADM.phases[..1] };
    let mut all = vec![Upload { phases, ..KUBEADM }, KUBELET];
    if cx.cluster.has_addon("proxy") {
        all.push(PROXY);
    }
    all
}

fn wants(cx: &Cx) -> Result<Vec<Want>> {
    uploads(cx).iter().map(|upload| want(cx, upload)).collect()
}

fn want(cx: &Cx, upload: &Upload) -> Result<Want> {
    let (fingerprint, keys, made_by_member) = (fingerprint(cx, upload)?, upload.keys, upload.made_by_member);
    // kubeadm init makes these objects, and is not complete without them.
    Ok(Want::new(
        "kubeadm-config.config",
        format!("{} in the cluster is what kubeadm writes from this inventory", upload.name),
    )
    .of(upload.name)
    .ask(Ask::Objects(vec![Object::new("v1", "ConfigMap", "kube-system", upload.name)]))
    .judged_object(move |object| match object {
        None => gone(made_by_member),
        Some(object) => compare(object, keys, &fingerprint),
    })
    .run(again(cx, upload)?)
    .nothing_to_undo(WITH_THE_CLUSTER)
    .only(cx.fleet.exists))
}

fn compare(object: &Value, keys: &[(&str, &str)], fingerprint: &str) -> Verdict {
    let text =
        |key: &str| object.get("data").and_then(|data| data.get(key)).and_then(Value::as_str).unwrap_or("");
    let all: String = keys.iter().map(|(key, _)| text(key)).collect();
    let is = sha256(all.trim_end_matches('\n').as_bytes());
    let annotations = object.get("metadata").and_then(|metadata| metadata.get("annotations"));
    let note = annotations.and_then(|all| all.get(NOTE)).and_then(Value::as_str).unwrap_or_default();
    let (from, was) = note.split_once(' ').unwrap_or_default();
    let mut changed: Vec<&str> = Vec::new();
    if from != fingerprint {
        changed.push("the inventory's settings changed since kubeadm wrote it");
    }
    if was != is {
        changed.push("it was edited since kubeadm wrote it");
    }
    match changed.is_empty() {
        true => Verdict::Holds,
        false => differs(&changed.join("\n")),
    }
}

fn gone(made_by_member: bool) -> Verdict {
    if made_by_member { Verdict::Holds } else { differs("it does not exist") }
}

fn differs(have: &str) -> Verdict {
    Verdict::Differs { have: have.into(), want: "written by kubeadm from this inventory".into() }
}

/// The hash of the configuration that the object is made of.
fn fingerprint(cx: &Cx, upload: &Upload) -> Result<String> {
    Ok(sha256((upload.from)(&kubeadm::init(cx, false)?).to_string().as_bytes()))
}

/// Shell that notes on an object what kubeadm just wrote there, and from which settings.
fn note(cx: &Cx, upload: &Upload) -> Result<Sh> {
    let (name, fingerprint) = (upload.name, fingerprint(cx, upload)?);
    let keys: Sh = upload.keys.iter().map(|(_, path)| Sh::raw(path)).collect();
    Ok(sh!(
        "text=$(kubectl -n kube-system get configmap {name} -o 'jsonpath={keys}')\nhash=$(printf %s \"$text\" | sha256sum)\n\
         kubectl -n kube-system annotate --overwrite configmap {name} {note}\" ${hash%% *}\" >/dev/null\n",
        name,
        keys,
        note = format!("{NOTE}={fingerprint}")
    ))
}

/// Shell that writes the note on all of these objects, right after kubeadm init.
pub(super) fn noted(cx: &Cx) -> Result<Sh> {
    let notes: Result<Sh> = uploads(cx).iter().map(|upload| note(cx, upload)).collect();
    Ok(KUBECTL + notes?)
}

fn again(cx: &Cx, upload: &Upload) -> Result<Sh> {
    let phase =
        |phase: &&'static str| sh!("retry kubeadm init phase {phase} --config $c", phase = Sh::raw(phase));
    let script = kubectl() + Sh::join("\n", upload.phases.iter().map(phase));
    Ok(kubeadm::with(cx, &kubeadm::init(cx, false)?, &script)? + upload.then + note(cx, upload)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_differs_from_a_changed_inventory() {
        let hash = sha256(b"a: 1");
        let object = |text: &str, note: &str| json!({"metadata": {"annotations": {NOTE: note}}, "data": {"kubelet": text}});
        let compare = |text: &str, note: String| compare(&object(text, &note), KUBELET.keys, "F");
        assert_eq!(compare("a: 1\n", format!("F {hash}")), Verdict::Holds);
        let have =
            |verdict| if let Verdict::Differs { have, .. } = verdict { have } else { panic!("{verdict:?}") };
        assert_eq!(have(compare("a: 2\n", format!("F {hash}"))), "it was edited since kubeadm wrote it");
        assert_eq!(
            have(compare("a: 1\n", format!("G {hash}"))),
            "the inventory's settings changed since kubeadm wrote it"
        );
        assert!(!have(compare("a: 1\n", String::new())).is_empty(), "its origin is unknown");
        assert_eq!(gone(KUBELET.made_by_member), Verdict::Holds);
        assert_eq!(have(gone(PROXY.made_by_member)), "it does not exist");
    }
}
