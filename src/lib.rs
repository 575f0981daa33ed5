//! ironstrap: one inventory file, SSH, and out comes a Kubernetes cluster.
//!
//! ```text
//! inventory ─▶ cluster ─▶ steps: wants ─▶ probe: one script ─▶ ssh ─▶ the machine
//!                                                                        │
//!    report ◀─ reconcile ◀─ plan: changes ◀─ probe: answers, and what it says of itself
//!                  └──▶ ledger: one script of fixes per stage ─▶ ssh ─▶ the machine ─▶ ask again
//! ```
//!
//! A **step** is a list of **wants**: a question, the right answer and a remedy. `plan`, `apply`, `status`
//! and `reset` are readings of that list. To add a step, write one file in `steps/` and name it in `steps::STAGES`.
//!
//! House rules:
//! - Each file uses only files above it in the list below; a test holds that.
//! - Asks depend on the inventory alone. *Unknown* is never taken for *absent*: what cannot be told is never changed.
//! - State, not events: a restart that is owed is asked for, not remembered.
//! - Only `store` and `ssh` (with `known_hosts`) change anything outside the program. Only `report::exit` writes to the
//!   terminal, and every text that leaves has passed `secret::Shown`; `inventory`, `fetch` and `cli` read the operator's side. Everything else is a function of values.
//! - A file opens with what it is and what it is not. Comments say why. Messages are lower-case sentences that
//!   begin with the node; whatever a user can act on has a hint.

pub mod secret;

pub mod error;

pub mod yaml;

pub mod cluster;

pub mod openpgp;

pub mod inventory;

pub mod shell;

pub mod etcd;

pub mod diagnosis;

pub mod machine;

pub mod pki;

pub mod store;

pub mod fleet;

pub mod manifest;

pub mod step;

pub mod template;

pub mod steps;

pub mod probe;

pub mod plan;

pub mod trial;

pub mod status;

pub mod backwards;

pub mod ops;

pub mod ledger;

pub mod known_hosts;

pub mod ssh;

pub mod fetch;

pub mod report;

pub mod reconcile;

pub mod cli;
