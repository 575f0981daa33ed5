//! What stands against taking machines back to what they were. The way back itself is the same loop as the way there.

use super::{Fleetwork, Member, Reading, Survey, decide};
use crate::error::{Error, Kind, Result};
use crate::fleet::{self, Blocked, Fleet};
use crate::machine::Machine;
use crate::ops::{self, remove::Removal};
use crate::plan::{Change, State};
use crate::report::alike::names;
use crate::shell::Shell;
use crate::step::Fix;

impl<S: Shell> Fleetwork<S> {
    /// What the machine that is removed waits for: the cluster must let it go first, as the control plane shows that
    /// speaks for the cluster. `None`: it has done so.
    pub(super) fn still_in(&self, fleet: &Fleet) -> Result<Option<Blocked>> {
        let lets_go = Blocked::by_cluster(format!("{} to let it go", self.cluster.name));
        let Some(api) = self.api(fleet) else { return Ok(Some(lets_go)) };
        let member = &self.members[api];
        let known = member.machine.is_some() && !member.work.busy && !member.work.stale;
        let let_go = known && self.judge_in(api, fleet)?.iter().all(Vec::is_empty);
        Ok((!let_go).then_some(lets_go))
    }

    /// What stands against it. Of a control plane it stands against touching any machine, unless that one only does not
    /// answer: half of what was asked for may be worse than nothing. A worker that goes back is left alone with it, for its
    /// root can make it say anything.
    pub fn objections(&mut self, kept: (&str, bool)) -> Result<Survey> {
        let fleet = self.fleet();
        let mut errors = Vec::new();
        for i in 0..self.members.len() {
            let changes: Vec<Change> = self.judge_in(i, &fleet)?.into_iter().flatten().collect();
            let member = &self.members[i];
            if let Some(machine) = member.machine.as_ref().filter(|_| !member.spared) {
                // Its role decides whether etcd has to let it go; of a worker etcd tells (`ops::remove`).
                let removal = matches!(self.reading, Reading::Removal(_));
                let removed = removal && member.node.is_control_plane();
                let mut own: Vec<Error> =
                    fleet::stranger(&member.node, machine, &self.trust, kept).into_iter().collect();
                own.extend(fleet::changed_role(&member.node, machine).filter(|_| removed));
                let worker = !member.node.is_control_plane();
                own.extend(self.leaves_others(i).filter(|_| worker && !removal));
                own.extend(not_root(member, machine));
                own.extend(unknown(member, &changes));
                let by_hand = changes.iter().filter(|change| change.state == State::ByHand);
                own.extend(by_hand.map(|change| decide::by_hand(&member.node.name, change)));
                match own.first() {
                    Some(first) if self.goes_alone(i) => self.disregard(i, first.clone()),
                    _ => errors.extend(own),
                }
            }
        }
        match &self.reading {
            Reading::Removal(removal) => {
                errors.extend(self.not_to_be_removed(&removal.clone(), &self.fleet())?);
            }
            _ => errors.extend(self.left_behind()),
        }
        let blocked = !errors.is_empty();
        // What stands against it comes last: it says how the run ends.
        let silent = self.members.iter().filter(|member| !member.spared).filter_map(|m| m.left.clone());
        Ok(Survey { errors: silent.chain(errors).collect(), blocked })
    }

    /// Whether what this machine says stands against touching it alone. That is a worker of a reset; and one that leaves
    /// the cluster with --force, which no word of its machine keeps in.
    pub(super) fn goes_alone(&self, i: usize) -> bool {
        let member = &self.members[i];
        let goes = match &self.reading {
            Reading::Forwards => false,
            Reading::Backwards => true,
            Reading::Removal(removal) => removal.force,
        };
        goes && !member.spared && !member.node.is_control_plane()
    }

    /// Leaves a machine as if it did not answer, and tells why.
    pub(super) fn disregard(&mut self, i: usize, error: Error) {
        let member = &mut self.members[i];
        (member.left, member.machine) = (Some(error), None);
    }

    /// Members of the cluster that stay in it, or may.
    pub fn staying(&self) -> Vec<&str> {
        let stays =
            |member: &&Member<S>| member.spared && member.machine.as_ref().is_none_or(Machine::is_member);
        self.members.iter().filter(stays).map(|member| member.node.name.as_str()).collect()
    }

    fn not_to_be_removed(&self, removal: &Removal, fleet: &Fleet) -> Result<Option<Error>> {
        let refused = |what: &str| Some(Error::new(Kind::Refused, what).on(&removal.node));
        let Some(member) = self.members.iter().find(|member| !member.spared) else { return Ok(None) };
        // Who does not answer may run one: the majority of etcd tells. What a worker says of itself is no control plane.
        let may_run = |m: &Member<S>| m.machine.as_ref().is_none_or(Machine::runs_control_plane);
        let other = |m: &Member<S>| m.spared && m.node.is_control_plane() && may_run(m);
        if member.node.is_control_plane() && !self.members.iter().any(other) {
            let error = refused("is the last control plane: without it there is no cluster");
            return Ok(error.map(|e| e.hint("`ironstrap reset` takes the whole cluster away")));
        }
        if member.machine.is_none() && !removal.force {
            let error =
                refused("does not answer, so nobody could end its pods in an orderly way, or clean it");
            return Ok(error
                .map(|e| e.hint("bring it back; or say --force, and it is taken out of the cluster alone")));
        }
        let api = self.api(fleet).map(|api| (api, &self.members[api]));
        let Some((api, speaker)) = api.filter(|(_, speaker)| speaker.machine.is_some()) else {
            let others = self.members.iter().filter(|m| m.spared && m.node.is_control_plane());
            let why = others.filter_map(|m| m.left.clone()).next();
            return Ok(why);
        };
        let changes: Vec<Change> = self.judge_in(api, fleet)?.into_iter().flatten().collect();
        // A lost majority of etcd comes first: without it, no other answer is certain.
        let Some(change) = changes.iter().find(|change| change.state == State::ByHand) else {
            return Ok(unknown(speaker, &changes));
        };
        let hint = if let Fix::ByHand(hint) = &change.fix { hint.as_str() } else { "" };
        let error = refused(ops::remove::refusal(&change.id));
        Ok(error.map(|e| e.heard(&change.have).hint(hint)))
    }

    /// A control plane does not just go while others stay: they would lose the cluster, or etcd a voice that it
    /// goes on counting.
    fn left_behind(&self) -> Option<Error> {
        let planes = (0..self.members.len()).filter(|i| self.members[*i].node.is_control_plane());
        planes.filter_map(|i| self.leaves_others(i)).next()
    }

    fn leaves_others(&self, i: usize) -> Option<Error> {
        let (member, staying) = (&self.members[i], self.staying());
        let runs = member.machine.as_ref().is_some_and(Machine::runs_control_plane);
        if member.spared || !runs || staying.is_empty() {
            return None;
        }
        let error = Error::new(Kind::Refused, "runs the control plane of machines that would stay");
        Some(error.on(&member.node.name).because(format!("they are: {}", names(staying))).hint(
            "reset all of them, without naming any; or, where there are more control planes, `ironstrap remove` this one",
        ))
    }
}

fn not_root<S>(member: &Member<S>, machine: &Machine) -> Option<Error> {
    let error = Error::new(Kind::Refused, "commands do not run as root").on(&member.node.name);
    let hint = "log in as root, or as somebody who may use sudo";
    (machine.uid != 0).then(|| error.hint(hint))
}

fn unknown<S>(member: &Member<S>, changes: &[Change]) -> Option<Error> {
    changes.iter().find_map(|change| {
        let State::Unknown { why, .. } = &change.state else { return None };
        let what = format!("cannot tell whether it is so that {}", change.that);
        let error = Error::new(Kind::Unknown, what).on(&member.node.name);
        Some(error.answered(format!("answered: {why}")).hint("what is not known is never changed"))
    })
}
