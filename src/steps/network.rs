//! network: what connects the pods, and the cluster's own DNS on top of it.

use serde_json::{Value, json};

use crate::cluster::{Cluster, Network};
use crate::error::Result;
use crate::shell::kubectl_apply;
use crate::step::{Cx, Step, Want};
use crate::template;

pub const STEP: Step = Step { name: "network", why: "a node is ready once pods can reach each other", wants };

fn wants(cx: &Cx) -> Result<Vec<Want>> {
    let objects = objects(cx.cluster)?;
    // One call for all: kinds before what is of that kind, as the files have it.
    let fix = kubectl_apply(&template::yaml(&objects)?);
    Ok(objects.iter().map(|object| Want::object(object, &fix)).collect())
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
