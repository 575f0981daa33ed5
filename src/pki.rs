//! The cluster PKI: the CAs, certificates and keys by which the members of a cluster and its operator trust each other.
//! This module is pure except for randomness. `store` keeps the PKI on disk, and the step `pki` brings it onto nodes.

mod cert;
mod credential;
mod ends;
mod issue;
mod kept;
mod kubeconfig;
mod leaf;
mod merge;
mod read;
mod serving;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::fmt;

use sha2::{Digest, Sha256};
use time::OffsetDateTime;

pub(crate) use crate::pki::cert::random_text;
pub use crate::pki::cert::{Pair, TEMPORARY};
pub use crate::pki::credential::{Credential, Signed};
pub use crate::pki::ends::days;
pub use crate::pki::issue::Person;
pub use crate::pki::kept::{Kept, RETIRED};
pub use crate::pki::kubeconfig::{Entry, KUBELET_CERTIFICATE, Kubeconfig};
pub use crate::pki::merge::{Merged, merged};
pub use crate::pki::read::{RENEW_BEFORE, expires, in_words};
#[cfg(test)]
pub(crate) use crate::pki::serving::tests::encoded as serving_request;
pub use crate::pki::serving::why_not_served;

use crate::cluster::{Cluster, Node};
use crate::error::{Error, Kind, Result};
use crate::pki::cert::Wanted;
use crate::pki::leaf::{LEAVES, Signer};
use crate::pki::read::{Seen, der_of, why_renew};
use crate::secret::SecretText;

/// The default of kubeadm's `certificatesDir`: where it looks for certificates on a control plane.
pub const CERTIFICATES_DIR: &str = "/etc/kubernetes/pki";

/// The cluster PKI: the CAs, keys and certificates that the operator keeps for one cluster.
#[derive(Clone, PartialEq)]
pub struct ClusterPki {
    pub ca: Pair,
    pub front_proxy_ca: Pair,
    pub etcd_ca: Pair,
    /// The private key that signs service account tokens.
    pub sa_key: SecretText,
    /// The public half of `sa_key`. kubeadm does not make it from a `sa.key` that is already there.
    pub sa_pub: String,
    /// The certificates of each control plane, by node name. Those of a node that is no longer a control plane stay.
    pub leaves: BTreeMap<String, Leaves>,
    /// The operator's client certificate. It is empty until `complete` has run.
    pub admin: Pair,
}

/// The certificates of one control plane, by their path below kubeadm's `certificatesDir`: `etcd/server`.
pub type Leaves = BTreeMap<&'static str, Pair>;

impl fmt::Debug for ClusterPki {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").field("ca", &self.ca).field("leaves", &self.leaves).finish_non_exhaustive()
    }
}

/// A file of kubeadm's `certificatesDir` on a control plane.
#[derive(PartialEq)]
pub struct File<'a> {
    pub path: String,
    pub mode: u32,
    pub text: &'a str,
    /// Whether no output may show `text`.
    pub secret: bool,
}

impl fmt::Debug for File<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File").field("path", &self.path).field("mode", &self.mode).finish_non_exhaustive()
    }
}

/// Whether both texts are the same certificate. Each is PEM, or the base64 of PEM that kubeconfigs have.
pub fn is_same_certificate(one: &str, other: &str) -> bool {
    let one = der_of(one);
    one.is_some() && one == der_of(other)
}

impl ClusterPki {
    /// Makes a new cluster PKI, with all certificates that this cluster needs.
    pub fn make(cluster: &Cluster, now: OffsetDateTime) -> Result<ClusterPki> {
        let sa = cert::new_key("the service accounts")?;
        let mut pki = ClusterPki {
            ca: cert::new_ca("kubernetes", now)?,
            front_proxy_ca: cert::new_ca("front-proxy-ca", now)?,
            etcd_ca: cert::new_ca("etcd-ca", now)?,
            sa_key: SecretText::new(sa.serialize_pem()),
            sa_pub: sa.public_key_pem(),
            leaves: BTreeMap::new(),
            admin: Pair::default(),
        };
        pki.complete(cluster, now)?;
        Ok(pki)
    }

    /// Makes certificates that are missing, and renews those that no longer fit. It does not touch the others. Returns
    /// one line for each certificate that it made, with the reason. After an error the cluster PKI is unchanged.
    pub fn complete(&mut self, cluster: &Cluster, now: OffsetDateTime) -> Result<Vec<String>> {
        let mut made = vec![];
        let mut leaves = vec![];
        for (node, leaf) in cluster.control_planes().flat_map(|node| LEAVES.iter().map(move |l| (node, l))) {
            let have = self.leaves.get(&node.name).and_then(|of_node| of_node.get(leaf.path));
            let wanted = (leaf.wanted)(cluster, node);
            if let Some((pair, why)) = renewed(have, &wanted, leaf.signer, self.signer(leaf.signer), now)? {
                made.push(format!("{}: {}, because {why}", node.name, leaf.path));
                leaves.push((node.name.clone(), leaf.path, pair));
            }
        }
        let admin = renewed(Some(&self.admin), &leaf::admin(cluster), Signer::Cluster, &self.ca, now)?;

        for (node, path, pair) in leaves {
            self.leaves.entry(node).or_default().insert(path, pair);
        }
        if let Some((pair, why)) = admin {
            self.admin = pair;
            made.push(format!("admin, because {why}"));
        }
        Ok(made)
    }

    /// The files of kubeadm's `certificatesDir` on this node. A worker gets none, because kubeadm's join stops
    /// at a `ca.crt` that is already there. Each key comes before its certificate, because kubeadm takes a
    /// certificate without a key for an external CA (kubeadm `certs.go`, `UsingExternalCA`).
    pub fn files(&self, node: &Node) -> Vec<File<'_>> {
        if !node.is_control_plane() {
            return vec![];
        }
        let of_node = self.leaves.get(&node.name);
        // kubeadm stops at a certificate without its key, or a key without its certificate. If both are
        // missing, it makes its own.
        let leaves = LEAVES
            .iter()
            .filter_map(|leaf| Some((leaf.path, of_node?.get(leaf.path)?)))
            .filter(|(_, pair)| !pair.cert.is_empty() && !pair.key.is_empty());
        let mut files = vec![];
        for (path, pair) in self.cas().map(|(ca, pair)| (ca.path(), pair)).into_iter().chain(leaves) {
            files.push(file(path, "key", pair.key.reveal()));
            files.push(file(path, "crt", &pair.cert));
        }
        files.push(file("sa", "key", self.sa_key.reveal()));
        files.push(file("sa", "pub", &self.sa_pub));
        files
    }

    /// The hash of the CA's public key, by which `kubeadm join` pins the CA (kubeadm `pubkeypin.go`).
    pub fn ca_hash(&self) -> Result<String> {
        let spki = readable_ca(Signer::Cluster, &self.ca)?.spki;
        let hex: String = Sha256::digest(spki).iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(format!("sha256:{hex}"))
    }

    /// The operator's kubeconfig, for the API server at this URL. It holds the operator's private key.
    pub fn admin_kubeconfig(&self, cluster: &Cluster, server: &str) -> String {
        let user = leaf::admin_name(cluster);
        let context = format!("{user}@{}", cluster.name);
        let comment = "Made by ironstrap from the cluster PKI beside it. ironstrap renews it.";
        self.entry(cluster, server, (&user, &context), &self.admin).file(comment)
    }

    /// The kubeconfig entry of this cluster: the URL of the API server, the names of user and context, and the
    /// client certificate.
    pub fn entry<'a>(
        &'a self,
        cluster: &'a Cluster,
        server: &'a str,
        (user, context): (&'a str, &'a str),
        pair: &'a Pair,
    ) -> Entry<'a> {
        Entry { cluster: &cluster.name, user, context, server, ca: &self.ca, pair }
    }

    /// When the first of the certificates that this cluster uses expires. Those of a node that is no longer a
    /// control plane do not count.
    pub fn valid_until(&self, cluster: &Cluster) -> Option<OffsetDateTime> {
        let cas = self.cas().into_iter().map(|(_, pair)| pair);
        let leaves = cluster.control_planes().filter_map(|node| self.leaves.get(&node.name)).flatten();
        let all = cas.chain(leaves.map(|(_, pair)| pair)).chain([&self.admin]);
        all.filter_map(|pair| Some(Seen::of(&pair.cert)?.not_after)).min()
    }

    /// When the operator's own certificate expires.
    pub fn admin_until(&self) -> Option<OffsetDateTime> {
        Some(Seen::of(&self.admin.cert)?.not_after)
    }

    /// Whether this text is the certificate of our cluster CA. It is PEM, or the base64 of PEM that kubeconfigs have.
    pub fn is_our_ca(&self, pem_or_base64: &str) -> bool {
        is_same_certificate(pem_or_base64, &self.ca.cert)
    }

    /// The kubeconfig in kubeadm's `cluster-info`, by which machines that join with a token find the API
    /// server. kubeadm keeps it in the cluster, where everybody can read it.
    pub fn cluster_info(&self, server: &str) -> String {
        kubeconfig::cluster_info(server, &self.ca.cert)
    }

    /// The kubelet's own kubeconfig, for a machine whose kubelet already has its client certificate. It holds no secret.
    pub fn kubelet_kubeconfig(&self, server: &str) -> String {
        kubeconfig::kubelet(server, &self.ca.cert)
    }

    /// Why this is not a client certificate of our cluster CA for this user and group. The text is the base64
    /// that kubeconfigs have. `None`: the certificate fits.
    pub fn why_no_client(
        &self,
        base64: &str,
        (user, group): (&str, Option<&str>),
        now: OffsetDateTime,
    ) -> Result<Option<String>> {
        let wanted = leaf::user(user, group);
        let ca = readable_ca(Signer::Cluster, &self.ca)?;
        Ok(read::why_no_certificate(&read::pem_of(base64), &wanted, &ca, now))
    }

    /// Why this certificate, in PEM, is not a lasting client certificate of this node's kubelet. A temporary
    /// certificate of ironstrap does not count. `None`: it is one.
    pub fn why_no_kubelet(&self, pem: &str, node: &str, now: OffsetDateTime) -> Result<Option<String>> {
        let ca = readable_ca(Signer::Cluster, &self.ca)?;
        Ok(read::why_no_kubelet(pem, node, &ca, now))
    }

    fn cas(&self) -> [(Signer, &Pair); 3] {
        [Signer::Cluster, Signer::FrontProxy, Signer::Etcd].map(|signer| (signer, self.signer(signer)))
    }

    fn signer(&self, signer: Signer) -> &Pair {
        match signer {
            Signer::Cluster => &self.ca,
            Signer::FrontProxy => &self.front_proxy_ca,
            Signer::Etcd => &self.etcd_ca,
        }
    }
}

/// Makes a new pair if the present one does not fit, and says why. `None`: the present one fits.
fn renewed(
    have: Option<&Pair>,
    wanted: &Wanted,
    signer: Signer,
    ca: &Pair,
    now: OffsetDateTime,
) -> Result<Option<(Pair, String)>> {
    let seen_ca = readable_ca(signer, ca)?;
    let Some(why) = why_renew(have, wanted, &seen_ca, now) else { return Ok(None) };
    if now < seen_ca.not_before || seen_ca.not_after <= now {
        let (from, until) = (seen_ca.not_before.date(), seen_ca.not_after.date());
        let what = format!("{}.crt is valid from {from} until {until}", signer.file());
        return Err(Error::new(Kind::Local, what)
            .because(format!(
                "this machine's date is {}, and a certificate must be signed with this CA",
                now.date()
            ))
            .hint("check this machine's clock; if it is right, the cluster needs a new CA"));
    }
    let pair = cert::new_leaf(wanted, ca, seen_ca.not_after, now)?;
    // Without this check, every run would make such a certificate again.
    match why_renew(Some(&pair), wanted, &seen_ca, now) {
        None => Ok(Some((pair, why))),
        Some(still) => {
            let what = format!("a new certificate of {} would not be valid: {still}", wanted.common_name);
            Err(Error::new(Kind::Local, what).hint(format!("check {}.crt", signer.file())))
        }
    }
}

fn readable_ca(signer: Signer, ca: &Pair) -> Result<Seen> {
    let unreadable = || Error::new(Kind::Local, format!("{}.crt is not a certificate", signer.file()));
    Seen::of(&ca.cert).ok_or_else(unreadable)
}

fn file<'a>(name: &str, end: &str, text: &'a str) -> File<'a> {
    // The modes are those that kubeadm writes: client-go `cert.WriteCert`, and `keyutil.WriteKey` for sa.pub as well.
    let mode = if end == "crt" { 0o644 } else { 0o600 };
    File { path: format!("{CERTIFICATES_DIR}/{name}.{end}"), mode, text, secret: end == "key" }
}
