//! Decides which machine is at fault when a fix fails. A control plane that fixes something for the cluster finds faults of
//! other machines. ironstrap quarantines those, and the cluster's stages go on without them. The word of a worker about
//! other machines counts for nothing.

use super::work::Failure;
use super::{Host, Operation, Reconciler};
use crate::diagnosis;
use crate::error::{Error, Kind};
use crate::fleet::Blocked;
use crate::plan::{Change, State};
use crate::shell::Shell;
use crate::steps::{Via, packets};

impl<S: Shell> Reconciler<S> {
    /// Quarantines the machines that are at fault. A control plane that asks other machines finds their faults, and goes on
    /// without them. The word of a worker about others counts for nothing.
    pub(super) fn blame(&mut self, i: usize, stage: Option<usize>, failure: Failure) {
        if failure.faults.is_empty()
            && failure.error.kind == Kind::Failed
            && self.is_of_workers(i, stage, &failure)
        {
            // The next answers tell which machine is at fault. If the API server does not answer, the workers are not to
            // blame.
            self.hosts[i].progress.suspected = Some(failure);
            return;
        }
        let (asker, began) = (self.hosts[i].node.name.clone(), self.hosts[i].progress.began);
        let at_fault = |host: &Host<S>| {
            let of = |(node, _): &&(String, String)| *node == host.node.name;
            failure.faults.iter().find(of).filter(|_| host.quarantined.is_none() && !host.excluded)
        };
        let faults: Vec<(usize, String)> =
            (0..self.hosts.len()).filter_map(|k| Some((k, at_fault(&self.hosts[k])?.1.clone()))).collect();
        let is_believed = self.hosts[i].node.is_control_plane();
        if !is_believed || faults.is_empty() || faults.iter().any(|(k, _)| *k == i) {
            return self.hosts[i].quarantine_and_ask_why(failure);
        }
        let step = failure.error.what.split(':').next().unwrap_or_default().to_string();
        for (k, what) in faults {
            let host = &mut self.hosts[k];
            let error = Error::new(Kind::Failed, format!("{step}: {what}"));
            // `diagnosis` recognizes these words as a sign.
            let how = match what == packets::made::SILENT {
                true => diagnosis::got_no_answer(&asker),
                false => format!("detected from {asker}"),
            };
            let error = error.on(&host.node.name).because(how);
            let name = &host.node.name;
            let error = error.hint(format!("repair {name} and run the command again; it resumes"));
            host.progress.began = host.progress.began.or(began);
            host.quarantine_and_ask_why(Failure { about: vec![asker.clone()], ..Failure::from(error) });
        }
    }

    /// Whether a control plane found a failure that is about workers in scope of this run, and about nothing else.
    fn is_of_workers(&self, i: usize, stage: Option<usize>, failure: &Failure) -> bool {
        let speaks =
            stage.is_some_and(|t| self.stages[t].via == Via::Api) && self.hosts[i].node.is_control_plane();
        let is_worker = |name: &String| {
            let mut hosts = self.hosts.iter();
            hosts.any(|m| m.node.name == *name && !m.node.is_control_plane() && !m.excluded)
        };
        self.operation == Operation::Apply
            && speaks
            && failure.want.is_some()
            && !failure.about.is_empty()
            && failure.about.iter().all(is_worker)
    }

    /// Decides about a failure that may be the fault of workers, once the control plane was asked again. If its API server
    /// answers, ironstrap quarantines the workers, and otherwise the control plane.
    pub(super) fn judge_suspected(&mut self, i: usize) {
        let Some(failure) = self.hosts[i].progress.suspected.take() else { return };
        match self.hosts[i].api_answers {
            true => self.quarantine(i, failure),
            false if self.hosts[i].quarantined.is_none() => self.hosts[i].quarantine_and_ask_why(failure),
            false => {}
        }
    }

    /// Quarantines the workers that a stuck or manual change is about. A control plane whose API server answers must have
    /// found it. In any other case, quarantines the machine itself.
    pub(super) fn quarantine_stuck(&mut self, i: usize, t: usize, failure: Failure) {
        let known = matches!(failure.error.kind, Kind::Failed | Kind::Refused);
        match known && self.is_of_workers(i, Some(t), &failure) {
            true => self.quarantine(i, failure),
            false => self.hosts[i].quarantine_and_ask_why(failure),
        }
    }

    /// Quarantines the workers that this failure is about. This run does not try the failed want again.
    fn quarantine(&mut self, i: usize, failure: Failure) {
        let (asker, began) = (self.hosts[i].node.name.clone(), self.hosts[i].progress.began);
        self.failed_wants.extend(failure.want);
        for host in self.hosts.iter_mut().filter(|host| failure.about.contains(&host.node.name)) {
            let error = failure.error.clone().on(&host.node.name).because(format!("detected from {asker}"));
            if host.quarantined.is_some() {
                host.preflight_errors.push(error);
                continue;
            }
            host.progress.began = began;
            host.quarantine_and_ask_why(error.into());
        }
    }

    /// Makes a change wait if its want failed because of a quarantined worker, until somebody repairs that worker.
    pub(super) fn waits_for_repair(&self, change: &mut Change) {
        if self.failed_wants.contains(&change.id) {
            change.state = State::Waits(Blocked::until_all(&change.about, "to be repaired"));
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
    use crate::pki::tests::{cluster, pki};
    use crate::report::Events;
    use crate::shell::{Output, Sh};

    struct Nobody;

    impl Shell for Nobody {
        async fn run(&self, _: &Sh, _: &mut (dyn FnMut(&[u8]) + Send)) -> Result<Output> {
            Ok(Output::default())
        }
    }

    /// The errors of quarantined nodes, after this machine found these faults.
    fn errors(asker: usize, faults: &[(&str, &str)]) -> Vec<Error> {
        let (events, _told) = Events::channel();
        let cluster = Arc::new(cluster());
        let shells: Vec<Nobody> = cluster.nodes.iter().map(|_| Nobody).collect();
        let run = Run::new("1f", "me@here");
        let mut work = Reconciler::new(cluster, &[], pki(), shells, run, events).unwrap();
        let faults = faults.iter().map(|(node, what)| (node.to_string(), what.to_string())).collect();
        let error = Error::new(Kind::Failed, "packets: could not ask").on(&work.hosts[asker].node.name);
        work.blame(asker, None, Failure { faults, ..Failure::from(error) });
        work.hosts.iter().filter_map(|host| host.quarantined.clone()).collect()
    }

    fn quarantined(faults: &[(&str, &str)]) -> Vec<(String, String)> {
        errors(0, faults).into_iter().map(|error| (error.node.unwrap(), error.what)).collect()
    }

    #[test]
    fn the_node_at_fault_is_quarantined_not_the_asker() {
        let own = |node: &str, what: &str| (node.to_string(), what.to_string());
        assert_eq!(
            quarantined(&[("w1", "no new pod starts: x")]),
            [own("w1", "packets: no new pod starts: x")]
        );
        assert_eq!(errors(0, &[("w1", packets::made::SILENT)])[0].cause, ["m1 got no answer from this node"]);
        let asker = [own("m1", "packets: could not ask")];
        assert_eq!(quarantined(&[]), asker);
        assert_eq!(quarantined(&[("elsewhere", "x")]), asker, "the run has no machine with this name");
        assert_eq!(quarantined(&[("m1", "x"), ("w1", "x")]), asker, "the asking machine has a fault itself");
        let w1 = cluster().nodes.iter().position(|node| node.name == "w1").unwrap();
        let worker = errors(w1, &[("m1", "no new pod starts: x")]);
        assert_eq!(worker.iter().map(|error| error.node.as_deref()).collect::<Vec<_>>(), [Some("w1")]);
    }

    #[test]
    fn kubelet_starts_are_never_in_the_future() {
        let (events, _told) = Events::channel();
        let cluster = Arc::new(cluster());
        let shells: Vec<Nobody> = cluster.nodes.iter().map(|_| Nobody).collect();
        let mut work =
            Reconciler::new(cluster, &[], pki(), shells, Run::new("1f", "me@here"), events).unwrap();
        let now = time::OffsetDateTime::now_utc().unix_timestamp();
        let ahead = Machine { clock: now as f64 + 1e9, kubelet_age: Some(5.0), ..Machine::default() };
        work.hosts[0].machine = Some(ahead);
        let since = work.fleet().kubelets[&work.hosts[0].node.name];
        assert!((now..now + 120).contains(&since), "{since}");
    }
}
