//! Tests SSH as a `Shell` against a server in the test process: logins, host keys, scripts and lost connections.

mod agent;
mod certificates;
mod config;
mod server;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use ironstrap::cluster::{self, Node, Role};
use ironstrap::error::{Error, Kind};
use ironstrap::known_hosts::fingerprint;
use ironstrap::shell::{Output, Sh, Shell};
use ironstrap::ssh::{Client, Operator, Options, Ssh};
use russh::keys::PrivateKey;
use russh::keys::ssh_key::LineEnding;
use server::{Manner, Server, new_key};
use tempfile::TempDir;

use crate::support::relay;

/// A server, and an operator who knows its host key and has a login key in a file.
struct Stage {
    home: TempDir,
    key: PrivateKey,
    server: Server,
    node: Node,
    options: Options,
    agent: Option<PathBuf>,
}

impl Stage {
    async fn new(manner: Manner) -> Stage {
        let home = tempfile::tempdir().unwrap();
        let key = new_key();
        let server = Server::start(key.public_key(), manner).await;
        std::fs::create_dir(home.path().join(".ssh")).unwrap();
        let mut stage = Stage {
            node: node(server.port),
            options: Options { accept_new_host_keys: false, timeout: Duration::from_secs(20) },
            agent: None,
            home,
            key,
            server,
        };
        stage.node.ssh.key = Some(stage.write_key("key", &stage.key));
        stage.write_known(&stage.server.host_key.to_openssh().unwrap());
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn write_key(&self, name: &str, key: &PrivateKey) -> PathBuf {
        let path = self.path(name);
        key.write_openssh_file(&path, LineEnding::LF).unwrap();
        path
    }

    fn write_known(&self, key: &str) {
        let line = format!("# mine\n[127.0.0.1]:{} {key}", self.server.port);
        std::fs::write(self.path(".ssh/known_hosts"), line).unwrap();
    }

    fn known(&self) -> String {
        std::fs::read_to_string(self.path(".ssh/known_hosts")).unwrap_or_default()
    }

    fn ssh(&self) -> Ssh {
        Ssh::new(&self.node, &Arc::new(self.client()))
    }

    fn client(&self) -> Client {
        let home = Some(self.home.path().into());
        let operator = Operator { home, agent: self.agent.clone(), user: "me".into(), ..Operator::default() };
        Client::new(self.options.clone(), operator)
    }

    async fn run(&self, script: &str) -> Result<Output, Error> {
        run(&self.ssh(), script).await
    }
}

async fn run(ssh: &Ssh, script: &str) -> Result<Output, Error> {
    let mut ignored = |_: &[u8]| {};
    let script = Sh::raw(script.to_string().leak());
    let run = ssh.run(&script, &mut ignored);
    tokio::time::timeout(Duration::from_secs(30), run).await.expect("it hangs")
}

fn node(port: u16) -> Node {
    Node {
        name: "m1".into(),
        role: Role::Worker,
        ssh: cluster::Ssh {
            host: "127.0.0.1".into(),
            port: Some(port),
            user: Some("root".into()),
            ..cluster::Ssh::default()
        },
        ip: IpAddr::from([127, 0, 0, 1]),
        labels: Default::default(),
        taints: None,
        kubelet: serde_json::Map::new(),
    }
}

fn output(status: i32, stdout: &str, stderr: &str) -> Output {
    Output { status, stdout: stdout.into(), stderr: stderr.into() }
}

#[tokio::test]
async fn a_script_returns_its_output_and_status() {
    let stage = Stage::new(Manner::Reads).await;
    let ssh = stage.ssh();
    assert_eq!(run(&ssh, "out one\nerr two\nexit 5").await.unwrap(), output(5, "one\n", "two\n"));
    assert_eq!(run(&ssh, "eof\nexit 0").await.unwrap(), output(0, "", ""));
    assert_eq!(*stage.server.seen.commands.lock().unwrap(), ["/bin/sh -s", "/bin/sh -s"]);
    assert_eq!(stage.server.seen.logins.load(SeqCst), 1, "the connection is reused");
    ssh.close().await;
}

#[tokio::test]
async fn a_user_other_than_root_runs_scripts_with_sudo() {
    let mut stage = Stage::new(Manner::Reads).await;
    stage.node.ssh.user = Some("bob".into());
    stage.server.seen.sudo_says("sudo: a password is required\n", 1);
    let error = stage.run("exit 0").await.unwrap_err();
    assert_eq!(*stage.server.seen.commands.lock().unwrap(), ["env LC_ALL=C sudo -n -- /bin/sh -s"]);
    assert_eq!((error.kind, error.node.as_deref()), (Kind::Unreachable, Some("m1")));
    assert_eq!(error.what, "sudo does not let bob become root without a password");
    // sudo -k ignores an earlier login. Otherwise root's shell could run the password as a command.
    let client = stage.client().asking(Box::new(|_| Box::pin(async { Ok(Some("word".into())) })), 1);
    let error = run(&Ssh::new(&stage.node, &Arc::new(client)), "exit 0").await.unwrap_err();
    let asked = stage.server.seen.commands.lock().unwrap().split_off(1);
    assert_eq!(asked.len(), 2);
    assert!(asked[1].starts_with("env LC_ALL=C sudo -k -S -p '' -- /bin/sh -c "), "{asked:?}");
    assert_eq!(error.what, "sudo refuses the password of bob");
}

#[tokio::test]
async fn the_sudo_password_is_separated_from_the_script() {
    let mut stage = Stage::new(Manner::Reads).await;
    stage.node.ssh.user = Some("bob".into());
    stage.server.seen.forgets_the_password.store(true, SeqCst);
    let client = stage.client().asking(Box::new(|_| Box::pin(async { Ok(Some("word".into())) })), 1);
    let ssh = Ssh::new(&stage.node, &Arc::new(client));
    assert_eq!(run(&ssh, "out one\nexit 5").await.unwrap(), output(5, "one\n", ""));
    // src/ssh/root.rs tests that the command on the machine skips everything up to that line.
    assert_eq!(*stage.server.seen.scripts.lock().unwrap(), ["word\n--ironstrap script--\nout one\nexit 5"]);
}

#[tokio::test]
async fn a_script_killed_by_a_signal_returns_its_status() {
    let stage = Stage::new(Manner::Reads).await;
    assert_eq!(stage.run("out x\nkilled").await.unwrap(), output(137, "x\n", ""));
}

#[tokio::test]
async fn a_command_that_ends_early_does_not_hang() {
    let stage = Stage::new(Manner::ExitsEarly).await;
    let script = "#\n".repeat(4 << 20);
    let error = stage.run(&script).await.unwrap_err();
    assert_eq!(error.what, "the shell ended before it read the script");
    assert!(error.cause.contains(&"exit 3; nothing was run".into()), "{error}");
}

#[tokio::test]
async fn a_long_script_arrives_whole() {
    let stage = Stage::new(Manner::Reads).await;
    let script = "#\n".repeat(2 << 20) + "length\nexit 0";
    let first = "echo\necho '--ironstrap begins--'\n";
    let length = first.len() + script.len();
    assert_eq!(stage.run(&script).await.unwrap().stdout, length.to_string().into_bytes());
}

#[tokio::test]
async fn a_mebibyte_of_output_arrives_whole() {
    let stage = Stage::new(Manner::Reads).await;
    assert_eq!(stage.run("flood 1048576\nexit 0").await.unwrap().stdout.len(), 1 << 20);
}

#[tokio::test]
async fn output_arrives_while_the_script_runs() {
    let stage = Stage::new(Manner::Streams).await;
    let (ssh, mut heard) = (stage.ssh(), vec![]);
    // The server waits for this signal before it prints the second line.
    let mut hear = |piece: &[u8]| {
        heard.extend_from_slice(piece);
        stage.server.seen.go_on.notify_one();
    };
    let nothing = Sh::EMPTY;
    let run = ssh.run(&nothing, &mut hear);
    let output = tokio::time::timeout(Duration::from_secs(10), run).await.expect("not heard").unwrap();
    assert_eq!(output.stdout, b"first\nsecond\n");
    assert_eq!(heard, output.stdout);
}

#[tokio::test]
async fn a_cut_connection_is_an_error_and_the_next_script_reconnects() {
    let stage = Stage::new(Manner::Reads).await;
    let ssh = stage.ssh();
    for (before, cut) in ["out half\ncut", "out half\nshut", "reboot"].into_iter().enumerate() {
        let error = run(&ssh, cut).await.unwrap_err();
        assert_eq!(error.kind, Kind::Lost, "{cut}");
        assert_eq!(error.what, "the connection was lost while a script was running", "{cut}");
        assert_eq!(
            error.hint.as_deref(),
            Some("the outcome is unknown: run the command again; it first checks the current state"),
            "{cut}"
        );
        if cut == "reboot" {
            assert_eq!(error.cause, ["| going down for reboot"]);
        }
        assert_eq!(run(&ssh, "out back\nexit 0").await.unwrap().stdout, b"back\n", "{cut}");
        assert_eq!(stage.server.seen.logins.load(SeqCst), before + 2, "{cut}: by another connection");
    }
    assert_eq!(stage.server.seen.commands.lock().unwrap().len(), 6, "nothing ran twice");
}

#[tokio::test]
async fn a_connection_lost_between_scripts_is_reopened() {
    let stage = Stage::new(Manner::Reads).await;
    let ssh = stage.ssh();
    for round in 1..=3 {
        assert_eq!(run(&ssh, "out up\nexit 0\nreboot").await.unwrap().stdout, b"up\n");
        assert_eq!(stage.server.seen.logins.load(SeqCst), round);
    }
}

#[tokio::test]
async fn a_dead_connection_is_reopened_before_anything_is_sent() {
    let mut stage = Stage::new(Manner::Reads).await;
    let relay = stage.far_away(Duration::ZERO).await;
    let ssh = stage.ssh();
    assert_eq!(run(&ssh, "out up\nexit 0").await.unwrap().stdout, b"up\n");
    // The connection is silent until ironstrap notices that.
    relay.silent.store(true, SeqCst);
    tokio::time::pause();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(30)).await;
        relay.silent.store(false, SeqCst);
    });
    let mut ignored = |_: &[u8]| {};
    assert_eq!(ssh.run(&"out up\nexit 0".into(), &mut ignored).await.unwrap().stdout, b"up\n");
    assert_eq!(stage.server.seen.logins.load(SeqCst), 2);
}

#[tokio::test]
async fn a_silent_server_times_out() {
    let mut stage = Stage::new(Manner::Reads).await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    stage.node.ssh.port = Some(silent.local_addr().unwrap().port());
    stage.options.timeout = Duration::from_millis(200);
    let begun = Instant::now();
    let error = stage.run("exit 0").await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!((error.kind, error.what.as_str()), (Kind::Unreachable, "timed out after 0.2 s"));
    assert!(error.cause[0].contains("does not answer as an SSH server"), "{error}");
}

#[tokio::test]
async fn hanging_machines_do_not_delay_a_responsive_one() {
    let stage = Stage::new(Manner::Reads).await;
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, mut node) = (Arc::new(stage.client()), stage.node.clone());
    node.ssh.port = Some(silent.local_addr().unwrap().port());
    let mut hanging = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let ssh = Ssh::new(&node, &client);
        hanging.spawn(async move { ssh.run(&"exit 0".into(), &mut |_| {}).await });
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (ssh, mut ignored) = (Ssh::new(&stage.node, &client), |_: &[u8]| {});
    let ran =
        tokio::time::timeout(Duration::from_secs(10), ssh.run(&"out in\nexit 0".into(), &mut ignored)).await;
    assert_eq!(ran.expect("it waits for machines that hang").unwrap().stdout, b"in\n");
    assert!(hanging.try_join_next().is_none(), "these machines hang");
}

#[tokio::test]
async fn a_closed_port_and_an_unknown_name_are_reported() {
    let mut stage = Stage::new(Manner::Reads).await;
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = free.local_addr().unwrap().port();
    stage.node.ssh.port = Some(port);
    drop(free);
    let error = stage.run("exit 0").await.unwrap_err();
    assert_eq!(error.what, format!("127.0.0.1:{port} refuses the connection"));
    // The name is longer than a DNS label may be, so no name server is asked.
    stage.node.ssh.host = "x".repeat(64);
    let error = stage.run("exit 0").await.unwrap_err();
    assert_eq!(error.what, format!("cannot resolve {}", stage.node.ssh.host));
    assert_eq!(error.kind, Kind::Unreachable);
}

#[tokio::test]
async fn an_unknown_host_is_refused_with_its_fingerprint() {
    let stage = Stage::new(Manner::Reads).await;
    std::fs::remove_file(stage.path(".ssh/known_hosts")).unwrap();
    let error = stage.run("exit 0").await.unwrap_err();
    assert_eq!(error.kind, Kind::Unreachable);
    assert_eq!(error.what, "the host key of 127.0.0.1 is not known");
    assert_eq!(error.cause[0], format!("now:    {}", fingerprint(&stage.server.host_key)));
    let keyscan = format!("ssh-keyscan -p {} 127.0.0.1 >> ~/.ssh/known_hosts", stage.server.port);
    assert!(error.hint.unwrap().contains(&keyscan));
    assert_eq!(stage.known(), "");
    assert_eq!(stage.server.seen.logins.load(SeqCst), 0);
}

#[tokio::test]
async fn a_new_host_key_is_saved_if_allowed() {
    let mut stage = Stage::new(Manner::Reads).await;
    std::fs::write(stage.path(".ssh/known_hosts"), "# mine").unwrap();
    stage.options.accept_new_host_keys = true;
    stage.run("exit 0").await.unwrap();
    let key = stage.server.host_key.to_openssh().unwrap();
    let noted = format!("# mine\n[127.0.0.1]:{} {}\n", stage.server.port, key.trim());
    assert_eq!(stage.known(), noted);
    stage.options.accept_new_host_keys = false;
    stage.run("exit 0").await.unwrap();
    assert_eq!(stage.known(), noted);
}

#[tokio::test]
async fn a_changed_host_key_is_always_refused() {
    let mut stage = Stage::new(Manner::Reads).await;
    stage.options.accept_new_host_keys = true;
    let other = new_key();
    stage.write_known(&other.public_key().to_openssh().unwrap());
    let before = stage.known();
    let error = stage.run("exit 0").await.unwrap_err();
    assert_eq!(error.kind, Kind::Unreachable);
    assert_eq!(error.what, "the host key of 127.0.0.1 has changed");
    let known = format!("known:  {}    ~/.ssh/known_hosts:2", fingerprint(other.public_key()));
    let now = format!("now:    {}", fingerprint(&stage.server.host_key));
    assert_eq!(error.cause, [known, now, "nothing was sent".into()]);
    let remove = format!("if you reinstalled m1: ssh-keygen -R '[127.0.0.1]:{}', then", stage.server.port);
    assert!(error.hint.unwrap().starts_with(&remove));
    assert_eq!((stage.known(), stage.server.seen.logins.load(SeqCst)), (before, 0));
}

#[tokio::test]
async fn a_revoked_host_key_is_refused() {
    let stage = Stage::new(Manner::Reads).await;
    let key = stage.server.host_key.to_openssh().unwrap();
    stage.write_known(&format!("{key}\n@revoked * {key}\n"));
    assert_eq!(stage.run("exit 0").await.unwrap_err().what, "the host key of 127.0.0.1 is revoked");
}

#[tokio::test]
async fn a_failed_login_lists_every_key_tried() {
    let mut stage = Stage::new(Manner::Reads).await;
    let (held, file) = (new_key(), new_key());
    stage.node.ssh.key = None;
    stage.agent = Some(stage.path("agent"));
    agent::start(&stage.path("agent"), vec![held.clone()]);
    stage.write_key(".ssh/id_ed25519", &file);
    stage.write_key(".ssh/id_rsa", &held);
    let error = stage.run("exit 0").await.unwrap_err();
    assert_eq!(error.kind, Kind::Unreachable);
    assert_eq!(error.what, "cannot log in as root: no authentication method succeeded");
    let tried = [
        format!("ssh-agent: {} held: refused", fingerprint(held.public_key())),
        format!("~/.ssh/id_ed25519: {}: refused", fingerprint(file.public_key())),
        "the server accepts: publickey, password".into(),
    ];
    assert_eq!(error.cause, tried);
    stage.write_key(".ssh/id_ecdsa", &stage.key);
    assert_eq!(stage.run("exit 0").await.unwrap().status, 0);
}

#[tokio::test]
async fn many_agent_keys_leave_an_attempt_for_a_key_file() {
    let mut stage = Stage::new(Manner::Reads).await;
    stage.node.ssh.key = None;
    stage.agent = Some(stage.path("agent"));
    agent::start(&stage.path("agent"), (0..8).map(|_| new_key()));
    stage.write_key(".ssh/id_ed25519", &stage.key);
    assert_eq!(stage.run("exit 0").await.unwrap().status, 0);
}

#[tokio::test]
async fn a_key_in_an_agent_logs_in() {
    let mut stage = Stage::new(Manner::Reads).await;
    stage.node.ssh.key = None;
    stage.agent = Some(stage.path("agent"));
    agent::start(&stage.path("agent"), vec![new_key(), stage.key.clone()]);
    assert_eq!(stage.run("exit 0").await.unwrap().status, 0);
}

#[tokio::test]
async fn an_encrypted_key_needs_an_agent_that_holds_it() {
    let mut stage = Stage::new(Manner::Reads).await;
    std::fs::write(stage.path("key"), LOCKED).unwrap();
    let error = stage.run("exit 0").await.unwrap_err();
    assert_eq!(
        error.what,
        "the SSH key ~/key cannot be used: no agent holds it, and no passphrase decrypts it"
    );
    let hint = "run ssh-add ~/key, or run ironstrap on a terminal or with --passphrase-command";
    assert_eq!((error.kind, error.hint.as_deref()), (Kind::Local, Some(hint)));
    // ironstrap finds the key in the agent with the public key file.
    std::fs::write(stage.path("key.pub"), stage.key.public_key().to_openssh().unwrap()).unwrap();
    stage.agent = Some(stage.path("agent"));
    agent::start(&stage.path("agent"), (0..8).map(|_| new_key()).chain([stage.key.clone()]));
    assert_eq!(stage.run("exit 0").await.unwrap().status, 0);
}

#[tokio::test]
async fn a_key_in_a_hardware_token_needs_an_agent() {
    let mut stage = Stage::new(Manner::Reads).await;
    let stub = agent::stub(&stage.key);
    stage.server = Server::start(stub.public_key(), Manner::Reads).await;
    stage.write_known(&stage.server.host_key.to_openssh().unwrap());
    (stage.node.ssh.port, stage.node.ssh.key) =
        (Some(stage.server.port), Some(stage.write_key("id_sk", &stub)));
    let error = stage.run("exit 0").await.unwrap_err();
    assert_eq!(error.what, "the SSH key ~/id_sk is in a hardware token, which only an agent can use");
    assert_eq!((error.kind, error.hint.as_deref()), (Kind::Local, Some("ssh-add ~/id_sk")));
    stage.agent = Some(stage.path("agent"));
    agent::start(&stage.path("agent"), [agent::Held::in_token(&stage.key)]);
    assert_eq!(stage.run("exit 0").await.unwrap().status, 0);
}

#[tokio::test]
async fn an_unusable_key_file_is_a_local_error() {
    let mut stage = Stage::new(Manner::Reads).await;
    stage.node.ssh.key = Some(stage.path("absent"));
    let error = stage.run("exit 0").await.unwrap_err();
    assert_eq!((error.kind, error.what.as_str()), (Kind::Local, "cannot use the SSH key ~/absent"));
    stage.node.ssh.key = Some(stage.path(".ssh/known_hosts"));
    let error = stage.run("exit 0").await.unwrap_err();
    assert_eq!((error.kind, error.what.as_str()), (Kind::Local, "cannot use the SSH key ~/.ssh/known_hosts"));
}

#[tokio::test]
async fn a_server_too_busy_to_greet_is_retried() {
    let mut stage = Stage::new(Manner::Reads).await;
    stage.server.seen.turn_away.store(2, SeqCst);
    assert_eq!(stage.run("exit 0").await.unwrap().status, 0);
    stage.server.seen.turn_away.store(usize::MAX, SeqCst);
    stage.options.timeout = Duration::from_secs(3);
    let error = stage.run("exit 0").await.unwrap_err();
    assert_eq!(error.kind, Kind::Unreachable);
    assert!(error.what.ends_with("closes the connection before the SSH handshake"), "{error}");
}

/// Starts a server that sends these words to every client, and then closes the connection if `ends`. Returns its port.
fn stranger(words: &'static [u8], ends: bool) -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for visitor in listener.incoming() {
            let mut visitor = visitor.unwrap();
            std::io::Write::write_all(&mut visitor, words).unwrap();
            let _ = std::io::Read::read(&mut visitor, &mut [0; 64]);
            if !ends {
                kept.push(visitor);
            }
        }
    });
    port
}

#[tokio::test]
async fn a_server_that_does_not_speak_ssh_is_quoted() {
    let mut stage = Stage::new(Manner::Reads).await;
    stage.options.timeout = Duration::from_secs(3);
    for (words, ends, line) in [
        (&b"HTTP/1.1 400 Bad Request\r\nServer: nginx\r\n\r\n"[..], true, "| HTTP/1.1 400 Bad Request"),
        (b"220 mail.example ESMTP\x1b[2J\r\n", false, "| 220 mail.example ESMTP\\u{1b}[2J"),
    ] {
        stage.node.ssh.port = Some(stranger(words, ends));
        let since = Instant::now();
        let error = stage.run("exit 0").await.unwrap_err();
        assert!(!ends || since.elapsed() < Duration::from_secs(2), "asking again would change nothing");
        let port = stage.node.ssh.port.unwrap();
        assert_eq!(error.what, format!("127.0.0.1:{port} does not answer as an SSH server"), "{error}");
        assert_eq!(error.cause, ["its answer begins:", line]);
        let hint = error.hint.unwrap_or_default();
        assert!(
            hint.starts_with(&format!("check the port {port} of 127.0.0.1;"))
                && !hint.contains("MaxStartups"),
            "{hint}"
        );
    }
    stage.node.ssh.port = Some(stranger(b"Exceeded MaxStartups\r\n", true));
    let error = stage.run("exit 0").await.unwrap_err();
    assert!(error.what.ends_with("closes the connection before the SSH handshake"), "{error}");
    assert_eq!(error.cause[0], "| Exceeded MaxStartups");
}

#[tokio::test]
async fn a_refused_session_is_retried() {
    let stage = Stage::new(Manner::Reads).await;
    stage.server.seen.refuse_sessions.store(3, SeqCst);
    assert_eq!(stage.run("out in\nexit 0").await.unwrap().stdout, b"in\n");
}

#[tokio::test]
async fn a_server_that_runs_no_commands_is_reported() {
    let stage = Stage::new(Manner::RefusesCommands).await;
    assert_eq!(stage.run("exit 0").await.unwrap_err().what, "the server does not run commands");
}

impl Stage {
    /// Puts a relay before the server. Each direction takes `delay`.
    async fn far_away(&mut self, delay: Duration) -> relay::Relay {
        let relay = relay::start(self.server.port, delay).await;
        let key = self.server.host_key.to_openssh().unwrap();
        std::fs::write(self.path(".ssh/known_hosts"), format!("[127.0.0.1]:{} {key}", relay.port)).unwrap();
        self.node.ssh.port = Some(relay.port);
        relay
    }
}

#[tokio::test]
async fn the_first_script_takes_eight_round_trips_the_next_two() {
    let mut stage = Stage::new(Manner::Reads).await;
    let relay = stage.far_away(Duration::from_millis(20)).await;
    let ssh = stage.ssh();
    assert_eq!(run(&ssh, "out in\nexit 0").await.unwrap().stdout, b"in\n");
    // ironstrap does not wait for the last trip, which closes the channel.
    let first = relay.trips.load(SeqCst);
    assert!(first <= 8 + 1, "{first} trips");
    assert_eq!(run(&ssh, "out in\nexit 0").await.unwrap().stdout, b"in\n");
    let second = relay.trips.load(SeqCst) - first;
    assert!(second <= 2 + 1, "{second} trips");
}

#[tokio::test]
async fn a_slow_connection_still_works() {
    let mut stage = Stage::new(Manner::Reads).await;
    stage.far_away(Duration::from_millis(135)).await;
    let script = "#\n".repeat(1 << 18) + "flood 300000\nexit 0";
    assert_eq!(stage.run(&script).await.unwrap().stdout.len(), 300_000);
}

/// Runs `script` on a machine whose connection becomes silent in the middle. Returns the error, and the time until it.
/// The clock of the test skips waiting times.
async fn vanished(script: &str) -> (Error, Duration) {
    let mut stage = Stage::new(Manner::Streams).await;
    let relay = stage.far_away(Duration::ZERO).await;
    let (ssh, mut since) = (stage.ssh(), None);
    let mut hear = |_: &[u8]| {
        if since.is_none() {
            relay.silent.store(true, SeqCst);
            tokio::time::pause();
            since = Some(tokio::time::Instant::now());
        }
    };
    let error = ssh.run(&Sh::raw(script.to_string().leak()), &mut hear).await.unwrap_err();
    (error, since.expect("the script never began").elapsed())
}

#[tokio::test]
async fn a_machine_that_vanishes_during_a_script_is_given_up() {
    let (error, after) = vanished("").await;
    assert_eq!(error.what, "the connection was lost while a script was running");
    let longest = ironstrap::ssh::longest_silence();
    assert!(after <= longest + Duration::from_secs(1), "{after:?}");
    assert!(after >= longest / 2, "it gives up too early: {after:?}");
}

#[tokio::test]
async fn a_machine_that_vanishes_during_an_upload_is_given_up() {
    let (error, after) = vanished(&"#\n".repeat(32 << 20)).await;
    assert_eq!(error.what, "the connection was lost while a script was running");
    assert!(after <= Duration::from_secs(310), "{after:?}");
    assert!(after >= Duration::from_secs(100), "sockets were not full: {after:?}");
}

#[tokio::test]
async fn at_most_four_scripts_run_at_once() {
    let stage = Stage::new(Manner::Reads).await;
    let ssh = Arc::new(stage.ssh());
    let runs: Vec<_> =
        (0..8).map(|_| ssh.clone()).map(|ssh| tokio::spawn(async move { run(&ssh, "four").await })).collect();
    for run in runs {
        assert_eq!(run.await.unwrap().unwrap().status, 0);
    }
    assert_eq!(stage.server.seen.most_running.load(SeqCst), 4);
    assert_eq!(stage.server.seen.logins.load(SeqCst), 1);
}

/// A key made by `ssh-keygen -t ed25519 -N secret`. No server accepts it.
const LOCKED: &str = "-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAACmFlczI1Ni1jdHIAAAAGYmNyeXB0AAAAGAAAABB3BRmVJt
I45I8rAPTq2W6rAAAAAQAAAAEAAAAzAAAAC3NzaC1lZDI1NTE5AAAAII57ZLCi7Z80MnCr
HAbb6Ddf7PZnJH7mLYMnh7VPiNS4AAAAkAW8Jyp2veITlF/c+J+IknWvdahSezKVqFxmOu
qdlyxEApvHqRl98OpxhMsYNwyFs2EcSYgi9yqlpxdQTLq/v+6vRifE7uJbEVIsNvVC4SiR
UtWPvT7YB5LGMQ8i+7n0z25XpgIDCy9dtADXgGMbPe4OmID35JUsJrFcQp95LCNKHWvCzu
lORNoK6bIC2knIPg==
-----END OPENSSH PRIVATE KEY-----
";
