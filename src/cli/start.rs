//! What every command that asks machines takes and begins with: the inventory, the trust, a first look at everybody.

use std::io::IsTerminal;
use std::num::NonZeroUsize;
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
use crate::reconcile::{Fleetwork, Member};
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
    /// Speak to at most N machines at the same time; without it, to all.
    #[arg(long, value_name = "N")]
    parallel: Option<NonZeroUsize>,
}

#[derive(Args)]
pub(super) struct Limit {
    /// Look after these nodes only: w1 w3, or a range as in w[1-3]. The others are asked, because who joins whom is
    /// read from all; they are neither changed nor judged.
    #[arg(long, value_name = "NODE", num_args = 1.., value_delimiter = ',')]
    limit: Vec<String>,
}

impl Limit {}

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

    pub async fn start(&self, style: Style, limit: &Limit) -> Result<Start> {
        let since = Instant::now();
        let cluster = Arc::new(inventory::read(&self.inventory.inventory)?);
        let chosen = inventory::select(&cluster, &limit.limit)?;
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
        self.parallel.into_iter().for_each(|n| work.at_most(n.get()));
        if !chosen.is_empty() {
            work.limit(&chosen);
        }
        work.look().await;
        Ok(Start { cluster, store, kept, made, trust, work, events, printer, since })
    }
}

impl Start {
    /// The nodes that this run was about.
    pub fn about(&self) -> impl Iterator<Item = &Member<Ssh>> {
        self.work.members().iter().filter(|member| !member.spared)
    }

    /// Those that it was not about, in words; `None` without `--limit`.
    pub fn left_out(&self) -> Option<String> {
        let spared = self.work.members().iter().filter(|member| member.spared);
        let named = spared.map(|member| match member.machine {
            Some(_) => member.node.name.clone(),
            None => format!("{} (does not answer)", member.node.name),
        });
        let named: Vec<String> = named.collect();
        (!named.is_empty()).then(|| format!("--limit left out: {}", named.join(", ")))
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
