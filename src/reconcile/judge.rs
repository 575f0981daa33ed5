//! What is made of the answers: on each node what does not hold, and what people should know of. What is done about
//! it is `apply`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use time::OffsetDateTime;

use super::{Fleetwork, Member, Reading};
use crate::error::Result;
use crate::fleet::Fleet;
use crate::fleet::keys::Seen;
use crate::machine::Machine;
use crate::openpgp::Keys;
use crate::plan::{self, Change, State};
use crate::probe::Answer;
use crate::shell::Shell;
use crate::step::{Ask, Cx, Step, Want};
use crate::steps::{PACKAGE_KEY, Stage, Via, packets, settings};

/// Who says so, in which step, and the words.
pub type Note = (String, &'static str, String);

impl<S: Shell> Fleetwork<S> {
    /// The control plane that is asked about the cluster as a whole: one whose API server answers, else the seed.
    pub(super) fn api(&self, fleet: &Fleet) -> Option<usize> {
        let answers = |member: &Member<S>| member.left.is_none() && member.api_answers;
        // A node that is removed does not speak for the nodes that stay.
        let removal = matches!(self.reading, Reading::Removal(_));
        let position = |which: &dyn Fn(&Member<S>) -> bool| {
            self.members.iter().position(|member| (member.spared || !removal) && which(member))
        };
        let ours = position(&|member| !member.spared && answers(member));
        let any = ours.or_else(|| position(&|member| answers(member)));
        let seed = || position(&|member| member.node.name == fleet.seed);
        any.or_else(seed).or_else(|| position(&|member| member.node.is_control_plane()))
    }

    /// What does not hold on a node, by stage, in this state of the fleet.
    pub(super) fn judge_in(&self, i: usize, fleet: &Fleet) -> Result<Vec<Vec<Change>>> {
        Ok(self.ours(i, self.judge_all(i, fleet)?))
    }

    /// What of these changes is any business of this run.
    pub(super) fn ours(&self, i: usize, mut stages: Vec<Vec<Change>>) -> Vec<Vec<Change>> {
        for (stage, changes) in self.stages.iter().zip(&mut stages) {
            changes.retain(|change| self.concerns(i, stage.via, change));
        }
        stages
    }

    /// The same, whether it is any business of this run or not.
    pub(super) fn judge_all(&self, i: usize, fleet: &Fleet) -> Result<Vec<Vec<Change>>> {
        if self.is_calm(i, fleet) {
            return Ok(vec![vec![]; self.stages.len()]);
        }
        let mut touched = BTreeSet::new();
        let mut stages = self.read_in(i, fleet, |judged| plan::changes(judged, &mut touched))?;
        for change in stages.iter_mut().flatten() {
            if matches!(&change.state, State::Unconfirmed(open) if self.confirmed.contains(open)) {
                change.state = State::Ready;
            }
            self.waits_for_repair(change);
        }
        Ok(stages)
    }

    /// Nothing was to be done there when it was last judged, and nothing is different since. To judge a machine costs
    /// time. Without this, a run would repeat it for many machines that need no change.
    pub(super) fn is_calm(&self, i: usize, fleet: &Fleet) -> bool {
        let member = &self.members[i];
        let same = |calm: &Fleet| *calm == fleet.own(&member.node.name);
        member.work.calm.as_ref().is_some_and(same) && self.api(fleet) != Some(i)
    }

    /// Notes whether a machine that is just judged is calm. Who speaks for the cluster never is: of the whole much changes.
    pub(super) fn calm(&mut self, i: usize, fleet: &Fleet, stages: &[Vec<Change>]) {
        let calm = stages.iter().all(Vec::is_empty) && self.api(fleet) != Some(i);
        self.members[i].work.calm = calm.then(|| fleet.own(&self.members[i].node.name));
    }

    /// What `read` makes of the wants and answers of a node, by stage; of the stages for the whole cluster only
    /// where it speaks for it.
    pub(super) fn read_in<T: Default>(
        &self,
        i: usize,
        fleet: &Fleet,
        mut read: impl FnMut(&[plan::Judged]) -> T,
    ) -> Result<Vec<T>> {
        let member = &self.members[i];
        let nothing = || self.stages.iter().map(|_| T::default()).collect();
        let Some(machine) = &member.machine else { return Ok(nothing()) };
        let wants = self.wants_of(member, machine, fleet)?;
        let mut answers = member.answers.iter();
        let speaks = self.api(fleet) == Some(i);
        let judged = self.stages.iter().zip(&wants).map(|(stage, wants)| {
            let pairs: Vec<plan::Judged> = wants
                .iter()
                .zip(answers.by_ref())
                .map(|((step, want), answer)| (*step, want, answer))
                .collect();
            if stage.via == Via::Api && !speaks { T::default() } else { read(&pairs) }
        });
        Ok(judged.collect())
    }

    /// What people should know of: the node that says so, the step and the words.
    pub fn notes(&self) -> Result<Vec<Note>> {
        let fleet = self.fleet();
        let mut notes = self.told.clone();
        for (i, member) in self.members.iter().enumerate() {
            let of_node = self.read_in(i, &fleet, plan::notes)?.into_iter().flatten();
            notes.extend(of_node.map(|(step, words)| (member.node.name.clone(), step, words)));
        }
        Ok(notes)
    }

    /// All wants of a node by stage, each with its step.
    pub(super) fn wants_of(
        &self,
        member: &Member<S>,
        machine: &Machine,
        fleet: &Fleet,
    ) -> Result<Vec<Vec<(&'static Step, Want)>>> {
        let own = fleet.own(&member.node.name);
        let cx = |stage: &Stage| Cx {
            cluster: &self.cluster,
            node: &member.node,
            trust: &self.trust,
            now: OffsetDateTime::now_utc(),
            machine,
            fleet: if stage.is_own() { &own } else { fleet },
        };
        self.stages.iter().map(|stage| self.reading.wants(stage, &cx(stage))).collect()
    }

    /// The whole plan, by node. Wants of which nobody knows whether they hold are in it, and marked.
    pub fn plan(&self) -> Result<Vec<(String, Vec<Change>)>> {
        let fleet = self.fleet();
        let changes = |(i, member): (usize, &Member<S>)| {
            Ok((member.node.name.clone(), self.judge_in(i, &fleet)?.into_iter().flatten().collect()))
        };
        self.members.iter().enumerate().map(changes).collect()
    }

    /// How many wants there are in all, on machines that answered.
    pub fn wants(&self) -> usize {
        let speaks = self.api(&self.fleet());
        let counted = |i: usize, member: &Member<S>| {
            let counts = |stage: usize| self.stages[stage].via == Via::Node || speaks == Some(i);
            let asked = member.machine.is_some() && !member.spared;
            member.asks.iter().filter(|(stage, _)| asked && counts(*stage)).count()
        };
        self.members.iter().enumerate().map(|(i, member)| counted(i, member)).sum()
    }
}

fn is_about_keys(ask: &Ask) -> bool {
    matches!(ask, Ask::File(path) if path == PACKAGE_KEY)
}

impl<S: Shell> Fleetwork<S> {
    /// The signing keys of the Kubernetes repository that machines have, and that they were shown; none where the
    /// inventory says which one is right.
    pub(super) fn seen_keys(&self) -> Vec<Seen<'_>> {
        if self.cluster.packages.key.is_some() {
            return vec![];
        }
        let mut seen = vec![];
        for member in &self.members {
            let (node, speaks) = (member.node.name.as_str(), member.node.is_control_plane());
            let is_member = member.machine.as_ref().is_some_and(Machine::is_member);
            seen.extend(member.keys.as_ref().filter(|_| is_member).map(|keys| Seen {
                node,
                speaks,
                kept: true,
                keys,
            }));
            seen.extend(self.shown.get(node).map(|keys| Seen { node, speaks, kept: false, keys }));
        }
        seen
    }

    /// A member that has to be shown the key of the Kubernetes repository: it has none that can be read, or one that ends
    /// soon and may have a newer text by now.
    pub(super) fn needs_keys(&self, i: usize) -> bool {
        let member = &self.members[i];
        let asked = member.asks.iter().any(|(_, ask)| is_about_keys(ask));
        let is_member = member.machine.as_ref().is_some_and(Machine::is_member);
        let now = OffsetDateTime::now_utc();
        let lasts = member.keys.as_ref().is_some_and(|keys| keys.ends_soon(now).is_none());
        self.wants_keys() && asked && is_member && !member.spared && !lasts
    }

    /// Machines have to be shown the key of the Kubernetes repository: the inventory does not have it.
    pub(super) fn wants_keys(&self) -> bool {
        self.cluster.packages.key.is_none() && self.reading == Reading::Forwards
    }
}

impl<S> Member<S> {
    /// It runs a control plane, whose API server had an answer to every question.
    pub(super) fn hears_the_api(&self) -> bool {
        let unknown = |((_, ask), answer): (&(usize, Ask), &Answer)| {
            matches!((ask, answer), (Ask::Objects(_) | Ask::Nodes | Ask::Listed, Answer::Unknown(_)))
        };
        // The inventory decides who speaks for the cluster. A worker that claims to run an API server does not.
        let runs =
            self.node.is_control_plane() && self.machine.as_ref().is_some_and(Machine::runs_control_plane);
        runs && !self.asks.iter().zip(&self.answers).any(unknown)
    }

    /// Nodes of which the API said here that there is none.
    pub(super) fn unknown_nodes(&self) -> BTreeSet<String> {
        let runs = self.machine.as_ref().is_some_and(Machine::runs_control_plane);
        let absent = |((_, ask), answer): (&(usize, Ask), &Answer)| match (ask, answer) {
            (Ask::Objects(objects), Answer::Said(text)) if text.trim_end() == "absent" => {
                objects.first().filter(|object| object.kind == "Node").map(|object| object.name.clone())
            }
            _ => None,
        };
        self.asks.iter().zip(&self.answers).filter(|_| runs).filter_map(absent).collect()
    }

    /// The signing key of the Kubernetes repository in its file, as it answered.
    pub(super) fn package_keys(&self) -> Option<Keys> {
        let mut answers = self.asks.iter().zip(&self.answers).filter(|((_, ask), _)| is_about_keys(ask));
        let Some((_, Answer::Said(text))) = answers.next() else { return None };
        Keys::read(text).ok()
    }

    /// What kubelets told the API server here of their settings. Only control planes of the inventory ask.
    pub(super) fn told_by_kubelets(&self) -> BTreeMap<String, Arc<str>> {
        let mut answers =
            self.asks.iter().zip(&self.answers).filter(|((_, ask), _)| settings::is_about_kubelets(ask));
        let Some((_, Answer::Said(text))) = answers.next() else { return BTreeMap::new() };
        settings::lines(text).map(|(node, said)| (node.to_string(), said.into())).collect()
    }

    /// Nodes that answered it at the end of flannel's tunnel.
    pub(super) fn answered_tunnels(&self) -> BTreeSet<String> {
        let asked = self.asks.iter().zip(&self.answers);
        let mut answers = asked.filter(|((_, ask), _)| packets::is_about_packets(ask));
        let Some((_, Answer::Said(text))) = answers.next() else { return BTreeSet::new() };
        packets::tunnels::answered(text).map(String::from).collect()
    }

    /// All Nodes that the API named here, each with its ranges of pods.
    pub(super) fn named_nodes(&self) -> BTreeMap<String, Vec<String>> {
        let mut answers = self.asks.iter().zip(&self.answers).filter(|((_, ask), _)| *ask == Ask::Nodes);
        let Some((_, Answer::Said(text))) = answers.next() else { return BTreeMap::new() };
        let node = |line: &str| {
            let mut words = line.split(' ').map(String::from);
            Some((words.next()?, words.collect()))
        };
        text.lines().filter_map(node).collect()
    }
}
