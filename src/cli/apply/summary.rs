//! The result of an apply: the last events, the last messages, and the exit code.

use std::collections::BTreeMap;

use super::super::{End, Errors, FleetArgs, Outcome, Session, plan};
use crate::error::{Error, Kind};
use crate::report::group::names;
use crate::report::{self, Event, NodeState, Tally, count};

/// The result of a run.
struct Sum<'a> {
    cluster: String,
    inventory: String,
    kubeconfig: String,
    nodes: &'a BTreeMap<String, Tally>,
    changes: usize,
    seconds: f64,
    left_out: Option<String>,
    /// Nodes that did not get a change, with the members that the change broke.
    held_back: Vec<String>,
    /// The wants that nobody could check, one line each.
    unchecked: Vec<String>,
}

/// Ends an apply. `done`: what went wrong on single nodes, or the error that stopped everything.
pub(super) async fn end(args: &FleetArgs, session: Session, done: Result<Errors, Errors>) -> Outcome {
    let stopped = done.is_err();
    let mut errors = done.unwrap_or_else(|errors| errors);
    if let Err(error) = session.tell_notes() {
        errors.push(error);
    }
    let unchecked = session.reconciler.unchecked().unwrap_or_else(|error| {
        errors.push(error);
        vec![]
    });
    plan::tell_unchecked(&session.events, &unchecked);
    let nodes = tallies(&session);
    let sum = Sum {
        cluster: session.cluster.name.clone(),
        inventory: args.inventory.inventory.display().to_string(),
        kubeconfig: session.store.kubeconfig_path().display().to_string(),
        nodes: &nodes,
        changes: nodes.values().map(|tally| tally.changes).sum(),
        seconds: session.since.elapsed().as_secs_f64(),
        left_out: session.left_out(),
        held_back: held_back(&session),
        unchecked: report::plan::unchecked(&unchecked),
    };
    // The exit code says what stopped the whole run, not how many nodes had converged before.
    let partial = sum.partial().filter(|_| errors.is_empty() || !stopped && sum.came_to_something());
    errors.iter().for_each(|error| session.events.tell(error.into()));
    errors.extend(partial);
    let (changes, seconds) = (sum.changes, sum.seconds);
    session.events.tell(Event::Done { changes, nodes: nodes.clone(), seconds });
    let saving = args.saving(&session);
    drop((session.events, session.reconciler));
    let events = session.printer.await.unwrap_or_default();
    saving.into_iter().for_each(|saving| saving.save(&events, &mut errors));
    if errors.is_empty() && !args.json {
        sum.congratulate();
    }
    if errors.is_empty() { Ok(End::Good) } else { Err(errors) }
}

pub fn tallies(session: &Session) -> BTreeMap<String, Tally> {
    let tally = |host: &crate::reconcile::Host<crate::ssh::Ssh>| {
        let state = match (&host.quarantined, host.pending) {
            _ if !host.is_affected() => NodeState::Skipped,
            (Some(_), _) => NodeState::Quarantined,
            (None, 0) => NodeState::Converged,
            (None, _) => NodeState::Drifted,
        };
        (host.node.name.clone(), Tally { execs: host.execs, changes: host.changed.len(), state })
    };
    session.reconciler.hosts().iter().map(tally).collect()
}

/// Returns a line for all nodes that did not get a change because it broke the same members.
fn held_back(session: &Session) -> Vec<String> {
    let mut held: BTreeMap<&[String], Vec<&str>> = BTreeMap::new();
    for host in session.reconciler.hosts() {
        held.entry(host.held_back_by()).or_default().push(&host.node.name);
    }
    held.remove(&[] as &[String]);
    let line = |(by, nodes): (&[String], Vec<&str>)| {
        format!(
            "{}: not changed, because the same change broke {by}; repair {by} first, or exclude {by} with --limit",
            names(nodes),
            by = names(by)
        )
    };
    held.into_iter().map(line).collect()
}

impl Sum<'_> {
    fn good(&self) -> usize {
        self.nodes.values().filter(|tally| tally.state == NodeState::Converged).count()
    }

    /// Returns how many nodes the run was about.
    fn about(&self) -> usize {
        self.nodes.values().filter(|tally| tally.state != NodeState::Skipped).count()
    }

    fn came_to_something(&self) -> bool {
        self.good() > 0 || self.changes > 0 || !self.held_back.is_empty()
    }

    /// Returns an error that names the nodes that do not match the inventory, if there are any.
    fn partial(&self) -> Option<Error> {
        let left = |tally: &Tally| !matches!(tally.state, NodeState::Converged | NodeState::Skipped);
        let left: Vec<&str> =
            self.nodes.iter().filter(|(_, tally)| left(tally)).map(|(name, _)| name.as_str()).collect();
        if left.is_empty() {
            return None;
        }
        let what = format!(
            "{}: {} of {} nodes match {}; remaining: {}",
            self.cluster,
            self.good(),
            self.about(),
            self.inventory,
            names(left)
        );
        let error = Error::new(Kind::Partial, what);
        let more = self.held_back.iter().chain(&self.left_out).chain(&self.unchecked);
        Some(more.fold(error, |error, words| error.because(words.trim_start())))
    }

    fn congratulate(&self) {
        let what = if self.changes == 0 { "no changes".to_string() } else { count(self.changes, "change") };
        let (name, inventory) = (&self.cluster, &self.inventory);
        let (nodes, seconds) = (count(self.about(), "node"), duration(self.seconds));
        let (sign, far) = if self.unchecked.is_empty() {
            ("✔ ", "")
        } else {
            ("", ", except for checks that could not run")
        };
        report::err(&match &self.left_out {
            None => format!("{sign}{name} matches {inventory}{far}: {nodes}, {what}, {seconds}"),
            Some(left_out) => {
                let match_ = if self.about() == 1 { "matches" } else { "match" };
                format!("{sign}{nodes} of {name} {match_} {inventory}{far}: {what}, {seconds}\n  {left_out}")
            }
        });
        self.unchecked.iter().for_each(|line| report::err(line));
        if self.changes > 0 {
            report::err("");
            report::err(&format!(
                "  list the nodes:          kubectl --kubeconfig {} get nodes",
                self.kubeconfig
            ));
            report::err(&format!("  show drift at any time:  ironstrap plan -i {inventory}"));
        }
    }
}

pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 60.0 => format!("{s:.1} s"),
        s => format!("{} min {} s", (s / 60.0) as u64, (s % 60.0) as u64),
    }
}
