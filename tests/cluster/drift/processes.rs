//! Drift of processes. systemd or the kubelet reports them as running, but they are stopped, or their settings differ from their
//! files.

use super::By::{Anywhere, Kubectl, Root};
use super::{KIND, Kind};

const STOPPED: &str = "processes.stopped";
const ARGUMENTS: &str = "processes.kubelet-arguments";
const MODE: &str = "processes.kube-proxy-mode";
const KUBELET: &str = "kubelet-settings.kubelet";
const PROXY: &str = "processes.kube-proxy-settings";

pub const KINDS: &[Kind] = &[
    Kind {
        says: "processes: the scheduler is stopped",
        by: Root("m1", "kill -s STOP $(pidof kube-scheduler)"),
        shows: &[(".", "processes", STOPPED, "stopped: kube-scheduler, process ")],
        ..KIND
    },
    Kind {
        says: "processes: the controller manager is stopped",
        by: Root("m1", "kill -s STOP $(pidof kube-controller-manager)"),
        shows: &[(".", "processes", STOPPED, "of kube-system/kube-controller-manager-m1")],
        ..KIND
    },
    Kind {
        says: "processes: kube-proxy is stopped",
        by: Anywhere("w1", "kill -s STOP $(pidof kube-proxy)"),
        shows: &[(".", "processes", STOPPED, "of kube-system/kube-proxy-")],
        ..KIND
    },
    Kind {
        says: "processes: kube-proxy is frozen",
        by: Anywhere("w2", FREEZE),
        shows: &[(".", "processes", STOPPED, "frozen: kube-system/kube-proxy-")],
        ..KIND
    },
    Kind {
        says: "processes: flannel is stopped",
        by: Anywhere("w2", "kill -s STOP $(pidof flanneld)"),
        shows: &[(".", "processes", STOPPED, "of kube-flannel/flannel-")],
        ..KIND
    },
    Kind {
        says: "processes: containerd is stopped",
        by: Anywhere("w2", "kill -s STOP $(pidof containerd)"),
        shows: &[(".", "processes", STOPPED, "of containerd.service")],
        ..KIND
    },
    Kind {
        says: "processes: the kubelet is stopped",
        by: Anywhere("w1", "kill -s STOP $(pidof kubelet)"),
        shows: &[(".", "processes", STOPPED, "of kubelet.service")],
        ..KIND
    },
    Kind {
        says: "processes: the API server is stopped",
        by: Root("m1", "kill -s STOP $(pidof kube-apiserver)"),
        shows: &[(".", "processes", STOPPED, "of kube-system/kube-apiserver-m1")],
        silences_the_api: true,
        alone: "without the API, no other kind can follow it",
        ..KIND
    },
    Kind {
        says: "processes: the kubelet runs with an argument that is in no file",
        by: Anywhere(
            "w1",
            "f=/etc/default/kubelet; cp -p $f $f.was; echo KUBELET_EXTRA_ARGS=--max-pods=9 >>$f; systemctl restart kubelet; mv $f.was $f",
        ),
        shows: &[(".", "processes", ARGUMENTS, "kubelet has --max-pods=9")],
        ..KIND
    },
    Kind {
        says: "processes: kube-proxy runs in another mode",
        by: Kubectl(OTHER_MODE),
        shows: &[("m1", "packets", MODE, "mode: iptables"), ("m1", "packets", PROXY, "mode: iptables")],
        ..KIND
    },
    Kind {
        says: "processes: a kubelet runs with other settings than its file",
        by: Anywhere("w1", OTHER_SETTINGS),
        shows: &[(".", "settings", KUBELET, "maxPods: 9")],
        ..KIND
    },
    Kind {
        says: "processes: kube-proxy runs with other settings than its ConfigMap",
        by: Kubectl(OTHER_METRICS),
        shows: &[("m1", "packets", PROXY, "metricsBindAddress: 127.0.0.1:10249")],
        ..KIND
    },
];

/// Mounts another file over the kubelet's configuration until the kubelet has read it. The file itself does not change.
const OTHER_SETTINGS: &str = r#"f=/var/lib/kubelet/config.yaml
sed 's/^maxPods: .*/maxPods: 9/' $f >/run/other.yaml
mount --bind /run/other.yaml $f
systemctl restart kubelet
n=0
until timeout 2 bash -c 'exec 3<>/dev/tcp/127.0.0.1/10248' 2>/dev/null; do n=$((n + 1)); [ $n -lt 60 ]; sleep 0.5; done
umount $f; rm /run/other.yaml"#;

/// Replaces the ConfigMap until a new pod of kube-proxy has started with it.
const OTHER_METRICS: &str = r#"f=/var/tmp/kube-proxy.yaml
k -n kube-system get configmap kube-proxy -o yaml | sed '/^  resourceVersion:/d; /^  uid:/d' >$f
sed 's/^    metricsBindAddress: .*/    metricsBindAddress: 127.0.0.1:10249/' $f | k replace -f -
k -n kube-system delete pod -l k8s-app=kube-proxy --field-selector spec.nodeName=m1
listens() { timeout 2 bash -c 'exec 3<>/dev/tcp/127.0.0.1/10249; printf "GET /configz HTTP/1.0

" >&3; tail -n 1 <&3' 2>/dev/null || :; }
n=0
until listens | grep -q '"metricsBindAddress":"127.0.0.1:10249"'; do n=$((n + 1)); [ $n -lt 60 ]; sleep 0.5; done
k replace -f $f; rm $f
# ironstrap does not check a kube-proxy that started a moment ago.
sleep 7"#;

/// Freezes kube-proxy's container with the freezer of cgroup v2 or v1.
const FREEZE: &str = r"p=$(pidof kube-proxy); g=$(sed -n 's,.*\(/kubepods\.slice/.*\),\1,p' /proc/$p/cgroup | head -n 1)
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then echo 1 >/sys/fs/cgroup$g/cgroup.freeze
else echo FROZEN >/sys/fs/cgroup/freezer$g/freezer.state; fi";

/// Replaces the ConfigMap until a new pod of kube-proxy has started with it.
const OTHER_MODE: &str = r#"f=/var/tmp/kube-proxy.yaml
k -n kube-system get configmap kube-proxy -o yaml | sed '/^  resourceVersion:/d; /^  uid:/d' >$f
sed 's/^    mode: .*/    mode: iptables/' $f | k replace -f -
k -n kube-system delete pod -l k8s-app=kube-proxy --field-selector spec.nodeName=m1
mode() { timeout 2 bash -c 'exec 3<>/dev/tcp/127.0.0.1/10249; printf "GET /proxyMode HTTP/1.0\r\n\r\n" >&3; tail -n 1 <&3' 2>/dev/null || :; }
n=0
until [ "$(mode)" = iptables ]; do n=$((n + 1)); [ $n -lt 60 ]; sleep 0.5; done
k replace -f $f; rm $f
# ironstrap does not check a kube-proxy that started a moment ago.
sleep 7"#;
