//! The active checks between two machines. Both machines are addresses of this one, with real shells and Perl. The
//! tests show which faults the checks report, and that the checks leave nothing behind.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use ironstrap::active_checks::alone;
use ironstrap::active_checks::reach::{self, Round};
use ironstrap::cluster::{Cluster, Endpoint, Network, Registry};
use ironstrap::error::Result;
use ironstrap::inventory;
use ironstrap::ledger::Run;
use ironstrap::reconcile::Reconciler;
use ironstrap::report::{self, Events};
use ironstrap::shell::{Output, Sh, Shell};
use ironstrap::step::Ask;
use ironstrap::steps::STAGES;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::command::command;
use crate::support::root::Root;
use crate::support::{lab, pki, run, shells, tools};

/// Ports of Kubernetes, and the ports that the tests use instead. If something on this machine checks whether the ports
/// of Kubernetes are free, it must not find the tests there.
const PORTS: [(&str, &str); 3] = [("6443", "16443"), ("10250", "20250"), ("8472", "18472")];

/// An address of this machine. It depends on the process id, so that two runs of these tests do not collide.
fn host(n: u8) -> String {
    let id = std::process::id();
    format!("127.{}.{}.{n}", 64 + id / 256 % 128, id % 256)
}

/// Held by each test that uses `PORTS`, because the tests of one process run in parallel.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Runs scripts on this machine, after it replaces these words in them.
struct Here {
    words: Vec<(String, String)>,
    ran: Arc<Mutex<Vec<String>>>,
}

impl Shell for Here {
    async fn run(&self, script: &Sh, heard: &mut (dyn FnMut(&[u8]) + Send)) -> Result<Output> {
        let script =
            self.words.iter().fold(script.to_string(), |script, (old, new)| script.replace(old, new));
        self.ran.lock().unwrap().push(script.clone());
        let piped = (Stdio::piped(), Stdio::piped(), Stdio::piped());
        let mut child = tokio::process::Command::new("/bin/sh")
            .arg("-s")
            .env("PATH", tools::path())
            .stdin(piped.0)
            .stdout(piped.1)
            .stderr(piped.2)
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(script.as_bytes()).await.unwrap();
        let (mut out, mut stdout, mut piece) = (child.stdout.take().unwrap(), Vec::new(), [0; 4096]);
        while let Ok(n @ 1..) = out.read(&mut piece).await {
            let said = String::from_utf8_lossy(&piece[..n]).into_owned();
            let said = PORTS.iter().fold(said, |said, (ours, here)| said.replace(here, ours));
            heard(said.as_bytes());
            stdout.extend_from_slice(said.as_bytes());
        }
        let done = child.wait_with_output().await.unwrap();
        Ok(Output { status: done.status.code().unwrap_or(255), stdout, stderr: done.stderr })
    }
}

/// A web server that has these texts and every image. It answers 401 to everything else.
fn serve(pages: Vec<(&'static str, &'static str)>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for guest in listener.incoming() {
            let (mut guest, mut first) = (guest.unwrap(), String::new());
            let mut lines = BufReader::new(guest.try_clone().unwrap());
            lines.read_line(&mut first).unwrap();
            let mut line = String::from("x");
            while !line.trim().is_empty() {
                line.clear();
                lines.read_line(&mut line).unwrap();
            }
            let page = pages.iter().find(|(path, _)| first.contains(&format!(" {path} ")));
            let other = if first.contains("/manifests/") { "200 OK" } else { "401 Unauthorized" };
            let (status, text) = page.map_or((other, ""), |(_, text)| ("200 OK", text));
            let head =
                format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", text.len());
            let _ = guest.write_all(format!("{head}{text}").as_bytes());
        }
    });
    port
}

const PACKAGES: &str = "Package: kubeadm\nVersion: 1.36.9-1.1\n\nPackage: kubelet\nVersion: 1.36.2-1.1\n\nPackage: kubelet\nVersion: 1.36.3-1.1\n";

/// The findings about two machines, and the scripts that they ran. In the scripts of the second machine, these words
/// are replaced.
async fn findings_of_two(odd: &[(&str, &str)], kubernetes: &str, web: u16) -> (String, Vec<String>) {
    let (root, key) = (tempfile::tempdir().unwrap(), include_str!("../keys/other.asc"));
    std::fs::write(root.path().join("key.asc"), key).unwrap();
    let text = format!(
        "[cluster]\nname = 'demo'\nkubernetes = '{kubernetes}'\n[packages]\nkubernetes = 'http://127.0.0.1:{web}/deb/'\n\
         key = '{}/key.asc'\n[registries._default]\nmirrors = ['http://127.0.0.1:{web}']\nfallback = false\n\
         [nodes.m1]\naddress = '198.18.0.11'\nrole = 'control-plane'\n[nodes.w1]\naddress = '198.18.0.12'\nrole = 'worker'\n",
        root.path().display()
    );
    let mut cluster =
        inventory::parse(&text, Path::new("demo.toml")).unwrap_or_else(|error| panic!("{error}"));
    for (node, ip) in cluster.nodes.iter_mut().zip([host(1), host(2)]) {
        node.ip = ip.parse().unwrap();
    }
    let ran = Arc::new(Mutex::new(Vec::new()));
    let shell = |odd: &[(&str, &str)]| {
        let folder = root.path().display().to_string();
        let moved = [
            "/var/lib/etcd",
            "/var/lib/kubelet/",
            "/etc/kubernetes/",
            "/usr/bin/kubelet",
            "/usr/bin/containerd",
        ];
        let mut words: Vec<_> = moved.map(|path| (path.to_string(), format!("{folder}{path}"))).into();
        words.extend(PORTS.map(|(old, new)| (old.to_string(), new.to_string())));
        // The package repositories of this machine must not matter.
        words.push(("apt-get -q -c".into(), "true".into()));
        words.push(("apt-cache -o".into(), "true -o".into()));
        words.extend(odd.iter().map(|(old, new)| (old.to_string(), new.to_string())));
        Here { words, ran: ran.clone() }
    };
    let (events, _receiver) = Events::channel();
    let run = Run::new("1f", "me@here");
    let pki = pki(&cluster);
    let shells = vec![shell(&[]), shell(odd)];
    let mut work = Reconciler::new(Arc::new(cluster), &STAGES[..1], pki, shells, run, events).unwrap();
    // One machine at a time. Listeners do not count, or the probes would never start.
    work.limit_connections(1);
    work.observe().await;
    work.run_active_checks().await;
    let ours = ["Reach", "Sources", "Fsync", "MTU"].map(|name| format!("\"{name}\""));
    let errors = work.preflight(("demo.trust", false)).errors;
    let mut lines: Vec<String> = errors.iter().map(report::trouble).collect();
    lines.retain(|line| ours.iter().any(|name| line.contains(name)));
    let notes = work.notes().unwrap().into_iter().map(|(node, _, words)| format!("{node}  {words}"));
    lines.extend(notes.filter(|words| words.contains("could not run")));
    let left: Vec<_> =
        std::fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["key.asc"]);
    let ran = ran.lock().unwrap().clone();
    (lines.join("\n"), ran)
}

#[tokio::test]
async fn reachability_checks_report_faults_and_free_their_ports() {
    let _alone = ALONE.lock().await;
    let web = serve(vec![("/deb/Packages", PACKAGES)]);
    let (said, ran) = findings_of_two(&[], "1.36.3", web).await;
    assert_eq!(said, "");
    assert!(
        ran.iter().any(|script| script.contains(&format!("tcp {} 16443 greets\n", host(1)))),
        "w1 probes m1"
    );
    assert!(
        ran.iter().any(|script| script.contains(&format!("udp {} 18472 greets\n", host(2)))),
        "m1 probes w1"
    );
    for at in [host(1) + ":16443", host(2) + ":20250"] {
        TcpListener::bind(&at).unwrap_or_else(|error| panic!("a listener is left on {at}: {error}"));
    }
    UdpSocket::bind(host(2) + ":18472").unwrap();
    // w1 probes ports on which m1 does not listen, and the repository lacks this version.
    let first = host(1);
    let odd = [("udp", 18472), ("tcp", 16443)].map(|(kind, port): (&str, u16)| {
        (format!("{kind} {first} {port}"), format!("{kind} {first} {}", port + 1))
    });
    let odd = [(odd[0].0.as_str(), odd[0].1.as_str()), (&odd[1].0, &odd[1].1)];
    let (said, _) = findings_of_two(&odd, "1.36.4", web).await;
    assert!(said.contains("m1  cannot be reached on 16444/tcp, 18473/udp\n"), "{said}");
    assert!(said.contains("16444/tcp: refused, from w1\n"), "{said}");
    assert_eq!(said.matches("the Kubernetes repository has no kubelet 1.36.4").count(), 2, "{said}");
    // w1 reaches no web server, and has no Perl.
    let url = format!("http://127.0.0.1:{web}");
    let odd = [(url.as_str(), "http://127.0.0.1:9"), ("perl -e", "no-perl -e")];
    let (said, _) = findings_of_two(&odd, "1.36.3", web).await;
    for what in ["a package repository", "an image registry"] {
        assert!(said.contains(&format!("w1  {what} does not answer\n")), "{said}");
    }
    assert!(said.contains("http://127.0.0.1:9/v2/: Could not connect to 127.0.0.1:9"), "{said}");
    assert!(said.contains("w1  the Reach check could not run: no test listener runs there"), "{said}");
    assert!(!said.contains("be reached on"), "a check that could not run reports no port: {said}");
}

#[tokio::test]
async fn members_and_machines_of_other_clusters_run_no_listener() {
    let _alone = ALONE.lock().await;
    let web = serve(vec![("/deb/Packages", PACKAGES)]);
    let many = |ran: &[String], word: &str| ran.iter().filter(|script| script.contains(word)).count();
    // This path marks a member of the cluster. Here it is a file that exists.
    let member = ("/var/lib/kubelet/pki/kubelet-client-current.pem", "/key.asc");
    let (said, ran) = findings_of_two(&[member], "1.36.3", web).await;
    let tries = (many(&ran, "Listens for those"), many(&ran, "Tries to reach"), many(&ran, "download-file"));
    assert_eq!(tries, (1, 2, 1), "the member only probes the newcomer: {said}");
    // The machine says that it has the CA of another cluster.
    let strange =
        "cd /etc/kubernetes 2>/dev/null || exit 0\nfor f in kubelet.conf bootstrap-kubelet.conf; do";
    let foreign = (strange, "echo pki/ca.crt AAAA; exit 0\nfor f in x; do");
    let (said, ran) = findings_of_two(&[foreign], "1.36.3", web).await;
    let tries = (many(&ran, "Listens for those"), many(&ran, "Tries to reach"), many(&ran, "download-file"));
    assert_eq!(
        (tries, said.as_str()),
        ((0, 0, 1), ""),
        "the foreign machine is not checked, and the other one has no peer"
    );
}

#[tokio::test]
async fn an_abandoned_listener_ends_by_itself() {
    let perl = std::fs::read_to_string("templates/listen.pl").unwrap();
    assert!(perl.contains("\nalarm 60;\n"));
    let mut child = tokio::process::Command::new("perl");
    let child = child.args(["-e", &perl.replace("alarm 60", "alarm 1"), "1f", &host(3), "16443", "18472"]);
    let child = child.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let ended = tokio::time::timeout(std::time::Duration::from_secs(10), child.wait_with_output());
    let said = String::from_utf8(ended.await.unwrap().unwrap().stdout).unwrap();
    assert!(said.starts_with("1f up tcp 16443\n1f up udp 18472\n1f ready\n"), "{said}");
    TcpListener::bind(host(3) + ":16443").unwrap();
    // It ends much earlier if the run that started it is gone, and nothing reads its output.
    let mut child = tokio::process::Command::new("perl");
    let child = child.args(["-e", &perl, "1f", &host(4), "16443", "18472"]);
    let mut child = child.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut said = [0; 256];
    while !String::from_utf8_lossy(&said).contains("ready") {
        assert!(stdout.read(&mut said).await.unwrap() > 0);
    }
    drop(stdout);
    tokio::time::timeout(std::time::Duration::from_secs(10), child.wait())
        .await
        .expect("the listener ends")
        .unwrap();
}

/// What the script prints on a machine with these programs and files, or its standard error if it fails.
fn runs(files: &[(&str, &str)], script: &str) -> std::result::Result<String, String> {
    let root =
        Root::new(&["/proc/net/", "/usr/bin/kubelet", "/usr/bin/containerd", "/usr/lib/apt/apt-helper"]);
    for (name, text) in [("bin/systemctl", "exit 1")].iter().chain(files) {
        command(&root.path(name), &format!("{text}\n"));
    }
    std::fs::create_dir(root.path("tmp")).unwrap();
    let head = format!("set -eu\nexport LC_ALL=C PATH={0}/bin:$PATH TMPDIR={0}/tmp", root.text());
    let output = run("sh", &format!("{head}\n{}", root.moved(script)));
    let left = std::fs::read_dir(root.path("tmp")).unwrap().count();
    assert_eq!(left, 0, "something is left: {script}");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(&root.text(), "");
    if output.status.success() && output.stderr.is_empty() {
        Ok(text(output.stdout))
    } else {
        Err(text(output.stderr))
    }
}

/// What a machine with these programs and files reports about its packet filter.
fn rules(files: &[(&str, &str)]) -> String {
    let (cluster, nobody) = (lab(), Default::default());
    let round = Round { nonce: "1f".into(), probes: vec![], joining: nobody, listening: Default::default() };
    let script = reach::listen(&cluster.nodes[0], &round).replace("perl -e", "true");
    runs(files, &script).unwrap()
}

#[test]
fn a_packet_filter_is_read_or_the_reason_is_reported() {
    let nft = "[ \"$*\" = '-s -t list ruleset' ]; cat <<'X'
table inet mine {
\tset banned {
\t\ttype ipv4_addr
\t}
\tchain input {
\t\ttype filter hook input priority filter; policy drop;
\t\ttcp dport 22 accept
\t\tjump more
\t}
}
X";
    let rest = "1f nft table inet mine {\n1f nft \tchain input {\n\
                1f nft \t\ttype filter hook input priority filter; policy drop;\n1f nft \t\tjump more\n";
    assert_eq!(rules(&[("bin/nft", nft)]), format!("1f read nft\n{rest}"));
    let none = "1f unread nft is not installed (apt-get install nftables)\n";
    assert_eq!(rules(&[]), none);
    let wrong = rules(&[("bin/nft", "echo 'Operation not permitted (you must be root)' >&2; exit 1")]);
    assert_eq!(wrong, "1f unread nft: Operation not permitted (you must be root)\n");
    assert_eq!(rules(&[("bin/nft", "exec sleep 9")]), "1f unread nft: no answer within 3 s\n");
    let many = rules(&[("bin/nft", "for i in $(seq 1500); do echo \"ip saddr 192.0.2.1 drop\"; done")]);
    assert_eq!(many.lines().count(), 1002);
    assert!(many.ends_with("drop\n1f unread nft: more than 1000 lines\n"), "{many}");
    let save = "cat <<'X'
# Generated by iptables-save
*filter
:INPUT DROP [0:0]
-A INPUT -j LOG --log-prefix \"-j DROP \"
-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
-A INPUT -j DROP
COMMIT
X";
    let said = "iptables *filter\n1f iptables :INPUT DROP [0:0]\n1f iptables -A INPUT -j DROP\n";
    assert_eq!(rules(&[("bin/iptables-nft-save", save)]), format!("{none}1f read iptables\n1f {said}"));
    // Legacy tables are only read if the kernel has some.
    let older = [("bin/nft", "exit 0"), ("bin/iptables-legacy-save", save)];
    assert_eq!(rules(&older), "1f read nft\n");
    let there = [older[0], older[1], ("proc/net/ip_tables_names", "filter")];
    assert_eq!(rules(&there), format!("1f read nft\n1f read iptables\n1f {said}"));
    assert_eq!(
        rules(&[there[0], there[2]]),
        "1f read nft\n1f unread iptables-legacy-save: timeout: failed to run command 'iptables-legacy-save': No such file or directory\n"
    );
}

/// The answer of the disk check on a control plane, or its standard error if it fails. `dd`: shell that stands in for
/// dd. `seconds`: the time for all writes.
fn fsync(dd: &str, seconds: u64) -> std::result::Result<String, String> {
    let folder = tempfile::tempdir().unwrap();
    let (cluster, root) = (lab(), folder.path().display().to_string());
    let dd = format!("n=0\n[ ! -e ROOT/n ] || n=$(cat ROOT/n)\n{dd}\n").replace("ROOT", &root);
    std::fs::write(folder.path().join("dd"), dd).unwrap();
    std::fs::create_dir_all(folder.path().join("var/lib")).unwrap();
    let asks = alone(&cluster, &cluster.nodes[0], false);
    let Some(Ask::Shell(script)) = asks.last() else { panic!("{asks:?}") };
    let script = script
        .replace("d=/var/lib/etcd", &format!("d={root}/var/lib/etcd"))
        .replace("timeout 10 dd", &format!("sh {root}/dd"))
        .replace("fsync_now + 5))", &format!("fsync_now + {seconds}))"));
    assert!(script.contains(&format!("d={root}")) && script.contains("conv=notrunc,fdatasync"), "{script}");
    let output = run("sh", &format!("set -eu\n{script}"));
    assert_eq!(std::fs::read_dir(folder.path().join("var/lib")).unwrap().count(), 0, "something is left");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim_end().to_string();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

#[test]
fn fsync_latency_is_the_99th_percentile_within_a_time_limit() {
    // The output of dd, which prints short times with an exponent.
    let dd = "n=$((n + 1)); echo $n >ROOT/n
echo '1+0 records in'; echo '1+0 records out'
echo \"2300 bytes (2.3 kB, 2.2 KiB) copied, ${n}e-04 s, 8.3 MB/s\" >&2";
    // A loaded machine may not manage 500 writes in the usual 5 s.
    assert_eq!(fsync(dd, 300).unwrap(), "49.50 500");
    let slow = fsync(&format!("{dd}\nsleep 2"), 5).unwrap();
    assert!(["0.30 3", "0.20 2"].contains(&slow.as_str()), "the check stops after 5 s: {slow}");
    assert_eq!(fsync("echo 'dd: no space' >&2; exit 1", 5).unwrap_err(), "dd: no space");
    let at = fsync("readlink /proc/self/fd/4 >&2; exit 1", 5).unwrap_err();
    assert!(
        at.contains("/var/lib/.ironstrap-") && at.ends_with(" (deleted)"),
        "it writes where etcd will write: {at}"
    );
}

#[test]
fn the_disk_check_follows_no_planted_link() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().display().to_string();
    let asks = alone(&lab(), &lab().nodes[0], false);
    let Some(Ask::Shell(script)) = asks.last() else { panic!("{asks:?}") };
    // The random name of the file, which the other user guessed.
    let x = "0".repeat(32);
    let script = script
        .replace("d=/var/lib/etcd", &format!("d={root}"))
        .replace("x=$(od", &format!("x=$(echo {x}; : $(od"))
        .replace("tr -d ' \\n')", "tr -d ' \\n'))");
    assert!(script.contains(&format!("x=$(echo {x}")) && script.contains(&format!("d={root}")), "{script}");
    let (victim, name) = (folder.path().join("shadow"), folder.path().join(format!(".ironstrap-{x}")));
    for shell in shells() {
        std::fs::write(&victim, "root:x").unwrap();
        for links in [true, false] {
            let _ = std::fs::remove_file(&name);
            match links {
                true => std::os::unix::fs::symlink(&victim, &name).unwrap(),
                false => std::fs::hard_link(&victim, &name).unwrap(),
            }
            let output = run(shell, &format!("set -eu\n{script}"));
            assert!(!output.status.success() && output.stdout.is_empty(), "{shell}: {output:?}");
            assert_eq!(std::fs::read_to_string(&victim).unwrap(), "root:x", "{shell}");
        }
    }
}

/// An apt-helper that answers by the URL, which is its last argument but one.
const HELPER: &str = r#"for x; do u=$f; f=$x; done
case $* in *-q*TIMES*download-file*) ;; *) exit 9 ;; esac
case $u in
http://pkgs.example/deb/Packages) echo "E: Failed to fetch $u  404  Not Found"; exit 100 ;;
http://pkgs.example/deb/Packages.gz) printf 'Package: kubeadm\nVersion: 1.36.9-1.1\n\nPackage: kubelet\nVersion: 1.36.3-1.1\n' | gzip >"$f" ;;
*deb.example/one/* | file:* | cdrom:*) echo "E: Failed to fetch $u  Could not connect to deb.example:80 (192.0.2.1)"; exit 100 ;;
*deb.example/two/*) echo "E: Failed to fetch $u  401  Unauthorized"; exit 100 ;;
*slow.example/*) exec sleep 9 ;;
*) : >"$f" ;;
esac"#;
/// An apt-get that cannot connect to one source. Another source has no Release file.
const UPDATE: &str = "cat <<'X'
Err:1 http://deb.example/one trixie InRelease
  Could not connect to deb.example:80 (192.0.2.1)
Hit:2 http://deb.example/three trixie InRelease
Reading package lists...
X
echo \"E: The repository 'http://deb.example/two trixie Release' does not have a Release file.\" >&2
echo 'E: The list of sources could not be read.' >&2
exit 100";
const POLICY: &str = "cat <<'X'
containerd:
  Installed: (none)
  Candidate: 1.7.24~ds1-6+b4
  Version table:
X";

#[test]
fn unreachable_package_and_image_sources_are_reported() {
    let mut cluster = lab();
    cluster.packages.kubernetes = "http://pkgs.example/deb/".into();
    let sorted = |said: String| {
        let mut lines: Vec<String> = said.lines().map(String::from).collect();
        lines.sort();
        lines
    };
    let script = |cluster: &Cluster, i: usize| match &alone(cluster, &cluster.nodes[0], false)[i] {
        Ask::Shell(script) => {
            script.replace("timeout 12", "timeout 1").replace("Acquire::Retries=0", "TIMES")
        }
        other => panic!("{other:?}"),
    };
    let helper = ("usr/lib/apt/apt-helper", HELPER);
    let tools = [helper, ("bin/apt-get", UPDATE), ("bin/apt-cache", POLICY)];
    assert_eq!(
        sorted(runs(&tools, &script(&cluster, 0)).unwrap()),
        [
            "containerd 1.7.24~ds1-6+b4",
            "source The repository 'http://deb.example/two trixie Release' does not have a Release file.",
            "source http://deb.example/one trixie: Could not connect to deb.example:80 (192.0.2.1)",
            "versions 1.36.3-1.1",
        ]
    );
    let there = [&tools[..], &[("usr/bin/kubelet", ""), ("usr/bin/containerd", "")]].concat();
    assert_eq!(runs(&there, &script(&cluster, 0)).unwrap(), "");
    assert_eq!(runs(&[], &script(&cluster, 0)).unwrap_err(), "no apt-helper\n");
    // A registry that answers 401 is reachable. If the images are on the machine, no registry is asked.
    let mirror = |host: &str, url: &str| Registry {
        host: host.into(),
        mirrors: vec![url.into()],
        fallback: false,
        ca: None,
        skip_verify: false,
        login: None,
    };
    cluster.image_repository = "registry.k8s.io".into();
    cluster.network = Network::None;
    for (url, said) in [
        ("http://deb.example/two", ""),
        ("http://slow.example", "no http://slow.example/v2/: no answer within 12 s\n"),
        (
            "http://deb.example/one/",
            "no http://deb.example/one/v2/: Could not connect to deb.example:80 (192.0.2.1)\n",
        ),
    ] {
        cluster.registries = vec![mirror("_default", url)];
        // This bash fails, so the check of manifests looks up no name.
        let answer = runs(&[helper, ("bin/bash", "exit 1")], &script(&cluster, 1)).unwrap();
        let lines = answer.lines().filter(|line| !line.starts_with("manifest "));
        assert_eq!(lines.map(|line| format!("{line}\n")).collect::<String>(), said);
        let images = [
            helper,
            ("bin/systemctl", "[ \"$3\" = containerd ]"),
            ("bin/ctr", "echo registry.k8s.io/pause:3.10"),
        ];
        assert_eq!(runs(&images, &script(&cluster, 1)).unwrap(), "", "images are there");
    }
}

#[test]
fn an_external_endpoint_must_resolve_and_later_answer() {
    let mut cluster = lab();
    let ask = |cluster: &Cluster, exists: bool| match alone(cluster, &cluster.nodes[1], exists).remove(2) {
        Ask::Shell(script) => script,
        other => panic!("{other:?}"),
    };
    assert_eq!(alone(&cluster, &cluster.nodes[1], false).len(), 2, "a managed endpoint is not checked");
    assert_eq!(alone(&cluster, &cluster.nodes[0], false).len(), 3, "the disk of a control plane is checked");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    cluster.endpoint =
        Endpoint { host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port(), managed: false };
    assert_eq!(alone(&cluster, &cluster.nodes[1], false).len(), 3);
    let getent = |code: u8| ("bin/getent", format!("exit {code}"));
    let said = |code: u8, cluster: &Cluster, exists: bool| {
        let (name, text) = getent(code);
        runs(&[(name, &text)], &ask(cluster, exists))
    };
    assert_eq!(said(0, &cluster, true).unwrap(), "");
    assert_eq!(said(2, &cluster, true).unwrap(), "nowhere\n");
    assert_eq!(said(124, &cluster, false).unwrap_err(), "getent: exit 124\n");
    drop(listener);
    assert_eq!(said(0, &cluster, true).unwrap(), "silent\n");
    assert_eq!(said(0, &cluster, false).unwrap(), "", "nothing answers there before the cluster exists");
}

#[tokio::test]
async fn each_probe_reports_how_its_connection_ended() {
    // One server sends another greeting, and one sends none. A third port is closed. The silent server holds a port on
    // which listen.pl should listen.
    let [loud, quiet, closed] = [5, 6, 7].map(|i| TcpListener::bind(host(i) + ":16443").unwrap());
    drop(closed);
    std::thread::spawn(move || loud.incoming().for_each(|guest| drop(guest.unwrap().write_all(b"hello\n"))));
    // This server answers with a size that no packet has. That does not count as an answer.
    let liar = UdpSocket::bind(host(5) + ":18473").unwrap();
    liar.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    std::thread::spawn(move || {
        while let Ok((_, guest)) = liar.recv_from(&mut [0; 16]) {
            let _ = liar.send_to(format!("1f {}", "9".repeat(100)).as_bytes(), guest);
        }
    });
    let perl = |script: &str, words: &[&str]| {
        let mut perl = tokio::process::Command::new("perl");
        let script = std::fs::read_to_string(format!("templates/{script}")).unwrap();
        perl.arg("-e").arg(script).args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    };
    let mut listens = perl("listen.pl", &["1f", &host(6), "16443,20250", "18472"]);
    let (mut stdout, mut said) = (listens.stdout.take().unwrap(), [0; 256]);
    let mut heard = String::new();
    while !heard.contains("ready") {
        let n = stdout.read(&mut said).await.unwrap();
        heard += std::str::from_utf8(&said[..n]).unwrap();
    }
    assert_eq!(heard, "1f held tcp 16443\n1f up tcp 20250\n1f up udp 18472\n1f ready\n");
    let (fifth, sixth, seventh) = (host(5), host(6), host(7));
    let ways = format!(
        "tcp {fifth} 16443 greets\ntcp {fifth} 16443 silent\ntcp {sixth} 16443 greets\n\
         tcp {seventh} 16443 greets\ntcp {sixth} 20250 greets\nudp {sixth} 18472 greets\nudp {fifth} 18473 greets\n"
    );
    let mut tries = perl("reach.pl", &["1f"]);
    tries.stdin.take().unwrap().write_all(ways.as_bytes()).await.unwrap();
    let ended = tokio::time::timeout(std::time::Duration::from_secs(10), tries.wait_with_output());
    let came = String::from_utf8(ended.await.unwrap().unwrap().stdout).unwrap();
    let ends: Vec<&str> = came.lines().map(|line| line.split(' ').nth(3).unwrap()).collect();
    assert_eq!(ends, ["other", "ok", "other", "refused", "ok", "ok", "lost"], "{came}");
    let stranger = UdpSocket::bind(fifth + ":0").unwrap();
    stranger.set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
    stranger.send_to(b"hello", sixth + ":18472").unwrap();
    assert!(stranger.recv(&mut said).is_err(), "a packet without the nonce gets no answer");
    drop((stdout, quiet));
    listens.wait().await.unwrap();
}
