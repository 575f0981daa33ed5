//! How a machine finds others: its default route, its name servers and its proxies. `active_checks` tries from outside,
//! with all machines together, whether the machine then reaches them.

use super::named;
use crate::cluster::{Cluster, Node, Proxy, login};
use crate::shell::sh;
use crate::step::{Ask, Cx, Verdict, Want};

pub(super) fn wants(cx: &Cx) -> Vec<Want> {
    let (cluster, node) = (cx.cluster, cx.node);
    vec![
        named(cluster, "DefaultRoute", default_route(node)),
        one_card(node, cx.machine.addresses.get(&node.ip).cloned()),
        named(cluster, "ResolvConf", name_servers(cluster)),
        many_names(cluster).only(!cx.machine.is_member()),
        proxies(cluster.proxy.clone()),
    ]
}

fn routes(node: &Node) -> Ask {
    let family = if node.ip.is_ipv4() { 4_u8 } else { 6 };
    Ask::OnlyBeforeJoin(sh!("command -v ip >/dev/null || not_here\nip -{family} route show default", family))
}

/// The want that there is a default route. No machine has the address of a Service. Packets to it leave by the default
/// route until the kernel gives them another destination.
fn default_route(node: &Node) -> Want {
    Want::new("preflight.default-route", "there is a default route")
        .ask(routes(node))
        .passes("a default route", |routes| !routes.is_empty())
        .by_hand(
            "add one, because without it the machine cannot reach Services: ip route add default via GATEWAY; if there is no \
             gateway, use a dummy interface: ip link add dummy0 type dummy; ip link set dummy0 up; ip route add default dev dummy0 metric 4096",
        )
}

/// Notes that the cluster's network is not the one that leads outside. On a machine with several networks, that is common,
/// and sometimes a mistake.
fn one_card(node: &Node, card: Option<String>) -> Want {
    let ip = node.ip;
    Want::new("preflight.cluster-network", "whether the default route uses the interface with the cluster address").ask(routes(node)).judged(move |routes| {
        let Some(card) = card.as_deref() else { return Verdict::Holds };
        let leads = |route: &str| route.split_whitespace().skip_while(|word| *word != "dev").nth(1) == Some(card);
        match routes.is_empty() || routes.lines().any(leads) {
            true => Verdict::Holds,
            false => Verdict::Noted(format!(
                "the machine has several networks: its cluster address {ip} is on {card}, but its default route is not; \
                 to use another address, set `ip` of the node"
            )),
        }
    })
}

/// Asks for the file of name servers that the kubelet hands to pods. The inventory may name it. Otherwise, on a member, the
/// kubelet's configuration names it. kubeadm makes the kubelet take the file of systemd-resolved if that runs.
fn resolv_conf(cluster: &Cluster) -> Ask {
    let ours = cluster.kubelet.get("resolvConf").and_then(|path| path.as_str());
    let file = match ours {
        Some(path) => sh!("f={path}\n", path),
        None => RESOLV_CONF.into(),
    };
    Ask::Shell(sh!(
        "{file}[ -n \"$f\" ] || not_here\n[ -e \"$f\" ] || { echo \"no $f\"; exit 0; }\n\
         echo \"in $f\"\nawk '$1 == \"nameserver\" { print $1, $2 } $1 == \"search\"' \"$f\"",
        file
    ))
}

const RESOLV_CONF: &str = r#"f=/etc/resolv.conf
if [ -e /var/lib/kubelet/config.yaml ]; then
  while read -r key value; do [ "$key" != resolvConf: ] || f=$value; done </var/lib/kubelet/config.yaml
elif systemctl is-active -q systemd-resolved; then f=/run/systemd/resolve/resolv.conf
fi
"#;

/// The want that pods get name servers that they can reach. CoreDNS asks the name servers of its machine. If such a server
/// is the machine itself, it is CoreDNS, which then asks itself.
fn name_servers(cluster: &Cluster) -> Want {
    Want::new("preflight.name-servers", "pods get name servers that they can reach")
        .ask(resolv_conf(cluster))
        .judged(|answer| {
            let (file, lines) = answer.split_once('\n').unwrap_or((answer, ""));
            let servers: Vec<&str> = lines.lines().filter_map(|line| line.strip_prefix("nameserver ")).collect();
            let itself = |server: &&str| server.starts_with("127.") || *server == "::1";
            let have = match file.starts_with("in ") {
                false => file.to_string(),
                true if !servers.is_empty() && servers.iter().all(itself) => {
                    format!("only {} {file}", servers.join(", "))
                }
                true => return Verdict::Holds,
            };
            Verdict::Differs { have, want: "a name server that is not the machine itself".into() }
        })
        .by_hand(
            "name a server that pods can reach: echo nameserver ADDRESS >/etc/kubernetes-resolv.conf on the machine, and \
             resolvConf = \"/etc/kubernetes-resolv.conf\" under [kubelet] in the inventory",
        )
}

/// Notes what the kubelet cuts off (`MaxDNSNameservers`, `MaxDNSSearchPaths`). It also notes that there is no name server
/// at all.
fn many_names(cluster: &Cluster) -> Want {
    Want::new("preflight.name-server-limits", "whether pods get all name servers and search domains")
        .ask(resolv_conf(cluster))
        .judged(|answer| {
            let of =
                |word: &str| answer.lines().filter_map(|line| line.strip_prefix(word)).collect::<Vec<&str>>();
            let servers = of("nameserver ").len();
            // Only the last such line counts.
            let domains = of("search ").last().map_or(0, |line| line.split_whitespace().count());
            let mut notes = Vec::new();
            match servers {
                0 => notes.push(
                    "resolv.conf has no name server: pods cannot resolve names outside the cluster"
                        .to_string(),
                ),
                1..=3 => {}
                _ => notes.push(format!("resolv.conf has {servers} name servers: pods get only the first 3")),
            }
            if domains > 32 {
                notes.push(format!("resolv.conf has {domains} search domains: pods get only 32"));
            }
            if notes.is_empty() { Verdict::Holds } else { Verdict::Noted(notes.join("; ")) }
        })
}

/// Notes proxies that the inventory does not name. If a machine's own programs use a proxy, it can hardly pull images
/// without one. Passwords stay on the machine. A proxy of apt's own configuration wins over the one that ironstrap gives it
/// (apt, methods/http.cc, `HttpServerState::Open`).
fn proxies(ours: Proxy) -> Want {
    Want::new("preflight.proxy", "whether the machine uses a proxy that is not in the inventory")
        .ask(Ask::OnlyBeforeJoin(PROXIES.into()))
        .judged(move |answer| others(answer, &ours))
}

fn others(answer: &str, ours: &Proxy) -> Verdict {
    let plain = |url: &str| login(url).0.trim_end_matches('/').to_string();
    let named = [&ours.http, &ours.https].map(|url| plain(url));
    if named.iter().all(String::is_empty) {
        return match answer {
            "" => Verdict::Holds,
            lines => Verdict::Noted(format!(
                "the machine uses a proxy, but the inventory has none, so images are pulled without it ({}); set http and https under [proxy]",
                lines.replace('\n', "; ")
            )),
        };
    }
    let of_apt = answer.lines().filter_map(|line| line.strip_prefix("apt uses "));
    let other: Vec<&str> = of_apt.filter(|url| !named.contains(&plain(url))).collect();
    match other.is_empty() {
        true => Verdict::Holds,
        false => Verdict::Noted(format!(
            "apt uses {} instead of the proxy of the inventory, because its own configuration comes first (apt-config dump Acquire)",
            other.join(", ")
        )),
    }
}

const PROXIES: &str = r#"{
  [ ! -r /etc/environment ] || sed -nE 's/^(export +)?((http|https|HTTP|HTTPS)_(proxy|PROXY)=.*)/\2 in \/etc\/environment/p' /etc/environment
  p= q=
  ! command -v apt-config >/dev/null || eval "$(apt-config shell p Acquire::http::Proxy q Acquire::https::Proxy)"
  for p in $p $q; do [ "$p" = DIRECT ] || echo "apt uses $p"; done
} | sed -E 's#//[^/@ ]*@#//#g' | sort -u"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_of_apt_outside_the_inventory_is_noted() {
        let proxy = |http: &str, https: &str| Proxy { http: http.into(), https: https.into(), no: vec![] };
        let none = Proxy::default();
        let noted = |answer: &str, ours: &Proxy| matches!(others(answer, ours), Verdict::Noted(_));
        let apt = "apt uses http://proxy.example:3128";
        assert!(
            !noted("", &none) && noted(apt, &none) && noted("http_proxy=http://x in /etc/environment", &none)
        );
        for ours in [
            proxy("http://proxy.example:3128", ""),
            proxy("http://me:secret@proxy.example:3128/", ""),
            proxy("", "http://proxy.example:3128"),
        ] {
            assert!(!noted(apt, &ours), "{ours:?}");
        }
        let ours = proxy("http://other.example:3128", "");
        assert!(!noted("", &ours) && !noted("http_proxy=http://x in /etc/environment", &ours));
        let Verdict::Noted(note) = others(apt, &ours) else { panic!() };
        assert!(note.starts_with("apt uses http://proxy.example:3128 instead of the proxy of the inventory"));
    }
}
