//! The one thing a machine can do for us, and every scrap of shell that more than one step needs. The only
//! quoting there is.

use crate::error::Result;

/// A machine that runs shell for us, as root.
pub trait Shell: Send + Sync + 'static {
    /// Runs `script` by `/bin/sh` as root. `heard` gets standard output as it arrives, in pieces of any size.
    ///
    /// Fails when the machine cannot be reached, or the connection is lost before the exit status came: then
    /// nobody knows how far the script got. A script that ran and failed is an `Output`.
    fn run(
        &self,
        script: &str,
        heard: &mut (dyn FnMut(&[u8]) + Send),
    ) -> impl Future<Output = Result<Output>> + Send;
}

/// What a script left behind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    /// The exit status; a death by signal N is 128 + N.
    pub status: i32,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}
