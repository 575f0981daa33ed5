//! Questions that no want asks, for commands that only show the state. The same script asks them too. No change
//! depends on their answers.

use super::Fleetwork;
use crate::cluster::Node;
use crate::shell::Shell;
use crate::step::Ask;

impl<S: Shell> Fleetwork<S> {
    /// Has these asked too, from the next look on.
    pub fn look_also(&mut self, looks: impl Fn(&Node) -> Vec<Ask>) {
        self.members.iter_mut().for_each(|member| member.looks = looks(&member.node));
    }

    /// Nothing but a look comes of this run.
    pub fn only_look(&mut self) {
        self.looks_only = true;
    }

    /// The place of the control plane that speaks for the cluster.
    pub fn speaker(&self) -> Option<usize> {
        self.api(&self.fleet())
    }
}
