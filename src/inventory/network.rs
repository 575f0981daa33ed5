//! Reads the address ranges of the cluster, and the network that connects its pods. `cross_checks` compares the ranges
//! with the addresses of nodes.

use std::net::IpAddr;

use ipnet::IpNet;
use toml::Spanned;
use toml::de::DeValue;

use super::diagnostic::{Mistakes, Span};
use super::files::Folder;
use super::names;
use super::table::Table;
use crate::cluster::{Flannel, Network};
use crate::error::count;

/// A range of addresses, and where it is written.
#[derive(Clone)]
pub struct Range {
    pub net: IpNet,
    pub at: Span,
}

/// The ranges of pods and Services. A text that is not a range is `None`.
pub struct Ranges {
    pub pods: Option<Range>,
    pub services: Option<Range>,
}

/// Reads the ranges of pods and Services, and checks them by kubeadm's rules.
pub fn ranges(cluster: &Table, mistakes: &mut Mistakes) -> Ranges {
    let pods = range(cluster, "pods", mistakes);
    let services = range(cluster, "services", mistakes);
    if let Some(services) = &services {
        check_services(services, mistakes);
    }
    if let (Some(pods), Some(services)) = (&pods, &services) {
        let written = if cluster.value("services").is_some() { services } else { pods };
        if pods.net.contains(&services.net) || services.net.contains(&pods.net) {
            let says = format!("pods ({}) and services ({}) overlap", pods.net, services.net);
            mistakes.add_help(&written.at, says, "give each its own range");
        } else if pods.net.addr().is_ipv4() != services.net.addr().is_ipv4() {
            let says = format!(
                "pods ({}) and services ({}) must both be IPv4, or both IPv6",
                pods.net, services.net
            );
            mistakes.add(&written.at, says);
        }
    }
    Ranges { pods, services }
}

fn range(cluster: &Table, name: &str, mistakes: &mut Mistakes) -> Option<Range> {
    let text = cluster.text(name)?;
    match text.is.parse::<IpNet>() {
        Ok(net) if net.addr() == net.network() => Some(Range { net, at: text.at }),
        Ok(net) => {
            let says = format!("{net} is an address in a range; write the range as {}", net.trunc());
            mistakes.add(&text.at, says);
            None
        }
        Err(_) if text.is.contains(',') => {
            mistakes.add(
                &text.at,
                "give only one range; ironstrap does not support two address families at once",
            );
            None
        }
        Err(_) => {
            mistakes.add(&text.at, "this is not an address range; write it as in \"10.244.0.0/16\"");
            None
        }
    }
}

/// The prefix length of the range that each node takes for its pods. It is the controller manager's default, unless a
/// flag says otherwise.
fn node_prefix(pods: &IpNet, controller_manager: &[(String, String)]) -> u8 {
    let (default, family) = match pods.addr().is_ipv4() {
        true => (24, "node-cidr-mask-size-ipv4"),
        false => (64, "node-cidr-mask-size-ipv6"),
    };
    let told = controller_manager.iter().rfind(|(flag, _)| flag == "node-cidr-mask-size" || flag == family);
    told.and_then(|(_, size)| size.parse().ok()).unwrap_or(default)
}

/// ironstrap configures flannel with an IPv4 network only (`templates/flannel.yaml`).
pub fn check_flannel_pods(pods: &Range, mistakes: &mut Mistakes) {
    if !pods.net.addr().is_ipv4() {
        let help = "set network = { manifests = [\"….yaml\"] } in [cluster] to a network plugin that supports IPv6, or \
                    set network = \"none\"";
        let says = format!("{} is IPv6, and ironstrap sets flannel up for IPv4 only", pods.net);
        mistakes.add_help(&pods.at, says, help);
    }
}

/// Checks the range of pods by kubeadm's rules. With `nodes`, the range must have room for that many nodes. `nodes` is
/// `None` for a network that may have pods elsewhere.
pub fn check_pods(
    pods: &Range,
    controller_manager: &[(String, String)],
    nodes: Option<usize>,
    mistakes: &mut Mistakes,
) {
    let (node, prefix) = (node_prefix(&pods.net, controller_manager), pods.net.prefix_len());
    let Some(bits) = node.checked_sub(prefix) else {
        let says = format!("each node takes a /{node} for its pods; /{prefix} is smaller than that");
        return mistakes.add(&pods.at, says);
    };
    let room = 1_usize.checked_shl(bits.into()).unwrap_or(usize::MAX);
    if bits > 16 {
        mistakes.add(
            &pods.at,
            format!("/{prefix} is too large: the largest that kubeadm accepts is /{}", node - 16),
        );
    } else if let Some(nodes) = nodes.filter(|nodes| *nodes > room) {
        let says = format!(
            "{} has room for {} with a /{node} each, but there are {nodes}",
            pods.net,
            count(room, "node")
        );
        mistakes.add(&pods.at, says);
    }
}

fn check_services(services: &Range, mistakes: &mut Mistakes) {
    let prefix = services.net.prefix_len();
    let host_bits = services.net.max_prefix_len() - prefix;
    if host_bits > 20 {
        let largest = services.net.max_prefix_len() - 20;
        mistakes.add(
            &services.at,
            format!("/{prefix} is too large: the largest that kubeadm accepts is /{largest}"),
        );
    } else if host_bits < 4 {
        let smallest = services.net.max_prefix_len() - 4;
        mistakes.add(
            &services.at,
            format!(
                "/{prefix} is too small: CoreDNS needs the tenth address, so the smallest is /{smallest}"
            ),
        );
    }
}

/// Reads which network connects the pods.
pub fn network(root: &Table, folder: &Folder, mistakes: &mut Mistakes) -> Network {
    let cluster = root.table("cluster");
    let network = match cluster.value("network").map(Spanned::get_ref) {
        Some(DeValue::Table(_)) => {
            let table = cluster.table("network");
            let paths = table.texts("manifests");
            let written = table.value("manifests").and_then(|value| value.get_ref().as_array());
            if written.is_some_and(|array| array.is_empty()) {
                mistakes.add_help(
                    &table.at("manifests"),
                    "at least one manifest is required",
                    "or set network = \"none\"",
                );
            }
            Network::Manifests(paths.iter().filter_map(|path| folder.manifest(path, mistakes)).collect())
        }
        _ => match cluster.text("network") {
            Some(text) if text.is == "none" => Network::None,
            Some(text) if text.is != "flannel" => {
                let says = "`network` must be \"flannel\", \"none\" or { manifests = [\"….yaml\"] }";
                mistakes.add(&text.at, says);
                return Network::None;
            }
            _ => return Network::Flannel(flannel(root, mistakes)),
        },
    };
    let table = root.table("flannel");
    if table.is_written() {
        mistakes.add(&table.at, "[flannel] has no effect with another `network`; remove one of them");
    }
    network
}

fn flannel(root: &Table, mistakes: &mut Mistakes) -> Flannel {
    let table = root.table("flannel");
    let mut image = |name: &str| {
        let image = table.text(name)?;
        if names::image(image.is).is_none() {
            let says = "an image needs a registry, a path, and a tag or a digest";
            mistakes.add_help(&image.at, says, "as in \"docker.io/flannel/flannel:v0.27.4\"");
        }
        Some(image.is.to_string())
    };
    Flannel { image: image("image").unwrap_or_default(), plugin: image("plugin").unwrap_or_default() }
}

/// Whether other machines can reach a machine at this address.
pub fn is_reachable(ip: &IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast() || ip.is_link_local());
    let link_local = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
    !(ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || broadcast || link_local)
}
