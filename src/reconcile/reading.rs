//! Which wants a machine has. That depends on the operation, which decides how ironstrap reads the list of wants. The loop
//! that acts on the wants is the same for all operations.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use time::OffsetDateTime;
use tokio::sync::Semaphore;

use super::trace::TracedShell;
use super::{Host, Reconciler, work};

use crate::cluster::{Cluster, Node};
use crate::error::Result;
use crate::fleet::Fleet;
use crate::ledger::Run;
use crate::machine::Machine;
use crate::operations::remove::{self, Removal};
use crate::operations::reset;
use crate::pki::ClusterPki;
use crate::report::Events;
use crate::shell::Shell;
use crate::step::{Ask, Cx, Step, Want};
use crate::steps::{STAGES, Stage, Via};

/// The operation of a run. It decides how ironstrap reads the list of wants.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// Make each machine match the inventory.
    Apply,
    /// Return each machine to its state before ironstrap.
    Reset,
    /// Make a node leave the cluster, and then return its machine to its state before ironstrap.
    Remove(Removal),
}

impl Operation {
    /// The stages of this operation, in order.
    pub(super) fn stages(&self) -> Vec<Stage> {
        match self {
            Operation::Apply => STAGES.to_vec(),
            Operation::Reset => reset::stages(),
            Operation::Remove(_) => [remove::STAGE].into_iter().chain(reset::stages()).collect(),
        }
    }

    /// The wants of a stage for a machine, each with its step.
    pub(super) fn wants(&self, stage: &Stage, cx: &Cx) -> Result<Vec<(&'static Step, Want)>> {
        if !stage.is_asked_of(cx.node) {
            return Ok(vec![]);
        }
        match self {
            Operation::Apply => {}
            Operation::Remove(removal) if stage.via == Via::Api => return Ok(remove::wants(removal, cx)),
            Operation::Reset | Operation::Remove(_) => return reset::wants(stage, cx),
        }
        let mut all = Vec::new();
        for step in stage.steps {
            all.extend((step.wants)(cx)?.into_iter().map(|want| (step, want)));
        }
        Ok(all)
    }

    /// All questions to a node, each with its stage. ironstrap knows them before the first packet, and no answer changes
    /// them.
    pub(super) fn asks(
        &self,
        stages: &[Stage],
        cluster: &Cluster,
        pki: &ClusterPki,
        node: &Node,
    ) -> Result<Vec<(usize, Ask)>> {
        let (machine, fleet) = (Machine::default(), Fleet::default());
        let cx = Cx { cluster, node, pki, now: OffsetDateTime::now_utc(), machine: &machine, fleet: &fleet };
        let mut asks = Vec::new();
        for (t, stage) in stages.iter().enumerate() {
            asks.extend(self.wants(stage, &cx)?.into_iter().map(|(_, want)| (t, want.ask)));
        }
        Ok(asks)
    }
}

impl<S: Shell> Reconciler<S> {
    /// Makes a reconciler as `new` does, for this operation.
    pub fn for_operation(
        operation: Operation,
        known: (Arc<Cluster>, ClusterPki),
        shells: Vec<S>,
        run: Run,
        events: Events,
    ) -> Result<Self> {
        let stages = operation.stages();
        Self::with_stages(operation, stages, known, shells, run, events)
    }

    pub(super) fn with_stages(
        operation: Operation,
        stages: Vec<Stage>,
        (cluster, pki): (Arc<Cluster>, ClusterPki),
        shells: Vec<S>,
        run: Run,
        events: Events,
    ) -> Result<Self> {
        let (limits, etcd_dir) = (Arc::default(), Arc::from(cluster.etcd_dir()));
        let places = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        let mut hosts = Vec::new();
        for (node, shell) in cluster.nodes.iter().zip(shells) {
            let asks = operation.asks(&stages, &cluster, &pki, node)?;
            hosts.push(Host {
                node: node.clone(),
                shell: Arc::new(TracedShell {
                    shell,
                    node: node.name.clone(),
                    places: places.clone(),
                    events: events.clone(),
                    etcd_dir: Arc::clone(&etcd_dir),
                    limits: Arc::clone(&limits),
                }),
                asks,
                extra_asks: vec![],
                execs: 0,
                machine: None,
                answers: vec![],
                keys: None,
                kubelets: BTreeMap::new(),
                tunnels: BTreeSet::new(),
                api_answers: false,
                extra_answers: vec![],
                clock: 0.0,
                quarantined: None,
                preflight_errors: vec![],
                excluded: false,
                open: Default::default(),
                pending: 0,
                changed: BTreeSet::new(),
                progress: work::HostProgress::default(),
            });
        }
        let (open, unregistered, unmanaged_nodes, ranges, logs) = Default::default();
        Ok(Reconciler {
            cluster,
            operation,
            stages,
            pki,
            hosts,
            run,
            events,
            observes_only: false,
            places,
            unmet: open,
            logs,
            unregistered,
            unmanaged_nodes,
            tried: vec![],
            shown: BTreeMap::new(),
            ranges,
            preflight_notes: vec![],
            fixes: 0,
            confirmed: BTreeSet::new(),
            proof: Default::default(),
            failed_wants: BTreeSet::new(),
        })
    }
}
