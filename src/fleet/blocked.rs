//! What a want waits for: in words for people, and as nodes for decisions.

use std::fmt;

/// What others have to do before a want can be fixed.
#[derive(Clone, Debug, PartialEq)]
pub struct Blocked {
    /// The nodes that have to do it. None: no node of the inventory, but a program of the cluster.
    pub on: Vec<String>,
    /// `w2 to join`: follows the words "waits for".
    until: String,
}

impl Blocked {
    /// Waits for nodes to be done with what they do now. `words`: their names, as people read them.
    pub fn on(nodes: Vec<String>, words: String) -> Self {
        Blocked { on: nodes, until: words }
    }

    /// Waits for a node. `what`: as in `to join`.
    pub fn until(node: &str, what: &str) -> Self {
        Blocked::until_all(&[node.into()], what)
    }

    /// As `until`, for several nodes.
    pub fn until_all(nodes: &[String], what: &str) -> Self {
        Blocked { on: nodes.to_vec(), until: format!("{} {what}", nodes.join(", ")) }
    }

    /// Waits for a program of the cluster. `what`: as in `the controller manager to sign it`.
    pub fn by_cluster(what: impl Into<String>) -> Self {
        Blocked { on: vec![], until: what.into() }
    }

    /// As words that follow "waits for".
    pub fn words(&self) -> &str {
        &self.until
    }
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.until)
    }
}
