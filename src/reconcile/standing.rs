//! Where everybody stands when the user ends a run early.

use tokio::task::JoinSet;

use super::{Fleetwork, Member, Stop, work};
use crate::error::{Error, Kind, Result};
use crate::report::alike::remarked;
use crate::report::count;
use crate::shell::Shell;

impl<S: Shell> Fleetwork<S> {
    /// Asks each node again that was changed since its last answers, so that the report about it is true.
    pub(super) async fn look_back(&mut self, stop: &mut tokio::sync::watch::Receiver<Stop>) -> Result<()> {
        let mut asking = JoinSet::new();
        for (i, member) in self.members.iter_mut().enumerate() {
            if member.work.stale && member.left.is_none() {
                member.execs += 1;
                let ask = work::ask(member.shell.clone(), member.questions());
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
                    self.members[i].work.stale = false;
                    self.heard(i, Ok(said));
                }
                // Who does not answer now is not judged.
                Some(_) => {}
                None => return Ok(()),
            }
        }
    }

    /// The end that the user wanted, with what is done, what is left, and what goes on without us.
    pub(super) fn stopped(&self, what: &str) -> Error {
        let at_work = |member: &&Member<S>| member.work.busy;
        let told = |member: &&Member<S>| !member.work.busy && !member.work.stale && member.counts();
        let plain = |member| (name(member), String::new());
        let running = self.members.iter().filter(at_work).map(|member| match member.work.stage {
            Some(stage) => (name(member), format!(" ({})", self.stages[stage].name)),
            None => plain(member),
        });
        let calm = || self.members.iter().filter(told).filter(|member| member.left.is_none());
        let left = calm().filter(|member| member.pressing > 0);
        let left = left.map(|member| (name(member), format!(" ({})", count(member.pressing, "change"))));
        let unseen = self.members.iter().filter(|member| member.work.stale && !member.work.busy);
        let lines: [(&str, Vec<(&str, String)>); 4] = [
            ("done", calm().filter(|member| member.pressing == 0).map(plain).collect()),
            ("left", left.collect()),
            ("not looked at since it was changed", unseen.map(plain).collect()),
            ("may go on by itself", running.collect()),
        ];
        let lines = lines.into_iter().filter(|(_, nodes)| !nodes.is_empty());
        let error = Error::new(Kind::Interrupted, what).hint("run it again: it goes on from here");
        lines.fold(error, |error, (what, nodes)| error.because(format!("{what}: {}", remarked(&nodes))))
    }
}

fn name<S>(member: &Member<S>) -> &str {
    &member.node.name
}
