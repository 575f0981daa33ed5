//! The visible state of a machine, to compare before and after a repair: content, modes and owners. It has no times, because a
//! repair writes files again.

use std::collections::BTreeSet;
use std::process::Child;

use crate::lab::{NODES, text};
use crate::world::World;

pub type Looks = BTreeSet<String>;

/// Prints everything below /etc, the files of kubelet and CNI plugins, packages with their holds, units, swap and sysctls. It
/// leaves out the own data of containerd and systemd, and the plugin that flannel writes at each start.
const SCRIPT: &str = r#"set -eu; export LC_ALL=C
k='/var/lib/kubelet/config.yaml /var/lib/kubelet/kubeadm-flags.env /var/lib/kubelet/instance-config.yaml'
u='/usr/lib/systemd/system/kubelet.service /usr/lib/systemd/system/kubelet.service.d'
find /etc $k $u /opt/cni/bin -type f -printf 'file %p %m %U:%G\n' -o -printf 'other %p %y %m %U:%G %l\n'
find /etc $k $u -type f -exec sha256sum {} + | sed 's/^\([0-9a-f]*\)  \(.*\)/content \2 \1/'
find /opt/cni/bin -type f ! -name flannel -printf 'content %p %s\n'
dpkg-query -W -f 'package ${Package} ${db:Status-Abbrev} ${Version}\n'
systemctl list-unit-files --no-legend --plain | sed 's/^/unit /; s/  */ /g'
for u in containerd kubelet ssh; do echo "active $u $(systemctl is-active $u)"; done
sed 's/^/swap /' /proc/swaps
sysctl net.ipv4.ip_forward net.bridge.bridge-nf-call-iptables net.bridge.bridge-nf-call-ip6tables | sed 's/^/sysctl /'
echo 'the end'"#;

/// The running scripts. They take as long as a plan and run beside it.
pub struct Looking(Vec<Child>);

/// Starts the script on all machines.
pub fn begin(world: &World) -> Looking {
    let look = |node: &&str| -> Child {
        let mut command = world.lab.command(&["ssh", node, SCRIPT]);
        command.stdout(std::process::Stdio::piped()).spawn().unwrap()
    };
    Looking(NODES.iter().map(look).collect())
}

impl Looking {
    pub fn end(self) -> Vec<Looks> {
        let look = |child: Child| {
            let said = text(&child.wait_with_output().unwrap().stdout);
            assert!(said.ends_with("the end\n"), "the output of a machine is incomplete");
            // The units of pods change with the pods.
            let moves = ["unit cri-containerd-", "unit kubepods", "unit run-"];
            let stays = |line: &&str| !moves.iter().any(|start| line.starts_with(start));
            said.lines().filter(stays).map(str::to_string).collect()
        };
        self.0.into_iter().map(look).collect()
    }
}

/// Checks that nothing changed except the files that may differ. The failure shows the lines that came and went.
pub fn assert_untouched(before: &[Looks], after: &[Looks], differs: &[&str]) {
    for (node, (before, after)) in NODES.iter().zip(before.iter().zip(after)) {
        let minds = |line: &&String| {
            let path = line.split(' ').nth(1).unwrap_or_default();
            !differs.iter().any(|other| path == *other || other.ends_with('/') && path.starts_with(other))
        };
        let gone: Vec<&String> = before.difference(after).filter(minds).collect();
        let come: Vec<&String> = after.difference(before).filter(minds).collect();
        assert!(gone.is_empty() && come.is_empty(), "{node} was changed: gone {gone:#?}, come {come:#?}");
    }
}
