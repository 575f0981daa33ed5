//! Checks the package repositories that a machine will install from: they must answer, and have the wanted versions. The
//! check uses the client that apt brings along, and keeps nothing on the machine. `registries` checks the registries of
//! images.

use crate::active_checks::not_checked;
use crate::cluster::{Cluster, Node};
use crate::error::{Error, Kind};
use crate::fleet::identity::Finding;
use crate::shell::{SOURCES, Sh, sh};
use crate::step::Ask;

/// Defines `fetch FILE URL OPTION…`, which downloads the URL into the file. If it fails, it prints the reason in one line.
/// It returns 2 if a server answered, even if the server has no such file or denies access.
pub(super) const FETCH: &str = r#"[ -x /usr/lib/apt/apt-helper ] || { echo 'no apt-helper' >&2; exit 1; }
d=$(mktemp -d)
trap 'rm -rf "$d"' EXIT
trap 'exit 1' HUP INT TERM PIPE
fetch() {
  fetch_to=$1 fetch_url=$2; shift 2
  if x=$(timeout 12 /usr/lib/apt/apt-helper -q -o Acquire::Retries=0 -o Acquire::http::Timeout=5 -o Acquire::https::Timeout=5 \
    -o APT::Sandbox::User=root ${fetch_with-} "$@" download-file "$fetch_url" "$fetch_to" 2>&1); then return 0; else r=$?; fi
  [ $r != 124 ] || x='no answer within 12 s'
  x=$(printf '%s\n' "$x" | sed -n -e 's/^E: Failed to fetch [^ ]* *//p' -e '/^no answer/p' | head -n 1 | cut -c 1-300)
  printf '%s\n' "$x"
  case $x in *onnect* | *resolv* | *imed* | *ertificate* | *andshake* | *nreachable* | *'no answer'*) return 1 ;; esac
  return 2
}
"#;

pub(super) fn exports(cluster: &Cluster) -> Sh {
    let line =
        |(name, value): (&'static str, String)| sh!("export {name}={value}\n", name = Sh::raw(name), value);
    cluster.proxy_variables().into_iter().map(line).collect()
}

/// Asks all package repositories at the same time. For the Kubernetes repository, it prints the versions of the kubelet.
/// For the machine's own repositories, it prints which of them apt cannot read, and which containerd apt would install.
const PACKAGES: &str = r#"kubernetes() {
  why=
  for list in Packages Packages.gz; do
    if x=$(fetch "$d/$list" "$url$list"); then
      zcat -f <"$d/$list" | awk '$1 == "Package:" { p = $2 } $1 == "Version:" && p == "kubelet" { all = all " " $2 } END { print "versions" all }'
      return 0
    fi
    why=${why:-$x}
  done
  printf '%s\n' "no $url: $why"
}
[ -e /usr/bin/kubelet ] || kubernetes &
if [ ! -e /usr/bin/containerd ] || [ ! -e /usr/bin/kubelet ]; then sources_dead | sed 's/^/source /' & fi
if [ ! -e /usr/bin/containerd ]; then
  apt-cache -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= policy containerd 2>/dev/null |
    sed -n 's/^ *Candidate: \([0-9].*\)/containerd \1/p'
fi
wait"#;

/// Writes credentials into a file, and defines the option of apt that names this file. Every user can see a command line,
/// so credentials must not be there.
const AUTH: Sh = Sh::raw(
    r#"( umask 077; printf '%s\n' TEXT >"$d/auth" )
fetch_with="-o Dir::Etc::netrc=$d/auth"
"#,
);

pub fn packages(cluster: &Cluster) -> Ask {
    Ask::Shell(repository(cluster) + SOURCES + PACKAGES)
}

/// Asks for the signing key of the Kubernetes repository, as the repository shows it to this machine. ironstrap judges the
/// key on the operator's computer.
pub fn key(cluster: &Cluster) -> Ask {
    Ask::Shell(repository(cluster) + KEY)
}

const KEY: &str = r#"if why=$(fetch "$d/key" "${url}Release.key"); then head -c 1100000 "$d/key"; else echo "no ${url}Release.key: $why"; fi"#;

/// Shell that defines `fetch`, and `$url`, the URL of the Kubernetes repository.
fn repository(cluster: &Cluster) -> Sh {
    let url = sh!("url={url}\n", url = cluster.packages.address());
    let auth = cluster.packages.credentials().map(|text| AUTH.replaced("TEXT", text.trim_end()));
    exports(cluster) + FETCH + auth.unwrap_or_default() + url
}

/// The finding for a machine that cannot fetch the key. Empty if the answer is a key.
pub fn no_key(node: &Node, answer: &str) -> Vec<Finding> {
    silent(node, answer, "cannot download the key of a package repository")
}

pub fn judge_packages(cluster: &Cluster, node: &Node, answer: &str) -> Vec<Finding> {
    let wanted = cluster.kubernetes.to_string();
    let has = |version: &str| version == wanted || version.starts_with(&format!("{wanted}-"));
    let mut found = silent(node, answer, "a package repository does not answer");
    found.extend(dead(node, answer));
    for line in answer.lines() {
        let (what, versions) = line.split_once(' ').unwrap_or((line, ""));
        let error = match what {
            "versions" if versions.is_empty() => {
                found.push(not_checked("Sources", &node.name, "the Kubernetes repository lists no kubelet"));
                continue;
            }
            "versions" if !versions.split(' ').any(has) => {
                let newest = versions.split(' ').next_back().unwrap_or_default();
                Error::new(Kind::Refused, format!("the Kubernetes repository has no kubelet {wanted}"))
                    .answered(format!("the last version in {} is {newest}", cluster.packages.address()))
                    .hint("set `kubernetes` of [cluster] to a version that the repository has")
            }
            "containerd" if too_old(versions) => Error::new(
                Kind::Refused,
                format!("the package repositories have containerd {versions}, which is too old"),
            )
            .hint("add a repository with containerd 1.7 or newer, then run apt-get update"),
            _ => continue,
        };
        found.push(finding(node, error));
    }
    found
}

fn too_old(version: &str) -> bool {
    let version = version.rsplit_once(':').map_or(version, |(_, version)| version);
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<u32>());
    matches!((numbers.next(), numbers.next()), (Some(Ok(major)), Some(Ok(minor))) if (major, minor) < (1, 7))
}

/// A finding for package sources of the machine that apt cannot read. A single such source makes `apt-get update` fail,
/// even if ironstrap installs nothing from it.
fn dead(node: &Node, answer: &str) -> Option<Finding> {
    let lines: Vec<&str> = answer.lines().filter_map(|line| line.strip_prefix("source ")).collect();
    if lines.is_empty() {
        return None;
    }
    let error = Error::new(Kind::Refused, "apt cannot read all package sources of this machine")
        .quoting(lines.join("\n"))
        .hint(
            "correct each of these sources, or put # before its line (in a .sources file: Enabled: no), until \
             apt-get update succeeds",
        );
    Some(finding(node, error))
}

/// One finding for all lines that begin with `no`. `what`: the error that they stand for.
pub(super) fn silent(node: &Node, answer: &str, what: &str) -> Vec<Finding> {
    let lines: Vec<&str> = answer.lines().filter_map(|line| line.strip_prefix("no ")).collect();
    if lines.is_empty() {
        return vec![];
    }
    let error = Error::new(Kind::Refused, what).quoting(lines.join("\n")).hint(
        "check the machine's network access: DNS, routes, a proxy ([proxy] in the inventory), or the mirrors in the inventory",
    );
    vec![finding(node, error)]
}

pub(super) fn finding(node: &Node, error: Error) -> Finding {
    Finding { check: "Sources", error: error.on(&node.name), harmless: false }
}
