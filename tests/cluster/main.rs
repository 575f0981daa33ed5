//! Tests of ironstrap with the real machines of the lab (tests/lab). They create a cluster, check it, break it and repair
//! it. Creating a cluster takes a minute, so scenarios build on each other. That needs a test runner of its own: this file.
//!
//! `cargo test --test cluster [-- [--drift] [--part=1/2] 'PART OF A NAME' …]` runs them as root, with the lab up.
//! `--part` runs one part of the list. These options select another list:
//!
//! - `--drift`: the table of drift
//! - `--planes`: several control planes
//! - `--older`: a cluster that an older ironstrap created
//! - `--causes`: failures with their causes
//! - `--damage`: resets of damaged machines

// clippy does not recognize a file with a `main` as a test.
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
#[path = "../support/schemas.rs"]
mod schemas;
mod serving;
mod settings;
mod status;
mod twice;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use world::World;

/// The state of the machines that a scenario needs.
#[derive(Clone, Copy, PartialEq)]
pub enum Ground {
    /// New machines.
    Fresh,
    /// A cluster that matches the inventory.
    Cluster,
    /// The state that the scenario before it left.
    Before,
    /// A state that the scenario creates itself.
    Own,
}

pub struct Scenario {
    pub says: &'static str,
    pub ground: Ground,
    pub run: fn(&World),
}

/// The scenarios in the order in which they run. Those with several control planes are a list of their own. They take more
/// inotify instances than the host may have left while another lab is up.
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

/// Selects the scenarios whose name contains one of these texts, and the scenarios that they build on.
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

/// The progress of a run of scenarios.
struct Progress {
    passed: usize,
    failed: Vec<&'static str>,
    /// The scenario before passed, so the next one can build on it.
    good: bool,
    /// The lab could not provide the state that a scenario needs.
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
    std::process::exit(if report_result(progress.passed, &progress.failed) { 0 } else { 1 });
}

/// Prints the result, and returns whether all passed. A run without a single test fails.
fn report_result(passed: usize, failed: &[&str]) -> bool {
    failed.iter().for_each(|says| println!("failed: {says}"));
    println!("{passed} passed, {} failed", failed.len());
    if passed + failed.len() == 0 {
        println!("no name contains one of these texts");
    }
    passed > 0 && failed.is_empty()
}

fn attempt(scenario: &Scenario, world: &World, progress: &mut Progress) -> bool {
    if progress.broken || (scenario.ground == Ground::Before && !progress.good) {
        println!(
            "  not tried: {}",
            if progress.broken { "the lab is broken" } else { "the scenario before it failed" }
        );
        return false;
    }
    // A panic leaves no half-changed state in `world`, because each scenario prepares the state that it needs.
    let ground = catch_unwind(AssertUnwindSafe(|| world.lay(scenario.ground)));
    if ground.is_err() {
        progress.broken = true;
        return false;
    }
    catch_unwind(AssertUnwindSafe(|| (scenario.run)(world))).is_ok()
}

/// Calls `look` every few milliseconds until it returns a value. Panics when the time is up.
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

/// Converts a condition to the result that `until` expects.
pub fn so(is: bool) -> Option<()> {
    is.then_some(())
}
