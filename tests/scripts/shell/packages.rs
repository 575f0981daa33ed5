//! Removes packages on machines with a package problem: an unreadable database, a half-configured foreign package, a
//! permanent lock, or links that dpkg treats as folders.

use std::fs;
use std::os::unix::fs::symlink;

use super::{Root, new_root, played_packages, text};
use crate::support::shells;

fn unpackage(root: &Root, shell: &str, names: &str) -> (bool, String) {
    let dir = root.text();
    let output = root.run(shell, &format!("WAIT_TIMEOUT=0; pkg_remove {dir}/was {dir}/manual {names} 2>&1"));
    (output.status.success(), text(&output.stdout))
}

fn installed() -> Root {
    let root = new_root();
    played_packages(&root, "kubelet hi\n", "");
    root.write("alone", "");
    root.write("was", "kubelet absent\n");
    root.write("var/lib/ironstrap/came/x", "kubelet\n");
    root
}

#[test]
fn an_unreadable_dpkg_database_stops_the_removal() {
    for shell in shells() {
        let root = installed();
        root.command(
            "dpkg-query",
            "echo \"dpkg-query: error: parsing file '/var/lib/dpkg/status'\" >&2; exit 2",
        );
        let (good, said) = unpackage(&root, shell, "kubelet");
        assert!(!good, "{shell}: {said}");
        assert!(said.contains("reason: dpkg-query: error: parsing file"), "{shell}: {said}");
        assert!(said.contains("by hand: dpkg"), "{shell}: {said}");
        assert_eq!(root.read("removed"), "absent", "{shell}");
    }
}

/// Every command of apt fails if any package is half configured.
#[test]
fn broken_foreign_packages_do_not_stop_a_removal() {
    for shell in shells() {
        let root = installed();
        root.command("dpkg", "case $1 in --purge) echo \"$*\" >>$ROOT/dpkg ;; esac");
        root.command("apt-get", "case \" $* \" in *' -s '*) ;; *) echo 'E: Sub-process dpkg returned an error code (1)'; exit 100 ;; esac");
        let (good, said) = unpackage(&root, shell, "kubelet");
        assert!(good, "{shell}: {said}");
        assert_eq!(root.read("dpkg"), "--purge kubelet\n", "{shell}");
        // apt removes the package and then fails. dpkg has nothing more to do.
        fs::remove_file(root.path("dpkg")).unwrap();
        root.command("apt-get", "case \" $* \" in *' -s '*) ;; *) : >$ROOT/packages; exit 100 ;; esac");
        assert!(unpackage(&root, shell, "kubelet").0, "{shell}");
        assert_eq!(root.read("dpkg"), "absent", "{shell}");
    }
}

#[test]
fn a_permanent_package_lock_is_reported_with_its_remedy() {
    for shell in shells() {
        let root = installed();
        root.command("dpkg", "case $1 in --purge) echo \"$*\" >>$ROOT/dpkg ;; esac");
        root.command(
            "apt-get",
            "case \" $* \" in *' -s '*) ;; *) echo 'E: Could not get lock /x.'; exit 100 ;; esac",
        );
        let (good, said) = unpackage(&root, shell, "kubelet");
        assert!(!good && said.contains("by hand: package-lock"), "{shell}: {said}");
        assert_eq!(root.read("dpkg"), "absent", "{shell}: after a lock error, dpkg is not tried");
        root.command("dpkg", "echo 'dpkg: error: dpkg frontend lock was locked by another process'; exit 2");
        let (good, said) = unpackage(&root, shell, "kubelet");
        assert!(!good && said.contains("reason: the package lock is held by process"), "{shell}: {said}");
    }
}

#[test]
fn a_users_link_survives_the_removal_of_its_package() {
    for shell in shells() {
        let root = installed();
        fs::create_dir_all(root.path("data/kubelet")).unwrap();
        let link = root.path("var/lib/kubelet");
        symlink(root.path("data/kubelet"), &link).unwrap();
        // dpkg deletes the link with the last package that owns the folder.
        let apt = "case \" $* \" in *' -s '*) ;; *' purge '*) rm -f $ROOT/var/lib/kubelet ;; esac";
        root.command("apt-get", apt);
        let (good, said) = unpackage(&root, shell, "kubelet");
        assert!(good, "{shell}: {said}");
        assert_eq!(fs::read_link(&link).unwrap(), root.path("data/kubelet"), "{shell}");
        // The run was killed before it restored the link. The next run restores it from its notes.
        fs::remove_file(&link).unwrap();
        assert!(unpackage(&root, shell, "kubelet").0);
        assert!(link.is_symlink(), "{shell}");
    }
}

/// The package was removed by another program. Its folders and the link that starts its unit at boot remained.
#[test]
fn leftovers_of_an_already_removed_package_are_deleted() {
    for shell in shells() {
        let root = installed();
        root.write("packages", "");
        root.write("manual", &format!("folders noted\nfolder {}\n", root.path("etc/cni").display()));
        for folder in
            ["etc/cni", "etc/kubernetes/manifests", "var/lib/kubelet", "etc/systemd/system/a.target.wants"]
        {
            fs::create_dir_all(root.path(folder)).unwrap();
        }
        root.write("var/lib/cni/theirs", "");
        let (good, said) = unpackage(&root, shell, "kubelet");
        assert!(good, "{shell}: {said}");
        assert!(!root.path("etc/kubernetes").exists() && !root.path("var/lib/kubelet").exists(), "{shell}");
        assert!(root.path("etc/cni").exists() && root.path("var/lib/cni/theirs").exists(), "{shell}");
        // Notes of older versions list no folders.
        root.write("manual", "");
        fs::create_dir_all(root.path("var/lib/kubelet")).unwrap();
        assert!(unpackage(&root, shell, "kubelet").0 && root.path("var/lib/kubelet").exists(), "{shell}");

        let link = |name: &str| root.path(&format!("etc/systemd/system/a.target.wants/{name}.service"));
        let _ = (fs::remove_file(link("kubelet")), fs::remove_file(link("other")));
        symlink(root.path("gone.service"), link("kubelet")).unwrap();
        symlink(root.path("gone.service"), link("other")).unwrap();
        root.command("systemctl", "case $1 in show) echo not-found ;; esac");
        root.good(shell, "unit_back kubelet disabled inactive");
        assert!(!link("kubelet").is_symlink() && link("other").is_symlink(), "{shell}");
    }
}

/// If apt-get is killed or crashes, it prints no error about a source, and has not read all of them.
#[test]
fn an_apt_crash_is_reported_as_a_failed_update() {
    let sources = fs::read_to_string("templates/sources.sh").unwrap();
    for shell in shells() {
        for (apt, said) in [
            ("echo 'Hit:1 http://a trixie InRelease'", ""),
            (
                "echo 'Hit:1 http://a trixie InRelease'; exit 139",
                "apt-get update failed with exit code 139\n",
            ),
            ("kill -s KILL $$", "apt-get update failed with exit code 137\n"),
            (
                "echo 'E: The list of sources could not be read.'; exit 100",
                "apt-get update failed with exit code 100\n",
            ),
            ("echo 'E: Broken'; exit 100", "Broken\n"),
            ("exit 124", "apt-get update does not end within 40 s\n"),
        ] {
            let root = new_root();
            root.command("apt-get", apt);
            let d = root.path("d").display().to_string();
            assert_eq!(root.good(shell, &format!("d={d}\n{sources}\nsources_dead")), said, "{shell}: {apt}");
        }
    }
}
