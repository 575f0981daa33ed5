//! The reason why a want waits, in words for people and as nodes for decisions.

use std::fmt;

/// The task that others have to do before a want can be fixed.
#[derive(Clone, Debug, PartialEq)]
pub struct Blocked {
    /// The nodes that have to do it. If there are none, a program of the cluster has to do it, and no node of the inventory.
    pub on: Vec<String>,
    /// The words that follow "waits for", such as `w2 to join`.
    until: String,
    /// The machine has to be asked again. Until then nothing is known of the want.
    pub asks_again: bool,
}

impl Blocked {
    /// Waits until these nodes have finished what they do now. `words` is their names, as people read them.
    pub fn on(nodes: Vec<String>, words: String) -> Self {
        Blocked { on: nodes, until: words, asks_again: false }
    }

    /// Waits for a node. `what` is what the node has to do, as in `to join`.
    pub fn until(node: &str, what: &str) -> Self {
        Blocked::until_all(&[node.into()], what)
    }

    /// As `until`, for several nodes.
    pub fn until_all(nodes: &[String], what: &str) -> Self {
        Blocked { on: nodes.to_vec(), until: format!("{} {what}", nodes.join(", ")), asks_again: false }
    }

    /// Waits for a program of the cluster. `what` is the program and its task, as in `the controller manager to sign it`.
    pub fn by_cluster(what: impl Into<String>) -> Self {
        Blocked { on: vec![], until: what.into(), asks_again: false }
    }

    /// Until this node is asked again, because something changed since it answered.
    pub fn until_asked_again(node: &str) -> Self {
        Blocked { asks_again: true, ..Blocked::until(node, "to be asked again") }
    }

    /// The words that follow "waits for".
    pub fn words(&self) -> &str {
        &self.until
    }
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.until)
    }
}
