//! Drift of containerd.

use super::By::{Anywhere, Root};
use super::{KIND, Kind};

const ONLY_OURS: &str = "runtime.config";
const RUNS: &str = "runtime.unit";
const MEANT: &str = "runtime.config-in-use";
const HELD: &str = "runtime.packages";
const PROGRAMS: &str = "runtime.programs[containerd]";
const KUBELET_STARTS: &str = "kubelet.unit-files";
const STARTS: &str = "runtime.unit-files";

pub const KINDS: &[Kind] = &[
    Kind {
        says: "runtime: containerd's config has an additional line",
        by: Anywhere("w1", "echo '# edited' >>/etc/containerd/config.toml"),
        shows: &[(".", "runtime", ONLY_OURS, "# edited"), (".", "runtime", RUNS, ", but ")],
        ..KIND
    },
    Kind {
        says: "runtime: containerd's config is missing",
        by: Anywhere("w2", "rm /etc/containerd/config.toml"),
        shows: &[
            (".", "runtime", ONLY_OURS, "max_concurrent_downloads = 4"),
            (".", "runtime", RUNS, "restarted, because /etc/containerd/config.toml changes"),
            (".", "runtime", MEANT, "SystemdCgroup = true"),
        ],
        ..KIND
    },
    Kind {
        says: "runtime: containerd's config has another cgroup driver",
        by: Anywhere(
            "w1",
            "sed -i 's/SystemdCgroup = true/SystemdCgroup = false/' /etc/containerd/config.toml",
        ),
        shows: &[
            (".", "runtime", ONLY_OURS, "SystemdCgroup = false"),
            (".", "runtime", RUNS, ", but "),
            (".", "runtime", MEANT, "SystemdCgroup = false"),
        ],
        ..KIND
    },
    Kind {
        says: "runtime: containerd's config has another pause image",
        by: Anywhere("w2", "sed -i 's/pause:[0-9.]*/pause:3.1/' /etc/containerd/config.toml"),
        shows: &[
            (".", "runtime", ONLY_OURS, "pause:3.1\""),
            (".", "runtime", RUNS, ", but "),
            (".", "runtime", MEANT, "pause:3.1\n"),
        ],
        ..KIND
    },
    Kind {
        says: "runtime: a mirror is missing",
        by: Anywhere("w1", "rm /etc/containerd/certs.d/docker.io/hosts.toml"),
        shows: &[(".", "runtime", "runtime.mirrors[docker.io]", "http://198.18.0.1:5000")],
        ..KIND
    },
    Kind {
        says: "runtime: a mirror has another address",
        by: Anywhere(
            "m1",
            "sed -i s/198.18.0.1:/198.18.0.9:/ /etc/containerd/certs.d/registry.k8s.io/hosts.toml",
        ),
        shows: &[(".", "runtime", "runtime.mirrors[registry.k8s.io]", "198.18.0.9:5000")],
        ..KIND
    },
    Kind {
        says: "runtime: a mirror of an earlier inventory remains",
        by: Anywhere(
            "w1",
            "d=/etc/containerd/certs.d/quay.example; mkdir -p $d; echo x >$d/ca.crt; printf '# Kept by ironstrap: [registries] of the inventory.\\n[host.\"http://198.18.0.9:5000\"]\\nca = \"%s/ca.crt\"\\n' $d >$d/hosts.toml",
        ),
        shows: &[(".", "runtime", "runtime.old-mirrors", "/etc/containerd/certs.d/quay.example/hosts.toml")],
        ..KIND
    },
    Kind {
        says: "runtime: a foreign mirror is noted and stays",
        by: Root(
            "m1",
            "d=/etc/containerd/certs.d/quay.example; mkdir -p $d; echo '[host.\"http://198.18.0.9:5000\"]' >$d/hosts.toml",
        ),
        notes: "/etc/containerd/certs.d/quay.example/hosts.toml",
        differs: &["/etc/containerd/certs.d/"],
        then: "rm -r /etc/containerd/certs.d/quay.example",
        ..KIND
    },
    Kind {
        says: "runtime: containerd has a proxy that is not in the inventory",
        by: Anywhere(
            "w2",
            "mkdir -p /etc/systemd/system/containerd.service.d; printf '[Service]\\nEnvironment=HTTPS_PROXY=http://x:1\\n' >/etc/systemd/system/containerd.service.d/ironstrap-proxy.conf",
        ),
        shows: &[(".", "runtime", "runtime.proxy", "sha256"), (".", "runtime", RUNS, ", but ")],
        differs: &["/etc/systemd/system/containerd.service.d"],
        ..KIND
    },
    Kind {
        says: "runtime: containerd is stopped",
        by: Anywhere("w2", "systemctl stop containerd"),
        shows: &[(".", "runtime", RUNS, "enabled, inactive")],
        ..KIND
    },
    Kind {
        says: "runtime: containerd is disabled",
        by: Anywhere("w1", "systemctl disable -q containerd"),
        shows: &[(".", "runtime", RUNS, "disabled, active")],
        ..KIND
    },
    Kind {
        says: "runtime: containerd is masked",
        by: Anywhere("w2", "systemctl mask -q containerd"),
        shows: &[(".", "runtime", RUNS, "masked")],
        ..KIND
    },
    Kind {
        says: "runtime: containerd is masked and stopped",
        by: Anywhere("w1", "systemctl mask -q --now containerd"),
        shows: &[(".", "runtime", RUNS, "masked")],
        ..KIND
    },
    Kind {
        says: "runtime: containerd runs with an old config",
        by: Anywhere("w1", "touch /etc/containerd/config.toml"),
        shows: &[(".", "runtime", RUNS, "but /etc/containerd/config.toml changed after it started")],
        ..KIND
    },
    Kind {
        says: "runtime: runc is empty",
        by: Anywhere("w2", "rm /usr/sbin/runc; : >/usr/sbin/runc; chmod 755 /usr/sbin/runc"),
        shows: &[(".", "runtime", "runtime.programs[runc]", "/usr/sbin/runc was changed")],
        ..KIND
    },
    Kind {
        says: "runtime: another runc comes first in the PATH",
        by: Anywhere("m1", "cp /usr/sbin/runc /usr/local/sbin/runc"),
        notes: "/usr/local/sbin/runc runs instead of the package's program of that name",
        then: "rm /usr/local/sbin/runc",
        ..KIND
    },
    Kind {
        says: "runtime: containerd's shim is empty",
        by: Anywhere("w1", "f=/usr/bin/containerd-shim-runc-v2; rm $f; : >$f; chmod 755 $f"),
        shows: &[
            (".", "runtime", PROGRAMS, "/usr/bin/containerd-shim-runc-v2 was changed"),
            (".", "runtime", RUNS, "restarted, because /usr/bin/containerd changes"),
        ],
        ..KIND
    },
    Kind {
        says: "runtime: containerd's unit is edited",
        by: Anywhere(
            "w1",
            "sed -i s/KillMode=process/KillMode=control-group/ /usr/lib/systemd/system/containerd.service; systemctl daemon-reload",
        ),
        shows: &[
            (".", "runtime", PROGRAMS, "/usr/lib/systemd/system/containerd.service was edited"),
            (".", "runtime", RUNS, "restarted, because /usr/bin/containerd changes"),
        ],
        ..KIND
    },
    Kind {
        says: "runtime: a drop-in starts containerd with other arguments",
        by: Anywhere(
            "w2",
            "mkdir -p /etc/systemd/system/containerd.service.d; printf '[Service]\\nLimitNOFILE=1048576\\nExecStart=\\nExecStart=/usr/bin/containerd --log-level debug\\n' >/etc/systemd/system/containerd.service.d/more.conf; systemctl daemon-reload; systemctl restart containerd",
        ),
        shows: &[(
            ".",
            "runtime",
            STARTS,
            "/etc/systemd/system/containerd.service.d/more.conf:4: ExecStart=/usr/bin/containerd --log-level debug",
        )],
        differs: &["/etc/systemd/system/containerd.service.d", "/etc/systemd/system/containerd.service.d/"],
        ..KIND
    },
    Kind {
        says: "runtime: a foreign drop-in sets a proxy for containerd",
        by: Anywhere(
            "w1",
            "mkdir -p /etc/systemd/system/containerd.service.d; printf '[Service]\\nEnvironment=HTTPS_PROXY=http://198.18.0.99:1\\n' >/etc/systemd/system/containerd.service.d/proxy.conf; systemctl daemon-reload; systemctl restart containerd",
        ),
        shows: &[(".", "runtime", STARTS, "proxy.conf:2: Environment=HTTPS_PROXY")],
        differs: &["/etc/systemd/system/containerd.service.d", "/etc/systemd/system/containerd.service.d/"],
        ..KIND
    },
    Kind {
        says: "runtime: systemd's default environment sets a proxy",
        by: Anywhere(
            "w1",
            "mkdir -p /etc/systemd/system.conf.d; printf '[Manager]\\nDefaultEnvironment=HTTPS_PROXY=http://198.18.0.99:1\\n' >/etc/systemd/system.conf.d/proxy.conf",
        ),
        shows: &[
            (".", "runtime", STARTS, "proxy.conf:2: DefaultEnvironment=HTTPS_PROXY"),
            (".", "kubelet", KUBELET_STARTS, "proxy.conf:2: DefaultEnvironment=HTTPS_PROXY"),
        ],
        differs: &["/etc/systemd/system.conf.d", "/etc/systemd/system.conf.d/"],
        ..KIND
    },
    Kind {
        says: "runtime: containerd's socket is missing",
        by: Anywhere("w2", "mv /run/containerd/containerd.sock /run/containerd/other.sock"),
        shows: &[(".", "runtime", "runtime.socket", "containerd.sock is missing")],
        ..KIND
    },
    Kind {
        says: "runtime: containerd's package is not held",
        by: Anywhere("w2", "apt-mark unhold containerd"),
        shows: &[(".", "runtime", HELD, "containerd 1.7")],
        ..KIND
    },
    Kind {
        says: "runtime: containerd is too old",
        // Only in dpkg's database, because a package of that age would not run here.
        by: Anywhere(
            "w1",
            "sed -i '/^Package: containerd$/,/^$/s/^Version: .*/Version: 1.6.20~ds1-1/' /var/lib/dpkg/status",
        ),
        shows: &[(".", "runtime", HELD, "containerd 1.6.20")],
        ..KIND
    },
];
