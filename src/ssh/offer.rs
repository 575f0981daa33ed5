//! The algorithms that are offered to a server: what this program can and ssh_config allows.

use std::borrow::Cow;

use russh::keys::Algorithm;
use russh::{Preferred, cipher, kex};

use super::way::{Allowed, Narrow, Way, allows};
use crate::error::Result;
use crate::known_hosts::KnownHosts;

/// Every processor that runs a cluster has instructions for AES: a third faster than ChaCha20.
const CIPHERS: &[cipher::Name] =
    &[cipher::AES_128_GCM, cipher::AES_256_GCM, cipher::CHACHA20_POLY1305, cipher::AES_256_CTR];
/// As good, but offered only where ssh_config allows none of the others.
const MORE_CIPHERS: &[cipher::Name] = &[cipher::AES_192_CTR, cipher::AES_128_CTR];
const MORE_KEX: &[kex::Name] = &[kex::ECDH_SHA2_NISTP256, kex::ECDH_SHA2_NISTP384, kex::ECDH_SHA2_NISTP521];

/// Which certificates of the host are asked for.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Certificates {
    None,
    /// Those for the kinds of key that the host is known by; all, where it is not known.
    OfKnown,
    All,
}

impl Certificates {
    /// Where the inventory pins a key, the key alone counts. Where a key is revoked, the certificate shows who signed it.
    pub fn of(way: &Way, known: &KnownHosts) -> Certificates {
        let (host, port) = way.looked_up();
        match (way.pinned.is_some(), known.has_authority(host, port), known.has_revoked(host, port)) {
            (true, ..) => Certificates::None,
            (_, true, _) => Certificates::All,
            (.., true) => Certificates::OfKnown,
            _ => Certificates::None,
        }
    }
}

/// `known`: the kinds of key that the host is known by.
pub(super) fn preferred(narrow: &Narrow, known: &[Algorithm], wanted: Certificates) -> Result<Preferred> {
    let host_keys = narrow.host_keys.as_ref();
    let (mut key, mut certified) = (host_key_algorithms(known), host_key_algorithms(known));
    key.retain(|one| allows(host_keys, one.as_str()));
    certified.retain(|one| {
        let asked = match wanted {
            Certificates::None => false,
            Certificates::OfKnown => known.is_empty() || is_among(known, one),
            Certificates::All => true,
        };
        asked && allows(host_keys, &one.to_certificate_type())
    });
    if let Some(list) = host_keys.filter(|_| key.is_empty() && certified.is_empty()) {
        return Err(list.leaves_nothing());
    }
    Ok(Preferred {
        key: Cow::Owned(key),
        host_key_certificates: Cow::Owned(certified),
        kex: some(narrow.kex.as_ref(), &Preferred::DEFAULT.kex, MORE_KEX)?,
        cipher: some(narrow.ciphers.as_ref(), CIPHERS, MORE_CIPHERS)?,
        mac: some(narrow.macs.as_ref(), &Preferred::DEFAULT.mac, &[])?,
        ..Preferred::DEFAULT
    })
}

/// Those of `usual` that are allowed, or those of `more` where none is.
fn some<N: AsRef<str> + Clone + 'static>(
    list: Option<&Allowed>,
    usual: &[N],
    more: &[N],
) -> Result<Cow<'static, [N]>>
where
    [N]: ToOwned<Owned = Vec<N>>,
{
    // What both sides can besides stands in the same list, and is no way to exchange keys.
    let extends =
        |name: &&N| ["ext-info-", "kex-strict-"].iter().any(|start| name.as_ref().starts_with(start));
    let allowed = |names: &[N]| -> Vec<N> {
        names.iter().filter(|name| !extends(name) && allows(list, name.as_ref())).cloned().collect()
    };
    let mut names = allowed(usual);
    if names.is_empty() {
        names = allowed(more);
    }
    match list.filter(|_| names.is_empty()) {
        Some(list) => Err(list.leaves_nothing()),
        None => {
            names.extend(usual.iter().filter(extends).cloned());
            Ok(Cow::Owned(names))
        }
    }
}

/// All that russh can, those of known keys first, without RSA over SHA-1.
fn host_key_algorithms(known: &[Algorithm]) -> Vec<Algorithm> {
    let mut all = Preferred::DEFAULT.key.into_owned();
    all.retain(|one| *one != Algorithm::Rsa { hash: None });
    all.sort_by_key(|one| !is_among(known, one));
    all
}

/// RSA is one kind, whatever it is signed with.
fn is_among(known: &[Algorithm], one: &Algorithm) -> bool {
    known
        .iter()
        .any(|known| known == one || matches!((known, one), (Algorithm::Rsa { .. }, Algorithm::Rsa { .. })))
}

#[cfg(test)]
mod tests {
    use russh::keys::HashAlg;

    use super::*;

    #[test]
    fn the_kinds_of_key_that_are_known_come_first_and_sha1_never() {
        let rsa = |hash| Algorithm::Rsa { hash: Some(hash) };
        let all = host_key_algorithms(&[Algorithm::Rsa { hash: None }]);
        assert_eq!(all[..3], [rsa(HashAlg::Sha512), rsa(HashAlg::Sha256), Algorithm::Ed25519]);
        assert!(!all.contains(&Algorithm::Rsa { hash: None }));
        assert_eq!(host_key_algorithms(&[])[0], Algorithm::Ed25519);
    }
}
