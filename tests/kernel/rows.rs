//! The kinds of drift, and the wants that a plan must show for them.

pub struct Row {
    /// A shell script that root runs on the machine.
    pub breaks: &'static str,
    /// Step and want of all changes that an apply must plan and make.
    pub shows: &'static [(&'static str, &'static str)],
}

macro_rules! rows {
    ($($breaks:literal => $($step:literal $that:literal),+;)+) => {
        &[$(Row { breaks: $breaks, shows: &[$(($step, $that)),+] }),+]
    };
}

/// Drift while the machine runs.
pub const LIVE: &[Row] = rows! {
    "swapon /swap.img" => "swap" "swap.active";
    "swapon /dev/nvme0n1p2" => "swap" "swap.active";
    "systemctl start dev-zram0.swap" => "swap" "swap.active";
    "echo '/swap.img none swap sw 0 0' >>/etc/fstab" => "swap" "swap.fstab";
    "systemctl unmask -q swap.target" => "swap" "swap.target";
    "rmmod overlay" => "kernel" "kernel.module[overlay]";
    "rmmod nf_conntrack" => "kernel" "kernel.module[nf_conntrack]";
    // The module sets its own defaults again, which are right here.
    "rmmod br_netfilter" =>
        "kernel" "kernel.module[br_netfilter]",
        "kernel" "kernel.sysctl[net.bridge.bridge-nf-call-ip6tables]",
        "kernel" "kernel.sysctl[net.bridge.bridge-nf-call-iptables]";
    "rm /etc/modules-load.d/ironstrap.conf" => "kernel" "kernel.modules-at-boot";
    "rm /etc/sysctl.d/99-zz-ironstrap.conf" => "kernel" "kernel.sysctls-at-boot";
    "sysctl -qw net.ipv4.ip_forward=0" => "kernel" "kernel.sysctl[net.ipv4.ip_forward]";
    "sysctl -qw net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0" =>
        "kernel" "kernel.sysctl[net.bridge.bridge-nf-call-iptables]",
        "kernel" "kernel.sysctl[net.bridge.bridge-nf-call-ip6tables]";
    "sysctl -qw vm.overcommit_memory=0 vm.panic_on_oom=1 kernel.panic=0 kernel.panic_on_oops=0" =>
        "kernel" "kernel.sysctl[vm.overcommit_memory]",
        "kernel" "kernel.sysctl[vm.panic_on_oom]",
        "kernel" "kernel.sysctl[kernel.panic]",
        "kernel" "kernel.sysctl[kernel.panic_on_oops]";
    "rm /etc/sysctl.d/00-ironstrap.conf" => "kernel" "kernel.inotify-at-boot";
    "sysctl -qw fs.inotify.max_user_instances=128" =>
        "kernel" "kernel.sysctl[fs.inotify.max_user_instances]";
    "sysctl -qw kernel.keys.root_maxkeys=200 kernel.keys.root_maxbytes=20000" =>
        "kernel" "kernel.sysctl[kernel.keys.root_maxkeys]",
        "kernel" "kernel.sysctl[kernel.keys.root_maxbytes]";
};

/// Drift that takes effect at the next boot.
pub const AT_BOOT: &str = "systemctl unmask -q swap.target; rm /etc/modules-load.d/ironstrap.conf /etc/sysctl.d/99-zz-ironstrap.conf";

/// The changed files and the settings that are wrong without them. `vm.panic_on_oom` is not among them, because its default
/// is right.
pub const AT_BOOT_EXPECTED: &[(&str, &str)] = &[
    ("swap", "swap.target"),
    ("swap", "swap.active"),
    ("kernel", "kernel.modules-at-boot"),
    ("kernel", "kernel.sysctls-at-boot"),
    ("kernel", "kernel.module[overlay]"),
    ("kernel", "kernel.module[br_netfilter]"),
    ("kernel", "kernel.module[nf_conntrack]"),
    ("kernel", "kernel.sysctl[net.bridge.bridge-nf-call-ip6tables]"),
    ("kernel", "kernel.sysctl[net.bridge.bridge-nf-call-iptables]"),
    ("kernel", "kernel.sysctl[net.ipv4.ip_forward]"),
    ("kernel", "kernel.sysctl[vm.overcommit_memory]"),
    ("kernel", "kernel.sysctl[kernel.panic]"),
    ("kernel", "kernel.sysctl[kernel.panic_on_oops]"),
];
