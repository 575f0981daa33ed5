//! Before the first change, a machine asks its registries for the images that containerd will pull. These tests run the
//! script of that check against a registry on loopback with both kinds of login.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ironstrap::active_checks;
use ironstrap::cluster::Cluster;
use ironstrap::fleet::identity::Finding;
use ironstrap::inventory;
use ironstrap::step::{Answer, Ask};

use crate::support::command::command;
use crate::support::{self, pipe, tools};

const PASSWORD: &str = "it's $open: 7";

/// Starts a registry. `/v2/basic` accepts a Basic login and `/v2/bearer` a token. `/v2/moved` redirects, and
/// `/v2/closed` refuses everything. Keeps the first line of each request and its credentials.
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

/// The findings of one machine about its registries. Every shell must give the same answer.
fn findings(cluster: &Cluster) -> String {
    findings_with_openssl(cluster, "").0
}

/// The same with this script as openssl. Also returns what the script wrote into `$LOG`.
fn findings_with_openssl(cluster: &Cluster, openssl: &str) -> (String, String) {
    let root = tempfile::tempdir().unwrap();
    let helper = root.path().join("apt-helper");
    command(&helper, "exit 0\n");
    std::fs::create_dir(root.path().join("tmp")).unwrap();
    let ask = active_checks::alone(cluster, &cluster.nodes[0], false).remove(1);
    let Ask::Shell(script) = ask else { panic!("{ask:?}") };
    let script = script.replace("/usr/lib/apt/apt-helper", &helper.display().to_string());
    let tmp = root.path().join("tmp").display().to_string();
    let log = root.path().join("log");
    let mut path = tools::path().to_string();
    if !openssl.is_empty() {
        let bin = root.path().join("bin");
        command(&bin.join("openssl"), openssl);
        path = format!("{}:{path}", bin.display());
    }
    let script = format!(
        "set -eu\nexport LC_ALL=C TMPDIR={tmp} LOG={} PATH='{path}'\n{{ {script}\n}} </dev/null",
        log.display()
    );
    let mut said = vec![];
    for shell in support::shells() {
        let output = pipe(Command::new(shell).arg("-s"), &script);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{shell}: {}", text(output.stderr));
        said.push(text(output.stdout));
        assert_eq!(std::fs::read_dir(&tmp).unwrap().count(), 0, "{shell} leaves files");
    }
    assert!(said.windows(2).all(|two| two[0] == two[1]), "{said:?}");
    let answers = [Answer::Said(String::new()), Answer::Said(said.remove(0))];
    let found = active_checks::judge_alone(cluster, &cluster.nodes[0], &answers);
    let line = |finding: &Finding| {
        format!("{} {}\n", if finding.harmless { "warning" } else { "refused" }, finding.error)
    };
    (found.iter().map(line).collect(), std::fs::read_to_string(log).unwrap_or_default())
}

/// A cluster with these tables of registries. All its images come from registry.k8s.io.
fn with_registries(tables: &str) -> Cluster {
    let text = format!(
        "[cluster]\nname = 'demo'\nkubernetes = '1.36.3'\nnetwork = 'none'\n[kubeadm.proxy]\ndisabled = true\n{tables}\
         [nodes.m1]\naddress = '198.18.0.11'\nrole = 'control-plane'\n"
    );
    inventory::parse(&text, Path::new("demo.toml")).unwrap_or_else(|error| panic!("{error}"))
}

/// The table of one registry. With `login` it has the login of `robot$x`.
fn table(of: &str, mirror: &str, login: bool, more: &str) -> String {
    let login = if login { format!("user = 'robot$x'\npassword = {PASSWORD:?}\n") } else { String::new() };
    format!("[registries.'{of}']\nmirrors = ['{mirror}']\nfallback = false\n{login}{more}\n")
}

/// Starts a server that gives every request this answer. Keeps the lines of the requests.
fn answering(head: String) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let to = heard.clone();
    let answer = move |mut guest: TcpStream| {
        let lines = BufReader::new(guest.try_clone().unwrap()).lines();
        let lines = lines.map_while(Result::ok).take_while(|line| !line.is_empty());
        to.lock().unwrap().extend(lines);
        let _ = guest.write_all(format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n").as_bytes());
    };
    std::thread::spawn(move || listener.incoming().for_each(|guest| answer(guest.unwrap())));
    (port, heard)
}

/// A stand-in for openssl. It logs its arguments and the request. `answers` are the branches of a `case` by host.
fn openssl(answers: &str) -> String {
    format!(
        "#!/bin/sh\necho \"ARGS $*\" >>$LOG\nrequest=$(timeout 1 head -c 3000)\nprintf '%s\\n' \"$request\" >>$LOG\n\
         case \"$3 $4 $request\" in\n{answers}\nesac\n"
    )
}

const BASIC: &str = "printf 'HTTP/1.1 401 No\\r\\nWWW-Authenticate: Basic realm=x\\r\\n\\r\\n'";

#[test]
fn an_https_login_is_not_sent_over_http_after_a_redirect() {
    let (login_of, asked) = answering("401 No\r\nWWW-Authenticate: Basic realm=\"x\"".into());
    let (evil, _) = answering(format!("307 There\r\nLocation: http://127.0.0.1:{login_of}/v2/x"));
    let cluster = with_registries(
        &(table("registry.k8s.io", &format!("http://127.0.0.1:{evil}"), false, "")
            + &table("quay.io", &format!("https://127.0.0.1:{login_of}"), true, "")),
    );
    let said = findings(&cluster);
    assert!(said.starts_with("warning ") && said.contains("with another scheme"), "{said}");
    let asked = asked.lock().unwrap();
    assert!(asked.iter().any(|line| line.starts_with("HEAD /v2/x ")), "{asked:?}");
    assert!(!asked.iter().any(|line| line.starts_with("Authorization")), "{asked:?}");
}

#[test]
fn a_login_is_not_sent_to_an_untrusted_token_service() {
    let (other, heard) = answering("200 OK".into());
    for (scheme, verify) in [("http", ""), ("https", "skip-verify = true")] {
        let (port, _) = answering(format!(
            "401 No\r\nWWW-Authenticate: Bearer realm=\"{scheme}://127.0.0.1:{other}/token\",service=\"s\""
        ));
        let cluster = with_registries(
            &(table("registry.k8s.io", &format!("http://127.0.0.1:{port}"), true, "")
                + &table("quay.io", &format!("https://127.0.0.1:{other}"), false, verify)),
        );
        let said = findings(&cluster);
        assert!(said.starts_with("warning ") && said.contains("not sent to another host"), "{said}");
        assert!(heard.lock().unwrap().is_empty(), "{scheme}");
    }
}

#[test]
fn a_redirect_carries_neither_tls_settings_nor_login() {
    let answers = format!(
        "*first.example*) printf 'HTTP/1.1 307 There\\r\\nLocation: https://SECOND/v2/x\\r\\n\\r\\n' ;;\n*) {BASIC} ;;"
    );
    for (second, tables, look, word) in [
        (
            "other.example",
            String::new(),
            "-verify_return_error -verify_hostname",
            "it requires a login (401)",
        ),
        (
            "lax.example",
            table("quay.io", "https://lax.example", false, "skip-verify = true"),
            "-quiet -connect lax.example:443 -servername",
            "it requires a login (401)",
        ),
        // This host has its own login, which requires verified TLS.
        (
            "safe.example",
            table("quay.io", "https://safe.example", true, ""),
            "-verify_return_error -verify_hostname safe.example",
            "refuses the login of robot$x",
        ),
    ] {
        let first = table("registry.k8s.io", "https://first.example", true, "skip-verify = true");
        let cluster = with_registries(&(first + &tables));
        let (said, log) = findings_with_openssl(&cluster, &openssl(&answers.replace("SECOND", second)));
        assert!(said.contains(word), "{second}: {said}");
        let connects: Vec<&str> =
            log.split("ARGS ").filter(|one| one.contains(&format!("{second}:443"))).collect();
        assert!(!connects.is_empty(), "{log}");
        for connect in connects {
            let args = format!("{}\n", connect.lines().next().unwrap());
            assert!(args.contains(look), "{second}: {args}");
            assert!(second == "safe.example" || !connect.contains("Authorization"), "{connect}");
        }
        assert!(log.contains("-quiet -connect first.example:443 -servername"), "not verified: {log}");
    }
}

#[test]
fn a_docker_hub_login_goes_to_its_token_service() {
    let answers = "*'auth.docker.io:443'*) printf 'HTTP/1.1 200 OK\\r\\n\\r\\n{\"token\":\"to.ken\",\"access_token\":\"to.ken\"}' ;;
*'Bearer to.ken'*) printf 'HTTP/1.1 200 OK\\r\\n\\r\\n' ;;
*) printf 'HTTP/1.1 401 No\\r\\nWWW-Authenticate: Bearer realm=\"https://auth.docker.io/token\",service=\"registry.docker.io\"\\r\\n\\r\\n' ;;";
    let cluster = with_registries(&table("registry.k8s.io", "https://registry-1.docker.io", true, ""));
    let (said, log) = findings_with_openssl(&cluster, &openssl(answers));
    assert_eq!(said, "");
    let robot = format!("Authorization: Basic {}", BASE64_STANDARD.encode(format!("robot$x:{PASSWORD}")));
    let asked = log.split("ARGS ").find(|one| one.contains("auth.docker.io:443")).unwrap();
    assert!(asked.contains(&robot) && asked.contains("-verify_return_error"), "{asked}");
    let sent = log.split("ARGS ").filter(|one| one.contains(&robot));
    assert!(sent.eq(log.split("ARGS ").filter(|one| one.contains("auth.docker.io:443"))), "{log}");
}

#[test]
fn an_endless_answer_is_cut() {
    let cluster = with_registries(&table("registry.k8s.io", "https://first.example", true, ""));
    let answers = "*) head -c 40000000 /dev/zero | tr '\\0' a && echo ALL >>$LOG; head -c 9000000 /dev/zero | tr '\\0' a >&2 && echo ALL >>$LOG ;;";
    let (said, log) = findings_with_openssl(&cluster, &openssl(answers));
    assert!(said.starts_with("warning ") && said.len() < 1500, "{said}");
    assert!(log.contains("ARGS ") && !log.contains("ALL"), "{log}");
    let answers = "*) printf 'HTTP/1.1 401 No\\r\\nWWW-Authenticate: Bearer realm=\"https://first.example/t\",service=\"'; head -c 9000000 /dev/zero | tr '\\0' a ;;";
    let (said, _) = findings_with_openssl(&cluster, &openssl(answers));
    assert!(said.len() < 1500, "{said}");
}

#[test]
fn a_registry_cannot_forge_lines_of_the_answer() {
    let forged = r"/a\nno https://forged.example: forged\0a\012no forged";
    for (head, words) in [
        (format!("307 There\r\nLocation: http://127.0.0.1:1{forged}"), "redirects to an invalid URL"),
        (format!("307 There\r\nLocation: {forged}"), "redirects to an invalid URL"),
        ("307 There\r\nLocation: http://a@127.0.0.1:1/".into(), "redirects to an invalid URL"),
        (
            format!("401 No\r\nWWW-Authenticate: Bearer realm=\"http://127.0.0.1:1{forged}\""),
            "an invalid URL of a token service",
        ),
        (
            format!(
                "401 No\r\nWWW-Authenticate: Bearer realm=\"http://127.0.0.1:1/\",service=\"a\rb{forged}\""
            ),
            "an invalid URL of a token service",
        ),
        (r"5\n0 \nno forged".into(), "no answer"),
    ] {
        let (port, _) = answering(head);
        let mirror = format!("http://127.0.0.1:{port}");
        let said = findings(&with_registries(&table("registry.k8s.io", &mirror, true, "")));
        assert!(said.starts_with("warning ") && said.contains(words), "{said}");
        assert!(!said.contains("forged"), "{said}");
    }
}

#[test]
fn a_login_works_with_basic_tokens_and_redirects() {
    let (port, heard) = registry();
    for project in ["basic", "bearer", "moved"] {
        assert_eq!(findings(&cluster(port, project, Some(PASSWORD))), "", "{project}");
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
fn login_and_path_errors_name_the_url() {
    let (port, _) = registry();
    for (project, password, words) in [
        ("basic", None, "it requires a login (401)"),
        ("closed", None, "it requires a login (401)"),
        ("basic", Some("wrong-one-9"), "it refuses the login of robot$x (401)"),
        ("bearer", Some("wrong-one-9"), "/token refuses the login of robot$x"),
        ("closed", Some(PASSWORD), "robot$x may not pull it, or there is no such project or image (401)"),
        ("nowhere", Some(PASSWORD), "it has no such image (404)"),
    ] {
        let said = findings(&cluster(port, project, password));
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
    assert!(findings(&cluster(port, "busy", Some(PASSWORD))).starts_with("warning "));
}
