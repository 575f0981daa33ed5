//! A client certificate that one fix needs on one machine. It is short-lived. ironstrap signs it when it sends the fix, and keeps
//! it nowhere on the operator's side. Certificates for people are in `issue`. Those that the cluster PKI keeps are in `leaf`.

use time::{Duration, OffsetDateTime};

use super::cert::{self, Pair, TEMPORARY, Wanted};
use super::leaf::{self, Signer};
use super::{ClusterPki, readable_ca};
use crate::cluster::Cluster;
use crate::error::{Error, Kind, Result};

/// The client certificate with which a fix logs in to the API server, before it is signed.
#[derive(Clone, Debug, PartialEq)]
pub struct Credential {
    pub user: String,
    pub group: String,
    /// The certificate's organizational unit, which distinguishes it from others of the same user.
    pub unit: Option<&'static str>,
    /// The API server that its kubeconfig leads to: `https://HOST:PORT`.
    pub server: String,
    /// The validity of the certificate, to which `sign` adds how long the run waits for others.
    pub lasts: Duration,
    /// The longest validity, with that waiting time included.
    pub at_most: Duration,
}

/// A signed credential. No output shows its private key.
pub struct Signed {
    /// The kubeconfig of the credential. It holds the private key.
    pub kubeconfig: String,
    pub pair: Pair,
}

impl Credential {
    /// The credential of a joining machine: the identity of its own Node. The node authorizer and
    /// `NodeRestriction` limit it to that Node. With it, the controller manager approves no certificate for
    /// another name (`selfnodeclient`, Kubernetes' `sarapprove.go`). `limit` is how long the join itself may take.
    pub fn of_node(node: &str, cluster: &Cluster, limit: Duration) -> Credential {
        Credential {
            user: format!("system:node:{node}"),
            group: "system:nodes".into(),
            unit: Some(TEMPORARY),
            server: format!("https://{}", cluster.endpoint),
            lasts: limit,
            at_most: Duration::hours(1),
        }
    }

    /// The credential for the repair of the administrator's own rights. Its group is one for which the API
    /// server does not ask RBAC.
    pub fn of_masters(server: String) -> Credential {
        let lasts = Duration::minutes(10);
        Credential {
            user: "ironstrap".into(),
            group: "system:masters".into(),
            unit: None,
            server,
            lasts,
            at_most: lasts,
        }
    }
}

impl ClusterPki {
    /// Signs a credential. `patience` is how long a fix waits for others.
    pub fn sign(
        &self,
        credential: &Credential,
        cluster: &Cluster,
        patience: Duration,
        now: OffsetDateTime,
    ) -> Result<Signed> {
        let ca = readable_ca(Signer::Cluster, &self.ca)?;
        let lasts = credential.lasts.saturating_add(patience).min(credential.at_most);
        let until = (now + lasts).min(ca.not_after);
        if until <= now {
            return Err(Error::new(Kind::Local, format!("ca.crt expired {}", ca.not_after.date()))
                .hint("check this machine's clock; if it is right, the cluster needs a new CA"));
        }
        let wanted = Wanted {
            unit: credential.unit.map(String::from),
            ..leaf::user(&credential.user, Some(&credential.group))
        };
        let pair = cert::new_leaf_until(&wanted, &self.ca, now, until)?;
        let context = format!("{}@{}", credential.user, cluster.name);
        let entry = self.entry(cluster, &credential.server, (&credential.user, &context), &pair);
        let kubeconfig = entry.file("Made by ironstrap for one fix.");
        Ok(Signed { kubeconfig, pair })
    }
}

#[cfg(test)]
mod tests {
    use x509_parser::pem::parse_x509_pem;

    use super::*;
    use crate::pki::read::{Seen, spki_of_key};
    use crate::pki::tests::{NOW, cluster, pki};

    const LIMIT: Duration = Duration::minutes(15);

    fn signed(credential: &Credential, patience: Duration) -> (ClusterPki, Signed, Seen) {
        let pki = pki();
        let signed = pki.sign(credential, &cluster(), patience, NOW).unwrap();
        let seen = Seen::of(&signed.pair.cert).unwrap();
        (pki, signed, seen)
    }

    #[test]
    fn a_join_credential_is_for_its_own_node_only() {
        let joins = Credential::of_node("w1", &cluster(), LIMIT);
        let (pki, signed, seen) = signed(&joins, Duration::minutes(5));
        assert_eq!(seen.says.common_name, "system:node:w1");
        let (_, pem) = parse_x509_pem(signed.pair.cert.as_bytes()).unwrap();
        let cert = pem.parse_x509().unwrap();
        let groups: Vec<&str> = cert.subject().iter_organization().map(|o| o.as_str().unwrap()).collect();
        assert_eq!(groups, ["system:nodes"]);
        assert_eq!(seen.says.unit.as_deref(), Some(TEMPORARY));
        assert!(seen.says.client && !seen.says.server && !seen.is_ca);
        assert!(seen.is_signed_by(&Seen::of(&pki.ca.cert).unwrap()));
        assert_eq!(spki_of_key(signed.pair.key.reveal()), Some(seen.spki));
    }

    #[test]
    fn a_credential_lasts_at_most_an_hour() {
        let joins = Credential::of_node("w1", &cluster(), LIMIT);
        for (patience, lasts) in [
            (Duration::minutes(5), Duration::minutes(20)),
            (Duration::hours(9), Duration::hours(1)),
            (Duration::MAX, Duration::hours(1)),
        ] {
            let (_, _, seen) = signed(&joins, patience);
            assert_eq!((seen.not_before, seen.not_after), (NOW - Duration::minutes(5), NOW + lasts));
        }
        let masters = Credential::of_masters("https://10.0.0.11:6443".into());
        let (_, _, seen) = signed(&masters, Duration::hours(9));
        assert_eq!(seen.not_after, NOW + Duration::minutes(10));
    }

    #[test]
    fn a_credential_does_not_outlive_the_ca() {
        let (pki, joins) = (pki(), Credential::of_node("w1", &cluster(), LIMIT));
        let ca = Seen::of(&pki.ca.cert).unwrap();
        let late = ca.not_after - Duration::minutes(1);
        let signed = pki.sign(&joins, &cluster(), Duration::ZERO, late).unwrap();
        assert_eq!(Seen::of(&signed.pair.cert).unwrap().not_after, ca.not_after);
        let error = pki.sign(&joins, &cluster(), Duration::ZERO, ca.not_after).err().unwrap();
        assert_eq!(error.kind, Kind::Local);
    }

    #[test]
    fn the_kubeconfig_of_a_credential_is_complete() {
        let mut cluster = cluster();
        cluster.endpoint.host = "fd00::1".into();
        let pki = pki();
        let joins = Credential::of_node("w1", &cluster, LIMIT);
        let signed = pki.sign(&joins, &cluster, Duration::ZERO, NOW).unwrap();
        let found: serde_json::Value = crate::yaml::read(&signed.kubeconfig).unwrap();
        let entry = &found["clusters"][0]["cluster"];
        assert_eq!(entry["server"], "https://[fd00::1]:6443");
        assert!(pki.is_our_ca(entry["certificate-authority-data"].as_str().unwrap()));
        assert_eq!(found["contexts"][0]["context"]["user"], "system:node:w1");
        assert_eq!(found["current-context"], found["contexts"][0]["name"]);
        let user = &found["users"][0]["user"];
        assert!(user["client-certificate-data"].is_string() && user["client-key-data"].is_string());
        assert!(!signed.kubeconfig.contains("token"));
    }
}
