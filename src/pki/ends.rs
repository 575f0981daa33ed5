//! The expiry of the CAs, which nothing can postpone. This module tells people in time what they must know about it.

use time::{Duration, OffsetDateTime};

use super::ClusterPki;
use super::cert::Pair;
use super::leaf::Signer;
use super::read::Seen;
use crate::error::count;

/// How long before its expiry ironstrap reports a CA.
const TELL_CA_BEFORE: Duration = Duration::days(365);

/// A duration in whole days, as in `1 day` and `2 days`.
pub fn days(time: Duration) -> String {
    count(usize::try_from(time.whole_days()).unwrap_or_default(), "day")
}

impl ClusterPki {
    /// The warning about CAs that expire within a year. ironstrap cannot rotate a CA yet. `None`: no CA expires that soon.
    pub fn ca_warning(&self, now: OffsetDateTime) -> Option<String> {
        let ends = |(signer, pair): (Signer, &Pair)| Some((Seen::of(&pair.cert)?.not_after, signer));
        let ending: Vec<(OffsetDateTime, Signer)> = self.cas().into_iter().filter_map(ends).collect();
        let (first, _) = *ending.iter().min_by_key(|(end, _)| *end)?;
        if first > now + TELL_CA_BEFORE {
            return None;
        }
        let together = ending.iter().filter(|(end, _)| end.date() == first.date());
        let files: Vec<String> = together.map(|(_, signer)| format!("{}.crt", signer.file())).collect();
        let when = match first > now {
            true => format!("expires {}, in {}", first.date(), days(first - now)),
            false => format!("expired {}", first.date()),
        };
        Some(format!(
            "the cluster's CA {when} ({}): after that date, the components do not trust each other; ironstrap cannot \
             replace a CA yet: follow \"Manual Rotation of CA Certificates\" in the Kubernetes documentation, or move to \
             a new cluster before that day",
            files.join(", ")
        ))
    }

    /// Whether the operator's own certificate expires with the cluster CA, so that nothing can renew it.
    pub fn admin_ends_with_the_ca(&self) -> bool {
        let ends = |pair: &Pair| Some(Seen::of(&pair.cert)?.not_after);
        ends(&self.admin).is_some() && ends(&self.admin) >= ends(&self.ca)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use time::macros::datetime;

    use super::*;
    use crate::pki::cert;
    use crate::pki::tests::{NOW, cluster, completed, pki};

    /// When the CAs of `pki()` expire.
    const CA_ENDS: OffsetDateTime = datetime!(2036-11-18 12:00 UTC);

    #[test]
    fn no_leaf_outlives_its_ca() {
        let (mut pki, cluster) = (pki(), cluster());
        for days in [364, 61, 60, 30, 1] {
            let now = CA_ENDS - Duration::days(days);
            pki.complete(&cluster, now).unwrap();
            let leaves = pki.leaves.values().flat_map(BTreeMap::values).chain([&pki.admin]);
            for pair in leaves {
                assert_eq!(Seen::of(&pair.cert).unwrap().not_after, CA_ENDS, "{days} days before");
            }
            assert_eq!(pki.complete(&cluster, now).unwrap(), Vec::<String>::new(), "{days} days before");
        }
        assert!(pki.admin_ends_with_the_ca());
        // On the day itself, ironstrap can no longer make any certificate.
        assert!(pki.complete(&cluster, CA_ENDS).unwrap_err().what.contains("ca.crt is valid from"));
    }

    #[test]
    fn a_leaf_ends_no_later_than_its_own_ca() {
        let (mut pki, cluster) = (pki(), cluster());
        pki.etcd_ca = cert::new_ca("etcd-ca", NOW - Duration::days(3400)).unwrap();
        completed(&mut pki, &cluster, NOW);
        let ends = |path: &str| Seen::of(&pki.leaves["m1"][path].cert).unwrap().not_after;
        assert_eq!(ends("etcd/server"), NOW + Duration::days(250));
        assert_eq!(ends("apiserver"), NOW + Duration::days(365));
        assert!(!pki.admin_ends_with_the_ca());
    }

    #[test]
    fn an_expiring_ca_is_reported_a_year_before() {
        let mut pki = pki();
        assert_eq!(pki.ca_warning(CA_ENDS - Duration::days(365) - Duration::SECOND), None);
        let said = pki.ca_warning(CA_ENDS - Duration::days(365)).unwrap();
        assert!(
            said.starts_with(
                "the cluster's CA expires 2036-11-18, in 365 days (ca.crt, front-proxy-ca.crt, etcd-ca.crt): "
            ),
            "{said}"
        );
        assert!(said.contains("ironstrap cannot replace a CA yet"), "{said}");
        assert!(pki.ca_warning(CA_ENDS).unwrap().starts_with("the cluster's CA expired 2036-11-18 ("));
        pki.front_proxy_ca = cert::new_ca("front-proxy-ca", NOW - Duration::days(3400)).unwrap();
        let said = pki.ca_warning(NOW).unwrap();
        assert!(
            said.starts_with("the cluster's CA expires 2027-07-29, in 250 days (front-proxy-ca.crt): "),
            "{said}"
        );
    }
}
