//! Tests how ironstrap reads the rules that nft and iptables-save print, and which rules it shows.

use super::*;

fn read(of: &str, text: &str) -> Filter {
    let lines: Vec<String> = text.lines().map(|line| format!("{of} {line}")).collect();
    Filter::read(lines.iter().map(String::as_str))
}

const NFT: &str = "# Warning: table ip filter is managed by iptables-nft, do not touch!
table ip filter {
\tchain INPUT {
\t\ttype filter hook input priority filter; policy drop;
\t\ttcp dport 6443 counter reject
\t\tip protocol tcp tcp dport { 2379, 2380 }  counter drop
\t\tip saddr 192.0.2.7 xt target \"REJECT\"
\t}
\tchain FORWARD {
\t\ttype filter hook forward priority filter; policy drop;
\t}
}
table ip6 filter {
\tchain INPUT {
\t\ttype filter hook input priority filter; policy drop;
\t}
}
table inet mine {
\tset bad {
\t\ttype ipv4_addr
\t}

\tchain input {
\t\ttype filter hook input priority filter; policy accept;
\t\ttcp dport { 22, 80-90 } ip saddr @bad counter reject with icmp port-unreachable
\t\tiifname \"eth0\" jump more comment \"drop it\"
\t\ttcp dport vmap { 22 : accept, 10250 : drop }
\t\ttcp dport != 22 ip saddr 192.0.2.8 drop
\t\tlog prefix \"drop: \" accept
\t}

\tchain more {
\t\tudp dport 8472 counter drop
\t}

\tchain nobody {
\t\tdrop
\t}

\tchain early {
\t\ttype filter hook prerouting priority raw; policy accept;
\t\tudp dport 30000 drop
\t}

\tchain out {
\t\ttype filter hook output priority filter; policy accept;
\t\treject with icmpx admin-prohibited
\t}
}
";

#[test]
fn a_forward_chain_that_drops_everything_is_shown() {
    let chain = |rule: &str| {
        format!(
            "table inet f {{\n\tchain fw {{\n\t\ttype filter hook forward priority 0; policy drop;\n{rule}\t}}\n}}\n"
        )
    };
    let shown = |rule: &str| read("nft", &chain(rule)).shown(Side::Forward, &[], false);
    assert_eq!(shown(""), ["nft inet f fw: policy drop"]);
    assert_eq!(
        shown("\t\tct state established,related accept\n").len(),
        1,
        "accepting replies is not enough"
    );
    for lets in ["\t\tip saddr 10.244.0.0/16 accept\n", "\t\tjump pods\n"] {
        assert!(shown(lets).is_empty(), "{lets}");
    }
    assert!(read("nft", &chain("").replace("drop", "accept")).shown(Side::Forward, &[], false).is_empty());
    assert!(
        read("nft", NFT).shown(Side::Forward, &[], false).is_empty(),
        "flannel adds its own rules to the chain of iptables"
    );
}

#[test]
fn nft_rules_on_the_path_of_packets_are_shown() {
    let filter = read("nft", NFT);
    let shown = |side, ports: &[u16], v6| filter.shown(side, ports, v6);
    let api = [
        "nft ip filter INPUT: policy drop",
        "nft inet mine input: tcp dport vmap { 22 : accept, 10250 : drop }",
        "nft inet mine input: tcp dport != 22 ip saddr 192.0.2.8 drop",
        "nft ip filter INPUT: tcp dport 6443 counter reject",
        "nft ip filter INPUT: ip saddr 192.0.2.7 xt target \"REJECT\"",
    ];
    assert_eq!(shown(Side::In, &[6443], false), api);
    let two = shown(Side::In, &[2380, 8472], false);
    assert!(two.contains(&"nft inet mine more: udp dport 8472 counter drop".to_string()), "{two:?}");
    assert_eq!(two.last().unwrap(), "nft ip filter INPUT: ip saddr 192.0.2.7 xt target \"REJECT\"");
    assert_eq!(two.len(), 6, "all rules on the path: {two:?}");
    let all = shown(Side::In, &[80, 2380, 6443, 8472], false);
    assert_eq!((all.len(), all[6].as_str()), (7, "… and 2 more"), "{all:?}");
    assert_eq!(shown(Side::Out, &[6443], false), ["nft inet mine out: reject with icmpx admin-prohibited"]);
    let early = "nft inet mine early: udp dport 30000 drop".to_string();
    assert!(shown(Side::In, &[30000], false).contains(&early));
    assert_eq!(shown(Side::In, &[6443], true)[0], "nft ip6 filter INPUT: policy drop");
}

/// Some of the rules that ufw makes.
const IPTABLES: &str = "*mangle
:PREROUTING ACCEPT [0:0]
-A PREROUTING -s 192.0.2.9/32 -j DROP
*filter
:INPUT DROP [12:720]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:ufw-before-input - [0:0]
:ufw-logging-deny - [0:0]
:ufw-skip-to-policy-input - [0:0]
:ufw-user-output - [0:0]
-A INPUT -j ufw-before-input
-A ufw-before-input -m conntrack --ctstate INVALID -j ufw-logging-deny
-A ufw-before-input -m conntrack --ctstate INVALID -j DROP
-A ufw-before-input -p tcp -m multiport --dports 137,138:139 -j ufw-skip-to-policy-input
-A ufw-before-input -p tcp -m tcp ! --dport 22 -m comment --comment \"-j ACCEPT\" -j REJECT --reject-with tcp-reset
-A ufw-skip-to-policy-input -j DROP
-A ufw-user-output -j DROP
";

#[test]
fn iptables_rules_on_the_path_of_packets_are_shown() {
    let filter = read("iptables", IPTABLES);
    let shown = [
        "iptables -P INPUT DROP",
        "iptables -A ufw-before-input -m conntrack --ctstate INVALID -j DROP",
        "iptables -A ufw-before-input -p tcp -m tcp ! --dport 22 -m comment --comment \"-j ACCEPT\" -j REJECT --reject-with tcp-reset",
        "iptables -A ufw-skip-to-policy-input -j DROP",
        "iptables -t mangle -A PREROUTING -s 192.0.2.9/32 -j DROP",
    ];
    assert_eq!(filter.shown(Side::In, &[6443], false), shown);
    assert_eq!(filter.shown(Side::Out, &[6443], false), Vec::<String>::new());
}

#[test]
fn long_rules_are_cut_and_read_errors_are_reported() {
    let long = format!(
        "table inet a {{\n\tchain b {{\n\t\ttype filter hook input priority 0; policy accept;\n\t\tip saddr {{ {} }} drop",
        "192.0.2.1, ".repeat(40)
    );
    let shown = read("nft", &long).shown(Side::In, &[1], false);
    assert_eq!((shown.len(), shown[0].chars().count(), shown[0].ends_with('…')), (1, WIDTH, true));
    let filter = Filter::read(["unread nft is not installed", "up tcp 6443"].into_iter());
    assert_eq!((filter.read, filter.unread.as_slice()), (false, &["nft is not installed".to_string()][..]));
    assert!(Filter::read(["read nft"].into_iter()).read, "nft ran and printed no rules");
}
