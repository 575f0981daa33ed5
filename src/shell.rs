//! The one thing a machine can do for us, and every scrap of shell that more than one step needs. The only
//! quoting there is.

use std::time::Duration;

use crate::error::Result;

mod text;

pub(crate) use text::sh;
pub use text::{Sh, ToSh, check, fill, here, quote, value};

/// How long a script may take, and how much of what it says is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Bounds {
    /// From its first word to its last.
    pub whole: Option<Duration>,
    /// From one word to the next.
    pub silence: Duration,
    /// Bytes of its output.
    pub kept: usize,
    /// Of more output than that only the end is kept. Otherwise more is an error.
    pub end_only: bool,
}

/// Longer than everything that a fix does without a word, except for work that runs as a unit and what waits for others.
pub const SILENCE: Duration = Duration::from_secs(15 * 60);
/// The answers of a machine of a cluster with thousands of nodes need less.
const ANSWERS: usize = 16 << 20;
/// More than anybody reads of the output of fixes.
const LAST_WORDS: usize = 256 << 10;

impl Default for Bounds {
    fn default() -> Self {
        Bounds { whole: None, silence: SILENCE, kept: ANSWERS, end_only: false }
    }
}

impl Bounds {
    /// For a script that must end within this time.
    pub fn within(whole: Duration) -> Self {
        Bounds { whole: Some(whole), silence: whole, ..Bounds::default() }
    }

    /// For fixes, which may print much before they end.
    pub fn fixes(silence: Duration, whole: Duration) -> Self {
        Bounds { whole: Some(whole), silence: silence.min(whole), kept: LAST_WORDS, end_only: true }
    }
}

/// A machine that runs shell for us, as root.
pub trait Shell: Send + Sync + 'static {
    /// Runs `script` by `/bin/sh` as root. `heard` gets standard output as it arrives, in pieces of any size.
    ///
    /// Fails when the machine cannot be reached, or the connection is lost before the exit status came: then
    /// nobody knows how far the script got. A script that ran and failed is an `Output`.
    fn run(
        &self,
        script: &Sh,
        heard: &mut (dyn FnMut(&[u8]) + Send),
    ) -> impl Future<Output = Result<Output>> + Send;

    /// The same within bounds; a machine that oversteps them is an error, and the script may still run there.
    fn run_within(
        &self,
        script: &Sh,
        _bounds: &Bounds,
        heard: &mut (dyn FnMut(&[u8]) + Send),
    ) -> impl Future<Output = Result<Output>> + Send {
        self.run(script, heard)
    }

    /// The SSH host key by which the machine was reached, kind and base64. The connection proves that the machine has it.
    fn host_key(&self) -> Option<String> {
        None
    }

    /// Gives up what is only kept to be quicker the next time.
    fn rest(&self) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// What a script left behind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    /// The exit status; a death by signal N is 128 + N.
    pub status: i32,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// A line of a file that systemd reads by `EnvironmentFile=`: `name` is set to `value`, whatever is in it but a line break.
/// In double quotes a backslash takes the meaning of these four (systemd.exec(5)); `%` has none there, unlike in a unit.
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

/// The beginning of every script. Programs do not translate their words, and are found in the usual folders. `echo` prints
/// backslashes as they are: that of dash makes a line break of `\n`, and an answer of others could so forge lines. `KUBERC` turns
/// off root's own preferences of kubectl (1.33 and later), with which e.g. `delete` asks first and then does nothing.
pub const PRELUDE: Sh = Sh::raw(
    "export LC_ALL=C KUBERC=off PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\necho() { printf '%s\\n' \"$*\"; }\n",
);

/// Finds the processes of pods: `component`, `stale`, `as_written`, `running`.
pub const PODS: Sh = Sh::raw(include_str!("../templates/pods.sh"));

/// While a fix waits for the cluster, the controllers of the control plane `node` are started again at once where they have ended.
/// Before the first `patiently` of a fix on that machine.
pub fn controllers(node: &str) -> Sh {
    const CONTROLLERS: Sh = Sh::raw(include_str!("../templates/controllers.sh"));
    PODS + CONTROLLERS + sh!("NODE={node}\nWHILE_WAITING=controllers_at_once\n", node)
}

/// Finds and ends what is left of pods, without containerd: `shims`, `of_pods`, `ended`, `unhung`, `remains`; after undo.sh.
pub const REMAINS: Sh = Sh::raw(include_str!("../templates/remains.sh"));

/// Finds and restarts programs of DaemonSets: `daemon`, `lasting`, `restart`; after `PODS`.
pub const DAEMONS: Sh = Sh::raw(include_str!("../templates/daemons.sh"));

/// Looks at what flannel made: `flannel_faults`, `flannel_again`; after `DAEMONS`.
pub const FLANNEL: Sh = Sh::raw(include_str!("../templates/flannel.sh"));

/// Looks at what the kubelet keeps for itself, and mends it: `kubelet_links`, `kubelet_unreadable`.
pub const KUBELET_FILES: Sh = Sh::raw(include_str!("../templates/kubelet-files.sh"));

/// Functions of awk, for a program in single quotes: `key_line`, `key_of`.
pub const WHOLE_KEY: Sh = Sh::raw(include_str!("../templates/whole-key.awk"));

/// Looks at the addresses that pods have taken, and frees those of pods that are gone: `addresses_taken`, `addresses_free`.
pub const ADDRESSES: Sh = Sh::raw(include_str!("../templates/addresses.sh"));

/// Asks with real packets: `packets`, `pods_of`, `answered`, `proxy_again`; after `DAEMONS`.
pub const PACKETS: Sh = Sh::raw(include_str!("../templates/packets.sh"));

/// Looks at the processes of a node and asks the kubelet and kube-proxy: `stopped`, `resume`, `local_asks`; after `PACKETS`.
pub const PROCESSES: Sh = Sh::raw(include_str!("../templates/processes.sh"));

/// Reads the sources of packages that a machine has: `sources_dead`, `sources_conflict`.
pub const SOURCES: Sh = Sh::raw(include_str!("../templates/sources.sh"));

/// Asks a registry for the manifest of an image as containerd does: `registry_manifest`.
pub const REGISTRY: Sh = Sh::raw(include_str!("../templates/registry.sh"));

/// Finds flags of the kubelet in files of the machine's own: `kubelet_args`; `kubelet_args_out` takes them out, after `lib.sh`.
pub const KUBELET_ARGS: Sh = Sh::raw(include_str!("../templates/kubelet-args.sh"));

/// Finds files of systemd that change how a unit starts: `unit_files`.
pub const UNIT_FILES: Sh = Sh::raw(include_str!("../templates/unit-files.sh"));

/// Compares programs and units with what dpkg noted of them: `programs`.
pub const PROGRAMS: Sh = Sh::raw(include_str!("../templates/programs.sh"));

/// Looks at modes, owners and folders: `modes`, `unwritable`.
pub const FILES: Sh = Sh::raw(include_str!("../templates/files.sh"));

/// Puts right what these three find: `unit_files_out`, `programs_again`, `modes_again`, `writable_again`; after `lib.sh`.
pub const AGAIN: Sh = Sh::raw(include_str!("../templates/again.sh"));

/// Asks nodes without a pod by one that is there for no longer than it is asked: `ask_nodes`; after `PACKETS` and `KUBECTL`.
pub const SHORT_LIVED: Sh = Sh::raw(include_str!("../templates/short_lived.sh"));

/// Approves requests of kubelets for certificates to serve with: `approve_serving`, `await_serving`,
/// `forget_requests`; after `KUBECTL`.
pub const SERVING: Sh = Sh::raw(include_str!("../templates/serving.sh"));

/// kubectl with the administrator's credentials that kubeadm left, on this machine's own API server: it says
/// how *this* control plane is, whatever the endpoint's name leads to. It ends after a moment: with `GOGC=400` small answers need no
/// garbage collection, which takes a third of its time, and of large ones it takes no more memory than five times their size. With
/// `NO_PROXY` a proxy that root's environment has is not asked for this machine's own address.
pub const KUBECTL: Sh = Sh::raw(
    r#"kubectl() {
  a=$(awk -F = '/^ *- --advertise-address=/ { a = $2 } /^ *- --secure-port=/ { p = ":" $2 } END { print (a ~ /:/ ? "[" a "]" : a) p }' /etc/kubernetes/manifests/kube-apiserver.yaml 2>/dev/null) || a=
  [ -d /run/ironstrap ] || mkdir -p -m 700 /run/ironstrap
  GOGC=400 NO_PROXY='*' command kubectl --kubeconfig /etc/kubernetes/admin.conf --cache-dir /run/ironstrap/kube --server "https://$a" "$@"
}
"#,
);

/// Waits until this machine's API server answers, which may have been restarted a moment ago; for fixes, after `KUBECTL`.
pub const READY: Sh = Sh::raw("patiently kubectl get --raw /readyz >/dev/null\n");

/// Defines `kubectl`, for fixes of what is in the cluster: an API server that goes away in between, for whatever reason,
/// is waited for. One that has just come back refuses what it does not know its administrator may do yet. Each line that it
/// says of its own is marked: no word of the cluster looks like a line that ironstrap reads.
pub fn kubectl() -> Sh {
    KUBECTL.replaced("kubectl() {", Sh::raw("kubectl_once() {")) + PERSISTENT + READY
}

const PERSISTENT: &str = r#"kubectl() {
  k_in= k_end=$(($(date +%s) + PATIENCE))
  case " $* " in *' -f - '*) k_in=$(cat) ;; esac
  while :; do
    k_r=0
    { k_said=$(printf '%s\n' "$k_in" | kubectl_once "$@" 2>&1 >&4 4>&-) || k_r=$?; } 4>&1
    [ $k_r != 0 ] && [ "$(date +%s)" -lt "$k_end" ] || break
    api_is_away "$k_said" || ! kubectl_once get --raw /readyz --request-timeout=5s >/dev/null 2>&1 || break
    renew
    sleep 1
  done
  [ -z "$k_said" ] || printf '%s\n' "$k_said" | sed 's/^/kubectl: /' >&2
  return $k_r
}
"#;

/// kubectl as the kubelet of this machine: it may see its own Node, and its own pods.
pub const KUBELETS_KUBECTL: Sh =
    Sh::raw("kubectl --kubeconfig /etc/kubernetes/kubelet.conf --cache-dir /run/ironstrap/kube");

/// Puts objects into the cluster with nothing more than they say: `trim_object`, `put_object`; after `kubectl`.
pub const OBJECTS: Sh = Sh::raw(include_str!("../templates/objects.sh"));

/// Puts objects into the cluster as ours, taking back fields that others changed.
pub const APPLY: Sh = Sh::raw("kubectl apply --server-side --field-manager=ironstrap --force-conflicts -f -");

/// The same, for what comes after `kubectl`.
pub fn kubectl_apply(yaml: &str) -> Sh {
    kubectl() + here(APPLY, yaml)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How systemd reads it, as src/basic/env-file.c does: the states that a line in double quotes passes through.
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
    fn systemd_reads_an_environment_as_it_was_meant() {
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
