//! `apply`: asks the machines, shows the plan, asks the user, makes the changes, and reports the result.

use std::collections::BTreeSet;
use std::io::IsTerminal;

use clap::Args;
use tokio::signal::unix::Signal;

use super::{Errors, FleetArgs, Limit, Outcome, Session, Taking, interrupted, one, plan};
use crate::cluster::Node;
use crate::error::{Error, Kind, Result};
use crate::plan::{Change, State};
use crate::reconcile::Stop;
use crate::report::group::{MANY, counted};
use crate::report::{self, Event, Events, count};
use crate::step::Confirmation;
use crate::steps::REPLACE_COREFILE;
use crate::store::Lock;

pub(super) mod summary;

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
    /// Replace the Corefile of CoreDNS if it was edited in the cluster. ConfigMap kube-system/coredns-replaced keeps a copy.
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
    let mut session = args.fleet.start(args.fleet.style(), &args.limit).await.map_err(one)?;
    let lock = session.store.lock();
    let done = match &lock {
        Ok(lock) => go(args, &mut session, lock).await,
        Err(error) => Err(one(error.clone())),
    };
    summary::end(&args.fleet, session, done).await
}

/// Does the work, and returns what went wrong on single nodes. `Err` means that nothing was done at all, or that everything
/// stopped.
async fn go(args: &Apply, session: &mut Session, lock: &Lock) -> std::result::Result<Errors, Errors> {
    session.recognize(lock, &args.taking).map_err(one)?;
    session.run_active_checks().await.map_err(one)?;
    let path = session.store.path().display().to_string();
    let preflight = session.reconciler.preflight((&path, session.pki_exists));
    let blocked = if preflight.blocked { preflight.errors } else { session.reconciler.held_by_others() };
    if let Some(kind) = blocked.last().map(|error| error.kind) {
        let untouched = Error::new(kind, format!("{}: no node was changed", session.cluster.name));
        return Err(blocked.into_iter().chain([untouched]).collect());
    }
    if args.replace_corefile {
        session.reconciler.confirm(&REPLACE_COREFILE);
    }
    // If the kubeconfig would replace a file of somebody else, the run fails now, and not after everything is done.
    session.store.wants_kubeconfig(&kubeconfig(session)).map_err(one)?;
    let plan = session.reconciler.plan().map_err(one)?;
    if !args.yes && !confirmed(&args.fleet, session, &plan).await.map_err(one)? {
        return Err(one(Error::new(Kind::Interrupted, "cancelled; no node was changed")));
    }
    keep_trust(session).map_err(one)?;
    session.introduce(lock, &args.taking).map_err(one)?;
    let done = carry_out(session).await;
    let mut errors: Errors = session
        .reconciler
        .hosts()
        .iter()
        .filter(|m| m.is_affected())
        .flat_map(|m| m.quarantined().cloned())
        .collect();
    if let Err(error) = done {
        errors.push(error);
        return Err(errors);
    }
    keep_kubeconfig(session).map_err(one)?;
    errors.extend(kept(session).map_err(one)?);
    errors.extend(session.reconciler.unmet().map_err(one)?);
    Ok(errors)
}

/// Returns as errors what still needs a confirmation of its own.
fn kept(session: &Session) -> Result<Errors> {
    let plan = session.reconciler.plan()?;
    let error = |(node, change): (&String, &Change)| match change.state {
        State::Unconfirmed(open) => Some(Error::new(Kind::Partial, open.kept).on(node).hint(open.hint)),
        _ => None,
    };
    let all = plan.iter().flat_map(|(node, changes)| changes.iter().map(move |change| (node, change)));
    Ok(all.filter_map(error).collect())
}

/// Runs the loop. The first Ctrl-C ends it after the fixes that run then, and the second one ends it at once.
pub(super) async fn carry_out(session: &mut Session) -> Result<()> {
    let (stopper, mut stop) = tokio::sync::watch::channel(Stop::Never);
    tokio::select! {
        done = session.reconciler.apply(&mut stop) => done,
        never = pass_on(&mut session.interrupts, &session.events, &stopper) => match never {},
    }
}

/// Turns the first Ctrl-C into an end after what runs then, and the second one into an end at once.
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

/// Whether the operator says yes to any of the changes. A change that needs a confirmation of its own is a question of its own.
async fn confirmed(args: &FleetArgs, session: &mut Session, plan: &[(String, Vec<Change>)]) -> Result<bool> {
    let all = || plan.iter().flat_map(|(_, changes)| changes);
    let open = open(plan);
    let changes = all().filter(|change| !matches!(change.state, State::Unconfirmed(_))).count();
    let nobody = args.json || !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal();
    match (nobody, changes) {
        (true, 0) => return Ok(true),
        (true, _) => {
            let what = format!(
                "{} to confirm, but ironstrap cannot ask (no terminal, or --json)",
                count(changes, "change")
            );
            let hint = "use --yes to confirm them; `ironstrap plan` shows the changes";
            return Err(Error::new(Kind::Refused, what).hint(hint));
        }
        (false, 0) => {}
        (false, _) => {
            outline(session, plan);
            let nodes = count(session.about().count(), "node");
            let question = format!("Apply {} on {nodes}?", count(changes, "change"));
            if !answer(session, &question).await? {
                return Ok(false);
            }
        }
    }
    let mut said_yes = changes > 0 || open.is_empty();
    for confirmation in open {
        lines_of(plan, confirmation, &session.cluster.nodes).iter().for_each(|line| report::err(line));
        if answer(session, confirmation.question).await? {
            session.reconciler.confirm(confirmation);
            said_yes = true;
        }
    }
    Ok(said_yes)
}

async fn answer(session: &mut Session, question: &str) -> Result<bool> {
    tokio::select! {
        error = interrupted(&mut session.interrupts) => Err(error),
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

/// Returns the changes that need this confirmation, as a plan shows them.
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

/// Prints how many changes there are on each node.
fn outline(session: &Session, plan: &[(String, Vec<Change>)]) {
    let cluster = &session.cluster;
    let nodes = count(session.about().count(), "node");
    report::err(&format!("{}: {nodes}, kubernetes {}", cluster.name, cluster.kubernetes));
    let about: BTreeSet<&str> = session.about().map(|host| host.node.name.as_str()).collect();
    let listed = plan.iter().filter(|(name, changes)| !changes.is_empty() || about.contains(name.as_str()));
    let listed = listed.filter_map(|(name, changes)| Some((cluster.node(name)?, changes.len())));
    let listed: Vec<(&Node, usize)> = listed.collect();
    // Many nodes in a row with the same role and number of changes share a line. Their addresses do not matter then.
    let group = |(one, changes): &(&Node, usize), (next, more): &(&Node, usize)| {
        listed.len() >= MANY && one.role == next.role && changes == more
    };
    for group in listed.chunk_by(group) {
        let (node, changes) = group[0];
        let names = counted(group.iter().map(|(node, _)| node.name.as_str()));
        let host = if group.len() == 1 { node.ssh.host.as_str() } else { "each" };
        let role = node.role.to_string();
        report::err(&format!("  {names:<16} {role:<14} {host:<20} {}", count(changes, "change")));
    }
    session.left_out().iter().for_each(|words| report::err(&format!("  {words}")));
}

/// Saves the cluster PKI. A new one is saved only here, and only after every control plane has answered that it holds none. The
/// preflight let no machine pass that trusts another PKI, or that did not answer.
fn keep_trust(session: &Session) -> Result<()> {
    if session.pki_exists && session.made.is_empty() {
        return session.store.retire();
    }
    let silent =
        session.reconciler.hosts().iter().find(|host| host.node.is_control_plane() && host.machine.is_none());
    if let Some(host) = silent.filter(|_| !session.pki_exists) {
        return Err(Error::new(Kind::Unknown, "cannot determine whether it already has a cluster PKI")
            .on(&host.node.name));
    }
    session.store.save(&session.pki)?;
    if !session.pki_exists {
        session.events.tell(Event::Trust { path: session.store.path().display().to_string() });
    }
    Ok(())
}

/// Writes the operator's kubeconfig beside the inventory, if there is a cluster.
fn keep_kubeconfig(session: &Session) -> Result<()> {
    if !session.reconciler.fleet().exists {
        return Ok(());
    }
    session.store.save_kubeconfig(&kubeconfig(session)).map(drop)
}

fn kubeconfig(session: &Session) -> String {
    session.pki.admin_kubeconfig(&session.cluster, &session.cluster.operators_url())
}
