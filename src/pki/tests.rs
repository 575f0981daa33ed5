//! Tests the properties of a cluster PKI. They do not depend on how it is made.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::Map;
use time::macros::datetime;
use time::{Duration, OffsetDateTime};
use x509_parser::extensions::ParsedExtension;
use x509_parser::pem::parse_x509_pem;

use super::read::Seen;
use super::*;
use crate::cluster::{Endpoint, Network, Packages, Proxy, Role, Ssh};

pub(crate) const NOW: OffsetDateTime = datetime!(2026-11-21 12:00 UTC);

/// Two control planes and a worker, with an endpoint and further API names.
pub(crate) fn cluster() -> Cluster {
    Cluster {
        name: "demo".into(),
        kubernetes: semver::Version::new(1, 36, 3),
        pods: "10.244.0.0/16".parse().unwrap(),
        services: "10.96.0.0/12".parse().unwrap(),
        domain: "cluster.local".into(),
        endpoint: Endpoint { host: "api.demo.internal".into(), port: 6443, managed: true },
        api_names: vec!["k8s.example.com".into(), "192.0.2.1".into()],
        network: Network::None,
        coredns: Default::default(),
        image_repository: "registry.k8s.io".into(),
        ignore_preflight: vec![],
        kubelet: Map::new(),
        kube_proxy: Map::new(),
        kubeadm: Map::new(),
        api_server: vec![],
        controller_manager: vec![],
        scheduler: vec![],
        etcd: vec![],
        containerd: toml::Table::new(),
        registries: vec![],
        packages: Packages { kubernetes: "https://pkgs.k8s.io/".into(), key: None },
        proxy: Proxy::default(),
        addons: vec![],
        nodes: vec![
            node("m1", Role::ControlPlane, "10.0.0.11"),
            node("m2", Role::ControlPlane, "fd00::12"),
            node("w1", Role::Worker, "10.0.0.21"),
        ],
        dir: "".into(),
        file: "".into(),
        warnings: vec![],
    }
}

fn node(name: &str, role: Role, ip: &str) -> Node {
    let ssh = Ssh { host: ip.into(), ..Ssh::default() };
    Node {
        name: name.into(),
        role,
        ssh,
        ip: ip.parse().unwrap(),
        labels: BTreeMap::new(),
        taints: None,
        kubelet: serde_json::Map::new(),
    }
}

pub(crate) fn pki() -> ClusterPki {
    ClusterPki::make(&cluster(), NOW).unwrap()
}

fn leaf<'a>(pki: &'a mut ClusterPki, node: &str, path: &str) -> &'a mut Pair {
    pki.leaves.get_mut(node).unwrap().get_mut(path).unwrap()
}

/// Returns what `complete` made. Nothing must be left to make after it.
pub(super) fn completed(pki: &mut ClusterPki, cluster: &Cluster, now: OffsetDateTime) -> Vec<String> {
    let made = pki.complete(cluster, now).unwrap();
    assert_eq!(pki.complete(cluster, now).unwrap(), Vec::<String>::new());
    made
}

#[test]
fn a_control_plane_gets_every_file_of_kubeadm() {
    let (pki, cluster) = (pki(), cluster());
    let files = pki.files(&cluster.nodes[0]);
    let paths: Vec<_> =
        files.iter().map(|file| file.path.strip_prefix("/etc/kubernetes/pki/").unwrap()).collect();
    let pairs = [
        "ca",
        "front-proxy-ca",
        "etcd/ca",
        "apiserver",
        "apiserver-kubelet-client",
        "front-proxy-client",
        "apiserver-etcd-client",
        "etcd/server",
        "etcd/peer",
        "etcd/healthcheck-client",
    ];
    let mut expected: Vec<_> =
        pairs.iter().flat_map(|it| [format!("{it}.key"), format!("{it}.crt")]).collect();
    expected.extend(["sa.key".into(), "sa.pub".into()]);
    assert_eq!(paths, expected);
    for file in &files {
        assert_eq!(file.mode, if file.path.ends_with(".crt") { 0o644 } else { 0o600 }, "{}", file.path);
        assert_eq!(file.secret, file.text.contains("PRIVATE KEY"), "{}", file.path);
        assert!(file.text.ends_with("-----\n") && !file.text.contains('\r'), "{}", file.path);
    }
}

#[test]
fn a_worker_gets_no_file() {
    assert_eq!(pki().files(&cluster().nodes[2]), vec![]);
}

#[test]
fn an_incomplete_leaf_is_left_to_kubeadm() {
    let (mut pki, cluster) = (pki(), cluster());
    leaf(&mut pki, "m1", "apiserver").cert.clear();
    assert!(pki.files(&cluster.nodes[0]).iter().all(|file| !file.path.contains("/apiserver.")));
}

#[test]
fn subjects_usages_and_names_match_kubeadm() {
    let pki = pki();
    let says = |path| {
        let says = Seen::of(&pki.leaves["m1"][path].cert).unwrap().says;
        let usage = [says.server.then_some("server"), says.client.then_some("client")];
        let usage = usage.into_iter().flatten().collect::<Vec<_>>().join("+");
        let names = Vec::from_iter(says.names).join(" ");
        let ips = says.addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" ");
        format!("{}/{}/{usage}/{names}/{ips}", says.common_name, says.organization.unwrap_or_default())
    };
    assert_eq!(
        says("apiserver"),
        "kube-apiserver//server/api.demo.internal k8s.example.com kubernetes kubernetes.default \
         kubernetes.default.svc kubernetes.default.svc.cluster.local m1/10.0.0.11 10.96.0.1 192.0.2.1"
    );
    assert_eq!(says("apiserver-kubelet-client"), "kube-apiserver-kubelet-client//client//");
    assert_eq!(says("front-proxy-client"), "front-proxy-client//client//");
    assert_eq!(says("apiserver-etcd-client"), "kube-apiserver-etcd-client//client//");
    assert_eq!(says("etcd/server"), "m1//server+client/localhost m1/10.0.0.11 127.0.0.1 ::1");
    assert_eq!(says("etcd/peer"), "m1//server+client/localhost m1/10.0.0.11 127.0.0.1 ::1");
    assert_eq!(says("etcd/healthcheck-client"), "kube-etcd-healthcheck-client//client//");
    let admin = Seen::of(&pki.admin.cert).unwrap().says;
    assert_eq!(admin.common_name, "demo-admin");
    assert_eq!(admin.organization.as_deref(), Some("kubeadm:cluster-admins"));
    assert_eq!((admin.server, admin.client), (false, true));
}

#[test]
fn an_endpoint_address_is_an_address_in_the_certificate() {
    let mut cluster = cluster();
    cluster.endpoint.host = "2001:db8::1".into();
    let pki = ClusterPki::make(&cluster, NOW).unwrap();
    let says = Seen::of(&pki.leaves["m2"]["apiserver"].cert).unwrap().says;
    assert!(says.addresses.contains(&"2001:db8::1".parse().unwrap()));
    assert!(says.addresses.contains(&"fd00::12".parse().unwrap()));
}

/// The extensions of a certificate and whether each is critical, then its serial number and its dates.
fn shape(pem: &str) -> (Vec<String>, Vec<u8>, OffsetDateTime, OffsetDateTime) {
    let (_, pem) = parse_x509_pem(pem.as_bytes()).unwrap();
    let cert = pem.parse_x509().unwrap();
    let extensions = cert.extensions().iter().map(|it| {
        let what = match it.parsed_extension() {
            ParsedExtension::KeyUsage(usage) => format!("usage {usage}"),
            ParsedExtension::BasicConstraints(it) => format!("ca {} {:?}", it.ca, it.path_len_constraint),
            ParsedExtension::ExtendedKeyUsage(_) => "extended usage".into(),
            ParsedExtension::SubjectAlternativeName(_) => "names".into(),
            ParsedExtension::AuthorityKeyIdentifier(_) => "authority key".into(),
            ParsedExtension::SubjectKeyIdentifier(_) => "subject key".into(),
            other => format!("{other:?}"),
        };
        if it.critical { format!("{what}, critical") } else { what }
    });
    let mut extensions: Vec<_> = extensions.collect();
    extensions.sort();
    let validity = cert.validity();
    let (from, until) = (validity.not_before.to_datetime(), validity.not_after.to_datetime());
    (extensions, cert.raw_serial().to_vec(), from, until)
}

#[test]
fn certificates_have_kubeadms_extensions_and_lifetimes() {
    let pki = pki();
    let (ca, ca_serial, from, until) = shape(&pki.ca.cert);
    assert_eq!((NOW - from, until - NOW), (Duration::minutes(5), Duration::days(3650)));
    let usage = "usage Digital Signature, Key Encipherment, Key Cert Sign, critical";
    assert_eq!(ca, ["ca true None, critical", "names", "subject key", usage]);
    let (leaf, leaf_serial, from, until) = shape(&pki.leaves["m1"]["apiserver"].cert);
    assert_eq!((NOW - from, until - NOW), (Duration::minutes(5), Duration::days(365)));
    let usage = "usage Digital Signature, Key Encipherment, critical";
    let expected =
        ["authority key", "ca false None, critical", "extended usage", "names", "subject key", usage];
    assert_eq!(leaf, expected);
    for serial in [&ca_serial, &leaf_serial] {
        assert!(serial.len() == 16 && (0x40..0x80).contains(&serial[0]), "{serial:?}");
    }
    assert_ne!(ca_serial, leaf_serial);
}

#[test]
fn a_name_outside_ascii_is_an_inventory_error() {
    let mut cluster = cluster();
    cluster.api_names.push("köln.example".into());
    let error = ClusterPki::make(&cluster, NOW).unwrap_err();
    assert_eq!((error.kind, error.what.contains("köln.example")), (Kind::Inventory, true));
}

#[test]
fn a_complete_pki_is_not_changed() {
    let mut pki = pki();
    let before = pki.clone();
    let day_before_renewal = NOW + Duration::days(365 - 60) - Duration::seconds(1);
    assert_eq!(pki.complete(&cluster(), day_before_renewal).unwrap(), Vec::<String>::new());
    assert!(pki == before);
}

#[test]
fn leaves_are_renewed_sixty_days_before_they_expire() {
    let mut pki = pki();
    let before = pki.clone();
    let made = completed(&mut pki, &cluster(), NOW + Duration::days(365 - 60));
    assert_eq!(made.len(), 2 * 7 + 1);
    assert_eq!(made[0], "m1: apiserver, because it expires 2027-11-21");
    assert_eq!(made[14], "admin, because it expires 2027-11-21");
    assert!(pki.ca == before.ca && pki.etcd_ca == before.etcd_ca && pki.sa_key == before.sa_key);
    let made = completed(&mut pki, &cluster(), NOW + Duration::days(1000));
    assert_eq!(made[0], "m1: apiserver, because it expired 2028-09-21");
}

#[test]
fn added_and_removed_names_renew_a_certificate() {
    let (mut pki, mut cluster) = (pki(), cluster());
    cluster.api_names.extend(["10.1.1.1".into(), "new.example.com".into()]);
    let why = "because it is not valid for new.example.com, 10.1.1.1";
    let made = completed(&mut pki, &cluster, NOW);
    assert_eq!(made, [format!("m1: apiserver, {why}"), format!("m2: apiserver, {why}")]);
    cluster.api_names = vec!["K8S.example.com".into(), "new.example.com".into()];
    let why = "because it is still valid for 10.1.1.1, 192.0.2.1";
    let made = completed(&mut pki, &cluster, NOW);
    assert_eq!(made, [format!("m1: apiserver, {why}"), format!("m2: apiserver, {why}")]);
}

#[test]
fn a_key_of_another_certificate_is_replaced() {
    let mut pki = pki();
    let key = pki.leaves["m2"]["etcd/peer"].key.clone();
    leaf(&mut pki, "m1", "etcd/peer").key = key;
    let made = completed(&mut pki, &cluster(), NOW);
    assert_eq!(made, ["m1: etcd/peer, because its key belongs to another certificate"]);
}

#[test]
fn a_leaf_of_another_ca_is_replaced() {
    let (mut pki, mut other) = (pki(), pki());
    *leaf(&mut pki, "m1", "front-proxy-client") = leaf(&mut other, "m1", "front-proxy-client").clone();
    let made = completed(&mut pki, &cluster(), NOW);
    assert_eq!(made, ["m1: front-proxy-client, because another CA signed it"]);
}

#[test]
fn missing_broken_and_swapped_leaves_are_replaced() {
    let mut pki = pki();
    pki.leaves.get_mut("m1").unwrap().remove("apiserver");
    leaf(&mut pki, "m1", "etcd/server").cert.clear();
    leaf(&mut pki, "m1", "etcd/peer").cert.truncate(100);
    *leaf(&mut pki, "m1", "etcd/healthcheck-client") = pki.leaves["m1"]["apiserver-etcd-client"].clone();
    pki.admin = Pair::default();
    let made = completed(&mut pki, &cluster(), NOW);
    let expected = [
        "m1: apiserver, because it is missing",
        "m1: etcd/server, because its certificate is missing",
        "m1: etcd/peer, because its certificate cannot be read",
        "m1: etcd/healthcheck-client, because its subject differs",
        "admin, because it is missing",
    ];
    assert_eq!(made, expected);
}

#[test]
fn a_certificate_for_another_usage_is_replaced() {
    let mut pki = pki();
    let wanted = Wanted { common_name: "kube-apiserver-kubelet-client".into(), ..Wanted::default() };
    let ends = NOW + Duration::days(3650);
    let wrong = cert::new_leaf(&Wanted { server: true, ..wanted }, &pki.ca, ends, NOW).unwrap();
    *leaf(&mut pki, "m1", "apiserver-kubelet-client") = wrong;
    let made = completed(&mut pki, &cluster(), NOW);
    assert_eq!(made, ["m1: apiserver-kubelet-client, because its key usage differs"]);
}

#[test]
fn a_leaf_that_is_not_valid_yet_is_replaced() {
    let (mut pki, cluster) = (pki(), cluster());
    let (ends, later) = (NOW + Duration::days(3650), NOW + Duration::days(2));
    pki.admin = cert::new_leaf(&leaf::admin(&cluster), &pki.ca, ends, later).unwrap();
    let made = completed(&mut pki, &cluster, NOW);
    assert_eq!(made, ["admin, because it is not valid before 2026-11-23"]);
}

#[test]
fn an_expired_ca_signs_nothing() {
    let mut pki = pki();
    let before = pki.clone();
    let error = pki.complete(&cluster(), NOW + Duration::days(3650)).unwrap_err();
    assert_eq!(error.kind, Kind::Local);
    assert_eq!(error.what, "ca.crt is valid from 2026-11-21 until 2036-11-18");
    assert!(pki == before);
}

#[test]
fn leaves_of_a_former_control_plane_are_kept_unused() {
    let (mut pki, mut cluster) = (pki(), cluster());
    cluster.nodes[1].role = Role::Worker;
    let later = NOW + Duration::days(320);
    completed(&mut pki, &cluster, later);
    assert_eq!(pki.leaves["m2"].len(), 7);
    assert_eq!(pki.valid_until(&cluster), Some(later + Duration::days(365)));
}

#[test]
fn debug_output_shows_no_secret() {
    let (pki, cluster) = (pki(), cluster());
    let shown = format!("{pki:?} {:?} {:?}", pki.admin, pki.files(&cluster.nodes[0]));
    assert!(!shown.contains("PRIVATE"));
    // No part of a key is shown either. A derived Debug of bytes would show the key in pieces.
    for key in [&pki.ca.key, &pki.sa_key, &pki.admin.key] {
        assert!(!shown.contains(key.reveal().lines().nth(1).unwrap()));
    }
    assert!(shown.contains("/etc/kubernetes/pki/ca.key"));
}

#[test]
fn all_letters_of_a_random_text_are_equally_likely() {
    const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let text = random_text(ALPHABET, 360_000).unwrap();
    for letter in ALPHABET {
        let count = text.bytes().filter(|it| it == letter).count();
        // With a byte modulo 36, each of the first letters would come 11250 times. By chance a count is off by
        // 700 in one of 10^10 runs.
        assert!((9300..10700).contains(&count), "{} came {count} times", char::from(*letter));
    }
}

#[test]
fn our_ca_is_recognized_as_pem_and_base64() {
    use base64::Engine;
    let (pki, other) = (pki(), pki());
    let base64 = |text: &str| base64::prelude::BASE64_STANDARD.encode(text);
    let wrapped = base64(&pki.ca.cert).replace("LS0tLS1CRUdJTi", "LS0tLS1CRUdJTi\n  ");
    for ours in [&pki.ca.cert, &base64(&pki.ca.cert), &wrapped, &pki.ca.cert.replace('\n', "\r\n")] {
        assert!(pki.is_our_ca(ours), "{ours}");
    }
    let end = "-----END CERTIFICATE-----";
    let cut = pki.ca.cert.replace(end, &format!("-----END CERTI\n{end}\nFICATE-----"));
    let theirs = [&other.ca.cert, &base64(&other.ca.cert), pki.ca.key.reveal(), &cut, "", "%%%", "aGVsbG8="];
    for theirs in theirs {
        assert!(!pki.is_our_ca(theirs), "{theirs}");
    }
}

#[test]
fn the_admin_kubeconfig_points_to_the_cluster() {
    let (pki, mut cluster) = (pki(), cluster());
    cluster.endpoint.host = "fd00::1".into();
    let found: serde_json::Value =
        crate::yaml::read(&pki.admin_kubeconfig(&cluster, "https://10.0.0.11:6443")).unwrap();
    let entry = &found["clusters"][0]["cluster"];
    assert_eq!(found["current-context"], "demo-admin@demo");
    assert_eq!(found["contexts"][0]["name"], "demo-admin@demo");
    assert_eq!(found["contexts"][0]["context"]["cluster"], found["clusters"][0]["name"]);
    assert_eq!(found["contexts"][0]["context"]["user"], found["users"][0]["name"]);
    assert_eq!(entry["server"], "https://10.0.0.11:6443");
    assert!(pki.is_our_ca(entry["certificate-authority-data"].as_str().unwrap()));
}
