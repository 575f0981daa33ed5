//! At the end of a run that changed something: nodes without a pod are asked, too, by a pod that is made for it. And what was
//! not asked in the end, or still waits for something.

use std::collections::BTreeSet;

use super::Fleetwork;
use super::reading::Reading;
use crate::cluster::Node;
use crate::error::{Error, Kind, Result};
use crate::fleet::Blocked;
use crate::machine::Machine;
use crate::plan::{self, Change, State, Unchecked};
use crate::probe::Answer;
use crate::report::count;
use crate::shell::Shell;
use crate::step::Id;
use crate::steps::packets;

/// What the run has made sure of.
#[derive(Default)]
pub(super) struct Proof {
    /// How many scripts of fixes had ended when it was done. More since then: it counts no longer.
    after: Option<usize>,
    /// Wants of nodes whose pods answered.
    of: BTreeSet<Id>,
}

impl<S: Shell> Fleetwork<S> {
    /// What is still to be asked by the control plane that speaks for the cluster, and in which stage.
    pub(super) fn to_prove(&self, i: usize) -> Option<(usize, Change)> {
        let member = &self.members[i];
        let asks = |t: &usize| self.stages[*t].steps.iter().any(|step| step.name == packets::STEP.name);
        let stage = (0..self.stages.len()).find(asks)?;
        let owed = self.fixes > 0 && self.proof.after != Some(self.fixes);
        if !owed || self.reading != Reading::Forwards || member.spared {
            return None;
        }
        let fit = self.members.iter().filter(|m| m.left.is_none() && !m.spared);
        let members = fit.filter(|m| m.machine.as_ref().is_some_and(Machine::is_member));
        let nodes: Vec<&Node> = members.map(|m| &m.node).collect();
        let changed = self.members.iter().filter(|m| !m.changed.is_empty()).map(|m| &m.node);
        let changed: Vec<&Node> = changed.collect();
        let want = packets::made::asked(&self.cluster, &member.node, &nodes, &changed)?;
        let judged = (&packets::STEP, &want, &Answer::Said("not asked".into()));
        let change = plan::changes(&[judged], &mut BTreeSet::new()).pop()?;
        Some((stage, change))
    }

    /// Takes in that fixes ended: those that prove, or others, after which nothing is proved any more.
    pub(super) fn proved(&mut self, done: Option<&[Id]>) {
        self.proof = match done {
            Some(done) => Proof { after: Some(self.fixes), of: done.iter().cloned().collect() },
            None => Proof::default(),
        };
    }

    /// Wants of which nobody could be asked whether they hold, and the node that was to ask.
    pub fn unchecked(&self) -> Result<Vec<(String, Unchecked)>> {
        let (fleet, mut all) = (self.fleet(), Vec::new());
        for (i, member) in self.members.iter().enumerate().filter(|(_, member)| !member.spared) {
            let found = self.read_in(i, &fleet, plan::unchecked)?.into_iter().flatten();
            let open = found.filter(|one| !self.proof.of.contains(&one.id));
            all.extend(open.map(|one| (member.node.name.clone(), one)));
        }
        Ok(all)
    }

    /// Errors for wants that wait for something that never came, one for each node that was asked about them. A node that was
    /// left has an error of its own, and `--limit` names the nodes that it leaves out: what waits for those is not repeated.
    pub fn unmet(&self) -> Result<Vec<Error>> {
        let (fleet, mut errors) = (self.fleet(), Vec::new());
        let explained = |for_what: &Blocked| {
            let mut gone = self.members.iter().filter(|member| member.left.is_some() || member.spared);
            gone.any(|member| for_what.on.contains(&member.node.name))
        };
        for (i, member) in self.members.iter().enumerate() {
            if member.left.is_some() || member.work.stale {
                continue;
            }
            let changes: Vec<Change> = self.judge_in(i, &fleet)?.into_iter().flatten().collect();
            let waits = |change: &Change| match &change.state {
                State::Waits(for_what) if !explained(for_what) => {
                    Some(format!("{}: {}, which waits for {for_what}", change.step, change.that))
                }
                _ => None,
            };
            errors.extend(unfinished(&member.node.name, changes.iter().filter_map(waits).collect()));
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
    (!waiting.is_empty()).then(|| error.hint("run the command again; it continues from here"))
}
