//! What others write, mutated: kubeconfigs, certificates, package keys. Seeded: each run tries the same cases. With
//! IRONSTRAP_FUZZ_SECONDS each test goes on for so long, from a seed of that moment, which it prints.

// clippy sees no test in what the tests share.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ironstrap::openpgp::Keys;
use ironstrap::{inventory, pki};
use serde_json::Value;
use time::OffsetDateTime;

/// xorshift64*
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

const PIECES: &[&str] = &[
    "",
    "\n",
    "\r\n",
    "\0",
    "\u{feff}",
    "\u{202e}",
    "'",
    "\"",
    ": ",
    "- ",
    "{}",
    "[]",
    "null",
    "~",
    "!!binary ",
    "&a ",
    "*a",
    "-----BEGIN CERTIFICATE-----\n",
    "-----END CERTIFICATE-----\n",
    "-----BEGIN EC PRIVATE KEY-----\n",
    "-----BEGIN PGP PUBLIC KEY BLOCK-----\n",
    "-----END PGP PUBLIC KEY BLOCK-----\n",
    "=AAAA\n",
    "====",
    "Version: x\n",
    "\u{ff}",
    "99999999999999999999",
    "0x",
    "name: demo",
    "current-context: ",
];

/// One to four changes of a text: bytes, pieces, parts of it again, parts of another.
fn mutated(chance: &mut Chance, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = seeds[chance.below(seeds.len())].clone();
    for _ in 0..=chance.below(4) {
        let at = chance.below(bytes.len() + 1);
        let end = (at + chance.below(80)).min(bytes.len());
        match chance.below(6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << chance.below(8),
            1 if at < bytes.len() => bytes[at] = chance.next() as u8,
            2 => drop(bytes.drain(at..end)),
            3 => {
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
            4 => {
                let other = &seeds[chance.below(seeds.len())];
                let from = chance.below(other.len() + 1);
                let part = other[from..(from + chance.below(200)).min(other.len())].to_vec();
                bytes.splice(at..end, part);
            }
            _ => drop(bytes.splice(at..at, PIECES[chance.below(PIECES.len())].bytes())),
        }
    }
    bytes
}

/// Tries so many mutations, or as many as the time allows.
fn fuzz(cases: usize, seeds: &[Vec<u8>], mut check: impl FnMut(&[u8])) {
    let seconds = std::env::var("IRONSTRAP_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    let (mut chance, mut tried, since) = (Chance(0x1b0a_57a9), 0_usize, Instant::now());
    if seconds.is_some() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        chance = Chance(now.as_nanos() as u64 | 1);
        eprintln!("seed {:#x}", chance.0);
    }
    let mut slowest = Duration::ZERO;
    while seconds.map_or(tried < cases, |seconds: u64| since.elapsed() < Duration::from_secs(seconds)) {
        let case = mutated(&mut chance, seeds);
        let begun = Instant::now();
        check(&case);
        slowest = slowest.max(begun.elapsed());
        tried += 1;
    }
    eprintln!("{tried} cases in {:?}, the slowest took {slowest:?}", since.elapsed());
    assert!(slowest < Duration::from_secs(20), "one took {slowest:?}");
}

const THEIRS: &str = "# for work\napiVersion: v1\nkind: Config\npreferences: {colors: true}\n\
    clusters:\n- name: work\n  cluster: {server: 'https://work', insecure-skip-tls-verify: true}\n\
    users:\n- name: me\n  user:\n    exec: {command: login, args: ['0123', 'no', '1e3', '~'], env: null}\n\
    contexts:\n- name: work\n  context: {cluster: work, user: me, namespace: shop}\n\
    current-context: work\nextensions: [{name: x, extension: {a: 1.5, b: 'yes'}}]\n";

/// Everything in it but what is called after our cluster.
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
fn nothing_of_a_kubeconfig_is_lost_by_a_merge() {
    let cluster = common::lab();
    let trust = common::trust(&cluster);
    let entry = trust.entry(&cluster, "https://10.0.0.11:6443", ("demo", "demo"), &trust.admin);
    let ours = pki::merged(None, &entry).unwrap().text.unwrap();
    let both = pki::merged(Some(THEIRS), &entry).unwrap().text.unwrap();
    let seeds = [THEIRS, &ours, &both].map(|text| text.as_bytes().to_vec());
    fuzz(1500, &seeds, |case| {
        let text = String::from_utf8_lossy(case);
        let Ok(merged) = pki::merged(Some(&text), &entry) else { return };
        let Some(after) = merged.text else { return };
        let before = serde_saphyr::from_str::<Value>(&text).unwrap_or(Value::Null);
        let before = if before.is_null() { serde_json::json!({}) } else { before };
        let again: Value = serde_saphyr::from_str(&after).unwrap();
        let has =
            |list: &str| again[list].as_array().is_some_and(|all| all.iter().any(|it| it["name"] == "demo"));
        assert!(["clusters", "users", "contexts"].iter().all(|list| has(list)), "{text}\n---\n{after}");
        let (before, left) = (others(&before), others(&again));
        for (key, value) in before.as_object().unwrap() {
            assert_eq!(left.get(key), Some(value), "{key} of {text}\n---\n{after}");
        }
        assert_eq!(pki::merged(Some(&after), &entry).unwrap().text, None, "twice changes nothing: {after}");
    });
}

#[test]
fn a_mutated_certificate_is_never_taken_for_ours() {
    let cluster = common::lab();
    let (trust, now) = (common::trust(&cluster), OffsetDateTime::now_utc());
    let der = |text: &str| pem::parse(text).unwrap().into_contents();
    let (ca, admin) = (der(&trust.ca.cert), der(&trust.admin.cert));
    let wrap = |der: Vec<u8>| {
        let line_ends = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
        pem::encode_config(&pem::Pem::new("CERTIFICATE", der), line_ends)
    };
    let user = (format!("{}-admin", cluster.name), Some("kubeadm:cluster-admins"));
    let check = |text: &str| {
        let _ = (pki::expires(text), pki::in_words(text));
        let is = |right: &[u8]| pem::parse(text).is_ok_and(|pem| pem.contents() == right);
        if trust.is_our_ca(text) {
            assert!(text.contains("-----BEGIN"), "{text}");
            assert!(is(&ca), "not our CA: {text}");
        }
        let why = trust.why_no_client(&BASE64_STANDARD.encode(text), (&user.0, user.1), now).unwrap();
        assert!(why.is_some() || is(&admin), "no certificate of ours: {text}");
    };
    assert!(
        trust
            .why_no_client(&BASE64_STANDARD.encode(&trust.admin.cert), (&user.0, user.1), now)
            .unwrap()
            .is_none()
    );
    fuzz(1500, &[ca.clone(), admin.clone()], |case| check(&wrap(case.to_vec())));
    let texts = [&trust.ca.cert, &trust.admin.cert].map(|text| text.clone().into_bytes());
    fuzz(1500, &texts, |case| {
        let text = String::from_utf8_lossy(case);
        let _ = (pki::expires(&text), pki::in_words(&text), trust.is_our_ca(&text));
        let _ = trust.why_no_client(&text, (&user.0, user.1), now).unwrap();
    });
}

const OTHER: &str = include_str!("keys/other.asc");
const KUBERNETES: &str = include_str!("keys/kubernetes.asc");

fn armored(bytes: &[u8]) -> String {
    let packed = BASE64_STANDARD.encode(bytes);
    format!("-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n{packed}\n-----END PGP PUBLIC KEY BLOCK-----\n")
}

#[test]
fn a_mutated_package_key_has_another_fingerprint_or_none() {
    let bytes = |text: &str| {
        let body: Vec<&str> = text.lines().skip_while(|line| !line.is_empty()).collect();
        let body: String = body.into_iter().take_while(|line| !line.starts_with('=')).collect();
        BASE64_STANDARD.decode(body).unwrap()
    };
    let (kubernetes, other) = (bytes(KUBERNETES), bytes(OTHER));
    // The first packet, which is all that a fingerprint is of.
    let primary = kubernetes[..272].to_vec();
    let right = Keys::read(KUBERNETES).unwrap().fingerprints;
    let again = |keys: &Keys| assert_eq!(Keys::read(&keys.armored()).as_ref(), Ok(keys));
    fuzz(
        2000,
        &[kubernetes.clone(), other.clone(), include_bytes!("keys/kubernetes.asc").to_vec()],
        |case| {
            let Ok(keys) = Keys::read(&armored(case)) else { return };
            again(&keys);
            assert!(keys.fingerprints.iter().all(|found| found.len() == 40 || found.len() == 64));
            if keys.fingerprints == right {
                assert!(case.windows(269).any(|part| part == &primary[3..]), "another key of the same name");
            }
        },
    );
    let texts = [KUBERNETES, OTHER, include_str!("keys/secret.asc")].map(|text| text.as_bytes().to_vec());
    fuzz(2000, &texts, |case| {
        let text = String::from_utf8_lossy(case);
        let Ok(keys) = Keys::read(&text) else { return };
        again(&keys);
        assert!(
            !keys.armored().contains("PRIVATE") && !text.contains("PRIVATE KEY BLOCK-----\n\n"),
            "{text}"
        );
    });
}

#[test]
fn a_mutated_bundle_never_brings_a_private_key_to_a_machine() {
    let dir = tempfile::tempdir().unwrap();
    let inventory = "[cluster]\nname = 'demo'\nkubernetes = '1.36.3'\n[registries.'r.io']\nmirrors = ['https://m.io']\n\
        ca = 'ca.pem'\n[nodes.m1]\naddress = '198.18.0.11'\nrole = 'control-plane'\n";
    let (ca, both) = (include_str!("inventories/mirror-ca.pem"), include_str!("inventories/with-key.pem"));
    let secret: Vec<&str> = both.lines().skip(1).take_while(|line| !line.starts_with("-----")).collect();
    let seeds = [ca, both, &format!("{ca}{ca}")].map(|text| text.as_bytes().to_vec());
    fuzz(1000, &seeds, |case| {
        std::fs::write(dir.path().join("ca.pem"), case).unwrap();
        let Ok(cluster) = inventory::parse(inventory, &dir.path().join("demo.toml")) else { return };
        let text = cluster.registries[0].ca.as_deref().unwrap();
        let blocks = pem::parse_many(text).unwrap();
        assert!(!blocks.is_empty() && blocks.iter().all(|block| block.tag() == "CERTIFICATE"), "{text}");
        assert!(secret.iter().all(|line| !text.contains(line)), "{text}");
    });
}
