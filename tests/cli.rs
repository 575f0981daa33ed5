//! The program as a user meets it: what it prints where, and how it ends. No machine is asked.

// clippy sees no test in what the tests share.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Output;

use assert_cmd::Command;

/// The program in this folder, with an environment that has nothing to say.
fn ironstrap(dir: &Path) -> Command {
    let mut command = Command::cargo_bin("ironstrap").unwrap();
    for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "KUBECONFIG"] {
        command.env_remove(name);
    }
    command.current_dir(dir).env("HOME", dir).env("TERM", "xterm");
    command
}

fn run(dir: &Path, args: &[&str]) -> Output {
    ironstrap(dir).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn colour_is_where_it_was_asked_for_and_says_nothing_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("demo.toml"), "[cluster]\nname = 'demo'\n").unwrap();
    let check = |args: &[&str], no_color: Option<&str>| {
        let mut command = ironstrap(dir.path());
        command.args(["check", "-i", "demo.toml"]).args(args);
        if let Some(value) = no_color {
            command.env("NO_COLOR", value);
        }
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(3));
        text(&output.stderr)
    };
    let plain = check(&[], None);
    assert!(plain.starts_with("error: ") && !plain.contains('\x1b'), "a pipe is no terminal: {plain}");
    let painted = check(&["--color", "always"], None);
    assert!(painted.starts_with("\x1b[31merror:\x1b[0m "), "{painted:?}");
    assert_eq!(anstream::adapter::strip_str(&painted).to_string(), plain);
    assert_eq!(check(&["--color=always"], Some("1")), painted, "what is said now counts more");
    assert_eq!((check(&["--color=never"], None), check(&[], Some("1"))), (plain.clone(), plain));
}

#[test]
fn help_and_complaints_keep_to_the_same_choice() {
    let dir = tempfile::tempdir().unwrap();
    for (args, colour) in [(["--color=always", "--help"], true), (["--color=never", "--help"], false)] {
        assert_eq!(text(&run(dir.path(), &args).stdout).contains('\x1b'), colour, "{args:?}");
    }
    assert!(text(&run(dir.path(), &["--color", "always", "nonsense"]).stderr).contains('\x1b'));
    assert_eq!(run(dir.path(), &["--color", "sometimes", "check"]).status.code(), Some(2));
}

#[test]
fn stopped_while_machines_are_asked_it_says_that_nothing_was_changed() {
    use std::io::Read;
    use std::process::Stdio;

    let dir = tempfile::tempdir().unwrap();
    // Takes the connection, and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let inventory = format!(
        "[cluster]\nname = 'demo'\nkubernetes = '1.36.3'\n[nodes.m1]\naddress = 'localhost:{port}'\nip = '10.0.0.1'\nrole = 'control-plane'\n"
    );
    std::fs::write(dir.path().join("demo.toml"), inventory).unwrap();
    for command in ["plan", "apply", "status"] {
        let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_ironstrap"));
        program.args([command, "-i", "demo.toml", "--timeout", "60"]).current_dir(dir.path());
        let mut child = program.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let _asked = silent.accept().unwrap();
        let since = std::time::Instant::now();
        let sent = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
        assert!(sent.unwrap().success());
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130), "{said}");
        assert_eq!(said, "✗ stopped; nothing was changed on any node\n");
        assert!(since.elapsed().as_secs() < 10, "{:?}", since.elapsed());
        assert!(!dir.path().join("demo.trust").exists());
    }
}

#[test]
fn a_status_that_is_watched_is_shown_again_and_again_until_it_is_stopped() {
    use std::io::{BufRead, BufReader};

    let dir = tempfile::tempdir().unwrap();
    // Nobody listens on the discard port.
    let inventory = "[cluster]\nname = 'demo'\nkubernetes = '1.36.3'\n[nodes.m1]\naddress = 'localhost:9'\nip = '10.0.0.1'\nrole = 'control-plane'\n";
    std::fs::write(dir.path().join("demo.toml"), inventory).unwrap();
    let once = run(dir.path(), &["status", "-i", "demo.toml", "--color=always"]);
    let screen = text(&once.stdout);
    assert_eq!((once.status.code(), text(&once.stderr).as_str()), (Some(4), ""), "{screen}");
    assert!(screen.contains("\x1b[31mm1 ") && screen.contains("localhost:9"), "{screen:?}");
    let plain = text(&run(dir.path(), &["status", "-i", "demo.toml"]).stdout);
    assert_eq!(anstream::adapter::strip_str(&screen).to_string(), plain, "a pipe is no terminal");
    let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_ironstrap"));
    program.args(["status", "-i", "demo.toml", "--json", "--watch", "1"]).current_dir(dir.path());
    let mut child = program.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let document: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(
            (&document["nodes"][0]["reachable"], &document["unseen"][0]["node"]),
            (&false.into(), &"m1".into())
        );
    }
    let sent = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(sent.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(run(dir.path(), &["status", "-i", "demo.toml", "--watch", "0"]).status.code(), Some(2));
}
