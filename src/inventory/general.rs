//! Reads `[cluster]` without its addresses: names, the version, the endpoint. `network` reads the addresses and the network.

use std::net::IpAddr;

use semver::Version;

use super::diagnostic::Mistakes;
use super::fields::nearest;
use super::names;
use super::table::{Table, Text};
use crate::cluster::{Endpoint, kubeadm_checks};

/// The minor versions of Kubernetes 1 that are known to work.
const MINORS: std::ops::RangeInclusive<u64> = 32..=37;

/// Reads the name of the cluster.
pub fn name(cluster: &Table, mistakes: &mut Mistakes) -> String {
    let Some(name) = cluster.text("name") else { return String::new() };
    if !names::is_label(name.is) {
        mistakes.add(
            &name.at,
            "a cluster's name has at most 63 characters of a-z, 0-9 and -, with no - at either end",
        );
    }
    name.is.to_string()
}

/// Reads the exact version of Kubernetes.
pub fn kubernetes(cluster: &Table, mistakes: &mut Mistakes) -> Version {
    let none = Version::new(1, *MINORS.end(), 0);
    let Some(text) = cluster.text("kubernetes") else { return none };
    let bare = text.is.strip_prefix('v').unwrap_or(text.is);
    let supported = format!("only 1.{} to 1.{} are", MINORS.start(), MINORS.end());
    let Ok(version) = Version::parse(bare) else {
        match Version::parse(&format!("{bare}.0")) {
            Ok(version) => {
                let help = format!("as in \"{version}\"; see https://kubernetes.io/releases/");
                mistakes.add_help(&text.at, "the version must be exact, with the patch release", help);
            }
            Err(_) => mistakes.add(&text.at, "this is not a version; write it as in \"1.36.3\""),
        }
        return none;
    };
    if !version.pre.is_empty() || !version.build.is_empty() {
        mistakes.add(&text.at, "there are packages only for releases, as in \"1.36.3\"");
    } else if version.major != 1 || !MINORS.contains(&version.minor) {
        let says = format!("Kubernetes {}.{} is not supported: {supported}", version.major, version.minor);
        mistakes.add(&text.at, says);
    }
    version
}

/// Reads the DNS domain of Services.
pub fn domain(cluster: &Table, mistakes: &mut Mistakes) -> String {
    let Some(domain) = cluster.text("domain") else { return String::new() };
    if !names::is_subdomain(domain.is) {
        mistakes.add(&domain.at, "a domain is a DNS name in lower case, as in \"cluster.local\"");
    }
    domain.is.to_string()
}

/// Reads the address at which clients find the API. By default it is a name that ironstrap manages.
pub fn endpoint(cluster: &Table, name: &str, mistakes: &mut Mistakes) -> Endpoint {
    let Some(text) = cluster.text("endpoint") else {
        return Endpoint { host: format!("api.{name}.internal"), port: 6443, managed: true };
    };
    let example =
        "an endpoint is a name or an address, with an optional port, as in \"k8s.example.com:6443\"";
    if text.is.contains("://") {
        mistakes.add_help(&text.at, example, "leave out the https://");
    } else if let Some((host, port)) = names::host_and_port(text.is)
        && names::is_host(host)
    {
        return Endpoint { host: host.to_lowercase(), port: port.unwrap_or(6443), managed: false };
    } else {
        mistakes.add(&text.at, example);
    }
    Endpoint { host: String::new(), port: 6443, managed: false }
}

/// Reads more names for the API server's certificate.
pub fn api_names(cluster: &Table, mistakes: &mut Mistakes) -> Vec<String> {
    let names = cluster.texts("api-names");
    for name in &names {
        let plain = name.is.strip_prefix("*.").unwrap_or(name.is);
        let wildcard_address = plain != name.is && plain.parse::<IpAddr>().is_ok();
        if !names::is_host(plain) || wildcard_address {
            mistakes
                .add(&name.at, "this is neither an address nor a DNS name nor a wildcard (*.example.com)");
        }
    }
    strings(names)
}

/// Reads the repository of the Kubernetes images.
pub fn image_repository(cluster: &Table, mistakes: &mut Mistakes) -> String {
    let Some(text) = cluster.text("image-repository") else { return String::new() };
    let says = "a repository is a registry with an optional path, as in \"registry.example.com/k8s\"";
    if text.is.contains("://") {
        mistakes.add_help(&text.at, says, "leave out the https://");
    } else if text.is.ends_with('/') {
        mistakes.add_help(&text.at, says, "leave out the / at the end");
    } else if !names::is_repository(text.is) {
        mistakes.add(&text.at, says);
    }
    text.is.to_string()
}

/// Reads the names of preflight checks whose failure is only a warning.
pub fn ignore_preflight(cluster: &Table, mistakes: &mut Mistakes) -> Vec<String> {
    let checks = cluster.texts("ignore-preflight");
    for check in &checks {
        if !kubeadm_checks::is_known(check.is) {
            let says = "there is no preflight check with this name";
            let help = match nearest(check.is, kubeadm_checks::names()) {
                Some(meant) => format!("did you mean {meant:?}? docs/preflight.md lists the names"),
                None => "docs/preflight.md lists the names".into(),
            };
            mistakes.add_help(&check.at, says, help);
        } else if check.is.eq_ignore_ascii_case(kubeadm_checks::ALL) && checks.len() > 1 {
            mistakes.add(
                &check.at,
                "\"all\" must be the only entry: kubeadm refuses it together with other checks",
            );
        }
    }
    strings(checks)
}

/// The texts without the places where they are written.
pub fn strings(texts: Vec<Text>) -> Vec<String> {
    texts.into_iter().map(|text| text.is.to_string()).collect()
}
