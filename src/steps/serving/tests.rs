//! Tests which requests of kubelets ironstrap approves, and which it ignores.

use super::*;
use crate::fleet::Fleet;
use crate::machine::Machine;
use crate::pki::serving_request;
use crate::pki::tests::{NOW, cluster, pki};
use crate::step::{Answer, Expect, Fix};

const IP: &str = "10.0.0.21";

fn object(name: &str, second: u32, names: &[&str]) -> Value {
    json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {
            "name": name, "uid": format!("uid-{name}"), "resourceVersion": "7",
            "creationTimestamp": format!("2026-11-21T12:00:{second:02}Z"), "generateName": "csr-",
        },
        "spec": {
            "request": serving_request("w1", names, &[IP]), "signerName": SIGNER,
            "usages": ["digital signature", "server auth"], "username": "system:node:w1",
            "groups": ["system:nodes", "system:authenticated"],
        },
        "status": {},
    })
}

fn answer(objects: &[Value]) -> String {
    lines(objects) + "end whole\n"
}

fn lines(objects: &[Value]) -> String {
    objects.iter().map(|object| format!("{object}\n")).collect()
}

fn enable_bootstrap(cluster: &mut Cluster) {
    cluster.kubelet.insert("serverTLSBootstrap".into(), true.into());
}

fn all(cluster: &Cluster, fleet: &Fleet) -> Vec<Want> {
    let (pki, machine) = (pki(), Machine::default());
    let node = &cluster.nodes[0];
    wants(&Cx { cluster, node, pki: &pki, now: NOW, machine: &machine, fleet }).unwrap()
}

/// The verdict on an answer with these requests about w1, and the fix. `unserved` says that w1 has no certificate.
fn judged(objects: &[Value], unserved: bool) -> (Verdict, String) {
    said(&answer(objects), unserved)
}

/// Like `judged`, but takes the whole text of an answer.
fn said(answer: &str, unserved: bool) -> (Verdict, String) {
    let mut cluster = cluster();
    enable_bootstrap(&mut cluster);
    let unserved = unserved.then(|| "w1".to_string()).into_iter().collect();
    let want = all(&cluster, &Fleet { unserved, ..Fleet::default() }).swap_remove(2);
    assert_eq!(want.that, "the kubelet of w1 has a serving certificate");
    let Expect::Judged(judge) = &want.expect else { panic!() };
    (judge(answer), want.fix_for.as_ref().unwrap()(&Answer::Said(answer.into())).to_string())
}

fn have(verdict: Verdict) -> String {
    let Verdict::Differs { have, want } = verdict else { panic!("{verdict:?}") };
    assert_eq!(want, "a certificate for w1 and 10.0.0.21");
    have
}

#[test]
fn a_valid_request_is_approved_as_it_was_judged() {
    for unserved in [true, false] {
        let (verdict, fix) = judged(&[object("csr-a", 1, &["w1"])], unserved);
        assert_eq!(have(verdict), "csr-a waits for approval");
        assert!(fix.contains("approve_serving w1 '10.0.0.21:10250' csr-a"), "{fix}");
        assert!(fix.contains(r#""uid":"uid-csr-a""#) && fix.contains(r#""resourceVersion":"7""#), "{fix}");
        assert!(fix.contains(r#""type":"Approved""#), "{fix}");
        let request = &serde_json::from_str::<Value>(fix.lines().rev().nth(1).unwrap()).unwrap()["spec"];
        let request = request["request"].as_str().unwrap();
        let judged = format!("'uid-csr-a 7 kubernetes.io/kubelet-serving {request} system:node:w1.'");
        assert!(fix.contains(&judged), "{fix}");
    }
}

#[test]
fn only_a_kubelet_without_serving_certificate_differs() {
    assert_eq!(judged(&[], false).0, Verdict::Holds);
    let mut signed = object("csr-a", 1, &["w1"]);
    signed["status"] = json!({"conditions": [{"type": "Approved"}], "certificate": 1});
    assert_eq!(judged(std::slice::from_ref(&signed), false).0, Verdict::Holds);
    let (verdict, fix) = judged(&[signed], true);
    assert_eq!(have(verdict), "the kubelet does not serve with the certificate of csr-a");
    assert!(
        fix.contains("await_serving w1 '10.0.0.21:10250' $WAIT_TIMEOUT") && fix.ends_with("csr-a"),
        "{fix}"
    );
    let (verdict, fix) = judged(&[], true);
    assert_eq!(have(verdict), "the kubelet has not requested a certificate");
    assert!(!fix.contains("await_serving w1 '10.0.0.21:10250' 20"), "{fix}");
}

#[test]
fn the_newest_valid_request_counts() {
    let right = |name: &str, second| object(name, second, &["w1"]);
    let mut signed = right("csr-b", 9);
    signed["status"] = json!({"certificate": "QQ=="});
    let (verdict, fix) = judged(&[right("csr-c", 5), right("csr-a", 2)], true);
    assert_eq!(have(verdict), "csr-c waits for approval");
    assert!(!fix.contains("uid-csr-a"));
    assert_eq!(
        judged(&[signed, right("csr-a", 2)], false).0,
        Verdict::Holds,
        "the kubelet no longer has the key of the older request"
    );
    // A newer wrong request does not keep the right one from being approved.
    let both = [object("csr-z", 9, &["w1", "m1"]), right("csr-a", 2)];
    assert_eq!(have(judged(&both, true).0), "csr-a waits for approval");
}

/// The reason why a request with this change is not approved.
fn refused(change: impl Fn(&mut Value)) -> String {
    let mut object = object("csr-x", 1, &["w1"]);
    change(&mut object);
    let (verdict, fix) = judged(std::slice::from_ref(&object), true);
    assert!(!fix.contains("approve_serving w1"), "{fix}");
    assert_eq!(
        judged(&[object], false).0,
        Verdict::Holds,
        "an invalid request of a served kubelet is ignored"
    );
    have(verdict)
}

#[test]
fn a_request_that_breaks_a_rule_is_not_approved() {
    let not = |why: &str| format!("csr-x is not approved: {why}");
    let ask = |names: &[&str]| json!(serving_request("w1", names, &[IP]));
    assert_eq!(refused(|o| o["spec"]["request"] = ask(&["m1"])), not("it asks for m1, but w1 is 10.0.0.21"));
    assert_eq!(
        refused(|o| o["spec"]["request"] = json!(serving_request("m1", &["w1"], &[IP]))),
        not("its subject is not O=system:nodes, CN=system:node:w1")
    );
    assert_eq!(refused(|o| o["spec"]["request"] = json!("QQ==")), not("it cannot be read"));
    assert_eq!(
        refused(|o| o["spec"]["signerName"] = json!("kubernetes.io/kube-apiserver-client")),
        not("it is for another signer")
    );
    assert_eq!(
        refused(|o| o["spec"]["groups"] = json!(["system:authenticated"])),
        not("system:node:w1 asked for it without the group system:nodes")
    );
    for usages in [
        json!([]),
        json!(["server auth"]),
        json!(["client auth", "digital signature", "server auth"]),
        json!(["digital signature", "server auth", "cert sign"]),
    ] {
        let said = refused(|o| o["spec"]["usages"] = usages.clone());
        assert!(said.starts_with(&not("it asks for other usages")), "{said}");
    }
    // A request by another user does not count as a request of this kubelet.
    let mut stolen = object("csr-x", 1, &["w1"]);
    stolen["spec"]["username"] = json!("system:node:m1");
    assert_eq!(have(judged(&[stolen], true).0), "the kubelet has not requested a certificate");
}

#[test]
fn invalid_requests_are_reported() {
    let mut cluster = cluster();
    enable_bootstrap(&mut cluster);
    let want = all(&cluster, &Fleet::default()).pop().unwrap();
    let Expect::Judged(judge) = &want.expect else { panic!() };
    let mut stranger = object("csr-s", 1, &["w1"]);
    stranger["spec"]["username"] = json!("system:node:w9");
    let wrong = object("csr-w", 1, &["w1", "m1"]);
    let Verdict::Noted(words) = judge(&answer(&[stranger, wrong.clone(), object("csr-r", 1, &["w1"])]))
    else {
        panic!()
    };
    assert!(words.contains("csr-s of system:node:w9: the inventory has no such node"), "{words}");
    assert!(
        words.contains("csr-w of system:node:w1: it asks for m1,") && !words.contains("csr-r"),
        "{words}"
    );
    let mut denied = wrong;
    denied["status"] = json!({"conditions": [{"type": "Denied"}]});
    assert_eq!(judge(&answer(&[denied])), Verdict::Holds);
    assert_eq!(judge(""), Verdict::Holds);
    for answer in ["{\nend whole\n", "x\nend whole\n", "{}\nend whole\n"] {
        assert!(matches!(judge(answer), Verdict::Unknown(_)), "{answer}");
    }
}

#[test]
fn the_name_of_a_request_cannot_forge_another_request() {
    let right = object("csr-a", 1, &["w1"]);
    let forged = format!("x\n{right}\ny");
    let line = format!("x\nr-admin\tuid-r\t7\t9999-01-01T00:00:00Z\t\t\t{}\ny", right["spec"]);
    for name in [&forged, &line, "", "-A", ".", "csr a", "CSR", "a\n", &"a".repeat(254)] {
        let odd = object(name, 9, &["w1"]);
        let (verdict, fix) = judged(std::slice::from_ref(&odd), true);
        assert_eq!(have(verdict), "the kubelet has not requested a certificate", "{name:?}");
        assert!(!fix.contains("approve_serving w1") && !fix.contains("r-admin"), "{fix}");
        let (verdict, fix) = judged(&[odd.clone(), right.clone()], true);
        assert_eq!(have(verdict), "csr-a waits for approval", "{name:?}");
        assert!(fix.contains("'10.0.0.21:10250' csr-a 'uid-csr-a 7 "), "{fix}");
        let mut cluster = cluster();
        enable_bootstrap(&mut cluster);
        let want = all(&cluster, &Fleet::default()).pop().unwrap();
        let Expect::Judged(judge) = &want.expect else { panic!() };
        let Verdict::Noted(words) = judge(&answer(&[odd])) else { panic!() };
        assert!(words.contains(" of system:node:w1: no kubelet gives a request such a name"), "{words}");
        assert!(!words.contains(['\n', '\t']), "{words}");
    }
}

#[test]
fn an_incomplete_list_allows_only_approvals() {
    let cut = "end part they take more than 8 seconds to read: 150 requests and 200 MB so far, most of them of \"system:node:w2\"\n";
    let wrong = object("csr-z", 9, &["w1", "m1"]);
    for end in [cut, ""] {
        for (objects, unserved) in [(vec![], true), (vec![], false), (vec![wrong.clone()], true)] {
            let answer = lines(&objects) + end;
            // Nothing is printed if there is no API server.
            if !answer.is_empty() {
                let Verdict::Unchecked(why) = said(&answer, unserved).0 else { panic!("{answer}") };
                assert!(why.starts_with("cannot read all certificate requests of kubelets: "), "{why}");
                assert!(end.is_empty() || why.ends_with("most of them of \"system:node:w2\""), "{why}");
            }
        }
        let answer = lines(&[wrong.clone(), object("csr-a", 1, &["w1"])]) + end;
        assert_eq!(have(said(&answer, true).0), "csr-a waits for approval");
        let mut cluster = cluster();
        enable_bootstrap(&mut cluster);
        let want = all(&cluster, &Fleet::default()).pop().unwrap();
        let Expect::Judged(judge) = &want.expect else { panic!() };
        assert!(matches!(judge(&answer), Verdict::Unchecked(_)));
    }
}

#[test]
fn a_joining_node_waits_and_unconfigured_nodes_are_skipped() {
    let mut cluster = cluster();
    assert!(all(&cluster, &Fleet::default()).is_empty());
    cluster.nodes[2].kubelet.insert("serverTLSBootstrap".into(), true.into());
    let fleet = Fleet {
        unserved: ["w1".to_string()].into(),
        unregistered: ["w1".to_string()].into(),
        ..Fleet::default()
    };
    let wants = all(&cluster, &fleet);
    assert_eq!(wants.len(), 2);
    let Expect::Judged(judge) = &wants[0].expect else { panic!() };
    assert!(matches!(judge(""), Verdict::Waits { .. }));
    assert!(
        matches!(&wants[0].fix, Fix::Run(fix) if fix.contains("await_serving")) || wants[0].fix_for.is_some()
    );
    enable_bootstrap(&mut cluster);
    cluster.nodes[2].kubelet.insert("serverTLSBootstrap".into(), false.into());
    assert!(!all(&cluster, &fleet).iter().any(|want| want.that.contains("w1")));
}
