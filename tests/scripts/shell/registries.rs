//! Tests the removal of registry folders of containerd that the inventory no longer needs.

use super::new_root;
use crate::support::shells;

const FUNCTIONS: &str = include_str!("../../../templates/registries.sh");
const ONLY_OURS: &str = "# Kept by ironstrap: [registries] of the inventory.\n";

#[test]
fn only_registry_folders_of_earlier_inventories_are_deleted() {
    for shell in shells() {
        let root = new_root();
        let asked = |script: &str| root.good(shell, &format!("{FUNCTIONS}\n{script}"));
        assert_eq!(asked("registries_left docker.io"), "", "{shell}: there is no folder");
        let folder = |name: &str| format!("etc/containerd/certs.d/{name}");
        let ca = |name: &str| format!("ca = \"{}\"\n", root.path(&folder(name)).join("ca.crt").display());
        for (name, text) in [
            ("docker.io", ONLY_OURS.into()),
            ("quay.io", ONLY_OURS.to_string() + &ca("quay.io")),
            ("ghcr.io", ONLY_OURS.into()),
            ("_default", "[host.\"http://a\"]\n".into()),
            ("empty.io", String::new()),
        ] {
            root.write(&format!("{}/hosts.toml", folder(name)), &text);
            root.write(&format!("{}/ca.crt", folder(name)), "x");
        }
        let others = "other _default\nother empty.io\n";
        assert_eq!(
            asked("registries_left docker.io"),
            format!("{others}ours ghcr.io\nours quay.io\n"),
            "{shell}"
        );
        asked("registries_gone docker.io");
        assert_eq!(asked("registries_left docker.io"), others, "{shell}");
        assert!(!root.path(&folder("quay.io")).exists(), "{shell}: the folder had no other files");
        assert!(
            root.path(&folder("ghcr.io/ca.crt")).exists(),
            "{shell}: this file may belong to another program"
        );
        for name in ["docker.io", "_default"] {
            assert!(root.path(&folder(&format!("{name}/hosts.toml"))).exists(), "{shell}: {name}");
        }
    }
}
