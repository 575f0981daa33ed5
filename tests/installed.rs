//! What kubeadm installs in a cluster: what ironstrap wants of it is what kubeadm itself made, for a range of versions, and
//! each fault is put right by shell that both shells run.

// clippy sees no test in what the tests share.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;

use common::{lab, shells, trust, wants};
use ironstrap::cluster::Cluster;
use ironstrap::fleet::Fleet;
use ironstrap::machine::Machine;
use ironstrap::step::{Ask, Expect, Fix, Object, Verdict, Want};
use serde_json::{Value, json};
use time::OffsetDateTime;

/// What a cluster has that kubeadm 1.36.3 made of the lab's inventory, a line each (tests/fixtures/README.md).
const MADE: &str = include_str!("fixtures/kubeadm-1.36.3.jsonl");

fn made() -> BTreeMap<String, Value> {
    let objects = MADE.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    objects.map(|object| (Object::of(&object).to_string(), object)).collect()
}

fn installed(cluster: &Cluster, exists: bool) -> Vec<Want> {
    let fleet = Fleet { exists, ..Fleet::default() };
    let now = OffsetDateTime::now_utc();
    let all = wants((cluster, &cluster.nodes[0]), &trust(cluster), (&Machine::default(), &fleet), now);
    all.into_iter().filter(|(_, step, _)| *step == "installed").map(|(.., want)| want).collect()
}

fn asked(want: &Want) -> String {
    let Ask::Objects(objects) = &want.ask else { panic!("{}", want.that) };
    objects[0].to_string()
}

fn judged(want: &Want, answer: &str) -> Verdict {
    let Expect::Judged(judge) = &want.expect else { panic!("{}", want.that) };
    judge(answer)
}

const INFO: &str = "ConfigMap kube-public/cluster-info";

#[test]
fn all_that_kubeadm_made_is_wanted_and_is_right() {
    let mut made = made();
    for want in installed(&lab(), true) {
        let name = asked(&want);
        if name == INFO {
            continue;
        }
        let object = made.remove(&name).unwrap_or_else(|| panic!("kubeadm makes no {name}"));
        assert_eq!(judged(&want, &object.to_string()), Verdict::Holds, "{name}");
        assert!(matches!(judged(&want, "absent"), Verdict::Differs { .. }), "{name} is missing");
    }
    assert_eq!(made.keys().collect::<Vec<_>>(), Vec::<&String>::new(), "nobody wants these");
}

#[test]
fn before_there_is_a_cluster_kubeadm_has_yet_to_make_them() {
    for want in installed(&lab(), false) {
        assert_eq!(judged(&want, "absent"), Verdict::Holds, "{}", want.that);
    }
}

#[test]
fn a_cluster_without_an_addon_of_kubeadms_has_nothing_of_it() {
    let mut cluster = lab();
    cluster.kubeadm.insert("dns".into(), json!({"disabled": true}));
    cluster.kubeadm.insert("proxy".into(), json!({"disabled": true}));
    let names: Vec<String> = installed(&cluster, true).iter().map(asked).collect();
    assert!(
        !names.is_empty() && names.iter().all(|name| !name.contains("dns") && !name.contains("prox")),
        "{names:?}"
    );
}

#[test]
fn probes_have_the_ports_of_their_version() {
    for (minor, liveness) in [(33, json!(8080)), (34, json!("liveness-probe"))] {
        let mut cluster = lab();
        cluster.kubernetes = semver::Version::new(1, minor, 0);
        let wants = installed(&cluster, true);
        let want = wants.iter().find(|want| asked(want) == "Deployment kube-system/coredns").unwrap();
        let Verdict::Differs { want, .. } = judged(want, "{}") else { panic!("nothing is right") };
        assert!(want.contains(&format!("\"port\":{liveness}")), "{minor}: {want}");
    }
}

#[test]
fn cluster_info_is_judged_by_what_it_leads_to() {
    let (cluster, trust) = (lab(), trust(&lab()));
    let fleet = Fleet { exists: true, ..Fleet::default() };
    let machine = Machine::default();
    let all = wants((&cluster, &cluster.nodes[0]), &trust, (&machine, &fleet), OffsetDateTime::now_utc());
    let want = all.into_iter().map(|(.., want)| want).find(|want| want.that.starts_with(INFO)).unwrap();
    let judge = |text: String| judged(&want, &json!({"data": {"kubeconfig": text}}).to_string());
    let right = trust.cluster_info("https://api.demo.internal:6443");
    assert_eq!(judge(right.clone()), Verdict::Holds);
    let mut other = trust.clone();
    other.ca = trust.front_proxy_ca.clone();
    let have =
        |verdict| if let Verdict::Differs { have, .. } = verdict { have } else { panic!("{verdict:?}") };
    let of_another = have(judge(other.cluster_info("https://api.demo.internal:6443")));
    assert_eq!(of_another, "server: https://api.demo.internal:6443\nCA: of another cluster\n");
    assert!(
        have(judge(trust.cluster_info("https://192.0.2.1:6443")))
            .starts_with("server: https://192.0.2.1:6443\n")
    );
    assert!(!have(judge("no YAML: [".into())).is_empty());
    assert_eq!(have(judged(&want, "absent")), "");
}

/// A kubectl for a folder: it does what `does` says, and notes what it was called with.
fn runs(want: &Want, does: &str) -> Vec<(bool, String, String)> {
    let Fix::Run(fix) = &want.fix else { panic!("{}", want.that) };
    let (_, own) = fix.split_once("kubectl get --raw /readyz >/dev/null\n").unwrap();
    let run = |shell: &'static str| {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().display();
        let script = format!(
            "set -eu\nkubectl() {{\necho \"$*\" >>{root}/asked\n{}\n}}\n{}",
            does.replace("ROOT", &root.to_string()),
            own.replace("/run/ironstrap", &root.to_string())
        );
        let ran = common::run(shell, &script);
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap_or_default();
        (ran.status.success(), read("asked").replace(&root.to_string(), "ROOT"), read("put"))
    };
    let ran: Vec<(bool, String, String)> = shells().into_iter().map(run).collect();
    assert!(ran.iter().all(|each| *each == ran[0]), "every shell does the same: {ran:#?}");
    ran
}

fn want(cluster: &Cluster, object: &str) -> Want {
    installed(cluster, true).into_iter().find(|want| asked(want) == object).unwrap()
}

#[test]
fn coredns_keeps_its_replicas_unless_there_are_none_or_the_inventory_says_how_many() {
    let kubectl = |present: &str| {
        format!("case $* in *'get deployment/coredns'*) printf '{present}' ;; apply*) cat >ROOT/put ;; esac")
    };
    let mut cluster = lab();
    for (said, present, put) in
        [(None, "", 2), (None, "0", 2), (None, "1", 1), (None, "7", 7), (Some(3), "7", 3)]
    {
        cluster.coredns.replicas = said;
        let (good, _, text) =
            runs(&want(&cluster, "Deployment kube-system/coredns"), &kubectl(present)).remove(0);
        let object: Value = ironstrap::yaml::read(&text).unwrap();
        assert_eq!((good, &object["spec"]["replicas"]), (true, &json!(put)), "{said:?} {present:?}: {text}");
    }
}

#[test]
fn what_cannot_be_changed_in_place_is_replaced_and_any_other_refusal_is_one() {
    let service = want(&lab(), "Service kube-system/kube-dns");
    let kubectl = |said: &str, replaced: &str| {
        format!(
            "case $* in apply*) cat >/dev/null; echo '{said}' >&2; return 1 ;; 'replace -f -') cat >/dev/null; return {replaced} ;; esac"
        )
    };
    let invalid = "The Service \"kube-dns\" is invalid: spec.ports[2].name: Duplicate value: \"dns\"";
    let asked = |said: &str, replaced: &str| {
        let (good, asked, _) = runs(&service, &kubectl(said, replaced)).remove(0);
        (good, asked.lines().skip(1).map(str::to_string).collect::<Vec<_>>())
    };
    assert_eq!(asked(invalid, "0"), (true, vec!["replace -f -".to_string()]));
    assert_eq!(asked(invalid, "1"), (true, vec!["replace -f -".into(), "replace --force -f -".to_string()]));
    assert_eq!(asked("Error from server (Forbidden): no", "0"), (false, vec![]));
}

#[test]
fn a_corefile_that_is_replaced_is_kept_and_a_new_service_account_starts_its_pods_again() {
    let mut cluster = lab();
    cluster.coredns.corefile = Some(".:53 {\n    whoami\n}\n".into());
    let kubectl = "case $* in *'get configmap coredns'*) echo '.:53 { theirs }' ;; *create*) cat ROOT/Corefile >ROOT/put ;; apply*) cat >/dev/null ;; *-o' 'name) echo it ;; esac";
    let (good, asked, kept) = runs(&want(&cluster, "ConfigMap kube-system/coredns"), kubectl).remove(0);
    assert_eq!((good, kept.as_str()), (true, ".:53 { theirs }\n"));
    assert!(asked.contains("create configmap coredns-replaced --from-file="), "{asked}");
    assert!(asked.ends_with("rollout restart deployment/coredns\n"), "{asked}");
    let account = want(&cluster, "ServiceAccount kube-system/kube-proxy");
    assert!(runs(&account, kubectl)[0].1.ends_with("rollout restart daemonset/kube-proxy\n"));
    let none = "case $* in apply*) cat >/dev/null ;; esac";
    let (good, asked, _) = runs(&account, none).remove(0);
    assert!(good && !asked.contains("restart"), "there is nothing to start again: {asked}");
}
