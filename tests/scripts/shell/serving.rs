//! Tests the approval of serving certificates of kubelets (templates/serving.sh).

use std::fs;

use serde_json::{Value, json};

use super::{run, shells};
use ironstrap::shell::{PRELUDE, SERVING};

/// What openssl of Debian 12 prints about a kubelet without a certificate.
const BARE: &str = "CONNECTED(00000003)\n40171F5B127F0000:error:0A000438:SSL routines:ssl3_read_bytes:tlsv1 alert internal error:../ssl/record/rec_layer_s3.c:1586:SSL alert number 80\n---\nno peer certificate available";
const SERVED: &str = "CONNECTED(00000003)\n---\nServer certificate\n-----BEGIN CERTIFICATE-----\nQQ==";

/// Runs `call` with this stand-in for kubectl. Returns whether it succeeded, what it printed, and the calls of kubectl.
/// ROOT in a stand-in is a folder of the test.
fn ran(call: &str, kubectl: &str) -> (bool, String, String) {
    ran_with(call, kubectl, ":")
}

/// The same with this stand-in for openssl. With `-` there is no openssl.
fn ran_with(call: &str, kubectl: &str, openssl: &str) -> (bool, String, String) {
    let run_in = |shell: &'static str| {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().display().to_string();
        let script = format!(
            "{PRELUDE}set -eu\nRUN={root} WAIT_TIMEOUT=2\nrenew_lease() {{ :; }}\n\
             retry() {{\n  tries=0\n  until \"$@\"; do\n    [ $? != 76 ] || return 1\n    tries=$((tries + 1))\n    [ $tries -lt 5 ] || return 1\n  done\n}}\n\
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
    // The number of tries depends on the clock, so it may differ.
    let same = |one: &(bool, String, String)| (&one.0, &one.1) == (&all[0].0, &all[0].1);
    assert!(all.iter().all(same), "every shell does the same: {all:#?}");
    all[0].clone()
}

const APPROVE: &str =
    "printf 'THE OBJECT\\n' | approve_serving w1 10.0.0.21:10250 csr-a 'uid 7 signer QQ== system:node:w1.'";
/// The branch of kubectl that returns the request that was judged.
const JUDGED: &str = "*signerName*) printf '%s' 'uid 7 signer QQ== system:node:w1.' ;;";

#[test]
fn a_judged_request_is_approved_and_its_certificate_awaited() {
    let kubectl = format!(
        "case $* in
replace*) grep -q 'THE OBJECT' ;;
{JUDGED}
*certificatesigningrequest*csr-a*) n=$(grep -c csr-a ROOT/asked); printf 'there  '; [ $n -lt 5 ] || printf QQ== ;;
esac"
    );
    let openssl = format!(
        "n=$(grep -c s_client ROOT/asked); if [ $n -ge 2 ]; then printf '%s' '{SERVED}'; else printf '%s' '{BARE}'; return 1; fi"
    );
    let (good, said, asked) = ran_with(APPROVE, &kubectl, &openssl);
    assert!(good && said.starts_with("csr-a of w1 is approved\n"), "{said}");
    let put = "replace --raw /apis/certificates.k8s.io/v1/certificatesigningrequests/csr-a/approval -f -";
    assert_eq!(asked.lines().filter(|line| *line == put).count(), 1, "{asked}");
    let looks = "s_client -connect 10.0.0.21:10250";
    assert_eq!(asked.lines().filter(|line| *line == looks).count(), 2, "{asked}");
    assert!(!asked.contains("healthz"), "{asked}");
}

#[test]
fn only_a_changed_request_is_judged_again() {
    let kubectl = |why: &str| {
        format!(
            "case $* in replace*) cat >/dev/null; echo 'Error from server {why}' >&2; return 1 ;;\n{JUDGED}\nesac"
        )
    };
    for (why, good) in [
        ("(Conflict): the object has been modified", true),
        ("(NotFound): csr-a not found", true),
        ("(Forbidden): no", false),
    ] {
        let (ended, said, _) = ran(APPROVE, &kubectl(why));
        assert_eq!(ended, good, "{why}: {said}");
        assert!(good || said.contains("(Forbidden)"), "{said}");
        assert!(!said.contains("is approved"), "{said}");
    }
}

#[test]
fn a_request_that_was_not_judged_is_not_approved() {
    for now in [
        "",
        "uid-other 7 signer QQ== system:node:w1.",
        "uid 8 signer QQ== system:node:w1.",
        "uid 7 kubernetes.io/kube-apiserver-client QQ== system:node:w1.",
        "uid 7 signer REQ= system:node:w1.",
        "uid 7 signer QQ== system:node:w2.",
        "uid 7 signer QQ== system:node:w1\n.",
        "uid 7 signer QQ== system:node:w1 .",
    ] {
        let kubectl = format!("case $* in replace*) cat >/dev/null ;; *signerName*) printf '{now}' ;; esac");
        let (_, said, asked) = ran(APPROVE, &kubectl);
        assert!(said.contains("csr-a of w1 has changed, and ironstrap checks it again\n"), "{now}: {said}");
        assert!(!asked.contains("replace"), "{now}: {asked}");
    }
    // If the API server does not answer, nothing is approved.
    let (good, _, asked) = ran(APPROVE, "case $* in replace*) cat >/dev/null ;; *) return 1 ;; esac");
    assert!(!good && !asked.contains("replace"), "{asked}");
}

#[test]
fn a_failed_request_is_not_waited_for() {
    let kubectl = format!(
        "case $* in
replace*) cat >/dev/null ;;
{JUDGED}
*certificatesigningrequest*) printf 'there subject organization is not system:nodes ' ;;
esac"
    );
    let (good, said, asked) = ran(APPROVE, &kubectl);
    assert!(!good && said.contains("csr-a: subject organization"), "{said}");
    assert_eq!(asked.lines().count(), 3, "one try: {asked}");
}

#[test]
fn a_missing_new_request_is_reported_with_its_reason() {
    let kubectl = |names: &[&str]| {
        let all: Vec<Value> = names.iter().map(|name| request(name, "system:node:w1", "QQ==")).collect();
        format!("case $* in *certificatesigningrequests*) {} ;; *) return 1 ;; esac", say(&page(&all, None)))
    };
    let call = "await_serving w1 10.0.0.21:10250 1 'csr-a asks for m1 \\n' csr-a";
    assert!(ran(call, &kubectl(&["csr-a", "csr-b"])).0);
    let (good, said, asked) = ran(call, &kubectl(&["csr-a"]));
    assert!(!good && said.starts_with("reason: w1: csr-a asks for m1"), "{said}");
    assert!(said.contains("\nby hand: serving-request"), "{said}");
    assert!(asked.contains("fieldSelector=spec.signerName%3Dkubernetes.io%2Fkubelet-serving"), "{asked}");
    // Requests of another node, and requests with an invalid name, do not count.
    let others = [request("csr-b", "system:node:w2", "QQ=="), request("x\ncsr-c", "system:node:w1", "QQ==")];
    assert!(!ran(call, &say(&page(&others, None))).0);
    // A kubelet that already serves needs no request.
    assert!(ran_with(call, &kubectl(&["csr-a"]), &format!("printf '%s' '{SERVED}'")).0);
    assert!(!ran("await_serving w1 10.0.0.21:10250 1 none", &kubectl(&[])).0);
}

#[test]
fn an_older_request_does_not_count_as_new() {
    let mut older = request("csr-old", "system:node:w1", "QQ==");
    older["metadata"]["creationTimestamp"] = json!("2026-11-21T11:00:00Z");
    let all = [request("csr-a", "system:node:w1", "QQ=="), older];
    let kubectl = format!("case $* in *requests*) {} ;; *) return 1 ;; esac", say(&page(&all, None)));
    let (good, said, _) = ran("await_serving w1 10.0.0.21:10250 1 none csr-a", &kubectl);
    assert!(!good && said.starts_with("reason: w1: none"), "{said}");
}

#[test]
fn a_kubelet_is_probed_without_credentials_and_with_limits() {
    let look = |kubectl: &str, openssl: &str| ran_with("kubelet_tls w1 [::1]:10250", kubectl, openssl);
    let say = |text: &str| format!("printf '%s' '{text}'");
    assert_eq!(look("return 1", &say(BARE)).1, "bare\n");
    assert_eq!(look("return 1", &format!("{}; return 1", say("connect: Connection refused"))).1, "");
    let (_, said, asked) = look("return 1", &say(SERVED));
    assert_eq!((said.as_str(), asked.as_str()), ("serves\n", "s_client -connect [::1]:10250\n"));
    let endless = "{ head -c 90000000 /dev/zero && echo ALL >>ROOT/asked; } || :";
    let (good, said, asked) = look("return 1", endless);
    assert!(good && said.is_empty() && !asked.contains("ALL"), "{said} {asked}");
    // Without openssl, the API server asks the kubelet.
    assert_eq!(look("printf ok", "-").1, "serves\n");
    assert_eq!(look("echo 'remote error: tls: internal error' >&2; return 1", "-").1, "bare\n");
    let (good, said, asked) = look(endless, "-");
    assert!(good && said.is_empty() && !asked.contains("ALL"), "{said} {asked}");
    assert!(asked.contains("healthz --request-timeout=5s"), "{asked}");
}

/// A request as the API server returns it.
fn request(name: &str, user: &str, request: &str) -> Value {
    json!({
        "metadata": {
            "name": name, "generateName": "csr-", "uid": "uid", "resourceVersion": "7",
            "creationTimestamp": "2026-11-21T12:00:00Z",
            "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:spec": {"f:request": {}}}}],
        },
        "spec": {"request": request, "signerName": "kubernetes.io/kubelet-serving", "username": user,
            "groups": ["system:nodes"], "extra": {"username": ["a"]}},
        "status": {},
    })
}

/// A page of the API server's answer.
fn page(requests: &[Value], next: Option<&str>) -> String {
    let mut metadata = json!({"resourceVersion": "9"});
    if let Some(next) = next {
        metadata["continue"] = json!(next);
    }
    json!({"kind": "CertificateSigningRequestList", "apiVersion": "certificates.k8s.io/v1", "metadata": metadata,
        "items": requests})
    .to_string()
}

/// A shell command that prints this text.
fn say(text: &str) -> String {
    format!("cat <<'ALL'\n{text}\nALL\n")
}

/// The requests that `serving_requests` printed, and its last line.
fn read(said: &str) -> (Vec<Value>, &str) {
    let (requests, end) = said.trim_end().rsplit_once('\n').unwrap_or(("", said.trim_end()));
    (requests.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), end)
}

#[test]
fn the_newest_requests_of_each_user_are_shown() {
    let mut all = vec![];
    let mut add = |name: &str, user: &str, base64: &str| {
        let mut one = request(name, user, base64);
        let (minute, second) = (all.len() / 60, all.len() % 60);
        one["metadata"]["creationTimestamp"] = json!(format!("2026-11-21T12:{minute:02}:{second:02}Z"));
        if name.starts_with("csr-4") {
            one["status"] = json!({"certificate": "C".repeat(5000), "conditions": [{"type": "Approved"}]});
        }
        all.push(one);
    };
    add("csr-first", "system:node:m1", "QQ==");
    for n in 0..200 {
        for w in 1..=3 {
            add(&format!("csr-{w}-{n}"), &format!("system:node:w{w}"), &"A".repeat(9000));
        }
        add(&format!("csr-4-{n}"), "system:node:w4", "QQ==");
    }
    add("csr-huge", "system:node:w1", &"A".repeat(50_000));
    add("csr-odd", "x\nsystem:node:w1\t\"", "QQ==");
    let pages = format!(
        "case $* in *'&continue=abc_-'*) {} ;; *) {} ;; esac",
        say(&page(&all[500..], None)),
        say(&page(&all[..500], Some("abc_-")))
    );
    let (good, said, asked) = ran("serving_requests", &pages);
    assert!(good && said.len() < 70_000, "{} bytes", said.len());
    let (requests, end) = read(&said);
    let names: Vec<&str> = requests.iter().map(|one| one["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names[..3], ["csr-odd", "csr-4-199", "csr-3-199"], "the newest first");
    let of = |start: &str| names.iter().filter(|name| name.starts_with(start)).count();
    assert_eq!((of("csr-1-"), of("csr-2-"), of("csr-4-"), of("csr-huge")), (2, 2, 20, 0), "{names:?}");
    assert_eq!((names.last(), end), (Some(&"csr-first"), "end whole"));
    let (mut sent, signed) = (all[801 - 1].clone(), &requests[1]);
    sent["status"]["certificate"] = json!(1);
    sent["metadata"]["managedFields"] = json!(1);
    assert_eq!(*signed, sent, "nothing else is left out");
    assert_eq!(asked.lines().count(), 2, "{asked}");
    assert!(asked.lines().all(|line| line.contains("limit=500") && line.contains("--raw")), "{asked}");
}

#[test]
fn a_worker_cannot_forge_a_request() {
    let right = request("csr-a", "system:node:w1", "QQ==");
    let line = format!("x\n2026-11-21T12:00:00Z\t9\tcsr-f\tsystem:node:w1\t{right}\nend whole\ny\"}}],\\");
    let mut all = vec![right.clone()];
    for n in 0..4 {
        let mut odd = right.clone();
        odd["metadata"]["uid"] = json!(format!("odd-{n}"));
        match n {
            0 => odd["metadata"]["name"] = json!(line),
            1 => {
                odd["metadata"]["annotations"] =
                    json!({ (line.as_str()): line.as_str(), "k\\": "\\".repeat(501) })
            }
            2 => odd["spec"]["username"] = json!(line),
            _ => odd["spec"]["extra"] = json!({ (line.as_str()): [line.as_str()], "continue": ["x"] }),
        }
        all.push(odd);
    }
    let (good, said, _) = ran("serving_requests", &say(&page(&all, None)));
    let (requests, end) = read(&said);
    assert!(good && end == "end whole" && requests.len() == 5 - 1, "a user of 300 bytes is no node: {said}");
    let mut names: Vec<String> = requests.iter().map(|one| one["metadata"]["name"].to_string()).collect();
    names.sort();
    let mut sent = vec![json!("csr-a").to_string(); 3];
    sent.push(json!(line).to_string());
    sent.sort();
    assert_eq!(names, sent);
    let (good, said, _) = ran("requests_of w1", &say(&page(&all, None)));
    assert!(good && said == "csr-a\n".repeat(3), "{said}");
}

#[test]
fn an_incomplete_request_list_says_why() {
    let many: Vec<Value> =
        (0..300).map(|n| request(&format!("csr-{n}"), "system:node:w2", &"A".repeat(9))).collect();
    let first = page(&many, Some("abc"));
    let then = |rest: &str| format!("case $* in *continue*) {rest} ;; *) {} ;; esac", say(&first));
    let broken = &page(&many, None)[..9000];
    for (kubectl, why) in [
        (then("echo 'Error from server (Expired): it is too old' >&2; return 1"), "(Expired): it is too old"),
        (then("echo 'Error: context deadline exceeded' >&2; return 1"), "deadline exceeded"),
        (then(&say(broken)), "the API server does not return all of them"),
        (then(&say(&format!("{0}{0}", page(&[], None)))), "the API server does not return all of them"),
        (then(&say(&page(&[], Some("a&limit=1")))), "the API server does not return all of them"),
        (then("printf '{\"kind\":\"Status\"}'"), "the API server does not return all of them"),
    ] {
        let (good, said, _) = ran("serving_requests", &kubectl);
        let (requests, end) = read(&said);
        assert!(good && end.starts_with("end part ") && end.contains(why), "{why}: {end}");
        assert!(end.ends_with(r#" requests and 0 MB so far, most of them of "system:node:w2""#), "{end}");
        assert_eq!(requests.len(), 20, "{why}");
    }
    // The pages are too slow to read all of them in time.
    let slow =
        "date() { n=$(grep -c limit $RUN/asked 2>/dev/null) || :; /bin/echo $((n * 5)); }\nserving_requests";
    let (good, said, asked) = ran(slow, &say(&first));
    let (requests, end) = read(&said);
    assert!(good && end.starts_with("end part they take more than 8 seconds to read: 600 requests"), "{end}");
    assert_eq!((requests.len(), asked.lines().count()), (20, 2));
    let (good, said, _) = ran("serving_requests", "echo 'connection refused' >&2; return 1");
    assert!(!good && said.contains("connection refused"), "{said}");
    assert!(!ran("forget_requests w1", "echo 'connection refused' >&2; return 1").0);
}

#[test]
fn oversized_pages_are_read_again_in_smaller_ones() {
    let large = "{ printf '{\"kind\":\"CertificateSigningRequestList\",\"items\":[{\"metadata\":{\"name\":\"'; \
        head -c 9000000 /dev/zero | tr '\\0' a; } || :";
    let one = say(&page(&[request("csr-a", "system:node:w1", "QQ==")], None));
    let (good, said, asked) =
        ran("serving_requests", &format!("case $* in *limit=1'&'*) {one} ;; *) {large} ;; esac"));
    assert!(good && read(&said).0.len() == 1, "{said}");
    let limits: Vec<&str> = asked.split("limit=").skip(1).filter_map(|rest| rest.split('&').next()).collect();
    assert_eq!(limits, ["500", "12", "3", "1"]);
    let (good, said, _) = ran("serving_requests", large);
    assert!(good && said.starts_with("end part the API server does not return all of them"), "{said}");
}

#[test]
fn only_requests_of_the_removed_node_are_deleted() {
    let all = [
        request("csr-b", "system:node:w1", "QQ=="),
        request("csr-c", "system:node:w11", "QQ=="),
        request("x\ncsr-d\ny", "system:node:w1", "QQ=="),
        request("-A", "system:node:w1", "QQ=="),
        request("csr-a", "system:node:w1", "QQ=="),
    ];
    let kubectl = format!("case $* in *limit*) {} ;; esac", say(&page(&all, None)));
    let (good, said, asked) = ran("forget_requests w1", &kubectl);
    assert!(good, "{said}");
    let mut deleted: Vec<&str> = asked.lines().filter(|line| line.starts_with("delete")).collect();
    deleted.sort_unstable();
    assert_eq!(deleted.len(), 2, "{asked}");
    assert!(deleted[0].ends_with("-- csr-a") && deleted[1].ends_with("-- csr-b"), "{asked}");
    let (good, _, asked) =
        ran("forget_requests w1", &format!("case $* in *limit*) {} ;; esac", say(&page(&[], None))));
    assert!(good && asked.lines().count() == 1, "{asked}");
}
