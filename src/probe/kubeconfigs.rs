//! The parts of a kubeconfig that leave the machine: only what everybody may know.

use crate::shell::{Sh, WHOLE_KEY};

/// Makes shell that prints lines of `PATH KEY VALUE` about the kubeconfigs that follow. For a key it prints only
/// whether the key is whole. For other values that may be secret it prints only that they are set.
pub(super) fn question() -> Sh {
    Sh::raw("awk '") + WHOLE_KEY + PROGRAM + "'"
}

const PROGRAM: &str = include_str!("../../templates/kubeconfig.awk");
