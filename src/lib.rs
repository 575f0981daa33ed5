//! ironstrap creates a Kubernetes cluster over SSH from one inventory file.
//!
//! ```text
//! inventory ─▶ cluster ─▶ steps: wants ─▶ probe: one script ─▶ ssh ─▶ the machine
//!                                                                        │
//!    report ◀─ reconcile ◀─ plan: changes ◀─ probe: answers, and facts of the machine
//!                  └──▶ ledger: one script of fixes per stage ─▶ ssh ─▶ the machine ─▶ ask again
//! ```
//!
//! A **step** is a list of **wants**. A want has an ask (the question about the present state), the right answer and a fix.
//! `plan`, `apply`, `status` and `reset` read the same list. To add a step, write one file in `steps/` and add it to
//! `steps::STAGES`.
//!
//! House rules:
//! - Each module uses only modules above it in the list below. A test checks this.
//! - Asks depend on the inventory alone. *Unknown* is never taken for *absent*. If ironstrap cannot determine a state, it
//!   does not change it.
//! - State counts, not events. ironstrap asks whether a restart is due. It does not remember that one is due.
//! - Only `store` and `ssh` (with `known_hosts`) change anything outside the program. Only `report::exit` writes to the
//!   terminal. Every text that leaves the program passes `secret::Shown`. `inventory`, `fetch` and `cli` read the operator's
//!   files and URLs. Everything else is a function of values.
//! - A file begins with what it is and what it is not. Comments say why. Messages are lower-case sentences that begin with
//!   the node. Every message that a user can act on has a hint.

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

pub mod active_checks;

pub mod status;

pub mod operations;

pub mod ledger;

pub mod known_hosts;

pub mod ssh;

pub mod fetch;

pub mod report;

pub mod reconcile;

pub mod cli;
