//! installed: the objects that kubeadm installs in the cluster are right. These are the rights of administrators, of the
//! control plane and of joining nodes, cluster-info, kube-proxy and CoreDNS. `uploads` compares the settings that kubeadm
//! keeps. The right values are those of kubeadm's own manifests, which are the same for a range of minor versions.
//! `templates/` has these manifests, and the inventory fills in its values.

use serde_json::{Value, json};

use crate::error::Result;
use crate::manifest::{self, Whose};
use crate::pki;
use crate::shell::{OBJECTS, PODS, Sh, here, kubectl, sh};
use crate::step::{Ask, Cx, Object, Step, Verdict, WITH_THE_CLUSTER, Want, leaving};
use crate::steps::kubeadm;
use crate::template;
use crate::yaml;

mod control_plane;
mod controllers;
mod coredns;
mod left;
mod roles;

pub use coredns::REPLACE_COREFILE;

pub const STEP: Step = Step {
    name: "installed",
    why: "joins, Services and DNS depend on what kubeadm installs in the cluster",
    wants,
};

const FUNCTIONS: Sh = Sh::raw(include_str!("../../templates/installed.sh"));

/// Whether this step compares the object, and so repairs it. On a control plane that is complete, `member` leaves a missing
/// object of this kind to this step.
pub(super) fn mends(object: &Object) -> bool {
    let names = [("kube-public", "cluster-info"), ("kube-system", "kube-proxy"), ("kube-system", "coredns")];
    names.contains(&(&*object.namespace, &*object.name))
}

fn wants(cx: &Cx) -> Result<Vec<Want>> {
    let (mut wants, values): (Vec<Want>, Value) = (Vec::new(), values(cx)?);
    for object in documents(&values, "bootstrap.yaml")? {
        wants.push(Want::object("kubeadm-objects.object", &object, Whose::Ours, &install(&object)?));
    }
    wants.extend(control_plane::wants(cx, &values)?);
    wants.push(cluster_info(cx)?);
    if cx.cluster.has_addon("proxy") {
        for object in documents(&values, "kube-proxy.yaml")? {
            let fix = install(&object)? + then(&object, "daemonset/kube-proxy");
            wants.push(Want::object("kubeadm-objects.object", &object, Whose::Ours, &fix));
        }
    }
    if cx.cluster.has_addon("dns") {
        wants.extend(coredns::wants(cx, &values)?);
    }
    wants.extend(left::wants(cx.cluster));
    // `kubeadm init` makes all of them, and is not complete without them.
    Ok(wants.into_iter().map(|want| want.only(cx.fleet.exists)).collect())
}

/// The objects of a template, as kubeadm would make them from this inventory.
fn documents(values: &Value, name: &str) -> Result<Vec<Value>> {
    template::documents(name, &template::render(name, values.clone())?)
}

fn values(cx: &Cx) -> Result<Value> {
    let documents = kubeadm::init(cx, false)?;
    let cluster = documents.get(1).cloned().unwrap_or_default();
    let text = |pointer: &str| cluster.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    Ok(json!({
        "proxy": format!("{}/kube-proxy:v{}", text("/imageRepository"), cx.cluster.kubernetes),
        "coredns": coredns::image(&cluster, cx.cluster.kubernetes.minor),
        "named_probes": cx.cluster.kubernetes.minor >= 34,
        "domain": text("/networking/dnsDomain"),
        "dns": cx.cluster.service_ip(10).to_string(),
    }))
}

/// Shell that puts an object of ironstrap's or kubeadm's into the cluster.
pub(super) fn install(object: &Value) -> Result<Sh> {
    Ok(kubectl() + OBJECTS + FUNCTIONS + put("put_object", object)?)
}

/// Shell that restarts the API server of this machine. When the API server starts, it adds what its own roles and bindings
/// lack.
fn api_again(node: &str) -> Sh {
    kubectl() + PODS + OBJECTS + FUNCTIONS + sh!("api_again {node}", node)
}

/// A call of the shell function `put_object` or `put_deployment`.
fn put(function: &'static str, object: &Value) -> Result<Sh> {
    let yaml = template::yaml(std::slice::from_ref(object))?;
    let put = match manifest::patch(object, Whose::Ours) {
        Some(patch) => sh!("{function} {patch}", function = Sh::raw(function), patch = patch.to_string()),
        None => Sh::raw(function),
    };
    Ok(here(put, &yaml))
}

/// Shell that restarts the pods of a new ServiceAccount. It is empty for any other object.
fn then(object: &Value, pods: &'static str) -> Sh {
    match object["kind"] == "ServiceAccount" {
        true => sh!("restarted {pods}", pods),
        false => Sh::EMPTY,
    }
}

/// The want for ConfigMap cluster-info. Machines that join with a token find the API and its CA there.
fn cluster_info(cx: &Cx) -> Result<Want> {
    let server = format!("https://{}", cx.cluster.endpoint);
    let ca = cx.pki.ca.cert.clone();
    let mut object = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "cluster-info", "namespace": "kube-public"},
    });
    let fix = {
        object["data"] = json!({"kubeconfig": cx.pki.cluster_info(&server)});
        install(&object)?
    };
    Ok(Want::new("kubeadm-objects.cluster-info", "ConfigMap kube-public/cluster-info points to this cluster")
        .ask(Ask::Objects(vec![Object::of(&object)]))
        .judged_object(move |object| judge_cluster_info(object, &server, &ca))
        .run(fix)
        .nothing_to_undo(WITH_THE_CLUSTER))
}

fn judge_cluster_info(object: Option<&Value>, server: &str, ca: &str) -> Verdict {
    if let Some(leaving) = object.and_then(leaving) {
        return leaving;
    }
    let text = object.and_then(|object| object.pointer("/data/kubeconfig")).and_then(Value::as_str);
    let kubeconfig: Value = text.and_then(|text| yaml::read(text).ok()).unwrap_or_default();
    let cluster = |key: &str| {
        let value = kubeconfig.pointer("/clusters/0/cluster").and_then(|cluster| cluster.get(key));
        value.and_then(Value::as_str).unwrap_or_default()
    };
    let theirs = match cluster("certificate-authority-data") {
        "" => "none",
        pem if pki::is_same_certificate(pem, ca) => "the cluster's",
        _ => "of another cluster",
    };
    let lines = |server: &str, ca: &str| format!("server: {server}\nCA: {ca}\n");
    match (cluster("server") == server && theirs == "the cluster's", text) {
        (true, _) => Verdict::Holds,
        (false, None) => Verdict::Differs { have: String::new(), want: lines(server, "the cluster's") },
        (false, _) => {
            Verdict::Differs { have: lines(cluster("server"), theirs), want: lines(server, "the cluster's") }
        }
    }
}
