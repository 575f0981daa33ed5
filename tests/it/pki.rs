//! Checks the certificates with OpenSSL, which may notice what ironstrap's own code does not. Without the `openssl`
//! program these tests print that they were skipped.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use ironstrap::cluster::Cluster;
use ironstrap::pki::{ClusterPki, Person};
use time::{Duration, OffsetDateTime};

/// A cluster of one control plane.
fn cluster() -> Cluster {
    let text = r#"
        [cluster]
        name = "demo"
        kubernetes = "1.36.3"
        api-names = ["k8s.example.com", "192.0.2.1", "fd00:96::1"]
        [nodes.m1]
        address = "10.0.0.11"
        role = "control-plane"
    "#;
    ironstrap::inventory::parse(text, Path::new("demo.toml")).unwrap()
}

/// Writes the files of the control plane and the operator's certificate into a folder. Without openssl, prints that
/// and returns `None`.
fn written() -> Option<(tempfile::TempDir, ClusterPki)> {
    if which::which("openssl").is_err() {
        // The test harness hides the output of println! if the test passes.
        let said = "SKIPPED: no openssl on this machine, so the certificates were not checked with it\n";
        std::io::stderr().write_all(said.as_bytes()).unwrap();
        return None;
    }
    let (dir, cluster) = (tempfile::tempdir().unwrap(), cluster());
    let pki = ClusterPki::make(&cluster, OffsetDateTime::now_utc()).unwrap();
    std::fs::create_dir(dir.path().join("etcd")).unwrap();
    for file in pki.files(&cluster.nodes[0]) {
        let path = file.path.strip_prefix("/etc/kubernetes/pki/").unwrap();
        std::fs::write(dir.path().join(path), file.text).unwrap();
    }
    std::fs::write(dir.path().join("admin.crt"), &pki.admin.cert).unwrap();
    Some((dir, pki))
}

/// Returns whether openssl succeeds, and all that it prints.
fn openssl(dir: &Path, arguments: &str) -> (bool, String) {
    let output = Command::new("openssl").args(arguments.split(' ')).current_dir(dir).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

const LEAVES: [(&str, &str, &[&str]); 8] = [
    ("apiserver", "ca", &["sslserver"]),
    ("apiserver-kubelet-client", "ca", &["sslclient"]),
    ("front-proxy-client", "front-proxy-ca", &["sslclient"]),
    ("apiserver-etcd-client", "etcd/ca", &["sslclient"]),
    ("etcd/server", "etcd/ca", &["sslserver", "sslclient"]),
    ("etcd/peer", "etcd/ca", &["sslserver", "sslclient"]),
    ("etcd/healthcheck-client", "etcd/ca", &["sslclient"]),
    ("admin", "ca", &["sslclient"]),
];

#[test]
fn openssl_accepts_each_leaf_only_for_its_purpose_and_ca() {
    let Some((dir, _)) = written() else { return };
    for (leaf, ca, purposes) in LEAVES {
        for purpose in ["sslserver", "sslclient"] {
            for other in ["ca", "front-proxy-ca", "etcd/ca"] {
                let verify = format!("verify -x509_strict -CAfile {other}.crt -purpose {purpose} {leaf}.crt");
                let (fits, said) = openssl(dir.path(), &verify);
                assert_eq!(fits, other == ca && purposes.contains(&purpose), "{verify}: {said}");
            }
        }
    }
}

#[test]
fn openssl_finds_the_names_and_addresses_of_servers() {
    let Some((dir, _)) = written() else { return };
    let verify = |leaf: &str, ca: &str, what: &str, good: bool| {
        let verify = format!("verify -x509_strict -CAfile {ca}.crt {what} {leaf}.crt");
        let (fits, said) = openssl(dir.path(), &verify);
        assert_eq!(fits, good, "{verify}: {said}");
    };
    let names = ["m1", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "api.demo.internal"];
    for name in names.iter().chain(&["kubernetes.default.svc.cluster.local", "k8s.example.com"]) {
        verify("apiserver", "ca", &format!("-verify_hostname {name}"), true);
    }
    for address in ["10.0.0.11", "fd00:96::1", "192.0.2.1"] {
        verify("apiserver", "ca", &format!("-verify_ip {address}"), true);
    }
    verify("apiserver", "ca", "-verify_hostname localhost", false);
    verify("apiserver", "ca", "-verify_ip 127.0.0.1", false);
    for leaf in ["etcd/server", "etcd/peer"] {
        for what in ["-verify_hostname m1", "-verify_hostname localhost", "-verify_ip ::1"] {
            verify(leaf, "etcd/ca", what, true);
        }
        verify(leaf, "etcd/ca", "-verify_ip 10.0.0.11", true);
        verify(leaf, "etcd/ca", "-verify_ip 127.0.0.1", true);
        verify(leaf, "etcd/ca", "-verify_ip 10.0.0.12", false);
    }
}

#[test]
fn openssl_computes_the_same_keys_and_ca_hash() {
    let Some((dir, pki)) = written() else { return };
    let public_of = |key: &str| openssl(dir.path(), &format!("pkey -in {key} -pubout")).1;
    assert_eq!(public_of("sa.key"), pki.sa_pub);
    for (leaf, ca, _) in LEAVES.into_iter().filter(|(leaf, ..)| *leaf != "admin") {
        for pair in [leaf, ca] {
            let certified = openssl(dir.path(), &format!("x509 -in {pair}.crt -noout -pubkey")).1;
            assert_eq!(public_of(&format!("{pair}.key")), certified, "{pair}");
        }
    }
    let ca = openssl(dir.path(), "x509 -in ca.crt -noout -pubkey").1;
    std::fs::write(dir.path().join("ca.pub"), ca).unwrap();
    assert!(openssl(dir.path(), "pkey -pubin -in ca.pub -outform der -out ca.spki").0);
    let (_, said) = openssl(dir.path(), "dgst -sha256 -r ca.spki");
    assert_eq!(pki.ca_hash().unwrap(), format!("sha256:{}", said.split(' ').next().unwrap()));
}

#[test]
fn openssl_accepts_an_issued_certificate_until_it_expires() {
    let Some((dir, pki)) = written() else { return };
    let person = Person::new("alice", &["dev".into(), "on-call".into()]).unwrap();
    let now = OffsetDateTime::now_utc();
    let (pair, until) = pki.issue(&person, Duration::hours(8), now).unwrap();
    std::fs::write(dir.path().join("alice.crt"), &pair.cert).unwrap();
    let (_, subject) = openssl(dir.path(), "x509 -in alice.crt -noout -subject -nameopt RFC2253");
    assert_eq!(subject, "subject=CN=alice,O=on-call,O=dev\n");
    for (purpose, seconds, good) in [("sslclient", 0, true), ("sslserver", 0, false), ("sslclient", 1, false)]
    {
        let at = if seconds == 0 { now } else { until + Duration::seconds(seconds) };
        let verify = format!(
            "verify -x509_strict -CAfile ca.crt -purpose {purpose} -attime {} alice.crt",
            at.unix_timestamp()
        );
        let (fits, said) = openssl(dir.path(), &verify);
        assert_eq!(fits, good, "{verify}: {said}");
    }
}
