//! Fuzz tests with cases that are nearly valid, each made from a seed. `tests/support/fuzz.rs` describes how to run them
//! longer, and how to repeat a failure.

// The exemption of clippy.toml for tests does not cover helpers. A loop prints its number of rounds, and the seed of a
// failure.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod canary;
mod inventory;
mod keys;
mod readers;
mod redactor;
#[path = "../support/mod.rs"]
mod support;
mod yaml;
