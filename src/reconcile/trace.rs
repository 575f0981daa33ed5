//! The shell of a machine during a run. It limits how many scripts run at once in the fleet, and reports each script as an
//! event. Each question is an event of its own, with the answer. The script that asks all questions is no event.

use std::sync::{Arc, OnceLock};

use tokio::sync::Semaphore;

use super::Reconciler;
use super::limits::Limits;
use crate::error::{Error, Kind, Result};
use crate::ledger;
use crate::plan::{self, WantName};
use crate::report::{Event, Events};
use crate::shell::{Bounds, Output, Sh, Shell};
use crate::step::{Answer, Ask, Id};

pub(super) struct TracedShell<S> {
    pub shell: S,
    pub node: String,
    /// Shared by the whole fleet. A script needs one permit to run.
    pub places: Arc<Semaphore>,
    pub events: Events,
    /// The data folder of etcd, from the inventory.
    pub etcd_dir: Arc<str>,
    /// Shared by the whole fleet. These are the usual limits unless `Reconciler::bound` set others.
    pub limits: Arc<OnceLock<Limits>>,
}

impl<S: Shell> TracedShell<S> {
    /// Runs a script without an event for it, because its caller reports it in another way.
    pub async fn run_untraced(
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

    /// Runs a script that others wait for while it runs. It takes no permit away from them.
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

impl<S: Shell> Shell for TracedShell<S> {
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
        let output = self.run_untraced(script, bounds, heard).await?;
        self.ended(&output);
        Ok(output)
    }

    fn host_key(&self) -> Option<String> {
        self.shell.host_key()
    }

    async fn disconnect(&self) {
        self.shell.disconnect().await;
    }
}

impl<S: Shell> Reconciler<S> {
    /// Reports every question to a machine with its answer, if the events are detailed.
    pub(super) fn tell_answers(&self, i: usize) {
        let host = &self.hosts[i];
        let Some(machine) = host.machine.as_ref().filter(|_| self.events.are_detailed()) else { return };
        // ironstrap built these wants before it asked the machine, so it knows that it can build them.
        let Ok(wants) = self.wants_of(host, machine, &self.fleet()) else { return };
        let tell = |of: WantName, ask: &Ask, answer: &Answer| {
            let answered = match answer {
                Answer::Said(_) if *ask == Ask::Facts => machine.to_string(),
                answer => answer.to_string(),
            };
            let (node, asked) = (host.node.name.clone(), plan::asked(ask));
            self.events.tell(Event::Asked { node, of, asked, answered });
        };
        for ((step, want), answer) in wants.into_iter().flatten().zip(&host.answers) {
            tell(WantName::of(step.name, &want.id, &want.that), &want.ask, answer);
        }
        for (ask, answer) in host.extra_asks.iter().zip(&host.extra_answers) {
            let shown = Id { name: "status.shown", subject: String::new() };
            tell(WantName::of("status", &shown, "only to be seen"), ask, answer);
        }
    }
}
