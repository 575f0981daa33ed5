//! Judges the answer of a registry to a machine that asked for the manifest of an image. It also says what to do about it.
//! A hint names only images and hosts of the inventory, because a machine must not put words of its own into a hint.

use crate::active_checks::not_checked;
use crate::active_checks::sources::finding;
use crate::cluster::{Cluster, Node, authority};
use crate::error::{Error, Kind};
use crate::fleet::identity::Finding;

/// A line of the answer: `manifest IMAGE WORD URL MORE`.
struct Line<'a> {
    image: &'a str,
    word: &'a str,
    url: &'a str,
    more: &'a str,
}

impl<'a> Line<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let mut words = line.strip_prefix("manifest ")?.splitn(4, ' ');
        let (image, word, url) = (words.next()?, words.next()?, words.next()?);
        Some(Line { image, word, url, more: words.next().unwrap_or_default() })
    }

    /// Whether this answer leaves open if containerd can pull the image from there.
    fn is_open(&self) -> bool {
        matches!(self.word, "odd" | "untold")
    }

    fn user(&self, cluster: &'a Cluster) -> Option<&'a str> {
        cluster.registry_logins().get(authority(self.url)).map(|login| login.user.as_str())
    }

    fn says(&self, cluster: &Cluster) -> String {
        let user = self.user(cluster).unwrap_or("the user");
        let says = match self.word {
            "login" => format!("it requires a login ({}), and the inventory has none for it", self.more),
            "password" if self.more.starts_with("http") => {
                format!("{} refuses the login of {user}", self.more)
            }
            "password" => format!("it refuses the login of {user} ({})", self.more),
            "denied" => {
                format!("{user} may not pull it, or there is no such project or image ({})", self.more)
            }
            "missing" => "it has no such image (404)".into(),
            _ => self.more.into(),
        };
        format!("{}: {says}", self.url)
    }

    /// The hint that says what the operator can do. `image`: the image that this answer is about.
    fn hint(&self, cluster: &Cluster, image: &Image) -> String {
        let host = known(cluster, image, authority(self.url));
        let table = match host {
            Some(host) => format!("[registries.\"{}\"]", table(cluster, host)),
            None => "[registries]".into(),
        };
        let whose = host.map_or("the host of that URL".into(), str::to_string);
        let base = format!("https://{}/v2/PROJECT", host.unwrap_or("HOST"));
        match self.word {
            "login" => format!(
                "set `user` and `password-file` in {table}; also check the path of that URL, because some registries give the same \
                 answer for a project that does not exist"
            ),
            "password" => format!("correct `user`, `password-file` or `password` in {table}"),
            "denied" => format!(
                "give the user of {table} the right to pull there, or correct the path of that URL; write a mirror that is a \
                 project as {base}"
            ),
            "trust" => {
                format!("set `ca` in {table} to the file with the CA that signed the certificate of {whose}")
            }
            _ => format!(
                "push the image there, or correct the inventory: the mirrors of [registries], `image-repository`, [flannel]; write a \
                 mirror that is a project as {base}"
            ),
        }
    }
}

/// An image that every node runs, and the URLs below which a machine asks for it.
pub struct Image {
    pub name: String,
    pub bases: Vec<String>,
}

/// The host as the inventory writes it, if the inventory names it. A registry can redirect a machine to any other host.
fn known<'a>(cluster: &'a Cluster, image: &'a Image, host: &str) -> Option<&'a str> {
    let mirrors = cluster.registries.iter().flat_map(|registry| &registry.mirrors);
    image.bases.iter().chain(mirrors).map(|url| authority(url)).find(|known| *known == host)
}

/// The name of the inventory's table about this host. It is the table of the registry that names the host as a mirror, or
/// else the host's own.
fn table<'a>(cluster: &'a Cluster, host: &'a str) -> &'a str {
    let names = |url: &String| authority(url) == host;
    let found = cluster.registries.iter().find(|registry| registry.mirrors.iter().any(names));
    found.map_or(host, |registry| registry.host.as_str())
}

/// Judges the answers about each image. An image is refused if every URL of it refuses. The finding is a warning if a URL
/// gives an odd answer. It is also a warning if a URL with a login could not be asked. Lines about other images are
/// ignored.
pub fn judge(cluster: &Cluster, node: &Node, images: &[Image], answer: &str) -> Vec<Finding> {
    let all: Vec<Line> = answer.lines().filter_map(Line::read).collect();
    let one = |image: &Image| {
        let lines: Vec<&Line> = all.iter().filter(|line| line.image == image.name).collect();
        let says: Vec<String> = lines.iter().map(|line| line.says(cluster)).collect();
        let first = lines.first()?;
        if lines.iter().any(|line| line.is_open()) {
            let matters = |line: &&&Line| line.word == "odd" || line.user(cluster).is_some();
            let open = lines.iter().filter(|line| line.is_open()).find(matters)?;
            let why = format!("{} at {}", image.name, open.says(cluster));
            return Some(not_checked("Sources", &node.name, &why));
        }
        let error = Error::new(Kind::Refused, format!("{} cannot be pulled", image.name));
        Some(finding(node, error.quoting(says.join("\n")).hint(first.hint(cluster, image))))
    };
    images.iter().filter_map(one).collect()
}
