//! That a run ends, whatever one machine answers. Each can say again and again that there is something to do or to wait for.

use std::time::Duration;

use super::{Fleetwork, apply::Working, work};
use crate::error::{Error, Kind};
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
        self.begin(i, working, work::attach(shell, node, unit, self.events.clone()));
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
