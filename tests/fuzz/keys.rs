//! Mutates kubeconfigs, certificates and package keys. ironstrap never accepts a foreign one, and never loses entries.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ironstrap::openpgp::Keys;
use ironstrap::pki::ClusterPki;
use ironstrap::{inventory, pki, yaml};
use serde_json::Value;
use time::OffsetDateTime;

use crate::support::{self, fuzz};

const THEIRS: &str = "# for work\napiVersion: v1\nkind: Config\npreferences: {colors: true}\n\
    clusters:\n- name: work\n  cluster: {server: 'https://work', insecure-skip-tls-verify: true}\n\
    users:\n- name: me\n  user:\n    exec: {command: login, args: ['0123', 'no', '1e3', '~'], env: null}\n\
    contexts:\n- name: work\n  context: {cluster: work, user: me, namespace: shop}\n\
    current-context: work\nextensions: [{name: x, extension: {a: 1.5, b: 'yes'}}]\n";

/// A kubeconfig without the entries of the cluster `demo`.
fn others(config: &Value) -> Value {
    let mut rest = config.clone();
    for list in ["clusters", "users", "contexts"] {
        match rest.get_mut(list) {
            Some(Value::Array(entries)) => entries.retain(|entry| entry["name"] != "demo"),
            Some(Value::Null) | None => rest[list] = Value::Array(vec![]),
            Some(_) => {}
        }
    }
    for (key, first) in [("apiVersion", "v1"), ("kind", "Config"), ("current-context", "demo")] {
        if rest[key].is_null() || rest[key] == "" {
            rest[key] = first.into();
        }
    }
    rest
}

#[test]
fn a_kubeconfig_merge_keeps_foreign_entries() {
    let cluster = support::lab();
    let pki = support::pki(&cluster);
    let entry = pki.entry(&cluster, "https://10.0.0.11:6443", ("demo", "demo"), &pki.admin);
    let ours = pki::merged(None, &entry).unwrap().text.unwrap();
    let both = pki::merged(Some(THEIRS), &entry).unwrap().text.unwrap();
    fuzz::each(
        1500,
        |random| random.text(&[THEIRS, &ours, &both]),
        |text| {
            let Ok(merged) = pki::merged(Some(text), &entry) else { return };
            let Some(after) = merged.text else { return };
            let before = yaml::read::<Value>(text).unwrap_or(Value::Null);
            let before = if before.is_null() { serde_json::json!({}) } else { before };
            let again: Value = yaml::read(&after).unwrap();
            let has = |list: &str| {
                again[list].as_array().is_some_and(|all| all.iter().any(|it| it["name"] == "demo"))
            };
            assert!(["clusters", "users", "contexts"].iter().all(|list| has(list)), "{text}\n---\n{after}");
            let (before, left) = (others(&before), others(&again));
            for (key, value) in before.as_object().unwrap() {
                assert_eq!(left.get(key), Some(value), "{key} of {text}\n---\n{after}");
            }
            assert_eq!(
                pki::merged(Some(&after), &entry).unwrap().text,
                None,
                "twice changes nothing: {after}"
            );
        },
    );
}

/// The DER content of a PEM block.
fn der(text: &str) -> Vec<u8> {
    pem::parse(text).unwrap().into_contents()
}

/// The reason why a certificate is not the administrator's. `None` if it is.
fn why_not_admin(pki: &ClusterPki, packed: &str) -> Option<String> {
    let user = ("demo-admin", Some("kubeadm:cluster-admins"));
    pki.why_no_client(packed, user, OffsetDateTime::now_utc()).unwrap()
}

#[test]
fn a_mutated_certificate_is_never_accepted() {
    let pki = support::pki(&support::lab());
    let (ca, admin) = (der(&pki.ca.cert), der(&pki.admin.cert));
    assert_eq!(why_not_admin(&pki, &BASE64_STANDARD.encode(&pki.admin.cert)), None);
    fuzz::each(
        1500,
        |random| random.mutated(&[&ca, &admin]),
        |case| {
            let line_ends = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
            let text = pem::encode_config(&pem::Pem::new("CERTIFICATE", case.clone()), line_ends);
            let _ = (pki::expires(&text), pki::in_words(&text));
            assert!(!pki.is_our_ca(&text) || *case == ca, "not our CA: {text}");
            let why = why_not_admin(&pki, &BASE64_STANDARD.encode(&text));
            assert!(why.is_some() || *case == admin, "no certificate of ours: {text}");
        },
    );
}

#[test]
fn a_mutated_pem_is_never_accepted() {
    let pki = support::pki(&support::lab());
    let (ca, admin) = (der(&pki.ca.cert), der(&pki.admin.cert));
    let make = |random: &mut fuzz::Random| random.text(&[&pki.ca.cert, &pki.admin.cert]);
    fuzz::each(1500, make, |text| {
        let _ = (pki::expires(text), pki::in_words(text), why_not_admin(&pki, text));
        let is = |right: &[u8]| pem::parse(text).is_ok_and(|pem| pem.contents() == right);
        assert!(!pki.is_our_ca(text) || is(&ca), "not our CA: {text}");
        let why = why_not_admin(&pki, &BASE64_STANDARD.encode(text));
        assert!(why.is_some() || is(&admin), "no certificate of ours: {text}");
    });
}

const OTHER: &str = include_str!("../keys/other.asc");
const KUBERNETES: &str = include_str!("../keys/kubernetes.asc");

fn armored(bytes: &[u8]) -> String {
    let packed = BASE64_STANDARD.encode(bytes);
    format!("-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n{packed}\n-----END PGP PUBLIC KEY BLOCK-----\n")
}

#[test]
fn a_mutated_package_key_changes_its_fingerprint() {
    let bytes = |text: &str| {
        let body: Vec<&str> = text.lines().skip_while(|line| !line.is_empty()).collect();
        let body: String = body.into_iter().take_while(|line| !line.starts_with('=')).collect();
        BASE64_STANDARD.decode(body).unwrap()
    };
    let (kubernetes, other) = (bytes(KUBERNETES), bytes(OTHER));
    // The fingerprint covers only the first packet.
    let primary = &kubernetes[3..272];
    let right = Keys::read(KUBERNETES).unwrap().fingerprints;
    let seeds: [&[u8]; 3] = [&kubernetes, &other, KUBERNETES.as_bytes()];
    fuzz::each(
        2000,
        |random| random.mutated(&seeds),
        |case| {
            let Ok(keys) = Keys::read(&armored(case)) else { return };
            assert_eq!(Keys::read(&keys.armored()).as_ref(), Ok(&keys));
            assert!(keys.fingerprints.iter().all(|found| found.len() == 40 || found.len() == 64));
            if keys.fingerprints == right {
                assert!(
                    case.windows(primary.len()).any(|part| part == primary),
                    "another key of the same name"
                );
            }
        },
    );
}

#[test]
fn a_mutated_package_key_file_never_yields_a_private_key() {
    let seeds = [KUBERNETES, OTHER, include_str!("../keys/secret.asc")];
    fuzz::each(
        2000,
        |random| random.text(&seeds),
        |text| {
            let Ok(keys) = Keys::read(text) else { return };
            assert_eq!(Keys::read(&keys.armored()).as_ref(), Ok(&keys));
            assert!(!keys.armored().contains("PRIVATE"), "{text}");
            assert!(!text.contains("PRIVATE KEY BLOCK-----\n\n"), "{text}");
        },
    );
}

#[test]
fn a_mutated_ca_bundle_never_yields_a_private_key() {
    let dir = tempfile::tempdir().unwrap();
    let inventory = "[cluster]\nname = 'demo'\nkubernetes = '1.36.3'\n[registries.'r.io']\nmirrors = ['https://m.io']\n\
        ca = 'ca.pem'\n[nodes.m1]\naddress = '198.18.0.11'\nrole = 'control-plane'\n";
    let (ca, both) =
        (include_str!("../inventories/mirror-ca.pem"), include_str!("../inventories/with-key.pem"));
    let secret: Vec<&str> = both.lines().skip(1).take_while(|line| !line.starts_with("-----")).collect();
    let twice = format!("{ca}{ca}");
    fuzz::each(
        1000,
        |random| random.mutated(&[ca.as_bytes(), both.as_bytes(), twice.as_bytes()]),
        |case| {
            std::fs::write(dir.path().join("ca.pem"), case).unwrap();
            let Ok(cluster) = inventory::parse(inventory, &dir.path().join("demo.toml")) else { return };
            let text = cluster.registries[0].ca.as_deref().unwrap();
            let blocks = pem::parse_many(text).unwrap();
            assert!(!blocks.is_empty() && blocks.iter().all(|block| block.tag() == "CERTIFICATE"), "{text}");
            assert!(secret.iter().all(|line| !text.contains(line)), "{text}");
        },
    );
}
