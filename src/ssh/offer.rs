//! The algorithms that are offered to a server: what this program can and ssh_config allows.

use std::borrow::Cow;

use russh::keys::Algorithm;
use russh::{Preferred, cipher, kex};

use super::way::{Allowed, Narrow, allows};
use crate::error::Result;

/// Every processor that runs a cluster has instructions for AES: a third faster than ChaCha20.
const CIPHERS: &[cipher::Name] =
    &[cipher::AES_128_GCM, cipher::AES_256_GCM, cipher::CHACHA20_POLY1305, cipher::AES_256_CTR];
/// As good, but offered only where ssh_config allows none of the others.
const MORE_CIPHERS: &[cipher::Name] = &[cipher::AES_192_CTR, cipher::AES_128_CTR];
const MORE_KEX: &[kex::Name] = &[kex::ECDH_SHA2_NISTP256, kex::ECDH_SHA2_NISTP384, kex::ECDH_SHA2_NISTP521];

/// `known`: the kinds of key that the host is known by. `certificates`: it has an authority that is known.
pub(super) fn preferred(narrow: &Narrow, known: &[Algorithm], certificates: bool) -> Result<Preferred> {
    let host_keys = narrow.host_keys.as_ref();
    let (mut key, mut certified) = (host_key_algorithms(known), host_key_algorithms(known));
    key.retain(|one| allows(host_keys, one.as_str()));
    certified.retain(|one| certificates && allows(host_keys, &one.to_certificate_type()));
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
    let is_known = |one: &Algorithm| {
        known.iter().any(|known| {
            known == one || matches!((known, one), (Algorithm::Rsa { .. }, Algorithm::Rsa { .. }))
        })
    };
    let mut all = Preferred::DEFAULT.key.into_owned();
    all.retain(|one| *one != Algorithm::Rsa { hash: None });
    all.sort_by_key(|one| !is_known(one));
    all
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
