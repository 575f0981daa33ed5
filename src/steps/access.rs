//! access: the API server may speak to kubelets, and nothing of an earlier machine or an earlier join is left.

use serde_json::json;

use crate::cluster::Node;
use crate::error::Result;
use crate::etcd::{self, ETCD, FORGET};
use crate::manifest::Whose;
use crate::shell::{kubectl, sh};
use crate::step::{Ask, Cx, Object, Step, Verdict, WITH_THE_CLUSTER, Want};
use crate::steps::installed;
use crate::steps::kubeadm::{NO_TOKEN, TOKEN};
use crate::steps::packets::made;
use crate::template;

pub const STEP: Step = Step {
    name: "access",
    why: "logs need the API server's access to kubelets, and what earlier machines left would let a join fail",
    wants,
};

fn wants(cx: &Cx) -> Result<Vec<Want>> {
    let rbac = template::render("rbac.yaml", json!({}))?;
    let mut wants: Vec<Want> = Vec::new();
    for object in template::documents("rbac.yaml", &rbac)? {
        wants.push(Want::object(&object, Whose::Ours, &installed::install(&object)?));
    }
    wants.push(no_token());
    wants.push(made::none_left(cx.cluster));
    wants.extend(cx.cluster.nodes.iter().map(|node| no_stale_node(cx, &node.name)));
    if cx.cluster.control_planes().nth(1).is_some() {
        wants.extend(cx.cluster.control_planes().map(|node| no_stale_member(cx, node)));
    }
    Ok(wants)
}

/// Machines join by a certificate of their own. Earlier releases had one token for all of them; `kubeadm init` makes one
/// in any case, which is deleted as soon as it is done.
fn no_token() -> Want {
    let secret = Object::new("v1", "Secret", "kube-system", TOKEN);
    let have = secret.to_string();
    Want::that("no join token is left")
        .asks(Ask::Objects(vec![secret]))
        .judged(move |answer| match answer {
            "absent" => Verdict::Holds,
            _ => Verdict::Differs { have: have.clone(), want: String::new() },
        })
        .run(kubectl() + NO_TOKEN)
        .nothing_to_undo(WITH_THE_CLUSTER)
}

/// A reinstalled machine is not the Node of its name any more. kubeadm refuses to join beside a Node that still counts
/// as ready.
fn no_stale_node(cx: &Cx, name: &str) -> Want {
    let stale = cx.fleet.joining.contains(name) && !cx.fleet.half_joined.contains(name);
    let node = name.to_string();
    Want::that(format!("no earlier machine stands in for {name}"))
        .about([name.to_string()])
        .asks(Ask::Objects(vec![Object::node(name)]))
        .judged(move |answer| match answer == "absent" || !stale {
            true => Verdict::Holds,
            false => {
                Verdict::Differs { have: format!("Node {node} of an earlier machine"), want: String::new() }
            }
        })
        .run(kubectl() + sh!("kubectl delete node --ignore-not-found -- {name}", name))
        .nothing_to_undo("the earlier machine is no more")
}

/// etcd goes on counting a reinstalled machine. kubeadm would wait for the machine, and let it take up its old place
/// with no data.
fn no_stale_member(cx: &Cx, node: &Node) -> Want {
    let stale = cx.fleet.joining.contains(&node.name) && !cx.fleet.half_joined.contains(&node.name);
    let (name, ip) = (node.name.clone(), node.ip);
    Want::that(format!("no earlier machine stands in for {name} in etcd"))
        .about([name.clone()])
        .ask(ETCD + etcd::MEMBERS)
        .judged(move |answer| {
            let have = match etcd::members(answer) {
                Some(all) if all.iter().any(|member| member.is_of(&name, ip)) => {
                    format!("member {name} of an earlier machine")
                }
                None if answer.trim() != etcd::NONE => answer.to_string(),
                _ => return Verdict::Holds,
            };
            match stale {
                true => Verdict::Differs { have, want: String::new() },
                false => Verdict::Holds,
            }
        })
        .run(ETCD + FORGET + sh!("patiently forget {name} {ip}", name = node.name, ip))
        .nothing_to_undo("the earlier machine is no more")
}
