//! Getting into machines as the operator's own ssh does, past real OpenSSH servers and sudos with settings of their
//! own. w2 has a second sshd, on port 2222, which each row sets up; m1 and w1 are hosts to go through. Nobody has a
//! cluster.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use toml::Table;

use crate::lab::{NODES, text};
use crate::world::{World, set};
use crate::{Ground, Scenario, so, until};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        says: "the way in is the one of the operator's ssh_config",
        ground: Ground::Fresh,
        run: by_config,
    },
    Scenario {
        says: "passwords, passphrases and certificates let in",
        ground: Ground::Before,
        run: with_words,
    },
    Scenario {
        says: "sudo with a password, on a terminal, or doas makes root",
        ground: Ground::Before,
        run: to_root,
    },
    Scenario {
        says: "odd shells, noise and odd file systems do no harm",
        ground: Ground::Before,
        run: oddities,
    },
    Scenario { says: "servers that bear little are treated with care", ground: Ground::Before, run: sparing },
    Scenario { says: "who cannot get in is told why, and what to do", ground: Ground::Before, run: refusals },
];

/// A way in, and what must come of it. `DIR` in its texts is the operator's folder.
struct Way {
    says: &'static str,
    /// Lines of the second sshd's configuration; the first of each keyword counts.
    sshd: &'static str,
    /// What root does on w2 before.
    before: &'static str,
    /// The operator's ssh_config.
    config: &'static str,
    inventory: fn(&mut Table),
    options: &'static [&'static str],
    gives: Gives,
}

enum Gives {
    /// Pieces of how it was got in: user, by, via, root.
    In { user: &'static str, by: &'static str, via: &'static str, root: &'static str },
    /// Pieces of the error.
    Refused(&'static [&'static str]),
}

use Gives::{In, Refused};

const OPS: Gives =
    In { user: "ops", by: "DIR/id: ED25519 SHA256:", via: "", root: "sudo, without a password" };
const BOB: Gives = In { user: "bob", by: "DIR/id", via: "", root: "sudo, with a password" };

const WAY: Way =
    Way { says: "", sshd: "", before: "", config: THETA, inventory: |_| {}, options: &[], gives: OPS };

/// w2 by another name, with all that is not as usual.
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

/// Whoever is called bob, who has to say a password for sudo.
fn as_bob(inventory: &mut Table) {
    set(inventory, &["nodes", "w2", "user"], "\"bob\"");
}

const SECRET: &[&str] = &["--password-command", "printf 'secret word\\n'"];

/// The operator's folder, prepared once: a home with a key, an `ssh` that takes its configuration from there.
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
            .map(|(host, key)| format!("{host} {key}\n[{host}]:2222 {key}\n"))
            .collect();
        fs::write(stage.dir.join("known"), second).unwrap();
        if !done {
            world.lab.ssh("w2", USERS);
        }
        stage
    }

    /// A text with the operator's folder in it.
    fn fill(&self, text: &str) -> String {
        text.replace("DIR", self.dir.to_str().unwrap()).replace("PIN", &self.pin)
    }

    /// The lab's inventory without a word of SSH, and w2 by its other name.
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

    fn check(&self, nodes: &[&str], options: &[String]) -> (Option<i32>, Value, String) {
        let path = format!("PATH={}/bin:{}", self.dir.display(), std::env::var("PATH").unwrap());
        let mut command = self.world.lab.command(&["exec", "env", "-u", "SSH_AUTH_SOCK", &path]);
        if let Ok(agent) = fs::read_to_string(self.dir.join("agent")) {
            command.arg(format!("SSH_AUTH_SOCK={agent}"));
        }
        command
            .arg(World::binary())
            .args(["ssh-check", "--json", "-i"])
            .arg(self.world.dir.join("inventory.toml"));
        let output = command.args(nodes).args(options).output().unwrap();
        let said = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        (output.status.code(), said, text(&output.stderr))
    }

    fn walk(&self, way: &Way) {
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
        let options: Vec<String> = way.options.iter().map(|option| self.fill(option)).collect();
        let (code, said, errors) = self.check(&["w2"], &options);
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

/// bob, who has a password and needs it for sudo, and others who are like nobody else.
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

fn by_config(world: &World) {
    walk_all(
        world,
        &[
            Way { says: "an alias with user, port and key of ssh_config", ..WAY },
            Way {
                says: "the inventory's user, port and key before those of ssh_config",
                config: "Host *\n  User nobody\n  Port 99\n  IdentityFile /nowhere\n  UserKnownHostsFile DIR/known\n",
                inventory: |i| {
                    set(i, &["nodes", "w2", "address"], "\"198.18.0.13:2222\"");
                    set(i, &["nodes", "w2", "user"], "\"ops\"");
                    set(i, &["ssh", "key"], "\"DIR/id\"");
                },
                ..WAY
            },
            Way {
                says: "a host key by another name (HostKeyAlias)",
                before: "",
                config: "Host theta\n  HostName 198.18.0.13\n  Port 2222\n  User ops\n  IdentityFile DIR/id\n  IdentitiesOnly yes\n  HostKeyAlias 198.18.0.13\n  UserKnownHostsFile DIR/known\n",
                ..WAY
            },
            Way {
                says: "through two hosts, each with a user of its own (ProxyJump)",
                config: "Host theta\n  HostName 198.18.0.13\n  Port 2222\n  User ops\n  ProxyJump ops@198.18.0.11,beta\nHost beta\n  HostName 198.18.0.12\n  User root\nHost *\n  IdentityFile DIR/id\n  IdentitiesOnly yes\n  UserKnownHostsFile DIR/known\n",
                gives: In {
                    user: "ops",
                    by: "DIR/id",
                    via: "ops@198.18.0.11, then root@198.18.0.12",
                    root: "sudo, without a password",
                },
                ..WAY
            },
            Way {
                says: "through a host that the inventory names",
                inventory: |i| set(i, &["nodes", "w2", "jump"], r#"["root@198.18.0.12"]"#),
                gives: In {
                    user: "ops",
                    by: "DIR/id",
                    via: "root@198.18.0.12",
                    root: "sudo, without a password",
                },
                ..WAY
            },
            Way {
                says: "through a program (ProxyCommand)",
                config: "Host theta\n  HostName 198.18.0.13\n  Port 2222\n  User ops\n  ProxyCommand /usr/bin/ssh -F none -i DIR/id -o UserKnownHostsFile=DIR/known -W %h:%p root@198.18.0.12\n  IdentityFile DIR/id\n  IdentitiesOnly yes\n  UserKnownHostsFile DIR/known\n",
                gives: In {
                    user: "ops",
                    by: "DIR/id",
                    via: "-W 198.18.0.13:2222",
                    root: "sudo, without a password",
                },
                ..WAY
            },
            Way {
                says: "a host key that the inventory pins, whatever files know",
                config: PINNED,
                inventory: |i| set(i, &["nodes", "w2", "host-key"], "\"PIN\""),
                ..WAY
            },
            Way {
                says: "another host key than the inventory pins",
                config: PINNED,
                inventory: |i| {
                    set(
                        i,
                        &["nodes", "w2", "host-key"],
                        "\"SHA256:hcbJ6KCv1a6BVPgYlGyKNbFtJmTvFwYXTmcfHHhwy5A\"",
                    )
                },
                gives: Refused(&[
                    "is not the one in the inventory",
                    "pinned: SHA256:hcbJ6",
                    "now:    ED25519 SHA256:",
                ]),
                ..WAY
            },
        ],
    );
}

const PINNED: &str = "Host theta\n  HostName 198.18.0.13\n  Port 2222\n  User ops\n  IdentityFile DIR/id\n  IdentitiesOnly yes\n  UserKnownHostsFile /dev/null\n";

fn keygen(dir: &Path, args: &[&str]) {
    let output =
        Command::new("ssh-keygen").current_dir(dir).args(args).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "ssh-keygen {args:?}: {}", text(&output.stderr));
}

fn with_words(world: &World) {
    let stage = Stage::new(world);
    let dir = &stage.dir;
    for name in ["ca", "certified"] {
        keygen(dir, &["-q", "-t", "ed25519", "-N", "", "-f", name]);
    }
    keygen(dir, &["-q", "-t", "ed25519", "-N", "long words", "-f", "locked"]);
    keygen(dir, &["-q", "-s", "ca", "-I", "of-the-test", "-n", "ops", "certified.pub"]);
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
    world.lab.ssh("w2", "cp /root/.ssh/authorized_keys /home/ops/.ssh/authorized_keys");
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
            says: "a certificate of the user's",
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
            says: "a certificate of the host's",
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
    // Once for all machines.
    fs::remove_file(dir.join("asked")).unwrap();
    let options = ways[5].options.iter().map(|option| stage.fill(option)).collect::<Vec<_>>();
    let (code, said, errors) = stage.check(&[], &options);
    assert_eq!(code, Some(0), "{said:#}\n{errors}");
    assert_eq!(read("asked").trim(), dir.join("locked").to_str().unwrap(), "asked once for three machines");
}

fn to_root(world: &World) {
    walk_all(
        world,
        &[
            Way {
                says: "sudo with a password, and a key to log in",
                inventory: as_bob,
                options: SECRET,
                gives: BOB,
                ..WAY
            },
            Way {
                says: "sudo's lecture and a prompt of its own",
                before: "printf 'Defaults lecture=always\\nDefaults passprompt=\"Tell me: \"\\n' >/etc/sudoers.d/odd",
                inventory: as_bob,
                options: SECRET,
                gives: BOB,
                ..WAY
            },
            Way {
                says: "sudo that wants a terminal",
                before: "printf 'Defaults requiretty\\n' >/etc/sudoers.d/odd",
                gives: In {
                    user: "ops",
                    by: "DIR/id",
                    via: "",
                    root: "sudo, on a terminal, without a password",
                },
                ..WAY
            },
            Way {
                says: "sudo that wants a terminal and a password",
                inventory: as_bob,
                options: SECRET,
                gives: In {
                    user: "bob",
                    by: "DIR/id",
                    via: "",
                    root: "sudo, on a terminal, with a password",
                },
                ..WAY
            },
            Way {
                says: "sudo that runs everything in a terminal of its own",
                before: "printf 'Defaults use_pty\\n' >/etc/sudoers.d/odd",
                inventory: as_bob,
                options: SECRET,
                gives: BOB,
                ..WAY
            },
            Way {
                says: "doas, where there is no sudo",
                before: "rm /etc/sudoers.d/odd; mv /usr/bin/sudo /usr/bin/sudo.away; echo 'permit nopass ops' >/etc/doas.conf",
                gives: In { user: "ops", by: "DIR/id", via: "", root: "doas" },
                ..WAY
            },
            Way {
                says: "neither sudo nor doas for bob",
                inventory: as_bob,
                gives: Refused(&["neither sudo nor doas makes bob root"]),
                ..WAY
            },
            Way {
                says: "a wrong password for sudo",
                before: "mv /usr/bin/sudo.away /usr/bin/sudo; rm /etc/doas.conf",
                inventory: as_bob,
                options: &["--password-command", "echo wrong"],
                gives: Refused(&["sudo does not take the password of bob", "nothing was run"]),
                ..WAY
            },
            Way {
                says: "sudo with a password, and nobody who knows it",
                inventory: as_bob,
                gives: Refused(&[
                    "sudo does not let bob become root without a password",
                    "--password-command",
                ]),
                ..WAY
            },
        ],
    );
}

fn as_tom(inventory: &mut Table) {
    set(inventory, &["nodes", "w2", "user"], "\"tom\"");
}

const TOM: Gives = In { user: "tom", by: "DIR/id", via: "", root: "sudo, without a password" };

fn oddities(world: &World) {
    walk_all(
        world,
        &[
            Way {
                says: "fish",
                before: "usermod --shell /usr/bin/fish tom",
                inventory: as_tom,
                gives: TOM,
                ..WAY
            },
            Way {
                says: "csh",
                before: "usermod --shell /bin/tcsh tom",
                inventory: as_tom,
                gives: TOM,
                ..WAY
            },
            Way {
                says: "noise of rc files, on both streams",
                before: "usermod --shell /bin/bash tom; printf 'echo Welcome to $HOSTNAME!\\necho oops >&2\\n' >/home/tom/.bashrc",
                inventory: as_tom,
                gives: TOM,
                ..WAY
            },
            Way {
                says: "a banner of 64 KiB",
                sshd: "Banner /root/banner",
                before: "head -c 65000 /dev/zero | tr '\\0' x >/root/banner",
                ..WAY
            },
            Way {
                says: "a home that is read-only, a /tmp that runs nothing",
                before: "mount -t tmpfs -o noexec none /tmp; mount -o bind /home/tom /home/tom; mount -o remount,bind,ro /home/tom",
                inventory: as_tom,
                gives: TOM,
                ..WAY
            },
            Way {
                says: "no shell at all",
                before: "umount /home/tom /tmp",
                inventory: |i| set(i, &["nodes", "w2", "user"], "\"eve\""),
                gives: Refused(&["eve has no shell there", "chsh"]),
                ..WAY
            },
            Way {
                says: "a command that is forced on everybody",
                sshd: "ForceCommand /bin/false",
                gives: Refused(&["nothing was run"]),
                ..WAY
            },
        ],
    );
}

/// Forty names of the one machine.
fn forty(inventory: &mut Table) {
    set(
        inventory,
        &["nodes", "n[01-40]"],
        r#"{address = "n[01-40]", ip = "198.18.0.[101-140]", role = "worker"}"#,
    );
}

fn sparing(world: &World) {
    let stage = Stage::new(world);
    stage.walk(&Way { says: "one session at a time", sshd: "MaxSessions 1", ..WAY });
    let config = THETA.replace("Host theta", "Host theta n??");
    let two = Way { says: "two visitors at a time", sshd: "MaxStartups 2", inventory: forty, ..WAY };
    stage.walk(&two);
    fs::write(stage.dir.join("config"), stage.fill(&config)).unwrap();
    let (code, said, errors) = stage.check(&["n[01-40]"], &["--timeout".into(), "30".into()]);
    assert_eq!(code, Some(0), "{errors}");
    assert_eq!(said["nodes"].as_array().unwrap().len(), 40);
    // An agent with more keys than a server bears: the one that ssh_config names is tried first.
    let agent = Agent::start(&stage);
    let config = THETA.replace("  IdentitiesOnly yes\n", "");
    fs::write(stage.dir.join("config"), stage.fill(&config)).unwrap();
    let (code, said, errors) = stage.check(&["w2"], &[]);
    assert_eq!(code, Some(0), "{said:#}\n{errors}");
    let config = config.replace("  IdentityFile DIR/id\n", "");
    fs::write(stage.dir.join("config"), stage.fill(&config)).unwrap();
    let (code, _, errors) = stage.check(&["w2"], &[]);
    assert_eq!(code, Some(4), "{errors}");
    for piece in ["ssh-agent: ED25519 SHA256:", "3 more, not shown", "the server would take: publickey"] {
        assert!(errors.contains(piece), "no {piece:?} in:\n{errors}");
    }
    drop(agent);
}

/// An agent that holds eight keys which open nothing.
struct Agent {
    process: std::process::Child,
    file: PathBuf,
}

impl Agent {
    fn start(stage: &Stage) -> Agent {
        let socket = stage.dir.join("agent.socket");
        let _ = fs::remove_file(&socket);
        let process =
            Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).spawn().unwrap();
        until("the agent listens", 10, || so(socket.exists()));
        for n in 0..8 {
            let name = format!("stray{n}");
            let _ = fs::remove_file(stage.dir.join(&name));
            keygen(&stage.dir, &["-q", "-t", "ed25519", "-N", "", "-f", &name]);
            let added = Command::new("ssh-add")
                .arg("-q")
                .arg(stage.dir.join(&name))
                .env("SSH_AUTH_SOCK", &socket)
                .status();
            assert!(added.unwrap().success());
        }
        let file = stage.dir.join("agent");
        fs::write(&file, socket.to_str().unwrap()).unwrap();
        Agent { process, file }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn refusals(world: &World) {
    walk_all(
        world,
        &[
            Way {
                says: "a wrong password",
                sshd: "PubkeyAuthentication no\nKbdInteractiveAuthentication no",
                inventory: as_bob,
                options: &["--password-command", "echo wrong"],
                gives: Refused(&[
                    "cannot log in as bob",
                    "password: refused",
                    "the server would take: password",
                ]),
                ..WAY
            },
            Way {
                says: "a password, and nobody who knows it",
                sshd: "PubkeyAuthentication no",
                gives: Refused(&["cannot log in as ops", "the server would take:", "--password-command"]),
                ..WAY
            },
            Way {
                says: "a key that is not let in",
                sshd: "AuthorizedKeysFile none",
                gives: Refused(&["DIR/id: ED25519", "refused", "authorized_keys"]),
                ..WAY
            },
            Way {
                says: "a jump host that forwards nothing",
                before: "",
                config: "Host theta\n  HostName 198.18.0.12\n  User ops\n  ProxyJump ops@198.18.0.13:2222\nHost *\n  IdentityFile DIR/id\n  IdentitiesOnly yes\n  UserKnownHostsFile DIR/known\n",
                sshd: "AllowTcpForwarding no",
                gives: Refused(&[
                    "the jump host ops@198.18.0.13:2222 does not forward connections to 198.18.0.12:22",
                    "AllowTcpForwarding",
                ]),
                ..WAY
            },
            Way {
                says: "a jump host that does not let in",
                config: "Host theta\n  HostName 198.18.0.12\n  User ops\n  ProxyJump nobody@198.18.0.13:2222\nHost *\n  IdentityFile DIR/id\n  IdentitiesOnly yes\n  UserKnownHostsFile DIR/known\n",
                gives: Refused(&["at the jump host nobody@198.18.0.13:2222: cannot log in as nobody"]),
                ..WAY
            },
            Way {
                says: "jump hosts in a circle",
                config: "Host theta\n  ProxyJump beta\nHost beta\n  ProxyJump gamma\nHost gamma\n  ProxyJump beta\n",
                gives: Refused(&[
                    "goes through too many hosts",
                    "does ProxyJump of your ssh_config lead in a circle",
                ]),
                ..WAY
            },
            Way {
                says: "a ProxyCommand that fails",
                config: "Host theta\n  HostName 198.18.0.13\n  User ops\n  ProxyCommand echo no way to %h >&2\n  IdentityFile DIR/id\n  UserKnownHostsFile DIR/known\n",
                gives: Refused(&[
                    "the ProxyCommand of your ssh_config leads to no SSH server",
                    "no way to 198.18.0.13",
                ]),
                ..WAY
            },
            Way {
                says: "nobody at the address",
                config: "Host theta\n  HostName 198.18.0.99\n  User ops\n  IdentityFile DIR/id\n  UserKnownHostsFile DIR/known\n",
                options: &["--timeout", "3"],
                gives: Refused(&["198.18.0.99:22"]),
                ..WAY
            },
            Way {
                says: "a certificate for another host",
                sshd: "HostCertificate /root/host-cert.pub",
                config: "Host theta\n  HostName 198.18.0.13\n  Port 2222\n  User ops\n  IdentityFile DIR/id\n  IdentitiesOnly yes\n  HostKeyAlias omega\n  UserKnownHostsFile DIR/for-omega\n",
                before: "",
                gives: Refused(&[
                    "the host key of 198.18.0.13 is not known",
                    "it is for 198.18.0.13, not for omega",
                ]),
                ..WAY
            },
        ],
    );
}
