//! swap: off now, and off after a reboot.

use crate::error::Result;
use crate::step::{Ask, Cx, Step, Want};

pub const STEP: Step = Step { name: "swap", why: "the kubelet refuses to start while swap is on", wants };

fn wants(cx: &Cx) -> Result<Vec<Want>> {
    // Whoever tells the kubelet to live with swap wants to keep it.
    if cx.cluster.kubelet.get("failSwapOn") == Some(&false.into()) {
        return Ok(vec![]);
    }
    Ok(vec![
        Want::edit("fstab brings no swap back", "/etc/fstab", comment_out_swap),
        // Whatever else brings swap (units of its own, zram-generator, a partition found by its type) is pulled
        // in through this target.
        Want::that("systemd brings no swap back")
            .asks(Ask::Unit { unit: "swap.target".into(), reads: vec![] })
            .is("masked")
            .run("systemctl mask -q swap.target"),
        Want::that("no swap is active")
            .ask("while read -r f x; do [ \"$f\" = Filename ] || echo \"$f\"; done </proc/swaps")
            .is("")
            .run("swapoff -a"),
    ])
}

/// Comments out each swap line and leaves every other byte alone.
fn comment_out_swap(fstab: &str) -> String {
    let line = |line: &str| match line.split_whitespace().nth(2) {
        Some("swap") if !line.trim_start().starts_with('#') => format!("# ironstrap: {line}"),
        _ => line.to_string(),
    };
    fstab.split_inclusive('\n').map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_live_swap_lines_are_commented_out() {
        let before = "UUID=a / ext4 defaults 0 1\n/swap.img none swap sw 0 0\n# /old none swap sw 0 0\n\tLABEL=s none swap sw";
        let after = "UUID=a / ext4 defaults 0 1\n# ironstrap: /swap.img none swap sw 0 0\n# /old none swap sw 0 0\n# ironstrap: \tLABEL=s none swap sw";
        assert_eq!(comment_out_swap(before), after);
        assert_eq!(comment_out_swap(after), after, "an edit applied twice is the edit applied once");
    }
}
