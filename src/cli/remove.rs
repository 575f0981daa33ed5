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
    /// Remove the node even if it runs pods without a controller, which are deleted. Also if its machine does not answer, or if
    /// answers of a worker rule the removal out. In these two cases the machine stays as it is.
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
            "✔ {node} is out of {cluster}, and its machine as before, {}",
            duration(seconds)
        ));
        report::err("");
        report::err(&format!("  take [nodes.{node}] out of {inventory}: the next apply would join it again"));
    };
    end(fleet, session, done, |done| last_words(done.seconds)).await
}

/// Whether the user confirms the removal. Before that, it prints what the removal costs.
async fn is_confirmed(args: &Remove, session: &mut Session, plan: &Plan) -> Result<bool> {
    let (node, cluster) = (&args.node, session.cluster.name.clone());
    report::err("\nWhat its pods keep in emptyDir volumes or on its disk is lost.");
    if args.force {
        report::err("With --force, pods are deleted that nobody makes again.");
    }
    if plan.iter().all(|(name, changes)| name != node || changes.is_empty()) {
        report::err(&format!("The machine of {node} stays as it is."));
    }
    answer(&args.fleet, session, || report::ask(&format!("Remove {node} from {cluster}?"))).await
}

fn stays_as_it_is(cluster: &str, node: &str, inventory: &str) -> Error {
    Error::new(Kind::Partial, format!("is out of {cluster}, but did not answer: its machine is as it was"))
        .on(node)
        .because("its kubelet, its containers and its keys of the cluster are still on it: where it comes back, it registers again")
        .hint(format!("when it is back: ironstrap reset {node} -i {inventory}; then take it out of the inventory"))
}
