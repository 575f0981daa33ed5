//! Packages, package sources, flags and mounts that are in the way are found before the first change. After the hints'
//! commands, the plan succeeds.

use crate::lab::assert_untouched;
use crate::world::World;
use crate::{Ground, Scenario};

pub const SCENARIOS: &[Scenario] = &[Scenario {
    says: "conflicting packages, sources, flags and mounts are found before the first change",
    ground: Ground::Fresh,
    run: conflicts,
}];

/// Installs stand-ins for Docker's packages, and holds them.
const DOCKER: &str = r#"set -e; cd /tmp; mkdir -p c/DEBIAN d/DEBIAN
m='Architecture: all\nMaintainer: lab <lab@example.com>\nDescription: stand-in\n'
printf "Package: containerd.io\nVersion: 1.7.27-1\nProvides: containerd, runc\nConflicts: containerd, runc\nReplaces: containerd, runc\n$m" >c/DEBIAN/control
printf "Package: docker-ce\nVersion: 5:28.0.1-1\nDepends: containerd.io\n$m" >d/DEBIAN/control
dpkg-deb -b c c.deb >/dev/null; dpkg-deb -b d d.deb >/dev/null; dpkg -i c.deb d.deb >/dev/null; rm -rf c d c.deb d.deb
apt-mark hold containerd.io docker-ce >/dev/null"#;

/// Adds the Kubernetes repository with a key in the user's own file.
const REPOSITORY: &str = r#"set -e; u=https://198.18.0.1:8443/core:/stable:/v1.36/deb/
/usr/lib/apt/apt-helper -q download-file ${u}Release.key /etc/apt/keyrings/mine.asc >/dev/null
printf "Types: deb\nURIs: $u\nSuites: /\nSigned-By: /etc/apt/keyrings/mine.asc\n" >/etc/apt/sources.list.d/k8s.sources"#;

/// Node, the script that causes the problem, words of the error, and the command that the hint recommends.
const WRONG: &[(&str, &str, &[&str], &str)] = &[
    (
        "w2",
        "apt-get -qq update && apt-get -qq install -y nftables >/dev/null && nft add table inet mine &&
        nft add chain inet mine forward '{ type filter hook forward priority 0; policy drop; }'",
        &["the packet filter drops all forwarded packets", "nft inet mine forward: policy drop"],
        "nft delete table inet mine",
    ),
    (
        "w1",
        DOCKER,
        &["no package has to be removed", "containerd.io (on hold) would be removed", "docker-ce (on hold)"],
        "apt-get -y -qq remove --allow-change-held-packages containerd.io docker-ce >/dev/null",
    ),
    (
        "w1",
        "echo 'deb http://198.18.0.1:8080/gone kubernetes-xenial main' >/etc/apt/sources.list.d/kubernetes.list",
        &["/etc/apt/sources.list.d/kubernetes.list:1: ", "http://198.18.0.1:8080/gone kubernetes-xenial"],
        "rm /etc/apt/sources.list.d/kubernetes.list",
    ),
    (
        "w2",
        "echo 'deb cdrom:[Debian GNU/Linux 13.0.0 _Trixie_ - Official amd64 DVD]/ trixie main' >>/etc/apt/sources.list",
        &["/etc/apt/sources.list:2: ", "cdrom://"],
        "sed -i 's/^deb cdrom/# &/' /etc/apt/sources.list",
    ),
    (
        "w2",
        REPOSITORY,
        &["/etc/apt/sources.list.d/k8s.sources:2: Conflicting values set for option Signed-By", "mine.asc"],
        "rm /etc/apt/sources.list.d/k8s.sources",
    ),
    (
        "w2",
        "echo KUBELET_EXTRA_ARGS=--hostname-override=node-b >/etc/default/kubelet",
        &[
            "no flags for the kubelet are set outside the inventory",
            "/etc/default/kubelet:1: --hostname-override=node-b",
        ],
        "rm /etc/default/kubelet",
    ),
    (
        "m1",
        "mount --bind /var /var && mount -o remount,bind,noexec /var",
        &[
            "no folder for programs is mounted noexec",
            "/var/lib/dpkg/info is on /var, which is mounted noexec",
        ],
        "umount -l /var",
    ),
    (
        "m1",
        "mkdir -p /etc/systemd/system/kubelet.service.d; printf '[Service]\\nEnvironment=KUBELET_EXTRA_ARGS=--node-ip=10.0.2.15\\n' >/etc/systemd/system/kubelet.service.d/20-vagrant.conf",
        &["/etc/systemd/system/kubelet.service.d/20-vagrant.conf:2: --node-ip=10.0.2.15"],
        "rm -r /etc/systemd/system/kubelet.service.d; systemctl daemon-reload",
    ),
];

fn conflicts(world: &World) {
    for (node, script, ..) in WRONG {
        world.lab.ssh(node, script);
    }
    let before = world.lab.look_at_all();
    for mut run in [world.plan(), world.apply()] {
        for (node, _, words, _) in WRONG {
            run = run.refused(5, node, words);
        }
    }
    assert_untouched(&before, &world.lab.look_at_all());
    for (node, _, _, mend) in WRONG {
        world.lab.ssh(node, mend);
    }
    world.plan().good();
}
