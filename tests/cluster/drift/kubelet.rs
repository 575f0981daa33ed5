//! Drift of the kubelet: packages, unit, settings and credentials.

use ironstrap::pki::TEMPORARY;

use super::By::{Anywhere, Operator, Root};
use super::certificates::kubelets;
use super::{KIND, Kind};

const BOOT: &str = "kubelet.at-boot";
const RUNS: &str = "member.kubelet-unit";
const HELD: &str = "kubelet.packages";
const UNIT: &str = "kubelet.unit";
const KEY: &str = "kubelet.repository-key";
const SOURCE: &str = "kubelet.repository";
const WROTE: &str = "member.kubeadm-files";
const LEADS: &str = "kubeconfigs.kubelet";
const ADMITTED: &str = "kubeconfigs.kubelet-certificate";
const RENEWS: &str = "kubeconfigs.renewal";
const READS: &str = "kubeconfigs.kubelet-state";
const MODES: &str = "permissions.modes";
const FLAGS: &str = "kubelet.no-flags";
const PROGRAM: &str = "kubelet.programs[kubelet]";
const STARTS: &str = "kubelet.unit-files";
const DROP_IN: &str = "/usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf";

pub const KINDS: &[Kind] = &[
    Kind {
        says: "kubelet: it is stopped",
        by: Anywhere("w2", "systemctl stop kubelet"),
        shows: &[(".", "member", RUNS, "enabled, inactive")],
        ..KIND
    },
    Kind {
        says: "kubelet: it is disabled",
        by: Anywhere("w1", "systemctl disable -q kubelet"),
        shows: &[(".", "kubelet", BOOT, "disabled"), (".", "member", RUNS, "disabled, active")],
        ..KIND
    },
    Kind {
        says: "kubelet: it is stopped and disabled",
        by: Anywhere("w1", "systemctl disable -q --now kubelet"),
        shows: &[(".", "kubelet", BOOT, "disabled"), (".", "member", RUNS, "disabled, inactive")],
        ..KIND
    },
    Kind {
        says: "kubelet: it is masked",
        by: Anywhere("w2", "systemctl mask -q kubelet"),
        shows: &[(".", "kubelet", BOOT, "masked"), (".", "member", RUNS, "masked")],
        ..KIND
    },
    Kind {
        says: "kubelet: kubeadm's package is not held",
        by: Anywhere("w2", "apt-mark unhold kubeadm"),
        shows: &[(".", "kubelet", HELD, "kubeadm 1.36.3")],
        ..KIND
    },
    Kind {
        says: "kubelet: kubectl is removed",
        by: Anywhere("w1", "dpkg --purge --force-hold kubectl"),
        shows: &[(".", "kubelet", HELD, "kubectl is not installed")],
        ..KIND
    },
    Kind {
        says: "kubelet: kubectl has another version",
        by: Anywhere("w2", OLDER),
        shows: &[(".", "kubelet", HELD, "1.36.2-1.1")],
        ..KIND
    },
    Kind {
        says: "kubelet: the package repository is another one",
        by: Anywhere("w1", "sed -i s/v1.36/v1.35/ /etc/apt/sources.list.d/kubernetes.list"),
        shows: &[(".", "kubelet", SOURCE, "v1.35/deb/")],
        ..KIND
    },
    Kind {
        says: "kubelet: the package repository is missing",
        by: Anywhere("w2", "rm /etc/apt/sources.list.d/kubernetes.list"),
        shows: &[(".", "kubelet", SOURCE, "v1.36/deb/")],
        ..KIND
    },
    Kind {
        says: "kubelet: the repository's key is cut off",
        by: Anywhere("w1", "truncate -s 300 /etc/apt/keyrings/kubernetes-apt-keyring.asc"),
        shows: &[(".", "kubelet", KEY, "it is cut off")],
        ..KIND
    },
    Kind {
        says: "kubelet: the repository's key is missing",
        by: Anywhere("m1", "rm /etc/apt/keyrings/kubernetes-apt-keyring.asc"),
        shows: &[(".", "kubelet", KEY, "mode 644 root:root\nkey ")],
        ..KIND
    },
    Kind {
        says: "kubelet: kubeadm's drop-in is edited",
        by: Anywhere(
            "w1",
            "sed -i 's/KUBELET_EXTRA_ARGS$/KUBELET_EXTRA_ARGS --v=1/' /usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf",
        ),
        shows: &[(".", "kubelet", UNIT, DROP_IN), (".", "member", RUNS, ", but ")],
        ..KIND
    },
    Kind {
        says: "kubelet: kubeadm's drop-in is edited, and the kubelet runs with it",
        by: Anywhere(
            "w2",
            "sed -i 's/KUBELET_EXTRA_ARGS$/KUBELET_EXTRA_ARGS --v=1/' /usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf; systemctl daemon-reload; systemctl restart kubelet",
        ),
        shows: &[(".", "kubelet", UNIT, DROP_IN), (".", "member", RUNS, "restarted, because")],
        ..KIND
    },
    Kind {
        says: "kubelet: kubeadm's drop-in is edited, and the control plane restarts",
        by: Root(
            "m1",
            "sed -i 's/KUBELET_EXTRA_ARGS$/KUBELET_EXTRA_ARGS --v=1/' /usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf; systemctl daemon-reload; systemctl restart kubelet; \
             sed -i 's,server: .*,server: https://198.18.0.99:6443,' /etc/kubernetes/controller-manager.conf",
        ),
        shows: &[
            (".", "kubelet", UNIT, DROP_IN),
            (".", "member", RUNS, "restarted, because"),
            (
                ".",
                "kubeconfigs",
                "kubeconfigs.control-plane[controller-manager.conf]",
                "server https://198.18.0.99:6443",
            ),
            (".", "static-pods", "static-pods.current", "controller-manager.conf"),
        ],
        differs: &["/etc/kubernetes/controller-manager.conf"],
        ..KIND
    },
    Kind {
        says: "kubelet: a foreign drop-in adds flags",
        by: Anywhere(
            "w1",
            "mkdir -p /etc/systemd/system/kubelet.service.d; printf '[Service]\\nEnvironment=KUBELET_EXTRA_ARGS=--max-pods=5\\n' >/etc/systemd/system/kubelet.service.d/20-more.conf; systemctl daemon-reload; systemctl restart kubelet",
        ),
        shows: &[(
            ".",
            "kubelet",
            FLAGS,
            "/etc/systemd/system/kubelet.service.d/20-more.conf:2: --max-pods=5",
        )],
        differs: &["/etc/systemd/system/kubelet.service.d", "/etc/systemd/system/kubelet.service.d/"],
        ..KIND
    },
    Kind {
        says: "kubelet: its environment file adds flags",
        by: Anywhere("w2", "echo KUBELET_EXTRA_ARGS=--max-pods=6 >>/etc/default/kubelet"),
        shows: &[(".", "kubelet", FLAGS, ": --max-pods=6")],
        differs: &["/etc/default/kubelet"],
        ..KIND
    },
    Kind {
        says: "kubelet: its unit is edited",
        by: Anywhere("w1", "sed -i s/RestartSec=10/RestartSec=600/ /usr/lib/systemd/system/kubelet.service"),
        shows: &[
            (".", "kubelet", UNIT, "/usr/lib/systemd/system/kubelet.service was edited"),
            (".", "member", RUNS, ", but "),
        ],
        ..KIND
    },
    Kind {
        says: "kubelet: another program replaces it",
        by: Anywhere(
            "w1",
            "cp -p /usr/bin/kubelet /root/kubelet; rm /usr/bin/kubelet; cp /bin/false /usr/bin/kubelet; touch -r /root/kubelet /usr/bin/kubelet; rm /root/kubelet",
        ),
        shows: &[
            (".", "kubelet", PROGRAM, "/usr/bin/kubelet was changed"),
            (".", "member", RUNS, "but /usr/bin/kubelet changed"),
        ],
        ..KIND
    },
    Kind {
        says: "kubelet: another program replaces it and is started",
        by: Anywhere(
            "w2",
            "rm /usr/bin/kubelet; cp /bin/false /usr/bin/kubelet; systemctl restart kubelet; sleep 1",
        ),
        shows: &[
            (".", "kubelet", PROGRAM, "/usr/bin/kubelet was changed"),
            (".", "member", RUNS, "enabled activating"),
        ],
        ..KIND
    },
    Kind {
        says: "kubelet: its program is world-writable",
        by: Anywhere("w1", "chmod 777 /usr/bin/kubelet"),
        shows: &[
            (".", "kubelet", PROGRAM, "/usr/bin/kubelet has mode 777 and the owner root"),
            (".", "member", RUNS, "but /usr/bin/kubelet changed"),
        ],
        ..KIND
    },
    Kind {
        says: "kubelet: another program replaces kubectl",
        by: Anywhere("w2", "rm /usr/bin/kubectl; cp /bin/true /usr/bin/kubectl"),
        shows: &[(".", "kubelet", "kubelet.programs[kubectl]", "/usr/bin/kubectl was changed")],
        ..KIND
    },
    Kind {
        says: "kubelet: kubeadm is empty",
        by: Anywhere("w1", ": >/usr/bin/kubeadm"),
        shows: &[
            (".", "kubelet", "kubelet.programs[kubeadm]", "/usr/bin/kubeadm was changed"),
            (".", "member", RUNS, "restarted, because"),
        ],
        ..KIND
    },
    Kind {
        says: "kubelet: one drop-in adds flags, and another prevents its start",
        by: Anywhere(
            "w2",
            "mkdir -p /etc/systemd/system/kubelet.service.d; printf '[Service]\\nEnvironment=KUBELET_EXTRA_ARGS=--max-pods=5\\n' >/etc/systemd/system/kubelet.service.d/20-more.conf; systemctl daemon-reload; systemctl restart kubelet; \
             printf '[Service]\\nExecStartPre=/bin/false\\n' >/etc/systemd/system/kubelet.service.d/30-more.conf; systemctl daemon-reload",
        ),
        shows: &[
            (".", "kubelet", FLAGS, "/etc/systemd/system/kubelet.service.d/20-more.conf:2: --max-pods=5"),
            (".", "kubelet", STARTS, "30-more.conf:2: ExecStartPre=/bin/false"),
        ],
        differs: &["/etc/systemd/system/kubelet.service.d", "/etc/systemd/system/kubelet.service.d/"],
        ..KIND
    },
    Kind {
        says: "kubelet: a drop-in would prevent its next start",
        by: Anywhere(
            "w1",
            "mkdir -p /etc/systemd/system/kubelet.service.d; printf '[Service]\\nCPUWeight=200\\nExecStartPre=/bin/false\\n' >/etc/systemd/system/kubelet.service.d/30-more.conf; systemctl daemon-reload",
        ),
        shows: &[(
            ".",
            "kubelet",
            STARTS,
            "/etc/systemd/system/kubelet.service.d/30-more.conf:3: ExecStartPre=/bin/false",
        )],
        differs: &["/etc/systemd/system/kubelet.service.d", "/etc/systemd/system/kubelet.service.d/"],
        ..KIND
    },
    Kind {
        says: "kubelet: a drop-in prevented its start",
        by: Anywhere(
            "w2",
            "mkdir -p /etc/systemd/system/kubelet.service.d; printf '[Unit]\\nConditionPathExists=/none\\n' >/etc/systemd/system/kubelet.service.d/30-more.conf; systemctl daemon-reload; systemctl restart kubelet",
        ),
        shows: &[
            (
                ".",
                "kubelet",
                STARTS,
                "/etc/systemd/system/kubelet.service.d/30-more.conf:2: ConditionPathExists=/none",
            ),
            (".", "member", RUNS, "enabled, inactive"),
        ],
        differs: &["/etc/systemd/system/kubelet.service.d", "/etc/systemd/system/kubelet.service.d/"],
        ..KIND
    },
    Kind {
        says: "kubelet: a field of its configuration is edited",
        by: Root("w1", "sed -i 's/^maxPods: 77/maxPods: 79/' /var/lib/kubelet/config.yaml"),
        shows: &[
            (".", "member", WROTE, "/var/lib/kubelet/config.yaml was edited"),
            (".", "member", RUNS, "but /var/lib/kubelet/config.yaml"),
        ],
        ..KIND
    },
    Kind {
        says: "kubelet: its flags are edited",
        by: Root("w1", "sed -i 's/\"$/ --v=1\"/' /var/lib/kubelet/kubeadm-flags.env"),
        shows: &[
            (".", "member", WROTE, "/var/lib/kubelet/kubeadm-flags.env was edited"),
            (".", "member", RUNS, "but /var/lib/kubelet/kubeadm-flags.env"),
        ],
        ..KIND
    },
    Kind {
        says: "kubelet: its configuration is missing",
        // Not on w2: kubeadm does not write the settings of its registration again.
        by: Root("w1", "rm /var/lib/kubelet/config.yaml"),
        shows: &[(".", "member", WROTE, "/var/lib/kubelet/config.yaml is missing")],
        ..KIND
    },
    Kind {
        says: "kubelet: join credentials remain",
        by: Anywhere("w1", "echo '# left' >/etc/kubernetes/bootstrap-kubelet.conf"),
        shows: &[(".", "member", "member.no-credentials", "/etc/kubernetes/bootstrap-kubelet.conf")],
        ..KIND
    },
    Kind {
        says: "kubelet: kubelet.conf points to another server",
        by: Root(
            "w1",
            "sed -i 's,server: .*,server: https://198.18.0.99:6443,' /etc/kubernetes/kubelet.conf",
        ),
        shows: &[(".", "kubeconfigs", LEADS, "server https://198.18.0.99:6443")],
        ..KIND
    },
    Kind {
        says: "kubelet: kubelet.conf is missing",
        by: Root("w2", "rm /etc/kubernetes/kubelet.conf"),
        shows: &[(".", "kubeconfigs", LEADS, "server https://api.demo.internal:6443")],
        ..KIND
    },
    Kind {
        says: "kubelet: kubelet.conf is world-readable",
        by: Anywhere("m1", "chmod 644 /etc/kubernetes/kubelet.conf"),
        shows: &[(".", "kubeconfigs", LEADS, "mode 644 root:root")],
        differs: &["/etc/kubernetes/kubelet.conf"],
        ..KIND
    },
    Kind {
        says: "kubelet: its certificates are missing",
        by: Root("w1", "rm -r /var/lib/kubelet/pki"),
        shows: &[(".", "kubeconfigs", ADMITTED, "kubelet-client-current.pem does not exist")],
        ..KIND
    },
    Kind {
        says: "kubelet: its certificates are missing on the control plane",
        by: Root("m1", "rm -r /var/lib/kubelet/pki"),
        shows: &[(".", "kubeconfigs", ADMITTED, "kubelet-client-current.pem does not exist")],
        differs: &["/etc/kubernetes/kubelet.conf"],
        ..KIND
    },
    Kind {
        says: "kubelet: its certificates and kubelet.conf are missing",
        by: Root("w1", "rm -r /var/lib/kubelet/pki /etc/kubernetes/kubelet.conf"),
        shows: &[
            (".", "kubeconfigs", LEADS, "server https://api.demo.internal:6443"),
            (".", "kubeconfigs", ADMITTED, "kubelet-client-current.pem does not exist"),
        ],
        ..KIND
    },
    Kind {
        says: "kubelet: its certificate has expired",
        // grown.rs tests a kubelet that starts with an expired certificate and ends at once.
        by: Operator(|world| kubelets(world, "w1", "ca", "", -1)),
        shows: &[("w1", "kubeconfigs", ADMITTED, "it expired")],
        ..KIND
    },
    Kind {
        says: "kubelet: its certificate has expired on the control plane",
        by: Operator(|world| kubelets(world, "m1", "ca", "", -1)),
        shows: &[("m1", "kubeconfigs", ADMITTED, "it expired")],
        differs: &["/etc/kubernetes/kubelet.conf"],
        ..KIND
    },
    Kind {
        says: "kubelet: another CA signed its certificate",
        by: Operator(|world| {
            kubelets(world, "w2", "front-proxy-ca", "", 300);
            world.lab.ssh("w2", "systemctl restart kubelet");
        }),
        shows: &[("w2", "kubeconfigs", ADMITTED, "another CA signed it")],
        ..KIND
    },
    Kind {
        says: "kubelet: its certificate is a temporary one",
        by: Operator(|world| kubelets(world, "w1", "ca", TEMPORARY, 1)),
        shows: &[("w1", "kubeconfigs", ADMITTED, "it is a temporary one")],
        ..KIND
    },
    Kind {
        says: "kubelet: its certificate is a file instead of a link",
        by: Root(
            "w1",
            "f=/var/lib/kubelet/pki/kubelet-client-current.pem; t=$(readlink -f $f); rm $f; cp $t $f; chmod 644 $f",
        ),
        shows: &[
            (".", "kubeconfigs", RENEWS, "kubelet-client-current.pem is a file instead of a link"),
            (".", "files", MODES, "kubelet-client-current.pem: mode 644 root:root"),
        ],
        ..KIND
    },
    Kind {
        says: "kubelet: its private key is missing",
        by: Root(
            "w2",
            "sed -i '/BEGIN.*PRIVATE KEY/,$d' $(readlink -f /var/lib/kubelet/pki/kubelet-client-current.pem)",
        ),
        shows: &[(".", "kubeconfigs", ADMITTED, "kubelet-client-current.pem has no complete private key")],
        ..KIND
    },
    Kind {
        says: "kubelet: its serving key is missing",
        by: Root("w1", "rm /var/lib/kubelet/pki/kubelet.key"),
        shows: &[(".", "kubeconfigs", READS, "/var/lib/kubelet/pki/kubelet.key is missing")],
        ..KIND
    },
    Kind {
        says: "kubelet: its CPU and memory states are invalid",
        by: Root(
            "w2",
            "echo x >/var/lib/kubelet/cpu_manager_state; : >/var/lib/kubelet/memory_manager_state",
        ),
        shows: &[(
            ".",
            "kubeconfigs",
            READS,
            "/var/lib/kubelet/cpu_manager_state is not valid JSON\n/var/lib/kubelet/memory_manager_state is not valid JSON",
        )],
        ..KIND
    },
    Kind {
        says: "kubelet: kubelet.conf names another key",
        by: Root("w1", "sed -i 's#client-key: .*#client-key: /none#' /etc/kubernetes/kubelet.conf"),
        shows: &[(".", "kubeconfigs", LEADS, "key /none")],
        ..KIND
    },
    Kind {
        says: "kubelet: kubelet.conf has another server name and another context",
        by: Root(
            "w2",
            "sed -i -e 's#^    server: .*#&\\n    tls-server-name: x#' -e 's#^current-context: .*#current-context: x#' /etc/kubernetes/kubelet.conf",
        ),
        shows: &[(".", "kubeconfigs", LEADS, "context x\ntls-server-name x")],
        ..KIND
    },
    Kind {
        says: "kubelet: a worker's ca.crt is missing",
        by: Root("w1", "rm /etc/kubernetes/pki/ca.crt"),
        shows: &[(".", "pki", "pki.file[ca.crt]", "valid for kubernetes")],
        ..KIND
    },
];

/// Builds and installs a package of the same program with another version.
const OLDER: &str = "set -e; d=/var/tmp/older; rm -rf $d; mkdir -p $d/DEBIAN $d/usr/bin; cp /usr/bin/kubectl $d/usr/bin/
printf 'Package: kubectl\\nVersion: 1.36.2-1.1\\nArchitecture: amd64\\nMaintainer: x <x@x.invalid>\\nDescription: older\\n' >$d/DEBIAN/control
sed -i \"s/amd64/$(dpkg --print-architecture)/\" $d/DEBIAN/control
dpkg-deb -Znone --root-owner-group --build $d $d.deb >/dev/null; dpkg --force-hold --force-downgrade -i $d.deb 2>/dev/null; rm -rf $d $d.deb";
