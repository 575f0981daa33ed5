//! ironstrap follows the restrictions of the operator's ssh_config. The host's own `ssh` parses the file.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use ironstrap::error::{Error, Kind};
use ironstrap::shell::Output;
use ironstrap::ssh::{Ask, Client, Operator, Ssh};

use super::server::{Manner, new_key};
use super::{Stage, run};

/// A stage with these lines as its ssh_config, and the result of a script. HOME in the lines is the operator's home.
/// `None` if the host has no `ssh`.
async fn with(lines: &str) -> Option<(Stage, Result<Output, Error>)> {
    let stage = Stage::new(Manner::Reads).await;
    let outcome = stage_run(&stage, lines).await?;
    Some((stage, outcome))
}

pub async fn stage_run(stage: &Stage, lines: &str) -> Option<Result<Output, Error>> {
    let ssh: PathBuf = which::which("ssh").ok()?;
    let home = stage.home.path().display().to_string();
    let config = stage.path("ssh_config");
    let known =
        if lines.contains("UserKnownHostsFile") { "" } else { "UserKnownHostsFile HOME/.ssh/known_hosts\n" };
    std::fs::write(&config, format!("{known}{lines}\n").replace("HOME", &home)).unwrap();
    let home = Some(stage.home.path().into());
    let operator =
        Operator { home, user: "me".into(), ssh: Some(ssh), config: Some(config), ..Operator::default() };
    let answer: Ask = Box::new(|_| Box::pin(async { Ok(Some("sesame".into())) }));
    let client = Arc::new(Client::new(stage.options.clone(), operator).asking(answer, 1));
    Some(run(&Ssh::new(&stage.node, &client), "out yes\nexit 0").await)
}

pub fn write(stage: &Stage, name: &str, text: &str) {
    std::fs::write(stage.path(name), text).unwrap();
}

pub fn nobody_logged_in(stage: &Stage) {
    assert_eq!(stage.server.seen.logins.load(SeqCst), 0, "there was a login");
}

fn host_key(stage: &Stage) -> String {
    stage.server.host_key.to_openssh().unwrap()
}

#[tokio::test]
async fn a_known_but_revoked_host_key_is_refused() {
    let stage = Stage::new(Manner::Reads).await;
    let other = new_key().public_key().to_openssh().unwrap();
    write(&stage, "revoked", &format!("# stolen\n\n{other}\n{}\n", host_key(&stage)));
    let Some(outcome) = stage_run(&stage, "RevokedHostKeys HOME/revoked").await else { return };
    let error = outcome.unwrap_err();
    assert_eq!(
        (error.kind, error.what.as_str()),
        (Kind::Unreachable, "the host key of 127.0.0.1 is revoked")
    );
    assert!(error.cause[0].ends_with("~/revoked:4"), "{error}");
    nobody_logged_in(&stage);
    write(&stage, "revoked", &format!("{other}\n"));
    assert!(stage_run(&stage, "RevokedHostKeys HOME/revoked").await.unwrap().is_ok(), "another key is");
}

#[tokio::test]
async fn a_revoked_host_key_is_refused_despite_its_pin() {
    let mut stage = Stage::new(Manner::Reads).await;
    let fingerprint = stage.server.host_key.fingerprint(russh::keys::HashAlg::Sha256).to_string();
    stage.node.ssh.host_key = Some(fingerprint);
    write(&stage, "revoked", &host_key(&stage));
    let Some(outcome) = stage_run(&stage, "RevokedHostKeys HOME/revoked").await else { return };
    assert_eq!(outcome.unwrap_err().what, "the host key of 127.0.0.1 is revoked");
    nobody_logged_in(&stage);
    assert!(stage_run(&stage, "").await.unwrap().is_ok());
}

#[tokio::test]
async fn an_unreadable_revocation_list_refuses_every_host() {
    let stage = Stage::new(Manner::Reads).await;
    write(&stage, "key.pub", &host_key(&stage));
    write(&stage, "garbled", "not a key\n");
    let made = Command::new("ssh-keygen")
        .args(["-k", "-f"])
        .args([stage.path("krl"), stage.path("key.pub")])
        .output();
    let mut files = vec![("missing", "No such file"), ("garbled", "garbled:1")];
    files.extend(
        made.is_ok_and(|made| made.status.success()).then_some(("krl", "it is a key revocation list")),
    );
    for (file, why) in files {
        let Some(outcome) = stage_run(&stage, &format!("RevokedHostKeys HOME/{file}")).await else { return };
        let error = outcome.unwrap_err();
        assert_eq!(error.what, format!("cannot read the revoked host keys in ~/{file}"));
        assert!(error.cause[0].contains(why), "{error}");
        assert!(error.hint.is_some());
    }
    nobody_logged_in(&stage);
}

#[tokio::test]
async fn default_and_slightly_restricted_ssh_settings_work() {
    for lines in [
        "",
        "Ciphers aes256-ctr",
        "Ciphers aes128-ctr,3des-cbc",
        "KexAlgorithms curve25519-sha256",
        "KexAlgorithms diffie-hellman-group16-sha512,sntrup761x25519-sha512@openssh.com",
        "MACs hmac-sha2-256,umac-64@openssh.com\nCiphers aes256-ctr",
        "HostKeyAlgorithms ssh-ed25519,rsa-sha2-512",
        "PubkeyAcceptedAlgorithms ssh-ed25519",
        "CASignatureAlgorithms ssh-ed25519",
        "RequiredRSASize 4096",
        "VerifyHostKeyDNS ask",
        "BatchMode yes",
        "VerifyHostKeyDNS no\nKnownHostsCommand none\nRevokedHostKeys none",
    ] {
        let Some((_, outcome)) = with(lines).await else { return };
        assert_eq!(outcome.unwrap_or_else(|error| panic!("{lines}: {error}")).stdout, b"yes\n", "{lines}");
    }
}

#[tokio::test]
async fn settings_that_ironstrap_cannot_follow_are_refused() {
    for (lines, kind, said) in [
        ("Ciphers 3des-cbc", Kind::Local, "your ssh_config sets Ciphers to nothing that ironstrap supports"),
        (
            "KexAlgorithms sntrup761x25519-sha512@openssh.com",
            Kind::Local,
            "your ssh_config sets KexAlgorithms to nothing that ironstrap supports",
        ),
        (
            "MACs umac-64@openssh.com",
            Kind::Local,
            "your ssh_config sets MACs to nothing that ironstrap supports",
        ),
        (
            "HostKeyAlgorithms sk-ssh-ed25519@openssh.com",
            Kind::Local,
            "your ssh_config sets HostKeyAlgorithms to nothing that ironstrap supports",
        ),
        ("HostKeyAlgorithms rsa-sha2-512", Kind::Unreachable, "but the SSH handshake fails"),
        (
            "PubkeyAcceptedAlgorithms rsa-sha2-512",
            Kind::Unreachable,
            "PubkeyAcceptedAlgorithms excludes ssh-ed25519",
        ),
        (
            "KnownHostsCommand /bin/echo %H",
            Kind::Local,
            "your ssh_config sets KnownHostsCommand, which ironstrap does not support",
        ),
        (
            "VerifyHostKeyDNS yes",
            Kind::Local,
            "your ssh_config sets VerifyHostKeyDNS, which ironstrap does not support",
        ),
        (
            "BindAddress 127.0.0.2",
            Kind::Local,
            "your ssh_config sets BindAddress 127.0.0.2, which ironstrap does not support",
        ),
        (
            "BindInterface lo",
            Kind::Local,
            "your ssh_config sets BindInterface lo, which ironstrap does not support",
        ),
    ] {
        let Some((stage, outcome)) = with(lines).await else { return };
        let error = outcome.unwrap_err();
        assert_eq!(error.kind, kind, "{lines}: {error}");
        assert!(error.to_string().contains(said), "{lines}: {error}");
        assert!(error.hint.is_some(), "{lines}");
        nobody_logged_in(&stage);
    }
}

#[tokio::test]
async fn a_new_host_key_is_hashed_if_ssh_config_says_so() {
    let mut stage = Stage::new(Manner::Reads).await;
    let known = stage.path(".ssh/known_hosts");
    for (lines, hashed) in [("HashKnownHosts yes", true), ("HashKnownHosts no", false)] {
        std::fs::remove_file(&known).unwrap();
        stage.options.accept_new_host_keys = true;
        let Some(outcome) = stage_run(&stage, lines).await else { return };
        outcome.unwrap();
        let line = stage.known();
        assert_eq!((line.starts_with("|1|"), line.contains("127.0.0.1")), (hashed, !hashed), "{line}");
        stage.options.accept_new_host_keys = false;
        assert!(stage_run(&stage, lines).await.unwrap().is_ok(), "the key is known now: {line}");
        let found = Command::new("ssh-keygen")
            .args(["-F", &format!("[127.0.0.1]:{}", stage.server.port), "-f"])
            .arg(&known)
            .output();
        assert!(found.is_ok_and(|found| found.status.success()), "ssh knows the key too: {line}");
    }
}

#[tokio::test]
async fn known_hosts_may_have_a_space_in_its_name() {
    let stage = Stage::new(Manner::Reads).await;
    std::fs::rename(stage.path(".ssh/known_hosts"), stage.path("my known hosts")).unwrap();
    let line = "UserKnownHostsFile \"HOME/my known hosts\" HOME/other";
    let Some(outcome) = stage_run(&stage, line).await else { return };
    assert_eq!(outcome.unwrap().stdout, b"yes\n");
    assert!(!Path::new(&stage.path("my")).exists());
}

/// The server accepts a key, a password and keyboard-interactive. ssh_config decides which of them is used.
#[tokio::test]
async fn a_method_that_ssh_config_forbids_is_not_tried() {
    let all = ["publickey", "password", "keyboard-interactive"];
    for (lines, right_key, used) in [
        ("", true, "publickey"),
        ("", false, "password"),
        ("PubkeyAuthentication no", true, "password"),
        ("PasswordAuthentication no", false, "keyboard-interactive"),
        ("PubkeyAuthentication no\nPasswordAuthentication no", true, "keyboard-interactive"),
        ("KbdInteractiveAuthentication no", false, "password"),
        ("PreferredAuthentications keyboard-interactive", true, "keyboard-interactive"),
        ("PreferredAuthentications gssapi-with-mic,password", true, "password"),
        ("PreferredAuthentications password,publickey", true, "publickey"),
    ] {
        let mut stage = Stage::new(Manner::Reads).await;
        stage.server.seen.takes_passwords.store(true, SeqCst);
        stage.node.ssh.key = None;
        stage.write_key(".ssh/id_ed25519", &if right_key { stage.key.clone() } else { new_key() });
        let Some(outcome) = stage_run(&stage, lines).await else { return };
        outcome.unwrap_or_else(|error| panic!("{lines}: {error}"));
        let tried = stage.server.seen.methods.lock().unwrap().clone();
        assert_eq!(tried.last(), Some(&used), "{lines}: {tried:?}");
        let forbidden = match lines.split_once(' ') {
            Some(("PreferredAuthentications", list)) => {
                all.into_iter().filter(|method| list.split(',').all(|one| one != *method)).collect()
            }
            _ => vec![],
        };
        assert!(!tried.iter().any(|method| forbidden.contains(method)), "{lines}: {tried:?}");
        assert_eq!(
            tried.contains(&"publickey"),
            !lines.contains("Pubkey") && !forbidden.contains(&"publickey")
        );
    }
}

#[tokio::test]
async fn a_forbidden_login_names_the_ssh_config_setting() {
    let keys_alone = "PasswordAuthentication no\nKbdInteractiveAuthentication no";
    for (lines, named, what, cause, tried) in [
        (
            keys_alone,
            false,
            "cannot log in as root: no authentication method succeeded",
            "password login: not tried: in your ssh_config, PasswordAuthentication is no",
            &["publickey"][..],
        ),
        (
            "PreferredAuthentications publickey",
            false,
            "cannot log in as root: no authentication method succeeded",
            "keyboard-interactive: not tried: in your ssh_config, PreferredAuthentications is publickey",
            &["publickey"],
        ),
        (
            "PubkeyAuthentication no",
            true,
            "your ssh_config forbids the SSH key ~/key",
            "PubkeyAuthentication is no",
            &[],
        ),
        (
            "PreferredAuthentications hostbased",
            false,
            "your ssh_config allows no login method that ironstrap supports",
            "PreferredAuthentications is hostbased",
            &[],
        ),
        (
            "BatchMode yes",
            false,
            "cannot log in as root: no authentication method succeeded",
            "password login: not tried: in your ssh_config, BatchMode is yes",
            &["publickey"],
        ),
        (
            "BatchMode yes\nPubkeyAuthentication no",
            false,
            "your ssh_config allows no login method that ironstrap supports",
            "BatchMode is yes",
            &[],
        ),
        (
            "PubkeyAuthentication no\nPreferredAuthentications publickey",
            false,
            "your ssh_config allows no login method that ironstrap supports",
            "PubkeyAuthentication is no",
            &[],
        ),
    ] {
        let mut stage = Stage::new(Manner::Reads).await;
        stage.server.seen.takes_passwords.store(true, SeqCst);
        if !named {
            stage.node.ssh.key = None;
            stage.write_key(".ssh/id_ed25519", &new_key());
        }
        let Some(outcome) = stage_run(&stage, lines).await else { return };
        let error = outcome.unwrap_err();
        assert_eq!(error.what, what, "{lines}");
        assert!(error.cause.iter().any(|line| line == cause), "{lines}: {error}");
        let hint = error.hint.unwrap();
        assert!(!hint.contains("--password-command"), "{lines}: {hint}");
        assert_eq!(*stage.server.seen.methods.lock().unwrap(), tried, "{lines}");
        nobody_logged_in(&stage);
    }
}

#[tokio::test]
async fn a_user_name_cannot_inject_into_a_proxy_command() {
    let mut stage = Stage::new(Manner::Reads).await;
    let canary = stage.path("canary");
    let hostile = ["$(touch${IFS}CANARY)", "`touch${IFS}CANARY`", "x;touch${IFS}CANARY;#", "x|touch\tCANARY"];
    for user in hostile.map(|user| user.replace("CANARY", &canary.display().to_string())) {
        for jump in [None, Some(vec![format!("{user}@127.0.0.1:{}", stage.server.port)])] {
            stage.node.ssh.user = Some(if jump.is_none() { user.clone() } else { "root".into() });
            stage.node.ssh.jump = jump;
            let Some(outcome) = stage_run(&stage, "ProxyCommand echo %r").await else { return };
            assert!(outcome.unwrap_err().what.ends_with(" is not a valid user name for 127.0.0.1"), "{user}");
        }
    }
    assert!(!canary.exists(), "a shell ran a part of a user's name");
}

/// The passphrase is `sesame`, which the operator of these tests always enters.
#[tokio::test]
async fn batch_mode_asks_for_no_passphrase() {
    let stage = Stage::new(Manner::Reads).await;
    let locked = stage.key.encrypt(&mut russh::keys::key::safe_rng(), "sesame").unwrap();
    std::fs::remove_file(stage.path("key")).unwrap();
    stage.write_key("key", &locked);
    let Some(outcome) = stage_run(&stage, "BatchMode yes").await else { return };
    let error = outcome.unwrap_err();
    assert!(error.cause.iter().any(|line| line.ends_with("in your ssh_config, BatchMode is yes")), "{error}");
    nobody_logged_in(&stage);
    assert!(stage_run(&stage, "BatchMode no").await.unwrap().is_ok(), "it opens the key");
}

#[tokio::test]
async fn only_the_address_family_of_ssh_config_is_used() {
    let stage = Stage::new(Manner::Reads).await;
    for lines in ["AddressFamily inet", "AddressFamily any"] {
        let Some(outcome) = stage_run(&stage, lines).await else { return };
        assert!(outcome.is_ok(), "{lines}: {outcome:?}");
    }
    let logins = stage.server.seen.logins.load(SeqCst);
    let error = stage_run(&stage, "AddressFamily inet6").await.unwrap().unwrap_err();
    assert_eq!(error.what, "your ssh_config allows no address of 127.0.0.1");
    assert_eq!(error.cause[0], "AddressFamily is inet6; 127.0.0.1 has 127.0.0.1");
    assert_eq!((error.kind, stage.server.seen.logins.load(SeqCst)), (Kind::Local, logins));
}
