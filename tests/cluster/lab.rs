//! The lab as seen from the host: its command, and the machines' files and processes. Reading them from the host is fast
//! enough to catch a machine in the middle of a change.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

pub const NODES: [&str; 3] = ["m1", "w1", "w2"];

pub struct Lab {
    script: PathBuf,
    /// The folder of the running lab. The names of namespaces and cgroups contain its name.
    pub home: PathBuf,
}

/// A running machine. Each boot needs a new `Machine`.
pub struct Machine {
    pid: u32,
    cgroup: String,
}

#[derive(Clone, Debug)]
pub struct Process {
    pub pid: u32,
    /// The arguments of its command line.
    pub words: Vec<String>,
}

impl Lab {
    pub fn new() -> Lab {
        let home = std::env::var("IRONSTRAP_LAB").unwrap_or_else(|_| "/var/lib/ironstrap-lab".into());
        Lab { script: Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/lab"), home: home.into() }
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.script);
        command.args(args).stdin(Stdio::null());
        command
    }

    /// Runs a command of the lab. It may fail.
    pub fn try_run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs a command of the lab and returns its output. It must succeed.
    pub fn run(&self, args: &[&str]) -> String {
        let output = self.try_run(args);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "lab {}: {}\n{out}{err}", args.join(" "), output.status);
        out
    }

    /// Starts a command of the lab without waiting for its end.
    pub fn begin(&self, args: &[&str]) -> Child {
        self.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Runs a script as root on a machine and returns its output. It must succeed.
    pub fn ssh(&self, node: &str, script: &str) -> String {
        self.run(&["ssh", node, script])
    }

    /// Runs a script as root on each machine, one after the other.
    pub fn each(&self, script: &str) {
        NODES.iter().for_each(|node| drop(self.ssh(node, script)));
    }

    /// Runs a command of the lab for all machines at once.
    pub fn all(&self, command: &str) {
        let running = NODES.map(|node| (node, self.begin(&[command, node])));
        for (node, mut child) in running {
            assert!(child.wait().unwrap().success(), "lab {command} {node} failed");
        }
    }

    /// A file on a machine's disk. It works for a machine that is off, too.
    pub fn disk(&self, node: &str, path: &str) -> PathBuf {
        self.home.join("machines").join(node).join("root").join(path.trim_start_matches('/'))
    }

    pub fn machine(&self, node: &str) -> Machine {
        let pid = self.run(&["pid", node]).trim().parse().unwrap();
        let id = self.home.file_name().unwrap().to_string_lossy();
        Machine { pid, cgroup: format!("/{id}-{node}") }
    }

    /// Everything that can be seen of a machine's configuration: names, modes, owners, times, link targets and content below
    /// /etc and /var/lib/ironstrap, the unit files and the services. It leaves out what changes by itself:
    ///
    /// - the two services that start with each login
    /// - hostnamed, which ends when idle
    /// - the cgroups of pods
    /// - the time when flannel's pod last wrote its configuration
    pub fn looks(&self, node: &str) -> BTreeSet<String> {
        let said = self.ssh(
            node,
            "set -eu; export LC_ALL=C; set -- /etc; [ ! -e /var/lib/ironstrap ] || set -- \"$@\" /var/lib/ironstrap\n\
             find \"$@\" -printf '%p %y %m %U:%G %s %T@ %l\\n'\nfind \"$@\" -type f -exec sha256sum {} +\n\
             systemctl list-unit-files --no-legend --plain | sed 's/  */ /g'\n\
             systemctl list-units --all --type=service --no-legend --plain | sed 's/  */ /g'\n\
             echo 'the end'",
        );
        assert!(said.ends_with("the end\n"), "the output of {node} is incomplete");
        let moves = ["user@", "user-runtime-dir@", "cri-containerd-", "kubepods", "systemd-hostnamed."];
        let stays = |line: &&str| !moves.iter().any(|start| line.starts_with(start));
        let timeless = |line: &str| match line.strip_prefix("/etc/cni/net.d/10-flannel.conflist ") {
            Some(rest) => format!("flannel's: {}", rest.split(' ').take(4).collect::<Vec<_>>().join(" ")),
            None => line.to_string(),
        };
        said.lines().filter(stays).map(timeless).collect()
    }

    pub fn look_at_all(&self) -> Vec<BTreeSet<String>> {
        NODES.map(|node| self.looks(node)).into()
    }
}

/// Checks that nothing changed. The failure shows the lines that came and went.
pub fn assert_untouched(before: &[BTreeSet<String>], after: &[BTreeSet<String>]) {
    for (node, (before, after)) in NODES.iter().zip(before.iter().zip(after)) {
        let gone: Vec<&String> = before.difference(after).collect();
        let come: Vec<&String> = after.difference(before).collect();
        assert!(gone.is_empty() && come.is_empty(), "{node} was changed: gone {gone:#?}, come {come:#?}");
    }
}

impl Machine {
    /// A file as the machine itself sees it, including its mounts.
    pub fn file(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.pid))
    }

    pub fn has(&self, path: &str) -> bool {
        self.file(path).symlink_metadata().is_ok()
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.file(path)).unwrap_or_default()
    }

    pub fn listens(&self, port: u16) -> bool {
        let hex = format!(":{port:04X}");
        let tables = ["tcp", "tcp6"].map(|table| format!("/proc/{}/net/{table}", self.pid));
        let listens = |line: &str| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            columns.get(3) == Some(&"0A") && columns[1].ends_with(&hex)
        };
        tables.iter().any(|table| fs::read_to_string(table).unwrap_or_default().lines().any(listens))
    }

    /// All processes of the machine, including those of containers.
    pub fn processes(&self) -> Vec<Process> {
        let pids = fs::read_dir("/proc").unwrap().filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
        pids.filter_map(|pid| self.process(pid)).collect()
    }

    fn process(&self, pid: u32) -> Option<Process> {
        let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let ours = |line: &str| {
            let path = line.splitn(3, ':').nth(2).unwrap_or_default();
            path == self.cgroup || path.starts_with(&format!("{}/", self.cgroup))
        };
        if !cgroup.lines().any(ours) {
            return None;
        }
        let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        Some(Process {
            pid,
            words: words.split('\0').filter(|w| !w.is_empty()).map(str::to_string).collect(),
        })
    }

    /// The processes of a program with these arguments.
    pub fn running(&self, program: &str, words: &[&str]) -> Vec<Process> {
        let is = |p: &Process| {
            let name = p.words.first().map(|word| word.rsplit('/').next().unwrap_or_default());
            name == Some(program) && words.iter().all(|word| p.words.iter().any(|w| w == word))
        };
        self.processes().into_iter().filter(is).collect()
    }
}

/// Whether a process still runs.
pub fn alive(process: &Process) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.pid)).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

/// Sends a signal with a system call. On a busy machine, the program `kill` would start too late.
pub fn signal(signal: &str, processes: &[Process]) {
    let signal = match signal {
        "STOP" => Signal::STOP,
        "CONT" => Signal::CONT,
        "KILL" => Signal::KILL,
        _ => panic!("no signal {signal}"),
    };
    for pid in processes.iter().filter_map(|process| Pid::from_raw(process.pid.try_into().unwrap())) {
        // The process may have ended meanwhile.
        let _ = kill_process(pid, signal);
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
