//! The state of every node when the user ends a run early.

use tokio::task::JoinSet;

use super::{Host, Reconciler, Stop, work};
use crate::error::{Error, Kind, Result};
use crate::report::count;
use crate::report::group::remarked;
use crate::shell::Shell;

impl<S: Shell> Reconciler<S> {
    /// Asks each node again that was changed since its last answers, so that the report about it is true.
    pub(super) async fn refresh(&mut self, stop: &mut tokio::sync::watch::Receiver<Stop>) -> Result<()> {
        let mut asking = JoinSet::new();
        for (i, host) in self.hosts.iter_mut().enumerate() {
            if host.progress.stale && host.quarantined.is_none() {
                host.execs += 1;
                let ask = work::ask(host.shell.clone(), host.questions());
                asking.spawn(async move { (i, ask.await) });
            }
        }
        loop {
            let done = tokio::select! {
                done = asking.join_next() => done,
                Ok(_) = stop.wait_for(|stop| *stop == Stop::Now) => return Err(self.stopped("stopped at once")),
            };
            match done {
                Some(Ok((i, Ok(said)))) => {
                    self.hosts[i].progress.stale = false;
                    self.take_answers(i, Ok(said));
                }
                // ironstrap does not judge a node that does not answer now.
                Some(_) => {}
                None => return Ok(()),
            }
        }
    }

    /// The error of a run that the user ended. It names the nodes that are done, the nodes with changes left, and the nodes
    /// that were not asked since a change. It also names the nodes on which work may go on by itself.
    pub(super) fn stopped(&self, what: &str) -> Error {
        let at_work = |host: &&Host<S>| host.progress.busy;
        let told = |host: &&Host<S>| !host.progress.busy && !host.progress.stale && host.is_affected();
        let plain = |host| (name(host), String::new());
        let running = self.hosts.iter().filter(at_work).map(|host| match host.progress.stage {
            Some(stage) => (name(host), format!(" ({})", self.stages[stage].name)),
            None => plain(host),
        });
        let healthy = || self.hosts.iter().filter(told).filter(|host| host.quarantined.is_none());
        let left = healthy().filter(|host| host.pending > 0);
        let left = left.map(|host| (name(host), format!(" ({})", count(host.pending, "change"))));
        let unseen = self.hosts.iter().filter(|host| host.progress.stale && !host.progress.busy);
        let lines: [(&str, Vec<(&str, String)>); 4] = [
            ("done", healthy().filter(|host| host.pending == 0).map(plain).collect()),
            ("remaining", left.collect()),
            ("not checked since the last change", unseen.map(plain).collect()),
            ("may continue without ironstrap", running.collect()),
        ];
        let lines = lines.into_iter().filter(|(_, nodes)| !nodes.is_empty());
        let error = Error::new(Kind::Interrupted, what).hint("run the command again; it resumes");
        lines.fold(error, |error, (what, nodes)| error.because(format!("{what}: {}", remarked(&nodes))))
    }
}

fn name<S>(host: &Host<S>) -> &str {
    &host.node.name
}
