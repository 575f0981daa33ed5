//! What gets a kubelet the certificate that it serves with (templates/serving.sh).

use std::fs;

use super::{run, shells};
use ironstrap::shell::SERVING;

/// A kubelet without a certificate, as openssl of Debian 12 says it.
const BARE: &str = "CONNECTED(00000003)\n40171F5B127F0000:error:0A000438:SSL routines:ssl3_read_bytes:tlsv1 alert internal error:../ssl/record/rec_layer_s3.c:1586:SSL alert number 80\n---\nno peer certificate available";
const SERVED: &str = "CONNECTED(00000003)\n---\nServer certificate\n-----BEGIN CERTIFICATE-----\nQQ==";

/// What a shell makes of `call` where kubectl does this: whether it ended well, what it said, and how kubectl was asked. ROOT is a
/// folder of the test's own.
fn ran(call: &str, kubectl: &str) -> (bool, String, String) {
    ran_with(call, kubectl, ":")
}

/// The same where openssl does this; `-`: there is none.
fn ran_with(call: &str, kubectl: &str, openssl: &str) -> (bool, String, String) {
    let run_in = |shell: &'static str| {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().display().to_string();
        let script = format!(
            "set -eu\nRUN={root} PATIENCE=2\nrenew() {{ :; }}\n\
             patiently() {{\n  tries=0\n  until \"$@\"; do\n    [ $? != 76 ] || return 1\n    tries=$((tries + 1))\n    [ $tries -lt 5 ] || return 1\n  done\n}}\n\
             kubectl() {{\nprintf '%s\\n' \"$*\" >>{root}/asked\n{kubectl}\n}}\n\
             timeout() {{ shift; \"$@\"; }}\nopenssl() {{\nprintf '%s\\n' \"$*\" >>{root}/asked\n{openssl}\n}}\n\
             command() {{ {there}; }}\n{SERVING}{call}\n",
            openssl = openssl.replace("ROOT", &root),
            there = if openssl == "-" { "return 1" } else { ":" },
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

const APPROVE: &str = "printf 'THE OBJECT\\n' | approve_serving w1 10.0.0.21:10250 csr-a";

#[test]
fn a_request_is_approved_as_it_was_judged_and_its_certificate_is_waited_for() {
    let kubectl = "case $* in
replace*) grep -q 'THE OBJECT' ;;
*certificatesigningrequest*csr-a*) n=$(grep -c csr-a ROOT/asked); printf 'there  '; [ $n -lt 4 ] || printf QQ== ;;
esac";
    let openssl = format!(
        "n=$(grep -c s_client ROOT/asked); if [ $n -ge 2 ]; then printf '%s' '{SERVED}'; else printf '%s' '{BARE}'; return 1; fi"
    );
    let (good, said, asked) = ran_with(APPROVE, kubectl, &openssl);
    assert!(good, "{said}");
    let put = "replace --raw /apis/certificates.k8s.io/v1/certificatesigningrequests/csr-a/approval -f -";
    assert_eq!(asked.lines().filter(|line| *line == put).count(), 1, "{asked}");
    let looks = "s_client -connect 10.0.0.21:10250";
    assert_eq!(asked.lines().filter(|line| *line == looks).count(), 2, "{asked}");
    assert!(!asked.contains("healthz"), "{asked}");
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
    let call = "await_serving w1 10.0.0.21:10250 1 'csr-a asks for m1 \\\\n' csr-a";
    assert!(ran(call, &kubectl("csr-a\\ncsr-b\\n")).0);
    let (good, said, asked) = ran(call, &kubectl("csr-a\\n"));
    assert!(!good && said.starts_with("reason: w1: csr-a asks for m1"), "{said}");
    assert!(said.contains("\nby hand: serving-request"), "{said}");
    assert!(asked.contains("spec.signerName=kubernetes.io/kubelet-serving"), "{asked}");
    assert!(asked.contains(r#"@.spec.username=="system:node:w1""#), "{asked}");
    // One that serves needs none.
    assert!(ran_with(call, &kubectl("csr-a"), &format!("printf '%s' '{SERVED}'")).0);
    assert!(!ran("await_serving w1 10.0.0.21:10250 1 none", &kubectl("")).0);
}

#[test]
fn older_requests_that_were_not_shown_are_no_other_ones() {
    let kubectl =
        r"case $* in *certificatesigningrequests*) printf 'csr-old\ncsr-a\n' ;; *) return 1 ;; esac";
    let (good, said, asked) = ran("await_serving w1 10.0.0.21:10250 1 none csr-a", kubectl);
    assert!(!good && said.starts_with("reason: w1: none"), "{said}");
    assert!(asked.contains("--sort-by=.metadata.creationTimestamp"), "{asked}");
}

#[test]
fn a_kubelet_is_looked_at_without_credentials_and_with_a_limit() {
    let look = |kubectl: &str, openssl: &str| ran_with("kubelet_tls w1 [::1]:10250", kubectl, openssl);
    let say = |text: &str| format!("printf '%s' '{text}'");
    assert_eq!(look("return 1", &say(BARE)).1, "bare\n");
    assert_eq!(look("return 1", &format!("{}; return 1", say("connect: Connection refused"))).1, "");
    let (_, said, asked) = look("return 1", &say(SERVED));
    assert_eq!((said.as_str(), asked.as_str()), ("serves\n", "s_client -connect [::1]:10250\n"));
    let endless = "{ head -c 90000000 /dev/zero && echo ALL >>ROOT/asked; } || :";
    let (good, said, asked) = look("return 1", endless);
    assert!(good && said.is_empty() && !asked.contains("ALL"), "{said} {asked}");
    // Without openssl the API server asks.
    assert_eq!(look("printf ok", "-").1, "serves\n");
    assert_eq!(look("echo 'remote error: tls: internal error' >&2; return 1", "-").1, "bare\n");
    let (good, said, asked) = look(endless, "-");
    assert!(good && said.is_empty() && !asked.contains("ALL"), "{said} {asked}");
    assert!(asked.contains("healthz --request-timeout=5s"), "{asked}");
}

/// A line of the API server's answer, the oldest first.
fn line(name: &str, user: &str, certificate: &str, request: &str) -> String {
    let user = serde_json::Value::from(user);
    format!(
        "{name}\tuid-{name}\t7\t2026-11-21T12:00:00Z\t\t{certificate}\t{{\"extra\":{{\"username\":[\"a\"]}},\"request\":\"{request}\",\"username\":{user}}}\n"
    )
}

#[test]
fn of_each_user_the_newest_requests_are_shown_and_a_few_users_do_not_crowd_out_others() {
    let mut all = line("csr-first", "system:node:m1", "", "QQ==");
    for n in 0..200 {
        for w in 1..=3 {
            all += &line(&format!("csr-{w}-{n}"), &format!("system:node:w{w}"), "", &"A".repeat(9000));
        }
        all += &line(&format!("csr-4-{n}"), "system:node:w4", &"C".repeat(5000), "QQ==");
    }
    all += &line("csr-huge", "system:node:w1", "", &"A".repeat(50_000));
    all += &line("csr-odd", "x\nsystem:node:w1\t", "", "QQ==");
    let kubectl = format!("cat <<'ALL'\n{all}ALL");
    let (good, said, asked) = ran("serving_requests", &kubectl);
    assert!(good && said.len() < 70_000, "{} bytes", said.len());
    let names: Vec<&str> = said.lines().map(|line| line.split('\t').next().unwrap()).collect();
    assert_eq!(names[..3], ["csr-odd", "csr-4-199", "csr-3-199"], "the newest first");
    let of = |start: &str| names.iter().filter(|name| name.starts_with(start)).count();
    assert_eq!((of("csr-1-"), of("csr-2-"), of("csr-4-"), of("csr-huge")), (2, 2, 20, 0), "{names:?}");
    assert_eq!(names.last(), Some(&"csr-first"));
    assert!(said.contains("\tsigned\t") && !said.contains("CCCC"), "a certificate is a word");
    assert!(asked.contains("{.spec}"), "{asked}");
    assert!(!ran("serving_requests", "return 1").0, "no answer is none");
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
