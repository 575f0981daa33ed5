//! Many kinds at once, on all machines: whatever is broken together, one apply mends it, and the next has nothing to
//! do. The subsets are random, and the same again for the same seed.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use super::{By, Ground, Kind};
use crate::lab::NODES;
use crate::world::{World, real};

pub const SAYS: &str =
    "together: whatever is broken at once, one apply mends it and the next has nothing to do";

/// Says how many subsets there are; without it there are none. `IRONSTRAP_DRIFT_SEED` says which, and
/// `IRONSTRAP_DRIFT_FROM` the first of them that is tried.
const SUBSETS: &str = "IRONSTRAP_DRIFT_SUBSETS";

/// splitmix64: small, and good enough to choose.
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
    number(SUBSETS).is_some()
}

pub(super) fn run(ground: &mut Ground, kinds: &[&'static Kind]) {
    drop(ground.lay());
    let clock = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let seed = number("IRONSTRAP_DRIFT_SEED").unwrap_or_else(clock);
    println!("  IRONSTRAP_DRIFT_SEED={seed}");
    let mut random = Random(seed);
    let together: Vec<&Kind> =
        kinds.iter().copied().filter(|kind| kind.alone.is_empty() && kind.notes.is_empty()).collect();
    for i in 0..number(SUBSETS).unwrap_or(0) {
        let since = Instant::now();
        let subset = choose(&mut random, &together);
        if i < number("IRONSTRAP_DRIFT_FROM").unwrap_or(0) {
            continue;
        }
        let words: Vec<String> =
            subset.iter().map(|(kind, nodes)| format!("{} {nodes:?}", kind.says)).collect();
        println!("  {i}: {}", words.join("; "));
        mend(ground.world, &subset);
        println!("  {i}: {:.1} s", since.elapsed().as_secs_f64());
    }
}

type Subset = Vec<(&'static Kind, Vec<&'static str>)>;

/// Two to seven kinds, each on some of the machines that it can be on.
fn choose(random: &mut Random, kinds: &[&'static Kind]) -> Subset {
    let mut left = kinds.to_vec();
    let mut subset = Subset::new();
    for _ in 0..2 + random.below(6) {
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
        subset.push((kind, nodes));
    }
    // What needs the API comes before what may take it away.
    subset.sort_by_key(|(kind, _)| !matches!(kind.by, By::Kubectl(_)));
    subset
}

fn mend(world: &World, subset: &Subset) {
    let mut broken = 0;
    for (kind, nodes) in subset {
        for node in nodes {
            // Who is gone cannot be given a label.
            if catch_unwind(AssertUnwindSafe(|| kind.bring_about(world, node))).is_err() {
                println!("  not possible beside the others: {} on {node}", kind.says);
                continue;
            }
            broken += 1;
        }
    }
    assert!(broken > 0, "nothing was broken");
    world.apply().good();
    world.assert_converged();
    world.assert_pods_reached();
    let again = world.apply().good();
    // Who is found not Ready for a moment is waited for, and nobody is touched for it.
    assert_eq!(real(&again, "fixed"), BTreeSet::new());
    for node in NODES {
        let waited = node == "m1" && again.changes() > 0;
        assert!(waited || again.of_node(node, "execs") == 1, "{node} was worked on");
    }
}
