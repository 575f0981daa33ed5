//! What belongs to a machine's kernel, on one that has a kernel of its own (tests/lab/qemu.sh) and cgroup v2: real
//! swap, modules, settings, the clock. Each is broken by hand, shown by a plan as that and nothing else, and
//! mended by an apply; and all of it survives reboots. No cluster: only the steps that such things are in. And a link that
//! is slow and loses packets, which no kernel of the lab's host has to have (netem).
//!
//! `cargo test --test kernel [-- --first]`; as root, with `lab qemu up`. A runner of its own, for its rows
//! build on each other, and a reboot takes long.

// clippy sees no test in what has a `main`.
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

/// In their order: what one leaves, the next finds.
const SCENARIOS: &[Scenario] = &[
    ("a plan sees everything there is to see on cgroup v2", sees_all),
    ("what the machine came with is put right, and stays so after a reboot", from_the_shop),
    ("what is broken while it runs is mended, each and nothing else", live),
    ("over a slow link that loses packets all goes as over a good one", far),
    ("what is broken at boot is seen after a reboot, mended, and stays so after another", at_boot),
    ("a clock that is an hour off is refused by name, and left as it is", clock),
];

/// How many of them `--first` runs: those that a change breaks most easily.
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

/// The whole program, every stage: it knows of each want whether it holds, and nothing makes the machine unfit.
fn sees_all(vm: &Vm) {
    assert_eq!(vm.run("stat -f -c %T /sys/fs/cgroup"), "cgroup2fs\n");
    let plan = vm.ironstrap(&["plan"]);
    assert_eq!(plan.code, Some(0), "{plan:#?}");
    assert!(plan.events.iter().any(|event| event["event"] == "drift"), "{plan:#?}");
    let bad = |event: &&serde_json::Value| {
        let unfit = event["event"] == "drift" && event["step"] == "preflight";
        event["event"] == "error" || event["state"] == "unknown" || unfit
    };
    assert_eq!(plan.events.iter().find(bad), None);
    // The machine has no way out, so it can find none of what it would install; and how fast it writes is its host's affair.
    let nowhere = ["Temporary failure resolving", "no answer within", "synchronous writes to the disk"];
    let out = |note: &&str| !nowhere.iter().any(|words| note.contains(words));
    let notes = plan.events.iter().filter_map(|event| event["note"].as_str()).filter(out);
    let told = [
        "check failed, downgraded to a warning: the machine has enough CPUs; found: 1 CPU",
        "AppArmor is on, but nothing loads its profiles, so containers run without them (apt-get install apparmor)",
        "no time service runs: certificates need synchronized clocks",
    ];
    assert_eq!(notes.collect::<Vec<_>>(), told);
}

/// Swap of three kinds is on when the machine comes: a file of fstab, a compressed piece of memory, and, once
/// fstab has none, a partition that systemd finds by its type.
fn from_the_shop(vm: &Vm) {
    let swaps = vm.run("cat /proc/swaps");
    assert!(swaps.contains("/swap.img ") && swaps.contains("/dev/zram0 "), "{swaps}");
    let outcome = vm.apply();
    let swap = ["swap.fstab", "swap.target", "swap.active"];
    for that in swap {
        assert!(outcome.planned.contains(&("swap".into(), that.into())), "{that}: {:#?}", outcome.planned);
    }
    assert_eq!(outcome.planned, outcome.changed);
    vm.assert_as_wanted();
    vm.reboot();
    vm.assert_as_wanted();
    assert_eq!(vm.run("tail -n +2 /proc/swaps"), "");
    let found = vm.run("find /run/systemd/generator* -name '*.swap' | sort");
    assert!(found.contains("zram0") && found.contains("part2"), "systemd would bring no swap: {found}");
}

fn live(vm: &Vm) {
    LIVE.iter().for_each(|row| mended(vm, row));
    vm.assert_as_wanted();
}

fn mended(vm: &Vm, row: &Row) {
    vm.run(row.breaks);
    let expected = pairs(row.shows);
    let outcome = vm.apply();
    assert_eq!(outcome.planned, expected, "{}", row.breaks);
    assert_eq!(outcome.changed, expected, "{}", row.breaks);
    println!("  ✔ {}", row.breaks);
}

/// What the machine sends takes so long, in milliseconds, and one packet in a hundred never comes (tc-netem(8)).
fn far(vm: &Vm) {
    let dev = vm.run("ip -o -4 addr show to 10.0.2.15 | cut -d ' ' -f 2");
    let (dev, mut lost) = (dev.trim(), 0);
    for (delay, bytes, row) in [(50, 1_200_000, &LIVE[0]), (270, 120_000, &LIVE[1])] {
        vm.run(&format!("tc qdisc replace dev {dev} root netem delay {delay}ms loss 1%"));
        let said = vm.run(&format!("head -c {bytes} /dev/zero | base64 -w 0"));
        assert_eq!(said.len(), bytes / 3 * 4);
        // A new connection, and all stages.
        let plan = vm.ironstrap(&["plan"]);
        assert_eq!(plan.code, Some(0), "{plan:#?}");
        assert_eq!(plan.events.iter().find(|event| event["event"] == "error"), None);
        mended(vm, row);
        vm.assert_as_wanted();
        let counted = vm.run(&format!("tc -s qdisc show dev {dev}"));
        let (_, dropped) = counted.split_once("(dropped ").unwrap();
        let dropped: u32 = dropped.split(',').next().unwrap().parse().unwrap();
        println!("  {delay} ms, {dropped} packets lost");
        lost += dropped;
    }
    assert!(lost > 0, "nothing was lost");
    vm.run(&format!("tc qdisc del dev {dev} root"));
}

fn at_boot(vm: &Vm) {
    vm.run(AT_BOOT);
    vm.reboot();
    let swaps = vm.run("cat /proc/swaps");
    assert!(swaps.contains("/dev/nvme0n1p2 ") && swaps.contains("/dev/zram0 "), "{swaps}");
    let outcome = vm.apply();
    assert_eq!(outcome.planned, pairs(AT_BOOT_EXPECTED));
    assert_eq!(outcome.changed, outcome.planned);
    vm.reboot();
    vm.assert_as_wanted();
    assert_eq!(vm.run("tail -n +2 /proc/swaps"), "");
}

fn clock(vm: &Vm) {
    // The clock of a machine under QEMU lags where the host is busy.
    let before = vm.seconds_ahead();
    vm.run("date -s '+1 hour' >/dev/null");
    for command in [&["plan"][..], &["apply", "--yes"]] {
        let refused = vm.ironstrap(command);
        assert_eq!(refused.code, Some(5), "{refused:#?}");
        let error = refused.events.iter().find(|event| event["event"] == "error").unwrap();
        let (what, hint) = (error["what"].as_str().unwrap(), error["hint"].as_str().unwrap());
        assert_eq!(error["node"], vm.name.as_str());
        let seconds: f64 = what.split(' ').find_map(|word| word.parse().ok()).unwrap();
        // Asking takes a while on such a machine.
        assert!((3590.0..3620.0).contains(&(seconds - before)), "{what}; before that it was {before}");
        assert!(what.starts_with("its clock is ") && what.ends_with(" s ahead of this computer's"), "{what}");
        assert!(hint.contains("set the clock"), "{hint}");
    }
    let ahead = vm.seconds_ahead();
    assert!((3500.0..3700.0).contains(&ahead), "somebody has set its clock: {ahead}");
    vm.run("date -s '-1 hour' >/dev/null");
    vm.assert_as_wanted();
}
