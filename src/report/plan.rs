//! Shows a plan to people: by node and step, each want that does not hold, with a diff of what changes. A change that is the
//! same on many nodes appears once.

use super::group::{self, MANY, Named, names};
use crate::cluster::Node;
use crate::error::indented;
use crate::plan::{Change, State, Unchecked, after_whether, diff};
use crate::report::count;
use crate::secret;
use crate::step::Fix;

/// The longest diff that is shown, in lines. The JSON output has the whole diff.
const LINES: usize = 40;

/// The changes of a step on one node, or on many nodes where they are the same.
struct Block<'a> {
    nodes: Vec<Named<'a>>,
    items: Vec<Item<'a>>,
}

/// A change. On a control plane, it may stand for the same change about many nodes.
struct Item<'a> {
    change: &'a Change,
    about: Vec<Named<'a>>,
    /// Whether the present text and the right text are equal to the letter for all these nodes, including names.
    literal: bool,
}

/// Returns the lines of a whole plan: the nodes in their order, with their changes. `nodes`: all nodes of the cluster.
pub fn lines(plan: &[(String, Vec<Change>)], nodes: &[Node]) -> Vec<String> {
    let many = plan.len() >= MANY;
    let mut blocks: Vec<Block> = Vec::new();
    for (name, changes) in plan {
        for block in blocks_of(name, changes, nodes, many) {
            if !many || !blocks.iter_mut().any(|other| other.absorb(&block)) {
                blocks.push(block);
            }
        }
    }
    let all = blocks.iter().flat_map(Block::lines);
    all.map(|line| secret::hide(&indented(&line)).into_owned()).collect()
}

/// Returns the lines of the plan of a reset: what it will do. They do not say why a cluster needs each step. `verbose`: with
/// the contents of files, in place of one line for each file.
pub fn reset(plan: &[(String, Vec<Change>)], nodes: &[Node], verbose: bool) -> Vec<String> {
    let one = |change: &Change| {
        let change = Change { why: "", ..change.clone() };
        if verbose { change } else { brief(change) }
    };
    let each = |(node, changes): &(String, Vec<Change>)| (node.clone(), changes.iter().map(one).collect());
    // In this plan, a sentence is no complaint.
    let arrow = |line: String| match line.strip_prefix("  ✗ ") {
        Some(rest) => format!("  → {rest}"),
        None => line,
    };
    lines(&plan.iter().map(each).collect::<Vec<_>>(), nodes).into_iter().map(arrow).collect()
}

/// Replaces the contents of files by what happens to the files.
fn brief(change: Change) -> Change {
    if change.touches.is_empty() || change.state != State::Ready {
        return change;
    }
    let is = if change.touches.len() == 1 { "is" } else { "are" };
    let files = change.touches.join(", ");
    let that = match (change.have.is_empty(), change.want.is_empty()) {
        // The contents are secret, or there are none.
        (true, true) => change.that.clone(),
        (false, true) if !matches!(change.fix, Fix::Write { .. }) => format!("{files} {is} removed"),
        _ => format!("{files} {is} restored"),
    };
    // Such a fix has no path to show beside the sentence.
    Change { that, have: String::new(), want: String::new(), fix: Fix::FromPrevious, ..change }
}

/// Returns the wants that nobody could check, one line for each kind. A line names all nodes about which it says the same.
pub fn unchecked(all: &[(String, Unchecked)]) -> Vec<String> {
    let mut kinds: Vec<(String, &str, Vec<&str>)> = Vec::new();
    for (_, one) in all {
        let about = one.about.first().map_or("", String::as_str);
        let that = if about.is_empty() { one.that.clone() } else { one.that.replace(about, "\0") };
        match kinds.iter_mut().find(|(other, why, _)| *other == that && *why == one.why) {
            Some((.., nodes)) if nodes.contains(&about) => {}
            Some((.., nodes)) => nodes.push(about),
            None => kinds.push((that, &one.why, vec![about])),
        }
    }
    let line = |(that, why, nodes): (String, &str, Vec<&str>)| {
        let that = after_whether(&that).replace('\0', &names(nodes));
        indented(&format!("  ? could not check whether {that}: {why}"))
    };
    kinds.into_iter().map(line).collect()
}

/// Returns the result of a run in which no checked want differs. `wants`: how many there are. `on`: the nodes.
pub fn no_differences(wants: usize, unchecked: usize, inventory: &str, on: &str, whole: bool) -> String {
    match unchecked {
        0 => format!(
            "{}no differences from {inventory}: {wants} checks passed on {on}",
            if whole { "✔ " } else { "" }
        ),
        n => format!(
            "no differences from {inventory}: {} of {wants} checks passed on {on}, {n} could not run",
            wants - n
        ),
    }
}

fn blocks_of<'a>(name: &'a str, changes: &'a [Change], nodes: &[Node], many: bool) -> Vec<Block<'a>> {
    let named = |name: &'a str| {
        let node = nodes.iter().find(|node| node.name == name);
        Named { name, ip: node.map(|node| node.ip.to_string()) }
    };
    let block = |changes: &'a [Change]| {
        let mut items: Vec<Item> = Vec::new();
        for change in changes {
            let about = match change.about.as_slice() {
                [other] if many => named(other),
                _ => named(name),
            };
            let item = Item { change, about: vec![about], literal: true };
            // Two changes about the same node stay apart, however alike they are.
            let mut others = items.iter_mut().filter(|other| other.about[0] != item.about[0]);
            if !others.any(|other| other.absorb(&item)) {
                items.push(item);
            }
        }
        Block { nodes: vec![named(name)], items }
    };
    changes.chunk_by(|one, next| one.step == next.step).map(block).collect()
}

impl<'a> Block<'a> {
    /// Adds the nodes of the other block if its changes are the same. Returns whether they are.
    fn absorb(&mut self, other: &Block<'a>) -> bool {
        let own = |block: &Block| block.items.iter().all(|item| item.about == block.nodes[..1]);
        if self.items.len() != other.items.len() || !own(self) || !own(other) {
            return false;
        }
        let pairs = || self.items.iter().zip(&other.items);
        let group: Option<Vec<bool>> = pairs().map(|(one, next)| one.is_like(next)).collect();
        let Some(group) = group else { return false };
        self.items.iter_mut().zip(group).for_each(|(item, literal)| item.literal &= literal);
        self.nodes.extend(other.nodes.iter().cloned());
        true
    }

    fn lines(&self) -> Vec<String> {
        let Some(Item { change, .. }) = self.items.first() else { return vec![] };
        let nodes = group::counted(self.nodes.iter().map(|node| node.name));
        let why = if change.why.is_empty() { String::new() } else { format!(" — {}", change.why) };
        let mut lines = vec![format!("{nodes}  {}{why}", change.step)];
        let several = self.nodes.len() > 1;
        let named = self.items.iter().filter(|item| !place(item.change).is_empty());
        let width = named.map(|item| item.that(several).chars().count()).max().unwrap_or_default();
        lines.extend(self.items.iter().flat_map(|item| item.lines(several, width)));
        lines
    }
}

impl<'a> Item<'a> {
    /// Adds the nodes of the other change if it is the same. Returns whether it is.
    fn absorb(&mut self, other: &Item<'a>) -> bool {
        let Some(literal) = self.is_like(other) else { return false };
        self.literal &= literal;
        self.about.extend(other.about.iter().cloned());
        true
    }

    /// Whether the other change is the same except for the node. If it is: whether it is the same to the letter.
    fn is_like(&self, other: &Item) -> Option<bool> {
        let (Item { change, about, .. }, next) = (self, other.change);
        let (ours, theirs) = (&about[0], &other.about[0]);
        let same = |one: &str, next: &str| {
            one == next || ours.is_in(one) && theirs.is_in(next) && ours.out_of(one) == theirs.out_of(next)
        };
        let (first, second) = (words_about(change), words_about(next));
        if change.step != next.step || !first.iter().zip(second).all(|(one, next)| same(one, next)) {
            return None;
        }
        // The first word is the sentence, which may name the node.
        let literal = change.have == next.have && change.want == next.want && first[1..] == second[1..];
        (literal || same(&change.have, &next.have) && same(&change.want, &next.want)).then_some(literal)
    }

    /// Returns the sentence of the change. `all`: whether it stands for all nodes of its block.
    fn that(&self, all: bool) -> String {
        let each = all || self.about.len() > 1;
        if each { self.about[0].out_of(&self.change.that) } else { self.change.that.clone() }
    }

    /// Returns the lines of the change. `width`: the column of paths, in characters after the beginning of the sentence.
    fn lines(&self, all: bool, width: usize) -> Vec<String> {
        let node = &self.about[0];
        let mut lines = change_lines(self.change, &self.that(all), width);
        if (all || self.about.len() > 1) && !self.literal {
            lines.iter_mut().for_each(|line| *line = node.out_of(line));
        }
        if self.about.len() > 1 {
            lines.push(format!("      NODE: {}", group::counted(self.about.iter().map(|node| node.name))));
        }
        lines
    }
}

/// Returns the words about a change, without the present text and the right text.
fn words_about(change: &Change) -> [&str; 4] {
    let more = match (&change.state, &change.fix) {
        (State::Waits(for_what), _) => for_what.words(),
        (State::Unknown { why, .. }, _) => why,
        (State::Unconfirmed(open), _) => open.hint,
        (State::ByHand, Fix::ByHand(hint)) => hint,
        _ => "",
    };
    [&change.that, place(change), change.state.word(), more]
}

fn place(change: &Change) -> &str {
    if let Fix::Write { path, .. } = &change.fix { path } else { "" }
}

fn change_lines(change: &Change, that: &str, width: usize) -> Vec<String> {
    let sign = if matches!(change.state, State::Unknown { .. }) { '?' } else { '✗' };
    let mut lines = vec![format!("  {sign} {that:<width$}  {}", place(change)).trim_end().to_string()];
    // If there is no file yet, the hash of its new text tells people nothing.
    let told_by_name = change.have.is_empty() && change.want.contains("\nsha256 ");
    let diff = if told_by_name { vec![] } else { diff(&change.have, &change.want) };
    let more = diff.len().saturating_sub(LINES);
    lines.extend(diff.into_iter().take(LINES).map(|line| format!("      {line}").trim_end().to_string()));
    if more > 0 {
        lines.push(format!("      … {}", count(more, "more line")));
    }
    match &change.state {
        State::Ready => {}
        State::Waits(for_what) => lines.push(format!("      waits for {for_what}")),
        State::Unconfirmed(open) => lines.push(format!("      needs a confirmation: {}", open.hint)),
        State::ByHand => {
            if let Fix::ByHand(hint) = &change.fix {
                lines.push(format!("      by hand: {hint}"));
            }
        }
        State::Unknown { why, .. } => lines.push(format!("      cannot determine: {why}")),
    }
    lines
}
