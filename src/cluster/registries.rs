//! The sources of images: registries, their mirrors, and how machines log in there.

use std::collections::BTreeMap;

use super::{Cluster, Network};
use crate::secret::SecretText;

/// The settings for images of one registry.
#[derive(Clone, Debug, PartialEq)]
pub struct Registry {
    /// The registry that images are named after: `docker.io`, `registry.k8s.io`. `_default` stands for all others.
    pub host: String,
    /// URLs, tried in order. If the inventory has none, this is the URL of the registry itself.
    pub mirrors: Vec<String>,
    /// Whether containerd asks the registry itself if no mirror has the image.
    pub fallback: bool,
    /// A CA certificate (PEM) for the mirrors.
    pub ca: Option<String>,
    pub skip_verify: bool,
    /// The login of a machine at the mirrors.
    pub login: Option<Login>,
}

/// A user and a password for a registry.
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

/// Host and port of a URL, as they are written. containerd finds a login by them.
pub fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().unwrap_or_default()
}

/// The registry that an image is named after.
pub fn registry_of(image: &str) -> &str {
    let first = image.split('/').next().unwrap_or_default();
    if first.contains(['.', ':']) { first } else { "docker.io" }
}

/// The name that the registry uses for the image, and the tag or digest.
pub fn image_parts(image: &str) -> (String, &str) {
    let name = image.strip_prefix(registry_of(image)).map_or(image, |rest| rest.trim_start_matches('/'));
    let (name, reference) =
        name.rsplit_once('@').unwrap_or_else(|| name.rsplit_once(':').unwrap_or((name, "latest")));
    let name = name.rsplit_once(':').map_or(name, |(name, _)| name);
    let is_library = registry_of(image) == "docker.io" && !name.contains('/');
    (if is_library { format!("library/{name}") } else { name.into() }, reference)
}

/// The name under which containerd's CRI plugin keeps the image (distribution/reference, `ParseDockerRef`).
pub fn image_name(image: &str) -> String {
    let (repository, reference) = image_parts(image);
    let separator = if reference.contains(':') { '@' } else { ':' };
    format!("{}/{repository}{separator}{reference}", registry_of(image))
}

impl Registry {
    /// Whether containerd asks only the registry itself, and no mirror.
    pub fn is_direct(&self) -> bool {
        self.mirrors == [direct(&self.host)]
    }
}

impl Cluster {
    /// The images that every node runs.
    pub fn node_images(&self) -> Vec<String> {
        let mut images = vec![self.pause_image()];
        if self.has_addon("proxy") {
            images.push(format!("{}/kube-proxy:v{}", self.image_repository, self.kubernetes));
        }
        if let Network::Flannel(flannel) = &self.network {
            images.extend([&flannel.image, &flannel.plugin].map(String::clone));
        }
        images
    }

    /// The settings for a registry: those of its own name, or else those of `_default`.
    pub fn registry(&self, host: &str) -> Option<&Registry> {
        let named = |name: &str| self.registries.iter().find(|registry| registry.host == name);
        named(host).or_else(|| named("_default"))
    }

    /// The logins, by the host that containerd sends them to. At that host, containerd uses the login for images of any
    /// registry.
    pub fn registry_logins(&self) -> BTreeMap<&str, &Login> {
        let logins = self.registries.iter().filter_map(|registry| Some((registry, registry.login.as_ref()?)));
        logins
            .flat_map(|(registry, login)| registry.mirrors.iter().map(move |url| (authority(url), login)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_gets_containerds_full_name() {
        let digest = format!("sha256:{}", "0".repeat(64));
        for (image, name) in [
            ("nginx", "docker.io/library/nginx:latest".to_string()),
            ("flannel/flannel:v1", "docker.io/flannel/flannel:v1".to_string()),
            ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10".to_string()),
            ("localhost:5000/a/b:c", "localhost:5000/a/b:c".to_string()),
            (&format!("quay.io/a:v1@{digest}"), format!("quay.io/a@{digest}")),
        ] {
            assert_eq!(image_name(image), name);
        }
    }

    #[test]
    fn an_image_splits_into_repository_and_reference() {
        for (image, repository, reference) in [
            ("registry.k8s.io/pause:3.10", "pause", "3.10"),
            ("r.example.com:5000/k8s/pause:3.10", "k8s/pause", "3.10"),
            ("docker.io/flannel/flannel:v1", "flannel/flannel", "v1"),
            ("docker.io/nginx:1", "library/nginx", "1"),
            ("ghcr.io/a/b:1@sha256:ab", "a/b", "sha256:ab"),
        ] {
            assert_eq!(image_parts(image), (repository.to_string(), reference), "{image}");
        }
    }
}
