//! Drift of swap.

use super::By::Anywhere;
use super::{KIND, Kind};

pub const KINDS: &[Kind] = &[
    Kind {
        says: "swap: it is on",
        by: Anywhere("w2", "swapon /swap.img"),
        shows: &[(".", "swap", "swap.active", "/swap.img")],
        ..KIND
    },
    Kind {
        says: "swap: it is on, to an unknown file",
        by: Anywhere(
            "w1",
            "truncate -s 8M /var/tmp/more; chmod 600 /var/tmp/more; mkswap -q /var/tmp/more; swapon /var/tmp/more",
        ),
        shows: &[(".", "swap", "swap.active", "/var/tmp/more")],
        ..KIND
    },
    Kind {
        says: "swap: a service turns it on",
        by: Anywhere(
            "w1",
            "printf '[Service]\\nType=oneshot\\nRemainAfterExit=yes\\nExecStart=/usr/sbin/swapon /swap.img\\nExecStop=/usr/sbin/swapoff /swap.img\\n[Install]\\nWantedBy=multi-user.target\\n' >/usr/lib/systemd/system/zramswap.service; systemctl enable -q --now zramswap",
        ),
        shows: &[
            (".", "swap", "swap.active", "/swap.img"),
            (".", "swap", "swap.services", "zramswap.service"),
        ],
        differs: &["zramswap.service"],
        alone: "its unit file stays",
        ..KIND
    },
    Kind {
        says: "swap: fstab has a line again",
        by: Anywhere("w1", "echo '/swap.img none swap sw 0 0' >>/etc/fstab"),
        shows: &[(".", "swap", "swap.fstab", "# ironstrap: /swap.img none swap sw 0 0")],
        differs: &["/etc/fstab"],
        ..KIND
    },
    Kind {
        says: "swap: swap.target is not masked",
        by: Anywhere("m1", "systemctl unmask -q swap.target"),
        shows: &[(".", "swap", "swap.target", "masked")],
        ..KIND
    },
    Kind {
        says: "swap: a zram device is configured",
        by: Anywhere("w2", "printf '[zram0]\\nzram-size = ram / 2\\n' >/etc/systemd/zram-generator.conf"),
        shows: &[(".", "swap", "swap.zram", "# ironstrap: [zram0]")],
        differs: &["/etc/systemd/zram-generator.conf"],
        ..KIND
    },
    Kind {
        says: "swap: another target than swap.target starts a unit",
        by: Anywhere(
            "w1",
            "printf '[Swap]\\nWhat=/nowhere\\n[Install]\\nWantedBy=multi-user.target\\n' >/etc/systemd/system/nowhere.swap; systemctl enable -q nowhere.swap",
        ),
        shows: &[(".", "swap", "swap.units", "nowhere.swap")],
        differs: &["/etc/systemd/system/nowhere.swap", "nowhere.swap"],
        alone: "its unit file stays",
        ..KIND
    },
];
