//! Verification of host keys with known_hosts files.

use std::fs;

use super::{OPS, Refused, Stage, WAY, Way, keygen};
use crate::world::World;

pub fn host_keys(world: &World) {
    let stage = Stage::new(world);
    let dir = &stage.dir;
    let (read, write) = (
        |name: &str| fs::read_to_string(dir.join(name)).unwrap(),
        |name: &str, text: &str| {
            fs::write(dir.join(name), text).unwrap();
        },
    );
    let right = read("known");
    write("hashed", &right);
    keygen(dir, &["-q", "-H", "-f", "hashed"]);
    assert!(!read("hashed").contains("198.18"), "ssh-keygen hashed nothing");
    let theirs = world.lab.ssh("w2", "for type in ecdsa rsa; do ssh-keygen -q -t $type -N '' -f /root/$type; done\ncat /root/ecdsa.pub /root/rsa.pub");
    for key in theirs.lines() {
        let kind = if key.starts_with("ssh-rsa") { "rsa" } else { "ecdsa" };
        write(kind, &format!("[198.18.0.13]:2222 {key}\n"));
    }
    let _ = fs::remove_file(dir.join("other"));
    keygen(dir, &["-q", "-t", "ed25519", "-N", "", "-f", "other"]);
    write("changed", &format!("# mine\n\n[198.18.0.13]:2222 {}", read("other.pub")));
    let key = right.lines().find_map(|line| line.strip_prefix("[198.18.0.13]:2222 ")).unwrap();
    write("revoked", &format!("{right}@revoked * {key}\n"));
    let _ = fs::remove_file(dir.join("none"));

    stage.walk(&knowing("hashed", "a host in hashed known_hosts"));
    let three = "HostKey /root/rsa\nHostKey /root/ecdsa";
    stage.walk(&Way { sshd: three, ..knowing("ecdsa", "a host with several keys and a known ECDSA key") });
    stage.walk(&Way { sshd: three, ..knowing("rsa", "a host with several keys and a known RSA key") });
    stage.walk(&Way {
        gives: Refused(&["the host key of 198.18.0.13 is revoked", "DIR/revoked:", "nothing was sent"]),
        ..knowing("revoked", "a revoked host key")
    });
    let changed: &[&str] = &[
        "the host key of 198.18.0.13 has changed",
        "known:  ED25519 SHA256:",
        "DIR/changed:3",
        "now:    ED25519 PIN",
        "nothing was sent",
        "ssh-keygen -R '[198.18.0.13]:2222' -f DIR/changed, then again with --accept-new-host-keys",
    ];
    for options in [&[][..], &["--accept-new-host-keys"]] {
        let says = "a changed host key, also with --accept-new-host-keys";
        stage.walk(&Way { gives: Refused(changed), options, ..knowing("changed", says) });
    }
    stage.walk(&Way {
        gives: Refused(&[
            "the host key of 198.18.0.13 is not known",
            "now:    ED25519 PIN",
            "nothing was sent",
            "--accept-new-host-keys, or run: ssh-keyscan -p 2222 198.18.0.13 >> DIR/none",
        ]),
        ..knowing("none", "an unknown host")
    });
    assert!(!dir.join("none").exists(), "an unaccepted key was added to known_hosts");
    let options = &["--accept-new-host-keys"];
    stage.walk(&Way { options, ..knowing("none", "a new host that the operator accepts") });
    assert_eq!(
        read("none").lines().filter(|line| line.starts_with("[198.18.0.13]:2222 ssh-ed25519 ")).count(),
        1
    );
    stage.walk(&knowing("none", "a host that was accepted before"));
    fs::remove_file(dir.join("none")).unwrap();
    let of_config = |says, file, more: &str| Way {
        config: format!("{}  {more}\n", knowing(file, "").config).leak(),
        ..knowing(file, says)
    };
    let says = "a new host that ssh_config accepts (StrictHostKeyChecking)";
    stage.walk(&of_config(says, "none", "StrictHostKeyChecking accept-new"));
    let says = "a host that is known system-wide (GlobalKnownHostsFile)";
    stage.walk(&of_config(says, "nobody", "GlobalKnownHostsFile DIR/known"));
}

/// A login on w2 with this known_hosts file.
fn knowing(file: &'static str, says: &'static str) -> Way {
    let config = format!(
        "Host theta\n  HostName 198.18.0.13\n  Port 2222\n  User ops\n  IdentityFile DIR/id\n  IdentitiesOnly yes\n  \
         UserKnownHostsFile DIR/{file}\n"
    );
    Way { says, config: config.leak(), gives: OPS, ..WAY }
}
