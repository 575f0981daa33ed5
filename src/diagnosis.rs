//! Finds out why something failed, from the evidence of machines. The functions take the lines of machines and return
//! causes with their evidence. They are pure. A cause is claimed only if a line says so. Without a cause, the last
//! lines that report a problem are shown instead.

use std::sync::LazyLock;
use std::time::Duration;

use regex::{Captures, Regex};

use crate::error::{Error, QUOTE};
use crate::secret;
use crate::shell::{KUBECTL, PODS, PRELUDE, Sh, quote, sh};

mod causes;
mod places;
mod signs;

pub use causes::CAUSES;
pub use places::LOGS;
use places::{is_known, look_at};

/// Collects what a machine knows. The script prints nothing where it finds nothing.
const SCRIPT: Sh = Sh::raw(include_str!("../templates/diagnose.sh"));
/// The place of what a fix itself printed. It is not one of the places that the script names.
pub const FIX: &str = "fix";
/// Number of lines that are kept of one machine, the last ones. The script prints fewer.
const MOST: usize = 4000;
/// Longest evidence, in characters. A longer line is cut around the words that make it evidence.
const LONGEST: usize = 320;
/// Longest word, in characters, that is kept whole where evidence is cut. A longer word is cut, too.
const WORD: usize = 40;

/// Shell that gives `run_unless_fatal` and `retry` (templates/lib.sh) the patterns of log lines that no waiting changes.
pub fn fatal_patterns() -> Sh {
    let words: Vec<&str> = CAUSES.iter().filter_map(|cause| cause.fatal).collect();
    sh!("FATAL_PATTERNS={words}\n", words = words.join("\n"))
}

/// A possible cause of a failure. In its texts, `{name}` stands for what a sign's group of that name matched. `{node}`
/// is the machine with the evidence, and `{etcd}` is the folder of etcd's data.
pub struct Cause {
    /// The name for programs. It never changes.
    pub name: &'static str,
    pub what: &'static str,
    /// The instruction for the operator, to paste where that is possible.
    pub remedy: &'static str,
    pub signs: &'static [Sign],
    /// If there are any, the machine that failed must also show one of these.
    pub besides: &'static [Sign],
    /// Matches a log line of the kubelet or the control plane that no waiting changes, for `grep -E`. A wait can stop
    /// at such a line.
    pub fatal: Option<&'static str>,
    /// The cause may also follow from another one. It is reported only if all causes found are symptoms.
    pub symptom: bool,
}

/// The table of all causes for the documentation. It has a row for each cause, with placeholders in capitals.
pub fn table() -> String {
    let cell = |words: &str| {
        let mut text = String::new();
        for (i, part) in words.split(['{', '}']).enumerate() {
            text +=
                &if i % 2 == 1 { part.to_uppercase() } else { part.replace('|', "\\|").replace('*', "\\*") };
        }
        text
    };
    let row =
        |cause: &Cause| format!("| `{}` | {} | {} |\n", cause.name, cell(cause.what), cell(cause.remedy));
    let rows: String = CAUSES.iter().map(row).collect();
    format!("| cause | what ironstrap reports | what to do |\n|---|---|---|\n{rows}")
}

/// A kind of line that is evidence: `place` is the beginning of its place, and `says` is a pattern for the line. An
/// empty `place` accepts every place at which the machine itself writes, and no place in `OF_THE_CLUSTER`.
pub struct Sign {
    pub place: &'static str,
    pub says: &'static str,
}

/// Places that show what the cluster stores. Every kubelet may write events and the state of its pods. So root on one
/// machine can put any words there, also about any other machine.
const OF_THE_CLUSTER: [&str; 4] = ["event", "node", "pod", STATE];
/// The place of a fix's words that repeat the state of a pod.
const STATE: &str = "state";

/// Matches lines that a program writes about itself, and about its requests to the API. Kubelets write them in the format of
/// klog: a head, and then a message in quotes. In their other lines, the text after the message can have words of a tenant:
/// names, commands, output of containers. A line that is not in the format of klog is of a program that cannot start.
static OWN: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(concat!(
    r#"^(?:(?:[EF]\d{4} [0-9:.]+ +\d+ [\w.-]+\.go:\d+\] |\{"ts":[\d.]+,"caller":"[^"]*","msg":)(?:"(?:command failed|Error running ProxyServer"#,
    r#"|Failed to listen[^"]*|Failed to start (?:ContainerManager|cAdvisor|OOM watcher|node proxy healthz)[^"]*"#,
    r#"|Failed to (?:run|validate|load|construct|initialize) [Kk]ubelet[^"]*"#,
    r#"|Unable to register node with API server[^"]*|Error updating node status, will retry|Error getting (?:the current )?node[^"]*"#,
    r#"|Failed to ensure lease exists, will retry|Failed while requesting a signed certificate[^"]*|Failed to watch)""#,
    r#"|"Unhandled Error"(?: logger="[^"]*")?(?: err=|,"logger":"[^"]*","err":|,"err":)"[\w./@-]+\.go:\d+: [Ff]ailed to (?:watch|list) )"#,
    r#"|panic: |[Ee]rror: |Error from server |fatal error: |unknown flag: |flag provided but not defined: "#,
    r#"|\{"level":"(?:(?:error|fatal|panic)","ts":"[^"]*","caller":"|warn","ts":"[^"]*","caller":"rafthttp/))"#,
))
.ok()
});
/// Matches the same kind of line of containerd. Its lines about pods are in the format of logrus, so of these only
/// fatal ones match.
static OWN_OF_CONTAINERD: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r#"^(?:[^ t]|t[^i]|time="[^"]*" level=fatal )"#).ok());

impl Sign {
    /// Whether a line at a place can be this sign. A sign that names only the beginning of the place, such as "journal ", takes
    /// every line there. Its remedy must therefore be harmless. For "container " only lines of `OWN` count.
    fn is_at(&self, place: &str, text: &str) -> bool {
        let any = self.place.is_empty();
        if !place.starts_with(self.place) || any && OF_THE_CLUSTER.contains(&place) {
            return false;
        }
        let own = match place {
            _ if !any && self.place.ends_with(' ') && self.place != "container " => return true,
            "journal containerd" => &OWN_OF_CONTAINERD,
            "journal kubelet" => &OWN,
            place if place.starts_with("container ") => &OWN,
            _ => return true,
        };
        own.as_ref().is_some_and(|own| own.is_match(text))
    }
}

/// The lines that one machine printed as evidence.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeLogs {
    pub node: String,
    /// Place and text, oldest first within a place.
    pub lines: Vec<(String, String)>,
}

/// A cause that was found, with the line that is its evidence.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    pub cause: &'static str,
    pub what: String,
    /// The machine with the evidence. `place` says what to look at there.
    pub on: String,
    pub place: String,
    pub evidence: String,
    pub remedy: String,
}

/// This is added to the time for which the journal is read, because a fix begins a moment before its first line. Files
/// and the API have times in whole seconds, so `SECONDS` is added for them.
const MOMENT: Duration = Duration::from_millis(250);
const SECONDS: u64 = 2;

/// The script that collects what a machine knows about the last `back`. `etcd_dir` is the folder of etcd's data.
pub fn script(back: Duration, etcd_dir: &str) -> Sh {
    let (age, journal) = (back.as_secs() + SECONDS, (back + MOMENT).as_secs_f64());
    sh!(
        "{\nset +e\n{PRELUDE}cd /\n\
         AGE={age} JOURNAL={journal} ETCD={etcd_dir}\n{KUBECTL}{PODS}{SCRIPT}\n} </dev/null\nexit 0\n",
        PRELUDE,
        age,
        journal = format!("{journal:.3}"),
        etcd_dir,
        KUBECTL,
        PODS,
        SCRIPT
    )
}

impl NodeLogs {
    /// Reads the output of the script. Lines without a known place are ignored. klog indents the lines of a value, so
    /// an indent stays.
    pub fn read(node: &str, said: &str) -> NodeLogs {
        // Long lines are cut later. Half a secret could not be recognised then, so secrets are hidden first.
        let said = secret::hide(said);
        let lines = said.lines().rev().filter_map(|line| line.split_once('\t'));
        let lines = lines.filter(|(place, _)| is_known(place)).take(MOST);
        let lines = lines.map(|(place, text)| (place.to_string(), text.trim_end().to_string()));
        let mut lines: Vec<(String, String)> = lines.collect();
        lines.reverse();
        NodeLogs { node: node.into(), lines }
    }

    /// Puts the words of a fix, which an error contains, in front of all other lines.
    pub fn with_error(mut self, error: &Error) -> NodeLogs {
        let state = ["waiting does not help: pod ", "waiting does not help: no pod of "];
        let place = |line: &str| if state.iter().any(|words| line.starts_with(words)) { STATE } else { FIX };
        let words = error.words().map(|line| (place(line).to_string(), line.to_string()));
        self.lines.splice(0..0, words);
        self
    }
}

/// The line in an error about a machine that gave no answer to another machine, `asker`. This line is evidence, too.
pub fn got_no_answer(asker: &str) -> String {
    format!("{asker} got no answer from this node")
}

/// The causes that the machines give evidence of, the most specific first. `logs` has the machine that failed first,
/// and then those that it depends on. `etcd_dir` is the folder of etcd's data.
pub fn findings(logs: &[NodeLogs], etcd_dir: &str) -> Vec<Finding> {
    let found = CAUSES.iter().filter_map(|cause| Some((cause, find(cause, logs, etcd_dir)?)));
    let found: Vec<(&Cause, Finding)> = found.collect();
    let explained = found.iter().any(|(cause, _)| !cause.symptom);
    found.into_iter().filter(|(cause, _)| !(explained && cause.symptom)).map(|(_, finding)| finding).collect()
}

/// The newest line that is evidence of the cause, on the first machine that has one.
fn find(cause: &Cause, logs: &[NodeLogs], etcd_dir: &str) -> Option<Finding> {
    let failed = logs.first()?;
    let seen = |sign: &Sign, logs: &NodeLogs| seen(cause, sign, logs, etcd_dir);
    if !cause.besides.is_empty() && cause.besides.iter().all(|sign| seen(sign, failed).is_none()) {
        return None;
    }
    logs.iter().find_map(|logs| cause.signs.iter().find_map(|sign| seen(sign, logs)))
}

fn seen(cause: &Cause, sign: &Sign, logs: &NodeLogs, etcd_dir: &str) -> Option<Finding> {
    let says = Regex::new(sign.says).ok()?;
    let lines = logs.lines.iter().rev().filter(|(place, text)| sign.is_at(place, text));
    let mut found = lines.filter_map(|(place, text)| Some((place, text, says.captures(text)?)));
    let pasted_groups =
        says.capture_names().flatten().filter(|name| cause.remedy.contains(&format!("{{{name}}}")));
    let pasted_groups: Vec<&str> = pasted_groups.collect();
    let has_option = |found: &Captures| {
        pasted_groups.iter().any(|name| found.name(name).is_some_and(|words| is_option(name, words.as_str())))
    };
    let (place, text, found) = found.find(|(_, _, found)| !has_option(found))?;
    let is_group = |name: &str| says.capture_names().flatten().any(|group| group == name);
    let value = |name: &str, word: fn(&str, &str) -> String| match name {
        "node" => Some(logs.node.clone()),
        "etcd" => Some(etcd_dir.to_string()),
        _ => is_group(name).then(|| word(name, found.name(name).map_or("", |word| word.as_str()))),
    };
    let what = filled(cause.what, |name| value(name, |_, words| words.to_string()));
    Some(Finding {
        cause: cause.name,
        what: what.trim_end().into(),
        on: logs.node.clone(),
        place: look_at(place),
        evidence: around(text, found.get(0).map_or(0..0, |all| all.range())),
        remedy: filled(cause.remedy, |name| value(name, pasted)),
    })
}

/// Replaces each `{name}` that has a value. A value is never searched for names, because it can have words of a machine in it.
fn filled(text: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut parts = text.split('{');
    let mut all = parts.next().unwrap_or_default().to_string();
    for part in parts {
        match part.split_once('}').and_then(|(name, rest)| Some((value(name)?, rest))) {
            Some((value, rest)) => all += &(value + rest),
            None => all += &format!("{{{part}"),
        }
    }
    all
}

/// Words of a machine for a remedy that somebody pastes into a shell. They are one word there, and nothing more. The
/// value of `packages` is several words, one for each package. Names of packages have no characters that need quotes.
fn pasted(name: &str, words: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./@+,-:=%".contains(c);
    let word = |word: &str| match word.chars().all(plain) {
        true => word.to_string(),
        false => quote(word).to_string(),
    };
    match name {
        "packages" => words.split(' ').map(word).collect::<Vec<_>>().join(" "),
        _ => word(words),
    }
}

/// Whether a command of a remedy would read words of a machine as an option. Only flags begin with `-`. No host,
/// package, image or file of a cause does.
fn is_option(name: &str, words: &str) -> bool {
    name != "flag" && words.split(' ').any(|word| word.starts_with('-'))
}

/// The part of a line that matters, with the text beside it.
fn around(text: &str, evidence: std::ops::Range<usize>) -> String {
    let from = text[..evidence.start].chars().count();
    let all = text.chars().count();
    if all <= LONGEST {
        return text.into();
    }
    let to = text[..evidence.end].chars().count().min(from + LONGEST);
    let beside = (LONGEST - (to - from)) / 2;
    let start = from.saturating_sub(beside).min(all - LONGEST);
    // Start at the next word, if one begins before the evidence.
    let next = text.chars().skip(start).take((from - start).min(WORD)).position(char::is_whitespace);
    let start = if start > 0 { start + next.unwrap_or(0) } else { 0 };
    let part: String = text.chars().skip(start).take(LONGEST).collect();
    let part = part.trim_start();
    let (before, after) = (if start > 0 { "… " } else { "" }, if start + LONGEST < all { " …" } else { "" });
    format!("{before}{part}{after}")
}

/// The last lines that report a problem, a few of each machine, for failures without a known cause.
pub fn last_words(logs: &[NodeLogs]) -> Vec<String> {
    const ALL: usize = 12;
    let each = ALL / logs.len().max(1);
    logs.iter().flat_map(|logs| complaints(logs).into_iter().take(each)).collect()
}

/// Places in the order in which `complaints` returns their lines. Those that say most about a failure come first.
const PLACES: [&str; 7] = ["unit ", "log ", "node", "pod", "event", "journal ", "container "];

fn complaints(logs: &NodeLogs) -> Vec<String> {
    const EACH: usize = 3;
    let mut lines: Vec<String> = Vec::new();
    for kind in PLACES {
        let of_kind =
            logs.lines.iter().filter(|(place, text)| place.starts_with(kind) && complains(place, text));
        let of_kind: Vec<&(String, String)> = of_kind.collect();
        let mut places: Vec<&str> = of_kind.iter().map(|(place, _)| place.as_str()).collect();
        places.dedup();
        for place in places {
            let mut last: Vec<&str> =
                of_kind.iter().filter(|(other, _)| other == place).map(|(_, text)| text.as_str()).collect();
            last.dedup();
            let last = &last[last.len().saturating_sub(EACH)..];
            let line = |text: &&str| format!("{} on {}: {}", look_at(place), logs.node, around(text, 0..0));
            lines.extend(last.iter().map(line));
        }
    }
    lines
}

fn complains(place: &str, text: &str) -> bool {
    match place {
        // The script prints only problems at these places.
        "node" | "pod" | "event" => return true,
        place if place.starts_with("unit ") => return !text.contains("ActiveState=active"),
        _ => {}
    }
    let klog = text.starts_with(['E', 'F']) && text[1..].starts_with(|c: char| c.is_ascii_digit());
    let lower = text.to_lowercase();
    let words = ["error", "fail", "fatal", "denied", "refused", "cannot", "panic"];
    klog || words.iter().any(|word| lower.contains(word))
}

/// Findings as lines under an error. The evidence has words of a machine, so it is quoted.
pub fn lines(findings: &[Finding]) -> Vec<String> {
    let lines = |finding: &Finding| {
        // The error shows the fix's own words anyway.
        let evidence = (finding.place != look_at(FIX))
            .then(|| format!("  {QUOTE}{} on {}: {}", finding.place, finding.on, finding.evidence));
        let cause = format!("cause: {}", finding.what);
        let remedy = format!("  remedy: {}", finding.remedy);
        [Some(cause), evidence, Some(remedy)].into_iter().flatten()
    };
    findings.iter().flat_map(lines).collect()
}

#[cfg(test)]
mod tests;
