//! Causes against lines that real programs wrote.

use super::*;
use crate::cluster::ETCD_DIR;

/// Lines as real kubelets, kubeadms, runtimes and package managers wrote them: place, line; what must be found, with a
/// word of what is said about it.
const EVIDENCE: &[(&str, &str, &str, &str)] = &[
    (
        "container kube-apiserver",
        "Error: unknown flag: --no-such-flag",
        "argument-unknown",
        "take --no-such-flag out",
    ),
    (
        "journal kubelet",
        r#"E1121 20:19:57.907063     199 run.go:72] "command failed" err="failed to run Kubelet: running with swap on is not supported, please disable swap or set --fail-swap-on flag to false""#,
        "swap-on",
        "on w2: swapoff -a",
    ),
    (
        "journal containerd",
        r#"time="2026-11-21T20:23:04Z" level=error msg="runc create failed: expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got \"/kubepods/burstable/podabc/def\" instead""#,
        "cgroup-driver",
        "both are to use systemd",
    ),
    (
        "journal kubelet",
        r#"E1121 20:18:20.779121     230 run.go:72] "command failed" err="failed to validate kubelet configuration, error: kubelet is configured to not run on a host using cgroup v1. cgroup v1 support is unsupported and will be removed in a future release, path: &TypeMeta{Kind:,APIVersion:,}""#,
        "cgroup-v1",
        "failCgroupV1 = false",
    ),
    (
        "journal kubelet",
        r#"E1128 21:34:18.779121     230 run.go:72] "command failed" err="failed to validate kubelet configuration, error: invalid configuration: imageGCLowThresholdPercent (--image-gc-low-threshold) 80 must be less than imageGCHighThresholdPercent (--image-gc-high-threshold) 10, path: &TypeMeta{Kind:,APIVersion:,}""#,
        "kubelet-ends",
        "the kubelet ends at its start: failed to validate kubelet configuration, error: invalid configuration: imageGC",
    ),
    (
        "fix",
        r#"error: error unmarshaling configuration schema.GroupVersionKind{Group:"kubelet.config.k8s.io", Version:"v1beta1", Kind:"KubeletConfiguration"}: strict decoding error: unknown field "noSuchField""#,
        "field-unknown",
        "KubeletConfiguration has no field noSuchField",
    ),
    (
        "journal kubelet",
        "panic: failed to merge global and in-flight KubeletConfiguration while setting defaults, error: unrecognized feature gate: Nope",
        "feature-gate-unknown",
        "take Nope out of featureGates",
    ),
    (
        "journal kubelet",
        r#"Error from server (Forbidden): error when creating "STDIN": nodes "other" is forbidden: node "w2" is not allowed to modify node "other""#,
        "hostname-changed",
        "called other now, and its kubelet's credentials are those of w2",
    ),
    (
        "journal kubelet",
        r#"Error from server (Forbidden): nodes "other" is forbidden: User "system:node:w2" cannot get resource "nodes" in API group "" at the cluster scope: node 'w2' cannot read 'other', only its own Node object"#,
        "hostname-changed",
        "hostnamectl set-hostname w2",
    ),
    (
        "log kubeadm",
        "\t[ERROR DirAvailable--var-lib-etcd]: /var/lib/etcd is not empty",
        "etcd-data",
        "mv /var/lib/etcd /var/lib/etcd.old",
    ),
    (
        "log kubeadm",
        r#"error: failed to pull image "found.example/kube-apiserver:v1.36.3": failed to pull image found.example/kube-apiserver:v1.36.3: rpc error: code = NotFound desc = failed to pull and unpack image "found.example/kube-apiserver:v1.36.3": failed to resolve reference "found.example/kube-apiserver:v1.36.3": found.example/kube-apiserver:v1.36.3: not found"#,
        "image-not-found",
        "does not have the image found.example/kube-apiserver:v1.36.3",
    ),
    (
        "log kubeadm",
        r#"error: failed to pull image "registry.k8s.io/kube-apiserver:v1.36.3": failed to pull image registry.k8s.io/kube-apiserver:v1.36.3: failed to pull and unpack image "registry.k8s.io/kube-apiserver:v1.36.3": failed to resolve reference "registry.k8s.io/kube-apiserver:v1.36.3": failed to do request: Head "http://127.0.0.1:5999/v2/kube-apiserver/manifests/v1.36.3?ns=registry.k8s.io": dial tcp 127.0.0.1:5999: connect: connection refused"#,
        "registry-unreachable",
        "127.0.0.1:5999: connect: connection refused",
    ),
    (
        "log kubeadm",
        r#"error: failed to pull image "unknown.example/kube-apiserver:v1.36.3": failed to pull image unknown.example/kube-apiserver:v1.36.3: failed to pull and unpack image "unknown.example/kube-apiserver:v1.36.3": failed to resolve reference "unknown.example/kube-apiserver:v1.36.3": failed to do request: Head "https://unknown.example/v2/kube-apiserver/manifests/v1.36.3": dial tcp: lookup unknown.example on 127.0.0.1:53: read udp 127.0.0.1:48182->127.0.0.1:53: read: connection refused"#,
        "registry-unreachable",
        "lookup unknown.example",
    ),
    (
        "fix",
        "packets: flannel.1 sent 31 packets and received none",
        "vxlan-swallowed",
        "let UDP port 8472 pass",
    ),
    ("log kubeadm", "\t[ERROR Port-10250]: Port 10250 is in use", "port-taken", "ss -ltnp 'sport = :10250'"),
    (
        "container kube-scheduler",
        r#"E1121 20:18:27.764716     338 run.go:72] "command failed" err="failed to create listener: failed to listen on 0.0.0.0:10259: listen tcp 0.0.0.0:10259: bind: address already in use""#,
        "port-taken",
        "port 10259 is taken",
    ),
    (
        "log kubeadm",
        r#"error: error execution phase kubelet-start: error writing a dynamic environment file for the kubelet: failed to write kubelet configuration to the file "/var/lib/kubelet/kubeadm-flags.env": write /var/lib/kubelet/kubeadm-flags.env: no space left on device"#,
        "disk-full",
        "df -h",
    ),
    (
        "log kubeadm",
        r#"error: error execution phase preflight: couldn't validate the identity of the API Server: Abort reading the cluster-info ConfigMap after timeout of 8s: Get "https://api.demo.internal:6443/api/v1/namespaces/kube-public/configmaps/cluster-info?timeout=10s": tls: failed to verify certificate: x509: certificate has expired or is not yet valid: current time 2026-11-21T20:19:51Z is before 2026-11-21T21:19:01Z"#,
        "clock",
        "it says 2026-11-21T20:19:51Z, and a certificate is valid from 2026-11-21T21:19:01Z on",
    ),
    (
        "log kubeadm",
        r#"	[ERROR CRI]: could not connect to the container runtime: failed to create new CRI runtime service: validate service connection: validate CRI v1 runtime API for endpoint "unix:///var/run/containerd/containerd.sock": rpc error: code = Unavailable desc = connection error: desc = "transport: Error while dialing: dial unix /var/run/containerd/containerd.sock: connect: no such file or directory""#,
        "containerd-stopped",
        "systemctl cat containerd",
    ),
    ("log kubeadm", UNKNOWN_AUTHORITY, "authority-unknown", "getent ahosts"),
    (
        "log kubeadm",
        r#"error: error execution phase preflight: couldn't validate the identity of the API Server: Abort reading the cluster-info ConfigMap after timeout of 8s: Get "https://api.demo.internal:6443/api/v1/namespaces/kube-public/configmaps/cluster-info?timeout=10s": dial tcp: lookup api.demo.internal on 127.0.0.1:53: read udp 127.0.0.1:37238->127.0.0.1:53: read: connection refused"#,
        "name-unresolved",
        "the name api.demo.internal does not resolve on w2",
    ),
    (
        "log kubeadm",
        r#"error: error execution phase preflight: couldn't validate the identity of the API Server: Abort reading the cluster-info ConfigMap after timeout of 8s: Get "https://api.demo.internal:6443/api/v1/namespaces/kube-public/configmaps/cluster-info?timeout=10s": dial tcp 198.18.0.11:6443: connect: no route to host"#,
        "endpoint-unreachable",
        "nothing can be reached at 198.18.0.11:6443: no route to host",
    ),
    (
        "log kubeadm",
        r#"error: error execution phase preflight: couldn't validate the identity of the API Server: Abort reading the cluster-info ConfigMap after timeout of 8s: Get "https://api.demo.internal:6443/api/v1/namespaces/kube-public/configmaps/cluster-info?timeout=10s": dial tcp 198.18.0.11:6443: connect: connection refused"#,
        "endpoint-unreachable",
        "connection refused",
    ),
    (
        "log kubeadm",
        r#"error: error execution phase preflight: couldn't validate the identity of the API Server: Abort reading the cluster-info ConfigMap after timeout of 8s: Get "https://api.demo.internal:6443/api/v1/namespaces/kube-public/configmaps/cluster-info?timeout=10s": tls: failed to verify certificate: x509: certificate has expired or is not yet valid: current time 2026-11-21T20:28:01Z is after 2026-11-21T19:27:55Z"#,
        "certificate-expired",
        "was valid until 2026-11-21T19:27:55Z",
    ),
    (
        "container etcd",
        r#"{"level":"warn","ts":"2026-11-21T20:28:09.495208Z","caller":"rafthttp/stream.go:652","msg":"request sent was ignored by remote peer due to cluster ID mismatch","remote-peer-id":"b2fc4454832f60ab","remote-peer-cluster-id":"4cd5969bcd1ac7c8","local-member-id":"d65a84e51b5ddd90","local-member-cluster-id":"21b966d9b2a0af51","error":"cluster ID mismatch"}"#,
        "etcd-data",
        "mv /var/lib/etcd",
    ),
    (
        "log kubelet",
        "  Could not connect to 127.0.0.1:8444 (127.0.0.1). - connect (111: Connection refused)",
        "package-source-unreachable",
        "at 127.0.0.1:8444 cannot",
    ),
    (
        "fix",
        "E: Failed to fetch http://127.0.0.1:8444/x/Release.key  Unable to connect to 127.0.0.1:8444:",
        "package-source-unreachable",
        "at 127.0.0.1:8444 cannot",
    ),
    (
        "log kubelet",
        "W: Failed to fetch http://nowhere.example/deb/InRelease  Temporary failure resolving 'nowhere.example'",
        "package-source-unreachable",
        "at nowhere.example cannot",
    ),
    (
        "log kubelet",
        "E: Version '1.36.9-*' for 'kubelet' was not found",
        "package-missing",
        "has kubelet 1.36.9-*",
    ),
    (
        "log runtime",
        "E: Unable to locate package nosuchpackage",
        "package-missing",
        "apt-cache policy nosuchpackage",
    ),
    (
        "log runtime",
        "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 51 (perl)",
        "package-lock",
        "process 51 (perl)",
    ),
    (
        "event",
        r#"plugin type="portmap" failed (add): failed to find plugin "portmap" in path [/opt/cni/bin]"#,
        "cni-plugin-missing",
        "portmap is not in /opt/cni/bin",
    ),
    (
        "container kube-proxy",
        r#"E1121 23:51:32.720959       1 server.go:136] "Error running ProxyServer" err="could not set conntrack parameters from kube-proxy configuration: open /proc/sys/net/netfilter/nf_conntrack_max: permission denied""#,
        "conntrack-limits",
        "maxPerCore = 0",
    ),
    (
        "log kubeadm",
        "error: error execution phase preflight: unable to fetch the kubeadm-config ConfigMap: failed to get config map: Unauthorized",
        "credential-refused",
        "date -u on w2",
    ),
    (
        "journal kubelet",
        r#"E1121 20:18:20.779121     230 run.go:72] "command failed" err="failed to run Kubelet: failed to create kubelet: inotify_init: too many open files""#,
        "inotify",
        "sysctl fs.inotify.max_user_instances",
    ),
    (
        "journal kubelet",
        r#"E1121 20:18:20.779121     230 run.go:72] "command failed" err="failed to run Kubelet: failed to create kubelet: open /dev/kmsg: no such file or directory""#,
        "kernel-log",
        "/dev/kmsg",
    ),
    (
        "fix",
        "dpkg (subprocess): unable to execute installed containerd package post-installation script (/var/lib/dpkg/info/containerd.postinst): Permission denied",
        "package-script",
        "findmnt -T /var/lib/dpkg/info/containerd.postinst",
    ),
    (
        "fix",
        "these packages would be removed: docker-ce containerd.io",
        "packages-go",
        "apt-get remove --allow-change-held-packages docker-ce containerd.io",
    ),
    (
        "fix",
        "E: Error, pkgProblemResolver::Resolve generated breaks, this may be caused by held packages.",
        "packages-held",
        "apt-mark showhold",
    ),
    (
        "fix",
        "E: The repository 'http://198.18.0.1:8080/gone kubernetes-xenial Release' does not have a Release file.",
        "source-dead",
        "grep -rn http://198.18.0.1:8080/gone /etc/apt/sources.list",
    ),
    (
        "fix",
        "E: Conflicting values set for option Signed-By regarding source https://198.18.0.1:8443/core:/stable:/v1.36/deb/ /: /etc/apt/keyrings/mine.asc != /etc/apt/keyrings/kubernetes-apt-keyring.asc",
        "source-conflict",
        "keep kubernetes.list",
    ),
];

const UNKNOWN_AUTHORITY: &str = r#"error: error execution phase preflight: couldn't validate the identity of the API Server: Abort reading the cluster-info ConfigMap after timeout of 8s: Get "https://api.demo.internal:6443/api/v1/namespaces/kube-public/configmaps/cluster-info?timeout=10s": tls: failed to verify certificate: x509: certificate signed by unknown authority (possibly because of "x509: ECDSA verification failure" while trying to verify candidate authority certificate "kubernetes")"#;

fn heard(node: &str, lines: &[(&str, &str)]) -> Heard {
    let said: String = lines.iter().map(|(place, line)| format!("{place}\t{line}\n")).collect();
    Heard::read(node, &said)
}

fn names(heard: &[Heard]) -> Vec<&'static str> {
    findings(heard, ETCD_DIR).iter().map(|finding| finding.cause).collect()
}

#[test]
fn real_evidence_names_its_cause_and_nothing_else() {
    for (place, line, cause, words) in EVIDENCE {
        let found = findings(&[heard("w2", &[(place, line)])], ETCD_DIR);
        assert_eq!(found.iter().map(|f| f.cause).collect::<Vec<_>>(), [*cause], "{line}");
        let said = format!("{} {} {}", found[0].what, found[0].remedy, found[0].evidence);
        assert!(said.contains(words), "{cause}: {said}");
        assert!(!said.contains('{') || line.contains('{'), "{cause} has a hole: {said}");
    }
}

#[test]
fn data_of_an_earlier_etcd_is_named_by_the_inventorys_folder() {
    for folder in ["/srv/etcd", "/etcd/data", "/mnt/e/t"] {
        let line = format!("\t[ERROR DirAvailable-{}]: {folder} is not empty", folder.replace('/', "-"));
        let mismatch = "request sent was ignored by remote peer due to cluster ID mismatch";
        for said in [("log kubeadm", line.as_str()), ("container etcd", mismatch)] {
            let found = findings(&[heard("m1", &[said])], folder);
            assert_eq!(found.len(), 1, "{said:?}");
            assert!(found[0].what.ends_with(&format!("in {folder}")), "{}", found[0].what);
            assert!(found[0].remedy.contains(&format!("mv {folder} {folder}.old")), "{}", found[0].remedy);
        }
    }
    let manifests =
        "\t[ERROR DirAvailable--etc-kubernetes-manifests]: /etc/kubernetes/manifests is not empty";
    assert_eq!(names(&[heard("w1", &[("log kubeadm", manifests)])]), [""; 0]);
}

#[test]
fn every_pattern_compiles_and_every_name_is_there_once() {
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
fn every_cause_has_its_real_evidence() {
    // The failure of a want of ours shows one, and two machines the other.
    let bare = ["swap-returns", "forward-drop"];
    for cause in CAUSES.iter().filter(|cause| !bare.contains(&cause.name)) {
        assert!(EVIDENCE.iter().any(|(.., name, _)| *name == cause.name), "{}", cause.name);
    }
}

#[test]
fn what_a_wait_stops_at_is_evidence_of_that_cause() {
    for cause in CAUSES.iter().filter(|cause| cause.hopeless.is_some()) {
        let words = cause.hopeless.unwrap_or_default();
        let mut evidence = EVIDENCE.iter().filter(|(.., name, _)| *name == cause.name);
        assert!(evidence.any(|(_, line, ..)| line.contains(words)), "{}", cause.name);
    }
}

#[test]
fn a_packet_filter_is_blamed_only_where_something_does_not_answer() {
    let drops = ("forward", "chain FORWARD of table ip filter has policy drop");
    let silent = ("fix", "packets: dns is silent");
    let swallowed = ("fix", "packets: flannel.1 sent 31 packets and received none");
    assert_eq!(names(&[heard("w1", &[drops])]), [""; 0], "Docker sets it, and accepts what it should");
    assert_eq!(names(&[heard("w1", &[silent]), heard("m1", &[drops])]), ["forward-drop"]);
    assert_eq!(names(&[heard("w1", &[silent, swallowed]), heard("m1", &[drops])]), ["forward-drop"]);
    let within = ("fix", "packets: pod:w1 is silent, asked from a pod of m1");
    let unready = ("event", "Pod coredns-7: Readiness probe failed: HTTP probe failed with statuscode: 503");
    for seen in [within, unready] {
        assert_eq!(names(&[heard("m1", &[seen]), heard("w1", &[drops])]), ["forward-drop"]);
    }
    assert_eq!(names(&[heard("w1", &[silent, swallowed])]), ["vxlan-swallowed"]);
}

#[test]
fn a_symptom_is_told_only_where_nothing_explains_it() {
    let refused = (
        "fix",
        r#"Get "https://198.18.0.11:6443/readyz": dial tcp 198.18.0.11:6443: connect: connection refused"#,
    );
    let flag = ("container kube-apiserver", "Error: unknown flag: --no-such-flag");
    assert_eq!(names(&[heard("m1", &[refused])]), ["endpoint-unreachable"]);
    assert_eq!(names(&[heard("m1", &[refused, flag])]), ["argument-unknown"]);
}

#[test]
fn a_kubelet_that_is_refused_names_the_certificate_too() {
    let line = r#"E1121 22:51:23.733897    8098 certificate_manager.go:1] "Failed while requesting a signed certificate" err="cannot create certificate signing request: Unauthorized""#;
    assert_eq!(names(&[heard("w2", &[("journal kubelet", line)])]), ["credential-refused"]);
}

#[test]
fn two_causes_are_both_told_the_more_specific_first() {
    let stopped = ("unit containerd", "Result=exit-code ActiveState=failed SubState=failed");
    let full = ("journal containerd", "mkdir /var/lib/containerd/tmpmounts: no space left on device");
    assert_eq!(names(&[heard("w1", &[stopped, full])]), ["disk-full", "containerd-stopped"]);
}

#[test]
fn what_says_nothing_certain_is_no_cause() {
    for (place, line) in [
        ("unit containerd", "Result=success ActiveState=active SubState=running"),
        ("journal kubelet", r#"E1121 20:19:57.1 199 kubelet.go:3117] "Container runtime network not ready""#),
        // Of a registry, not of the endpoint; and no image that is missing.
        ("journal kubelet", "failed to do request: dial tcp 10.0.0.1:443: connect: connection refused"),
        ("event", "Node w1: Node w1 status is now: NodeNotReady"),
        ("log kubelet", "Unpacking kubelet (1.36.3-1.1) ..."),
    ] {
        assert_eq!(names(&[heard("w1", &[(place, line)])]), [""; 0], "{line}");
    }
}

#[test]
fn where_no_cause_is_known_the_last_words_are_told() {
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
        last_words(&[heard("w1", &lines)]),
        ["two", "three", "four"]
            .iter()
            .zip([2, 3, 4])
            .map(|(word, n)| format!("journalctl -u kubelet on w1: E1121 20:00:00.{n} 1 a.go:1] {word}"))
            .collect::<Vec<_>>()
    );
}

#[test]
fn long_evidence_is_cut_around_what_matters() {
    let line = format!("{} no space left on device {}", "a".repeat(2000), "b".repeat(2000));
    let found = findings(&[heard("w1", &[("journal kubelet", &line)])], ETCD_DIR);
    assert!(found[0].evidence.contains("aaa no space left on device bbb"), "{}", found[0].evidence);
    assert!(found[0].evidence.chars().count() <= LONGEST + 4, "{}", found[0].evidence.len());
}
