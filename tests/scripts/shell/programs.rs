//! Tests how programs and units are compared with the database of dpkg, and how packages are reinstalled. The database
//! describes files in a folder.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};

use super::{Root, new_root, run, text};
use crate::support::shells;

const TOOL: &str = "usr/bin/tool";
const PLUGIN: &str = "opt/cni/bin/plugin";
const UNIT: &str = "usr/lib/systemd/system/tool.service";

/// A machine with one freshly installed package.
fn unpacked() -> Root {
    let root = new_root();
    root.command("stat", "/usr/bin/stat \"$@\" | sed 's/^\\([^ ]* [0-7]*\\) [0-9]*/\\1 0/'");
    root.command("md5sum", "echo read >>$ROOT/reads; exec /usr/bin/md5sum \"$@\"");
    let dir = root.text();
    let (mut list, mut sums) =
        (format!("/.\n{dir}/usr/lib/systemd/system\n{dir}/usr/bin/link\n"), String::new());
    for (name, mode) in [(TOOL, 0o755), (PLUGIN, 0o755), (UNIT, 0o644), ("usr/share/doc/tool", 0o644)] {
        root.write(name, name);
        fs::set_permissions(root.path(name), Permissions::from_mode(mode)).unwrap();
        list += &format!("{dir}/{name}\n");
        let sum = run("sh", &format!("md5sum <'{dir}/{name}'"));
        sums += &format!("{}  {}/{name}\n", &text(&sum.stdout)[..32], dir.trim_start_matches('/'));
    }
    symlink("tool", root.path("usr/bin/link")).unwrap();
    root.write("var/lib/dpkg/info/tool.md5sums", &sums);
    root.write("var/lib/dpkg/info/tool.list", &list);
    root
}

/// The output of the check, with the machine's paths.
fn programs(root: &Root, shell: &str) -> String {
    let dir = root.text();
    let functions = fs::read_to_string("templates/programs.sh").unwrap();
    let functions = functions.replace("/^\\/", &format!("/^{}\\/", dir.replace('/', "\\/")));
    let functions = functions.replace("|^\\/", &format!("|^{}\\/", dir.replace('/', "\\/")));
    let output = root.run(shell, &format!("{functions}\nprograms none tool other"));
    assert!(output.status.success() && output.stderr.is_empty(), "{shell}: {}", text(&output.stderr));
    text(&output.stdout).replace(&dir, "")
}

#[test]
fn changed_programs_are_named_and_unchanged_ones_not_read() {
    type Break = fn(&Root);
    let mode = |name: &'static str, mode| {
        move |root: &Root| {
            fs::set_permissions(root.path(name), Permissions::from_mode(mode)).unwrap();
        }
    };
    let cases: [(Break, &str); 10] = [
        (|_| (), ""),
        (|root| root.write(TOOL, ""), "tool: /usr/bin/tool was changed\n"),
        (
            |root| root.write(UNIT, "usr/lib/systemd/system/tool.servicf"),
            "tool: /usr/lib/systemd/system/tool.service was edited\n",
        ),
        (|root| root.write("usr/share/doc/tool", ""), ""),
        (|root| fs::remove_file(root.path(PLUGIN)).unwrap(), "tool: /opt/cni/bin/plugin is gone\n"),
        (
            |root| {
                fs::rename(root.path(TOOL), root.path("usr/bin/away")).unwrap();
                symlink(root.path("usr/bin/away"), root.path(TOOL)).unwrap();
            },
            "tool: /usr/bin/tool is not a regular file\n",
        ),
        (
            |root| root.write("var/lib/dpkg/info/tool.md5sums", ""),
            "tool: /usr/bin/tool has no checksum in the list of dpkg\n",
        ),
        // The time of the file or of dpkg's list is no proof here. The file is read, and has not changed.
        (|root| root.write(TOOL, TOOL), ""),
        (|root| fs::remove_file(root.path("var/lib/dpkg/info/tool.list")).unwrap(), ""),
        (
            |root| {
                root.write(TOOL, "another's");
                let tool = root.path(TOOL).display().to_string();
                root.write("var/lib/dpkg/diversions", &format!("{tool}\n{tool}.real\n:\n"));
            },
            "",
        ),
    ];
    for shell in shells() {
        for (i, (broken, says)) in cases.iter().enumerate() {
            let root = unpacked();
            assert_eq!(programs(&root, shell), "", "{shell}");
            assert_eq!(root.read("reads"), "absent", "{shell}: nothing changed");
            broken(&root);
            let said = programs(&root, shell);
            let good = if says.is_empty() { said.is_empty() } else { said.starts_with(says) };
            assert!(good, "{shell}: {i}: {said:?} and not {says:?}");
            assert_eq!(root.read("reads") != "absent", [1, 2, 7, 8].contains(&i), "{shell}: {i}");
        }
        for (name, is, says) in [
            (TOOL, 0o4755, "has mode 4755 and the owner root\n"),
            (TOOL, 0o644, "has mode 644 and the owner root\n"),
            (PLUGIN, 0o777, "has mode 777 and the owner root\n"),
            (UNIT, 0o666, "has mode 666 and the owner root\n"),
            (UNIT, 0o600, ""),
            (TOOL, 0o700, ""),
        ] {
            let root = unpacked();
            mode(name, is)(&root);
            let right = if says.is_empty() { String::new() } else { format!("tool: /{name} {says}") };
            assert_eq!(programs(&root, shell), right, "{shell}: {is:o}");
        }
    }
}

#[test]
fn a_file_that_cannot_be_examined_is_an_error() {
    for shell in shells() {
        let root = unpacked();
        root.command("stat", "echo 'stat: cannot statx: Input/output error' >&2; exit 1");
        let functions = fs::read_to_string("templates/programs.sh").unwrap();
        let dir = root.text().replace('/', "\\/");
        let functions =
            functions.replace("/^\\/", &format!("/^{dir}\\/")).replace("|^\\/", &format!("|^{dir}\\/"));
        let output = root.run(shell, &format!("{functions}\nprograms tool"));
        assert!(text(&output.stderr).contains("Input/output error"), "{shell}");
    }
}

#[test]
fn a_package_is_reinstalled_and_keeps_its_marks() {
    let functions = fs::read_to_string("templates/again.sh").unwrap();
    for shell in shells() {
        let root = new_root();
        root.command("dpkg", ":");
        root.command("systemctl", ":");
        root.command("dpkg-query", "printf '%s' 'hi  1.2-3'");
        root.command("apt-mark", "echo \"$*\" >>$ROOT/marks; [ $1 != showauto ] || echo tool");
        root.command("apt-get", "case \" $* \" in *' -s '*) ;; *) echo \"$*\" >>$ROOT/apt ;; esac");
        let again =
            |what: &str| format!("{functions}\nprograms() {{ {what}; }}\nprograms_again kubelet tool");
        root.good(shell, &again("echo \"$1: it was changed\""));
        assert!(root.read("apt").ends_with(" --reinstall tool=1.2-3\n"), "{shell}: {}", root.read("apt"));
        assert_eq!(root.read("marks"), "showauto tool\nauto tool\nhold tool\n", "{shell}");

        // The program is right in the meantime.
        fs::remove_file(root.path("apt")).unwrap();
        root.good(shell, &again(":"));
        assert_eq!(root.read("apt"), "absent", "{shell}");

        // apt succeeds even if it could not reinstall the package.
        root.command("apt-get", "echo 'Reinstallation of tool is not possible, it cannot be downloaded.'");
        let output = root.run(shell, &again("echo x"));
        assert_eq!(output.status.code(), Some(1), "{shell}");
        let said = text(&output.stdout);
        assert!(
            said.contains("reason: no package source has tool 1.2-3 any more\nby hand: "),
            "{shell}: {said}"
        );
    }
}
