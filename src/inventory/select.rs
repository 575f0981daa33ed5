//! Finds the nodes that a command line names. Each word is one node, or a range as in the inventory.

use std::collections::BTreeSet;

use super::fields::nearest;
use super::range;
use crate::cluster::Cluster;
use crate::error::{Error, Kind, Result};
use crate::secret::hide_login;

/// The nodes that these words stand for. Fails on a word that stands for none.
pub fn select(cluster: &Cluster, words: &[String]) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for word in words {
        let wrong = |why: String| Error::new(Kind::Usage, format!("{}: {why}", hide_login(word)));
        for name in range::expand(word).map_err(wrong)? {
            if cluster.node(&name).is_none() {
                return Err(unknown(cluster, &name));
            }
            names.insert(name);
        }
    }
    Ok(names)
}

fn unknown(cluster: &Cluster, name: &str) -> Error {
    let names: Vec<&str> = cluster.nodes.iter().map(|node| node.name.as_str()).collect();
    let error = Error::new(Kind::Usage, format!("the inventory has no node {}", hide_login(name)));
    // A comma separates words, so `w[1,2]` is two of them.
    if name.contains(['[', ']']) {
        return error.hint("write a range with a hyphen and both brackets, as in w[1-3]");
    }
    match nearest(name, names.iter().copied()) {
        Some(meant) => error.hint(format!("did you mean {meant}?")),
        None if names.len() <= 20 => error.hint(format!("it has {}", names.join(", "))),
        None => error.hint("use the names after `nodes.` in the inventory; write a range as in w[1-3]"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn chosen(words: &[&str]) -> std::result::Result<Vec<String>, (String, String)> {
        let text = "[cluster]\nname = 'demo'\nkubernetes = '1.36.3'\n\
            [nodes.m1]\naddress = '10.0.0.1'\nrole = 'control-plane'\n\
            [nodes.'worker[1-3]']\naddress = '10.0.0.1[1-3]'\nrole = 'worker'\n";
        let cluster = crate::inventory::parse(text, Path::new("demo.toml")).unwrap();
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        let names = select(&cluster, &words).map(|names| names.into_iter().collect());
        names.map_err(|error| (error.what, error.hint.unwrap_or_default()))
    }

    #[test]
    fn nodes_are_selected_by_name_or_range() {
        assert_eq!(chosen(&["worker[2-3]", "m1", "worker2"]).unwrap(), ["m1", "worker2", "worker3"]);
        assert_eq!(chosen(&[]).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn an_unknown_node_is_refused_with_the_nearest_name() {
        let wrong = |word: &str| chosen(&[word]).unwrap_err();
        let said = |what: &str, hint: &str| (what.to_string(), hint.to_string());
        assert_eq!(wrong("wroker1"), said("the inventory has no node wroker1", "did you mean worker1?"));
        assert_eq!(wrong("db"), said("the inventory has no node db", "it has m1, worker1, worker2, worker3"));
        assert_eq!(wrong("worker[3-4]").0, "the inventory has no node worker4");
        for half in ["worker[1-2", "worker[1", "2]"] {
            let hint = "write a range with a hyphen and both brackets, as in w[1-3]";
            assert_eq!(wrong(half), said(&format!("the inventory has no node {half}"), hint));
        }
        assert_eq!(wrong("root:pw@m1").0, "the inventory has no node [secret]@m1");
        assert_eq!(wrong("worker[3-1]").0, "worker[3-1]: [3-1] runs backwards; write [1-3]");
    }
}
