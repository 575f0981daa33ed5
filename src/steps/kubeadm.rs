//! kubeadm's v1beta4 configuration, with the inventory's own settings merged over those of ironstrap.

use serde_json::{Map, Value, json};

use crate::cluster::{Args, Cluster};
use crate::error::{Error, Kind, Result};
use crate::pki::CERTIFICATES_DIR;
use crate::shell::{Sh, here, sh};
use crate::step::Cx;
use crate::steps::preflight::kubeadm_checks::ONLY_OURS;
use crate::template;

/// The kubeconfig of a joining machine: where the API is, which CA to trust, and the credentials. It exists only while the
/// machine joins.
pub(super) const DISCOVERY: &str = "/run/ironstrap/discovery.conf";
/// The kubeconfig with which kubeadm init binds the administrators. RBAC does not restrict it.
pub(super) const SUPER_ADMIN: &str = "/etc/kubernetes/super-admin.conf";
/// The folder of kubeadm's patches. They exist only while kubeadm runs.
const PATCHES: &str = "/run/ironstrap/patches";
/// The Secret of the token in `kubeadm-init.yaml`. In earlier releases all machines joined with that token.
pub(super) const TOKEN: &str = "bootstrap-token-ironst";
/// Shell that deletes the Secret `TOKEN`. It comes after `KUBECTL`.
pub(super) const NO_TOKEN: &str =
    "retry kubectl -n kube-system delete secret bootstrap-token-ironst --ignore-not-found";

/// The configuration of init, cluster, kubelet and kube-proxy. `with_token` keeps the token of the template. `kubeadm init`
/// makes a token in any case, and this one lets nobody in.
pub(super) fn init(cx: &Cx, with_token: bool) -> Result<Vec<Value>> {
    let mut documents = rendered("kubeadm-init.yaml", values(cx))?;
    let [init, cluster, kubelet, proxy] = documents.as_mut_slice() else {
        return Err(not_a_table("kubeadm init"));
    };
    if !with_token {
        init.as_object_mut().map(|init| init.remove("bootstrapTokens"));
    }
    register(cx, init);
    components(cx.cluster, cluster);
    template::merge(cluster, &cx.cluster.kubeadm);
    template::merge(kubelet, &cx.cluster.kubelet);
    template::merge(proxy, &cx.cluster.kube_proxy);
    patches(cx, init);
    Ok(documents)
}

/// The configuration of the phases of init that run on a worker. A worker has the CA's certificate, but not its key.
/// kubeadm would take that for an external CA, and look for all files that such a CA must provide. So
/// `certificatesDir` does not name the folder of the certificate.
pub(super) fn worker(cx: &Cx) -> Result<Vec<Value>> {
    let mut documents = init(cx, false)?;
    let [_, cluster, kubelet, _] = documents.as_mut_slice() else {
        return Err(not_a_table("kubeadm init"));
    };
    cluster["certificatesDir"] = "/run/ironstrap/no-certificates".into();
    let authority = format!("{CERTIFICATES_DIR}/ca.crt");
    let mut whole = json!({"authentication": {"x509": {"clientCAFile": authority}}});
    template::merge(&mut whole, kubelet.as_object().unwrap_or(&Map::new()));
    *kubelet = whole;
    Ok(documents)
}

pub(super) fn join(cx: &Cx) -> Result<Vec<Value>> {
    let mut documents = rendered("kubeadm-join.yaml", values(cx))?;
    let [join] = documents.as_mut_slice() else { return Err(not_a_table("kubeadm join")) };
    register(cx, join);
    patches(cx, join);
    Ok(documents)
}

/// Names the folder in which kubeadm finds the settings of this node's kubelet alone. The cluster's ConfigMap does not have
/// them.
fn patches(cx: &Cx, document: &mut Value) {
    if !cx.node.kubelet.is_empty() {
        document["patches"] = json!({"directory": PATCHES});
    }
}

/// Shell that runs `script` with this configuration in the file `$c`. The file exists only while the script runs, however the
/// script ends.
pub(super) fn with(cx: &Cx, documents: &[Value], script: &Sh) -> Result<Sh> {
    let config = here("( umask 077; cat >$c )", &template::yaml(documents)?);
    let patch = match cx.node.kubelet.is_empty() {
        true => Sh::EMPTY,
        // kubeadm reads the target and the kind of the patch from the file's name.
        false => {
            let file = format!("{PATCHES}/kubeletconfiguration+merge.json");
            let patch = Value::from(cx.node.kubelet.clone()).to_string();
            sh!("mkdir -p {PATCHES}\nfleeting {file}\n", PATCHES, file)
                + here(sh!("cat >{file}", file), &patch)
        }
    };
    Ok(sh!(
        "mkdir -p -m 700 /run/ironstrap\nc=/run/ironstrap/kubeadm.yaml\nfleeting $c\n{patch}{config}{script}\nrm -f $c\n",
        patch,
        config,
        script
    ))
}

/// The kubelet's configuration alone, as this machine has it.
pub(super) fn kubelet(cx: &Cx) -> Result<Value> {
    let kubelet = init(cx, false)?.into_iter().nth(2);
    let mut kubelet = kubelet.ok_or_else(|| not_a_table("the kubelet's configuration"))?;
    template::merge(&mut kubelet, &cx.node.kubelet);
    Ok(kubelet)
}

fn rendered(name: &str, values: Value) -> Result<Vec<Value>> {
    template::documents(name, &template::render(name, values)?)
}

fn values(cx: &Cx) -> Value {
    let c = cx.cluster;
    json!({
        "ip": cx.node.ip.to_string(), "port": c.api_port(), "node": cx.node.name,
        "cluster": c.name, "kubernetes": c.kubernetes.to_string(), "endpoint": c.endpoint.to_string(),
        "images": c.image_repository, "pods": c.pods.to_string(), "services": c.services.to_string(),
        "domain": c.domain, "discovery": DISCOVERY, "control_plane": cx.node.is_control_plane(),
    })
}

/// Sets the part about this node, which the configurations of init and of join both have.
fn register(cx: &Cx, document: &mut Value) {
    let Some(registration) = document.get_mut("nodeRegistration").and_then(Value::as_object_mut) else {
        return;
    };
    let ours = |check: &&String| ONLY_OURS.iter().any(|name| name.eq_ignore_ascii_case(check));
    let theirs: Vec<&String> = cx.cluster.ignore_preflight.iter().filter(|check| !ours(check)).collect();
    if !theirs.is_empty() {
        registration.insert("ignorePreflightErrors".into(), json!(theirs));
    }
    // A worker has no taints of its own. If the configuration says nothing, kubeadm init sets those of a control plane.
    let none = || if cx.node.is_control_plane() { None } else { Some(vec![]) };
    if let Some(taints) = cx.node.taints.clone().or_else(none) {
        let taint = |t: &crate::cluster::Taint| json!({"key": t.key, "value": t.value, "effect": t.effect});
        registration.insert("taints".into(), taints.iter().map(taint).collect());
    }
}

fn components(cluster: &Cluster, document: &mut Value) {
    let mut over = Map::new();
    let mut component = |name: &str, args: &Args| {
        if !args.is_empty() {
            over.insert(name.into(), json!({"extraArgs": flags(args)}));
        }
    };
    component("controllerManager", &cluster.controller_manager);
    component("scheduler", &cluster.scheduler);
    component("apiServer", &cluster.api_server);
    if !cluster.etcd.is_empty() {
        over.insert("etcd".into(), json!({"local": {"extraArgs": flags(&cluster.etcd)}}));
    }
    template::merge(document, &over);
    if !cluster.api_names.is_empty() {
        let names = json!({"apiServer": {"certSANs": cluster.api_names}});
        template::merge(document, names.as_object().unwrap_or(&Map::new()));
    }
}

/// The flags as a list. They are a list since v1beta4, so that a flag can be given twice.
fn flags(args: &Args) -> Value {
    args.iter().map(|(name, value)| json!({"name": name, "value": value})).collect()
}

/// The error for a template that did not become a table. It names what the template is for.
fn not_a_table(what: &str) -> Error {
    Error::new(Kind::Local, format!("the template of {what} is not a table"))
}
