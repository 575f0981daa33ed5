//! What asks the network with real packets, and what looks at flannel's work, in every shell. Servers on loopback answer; `ip`,
//! `bridge` and kubectl are stand-ins that say what those of a real cluster said.

// clippy sees no test in what the tests share.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::net::{TcpListener, UdpSocket};
use std::time::Instant;

use ironstrap::cluster::{Cluster, Node};
use ironstrap::fleet::Fleet;
use ironstrap::machine::Machine;
use ironstrap::shell::{DAEMONS, FLANNEL, PACKETS, PODS};
use ironstrap::step::{Ask, Expect, Fix, Verdict, Want};
use time::OffsetDateTime;

/// Runs this with the functions, after stand-ins, with files of the machine below a folder.
fn run(shell: &str, files: &[(&str, &str)], stands: &str, script: &str) -> (bool, String) {
    let place = common::place::Place::with(files);
    let lib = include_str!("../templates/lib.sh");
    let text =
        format!("set -eu\nPATIENCE=1\n{lib}\n{PODS}\n{DAEMONS}\n{FLANNEL}\n{PACKETS}\n{stands}\n{script}\n");
    let text = ["/run/", "/proc/net/", "/var/log/"]
        .iter()
        .fold(text, |text, dir| text.replace(dir, &format!("{}{dir}", place.root())));
    let output = common::run(shell, &text);
    let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    (output.status.success(), said.replace(&place.root(), ""))
}

const ENV: &str =
    "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
const DEV: &str = "  eth0: 1 2\nflannel.1: 1 2\n";
const LINK: &str = "3: flannel.1: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1450 qdisc noqueue state UNKNOWN mode DEFAULT group default \\    link/ether 8a:01:00:00:00:01 brd ff:ff:ff:ff:ff:ff promiscuity 0 \\    vxlan id 1 local 198.18.0.12 dev eth0 srcport 0 0 dstport 8472 nolearning";
const ROUTES: &str = "10.244.0.0/24 via 10.244.0.0 dev flannel.1 onlink \n10.244.1.0/24 dev cni0 proto kernel scope link src 10.244.1.1 \n10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink \n";
const NEIGHBOURS: &str =
    "10.244.0.0 lladdr 8a:00:00:00:00:00 PERMANENT\n10.244.2.0 lladdr 8a:02:00:00:00:02 PERMANENT\n";
const ENTRIES: &str =
    "8a:00:00:00:00:00 dst 198.18.0.11 self permanent\n8a:02:00:00:00:02 dst 198.18.0.13 self permanent\n";

/// A node w1 with these answers.
struct Node1 {
    env: &'static str,
    dev: &'static str,
    link: String,
    address: &'static str,
    routes: String,
    neighbours: String,
    entries: String,
}

impl Node1 {
    fn right() -> Node1 {
        Node1 {
            env: ENV,
            dev: DEV,
            link: LINK.into(),
            address: "3: flannel.1    inet 10.244.1.0/32 scope global flannel.1\\       valid_lft forever",
            routes: ROUTES.into(),
            neighbours: NEIGHBOURS.into(),
            entries: ENTRIES.into(),
        }
    }

    fn run(&self, shell: &str, script: &str) -> (bool, String) {
        let Node1 { link, address, routes, neighbours, entries, .. } = self;
        let stands = format!(
            "daemon() {{ echo 7; }}\nlasting() {{ :; }}\nkill() {{ echo \"kill $*\"; }}\n\
             command() {{ case $* in kubectl*) shift 5; echo \"kubectl $*\" | sed 's/ --wait=false//' >&2 ;; esac; }}\n\
             ip() {{\n  case $* in\n  *'link show'*) cat <<'X'\n{link}\nX\n;;\n  *'addr show'*) cat <<'X'\n{address}\nX\n;;\n\
               *'route show'*) cat <<'X'\n{routes}X\n;;\n  *'neigh show'*) cat <<'X'\n{neighbours}X\n;;\n  *) echo \"ip $*\" ;;\n  esac\n}}\n\
             bridge() {{ cat <<'X'\n{entries}X\n}}\n"
        );
        let files =
            [("run/flannel/subnet.env", self.env), ("proc/net/dev", self.dev), ("run/ironstrap/x", "")];
        run(shell, &files, &stands, script)
    }

    fn faults(&self, shell: &str) -> String {
        let (good, said) = self.run(shell, "flannel_faults 198.18.0.12 10.244.0.0/16");
        assert!(good, "{shell}: {said}");
        said
    }
}

#[test]
fn what_flannel_made_has_no_faults_and_what_is_missing_of_it_is_named() {
    let right = Node1::right;
    let elsewhere = |route: &str| Node1 {
        routes: ROUTES.replace("10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink", route),
        ..right()
    };
    let rows: [(Node1, &str); 14] = [
        (right(), ""),
        (Node1 { env: "", ..right() }, "subnet.env does not name the range"),
        (Node1 { dev: "  eth0: 1 2\n", ..right() }, "the interface flannel.1 does not exist"),
        (Node1 { address: "", ..right() }, "flannel.1 does not have the address 10.244.1.0"),
        (Node1 { link: LINK.replace(",UP,", ","), ..right() }, "flannel.1 is down"),
        (Node1 { link: LINK.replace("1450", "1500"), ..right() }, "the MTU of flannel.1 is not 1450"),
        (
            Node1 { link: LINK.replace("198.18.0.12", "198.18.0.99"), ..right() },
            "does not send from 198.18.0.12",
        ),
        (
            elsewhere("10.244.2.0/24 via 198.18.0.1 dev eth0"),
            "elsewhere: 10.244.2.0/24 via 198.18.0.1 dev eth0",
        ),
        (elsewhere("unreachable 10.244.2.0/24"), "elsewhere: unreachable 10.244.2.0/24"),
        (
            Node1 { routes: format!("{ROUTES}blackhole 10.244.2.128/25\n"), ..right() },
            "elsewhere: blackhole 10.244.2.128/25",
        ),
        (
            Node1 { routes: ROUTES.lines().take(2).map(|l| format!("{l}\n")).collect(), ..right() },
            "there is no route to the pods of 10.244.2.0/24",
        ),
        (
            Node1 { neighbours: NEIGHBOURS.lines().take(1).map(|l| format!("{l}\n")).collect(), ..right() },
            "does not know the neighbour 10.244.2.0",
        ),
        (
            Node1 { entries: ENTRIES.lines().take(1).map(|l| format!("{l}\n")).collect(), ..right() },
            "does not know which node has 8a:02:00:00:00:02",
        ),
        (Node1 { routes: format!("{ROUTES}10.244.1.128/25 dev lo scope link\n"), ..right() }, ""),
    ];
    for shell in common::shells() {
        for (node, fault) in &rows {
            let said = node.faults(shell);
            assert_eq!(said.is_empty(), fault.is_empty(), "{shell}: {fault}: {said}");
            assert!(said.contains(fault) && said.lines().count() <= 1, "{shell}: {fault}: {said}");
        }
    }
}

#[test]
fn flannel_is_restarted_only_where_something_is_wrong_and_strange_routes_go_first() {
    let again = "flannel_again w1 198.18.0.12 10.244.0.0/16";
    for shell in common::shells() {
        assert_eq!(Node1::right().run(shell, again), (true, String::new()), "{shell}");
        let node = Node1 { routes: format!("{ROUTES}blackhole 10.244.2.128/25\n"), ..Node1::right() };
        let (good, said) = node.run(shell, again);
        assert!(!good, "{shell}: nothing repaired it");
        let order =
            ["ip -4 route flush exact 10.244.2.128/25", "kill -s TERM 7", "a route leads the pods of"];
        let at = order.map(|piece| said.find(piece).unwrap_or_else(|| panic!("{shell}: no {piece}: {said}")));
        assert!(at.is_sorted(), "{said}");
    }
}

/// Answers queries with this, after the id of the query.
fn dns_server(answer: Option<&'static [u8]>) -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((n, from)) = socket.recv_from(&mut query) {
            // The name of the question in the tests' query, in the length of DNS.
            assert!(query[..n].windows(11).any(|w| w == b"\x0akubernetes"));
            let Some(rest) = answer else { continue };
            let reply = [&query[..2], rest].concat();
            let _ = socket.send_to(&reply, from);
        }
    });
    port
}

#[test]
fn connections_and_queries_are_told_apart_by_what_comes_back() {
    const GOOD: &[u8] = b"\x85\x80\0\x01\0\x01\0\0\0\0-\0\x04\x0a\x60\0\x01";
    const OTHER: &[u8] = b"\x85\x80\0\x01\0\x01\0\0\0\0-\0\x04\x0a\x60\0\x02";
    const NO_NAME: &[u8] = b"\x85\x83\0\x01\0\0\0\0\0\0-\0\x04\x0a\x60\0\x01";
    let open = TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let open = (open.local_addr().unwrap().port(), open);
    let ask = questions(&common::lab(), 1);
    let query = ask
        .split("'dns:")
        .nth(1)
        .or(ask.split("dns:").nth(1))
        .unwrap()
        .split(['\'', ' ', '\n'])
        .next()
        .unwrap();
    for shell in common::shells() {
        for (answer, state) in
            [(Some(GOOD), "reached"), (Some(OTHER), "refused"), (Some(NO_NAME), "refused"), (None, "silent")]
        {
            let port = dns_server(answer);
            let stands = format!("PACKETS=$(echo \"$PACKETS\" | sed s,/53,/{port},)");
            let script =
                format!("packets a 127.0.0.1 {} b 127.0.0.1 {closed} dns 127.0.0.1 'dns:{query}'", open.0);
            let since = Instant::now();
            let (good, said) = run(shell, &[], &stands, &script);
            assert!(good, "{said}");
            assert_eq!(said, format!("a reached\nb refused\ndns {state}\n"), "{shell}");
            assert!(since.elapsed().as_secs_f64() < 4.0, "all at once, and bounded");
        }
        let (_, said) = run(shell, &[], "command() { return 1; }", "packets a 127.0.0.1 1");
        assert_eq!(said, "there is no bash to ask with\n", "{shell}");
    }
}

#[test]
fn of_each_node_one_running_pod_is_asked() {
    // Cut down from what an API server says.
    let pods = r#"{"items":[{"metadata":{"managedFields":[{"f:spec":"k:{\"containerPort\":9,\"protocol\":\"TCP\"}"}],"annotations":{"x":"{\"nodeName\":\"w9\",\"podIP\":\"1.1.1.1\"}"}},"spec":{"containers":[{"ports":[{"name":"dns","containerPort":53,"protocol":"UDP"},{"containerPort":8080,"protocol":"TCP"}]}],"nodeName":"m1"},"status":{"podIP":"10.244.0.2","podIPs":[{"ip":"10.244.0.2"}]}},{"spec":{"containers":[{}],"nodeName":"w1"},"status":{"podIP":"10.244.1.7"}},{"spec":{"containers":[{"ports":[{"containerPort":80,"protocol":"TCP"}]}],"nodeName":"w1"},"status":{"podIP":"10.244.1.8"}},{"spec":{"nodeName":"x"},"status":{"podIP":"10.244.9.8"}}]}"#;
    for shell in common::shells() {
        let stands = format!("kubectl() {{ cat <<'X'\n{pods}\nX\n}}");
        let said = run(shell, &[], &stands, "pods_of m1 w1 w2");
        assert_eq!(said, (true, "pod:m1 10.244.0.2 8080\npod:w1 10.244.1.7 1\n".into()), "{shell}");
        let (good, said) = run(shell, &[], "kubectl() { echo refused >&2; return 1; }", "pods_of m1");
        assert_eq!((good, said.as_str()), (false, "refused\n"), "{shell}");
    }
}

#[test]
fn a_fix_waits_until_its_question_is_answered_and_not_for_long() {
    for shell in common::shells() {
        let stands = "renew() { :; }\nquestions() { echo x >>/run/n; if [ $(wc -l </run/n) -gt 1 ]; then echo 'dns reached'; else echo 'dns silent'; fi; }";
        let files = [("run/n", ""), ("proc/net/dev", DEV)];
        let stands = stands.replace("PATIENCE=1", "");
        let good = run(shell, &files, &(stands.clone() + "\nPATIENCE=9"), "answered dns reached");
        assert_eq!(good, (true, String::new()), "{shell}");
        let (good, said) = run(shell, &files, &stands.replace("reached'", "silent'"), "answered dns reached");
        assert_eq!((good, said.as_str()), (false, "packets: dns is silent\n"), "{shell}");
    }
}

fn wanted(cluster: &Cluster, node: &Node, that: &str, fleet: &Fleet) -> Want {
    let trust = common::trust(cluster);
    let has = ["client-certificate", "receipt"].map(String::from).into();
    let machine = Machine { has, ..Machine::default() };
    let wants = common::wants((cluster, node), &trust, (&machine, fleet), OffsetDateTime::now_utc());
    wants.into_iter().find(|(.., want)| want.that == that).unwrap_or_else(|| panic!("no want {that}")).2
}

fn questions(cluster: &Cluster, node: usize) -> String {
    let want =
        wanted(cluster, &cluster.nodes[node], "the cluster's DNS answers this node", &Fleet::default());
    let Ask::Shell(ask) = want.ask else { panic!() };
    ask.to_string()
}

#[test]
fn an_answer_is_right_only_where_something_answered() {
    let (cluster, fleet) = (common::lab(), Fleet::default());
    let broken = Fleet { absent: ["w1".to_string()].into(), ..Fleet::default() };
    const ALL: &str =
        "kube-proxy runs\nservice reached\nserver0 reached\ndns reached\npod:w1 reached\npod:w2 refused";
    let said = |of: &str, is: &str| ALL.replace(of, is);
    let rows: [(String, [&str; 4]); 10] = [
        (ALL.into(), ["holds", "holds", "holds", "holds"]),
        (
            "not here".replace("not here", "there is no bash to ask with"),
            ["holds", "unknown", "unknown", "unknown"],
        ),
        (
            said("service reached", "service silent").replace("dns reached", "dns silent"),
            ["differs", "holds", "holds", "holds"],
        ),
        (said("kube-proxy runs\nservice reached", "service silent"), ["holds", "differs", "holds", "holds"]),
        (
            said("service reached\nserver0 reached", "service refused\nserver0 refused"),
            ["holds", "unknown", "holds", "holds"],
        ),
        (
            said("service reached\nserver0 reached", "service silent\nserver0 silent"),
            ["holds", "unknown", "holds", "holds"],
        ),
        (said("dns reached", "dns silent"), ["holds", "holds", "differs", "holds"]),
        (said("dns reached", "dns refused"), ["holds", "holds", "differs", "holds"]),
        (said("pod:w1 reached", "pod:w1 silent"), ["holds", "holds", "holds", "differs"]),
        (
            said("pod:w1 reached\npod:w2 refused", "pods unknown: timeout"),
            ["holds", "holds", "holds", "unknown"],
        ),
    ];
    let that = [
        "kube-proxy's rules are in place",
        "the API's Service answers",
        "the cluster's DNS answers this node",
        "the pods of w1 answer",
    ];
    let verdict = |answer: &str, that: &str, fleet: &Fleet| {
        let Expect::Judged(judge) = wanted(&cluster, &cluster.nodes[0], that, fleet).expect else { panic!() };
        match judge(answer) {
            Verdict::Holds => "holds",
            Verdict::Differs { .. } => "differs",
            Verdict::Waits { .. } => "waits",
            Verdict::Unknown(_) => "unknown",
            Verdict::Noted(_) => "noted",
            Verdict::Unconfirmed { .. } => "unconfirmed",
        }
    };
    for (answer, expected) in &rows {
        assert_eq!(that.map(|that| verdict(answer, that, &fleet)), *expected, "{answer}");
    }
    for (of, that) in [("pod:w1", that[3]), ("dns", that[2])] {
        let silent = said(&format!("{of} reached"), &format!("{of} silent"));
        assert_eq!(verdict(&silent, that, &broken), "waits", "w1 does not answer at all");
    }
}

#[test]
fn a_large_cluster_is_not_asked_as_a_whole() {
    let mut cluster = common::lab();
    let worker = cluster.nodes[1].clone();
    cluster.nodes.extend((3..100).map(|n| Node { name: format!("w{n}"), ..worker.clone() }));
    let ask = questions(&cluster, 0);
    assert!(ask.contains("pods_of w1 w2 w3 w4)"), "{ask}");
    assert!(!questions(&cluster, 5).contains("pods_of w"), "workers may not list pods");
}

#[test]
fn another_configuration_that_comes_first_is_named() {
    let (cluster, fleet) = (common::lab(), Fleet::default());
    let want = wanted(&cluster, &cluster.nodes[1], "containerd uses flannel's network", &fleet);
    let (Ask::Shell(ask), Expect::Judged(judge), Fix::ByHand(_)) = (&want.ask, &want.expect, &want.fix)
    else {
        panic!()
    };
    let ours = ("etc/cni/net.d/10-flannel.conflist", "flannel");
    for shell in common::shells() {
        for (file, text, verdict) in [
            ("etc/cni/net.d/20-x.conf", "{}", "holds"),
            ("etc/cni/net.d/README", "{}", "holds"),
            ("etc/cni/net.d/05-x.conf", "{}", "differs"),
            ("etc/cni/net.d/10-bridge.json", "{}", "differs"),
            ("etc/cni/net.d/00-multus.conf", "flannel", "noted"),
        ] {
            let place = common::place::Place::with(&[ours, (file, text)]);
            let script = ask.replace("/etc/cni", &format!("{}/etc/cni", place.root()));
            let output = common::run(shell, &format!("set -eu\n{script}"));
            let said = String::from_utf8(output.stdout).unwrap();
            let is = match judge(said.trim_end()) {
                Verdict::Holds => "holds",
                Verdict::Differs { .. } => "differs",
                Verdict::Noted(_) => "noted",
                other => panic!("{other:?}"),
            };
            assert_eq!(is, verdict, "{shell}: {file}: {said}");
        }
    }
}
