//! Files that outlive the packages they were written for: flags of an earlier kubelet, and files that change how containerd
//! and the kubelet start. They would win over what the inventory sets.

use super::nothing;
use crate::step::{Cx, Want};
use crate::steps::{kubelet, programs};

/// The hint says which settings of the inventory replace the most common of these flags.
const FLAGS: &str = "take the line out, and say it in the inventory: `ip` of the node in place of --node-ip, the node's own name in place of \
    --hostname-override, `labels` and `taints` of the node, [kubelet] for all others (in a drop-in: rm FILE, systemctl daemon-reload); or \
    downgrade the check to a warning: ignore-preflight = [\"KubeletArgs\"] in [cluster]";
const STARTS: &str = "take the line out, or delete the file, then systemctl daemon-reload; the inventory has [proxy] for the proxy of \
    containerd, and [containerd] for its settings; to keep the file: ignore-preflight = [\"UnitFiles\"] in [cluster]";

/// Wants for a machine that is not a member yet. On a member, the steps `runtime` and `kubelet` remove what is found here.
pub(super) fn wants(cx: &Cx) -> [Want; 2] {
    let flags = nothing(
        cx.cluster,
        "preflight.kubelet-flags",
        "no flags wait for the kubelet that the inventory does not know",
        kubelet::flags(),
        |_| "KubeletArgs".into(),
    );
    let starts = nothing(
        cx.cluster,
        "preflight.unit-files",
        "no file of the machine's own changes how containerd and the kubelet start",
        programs::unit_files(),
        |_| programs::IGNORED.into(),
    );
    [(flags, FLAGS), (starts, STARTS)].map(|(want, hint)| want.by_hand(hint).only(!cx.machine.is_member()))
}
