//! Before anything is touched: what stands against it, on which machine, and whether on all.

use std::collections::BTreeMap;

use super::Fleetwork;
use crate::cluster::Node;
use crate::error::{Error, Kind};
use crate::fleet;
use crate::plan::{Change, State};
use crate::shell::Shell;
use crate::step::Fix;

/// What stands against touching machines.
pub struct Survey {
    pub errors: Vec<Error>,
    /// Nobody may be touched, not only those whom the errors name.
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
        let mut errors = fleet::misfits(&machines, &clocks);
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
                errors.extend(stages.first().and_then(|preflight| unfit(&self.members[i].node, preflight)));
            }
        }
        for i in 0..self.members.len() {
            let member = &mut self.members[i];
            match errors.iter().find(|error| error.node.as_ref() == Some(&member.node.name)) {
                Some(error) => drop(member.left.get_or_insert(error.clone())),
                None => {
                    let silent = member.left.clone();
                    errors.extend(silent.filter(|error| self.stands_in_the_way(error, &fleet)));
                }
            }
        }
        Survey { blocked: blocked && !errors.is_empty(), errors }
    }
}

impl<S: Shell> Fleetwork<S> {
    /// What is not as unlike or as near as it should be: what is only told, and what stands against touching machines.
    fn identities(&self, machines: &fleet::Machines) -> (Vec<super::Note>, Vec<Error>) {
        let ignored = |check: &str| {
            let names = &self.cluster.ignore_preflight;
            names.iter().any(|name| name.eq_ignore_ascii_case(check) || name == "all")
        };
        let all = fleet::identity::misfits(&self.cluster, machines);
        let (told, wrong): (Vec<_>, Vec<_>) = all.into_iter().partition(|m| m.harmless || ignored(m.check));
        let note = |m: fleet::identity::Misfit| {
            let words = [vec![m.error.what], m.error.cause].concat().join(": ");
            (m.error.node.unwrap_or_default(), "preflight", words)
        };
        let name = |m: fleet::identity::Misfit| {
            let hint = m.error.hint.clone().unwrap_or_default();
            m.error.hint(format!("{hint}; or let it be: ignore-preflight = [\"{}\"] in [cluster]", m.check))
        };
        (told.into_iter().map(note).collect(), wrong.into_iter().map(name).collect())
    }
}

/// Everything that only a human can change on a machine, as one error.
fn unfit(node: &Node, preflight: &[Change]) -> Option<Error> {
    if preflight.is_empty() {
        return None;
    }
    let unknown = preflight.iter().any(|change| matches!(change.state, State::Unknown { .. }));
    let (kind, what) = match unknown {
        true => (Kind::Unknown, "cannot tell whether it is fit"),
        false => (Kind::Refused, "is not fit for the cluster"),
    };
    let mut error = Error::new(kind, what).on(&node.name);
    let mut hints: Vec<&str> = Vec::new();
    for change in preflight {
        match &change.state {
            State::Unknown { why, .. } => {
                error = error.because(format!("{}: cannot tell: {why}", change.that))
            }
            _ => {
                error = error.because(format!(
                    "not so: {}; it has: {}",
                    change.that,
                    change.have.replace('\n', ", ")
                ))
            }
        }
        if let Fix::ByHand(hint) = &change.fix {
            hints.push(hint);
        }
    }
    Some(if hints.is_empty() { error } else { error.hint(hints.join("; ")) })
}
