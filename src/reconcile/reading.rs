//! Which wants a machine has, by the way in which the list is read. What is done about them is the same either way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use time::OffsetDateTime;
use tokio::sync::Semaphore;

use super::told::Told;
use super::{Fleetwork, Member, work};

use crate::backwards;
use crate::cluster::{Cluster, Node};
use crate::error::Result;
use crate::fleet::Fleet;
use crate::ledger::Run;
use crate::machine::Machine;
use crate::ops::remove::{self, Removal};
use crate::pki::Trust;
use crate::report::Events;
use crate::shell::Shell;
use crate::step::{Ask, Cx, Step, Want};
use crate::steps::{STAGES, Stage, Via};

/// Which way the list of wants is read.
#[derive(Clone, Debug, PartialEq)]
pub enum Reading {
    /// A machine is to be as the inventory says.
    Forwards,
    /// It is to be as it was before.
    Backwards,
    /// It is to leave the cluster, and then to be as it was before.
    Removal(Removal),
}

impl Reading {
    /// What is done, in order.
    pub(super) fn stages(&self) -> Vec<Stage> {
        match self {
            Reading::Forwards => STAGES.to_vec(),
            Reading::Backwards => backwards::stages(),
            Reading::Removal(_) => [remove::STAGE].into_iter().chain(backwards::stages()).collect(),
        }
    }

    /// The wants of a stage for a machine, each with its step.
    pub(super) fn wants(&self, stage: &Stage, cx: &Cx) -> Result<Vec<(&'static Step, Want)>> {
        if !stage.is_asked_of(cx.node) {
            return Ok(vec![]);
        }
        match self {
            Reading::Forwards => {}
            Reading::Removal(removal) if stage.via == Via::Api => return Ok(remove::wants(removal, cx)),
            Reading::Backwards | Reading::Removal(_) => return backwards::wants(stage, cx),
        }
        let mut all = Vec::new();
        for step in stage.steps {
            all.extend((step.wants)(cx)?.into_iter().map(|want| (step, want)));
        }
        Ok(all)
    }

    /// All questions to a node. They are known before the first packet, and stay the same whatever the answers.
    pub(super) fn asks(
        &self,
        stages: &[Stage],
        cluster: &Cluster,
        trust: &Trust,
        node: &Node,
    ) -> Result<Vec<(usize, Ask)>> {
        let (machine, fleet) = (Machine::default(), Fleet::default());
        let cx =
            Cx { cluster, node, trust, now: OffsetDateTime::now_utc(), machine: &machine, fleet: &fleet };
        let mut asks = Vec::new();
        for (t, stage) in stages.iter().enumerate() {
            asks.extend(self.wants(stage, &cx)?.into_iter().map(|(_, want)| (t, want.ask)));
        }
        Ok(asks)
    }
}

impl<S: Shell> Fleetwork<S> {
    /// As `new`, with the list of wants read this way.
    pub fn reading(
        reading: Reading,
        known: (Arc<Cluster>, Trust),
        shells: Vec<S>,
        run: Run,
        events: Events,
    ) -> Result<Self> {
        let stages = reading.stages();
        Self::read(reading, stages, known, shells, run, events)
    }

    pub(super) fn read(
        reading: Reading,
        stages: Vec<Stage>,
        (cluster, trust): (Arc<Cluster>, Trust),
        shells: Vec<S>,
        run: Run,
        events: Events,
    ) -> Result<Self> {
        let (limits, etcd_dir) = (Arc::default(), Arc::from(cluster.etcd_dir()));
        let places = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        let mut members = Vec::new();
        for (node, shell) in cluster.nodes.iter().zip(shells) {
            let asks = reading.asks(&stages, &cluster, &trust, node)?;
            members.push(Member {
                node: node.clone(),
                shell: Arc::new(Told {
                    shell,
                    node: node.name.clone(),
                    places: places.clone(),
                    events: events.clone(),
                    etcd_dir: Arc::clone(&etcd_dir),
                    limits: Arc::clone(&limits),
                }),
                asks,
                looks: vec![],
                execs: 0,
                machine: None,
                answers: vec![],
                keys: None,
                kubelets: BTreeMap::new(),
                tunnels: BTreeSet::new(),
                api_answers: false,
                looked: vec![],
                clock: 0.0,
                left: None,
                unfit: vec![],
                spared: false,
                open: Default::default(),
                pressing: 0,
                changed: BTreeSet::new(),
                work: work::State::default(),
            });
        }
        let (open, unregistered, strangers, ranges, heard) = Default::default();
        Ok(Fleetwork {
            cluster,
            reading,
            stages,
            trust,
            members,
            run,
            events,
            looks_only: false,
            places,
            open,
            heard,
            unregistered,
            strangers,
            tried: vec![],
            shown: BTreeMap::new(),
            ranges,
            told: vec![],
            fixes: 0,
            confirmed: BTreeSet::new(),
            proof: Default::default(),
            given_up: BTreeSet::new(),
        })
    }
}
