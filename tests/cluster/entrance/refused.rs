//! Failed logins and their errors.

use super::{Refused, WAY, Way, as_bob, walk_all};
use crate::world::World;

pub fn refusals(world: &World) {
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
                    "password login: refused",
                    "the server accepts: password",
                ]),
                ..WAY
            },
            Way {
                says: "a password is required, and none is given",
                sshd: "PubkeyAuthentication no",
                gives: Refused(&["cannot log in as ops", "the server accepts:", "--password-command"]),
                ..WAY
            },
            Way {
                says: "a key that the server refuses",
                sshd: "AuthorizedKeysFile none",
                gives: Refused(&["DIR/id: ED25519", "refused", "authorized_keys"]),
                ..WAY
            },
            Way {
                says: "a jump host that does not forward connections",
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
                says: "a jump host that refuses the login",
                config: "Host theta\n  HostName 198.18.0.12\n  User ops\n  ProxyJump nobody@198.18.0.13:2222\nHost *\n  IdentityFile DIR/id\n  IdentitiesOnly yes\n  UserKnownHostsFile DIR/known\n",
                gives: Refused(&["at the jump host nobody@198.18.0.13:2222: cannot log in as nobody"]),
                ..WAY
            },
            Way {
                says: "jump hosts in a circle",
                config: "Host theta\n  ProxyJump beta\nHost beta\n  ProxyJump gamma\nHost gamma\n  ProxyJump beta\n",
                gives: Refused(&[
                    "goes through too many jump hosts",
                    "check whether ProxyJump of your ssh_config loops",
                ]),
                ..WAY
            },
            Way {
                says: "a ProxyCommand that fails",
                config: "Host theta\n  HostName 198.18.0.13\n  User ops\n  ProxyCommand echo no way to %h >&2\n  IdentityFile DIR/id\n  UserKnownHostsFile DIR/known\n",
                gives: Refused(&[
                    "the ProxyCommand of your ssh_config does not reach an SSH server",
                    "no way to 198.18.0.13",
                ]),
                ..WAY
            },
            Way {
                says: "no machine at the address",
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
