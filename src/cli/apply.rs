//! `apply`: ask, show, ask the user, do, and say how it came out.

use std::collections::BTreeSet;
use std::io::IsTerminal;

use clap::Args;
use tokio::signal::unix::Signal;

use super::{Errors, FleetArgs, Limit, Outcome, Start, Taking, interrupted, one, plan};
use crate::cluster::Node;
use crate::error::{Error, Kind, Result};
use crate::plan::{Change, State};
use crate::reconcile::Stop;
use crate::report::alike::{MANY, counted};
use crate::report::{self, Event, Events, count};
use crate::step::Confirmation;
use crate::steps::REPLACE_COREFILE;
use crate::store::Lock;

pub(super) mod ending;

#[derive(Args)]
pub(super) struct Apply {
    #[command(flatten)]
    fleet: FleetArgs,
    #[command(flatten)]
    limit: Limit,
    #[command(flatten)]
    taking: Taking,
    /// Do not ask for confirmation.
    #[arg(long, short)]
    yes: bool,
    /// Replace the Corefile of CoreDNS if somebody edited it in the cluster. ConfigMap kube-system/coredns-replaced keeps a copy.
    /// `--yes` does not include this.
    #[arg(long)]
    replace_corefile: bool,
    /// Only show the plan, as the command `plan` does.
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn apply(args: &Apply) -> Outcome {
    match args.dry_run {
        true => plan::show(&args.fleet, &args.limit, false).await,
        false => make(args).await,
    }
}

async fn make(args: &Apply) -> Outcome {
    let mut start = args.fleet.start(args.fleet.style(), &args.limit).await.map_err(one)?;
    let lock = start.store.lock();
    let done = match &lock {
        Ok(lock) => go(args, &mut start, lock).await,
        Err(error) => Err(one(error.clone())),
    };
    ending::end(&args.fleet, start, done).await
}

/// The work itself; gives back what went wrong on single nodes. `Err` means that nothing was done at all, or that
/// everything stopped.
async fn go(args: &Apply, start: &mut Start, lock: &Lock) -> std::result::Result<Errors, Errors> {
    start.recognize(lock, &args.taking).map_err(one)?;
    start.try_out().await.map_err(one)?;
    let path = start.store.path().display().to_string();
    let survey = start.work.survey((&path, start.kept));
    let blocked = if survey.blocked { survey.errors } else { start.work.others() };
    if let Some(kind) = blocked.last().map(|error| error.kind) {
        let untouched = Error::new(kind, format!("{}: nothing was changed on any node", start.cluster.name));
        return Err(blocked.into_iter().chain([untouched]).collect());
    }
    if args.replace_corefile {
        start.work.confirm(&REPLACE_COREFILE);
    }
    // A file of somebody else's in its place is no reason to fail after everything is done.
    start.store.wants_kubeconfig(&kubeconfig(start)).map_err(one)?;
    let plan = start.work.plan().map_err(one)?;
    if !args.yes && !confirmed(&args.fleet, start, &plan).await.map_err(one)? {
        return Err(one(Error::new(Kind::Interrupted, "you said no; nothing was changed")));
    }
    keep_trust(start).map_err(one)?;
    start.introduce(lock, &args.taking).map_err(one)?;
    let done = carry_out(start).await;
    let mut errors: Errors =
        start.work.members().iter().filter(|m| m.counts()).flat_map(|m| m.wrong().cloned()).collect();
    if let Err(error) = done {
        errors.push(error);
        return Err(errors);
    }
    keep_kubeconfig(start).map_err(one)?;
    errors.extend(kept(start).map_err(one)?);
    errors.extend(start.work.unmet().map_err(one)?);
    Ok(errors)
}

/// What still needs a confirmation of its own, as errors.
fn kept(start: &Start) -> Result<Errors> {
    let plan = start.work.plan()?;
    let error = |(node, change): (&String, &Change)| match change.state {
        State::Unconfirmed(open) => Some(Error::new(Kind::Partial, open.kept).on(node).hint(open.hint)),
        _ => None,
    };
    let all = plan.iter().flat_map(|(node, changes)| changes.iter().map(move |change| (node, change)));
    Ok(all.filter_map(error).collect())
}

/// Runs the loop; Ctrl-C ends it after the fixes that are running, and a second one at once.
pub(super) async fn carry_out(start: &mut Start) -> Result<()> {
    let (stopper, mut stop) = tokio::sync::watch::channel(Stop::Never);
    tokio::select! {
        done = start.work.apply(&mut stop) => done,
        never = pass_on(&mut start.interrupts, &start.events, &stopper) => match never {},
    }
}

/// Makes the first Ctrl-C an end after what runs, and the second one an end at once.
async fn pass_on(
    signals: &mut Signal,
    events: &Events,
    stopper: &tokio::sync::watch::Sender<Stop>,
) -> std::convert::Infallible {
    for (wish, at_once) in [(Stop::Soon, false), (Stop::Now, true)] {
        if signals.recv().await.is_some() {
            events.tell(Event::Stopping { at_once });
            let _ = stopper.send(wish);
        }
    }
    std::future::pending().await
}

/// Whether the operator says yes to anything that there is to do. What needs a confirmation of its own is a question of
/// its own.
async fn confirmed(args: &FleetArgs, start: &mut Start, plan: &[(String, Vec<Change>)]) -> Result<bool> {
    let all = || plan.iter().flat_map(|(_, changes)| changes);
    let open = open(plan);
    let changes = all().filter(|change| !matches!(change.state, State::Unconfirmed(_))).count();
    let nobody = args.json || !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal();
    match (nobody, changes) {
        (true, 0) => return Ok(true),
        (true, _) => {
            let what = format!("{} to make, and nobody to ask", count(changes, "change"));
            let hint = "say --yes; `ironstrap plan` shows the changes";
            return Err(Error::new(Kind::Refused, what).hint(hint));
        }
        (false, 0) => {}
        (false, _) => {
            outline(start, plan);
            let nodes = count(start.about().count(), "node");
            let question = format!("Go ahead with {} on {nodes}?", count(changes, "change"));
            if !answer(start, &question).await? {
                return Ok(false);
            }
        }
    }
    let mut said_yes = changes > 0 || open.is_empty();
    for confirmation in open {
        lines_of(plan, confirmation, &start.cluster.nodes).iter().for_each(|line| report::err(line));
        if answer(start, confirmation.question).await? {
            start.work.confirm(confirmation);
            said_yes = true;
        }
    }
    Ok(said_yes)
}

async fn answer(start: &mut Start, question: &str) -> Result<bool> {
    tokio::select! {
        error = interrupted(&mut start.interrupts) => Err(error),
        answer = report::ask(question) => match answer {
            Ok(Ok(yes)) => Ok(yes),
            Ok(Err(error)) => Err(Error::new(Kind::Local, "cannot read the answer").because(error.to_string())),
            Err(_) => Ok(false),
        },
    }
}

fn open(plan: &[(String, Vec<Change>)]) -> BTreeSet<&'static Confirmation> {
    let open = |change: &Change| if let State::Unconfirmed(open) = change.state { Some(open) } else { None };
    plan.iter().flat_map(|(_, changes)| changes).filter_map(open).collect()
}

/// The changes that need this confirmation, as a plan shows them.
fn lines_of(
    plan: &[(String, Vec<Change>)],
    confirmation: &'static Confirmation,
    nodes: &[Node],
) -> Vec<String> {
    let needs = |change: &&Change| change.state == State::Unconfirmed(confirmation);
    let of = |(node, changes): &(String, Vec<Change>)| {
        (node.clone(), changes.iter().filter(needs).cloned().collect())
    };
    report::plan::lines(&plan.iter().map(of).collect::<Vec<_>>(), nodes)
}

/// How much there is to do where.
fn outline(start: &Start, plan: &[(String, Vec<Change>)]) {
    let cluster = &start.cluster;
    let nodes = count(start.about().count(), "node");
    report::err(&format!("{}: {nodes}, kubernetes {}", cluster.name, cluster.kubernetes));
    let about: BTreeSet<&str> = start.about().map(|member| member.node.name.as_str()).collect();
    let listed = plan.iter().filter(|(name, changes)| !changes.is_empty() || about.contains(name.as_str()));
    let listed = listed.filter_map(|(name, changes)| Some((cluster.node(name)?, changes.len())));
    let listed: Vec<(&Node, usize)> = listed.collect();
    // Many in a row that are alike are one line; where each is, is no matter then.
    let alike = |(one, changes): &(&Node, usize), (next, more): &(&Node, usize)| {
        listed.len() >= MANY && one.role == next.role && changes == more
    };
    for group in listed.chunk_by(alike) {
        let (node, changes) = group[0];
        let names = counted(group.iter().map(|(node, _)| node.name.as_str()));
        let host = if group.len() == 1 { node.ssh.host.as_str() } else { "each" };
        let role = node.role.to_string();
        report::err(&format!("  {names:<16} {role:<14} {host:<20} {}", count(changes, "change")));
    }
    start.left_out().iter().for_each(|words| report::err(&format!("  {words}")));
}

/// A trust is made only here, and only after every control plane has answered that it holds none: the survey let
/// nobody pass who trusts another, and nobody who did not answer.
fn keep_trust(start: &Start) -> Result<()> {
    if start.kept && start.made.is_empty() {
        return start.store.retire();
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

/// Writes the operator's kubeconfig beside the inventory, once there is a cluster.
fn keep_kubeconfig(start: &Start) -> Result<()> {
    if !start.work.fleet().exists {
        return Ok(());
    }
    start.store.save_kubeconfig(&kubeconfig(start)).map(drop)
}

fn kubeconfig(start: &Start) -> String {
    start.trust.admin_kubeconfig(&start.cluster, &start.cluster.operators_url())
}
