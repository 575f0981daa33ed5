//! serving: with `serverTLSBootstrap` a kubelet answers the API server with a certificate that the cluster signs. Nothing that
//! kubeadm installs approves the kubelet's request for it (kubernetes.io, "TLS bootstrapping"), so ironstrap does: one that is exactly what
//! the inventory says of the node. Every other request is named, and left.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::cluster::{Cluster, Node};
use crate::error::Result;
use crate::pki::why_not_served;
use crate::shell::{KUBECTL, SERVING, Sh, here, sh};
use crate::step::{Ask, Cx, Step, Verdict, WITH_THE_CLUSTER, Want};

pub const STEP: Step =
    Step { name: "serving", why: "kubectl logs, exec and top reach a kubelet by TLS", wants };

const SIGNER: &str = "kubernetes.io/kubelet-serving";

/// How many seconds a kubelet whose request is not right has for another one.
const AGAIN: u32 = 20;

const ASK: Sh = Sh::raw("[ -e /etc/kubernetes/manifests/kube-apiserver.yaml ] || exit 0\nserving_requests");

fn wants(cx: &Cx) -> Result<Vec<Want>> {
    let served: Vec<&Node> = cx.cluster.nodes.iter().filter(|node| asks(cx.cluster, node)).collect();
    if served.is_empty() {
        return Ok(vec![]);
    }
    let cluster = Arc::new(cx.cluster.clone());
    let mut wants: Vec<Want> = served.iter().map(|node| served_by(cx, &cluster, node)).collect();
    wants.push(left(cluster));
    Ok(wants.into_iter().map(|want| want.asks(Ask::large(KUBECTL + SERVING + ASK))).collect())
}

/// The kubelet of this node asks the cluster for the certificate that it serves with.
pub fn asks(cluster: &Cluster, node: &Node) -> bool {
    let key = "serverTLSBootstrap";
    node.kubelet.get(key).or_else(|| cluster.kubelet.get(key)) == Some(&Value::Bool(true))
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Pending,
    Signed,
    /// Approved, denied or failed.
    Decided,
}

/// A kubelet's request, as the API server has it.
#[derive(Debug)]
struct Request {
    name: String,
    user: String,
    created: String,
    state: State,
    object: Value,
}

impl Request {
    /// A line of `serving_requests`. Its last field is JSON, so no user can write a line.
    fn of(line: &str) -> Option<Request> {
        let fields: Vec<&str> = line.splitn(7, '\t').collect();
        let [name, uid, version, created, conditions, certificate, spec] = fields[..] else { return None };
        let spec: Value = serde_json::from_str(spec).ok()?;
        let state = match () {
            () if !certificate.is_empty() => State::Signed,
            () if !conditions.is_empty() => State::Decided,
            () => State::Pending,
        };
        let (user, metadata) = (
            spec["username"].as_str()?.to_string(),
            json!({"name": name, "uid": uid, "resourceVersion": version}),
        );
        let object = json!({"metadata": metadata, "spec": spec});
        Some(Request { name: name.into(), user, created: created.into(), state, object })
    }

    /// Those of an answer that this user made; without one, all.
    fn all(answer: &str, user: Option<&str>) -> std::result::Result<Vec<Request>, String> {
        let read = |line: &str| Request::of(line).ok_or_else(|| "a request cannot be read".to_string());
        let all: std::result::Result<Vec<Request>, String> = answer.lines().map(read).collect();
        Ok(all?.into_iter().filter(|request| user.is_none_or(|user| user == request.user)).collect())
    }

    /// Why it may not be approved; `None`: it may. Who asked is for the API server to say, which writes that into the object.
    fn why_not(&self, cluster: &Cluster, node: &Node) -> Option<String> {
        let spec = &self.object["spec"];
        let words = |key: &str| {
            let all = spec[key].as_array().into_iter().flatten().filter_map(Value::as_str);
            let mut all: Vec<&str> = all.collect();
            all.sort_unstable();
            all
        };
        let usages = words("usages");
        let few = ["digital signature", "server auth"];
        let more = ["digital signature", "key encipherment", "server auth"];
        match () {
            () if spec["signerName"] != SIGNER => Some("it is for another signer".into()),
            () if self.user != user(node) => Some(format!("{} asked for it", self.user)),
            () if !words("groups").contains(&"system:nodes") => {
                Some(format!("{} asked for it, outside of system:nodes", self.user))
            }
            () if usages != few && usages != more => {
                Some(format!("it asks for other usages: {}", usages.join(", ")))
            }
            () => why_not_served(spec["request"].as_str().unwrap_or_default(), cluster, node),
        }
    }

    /// The object as it is approved: of this uid and version, and of no other.
    fn approved(&self) -> String {
        let condition = json!({
            "type": "Approved", "status": "True", "reason": "IronstrapApprove",
            "message": "This node and its address are those of the inventory.",
        });
        json!({
            "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
            "metadata": self.object["metadata"], "spec": self.object["spec"], "status": {"conditions": [condition]},
        })
        .to_string()
    }
}

fn user(node: &Node) -> String {
    format!("system:node:{}", node.name)
}

/// What is to be done about one kubelet.
enum Next {
    Nothing,
    Approve(Request),
    /// For so many seconds, for another request than these; and what stands in the way.
    Await(Option<u32>, String, Vec<String>),
}

/// `unserved`: its machine has no such certificate. A kubelet makes a new key and a new request at each start, so of those that are
/// right the newest counts.
fn next(requests: Vec<Request>, cluster: &Cluster, node: &Node, unserved: bool) -> Next {
    let (mut right, mut wrong, mut names) = (None::<Request>, None, vec![]);
    for request in requests {
        names.push(request.name.clone());
        let why = request.why_not(cluster, node);
        let newer =
            |other: &Request| (&request.created, request.state == State::Pending) > (&other.created, false);
        match why {
            None if right.as_ref().is_none_or(newer) => right = Some(request),
            Some(why) if wrong.is_none() && request.state == State::Pending => {
                wrong = Some(format!("{} is not approved: {why}", request.name));
            }
            _ => {}
        }
    }
    match (right, wrong) {
        (Some(request), _) if request.state == State::Pending => Next::Approve(request),
        _ if !unserved => Next::Nothing,
        (_, Some(wrong)) => Next::Await(Some(AGAIN), wrong, names),
        (Some(request), None) => Next::Await(
            None,
            format!("its kubelet does not serve with the certificate of {}", request.name),
            names,
        ),
        (None, None) => Next::Await(None, "its kubelet has not asked for one".into(), names),
    }
}

fn served_by(cx: &Cx, cluster: &Arc<Cluster>, node: &Node) -> Want {
    let unserved = cx.fleet.unserved.contains(&node.name);
    let waits = cx.fleet.before_ready(&node.name);
    let (cluster, own) = (Arc::clone(cluster), node.clone());
    let looked = Arc::new(move |answer: &str| {
        Request::all(answer, Some(&user(&own))).map(|all| next(all, &cluster, &own, unserved))
    });
    let (again, name, at) = (looked.clone(), node.name.clone(), address(cx.cluster, node));
    let want = format!("a certificate for {} and {}", node.name, node.ip);
    Want::that(format!("the kubelet of {} has a certificate to serve with", node.name))
        .about([node.name.clone()])
        .judged(move |answer| {
            let have = match looked(answer) {
                Err(why) => return Verdict::Unknown(why),
                Ok(Next::Nothing) => return Verdict::Holds,
                Ok(Next::Approve(request)) => format!("{} waits to be approved", request.name),
                Ok(Next::Await(_, why, _)) => why,
            };
            match &waits {
                Some(for_what) => Verdict::Waits { have, want: want.clone(), for_what: for_what.clone() },
                None => Verdict::Differs { have, want: want.clone() },
            }
        })
        .run_for(move |answer| fix(&name, &at, again(answer).unwrap_or(Next::Nothing)))
        .settles()
        .reaches()
        .nothing_to_undo(WITH_THE_CLUSTER)
}

/// Where its kubelet serves.
fn address(cluster: &Cluster, node: &Node) -> String {
    let port = node.kubelet.get("port").or_else(|| cluster.kubelet.get("port")).and_then(Value::as_u64);
    let port = port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0).unwrap_or(10250);
    SocketAddr::new(node.ip, port).to_string()
}

fn fix(node: &str, at: &str, next: Next) -> Sh {
    let functions = KUBECTL + SERVING;
    match next {
        Next::Nothing => functions,
        Next::Approve(request) => {
            let approve = sh!("approve_serving {node} {at} {name}", node, at, name = request.name);
            functions + here(approve, &request.approved())
        }
        Next::Await(seconds, why, names) => {
            let seconds = seconds.map_or(Sh::raw("$PATIENCE"), |seconds| sh!("{seconds}", seconds));
            functions
                + sh!(
                    "await_serving {node} {at} {seconds} {why} {names}",
                    node,
                    at,
                    seconds,
                    why,
                    names = Sh::words(&names)
                )
        }
    }
}

/// How many requests a note names.
const NAMED: usize = 5;

/// Requests that nobody approves here: of kubelets that ask for something else, or that the inventory does not have.
fn left(cluster: Arc<Cluster>) -> Want {
    Want::that("whether only kubelets of the inventory ask for certificates to serve with").judged(
        move |answer| {
            let requests = match Request::all(answer, None) {
                Ok(requests) => requests,
                Err(why) => return Verdict::Unknown(why),
            };
            let why = |request: &Request| match cluster.nodes.iter().find(|node| user(node) == request.user) {
                Some(node) if asks(&cluster, node) => request.why_not(&cluster, node),
                Some(node) => Some(format!("{} has no serverTLSBootstrap", node.name)),
                None => Some("the inventory has no such node".into()),
            };
            let pending = requests.iter().filter(|request| request.state == State::Pending);
            let line =
                |request: &Request| Some(format!("{} of {}: {}", request.name, request.user, why(request)?));
            let mut lines: Vec<String> = pending.filter_map(line).collect();
            let more = lines.len().saturating_sub(NAMED);
            lines.truncate(NAMED);
            lines.extend((more > 0).then(|| format!("{more} more")));
            match lines.is_empty() {
                true => Verdict::Holds,
                false => Verdict::Noted(format!(
                    "requests for certificates of kubelets that ironstrap does not approve: {}",
                    lines.join("; ")
                )),
            }
        },
    )
}

#[cfg(test)]
mod tests;
