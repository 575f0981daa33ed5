//! After a failure, asks the machines that it is about once what they know of it. The error then gets its cause, or the
//! last words of these machines. `diagnosis` decides which lines are evidence.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::task::JoinSet;

use super::limits::Limits;
use super::work::{Failure, FailureScope};
use super::{Host, Reconciler};
use crate::diagnosis::{self, Finding, NodeLogs};
use crate::error::{Error, Kind};
use crate::plan;
use crate::report::Event;
use crate::secret;
use crate::shell::Shell;
use crate::step::{Answer, Ask};

/// How long a machine may take to answer. The script itself has a limit, too.
const PATIENCE: Duration = Duration::from_secs(60);
/// How far back logs are read if no fix ran that failed.
const BACK: Duration = Duration::from_secs(180);

impl<S> Host<S> {
    /// Quarantines this host. `diagnose` later asks for the cause, if machines may know more about the failure.
    pub(super) fn quarantine_and_ask_why(&mut self, failure: Failure) {
        let Failure { error, about, .. } = failure;
        if matches!(error.kind, Kind::Failed | Kind::Unknown) {
            self.progress.failure_scope = Some(FailureScope { about, since: self.progress.began });
        }
        self.quarantined = Some(error);
    }
}

impl<S: Shell> Reconciler<S> {
    /// Finds out why nodes were quarantined. It runs one more script on each of them, and on the machines that they depend
    /// on.
    pub(super) async fn diagnose(&mut self) {
        let fleet = self.fleet();
        let mut concerns: Vec<Vec<usize>> = vec![vec![]; self.hosts.len()];
        for (i, host) in self.hosts.iter().enumerate() {
            let Some(trouble) = &host.progress.failure_scope else { continue };
            let joining = fleet.joining.contains(&host.node.name);
            let about = |m: &Host<S>| trouble.about.contains(&m.node.name);
            let about = (0..self.hosts.len()).filter(|other| about(&self.hosts[*other]));
            let api = self.api_host_of(&fleet).filter(|_| joining);
            concerns[i] = std::iter::once(i).chain(about).chain(api).collect();
            concerns[i].dedup();
        }
        let logs = self.read_logs(&concerns).await;
        for (i, nodes) in concerns.iter().enumerate().filter(|(_, nodes)| !nodes.is_empty()) {
            let Some(error) = self.hosts[i].quarantined.take() else { continue };
            let mut all: Vec<NodeLogs> = nodes.iter().filter_map(|n| logs[*n].clone()).collect();
            if all.first().is_none_or(|own| own.node != self.hosts[i].node.name) {
                all.insert(0, NodeLogs { node: self.hosts[i].node.name.clone(), lines: vec![] });
            }
            let own = all.remove(0).with_error(&error);
            all.insert(0, own);
            let findings = diagnosis::findings(&all, self.cluster.etcd_dir());
            let about = self.hosts[i]
                .progress
                .failure_scope
                .iter()
                .flat_map(|trouble| trouble.about.clone())
                .collect();
            self.hosts[i].quarantined = Some(explained(error, &findings, all, &about));
            let node = self.hosts[i].node.name.clone();
            findings.into_iter().for_each(|finding| self.events.tell(cause(node.clone(), finding)));
        }
        self.logs = logs.into_iter().flatten().collect();
    }

    /// Asks each machine that a failure concerns, and returns what it says.
    async fn read_logs(&mut self, concerns: &[Vec<usize>]) -> Vec<Option<NodeLogs>> {
        let mut logs: Vec<Option<NodeLogs>> = self.hosts.iter().map(|_| None).collect();
        let mut asking = JoinSet::new();
        for i in 0..self.hosts.len() {
            let troubled = concerns.iter().enumerate().filter(|(_, nodes)| nodes.contains(&i));
            let since =
                troubled.map(|(t, _)| self.hosts[t].progress.failure_scope.as_ref().and_then(|t| t.since));
            let Some(back) = since.map(|since| since.map_or(BACK, |since| since.elapsed())).max() else {
                continue;
            };
            let host = &mut self.hosts[i];
            host.execs += 1;
            let (shell, script) = (host.shell.clone(), diagnosis::script(back, self.cluster.etcd_dir()));
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
                logs[i] = Some(NodeLogs::read(&self.hosts[i].node.name, &said));
            }
        }
        logs
    }

    /// The last questions and answers of all hosts: node, question, answer.
    pub fn answers(&self) -> Vec<(String, String, String)> {
        let of = |host: &Host<S>| {
            let pair = |((_, ask), answer): (&(usize, Ask), &Answer)| {
                (host.node.name.clone(), plan::asked(ask), answer.to_string())
            };
            host.asks.iter().zip(&host.answers).map(pair).collect::<Vec<_>>()
        };
        self.hosts.iter().flat_map(of).collect()
    }

    /// The logs and states that machines reported after something failed, without secrets.
    pub fn failure_logs(&self) -> &[NodeLogs] {
        &self.logs
    }
}

/// Adds causes to an error, or else the last words of machines. `about`: the machines that the failure is about, if they
/// are not the one that failed.
fn explained(
    mut error: Error,
    findings: &[Finding],
    mut logs: Vec<NodeLogs>,
    about: &BTreeSet<String>,
) -> Error {
    if !findings.is_empty() {
        // If a cause is known, the line that a fix printed nothing is no evidence.
        error.cause.retain(|line| !(line.starts_with("exit ") && line.ends_with(", without output")));
        return error.because_above_all(diagnosis::lines(findings).join("\n"));
    }
    match about.is_empty() {
        true => logs.truncate(1),
        false => logs.retain(|logs| about.contains(&logs.node)),
    }
    let last = diagnosis::last_words(&logs);
    if last.is_empty() || gives_a_reason(&error) {
        return error;
    }
    error.because("no known cause; last lines of the logs:").quoting(last.join("\n"))
}

/// Whether the failed fix said more than that it had waited. Then the last words of machines add nothing to it.
fn gives_a_reason(error: &Error) -> bool {
    let waited = ["timed out", "deadline exceeded", "waiting does not help", "no word", "without output"];
    let says = |line: &&str| !line.starts_with("exit ");
    let own: Vec<&str> = error.words().filter(says).collect();
    !own.is_empty() && !error.words().any(|line| waited.iter().any(|words| line.contains(words)))
}

fn cause(node: String, finding: Finding) -> Event {
    let Finding { cause, what, on, place, evidence, remedy } = finding;
    Event::Cause { node, cause: cause.into(), what, on, place, evidence, remedy }
}
