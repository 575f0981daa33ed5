//! Patterns of lines that are evidence of a cause. This file has those that several causes or several places need.

use super::{Cause, Sign};

pub(super) const fn sign(place: &'static str, says: &'static str) -> Sign {
    Sign { place, says }
}

/// A pattern for a line of klog with this message and the beginning of its error. It works for both `grep -E` and `Regex`. It
/// matches klog's text and its JSON (`logging.format` of the kubelet). A tenant cannot write a head or a message.
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

/// The fields that most causes share. They need no second sign, no wait stops at them, and they are no symptoms.
pub(super) const PLAIN: Cause =
    Cause { name: "", what: "", remedy: "", signs: &[], besides: &[], fatal: None, symptom: false };

pub(super) const CONTAINERD_DOWN: Sign =
    sign("unit containerd", "ActiveState=(?:failed|inactive|activating)");
pub(super) const CONTAINERD_LOST: Sign =
    sign("log kubeadm", r"could not connect to the container runtime: .*/containerd\.sock: connect: ");

/// Matches a request to the API of a cluster whose host name did not resolve. A request to a registry does not match.
pub(super) const LOOKUP: &str =
    r"https://[^ /]+/(?:api|version|healthz|livez|readyz)[^ ]*: dial tcp: lookup (?<name>[^ :]+)";
/// Matches a request to the API of a cluster that got no connection to its address.
pub(super) const DIAL: &str = r"https://[^ /]+/(?:api|version|healthz|livez|readyz)[^ ]*: dial tcp (?<address>[0-9a-f.:\[\]]+): (?:connect: )?(?<why>connection refused|no route to host|network is unreachable|i/o timeout)";
pub(super) const CONNTRACK: &str = r"could not set conntrack parameters from kube-proxy configuration: .*(?:permission denied|read-only file system)";
/// Matches the message of kubeadm that the data folder of etcd is not empty. kubeadm checks two folders in this way.
/// The other is /etc/kubernetes/manifests, and etcd's folder is never below /etc. Others can put words into a line, as
/// a kubelet does with a pod's state, but never at its beginning. So the pattern begins there.
pub(super) const ETCD_DATA: &str =
    r"^\t?\[ERROR DirAvailable--(?:[^e]|e[^t]|et[^c]|etc[^-])\S*\]: /\S+ is not empty";
pub(super) const UNREACHABLE: &str = r#"failed to resolve reference \\*"?(?<image>[^"\\ ]+)\\*"?: failed to do request: .*?dial tcp:? (?<why>[^",\\]+)"#;
pub(super) const REFUSED: &[Sign] = &[
    sign("log kubeadm", "(?i)unauthorized"),
    sign("fix", "(?i)unauthorized"),
    // This happens if a certificate expires while kubeadm runs.
    sign("journal kubelet", "cannot create certificate signing request: Unauthorized"),
];

/// Signs of an address that does not answer: the words of `answered` (templates/packets.sh) and `ask_nodes`
/// (templates/short_lived.sh), and of `got_no_answer`. The last one is CoreDNS that gets nothing from the API, as its
/// kubelet reports it.
pub(super) const NO_ANSWER: &[Sign] = &[
    sign("fix", r"^packets: (?:dns|pod-dns|pod:\S+) is (?:silent|partly)"),
    // The words of `diagnosis::got_no_answer`.
    sign("fix", r"^\S+ got no answer from this node$"),
    sign("event", r"^Pod coredns-\S+: Readiness probe failed: HTTP probe failed with statuscode: 503"),
];

/// Matches a network plugin that is missing. Events may be evidence, too: the remedy repeats only the plugin, as one
/// quoted word.
pub(super) const PLUGIN: &str =
    r#"failed to find plugin \\?"(?<plugin>[^"\\]+)\\?" in path \[(?<folder>[^\]]+)\]"#;

pub(super) const NOT_FOUND: &str =
    r#"failed to resolve reference \\*"?(?<image>[^"\\ ]+)\\*"?: [^"\\ ]+: not found"#;
pub(super) const FULL: &str = "(?i)no space left on device";
pub(super) const INOTIFY: &str = r"(?i)(?:inotify|fsnotify|\bwatch(?:er)?\b).*too many open files";
pub(super) const SWAP: &str =
    klog!("command failed", "failed to run Kubelet: running with swap on is not supported");
/// Matches a sandbox whose cgroup path has the form of the other driver. The sandbox of a pod runs no command of a
/// tenant. The pattern accepts no quote before these words, so no value of a tenant begins there. The only exception is
/// the id of the sandbox, which containerd 2 quotes.
pub(super) const SANDBOX: &str = klog!(
    "RunPodSandbox from runtime service failed|Failed to create sandbox for pod|CreatePodSandbox for pod failed",
    "([^\"\\\\]|\\\\\"[0-9a-f]+\\\\\")*expected cgroupsPath to be of format"
);
