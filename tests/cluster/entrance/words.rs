//! Passwords, passphrases and certificates.

use std::fs;

use super::agent::Agent;
use super::{In, SECRET, Stage, WAY, Way, as_bob, keygen};
use crate::lab::NODES;
use crate::world::World;

pub fn with_words(world: &World) {
    let stage = Stage::new(world);
    let dir = &stage.dir;
    for name in ["ca", "certified", "apart"] {
        keygen(dir, &["-q", "-t", "ed25519", "-N", "", "-f", name]);
    }
    keygen(dir, &["-q", "-t", "rsa", "-N", "", "-f", "id_rsa"]);
    keygen(dir, &["-q", "-t", "ed25519", "-N", "long words", "-f", "locked"]);
    keygen(dir, &["-q", "-s", "ca", "-I", "of-the-test", "-n", "ops", "certified.pub"]);
    keygen(dir, &["-q", "-s", "ca", "-I", "of-another-file", "-n", "ops", "apart.pub"]);
    fs::rename(dir.join("apart-cert.pub"), dir.join("certificate")).unwrap();
    let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
    fs::copy(world.lab.home.join("hostkeys/w2.pub"), dir.join("w2.pub")).unwrap();
    keygen(dir, &["-q", "-s", "ca", "-I", "w2", "-h", "-n", "198.18.0.13", "w2.pub"]);
    fs::write(dir.join("authority"), format!("@cert-authority [198.18.0.13]:2222 {}", read("ca.pub")))
        .unwrap();
    fs::write(dir.join("for-omega"), format!("@cert-authority omega {}", read("ca.pub"))).unwrap();
    world.lab.ssh(
        "w2",
        &format!(
            "cat >/root/ca.pub <<'X'\n{}X\ncat >/root/host-cert.pub <<'X'\n{}X\n",
            read("ca.pub"),
            read("w2-cert.pub")
        ),
    );
    for node in NODES {
        world.lab.ssh(node, &format!("cat >>/root/.ssh/authorized_keys <<'X'\n{}X", read("locked.pub")));
    }
    let rsa = read("id_rsa.pub");
    let copy = "cp /root/.ssh/authorized_keys /home/ops/.ssh/authorized_keys";
    world.lab.ssh("w2", &format!("{copy}\ncat >>/home/ops/.ssh/authorized_keys <<'X'\n{rsa}X"));
    let ways = [
        Way {
            says: "a password",
            sshd: "PubkeyAuthentication no\nKbdInteractiveAuthentication no",
            inventory: as_bob,
            options: SECRET,
            gives: In { user: "bob", by: "password", via: "", root: "sudo, with a password" },
            ..WAY
        },
        Way {
            says: "keyboard-interactive",
            sshd: "PubkeyAuthentication no\nPasswordAuthentication no\nKbdInteractiveAuthentication yes",
            inventory: as_bob,
            options: SECRET,
            gives: In { user: "bob", by: "keyboard-interactive", via: "", root: "sudo, with a password" },
            ..WAY
        },
        Way {
            says: "a key and a password together",
            sshd: "AuthenticationMethods publickey,password",
            inventory: as_bob,
            options: SECRET,
            gives: In { user: "bob", by: "password", via: "", root: "sudo, with a password" },
            ..WAY
        },
        Way {
            says: "a user certificate",
            sshd: "TrustedUserCAKeys /root/ca.pub\nAuthorizedKeysFile none",
            config: "Host theta\n  HostName 198.18.0.13\n  Port 2222\n  User ops\n  IdentityFile DIR/certified\n  IdentitiesOnly yes\n  UserKnownHostsFile DIR/known\n",
            gives: In {
                user: "ops",
                by: "certificate \"of-the-test\"",
                via: "",
                root: "sudo, without a password",
            },
            ..WAY
        },
        Way {
            says: "a certificate in a file that ssh_config names",
            sshd: "TrustedUserCAKeys /root/ca.pub\nAuthorizedKeysFile none",
            config: "Host theta\n  HostName 198.18.0.13\n  Port 2222\n  User ops\n  IdentityFile DIR/apart\n  CertificateFile DIR/certificate\n  IdentitiesOnly yes\n  UserKnownHostsFile DIR/known\n",
            gives: In {
                user: "ops",
                by: "DIR/apart: certificate \"of-another-file\"",
                via: "",
                root: "sudo, without a password",
            },
            ..WAY
        },
        Way {
            says: "an RSA key",
            config: "Host theta\n  HostName 198.18.0.13\n  Port 2222\n  User ops\n  IdentityFile DIR/id_rsa\n  IdentitiesOnly yes\n  UserKnownHostsFile DIR/known\n",
            gives: In {
                user: "ops",
                by: "DIR/id_rsa: RSA SHA256:",
                via: "",
                root: "sudo, without a password",
            },
            ..WAY
        },
        Way {
            says: "a host certificate",
            sshd: "HostCertificate /root/host-cert.pub",
            config: "Host theta\n  HostName 198.18.0.13\n  Port 2222\n  User ops\n  IdentityFile DIR/id\n  IdentitiesOnly yes\n  UserKnownHostsFile DIR/authority\n",
            ..WAY
        },
        Way {
            says: "an encrypted key",
            config: "Host theta\n  HostName 198.18.0.13\n  Port 2222\n  User ops\nHost *\n  User root\n  IdentityFile DIR/locked\n  IdentitiesOnly yes\n  UserKnownHostsFile DIR/known\n",
            options: &["--passphrase-command", "echo \"$IRONSTRAP_KEY\" >>DIR/asked; printf 'long words'"],
            gives: In { user: "ops", by: "DIR/locked: ED25519", via: "", root: "sudo, without a password" },
            ..WAY
        },
    ];
    ways.iter().for_each(|way| stage.walk(way));
    // ironstrap asks once for all machines.
    fs::remove_file(dir.join("asked")).unwrap();
    let (code, said, errors) = stage.check(&[], ways[ways.len() - 1].options);
    assert_eq!(code, Some(0), "{said:#}\n{errors}");
    assert_eq!(read("asked").trim(), dir.join("locked").to_str().unwrap(), "asked once for three machines");
    by_agent(&stage);
}

/// A certificate in an agent, and an agent that only ssh_config names.
fn by_agent(stage: &Stage) {
    let known = "UserKnownHostsFile DIR/known\n";
    let theta = format!("Host theta\n  HostName 198.18.0.13\n  Port 2222\n  User ops\n  {known}");
    let agent = Agent::start(stage, &["certified".into(), "id_rsa".into()]);
    let held = |by| In { user: "ops", by, via: "", root: "sudo, without a password" };
    stage.walk(&Way {
        says: "a certificate that an agent holds",
        sshd: "TrustedUserCAKeys /root/ca.pub\nAuthorizedKeysFile none",
        config: theta.clone().leak(),
        gives: held("ssh-agent: certificate \"of-the-test\""),
        ..WAY
    });
    let config = format!("{theta}  IdentityAgent DIR/agent.socket\n");
    fs::remove_file(stage.dir.join("agent")).unwrap();
    stage.walk(&Way {
        says: "an RSA key in an agent that ssh_config names",
        config: config.leak(),
        gives: held("ssh-agent: RSA SHA256:"),
        ..WAY
    });
    drop(agent);
}
