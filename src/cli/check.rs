//! `check`: checks the inventory alone, with everything that ironstrap would make from it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Args;
use time::OffsetDateTime;

use super::session::warn_of_unsafe_files;
use super::{End, Inventory, Outcome, one};
use crate::cluster::Cluster;
use crate::error::Result;
use crate::fetch;
use crate::inventory;
use crate::known_hosts;
use crate::pki::ClusterPki;
use crate::report::{self, count};
use crate::step::Cx;
use crate::steps::STAGES;

#[derive(Args)]
pub(super) struct Check {
    #[command(flatten)]
    inventory: Inventory,
}

pub(super) async fn check(args: &Check) -> Outcome {
    let path = &args.inventory.inventory;
    let cluster = inventory::read(path).map_err(one)?;
    warn_of_unsafe_files(&cluster);
    check_known_hosts(&cluster).map_err(one)?;
    fetch::pinned(&cluster).await.map_err(one)?;
    fetch::check_duplicates(&cluster).map_err(one)?;
    let mut pki = ClusterPki::make(&cluster, OffsetDateTime::now_utc()).map_err(one)?;
    pki.complete(&cluster, OffsetDateTime::now_utc()).map_err(one)?;
    cluster.warnings.iter().for_each(|words| report::err(&format!("! {words}")));
    let wants = every_want(&cluster, &pki).map_err(one)?;
    report::err(&format!(
        "✔ {} is valid: {}, Kubernetes {}; a plan runs {}",
        path.display(),
        count(cluster.nodes.len(), "node"),
        cluster.kubernetes,
        count(wants, "check")
    ));
    Ok(End::Good)
}

/// Checks the files of known host keys that the inventory names, as every connection does.
fn check_known_hosts(cluster: &Cluster) -> Result<()> {
    let files: BTreeSet<&PathBuf> =
        cluster.nodes.iter().filter_map(|node| node.ssh.known_hosts.as_ref()).collect();
    let home = std::env::home_dir();
    files
        .into_iter()
        .try_for_each(|file| known_hosts::check_named(file, &known_hosts::shown(file, home.as_deref())))
}

/// Builds every want of every node, and renders every template with it.
fn every_want(cluster: &Cluster, pki: &ClusterPki) -> Result<usize> {
    let (machine, fleet) = Default::default();
    let mut wants = 0;
    for node in &cluster.nodes {
        let cx = Cx { cluster, node, pki, now: OffsetDateTime::now_utc(), machine: &machine, fleet: &fleet };
        for step in STAGES.iter().filter(|stage| stage.is_asked_of(node)).flat_map(|stage| stage.steps) {
            wants += (step.wants)(&cx)?.len();
        }
    }
    Ok(wants)
}
