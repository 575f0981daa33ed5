//! The trait of a machine that runs shell, and all shell that more than one step needs. ironstrap quotes text for the shell
//! only here.

use std::time::Duration;

use crate::error::Result;

mod text;

pub(crate) use text::sh;
pub use text::{Sh, ToSh, check, fill, here, quote, value};

/// Limits of a script: how long it may take, and how much of its output ironstrap keeps.
#[derive(Clone, Debug, PartialEq)]
pub struct Bounds {
    /// The longest time from the first output of the script to its end. `None`: no limit.
    pub whole: Option<Duration>,
    /// The longest time between two pieces of output.
    pub silence: Duration,
    /// How many bytes of output ironstrap keeps.
    pub kept: usize,
    /// If there is more output than that, ironstrap keeps only the end. Without this flag, more output is an error.
    pub end_only: bool,
}

/// The usual limit of silence. Every fix prints something sooner, except work that runs as a unit or waits for others.
pub const SILENCE: Duration = Duration::from_secs(15 * 60);
/// How many bytes of answers ironstrap keeps. A machine of a cluster with thousands of nodes answers with less.
const ANSWERS: usize = 16 << 20;
/// How many bytes of the output of fixes ironstrap keeps. Nobody reads more than that.
const LAST_WORDS: usize = 256 << 10;

impl Default for Bounds {
    fn default() -> Self {
        Bounds { whole: None, silence: SILENCE, kept: ANSWERS, end_only: false }
    }
}

impl Bounds {
    /// Limits for a script that must end within this time.
    pub fn within(whole: Duration) -> Self {
        Bounds { whole: Some(whole), silence: whole, ..Bounds::default() }
    }

    /// Limits for fixes, which may print much before they end.
    pub fn fixes(silence: Duration, whole: Duration) -> Self {
        Bounds { whole: Some(whole), silence: silence.min(whole), kept: LAST_WORDS, end_only: true }
    }
}

/// A machine that runs shell for us, as root.
pub trait Shell: Send + Sync + 'static {
    /// Runs `script` with `/bin/sh` as root. `heard` gets standard output as it arrives, in pieces of any size.
    ///
    /// Fails if the machine cannot be reached, or if the connection is lost before the exit status arrives. After a lost
    /// connection, nobody knows how far the script got. A script that ran and failed is an `Output`, not an error.
    fn run(
        &self,
        script: &Sh,
        heard: &mut (dyn FnMut(&[u8]) + Send),
    ) -> impl Future<Output = Result<Output>> + Send;

    /// Does the same as `run`, within bounds. A machine that exceeds them is an error, and the script may still run there.
    fn run_within(
        &self,
        script: &Sh,
        _bounds: &Bounds,
        heard: &mut (dyn FnMut(&[u8]) + Send),
    ) -> impl Future<Output = Result<Output>> + Send {
        self.run(script, heard)
    }

    /// The SSH host key of the machine: its kind, and the key in base64. The connection proves that the machine has this key.
    fn host_key(&self) -> Option<String> {
        None
    }

    /// Releases what is kept only to make the next script start sooner, such as an open connection.
    fn disconnect(&self) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// The result of a script that ran.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    /// The exit status. If signal N killed the script, it is 128 + N.
    pub status: i32,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// Returns a line for a file that systemd reads with `EnvironmentFile=`. The line sets `name` to `value`. `value` may have any
/// character except a line break.
///
/// In double quotes, a backslash removes the special meaning of these four characters (systemd.exec(5)). `%` has no special
/// meaning there, unlike in a unit.
pub fn environment(name: &str, value: &str) -> String {
    let mut line = format!("{name}=\"");
    for c in value.chars() {
        if matches!(c, '"' | '\\' | '`' | '$') {
            line.push('\\');
        }
        line.push(c);
    }
    line + "\"\n"
}

/// The beginning of every script. It stops programs from translating their messages, and sets `PATH` to the usual folders.
///
/// `echo` prints backslashes as they are. The `echo` of dash turns `\n` into a line break, so answers from outside could forge
/// lines. `KUBERC` turns off root's own preferences for kubectl (1.33 and later). With such preferences, `delete` may for
/// example ask first, and then do nothing.
pub const PRELUDE: Sh = Sh::raw(
    "export LC_ALL=C KUBERC=off PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\necho() { printf '%s\\n' \"$*\"; }\n\
     absent() { exit 112; }\nnot_here() { exit 111; }\n",
);

/// Functions that find the processes of pods: `component`, `stale`, `as_written`, `running`.
pub const PODS: Sh = Sh::raw(include_str!("../templates/pods.sh"));

/// Returns shell that starts the controllers of the control plane `node` again at once if they have ended. It does so while a
/// fix waits for the cluster. It comes before the first `retry` of a fix on that machine.
pub fn controllers(node: &str) -> Sh {
    const CONTROLLERS: Sh = Sh::raw(include_str!("../templates/controllers.sh"));
    PODS + CONTROLLERS + sh!("NODE={node}\nBETWEEN_TRIES=controllers_at_once\n", node)
}

/// Functions that find and end what is left of pods, without containerd: `shims`, `of_pods`, `ended`, `unhung`, `remains`. They
/// come after undo.sh.
pub const REMAINS: Sh = Sh::raw(include_str!("../templates/remains.sh"));

/// Functions that find and restart programs of DaemonSets: `daemon`, `lasting`, `restart`. They come after `PODS`.
pub const DAEMONS: Sh = Sh::raw(include_str!("../templates/daemons.sh"));

/// Functions that check and repair what flannel made: `flannel_faults`, `flannel_again`. They come after `DAEMONS`.
pub const FLANNEL: Sh = Sh::raw(include_str!("../templates/flannel.sh"));

/// Functions that check and repair the links between pods and their bridge: `link_drift`, `links_again`, `end_sandboxes`. They
/// come after `PODS`.
pub const LINKS: Sh = Sh::raw(include_str!("../templates/links.sh"));

/// A function that finds policy rules which lead the packets of pods elsewhere: `rule_faults`. It comes after `FLANNEL`.
pub const POLICY_RULES: Sh = Sh::raw(include_str!("../templates/policy-rules.sh"));

/// Functions that check and repair the kubelet's own files: `kubelet_links`, `kubelet_unreadable`.
pub const KUBELET_FILES: Sh = Sh::raw(include_str!("../templates/kubelet-files.sh"));

/// awk functions for a program in single quotes: `key_line`, `key_of`. They tell whether a private key is whole.
pub const WHOLE_KEY: Sh = Sh::raw(include_str!("../templates/whole-key.awk"));

/// Functions that list the addresses taken by pods, and free those of pods that are gone: `addresses_taken`, `addresses_free`.
pub const ADDRESSES: Sh = Sh::raw(include_str!("../templates/addresses.sh"));

/// Functions that test the network with real packets: `packets`, `pods_of`, `answered`, `proxy_again`. They come after
/// `DAEMONS`.
pub const PACKETS: Sh = Sh::raw(include_str!("../templates/packets.sh"));

/// Functions that check the processes of a node, and query the kubelet and kube-proxy: `stopped`, `resume`, `local_asks`. They
/// come after `PACKETS`.
pub const PROCESSES: Sh = Sh::raw(include_str!("../templates/processes.sh"));

/// Functions that check the package sources of a machine: `sources_dead`, `sources_conflict`.
pub const SOURCES: Sh = Sh::raw(include_str!("../templates/sources.sh"));

/// A function that asks a registry for the manifest of an image, as containerd does: `registry_manifest`.
pub const REGISTRY: Sh = Sh::raw(include_str!("../templates/registry.sh"));

/// Functions that find kubelet flags in files of the machine (`kubelet_args`), and remove them (`kubelet_args_out`). The second
/// one comes after `lib.sh`.
pub const KUBELET_ARGS: Sh = Sh::raw(include_str!("../templates/kubelet-args.sh"));

/// A function that finds systemd files which change how a unit starts: `unit_files`.
pub const UNIT_FILES: Sh = Sh::raw(include_str!("../templates/unit-files.sh"));

/// A function that compares programs and units with the records of dpkg: `programs`.
pub const PROGRAMS: Sh = Sh::raw(include_str!("../templates/programs.sh"));

/// Functions that check modes, owners and folders: `modes`, `unwritable`.
pub const FILES: Sh = Sh::raw(include_str!("../templates/files.sh"));

/// Functions that repair what `UNIT_FILES`, `PROGRAMS` and `FILES` find: `unit_files_out`, `programs_again`, `modes_again`,
/// `writable_again`. They come after `lib.sh`.
pub const AGAIN: Sh = Sh::raw(include_str!("../templates/again.sh"));

/// A function that tests nodes which have no pod: `ask_nodes`. It makes a pod there, asks it, and deletes it. It comes after
/// `PACKETS` and `KUBECTL`.
pub const SHORT_LIVED: Sh = Sh::raw(include_str!("../templates/short_lived.sh"));

/// Functions that approve requests of kubelets for serving certificates: `approve_serving`, `await_serving`, `forget_requests`.
/// They come after `KUBECTL`.
pub const SERVING: Sh = Sh::raw(include_str!("../templates/serving.sh"));

/// Defines `kubectl` with the administrator's credentials that kubeadm left on this machine. It asks this machine's own API
/// server. So the answer is about *this* control plane, wherever the name of the endpoint leads.
///
/// kubectl ends after a moment. With `GOGC=400` it needs no garbage collection for small answers, which would take a third of
/// its time. For large answers, its memory is at most five times their size. With `NO_PROXY` it does not use a proxy of root's
/// environment for this machine's own address.
pub const KUBECTL: Sh = Sh::raw(
    r#"kubectl() {
  a=$(awk -F = '/^ *- --advertise-address=/ { a = $2 } /^ *- --secure-port=/ { p = ":" $2 } END { print (a ~ /:/ ? "[" a "]" : a) p }' /etc/kubernetes/manifests/kube-apiserver.yaml 2>/dev/null) || a=
  [ -d /run/ironstrap ] || mkdir -p -m 700 /run/ironstrap
  GOGC=400 NO_PROXY='*' command kubectl --kubeconfig /etc/kubernetes/admin.conf --cache-dir /run/ironstrap/kube --server "https://$a" "$@"
}
"#,
);

/// Waits until this machine's API server answers, because it may just have restarted. It is for fixes, after `KUBECTL`.
pub const READY: Sh = Sh::raw("retry kubectl get --raw /readyz >/dev/null\n");

/// Defines `kubectl` for fixes of objects in the cluster. It waits for an API server that goes away in between, for any reason.
///
/// An API server that has just come back refuses some requests, because it does not know yet what its administrator may do.
/// `kubectl` marks each line of its own messages. So no text from the cluster looks like a line that ironstrap reads.
pub fn kubectl() -> Sh {
    KUBECTL.replaced("kubectl() {", Sh::raw("kubectl_once() {")) + PERSISTENT + READY
}

const PERSISTENT: &str = r#"kubectl() {
  k_in= k_end=$(($(date +%s) + WAIT_TIMEOUT))
  case " $* " in *' -f - '*) k_in=$(cat) ;; esac
  while :; do
    k_r=0
    { k_said=$(printf '%s\n' "$k_in" | kubectl_once "$@" 2>&1 >&4 4>&-) || k_r=$?; } 4>&1
    [ $k_r != 0 ] && [ "$(date +%s)" -lt "$k_end" ] || break
    api_is_away "$k_said" || ! kubectl_once get --raw /readyz --request-timeout=5s >/dev/null 2>&1 || break
    renew_lease
    sleep 1
  done
  [ -z "$k_said" ] || printf '%s\n' "$k_said" | sed 's/^/kubectl: /' >&2
  return $k_r
}
"#;

/// kubectl with the credentials of this machine's kubelet. It may read its own Node and its own pods.
pub const KUBELETS_KUBECTL: Sh =
    Sh::raw("kubectl --kubeconfig /etc/kubernetes/kubelet.conf --cache-dir /run/ironstrap/kube");

/// Functions that write objects to the cluster with exactly the fields of their manifests: `trim_object`, `put_object`. They
/// come after `kubectl`.
pub const OBJECTS: Sh = Sh::raw(include_str!("../templates/objects.sh"));

/// Applies objects from standard input, owned by ironstrap. It takes back fields that others changed.
pub const APPLY: Sh = Sh::raw("kubectl apply --server-side --field-manager=ironstrap --force-conflicts -f -");

/// Defines `kubectl` for fixes, and applies these manifests with `APPLY`.
pub fn kubectl_apply(yaml: &str) -> Sh {
    kubectl() + here(APPLY, yaml)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a line as systemd does: the states that a line in double quotes passes through in src/basic/env-file.c.
    fn read(line: &str) -> (String, String) {
        let (name, rest) = line.split_once('=').unwrap();
        let mut chars = rest.strip_prefix('"').unwrap().chars();
        let mut value = String::new();
        loop {
            match chars.next().unwrap() {
                '"' => break,
                '\\' => match chars.next().unwrap() {
                    c @ ('"' | '\\' | '`' | '$') => value.push(c),
                    c => value.extend(['\\', c]),
                },
                c => value.push(c),
            }
        }
        assert_eq!(chars.as_str(), "\n", "nothing follows: {line}");
        (name.into(), value)
    }

    #[test]
    fn systemd_reads_environment_values_unchanged() {
        let values = [
            "",
            "a",
            "http://me:p%40ss@proxy:3128",
            "%i%%",
            "$X ${Y}",
            "`id`",
            "a\\",
            "\\\"",
            "'",
            "# no comment",
            " a;b ",
        ];
        for value in values {
            assert_eq!(read(&environment("X", value)), ("X".into(), value.into()));
        }
        assert_eq!(environment("X", r#"a"$\`"#), "X=\"a\\\"\\$\\\\\\`\"\n");
    }
}
