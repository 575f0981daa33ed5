//! The settings of the inventory for the hosts of registries: how to verify their certificates, and which login each host
//! gets. A registry can redirect a machine to any host. Therefore each setting belongs to one scheme and host.

use std::collections::BTreeMap;

use crate::cluster::{Cluster, Registry, authority};
use crate::shell::{Sh, sh};

/// How to verify the certificate of a registry. Later variants are stricter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Look {
    Any,
    /// Verify it with a CA of the inventory: the CA of the registry with this index.
    Authority(usize),
    Check,
}

impl Look {
    pub fn shell(self) -> Sh {
        match self {
            Look::Any => Sh::raw("any"),
            Look::Authority(n) => sh!("\"$d/ca-{n}\"", n),
            Look::Check => Sh::raw("check"),
        }
    }
}

/// How containerd verifies the certificate of this mirror of a registry.
pub fn look(cluster: &Cluster, registry: &Registry, url: &str) -> Look {
    let same = |other: &Registry| other.ca.is_some() && other.ca == registry.ca;
    match cluster.registries.iter().position(same) {
        _ if url.starts_with("http://") => Look::Check,
        _ if registry.skip_verify => Look::Any,
        Some(n) => Look::Authority(n),
        None => Look::Check,
    }
}

/// Scheme and host of a URL.
fn site(url: &str) -> String {
    let (scheme, _) = url.split_once("://").unwrap_or_default();
    format!("{scheme}://{}", authority(url))
}

/// Shell that writes the CAs of registries into the folder of the question, beside its other files.
pub fn authorities(cluster: &Cluster) -> Sh {
    let all = cluster.registries.iter().enumerate();
    let all = all.filter_map(|(n, registry)| Some((n, registry.ca.as_ref()?)));
    all.map(|(n, ca)| sh!("printf %s {ca} >\"$d/ca-{n}\"\n", ca, n)).collect()
}

/// Shell that defines `registry_user` and `registry_tls_of`. printf is built into the shell, so its arguments appear on no
/// command line.
pub fn sites(cluster: &Cluster) -> Sh {
    let mirrors = || {
        let of = |registry: &'_ Registry| {
            let looked = |url: &String| (site(url), look(cluster, registry, url), registry.login.clone());
            registry.mirrors.iter().map(looked).collect::<Vec<_>>()
        };
        cluster.registries.iter().flat_map(of)
    };
    let logins = mirrors().filter_map(|(site, look, login)| {
        let login = login?;
        let both = format!("{}:{}", login.user, login.password.reveal());
        Some(sh!("  {site}' '{tls}) printf %s {both} ;;\n", site, tls = look.shell(), both))
    });
    let logins: Sh = logins.collect();
    let hosts = cluster.registry_logins().into_keys();
    let others: Sh = hosts.map(|host| sh!("  *://{host}' '*) return 1 ;;\n", host)).collect();
    let mut looks = BTreeMap::new();
    for (site, look, _) in mirrors() {
        let strictest = looks.entry(site).or_insert(look);
        *strictest = look.max(*strictest);
    }
    let line = |(site, look): (String, Look)| sh!("  {site}) set -- {tls} ;;\n", site, tls = look.shell());
    let looks: Sh = looks.into_iter().map(line).collect();
    sh!(
        "registry_user() {\n  case \"$1 $2\" in\n{logins}{others}  esac\n}\n\
         registry_tls_of() {\n  case $1 in\n{looks}  *) set -- check ;;\n  esac\n  printf '%s\\n' \"$1\"\n}\n",
        logins,
        others,
        looks
    )
}
