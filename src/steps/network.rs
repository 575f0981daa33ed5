//! network: what connects the pods, and the cluster's own DNS on top of it.

use serde_json::{Value, json};

use crate::cluster::Network;
use crate::error::Result;
use crate::shell::kubectl_apply;
use crate::step::{Cx, Step, Want};
use crate::template;

pub const STEP: Step = Step { name: "network", why: "a node is ready once pods can reach each other", wants };

fn wants(cx: &Cx) -> Result<Vec<Want>> {
    let objects = match &cx.cluster.network {
        Network::None => return Ok(vec![]),
        Network::Manifests(files) => files.iter().flat_map(|file| file.objects.clone()).collect(),
        Network::Flannel(images) => {
            let values =
                json!({"pods": cx.cluster.pods.to_string(), "image": images.image, "plugin": images.plugin});
            template::documents("flannel.yaml", &template::render("flannel.yaml", values)?)?
        }
    };
    let objects: Vec<Value> = objects;
    // One call for all: kinds before what is of that kind, as the files have it.
    let fix = kubectl_apply(&template::yaml(&objects)?);
    Ok(objects.iter().map(|object| Want::object(object, &fix)).collect())
}
