//! How an apply came out: the last events, the last words, the exit code.

use std::collections::BTreeMap;

use super::super::{End, Errors, FleetArgs, Outcome, Start, plan};
use crate::error::{Error, Kind};
use crate::report::alike::names;
use crate::report::{self, Event, NodeState, Tally, count};

/// What a run came to.
struct Sum<'a> {
    cluster: String,
    inventory: String,
    kubeconfig: String,
    nodes: &'a BTreeMap<String, Tally>,
    changes: usize,
    seconds: f64,
    left_out: Option<String>,
    /// Nodes that did not get a change, with the members that it broke.
    held_back: Vec<String>,
    /// What nobody could ask, a line each.
    unchecked: Vec<String>,
}

/// `done`: what went wrong on single nodes; an error: what stopped everything.
pub(super) async fn end(args: &FleetArgs, start: Start, done: Result<Errors, Errors>) -> Outcome {
    let stopped = done.is_err();
    let mut errors = done.unwrap_or_else(|errors| errors);
    if let Err(error) = start.tell_notes() {
        errors.push(error);
    }
    let unchecked = start.work.unchecked().unwrap_or_else(|error| {
        errors.push(error);
        vec![]
    });
    plan::tell_unchecked(&start.events, &unchecked);
    let nodes = tallies(&start);
    let sum = Sum {
        cluster: start.cluster.name.clone(),
        inventory: args.inventory.inventory.display().to_string(),
        kubeconfig: start.store.kubeconfig_path().display().to_string(),
        nodes: &nodes,
        changes: nodes.values().map(|tally| tally.changes).sum(),
        seconds: start.since.elapsed().as_secs_f64(),
        left_out: start.left_out(),
        held_back: held_back(&start),
        unchecked: report::plan::unchecked(&unchecked),
    };
    // The exit code says what stopped the whole run, not how many nodes had converged before.
    let partial = sum.partial().filter(|_| errors.is_empty() || !stopped && sum.came_to_something());
    errors.iter().for_each(|error| start.events.tell(error.into()));
    errors.extend(partial);
    let (changes, seconds) = (sum.changes, sum.seconds);
    start.events.tell(Event::Done { changes, nodes: nodes.clone(), seconds });
    let saving = args.saving(&start);
    drop((start.events, start.work));
    let events = start.printer.await.unwrap_or_default();
    saving.into_iter().for_each(|saving| saving.save(&events, &mut errors));
    if errors.is_empty() && !args.json {
        sum.congratulate();
    }
    if errors.is_empty() { Ok(End::Good) } else { Err(errors) }
}

pub fn tallies(start: &Start) -> BTreeMap<String, Tally> {
    let tally = |member: &crate::reconcile::Member<crate::ssh::Ssh>| {
        let state = match (&member.left, member.pressing) {
            _ if !member.counts() => NodeState::Skipped,
            (Some(_), _) => NodeState::Quarantined,
            (None, 0) => NodeState::Converged,
            (None, _) => NodeState::Drifted,
        };
        (member.node.name.clone(), Tally { execs: member.execs, changes: member.changed.len(), state })
    };
    start.work.members().iter().map(tally).collect()
}

/// A line for all nodes that did not get a change because it broke the same members.
fn held_back(start: &Start) -> Vec<String> {
    let mut held: BTreeMap<&[String], Vec<&str>> = BTreeMap::new();
    for member in start.work.members() {
        held.entry(member.held_back_by()).or_default().push(&member.node.name);
    }
    held.remove(&[] as &[String]);
    let line = |(by, nodes): (&[String], Vec<&str>)| {
        format!(
            "{}: not changed, because the same change broke {}; repair that first, or leave it out with --limit",
            names(nodes),
            names(by)
        )
    };
    held.into_iter().map(line).collect()
}

impl Sum<'_> {
    fn good(&self) -> usize {
        self.nodes.values().filter(|tally| tally.state == NodeState::Converged).count()
    }

    /// How many nodes the run was about.
    fn about(&self) -> usize {
        self.nodes.values().filter(|tally| tally.state != NodeState::Skipped).count()
    }

    fn came_to_something(&self) -> bool {
        self.good() > 0 || self.changes > 0 || !self.held_back.is_empty()
    }

    /// That some nodes are left, if any are.
    fn partial(&self) -> Option<Error> {
        let left = |tally: &Tally| !matches!(tally.state, NodeState::Converged | NodeState::Skipped);
        let left: Vec<&str> =
            self.nodes.iter().filter(|(_, tally)| left(tally)).map(|(name, _)| name.as_str()).collect();
        if left.is_empty() {
            return None;
        }
        let what = format!(
            "{}: {} of {} nodes are what {} says; left: {}",
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
        let what =
            if self.changes == 0 { "nothing changed".to_string() } else { count(self.changes, "change") };
        let (name, inventory) = (&self.cluster, &self.inventory);
        let (nodes, seconds) = (count(self.about(), "node"), duration(self.seconds));
        let (sign, far) =
            if self.unchecked.is_empty() { ("✔ ", "") } else { ("", ", as far as it was checked") };
        report::err(&match &self.left_out {
            None => format!("{sign}{name} is what {inventory} says{far}: {nodes}, {what}, {seconds}"),
            Some(left_out) => {
                format!(
                    "{sign}{name}, as far as these {nodes}, is what {inventory} says{far}: {what}, {seconds}\n  {left_out}"
                )
            }
        });
        self.unchecked.iter().for_each(|line| report::err(line));
        if self.changes > 0 {
            report::err("");
            report::err(&format!("  kubectl --kubeconfig {} get nodes        talk to it", self.kubeconfig));
            report::err(&format!("  ironstrap plan -i {inventory}        see what drifted, any day"));
        }
    }
}

pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 60.0 => format!("{s:.1} s"),
        s => format!("{} min {} s", (s / 60.0) as u64, (s % 60.0) as u64),
    }
}
