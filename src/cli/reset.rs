//! `reset`: ask, show what goes and what comes back, ask the user for the cluster's name, do it, and say what is left.
//! `remove` is the same with more before it.

use std::io::IsTerminal;

use clap::Args;

use super::apply::ending::{duration, tallies};
use super::{End, Errors, FleetArgs, Outcome, Start, Taking, apply, interrupted, one};
use crate::error::{Error, Kind, Result, indented};
use crate::plan::Change;
use crate::reconcile::Reading;
use crate::report::alike::names;
use crate::report::{self, Event, NodeState, Typed, count};

#[derive(Args)]
pub(super) struct Reset {
    /// The nodes to reset: w1 w3, or a range as in w[1-3]. Without any, all nodes of the inventory.
    #[arg(value_name = "NODE")]
    nodes: Vec<String>,
    #[command(flatten)]
    fleet: FleetArgs,
    #[command(flatten)]
    taking: Taking,
    /// Do not ask for the name of the cluster as a confirmation.
    #[arg(long, short)]
    yes: bool,
}

pub(super) type Plan = [(String, Vec<Change>)];

/// What a way back came to, for its last words.
pub(super) struct Done {
    /// The machines that went back, with commas.
    pub names: String,
    pub changes: usize,
    pub seconds: f64,
    /// What is still beside the inventory.
    pub kept: Vec<String>,
}

pub(super) async fn reset(args: &Reset) -> Outcome {
    let fleet = &args.fleet;
    let start = fleet.start_reading(Reading::Backwards, fleet.style(), &args.nodes, None).await;
    let mut start = start.map_err(one)?;
    let cluster = start.cluster.name.clone();
    let done = under_lock((fleet, &args.taking), &mut start, async |start, plan| match args.yes {
        true => Ok(true),
        false => its_name_is_typed(fleet, start, plan).await,
    });
    let done = done.await;
    end(fleet, start, done, |done| farewell(&cluster, done)).await
}

/// The work itself; gives back what went wrong on single nodes. `Err` means that nothing was done at all, or that
/// everything stopped. `wanted`: whether the user wants what the plan says.
pub(super) async fn under_lock(
    (args, taking): (&FleetArgs, &Taking),
    start: &mut Start,
    wanted: impl AsyncFnOnce(&mut Start, &Plan) -> Result<bool>,
) -> std::result::Result<Errors, Errors> {
    let lock = start.store.lock().map_err(one)?;
    start.recognize(&lock, taking).map_err(one)?;
    let path = start.store.path().display().to_string();
    let survey = start.work.objections((&path, start.kept)).map_err(one)?;
    let blocked = if survey.blocked { survey.errors.clone() } else { start.work.others() };
    if let Some(kind) = blocked.last().map(|error| error.kind) {
        let untouched = Error::new(kind, format!("{}: nothing was changed on any node", start.cluster.name));
        return Err(blocked.into_iter().chain([untouched]).collect());
    }
    let plan = start.work.plan().map_err(one)?;
    let left = left(start);
    if plan.iter().all(|(_, changes)| changes.is_empty()) {
        return Ok(left);
    }
    if !args.json {
        let lines = if args.verbose { report::plan::lines } else { report::plan::brief };
        lines(&plan, &start.cluster.nodes).iter().for_each(|line| report::out(line));
        left.iter().for_each(|error| report::err(&stays(error)));
    }
    if !wanted(start, &plan).await.map_err(one)? {
        return Err(one(Error::new(Kind::Interrupted, "nothing was changed")));
    }
    start.introduce(&lock, taking).map_err(one)?;
    let done = apply::carry_out(start).await;
    let mut errors = self::left(start);
    match done {
        Ok(()) => Ok(errors),
        Err(error) => {
            errors.push(error);
            Err(errors)
        }
    }
}

/// What the machines are left for that this run is about.
fn left(start: &Start) -> Errors {
    start.about().filter_map(|member| member.left.clone()).collect()
}

/// The line of a machine that is left, below the plan for the others.
fn stays(error: &Error) -> String {
    let node = error.node.as_deref().unwrap_or_default();
    indented(&format!("{node} stays as it is: {}", error.what))
}

/// The answer to a question, where somebody sits at the terminal.
pub(super) async fn answer<T: Default>(
    args: &FleetArgs,
    start: &mut Start,
    ask: impl FnOnce() -> Typed<T>,
) -> Result<T> {
    if args.json || !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        let error = Error::new(Kind::Refused, "this cannot be undone, and there is nobody to ask");
        return Err(error.hint("say --yes"));
    }
    tokio::select! {
        answer = ask() => match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(Error::new(Kind::Local, "cannot read the answer").because(error.to_string())),
            Err(_) => Ok(T::default()),
        },
        error = interrupted(&mut start.interrupts) => Err(error),
    }
}

/// Tells how it came out.
pub(super) async fn end(
    args: &FleetArgs,
    start: Start,
    done: std::result::Result<Errors, Errors>,
    last_words: impl FnOnce(&Done),
) -> Outcome {
    let stopped = done.is_err();
    let (Ok(mut errors) | Err(mut errors)) = done;
    errors.iter().for_each(|error| start.events.tell(error.into()));
    let tallies = tallies(&start);
    let changes = tallies.values().map(|tally| tally.changes).sum();
    let seconds = start.since.elapsed().as_secs_f64();
    start.events.tell(Event::Done { changes, nodes: tallies.clone(), seconds });
    let Start { events, work, printer, cluster, store, .. } = start;
    let about: Vec<String> = work
        .members()
        .iter()
        .filter(|member| !member.spared)
        .map(|member| member.node.name.clone())
        .collect();
    drop((events, work));
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
        let what = format!("{}: {good} of {of} as before; left: {}", cluster.name, names(&left));
        errors.push(Error::new(Kind::Partial, what).hint(go_on(&errors)));
    }
    Err(errors)
}

/// Another run goes on where this one ended; but it ends there, too, where what it ended with stays as it is.
fn go_on(errors: &[Error]) -> &'static str {
    let stays = |error: &Error| matches!(error.kind, Kind::Failed | Kind::Refused | Kind::Unknown);
    match errors.iter().any(stays) {
        true => {
            "do first what is said above for each node that is left; then run it again: it goes on from here"
        }
        false => "run it again: it goes on from here",
    }
}

async fn its_name_is_typed(args: &FleetArgs, start: &mut Start, plan: &Plan) -> Result<bool> {
    let cluster = start.cluster.name.clone();
    let leaving = plan.iter().filter(|(_, changes)| changes.iter().any(|change| change.step == "member"));
    let leaving: Vec<&str> = leaving.map(|(name, _)| name.as_str()).collect();
    if !leaving.is_empty() && !start.work.staying().is_empty() {
        report::err(&format!(
            "\n{}: its pods end without a drain, and {cluster} goes on counting it; `ironstrap remove` avoids both",
            names(&leaving)
        ));
    }
    let question = format!("\nWhat runs in {cluster} on these machines is lost. Type its name to go ahead");
    Ok(answer(args, start, || report::ask_for(&question)).await? == cluster)
}

fn farewell(cluster: &str, done: &Done) {
    let (names, seconds) = (&done.names, duration(done.seconds));
    if done.changes == 0 {
        report::err(&format!("✔ nothing of ironstrap is on {names}; nothing changed, {seconds}"));
    } else {
        let changes = count(done.changes, "change");
        report::err(&format!("✔ as before {cluster}: {names}; {changes} taken back, {seconds}"));
    }
    if !done.kept.is_empty() {
        report::err("");
        report::err(&format!(
            "  rm -r {}        once no machine belongs to {cluster} any more",
            done.kept.join(" ")
        ));
    }
}
