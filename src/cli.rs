//! The command line: what can be asked of ironstrap, and what each command does with the parts.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};
use time::OffsetDateTime;

use crate::cluster::Cluster;
use crate::error::{Error, Result};
use crate::fetch;
use crate::inventory;
use crate::ledger::Run;
use crate::pki::Trust;
use crate::probe;
use crate::reconcile::Fleetwork;
use crate::report::{self, Events, Style, count};
use crate::ssh::{Options, Ssh};
use crate::step::Cx;
use crate::steps::STAGES;
use crate::store::Store;

mod apply;
mod plan;

/// Turns bare Linux machines into a Kubernetes cluster over SSH, and keeps them that way.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Read the inventory and say what is wrong with it; asks no machine.
    Check(Inventory),
    /// Ask every machine and show what is not as the inventory says; changes nothing.
    Plan {
        #[command(flatten)]
        fleet: FleetArgs,
        /// Exit with 1 where something is not as the inventory says.
        #[arg(long)]
        exit_code: bool,
    },
    /// Make the machines what the inventory says.
    Apply {
        #[command(flatten)]
        fleet: FleetArgs,
        /// Do not ask before changing anything.
        #[arg(long, short)]
        yes: bool,
        /// Only show what would be changed: the same as `plan`.
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Args)]
struct Inventory {
    /// The inventory of the cluster, a TOML file.
    #[arg(long, short, value_name = "FILE")]
    inventory: PathBuf,
}

#[derive(Args)]
struct FleetArgs {
    #[command(flatten)]
    inventory: Inventory,
    /// Print one JSON object a line on standard output.
    #[arg(long)]
    json: bool,
    /// Believe machines whose host key is not known yet, and remember it. A key that changed is refused all the same.
    #[arg(long)]
    accept_new_host_keys: bool,
    /// How long getting into a machine may take, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    timeout: u64,
}

/// How a command ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Good,
    /// `plan --exit-code` found drift.
    Drift,
}

/// Everything that went wrong; printed once, at the end, in one place.
pub type Errors = Vec<Error>;

impl Cli {
    /// Does what was asked.
    pub async fn run(self) -> std::result::Result<End, Errors> {
        match self.command {
            Command::Check(Inventory { inventory }) => check(&inventory),
            Command::Plan { fleet, exit_code } => plan::plan(&fleet, exit_code).await,
            Command::Apply { fleet, dry_run: true, .. } => plan::plan(&fleet, false).await,
            Command::Apply { fleet, yes, .. } => apply::apply(&fleet, yes).await,
        }
    }
}

fn one(error: Error) -> Errors {
    vec![error]
}

fn check(path: &std::path::Path) -> std::result::Result<End, Errors> {
    let cluster = inventory::read(path).map_err(one)?;
    fetch::twice(&cluster).map_err(one)?;
    let mut trust = Trust::make(&cluster, OffsetDateTime::now_utc()).map_err(one)?;
    trust.complete(&cluster, OffsetDateTime::now_utc()).map_err(one)?;
    let wants = every_want(&cluster, &trust).map_err(one)?;
    report::err(&format!(
        "✔ {}: {}, kubernetes {}, {}",
        path.display(),
        count(cluster.nodes.len(), "node"),
        cluster.kubernetes,
        count(wants, "want")
    ));
    Ok(End::Good)
}

/// Builds every want of every node, and renders every template with it.
fn every_want(cluster: &Cluster, trust: &Trust) -> Result<usize> {
    let (machine, fleet) = Default::default();
    let mut wants = 0;
    for node in &cluster.nodes {
        let cx =
            Cx { cluster, node, trust, now: OffsetDateTime::now_utc(), machine: &machine, fleet: &fleet };
        for step in STAGES.iter().filter(|stage| stage.is_asked_of(node)).flat_map(|stage| stage.steps) {
            wants += (step.wants)(&cx)?.len();
        }
    }
    Ok(wants)
}

/// What `plan` and `apply` both begin with: the inventory, the trust, and a first look at every machine.
struct Start {
    cluster: Arc<Cluster>,
    store: Store,
    /// The trust was there before this run.
    kept: bool,
    /// What was made to complete the trust, in words.
    made: Vec<String>,
    trust: Trust,
    work: Fleetwork<Ssh>,
    events: Events,
    printer: tokio::task::JoinHandle<()>,
    since: Instant,
}

impl FleetArgs {
    fn style(&self) -> Style {
        match (self.json, std::io::stderr().is_terminal()) {
            (true, _) => Style::Json,
            (false, true) => Style::Term,
            (false, false) => Style::Lines,
        }
    }

    async fn start(&self, style: Style) -> Result<Start> {
        let since = Instant::now();
        let mut cluster = inventory::read(&self.inventory.inventory)?;
        let store = Store::new(&cluster);
        fetch::addons(&mut cluster, &store).await?;
        let cluster = Arc::new(cluster);
        let now = OffsetDateTime::now_utc();
        let loaded = store.load()?;
        let kept = loaded.is_some();
        // On machines that know no cluster a throw-away trust shows what would be laid out; only an apply keeps it.
        let mut trust = match loaded {
            Some(trust) => trust,
            None => Trust::make(&cluster, now)?,
        };
        let made = trust.complete(&cluster, now)?;
        let (events, receiver) = Events::channel();
        let printer = tokio::spawn(report::show(receiver, style));
        let options = || Options {
            accept_new_host_keys: self.accept_new_host_keys,
            timeout: Duration::from_secs(self.timeout),
        };
        let shells = cluster.nodes.iter().map(|node| Ssh::new(node, options())).collect();
        let run = Run { id: probe::boundary().unwrap_or_default().trim_matches('-').into(), owner: owner() };
        let mut work = Fleetwork::new(cluster.clone(), STAGES, trust.clone(), shells, run, events.clone())?;
        work.look().await;
        Ok(Start { cluster, store, kept, made, trust, work, events, printer, since })
    }
}

/// `user@host`, as other operators see who changes a machine.
fn owner() -> String {
    let user =
        ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()));
    let host =
        hostname::get().map_or_else(|_| "somewhere".into(), |host| host.to_string_lossy().into_owned());
    // It becomes a word of shell.
    let plain = |text: &str| text.replace(|c: char| !c.is_ascii_alphanumeric() && !"._-".contains(c), "-");
    format!("{}@{}", plain(&user.unwrap_or_else(|| "somebody".into())), plain(&host))
}
