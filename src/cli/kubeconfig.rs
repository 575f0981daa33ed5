//! `kubeconfig`: prints the operator's kubeconfig, or issues one for another user. Everything comes from the cluster PKI. The
//! command asks no machine, and does not change the PKI.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use time::OffsetDateTime;

use super::session::warn_of_unsafe_files;
use super::{End, Inventory, Outcome, one};
use crate::cluster::Cluster;
use crate::error::{Error, Kind, Result};
use crate::inventory;
use crate::pki::{self, ClusterPki, Entry, Pair, Person, RENEW_BEFORE};
use crate::report;
use crate::store::{self, Store};

#[derive(Args)]
pub(super) struct Kubeconfig {
    #[command(flatten)]
    inventory: Inventory,
    /// Write it to this file (0600) instead of standard output.
    #[arg(long, value_name = "FILE", conflicts_with = "merge")]
    write: Option<PathBuf>,
    /// Merge it into your own kubeconfig: the first file of $KUBECONFIG, or ~/.kube/config. The context is named after the
    /// cluster. A copy of the old file is kept beside it.
    #[arg(long)]
    merge: bool,
    /// Issue a client certificate for this user name.
    #[arg(long = "as", value_name = "NAME")]
    name: Option<String>,
    /// Group of this user, as role bindings name it. May be given more than once.
    #[arg(long = "group", value_name = "GROUP", requires = "name")]
    groups: Vec<String>,
    /// Allow groups that begin with system: or kubeadm:, as in system:masters. They are reserved for Kubernetes.
    #[arg(long, requires = "groups")]
    allow_system_group: bool,
    /// How long the certificate is valid, as in 30m, 8h or 7days [default: 8h]. For groups that begin with system: or kubeadm:,
    /// the default is 1h and the maximum 24h. It cannot be revoked.
    #[arg(long = "for", value_name = "TIME", requires = "name", value_parser = lasting)]
    lasts: Option<Duration>,
}

/// The longest time for which a user's certificate may be valid. A CA of the cluster is valid for the same time.
const LONGEST: Duration = Duration::from_secs(3650 * 24 * 3600);
const SHORTEST: Duration = Duration::from_secs(1);

fn lasting(text: &str) -> std::result::Result<Duration, String> {
    let lasts = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match (SHORTEST..=LONGEST).contains(&lasts) {
        true => Ok(lasts),
        false => Err("the time must be between 1s and 3650days".into()),
    }
}

/// How long another user's certificate is valid by default: a working day.
const LASTS: Duration = Duration::from_secs(8 * 3600);
/// The default for a certificate with a group that belongs to Kubernetes.
const RESERVED_LASTS: Duration = Duration::from_secs(3600);

pub(super) fn kubeconfig(args: &Kubeconfig) -> Outcome {
    let cluster = inventory::read(&args.inventory.inventory).map_err(one)?;
    let store = Store::new(&cluster);
    warn_of_unsafe_files(&cluster);
    let pki = store.load().and_then(|pki| pki.ok_or_else(|| no_trust(&store))).map_err(one)?;
    let new = if args.allow_system_group { Person::with_system_groups } else { Person::new };
    let person = args.name.as_ref().map(|name| new(name, &args.groups)).transpose().map_err(one)?;
    match person {
        Some(person) => issued(args, &cluster, &pki, &person),
        None => own(args, &cluster, &pki),
    }
    .map_err(one)?;
    Ok(End::Good)
}

fn no_trust(store: &Store) -> Error {
    let what =
        format!("{} does not exist, so there are no credentials for the cluster", store.path().display());
    Error::new(Kind::Local, what).hint("run `ironstrap apply` to create the cluster and its credentials")
}

/// Delivers the operator's own kubeconfig.
fn own(args: &Kubeconfig, cluster: &Cluster, pki: &ClusterPki) -> Result<()> {
    let url = cluster.operators_url();
    let until = pki.admin_until().ok_or_else(|| {
        Error::new(Kind::Local, "the PKI directory has no client certificate for you")
            .hint("run `ironstrap apply` to create one")
    })?;
    let entry = pki.entry(cluster, &url, (&cluster.name, &cluster.name), &pki.admin);
    deliver(args, &pki.admin_kubeconfig(cluster, &url), &entry)?;
    let now = OffsetDateTime::now_utc();
    match until - now < RENEW_BEFORE {
        true if pki.admin_ends_with_the_ca() => report::err(&format!(
            "warning: valid until {}, when the cluster's CA expires; ironstrap cannot renew the CA yet",
            when(until, now)
        )),
        true => {
            report::err(&format!("warning: valid until {}; `ironstrap apply` renews it", when(until, now)))
        }
        false => {
            report::err(&format!("valid until {}; `ironstrap apply` renews it in time", when(until, now)))
        }
    }
    Ok(())
}

/// Issues a new kubeconfig for another user, and delivers it.
fn issued(args: &Kubeconfig, cluster: &Cluster, pki: &ClusterPki, person: &Person) -> Result<()> {
    let (now, url) = (OffsetDateTime::now_utc(), cluster.operators_url());
    let lasts =
        args.lasts.unwrap_or(if person.longest_validity().is_some() { RESERVED_LASTS } else { LASTS });
    let lasts = lasts.try_into().unwrap_or(time::Duration::MAX);
    let (pair, until): (Pair, _) = pki.issue(person, lasts, now)?;
    let name = format!("{}-{}", cluster.name, person.name);
    let entry = pki.entry(cluster, &url, (&name, &name), &pair);
    let comment = format!("Issued by ironstrap; valid until {}.", when(until, now));
    deliver(args, &entry.file(&comment), &entry)?;
    let groups = match person.groups.is_empty() {
        true => "in no group".to_string(),
        false => format!("in {}", person.groups.join(", ")),
    };
    report::err(&format!(
        "{} ({groups}) can log in until {}; the certificate cannot be revoked",
        person.name,
        when(until, now)
    ));
    match person.reserved_group() {
        Some("system:masters") => {
            report::err("warning: members of system:masters may do anything, and no role binding limits them")
        }
        Some(group @ "kubeadm:cluster-admins") => {
            report::err(&format!("warning: members of {group} may do anything in this cluster"))
        }
        Some(group) => report::err(&format!(
            "warning: {group} is reserved for Kubernetes; check which role bindings name it, and what they allow"
        )),
        None => report::err(&format!(
            "grant permissions to {} by role bindings, as in: kubectl create rolebinding NAME --clusterrole=view --user={}",
            person.name,
            crate::shell::quote(&person.name)
        )),
    }
    Ok(())
}

/// Puts the kubeconfig where the user wants it.
fn deliver(args: &Kubeconfig, text: &str, entry: &Entry) -> Result<()> {
    if let Some(path) = &args.write {
        store::write_kubeconfig(path, text)?;
        report::err(&format!("✔ {} is a kubeconfig for {}", path.display(), entry.server));
        return Ok(());
    }
    if !args.merge {
        report::raw(text.as_bytes());
        return Ok(());
    }
    let path = store::own_kubeconfig()?;
    let (mut written, mut had_comments) = (false, false);
    let copy = store::edit_shared(&path, |theirs| {
        let merged = pki::merged(theirs, entry)?;
        (written, had_comments) = (merged.text.is_some(), merged.had_comments);
        Ok(merged.text)
    })?;
    let shown = path.display();
    report::err(&match written {
        true => format!(
            "✔ {shown} has the context {}: kubectl --context {} get nodes",
            entry.context, entry.context
        ),
        false => format!("✔ {shown} has the context {} already", entry.context),
    });
    if let Some(copy) = copy {
        let lost = if had_comments { "; only this copy has its comments" } else { "" };
        report::err(&format!("  copy of the old file: {}{lost}", copy.display()));
    }
    Ok(())
}

/// Returns a time, with how far away it is.
fn when(until: OffsetDateTime, now: OffsetDateTime) -> String {
    let format = time::macros::format_description!("[year]-[month]-[day] [hour]:[minute] UTC");
    let text = until.format(format).unwrap_or_default();
    let left = until - now;
    match left.whole_hours() {
        _ if left <= time::Duration::ZERO => format!("{text} (expired)"),
        hours if hours >= 48 => format!("{text} ({} days)", left.whole_days()),
        _ => {
            let seconds = left.whole_seconds().unsigned_abs();
            format!("{text} ({})", humantime::format_duration(Duration::from_secs(seconds)))
        }
    }
}
