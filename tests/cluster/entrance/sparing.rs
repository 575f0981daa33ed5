//! Limits of SSH servers.

use std::fs;

use toml::Table;

use super::agent::Agent;
use super::{Refused, Stage, THETA, WAY, Way, keygen};
use crate::world::{World, set};

/// Adds forty names for one machine.
fn forty(inventory: &mut Table) {
    set(
        inventory,
        &["nodes", "n[01-40]"],
        r#"{address = "n[01-40]", ip = "198.18.0.[101-140]", role = "worker"}"#,
    );
}

pub fn sparing(world: &World) {
    let stage = Stage::new(world);
    stage.walk(&Way { says: "one session at a time", sshd: "MaxSessions 1", ..WAY });
    let config = THETA.replace("Host theta", "Host theta n??");
    let two = Way {
        says: "two unauthenticated connections at a time",
        sshd: "MaxStartups 2",
        inventory: forty,
        ..WAY
    };
    stage.walk(&two);
    fs::write(stage.dir.join("config"), stage.fill(&config)).unwrap();
    let (code, said, errors) = stage.check(&["n[01-40]"], &["--timeout", "30"]);
    assert_eq!(code, Some(0), "{errors}");
    assert_eq!(said["nodes"].as_array().unwrap().len(), 40);
    // All forty use one jump host, and ironstrap logs in there once.
    let accepted = || {
        let journal = world.lab.ssh("w2", "journalctl -q --no-pager -o cat -u second");
        journal.matches("Accepted publickey for ops").count()
    };
    let behind = format!("Host n??\n  HostName 198.18.0.12\n  User ops\n  ProxyJump theta\n{THETA}");
    fs::write(stage.dir.join("config"), stage.fill(&behind)).unwrap();
    let before = accepted();
    let (code, _, errors) = stage.check(&["n[01-40]"], &["--timeout", "30"]);
    assert_eq!(code, Some(0), "{errors}");
    assert_eq!(accepted() - before, 1);
    // The agent has more keys than the server accepts attempts. ironstrap tries the key of ssh_config first.
    let strays: Vec<String> = (0..8).map(|n| format!("stray{n}")).collect();
    for name in &strays {
        let _ = fs::remove_file(stage.dir.join(name));
        keygen(&stage.dir, &["-q", "-t", "ed25519", "-N", "", "-f", name]);
    }
    let agent = Agent::start(&stage, &strays);
    let config = THETA.replace("  IdentitiesOnly yes\n", "");
    fs::write(stage.dir.join("config"), stage.fill(&config)).unwrap();
    let (code, said, errors) = stage.check(&["w2"], &[]);
    assert_eq!(code, Some(0), "{said:#}\n{errors}");
    let config = config.replace("  IdentityFile DIR/id\n", "");
    fs::write(stage.dir.join("config"), stage.fill(&config)).unwrap();
    let (code, _, errors) = stage.check(&["w2"], &[]);
    assert_eq!(code, Some(4), "{errors}");
    for piece in ["ssh-agent: ED25519 SHA256:", "3 more, not offered", "the server accepts: publickey"] {
        assert!(errors.contains(piece), "no {piece:?} in:\n{errors}");
    }
    stage.walk(&Way {
        says: "a server that disconnects before the right key is offered",
        sshd: "MaxAuthTries 2",
        config: config.leak(),
        gives: Refused(&[
            "the server disconnected: Too many authentication failures",
            "a server accepts only a few attempts",
            "IdentitiesOnly yes",
        ]),
        ..WAY
    });
    drop(agent);
    stage.set_up(&WAY);
    // With IdentitiesOnly, ironstrap does not offer the other keys of the agent.
    let _agent = Agent::start(&stage, &["id".into()]);
    for (only, code) in [("yes", Some(4)), ("no", Some(0))] {
        let config = THETA.replace("DIR/id", "DIR/stray0").replace("Only yes", &format!("Only {only}"));
        fs::write(stage.dir.join("config"), stage.fill(&config)).unwrap();
        let (ended, said, errors) = stage.check(&["w2"], &[]);
        assert_eq!(ended, code, "IdentitiesOnly {only}: {said:#}\n{errors}");
    }
}
