//! Addresses of pods that are taken: counted against the range of the node, and freed where their pods are gone.

use std::fs;

use super::{Root, text};
use crate::common::shells;

const FOLDER: &str = "var/lib/cni/networks/cbr0";
const ADDRESSES: &str = include_str!("../../templates/addresses.sh");

/// The sandbox that has this address.
fn id(last: u8) -> String {
    format!("{last:064x}")
}

/// A node with five addresses for pods, 10.244.1.2 to 10.244.1.6, of which these are taken. containerd has the sandboxes 2 and 3, and
/// another program of it has 4.
fn node(taken: &[(u8, &str)]) -> Root {
    let root = Root::new();
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

/// All of them were taken long ago.
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
fn addresses_of_pods_that_are_gone_are_counted_and_freed_once_all_are_taken() {
    let texts: Vec<(u8, String)> = (2..=6).map(|last| (last, format!("{}\r\neth0", id(last)))).collect();
    let mut taken: Vec<(u8, &str)> = texts.iter().map(|(last, text)| (*last, text.as_str())).collect();
    for shell in shells() {
        let some = node(&taken[..4]);
        age(&some);
        // Of a range that the node had before.
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
    // An empty one has no pod; a word that is no id may be anybody's.
    (taken[3].1, taken[4].1) = ("", "mine");
    for shell in shells() {
        let root = node(&taken);
        age(&root);
        assert_eq!(root.good(shell, &format!("{ADDRESSES}\naddresses_taken")), "5 5 1 0\n", "{shell}");
    }
}

#[test]
fn no_address_is_freed_where_containerd_does_not_answer() {
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
                let output = root.lib(shell, &format!("{ADDRESSES}\n{call}"));
                assert!(!output.status.success(), "{shell}: {call}");
                assert!(text(&output.stderr).contains("containerd does not say"), "{shell}: {call}");
            }
        }
        assert_eq!(left(&root).len(), 5, "{shell}");
    }
}
