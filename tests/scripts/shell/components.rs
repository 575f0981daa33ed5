//! Tests which stopped components of a control plane are named, and when none is.

use super::{Root, new_root};
use crate::support::shells;

const PODS: &str = include_str!("../../../templates/pods.sh");
const ALL: [&str; 4] = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];

/// A control plane with all manifests that has run for a long time.
fn control_plane() -> Root {
    let root = new_root();
    for name in ALL {
        root.write(&format!("etc/kubernetes/manifests/{name}.yaml"), "");
    }
    root.write("etc/kubernetes/controller-manager.conf", "    server: https://198.18.0.11:6443\n");
    root.command("systemctl", "case $* in show*) echo 1000000 ;; esac");
    root.command("timeout", "shift; exec \"$@\"");
    root.command(
        "kubectl",
        "case $* in *'--server https://198.18.0.11:6443 get --raw /livez') ;; *) exit 1 ;; esac",
    );
    // The present time, and the time when the manifest changed.
    root.command("stat", "echo 1000; echo 500");
    root
}

/// The named components if only `running` run. Each started this many seconds after boot.
fn named(root: &Root, shell: &str, running: &[&str], started: u32) -> String {
    let stands = format!(
        "find_component() {{ pids=; case ' {} ' in *\" $1 \"*) pids=7 ;; esac; }}\nfind_start() {{ started={started}00; }}\n\
         arguments() {{ :; }}\nsleep() {{ :; }}",
        running.join(" ")
    );
    root.good(shell, &format!("{PODS}\n{stands}\nstale m1 also"))
}

#[test]
fn a_stopped_component_is_named_without_its_dependents() {
    for shell in shells() {
        let root = control_plane();
        for (running, said) in [
            (&ALL[..], ""),
            (&ALL[..3], "- kube-scheduler\n"),
            (&ALL[..2], "- kube-controller-manager\n- kube-scheduler\n"),
            (&ALL[..1], "- kube-apiserver\n"),
            (&ALL[1..], "- etcd\n"),
            (&[], "- etcd\n"),
        ] {
            assert_eq!(named(&root, shell, running, 1), said, "{shell}: {running:?}");
        }
    }
}

#[test]
fn a_component_that_may_still_start_is_not_named() {
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
    let up: u32 = uptime.split('.').next().unwrap().parse().unwrap();
    for shell in shells() {
        let root = control_plane();
        assert_eq!(named(&root, shell, &ALL[..3], up - 20), "", "{shell}: the API server is young");
        root.command("stat", "echo 1000; echo 900");
        assert_eq!(named(&root, shell, &ALL[..3], 1), "", "{shell}: the manifest is young");
        let root = control_plane();
        root.command("systemctl", &format!("case $* in show*) echo {}000000 ;; esac", up - 20));
        assert_eq!(named(&root, shell, &ALL[..3], 1), "", "{shell}: the kubelet is young");
        root.command("systemctl", "case $* in show*) echo 0 ;; *) exit 3 ;; esac");
        assert_eq!(named(&root, shell, &ALL[..3], 1), "", "{shell}: the kubelet does not run");
        let root = control_plane();
        root.command("kubectl", "exit 1");
        assert_eq!(named(&root, shell, &ALL[..3], 1), "", "{shell}: the API server does not answer");
        for name in ["etcd", "kube-apiserver"] {
            let root = control_plane();
            std::fs::remove_file(root.path(&format!("etc/kubernetes/manifests/{name}.yaml"))).unwrap();
            assert_eq!(named(&root, shell, &ALL[..1], 1), "", "{shell}: the other component is the cause");
        }
    }
}
