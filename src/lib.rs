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
//! `plan`, `apply`, `status` and `reset` read the same list. docs/architecture.md shows how to add a step.
//!
//! House rules:
//! - Each module uses only modules above it in the list below. A test checks this.
//! - Asks depend on the inventory alone. *Unknown* is never taken for *absent*. If ironstrap cannot determine a state, it
//!   does not change it.
//! - State counts, not events. ironstrap asks whether a restart is due. It does not remember that one is due.
//! - Only `store` and `ssh` (with `known_hosts`) change anything outside the program. Only `report::exit` writes to the
//!   terminal. Every text that leaves the program passes `secret::Shown`. `inventory`, `fetch` and `cli` read the operator's
//!   files and URLs, and `reconcile` reads the clock. Everything else is a function of values.
//! - A file begins with what it is and what it is not. Comments say why. Messages are lower-case sentences. A message about
//!   a machine begins with the node. It has a hint, unless its own words say what to do.

// A secret, the registry of all that this program knows, and the redactor of every text that leaves it.
pub mod secret;
// Errors, in words that a user can act on.
pub mod error;
// Reads and writes YAML as the programs of Kubernetes do.
pub mod yaml;
// The cluster that an inventory describes, checked and with all defaults.
pub mod cluster;
// Reads the public keys of package repositories.
pub mod openpgp;
// Reads the inventory, and reports all its mistakes at once.
pub mod inventory;
// The trait of a machine that runs shell, and the shell that several steps need.
pub mod shell;
// Questions to the etcd of the control planes.
pub mod etcd;
// Finds the cause of a failure in the logs of machines.
pub mod diagnosis;
// The facts that a machine reports about itself.
pub mod machine;
// The CAs, certificates and keys of the cluster.
pub mod pki;
// The operator's files: the cluster PKI, the kubeconfig and the lock.
pub mod store;
// What only all machines together can show: whether the cluster exists, and who joins.
pub mod fleet;
// Compares objects of the cluster with their manifests.
pub mod manifest;
// The parts of a step: a want, its question, its right answer and its fix.
pub mod step;
// Renders the files that ironstrap writes.
pub mod template;
// The steps, and their order.
pub mod steps;
// Puts all questions to a machine into one script, and reads the answers.
pub mod probe;
// Turns wants and answers into changes.
pub mod plan;
// Tries, before a join, whether machines and sources reach each other.
pub mod active_checks;
// The state of all nodes at a glance.
pub mod status;
// Reset and remove, as readings of the same list of wants.
pub mod operations;
// One script of fixes, and what it leaves on a machine: the lease and the saved state.
pub mod ledger;
// The host keys that the operator knows.
pub mod known_hosts;
// A machine over SSH.
pub mod ssh;
// Fetches addons that the inventory names by URL.
pub mod fetch;
// Events of a run, and how people and programs see them.
pub mod report;
// The main loop: ask, plan, fix, ask again.
pub mod reconcile;
// The command line.
pub mod cli;
