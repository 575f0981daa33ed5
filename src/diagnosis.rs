//! Why something failed, as far as machines tell: what they were heard to say goes in, causes with their evidence
//! come out. Pure. A cause is claimed only where a line says so; where none does, there are the last words instead.

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

/// Reads what a machine knows; says nothing where there is nothing.
const SCRIPT: Sh = Sh::raw(include_str!("../templates/diagnose.sh"));
/// What a fix itself said, beside the places that the script names.
pub const FIX: &str = "fix";
/// As many lines are heard of one machine, the last ones. The script prints fewer.
const MOST: usize = 4000;
/// Longer evidence is cut around what makes it evidence, in characters.
const LONGEST: usize = 320;
/// Longer words are cut.
const WORD: usize = 40;

/// Shell that tells `hopeful` and `patiently` (templates/lib.sh) which lines in the logs no waiting changes.
pub fn hopeless() -> Sh {
    let words: Vec<&str> = CAUSES.iter().filter_map(|cause| cause.hopeless).collect();
    sh!("HOPELESS={words}\n", words = words.join("\n"))
}

/// Something that can be behind a failure. `{name}` in its texts is what a sign's group of that name caught,
/// `{node}` where it was heard, `{etcd}` the folder of etcd's data.
pub struct Cause {
    /// For programs: it stays as it is.
    pub name: &'static str,
    pub what: &'static str,
    /// What to do about it, to paste where that is possible.
    pub remedy: &'static str,
    pub signs: &'static [Sign],
    /// Where there are any, one of these must be seen too, on the machine that failed.
    pub besides: &'static [Sign],
    /// A line of a log of kubelet or control plane that no waiting changes, as `grep -E` finds it: a wait can stop.
    pub hopeless: Option<&'static str>,
    /// It may also follow from another cause. It is reported only if all causes found are symptoms.
    pub symptom: bool,
}

/// The table of all causes, as the documentation has it: a row for each, placeholders in capitals.
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

/// Where to look, as the beginning of a place, and what a line must say there. An empty place is any that the machine itself
/// speaks at, and none of the cluster's.
pub struct Sign {
    pub place: &'static str,
    pub says: &'static str,
}

/// Places that show what the cluster keeps. Every kubelet may write events and the state of its pods, so the root of one
/// machine can have any words stand there, of any other machine.
const OF_THE_CLUSTER: [&str; 4] = ["event", "node", "pod", STATE];
/// Words of a fix that repeat the state of a pod.
const STATE: &str = "state";

/// Lines of a program about itself, and about what it asks of the API. Kubelets write them as klog does: a head, and then a
/// message in quotes. In its other lines, what follows the message can have words of a tenant: names, commands, output of
/// containers. A line that is no line of klog is of a program that cannot start.
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
/// The same of containerd, whose lines about pods are in the form of logrus.
static OWN_OF_CONTAINERD: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r#"^(?:[^ t]|t[^i]|time="[^"]*" level=fatal )"#).ok());

impl Sign {
    /// Whether a line at a place can be this sign. Signs that name only the beginning of the place, as "journal ", take every
    /// line there, so their remedies must be harmless.
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

/// What one machine was heard to say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Heard {
    pub node: String,
    /// Place and text, oldest first within a place.
    pub lines: Vec<(String, String)>,
}

/// A cause, with the line that says so.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    pub cause: &'static str,
    pub what: String,
    /// Where the evidence stands: the machine, and what to look at there.
    pub on: String,
    pub place: String,
    pub evidence: String,
    pub remedy: String,
}

/// A fix is a moment older than its first line. Files tell their times by the second, and so does the API.
const MOMENT: Duration = Duration::from_millis(250);
const SECONDS: u64 = 2;

/// The script that has a machine tell what it knows of this last while. `etcd_dir`: where etcd keeps its data.
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

impl Heard {
    /// What the script printed; other lines count for nothing. klog indents the lines of a value, so an indent stays.
    pub fn read(node: &str, said: &str) -> Heard {
        // Nobody recognises half a secret, and long lines are cut.
        let said = secret::hide(said);
        let lines = said.lines().rev().filter_map(|line| line.split_once('\t'));
        let lines = lines.filter(|(place, _)| is_known(place)).take(MOST);
        let lines = lines.map(|(place, text)| (place.to_string(), text.trim_end().to_string()));
        let mut lines: Vec<(String, String)> = lines.collect();
        lines.reverse();
        Heard { node: node.into(), lines }
    }

    /// What an error has of the fix's own words, before everything else.
    pub fn with_error(mut self, error: &Error) -> Heard {
        let state = ["no waiting helps: pod ", "no waiting helps: no pod of "];
        let place = |line: &str| if state.iter().any(|words| line.starts_with(words)) { STATE } else { FIX };
        let words = error.words().map(|line| (place(line).to_string(), line.to_string()));
        self.lines.splice(0..0, words);
        self
    }
}

/// What another machine found of one, as a line of an error about it, and so as evidence.
pub fn got_no_answer(asker: &str) -> String {
    format!("{asker} got no answer from it")
}

/// The causes that the machines give evidence of, the most specific first. `heard`: the machine that failed before
/// those that it depends on. `etcd_dir`: where etcd keeps its data.
pub fn findings(heard: &[Heard], etcd_dir: &str) -> Vec<Finding> {
    let found = CAUSES.iter().filter_map(|cause| Some((cause, find(cause, heard, etcd_dir)?)));
    let found: Vec<(&Cause, Finding)> = found.collect();
    let explained = found.iter().any(|(cause, _)| !cause.symptom);
    found.into_iter().filter(|(cause, _)| !(explained && cause.symptom)).map(|(_, finding)| finding).collect()
}

/// The newest line that is evidence of the cause, on the first machine that has one.
fn find(cause: &Cause, heard: &[Heard], etcd_dir: &str) -> Option<Finding> {
    let failed = heard.first()?;
    let seen = |sign: &Sign, heard: &Heard| seen(cause, sign, heard, etcd_dir);
    if !cause.besides.is_empty() && cause.besides.iter().all(|sign| seen(sign, failed).is_none()) {
        return None;
    }
    heard.iter().find_map(|heard| cause.signs.iter().find_map(|sign| seen(sign, heard)))
}

fn seen(cause: &Cause, sign: &Sign, heard: &Heard, etcd_dir: &str) -> Option<Finding> {
    let says = Regex::new(sign.says).ok()?;
    let lines = heard.lines.iter().rev().filter(|(place, text)| sign.is_at(place, text));
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
        "node" => Some(heard.node.clone()),
        "etcd" => Some(etcd_dir.to_string()),
        _ => is_group(name).then(|| word(name, found.name(name).map_or("", |word| word.as_str()))),
    };
    let what = filled(cause.what, |name| value(name, |_, words| words.to_string()));
    Some(Finding {
        cause: cause.name,
        what: what.trim_end().into(),
        on: heard.node.clone(),
        place: look_at(place),
        evidence: around(text, found.get(0).map_or(0..0, |all| all.range())),
        remedy: filled(cause.remedy, |name| value(name, pasted)),
    })
}

/// The text with a value in place of each `{name}` that has one. A value is never searched for names: it can have words of a
/// machine in it.
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

/// Words that a machine said, for a remedy that somebody pastes into a shell: one word there, and nothing more. Of packages
/// each is a word; their names have no other characters.
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

/// Whether a command of a remedy would read words of a machine as an option. Only flags begin with `-`: no host, package,
/// image or file of a cause does.
fn is_option(name: &str, words: &str) -> bool {
    name != "flag" && words.split(' ').any(|word| word.starts_with('-'))
}

/// The part of a line that matters, with what stands beside it.
fn around(text: &str, evidence: std::ops::Range<usize>) -> String {
    let from = text[..evidence.start].chars().count();
    let all = text.chars().count();
    if all <= LONGEST {
        return text.into();
    }
    let to = text[..evidence.end].chars().count().min(from + LONGEST);
    let beside = (LONGEST - (to - from)) / 2;
    let start = from.saturating_sub(beside).min(all - LONGEST);
    // From the next word on, if one begins before the evidence.
    let next = text.chars().skip(start).take((from - start).min(WORD)).position(char::is_whitespace);
    let start = if start > 0 { start + next.unwrap_or(0) } else { 0 };
    let part: String = text.chars().skip(start).take(LONGEST).collect();
    let part = part.trim_start();
    let (before, after) = (if start > 0 { "… " } else { "" }, if start + LONGEST < all { " …" } else { "" });
    format!("{before}{part}{after}")
}

/// The last words of whatever complains, a few lines of each, for where no cause is known.
pub fn last_words(heard: &[Heard]) -> Vec<String> {
    const ALL: usize = 12;
    let each = ALL / heard.len().max(1);
    heard.iter().flat_map(|heard| complaints(heard).into_iter().take(each)).collect()
}

/// What says most of what went wrong comes first.
const PLACES: [&str; 7] = ["unit ", "log ", "node", "pod", "event", "journal ", "container "];

fn complaints(heard: &Heard) -> Vec<String> {
    const EACH: usize = 3;
    let mut lines: Vec<String> = Vec::new();
    for kind in PLACES {
        let of_kind =
            heard.lines.iter().filter(|(place, text)| place.starts_with(kind) && complains(place, text));
        let of_kind: Vec<&(String, String)> = of_kind.collect();
        let mut places: Vec<&str> = of_kind.iter().map(|(place, _)| place.as_str()).collect();
        places.dedup();
        for place in places {
            let mut last: Vec<&str> =
                of_kind.iter().filter(|(other, _)| other == place).map(|(_, text)| text.as_str()).collect();
            last.dedup();
            let last = &last[last.len().saturating_sub(EACH)..];
            let line = |text: &&str| format!("{} on {}: {}", look_at(place), heard.node, around(text, 0..0));
            lines.extend(last.iter().map(line));
        }
    }
    lines
}

fn complains(place: &str, text: &str) -> bool {
    match place {
        // The script leaves out of these what is well.
        "node" | "pod" | "event" => return true,
        place if place.starts_with("unit ") => return !text.contains("ActiveState=active"),
        _ => {}
    }
    let klog = text.starts_with(['E', 'F']) && text[1..].starts_with(|c: char| c.is_ascii_digit());
    let lower = text.to_lowercase();
    let words = ["error", "fail", "fatal", "denied", "refused", "cannot", "panic"];
    klog || words.iter().any(|word| lower.contains(word))
}

/// Findings as lines under an error. The evidence has words of a machine, and is quoted.
pub fn lines(findings: &[Finding]) -> Vec<String> {
    let lines = |finding: &Finding| {
        // The fix's own words follow anyway.
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
