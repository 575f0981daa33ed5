//! What real shells answer to single questions, on a machine whose paths are below a folder and whose kubectl is a
//! script.

// clippy sees no test in what the tests share.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use common::{lab, run, shells, trust, wants};
use ironstrap::fleet::Fleet;
use ironstrap::machine::Machine;
use ironstrap::probe::{self, Answer};
use ironstrap::step::{Ask, Fix, Object, Want};
use time::OffsetDateTime;

const BOUNDARY: &str = "--0123456789abcdef";

struct Root(tempfile::TempDir);

impl Root {
    fn with(files: &[(&str, &str)]) -> Root {
        let root = Root(tempfile::tempdir().unwrap());
        for (name, text) in files {
            let path = root.0.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            let mode = if name.starts_with("bin/") { 0o755 } else { 0o600 };
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        }
        root
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.path().join(name)).unwrap_or_else(|_| "absent".into())
    }

    fn moved(&self, script: &str) -> String {
        let root = self.0.path().display().to_string();
        let dirs = [
            "/run/",
            "/var/lib/",
            "/etc/",
            "/usr/local/lib/",
            "/sys/class/",
            "/proc/net/dev",
            "/sys/module/",
            "/sys/fs/",
            "/boot/",
            "/proc/config.gz",
            "/proc/[0-9]",
        ];
        let moved =
            dirs.iter().fold(script.to_string(), |script, dir| script.replace(dir, &format!("{root}{dir}")));
        moved.replace("PATH=/usr", &format!("PATH={root}/bin:/usr"))
    }

    fn answer(&self, shell: &str, ask: &Ask) -> Answer {
        let output = run(shell, &self.moved(&probe::script(&[ask], BOUNDARY)));
        let root = self.0.path().display().to_string();
        let said = String::from_utf8(output.stdout).unwrap().replace(&root, "");
        probe::answers(said.as_bytes(), &[ask], BOUNDARY).unwrap().1.remove(0)
    }
}

fn want(that: &str) -> Want {
    let cluster = lab();
    let (trust, about) = (trust(&cluster), (&Machine::default(), &Fleet::default()));
    let wants = wants((&cluster, &cluster.nodes[0]), &trust, about, OffsetDateTime::now_utc());
    wants.into_iter().map(|(.., want)| want).find(|want| want.that == that).unwrap()
}

#[test]
fn a_file_that_is_read_after_ours_loses_the_lines_that_override_and_no_other() {
    let theirs = "# theirs\nvm.swappiness = 10\nnet.ipv4.ip_forward=0\n-net/ipv4/ip_forward = 0\n#net.ipv4.ip_forward=0\nnet.ipv4.ip_forward = 1\n";
    let files = [
        ("etc/sysctl.d/10-early.conf", "net.ipv4.ip_forward = 0\n"),
        ("etc/sysctl.d/99-zzz.conf", theirs),
        ("run/sysctl.d/99-zzz.conf", "net.ipv4.ip_forward = 0\n"),
        ("run/sysctl.d/99-zzzz.conf", "net.ipv4.ip_forward = 2\n"),
    ];
    let want = want("nothing overrides our sysctls at boot");
    let Fix::Run(fix) = &want.fix else { panic!("{:?}", want.fix) };
    let lib = fs::read_to_string("templates/lib.sh").unwrap();
    for shell in shells() {
        let root = Root::with(&files);
        let found = "/etc/sysctl.d/99-zzz.conf: net.ipv4.ip_forward=0\n/etc/sysctl.d/99-zzz.conf: -net/ipv4/ip_forward = 0\n/run/sysctl.d/99-zzzz.conf: net.ipv4.ip_forward = 2\n";
        assert_eq!(root.answer(shell, &want.ask), Answer::Said(found.into()), "{shell}");
        let done = run(shell, &root.moved(&format!("{{ set -eu; {lib}\n{fix}\n}} </dev/null\n")));
        assert!(done.status.success() && done.stderr.is_empty(), "{}", String::from_utf8_lossy(&done.stderr));
        assert_eq!(root.answer(shell, &want.ask), Answer::Said(String::new()));
        let mended = theirs.replace("\nnet.ipv4.ip_forward=0", "\n# ironstrap: net.ipv4.ip_forward=0");
        let mended = mended.replace("\n-net", "\n# ironstrap: -net");
        assert_eq!(root.read("etc/sysctl.d/99-zzz.conf"), mended);
        assert_eq!(root.read("etc/sysctl.d/10-early.conf"), files[0].1, "ours is read after it");
        assert_eq!(root.read("run/sysctl.d/99-zzz.conf"), files[2].1, "the other of its name hides it");
        assert_eq!(root.read("var/lib/ironstrap/before/kernel-99-zzz.conf.file"), theirs);
    }
}

#[test]
fn whatever_is_set_at_boot_may_not_be_overridden() {
    let mut cluster = lab();
    let fleet = (Machine::default(), Fleet::default());
    let file = [("etc/sysctl.d/99-zzz.conf", "vm.panic_on_oom = 1\nvm.swappiness = 10\n")];
    for (protects, found) in [(false, ""), (true, "/etc/sysctl.d/99-zzz.conf: vm.panic_on_oom = 1\n")] {
        cluster.kubelet.insert("protectKernelDefaults".into(), protects.into());
        let trust = trust(&cluster);
        let about = (&fleet.0, &fleet.1);
        let all = wants((&cluster, &cluster.nodes[0]), &trust, about, OffsetDateTime::now_utc());
        let want = all.into_iter().find(|(.., want)| want.that.starts_with("nothing overrides")).unwrap().2;
        for shell in shells() {
            assert_eq!(Root::with(&file).answer(shell, &want.ask), Answer::Said(found.into()), "{protects}");
        }
    }
}

#[test]
fn of_a_kubeconfig_everything_is_told_but_its_key() {
    let text = "clusters:\n- cluster:\n    certificate-authority-data: QUJD\n    server: https://a:6443\n  name: x\nusers:\n- user:\n    client-certificate-data: REVG\n    client-key-data: U0VDUkVU\n    token: SECRET\n";
    let root = Root::with(&[("etc/kubernetes/admin.conf", text)]);
    let ask = Ask::Kubeconfig("/etc/kubernetes/admin.conf".into());
    for shell in shells() {
        let Answer::Said(said) = root.answer(shell, &ask) else { panic!() };
        let (mode, lines) = said.split_once('\n').unwrap();
        assert!(mode.starts_with("mode 600 "), "{mode}");
        assert_eq!(
            lines,
            "certificate-authority-data QUJD\nserver https://a:6443\nclient-certificate-data REVG\n"
        );
        let missing = root.answer(shell, &Ask::Kubeconfig("/etc/kubernetes/other.conf".into()));
        assert_eq!(missing, Answer::Said("absent".into()));
    }
}

/// A kubectl that lists two Nodes and knows one ConfigMap.
const KUBECTL: &str = "#!/bin/sh
case \"$*\" in
*'get nodes'*) echo 'Node//m1 {\"kind\": \"Node\"}'; LIST ;;
*) echo 'ConfigMap/kube-system/a {\"kind\": \"ConfigMap\"}' ;;
esac";

#[test]
fn nodes_are_told_from_a_list_and_a_list_that_breaks_off_tells_nothing() {
    let objects = Ask::Objects(vec![
        Object::node("m1"),
        Object::node("w1"),
        Object::new("v1", "ConfigMap", "kube-system", "a"),
    ]);
    let manifest = ("etc/kubernetes/manifests/kube-apiserver.yaml", "- --advertise-address=10.0.0.1\n");
    let root = |list: &str| {
        Root::with(&[
            manifest,
            ("etc/kubernetes/admin.conf", ""),
            ("var/lib/ironstrap/kubeadm-receipt", ""),
            ("bin/kubectl", &KUBECTL.replace("LIST", list)),
        ])
    };
    for shell in shells() {
        let whole = root("echo 'Node//x9 {}'");
        let said = "{\"kind\": \"Node\"}\nabsent\n{\"kind\": \"ConfigMap\"}\n";
        assert_eq!(whole.answer(shell, &objects), Answer::Said(said.into()), "{shell}");
        assert_eq!(whole.answer(shell, &Ask::Nodes), Answer::Said("m1\nx9\n".into()));
        for broken in ["exit 1", "kill -9 $$", "echo refused >&2; exit 1"] {
            let answer = root(broken).answer(shell, &Ask::Nodes);
            assert!(matches!(answer, Answer::Unknown(_)), "{shell}: {broken}: {answer:?}");
        }
        // kubeadm was killed in join.
        let half = Root::with(&[manifest, ("bin/kubectl", &KUBECTL.replace("LIST", "exit 1"))]);
        assert_eq!(half.answer(shell, &objects), Answer::Said("absent\nabsent\nabsent\n".into()), "{shell}");
    }
}

#[test]
fn a_control_plane_without_its_manifest_is_no_machine_without_a_cluster() {
    let traces = [("var/lib/etcd/member/x", ""), ("var/lib/kubelet/pki/kubelet-client-current.pem", "")];
    for shell in shells() {
        let answer = Root::with(&traces).answer(shell, &Ask::Nodes);
        assert!(matches!(&answer, Answer::Unknown(why) if why.contains("is gone")), "{answer:?}");
        assert_eq!(Root::with(&traces[..1]).answer(shell, &Ask::Nodes), Answer::Said(String::new()));
    }
}

/// A machine that has seen much: an earlier cluster, a proxy with a password, a name server of its own.
const USED: &[(&str, &str)] = &[
    ("var/lib/etcd/member/snap/db", ""),
    ("var/lib/etcd/.hidden", ""),
    ("etc/kubernetes/manifests/etcd.yaml", ""),
    ("etc/cni/net.d/05-cilium.conflist", "{}"),
    ("etc/cni/net.d/README", ""),
    ("proc/net/dev", "Inter-|   Receive\n face |bytes\n  eth0: 1 0\ncali0f1e2d:123 0\n"),
    ("sys/module/apparmor/parameters/enabled", "N\n"),
    ("sys/fs/selinux/enforce", "1"),
    ("var/lib/kubelet/pods/0b/x", ""),
    ("etc/resolv.conf", "# ours\nnameserver 127.0.0.53\nsearch a b\noptions edns0\n"),
    ("etc/environment", "PATH=/bin\nhttps_proxy=http://me:secret@proxy.example:3128\n"),
    ("boot/config-9.9", "CONFIG_MEMCG=y\nCONFIG_NET_NS=m\n# CONFIG_IPC_NS is not set\nCONFIG_OTHER=y\n"),
    ("bin/uname", "#!/bin/sh\necho 9.9\n"),
    ("bin/apt-config", "#!/bin/sh\necho \"p='http://me:secret@proxy.example:3128'\"\n"),
    (
        "bin/dpkg",
        "#!/bin/sh\necho 'The following packages are only half configured:'\necho ' libc6:amd64          GNU C Library'\nexit 1\n",
    ),
    ("bin/systemctl", "#!/bin/sh\n[ \"$3\" = containerd ]\n"),
    ("bin/ctr", "#!/bin/sh\necho a\necho b\n"),
    (
        "bin/iptables-save",
        "#!/bin/sh\necho legacy >&2\necho '-A KUBE-SERVICES -j X'\necho '-A INPUT -j ACCEPT'\n",
    ),
    ("bin/ip", "#!/bin/sh\n"),
    ("bin/findmnt", "#!/bin/sh\necho '/ ro,relatime'\n"),
];

#[test]
fn what_an_earlier_life_left_on_a_machine_is_found_by_every_shell_and_not_looked_for_on_a_member() {
    let asked = [
        ("no data of another etcd is here", "member\n.hidden\n"),
        ("no static pods are here yet", "etcd.yaml\n"),
        ("no other network plugin is set up", "05-cilium.conflist\n"),
        ("no pod network of an earlier cluster is here", "cali0f1e2d\n"),
        (
            "whether an earlier cluster left something else here",
            "1 folders of pods, with their volumes, in /var/lib/kubelet/pods (umount what is mounted there, then remove them)\n\
             1 iptables rules (a reboot takes them away)\n2 containers of Kubernetes (kubeadm reset removes them)\n",
        ),
        (
            "pods are given name servers that they can reach",
            "in /etc/resolv.conf\nnameserver 127.0.0.53\nsearch a b\noptions edns0\n",
        ),
        (
            "whether it goes by a proxy that the inventory does not name",
            "apt goes by http://proxy.example:3128\nhttps_proxy=http://proxy.example:3128 in /etc/environment\n",
        ),
        ("the kernel has what kubeadm looks for", "MEMCG\nNET_NS\n"),
        ("no package is half installed", "libc6:amd64\n"),
        (
            "whether something here restricts containers",
            "SELinux is enforcing: containers need its policy for them (container-selinux), and containerd enable_selinux = true\n",
        ),
        ("there is a default route", ""),
    ];
    for shell in shells() {
        let (used, member) = (Root::with(USED), Root::with(USED));
        let credentials = "var/lib/kubelet/pki/kubelet-client-current.pem";
        let path = member.0.path().join(credentials);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
        for (that, said) in asked {
            let ask = want(that).ask;
            let said = said.replace("options edns0\n", "");
            assert_eq!(used.answer(shell, &ask), Answer::Said(said), "{shell}: {that}");
            assert_eq!(member.answer(shell, &ask), Answer::Said("not here\n".into()), "{shell}: {that}");
        }
        let Answer::Said(places) =
            used.answer(shell, &want("there is disk enough where Kubernetes writes").ask)
        else {
            panic!("{shell}")
        };
        assert!(
            places.lines().count() == 7 && places.lines().all(|line| line.ends_with(" ro,relatime")),
            "{places}"
        );
    }
}
