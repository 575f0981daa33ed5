//! The packages of a machine: whether they are whole, whether apt could still read its sources, and whether some packages
//! would have to be removed.

use super::{UNTOUCHED, named};
use crate::cluster::Cluster;
use crate::shell::{SOURCES, Sh, sh};
use crate::step::{Ask, Verdict, Want};
use crate::steps::kubelet;

const REMOVALS: Sh = Sh::raw(include_str!("../../../templates/removals.sh"));

pub(super) fn wants(cluster: &Cluster) -> Vec<Want> {
    vec![named(cluster, "Packages", whole()), conflict(cluster), removals(cluster)]
}

/// Prints the packages that are half installed. It prints nothing while a package manager is at work: a fix that needs the
/// package manager waits for it. `whole` does not run it once ironstrap has changed the machine, because ironstrap itself
/// finishes what it was killed at.
const AUDIT: &str = r#"command -v dpkg >/dev/null || exit 0
locks=$(cat /proc/locks)
for f in /var/lib/dpkg/lock-frontend /var/lib/dpkg/lock; do
  [ -e "$f" ] || continue
  case $locks in *":$(stat -c %i "$f") "*) exit 0 ;; esac
done
x=$(dpkg --audit) || [ $? = 1 ]
printf '%s\n' "$x" | sed -n 's/^ \([a-z0-9][^ ]*\).*/\1/p'"#;

fn whole() -> Want {
    Want::new("preflight.packages-whole", "no package is half installed")
        .ask(Ask::OnlyBeforeJoin(UNTOUCHED + AUDIT))
        .passes("", |answer| answer.is_empty())
        .by_hand("dpkg --configure -a; apt-get install -f")
}

/// The want that no source conflicts with the Kubernetes repository. apt reads no source at all while two of them name the
/// same repository with different keys.
fn conflict(cluster: &Cluster) -> Want {
    let (key, url) = (kubelet::KEY, cluster.packages.address());
    Want::new("preflight.package-sources", "no package source conflicts with the Kubernetes repository")
        .ask(Ask::OnlyBeforeJoin(sh!(
            "{SOURCES}command -v apt-get >/dev/null || exit 0\nd=$(mktemp -d)\ntrap 'rm -rf \"$d\"' EXIT\n\
             sources_conflict {key} {url}\n",
            SOURCES,
            key,
            url
        )))
        .judged(found)
        .by_hand(
            "delete this source, or put # before its line: ironstrap itself writes the repository and its key, to \
             /etc/apt/sources.list.d/kubernetes.list",
        )
}

/// The verdict on an answer in which each line names something that must not be there.
fn found(answer: &str) -> Verdict {
    match answer.trim_end() {
        "" => Verdict::Holds,
        lines => Verdict::Differs { have: lines.into(), want: String::new() },
    }
}

/// The want that no package has to be removed. apt removes what conflicts with the packages that it installs, and a reset
/// does not bring that back. The installation itself refuses it, too. Here the packages are named before anything is
/// changed.
fn removals(cluster: &Cluster) -> Want {
    let version = &cluster.kubernetes;
    Want::new("preflight.package-removals", "no package has to be removed for containerd and Kubernetes")
        .ask(Ask::OnlyBeforeJoin(sh!("{REMOVALS}removals {version}\n", REMOVALS, version)))
        .judged(found)
        .by_hand(
            "remove packages that nothing needs any more (apt-get remove --allow-change-held-packages NAME), release those on hold \
             that may change (apt-mark unhold NAME), or use another machine; ironstrap itself removes no package that it did \
             not install",
        )
}
