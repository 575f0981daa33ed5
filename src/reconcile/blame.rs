//! Where the fault is when a fix went wrong. A control plane speaks for the cluster, and finds faults of others: those are
//! quarantined, and the cluster's stages go on without them. What a worker says of others counts for nothing.

use super::work::Wrong;
use super::{Fleetwork, Member, Reading};
use crate::diagnosis;
use crate::error::{Error, Kind};
use crate::fleet::Blocked;
use crate::plan::{Change, State};
use crate::shell::Shell;
use crate::steps::{Via, packets};

impl<S: Shell> Fleetwork<S> {
    /// Nothing more is done where the fault is. A control plane that asks others finds faults of theirs, and goes on without them.
    /// What a worker says of others counts for nothing.
    pub(super) fn blame(&mut self, i: usize, stage: Option<usize>, wrong: Wrong) {
        if wrong.faults.is_empty() && wrong.error.kind == Kind::Failed && self.is_of_workers(i, stage, &wrong)
        {
            // Which it is, the next answers tell: if the API server does not answer, the workers are not to blame.
            self.members[i].work.suspected = Some(wrong);
            return;
        }
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
        let step = wrong.error.what.split(':').next().unwrap_or_default().to_string();
        for (k, what) in faults {
            let member = &mut self.members[k];
            let error = Error::new(Kind::Failed, format!("{step}: {what}"));
            // The words are a sign in `diagnosis`.
            let how = match what == packets::made::SILENT {
                true => diagnosis::got_no_answer(&asker),
                false => format!("found from {asker}"),
            };
            let error = error.on(&member.node.name).because(how);
            let name = &member.node.name;
            let error = error.hint(format!("repair that on {name}, then run it again: it goes on from here"));
            member.work.began = member.work.began.or(began);
            member.leave(Wrong { about: vec![asker.clone()], ..Wrong::from(error) });
        }
    }

    /// Whether a control plane found what is about workers of this run, and about nothing else.
    fn is_of_workers(&self, i: usize, stage: Option<usize>, wrong: &Wrong) -> bool {
        let speaks =
            stage.is_some_and(|t| self.stages[t].via == Via::Api) && self.members[i].node.is_control_plane();
        let is_worker = |name: &String| {
            let mut members = self.members.iter();
            members.any(|m| m.node.name == *name && !m.node.is_control_plane() && !m.spared)
        };
        self.reading == Reading::Forwards
            && speaks
            && wrong.want.is_some()
            && !wrong.about.is_empty()
            && wrong.about.iter().all(is_worker)
    }

    /// A machine was asked again after something about workers went wrong: they are quarantined if its API server answers.
    pub(super) fn judge_suspected(&mut self, i: usize) {
        let Some(wrong) = self.members[i].work.suspected.take() else { return };
        match self.members[i].api_answers {
            true => self.quarantine(i, wrong),
            false if self.members[i].left.is_none() => self.members[i].leave(wrong),
            false => {}
        }
    }

    /// Something about workers is stuck, or left to a human, as a control plane sees it whose API server answers.
    pub(super) fn leave_stuck(&mut self, i: usize, t: usize, wrong: Wrong) {
        let known = matches!(wrong.error.kind, Kind::Failed | Kind::Refused);
        match known && self.is_of_workers(i, Some(t), &wrong) {
            true => self.quarantine(i, wrong),
            false => self.members[i].leave(wrong),
        }
    }

    /// Nothing more is done on the workers that this is about. What went wrong is not tried again in this run.
    fn quarantine(&mut self, i: usize, wrong: Wrong) {
        let (asker, began) = (self.members[i].node.name.clone(), self.members[i].work.began);
        self.given_up.extend(wrong.want);
        for member in self.members.iter_mut().filter(|member| wrong.about.contains(&member.node.name)) {
            let error = wrong.error.clone().on(&member.node.name).because(format!("found from {asker}"));
            if member.left.is_some() {
                member.unfit.push(error);
                continue;
            }
            member.work.began = began;
            member.leave(error.into());
        }
    }

    /// What went wrong with a quarantined worker waits for somebody to repair that.
    pub(super) fn waits_for_repair(&self, change: &mut Change) {
        if self.given_up.contains(&change.id) {
            change.state = State::Waits(Blocked::until_all(&change.about, "to be mended"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::error::Result;
    use crate::ledger::Run;
    use crate::machine::Machine;
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
        work.blame(asker, None, Wrong { faults, ..Wrong::from(error) });
        work.members.iter().filter_map(|member| member.left.clone()).collect()
    }

    fn left(faults: &[(&str, &str)]) -> Vec<(String, String)> {
        errors(0, faults).into_iter().map(|error| (error.node.unwrap(), error.what)).collect()
    }

    #[test]
    fn the_machine_at_fault_is_left_and_not_the_one_that_noticed() {
        let own = |node: &str, what: &str| (node.to_string(), what.to_string());
        assert_eq!(left(&[("w1", "no new pod starts: x")]), [own("w1", "packets: no new pod starts: x")]);
        assert_eq!(errors(0, &[("w1", packets::made::SILENT)])[0].cause, ["m1 got no answer from it"]);
        let asker = [own("m1", "packets: could not ask")];
        assert_eq!(left(&[]), asker);
        assert_eq!(left(&[("elsewhere", "x")]), asker, "no machine of this run");
        assert_eq!(left(&[("m1", "x"), ("w1", "x")]), asker, "what asks has a fault itself");
        let w1 = cluster().nodes.iter().position(|node| node.name == "w1").unwrap();
        let worker = errors(w1, &[("m1", "no new pod starts: x")]);
        assert_eq!(worker.iter().map(|error| error.node.as_deref()).collect::<Vec<_>>(), [Some("w1")]);
    }

    #[test]
    fn a_clock_that_is_ahead_moves_no_kubelets_start_into_the_future() {
        let (events, _told) = Events::channel();
        let cluster = Arc::new(cluster());
        let shells: Vec<Nobody> = cluster.nodes.iter().map(|_| Nobody).collect();
        let mut work =
            Fleetwork::new(cluster, &[], trust(), shells, Run::new("1f", "me@here"), events).unwrap();
        let now = time::OffsetDateTime::now_utc().unix_timestamp();
        let ahead = Machine { clock: now as f64 + 1e9, kubelet_age: Some(5.0), ..Machine::default() };
        work.members[0].machine = Some(ahead);
        let since = work.fleet().kubelets[&work.members[0].node.name];
        assert!((now..now + 120).contains(&since), "{since}");
    }
}
