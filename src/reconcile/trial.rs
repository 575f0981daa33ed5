//! The second look, at machines that have still to join: all listen, then all try at once, then all stop. Where nobody
//! joins there is none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::limits::Limits;
use super::told::Told;
use super::{Fleetwork, work};
use crate::fleet;
use crate::fleet::identity::Misfit;
use crate::machine::Machine;
use crate::plan::{self, WantName};
use crate::probe::{self, Answer};
use crate::report::Event;
use crate::shell::{Sh, Shell};
use crate::step::{Ask, Id};
use crate::trial::reach::{self, Listening, Round};
use crate::trial::{self, untried};

/// How long a machine may take to listen.
const PATIENCE: Duration = Duration::from_secs(15);

/// What a machine said to its questions, the first of which may be about the others.
struct Said {
    place: usize,
    tries: bool,
    /// The last question is about the key of the Kubernetes repository.
    key: bool,
    asks: Vec<Ask>,
    answers: Vec<Answer>,
}

impl<S: Shell> Fleetwork<S> {
    /// Tries what has to work before machines join. What it finds is for the survey to tell.
    pub async fn try_out(&mut self) {
        let able: Vec<usize> = (0..self.members.len()).filter(|i| self.can_be_tried(*i)).collect();
        let names: BTreeSet<String> = able.iter().map(|i| self.members[*i].node.name.clone()).collect();
        let known = able.iter().map(|i| &self.members[*i]);
        let joining = trial::joining(known.filter_map(|m| Some((m.node.name.as_str(), m.machine.as_ref()?))));
        if joining.is_empty() && !able.iter().any(|i| self.needs_keys(*i)) {
            return;
        }
        let Ok(nonce) = probe::boundary() else { return };
        let ways = reach::ways(&self.cluster, &names, &joining);
        let nonce = nonce.trim_matches('-').to_string();
        let mut round = Round { nonce, ways, joining, listening: BTreeMap::new() };
        let listeners = self.listen(&mut round).await;
        let said = self.try_all(&able, &round).await;
        self.stop(listeners, &round).await;
        self.tried = self.came_out(&round, said);
    }

    /// It answered, and belongs to nobody else; and if this run is about others, it is a member.
    fn can_be_tried(&self, i: usize) -> bool {
        let member = &self.members[i];
        let concerns = |machine: &Machine| !member.spared || machine.is_member();
        member.machine.as_ref().is_some_and(|m| concerns(m) && fleet::foreign(m, &self.trust).is_empty())
    }

    /// Starts a listener on each joining machine that others will try to reach, and waits until all listen.
    async fn listen(&mut self, round: &mut Round) -> JoinSet<()> {
        let (mut listeners, mut ready) = (JoinSet::new(), Vec::new());
        for member in &mut self.members {
            let name = &member.node.name;
            if !round.joining.contains(name) || !round.ways.iter().any(|way| way.to == *name) {
                continue;
            }
            member.execs += 1;
            let script = reach::listen(&member.node, round);
            let (sender, receiver) = oneshot::channel();
            listeners.spawn(hold(member.shell.clone(), script, round.nonce.clone(), sender));
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

    /// All tries of all machines, at the same time.
    async fn try_all(&mut self, able: &[usize], round: &Round) -> Vec<Said> {
        let (mut trying, mut said) = (JoinSet::new(), Vec::new());
        let exists = self.fleet().exists;
        for i in able {
            let needs_keys = self.needs_keys(*i);
            let wants_keys = self.wants_keys();
            let member = &mut self.members[*i];
            let way = reach::ask(&self.cluster, &member.node, round);
            let alone = round.joining.contains(&member.node.name);
            let rest = if alone { trial::alone(&self.cluster, &member.node, exists) } else { vec![] };
            let key = needs_keys || alone && wants_keys;
            let (place, tries) = (*i, way.is_some());
            let mut asks: Vec<Ask> = way.into_iter().chain(rest).collect();
            asks.extend(key.then(|| trial::key(&self.cluster)));
            if !asks.is_empty() {
                member.execs += 1;
                let shell = member.shell.clone();
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
        for member in self.members.iter_mut().filter(|m| round.listening.contains_key(&m.node.name)) {
            member.execs += 1;
            let (shell, script) = (member.shell.clone(), reach::end(&member.node, round));
            // Who cannot be told ends by itself.
            ending.spawn(async move { drop(shell.run_within(&script, &Limits::brief(), &mut |_| {}).await) });
        }
        while ending.join_next().await.is_some() {}
        let all = async { while listeners.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(PATIENCE, all).await;
    }

    fn tell_tries(&self, said: &Said) {
        for (ask, answer) in said.asks.iter().zip(&said.answers).filter(|_| self.events.are_detailed()) {
            let answered = match answer {
                Answer::Said(text) => text.clone(),
                Answer::Unknown(why) => format!("cannot tell: {why}"),
            };
            let (node, asked) = (self.members[said.place].node.name.clone(), plan::asked(ask));
            let id = Id { name: "preflight.active", subject: String::new() };
            let of = WantName::of("preflight", &id, "what is tried before it joins");
            self.events.tell(Event::Asked { node, of, asked, answered });
        }
    }

    /// Takes in the key that a machine was shown; what stands against it.
    fn take_key(&mut self, i: usize, answer: &Answer) -> Vec<Misfit> {
        let (node, has) = (&self.members[i].node, self.members[i].keys.as_ref());
        let shown = trial::judge_key(&self.cluster, node, answer);
        match fleet::keys::taken(&node.name, has, shown) {
            Ok(keys) => {
                self.shown.extend(keys.map(|keys| (node.name.clone(), keys)));
                vec![]
            }
            Err(misfits) => misfits,
        }
    }

    fn came_out(&mut self, round: &Round, said: Vec<Said>) -> Vec<Misfit> {
        let (mut came, mut found) = (Vec::new(), Vec::new());
        for mut said in said {
            self.tell_tries(&said);
            let key = if said.key { said.answers.pop() } else { None };
            if let Some(answer) = key {
                found.extend(self.take_key(said.place, &answer));
            }
            let node = &self.members[said.place].node;
            let alone = said.answers.split_off(usize::from(said.tries));
            let answers = said.answers;
            match answers.first() {
                Some(Answer::Said(text)) => {
                    let (ends, odd) = reach::read(&self.cluster, node, &round.ways, text);
                    came.extend(ends);
                    if !odd.is_empty() {
                        found.push(untried("Reach", &node.name, &odd.join("\n")));
                    }
                }
                Some(Answer::Unknown(why)) => found.push(untried("Reach", &node.name, why)),
                None => {}
            }
            found.extend(trial::judge_alone(&self.cluster, node, &alone));
        }
        let sought = round.joining.iter().filter(|name| round.ways.iter().any(|way| way.to == **name));
        let silent = sought.filter(|name| !round.listening.contains_key(*name));
        found.extend(
            silent.map(|name| untried("Reach", name, "nothing listens there for the others to reach")),
        );
        found.extend(reach::judge(&self.cluster, &came, &round.joining, &round.listening));
        found
    }
}

/// What a listener says when it is ready is far shorter, in bytes.
const MOST_HEARD: usize = 64 << 10;

/// Keeps a listener until it ends, and gives away what it says once it is there.
async fn hold<S: Shell>(shell: Arc<Told<S>>, script: Sh, nonce: String, ready: oneshot::Sender<String>) {
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
