//! Drift of the kubelet: its packages, its unit, and what it runs with.

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
        says: "kubelet: stopped",
        by: Anywhere("w2", "systemctl stop kubelet"),
        shows: &[(".", "member", RUNS, "enabled inactive")],
        ..KIND
    },
    Kind {
        says: "kubelet: disabled",
        by: Anywhere("w1", "systemctl disable -q kubelet"),
        shows: &[(".", "kubelet", BOOT, "disabled"), (".", "member", RUNS, "disabled active")],
        ..KIND
    },
    Kind {
        says: "kubelet: stopped and disabled",
        by: Anywhere("w1", "systemctl disable -q --now kubelet"),
        shows: &[(".", "kubelet", BOOT, "disabled"), (".", "member", RUNS, "disabled inactive")],
        ..KIND
    },
    Kind {
        says: "kubelet: masked",
        by: Anywhere("w2", "systemctl mask -q kubelet"),
        shows: &[(".", "kubelet", BOOT, "masked"), (".", "member", RUNS, "masked")],
        ..KIND
    },
    Kind {
        says: "kubelet: kubeadm no longer held",
        by: Anywhere("w2", "apt-mark unhold kubeadm"),
        shows: &[(".", "kubelet", HELD, "kubeadm ii 1.36.3")],
        ..KIND
    },
    Kind {
        says: "kubelet: kubectl removed",
        by: Anywhere("w1", "dpkg --purge --force-hold kubectl"),
        shows: &[(".", "kubelet", HELD, "kubectl absent")],
        ..KIND
    },
    Kind {
        says: "kubelet: kubectl of another version",
        by: Anywhere("w2", OLDER),
        shows: &[(".", "kubelet", HELD, "1.36.2-1.1")],
        ..KIND
    },
    Kind {
        says: "kubelet: another package repository",
        by: Anywhere("w1", "sed -i s/v1.36/v1.35/ /etc/apt/sources.list.d/kubernetes.list"),
        shows: &[(".", "kubelet", SOURCE, "v1.35/deb/")],
        ..KIND
    },
    Kind {
        says: "kubelet: no package repository",
        by: Anywhere("w2", "rm /etc/apt/sources.list.d/kubernetes.list"),
        shows: &[(".", "kubelet", SOURCE, "v1.36/deb/")],
        ..KIND
    },
    Kind {
        says: "kubelet: the repository's key changed",
        by: Anywhere("w1", "truncate -s 300 /etc/apt/keyrings/kubernetes-apt-keyring.asc"),
        shows: &[(".", "kubelet", KEY, "it is cut off")],
        ..KIND
    },
    Kind {
        says: "kubelet: the repository's key gone",
        by: Anywhere("m1", "rm /etc/apt/keyrings/kubernetes-apt-keyring.asc"),
        shows: &[(".", "kubelet", KEY, "mode 644 root:root\nkey ")],
        ..KIND
    },
    Kind {
        says: "kubelet: kubeadm's drop-in edited",
        by: Anywhere(
            "w1",
            "sed -i 's/KUBELET_EXTRA_ARGS$/KUBELET_EXTRA_ARGS --v=1/' /usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf",
        ),
        shows: &[(".", "kubelet", UNIT, DROP_IN), (".", "member", RUNS, "stale")],
        ..KIND
    },
    Kind {
        says: "kubelet: kubeadm's drop-in edited, and the kubelet runs with it",
        by: Anywhere(
            "w2",
            "sed -i 's/KUBELET_EXTRA_ARGS$/KUBELET_EXTRA_ARGS --v=1/' /usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf; systemctl daemon-reload; systemctl restart kubelet",
        ),
        shows: &[(".", "kubelet", UNIT, DROP_IN), (".", "member", RUNS, "restarted, because")],
        ..KIND
    },
    Kind {
        says: "kubelet: kubeadm's drop-in edited, and the control plane restarts",
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
        says: "kubelet: flags in a drop-in of somebody's own",
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
        says: "kubelet: flags in its environment file",
        by: Anywhere("w2", "echo KUBELET_EXTRA_ARGS=--max-pods=6 >>/etc/default/kubelet"),
        shows: &[(".", "kubelet", FLAGS, ": --max-pods=6")],
        differs: &["/etc/default/kubelet"],
        ..KIND
    },
    Kind {
        says: "kubelet: its unit edited",
        by: Anywhere("w1", "sed -i s/RestartSec=10/RestartSec=600/ /usr/lib/systemd/system/kubelet.service"),
        shows: &[
            (".", "kubelet", UNIT, "/usr/lib/systemd/system/kubelet.service was edited"),
            (".", "member", RUNS, "stale"),
        ],
        ..KIND
    },
    Kind {
        says: "kubelet: another program in its place",
        by: Anywhere(
            "w1",
            "cp -p /usr/bin/kubelet /root/kubelet; rm /usr/bin/kubelet; cp /bin/false /usr/bin/kubelet; touch -r /root/kubelet /usr/bin/kubelet; rm /root/kubelet",
        ),
        shows: &[
            (".", "kubelet", PROGRAM, "/usr/bin/kubelet was changed"),
            (".", "member", RUNS, "stale: /usr/bin/kubelet changed"),
        ],
        ..KIND
    },
    Kind {
        says: "kubelet: another program in its place, and that was started",
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
        says: "kubelet: its program for everybody to change",
        by: Anywhere("w1", "chmod 777 /usr/bin/kubelet"),
        shows: &[
            (".", "kubelet", PROGRAM, "/usr/bin/kubelet has mode 777 and the owner root"),
            (".", "member", RUNS, "stale: /usr/bin/kubelet changed"),
        ],
        ..KIND
    },
    Kind {
        says: "kubelet: another program in the place of kubectl",
        by: Anywhere("w2", "rm /usr/bin/kubectl; cp /bin/true /usr/bin/kubectl"),
        shows: &[(".", "kubelet", "kubelet.programs[kubectl]", "/usr/bin/kubectl was changed")],
        ..KIND
    },
    Kind {
        says: "kubelet: kubeadm emptied",
        by: Anywhere("w1", ": >/usr/bin/kubeadm"),
        shows: &[
            (".", "kubelet", "kubelet.programs[kubeadm]", "/usr/bin/kubeadm was changed"),
            (".", "member", RUNS, "restarted, because"),
        ],
        ..KIND
    },
    Kind {
        says: "kubelet: flags in one drop-in, and another that keeps it from starting",
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
        says: "kubelet: a drop-in that keeps it from starting",
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
        says: "kubelet: a drop-in that kept it from starting",
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
            (".", "member", RUNS, "enabled inactive"),
        ],
        differs: &["/etc/systemd/system/kubelet.service.d", "/etc/systemd/system/kubelet.service.d/"],
        ..KIND
    },
    Kind {
        says: "kubelet: a field of its configuration",
        by: Root("w1", "sed -i 's/^maxPods: 77/maxPods: 79/' /var/lib/kubelet/config.yaml"),
        shows: &[
            (".", "member", WROTE, "/var/lib/kubelet/config.yaml was edited"),
            (".", "member", RUNS, "stale: /var/lib/kubelet/config.yaml"),
        ],
        ..KIND
    },
    Kind {
        says: "kubelet: its flags",
        by: Root("w1", "sed -i 's/\"$/ --v=1\"/' /var/lib/kubelet/kubeadm-flags.env"),
        shows: &[
            (".", "member", WROTE, "/var/lib/kubelet/kubeadm-flags.env was edited"),
            (".", "member", RUNS, "stale: /var/lib/kubelet/kubeadm-flags.env"),
        ],
        ..KIND
    },
    Kind {
        says: "kubelet: its configuration gone",
        // Not w2: what it was registered with is not written once more.
        by: Root("w1", "rm /var/lib/kubelet/config.yaml"),
        shows: &[(".", "member", WROTE, "/var/lib/kubelet/config.yaml is missing")],
        ..KIND
    },
    Kind {
        says: "kubelet: credentials of joining left behind",
        by: Anywhere("w1", "echo '# left' >/etc/kubernetes/bootstrap-kubelet.conf"),
        shows: &[(".", "member", "member.no-credentials", "/etc/kubernetes/bootstrap-kubelet.conf")],
        ..KIND
    },
    Kind {
        says: "kubelet: kubelet.conf leads elsewhere",
        by: Root(
            "w1",
            "sed -i 's,server: .*,server: https://198.18.0.99:6443,' /etc/kubernetes/kubelet.conf",
        ),
        shows: &[(".", "kubeconfigs", LEADS, "server https://198.18.0.99:6443")],
        ..KIND
    },
    Kind {
        says: "kubelet: kubelet.conf gone",
        by: Root("w2", "rm /etc/kubernetes/kubelet.conf"),
        shows: &[(".", "kubeconfigs", LEADS, "server https://api.demo.internal:6443")],
        ..KIND
    },
    Kind {
        says: "kubelet: kubelet.conf for everybody to read",
        by: Anywhere("m1", "chmod 644 /etc/kubernetes/kubelet.conf"),
        shows: &[(".", "kubeconfigs", LEADS, "mode 644 root:root")],
        differs: &["/etc/kubernetes/kubelet.conf"],
        ..KIND
    },
    Kind {
        says: "kubelet: its certificates gone",
        by: Root("w1", "rm -r /var/lib/kubelet/pki"),
        shows: &[(".", "kubeconfigs", ADMITTED, "kubelet-client-current.pem does not exist")],
        ..KIND
    },
    Kind {
        says: "kubelet: its certificates gone on the control plane",
        by: Root("m1", "rm -r /var/lib/kubelet/pki"),
        shows: &[(".", "kubeconfigs", ADMITTED, "kubelet-client-current.pem does not exist")],
        differs: &["/etc/kubernetes/kubelet.conf"],
        ..KIND
    },
    Kind {
        says: "kubelet: its certificates and kubelet.conf gone",
        by: Root("w1", "rm -r /var/lib/kubelet/pki /etc/kubernetes/kubelet.conf"),
        shows: &[
            (".", "kubeconfigs", LEADS, "server https://api.demo.internal:6443"),
            (".", "kubeconfigs", ADMITTED, "kubelet-client-current.pem does not exist"),
        ],
        ..KIND
    },
    Kind {
        says: "kubelet: its certificate has expired",
        // A kubelet that starts with it ends at once: grown.rs has that.
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
        says: "kubelet: its certificate by another authority",
        by: Operator(|world| {
            kubelets(world, "w2", "front-proxy-ca", "", 300);
            world.lab.ssh("w2", "systemctl restart kubelet");
        }),
        shows: &[("w2", "kubeconfigs", ADMITTED, "another CA signed it")],
        ..KIND
    },
    Kind {
        says: "kubelet: its certificate a temporary one",
        by: Operator(|world| kubelets(world, "w1", "ca", TEMPORARY, 1)),
        shows: &[("w1", "kubeconfigs", ADMITTED, "it is a temporary one")],
        ..KIND
    },
    Kind {
        says: "kubelet: its certificate restored by what knows no links",
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
        says: "kubelet: its private key cut out",
        by: Root(
            "w2",
            "sed -i '/BEGIN.*PRIVATE KEY/,$d' $(readlink -f /var/lib/kubelet/pki/kubelet-client-current.pem)",
        ),
        shows: &[(".", "kubeconfigs", ADMITTED, "kubelet-client-current.pem has no complete private key")],
        ..KIND
    },
    Kind {
        says: "kubelet: the key gone that it serves with",
        by: Root("w1", "rm /var/lib/kubelet/pki/kubelet.key"),
        shows: &[(".", "kubeconfigs", READS, "/var/lib/kubelet/pki/kubelet.key is missing")],
        ..KIND
    },
    Kind {
        says: "kubelet: its states of CPUs and memory are none",
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
        says: "kubelet: kubelet.conf expects another name of the server, and has another context",
        by: Root(
            "w2",
            "sed -i -e 's#^    server: .*#&\\n    tls-server-name: x#' -e 's#^current-context: .*#current-context: x#' /etc/kubernetes/kubelet.conf",
        ),
        shows: &[(".", "kubeconfigs", LEADS, "context x\ntls-server-name x")],
        ..KIND
    },
    Kind {
        says: "kubelet: a worker's ca.crt gone",
        by: Root("w1", "rm /etc/kubernetes/pki/ca.crt"),
        shows: &[(".", "pki", "pki.file[ca.crt]", "valid for kubernetes")],
        ..KIND
    },
];

/// A package that was built here, of the same program under another version.
const OLDER: &str = "set -e; d=/var/tmp/older; rm -rf $d; mkdir -p $d/DEBIAN $d/usr/bin; cp /usr/bin/kubectl $d/usr/bin/
printf 'Package: kubectl\\nVersion: 1.36.2-1.1\\nArchitecture: amd64\\nMaintainer: x <x@x.invalid>\\nDescription: older\\n' >$d/DEBIAN/control
sed -i \"s/amd64/$(dpkg --print-architecture)/\" $d/DEBIAN/control
dpkg-deb -Znone --root-owner-group --build $d $d.deb >/dev/null; dpkg --force-hold --force-downgrade -i $d.deb 2>/dev/null; rm -rf $d $d.deb";
