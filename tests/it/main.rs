//! The tests of every change, in one program, because each program of tests links all of ironstrap. The tests share one
//! process. A test sets no environment variable, no working directory and no signal handler.

// The exemption of clippy.toml for tests does not cover helpers.
#![allow(clippy::unwrap_used)]

mod active_checks;
mod addons;
mod architecture;
mod asks;
mod bundle;
mod cli;
mod credentials;
mod docs;
mod golden;
mod hanging_hosts;
mod installed;
mod inventory;
mod kept;
mod lanes;
mod leaving;
mod loopback;
mod member;
mod nodes;
mod packets;
mod pki;
mod preflight;
mod preflight_messages;
mod processes;
mod readmit;
mod registries;
mod shell;
mod ssh;
mod status;
mod step_invariants;
#[path = "../support/mod.rs"]
mod support;
mod watch;
