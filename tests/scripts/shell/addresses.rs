//! Tests how taken pod addresses are counted, and how those without a pod are freed.

use std::fs;

use super::{Root, new_root, text};
use crate::support::shells;

const FOLDER: &str = "var/lib/cni/networks/cbr0";
const ADDRESSES: &str = include_str!("../../../templates/addresses.sh");

/// The sandbox that has this address.
fn id(last: u8) -> String {
    format!("{last:064x}")
}

/// A node with the five pod addresses 10.244.1.2 to 10.244.1.6, of which these are taken. containerd has the sandboxes
/// 2 and 3, and another namespace of it has 4.
fn node(taken: &[(u8, &str)]) -> Root {
    let root = new_root();
    root.command("timeout", "shift; exec \"$@\"");
    root.command(
        "ctr",
        &format!(
            "case $* in 'namespaces ls -q') printf 'k8s.io\\nmoby\\n' ;;\n'-n k8s.io containers ls -q') printf '{}\\n{}\\n' ;;\n\
             '-n moby containers ls -q') echo {} ;;\n*) exit 1 ;; esac",
            id(2),
            id(3),
            id(4)
        ),
    );
    root.write("run/flannel/subnet.env", "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/29\n");
    root.write(&format!("{FOLDER}/last_reserved_ip.0"), "10.244.1.6");
    root.write(&format!("{FOLDER}/lock"), "");
    for (last, text) in taken {
        root.write(&format!("{FOLDER}/10.244.1.{last}"), text);
    }
    root
}

/// Makes all addresses look as if they were taken long ago.
fn age(root: &Root) {
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    for file in fs::read_dir(root.path(FOLDER)).unwrap() {
        fs::File::options().write(true).open(file.unwrap().path()).unwrap().set_modified(long_ago).unwrap();
    }
}

fn left(root: &Root) -> Vec<String> {
    let names = fs::read_dir(root.path(FOLDER)).unwrap().map(|file| file.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names.retain(|name| name.starts_with("10."));
    names
}

#[test]
fn leaked_pod_addresses_are_freed_once_all_are_taken() {
    let texts: Vec<(u8, String)> = (2..=6).map(|last| (last, format!("{}\r\neth0", id(last)))).collect();
    let mut taken: Vec<(u8, &str)> = texts.iter().map(|(last, text)| (*last, text.as_str())).collect();
    for shell in shells() {
        let some = node(&taken[..4]);
        age(&some);
        // An address of an earlier range of the node does not count.
        some.write(&format!("{FOLDER}/10.244.9.2"), "");
        assert_eq!(some.good(shell, &format!("{ADDRESSES}\naddresses_taken")), "", "{shell}: one is free");
        let root = node(&taken);
        assert_eq!(root.good(shell, &format!("{ADDRESSES}\naddresses_taken")), "5 5 0 2\n", "{shell}: young");
        age(&root);
        assert_eq!(root.good(shell, &format!("{ADDRESSES}\naddresses_taken")), "5 5 2 0\n", "{shell}");
        root.good(shell, &format!("{ADDRESSES}\naddresses_free"));
        assert_eq!(left(&root), ["10.244.1.2", "10.244.1.3", "10.244.1.4"], "{shell}");
        assert_eq!(root.good(shell, &format!("{ADDRESSES}\naddresses_taken")), "", "{shell}");
    }
    // An empty file belongs to no pod. A file without a sandbox id may belong to another program.
    (taken[3].1, taken[4].1) = ("", "mine");
    for shell in shells() {
        let root = node(&taken);
        age(&root);
        assert_eq!(root.good(shell, &format!("{ADDRESSES}\naddresses_taken")), "5 5 1 0\n", "{shell}");
    }
}

#[test]
fn no_address_is_freed_if_containerd_does_not_answer() {
    let texts: Vec<(u8, String)> = (2..=6).map(|last| (last, id(last))).collect();
    let taken: Vec<(u8, &str)> = texts.iter().map(|(last, text)| (*last, text.as_str())).collect();
    for shell in shells() {
        let root = node(&taken);
        age(&root);
        for failing in ["namespaces ls -q", "-n moby containers ls -q"] {
            root.command(
                "ctr",
                &format!("case $* in '{failing}') exit 1 ;; namespaces*) echo k8s.io moby ;; esac"),
            );
            for call in ["addresses_taken", "addresses_free"] {
                let output = root.run(shell, &format!("{ADDRESSES}\n{call}"));
                assert!(!output.status.success(), "{shell}: {call}");
                assert!(
                    text(&output.stderr).contains("containerd does not list its pods"),
                    "{shell}: {call}"
                );
            }
        }
        assert_eq!(left(&root).len(), 5, "{shell}");
    }
}
