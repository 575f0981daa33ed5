//! Questions whose answers grow with the cluster.

use super::Ask;
use crate::shell::Sh;

/// By this first line a question declares a large answer.
const LARGE: Sh = Sh::raw("# its answer grows with the cluster\n");

impl Ask {
    /// Shell whose answer grows with the cluster. Any other answer has a fixed limit.
    pub fn large(shell: impl Into<Sh>) -> Ask {
        let shell: Sh = shell.into();
        Ask::Shell(LARGE + shell)
    }

    pub fn is_large(&self) -> bool {
        matches!(self, Ask::Shell(shell) if shell.starts_with(&*LARGE))
    }
}
