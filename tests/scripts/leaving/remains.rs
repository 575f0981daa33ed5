//! Tests how a reset without containerd finds the processes of pods, and how it handles mounts that do not answer.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{ID, Root, new_root};
use crate::support::{self, shells, tools};

/// Writes the /proc files of a process: its program, its PID namespace and its command line.
fn shown(root: &Root, pid: u32, exe: &str, namespace: &str, words: &[&str]) {
    root.write(&format!("proc/{pid}/cmdline"), &format!("{}\0", words.join("\0")));
    root.write(&format!("proc/{pid}/status"), "Name:\tx\nState:\tS (sleeping)\nPPid:\t1\n");
    fs::create_dir_all(root.path(&format!("proc/{pid}/ns"))).unwrap();
    symlink(namespace, root.path(&format!("proc/{pid}/ns/pid"))).unwrap();
    symlink(exe, root.path(&format!("proc/{pid}/exe"))).unwrap();
}

#[test]
fn a_shim_is_recognized_by_program_namespace_and_socket() {
    let here = fs::read_link("/proc/self/ns/pid").unwrap().display().to_string();
    for shell in shells() {
        let root = new_root();
        let socket = root.path("run/containerd/containerd.sock").display().to_string();
        let shim = "/usr/bin/containerd-shim-runc-v2";
        let words = |namespace, socket| [shim, "-namespace", namespace, "-id", ID, "-address", socket];
        shown(&root, 41, &format!("{shim} (deleted)"), &here, &words("k8s.io", &socket));
        shown(&root, 42, shim, &here, &words("moby", &socket));
        // No match: the containerd of k3s, a node of kind with its own PID namespace, and a program that is no shim.
        shown(&root, 43, shim, &here, &words("k8s.io", "/run/k3s/containerd/containerd.sock"));
        shown(&root, 44, shim, "pid:[1]", &words("k8s.io", &socket));
        shown(&root, 45, "/usr/bin/sleep", &here, &words("k8s.io", &socket));
        let mut said: Vec<String> = root.good(shell, "shims").lines().map(str::to_string).collect();
        said.sort();
        assert_eq!(said, ["41 k8s.io", "42 moby"], "{shell}");
    }
}

/// A process of this test that scripts see as a process of the machine. It ends with the test.
struct Running(Child);

impl Running {
    fn new(root: &Root, program: &Path, words: &[&str]) -> Running {
        let child = Command::new(program).args(words).stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let running = Running(child.unwrap());
        running.seen(root, running.0.id());
        running
    }

    fn seen(&self, root: &Root, pid: u32) {
        fs::create_dir_all(root.path("proc")).unwrap();
        symlink(format!("/proc/{pid}"), root.path(&format!("proc/{pid}"))).unwrap();
    }

    /// Returns whether the process is still alive after a moment.
    fn lives(&mut self) -> bool {
        let end = Instant::now() + Duration::from_millis(300);
        while Instant::now() < end {
            if self.0.try_wait().unwrap().is_some() {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        true
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a shim with a child process. Its program is a copy of a shell with the name of a shim.
fn shim(root: &Root, namespace: &str, socket: &str) -> (Running, u32) {
    let program = root.path("bin/containerd-shim-runc-v2");
    if !program.exists() {
        let copied = std::process::Command::new("cp").arg("/bin/sh").arg(&program).status().unwrap();
        assert!(copied.success());
    }
    let script = "sleep 60 & echo $!; wait";
    let words = ["-c", script, "-namespace", namespace, "-id", ID, "-address", socket];
    let mut shim = Running::new(root, &program, &words);
    let mut line = String::new();
    use std::io::{BufRead, BufReader};
    BufReader::new(shim.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let child = line.trim().parse().unwrap();
    shim.seen(root, child);
    (shim, child)
}

fn alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

#[test]
fn only_processes_of_the_clusters_pods_are_ended() {
    for shell in shells() {
        let root = new_root();
        root.write("var/lib/kept", "link lo\n");
        let socket = root.path("run/containerd/containerd.sock").display().to_string();
        let (mut ours, container) = shim(&root, "k8s.io", &socket);
        let (mut docker, theirs) = shim(&root, "moby", &socket);
        let (mut other, others) = shim(&root, "k8s.io", "/run/k3s/containerd/containerd.sock");
        let sleep = Path::new("/bin/sleep");
        // The shim of this process was killed. Only the cgroup shows that it belongs to a pod.
        let mut orphan = Running::new(&root, sleep, &["61"]);
        let mut neighbour = Running::new(&root, sleep, &["62"]);
        let slice = "sys/fs/cgroup/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podu.slice";
        // The kernel lists processes of another PID namespace as 0.
        root.write(
            &format!("{slice}/cri-containerd-{ID}.scope/cgroup.procs"),
            &format!("0\n{}\n", orphan.0.id()),
        );
        root.write("sys/fs/cgroup/system.slice/cgroup.procs", &format!("{}\n", neighbour.0.id()));
        root.good(shell, "mkdir -p /run/ironstrap; ended 5");
        assert!(!ours.lives() && !orphan.lives() && !alive(container), "{shell}");
        assert!(docker.lives() && other.lives() && neighbour.lives(), "{shell}");
        assert!(alive(theirs) && alive(others), "{shell}");
        for pid in [theirs, others] {
            let _ = Command::new("kill").arg(pid.to_string()).status().unwrap();
        }
        assert_eq!(root.good(shell, "of_pods"), "", "{shell}");
    }
}

/// The machine ran pods before ironstrap, and its notes say so.
#[test]
fn pods_from_before_the_cluster_keep_running() {
    for shell in shells() {
        let root = new_root();
        let mut theirs = Running::new(&root, Path::new("/bin/sleep"), &["60"]);
        root.write("sys/fs/cgroup/kubepods.slice/cgroup.procs", &format!("{}\n", theirs.0.id()));
        let kept = root.good(shell, "traces");
        root.write("var/lib/kept", &kept);
        root.good(shell, "mkdir -p /run/ironstrap; ended 1");
        assert!(theirs.lives(), "{shell}");
        // An older ironstrap did not note cgroups.
        root.write("var/lib/kept", "link lo\n");
        assert_eq!(root.good(shell, "of_pods"), format!("{}\n", theirs.0.id()), "{shell}");
    }
}

#[test]
fn an_unkillable_process_is_reported_with_its_remedy() {
    for shell in shells() {
        let root = new_root();
        root.write("var/lib/kept", "link lo\n");
        root.write("sys/fs/cgroup/kubepods.slice/cgroup.procs", "41\n");
        shown(&root, 41, "/usr/bin/mysqld", "pid:[1]", &["/usr/bin/mysqld", "--x"]);
        let output = root.run(shell, "mkdir -p /run/ironstrap; ended() { return 1; }; leave");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success(), "{shell}: {said}");
        assert!(said.contains("reason: process 41 (/usr/bin/mysqld) belongs to a pod"), "{shell}: {said}");
        assert!(said.ends_with("by hand: reboot\n"), "{shell}: {said}");
    }
}

/// Mounts a FUSE file system whose program never answers. A plain `umount` would wait without end.
const HUNG: &str = r#"
set -eu
RUN=$AT/run kept=$AT/kept; mkdir -p "$RUN" "$AT/pods/a/mount" "$AT/pods/b"; echo 'link lo' >"$kept"
exec 3<>/dev/fuse
mount -i -t fuse -o fd=3,rootmode=40000,user_id=0,group_id=0 hung "$AT/pods/a/mount"
sleep 30 >/dev/null 2>&1 & daemon=$!
exec 3<&-
kill -s STOP $daemon
mount -t tmpfs here "$AT/pods/b"; : >"$AT/pods/b/kept"
is_mount "$AT/pods/a/mount"; ! is_mount "$AT/pods/a"
unhung "$AT/pods"
mounted "$AT/pods"
umount "$AT/pods/b"
gone "$AT/pods"
[ -e "$AT/pods" ] || echo gone
kill -s KILL $daemon
"#;

#[test]
fn a_hanging_mount_does_not_block_the_reset() {
    let private = |shell: &str| {
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--propagation", "private", shell, "-s"]).env("PATH", tools::path());
        unshare
    };
    let can = "[ -w /dev/fuse ] && exec 3<>/dev/fuse";
    if !support::pipe(&mut private("sh"), can).status.success() {
        eprintln!("SKIPPED: this host cannot mount a FUSE file system");
        return;
    }
    for shell in shells() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().display().to_string();
        let text =
            ["undo", "remains"].map(|name| fs::read_to_string(format!("templates/{name}.sh")).unwrap());
        let since = Instant::now();
        let output = support::pipe(&mut private(shell), &format!("AT={at}\n{}\n{HUNG}", text.concat()));
        let said = String::from_utf8_lossy(&output.stdout).replace(&at, "");
        let right = "/pods/a/mount does not answer; ironstrap unmounts it by force\n/pods/b\ngone\n";
        assert_eq!(said, right, "{shell}: {output:?}");
        assert!(since.elapsed() < Duration::from_secs(25), "{shell}: {:?}", since.elapsed());
    }
}
