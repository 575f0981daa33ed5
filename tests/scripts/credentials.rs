//! Only root can read credentials on machines: those in the URLs of proxies and of the package repository, and those
//! for registries. No file that others can read, no unit and no command line has them.

use std::path::Path;

use ironstrap::active_checks;
use ironstrap::cluster::Cluster;
use ironstrap::fleet::Fleet;
use ironstrap::inventory;
use ironstrap::machine::Machine;
use ironstrap::step::{Ask, Fix, Want};
use time::OffsetDateTime;

use crate::support::command::program;
use crate::support::{self, pki};

const SECRET: &str = "hunter2";

fn cluster() -> Cluster {
    let text = r#"
[cluster]
name = "demo"
kubernetes = "1.36.3"
[nodes.m1]
address = "198.18.0.11"
role = "control-plane"
[packages]
kubernetes = "https://ci:%40hunter2@packages.example.com/v{minor}/deb/"
[registries."docker.io"]
mirrors = ["https://mirror.example.com"]
user = "robot"
password = "/hunter2 'x"
[proxy]
http = "http://me:p%40hunter2$x@proxy.example.com:3128"
"#;
    inventory::parse(text, Path::new("demo.toml")).unwrap_or_else(|error| panic!("{error}"))
}

fn wants(cluster: &Cluster) -> Vec<Want> {
    let about = (&Machine::default(), &Fleet::default());
    let all = support::wants((cluster, &cluster.nodes[0]), &pki(cluster), about, OffsetDateTime::now_utc());
    all.into_iter().map(|(.., want)| want).collect()
}

#[test]
fn files_with_credentials_are_private_and_compared_by_hash() {
    let wants = wants(&cluster());
    let mut found = Vec::new();
    for want in &wants {
        let Fix::Write { path, mode, text: Some(text) } = &want.fix else { continue };
        if text.contains(SECRET) {
            assert_eq!(*mode, Some(0o600), "{path}");
            assert!(matches!(&want.ask, Ask::Hash(asked) if asked == path), "{path} is asked by its hash");
            found.push(path.as_str());
        }
    }
    found.sort_unstable();
    let right =
        ["/etc/apt/auth.conf.d/ironstrap.conf", "/etc/containerd/config.toml", "/etc/ironstrap/proxy.env"];
    assert_eq!(found, right);
    let text = |path: &str| {
        let is = |want: &&Want| matches!(&want.fix, Fix::Write { path: other, .. } if other == path);
        let Fix::Write { text: Some(text), .. } = &wants.iter().find(is).unwrap().fix else { panic!() };
        text.clone()
    };
    let line = "machine https://packages.example.com/v1.36/deb/ login ci password @hunter2\n";
    assert!(text(right[0]).ends_with(line), "{}", text(right[0]));
    let variable = "HTTP_PROXY=\"http://me:p%40hunter2\\$x@proxy.example.com:3128\"\n";
    assert!(text(right[2]).starts_with(variable), "{}", text(right[2]));
    let source = text("/etc/apt/sources.list.d/kubernetes.list");
    assert!(source.contains(" https://packages.example.com/v1.36/deb/ /\n"), "{source}");
    let drop_in = text("/etc/systemd/system/containerd.service.d/ironstrap-proxy.conf");
    assert!(drop_in.ends_with("[Service]\nEnvironmentFile=/etc/ironstrap/proxy.env\n"), "{drop_in}");
}

#[test]
fn files_without_credentials_keep_their_usual_mode() {
    let wants = wants(&support::lab());
    let mode = |end: &str| {
        let mode = |want: &Want| match &want.fix {
            Fix::Write { path, mode, .. } if path.ends_with(end) => *mode,
            _ => None,
        };
        wants.iter().find_map(mode)
    };
    assert_eq!((mode("/config.toml"), mode("/hosts.toml")), (Some(0o644), Some(0o644)));
    assert_eq!((mode("proxy.env"), mode("auth.conf.d/ironstrap.conf")), (None, None));
}

/// Every user can see command lines with `ps`. Here apt-helper records its arguments, and the file with the
/// credentials.
#[test]
fn no_command_line_has_a_credential() {
    let cluster = cluster();
    let root = tempfile::tempdir().unwrap();
    let helper = root.path().join("apt-helper");
    let ran = root.path().join("ran");
    program(
        &helper,
        &format!(
            "#!/bin/sh\necho \"$*\" >>{}\nfor x; do case $x in Dir::Etc::netrc=*) cat \"${{x#*=}}\" ;; esac; done >>{}.auth\nexit 1\n",
            ran.display(),
            ran.display()
        ),
    );
    for shell in support::shells() {
        for ask in active_checks::alone(&cluster, &cluster.nodes[0], false).into_iter().take(2) {
            let Ask::Shell(script) = ask else { panic!() };
            let script = script.replace("/usr/lib/apt/apt-helper", &helper.display().to_string());
            let output = support::run(shell, &format!("set -eu\n{{ {script}\n}} </dev/null"));
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(!said.contains(SECRET), "{shell}: {said}");
        }
    }
    let lines = std::fs::read_to_string(&ran).unwrap();
    assert!(lines.contains("download-file https://packages.example.com/v1.36/deb/Packages"), "{lines}");
    assert!(!lines.contains(SECRET), "{lines}");
    let auth = std::fs::read_to_string(format!("{}.auth", ran.display())).unwrap();
    assert!(auth.contains("login ci password @hunter2\n"), "{auth}");
    let key = wants(&cluster).into_iter().find(|want| want.id.to_string() == "kubelet.repository-key");
    let Fix::Run(fetch) = key.unwrap().fix else { panic!() };
    let lines: Vec<&str> = fetch.lines().filter(|line| line.contains(SECRET)).collect();
    assert!(lines.iter().all(|line| line.starts_with("export ")), "{lines:?}");
}
