//! Limits for the size of each answer. Without them, a machine with a lying root could make ironstrap search
//! megabytes for each question. A larger answer is unknown, and costs only the machine that gave it.

use std::collections::BTreeSet;

use super::{Reply, asks_the_api, shells, tables};
use crate::secret;
use crate::step::{Ask, Object};

/// The exit status of a reply that is too large. No process ends with it.
pub(super) const TOO_LARGE: i32 = -2;

/// Limit in bytes for a question about one machine. The largest answer, of `containerd config dump`, has about 20 KiB.
const USUAL: usize = 1 << 20;
/// Limits in bytes for the head of a reply. A machine with a thousand routes needs 20 KiB.
const HEAD: [usize; 3] = [256 << 10, 256 << 10, 64 << 10];
/// Limit in bytes for the texts of all files together.
const TEXTS: usize = 2 << 20;
/// Limit in bytes for an empty answer or a time.
const NEXT_TO_NOTHING: usize = 4 << 10;
/// Limit in bytes for the cluster's objects without its Nodes: those of all addons of the inventory.
const OBJECTS: usize = 6 << 20;
/// Limit in bytes for each Node. A Node has up to 50 images with several names each, which take up to 16 KiB. Labels,
/// conditions and managed fields take as much again. For the 110 pods of a node, status asks for about 150 bytes
/// each.
const EACH_NODE: usize = 48 << 10;
/// Limit in bytes for all answers of a machine that ironstrap does not ask about the cluster.
const ALL: usize = 4 << 20;

/// Returns the limit in bytes for an answer about the cluster. It grows with the Nodes in these asks.
fn of_the_cluster(asks: &[&Ask]) -> usize {
    let objects = asks.iter().flat_map(|ask| if let Ask::Objects(all) = ask { all.as_slice() } else { &[] });
    let nodes: BTreeSet<&Object> = objects.filter(|object| object.kind == "Node").collect();
    OBJECTS + EACH_NODE * nodes.len()
}

/// Returns the maximum number of bytes that a script of these questions may print.
pub fn most(asks: &[&Ask]) -> usize {
    let large = shells(asks).into_iter().filter(|ask| ask.grows()).count();
    ALL + of_the_cluster(asks) * (usize::from(asks_the_api(asks)) + large)
}

/// Returns the maximum number of bytes for each question, in the order of the script.
fn each(asks: &[&Ask]) -> Vec<usize> {
    let cluster = of_the_cluster(asks);
    let tables = tables::NAMES.map(|name| if name == "cat" { TEXTS } else { USUAL });
    let objects = if asks_the_api(asks) { cluster } else { NEXT_TO_NOTHING };
    let shells = shells(asks).into_iter().map(|ask| if ask.grows() { cluster } else { USUAL });
    HEAD.into_iter().chain(tables).chain([objects]).chain(shells).chain([NEXT_TO_NOTHING]).collect()
}

/// Returns the number of replies to a script of these questions.
pub(super) fn count(asks: &[&Ask]) -> usize {
    HEAD.len() + tables::NAMES.len() + shells(asks).len() + 2
}

/// Replaces each reply that is too large by an error with the name of the question.
pub(super) fn bounded(replies: &mut [Reply], asks: &[&Ask], names: impl Fn() -> Vec<String>) {
    for (number, (reply, most)) in replies.iter_mut().zip(each(asks)).enumerate() {
        if reply.stdout.len() + reply.stderr.len() > most {
            let name = names().into_iter().nth(number).unwrap_or_default();
            let mut lines = name.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
            let name = secret::beginning(lines.next().unwrap_or_default(), 100);
            let stderr = format!("the answer is larger than {} KiB: {name}", most >> 10);
            *reply = Reply { status: TOO_LARGE, stdout: vec![], stderr };
        }
    }
}

/// Shortens an error message of a machine to what people read.
pub(super) fn short(why: &str) -> String {
    const LINES: usize = 20;
    const WIDTH: usize = 500;
    let mut lines = why.lines();
    let cut = |line: &str| secret::beginning(line, WIDTH);
    let mut short: Vec<String> = lines.by_ref().take(LINES).map(cut).collect();
    let more = lines.count();
    short.extend((more > 0).then(|| format!("… and {more} more lines")));
    short.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(nodes: usize) -> Vec<Ask> {
        let nodes = (0..nodes).map(|n| Ask::Objects(vec![Object::node(&format!("w{n}"))]));
        [Ask::Nodes, Ask::whole_api("all pods")].into_iter().chain(nodes).collect()
    }

    #[test]
    fn a_cut_text_shows_no_part_of_a_secret() {
        const SECRET: &str = "sizes-cut-in-two-4711-of-a-question";
        secret::learn(SECRET);
        let ask = Ask::Shell(crate::shell::quote(&format!("{}{SECRET}", "a".repeat(80))));
        let asks = [&ask];
        let reply = |_| Reply { status: 0, stdout: vec![b'x'; ALL], stderr: String::new() };
        let mut replies: Vec<Reply> = (0..count(&asks)).map(reply).collect();
        bounded(&mut replies, &asks, || super::super::watch::names(&asks));
        assert!(replies[10].stderr.contains("aaaa"), "{}", replies[10].stderr);
        let cut = short(&format!("{}{SECRET}", "a".repeat(480)));
        for text in replies.iter().map(|reply| reply.stderr.as_str()).chain([cut.as_str()]) {
            assert!(!text.contains("sizes-cut"), "{text}");
        }
    }

    #[test]
    fn limits_allow_a_thousand_nodes_but_little_per_worker() {
        let all = asks(1000);
        let all: Vec<&Ask> = all.iter().collect();
        // This is a Node with 50 images, as the API server returns it with all its managed fields.
        let (node, pods) = (32 << 10, 110 * 200);
        let each = each(&all);
        assert_eq!(each.len(), count(&all));
        assert!(each[9] > 1000 * node && each[10] > 1000 * pods, "{each:?}");
        assert!(most(&all) > each[9] + each[10]);
        let worker = Ask::Shell("echo a".into());
        assert_eq!((most(&[&worker]), self::each(&[&worker])[10]), (4 << 20, 1 << 20));
        assert_eq!(self::each(&[&worker])[9], 4 << 10, "a worker is asked nothing about the cluster");
    }
}
