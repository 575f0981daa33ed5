//! Runs the network probes and the checks of flannel in every shell. Servers on loopback answer the probes. Stand-ins
//! for `ip`, `bridge` and kubectl print what a real cluster printed.

use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::time::Instant;

use ironstrap::cluster::{Cluster, Node};
use ironstrap::fleet::Fleet;
use ironstrap::machine::Machine;
use ironstrap::shell::{DAEMONS, FLANNEL, LINKS, PACKETS, PODS, POLICY_RULES, SHORT_LIVED};
use ironstrap::step::{Ask, Expect, Fix, Verdict, Want};
use ironstrap::steps::packets;
use time::OffsetDateTime;

use crate::support::{self, root::Root};

/// Runs `script` after the functions of the templates and the stand-ins. Paths of the machine point below a folder.
fn run(shell: &str, files: &[(&str, &str)], stands: &str, script: &str) -> (bool, String) {
    let root = Root::with_files(files);
    let lib = include_str!("../../templates/lib.sh");
    let text = format!(
        "set -eu\nWAIT_TIMEOUT=1\n{lib}\n{PODS}\n{DAEMONS}\n{FLANNEL}\n{LINKS}\n{POLICY_RULES}\n{PACKETS}\n{SHORT_LIVED}\n{stands}\n{script}\n"
    );
    let text = ["/run/", "/proc/net/", "/proc/sys/net/", "/var/log/", "/var/lib/cni/"]
        .iter()
        .fold(text, |text, dir| text.replace(dir, &format!("{}{dir}", root.text())));
    let output = support::run(shell, &text);
    let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    (output.status.success(), said.replace(&root.text(), ""))
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

/// The files of node w1, and what `ip` and `bridge` print there.
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
            "daemon() {{ echo 7; }}\nlasting() {{ :; }}\nkill() {{ echo \"kill $*\"; }}\ntc() {{ echo \"tc $*\"; }}\n\
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
fn each_fault_of_flannels_setup_is_named() {
    let right = Node1::right;
    let elsewhere = |route: &str| Node1 {
        routes: ROUTES.replace("10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink", route),
        ..right()
    };
    let rows: [(Node1, &str); 19] = [
        (right(), ""),
        (Node1 { env: "", ..right() }, "subnet.env does not name the range"),
        (Node1 { env: "FLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true", ..right() }, {
            "subnet.env does not have FLANNEL_NETWORK=10.244.0.0/16"
        }),
        (
            Node1 {
                env: "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_IPMASQ=true\n",
                ..right()
            },
            "subnet.env does not have FLANNEL_MTU",
        ),
        (
            Node1 {
                env: "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\n",
                ..right()
            },
            "subnet.env does not have FLANNEL_IPMASQ=true",
        ),
        (Node1 { env: ENV.trim_end(), ..right() }, ""),
        (Node1 { dev: "  eth0: 1 2\n", ..right() }, "the interface flannel.1 does not exist"),
        (Node1 { address: "", ..right() }, "flannel.1 does not have the address 10.244.1.0"),
        (Node1 { link: LINK.replace(",UP,", ","), ..right() }, "flannel.1 is down"),
        (
            Node1 { link: LINK.replace("1450", "1500"), ..right() },
            "the MTU of flannel.1 is 1500 instead of 1450",
        ),
        (
            Node1 { link: LINK.replace("198.18.0.12", "198.18.0.99"), ..right() },
            "does not send from the address 198.18.0.12",
        ),
        (
            elsewhere("10.244.2.0/24 via 198.18.0.1 dev eth0"),
            "a route diverts packets for the pods of 10.244.2.0/24: 10.244.2.0/24 via 198.18.0.1 dev eth0",
        ),
        (
            elsewhere("unreachable 10.244.2.0/24"),
            "a route diverts packets for the pods of 10.244.2.0/24: unreachable 10.244.2.0/24",
        ),
        (
            Node1 { routes: format!("{ROUTES}blackhole 10.244.2.128/25\n"), ..right() },
            "a route diverts packets for the pods of 10.244.2.0/24: blackhole 10.244.2.128/25",
        ),
        (
            Node1 { routes: ROUTES.lines().take(2).map(|l| format!("{l}\n")).collect(), ..right() },
            "there is no route to the pods of 10.244.2.0/24",
        ),
        (
            Node1 { neighbours: NEIGHBOURS.lines().take(1).map(|l| format!("{l}\n")).collect(), ..right() },
            "has no neighbour entry for 10.244.2.0",
        ),
        (
            Node1 { entries: ENTRIES.lines().take(1).map(|l| format!("{l}\n")).collect(), ..right() },
            "has no forwarding entry for 8a:02:00:00:00:02",
        ),
        (
            Node1 { routes: format!("{ROUTES}10.244.1.128/25 dev lo scope link\n"), ..right() },
            "a route diverts packets for pods of this node: 10.244.1.128/25 dev lo scope link",
        ),
        (
            Node1 { link: LINK.replace("noqueue", "tbf"), ..right() },
            "flannel.1 has the queueing discipline tbf instead of noqueue",
        ),
    ];
    for shell in support::shells() {
        for (node, fault) in &rows {
            let said = node.faults(shell);
            assert_eq!(said.is_empty(), fault.is_empty(), "{shell}: {fault}: {said}");
            assert!(said.contains(fault) && said.lines().count() <= 1, "{shell}: {fault}: {said}");
        }
    }
}

/// A tunnel with only one of its two entries is not absent. The check of flannel's setup reports that fault.
#[test]
fn each_tunnel_is_probed_or_reported_as_absent() {
    let without = |text: &str, piece: &str| -> String {
        text.lines().filter(|line| !line.contains(piece)).map(|line| format!("{line}\n")).collect()
    };
    let (m1, w2) = ("tunnel:m1 10.244.0.0 10250\n", "tunnel:w2 10.244.2.0 10251\n");
    let right = Node1::right;
    let no_neighbour = || Node1 { neighbours: without(NEIGHBOURS, "10.244.2.0"), ..right() };
    let no_entry = || Node1 { entries: without(ENTRIES, "198.18.0.13"), ..right() };
    let rows = [
        (right(), format!("{m1}{w2}")),
        (no_neighbour(), format!("{m1}tunnel:w2 absent\n")),
        (
            // A Node was created again with another range, and flannel missed that.
            Node1 {
                neighbours: format!("{NEIGHBOURS}10.244.9.0 lladdr 8a:09:00:00:00:09 PERMANENT\n"),
                entries: format!("8a:09:00:00:00:09 dst 198.18.0.13 self permanent\n{ENTRIES}"),
                ..right()
            },
            format!("{m1}tunnel:w2 10.244.9.0 10251\n{w2}"),
        ),
        (no_entry(), m1.to_string()),
        (Node1 { entries: no_entry().entries, ..no_neighbour() }, format!("{m1}tunnel:w2 absent\n")),
        (
            Node1 { entries: ENTRIES.replace("198.18.0.13", "198.18.0.99"), ..right() },
            format!("{m1}tunnel:w2 absent\n"),
        ),
        (Node1 { dev: "  eth0: 1 2\n", ..right() }, String::new()),
    ];
    for shell in support::shells() {
        for (node, said) in &rows {
            let all = "tunnels_to m1 198.18.0.11 10250 w2 198.18.0.13 10251";
            assert_eq!(node.run(shell, all), (true, said.clone()), "{shell}");
        }
    }
}

#[test]
fn flannel_is_not_blamed_for_a_service_that_does_not_answer() {
    let begun = || Node1 { env: "", ..Node1::right() };
    for shell in support::shells() {
        for (node, answers, fault) in [
            (begun(), true, "subnet.env"),
            (begun(), false, ""),
            (Node1 { address: "", ..Node1::right() }, false, "flannel.1 does not have the address"),
            (Node1::right(), true, ""),
        ] {
            let service = format!("service_answers() {{ [ \"$*\" = '10.96.0.1 443' ] && {answers}; }}\n");
            let call = service + "flannel_drift 198.18.0.12 10.244.0.0/16 10.96.0.1";
            let (good, said) = node.run(shell, &call);
            assert!(good, "{shell}: {said}");
            assert_eq!(said.is_empty(), fault.is_empty(), "{shell}: {said}");
            assert!(said.contains(fault), "{shell}: {said}");
        }
    }
}

#[test]
fn a_faulty_flannel_loses_foreign_routes_and_is_restarted() {
    let again = "flannel_again w1 198.18.0.12 10.244.0.0/16";
    for shell in support::shells() {
        assert_eq!(Node1::right().run(shell, again), (true, String::new()), "{shell}");
        let node = Node1 { routes: format!("{ROUTES}blackhole 10.244.2.128/25\n"), ..Node1::right() };
        let (good, said) = node.run(shell, again);
        assert!(!good, "{shell}: nothing repaired it");
        let order = [
            "ip -4 route flush exact 10.244.2.128/25",
            "kill -s TERM 7",
            "a route diverts packets for the pods of",
        ];
        let at = order.map(|piece| said.find(piece).unwrap_or_else(|| panic!("{shell}: no {piece}: {said}")));
        assert!(at.is_sorted(), "{said}");
    }
}

#[test]
fn a_foreign_queueing_discipline_is_removed_from_flannel() {
    for shell in support::shells() {
        let node = Node1 { link: LINK.replace("noqueue", "tbf"), ..Node1::right() };
        let (_, said) = node.run(shell, "flannel_again w1 198.18.0.12 10.244.0.0/16");
        assert!(said.contains("tc qdisc delete dev flannel.1 root"), "{shell}: {said}");
    }
}

/// A stand-in for `ip`. It answers each question with flannel's own route, unless `otherwise` changes the answer.
fn policed(rules: &str, otherwise: &str) -> String {
    format!(
        "ip() {{\n  case $* in\n  *'rule show'*) printf '0:\\tfrom all lookup local\\n{rules}32766:\\tfrom all lookup main\\n32767:\\tfrom all lookup default\\n' ;;\n\
         *'route show'*) cat <<'X'\n{ROUTES}X\n;;\n\
         *batch*) while read -r _ _ to from source iif in; do\n    dev=flannel.1; [ \"$in\" != flannel.1 ] || dev=cni0\n    {otherwise}\n\
         echo \"$to${{from:+ from $source}} via 1.2.3.4 dev $dev \"\n  done ;;\n  esac\n}}\n"
    )
}

#[test]
fn policy_rules_that_divert_pod_packets_are_named() {
    let dev = "  eth0: 1 2\nflannel.1: 1 2\n  cni0: 1 2\n";
    let files =
        [("run/flannel/subnet.env", ENV), ("proc/net/dev", dev), ("proc/sys/net/ipv4/ip_forward", "1")];
    let half = r"100:\tfrom 10.244.1.128/25 blackhole\n";
    let rows = [
        ("", "exit 9", ""),
        (r"9:\tfrom all fwmark 0x80000/0xff0000 unreachable\n", "", ""),
        (half, "", ""),
        (
            half,
            "[ $source != 10.244.1.130 ] || continue",
            "packets from 10.244.1.130 to 10.244.0.2 are refused because of one of these rules: 100: from 10.244.1.128/25 blackhole\n\
             packets from 10.244.1.130 to 10.244.2.2 are refused because of one of these rules: 100: from 10.244.1.128/25 blackhole\n",
        ),
        (
            r"7:\tfrom all lookup 100\n8:\tfrom 10.0.0.0/8 lookup 101\n",
            "[ $in = cni0 ] || dev=eth0",
            "packets from 10.244.2.2 to 10.244.1.2 go through eth0 instead of cni0 because of one of these rules: 7: from all lookup 100; \
             8: from 10.0.0.0/8 lookup 101\n",
        ),
        (
            r"7:\tfrom all to 10.244.2.64/26 prohibit\n8:\tfrom all to 10.96.128.0/20 prohibit\n",
            "case $to in 10.244.2.66 | 10.96.*) continue ;; esac",
            "packets to 10.96.128.2 are refused because of one of these rules: 7: from all to 10.244.2.64/26 prohibit; 8: from all to \
             10.96.128.0/20 prohibit\npackets from 10.244.1.2 to 10.244.2.66 are refused because of one of these rules: 7: from all to \
             10.244.2.64/26 prohibit; 8: from all to 10.96.128.0/20 prohibit\n",
        ),
        (
            r"7:\tfrom 10.0.0.0/8 to 10.244.1.0/24 lookup 100\n8:\tfrom 10.244.2.0/25 blackhole\n9:\tfrom 10.244.2.128/25 blackhole\n",
            "continue",
            "and 2 more\n",
        ),
    ];
    for shell in support::shells() {
        for (rules, otherwise, faults) in &rows {
            let said =
                run(shell, &files, &policed(rules, otherwise), "rule_faults 10.244.0.0/16 10.96.0.0/12");
            assert!(said.0 && said.1.ends_with(faults), "{shell}: {rules}: {}", said.1);
            assert!(said.1.is_empty() || !faults.is_empty(), "{shell}: {rules}: {}", said.1);
            assert!(said.1.lines().count() <= 4, "{shell}: {}", said.1);
        }
        let no_bridge = [files[0], ("proc/net/dev", DEV), files[2]];
        let said =
            run(shell, &no_bridge, &policed(half, "continue"), "rule_faults 10.244.0.0/16 10.96.0.0/12");
        assert_eq!(said, (true, String::new()), "{shell}: no pod has ever run here");
    }
}

/// What `ip -d -o link show` of iproute2 6.15 prints for the bridge and the links of two pods, shortened.
const LINKS_SHOWN: &str = r"2: cni0: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1450 qdisc noqueue state UP mode DEFAULT group default qlen 1000\    bridge forward_delay 1500 stp_state 0
3: veth1@if2: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1450 qdisc noqueue master cni0 state UP mode DEFAULT\    link/ether 3e:77:70:25:10:44 brd ff:ff:ff:ff:ff:ff link-netns cni-1a promiscuity 1 \    veth \    bridge_slave state forwarding priority 32 cost 2 hairpin on guard off root_block off learning on flood on isolated off locked off
4: veth2@if2: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1450 qdisc noqueue master cni0 state UP mode DEFAULT\    link/ether 3e:77:70:25:10:45 brd ff:ff:ff:ff:ff:ff link-netns cni-2b promiscuity 1 \    veth \    bridge_slave state forwarding priority 32 cost 2 hairpin on guard off root_block off learning on flood on isolated off locked off
";

/// What libcni stores about a pod that has its network, shortened.
fn noted(space: &str, pod: &str, netns: &str) -> String {
    let veth = format!("veth{}", &netns[4..5]);
    format!(
        r#"{{"kind":"cniCacheV1","containerId":"0f","config":"e30=","ifName":"eth0","networkName":"cbr0","cniArgs":[["IgnoreUnknown","1"],["K8S_POD_UID","1-2"],["K8S_POD_NAMESPACE","{space}"],["K8S_POD_NAME","{pod}"]],"result":{{"interfaces":[{{"name":"cni0"}},{{"name":"{veth}"}},{{"name":"eth0","sandbox":"/var/run/netns/{netns}"}}],"ips":[{{"address":"10.244.1.7/24","gateway":"10.244.1.1"}}]}}}}"#
    )
}

#[test]
fn each_fault_of_a_pod_link_is_named() {
    let (a, b) = (noted("web", "a-1", "cni-1a"), noted("cni-0", "b", "cni-2b"));
    let files = [
        ("run/netns/cni-1a", ""),
        ("run/netns/cni-2b", ""),
        // The network of this pod is not complete yet.
        ("run/netns/cni-3c", ""),
        ("var/lib/cni/results/cbr0-0f-eth0", a.as_str()),
        ("var/lib/cni/results/cbr0-1f-eth0", b.as_str()),
    ];
    let only = |name: &str| {
        LINKS_SHOWN
            .lines()
            .filter(|line| !line.contains(name))
            .map(|line| format!("{line}\n"))
            .collect::<String>()
    };
    let second = |from: &str, to: &str| {
        let at = LINKS_SHOWN.find("4: veth2").unwrap();
        format!("{}{}", &LINKS_SHOWN[..at], LINKS_SHOWN[at..].replace(from, to))
    };
    let rows = [
        (LINKS_SHOWN.to_string(), "", "", ""),
        (second("master cni0 ", ""), "veth2 of pod cni-0/b is not in the bridge cni0", "veth2", ""),
        (second("UP,LOWER_UP", "M-DOWN"), "veth2 of pod cni-0/b is down", "veth2", ""),
        // The pod itself may turn off its end, so this is no fault.
        (second("UP,LOWER_UP", "NO-CARRIER,UP"), "", "", ""),
        (
            second("noqueue", "netem"),
            "veth2 of pod cni-0/b has the queueing discipline netem instead of noqueue",
            "veth2",
            "",
        ),
        (
            second("hairpin on", "hairpin off"),
            "the bridge cni0 does not pass all packets of veth2 of pod cni-0/b",
            "veth2",
            "",
        ),
        (
            second("isolated off", "isolated on"),
            "the bridge cni0 does not pass all packets of veth2 of pod cni-0/b",
            "veth2",
            "",
        ),
        (only("veth1"), "the link of pod web/a-1 is missing", "", "cni-1a"),
        (LINKS_SHOWN.replacen("UP,LOWER_UP", "", 1), "cni0 is down", "cni0", ""),
    ];
    for shell in support::shells() {
        for (shown, fault, link, netns) in &rows {
            let used = "netns_is_used() { [ $1 = cni-1a ]; }\nsleep() { :; }\n";
            let stands = format!("ip() {{ cat <<'X'\n{shown}X\n}}\n{used}");
            let script = "link_drift; echo -; links_of link; echo -; links_of netns";
            let lines = |words: &str| if words.is_empty() { String::new() } else { format!("{words}\n") };
            let says = format!("{}-\n{}-\n{}", lines(fault), lines(link), lines(netns));
            assert_eq!(run(shell, &files, &stands, script), (true, says), "{shell}: {fault}");
        }
        let stands = "ip() { echo; }\nnetns_is_used() { return 1; }";
        let (_, said) = run(shell, &files, stands, "links_of fault; links_of netns");
        assert_eq!(said, "", "{shell}: sandboxes that ended left these behind");
        let stands = format!("ip() {{ cat <<'X'\n{}X\n}}\nnetns_is_used() {{ :; }}", only("cni0: "));
        let (_, said) = run(shell, &files, &stands, "links_of netns | sort");
        assert_eq!(said, "cni-1a\ncni-2b\n", "{shell}: without the bridge no link can be repaired");
        // Links of other networks are ignored.
        let more = LINKS_SHOWN.replace(
            "3: veth1",
            "5: vethf@if3: <UP,LOWER_UP> qdisc noqueue master br1 link-netns cni-1a hairpin off\n3: veth1",
        );
        for notes in [&files[..], &files[..3]] {
            let stands = format!(
                "ip() {{ cat <<'X'\n{more}X\n}}\nsleep() {{ :; }}\nfind() {{ printf '/run/netns/cni-1a\\n'; }}\n"
            );
            assert_eq!(run(shell, notes, &stands, "link_drift"), (true, String::new()), "{shell}");
        }
        // A link that is right a second later belongs to a pod that has just started or ended.
        let stands = format!(
            "n=0\nip() {{ cat <<'X'\n{}X\n}}\nsleep() {{ ip() {{ cat <<'X'\n{LINKS_SHOWN}X\n}}; }}\n",
            only("veth1")
        );
        assert_eq!(run(shell, &files, &stands, "link_drift"), (true, String::new()), "{shell}");
        let (_, said) = run(shell, &[], "ip() { exit 9; }", "link_drift");
        assert_eq!(said, "", "{shell}: no pod has a network of its own");
    }
}

#[test]
fn dns_is_queried_from_pods_of_several_namespaces() {
    let all = [
        ("web", "a", "cni-1a"),
        ("web", "b", "cni-2b"),
        ("kube-system", "dns", "cni-3c"),
        ("shop", "c", "cni-4d"),
    ];
    let notes: Vec<(String, String)> = all
        .iter()
        .flat_map(|(space, pod, netns)| {
            [
                (format!("var/lib/cni/results/cbr0-{netns}-eth0"), noted(space, pod, netns)),
                (format!("run/netns/{netns}"), String::new()),
            ]
        })
        .collect();
    let mut files: Vec<(&str, &str)> =
        notes.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    // A pod that is gone, and a pod without a libcni file.
    let gone = noted("old", "x", "cni-9f");
    files.extend([("var/lib/cni/results/cbr0-9-eth0", gone.as_str()), ("run/netns/cni-5e", "")]);
    let stands = |good: &str| {
        format!(
            "command() {{ :; }}\npackets() {{ case $within in *{good}) echo \"$1 reached\" ;; *) echo \"$1 silent\" ;; esac; }}\n"
        )
    };
    for shell in support::shells() {
        let ask = |good: &str| run(shell, &files, &stands(good), "from_pods pod-dns 10.96.0.10 dns:x");
        let first = "pod-dns-from kube-system/dns\n";
        assert_eq!(ask("cni-3c"), (true, format!("{first}pod-dns reached\n")), "{shell}");
        let (_, said) = ask("none");
        assert!(said.starts_with(first) && said.ends_with("pod-dns silent\n"), "{shell}: {said}");
        assert_eq!(said.matches("pod-dns-from").count(), 3, "{shell}: {said}");
        assert_eq!(said.matches("from web/").count(), 1, "{shell}: one pod of each namespace: {said}");
        let to_pods = |answers: &str| {
            let stands = format!("packets() {{ echo \"$*\" >&2; echo '{answers}'; }}");
            run(shell, &files, &stands, "to_pods own-pod")
        };
        let (_, said) = to_pods("to-pod silent\nto-pod refused");
        assert!(said.contains("own-pod reached") && !said.contains("own-pod-of"), "{shell}: {said}");
        assert_eq!(said.matches("to-pod 10.244.1.7 1").count(), 3, "{shell}: {said}");
        let (_, said) = to_pods("to-pod silent");
        assert!(
            said.contains("own-pod silent\n") && said.contains("own-pod-of kube-system/dns\n"),
            "{shell}: {said}"
        );
        let (_, said) = run(shell, &[], &stands("x"), "from_pods pod-dns 10.96.0.10 dns:x; to_pods own-pod");
        assert_eq!(said, "", "{shell}: there is no pod");
    }
}

/// Starts a server that answers a connection unless more than `most` bytes arrive at once.
fn server_of_small_packets(most: usize) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut bytes = [0; 4096];
                if stream.read(&mut bytes).unwrap_or(0) <= most {
                    let _ = stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n");
                }
                std::thread::sleep(std::time::Duration::from_secs(2));
            });
        }
    });
    port
}

#[test]
fn a_tunnel_that_drops_large_packets_is_partly_reached() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (all, small, none) = (
        server_of_small_packets(4096),
        server_of_small_packets(100),
        TcpListener::bind("127.0.0.1:0").unwrap(),
    );
    let none = (none.local_addr().unwrap().port(), none);
    for shell in support::shells() {
        let ask = format!(
            "packets a 127.0.0.1 large:{all} b 127.0.0.1 large:{small} c 127.0.0.1 large:{closed} d 127.0.0.1 large:{}",
            none.0
        );
        let said = run(shell, &[], "", &ask);
        assert_eq!(said, (true, "a reached\nb partly\nc refused\nd reached\n".into()), "{shell}");
    }
}

#[test]
fn a_network_namespace_with_a_process_is_in_use() {
    // The test itself runs in this network namespace.
    let root = std::fs::read_link("/proc/self/ns/net").unwrap();
    let inode = root.to_str().unwrap().trim_start_matches("net:[").trim_end_matches(']').to_string();
    for shell in support::shells() {
        for (inode, used) in [(inode.as_str(), true), ("1", false)] {
            let stands = format!("stat() {{ echo {inode}; }}");
            let (is_used, said) = run(shell, &[], &stands, "netns_is_used cni-1a");
            assert_eq!((is_used, said.as_str()), (used, ""), "{shell}: {inode}");
        }
    }
}

/// Starts a DNS server that sends the id of the query, and then `answer`.
fn dns_server(answer: Option<&'static [u8]>) -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((n, from)) = socket.recv_from(&mut query) {
            // The query must ask for this name. DNS puts its length before it.
            assert!(query[..n].windows(11).any(|w| w == b"\x0akubernetes"));
            let Some(rest) = answer else { continue };
            let reply = [&query[..2], rest].concat();
            let _ = socket.send_to(&reply, from);
        }
    });
    port
}

#[test]
fn a_probe_reports_reached_refused_or_silent() {
    const GOOD: &[u8] = b"\x85\x80\0\x01\0\x01\0\0\0\0-\0\x04\x0a\x60\0\x01";
    const OTHER: &[u8] = b"\x85\x80\0\x01\0\x01\0\0\0\0-\0\x04\x0a\x60\0\x02";
    const NO_NAME: &[u8] = b"\x85\x83\0\x01\0\0\0\0\0\0-\0\x04\x0a\x60\0\x01";
    let open = TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let open = (open.local_addr().unwrap().port(), open);
    let ask = questions(&support::lab(), 1);
    let query = ask
        .split("'dns:")
        .nth(1)
        .or(ask.split("dns:").nth(1))
        .unwrap()
        .split(['\'', ' ', '\n'])
        .next()
        .unwrap();
    for shell in support::shells() {
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
        assert_eq!(said, "the machine has no bash, which this check needs\n", "{shell}");
    }
}

#[test]
fn one_running_pod_per_node_is_probed() {
    // Shortened from the answer of an API server.
    let pods = r#"{"items":[{"metadata":{"managedFields":[{"f:spec":"k:{\"containerPort\":9,\"protocol\":\"TCP\"}"}],"annotations":{"x":"{\"nodeName\":\"w9\",\"podIP\":\"1.1.1.1\"}","nodeName":"w1","podIP":"6.6.6.6","deletionTimestamp":"x","spec.nodeName":"w3"}},"spec":{"containers":[{"ports":[{"name":"dns","containerPort":53,"protocol":"UDP"},{"containerPort":8080,"protocol":"TCP"}]}],"nodeName":"m1"},"status":{"podIP":"10.244.0.2","podIPs":[{"ip":"10.244.0.2"}]}},{"spec":{"containers":[{}],"nodeName":"w1"},"status":{"podIP":"10.244.1.7"}},{"metadata":{"creationTimestamp":"2026-11-28T00:00:00Z","deletionTimestamp":"2026-11-28T00:00:30Z"},"spec":{"containers":[{}],"nodeName":"w2"},"status":{"podIP":"10.244.2.7"}},{"metadata":{"creationTimestamp":"2026-11-28T00:00:00Z","deletionTimestamp":"2026-11-28T00:00:30Z"},"spec":{"nodeName":"w2"},"status":{}},{"metadata":{"creationTimestamp":"2026-11-28T00:00:00Z"},"spec":{"containers":[{}],"nodeName":"w3"},"status":{"podIP":"10.244.3.7"}},{"spec":{"containers":[{"ports":[{"containerPort":80,"protocol":"TCP"}]}],"nodeName":"w1"},"status":{"podIP":"10.244.1.8"}},{"spec":{"nodeName":"x"},"status":{"podIP":"10.244.9.8"}}]}"#;
    for shell in support::shells() {
        let stands = format!("kubectl() {{ cat <<'X'\n{pods}\nX\n}}");
        let said = run(shell, &[], &stands, "pods_of m1 w1 w2 w3");
        let one_each = "pod:m1 10.244.0.2 8080\npod:w1 10.244.1.7 1\npod:w3 10.244.3.7 1\n";
        assert_eq!(said, (true, one_each.into()), "{shell}: a pod that is being deleted is not asked");
        let (good, said) = run(shell, &[], "kubectl() { echo refused >&2; return 1; }", "pods_of m1");
        assert_eq!((good, said.as_str()), (false, "refused\n"), "{shell}");
    }
}

#[test]
fn a_silent_pod_under_a_network_policy_is_ignored() {
    let pod = |space: &str, node: &str, ip: &str| {
        format!(
            r#"{{"metadata":{{"name":"p","namespace":"{space}","uid":"1","creationTimestamp":"2026-11-28T00:00:00Z"}},"spec":{{"nodeName":"{node}"}},"status":{{"podIP":"{ip}"}}}}"#
        )
    };
    let pods = [("shop", "w1", "1.1.1.1"), ("web", "w1", "1.1.1.2"), ("shop", "w2", "1.1.1.3")];
    let pods = pods.map(|(space, node, ip)| pod(space, node, ip)).join(",");
    let pods = format!(r#"{{"items":[{pods}]}}"#);
    // A tenant may write these annotations on a policy.
    let policies = r#"{"items":[{"metadata":{"name":"deny","namespace":"shop","uid":"2","annotations":{"namespace":"web","uid":"3"}}}]}"#;
    for shell in support::shells() {
        for (policies, silent, says) in [
            (policies, "pod:w1 silent\npod:w2 silent", "dns reached\npod:w1 reached\n"),
            (policies, "pod:w1 reached\npod:w2 reached", "dns reached\npod:w1 reached\npod:w2 reached\n"),
            ("", "pod:w1 reached\npod:w2 silent", "dns reached\npod:w1 reached\npod:w2 silent\n"),
        ] {
            let stands = format!(
                "kubectl() {{ case $* in *networkpolicies*) echo '{policies}' ;; *) echo '{pods}' ;; esac; }}\n\
                 packets() {{ echo \"$1 reached\"; [ \"$*\" = 'pod:w1 1.1.1.2 1' ] || echo \"asked $*\"; }}"
            );
            let script = format!("unless_policed 'dns reached\n{silent}' w1 w2");
            assert_eq!(run(shell, &[], &stands, &script), (true, says.into()), "{shell}: {silent}");
        }
        // If the policies cannot be read, a silent pod proves nothing either.
        let script = "unless_policed 'dns reached\npod:w1 silent' w1 w2";
        let said = run(shell, &[], "kubectl() { return 1; }", script);
        let unknown = "dns reached\npods unknown: cannot read NetworkPolicies\n";
        assert_eq!(said, (true, unknown.into()), "{shell}");
    }
}

#[test]
fn a_fix_waits_briefly_for_its_answer() {
    for shell in support::shells() {
        let stands = "renew_lease() { :; }\nquestions() { echo x >>/run/n; if [ $(wc -l </run/n) -gt 1 ]; then echo 'dns reached'; else echo 'dns silent'; fi; }";
        let files = [("run/n", ""), ("proc/net/dev", DEV)];
        let stands = stands.replace("WAIT_TIMEOUT=1", "");
        let good = run(shell, &files, &(stands.clone() + "\nWAIT_TIMEOUT=9"), "answered dns reached");
        assert_eq!(good, (true, String::new()), "{shell}");
        let (good, said) = run(shell, &files, &stands.replace("reached'", "silent'"), "answered dns reached");
        assert_eq!((good, said.as_str()), (false, "packets: dns is silent\n"), "{shell}");
    }
}

/// A cluster in which only m1 has a pod with its own address, unless `pods` says otherwise.
///
/// `made` has the state of the probe pods. `from_here` has their answers to the node, `from_within` to a pod of it.
#[derive(Clone, Copy)]
struct Made {
    pods: &'static str,
    refused: &'static str,
    made: &'static str,
    from_here: &'static str,
    from_within: &'static str,
}

const ON_M1: &str = "pod:m1 10.244.0.2 80";
const MADE: Made = Made {
    pods: ON_M1,
    refused: "",
    made: "w1 Running 10.244.1.9/\nw2 Running 10.244.2.9/",
    from_here: "pod:w1 refused\npod:w2 refused",
    from_within: "",
};

/// The kubelet of w1 does not have the image.
const NEVER: &str = "w1 Pending / ErrImageNeverPull\nw2 Running 10.244.2.9/";

#[test]
fn a_young_api_server_delays_the_restart_of_kube_proxy() {
    // The Service answers the third question.
    let stands = |age: u32| {
        format!(
            "WAIT_TIMEOUT=60\nservice_answers() {{ echo x >>/run/n; [ $(wc -l </run/n) -ge 3 ]; }}\nrenew_lease() {{ :; }}\nsleep() {{ :; }}\n\
             daemon() {{ [ {age} = 0 ] || echo 7; }}\nlasting() {{ [ {age} -ge \"${{3:-5}}\" ]; }}\nrestart() {{ echo \"restart $3\"; }}\n"
        )
    };
    for shell in support::shells() {
        for (age, said) in [(0, "restart kube-proxy\n"), (40, "restart kube-proxy\n"), (4, "")] {
            let (good, says) =
                run(shell, &[("run/ironstrap/x", "")], &stands(age), "proxy_again m1 10.96.0.1 443");
            assert!(good, "{shell}: {says}");
            assert_eq!(says, said, "{shell}, an API server of {age} s");
        }
        // The Service does not recover, so kube-proxy is restarted after the wait.
        let never = stands(4).replace("-ge 3", "-ge 40").replace("=60", "=1");
        let (_, says) = run(shell, &[("run/ironstrap/x", "")], &never, "proxy_again m1 10.96.0.1 443");
        assert!(says.starts_with("restart kube-proxy\n"), "{shell}: {says}");
    }
}

/// What kubectl prints for pods, as a format of printf. Each line of `made` is "NODE PHASE ADDRESS/REASON".
fn statuses(made: &str) -> String {
    let status = |line: &str| {
        let (node, rest) = line.split_once(' ').unwrap();
        let (phase, rest) = rest.split_once(' ').unwrap();
        let (address, reason) = rest.split_once('/').unwrap();
        let (reason, waiting) = reason.split_once(' ').unwrap_or((reason, "Other"));
        if waiting == "unnoticed" {
            return format!(r#"{node}\t{{"phase":"{phase}","qosClass":"BestEffort"}}"#);
        }
        let waits = r#""startTime":"2026-11-28T00:00:00Z","containerStatuses":[{"state":{"waiting":{"message":"\\nw2\\t{\\"phase\\":\\"Failed\\"}","reason":"Other"}}}]"#
            .replace("Other", waiting);
        let given = |key: &str, value: &str| {
            if value.is_empty() { String::new() } else { format!(r#","{key}":"{value}""#) }
        };
        format!(
            r#"{node}\t{{{waits},"phase":"{phase}"{}{}}}"#,
            given("podIP", address),
            given("reason", reason)
        )
    };
    made.lines().map(status).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_kubelet_gets_extra_time_to_notice_a_pod() {
    // Each call of `date` advances the clock by ten seconds.
    let stands = "WAIT_TIMEOUT=300\ndate() { echo x >>/run/n; echo $(($(wc -l </run/n) * 10)); }\nsleep() { :; }\nrenew_lease() { :; }\n";
    for shell in support::shells() {
        for (pod, seconds) in [
            ("w1 Pending /", 60),
            ("w1 Pending / unnoticed", 90),
            ("w1 Running 10.244.1.9/", 0),
            ("w1 Pending 10.244.1.9/ ImageInspectError", 60),
            ("w1 Pending 10.244.1.9/ ErrImageNeverPull", 0),
        ] {
            let pods = format!("kubectl() {{ printf '{}\n'; }}", statuses(pod));
            let (good, said) =
                run(shell, &[("run/n", "")], &format!("{stands}{pods}"), "wait_for_made w1; wc -l </run/n");
            let calls: u32 = said.trim().parse().unwrap_or_else(|_| panic!("{shell}: {said}"));
            let waited = (calls - 1) * 10;
            assert!(good && waited == seconds, "{shell}: {pod}: {waited} s");
        }
        // The kubelet notices the pod after 70 seconds. From then on it has a minute to start it.
        let [late, pod] = ["w1 Pending / unnoticed", "w1 Pending /"].map(statuses);
        let pods = format!(
            "kubectl() {{ if [ $(wc -l </run/n) -le 7 ]; then printf '{late}\n'; else printf '{pod}\n'; fi; }}"
        );
        let (_, said) =
            run(shell, &[("run/n", "")], &format!("{stands}{pods}"), "wait_for_made w1; wc -l </run/n");
        assert_eq!(said.trim(), "14", "{shell}: noticed late");
        let none = "kubectl() { return 1; }";
        let (_, said) =
            run(shell, &[("run/n", "")], &format!("{stands}{none}"), "wait_for_made w1; wc -l </run/n");
        assert_eq!(said.trim(), "7", "{shell}: an API server that does not answer");
    }
}

impl Made {
    /// Returns whether the script succeeded, what it printed, and what it did to pods.
    fn run(&self, shell: &str) -> (bool, String, String) {
        self.run_for(shell, "m1 w1 w2")
    }

    /// The same for these nodes.
    fn run_for(&self, shell: &str, nodes: &str) -> (bool, String, String) {
        let Made { pods, refused, made, from_here, from_within } = self;
        let made = statuses(made);
        let pid = if from_within.is_empty() { ":" } else { "echo 77" };
        let stands = format!(
            "renew_lease() {{ :; }}\ndaemon() {{ :; {pid}; }}\ncommand() {{ :; }}\npods_of() {{ printf '{pods}\\n'; }}\n\
             packets() {{ case ${{within-}} in '') printf '{from_here}\\n' ;; 'nsenter -t 77 -n') printf '{from_within}\\n' ;; esac; }}\n\
             kubectl() {{ case $* in\n*' delete '*) echo \"delete ${{7-}}\" >>/run/log ;;\n\
               create*) grep -o 'packets-[a-z0-9]*' | sed 's/^/create /' >>/run/log; [ -z '{refused}' ] || echo '{refused}' >&2 ;;\n\
               *networkpolicies*) ;;\n*events*) echo 'Failed: no network' ;;\n*) printf '{made}\\n' ;; esac; }}"
        );
        let files = [("run/log", ""), ("proc/net/dev", DEV)];
        let script = format!(
            "r=0; ( set -eu; ask_nodes m1 pause:1 {nodes} ) || r=$?; echo '--'; cat /run/log; exit $r"
        );
        let (good, said) = run(shell, &files, &stands, &script);
        let (said, log) = said.split_once("--\n").unwrap_or_else(|| panic!("{said}"));
        (good, said.to_string(), log.to_string())
    }
}

#[test]
fn a_dot_in_a_node_name_matches_only_a_dot() {
    let made = Made {
        pods: "pod:m.1 10.244.0.2 80\npod:mx1 10.244.0.3 80",
        made: "a.b Running 10.244.1.9/\naxb Pending /",
        from_here: "pod:a.b reached\npod:mx1 reached",
        ..MADE
    };
    for shell in support::shells() {
        let (_, said, _) = made.run_for(shell, "m.1 a.b axb");
        assert!(said.contains("packets: no new pod starts on axb: "), "{shell}: {said}");
        assert!(
            said.contains("packets: pod:a.b is reached\n") && !said.contains("starts on a.b"),
            "{shell}: {said}"
        );
        let stands = "WAIT_TIMEOUT=1\nrenew_lease() { :; }\nquestions() { printf 'pod:axb silent\\npod:a.b reached\\n'; }";
        let files = [("proc/net/dev", DEV)];
        let good = run(shell, &files, stands, "answered pod:a.b reached");
        assert_eq!(good, (true, String::new()), "{shell}");
    }
}

#[test]
fn a_node_without_pods_is_probed_with_a_temporary_pod() {
    let (w1, w2) = ("packets: pod:w1 is reached\n", "packets: pod:w2 is reached\n");
    let silent = Made { from_here: "pod:w1 silent\npod:w2 reached", ..MADE };
    let full =
        Made { made: "w1 Failed /OutOfpods\nw2 Running 10.244.2.9/", from_here: "pod:w2 reached", ..MADE };
    let refused = Made {
        made: "w2 Running 10.244.2.9/",
        refused: "error when creating \"STDIN\": pods \"ironstrap-packets-w1\" is forbidden",
        from_here: "pod:w2 reached",
        ..MADE
    };
    let pending = Made { made: "w1 Pending /\nw2 Running 10.244.2.9/", from_here: "pod:w2 reached", ..MADE };
    let within = Made {
        pods: "",
        made: "m1 Running 10.244.0.9/\nw1 Running 10.244.1.9/\nw2 Running 10.244.2.9/",
        from_within: "pod:w1 silent\npod:w2 refused",
        ..MADE
    };
    let all = Made { from_within: "pod:w1 reached\npod:w2 refused", ..within };
    let rows: [(Made, bool, String); 7] = [
        (MADE, true, format!("{w1}{w2}")),
        (silent, false, format!("packets: pod:w1 is silent\n{w2}")),
        (full, true, format!("packets: pod:w1 is not checked: the kubelet refused a pod: OutOfpods\n{w2}")),
        (
            refused,
            true,
            format!(
                "packets: pod:w1 is not checked: error when creating \"STDIN\": pods \"ironstrap-packets-w1\" is forbidden\n{w2}"
            ),
        ),
        (pending, false, format!("packets: no new pod starts on w1: Failed: no network\n{w2}")),
        (
            within,
            false,
            format!("packets: pod:w1 is silent, asked from a pod of m1\n{w2}packets: pod:m1 is reached\n"),
        ),
        (all, true, format!("{w1}{w2}packets: pod:m1 is reached\n")),
    ];
    let unnoticed = Made { made: "w1 Pending / unnoticed\nw2 Running 10.244.2.9/", ..pending };
    let never = Made { made: NEVER, from_here: "pod:w2 reached", ..MADE };
    let says = format!("packets: pod:w1 is not checked: Failed: no network\n{w2}");
    for shell in support::shells() {
        assert_eq!(never.run(shell).1, says, "{shell}");
        let (good, said, _) = unnoticed.run(shell);
        assert_eq!(
            (good, said),
            (false, format!("packets: no new pod starts on w1: Failed: no network\n{w2}")),
            "{shell}"
        );
        for (made, good, says) in &rows {
            let (went, said, log) = made.run(shell);
            assert_eq!((went, &said), (*good, says), "{shell}");
            let m1 = if made.pods.is_empty() { "create packets-m1\n" } else { "" };
            let done = format!(
                "delete --timeout=20s\n{m1}create packets-w1\ncreate packets-w2\ndelete --wait=false\n"
            );
            assert_eq!(log, done, "{shell}: {said}");
        }
        let none = Made { pods: "pod:m1 1.1.1.1 1\npod:w1 1.1.1.2 1\npod:w2 1.1.1.3 1", ..MADE };
        let nothing = (true, String::new(), "delete --timeout=20s\n".to_string());
        assert_eq!(none.run(shell), nothing, "{shell}: each has a pod of its own");
    }
}

#[test]
fn a_probe_pod_can_run_on_any_node() {
    for shell in support::shells() {
        let (good, said) = run(shell, &[], "", "made_pod w1.lan registry.example/pause:3.10");
        let pod: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert!(good);
        assert_eq!(pod["metadata"]["name"], "ironstrap-packets-w1.lan");
        assert_eq!(pod["spec"]["nodeName"], "w1.lan");
        assert_eq!(pod["spec"]["tolerations"], serde_json::json!([{"operator": "Exists"}]));
        let container = &pod["spec"]["containers"][0];
        assert_eq!(container["image"], "registry.example/pause:3.10");
        assert_eq!(container["imagePullPolicy"], "Never", "nothing is pulled for it");
    }
}

#[test]
fn a_probe_pod_of_an_earlier_run_is_found() {
    let (cluster, fleet) = (support::lab(), Fleet::default());
    let want = wanted(&cluster, &cluster.nodes[0], "bootstrap.probe-pods", &fleet);
    let Ask::Objects(pods) = &want.ask else { panic!() };
    let judge = |lines: &str| support::verdict(&want, lines);
    assert_eq!(pods.len(), cluster.nodes.len());
    let goes = r#"{"metadata":{"name":"x","deletionTimestamp":"2026-11-28T00:00:30Z"}}"#;
    let stays = r#"{"metadata":{"name":"x"}}"#;
    assert_eq!(judge("absent\nabsent\nabsent"), Verdict::Holds);
    assert_eq!(judge(&format!("absent\n{goes}\nabsent")), Verdict::Holds, "that takes a moment");
    let Verdict::Differs { have, .. } = judge(&format!("absent\n{goes}\n{stays}")) else { panic!() };
    assert_eq!(have, "probe pods in kube-system: 1");
}

#[test]
fn probe_pods_run_only_on_nodes_in_scope() {
    let cluster = support::lab();
    let [m1, w1] = [&cluster.nodes[0], &cluster.nodes[1]];
    let want = packets::made::asked(&cluster, m1, &[m1, w1], &[]).unwrap();
    let Fix::Run(script) = &want.fix else { panic!() };
    let call = format!("ask_nodes m1 '{}' m1 w1", cluster.pause_image());
    assert!(script.contains(&call) && !script.contains("m1 w1 w2"), "{script}");
    assert_eq!(want.about, ["m1", "w1"]);
    assert!(packets::made::asked(&cluster, m1, &[m1], &[w1]).is_none(), "no other node is in scope");
    assert_eq!(packets::made::reached("packets: pod:w1 is reached"), Some("w1"));
    let event = "packets: pod:w1 is not checked: words of an event, and w1 is reached";
    assert_eq!(packets::made::reached(event), None);
    for other in [
        "packets: pod:w1 is silent",
        "packets: pod:w1 is not checked: x is reached by none",
        "pod:w1 is reached",
    ] {
        assert_eq!(packets::made::reached(other), None, "{other}");
    }
}

#[test]
fn a_fault_belongs_to_the_probed_node() {
    let faults = |lines: &[&str]| packets::made::faults(lines.iter().copied());
    let starts = "packets: no new pod starts on w1: FailedMount: no: disk";
    let of = |node: &str, what: &str| (node.to_string(), what.to_string());
    let no_start = of("w1", "no new pod starts: FailedMount: no: disk");
    assert_eq!(faults(&["noise", starts, "packets: pod:w2 is reached"]), std::slice::from_ref(&no_start));
    let silent = of("w2", "a new pod on it does not answer");
    let lines = [starts, "packets: pod:w2 is silent", "packets: pod:w3 is reached"];
    assert_eq!(faults(&lines), [no_start.clone(), silent]);
    assert_eq!(faults(&lines[..2]), [no_start], "if no pod answers, the asking node may be at fault");
    for other in
        ["packets: pod:w1 is not checked: forbidden", "packets: pod:w1 is silent, asked from a pod of m1"]
    {
        assert_eq!(faults(&[other, "packets: pod:w3 is reached"]), [], "{other}");
    }
}

fn wanted(cluster: &Cluster, node: &Node, id: &str, fleet: &Fleet) -> Want {
    let pki = support::pki(cluster);
    let has = ["client-certificate", "receipt"].map(String::from).into();
    let machine = Machine { has, ..Machine::default() };
    let wants = support::wants((cluster, node), &pki, (&machine, fleet), OffsetDateTime::now_utc());
    wants.into_iter().find(|(.., want)| want.id.to_string() == id).unwrap_or_else(|| panic!("no want {id}")).2
}

fn questions(cluster: &Cluster, node: usize) -> String {
    let want = wanted(cluster, &cluster.nodes[node], "connectivity.dns", &Fleet::default());
    want.ask.shell().unwrap().to_string()
}

#[test]
fn each_probe_result_gets_its_own_verdict() {
    let (cluster, fleet) = (support::lab(), Fleet::default());
    let broken = Fleet { unreachable: ["w1".to_string()].into(), ..Fleet::default() };
    const ALL: &str =
        "kube-proxy runs\nservice reached\nserver0 reached\ndns reached\npod:w1 reached\npod:w2 refused";
    let said = |of: &str, is: &str| ALL.replace(of, is);
    let rows: [(String, [&str; 4]); 11] = [
        (said("pod:w1 reached\n", ""), ["holds", "holds", "holds", "unchecked"]),
        (ALL.into(), ["holds", "holds", "holds", "holds"]),
        (
            "not here".replace("not here", "the machine has no bash, which this check needs"),
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
    let ids = ["services.rules", "connectivity.service", "connectivity.dns", "connectivity.node[w1]"];
    let verdict = |answer: &str, id: &str, fleet: &Fleet| {
        let Expect::Judged(judge) = wanted(&cluster, &cluster.nodes[0], id, fleet).expect else { panic!() };
        match judge(answer) {
            Verdict::Holds => "holds",
            Verdict::Differs { .. } => "differs",
            Verdict::Waits { .. } => "waits",
            Verdict::Unknown(_) => "unknown",
            Verdict::Noted(_) => "noted",
            Verdict::Unconfirmed { .. } => "unconfirmed",
            Verdict::Unchecked(_) => "unchecked",
        }
    };
    for (answer, expected) in &rows {
        assert_eq!(ids.map(|id| verdict(answer, id, &fleet)), *expected, "{answer}");
    }
    for (of, id) in [("pod:w1", ids[3]), ("dns", ids[2])] {
        let silent = said(&format!("{of} reached"), &format!("{of} silent"));
        assert_eq!(verdict(&silent, id, &broken), "waits", "w1 does not answer at all");
    }
    let without = said("pod:w1 reached\n", "");
    assert_eq!(
        verdict(&without, ids[3], &broken),
        "holds",
        "another message already says that w1 does not answer"
    );
}

/// A firewall may drop packets to the machine's end of the tunnel, although pods are reachable. If the machine answers
/// another node through the tunnel, it has no such firewall.
#[test]
fn a_silent_tunnel_is_a_fault_if_another_node_reaches_it() {
    let cluster = support::lab();
    let (nobody, at_w2) = (Fleet::default(), Fleet { tunnels: ["w2".into()].into(), ..Fleet::default() });
    let stale = Fleet { stale: ["w1".into()].into(), ..at_w2.clone() };
    let w2_away = Fleet { unreachable: ["w2".into()].into(), ..at_w2.clone() };
    let judged = |said: &str, fleet: &Fleet| {
        let want = wanted(&cluster, &cluster.nodes[1], "connectivity.tunnel[w2]", fleet);
        let Expect::Judged(judge) = want.expect else { panic!() };
        judge(&format!("service reached\n{said}"))
    };
    for answered in ["tunnel:w2 reached", "tunnel:w2 refused", ""] {
        assert_eq!(judged(answered, &nobody), Verdict::Holds, "{answered}");
    }
    assert!(matches!(judged("tunnel:w2 silent", &nobody), Verdict::Unchecked(_)));
    assert!(matches!(judged("tunnel:w2 silent", &at_w2), Verdict::Differs { .. }));
    assert!(matches!(judged("tunnel:w2 absent", &at_w2), Verdict::Differs { .. }));
    assert_eq!(judged("tunnel:w2 absent", &nobody), Verdict::Holds, "the want nodes.announced reports this");
    for said in ["tunnel:w2 silent", "tunnel:w2 absent"] {
        assert!(matches!(judged(said, &stale), Verdict::Waits { .. }), "w1 is asked again: {said}");
    }
    assert!(matches!(judged("tunnel:w2 partly", &nobody), Verdict::Differs { .. }), "small packets reach it");
    assert!(matches!(judged("tunnel:w2 partly", &stale), Verdict::Waits { .. }));
    assert!(matches!(judged("tunnel:w2 silent", &w2_away), Verdict::Waits { .. }));
    assert_eq!(
        judged("tunnel:w2 absent", &w2_away),
        Verdict::Holds,
        "another message already says that w2 does not answer"
    );
    let answer = "tunnel:w2 refused\ntunnel:m1 silent\ntunnel:w1 absent\ntunnel:w3 reached\ntunnel:w4 partly";
    assert_eq!(packets::tunnels::answered(answer).collect::<Vec<_>>(), ["w2", "w3", "w4"]);
}

#[test]
fn the_silence_of_a_user_pod_is_not_a_fault() {
    let (cluster, fleet) = (support::lab(), Fleet::default());
    let judged = |id: &str, said: &str| {
        let Expect::Judged(judge) = wanted(&cluster, &cluster.nodes[1], id, &fleet).expect else { panic!() };
        judge(said)
    };
    let (own, dns) = ("connectivity.own-pod", "connectivity.pod-dns");
    for id in [own, dns] {
        assert_eq!(judged(id, "dns reached\n"), Verdict::Holds, "no pod runs there");
        assert_eq!(judged(id, "dns reached\nown-pod reached\npod-dns reached\n"), Verdict::Holds);
        let silent = |pod: &str| {
            judged(
                id,
                &format!(
                    "dns reached\nown-pod-of {pod}\nown-pod silent\npod-dns-from {pod}\npod-dns silent\n"
                ),
            )
        };
        assert!(matches!(silent("kube-system/coredns-1"), Verdict::Differs { .. }), "{id}");
        assert!(matches!(silent("shop/web"), Verdict::Unchecked(_)), "{id}");
    }
    let all = "dns silent\npod-dns-from kube-system/coredns-1\npod-dns silent\n";
    assert_eq!(judged(dns, all), Verdict::Holds, "another want says that DNS does not answer");
}

#[test]
fn only_a_part_of_a_large_cluster_is_probed() {
    let mut cluster = support::lab();
    let worker = cluster.nodes[1].clone();
    cluster.nodes.extend((3..100).map(|n| Node { name: format!("w{n}"), ..worker.clone() }));
    let ask = questions(&cluster, 0);
    assert!(ask.contains("pods_of w1 w2 w3 w4)"), "{ask}");
    let worker = questions(&cluster, 5);
    assert!(!worker.contains("pods_of w"), "workers may not list pods");
    assert!(
        worker.contains("tunnels_to m1 198.18.0.11 'large:10250' w1 ") && !worker.contains(" w5 "),
        "{worker}"
    );
}

#[test]
fn a_cni_configuration_before_flannels_is_named() {
    let (cluster, fleet) = (support::lab(), Fleet::default());
    let want = wanted(&cluster, &cluster.nodes[1], "flannel.first", &fleet);
    let (Ask::Shell(ask), Expect::Judged(judge), Fix::ByHand(_)) = (&want.ask, &want.expect, &want.fix)
    else {
        panic!()
    };
    let ours = ("etc/cni/net.d/10-flannel.conflist", "flannel");
    for shell in support::shells() {
        for (file, text, verdict) in [
            ("etc/cni/net.d/20-x.conf", "{}", "holds"),
            ("etc/cni/net.d/README", "{}", "holds"),
            ("etc/cni/net.d/05-x.conf", "{}", "differs"),
            ("etc/cni/net.d/10-bridge.json", "{}", "differs"),
            ("etc/cni/net.d/00-multus.conf", "flannel", "noted"),
        ] {
            // The verdict is the same before flannel has written its own file.
            for files in [&[ours, (file, text)][..], &[(file, text)]] {
                let root = Root::with_files(files);
                let script = ask.replace("/etc/cni", &format!("{}/etc/cni", root.text()));
                let output = support::run(shell, &format!("set -eu\n{script}"));
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
}

#[test]
fn an_http_answer_cannot_forge_another_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let said = r"a\nother says 200 forged\012other reached other says 200 forged";
    std::thread::spawn(move || {
        for guest in listener.incoming() {
            let mut guest = guest.unwrap();
            let _ = guest.read(&mut [0; 1000]);
            let _ = guest.write_all(format!("HTTP/1.0 200 OK\r\n\r\n{said}\rother reached\n").as_bytes());
        }
    });
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for shell in support::shells() {
        let script = format!("packets evil 127.0.0.1 http:{port}/x other 127.0.0.1 http:{closed}/x");
        let (good, told) = run(shell, &[], "", &script);
        assert!(good, "{shell}: {told}");
        assert_eq!(told, format!("evil says 200 {said}other reached\nother refused\n"), "{shell}");
    }
}
