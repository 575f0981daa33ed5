//! Privilege escalation, and unusual user accounts.

use toml::Table;

use super::{BOB, Gives, In, Refused, SECRET, Stage, WAY, Way, as_bob, walk_all};
use crate::world::{World, set};

pub fn to_root(world: &World) {
    let stage = Stage::new(world);
    let ways = [
        Way {
            says: "sudo with a password after a login with a key",
            inventory: as_bob,
            options: SECRET,
            gives: BOB,
            ..WAY
        },
        Way {
            says: "sudo with a lecture and its own prompt",
            before: "printf 'Defaults lecture=always\\nDefaults passprompt=\"Tell me: \"\\n' >/etc/sudoers.d/odd",
            inventory: as_bob,
            options: SECRET,
            gives: BOB,
            ..WAY
        },
        Way {
            says: "sudo that requires a terminal",
            before: "printf 'Defaults requiretty\\nDefaults passprompt=\"Tell me: \"\\n' >/etc/sudoers.d/odd",
            gives: In { user: "ops", by: "DIR/id", via: "", root: "sudo, on a terminal, without a password" },
            ..WAY
        },
        Way {
            says: "sudo that requires a terminal and a password, and is slow",
            before: "sed -i '1i auth optional pam_exec.so quiet /bin/sleep 0.5' /etc/pam.d/sudo",
            inventory: as_bob,
            options: SECRET,
            gives: In { user: "bob", by: "DIR/id", via: "", root: "sudo, on a terminal, with a password" },
            ..WAY
        },
        Way {
            says: "sudo that runs commands in its own terminal",
            before: "sed -i '/bin.sleep/d' /etc/pam.d/sudo; printf 'Defaults use_pty\\n' >/etc/sudoers.d/odd",
            inventory: as_bob,
            options: SECRET,
            gives: BOB,
            ..WAY
        },
        Way {
            says: "doas without sudo",
            before: "rm /etc/sudoers.d/odd; mv /usr/bin/sudo /usr/bin/sudo.away; echo 'permit nopass ops' >/etc/doas.conf",
            gives: In { user: "ops", by: "DIR/id", via: "", root: "doas" },
            ..WAY
        },
        Way {
            says: "neither sudo nor doas for bob",
            inventory: as_bob,
            gives: Refused(&["neither sudo nor doas lets bob become root"]),
            ..WAY
        },
        Way {
            says: "a wrong password for sudo",
            before: "mv /usr/bin/sudo.away /usr/bin/sudo; rm /etc/doas.conf",
            inventory: as_bob,
            options: &["--password-command", "echo wrong"],
            gives: Refused(&["sudo refuses the password of bob", "nothing was run"]),
            ..WAY
        },
        Way {
            says: "sudo with a password, and none is given",
            inventory: as_bob,
            gives: Refused(&["sudo does not let bob become root without a password", "--password-command"]),
            ..WAY
        },
    ];
    for way in &ways {
        stage.walk(way);
        // A whole plan with the same privilege escalation.
        if matches!(way.gives, In { .. }) {
            let (code, said, errors) = stage.ironstrap("plan", &["--limit", "w2"], way.options);
            assert_eq!(code, Some(0), "{}: {errors}", way.says);
            assert!(said.contains("w2 is a member of demo"), "{}: {said}", way.says);
        }
    }
    let journal = world.lab.ssh("w2", "journalctl -q --no-pager -t sudo");
    assert!(journal.contains("1 incorrect password attempt"), "{journal}");
    assert!(!journal.contains("3 incorrect"), "sudo read the script as passwords: {journal}");
}

fn as_tom(inventory: &mut Table) {
    set(inventory, &["nodes", "w2", "user"], "\"tom\"");
}

const TOM: Gives = In { user: "tom", by: "DIR/id", via: "", root: "sudo, without a password" };

pub fn oddities(world: &World) {
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
                says: "rc files that print on both streams",
                before: "usermod --shell /bin/bash tom; printf 'echo Welcome to $HOSTNAME!\\nprintf \"\\\\377\\\\0\\\\200\"\\necho oops >&2\\n' >/home/tom/.bashrc",
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
                says: "a banner that is not UTF-8",
                before: "printf 'Gr\\374ezi\\n' >/root/banner",
                sshd: "Banner /root/banner",
                gives: Refused(&[
                    "the server disconnected: its banner is not UTF-8",
                    "iconv -f latin1 -t utf8",
                ]),
                ..WAY
            },
            Way {
                says: "a read-only home and a noexec /tmp",
                before: "mount -t tmpfs -o noexec none /tmp; mount -o bind /home/tom /home/tom; mount -o remount,bind,ro /home/tom",
                inventory: as_tom,
                gives: TOM,
                ..WAY
            },
            Way {
                says: "a shell whose rc file never ends",
                before: "umount /home/tom /tmp; echo 'sleep 1000' >/home/tom/.bashrc",
                inventory: as_tom,
                options: &["--timeout", "2"],
                gives: Refused(&[
                    "timed out after 6 s",
                    "logged in as tom, but the script did not start",
                    "rc files",
                ]),
                ..WAY
            },
            Way {
                says: "no login shell",
                inventory: |i| set(i, &["nodes", "w2", "user"], "\"eve\""),
                gives: Refused(&["eve has no login shell", "chsh"]),
                ..WAY
            },
            Way {
                says: "a forced command (ForceCommand)",
                sshd: "ForceCommand /bin/false",
                gives: Refused(&["nothing was run"]),
                ..WAY
            },
        ],
    );
}
