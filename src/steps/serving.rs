//! serving: ironstrap approves the certificates with which kubelets serve. With `serverTLSBootstrap` a kubelet answers the
//! API server with a certificate that the cluster signs. Nothing that kubeadm installs approves the kubelet's request for it
//! (kubernetes.io, "TLS bootstrapping"). So ironstrap approves a request that is exactly what the inventory says of the node.
//! It names every other request, and leaves it.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::cluster::{Cluster, Node};
use crate::error::Result;
use crate::pki::why_not_served;
use crate::shell::{KUBECTL, SERVING, Sh, here, sh};
use crate::step::{Ask, Cx, Step, Verdict, WITH_THE_CLUSTER, Want};

pub const STEP: Step =
    Step { name: "serving", why: "kubectl logs, exec and top reach a kubelet over TLS", wants };

const SIGNER: &str = "kubernetes.io/kubelet-serving";

/// How many seconds a kubelet has to make another request, if its request is not right.
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
    Ok(wants.into_iter().map(|want| want.ask(Ask::whole_api(KUBECTL + SERVING + ASK))).collect())
}

/// Whether the kubelet of this node asks the cluster for the certificate that it serves with.
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

/// A kubelet's request for a certificate, as the API server has it.
#[derive(Debug)]
struct Request {
    name: String,
    user: String,
    created: String,
    state: State,
    object: Value,
}

/// The output of the shell function `serving_requests`.
struct Requests {
    all: Vec<Request>,
    /// Why there may be more requests than these.
    cut: Option<String>,
}

impl Request {
    /// Reads a line of `serving_requests`: an object as JSON, which has no raw line break.
    fn of(line: &str) -> Option<Request> {
        let object: Value = serde_json::from_str(line).ok()?;
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).map(str::to_string);
        let decided = object.pointer("/status/conditions").and_then(Value::as_array);
        let state = match () {
            () if object.pointer("/status/certificate").is_some() => State::Signed,
            () if decided.is_some_and(|all| !all.is_empty()) => State::Decided,
            () => State::Pending,
        };
        let metadata = json!({
            "name": text("/metadata/name")?, "uid": text("/metadata/uid")?,
            "resourceVersion": text("/metadata/resourceVersion")?,
        });
        Some(Request {
            name: text("/metadata/name")?,
            user: text("/spec/username")?,
            created: text("/metadata/creationTimestamp")?,
            state,
            object: json!({"metadata": metadata, "spec": object["spec"]}),
        })
    }

    /// Whether it has a name as kubelets give it. Kubernetes allows any text without `/` and `%`
    /// (`ValidateCertificateRequestName`).
    fn has_a_plain_name(&self) -> bool {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let all = self.name.chars().all(|c| plain(c) || matches!(c, '.' | '-'));
        all && self.name.starts_with(plain) && self.name.len() < 254
    }

    /// The name in a form that people can read.
    fn shown(&self) -> String {
        let name: String = self.name.chars().take(63).collect();
        if self.has_a_plain_name() { name } else { format!("{name:?}") }
    }

    /// Why ironstrap may not approve the request. `None`: it may. The API server knows which user asked, and writes that into
    /// the object.
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
            () if !self.has_a_plain_name() => Some("no kubelet gives a request such a name".into()),
            () if spec["signerName"] != SIGNER => Some("it is for another signer".into()),
            () if self.user != user(node) => Some(format!("{} asked for it", self.user)),
            () if !words("groups").contains(&"system:nodes") => {
                Some(format!("{} asked for it without the group system:nodes", self.user))
            }
            () if usages != few && usages != more => {
                Some(format!("it asks for other usages: {}", usages.join(", ")))
            }
            () => why_not_served(spec["request"].as_str().unwrap_or_default(), cluster, node),
        }
    }

    /// The output of the shell function `request_now` for this request, as long as nothing else has its name.
    fn judged(&self) -> String {
        let text = |pointer| self.object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let fields = ["/metadata/uid", "/metadata/resourceVersion", "/spec/signerName", "/spec/request"];
        format!("{} {}.", fields.map(text).join(" "), text("/spec/username"))
    }

    /// The object with its approval. It is valid for this uid and version, and for no other.
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

impl Requests {
    fn read(answer: &str) -> std::result::Result<Requests, String> {
        let (mut all, mut cut) = (vec![], Some("the answer is incomplete".to_string()));
        for line in answer.lines() {
            match (line, line.strip_prefix("end part ")) {
                ("end whole", _) => cut = None,
                (_, Some(why)) => cut = Some(why.to_string()),
                _ => all.push(Request::of(line).ok_or("a request cannot be read")?),
            }
        }
        // A machine without an API server prints nothing.
        Ok(Requests { all, cut: cut.filter(|_| !answer.is_empty()) })
    }

    /// Why a request that is not among these may still exist.
    fn unread(&self) -> Option<String> {
        Some(format!("cannot read all certificate requests of kubelets: {}", self.cut.as_ref()?))
    }
}

fn user(node: &Node) -> String {
    format!("system:node:{}", node.name)
}

/// The next action for one kubelet.
enum Next {
    Nothing,
    Approve(Request),
    /// Wait this many seconds for another request than these. The text says what stands in the way. `None`: for
    /// `WAIT_TIMEOUT`.
    Await(Option<u32>, String, Vec<String>),
}

/// Decides what to do about one kubelet. `unserved`: its machine has no such certificate. A kubelet makes a new key and a new
/// request at each start. So the newest of the right requests counts.
fn next(requests: Vec<Request>, cluster: &Cluster, node: &Node, unserved: bool) -> Next {
    let (mut right, mut wrong, mut names) = (None::<Request>, None, vec![]);
    for request in requests.into_iter().filter(Request::has_a_plain_name) {
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
            format!("the kubelet does not serve with the certificate of {}", request.name),
            names,
        ),
        (None, None) => Next::Await(None, "the kubelet has not requested a certificate".into(), names),
    }
}

fn served_by(cx: &Cx, cluster: &Arc<Cluster>, node: &Node) -> Want {
    let unserved = cx.fleet.unserved.contains(&node.name);
    let waits = cx.fleet.before_ready(&node.name);
    let (cluster, own) = (Arc::clone(cluster), node.clone());
    let looked = Arc::new(move |answer: &str| {
        let requests = Requests::read(answer)?;
        let unread = requests.unread();
        let own_ones = requests.all.into_iter().filter(|request| request.user == user(&own)).collect();
        Ok::<_, String>((next(own_ones, &cluster, &own, unserved), unread))
    });
    let (again, name, at) = (looked.clone(), node.name.clone(), address(cx.cluster, node));
    let want = format!("a certificate for {} and {}", node.name, node.ip);
    Want::new(
        "serving-certificates.certificate",
        format!("the kubelet of {} has a serving certificate", node.name),
    )
    .of(&node.name)
    .about([node.name.clone()])
    .judged(move |answer| {
        let have = match looked(answer) {
            Err(why) => return Verdict::Unknown(why),
            Ok((Next::Approve(request), _)) => format!("{} waits for approval", request.name),
            Ok((_, Some(unread))) => return Verdict::Unchecked(unread),
            Ok((Next::Nothing, None)) => return Verdict::Holds,
            Ok((Next::Await(_, why, _), None)) => why,
        };
        match &waits {
            Some(for_what) => Verdict::Waits { have, want: want.clone(), for_what: for_what.clone() },
            None => Verdict::Differs { have, want: want.clone() },
        }
    })
    .run_for(move |answer| fix(&name, &at, again(answer).map_or(Next::Nothing, |(next, _)| next)))
    .eventually()
    .invalidates()
    .nothing_to_undo(WITH_THE_CLUSTER)
}

/// The address at which the kubelet of this node serves.
fn address(cluster: &Cluster, node: &Node) -> String {
    SocketAddr::new(node.ip, cluster.kubelet_port(node)).to_string()
}

fn fix(node: &str, at: &str, next: Next) -> Sh {
    let functions = KUBECTL + SERVING;
    match next {
        Next::Nothing => functions,
        Next::Approve(request) => {
            let (name, judged) = (&request.name, request.judged());
            let approve = sh!("approve_serving {node} {at} {name} {judged}", node, at, name, judged);
            functions + here(approve, &request.approved())
        }
        Next::Await(seconds, why, names) => {
            let seconds = seconds.map_or(Sh::raw("$WAIT_TIMEOUT"), |seconds| sh!("{seconds}", seconds));
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

/// Notes the requests that ironstrap does not approve. They are of kubelets that ask for something else, or that the
/// inventory does not have.
fn left(cluster: Arc<Cluster>) -> Want {
    Want::new("serving-certificates.requests", "only kubelets of the inventory request serving certificates")
        .judged(move |answer| {
            let requests = match Requests::read(answer) {
                Ok(requests) => requests,
                Err(why) => return Verdict::Unknown(why),
            };
            if let Some(unread) = requests.unread() {
                return Verdict::Unchecked(unread);
            }
            let why = |request: &Request| match cluster.nodes.iter().find(|node| user(node) == request.user) {
                Some(node) if asks(&cluster, node) => request.why_not(&cluster, node),
                Some(node) => Some(format!("serverTLSBootstrap is not set for {}", node.name)),
                None => Some("the inventory has no such node".into()),
            };
            let pending = requests.all.iter().filter(|request| request.state == State::Pending);
            let line = |request: &Request| {
                Some(format!("{} of {}: {}", request.shown(), request.user, why(request)?))
            };
            let mut lines: Vec<String> = pending.filter_map(line).collect();
            let more = lines.len().saturating_sub(NAMED);
            lines.truncate(NAMED);
            lines.extend((more > 0).then(|| format!("{more} more")));
            match lines.is_empty() {
                true => Verdict::Holds,
                false => Verdict::Noted(format!(
                    "certificate requests of kubelets that ironstrap does not approve: {}",
                    lines.join("; ")
                )),
            }
        })
}

#[cfg(test)]
mod tests;
