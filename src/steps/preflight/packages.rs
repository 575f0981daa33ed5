//! The packages of a machine: whether they are whole, whether apt could still read its sources, and whether some packages
//! would have to go.

use super::{UNTOUCHED, named};
use crate::cluster::Cluster;
use crate::shell::{SOURCES, Sh, sh};
use crate::step::{Ask, Verdict, Want};
use crate::steps::kubelet;

const REMOVALS: Sh = Sh::raw(include_str!("../../../templates/removals.sh"));

pub(super) fn wants(cluster: &Cluster) -> Vec<Want> {
    vec![named(cluster, "Packages", whole()), conflict(cluster), removals(cluster)]
}

/// Where a package manager is at work this says nothing: it is waited for when it is needed. Nor once ironstrap has
/// been here: what it was killed at it finishes itself.
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
        .asks(Ask::Newcomer(UNTOUCHED + AUDIT))
        .passes("", |answer| answer.is_empty())
        .by_hand("dpkg --configure -a; apt-get install -f")
}

/// apt reads no source at all while two name the same repository with different keys.
fn conflict(cluster: &Cluster) -> Want {
    let (key, url) = (kubelet::KEY, cluster.packages.address());
    Want::new("preflight.package-sources", "no source of packages stands against the Kubernetes repository")
        .asks(Ask::Newcomer(sh!(
            "{SOURCES}command -v apt-get >/dev/null || exit 0\nd=$(mktemp -d)\ntrap 'rm -rf \"$d\"' EXIT\n\
             sources_conflict {key} {url}\n",
            SOURCES,
            key,
            url
        )))
        .judged(found)
        .by_hand(
            "ironstrap writes this repository and its key itself, to /etc/apt/sources.list.d/kubernetes.list: delete the source \
             that is named, or put # before its line",
        )
}

/// Each line of the answer is something that must not be.
fn found(answer: &str) -> Verdict {
    match answer.trim_end() {
        "" => Verdict::Holds,
        lines => Verdict::Differs { have: lines.into(), want: String::new() },
    }
}

/// apt takes out what cannot stand beside what it installs, and a reset does not bring that back. The installation itself
/// refuses it, too: here the packages are named before anything is changed.
fn removals(cluster: &Cluster) -> Want {
    let version = &cluster.kubernetes;
    Want::new("preflight.package-removals", "no package has to go for containerd and Kubernetes")
        .asks(Ask::Newcomer(sh!("{REMOVALS}removals {version}\n", REMOVALS, version)))
        .judged(found)
        .by_hand(
            "ironstrap removes no package that it did not install. Take such packages off yourself when nothing needs them any \
             more: apt-get remove --allow-change-held-packages NAME; or use another machine. A package on hold that may change: \
             apt-mark unhold NAME",
        )
}
