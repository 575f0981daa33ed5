//! The key that the Kubernetes repository signs with: whose it has to be, and whether all machines were shown the same.
//! Pure. An inventory that names the key itself leaves nothing to be judged here.

use super::identity::Misfit;
use crate::cluster::Cluster;
use crate::error::{Error, Kind};
use crate::openpgp::Keys;

/// No `ignore-preflight` makes a warning of it: packages that anybody may have signed run as root.
pub const CHECK: &str = "PackagesKey";

/// A key, and the machine that has it or was shown it.
pub struct Seen<'a> {
    pub node: &'a str,
    /// It is a control plane of the inventory.
    pub speaks: bool,
    /// It has the key in a file already, and is in the cluster.
    pub kept: bool,
    pub keys: &'a Keys,
}

/// Whether packages may be installed that these keys signed, as far as one machine can tell.
fn is_right(cluster: &Cluster, keys: &Keys) -> bool {
    cluster.packages.pinned().is_none_or(|pinned| keys.fingerprints.iter().all(|found| found == pinned))
}

/// The keys that every machine must have, where that is known. Of the same keys, a text that was just fetched is the newer
/// one: the repository may have extended its validity.
pub fn agreed(cluster: &Cluster, seen: &[Seen]) -> Option<Keys> {
    let first = reference(cluster, seen)?;
    let same = |it: &&Seen| !it.kept && it.keys.fingerprints == first.keys.fingerprints;
    let fresh = seen.iter().filter(|it| decides(cluster, it)).find(same);
    Some(fresh.unwrap_or(first).keys.clone())
}

/// Whether the key of this machine can be the one of all. The official repository's key is known, so any machine that has
/// it will do. Of another repository only control planes decide: a worker whose root lies could name a key of its own.
fn decides(cluster: &Cluster, it: &Seen) -> bool {
    match cluster.packages.pinned() {
        Some(_) => is_right(cluster, it.keys),
        None => it.speaks,
    }
}

/// The machines that decide: those that keep a key, else those that were shown one. With `--limit`, no control plane may be
/// among them. Then all decide: a key goes to no machine that was shown another one.
fn deciding<'a, 'b>(cluster: &Cluster, seen: &'b [Seen<'a>]) -> Vec<&'b Seen<'a>> {
    let all: Vec<&Seen> = seen.iter().filter(|it| decides(cluster, it)).collect();
    if all.is_empty() && cluster.packages.pinned().is_none() {
        return seen.iter().collect();
    }
    let kept: Vec<&Seen> = all.iter().copied().filter(|it| it.kept).collect();
    if kept.is_empty() { all } else { kept }
}

/// The machine that all others are compared with; none if control planes disagree, or none of them has a key.
fn reference<'a, 'b>(cluster: &Cluster, seen: &'b [Seen<'a>]) -> Option<&'b Seen<'a>> {
    let deciding = deciding(cluster, seen);
    let first = *deciding.first()?;
    let agree = deciding.iter().all(|it| it.keys.fingerprints == first.keys.fingerprints);
    (agree || cluster.packages.pinned().is_some()).then_some(first)
}

/// What stands against machines that have, or were shown, another key.
pub fn misfits(cluster: &Cluster, seen: &[Seen]) -> Vec<Misfit> {
    if let Some(pinned) = cluster.packages.pinned() {
        // A file that is wrong is replaced; what a machine is shown is not in our hands.
        let strange = seen.iter().filter(|it| !it.kept && !is_right(cluster, it.keys));
        return strange.map(|it| misfit(cluster, it, not_kubernetes(it.keys, pinned))).collect();
    }
    let differs = |it: &Seen, first: &Seen| it.keys.fingerprints != first.keys.fingerprints;
    if let Some(first) = reference(cluster, seen) {
        let others = seen.iter().filter(|it| differs(it, first));
        return others.map(|it| misfit(cluster, it, another(it, first))).collect();
    }
    let deciding = deciding(cluster, seen);
    let against = |it: &Seen| match deciding.first() {
        Some(first) if it.speaks && differs(it, first) => Some(misfit(cluster, it, another(it, first))),
        Some(_) if it.speaks => None,
        // A member goes on with what it has.
        _ => Some(Misfit { harmless: it.kept, ..misfit(cluster, it, unjudged(it, &deciding)) }),
    };
    seen.iter().filter_map(against).collect()
}

/// Of a worker's key nobody can say whether it is right.
fn unjudged(it: &Seen, deciding: &[&Seen]) -> Error {
    let what = if it.kept { "has" } else { "is shown" };
    let what =
        format!("cannot tell whether the signing key of the Kubernetes repository that it {what} is right");
    let error = Error::new(Kind::Unknown, what).answered(format!("fingerprint: {}", listed(it.keys)));
    let who = match deciding.iter().any(|it| it.speaks) {
        true => "control planes have different keys",
        false => "no control plane has a key, or was shown one, and the machines differ",
    };
    let on = |error: Error, it: &&Seen| error.answered(format!("on {}: {}", it.node, listed(it.keys)));
    let error = deciding.iter().fold(error.because(who), on);
    error.hint(
        "run it again when the control planes answer and have the same key; or put the right key into a file beside the \
         inventory, and name that as `key` in [packages]",
    )
}

fn not_kubernetes(keys: &Keys, pinned: &str) -> Error {
    Error::new(Kind::Refused, "the Kubernetes repository shows it a signing key that is not Kubernetes' own")
        .because(format!("fingerprint: {}\nexpected: {pinned}", listed(keys)))
        .hint(
            "find out who answers in place of the repository; if the Kubernetes project has announced a new key, put it \
             into a file and name that as `key` in [packages]",
        )
}

fn another(it: &Seen, first: &Seen) -> Error {
    let what = if it.kept { "has" } else { "is shown" };
    Error::new(Kind::Refused, format!("it {what} another signing key of the Kubernetes repository than {}", first.node))
        .concerning([first.node])
        .because(format!("fingerprint: {}\non {}: {}", listed(it.keys), first.node, listed(first.keys)))
        .hint(
            "ask who keeps the repository which one is right, put it into a file beside the inventory, and name that as \
             `key` in [packages]",
        )
}

/// What counts of what a machine was shown, or what stands against it. A machine that has a key keeps it, whatever the
/// repository shows: only a newer text of the same key counts, and everything else is only told.
pub fn taken(
    node: &str,
    has: Option<&Keys>,
    shown: Result<Keys, Vec<Misfit>>,
) -> Result<Option<Keys>, Vec<Misfit>> {
    let Some(old) = has else { return shown.map(Some) };
    match shown {
        Ok(keys) if keys.fingerprints == old.fingerprints => Ok(Some(keys).filter(|keys| keys.renews(old))),
        Ok(keys) => Err(vec![replaced(node, &keys)]),
        Err(misfits) => Err(misfits.into_iter().map(|misfit| Misfit { harmless: true, ..misfit }).collect()),
    }
}

fn replaced(node: &str, keys: &Keys) -> Misfit {
    let what =
        "its signing key of the Kubernetes repository ends soon, and the repository shows it another one";
    let error = Error::new(Kind::Refused, what).on(node).answered(format!("fingerprint: {}", listed(keys)));
    Misfit { check: CHECK, error, harmless: true }
}

/// A repository that has something else where its key belongs.
pub fn unreadable(cluster: &Cluster, node: &str, why: &str) -> Misfit {
    let error =
        Error::new(Kind::Refused, "the Kubernetes repository shows it no signing key that can be used")
            .on(node)
            .answered(format!("{}Release.key {why}", cluster.packages.address()))
            .hint("look at that address; or name a file with the right key as `key` in [packages]");
    Misfit { check: CHECK, error, harmless: false }
}

fn misfit(cluster: &Cluster, it: &Seen, error: Error) -> Misfit {
    let error = error.on(it.node).because(format!("repository: {}", cluster.packages.address()));
    Misfit { check: CHECK, error, harmless: false }
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

    /// The check says this of these nodes.
    fn told(cluster: &Cluster, seen: &[Seen]) -> Vec<(String, String)> {
        let all = misfits(cluster, seen).into_iter();
        all.map(|misfit| (misfit.error.node.unwrap(), misfit.error.cause.join("\n"))).collect()
    }

    #[test]
    fn of_the_official_repository_only_kubernetes_own_key_will_do() {
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
    fn of_another_repository_all_machines_are_shown_what_control_planes_are_shown() {
        let (one, other) = (keys(OTHER), keys(KUBERNETES));
        let seen = [shown("m1", &one), shown("w1", &one), shown("w2", &other)];
        assert_eq!(told(&own(), &seen[..2]), []);
        assert_eq!(nodes(&told(&own(), &seen)), ["w2"]);
        assert_eq!(agreed(&own(), &seen), Some(one.clone()));
        // A worker does not decide, although it is the first of the inventory, or a member already.
        for liar in [shown("a1", &other), kept("a1", &other)] {
            let seen = [liar, shown("m1", &one), shown("w1", &one)];
            assert_eq!(nodes(&told(&own(), &seen)), ["a1"]);
            assert_eq!(agreed(&own(), &seen), Some(one.clone()));
        }
        // What the cluster has counts for more than the order of the inventory.
        let seen = [shown("m1", &one), kept("m2", &other)];
        assert_eq!(nodes(&told(&own(), &seen)), ["m1"]);
        assert_eq!(agreed(&own(), &seen), Some(other));
    }

    #[test]
    fn where_control_planes_disagree_or_none_answers_no_key_is_right() {
        let (one, other) = (keys(OTHER), keys(KUBERNETES));
        let seen = [shown("w1", &one), kept("m1", &one), kept("m2", &other), kept("w2", &other)];
        let all = misfits(&own(), &seen);
        let told: Vec<_> = all
            .iter()
            .map(|misfit| (misfit.error.node.as_deref().unwrap(), misfit.error.kind, misfit.harmless))
            .collect();
        assert_eq!(
            told,
            [("w1", Kind::Unknown, false), ("m2", Kind::Refused, false), ("w2", Kind::Unknown, true)]
        );
        assert_eq!(agreed(&own(), &seen), None);
        let seen = [shown("w1", &one), kept("w2", &other)];
        let told: Vec<_> = misfits(&own(), &seen).iter().map(|it| (it.error.kind, it.harmless)).collect();
        assert_eq!(told, [(Kind::Unknown, false), (Kind::Unknown, true)], "nobody is called wrong");
        assert_eq!(agreed(&own(), &seen), None);
        let seen = [shown("w1", &one), shown("w2", &one)];
        assert_eq!(
            (misfits(&own(), &seen).len(), agreed(&own(), &seen)),
            (0, Some(one)),
            "a run without them"
        );
    }

    #[test]
    fn a_member_takes_a_newer_text_of_its_key_and_is_never_left_for_what_it_is_shown() {
        let (old, newer, other) = (keys(KUBERNETES), keys(&put_off(KUBERNETES, 90)), keys(OTHER));
        let silent = || vec![unreadable(&official(), "w1", "holds no public key")];
        assert_eq!(taken("w1", Some(&old), Ok(newer.clone())), Ok(Some(newer.clone())));
        assert_eq!(taken("w1", Some(&old), Ok(old.clone())), Ok(None));
        assert_eq!(taken("w1", Some(&newer), Ok(old.clone())), Ok(None), "an older text is no news");
        for shown in [Ok(other.clone()), Err(silent())] {
            let told = taken("w1", Some(&old), shown).unwrap_err();
            assert!(told.len() == 1 && told[0].harmless, "{told:?}");
        }
        assert_eq!(taken("w1", None, Ok(other.clone())), Ok(Some(other)));
        assert!(!taken("w1", None, Err(silent())).unwrap_err()[0].harmless, "it has none");
    }

    #[test]
    fn of_the_same_key_the_newer_text_is_taken() {
        let (kept_keys, mut fresh) = (keys(OTHER), keys(OTHER));
        fresh = Keys::read(&format!("{}\n", fresh.armored())).unwrap();
        let seen = [kept("m1", &kept_keys), shown("m2", &fresh)];
        assert_eq!(agreed(&own(), &seen), Some(fresh.clone()));
        let worker = [kept("m1", &kept_keys), shown("w1", &fresh)];
        assert_eq!(agreed(&own(), &worker), Some(kept_keys), "not from a worker");
        assert_eq!(agreed(&own(), &[]), None);
    }
}
