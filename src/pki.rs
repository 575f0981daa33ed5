//! Everything that a cluster's members and its operator trust each other by: CAs, certificates, keys.
//! Pure but for randomness: it is kept by `store` and brought onto nodes by the step `pki`.

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

/// Where kubeadm looks for certificates on a control plane, unless told otherwise.
pub const CERTIFICATES_DIR: &str = "/etc/kubernetes/pki";

/// What the operator keeps for one cluster.
#[derive(Clone, PartialEq)]
pub struct Trust {
    pub ca: Pair,
    pub front_proxy_ca: Pair,
    pub etcd_ca: Pair,
    /// What service account tokens are signed with.
    pub sa_key: SecretText,
    /// Its public half. kubeadm does not make it from `sa_key` where that is already there.
    pub sa_pub: String,
    /// By node. Those of a node that is no control plane any more stay.
    pub leaves: BTreeMap<String, Leaves>,
    /// The operator's client certificate; empty until `complete` was called.
    pub admin: Pair,
}

/// The certificates of one control plane, by their path below kubeadm's `certificatesDir`: `etcd/server`.
pub type Leaves = BTreeMap<&'static str, Pair>;

impl fmt::Debug for Trust {
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
    /// Its text must not be shown.
    pub secret: bool,
}

impl fmt::Debug for File<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File").field("path", &self.path).field("mode", &self.mode).finish_non_exhaustive()
    }
}

/// Whether both are the same certificate: PEM, or the base64 of PEM that kubeconfigs have.
pub fn is_same_certificate(one: &str, other: &str) -> bool {
    let one = der_of(one);
    one.is_some() && one == der_of(other)
}

impl Trust {
    /// A new trust, complete for this cluster.
    pub fn make(cluster: &Cluster, now: OffsetDateTime) -> Result<Trust> {
        let sa = cert::new_key("the service accounts")?;
        let mut trust = Trust {
            ca: cert::new_ca("kubernetes", now)?,
            front_proxy_ca: cert::new_ca("front-proxy-ca", now)?,
            etcd_ca: cert::new_ca("etcd-ca", now)?,
            sa_key: SecretText::new(sa.serialize_pem()),
            sa_pub: sa.public_key_pem(),
            leaves: BTreeMap::new(),
            admin: Pair::default(),
        };
        trust.complete(cluster, now)?;
        Ok(trust)
    }

    /// Makes certificates that are missing, and renews those that no longer fit. It does not touch the others. Returns
    /// what it made and why, a line each. After an error the trust is as it was.
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

    /// The files of kubeadm's `certificatesDir` on this node; none for a worker, where kubeadm's join stops
    /// at a `ca.crt` that is already there. Each key comes before its certificate, for kubeadm takes a
    /// certificate without a key for somebody else's CA (kubeadm `certs.go`, `UsingExternalCA`).
    pub fn files(&self, node: &Node) -> Vec<File<'_>> {
        if !node.is_control_plane() {
            return vec![];
        }
        let of_node = self.leaves.get(&node.name);
        // A half one would stop kubeadm; without it, kubeadm makes its own.
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

    /// What `kubeadm join` pins the CA by (kubeadm `pubkeypin.go`).
    pub fn ca_hash(&self) -> Result<String> {
        let spki = readable_ca(Signer::Cluster, &self.ca)?.spki;
        let hex: String = Sha256::digest(spki).iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(format!("sha256:{hex}"))
    }

    /// The operator's kubeconfig, for the API at this URL. It holds the operator's key.
    pub fn admin_kubeconfig(&self, cluster: &Cluster, server: &str) -> String {
        let user = leaf::admin_name(cluster);
        let context = format!("{user}@{}", cluster.name);
        let comment = "Made by ironstrap from the trust beside it, and renewed by it.";
        self.entry(cluster, server, (&user, &context), &self.admin).file(comment)
    }

    /// How a kubeconfig leads to this cluster, at this URL, with these names of user and context and this certificate.
    pub fn entry<'a>(
        &'a self,
        cluster: &'a Cluster,
        server: &'a str,
        (user, context): (&'a str, &'a str),
        pair: &'a Pair,
    ) -> Entry<'a> {
        Entry { cluster: &cluster.name, user, context, server, ca: &self.ca, pair }
    }

    /// When the first of the certificates that this cluster uses expires. Those of a node that is no control
    /// plane any more do not count.
    pub fn valid_until(&self, cluster: &Cluster) -> Option<OffsetDateTime> {
        let cas = self.cas().into_iter().map(|(_, pair)| pair);
        let leaves = cluster.control_planes().filter_map(|node| self.leaves.get(&node.name)).flatten();
        let all = cas.chain(leaves.map(|(_, pair)| pair)).chain([&self.admin]);
        all.filter_map(|pair| Some(Seen::of(&pair.cert)?.not_after)).min()
    }

    /// Until when the operator's own certificate is good.
    pub fn admin_until(&self) -> Option<OffsetDateTime> {
        Some(Seen::of(&self.admin.cert)?.not_after)
    }

    /// Whether this is the certificate of our cluster CA: PEM, or the base64 of PEM that kubeconfigs have.
    pub fn is_our_ca(&self, pem_or_base64: &str) -> bool {
        is_same_certificate(pem_or_base64, &self.ca.cert)
    }

    /// What machines that join by a token find the API by: kubeadm keeps it in the cluster, for everybody to read.
    pub fn cluster_info(&self, server: &str) -> String {
        kubeconfig::cluster_info(server, &self.ca.cert)
    }

    /// The kubelet's own kubeconfig on a machine that has its client certificate. It holds no secret.
    pub fn kubelet_kubeconfig(&self, server: &str) -> String {
        kubeconfig::kubelet(server, &self.ca.cert)
    }

    /// Why a client certificate of our cluster CA, in the base64 that kubeconfigs have, will not do for this user.
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

    /// Why this certificate, in PEM, is none that lets the kubelet of this node in for good.
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

/// A new pair and why, where the present one will not do.
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
            .because(format!("it is {} here, and a certificate is to be signed with it", now.date()))
            .hint("look at this machine's clock; if it is right, the cluster needs a new CA"));
    }
    let pair = cert::new_leaf(wanted, ca, seen_ca.not_after, now)?;
    // Else every run would make it again.
    match why_renew(Some(&pair), wanted, &seen_ca, now) {
        None => Ok(Some((pair, why))),
        Some(still) => {
            let what = format!("a new certificate of {} would not do: {still}", wanted.common_name);
            Err(Error::new(Kind::Local, what).hint(format!("look at {}.crt", signer.file())))
        }
    }
}

fn readable_ca(signer: Signer, ca: &Pair) -> Result<Seen> {
    let unreadable = || Error::new(Kind::Local, format!("{}.crt is not a certificate", signer.file()));
    Seen::of(&ca.cert).ok_or_else(unreadable)
}

fn file<'a>(name: &str, end: &str, text: &'a str) -> File<'a> {
    // Modes as kubeadm writes them: client-go `cert.WriteCert`, and `keyutil.WriteKey` for sa.pub as well.
    let mode = if end == "crt" { 0o644 } else { 0o600 };
    File { path: format!("{CERTIFICATES_DIR}/{name}.{end}"), mode, text, secret: end == "key" }
}
