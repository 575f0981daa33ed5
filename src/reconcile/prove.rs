//! At the end of a run that changed something: nodes without a pod are asked, too, by a pod that is made for it. And what was
//! not asked in the end, or still waits for something.

use std::collections::BTreeSet;

use super::reading::Reading;
use super::work::Wrong;
use super::{Fleetwork, Member};
use crate::cluster::Node;
use crate::error::{Error, Kind, Result};
use crate::machine::Machine;
use crate::plan::{self, Change, State, Unchecked};
use crate::probe::Answer;
use crate::report::count;
use crate::shell::Shell;
use crate::steps::packets;

/// What the run has made sure of.
#[derive(Default)]
pub(super) struct Proof {
    /// How many scripts of fixes had ended when it was done. More since then: it counts no longer.
    after: Option<usize>,
    /// Wants of nodes whose pods answered.
    of: BTreeSet<String>,
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
    pub(super) fn proved(&mut self, done: Option<&[String]>) {
        self.proof = match done {
            Some(done) => Proof { after: Some(self.fixes), of: done.iter().cloned().collect() },
            None => Proof::default(),
        };
    }

    /// Nothing more is done where the fault is. A control plane that asks others finds faults of theirs, and goes on without them.
    /// What a worker says of others counts for nothing.
    pub(super) fn blame(&mut self, i: usize, wrong: Wrong) {
        let (asker, began) = (self.members[i].node.name.clone(), self.members[i].work.began);
        let at_fault = |member: &Member<S>| {
            let of = |(node, _): &&(String, String)| *node == member.node.name;
            wrong.faults.iter().find(of).filter(|_| member.left.is_none() && !member.spared)
        };
        let faults: Vec<(usize, String)> = (0..self.members.len())
            .filter_map(|k| Some((k, at_fault(&self.members[k])?.1.clone())))
            .collect();
        let is_believed = self.members[i].node.is_control_plane();
        if !is_believed || faults.is_empty() || faults.iter().any(|(k, _)| *k == i) {
            return self.members[i].leave(wrong);
        }
        for (k, what) in faults {
            let member = &mut self.members[k];
            let error = Error::new(Kind::Failed, format!("{}: {what}", packets::STEP.name));
            // The words are a sign in `diagnosis`.
            let how = if what == packets::made::SILENT { "it did not answer" } else { "found from" };
            let error = error.on(&member.node.name).because(format!("{how} {asker}"));
            let error = error.hint("repair that on this machine, then run it again: it goes on from here");
            member.work.began = member.work.began.or(began);
            member.leave(Wrong { error, about: vec![asker.clone()], faults: vec![] });
        }
    }

    /// Wants of which nobody could be asked whether they hold, and the node that was to ask.
    pub fn unchecked(&self) -> Result<Vec<(String, Unchecked)>> {
        let (fleet, mut all) = (self.fleet(), Vec::new());
        for (i, member) in self.members.iter().enumerate().filter(|(_, member)| !member.spared) {
            let found = self.read_in(i, &fleet, plan::unchecked)?.into_iter().flatten();
            let open = found.filter(|one| !self.proof.of.contains(&one.that));
            all.extend(open.map(|one| (member.node.name.clone(), one)));
        }
        Ok(all)
    }

    /// Errors for wants that wait for something that never came, one for each node that was asked about them. A node that was
    /// left has an error of its own, and `--limit` names the nodes that it leaves out: what waits for those is not repeated.
    pub fn unmet(&self) -> Result<Vec<Error>> {
        let (fleet, mut errors) = (self.fleet(), Vec::new());
        let explained = |for_what: &str| {
            let mut gone = self.members.iter().filter(|member| member.left.is_some() || member.spared);
            gone.any(|member| for_what.split([' ', ',']).any(|word| word == member.node.name))
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ledger::Run;
    use crate::pki::tests::{cluster, trust};
    use crate::report::Events;
    use crate::shell::{Output, Sh};

    struct Nobody;

    impl Shell for Nobody {
        async fn run(&self, _: &Sh, _: &mut (dyn FnMut(&[u8]) + Send)) -> Result<Output> {
            Ok(Output::default())
        }
    }

    /// The errors that nodes are left with after this one found these faults.
    fn errors(asker: usize, faults: &[(&str, &str)]) -> Vec<Error> {
        let (events, _told) = Events::channel();
        let cluster = Arc::new(cluster());
        let shells: Vec<Nobody> = cluster.nodes.iter().map(|_| Nobody).collect();
        let run = Run::new("1f", "me@here");
        let mut work = Fleetwork::new(cluster, &[], trust(), shells, run, events).unwrap();
        let faults = faults.iter().map(|(node, what)| (node.to_string(), what.to_string())).collect();
        let error = Error::new(Kind::Failed, "packets: could not ask").on(&work.members[asker].node.name);
        work.blame(asker, Wrong { error, about: vec![], faults });
        work.members.iter().filter_map(|member| member.left.clone()).collect()
    }

    fn left(faults: &[(&str, &str)]) -> Vec<(String, String)> {
        errors(0, faults).into_iter().map(|error| (error.node.unwrap(), error.what)).collect()
    }

    #[test]
    fn the_machine_at_fault_is_left_and_not_the_one_that_noticed() {
        let own = |node: &str, what: &str| (node.to_string(), what.to_string());
        assert_eq!(left(&[("w1", "no new pod starts: x")]), [own("w1", "packets: no new pod starts: x")]);
        assert_eq!(errors(0, &[("w1", packets::made::SILENT)])[0].cause, ["it did not answer m1"]);
        let asker = [own("m1", "packets: could not ask")];
        assert_eq!(left(&[]), asker);
        assert_eq!(left(&[("elsewhere", "x")]), asker, "no machine of this run");
        assert_eq!(left(&[("m1", "x"), ("w1", "x")]), asker, "what asks has a fault itself");
        let w1 = cluster().nodes.iter().position(|node| node.name == "w1").unwrap();
        let worker = errors(w1, &[("m1", "no new pod starts: x")]);
        assert_eq!(worker.iter().map(|error| error.node.as_deref()).collect::<Vec<_>>(), [Some("w1")]);
    }
}
