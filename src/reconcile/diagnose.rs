//! After a failure: the machines that it is about are asked what they know of it, once, and the error gets its cause
//! or their last words. Which lines tell what is up to `diagnosis`.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::task::JoinSet;

use super::limits::Limits;
use super::work::{Trouble, Wrong};
use super::{Fleetwork, Member};
use crate::diagnosis::{self, Finding, Heard};
use crate::error::{Error, Kind};
use crate::plan;
use crate::probe::Answer;
use crate::report::Event;
use crate::secret;
use crate::shell::Shell;
use crate::step::Ask;

/// How long a machine may take to tell; the script itself is bounded too.
const PATIENCE: Duration = Duration::from_secs(60);
/// How far logs are read back where no fix was run that failed.
const BACK: Duration = Duration::from_secs(180);

impl<S> Member<S> {
    /// Nothing more is done here.
    pub(super) fn leave(&mut self, wrong: Wrong) {
        let Wrong { error, about, .. } = wrong;
        if matches!(error.kind, Kind::Failed | Kind::Unknown) {
            self.work.trouble = Some(Trouble { about, since: self.work.began });
        }
        self.left = Some(error);
    }
}

impl<S: Shell> Fleetwork<S> {
    /// Finds out why nodes were left: one more script on each of them, and on those it depends on.
    pub(super) async fn diagnose(&mut self) {
        let fleet = self.fleet();
        let mut concerns: Vec<Vec<usize>> = vec![vec![]; self.members.len()];
        for (i, member) in self.members.iter().enumerate() {
            let Some(trouble) = &member.work.trouble else { continue };
            let joining = fleet.joining.contains(&member.node.name);
            let about = |m: &Member<S>| trouble.about.contains(&m.node.name);
            let about = (0..self.members.len()).filter(|other| about(&self.members[*other]));
            let api = self.api(&fleet).filter(|_| joining);
            concerns[i] = std::iter::once(i).chain(about).chain(api).collect();
            concerns[i].dedup();
        }
        let heard = self.hear(&concerns).await;
        for (i, nodes) in concerns.iter().enumerate().filter(|(_, nodes)| !nodes.is_empty()) {
            let Some(error) = self.members[i].left.take() else { continue };
            let mut all: Vec<Heard> = nodes.iter().filter_map(|n| heard[*n].clone()).collect();
            if all.first().is_none_or(|own| own.node != self.members[i].node.name) {
                all.insert(0, Heard { node: self.members[i].node.name.clone(), lines: vec![] });
            }
            let own = all.remove(0).with_error(&error);
            all.insert(0, own);
            let findings = diagnosis::findings(&all, self.cluster.etcd_dir());
            let about =
                self.members[i].work.trouble.iter().flat_map(|trouble| trouble.about.clone()).collect();
            self.members[i].left = Some(explained(error, &findings, all, &about));
            let node = self.members[i].node.name.clone();
            findings.into_iter().for_each(|finding| self.events.tell(cause(node.clone(), finding)));
        }
        self.heard = heard.into_iter().flatten().collect();
    }

    /// What each machine says that anybody's trouble concerns.
    async fn hear(&mut self, concerns: &[Vec<usize>]) -> Vec<Option<Heard>> {
        let mut heard: Vec<Option<Heard>> = self.members.iter().map(|_| None).collect();
        let mut asking = JoinSet::new();
        for i in 0..self.members.len() {
            let troubled = concerns.iter().enumerate().filter(|(_, nodes)| nodes.contains(&i));
            let since = troubled.map(|(t, _)| self.members[t].work.trouble.as_ref().and_then(|t| t.since));
            let Some(back) = since.map(|since| since.map_or(BACK, |since| since.elapsed())).max() else {
                continue;
            };
            let member = &mut self.members[i];
            member.execs += 1;
            let (shell, script) = (member.shell.clone(), diagnosis::script(back, self.cluster.etcd_dir()));
            asking.spawn(async move {
                let said = tokio::time::timeout(
                    PATIENCE,
                    shell.run_within(&script, &Limits::diagnosis(), &mut |_| {}),
                )
                .await;
                (i, said.ok().and_then(|said| said.ok()))
            });
        }
        while let Some(done) = asking.join_next().await {
            if let Ok((i, Some(output))) = done {
                let said = String::from_utf8_lossy(&output.stdout);
                let said = secret::hide(&said);
                heard[i] = Some(Heard::read(&self.members[i].node.name, &said));
            }
        }
        heard
    }

    /// All that was asked and answered last, by node.
    pub fn answers(&self) -> Vec<(String, String, String)> {
        let of = |member: &Member<S>| {
            let pair = |((_, ask), answer): (&(usize, Ask), &Answer)| {
                let said = match answer {
                    Answer::Said(text) => text.clone(),
                    Answer::Unknown(why) => format!("cannot tell: {why}"),
                };
                (member.node.name.clone(), plan::asked(ask), said)
            };
            member.asks.iter().zip(&member.answers).map(pair).collect::<Vec<_>>()
        };
        self.members.iter().flat_map(of).collect()
    }

    /// What machines said after something failed, without secrets.
    pub fn heard_of_failures(&self) -> &[Heard] {
        &self.heard
    }
}

/// `about`: the machines that the failure is about, where those are others than the one that failed.
fn explained(
    mut error: Error,
    findings: &[Finding],
    mut heard: Vec<Heard>,
    about: &BTreeSet<String>,
) -> Error {
    if !findings.is_empty() {
        // That it said nothing is no evidence beside a cause.
        error.cause.retain(|line| !(line.starts_with("exit ") && line.ends_with(", without a word")));
        return error.because_above_all(diagnosis::lines(findings).join("\n"));
    }
    match about.is_empty() {
        true => heard.truncate(1),
        false => heard.retain(|heard| about.contains(&heard.node)),
    }
    let last = diagnosis::last_words(&heard);
    if last.is_empty() || gives_a_reason(&error) {
        return error;
    }
    error.because("no known cause; the last words:").heard(last.join("\n"))
}

/// What failed said more than that it had waited: what machines said meanwhile is noise beside it.
fn gives_a_reason(error: &Error) -> bool {
    let waited =
        ["waited ", "timed out", "deadline exceeded", "no waiting helps", "no word", "without a word"];
    let says = |line: &&str| !line.starts_with("exit ");
    let own: Vec<&str> = error.words().filter(says).collect();
    !own.is_empty() && !error.words().any(|line| waited.iter().any(|words| line.contains(words)))
}

fn cause(node: String, finding: Finding) -> Event {
    let Finding { cause, what, on, place, evidence, remedy } = finding;
    Event::Cause { node, cause: cause.into(), what, on, place, evidence, remedy }
}
