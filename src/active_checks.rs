//! Active checks of machines before they join. They check whether machines reach each other, and whether the endpoint and
//! the sources of packages and images answer. They also measure how fast etcd's disk is. They run when all machines have
//! answered, and before the first change. They leave nothing on the machines.

use std::collections::BTreeSet;

use crate::cluster::{Cluster, Node};
use crate::error::{Error, Kind};
use crate::fleet::identity::Finding;
use crate::fleet::keys;
use crate::machine::{Machine, finite};
use crate::openpgp::Keys;
use crate::shell::{Sh, sh};
use crate::step::{Answer, Ask};

pub mod reach;
mod sources;

mod manifests;

mod sites;

mod registries;

/// One active check: its name, its question, and the function that judges the answer.
type ActiveCheck = (&'static str, Ask, fn(&Cluster, &Node, &str) -> Vec<Finding>);

/// The questions of the checks that a joining machine runs by itself, without other machines. `exists`: the cluster exists
/// already.
pub fn alone(cluster: &Cluster, node: &Node, exists: bool) -> Vec<Ask> {
    checks(cluster, node, exists).into_iter().map(|(_, ask, _)| ask).collect()
}

/// The question for the signing key of the Kubernetes repository, as the repository shows it to a machine.
pub fn key(cluster: &Cluster) -> Ask {
    sources::key(cluster)
}

/// Reads the signing keys that the repository showed to a machine. Without usable keys, returns what is wrong as findings.
pub fn judge_key(cluster: &Cluster, node: &Node, answer: &Answer) -> Result<Keys, Vec<Finding>> {
    let text = answer.text().map_err(|why| vec![not_checked("PackagesKey", &node.name, &why)])?;
    let none = sources::no_key(node, text);
    if !none.is_empty() {
        return Err(none);
    }
    Keys::read(text).map_err(|why| vec![keys::unreadable(cluster, &node.name, &why)])
}

/// Judges the answers to the questions of `alone`, in their order.
pub fn judge_alone(cluster: &Cluster, node: &Node, answers: &[Answer]) -> Vec<Finding> {
    let one = |((check, _, judge), answer): (ActiveCheck, &Answer)| match answer.text() {
        Ok(text) => judge(cluster, node, text.trim_end()),
        Err(why) => vec![not_checked(check, &node.name, &why)],
    };
    checks(cluster, node, false).into_iter().zip(answers).flat_map(one).collect()
}

fn checks(cluster: &Cluster, node: &Node, exists: bool) -> Vec<ActiveCheck> {
    let mut checks: Vec<ActiveCheck> = vec![
        ("Sources", sources::packages(cluster), sources::judge_packages),
        ("Sources", registries::registries(cluster), registries::judge_registries),
    ];
    if !cluster.endpoint.managed {
        checks.push(("Endpoint", endpoint(cluster, exists), no_endpoint));
    }
    if node.is_control_plane() {
        checks.push(("Fsync", Ask::Shell(sh!("d={etcd}\n", etcd = cluster.etcd_dir()) + FSYNC), slow));
    }
    checks
}

/// A finding for a check that could not run. It is only a warning, because it says nothing against the machine.
pub fn not_checked(check: &'static str, node: &str, why: &str) -> Finding {
    let error = Error::new(Kind::Unknown, format!("the {check} check could not run")).on(node).quoting(why);
    Finding { check, error, harmless: true }
}

/// The names of those machines that have still to join.
pub fn joining<'a>(machines: impl Iterator<Item = (&'a str, &'a Machine)>) -> BTreeSet<String> {
    machines.filter(|(_, machine)| !machine.is_member()).map(|(name, _)| name.to_string()).collect()
}

/// Asks whether the user's own endpoint has an address. Once the cluster exists, also asks whether something answers there.
fn endpoint(cluster: &Cluster, exists: bool) -> Ask {
    let (host, port) = (&cluster.endpoint.host, cluster.endpoint.port);
    let answers = sh!(
        "timeout 5 bash -c 'exec 3<>\"/dev/tcp/$0/$1\"' {host} {port} 2>/dev/null || echo silent",
        host,
        port
    );
    Ask::Shell(sh!(
        "r=0; timeout 10 getent ahosts {host} >/dev/null || r=$?\n\
         case $r in 0) ;; 2) echo nowhere; exit 0 ;; *) echo \"getent: exit $r\" >&2; exit 1 ;; esac\n{answers}",
        host,
        answers = if exists { answers } else { Sh::EMPTY }
    ))
}

fn no_endpoint(cluster: &Cluster, node: &Node, answer: &str) -> Vec<Finding> {
    let (endpoint, host) = (&cluster.endpoint, &cluster.endpoint.host);
    let (what, hint) = match answer {
        "nowhere" => (
            format!("cannot resolve {host}, the cluster endpoint"),
            format!(
                "give the name an address in DNS (test it with `getent ahosts {host}` on the machine), or delete `endpoint` \
                 from the inventory, so that ironstrap keeps a name in /etc/hosts"
            ),
        ),
        "silent" => (
            format!("cannot connect to {endpoint}, the cluster endpoint"),
            "check the load balancer at this address, and the network in between: nodes join through the endpoint".into(),
        ),
        _ => return vec![],
    };
    let error = Error::new(Kind::Refused, what).on(&node.name).hint(hint);
    vec![Finding { check: "Endpoint", error, harmless: false }]
}

/// Measures small writes in etcd's data folder. etcd writes its write-ahead log in the same way: each write is on the disk
/// (fdatasync) before the next one begins. A write is as large as those of fio when fio measures a disk for etcd. dd
/// reports the time of each write by itself, without the time that dd takes to start. The script prints two numbers: the
/// 99th percentile in milliseconds, by nearest rank, and the number of writes.
///
/// The folder may belong to another user, who can replace a file by a link. So a single open creates the file, and nothing
/// opens the file by its name.
const FSYNC: &str = r#"while [ ! -e $d ]; do d=${d%/*}; d=${d:-/}; done
x=$(od -An -N16 -tx8 /dev/urandom | tr -d ' \n')
[ ${#x} = 32 ] || { echo 'no random bytes' >&2; exit 1; }
f=$d/.ironstrap-$x
# Without a name from the beginning it is gone however this ends.
umask 077
set -C
exec 4>"$f"
set +C
rm -f "$f"
fsync_now() { read -r fsync_now x </proc/uptime; fsync_now=${fsync_now%.*}; }
fsync_all() {
  n=0; fsync_now; until=$((fsync_now + 5))
  while [ $n -lt 500 ] && [ "$fsync_now" -lt $until ]; do
    x=$(timeout 10 dd if=/dev/zero of=/dev/fd/4 bs=2300 count=1 oflag=append conv=notrunc,fdatasync 2>&1) || { printf '%s\n' "$x" >&2; return 1; }
    printf '%s\n' "$x"
    n=$((n + 1)); fsync_now
  done
}
x=$(fsync_all)
printf '%s\n' "$x" | awk -F'[ ,]+' '/copied/ { for (i = 2; i <= NF; i++) if ($i == "s") printf "%.2f\n", $(i - 1) * 1000 }' | sort -n |
  awk '{ t[NR] = $1 } END { if (NR) { k = int(NR * 0.99); if (k < NR * 0.99) k++; print t[k], NR } }'"#;
/// The limit for a write, in milliseconds. etcd's guide wants the 99th percentile of `wal_fsync_duration_seconds` below it.
const SLOW: f64 = 10.0;
/// With fewer writes than this, the 99th percentile is the slowest write, and the message says so.
const MANY: u32 = 100;

fn slow(cluster: &Cluster, node: &Node, answer: &str) -> Vec<Finding> {
    let read = |answer: &str| {
        let (milliseconds, writes) = answer.split_once(' ')?;
        Some((finite(milliseconds)?, writes.parse::<u32>().ok()?))
    };
    let Some((milliseconds, writes)) = read(answer) else {
        return vec![not_checked("Fsync", &node.name, &format!("unexpected output of dd: {answer}"))];
    };
    if milliseconds < SLOW {
        return vec![];
    }
    let which = if writes < MANY { "the slowest" } else { "the 99th percentile" };
    let what = format!(
        "synchronous writes to the disk of {} take {milliseconds} ms ({which} of {writes}, each with fdatasync)",
        cluster.etcd_dir()
    );
    let why = format!(
        "etcd needs less than {SLOW} ms at the 99th percentile, or its leader changes and the API is slow; mount a \
         faster disk there"
    );
    let error = Error::new(Kind::Refused, what).on(&node.name).quoting(why);
    vec![Finding { check: "Fsync", error, harmless: true }]
}
