//! Tests which lines of known_hosts are about a host, and what they say about its key.

use russh::keys::PrivateKey;
use russh::keys::ssh_key::certificate::{Builder, CertType};
use russh::keys::ssh_key::private::Ed25519Keypair;

use super::*;

const A: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDUalGL/Qoxjl9vcLmxyET8xCyEw0nyo60nuteyYJrhs";
const A_FINGERPRINT: &str = "ED25519 SHA256:fD4ofZa/TcXddWmGfAxjKolMa6nuiq+irloGMEQGID0";
const B: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDQeOxgwVhTVTUEeFBJihp6BCS3q/omiK92i3J06xSWF";
const EC: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBBR1i5NfTqGlHDhv1kzDZ+DzohQYkbEMfqWGpeFJRg1cOJtLVpS9G7jzH7s8H0ONoSUgp9vtPJ8idP5E/9SZGaI=";
const EC_FINGERPRINT: &str = "ECDSA SHA256:J6wHIsqaObQxN7YSfCAsNrVGUZlfEQ2eXdZfqKp+ygM";

/// Names that `ssh-keygen -H` of OpenSSH hashed, for m1.example, [m1.example]:2222 and 198.18.0.11.
const HASHED: [&str; 3] = [
    "|1|g3Dn0aUjC2GEkwhslFz65D6tCeU=|cKPfEk/82GXCy1u19d5l2Qnwry0=",
    "|1|AZG+WGJgcsDo0LSumLFmeUHtMkI=|Y2VCGNUBV40sGKaakUGJQ/tuP4M=",
    "|1|fpIH81SAKZyqapJpA+/9Esb20kM=|LMGtD9T06+bIw5/EM4+T3avBD1M=",
];

fn known(text: &str) -> KnownHosts {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("known_hosts");
    std::fs::write(&file, text).unwrap();
    KnownHosts::load(&[file], &[], Some(dir.path()), None).unwrap()
}

fn key(text: &str) -> PublicKey {
    PublicKey::from_openssh(text).unwrap()
}

fn check(text: &str, shows: &str) -> Verdict {
    known(text).check("m1.example", 22, &key(shows))
}

/// Returns the lines by which the host is known with another key.
fn changed(verdict: Verdict) -> Vec<usize> {
    match verdict {
        Verdict::Changed(old) => old.iter().map(|old| old.line).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_host_on_a_plain_line_is_known() {
    assert_eq!(check(&format!("m1.example {A}\n"), A), Verdict::Known);
    assert_eq!(check(&format!("other,m1.example {A}"), A), Verdict::Known);
    assert_eq!(check(&format!("m2.example {A}\n"), A), Verdict::Unknown);
    assert_eq!(check("", A), Verdict::Unknown);
}

#[test]
fn only_lines_about_the_given_host_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("known_hosts");
    std::fs::write(&file, format!("m1.example {A}\nm2.example {A}\n@revoked * {B}\n{} {A}\n", HASHED[0]))
        .unwrap();
    let known = KnownHosts::load(&[file], &[], None, Some("m1.example")).unwrap();
    assert_eq!(known.lines.iter().map(|line| line.seen.line).collect::<Vec<_>>(), [1, 3, 4]);
}

#[test]
fn tabs_and_carriage_returns_count_as_spaces() {
    assert_eq!(check(&format!("m1.example\t{}\r\n", A.replace(' ', "\t")), A), Verdict::Known);
    assert_eq!(check(&format!(" \t m1.example   {A}\n"), A), Verdict::Known);
}

#[test]
fn patterns_match_as_in_openssh() {
    for patterns in ["m*", "*", "m?.example", "M1.Example", "*.example", "m*1*e*e", "x,m1.*,y"] {
        assert_eq!(check(&format!("{patterns} {A}\n"), A), Verdict::Known, "{patterns}");
    }
    for patterns in
        ["m", "m?.exampl", "m1.example?", "*.Examples", "!m2*", "*,!m1.example", "!m1*,m1.example"]
    {
        assert_eq!(check(&format!("{patterns} {A}\n"), A), Verdict::Unknown, "{patterns}");
    }
    assert_eq!(known(&format!("m1.example {A}\n")).check("M1.EXAMPLE", 22, &key(A)), Verdict::Known);
}

#[test]
fn a_revoked_key_is_refused_even_if_known() {
    let verdict = check(&format!("m1.example {A}\n@revoked * {A}\n"), A);
    assert!(matches!(&verdict, Verdict::Revoked(seen) if seen.line == 2 && seen.key == A_FINGERPRINT));
    assert_eq!(check(&format!("@revoked * {B}\nm1.example {A}\n"), A), Verdict::Known);
    assert_eq!(check(&format!("@revoked m2.example {A}\nm1.example {A}\n"), A), Verdict::Known);
    assert_eq!(check(&format!("@revoked * {B}\n"), A), Verdict::Unknown);
}

#[test]
fn an_authority_line_matches_no_plain_key() {
    assert_eq!(check(&format!("@cert-authority * {A}\n"), A), Verdict::Unknown);
    assert_eq!(check(&format!("@cert-authority * {B}\nm1.example {A}\n"), A), Verdict::Known);
    assert!(known(&format!("@cert-authority * {A}\n")).algorithms("m1.example", 22).is_empty());
}

#[test]
fn a_key_of_another_type_is_a_changed_key() {
    assert_eq!(changed(check(&format!("m1.example {EC}\n"), A)), [1]);
}

#[test]
fn the_right_key_is_accepted_beside_an_old_one() {
    assert_eq!(check(&format!("m1.example {B}\nm1.example {A}\n"), A), Verdict::Known);
}

#[test]
fn a_broken_line_affects_no_other_line() {
    let broken = "m1.example ssh-ed25519 AAAA!\nm1.example\n@odd m1.example x y\n|1|x m1 y\n\u{0}\n";
    assert_eq!(check(&format!("{broken}m1.example {A}\n"), A), Verdict::Known);
    assert_eq!(check(broken, A), Verdict::Unknown);
}

#[test]
fn invalid_utf8_in_comments_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("known_hosts");
    std::fs::write(&file, [b"# caf\xe9\nm1.example ", A.as_bytes(), b" caf\xe9\n"].concat()).unwrap();
    let known = KnownHosts::load(std::slice::from_ref(&file), &[], None, None).unwrap();
    assert_eq!(known.check("m1.example", 22, &key(A)), Verdict::Known);
}

#[test]
fn comments_of_keys_are_ignored() {
    assert_eq!(check(&format!("m1.example {A} root@m1 # 2\n"), &format!("{A} another")), Verdict::Known);
}

#[test]
fn a_changed_key_is_reported_with_its_line_number() {
    let verdict = check(&format!("# mine\n\n# m1.example {A}\nm1.example {EC}\nx {A}\nm1.* {B}\n"), A);
    assert_eq!(changed(verdict.clone()), [4, 6]);
    let Verdict::Changed(old) = verdict else { unreachable!() };
    assert_eq!(old[0].key, EC_FINGERPRINT);
    assert_eq!(old[0].shown, "~/known_hosts:4");
}

#[test]
fn hashed_names_match() {
    let text: String = HASHED.iter().map(|hashed| format!("{hashed} {A}\n")).collect();
    let known = known(&text);
    for (host, port) in [("m1.example", 22), ("M1.example", 2222), ("198.18.0.11", 22)] {
        assert_eq!(known.check(host, port, &key(A)), Verdict::Known, "{host} {port}");
        assert!(matches!(known.check(host, port, &key(B)), Verdict::Changed(_)), "{host} {port}");
    }
    assert_eq!(known.check("m2.example", 22, &key(A)), Verdict::Unknown);
    assert_eq!(known.check("198.18.0.11", 2222, &key(A)), Verdict::Unknown);
}

#[test]
fn another_port_is_another_host() {
    let known = known(&format!("[m1.example]:2222 {A}\n[::1]:2222,::1 {B}\n"));
    assert_eq!(known.check("m1.example", 2222, &key(A)), Verdict::Known);
    assert_eq!(known.check("m1.example", 22, &key(A)), Verdict::Unknown);
    assert_eq!(known.check("::1", 2222, &key(B)), Verdict::Known);
    assert_eq!(known.check("::1", 22, &key(B)), Verdict::Known);
}

#[test]
fn the_key_types_of_a_known_host_are_listed() {
    let known = known(&format!("m1.example {EC}\nm2.example {A}\n@revoked m1.example {B}\n"));
    assert_eq!(known.algorithms("m1.example", 22), [key(EC).algorithm()]);
}

#[test]
fn unreadable_files_are_errors_and_absent_ones_are_empty() {
    let dir = tempfile::tempdir().unwrap();
    let error = KnownHosts::load(&[dir.path().into()], &[], None, None).unwrap_err();
    assert_eq!(error.kind, Kind::Local);
    let known = KnownHosts::load(&[dir.path().join("absent")], &[], None, None).unwrap();
    assert_eq!(known.check("m1.example", 22, &key(A)), Verdict::Unknown);
}

#[test]
fn a_new_key_starts_a_new_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("known_hosts");
    std::fs::write(&file, format!("m1.example {A}")).unwrap();
    let known = KnownHosts::load(std::slice::from_ref(&file), &[], None, None).unwrap();
    known.add("M2", 22, &key(&format!("{B} a comment"))).unwrap();
    known.add("m2", 2222, &key(B)).unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text, format!("m1.example {A}\nm2 {B}\n[m2]:2222 {B}\n"));
}

#[test]
fn the_first_key_creates_a_private_folder_and_file() {
    use std::os::unix::fs::PermissionsExt;
    let home = tempfile::tempdir().unwrap();
    KnownHosts::load(&[home.path().join(".ssh/known_hosts")], &[], Some(home.path()), None)
        .unwrap()
        .add("m1", 22, &key(A))
        .unwrap();
    let mode = |path: &str| std::fs::metadata(home.path().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(".ssh"), mode(".ssh/known_hosts")), (0o700, 0o600));
    assert_eq!(std::fs::read_to_string(home.path().join(".ssh/known_hosts")).unwrap(), format!("m1 {A}\n"));
}

#[test]
fn concurrently_added_keys_get_separate_lines() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("known_hosts");
    let known = KnownHosts::load(std::slice::from_ref(&file), &[], None, None).unwrap();
    std::thread::scope(|scope| {
        for node in 0..16 {
            let known = &known;
            scope.spawn(move || known.add(&format!("m{node}"), 22, &key(EC)).unwrap());
        }
    });
    let known = KnownHosts::load(std::slice::from_ref(&file), &[], None, None).unwrap();
    assert!((0..16).all(|node| known.check(&format!("m{node}"), 22, &key(EC)) == Verdict::Known));
}

#[test]
fn a_file_of_another_purpose_is_not_changed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("authorized_keys");
    let text = format!("# mine\n{A} me@laptop");
    std::fs::write(&file, &text).unwrap();
    let known = KnownHosts::load(std::slice::from_ref(&file), &[], None, None).unwrap();
    let error = known.add("m1", 22, &key(B)).unwrap_err();
    assert!(error.cause[0].ends_with("authorized_keys:2 is not a known_hosts line"), "{error}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    assert!(check_purpose(&file, "it").is_err());
}

#[test]
fn adding_a_key_to_dev_null_succeeds() {
    KnownHosts::load(&["/dev/null".into()], &[], None, None).unwrap().add("m1", 22, &key(A)).unwrap();
}

/// Makes a certificate of the CA for a host's key. `made` completes it.
fn certified(ca: &PrivateKey, type_: CertType, made: impl FnOnce(&mut Builder)) -> Certificate {
    let mut builder = Builder::new(vec![7; 16], key(A).key_data().clone(), 1_000, 2_000).unwrap();
    builder.cert_type(type_).unwrap();
    made(&mut builder);
    builder.sign(ca).unwrap()
}

#[test]
fn host_certificates_are_verified_as_in_openssh() {
    let ca = PrivateKey::from(Ed25519Keypair::from_seed(&[1; 32]));
    let authority = format!("@cert-authority *.example {}\n", ca.public_key().to_openssh().unwrap());
    let named = |name: &'static str| {
        move |builder: &mut Builder| {
            builder.valid_principal(name).unwrap();
        }
    };
    let good = certified(&ca, CertType::Host, named("*.example"));
    let vouches = |text: &str, certificate: &Certificate, now| {
        known(text).vouches("m1.example", 22, certificate, now).err()
    };
    assert!(known(&authority).has_authority("m1.example", 22) && !known(&authority).has_authority("m1", 22));
    assert_eq!(vouches(&authority, &good, 1_500), None);
    let none = vouches(&format!("m1.example {A}\n"), &good, 1_500).unwrap();
    assert!(
        none.starts_with("it is signed by SHA256:")
            && none.ends_with(", which is not one of your authorities"),
        "{none}"
    );
    let late = "it is not valid now, or its signature is wrong";
    for now in [999, 2_000] {
        assert_eq!(vouches(&authority, &good, now).as_deref(), Some(late), "{now}");
    }
    let revoked = vouches(&format!("{authority}@revoked * {A}\n"), &good, 1_500).unwrap();
    assert!(revoked.starts_with("one of its keys is revoked in "), "{revoked}");
    let other = certified(&ca, CertType::Host, named("m2.example"));
    assert_eq!(
        vouches(&authority, &other, 1_500).as_deref(),
        Some("it is for m2.example, not for m1.example")
    );
    let all = certified(&ca, CertType::Host, |builder| {
        builder.all_principals_valid().unwrap();
    });
    assert_eq!(vouches(&authority, &all, 1_500).as_deref(), Some("it names no host"));
    let user = certified(&ca, CertType::User, named("m1.example"));
    assert_eq!(
        vouches(&authority, &user, 1_500).as_deref(),
        Some("it is a user certificate, not a host certificate")
    );
    let critical = certified(&ca, CertType::Host, |builder| {
        builder.valid_principal("m1.example").unwrap().critical_option("x", "y").map(drop).unwrap();
    });
    assert_eq!(vouches(&authority, &critical, 1_500).as_deref(), Some("it has unknown critical options"));
}
