//! `--save-report`: gathers what a run knows while it is known, and writes it down when the run is over.

use std::path::PathBuf;

use super::{Errors, FleetArgs, Start};
use crate::diagnosis::Heard;
use crate::error::{Error, Kind, Result, count};
use crate::report::Event;
use crate::report::bundle::Bundle;
use crate::store;

/// A report that waits for the last events.
pub(super) struct Saving {
    file: PathBuf,
    inventory: PathBuf,
    machines: Vec<String>,
    answers: Vec<(String, String, String)>,
    heard: Vec<Heard>,
}

impl FleetArgs {
    /// What is to be saved, if anything is.
    pub(super) fn saving(&self, start: &Start) -> Option<Saving> {
        let work = &start.work;
        Some(Saving {
            file: self.save_report.clone()?,
            inventory: self.inventory.inventory.clone(),
            machines: work.members().iter().map(machine).collect(),
            answers: work.answers(),
            heard: work.heard_of_failures().to_vec(),
        })
    }
}

impl Saving {
    /// A report that cannot be written is one more thing that went wrong, and hides nothing else.
    pub(super) fn save(self, events: &[Event], errors: &mut Errors) {
        if let Err(error) = self.try_save(events, errors) {
            errors.push(error);
        }
    }

    fn try_save(self, events: &[Event], errors: &[Error]) -> Result<()> {
        let unread = |e: std::io::Error| {
            Error::new(Kind::Local, format!("cannot read {}", self.inventory.display()))
                .because(e.to_string())
        };
        let inventory = std::fs::read_to_string(&self.inventory).map_err(unread)?;
        let Saving { machines, answers, heard, .. } = self;
        let bundle = Bundle { inventory: &inventory, machines, answers, events, errors, heard };
        store::save_private(&self.file, &bundle.text())
    }
}

fn machine<S>(member: &crate::reconcile::Member<S>) -> String {
    let name = &member.node.name;
    match &member.machine {
        Some(m) => format!(
            "{name}\t{} {} {}, {}, {} MiB, called {}, has {}",
            m.os,
            m.codename,
            m.arch,
            count(m.cpus as usize, "CPU"),
            m.memory / 1024,
            m.hostname,
            m.has.iter().cloned().collect::<Vec<_>>().join(" ")
        ),
        None => format!("{name}\tdid not answer"),
    }
}
