//! Shows events as lines. With few nodes, each event is a line at once. With many nodes, each message appears once, for its
//! first node. A line then says every so often how far all nodes are. Notes come at the end, each of them once.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::group::{COMPACT_ABOVE, MANY, Named, counted, mask_digits};
use super::{Event, count, line};

/// How often a line says how far all nodes are.
const EVERY: Duration = Duration::from_secs(10);

pub struct Grouping {
    /// How many nodes have answered.
    nodes: usize,
    /// The messages that were shown, without the node.
    told: BTreeSet<String>,
    mended: usize,
    mended_on: BTreeSet<String>,
    last: Instant,
    /// The node that each note comes from, and the words.
    notes: Vec<(String, String)>,
}

impl Default for Grouping {
    fn default() -> Self {
        let (told, mended_on, notes) = Default::default();
        Grouping { nodes: 0, told, mended: 0, mended_on, last: Instant::now(), notes }
    }
}

impl Grouping {
    /// Counts the nodes that have answered. All nodes answer before anything is done.
    pub fn hear(&mut self, event: &Event) {
        self.nodes += usize::from(matches!(event, Event::Looked { .. }));
    }

    /// Whether there are more nodes than a screen has lines for.
    pub fn is_large(&self) -> bool {
        self.nodes > COMPACT_ABOVE
    }

    /// Returns the lines to show now for this event.
    pub fn lines(&mut self, event: &Event) -> Vec<String> {
        match event {
            Event::Note { node, .. } => {
                self.notes.extend(line(event).map(|note| (node.clone(), note)));
                vec![]
            }
            _ if !self.is_large() => line(event).into_iter().collect(),
            _ => self.first_of(event),
        }
    }

    fn first_of(&mut self, event: &Event) -> Vec<String> {
        let Some(text) = line(event) else { return vec![] };
        let key = match event {
            // The number of changes and the node to wait for differ from node to node.
            Event::Stage { stage, .. } => format!("stage {stage}"),
            Event::Waiting { .. } => "waiting".into(),
            Event::Fixed { node, .. } | Event::Attached { node, .. } | Event::Said { node, .. } => {
                mask_digits(&Named { name: node, ip: None }.out_of(&text))
            }
            _ => return vec![text],
        };
        let mut lines = Vec::new();
        if self.told.is_empty() {
            lines.push(format!("{} nodes: each message appears once, for its first node", self.nodes));
        }
        lines.extend(self.told.insert(key).then_some(text));
        if let Event::Fixed { node, .. } = event {
            self.mended += 1;
            self.mended_on.insert(node.clone());
            if self.last.elapsed() >= EVERY {
                self.last = Instant::now();
                let (mended, nodes) = (count(self.mended, "difference"), count(self.mended_on.len(), "node"));
                lines.push(format!("… {mended} fixed on {nodes} so far"));
            }
        }
        lines
    }

    /// Returns the lines of all notes. They come at the end.
    pub fn rest(self) -> Vec<String> {
        let mut groups: Vec<(String, Vec<&(String, String)>)> = Vec::new();
        for note in &self.notes {
            let key = mask_digits(&Named { name: &note.0, ip: None }.out_of(&note.1));
            match groups.iter_mut().find(|(other, _)| *other == key) {
                Some((_, group)) => group.push(note),
                None => groups.push((key, vec![note])),
            }
        }
        let told = |(_, group): (String, Vec<&(String, String)>)| -> Vec<String> {
            if group.len() < MANY {
                return group.into_iter().map(|(_, note)| note.clone()).collect();
            }
            let mut nodes: Vec<&str> = group.iter().map(|(node, _)| node.as_str()).collect();
            nodes.dedup();
            let more = format!("      and {} more like it, from {}", group.len() - 1, counted(nodes));
            vec![group[0].1.clone(), more]
        };
        groups.into_iter().flat_map(told).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::WantName;

    fn looked(i: usize) -> Event {
        Event::Looked { node: format!("w{i}"), changes: 0, answering: 0.0, seconds: 0.0 }
    }

    /// The lines about these events in a fleet of this size.
    fn told(nodes: usize, events: &[Event]) -> Vec<String> {
        let mut grouping = Grouping::default();
        (0..nodes).for_each(|i| grouping.hear(&looked(i)));
        let mut lines: Vec<String> = events.iter().flat_map(|event| grouping.lines(event)).collect();
        lines.extend(grouping.rest());
        lines
    }

    fn fixed(node: usize) -> Event {
        let of =
            WantName { step: "member".into(), that: format!("w{node} is a member"), ..WantName::default() };
        Event::Fixed { node: format!("w{node}"), of }
    }

    #[test]
    fn a_large_fleet_shows_each_message_once() {
        let stage = |i: usize| Event::Stage { node: format!("w{i}"), stage: "prepare".into(), changes: i };
        let events: Vec<Event> = (0..1000).map(stage).chain((0..1000).map(fixed)).collect();
        assert_eq!(told(COMPACT_ABOVE, &events).len(), events.len());
        assert_eq!(
            told(1000, &events),
            [
                "1000 nodes: each message appears once, for its first node",
                "w0  prepare: 0 changes",
                "w0  member: w0 is a member"
            ]
        );
    }

    #[test]
    fn equal_notes_of_many_nodes_are_shown_once() {
        let note = |i: usize| Event::Note {
            node: format!("w{i}"),
            step: "preflight".into(),
            note: "no time service runs".into(),
        };
        let notes: Vec<Event> = (1..41).map(note).collect();
        assert_eq!(told(40, &notes[..2]), ["! w1: no time service runs", "! w2: no time service runs"]);
        assert_eq!(
            told(40, &notes),
            ["! w1: no time service runs", "      and 39 more like it, from w[1-40]  (40 nodes)"]
        );
    }
}
