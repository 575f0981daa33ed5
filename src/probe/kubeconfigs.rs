//! What of a kubeconfig travels: what everybody may know.

use crate::shell::{Sh, WHOLE_KEY};

/// Lines of `PATH KEY VALUE` about the kubeconfigs that follow: of a key only whether it is whole, and of what else may be secret
/// only that it is set.
pub(super) fn question() -> Sh {
    Sh::raw("awk '") + WHOLE_KEY + PROGRAM + "'"
}

const PROGRAM: &str = include_str!("../../templates/kubeconfig.awk");
