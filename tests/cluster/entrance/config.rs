//! Settings of the operator's ssh_config, and settings of the inventory that override them.

use super::{Gives, In, Refused, WAY, Way, walk_all};
use crate::world::{World, set};

pub fn by_config(world: &World) {
    walk_all(
        world,
        &[
            Way { says: "an alias with user, port and key of ssh_config", ..WAY },
            Way {
                says: "the inventory's user, port and key override those of ssh_config",
                config: "Host *\n  User nobody\n  Port 99\n  IdentityFile /nowhere\n  UserKnownHostsFile DIR/known\n",
                inventory: |i| {
                    set(i, &["nodes", "w2", "address"], "\"198.18.0.13:2222\"");
                    set(i, &["nodes", "w2", "user"], "\"ops\"");
                    set(i, &["ssh", "key"], "\"DIR/id\"");
                },
                ..WAY
            },
            Way {
                says: "a host key under another name (HostKeyAlias)",
                before: "",
                config: "Host theta\n  HostName 198.18.0.13\n  Port 2222\n  User ops\n  IdentityFile DIR/id\n  IdentitiesOnly yes\n  HostKeyAlias 198.18.0.13\n  UserKnownHostsFile DIR/known\n",
                ..WAY
            },
            Way {
                says: "two jump hosts with different users (ProxyJump)",
                config: "Host theta\n  HostName 198.18.0.13\n  Port 2222\n  User ops\n  ProxyJump ops@198.18.0.11,beta\nHost beta\n  HostName 198.18.0.12\n  User root\nHost *\n  IdentityFile DIR/id\n  IdentitiesOnly yes\n  UserKnownHostsFile DIR/known\n",
                gives: through("ops@198.18.0.11, then root@198.18.0.12"),
                ..WAY
            },
            Way {
                says: "a jump host of the inventory",
                inventory: |i| set(i, &["nodes", "w2", "jump"], r#"["root@198.18.0.12"]"#),
                gives: through("root@198.18.0.12"),
                ..WAY
            },
            Way {
                says: "a program as the connection (ProxyCommand)",
                config: "Host theta\n  HostName 198.18.0.13\n  Port 2222\n  User ops\n  ProxyCommand /usr/bin/ssh -F none -i DIR/id -o UserKnownHostsFile=DIR/known -W %h:%p root@198.18.0.12\n  IdentityFile DIR/id\n  IdentitiesOnly yes\n  UserKnownHostsFile DIR/known\n",
                gives: through("the ProxyCommand of your ssh_config"),
                ..WAY
            },
            Way {
                says: "a jump host with another port",
                before: "",
                config: "Host theta\n  HostName 198.18.0.12\n  User ops\n  ProxyJump bob@198.18.0.13:2222\nHost *\n  IdentityFile DIR/id\n  IdentitiesOnly yes\n  UserKnownHostsFile DIR/known\n",
                gives: through("bob@198.18.0.13:2222"),
                ..WAY
            },
            Way {
                says: "a jump host for all hosts, including itself",
                config: "Host theta\n  HostName 198.18.0.13\n  Port 2222\n  User ops\nHost beta\n  HostName 198.18.0.13\n  Port 2222\n  ProxyJump none\nHost *\n  ProxyJump beta\n  IdentityFile DIR/id\n  IdentitiesOnly yes\n  UserKnownHostsFile DIR/known\n",
                ..WAY
            },
            Way {
                says: "an IPv6 address of the inventory behind a jump host",
                sshd: "ListenAddress ::1",
                inventory: |i| {
                    set(i, &["nodes", "w2", "address"], "\"[::1]:2222\"");
                    set(i, &["nodes", "w2", "user"], "\"ops\"");
                    set(i, &["nodes", "w2", "jump"], r#"["ops@198.18.0.13"]"#);
                },
                config: SIXTH,
                gives: through("ops@198.18.0.13"),
                ..WAY
            },
            Way {
                says: "an IPv6 address of ssh_config behind a jump host",
                sshd: "ListenAddress ::1",
                config: SIXTH,
                gives: through("ops@198.18.0.13"),
                ..WAY
            },
            Way {
                says: "a host key that only the inventory pins",
                config: PINNED,
                inventory: |i| set(i, &["nodes", "w2", "host-key"], "\"PIN\""),
                ..WAY
            },
            Way {
                says: "a host key that differs from the inventory's",
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

const SIXTH: &str = "Host theta
  HostName ::1
  Port 2222
  User ops
  ProxyJump ops@198.18.0.13
Host *
  IdentityFile DIR/id
  IdentitiesOnly yes
  UserKnownHostsFile DIR/known
";

/// A login as ops with a key through these jump hosts.
fn through(via: &'static str) -> Gives {
    In { user: "ops", by: "DIR/id", via, root: "sudo, without a password" }
}
