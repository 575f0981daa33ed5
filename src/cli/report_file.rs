//! `--save-report`: collects what a run knows while it is known, and writes it to a file when the run is over.

use std::path::PathBuf;

use super::{Errors, FleetArgs, Session};
use crate::diagnosis::NodeLogs;
use crate::error::{Error, Kind, Result, count};
use crate::report::Event;
use crate::report::bundle::Bundle;
use crate::store;

/// A report that still lacks the last events.
pub(super) struct ReportFile {
    file: PathBuf,
    inventory: PathBuf,
    machines: Vec<String>,
    answers: Vec<(String, String, String)>,
    logs: Vec<NodeLogs>,
}

impl FleetArgs {
    /// Collects what the report needs, if the user wants one.
    pub(super) fn saving(&self, session: &Session) -> Option<ReportFile> {
        let reconciler = &session.reconciler;
        Some(ReportFile {
            file: self.save_report.clone()?,
            inventory: self.inventory.inventory.clone(),
            machines: reconciler.hosts().iter().map(machine).collect(),
            answers: reconciler.answers(),
            logs: reconciler.failure_logs().to_vec(),
        })
    }
}

impl ReportFile {
    /// Writes the report. If that fails, the failure is one more error, and hides no other.
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
        let ReportFile { machines, answers, logs, .. } = self;
        let bundle = Bundle { inventory: &inventory, machines, answers, events, errors, logs };
        store::save_private(&self.file, &bundle.text())
    }
}

fn machine<S>(host: &crate::reconcile::Host<S>) -> String {
    let name = &host.node.name;
    match &host.machine {
        Some(m) => format!(
            "{name}\t{} {} {}, {}, {} MiB, host name {}, has {}",
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
