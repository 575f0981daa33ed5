//! That a run ends, whatever one machine answers. Each can say again and again that there is something to do or to wait for.

use std::time::{Duration, Instant};

use super::{Fleetwork, Reading, apply::Working, work};
use crate::error::{Error, Kind, Result};
use crate::machine::UNIT;
use crate::shell::Shell;

/// How often one machine may have this run wait for work that an earlier run began. It may say of any work that it goes on.
const ATTACHES: u32 = 6;
/// How long a machine rests after the first of these, and twice as long after each further one.
const ATTACH_PAUSE: Duration = Duration::from_millis(100);
/// How many scripts of fixes one machine gets in a run, for each stage. It may say of any fix that it did not hold. A control
/// plane gets as many for each node, too.
const ROUNDS: usize = 8;

impl<S: Shell> Fleetwork<S> {
    /// Has a machine's run wait for work that an earlier run began there.
    pub(super) fn attach(&mut self, i: usize, unit: String, working: &mut Working) {
        let member = &mut self.members[i];
        if member.work.attaches == ATTACHES {
            let error = Error::new(Kind::Failed, format!("{UNIT}{unit} does not end")).on(&member.node.name);
            let error = error.because(format!("it was waited for {ATTACHES} times"));
            return member
                .leave(error.hint("find out on the machine what it does; then run it again").into());
        }
        member.work.pause = ATTACH_PAUSE * (1 << member.work.attaches);
        member.work.attaches += 1;
        let (shell, node) = (member.shell.clone(), member.node.name.clone());
        let left = match self.time_left(i) {
            Ok(left) => left,
            Err(error) => return self.members[i].leave(error.into()),
        };
        self.members[i].work.at_it = Some(Instant::now());
        self.begin(i, working, work::attach(shell, node, unit, (left, self.drains()), self.events.clone()));
    }

    /// How long this machine's fixes may still take in this run, in all.
    pub(super) fn time_left(&self, i: usize) -> Result<Duration> {
        let member = &self.members[i];
        let nodes = if member.node.is_control_plane() { self.members.len() } else { 1 };
        let most = member.shell.limits().machine(&self.run, nodes.try_into().unwrap_or(u32::MAX));
        let most = most + self.drains();
        most.checked_sub(member.work.spent).filter(|left| !left.is_zero()).ok_or_else(|| {
            let what = format!("its fixes have taken more than {} in this run", told(most));
            Error::new(Kind::Failed, what)
                .on(&member.node.name)
                .hint("find out on the machine what they wait for; then run the command again")
        })
    }

    /// How long the pods of a node that is removed may take to end.
    fn drains(&self) -> Duration {
        match &self.reading {
            Reading::Removal(removal) => Duration::from_secs(removal.drain_seconds.into()),
            _ => Duration::ZERO,
        }
    }

    /// Why a machine gets no more fixes in this run: it had more than any honest one needs.
    pub(super) fn is_endless(&self, i: usize) -> Option<Error> {
        let node = &self.members[i].node;
        let nodes = if node.is_control_plane() { self.members.len() } else { 1 };
        let most = ROUNDS * self.stages.len() * nodes;
        let error = || Error::new(Kind::Failed, "needs one fix after another, without an end").on(&node.name);
        (self.members[i].work.rounds >= most).then(|| {
            error()
                .because(format!("it got {most} scripts of fixes in this run"))
                .hint("find out on the machine what undoes them; its answers may be forged")
        })
    }
}

/// A time, for people.
fn told(time: Duration) -> String {
    match time.as_secs() {
        seconds if seconds < 120 => format!("{seconds} s"),
        seconds => format!("{} min", seconds / 60),
    }
}
