//! A machine in a folder. An SSH server in the test process runs scripts with a real shell. The paths of a machine point
//! below the folder, and its own commands come before those of `tools`.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use russh::keys::PublicKey;
use russh::server::{Auth, Handle, Session};
use russh::{ChannelId, Disconnect};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::command::command;
use crate::support::ssh_server::{Service, config, listen, new_key, serve};
use crate::support::tools;

/// The paths of a machine that point below its folder.
const MOVED: [&str; 15] = [
    "/etc/",
    "/run/",
    "/var/lib/ironstrap",
    "/var/lib/kubelet/",
    "/proc/swaps",
    "/proc/filesystems",
    "/proc/sys/",
    "/proc/1/",
    "/sys/class/",
    "/sys/fs/cgroup",
    "/sys/module/",
    "/proc/config.gz",
    "/boot/",
    "/usr/lib/modules/",
    "/usr/lib/apt/",
];

/// A stand-in for `systemctl`. Files in a folder keep the state of each unit.
pub const SYSTEMCTL: &str = r#"cd $ROOT/units || exit
for unit; do :; done
unit=${unit%.service}
case $1 in
show)
  case "$*" in *' Type '*) echo notify; exit ;; *MainPID*) rm -f $ROOT/run/systemd/transient/$unit.service; echo 0; exit ;; esac
  while [ "$1" != -- ]; do shift; done; shift
  for id; do
    u=${id%.service}; load=not-found file=
    [ ! -e $u.enabled ] || { load=loaded; read -r file <$u.enabled; [ $file != masked ] || load=masked; }
    echo "Id=$id"; echo "LoadState=$load"; echo "UnitFileState=$file"
    if [ -e $u.since ]; then echo ActiveState=active; read -r since <$u.since; else echo ActiveState=inactive since=; since=; fi
    echo "ActiveEnterTimestamp=$since"; echo NeedDaemonReload=no; echo
  done ;;
mask) echo masked >$unit.enabled ;;
unmask) ;;
enable) echo enabled >$unit.enabled ;;
daemon-reload) ;;
restart) [ ! -x $ROOT/bin/restarting ] || restarting || exit; date -u '+%a %F %T.%6N UTC' >$unit.since; echo $unit >>$ROOT/restarts ;;
is-active) [ -e $unit.since ] ;;
*) echo "systemctl $*?" >&2; exit 64 ;;
esac"#;

/// The kernel options that kubeadm checks.
const KERNEL: &str = "NAMESPACES NET_NS PID_NS IPC_NS UTS_NS CPUSETS MEMCG INET EXT4_FS PROC_FS IP_NF_TARGET_REDIRECT \
    NETFILTER_XT_MATCH_COMMENT FAIR_GROUP_SCHED CGROUPS CGROUP_BPF CGROUP_PIDS CGROUP_SCHED";

pub struct Machine {
    pub name: String,
    pub root: tempfile::TempDir,
    pub port: u16,
    pub host_key: PublicKey,
    pub seen: Arc<Seen>,
}

/// What the server has seen, and its behaviour.
#[derive(Default)]
pub struct Seen {
    /// The number of scripts that ran.
    pub execs: AtomicUsize,
    /// Command lines, as `ps` would show them.
    pub commands: Mutex<Vec<String>>,
    /// If a script prints this text, it is killed and its connection is cut. The number says how often.
    pub cut: Mutex<Option<(String, usize)>>,
    /// What the server does instead of its work.
    pub harm: Mutex<Option<Harm>>,
    /// How many channels that the server opened the client accepted and rejected.
    pub channels: (AtomicUsize, AtomicUsize),
}

/// What a broken or hostile machine does to its clients.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Harm {
    /// Begins, and then stays silent.
    Silence,
    /// Begins, and prints 64 MiB in lines.
    Flood,
    /// Begins, and prints 64 MiB without a line break.
    Line,
    /// Prints 64 MiB before the script begins.
    Banner,
    /// Opens channels to the client, and then works normally.
    Channels,
    /// Answers questions. A fix prints a line that never ends.
    Fix,
    /// Answers questions. A fix prints a word again and again.
    Drip,
    /// Answers questions. Reports success for fixes without running them.
    Nothing,
}

impl Machine {
    /// Starts a freshly installed machine: Debian, with swap.
    pub async fn start(name: &str, login: &PublicKey) -> Machine {
        let (host_key, seen) = (new_key(), Arc::new(Seen::default()));
        let public = host_key.public_key().clone();
        let (listener, port) = listen().await;
        let root = tempfile::tempdir().unwrap();
        let guest =
            FolderService { login: login.clone(), root: root.path().to_path_buf(), seen: seen.clone() };
        serve(listener, config(host_key), Arc::new(guest));
        let machine = Machine { name: name.into(), root, port, host_key: public, seen };
        machine.furnish();
        machine
    }

    fn furnish(&self) {
        // The network of the host must not matter.
        self.command(
            "ip",
            "case \"$*\" in *'route show default'*) echo default via 198.18.0.1 dev eth0 ;; esac",
        );
        self.write("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n");
        self.write("sys/class/net/eth0/address", "02:00:00:00:00:01\n");
        self.write(
            "proc/config.gz",
            &KERNEL.split_whitespace().map(|key| format!("CONFIG_{key}=y\n")).collect::<String>(),
        );
        self.write("etc/resolv.conf", "nameserver 198.18.0.1\n");
        self.write("etc/os-release", "ID=debian\nVERSION_CODENAME=trixie\n");
        self.write("etc/fstab", "UUID=a / ext4 defaults 0 1\n/swap.img none swap sw 0 0\n");
        self.write("etc/hosts", "127.0.0.1 localhost");
        self.write("proc/swaps", "Filename Type Size Used Priority\n/swap.img file 2097148 0 -2\n");
        self.write("proc/1/comm", "systemd\n");
        self.write("proc/filesystems", "nodev\tproc\n\text4\n");
        self.write("proc/sys/kernel/hostname", &format!("{}\n", self.name));
        self.write("proc/sys/kernel/random/boot_id", "0b\n");
        self.write("proc/sys/net/ipv4/ip_forward", "0\n");
        self.write("proc/sys/fs/inotify/max_user_instances", "128\n");
        for dir in
            ["proc/sys/net/bridge", "proc/sys/net/netfilter", "run/systemd/transient", "etc/toy", "units"]
        {
            fs::create_dir_all(self.path(dir)).unwrap();
        }
        self.command("id", "echo 0");
        self.command("dpkg", "exit 0");
        // The apt of the host and its network must not matter either.
        for name in ["apt-get", "apt-cache", "apt-config", "dpkg-query"] {
            self.command(name, "exit 0");
        }
        self.command("findmnt", "echo / ext4 rw,relatime");
        self.command("nproc", "echo 4");
        // The folder belongs to the user who runs the tests. On a machine it belongs to root.
        self.command("stat", "/usr/bin/stat \"$@\" | sed 's/\\(\\tmode [0-7]*\\) [^\\t]*/\\1 root:root/'");
        self.command("systemctl", SYSTEMCTL);
        self.command("systemd-run", "while [ \"$1\" != /bin/sh ]; do shift; done\nexec \"$@\"");
        self.command("swapoff", "sed -i 1q $ROOT/proc/swaps");
        self.command(
            "getent",
            "awk -v name=\"$2\" '$2 == name { print $1, \"STREAM\", name }' $ROOT/etc/hosts",
        );
        self.command(
            "modprobe",
            "case $1 in overlay) echo 'nodev overlay' >>$ROOT/proc/filesystems ;;\n\
             br_netfilter) for f in iptables ip6tables; do echo 0 >$ROOT/proc/sys/net/bridge/bridge-nf-call-$f; done ;;\n\
             nf_conntrack) echo 1 >$ROOT/proc/sys/net/netfilter/nf_conntrack_max ;; esac",
        );
        self.command(
            "sysctl",
            "k=${2%=*}; f=$ROOT/proc/sys/$(echo $k | tr . /); [ -e $f ] && echo ${2#*=} >$f",
        );
        self.command("switch", "echo on >$ROOT/etc/toy/switch");
        self.command(
            "enter",
            "mkdir -p $ROOT/etc/kubernetes/manifests $ROOT/var/lib/kubelet/pki\n\
             [ $1 = worker ] || echo >$ROOT/etc/kubernetes/manifests/kube-apiserver.yaml\n\
             echo >$ROOT/etc/kubernetes/kubelet.conf; echo >$ROOT/var/lib/kubelet/pki/kubelet-client-current.pem",
        );
        self.command("label", "echo $1 >>$ROOT/etc/toy/labels");
    }

    /// Puts the machine into the state that the toy steps want.
    pub fn settle(&self, secret: &str) {
        self.write("etc/toy/greeting", "hello\n");
        self.write("etc/toy/switch", "on\n");
        self.write("etc/toy/secret", secret);
        for (name, mode) in [("etc/toy/greeting", 0o644), ("etc/toy/secret", 0o600)] {
            fs::set_permissions(self.path(name), Permissions::from_mode(mode)).unwrap();
        }
        self.write("units/toyd.enabled", "enabled\n");
        let since = Command::new("date").args(["-u", "+%a %F %T.%6N UTC"]).output().unwrap();
        self.write("units/toyd.since", &String::from_utf8_lossy(&since.stdout));
        self.write("restarts", "toyd\n");
        self.write("etc/kubernetes/kubelet.conf", "\n");
        self.write("var/lib/kubelet/pki/kubelet-client-current.pem", "\n");
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|_| "absent".into())
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
    }

    /// Adds a command to the machine.
    pub fn command(&self, name: &str, script: &str) {
        let script = format!("ROOT={}\n{script}\n", self.root.path().display());
        command(&self.path(&format!("bin/{name}")), &script);
    }

    /// Returns how many scripts ran since the last call.
    pub fn execs(&self) -> usize {
        self.seen.execs.swap(0, SeqCst)
    }

    /// Cuts the connection this many times when a script prints these words.
    pub fn cut_at(&self, words: &str, times: usize) {
        *self.seen.cut.lock().unwrap() = Some((words.into(), times));
    }

    /// Every file of the machine with its text, except the state of units and the files of ironstrap's runs.
    pub fn files(&self) -> Vec<(String, String)> {
        let (mut all, mut folders) = (Vec::new(), vec![self.root.path().to_path_buf()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(self.root.path()).unwrap().display().to_string();
                match path.is_dir() {
                    true if name == "run/ironstrap" || name == "units" => {}
                    true => folders.push(path),
                    false => all.push((name.clone(), self.read(&name))),
                }
            }
        }
        all.sort();
        all
    }
}

/// The service of the machine: who may log in, and where its files are.
struct FolderService {
    login: PublicKey,
    root: PathBuf,
    seen: Arc<Seen>,
}

impl Service for FolderService {
    fn logs_in(&self, key: &PublicKey) -> Auth {
        match key.key_data() == self.login.key_data() {
            true => Auth::Accept,
            false => Auth::reject(),
        }
    }

    fn command(
        self: &Arc<Self>,
        id: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        self.seen.commands.lock().unwrap().push(String::from_utf8_lossy(command).into());
        session.channel_success(id)
    }

    fn script(
        self: &Arc<Self>,
        id: ChannelId,
        script: String,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        self.seen.execs.fetch_add(1, SeqCst);
        tokio::spawn(run(id, session.handle(), script, self.root.clone(), self.seen.clone()));
        Ok(())
    }
}

/// Runs a script on the machine, and passes on its output as it comes.
async fn run(id: ChannelId, handle: Handle, script: String, root: PathBuf, seen: Arc<Seen>) {
    let harm = *seen.harm.lock().unwrap();
    match harm {
        Some(Harm::Channels) => open_channels(&handle, &seen).await,
        // Only scripts of fixes contain the functions of the lease.
        Some(Harm::Fix | Harm::Nothing | Harm::Drip) if !script.contains("take_lease()") => {}
        Some(harm) => return do_harm(harm, id, &handle).await,
        None => {}
    }
    let root = root.display().to_string();
    let script = MOVED.iter().fold(script, |script, path| script.replace(path, &format!("{root}{path}")));
    let script = script.replace(tools::SYSTEM_PATH, &format!("{root}/bin:{}", tools::path()));
    let mut shell = tokio::process::Command::new("/bin/sh");
    let shell = shell.arg("-s").process_group(0);
    let mut child =
        shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut input, mut errors) = (child.stdin.take().unwrap(), child.stderr.take().unwrap());
    tokio::spawn(async move { drop(input.write_all(script.as_bytes()).await) });
    let errors = tokio::spawn(async move {
        let mut all = Vec::new();
        errors.read_to_end(&mut all).await.map(|_| all)
    });
    let (mut output, mut piece, mut line) = (child.stdout.take().unwrap(), [0; 8192], Vec::new());
    loop {
        let n = output.read(&mut piece).await.unwrap();
        line.extend_from_slice(&piece[..n]);
        // Sends whole lines, so that no path is split.
        let whole =
            if n == 0 { line.len() } else { line.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1) };
        let lines: Vec<u8> = line.drain(..whole).collect();
        let lines = replace(&lines, root.as_bytes());
        let cut = is_cut(&lines, &seen);
        if !lines.is_empty() && handle.data(id, lines).await.is_err() || cut {
            let group = format!("-{}", child.id().unwrap_or_default());
            let _ = tokio::process::Command::new("kill").args(["-9", "--", &group]).status().await;
            let _ = handle.disconnect(Disconnect::ByApplication, "cut".into(), "".into()).await;
            return;
        }
        if n == 0 {
            break;
        }
    }
    let errors = replace(&errors.await.unwrap().unwrap(), root.as_bytes());
    if !errors.is_empty() {
        let _ = handle.extended_data(id, 1, errors).await;
    }
    let status = child.wait().await.unwrap().code().unwrap_or(255);
    let _ = handle.exit_status_request(id, status as u32).await;
    let _ = handle.eof(id).await;
    let _ = handle.close(id).await;
}

/// The server does not close the connection.
async fn do_harm(harm: Harm, id: ChannelId, handle: &Handle) {
    let begin = "\n--ironstrap begins--\n";
    if harm != Harm::Banner && handle.data(id, begin).await.is_err() {
        return;
    }
    let piece = match harm {
        Harm::Silence => return,
        Harm::Nothing => {
            let _ = handle.exit_status_request(id, 0).await;
            let _ = handle.eof(id).await;
            let _ = handle.close(id).await;
            return;
        }
        Harm::Drip => {
            while handle.data(id, "word\n").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            return;
        }
        Harm::Flood => b"and so on\n".repeat(3276),
        _ => vec![b'x'; 32 << 10],
    };
    for _ in 0..2048 {
        if handle.data(id, piece.clone()).await.is_err() {
            return;
        }
    }
}

/// Opens channels of each kind.
async fn open_channels(handle: &Handle, seen: &Seen) {
    for _ in 0..20 {
        let opened = [
            handle.channel_open_session().await.is_ok(),
            handle.channel_open_agent().await.is_ok(),
            handle.channel_open_x11("127.0.0.1", 1).await.is_ok(),
            handle.channel_open_forwarded_tcpip("127.0.0.1", 1, "127.0.0.1", 1).await.is_ok(),
            handle.channel_open_direct_tcpip("127.0.0.1", 1, "127.0.0.1", 1).await.is_ok(),
            handle.channel_open_forwarded_streamlocal("/x").await.is_ok(),
        ];
        for opened in opened {
            let count = if opened { &seen.channels.0 } else { &seen.channels.1 };
            count.fetch_add(1, SeqCst);
        }
    }
}

/// Removes the folder from the output of a script.
fn replace(text: &[u8], root: &[u8]) -> Vec<u8> {
    let (mut rest, mut kept) = (text, Vec::new());
    while let Some(at) = rest.windows(root.len()).position(|window| window == root) {
        kept.extend_from_slice(&rest[..at]);
        rest = &rest[at + root.len()..];
    }
    kept.extend_from_slice(rest);
    kept
}

fn is_cut(lines: &[u8], seen: &Seen) -> bool {
    let mut cut = seen.cut.lock().unwrap();
    let text = String::from_utf8_lossy(lines);
    match cut.as_mut() {
        Some((words, times)) if *times > 0 && text.contains(words.as_str()) => {
            *times -= 1;
            true
        }
        _ => false,
    }
}
