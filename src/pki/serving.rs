//! Judges the requests (PKCS#10) in which kubelets ask the cluster for a serving certificate, with the signer
//! `kubernetes.io/kubelet-serving`. This module does not judge the requester and the usages. The API server
//! knows these, and the step `serving` reads them.

use std::net::IpAddr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use x509_parser::certification_request::{X509CertificationRequest, X509CertificationRequestInfo};
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

use crate::cluster::{Cluster, Node};
use crate::pki::leaf::LEAVES;
use crate::pki::read::{BLANK, address, block};

/// Why the kubelet of `node` may not have this request signed. `None`: the request is right. `request` is
/// base64 of PEM, as the API has it. Kubernetes' own rules are those of `ValidateKubeletServingCSR`
/// (`pkg/apis/certificates`). They let a kubelet ask for every name and every address. ironstrap allows a
/// kubelet only its own, so that root on a worker cannot impersonate another machine.
pub fn why_not_served(request: &str, cluster: &Cluster, node: &Node) -> Option<String> {
    let pem = BASE64_STANDARD.decode(request).ok().and_then(|pem| String::from_utf8(pem).ok());
    judge(&pem.unwrap_or_default(), cluster, node).err()
}

type Checked = Result<(), String>;

const NOTHING: &str = "it asks for no name and no address";

fn judge(text: &str, cluster: &Cluster, node: &Node) -> Checked {
    let unreadable = || "it cannot be read".to_string();
    let kind = "CERTIFICATE REQUEST";
    let der = block(text, kind).filter(|der| is_written(text, kind, der)).ok_or_else(unreadable)?;
    let (rest, request) = X509CertificationRequest::from_der(&der).map_err(|_| unreadable())?;
    if !rest.is_empty() {
        return Err(unreadable());
    }
    request.verify_signature().map_err(|_| "its own key did not sign it".to_string())?;
    let info = &request.certification_request_info;
    is_named(info, &node.name)?;
    is_its_own(info, node)?;
    is_not_the_apis(cluster, node)
}

/// Whether the text is the canonical PEM of these bytes, with any blanks at the ends of lines. No reader of PEM
/// can read anything else from it.
fn is_written(text: &str, kind: &str, der: &[u8]) -> bool {
    let line_ends = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    let canonical = pem::encode_config(&pem::Pem::new(kind, der), line_ends);
    text.lines().map(|line| line.trim_end_matches(BLANK)).eq(canonical.lines())
}

/// Checks that the subject has exactly the two parts of this node's kubelet.
fn is_named(info: &X509CertificationRequestInfo, node: &str) -> Checked {
    let mut parts = Vec::new();
    for part in info.subject.iter_attributes() {
        let text = part.as_str().map_err(|_| "its subject cannot be read".to_string())?;
        parts.push((part.attr_type().to_id_string(), text.to_string()));
    }
    parts.sort();
    let (organization, common_name) = ("2.5.4.10", "2.5.4.3");
    let right = [(organization, "system:nodes".to_string()), (common_name, format!("system:node:{node}"))];
    let same = right.iter().map(|(kind, text)| (kind.to_string(), text.clone())).eq(parts);
    if same { Ok(()) } else { Err(format!("its subject is not O=system:nodes, CN=system:node:{node}")) }
}

/// Checks that the request asks for names and addresses of the node, and for nothing else.
fn is_its_own(info: &X509CertificationRequestInfo, node: &Node) -> Checked {
    let more = || "it asks for more than names and addresses".to_string();
    let [attribute] = info.attributes() else {
        return Err(if info.attributes().is_empty() { NOTHING.into() } else { more() });
    };
    let ParsedCriAttribute::ExtensionRequest(asked) = attribute.parsed_attribute() else {
        return Err(more());
    };
    // The set must have exactly one value. x509-parser sees nothing of a second one except the length.
    yasna::parse_der(attribute.value, |set| set.read_set_of(|one| one.read_der().map(drop)))
        .map_err(|_| more())?;
    let [extension] = &asked.extensions[..] else { return Err(more()) };
    let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else {
        return Err(more());
    };
    if names.general_names.is_empty() {
        return Err(NOTHING.into());
    }
    names.general_names.iter().try_for_each(|name| is_of(name, node))
}

fn is_of(name: &GeneralName, node: &Node) -> Checked {
    let asked = match name {
        GeneralName::DNSName(name) if name.eq_ignore_ascii_case(&node.name) => return Ok(()),
        GeneralName::DNSName(name) if name.bytes().all(|b| b.is_ascii_graphic()) && name.len() < 254 => {
            (*name).to_string()
        }
        GeneralName::DNSName(_) => return Err("it asks for an invalid name".into()),
        GeneralName::IPAddress(bytes) => match address(bytes) {
            Some(ip) if ip.to_canonical() == node.ip.to_canonical() => return Ok(()),
            Some(ip) => ip.to_string(),
            None => return Err("it asks for an address that cannot be read".into()),
        },
        _ => return Err("it asks for more than names and addresses".into()),
    };
    Err(format!("it asks for {asked}, but {} is {}", node.name, node.ip))
}

/// Refuses a worker that has a name or an address of the API server. The CA that signs the request is the one by which
/// clients know the API server. So they could take a worker that serves under one of the API's names for the API server.
fn is_not_the_apis(cluster: &Cluster, node: &Node) -> Checked {
    if node.is_control_plane() {
        return Ok(());
    }
    for plane in cluster.control_planes() {
        for leaf in LEAVES.iter().filter(|leaf| leaf.path == "apiserver") {
            let api = (leaf.wanted)(cluster, plane);
            let named = api.names.iter().any(|name| name.eq_ignore_ascii_case(&node.name));
            let at = |ip: &IpAddr| ip.to_canonical() == node.ip.to_canonical();
            if named || api.addresses.iter().any(at) {
                return Err(format!("clients also know the API server as {} or {}", node.name, node.ip));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use rcgen::{
        Attribute, CertificateParams, CustomExtension, DistinguishedName, DnType, IsCa, KeyPair, SanType,
    };

    use super::*;
    use crate::pki::tests::cluster;

    /// The parameters of a request as a kubelet makes it (client-go, `certificate_manager.go`).
    fn params(node: &str, names: &[&str], addresses: &[&str]) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(DnType::CommonName, format!("system:node:{node}"));
        let names = names.iter().map(|name| SanType::DnsName((*name).try_into().unwrap()));
        let addresses = addresses.iter().map(|ip| SanType::IpAddress(ip.parse().unwrap()));
        params.subject_alt_names = names.chain(addresses).collect();
        params
    }

    fn pem(params: &CertificateParams) -> String {
        params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
    }

    fn request(node: &str, names: &[&str], addresses: &[&str]) -> String {
        pem(&params(node, names, addresses))
    }

    /// The request of a kubelet in base64, as the API stores it.
    pub(crate) fn encoded(node: &str, names: &[&str], addresses: &[&str]) -> String {
        BASE64_STANDARD.encode(request(node, names, addresses))
    }

    fn why(pem: &str) -> Option<String> {
        let cluster = cluster();
        judge(pem, &cluster, &cluster.nodes[2]).err()
    }

    const IP: &str = "10.0.0.21";

    #[test]
    fn a_kubelet_may_serve_under_its_own_name_and_address() {
        for (names, addresses) in
            [(&["w1"][..], &[IP][..]), (&["W1"], &[]), (&[], &[IP]), (&["w1"], &[IP, IP])]
        {
            assert_eq!(why(&request("w1", names, addresses)), None, "{names:?} {addresses:?}");
        }
        // Go reads such an address as the IPv4 address in it.
        assert_eq!(why(&request("w1", &["w1"], &["::ffff:10.0.0.21"])), None);
        let cluster = cluster();
        let plane = &cluster.nodes[0];
        assert_eq!(why_not_served(&encoded("m1", &["m1"], &["10.0.0.11"]), &cluster, plane), None);
        assert!(why_not_served("no base64", &cluster, plane).is_some());
    }

    #[test]
    fn names_and_addresses_of_others_are_refused() {
        for (names, addresses, says) in [
            (&["w1", "m1"][..], &[IP][..], "it asks for m1, but w1 is 10.0.0.21"),
            (&["w1"], &[IP, "10.0.0.11"], "it asks for 10.0.0.11,"),
            (&["w1"], &["127.0.0.1"], "it asks for 127.0.0.1,"),
            (&["w1"], &["10.96.0.1"], "it asks for 10.96.0.1,"),
            (&["w1"], &["fd00::12"], "it asks for fd00::12,"),
            (&["kubernetes"], &[], "it asks for kubernetes,"),
            (&["api.demo.internal"], &[], "it asks for api.demo.internal,"),
            (&["*"], &[IP], "it asks for *,"),
            (&["w1.example.com"], &[IP], "it asks for w1.example.com,"),
            (&["localhost"], &[IP], "it asks for localhost,"),
        ] {
            let said = why(&request("w1", names, addresses)).unwrap();
            assert!(said.starts_with(says), "{names:?} {addresses:?}: {said}");
        }
        assert_eq!(why(&request("w1", &[], &[])).as_deref(), Some(NOTHING));
    }

    #[test]
    fn another_subject_is_refused() {
        let subject = |parts: &[(DnType, &str)]| {
            let mut params = params("w1", &["w1"], &[IP]);
            params.distinguished_name = DistinguishedName::new();
            for (kind, text) in parts {
                params.distinguished_name.push(kind.clone(), *text);
            }
            why(&pem(&params))
        };
        use DnType::{CommonName, OrganizationName, OrganizationalUnitName};
        let name = (CommonName, "system:node:w1");
        let nodes = (OrganizationName, "system:nodes");
        assert_eq!(subject(&[name.clone(), nodes.clone()]), None, "in any order");
        for parts in [
            &[nodes.clone(), (CommonName, "system:node:m1")][..],
            &[nodes.clone(), (CommonName, "system:node:w1 ")],
            &[nodes.clone(), (CommonName, "kubernetes")],
            &[(OrganizationName, "system:masters"), name.clone()],
            std::slice::from_ref(&name),
            std::slice::from_ref(&nodes),
            &[nodes.clone(), name.clone(), (OrganizationalUnitName, "x")],
        ] {
            let said = subject(parts).unwrap();
            assert_eq!(said, "its subject is not O=system:nodes, CN=system:node:w1", "{parts:?}");
        }
    }

    #[test]
    fn other_names_usages_and_extensions_are_refused() {
        let more = |change: &dyn Fn(&mut CertificateParams)| {
            let mut params = params("w1", &["w1"], &[IP]);
            change(&mut params);
            why(&pem(&params)).unwrap()
        };
        let said = "it asks for more than names and addresses";
        let mail = SanType::Rfc822Name("w1@example.com".try_into().unwrap());
        assert_eq!(more(&|params| params.subject_alt_names.push(mail.clone())), said);
        let uri = SanType::URI("spiffe://demo/w1".try_into().unwrap());
        assert_eq!(more(&|params| params.subject_alt_names.push(uri.clone())), said);
        let usage = rcgen::KeyUsagePurpose::KeyCertSign;
        assert_eq!(more(&|params| params.key_usages = vec![usage]), said);
        let other = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
        assert_eq!(more(&|params| params.custom_extensions = vec![other.clone()]), said);
    }

    #[test]
    fn additional_attributes_are_refused() {
        let with = |attributes: Vec<Attribute>| {
            let key = KeyPair::generate().unwrap();
            let request = params("w1", &["w1"], &[IP]).serialize_request_with_attributes(&key, attributes);
            why(&request.unwrap().pem().unwrap())
        };
        assert_eq!(with(vec![]), None);
        // These are challengePassword, and a second request of extensions. One parser may see the first
        // request, another the last.
        let password = Attribute { oid: &[1, 2, 840, 113549, 1, 9, 7], values: vec![0x31, 3, 0x0c, 1, b'x'] };
        let second = Attribute { oid: &[1, 2, 840, 113549, 1, 9, 14], values: vec![0x31, 2, 0x30, 0] };
        for attribute in [password, second] {
            let said = with(vec![attribute]).unwrap();
            assert!(said.starts_with("it asks for more") || said == "it cannot be read", "{said}");
        }
    }

    #[test]
    fn ambiguous_pem_is_refused() {
        let (right, other) = (request("w1", &["w1"], &[IP]), request("w1", &["m1"], &[IP]));
        for text in [right.trim_end().to_string(), right.replace('\n', "\r\n"), right.replace('\n', " \t\n")]
        {
            assert_eq!(why(&text), None, "{text:?}");
        }
        let (begin, end) = ("-----BEGIN CERTIFICATE REQUEST-----\n", "-----END CERTIFICATE REQUEST-----");
        let body =
            |text: &str| text.strip_prefix(begin).unwrap().trim_end().strip_suffix(end).unwrap().to_string();
        let (ours, theirs) = (body(&right), body(&other));
        let (packed, wide) = (ours.replace('\n', ""), theirs.replace('\n', ""));
        for text in [
            // Go takes the line with the colon for a header, and reads what follows.
            format!("{begin}{packed}{end}: x\n{theirs}{end}\n"),
            format!("{begin}{ours}{end}: x\n{theirs}{end}\n"),
            format!("{begin}a: b\n\n{ours}{end}\n"),
            format!("{begin}{ours}\n{end}\n"),
            format!("{begin}{packed}{end}\n"),
            format!("{begin}{packed}\n{end}\n"),
            format!("{begin}{ours}{end} x\n"),
            format!("{begin}{ours}{end}\n{wide}\n"),
            format!("{wide}\n{begin}{ours}{end}\n"),
            format!("x{begin}{theirs}{end}\n{begin}{ours}{end}\n"),
            format!("\n{begin}{ours}{end}\n"),
            format!("{begin}{ours}{end}\n\n"),
            right.replacen('\n', "\u{b}\n", 2),
            right.replacen('\n', "\r\r\n", 2),
        ] {
            assert_eq!(why(&text).as_deref(), Some("it cannot be read"), "{text}");
        }
    }

    /// The extensions that ask for this name.
    fn extensions(name: &str) -> Vec<u8> {
        let dns = yasna::Tag::context(2);
        let names = yasna::construct_der(|writer| {
            writer.write_sequence(|all| {
                all.next().write_tagged_implicit(dns, |writer| writer.write_ia5_string(name));
            });
        });
        yasna::construct_der(|writer| {
            writer.write_sequence(|all| {
                all.next().write_sequence(|extension| {
                    extension.next().write_oid(&yasna::models::ObjectIdentifier::from_slice(&[2, 5, 29, 17]));
                    extension.next().write_bytes(&names);
                });
            });
        })
    }

    #[test]
    fn a_second_value_of_an_attribute_is_refused() {
        let asked = |names: &[&str]| {
            let values = yasna::construct_der(|writer| {
                writer.write_set(|set| {
                    names.iter().for_each(|name| set.next().write_der(&extensions(name)));
                });
            });
            let key = KeyPair::generate().unwrap();
            let oid: &[u64] = &[1, 2, 840, 113549, 1, 9, 14];
            let request = params("w1", &[], &[])
                .serialize_request_with_attributes(&key, vec![Attribute { oid, values }]);
            why(&request.unwrap().pem().unwrap())
        };
        assert_eq!(asked(&["w1"]), None);
        for names in [["w1", "m1"], ["m1", "w1"]] {
            assert!(asked(&names).is_some(), "{names:?}");
        }
    }

    #[test]
    fn only_one_request_signed_by_its_key_is_accepted() {
        let right = request("w1", &["w1"], &[IP]);
        assert_eq!(why(&right), None);
        let other = request("w1", &["w1", "m1"], &[IP]);
        for text in
            ["", "x", &format!("{right}{other}"), &format!("{other}{right}"), &right.replace("REQUEST", "")]
        {
            assert_eq!(why(text).as_deref(), Some("it cannot be read"), "{text}");
        }
        let mut ca = params("w1", &["w1"], &[IP]);
        ca.is_ca = IsCa::NoCa;
        let (one, two) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let ours = ca.serialize_request(&one).unwrap().der().to_vec();
        let theirs = ca.serialize_request(&two).unwrap().der().to_vec();
        // A request with the key of another machine, which this machine signed.
        let (key, with) = (one.public_key_raw(), two.public_key_raw());
        let at = ours.windows(key.len()).position(|part| part == key).unwrap();
        let mut forged = ours.clone();
        forged[at..at + key.len()].copy_from_slice(with);
        for der in [forged, [&theirs[..], &[0][..]].concat()] {
            let text = ::pem::encode(&::pem::Pem::new("CERTIFICATE REQUEST", der));
            assert!(why(&text).is_some());
        }
    }

    #[test]
    fn a_worker_cannot_serve_under_the_api_servers_names() {
        let (mut cluster, request) = (cluster(), encoded("w1", &["w1"], &[IP]));
        let judged = |cluster: &Cluster| why_not_served(&request, cluster, &cluster.nodes[2]);
        assert_eq!(judged(&cluster), None);
        cluster.endpoint.host = IP.into();
        assert_eq!(judged(&cluster).unwrap(), "clients also know the API server as w1 or 10.0.0.21");
        cluster.endpoint.host = "api.demo.internal".into();
        cluster.api_names = vec!["W1".into()];
        assert!(judged(&cluster).is_some());
    }
}
