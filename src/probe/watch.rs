//! Questions that never end: the watchdog that ends them on the machine, and its messages. A whole script has one watchdog,
//! and a question costs it no process.

use std::iter;
use std::time::Duration;

use super::{Reply, shells, tables};
use crate::machine;
use crate::secret;
use crate::shell::{Sh, sh};
use crate::step::Ask;

/// The shell functions of the watchdog.
pub(super) const WATCH: Sh = Sh::raw(include_str!("../../templates/watch.sh"));

/// Prints the process number of the script for the watchdog. The script of questions runs on the left side of a pipe, and
/// the watchdog on the right side.
pub(super) const BEGIN: Sh = Sh::raw(
    "read -r watch_pid watch_rest </proc/self/stat\necho $watch_pid >&7\nunset watch_pid watch_rest\n",
);

/// The exit status of a question that the watchdog ended. No process ends with it.
pub(super) const LATE: i32 = -1;

/// Time limits for questions. The watchdog checks once per tick.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    pub tick: Duration,
    /// Number of ticks for one question.
    pub each: u32,
    /// Number of ticks for all questions of a script together.
    pub all: u32,
}

/// The default limits. An answered question takes some milliseconds, or a second on a very busy machine. All questions of a
/// script take a few seconds.
const LIMITS: Limits = Limits { tick: Duration::from_secs(5), each: 4, all: 24 };

impl Default for Limits {
    fn default() -> Self {
        LIMITS
    }
}

impl Limits {
    /// Returns the longest time of a whole script on a machine whose shell still runs. The last question may have begun
    /// just before the end, and processes get some seconds to end.
    pub fn longest(&self) -> Duration {
        self.tick * (self.all + 2) + Duration::from_secs(10)
    }
}

/// Tells the watchdog which question begins.
pub(super) fn begins(number: usize) -> Sh {
    sh!("echo {number} >&7\n", number)
}

/// Ends the part of the script that `BEGIN` begins, and starts the watchdog.
pub(super) fn end(boundary: &str, limits: &Limits) -> Sh {
    let Limits { tick, each, all } = limits;
    let tick = tick.as_secs_f64().to_string();
    sh!("} 7>&1 >&3 | watch {boundary} {tick} {each} {all}\n", boundary, tick, each, all)
}

/// The watchdog's message about a question.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Mark {
    why: Why,
    number: usize,
    pid: u32,
    process: String,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Why {
    /// The watchdog ended the question.
    Late,
    /// All questions together took too long. This was the last one.
    Overdue,
    /// The process that the question waits for does not end, even when killed.
    Stuck,
}

/// A question without an answer in time. The state of the machine is then unknown.
#[derive(Clone, Debug, PartialEq)]
pub struct Late {
    /// `no answer within 20 s: containerd config dump`
    pub what: String,
    /// The fate of the process that the question waited for.
    pub process: String,
}

/// Returns the questions without an answer in time. Late questions to the API server do not count. kubectl waits while
/// the API server does not answer, and that is no fault of the machine.
pub fn late(reply: &[u8], asks: &[&Ask], boundary: &str, limits: &Limits) -> Vec<Late> {
    let (names, of_api) = (names(asks), about_api(asks));
    let (_, marks) = marks(reply, boundary);
    let counts = |mark: &&Mark| mark.why != Why::Late || !of_api.get(mark.number).is_some_and(|is| *is);
    marks.iter().filter(counts).map(|mark| mark.told(&names, limits)).collect()
}

/// Limit for the watchdog's messages in one reply. The watchdog prints fewer. Others on the machine print the rest.
const MOST_MARKS: usize = 64;

/// Separates the lines of the watchdog from a reply.
pub(super) fn marks(reply: &[u8], boundary: &str) -> (Vec<u8>, Vec<Mark>) {
    let open = format!("\n{boundary} ").into_bytes();
    let (mut rest, mut kept, mut marks) = (reply, Vec::new(), Vec::new());
    while let Some(at) = super::find(rest, &open).filter(|_| marks.len() < MOST_MARKS) {
        let tail = &rest[at + open.len()..];
        let end = tail.iter().position(|byte| *byte == b'\n');
        match end.and_then(|end| Some((end, mark(&tail[..end])?))) {
            Some((end, mark)) => {
                kept.extend_from_slice(&rest[..at]);
                marks.push(mark);
                rest = &tail[end + 1..];
            }
            None => {
                kept.extend_from_slice(&rest[..at + open.len()]);
                rest = tail;
            }
        }
    }
    kept.extend_from_slice(rest);
    (kept, marks)
}

/// Reads a line `WHY NUMBER PID NAME`.
fn mark(line: &[u8]) -> Option<Mark> {
    let line = String::from_utf8_lossy(line);
    let mut words = line.splitn(4, ' ');
    let why = match words.next()? {
        "late" => Why::Late,
        "overdue" => Why::Overdue,
        "stuck" => Why::Stuck,
        _ => return None,
    };
    let (number, pid) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    // The kernel keeps 15 bytes of a process's name.
    let process = words.next()?.chars().take(15).collect();
    Some(Mark { why, number, pid, process })
}

impl Mark {
    fn told(&self, names: &[String], limits: &Limits) -> Late {
        let Mark { pid, process, .. } = self;
        let within = |ticks: u32| (limits.tick * ticks).as_secs();
        let question = named(names.get(self.number).map_or("?", String::as_str), process);
        let what = match self.why {
            Why::Overdue => {
                format!("the questions did not end within {} s; the last one: {question}", within(limits.all))
            }
            _ => format!("no answer within {} s: {question}", within(limits.each)),
        };
        let process = match self.why {
            Why::Stuck => format!("the process that it waits for cannot be ended: {pid} ({process})"),
            _ => format!("the process that it waited for was ended: {pid} ({process})"),
        };
        Late { what, process }
    }
}

/// Replaces the answers that the watchdog cut short by its messages.
pub(super) fn unanswered(replies: &mut [Reply], marks: &[Mark], asks: &[&Ask]) {
    if marks.is_empty() {
        return;
    }
    let names = names(asks);
    for mark in marks {
        if let Some(reply) = replies.get_mut(mark.number) {
            *reply = Reply { status: LATE, stdout: vec![], stderr: mark.told(&names, &LIMITS).what };
        }
    }
}

/// Returns a name for each question of the script, in their order.
pub(super) fn names(asks: &[&Ask]) -> Vec<String> {
    let heads = machine::HEAD.iter().map(|name| format!("its {name}"));
    let shells = shells(asks).into_iter().filter_map(Ask::shell).map(ToString::to_string);
    let tables = tables::NAMES.map(String::from).into_iter();
    heads.chain(tables).chain(["kubectl get".into()]).chain(shells).chain(["date".into()]).collect()
}

/// Returns for each question of the script, in their order, whether the API server answers it.
fn about_api(asks: &[&Ask]) -> Vec<bool> {
    let own = machine::HEAD.len() + tables::NAMES.len();
    let shells = shells(asks).into_iter().map(Ask::is_about_api);
    iter::repeat_n(false, own).chain([true]).chain(shells).chain([false]).collect()
}

/// Returns the line of a question that names the process, or else its first line.
fn named(body: &str, process: &str) -> String {
    let lines = || body.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let word =
        |line: &&str| line.split(|c: char| !c.is_alphanumeric() && !"-_.".contains(c)).any(|w| w == process);
    let line = lines().find(word).or_else(|| lines().next()).unwrap_or(body);
    secret::beginning(line, 100)
}
