//! Network probes at the end of a run that changed something. ironstrap also asks nodes without a pod, by a pod that it
//! makes for this. The module also reports what was not asked in the end, or still waits for something.

use std::collections::BTreeSet;

use super::Reconciler;
use super::reading::Operation;
use crate::cluster::Node;
use crate::error::{Error, Kind, Result};
use crate::fleet::Blocked;
use crate::machine::Machine;
use crate::plan::{self, Change, State, Unchecked};
use crate::report::count;
use crate::shell::Shell;
use crate::step::{Answer, Id};
use crate::steps::packets;

/// The results of the network probes of this run.
#[derive(Default)]
pub(super) struct Proof {
    /// How many scripts of fixes had ended when the probe ended. If more have ended since then, the results no longer
    /// count.
    after: Option<usize>,
    /// The wants of nodes whose pods answered.
    of: BTreeSet<Id>,
}

impl<S: Shell> Reconciler<S> {
    /// The network probe that the API host still has to make, and its stage. `None` if it has nothing to prove.
    pub(super) fn to_prove(&self, i: usize) -> Option<(usize, Change)> {
        let host = &self.hosts[i];
        let asks = |t: &usize| self.stages[*t].steps.iter().any(|step| step.name == packets::STEP.name);
        let stage = (0..self.stages.len()).find(asks)?;
        let owed = self.fixes > 0 && self.proof.after != Some(self.fixes);
        if !owed || self.operation != Operation::Apply || host.excluded {
            return None;
        }
        let fit = self.hosts.iter().filter(|m| m.quarantined.is_none() && !m.excluded);
        let hosts = fit.filter(|m| m.machine.as_ref().is_some_and(Machine::is_member));
        let nodes: Vec<&Node> = hosts.map(|m| &m.node).collect();
        let changed = self.hosts.iter().filter(|m| !m.changed.is_empty()).map(|m| &m.node);
        let changed: Vec<&Node> = changed.collect();
        let want = packets::made::asked(&self.cluster, &host.node, &nodes, &changed)?;
        let judged = (&packets::STEP, &want, &Answer::Said("not asked".into()));
        let change = plan::changes(&[judged], &mut BTreeSet::new()).pop()?;
        Some((stage, change))
    }

    /// Records that a script of fixes ended. If it was the network probe, `done` is its result. After any other script,
    /// nothing is proven any more.
    pub(super) fn proved(&mut self, done: Option<&[Id]>) {
        self.proof = match done {
            Some(done) => Proof { after: Some(self.fixes), of: done.iter().cloned().collect() },
            None => Proof::default(),
        };
    }

    /// The wants that nothing could check, each with the node that was to ask.
    pub fn unchecked(&self) -> Result<Vec<(String, Unchecked)>> {
        let (fleet, mut all) = (self.fleet(), Vec::new());
        for (i, host) in self.hosts.iter().enumerate().filter(|(_, host)| !host.excluded) {
            let found = self.read_in(i, &fleet, plan::unchecked)?.into_iter().flatten();
            let open = found.filter(|one| !self.proof.of.contains(&one.id));
            all.extend(open.map(|one| (host.node.name.clone(), one)));
        }
        Ok(all)
    }

    /// Errors for wants that wait for something that never came, one for each node that was asked about them. Wants that
    /// wait for a quarantined or excluded node are not repeated here. A quarantined node has an error of its own, and
    /// `--limit` names the nodes that it excludes.
    pub fn unmet(&self) -> Result<Vec<Error>> {
        let (fleet, mut errors) = (self.fleet(), Vec::new());
        let explained = |for_what: &Blocked| {
            let mut gone = self.hosts.iter().filter(|host| host.quarantined.is_some() || host.excluded);
            gone.any(|host| for_what.on.contains(&host.node.name))
        };
        for (i, host) in self.hosts.iter().enumerate() {
            if host.quarantined.is_some() || host.progress.stale {
                continue;
            }
            let changes: Vec<Change> = self.judge_in(i, &fleet)?.into_iter().flatten().collect();
            let waits = |change: &Change| match &change.state {
                State::Waits(for_what) if !explained(for_what) => {
                    Some(format!("{}: {} (waits for {for_what})", change.step, change.that))
                }
                _ => None,
            };
            errors.extend(unfinished(&host.node.name, changes.iter().filter_map(waits).collect()));
        }
        Ok(errors)
    }
}

/// How many wants an error names.
const NAMED: usize = 8;

fn unfinished(node: &str, waiting: Vec<String>) -> Option<Error> {
    let what = format!("{} still pending", count(waiting.len(), "check"));
    let error = Error::new(Kind::Partial, what).on(node);
    let error = waiting.iter().take(NAMED).fold(error, Error::because);
    let more = waiting.len().saturating_sub(NAMED);
    let error = if more > 0 { error.because(format!("… and {more} more")) } else { error };
    (!waiting.is_empty()).then(|| error.hint("run the command again; it resumes"))
}
