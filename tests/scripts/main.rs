//! Runs the scripts of ironstrap in each shell of this computer: questions, fixes, and what reset deletes. A folder stands
//! for the machine, and its commands are scripts in that folder. The tests share one process. A test sets no environment
//! variable, no working directory and no signal handler.

// The exemption of clippy.toml for tests does not cover helpers.
#![allow(clippy::unwrap_used)]

mod active_checks;
mod asks;
mod credentials;
mod kept;
mod leaving;
mod member;
mod packets;
mod preflight;
mod processes;
mod readmit;
mod registries;
mod shell;
#[path = "../support/mod.rs"]
mod support;
mod watch;
