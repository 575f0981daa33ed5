//! Parse, run, print what went wrong, exit.

use std::process::ExitCode;

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

use ironstrap::cli::{Cli, End};
use ironstrap::error::Kind;
use ironstrap::report;

fn main() -> ExitCode {
    report::tell_panics();
    leave_no_dumps();
    lift_limit();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            report::err(&format!("✗ cannot start: {error}"));
            return ExitCode::from(Kind::Local.code());
        }
    };
    let end = runtime.block_on(Cli::read().run());
    report::over();
    // A lookup at a slow name server must not delay a user who stops the program.
    runtime.shutdown_background();
    match end {
        Ok(End::Good) => ExitCode::SUCCESS,
        Ok(End::Drift) => ExitCode::from(1),
        Ok(End::Told(kind)) => ExitCode::from(kind.code()),
        Err(errors) => {
            report::alike::troubles(&errors).iter().for_each(|told| report::err(told));
            // If some nodes are quarantined and others converged, the exit code says that.
            ExitCode::from(errors.last().map_or(Kind::Failed, |error| error.kind).code())
        }
    }
}

/// A connection is an open file, and where a shell allows 1,024 of them, the system mostly allows more to who asks.
fn lift_limit() {
    let limit = getrlimit(Resource::Nofile);
    // Refused, few nodes still have place.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// The memory of this program has keys and passwords in it, so it is never written to a file, and no other process of the
/// user may read it.
fn leave_no_dumps() {
    // Neither is ever refused: a limit may always be lowered.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}
