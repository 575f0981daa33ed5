//! addons: the user's own manifests, one addon after the other. ironstrap keeps their objects as the files have them.
//! Anything that is taken out of a manifest stays in the cluster.

use serde_json::{Value, json};

use crate::cluster::Addon;
use crate::error::Result;
use crate::fleet::Blocked;
use crate::manifest::Whose;
use crate::shell::{APPLY, OBJECTS, Sh, here, kubectl, kubectl_apply, sh};
use crate::step::{Cx, Expect, Object, Step, Verdict, Want, rollout, trim};
use crate::template;

pub const STEP: Step = Step { name: "addons", why: "your own manifests are part of the cluster", wants };

/// The label that says on each object which addon it belongs to. With it, everything that an addon once brought can be found.
const LABEL: &str = "ironstrap.dev/addon";

/// The kind whose objects define further kinds.
const KIND: &str = "CustomResourceDefinition";

fn wants(cx: &Cx) -> Result<Vec<Want>> {
    // Addons do not wait for a quarantined node.
    let mut nodes = cx.cluster.nodes.iter().filter(|node| !cx.fleet.quarantined.contains(&node.name));
    let joins = nodes.find_map(|node| cx.fleet.before_known(&node.name));
    let (mut wants, mut held) = (Vec::new(), None);
    for addon in &cx.cluster.addons {
        let mut objects: Vec<Value> = addon.objects.iter().map(|object| labelled(addon, object)).collect();
        // Namespaces and kinds come before the objects that need them, wherever the file has them.
        objects.sort_by_key(|object| match text(object, "kind") {
            "Namespace" => 0,
            KIND => 1,
            _ => 2,
        });
        for object in &objects {
            let that = format!("{} matches addon {}", Object::of(object), addon.name);
            wants.push(after(
                &held,
                Want { that, ..Want::object("addons.object", object, Whose::Users, &apply(object)?) },
            ));
        }
        let running = rollout::running(&objects);
        if addon.wait && !running.is_empty() {
            wants.push(
                rollout::available(
                    cx,
                    "addons.available",
                    format!("addon {} is available", addon.name),
                    running,
                )
                .of(&addon.name),
            );
            held = joins.clone();
        }
    }
    Ok(wants)
}

/// Makes a missing object wait for the addons before it, and so for the nodes that those addons wait for. ironstrap repairs
/// an object that exists even while nodes are missing.
fn after(held: &Option<Blocked>, want: Want) -> Want {
    let (Some(for_what), Expect::JudgedObjects(judge)) = (held.clone(), want.expect.clone()) else {
        return want;
    };
    want.judged_objects(move |objects| match judge(objects) {
        Verdict::Differs { have, want } if objects == [None] => {
            Verdict::Waits { have, want, for_what: for_what.clone() }
        }
        verdict => verdict,
    })
}

fn labelled(addon: &Addon, object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        let labels = metadata.entry("labels").or_insert(Value::Null);
        if labels.is_null() {
            *labels = json!({});
        }
        if let Some(labels) = labels.as_object_mut() {
            labels.insert(LABEL.into(), json!(addon.name));
        }
    }
    object
}

/// Shell that applies one object. Each object has its own fix. So an object that is right keeps what another program has
/// filled in since.
fn apply(object: &Value) -> Result<Sh> {
    let (yaml, trim) = (template::yaml(std::slice::from_ref(object))?, trim(object, Whose::Users));
    let mut script = match trim.is_empty() {
        true => kubectl_apply(&yaml),
        false => kubectl() + OBJECTS + trim + here(APPLY, &yaml),
    };
    if text(object, "kind") == KIND {
        let kind = format!("crd/{}", text(&object["metadata"], "name"));
        script += sh!("retry kubectl wait --for=condition=Established --timeout=20s {kind} >/dev/null", kind);
    }
    Ok(script)
}

fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object[key].as_str().unwrap_or_default()
}
