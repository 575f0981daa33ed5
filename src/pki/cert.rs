//! Makes keys and certificates as kubeadm would make them, with `rcgen`. `leaf` says which certificates a cluster needs.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use time::{Duration, OffsetDateTime};

use crate::error::{Error, Kind, Result};
use crate::secret::SecretText;

/// How long before now a certificate begins to be valid. So a node whose clock is a little behind accepts it,
/// too (kubeadm `constants.go`, `CertificateBackdate`).
const BACKDATE: Duration = Duration::minutes(5);
/// How long a CA is valid (kubeadm `v1beta4/defaults.go`: 87600h).
const CA_VALID_FOR: Duration = Duration::hours(87600);
/// How long a leaf certificate is valid (kubeadm `v1beta4/defaults.go`: 8760h).
const LEAF_VALID_FOR: Duration = Duration::hours(8760);

/// A certificate and its private key, in PEM. Both are empty if there are none.
#[derive(Clone, Default, PartialEq)]
pub struct Pair {
    pub cert: String,
    /// The key as PKCS#8.
    pub key: SecretText,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").field("cert", &self.cert).finish_non_exhaustive()
    }
}

/// The organizational unit of a temporary certificate, which admits a kubelet to the cluster for a while. A
/// kubelet that starts with it in its kubeconfig keeps it as its first certificate, until the cluster has signed
/// another one (client-go, `getCurrentCertificateOrBootstrap`). The organizational unit tells the two apart.
pub const TEMPORARY: &str = "ironstrap temporary";

/// The contents that a leaf certificate must have.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    pub common_name: String,
    pub organization: Option<String>,
    /// The organizational unit (OU). Kubernetes ignores it.
    pub unit: Option<String>,
    /// Whether a server shows the certificate.
    pub server: bool,
    /// Whether a client shows the certificate.
    pub client: bool,
    pub names: BTreeSet<String>,
    pub addresses: BTreeSet<IpAddr>,
}

/// Makes a self-signed CA. Its name is also its DNS name, as in kubeadm's CAs.
pub fn new_ca(name: &str, now: OffsetDateTime) -> Result<Pair> {
    let mut params = params(name, now, now + CA_VALID_FOR)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages.push(KeyUsagePurpose::KeyCertSign);
    params.subject_alt_names = vec![dns(name)?];
    let key = new_key(name)?;
    let cert = params.self_signed(&key).map_err(|e| unmade(name, e))?;
    Ok(Pair { cert: cert.pem(), key: SecretText::new(key.serialize_pem()) })
}

/// Makes a leaf certificate with a new key, signed by `ca`. `ca_ends` is when the CA expires. The leaf does not outlive it.
pub fn new_leaf(wanted: &Wanted, ca: &Pair, ca_ends: OffsetDateTime, now: OffsetDateTime) -> Result<Pair> {
    new_leaf_until(wanted, ca, now, ca_ends.min(now + LEAF_VALID_FOR))
}

/// Like `new_leaf`, for a certificate that expires at `until`.
pub fn new_leaf_until(
    wanted: &Wanted,
    ca: &Pair,
    now: OffsetDateTime,
    until: OffsetDateTime,
) -> Result<Pair> {
    let name = &wanted.common_name;
    let mut params = params(name, now, until)?;
    if let Some(organization) = &wanted.organization {
        params.distinguished_name.push(DnType::OrganizationName, organization);
    }
    if let Some(unit) = &wanted.unit {
        params.distinguished_name.push(DnType::OrganizationalUnitName, unit);
    }
    // `NoCa` would leave BasicConstraints out, but kubeadm's leaf certificates have it.
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    if wanted.server {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    if wanted.client {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
    }
    let names = wanted.names.iter().map(|name| dns(name)).collect::<Result<Vec<_>>>()?;
    let addresses = wanted.addresses.iter().map(|ip| SanType::IpAddress(*ip));
    params.subject_alt_names = names.into_iter().chain(addresses).collect();

    let signer = KeyPair::from_pem(ca.key.reveal()).map_err(|e| unmade(name, e))?;
    let issuer = Issuer::from_ca_cert_pem(&ca.cert, signer).map_err(|e| unmade(name, e))?;
    let key = new_key(name)?;
    let cert = params.signed_by(&key, &issuer).map_err(|e| unmade(name, e))?;
    Ok(Pair { cert: cert.pem(), key: SecretText::new(key.serialize_pem()) })
}

/// Makes a P-256 key, because kubeadm refuses Ed25519 (`pki_helpers.go`, `TryLoadKeyFromDisk`).
pub fn new_key(what: &str) -> Result<KeyPair> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(|e| unmade(what, e))
}

/// A text of random letters of `alphabet`, each as likely as any other.
pub fn random_text(alphabet: &[u8], length: usize) -> Result<String> {
    // The largest multiple of the alphabet's length that is at most 256. Bytes from there on are dropped,
    // because their remainders would favour the first letters.
    let fair = 256 / alphabet.len() * alphabet.len();
    let mut text = String::with_capacity(length);
    while text.len() < length {
        let bytes = random::<32>()?.into_iter().map(usize::from).filter(|byte| *byte < fair);
        let letters = bytes.map(|byte| char::from(alphabet[byte % alphabet.len()]));
        text.extend(letters.take(length - text.len()));
    }
    Ok(text)
}

/// Random bytes of the system, which are good enough for secrets.
fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|e| Error::new(Kind::Local, "the system provides no random bytes").because(e.to_string()))?;
    Ok(bytes)
}

/// The parameters that all our certificates have in common. `rcgen` has a default for each of them, and none of them fits.
fn params(name: &str, now: OffsetDateTime, until: OffsetDateTime) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = now - BACKDATE;
    params.not_after = until;
    params.serial_number = Some(SerialNumber::from_slice(&serial()?));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    Ok(params)
}

/// A random serial number of 16 bytes. It is positive and does not begin with a zero.
fn serial() -> Result<[u8; 16]> {
    let mut bytes = random::<16>()?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(bytes)
}

fn dns(name: &str) -> Result<SanType> {
    let dns_name = name.try_into().map_err(|_| {
        Error::new(Kind::Inventory, format!("\"{name}\" is not allowed in a certificate"))
            .hint("write the name in ASCII (xn--…), as in DNS")
    })?;
    Ok(SanType::DnsName(dns_name))
}

fn unmade(what: &str, e: rcgen::Error) -> Error {
    Error::new(Kind::Local, format!("cannot create the certificate of {what}")).because(e.to_string())
}
