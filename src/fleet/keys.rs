//! Judges the key with which the Kubernetes repository signs: whether it is the right one, and whether the repository shows
//! all machines the same. This module is pure. If the inventory names the key itself, there is nothing to judge here.

use super::identity::Finding;
use crate::cluster::Cluster;
use crate::error::{Error, Kind};
use crate::openpgp::Keys;

/// The name of the check. `ignore-preflight` does not make a warning of it, because packages that anybody may
/// have signed run as root.
pub const CHECK: &str = "PackagesKey";

/// A key, and the machine that has it or to which the repository showed it.
pub struct Seen<'a> {
    pub node: &'a str,
    /// Whether the machine is a control plane of the inventory.
    pub speaks: bool,
    /// Whether the machine already has the key in a file, and is in the cluster.
    pub kept: bool,
    pub keys: &'a Keys,
}

/// Whether ironstrap may install packages that these keys signed, as far as one machine can tell.
fn is_right(cluster: &Cluster, keys: &Keys) -> bool {
    cluster.packages.pinned().is_none_or(|pinned| keys.fingerprints.iter().all(|found| found == pinned))
}

/// The keys that every machine must have, if that is known. A text that was just fetched is newer than another
/// text of the same keys: the repository may have extended its validity.
pub fn agreed(cluster: &Cluster, seen: &[Seen]) -> Option<Keys> {
    let first = reference(cluster, seen)?;
    let same = |it: &&Seen| !it.kept && it.keys.fingerprints == first.keys.fingerprints;
    let fresh = seen.iter().filter(|it| decides(cluster, it)).find(same);
    Some(fresh.unwrap_or(first).keys.clone())
}

/// Whether the key of this machine can become the key of all. The official repository's key is known, so any machine that
/// has it will do. For another repository, only control planes decide: a worker whose root lies could name a key of its own.
fn decides(cluster: &Cluster, it: &Seen) -> bool {
    match cluster.packages.pinned() {
        Some(_) => is_right(cluster, it.keys),
        None => it.speaks,
    }
}

/// The machines that decide: those that keep a key, or else those to which the repository showed one. With `--limit`, no control
/// plane may be among them. Then all machines decide, and a key goes to no machine to which the repository showed another one.
fn deciding<'a, 'b>(cluster: &Cluster, seen: &'b [Seen<'a>]) -> Vec<&'b Seen<'a>> {
    let all: Vec<&Seen> = seen.iter().filter(|it| decides(cluster, it)).collect();
    if all.is_empty() && cluster.packages.pinned().is_none() {
        return seen.iter().collect();
    }
    let kept: Vec<&Seen> = all.iter().copied().filter(|it| it.kept).collect();
    if kept.is_empty() { all } else { kept }
}

/// The machine with which all others are compared. `None` if the machines that decide disagree, or there are none.
fn reference<'a, 'b>(cluster: &Cluster, seen: &'b [Seen<'a>]) -> Option<&'b Seen<'a>> {
    let deciding = deciding(cluster, seen);
    let first = *deciding.first()?;
    let agree = deciding.iter().all(|it| it.keys.fingerprints == first.keys.fingerprints);
    (agree || cluster.packages.pinned().is_some()).then_some(first)
}

/// The findings about machines that have another key, or to which the repository showed another key.
pub fn findings(cluster: &Cluster, seen: &[Seen]) -> Vec<Finding> {
    if let Some(pinned) = cluster.packages.pinned() {
        // A fix replaces a wrong file, but cannot change what the repository shows to a machine.
        let strange = seen.iter().filter(|it| !it.kept && !is_right(cluster, it.keys));
        return strange.map(|it| finding(cluster, it, not_kubernetes(it.keys, pinned))).collect();
    }
    let differs = |it: &Seen, first: &Seen| it.keys.fingerprints != first.keys.fingerprints;
    if let Some(first) = reference(cluster, seen) {
        let others = seen.iter().filter(|it| differs(it, first));
        return others.map(|it| finding(cluster, it, another(it, first))).collect();
    }
    let deciding = deciding(cluster, seen);
    let against = |it: &Seen| match deciding.first() {
        Some(first) if it.speaks && differs(it, first) => Some(finding(cluster, it, another(it, first))),
        Some(_) if it.speaks => None,
        // A member goes on with the key that it has.
        _ => Some(Finding { harmless: it.kept, ..finding(cluster, it, unjudged(it, &deciding)) }),
    };
    seen.iter().filter_map(against).collect()
}

/// The error that nobody can say whether the key of a worker is right.
fn unjudged(it: &Seen, deciding: &[&Seen]) -> Error {
    let what = if it.kept { "has" } else { "is shown" };
    let what = format!(
        "cannot determine whether the signing key of the Kubernetes repository that it {what} is right"
    );
    let error = Error::new(Kind::Unknown, what).answered(format!("fingerprint: {}", listed(it.keys)));
    let who = match deciding.iter().any(|it| it.speaks) {
        true => "control planes have different keys",
        false => "no control plane has or gets a key, and the machines have different ones",
    };
    let on = |error: Error, it: &&Seen| error.answered(format!("on {}: {}", it.node, listed(it.keys)));
    let error = deciding.iter().fold(error.because(who), on);
    error.hint(
        "run the command again when the control planes answer and have the same key; or save the right key in a file beside \
         the inventory, and set `key` in [packages] to that file",
    )
}

fn not_kubernetes(keys: &Keys, pinned: &str) -> Error {
    Error::new(Kind::Refused, "the Kubernetes repository offers it a signing key that is not the key of the Kubernetes project")
        .because(format!("fingerprint: {}\nexpected: {pinned}", listed(keys)))
        .hint(
            "find out which server answers instead of the repository; if the Kubernetes project has announced a new key, save \
             it in a file, and set `key` in [packages] to that file",
        )
}

fn another(it: &Seen, first: &Seen) -> Error {
    let what = if it.kept { "has" } else { "gets" };
    Error::new(Kind::Refused, format!("{what} a different signing key of the Kubernetes repository than {}", first.node))
        .concerning([first.node])
        .because(format!("fingerprint: {}\non {}: {}", listed(it.keys), first.node, listed(first.keys)))
        .hint(
            "ask the maintainer of the repository which key is right, save it in a file beside the inventory, and set \
             `key` in [packages] to that file",
        )
}

/// The keys that count, of those that the repository showed to a machine, or the findings about them. A machine that has a key
/// keeps it, whatever the repository shows. Only a newer text of the same key counts, and everything else is only a warning.
pub fn taken(
    node: &str,
    has: Option<&Keys>,
    shown: Result<Keys, Vec<Finding>>,
) -> Result<Option<Keys>, Vec<Finding>> {
    let Some(old) = has else { return shown.map(Some) };
    match shown {
        Ok(keys) if keys.fingerprints == old.fingerprints => Ok(Some(keys).filter(|keys| keys.renews(old))),
        Ok(keys) => Err(vec![replaced(node, &keys)]),
        Err(findings) => {
            Err(findings.into_iter().map(|finding| Finding { harmless: true, ..finding }).collect())
        }
    }
}

fn replaced(node: &str, keys: &Keys) -> Finding {
    let what = "its signing key of the Kubernetes repository expires soon, and the repository offers it a different one";
    let error = Error::new(Kind::Refused, what).on(node).answered(format!("fingerprint: {}", listed(keys)));
    Finding { check: CHECK, error, harmless: true }
}

/// The finding that the repository has something else where its key belongs.
pub fn unreadable(cluster: &Cluster, node: &str, why: &str) -> Finding {
    let error = Error::new(Kind::Refused, "the Kubernetes repository offers it no usable signing key")
        .on(node)
        .answered(format!("{}Release.key {why}", cluster.packages.address()))
        .hint("check that address, or set `key` in [packages] to a file with the right key");
    Finding { check: CHECK, error, harmless: false }
}

fn finding(cluster: &Cluster, it: &Seen, error: Error) -> Finding {
    let error = error.on(it.node).because(format!("repository: {}", cluster.packages.address()));
    Finding { check: CHECK, error, harmless: false }
}

fn listed(keys: &Keys) -> String {
    keys.fingerprints.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openpgp::tests::{KUBERNETES, OTHER, put_off};

    fn cluster(kubernetes: &str) -> Cluster {
        let mut cluster = crate::pki::tests::cluster();
        cluster.packages.kubernetes = kubernetes.into();
        cluster
    }

    fn official() -> Cluster {
        cluster("https://pkgs.k8s.io/core:/stable:/v1.36/deb/")
    }

    fn own() -> Cluster {
        cluster("https://packages.example.com/k8s/")
    }

    fn keys(text: &str) -> Keys {
        Keys::read(text).unwrap()
    }

    /// The nodes of the findings, each with what the check says about it.
    fn told(cluster: &Cluster, seen: &[Seen]) -> Vec<(String, String)> {
        let all = findings(cluster, seen).into_iter();
        all.map(|finding| (finding.error.node.unwrap(), finding.error.cause.join("\n"))).collect()
    }

    #[test]
    fn the_official_repository_needs_the_key_of_kubernetes() {
        let (right, wrong) = (keys(KUBERNETES), keys(OTHER));
        let both = keys(&format!("{KUBERNETES}{OTHER}"));
        let seen = [
            Seen { node: "m1", speaks: true, kept: false, keys: &wrong },
            Seen { node: "w1", speaks: false, kept: false, keys: &right },
            Seen { node: "w2", speaks: false, kept: false, keys: &both },
            Seen { node: "w3", speaks: false, kept: true, keys: &wrong },
        ];
        let told = told(&official(), &seen);
        assert_eq!(told.iter().map(|(node, _)| node.as_str()).collect::<Vec<_>>(), ["m1", "w2"]);
        assert!(told[0].1.contains("expected: DE15B14486CD377B9E876E1A234654DA9A296436"), "{}", told[0].1);
        assert_eq!(agreed(&official(), &seen), Some(right));
        assert_eq!(agreed(&official(), &[Seen { node: "m1", speaks: true, kept: true, keys: &wrong }]), None);
    }

    fn shown<'a>(node: &'a str, keys: &'a Keys) -> Seen<'a> {
        Seen { node, speaks: node.starts_with('m'), kept: false, keys }
    }

    fn kept<'a>(node: &'a str, keys: &'a Keys) -> Seen<'a> {
        Seen { kept: true, ..shown(node, keys) }
    }

    fn nodes(told: &[(String, String)]) -> Vec<&str> {
        told.iter().map(|(node, _)| node.as_str()).collect()
    }

    #[test]
    fn control_planes_decide_the_key_of_other_repositories() {
        let (one, other) = (keys(OTHER), keys(KUBERNETES));
        let seen = [shown("m1", &one), shown("w1", &one), shown("w2", &other)];
        assert_eq!(told(&own(), &seen[..2]), []);
        assert_eq!(nodes(&told(&own(), &seen)), ["w2"]);
        assert_eq!(agreed(&own(), &seen), Some(one.clone()));
        // A worker does not decide, even if it is the first of the inventory, or a member already.
        for liar in [shown("a1", &other), kept("a1", &other)] {
            let seen = [liar, shown("m1", &one), shown("w1", &one)];
            assert_eq!(nodes(&told(&own(), &seen)), ["a1"]);
            assert_eq!(agreed(&own(), &seen), Some(one.clone()));
        }
        // A key that the cluster already has counts for more than the order of the inventory.
        let seen = [shown("m1", &one), kept("m2", &other)];
        assert_eq!(nodes(&told(&own(), &seen)), ["m1"]);
        assert_eq!(agreed(&own(), &seen), Some(other));
    }

    #[test]
    fn without_agreeing_control_planes_no_key_is_right() {
        let (one, other) = (keys(OTHER), keys(KUBERNETES));
        let seen = [shown("w1", &one), kept("m1", &one), kept("m2", &other), kept("w2", &other)];
        let all = findings(&own(), &seen);
        let told: Vec<_> = all
            .iter()
            .map(|finding| (finding.error.node.as_deref().unwrap(), finding.error.kind, finding.harmless))
            .collect();
        assert_eq!(
            told,
            [("w1", Kind::Unknown, false), ("m2", Kind::Refused, false), ("w2", Kind::Unknown, true)]
        );
        assert_eq!(agreed(&own(), &seen), None);
        let seen = [shown("w1", &one), kept("w2", &other)];
        let told: Vec<_> = findings(&own(), &seen).iter().map(|it| (it.error.kind, it.harmless)).collect();
        assert_eq!(told, [(Kind::Unknown, false), (Kind::Unknown, true)], "no key is called wrong");
        assert_eq!(agreed(&own(), &seen), None);
        let seen = [shown("w1", &one), shown("w2", &one)];
        assert_eq!(
            (findings(&own(), &seen).len(), agreed(&own(), &seen)),
            (0, Some(one)),
            "the run has only workers, and they agree"
        );
    }

    #[test]
    fn members_take_only_newer_text_of_their_key() {
        let (old, newer, other) = (keys(KUBERNETES), keys(&put_off(KUBERNETES, 90)), keys(OTHER));
        let silent = || vec![unreadable(&official(), "w1", "holds no public key")];
        assert_eq!(taken("w1", Some(&old), Ok(newer.clone())), Ok(Some(newer.clone())));
        assert_eq!(taken("w1", Some(&old), Ok(old.clone())), Ok(None));
        assert_eq!(taken("w1", Some(&newer), Ok(old.clone())), Ok(None), "an older text changes nothing");
        for shown in [Ok(other.clone()), Err(silent())] {
            let told = taken("w1", Some(&old), shown).unwrap_err();
            assert!(told.len() == 1 && told[0].harmless, "{told:?}");
        }
        assert_eq!(taken("w1", None, Ok(other.clone())), Ok(Some(other)));
        assert!(!taken("w1", None, Err(silent())).unwrap_err()[0].harmless, "w1 has no key yet");
    }

    #[test]
    fn newer_key_text_is_taken_only_from_control_planes() {
        let (kept_keys, mut fresh) = (keys(OTHER), keys(OTHER));
        fresh = Keys::read(&format!("{}\n", fresh.armored())).unwrap();
        let seen = [kept("m1", &kept_keys), shown("m2", &fresh)];
        assert_eq!(agreed(&own(), &seen), Some(fresh.clone()));
        let worker = [kept("m1", &kept_keys), shown("w1", &fresh)];
        assert_eq!(agreed(&own(), &worker), Some(kept_keys), "the newer text of a worker is not taken");
        assert_eq!(agreed(&own(), &[]), None);
    }
}
