//! Measures a plan of large fleets. Up to a thousand SSH servers run in this process. The program runs in its own
//! process, so that its CPU time and memory are separate. Round trips and scripts are counted. Seconds and memory
//! depend on this machine. usage: cargo bench --bench fleet [-- NODES… STATE…]

// clippy sees no test in what the tests share.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod converged;
mod served;
#[path = "../support/mod.rs"]
mod support;

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use served::{HANGS, State, serve};

/// The default of `--connect-timeout`.
const TIMEOUT: Duration = Duration::from_secs(10);

fn main() {
    let asked: Vec<usize> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let sizes = if asked.is_empty() { vec![10, 100, 1000] } else { asked };
    println!(
        "{:<9} nodes  round trip    wall s     CPU s   peak MB  scripts/node  trips/node  s/node, of the first",
        "fleet"
    );
    let (mut first, mut answering) = (HashMap::new(), HashMap::new());
    let states: Vec<String> = std::env::args().filter(|word| word.starts_with(char::is_uppercase)).collect();
    for (state, delay) in [
        (State::AsWanted, 0),
        (State::AsWanted, 50),
        (State::AsWanted, 270),
        (State::Drifted, 0),
        (State::Hanging, 0),
    ] {
        if !states.is_empty() && !states.contains(&format!("{state:?}")) {
            continue;
        }
        for &nodes in &sizes {
            let seen = measure(nodes, Duration::from_millis(delay), state);
            let (wall, Seen { cpu, peak, scripts, trips, .. }) = (seen.wall.as_secs_f64(), &seen);
            let per_node = wall / nodes as f64;
            let ratio = per_node / *first.entry((state, delay)).or_insert(per_node);
            println!(
                "{:<9} {nodes:>5}  {delay:>7} ms  {wall:>8.2}  {cpu:>8.2}  {peak:>8.1}  {scripts:>12.2}  {trips:>10}  {ratio:.3}",
                format!("{state:?}"),
            );
            if state == State::AsWanted {
                answering.insert((nodes, delay), wall);
            }
            let without = answering.get(&(nodes, delay)).filter(|_| state == State::Hanging);
            if let Some(without) = without {
                let (more, hang) = ((wall - without) / TIMEOUT.as_secs_f64(), hanging(nodes, state));
                println!("          of which {hang} hang: {more:.2} timeouts more than where nobody does");
            }
        }
    }
}

fn hanging(nodes: usize, state: State) -> usize {
    if state == State::Hanging { nodes / HANGS } else { 0 }
}

/// The measurements of one plan.
struct Seen {
    wall: Duration,
    cpu: f64,
    /// Mebibytes of memory.
    peak: f64,
    scripts: f64,
    trips: String,
}

/// Measures one plan of a fleet in this state. `round`: the time of a round trip.
fn measure(nodes: usize, round: Duration, state: State) -> Seen {
    let (home, runtime) = (tempfile::tempdir().unwrap(), tokio::runtime::Runtime::new().unwrap());
    let counted = runtime.block_on(serve(home.path(), nodes, round, state));
    let since = Instant::now();
    let (cpu, peak, said, good) = plan(home.path());
    let wall = since.elapsed();
    let hanging = hanging(nodes, state);
    let words = if state == State::Drifted { " checks found " } else { "no differences from " };
    assert!(good == (hanging == 0) && said.contains(words), "this fleet is {state:?}: {said}");
    assert!(said.lines().count() < 100, "the output is too long: {said}");
    let per_node = |n: usize| n as f64 / (nodes - hanging) as f64;
    let trips: usize = counted.trips.iter().map(|trips| trips.load(SeqCst)).sum();
    Seen {
        wall,
        cpu,
        peak,
        scripts: per_node(counted.scripts.load(SeqCst)),
        trips: if counted.trips.is_empty() { "-".into() } else { format!("{:.2}", per_node(trips)) },
    }
}

/// Runs the program to its end. Returns its CPU seconds, its peak memory in mebibytes, its output, and whether it
/// succeeded. While it runs, the function reads CPU time and memory from the kernel every few milliseconds.
fn plan(home: &Path) -> (f64, f64, String, bool) {
    let program = std::env::var("IRONSTRAP_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_ironstrap").into());
    // The usual limit of open files in a shell.
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "ulimit -Sn 1024; exec $0 plan -i demo.toml", &program]);
    command.current_dir(home).env("HOME", home).env_remove("SSH_AUTH_SOCK");
    let (out, err) = (home.join("out"), home.join("err"));
    let file = |path| std::fs::File::create(path).unwrap();
    let command = command.stdin(Stdio::null()).stdout(file(&out)).stderr(file(&err));
    let mut child = command.spawn().unwrap();
    let (mut peak, mut ticks) = (0.0, 0.0);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        let read =
            |name: &str| std::fs::read_to_string(format!("/proc/{}/{name}", child.id())).unwrap_or_default();
        let status = read("status");
        let high = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        peak = high.and_then(|kib| kib.trim().parse::<f64>().ok()).map_or(peak, |kib| kib / 1024.0);
        let stat = read("stat");
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let spent = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
        // The CPU time of the program and its children, in hundredths of a second (proc(5)).
        ticks = f64::max(ticks, [11, 12, 13, 14].map(spent).iter().sum());
        std::thread::sleep(Duration::from_millis(5));
    };
    let said = [out, err].map(|path| std::fs::read_to_string(path).unwrap()).concat();
    (ticks / 100.0, peak, said, status.success())
}
