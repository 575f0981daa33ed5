//! access: machines that have still to join may, and the API server may speak to kubelets.

use serde_json::json;

use crate::error::Result;
use crate::shell::{KUBECTL, kubectl_apply};
use crate::step::{Ask, Cx, Object, Step, Verdict, Want};
use crate::template;

pub const STEP: Step = Step {
    name: "access",
    why: "nobody joins without a token, and nobody reads logs without the API's access to kubelets",
    wants,
};

/// A token that expires sooner is as good as expired: a join may take this long, in seconds.
const SPARE: i64 = 1800;

fn wants(cx: &Cx) -> Result<Vec<Want>> {
    let rbac = template::render("rbac.yaml", json!({}))?;
    let fix = kubectl_apply(&rbac);
    let mut wants: Vec<Want> = Vec::new();
    for object in template::documents("rbac.yaml", &rbac)? {
        wants.push(Want::object(&object, &fix));
    }
    wants.push(token(cx));
    wants.extend(cx.cluster.nodes.iter().map(|node| no_stale_node(cx, &node.name)));
    Ok(wants)
}

/// Renewed only when somebody has to join.
fn token(cx: &Cx) -> Want {
    let token = &cx.trust.token;
    let anybody = !cx.fleet.joining.is_empty();
    let soon = cx.now + time::Duration::seconds(SPARE);
    let id = token.id.clone();
    // The trust's token is not known while the asks are written, and a secret's name has it.
    Want::that("whoever has to join can")
        .ask(format!(
            "if [ ! -e /etc/kubernetes/admin.conf ] || [ ! -e /etc/kubernetes/manifests/kube-apiserver.yaml ]; then echo no cluster; exit 0; fi\n\
             {KUBECTL}kubectl -n kube-system get secrets --request-timeout=10s --field-selector type=bootstrap.kubernetes.io/token \
             -o 'jsonpath={{range .items[*]}}{{.metadata.name}} {{.data.expiration}}{{\"\\n\"}}{{end}}'"
        ))
        .judged(move |answer| {
            let name = format!("bootstrap-token-{id} ");
            let expires = answer.lines().find_map(|line| line.strip_prefix(&name)).map(expiry);
            match expires {
                _ if !anybody => Verdict::Holds,
                Some(None) => Verdict::Holds,
                Some(Some(at)) if at > soon => Verdict::Holds,
                Some(Some(at)) => Verdict::Differs { have: format!("the token expires {at}"), want: "a valid token".into() },
                None => Verdict::Differs { have: "no token".into(), want: "a valid token".into() },
            }
        })
        .run(format!(
            "{KUBECTL}umask 077\nt=$(cat <<'TOKEN'\n{}\nTOKEN\n)\n\
             kubectl -n kube-system delete secret bootstrap-token-{} --ignore-not-found\n\
             kubeadm token create \"$t\" --kubeconfig /etc/kubernetes/admin.conf --ttl 24h --description 'made by ironstrap' >/dev/null",
            token.reveal(),
            token.id
        ))
}

/// Base64 of an RFC 3339 time, as the Secret has it; `None`: it never expires.
fn expiry(text: &str) -> Option<time::OffsetDateTime> {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.decode(text.trim()).ok()?;
    let format = &time::format_description::well_known::Rfc3339;
    time::OffsetDateTime::parse(std::str::from_utf8(&text).ok()?, format).ok()
}

/// A machine that was installed anew is not the Node of its name any more, and kubeadm refuses to join beside a
/// Node that still counts as ready.
fn no_stale_node(cx: &Cx, name: &str) -> Want {
    let stale = cx.fleet.joining.contains(name) && !cx.fleet.half_joined.contains(name);
    let node = name.to_string();
    Want::that(format!("no earlier machine stands in for {name}"))
        .asks(Ask::Objects(vec![Object::node(name)]))
        .judged(move |answer| match answer == "absent" || !stale {
            true => Verdict::Holds,
            false => {
                Verdict::Differs { have: format!("Node {node} of an earlier machine"), want: String::new() }
            }
        })
        .run(format!("{KUBECTL}kubectl delete node {name} --ignore-not-found"))
}
