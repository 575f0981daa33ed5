//! Judges the answers: which wants do not hold on each node, and what people should know of. `apply` acts on the result.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use time::OffsetDateTime;

use super::{Host, Operation, Reconciler};
use crate::error::Result;
use crate::fleet::Fleet;
use crate::fleet::keys::Seen;
use crate::machine::Machine;
use crate::openpgp::Keys;
use crate::plan::{self, Change, State};
use crate::shell::Shell;
use crate::step::{Answer, Ask, Cx, Step, Want};
use crate::steps::{PACKAGE_KEY, Stage, Via, packets, settings};

/// A note for people: the node that reports it, the step, and the words.
pub type Note = (String, &'static str, String);

impl<S: Shell> Reconciler<S> {
    /// The index of the API host: the control plane that ironstrap asks about the cluster as a whole. It is one whose API
    /// server answers, else the init node, else any control plane.
    pub(super) fn api_host_of(&self, fleet: &Fleet) -> Option<usize> {
        let answers = |host: &Host<S>| host.quarantined.is_none() && host.api_answers;
        // A node that leaves the cluster is not asked about the nodes that stay.
        let removal = matches!(self.operation, Operation::Remove(_));
        let position = |which: &dyn Fn(&Host<S>) -> bool| {
            self.hosts.iter().position(|host| (host.excluded || !removal) && which(host))
        };
        let ours = position(&|host| !host.excluded && answers(host));
        let any = ours.or_else(|| position(&|host| answers(host)));
        let init_node = || position(&|host| host.node.name == fleet.init_node);
        any.or_else(init_node).or_else(|| position(&|host| host.node.is_control_plane()))
    }

    /// The changes in scope on a node, by stage, in this state of the fleet.
    pub(super) fn judge_in(&self, i: usize, fleet: &Fleet) -> Result<Vec<Vec<Change>>> {
        Ok(self.ours(i, self.judge_all(i, fleet)?))
    }

    /// Those of these changes that are in scope of this run.
    pub(super) fn ours(&self, i: usize, mut stages: Vec<Vec<Change>>) -> Vec<Vec<Change>> {
        for (stage, changes) in self.stages.iter().zip(&mut stages) {
            changes.retain(|change| self.is_in_scope(i, stage.via, change));
        }
        stages
    }

    /// All changes on a node, by stage, whether they are in scope of this run or not.
    pub(super) fn judge_all(&self, i: usize, fleet: &Fleet) -> Result<Vec<Vec<Change>>> {
        if self.is_known_clean(i, fleet) {
            return Ok(vec![vec![]; self.stages.len()]);
        }
        let mut touched = BTreeSet::new();
        let mut stages = self.read_in(i, fleet, |judged| plan::changes(judged, &mut touched))?;
        for (stage, changes) in self.stages.iter().zip(&mut stages) {
            for change in changes {
                change.of_cluster = stage.via == Via::Api;
                if matches!(&change.state, State::Unconfirmed(open) if self.confirmed.contains(open)) {
                    change.state = State::Ready;
                }
                self.waits_for_repair(change);
            }
        }
        Ok(stages)
    }

    /// Whether a machine needed no change when it was last judged, and nothing is different since. Judging a machine costs
    /// time. Without this check, a run would judge many machines again that need no change.
    pub(super) fn is_known_clean(&self, i: usize, fleet: &Fleet) -> bool {
        let host = &self.hosts[i];
        let same = |clean: &Fleet| *clean == fleet.own(&host.node.name);
        host.progress.clean_for.as_ref().is_some_and(same) && self.api_host_of(fleet) != Some(i)
    }

    /// Records whether a machine that was just judged is clean, which means that it needs no change. The API host never
    /// counts as clean, because much changes in the cluster as a whole.
    pub(super) fn keep_whether_clean(&mut self, i: usize, fleet: &Fleet, stages: &[Vec<Change>]) {
        let clean = stages.iter().all(Vec::is_empty) && self.api_host_of(fleet) != Some(i);
        self.hosts[i].progress.clean_for = clean.then(|| fleet.own(&self.hosts[i].node.name));
    }

    /// Applies `read` to the wants and answers of a node, and returns its results by stage. Stages for the whole cluster
    /// count only on the API host.
    pub(super) fn read_in<T: Default>(
        &self,
        i: usize,
        fleet: &Fleet,
        mut read: impl FnMut(&[plan::Answered]) -> T,
    ) -> Result<Vec<T>> {
        let host = &self.hosts[i];
        let nothing = || self.stages.iter().map(|_| T::default()).collect();
        let Some(machine) = &host.machine else { return Ok(nothing()) };
        let wants = self.wants_of(host, machine, fleet)?;
        let mut answers = host.answers.iter();
        let speaks = self.api_host_of(fleet) == Some(i);
        let judged = self.stages.iter().zip(&wants).map(|(stage, wants)| {
            let pairs: Vec<plan::Answered> = wants
                .iter()
                .zip(answers.by_ref())
                .map(|((step, want), answer)| (*step, want, answer))
                .collect();
            if stage.via == Via::Api && !speaks { T::default() } else { read(&pairs) }
        });
        Ok(judged.collect())
    }

    /// The notes for people: the node that reports each of them, the step, and the words.
    pub fn notes(&self) -> Result<Vec<Note>> {
        let fleet = self.fleet();
        let mut notes = self.preflight_notes.clone();
        for (i, host) in self.hosts.iter().enumerate() {
            let of_node = self.read_in(i, &fleet, plan::notes)?.into_iter().flatten();
            notes.extend(of_node.map(|(step, words)| (host.node.name.clone(), step, words)));
        }
        Ok(notes)
    }

    /// All wants of a node by stage, each with its step.
    pub(super) fn wants_of(
        &self,
        host: &Host<S>,
        machine: &Machine,
        fleet: &Fleet,
    ) -> Result<Vec<Vec<(&'static Step, Want)>>> {
        let own = fleet.own(&host.node.name);
        let cx = |stage: &Stage| Cx {
            cluster: &self.cluster,
            node: &host.node,
            pki: &self.pki,
            now: OffsetDateTime::now_utc(),
            machine,
            fleet: if stage.is_own() { &own } else { fleet },
        };
        self.stages.iter().map(|stage| self.operation.wants(stage, &cx(stage))).collect()
    }

    /// The whole plan, by node. It includes wants whose state is unknown, and marks them.
    pub fn plan(&self) -> Result<Vec<(String, Vec<Change>)>> {
        let fleet = self.fleet();
        let changes = |(i, host): (usize, &Host<S>)| {
            Ok((host.node.name.clone(), self.judge_in(i, &fleet)?.into_iter().flatten().collect()))
        };
        self.hosts.iter().enumerate().map(changes).collect()
    }

    /// How many wants there are in scope, on machines that answered.
    pub fn wants(&self) -> usize {
        let speaks = self.api_host_of(&self.fleet());
        let counted = |i: usize, host: &Host<S>| {
            let counts = |stage: usize| self.stages[stage].via == Via::Node || speaks == Some(i);
            let asked = host.machine.is_some() && !host.excluded;
            host.asks.iter().filter(|(stage, _)| asked && counts(*stage)).count()
        };
        self.hosts.iter().enumerate().map(|(i, host)| counted(i, host)).sum()
    }
}

fn is_about_keys(ask: &Ask) -> bool {
    matches!(ask, Ask::File(path) if path == PACKAGE_KEY)
}

impl<S: Shell> Reconciler<S> {
    /// The signing keys of the Kubernetes repository that members have, and those that machines were shown. Empty if the
    /// inventory names the right key.
    pub(super) fn seen_keys(&self) -> Vec<Seen<'_>> {
        if self.cluster.packages.key.is_some() {
            return vec![];
        }
        let mut seen = vec![];
        for host in &self.hosts {
            let (node, speaks) = (host.node.name.as_str(), host.node.is_control_plane());
            let is_member = host.machine.as_ref().is_some_and(Machine::is_member);
            seen.extend(host.keys.as_ref().filter(|_| is_member).map(|keys| Seen {
                node,
                speaks,
                kept: true,
                keys,
            }));
            seen.extend(self.shown.get(node).map(|keys| Seen { node, speaks, kept: false, keys }));
        }
        seen
    }

    /// Whether a member must be shown the key of the Kubernetes repository. It has no key that ironstrap can read, or its
    /// key ends soon. In the second case, the repository may have a newer text of the key by now.
    pub(super) fn needs_keys(&self, i: usize) -> bool {
        let host = &self.hosts[i];
        let asked = host.asks.iter().any(|(_, ask)| is_about_keys(ask));
        let is_member = host.machine.as_ref().is_some_and(Machine::is_member);
        let now = OffsetDateTime::now_utc();
        let lasts = host.keys.as_ref().is_some_and(|keys| keys.ends_soon(now).is_none());
        self.wants_keys() && asked && is_member && !host.excluded && !lasts
    }

    /// Whether machines must be shown the key of the Kubernetes repository. They must in an apply if the inventory does not
    /// have the key.
    pub(super) fn wants_keys(&self) -> bool {
        self.cluster.packages.key.is_none() && self.operation == Operation::Apply
    }
}

impl<S> Host<S> {
    /// Whether this host runs a control plane whose API server answered every question.
    pub(super) fn hears_the_api(&self) -> bool {
        let unknown = |((_, ask), answer): (&(usize, Ask), &Answer)| {
            matches!(ask, Ask::Objects(_) | Ask::Nodes | Ask::Listed) && answer.unknown().is_some()
        };
        // The inventory decides which hosts are control planes. A worker that claims to run an API server is never the API
        // host.
        let runs =
            self.node.is_control_plane() && self.machine.as_ref().is_some_and(Machine::runs_control_plane);
        runs && !self.asks.iter().zip(&self.answers).any(unknown)
    }

    /// The names of Nodes that do not exist, as the API said on this host.
    pub(super) fn unknown_nodes(&self) -> BTreeSet<String> {
        let runs = self.machine.as_ref().is_some_and(Machine::runs_control_plane);
        let absent = |((_, ask), answer): (&(usize, Ask), &Answer)| match (ask, answer) {
            (Ask::Objects(objects), Answer::Objects(found)) if **found == [None] => {
                objects.first().filter(|object| object.kind == "Node").map(|object| object.name.clone())
            }
            _ => None,
        };
        self.asks.iter().zip(&self.answers).filter(|_| runs).filter_map(absent).collect()
    }

    /// The signing key of the Kubernetes repository in its file, as this host answered.
    pub(super) fn package_keys(&self) -> Option<Keys> {
        let mut answers = self.asks.iter().zip(&self.answers).filter(|((_, ask), _)| is_about_keys(ask));
        let Some((_, Answer::Said(text))) = answers.next() else { return None };
        Keys::read(text).ok()
    }

    /// The settings that kubelets reported to this host's API server, by node. Only control planes of the inventory ask for
    /// them.
    pub(super) fn told_by_kubelets(&self) -> BTreeMap<String, Arc<str>> {
        let mut answers =
            self.asks.iter().zip(&self.answers).filter(|((_, ask), _)| settings::is_about_kubelets(ask));
        let Some((_, Answer::Said(text))) = answers.next() else { return BTreeMap::new() };
        settings::lines(text).map(|(node, said)| (node.to_string(), said.into())).collect()
    }

    /// Nodes that answered this host at the end of their flannel tunnel.
    pub(super) fn answered_tunnels(&self) -> BTreeSet<String> {
        let asked = self.asks.iter().zip(&self.answers);
        let mut answers = asked.filter(|((_, ask), _)| packets::is_about_packets(ask));
        let Some((_, Answer::Said(text))) = answers.next() else { return BTreeSet::new() };
        packets::tunnels::answered(text).map(String::from).collect()
    }

    /// All Nodes that the API named on this host, each with its pod ranges.
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
