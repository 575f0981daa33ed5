//! One piece of work on one machine: asking it, running a script of fixes, or waiting for work of an earlier run.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::limits::{self, Limits};
use super::remedies::{failure, tail, telling};
use super::trace::TracedShell;
use crate::error::{Error, Kind, Result};
use crate::fleet::{Blocked, Fleet};
use crate::ledger::{self, OutputLine, OutputParser, Run};
use crate::machine::{Lease, Machine};
use crate::plan::Change;
use crate::probe::{self, Late};
use crate::report::{Event, Events};
use crate::secret;
use crate::shell::Shell;
use crate::step::{Answer, Ask, Blame, Fix, Id, rollout};
use crate::steps::packets;

/// The progress of a node in an apply.
#[derive(Default)]
pub(super) struct HostProgress {
    /// ironstrap asks or changes it now.
    pub busy: bool,
    /// Its last answers are out of date.
    pub stale: bool,
    /// Its answers went out of date while it was being asked.
    pub disturbed: bool,
    /// The stage of the fixes that run.
    pub stage: Option<usize>,
    /// The changes that interrupt this member: those that run, and those whose effect is not known yet.
    pub disrupts: BTreeSet<Id>,
    /// The interrupting changes after which it was quarantined.
    pub broke: BTreeSet<Id>,
    /// The interrupting changes that ended, and whose effect ironstrap saw.
    pub well: BTreeSet<Id>,
    /// The members that a change broke, if this one does not get the change for that reason.
    pub held_back_by: Vec<String>,
    /// Nodes whose machines the running fixes change, too.
    pub invalidates: Vec<String>,
    /// The script that runs changes nothing. It is a network probe of nodes without a pod.
    pub proves: bool,
    /// When ironstrap sent the last script of fixes.
    pub began: Option<Instant>,
    /// Since when fixes run, or ironstrap follows work of an earlier run. `spent`: how long all of these took that have
    /// ended.
    pub at_it: Option<Instant>,
    pub spent: Duration,
    /// The subject of its failure, if machines may know more of it.
    pub failure_scope: Option<FailureScope>,
    /// It has begun to join, and ironstrap has not asked it since.
    pub entering: bool,
    /// Wants whose fix ran to its end. A want that still does not hold at the next ask is stuck.
    pub tried: BTreeSet<Id>,
    /// Since when an answer is unknown that should soon be known.
    pub unsure: Option<Instant>,
    /// Since when ironstrap waits for a want that came to hold, and no longer does.
    pub unsettled: Option<Instant>,
    /// How many times ironstrap waited for work of an earlier run. `pause`: how long it then waits before it asks the
    /// machine again.
    pub attaches: u32,
    pub pause: Duration,
    /// How many scripts of fixes it got in this run.
    pub rounds: usize,
    /// This run has taken the lease of the machine.
    pub holds: bool,
    /// How often in a row the connection was lost.
    pub lost: u32,
    /// How often in a row a script of fixes was cut before any of it was done.
    pub cut: u32,
    /// The fleet, as far as this node may know it, when the node last needed no change. `None` once ironstrap has asked it
    /// again.
    pub clean_for: Option<Fleet>,
    /// The thing that it waits for. ironstrap keeps it, to report it only once.
    pub waits: Option<Blocked>,
    /// How many wants did not hold when last judged, without those that wait for others or for a confirmation. Wants that
    /// ironstrap asks when everything else is done do not count.
    pub pending: usize,
    /// How many scripts of fixes had ended in this run when ironstrap last asked the node.
    pub asked_after: usize,
    /// A failure that may be the fault of workers, until ironstrap has asked this machine again.
    pub suspected: Option<Failure>,
}

/// The subject of a failure.
pub(super) struct FailureScope {
    /// The nodes that the want is about, if they are not the node that was asked.
    pub about: Vec<String>,
    pub since: Option<Instant>,
}

/// The answers of a machine to all questions.
pub(super) struct Said {
    pub machine: Machine,
    pub answers: Vec<Answer>,
    /// How far the clock is ahead of the operator's, in seconds.
    pub clock: f64,
    /// How many times ironstrap asked it.
    pub execs: u32,
}

/// The result of a piece of work.
pub(super) enum Done {
    Asked(Box<Result<Said>>),
    /// Wants whose fix ran to its end, or that a fix found to hold. The second part is what went wrong, if anything did.
    Fixed(Vec<Id>, Option<Failure>),
    /// Why ironstrap cannot wait for the work of an earlier run. Otherwise `None`.
    Attached(Option<Failure>),
}

/// A failure. `about`: the nodes that it is about, if they are not the node of the error.
pub(super) struct Failure {
    pub error: Error,
    pub about: Vec<String>,
    /// Other machines where the fault is, each with what is wrong there.
    pub faults: Vec<(String, String)>,
    /// The want that failed, if it is known.
    pub want: Option<Id>,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure { error, about: vec![], faults: vec![], want: None }
    }
}

/// How many times in all ironstrap asks a machine on which something changed meanwhile, or to which the connection was
/// lost.
const LOOKS: u32 = 3;

/// Asks a machine everything, once. It asks again only if something changed before the machine had said all, or if the
/// connection was lost. It may do so because a question changes nothing.
pub(super) async fn ask<S: Shell>(shell: Arc<TracedShell<S>>, asks: Vec<Ask>) -> Result<Said> {
    let limits = shell.limits().clone();
    ask_within(shell, asks, limits).await
}

/// As `ask`, with other limits.
pub(super) async fn ask_within<S: Shell>(
    shell: Arc<TracedShell<S>>,
    asks: Vec<Ask>,
    limits: Limits,
) -> Result<Said> {
    let mut execs = 0;
    loop {
        execs += 1;
        match ask_once(shell.clone(), &asks, &limits).await {
            Ok(said) if said.answers.contains(&Answer::Changing) && execs < LOOKS => {}
            Err(error) if error.kind == Kind::Lost && execs < LOOKS => {}
            said => return said.map(|said| Said { execs, ..said }),
        }
    }
}

async fn ask_once<S: Shell>(shell: Arc<TracedShell<S>>, asks: &[Ask], limits: &Limits) -> Result<Said> {
    let boundary = boundary()?;
    let asks: Vec<&Ask> = asks.iter().collect();
    let before = now();
    let script = probe::script_within(&asks, &boundary, &shell.etcd_dir, &limits.questions);
    let output = shell.run_untraced(&script, &limits.questions(&asks), &mut |_| {}).await?;
    let late = probe::late(&output.stdout, &asks, &boundary, &limits.questions);
    if !late.is_empty() {
        return Err(hangs(&late));
    }
    let halfway = (before + now()) / 2.0;
    let (machine, answers) = probe::answers(&output.stdout, &asks, &boundary).map_err(|why| {
        let cut = why.starts_with(probe::BREAKS_OFF);
        Error::new(Kind::Unknown, "cannot read the answer of the machine")
            .quoting(why)
            .quoting(String::from_utf8_lossy(&output.stderr))
            .hint(match cut {
                true => "check whether a disk or the memory is full there, and what ends a long-running shell (`ssh` to it, then sh -s); its shell ended too early, and nothing was changed",
                false => "find out which program or file of the machine prints these words, and who changed it; they answer no question, and nothing was changed",
            })
    })?;
    let clock = machine.clock - halfway;
    Ok(Said { machine, answers, clock, execs: 1 })
}

/// The error for a machine on which a question had no answer in time. Nothing is known of such a machine.
fn hangs(late: &[Late]) -> Error {
    let error = Error::new(Kind::Unknown, late[0].what.clone()).answered(&late[0].process);
    let more = late[1..].iter().fold(error, |error, late| error.answered(&late.what).answered(&late.process));
    more.because("this machine was not changed").hint(
        "find out on the machine what that command waits for: a disk, a network file system, a program that hangs",
    )
}

/// Asks a machine everything after a pause.
pub(super) async fn ask_later<S: Shell>(shell: Arc<TracedShell<S>>, asks: Vec<Ask>, after: Duration) -> Done {
    tokio::time::sleep(after).await;
    Done::Asked(Box::new(ask(shell, asks).await))
}

/// Runs the fixes of one stage as one script, and reports how they go. `run`: the run, and how long the fixes may take.
pub(super) async fn fix<S: Shell>(
    shell: Arc<TracedShell<S>>,
    node: String,
    run: (Run, Duration),
    lease: Option<Lease>,
    changes: Vec<Change>,
    events: Events,
) -> Done {
    match try_fix(&*shell, &node, &run, lease.as_ref(), &changes, &events).await {
        Ok((done, None)) => Done::Fixed(done, None),
        Ok((done, Some(failure))) | Err((done, failure)) => {
            Done::Fixed(done, Some(Failure { error: failure.error.on(&node), ..failure }))
        }
    }
}

/// How many lines of a fix its error shows.
const LAST_LINES: usize = 12;
/// How much output of a script of fixes is shown while it runs, in bytes.
const MOST_TOLD: usize = 8 << 20;

/// How many wants a script of fixes may find to hold. That is more than there are nodes.
const MOST_DONE: usize = 20_000;

type Outcome = std::result::Result<(Vec<Id>, Option<Failure>), (Vec<Id>, Failure)>;

/// The nodes on which this change finds a fault, each with what is wrong there. Any fix may print such lines. So they count
/// only if the change names nodes in this way. A network probe may only name nodes that it asked.
fn faults(change: &Change, said: &VecDeque<String>) -> Vec<(String, String)> {
    let lines = said.iter().map(String::as_str);
    match change.blame {
        Blame::Nobody => vec![],
        Blame::Rollout => rollout::faults(lines),
        Blame::Packets => {
            packets::made::faults(lines).into_iter().filter(|(node, _)| change.about.contains(node)).collect()
        }
    }
}

async fn try_fix<S: Shell>(
    shell: &TracedShell<S>,
    node: &str,
    (run, left): &(Run, Duration),
    lease: Option<&Lease>,
    changes: &[Change],
    events: &Events,
) -> Outcome {
    let boundary = boundary().map_err(|error| (vec![], error.into()))?;
    let refs: Vec<&Change> = changes.iter().collect();
    let script = ledger::fix(run, lease, &refs, &boundary);
    learn(changes);
    let (mut parser, mut at, mut done, mut failed) = (OutputParser::new(&boundary), None, Vec::new(), None);
    let (mut said, mut told, mut marked) = (VecDeque::new(), 0, BTreeSet::new());
    let bounds = shell.limits().fixes(run, changes, *left);
    let output = shell
        .run_within(&script, &bounds, &mut |piece| {
            for line in parser.feed(piece) {
                match line {
                    OutputLine::Started(i) => {
                        at = changes.get(i);
                        said.clear();
                        if let Some(c) = at {
                            events.tell(Event::Fixing { node: node.into(), of: c.name() });
                        }
                    }
                    OutputLine::Said(line) => {
                        let reached = packets::made::reached(&line).filter(|_| done.len() < MOST_DONE);
                        done.extend(reached.map(packets::answer_of));
                        tell(node, &line, &mut told, events);
                        said.extend(telling(&line));
                        if said.len() > LAST_LINES {
                            said.pop_front();
                        }
                    }
                    OutputLine::Waits(for_what) => tell_wait(node, for_what, &mut told, events),
                    OutputLine::Done(i, 0) => {
                        marked.insert(i);
                        done.extend(changes.get(i).map(|c| c.id.clone()));
                    }
                    OutputLine::Done(i, status) => failed = changes.get(i).map(|c| (c, status)),
                }
            }
        })
        .await;
    let output = output.map_err(|error| (done.clone(), limits::cut_short(error, at).into()))?;
    if let Some(lost) = ledger::lease_lost(&output) {
        return Err((done, ledger::taken(lost).into()));
    }
    let failure = failed.map(|(change, status)| Failure {
        error: failure(change, status, &said),
        about: change.about.clone(),
        faults: faults(change, &said),
        want: Some(change.id.clone()),
    });
    let failure = failure.or_else(|| {
        let broke = output.status != 0;
        broke.then(|| {
            Error::new(Kind::Failed, format!("the script of fixes failed with exit code {}", output.status))
                .quoting(tail(&said))
                .quoting(String::from_utf8_lossy(&output.stderr))
                .into()
        })
    });
    Ok((done, failure.or_else(|| unmarked(changes, &marked))))
}

/// The failure of a machine that reports success without a mark for each change. A script that ends well prints a mark for
/// each change, so such a machine did not run that script.
fn unmarked(changes: &[Change], marked: &BTreeSet<usize>) -> Option<Failure> {
    let mut all = changes.iter().enumerate().filter(|(_, change)| change.fix != Fix::FromPrevious);
    let (_, change) = all.find(|(i, _)| !marked.contains(i))?;
    let what = format!("{}: the fix did not run, but the machine reports success", change.step);
    let error = Error::new(Kind::Failed, what).because(format!("no result for this fix: {}", change.that));
    Some(error.hint("find out what runs commands on the machine instead of its shell").into())
}

/// Reports a line that a fix printed. A machine can print lines faster than ironstrap shows them, so after some megabytes
/// it shows no more.
fn tell(node: &str, line: &str, told: &mut usize, events: &Events) {
    let more = *told < MOST_TOLD;
    *told += line.len();
    let line = if *told < MOST_TOLD { line } else { "(too much output; the rest is not shown)" };
    if more {
        events.tell(Event::Said { node: node.into(), line: line.into() });
    }
}

/// Reports what a script waits for. It counts as any other line.
fn tell_wait(node: &str, for_what: String, told: &mut usize, events: &Events) {
    *told += for_what.len();
    if *told < MOST_TOLD {
        events.tell(Event::Waiting { node: node.into(), for_what });
    }
}

/// Registers the secrets in these changes, so that output hides them. Scripts contain secrets, and scripts may be shown.
fn learn(changes: &[Change]) {
    for change in changes.iter().filter(|change| change.secret) {
        if let Fix::Write { text: Some(text), .. } = &change.fix {
            secret::learn(text);
        }
    }
}

/// Waits for work that an earlier run began.
pub(super) async fn attach<S: Shell>(
    shell: Arc<TracedShell<S>>,
    node: String,
    unit: String,
    (left, drains): (Duration, Duration),
    events: Events,
) -> Done {
    let boundary = match boundary() {
        Ok(boundary) => boundary,
        Err(_) => return Done::Attached(None),
    };
    events.tell(Event::Attached { node: node.clone(), unit: unit.clone() });
    let (mut parser, mut told) = (OutputParser::new(&boundary), 0);
    let mut heard = |piece: &[u8]| {
        for line in parser.feed(piece) {
            match line {
                OutputLine::Said(line) => tell(&node, &line, &mut told, &events),
                OutputLine::Waits(for_what) => tell_wait(&node, for_what, &mut told, &events),
                OutputLine::Started(_) | OutputLine::Done(..) => {}
            }
        }
    };
    let bounds = shell.limits().attached(left, drains);
    let ended = shell.run_within(&ledger::attach(&unit, &boundary), &bounds, &mut heard).await;
    // ironstrap asks for the effect of the work, however it ended, and does not conclude it from the end.
    let silent = ended.err().filter(|error| error.kind == Kind::Silent);
    Done::Attached(silent.map(|error| limits::left_behind(error, &unit).on(&node).into()))
}

/// Seconds since 1970 by the operator's clock.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// A word that no output contains.
fn boundary() -> Result<String> {
    probe::boundary().map_err(|e| Error::new(Kind::Local, "cannot read random bytes").because(e))
}
