//! Addons that kubeadm installed for an earlier inventory, and that this inventory turns off. They still run, and nothing
//! maintains them.

use serde_json::Value;

use crate::cluster::Cluster;
use crate::step::{Ask, Object, Verdict, Want};

/// Addons of kubeadm. Each has its name in kubeadm, its name for people, the kind and the name of the object that runs it,
/// its label, and the command that deletes it.
const ADDONS: [(&str, &str, &str, &str, &str, &str); 2] = [
    (
        "proxy",
        "kube-proxy",
        "DaemonSet",
        "kube-proxy",
        "kube-proxy",
        "kubectl -n kube-system delete daemonset/kube-proxy configmap/kube-proxy",
    ),
    (
        "dns",
        "CoreDNS",
        "Deployment",
        "coredns",
        "kube-dns",
        "kubectl -n kube-system delete deployment/coredns configmap/coredns",
    ),
];

pub(super) fn wants(cluster: &Cluster) -> Vec<Want> {
    let mut wants = Vec::new();
    for (addon, program, kind, name, label, delete) in ADDONS {
        let object = Object::new("apps/v1", kind, "kube-system", name);
        let is_own = cluster.addons.iter().flat_map(|own| &own.objects).any(|own| Object::of(own) == object);
        if cluster.has_addon(addon) || is_own {
            continue;
        }
        let want = Want::new(
            "kubeadm-objects.left-over",
            format!("whether the cluster still has kubeadm's {program}"),
        )
        .of(program);
        wants.push(want.ask(Ask::Objects(vec![object.clone()])).judged_object(move |present| {
            match present.is_some_and(|present| is_kubeadms(present, label)) {
                false => Verdict::Holds,
                true => Verdict::Noted(format!(
                    "the cluster still has {object}, although {addon}.disabled is set under [kubeadm]: ironstrap does not \
                     maintain it; to delete it: {delete}"
                )),
            }
        }));
    }
    wants
}

/// Whether kubeadm installed this object. An object that Helm installed in its place has the same labels, and one more that
/// names Helm.
fn is_kubeadms(object: &Value, label: &str) -> bool {
    let has = |key: &str| object.pointer("/metadata/labels").and_then(|labels| labels.get(key));
    has("k8s-app").and_then(Value::as_str) == Some(label) && has("app.kubernetes.io/managed-by").is_none()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn leftovers_of_a_disabled_addon_are_noted() {
        let mut cluster = crate::pki::tests::cluster();
        assert!(wants(&cluster).is_empty());
        cluster.kubeadm.insert("proxy".into(), json!({"disabled": true}));
        cluster.kubeadm.insert("dns".into(), json!({"disabled": true}));
        let wants = wants(&cluster);
        let judged = |at: usize, object: Option<&Value>| {
            let crate::step::Expect::JudgedObjects(judge) = &wants[at].expect else { panic!() };
            judge(&[object.cloned()])
        };
        let labelled = |labels: Value| json!({"metadata": {"labels": labels}});
        let proxy = labelled(json!({"k8s-app": "kube-proxy"}));
        assert!(
            matches!(judged(0, Some(&proxy)), Verdict::Noted(note) if note.ends_with("configmap/kube-proxy"))
        );
        let dns = labelled(json!({"k8s-app": "kube-dns"}));
        assert!(matches!(judged(1, Some(&dns)), Verdict::Noted(note) if note.contains("dns.disabled")));
        let helms = labelled(json!({"k8s-app": "kube-dns", "app.kubernetes.io/managed-by": "Helm"}));
        for object in [None, Some(&proxy), Some(&helms)] {
            assert_eq!(judged(1, object), Verdict::Holds, "{object:?}");
        }
    }

    #[test]
    fn the_operators_own_addon_is_no_leftover() {
        let mut cluster = crate::pki::tests::cluster();
        cluster.kubeadm.insert("dns".into(), json!({"disabled": true}));
        let own = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"namespace": "kube-system", "name": "coredns"}});
        let addon = crate::cluster::Addon {
            name: "dns".into(),
            origin: crate::cluster::Origin::File,
            wait: false,
            objects: vec![own],
            written: "demo.toml:1".into(),
        };
        assert_eq!(wants(&cluster).len(), 1);
        cluster.addons.push(addon);
        assert!(wants(&cluster).is_empty());
    }
}
