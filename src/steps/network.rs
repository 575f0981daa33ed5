//! network: the objects of the network that connects the pods. The cluster's own DNS runs on top of it.

use serde_json::{Value, json};

use crate::cluster::{Cluster, Network};
use crate::error::Result;
use crate::manifest::Whose;
use crate::shell::{APPLY, OBJECTS, Sh, here, kubectl, kubectl_apply, sh};
use crate::step::{Ask, Cx, Object, Step, Verdict, Want, trim};
use crate::template;

pub const STEP: Step = Step { name: "network", why: "a node becomes Ready only with a pod network", wants };

fn wants(cx: &Cx) -> Result<Vec<Want>> {
    let objects = objects(cx.cluster)?;
    let whose = if matches!(cx.cluster.network, Network::Flannel(_)) { Whose::Ours } else { Whose::Users };
    let fix = fix(&objects, whose)?;
    let mut wants: Vec<Want> =
        objects.iter().map(|object| Want::object("network.object", object, whose, &fix)).collect();
    let flannel = Object::new("apps/v1", "DaemonSet", "kube-flannel", "flannel");
    if whose == Whose::Users && !objects.iter().any(|object| Object::of(object) == flannel) {
        wants.push(no_flannel(flannel));
    }
    Ok(wants)
}

/// The want that flannel does not run beside another network. An inventory that once had `network = "flannel"` left it in the
/// cluster. Its pods go on writing flannel's configuration on each node, and two networks conflict there. Only the operator
/// knows which pods depend on it.
fn no_flannel(object: Object) -> Want {
    Want::new("network.no-flannel", "the cluster does not run flannel beside its own network")
        .ask(Ask::Objects(vec![object.clone()]))
        .judged_object(move |present| match present.is_some_and(runs_flannel) {
            false => Verdict::Holds,
            true => Verdict::Differs { have: format!("{object}\n"), want: String::new() },
        })
        .by_hand(
            "set network = \"flannel\" under [cluster] again, or remove the flannel of the earlier inventory: \
             kubectl delete namespace kube-flannel; kubectl delete clusterrole,clusterrolebinding flannel; then on each node: \
             rm -f /etc/cni/net.d/10-flannel.conflist; ip link delete flannel.1; then delete the pods that have its addresses",
        )
}

fn runs_flannel(object: &Value) -> bool {
    let label = |of: &str| object.pointer(&format!("{of}/labels/app")) == Some(&json!("flannel"));
    label("/metadata") || label("/spec/template/metadata")
}

/// Shell that applies all objects in one call. The order is that of the files, which define a kind before they use it. If the
/// network does not exist yet, nothing has to be trimmed.
fn fix(objects: &[Value], whose: Whose) -> Result<Sh> {
    let all = template::yaml(objects)?;
    let trimmed: Vec<(String, Sh)> = objects
        .iter()
        .map(|object| (object.to_string(), trim(object, whose)))
        .filter(|(_, trim)| !trim.is_empty())
        .collect();
    if trimmed.is_empty() {
        return Ok(kubectl_apply(&all));
    }
    let documents: Vec<&str> = trimmed.iter().map(|(object, _)| object.as_str()).collect();
    let there = here(Sh::raw("kubectl get --ignore-not-found -o name -f -"), &documents.join("\n---\n"));
    let trims: Sh = trimmed.iter().map(|(_, trim)| trim.clone()).collect();
    Ok(kubectl()
        + OBJECTS
        + sh!("there=$({there})\nif [ -n \"$there\" ]; then\n{trims}fi\n", there, trims)
        + here(APPLY, &all))
}

/// All objects of the network.
pub(super) fn objects(cluster: &Cluster) -> Result<Vec<Value>> {
    Ok(match &cluster.network {
        Network::None => vec![],
        Network::Manifests(files) => files.iter().flat_map(|file| file.objects.clone()).collect(),
        Network::Flannel(images) => {
            let values =
                json!({"pods": cluster.pods.to_string(), "image": images.image, "plugin": images.plugin});
            template::documents("flannel.yaml", &template::render("flannel.yaml", values)?)?
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Flannel;

    #[test]
    fn leftover_flannel_is_recognized_by_its_label() {
        let daemons = |app: &str| json!({"spec": {"template": {"metadata": {"labels": {"app": app}}}}});
        assert!(runs_flannel(&daemons("flannel")) && !runs_flannel(&daemons("mine")));
    }

    #[test]
    fn leftover_flannel_is_searched_under_another_network() {
        use crate::fleet::Fleet;
        use crate::machine::Machine;
        use crate::pki::ClusterPki;
        use crate::pki::tests::NOW;

        let mut cluster = crate::pki::tests::cluster();
        let pki = ClusterPki::make(&cluster, NOW).unwrap();
        let (machine, fleet) = (Machine::default(), Fleet::default());
        let mut looks = |network: Network| {
            cluster.network = network;
            let node = &cluster.nodes[0];
            let cx = Cx { cluster: &cluster, node, pki: &pki, now: NOW, machine: &machine, fleet: &fleet };
            wants(&cx).unwrap().iter().any(|want| want.that.contains("flannel beside"))
        };
        let own = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"namespace": "kube-flannel", "name": "flannel"}});
        let manifests =
            |objects| Network::Manifests(vec![crate::cluster::Manifest { path: "x".into(), objects }]);
        assert!(looks(Network::None) && looks(manifests(vec![])));
        assert!(!looks(manifests(vec![own])), "the operator deploys flannel in these manifests");
        let images = Flannel { image: "a".into(), plugin: "b".into() };
        assert!(!looks(Network::Flannel(images)));
    }

    #[test]
    fn an_image_keeps_its_digest() {
        let digest = |c: &str| format!("docker.io/flannel/x:v1@sha256:{}", c.repeat(64));
        let (image, plugin) = (digest("a"), digest("b"));
        let mut cluster = crate::pki::tests::cluster();
        cluster.network = Network::Flannel(Flannel { image: image.clone(), plugin: plugin.clone() });
        let objects = objects(&cluster).unwrap();
        let daemons = objects.iter().find(|object| object["kind"] == "DaemonSet").unwrap();
        let pod = &daemons["spec"]["template"]["spec"];
        let images = |list: &str| -> Vec<&str> {
            pod[list].as_array().unwrap().iter().map(|it| it["image"].as_str().unwrap()).collect()
        };
        assert_eq!(images("initContainers"), [plugin.as_str(), &image]);
        assert_eq!(images("containers"), [image.as_str()]);
    }
}
