//! The packet filter of a machine: which of its rules may drop or reject the packets that it receives, sends or forwards.
//! This module reads the output of nft and iptables-save, which show the filter and do not change it. It is pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::secret;
use crate::shell::Sh;

/// An error shows at most this many rules, and `WIDTH` characters of each.
const SHOWN: usize = 6;
const WIDTH: usize = 160;

/// Defines `rules WORD iptables|ip6tables`, which prints the parts of a packet filter that may block packets. Each line
/// begins with WORD. It reads nftables, and the older tables, which nft does not see. `iptables -S` would create these
/// older tables, so `rules` uses iptables-save, which prints only what is there. It reports what it cannot read as
/// `unread`.
pub(super) const RULES: Sh = Sh::raw(
    r#"rules() {
  rules_for=$1; rules_save=$2
  part() {
    part_of=$1; shift
    if x=$(timeout 3 "$@" 2>&1); then
      echo "$rules_for read $part_of"
      printf '%s\n' "$x" | awk -v n="$rules_for" -v of="$part_of" '/ -[jg] (ACCEPT|RETURN|LOG|MARK|MASQUERADE)( |$)/ { next }
        /^\tchain/ { forward = 0 } / hook forward / { forward = 1 }
        /^table|^\tchain| hook |^[*:]| -[jg] |drop|reject|DROP|REJECT|jump|goto/ || forward && / accept/ {
          if (++k > 1000) { print n " unread " of ": more than 1000 lines"; exit }
          print n " " of " " $0
        }'
    else
      echo "$rules_for unread $1: $(printf '%s\n' "${x:-no answer within 3 s}" | tail -n 1 | cut -c 1-200)"
    fi
  }
  if command -v nft >/dev/null; then part nft nft -s -t list ruleset
  else
    echo "$rules_for unread nft is not installed (apt-get install nftables)"
    ! command -v $rules_save-nft-save >/dev/null || part iptables $rules_save-nft-save
  fi
  ! grep -qs . /proc/net/${rules_save%tables}_tables_names || part iptables $rules_save-legacy-save
}
"#,
);

/// The direction of packets, as the machine sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    In,
    Out,
    Forward,
}

/// A rule, or the policy of a chain, that drops or rejects packets.
#[derive(Clone, Debug, PartialEq)]
struct Rule {
    side: Side,
    /// The family of its table. The table may be for addresses of another kind than the cluster's.
    family: String,
    text: String,
}

/// The packet filter of a machine, as far as ironstrap knows it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// The rules that drop or reject packets. Policies come first, because they are the most frequent obstacle.
    rules: Vec<Rule>,
    /// Whether ironstrap could read a part of the filter, even if that part has no rules.
    pub read: bool,
    /// Why ironstrap could not read the other parts.
    pub unread: Vec<String>,
}

/// A chain of a packet filter, as nft or iptables-save prints it.
#[derive(Default)]
struct Chain {
    side: Option<Side>,
    drops: bool,
    /// It accepts some packets, beside answers of established connections.
    accepts: bool,
    /// The rules that drop or reject packets.
    rules: Vec<String>,
    /// Chains of the same table that packets may be sent to.
    jumps: BTreeSet<String>,
}

/// The chains by table and name. The name of the table says how to show the chain.
type Chains = BTreeMap<(String, String), Chain>;

impl Filter {
    /// Reads the lines that `RULES` has printed, without the word that they begin with.
    pub fn read<'a>(lines: impl Iterator<Item = &'a str>) -> Filter {
        let (mut nft, mut iptables, mut filter) = (vec![], vec![], Filter::default());
        for line in lines {
            match line.split_once(' ') {
                Some(("nft", line)) => nft.push(line),
                Some(("iptables", line)) => iptables.push(line),
                Some(("read", _)) => filter.read = true,
                Some(("unread", why)) => filter.unread.push(why.to_string()),
                _ => {}
            }
        }
        let mut rules = reachable(&of_nft(&nft));
        rules.extend(reachable(&of_iptables(&iptables)));
        rules.sort_by_key(|(policy, _)| !policy);
        filter.rules = rules.into_iter().map(|(_, rule)| rule).collect();
        filter
    }

    /// The first `SHOWN` rules that may drop or reject packets on one of these ports, and how many more there are.
    pub fn shown(&self, side: Side, ports: &[u16], v6: bool) -> Vec<String> {
        let other = if v6 { "ip" } else { "ip6" };
        let may = |rule: &&Rule| rule.side == side && rule.family != other && may_match(&rule.text, ports);
        let all: Vec<&Rule> = self.rules.iter().filter(may).collect();
        let mut shown: Vec<String> = all.iter().take(SHOWN).map(|rule| cut(&rule.text)).collect();
        if all.len() > SHOWN {
            shown.push(format!("… and {} more", all.len() - SHOWN));
        }
        shown
    }
}

fn cut(text: &str) -> String {
    match text.chars().count() > WIDTH {
        true => secret::beginning(text, WIDTH - 1) + "…",
        false => text.to_string(),
    }
}

/// The words of a rule, without text in quotes. Such text is a comment, or what the rule writes to the log.
fn words(text: &str) -> Vec<&str> {
    let separates = |c: char| c.is_whitespace() || "{},;".contains(c);
    text.split('"')
        .step_by(2)
        .flat_map(|part| part.split(separates))
        .filter(|word| !word.is_empty())
        .collect()
}

/// The word after each of these marks.
fn after<'a>(words: &[&'a str], marks: [&str; 2]) -> Vec<&'a str> {
    words.windows(2).filter(|pair| marks.contains(&pair[0])).map(|pair| pair[1]).collect()
}

/// Reads chains from the output of `nft list ruleset`: `table FAMILY NAME {`, `chain NAME {`, `type … hook …; policy …;`,
/// and rules.
fn of_nft(lines: &[&str]) -> Chains {
    let (mut chains, mut at) = (Chains::new(), (String::new(), String::new()));
    for line in lines {
        let (words, text) = (words(line), line.trim());
        match words.as_slice() {
            ["table", family, name] => at.0 = format!("{family} {name}"),
            ["chain", name] => at.1 = name.to_string(),
            ["type", _, "hook", hook, ..] => {
                let chain = chains.entry(at.clone()).or_default();
                chain.side = match *hook {
                    "prerouting" | "input" | "ingress" => Some(Side::In),
                    "output" | "postrouting" | "egress" => Some(Side::Out),
                    "forward" => Some(Side::Forward),
                    _ => None,
                };
                chain.drops = after(&words, ["policy"; 2]) == ["drop"];
            }
            _ => {
                let chain = chains.entry(at.clone()).or_default();
                let foreign = ["xt target \"DROP\"", "xt target \"REJECT\""];
                let drops = words.iter().any(|word| ["drop", "reject"].contains(word));
                if drops || foreign.iter().any(|target| text.contains(target)) {
                    chain.rules.push(text.to_string());
                }
                chain.accepts |= words.contains(&"accept") && !words.contains(&"established");
                chain.jumps.extend(after(&words, ["jump", "goto"]).iter().map(|name| name.to_string()));
            }
        }
    }
    chains
}

/// Reads chains from the output of `iptables-save`: `*TABLE`, `:CHAIN POLICY [COUNTS]`, and rules.
fn of_iptables(lines: &[&str]) -> Chains {
    let (mut chains, mut table) = (Chains::new(), String::new());
    for line in lines {
        let words = words(line);
        if let Some(name) = line.strip_prefix('*') {
            table = name.to_string();
        } else if let Some(name) = words.first().and_then(|word| word.strip_prefix(':')) {
            let chain = chains.entry((table.clone(), name.to_string())).or_default();
            chain.side = match name {
                "PREROUTING" | "INPUT" => Some(Side::In),
                "OUTPUT" | "POSTROUTING" => Some(Side::Out),
                _ => None,
            };
            // nftables and the older tables may have chains of the same name.
            chain.drops |= words.get(1) == Some(&"DROP");
        } else if let ["-A", name, ..] = words.as_slice() {
            let chain = chains.entry((table.clone(), name.to_string())).or_default();
            for target in after(&words, ["-j", "-g"]) {
                match target {
                    "DROP" | "REJECT" => chain.rules.push(line.to_string()),
                    name => chain.jumps.extend([name.to_string()]),
                }
            }
        }
    }
    chains
}

/// The rules and policies that packets may meet, beginning at the chains where the kernel begins. The flag says whether it
/// is a policy.
fn reachable(chains: &Chains) -> Vec<(bool, Rule)> {
    let mut found = Vec::new();
    for ((table, base), chain) in chains {
        let Some(side) = chain.side else { continue };
        let mut rule = |policy: bool, text: String| {
            let family = table.split_once(' ').map_or("", |(family, _)| family).to_string();
            found.push((policy, Rule { side, family, text }));
        };
        if side == Side::Forward {
            // flannel adds rules to the FORWARD chain of iptables that accept its own packets. ironstrap does not judge
            // what other chains accept.
            if chain.drops && !chain.accepts && chain.jumps.is_empty() && base != "FORWARD" {
                rule(true, shown(table, base, None));
            }
            continue;
        }
        if chain.drops {
            rule(true, shown(table, base, None));
        }
        let (mut names, mut next) = (vec![base.clone()], 0);
        while let Some(name) = names.get(next).cloned() {
            next += 1;
            let Some(chain) = chains.get(&(table.clone(), name.clone())) else { continue };
            chain.rules.iter().for_each(|text| rule(false, shown(table, &name, Some(text))));
            names
                .extend(chain.jumps.iter().filter(|jump| !names.contains(jump)).cloned().collect::<Vec<_>>());
        }
    }
    found
}

/// A rule, or the policy of a chain, as nft or iptables writes it.
fn shown(table: &str, chain: &str, rule: Option<&str>) -> String {
    let nft = table.contains(' ');
    match (rule, table) {
        _ if nft => format!("nft {table} {chain}: {}", rule.unwrap_or("policy drop")),
        (Some(rule), "filter") => format!("iptables {rule}"),
        (Some(rule), _) => format!("iptables -t {table} {rule}"),
        (None, "filter") => format!("iptables -P {chain} DROP"),
        (None, _) => format!("iptables -t {table} -P {chain} DROP"),
    }
}

/// Whether a rule may match one of these ports. It cannot match if it is for other ports, and names them as numbers.
/// Machines that ban other hosts have many such rules.
fn may_match(rule: &str, ports: &[u16]) -> bool {
    let words = words(rule);
    let marks = ["dport", "--dport", "--dports"];
    let Some(at) = words.iter().position(|word| marks.contains(word)) else { return true };
    let range = |word: &&str| -> Option<(u16, u16)> {
        let (low, high) = word.split_once(['-', ':']).unwrap_or((word, word));
        Some((low.parse().ok()?, high.parse().ok()?))
    };
    let ranges: Vec<(u16, u16)> = words[at + 1..].iter().map_while(range).collect();
    let negated = at > 0 && words[at - 1] == "!";
    let within = |(low, high): &(u16, u16)| ports.iter().any(|port| (low..=high).contains(&port));
    ranges.is_empty() || negated || ranges.iter().any(within)
}

#[cfg(test)]
mod tests;
