//! The inventory as written: reads the file, checks it against the list of fields and against itself, and
//! gives the cluster it means. All mistakes are reported at once. What is on the machines is not known here.

mod across;
mod addons;
mod bundle;
mod components;
mod coredns;
mod doubt;
mod fields;
mod files;
mod general;
mod masked;
mod mistake;
mod network;
mod nodes;
mod owned;
mod programs;
mod range;
pub mod reference;
mod secrets;
mod select;
mod shape;
mod sources;
mod syntax;
mod table;
mod words;

use std::path::{Path, PathBuf};

use ipnet::IpNet;
use toml::de::DeTable;

use crate::cluster::{Cluster, Network};
use crate::error::{Error, Kind, Result};
pub use doubt::{LOG_IN, password_from, password_of_user};
use files::Folder;
pub use files::objects;
use mistake::{Mistakes, Span};
pub use select::select;
use table::Table;
pub use words::{USER, host_and_port, is_user};

/// Reads an inventory. The error's `what` is the whole report, with the lines of the file.
pub fn read(path: &Path) -> Result<Cluster> {
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&text, path),
        Err(error) => {
            let what = format!("cannot read the inventory {}: {}", path.display(), files::plain(&error));
            let told = Error::new(Kind::Inventory, what);
            Err(match error.kind() {
                std::io::ErrorKind::NotFound => {
                    told.hint("name it with -i FILE, or write a first one with `ironstrap new`")
                }
                _ => told,
            })
        }
    }
}

/// Reads the text of an inventory; `path` is how reports call it, and the files it names are beside it.
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

/// The cluster that is meant; only good where no mistake was found.
fn cluster(root: &Table, dir: &Path, mistakes: &mut Mistakes) -> Cluster {
    let folder = &Folder(dir);
    let table = &root.table("cluster");
    let name = general::name(table, mistakes);
    let kubernetes = general::kubernetes(table, mistakes);
    let minor = format!("{}.{}", kubernetes.major, kubernetes.minor);
    let ranges = network::ranges(table, mistakes);
    let nodes = nodes::nodes(root, folder, kubernetes.minor, mistakes);
    across::check(&nodes, &ranges, mistakes);
    let endpoint = general::endpoint(table, &name, mistakes);
    across::check_names(&nodes, &endpoint, mistakes);
    let network = network::network(root, folder, mistakes);
    let controller_manager = programs::args(root, "controller-manager", mistakes);
    if let Some(pods) = &ranges.pods {
        // Other networks may have pods elsewhere.
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
        kubelet: programs::json(root, "kubelet", kubernetes.minor, mistakes),
        kube_proxy: programs::json(root, "kube-proxy", kubernetes.minor, mistakes),
        kubeadm: programs::json(root, "kubeadm", kubernetes.minor, mistakes),
        api_server: programs::args(root, "api-server", mistakes),
        controller_manager,
        scheduler: programs::args(root, "scheduler", mistakes),
        etcd: programs::args(root, "etcd", mistakes),
        containerd: programs::toml(root, "containerd", mistakes),
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
