//! Tests the checks of file modes and owners, of folders that are not writable, and of systemd files that change how a
//! unit starts.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};

use super::{Root, new_root, text};
use crate::support::shells;

const MANIFESTS: &str = "etc/kubernetes/manifests";
const KEY: &str = "var/lib/kubelet/pki/kubelet-client-2026-11-28.pem";

fn functions(names: &[&str]) -> String {
    names.iter().map(|name| fs::read_to_string(format!("templates/{name}.sh")).unwrap()).collect()
}

fn mode(root: &Root, name: &str, mode: u32) {
    fs::set_permissions(root.path(name), Permissions::from_mode(mode)).unwrap();
}

/// A control plane as kubeadm leaves it.
fn control_plane() -> Root {
    let root = new_root();
    root.command("stat", "/usr/bin/stat \"$@\" | sed 's/^\\([0-7]*\\) [0-9]* [^ ]*/\\1 0 root:root/'");
    root.command("chown", "echo \"$*\" >>$ROOT/chown");
    for (name, is) in [
        ("etc/apt/keyrings/x.asc", 0o644),
        ("etc/kubernetes/manifests/etcd.yaml", 0o600),
        ("var/lib/kubelet/kubeadm-flags.env", 0o644),
        (KEY, 0o600),
        ("var/lib/etcd/member/snap/db", 0o600),
    ] {
        root.write(name, "");
        mode(&root, name, is);
    }
    symlink(root.path(KEY), root.path("var/lib/kubelet/pki/kubelet-client-current.pem")).unwrap();
    for name in
        ["etc/apt", "etc/apt/keyrings", "etc/kubernetes", MANIFESTS, "var/lib/kubelet", "var/lib/kubelet/pki"]
    {
        mode(&root, name, 0o755);
    }
    for name in ["var/lib/etcd", "var/lib/etcd/member", "var/lib/etcd/member/snap"] {
        mode(&root, name, 0o700);
    }
    root
}

/// The output of `script` on this machine, with the machine's paths.
fn asked(root: &Root, shell: &str, script: &str) -> String {
    let functions = functions(&["files", "again"]);
    let output = root.run(shell, &format!("ETCD=/var/lib/etcd\n{functions}\n{script}"));
    assert!(output.status.success() && output.stderr.is_empty(), "{shell}: {}", text(&output.stderr));
    text(&output.stdout).replace(&root.text(), "")
}

#[test]
fn only_wider_file_modes_are_named_and_fixed() {
    for shell in shells() {
        let root = control_plane();
        assert_eq!(asked(&root, shell, "modes"), "", "{shell}");
        for (name, is, right) in [
            (MANIFESTS, 0o777, 0o755),
            ("etc/kubernetes/manifests/etcd.yaml", 0o666, 0o600),
            ("var/lib/kubelet/kubeadm-flags.env", 0o666, 0o644),
            (KEY, 0o644, 0o600),
            ("var/lib/etcd", 0o777, 0o700),
            ("var/lib/etcd/member", 0o755, 0o700),
            ("etc/apt/keyrings", 0o700, 0o755),
        ] {
            let was = root.mode(name);
            mode(&root, name, is);
            assert_eq!(
                asked(&root, shell, "modes"),
                format!("{right:o} {is:o} root:root /{name}\n"),
                "{shell}"
            );
            let apts = if name.contains("apt") { "apt" } else { "" };
            asked(&root, shell, if apts.is_empty() { "modes_again apt" } else { "modes_again" });
            assert_eq!(root.mode(name), is, "{shell}: the fix for the other files leaves it");
            asked(&root, shell, &format!("modes_again {apts}"));
            assert_eq!(
                (root.mode(name), asked(&root, shell, "modes")),
                (right, String::new()),
                "{shell}: {name}"
            );
            mode(&root, name, was);
        }
        for (name, is) in [
            (MANIFESTS, 0o700),
            ("etc/kubernetes/manifests/etcd.yaml", 0o644),
            (KEY, 0o400),
            // A mounted disk has this mode after mkfs.
            ("var/lib/etcd", 0o755),
            ("etc/kubernetes", 0o2711),
        ] {
            mode(&root, name, is);
        }
        assert_eq!(asked(&root, shell, "modes"), "", "{shell}");
        assert_eq!(root.read("chown"), "absent", "{shell}: everything belonged to root");
        // A restored backup may have a file in place of the link.
        let current = "var/lib/kubelet/pki/kubelet-client-current.pem";
        fs::remove_file(root.path(current)).unwrap();
        root.write(current, "");
        mode(&root, current, 0o644);
        assert_eq!(asked(&root, shell, "modes"), format!("600 644 root:root /{current}\n"), "{shell}");
        asked(&root, shell, "modes_again");
        assert_eq!(root.mode(current), 0o600, "{shell}");
        root.command("stat", "/usr/bin/stat \"$@\" | sed 's/^\\([0-7]*\\) [0-9]* [^ ]*/\\1 0 root:root/; /flags.env/s/0 root:root/7 ops:ops/'");
        assert_eq!(
            asked(&root, shell, "modes"),
            "644 644 ops:ops /var/lib/kubelet/kubeadm-flags.env\n",
            "{shell}"
        );
        asked(&root, shell, "modes_again");
        let flags = root.path("var/lib/kubelet/kubeadm-flags.env").display().to_string();
        assert_eq!(root.read("chown"), format!("root:root -- {flags}\n"), "{shell}");
    }
}

#[test]
fn missing_folders_are_created_and_read_only_ones_reported() {
    for shell in shells() {
        let root = control_plane();
        let logs = root.path("var/log/pods").display().to_string();
        let var = format!("{}/var/log", root.text());
        let functions = functions(&["files", "again"]).replace("/var/log", &var);
        let asked = |body: &str| {
            let output = root.run(shell, &format!("ETCD=\n{functions}\n{body}"));
            (output.status.code(), text(&output.stdout).replace(&root.text(), ""))
        };
        assert_eq!(
            asked("unwritable"),
            (Some(0), "/var/log/pods is missing\n/var/log/containers is missing\n".into()),
            "{shell}"
        );
        assert_eq!(asked("writable_again; unwritable"), (Some(0), String::new()), "{shell}");
        assert_eq!(fs::metadata(&logs).unwrap().permissions().mode() & 0o777, 0o755, "{shell}");
        root.command("chattr", "echo \"$*\" >>$ROOT/chattr");
        // The test may run as root, which may write everywhere. So it replaces the function.
        let (status, said) =
            asked("may_write() { case $1 in */log/pods) return 1 ;; esac; }\nunwritable\nwritable_again");
        assert_eq!(status, Some(1), "{shell}: {said}");
        let told = "/var/log/pods is not writable\nreason: /var/log/pods is on a file system that is mounted read-only\nby hand: ";
        assert!(said.starts_with(told), "{shell}: {said}");
        assert_eq!(root.read("chattr"), format!("-i -a {logs}\n"), "{shell}");
    }
}

#[test]
fn unwritable_subfolders_are_found() {
    let shut = [
        "var/lib/kubelet/pki",
        "var/lib/cni/networks",
        "var/lib/cni/networks/cbr0",
        "var/lib/cni/flannel",
        "var/lib/cni/results",
        "var/lib/etcd/member/wal",
        "var/lib/etcd/member/snap",
    ];
    for shell in shells() {
        let root = control_plane();
        for folder in shut.iter().chain(&["var/log/pods", "var/log/containers"]) {
            fs::create_dir_all(root.path(folder)).unwrap();
        }
        let var = format!("{}/var/log", root.text());
        for folder in shut {
            let functions = functions(&["files"]).replace("/var/log", &var);
            let stub = format!("may_write() {{ case $1 in */{folder}) return 1 ;; esac; }}");
            let said = root.good(shell, &format!("ETCD=/var/lib/etcd\n{functions}\n{stub}\nunwritable"));
            let said = said.replace(&root.text(), "");
            assert_eq!(said, format!("/{folder} is not writable\n"), "{shell}");
        }
    }
}

/// A machine with all kinds of drop-ins.
fn drop_ins() -> Root {
    let root = new_root();
    let env = root.path("etc/proxy.env").display().to_string();
    for (name, lines) in [
        ("usr/lib/systemd/system/containerd.service", "[Service]\nExecStart=/usr/bin/containerd\n"),
        ("usr/lib/systemd/system/kubelet.service", "[Service]\nExecStart=/usr/bin/kubelet\n"),
        (
            "usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf",
            "[Service]\nExecStart=/usr/bin/kubelet $A\n",
        ),
        (
            "etc/systemd/system/containerd.service.d/ironstrap-proxy.conf",
            "[Service]\nEnvironmentFile=/etc/ironstrap/proxy.env\n",
        ),
        ("etc/proxy.env", "# x\nHTTPS_PROXY=http://u:secret@proxy\n"),
        (
            "etc/systemd/system/containerd.service.d/more.conf",
            "[Unit]\nConditionPathExists=/none\n[Service]\nLimitNOFILE=1048576\nOOMScoreAdjust=-999\n\
             Environment=\"HTTP_PROXY=http://u:secret@proxy\" 'X=1'\nEnvironment=Y=2\nExecStart=\n\
             ExecStart=/usr/bin/containerd \\\n  --log-level debug\nEnvironmentFile=-ENV\nKillMode = mixed\n",
        ),
        (
            "etc/systemd/system/kubelet.service.d/20-more.conf",
            "[Service]\nCPUWeight=200\nRestart=always\nSlice=x.slice\nExecStartPre=/bin/false\nExecStart=/usr/bin/kubelet\n\
             Environment=KUBELET_CONFIG_ARGS= Z=1\nEnvironment=KUBELET_EXTRA_ARGS=--v=4\nEnvironment=no_proxy=x\n",
        ),
        ("etc/systemd/system/containerd.service.d/before.conf", "[Service]\nEnvironmentFile=\n"),
        ("etc/systemd/system/containerd.service.d/z.conf", "[Service]\nEnvironmentFile=\n"),
        (
            "etc/systemd/system.conf.d/all.conf",
            "[Manager]\nDefaultEnvironment=LANG=C\nDefaultEnvironment=X=1 \"https_proxy=http://u:secret@proxy\"\n",
        ),
        ("etc/default/kubelet", "KUBELET_EXTRA_ARGS=--v=2\nHTTP_PROXY=http://u:secret@proxy\nX=1\n"),
        ("etc/systemd/system.control/kubelet.service.d/50-MemoryMax.conf", "[Service]\nMemoryMax=4G\n"),
        ("run/systemd/system/service.d/all.conf", "[Service]\nPrivateNetwork=yes\n"),
    ] {
        root.write(name, &lines.replace("ENV", &env));
    }
    root.command("systemctl", "echo \"$*\" >>$ROOT/systemctl; case $* in *Type*) echo notify ;; esac");
    root
}

fn unit_files(root: &Root, shell: &str, script: &str) -> String {
    let dir = root.text();
    let functions = functions(&["unit-files", "again"]);
    let functions = functions.replace("/usr/lib/", &format!("{dir}/usr/lib/"));
    root.good(shell, &format!("{functions}\n{script}")).replace(&dir, "")
}

const FOUND: &str = "containerd: /etc/systemd/system/containerd.service.d/more.conf:2: ConditionPathExists=/none
containerd: /etc/systemd/system/containerd.service.d/more.conf:6: Environment=HTTP_PROXY
containerd: /etc/systemd/system/containerd.service.d/more.conf:8: ExecStart=
containerd: /etc/systemd/system/containerd.service.d/more.conf:9: ExecStart=/usr/bin/containerd    --log-level debug
containerd: /etc/systemd/system/containerd.service.d/more.conf:11: EnvironmentFile=-/etc/proxy.env, with HTTPS_PROXY
containerd: /etc/systemd/system/containerd.service.d/more.conf:12: KillMode=mixed
containerd: /etc/systemd/system/containerd.service.d/z.conf:2: EnvironmentFile=
containerd: /run/systemd/system/service.d/all.conf:2: PrivateNetwork=yes
containerd: /etc/systemd/system.conf.d/all.conf:3: DefaultEnvironment=https_proxy
kubelet: /etc/systemd/system/kubelet.service.d/20-more.conf:5: ExecStartPre=/bin/false
kubelet: /etc/systemd/system/kubelet.service.d/20-more.conf:7: Environment=KUBELET_CONFIG_ARGS
kubelet: /etc/systemd/system/kubelet.service.d/20-more.conf:9: Environment=no_proxy
kubelet: /run/systemd/system/service.d/all.conf:2: PrivateNetwork=yes
kubelet: /etc/systemd/system.conf.d/all.conf:3: DefaultEnvironment=https_proxy
kubelet: /etc/default/kubelet:2: HTTP_PROXY
";

#[test]
fn settings_that_change_a_unit_start_are_removed() {
    for shell in shells() {
        let root = drop_ins();
        assert_eq!(unit_files(&root, shell, "unit_files containerd kubelet"), FOUND, "{shell}");
        let more = root.read("etc/systemd/system/containerd.service.d/more.conf");
        unit_files(&root, shell, "unit_files_out containerd\nunit_files_out kubelet");
        assert_eq!(unit_files(&root, shell, "unit_files containerd kubelet"), "", "{shell}");
        let edited = root.read("etc/systemd/system/containerd.service.d/more.conf");
        for line in [
            "LimitNOFILE=1048576",
            "Environment=Y=2",
            "# ironstrap:   --log-level debug",
            "# ironstrap: KillMode = mixed",
        ] {
            assert!(edited.lines().any(|has| has == line), "{shell}: {edited}");
        }
        assert!(
            root.read("systemctl")
                .contains("daemon-reload\ndaemon-reexec\nis-active -q containerd\nrestart containerd\n")
        );
        let key = root.text().replace('/', "-");
        let kept = format!(
            "var/lib/ironstrap/before/kubelet-args{key}-etc-systemd-system-containerd.service.d-more.conf"
        );
        assert_eq!(root.read(&format!("{kept}.file")), more, "{shell}");
    }
}

#[test]
fn files_that_replace_packaged_units_are_removed() {
    for shell in shells() {
        let root = drop_ins();
        for name in ["containerd.service.d", "kubelet.service.d", "kubelet.service.d"] {
            let _ = fs::remove_dir_all(root.path(&format!("etc/systemd/system/{name}")));
        }
        fs::remove_dir_all(root.path("run/systemd/system")).unwrap();
        fs::remove_dir_all(root.path("etc/systemd/system.conf.d")).unwrap();
        fs::remove_file(root.path("etc/default/kubelet")).unwrap();
        // In turn: a masked unit, a copy, a changed copy, and a link that hides the drop-in of the package.
        root.write("etc/systemd/system/x", "");
        symlink("/dev/null", root.path("etc/systemd/system/kubelet.service")).unwrap();
        assert_eq!(unit_files(&root, shell, "unit_files containerd kubelet"), "", "{shell}");
        let text = root.read("usr/lib/systemd/system/containerd.service");
        root.write("etc/systemd/system/containerd.service", &text);
        assert_eq!(unit_files(&root, shell, "unit_files containerd kubelet"), "", "{shell}: the same text");
        root.write("etc/systemd/system/containerd.service", &format!("{text}Restart=no\n"));
        fs::create_dir_all(root.path("etc/systemd/system/kubelet.service.d")).unwrap();
        symlink("/dev/null", root.path("etc/systemd/system/kubelet.service.d/10-kubeadm.conf")).unwrap();
        assert_eq!(
            unit_files(&root, shell, "unit_files containerd kubelet"),
            "containerd: /etc/systemd/system/containerd.service:1: it replaces /usr/lib/systemd/system/containerd.service\n\
             kubelet: /etc/systemd/system/kubelet.service.d/10-kubeadm.conf:1: it replaces \
             /usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf\n",
            "{shell}"
        );
        unit_files(&root, shell, "unit_files_out containerd\nunit_files_out kubelet");
        assert_eq!(unit_files(&root, shell, "unit_files containerd kubelet"), "", "{shell}");
        assert!(!root.path("etc/systemd/system/containerd.service").exists(), "{shell}");
        assert!(
            root.path("etc/systemd/system/kubelet.service").is_symlink(),
            "{shell}: the want of the unit handles a mask"
        );
    }
}
