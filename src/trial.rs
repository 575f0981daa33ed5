//! What is tried of machines that have still to join, when all have answered and before anything is touched: whether
//! they reach each other, what they need to install, and the endpoint; and how fast etcd's disk is. Nothing of it lasts.

use std::collections::BTreeSet;

use crate::cluster::{Cluster, Node};
use crate::error::{Error, Kind};
use crate::fleet::identity::Misfit;
use crate::machine::Machine;
use crate::probe::Answer;
use crate::step::Ask;

pub mod reach;
mod sources;

/// One question of a trial, and what is made of the answer.
type Trial = (&'static str, Ask, fn(&Cluster, &Node, &str) -> Vec<Misfit>);

/// What a machine that is to join tries by itself.
pub fn alone(cluster: &Cluster, node: &Node) -> Vec<Ask> {
    trials(cluster, node).into_iter().map(|(_, ask, _)| ask).collect()
}

/// What came of it.
pub fn judge_alone(cluster: &Cluster, node: &Node, answers: &[Answer]) -> Vec<Misfit> {
    let one = |((check, _, judge), answer): (Trial, &Answer)| match answer {
        Answer::Said(text) => judge(cluster, node, text.trim_end()),
        Answer::Unknown(why) => vec![untried(check, &node.name, why)],
    };
    trials(cluster, node).into_iter().zip(answers).flat_map(one).collect()
}

fn trials(cluster: &Cluster, node: &Node) -> Vec<Trial> {
    let mut trials: Vec<Trial> = vec![
        ("Sources", sources::packages(cluster), sources::judge_packages),
        ("Sources", sources::registries(cluster), sources::judge_registries),
    ];
    if !cluster.endpoint.kept && cluster.endpoint.host.parse::<std::net::IpAddr>().is_err() {
        trials.push(("Endpoint", endpoint(cluster), no_endpoint));
    }
    if node.is_control_plane() {
        trials.push(("Fsync", Ask::Shell(FSYNC.into()), slow));
    }
    trials
}

/// What could not be tried says nothing against a machine.
pub fn untried(check: &'static str, node: &str, why: &str) -> Misfit {
    let error = Error::new(Kind::Unknown, format!("could not be tried ({check})")).on(node).because(why);
    Misfit { check, error, harmless: true }
}

/// Who has still to join, of machines that this is tried with.
pub fn newcomers<'a>(machines: impl Iterator<Item = (&'a str, &'a Machine)>) -> BTreeSet<String> {
    machines.filter(|(_, machine)| !machine.is_member()).map(|(name, _)| name.to_string()).collect()
}

fn endpoint(cluster: &Cluster) -> Ask {
    let host = crate::shell::quote(&cluster.endpoint.host);
    Ask::Shell(format!(
        "r=0; x=$(timeout 10 getent ahosts {host}) || r=$?\n\
         case $r in 0) printf '%s\\n' \"$x\" ;; 2) ;; *) echo \"getent: exit $r\" >&2 ;; esac"
    ))
}

fn no_endpoint(cluster: &Cluster, node: &Node, addresses: &str) -> Vec<Misfit> {
    if !addresses.is_empty() {
        return vec![];
    }
    let host = &cluster.endpoint.host;
    let error = Error::new(Kind::Refused, format!("{host}, the cluster's endpoint, leads it nowhere"))
        .on(&node.name)
        .hint(format!(
            "see `getent ahosts {host}` there: give the name an address in DNS; or leave `endpoint` out, and ironstrap keeps a name in /etc/hosts"
        ));
    vec![Misfit { check: "Endpoint", error, harmless: false }]
}

/// What etcd does all day: small writes that are on the disk before the next one. etcd's own guide wants 99 of 100
/// below 10 ms; of so few the mean has to do.
const FSYNC: &str = r#"d=/var/lib/etcd
while [ ! -e $d ]; do d=${d%/*}; d=${d:-/}; done
f=$(mktemp "$d/.ironstrap-XXXXXX")
trap 'rm -f "$f"' EXIT
x=$(timeout 20 dd if=/dev/zero "of=$f" bs=8k count=24 oflag=dsync conv=notrunc 2>&1)
printf '%s\n' "$x" | awk -F'[ ,]+' '/copied/ { for (i = 2; i <= NF; i++) if ($i == "s") printf "%.1f\n", $(i - 1) * 1000 / 24 }'"#;
const SLOW: f64 = 10.0;

fn slow(_: &Cluster, node: &Node, answer: &str) -> Vec<Misfit> {
    let Ok(milliseconds) = answer.parse::<f64>() else {
        return vec![untried("Fsync", &node.name, &format!("dd said: {answer}"))];
    };
    if milliseconds <= SLOW {
        return vec![];
    }
    let what =
        format!("a write to the disk of /var/lib/etcd takes {milliseconds} ms to be safe, in the mean");
    let why = format!(
        "etcd wants less than {SLOW} ms: with more, leaders change and the API is slow; mount a faster disk there"
    );
    let error = Error::new(Kind::Refused, what).on(&node.name).because(why);
    vec![Misfit { check: "Fsync", error, harmless: true }]
}
