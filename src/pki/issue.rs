//! Signs short-lived client certificates for people. ironstrap keeps these nowhere. The certificates of the
//! cluster PKI itself are in `leaf`.

use rcgen::{KeyPair, SigningKey};
use time::{Duration, OffsetDateTime};
use yasna::models::ObjectIdentifier;
use yasna::{ASN1Result, DERWriter};

use super::cert::{self, Pair, Wanted};
use super::leaf::Signer;
use super::{ClusterPki, readable_ca};
use crate::error::{Error, Kind, Result};

/// The index of the subject in a certificate's body (RFC 5280, 4.1).
const SUBJECT: usize = 5;
/// The most characters of a common name or an organization (RFC 5280, appendix A.1, `ub-common-name` and `ub-organization-name`).
const LONGEST: usize = 64;

/// A person as the API server knows them. The user is the common name of the certificate, and the groups are
/// its organizations (Kubernetes, "X509 client certificates").
#[derive(Clone, Debug, PartialEq)]
pub struct Person {
    pub name: String,
    pub groups: Vec<String>,
}

/// The prefixes of groups of Kubernetes and kubeadm. These two decide what a member may do, and that can change with a version.
const RESERVED: [&str; 2] = ["system:", "kubeadm:"];
/// The group that may do everything: no role binding limits it.
const MASTERS: &str = "system:masters";
/// The longest validity of a certificate with a reserved group. It is short, because nobody can revoke a certificate.
const RESERVED_LAST: Duration = Duration::hours(24);

/// Whether a group belongs to Kubernetes or kubeadm.
fn is_reserved(group: &str) -> bool {
    RESERVED.iter().any(|prefix| group.starts_with(prefix))
}

impl Person {
    /// Makes a person. Fails on names and groups that Kubernetes and kubeadm reserve, and on texts that do not
    /// fit into a certificate.
    pub fn new(name: &str, groups: &[String]) -> Result<Person> {
        if let Some(group) = groups.iter().find(|group| is_reserved(group)) {
            let what =
                format!("{group}: groups that begin with {} belong to Kubernetes", RESERVED.join(" or "));
            return Err(Error::new(Kind::Usage, what)
                .because("their members can have rights that you did not give, and a certificate cannot be revoked")
                .hint("name another group and bind a role to it, or add --allow-system-group"));
        }
        Person::with_system_groups(name, groups)
    }

    /// Like `new`, but allows the groups that Kubernetes and kubeadm reserve.
    pub fn with_system_groups(name: &str, groups: &[String]) -> Result<Person> {
        is_plain("name", name)?;
        groups.iter().try_for_each(|group| is_plain("group", group))?;
        if is_reserved(name) {
            let what =
                format!("{name}: names that begin with {} belong to Kubernetes", RESERVED.join(" or "));
            return Err(Error::new(Kind::Usage, what));
        }
        Ok(Person { name: name.into(), groups: groups.to_vec() })
    }

    /// The longest validity of this person's certificate. `None`: as long as that of the CA.
    pub fn longest_validity(&self) -> Option<Duration> {
        self.groups.iter().any(|group| is_reserved(group)).then_some(RESERVED_LAST)
    }

    /// The first of the person's groups that Kubernetes or kubeadm reserves. `system:masters` comes before all others.
    pub fn reserved_group(&self) -> Option<&str> {
        let mut reserved = self.groups.iter().filter(|group| is_reserved(group));
        let masters = self.groups.iter().find(|group| *group == MASTERS);
        masters.or_else(|| reserved.next()).map(String::as_str)
    }
}

/// Fails on a text that another reader could take for another name, and on one that does not fit into a certificate.
fn is_plain(what: &str, text: &str) -> Result<()> {
    let why = match text.chars().count() {
        0 => "is empty".into(),
        1..=LONGEST if text.trim() != text => "begins or ends with a blank".into(),
        1..=LONGEST if text.contains(is_invisible) => "has an invisible character".into(),
        1..=LONGEST => return Ok(()),
        _ => format!("is longer than {LONGEST} characters"),
    };
    Err(Error::new(Kind::Usage, format!("the {what} {text:?} {why}")))
}

/// Whether this is a control character, or one of Unicode that joins, splits or turns text invisibly.
fn is_invisible(c: char) -> bool {
    let formats =
        ['\u{ad}'..='\u{ad}', '\u{200b}'..='\u{200f}', '\u{2028}'..='\u{202e}', '\u{2060}'..='\u{206f}'];
    c.is_control() || c == '\u{feff}' || formats.iter().any(|range| range.contains(&c))
}

impl ClusterPki {
    /// Signs a client certificate with the cluster CA. Returns it and when it expires, which is not later than
    /// the CA. The cluster PKI does not keep the certificate.
    pub fn issue(
        &self,
        person: &Person,
        lasts: Duration,
        now: OffsetDateTime,
    ) -> Result<(Pair, OffsetDateTime)> {
        if person.longest_validity().is_some_and(|most| lasts > most) {
            let what = format!(
                "a certificate of a group that begins with {} lasts at most {} hours",
                RESERVED.join(" or "),
                RESERVED_LAST.whole_hours()
            );
            return Err(Error::new(Kind::Usage, what)
                .because("it cannot be revoked, and its group can have rights that you did not give")
                .hint("choose a shorter time, as in --for 1h"));
        }
        let ca = readable_ca(Signer::Cluster, &self.ca)?;
        let until = now.checked_add(lasts).unwrap_or(ca.not_after).min(ca.not_after);
        if until <= now {
            return Err(Error::new(Kind::Local, format!("ca.crt expired {}", ca.not_after.date()))
                .hint("check this machine's clock; if it is right, the cluster needs a new CA"));
        }
        let wanted = Wanted { common_name: person.name.clone(), client: true, ..Wanted::default() };
        let pair = cert::new_leaf_until(&wanted, &self.ca, now, until)?;
        let unmade = |e: String| Error::new(Kind::Local, "cannot create the certificate").because(e);
        let cert = with_subject(&pair.cert, self.ca.key.reveal(), |w| subject(w, person)).map_err(unmade)?;
        Ok((Pair { cert, key: pair.key }, until))
    }
}

/// Writes a subject with one part for each group, and one for the name.
fn subject(writer: DERWriter, person: &Person) {
    let groups = person.groups.iter().map(|group| (10, group));
    writer.write_sequence(|parts| {
        for (attribute, text) in groups.chain([(3, &person.name)]) {
            parts.next().write_set(|set| {
                set.next().write_sequence(|pair| {
                    pair.next().write_oid(&ObjectIdentifier::from_slice(&[2, 5, 4, attribute]));
                    pair.next().write_utf8_string(text);
                });
            });
        }
    });
}

/// Replaces the subject of a certificate and signs it again. A subject of rcgen itself has at most one organization.
fn with_subject(
    cert: &str,
    ca_key: &str,
    subject: impl FnOnce(DERWriter),
) -> std::result::Result<String, String> {
    let der = pem::parse(cert).map_err(|e| e.to_string())?.into_contents();
    let (mut body, algorithm) = parts(&der).map_err(|e| e.to_string())?;
    *body.get_mut(SUBJECT).ok_or("it has no subject")? = yasna::construct_der(subject);
    let sequence = |parts: &[Vec<u8>]| {
        yasna::construct_der(|w| {
            w.write_sequence(|w| parts.iter().for_each(|part| w.next().write_der(part)));
        })
    };
    let body = sequence(&body);
    let key = KeyPair::from_pem(ca_key).map_err(|e| e.to_string())?;
    let signature = key.sign(&body).map_err(|e| e.to_string())?;
    let signature = yasna::construct_der(|w| w.write_bitvec_bytes(&signature, signature.len() * 8));
    let line_ends = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    Ok(pem::encode_config(&pem::Pem::new("CERTIFICATE", sequence(&[body, algorithm, signature])), line_ends))
}

/// The parts of a certificate's body, and the algorithm of its signature.
fn parts(der: &[u8]) -> ASN1Result<(Vec<Vec<u8>>, Vec<u8>)> {
    yasna::parse_der(der, |reader| {
        reader.read_sequence(|reader| {
            let body = reader.next().collect_sequence_of(|part| part.read_der())?;
            let algorithm = reader.next().read_der()?;
            reader.next().read_der()?;
            Ok((body, algorithm))
        })
    })
}

#[cfg(test)]
mod tests {
    use x509_parser::pem::parse_x509_pem;

    use super::*;
    use crate::pki::read::Seen;
    use crate::pki::tests::{NOW, pki};

    fn person(name: &str, groups: &[&str]) -> Person {
        Person::new(name, &groups.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn a_certificate_names_the_person_and_every_group() {
        let pki = pki();
        let before = pki.clone();
        let (pair, until) =
            pki.issue(&person("jürgen", &["dev", "ops", "on call"]), Duration::hours(8), NOW).unwrap();
        let (_, pem) = parse_x509_pem(pair.cert.as_bytes()).unwrap();
        let cert = pem.parse_x509().unwrap();
        let groups: Vec<&str> = cert.subject().iter_organization().map(|o| o.as_str().unwrap()).collect();
        assert_eq!(groups, ["dev", "ops", "on call"]);
        let seen = Seen::of(&pair.cert).unwrap();
        assert_eq!(
            (seen.says.common_name.as_str(), seen.says.client, seen.says.server, seen.is_ca),
            ("jürgen", true, false, false)
        );
        assert_eq!((seen.not_after, until), (NOW + Duration::hours(8), NOW + Duration::hours(8)));
        assert!(seen.is_signed_by(&Seen::of(&pki.ca.cert).unwrap()));
        assert_eq!(crate::pki::read::spki_of_key(pair.key.reveal()), Some(seen.spki));
        assert!(pki == before, "the certificate is not stored");
    }

    #[test]
    fn no_certificate_outlives_the_ca() {
        let pki = pki();
        let ca = Seen::of(&pki.ca.cert).unwrap();
        for lasts in [Duration::days(40_000), Duration::MAX] {
            let (pair, until) = pki.issue(&person("alice", &[]), lasts, NOW).unwrap();
            assert_eq!((until, Seen::of(&pair.cert).unwrap().not_after), (ca.not_after, ca.not_after));
        }
        let late = pki.issue(&person("alice", &[]), Duration::hours(1), ca.not_after).unwrap_err();
        assert_eq!(late.kind, Kind::Local);
    }

    #[test]
    fn invalid_and_reserved_user_names_are_refused() {
        let odd = [
            "",
            " ",
            "a\nb",
            "alice ",
            "\talice",
            "\u{a0}alice",
            "al\u{200b}ice",
            "al\u{202e}ice",
            &"x".repeat(65),
        ];
        for text in odd {
            for allows in [Person::new, Person::with_system_groups] {
                assert_eq!(allows(text, &[]).unwrap_err().kind, Kind::Usage, "{text:?}");
                assert_eq!(allows("alice", &[text.into()]).unwrap_err().kind, Kind::Usage, "{text:?}");
            }
        }
        for allows in [Person::new, Person::with_system_groups] {
            assert_eq!(allows("system:admin", &[]).unwrap_err().kind, Kind::Usage);
            assert_eq!(allows("kubeadm:admin", &[]).unwrap_err().kind, Kind::Usage);
            assert!(allows("alice@example.com", &["on call".into()]).is_ok());
        }
    }

    #[test]
    fn a_system_group_needs_explicit_permission() {
        for group in
            ["system:masters", "system:nodes", "system:", "kubeadm:cluster-admins", "kubeadm:x", "kubeadm: "]
        {
            let groups = ["dev".to_string(), group.to_string()];
            assert_eq!(Person::new("alice", &groups).unwrap_err().kind, Kind::Usage, "{group}");
            let allowed = Person::with_system_groups("alice", &groups).is_ok();
            assert_eq!(allowed, !group.ends_with(' '), "{group}");
        }
        assert!(Person::new("alice", &["systems".into(), "kubeadm-others".into()]).is_ok());
    }

    #[test]
    fn a_certificate_with_a_system_group_lasts_a_day() {
        let pki = pki();
        let day = Duration::hours(24);
        for group in ["system:masters", "system:nodes", "kubeadm:cluster-admins", "kubeadm:get-nodes"] {
            let groups = ["dev".to_string(), group.to_string()];
            let person = Person::with_system_groups("alice", &groups).unwrap();
            assert_eq!(person.reserved_group(), Some(group));
            assert_eq!(pki.issue(&person, day, NOW).unwrap().1, NOW + day);
            for lasts in [day + Duration::SECOND, Duration::MAX] {
                assert_eq!(pki.issue(&person, lasts, NOW).unwrap_err().kind, Kind::Usage, "{group}");
            }
        }
        let dev = Person::new("alice", &["dev".into()]).unwrap();
        assert_eq!(dev.reserved_group(), None);
        assert!(pki.issue(&dev, day * 30, NOW).is_ok());
        let both = ["kubeadm:x".to_string(), MASTERS.to_string()];
        assert_eq!(Person::with_system_groups("alice", &both).unwrap().reserved_group(), Some(MASTERS));
    }
}
