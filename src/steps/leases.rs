//! leases: the scheduler and the controller manager can work. Each works only while it holds a Lease. If another one holds
//! the Lease, it waits for as long as the Lease itself says.

use serde_json::Value;
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use crate::cluster::Args;
use crate::error::Result;
use crate::fleet::Blocked;
use crate::shell::{KUBECTL, Sh, controllers, kubectl, sh};
use crate::step::{Ask, Cx, Object, Step, Verdict, WITH_THE_CLUSTER, Want};

pub const STEP: Step = Step {
    name: "leases",
    why: "the scheduler and the controller manager work only while they hold their Leases",
    wants,
};

/// How old the last renewal of a Lease may be. A holder renews every few seconds. Clocks may be a minute apart.
const RENEWED_WITHIN: Duration = Duration::minutes(3);
/// How many seconds make a Lease too long. No inventory asks for a Lease that is as long.
const TOO_LONG: i64 = 3600;

fn wants(cx: &Cx) -> Result<Vec<Want>> {
    let components = [
        ("kube-scheduler", &cx.cluster.scheduler),
        ("kube-controller-manager", &cx.cluster.controller_manager),
    ];
    let elects = |args: &Args| argument(args, "leader-elect") != Some("false");
    let wants = |(name, args): (&'static str, &Args)| {
        let wanted = cx.fleet.exists && elects(args);
        [renewed(cx, name, args).only(wanted), lasts(cx, name, args).only(wanted)]
    };
    Ok(components.into_iter().flat_map(wants).collect())
}

fn argument<'a>(args: &'a Args, name: &str) -> Option<&'a str> {
    args.iter().rev().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
}

/// The namespace and the name of the Lease of a component.
fn place<'a>(name: &'a str, args: &'a Args) -> (&'a str, &'a str) {
    let namespace = argument(args, "leader-elect-resource-namespace").unwrap_or("kube-system");
    (namespace, argument(args, "leader-elect-resource-name").unwrap_or(name))
}

/// The want that a control plane goes on renewing its Lease. If its component runs and cannot, it ends itself, again and again,
/// and nothing in the cluster is scheduled. The machine itself judges the time, because the clock of the operator's computer may be
/// wrong. An API server that has just come back finds an old Lease, so the machine looks a second time.
fn lasts(cx: &Cx, name: &str, args: &Args) -> Want {
    let (namespace, name) = place(name, args);
    let lease = Object::new("coordination.k8s.io/v1", "Lease", namespace, name);
    let waits = cx.fleet.pending.first().map(|name| Blocked::until(name, "to be repaired"));
    let fix = controllers(&cx.node.name)
        + KUBECTL
        + LASTS
        + sh!(
            "WAIT_TIMEOUT=$((WAIT_TIMEOUT < 90 ? WAIT_TIMEOUT : 90))\nretry lease_lasts {namespace} {name}",
            namespace,
            name
        );
    let planes: Vec<String> = cx.cluster.control_planes().map(|node| node.name.clone()).collect();
    Want::new("leases.lasts", format!("the holder of {lease} keeps renewing it"))
        .of(lease.to_string())
        .ask(Ask::api(KUBECTL + LASTS + sh!("lease_expired {namespace} {name}", namespace, name)))
        .judged(move |answer| {
            let Some((holder, renewed)) = answer.trim_end().split_once(' ') else { return Verdict::Holds };
            // The other want reports a Lease of somebody else.
            if !is_of(holder, &planes) {
                return Verdict::Holds;
            }
            let (have, want) =
                (format!("held by {holder}, last renewed {renewed}\n"), "renewed every few seconds\n".into());
            match &waits {
                None => Verdict::Differs { have, want },
                Some(for_what) => Verdict::Waits { have, want, for_what: for_what.clone() },
            }
        })
        .run(fix)
        .eventually()
        .nothing_to_undo(WITH_THE_CLUSTER)
}

const LASTS: Sh = Sh::raw(include_str!("../../templates/leases.sh"));

fn renewed(cx: &Cx, name: &str, args: &Args) -> Want {
    let (namespace, name) = place(name, args);
    let lease = Object::new("coordination.k8s.io/v1", "Lease", namespace, name);
    let planes: Vec<String> = cx.cluster.control_planes().map(|node| node.name.clone()).collect();
    let now = cx.now;
    Want::new("leases.renewed", format!("{lease} is held and renewed by a control plane"))
        .of(lease.to_string())
        .ask(Ask::Objects(vec![lease]))
        .judged_object(move |lease| judge(lease, &planes, now))
        .run(
            kubectl()
                + sh!("kubectl -n {namespace} delete lease {name} --ignore-not-found\n", namespace, name),
        )
        .nothing_to_undo(WITH_THE_CLUSTER)
}

/// Judges a Lease. A waiting instance takes over once it has seen the same Lease for as long as the Lease says (client-go,
/// tools/leaderelection, `isLeaseValid`). `lasts` judges an expired Lease of a control plane.
fn judge(lease: Option<&Value>, planes: &[String], now: OffsetDateTime) -> Verdict {
    // The component makes a Lease as soon as it can.
    let Some(lease) = lease else { return Verdict::Holds };
    let text = |key: &str| lease["spec"][key].as_str().unwrap_or_default();
    let (holder, seconds) =
        (text("holderIdentity"), lease["spec"]["leaseDurationSeconds"].as_i64().unwrap_or(0));
    let renewed = OffsetDateTime::parse(text("renewTime"), &Rfc3339).ok();
    let ago = renewed.map(|time| now - time);
    // If the holder is no control plane, a long Lease alone proves the fault.
    let fresh =
        (seconds < TOO_LONG || is_of(holder, planes)) && ago.is_some_and(|ago| ago.abs() <= RENEWED_WITHIN);
    let ended = seconds < TOO_LONG && ago.is_none_or(|ago| ago > Duration::seconds(seconds));
    if holder.is_empty() || fresh || ended && is_of(holder, planes) {
        return Verdict::Holds;
    }
    let renewed = if renewed.is_some() { text("renewTime") } else { "never" };
    Verdict::Differs {
        have: format!("held by {holder} for {seconds} s, renewed {renewed}\n"),
        want: "held and renewed by a control plane\n".into(),
    }
}

/// Whether the holder is on one of these machines. Its name is the machine's name and a random number
/// (cmd/kube-scheduler/app/options, `ApplyLeaderElectionTo`; cmd/kube-controller-manager/app, `Run`). A machine may call
/// itself by its whole domain name.
fn is_of(holder: &str, planes: &[String]) -> bool {
    let host = holder.split('_').next().unwrap_or_default();
    let short = host.split('.').next().unwrap_or_default();
    planes.iter().any(|plane| plane == host || plane == short)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_blocking_lease_without_renewal_is_found() {
        let now = OffsetDateTime::from_unix_timestamp(1_796_000_000).unwrap();
        let judged = |holder: &str, seconds: i64, ago: i64| {
            let time = (now - Duration::seconds(ago)).format(&Rfc3339).unwrap();
            let spec = json!({"holderIdentity": holder, "leaseDurationSeconds": seconds, "renewTime": time});
            judge(Some(&json!({"spec": spec})), &["m1".into()], now)
        };
        for (holder, seconds, ago, holds) in [
            ("m1_1f", 15, 2, true),
            ("m1.example.org_1f", 15, -50, true),
            // The API server or the whole control plane was down. A running component takes the Lease soon.
            ("m1_1f", 15, 600, true),
            ("m1.example.org_1f", 15, 86_400, true),
            ("", 1, 86_400, true),
            // The holder is a control plane outside the inventory, which renewed the Lease recently.
            ("m9_1f", 15, 170, true),
            ("nobody", 1_000_000, 2, false),
            ("m1_1f", 1_000_000, 2, true),
            ("nobody", 1_000_000, 200, false),
            ("nobody", 15, 86_400, false),
            ("m1_1f", 1_000_000, 200, false),
            ("m1_1f", 1_000_000, 100_000_000, false),
            ("m1_1f", 15, -86_400, false),
        ] {
            let verdict = judged(holder, seconds, ago);
            assert_eq!(verdict == Verdict::Holds, holds, "{holder} {seconds} {ago}: {verdict:?}");
        }
        let Verdict::Differs { have, .. } = judged("nobody", 1_000_000, 200) else { panic!() };
        assert!(have.starts_with("held by nobody for 1000000 s, renewed 2026-11-"), "{have}");
        let never = json!({"spec": {"holderIdentity": "nobody", "leaseDurationSeconds": 9}});
        let Verdict::Differs { have, .. } = judge(Some(&never), &["m1".into()], now) else { panic!() };
        assert_eq!(have, "held by nobody for 9 s, renewed never\n");
        assert_eq!(judge(None, &[], now), Verdict::Holds);
    }
}
