//! packets: real packets show from each node whether the network works. They go to the API's Service, to the cluster's DNS, to
//! the ends of flannel's tunnels on other nodes, and from control planes to pods of other nodes. bash alone makes the
//! connections, all at once. A question that could not be asked is unknown, never right. A node that has no pod with an address
//! of its own is not checked. A run that changed something makes such a pod there (`made`).

use std::net::IpAddr;

use crate::cluster::{Cluster, Network, Node};
use crate::error::Result;
use crate::fleet::Blocked;
use crate::shell::{DAEMONS, KUBECTL, PACKETS, PODS, PROCESSES, Sh, sh};
use crate::step::{Ask, Cx, Id, Step, Verdict, WITH_THE_MEMBER, Want};

pub mod made;
pub(super) mod own;
pub mod tunnels;
mod within;

pub use within::{OWN_POD, POD_DNS, is_proof};

pub const STEP: Step =
    Step { name: "packets", why: "a network can look right and still carry no packets", wants };

/// The largest number of nodes at which each one is asked for a pod. With more, only the control planes and a few others are.
pub(super) const ALL: usize = 12;
const OTHERS: usize = 4;

/// The line that says that kube-proxy has run long enough to have its rules. `services` judges the rules then.
pub(super) const PROXY: &str = "kube-proxy runs";

/// The beginning of a line about a ConfigMap that the cluster lacks. Without it, a pod here does not start.
const LACKS: &str = "lacks ConfigMap ";

/// The verdict on a fault that a restart of a DaemonSet's pod repairs. It waits if the cluster lacks a ConfigMap that the pod
/// needs to start.
pub(super) fn restartable(answer: &str, have: String, want: String) -> Verdict {
    match answer.lines().find_map(|line| line.strip_prefix(LACKS)) {
        Some(name) => Verdict::Waits {
            have,
            want,
            for_what: Blocked::by_cluster(format!("a control plane to restore ConfigMap {name}")),
        },
        None => Verdict::Differs { have, want },
    }
}

/// The lines of an answer, without those about a ConfigMap that the cluster lacks.
pub(super) fn but_lacking(answer: &str) -> String {
    answer.lines().filter(|line| !line.starts_with(LACKS)).map(|line| format!("{line}\n")).collect()
}

/// The answer of a machine on which kubeadm has left nothing yet.
pub const NO_MEMBER: &str = "no member";

/// The script that asks all questions. All wants share it, so that each machine is asked once. It runs the function `kubectl`
/// only on control planes, because workers have no API server.
pub fn ask(cluster: &Cluster, node: &Node) -> Ask {
    Ask::api(sh!(
        "{PODS}{DAEMONS}{PACKETS}{PROCESSES}{KUBECTL}{questions}here=\n\
         for f in /etc/kubernetes/kubelet.conf /var/lib/ironstrap/kubeadm-receipt; do [ ! -e $f ] || here=yes; done\n\
         [ -n \"$here\" ] || { echo {NO_MEMBER}; exit 0; }\n{look}",
        PODS,
        DAEMONS,
        PACKETS,
        PROCESSES,
        KUBECTL,
        questions = questions(cluster, node),
        NO_MEMBER,
        look = own::look(cluster, node)
    ))
}

/// The beginning of the shell that defines `questions`.
const QUESTIONS: &str = "questions() {\n";

/// Shell that defines `questions`, which asks all questions.
fn questions(cluster: &Cluster, node: &Node) -> Sh {
    let service = cluster.service_ip(1);
    let mut begin = Sh::raw(QUESTIONS);
    let mut all = sh!("set -- service {service} 443", service = service.to_string());
    for (n, plane) in cluster.control_planes().enumerate() {
        all += sh!(
            " {name} {ip} {port}",
            name = format!("server{n}"),
            ip = plane.ip.to_string(),
            port = cluster.api_port()
        );
    }
    if has_dns(cluster) {
        let (query, ip) = (query(&cluster.domain, service), cluster.service_ip(10).to_string());
        all += sh!(" dns {ip} {query}", ip, query);
        if has_flannel(cluster) {
            begin += sh!("from_pods {POD_DNS} {ip} {query} &\n", POD_DNS, ip, query);
        }
    }
    if has_flannel(cluster) {
        begin += sh!("to_pods {OWN_POD} &\n", OWN_POD);
    }
    all = begin + all;
    all += "\nlocal_asks\nset -- \"$@\" $local_asks\n";
    all += tunnels::ends(cluster, node);
    if node.is_control_plane() && cluster.network != Network::None {
        let names: Vec<&str> = asked_about(cluster, node).map(|node| node.name.as_str()).collect();
        if !names.is_empty() {
            return all
                + sh!(
                    "if others=$(pods_of {names}); then set -- \"$@\" $others; else echo \"pods unknown: $others\"; fi\n\
                     unless_policed \"$(packets \"$@\")\" {names}\nwait\n}\n",
                    names = Sh::words(&names)
                );
        }
    }
    all + "packets \"$@\"\nwait\n}\n"
}

/// The other nodes on which this control plane asks a pod.
pub fn asked_about<'a>(cluster: &'a Cluster, node: &'a Node) -> impl Iterator<Item = &'a Node> {
    sample(cluster).filter(move |other| other.name != node.name)
}

/// All nodes whose pods are asked.
fn sample(cluster: &Cluster) -> impl Iterator<Item = &Node> {
    let few = cluster.nodes.len() <= ALL;
    let workers = cluster.nodes.iter().filter(|node| !node.is_control_plane()).take(OTHERS);
    let chosen: Vec<&str> = workers.map(|node| node.name.as_str()).collect();
    let is_asked = move |node: &&Node| few || node.is_control_plane() || chosen.contains(&node.name.as_str());
    cluster.nodes.iter().filter(is_asked)
}

const ANSWER: &str = "connectivity.node";

/// The id of the want of a control plane that the pods of another node answer.
pub fn answer_of(node: &str) -> Id {
    Id { name: ANSWER, subject: node.into() }
}

/// Why a node was not asked: it has no pod with an address of its own in a namespace without a NetworkPolicy.
const NO_POD: &str = "no suitable pod runs there; ironstrap checks the node once a pod with an address of its own \
     runs there, and in an apply that changes something";

fn has_flannel(cluster: &Cluster) -> bool {
    matches!(cluster.network, Network::Flannel(_))
}

fn has_dns(cluster: &Cluster) -> bool {
    cluster.has_addon("dns") && cluster.network != Network::None
}

/// A DNS query for the API's Service, in the notation of printf, and the end of the right answer. That end is the length of
/// the address and the address itself, in hexadecimal digits.
fn query(domain: &str, service: IpAddr) -> String {
    let (kind, address) = match service {
        IpAddr::V4(ip) => (r"\000\001", ip.octets().to_vec()),
        IpAddr::V6(ip) => (r"\000\034", ip.octets().to_vec()),
    };
    let name = format!("kubernetes.default.svc.{domain}");
    let labels: String = name.split('.').map(|label| format!(r"\{:03o}{label}", label.len())).collect();
    let answer: String = address.iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        r"dns:IR\001\000\000\001\000\000\000\000\000\000{labels}\000{kind}\000\001:{:04x}{answer}",
        address.len()
    )
}

/// The answer of the shell function `packets` on a machine without bash.
pub(super) const NO_BASH: &str = "the machine has no bash, which this check needs";

pub(super) fn no_bash(answer: &str) -> bool {
    answer.lines().any(|line| line == NO_BASH)
}

/// Whether a question is one of this step.
pub fn is_about_packets(ask: &Ask) -> bool {
    matches!(ask, Ask::Api { shell, grows: false, .. } if shell.contains(QUESTIONS))
}

/// The result of a question, such as `reached`, `refused` or `silent`. `None`: it was not asked.
pub fn state<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
}

/// Whether some API server answers at its own address.
pub(super) fn server_answers(answer: &str) -> bool {
    answer.lines().any(|line| line.starts_with("server") && line.ends_with(" reached"))
}

fn wants(cx: &Cx) -> Result<Vec<Want>> {
    let cluster = cx.cluster;
    let mut wants = vec![];
    if cluster.has_addon("proxy") || cluster.network != Network::None {
        wants.push(once_it_has_joined(cx, service(cx)));
    }
    for (n, plane) in cluster.control_planes().enumerate() {
        wants.push(server(cx, n, plane));
    }
    if has_dns(cluster) {
        wants.push(once_it_has_joined(cx, dns(cx)));
        if has_flannel(cluster) {
            wants.push(within::dns(cx).only(cx.machine.is_member()));
        }
    }
    if has_flannel(cluster) {
        wants.push(within::own_pod(cx).only(cx.machine.is_member()));
    }
    if cx.node.is_control_plane() && cluster.network != Network::None {
        let pods = asked_about(cluster, cx.node).map(|node| pods(cx, node).only(cx.machine.is_member()));
        wants.extend(pods);
    }
    wants.extend(tunnels::wants(cx));
    wants.extend(own::proxy(cx)?.into_iter().map(|want| want.only(cx.machine.is_member())));
    Ok(wants)
}

/// Makes the want wait if this machine still has to join. So a plan says beforehand that the machine will have it.
fn once_it_has_joined(cx: &Cx, want: Want) -> Want {
    let for_what = Blocked::until(&cx.node.name, "to join");
    match cx.machine.is_member() {
        true => want,
        false => want.judged(move |_| Verdict::Waits {
            have: "not joined yet".into(),
            want: "an answer".into(),
            for_what: for_what.clone(),
        }),
    }
}

fn asked(
    cx: &Cx,
    id: &'static str,
    that: String,
    name: &str,
    good: &[&str],
    judge: impl Fn(&str) -> Verdict + Send + Sync + 'static,
) -> Want {
    let fix = asking(cx) + sh!("answered {name} {good}", name, good = Sh::words(good));
    Want::new(id, that)
        .ask(ask(cx.cluster, cx.node))
        .judged(move |answer| match answer {
            // If the machine is a member, other steps say what is gone.
            NO_MEMBER => Verdict::Holds,
            answer if no_bash(answer) => Verdict::Unknown(NO_BASH.into()),
            answer => judge(answer),
        })
        .run(fix)
        .eventually()
        .nothing_to_undo(WITH_THE_MEMBER)
}

/// Shell for fixes: `questions`, and the functions that mend what they find.
fn asking(cx: &Cx) -> Sh {
    own::functions() + KUBECTL + questions(cx.cluster, cx.node)
}

fn differs(what: &str, state: &str) -> Verdict {
    let have = match state {
        "refused" => format!("{what}: refuses the connection, or answers wrongly"),
        "partly" => format!("{what}: some of six queries get no answer, so one of its pods does not answer"),
        _ => format!("{what}: no answer within a second"),
    };
    Verdict::Differs { have, want: format!("{what}: an answer") }
}

fn service(cx: &Cx) -> Want {
    let address = cx.cluster.service_ip(1);
    asked(
        cx,
        "connectivity.service",
        "the API's Service answers".into(),
        "service",
        &["reached"],
        move |answer| {
            match state(answer, "service") {
                Some("reached") => Verdict::Holds,
                _ if !server_answers(answer) => {
                    Verdict::Unknown("no API server answers at its own address".into())
                }
                // Then `services` reports the fault.
                _ if answer.lines().any(|line| line == PROXY) => Verdict::Holds,
                other => differs(&format!("{address} port 443"), other.unwrap_or_default()),
            }
        },
    )
}

/// The want that the API server of a control plane answers at its own address. kubelets and flannel ask it there. If the
/// Service does not answer either, `service` says what is known.
fn server(cx: &Cx, n: usize, plane: &Node) -> Want {
    let (question, waits) = (format!("server{n}"), cx.fleet.before_ready(&plane.name));
    let at = format!("{} port {}", plane.ip, cx.cluster.api_port());
    let want = asked(
        cx,
        "connectivity.api-server",
        format!("the API server of {} answers this node", plane.name),
        &question.clone(),
        &["reached", "refused"],
        move |answer| match (state(answer, &question), state(answer, "service")) {
            (Some("silent"), Some("reached")) => waiting(differs(&at, "silent"), waits.as_ref()),
            _ => Verdict::Holds,
        },
    );
    want.of(&plane.name).about([cx.node.name.clone(), plane.name.clone()])
}

fn dns(cx: &Cx) -> Want {
    let (address, waits) = (cx.cluster.service_ip(10), waits(cx));
    let want = asked(
        cx,
        "connectivity.dns",
        "the cluster's DNS answers this node".into(),
        "dns",
        &["reached"],
        move |answer| {
            match (state(answer, "dns"), state(answer, "service"), &waits) {
                (Some("reached"), ..) => Verdict::Holds,
                // While the Service does not answer, that fault has to be repaired.
                (_, Some("silent"), _) => Verdict::Holds,
                (other, _, waits) => {
                    waiting(differs(&format!("{address} port 53"), other.unwrap_or_default()), waits.as_ref())
                }
            }
        },
    );
    // DNS pods may be on these nodes, so these machines also tell why.
    let others = asked_about(cx.cluster, cx.node);
    want.about(std::iter::once(cx.node).chain(others).map(|node| node.name.clone()))
}

fn pods(cx: &Cx, node: &Node) -> Want {
    let (name, waits) = (node.name.clone(), cx.fleet.before_ready(&node.name));
    let question = format!("pod:{name}");
    let want = asked(
        cx,
        ANSWER,
        format!("the pods of {name} answer"),
        &question.clone(),
        &["reached", "refused"],
        move |answer| {
            if let Some(why) = state(answer, "pods unknown:") {
                return Verdict::Unknown(why.into());
            }
            match (state(answer, &question), &waits) {
                (Some("silent"), waits) => waiting(
                    differs(&format!("a pod of {name}, asked from this node"), "silent"),
                    waits.as_ref(),
                ),
                // Other wants show what the node waits for, and that comes first.
                (Some(_), _) | (None, Some(_)) => Verdict::Holds,
                (None, None) => Verdict::Unchecked(NO_POD.into()),
            }
        },
    );
    want.of(&node.name).about([node.name.clone()])
}

/// The first node that is not ready, if any, and what it waits for. DNS pods may be on any node, even on one that is away.
fn waits(cx: &Cx) -> Option<Blocked> {
    cx.cluster.nodes.iter().find_map(|node| cx.fleet.before_ready(&node.name))
}

fn waiting(verdict: Verdict, waits: Option<&Blocked>) -> Verdict {
    match (verdict, waits) {
        (Verdict::Differs { have, want }, Some(for_what)) => {
            Verdict::Waits { have, want, for_what: for_what.clone() }
        }
        (verdict, _) => verdict,
    }
}
