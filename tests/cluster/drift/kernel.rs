//! Drift of kernel settings and of /etc/hosts.

use super::By::Anywhere;
use super::{KIND, Kind};

const ON_DISK: &str = "kernel.sysctls-at-boot";
const OVERRIDES: &str = "kernel.sysctl-overrides";
const AT_BOOT: &str = "hosts.cloud-init";
const LEADS: &str = "hosts.endpoint";
const NAMES: &str = "hosts.file";

pub const KINDS: &[Kind] = &[
    Kind {
        says: "kernel: cloud-init would write /etc/hosts at the next boot",
        by: Anywhere(
            "w2",
            "mkdir -p /etc/cloud/templates; echo 'manage_etc_hosts: true' >/etc/cloud/cloud.cfg; printf '127.0.1.1 {{fqdn}} {{hostname}}\\n127.0.0.1 localhost\\n' >/etc/cloud/templates/hosts.debian.tmpl",
        ),
        shows: &[(".", "hosts", AT_BOOT, "198.18.0.11 api.demo.internal # ironstrap: demo")],
        differs: &["/etc/cloud", "/etc/cloud/"],
        ..KIND
    },
    Kind {
        says: "kernel: the provider's cloud-init would write /etc/hosts at the next boot",
        by: Anywhere(
            "w2",
            "mkdir -p /etc/cloud/templates /var/lib/cloud/instance; rm -f /etc/cloud/cloud.cfg; echo 'manage_etc_hosts: true' >/var/lib/cloud/instance/vendor2-cloud-config.txt; printf '127.0.1.1 {{fqdn}} {{hostname}}\\n127.0.0.1 localhost\\n' >/etc/cloud/templates/hosts.debian.tmpl",
        ),
        shows: &[(".", "hosts", AT_BOOT, "api.demo.internal # ironstrap: demo")],
        differs: &["/etc/cloud", "/etc/cloud/"],
        ..KIND
    },
    Kind {
        says: "kernel: no unit would set sysctls at the next boot",
        by: Anywhere("w1", "systemctl mask -q systemd-sysctl"),
        shows: &[(".", "kernel", "kernel.boot-unit[systemd-sysctl]", "masked")],
        ..KIND
    },
    Kind {
        says: "kernel: the limit of inotify instances is too low",
        by: Anywhere("w1", "sysctl -qw fs.inotify.max_user_instances=128"),
        shows: &[(".", "kernel", "kernel.sysctl[fs.inotify.max_user_instances]", "128")],
        ..KIND
    },
    Kind {
        says: "kernel: forwarding is off",
        by: Anywhere("w2", "sysctl -qw net.ipv4.ip_forward=0"),
        shows: &[(".", "kernel", "kernel.sysctl[net.ipv4.ip_forward]", "0\n1")],
        ..KIND
    },
    Kind {
        says: "kernel: bridged IPv4 packets are not filtered",
        by: Anywhere("w1", "sysctl -qw net.bridge.bridge-nf-call-iptables=0"),
        shows: &[(".", "kernel", "kernel.sysctl[net.bridge.bridge-nf-call-iptables]", "0\n1")],
        ..KIND
    },
    Kind {
        says: "kernel: bridged IPv6 packets are not filtered",
        by: Anywhere("m1", "sysctl -qw net.bridge.bridge-nf-call-ip6tables=0"),
        shows: &[(".", "kernel", "kernel.sysctl[net.bridge.bridge-nf-call-ip6tables]", "0\n1")],
        ..KIND
    },
    Kind {
        says: "kernel: forwarding would be off after the next boot",
        by: Anywhere("w1", "sed -i '/ip_forward/s/1/0/' /etc/sysctl.d/99-zz-ironstrap.conf"),
        shows: &[(".", "kernel", ON_DISK, "net.ipv4.ip_forward = 0")],
        ..KIND
    },
    Kind {
        says: "kernel: bridged IPv4 packets would not be filtered after the next boot",
        by: Anywhere("w2", "sed -i '/call-iptables/s/1/0/' /etc/sysctl.d/99-zz-ironstrap.conf"),
        shows: &[(".", "kernel", ON_DISK, "net.bridge.bridge-nf-call-iptables = 0")],
        ..KIND
    },
    Kind {
        says: "kernel: bridged IPv6 packets would not be filtered after the next boot",
        by: Anywhere("w2", "sed -i '/call-ip6tables/s/1/0/' /etc/sysctl.d/99-zz-ironstrap.conf"),
        shows: &[(".", "kernel", ON_DISK, "net.bridge.bridge-nf-call-ip6tables = 0")],
        ..KIND
    },
    Kind {
        says: "kernel: the sysctl file is missing",
        by: Anywhere("m1", "rm /etc/sysctl.d/99-zz-ironstrap.conf"),
        shows: &[(".", "kernel", ON_DISK, "mode 644 root:root")],
        ..KIND
    },
    Kind {
        says: "kernel: the sysctl file has an additional line",
        by: Anywhere("w1", "echo 'net.ipv4.conf.all.rp_filter = 1' >>/etc/sysctl.d/99-zz-ironstrap.conf"),
        shows: &[(".", "kernel", ON_DISK, "net.ipv4.conf.all.rp_filter = 1")],
        ..KIND
    },
    Kind {
        says: "kernel: the sysctl file has another mode",
        by: Anywhere("w1", "chmod 600 /etc/sysctl.d/99-zz-ironstrap.conf"),
        shows: &[(".", "kernel", ON_DISK, "mode 600 root:root")],
        ..KIND
    },
    Kind {
        says: "kernel: the sysctl file has another owner",
        by: Anywhere("w2", "chown ops: /etc/sysctl.d/99-zz-ironstrap.conf"),
        shows: &[(".", "kernel", ON_DISK, "mode 644 ops:ops")],
        ..KIND
    },
    Kind {
        says: "kernel: the modules would not be loaded at boot",
        by: Anywhere("w2", "rm /etc/modules-load.d/ironstrap.conf"),
        shows: &[(".", "kernel", "kernel.modules-at-boot", "br_netfilter")],
        ..KIND
    },
    Kind {
        says: "kernel: one module would not be loaded at boot",
        by: Anywhere("w1", "sed -i /overlay/d /etc/modules-load.d/ironstrap.conf"),
        shows: &[(".", "kernel", "kernel.modules-at-boot", "overlay")],
        ..KIND
    },
    Kind {
        says: "kernel: a later sysctl file overrides a setting",
        by: Anywhere(
            "w1",
            "printf '# theirs\\nvm.swappiness = 10\\nnet.ipv4.ip_forward = 0\\n' >/etc/sysctl.d/99-zzz-theirs.conf",
        ),
        shows: &[(".", "kernel", OVERRIDES, "/etc/sysctl.d/99-zzz-theirs.conf: net.ipv4.ip_forward = 0")],
        differs: &["/etc/sysctl.d/99-zzz-theirs.conf"],
        ..KIND
    },
    Kind {
        says: "kernel: a sysctl file in /run overrides a setting in another notation",
        by: Anywhere(
            "m1",
            "mkdir -p /run/sysctl.d; echo '-net/bridge/bridge-nf-call-iptables=0' >/run/sysctl.d/99-zzzz.conf",
        ),
        shows: &[(
            ".",
            "kernel",
            OVERRIDES,
            "/run/sysctl.d/99-zzzz.conf: -net/bridge/bridge-nf-call-iptables=0",
        )],
        ..KIND
    },
    Kind {
        says: "kernel: a sysctl file turns forwarding off by its other name",
        by: Anywhere("w1", "echo 'net.ipv4.conf.all.forwarding = 0' >/etc/sysctl.d/zz-theirs.conf"),
        shows: &[(
            ".",
            "kernel",
            OVERRIDES,
            "/etc/sysctl.d/zz-theirs.conf: net.ipv4.conf.all.forwarding = 0",
        )],
        differs: &["/etc/sysctl.d/zz-theirs.conf"],
        ..KIND
    },
    Kind {
        says: "kernel: a package's sysctl file lowers the limit of inotify instances",
        by: Anywhere("w2", "echo 'fs.inotify.max_user_instances = 128' >/usr/lib/sysctl.d/50-theirs.conf"),
        shows: &[(
            ".",
            "kernel",
            "kernel.inotify-overrides",
            "/usr/lib/sysctl.d/50-theirs.conf: fs.inotify.max_user_instances = 128",
        )],
        differs: &["/etc/sysctl.d/50-theirs.conf", "/usr/lib/sysctl.d/50-theirs.conf"],
        ..KIND
    },
    Kind {
        says: "kernel: the cluster's network interface does not forward",
        by: Anywhere("w1", "sysctl -qw net.ipv4.conf.eth0.forwarding=0"),
        shows: &[(".", "kernel", "kernel.forwarding", "eth0")],
        ..KIND
    },
    Kind {
        says: "kernel: modprobe.d bars modules from the next boot on",
        by: Anywhere(
            "w1",
            "printf 'blacklist br-netfilter\\ninstall overlay /bin/false\\ninstall nf_conntrack /sbin/modprobe --ignore-install nf_conntrack\\n' >/etc/modprobe.d/hardened.conf",
        ),
        shows: &[(
            ".",
            "kernel",
            "kernel.barred-modules",
            "/etc/modprobe.d/hardened.conf:1: blacklist br-netfilter\n/etc/modprobe.d/hardened.conf:2: install overlay /bin/false",
        )],
        differs: &["/etc/modprobe.d/hardened.conf"],
        ..KIND
    },
    Kind {
        says: "hosts: a foreign line gives the endpoint another address",
        by: Anywhere("w2", "sed -i '1i 192.0.2.9 api.demo.internal' /etc/hosts"),
        shows: &[
            (".", "hosts", NAMES, "# ironstrap: 192.0.2.9 api.demo.internal"),
            (".", "hosts", LEADS, "192.0.2.9\n"),
        ],
        differs: &["/etc/hosts"],
        ..KIND
    },
    Kind {
        says: "hosts: a name is missing",
        by: Anywhere("m1", "sed -i '/ w2 /d' /etc/hosts"),
        shows: &[(".", "hosts", NAMES, "198.18.0.13 w2 # ironstrap: demo")],
        ..KIND
    },
    Kind {
        says: "hosts: a name has another address",
        by: Anywhere("w1", "sed -i 's/^198.18.0.13 w2 /198.18.0.99 w2 /' /etc/hosts"),
        shows: &[(".", "hosts", NAMES, "198.18.0.99 w2")],
        ..KIND
    },
];
