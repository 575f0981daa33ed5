//! Flags of an earlier kubelet in files that outlive its package. They would win over what the inventory sets.

use super::nothing;
use crate::step::{Cx, Want};
use crate::steps::kubelet;

/// The remedy says where the inventory has what such flags are mostly there for.
const HINT: &str = "take the line out, and say it in the inventory: `ip` of the node in place of --node-ip, the node's own name in place of \
    --hostname-override, `labels` and `taints` of the node, [kubelet] for all others (in a drop-in: rm FILE, systemctl daemon-reload); or \
    let it be: ignore-preflight = [\"KubeletArgs\"] in [cluster]";

/// Of a member the kubelet step takes them out.
pub(super) fn want(cx: &Cx) -> Want {
    let name = |_: &str| "KubeletArgs".to_string();
    nothing(
        cx.cluster,
        "no flags wait for the kubelet that the inventory does not know",
        kubelet::flags(),
        name,
    )
    .by_hand(HINT)
    .only(!cx.machine.is_member())
}
