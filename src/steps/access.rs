//! access: machines that have still to join may, and the API server may speak to kubelets.

use serde_json::json;

use crate::cluster::Node;
use crate::error::Result;
use crate::etcd::{self, ETCD, FORGET};
use crate::pki::Token;
use crate::shell::{APPLY, Sh, here, kubectl, kubectl_apply, sh};
use crate::step::{Ask, Cx, Object, Step, Verdict, WITH_THE_CLUSTER, Want};
use crate::template;

pub const STEP: Step = Step {
    name: "access",
    why: "nobody joins without a token, and nobody reads logs without the API's access to kubelets",
    wants,
};

fn wants(cx: &Cx) -> Result<Vec<Want>> {
    let rbac = template::render("rbac.yaml", json!({}))?;
    let fix = kubectl_apply(&rbac);
    let mut wants: Vec<Want> = Vec::new();
    for object in template::documents("rbac.yaml", &rbac)? {
        wants.push(Want::object(&object, &fix));
    }
    wants.push(token(cx));
    wants.extend(cx.cluster.nodes.iter().map(|node| no_stale_node(cx, &node.name)));
    if cx.cluster.control_planes().nth(1).is_some() {
        wants.extend(cx.cluster.control_planes().map(|node| no_stale_member(cx, node)));
    }
    Ok(wants)
}

/// Renewed only when somebody has to join. Kubernetes' token cleaner takes the Secret away when it expires, so its
/// being there tells, and what is in it need not be read.
fn token(cx: &Cx) -> Want {
    let anybody = !cx.fleet.joining.is_empty();
    let secret = Object::new("v1", "Secret", "kube-system", &format!("bootstrap-token-{}", Token::ID));
    Want::that("whoever has to join can")
        .about(cx.fleet.joining.iter().cloned())
        .asks(Ask::Objects(vec![secret]))
        .judged(move |answer| match !anybody || answer != "absent" {
            true => Verdict::Holds,
            false => {
                Verdict::Differs { have: "no token that is good".into(), want: "a token that is good".into() }
            }
        })
        .run(kubectl() + token_for_a_day(&cx.trust.token))
        .nothing_to_undo(WITH_THE_CLUSTER)
}

fn token_for_a_day(token: &Token) -> Sh {
    let secret = TOKEN.replace("TOKEN_ID", Token::ID).replace("TOKEN_SECRET", token.secret.reveal());
    let secret = here("sed \"s/EXPIRATION/$(date -u -d '+24 hours' +%Y-%m-%dT%H:%M:%SZ)/\"", &secret);
    sh!("{ {secret}} | {APPLY}", secret, APPLY)
}

/// A bootstrap token is a Secret of this form (Kubernetes' documentation, "Bootstrap Tokens").
const TOKEN: &str = r#"apiVersion: v1
kind: Secret
type: bootstrap.kubernetes.io/token
metadata:
  name: bootstrap-token-TOKEN_ID
  namespace: kube-system
stringData:
  token-id: "TOKEN_ID"
  token-secret: "TOKEN_SECRET"
  expiration: "EXPIRATION"
  description: made by ironstrap
  usage-bootstrap-authentication: "true"
  usage-bootstrap-signing: "true"
  auth-extra-groups: "system:bootstrappers:kubeadm:default-node-token"
"#;

/// A machine that was installed anew is not the Node of its name any more, and kubeadm refuses to join beside a
/// Node that still counts as ready.
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

/// etcd goes on counting a machine that was installed anew; kubeadm would wait for it, and have it take up its old place
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
