//! `status`: asks the machines, and shows the fleet on one screen, once or repeatedly.

use std::time::Duration;

use clap::Args;
use time::OffsetDateTime;

use super::{End, Errors, FleetArgs, Limit, Outcome, Session, one, plan};
use crate::error::Kind;
use crate::report::status::View;
use crate::report::{self, Style};
use crate::status::{self, NodeEvidence};

#[derive(Args)]
pub(super) struct Status {
    #[command(flatten)]
    fleet: FleetArgs,
    #[command(flatten)]
    limit: Limit,
    /// Exit with 1 if something differs from the inventory.
    #[arg(long)]
    exit_code: bool,
    /// Refresh every N seconds (5 if N is absent) until Ctrl-C.
    #[arg(long, help_heading = "Output", value_name = "SECONDS", num_args = 0..=1, default_missing_value = "5",
        value_parser = clap::value_parser!(u64).range(1..=86_400))]
    watch: Option<u64>,
    /// Show every node. By default, more than 32 nodes are grouped by role and state.
    #[arg(long, help_heading = "Output")]
    all: bool,
}

impl Status {
    fn view(&self, again: Option<u64>) -> View {
        View { json: self.fleet.json, all: self.all, again }
    }
}

pub(super) async fn status(args: &Status) -> Outcome {
    let Some(seconds) = args.watch else {
        let (status, end) = look(args).await?;
        report::status::show(&status, args.view(None));
        return Ok(end);
    };
    let stop = tokio::signal::ctrl_c();
    tokio::pin!(stop);
    loop {
        let status = tokio::select! {
            // This branch must get a Ctrl-C first, because `look` treats it as an error.
            biased;
            _ = &mut stop => return Ok(End::Good),
            seen = look(args) => seen?.0,
        };
        if !report::status::show(&status, args.view(Some(seconds))) {
            return Ok(End::Good);
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(seconds)) => {}
            _ = &mut stop => return Ok(End::Good),
        }
    }
}

/// Makes one status from the start, with the inventory and the cluster PKI as they are by then.
async fn look(args: &Status) -> std::result::Result<(status::Status, End), Errors> {
    let questions =
        |cluster: &_, node: &_| status::questions(cluster, node).into_iter().map(|(_, ask)| ask).collect();
    let session = args.fleet.start_observing(Style::Quiet, &args.limit, questions).await;
    let mut session = session.map_err(one)?;
    let (preflight, plan) = plan::surveyed(&mut session).map_err(one)?;
    let unknown = plan::unknown(&plan).map(|error| error.kind);
    let status = seen(&session, &plan, preflight.errors);
    drop((session.events, session.reconciler));
    let _ = session.printer.await;
    let unseen = (!status.unseen.is_empty()).then_some(Kind::Unknown);
    let kind = status.errors.last().map(|error| error.kind).or(unknown).or(unseen);
    let end = match kind {
        Some(kind) => End::Reported(kind),
        None if args.exit_code && status.changes > 0 => End::Drift,
        None => End::Good,
    };
    Ok((status, end))
}

fn seen(session: &Session, plan: &plan::Changes, errors: Errors) -> status::Status {
    let told = session.reconciler.hosts().iter().zip(plan).map(|(host, (_, changes))| NodeEvidence {
        node: &host.node,
        machine: host.machine.as_ref(),
        answers: &host.extra_answers,
        changes,
        left: host.quarantined.as_ref(),
    });
    let told: Vec<NodeEvidence> = told.collect();
    let mut status = status::status(
        &session.cluster,
        &told,
        session.reconciler.api_host(),
        errors,
        OffsetDateTime::now_utc(),
    );
    status.notes = session.warnings.iter().map(|(_, words)| words.clone()).collect();
    status.leave_out(|name| session.reconciler.hosts().iter().any(|m| m.excluded && m.node.name == name));
    status
}
