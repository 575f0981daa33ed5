//! member: this machine is part of the cluster. The fleet tells which machine begins the cluster and which machines join it.
//! kubeadm does both, and completes what an earlier attempt left half done.

use serde_json::{Value, json};
use time::Duration;

use crate::diagnosis;
use crate::error::Result;
use crate::pki::Credential;
use crate::shell::{KUBECTL, PODS, READY, Sh, sh};
use crate::step::{Ask, Cx, Fix, Id, Object, Step, Verdict, WITH_THE_MEMBER, Want, sha256};
use crate::steps::kubeadm::{self, NO_TOKEN, SUPER_ADMIN};
use crate::steps::{installed, kubelet, uploads};

mod leave;
mod manifests;
mod registered;
pub(super) mod rights;

pub const STEP: Step = Step { name: "member", why: "only members of the cluster run pods", wants };

/// The ids of the wants that make a machine a member. Their undo takes the machine out of the cluster.
const CONTROL_PLANE: &str = "member.control-plane";
const JOINED: &str = "member.joined";

/// Whether this is the want that makes a machine a member of the cluster.
pub fn is_membership(id: &Id) -> bool {
    [CONTROL_PLANE, JOINED].contains(&id.name)
}

const BOOTSTRAP: &str = "/etc/kubernetes/bootstrap-kubelet.conf";
const KUBELET_CONFIG: &str = "/var/lib/kubelet/config.yaml";
const KUBELET_FLAGS: &str = "/var/lib/kubelet/kubeadm-flags.env";
/// How many minutes kubeadm may take.
const MINUTES: u32 = 15;
const ETCD_IS: Sh = Sh::raw(include_str!("../../templates/etcd.sh"));
/// The receipt: a file that notes what kubeadm wrote, and from which configuration.
const RECEIPT: &str = "/var/lib/ironstrap/kubeadm-receipt";

fn wants(cx: &Cx) -> Result<Vec<Want>> {
    let enter = enter(cx)?;
    let [unit, drop_in] = kubelet::UNIT_FILES;
    let mut member = match cx.node.is_control_plane() {
        true => control_plane(cx, &enter),
        false => worker(cx, &enter),
    };
    if cx.fleet.init_node != cx.node.name {
        member =
            member.with(Credential::of_node(&cx.node.name, cx.cluster, Duration::minutes(MINUTES.into())));
    }
    let mut wants = vec![
        member,
        nothing_lent(),
        products(cx)?,
        manifests::want(cx),
        Want::unit_runs(
            "member.kubelet-unit",
            "kubelet",
            &[KUBELET_CONFIG, KUBELET_FLAGS, "/usr/bin/kubelet", unit, drop_in],
        )
        .nothing_to_undo(WITH_THE_MEMBER),
        registered::want(cx)?,
    ];
    if cx.node.is_control_plane() {
        wants.extend(rights::wants(cx));
    }
    if !cx.machine.is_member() {
        // Becoming a member makes the other wants true. Their fixes right afterwards would only cost time.
        wants.iter_mut().skip(1).for_each(|want| want.fix = Fix::FromPrevious);
    } else if cx.node.is_control_plane() && !cx.machine.has("receipt") {
        // kubeadm was killed after the kubelet got its credentials. Single phases would neither let anybody in nor join etcd.
        (wants[2].fix, wants[2].credential) = (wants[0].fix.clone(), wants[0].credential.clone());
    }
    Ok(wants)
}

/// The want that this machine runs the control plane. It asks for evidence, not markers: the cluster itself must have what
/// kubeadm makes last.
fn control_plane(cx: &Cx, enter: &Sh) -> Want {
    let mut objects = vec![
        Object::node(&cx.node.name),
        Object::new("v1", "ConfigMap", "kube-system", "kubeadm-config"),
        Object::new("v1", "ConfigMap", "kube-system", "kubelet-config"),
        Object::new("v1", "ConfigMap", "kube-public", "cluster-info"),
    ];
    if cx.cluster.has_addon("proxy") {
        objects.push(Object::new("apps/v1", "DaemonSet", "kube-system", "kube-proxy"));
    }
    if cx.cluster.has_addon("dns") {
        objects.push(Object::new("apps/v1", "Deployment", "kube-system", "coredns"));
    }
    // Once kubeadm is complete, other steps repair an object that was deleted, or a Node that lost its mark.
    let others: Vec<bool> =
        objects.iter().map(|object| object.kind == "Node" || installed::mends(object)).collect();
    let named: Vec<(String, bool)> =
        objects.iter().map(|object| (object.to_string(), object.kind == "Node")).collect();
    let has_credentials = cx.machine.is_member();
    let through = cx.machine.has("receipt") && has_credentials;
    Want::new(CONTROL_PLANE, format!("{} runs the control plane of {}", cx.node.name, cx.cluster.name))
        .ask(Ask::Objects(objects))
        .judged_objects(move |found| {
            let mut missing: Vec<String> = Vec::new();
            if !has_credentials {
                missing.push("the kubelet's own credentials".into());
            }
            for (((name, is_node), others), object) in named.iter().zip(&others).zip(found) {
                let marked = |node: &Value| {
                    let labels = node.pointer("/metadata/labels");
                    labels.is_some_and(|labels| labels.get("node-role.kubernetes.io/control-plane").is_some())
                };
                let is_there = object.as_ref().is_some_and(|object| !is_node || marked(object));
                if !(is_there || *others && through) {
                    missing.push(name.clone());
                }
            }
            match missing.is_empty() {
                true => Verdict::Holds,
                false => Verdict::Differs {
                    have: format!("missing: {}", missing.join(", ")),
                    want: "all present".into(),
                },
            }
        })
        .run_as_unit("kubeadm", MINUTES, enter)
        .undone_by(leave::undo(cx))
        .disrupts()
}

fn worker(cx: &Cx, enter: &Sh) -> Want {
    let have = match () {
        () if cx.machine.is_member() => None,
        () if cx.machine.has("kubelet.conf") => Some("its kubelet has no certificate from the cluster"),
        () => Some("not a member"),
    };
    Want::new(JOINED, format!("{} is a member of {}", cx.node.name, cx.cluster.name))
        .ask(Ask::Facts)
        .judged(move |_| match have {
            None => Verdict::Holds,
            Some(have) => Verdict::Differs { have: have.into(), want: "member".into() },
        })
        .run_as_unit("kubeadm", MINUTES, enter)
        .undone_by(leave::undo(cx))
}

/// Shell that makes this machine a member: `kubeadm init` on the init node, `kubeadm join` elsewhere. A second run with the
/// same configuration, without preflight, finishes whatever was begun. A plain second run would fail on its own leftovers.
fn enter(cx: &Cx) -> Result<Sh> {
    let init_node = cx.fleet.init_node == cx.node.name;
    let documents = if init_node { kubeadm::init(cx, true)? } else { kubeadm::join(cx)? };
    let verb = Sh::raw(if init_node { "init --skip-token-print" } else { "join" });
    let look = Sh::raw(if init_node { "" } else { ENTERED });
    // A worker needs only its kubelet. On a control plane, kubeadm does the rest.
    let entered = Sh::raw(match cx.node.is_control_plane() {
        true => "run_unless_fatal kubeadm join --config $c --skip-phases=preflight,kubelet-start",
        false => ":",
    });
    let lent = kubeadm::DISCOVERY;
    let (before, after) = match init_node {
        true => (Sh::raw("made_up $c\n"), Sh::EMPTY),
        false => (sh!("lent {lent}\n", lent), Sh::raw("\nretry rotated")),
    };
    let script = sh!(
        "{before}kubeadm config validate --config $c\n\
         begun= entered=\nfor f in /etc/kubernetes/*.conf /etc/kubernetes/manifests/*.yaml; do [ ! -e \"$f\" ] || begun=yes; done\n\
         {look}if [ -n \"$entered\" ]; then {entered}; else run_unless_fatal kubeadm {verb} --config $c ${begun:+--skip-phases=preflight}; fi{after}\n\
         rm -f {lent} {BOOTSTRAP}",
        before,
        look,
        entered,
        verb,
        after,
        lent,
        BOOTSTRAP
    );
    let (noted, last) = match init_node {
        true => (uploads::noted(cx)? + NO_TOKEN + "\n", sh!("\nrm -f {SUPER_ADMIN}", SUPER_ADMIN)),
        false => (Sh::EMPTY, Sh::EMPTY),
    };
    Ok(diagnosis::fatal_patterns() + kubeadm::with(cx, &documents, &script)? + noted + receipt(cx)? + last)
}

/// The want that no join credentials are left. Each fix deletes its credentials when it ends, unless it ends because
/// its machine does.
fn nothing_lent() -> Want {
    let ours = ["kubeadm.yaml", "masters.conf"].map(|name| format!("/run/ironstrap/{name}"));
    let files = Sh::words([BOOTSTRAP, kubeadm::DISCOVERY].into_iter().chain(ours.iter().map(String::as_str)));
    Want::new("member.no-credentials", "no join credentials are left")
        .ask(sh!("for f in {files}; do [ ! -e $f ] || echo $f; done", files))
        .is("")
        .run(sh!("rm -f {files}", files))
        .nothing_to_undo(WITH_THE_MEMBER)
}

/// Shell that sets `entered` if the kubelet has its kubeconfig and its certificate. A kubelet that kubeadm started goes on
/// asking for its certificate after kubeadm is gone. If its Node is Ready by then, kubeadm refuses to give it credentials
/// again.
const ENTERED: &str = "\
if [ -e /etc/kubernetes/kubelet.conf ] && [ -e /var/lib/kubelet/pki/kubelet-client-current.pem ]; then entered=yes; fi
";

/// The files that kubeadm writes on this machine and does not delete.
fn product_files(cx: &Cx) -> Vec<&'static str> {
    let mut files = vec![KUBELET_CONFIG, KUBELET_FLAGS, "/var/lib/kubelet/instance-config.yaml"];
    if cx.node.is_control_plane() {
        files.extend([
            "/etc/kubernetes/manifests/etcd.yaml",
            "/etc/kubernetes/manifests/kube-apiserver.yaml",
            "/etc/kubernetes/manifests/kube-controller-manager.yaml",
            "/etc/kubernetes/manifests/kube-scheduler.yaml",
        ]);
    }
    files
}

/// The hash of the configuration, without the part that may change freely (the token of init).
fn fingerprint(cx: &Cx) -> Result<String> {
    let documents = match cx.node.is_control_plane() {
        true => {
            let mut documents = kubeadm::init(cx, false)?;
            // A node without kubelet settings of its own keeps the hash that receipts have had from the beginning.
            documents.extend((!cx.node.kubelet.is_empty()).then(|| Value::from(cx.node.kubelet.clone())));
            documents
        }
        false => vec![kubeadm::kubelet(cx)?, json!({"ip": cx.node.ip.to_string(), "name": cx.node.name})],
    };
    Ok(sha256(Value::from(documents).to_string().as_bytes()))
}

/// Shell that writes the receipt: what kubeadm just wrote, and from which configuration.
fn receipt(cx: &Cx) -> Result<Sh> {
    Ok(sh!(
        "mkdir -p -m 700 /var/lib/ironstrap\n\
         { echo config {fingerprint}; echo endpoint {endpoint}; echo name {name}; for f in {files}; do if [ -e \"$f\" ]; then sha256sum \"$f\"; fi; done; } >{RECEIPT}.new\n\
         mv {RECEIPT}.new {RECEIPT}",
        fingerprint = fingerprint(cx)?,
        endpoint = cx.cluster.endpoint.to_string(),
        name = cx.cluster.name,
        files = Sh::words(product_files(cx)),
        RECEIPT
    ))
}

/// The want that kubeadm's files are as kubeadm wrote them. ironstrap does not render these files, so it does not know their
/// right text. It compares them with what they were when kubeadm wrote them. It compares the configuration with the one that
/// kubeadm got then.
fn products(cx: &Cx) -> Result<Want> {
    let fingerprint = fingerprint(cx)?;
    Ok(Want::new("member.kubeadm-files", "kubeadm's files are unchanged and match this inventory")
        .ask(ask(cx))
        .judged(move |answer| compare(answer, &fingerprint))
        .run_as_unit("kubeadm", MINUTES, again(cx)?)
        .nothing_to_undo(WITH_THE_MEMBER)
        .disrupts())
}

/// Asks for the receipt, for the files as they are now, and for further manifests.
fn ask(cx: &Cx) -> Sh {
    sh!(
        "{more}if [ ! -e {RECEIPT} ]; then echo no receipt; exit 0; fi\nwhile read -r a b; do echo \"was $a $b\"; done <{RECEIPT}\n\
         for f in {files}; do if [ -e \"$f\" ]; then set -- \"$@\" \"$f\"; fi; done\n\
         s=$(sha256sum -- \"$@\")\necho \"$s\" | while read -r a b; do echo \"is $a $b\"; done",
        more = manifests::MORE,
        RECEIPT,
        files = Sh::words(product_files(cx))
    )
}

fn compare(answer: &str, fingerprint: &str) -> Verdict {
    let kind = |kind: &str| -> Vec<(String, String)> {
        let lines = answer.lines().filter_map(|line| line.strip_prefix(kind)?.trim().split_once(' '));
        lines.map(|(hash, file)| (file.trim().to_string(), hash.to_string())).collect()
    };
    let (was, is) = (kind("was "), kind("is "));
    if was.is_empty() {
        return Verdict::Differs {
            have: String::new(),
            want: "written by kubeadm from this inventory".into(),
        };
    }
    let mut changed: Vec<String> = Vec::new();
    for (file, hash) in &was {
        if hash == "config" && file != fingerprint {
            changed.push("the inventory's settings changed since kubeadm ran".into());
        }
        match is.iter().find(|(other, _)| other == file) {
            _ if !file.starts_with('/') => {}
            Some((_, now)) if now == hash => {}
            Some(_) => changed.push(format!("{file} was edited")),
            None => changed.push(format!("{file} is missing")),
        }
    }
    let new = is.iter().filter(|(file, _)| !was.iter().any(|(other, _)| other == file));
    changed.extend(new.map(|(file, _)| format!("{file} is new")));
    match changed.is_empty() {
        true => Verdict::Holds,
        false => Verdict::Differs {
            have: changed.join("\n"),
            want: "written by kubeadm from this inventory".into(),
        },
    }
}

/// Shell that waits until each component runs with its new arguments. The old API server answers until the kubelet has
/// started the new one. ironstrap cannot know for certain what YAML makes of an argument, so the wait has an end.
const STARTED: &str = r#"at_once etcd
for m in etcd kube-apiserver kube-controller-manager kube-scheduler; do
  [ $m != kube-apiserver ] || [ -n "$restarted" ] || at_once kube-apiserver
  ( WAIT_TIMEOUT=60; retry as_written "$m" "$NODE" ) 2>$RUN/why || { ! grep 'waiting does not help' $RUN/why >&2 || exit 1; }
done
"#;

/// Defines `at_once NAME…`, which restarts the kubelet if one of these components still does not run after ten seconds. The
/// kubelet starts a container that keeps ending only after up to five minutes, even if what it lacked is back. It starts a
/// static pod whose manifest was away only after minutes. A kubelet that has just started does both at once. A component with
/// another manifest takes a moment.
const AT_ONCE: &str = r#"restarted=
at_once() {
  for n in 1 2 3 4 5 6 7 8 9 10; do
    away=
    for name; do [ -n "$(component "$name" "$NODE")" ] || away=$name; done
    [ -n "$away" ] || return 0
    sleep 1
  done
  restarted=yes
  systemctl restart kubelet
}
"#;

/// Shell that writes the manifests of etcd and of the control plane again. kubeadm's phase has etcd begin a cluster of its
/// own, which has no effect as long as etcd has its data. If etcd joined other members, its manifest keeps saying so.
/// Otherwise etcd would be restarted for nothing. An API server without its etcd lets each request hang. A kubelet that
/// starts then waits twice for a minute to be registered before it starts etcd. So the script ends that API server first:
/// nobody waits for a request that is refused.
const ETCD_AGAIN: &str = r#"m=/etc/kubernetes/manifests/etcd.yaml n=$RUN/manifests
rm -rf $n; mkdir -p -m 700 $n
KUBEADM_INIT_DRYRUN_DIR=$n kubeadm init phase etcd local --config $c --dry-run >/dev/null
d=$(sed -n 's/^ *- --data-dir=//p' $n/etcd.yaml)
ETCD=$d; etcd_is
[ "$ETCD" = "$d" ] || [ ! -d "$ETCD/member" ] || { echo "etcd keeps its data in $ETCD, but the inventory says $d: set etcd.local.dataDir of [kubeadm] to \"$ETCD\", or move the data yourself while the kubelet and etcd are stopped"; exit 1; }
[ -d "$d/member" ] || { echo "etcd's data in $d/member is missing: if other control planes are left, remove this node with ironstrap remove and run apply; otherwise restore a snapshot"; exit 1; }
joined=
[ ! -e $m ] || joined=$(grep -E '^ *- --initial-cluster(-state)?=' $m || :)
case $joined in *--initial-cluster-state=existing*) ;; *) joined= ;; esac
joined=$joined awk '/^ *- --initial-cluster=/ && ENVIRON["joined"] != "" { print ENVIRON["joined"]; next } { print }' $n/etcd.yaml >$n/new
cmp -s $n/new $m || write_file $m 600 <$n/new
kubeadm init phase control-plane all --config $c
if runs=$(component etcd "$NODE") && [ -z "$runs" ]; then
  for pid in $(component kube-apiserver "$NODE"); do kill -s KILL "$pid" 2>/dev/null || :; done
fi
"#;

/// Has kubeadm write its files again, on a machine that is a member. kubeadm's single phases are made to be repeated. The
/// phase of init also serves on a worker, where nothing else writes the kubelet's flags. These flags then lack the taints
/// with which a join registers a node. `labels` sets those.
fn again(cx: &Cx) -> Result<Sh> {
    let (documents, before, after) = match cx.node.is_control_plane() {
        true => {
            let started =
                Sh::raw(AT_ONCE) + STARTED + READY + "at_once kube-controller-manager kube-scheduler\n";
            (kubeadm::init(cx, false)?, ETCD_IS + ETCD_AGAIN, started)
        }
        false => (kubeadm::worker(cx)?, Sh::EMPTY, Sh::raw("stays_active kubelet\n")),
    };
    let script = sh!(
        "kubeadm config validate --config $c\n{before}kubeadm init phase kubelet-start --config $c",
        before
    );
    let script = kubeadm::with(cx, &documents, &script)?;
    let node = sh!("NODE={node}\n", node = cx.node.name);
    Ok(diagnosis::fatal_patterns() + KUBECTL + PODS + node + script + after + receipt(cx)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edited_missing_and_new_files_are_reported() {
        let same = "was config F\nwas 1 /a\nis 1 /a";
        assert_eq!(compare(same, "F"), Verdict::Holds);
        let Verdict::Differs { have, .. } =
            compare("was config F\nwas endpoint api:6443\nwas 1 /a\nwas 2 /b\nis 3 /a\nis 4 /c", "G")
        else {
            panic!()
        };
        assert_eq!(
            have,
            "the inventory's settings changed since kubeadm ran\n/a was edited\n/b is missing\n/c is new"
        );
    }
}
