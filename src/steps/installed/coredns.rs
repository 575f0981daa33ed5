//! CoreDNS as kubeadm installs it, with the replicas and the Corefile of the inventory. If the inventory does not set them,
//! the present ones stay.

use serde_json::{Value, json};

use super::{FUNCTIONS, documents, install, put, then};
use crate::error::Result;
use crate::manifest::{self, Whose};
use crate::shell::{OBJECTS, kubectl, sh};
use crate::step::{Ask, Confirmation, Cx, Object, Verdict, WITH_THE_CLUSTER, Want, leaving};

/// The number of replicas that kubeadm installs.
const REPLICAS: u64 = 2;
const PODS: &str = "deployment/coredns";

/// The confirmation to replace an edited Corefile. A cluster may resolve its names by what somebody wrote into it.
pub const REPLACE_COREFILE: Confirmation = Confirmation {
    option: "--replace-corefile",
    question: "Replace this Corefile, with a copy in ConfigMap kube-system/coredns-replaced?",
    kept: "the Corefile in ConfigMap kube-system/coredns was edited; ironstrap kept it",
    hint: "to keep the Corefile, save it beside the inventory and name the file as `corefile` in [coredns]; \
           to replace it: `ironstrap apply --replace-corefile`",
};

/// The image of CoreDNS, which the inventory may take from elsewhere. The versions are those of kubeadm's `constants.go`.
/// Within a minor version, no patch release has changed it (compared: 1.32.0, 1.33.12, 1.34.8, 1.35.5, 1.36.3, 1.37.0).
pub(super) fn image(configuration: &Value, minor: u64) -> String {
    let text = |pointer: &str| configuration.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let tag = match (text("/dns/imageTag"), minor) {
        ("", ..=32) => "v1.11.3",
        ("", 33) => "v1.12.0",
        ("", 34) => "v1.12.1",
        ("", 35) => "v1.13.1",
        ("", 36) => "v1.14.2",
        ("", _) => "v1.14.6",
        (tag, _) => tag,
    };
    let repository = match text("/dns/imageRepository") {
        "" => text("/imageRepository"),
        repository => repository,
    };
    // Only in that repository is the image one level deeper (kubeadm `images.go`, `GetDNSImage`).
    let deeper = if repository == "registry.k8s.io" { "/coredns" } else { "" };
    format!("{repository}{deeper}/coredns:{tag}")
}

pub(super) fn wants(cx: &Cx, values: &Value) -> Result<Vec<Want>> {
    let want = |object: &Value| match object["kind"].as_str() {
        Some("Deployment") => deployment(cx, object),
        Some("ConfigMap") => corefile(cx, object),
        _ => Ok(Want::object(
            "kubeadm-objects.object",
            object,
            Whose::Ours,
            &(install(object)? + then(object, PODS)),
        )),
    };
    documents(values, "coredns.yaml")?.iter().map(want).collect()
}

fn deployment(cx: &Cx, object: &Value) -> Result<Want> {
    let (wanted, mut manifest) = (cx.cluster.coredns.replicas, object.clone());
    manifest["spec"]["replicas"] = json!(wanted.map_or(REPLICAS, u64::from));
    let function = if wanted.is_some() { "put_object" } else { "put_deployment" };
    let fix = kubectl() + OBJECTS + FUNCTIONS + put(function, &manifest)?;
    let exactly = wanted.is_some();
    let want = Want::object("kubeadm-objects.object", object, Whose::Ours, &fix);
    Ok(want.judged_object(move |object| judge_deployment(object, &manifest, exactly)))
}

/// The verdict on the Deployment. `exactly`: the inventory sets the number of replicas.
fn judge_deployment(have: Option<&Value>, manifest: &Value, exactly: bool) -> Verdict {
    let Some(have) = have else {
        return Verdict::Differs { have: String::new(), want: format!("{}\n", Object::of(manifest)) };
    };
    if let Some(leaving) = leaving(have) {
        return leaving;
    }
    let mut wanted = manifest.clone();
    let present = have.pointer("/spec/replicas").filter(|replicas| !exactly && **replicas != 0);
    if let Some(present) = present {
        wanted["spec"]["replicas"] = present.clone();
    }
    let differences = manifest::differences(&wanted, have, Whose::Ours);
    let (have, want) = manifest::texts(&differences);
    if differences.is_empty() { Verdict::Holds } else { Verdict::Differs { have, want } }
}

fn corefile(cx: &Cx, object: &Value) -> Result<Want> {
    let (mut manifest, ours) = (object.clone(), cx.cluster.coredns.corefile.is_some());
    if let Some(corefile) = &cx.cluster.coredns.corefile {
        manifest["data"]["Corefile"] = json!(corefile);
    }
    let fix = kubectl() + OBJECTS + FUNCTIONS + "corefile_kept\n" + put("put_object", &manifest)?;
    let right = manifest["data"]["Corefile"].as_str().unwrap_or_default().to_string();
    let whose = if ours { "the inventory's" } else { "kubeadm's" };
    Ok(Want::new("kubeadm-objects.corefile", format!("ConfigMap kube-system/coredns has {whose} Corefile"))
        .ask(Ask::Objects(vec![Object::of(&manifest)]))
        .judged_object(move |object| judge_corefile(object, &right, ours))
        .run(fix + sh!("restarted {PODS}", PODS))
        .nothing_to_undo(WITH_THE_CLUSTER))
}

/// The verdict on the Corefile. `ours`: the right Corefile is the inventory's.
fn judge_corefile(object: Option<&Value>, right: &str, ours: bool) -> Verdict {
    if let Some(leaving) = object.and_then(leaving) {
        return leaving;
    }
    let have = object.and_then(|object| object.pointer("/data/Corefile")).and_then(Value::as_str);
    let have = have.unwrap_or_default();
    // Space at the end of a line has no meaning, and would be a line of a diff.
    let plain = |text: &str| -> String {
        text.trim_end().lines().map(|line| format!("{}\n", line.trim_end())).collect()
    };
    match (plain(have), plain(right)) {
        (have, want) if have == want => Verdict::Holds,
        (have, want) if ours || have.is_empty() => Verdict::Differs { have, want },
        (have, want) => Verdict::Unconfirmed { have, want, confirmation: &REPLACE_COREFILE },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_is_the_one_of_kubeadm() {
        let image = |configuration: Value, minor: u64| image(&configuration, minor);
        let registry = |name: &str| json!({"imageRepository": name});
        assert_eq!(image(registry("registry.k8s.io"), 36), "registry.k8s.io/coredns/coredns:v1.14.2");
        assert_eq!(image(registry("mirror.example.com/k8s"), 33), "mirror.example.com/k8s/coredns:v1.12.0");
        let both = json!({"imageRepository": "registry.k8s.io", "dns": {"imageRepository": "r.io/x", "imageTag": "v9"}});
        assert_eq!(image(both, 36), "r.io/x/coredns:v9");
    }

    #[test]
    fn replicas_are_kept_unless_zero_or_in_the_inventory() {
        let manifest = json!({"spec": {"replicas": 2, "paused": false}});
        let judge = |n: u64, exactly: bool| {
            judge_deployment(Some(&json!({"spec": {"replicas": n}})), &manifest, exactly)
        };
        for (n, exactly, holds) in [
            (2, false, true),
            (5, false, true),
            (1, false, true),
            (0, false, false),
            (5, true, false),
            (2, true, true),
        ] {
            assert_eq!(judge(n, exactly) == Verdict::Holds, holds, "{n} {exactly}");
        }
        assert!(matches!(judge_deployment(None, &manifest, false), Verdict::Differs { .. }));
    }

    #[test]
    fn only_an_edited_corefile_needs_a_confirmation() {
        let object = |text: &str| json!({"data": {"Corefile": text}});
        let right = ".:53 {\n    forward . /etc/resolv.conf\n}\n";
        assert_eq!(judge_corefile(Some(&object(right.trim_end())), right, false), Verdict::Holds);
        for nothing in [None, Some(json!({})), Some(object(" \n"))] {
            let verdict = judge_corefile(nothing.as_ref(), right, false);
            assert!(matches!(verdict, Verdict::Differs { .. }), "{nothing:?}");
        }
        let other = object(&right.replace("/etc/resolv.conf", "192.0.2.1"));
        assert!(matches!(judge_corefile(Some(&other), right, true), Verdict::Differs { .. }));
        let Verdict::Unconfirmed { have, want, confirmation } = judge_corefile(Some(&other), right, false)
        else {
            panic!("an ordinary yes replaces it")
        };
        assert!(have.contains("forward . 192.0.2.1") && want == right, "{have}");
        assert_eq!(*confirmation, REPLACE_COREFILE);
    }
}
