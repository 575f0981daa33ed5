//! `remove`: takes a node out of its cluster in good order, and returns its machine to its earlier state.

use clap::{Args, value_parser};

use super::apply::summary::duration;
use super::reset::{Plan, answer, end, under_lock};
use super::{FleetArgs, Outcome, Session, Taking, one};
use crate::error::{Error, Kind, Result};
use crate::operations::remove::Removal;
use crate::reconcile::Operation;
use crate::report;

#[derive(Args)]
pub(super) struct Remove {
    /// The node to remove.
    node: String,
    #[command(flatten)]
    fleet: FleetArgs,
    #[command(flatten)]
    taking: Taking,
    /// Do not ask for confirmation.
    #[arg(long, short)]
    yes: bool,
    /// Remove the node even if it runs pods without a controller, and delete these pods. Also remove it if its machine does not
    /// answer, or if the answers of a worker forbid the removal. In these two cases the machine is not changed.
    #[arg(long)]
    force: bool,
    /// Seconds to wait for its pods to be evicted.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = value_parser!(u32).range(1..=86_400))]
    drain_timeout: u32,
}

pub(super) async fn remove(args: &Remove) -> Outcome {
    let (fleet, node) = (&args.fleet, args.node.as_str());
    let removal = Removal { node: node.into(), force: args.force, drain_seconds: args.drain_timeout };
    let operation = Operation::Remove(removal);
    let session =
        fleet.start_operation(operation, fleet.style(), std::slice::from_ref(&args.node), None).await;
    let mut session = session.map_err(one)?;
    let (cluster, inventory) =
        (session.cluster.name.clone(), fleet.inventory.inventory.display().to_string());
    let done = under_lock((fleet, &args.taking), &mut session, async |session, plan| match args.yes {
        true => Ok(true),
        false => is_confirmed(args, session, plan).await,
    });
    let mut done = done.await;
    if let Ok(errors) = &mut done {
        let silent = session.reconciler.hosts().iter().any(|host| !host.excluded && host.machine.is_none());
        if silent && !errors.iter().any(|error| error.node.as_deref() != Some(node)) {
            errors.push(stays_as_it_is(&cluster, node, &inventory));
        }
    }
    let last_words = |seconds: f64| {
        report::err(&format!(
            "✔ removed {node} from {cluster} and restored its machine, {}",
            duration(seconds)
        ));
        report::err("");
        report::err(&format!("  delete [nodes.{node}] from {inventory}, or the next apply joins it again"));
    };
    end(fleet, session, done, |done| last_words(done.seconds)).await
}

/// Whether the user confirms the removal. Before that, it prints what the removal costs.
async fn is_confirmed(args: &Remove, session: &mut Session, plan: &Plan) -> Result<bool> {
    let (node, cluster) = (&args.node, session.cluster.name.clone());
    report::err("\nData of its pods in emptyDir volumes and on its disk will be lost.");
    if args.force {
        report::err("--force also deletes pods without a controller; no program creates them again.");
    }
    if plan.iter().all(|(name, changes)| name != node || changes.is_empty()) {
        report::err(&format!("The machine of {node} will not be changed."));
    }
    answer(&args.fleet, session, || report::ask(&format!("Remove {node} from {cluster}?"))).await
}

fn stays_as_it_is(cluster: &str, node: &str, inventory: &str) -> Error {
    Error::new(Kind::Partial, format!("was removed from {cluster}, but its machine did not answer and was not changed"))
        .on(node)
        .because("its kubelet, containers and cluster keys are still on it; if it comes back, its kubelet registers it again")
        .hint(format!("when it is back, run: ironstrap reset {node} -i {inventory}; then delete it from the inventory"))
}
