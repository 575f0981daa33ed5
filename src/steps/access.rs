//! access: the API server may reach kubelets, and nothing of an earlier machine or an earlier join is left.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::json;

use crate::cluster::Node;
use crate::error::Result;
use crate::etcd::{self, ETCD, Member, REMOVE_MEMBER};
use crate::fleet::Blocked;
use crate::manifest::Whose;
use crate::shell::{kubectl, sh};
use crate::step::{Ask, Cx, Object, Step, Verdict, WITH_THE_CLUSTER, Want};
use crate::steps::installed;
use crate::steps::kubeadm::{NO_TOKEN, TOKEN};
use crate::steps::packets::made;
use crate::template;

mod service;

pub const STEP: Step = Step {
    name: "access",
    why: "the API server must reach kubelets, and leftovers of earlier machines would block a join",
    wants,
};

fn wants(cx: &Cx) -> Result<Vec<Want>> {
    let rbac = template::render("rbac.yaml", json!({}))?;
    let mut wants: Vec<Want> = Vec::new();
    for object in template::documents("rbac.yaml", &rbac)? {
        wants.push(Want::object("bootstrap.object", &object, Whose::Ours, &installed::install(&object)?));
    }
    wants.push(no_token());
    wants.push(made::none_left(cx.cluster));
    wants.extend(cx.cluster.nodes.iter().map(|node| no_stale_node(cx, &node.name)));
    if cx.cluster.control_planes().nth(1).is_some() {
        wants.extend(cx.cluster.control_planes().map(|node| no_stale_member(cx, node)));
        wants.push(only_members(cx));
    }
    wants.push(service::want(cx));
    Ok(wants)
}

/// The want that no join token is left. Machines join with a certificate of their own. Earlier releases had one token for all
/// machines. `kubeadm init` makes a token in any case, and ironstrap deletes it as soon as init is done.
fn no_token() -> Want {
    let secret = Object::new("v1", "Secret", "kube-system", TOKEN);
    let have = secret.to_string();
    Want::new("bootstrap.no-token", "no join token is left")
        .ask(Ask::Objects(vec![secret]))
        .judged_object(move |secret| match secret {
            None => Verdict::Holds,
            Some(_) => Verdict::Differs { have: have.clone(), want: String::new() },
        })
        .run(kubectl() + NO_TOKEN)
        .nothing_to_undo(WITH_THE_CLUSTER)
}

/// Deletes the Node of an earlier machine, if the machine of that name still has to join. A reinstalled machine is no longer
/// the Node of its name. kubeadm refuses to join beside a Node that still counts as ready.
fn no_stale_node(cx: &Cx, name: &str) -> Want {
    let stale = cx.fleet.joining.contains(name) && !cx.fleet.joining_started.contains(name);
    let node = name.to_string();
    Want::new("bootstrap.earlier-machine", format!("no Node {name} of an earlier machine is left"))
        .of(name)
        .about([name.to_string()])
        .ask(Ask::Objects(vec![Object::node(name)]))
        .judged_object(move |present| match present.is_none() || !stale {
            true => Verdict::Holds,
            false => {
                Verdict::Differs { have: format!("Node {node} of an earlier machine"), want: String::new() }
            }
        })
        .run(kubectl() + sh!("kubectl delete node --ignore-not-found -- {name}", name))
        .nothing_to_undo("the earlier machine is no more")
}

/// Removes the etcd member of an earlier machine, if the control plane of that name still has to join. etcd goes on counting
/// a reinstalled machine. kubeadm would wait for the machine, and let it take up its old place with no data.
fn no_stale_member(cx: &Cx, node: &Node) -> Want {
    let stale = cx.fleet.joining.contains(&node.name) && !cx.fleet.joining_started.contains(&node.name);
    let (name, ip) = (node.name.clone(), node.ip);
    Want::new("bootstrap.earlier-member", format!("no etcd member {name} of an earlier machine is left"))
        .of(&name)
        .about([name.clone()])
        .ask(Ask::api_in_turn(etcd::ask(etcd::MEMBERS)))
        .judged_presence(move |list| {
            let have = match list.map(|list| (etcd::members(list), list)) {
                Some((Some(all), _)) if all.iter().any(|member| member.is_of(&name, ip)) => {
                    format!("etcd member {name} of an earlier machine")
                }
                Some((None, list)) => list.to_string(),
                _ => return Verdict::Holds,
            };
            match stale {
                true => Verdict::Differs { have, want: String::new() },
                false => Verdict::Holds,
            }
        })
        .run(ETCD + REMOVE_MEMBER + sh!("retry remove_member {name} {ip}", name = node.name, ip))
        .nothing_to_undo("the earlier machine is no more")
}

/// The hint about a wrong member of etcd, which only a human can repair. etcdctl is in etcd's own image.
const BY_HAND: &str = "run on a control plane, with the name of its Node as NODE: \
    kubectl --kubeconfig /etc/kubernetes/admin.conf -n kube-system exec etcd-NODE -- etcdctl \
    --cacert /etc/kubernetes/pki/etcd/ca.crt --cert /etc/kubernetes/pki/etcd/healthcheck-client.crt \
    --key /etc/kubernetes/pki/etcd/healthcheck-client.key member remove ID (or member promote ID, if the member is a learner)";

/// The want that each member of etcd is a control plane and has a vote. Each further member whose machine is absent raises
/// the majority that etcd needs. The work of this run on its own nodes comes first.
fn only_members(cx: &Cx) -> Want {
    let planes: Vec<(String, IpAddr, Option<Blocked>)> = cx
        .cluster
        .control_planes()
        .map(|node| (node.name.clone(), node.ip, cx.fleet.before_ready(&node.name)))
        .collect();
    let unmanaged = cx.fleet.unmanaged_nodes.clone();
    Want::new("bootstrap.etcd-members", "each etcd member is a control plane and has a vote")
        .ask(Ask::api_in_turn(etcd::ask(etcd::MEMBERS)))
        .judged_presence(move |list| match list.map(|list| (etcd::members(list), list)) {
            None => Verdict::Holds,
            Some((Some(all), _)) => judge_members(&all, &planes, &unmanaged),
            Some((None, list)) => Verdict::Unknown(format!("cannot read \"{list}\"")),
        })
        .by_hand(BY_HAND)
}

/// Judges the members of etcd. `planes`: name and address of each control plane, and what has to happen there first.
/// `unmanaged`: Nodes of the cluster that the inventory does not have.
fn judge_members(
    all: &[Member],
    planes: &[(String, IpAddr, Option<Blocked>)],
    unmanaged: &BTreeSet<String>,
) -> Verdict {
    let (mut have, mut waits, mut noted) = (String::new(), None, vec![]);
    for member in all {
        // Two members can match one control plane, one by its name and one by its address. The address tells which one is on
        // the machine.
        let twice = |name: &str, ip: IpAddr| {
            !member.is_at(ip) && all.iter().any(|m| m.is_at(ip) && m.is_of(name, ip))
        };
        let mut planes = planes.iter();
        let plane = planes.find(|(name, ip, _)| member.is_of(name, *ip) && !twice(name, *ip));
        let is = match plane {
            None if unmanaged.contains(&member.name) && !member.learner => {
                noted.push(member.name.clone());
                continue;
            }
            None => "not a control plane of the inventory",
            Some(_) if !member.learner => continue,
            Some((.., first)) => {
                waits = waits.or(first.clone());
                "a learner without a vote"
            }
        };
        let name = if member.name.is_empty() { "never started" } else { &member.name };
        have += &format!("member {} ({name}, {}) is {is}\n", member.id, member.peer);
    }
    let want = "only control planes of the inventory, each with a vote\n".to_string();
    match waits {
        Some(for_what) => Verdict::Waits { have, want, for_what },
        None if !have.is_empty() => Verdict::Differs { have, want },
        None if noted.is_empty() => Verdict::Holds,
        None => Verdict::Noted(format!("etcd members that are not in the inventory: {}", noted.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_etcd_members_and_learners_are_reported() {
        let judge = |members: &[(&str, u8, bool)], waits: Option<&str>, unmanaged: &[&str]| {
            let member = |(name, at, learner): &(&str, u8, bool)| serde_json::json!({"ID": "26", "name": name, "peerURLs": [format!("https://10.0.0.{at}:2380")], "isLearner": learner});
            let all: Vec<_> = members.iter().map(member).collect();
            let list = serde_json::json!({"members": all}).to_string();
            let plane = |(name, at): (&str, u8)| {
                (
                    name.to_string(),
                    IpAddr::from([10, 0, 0, at]),
                    waits.map(|node| Blocked::until(node, "to join")),
                )
            };
            let unmanaged = unmanaged.iter().map(ToString::to_string).collect();
            judge_members(&etcd::members(&list).unwrap(), &[("m1", 1), ("m2", 2)].map(plane), &unmanaged)
        };
        let have = |verdict: Verdict| match verdict {
            Verdict::Differs { have, .. } => have,
            Verdict::Waits { for_what, .. } => format!("waits for {for_what}"),
            other => panic!("{other:?}"),
        };
        let two = [("m1", 1, false), ("m2", 2, false)];
        assert_eq!(judge(&two, None, &[]), Verdict::Holds);
        // The address alone can identify a reinstalled machine, and the name alone a moved one.
        assert_eq!(judge(&[("m1", 9, false), ("", 2, false)], None, &[]), Verdict::Holds);
        let with = |one| [two[0], two[1], one];
        let foreign = have(judge(&with(("", 9, true)), None, &[]));
        assert_eq!(
            foreign,
            "member 1a (never started, https://10.0.0.9:2380) is not a control plane of the inventory\n"
        );
        assert!(
            have(judge(&with(("m2", 9, false)), None, &[])).contains("(m2, https://10.0.0.9:2380) is no")
        );
        let learner = [two[0], ("m2", 2, true)];
        assert!(have(judge(&learner, None, &[])).ends_with("is a learner without a vote\n"));
        assert_eq!(have(judge(&learner, Some("m2"), &[])), "waits for m2 to join");
        let x9 = with(("x9", 9, false));
        assert!(matches!(judge(&x9, None, &["x9"]), Verdict::Noted(words) if words.ends_with(": x9")));
        assert!(have(judge(&x9, None, &[])).contains("(x9, "));
    }
}
