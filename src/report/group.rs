//! Groups what is the same on many nodes, and says it once. It writes their names as ranges, and `NODE` for what differs from
//! node to node. Fewer than `MANY` nodes are not grouped.

use std::collections::BTreeMap;

use super::trouble;
use crate::error::Error;

/// From this number of nodes on, ironstrap says once what is the same on all of them.
pub const MANY: usize = 8;
/// More nodes than this do not fit on a screen one by one.
pub const COMPACT_ABOVE: usize = 32;
/// The words that replace a node's name and its address.
const NODE: &str = "NODE";
const ADDRESS: &str = "ADDRESS";

/// Returns names as a list. Many names become ranges, as `--limit` takes them.
pub fn names(names: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let all: Vec<_> = names.into_iter().collect();
    let all: Vec<&str> = all.iter().map(AsRef::as_ref).collect();
    if all.len() < MANY {
        return all.join(", ");
    }
    let mut runs: Vec<(&str, &str)> = Vec::new();
    for name in all {
        match runs.last_mut() {
            Some((_, last)) if follows(last, name) => *last = name,
            _ => runs.push((name, name)),
        }
    }
    runs.into_iter().map(|(first, last)| range(first, last)).collect::<Vec<_>>().join(", ")
}

/// Returns names with their number, as in `w[01-40] (40 nodes)`. One name stands alone.
pub fn counted<'a>(all: impl IntoIterator<Item = &'a str>) -> String {
    let all: Vec<&str> = all.into_iter().collect();
    match all.len() {
        0 | 1 => all.concat(),
        n => format!("{}  ({n} nodes)", names(all)),
    }
}

/// Returns names, each with a remark. In a long list, neighbours with the same remark share one entry.
pub fn remarked(all: &[(impl AsRef<str>, impl AsRef<str>)]) -> String {
    let remark = |(_, remark): &(_, _)| -> String { AsRef::<str>::as_ref(remark).into() };
    let group = |one: &(_, _), next: &(_, _)| all.len() >= MANY && remark(one) == remark(next);
    let told =
        all.chunk_by(group).map(|group| names(group.iter().map(|(name, _)| name)) + &remark(&group[0]));
    told.collect::<Vec<_>>().join(", ")
}

/// Splits a name into the text before its last number, the number, and the text after it.
fn parts(name: &str) -> Option<(&str, &str, &str)> {
    let end = name.rfind(|c: char| c.is_ascii_digit())? + 1;
    let before = name[..end].char_indices().rfind(|(_, c)| !c.is_ascii_digit());
    let start = before.map_or(0, |(at, c)| at + c.len_utf8());
    Some((&name[..start], &name[start..end], &name[end..]))
}

fn follows(one: &str, next: &str) -> bool {
    let (Some((before, low, after)), Some((other, high, end))) = (parts(one), parts(next)) else {
        return false;
    };
    let padded = |digits: &str| digits.len() > 1 && digits.starts_with('0');
    let number = |digits: &str| digits.parse::<u64>().ok();
    (before, after) == (other, end)
        && (low.len() == high.len() || !padded(low) && !padded(high))
        && number(low).and_then(|low| low.checked_add(1)).is_some_and(|after| number(high) == Some(after))
}

fn range(first: &str, last: &str) -> String {
    match (parts(first), parts(last)) {
        (Some((before, low, after)), Some((_, high, _))) if first != last => {
            format!("{before}[{low}-{high}]{after}")
        }
        _ => first.into(),
    }
}

/// A node, as texts name it.
#[derive(Clone, Debug, PartialEq)]
pub struct Named<'a> {
    pub name: &'a str,
    /// The address of the node in the cluster.
    pub ip: Option<String>,
}

impl Named<'_> {
    /// Returns the text with `NODE` and `ADDRESS` in place of this node. The result is equal for nodes with the same message.
    pub fn out_of(&self, text: &str) -> String {
        let text = without(text, self.name, NODE);
        self.ip.as_ref().map_or(text.clone(), |ip| without(&text, ip, ADDRESS))
    }

    /// Whether the text names this node, so that it may differ for another node.
    pub fn is_in(&self, text: &str) -> bool {
        text.contains(self.name) || self.ip.as_ref().is_some_and(|ip| text.contains(ip))
    }
}

/// Returns the text with `other` in place of `word`, where that stands alone.
fn without(text: &str, word: &str, other: &str) -> String {
    let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '-' || c == '_');
    let (mut rest, mut kept) = (text, String::new());
    let mut before = None;
    while let Some(at) = rest.find(word).filter(|_| !word.is_empty()) {
        let (head, tail) = (&rest[..at], &rest[at + word.len()..]);
        let whole = !is_part(head.chars().last().or(before)) && !is_part(tail.chars().next());
        kept += head;
        kept += if whole { other } else { word };
        (before, rest) = (word.chars().last(), tail);
    }
    kept + rest
}

/// Returns the text with `#` for each number, such as ports, addresses and sizes.
pub fn mask_digits(text: &str) -> String {
    let mut masked = String::new();
    for c in text.chars() {
        match c.is_ascii_digit() {
            true if masked.ends_with('#') => {}
            true => masked.push('#'),
            false => masked.push(c),
        }
    }
    masked
}

/// Returns errors as people read them. An error of many nodes appears once, with the words of the first and the names of all.
pub fn troubles(errors: &[Error]) -> Vec<String> {
    let mut groups: BTreeMap<String, Vec<&Error>> = BTreeMap::new();
    let key = |error: &Error| {
        let words = trouble(&Error { node: None, ..error.clone() });
        let named = error.node.as_ref().map(|name| Named { name, ip: None });
        format!("{:?} {}", error.kind, mask_digits(&named.map_or(words.clone(), |node| node.out_of(&words))))
    };
    let keys: Vec<String> = errors.iter().map(key).collect();
    for (error, key) in errors.iter().zip(&keys).filter(|(error, _)| error.node.is_some()) {
        groups.entry(key.clone()).or_default().push(error);
    }
    let told = |(error, key): (&Error, &String)| match groups.get(key).filter(|group| group.len() >= MANY) {
        Some(group) if std::ptr::eq(group[0], error) => Some(trouble(&of_all(group))),
        Some(_) if error.node.is_some() => None,
        _ => Some(trouble(error)),
    };
    errors.iter().zip(&keys).filter_map(told).collect()
}

fn of_all(errors: &[&Error]) -> Error {
    let first = errors[0];
    let nodes = || errors.iter().filter_map(|error| error.node.as_deref());
    let all = Error { node: Some(counted(nodes())), ..first.clone() };
    let same =
        |error: &&Error| Error { node: None, ..(*error).clone() } == Error { node: None, ..first.clone() };
    match errors.iter().all(same) {
        true => all,
        false => all.because(format!(
            "this is {}; the others differ only in names and numbers",
            nodes().next().unwrap_or_default()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_outside_ascii_are_grouped() {
        let names: Vec<String> = (1..=9).map(|n| format!("größeé{n}ü")).collect();
        assert_eq!(super::names(&names), "größeé[1-9]ü");
        assert_eq!(parts("é1"), Some(("é", "1", "")));
    }
    use crate::error::Kind;

    fn numbered(numbers: impl IntoIterator<Item = u32>) -> Vec<String> {
        numbers.into_iter().map(|number| format!("w{number}")).collect()
    }

    #[test]
    fn many_names_are_shown_as_ranges() {
        assert_eq!(names(numbered(1..5)), "w1, w2, w3, w4");
        assert_eq!(names(numbered(1..1001)), "w[1-1000]");
        let some = numbered([1, 2, 3, 5, 8, 9, 10, 11, 20]);
        assert_eq!(names(&some), "w[1-3], w5, w[8-11], w20");
        let padded: Vec<String> = (95..105).map(|n| format!("rack2-w{n:03}.x")).collect();
        assert_eq!(names(&padded), "rack2-w[095-104].x");
        let mixed: Vec<String> = (8..12).flat_map(|n| [format!("a{n:02}"), format!("b{n}")]).collect();
        assert_eq!(names(&mixed), "a08, b8, a09, b9, a10, b10, a11, b11");
    }

    #[test]
    fn only_whole_names_and_addresses_are_replaced() {
        let node = Named { name: "w1", ip: Some("10.0.0.1".into()) };
        assert_eq!(node.out_of("w1 has w1.x, w11 and w1-a; (w1)"), "NODE has NODE.x, w11 and w1-a; (NODE)");
        assert_eq!(node.out_of("at 10.0.0.1:22, not 10.0.0.11"), "at ADDRESS:22, not 10.0.0.11");
    }

    #[test]
    fn equal_errors_of_many_nodes_are_shown_once() {
        let error = |i: u32| {
            let error = Error::new(Kind::Unreachable, "timed out after 10 s").on(&format!("w{i}"));
            error.because(format!("while connecting to 10.0.0.{i}:22"))
        };
        let mut errors: Vec<Error> = (1..21).map(error).collect();
        errors.insert(3, Error::new(Kind::Refused, "is not fit").on("w30"));
        errors.push(Error::new(Kind::Partial, "demo: 1 of 22 nodes match demo.toml"));
        let told = troubles(&errors);
        assert_eq!(
            told,
            [
                "✗ w[1-20]  (20 nodes)  timed out after 10 s\n      while connecting to 10.0.0.1:22\n      \
                 this is w1; the others differ only in names and numbers",
                "✗ w30  is not fit",
                "✗ demo: 1 of 22 nodes match demo.toml",
            ]
        );
        assert_eq!(troubles(&errors[..6]).len(), 6, "of few errors, each appears");
    }
}
