//! The route to a machine: the settings of the inventory, and for the rest those of the operator's own `ssh`.
//! ironstrap asks `ssh -G` for them, because only ssh knows every rule of ssh_config(5). This module connects to nothing.

mod narrow;
mod said;

use std::path::PathBuf;

pub use narrow::{Allowed, Narrow, allows};
use said::{Fill, Said, said};

use super::Operator;
use crate::cluster;
use crate::error::{Error, Kind, Result};
use crate::inventory::{USER, is_user};

/// Maximum number of jump hosts on a route. More of them mean that a jump host is reached through itself, maybe
/// indirectly.
const DEEPEST: usize = 8;

/// A route with all its details.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// The host to connect to.
    pub host: String,
    pub port: u16,
    pub user: String,
    pub keys: Keys,
    /// OpenSSH certificates for the keys.
    pub certificates: Vec<PathBuf>,
    pub agent: Option<PathBuf>,
    /// Files of known host keys. New keys go to the first file.
    pub known: Vec<PathBuf>,
    /// Files of known host keys for all users of the operator's computer.
    pub known_to_all: Vec<PathBuf>,
    /// The name of the host in these files, if it is not the host's own name.
    pub alias: Option<String>,
    /// The only accepted host key, as `SHA256:…`. It overrides the files.
    pub pinned: Option<String>,
    /// ssh_config asks to store new host keys.
    pub accept_new: bool,
    /// ssh_config asks to store them without the host's name.
    pub hashed: bool,
    /// Other limits that ssh_config sets.
    pub narrow: Narrow,
    pub via: Via,
}

/// The private keys that ironstrap shows.
#[derive(Clone, Debug, PartialEq)]
pub enum Keys {
    /// Only this key.
    Given(PathBuf),
    /// These files first. With `only`, no other keys of an agent follow.
    Named { files: Vec<PathBuf>, only: bool },
    /// The keys of the agent, and then these files if they exist.
    Usual(Vec<PathBuf>),
}

/// The intermediary between the operator's computer and the machine.
#[derive(Clone, Debug, PartialEq)]
pub enum Via {
    Nothing,
    /// A jump host.
    Host(Box<Route>),
    /// A program whose input and output are the connection.
    Command(String),
}

/// Host, port, user and jump hosts before ssh_config applies.
#[derive(Clone, Debug, Default)]
struct Asked {
    host: String,
    port: Option<u16>,
    user: Option<String>,
    /// `Some` and empty: no jump host, whatever ssh_config says.
    jump: Option<Vec<String>>,
}

impl Route {
    /// Returns `user@host`, with the port if it is not 22.
    pub fn shown(&self) -> String {
        match (self.port, self.host.contains(':')) {
            (22, _) => format!("{}@{}", self.user, self.host),
            (port, true) => format!("{}@[{}]:{port}", self.user, self.host),
            (port, false) => format!("{}@{}:{port}", self.user, self.host),
        }
    }

    /// Returns `host:port`.
    pub fn address(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// Returns host and port to look up a host key by. An alias replaces both (ssh_config(5), HostKeyAlias).
    pub fn looked_up(&self) -> (&str, u16) {
        self.alias.as_deref().map_or((&self.host, self.port), |alias| (alias, 22))
    }

    /// Returns the jump hosts of the route, the nearest first.
    pub fn hops(&self) -> Vec<&Route> {
        match &self.via {
            Via::Host(hop) => hop.hops().into_iter().chain([&**hop]).collect(),
            _ => vec![],
        }
    }

    /// Returns the `ssh` command for the same route.
    pub fn by_hand(&self) -> String {
        let port = if self.port == 22 { String::new() } else { format!("-p {} ", self.port) };
        let hops: Vec<String> = self.hops().into_iter().map(Route::shown).collect();
        let hops = if hops.is_empty() { String::new() } else { format!("-J {} ", hops.join(",")) };
        format!("ssh -v {hops}{port}{}@{}", self.user, self.host)
    }
}

/// Resolves the route to a machine of the inventory.
pub(super) async fn resolve(ssh: &cluster::Ssh, operator: &Operator) -> Result<Route> {
    let (port, user) = (ssh.port, ssh.user.clone());
    let asked = Asked { host: ssh.host.clone(), port, user, jump: ssh.jump.clone() };
    let mut route = route(asked, operator, 0).await?;
    if let Some(key) = &ssh.key {
        (route.keys, route.certificates) = (Keys::Given(key.clone()), vec![]);
    }
    let mut next = if let Via::Host(hop) = &mut route.via { Some(&mut **hop) } else { None };
    while let Some(hop) = next {
        // The inventory's key is also for the inventory's jump hosts, unless ssh_config names keys for them.
        if let (Some(key), Keys::Usual(_), true) = (&ssh.key, &hop.keys, ssh.jump.is_some()) {
            hop.keys = Keys::Named { files: vec![key.clone()], only: false };
        }
        // A known-hosts file in the inventory is also for the jump hosts of the route.
        if let Some(file) = &ssh.known_hosts {
            (hop.known, hop.known_to_all) = (vec![file.clone()], vec![]);
        }
        next = if let Via::Host(hop) = &mut hop.via { Some(hop) } else { None };
    }
    if let Some(file) = &ssh.known_hosts {
        (route.known, route.known_to_all) = (vec![file.clone()], vec![]);
    }
    route.pinned.clone_from(&ssh.host_key);
    Ok(route)
}

fn route<'a>(
    asked: Asked,
    operator: &'a Operator,
    depth: usize,
) -> std::pin::Pin<Box<dyn Future<Output = Result<Route>> + Send + 'a>> {
    Box::pin(async move {
        if let Some(user) = asked.user.as_ref().filter(|user| !is_user(user)) {
            let told =
                Error::new(Kind::Local, format!("{user:?} is not a valid user name for {}", asked.host));
            let hint = format!("correct `user` or `jump` of the inventory: {USER}");
            return Err(told.because("nothing was sent").hint(hint));
        }
        let said = match &operator.ssh {
            Some(program) => said(program, operator.config.as_deref(), &asked).await?,
            None => Said::default(),
        };
        let host = said.word("hostname").unwrap_or(&asked.host).to_string();
        let port = asked.port.or(said.word("port").and_then(|port| port.parse().ok())).unwrap_or(22);
        let user =
            asked.user.clone().or(said.word("user").map(String::from)).unwrap_or(operator.user.clone());
        let alias = said.word("hostkeyalias").map(String::from);
        let fill = Fill { asked: &asked.host, host: &host, port, user: &user, operator };
        let path = |word: &String| fill.path(word);
        let mut route = Route {
            keys: said.keys(operator, &fill),
            certificates: said.words("certificatefile").iter().map(path).collect(),
            agent: said.agent(operator, &fill),
            known: operator.home.iter().map(|home| home.join(".ssh/known_hosts")).collect(),
            known_to_all: vec!["/etc/ssh/ssh_known_hosts".into()],
            alias,
            pinned: None,
            accept_new: matches!(
                said.word("stricthostkeychecking"),
                Some("accept-new" | "no" | "off" | "false")
            ),
            hashed: said.word("hashknownhosts") == Some("yes"),
            narrow: Narrow::read(&said, &fill)?,
            via: Via::Nothing,
            host: host.clone(),
            port,
            user: user.clone(),
        };
        if operator.ssh.is_some() {
            (route.known, route.known_to_all) =
                (said.files("userknownhostsfile", &fill), said.files("globalknownhostsfile", &fill));
        }
        route.via = via(&route, &said, asked.jump.as_deref(), &fill, depth).await?;
        Ok(route)
    })
}

async fn via(
    route: &Route,
    said: &Said,
    jump: Option<&[String]>,
    fill: &Fill<'_>,
    depth: usize,
) -> Result<Via> {
    let listed: Vec<String> = match jump {
        Some(hosts) => hosts.to_vec(),
        None => {
            said.word("proxyjump").map(|list| list.split(',').map(String::from).collect()).unwrap_or_default()
        }
    };
    let command = said.word("proxycommand").filter(|command| *command != "none" && jump.is_none());
    let Some((last, before)) = listed.split_last().filter(|(last, _)| *last != "none") else {
        return Ok(command.map_or(Via::Nothing, |command| Via::Command(fill.text(command))));
    };
    if depth >= DEEPEST {
        let told =
            Error::new(Kind::Local, format!("the route to {} goes through too many jump hosts", route.host));
        return Err(told
            .because(format!("more than {DEEPEST}, the last of them {last}"))
            .hint("check whether ProxyJump of your ssh_config loops; exclude the jump hosts from it"));
    }
    let mut asked = hop(last).ok_or_else(|| {
        Error::new(Kind::Local, format!("{last:?} is not a valid jump host"))
            .hint("write it as user@host:port, as for ssh -J")
    })?;
    asked.jump = (!before.is_empty()).then(|| before.to_vec());
    let hop = self::route(asked, fill.operator, depth + 1).await?;
    // A ProxyJump under `Host *` also applies to the jump host itself. The jump host then needs no jump host.
    Ok(match (&hop.host, hop.port) == (&route.host, route.port) && before.is_empty() {
        true => Via::Nothing,
        false => Via::Host(Box::new(hop)),
    })
}

/// Reads `[user@]host[:port]`, or the same as an `ssh://` address.
fn hop(text: &str) -> Option<Asked> {
    let text = text.trim();
    let text = text.strip_prefix("ssh://").unwrap_or(text).trim_end_matches('/');
    let (user, rest) = match text.rsplit_once('@') {
        Some((user, rest)) => (Some(user.to_string()), rest),
        None => (None, text),
    };
    let (host, port) = match rest.strip_prefix('[') {
        Some(inner) => {
            let (host, after) = inner.split_once(']')?;
            (host, after.strip_prefix(':'))
        }
        None if rest.matches(':').count() == 1 => rest.split_once(':').map(|(h, p)| (h, Some(p)))?,
        None => (rest, None),
    };
    let port = match port {
        Some(port) => Some(port.parse().ok()?),
        None => None,
    };
    let fine =
        !host.is_empty() && !host.starts_with('-') && user.as_ref().is_none_or(|user| !user.is_empty());
    fine.then(|| Asked { host: host.into(), port, user, jump: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operator() -> Operator {
        Operator { home: Some("/home/bob".into()), user: "bob".into(), ..Operator::default() }
    }

    #[test]
    fn a_jump_host_is_parsed_as_in_ssh() {
        let read = |text: &str| hop(text).map(|asked| (asked.user, asked.host, asked.port));
        let is =
            |user: Option<&str>, host: &str, port| Some((user.map(String::from), host.to_string(), port));
        assert_eq!(read("b1"), is(None, "b1", None));
        assert_eq!(read("ops@b1:2222"), is(Some("ops"), "b1", Some(2222)));
        assert_eq!(read("ssh://ops@[fd00::1]:2222"), is(Some("ops"), "fd00::1", Some(2222)));
        assert_eq!(read("fd00::1"), is(None, "fd00::1", None));
        for wrong in ["", "@b1", "-oProxyCommand=x", "b1:x"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[tokio::test]
    async fn without_an_ssh_program_the_inventory_sets_the_route() {
        let ssh = cluster::Ssh {
            host: "m1".into(),
            jump: Some(vec!["ops@b1".into(), "b2:2222".into()]),
            key: Some("/k".into()),
            known_hosts: Some("/known".into()),
            ..cluster::Ssh::default()
        };
        let route = resolve(&ssh, &operator()).await.unwrap();
        assert_eq!((route.shown().as_str(), route.address().as_str()), ("bob@m1", "m1:22"));
        assert_eq!(route.hops().into_iter().map(Route::shown).collect::<Vec<_>>(), ["ops@b1", "bob@b2:2222"]);
        assert_eq!(route.keys, Keys::Given("/k".into()));
        assert_eq!((route.known.clone(), route.known_to_all.clone()), (vec!["/known".into()], vec![]));
        for hop in route.hops() {
            assert_eq!(hop.keys, Keys::Named { files: vec!["/k".into()], only: false });
            assert_eq!(hop.known, [std::path::Path::new("/known")]);
        }
        assert_eq!(route.by_hand(), "ssh -v -J ops@b1,bob@b2:2222 bob@m1");
    }
}
