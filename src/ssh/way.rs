//! The way to a machine: what the inventory says of it, and for the rest what the operator's own `ssh` would do. That
//! is asked of `ssh -G`, which alone knows every rule of ssh_config(5). Nothing is connected to here.

mod narrow;
mod said;

use std::path::PathBuf;

pub use narrow::{Allowed, Narrow, allows};
use said::{Fill, Said, said};

use super::Operator;
use crate::cluster;
use crate::error::{Error, Kind, Result};
use crate::inventory::{USER, is_user};

/// A jump host that is reached through itself, however indirectly.
const DEEPEST: usize = 8;

/// A way that is known in every detail.
#[derive(Clone, Debug, PartialEq)]
pub struct Way {
    /// Where to connect.
    pub host: String,
    pub port: u16,
    pub user: String,
    pub keys: Keys,
    /// OpenSSH certificates that go with keys.
    pub certificates: Vec<PathBuf>,
    pub agent: Option<PathBuf>,
    /// Files of known host keys; a new one goes to the first.
    pub known: Vec<PathBuf>,
    /// The same, for all users of the operator's computer.
    pub known_to_all: Vec<PathBuf>,
    /// What the host is called there, where that is not its own name.
    pub alias: Option<String>,
    /// The only host key that is right, as `SHA256:…`, whatever files say.
    pub pinned: Option<String>,
    /// ssh_config wants new host keys noted.
    pub accept_new: bool,
    /// It wants them noted without the host's name.
    pub hashed: bool,
    /// What else it allows and forbids.
    pub narrow: Narrow,
    pub through: Through,
}

/// Which private keys are shown.
#[derive(Clone, Debug, PartialEq)]
pub enum Keys {
    /// This one alone.
    Given(PathBuf),
    /// These first, and with `only` no others that an agent has.
    Named { files: Vec<PathBuf>, only: bool },
    /// The agent's, then these if they are there.
    Usual(Vec<PathBuf>),
}

/// What lies in between.
#[derive(Clone, Debug, PartialEq)]
pub enum Through {
    Nothing,
    /// A host that forwards.
    Host(Box<Way>),
    /// A program whose input and output are the connection.
    Command(String),
}

/// What a way is asked for by.
#[derive(Clone, Debug, Default)]
struct Asked {
    host: String,
    port: Option<u16>,
    user: Option<String>,
    /// `Some` and empty: none, whatever ssh_config says.
    jump: Option<Vec<String>>,
}

impl Way {
    /// `user@host`, with the port where it is not 22.
    pub fn shown(&self) -> String {
        match (self.port, self.host.contains(':')) {
            (22, _) => format!("{}@{}", self.user, self.host),
            (port, true) => format!("{}@[{}]:{port}", self.user, self.host),
            (port, false) => format!("{}@{}:{port}", self.user, self.host),
        }
    }

    /// `host:port`
    pub fn address(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// Host and port by which a host key is looked up: an alias stands for both (ssh_config(5), HostKeyAlias).
    pub fn looked_up(&self) -> (&str, u16) {
        self.alias.as_deref().map_or((&self.host, self.port), |alias| (alias, 22))
    }

    /// The hosts it goes through, the nearest first.
    pub fn hops(&self) -> Vec<&Way> {
        match &self.through {
            Through::Host(hop) => hop.hops().into_iter().chain([&**hop]).collect(),
            _ => vec![],
        }
    }

    /// The command that does the same.
    pub fn by_hand(&self) -> String {
        let port = if self.port == 22 { String::new() } else { format!("-p {} ", self.port) };
        let hops: Vec<String> = self.hops().into_iter().map(Way::shown).collect();
        let hops = if hops.is_empty() { String::new() } else { format!("-J {} ", hops.join(",")) };
        format!("ssh -v {hops}{port}{}@{}", self.user, self.host)
    }
}

/// The way to a machine of the inventory.
pub(super) async fn resolve(ssh: &cluster::Ssh, operator: &Operator) -> Result<Way> {
    let (port, user) = (ssh.port, ssh.user.clone());
    let asked = Asked { host: ssh.host.clone(), port, user, jump: ssh.jump.clone() };
    let mut way = way(asked, operator, 0).await?;
    if let Some(key) = &ssh.key {
        (way.keys, way.certificates) = (Keys::Given(key.clone()), vec![]);
    }
    let mut next = if let Through::Host(hop) = &mut way.through { Some(&mut **hop) } else { None };
    while let Some(hop) = next {
        // Hosts that the inventory goes through are opened by its key, where nothing says by which.
        if let (Some(key), Keys::Usual(_), true) = (&ssh.key, &hop.keys, ssh.jump.is_some()) {
            hop.keys = Keys::Named { files: vec![key.clone()], only: false };
        }
        // Who keeps a file of their own for a cluster keeps the hosts on the way to it there, too.
        if let Some(file) = &ssh.known_hosts {
            (hop.known, hop.known_to_all) = (vec![file.clone()], vec![]);
        }
        next = if let Through::Host(hop) = &mut hop.through { Some(hop) } else { None };
    }
    if let Some(file) = &ssh.known_hosts {
        (way.known, way.known_to_all) = (vec![file.clone()], vec![]);
    }
    way.pinned.clone_from(&ssh.host_key);
    Ok(way)
}

fn way<'a>(
    asked: Asked,
    operator: &'a Operator,
    depth: usize,
) -> std::pin::Pin<Box<dyn Future<Output = Result<Way>> + Send + 'a>> {
    Box::pin(async move {
        if let Some(user) = asked.user.as_ref().filter(|user| !is_user(user)) {
            let told = Error::new(Kind::Local, format!("{user:?} is no name of a user for {}", asked.host));
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
        let mut way = Way {
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
            through: Through::Nothing,
            host: host.clone(),
            port,
            user: user.clone(),
        };
        if operator.ssh.is_some() {
            (way.known, way.known_to_all) =
                (said.files("userknownhostsfile", &fill), said.files("globalknownhostsfile", &fill));
        }
        way.through = through(&way, &said, asked.jump.as_deref(), &fill, depth).await?;
        Ok(way)
    })
}

async fn through(
    way: &Way,
    said: &Said,
    jump: Option<&[String]>,
    fill: &Fill<'_>,
    depth: usize,
) -> Result<Through> {
    let listed: Vec<String> = match jump {
        Some(hosts) => hosts.to_vec(),
        None => {
            said.word("proxyjump").map(|list| list.split(',').map(String::from).collect()).unwrap_or_default()
        }
    };
    let command = said.word("proxycommand").filter(|command| *command != "none" && jump.is_none());
    let Some((last, before)) = listed.split_last().filter(|(last, _)| *last != "none") else {
        return Ok(command.map_or(Through::Nothing, |command| Through::Command(fill.text(command))));
    };
    if depth >= DEEPEST {
        let told = Error::new(Kind::Local, format!("the way to {} goes through too many hosts", way.host));
        return Err(told
            .because(format!("more than {DEEPEST}, the last of them {last}"))
            .hint("does ProxyJump of your ssh_config lead in a circle? except the jump hosts from it"));
    }
    let mut asked = hop(last).ok_or_else(|| {
        Error::new(Kind::Local, format!("{last:?} is no jump host"))
            .hint("write it as user@host:port, as ssh -J takes it")
    })?;
    asked.jump = (!before.is_empty()).then(|| before.to_vec());
    let hop = self::way(asked, fill.operator, depth + 1).await?;
    // `Host *` with a jump host is about the jump host, too.
    Ok(match (&hop.host, hop.port) == (&way.host, way.port) && before.is_empty() {
        true => Through::Nothing,
        false => Through::Host(Box::new(hop)),
    })
}

/// `[user@]host[:port]`, or the same as an `ssh://` address.
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
    fn a_jump_host_is_read_as_ssh_reads_it() {
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
    async fn without_an_ssh_of_the_operators_the_inventory_alone_says_where_to_go() {
        let ssh = cluster::Ssh {
            host: "m1".into(),
            jump: Some(vec!["ops@b1".into(), "b2:2222".into()]),
            key: Some("/k".into()),
            known_hosts: Some("/known".into()),
            ..cluster::Ssh::default()
        };
        let way = resolve(&ssh, &operator()).await.unwrap();
        assert_eq!((way.shown().as_str(), way.address().as_str()), ("bob@m1", "m1:22"));
        assert_eq!(way.hops().into_iter().map(Way::shown).collect::<Vec<_>>(), ["ops@b1", "bob@b2:2222"]);
        assert_eq!(way.keys, Keys::Given("/k".into()));
        assert_eq!((way.known.clone(), way.known_to_all.clone()), (vec!["/known".into()], vec![]));
        for hop in way.hops() {
            assert_eq!(hop.keys, Keys::Named { files: vec!["/k".into()], only: false });
            assert_eq!(hop.known, [std::path::Path::new("/known")]);
        }
        assert_eq!(way.by_hand(), "ssh -v -J ops@b1,bob@b2:2222 bob@m1");
    }
}
