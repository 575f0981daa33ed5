//! Parse, run, print what went wrong, exit.

use std::process::ExitCode;

use ironstrap::cli::{Cli, End};
use ironstrap::error::Kind;
use ironstrap::report;

#[tokio::main]
async fn main() -> ExitCode {
    match Cli::read().run().await {
        Ok(End::Good) => ExitCode::SUCCESS,
        Ok(End::Drift) => ExitCode::from(1),
        Err(errors) => {
            for error in &errors {
                report::err(&report::trouble(error));
            }
            // Some nodes were left, others are as wanted: that is what the exit code says then.
            ExitCode::from(errors.last().map_or(Kind::Failed, |error| error.kind).code())
        }
    }
}
