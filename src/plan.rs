//! Turns wants and answers into changes. It uses no network and no terminal. Only the length of a difference may depend on
//! time.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use similar::TextDiff;

use crate::fleet::Blocked;
use crate::pki::Credential;
use crate::shell::Sh;
use crate::step::{
    Answer, Ask, Blame, Confirmation, Edit, Expect, Fix, Id, Object, Step, Undo, Verdict, Want, narrowed,
};

/// The name of a want in JSON: `id` is for programs, `that` is for people.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WantName {
    pub step: String,
    /// `Id::name`.
    pub id: String,
    /// `Id::subject`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subject: String,
    pub that: String,
}

impl WantName {
    pub fn of(step: &str, id: &Id, that: &str) -> Self {
        WantName { step: step.into(), id: id.name.into(), subject: id.subject.clone(), that: that.into() }
    }
}

/// Writes the step and the sentence, as in `swap: swap is off`.
impl fmt::Display for WantName {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.that)
    }
}

/// One want that does not hold, with everything that is needed to show it and to fix it.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub step: &'static str,
    pub why: &'static str,
    pub id: Id,
    pub that: String,
    /// The entry that the node keeps from before the first fix: its name, and its contents.
    pub keeps: Option<(String, Keep)>,
    /// The answer as the machine gave it.
    pub answer: Answer,
    /// The present text (`have`) and the right text (`want`), to compare or to write.
    pub have: String,
    pub want: String,
    pub fix: Fix,
    /// The credential with which the fix logs in to the API server. It is signed when the fix is sent.
    pub credential: Option<Credential>,
    pub disrupts: bool,
    pub eventually: bool,
    /// Whether the text that the fix writes is secret.
    pub secret: bool,
    /// Files that the fix changes.
    pub touches: Vec<String>,
    /// The nodes that a want of the whole cluster is about.
    pub about: Vec<String>,
    /// Whether the fix also changes the machines of the nodes in `about`.
    pub invalidates: bool,
    /// How the nodes at fault are found, if the fix fails.
    pub blame: Blame,
    /// Whether it was judged by objects of the cluster, for the cluster as a whole.
    pub of_cluster: bool,
    pub state: State,
}

/// The previous state that a node keeps from before the first fix, for a reset.
#[derive(Clone, Debug, PartialEq)]
pub enum Keep {
    /// The file at this path, or the fact that there was none.
    File(String),
    /// The answer, and the output of this shell.
    Answer(Sh),
}

/// Whether the fix of a change can run now, and what prevents it.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// It can be fixed.
    Ready,
    /// Other nodes, or a program of the cluster, must do something first.
    Waits(Blocked),
    /// It can be fixed once the operator gives this confirmation.
    Unconfirmed(&'static Confirmation),
    /// Only a person can fix it. The fix says how.
    ByHand,
    /// The present state is unknown. `asked`: the question. `why`: what came back instead of an answer. `awaits_api`: an API
    /// server that has just restarted may still answer.
    Unknown { asked: String, why: String, awaits_api: bool },
}

impl Change {
    pub fn name(&self) -> WantName {
        WantName::of(self.step, &self.id, &self.that)
    }
}

impl State {
    /// Whether other nodes wait until it holds. No node waits for a want that waits itself, or that needs a confirmation.
    pub fn blocks_others(&self) -> bool {
        !matches!(self, State::Waits(_) | State::Unconfirmed(_))
    }

    /// The word for this state in JSON.
    pub fn word(&self) -> &'static str {
        match self {
            State::Ready => "ready",
            State::Waits(_) => "waits",
            State::Unconfirmed(_) => "unconfirmed",
            State::ByHand => "by-hand",
            State::Unknown { .. } => "unknown",
        }
    }
}

/// A want with its step, and the answer of the machine.
pub type Answered<'a> = (&'static Step, &'a Want, &'a Answer);

/// Returns the wants that do not hold, in their order, and the restarts that follow from these changes. `touched`: the files
/// that earlier changes will touch. The files of these changes are added to it.
pub fn changes(answered: &[Answered], touched: &mut BTreeSet<String>) -> Vec<Change> {
    let mut changes: Vec<Change> = Vec::new();
    for (step, want, answer) in answered {
        let follow_up = || follows(touched, step, want, answer);
        let Some(change) = change_of(step, want, answer).or_else(follow_up) else { continue };
        if change.state == State::Ready {
            touched.extend(want.touches.iter().cloned());
        }
        changes.push(change);
    }
    changes
}

/// Returns the change of a program that runs well, but must restart because a file that it reads is about to change.
fn follows(touched: &BTreeSet<String>, step: &Step, want: &Want, answer: &Answer) -> Option<Change> {
    let Answer::Said(now) = answer else { return None };
    let path = want.reads.iter().find(|path| touched.contains(*path))?;
    Some(Change {
        have: want.ask.in_words(now),
        want: format!("restarted, because {path} changes"),
        ..blank(step, want, answer, State::Ready)
    })
}

/// Returns what people should know of and ironstrap does not change: the step and the words.
pub fn notes(answered: &[Answered]) -> Vec<(&'static str, String)> {
    let note = |(step, want, answer): &Answered| match verdict(want, answer) {
        Some(Verdict::Noted(words)) => Some((step.name, words)),
        _ => None,
    };
    answered.iter().filter_map(note).collect()
}

/// A want that was not checked, because no machine could answer its question.
#[derive(Clone, Debug, PartialEq)]
pub struct Unchecked {
    pub step: &'static str,
    pub id: Id,
    pub that: String,
    pub why: String,
    /// The nodes that the want is about.
    pub about: Vec<String>,
}

pub fn unchecked(answered: &[Answered]) -> Vec<Unchecked> {
    let one = |(step, want, answer): &Answered| match verdict(want, answer) {
        Some(Verdict::Unchecked(why)) => Some(Unchecked {
            step: step.name,
            id: want.id.clone(),
            that: want.that.clone(),
            why,
            about: want.about.clone(),
        }),
        _ => None,
    };
    answered.iter().filter_map(one).collect()
}

/// Returns the verdict on an answer. `None` if there is no answer, or if the want does not concern the machine.
pub fn verdict(want: &Want, answer: &Answer) -> Option<Verdict> {
    match answer {
        Answer::NotHere | Answer::Changing | Answer::Unknown(_) => None,
        answer => Some(verdict_on(want, &allowed(want, answer).0)),
    }
}

fn blank(step: &Step, want: &Want, answer: &Answer, state: State) -> Change {
    Change {
        step: step.name,
        why: step.why,
        id: want.id.clone(),
        that: want.that.clone(),
        keeps: keeps(step, want),
        answer: answer.clone(),
        have: String::new(),
        want: String::new(),
        fix: want.fix.clone(),
        credential: want.credential.clone(),
        disrupts: want.disrupts,
        eventually: want.eventually,
        secret: matches!(want.ask, Ask::Hash(_)),
        touches: want.touches.clone(),
        about: want.about.clone(),
        invalidates: want.invalidates,
        blame: want.blame,
        of_cluster: false,
        state,
    }
}

fn change_of(step: &Step, want: &Want, answer: &Answer) -> Option<Change> {
    if let Some(why) = answer.unknown() {
        return Some(blank(step, want, answer, unknown(want, why.into())));
    }
    if *answer == Answer::NotHere {
        return None;
    }
    let (counts, kept) = allowed(want, answer);
    let fix = kept.map_or_else(|| fix_for(want, answer), |mode| with_mode(&want.fix, mode));
    let ready = if matches!(want.fix, Fix::ByHand(_)) { State::ByHand } else { State::Ready };
    let (have, wanted, state) = match verdict_on(want, &counts) {
        Verdict::Holds | Verdict::Noted(_) | Verdict::Unchecked(_) => return None,
        Verdict::Unknown(why) => return Some(blank(step, want, answer, unknown(want, why))),
        Verdict::Differs { have, want } => (have, want, ready),
        Verdict::Waits { have, want, for_what } => (have, want, State::Waits(for_what)),
        Verdict::Unconfirmed { have, want, confirmation } => (have, want, State::Unconfirmed(confirmation)),
    };
    let (have, wanted) = (want.ask.in_words(&have), want.ask.in_words(&wanted));
    Some(Change { have, want: wanted, fix, ..blank(step, want, answer, state) })
}

fn unknown(want: &Want, why: String) -> State {
    // A want that settles (`eventually`) is asked when everything else is done. Its shell also asks other programs than the
    // API server.
    let eventually = want.eventually && want.ask.shell().is_some();
    State::Unknown { asked: asked(&want.ask), why, awaits_api: want.ask.is_about_api() && !eventually }
}

/// Returns the answer as it counts, and the mode that the file keeps. If the want has `allow_narrower_mode`, a narrower mode
/// counts as the wanted one.
fn allowed<'a>(want: &Want, answer: &'a Answer) -> (Cow<'a, Answer>, Option<u32>) {
    let (Fix::Write { mode: Some(mode), .. }, true, Answer::Said(text)) =
        (&want.fix, want.allow_narrower_mode, answer)
    else {
        return (Cow::Borrowed(answer), None);
    };
    let (first, rest) = head(text);
    match narrowed(first, *mode) {
        Some(kept) => (Cow::Owned(Answer::Said(format!("mode {mode:o} root:root\n{rest}"))), Some(kept)),
        None => (Cow::Borrowed(answer), None),
    }
}

/// Returns the fix for this answer.
fn fix_for(want: &Want, answer: &Answer) -> Fix {
    match &want.fix_for {
        Some(fix_for) => Fix::Run(fix_for(answer)),
        None => want.fix.clone(),
    }
}

/// Returns the fix, changed so that it writes this mode.
fn with_mode(fix: &Fix, mode: u32) -> Fix {
    match fix.clone() {
        Fix::Write { path, text, .. } => Fix::Write { path, mode: Some(mode), text },
        fix => fix,
    }
}

/// Decides whether the answer is right. If it is not, the texts of the verdict lack the parts that only programs read.
fn verdict_on(want: &Want, answer: &Answer) -> Verdict {
    let one_break_less = |text: &'_ str| text.strip_suffix('\n').unwrap_or(text).to_string();
    let differs =
        |have: &str, want: &str| Verdict::Differs { have: one_break_less(have), want: one_break_less(want) };
    match (&want.expect, answer) {
        (Expect::Anything, _) | (Expect::Absent, Answer::Absent) => Verdict::Holds,
        (Expect::Absent, Answer::Said(text)) => differs(text, "absent"),
        (Expect::Is(right), Answer::Said(text)) if one_break_less(right) == one_break_less(text) => {
            Verdict::Holds
        }
        (Expect::Is(right), Answer::Said(text)) => differs(text, right),
        (Expect::Is(right), Answer::Absent) => differs("", right),
        (Expect::Edited(edit), Answer::Said(text)) => edited(edit, head(text).1),
        (Expect::Edited(edit), Answer::Absent) => edited(edit, ""),
        (Expect::Judged(judge), Answer::Said(text)) => judge(&one_break_less(text)),
        (Expect::JudgedPresence(judge), Answer::Said(text)) => judge(Some(&one_break_less(text))),
        (Expect::JudgedPresence(judge), Answer::Absent) => judge(None),
        (Expect::JudgedObjects(judge), answer) => match objects(want, answer) {
            Ok(objects) => judge(&objects),
            Err(why) => Verdict::Unknown(why),
        },
        _ => Verdict::Unknown(format!("the answer has an unexpected form: {answer}")),
    }
}

/// Returns the objects of an answer. The error names the object that cannot be read.
fn objects(want: &Want, answer: &Answer) -> Result<Vec<Option<Value>>, String> {
    let Ask::Objects(asked) = &want.ask else { return answer.objects() };
    let one = |(at, object): (usize, &Object)| answer.object(at).map_err(|why| format!("{object}: {why}"));
    asked.iter().enumerate().map(one).collect()
}

/// Judges a file by what the edit makes of it.
fn edited(edit: &Edit, have: &str) -> Verdict {
    let want = edit(have);
    match want == have {
        true => Verdict::Holds,
        false => Verdict::Differs { have: have.into(), want },
    }
}

/// Splits a file into the line with mode and owner, and the text below it.
fn head(file: &str) -> (&str, &str) {
    file.split_once('\n').unwrap_or((file, ""))
}

/// Returns the sentence of a want as it follows the word "whether". Sentences of notes begin with that word themselves.
pub fn after_whether(that: &str) -> &str {
    that.strip_prefix("whether ").unwrap_or(that)
}

pub fn asked(ask: &Ask) -> String {
    match ask {
        Ask::Facts => "its description".into(),
        Ask::Shell(shell) | Ask::OnlyBeforeJoin(shell) | Ask::Api { shell, .. } => shell.to_string(),
        Ask::File(path) | Ask::Hash(path) | Ask::Kubeconfig(path) => path.clone(),
        Ask::Unit { unit, .. } => format!("systemctl show {unit}"),
        Ask::Packages(names) => format!("dpkg-query -W {}", names.join(" ")),
        Ask::Objects(objects) => {
            let names: Vec<String> = objects.iter().map(ToString::to_string).collect();
            format!("kubectl get {}", names.join(" "))
        }
        Ask::Nodes => "kubectl get nodes".into(),
        Ask::Listed => "kubectl get clusterroles,clusterrolebindings,endpointslices".into(),
        Ask::Administrator => "kubectl get, as kubernetes-admin".into(),
    }
}

fn keeps(step: &Step, want: &Want) -> Option<(String, Keep)> {
    let keep = match &want.undo {
        Undo::Nothing(_) | Undo::OfReset => return None,
        Undo::File(path) | Undo::Edit { path, .. } => Keep::File(path.clone()),
        Undo::Back(back) => Keep::Answer(back.keep.clone()),
    };
    Some((want.undo.key(step.name)?, keep))
}

/// Returns the lines that are removed and added, each with its sign, and a line of context around them.
pub fn diff(have: &str, want: &str) -> Vec<String> {
    if have == want {
        return vec![];
    }
    // Between two texts with nothing in common, the shortest difference takes minutes to find. Then a longer one is good
    // enough.
    let diff = TextDiff::configure().timeout(Duration::from_millis(200)).diff_lines(have, want);
    let mut lines = Vec::new();
    for group in diff.grouped_ops(1) {
        for change in group.iter().flat_map(|op| diff.iter_changes(op)) {
            lines.push(format!("{} {}", change.tag(), change.value().trim_end_matches('\n')));
        }
    }
    lines
}

#[cfg(test)]
mod tests;
