//! `reset`: asks the machines, and shows what is removed and what is restored. It asks the user for the name of the cluster,
//! makes the changes, and reports what is left. `remove` does the same, with more steps before it.

use std::io::IsTerminal;

use clap::Args;

use super::apply::summary::{duration, tallies};
use super::{End, Errors, FleetArgs, Outcome, Session, Taking, apply, interrupted, one};
use crate::error::{Error, Kind, Result, indented};
use crate::plan::Change;
use crate::reconcile::Operation;
use crate::report::group::names;
use crate::report::{self, Event, NodeState, Typed, count};
use crate::steps::is_membership;

#[derive(Args)]
pub(super) struct Reset {
    /// The nodes to reset: w1 w3, or a range as in w[1-3]. Without any, all nodes: the cluster and its data are gone.
    #[arg(value_name = "NODE")]
    nodes: Vec<String>,
    #[command(flatten)]
    fleet: FleetArgs,
    #[command(flatten)]
    taking: Taking,
    /// Do not ask you to type the name of the cluster.
    #[arg(long, short)]
    yes: bool,
}

pub(super) type Plan = [(String, Vec<Change>)];

/// The result of a reset or a removal, for the last message.
pub(super) struct Done {
    /// The machines that were reset, with commas.
    pub names: String,
    pub changes: usize,
    pub seconds: f64,
    /// The files that are still beside the inventory.
    pub kept: Vec<String>,
}

pub(super) async fn reset(args: &Reset) -> Outcome {
    let fleet = &args.fleet;
    let session = fleet.start_operation(Operation::Reset, fleet.style(), &args.nodes, None).await;
    let mut session = session.map_err(one)?;
    let cluster = session.cluster.name.clone();
    let done = under_lock((fleet, &args.taking), &mut session, async |session, plan| match args.yes {
        true => Ok(true),
        false => its_name_is_typed(fleet, session, plan).await,
    });
    let done = done.await;
    end(fleet, session, done, |done| farewell(&cluster, done)).await
}

/// Does the work, and returns what went wrong on single nodes. `Err` means that nothing was done at all, or that everything
/// stopped. `wanted`: whether the user wants what the plan says.
pub(super) async fn under_lock(
    (args, taking): (&FleetArgs, &Taking),
    session: &mut Session,
    wanted: impl AsyncFnOnce(&mut Session, &Plan) -> Result<bool>,
) -> std::result::Result<Errors, Errors> {
    let lock = session.store.lock().map_err(one)?;
    session.recognize(&lock, taking).map_err(one)?;
    let path = session.store.path().display().to_string();
    let preflight = session.reconciler.reset_preflight((&path, session.pki_exists)).map_err(one)?;
    let blocked =
        if preflight.blocked { preflight.errors.clone() } else { session.reconciler.held_by_others() };
    if let Some(kind) = blocked.last().map(|error| error.kind) {
        let untouched = Error::new(kind, format!("{}: no node was changed", session.cluster.name));
        return Err(blocked.into_iter().chain([untouched]).collect());
    }
    let plan = session.reconciler.plan().map_err(one)?;
    let left = left(session);
    if plan.iter().all(|(_, changes)| changes.is_empty()) {
        return Ok(left);
    }
    if !args.json {
        let lines = report::plan::reset(&plan, &session.cluster.nodes, args.verbose);
        lines.iter().for_each(|line| report::out(line));
        left.iter().for_each(|error| report::err(&stays(error)));
    }
    if !wanted(session, &plan).await.map_err(one)? {
        return Err(one(Error::new(Kind::Interrupted, "cancelled; no node was changed")));
    }
    session.introduce(&lock, taking).map_err(one)?;
    let done = apply::carry_out(session).await;
    let mut errors = self::left(session);
    match done {
        Ok(()) => Ok(errors),
        Err(error) => {
            errors.push(error);
            Err(errors)
        }
    }
}

/// Returns why machines that this run is about are quarantined.
fn left(session: &Session) -> Errors {
    session.about().filter_map(|host| host.quarantined.clone()).collect()
}

/// Returns the line about a quarantined machine, below the plan for the others.
fn stays(error: &Error) -> String {
    let node = error.node.as_deref().unwrap_or_default();
    indented(&format!("{node} will not be changed: {}", error.what))
}

/// Returns the answer to a question. Fails if nobody is at the terminal.
pub(super) async fn answer<T: Default>(
    args: &FleetArgs,
    session: &mut Session,
    ask: impl FnOnce() -> Typed<T>,
) -> Result<T> {
    if args.json || !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        let what =
            "this cannot be undone, and ironstrap cannot ask for confirmation (no terminal, or --json)";
        return Err(Error::new(Kind::Refused, what).hint("confirm with --yes"));
    }
    tokio::select! {
        answer = ask() => match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(Error::new(Kind::Local, "cannot read the answer").because(error.to_string())),
            Err(_) => Ok(T::default()),
        },
        error = interrupted(&mut session.interrupts) => Err(error),
    }
}

/// Reports the result, and ends the command.
pub(super) async fn end(
    args: &FleetArgs,
    session: Session,
    done: std::result::Result<Errors, Errors>,
    last_words: impl FnOnce(&Done),
) -> Outcome {
    let stopped = done.is_err();
    let (Ok(mut errors) | Err(mut errors)) = done;
    errors.iter().for_each(|error| session.events.tell(error.into()));
    let tallies = tallies(&session);
    let changes = tallies.values().map(|tally| tally.changes).sum();
    let seconds = session.since.elapsed().as_secs_f64();
    session.events.tell(Event::Done { changes, nodes: tallies.clone(), seconds });
    let Session { events, reconciler, printer, cluster, store, .. } = session;
    let about: Vec<String> =
        reconciler.hosts().iter().filter(|host| !host.excluded).map(|host| host.node.name.clone()).collect();
    drop((events, reconciler));
    let _ = printer.await;
    let is_back = |name: &&String| tallies.get(*name).is_some_and(|t| t.state == NodeState::Converged);
    let left: Vec<&str> = about.iter().filter(|name| !is_back(name)).map(String::as_str).collect();
    if errors.is_empty() && left.is_empty() {
        if !args.json {
            let paths = [store.path(), store.kubeconfig_path()];
            let kept = paths.iter().filter(|path| path.exists()).map(|path| path.display().to_string());
            last_words(&Done { names: names(&about), changes, seconds, kept: kept.collect() });
        }
        return Ok(End::Good);
    }
    if errors.is_empty() || !stopped && !left.is_empty() && (changes > 0 || left.len() < about.len()) {
        let (good, of) = (about.len() - left.len(), count(about.len(), "node"));
        let what = format!(
            "{}: {good} of {of} restored to the earlier state; remaining: {}",
            cluster.name,
            names(&left)
        );
        errors.push(Error::new(Kind::Partial, what).hint(go_on(&errors)));
    }
    Err(errors)
}

/// Returns the hint for the next run, which continues where this one ended. It ends there too, unless the cause of the error is
/// removed first.
fn go_on(errors: &[Error]) -> &'static str {
    let stays = |error: &Error| matches!(error.kind, Kind::Failed | Kind::Refused | Kind::Unknown);
    match errors.iter().any(stays) {
        true => "follow the hint for each remaining node, then run the command again; it resumes",
        false => "run the command again; it resumes",
    }
}

async fn its_name_is_typed(args: &FleetArgs, session: &mut Session, plan: &Plan) -> Result<bool> {
    let cluster = session.cluster.name.clone();
    let leaves = |change: &Change| is_membership(&change.id);
    let leaving = plan.iter().filter(|(_, changes)| changes.iter().any(leaves));
    let leaving: Vec<&str> = leaving.map(|(name, _)| name.as_str()).collect();
    if !leaving.is_empty() && !session.reconciler.staying().is_empty() {
        report::err(&format!(
            "\n{}: pods end without a drain, and the Node stays in {cluster}; `ironstrap remove` avoids both",
            names(&leaving)
        ));
    }
    let question = format!(
        "\nEverything that runs in {cluster} on these machines will be lost. Type the name of the cluster to continue"
    );
    Ok(answer(args, session, || report::ask_for(&question)).await? == cluster)
}

fn farewell(cluster: &str, done: &Done) {
    let (names, seconds) = (&done.names, duration(done.seconds));
    if done.changes == 0 {
        report::err(&format!("✔ nothing of ironstrap is on {names}; no changes, {seconds}"));
    } else {
        let changes = count(done.changes, "change");
        report::err(&format!(
            "✔ restored to the state before {cluster}: {names}; {changes} undone, {seconds}"
        ));
    }
    if !done.kept.is_empty() {
        report::err("");
        report::err(&format!(
            "  rm -r {}        when no machine belongs to {cluster} any more",
            done.kept.join(" ")
        ));
    }
}
