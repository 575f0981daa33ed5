//! Tests which texts are hidden and which are not.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::*;

const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEG\nCCqGSM49AwEHBG0wawIBAQQg\n-----END PRIVATE KEY-----\n";

fn registry(secrets: &[&str]) -> Registry {
    let mut registry = Registry::default();
    secrets.iter().for_each(|secret| registry.add(secret));
    registry
}

#[test]
fn a_known_key_is_hidden_in_parts_and_base64() {
    let secrets = registry(&[KEY]);
    let packed = format!("key: {}", BASE64_STANDARD.encode(KEY));
    let indented = KEY.replace('\n', "\n    ");
    for text in [KEY, "x MIGHAgEAMBMGByqGSM49AgEG y", &packed, &format!("{KEY:?}"), &indented] {
        let hidden = secrets.hide(text);
        assert!(hidden.contains(HIDDEN) && !hidden.contains("MIGH"), "{hidden}");
    }
    assert_eq!(secrets.hide("-----BEGIN CERTIFICATE-----\nMIIB\n"), "-----BEGIN CERTIFICATE-----\nMIIB\n");
}

#[test]
fn overlapping_secrets_are_hidden_completely() {
    let secrets = registry(&["abcdefgh", "efghijkl", "ghijkl-and-more"]);
    assert_eq!(secrets.hide("x abcdefghijkl-and-more y"), "x [secret] y");
    assert_eq!(secrets.hide("abcdefgh efghijkl"), "[secret] [secret]");
}

#[test]
fn a_secret_that_escaping_completes_is_hidden() {
    let secrets = registry(&["}hunter2-hunter2"]);
    assert_eq!(secrets.hide("a\0hunter2-hunter2"), "a\0hunter2-hunter2");
    assert_eq!(secrets.shown("a\0hunter2-hunter2"), "a\\u{0[secret]");
}

#[test]
fn quoted_secrets_are_hidden_in_shell_json_and_yaml() {
    let secret = "it's a \"quoted\\word\"\x1b";
    let secrets = registry(&[secret]);
    let json = serde_json::json!(secret).to_string();
    for text in [
        secret.replace('\'', r"'\''"),
        secret.replace('\'', "''"),
        clean(secret).into_owned(),
        serde_json::json!(json).to_string(),
        json,
    ] {
        let hidden = secrets.hide(&text);
        assert!(!hidden.contains("word") && !hidden.contains("quoted"), "{hidden}");
    }
}

#[test]
fn short_secrets_are_hidden_only_after_their_field() {
    let mut secrets = Registry::default();
    for (field, text) in [("pin", "1234"), ("usage", "true"), ("user", "default"), (".x", "a"), ("note", " ")]
    {
        secrets.add_field(field, text);
    }
    for (text, hidden) in [
        ("pin: 1234", "pin: [secret]"),
        ("  pin: MTIzNA==\nb: 1", "  pin: [secret]\nb: 1"),
        ("data.pin: \"1234\"", "data.pin: \"[secret]\""),
        (r#"{\"pin\":\"1234\",\"usage\":\"true\"}"#, r#"{\"pin\":\"[secret]\",\"usage\":\"[secret]\"}"#),
        ("user: default, .x: a", "user: [secret], .x: [secret]"),
        ("spin: 1234, a true default: 12345", "spin: 1234, a true default: 12345"),
        ("pin: 12345", "pin: 12345"),
    ] {
        assert_eq!(secrets.hide(text), hidden);
    }
    secrets.add("abcde");
    assert_eq!(secrets.hide("abcde"), "abcde", "five characters are too few");
    secrets.add("abcdef");
    assert_eq!(secrets.hide("abcdef"), HIDDEN, "six characters are enough");
}

#[test]
fn a_name_of_the_inventory_is_not_hidden() {
    let mut secrets = registry(&["vagrant"]);
    secrets.add_plain("vagrant");
    secrets.add("vagrant");
    assert_eq!(secrets.hide("vagrant@198.18.0.11"), "vagrant@198.18.0.11");
}

#[test]
fn credentials_of_a_url_are_hidden_outside_the_url() {
    let mut secrets = Registry::default();
    secrets.add_url("https://ci:hunter%40hunter2@repo.example/x");
    secrets.add_url("https://glpat-0123456789@gitlab.example");
    secrets.add_url("https://host/path@x");
    for text in ["login hunter%40hunter2", "login hunter@hunter2", "glpat-0123456789"] {
        assert!(secrets.hide(text).ends_with(HIDDEN), "{}", secrets.hide(text));
    }
    assert_eq!(secrets.hide("ci runs, path@x"), "ci runs, path@x");
}

#[test]
fn url_passwords_with_special_characters_are_hidden() {
    let mut secrets = Registry::default();
    secrets.add_url("http://me:a/hunter2secret@proxy:3128");
    secrets.add_url("http://me:b?fragile-word@proxy:3128");
    secrets.add_url("http://me:c@d#at-and-hash@proxy:3128");
    secrets.add_url("http://x:y'z@proxy:3128");
    for text in ["a/hunter2secret", "b?fragile-word", "c@d#at-and-hash"] {
        assert_eq!(secrets.hide(text), HIDDEN);
    }
    assert_eq!(
        secrets.hide("http = 'http://me:a/hunter2secret@proxy:3128'"),
        "http = 'http://[secret]@proxy:3128'"
    );
    assert_eq!(secrets.hide("http://x:y'z@proxy"), "http://[secret]@proxy");
    for url in
        ["https://cdn.example/npm/pkg@1.2/a.yaml", "https://h:8443/pkg@1.2", "https://[fd00::1]/pkg@1.2"]
    {
        secrets.add_url(url);
        assert_eq!(secrets.hide(url), url);
    }
}

#[test]
fn secrets_are_hidden_anywhere_in_a_json_value() {
    learn("abcdef.0123456789abcdef");
    let mut value = serde_json::json!({"a": ["x", {"b": "t=abcdef.0123456789abcdef"}], "n": 1});
    assert!(hide_in(&mut value) && !hide_in(&mut serde_json::json!(["x", 2])));
    assert_eq!(value, serde_json::json!({"a": ["x", {"b": "t=[secret]"}], "n": 1}));
}

#[test]
fn a_new_secret_text_is_hidden_everywhere() {
    let secret = SecretText::new("made-for-this-test");
    assert_eq!(format!("{secret:?} {:?}", Some(&secret)), "[secret] Some([secret])");
    assert_eq!(Shown::of("x made-for-this-test\x1b y").as_str(), "x [secret]\\u{1b} y");
    assert_eq!(secret.reveal(), "made-for-this-test");
}
