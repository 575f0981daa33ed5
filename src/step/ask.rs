//! What a machine is asked about one want.

use super::Object;
use crate::shell::Sh;

/// A question about the present state. The same question, asked twice, changes nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// Shell that prints the state, exits 0 and keeps quiet on stderr; anything else means *unknown*.
    /// It runs under `set -eu`; mind pipelines, whose left side can fail unseen.
    Shell(Sh),
    /// The same, of a machine that has not begun to join the cluster; of any other it is `not here`.
    Newcomer(Sh),
    /// As `Shell`, where the answer comes from the API server, through kubectl. On a control plane the question begins before
    /// all others. An API server that is away is no fault of the machine. `grows`: the answer grows with the cluster, where
    /// any other has a fixed limit. `early`: see `api_in_turn`.
    Api { shell: Sh, grows: bool, early: bool },
    /// `mode 644 root:root` and the text of a file, or `absent`.
    File(String),
    /// `mode 600 root:root` and the SHA-256 of a file, or `absent`: for what must not travel.
    Hash(String),
    /// Mode, server, authority and client certificate of a kubeconfig, a line each, or `absent`. Never its key.
    Kubeconfig(String),
    /// `enabled active current` of a unit; `stale` where one of these files is newer than the start.
    Unit { unit: String, reads: Vec<String> },
    /// A line for each package: `kubelet hi 1.36.3-1.1` (dpkg's status), or `kubelet absent`.
    Packages(Vec<String>),
    /// Nothing: the head of the reply tells.
    Head,
    /// A line of JSON for each object of the cluster, or `absent`; all absent where no cluster runs.
    Objects(Vec<Object>),
    /// The name of each Node of the cluster and its ranges of pods, a line each; none where no cluster runs.
    Nodes,
    /// A line for each ClusterRole, each ClusterRoleBinding, and each EndpointSlice of the API's Service; none where no cluster
    /// runs.
    Listed,
    /// Whether RBAC lets kubeadm's administrator see the cluster: `may`, `may not`, or `no cluster`.
    Administrator,
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

    /// As `api`, where the question waits for its turn: it asks etcd, and is soon done.
    pub fn api_in_turn(shell: impl Into<Sh>) -> Self {
        Ask::Api { shell: shell.into(), grows: false, early: false }
    }

    /// The shell of a question that is shell.
    pub fn shell(&self) -> Option<&Sh> {
        match self {
            Ask::Shell(shell) | Ask::Newcomer(shell) | Ask::Api { shell, .. } => Some(shell),
            _ => None,
        }
    }

    /// Whether the API server answers it, and not the machine alone.
    pub fn is_about_api(&self) -> bool {
        matches!(self, Ask::Api { .. } | Ask::Objects(_) | Ask::Nodes | Ask::Listed | Ask::Administrator)
    }

    /// Whether its answer grows with the cluster.
    pub fn grows(&self) -> bool {
        matches!(self, Ask::Api { grows: true, .. })
    }
}
