//! Questions that no want asks, for commands that only show the state. The same script asks them too. No change
//! depends on their answers.

use super::Reconciler;
use crate::cluster::Node;
use crate::shell::Shell;
use crate::step::Ask;

impl<S: Shell> Reconciler<S> {
    /// Adds questions to each node, from the next `observe` on.
    pub fn ask_also(&mut self, looks: impl Fn(&Node) -> Vec<Ask>) {
        self.hosts.iter_mut().for_each(|host| host.extra_asks = looks(&host.node));
    }

    /// Makes this run only observe, so that it keeps no connection after the questions.
    pub fn only_observe(&mut self) {
        self.observes_only = true;
    }

    /// The index of the API host: the control plane whose API server is asked about the cluster.
    pub fn api_host(&self) -> Option<usize> {
        self.api_host_of(&self.fleet())
    }
}
