//! The algorithms that ironstrap offers to a server: those that it supports and ssh_config allows.

use std::borrow::Cow;

use russh::keys::Algorithm;
use russh::{Preferred, cipher, kex};

use super::route::{Allowed, Narrow, Route, allows};
use crate::error::Result;
use crate::known_hosts::KnownHosts;

/// Ciphers in order of preference. Every processor that runs a cluster has AES instructions. With them, AES is a
/// third faster than ChaCha20.
const CIPHERS: &[cipher::Name] =
    &[cipher::AES_128_GCM, cipher::AES_256_GCM, cipher::CHACHA20_POLY1305, cipher::AES_256_CTR];
/// Ciphers that are as good. ironstrap offers them only where ssh_config allows none of `CIPHERS`.
const MORE_CIPHERS: &[cipher::Name] = &[cipher::AES_192_CTR, cipher::AES_128_CTR];
const MORE_KEX: &[kex::Name] = &[kex::ECDH_SHA2_NISTP256, kex::ECDH_SHA2_NISTP384, kex::ECDH_SHA2_NISTP521];

/// The host certificates that ironstrap asks for.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Certificates {
    None,
    /// Certificates for the kinds of key by which the host is known, or all if the host is unknown.
    OfKnown,
    All,
}

impl Certificates {
    /// Chooses the certificates for a host. If the inventory pins a key, only that key counts. If a key is revoked,
    /// the certificate shows the key that signed it.
    pub fn of(route: &Route, known: &KnownHosts) -> Certificates {
        let (host, port) = route.looked_up();
        match (route.pinned.is_some(), known.has_authority(host, port), known.has_revoked(host, port)) {
            (true, ..) => Certificates::None,
            (_, true, _) => Certificates::All,
            (.., true) => Certificates::OfKnown,
            _ => Certificates::None,
        }
    }
}

/// Returns the algorithms to offer. `known`: the kinds of key by which the host is known.
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

/// Returns the allowed names of `usual`, or those of `more` if none of `usual` is allowed.
fn some<N: AsRef<str> + Clone + 'static>(
    list: Option<&Allowed>,
    usual: &[N],
    more: &[N],
) -> Result<Cow<'static, [N]>>
where
    [N]: ToOwned<Owned = Vec<N>>,
{
    // The same list also names protocol extensions. They are not key exchange methods.
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

/// Returns all host key algorithms of russh, without RSA over SHA-1. Those of known keys come first.
fn host_key_algorithms(known: &[Algorithm]) -> Vec<Algorithm> {
    let mut all = Preferred::DEFAULT.key.into_owned();
    all.retain(|one| *one != Algorithm::Rsa { hash: None });
    all.sort_by_key(|one| !is_among(known, one));
    all
}

/// Whether `known` has this kind of key. RSA is one kind, with any hash.
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
    fn known_key_types_come_first_and_sha1_never() {
        let rsa = |hash| Algorithm::Rsa { hash: Some(hash) };
        let all = host_key_algorithms(&[Algorithm::Rsa { hash: None }]);
        assert_eq!(all[..3], [rsa(HashAlg::Sha512), rsa(HashAlg::Sha256), Algorithm::Ed25519]);
        assert!(!all.contains(&Algorithm::Rsa { hash: None }));
        assert_eq!(host_key_algorithms(&[])[0], Algorithm::Ed25519);
    }
}
