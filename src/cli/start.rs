//! What every command that asks machines takes and begins with: the inventory, the trust, a first look at everybody.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use time::OffsetDateTime;

use super::Inventory;
use crate::cluster::Cluster;
use crate::error::Result;
use crate::inventory;
use crate::ledger::Run;
use crate::pki::Trust;
use crate::probe;
use crate::reconcile::Fleetwork;
use crate::report::{self, Events, Style};
use crate::ssh::{Options, Ssh};
use crate::steps::STAGES;
use crate::store::Store;

#[derive(Args)]
pub(super) struct FleetArgs {
    #[command(flatten)]
    pub inventory: Inventory,
    /// Print one JSON object a line on standard output.
    #[arg(long)]
    pub json: bool,
    /// Believe machines whose host key is not known yet, and remember it. A key that changed is refused all the same.
    #[arg(long)]
    accept_new_host_keys: bool,
    /// How long getting into a machine may take, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    timeout: u64,
}

/// What `plan` and `apply` both begin with: the inventory, the trust, and a first look at every machine.
pub(super) struct Start {
    pub cluster: Arc<Cluster>,
    pub store: Store,
    /// The trust was there before this run.
    pub kept: bool,
    /// What was made to complete the trust, in words.
    pub made: Vec<String>,
    pub trust: Trust,
    pub work: Fleetwork<Ssh>,
    pub events: Events,
    pub printer: tokio::task::JoinHandle<()>,
    pub since: Instant,
}

impl FleetArgs {
    pub fn style(&self) -> Style {
        match (self.json, std::io::stderr().is_terminal()) {
            (true, _) => Style::Json,
            (false, true) => Style::Term,
            (false, false) => Style::Lines,
        }
    }

    pub async fn start(&self, style: Style) -> Result<Start> {
        let since = Instant::now();
        let cluster = Arc::new(inventory::read(&self.inventory.inventory)?);
        let store = Store::new(&cluster);
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
