//! SSH logins and privilege escalation, with real OpenSSH servers and sudo in many configurations. w2 has a second sshd on
//! port 2222, which each row configures. m1 and w1 are jump hosts. There is no cluster.

mod agent;
mod config;
mod hardware;
mod known;
mod refused;
mod root;
mod sparing;
mod terminal;
mod words;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::schemas;
use toml::Table;

use crate::lab::text;
use crate::world::{World, set};
use crate::{Ground, Scenario, so, until};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        says: "ironstrap connects as the operator's ssh_config says",
        ground: Ground::Fresh,
        run: config::by_config,
    },
    Scenario {
        says: "ironstrap verifies the host key of a machine",
        ground: Ground::Before,
        run: known::host_keys,
    },
    Scenario {
        says: "passwords, passphrases and certificates work for the login",
        ground: Ground::Before,
        run: words::with_words,
    },
    Scenario {
        says: "keys in hardware tokens work for the login",
        ground: Ground::Before,
        run: hardware::tokens,
    },
    Scenario {
        says: "typed secrets are asked for once and shown nowhere",
        ground: Ground::Before,
        run: terminal::typed,
    },
    Scenario {
        says: "sudo with a password, sudo with a terminal, and doas work",
        ground: Ground::Before,
        run: root::to_root,
    },
    Scenario {
        says: "unusual shells, output and file systems do no harm",
        ground: Ground::Before,
        run: root::oddities,
    },
    Scenario { says: "limits of SSH servers are respected", ground: Ground::Before, run: sparing::sparing },
    Scenario {
        says: "a failed login reports its cause and a hint",
        ground: Ground::Before,
        run: refused::refusals,
    },
];

/// A login and its expected result. `DIR` in its texts is the operator's folder.
struct Way {
    says: &'static str,
    /// Lines for the second sshd's configuration. The first line of each keyword takes effect.
    sshd: &'static str,
    /// A script that root runs on w2 before.
    before: &'static str,
    /// The operator's ssh_config.
    config: &'static str,
    inventory: fn(&mut Table),
    options: &'static [&'static str],
    gives: Gives,
}

enum Gives {
    /// Parts of the result: user, authentication method, jump hosts and privilege escalation.
    In { user: &'static str, by: &'static str, via: &'static str, root: &'static str },
    /// Parts of the error.
    Refused(&'static [&'static str]),
}

use Gives::{In, Refused};

const OPS: Gives =
    In { user: "ops", by: "DIR/id: ED25519 SHA256:", via: "", root: "sudo, without a password" };
const BOB: Gives = In { user: "bob", by: "DIR/id", via: "", root: "sudo, with a password" };

const WAY: Way =
    Way { says: "", sshd: "", before: "", config: THETA, inventory: |_| {}, options: &[], gives: OPS };

/// An ssh_config with another name for w2, another port and another user.
const THETA: &str = "
Host theta
  HostName 198.18.0.13
  Port 2222
  User ops
  IdentityFile DIR/id
  IdentitiesOnly yes
  UserKnownHostsFile DIR/known
Host *
  IdentityFile DIR/id
  IdentitiesOnly yes
  UserKnownHostsFile DIR/known
";

/// Uses the user bob, who needs a password for sudo.
fn as_bob(inventory: &mut Table) {
    set(inventory, &["nodes", "w2", "user"], "\"bob\"");
}

const SECRET: &[&str] = &["--password-command", "printf 'secret word\\n'"];

/// The operator's home folder, prepared once: with a key, and an `ssh` that reads its configuration from this folder.
struct Stage<'a> {
    world: &'a World,
    dir: PathBuf,
    /// The fingerprint of w2's host key.
    pin: String,
}

impl Stage<'_> {
    fn new(world: &World) -> Stage<'_> {
        let pin = crate::grown::fingerprint(world);
        let stage = Stage { world, dir: world.dir.join("home"), pin };
        let done = stage.dir.join("known").exists();
        fs::create_dir_all(stage.dir.join("bin")).unwrap();
        fs::copy(world.lab.home.join("id_ed25519"), stage.dir.join("id")).unwrap();
        let ssh = format!("#!/bin/sh\nexec /usr/bin/ssh -F {}/config \"$@\"\n", stage.dir.display());
        fs::write(stage.dir.join("bin/ssh"), ssh).unwrap();
        fs::set_permissions(stage.dir.join("bin/ssh"), fs::Permissions::from_mode(0o755)).unwrap();
        let known = fs::read_to_string(world.lab.home.join("known_hosts")).unwrap();
        let second: String = known
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(host, key)| {
                let sixth = if host == "198.18.0.13" { format!("[::1]:2222 {key}\n") } else { String::new() };
                format!("{host} {key}\n[{host}]:2222 {key}\n{sixth}")
            })
            .collect();
        fs::write(stage.dir.join("known"), second).unwrap();
        if !done {
            world.lab.ssh("w2", USERS);
        }
        stage
    }

    /// Replaces `DIR` and `PIN` in a text.
    fn fill(&self, text: &str) -> String {
        text.replace("DIR", self.dir.to_str().unwrap()).replace("PIN", &self.pin)
    }

    /// Writes the lab's inventory without SSH settings and with the other name of w2.
    fn inventory(&self, edit: fn(&mut Table)) -> PathBuf {
        self.world.inventory(|table| {
            table.remove("ssh");
            let nodes = table["nodes"].as_table_mut().unwrap();
            nodes["w2"].as_table_mut().unwrap().remove("user");
            set(table, &["nodes", "w2", "address"], "\"theta\"");
            set(table, &["nodes", "w2", "ip"], "\"198.18.0.13\"");
            edit(table);
        });
        let path = self.world.dir.join("inventory.toml");
        fs::write(&path, self.fill(&fs::read_to_string(&path).unwrap())).unwrap();
        path
    }

    /// The start of a command in the operator's environment.
    fn operator(&self) -> Command {
        let path = format!("PATH={}/bin:{}", self.dir.display(), std::env::var("PATH").unwrap());
        let mut command = self.world.lab.command(&["exec", "env", "-u", "SSH_AUTH_SOCK", &path]);
        if let Ok(agent) = fs::read_to_string(self.dir.join("agent")) {
            command.arg(format!("SSH_AUTH_SOCK={agent}"));
        }
        command
    }

    /// Runs ironstrap, and returns its exit code, its stdout and its stderr.
    fn ironstrap(&self, command: &str, words: &[&str], options: &[&str]) -> (Option<i32>, String, String) {
        let mut run = self.operator();
        run.args([&World::binary(), command, "-i"]).arg(self.world.dir.join("inventory.toml"));
        run.args(words).args(options.iter().map(|option| self.fill(option)));
        let output = run.output().unwrap();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    }

    fn check(&self, nodes: &[&str], options: &[&str]) -> (Option<i32>, Value, String) {
        let words = [&["--json"], nodes].concat();
        let (code, said, errors) = self.ironstrap("ssh-check", &words, options);
        let document = serde_json::from_str(&said).unwrap_or(Value::Null);
        if document.is_object() {
            schemas::assert_valid("ssh-check", &document);
        }
        (code, document, errors)
    }

    /// Starts the second sshd and writes the operator's files.
    fn set_up(&self, way: &Way) {
        let restart = format!(
            "set -e; systemctl stop second 2>/dev/null || :\ncat >/root/sshd.conf <<'X'\n{}\n{SSHD}\nX\n{}\n\
             systemd-run -q --collect --unit=second /usr/sbin/sshd -D -e -f /root/sshd.conf",
            way.sshd, way.before
        );
        self.world.lab.ssh("w2", &restart);
        let w2 = self.world.lab.machine("w2");
        until("the second sshd listens", 10, || so(w2.listens(2222)));
        fs::write(self.dir.join("config"), self.fill(way.config)).unwrap();
        self.inventory(way.inventory);
    }

    fn walk(&self, way: &Way) {
        self.set_up(way);
        let (code, said, errors) = self.check(&["w2"], way.options);
        let node = &said["nodes"][0];
        match &way.gives {
            In { user, by, via, root } => {
                assert_eq!(code, Some(0), "{}: {said:#}\n{errors}", way.says);
                assert_eq!(node["user"], *user, "{}: {said:#}", way.says);
                for (key, piece) in [("by", by), ("via", via), ("root", root)] {
                    let has = node[key].as_str().unwrap_or_default();
                    assert!(has.contains(&self.fill(piece)), "{}: {key}: {said:#}", way.says);
                    assert!(!piece.is_empty() || has.is_empty(), "{}: {key}: {said:#}", way.says);
                }
            }
            Refused(words) => {
                assert!(matches!(code, Some(4 | 10)), "{}: {code:?} {said:#}\n{errors}", way.says);
                for piece in *words {
                    assert!(errors.contains(&self.fill(piece)), "{}: no {piece:?} in:\n{errors}", way.says);
                }
            }
        }
        println!("  {}", way.says);
    }
}

const SSHD: &str = "Port 2222
HostKey /etc/ssh/ssh_host_ed25519_key
PidFile none
UsePAM yes
AuthorizedKeysFile .ssh/authorized_keys
LogLevel VERBOSE
PerSourcePenalties no";

/// Creates users: bob needs a password for sudo, eve has no login shell, and tom needs no password for sudo.
const USERS: &str = r#"set -e
for user in bob eve tom; do
  useradd --create-home --shell /bin/bash $user
  install -d -m 700 -o $user /home/$user/.ssh
  install -m 600 -o $user /root/.ssh/authorized_keys /home/$user/.ssh/
  echo "$user:secret word" | chpasswd
done
usermod --shell /usr/sbin/nologin eve
echo 'bob ALL=(ALL:ALL) ALL' >/etc/sudoers.d/bob
echo 'tom ALL=(ALL:ALL) NOPASSWD: ALL' >/etc/sudoers.d/tom
mkdir -p /run/sshd
apt-get -qq update; DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends opendoas fish tcsh >/dev/null
"#;

fn walk_all(world: &World, ways: &[Way]) {
    let stage = Stage::new(world);
    ways.iter().for_each(|way| stage.walk(way));
}

fn keygen(dir: &Path, args: &[&str]) {
    let output =
        Command::new("ssh-keygen").current_dir(dir).args(args).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "ssh-keygen {args:?}: {}", text(&output.stderr));
}
