//! Files that outlive the packages they were written for: flags of an earlier kubelet, and files that change how containerd
//! and the kubelet start. They would win over what the inventory sets.

use super::nothing;
use crate::step::{Cx, Want};
use crate::steps::{kubelet, programs};

/// The hint says which settings of the inventory replace the most common of these flags.
const FLAGS: &str = "delete the line (a drop-in: rm FILE, systemctl daemon-reload), and set the value in the inventory: `ip` of the node for --node-ip, \
    the name of the node for --hostname-override, `labels` and `taints` of the node, [kubelet] for all other flags; or \
    downgrade the check to a warning: ignore-preflight = [\"KubeletArgs\"] in [cluster]";
const STARTS: &str = "delete the line or the file, then run systemctl daemon-reload (in the inventory, [proxy] sets the proxy of containerd, \
    and [containerd] its other settings); or keep the file: ignore-preflight = [\"UnitFiles\"] in [cluster]";

/// Wants for a machine that is not a member yet. On a member, the steps `runtime` and `kubelet` remove what is found here.
pub(super) fn wants(cx: &Cx) -> [Want; 2] {
    let flags = nothing(
        cx.cluster,
        "preflight.kubelet-flags",
        "no flags for the kubelet are set outside the inventory",
        kubelet::flags(),
        |_| "KubeletArgs".into(),
    );
    let starts = nothing(
        cx.cluster,
        "preflight.unit-files",
        "no local file changes how containerd and the kubelet start",
        programs::unit_files(),
        |_| programs::IGNORED.into(),
    );
    [(flags, FLAGS), (starts, STARTS)].map(|(want, hint)| want.by_hand(hint).only(!cx.machine.is_member()))
}
