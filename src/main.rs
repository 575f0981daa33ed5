//! The `ironstrap` program: reads the command line, runs the command, prints its errors and exits.

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
        Ok(End::Reported(kind)) => ExitCode::from(kind.code()),
        Err(errors) => {
            report::group::troubles(&errors).iter().for_each(|told| report::err(told));
            // If some nodes are quarantined and others converged, the exit code says that.
            ExitCode::from(errors.last().map_or(Kind::Failed, |error| error.kind).code())
        }
    }
}

/// Raises the limit of open files to the most that the system allows. Each SSH connection is an open file. A shell often
/// allows 1,024 of them, and the system mostly allows more to a process that asks.
fn lift_limit() {
    let limit = getrlimit(Resource::Nofile);
    // If the system refuses this, the present limit is still enough for a few nodes.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// Turns core dumps off and keeps other processes from reading the memory of this one. The memory contains keys and
/// passwords. So it is never written to a file, and no other process of the user may read it.
fn leave_no_dumps() {
    // The system refuses neither call, because a process may always lower a limit.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}
