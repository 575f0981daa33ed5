//! Reads a file of CA certificates, and keeps the part that may go to machines.

use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The contents of a file of CA certificates.
#[derive(Debug, PartialEq)]
pub struct Bundle {
    /// The certificates alone, in PEM.
    pub text: String,
    /// Warnings about certificates that are not wrong, but that people should know of.
    pub odd: Vec<String>,
}

/// Reads the certificates in a PEM text. The error says what is wrong with the file, as the end of "FILE …".
pub fn certificates(text: &str, now: OffsetDateTime) -> Result<Bundle, String> {
    let begins: Vec<&str> = text.lines().map(str::trim).filter(|l| l.starts_with("-----BEGIN ")).collect();
    if let Some(line) = begins.iter().find(|line| line.contains("PRIVATE KEY")) {
        return Err(format!("holds a private key ({})", line.trim_matches('-')));
    }
    if let Some(line) = begins.iter().find(|line| **line != "-----BEGIN CERTIFICATE-----") {
        return Err(format!("holds something other than certificates ({line})"));
    }
    if begins.is_empty() {
        return Err("holds no certificate (no line -----BEGIN CERTIFICATE-----)".into());
    }
    let blocks = pem::parse_many(text).map_err(|_| "is damaged: not all of it is PEM")?;
    if blocks.len() != begins.len() {
        return Err(format!("is damaged: {} of its {} certificates can be read", blocks.len(), begins.len()));
    }
    let line_ends = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    let (mut text, mut odd) = (String::new(), vec![]);
    for (n, block) in blocks.iter().enumerate() {
        let parsed = X509Certificate::from_der(block.contents()).ok().filter(|(rest, _)| rest.is_empty());
        let Some((_, certificate)) = parsed.filter(|_| block.tag() == "CERTIFICATE") else {
            return Err(format!("is damaged: its certificate {} is invalid", n + 1));
        };
        odd.extend(oddity(&certificate, now).map(|says| format!("certificate {} {says}", n + 1)));
        text += &pem::encode_config(&pem::Pem::new("CERTIFICATE", block.contents()), line_ends);
    }
    Ok(Bundle { text, odd })
}

/// Why machines will trust nothing that this certificate signed.
fn oddity(certificate: &X509Certificate, now: OffsetDateTime) -> Option<String> {
    let (from, until) = (certificate.validity().not_before, certificate.validity().not_after);
    let (from, until) = (from.to_datetime(), until.to_datetime());
    let name: String =
        certificate.subject().to_string().chars().filter(|c| !c.is_control()).take(100).collect();
    if until <= now {
        return Some(format!("({name}) expired {}", until.date()));
    }
    if from > now {
        return Some(format!("({name}) is not valid before {}", from.date()));
    }
    (!certificate.is_ca()).then(|| format!("({name}) is not a CA: it can only verify itself"))
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-21 12:00 UTC);

    struct Made {
        cert: String,
        key: String,
    }

    fn made(is_ca: bool, until: OffsetDateTime) -> Made {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, "mirror");
        params.not_before = datetime!(2020-01-01 0:00 UTC);
        params.not_after = until;
        let ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.is_ca = if is_ca { ca } else { rcgen::IsCa::ExplicitNoCa };
        let cert = params.self_signed(&key).unwrap().pem().replace("\r\n", "\n");
        Made { cert, key: key.serialize_pem() }
    }

    fn ca() -> Made {
        made(true, datetime!(2040-01-01 0:00 UTC))
    }

    #[test]
    fn only_the_certificates_are_kept_and_unchanged() {
        let (one, other) = (ca(), ca());
        let text = format!("# password: hunter2\n{}\nsubject=x\n{}", one.cert, other.cert);
        let bundle = certificates(&text, NOW).unwrap();
        assert_eq!(bundle, Bundle { text: format!("{}{}", one.cert, other.cert), odd: vec![] });
        assert_eq!(certificates(&bundle.text.replace('\n', "\r\n"), NOW).unwrap(), bundle);
    }

    #[test]
    fn a_private_key_is_refused_at_any_position() {
        let Made { cert, key } = ca();
        let kinds = [
            "PRIVATE KEY",
            "RSA PRIVATE KEY",
            "EC PRIVATE KEY",
            "ENCRYPTED PRIVATE KEY",
            "OPENSSH PRIVATE KEY",
        ];
        for kind in kinds {
            let key = key.replace("PRIVATE KEY", kind);
            for text in
                [format!("{cert}{key}"), format!("{key}{cert}"), key.clone(), format!("{cert}  {key}")]
            {
                let said = certificates(&text, NOW).unwrap_err();
                assert!(said.contains("private key") && said.contains(kind), "{said}");
            }
        }
    }

    #[test]
    fn an_invalid_bundle_is_refused_with_a_reason() {
        let Made { cert, .. } = ca();
        for (text, why) in [
            ("", "no certificate"),
            (&cert.replace("CERTIFICATE", "CERTIFICATE REQUEST"), "something other"),
            (&cert.replace("-----END CERTIFICATE-----", ""), "damaged"),
            (&cert.replacen("MII", "MIJ", 1), "damaged"),
            (&cert.replacen("MII", "MI*", 1), "damaged"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "certificate 1 is invalid"),
        ] {
            let said = certificates(text, NOW).unwrap_err();
            assert!(said.contains(why), "{why}: {said}");
        }
    }

    #[test]
    fn expired_and_non_ca_certificates_cause_warnings() {
        let expired = made(true, datetime!(2026-11-21 11:59 UTC));
        let leaf = made(false, datetime!(2040-01-01 0:00 UTC));
        let bundle = certificates(&format!("{}{}{}", ca().cert, expired.cert, leaf.cert), NOW).unwrap();
        let told = [
            "certificate 2 (CN=mirror) expired 2026-11-21",
            "certificate 3 (CN=mirror) is not a CA: it can only verify itself",
        ];
        assert_eq!(bundle.odd, told);
    }
}
