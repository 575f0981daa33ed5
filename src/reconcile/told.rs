//! A machine's shell during a run: only so many scripts run at once in the fleet, and each script becomes an event.
//! Questions become one event each, with the answer. The script that asks them all does not.

use std::sync::{Arc, OnceLock};

use tokio::sync::Semaphore;

use super::Fleetwork;
use super::limits::Limits;
use crate::error::{Error, Kind, Result};
use crate::ledger;
use crate::plan::{self, WantName};
use crate::probe::Answer;
use crate::report::{Event, Events};
use crate::shell::{Bounds, Output, Sh, Shell};
use crate::step::{Ask, Id};

pub(super) struct Told<S> {
    pub shell: S,
    pub node: String,
    /// Shared by the whole fleet; who has a place may run something.
    pub places: Arc<Semaphore>,
    pub events: Events,
    /// Where the inventory has etcd keep its data.
    pub etcd_dir: Arc<str>,
    /// Shared by the whole fleet; the usual ones where nobody sets others.
    pub limits: Arc<OnceLock<Limits>>,
}

impl<S: Shell> Told<S> {
    /// Runs a script without an event for it: its caller reports it in another way.
    pub async fn run_untold(
        &self,
        script: &Sh,
        bounds: &Bounds,
        heard: &mut (dyn FnMut(&[u8]) + Send),
    ) -> Result<Output> {
        let place = self.places.acquire().await;
        let _place = place.map_err(|e| Error::new(Kind::Local, "the run is over").because(e.to_string()))?;
        self.shell.run_within(script, bounds, heard).await
    }

    pub fn limits(&self) -> &Limits {
        self.limits.get_or_init(Limits::default)
    }

    /// Runs a script that others wait for while it runs: it takes no place from them.
    pub async fn run_beside(&self, script: &Sh, heard: &mut (dyn FnMut(&[u8]) + Send)) -> Result<Output> {
        self.begins(script);
        let output = self.shell.run_within(script, &Bounds::default(), heard).await?;
        self.ended(&output);
        Ok(output)
    }

    fn begins(&self, script: &Sh) {
        if self.events.are_detailed() {
            let (node, script) = (self.node.clone(), ledger::shown(script));
            self.events.tell(Event::Script { node, script });
        }
    }

    fn ended(&self, output: &Output) {
        if self.events.are_detailed() {
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            self.events.tell(Event::Ended { node: self.node.clone(), status: output.status, stderr });
        }
    }
}

impl<S: Shell> Shell for Told<S> {
    async fn run(&self, script: &Sh, heard: &mut (dyn FnMut(&[u8]) + Send)) -> Result<Output> {
        self.run_within(script, &Bounds::default(), heard).await
    }

    async fn run_within(
        &self,
        script: &Sh,
        bounds: &Bounds,
        heard: &mut (dyn FnMut(&[u8]) + Send),
    ) -> Result<Output> {
        self.begins(script);
        let output = self.run_untold(script, bounds, heard).await?;
        self.ended(&output);
        Ok(output)
    }

    fn host_key(&self) -> Option<String> {
        self.shell.host_key()
    }

    async fn rest(&self) {
        self.shell.rest().await;
    }
}

impl<S: Shell> Fleetwork<S> {
    /// Tells every question to a machine and what it said, where anybody wants to know.
    pub(super) fn tell_answers(&self, i: usize) {
        let member = &self.members[i];
        let Some(machine) = member.machine.as_ref().filter(|_| self.events.are_detailed()) else { return };
        // Wants were built before the machine was asked: that they can be is known.
        let Ok(wants) = self.wants_of(member, machine, &self.fleet()) else { return };
        let tell = |of: WantName, ask: &Ask, answer: &Answer| {
            let answered = match answer {
                Answer::Said(_) if *ask == Ask::Head => machine.to_string(),
                Answer::Said(text) => text.clone(),
                Answer::Unknown(why) => format!("cannot tell: {why}"),
            };
            let (node, asked) = (member.node.name.clone(), plan::asked(ask));
            self.events.tell(Event::Asked { node, of, asked, answered });
        };
        for ((step, want), answer) in wants.into_iter().flatten().zip(&member.answers) {
            tell(WantName::of(step.name, &want.id, &want.that), &want.ask, answer);
        }
        for (ask, answer) in member.looks.iter().zip(&member.looked) {
            let shown = Id { name: "status.shown", subject: String::new() };
            tell(WantName::of("status", &shown, "only to be seen"), ask, answer);
        }
    }
}
