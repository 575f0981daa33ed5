//! Tests the units of long fixes: their files, how ironstrap follows them, and what remains of them.

use super::*;

/// A stand-in for `systemd-run` that runs the unit directly.
const RUNS: &str = "while [ \"$1\" != /bin/sh ]; do shift; done\nexec \"$@\"";

#[test]
fn a_unit_is_followed_to_its_end() {
    for shell in shells() {
        for (script, status, said) in
            [("echo one; echo two >&2", 0, "one\ntwo\n"), ("umask; exit 4", 4, "0022\n")]
        {
            let root = new_root();
            root.command("systemd-run", RUNS);
            root.command("systemctl", "echo 0");
            // An earlier unit of the same run left these files. They say nothing about this unit.
            root.write("run/ironstrap/toy.1f2e.log", "before\n");
            root.write("run/ironstrap/toy.1f2e.rc", "9\n");
            let output = root
                .run(shell, &format!("umask 022\nlease_run=1f2e\nrun_as_unit toy 5 <<'END'\n{script}\nEND"));
            let err = text(&output.stderr);
            assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(status), said), "{err}");
            assert_eq!(root.read("run/ironstrap/toy.1f2e.rc").trim(), status.to_string());
            assert_eq!(root.mode("run/ironstrap/toy.1f2e.log"), 0o600);
            let names = fs::read_dir(root.path("run/ironstrap")).unwrap().count();
            assert_eq!(names, 2, "{shell}: the script may hold secrets");
        }
    }
}

#[test]
fn a_unit_that_is_stopped_early_is_reported() {
    for shell in shells() {
        let root = new_root();
        root.command("systemd-run", ":");
        root.command("systemctl", "echo 0");
        let output =
            root.run(shell, "mkdir -p $RUN; lease_run=1f2e\nrun_as_unit toy 5 <<'END'\necho never\nEND");
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(1), "{shell}");
        assert_eq!(
            (out.as_str(), err.as_str()),
            ("ironstrap-toy was stopped before it finished\n", ""),
            "{shell}"
        );
    }
}

#[test]
fn a_unit_of_an_earlier_run_is_followed() {
    for shell in shells() {
        for (lease, job) in [("3 1f2e 0 1000 me@here 0af1\n", "toy.1f2e"), ("3 1f2e 0 1000 me@here\n", "toy")]
        {
            let root = new_root();
            root.command("systemctl", "echo 0");
            root.write("run/ironstrap/lease", lease);
            root.write(&format!("run/ironstrap/{job}.log"), "so far\n");
            let output = root.run(shell, "follow_earlier_unit toy");
            let (out, err) = (text(&output.stdout), text(&output.stderr));
            assert_eq!(output.status.code(), Some(1), "{shell}: {out}{err}");
            assert_eq!(out, "so far\nironstrap-toy was stopped before it finished\n", "{shell}: {err}");
            root.write(&format!("run/ironstrap/{job}.rc"), "4\n");
            assert_eq!(root.run(shell, "follow_earlier_unit toy").status.code(), Some(4), "{shell}");
        }
    }
}

#[test]
fn the_script_of_an_active_unit_is_never_overwritten() {
    for shell in shells() {
        for mine in ["1f2e", "2222"] {
            let root = new_root();
            root.command("systemd-run", "echo 'Unit ironstrap-toy.service was already loaded' >&2; exit 1");
            root.command("systemctl", "echo 0");
            let files = ["sh", "log"].map(|end| format!("run/ironstrap/toy.1f2e.{end}"));
            files.iter().for_each(|file| root.write(file, "of the first\n"));
            let output =
                root.run(shell, &format!("lease_run={mine}\nrun_as_unit toy 5 <<'END'\necho second\nEND"));
            assert_eq!(output.status.code(), Some(1), "{shell}");
            assert_eq!(text(&output.stdout), "", "{shell}: it does not follow the active unit");
            assert!(files.iter().all(|file| root.read(file) == "of the first\n"), "{shell}");
            assert_eq!(
                fs::read_dir(root.path("run/ironstrap")).unwrap().count(),
                2,
                "{shell}: nothing is left"
            );
        }
    }
}

#[test]
fn taking_a_machine_deletes_only_leftovers_of_earlier_runs() {
    let old = [
        "kubeadm.sh",
        "kubeadm.log",
        "kubeadm.rc",
        "runtime.sh",
        "kubelet.sh",
        "control-plane.log",
        "drain.rc",
    ];
    let earlier = [
        "kubeadm.1f2e.sh",
        "kubelet.1f2e.log",
        "runtime.1f2e.rc",
        "drain.1f2e.77.new",
        "kubeadm.1f2e.rc.new",
    ];
    let stays = [
        "kubeadm.yaml",
        "discovery.conf",
        "rules",
        "why",
        "patience",
        "apt.out",
        "mine.sh",
        "mine.log",
        "kube/x.y.sh",
    ];
    for shell in shells() {
        let root = new_root();
        let path = |name: &&str| format!("run/ironstrap/{name}");
        let there = |names: &[&str]| names.iter().filter(|name| root.path(&path(name)).exists()).count();
        for name in old.iter().chain(&earlier).chain(&stays) {
            root.write(&path(name), "");
        }
        fs::create_dir(root.path("run/ironstrap/a.b.sh")).unwrap();
        // One run is refused, and the other already has the lease. The files may be in use.
        root.write("run/ironstrap/lease", &format!("5 theirs {} 10 alice@desk\n", now() + 60));
        root.run(shell, "take_lease 5 ours me@here 120 - -");
        root.good(shell, "take_lease 5 theirs alice@desk 120 - -");
        assert_eq!((there(&old), there(&earlier)), (old.len(), earlier.len()), "{shell}");
        root.good(shell, "release_lease theirs; take_lease 5 ours me@here 120 - -");
        assert_eq!((there(&old), there(&earlier)), (0, 0), "{shell}");
        assert_eq!((there(&stays), there(&["lease", "lock", "a.b.sh"])), (stays.len(), 3), "{shell}");
    }
}

#[test]
fn unit_back_skips_a_unit_that_is_gone() {
    for shell in shells() {
        for (there, done) in [("not-found", ""), ("loaded", "disable -q kubelet\nstop kubelet\n")] {
            let root = new_root();
            let does = format!(
                "case $1 in show) echo {there} ;; disable | stop) [ {there} = loaded ] || exit 1; echo \"$*\" >>$ROOT/done ;; esac"
            );
            root.command("systemctl", &does);
            root.good(shell, "unit_back kubelet disabled inactive");
            let is = if root.path("done").exists() { root.read("done") } else { String::new() };
            assert_eq!(is, done, "{shell}");
        }
    }
}
