//! Limits that end a run, whatever one machine answers. A machine can say again and again that there is something to do or
//! to wait for.

use std::time::{Duration, Instant};

use super::{Operation, Reconciler, apply::Working, work};
use crate::error::{Error, Kind, Result};
use crate::machine::UNIT;
use crate::shell::Shell;

/// How many times one machine may make this run wait for work that an earlier run began. A machine may claim of any work
/// that it goes on.
const ATTACHES: u32 = 6;
/// How long ironstrap pauses after the first of these waits, before it asks the machine again. Each further pause is twice
/// as long.
const ATTACH_PAUSE: Duration = Duration::from_millis(100);
/// How many scripts of fixes one machine gets in a run, for each stage. A machine may claim of any fix that it had no
/// effect. A control plane gets as many for each node, too.
const ROUNDS: usize = 8;

impl<S: Shell> Reconciler<S> {
    /// Waits for work that an earlier run began on a machine.
    pub(super) fn attach(&mut self, i: usize, unit: String, working: &mut Working) {
        let host = &mut self.hosts[i];
        if host.progress.attaches == ATTACHES {
            let error = Error::new(Kind::Failed, format!("{UNIT}{unit} does not end")).on(&host.node.name);
            let error = error.because(format!("ironstrap waited for it {ATTACHES} times"));
            return host.quarantine_and_ask_why(
                error.hint("find out on the machine what it does, then run the command again").into(),
            );
        }
        host.progress.pause = ATTACH_PAUSE * (1 << host.progress.attaches);
        host.progress.attaches += 1;
        let (shell, node) = (host.shell.clone(), host.node.name.clone());
        let left = match self.time_left(i) {
            Ok(left) => left,
            Err(error) => return self.hosts[i].quarantine_and_ask_why(error.into()),
        };
        self.hosts[i].progress.at_it = Some(Instant::now());
        self.begin(i, working, work::attach(shell, node, unit, (left, self.drains()), self.events.clone()));
    }

    /// How long all fixes of this machine together may still take in this run.
    pub(super) fn time_left(&self, i: usize) -> Result<Duration> {
        let host = &self.hosts[i];
        let nodes = if host.node.is_control_plane() { self.hosts.len() } else { 1 };
        let most = host.shell.limits().machine(&self.run, nodes.try_into().unwrap_or(u32::MAX));
        let most = most + self.drains();
        most.checked_sub(host.progress.spent).filter(|left| !left.is_zero()).ok_or_else(|| {
            let what = format!("the fixes have taken more than {} in this run", told(most));
            Error::new(Kind::Failed, what)
                .on(&host.node.name)
                .hint("find out on the machine what they wait for, then run the command again")
        })
    }

    /// How long the pods of a node that is removed may take to end.
    fn drains(&self) -> Duration {
        match &self.operation {
            Operation::Remove(removal) => Duration::from_secs(removal.drain_seconds.into()),
            _ => Duration::ZERO,
        }
    }

    /// The error for a machine that gets no more fixes in this run, because it had more than any honest machine needs.
    pub(super) fn is_endless(&self, i: usize) -> Option<Error> {
        let node = &self.hosts[i].node;
        let nodes = if node.is_control_plane() { self.hosts.len() } else { 1 };
        let most = ROUNDS * self.stages.len() * nodes;
        let error = || Error::new(Kind::Failed, "still needs fixes after too many rounds").on(&node.name);
        (self.hosts[i].progress.rounds >= most).then(|| {
            error()
                .because(format!("ironstrap ran {most} scripts of fixes there in this run"))
                .hint("find out on the machine what undoes them; its answers may be forged")
        })
    }
}

/// A duration as text for people.
fn told(time: Duration) -> String {
    match time.as_secs() {
        seconds if seconds < 120 => format!("{seconds} s"),
        seconds => format!("{} min", seconds / 60),
    }
}
