//! `ssh-check`: shows how ironstrap logs in to each machine, and how long each part takes. It changes nothing there.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::session::warn_of_unsafe_files;
use super::ssh_args::SshArgs;
use super::{End, Inventory, Outcome, interrupted, interrupts, one};
use crate::error::{Error, Result};
use crate::inventory;
use crate::report;
use crate::ssh::{Route, RouteReport, Ssh, Via};

#[derive(Args)]
pub(super) struct SshCheck {
    #[command(flatten)]
    inventory: Inventory,
    /// Test these nodes only: m1 w1, or a range as in w[1-3].
    #[arg(value_name = "NODE")]
    nodes: Vec<String>,
    /// Print one JSON document.
    #[arg(long, help_heading = "Output")]
    json: bool,
    #[command(flatten)]
    ssh_args: SshArgs,
}

/// The name of a node, and how ironstrap logged in to it.
type Found = (String, Result<RouteReport>);

pub(super) async fn ssh_check(args: &SshCheck) -> Outcome {
    let cluster = inventory::read(&args.inventory.inventory).map_err(one)?;
    warn_of_unsafe_files(&cluster);
    let chosen = inventory::select(&cluster, &args.nodes).map_err(one)?;
    let client = Arc::new(args.ssh_args.client());
    let nodes = cluster.nodes.iter().filter(|node| chosen.is_empty() || chosen.contains(&node.name));
    let (mut tasks, mut interrupts) = (JoinSet::new(), interrupts().map_err(one)?);
    for (i, node) in nodes.enumerate() {
        let (name, ssh) = (node.name.clone(), Ssh::new(node, &client));
        tasks.spawn(async move {
            let route = ssh.route_report().await;
            ssh.close().await;
            (i, (name, route))
        });
    }
    let mut found: Vec<(usize, Found)> = vec![];
    loop {
        tokio::select! {
            error = interrupted(&mut interrupts) => return Err(one(error)),
            done = tasks.join_next() => match done {
                Some(Ok(done)) => found.push(done),
                Some(Err(_)) => {}
                None => break,
            },
        }
    }
    found.sort_by_key(|(i, _)| *i);
    let found: Vec<Found> = found.into_iter().map(|(_, found)| found).collect();
    match args.json {
        true => drop(report::json(&json!({"nodes": found.iter().map(document).collect::<Vec<_>>()}))),
        false => found.iter().flat_map(lines).for_each(|line| report::out(&line)),
    }
    let errors: Vec<Error> = found.into_iter().filter_map(|(_, route)| route.err()).collect();
    if errors.is_empty() { Ok(End::Good) } else { Err(errors) }
}

fn lines((name, route): &Found) -> Vec<String> {
    let Ok(RouteReport { route, by, root, took }) = route else { return vec![] };
    let all: Duration = took.iter().map(|(_, time)| *time).sum();
    let took: Vec<String> =
        took.iter().map(|(part, time)| format!("{part} {}", milliseconds(*time))).collect();
    let mut lines = vec![format!("✔ {name}  {}@{}  {}", route.user, route.address(), milliseconds(all))];
    lines.extend(via(route).map(|via| format!("      via   {via}")));
    lines.extend([
        format!("      by    {by}"),
        format!("      root  {root}"),
        format!("      took  {}", took.join(", ")),
    ]);
    lines
}

fn milliseconds(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}

/// Returns what lies between this computer and the machine.
fn via(route: &Route) -> Option<String> {
    match &route.via {
        Via::Nothing => None,
        // The command may contain a password.
        Via::Command(_) => Some("the ProxyCommand of your ssh_config".into()),
        Via::Host(_) => Some(route.hops().into_iter().map(Route::shown).collect::<Vec<_>>().join(", then ")),
    }
}

fn document((name, route): &Found) -> Value {
    match route {
        Ok(RouteReport { route, by, root, took }) => json!({
            "name": name, "reachable": true, "user": route.user, "host": route.host, "port": route.port,
            "via": via(route), "by": by, "root": root,
            "seconds": took.iter().map(|(part, time)| (part.to_string(), time.as_secs_f64().into())).collect::<serde_json::Map<_, _>>(),
        }),
        Err(error) => json!({
            "name": name, "reachable": false,
            "error": {"what": error.what, "cause": error.cause, "hint": error.hint},
        }),
    }
}
