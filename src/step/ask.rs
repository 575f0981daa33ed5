//! The question about one want, as a machine gets it.

use super::Object;
use crate::shell::Sh;

/// A question about the present state. Asking it, even twice, changes nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// Shell that prints the state, exits 0 and prints nothing on stderr. It may also end by `absent` or `not_here` (`PRELUDE`).
    /// Anything else means *unknown*. It runs under `set -eu`. The left side of a pipeline can still fail unseen.
    Shell(Sh),
    /// As `Shell`, for a machine that has not begun to join the cluster. The answer of any other machine is `Answer::NotHere`.
    OnlyBeforeJoin(Sh),
    /// As `Shell`, for an answer that comes from the API server, through kubectl. If the API server is away, that is no
    /// fault of the machine. `grows`: the answer grows with the cluster. Any other answer has a fixed limit. `early`: on a
    /// control plane the question begins before all others (see `api_in_turn`).
    Api { shell: Sh, grows: bool, early: bool },
    /// `mode 644 root:root` and the text of a file, or `Answer::Absent`.
    File(String),
    /// `mode 600 root:root` and the SHA-256 of a file, or `Answer::Absent`. It is for texts that must not leave the machine.
    Hash(String),
    /// Mode, server, authority and client certificate of a kubeconfig, one on each line, or `Answer::Absent`. It never has the
    /// key.
    Kubeconfig(String),
    /// `enabled active current` for a unit. It has `stale` in place of `current` if its unit files changed, or one of these
    /// files is newer than the start. `masked` for a masked unit, and `Answer::Absent` for one that does not exist.
    Unit { unit: String, reads: Vec<String> },
    /// A line for each package: `kubelet hi 1.36.3-1.1` (dpkg's status), or `kubelet absent`.
    Packages(Vec<String>),
    /// No question of its own: the head of the reply has the answer.
    Facts,
    /// The objects of the cluster, as `Answer::Objects`. There is none of them if no cluster runs.
    Objects(Vec<Object>),
    /// A line for each Node of the cluster, with its name and its ranges of pods. There is no line if no cluster runs.
    Nodes,
    /// A line for each ClusterRole, each ClusterRoleBinding, and each EndpointSlice of the API's Service. There is no line
    /// if no cluster runs.
    Listed,
    /// Whether RBAC lets kubeadm's administrator see the cluster: `may`, or `may not`. If no cluster runs, it is `may`.
    Administrator,
}

impl<S: Into<Sh>> From<S> for Ask {
    fn from(shell: S) -> Self {
        Ask::Shell(shell.into())
    }
}

impl Ask {
    /// As `Api`, with an answer of a few lines.
    pub fn api(shell: impl Into<Sh>) -> Self {
        Ask::Api { shell: shell.into(), grows: false, early: true }
    }

    /// As `Api`, with an answer that grows with the cluster.
    pub fn whole_api(shell: impl Into<Sh>) -> Self {
        Ask::Api { shell: shell.into(), grows: true, early: true }
    }

    /// As `api`, for a question that waits for its turn. It asks etcd, and is soon done.
    pub fn api_in_turn(shell: impl Into<Sh>) -> Self {
        Ask::Api { shell: shell.into(), grows: false, early: false }
    }

    /// The shell of this question, if it is shell.
    pub fn shell(&self) -> Option<&Sh> {
        match self {
            Ask::Shell(shell) | Ask::OnlyBeforeJoin(shell) | Ask::Api { shell, .. } => Some(shell),
            _ => None,
        }
    }

    /// Whether the API server answers this question, and not the machine alone.
    pub fn is_about_api(&self) -> bool {
        matches!(self, Ask::Api { .. } | Ask::Objects(_) | Ask::Nodes | Ask::Listed | Ask::Administrator)
    }

    /// Returns the lines of an answer in the words of a plan. Answers of other kinds stay as they are.
    pub fn in_words(&self, answer: &str) -> String {
        let word: fn(&str) -> String = match self {
            Ask::Unit { .. } => unit,
            Ask::Packages(_) => package,
            _ => return answer.into(),
        };
        answer.split('\n').map(word).collect::<Vec<_>>().join("\n")
    }

    /// Whether its answer grows with the cluster.
    pub fn grows(&self) -> bool {
        matches!(self, Ask::Api { grows: true, .. })
    }
}

/// Puts `enabled active stale: /c changed after it started` into the words of a plan.
fn unit(state: &str) -> String {
    let mut words = state.splitn(3, ' ');
    let (Some(file), Some(active)) = (words.next(), words.next()) else { return state.into() };
    match words.next().and_then(|rest| rest.strip_prefix("stale: ")) {
        Some(why) => format!("{file}, {active}, but {why}"),
        None => format!("{file}, {active}"),
    }
}

/// Puts `kubelet hi 1.36.3-1.1` into the words of a plan. The letters are dpkg's: what is wanted of the package, and what it
/// is (`dpkg-query(1)`, `db:Status-Abbrev`).
fn package(state: &str) -> String {
    match state.split(' ').collect::<Vec<_>>()[..] {
        [name, "ii", version] => format!("{name} {version}"),
        [name, "hi", version] => format!("{name} {version}, held"),
        [name, "rc", version] => format!("{name} {version} is removed, but its configuration files are left"),
        [name, "absent"] => format!("{name} is not installed"),
        _ => state.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_puts_states_of_units_and_packages_into_words() {
        let unit = Ask::Unit { unit: "a.service".into(), reads: vec![] };
        for (answer, words) in [
            ("enabled active current", "enabled, active"),
            ("disabled inactive", "disabled, inactive"),
            (
                "enabled active stale: /c changed after it started",
                "enabled, active, but /c changed after it started",
            ),
            ("masked", "masked"),
            ("", ""),
        ] {
            assert_eq!(unit.in_words(answer), words);
        }
        let packages = Ask::Packages(vec![]);
        let answer = "a hi 1.0-1\nb ii 2\nc absent\nd rc 3\ne iF 4\n";
        let words = "a 1.0-1, held\nb 2\nc is not installed\nd 3 is removed, but its configuration files are left\ne iF 4\n";
        assert_eq!(packages.in_words(answer), words);
        assert_eq!(Ask::File("/a".into()).in_words("enabled active current"), "enabled active current");
    }
}
