//! Turns a cluster PKI into the files of the PKI directory and back, and checks that they are right. `store`
//! reads and writes these files.

use std::collections::BTreeMap;

use crate::error::{Error, Kind, Result};
use crate::pki::leaf::{LEAVES, Signer};
use crate::pki::read::{Seen, spki_of_key, spki_of_public};
use crate::pki::{ClusterPki, Leaves, Pair};
use crate::secret::SecretText;

/// A file of the PKI directory that ironstrap no longer keeps: the join token of releases that had one.
/// ironstrap ignores it, and removes it when it saves the cluster PKI.
pub const RETIRED: &str = "token";

/// A file of the PKI directory.
pub struct Kept<'a> {
    /// The path below the PKI directory.
    pub path: String,
    pub text: &'a str,
    pub secret: bool,
    /// Whether the cluster is built on the file. Then it never changes.
    pub fixed: bool,
}

impl ClusterPki {
    /// All files of the cluster PKI in the PKI directory, each key before its certificate.
    pub fn kept(&self) -> Vec<Kept<'_>> {
        let mut kept = vec![];
        for (ca, pair) in self.cas() {
            keep_pair(&mut kept, ca.file(), pair, true);
        }
        keep(&mut kept, "sa.key", self.sa_key.reveal(), true);
        keep(&mut kept, "sa.pub", &self.sa_pub, true);
        keep_pair(&mut kept, "admin", &self.admin, false);
        for (node, leaves) in &self.leaves {
            for (path, pair) in leaves {
                keep_pair(&mut kept, &leaf_file(node, path), pair, false);
            }
        }
        kept
    }

    /// Reads back the cluster PKI that `kept` wrote down, with the leaf certificates of these nodes. `read`
    /// answers a path with its text, or with `None` if there is no such file.
    ///
    /// Fails if a CA or the service account keys are missing or unusable, and names the file. `complete`
    /// replaces a leaf certificate that is missing or broken.
    pub fn from_kept(
        nodes: &[String],
        mut read: impl FnMut(&str) -> Result<Option<String>>,
    ) -> Result<ClusterPki> {
        let ca = read_ca(&mut read, Signer::Cluster)?;
        let front_proxy_ca = read_ca(&mut read, Signer::FrontProxy)?;
        let etcd_ca = read_ca(&mut read, Signer::Etcd)?;
        let sa_key = SecretText::new(must(&mut read, "sa.key")?);
        let sa_pub = must(&mut read, "sa.pub")?;
        check_sa(sa_key.reveal(), &sa_pub)?;
        let admin = read_pair(&mut read, "admin")?;
        let mut leaves = BTreeMap::new();
        for node in nodes {
            let mut of_node = Leaves::new();
            for leaf in &LEAVES {
                of_node.insert(leaf.path, read_pair(&mut read, &leaf_file(node, leaf.path))?);
            }
            of_node.retain(|_, pair| *pair != Pair::default());
            leaves.insert(node.clone(), of_node);
        }
        leaves.retain(|_, of_node: &mut Leaves| !of_node.is_empty());
        Ok(ClusterPki { ca, front_proxy_ca, etcd_ca, sa_key, sa_pub, leaves, admin })
    }
}

/// The path of a leaf certificate, as in `nodes/m1/etcd-server`. The folder of a node has no folders of its own.
fn leaf_file(node: &str, path: &str) -> String {
    format!("nodes/{node}/{}", path.replace('/', "-"))
}

fn keep_pair<'a>(kept: &mut Vec<Kept<'a>>, name: &str, pair: &'a Pair, fixed: bool) {
    for (end, text) in [("key", pair.key.reveal()), ("crt", pair.cert.as_str())] {
        if !text.is_empty() {
            keep(kept, &format!("{name}.{end}"), text, fixed);
        }
    }
}

fn keep<'a>(kept: &mut Vec<Kept<'a>>, path: &str, text: &'a str, fixed: bool) {
    kept.push(Kept { path: path.into(), text, secret: path.ends_with(".key"), fixed });
}

fn read_ca(read: &mut impl FnMut(&str) -> Result<Option<String>>, ca: Signer) -> Result<Pair> {
    let (crt, key) = (format!("{}.crt", ca.file()), format!("{}.key", ca.file()));
    let pair = Pair { cert: must(read, &crt)?, key: SecretText::new(must(read, &key)?) };
    let seen = Seen::of(&pair.cert).ok_or_else(|| unusable(format!("{crt} is not a certificate")))?;
    if !seen.is_ca {
        return Err(unusable(format!("{crt} is not a CA certificate")));
    }
    match spki_of_key(pair.key.reveal()) {
        None => Err(unusable(format!("{key} is not a private key in PKCS#8"))),
        Some(spki) if spki != seen.spki => Err(unusable(format!("{key} does not belong to {crt}"))),
        Some(_) => Ok(pair),
    }
}

fn check_sa(key: &str, public: &str) -> Result<()> {
    let of_key = spki_of_key(key).ok_or_else(|| unusable("sa.key is not a private key in PKCS#8"))?;
    let public = spki_of_public(public).ok_or_else(|| unusable("sa.pub is not a public key"))?;
    if of_key == public { Ok(()) } else { Err(unusable("sa.key does not belong to sa.pub")) }
}

fn must(read: &mut impl FnMut(&str) -> Result<Option<String>>, path: &str) -> Result<String> {
    read(path)?.ok_or_else(|| unusable(format!("{path} is missing")))
}

fn read_pair(read: &mut impl FnMut(&str) -> Result<Option<String>>, name: &str) -> Result<Pair> {
    let key = SecretText::new(read(&format!("{name}.key"))?.unwrap_or_default());
    Ok(Pair { cert: read(&format!("{name}.crt"))?.unwrap_or_default(), key })
}

fn unusable(what: impl Into<String>) -> Error {
    Error::new(Kind::Local, what)
        .hint("restore the file from a backup; the cluster depends on it, and a new one would not match")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::tests::{NOW, cluster, completed, pki};

    fn kept(pki: &ClusterPki) -> BTreeMap<String, String> {
        pki.kept().into_iter().map(|file| (file.path, file.text.to_string())).collect()
    }

    fn from_kept(files: &BTreeMap<String, String>) -> Result<ClusterPki> {
        ClusterPki::from_kept(&["m1".into(), "m2".into()], |path| Ok(files.get(path).cloned()))
    }

    #[test]
    fn a_cluster_pki_is_read_back_unchanged() {
        let pki = pki();
        assert!(from_kept(&kept(&pki)).unwrap() == pki);
        for file in pki.kept() {
            let secret = file.text.contains("PRIVATE KEY");
            assert_eq!(file.secret, secret, "{}", file.path);
        }
    }

    #[test]
    fn missing_and_mismatched_ca_files_are_refused() {
        let (pki, other) = (pki(), pki());
        let (files, other) = (kept(&pki), kept(&other));
        let with = |path: &str, text: Option<&String>| {
            let mut files = files.clone();
            files.remove(path);
            files.extend(text.map(|text| (path.to_string(), text.clone())));
            let error = from_kept(&files).unwrap_err();
            assert!(error.kind == Kind::Local && error.hint.is_some());
            error.what
        };
        for path in ["ca.crt", "ca.key", "front-proxy-ca.key", "etcd-ca.crt", "sa.key", "sa.pub"] {
            assert_eq!(with(path, None), format!("{path} is missing"));
        }
        assert_eq!(
            with("etcd-ca.key", other.get("etcd-ca.key")),
            "etcd-ca.key does not belong to etcd-ca.crt"
        );
        assert_eq!(with("ca.key", files.get("ca.crt")), "ca.key is not a private key in PKCS#8");
        assert_eq!(with("ca.crt", files.get("ca.key")), "ca.crt is not a certificate");
        assert_eq!(with("ca.crt", files.get("admin.crt")), "ca.crt is not a CA certificate");
        assert_eq!(with("sa.pub", other.get("sa.pub")), "sa.key does not belong to sa.pub");
        assert_eq!(with("sa.pub", files.get("sa.key")), "sa.pub is not a public key");
    }

    #[test]
    fn lost_leaves_are_made_again() {
        let mut files = kept(&pki());
        files.retain(|path, _| {
            path != "admin.crt" && path != "nodes/m1/etcd-peer.key" && !path.contains("m2")
        });
        let mut pki = from_kept(&files).unwrap();
        let made = completed(&mut pki, &cluster(), NOW);
        assert_eq!(made[0], "m1: etcd/peer, because its key is missing");
        assert_eq!(made[8], "admin, because its certificate is missing");
        assert_eq!(made.len(), 9);
    }
}
