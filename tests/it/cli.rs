//! The program as a user runs it: its output, its exit codes and the files that it writes. No test needs a machine.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;

use assert_cmd::Command;
use ironstrap::store::Store;
use serde_json::Value;

use crate::support;

/// The program in this folder, without environment variables that change its behaviour.
fn ironstrap(dir: &Path) -> Command {
    let mut command = Command::cargo_bin("ironstrap").unwrap();
    for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "KUBECONFIG", "IRONSTRAP_INVENTORY"] {
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
fn colour_follows_the_options_and_adds_no_text() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("demo.toml"), "[cluster]\nname = 'demo'\n").unwrap();
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
    assert_eq!(check(&["--color=always"], Some("1")), painted, "the option overrides NO_COLOR");
    assert_eq!((check(&["--color=never"], None), check(&[], Some("1"))), (plain.clone(), plain));
}

#[test]
fn help_and_usage_errors_follow_the_colour_option() {
    let dir = tempfile::tempdir().unwrap();
    for (args, colour) in [(["--color=always", "--help"], true), (["--color=never", "--help"], false)] {
        assert_eq!(text(&run(dir.path(), &args).stdout).contains('\x1b'), colour, "{args:?}");
    }
    assert!(text(&run(dir.path(), &["--color", "always", "nonsense"]).stderr).contains('\x1b'));
    assert_eq!(run(dir.path(), &["--color", "sometimes", "check"]).status.code(), Some(2));
}

#[test]
fn an_interrupted_probe_reports_that_no_node_changed() {
    use std::io::Read;
    use std::process::Stdio;

    let dir = tempfile::tempdir().unwrap();
    // This server accepts the connection, and stays silent.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let inventory = format!(
        "[cluster]\nname = 'demo'\nkubernetes = '1.36.3'\n[nodes.m1]\naddress = 'localhost:{port}'\nip = '10.0.0.1'\nrole = 'control-plane'\n"
    );
    fs::write(dir.path().join("demo.toml"), inventory).unwrap();
    for command in ["plan", "apply", "status"] {
        let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_ironstrap"));
        program.args([command, "-i", "demo.toml", "--connect-timeout", "60"]).current_dir(dir.path());
        let mut child = program.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let _asked = silent.accept().unwrap();
        let since = std::time::Instant::now();
        let sent = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
        assert!(sent.unwrap().success());
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130), "{said}");
        assert_eq!(said, "✗ stopped; no node was changed\n");
        assert!(since.elapsed().as_secs() < 10, "{:?}", since.elapsed());
        assert!(!dir.path().join("demo.trust").exists());
    }
}

#[test]
fn status_watch_repeats_until_it_is_stopped() {
    use std::io::{BufRead, BufReader};

    let dir = tempfile::tempdir().unwrap();
    // Nothing listens on the discard port.
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

/// A folder with the inventory and the PKI of a cluster.
fn cluster() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("demo.toml");
    fs::copy("inventories/minimal.toml", &path).unwrap();
    let cluster = ironstrap::inventory::read(&path).unwrap();
    let pki = support::pki(&cluster);
    Store::new(&cluster).save(&pki).unwrap();
    dir
}

fn kubeconfig(dir: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    let output = run(dir, &[&["kubeconfig", "-i", "demo.toml"], args].concat());
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_kubeconfig_is_printed_or_written_with_its_expiry() {
    let dir = cluster();
    let (code, printed, said) = kubeconfig(dir.path(), &[]);
    assert_eq!(
        (code, yaml(&printed)["clusters"][0]["cluster"]["server"].as_str()),
        (Some(0), Some("https://198.18.0.11:6443"))
    );
    assert!(said.starts_with("valid until 20") && said.contains("(364 days)"), "{said}");
    let (code, nothing, _) = kubeconfig(dir.path(), &["--write", "mine"]);
    assert_eq!((code, nothing.as_str(), mode(&dir.path().join("mine"))), (Some(0), "", 0o600));
    assert_eq!(fs::read_to_string(dir.path().join("mine")).unwrap(), printed);
    fs::write(dir.path().join("theirs"), "clusters: []\n").unwrap();
    let (code, _, said) = kubeconfig(dir.path(), &["--write", "theirs"]);
    assert_eq!(
        (code, fs::read_to_string(dir.path().join("theirs")).unwrap().as_str()),
        (Some(10), "clusters: []\n"),
        "{said}"
    );
}

#[test]
fn kubeconfig_without_a_cluster_pki_is_refused() {
    let dir = cluster();
    fs::remove_dir_all(dir.path().join("demo.trust")).unwrap();
    let (code, _, said) = kubeconfig(dir.path(), &[]);
    assert_eq!(code, Some(10), "{said}");
    assert!(said.contains("hint: run `ironstrap apply`"), "{said}");
    assert!(!dir.path().join("demo.trust").exists());
}

#[test]
fn a_merged_kubeconfig_keeps_existing_entries() {
    let dir = cluster();
    let own = dir.path().join(".kube/config");
    let (code, printed, said) = kubeconfig(dir.path(), &["--merge"]);
    assert_eq!((code, printed.as_str(), mode(&own)), (Some(0), "", 0o600), "{said}");
    let first = fs::read_to_string(&own).unwrap();
    let config = yaml(&first);
    for (list, what) in [("clusters", "name"), ("users", "name"), ("contexts", "name")] {
        assert_eq!(config[list][0][what], "demo");
    }
    let (_, _, said) = kubeconfig(dir.path(), &["--merge"]);
    assert!(said.contains("has the context demo already"), "{said}");
    assert_eq!(
        fs::read_dir(dir.path().join(".kube")).unwrap().count(),
        1,
        "an unchanged file needs no backup"
    );
    // The first file of $KUBECONFIG is used. A note says that the backup has its comments.
    let theirs = "# mine\ncurrent-context: work\ncontexts: [{name: work, context: {cluster: c, user: u}}]\n";
    fs::write(dir.path().join("work"), theirs).unwrap();
    let mut command = ironstrap(dir.path());
    command.args(["kubeconfig", "-i", "demo.toml", "--merge"]).env("KUBECONFIG", ":work:other");
    let said = text(&command.output().unwrap().stderr);
    assert!(said.contains("only this copy has its comments"), "{said}");
    let config = yaml(&fs::read_to_string(dir.path().join("work")).unwrap());
    assert_eq!(
        (config["current-context"].as_str(), config["contexts"][1]["name"].as_str()),
        (Some("work"), Some("demo"))
    );
    let copies = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
    let copy = copies.into_iter().find(|path| path.display().to_string().contains("work.before-")).unwrap();
    assert_eq!(fs::read_to_string(copy).unwrap(), theirs);
    assert_eq!(fs::read_to_string(&own).unwrap(), first);
}

#[test]
fn certificates_for_other_users_are_not_stored() {
    let dir = cluster();
    let kept = || {
        let mut files: Vec<_> =
            fs::read_dir(dir.path().join("demo.trust")).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        files
            .into_iter()
            .filter(|path| path.is_file())
            .map(|path| fs::read_to_string(path).unwrap())
            .collect::<Vec<_>>()
    };
    let before = kept();
    let args = ["--as", "alice", "--group", "dev", "--group", "ops", "--for", "90m"];
    let (code, printed, said) = kubeconfig(dir.path(), &args);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("alice (in dev, ops) can log in until") && said.contains("(1h 30m)"), "{said}");
    let config = yaml(&printed);
    assert_eq!(
        (config["users"][0]["name"].as_str(), config["current-context"].as_str()),
        (Some("demo-alice"), Some("demo-alice"))
    );
    assert_ne!(config["users"][0]["user"]["client-key-data"], "", "alice has a key");
    assert_eq!(kept(), before);
    let masters = ["--as", "root", "--group", "system:masters"];
    let (code, printed, said) = kubeconfig(dir.path(), &masters);
    assert_eq!((code, printed.as_str()), (Some(2), ""), "{said}");
    assert!(said.contains("--allow-system-group"), "{said}");
    let (_, _, said) = kubeconfig(dir.path(), &[&masters[..], &["--allow-system-group"]].concat());
    assert!(
        said.contains("warning: members of system:masters may do anything") && said.contains("(1h)"),
        "{said}"
    );
    let long = ["--allow-system-group", "--for", "25h"];
    let (code, printed, said) = kubeconfig(dir.path(), &[&masters[..], &long].concat());
    assert_eq!((code, printed.as_str()), (Some(2), ""), "{said}");
    assert!(said.contains("at most 24 hours"), "{said}");
    let admins = ["--as", "eve", "--group", "kubeadm:cluster-admins"];
    let (code, printed, said) = kubeconfig(dir.path(), &[&admins[..], &["--for", "3650days"]].concat());
    assert_eq!((code, printed.as_str()), (Some(2), ""), "{said}");
    assert!(said.contains("--allow-system-group"), "{said}");
    let (code, printed, said) = kubeconfig(dir.path(), &[&admins[..], &long].concat());
    assert_eq!((code, printed.as_str()), (Some(2), ""), "{said}");
    let (_, _, said) = kubeconfig(dir.path(), &[&admins[..], &["--allow-system-group"]].concat());
    assert!(
        said.contains("warning: members of kubeadm:cluster-admins may do anything") && said.contains("(1h)"),
        "{said}"
    );
    for group in ["kubeadm:get-nodes", "system:nodes"] {
        let other = ["--as", "eve", "--group", group];
        let (code, printed, said) = kubeconfig(dir.path(), &other);
        assert_eq!((code, printed.as_str()), (Some(2), ""), "{said}");
        assert_eq!(kubeconfig(dir.path(), &[&other[..], &long].concat()).0, Some(2));
        let (_, _, said) = kubeconfig(dir.path(), &[&other[..], &["--allow-system-group"]].concat());
        assert!(
            said.contains(&format!("warning: {group} is reserved for Kubernetes")) && said.contains("(1h)"),
            "{said}"
        );
    }
    assert_eq!(kubeconfig(dir.path(), &["--as", "system:admin"]).0, Some(2));
    assert_eq!(kubeconfig(dir.path(), &["--group", "dev"]).0, Some(2), "--group needs --as");
}

#[test]
fn a_new_inventory_is_valid_with_each_optional_line() {
    let dir = tempfile::tempdir().unwrap();
    let machines = ["debian@10.0.0.11", "debian@10.0.0.21", "ops@10.0.0.22:2222", "debian@[fd00::23]:22"];
    let output = run(dir.path(), &[&["new", "--name", "shop"], &machines[..3]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let path = dir.path().join("cluster.toml");
    assert_eq!(run(dir.path(), &["check"]).status.code(), Some(0), "cluster.toml is the default");
    let written = fs::read_to_string(&path).unwrap();
    let cluster = ironstrap::inventory::parse(&written, &path).unwrap();
    let reached: Vec<String> = cluster
        .nodes
        .iter()
        .map(|node| {
            let (user, port) = (node.ssh.user.as_deref().unwrap(), node.ssh.port.unwrap_or(22));
            format!("{} {} {user}@{}:{port}", node.name, node.role, node.ssh.host)
        })
        .collect();
    assert_eq!(
        reached,
        [
            "m1 control plane debian@10.0.0.11:22",
            "w1 worker debian@10.0.0.21:22",
            "w2 worker ops@10.0.0.22:2222"
        ]
    );
    let optional: Vec<&str> =
        written.lines().filter(|line| line.starts_with("# ") && line.contains(" = ")).collect();
    assert!(optional.len() > 5, "{written}");
    // The file of an SSH key must exist, but it does not exist here.
    for line in optional.iter().filter(|line| !line.starts_with("# key")) {
        let with = written.replacen(line, &line[2..], 1);
        if let Err(error) = ironstrap::inventory::parse(&with, &path) {
            panic!("{line}: {error}");
        }
    }
    let again = run(dir.path(), &["new", "--name", "shop", "10.0.0.99"]);
    assert_eq!((again.status.code(), fs::read_to_string(&path).unwrap()), (Some(5), written));
}

#[test]
fn the_inventory_option_overrides_the_environment() {
    let dir = tempfile::tempdir().unwrap();
    let check = |named: Option<&str>, environment: Option<&str>| {
        let mut command = ironstrap(dir.path());
        command.arg("check");
        command.args(named.iter().flat_map(|file| ["-i", file]));
        command.envs(environment.map(|file| ("IRONSTRAP_INVENTORY", file)));
        text(&command.output().unwrap().stderr)
    };
    let none = check(None, None);
    assert!(none.contains("the inventory cluster.toml") && none.contains("-i FILE"), "{none}");
    for name in ["a", "b", "cluster"] {
        assert_eq!(
            run(dir.path(), &["new", "-o", &format!("{name}.toml"), "10.0.0.1"]).status.code(),
            Some(0)
        );
    }
    let read = [(Some("a.toml"), Some("b.toml")), (None, Some("b.toml")), (None, None)]
        .map(|(named, environment)| check(named, environment));
    for (said, file) in read.iter().zip(["a.toml is valid: ", "b.toml is valid: ", "cluster.toml is valid: "])
    {
        assert!(said.contains(file), "{file} {said}");
    }
}

#[test]
fn without_a_command_the_help_is_printed() {
    let dir = tempfile::tempdir().unwrap();
    let (bare, help) = (run(dir.path(), &[]), run(dir.path(), &["--help"]));
    assert_eq!((bare.status.code(), &bare.stdout), (Some(0), &help.stdout));
    assert!(text(&bare.stdout).contains("Usage: ironstrap"));
}

#[test]
fn the_options_of_a_command_come_before_those_of_all_commands() {
    let dir = tempfile::tempdir().unwrap();
    let help = text(&run(dir.path(), &["apply", "--help"]).stdout);
    let at = |what: &str| help.find(what).unwrap_or_else(|| panic!("no {what} in {help}"));
    let order =
        ["Options:", "--yes", "--dry-run", "Output:", "--json", "Connection:", "--connect-timeout", "Scope:"];
    assert!(order.map(at).is_sorted(), "{help}");
}

#[test]
fn old_names_of_options_still_work() {
    let dir = tempfile::tempdir().unwrap();
    let help = text(&run(dir.path(), &["plan", "--help"]).stdout);
    for old in ["--timeout", "--wait", "--parallel"] {
        let output = run(dir.path(), &["plan", old, "5"]);
        assert_eq!(output.status.code(), Some(3), "{old}: {}", text(&output.stderr));
        assert!(!help.contains(&format!("{old} ")), "{old} is hidden");
    }
}

#[test]
fn an_invalid_new_inventory_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let wrong: [(&[&str], i32); 6] = [
        (&["new", "a@"], 2),
        (&["new", "--name", "Shop!", "10.0.0.1"], 2),
        (&["new", "10.0.0.1", "10.0.0.1"], 2),
        (&["new", "#0@10.0.0.1"], 2),
        (&["new", "--control-planes", "2", "10.0.0.1"], 2),
        (&["new"], 2),
    ];
    for (args, code) in wrong {
        let output = run(dir.path(), args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains("hint: "), "{args:?}");
    }
    // The error names what the user wrote, and not a line of a file that does not exist.
    let twice = text(&run(dir.path(), &["new", "10.0.0.1", "ops@10.0.0.1"]).stderr);
    assert!(twice.contains("ops@10.0.0.1 is named twice") && !twice.contains("-->"), "{twice}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn check_refuses_the_known_hosts_that_plan_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let inventory = format!("{UNREACHABLE}[ssh]\nknown-hosts = 'known'\n");
    fs::write(dir.path().join("demo.toml"), inventory).unwrap();
    let key = "AAAAC3NzaC1lZDI1NTE5AAAAIGPKSUTyz1HwHReFVvD5obVsALAgJRNarH4TRpNePnAS";
    fs::write(dir.path().join("known"), format!("ssh-ed25519 {key} me@laptop\n")).unwrap();
    let reason = "known:1 is not a known_hosts line";
    for command in ["check", "plan"] {
        let output = run(dir.path(), &[command, "-i", "demo.toml"]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(10), "{command}: {said}");
        assert!(
            said.contains("known is not a file of known host keys") && said.contains(reason),
            "{command}: {said}"
        );
    }
    fs::remove_file(dir.path().join("known")).unwrap();
    assert_eq!(
        run(dir.path(), &["check", "-i", "demo.toml"]).status.code(),
        Some(0),
        "it need not exist yet"
    );
    fs::create_dir(dir.path().join("known")).unwrap();
    assert_eq!(run(dir.path(), &["check", "-i", "demo.toml"]).status.code(), Some(10), "a folder is refused");
}

#[test]
fn an_option_may_come_before_the_command() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("demo.toml"), UNREACHABLE).unwrap();
    let output = run(dir.path(), &["--json", "-i", "demo.toml", "plan"]);
    assert!(text(&output.stdout).starts_with("{\"schema\":2,\"event\":"), "{}", text(&output.stderr));
    assert_eq!(output.status.code(), Some(4));
}

#[test]
fn the_help_of_force_names_every_case() {
    let dir = tempfile::tempdir().unwrap();
    let help = text(&run(dir.path(), &["remove", "--help"]).stdout);
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for case in ["pods without a controller", "does not answer", "answers of a worker forbid the removal"] {
        assert!(help.contains(case), "{case}: {help}");
    }
}

#[test]
fn a_password_on_the_command_line_is_not_repeated() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("demo.toml"), UNREACHABLE).unwrap();
    let lines: [(&[&str], &str); 6] = [
        (&["new", "root:hunter2@10.0.0.1"], "root:[secret]@10.0.0.1: a password is not allowed here"),
        (&["new", "10.0.0.2", "root:x@hunter2@10.0.0.1"], "root:[secret]@10.0.0.1: a password"),
        (&["new", "root:hunter2:10.0.0.1"], "root:[secret]: this is not an address"),
        (&["new", "root:x@hunter2:10.0.0.1"], "root:[secret]: this is not an address"),
        (&["plan", "root:hunter2@10.0.0.1"], "[secret]@10.0.0.1"),
        (&["ssh-check", "-i", "demo.toml", "root:hunter2@10.0.0.1"], "no node [secret]@10.0.0.1"),
    ];
    for (args, says) in lines {
        let output = run(dir.path(), args);
        let said = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains(says) && !said.contains("hunter2"), "{args:?}: {said}");
        assert!(args[0] != "new" || said.contains("--password-command"), "{args:?}: {said}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

/// Whether a program is installed here. If it is missing, a message says that a test was skipped.
fn is_installed(program: &str) -> bool {
    use std::io::Write;
    let there = which::which(program).is_ok();
    if !there {
        let said = format!("SKIPPED: no {program} on this machine, so a check with it was skipped\n");
        std::io::stderr().write_all(said.as_bytes()).unwrap();
    }
    there
}

#[test]
fn bash_completes_commands_and_options() {
    let dir = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let script = run(dir.path(), &["completions", shell]).stdout;
        assert!(text(&script).contains("kubeconfig"), "{shell}");
        fs::write(dir.path().join(shell), script).unwrap();
    }
    if is_installed("bash") {
        // Calls the function as bash does: with the words of the line, and the index of the word to complete.
        let ask = r#"source ./bash || exit; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
            _ironstrap ironstrap "${@: -1}" "${@: -2:1}"; echo "${COMPREPLY[@]}""#;
        let complete = |words: &[&str]| {
            let mut bash = std::process::Command::new("bash");
            let bash = bash
                .args(["-c", ask, "-", "ironstrap"])
                .args(words)
                .current_dir(dir.path())
                .output()
                .unwrap();
            text(&bash.stdout) + &text(&bash.stderr)
        };
        assert_eq!(complete(&["ku"]), "kubeconfig\n");
        assert_eq!(complete(&["apply", "--li"]), "--limit\n");
    }
}

#[test]
fn every_command_has_a_valid_man_page() {
    let dir = tempfile::tempdir().unwrap();
    let said = run(dir.path(), &["man", "man1"]);
    assert_eq!(said.status.code(), Some(0));
    let help = text(&run(dir.path(), &["--help"]).stdout);
    let commands =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // The lines of a wrapped description are indented further than the commands.
    let first = |line: &'_ str| line.starts_with("  ") && !line.starts_with("   ");
    let mut commands: Vec<&str> =
        commands.filter(|line| first(line)).filter_map(|line| line.split_whitespace().next()).collect();
    commands.retain(|command| *command != "help");
    assert!(commands.len() > 5, "{help}");
    for page in commands.iter().map(|command| format!("ironstrap-{command}.1")).chain(["ironstrap.1".into()])
    {
        let path = dir.path().join("man1").join(&page);
        let written = fs::read_to_string(&path).unwrap();
        assert!([".TH", ".SH NAME", ".SH SYNOPSIS"].iter().all(|macro_| written.contains(macro_)), "{page}");
        if is_installed("groff") {
            let groff = std::process::Command::new("groff")
                .args(["-man", "-Tascii", "-ww", "-z"])
                .arg(&path)
                .output();
            assert_eq!(text(&groff.unwrap().stderr), "", "{page}");
        }
    }
    assert_eq!(
        text(&run(dir.path(), &["man"]).stdout),
        fs::read_to_string(dir.path().join("man1/ironstrap.1")).unwrap()
    );
}

const UNREACHABLE: &str = "[cluster]\nname = 'demo'\nkubernetes = '1.36.3'\n[nodes.m1]\naddress = '127.0.0.1:1'\n\
                           ip = '10.0.0.1'\nrole = 'control-plane'\n";

#[test]
fn every_command_warns_once_about_an_exposed_key() {
    let dir = cluster();
    let path = dir.path();
    fs::write(path.join("demo.toml"), UNREACHABLE).unwrap();
    fs::set_permissions(path.join("demo.trust/ca.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let warning = "other users can use ./demo.trust/ca.key (mode 0644): chmod 600 ./demo.trust/ca.key";
    let known = "--accept-new-host-keys";
    for args in [
        &["check", "-i", "demo.toml"][..],
        &["kubeconfig", "-i", "demo.toml"],
        &["ssh-check", "-i", "demo.toml"],
        &["ssh-check", "--json", "-i", "demo.toml"],
        &["plan", "-i", "demo.toml", known],
        &["apply", "-y", "-i", "demo.toml"],
        &["apply", "--dry-run", "-i", "demo.toml"],
        &["reset", "-y", "-i", "demo.toml"],
        &["remove", "m1", "-y", "-i", "demo.toml"],
        &["status", "-i", "demo.toml"],
        &["status", "--json", "-i", "demo.toml"],
    ] {
        let output = run(path, args);
        let told = text(&output.stderr);
        assert_eq!(told.matches(warning).count(), 1, "{args:?}: {told}");
        assert!(!text(&output.stdout).contains(warning), "{args:?}");
    }
    for args in [&["plan", "--json", "-i", "demo.toml"][..], &["apply", "-y", "--json", "-i", "demo.toml"]] {
        let output = text(&run(path, args).stdout);
        let events: Vec<Value> = output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let notes: Vec<&Value> = events.iter().filter(|event| event["event"] == "note").collect();
        assert!(notes.len() == 1 && notes[0]["note"] == warning, "{args:?}: {output}");
    }
    fs::set_permissions(path.join("demo.trust/ca.key"), fs::Permissions::from_mode(0o600)).unwrap();
    assert!(!text(&run(path, &["check", "-i", "demo.toml"]).stderr).contains("other users"));
}

#[test]
fn errors_have_no_credentials_and_no_control_characters() {
    let dir = tempfile::tempdir().unwrap();
    // An error shows the line of the inventory that it is about.
    let mirror = "[registries.'r.io']\nmirrors = ['https://ci:hunter2hunter2@m.example']\n";
    let proxy = "[proxy]\nhttps = 'ftp://ci:hunter2hunter2@proxy'\nhttp = 'ftp://glpat-0123456789@proxy'\n";
    fs::write(dir.path().join("demo.toml"), format!("{UNREACHABLE}{proxy}{mirror}")).unwrap();
    let told = text(&run(dir.path(), &["check", "-i", "demo.toml"]).stderr);
    assert!(told.contains("[secret]@proxy"), "{told}");
    assert!(told.contains("[secret]@m.example") && told.contains("`mirrors` cannot have a user"), "{told}");
    assert!(!told.contains("hunter2") && !told.contains("glpat"), "{told}");
    let told = text(&run(dir.path(), &["check", "-i", "x\u{9b}2J\u{202e}\ry.toml"]).stderr);
    assert!(
        told.contains("x\\u{9b}2J\\u{202e}\\u{d}y.toml") && !told.contains(['\r', '\u{9b}', '\u{202e}']),
        "{told:?}"
    );
}

#[test]
fn a_log_opens_with_a_command_line_without_secrets() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("demo.toml"), UNREACHABLE).unwrap();
    run(
        dir.path(),
        &["plan", "-i", "demo.toml", "--log", "run.log", "--password-command", "echo hunter2hunter2"],
    );
    let log = fs::read_to_string(dir.path().join("run.log")).unwrap();
    assert!(log.contains("plan -i demo.toml --log run.log --password-command [secret]\n"), "{log}");
    assert!(!log.contains("hunter2"), "{log}");
}

/// The examples on these pages are of the cluster that the README's first command describes.
#[test]
fn the_pages_show_the_number_of_checks_of_a_new_inventory() {
    let readme = fs::read_to_string("README.md").unwrap();
    let new = readme.lines().find_map(|line| line.strip_prefix("ironstrap new ")).unwrap();
    let machines: Vec<&str> = new.split_whitespace().take_while(|word| *word != "#").collect();
    let dir = tempfile::tempdir().unwrap();
    assert!(run(dir.path(), &[&["new"], &machines[..]].concat()).status.success());
    let checked = run(dir.path(), &["check"]);
    let said = text(&checked.stdout) + &text(&checked.stderr);
    let (_, checks) = said.split_once("a plan runs ").unwrap_or_else(|| panic!("{said}"));
    let checks = checks.split(' ').next().unwrap();
    let drift = fs::read_to_string("docs/drift.md").unwrap();
    for (page, text) in [("README.md", readme), ("docs/drift.md", drift)] {
        assert!(text.contains(&format!(" of {checks} checks ")), "{page} shows {checks} checks");
    }
}
