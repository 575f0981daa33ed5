//! ironstrap trusts host certificates as OpenSSH does. A pinned key always takes precedence.

use ironstrap::error::Error;
use ironstrap::known_hosts::fingerprint;
use russh::keys::{HashAlg, PrivateKey, PublicKey};

use super::Stage;
use super::config::{nobody_logged_in, stage_run, write};
use super::server::{Manner, Server, new_key};

const REVOKED: &str = "a revoked key signed the host certificate of 127.0.0.1";

/// A machine with a host certificate of this authority.
async fn signed(authority: &PrivateKey) -> Stage {
    let mut stage = Stage::new(Manner::Reads).await;
    stage.server = Server::signed(stage.key.public_key(), Manner::Reads, Some(authority)).await;
    stage.node.ssh.port = Some(stage.server.port);
    stage
}

fn line(key: &PublicKey) -> String {
    key.to_openssh().unwrap()
}

/// The key as `host-key` of the inventory.
fn pin(key: &PublicKey) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}

fn known(stage: &Stage, lines: &[String]) {
    write(stage, ".ssh/known_hosts", &(lines.join("\n") + "\n"));
}

/// The host key as a line of the operator's known_hosts.
fn plain(stage: &Stage) -> String {
    format!("[127.0.0.1]:{} {}", stage.server.port, line(&stage.server.host_key))
}

fn refused(stage: &Stage, error: &Error, what: &str) {
    assert_eq!(error.what, what, "{error}");
    assert!(error.hint.is_some(), "{error}");
    nobody_logged_in(stage);
}

#[tokio::test]
async fn a_certificate_authority_vouches_for_an_unknown_key() {
    let authority = new_key();
    let stage = signed(&authority).await;
    known(&stage, &[format!("@cert-authority * {}", line(authority.public_key()))]);
    assert_eq!(stage.run("out in\nexit 0").await.unwrap().stdout, b"in\n");
    known(&stage, &[format!("@cert-authority * {}", line(new_key().public_key()))]);
    let error = stage.run("exit 0").await.unwrap_err();
    assert_eq!(error.what, "the host key of 127.0.0.1 is not known");
}

#[tokio::test]
async fn a_pinned_key_overrules_a_certificate_authority() {
    let authority = new_key();
    let mut stage = signed(&authority).await;
    known(&stage, &[format!("@cert-authority * {}", line(authority.public_key()))]);
    stage.node.ssh.host_key = Some(pin(new_key().public_key()));
    let error = stage.run("exit 0").await.unwrap_err();
    refused(&stage, &error, "the host key of 127.0.0.1 is not the one in the inventory");
    stage.node.ssh.host_key = Some(pin(&stage.server.host_key));
    assert_eq!(stage.run("exit 0").await.unwrap().status, 0);
}

#[tokio::test]
async fn a_revoked_signer_is_refused_even_for_a_known_key() {
    let authority = new_key();
    let stage = signed(&authority).await;
    let (trusted, revoked) = (
        format!("@cert-authority * {}", line(authority.public_key())),
        format!("@revoked * {}", line(authority.public_key())),
    );
    for lines in [vec![trusted, revoked.clone(), plain(&stage)], vec![plain(&stage), revoked.clone()]] {
        known(&stage, &lines);
        let error = stage.run("exit 0").await.unwrap_err();
        refused(&stage, &error, REVOKED);
        let seen = format!("revoked:  {}    ~/.ssh/known_hosts:2", fingerprint(authority.public_key()));
        assert_eq!(error.cause, [seen, "nothing was sent".into()]);
    }
    known(&stage, &[plain(&stage), revoked.replace('*', "other.example")]);
    assert_eq!(stage.run("exit 0").await.unwrap().status, 0, "it is revoked for another host");
}

#[tokio::test]
async fn a_signer_in_a_revocation_list_is_refused() {
    let authority = new_key();
    let stage = signed(&authority).await;
    known(&stage, &[plain(&stage)]);
    write(&stage, "revoked", &line(authority.public_key()));
    let Some(outcome) = stage_run(&stage, "RevokedHostKeys HOME/revoked").await else { return };
    refused(&stage, &outcome.unwrap_err(), REVOKED);
    write(&stage, "revoked", &line(new_key().public_key()));
    let outcome = stage_run(&stage, "RevokedHostKeys HOME/revoked").await.unwrap();
    assert_eq!(outcome.unwrap().status, 0, "another signer is revoked");
}

#[tokio::test]
async fn a_pinned_but_revoked_key_is_refused() {
    let authority = new_key();
    for mut stage in [Stage::new(Manner::Reads).await, signed(&authority).await] {
        stage.node.ssh.host_key = Some(pin(&stage.server.host_key));
        known(&stage, &[format!("@revoked * {}", line(&stage.server.host_key))]);
        let error = stage.run("exit 0").await.unwrap_err();
        refused(&stage, &error, "the host key of 127.0.0.1 is revoked");
    }
}
