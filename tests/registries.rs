//! Before anything is changed a machine asks a registry for what containerd will pull: here a registry on loopback, with a login
//! of both kinds, and the scripts that machines run.

// clippy sees no test in what the tests share.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs::Permissions;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ironstrap::cluster::Cluster;
use ironstrap::inventory;
use ironstrap::probe::Answer;
use ironstrap::step::Ask;
use ironstrap::trial;

use common::pipe;

const PASSWORD: &str = "it's $open: 7";

/// A registry: `/v2/basic` lets in with Basic, `/v2/bearer` with a token, `/v2/moved` is elsewhere, `/v2/closed` never does.
/// Keeps the first line of each request and its credentials.
fn registry() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let to = heard.clone();
    std::thread::spawn(move || listener.incoming().for_each(|guest| serve(guest.unwrap(), port, &to)));
    (port, heard)
}

fn serve(mut guest: TcpStream, port: u16, heard: &Mutex<Vec<String>>) {
    let lines = BufReader::new(guest.try_clone().unwrap()).lines();
    let lines: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let login = lines.iter().find_map(|line| line.strip_prefix("Authorization: ")).unwrap_or_default();
    let Some(first) = lines.first() else { return };
    heard.lock().unwrap().push(format!("{first} {login}"));
    let path = first.split(' ').nth(1).unwrap();
    let robot = format!("Basic {}", BASE64_STANDARD.encode(format!("robot$x:{PASSWORD}")));
    let bearer = format!(
        "401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"http://127.0.0.1:{port}/token\",service=\"a registry\""
    );
    let (head, body) = match path {
        _ if path.starts_with("/token?") && login != robot && !login.is_empty() => ("401 No".into(), ""),
        _ if path.starts_with("/token?") => (
            "200 OK\r\nTransfer-Encoding: chunked".into(),
            "9\r\n{\"token\":\r\nb\r\n \"to.ke-n\"}\r\n0\r\n\r\n",
        ),
        _ if path.starts_with("/v2/moved/") => {
            ("307 There\r\nLocation: /v2/basic/pause/manifests/1?sig=s".into(), "")
        }
        _ if path.starts_with("/v2/basic/") && login == robot => ("200 OK".into(), ""),
        _ if path.starts_with("/v2/basic/") => {
            ("401 Unauthorized\r\nwww-authenticate: Basic realm=\"x\"".into(), "")
        }
        _ if path.starts_with("/v2/bearer/") && login == "Bearer to.ke-n" => ("200 OK".into(), ""),
        _ if path.starts_with("/v2/bearer/") || path.starts_with("/v2/closed/") => (bearer, ""),
        _ if path.starts_with("/v2/busy/") => ("429 Too Many Requests".into(), ""),
        _ => ("404 Not Found".into(), ""),
    };
    let _ = guest.write_all(format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n{body}").as_bytes());
}

fn cluster(port: u16, project: &str, password: Option<&str>) -> Cluster {
    let login = password.map(|password| format!("user = 'robot$x'\npassword = {password:?}\n"));
    let text = format!(
        "[cluster]\nname = 'demo'\nkubernetes = '1.36.3'\nnetwork = 'none'\n[registries.'registry.k8s.io']\n\
         mirrors = ['http://127.0.0.1:{port}/v2/{project}']\nfallback = false\n{}\
         [nodes.m1]\naddress = '198.18.0.11'\nrole = 'control-plane'\n",
        login.unwrap_or_default()
    );
    inventory::parse(&text, Path::new("demo.toml")).unwrap_or_else(|error| panic!("{error}"))
}

/// What one machine says of its registries, by each shell, and what is told of it.
fn told(cluster: &Cluster) -> String {
    let root = tempfile::tempdir().unwrap();
    let helper = root.path().join("apt-helper");
    std::fs::write(&helper, "#!/bin/sh\nexit 0\n").unwrap();
    std::fs::set_permissions(&helper, Permissions::from_mode(0o755)).unwrap();
    std::fs::create_dir(root.path().join("tmp")).unwrap();
    let ask = trial::alone(cluster, &cluster.nodes[0], false).remove(1);
    let Ask::Shell(script) = ask else { panic!("{ask:?}") };
    let script = script.replace("/usr/lib/apt/apt-helper", &helper.display().to_string());
    let tmp = root.path().join("tmp").display().to_string();
    let script = format!("set -eu\nexport LC_ALL=C TMPDIR={tmp}\n{{ {script}\n}} </dev/null");
    let mut said = vec![];
    for shell in common::shells() {
        let output = pipe(Command::new(shell).arg("-s"), &script);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{shell}: {}", text(output.stderr));
        said.push(text(output.stdout));
        assert_eq!(std::fs::read_dir(&tmp).unwrap().count(), 0, "{shell} leaves files");
    }
    assert!(said.windows(2).all(|two| two[0] == two[1]), "{said:?}");
    let answers = [Answer::Said(String::new()), Answer::Said(said.remove(0))];
    let found = trial::judge_alone(cluster, &cluster.nodes[0], &answers);
    found
        .iter()
        .map(|misfit| format!("{} {}\n", if misfit.harmless { "warning" } else { "refused" }, misfit.error))
        .collect()
}

#[test]
fn a_login_lets_in_with_a_token_and_without_and_after_a_redirect() {
    let (port, heard) = registry();
    for project in ["basic", "bearer", "moved"] {
        assert_eq!(told(&cluster(port, project, Some(PASSWORD))), "", "{project}");
    }
    let heard = heard.lock().unwrap();
    let token = "GET /token?service=a%20registry&scope=repository:pause:pull HTTP/1.1 Basic ";
    assert!(heard.iter().any(|line| line.starts_with(token)), "{heard:#?}");
    assert!(
        heard.iter().any(|line| line.starts_with("HEAD /v2/bearer/pause/manifests/3.10.2 ")),
        "{heard:#?}"
    );
}

#[test]
fn what_is_wrong_with_a_login_or_a_path_is_named_with_its_url() {
    let (port, _) = registry();
    for (project, password, words) in [
        ("basic", None, "it wants a login (401)"),
        ("closed", None, "it wants a login (401)"),
        ("basic", Some("wrong-one-9"), "it refuses the login of robot$x (401)"),
        ("bearer", Some("wrong-one-9"), "/token refuses the login of robot$x"),
        ("closed", Some(PASSWORD), "robot$x may not pull it, or there is no such project or image (401)"),
        ("nowhere", Some(PASSWORD), "it has no such image (404)"),
    ] {
        let said = told(&cluster(port, project, password));
        assert!(
            said.starts_with("refused ") && said.contains("pause:3.10.2 cannot be pulled"),
            "{project}: {said}"
        );
        assert!(said.contains(words), "{project}: {said}");
        assert!(
            said.contains(&format!("http://127.0.0.1:{port}/v2/{project}/pause/manifests/3.10.2: ")),
            "{said}"
        );
        assert!(!said.contains("wrong-one-9") && !said.contains(PASSWORD), "{said}");
    }
    assert!(told(&cluster(port, "busy", Some(PASSWORD))).starts_with("warning "));
}
