//! Questions to the etcd of the control planes, and the meaning of the answers. Other modules decide what to do about them.

use std::net::IpAddr;

use serde_json::Value;

use crate::error::count;
use crate::shell::{Sh, sh};

/// Defines the shell function `etcd`, which sends a request to this machine's etcd with kubectl. So nothing needs to be
/// installed. kubectl speaks HTTP with a client certificate, and etcd answers HTTP (etcd's documentation, "gRPC gateway").
/// Its arguments contain only paths.
pub const ETCD: Sh = Sh::raw(
    r#"m=/etc/kubernetes/manifests/etcd.yaml p=/etc/kubernetes/pki/etcd
etcd_at() {
  at=$1; shift
  command kubectl --kubeconfig /dev/null --request-timeout=5s --server "$at" \
    --certificate-authority $p/ca.crt --client-certificate $p/healthcheck-client.crt --client-key $p/healthcheck-client.key "$@"
}
etcd() { etcd_at "$(sed -n 's/^ *- --listen-client-urls=\([^,]*\).*/\1/p' $m)" "$@"; }
"#,
);

/// Shell that asks this machine's etcd. The answer is `Answer::Absent` where etcd was never set up.
pub fn ask(shell: impl Into<Sh>) -> Sh {
    sh!("[ -e /etc/kubernetes/manifests/etcd.yaml ] || absent\n{ETCD}{shell}", ETCD, shell = shell.into())
}

/// Asks etcd for its members, as this one member knows them. Without a majority, etcd has no other answer.
pub const MEMBERS: Sh =
    Sh::raw(r#"echo '{"linearizable": false}' | etcd create --raw /v3/cluster/member/list -f -"#);

/// Asks etcd for its members. The answer has the list on one line, and then a line `well URL` for each member that answers.
pub fn health() -> Sh {
    ask(sh!("all=$({MEMBERS})\necho \"$all\"\n", MEMBERS) + WELL)
}

const WELL: &str = r#"for url in $(echo "$all" | grep -o '"clientURLs":\["[^"]*' | sed 's/.*"//'); do
  case $(etcd_at "$url" get --raw /health 2>/dev/null || :) in *'"health":"true"'*) echo "well $url" ;; esac
done"#;

/// Defines the shell function `remove_member NAME IP`, which removes that member from etcd. A member that has not started
/// yet has no name, so the function also searches for the address.
pub const REMOVE_MEMBER: Sh = Sh::raw(
    r#"remove_member() {
  all=$(echo '{"linearizable": true}' | etcd create --raw /v3/cluster/member/list -f -) || return 1
  id=$(echo "$all" | sed 's/{"ID"/\n&/g' | grep -F -e "\"name\":\"$1\"" -e "//$2:" -e "//[$2]:" | sed -n 's/^{"ID":"\([0-9]*\)".*/\1/p')
  for id in $id; do echo "{\"ID\":\"$id\"}" | etcd create --raw /v3/cluster/member/remove -f - >/dev/null || return 1; done
}
"#,
);

/// A member of etcd. It counts for the majority, or will soon.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// The id in hexadecimal digits, as etcdctl prints it.
    pub id: String,
    /// The name. It is empty if the member was added and has never started.
    pub name: String,
    /// The URL at which other members reach it.
    pub peer: String,
    /// The URL at which clients reach it. It is empty in the same case as `name`.
    client: String,
    /// Whether it is a learner, which has no vote yet.
    pub learner: bool,
}

impl Member {
    /// Whether other members reach it at this address.
    pub fn is_at(&self, ip: IpAddr) -> bool {
        let at = if ip.is_ipv6() { format!("//[{ip}]:") } else { format!("//{ip}:") };
        self.peer.contains(&at)
    }

    /// Whether it is the member on this machine: it has the name or the address of the machine.
    pub fn is_of(&self, name: &str, ip: IpAddr) -> bool {
        self.name == name || self.is_at(ip)
    }
}

/// Parses a list of members. `None`: the list cannot be read.
pub fn members(list: &str) -> Option<Vec<Member>> {
    let said: Value = serde_json::from_str(list).ok()?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let member = |member: &Value| Member {
        id: text(&member["ID"]).parse::<u64>().map_or(String::new(), |id| format!("{id:x}")),
        name: text(&member["name"]),
        peer: text(&member["peerURLs"][0]),
        client: text(&member["clientURLs"][0]),
        learner: member["isLearner"] == true,
    };
    Some(said["members"].as_array()?.iter().map(member).collect())
}

/// Why etcd would lose its majority without the member on this machine, from an answer to [`health`]. `None`: etcd keeps its
/// majority, or has no such member. `Err`: the part of the answer that cannot be read.
pub fn quorum_loss(answer: &str, name: &str, ip: IpAddr) -> Result<Option<String>, String> {
    let (list, health) = answer.split_once('\n').unwrap_or((answer, ""));
    let all = members(list).ok_or_else(|| format!("cannot read \"{list}\""))?;
    if !all.iter().any(|member| member.is_of(name, ip)) {
        return Ok(None);
    }
    let stay: Vec<&Member> = all.iter().filter(|m| !m.is_of(name, ip) && !m.learner).collect();
    let answers = |member: &&&Member| health.lines().any(|line| line == format!("well {}", member.client));
    let (up, majority) = (stay.iter().filter(answers).count(), stay.len() / 2 + 1);
    let silent = stay.iter().filter(|member| !answers(member)).map(|member| member.name.as_str());
    let silent = silent.collect::<Vec<_>>().join(", ");
    Ok((up < majority).then(|| {
        format!(
            "of the remaining {}, {up} answer and {majority} must; silent: {silent}",
            count(stay.len(), "member")
        )
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREE: &str = r#"{"header":{},"members":[{"ID":"1","name":"m1","peerURLs":["https://10.0.0.1:2380"],"clientURLs":["https://10.0.0.1:2379"]},{"ID":"2","name":"m2","peerURLs":["https://10.0.0.2:2380"],"clientURLs":["https://10.0.0.2:2379"]},{"ID":"3","peerURLs":["https://10.0.0.13:2380"],"isLearner":true}]}"#;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_member_is_identified_by_its_name_or_address() {
        let all = members(THREE).unwrap();
        let of = |name: &str, at: &str| all.iter().filter(|member| member.is_of(name, ip(at))).count();
        assert_eq!((of("m1", "10.0.0.9"), of("m3", "10.0.0.13"), of("m3", "10.0.0.1")), (1, 1, 1));
        assert_eq!((of("m3", "10.0.0.3"), all[2].learner), (0, true));
        assert_eq!(
            members(&THREE.replace("\"3\"", "\"10501334649042878790\"")).unwrap()[2].id,
            "91bc3c398fb3c146"
        );
        assert_eq!(members("unavailable"), None);
    }

    #[test]
    fn a_removal_must_keep_the_quorum() {
        let quorum_loss = |health: &[u8], name: &str, at: &str| {
            let lines = health.iter().map(|n| format!("\nwell https://10.0.0.{n}:2379"));
            super::quorum_loss(&format!("{THREE}{}", lines.collect::<String>()), name, ip(at)).unwrap()
        };
        assert_eq!(quorum_loss(&[1, 2], "m1", "10.0.0.1"), None);
        assert_eq!(quorum_loss(&[1], "m2", "10.0.0.2"), None, "a silent member may be removed");
        let why = "of the remaining 1 member, 0 answer and 1 must; silent: m2";
        assert_eq!(quorum_loss(&[1], "m1", "10.0.0.1").unwrap(), why);
        assert_eq!(quorum_loss(&[1, 2], "m3", "10.0.0.13"), None, "a learner has no vote");
        assert_eq!(quorum_loss(&[], "m9", "10.0.0.9"), None, "m9 has no etcd member");
        assert!(super::quorum_loss("unavailable", "m1", ip("10.0.0.1")).is_err());
    }
}
