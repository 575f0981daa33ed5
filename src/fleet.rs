//! The state that only all machines together can show. It says whether the cluster exists, which node is the init node
//! and which machines join. It also says which machines are not what the inventory takes them for. This module is pure.

mod blocked;
pub mod identity;
pub mod keys;
mod refusals;

pub use blocked::Blocked;
pub use refusals::{changed_role, foreign, refusals, stranger};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::cluster::{Cluster, Node};
use crate::error::{Error, Kind};
use crate::machine::Machine;
use crate::openpgp::Keys;

/// Machines that have answered, by node name.
pub type Machines<'a> = BTreeMap<&'a str, &'a Machine>;

/// How far the clocks of machines may differ, in seconds. Certificates are backdated by five minutes.
pub const CLOCKS_WITHIN_SECONDS: f64 = 60.0;

/// The state of all machines together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fleet {
    /// The init node: the first control plane that runs the cluster. If none does, it is the one that will run `kubeadm init`.
    pub init_node: String,
    /// Whether the cluster exists: some control plane has got as far as setting up an API server for it.
    pub exists: bool,
    /// Machines that still have to join.
    pub joining: BTreeSet<String>,
    /// Machines that have begun to join, and are not members yet.
    pub joining_started: BTreeSet<String>,
    /// Machines that have not answered.
    pub unreachable: BTreeSet<String>,
    /// Members that have no Node in the cluster.
    pub unregistered: BTreeSet<String>,
    /// Machines whose kubelet has no serving certificate of the cluster. Without `serverTLSBootstrap`, no kubelet has one.
    pub unserved: BTreeSet<String>,
    /// Nodes of the cluster that are not in the inventory.
    pub unmanaged_nodes: BTreeSet<String>,
    /// Pod ranges of the cluster's Nodes.
    pub ranges: BTreeSet<String>,
    /// Machines that this run has quarantined, because something went wrong there.
    pub quarantined: BTreeSet<String>,
    /// Machines on which this run still has something to do.
    pub pending: BTreeSet<String>,
    /// When the kubelets of members last started, each by its machine's clock, in seconds since 1970.
    pub kubelets: BTreeMap<String, i64>,
    /// The answers of kubelets that the API server asked for their settings, by node: JSON, or words of an error.
    pub kubelets_run: BTreeMap<String, Arc<str>>,
    /// The nodes of `kubelets_run` whose kubelets were asked before this run last changed something.
    pub kubelets_stale: BTreeSet<String>,
    /// Nodes whose last answers are older than the last change of this run.
    pub stale: BTreeSet<String>,
    /// Nodes whose end of a flannel tunnel answered another node.
    pub tunnels: BTreeSet<String>,
    /// The signing key of the Kubernetes repository that all machines must have, if it is known.
    pub package_key: Option<Keys>,
    /// The text of the signing key that the repository showed to a machine in this run, by the machine's name.
    pub shown_keys: BTreeMap<String, Keys>,
}

impl Fleet {
    /// Reads the state from the answers of the machines. The init node is the first control plane that runs the cluster, or else
    /// the first one in the inventory. A control plane that lost its disk therefore joins, and never starts a second cluster.
    pub fn see(cluster: &Cluster, machines: &Machines) -> Fleet {
        let heard = |node: &Node| machines.get(node.name.as_str()).copied();
        let runs = |node: &&Node| heard(node).is_some_and(Machine::runs_control_plane);
        let running = cluster.control_planes().find(runs);
        let init_node = running.or_else(|| cluster.control_planes().next()).map(|node| node.name.clone());
        let init_node = init_node.unwrap_or_default();
        let names = |which: &dyn Fn(Option<&Machine>) -> bool| -> BTreeSet<String> {
            let others = cluster.nodes.iter().filter(|node| which(heard(node)));
            others.map(|node| node.name.clone()).collect()
        };
        let mut joining = names(&|machine| machine.is_some_and(|m| !m.is_member()));
        joining.remove(&init_node);
        let begun =
            |m: &Machine| !m.is_member() && (m.has("kubelet.conf") || m.has("bootstrap-kubelet.conf"));
        let unserved = |m: &Machine| !m.has("server-certificate");
        Fleet {
            exists: running.is_some(),
            joining,
            joining_started: names(&|machine| machine.is_some_and(begun)),
            unreachable: names(&|machine| machine.is_none()),
            unregistered: BTreeSet::new(),
            unserved: names(&|machine| machine.is_some_and(unserved)),
            unmanaged_nodes: BTreeSet::new(),
            ranges: BTreeSet::new(),
            quarantined: BTreeSet::new(),
            pending: BTreeSet::new(),
            kubelets: machines
                .iter()
                .filter_map(|(name, m)| Some((name.to_string(), m.kubelet_since()?)))
                .collect(),
            kubelets_run: BTreeMap::new(),
            kubelets_stale: BTreeSet::new(),
            stale: BTreeSet::new(),
            tunnels: BTreeSet::new(),
            package_key: None,
            shown_keys: BTreeMap::new(),
            init_node,
        }
    }

    /// The part of the fleet that the wants of one machine may depend on. As long as neither this part nor the
    /// machine changes, these wants stay as they are, whatever happens to the other machines.
    pub fn own(&self, name: &str) -> Fleet {
        let unregistered: BTreeSet<String> = self.unregistered.get(name).cloned().into_iter().collect();
        // A machine that must register again must not take a pod range of another node.
        let ranges = if unregistered.is_empty() { BTreeSet::new() } else { self.ranges.clone() };
        let package_key = self.package_key.clone();
        // A key that the repository showed to one machine never replaces the key of another one.
        let shown = self.shown_keys.get_key_value(name).map(|(name, keys)| (name.clone(), keys.clone()));
        let runs = self.kubelets_run.get_key_value(name).map(|(name, said)| (name.clone(), said.clone()));
        Fleet {
            shown_keys: shown.into_iter().collect(),
            kubelets_run: runs.into_iter().collect(),
            kubelets_stale: self.kubelets_stale.get(name).cloned().into_iter().collect(),
            init_node: self.init_node.clone(),
            exists: self.exists,
            unregistered,
            ranges,
            package_key,
            // Whether a silent tunnel is a fault depends on what other nodes heard.
            tunnels: self.tunnels.clone(),
            ..Fleet::default()
        }
    }

    /// Says what must happen before the cluster knows this node.
    pub fn before_known(&self, name: &str) -> Option<Blocked> {
        if self.unregistered.contains(name) {
            return Some(Blocked::until(name, "to register"));
        }
        self.joining.contains(name).then(|| Blocked::until(name, "to join"))
    }

    /// Says what must happen before anything can be expected of this node in the cluster.
    pub fn before_ready(&self, name: &str) -> Option<Blocked> {
        if self.unreachable.contains(name) {
            return Some(Blocked::until(name, "to answer"));
        }
        let broken = self.quarantined.contains(name) || self.pending.contains(name);
        let mended = || broken.then(|| Blocked::until(name, "to be repaired"));
        mended().or_else(|| self.before_known(name))
    }
}

/// The errors about machines taken together: host names that two of them have, and clocks that disagree. An error without a
/// node is about the operator's own computer. `clocks` is how far each machine's clock is ahead of the operator's, in seconds.
pub fn findings(cluster: &Cluster, machines: &Machines, clocks: &BTreeMap<String, f64>) -> Vec<Error> {
    let mut by_name: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (node, machine) in machines {
        by_name.entry(&machine.hostname).or_default().push(node);
    }
    let twice = by_name.iter().filter(|(_, nodes)| nodes.len() > 1).map(|(hostname, nodes)| {
        let node = impostor(cluster, machines, hostname, nodes);
        let others: Vec<&str> = nodes.iter().copied().filter(|other| *other != node).collect();
        let address = cluster.node(node).map(|node| node.ssh.host.clone()).unwrap_or_default();
        Error::new(Kind::Refused, format!("duplicate host name {hostname}, also on {}", others.join(", ")))
            .on(node)
            .concerning(others)
            .because(format!("the machine at {address} reports this host name"))
            .hint(format!(
                "if {address} is the machine of another node, correct the address of {node} in the inventory; if it is \
                 the right machine, rename it: hostnamectl set-hostname {node}"
            ))
    });
    twice.chain(wrong_clocks(clocks)).collect()
}

/// The machine to blame if several have the same host name. It is one that has another name in the inventory. A worker comes
/// before a control plane, then a joining machine before a member, then the last one. So a worker that takes a control plane's
/// host name excludes itself from the run. It cannot exclude the control plane, whatever name that has in the inventory.
fn impostor<'a>(cluster: &Cluster, machines: &Machines, hostname: &str, nodes: &[&'a str]) -> &'a str {
    let plane = |node: &str| cluster.node(node).is_some_and(Node::is_control_plane);
    let member = |node: &str| machines.get(node).is_some_and(|machine| machine.is_member());
    let wrong = nodes.iter().rev().filter(|node| **node != hostname);
    let first = wrong.min_by_key(|node| (plane(node), member(node)));
    first.or(nodes.last()).copied().unwrap_or_default()
}

/// The errors about clocks that differ from the others. The operator's clock counts as one among the others. It
/// decides if two opinions are equally strong, because it dates the certificates.
fn wrong_clocks(clocks: &BTreeMap<String, f64>) -> Vec<Error> {
    const OPERATOR: f64 = 0.0;
    let mut sorted: Vec<f64> = clocks.values().copied().chain([OPERATOR]).collect();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
    let right = if low.abs() < high.abs() { low } else { high };
    let off = |clock: f64, others: &str| {
        let by = (clock - right).round();
        let way = if by > 0.0 { "ahead of" } else { "behind" };
        (by.abs() > CLOCKS_WITHIN_SECONDS).then(|| format!("{} s {way} {others}", by.abs()))
    };
    let others = if clocks.len() == 1 { "this computer's" } else { "the others" };
    let machines = clocks.iter().filter_map(|(node, ahead)| {
        let off = off(*ahead, others)?;
        Some(Error::new(Kind::Refused, format!("the clock is {off}")).on(node).hint(
            "set the clock, preferably with a time service such as chrony; certificates are not valid at a wrong time",
        ))
    });
    let operator = off(OPERATOR, "the machines'").map(|off| {
        Error::new(Kind::Refused, format!("the clock of this computer is {off}")).hint(
            "set it, preferably with a time service such as chrony; it determines the dates of certificates",
        )
    });
    machines.chain(operator).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::cluster::Role;

    /// Three control planes and a worker.
    pub(super) fn cluster() -> Cluster {
        let mut cluster = crate::pki::tests::cluster();
        let first = cluster.nodes[0].clone();
        let node = |name: &str, role| Node { name: name.into(), role, ..first.clone() };
        use Role::{ControlPlane, Worker};
        cluster.nodes = vec![
            node("m1", ControlPlane),
            node("m2", ControlPlane),
            node("m3", ControlPlane),
            node("w1", Worker),
        ];
        cluster
    }

    pub(super) fn machine(name: &str, has: &[&str]) -> (String, Machine) {
        let has = has.iter().map(|trace| trace.to_string()).collect();
        (name.into(), Machine { hostname: name.into(), has, ..Machine::default() })
    }

    pub(super) fn heard(machines: &BTreeMap<String, Machine>) -> Machines<'_> {
        machines.iter().map(|(name, machine)| (name.as_str(), machine)).collect()
    }

    pub(super) const RUNS: [&str; 3] =
        ["kubelet.conf", "client-certificate", "manifests/kube-apiserver.yaml"];

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| name.to_string()).collect()
    }

    #[test]
    fn the_first_control_plane_is_the_init_node() {
        let machines = ["m1", "m2", "m3", "w1"].map(|name| machine(name, &[]));
        let fleet = Fleet::see(&cluster(), &heard(&machines.into()));
        assert_eq!((fleet.init_node.as_str(), fleet.exists), ("m1", false));
        assert_eq!(fleet.joining, names(&["m2", "m3", "w1"]));
        assert!(fleet.joining_started.is_empty() && fleet.unreachable.is_empty());
    }

    #[test]
    fn a_control_plane_without_its_data_joins() {
        let machines =
            [machine("m1", &[]), machine("m2", &RUNS), machine("m3", &RUNS), machine("w1", &RUNS[..2])];
        let fleet = Fleet::see(&cluster(), &heard(&machines.into()));
        assert_eq!((fleet.init_node.as_str(), fleet.exists, fleet.joining), ("m2", true, names(&["m1"])));
    }

    #[test]
    fn an_unreachable_node_neither_joins_nor_is_init_node() {
        let machines = [machine("m2", &RUNS), machine("w1", &["bootstrap-kubelet.conf"])];
        let fleet = Fleet::see(&cluster(), &heard(&machines.into()));
        assert_eq!((fleet.init_node.as_str(), &fleet.unreachable), ("m2", &names(&["m1", "m3"])));
        assert_eq!((fleet.joining, fleet.joining_started), (names(&["w1"]), names(&["w1"])));
    }

    #[test]
    fn only_an_unregistered_node_gets_the_others_ranges() {
        let fleet =
            Fleet { unregistered: names(&["w1"]), ranges: names(&["10.0.0.0/24"]), ..Fleet::default() };
        assert_eq!(fleet.own("w1"), fleet);
        assert_eq!(fleet.own("w2"), Fleet::default());
    }

    #[test]
    fn duplicate_host_names_and_wrong_clocks_are_found() {
        let mut machines: BTreeMap<_, _> = ["m1", "m2", "w1"].map(|name| machine(name, &[])).into();
        let clocks = |m1: f64, m2: f64, w1: f64| {
            [("m1", m1), ("m2", m2), ("w1", w1)].map(|(n, c)| (n.to_string(), c)).into()
        };
        assert_eq!(findings(&cluster(), &heard(&machines), &clocks(0.0, 0.5, 59.0)), []);
        let wrong = findings(&cluster(), &heard(&machines), &clocks(0.0, 0.5, 61.0));
        assert_eq!((wrong.len(), wrong[0].what.as_str()), (1, "the clock is 61 s ahead of the others"));
        machines.get_mut("w1").unwrap().hostname = "m1".into();
        let twice = findings(&cluster(), &heard(&machines), &clocks(0.0, 0.0, 0.0));
        assert_eq!((twice.len(), twice[0].what.as_str()), (1, "duplicate host name m1, also on m1"));
        assert_eq!(
            twice[0].node.as_deref(),
            Some("w1"),
            "the machine with another name in the inventory is to blame"
        );
        machines.values_mut().for_each(|machine| machine.hostname = "cp-1".into());
        let told: Vec<_> = ["m1", "m2"]
            .map(|plane| {
                let both = machines.iter().filter(|(name, _)| [plane, "w1"].contains(&name.as_str()));
                let both = both.map(|(name, machine)| (name.as_str(), machine)).collect();
                findings(&cluster(), &both, &BTreeMap::new()).remove(0).node.unwrap()
            })
            .into();
        assert_eq!(told, ["w1", "w1"], "a control plane keeps its name, and the worker is to blame");
        let mut swapped = cluster();
        swapped.nodes[0].role = Role::Worker;
        let both = machines.iter().filter(|(name, _)| *name != "w1");
        let both = both.map(|(name, machine)| (name.as_str(), machine)).collect();
        assert_eq!(findings(&swapped, &both, &BTreeMap::new())[0].node.as_deref(), Some("m1"));
        assert_eq!(findings(&cluster(), &Machines::new(), &BTreeMap::new()), []);
    }

    #[test]
    fn duplicate_host_names_are_blamed_on_the_misnamed_worker() {
        let mut cluster = cluster();
        let other = Node { name: "w2".into(), ..cluster.nodes[3].clone() };
        cluster.nodes.push(other);
        let told = |host: &str, members: &[&str]| {
            let mut machines: BTreeMap<_, _> = ["w1", "w2"].map(|name| machine(name, &[])).into();
            for (name, machine) in &mut machines {
                machine.hostname = host.into();
                machine
                    .has
                    .extend(members.contains(&name.as_str()).then(|| "client-certificate".to_string()));
            }
            let mut found = findings(&cluster, &heard(&machines), &BTreeMap::new());
            assert_eq!(found.len(), 1, "{found:?}");
            let error = found.remove(0);
            let rename = format!("hostnamectl set-hostname {}", error.node.as_deref().unwrap());
            assert!(error.hint.unwrap().ends_with(&rename));
            (error.node.unwrap(), error.what)
        };
        let says = |node: &str, host: &str, other: &str| {
            (node.to_string(), format!("duplicate host name {host}, also on {other}"))
        };
        for members in [&[][..], &["w1"], &["w2"], &["w1", "w2"]] {
            assert_eq!(told("w1", members), says("w2", "w1", "w1"));
            assert_eq!(told("w2", members), says("w1", "w2", "w2"));
        }
        // If neither machine has this name in the inventory, a member keeps it.
        assert_eq!(told("host", &["w1"]), says("w2", "host", "w1"));
        assert_eq!(told("host", &["w2"]), says("w1", "host", "w2"));
        assert_eq!(told("host", &["w1", "w2"]), says("w2", "host", "w1"));
    }

    #[test]
    fn the_operators_clock_counts_as_one_vote() {
        let said = |clocks: &[(&str, f64)]| -> Vec<(Option<String>, String)> {
            let clocks = clocks.iter().map(|(name, ahead)| (name.to_string(), *ahead)).collect();
            findings(&cluster(), &Machines::new(), &clocks).into_iter().map(|e| (e.node, e.what)).collect()
        };
        let on = |node: &str, what: &str| vec![(Some(node.to_string()), what.to_string())];
        assert_eq!(said(&[("m1", 59.0)]), []);
        assert_eq!(said(&[("m1", 3600.4)]), on("m1", "the clock is 3600 s ahead of this computer's"));
        assert_eq!(said(&[("m1", 1.0), ("w1", -90.0)]), on("w1", "the clock is 90 s behind the others"));
        let ours = "the clock of this computer is 3600 s behind the machines'".to_string();
        assert_eq!(said(&[("m1", 3600.0), ("w1", 3600.0), ("w2", 3601.0)]), [(None, ours.clone())]);
        assert_eq!(said(&[("m1", 3600.0), ("w1", 3600.0)]), [(None, ours)]);
        let three = [("m1", 0.0), ("m2", 900.0), ("m3", 900.0)];
        assert_eq!(said(&three).len(), 2, "in a tie of two against two, the operator's clock decides");
    }
}
