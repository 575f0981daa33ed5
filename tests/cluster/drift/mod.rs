//! Drift of real machines, kind by kind: each is brought about, shown by a plan as that and nothing else, and mended
//! by an apply that touches nothing else. The kinds are data, one row each; here is how a row is read.

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

/// Node, step, the want's name, and a piece of what the plan says about it. The node "." is the one that was broken.
type Shows = (&'static str, &'static str, &'static str, &'static str);

/// One way in which machines stop being what the inventory says.
pub struct Kind {
    pub says: &'static str,
    pub by: By,
    pub shows: &'static [Shows],
    /// What is only noted, and left as it is.
    pub notes: &'static str,
    /// The option of an apply that replaces it. An ordinary apply keeps it and says so.
    confirm: &'static str,
    /// What a human does on that machine about what an apply leaves. Then an apply ends well.
    by_hand: &'static str,
    /// Files that are not again what they were: commented out, made again.
    pub differs: &'static [&'static str],
    /// The API server is away until it is mended, so that a plan cannot tell what only it knows.
    pub silences_the_api: bool,
    /// Why it cannot be one of many at a time; empty where it can.
    pub alone: &'static str,
    /// On m1, in the end: what ironstrap rightly leaves alone.
    pub then: &'static str,
}

/// How it comes about.
pub enum By {
    /// Root on this machine, and on no other: it is about this machine's part in the cluster.
    Root(&'static str, &'static str),
    /// Root on any machine; alone, on this one.
    Anywhere(&'static str, &'static str),
    /// Somebody with kubectl.
    Kubectl(&'static str),
    /// Somebody in the operator's folder, or with the cluster's authority.
    Operator(fn(&World)),
    /// The operator, who writes another inventory: a path of keys and a value.
    Inventory(&'static [(&'static [&'static str], &'static str)]),
}

/// Why a row is alone whose repair restarts the API server.
const RESTARTS: &str = "the API server starts again";

/// What most rows do not say.
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

/// Those of the inventory come last: from the first of them on it is another.
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
    /// The machine that it is about, where it is about one.
    fn node(&self) -> &'static str {
        match self.by {
            By::Root(node, _) | By::Anywhere(node, _) => node,
            _ => "m1",
        }
    }

    fn bring_about(&self, world: &World, node: &str) {
        match &self.by {
            By::Root(_, script) | By::Anywhere(_, script) => drop(world.lab.ssh(node, script)),
            By::Kubectl(script) => kubectl(world, script),
            By::Operator(act) => act(world),
            By::Inventory(edits) => world.edit(edits),
        }
    }

    /// Without what only follows from it, and may be seen or not. Pods answer through drift that neither cuts them off nor
    /// starts them again.
    fn without_consequences(&self, mut triples: BTreeSet<Triple>) -> BTreeSet<Triple> {
        const HARMLESS: [&str; 6] = ["swap", "hosts", "access", "uploads", "labels", "addons"];
        let expected = self.expected();
        let harms = !expected.iter().all(|(_, step, _)| HARMLESS.contains(&step.as_str()));
        // A component that restarts is away for a moment, and an API server is missing from its Service. The kubelet also restarts
        // a component if another file defines the same pod.
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

/// Begins a script with lines of `k …`, which is kubectl with all rights on m1.
const K: &str = "set -e; k() { kubectl --kubeconfig /etc/kubernetes/admin.conf \"$@\"; }\n";

/// Such lines on m1.
fn kubectl(world: &World, script: &str) {
    world.lab.ssh("m1", &format!("{K}{script}"));
}

/// Runs the rows whose words have one of these pieces, without any all rows, and chaos where it is asked for. Whether all
/// went well.
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

/// The rows that the command line asks for. An edit of the inventory builds on those before it.
fn part_of<'a>(kinds: &'a [&'static Kind]) -> &'a [&'static Kind] {
    let edits = |at: usize| matches!(kinds[at].by, By::Inventory(_));
    let begins = |at: usize| at == 0 || !(edits(at) && edits(at - 1));
    part::check(kinds.len(), begins);
    &kinds[part::named(kinds.len(), begins)]
}

/// A cluster that is as the inventory says, and how its machines look.
struct Ground<'a> {
    world: &'a World,
    /// Of the last that went well.
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
    kind.bring_about(world, kind.node());
    let plan = world.plan();
    assert_shows(kind, &plan, &expected);
    if !kind.by_hand.is_empty() {
        left_to_a_human(world, kind, &expected);
    } else if !expected.is_empty() {
        if !kind.confirm.is_empty() {
            assert_kept(world, kind);
        }
        let options: Vec<&str> =
            ["apply", "--yes"].into_iter().chain(kind.confirm.split_whitespace()).collect();
        let mended = world.start(&options).end(PATIENCE).good();
        assert_eq!(kind.without_consequences(mended.triples("fixed")), expected, "what was planned was done");
        for node in NODES {
            let reached = format!("nodes.announced[{node}]");
            let asked_again =
                kind.silences_the_api || mended.triples("fixed").iter().any(|(n, ..)| n == node);
            let touched = expected.iter().any(|(n, _, that)| n == node || *that == reached) || asked_again;
            // A node whose tunnel to the broken one was silent, or gone with its Node, is asked again after the repair.
            // `assert_untouched` shows that nothing was changed there.
            let cut_off = expected.iter().any(|(_, step, that)| {
                ["flannel", "packets"].contains(&step.as_str()) || that.starts_with("nodes.announced[")
            });
            let asks = if cut_off { 1..=2 } else { 1..=1 };
            // The first of the inventory is where two operators would meet; nobody else is even spoken to. The node that
            // speaks for the cluster is asked again when a member was worked on.
            let execs = mended.of_node(node, "execs").as_u64().unwrap();
            assert!(touched || node == "m1" || asks.contains(&execs), "{node} was worked on: {execs} execs");
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
    // What is taken away only now was seen. Rows of the inventory build on each other: `lay` would write the first one again.
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
    assert_eq!(unknown, kind.silences_the_api, "what cannot be told: {:#?}", plan.triples("drift"));
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

/// Without its own confirmation an apply changes nothing, and does not end well.
fn assert_kept(world: &World, kind: &Kind) {
    let kept = world.apply();
    assert_eq!((kept.code, kept.triples("fixed")), (Some(8), BTreeSet::new()), "{}", kept.errors());
    let names = |event: &Value| event["hint"].as_str().is_some_and(|hint| hint.contains(kind.confirm));
    assert!(kept.events.iter().any(|event| event["event"] == "error" && names(event)), "{}", kept.errors());
    assert_shows(kind, &world.plan(), &kind.expected());
}

/// An apply does not repair it, and does not end well, even if it repairs another machine meanwhile. Once a human has done the
/// rest, the next one does.
fn left_to_a_human(world: &World, kind: &Kind, expected: &BTreeSet<Triple>) {
    let other = if kind.node() == "m1" { "w2" } else { "m1" };
    world.lab.ssh(other, ": >/etc/modules-load.d/ironstrap.conf");
    let left = world.apply();
    assert_ne!(left.code, Some(0), "an apply that leaves something ends well");
    assert!(left.triples("fixed").is_disjoint(expected), "{:?}", left.triples("fixed"));
    world.lab.ssh(kind.node(), &format!("{K}{}", kind.by_hand));
    world.apply().good();
}

fn assert_nothing_left(world: &World, kind: &Kind) {
    let again = world.settled();
    let noted = again.events.iter().any(|event| event["event"] == "note");
    assert_eq!(noted, !kind.notes.is_empty(), "what is only noted is left as it is");
}
