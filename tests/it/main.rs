//! The tests of every change, in one program, because each program of tests links all of ironstrap. The tests share one
//! process. A test sets no environment variable, no working directory and no signal handler.

// The exemption of clippy.toml for tests does not cover helpers.
#![allow(clippy::unwrap_used)]

mod addons;
mod architecture;
mod bundle;
mod cli;
mod docs;
mod golden;
mod hanging_hosts;
mod installed;
mod inventory;
mod lanes;
mod loopback;
mod nodes;
mod pki;
mod preflight_messages;
mod ssh;
mod status;
mod step_invariants;
#[path = "../support/mod.rs"]
mod support;
