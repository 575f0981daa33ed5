//! Drift of the kernel's settings and of /etc/hosts.

use super::By::Anywhere;
use super::{KIND, Kind};

const ON_DISK: &str = "kernel.sysctls-at-boot";
const OVERRIDES: &str = "kernel.sysctl-overrides";
const AT_BOOT: &str = "hosts.cloud-init";
const LEADS: &str = "hosts.endpoint";
const NAMES: &str = "hosts.file";

pub const KINDS: &[Kind] = &[
    Kind {
        says: "kernel: cloud-init writes /etc/hosts at the next boot",
        by: Anywhere(
            "w2",
            "mkdir -p /etc/cloud/templates; echo 'manage_etc_hosts: true' >/etc/cloud/cloud.cfg; printf '127.0.1.1 {{fqdn}} {{hostname}}\\n127.0.0.1 localhost\\n' >/etc/cloud/templates/hosts.debian.tmpl",
        ),
        shows: &[(".", "hosts", AT_BOOT, "198.18.0.11 api.demo.internal # ironstrap: demo")],
        differs: &["/etc/cloud", "/etc/cloud/"],
        ..KIND
    },
    Kind {
        says: "kernel: cloud-init writes /etc/hosts at the next boot, as the provider has it",
        by: Anywhere(
            "w2",
            "mkdir -p /etc/cloud/templates /var/lib/cloud/instance; rm -f /etc/cloud/cloud.cfg; echo 'manage_etc_hosts: true' >/var/lib/cloud/instance/vendor2-cloud-config.txt; printf '127.0.1.1 {{fqdn}} {{hostname}}\\n127.0.0.1 localhost\\n' >/etc/cloud/templates/hosts.debian.tmpl",
        ),
        shows: &[(".", "hosts", AT_BOOT, "api.demo.internal # ironstrap: demo")],
        differs: &["/etc/cloud", "/etc/cloud/"],
        ..KIND
    },
    Kind {
        says: "kernel: nothing sets sysctls at the next boot",
        by: Anywhere("w1", "systemctl mask -q systemd-sysctl"),
        shows: &[(".", "kernel", "kernel.boot-unit[systemd-sysctl]", "masked")],
        ..KIND
    },
    Kind {
        says: "kernel: fewer inotify instances",
        by: Anywhere("w1", "sysctl -qw fs.inotify.max_user_instances=128"),
        shows: &[(".", "kernel", "kernel.sysctl[fs.inotify.max_user_instances]", "128")],
        ..KIND
    },
    Kind {
        says: "kernel: forwarding switched off",
        by: Anywhere("w2", "sysctl -qw net.ipv4.ip_forward=0"),
        shows: &[(".", "kernel", "kernel.sysctl[net.ipv4.ip_forward]", "0\n1")],
        ..KIND
    },
    Kind {
        says: "kernel: bridged IPv4 no longer filtered",
        by: Anywhere("w1", "sysctl -qw net.bridge.bridge-nf-call-iptables=0"),
        shows: &[(".", "kernel", "kernel.sysctl[net.bridge.bridge-nf-call-iptables]", "0\n1")],
        ..KIND
    },
    Kind {
        says: "kernel: bridged IPv6 no longer filtered",
        by: Anywhere("m1", "sysctl -qw net.bridge.bridge-nf-call-ip6tables=0"),
        shows: &[(".", "kernel", "kernel.sysctl[net.bridge.bridge-nf-call-ip6tables]", "0\n1")],
        ..KIND
    },
    Kind {
        says: "kernel: forwarding off at the next boot",
        by: Anywhere("w1", "sed -i '/ip_forward/s/1/0/' /etc/sysctl.d/99-zz-ironstrap.conf"),
        shows: &[(".", "kernel", ON_DISK, "net.ipv4.ip_forward = 0")],
        ..KIND
    },
    Kind {
        says: "kernel: bridged IPv4 not filtered at the next boot",
        by: Anywhere("w2", "sed -i '/call-iptables/s/1/0/' /etc/sysctl.d/99-zz-ironstrap.conf"),
        shows: &[(".", "kernel", ON_DISK, "net.bridge.bridge-nf-call-iptables = 0")],
        ..KIND
    },
    Kind {
        says: "kernel: bridged IPv6 not filtered at the next boot",
        by: Anywhere("w2", "sed -i '/call-ip6tables/s/1/0/' /etc/sysctl.d/99-zz-ironstrap.conf"),
        shows: &[(".", "kernel", ON_DISK, "net.bridge.bridge-nf-call-ip6tables = 0")],
        ..KIND
    },
    Kind {
        says: "kernel: the file of sysctls gone",
        by: Anywhere("m1", "rm /etc/sysctl.d/99-zz-ironstrap.conf"),
        shows: &[(".", "kernel", ON_DISK, "mode 644 root:root")],
        ..KIND
    },
    Kind {
        says: "kernel: a line more in the file of sysctls",
        by: Anywhere("w1", "echo 'net.ipv4.conf.all.rp_filter = 1' >>/etc/sysctl.d/99-zz-ironstrap.conf"),
        shows: &[(".", "kernel", ON_DISK, "net.ipv4.conf.all.rp_filter = 1")],
        ..KIND
    },
    Kind {
        says: "kernel: the file of sysctls with another mode",
        by: Anywhere("w1", "chmod 600 /etc/sysctl.d/99-zz-ironstrap.conf"),
        shows: &[(".", "kernel", ON_DISK, "mode 600 root:root")],
        ..KIND
    },
    Kind {
        says: "kernel: the file of sysctls somebody else's",
        by: Anywhere("w2", "chown ops: /etc/sysctl.d/99-zz-ironstrap.conf"),
        shows: &[(".", "kernel", ON_DISK, "mode 644 ops:ops")],
        ..KIND
    },
    Kind {
        says: "kernel: modules no longer loaded at boot",
        by: Anywhere("w2", "rm /etc/modules-load.d/ironstrap.conf"),
        shows: &[(".", "kernel", "kernel.modules-at-boot", "br_netfilter")],
        ..KIND
    },
    Kind {
        says: "kernel: one module less at boot",
        by: Anywhere("w1", "sed -i /overlay/d /etc/modules-load.d/ironstrap.conf"),
        shows: &[(".", "kernel", "kernel.modules-at-boot", "overlay")],
        ..KIND
    },
    Kind {
        says: "kernel: a file that is read after ours and says otherwise",
        by: Anywhere(
            "w1",
            "printf '# theirs\\nvm.swappiness = 10\\nnet.ipv4.ip_forward = 0\\n' >/etc/sysctl.d/99-zzz-theirs.conf",
        ),
        shows: &[(".", "kernel", OVERRIDES, "/etc/sysctl.d/99-zzz-theirs.conf: net.ipv4.ip_forward = 0")],
        differs: &["/etc/sysctl.d/99-zzz-theirs.conf"],
        ..KIND
    },
    Kind {
        says: "kernel: the same, written another way and until the next boot",
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
        says: "kernel: forwarding off at the next boot, by its other name",
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
        says: "kernel: fewer inotify instances at the next boot, by a package",
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
        says: "kernel: the cluster's card does not forward",
        by: Anywhere("w1", "sysctl -qw net.ipv4.conf.eth0.forwarding=0"),
        shows: &[(".", "kernel", "kernel.forwarding", "eth0")],
        ..KIND
    },
    Kind {
        says: "kernel: modules that are barred from the next boot on",
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
        says: "hosts: a line of somebody's gives the endpoint another address",
        by: Anywhere("w2", "sed -i '1i 192.0.2.9 api.demo.internal' /etc/hosts"),
        shows: &[
            (".", "hosts", NAMES, "# ironstrap: 192.0.2.9 api.demo.internal"),
            (".", "hosts", LEADS, "192.0.2.9\n"),
        ],
        differs: &["/etc/hosts"],
        ..KIND
    },
    Kind {
        says: "hosts: a name lost",
        by: Anywhere("m1", "sed -i '/ w2 /d' /etc/hosts"),
        shows: &[(".", "hosts", NAMES, "198.18.0.13 w2 # ironstrap: demo")],
        ..KIND
    },
    Kind {
        says: "hosts: a name that leads elsewhere",
        by: Anywhere("w1", "sed -i 's/^198.18.0.13 w2 /198.18.0.99 w2 /' /etc/hosts"),
        shows: &[(".", "hosts", NAMES, "198.18.0.99 w2")],
        ..KIND
    },
];
