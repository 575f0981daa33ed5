//! Reads the inventory: compares it with the list of fields, checks it for contradictions, and returns the `Cluster`
//! that it describes. All mistakes are reported at once. This module knows nothing about the state of the machines.

mod addons;
mod bundle;
mod component_args;
mod components;
mod coredns;
mod cross_checks;
mod diagnostic;
mod doubt;
mod fields;
mod files;
mod general;
mod masked;
mod names;
mod network;
mod nodes;
mod range;
pub mod reference;
mod reserved;
mod secrets;
mod select;
mod shape;
mod sources;
mod syntax;
mod table;

use std::path::{Path, PathBuf};

use ipnet::IpNet;
use toml::de::DeTable;

use crate::cluster::{Cluster, Network};
use crate::error::{Error, Kind, Result};
use diagnostic::{Mistakes, Span};
pub use doubt::{LOG_IN, password_from, password_of_user};
use files::Folder;
pub use files::objects;
pub use names::{USER, host_and_port, is_user};
pub use select::select;
use table::Table;

/// Reads an inventory. The error's `what` is the whole report, with the lines of the file.
pub fn read(path: &Path) -> Result<Cluster> {
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&text, path),
        Err(error) => {
            let what = format!("cannot read the inventory {}: {}", path.display(), files::plain(&error));
            let told = Error::new(Kind::Inventory, what);
            Err(match error.kind() {
                std::io::ErrorKind::NotFound => {
                    told.hint("name it with -i FILE, or create one with `ironstrap new`")
                }
                _ => told,
            })
        }
    }
}

/// Reads the text of an inventory. Reports call the file `path`, and paths in the inventory are relative to the folder
/// of `path`.
pub fn parse(text: &str, path: &Path) -> Result<Cluster> {
    let shown = path.display().to_string();
    let (table, errors) = DeTable::parse_recoverable(text);
    secrets::learn_table(table.get_ref());
    let mut mistakes = Mistakes::default();
    doubt::hide(table.get_ref(), &mut mistakes);
    if !errors.is_empty() {
        syntax::report(&errors, text, &mut mistakes);
        return Err(mistakes.into_error(text, &shown));
    }
    let root = Table::root(table.get_ref());
    shape::check(&root, &mut mistakes);
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let place = |at: &Span| format!("{shown}:{}", text[..at.start.min(text.len())].lines().count().max(1));
    let mut cluster = cluster(&root, dir, &mut mistakes);
    cluster.file = path.to_path_buf();
    cluster.warnings = mistakes.warnings(&place);
    cluster.addons = addons::addons(&root, &Folder(dir), &place, &mut mistakes);
    match mistakes.is_empty() {
        true => {
            secrets::learn_names_of(&cluster);
            secrets::learn_login_of(&cluster);
            Ok(cluster)
        }
        false => Err(mistakes.into_error(text, &shown)),
    }
}

/// Builds the cluster that the inventory describes. The result is valid only if no mistake was found.
fn cluster(root: &Table, dir: &Path, mistakes: &mut Mistakes) -> Cluster {
    let folder = &Folder(dir);
    let table = &root.table("cluster");
    let name = general::name(table, mistakes);
    let kubernetes = general::kubernetes(table, mistakes);
    let minor = format!("{}.{}", kubernetes.major, kubernetes.minor);
    let ranges = network::ranges(table, mistakes);
    let nodes = nodes::nodes(root, folder, kubernetes.minor, mistakes);
    cross_checks::check(&nodes, &ranges, mistakes);
    let endpoint = general::endpoint(table, &name, mistakes);
    cross_checks::check_names(&nodes, &endpoint, mistakes);
    let network = network::network(root, folder, mistakes);
    let controller_manager = component_args::args(root, "controller-manager", mistakes);
    if let Some(pods) = &ranges.pods {
        // A network other than flannel may have its pods outside this range.
        let all = matches!(network, Network::Flannel(_)).then_some(nodes.len());
        network::check_pods(pods, &controller_manager, all, mistakes);
        if all.is_some() {
            network::check_flannel_pods(pods, mistakes);
        }
    }
    Cluster {
        pods: ranges.pods.map_or_else(IpNet::default, |range| range.net),
        services: ranges.services.map_or_else(IpNet::default, |range| range.net),
        domain: general::domain(table, mistakes),
        endpoint,
        api_names: general::api_names(table, mistakes),
        network,
        coredns: coredns::coredns(root, folder, mistakes),
        image_repository: general::image_repository(table, mistakes),
        ignore_preflight: general::ignore_preflight(table, mistakes),
        kubelet: component_args::json(root, "kubelet", kubernetes.minor, mistakes),
        kube_proxy: component_args::json(root, "kube-proxy", kubernetes.minor, mistakes),
        kubeadm: component_args::json(root, "kubeadm", kubernetes.minor, mistakes),
        api_server: component_args::args(root, "api-server", mistakes),
        controller_manager,
        scheduler: component_args::args(root, "scheduler", mistakes),
        etcd: component_args::args(root, "etcd", mistakes),
        containerd: component_args::toml(root, "containerd", mistakes),
        registries: sources::registries(root, folder, mistakes),
        packages: sources::packages(root, &minor, folder, mistakes),
        proxy: sources::proxy(root, mistakes),
        addons: vec![],
        nodes: nodes.into_iter().map(|written| written.node).collect(),
        warnings: vec![],
        dir: dir.to_path_buf(),
        file: PathBuf::new(),
        name,
        kubernetes,
    }
}
