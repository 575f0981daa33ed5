//! ironstrap on the real thing: a cluster made in the lab (tests/lab), looked at from all sides, broken, and
//! mended. A runner of our own, for scenarios build on each other: bringing up a cluster takes a minute.
//!
//! `cargo test --test cluster [-- [--drift] [--part=1/2] 'A PIECE OF A NAME' …]`; as root, with the lab up. With `--drift` it
//! is the table of drift instead, with `--planes` several control planes, with `--older` a cluster that an older ironstrap
//! made, with `--causes` failures whose causes are named, with `--damage` resets of damaged machines; `--part` takes one part of the list.

// clippy sees no test in what has a `main`.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::exit)]

mod addons;
mod client;
mod damage;
mod diagnosis;
mod drift;
mod entrance;
mod everyday;
mod foreign;
mod grown;
mod killed;
mod lab;
mod made;
mod moved;
mod older;
mod part;
mod planes;
mod preflight;
mod refused;
mod registries;
mod removed;
mod reset;
mod rooted;
#[path = "../common/schemas.rs"]
mod schemas;
mod serving;
mod settings;
mod status;
mod twice;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use world::World;

/// What a scenario stands on.
#[derive(Clone, Copy, PartialEq)]
pub enum Ground {
    /// Machines that nothing was ever done to.
    Fresh,
    /// A cluster that is as the inventory says.
    Cluster,
    /// What the scenario before it left.
    Before,
    /// What it lays out itself.
    Own,
}

pub struct Scenario {
    pub says: &'static str,
    pub ground: Ground,
    pub run: fn(&World),
}

/// In the order in which they run. Those of several control planes are apart: they take more inotify instances than the
/// host may have left while another lab is up.
fn scenarios() -> Vec<Scenario> {
    let flag = |flag: &str| std::env::args().any(|word| word == flag);
    let one: &[&[Scenario]] = &[
        entrance::SCENARIOS,
        refused::UNFIT,
        preflight::SCENARIOS,
        registries::SCENARIOS,
        made::SCENARIOS,
        settings::SCENARIOS,
        serving::SCENARIOS,
        moved::SCENARIOS,
        addons::SCENARIOS,
        twice::SCENARIOS,
        refused::SCENARIOS,
        status::SCENARIOS,
        everyday::SCENARIOS,
        killed::CLIENT,
        killed::NODE,
        killed::WAY,
        removed::SCENARIOS,
        reset::SCENARIOS,
        foreign::SCENARIOS,
        grown::SCENARIOS,
    ];
    let all: &[&[Scenario]] = match () {
        () if flag("--planes") => &[planes::SCENARIOS],
        () if flag("--older") => &[older::SCENARIOS],
        () if flag("--damage") => &[damage::SCENARIOS],
        () if flag("--causes") => &[diagnosis::SCENARIOS, rooted::SCENARIOS],
        () => one,
    };
    let all: Vec<&Scenario> = all.iter().copied().flatten().collect();
    let begins = |at: usize| all[at].ground != Ground::Before;
    part::check(all.len(), begins);
    let part = &all[part::named(all.len(), begins)];
    part.iter().map(|s| Scenario { says: s.says, ground: s.ground, run: s.run }).collect()
}

/// Those whose name has one of these pieces, and whatever they build on.
fn chosen(all: &[Scenario], words: &[String]) -> Vec<bool> {
    let named = |s: &Scenario| words.is_empty() || words.iter().any(|words| s.says.contains(words.as_str()));
    let mut chosen: Vec<bool> = all.iter().map(named).collect();
    for i in (1..all.len()).rev() {
        if chosen[i] && all[i].ground == Ground::Before {
            chosen[i - 1] = true;
        }
    }
    chosen
}

/// Where a run of scenarios stands.
struct Progress {
    passed: usize,
    failed: Vec<&'static str>,
    /// The one before went well, so that another can build on it.
    good: bool,
    /// The lab gave no ground to stand on.
    broken: bool,
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    if std::env::args().any(|word| word == "--drift") {
        std::process::exit(if drift::run(&World::new(), &words) { 0 } else { 1 });
    }
    let (all, world) = (scenarios(), World::new());
    let chosen = chosen(&all, &words);
    let mut progress = Progress { passed: 0, failed: vec![], good: false, broken: false };
    for (scenario, _) in all.iter().zip(&chosen).filter(|(_, chosen)| **chosen) {
        let since = Instant::now();
        let good = attempt(scenario, &world, &mut progress);
        progress.good = good;
        let (sign, seconds) = (if good { '✔' } else { '✗' }, since.elapsed().as_secs_f64());
        println!("{sign} {} ({seconds:.1} s)", scenario.says);
        if good { progress.passed += 1 } else { progress.failed.push(scenario.says) }
    }
    std::process::exit(if told(progress.passed, &progress.failed) { 0 } else { 1 });
}

/// Prints what came of it, and whether all went well. A run of nothing is not a run that went well.
fn told(passed: usize, failed: &[&str]) -> bool {
    failed.iter().for_each(|says| println!("failed: {says}"));
    println!("{passed} passed, {} failed", failed.len());
    if passed + failed.len() == 0 {
        println!("no name has one of these pieces");
    }
    passed > 0 && failed.is_empty()
}

fn attempt(scenario: &Scenario, world: &World, progress: &mut Progress) -> bool {
    if progress.broken || (scenario.ground == Ground::Before && !progress.good) {
        println!(
            "  not tried: {}",
            if progress.broken { "the lab is broken" } else { "the one before it failed" }
        );
        return false;
    }
    // A panic in between leaves nothing half changed in `world`: what a scenario needs is laid out again.
    let ground = catch_unwind(AssertUnwindSafe(|| world.lay(scenario.ground)));
    if ground.is_err() {
        progress.broken = true;
        return false;
    }
    catch_unwind(AssertUnwindSafe(|| (scenario.run)(world))).is_ok()
}

/// Looks every few milliseconds until there is something to see; panics when it does not come in time.
pub fn until<T>(what: &str, seconds: u64, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < end, "waited {seconds} s in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether it is so, in the form that `until` takes.
pub fn so(is: bool) -> Option<()> {
    is.then_some(())
}
