//! Loops over cases that are nearly right, each from a seed: `tests/common/fuzz.rs` says how to run one for longer, and how
//! to repeat a failure.

// clippy sees no test in what the tests share. What a loop prints is its number of rounds, and the seed of a failure.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "../common/mod.rs"]
mod common;
mod inventory;
mod keys;
mod readers;
mod redactor;
mod yaml;
