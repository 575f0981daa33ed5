//! Reads `[nodes]`. Each table is one machine, or as many as its range stands for. `cross_checks` has the rules between nodes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use serde_json::{Map, Value};

use super::component_args;
use super::diagnostic::{Mistakes, Span};
use super::doubt::{LOG_IN, password_from, password_of_user};
use super::files::Folder;
use super::names;
use super::network::is_reachable;
use super::range;
use super::table::{Table, Text};
use crate::cluster::{Node, Role, Ssh, Taint};

/// A node, and where it is written.
pub struct Written {
    pub node: Node,
    pub name_at: Span,
    pub address_at: Span,
    pub ip_at: Span,
    /// Whether a value of the node is wrong. Comparing it with other nodes would only repeat that.
    pub doubtful: bool,
    /// Whether the value of `role` is a role.
    pub role_known: bool,
}

/// How ironstrap reaches nodes that have no settings of their own.
struct Reach {
    user: Option<String>,
    port: Option<u16>,
    key: Option<PathBuf>,
    jump: Option<Vec<String>>,
    known_hosts: Option<PathBuf>,
}

/// All nodes, in the order of the file. `minor` is the minor version of the cluster's Kubernetes.
pub fn nodes(root: &Table, folder: &Folder, minor: u64, mistakes: &mut Mistakes) -> Vec<Written> {
    let ssh = root.table("ssh");
    let reach = Reach {
        user: user(&ssh, mistakes),
        port: ssh.port("port", mistakes),
        key: ssh.text("key").and_then(|key| folder.private_key(&key, mistakes)),
        jump: jump(&ssh, mistakes),
        known_hosts: ssh.text("known-hosts").map(|path| folder.path(path.is)),
    };
    let tables = root.named("nodes");
    tables.iter().flat_map(|(name, table)| expand(name, table, &reach, (folder, minor), mistakes)).collect()
}

/// The nodes that one table stands for.
fn expand(
    name: &Text,
    table: &Table,
    reach: &Reach,
    (folder, minor): (&Folder, u64),
    mistakes: &mut Mistakes,
) -> Vec<Written> {
    let ssh = ssh(table, reach, folder, mistakes);
    let (role, labels, taints) = (role(table, mistakes), labels(table, mistakes), taints(table, mistakes));
    let kubelet = kubelet(table, minor, mistakes);
    let Some(names) = names(name, mistakes) else { return vec![] };
    let addresses = same_length(table, "address", name, names.len(), mistakes);
    let ips = same_length(table, "ip", name, names.len(), mistakes);
    let mut said = Once::default();
    let written = names.into_iter().enumerate().map(|(n, name_of_node)| {
        let ssh = address(table, addresses.get(n), &ssh, &mut said, mistakes);
        let ip = ip(table, &name_of_node, ips.get(n), ssh.as_ref(), &mut said, mistakes);
        Written {
            doubtful: ssh.is_none() || ip.is_none(),
            role_known: role.is_some(),
            node: Node {
                name: name_of_node,
                role: role.unwrap_or(Role::Worker),
                ssh: ssh.unwrap_or_default(),
                ip: ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
                labels: labels.clone(),
                taints: taints.clone(),
                kubelet: kubelet.clone(),
            },
            name_at: name.at.clone(),
            address_at: table.at("address"),
            ip_at: if table.value("ip").is_some() { table.at("ip") } else { table.at("address") },
        }
    });
    written.collect()
}

/// How ironstrap reaches the nodes of the table, without the host.
fn ssh(table: &Table, reach: &Reach, folder: &Folder, mistakes: &mut Mistakes) -> Ssh {
    let key = table.text("key").and_then(|key| folder.private_key(&key, mistakes));
    let port = table.port("port", mistakes);
    Ssh {
        host: String::new(),
        port: port.or(reach.port),
        user: user(table, mistakes).or(reach.user.clone()),
        key: key.or(reach.key.clone()),
        known_hosts: reach.known_hosts.clone(),
        jump: jump(table, mistakes).or(reach.jump.clone()),
        host_key: host_key(table, mistakes),
    }
}

/// Remembers which mistakes were reported, so that each is reported once for a whole range.
#[derive(Default)]
struct Once {
    address: bool,
    ip: bool,
}

fn names(name: &Text, mistakes: &mut Mistakes) -> Option<Vec<String>> {
    let names = match range::expand(name.is) {
        Ok(names) => names,
        Err(why) => {
            mistakes.add(&name.at, why);
            return None;
        }
    };
    // The name is also the value of the label kubernetes.io/hostname, which has at most 63 characters.
    if names.iter().all(|name| names::is_subdomain(name) && name.len() <= 63) {
        return Some(names);
    }
    let says = "a Node's name has at most 63 characters of a-z, 0-9, - and ., with no - or . at either end";
    match name.is.contains(['[', ']']) {
        true => mistakes.add_help(&name.at, says, "write a range of nodes as in [nodes.\"w[1-3]\"]"),
        false => mistakes.add(&name.at, says),
    }
    None
}

/// The texts that a field's range stands for, as many as there are names. The result is empty if the field is missing or wrong.
fn same_length(
    table: &Table,
    field: &str,
    name: &Text,
    count: usize,
    mistakes: &mut Mistakes,
) -> Vec<String> {
    let Some(text) = table.text(field) else { return vec![] };
    let said = range::expand(text.is);
    match said {
        Ok(texts) if texts.len() == count => return texts,
        Ok(texts) if texts.len() == 1 => {
            let says =
                format!("{} stands for {count} nodes, so its `{field}` needs a range of {count}", name.is);
            mistakes.add_help(&text.at, says, format!("as in \"10.0.0.[11-{}]\"", 10 + count));
        }
        Ok(texts) => {
            let nodes = if count == 1 { "is one node".into() } else { format!("stands for {count} nodes") };
            let says = format!("this range has {} addresses, but {} {nodes}", texts.len(), name.is);
            mistakes.add(&text.at, says);
        }
        Err(why) => mistakes.add(&text.at, why),
    }
    vec![]
}

fn address(
    table: &Table,
    address: Option<&String>,
    ssh: &Ssh,
    said: &mut Once,
    mistakes: &mut Mistakes,
) -> Option<Ssh> {
    let address = address?;
    let at = table.at("address");
    let mut wrong = |says: &str, help: &str| {
        if !std::mem::replace(&mut said.address, true) {
            mistakes.add_help(&at, says, help);
        }
        None
    };
    // `is_host` would be too strict, because the host may be an alias of the user's ssh_config.
    let inner = |c: char| c.is_ascii_alphanumeric() || "-_.:%".contains(c);
    let alias = |host: &str| !host.is_empty() && !host.starts_with('-') && host.chars().all(inner);
    let example = "an address is a name or an IP address, with an optional port";
    match names::host_and_port(address) {
        _ if has_password(address) => wrong("a password does not belong in `address`", LOG_IN),
        _ if address.contains('@') => wrong(example, "set the login name as `user`"),
        Some((host, _)) if names::is_broken_ip(host) => wrong(
            "this is not an IP address",
            "an IPv4 address is four numbers from 0 to 255, as in \"198.18.0.11\"",
        ),
        Some((host, port)) if alias(host) => {
            if port.is_some() && table.value("port").is_some() && port != ssh.port {
                return wrong("this port differs from `port`", "keep only one of them");
            }
            Some(Ssh { host: host.into(), port: port.or(ssh.port), ..ssh.clone() })
        }
        _ => wrong(example, "as in \"198.18.0.11\", \"m1.example.com:2222\" or \"[fd00::1]:2222\""),
    }
}

fn ip(
    table: &Table,
    name: &str,
    written: Option<&String>,
    ssh: Option<&Ssh>,
    said: &mut Once,
    mistakes: &mut Mistakes,
) -> Option<IpAddr> {
    let mut wrong = |at: &Span, says: String, help: &str| {
        if !std::mem::replace(&mut said.ip, true) {
            mistakes.add_help(at, says, help);
        }
        None
    };
    let own = "the address at which the other nodes reach it";
    if table.value("ip").is_none() {
        return match ssh?.host.parse() {
            Ok(ip) if is_reachable(&ip) => Some(ip),
            Ok(ip) if ip.is_unspecified() || ip.is_multicast() || ip == Ipv4Addr::BROADCAST => wrong(
                &table.at("address"),
                format!("{ip} cannot be the address of a machine"),
                "write the address of a machine, as in \"198.18.0.11\"",
            ),
            Ok(ip) => wrong(
                &table.at("address"),
                format!("{ip} is fine for SSH, but {name} also needs `ip`: {own}"),
                "as in ip = \"10.0.0.11\"",
            ),
            Err(_) => wrong(
                &table.at("address"),
                format!("a name is fine for SSH, but {name} also needs `ip`: {own}"),
                "as in ip = \"10.0.0.11\"",
            ),
        };
    }
    let (at, text) = (table.at("ip"), written?);
    match text.parse() {
        Ok(ip) if is_reachable(&ip) => Some(ip),
        Ok(ip) => wrong(
            &at,
            format!("{ip} is not an address at which other nodes reach this one"),
            &format!("`ip` is {own}"),
        ),
        Err(_) => wrong(
            &at,
            format!("{text:?} is not an IP address"),
            &format!("`ip` is {own}, as in \"10.0.0.11\""),
        ),
    }
}

fn user(table: &Table, mistakes: &mut Mistakes) -> Option<String> {
    let user = table.text("user")?;
    if password_of_user(user.is).is_some() {
        mistakes.add_help(&user.at, "a password does not belong in `user`", LOG_IN);
    } else if !names::is_user(user.is) {
        mistakes.add_help(&user.at, "this is not a valid user name", names::USER);
    }
    Some(user.is.to_string())
}

/// Whether a password stands in front of a host, with the `@` or with a second `:` in its place.
fn has_password(address: &str) -> bool {
    let (login, rest) = address.rsplit_once('@').unwrap_or(("", address));
    login.contains(':') || password_from(rest).is_some() && rest.matches(':').count() > 1
}

/// The jump hosts. An empty list means none, whatever ssh_config says.
fn jump(table: &Table, mistakes: &mut Mistakes) -> Option<Vec<String>> {
    table.value("jump")?.get_ref().as_array()?;
    let hosts = table.texts("jump");
    for host in &hosts {
        let (user, address) = host.is.rsplit_once('@').unwrap_or(("x", host.is));
        let inner = |c: char| c.is_ascii_alphanumeric() || "-_.:%".contains(c);
        let sound = names::host_and_port(address)
            .is_some_and(|(host, _)| !host.is_empty() && !host.starts_with('-') && host.chars().all(inner));
        if has_password(host.is) {
            mistakes.add_help(&host.at, "a password does not belong in `jump`", LOG_IN);
        } else if sound && !names::is_user(user) {
            mistakes.add_help(&host.at, "the user name of this host is not valid", names::USER);
        } else if !sound {
            mistakes.add_help(
                &host.at,
                "this is not a valid jump host",
                "as in \"ops@bastion.example.com:2222\"",
            );
        }
    }
    Some(hosts.into_iter().map(|host| host.is.to_string()).collect())
}

/// The fingerprint of the host key, as `ssh-keygen -lf` prints it. The hash is in base64 without padding.
fn host_key(table: &Table, mistakes: &mut Mistakes) -> Option<String> {
    let key = table.text("host-key")?;
    let base64 = |c: char| c.is_ascii_alphanumeric() || "+/".contains(c);
    if !key.is.strip_prefix("SHA256:").is_some_and(|hash| hash.len() == 43 && hash.chars().all(base64)) {
        let says = "the fingerprint of a host key is SHA256: followed by 43 characters";
        mistakes.add_help(&key.at, says, "on the machine: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub");
    }
    Some(key.is.to_string())
}

fn role(table: &Table, mistakes: &mut Mistakes) -> Option<Role> {
    let role = table.text("role")?;
    match role.is {
        "control-plane" => Some(Role::ControlPlane),
        "worker" => Some(Role::Worker),
        _ => {
            mistakes.add(&role.at, "`role` must be \"control-plane\" or \"worker\"");
            None
        }
    }
}

/// Labels that the kubelet or `role` sets, with what sets each of them. They describe the machine or its role.
const TAKEN: &[(&str, &str)] = &[
    ("kubernetes.io/hostname", "the kubelet sets it to the Node's name"),
    ("kubernetes.io/os", "the kubelet sets it"),
    ("kubernetes.io/arch", "the kubelet sets it"),
    ("node-role.kubernetes.io/control-plane", "`role` sets it"),
];

/// Settings by which ironstrap prepares and judges machines. They are the same for all nodes.
const FOR_ALL: [&str; 4] = ["failSwapOn", "failCgroupV1", "protectKernelDefaults", "resolvConf"];

/// KubeletConfiguration fields of this node, which override those of the cluster.
fn kubelet(table: &Table, minor: u64, mistakes: &mut Mistakes) -> Map<String, Value> {
    let own = table.table("kubelet");
    for (key, _) in own.entries().iter().filter(|(key, _)| FOR_ALL.contains(&key.get_ref().as_ref())) {
        mistakes.add(&key.span(), "this is the same for all nodes: set it in [kubelet]");
    }
    component_args::json(table, "kubelet", minor, mistakes)
}

fn labels(table: &Table, mistakes: &mut Mistakes) -> BTreeMap<String, String> {
    let pairs = table.pairs("labels");
    for (key, value) in &pairs {
        if let Some((_, who)) = TAKEN.iter().find(|(taken, _)| *taken == key.is) {
            mistakes.add(&key.at, format!("this label cannot be set: {who}"));
        } else if !names::is_key(key.is) {
            let says = "a label's key has at most 63 characters: letters, digits, -, _ and .";
            mistakes.add_help(
                &key.at,
                says,
                "a DNS name and / may come before it, as in \"example.com/disk\"",
            );
        }
        if !names::is_value(value.is) {
            let says = "a label's value has at most 63 characters: letters, digits, -, _ and .";
            mistakes.add(&value.at, says);
        }
    }
    pairs.into_iter().map(|(key, value)| (key.is.to_string(), value.is.to_string())).collect()
}

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

fn taints(table: &Table, mistakes: &mut Mistakes) -> Option<Vec<Taint>> {
    table.value("taints")?.get_ref().as_array()?;
    let mut taints: Vec<Taint> = vec![];
    for text in table.texts("taints") {
        let Some(taint) = taint(text.is) else {
            let says =
                "a taint is a key, an optional value, and an effect, as in \"dedicated=gpu:NoSchedule\"";
            mistakes.add_help(&text.at, says, format!("effects are {}", EFFECTS.join(", ")));
            continue;
        };
        if taints.iter().any(|other| other.key == taint.key && other.effect == taint.effect) {
            mistakes.add(&text.at, format!("there is already a taint {} with this effect", taint.key));
        }
        taints.push(taint);
    }
    Some(taints)
}

fn taint(text: &str) -> Option<Taint> {
    let (rest, effect) = text.rsplit_once(':')?;
    let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
    let right = names::is_key(key) && names::is_value(value) && EFFECTS.contains(&effect);
    right.then(|| Taint { key: key.into(), value: value.into(), effect: effect.into() })
}
