//! Wrong certificates that the cluster's CA signs: for other names, or with a short validity.

use std::fs;
use std::path::Path;

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use time::{Duration, OffsetDateTime};

use crate::world::World;

/// A certificate that the cluster's CA signed, and its key.
pub struct Made {
    pub cert: String,
    pub key: String,
}

/// Signs a certificate with this common name, this group unless it is empty, and these host names. It expires after `days`.
pub fn make(world: &World, subject: (&str, &str), names: &[&str], days: i64) -> Made {
    make_in(world, "ca", subject, "", names, days)
}

/// Replaces the kubelet's client certificate on this node. `ca` signs the new one, with this organizational unit unless it is
/// empty.
pub fn kubelets(world: &World, node: &str, ca: &str, unit: &str, days: i64) {
    let made = make_in(world, ca, (&format!("system:node:{node}"), "system:nodes"), unit, &[], days);
    let current = "/var/lib/kubelet/pki/kubelet-client-current.pem";
    let file = world.lab.ssh(node, &format!("readlink -f {current}"));
    fs::write(world.lab.disk(node, file.trim()), made.cert + &made.key).unwrap();
}

fn make_in(
    world: &World,
    ca: &str,
    (name, group): (&str, &str),
    unit: &str,
    names: &[&str],
    days: i64,
) -> Made {
    let pki = world.dir.join("demo.trust");
    let read = |file: &str| fs::read_to_string(pki.join(file)).unwrap();
    let issuer = Issuer::from_ca_cert_pem(
        &read(&format!("{ca}.crt")),
        KeyPair::from_pem(&read(&format!("{ca}.key"))).unwrap(),
    )
    .unwrap();
    let mut params =
        CertificateParams::new(names.iter().map(|name| name.to_string()).collect::<Vec<_>>()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    if !group.is_empty() {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    if !unit.is_empty() {
        params.distinguished_name.push(DnType::OrganizationalUnitName, unit);
    }
    let now = OffsetDateTime::now_utc();
    (params.not_before, params.not_after) = (now - Duration::days(2), now + Duration::days(days));
    params.extended_key_usages = match names.is_empty() {
        true => vec![ExtendedKeyUsagePurpose::ClientAuth],
        false => vec![ExtendedKeyUsagePurpose::ServerAuth],
    };
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let cert = params.signed_by(&key, &issuer).unwrap();
    Made { cert: cert.pem(), key: key.serialize_pem() }
}

/// Replaces a control plane's certificate in the operator's folder.
pub fn keep(world: &World, leaf: &str, made: &Made) {
    let folder = world.dir.join("demo.trust/nodes/m1");
    for (end, text) in [("crt", &made.cert), ("key", &made.key)] {
        let file = folder.join(format!("{leaf}.{end}"));
        assert!(file.exists(), "{} is not a leaf certificate", file.display());
        fs::write(file, text).unwrap();
    }
}

/// Replaces the content of a file on m1. The file keeps its mode.
pub fn lay(world: &World, path: &str, text: &str) {
    let file = world.lab.disk("m1", path);
    assert!(Path::new(&file).exists(), "{path} is not a file on m1");
    fs::write(file, text).unwrap();
}
