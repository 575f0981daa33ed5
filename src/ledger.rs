//! What a script of fixes looks like, and what it leaves on the node: the lease, what was there before, and
//! the marks that say how far it got. Pure text; when it runs is up to `reconcile`.

use crate::error::{Error, Kind};
use crate::machine::Lease;
use crate::plan::{Change, Keep};
use crate::shell::{Output, PRELUDE, Sh, here, sh};
use crate::step::Fix;

mod kin;

pub use kin::Kin;

/// Shell that fixes share.
const LIB: Sh = Sh::raw(concat!(
    include_str!("../templates/lib.sh"),
    "\n",
    include_str!("../templates/credentials.sh"),
    "\n",
    include_str!("../templates/undo.sh")
));

/// How long a lease holds without a sign of life; no single fix may take longer, unless it waits `patiently` or is
/// a unit, which keeps the machine for itself. The epoch makes a takeover safe, so this only says how long
/// others wait for a client that died.
const LEASE_SECONDS: u32 = 120;

/// The exit status of a script that may not change this machine.
pub const LEASE_LOST: i32 = 75;

/// One run of ironstrap, as the nodes know it.
#[derive(Clone, Debug)]
pub struct Run {
    /// Random.
    pub id: String,
    /// `user@host`, without spaces.
    pub owner: String,
    /// How long its fixes wait for what others have to bring about, in seconds.
    pub wait: u32,
    /// By what it recognizes earlier runs of its own PKI directory.
    pub kin: Kin,
    /// The user wants machines that another run holds.
    pub take_over: bool,
}

impl Run {
    /// As long as fixes wait where nobody says otherwise, in seconds: a busy machine takes its time.
    pub const WAIT: u32 = 300;

    pub fn new(id: impl Into<String>, owner: impl Into<String>) -> Run {
        Run { id: id.into(), owner: owner.into(), wait: Run::WAIT, kin: Kin::default(), take_over: false }
    }

    /// Whether it may replace the run that has this lease before the lease has ended: that run is dead, or the user says
    /// so.
    fn may_replace(&self, lease: &Lease) -> bool {
        self.take_over || self.kin.knows(lease)
    }

    fn take(&self, seen: Option<&Lease>) -> Sh {
        let epoch = seen.map_or(0, |lease| lease.epoch);
        let from = seen.filter(|lease| self.may_replace(lease)).map_or("-", |lease| lease.run.as_str());
        let kin = self.kin.proof(&self.id).unwrap_or("-".into());
        sh!(
            "lease {epoch} {id} {owner} {LEASE_SECONDS} {kin} {from}\n",
            epoch,
            id = self.id,
            owner = self.owner,
            LEASE_SECONDS,
            kin,
            from
        )
    }

    fn patience(&self) -> Sh {
        sh!("PATIENCE={wait}\n", wait = self.wait)
    }
}

/// In braces it is parsed whole before any of it runs: a script cut in transit does nothing.
fn whole(body: &Sh) -> Sh {
    sh!("{\nset -eu\n{PRELUDE}cd /\n{LIB}\n{body}\n} </dev/null\n", PRELUDE, LIB, body)
}

/// A script as it is worth reading: without what all scripts share.
pub fn shown(script: &Sh) -> String {
    script.replace(&*LIB, "# the functions that all scripts share: templates/lib.sh\n")
}

/// Takes the machine for `run` and changes nothing else.
pub fn take(run: &Run, seen: Option<&Lease>) -> Sh {
    whole(&run.take(seen))
}

/// Gives the machine back.
pub fn release(run: &Run) -> Sh {
    whole(&sh!("unlease {id}", id = run.id))
}

/// Gives the machine back after a reset, without a trace where nothing of us is kept there.
pub fn vanish(run: &Run) -> Sh {
    whole(&sh!("vanish {id}", id = run.id))
}

/// Follows long work that an earlier run began.
pub fn attach(unit: &str, boundary: &str) -> Sh {
    whole(&sh!(
        "echo {boundary} start 0\nr=0; attach {unit} 2>&1 || r=$?\necho; echo {boundary} done 0 $r",
        unit,
        boundary
    ))
}

/// All changes of a stage in one script, with a mark before and after each. Stops at the first that fails.
pub fn fix(run: &Run, seen: Option<&Lease>, changes: &[&Change], boundary: &str) -> Sh {
    let mut body = run.patience() + run.take(seen);
    let mut done: Vec<&Fix> = Vec::new();
    for (i, change) in changes.iter().enumerate() {
        if matches!(change.fix, Fix::Above) {
            continue;
        }
        let repeated = matches!(change.fix, Fix::Run(_) | Fix::Unit { .. }) && done.contains(&&change.fix);
        let remedy = if repeated { Sh::EMPTY } else { remedy(run, change) };
        let script = before(change) + remedy;
        // What only writes a file is done before the lease could end.
        if !matches!(change.fix, Fix::Write { .. }) {
            body += "renew\n";
        }
        body += sh!(
            "echo {boundary} start {i}\nset +e; ( set -eu\n{script}\n:\n) 2>&1; r=$?; set -e\n\
             printf '\\n%s done {i} %s\\n' {boundary} $r\n[ $r = 0 ] || failed\n",
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
        Some((key, Keep::File(path))) => sh!("before_file {key} {path}\n", key, path),
        Some((key, Keep::Answer(keep))) => {
            let answer = change.answer.trim_end_matches('\n');
            let keep = if keep.is_empty() {
                Sh::EMPTY
            } else {
                sh!("keep() {\n{keep}\n}\nbefore_kept {key}\n", keep, key)
            };
            keep + here(sh!("before_answer {key}", key), &format!("{answer}\n"))
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
            here(sh!("long {name} {minutes}", name, minutes), &script)
        }
        Fix::Write { path, mode, text } => {
            let mode = mode.map_or("kept".to_string(), |mode| format!("{mode:o}"));
            let text = text.as_ref().unwrap_or(&change.want);
            here(sh!("put {path} {mode}", path, mode), text)
        }
        Fix::Above | Fix::ByHand(_) => Sh::EMPTY,
    }
}

/// What a script of fixes says while it runs.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    Started(usize),
    Said(String),
    /// It cannot go on before this: a lock, and who holds it.
    Waits(String),
    Done(usize, i32),
}

/// Begins a line of a script that says what it waits for.
const WAITS: &str = "waits for: ";

/// What is kept of one line, in bytes.
const LONGEST_LINE: usize = 16 << 10;

/// Takes the stream of a script's output apart into lines and marks.
pub struct Ear {
    boundary: String,
    /// The line that has not ended yet, as far as it is kept.
    line: Vec<u8>,
}

impl Ear {
    pub fn new(boundary: &str) -> Self {
        Ear { boundary: format!("{boundary} "), line: Vec::new() }
    }

    pub fn hear(&mut self, piece: &[u8]) -> Vec<Heard> {
        let mut heard = Vec::new();
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
                Some(mark) => heard.push(mark),
                None if line.is_empty() => {}
                None => heard.push(match line.strip_prefix(WAITS) {
                    Some(for_what) => Heard::Waits(for_what.into()),
                    None => Heard::Said(line.to_string()),
                }),
            }
        }
        heard
    }
}

fn mark(text: &str) -> Option<Heard> {
    let mut words = text.split(' ');
    match (words.next()?, words.next()?.parse().ok()?, words.next()) {
        ("start", i, _) => Some(Heard::Started(i)),
        ("done", i, Some(status)) => Some(Heard::Done(i, status.parse().ok()?)),
        _ => None,
    }
}

/// Why a script was not let in, if it was not: who has the machine.
pub fn lease_lost(output: &Output) -> Option<String> {
    let said = String::from_utf8_lossy(&output.stdout);
    let line = said.lines().find(|line| line.starts_with("lease "))?;
    (output.status == LEASE_LOST).then(|| line.to_string())
}

/// What a run says that may not change a machine, with what `lease_lost` found.
pub fn taken(lost: String) -> Error {
    let error = Error::new(Kind::Busy, "another run is changing this machine").answered(lost);
    error.hint("run the command again when that run is done")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_does_not_end_costs_neither_memory_nor_time() {
        let (mut ear, piece) = (Ear::new("--b"), [b'x'; 32 << 10]);
        let since = std::time::Instant::now();
        for _ in 0..2048 {
            assert_eq!(ear.hear(&piece), []);
        }
        assert!(ear.line.len() <= LONGEST_LINE);
        assert!(since.elapsed().as_secs() < 10, "64 MiB took {:?}", since.elapsed());
        let heard = ear.hear(b"\n--b done 0 1\n");
        assert_eq!(heard, [Heard::Said("x".repeat(LONGEST_LINE)), Heard::Done(0, 1)]);
    }

    #[test]
    fn marks_are_told_from_output_however_the_stream_is_cut() {
        let text =
            "--b start 0\nReading\nwaits for: a lock\n\n--b done 0 0\n--b start 2\nE: no\n\n--b done 2 100\n";
        for size in 1..text.len() {
            let mut ear = Ear::new("--b");
            let heard: Vec<Heard> = text.as_bytes().chunks(size).flat_map(|piece| ear.hear(piece)).collect();
            let said = |text: &str| Heard::Said(text.into());
            assert_eq!(
                heard,
                [
                    Heard::Started(0),
                    said("Reading"),
                    Heard::Waits("a lock".into()),
                    Heard::Done(0, 0),
                    Heard::Started(2),
                    said("E: no"),
                    Heard::Done(2, 100)
                ]
            );
        }
    }
}
