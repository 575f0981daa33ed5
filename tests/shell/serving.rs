//! What gets a kubelet the certificate that it serves with (templates/serving.sh).

use std::fs;

use super::{run, shells};
use ironstrap::shell::SERVING;

/// What a shell makes of `call` where kubectl does this: whether it ended well, what it said, and how kubectl was asked. ROOT is a
/// folder of the test's own.
fn ran(call: &str, kubectl: &str) -> (bool, String, String) {
    let run_in = |shell: &'static str| {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().display().to_string();
        let script = format!(
            "set -eu\nRUN={root} PATIENCE=2\nrenew() {{ :; }}\n\
             patiently() {{\n  tries=0\n  until \"$@\"; do\n    [ $? != 76 ] || return 1\n    tries=$((tries + 1))\n    [ $tries -lt 5 ] || return 1\n  done\n}}\n\
             kubectl() {{\nprintf '%s\\n' \"$*\" >>{root}/asked\n{kubectl}\n}}\n{SERVING}{call}\n",
            kubectl = kubectl.replace("ROOT", &root),
            SERVING = &*SERVING,
        );
        let out = run(shell, &script);
        let said = [out.stdout, out.stderr].concat();
        let asked = fs::read_to_string(dir.path().join("asked")).unwrap_or_default();
        (out.status.success(), String::from_utf8(said).unwrap(), asked)
    };
    let all: Vec<_> = shells().into_iter().map(run_in).collect();
    // How often it tries is for the clock to say.
    let same = |one: &(bool, String, String)| (&one.0, &one.1) == (&all[0].0, &all[0].1);
    assert!(all.iter().all(same), "every shell does the same: {all:#?}");
    all[0].clone()
}

const APPROVE: &str = "printf 'THE OBJECT\\n' | approve_serving w1 csr-a";

#[test]
fn a_request_is_approved_as_it_was_judged_and_its_certificate_is_waited_for() {
    let kubectl = "case $* in
replace*) grep -q 'THE OBJECT' ;;
*certificatesigningrequest*csr-a*) n=$(grep -c csr-a ROOT/asked); printf 'there  '; [ $n -lt 4 ] || printf QQ== ;;
*w1/proxy/healthz*) n=$(grep -c healthz ROOT/asked); [ $n -ge 2 ] || { echo 'remote error: tls: internal error' >&2; return 1; } ;;
esac";
    let (good, said, asked) = ran(APPROVE, kubectl);
    assert!(good, "{said}");
    let put = "replace --raw /apis/certificates.k8s.io/v1/certificatesigningrequests/csr-a/approval -f -";
    assert_eq!(asked.lines().filter(|line| *line == put).count(), 1, "{asked}");
    assert_eq!(asked.lines().filter(|line| line.contains("healthz")).count(), 2, "{asked}");
}

#[test]
fn an_object_that_changed_is_judged_again_and_any_other_refusal_is_one() {
    let kubectl = |why: &str| {
        format!("case $* in replace*) cat >/dev/null; echo 'Error from server {why}' >&2; return 1 ;; esac")
    };
    for (why, good) in [
        ("(Conflict): the object has been modified", true),
        ("(NotFound): csr-a not found", true),
        ("(Forbidden): no", false),
    ] {
        let (ended, said, _) = ran(APPROVE, &kubectl(why));
        assert_eq!(ended, good, "{why}: {said}");
        assert!(good || said.contains("(Forbidden)"), "{said}");
    }
}

#[test]
fn no_certificate_is_waited_for_that_cannot_come() {
    let kubectl = "case $* in
replace*) cat >/dev/null ;;
*certificatesigningrequest*) printf 'there subject organization is not system:nodes ' ;;
esac";
    let (good, said, asked) = ran(APPROVE, kubectl);
    assert!(!good && said.contains("csr-a: subject organization"), "{said}");
    assert_eq!(asked.lines().count(), 2, "one try: {asked}");
}

#[test]
fn another_request_is_waited_for_and_without_one_the_reason_is_told() {
    let kubectl = |names: &str| {
        format!("case $* in *certificatesigningrequests*) printf '{names}' ;; *) return 1 ;; esac")
    };
    let call = "await_serving w1 1 'csr-a asks for m1 \\\\n' csr-a";
    assert!(ran(call, &kubectl("csr-a csr-b ")).0);
    let (good, said, asked) = ran(call, &kubectl("csr-a "));
    assert!(!good && said.starts_with("reason: w1: csr-a asks for m1"), "{said}");
    assert!(said.contains("\nby hand: serving-request"), "{said}");
    assert!(asked.contains("spec.signerName=kubernetes.io/kubelet-serving"), "{asked}");
    assert!(asked.contains(r#"@.spec.username=="system:node:w1""#), "{asked}");
    // One that serves needs none.
    assert!(ran(call, "case $* in *certificatesigningrequests*) printf 'csr-a ' ;; esac").0);
    assert!(!ran("await_serving w1 1 none", &kubectl("")).0);
}

#[test]
fn requests_of_a_node_that_is_gone_are_deleted_and_no_others() {
    let kubectl = r"case $* in *'get certificatesigningrequests'*) printf 'csr-a\ncsr-b\n' ;; esac";
    let (good, said, asked) = ran("forget_requests w1", kubectl);
    assert!(good, "{said}");
    let deleted: Vec<&str> = asked.lines().filter(|line| line.starts_with("delete")).collect();
    assert_eq!(deleted.len(), 2, "{asked}");
    assert!(
        deleted[1].ends_with("-- csr-b") && asked.contains(r#"@.spec.username=="system:node:w1""#),
        "{asked}"
    );
    let (good, _, asked) = ran("forget_requests w1", ":");
    assert!(good && asked.lines().count() == 1, "{asked}");
}
