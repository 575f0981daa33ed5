//! Drift of real machines. Each kind of drift is a row of a table. The test causes the drift, checks that a plan shows exactly
//! this drift, and checks that an apply repairs it and changes nothing else. This file defines and runs the rows.

mod added;
pub mod certificates;
mod chaos;
mod cluster;
mod control_plane;
mod files;
mod installed;
mod inventory;
mod kernel;
mod kubelet;
mod looks;
mod network;
mod pki;
mod processes;
mod runtime;
mod swap;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use serde_json::Value;

use crate::client::{Ended, Triple, key};
use crate::lab::NODES;
use crate::part;
use crate::world::{PATIENCE, World, is_consequence};
use looks::Looks;

/// Node, step, the want's name, and a part of the difference that the plan shows. The node "." is the drifted one.
type Shows = (&'static str, &'static str, &'static str, &'static str);

/// One kind of drift.
pub struct Kind {
    pub says: &'static str,
    pub by: By,
    pub shows: &'static [Shows],
    /// Words of a note, for a state that ironstrap reports and does not change.
    pub notes: &'static str,
    /// The option with which an apply replaces it. Without the option, an apply keeps it and says so.
    confirm: &'static str,
    /// A script for what an apply cannot repair. After it, an apply succeeds.
    by_hand: &'static str,
    /// Files that differ after the repair, for example because a line is commented out.
    pub differs: &'static [&'static str],
    /// Whether the API server does not answer until the repair, so that a plan lacks its answers.
    pub silences_the_api: bool,
    /// The reason why it cannot be combined with other kinds. Empty if it can.
    pub alone: &'static str,
    /// A script on m1 at the end. It checks or removes what ironstrap keeps.
    pub then: &'static str,
}

/// The cause of the drift.
pub enum By {
    /// A script of root on this machine only, because it concerns this machine's role in the cluster.
    Root(&'static str, &'static str),
    /// A script of root on any machine. A single row uses this one.
    Anywhere(&'static str, &'static str),
    /// A script with kubectl.
    Kubectl(&'static str),
    /// A change in the operator's folder, or with the cluster's CA.
    Operator(fn(&World)),
    /// A change of the inventory: paths of keys and values.
    Inventory(&'static [(&'static [&'static str], &'static str)]),
}

/// The reason for `alone` if the repair restarts the API server.
const RESTARTS: &str = "the API server starts again";

/// The default values of a row.
const KIND: Kind = Kind {
    says: "",
    by: By::Kubectl(""),
    shows: &[],
    notes: "",
    confirm: "",
    by_hand: "",
    differs: &[],
    silences_the_api: false,
    alone: "",
    then: "",
};

/// All rows. Those of the inventory come last, because they change it for all rows after them.
fn kinds() -> Vec<&'static Kind> {
    let all = [
        swap::KINDS,
        kernel::KINDS,
        runtime::KINDS,
        kubelet::KINDS,
        files::KINDS,
        network::KINDS,
        processes::KINDS,
        cluster::KINDS,
        installed::KINDS,
        added::KINDS,
        pki::KINDS,
        control_plane::KINDS,
        inventory::KINDS,
    ];
    all.into_iter().flatten().collect()
}

impl Kind {
    /// The machine that drifts.
    fn node(&self) -> &'static str {
        match self.by {
            By::Root(node, _) | By::Anywhere(node, _) => node,
            _ => "m1",
        }
    }

    fn cause_drift(&self, world: &World, node: &str) {
        match &self.by {
            By::Root(_, script) | By::Anywhere(_, script) => drop(world.lab.ssh(node, script)),
            By::Kubectl(script) => kubectl(world, script),
            By::Operator(act) => act(world),
            By::Inventory(edits) => world.edit(edits),
        }
    }

    /// Leaves out consequences of the drift, which a plan may show or not. Drift that neither disconnects nor restarts pods has no
    /// consequences for them.
    fn without_consequences(&self, mut triples: BTreeSet<Triple>) -> BTreeSet<Triple> {
        const HARMLESS: [&str; 6] = ["swap", "hosts", "access", "uploads", "labels", "addons"];
        let expected = self.expected();
        let harms = !expected.iter().all(|(_, step, _)| HARMLESS.contains(&step.as_str()));
        // A component that restarts does not answer for a moment, and the Service lacks an API server that restarts. The
        // kubelet also restarts a component if another file defines the same pod.
        let restarts = self.alone == RESTARTS
            || expected.iter().any(|(_, step, _)| ["static-pods", "member"].contains(&step.as_str()));
        let follows = |triple: &Triple| match triple.1.as_str() {
            "services" | "static-pods" => restarts,
            // Nobody renews a Lease while the API server is away.
            "leases" => self.silences_the_api,
            "packets" => harms && is_consequence(triple),
            _ => is_consequence(triple),
        };
        triples.retain(|triple| expected.contains(triple) || !follows(triple));
        triples
    }

    fn expected(&self) -> BTreeSet<Triple> {
        let node = |name: &str| if name == "." { self.node().to_string() } else { name.to_string() };
        self.shows.iter().map(|(n, step, that, _)| (node(n), step.to_string(), that.to_string())).collect()
    }
}

/// The begin of a script for m1 in which `k` is kubectl with all rights.
const K: &str = "set -e; k() { kubectl --kubeconfig /etc/kubernetes/admin.conf \"$@\"; }\n";

/// Runs such a script on m1.
fn kubectl(world: &World, script: &str) {
    world.lab.ssh("m1", &format!("{K}{script}"));
}

/// Runs the rows whose name contains one of these texts, or all rows, and chaos if it is enabled. Returns whether all passed.
pub fn run(world: &World, words: &[String]) -> bool {
    let chosen = |says: &str| words.is_empty() || words.iter().any(|word| says.contains(word.as_str()));
    let kinds = kinds();
    let (mut passed, mut failed) = (0, Vec::new());
    let mut ground = Ground { world, looks: None };
    for kind in part_of(&kinds).iter().filter(|kind| chosen(kind.says)) {
        let since = Instant::now();
        let good = catch_unwind(AssertUnwindSafe(|| one(&mut ground, kind))).is_ok();
        println!("{} {} ({:.1} s)", if good { '✔' } else { '✗' }, kind.says, since.elapsed().as_secs_f64());
        if good {
            passed += 1
        } else {
            failed.push(kind.says)
        }
        if !good {
            ground.looks = None;
        }
    }
    if chaos::wanted() && chosen(chaos::SAYS) {
        let good = catch_unwind(AssertUnwindSafe(|| chaos::run(&mut ground, &kinds))).is_ok();
        if !good {
            println!(
                "{}",
                world.try_kubectl(&["get", "pods,events", "-A", "-o", "wide"]).unwrap_or_else(|why| why)
            );
        }
        println!("{} {}", if good { '✔' } else { '✗' }, chaos::SAYS);
        if good { passed += 1 } else { failed.push(chaos::SAYS) }
    }
    crate::report_result(passed, &failed)
}

/// The rows that the command line selects. Changes of the inventory build on each other, so they stay in one part.
fn part_of<'a>(kinds: &'a [&'static Kind]) -> &'a [&'static Kind] {
    let edits = |at: usize| matches!(kinds[at].by, By::Inventory(_));
    let begins = |at: usize| at == 0 || !(edits(at) && edits(at - 1));
    part::check(kinds.len(), begins);
    &kinds[part::named(kinds.len(), begins)]
}

/// A cluster that matches the inventory, and the state of its machines.
struct Ground<'a> {
    world: &'a World,
    /// The state after the last row that passed.
    looks: Option<Vec<Looks>>,
}

impl Ground<'_> {
    fn lay(&mut self) -> Vec<Looks> {
        match self.looks.take() {
            Some(looks) => looks,
            None => {
                self.world.mended();
                looks::begin(self.world).end()
            }
        }
    }
}

fn one(ground: &mut Ground, kind: &Kind) {
    let (before, world) = (ground.lay(), ground.world);
    let expected = kind.expected();
    kind.cause_drift(world, kind.node());
    let plan = world.plan();
    assert_shows(kind, &plan, &expected);
    if !kind.by_hand.is_empty() {
        assert_manual_repair(world, kind, &expected);
    } else if !expected.is_empty() {
        if !kind.confirm.is_empty() {
            assert_kept(world, kind);
        }
        let options: Vec<&str> =
            ["apply", "--yes"].into_iter().chain(kind.confirm.split_whitespace()).collect();
        let mended = world.start(&options).end(PATIENCE).good();
        assert_eq!(
            kind.without_consequences(mended.triples("fixed")),
            expected,
            "the apply makes exactly the planned changes"
        );
        for node in NODES {
            let reached = format!("nodes.announced[{node}]");
            let asked_again =
                kind.silences_the_api || mended.triples("fixed").iter().any(|(n, ..)| n == node);
            let touched = expected.iter().any(|(n, _, that)| n == node || *that == reached) || asked_again;
            // A node whose tunnel to the drifted node did not answer, or went with its Node, is observed again after the repair.
            // `assert_untouched` checks that nothing changed there.
            let cut_off = expected.iter().any(|(_, step, that)| {
                ["flannel", "packets"].contains(&step.as_str()) || that.starts_with("nodes.announced[")
            });
            let asks = if cut_off { 1..=2 } else { 1..=1 };
            // The first node of the inventory holds the lease against a second operator. It is also the node that answers for
            // the cluster, so it is observed again after a change of a member. The other nodes run only one script.
            let execs = mended.of_node(node, "execs").as_u64().unwrap();
            assert!(
                touched || node == "m1" || asks.contains(&execs),
                "{node} ran more scripts than expected: {execs}"
            );
        }
    }
    let looking = looks::begin(world);
    assert_nothing_left(world, kind);
    world.assert_pods_reached();
    let after = looking.end();
    looks::assert_untouched(&before, &after, kind.differs);
    if !kind.then.is_empty() {
        kubectl(world, kind.then);
    }
    // If `then` removed a file, the state `after` is outdated. Rows of the inventory keep it: `lay` would restore the first
    // inventory.
    let stays = kind.then.is_empty() || kind.differs.is_empty() || matches!(kind.by, By::Inventory(_));
    ground.looks = stays.then_some(after);
}

fn assert_shows(kind: &Kind, plan: &Ended, expected: &BTreeSet<Triple>) {
    let known = |event: &&Value| event["event"] == "drift" && event["state"] != "unknown";
    let word = |event: &Value, key: &str| event[key].as_str().unwrap().to_string();
    let shown: Vec<&Value> = plan.events.iter().filter(known).collect();
    let triple = |event: &Value| (word(event, "node"), word(event, "step"), key(event));
    let triples: BTreeSet<Triple> = shown.iter().map(|event| triple(event)).collect();
    assert_eq!(kind.without_consequences(triples), *expected, "{}", plan.errors());
    assert!(kind.silences_the_api || plan.code == Some(0), "{}{}", plan.errors(), plan.stderr);
    let unknown = plan.events.iter().any(|event| event["event"] == "drift" && event["state"] == "unknown");
    assert_eq!(unknown, kind.silences_the_api, "unknown wants: {:#?}", plan.triples("drift"));
    for ((_, step, that, piece), node) in kind.shows.iter().zip(kind.shows.iter().map(|(node, ..)| *node)) {
        let node = if node == "." { kind.node() } else { node };
        let same = |event: &&&Value| triple(event) == (node.into(), step.to_string(), that.to_string());
        let event = shown.iter().find(same).unwrap();
        let diff = format!("{}\n{}", word(event, "have"), word(event, "want"));
        assert!(diff.contains(piece), "{that}: no {piece:?} in what the plan shows:\n{diff}");
    }
    let notes: Vec<String> = plan
        .events
        .iter()
        .filter(|event| event["event"] == "note")
        .map(|event| word(event, "note"))
        .collect();
    match kind.notes {
        "" => assert_eq!(notes, Vec::<String>::new()),
        words => assert!(notes.iter().any(|note| note.contains(words)), "{notes:?}"),
    }
}

/// Checks that an apply without the confirmation changes nothing and fails.
fn assert_kept(world: &World, kind: &Kind) {
    let kept = world.apply();
    assert_eq!((kept.code, kept.triples("fixed")), (Some(8), BTreeSet::new()), "{}", kept.errors());
    let names = |event: &Value| event["hint"].as_str().is_some_and(|hint| hint.contains(kind.confirm));
    assert!(kept.events.iter().any(|event| event["event"] == "error" && names(event)), "{}", kept.errors());
    assert_shows(kind, &world.plan(), &kind.expected());
}

/// Checks that an apply does not repair it and fails, even if it repairs another machine meanwhile. After the manual repair,
/// the next apply succeeds.
fn assert_manual_repair(world: &World, kind: &Kind, expected: &BTreeSet<Triple>) {
    let other = if kind.node() == "m1" { "w2" } else { "m1" };
    world.lab.ssh(other, ": >/etc/modules-load.d/ironstrap.conf");
    let left = world.apply();
    assert_ne!(left.code, Some(0), "an apply that leaves drift succeeded");
    assert!(left.triples("fixed").is_disjoint(expected), "{:?}", left.triples("fixed"));
    world.lab.ssh(kind.node(), &format!("{K}{}", kind.by_hand));
    world.apply().good();
}

fn assert_nothing_left(world: &World, kind: &Kind) {
    let again = world.settled();
    let noted = again.events.iter().any(|event| event["event"] == "note");
    assert_eq!(noted, !kind.notes.is_empty(), "the note is still there if the row has one");
}
