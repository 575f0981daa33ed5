//! What the lines look like that causes are read from, where more than one cause or more than one place needs it.

use super::{Cause, Sign};

pub(super) const fn sign(place: &'static str, says: &'static str) -> Sign {
    Sign { place, says }
}

/// A line of klog with this message, and what its error begins with, in words of both `grep -E` and `Regex`; in klog's text, and
/// as JSON (`logging.format` of the kubelet). A tenant cannot write a head or a message.
macro_rules! klog {
    ($message:literal, $error:literal) => {
        concat!(
            "^([EF][0-9]{4} [0-9:.]+ +[0-9]+ [A-Za-z0-9_.-]+[.]go:[0-9]+\\] |[{]\"ts\":[0-9.]+,\"caller\":\"[^\"]*\",\"msg\":)\"(",
            $message,
            ")\"( err=|,\"err\":)\"",
            $error
        )
    };
}

pub(super) use klog;

/// What most causes have: evidence of its own, and nothing that a wait could stop at.
pub(super) const PLAIN: Cause =
    Cause { name: "", what: "", remedy: "", signs: &[], besides: &[], hopeless: None, symptom: false };

pub(super) const CONTAINERD_DOWN: Sign =
    sign("unit containerd", "ActiveState=(?:failed|inactive|activating)");
pub(super) const CONTAINERD_LOST: Sign =
    sign("log kubeadm", r"could not connect to the container runtime: .*/containerd\.sock: connect: ");

/// A request to the API of a cluster, and not to a registry, whose host's name did not resolve.
pub(super) const LOOKUP: &str =
    r"https://[^ /]+/(?:api|version|healthz|livez|readyz)[^ ]*: dial tcp: lookup (?<name>[^ :]+)";
/// The same, to an address that nothing comes back from.
pub(super) const DIAL: &str = r"https://[^ /]+/(?:api|version|healthz|livez|readyz)[^ ]*: dial tcp (?<address>[0-9a-f.:\[\]]+): (?:connect: )?(?<why>connection refused|no route to host|network is unreachable|i/o timeout)";
pub(super) const CONNTRACK: &str = r"could not set conntrack parameters from kube-proxy configuration: .*(?:permission denied|read-only file system)";
/// kubeadm looks at two folders in this way. The other is /etc/kubernetes/manifests; etcd's is never below /etc. Words that
/// somebody else put into a line, as a kubelet does with a pod's state, do not begin it.
pub(super) const ETCD_DATA: &str =
    r"^\t?\[ERROR DirAvailable--(?:[^e]|e[^t]|et[^c]|etc[^-])\S*\]: /\S+ is not empty";
pub(super) const UNREACHABLE: &str = r#"failed to resolve reference \\*"?(?<image>[^"\\ ]+)\\*"?: failed to do request: .*?dial tcp:? (?<why>[^",\\]+)"#;
pub(super) const REFUSED: &[Sign] = &[
    sign("log kubeadm", "(?i)unauthorized"),
    sign("fix", "(?i)unauthorized"),
    // A certificate that expired while kubeadm was at work.
    sign("journal kubelet", "cannot create certificate signing request: Unauthorized"),
];

/// The words of `answered` (templates/packets.sh) and `ask_nodes` (templates/short_lived.sh); and CoreDNS that does not hear of the
/// API, as its kubelet reports it.
pub(super) const NO_ANSWER: &[Sign] = &[
    sign("fix", r"^packets: (?:dns|pod:\S+) is (?:silent|partly)"),
    // `diagnosis::got_no_answer`
    sign("fix", r"^\S+ got no answer from it$"),
    sign("event", r"^Pod coredns-\S+: Readiness probe failed: HTTP probe failed with statuscode: 503"),
];

/// The remedy names nothing of it, so words of events may say so, too.
pub(super) const PLUGIN: &str =
    r#"failed to find plugin \\?"(?<plugin>[^"\\]+)\\?" in path \[(?<folder>[^\]]+)\]"#;

pub(super) const NOT_FOUND: &str =
    r#"failed to resolve reference \\*"?(?<image>[^"\\ ]+)\\*"?: [^"\\ ]+: not found"#;
pub(super) const FULL: &str = "(?i)no space left on device";
pub(super) const INOTIFY: &str = r"(?i)(?:inotify|fsnotify|\bwatch(?:er)?\b).*too many open files";
pub(super) const SWAP: &str =
    klog!("command failed", "failed to run Kubelet: running with swap on is not supported");
/// The sandbox of a pod runs no command of a tenant. Before these words, no quote begins a value of one; containerd 2 quotes the
/// sandbox's id.
pub(super) const SANDBOX: &str = klog!(
    "RunPodSandbox from runtime service failed|Failed to create sandbox for pod|CreatePodSandbox for pod failed",
    "([^\"\\\\]|\\\\\"[0-9a-f]+\\\\\")*expected cgroupsPath to be of format"
);
