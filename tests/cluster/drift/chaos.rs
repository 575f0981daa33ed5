//! Chaos: several random kinds of drift at once, on random machines. One apply repairs them and changes nothing else. After
//! it, the next apply has nothing to do, and pods start on every node and reach each other. The same seed gives the same
//! sequences.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use super::{By, Ground, Kind, kubectl, looks};
use crate::lab::NODES;
use crate::world::real;

pub const SAYS: &str = "chaos: one apply repairs several kinds of drift and changes nothing else";

/// The environment variable with the number of sequences. If it is unset, chaos does not run.
const SEQUENCES: &str = "IRONSTRAP_CHAOS";
/// The environment variable with the seed. If it is unset, each run has another seed.
const SEED: &str = "IRONSTRAP_CHAOS_SEED";
/// The environment variable with the index of the first sequence, to repeat a failed one alone.
const FROM: &str = "IRONSTRAP_CHAOS_FROM";

/// The random number generator splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

pub(super) fn wanted() -> bool {
    number(SEQUENCES).is_some()
}

pub(super) fn run(ground: &mut Ground, kinds: &[&'static Kind]) {
    let clock = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let init_node = number(SEED).unwrap_or_else(clock);
    println!("  {SEED}={init_node}");
    let mut random = Random(init_node);
    let mended = |kind: &&Kind| kind.alone.is_empty() && kind.notes.is_empty() && kind.by_hand.is_empty();
    let possible: Vec<&Kind> = kinds.iter().copied().filter(mended).collect();
    for i in 0..number(SEQUENCES).unwrap_or(0) {
        let since = Instant::now();
        let sequence = choose(&mut random, &possible);
        if i < number(FROM).unwrap_or(0) {
            continue;
        }
        let words: Vec<String> =
            sequence.iter().map(|(kind, nodes)| format!("{} {nodes:?}", kind.says)).collect();
        println!("  {i}: {}", words.join("; "));
        repaired(ground, &sequence);
        println!("  {i}: {:.1} s", since.elapsed().as_secs_f64());
    }
}

type Sequence = Vec<(&'static Kind, Vec<&'static str>)>;

/// Chooses one to six kinds, each on some of its possible machines.
fn choose(random: &mut Random, kinds: &[&'static Kind]) -> Sequence {
    let mut left = kinds.to_vec();
    let mut sequence = Sequence::new();
    for _ in 0..=random.below(6) {
        let kind = left.swap_remove(random.below(left.len()));
        let nodes = match kind.by {
            By::Anywhere(..) => match random.below(1 << NODES.len()) {
                0 => vec![kind.node()],
                bits => NODES
                    .into_iter()
                    .enumerate()
                    .filter(|(i, _)| bits >> i & 1 == 1)
                    .map(|(_, node)| node)
                    .collect(),
            },
            _ => vec![kind.node()],
        };
        sequence.push((kind, nodes));
    }
    // Scripts that need the API come before kinds that may stop it.
    sequence.sort_by_key(|(kind, _)| !matches!(kind.by, By::Kubectl(_)));
    sequence
}

fn repaired(ground: &mut Ground, sequence: &Sequence) {
    let (before, world) = (ground.lay(), ground.world);
    let mut broken: Vec<&Kind> = Vec::new();
    let each = sequence.iter().flat_map(|(kind, nodes)| nodes.iter().map(move |node| (*kind, *node)));
    for (kind, node) in each {
        // Some combinations are impossible: a missing Node cannot get a label.
        match catch_unwind(AssertUnwindSafe(|| kind.cause_drift(world, node))) {
            Ok(()) => broken.push(kind),
            Err(_) => println!("  not possible together with the others: {} on {node}", kind.says),
        }
    }
    assert!(!broken.is_empty(), "no drift was possible");
    let plan = world.start(&["plan", "--exit-code"]).end(60);
    let left_alone = broken.iter().all(|kind| kind.shows.is_empty());
    assert!(left_alone || plan.code != Some(0), "the plan shows no drift");
    world.apply().good();
    world.assert_converged();
    let looking = looks::begin(world);
    world.assert_pods_reached();
    world.assert_pods_start();
    let after = looking.end();
    let differs: Vec<&str> = broken.iter().flat_map(|kind| kind.differs).copied().collect();
    looks::assert_untouched(&before, &after, &differs);
    let again = world.apply().good();
    // An apply waits for a Node that is not Ready for a moment. That is not a change.
    assert_eq!(real(&again, "fixed"), BTreeSet::new());
    for node in NODES {
        let waited = node == "m1" && again.changes() > 0;
        assert!(waited || again.of_node(node, "execs") == 1, "{node} ran more than one script");
    }
    let left: Vec<&&Kind> = broken.iter().filter(|kind| !kind.then.is_empty()).collect();
    left.iter().for_each(|kind| kubectl(world, kind.then));
    ground.looks = left.iter().all(|kind| kind.differs.is_empty()).then_some(after);
}
