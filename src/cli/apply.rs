//! `apply`: ask, show, ask the user, do, and say how it came out.

use std::collections::BTreeMap;
use std::io::IsTerminal;

use clap::Args;

use super::{End, Errors, FleetArgs, Outcome, Start, one, plan};
use crate::error::{Error, Kind, Result};
use crate::plan::Change;
use crate::reconcile::Stop;
use crate::report::{self, Event, NodeState, Tally, count};

#[derive(Args)]
pub(super) struct Apply {
    #[command(flatten)]
    fleet: FleetArgs,
    /// Do not ask before changing anything.
    #[arg(long, short)]
    yes: bool,
    /// Only show what would be changed: the same as `plan`.
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn apply(args: &Apply) -> Outcome {
    match args.dry_run {
        true => plan::show(&args.fleet, false).await,
        false => make(&args.fleet, args.yes).await,
    }
}

async fn make(args: &FleetArgs, yes: bool) -> Outcome {
    let mut start = args.start(args.style()).await.map_err(one)?;
    let lock = start.store.lock();
    let done = match &lock {
        Ok(_) => go(args, yes, &mut start).await,
        Err(error) => Err(one(error.clone())),
    };
    let (errors, stopped) = match done {
        Ok(errors) => (errors, false),
        Err(errors) => (errors, true),
    };
    errors.iter().for_each(|error| start.events.tell(error.into()));
    let (changes, nodes) = tallies(&start);
    let seconds = start.since.elapsed().as_secs_f64();
    start.events.tell(Event::Done { changes, nodes: nodes.clone(), seconds });
    let (cluster, inventory, kubeconfig) =
        (start.cluster.clone(), args.inventory.inventory.clone(), start.store.kubeconfig_path());
    drop((start.events, start.work));
    let _ = start.printer.await;
    let left: Vec<&String> =
        nodes.iter().filter(|(_, tally)| tally.state != NodeState::Converged).map(|(name, _)| name).collect();
    let good = nodes.len() - left.len();
    if errors.is_empty() && left.is_empty() {
        if !args.json {
            congratulate(
                &cluster.name,
                &inventory.display().to_string(),
                &kubeconfig.display().to_string(),
                (nodes.len(), changes, seconds),
            );
        }
        return Ok(End::Good);
    }
    let mut errors = errors;
    // What stopped everything is what the exit code says, not how many nodes happened to be as wanted before.
    if errors.is_empty() || !stopped && (good > 0 || changes > 0) {
        let names: Vec<&str> = left.iter().map(|name| name.as_str()).collect();
        errors.push(Error::new(
            Kind::Partial,
            format!(
                "{}: {good} of {} are what {} says; left: {}",
                cluster.name,
                count(nodes.len(), "node"),
                inventory.display(),
                names.join(", ")
            ),
        ));
    }
    Err(errors)
}

/// The work itself; gives back what went wrong on single nodes. `Err` means that nothing was done at all, or that
/// everything stopped.
async fn go(args: &FleetArgs, yes: bool, start: &mut Start) -> std::result::Result<Errors, Errors> {
    let path = start.store.path().display().to_string();
    let survey = start.work.survey((&path, start.kept));
    let blocked = if survey.blocked { survey.errors } else { start.work.others() };
    if let Some(kind) = blocked.last().map(|error| error.kind) {
        let untouched = Error::new(kind, format!("{}: nothing was changed on any node", start.cluster.name));
        return Err(blocked.into_iter().chain([untouched]).collect());
    }
    let plan = start.work.plan().map_err(one)?;
    let changes: usize = plan.iter().map(|(_, changes)| changes.len()).sum();
    if changes > 0 && !yes && !confirmed(args, start, &plan, changes).map_err(one)? {
        return Err(one(Error::new(Kind::Interrupted, "nothing was changed")));
    }
    keep_trust(start).map_err(one)?;
    let (stopper, mut stop) = tokio::sync::watch::channel(Stop::Never);
    let interrupts = tokio::spawn(async move {
        for (wish, words) in [
            (
                Stop::Soon,
                "stopping after the fixes that are running; Ctrl-C again stops at once, and they go on without us",
            ),
            (Stop::Now, "stopping at once"),
        ] {
            if tokio::signal::ctrl_c().await.is_ok() {
                report::err(words);
                let _ = stopper.send(wish);
            }
        }
    });
    let done = start.work.apply(&mut stop).await;
    interrupts.abort();
    let mut errors: Errors = start.work.members().iter().filter_map(|member| member.left.clone()).collect();
    if let Err(error) = done {
        errors.push(error);
        return Err(errors);
    }
    keep_kubeconfig(start).map_err(one)?;
    Ok(errors)
}

fn confirmed(
    args: &FleetArgs,
    start: &Start,
    plan: &[(String, Vec<Change>)],
    changes: usize,
) -> Result<bool> {
    if args.json || !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(Error::new(
            Kind::Refused,
            format!("{} to make, and nobody to ask", count(changes, "change")),
        )
        .hint("say --yes; `ironstrap plan` shows the changes"));
    }
    let nodes = start.cluster.nodes.len();
    report::err(&format!(
        "{}: {}, kubernetes {}",
        start.cluster.name,
        count(nodes, "node"),
        start.cluster.kubernetes
    ));
    for (node, (name, changes)) in start.cluster.nodes.iter().zip(plan) {
        report::err(&format!(
            "  {name:<16} {:<14} {:<20} {}",
            node.role.to_string(),
            node.ssh.host,
            count(changes.len(), "change")
        ));
    }
    let question = format!("Go ahead with {} on {}?", count(changes, "change"), count(nodes, "node"));
    let wrong = |e: dialoguer::Error| Error::new(Kind::Local, "cannot ask").because(e.to_string());
    dialoguer::Confirm::new().with_prompt(question).default(false).interact().map_err(wrong)
}

/// A trust is made only here, and only after every control plane has answered that it holds none: the survey let
/// nobody pass who trusts another, and nobody who did not answer.
fn keep_trust(start: &Start) -> Result<()> {
    if start.kept && start.made.is_empty() {
        return Ok(());
    }
    let silent =
        start.work.members().iter().find(|member| member.node.is_control_plane() && member.machine.is_none());
    if let Some(member) = silent.filter(|_| !start.kept) {
        return Err(
            Error::new(Kind::Unknown, "cannot tell whether it holds a trust already").on(&member.node.name)
        );
    }
    start.store.save(&start.trust)?;
    if !start.kept {
        start.events.tell(Event::Trust { path: start.store.path().display().to_string() });
    }
    Ok(())
}

/// The operator's way in, beside the inventory, once there is a cluster to get into.
fn keep_kubeconfig(start: &Start) -> Result<()> {
    if !start.work.fleet().exists {
        return Ok(());
    }
    let text =
        start.trust.admin_kubeconfig(&start.cluster, &format!("https://{}", operators_endpoint(start)));
    start.store.save_kubeconfig(&text).map(drop)
}

/// A name that only the nodes know helps the operator nothing: then the first control plane's address does.
fn operators_endpoint(start: &Start) -> String {
    let cluster = &start.cluster;
    let first = cluster.control_planes().next().filter(|_| cluster.endpoint.kept);
    match first.map(|node| node.ip) {
        Some(std::net::IpAddr::V6(ip)) => format!("[{ip}]:{}", cluster.endpoint.port),
        Some(ip) => format!("{ip}:{}", cluster.endpoint.port),
        None => cluster.endpoint.to_string(),
    }
}

fn tallies(start: &Start) -> (usize, BTreeMap<String, Tally>) {
    let work = &start.work;
    let tally = |member: &crate::reconcile::Member<crate::ssh::Ssh>| {
        let state = match (&member.left, member.pressing) {
            (Some(_), _) => NodeState::Quarantined,
            (None, 0) => NodeState::Converged,
            (None, _) => NodeState::Drifted,
        };
        (member.node.name.clone(), Tally { execs: member.execs, changes: member.changed.len(), state })
    };
    let nodes: BTreeMap<String, Tally> = work.members().iter().map(tally).collect();
    (nodes.values().map(|tally| tally.changes).sum(), nodes)
}

fn congratulate(
    name: &str,
    inventory: &str,
    kubeconfig: &str,
    (nodes, changes, seconds): (usize, usize, f64),
) {
    let what = if changes == 0 { "nothing changed".to_string() } else { count(changes, "change") };
    report::err(&format!(
        "✔ {name} is what {inventory} says: {}, {what}, {}",
        count(nodes, "node"),
        duration(seconds)
    ));
    if changes > 0 {
        report::err("");
        report::err(&format!("  kubectl --kubeconfig {kubeconfig} get nodes        talk to it"));
        report::err(&format!("  ironstrap plan -i {inventory}        see what drifted, any day"));
    }
}

fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 60.0 => format!("{s:.1} s"),
        s => format!("{} min {} s", (s / 60.0) as u64, (s % 60.0) as u64),
    }
}
