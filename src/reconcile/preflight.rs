//! The preflight checks, before the first change: which errors forbid changing one machine, and which forbid changing all.

use std::collections::{BTreeMap, BTreeSet};

use super::{CANNOT_TELL, Reconciler};
use crate::cluster::Node;
use crate::error::{Error, Kind};
use crate::fleet::{self, Fleet};
use crate::plan::{Change, State};
use crate::shell::Shell;
use crate::step::Fix;

/// The errors that forbid changing machines.
pub struct PreflightReport {
    pub errors: Vec<Error>,
    /// No machine may be changed, not only the machines that the errors name.
    pub blocked: bool,
}

impl<S: Shell> Reconciler<S> {
    /// Runs the preflight checks. Returns the errors that forbid changing machines, and whether they forbid it for all
    /// machines.
    ///
    /// While no cluster exists, ironstrap changes no machine if one machine is unfit. Once the cluster exists, ironstrap
    /// quarantines the unfit machines, and the others go on. `kept`: where the PKI directory is, and whether it exists.
    pub fn preflight(&mut self, kept: (&str, bool)) -> PreflightReport {
        let (fleet, machines) = (self.fleet(), self.machines());
        let clocks = self.hosts.iter().filter(|m| m.machine.is_some());
        let clocks: BTreeMap<String, f64> = clocks.map(|m| (m.node.name.clone(), m.clock)).collect();
        // A machine of another cluster gets no further checks. A machine with a finding gets them, so that the user sees
        // all errors at once.
        let mut errors = fleet::findings(&self.cluster, &machines, &clocks);
        let (only_told, failure) = self.identities(&machines);
        errors.extend(failure);
        errors.retain(|error| self.stands_in_the_way(error, &fleet));
        let findings = errors.len();
        let refusals = fleet::refusals(&self.cluster, &machines, &self.pki, kept);
        self.preflight_notes = only_told;
        let blocked = !fleet.exists
            || refusals.iter().any(|(_, everybody)| *everybody)
            || errors.iter().any(|error| error.node.is_none());
        let matters = |(error, all): &(Error, bool)| *all || self.stands_in_the_way(error, &fleet);
        errors.extend(refusals.into_iter().filter(matters).map(|(error, _)| error));
        for i in 0..self.hosts.len() {
            let name = &self.hosts[i].node.name;
            let known = errors[findings..].iter().any(|error| error.node.as_ref() == Some(name));
            if let Some(stages) = self.judge_in(i, &fleet).ok().filter(|_| !known) {
                errors.extend(
                    stages.first().into_iter().flat_map(|first| preflight_errors(&self.hosts[i].node, first)),
                );
            }
        }
        self.quarantine_unfit(&mut errors, &fleet);
        PreflightReport { blocked: blocked && !errors.is_empty(), errors }
    }

    /// Quarantines each machine that has errors, and keeps all its errors. Machines that do not answer are among them.
    /// Sorts the errors by machine, in the order of the inventory.
    fn quarantine_unfit(&mut self, errors: &mut Vec<Error>, fleet: &Fleet) {
        for i in 0..self.hosts.len() {
            let host = &mut self.hosts[i];
            let mut of_node = errors.iter().filter(|error| error.node.as_ref() == Some(&host.node.name));
            if let Some(first) = of_node.next() {
                if host.quarantined.is_none() {
                    host.preflight_errors = of_node.cloned().collect();
                    host.quarantined = Some(first.clone());
                }
                continue;
            }
            let silent = host.quarantined.clone();
            errors.extend(silent.filter(|error| self.stands_in_the_way(error, fleet)));
        }
        errors.sort_by_key(|error| {
            self.hosts.iter().position(|host| error.node.as_ref() == Some(&host.node.name))
        });
    }
}

impl<S: Shell> Reconciler<S> {
    /// Collects the findings about identities, addresses, active checks and signing keys. Returns those that are only
    /// notes, and those that forbid changing machines.
    fn identities(&self, machines: &fleet::Machines) -> (Vec<super::Note>, Vec<Error>) {
        let mut all = fleet::identity::findings(&self.cluster, machines);
        all.extend(self.tried.iter().cloned());
        all.extend(fleet::keys::findings(&self.cluster, &self.seen_keys()));
        let (told, failure): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|m| m.harmless || m.check != fleet::keys::CHECK && self.cluster.ignores(m.check));
        let note = |m: fleet::identity::Finding| {
            let words = std::iter::once(m.error.what.as_str()).chain(m.error.words());
            let words = words.collect::<Vec<_>>().join(": ");
            (m.error.node.unwrap_or_default(), "preflight", words)
        };
        let name = |m: fleet::identity::Finding| {
            if m.check == fleet::keys::CHECK {
                return m.error;
            }
            let hint = m.error.hint.clone().unwrap_or_default();
            m.error.hint(format!(
                "{hint}; or downgrade the check to a warning: ignore-preflight = [\"{}\"] in [cluster]",
                m.check
            ))
        };
        (told.into_iter().map(note).collect(), failure.into_iter().map(name).collect())
    }
}

/// An error for each change that only a human can make, and for each unknown state, each with its remedy. If several wants
/// ask the same question, its unknown answer makes one error.
fn preflight_errors<'a>(node: &'a Node, preflight: &'a [Change]) -> impl Iterator<Item = Error> + 'a {
    let error = |change: &Change| match (&change.state, &change.fix) {
        (State::Unknown { why, .. }, _) => Error::new(
            Kind::Unknown,
            format!("cannot determine whether {}", crate::plan::after_whether(&change.that)),
        )
        .quoting(why)
        .hint(CANNOT_TELL),
        (_, Fix::ByHand(hint)) => {
            let error = Error::new(Kind::Refused, format!("requirement not met: {}", change.that)).hint(hint);
            let facts = [("found", &change.have), ("required", &change.want)];
            let told = facts.iter().filter(|(_, text)| !text.is_empty());
            told.fold(error, |error, (what, text)| {
                error.because(format!("{what}: {}", text.replace('\n', ", ")))
            })
        }
        _ => Error::new(Kind::Refused, format!("requirement not met: {}", change.that)),
    };
    let mut unanswered = BTreeSet::new();
    let once = move |change: &&Change| match &change.state {
        State::Unknown { asked, .. } => unanswered.insert(asked.clone()),
        _ => true,
    };
    preflight.iter().filter(once).map(move |change| error(change).on(&node.name))
}
