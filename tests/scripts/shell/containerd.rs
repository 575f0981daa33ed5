//! The effective configuration of containerd is cached until one of its files changes.

use std::fs;

use ironstrap::shell::PRELUDE;
use ironstrap::step::ABSENT;

use super::{Root, new_root, text};
use crate::support::command::program;
use crate::support::shells;

/// Installs a program of this text. Each time it is another file.
fn containerd(root: &Root, text: &str) {
    program(&root.path("bin/containerd"), &format!("#!/bin/sh\nROOT={}\n{text}\n", root.text()));
}

#[test]
fn containerd_is_asked_again_only_after_a_change() {
    let functions = fs::read_to_string("templates/containerd-config.sh").unwrap();
    for shell in shells() {
        let root = new_root();
        let program = root.path("bin/containerd").display().to_string();
        let ask = format!("{functions}\ncontainerd_config").replace("/usr/bin/containerd", &program);
        let asked = || root.read("asked").lines().count();
        let absent = root.run(shell, &format!("{PRELUDE}{ask}"));
        assert_eq!((absent.status.code(), text(&absent.stdout)), (Some(ABSENT), String::new()), "{shell}");
        containerd(
            &root,
            "echo x >>$ROOT/asked; echo \"SystemdCgroup = $(cat $ROOT/etc/containerd/config.toml)\"; echo \"sandbox = 'a b'\"",
        );
        root.write("etc/containerd/config.toml", "true");
        // A question does not create the folder of ironstrap.
        assert_eq!(root.good(shell, &ask), "SystemdCgroup = true\nab\n", "{shell}");
        assert!(!root.path("run/ironstrap").exists(), "{shell}");
        fs::create_dir_all(root.path("run/ironstrap")).unwrap();
        for _ in 0..3 {
            assert_eq!(root.good(shell, &ask), "SystemdCgroup = true\nab\n", "{shell}");
        }
        // An answer is cached only if containerd gives it twice. Together with the first question that makes three calls.
        assert_eq!(asked(), 3, "{shell}");
        root.write("etc/containerd/config.toml", "false");
        for _ in 0..2 {
            assert_eq!(root.good(shell, &ask), "SystemdCgroup = false\nab\n", "{shell}");
        }
        assert_eq!(asked(), 5, "{shell}: the file changed");
        root.write("etc/containerd/conf.d/more.toml", "");
        root.good(shell, &ask);
        assert_eq!(asked(), 7, "{shell}: there is a new file");
        containerd(&root, "echo x >>$ROOT/asked; echo 'broken' >&2; exit 1");
        assert!(!root.run(shell, &ask).stderr.is_empty(), "{shell}: the program changed");
        containerd(&root, "echo x >>$ROOT/asked; echo 'sandbox = \"x\"'; echo warning >&2");
        for _ in 0..2 {
            let output = root.run(shell, &ask);
            assert_eq!(
                (text(&output.stdout), text(&output.stderr)),
                ("x\n".into(), "warning\n".into()),
                "{shell}"
            );
        }
        // If the cache cannot be written, the question is still answered.
        containerd(&root, "echo 'sandbox = \"y\"'");
        root.command("mv", "echo 'No space left on device' >&2; exit 1");
        for _ in 0..2 {
            assert_eq!(root.good(shell, &ask), "y\n", "{shell}");
        }
        fs::remove_file(root.path("bin/mv")).unwrap();
        assert_eq!(fs::read_dir(root.path("run/ironstrap")).unwrap().count(), 1, "{shell}: left over");
        fs::remove_file(root.path("asked")).unwrap();
        containerd(&root, "echo x >>$ROOT/asked; echo 'bin_dir = \"/b\"'");
        root.write("etc/containerd/config.toml", "imports = [\"/elsewhere\"]");
        for _ in 0..2 {
            assert_eq!(root.good(shell, &ask), "/b\n", "{shell}");
        }
        assert_eq!(asked(), 2, "{shell}: an imported file may change, so nothing is cached");
    }
}
