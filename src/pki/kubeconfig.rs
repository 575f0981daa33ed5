//! Kubeconfig files. This module writes those of ironstrap, and reads enough of any other to tell whose it is.
//! `store` decides where they are.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;

use crate::pki::cert::Pair;
use crate::yaml;

/// One cluster, one user with a client certificate, and the context that brings them together.
#[derive(Clone, Copy)]
pub struct Entry<'a> {
    pub cluster: &'a str,
    pub user: &'a str,
    pub context: &'a str,
    /// `https://HOST:PORT`
    pub server: &'a str,
    pub(super) ca: &'a Pair,
    pub(super) pair: &'a Pair,
}

impl Entry<'_> {
    /// A whole kubeconfig of this entry alone, with everything embedded. It holds a private key.
    pub fn file(&self, comment: &str) -> String {
        let (cluster, user, context) = (quoted(self.cluster), quoted(self.user), quoted(self.context));
        let (server, ca) = (quoted(self.server), BASE64_STANDARD.encode(&self.ca.cert));
        let (cert, key) =
            (BASE64_STANDARD.encode(&self.pair.cert), BASE64_STANDARD.encode(self.pair.key.reveal()));
        format!(
            "# {comment}
apiVersion: v1
kind: Config
clusters:
- name: {cluster}
  cluster:
    server: {server}
    certificate-authority-data: {ca}
users:
- name: {user}
  user:
    client-certificate-data: {cert}
    client-key-data: {key}
contexts:
- name: {context}
  context:
    cluster: {cluster}
    user: {user}
current-context: {context}
"
        )
    }
}

/// The kubeconfig of a kubelet, byte for byte as the kubelet itself writes it once it has its certificate
/// (client-go `bootstrap.go`, `writeKubeconfigFromBootstrapping`).
pub(super) fn kubelet(server: &str, ca: &str) -> String {
    let ca = BASE64_STANDARD.encode(ca);
    format!(
        "apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: {ca}
    server: {server}
  name: default-cluster
contexts:
- context:
    cluster: default-cluster
    namespace: default
    user: default-auth
  name: default-context
current-context: default-context
kind: Config
users:
- name: default-auth
  user:
    client-certificate: {KUBELET_CERTIFICATE}
    client-key: {KUBELET_CERTIFICATE}
"
    )
}

/// The kubeconfig in `cluster-info`, byte for byte as kubeadm writes it (kubeadm `clusterinfo.go`).
pub(super) fn cluster_info(server: &str, ca: &str) -> String {
    let ca = BASE64_STANDARD.encode(ca);
    format!(
        "apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: {ca}
    server: {server}
  name: \"\"
contexts: null
current-context: \"\"
kind: Config
users: null
"
    )
}

/// Where a kubelet keeps its client certificate and key, and renews them by itself.
pub const KUBELET_CERTIFICATE: &str = "/var/lib/kubelet/pki/kubelet-client-current.pem";

/// The text as a JSON string. YAML reads it as a string, whatever it contains.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The clusters and users of a kubeconfig. It has no contexts, because the user chooses which namespace is the current one.
#[derive(Clone, Deserialize, PartialEq)]
pub struct Kubeconfig {
    clusters: Vec<NamedCluster>,
    users: Vec<NamedUser>,
}

#[derive(Clone, Deserialize, PartialEq)]
struct NamedCluster {
    name: String,
    cluster: ClusterEntry,
}

#[derive(Clone, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case")]
struct ClusterEntry {
    server: String,
    #[serde(default)]
    certificate_authority_data: String,
}

#[derive(Clone, Deserialize, PartialEq)]
struct NamedUser {
    name: String,
    user: UserEntry,
}

#[derive(Clone, Default, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case", default)]
struct UserEntry {
    client_certificate_data: String,
    client_key_data: String,
}

impl Kubeconfig {
    /// Reads a kubeconfig. `None`: the text is not one.
    pub fn of(text: &str) -> Option<Kubeconfig> {
        yaml::read(text).ok()
    }

    /// Whether both name the same clusters, with the same CAs, and the same users. Addresses and client
    /// certificates may differ, because ironstrap renews them.
    pub fn has_owner_of(&self, other: &Kubeconfig) -> bool {
        let clusters = |it: &Kubeconfig| -> Vec<(String, String)> {
            let pick = |it: &NamedCluster| (it.name.clone(), it.cluster.certificate_authority_data.clone());
            it.clusters.iter().map(pick).collect()
        };
        let users = |it: &Kubeconfig| -> Vec<String> { it.users.iter().map(|it| it.name.clone()).collect() };
        clusters(self) == clusters(other) && users(self) == users(other)
    }
}
