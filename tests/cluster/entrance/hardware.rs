//! Keys in hardware tokens, which only an agent can use. A simulated agent signs like a token, and a real sshd verifies the
//! signature.

use std::fs;

use russh::keys::PrivateKey;
use russh::keys::ssh_key::LineEnding;

use super::{In, Refused, Stage, WAY, Way, keygen};
use crate::world::World;

#[path = "../../it/ssh/agent.rs"]
mod token;

const TOKEN: &str = "Host theta\n  HostName 198.18.0.13\n  Port 2222\n  User ops\n  IdentityFile DIR/id_ed25519_sk\n  IdentitiesOnly yes\n  UserKnownHostsFile DIR/known\n";

pub fn tokens(world: &World) {
    let stage = Stage::new(world);
    let (runtime, socket) = (tokio::runtime::Runtime::new().unwrap(), stage.dir.join("token.socket"));
    for file in ["token", "token.socket"] {
        let _ = fs::remove_file(stage.dir.join(file));
    }
    keygen(&stage.dir, &["-q", "-t", "ed25519", "-N", "", "-f", "token"]);
    let key = PrivateKey::read_openssh_file(stage.dir.join("token")).unwrap();
    let stub = token::stub(&key);
    stub.write_openssh_file(stage.dir.join("id_ed25519_sk"), LineEnding::LF).unwrap();
    let public = stub.public_key().to_openssh().unwrap();
    assert!(public.starts_with("sk-ssh-ed25519@openssh.com "), "{public}");
    world.lab.ssh("w2", &format!("echo '{public}' >>/home/ops/.ssh/authorized_keys"));

    let without: &[&str] = &[
        "cannot log in as ops",
        "DIR/id_ed25519_sk: it is in a hardware token, which only an agent can use: ssh-add DIR/id_ed25519_sk",
    ];
    stage.walk(&Way {
        says: "a key in a hardware token without an agent",
        config: TOKEN,
        gives: Refused(without),
        ..WAY
    });
    runtime.block_on(async { token::start(&socket, [token::Held::in_token(&key)]) });
    fs::write(stage.dir.join("agent"), socket.to_str().unwrap()).unwrap();
    stage.walk(&Way {
        says: "a key in a hardware token with an agent",
        config: TOKEN,
        gives: In {
            user: "ops",
            by: "ssh-agent: ED25519-SK SHA256:",
            via: "",
            root: "sudo, without a password",
        },
        ..WAY
    });
    fs::remove_file(stage.dir.join("agent")).unwrap();
}
