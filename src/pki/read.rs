//! Reads certificates, and decides whether they must be renewed. `cert` makes certificates.

use std::collections::BTreeSet;
use std::net::IpAddr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rcgen::{KeyPair, PublicKeyData};
use sha2::{Digest, Sha256};
use time::{Duration, OffsetDateTime};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::X509Name;

use crate::pki::cert::{Pair, TEMPORARY, Wanted};

/// ironstrap renews a leaf certificate that expires sooner than this.
pub const RENEW_BEFORE: Duration = Duration::days(60);

/// A certificate that was read.
pub struct Seen {
    der: Vec<u8>,
    /// The public key, as SubjectPublicKeyInfo in DER.
    pub spki: Vec<u8>,
    /// The encoded subject. Go's `x509.Verify` finds the issuer by exactly these bytes of subject and issuer.
    subject: Vec<u8>,
    issuer: Vec<u8>,
    pub is_ca: bool,
    pub not_before: OffsetDateTime,
    pub not_after: OffsetDateTime,
    /// The contents of the certificate, in the type that also states what we want.
    pub says: Wanted,
}

impl Seen {
    /// Reads the first certificate of a PEM text. kubeadm takes further ones for intermediates.
    pub fn of(pem: &str) -> Option<Seen> {
        let der = block(pem, "CERTIFICATE")?;
        let (rest, cert) = X509Certificate::from_der(&der).ok()?;
        if !rest.is_empty() {
            return None;
        }
        Some(Seen {
            spki: cert.public_key().raw.to_vec(),
            subject: cert.subject().as_raw().to_vec(),
            issuer: cert.issuer().as_raw().to_vec(),
            is_ca: cert.is_ca(),
            not_before: cert.validity().not_before.to_datetime(),
            not_after: cert.validity().not_after.to_datetime(),
            says: says(&cert)?,
            der: der.clone(),
        })
    }

    /// Whether this CA signed the certificate: the name and the key of the issuer fit. It does not check when the CA is valid.
    pub fn is_signed_by(&self, ca: &Seen) -> bool {
        let signature_fits = || {
            let (_, cert) = X509Certificate::from_der(&self.der).ok()?;
            let (_, ca) = X509Certificate::from_der(&ca.der).ok()?;
            cert.verify_signature(Some(ca.public_key())).ok()
        };
        self.issuer == ca.subject && signature_fits().is_some()
    }
}

/// The bytes of the first block of a PEM text, if the block is of this kind. Go's reader (`encoding/pem`) reads every
/// block that this function reads, and reads the same from it. Go finds a block by its lines. Other readers also end
/// a block within a line. With such a reader, ironstrap would judge one text and Kubernetes would use another one.
pub(super) fn block(text: &str, kind: &str) -> Option<Vec<u8>> {
    let mut lines = text.lines().skip_while(|line| !line.starts_with("-----BEGIN "));
    let (begin, end) = (format!("-----BEGIN {kind}-----"), format!("-----END {kind}-----"));
    if lines.next()?.trim_end_matches(BLANK) != begin {
        return None;
    }
    let mut body = String::new();
    loop {
        let line = lines.next()?;
        if line.trim_end_matches(BLANK) == end {
            return BASE64_STANDARD.decode(body).ok();
        }
        body += line.trim_matches(BLANK);
    }
}

/// Blanks that may stand at the end of a line.
pub(super) const BLANK: [char; 2] = [' ', '\t'];

/// The public key (SubjectPublicKeyInfo, DER) that belongs to this private key.
pub fn spki_of_key(pem: &str) -> Option<Vec<u8>> {
    Some(KeyPair::from_pem(pem).ok()?.subject_public_key_info())
}

/// The public key (SubjectPublicKeyInfo, DER) in the PEM of a public key.
pub fn spki_of_public(pem: &str) -> Option<Vec<u8>> {
    block(pem, "PUBLIC KEY")
}

/// Turns the base64 of a PEM text, as kubeconfigs have it, into PEM. PEM stays as it is. The result is empty if
/// the text is neither.
pub fn pem_of(pem_or_base64: &str) -> String {
    if pem_or_base64.contains("-----BEGIN") {
        return pem_or_base64.into();
    }
    let packed: String = pem_or_base64.split_whitespace().collect();
    let bytes = BASE64_STANDARD.decode(packed).unwrap_or_default();
    String::from_utf8(bytes).unwrap_or_default()
}

/// The first certificate, in DER, of a text that `pem_of` takes.
pub fn der_of(pem_or_base64: &str) -> Option<Vec<u8>> {
    Seen::of(&pem_of(pem_or_base64)).map(|seen| seen.der)
}

/// When a certificate expires. The text is PEM, or the base64 of PEM that kubeconfigs have. `None`: it is not a certificate.
pub fn expires(pem_or_base64: &str) -> Option<OffsetDateTime> {
    Seen::of(&pem_of(pem_or_base64)).map(|seen| seen.not_after)
}

/// Why a leaf certificate must be renewed, as the end of a sentence. `None`: it need not be renewed.
///
/// kubeadm itself would not notice a key that belongs to another certificate, nor a wrong subject or usage
/// (kubeadm `certlist.go`, `CreateTree`). These mistakes would show up as TLS errors much later.
pub fn why_renew(have: Option<&Pair>, wanted: &Wanted, ca: &Seen, now: OffsetDateTime) -> Option<String> {
    let Some(have) = have.filter(|pair| !pair.cert.is_empty() || !pair.key.is_empty()) else {
        return Some("it is missing".into());
    };
    if have.cert.is_empty() || have.key.is_empty() {
        let half = if have.cert.is_empty() { "certificate" } else { "key" };
        return Some(format!("its {half} is missing"));
    }
    match Seen::of(&have.cert) {
        Some(seen) if spki_of_key(have.key.reveal()).as_ref() != Some(&seen.spki) => {
            Some("its key belongs to another certificate".into())
        }
        seen => why_no_certificate(&have.cert, wanted, ca, now).or_else(|| why_too_much(&seen?.says, wanted)),
    }
}

/// Like `why_renew`, for a certificate whose key is elsewhere.
pub fn why_no_certificate(pem: &str, wanted: &Wanted, ca: &Seen, now: OffsetDateTime) -> Option<String> {
    let Some(seen) = Seen::of(pem) else {
        return Some("its certificate cannot be read".into());
    };
    if !seen.is_signed_by(ca) {
        return Some("another CA signed it".into());
    }
    if seen.not_before > now {
        return Some(format!("it is not valid before {}", seen.not_before.date()));
    }
    if seen.not_after <= now {
        return Some(format!("it expired {}", seen.not_after.date()));
    }
    // A certificate that expires with its CA cannot be renewed, because a new one would expire on the same day.
    if seen.not_after <= now + RENEW_BEFORE && seen.not_after < ca.not_after {
        return Some(format!("it expires {}", seen.not_after.date()));
    }
    why_other(&seen.says, wanted)
}

/// Why this certificate is not one that the kubelet of this node renews by itself. `None`: it is one. The
/// kubelet itself takes care of how long it lasts.
pub fn why_no_kubelet(pem: &str, node: &str, ca: &Seen, now: OffsetDateTime) -> Option<String> {
    let Some(seen) = Seen::of(pem) else { return Some("the certificate cannot be read".into()) };
    let says = &seen.says;
    match () {
        () if !seen.is_signed_by(ca) => Some("another CA signed it".into()),
        () if says.common_name != format!("system:node:{node}") => {
            Some(format!("it is for {}", says.common_name))
        }
        () if seen.not_after <= now => Some(format!("it expired {}", seen.not_after.date())),
        () if says.unit.as_deref() == Some(TEMPORARY) => Some("it is a temporary one".into()),
        () => None,
    }
}

/// A certificate in words, with a line for each thing that people look for. If the text is not a certificate,
/// the result says so and shows the text.
pub fn in_words(pem: &str) -> String {
    let Some(seen) = Seen::of(pem) else { return format!("not a certificate: {}\n", pem.trim_end()) };
    let organization = seen.says.organization.iter().map(|name| format!(" of {name}")).collect::<String>();
    let mut text = format!("{}{organization}\n", seen.says.common_name);
    let addresses = seen.says.addresses.iter().map(IpAddr::to_string);
    for name in seen.says.names.iter().cloned().chain(addresses) {
        text += &format!("valid for {name}\n");
    }
    let dates = format!("valid from {} until {}", seen.not_before.date(), seen.not_after.date());
    let hash: String = Sha256::digest(pem).iter().map(|byte| format!("{byte:02x}")).collect();
    text + &format!("{dates}\nsha256 {hash}\n")
}

/// Why a certificate has names that the inventory no longer has. This judges only our own certificates: those
/// that others made may have more names.
fn why_too_much(says: &Wanted, wanted: &Wanted) -> Option<String> {
    let has = |name: &String| wanted.names.iter().any(|it| it.eq_ignore_ascii_case(name));
    let names = says.names.iter().filter(|name| !has(name)).cloned();
    let addresses = says.addresses.difference(&wanted.addresses).map(IpAddr::to_string);
    let more: Vec<String> = names.chain(addresses).collect();
    if more.is_empty() { None } else { Some(format!("it is still valid for {}", more.join(", "))) }
}

/// Why the contents of a certificate fall short of what we want. `None`: nothing is missing.
fn why_other(says: &Wanted, wanted: &Wanted) -> Option<String> {
    if (&says.common_name, &says.organization) != (&wanted.common_name, &wanted.organization) {
        return Some("its subject differs".into());
    }
    if (says.server, says.client) != (wanted.server, wanted.client) {
        return Some("its key usage differs".into());
    }
    let has = |name: &String| says.names.iter().any(|it| it.eq_ignore_ascii_case(name));
    let names = wanted.names.iter().filter(|name| !has(name)).cloned();
    let addresses = wanted.addresses.difference(&says.addresses).map(IpAddr::to_string);
    let missing: Vec<String> = names.chain(addresses).collect();
    if missing.is_empty() { None } else { Some(format!("it is not valid for {}", missing.join(", "))) }
}

fn says(cert: &X509Certificate<'_>) -> Option<Wanted> {
    let usage = cert.extended_key_usage().ok()?;
    let (names, addresses) = alternative_names(cert)?;
    Some(Wanted {
        common_name: first(cert.subject(), |it| it.iter_common_name().next()?.as_str().ok())
            .unwrap_or_default(),
        organization: first(cert.subject(), |it| it.iter_organization().next()?.as_str().ok()),
        unit: first(cert.subject(), |it| it.iter_organizational_unit().next()?.as_str().ok()),
        server: usage.as_ref().is_some_and(|usage| usage.value.server_auth),
        client: usage.as_ref().is_some_and(|usage| usage.value.client_auth),
        names,
        addresses,
    })
}

fn first<'a>(name: &'a X509Name<'a>, of: fn(&'a X509Name<'a>) -> Option<&'a str>) -> Option<String> {
    of(name).map(str::to_string)
}

fn alternative_names(cert: &X509Certificate<'_>) -> Option<(BTreeSet<String>, BTreeSet<IpAddr>)> {
    let (mut names, mut addresses) = (BTreeSet::new(), BTreeSet::new());
    let Some(extension) = cert.subject_alternative_name().ok()? else { return Some((names, addresses)) };
    for name in &extension.value.general_names {
        match name {
            GeneralName::DNSName(name) => {
                names.insert((*name).to_string());
            }
            GeneralName::IPAddress(bytes) => {
                addresses.insert(address(bytes)?);
            }
            _ => {}
        }
    }
    Some((names, addresses))
}

/// Reads an address as certificates encode it.
pub(super) fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pem_block_is_read_only_if_go_agrees() {
        let pem = pem::encode(&pem::Pem::new("X", vec![7; 60]));
        let pem = pem.replace('\r', "");
        let end = "-----END X-----";
        for text in [
            pem.clone(),
            pem.replace('\n', " \t\r\n"),
            format!("Subject: CN = x\n-----END Y-----\n{pem}{pem}"),
            format!("x -----BEGIN X-----\n{pem}"),
            pem.trim_end().to_string(),
        ] {
            assert_eq!(block(&text, "X"), Some(vec![7; 60]), "{text}");
        }
        for text in [
            "".to_string(),
            pem.replace(" X", " Y"),
            pem.replace(&format!("\n{end}"), &format!("{end}: x\nQQ==\n{end}")),
            pem.replace(&format!("\n{end}"), end),
            pem.replace(end, &format!("{end} x")),
            pem.replacen('\n', "\na: b\n\n", 1),
            pem.replacen('\n', "\n-----BEGIN X-----\n", 1),
            pem.replace(end, "-----END"),
            pem.replace("-----BEGIN", " -----BEGIN"),
        ] {
            assert_eq!(block(&text, "X"), None, "{text}");
        }
    }
}
