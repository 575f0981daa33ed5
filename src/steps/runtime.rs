//! runtime: containerd uses the systemd cgroup driver, and understands its configuration as it is meant.

use serde_json::json;

use crate::cluster::{Cluster, Login, Registry};
use crate::error::{Error, Kind, Result};
use crate::shell::{REMAINS, Sh, environment, sh};
use crate::step::{Ask, Back, Cx, Step, Undo, Want};
use crate::steps::programs;
use crate::template;

mod images;
mod registries;

pub const STEP: Step = Step {
    name: "runtime",
    why: "containers need a runtime that shares one cgroup tree with systemd and the kubelet",
    wants,
};

const CONFIG: &str = "/etc/containerd/config.toml";
const CRI: &str = "io.containerd.grpc.v1.cri";
const CERTS: &str = "/etc/containerd/certs.d";
const PROXY: &str = "/etc/systemd/system/containerd.service.d/ironstrap-proxy.conf";
/// The file that the drop-in names, which only root can read. The address of a proxy may have a password in it. `systemctl
/// show` shows the text of a unit to everybody.
const PROXY_VARIABLES: &str = "/etc/ironstrap/proxy.env";
/// The oldest version of containerd that will do. Older ones use another variant of the CRI than the kubelet.
const OLDEST: (u64, u64) = (1, 7);

fn wants(cx: &Cx) -> Result<Vec<Want>> {
    let cluster = cx.cluster;
    // The configuration is there before the package. So containerd starts with it, and needs no restart.
    let (that, text) = ("containerd's configuration matches the inventory", config(cluster)?);
    let mut wants = vec![match cluster.registry_logins().is_empty() {
        true => Want::file("runtime.config", that, CONFIG, 0o644, &text).allow_narrower_mode(),
        false => Want::secret_file("runtime.config", that, CONFIG, 0o600, &text).allow_narrower_mode(),
    }];
    for registry in &cluster.registries {
        wants.extend(mirrors(registry)?);
    }
    wants.extend(registries::wants(cluster));
    wants.extend(proxy(cluster));
    wants.push(
        Want::new("runtime.packages", "containerd is installed and held")
            .ask(Ask::Packages(vec!["containerd".into()]))
            .passes(format!("containerd {}.{} or newer, held", OLDEST.0, OLDEST.1), is_installed)
            .run_as_unit("runtime", 20, install(cluster))
            .undone_by(Undo::Back(uninstalled())),
    );
    wants.push(
        programs::want("runtime.programs", "containerd", "runtime", update(cluster))
            .touches(&["/usr/bin/containerd"]),
    );
    wants.push(programs::want("runtime.programs", "runc", "runtime", update(cluster)));
    wants.push(programs::first());
    wants.push(programs::starts(cx, "runtime.unit-files", "containerd"));
    wants.push(Want::unit_runs(
        "runtime.unit",
        "containerd",
        &[CONFIG, PROXY, PROXY_VARIABLES, "/usr/bin/containerd"],
    ));
    wants.push(
        Want::new("runtime.socket", "containerd is reachable at its socket")
            .ask(REACHED)
            .is("")
            .run("systemctl restart containerd\nstays_active containerd")
            .nothing_to_undo("it is made when containerd starts")
            .disrupts(),
    );
    // containerd ignores a key that it does not know, and 2.x keeps this one in another table. So the want asks what
    // containerd made of the file, not what the file says.
    wants.push(
        Want::new("runtime.config-in-use", "containerd reads its configuration as intended")
            .ask(DUMP)
            .is(understood(cluster))
            .nothing_to_undo("it is checked, not changed"),
    );
    wants.extend(images::want(cluster));
    Ok(wants)
}

/// The folders in which a containerd that ironstrap installed keeps what it runs. A containerd that was there before keeps
/// its folders.
const DATA: Sh = Sh::raw("/var/lib/containerd /opt/containerd /run/containerd");

fn uninstalled() -> Back {
    let back = Back::packages("runtime", &["containerd"]);
    let keep = sh!(
        "{keep}\nfor d in {DATA}; do\n  [ -z \"$(ls -A \"$d\" 2>/dev/null)\" ] || echo \"data $d\"\n  \
         [ ! -e \"$d\" ] || stat -L -c 'folder %n\nmode %n %a %u:%g' \"$d\"\ndone",
        keep = back.keep,
        DATA
    );
    // A reset unmounts what containerd had mounted. It deletes nothing in a folder in which others had data. containerd
    // closes its folders to other users, even those that were there before, so the script restores their modes.
    let script = sh!(
        "{REMAINS}{OTHERS}{script}\n[ ! -e /usr/bin/containerd ] || exit 0\nfor d in {DATA}; do\n  \
         grep -qx \"data $d\" \"$kept\" || { unmounted \"$d\"; empty \"$d\"; }\n  grep -qx \"folder $d\" \"$kept\" || rmdir \"$d\" 2>/dev/null || :\n  \
         sed -n \"s,^mode $d ,,p\" \"$kept\" | while read -r mode owner; do [ ! -d \"$d\" ] || { chown \"$owner\" \"$d\"; chmod \"$mode\" \"$d\"; }; done\ndone",
        REMAINS,
        OTHERS,
        script = back.script,
        DATA
    );
    back.keep(keep).script(script)
}

/// Shell that keeps a containerd that ironstrap installed, if it runs containers that are not Kubernetes'.
const OTHERS: Sh = Sh::raw(
    r#"others=
if systemctl is-active -q containerd; then
  for n in $(timeout 30 ctr namespaces ls -q); do
    [ "$n" = k8s.io ] || [ -z "$(timeout 30 ctr -n "$n" containers ls -q)" ] || others="$others $n"
  done
fi
for n in $(shims | cut -d ' ' -f 2 | sort -u); do
  case "$others " in *" $n "*) ;; *) [ "$n" = k8s.io ] || others="$others $n" ;; esac
done
if [ -n "$others" ] && grep -q absent "$was"; then
  echo "containerd stays: it runs containers in these namespaces:$others"
  apt-mark unhold containerd >/dev/null
  exit 0
fi
"#,
);

/// Prints a line if the socket's file is gone while containerd listens there. A socket with a listener (00010000) has the
/// name that it was given, wherever its file is by then. Another want asks whether containerd runs at all.
const REACHED: &str = "s=/run/containerd/containerd.sock\n[ -S $s ] || ! grep -q \" 00010000 .* $s\\$\" /proc/net/unix || echo \"$s is missing, but containerd listens there\"";

const DUMP: &str = concat!(include_str!("../../templates/containerd-config.sh"), "containerd_config");

/// The output of `DUMP` for the right configuration.
fn understood(cluster: &Cluster) -> String {
    let logins = cluster.registry_logins().into_keys().map(|host| format!("\nlogin at {host}"));
    format!("SystemdCgroup = true\n{}\n/opt/cni/bin{}", cluster.pause_image(), logins.collect::<String>())
}

fn config(cluster: &Cluster) -> Result<String> {
    let text = template::render("containerd.toml", json!({"pause": cluster.pause_image()}))?;
    let wrong = |e: String| Error::new(Kind::Local, "cannot render containerd's configuration").because(e);
    let mut config: toml::Table = toml::from_str(&text).map_err(|e| wrong(e.to_string()))?;
    template::merge_toml(&mut config, &cluster.containerd);
    template::merge_toml(&mut config, &logins(cluster));
    let text = toml::to_string(&config).map_err(|e| wrong(e.to_string()))?;
    Ok(format!("# Kept by ironstrap: its own settings, and [containerd] of the inventory over them.\n{text}"))
}

/// The logins of registries, as a table for containerd's configuration. hosts.toml has no place for a login. containerd uses
/// those of its configuration even if `config_path` is set: 1.7 (pkg/cri/server/image_pull.go, `registryHosts`), 2.0 to 2.3
/// (internal/cri/server/images/image_pull.go, `PullImage`). From 2.1 on, such a table makes containerd pull by itself, not by
/// its transfer service. That is as good.
fn logins(cluster: &Cluster) -> toml::Table {
    let text = |text: &str| toml::Value::String(text.into());
    let table =
        |name: &str, value: toml::Table| toml::Table::from_iter([(name.into(), toml::Value::Table(value))]);
    let auth = |login: &Login| {
        toml::Table::from_iter([
            ("username".into(), text(&login.user)),
            ("password".into(), text(login.password.reveal())),
        ])
    };
    let logins = cluster.registry_logins().into_iter();
    let configs: toml::Table =
        logins.map(|(host, login)| (host.to_string(), table("auth", auth(login)).into())).collect();
    match configs.is_empty() {
        true => toml::Table::new(),
        false => table("plugins", table(CRI, table("registry", table("configs", configs)))),
    }
}

/// Whether the URL is that of a project of a registry, which stands for another registry. Harbor's
/// `https://harbor.example.com/v2/dockerhub` is one. containerd must not put another `/v2` behind it (containerd,
/// docs/hosts.md, `override_path`).
pub fn has_api_path(url: &str) -> bool {
    let path = url.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map_or("", |(_, path)| path);
    path.strip_prefix("v2/").is_some_and(|rest| !rest.trim_matches('/').is_empty())
}

fn mirrors(registry: &Registry) -> Result<Vec<Want>> {
    let host = &registry.host;
    let ca = registry.ca.as_ref().map(|_| format!("{CERTS}/{host}/ca.crt"));
    // Without a fallback the mirror stands in for the registry itself. An image that the mirror lacks is then missing at
    // once.
    let server = if registry.fallback { "" } else { registry.mirrors.first().map_or("", String::as_str) };
    let mirror = |url: &String| json!({"url": url, "override_path": has_api_path(url)});
    let values = json!({
        "server": server, "override_path": has_api_path(server),
        "mirrors": registry.mirrors.iter().map(mirror).collect::<Vec<_>>(),
        "ca": ca.clone().unwrap_or_default(), "skip_verify": registry.skip_verify,
    });
    let text = template::render("hosts.toml", values)?;
    let (from, whose) = match registry.is_direct() {
        true => ("that registry itself".to_string(), host.clone()),
        false => ("its mirrors".to_string(), format!("the mirrors of {host}")),
    };
    let that = format!("images of {host} come from {from}");
    let path = format!("{CERTS}/{host}/hosts.toml");
    let hosts = Want::file("runtime.mirrors", that, &path, 0o644, &text).of(host).allow_narrower_mode();
    let ca = ca.zip(registry.ca.as_ref()).map(|(path, text)| {
        Want::file("runtime.registry-ca", format!("containerd trusts {whose}"), &path, 0o644, text)
            .of(host)
            .allow_narrower_mode()
    });
    Ok(std::iter::once(hosts).chain(ca).collect())
}

/// The wants for the proxy. Image pulls go through the proxy, and the cluster's own traffic does not. The text of an older
/// ironstrap's drop-in may have a password in it, so it does not leave the machine.
fn proxy(cluster: &Cluster) -> [Want; 2] {
    let variables = cluster.proxy_variables();
    if variables.is_empty() {
        return [
            Want::no_file("runtime.proxy-variables", "no proxy variables are left", PROXY_VARIABLES),
            Want::no_file("runtime.proxy", "containerd uses no proxy", PROXY),
        ];
    }
    let lines: String = variables.iter().map(|(name, value)| environment(name, value)).collect();
    let drop_in = format!("# Kept by ironstrap: [proxy].\n[Service]\nEnvironmentFile={PROXY_VARIABLES}\n");
    [
        Want::secret_file(
            "runtime.proxy-variables",
            "only root can read the proxy variables",
            PROXY_VARIABLES,
            0o600,
            &lines,
        ),
        Want::secret_file("runtime.proxy", "containerd uses the proxy", PROXY, 0o644, &drop_in),
    ]
}

fn is_installed(state: &str) -> bool {
    let mut words = state.split_whitespace().skip(1);
    let (status, version) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut numbers = version.split(['.', '~', '-', '+']).map(|n| n.parse::<u64>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    status == "hi" && version >= OLDEST
}

fn install(cluster: &Cluster) -> Sh {
    update(cluster) + "pkg_install runtime containerd\napt-mark hold containerd >/dev/null"
}

/// Shell that makes apt read its sources, through the proxies of the inventory. If the inventory ignores the check `Sources`,
/// a source that cannot be read is no error. The packages may come from the others.
pub(super) fn update(cluster: &Cluster) -> Sh {
    exports(cluster) + if cluster.ignores("Sources") { "apt_get update || :\n" } else { "apt_get update\n" }
}

/// Lines of shell that set the proxies of the inventory.
fn exports(cluster: &Cluster) -> Sh {
    let line =
        |(key, value): (&'static str, String)| sh!("export {key}={value}\n", key = Sh::raw(key), value);
    cluster.proxy_variables().into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mirror_with_a_project_path_keeps_its_path() {
        for url in ["https://harbor.example.com/v2/dockerhub", "http://198.18.0.1:5000/v2/a/b/"] {
            assert!(has_api_path(url), "{url}");
        }
        for url in [
            "https://m.example.com",
            "https://m.example.com/v2",
            "https://m.example.com/v2/",
            "https://m/x",
            "",
        ] {
            assert!(!has_api_path(url), "{url}");
        }
        let mirrors = vec!["https://a.example/v2/hub".to_string(), "https://b.example".to_string()];
        let registry = Registry {
            host: "docker.io".into(),
            mirrors,
            fallback: false,
            ca: None,
            skip_verify: false,
            login: None,
        };
        let wants = super::mirrors(&registry).unwrap();
        let text = format!("{:?}", wants[0].fix);
        assert_eq!(
            text.matches("override_path = true").count(),
            2,
            "the server and its mirror both set it: {text}"
        );
    }

    #[test]
    fn old_broken_and_unheld_containerds_are_not_accepted() {
        assert!(is_installed("containerd hi 1.7.24~ds1-6+b4"));
        assert!(is_installed("containerd hi 2.1.9-1"));
        for state in [
            "containerd absent",
            "containerd ii 1.7.24~ds1-6",
            "containerd hi 1.6.20~ds1-1",
            "containerd iU 1.7.24",
            "containerd hF 1.7.24",
        ] {
            assert!(!is_installed(state), "{state}");
        }
    }

    #[test]
    fn logins_are_configured_for_the_requested_host() {
        let mut cluster = crate::pki::tests::cluster();
        let login = |user: &str| Some(Login { user: user.into(), password: "sesame\"open".into() });
        let registry = |host: &str, mirrors: &[&str], login| Registry {
            host: host.into(),
            mirrors: mirrors.iter().map(|url| url.to_string()).collect(),
            fallback: false,
            ca: None,
            skip_verify: false,
            login,
        };
        let own = crate::cluster::direct("docker.io");
        cluster.registries = vec![
            registry("docker.io", &[&own], login("me")),
            registry("quay.io", &["https://harbor.example.com:8443/v2/quay"], login("robot$quay")),
            registry("ghcr.io", &["https://open.example.com"], None),
        ];
        let text = config(&cluster).unwrap();
        let read: toml::Table = toml::from_str(&text).unwrap();
        let registry = &read["plugins"][CRI]["registry"];
        assert_eq!(registry["config_path"].as_str(), Some(CERTS));
        let configs = registry["configs"].as_table().unwrap();
        let hosts: Vec<&String> = configs.keys().collect();
        assert_eq!(hosts, ["harbor.example.com:8443", "registry-1.docker.io"]);
        let auth = &configs["harbor.example.com:8443"]["auth"];
        assert_eq!(auth["username"].as_str(), Some("robot$quay"));
        assert_eq!(auth["password"].as_str(), Some("sesame\"open"));
        assert!(!crate::secret::hide(&text).contains("open\""), "a password that was removed stays hidden");
        let logins = "\nlogin at harbor.example.com:8443\nlogin at registry-1.docker.io";
        assert!(understood(&cluster).ends_with(logins));
    }
}
