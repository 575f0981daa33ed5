//! What is broken, and what a plan has to say to it: data.

pub struct Row {
    /// Shell, run as root on the machine.
    pub breaks: &'static str,
    /// Step and want, all that must be planned and mended.
    pub shows: &'static [(&'static str, &'static str)],
}

macro_rules! rows {
    ($($breaks:literal => $($step:literal $that:literal),+;)+) => {
        &[$(Row { breaks: $breaks, shows: &[$(($step, $that)),+] }),+]
    };
}

/// Broken while the machine runs.
pub const LIVE: &[Row] = rows! {
    "swapon /swap.img" => "swap" "no swap is active";
    "swapon /dev/nvme0n1p2" => "swap" "no swap is active";
    "systemctl start dev-zram0.swap" => "swap" "no swap is active";
    "echo '/swap.img none swap sw 0 0' >>/etc/fstab" => "swap" "fstab brings no swap back";
    "systemctl unmask -q swap.target" => "swap" "systemd brings no swap back";
    "rmmod overlay" => "kernel" "overlay file systems can be mounted";
    "rmmod nf_conntrack" => "kernel" "connections are tracked";
    // It comes back with its own defaults, which are right here.
    "rmmod br_netfilter" =>
        "kernel" "bridged traffic can be filtered",
        "kernel" "net.bridge.bridge-nf-call-ip6tables is 1",
        "kernel" "net.bridge.bridge-nf-call-iptables is 1";
    "rm /etc/modules-load.d/ironstrap.conf" => "kernel" "modules are loaded at boot";
    "rm /etc/sysctl.d/99-zz-ironstrap.conf" => "kernel" "sysctls are set at boot";
    "sysctl -qw net.ipv4.ip_forward=0" => "kernel" "net.ipv4.ip_forward is 1";
    "sysctl -qw net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0" =>
        "kernel" "net.bridge.bridge-nf-call-iptables is 1",
        "kernel" "net.bridge.bridge-nf-call-ip6tables is 1";
    "sysctl -qw vm.overcommit_memory=0 vm.panic_on_oom=1 kernel.panic=0 kernel.panic_on_oops=0" =>
        "kernel" "vm.overcommit_memory is 1",
        "kernel" "vm.panic_on_oom is 0",
        "kernel" "kernel.panic is 10",
        "kernel" "kernel.panic_on_oops is 1";
    "rm /etc/sysctl.d/00-ironstrap.conf" => "kernel" "limits of inotify are set at boot";
    "sysctl -qw fs.inotify.max_user_instances=128" =>
        "kernel" "fs.inotify.max_user_instances is 8192 or more";
    "sysctl -qw kernel.keys.root_maxkeys=200 kernel.keys.root_maxbytes=20000" =>
        "kernel" "kernel.keys.root_maxkeys is 1000000",
        "kernel" "kernel.keys.root_maxbytes is 25000000";
};

/// Broken so that a reboot brings it to light.
pub const AT_BOOT: &str = "systemctl unmask -q swap.target; rm /etc/modules-load.d/ironstrap.conf /etc/sysctl.d/99-zz-ironstrap.conf";

/// The files themselves, and all that they no longer brought about; not `vm.panic_on_oom`, which is as wanted by
/// default.
pub const AT_BOOT_EXPECTED: &[(&str, &str)] = &[
    ("swap", "systemd brings no swap back"),
    ("swap", "no swap is active"),
    ("kernel", "modules are loaded at boot"),
    ("kernel", "sysctls are set at boot"),
    ("kernel", "overlay file systems can be mounted"),
    ("kernel", "bridged traffic can be filtered"),
    ("kernel", "connections are tracked"),
    ("kernel", "net.bridge.bridge-nf-call-ip6tables is 1"),
    ("kernel", "net.bridge.bridge-nf-call-iptables is 1"),
    ("kernel", "net.ipv4.ip_forward is 1"),
    ("kernel", "vm.overcommit_memory is 1"),
    ("kernel", "kernel.panic is 10"),
    ("kernel", "kernel.panic_on_oops is 1"),
];
