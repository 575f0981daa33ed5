//! Tests the checks of files that a kubelet reads only when it starts or renews a certificate.

use std::fs;
use std::os::unix::fs::symlink;

use super::{Root, new_root, text};
use crate::support::{run, shells};

const FILES: &str = include_str!("../../../templates/kubelet-files.sh");
const KEYS: &str = include_str!("../../../templates/whole-key.awk");
const CURRENT: &str = "var/lib/kubelet/pki/kubelet-client-current.pem";

fn asked(root: &Root, shell: &str, script: &str) -> String {
    root.good(shell, &format!("{FILES}\n{script}")).replace(&root.text(), "")
}

#[test]
fn a_certificate_file_in_place_of_a_link_is_renamed() {
    for shell in shells() {
        let root = new_root();
        assert_eq!(asked(&root, shell, "kubelet_links"), "", "{shell}: nothing is there");
        root.write("var/lib/kubelet/pki/kubelet-client-2026-11-28-10-00-00.pem", "old");
        symlink(root.path("var/lib/kubelet/pki/kubelet-client-2026-11-28-10-00-00.pem"), root.path(CURRENT))
            .unwrap();
        assert_eq!(asked(&root, shell, "kubelet_links"), "", "{shell}: a link");
        fs::remove_file(root.path(CURRENT)).unwrap();
        root.write(CURRENT, "new");
        root.write("var/lib/kubelet/pki/kubelet-server-updated.pem", "half");
        let found = format!(
            "/{CURRENT} is a file instead of a link\n/var/lib/kubelet/pki/kubelet-server-updated.pem is a file instead of a link\n"
        );
        assert_eq!(asked(&root, shell, "kubelet_links"), found, "{shell}");
        asked(&root, shell, "kubelet_links_again");
        assert_eq!(asked(&root, shell, "kubelet_links"), "", "{shell}");
        let leads = fs::read_link(root.path(CURRENT)).unwrap();
        let name = leads.file_name().unwrap().to_string_lossy();
        assert!(
            name.starts_with("kubelet-client-2")
                && name.len() == "kubelet-client-2026-11-28-10-00-00.pem".len(),
            "{name}"
        );
        assert_eq!(
            (root.read(CURRENT), leads.parent()),
            ("new".into(), root.path(CURRENT).parent()),
            "{shell}"
        );
        assert_eq!(
            fs::read_dir(root.path("var/lib/kubelet/pki")).unwrap().count(),
            3,
            "{shell}: nothing else is left"
        );
    }
}

#[test]
fn files_that_keep_a_kubelet_from_starting_are_deleted() {
    let pki = |name: &str| format!("var/lib/kubelet/pki/kubelet.{name}");
    for shell in shells() {
        let root = new_root();
        root.command("systemctl", "echo \"$*\" >>$ROOT/systemctl");
        assert_eq!(asked(&root, shell, "kubelet_unreadable pair"), "", "{shell}: nothing is there");
        root.write(&pki("crt"), "x");
        root.write(&pki("key"), "x");
        root.write("var/lib/kubelet/cpu_manager_state", "{\"policyName\":\"none\",\"checksum\":1}");
        assert_eq!(asked(&root, shell, "kubelet_unreadable pair"), "", "{shell}");
        asked(&root, shell, "kubelet_readable_again pair");
        assert_eq!(root.read("systemctl"), "absent", "{shell}: nothing was to be done");
        root.write(&pki("key"), "");
        root.write("var/lib/kubelet/cpu_manager_state", "x\n");
        root.write("var/lib/kubelet/memory_manager_state", "");
        root.write("var/lib/kubelet/allocated_pods_state", "{\"a\":");
        let state = "/var/lib/kubelet/cpu_manager_state is not valid JSON\n/var/lib/kubelet/memory_manager_state is not valid JSON\n\
                     /var/lib/kubelet/allocated_pods_state is not valid JSON\n";
        assert_eq!(
            asked(&root, shell, "kubelet_unreadable ''"),
            state,
            "{shell}: it serves with another pair"
        );
        let found = format!("/{} is empty\n{state}", pki("key"));
        assert_eq!(asked(&root, shell, "kubelet_unreadable pair"), found, "{shell}");
        asked(&root, shell, "kubelet_readable_again pair");
        for name in [pki("crt"), pki("key"), "var/lib/kubelet/cpu_manager_state".into()] {
            assert!(!root.path(&name).exists(), "{shell}: {name}");
        }
        assert_eq!(root.read("systemctl"), "stop kubelet\nstart kubelet\n", "{shell}");
        root.write(&pki("crt"), "x");
        assert_eq!(
            asked(&root, shell, "kubelet_unreadable pair"),
            format!("/{} is missing\n", pki("key")),
            "{shell}"
        );
    }
}

#[test]
fn a_key_is_whole_only_at_its_declared_length() {
    let says = |shell: &str, pem: &str| {
        let root = new_root();
        root.write("var/lib/x", pem);
        let script = format!(
            "awk '{KEYS}{{ key_line($0) }}\nEND {{ print has_key + 0 }}' <{}",
            root.path("var/lib/x").display()
        );
        text(&run(shell, &script).stdout)
    };
    let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let lines: Vec<&str> = pem.lines().collect();
    for shell in shells() {
        assert_eq!(
            says(shell, &format!("-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n{pem}")),
            "1\n"
        );
        assert_eq!(says(shell, &pem.replace("PRIVATE", "EC PRIVATE")), "1\n");
        assert_eq!(says(shell, &pem.replace('\n', "\r\n")), "1\n");
        for broken in [
            lines[..lines.len() - 1].join("\n"),
            [&lines[..1], &lines[2..]].concat().join("\n"),
            pem.replace("PRIVATE", "PUBLIC"),
            pem.replacen(&pem[40..44], "", 1),
            String::new(),
        ] {
            assert_eq!(says(shell, &broken), "0\n", "{shell}: {} bytes", broken.len());
        }
    }
}
