//! swap: it is off, and stays off after a reboot.

use crate::error::Result;
use crate::shell::Sh;
use crate::step::{Ask, Back, Cx, Step, Undo, Want};

pub const STEP: Step = Step { name: "swap", why: "the kubelet refuses to start while swap is on", wants };

/// Prints the swap that is on.
const ACTIVE: &str = r#"while read -r f _; do [ "$f" = Filename ] || echo "$f"; done </proc/swaps"#;

/// The functions for units and services that bring swap.
const FUNCTIONS: Sh = Sh::raw(include_str!("../../templates/swap-services.sh"));

// In the shell of a reset, `$was` is the file with the answer from before the fix (`Back::script`).

const SERVICES_ON: &str = r#"while read -r u; do
  [ -z "$u" ] || systemctl enable -q --now "$u" || echo "cannot start $u"
done <"$was""#;

const UNITS_ON: &str = r#"while read -r u; do
  [ -z "$u" ] || systemctl enable -q "$u" || echo "cannot enable $u"
done <"$was""#;

/// Shell that turns swap on again. Swap that is gone, or that each boot creates again, cannot be turned on by its name.
const SWAP_ON: &str = r#"while read -r f; do
  [ -z "$f" ] || grep -q "^$f " /proc/swaps || swapon "$f" || echo "$f is not available any more"
done <"$was""#;

fn wants(cx: &Cx) -> Result<Vec<Want>> {
    // If the inventory lets the kubelet run with swap, the swap stays. A reset still finds what an earlier inventory changed.
    let must_be_off = cx.cluster.kubelet.get("failSwapOn") != Some(&false.into());
    let wants = vec![
        Want::edit("swap.fstab", "swap is off in fstab", "/etc/fstab", comment_out_swap, bring_back_swap),
        Want::edit(
            "swap.zram",
            "zram-generator creates no swap",
            "/etc/systemd/zram-generator.conf",
            comment_out_zram,
            bring_back_swap,
        ),
        // This target pulls in everything else that brings swap: zram-generator, a partition found by its type, most units.
        Want::new("swap.target", "swap.target is masked")
            .ask(Ask::Unit { unit: "swap.target".into(), reads: vec![] })
            .is("masked")
            .run("systemctl mask -q swap.target")
            .undone_by(Undo::Back(
                Back::new("swap.target", "systemd may activate swap again")
                    .script("systemctl unmask -q swap.target"),
            )),
        Want::new("swap.active", "swap is off").ask(ACTIVE).is("").run("swapoff -a").undone_by(Undo::Back(
            Back::new("active", "swap is restored to its earlier state").now(ACTIVE).script(SWAP_ON),
        )),
        units(),
        services(),
    ];
    Ok(wants.into_iter().map(|want| want.only(must_be_off)).collect())
}

/// The want that no unit of swap starts at boot. It is about units that something else than swap.target pulls in.
fn units() -> Want {
    Want::new("swap.units", "no systemd unit activates swap at boot")
        .ask(FUNCTIONS + "swap_units\n")
        .is("")
        .run(FUNCTIONS + "swap_units_off\n")
        .undone_by(Undo::Back(
            Back::new("units", "swap units are restored to their earlier state")
                .now(FUNCTIONS + "swap_units\n")
                .script(UNITS_ON),
        ))
}

/// The want that no service turns swap on. It comes after the wants that turn swap off. So a reset starts these services
/// first, and they turn on their own swap.
fn services() -> Want {
    Want::new("swap.services", "no service turns swap on")
        .ask(FUNCTIONS + "swap_services\n")
        .is("")
        .run(FUNCTIONS + "swap_services_off\n")
        .undone_by(Undo::Back(
            Back::new("services", "services that turn swap on are restored to their earlier state")
                .now(FUNCTIONS + "swap_services\n")
                .script(SERVICES_ON),
        ))
}

/// Comments out each swap line and leaves every other byte alone.
fn comment_out_swap(fstab: &str) -> String {
    let line = |line: &str| match line.split_whitespace().nth(2) {
        Some("swap") if !line.trim_start().starts_with('#') => format!("# ironstrap: {line}"),
        _ => line.to_string(),
    };
    fstab.split_inclusive('\n').map(line).collect()
}

/// Comments out the sections of zram devices that serve as swap: those that are not mounted (zram-generator.conf(5)).
fn comment_out_zram(config: &str) -> String {
    let mut text = String::new();
    let mut rest = config;
    while !rest.is_empty() {
        let next = rest.match_indices("\n[").map(|(at, _)| at + 1).next().unwrap_or(rest.len());
        let (section, after) = rest.split_at(next);
        let mounted = section.lines().any(|line| {
            let key = line.split('=').next().unwrap_or_default().trim();
            key == "mount-point" || key == "fs-type"
        });
        let live = |line: &&str| !line.trim().is_empty() && !line.starts_with(['#', ';']);
        for line in section.split_inclusive('\n') {
            let swap = section.starts_with("[zram") && !mounted && live(&line);
            text += if swap { "# ironstrap: " } else { "" };
            text += line;
        }
        rest = after;
    }
    text
}

/// Removes ironstrap's marks again.
fn bring_back_swap(text: &str) -> String {
    text.split_inclusive('\n').map(|line| line.strip_prefix("# ironstrap: ").unwrap_or(line)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_active_swap_lines_are_commented_out() {
        let before = "UUID=a / ext4 defaults 0 1\n/swap.img none swap sw 0 0\n# /old none swap sw 0 0\n\tLABEL=s none swap sw";
        let after = "UUID=a / ext4 defaults 0 1\n# ironstrap: /swap.img none swap sw 0 0\n# /old none swap sw 0 0\n# ironstrap: \tLABEL=s none swap sw";
        assert_eq!(comment_out_swap(before), after);
        assert_eq!(comment_out_swap(after), after, "a second edit changes nothing");
        assert_eq!(bring_back_swap(after), before);
        assert_eq!(bring_back_swap(&format!("{after}\n/new swap")), format!("{before}\n/new swap"));
    }

    #[test]
    fn only_zram_devices_for_swap_are_commented_out() {
        let before = "# mine\n[zram0]\nzram-size = ram / 2\n\n[zram1]\nmount-point = /var/tmp\n[zram2]\n";
        let after = "# mine\n# ironstrap: [zram0]\n# ironstrap: zram-size = ram / 2\n\n[zram1]\nmount-point = /var/tmp\n# ironstrap: [zram2]\n";
        assert_eq!(comment_out_zram(before), after);
        assert_eq!(comment_out_zram(after), after, "a second edit changes nothing");
        assert_eq!(comment_out_zram(""), "");
    }
}
