//! network: what connects the pods, and the cluster's own DNS on top of it.

use serde_json::{Value, json};

use crate::cluster::{Cluster, Network};
use crate::error::Result;
use crate::manifest::Whose;
use crate::shell::{APPLY, OBJECTS, Sh, here, kubectl, kubectl_apply, sh};
use crate::step::{Cx, Step, Want, trim};
use crate::template;

pub const STEP: Step = Step { name: "network", why: "a node is ready once pods can reach each other", wants };

fn wants(cx: &Cx) -> Result<Vec<Want>> {
    let objects = objects(cx.cluster)?;
    let whose = if matches!(cx.cluster.network, Network::Flannel(_)) { Whose::Ours } else { Whose::Users };
    let fix = fix(&objects, whose)?;
    Ok(objects.iter().map(|object| Want::object(object, whose, &fix)).collect())
}

/// One call for all: kinds before what is of that kind, as the files have it. Of a network that is not there yet nothing
/// has to be taken out.
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

/// All that the network is made of.
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
