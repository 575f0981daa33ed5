//! Asks for objects of the cluster, at the API server of the machine itself. One `kubectl get` answers all asks. Beside
//! it, one list has all Nodes, and objects that are too many to ask one by one, or whose names nobody knows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::sizes::{TOO_LARGE, short};
use super::{Found, Reply, asks_the_api};
use crate::shell::{KUBECTL, Sh, here, sh};
use crate::step::{Ask, Object};

/// The exit status where no API server was ever set up, or where one has no data yet. No common program ends with it.
const NO_CLUSTER: i32 = 113;
/// The line between the Nodes and the other kinds in the list. After it, no name or text of others counts as an object.
const BESIDE: &str = "beside the nodes";
/// The line at the end of the list. A list without it is incomplete.
const ALL_NODES: &str = "all nodes";

/// Time limit in seconds. An API server without etcd lets many requests time out, one after the other.
const WITHIN: u32 = 20;
/// The exit status of `timeout` (coreutils).
const TIMED_OUT: i32 = 124;

/// Exits with `NO_CLUSTER` on a machine without a cluster. If a control plane has lost its manifest, it fails.
fn guard(etcd_dir: &str) -> Sh {
    sh!(
        r#"if [ ! -e /etc/kubernetes/manifests/kube-apiserver.yaml ]; then
  [ -e /var/lib/kubelet/pki/kubelet-client-current.pem ] || exit {NO_CLUSTER}
  [ -e {etcd_dir}/member ] || [ -e /etc/kubernetes/manifests/etcd.yaml ] || exit {NO_CLUSTER}
  echo '/etc/kubernetes/manifests/kube-apiserver.yaml is gone' >&2
  exit 1
fi
# A join that was killed leaves an API server that has nothing to answer from yet.
[ -e /var/lib/ironstrap/kubeadm-receipt ] || [ -e /var/lib/kubelet/pki/kubelet-client-current.pem ] ||
  [ -e /etc/kubernetes/super-admin.conf ] || exit {NO_CLUSTER}
"#,
        etcd_dir,
        NO_CLUSTER
    )
}

/// The question prints this if RBAC does not let kubeadm's administrator see the cluster.
const MAY_NOT: &str = "kubernetes-admin may not";

/// Asks as kubeadm's administrator, and then as super-admin if necessary. kubeadm init binds its administrator once the
/// API server answers. After an init that was killed before that, only super-admin.conf can see the cluster. Once init
/// has ended, that file no longer exists.
const ASK: Sh = Sh::raw(
    r#"exec 4>&1
r=0; said=$(get 2>&1 >&4) || r=$?
# An API server that has just started refuses everything, until it has read the bindings.
case $said in *'User "kubernetes-admin" cannot '*) sleep 2; r=0; said=$(get 2>&1 >&4) || r=$? ;; esac
case $said in *'User "kubernetes-admin" cannot '*) echo 'kubernetes-admin may not' ;; esac
super=/etc/kubernetes/super-admin.conf
case $said in *'User "kubernetes-admin" cannot '* | *Unauthorized* | *'unable to load'* | *'invalid configuration'* | *certificate*)
  [ ! -e $super ] || { r=0; said=$(get --kubeconfig $super 2>&1 >&4) || r=$?; } ;;
esac
[ -z "$said" ] || echo "$said" >&2
exit $r"#,
);

/// The kinds that the list contains.
const KINDS: &str = "nodes,clusterroles.rbac.authorization.k8s.io,clusterrolebindings.rbac.authorization.k8s.io,endpointslices.discovery.k8s.io";
/// The format of the list: whole Nodes, and of the other kinds only what ironstrap judges. For each rule it has only the
/// first verb, which shows that there is a rule.
const LIST: &str = concat!(
    r#"{range .items[?(@.kind=="Node")]}Node//{.metadata.name} {@}{"\n"}{end}beside the nodes{"\n"}"#,
    r#"{range .items[?(@.kind=="ClusterRole")]}ClusterRole {.metadata.name} {.rules[*].verbs[0]}{"\n"}{end}"#,
    r#"{range .items[?(@.kind=="ClusterRoleBinding")]}ClusterRoleBinding {.metadata.name} {.roleRef.name} {.subjects}{"\n"}{end}"#,
    r#"{range .items[?(@.metadata.labels.kubernetes\.io/service-name=="kubernetes")]}EndpointSlice {.metadata.name} {.endpoints[*].addresses}{"\n"}{end}"#
);

/// Makes the question about all objects, each once. It is empty if no ask is about the cluster.
pub(super) fn question(asks: &[&Ask], etcd_dir: &str) -> Sh {
    if !asks_the_api(asks) {
        return Sh::EMPTY;
    }
    let wanted: BTreeSet<&Object> = asks.iter().flat_map(|ask| objects(ask)).collect();
    // Each object is a request of its own, one after the other, of about 1.5 ms. A list of a kind costs more.
    // kubectl would read and print some sixty ClusterRoles and as many bindings, and the asks need only a few of them.
    // With a single object the output would have another shape.
    let more =
        [Object::new("v1", "Namespace", "", "default"), Object::new("v1", "Namespace", "", "kube-system")];
    let wanted: BTreeSet<&Object> =
        wanted.into_iter().chain(&more).filter(|object| !is_node(object)).collect();
    // JSON on a line of its own is YAML.
    let document = |o: &&Object| {
        let mut metadata = json!({"name": o.name});
        if !o.namespace.is_empty() {
            metadata["namespace"] = json!(o.namespace);
        }
        let document = json!({"apiVersion": o.api_version, "kind": o.kind, "metadata": metadata});
        format!("---\n{document}\n")
    };
    let documents: String = wanted.iter().map(document).collect();
    // A Secret's content stays on the machine (`Object::SECRET`). The name is one that ironstrap asked for, and JSON has
    // no line break.
    let format = Sh::raw(concat!(
        r#"{range .items[?(@.kind!="Secret")]}{.kind}/{.metadata.namespace}/{.metadata.name} {@}{"\n"}{end}"#,
        r#"{range .items[?(@.kind=="Secret")]}{.kind}/{.metadata.namespace}/{.metadata.name} "secret"{"\n"}{end}"#
    ));
    let nodes = Sh::raw(LIST);
    let bounded = KUBECTL.replaced("command kubectl", sh!("command timeout {WITHIN} kubectl", WITHIN));
    let get = sh!(
        "kubectl get --request-timeout=10s --ignore-not-found -o jsonpath='{format}' \"$@\" -f -",
        format
    );
    let get = here(get, &documents);
    // The list waits in the pipe while the objects are printed, so that lines do not mix.
    sh!(
        "{guard}{bounded}nodes() {\nkubectl get {KINDS} -n default --request-timeout=10s -o jsonpath='{nodes}' \"$@\" && echo {ALL_NODES}\n}\n\
         get() {\nnodes \"$@\" | { r=0\n{ {get}} || r=$?\ncat; return $r; }\n}\n{ASK}",
        guard = guard(etcd_dir),
        bounded,
        KINDS = Sh::raw(KINDS),
        nodes,
        ALL_NODES,
        get,
        ASK
    )
}

fn is_node(object: &Object) -> bool {
    object.kind == "Node" && object.api_version == "v1"
}

fn objects(ask: &Ask) -> &[Object] {
    match ask {
        Ask::Objects(objects) => objects,
        _ => &[],
    }
}

/// Whether the API server answered, and RBAC refused kubeadm's administrator. That is an answer, even if other parts of
/// the reply are missing because of it.
pub(super) fn refuses_the_administrator(reply: &Reply) -> bool {
    String::from_utf8_lossy(&reply.stdout).lines().any(|line| line == MAY_NOT)
}

/// Reads the objects from a reply. The error says why they are unknown.
pub(super) fn read(reply: Reply, asks: &[&Ask]) -> Result<Found, String> {
    let text = String::from_utf8(reply.stdout).map_err(|_| "kubectl: not UTF-8")?;
    if reply.status == NO_CLUSTER && text.is_empty() && reply.stderr.is_empty() {
        return Ok(Found { listed: Some(String::new()), ..Found::default() });
    }
    // The cluster does not know this kind, so none of its objects can exist.
    let no_kind = |line: &str| {
        let line = line.strip_prefix("error: ").unwrap_or(line);
        line.starts_with("resource mapping not found for name: ") || line == "ensure CRDs are installed first"
    };
    // A deprecated version of a kind says nothing about the object.
    let bad = |line: &&str| !line.is_empty() && !line.starts_with("Warning: ") && !no_kind(line);
    let mut bad: Vec<&str> = reply.stderr.lines().filter(bad).collect();
    // Each kubectl prints the same message.
    bad.dedup();
    let explained = reply.status == 0 || reply.stderr.lines().any(no_kind);
    if reply.status == TIMED_OUT || reply.status == super::watch::LATE {
        return Err(format!("kubectl: no answer within {WITHIN} s"));
    }
    if reply.status == TOO_LARGE {
        return Err(reply.stderr);
    }
    if !bad.is_empty() || !explained {
        return Err(short(&format!("kubectl: exit {}: {}", reply.status, bad.join("\n"))));
    }
    if asks_the_api(asks) && !text.lines().any(|line| line == ALL_NODES) {
        return Err("kubectl: the list of nodes is cut off".into());
    }
    let (text, listed) = match text.split_once(&format!("{BESIDE}\n")) {
        Some((text, listed)) => (text, Some(listed.trim_end().trim_end_matches(ALL_NODES).to_string())),
        None => (text.as_str(), None),
    };
    let node = |line: &str| {
        let (name, object) = line.strip_prefix("Node//")?.split_once(' ')?;
        let object: Value = serde_json::from_str(object).unwrap_or(Value::Null);
        let ranges = object.pointer("/spec/podCIDRs").and_then(Value::as_array).into_iter().flatten();
        let ranges = ranges.filter_map(|range| range.as_str()?.parse::<IpNet>().ok());
        Some(ranges.fold(name.to_string(), |line, range| format!("{line} {range}")))
    };
    let said: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once(' ')).collect();
    let wanted: BTreeSet<&Object> = asks.iter().flat_map(|ask| objects(ask)).collect();
    let found = wanted.into_iter().filter_map(|object| {
        // If a manifest leaves the namespace to kubectl, kubectl takes `default`.
        let defaulted = Object { namespace: "default".into(), ..object.clone() };
        let defaulted = || Some(defaulted).filter(|_| object.namespace.is_empty());
        let line = said.get(&*object.key()).copied().or_else(|| said.get(&*defaulted()?.key()).copied())?;
        Some((object.clone(), line.into()))
    });
    let objects: BTreeMap<Object, Arc<str>> = found.collect();
    let noted = objects.get(&Object::notes()).and_then(|line| serde_json::from_str::<Value>(line).ok());
    let noted = noted.as_ref().and_then(|object| object.get("data")?.as_object());
    let notes = noted.into_iter().flatten().map(|(node, note)| (node.clone(), note.to_string().into()));
    Ok(Found { notes: notes.collect(), objects, listed, nodes: text.lines().filter_map(node).collect() })
}

/// Returns the answer to one ask: its objects, in the order of the ask.
pub(super) fn of(wanted: &[Object], found: &Found) -> Vec<Option<Arc<str>>> {
    let notes = Object::notes();
    let note = || {
        let node = wanted.iter().find(|object| is_node(object));
        node.and_then(|node| found.notes.get(&node.name)).map_or_else(|| "\"\"".into(), Arc::clone)
    };
    let one = |object: &Object| match found.objects.get(object) {
        // In a cluster of a thousand Nodes, each answer has only the note on its own Node.
        Some(_) if *object == notes => Some(note()),
        found => found.map(Arc::clone),
    };
    wanted.iter().map(one).collect()
}

/// Returns a line for each Node: its name, and its pod ranges.
pub(super) fn nodes(found: &Found) -> String {
    found.nodes.iter().map(|node| format!("{node}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::step::Answer;

    fn found(stdout: &str, status: i32, stderr: &str, object: Object) -> Result<Found, String> {
        let stdout = format!("{stdout}\n{ALL_NODES}\n");
        let reply = Reply { status, stdout: stdout.into(), stderr: stderr.into() };
        read(reply, &[&Ask::Objects(vec![object])])
    }

    #[test]
    fn an_object_without_namespace_may_be_in_default() {
        for (line, there) in
            [("ConfigMap/default/a {}", true), ("ConfigMap//a {}", true), ("ConfigMap/other/a {}", false)]
        {
            let found = found(line, 0, "", Object::new("v1", "ConfigMap", "", "a")).unwrap();
            assert_eq!(found.objects.len() == 1, there, "{line}");
        }
    }

    #[test]
    fn an_answer_has_only_the_note_of_its_node() {
        let wanted = |name: &str| [Object::node(name), Object::notes()];
        let answer = |name: &str, stdout: &str| {
            let reply =
                Reply { status: 0, stdout: format!("{stdout}{ALL_NODES}\n").into(), stderr: String::new() };
            let wanted = wanted(name);
            Answer::Objects(of(&wanted, &read(reply, &[&Ask::Objects(wanted.to_vec())]).unwrap())).to_string()
        };
        let nodes = "Node//a {}\nNode//b {}\n";
        let notes = "ConfigMap/kube-system/ironstrap {\"data\":{\"a\":\"label x\"}}\n";
        assert_eq!(answer("a", &format!("{nodes}{notes}")), "{}\n\"label x\"\n");
        assert_eq!(answer("b", &format!("{nodes}{notes}")), "{}\n\"\"\n");
        assert_eq!(answer("a", nodes), "{}\nabsent\n");
    }

    #[test]
    fn secret_content_stays_in_the_cluster() {
        let ask = Ask::Objects(vec![Object::new("v1", "Secret", "a", "b")]);
        let question = question(&[&ask], "/var/lib/etcd").to_string();
        let line = format!("{{.metadata.name}} \"{}\"{{\"\\n\"}}{{end}}'", Object::SECRET);
        assert!(question.contains(&line) && !question.contains(".type"), "{question}");
    }

    #[test]
    fn only_warnings_and_unknown_kinds_are_tolerated() {
        let said = |status: i32, stderr: &str| {
            found("Node//a {}", status, stderr, Object::node("a")).map(|found| found.objects.len())
        };
        let warning = "Warning: v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1";
        let kind = |name: &str| {
            format!(
                "resource mapping not found for name: \"{name}\" namespace: \"\" from \"STDIN\": no matches for kind \"X\" in version \"x/v1\"\nensure CRDs are installed first"
            )
        };
        assert_eq!((said(0, warning), said(0, "")), (Ok(1), Ok(1)));
        assert_eq!((said(1, &kind("x")), said(1, &format!("error: {}", kind("x")))), (Ok(1), Ok(1)));
        assert_eq!(said(1, "connection refused"), Err("kubectl: exit 1: connection refused".into()));
        assert!(said(1, "").is_err() && said(1, warning).is_err(), "nothing explains the exit status");
        // Each of many lines counts. A line that only quotes a warning does not.
        let timeout = "Error from server (InternalError): an error on the server (\"etcdserver: request timed out, Warning: x\")";
        let many = [kind("a"), kind("b"), kind("c"), timeout.to_string()].join("\n");
        assert_eq!(said(1, &many), Err(format!("kubectl: exit 1: {timeout}")));
    }
}
