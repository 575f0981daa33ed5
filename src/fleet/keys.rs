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
    /// It has the key in a file already, and is in the cluster.
    pub kept: bool,
    pub keys: &'a Keys,
}

/// Whether packages may be installed that these keys signed, as far as one machine can tell.
fn is_right(cluster: &Cluster, keys: &Keys) -> bool {
    cluster.packages.pinned().is_none_or(|pinned| keys.fingerprints.iter().all(|found| found == pinned))
}

/// The keys that every machine is to have: of those that members have, or else were shown, the first that is right. Of
/// the same keys a text that was just fetched is the newer one: its end may have been put off.
pub fn agreed(cluster: &Cluster, seen: &[Seen]) -> Option<Keys> {
    let first = reference(cluster, seen)?;
    let fresh = seen.iter().find(|it| !it.kept && it.keys.fingerprints == first.keys.fingerprints);
    Some(fresh.unwrap_or(first).keys.clone())
}

fn reference<'a, 'b>(cluster: &Cluster, seen: &'b [Seen<'a>]) -> Option<&'b Seen<'a>> {
    let right = |it: &&Seen| is_right(cluster, it.keys);
    seen.iter().filter(right).find(|it| it.kept).or_else(|| seen.iter().find(right))
}

/// What stands against machines that have, or were shown, another key.
pub fn misfits(cluster: &Cluster, seen: &[Seen]) -> Vec<Misfit> {
    match cluster.packages.pinned() {
        // A file that is wrong is replaced; what a machine is shown is not in our hands.
        Some(pinned) => {
            let strange = seen.iter().filter(|it| !it.kept && !is_right(cluster, it.keys));
            strange.map(|it| misfit(cluster, it, not_kubernetes(it.keys, pinned))).collect()
        }
        None => {
            let Some(first) = reference(cluster, seen) else { return vec![] };
            let differs = |it: &&Seen| it.keys.fingerprints != first.keys.fingerprints;
            seen.iter().filter(differs).map(|it| misfit(cluster, it, another(it, first))).collect()
        }
    }
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
    let error = Error::new(Kind::Refused, what).on(node).because(format!("fingerprint: {}", listed(keys)));
    Misfit { check: CHECK, error, harmless: true }
}

/// A repository that has something else where its key belongs.
pub fn unreadable(cluster: &Cluster, node: &str, why: &str) -> Misfit {
    let error =
        Error::new(Kind::Refused, "the Kubernetes repository shows it no signing key that can be used")
            .on(node)
            .because(format!("{}Release.key {why}", cluster.packages.address()))
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
            Seen { node: "m1", kept: false, keys: &wrong },
            Seen { node: "w1", kept: false, keys: &right },
            Seen { node: "w2", kept: false, keys: &both },
            Seen { node: "w3", kept: true, keys: &wrong },
        ];
        let told = told(&official(), &seen);
        assert_eq!(told.iter().map(|(node, _)| node.as_str()).collect::<Vec<_>>(), ["m1", "w2"]);
        assert!(told[0].1.contains("expected: DE15B14486CD377B9E876E1A234654DA9A296436"), "{}", told[0].1);
        assert_eq!(agreed(&official(), &seen), Some(right));
        assert_eq!(agreed(&official(), &[Seen { node: "m1", kept: true, keys: &wrong }]), None);
    }

    #[test]
    fn of_another_repository_all_machines_are_shown_the_same() {
        let (one, other) = (keys(OTHER), keys(KUBERNETES));
        let shown = |node, keys| Seen { node, kept: false, keys };
        let seen = [shown("m1", &one), shown("w1", &one), shown("w2", &other)];
        assert_eq!(told(&own(), &seen[..2]), []);
        assert_eq!(told(&own(), &seen).len(), 1);
        assert_eq!(told(&own(), &seen)[0].0, "w2");
        assert_eq!(agreed(&own(), &seen), Some(one.clone()));
        // What the cluster has counts for more than the order of the inventory.
        let member = Seen { node: "w2", kept: true, keys: &other };
        let seen = [shown("m1", &one), member];
        assert_eq!(told(&own(), &seen)[0].0, "m1");
        assert_eq!(agreed(&own(), &seen), Some(other));
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
        let (kept, mut fresh) = (keys(OTHER), keys(OTHER));
        fresh = Keys::read(&format!("{}\n", fresh.armored())).unwrap();
        let seen =
            [Seen { node: "m1", kept: true, keys: &kept }, Seen { node: "w1", kept: false, keys: &fresh }];
        assert_eq!(agreed(&own(), &seen), Some(fresh.clone()));
        assert_eq!(agreed(&own(), &[]), None);
    }
}
