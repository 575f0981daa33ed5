//! How a run recognizes the lease of an earlier run that was started from the same PKI directory on the same computer.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::machine::Lease;

/// The identity that all runs of one PKI directory on one computer share. The lock of that directory admits one run at a time.
/// So a run that holds the lock and finds the lease of a kin run on a machine knows that the other run is dead.
#[derive(Clone, Default)]
pub struct Kin {
    /// Kept in the PKI directory. It never leaves the operator's side.
    secret: String,
    /// The lock file and the kernel that guards it. A copy of the directory has the same secret and another lock, which
    /// says nothing about runs of the original.
    place: String,
}

impl fmt::Debug for Kin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kin").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Kin {
    pub fn new(secret: impl Into<String>, place: impl Into<String>) -> Kin {
        Kin { secret: secret.into(), place: place.into() }
    }

    /// The proof that a lease of this run carries. Only a holder of the secret can make it, and it does not show the secret.
    /// `None` without a secret.
    pub fn proof(&self, run: &str) -> Option<String> {
        let mac =
            Hmac::<Sha256>::new_from_slice(self.secret.as_bytes()).ok().filter(|_| !self.secret.is_empty());
        let proof = mac?.chain_update(format!("{run}\n{}", self.place)).finalize().into_bytes();
        Some(proof.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Whether this is the lease of a run from the same directory on the same computer.
    pub fn knows(&self, lease: &Lease) -> bool {
        self.proof(&lease.run).is_some_and(|proof| proof == lease.kin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_runs_with_equal_secret_and_place_are_kin() {
        let ours = Kin::new("5ec2e7", "lock 1");
        let lease = |kin: &Kin, run: &str| Lease {
            run: run.into(),
            kin: kin.proof(run).unwrap_or_default(),
            ..Lease::default()
        };
        assert!(ours.knows(&lease(&Kin::new("5ec2e7", "lock 1"), "1f2e")));
        assert!(!ours.knows(&lease(&Kin::new("5ec2e7", "lock 2"), "1f2e")), "a copy of the directory");
        assert!(!ours.knows(&lease(&Kin::new("another", "lock 1"), "1f2e")));
        let copied = Lease { run: "2222".into(), ..lease(&ours, "1f2e") };
        assert!(!ours.knows(&copied), "the proof belongs to another run");
        assert!(
            !ours.knows(&Lease { run: "1f2e".into(), ..Lease::default() }),
            "a lease of an earlier version"
        );
        let nobody = Kin::default();
        assert!(!nobody.knows(&lease(&nobody, "1f2e")), "runs without a secret are not kin");
    }

    #[test]
    fn a_lease_does_not_show_the_secret() {
        let kin = Kin::new("5ec2e7", "lock 1");
        let proof = kin.proof("1f2e").unwrap();
        assert!(proof.len() == 64 && proof.bytes().all(|byte| byte.is_ascii_hexdigit()), "{proof}");
        assert!(!proof.contains("5ec2e7") && !format!("{kin:?}").contains("5ec2e7"));
    }
}
