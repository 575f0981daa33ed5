//! A fleet over real SSH, of which some hosts hang. The answers of the others arrive meanwhile, and all hanging hosts
//! together cost one timeout. The test counts connections and scripts. `make bench-fleet` measures the time.

#[path = "../bench/converged.rs"]
mod converged;
#[path = "../bench/served.rs"]
mod served;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use self::served::{HANGS, State, serve};
use ironstrap::error::Kind;
use ironstrap::inventory;
use ironstrap::ledger::Run;
use ironstrap::reconcile::{Operation, Reconciler};
use ironstrap::report::Events;
use ironstrap::ssh::{Client, Operator, Options, Ssh};
use ironstrap::store::Store;

const NODES: usize = 100;

/// Observes every machine of the inventory in this folder, once.
async fn observe_once(home: &Path, timeout: Duration) -> Reconciler<Ssh> {
    let cluster =
        Arc::new(inventory::read(&home.join("demo.toml")).unwrap_or_else(|error| panic!("{error}")));
    let pki = Store::new(&cluster).load().unwrap().unwrap();
    let operator = Operator { home: Some(home.into()), ..Operator::default() };
    let client = Arc::new(Client::new(Options { timeout, ..Options::default() }, operator));
    let shells = cluster.nodes.iter().map(|node| Ssh::new(node, &client)).collect();
    let run = Run::new("1f2e", "me@here");
    let (events, _receiver) = Events::channel();
    let mut work = Reconciler::for_operation(Operation::Apply, (cluster, pki), shells, run, events).unwrap();
    work.only_observe();
    work.observe().await;
    work
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "waits for time limits; make test-quick runs it"]
async fn all_hanging_hosts_together_cost_one_timeout() {
    let home = [(); 2].map(|()| tempfile::tempdir().unwrap());
    serve(home[0].path(), NODES, Duration::ZERO, State::AsWanted).await;
    let since = Instant::now();
    let work = observe_once(home[0].path(), Duration::from_secs(120)).await;
    let plan = work.plan().unwrap();
    let changes: Vec<_> = plan.iter().flat_map(|(_, changes)| changes).map(|change| &change.that).collect();
    assert!(
        changes.is_empty(),
        "this fleet matches its inventory: {} changes, first {:?}",
        changes.len(),
        changes[0]
    );
    // Even on a slow machine, this is enough time for the hosts that answer.
    let timeout = since.elapsed() * 2 + Duration::from_secs(2);
    let seen = serve(home[1].path(), NODES, Duration::ZERO, State::Hanging).await;
    let work = observe_once(home[1].path(), timeout).await;
    let hanging = NODES / HANGS;
    let left: Vec<_> = work.hosts().iter().filter_map(|member| member.quarantined.as_ref()).collect();
    assert_eq!(left.len(), hanging, "{left:?}");
    assert!(left.iter().all(|error| error.kind == Kind::Unreachable && error.what.starts_with("timed out")));
    assert_eq!(seen.scripts.load(SeqCst), NODES - hanging, "every other host was asked, once");
    assert_eq!(seen.hanging.load(SeqCst), hanging, "a hanging host is not tried again");
    // The server may see the end of the connections a moment later.
    for _ in 0..1000 {
        if seen.at_first_end.get().is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    assert_eq!(
        seen.at_first_end.get(),
        Some(&NODES),
        "ironstrap connected to all hosts before the first timeout"
    );
}
