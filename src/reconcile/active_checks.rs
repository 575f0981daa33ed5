//! Runs the active checks before machines join: all joining machines listen, then all machines try at once, then all stop.
//! Nothing runs if no machine joins and no member needs the key of the Kubernetes repository.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::limits::Limits;
use super::trace::TracedShell;
use super::{Reconciler, work};
use crate::active_checks::reach::{self, Listening, Round};
use crate::active_checks::{self, not_checked};
use crate::fleet;
use crate::fleet::identity::Finding;
use crate::machine::Machine;
use crate::plan::{self, WantName};
use crate::probe;
use crate::report::Event;
use crate::shell::{Sh, Shell};
use crate::step::{Answer, Ask, Id};

/// How long machines may take to listen, and later to stop.
const PATIENCE: Duration = Duration::from_secs(15);

/// The answers of one machine to its questions. If `tries` is set, the first question sends its probes to other machines.
struct Said {
    place: usize,
    tries: bool,
    /// The last question is about the key of the Kubernetes repository.
    key: bool,
    asks: Vec<Ask>,
    answers: Vec<Answer>,
}

impl<S: Shell> Reconciler<S> {
    /// Checks what must work before machines join. The preflight checks report the findings.
    pub async fn run_active_checks(&mut self) {
        let able: Vec<usize> = (0..self.hosts.len()).filter(|i| self.can_be_tried(*i)).collect();
        let names: BTreeSet<String> = able.iter().map(|i| self.hosts[*i].node.name.clone()).collect();
        let known = able.iter().map(|i| &self.hosts[*i]);
        let joining =
            active_checks::joining(known.filter_map(|m| Some((m.node.name.as_str(), m.machine.as_ref()?))));
        if joining.is_empty() && !able.iter().any(|i| self.needs_keys(*i)) {
            return;
        }
        let Ok(nonce) = probe::boundary() else { return };
        let probes = reach::probes(&self.cluster, &names, &joining);
        let nonce = nonce.trim_matches('-').to_string();
        let mut round = Round { nonce, probes, joining, listening: BTreeMap::new() };
        let listeners = self.listen(&mut round).await;
        let said = self.try_all(&able, &round).await;
        self.stop(listeners, &round).await;
        self.tried = self.came_out(&round, said);
    }

    /// Whether a machine takes part: it answered, and belongs to no other cluster. An excluded machine must also be a
    /// member.
    fn can_be_tried(&self, i: usize) -> bool {
        let host = &self.hosts[i];
        let concerns = |machine: &Machine| !host.excluded || machine.is_member();
        host.machine.as_ref().is_some_and(|m| concerns(m) && fleet::foreign(m, &self.pki).is_empty())
    }

    /// Starts a listener on each joining machine that others will try to reach, and waits until all listen.
    async fn listen(&mut self, round: &mut Round) -> JoinSet<()> {
        let (mut listeners, mut ready) = (JoinSet::new(), Vec::new());
        for host in &mut self.hosts {
            let name = &host.node.name;
            if !round.joining.contains(name) || !round.probes.iter().any(|probe| probe.to == *name) {
                continue;
            }
            host.execs += 1;
            let script = reach::listen(&host.node, round);
            let (sender, receiver) = oneshot::channel();
            listeners.spawn(hold(host.shell.clone(), script, round.nonce.clone(), sender));
            ready.push((name.clone(), receiver));
        }
        let until = tokio::time::Instant::now() + PATIENCE;
        for (name, receiver) in ready {
            if let Ok(Ok(said)) = tokio::time::timeout_at(until, receiver).await {
                round.listening.insert(name, Listening::read(&said, &round.nonce));
            }
        }
        listeners
    }

    /// Runs the active checks of all machines, at the same time.
    async fn try_all(&mut self, able: &[usize], round: &Round) -> Vec<Said> {
        let (mut trying, mut said) = (JoinSet::new(), Vec::new());
        let exists = self.fleet().exists;
        for i in able {
            let needs_keys = self.needs_keys(*i);
            let wants_keys = self.wants_keys();
            let host = &mut self.hosts[*i];
            let probe = reach::ask(&self.cluster, &host.node, round);
            let alone = round.joining.contains(&host.node.name);
            let rest = if alone { active_checks::alone(&self.cluster, &host.node, exists) } else { vec![] };
            let key = needs_keys || alone && wants_keys;
            let (place, tries) = (*i, probe.is_some());
            let mut asks: Vec<Ask> = probe.into_iter().chain(rest).collect();
            asks.extend(key.then(|| active_checks::key(&self.cluster)));
            if !asks.is_empty() {
                host.execs += 1;
                let shell = host.shell.clone();
                trying.spawn(async move {
                    let answers = match work::ask_within(shell, asks.clone(), Limits::tries()).await {
                        Ok(heard) => heard.answers,
                        Err(error) => asks.iter().map(|_| Answer::Unknown(error.what.clone())).collect(),
                    };
                    Said { place, tries, key, asks, answers }
                });
            }
        }
        while let Some(done) = trying.join_next().await {
            said.extend(done);
        }
        said
    }

    async fn stop(&mut self, mut listeners: JoinSet<()>, round: &Round) {
        let mut ending = JoinSet::new();
        for host in self.hosts.iter_mut().filter(|m| round.listening.contains_key(&m.node.name)) {
            host.execs += 1;
            let (shell, script) = (host.shell.clone(), reach::end(&host.node, round));
            // A listener that ironstrap cannot reach ends by itself.
            ending.spawn(async move { drop(shell.run_within(&script, &Limits::brief(), &mut |_| {}).await) });
        }
        while ending.join_next().await.is_some() {}
        let all = async { while listeners.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(PATIENCE, all).await;
    }

    fn tell_tries(&self, said: &Said) {
        for (ask, answer) in said.asks.iter().zip(&said.answers).filter(|_| self.events.are_detailed()) {
            let answered = answer.to_string();
            let (node, asked) = (self.hosts[said.place].node.name.clone(), plan::asked(ask));
            let id = Id { name: "preflight.active", subject: String::new() };
            let of = WantName::of("preflight", &id, "the checks before its join pass");
            self.events.tell(Event::Asked { node, of, asked, answered });
        }
    }

    /// Stores the key that the repository showed to a machine. Returns the findings against it.
    fn take_key(&mut self, i: usize, answer: &Answer) -> Vec<Finding> {
        let (node, has) = (&self.hosts[i].node, self.hosts[i].keys.as_ref());
        let shown = active_checks::judge_key(&self.cluster, node, answer);
        match fleet::keys::taken(&node.name, has, shown) {
            Ok(keys) => {
                self.shown.extend(keys.map(|keys| (node.name.clone(), keys)));
                vec![]
            }
            Err(findings) => findings,
        }
    }

    fn came_out(&mut self, round: &Round, said: Vec<Said>) -> Vec<Finding> {
        let (mut came, mut found) = (Vec::new(), Vec::new());
        for mut said in said {
            self.tell_tries(&said);
            let key = if said.key { said.answers.pop() } else { None };
            if let Some(answer) = key {
                found.extend(self.take_key(said.place, &answer));
            }
            let node = &self.hosts[said.place].node;
            let alone = said.answers.split_off(usize::from(said.tries));
            let answers = said.answers;
            match answers.first().map(Answer::text) {
                Some(Ok(text)) => {
                    let (ends, odd) = reach::read(&self.cluster, node, &round.probes, text);
                    came.extend(ends);
                    if !odd.is_empty() {
                        found.push(not_checked("Reach", &node.name, &odd.join("\n")));
                    }
                }
                Some(Err(why)) => found.push(not_checked("Reach", &node.name, &why)),
                None => {}
            }
            found.extend(active_checks::judge_alone(&self.cluster, node, &alone));
        }
        let sought = round.joining.iter().filter(|name| round.probes.iter().any(|probe| probe.to == **name));
        let silent = sought.filter(|name| !round.listening.contains_key(*name));
        found.extend(silent.map(|name| not_checked("Reach", name, "no test listener runs there")));
        found.extend(reach::judge(&self.cluster, &came, &round.joining, &round.listening));
        found
    }
}

/// How much of a listener's output ironstrap keeps, in bytes. The output until the listener is ready is far shorter.
const MOST_HEARD: usize = 64 << 10;

/// Runs a listener until it ends. Sends its output to `ready` as soon as it listens.
async fn hold<S: Shell>(
    shell: Arc<TracedShell<S>>,
    script: Sh,
    nonce: String,
    ready: oneshot::Sender<String>,
) {
    let (mut said, mut ready) = (String::new(), Some(ready));
    let mut heard = |piece: &[u8]| {
        if ready.is_none() || said.len() >= MOST_HEARD {
            return;
        }
        said += &String::from_utf8_lossy(piece);
        if reach::is_ready(&said, &nonce)
            && let Some(ready) = ready.take()
        {
            let _ = ready.send(said.clone());
        }
    };
    let _ = shell.run_beside(&script, &mut heard).await;
}
