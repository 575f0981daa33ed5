//! Where images come from: registries, their mirrors, and how machines log in there.

use std::collections::BTreeMap;

use super::Cluster;
use crate::secret::SecretText;

/// Where images of one registry are pulled from.
#[derive(Clone, Debug, PartialEq)]
pub struct Registry {
    /// The registry that images are named after: `docker.io`, `registry.k8s.io`, `_default`.
    pub host: String,
    /// URLs, tried in order. Where the inventory names none: the registry itself.
    pub mirrors: Vec<String>,
    /// Ask the registry itself where no mirror has the image.
    pub fallback: bool,
    /// A CA certificate (PEM) for the mirrors.
    pub ca: Option<String>,
    pub skip_verify: bool,
    /// How the mirrors let a machine in.
    pub login: Option<Login>,
}

/// A user and a password, as a registry wants them.
#[derive(Clone, Debug, PartialEq)]
pub struct Login {
    pub user: String,
    pub password: SecretText,
}

/// The URL of a registry without a mirror, as containerd makes it (containerd, core/remotes/docker/config/hosts.go).
pub fn direct(host: &str) -> String {
    let host = if host == "docker.io" { "registry-1.docker.io" } else { host };
    format!("https://{host}")
}

/// Host and port of a URL as they are written. containerd knows a login by them.
pub fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().unwrap_or_default()
}

impl Registry {
    /// The registry is its own only mirror.
    pub fn is_direct(&self) -> bool {
        self.mirrors == [direct(&self.host)]
    }
}

impl Cluster {
    /// The logins by the host that containerd sends them to, whichever registry's images it asks there for.
    pub fn registry_logins(&self) -> BTreeMap<&str, &Login> {
        let logins = self.registries.iter().filter_map(|registry| Some((registry, registry.login.as_ref()?)));
        logins
            .flat_map(|(registry, login)| registry.mirrors.iter().map(move |url| (authority(url), login)))
            .collect()
    }
}
