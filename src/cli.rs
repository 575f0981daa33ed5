//! The command line: what can be asked of ironstrap. What each command takes and does is a file of its own.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::error::Error;

mod apply;
mod check;
mod plan;
mod start;

use start::{FleetArgs, Limit, Start};

/// Turns bare Linux machines into a Kubernetes cluster over SSH, and keeps them that way.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// In the order in which one comes to need them.
#[derive(Subcommand)]
enum Command {
    /// Read the inventory and say what is wrong with it; asks no machine.
    Check(check::Check),
    /// Ask every machine and show what is not as the inventory says; changes nothing.
    Plan(plan::Plan),
    /// Make the machines what the inventory says.
    Apply(apply::Apply),
}

/// How a command ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Good,
    /// `plan --exit-code` found drift.
    Drift,
}

/// Everything that went wrong; printed once, at the end, in one place.
pub type Errors = Vec<Error>;

/// What every command comes to.
type Outcome = std::result::Result<End, Errors>;

#[derive(Args)]
struct Inventory {
    /// The inventory of the cluster, a TOML file.
    #[arg(long, short, value_name = "FILE")]
    inventory: PathBuf,
}

impl Cli {
    /// Does what was asked.
    pub async fn run(self) -> Outcome {
        match self.command {
            Command::Check(args) => check::check(&args),
            Command::Plan(args) => plan::plan(&args).await,
            Command::Apply(args) => apply::apply(&args).await,
        }
    }
}

fn one(error: Error) -> Errors {
    vec![error]
}
