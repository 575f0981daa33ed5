//! `new`: writes a first inventory, from the command line or from answers. It only writes what `check` finds right.

use std::io::IsTerminal;
use std::net::{IpAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::{End, Outcome, one};
use crate::error::{Error, Kind, Result};
use crate::report::{self, count};
use crate::secret::{HIDDEN, hide_login};
use crate::{inventory, store, template};

/// The default version of Kubernetes. ironstrap is tested with it.
const KUBERNETES: &str = "1.36.3";
const NAME: &str = "demo";

#[derive(Args)]
pub(super) struct New {
    /// The machines, control planes first. USER defaults to root. Without any, ironstrap asks you.
    #[arg(value_name = "[USER@]HOST[:PORT]")]
    machines: Vec<String>,
    /// Where to write the inventory. An existing file is never overwritten.
    #[arg(long, short, value_name = "FILE", default_value = super::DEFAULT_INVENTORY)]
    output: PathBuf,
    /// The name of the cluster.
    #[arg(long, value_name = "NAME", default_value = NAME)]
    name: String,
    /// The version of Kubernetes.
    #[arg(long, value_name = "VERSION", default_value = KUBERNETES)]
    kubernetes: String,
    /// Number of control planes among the machines.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(0..=1000))]
    control_planes: u16,
}

pub(super) fn new(args: New) -> Outcome {
    let args = if args.machines.is_empty() { asked(args).map_err(one)? } else { args };
    let path = args.output.clone();
    let text = starter(&args).map_err(one)?;
    // The error shows a place in an inventory, but the mistake is on the command line.
    let failure = |error: Error| {
        let what = format!("cannot write {}: it would not be a valid inventory", path.display());
        vec![error, Error::new(Kind::Usage, what).hint("correct the command line: ironstrap new --help")]
    };
    let cluster = inventory::parse(&text, &path).map_err(failure)?;
    store::create(&path, &text, 0o644).map_err(one)?;
    let path = path.display();
    report::err(&format!("✔ {path}: {} of {}", count(cluster.nodes.len(), "node"), cluster.name));
    let flag = flag(&args.output);
    report::err(&format!(
        "  next: ironstrap ssh-check{flag}   (it shows the host keys; accept them with --accept-new-host-keys)"
    ));
    Ok(End::Good)
}

/// Returns the option with which other commands find this file, after a space. It is empty if they find it by themselves.
fn flag(path: &Path) -> String {
    let is_found = std::env::var_os("IRONSTRAP_INVENTORY").is_none();
    match is_found && path == Path::new(super::DEFAULT_INVENTORY) {
        true => String::new(),
        false => format!(" -i {}", path.display()),
    }
}

/// Makes the text of the inventory.
fn starter(args: &New) -> Result<String> {
    let planes = usize::from(args.control_planes);
    if planes == 0 || planes > args.machines.len() {
        let what = format!(
            "--control-planes is {}, but must be between 1 and {}, the number of machines",
            args.control_planes,
            args.machines.len()
        );
        return Err(Error::new(Kind::Usage, what).hint("name each machine, control planes first"));
    }
    args.machines.iter().try_for_each(|machine| check(machine))?;
    for (i, machine) in args.machines.iter().enumerate() {
        if args.machines[..i].iter().any(|other| split(other).1 == split(machine).1) {
            let what = format!("{} is named twice", hide_login(machine));
            return Err(Error::new(Kind::Usage, what).hint("name each machine once"));
        }
    }
    let users: Vec<&str> = args.machines.iter().map(|machine| split(machine).0).collect();
    let nodes: Result<Vec<Value>> =
        args.machines.iter().enumerate().map(|(i, machine)| node(args, i, machine, users[0])).collect();
    let quoted = json!({
        "name": quoted(&args.name), "kubernetes": quoted(&args.kubernetes), "user": quoted(users[0]),
    });
    template::render(
        "inventory.toml",
        json!({"name": args.name, "flag": flag(&args.output), "quoted": quoted, "nodes": nodes?}),
    )
}

fn node(args: &New, i: usize, machine: &str, usual: &str) -> Result<Value> {
    let (user, address) = split(machine);
    let planes = usize::from(args.control_planes);
    let control_plane = i < planes;
    let name = if control_plane { format!("m{}", i + 1) } else { format!("w{}", i + 1 - planes) };
    Ok(json!({
        "name": name,
        "address": quoted(address),
        "ip": ip(address)?.map(|ip| quoted(&ip.to_string())),
        "user": (user != usual).then(|| quoted(user)),
        "control_plane": control_plane,
    }))
}

/// Splits a machine into the user who logs in, and the address.
fn split(machine: &str) -> (&str, &str) {
    machine.rsplit_once('@').unwrap_or(("root", machine))
}

/// Fails if a machine has a password, or a user name that is not valid. Everyone who reads the command line of a process, or
/// the inventory, would know the password.
fn check(machine: &str) -> Result<()> {
    let (user, address) = split(machine);
    let what = match (inventory::password_from(machine), inventory::password_of_user(user)) {
        (Some(from), _) => format!("{}{HIDDEN}: this is not an address", &machine[..from]),
        (None, Some(from)) => {
            format!("{}{HIDDEN}@{address}: a password is not allowed here", &user[..from])
        }
        (None, None) if inventory::is_user(user) => return Ok(()),
        (None, None) => {
            let error = Error::new(Kind::Usage, format!("{machine}: {user:?} is not a valid user name"));
            return Err(error.hint(inventory::USER));
        }
    };
    let hint = format!("write USER@ADDRESS or USER@ADDRESS:PORT, without a password; {}", inventory::LOG_IN);
    Err(Error::new(Kind::Usage, what).hint(hint))
}

/// Returns the address to which a host name leads today. Nodes need an address of each other that stays.
fn ip(address: &str) -> Result<Option<IpAddr>> {
    let Some((host, _)) = inventory::host_and_port(address) else { return Ok(None) };
    // If this is no address at all, the check of the inventory says so.
    if host.is_empty() || host.parse::<IpAddr>().is_ok() {
        return Ok(None);
    }
    let unknown = |why: String| {
        let error = Error::new(Kind::Usage, format!("cannot resolve {host}")).because(why);
        error.hint("correct the name, or give the machine's address")
    };
    let found = (host, 22).to_socket_addrs().map_err(|error| unknown(error.to_string()))?;
    let found: Vec<IpAddr> = found.map(|address| address.ip()).collect();
    let first = found.iter().find(|ip| ip.is_ipv4()).or(found.first()).copied();
    first.map(Some).ok_or_else(|| unknown("the name server returned no address".into()))
}

/// Writes a text as a string of TOML.
fn quoted(text: &str) -> String {
    toml::Value::String(text.into()).to_string()
}

/// Asks for what only the user knows, and returns the arguments with the answers.
fn asked(args: New) -> Result<New> {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(Error::new(Kind::Usage, "no machines are given, and there is no terminal to ask on")
            .hint("name the machines, as in: ironstrap new root@10.0.0.11 root@10.0.0.12"));
    }
    let name = ask("name of the cluster", &args.name)?;
    let kubernetes = ask("version of Kubernetes", &args.kubernetes)?;
    let mut machines = vec![ask("control plane, as in root@10.0.0.11", "")?];
    loop {
        match ask("worker, as in root@10.0.0.21 (empty to finish)", "")? {
            last if last.is_empty() => return Ok(New { name, kubernetes, machines, ..args }),
            machine => machines.push(machine),
        }
    }
}

fn ask(what: &str, usual: &str) -> Result<String> {
    let mut input = dialoguer::Input::<String>::new().with_prompt(what).allow_empty(true);
    if !usual.is_empty() {
        input = input.default(usual.into());
    }
    let answer = input.interact_text();
    let answer =
        answer.map_err(|e| Error::new(Kind::Local, "cannot read the answer").because(e.to_string()))?;
    Ok(answer.trim().to_string())
}
