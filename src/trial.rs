//! What is tried of machines that have still to join, when all have answered and before anything is touched: whether
//! they reach each other, what they need to install, and the endpoint; and how fast etcd's disk is. Nothing of it lasts.

use std::collections::BTreeSet;

use crate::cluster::{Cluster, Node};
use crate::error::{Error, Kind};
use crate::fleet::identity::Misfit;
use crate::fleet::keys;
use crate::machine::{Machine, finite};
use crate::openpgp::Keys;
use crate::probe::Answer;
use crate::shell::{Sh, sh};
use crate::step::Ask;

pub mod reach;
mod sources;

mod manifests;

mod sites;

mod registries;

/// One question of a trial, and what is made of the answer.
type Trial = (&'static str, Ask, fn(&Cluster, &Node, &str) -> Vec<Misfit>);

/// What a machine that is to join tries by itself; `exists`: there is a cluster to join.
pub fn alone(cluster: &Cluster, node: &Node, exists: bool) -> Vec<Ask> {
    trials(cluster, node, exists).into_iter().map(|(_, ask, _)| ask).collect()
}

/// The signing key of the Kubernetes repository, as it is shown to a machine.
pub fn key(cluster: &Cluster) -> Ask {
    sources::key(cluster)
}

/// What a machine was shown; or what stands against it.
pub fn judge_key(cluster: &Cluster, node: &Node, answer: &Answer) -> Result<Keys, Vec<Misfit>> {
    let text = match answer {
        Answer::Said(text) => text,
        Answer::Unknown(why) => return Err(vec![untried("PackagesKey", &node.name, why)]),
    };
    let none = sources::no_key(node, text);
    if !none.is_empty() {
        return Err(none);
    }
    Keys::read(text).map_err(|why| vec![keys::unreadable(cluster, &node.name, &why)])
}

/// What came of it.
pub fn judge_alone(cluster: &Cluster, node: &Node, answers: &[Answer]) -> Vec<Misfit> {
    let one = |((check, _, judge), answer): (Trial, &Answer)| match answer {
        Answer::Said(text) => judge(cluster, node, text.trim_end()),
        Answer::Unknown(why) => vec![untried(check, &node.name, why)],
    };
    trials(cluster, node, false).into_iter().zip(answers).flat_map(one).collect()
}

fn trials(cluster: &Cluster, node: &Node, exists: bool) -> Vec<Trial> {
    let mut trials: Vec<Trial> = vec![
        ("Sources", sources::packages(cluster), sources::judge_packages),
        ("Sources", registries::registries(cluster), registries::judge_registries),
    ];
    if !cluster.endpoint.kept {
        trials.push(("Endpoint", endpoint(cluster, exists), no_endpoint));
    }
    if node.is_control_plane() {
        trials.push(("Fsync", Ask::Shell(sh!("d={etcd}\n", etcd = cluster.etcd_dir()) + FSYNC), slow));
    }
    trials
}

/// What could not be tried says nothing against a machine.
pub fn untried(check: &'static str, node: &str, why: &str) -> Misfit {
    let error = Error::new(Kind::Unknown, format!("could not be tried ({check})")).on(node).heard(why);
    Misfit { check, error, harmless: true }
}

/// Who has still to join, of machines that this is tried with.
pub fn joining<'a>(machines: impl Iterator<Item = (&'a str, &'a Machine)>) -> BTreeSet<String> {
    machines.filter(|(_, machine)| !machine.is_member()).map(|(name, _)| name.to_string()).collect()
}

/// An endpoint of the user's own leads somewhere; and once there is a cluster, to somebody who answers.
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

fn no_endpoint(cluster: &Cluster, node: &Node, answer: &str) -> Vec<Misfit> {
    let (endpoint, host) = (&cluster.endpoint, &cluster.endpoint.host);
    let (what, hint) = match answer {
        "nowhere" => (
            format!("{host}, the cluster's endpoint, leads it nowhere"),
            format!(
                "see `getent ahosts {host}` there: give the name an address in DNS; or leave `endpoint` out, and ironstrap \
                 keeps a name in /etc/hosts"
            ),
        ),
        "silent" => (
            format!("{endpoint}, the cluster's endpoint, does not answer it"),
            "check the load balancer there, and what is in between: nodes join by the endpoint".into(),
        ),
        _ => return vec![],
    };
    let error = Error::new(Kind::Refused, what).on(&node.name).hint(hint);
    vec![Misfit { check: "Endpoint", error, harmless: false }]
}

/// What etcd does all day: small writes that are on the disk before the next one (its write-ahead log, by fdatasync), as
/// large as fio's when it is asked this for etcd. dd times each by itself, without what it takes to begin.
/// Prints the 99th percentile of them in milliseconds, by nearest rank, and of how many. The folder may be another user's, who
/// can put a link in the place of a file: so one open makes the file, and nothing opens it by its name.
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
/// Milliseconds: etcd's guide wants the 99th percentile of `wal_fsync_duration_seconds` below it.
const SLOW: f64 = 10.0;
/// Of fewer writes the 99th percentile is the slowest, and is called so.
const MANY: u32 = 100;

fn slow(cluster: &Cluster, node: &Node, answer: &str) -> Vec<Misfit> {
    let read = |answer: &str| {
        let (milliseconds, writes) = answer.split_once(' ')?;
        Some((finite(milliseconds)?, writes.parse::<u32>().ok()?))
    };
    let Some((milliseconds, writes)) = read(answer) else {
        return vec![untried("Fsync", &node.name, &format!("dd said: {answer}"))];
    };
    if milliseconds < SLOW {
        return vec![];
    }
    let which = if writes < MANY { "the slowest" } else { "the 99th percentile" };
    let what = format!(
        "writes to the disk of {} take {milliseconds} ms to be safe ({which} of {writes}, each with fdatasync)",
        cluster.etcd_dir()
    );
    let why = format!(
        "etcd wants less than {SLOW} ms in the 99th percentile: with more, leaders change and the API is slow; mount a \
         faster disk there"
    );
    let error = Error::new(Kind::Refused, what).on(&node.name).heard(why);
    vec![Misfit { check: "Fsync", error, harmless: true }]
}
