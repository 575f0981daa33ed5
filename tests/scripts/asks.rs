//! The answers of single questions, in real shells. The paths of the machine are below a folder, and its kubectl is a
//! script.

use std::fs;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ironstrap::cluster::{Cluster, ETCD_DIR};
use ironstrap::diagnosis;
use ironstrap::fleet::Fleet;
use ironstrap::machine::Machine;
use ironstrap::status::{self, Topic};
use ironstrap::step::{Answer, Ask, Fix, Object, Want};
use time::OffsetDateTime;

use crate::support::root::{Root, templates};
use crate::support::{self, lab, pki, run, shells, wants};

/// A machine with these files.
fn root_with(files: &[(&str, &str)]) -> Root {
    let moved = [
        "/run/",
        "/var/lib/",
        "/etc/",
        "/usr/local/lib/",
        "/sys/class/",
        "/proc/net/",
        "/sys/module/",
        "/sys/fs/",
        "/boot/",
        "/proc/config.gz",
        "/proc/[0-9]",
        "/proc/$pid",
        "/usr/lib/modules/",
    ];
    let root = Root::new(&moved).replacing("{fd#/proc/}", "{fd#ROOT/proc/}").before(&templates(&["lib"]));
    let root = root.with(0o600, files);
    match root.path("proc/locks").exists() {
        true => root.replacing("/proc/locks", "ROOT/proc/locks"),
        false => root,
    }
}

fn want(id: &str) -> Want {
    want_of(&lab(), 0, id)
}

fn want_of(cluster: &Cluster, node: usize, id: &str) -> Want {
    let (pki, about) = (pki(cluster), (&Machine::default(), &Fleet::default()));
    let wants = wants((cluster, &cluster.nodes[node]), &pki, about, OffsetDateTime::now_utc());
    wants.into_iter().map(|(.., want)| want).find(|want| want.id.to_string() == id).unwrap()
}

#[test]
fn only_lines_that_override_our_sysctls_are_disabled() {
    let theirs = "# theirs\nvm.swappiness = 10\nnet.ipv4.ip_forward=0\n-net/ipv4/ip_forward = 0\n#net.ipv4.ip_forward=0\nnet.ipv4.ip_forward = 1\n";
    let files = [
        ("etc/sysctl.d/10-early.conf", "net.ipv4.ip_forward = 0\n"),
        ("etc/sysctl.d/99-zzz.conf", theirs),
        ("run/sysctl.d/99-zzz.conf", "net.ipv4.ip_forward = 0\n"),
        ("run/sysctl.d/99-zzzz.conf", "net.ipv4.ip_forward = 2\n"),
    ];
    let want = want("kernel.sysctl-overrides");
    let Fix::Run(fix) = &want.fix else { panic!("{:?}", want.fix) };
    for shell in shells() {
        let root = root_with(&files);
        let found = "/etc/sysctl.d/99-zzz.conf: net.ipv4.ip_forward=0\n/etc/sysctl.d/99-zzz.conf: -net/ipv4/ip_forward = 0\n/run/sysctl.d/99-zzzz.conf: net.ipv4.ip_forward = 2\n";
        assert_eq!(root.answer(shell, &want.ask), Answer::Said(found.into()), "{shell}");
        let done = root.run(shell, &fix.to_string());
        assert!(done.status.success() && done.stderr.is_empty(), "{}", String::from_utf8_lossy(&done.stderr));
        assert_eq!(root.answer(shell, &want.ask), Answer::Said(String::new()));
        let mended = theirs.replace("\nnet.ipv4.ip_forward=0", "\n# ironstrap: net.ipv4.ip_forward=0");
        let mended = mended.replace("\n-net", "\n# ironstrap: -net");
        assert_eq!(root.read("etc/sysctl.d/99-zzz.conf"), mended);
        assert_eq!(root.read("etc/sysctl.d/10-early.conf"), files[0].1, "our file is read after it");
        assert_eq!(
            root.read("run/sysctl.d/99-zzz.conf"),
            files[2].1,
            "a file with the same name in /etc hides it"
        );
        assert_eq!(root.read("var/lib/ironstrap/before/kernel-99-zzz.conf.file"), theirs);
    }
}

#[test]
fn protect_kernel_defaults_guards_more_sysctls() {
    let mut cluster = lab();
    let fleet = (Machine::default(), Fleet::default());
    let file = [("etc/sysctl.d/99-zzz.conf", "vm.panic_on_oom = 1\nvm.swappiness = 10\n")];
    for (protects, found) in [(false, ""), (true, "/etc/sysctl.d/99-zzz.conf: vm.panic_on_oom = 1\n")] {
        cluster.kubelet.insert("protectKernelDefaults".into(), protects.into());
        let pki = pki(&cluster);
        let about = (&fleet.0, &fleet.1);
        let all = wants((&cluster, &cluster.nodes[0]), &pki, about, OffsetDateTime::now_utc());
        let want = all.into_iter().find(|(.., want)| want.id.name == "kernel.sysctl-overrides").unwrap().2;
        for shell in shells() {
            assert_eq!(root_with(&file).answer(shell, &want.ask), Answer::Said(found.into()), "{protects}");
        }
    }
}

#[test]
fn a_file_may_raise_but_not_lower_inotify_limits() {
    let want = want("kernel.inotify-overrides");
    let files = [
        ("etc/sysctl.d/10-more.conf", "fs.inotify.max_user_instances = 65536\n"),
        (
            "etc/sysctl.d/20-less.conf",
            "fs.inotify.max_user_watches = 1\nfs.inotify.max_user_instances = 512\n",
        ),
        ("run/sysctl.d/30-same.conf", "fs/inotify/max_user_instances=8192\n"),
    ];
    for shell in shells() {
        let found = "/etc/sysctl.d/20-less.conf: fs.inotify.max_user_instances = 512\n";
        assert_eq!(root_with(&files).answer(shell, &want.ask), Answer::Said(found.into()), "{shell}");
    }
    let want = self::want("kernel.sysctl[fs.inotify.max_user_instances]");
    for (value, holds) in
        [("8192\n", true), ("65536\n", true), ("128\n", false), ("absent\n", false), ("", false)]
    {
        assert_eq!(support::verdict(&want, value) == ironstrap::step::Verdict::Holds, holds, "{value}");
    }
}

#[test]
fn a_kubeconfig_is_reported_without_its_secrets() {
    let text = "clusters:\n- cluster:\n    certificate-authority-data: QUJD\n    server: https://a:6443\n    tls-server-name: b\n    proxy-url: http://me:SECRET@c\n  name: x\n- name: \"y\"\nusers:\n- user:\n    client-certificate-data: REVG\n    client-key-data: KEY\n    token: SECRET\n";
    let path = "etc/kubernetes/admin.conf";
    let ask = Ask::Kubeconfig(format!("/{path}"));
    let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let whole = BASE64_STANDARD.encode(&pem);
    let cut = BASE64_STANDARD.encode(&pem[..pem.len() - 40]);
    let within = BASE64_STANDARD.encode(pem.replacen(&pem[60..68], "", 1));
    for (key, word) in [
        (whole.as_str(), "whole"),
        (&whole[..whole.len() - 40], "broken"),
        (&cut, "broken"),
        (&within, "broken"),
        ("U0VDUkVU", "broken"),
        ("", "broken"),
    ] {
        let root = root_with(&[(path, &text.replace("KEY", key))]);
        for shell in shells() {
            let answer = root.answer(shell, &ask);
            let Answer::Said(said) = answer else { panic!("{shell}: {answer:?}") };
            let (mode, lines) = said.split_once('\n').unwrap();
            assert!(mode.starts_with("mode 600 "), "{mode}");
            assert_eq!(
                lines,
                format!(
                    "certificate-authority-data QUJD\nserver https://a:6443\ntls-server-name b\nproxy-url set\nname x\nname y\n\
                     client-certificate-data REVG\nclient-key-data {word}\ntoken set\n"
                ),
                "{shell}"
            );
            let missing = root.answer(shell, &Ask::Kubeconfig("/etc/kubernetes/other.conf".into()));
            assert_eq!(missing, Answer::Absent);
        }
    }
}

#[test]
fn foreign_manifests_are_reported_with_their_pods() {
    let want = want("member.static-pods");
    let own = "apiVersion: v1\nkind: Pod\nmetadata:\n  labels:\n    name: other\n  name: kube-scheduler\nspec:\n  name: x\n";
    let json = r#"{"kind": "Pod", "metadata": {"labels": {"name": "x"}, "name": "etcd"}}"#;
    let files = [
        ("etc/kubernetes/manifests/kube-scheduler.yaml", own),
        ("etc/kubernetes/manifests/kube-scheduler.yaml.old", own),
        ("etc/kubernetes/manifests/a b.json", json),
        ("etc/kubernetes/manifests/c", "metadata: # its name\n    # name: y\n    name: \"vip\" # x\n"),
        ("etc/kubernetes/manifests/d", "spec:\n  containers:\n  - name: kube-scheduler\n"),
        ("etc/kubernetes/manifests/.kube-scheduler.yaml", own),
        ("etc/kubernetes/manifests/folder/kube-scheduler.yaml", own),
    ];
    let m = "/etc/kubernetes/manifests";
    let said = format!(
        "more etcd {m}/a b.json\nmore vip {m}/c\nmore - {m}/d\nmore kube-scheduler {m}/kube-scheduler.yaml.old\nno receipt\n"
    );
    for shell in shells() {
        let answer = root_with(&files).answer(shell, &want.ask);
        assert_eq!(answer, Answer::Said(said.clone()), "{shell}");
        assert_eq!(root_with(&[]).answer(shell, &want.ask), Answer::Said("no receipt\n".into()), "{shell}");
    }
}

/// A kubectl that lists two Nodes and knows one ConfigMap.
const KUBECTL: &str = "#!/bin/sh
case \"$*\" in
*'get nodes'*) echo 'Node//m1 {\"kind\": \"Node\"}'; LIST ;;
*) echo 'ConfigMap/kube-system/a {\"kind\": \"ConfigMap\"}' ;;
esac";

#[test]
fn a_broken_list_of_nodes_is_no_answer() {
    let objects = Ask::Objects(vec![
        Object::node("m1"),
        Object::node("w1"),
        Object::new("v1", "ConfigMap", "kube-system", "a"),
    ]);
    let manifest = ("etc/kubernetes/manifests/kube-apiserver.yaml", "- --advertise-address=10.0.0.1\n");
    let root = |list: &str| {
        root_with(&[
            manifest,
            ("etc/kubernetes/admin.conf", ""),
            ("var/lib/ironstrap/kubeadm-receipt", ""),
            ("bin/kubectl", &KUBECTL.replace("LIST", list)),
        ])
    };
    for shell in shells() {
        let whole = root("echo 'Node//x9 {}'");
        let found = [Some("{\"kind\": \"Node\"}".into()), None, Some("{\"kind\": \"ConfigMap\"}".into())];
        assert_eq!(whole.answer(shell, &objects), Answer::Objects(found.into()), "{shell}");
        assert_eq!(whole.answer(shell, &Ask::Nodes), Answer::Said("m1\nx9\n".into()));
        let lists = root("echo 'beside the nodes'; echo 'ClusterRole a get'; echo 'Node//x8 {}'");
        let listed = Answer::Said("ClusterRole a get\nNode//x8 {}\n".into());
        assert_eq!(lists.answer(shell, &Ask::Listed), listed, "{shell}");
        assert_eq!(
            lists.answer(shell, &Ask::Nodes),
            Answer::Said("m1\n".into()),
            "only lines before the marker are Nodes"
        );
        assert!(matches!(whole.answer(shell, &Ask::Listed), Answer::Unknown(_)), "{shell}: it has no list");
        for broken in ["exit 1", "kill -9 $$", "echo refused >&2; exit 1"] {
            let answer = root(broken).answer(shell, &Ask::Nodes);
            assert!(matches!(answer, Answer::Unknown(_)), "{shell}: {broken}: {answer:?}");
        }
        // kubeadm was killed during its join.
        let half = root_with(&[manifest, ("bin/kubectl", &KUBECTL.replace("LIST", "exit 1"))]);
        assert_eq!(half.answer(shell, &objects), Answer::Objects(vec![None; 3]), "{shell}");
    }
}

#[test]
fn only_a_refusal_shows_that_the_administrator_lacks_rights() {
    let refused = r#"Error from server (Forbidden): nodes is forbidden: User "kubernetes-admin" cannot list resource "nodes""#;
    let kubectl = |admin: &str| {
        format!(
            "#!/bin/sh\ncase \"$*\" in *super-admin*) ;; *) {admin} ;; esac\ncase \"$*\" in *'get nodes'*) echo 'Node//m1 {{}}' ;; esac"
        )
    };
    let root = |admin: &str, more: &[(&str, &str)]| {
        let kubectl = kubectl(admin);
        let files = [
            ("etc/kubernetes/manifests/kube-apiserver.yaml", "- --advertise-address=10.0.0.1\n"),
            ("etc/kubernetes/admin.conf", ""),
            ("var/lib/ironstrap/kubeadm-receipt", ""),
            ("bin/kubectl", kubectl.as_str()),
        ];
        root_with(&[&files, more].concat())
    };
    let refuses = format!("echo '{refused}' >&2; exit 1");
    let said = |text: &str| Answer::Said(text.into());
    for shell in shells() {
        assert_eq!(root(":", &[]).answer(shell, &Ask::Administrator), said("may"), "{shell}");
        let alone = root(&refuses, &[]);
        assert_eq!(alone.answer(shell, &Ask::Administrator), said("may not"), "{shell}");
        assert!(
            matches!(alone.answer(shell, &Ask::Nodes), Answer::Unknown(why) if why.contains("Forbidden"))
        );
        let once = format!("[ -e \"$0.asked\" ] || {{ : >\"$0.asked\"; {refuses}; }}");
        let starts = root(&once, &[]).answer(shell, &Ask::Administrator);
        assert_eq!(starts, said("may"), "{shell}: an API server that has just started refuses once");
        // kubeadm init was killed before it gave the administrator its rights.
        let begun = root(&refuses, &[("etc/kubernetes/super-admin.conf", "")]);
        assert_eq!(begun.answer(shell, &Ask::Administrator), said("may not"), "{shell}");
        assert_eq!(begun.answer(shell, &Ask::Nodes), said("m1\n"), "{shell}");
        let down = root("echo 'connection refused' >&2; exit 1", &[]);
        assert!(matches!(down.answer(shell, &Ask::Administrator), Answer::Unknown(_)), "{shell}");
        assert_eq!(root_with(&[]).answer(shell, &Ask::Administrator), said("may"), "there is no cluster");
    }
}

#[test]
fn a_control_plane_without_its_manifest_still_has_a_cluster() {
    let traces = [("var/lib/etcd/member/x", ""), ("var/lib/kubelet/pki/kubelet-client-current.pem", "")];
    for shell in shells() {
        let answer = root_with(&traces).answer(shell, &Ask::Nodes);
        assert!(matches!(&answer, Answer::Unknown(why) if why.contains("is gone")), "{answer:?}");
        assert_eq!(root_with(&traces[..1]).answer(shell, &Ask::Nodes), Answer::Said(String::new()));
    }
}

/// Either sign is enough: data in the folder of the inventory, or etcd's manifest. If ironstrap overlooked it, it would
/// make another cluster on the machine.
#[test]
fn etcd_in_another_folder_still_marks_a_control_plane() {
    let elsewhere = "/var/lib/other-etcd";
    let certificate = ("var/lib/kubelet/pki/kubelet-client-current.pem", "");
    let (data, manifest) = ("var/lib/other-etcd/member/x", "etc/kubernetes/manifests/etcd.yaml");
    let mut cluster = lab();
    cluster.kubeadm =
        serde_json::from_value(serde_json::json!({"etcd": {"local": {"dataDir": elsewhere}}})).unwrap();
    let api = status::questions(&cluster, &cluster.nodes[0]);
    let (_, api) = api.into_iter().find(|(topic, _)| *topic == Topic::Api).unwrap();
    for shell in shells() {
        for sign in [data, manifest] {
            let root = root_with(&[certificate, (sign, ""), ("etc/kubernetes/x", "")]);
            let (machine, answer) = root.answers(shell, &Ask::Nodes, elsewhere);
            assert!(machine.runs_control_plane(), "{sign}: {:?}", machine.has);
            assert!(matches!(&answer, Answer::Unknown(why) if why.contains("is gone")), "{sign}: {answer:?}");
            let (_, answer) = root.answers(shell, &api, elsewhere);
            assert!(
                matches!(&answer, Answer::Said(text) if text.starts_with("down: ")),
                "{sign}: {answer:?}"
            );
        }
        let worker = root_with(&[certificate, ("var/lib/etcd/member/x", "")]);
        let (machine, answer) = worker.answers(shell, &Ask::Nodes, elsewhere);
        assert!(!machine.runs_control_plane() && answer == Answer::Said(String::new()), "{answer:?}");
    }
    let (findmnt, stat) = (
        ("bin/findmnt", "#!/bin/sh\nfor x; do :; done\necho \"$x ext4 rw\"\n"),
        ("bin/stat", "#!/bin/sh\necho 512 4096 70 90\n"),
    );
    let disk = want_of(&cluster, 0, "preflight.disk");
    let Answer::Said(text) = root_with(&[findmnt, stat, ("var/lib/x", "")]).answer(shells()[0], &disk.ask)
    else {
        panic!()
    };
    assert!(text.contains("/var/lib/other-etcd /var/lib ") && !text.contains("/var/lib/etcd"), "{text}");
}

#[test]
fn a_full_disk_is_found_in_etcds_configured_folder() {
    let script = diagnosis::script(Duration::from_secs(1), "/var/lib/other-etcd");
    let df = "#!/bin/sh\nfor x; do :; done\necho head\necho \"fs 99 98 1 99% $x\"\n";
    for shell in shells() {
        let root = root_with(&[("bin/df", df), ("var/lib/other-etcd/x", ""), ("var/lib/etcd/x", "")]);
        let output = run(shell, &root.moved(&script));
        let said = String::from_utf8_lossy(&output.stdout).replace(&root.text(), "");
        assert!(said.contains("disk\t/var/lib/other-etcd has 1 KiB left"), "{shell}: {said}");
        assert!(!said.contains("/var/lib/etcd "), "{shell}: {said}");
    }
}

/// A used machine: it has leftovers of an earlier cluster, a proxy with a password, and a local name server.
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
    ("bin/findmnt", "#!/bin/sh\necho '/ xfs ro,relatime'\n"),
];

#[test]
fn leftovers_are_found_except_on_members() {
    let asked = [
        ("preflight.etcd-data", "member\n.hidden\n"),
        ("preflight.static-pods", "etcd.yaml\n"),
        ("preflight.cni", "05-cilium.conflist\n"),
        ("preflight.pod-network", "cali0f1e2d\n"),
        (
            "preflight.leftovers",
            "1 pod folders, with volumes, in /var/lib/kubelet/pods (unmount the volumes, then delete the folders)\n\
             1 iptables rules (a reboot removes them)\n2 Kubernetes containers (kubeadm reset removes them)\n",
        ),
        (RESOLVES, "in /etc/resolv.conf\nnameserver 127.0.0.53\nsearch a b\noptions edns0\n"),
        (
            "preflight.proxy",
            "apt uses http://proxy.example:3128\nhttps_proxy=http://proxy.example:3128 in /etc/environment\n",
        ),
        ("preflight.kernel-config", "MEMCG\nNET_NS\n"),
        ("preflight.packages-whole", "libc6:amd64\n"),
        (
            "preflight.protections",
            "SELinux is enforcing: containers need its policy container-selinux, and containerd needs enable_selinux = true\n",
        ),
        ("preflight.default-route", ""),
    ];
    for shell in shells() {
        let (used, member) = (root_with(USED), root_with(USED));
        let credentials = "var/lib/kubelet/pki/kubelet-client-current.pem";
        let path = member.path(credentials);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
        for (id, said) in asked {
            let ask = want(id).ask;
            let said = said.replace("options edns0\n", "");
            assert_eq!(used.answer(shell, &ask), Answer::Said(said.clone()), "{shell}: {id}");
            // A member answers this one, because the kubelet's configuration names the file.
            let answer = if id == RESOLVES { Answer::Said(said) } else { Answer::NotHere };
            assert_eq!(member.answer(shell, &ask), answer, "{shell}: {id}");
        }
        let Answer::Said(places) = used.answer(shell, &want("preflight.disk").ask) else { panic!("{shell}") };
        assert!(
            places.lines().count() == 8 && places.lines().all(|line| line.ends_with(" ro,relatime xfs")),
            "{places}"
        );
    }
}

fn said(text: &str) -> Answer {
    Answer::Said(text.into())
}

/// One shell is enough for questions that use no special features of a shell.
fn shell() -> &'static str {
    shells()[0]
}

#[test]
fn interfering_services_are_found_by_their_units() {
    let ask = want("preflight.beside").ask;
    let runs = |unit: &str, files: &[(&str, &str)]| {
        let systemctl = format!("#!/bin/sh\n[ \"$1 $2 $3\" = 'is-active -q {unit}' ]\n");
        let files = [&[("bin/systemctl", systemctl.as_str())], files].concat();
        let Answer::Said(text) = root_with(&files).answer(shell(), &ask) else { panic!("{unit}") };
        text
    };
    let timeless = "no time service runs: certificates need synchronized clocks\n";
    assert_eq!(runs("ssh", &[]), timeless);
    assert_eq!(runs("chrony", &[("run/reboot-required", "")]), "a reboot is pending\n");
    for unit in ["firewalld", "ufw"] {
        let text = format!(
            "{unit} is active: it must allow the ports of Kubernetes between nodes, and the traffic of pods\n"
        );
        assert_eq!(runs(unit, &[]), text + timeless);
    }
    for unit in
        ["docker", "crio", "k3s", "k3s-agent", "rke2-server", "rke2-agent", "snap.microk8s.daemon-kubelite"]
    {
        assert_eq!(runs(unit, &[]), format!("{unit} also runs on the machine\n{timeless}"));
    }
    for unit in ["chrony", "chronyd", "systemd-timesyncd", "ntpsec", "ntpd", "ntp"] {
        assert_eq!(runs(unit, &[]), "", "{unit}");
    }
}

#[test]
fn listeners_on_the_ports_of_kubernetes_are_found() {
    let head =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
    let line = |local: &str, state: &str, inode: u32| {
        format!(
            "   0: {local} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000     0        0 {inode} 1 0 100 0 0 10 0\n"
        )
    };
    // Listeners on 6443 and 22, a connection from 2379, and a listener on 10250 with IPv6.
    let tcp = [
        head,
        &line("00000000:192B", "0A", 1001),
        &line("0100007F:094B", "01", 1002),
        &line("00000000:0016", "0A", 1003),
    ]
    .concat();
    let tcp6 = [head, &line("00000000000000000000000000000000:280A", "0A", 1004)].concat();
    let root = root_with(&[
        ("proc/net/tcp", &tcp),
        ("proc/net/tcp6", &tcp6),
        ("proc/51/comm", "haproxy\n"),
        ("proc/51/fd/2", ""),
    ]);
    std::os::unix::fs::symlink("socket:[1001]", root.path("proc/51/fd/3")).unwrap();
    let ask = want("preflight.ports").ask;
    let held = "port 10250 is in use by an unknown process\nport 6443 is in use by haproxy\n";
    shells().iter().for_each(|shell| assert_eq!(root.answer(shell, &ask), said(held), "{shell}"));
    assert_eq!(root_with(&[("proc/net/tcp", head)]).answer(shell(), &ask), said(""));
}

#[test]
fn facts_of_the_system_are_read_from_each_source() {
    let answer = |id: &str, files: &[(&str, &str)]| root_with(files).answer(shell(), &want(id).ask);
    let cgroups = "preflight.cgroups";
    let controllers = [("sys/fs/cgroup/cgroup.controllers", "cpuset cpu memory pids\n")];
    assert_eq!(answer(cgroups, &controllers), said("version 2 cpuset cpu memory pids\n"));
    assert_eq!(answer(cgroups, &[]), said("version 1\n"));
    let uname = ("bin/uname", "#!/bin/sh\necho 9.9\n");
    for file in ["proc/config.gz", "boot/config-9.9", "usr/lib/modules/9.9/config"] {
        let files = [uname, (file, "CONFIG_MEMCG=y\n")];
        assert_eq!(answer("preflight.kernel-config", &files), said("MEMCG\n"), "{file}");
    }
    assert_eq!(answer("preflight.kernel-config", &[uname]), said("no configuration\n"));
    let (half, dpkg) = ("preflight.packages-whole", "#!/bin/sh\necho ' libc6   x'\nexit ");
    let one = format!("{dpkg}1\n");
    assert_eq!(answer(half, &[("bin/dpkg", &one)]), said("libc6\n"));
    let locked = |inode: &str| {
        let files = [
            ("bin/dpkg", one.as_str()),
            ("bin/stat", "#!/bin/sh\necho 131\n"),
            ("var/lib/dpkg/lock", ""),
            ("proc/51/comm", "dpkg\n"),
            ("proc/locks", &format!("1: POSIX  ADVISORY  WRITE 51 fd:01:{inode} 0 EOF\n")),
        ];
        answer(half, &files)
    };
    assert_eq!(locked("131"), said(""), "a process that holds the lock is installing it");
    assert_eq!(locked("1310"), said("libc6\n"), "the lock of another file does not count");
    assert!(matches!(answer(half, &[("bin/dpkg", &format!("{dpkg}2\n"))]), Answer::Unknown(_)));
    let (protects, on) = ("preflight.protections", ("sys/module/apparmor/parameters/enabled", "Y\n"));
    let parser = [on, ("bin/apparmor_parser", "#!/bin/sh\n"), ("sys/fs/selinux/enforce", "0")];
    assert_eq!(answer(protects, &parser), said(""));
    if which::which("apparmor_parser").is_err() {
        let text = "AppArmor is on, but nothing loads its profiles, so containers run without them (apt-get install apparmor)\n";
        assert_eq!(answer(protects, &[on]), said(text));
    }
    // The space, in mebibytes, of the nearest folder that exists. Without findmnt, the mount options are unknown.
    let findmnt = ("bin/findmnt", "#!/bin/sh\nfor x; do :; done\necho \"$x ext4 rw\"\n");
    let stat = ("bin/stat", "#!/bin/sh\necho 512 4096 70 90\n");
    let disk = "preflight.disk";
    let Answer::Said(text) = answer(disk, &[findmnt, stat, ("var/lib/x", "")]) else { panic!() };
    assert!(text.contains("/var/lib/etcd /var/lib 2 70 90 rw ext4\n"), "{text}");
    let without = [("bin/findmnt", "#!/bin/sh\nexit 1\n"), stat];
    let worker = root_with(&without).answer(shell(), &want_of(&lab(), 1, disk).ask);
    assert!(matches!(worker, Answer::Said(text) if !text.contains("etcd") && text.contains("/usr/bin")));
    let Answer::Said(text) = answer(disk, &without) else { panic!() };
    assert!(text.contains("/usr/bin ? 2 70 90 ? ?\n"), "{text}");
}

#[test]
fn leftovers_are_found_under_each_of_their_names() {
    let answer = |id: &str, files: &[(&str, &str)]| root_with(files).answer(shell(), &want(id).ask);
    let files = ["a.conf", "b.conflist", "c.json", "d.txt"].map(|name| format!("etc/cni/net.d/{name}"));
    let files: Vec<(&str, &str)> = files.iter().map(|file| (file.as_str(), "")).collect();
    assert_eq!(answer("preflight.cni", &files), said("a.conf\nb.conflist\nc.json\n"));
    let links = "cni0 cbr0 flannel.1 cali0f1e2d tunl0 vxlan.calico cilium_host lxc0a1b weave kube-bridge kube-ipvs0 antrea-gw0 ovn-k8s-mp0";
    let all = links.split(' ').chain(["lo", "eth0", "docker0", "br-lan"]);
    let dev: String = all.map(|link| format!("  {link}: 1 0\n")).collect();
    let found = links.replace(' ', "\n") + "\n";
    assert_eq!(answer("preflight.pod-network", &[("proc/net/dev", &dev)]), said(&found));
    for chain in ["KUBE-SVC", "CILIUM_INPUT", "cali-INPUT"] {
        let save = format!("#!/bin/sh\necho '-A {chain} -j X'\n");
        let files = [("bin/iptables-save", save.as_str()), ("bin/systemctl", "#!/bin/sh\nexit 1\n")];
        let text = "1 iptables rules (a reboot removes them)\n";
        assert_eq!(answer("preflight.leftovers", &files), said(text), "{chain}");
    }
    // On a machine on which ironstrap has already run, these questions do not apply.
    let ours = [
        ("var/lib/ironstrap/x", ""),
        ("etc/kubernetes/manifests/etcd.yaml", ""),
        ("proc/net/dev", dev.as_str()),
    ];
    for id in ["preflight.static-pods", "preflight.pod-network", "preflight.packages-whole", "preflight.disk"]
    {
        assert_eq!(answer(id, &ours), Answer::NotHere, "{id}");
    }
}

const RESOLVES: &str = "preflight.name-servers";

#[test]
fn name_servers_routes_and_proxies_are_read() {
    let file = |at: &str, server: &str| (at.to_string(), format!("nameserver {server}\n"));
    let files = [
        file("etc/resolv.conf", "10.0.0.1"),
        file("run/systemd/resolve/resolv.conf", "10.0.0.2"),
        file("etc/other", "10.0.0.3"),
    ];
    let files: Vec<(&str, &str)> = files.iter().map(|(at, text)| (at.as_str(), text.as_str())).collect();
    let answer = |path: Option<&str>, systemctl: &str| {
        let mut cluster = lab();
        cluster.kubelet.extend(path.map(|path| ("resolvConf".to_string(), path.into())));
        let ask = want_of(&cluster, 0, RESOLVES).ask;
        root_with(&[&files[..], &[("bin/systemctl", systemctl)]].concat()).answer(shell(), &ask)
    };
    let runs = "#!/bin/sh\n[ \"$3\" = systemd-resolved ]\n";
    assert_eq!(answer(None, runs), said("in /run/systemd/resolve/resolv.conf\nnameserver 10.0.0.2\n"));
    assert_eq!(answer(None, "#!/bin/sh\nexit 3\n"), said("in /etc/resolv.conf\nnameserver 10.0.0.1\n"));
    assert_eq!(answer(Some("/etc/other"), runs), said("in /etc/other\nnameserver 10.0.0.3\n"));
    assert_eq!(answer(Some("/etc/none"), runs), said("no /etc/none\n"));
    assert_eq!(answer(Some(""), runs), Answer::NotHere);
    let member = root_with(&[&files[..], &[("var/lib/kubelet/config.yaml", "")]].concat());
    let other = member.path("etc/other").display().to_string();
    let config = format!("kind: x\nresolvConf: {other}\n");
    fs::write(member.path("var/lib/kubelet/config.yaml"), config).unwrap();
    let Answer::Said(handed_out) = member.answer(shell(), &want_of(&lab(), 0, RESOLVES).ask) else {
        panic!()
    };
    assert!(handed_out.ends_with("/etc/other\nnameserver 10.0.0.3\n"), "{handed_out}");
    let ip = [("bin/ip", "#!/bin/sh\ncase \"$*\" in *default) echo \"$*\" ;; esac\n")];
    let mut cluster = lab();
    for (address, family) in [("198.18.0.11", "-4"), ("fd00::11", "-6")] {
        cluster.nodes[0].ip = address.parse().unwrap();
        let ask = want_of(&cluster, 0, "preflight.default-route").ask;
        assert_eq!(root_with(&ip).answer(shell(), &ask), said(&format!("{family} route show default\n")));
    }
    let proxies = want("preflight.proxy").ask;
    let config = [("bin/apt-config", "#!/bin/sh\necho \"p='DIRECT' q='http://proxy.example:3128'\"\n")];
    assert_eq!(root_with(&config).answer(shell(), &proxies), said("apt uses http://proxy.example:3128\n"));
}

/// An `ip` command for a machine with two interfaces, a bridge for containers, and addresses of both families.
const IP: &str = r#"#!/bin/sh
case "$*" in
'-o link show') cat <<'X'
1: lo: <LOOPBACK,UP,LOWER_UP> mtu 65536 qdisc noqueue state UNKNOWN mode DEFAULT group default qlen 1000\    link/loopback 00:00:00:00:00:00 brd 00:00:00:00:00:00
2: eth0@if7: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500 qdisc noqueue state UP mode DEFAULT group default qlen 1000\    link/ether 02:00:00:00:00:01 brd ff:ff:ff:ff:ff:ff link-netnsid 0
X
;;
'-o addr show') cat <<'X'
1: lo    inet 127.0.0.1/8 scope host lo\       valid_lft forever preferred_lft forever
2: eth0    inet 198.18.0.11/24 brd 198.18.0.255 scope global eth0\       valid_lft forever preferred_lft forever
2: eth0    inet6 fd00::11/64 scope global \       valid_lft forever preferred_lft forever
3: docker0    inet 172.17.0.1/16 brd 172.17.255.255 scope global docker0\       valid_lft forever preferred_lft forever
X
;;
'-4 route show') cat <<'X'
default via 198.18.0.1 dev eth0 onlink
172.17.0.0/16 dev docker0 proto kernel scope link src 172.17.0.1
198.18.0.0/24 dev eth0 proto kernel scope link src 198.18.0.11
10.9.8.7 via 198.18.0.1 dev eth0
blackhole 10.1.0.0/16
X
;;
'-6 route show') cat <<'X'
fd00::/64 dev eth0 proto kernel metric 256 pref medium
default via fe80::1 dev eth0 metric 1024 pref medium
X
;;
esac
"#;

#[test]
fn a_machine_reports_its_identity_and_its_addresses() {
    let files = [
        ("etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
        ("sys/class/dmi/id/product_uuid", "4C4C4544-0000-2010-8020-80C04F202020\n"),
        ("etc/ssh/ssh_host_ed25519_key.pub", "ssh-ed25519 AAAA1 root@m1\n"),
        ("bin/ip", IP),
    ];
    for shell in shells() {
        let (machine, _) = root_with(&files).answers(shell, &Ask::Facts, ETCD_DIR);
        assert_eq!(machine.machine_id.as_deref(), Some("0123456789abcdef0123456789abcdef"));
        let uuid = machine.product_uuid.as_deref();
        assert_eq!(uuid, Some("4c4c4544-0000-2010-8020-80c04f202020"), "kernels write it in either case");
        assert_eq!(machine.host_keys, ["ssh-ed25519 AAAA1"]);
        assert_eq!(machine.macs, [("eth0".to_string(), "02:00:00:00:00:01".to_string())].into());
        let addresses: Vec<String> =
            machine.addresses.iter().map(|(ip, card)| format!("{ip} {card}")).collect();
        assert_eq!(addresses, ["198.18.0.11 eth0", "fd00::11 eth0"]);
        let routes: Vec<String> = machine.routes.iter().map(|route| route.to_string()).collect();
        assert_eq!(routes, ["10.9.8.7/32", "198.18.0.0/24", "fd00::/64"]);
        // A member only reports what identifies it.
        let member = [&files[..], &[("var/lib/kubelet/pki/kubelet-client-current.pem", "")]].concat();
        let (machine, _) = root_with(&member).answers(shell, &Ask::Facts, ETCD_DIR);
        assert!(machine.machine_id.is_some() && machine.addresses.is_empty() && machine.routes.is_empty());
    }
}
