//! Defines what a script of fixes looks like, and what it leaves on the node. It leaves the lease, the previous state, and the
//! marks that say how far it got. This module makes text only. `reconcile` decides when a script runs.

use crate::error::{Error, Kind};
use crate::machine::Lease;
use crate::plan::{Change, Keep};
use crate::shell::{Output, PRELUDE, Sh, here, sh};
use crate::step::Fix;

mod kin;

pub use kin::Kin;

/// Shell functions that all fixes share.
const LIB: Sh = Sh::raw(concat!(
    include_str!("../templates/lib.sh"),
    "\n",
    include_str!("../templates/credentials.sh"),
    "\n",
    include_str!("../templates/undo.sh")
));

/// How long a lease holds without renewal, in seconds. No single fix may take longer, with two exceptions. A fix that waits
/// with `retry` renews the lease, and a unit keeps the machine for itself.
///
/// The epoch makes a takeover safe. So this value only decides how long others wait for a client that died.
const LEASE_SECONDS: u32 = 120;

/// The exit status of a script that may not change this machine.
pub const LEASE_LOST: i32 = 75;

/// One run of ironstrap, as the nodes know it.
#[derive(Clone, Debug)]
pub struct Run {
    /// A random name of the run.
    pub id: String,
    /// `user@host`, without spaces.
    pub owner: String,
    /// How long fixes of this run wait for external conditions, in seconds.
    pub wait: u32,
    /// Recognizes earlier runs that used the same PKI directory.
    pub kin: Kin,
    /// Whether the user wants to take over machines that another run holds.
    pub take_over: bool,
}

impl Run {
    /// How long fixes wait by default, in seconds. A busy machine needs its time.
    pub const WAIT: u32 = 300;

    pub fn new(id: impl Into<String>, owner: impl Into<String>) -> Run {
        Run { id: id.into(), owner: owner.into(), wait: Run::WAIT, kin: Kin::default(), take_over: false }
    }

    /// Whether this run may replace the run that has this lease, before the lease has ended. It may if that run is dead, or if
    /// the user says so.
    fn may_replace(&self, lease: &Lease) -> bool {
        self.take_over || self.kin.knows(lease)
    }

    fn take(&self, seen: Option<&Lease>) -> Sh {
        let epoch = seen.map_or(0, |lease| lease.epoch);
        let from = seen.filter(|lease| self.may_replace(lease)).map_or("-", |lease| lease.run.as_str());
        let kin = self.kin.proof(&self.id).unwrap_or("-".into());
        sh!(
            "take_lease {epoch} {id} {owner} {LEASE_SECONDS} {kin} {from}\n",
            epoch,
            id = self.id,
            owner = self.owner,
            LEASE_SECONDS,
            kin,
            from
        )
    }

    fn patience(&self) -> Sh {
        sh!("WAIT_TIMEOUT={wait}\n", wait = self.wait)
    }
}

/// Puts a script in braces, so that the shell parses all of it before it runs any. A script that is cut in transit does
/// nothing.
fn whole(body: &Sh) -> Sh {
    sh!("{\nset -eu\n{PRELUDE}cd /\n{LIB}\n{body}\n} </dev/null\n", PRELUDE, LIB, body)
}

/// Returns a script as people read it, without the functions that all scripts share.
pub fn shown(script: &Sh) -> String {
    script.replace(&*LIB, "# the functions that all scripts share: templates/lib.sh\n")
}

/// Returns a script that takes the machine for `run`, and changes nothing else.
pub fn take(run: &Run, seen: Option<&Lease>) -> Sh {
    whole(&run.take(seen))
}

/// Returns a script that gives the machine back.
pub fn release(run: &Run) -> Sh {
    whole(&sh!("release_lease {id}", id = run.id))
}

/// Returns a script that gives the machine back after a reset. It leaves no trace if ironstrap keeps nothing there.
pub fn cleanup_run_dir(run: &Run) -> Sh {
    whole(&sh!("cleanup_run_dir {id}", id = run.id))
}

/// Returns a script that follows long work of an earlier run.
pub fn attach(unit: &str, boundary: &str) -> Sh {
    whole(&sh!(
        "echo {boundary} start 0\nr=0; follow_earlier_unit {unit} 2>&1 || r=$?\necho; echo {boundary} done 0 $r",
        unit,
        boundary
    ))
}

/// Returns one script of all changes of a stage, with a mark before and after each. The script stops at the first fix that
/// fails.
pub fn fix(run: &Run, seen: Option<&Lease>, changes: &[&Change], boundary: &str) -> Sh {
    let mut body = run.patience() + run.take(seen);
    let mut done: Vec<&Fix> = Vec::new();
    for (i, change) in changes.iter().enumerate() {
        if matches!(change.fix, Fix::FromPrevious) {
            continue;
        }
        let repeated = matches!(change.fix, Fix::Run(_) | Fix::Unit { .. }) && done.contains(&&change.fix);
        let remedy = if repeated { Sh::EMPTY } else { remedy(run, change) };
        let script = before(change) + remedy;
        // A fix that only writes a file is done before the lease could end.
        if !matches!(change.fix, Fix::Write { .. }) {
            body += "renew_lease\n";
        }
        body += sh!(
            "echo {boundary} start {i}\nset +e; ( set -eu\n{script}\n:\n) 2>&1; r=$?; set -e\n\
             printf '\\n%s done {i} %s\\n' {boundary} $r\n[ $r = 0 ] || end_failed\n",
            boundary,
            i,
            script
        );
        done.push(&change.fix);
    }
    whole(&body)
}

fn before(change: &Change) -> Sh {
    match &change.keeps {
        None => Sh::EMPTY,
        Some((key, Keep::File(path))) => sh!("backup_file {key} {path}\n", key, path),
        Some((key, Keep::Answer(keep))) => {
            let answer = change.answer.to_string();
            let answer = answer.trim_end_matches('\n');
            let keep = if keep.is_empty() {
                Sh::EMPTY
            } else {
                sh!("keep() {\n{keep}\n}\nbackup_extra {key}\n", keep, key)
            };
            keep + here(sh!("backup_answer {key}", key), &format!("{answer}\n"))
        }
    }
}

fn remedy(run: &Run, change: &Change) -> Sh {
    match &change.fix {
        Fix::Run(script) => script.clone(),
        Fix::Unit { name, minutes, script } => {
            let patience = run.patience();
            let script =
                sh!("set -eu\n{PRELUDE}cd /\n{LIB}\n{patience}{script}\n", PRELUDE, LIB, patience, script);
            here(sh!("run_as_unit {name} {minutes}", name, minutes), &script)
        }
        Fix::Write { path, mode, text } => {
            let mode = mode.map_or("kept".to_string(), |mode| format!("{mode:o}"));
            let text = text.as_ref().unwrap_or(&change.want);
            here(sh!("write_file {path} {mode}", path, mode), text)
        }
        Fix::FromPrevious | Fix::ByHand(_) => Sh::EMPTY,
    }
}

/// One line that a script of fixes prints while it runs.
#[derive(Clone, Debug, PartialEq)]
pub enum OutputLine {
    Started(usize),
    Said(String),
    /// The script cannot continue before this: a lock, and the process that holds it.
    Waits(String),
    Done(usize, i32),
}

/// The beginning of a line in which a script says what it waits for.
const WAITS: &str = "waits for: ";

/// How many bytes of one line are kept.
const LONGEST_LINE: usize = 16 << 10;

/// Splits the output stream of a script into lines and marks.
pub struct OutputParser {
    boundary: String,
    /// The part of an unfinished line that is kept.
    line: Vec<u8>,
}

impl OutputParser {
    pub fn new(boundary: &str) -> Self {
        OutputParser { boundary: format!("{boundary} "), line: Vec::new() }
    }

    pub fn feed(&mut self, piece: &[u8]) -> Vec<OutputLine> {
        let mut lines = Vec::new();
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            let room = LONGEST_LINE.saturating_sub(self.line.len());
            self.line.extend_from_slice(&part[..part.len().min(room)]);
            if !part.ends_with(b"\n") {
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end();
            match line.strip_prefix(&self.boundary).and_then(mark) {
                Some(mark) => lines.push(mark),
                None if line.is_empty() => {}
                None => lines.push(match line.strip_prefix(WAITS) {
                    Some(for_what) => OutputLine::Waits(for_what.into()),
                    None => OutputLine::Said(line.to_string()),
                }),
            }
        }
        lines
    }
}

fn mark(text: &str) -> Option<OutputLine> {
    let mut words = text.split(' ');
    match (words.next()?, words.next()?.parse().ok()?, words.next()) {
        ("start", i, _) => Some(OutputLine::Started(i)),
        ("done", i, Some(status)) => Some(OutputLine::Done(i, status.parse().ok()?)),
        _ => None,
    }
}

/// Returns why a script could not take the machine: the run that has it. `None` if that is not how the script ended.
pub fn lease_lost(output: &Output) -> Option<String> {
    let said = String::from_utf8_lossy(&output.stdout);
    let line = said.lines().find(|line| line.starts_with("lease "))?;
    (output.status == LEASE_LOST).then(|| line.to_string())
}

/// Returns the error of a run that may not change a machine. `lost`: what `lease_lost` found.
pub fn taken(lost: String) -> Error {
    let error = Error::new(Kind::Busy, "another run is changing this machine").answered(lost);
    error.hint("this run changes the machine no further; run the command again when the other run has ended")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endless_line_takes_bounded_memory_and_time() {
        let (mut parser, piece) = (OutputParser::new("--b"), [b'x'; 32 << 10]);
        let since = std::time::Instant::now();
        for _ in 0..2048 {
            assert_eq!(parser.feed(&piece), []);
        }
        assert!(parser.line.len() <= LONGEST_LINE);
        assert!(since.elapsed().as_secs() < 10, "64 MiB took {:?}", since.elapsed());
        let lines = parser.feed(b"\n--b done 0 1\n");
        assert_eq!(lines, [OutputLine::Said("x".repeat(LONGEST_LINE)), OutputLine::Done(0, 1)]);
    }

    #[test]
    fn marks_are_recognized_for_any_split_of_the_stream() {
        let text =
            "--b start 0\nReading\nwaits for: a lock\n\n--b done 0 0\n--b start 2\nE: no\n\n--b done 2 100\n";
        for size in 1..text.len() {
            let mut parser = OutputParser::new("--b");
            let lines: Vec<OutputLine> =
                text.as_bytes().chunks(size).flat_map(|piece| parser.feed(piece)).collect();
            let said = |text: &str| OutputLine::Said(text.into());
            assert_eq!(
                lines,
                [
                    OutputLine::Started(0),
                    said("Reading"),
                    OutputLine::Waits("a lock".into()),
                    OutputLine::Done(0, 0),
                    OutputLine::Started(2),
                    said("E: no"),
                    OutputLine::Done(2, 100)
                ]
            );
        }
    }
}
