//! Leaving a cluster: what it deletes from a machine, and what it must not touch. Other tests find the processes of
//! pods among others with the same name. All tests run in every shell, with a folder that stands for the machine.

mod remains;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::root::{Root, templates};
use crate::support::{self, shells, tools};

/// A machine whose scripts have the functions of leaving. The commands that would change a machine do nothing.
fn new_root() -> Root {
    let moved = [
        "/run/",
        "/var/lib/",
        "/var/log/",
        "/etc/",
        "/opt/",
        "/sys/fs/",
        "/proc/$pid",
        "/proc/[0-9]",
        "/usr/sbin/nft",
    ];
    let text = templates(&["lib", "undo", "pods", "remains", "etcd", "leave"]);
    let root = Root::new(&moved).before(&format!(
        "ETCD=${{ETCD-/var/lib/etcd}} NETWORK=flannel WAIT_TIMEOUT=1 kept=/var/lib/kept\n\
         [ ! -e /var/lib/etcd-is ] || ETCD=$(cat /var/lib/etcd-is)\n{text}"
    ));
    for command in
        ["systemctl", "ip", "iptables-nft-save", "ip6tables-nft-save", "dpkg", "kubeadm", "ctr", "perl"]
    {
        root.command(command, if command == "dpkg" { "exit 1" } else { "" });
    }
    root
}

/// All paths below these folders.
fn all(root: &Root) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for top in ["etc", "opt", "run", "srv", "var"] {
        list(&root.path(top), &root.path(""), &mut all);
    }
    all
}

fn list(path: &Path, root: &Path, all: &mut BTreeSet<String>) {
    let Ok(is) = fs::symlink_metadata(path) else { return };
    all.insert(path.strip_prefix(root).unwrap().display().to_string());
    if is.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| list(&entry.unwrap().path(), root, all));
    }
}

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Files of others that exist before the machine joins.
const BEFORE: &[&str] = &[
    "etc/kubernetes/theirs.conf",
    "etc/kubernetes-other/admin.conf",
    "etc/cni/net.d/10-theirs.conflist",
    "etc/cni-other/x",
    "opt/cni/bin/theirs",
    "run/flannel2/subnet.env",
    "run/netns/blue",
    "run/netns/cni-foreign",
    "run/xtables.lock2",
    "srv/backups/old",
    "var/lib/cni/networks/theirs/10.88.0.2",
    "var/lib/etcd2/member/wal/x",
    "var/lib/kubelet-other/config.yaml",
    "var/lib/kubelet/theirs/a b",
    "var/log/pods-old/x",
];

/// Files that others create while the machine is a member.
const SINCE: &[&str] = &[
    "etc/cni/net.d/87-theirs.conflist",
    "etc/kubernetes-new/x",
    "run/netns/blue2",
    "srv/backups/new",
    "srv/member2/wal/x",
    "srv/new",
    "var/lib/cni/networks/since/10.99.0.2",
    "var/lib/etcd3/member/wal/x",
    "var/lib/kubelet2/x",
];

/// Files that the cluster creates.
const ONLY_OURS: &[&str] = &[
    "etc/cni/net.d/10-flannel.conflist",
    "etc/kubernetes/*",
    "etc/kubernetes/[a-z]",
    "etc/kubernetes/a b",
    "etc/kubernetes/manifests/etcd.yaml",
    "etc/kubernetes/pki/ca.crt",
    "opt/cni/bin/flannel",
    "run/flannel/subnet.env",
    "run/netns/cni-5f0e",
    "run/xtables.lock",
    "srv/member/snap/db",
    "srv/member/wal/0.wal",
    "var/lib/cni/networks/cbr0/10.244.0.2",
    "var/lib/kubelet/config.yaml",
    "var/lib/kubelet/pods/u/volumes/x/y",
    "var/log/containers/a.log",
    "var/log/pods/kube-system_a_u/a/0.log",
];

fn write_files_of_cluster(root: &Root) {
    for name in SINCE.iter().chain(ONLY_OURS) {
        root.write(name, if name.ends_with("87-theirs.conflist") { "{\"name\": \"since\"}" } else { "" });
    }
    root.write(&format!("var/lib/cni/results/cbr0-{ID}-eth0"), "");
    root.write(&format!("var/lib/cni/results/cbr0-theirs-{ID}-eth0"), "");
}

#[test]
fn leaving_deletes_only_what_the_cluster_made() {
    for shell in shells() {
        let root = new_root();
        BEFORE.iter().for_each(|name| root.write(name, ""));
        root.write("var/lib/etcd-is", &format!("{}/srv", root.text()));
        // The second line of this name must not count as a recorded path.
        root.write("etc/kubernetes/x\npath y", "");
        let kept = root.good(shell, "traces");
        root.write("var/lib/kept", &kept);
        let mut right = all(&root);
        write_files_of_cluster(&root);
        let ours = |name: &String| ONLY_OURS.iter().any(|ours| ours == name);
        let mut since = BTreeSet::new();
        for name in SINCE
            .iter()
            .map(|name| name.to_string())
            .chain([format!("var/lib/cni/results/cbr0-theirs-{ID}-eth0")])
        {
            let path = Path::new(&name);
            since.extend(
                path.ancestors().map(|path| path.display().to_string()).filter(|path| !path.is_empty()),
            );
        }
        right.extend(since);
        assert!(all(&root).iter().any(ours));
        root.good(shell, "mkdir -p /run/ironstrap; leave");
        // The script itself made this folder.
        let after: BTreeSet<String> =
            all(&root).into_iter().filter(|name| !name.starts_with("run/ironstrap")).collect();
        let gone: Vec<&String> = right.difference(&after).collect();
        let left: Vec<&String> = after.difference(&right).collect();
        assert!(gone.is_empty() && left.is_empty(), "{shell}: gone {gone:#?}, left {left:#?}");
        root.good(shell, "leave");
    }
}

/// A machine with the receipt and the CA's certificate is a member. The certificate is deleted last.
#[test]
fn a_machine_stops_being_a_member_first() {
    let receipt = "var/lib/ironstrap/kubeadm-receipt";
    for shell in shells() {
        let root = new_root();
        for name in ["var/lib/kept", receipt, "etc/kubernetes/pki/ca.crt"] {
            root.write(name, "");
        }
        // The script is interrupted at its first slow step.
        root.run(shell, "mkdir -p /run/ironstrap; remove_rules() { exit 9; }; leave");
        assert!(!root.path(receipt).exists() && root.path("etc/kubernetes/pki/ca.crt").exists(), "{shell}");
    }
}

/// `leave` can be interrupted at any point. So it first deletes the files of a member, and then those of its role.
#[test]
fn a_leaving_control_plane_never_looks_like_a_worker() {
    let role = ["etc/kubernetes/manifests/kube-apiserver.yaml", "etc/kubernetes/admin.conf"];
    let certificate = "var/lib/kubelet/pki/kubelet-client-current.pem";
    for shell in shells() {
        let root = new_root();
        let kept = root.good(shell, "traces");
        root.write("var/lib/kept", &kept);
        role.iter().for_each(|name| root.write(name, ""));
        root.write(certificate, "");
        // Records which of these files exist before and after each deletion.
        let seen = format!(
            "for f in {} {certificate}; do [ ! -e $ROOT/$f ] || printf '%s ' $f; done",
            role.join(" ")
        );
        root.command("seen", &format!("{{ {seen}; echo; }} >>$ROOT/seen"));
        root.good(shell, "mkdir -p /run/ironstrap; gone() { seen; rm -rf -- \"$1\"; seen; }; leave");
        let seen = root.read("seen");
        assert!(seen.lines().count() > 2 && seen.lines().last() == Some(""), "{shell}: {seen}");
        for line in seen.lines().filter(|line| line.contains(certificate)) {
            role.iter().for_each(|name| assert!(line.contains(name), "{shell}: {seen}"));
        }
    }
}

#[test]
fn without_records_nothing_is_deleted() {
    for shell in shells() {
        let root = new_root();
        write_files_of_cluster(&root);
        let before = all(&root);
        root.good(shell, "mkdir -p /run/ironstrap; came /etc/kubernetes; ! is_new path /srv; cleared /etc/kubernetes; no_etcd; no_netns");
        assert!(before.is_subset(&all(&root)), "{shell}");
    }
}

#[test]
fn records_of_an_older_version_are_used() {
    for shell in shells() {
        let root = new_root();
        root.write("etc/kubernetes/theirs.conf", "");
        fs::create_dir_all(root.path("data/kubelet/theirs")).unwrap();
        fs::create_dir_all(root.path("var/lib")).unwrap();
        symlink(root.path("data/kubelet"), root.path("var/lib/kubelet")).unwrap();
        let at = root.text();
        // An older version did not record files behind links.
        root.write("var/lib/kept", &format!("path {at}/etc/kubernetes\npath {at}/etc/kubernetes/theirs.conf\npath {at}/var/lib/kubelet\nlink lo\n"));
        root.write("etc/kubernetes/pki/ca.crt", "");
        root.write("var/lib/etcd/member/wal/x", "");
        root.good(shell, "mkdir -p /run/ironstrap; leave");
        assert!(
            root.path("data/kubelet/theirs").exists() && root.path("etc/kubernetes/theirs.conf").exists()
        );
        assert!(!root.path("etc/kubernetes/pki").exists() && !root.path("var/lib/etcd").exists(), "{shell}");
    }
}

#[test]
fn data_behind_a_link_is_deleted_but_the_link_stays() {
    for shell in shells() {
        let root = new_root();
        for name in ["kubelet", "etcd"] {
            fs::create_dir_all(root.path(&format!("data/{name}"))).unwrap();
            fs::create_dir_all(root.path("var/lib")).unwrap();
            symlink(root.path(&format!("data/{name}")), root.path(&format!("var/lib/{name}"))).unwrap();
        }
        root.write("data/kubelet/theirs", "");
        let kept = root.good(shell, "traces");
        root.write("var/lib/kept", &kept);
        root.write("data/kubelet/config.yaml", "");
        root.write("data/etcd/member/wal/x", "");
        root.good(shell, "mkdir -p /run/ironstrap; leave");
        assert!(root.path("var/lib/etcd").is_dir() && !root.path("data/etcd/member").exists(), "{shell}");
        assert!(
            root.path("var/lib/kubelet/theirs").exists() && !root.path("data/kubelet/config.yaml").exists()
        );
    }
}

#[test]
fn only_the_folder_that_etcd_used_is_deleted() {
    for shell in shells() {
        let root = new_root();
        root.write("var/lib/kept", &root.good(shell, "traces"));
        let at = root.text();
        root.write(
            "etc/kubernetes/manifests/etcd.yaml",
            &format!("    - etcd\n    - --data-dir={at}/data/etcd\n"),
        );
        root.write("data/etcd/member/wal/x", "");
        root.write("var/lib/etcd/member/wal/theirs", "");
        root.good(shell, "mkdir -p /run/ironstrap; leave");
        assert!(!root.path("data/etcd").exists(), "{shell}");
        assert!(root.path("var/lib/etcd/member/wal/theirs").exists(), "{shell}");
    }
}

#[test]
fn mounted_folders_are_not_entered() {
    let private = |shell: &str| {
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--propagation", "private", shell, "-s"]).env("PATH", tools::path());
        unshare
    };
    if !support::pipe(&mut private("sh"), "exit 0").status.success() {
        eprintln!("SKIPPED: no mounts of its own can be made here");
        return;
    }
    for shell in shells() {
        let root = tempfile::tempdir().unwrap();
        let at = root.path().display();
        let undo = fs::read_to_string("templates/undo.sh").unwrap();
        let script = format!(
            "set -eu; cd {at}; mkdir -p 'ours/a/b c' ours/d theirs; : >theirs/kept; : >ours/d/x; : >ours/.hidden\n\
             mount --bind theirs 'ours/a/b c'\n{undo}\nmounted {at}/ours\nempty {at}/ours\nls theirs; ls -A ours; ls ours/a\n\
             umount 'ours/a/b c'; gone {at}/ours; ls"
        );
        let output = support::pipe(&mut private(shell), &script);
        let said = String::from_utf8_lossy(&output.stdout).replace(&at.to_string(), "");
        let stays = "/ours/a/b c\n/ours/a/b c stays: something is mounted there\n";
        assert_eq!(said, format!("{stays}kept\na\nb c\ntheirs\n"), "{shell}: {output:?}");
    }
}

/// Two pods and a process outside of pods, all with the same name. One of the pods is kubeadm's.
fn api_servers(root: &Root, top: &str) {
    let (ours, tenants) = ("0123456789abcdef0123456789abcdef", "7c1a3c5e-1111-4222-8333-444455556666");
    let kubepods = format!("sys/fs/cgroup{top}/kubepods.slice/kubepods-burstable.slice");
    for (uid, pids) in [(ours, "41\n42\n"), (&tenants.replace('-', "_"), "43\n")] {
        let scope = format!("{kubepods}/kubepods-burstable-pod{uid}.slice/cri-containerd-{ID}.scope");
        root.write(&format!("{scope}/cgroup.procs"), pids);
    }
    for folder in [
        format!("kube-system_kube-apiserver-m1_{ours}"),
        format!("kube-system_kube-apiserver-m1_{tenants}"),
        format!("tenant_kube-apiserver-m1_{tenants}"),
        "kube-system_kube-apiserver-m10_ffff".into(),
    ] {
        fs::create_dir_all(root.path(&format!("var/log/pods/{folder}"))).unwrap();
    }
    let pki = root.path("etc/kubernetes/pki/ca.crt");
    for (pid, program, flags) in [
        (41, "kube-apiserver", "--v=1"),
        (42, "/pause", ""),
        (43, "kube-apiserver", "--v=2"),
        (44, "kube-apiserver", "--v=3"),
    ] {
        root.write(&format!("proc/{pid}/comm"), "kube-apiserver\n");
        root.write(&format!("proc/{pid}/cmdline"), &format!("{program}\0--ca={}\0{flags}\0", pki.display()));
        root.write(&format!("proc/{pid}/stat"), &format!("{pid} (kube-apiserver) S{}\n", " 1".repeat(40)));
    }
    root.write("etc/kubernetes/pki/ca.crt", "");
    let manifest = format!(
        "spec:\n  containers:\n  - command:\n    - kube-apiserver\n    - --v=1\n    - --ca={}\n",
        pki.display()
    );
    root.write("etc/kubernetes/manifests/kube-apiserver.yaml", &manifest);
}

#[test]
fn a_component_is_found_only_in_kubeadms_pod() {
    for (shell, top) in
        shells().into_iter().flat_map(|shell| ["", "/systemd", "/unified"].map(|top| (shell, top)))
    {
        let root = new_root();
        api_servers(&root, top);
        assert_eq!(root.good(shell, "component kube-apiserver m1"), "41\n", "{shell} {top}");
        assert_eq!(root.good(shell, "component etcd m1; component kube-apiserver m2"), "");
        let stale = root.good(shell, "stale m1");
        assert_eq!(
            stale,
            format!("41 kube-apiserver {}\n", root.path("etc/kubernetes/pki/ca.crt").display())
        );
        root.good(shell, "as_written kube-apiserver m1");
        root.write("proc/41/cmdline", "kube-apiserver\0--v=2\0");
        let output = root.run(shell, "as_written kube-apiserver m1");
        assert!(!output.status.success() && output.stderr.ends_with(b"new manifest\n"), "{output:?}");
        // The manifest is old, so the kubelet should have restarted the process. A long argument continues on the next
        // line.
        let old = "stat() { command stat \"$@\" | sed '/\\/manifests\\//s/^[0-9.]* /1 /'; }\nstale m1";
        assert!(root.good(shell, old).starts_with("41 kube-apiserver arguments\n"), "{shell}");
        assert!(
            !root.good(shell, "stale m1").contains("arguments"),
            "{shell}: the kubelet may still restart it"
        );
        let manifest = root.read("etc/kubernetes/manifests/kube-apiserver.yaml");
        let folded = manifest.replace("--v=1", "'--v=2\n      x'\n    - --w=3").replace("--ca=", "\"--ca=")
            + "\"\n    image: x\n";
        root.write("etc/kubernetes/manifests/kube-apiserver.yaml", &folded.replace("\n\"", "\""));
        let ca = root.path("etc/kubernetes/pki/ca.crt").display().to_string();
        root.write("proc/41/cmdline", &format!("kube-apiserver\0--ca={ca}\0--v=2 x\0--w=3\0"));
        assert!(!root.good(shell, old).contains("arguments"), "{shell}");
        root.write("proc/41/cmdline", &format!("kube-apiserver\0--ca={ca}\0--v=2 x\0--w=3\0--w=3\0"));
        assert!(root.good(shell, old).contains("arguments"), "{shell}: twice");
        // If the process and its manifest cannot be compared, the check fails.
        let manifest = root.path("etc/kubernetes/manifests/kube-apiserver.yaml");
        fs::remove_file(&manifest).unwrap();
        assert!(!root.run(shell, "as_written kube-apiserver m1").status.success(), "{shell}: no manifest");
        root.write("etc/kubernetes/manifests/kube-apiserver.yaml", &folded.replace("\n\"", "\""));
        root.write("proc/41/cmdline", "");
        assert!(
            !root.run(shell, "as_written kube-apiserver m1").status.success(),
            "{shell}: the process is ending"
        );
        // The process has ended. Other processes with its name do not count.
        fs::remove_dir_all(root.path("proc/41")).unwrap();
        assert_eq!(root.good(shell, "component kube-apiserver m1; stale m1"), "");
    }
}

#[test]
fn without_pod_logs_containerd_must_name_the_pod() {
    for shell in shells() {
        let root = new_root();
        api_servers(&root, "");
        fs::remove_dir_all(root.path("var/log/pods")).unwrap();
        root.command("ctr", "case $* in *' containers ls -q '*'\"kube-system\"'*'\"kube-apiserver\"'*'pod.name\"==\"kube-apiserver-m1\"') echo ours ;; *'tasks ls') printf 'TASK PID STATUS\\nours 41 RUNNING\\nother 43 RUNNING\\n' ;; esac");
        assert_eq!(root.good(shell, "component kube-apiserver m1"), "41\n", "{shell}");
        root.command("ctr", "echo 'no answer' >&2; exit 1");
        assert!(!root.run(shell, "stale m1").status.success(), "{shell}: without an answer, the check fails");
    }
}

/// Makes a containerd that knows kube-proxy, with this process id, and a pod of a tenant.
fn proxies(root: &Root, pid: u32) {
    root.command("chroot", "echo chroot $* >>$ROOT/ran");
    root.command(
        "ctr",
        &format!(
            "case $* in\n*'containers ls -q '*'\"kube-system\"'*'\"kube-proxy\"'*) echo proxy ;;\n\
             *'tasks ls') printf 'TASK PID STATUS\\ntenant {} RUNNING\\nproxy {pid} RUNNING\\n' ;;\n\
             *'tasks exec'*) shift 6; echo in $* >>$ROOT/ran ;;\nesac",
            std::process::id()
        ),
    );
}

#[test]
fn programs_of_containers_run_only_in_their_container() {
    for shell in shells() {
        let root = new_root();
        let mut child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
        proxies(&root, child.id());
        root.write("var/lib/kept", "link lo\n");
        root.good(shell, "mkdir -p /run/ironstrap; remove_rules; traces >/dev/null");
        let ran = root.read("ran");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(ran.contains("in proxy ") && ran.contains("nft list tables\n"), "{shell}: {ran}");
        assert!(ran.lines().all(|line| line.starts_with("in proxy ")), "{shell}: {ran}");
        // Without the container, the program does not run.
        root.command("ctr", "");
        let said = root.good(shell, "command() { return 1; }; remove_rules");
        assert!(said.contains("nft is not installed"), "{shell}: {said}");
    }
}

/// containerd was stopped, but its containers still run. Only kube-proxy's nft can list the tables with its rules.
#[test]
fn rules_are_removed_even_if_containerd_was_stopped() {
    for shell in shells() {
        let root = new_root();
        let mut child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
        proxies(&root, child.id());
        root.command(
            "systemctl",
            "echo $* >>$ROOT/asked\ncase $* in 'is-active -q containerd') [ -e $ROOT/on ] ;; 'start containerd') : >$ROOT/on ;; esac",
        );
        root.write("var/lib/kept", "link lo\n");
        let said = root.good(shell, "mkdir -p /run/ironstrap; leave");
        let state = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!said.contains("nft is not installed"), "{shell}: {said}");
        let ran = root.read("ran");
        assert!(ran.contains("nft delete table ip kube-proxy\n"), "{shell}: {ran}");
        assert!(state.contains(" T "), "{shell}: kube-proxy is stopped while its rules are deleted: {state}");
        // If containerd cannot be started, `leave` continues.
        fs::remove_file(root.path("on")).unwrap();
        root.command("systemctl", "case $* in *containerd) exit 1 ;; esac");
        root.good(shell, "leave");
    }
}

#[test]
fn no_process_is_searched_by_name_and_chroot_is_unused() {
    // These only print the name of a process that holds a port or a lock, or read the name of process 1.
    let told = [
        "src/machine.rs",
        "src/steps/preflight.rs",
        "templates/lib.sh",
        "templates/processes.sh",
        "templates/watch.sh",
    ];
    let mut files = vec![PathBuf::from("src"), PathBuf::from("templates")];
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for word in ["pgrep", "pkill", "pidof", "killall", "chroot ", "/comm"] {
            let harmless = word == "/comm" && told.iter().any(|told| path.ends_with(told));
            let at = text
                .lines()
                .position(|line| line.contains(word) && !line.contains("/command"))
                .filter(|_| !harmless);
            assert_eq!(at, None, "{} has {word}", path.display());
        }
    }
}
