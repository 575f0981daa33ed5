//! Kernel settings on a machine with its own kernel and cgroup v2 (tests/lab/qemu.sh): real swap, modules, sysctls and the
//! clock. Each test causes drift, checks that a plan shows exactly this drift, and checks that an apply repairs it and that
//! the repair survives a reboot. There is no cluster: only the steps of the kernel run. One test uses a slow link that loses
//! packets (netem), which the kernel of the lab's host may not support.
//!
//! `cargo test --test kernel [-- --first]` runs them as root, after `lab qemu up`. The tests build on each other, because a
//! reboot takes long. That needs a test runner of its own: this file.

// clippy does not recognize a file with a `main` as a test.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::exit)]

mod rows;
mod vm;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use rows::{AT_BOOT, AT_BOOT_EXPECTED, LIVE, Row};
use vm::Vm;

type Pairs = BTreeSet<(String, String)>;

fn pairs(of: &[(&str, &str)]) -> Pairs {
    of.iter().map(|(step, that)| (step.to_string(), that.to_string())).collect()
}

type Scenario = (&'static str, fn(&Vm));

/// In the order in which they run. Each test starts from the state that the one before left.
const SCENARIOS: &[Scenario] = &[
    ("a plan on cgroup v2 is complete", complete_plan),
    ("an apply corrects a new machine, and a reboot keeps the corrections", new_machine),
    ("each drift at run time is repaired and nothing else is changed", drift_at_run_time),
    ("plans and repairs work over a slow link that loses packets", slow_link),
    ("drift that appears at boot is repaired, and another reboot keeps the repair", drift_at_boot),
    ("a clock that is an hour off is refused and not set", clock),
];

/// The number of tests that `--first` runs. A change breaks these most easily.
const FIRST: usize = 2;

fn main() {
    let vm = Vm::new();
    let mut failed = 0;
    let first = std::env::args().any(|word| word == "--first");
    let scenarios = if first { &SCENARIOS[..FIRST] } else { SCENARIOS };
    for (says, run) in scenarios {
        let since = Instant::now();
        let good = failed == 0 && catch_unwind(AssertUnwindSafe(|| run(&vm))).is_ok();
        println!("{} {says} ({:.1} s)", if good { '✔' } else { '✗' }, since.elapsed().as_secs_f64());
        failed += usize::from(!good);
    }
    println!("{} passed, {failed} failed", scenarios.len() - failed);
    std::process::exit(i32::from(failed > 0));
}

/// A plan with all stages has an answer for each want, and no check of the preflight fails.
fn complete_plan(vm: &Vm) {
    assert_eq!(vm.run("stat -f -c %T /sys/fs/cgroup"), "cgroup2fs\n");
    let plan = vm.ironstrap(&["plan"]);
    assert_eq!(plan.code, Some(0), "{plan:#?}");
    assert!(plan.events.iter().any(|event| event["event"] == "drift"), "{plan:#?}");
    let bad = |event: &&serde_json::Value| {
        let unfit = event["event"] == "drift" && event["step"] == "preflight";
        event["event"] == "error" || event["state"] == "unknown" || unfit
    };
    assert_eq!(plan.events.iter().find(bad), None);
    // The machine has no network, so it cannot reach package repositories. The speed of its disk depends on its host.
    let nowhere = ["Temporary failure resolving", "no answer within", "synchronous writes to the disk"];
    let out = |note: &&str| !nowhere.iter().any(|words| note.contains(words));
    let notes = plan.events.iter().filter_map(|event| event["note"].as_str()).filter(out);
    let told = [
        "requirement not met, downgraded to a warning: the machine has enough CPUs; found: 1 CPU",
        "AppArmor is on, but nothing loads its profiles, so containers run without them (apt-get install apparmor)",
        "no time service runs: certificates need synchronized clocks",
    ];
    assert_eq!(notes.collect::<Vec<_>>(), told);
}

/// A new machine has three kinds of swap: a file in fstab, compressed memory, and a partition that systemd finds by its type if
/// fstab has no swap.
fn new_machine(vm: &Vm) {
    let swaps = vm.run("cat /proc/swaps");
    assert!(swaps.contains("/swap.img ") && swaps.contains("/dev/zram0 "), "{swaps}");
    let outcome = vm.apply();
    let swap = ["swap.fstab", "swap.target", "swap.active"];
    for that in swap {
        assert!(outcome.planned.contains(&("swap".into(), that.into())), "{that}: {:#?}", outcome.planned);
    }
    assert_eq!(outcome.planned, outcome.changed);
    vm.assert_converged();
    vm.reboot();
    vm.assert_converged();
    assert_eq!(vm.run("tail -n +2 /proc/swaps"), "");
    let found = vm.run("find /run/systemd/generator* -name '*.swap' | sort");
    assert!(found.contains("zram0") && found.contains("part2"), "systemd generates no swap units: {found}");
}

fn drift_at_run_time(vm: &Vm) {
    LIVE.iter().for_each(|row| assert_repaired(vm, row));
    vm.assert_converged();
}

fn assert_repaired(vm: &Vm, row: &Row) {
    vm.run(row.breaks);
    let expected = pairs(row.shows);
    let outcome = vm.apply();
    assert_eq!(outcome.planned, expected, "{}", row.breaks);
    assert_eq!(outcome.changed, expected, "{}", row.breaks);
    println!("  ✔ {}", row.breaks);
}

/// Delays the packets that the machine sends by some milliseconds, and drops one in a hundred (tc-netem(8)).
fn slow_link(vm: &Vm) {
    let dev = vm.run("ip -o -4 addr show to 10.0.2.15 | cut -d ' ' -f 2");
    let (dev, mut lost) = (dev.trim(), 0);
    for (delay, bytes, row) in [(50, 1_200_000, &LIVE[0]), (270, 120_000, &LIVE[1])] {
        vm.run(&format!("tc qdisc replace dev {dev} root netem delay {delay}ms loss 1%"));
        let said = vm.run(&format!("head -c {bytes} /dev/zero | base64 -w 0"));
        assert_eq!(said.len(), bytes / 3 * 4);
        // A plan of the real program uses a new connection and all stages.
        let plan = vm.ironstrap(&["plan"]);
        assert_eq!(plan.code, Some(0), "{plan:#?}");
        assert_eq!(plan.events.iter().find(|event| event["event"] == "error"), None);
        assert_repaired(vm, row);
        vm.assert_converged();
        let counted = vm.run(&format!("tc -s qdisc show dev {dev}"));
        let (_, dropped) = counted.split_once("(dropped ").unwrap();
        let dropped: u32 = dropped.split(',').next().unwrap().parse().unwrap();
        println!("  {delay} ms, {dropped} packets lost");
        lost += dropped;
    }
    assert!(lost > 0, "no packet was lost");
    vm.run(&format!("tc qdisc del dev {dev} root"));
}

fn drift_at_boot(vm: &Vm) {
    vm.run(AT_BOOT);
    vm.reboot();
    let swaps = vm.run("cat /proc/swaps");
    assert!(swaps.contains("/dev/nvme0n1p2 ") && swaps.contains("/dev/zram0 "), "{swaps}");
    let outcome = vm.apply();
    assert_eq!(outcome.planned, pairs(AT_BOOT_EXPECTED));
    assert_eq!(outcome.changed, outcome.planned);
    vm.reboot();
    vm.assert_converged();
    assert_eq!(vm.run("tail -n +2 /proc/swaps"), "");
}

fn clock(vm: &Vm) {
    // The clock of a machine under QEMU lags if the host is busy.
    let before = vm.seconds_ahead();
    vm.run("date -s '+1 hour' >/dev/null");
    for command in [&["plan"][..], &["apply", "--yes"]] {
        let refused = vm.ironstrap(command);
        assert_eq!(refused.code, Some(5), "{refused:#?}");
        let error = refused.events.iter().find(|event| event["event"] == "error").unwrap();
        let (what, hint) = (error["what"].as_str().unwrap(), error["hint"].as_str().unwrap());
        assert_eq!(error["node"], vm.name.as_str());
        let seconds: f64 = what.split(' ').find_map(|word| word.parse().ok()).unwrap();
        // The observation takes a while on such a machine.
        assert!((3590.0..3620.0).contains(&(seconds - before)), "{what}; before that it was {before}");
        assert!(what.starts_with("the clock is ") && what.ends_with(" s ahead of this computer's"), "{what}");
        assert!(hint.contains("set the clock"), "{hint}");
    }
    let ahead = vm.seconds_ahead();
    assert!((3500.0..3700.0).contains(&ahead), "ironstrap set the clock: {ahead}");
    vm.run("date -s '-1 hour' >/dev/null");
    vm.assert_converged();
}
