//! Runs the checks of a node's processes in every shell. The processes are real and stopped by the test. cgroups and
//! files are below a folder, and servers listen on loopback.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command};

use ironstrap::cluster::{Cluster, Node};
use ironstrap::fleet::Fleet;
use ironstrap::machine::Machine;
use ironstrap::shell::{DAEMONS, PACKETS, PODS, PROCESSES};
use ironstrap::step::{Ask, Expect, Verdict, Want};
use time::OffsetDateTime;

use crate::support::{self, root::Root};

/// Names of files and their texts.
type Files = &'static [(&'static str, &'static str)];

const UID: &str = "0a1b2c3d-1111-4222-8333-444455556666";
const STATIC: &str = "0123456789abcdef0123456789abcdef";

/// Runs `script` after the functions of the templates and the stand-ins. Paths of the machine point below the folder,
/// with `fake` also those in /proc.
fn run(shell: &str, root: &Root, fake: bool, stands: &str, script: &str) -> (bool, String) {
    let lib = include_str!("../../templates/lib.sh");
    let text = format!(
        "set -eu\nWAIT_TIMEOUT=1\n{lib}\n{PODS}\n{DAEMONS}\n{PACKETS}\n{PROCESSES}\n{stands}\n{script}\n"
    );
    let mut paths =
        vec!["/sys/fs/cgroup", "/run/", "/var/log/", "/var/lib/", "/etc/", "/usr/lib/", "/usr/local/lib/"];
    if fake {
        paths.extend(["/proc/$", "/proc/uptime"]);
    }
    let text = paths.iter().fold(text, |text, path| text.replace(path, &format!("{}{path}", root.text())));
    let output = support::run(shell, &text);
    let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    (output.status.success(), said.replace(&root.text(), ""))
}

/// A process that sleeps, and that ends with the test.
struct Sleeper(Child);

impl Sleeper {
    fn new() -> Sleeper {
        Sleeper(Command::new("sleep").arg("60").spawn().unwrap())
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }

    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args(["-s", signal, &self.pid()]).status().unwrap().success());
        // The kernel stops the process a moment later.
        while self.is_stopped() != (signal == "STOP") {
            std::thread::yield_now();
        }
    }

    fn is_stopped(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        stat.rsplit(") ").next().unwrap().starts_with('T')
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// The cgroup of a container of the pod with this uid.
fn scope(top: &str, uid: &str) -> String {
    let slice = format!("kubepods-burstable-pod{}.slice", uid.replace('-', "_"));
    format!("sys/fs/cgroup{top}/kubepods.slice/kubepods-burstable.slice/{slice}/cri-containerd-x.scope")
}

#[test]
fn stopped_processes_of_the_node_are_found_and_resumed() {
    let sleepers = [(); 5].map(|()| Sleeper::new());
    let [scheduler, proxy, containerd, tenant, runs] = &sleepers;
    for (shell, top) in
        support::shells().into_iter().flat_map(|shell| ["", "/systemd"].map(|top| (shell, top)))
    {
        sleepers.iter().take(4).for_each(|sleeper| sleeper.signal("STOP"));
        let tenants = "ffffffff-1111-4222-8333-444455556666";
        let procs = |group: String| format!("{group}/cgroup.procs");
        let root = Root::with_files(&[
            (&procs(scope(top, STATIC)), &format!("{}\n{}\n", scheduler.pid(), runs.pid())),
            (&procs(scope(top, UID)), &format!("{}\n", proxy.pid())),
            (&procs(scope(top, tenants)), &format!("{}\n", tenant.pid())),
            (
                &procs(format!("sys/fs/cgroup{top}/runtime.slice/containerd.service")),
                &format!("{}\n", containerd.pid()),
            ),
            (&format!("var/log/pods/kube-system_kube-scheduler-m1_{STATIC}/x"), ""),
            (&format!("var/log/pods/kube-system_kube-proxy-abcde_{UID}/x"), ""),
            (&format!("var/log/pods/tenant_kube-proxy-abcde_{tenants}/x"), ""),
        ]);
        let pods = "kube-system_kube-scheduler-m1_ kube-system_kube-proxy-";
        let (good, said) = run(shell, &root, false, "", &format!("stopped {pods}"));
        let line = |of: &Sleeper, what: &str| format!("stopped: sleep, process {} of {what}\n", of.pid());
        let all = line(containerd, "containerd.service")
            + &line(scheduler, "kube-system/kube-scheduler-m1")
            + &line(proxy, "kube-system/kube-proxy-abcde");
        assert_eq!((good, said), (true, all), "{shell} {top}");
        assert_eq!(
            run(shell, &root, false, "", &format!("resume {pods}")),
            (true, String::new()),
            "{shell} {top}"
        );
        let stopped: Vec<bool> = sleepers.iter().map(Sleeper::is_stopped).collect();
        assert_eq!(
            stopped,
            [false, false, false, true, false],
            "{shell} {top}: the process of a tenant stays stopped"
        );
        let (_, said) = run(shell, &root, false, "", &format!("stopped {pods}"));
        assert_eq!(said, "", "{shell} {top}");
        tenant.signal("CONT");
    }
}

#[test]
fn a_briefly_stopped_process_is_not_reported() {
    let sleeper = Sleeper::new();
    for shell in support::shells() {
        let group = "sys/fs/cgroup/system.slice/kubelet.service/cgroup.procs";
        let root = Root::with_files(&[(group, &format!("{}\n", sleeper.pid()))]);
        sleeper.signal("STOP");
        let stands = format!("sleep() {{ kill -s CONT {}; command sleep 0.2; }}", sleeper.pid());
        assert_eq!(run(shell, &root, false, &stands, "stopped"), (true, String::new()), "{shell}");
    }
}

#[test]
fn a_frozen_cgroup_is_found_and_thawed() {
    for shell in support::shells() {
        // cgroup v2: the slice of all pods is frozen, and each cgroup below it reports that.
        let (scope2, slice) = (scope("", UID), "sys/fs/cgroup/kubepods.slice");
        let root = Root::with_files(&[
            (&format!("{scope2}/cgroup.procs"), "4000000\n"),
            (&format!("{scope2}/cgroup.events"), "populated 1\nfrozen 1\n"),
            (&format!("{scope2}/cgroup.freeze"), "0\n"),
            (&format!("{slice}/cgroup.freeze"), "1\n"),
            (&format!("var/log/pods/kube-system_coredns-1_{UID}/x"), ""),
        ]);
        let stands = "systemctl() { echo \"systemctl $*\"; }";
        let line = format!("frozen: kube-system/coredns-1 (/{scope2})\n");
        let said = run(shell, &root, false, stands, "stopped kube-system_coredns-");
        assert_eq!(said, (true, line.clone()), "{shell}");
        let (_, said) = run(shell, &root, false, stands, "resume kube-system_coredns-");
        assert!(said.starts_with("systemctl thaw kubepods.slice\n"), "{shell}: {said}");
        assert_eq!(root.read(&format!("{slice}/cgroup.freeze")), "0\n", "{shell}");
        // cgroup v1: the freezer is a hierarchy of its own.
        let (unit, freezer) = (
            "sys/fs/cgroup/systemd/system.slice/kubelet.service",
            "sys/fs/cgroup/freezer/system.slice/kubelet.service",
        );
        let root = Root::with_files(&[
            (&format!("{unit}/cgroup.procs"), "4000000\n"),
            (&format!("{freezer}/freezer.state"), "FROZEN\n"),
            (&format!("{freezer}/freezer.self_freezing"), "1\n"),
        ]);
        let said = run(shell, &root, false, stands, "stopped");
        assert_eq!(said, (true, format!("frozen: kubelet.service (/{unit})\n")), "{shell}");
        assert_eq!(run(shell, &root, false, stands, "resume"), (true, String::new()), "{shell}");
        assert_eq!(root.read(&format!("{freezer}/freezer.state")), "THAWED\n", "{shell}");
    }
}

#[test]
fn a_process_held_by_a_debugger_needs_a_human() {
    for shell in support::shells() {
        let root = Root::with_files(&[
            ("sys/fs/cgroup/system.slice/kubelet.service/cgroup.procs", "71\n"),
            ("proc/71/stat", "71 (a) (b) t 1 71 71\n"),
            ("proc/71/cmdline", "/usr/bin/kubelet\0--v=1\0"),
            ("proc/71/status", "Name:\tkubelet\nTracerPid:\t72\n"),
            ("proc/72/comm", "gdb\n"),
        ]);
        let (good, said) = run(shell, &root, true, "kill() { :; }", "resume");
        let line = "stopped: kubelet, process 71 of kubelet.service, held by process 72 (gdb)";
        assert!(!good && said.starts_with(line), "{shell}: {said}");
        assert!(said.contains("\nreason: ") && said.contains("\nby hand: debugger"), "{said}");
    }
}

/// A machine whose kubelet started an hour ago with these arguments.
fn kubelet(arguments: &str, files: &[(&str, &str)]) -> Root {
    let stat = format!("80 (kubelet) S 1 {}360000 0\n", "0 ".repeat(17));
    let command = format!("/usr/bin/kubelet\0{}\0", arguments.replace(' ', "\0"));
    let own: [(&str, &str); 7] = [
        ("sys/fs/cgroup/system.slice/kubelet.service/cgroup.procs", "80\n81\n"),
        ("proc/80/stat", &stat),
        ("proc/81/stat", &stat.replace("80 (kubelet) S 1 ", "81 (mount) S 80 ")),
        ("proc/80/cmdline", &command),
        ("proc/uptime", "7200.50 100.00\n"),
        (
            "usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf",
            "[Service]\nEnvironment=\"KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/b --kubeconfig=/k\"\nEnvironmentFile=-/etc/extra\nExecStart=\nExecStart=/usr/bin/kubelet $KUBELET_KUBECONFIG_ARGS \\\n  $KUBELET_EXTRA_ARGS --hostname-override=%H\n",
        ),
        ("var/lib/kubelet/kubeadm-flags.env", "KUBELET_KUBEADM_ARGS=\"--node-ip=10.0.0.1 --x='a=b'\"\n"),
    ];
    let root = Root::with_files(&[&own[..], files].concat());
    let drop_in = root.read(own[5].0).replace("/etc/extra", &format!("{}/etc/extra", root.text()));
    std::fs::write(root.path(own[5].0), drop_in).unwrap();
    root
}

#[test]
fn kubelet_arguments_missing_from_its_files_are_named() {
    const OWN: &str = "--bootstrap-kubeconfig=/b --kubeconfig=/k --node-ip=10.0.0.1 --x=a=b";
    let rows: [(String, Files, &str); 9] = [
        (OWN.into(), &[], ""),
        (format!("{OWN} --max-pods=9"), &[], "--max-pods=9\n"),
        (format!("{OWN} --node-ip=10.0.0.11"), &[], "--node-ip=10.0.0.11\n"),
        (format!("{OWN} --node-ip=10.0.0"), &[], "--node-ip=10.0.0\n"),
        (format!("{OWN} --hostname-override=w1"), &[], ""),
        (
            format!("{OWN} --max-pods=9"),
            &[("etc/default/kubelet", "# KUBELET_EXTRA_ARGS=--max-pods=9\n")],
            "--max-pods=9\n",
        ),
        (
            format!("{OWN} --max-pods=9 --v 2"),
            &[("etc/default/kubelet", "KUBELET_EXTRA_ARGS=--max-pods=9 --v 2\n")],
            "",
        ),
        (
            format!("{OWN} --max-pods=9"),
            &[("etc/systemd/system/kubelet.service.d/20.conf", "[Service]\nEnvironment='A=--max-pods=9'\n")],
            "",
        ),
        (format!("{OWN} --max-pods=9"), &[("etc/extra", "A=--max-pods=9\n")], ""),
    ];
    for shell in support::shells() {
        for (arguments, files, only) in &rows {
            let root = kubelet(arguments, files);
            let script = "find_kubelet; [ \"$main $age\" = '80 3600' ]; kubelet_only";
            let said = run(shell, &root, true, "", script);
            assert_eq!(said, (true, only.to_string()), "{shell}: {arguments}");
            // This file changed after the start. Another want restarts the kubelet for that.
            let file = "/var/lib/kubelet/kubeadm-flags.env";
            let said = run(shell, &root, true, "", &format!("find_kubelet; kubelet_only {file}"));
            assert_eq!(said, (true, String::new()), "{shell}: {arguments}");
        }
        let said =
            run(shell, &Root::with_files(&[]), true, "", "find_kubelet; kubelet_only; echo \"<$main>\"");
        assert_eq!(said, (true, "<>\n".into()), "{shell}: none runs");
    }
}

#[test]
fn a_kubelet_with_stray_arguments_is_restarted() {
    for shell in support::shells() {
        let arguments = "--kubeconfig=/k --max-pods=9";
        let root = kubelet(arguments, &[("run/ironstrap/x", "")]);
        let restart =
            format!("printf '/usr/bin/kubelet\\0--kubeconfig=/k\\0' >{}/proc/80/cmdline", root.text());
        let stands = |restart: &str| {
            format!(
                "stays_active() {{ :; }}\nsystemctl() {{ echo \"systemctl $1\"; case $1 in restart) {restart} ;; esac; }}"
            )
        };
        let said = run(shell, &root, true, &stands(&restart), "kubelet_as_given");
        let done =
            "systemctl unset-environment\nsystemctl daemon-reload\nsystemctl is-active\nsystemctl restart\n";
        assert_eq!(said, (true, done.into()), "{shell}");
        let said = run(shell, &root, true, &stands(&restart), "kubelet_as_given");
        assert_eq!(said, (true, String::new()), "{shell}: once is enough");
        // If the kubelet does not start, a later stage repairs the cause.
        let dies =
            "stays_active() { return 1; }\nsystemctl() { case $1 in restart) main=; return 1 ;; esac; }";
        let receipt = "mkdir -p /var/lib/ironstrap; echo nonsense >/var/lib/kubelet/config.yaml\n\
                       sha256sum /var/lib/kubelet/config.yaml /var/lib/kubelet/kubeadm-flags.env >/var/lib/ironstrap/kubeadm-receipt\n";
        let root = kubelet(arguments, &[("run/ironstrap/x", "")]);
        let once = format!(
            "{dies}\nfind_kubelet() {{ case ${{gone-}} in '') main=80 age=99 gone=yes ;; *) main= ;; esac; }}"
        );
        let (good, said) = run(shell, &root, true, &once, "kubelet_as_given");
        assert!(good && said.contains("kubelet does not start"), "{shell}: {said}");
        let edited = format!(
            "{receipt}echo other >/var/lib/kubelet/config.yaml\nfind_kubelet() {{ main=; }}\nkubelet_is_written && exit 3; stays_active kubelet || ! kubelet_is_written || exit 4"
        );
        assert_eq!(run(shell, &root, true, dies, &edited), (true, String::new()), "{shell}");
        let conf = [("etc/systemd/system.conf", "DefaultEnvironment=KUBELET_EXTRA_ARGS=--max-pods=9\n")];
        let (good, said) = run(shell, &kubelet(arguments, &conf), true, &stands(":"), "kubelet_as_given");
        assert!(
            !good && said.contains("reason: the kubelet still runs with --max-pods=9"),
            "{shell}: {said}"
        );
        assert!(said.contains("reason: systemd sets variables of the kubelet in /etc/systemd/system.conf\nby hand: kubelet-arguments"), "{said}");
    }
}

/// Starts a server that answers each request with `answer`. Without an answer it listens and stays silent.
fn server(answer: Option<&'static str>) -> (u16, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, own) = (listener.local_addr().unwrap().port(), listener.try_clone().unwrap());
    if let Some(answer) = answer {
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = own.accept() {
                // bash sends each line of the request separately.
                let (mut request, mut piece) = (Vec::new(), [0; 512]);
                while !request.ends_with(b"\r\n\r\n") {
                    match stream.read(&mut piece) {
                        Ok(n @ 1..) => request.extend_from_slice(&piece[..n]),
                        _ => break,
                    }
                }
                let _ = stream.write_all(format!("HTTP/1.0 {answer}").as_bytes());
            }
        });
    }
    (port, listener)
}

#[test]
fn an_http_probe_reports_status_refusal_or_silence() {
    let good = server(Some("200 OK\r\nX: y\r\n\r\nok"));
    let ill = server(Some("500 Internal\r\n\r\n[+]ping ok\n[-]syncloop failed: withheld\nfailed\n"));
    let (silent, closed) = (server(None), TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    for shell in support::shells() {
        let ask = format!(
            "packets a 127.0.0.1 http:{}/healthz b 127.0.0.1 http:{}/x c 127.0.0.1 http:{}/x d 127.0.0.1 http:{}/x",
            good.0,
            ill.0,
            silent.0,
            closed.port()
        );
        let said = run(shell, &Root::with_files(&[]), false, "", &ask);
        let all = "a says 200 ok\nb says 500 [-]syncloop failed: withheld\nc silent\nd refused\n";
        assert_eq!(said, (true, all.into()), "{shell}");
    }
}

#[test]
fn daemons_are_probed_at_their_configured_ports() {
    const PROXY: &str = "var/lib/kubelet/pods/u/volumes/kubernetes.io~configmap/kube-proxy/config.conf";
    const CONFIG: &str = "var/lib/kubelet/config.yaml";
    let rows: [(Files, &str); 5] = [
        (&[], ""),
        (&[(CONFIG, "kind: KubeletConfiguration\n")], "kubelet-health 127.0.0.1 http:10248/healthz"),
        (
            &[(CONFIG, "healthzBindAddress: 0.0.0.0\nhealthzPort: 10300\n")],
            "kubelet-health 127.0.0.1 http:10300/healthz",
        ),
        (&[(CONFIG, "healthzPort: 0\n")], ""),
        (
            &[(PROXY, "healthzBindAddress: '[::]:10357'\nmetricsBindAddress: \"\"\nmode: nftables\n")],
            " proxy ::1 http:10357/livez proxy-mode 127.0.0.1 http:10249/proxyMode proxy-settings 127.0.0.1 json:10249/configz",
        ),
    ];
    for shell in support::shells() {
        for (files, asks) in &rows {
            let said = run(shell, &Root::with_files(files), false, "", "local_asks; echo \"$local_asks\"");
            assert_eq!(said, (true, format!("{asks}\n")), "{shell}");
        }
    }
}

#[test]
fn a_silent_daemon_is_restarted_after_three_probes() {
    for shell in support::shells() {
        for (good_at, asked, restarts) in [(1, 1, 0), (3, 3, 0), (4, 4, 1)] {
            let root = Root::with_files(&[("run/ironstrap/n", ""), ("run/ironstrap/restarts", "")]);
            let stands = format!(
                "renew_lease() {{ :; }}\nsleep() {{ :; }}\nsteady() {{ :; }}\nlocal_asks() {{ local_asks=x; }}\n\
                 systemctl() {{ case $1 in restart) echo >>/run/ironstrap/restarts ;; esac; }}\nrestart() {{ systemctl restart; }}\n\
                 packets() {{ echo >>/run/ironstrap/n; if [ $(wc -l </run/ironstrap/n) -ge {good_at} ]; then echo \"$of says 200 ok\"; else echo \"$of silent\"; fi; }}"
            );
            for (of, fix) in [("kubelet-health", "kubelet_again"), ("proxy", "proxy_answers_again w1")] {
                std::fs::write(root.path("run/ironstrap/n"), "").unwrap();
                std::fs::write(root.path("run/ironstrap/restarts"), "").unwrap();
                let said = run(shell, &root, false, &stands, &format!("of={of}; {fix}"));
                assert_eq!(said, (true, String::new()), "{shell} {of}");
                let lines = |name: &str| root.read(&format!("run/ironstrap/{name}")).lines().count();
                assert_eq!((lines("n"), lines("restarts")), (asked, restarts), "{shell} {of} {good_at}");
            }
        }
    }
}

#[test]
fn kube_proxy_in_the_wrong_mode_gets_a_new_pod() {
    for shell in support::shells() {
        let root = Root::with_files(&[("run/ironstrap/mode", "iptables\n"), ("run/ironstrap/asked", "")]);
        let stands = "renew_lease() { :; }\nlocal_asks() { local_asks=x; }\npackets() { echo \"proxy-mode says 200 $(cat /run/ironstrap/mode)\"; }\n\
                      WAIT_TIMEOUT=9\ncommand() { case $* in kubectl*) echo \"$*\" >>/run/ironstrap/asked
                      if [ $(wc -l </run/ironstrap/asked) = 1 ]; then echo 'connect: connection refused' >&2; return 1; fi
                      echo nftables >/run/ironstrap/mode ;; esac; }";
        let (good, said) = run(shell, &root, false, stands, "proxy_mode_again w1 nftables");
        let asked = root.read("run/ironstrap/asked");
        // The API server refuses the first call, because it restarts.
        assert_eq!(asked.lines().count(), 2, "{shell}: {asked}");
        assert!(
            good && asked.contains("--field-selector spec.nodeName=w1 -l k8s-app=kube-proxy"),
            "{shell}: {said}"
        );
        let said = run(shell, &root, false, stands, "proxy_mode_again w1 nftables");
        assert_eq!(said, (true, String::new()), "{shell}: nothing is to be done");
    }
}

fn wanted(cluster: &Cluster, node: &Node, id: &str) -> Want {
    let pki = support::pki(cluster);
    let has = ["client-certificate", "receipt"].map(String::from).into();
    let (machine, fleet) = (Machine { has, ..Machine::default() }, Fleet::default());
    let wants = support::wants((cluster, node), &pki, (&machine, &fleet), OffsetDateTime::now_utc());
    wants.into_iter().find(|(.., want)| want.id.to_string() == id).unwrap_or_else(|| panic!("no want {id}")).2
}

#[test]
fn each_fault_changes_the_verdict_of_one_want() {
    const ALL: &str = "kubelet runs\nkube-proxy runs\nservice reached\nserver0 reached\nkubelet-health says 200 ok\n\
                       proxy says 200 {\"x\"}\nproxy-mode says 200 nftables";
    let said = |of: &str, is: &str| {
        assert!(ALL.contains(of));
        ALL.replace(of, is)
    };
    let ids = [
        "processes.stopped",
        "processes.kubelet",
        "processes.kubelet-arguments",
        "processes.kube-proxy",
        "processes.kube-proxy-mode",
    ];
    let [holds, differs, unknown, unchecked] = ["holds", "differs", "unknown", "unchecked"];
    let rows: [(String, [&str; 5]); 14] = [
        (ALL.into(), [holds; 5]),
        (
            "stopped: kubelet, process 7 of kubelet.service\n".to_string()
                + &said("kubelet-health says 200 ok", "kubelet-health silent"),
            [differs, holds, holds, holds, holds],
        ),
        (
            "frozen: kube-system/kube-proxy-x (/x)\n".to_string()
                + &said("nftables", "iptables").replace("proxy says 200", "proxy silent"),
            [differs, holds, holds, holds, differs],
        ),
        (said("kubelet-health says 200 ok", "kubelet-health silent"), [holds, differs, holds, holds, holds]),
        (said("kubelet-health says 200 ok", "kubelet-health refused"), [holds, differs, holds, holds, holds]),
        (
            said("kubelet-health says 200 ok", "kubelet-health says 500 [-]syncloop"),
            [holds, differs, holds, holds, holds],
        ),
        (
            said("kubelet-health says 200 ok", "kubelet-health refused").replace("kubelet runs\n", ""),
            [holds, holds, holds, holds, holds],
        ),
        (format!("kubelet has --max-pods=9\n{ALL}"), [holds, holds, differs, holds, holds]),
        (said("proxy says 200", "proxy says 503"), [holds, holds, holds, differs, holds]),
        (said("proxy says 200 {\"x\"}", "proxy silent"), [holds, holds, holds, differs, holds]),
        (
            said("proxy says 200", "proxy says 503").replace("server0 reached", "server0 silent"),
            [holds, holds, holds, holds, holds],
        ),
        (said("200 nftables", "200 iptables"), [holds, holds, holds, holds, differs]),
        (said("proxy-mode says 200 nftables", "proxy-mode refused"), [holds, holds, holds, holds, unchecked]),
        (
            "kubelet runs\nkube-proxy runs\nthe machine has no bash, which this check needs".into(),
            [holds, unknown, holds, unknown, unknown],
        ),
    ];
    let cluster = support::lab();
    let verdict = |answer: &str, id: &str| {
        let Expect::Judged(judge) = wanted(&cluster, &cluster.nodes[1], id).expect else { panic!() };
        match judge(answer) {
            Verdict::Holds => holds,
            Verdict::Differs { .. } => differs,
            Verdict::Unknown(_) => unknown,
            Verdict::Unchecked(_) => unchecked,
            other => panic!("{other:?}"),
        }
    };
    for (answer, expected) in &rows {
        assert_eq!(ids.map(|id| verdict(answer, id)), *expected, "{answer}");
    }
}

#[test]
fn all_process_wants_share_one_question() {
    let cluster = support::lab();
    let asks: Vec<Ask> = [0, 1]
        .map(|node| {
            let of = |id| wanted(&cluster, &cluster.nodes[node], id).ask;
            let ask = of("processes.stopped");
            assert_eq!(of("connectivity.service"), ask, "both wants share this question");
            ask
        })
        .into();
    let [m1, w1] = [0, 1].map(|node: usize| asks[node].shell().unwrap());
    let daemons = "kube-system_kube-proxy- kube-system_coredns- kube-flannel_flannel-\n";
    let planes = "kube-system_etcd-m1_ kube-system_kube-apiserver-m1_ kube-system_kube-controller-manager-m1_ kube-system_kube-scheduler-m1_";
    assert!(m1.contains(&format!("\nstopped {planes} {daemons}")), "{m1}");
    assert!(w1.contains(&format!("\nstopped {daemons}")), "{w1}");
}
