//! What is done to one machine at a time: a question, a script of fixes, waiting for work of an earlier run.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::limits::{self, Limits};
use super::remedies::{failure, tail, telling};
use super::told::Told;
use crate::error::{Error, Kind, Result};
use crate::fleet::{Blocked, Fleet};
use crate::ledger::{self, Ear, Heard, Run};
use crate::machine::{Lease, Machine};
use crate::plan::Change;
use crate::probe::{self, Answer, Late};
use crate::report::{Event, Events};
use crate::secret;
use crate::shell::Shell;
use crate::step::{Ask, Fix, Id, rollout};
use crate::steps::{self, packets};

/// Where a node stands in an apply.
#[derive(Default)]
pub(super) struct State {
    /// Something is being done to it.
    pub busy: bool,
    /// What is known of it is out of date.
    pub stale: bool,
    /// It became so while it was being asked.
    pub disturbed: bool,
    /// The stage of the fixes that run.
    pub stage: Option<usize>,
    /// The changes that interrupt a member: those that run, and those whose effect is not known yet.
    pub disrupts: BTreeSet<Id>,
    /// The changes of that kind after which it was left.
    pub broke: BTreeSet<Id>,
    /// The changes of that kind that ended, and whose effect was seen.
    pub well: BTreeSet<Id>,
    /// The members that a change broke which this one does not get for that reason.
    pub held_back_by: Vec<String>,
    /// Nodes whose machines they change, too.
    pub reaches: Vec<String>,
    /// The script that runs changes nothing: it asks nodes without a pod.
    pub proves: bool,
    /// When the last script of fixes was sent.
    pub began: Option<Instant>,
    /// Since when fixes run or work of an earlier run is followed; and how long all of these took that have ended.
    pub at_it: Option<Instant>,
    pub spent: Duration,
    /// What it was left for, where machines may know more.
    pub trouble: Option<Trouble>,
    /// It has begun to join, and has not been asked since.
    pub entering: bool,
    /// Wants whose fix ran to its end; one that does not hold at the next look is stuck.
    pub tried: BTreeSet<Id>,
    /// Since when something cannot be told that should soon be known.
    pub unsure: Option<Instant>,
    /// Since when something is waited for that came, and went again.
    pub unsettled: Option<Instant>,
    /// How often it was waited for work of an earlier run, and how long it rests before it is asked again.
    pub attaches: u32,
    pub pause: Duration,
    /// How many scripts of fixes it got.
    pub rounds: usize,
    /// This run has taken the machine.
    pub holds: bool,
    /// How often in a row the connection was lost.
    pub lost: u32,
    /// How often in a row a script of fixes was cut before any of it was done.
    pub cut: u32,
    /// Nothing was to be done when what it may know of the fleet was this, and it has not been asked since.
    pub calm: Option<Fleet>,
    /// What it waits for. It is kept so that ironstrap reports it only once.
    pub waits: Option<Blocked>,
    /// How many wants did not hold when last judged, but for those that are asked when everything else is done.
    pub unmended: usize,
    /// How many scripts of fixes the run had ended when it was last asked.
    pub asked_after: usize,
    /// What went wrong and is about workers, until the machine has been asked again.
    pub suspected: Option<Wrong>,
}

/// What a failure was about.
pub(super) struct Trouble {
    /// The nodes of the want, where those are not the one that was asked.
    pub about: Vec<String>,
    pub since: Option<Instant>,
}

/// What a machine said to all questions.
pub(super) struct Said {
    pub machine: Machine,
    pub answers: Vec<Answer>,
    /// How far its clock is ahead of ours, in seconds.
    pub clock: f64,
    /// How often it was asked.
    pub execs: u32,
}

/// What is left of a piece of work.
pub(super) enum Done {
    Asked(Box<Result<Said>>),
    /// Wants whose fix ran to its end, or that a fix found to hold; and what went wrong, if anything did.
    Fixed(Vec<Id>, Option<Wrong>),
    /// Why it cannot be waited for, if so.
    Attached(Option<Wrong>),
}

/// What went wrong, and the nodes that it is about where those are others.
pub(super) struct Wrong {
    pub error: Error,
    pub about: Vec<String>,
    /// Other machines where the fault is, each with what is wrong there.
    pub faults: Vec<(String, String)>,
    /// The want of which it is known.
    pub want: Option<Id>,
}

impl From<Error> for Wrong {
    fn from(error: Error) -> Self {
        Wrong { error, about: vec![], faults: vec![], want: None }
    }
}

/// How often a machine is asked in all on which something changed meanwhile, or to which the connection was lost.
const LOOKS: u32 = 3;

/// Asks a machine everything, once: again only where what it said was out of date before it had said all, or where the
/// connection was lost before, for a question changes nothing.
pub(super) async fn ask<S: Shell>(shell: Arc<Told<S>>, asks: Vec<Ask>) -> Result<Said> {
    let limits = shell.limits().clone();
    ask_within(shell, asks, limits).await
}

/// The same, with other limits.
pub(super) async fn ask_within<S: Shell>(
    shell: Arc<Told<S>>,
    asks: Vec<Ask>,
    limits: Limits,
) -> Result<Said> {
    let mut execs = 0;
    loop {
        execs += 1;
        match ask_once(shell.clone(), &asks, &limits).await {
            Ok(said) if said.answers.iter().any(Answer::moved) && execs < LOOKS => {}
            Err(error) if error.kind == Kind::Lost && execs < LOOKS => {}
            said => return said.map(|said| Said { execs, ..said }),
        }
    }
}

async fn ask_once<S: Shell>(shell: Arc<Told<S>>, asks: &[Ask], limits: &Limits) -> Result<Said> {
    let boundary = boundary()?;
    let asks: Vec<&Ask> = asks.iter().collect();
    let before = now();
    let script = probe::script_within(&asks, &boundary, &shell.etcd_dir, &limits.questions);
    let output = shell.run_untold(&script, &limits.questions(&asks), &mut |_| {}).await?;
    let late = probe::late(&output.stdout, &asks, &boundary, &limits.questions);
    if !late.is_empty() {
        return Err(hangs(&late));
    }
    let halfway = (before + now()) / 2.0;
    let (machine, answers) = probe::answers(&output.stdout, &asks, &boundary).map_err(|why| {
        let cut = why.starts_with(probe::BREAKS_OFF);
        Error::new(Kind::Unknown, "cannot make out what the machine answered")
            .heard(why)
            .heard(String::from_utf8_lossy(&output.stderr))
            .hint(match cut {
                true => "nothing was changed there; its shell ended before the questions did: see whether a disk or the memory is full there, and what ends a shell that runs long (`ssh` to it, then sh -s)",
                false => "nothing was changed there; these words are no answer to what was asked: find out which program or file of the machine they come from, and who changed it",
            })
    })?;
    let clock = machine.clock - halfway;
    Ok(Said { machine, answers, clock, execs: 1 })
}

/// Of a machine on which a question has no answer nothing is known.
fn hangs(late: &[Late]) -> Error {
    let error = Error::new(Kind::Unknown, late[0].what.clone()).answered(&late[0].process);
    let more = late[1..].iter().fold(error, |error, late| error.answered(&late.what).answered(&late.process));
    more.because("nothing was changed there").hint(
        "find out on the machine what that command waits for: a disk, a network file system, a program that hangs",
    )
}

/// Asks again after a while.
pub(super) async fn ask_later<S: Shell>(shell: Arc<Told<S>>, asks: Vec<Ask>, after: Duration) -> Done {
    tokio::time::sleep(after).await;
    Done::Asked(Box::new(ask(shell, asks).await))
}

/// Runs the fixes of one stage as one script, and tells how they go. `run`: with how long they may take.
pub(super) async fn fix<S: Shell>(
    shell: Arc<Told<S>>,
    node: String,
    run: (Run, Duration),
    lease: Option<Lease>,
    changes: Vec<Change>,
    events: Events,
) -> Done {
    match try_fix(&*shell, &node, &run, lease.as_ref(), &changes, &events).await {
        Ok((done, None)) => Done::Fixed(done, None),
        Ok((done, Some(wrong))) | Err((done, wrong)) => {
            Done::Fixed(done, Some(Wrong { error: wrong.error.on(&node), ..wrong }))
        }
    }
}

/// Lines of a fix that its error shows.
const LAST_LINES: usize = 12;
/// How much output of a script of fixes is shown while it runs, in bytes.
const MOST_TOLD: usize = 8 << 20;

/// How many wants a script of fixes may find to hold: more than there are nodes.
const MOST_DONE: usize = 20_000;

type Outcome = std::result::Result<(Vec<Id>, Option<Wrong>), (Vec<Id>, Wrong)>;

/// The nodes that this change finds a fault of. Any fix may print such lines, so they count only where a change of the step
/// failed that prints them. `packets` names nodes that it asked.
fn faults(change: &Change, said: &VecDeque<String>) -> Vec<(String, String)> {
    let lines = said.iter().map(String::as_str);
    if steps::ROLLS_OUT.contains(&change.step) {
        return rollout::faults(lines);
    }
    let mut found = packets::made::faults(lines);
    found.retain(|(node, _)| change.step == packets::STEP.name && change.about.contains(node));
    found
}

async fn try_fix<S: Shell>(
    shell: &Told<S>,
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
    let (mut ear, mut at, mut done, mut failed) = (Ear::new(&boundary), None, Vec::new(), None);
    let (mut said, mut told, mut marked) = (VecDeque::new(), 0, BTreeSet::new());
    let bounds = shell.limits().fixes(run, changes, *left);
    let output = shell
        .run_within(&script, &bounds, &mut |piece| {
            for heard in ear.hear(piece) {
                match heard {
                    Heard::Started(i) => {
                        at = changes.get(i);
                        said.clear();
                        if let Some(c) = at {
                            events.tell(Event::Fixing { node: node.into(), of: c.name() });
                        }
                    }
                    Heard::Said(line) => {
                        let reached = packets::made::reached(&line).filter(|_| done.len() < MOST_DONE);
                        done.extend(reached.map(packets::answer_of));
                        tell(node, &line, &mut told, events);
                        said.extend(telling(&line));
                        if said.len() > LAST_LINES {
                            said.pop_front();
                        }
                    }
                    Heard::Waits(for_what) => tell_wait(node, for_what, &mut told, events),
                    Heard::Done(i, 0) => {
                        marked.insert(i);
                        done.extend(changes.get(i).map(|c| c.id.clone()));
                    }
                    Heard::Done(i, status) => failed = changes.get(i).map(|c| (c, status)),
                }
            }
        })
        .await;
    let output = output.map_err(|error| (done.clone(), limits::cut_short(error, at).into()))?;
    if let Some(lost) = ledger::lease_lost(&output) {
        return Err((done, ledger::taken(lost).into()));
    }
    let wrong = failed.map(|(change, status)| Wrong {
        error: failure(change, status, &said),
        about: change.about.clone(),
        faults: faults(change, &said),
        want: Some(change.id.clone()),
    });
    let wrong = wrong.or_else(|| {
        let broke = output.status != 0;
        broke.then(|| {
            Error::new(Kind::Failed, format!("the script of fixes ended with {}", output.status))
                .heard(tail(&said))
                .heard(String::from_utf8_lossy(&output.stderr))
                .into()
        })
    });
    Ok((done, wrong.or_else(|| unmarked(changes, &marked))))
}

/// A script that ends well has said so of each change. A machine that ends without it has not run that script.
fn unmarked(changes: &[Change], marked: &BTreeSet<usize>) -> Option<Wrong> {
    let mut all = changes.iter().enumerate().filter(|(_, change)| change.fix != Fix::Above);
    let (_, change) = all.find(|(i, _)| !marked.contains(i))?;
    let what = format!("{}: its fix did not run, and the machine says that all went well", change.step);
    let error = Error::new(Kind::Failed, what).because(format!("nothing was heard of this: {}", change.that));
    Some(error.hint("find out what runs commands on the machine in the place of its shell").into())
}

/// Tells a line that a fix printed. Lines are shown more slowly than a machine can print them, so after some megabytes
/// no more are shown.
fn tell(node: &str, line: &str, told: &mut usize, events: &Events) {
    let more = *told < MOST_TOLD;
    *told += line.len();
    let line = if *told < MOST_TOLD { line } else { "(it prints too much; the rest is not shown)" };
    if more {
        events.tell(Event::Said { node: node.into(), line: line.into() });
    }
}

/// Tells what a script waits for. It counts as any other line.
fn tell_wait(node: &str, for_what: String, told: &mut usize, events: &Events) {
    *told += for_what.len();
    if *told < MOST_TOLD {
        events.tell(Event::Waiting { node: node.into(), for_what });
    }
}

/// Secrets travel within scripts, and scripts may be shown.
fn learn(changes: &[Change]) {
    for change in changes.iter().filter(|change| change.secret) {
        if let Fix::Write { text: Some(text), .. } = &change.fix {
            secret::learn(text);
        }
    }
}

/// Waits for work that an earlier run began.
pub(super) async fn attach<S: Shell>(
    shell: Arc<Told<S>>,
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
    let (mut ear, mut told) = (Ear::new(&boundary), 0);
    let mut heard = |piece: &[u8]| {
        for heard in ear.hear(piece) {
            match heard {
                Heard::Said(line) => tell(&node, &line, &mut told, &events),
                Heard::Waits(for_what) => tell_wait(&node, for_what, &mut told, &events),
                Heard::Started(_) | Heard::Done(..) => {}
            }
        }
    };
    let bounds = shell.limits().attached(left, drains);
    let ended = shell.run_within(&ledger::attach(&unit, &boundary), &bounds, &mut heard).await;
    // However it ended: what it brought about is asked, not concluded.
    let silent = ended.err().filter(|error| error.kind == Kind::Silent);
    Done::Attached(silent.map(|error| limits::left_behind(error, &unit).on(&node).into()))
}

/// Seconds since 1970 by our own clock.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// A word that no output contains.
fn boundary() -> Result<String> {
    probe::boundary().map_err(|e| Error::new(Kind::Local, "cannot read random bytes").because(e))
}
