//! Objects of the cluster: one `kubectl get` for all asks, against the API server of this very machine.

use std::collections::BTreeSet;

use super::{Found, Reply};
use crate::shell::KUBECTL;
use crate::step::{Ask, Object};

/// What the question prints where no API server was ever set up.
const NO_CLUSTER: &str = "no cluster";

/// Until kubeadm init has told the new cluster who its administrator is, that one may see nothing; whoever was
/// killed before that left nothing but the other credentials to see it with.
const ASK: &str = r#"exec 4>&1
r=0; said=$(get 2>&1 >&4) || r=$?
super=/etc/kubernetes/super-admin.conf
case $said in *'User "kubernetes-admin" cannot get'*)
  [ ! -e $super ] || { r=0; said=$(get --kubeconfig $super 2>&1 >&4) || r=$?; } ;;
esac
[ -z "$said" ] || echo "$said" >&2
exit $r"#;

/// An empty question where nothing is asked; else every object once.
pub(super) fn question(asks: &[&Ask]) -> String {
    let wanted: BTreeSet<&Object> = asks.iter().flat_map(|ask| objects(ask)).collect();
    if wanted.is_empty() {
        return String::new();
    }
    // With a single object the output would have another shape.
    let more =
        [Object::new("v1", "Namespace", "", "default"), Object::new("v1", "Namespace", "", "kube-system")];
    let wanted: BTreeSet<&Object> = wanted.into_iter().chain(&more).collect();
    let document = |o: &&Object| {
        let namespace =
            if o.namespace.is_empty() { String::new() } else { format!(", namespace: {}", o.namespace) };
        format!(
            "---\napiVersion: {}\nkind: {}\nmetadata: {{name: \"{}\"{namespace}}}\n",
            o.api_version, o.kind, o.name
        )
    };
    let documents: String = wanted.iter().map(document).collect();
    // A Secret's content stays where it is.
    let format = concat!(
        r#"{range .items[?(@.kind!="Secret")]}{.kind}/{.metadata.namespace}/{.metadata.name} {@}{"\n"}{end}"#,
        r#"{range .items[?(@.kind=="Secret")]}{.kind}/{.metadata.namespace}/{.metadata.name} {.type}{"\n"}{end}"#
    );
    format!(
        "if [ ! -e /etc/kubernetes/admin.conf ] || [ ! -e /etc/kubernetes/manifests/kube-apiserver.yaml ]; then echo {NO_CLUSTER}; exit 0; fi\n\
         {KUBECTL}get() {{\nkubectl get --request-timeout=10s --ignore-not-found -o jsonpath='{format}' \"$@\" -f - <<'OBJECTS'\n{documents}OBJECTS\n}}\n{ASK}"
    )
}

fn objects(ask: &Ask) -> &[Object] {
    match ask {
        Ask::Objects(objects) => objects,
        _ => &[],
    }
}

/// What was found; the error says why nobody knows.
pub(super) fn read(reply: Reply, asks: &[&Ask]) -> Result<Found, String> {
    let text = String::from_utf8(reply.stdout).map_err(|_| "kubectl: not UTF-8")?;
    if text.trim() == NO_CLUSTER {
        return Ok(Found::new());
    }
    // A kind that the cluster has never heard of: its objects cannot be there either. And what the API server has
    // to say about a version that will go says nothing of the object.
    let harmless = ["resource mapping not found", "ensure CRDs are installed first", "Warning: "];
    let bad = |line: &&str| !line.is_empty() && !harmless.iter().any(|words| line.contains(words));
    let bad: Vec<&str> = reply.stderr.lines().filter(bad).collect();
    if !bad.is_empty() || (reply.status != 0 && reply.stderr.is_empty()) {
        return Err(format!("kubectl: exit {}: {}", reply.status, bad.join("\n")));
    }
    let wanted = asks.iter().flat_map(|ask| objects(ask));
    let found = wanted.filter_map(|object| {
        // Where a manifest leaves the namespace to kubectl, that takes `default`.
        let defaulted = Object { namespace: "default".into(), ..object.clone() };
        let mut names = vec![object.key() + " "];
        names.extend(object.namespace.is_empty().then(|| defaulted.key() + " "));
        let named = |line: &'_ str| names.iter().find_map(|name| Some(line.strip_prefix(name)?.to_string()));
        let line = text.lines().find_map(named)?;
        Some((object.clone(), line))
    });
    Ok(found.collect())
}

/// The answer to one ask: a line for each object, in the order asked.
pub(super) fn lines(wanted: &[Object], found: &Found) -> String {
    let line = |object: &Object| found.get(object).cloned().unwrap_or_else(|| "absent".into()) + "\n";
    wanted.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(stdout: &str, status: i32, stderr: &str, object: Object) -> Result<Found, String> {
        let reply = Reply { status, stdout: stdout.into(), stderr: stderr.into() };
        read(reply, &[&Ask::Objects(vec![object])])
    }

    #[test]
    fn what_a_manifest_gives_no_namespace_is_in_the_default_one_or_in_none() {
        for (line, there) in
            [("ConfigMap/default/a {}", true), ("ConfigMap//a {}", true), ("ConfigMap/other/a {}", false)]
        {
            let found = found(line, 0, "", Object::new("v1", "ConfigMap", "", "a")).unwrap();
            assert_eq!(found.len() == 1, there, "{line}");
        }
    }

    #[test]
    fn a_warning_or_an_unknown_kind_says_nothing_against_the_answer_and_anything_else_does() {
        let said = |stderr: &str| found("Node//a {}", 1, stderr, Object::node("a")).map(|found| found.len());
        assert_eq!(said("Warning: v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1"), Ok(1));
        assert_eq!(
            said("error: resource mapping not found for name: \"x\"\nensure CRDs are installed first"),
            Ok(1)
        );
        assert_eq!(said("connection refused"), Err("kubectl: exit 1: connection refused".into()));
        assert!(said("").is_err());
    }
}
