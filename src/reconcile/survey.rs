//! Before anything is touched: what stands against it, on which machine, and whether on all.

use std::collections::{BTreeMap, BTreeSet};

use super::{CANNOT_TELL, Fleetwork};
use crate::cluster::Node;
use crate::error::{Error, Kind};
use crate::fleet::{self, Fleet};
use crate::plan::{Change, State};
use crate::shell::Shell;
use crate::step::Fix;

/// What stands against touching machines.
pub struct Survey {
    pub errors: Vec<Error>,
    /// No machine may be changed, not only the machines that the errors name.
    pub blocked: bool,
}

impl<S: Shell> Fleetwork<S> {
    /// What stands against touching machines, and whether it stands against touching any.
    ///
    /// While no cluster exists nobody is touched while anybody is unfit; once there is one, the unfit are left and
    /// the others go on. `kept`: where the trust is, and whether there is one.
    pub fn survey(&mut self, kept: (&str, bool)) -> Survey {
        let (fleet, machines) = (self.fleet(), self.machines());
        let clocks = self.members.iter().filter(|m| m.machine.is_some());
        let clocks: BTreeMap<String, f64> = clocks.map(|m| (m.node.name.clone(), m.clock)).collect();
        // A machine of another cluster is not asked for more; one with a misfit is, so that all is said at once.
        let mut errors = fleet::misfits(&self.cluster, &machines, &clocks);
        let (only_told, wrong) = self.identities(&machines);
        errors.extend(wrong);
        errors.retain(|error| self.stands_in_the_way(error, &fleet));
        let misfits = errors.len();
        let refusals = fleet::refusals(&self.cluster, &machines, &self.trust, kept);
        self.told = only_told;
        let blocked = !fleet.exists
            || refusals.iter().any(|(_, everybody)| *everybody)
            || errors.iter().any(|error| error.node.is_none());
        let matters = |(error, all): &(Error, bool)| *all || self.stands_in_the_way(error, &fleet);
        errors.extend(refusals.into_iter().filter(matters).map(|(error, _)| error));
        for i in 0..self.members.len() {
            let name = &self.members[i].node.name;
            let known = errors[misfits..].iter().any(|error| error.node.as_ref() == Some(name));
            if let Some(stages) = self.judge_in(i, &fleet).ok().filter(|_| !known) {
                errors
                    .extend(stages.first().into_iter().flat_map(|first| unfit(&self.members[i].node, first)));
            }
        }
        self.leave(&mut errors, &fleet);
        Survey { blocked: blocked && !errors.is_empty(), errors }
    }

    /// Quarantines each machine that has errors, and keeps all its errors. Machines that do not answer are among them.
    /// Sorts the errors by machine, in the order of the inventory.
    fn leave(&mut self, errors: &mut Vec<Error>, fleet: &Fleet) {
        for i in 0..self.members.len() {
            let member = &mut self.members[i];
            let mut of_node = errors.iter().filter(|error| error.node.as_ref() == Some(&member.node.name));
            if let Some(first) = of_node.next() {
                if member.left.is_none() {
                    member.unfit = of_node.cloned().collect();
                    member.left = Some(first.clone());
                }
                continue;
            }
            let silent = member.left.clone();
            errors.extend(silent.filter(|error| self.stands_in_the_way(error, fleet)));
        }
        errors.sort_by_key(|error| {
            self.members.iter().position(|member| error.node.as_ref() == Some(&member.node.name))
        });
    }
}

impl<S: Shell> Fleetwork<S> {
    /// What is not as unlike or as near as it should be, and what was tried in vain: what is only told, and what stands
    /// against touching machines.
    fn identities(&self, machines: &fleet::Machines) -> (Vec<super::Note>, Vec<Error>) {
        let mut all = fleet::identity::misfits(&self.cluster, machines);
        all.extend(self.tried.iter().cloned());
        all.extend(fleet::keys::misfits(&self.cluster, &self.seen_keys()));
        let (told, wrong): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|m| m.harmless || m.check != fleet::keys::CHECK && self.cluster.ignores(m.check));
        let note = |m: fleet::identity::Misfit| {
            let words = std::iter::once(m.error.what.as_str()).chain(m.error.words());
            let words = words.collect::<Vec<_>>().join(": ");
            (m.error.node.unwrap_or_default(), "preflight", words)
        };
        let name = |m: fleet::identity::Misfit| {
            if m.check == fleet::keys::CHECK {
                return m.error;
            }
            let hint = m.error.hint.clone().unwrap_or_default();
            m.error.hint(format!(
                "{hint}; or downgrade the check to a warning: ignore-preflight = [\"{}\"] in [cluster]",
                m.check
            ))
        };
        (told.into_iter().map(note).collect(), wrong.into_iter().map(name).collect())
    }
}

/// What only a human can change on a machine, and what cannot be told: each with its remedy. What
/// several wants ask in the same words is unknown once.
fn unfit<'a>(node: &'a Node, preflight: &'a [Change]) -> impl Iterator<Item = Error> + 'a {
    let error = |change: &Change| match (&change.state, &change.fix) {
        (State::Unknown { why, .. }, _) => {
            Error::new(Kind::Unknown, format!("cannot tell whether {}", change.that))
                .heard(why)
                .hint(CANNOT_TELL)
        }
        (_, Fix::ByHand(hint)) => {
            let error = Error::new(Kind::Refused, format!("not so: {}", change.that)).hint(hint);
            let facts = [("it has", &change.have), ("it needs", &change.want)];
            let told = facts.iter().filter(|(_, text)| !text.is_empty());
            told.fold(error, |error, (what, text)| {
                error.because(format!("{what}: {}", text.replace('\n', ", ")))
            })
        }
        _ => Error::new(Kind::Refused, format!("not so: {}", change.that)),
    };
    let mut unanswered = BTreeSet::new();
    let once = move |change: &&Change| match &change.state {
        State::Unknown { asked, .. } => unanswered.insert(asked.clone()),
        _ => true,
    };
    preflight.iter().filter(once).map(move |change| error(change).on(&node.name))
}
