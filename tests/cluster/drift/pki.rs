//! Drift of certificates, keys and kubeconfigs of a control plane.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::By::{Kubectl, Operator, Root};
use super::certificates::{keep, lay, make};
use super::{KIND, Kind};
use crate::world::World;

const RESTART: &str = "static-pods.current";
const WROTE: &str = "member.kubeadm-files";
const ADMIN: &str = "kubeconfigs.control-plane[admin.conf]";
const RIGHTS: &str = "bootstrap.administrator";
const MANAGER: &str = "kubeconfigs.control-plane[controller-manager.conf]";
const SCHEDULER: &str = "kubeconfigs.control-plane[scheduler.conf]";

pub const KINDS: &[Kind] = &[
    Kind {
        says: "pki: a leaf certificate is missing",
        by: Root("m1", "rm /etc/kubernetes/pki/apiserver-kubelet-client.crt"),
        shows: &[
            (".", "pki", "pki.file[apiserver-kubelet-client.crt]", "kube-apiserver-kubelet-client"),
            (".", "static-pods", RESTART, "restarted, because"),
        ],
        ..KIND
    },
    Kind {
        says: "pki: a leaf certificate is missing, and the kubelet could not start",
        by: Root(
            "m1",
            "rm /etc/kubernetes/pki/apiserver-kubelet-client.crt; echo nonsense >/var/lib/kubelet/config.yaml",
        ),
        shows: &[
            (".", "pki", "pki.file[apiserver-kubelet-client.crt]", "kube-apiserver-kubelet-client"),
            (".", "static-pods", RESTART, "restarted, because"),
            (".", "member", WROTE, "/var/lib/kubelet/config.yaml was edited"),
            (".", "member", "member.kubelet-unit", "but /var/lib/kubelet/config.yaml changed"),
        ],
        ..KIND
    },
    Kind {
        says: "pki: a leaf certificate is for other names",
        // In the operator's folder. On the machine, the API server would serve with it at once, and clients would refuse it.
        by: Operator(|world| {
            keep(world, "apiserver", &make(world, ("kube-apiserver", ""), &["somewhere.else"], 300));
        }),
        shows: &[
            ("m1", "pki", "pki.file[apiserver.crt]", "valid for api.demo.internal"),
            ("m1", "pki", "pki.file[apiserver.key]", "sha256"),
            ("m1", "static-pods", RESTART, "restarted, because"),
        ],
        differs: &["/etc/kubernetes/pki/apiserver.crt", "/etc/kubernetes/pki/apiserver.key"],
        ..KIND
    },
    Kind {
        says: "pki: a leaf certificate expires soon",
        by: Operator(|world| keep(world, "apiserver-kubelet-client", &client(world, 30))),
        shows: &[
            ("m1", "pki", "pki.file[apiserver-kubelet-client.crt]", "valid from"),
            ("m1", "pki", "pki.file[apiserver-kubelet-client.key]", "sha256"),
            ("m1", "static-pods", RESTART, "restarted, because"),
        ],
        differs: &[
            "/etc/kubernetes/pki/apiserver-kubelet-client.crt",
            "/etc/kubernetes/pki/apiserver-kubelet-client.key",
        ],
        ..KIND
    },
    Kind {
        says: "pki: a leaf certificate has expired",
        by: Operator(|world| {
            let made = client(world, -1);
            keep(world, "apiserver-kubelet-client", &made);
            lay(world, "/etc/kubernetes/pki/apiserver-kubelet-client.crt", &made.cert);
            lay(world, "/etc/kubernetes/pki/apiserver-kubelet-client.key", &made.key);
        }),
        shows: &[
            ("m1", "pki", "pki.file[apiserver-kubelet-client.crt]", "valid from"),
            ("m1", "pki", "pki.file[apiserver-kubelet-client.key]", "sha256"),
            ("m1", "static-pods", RESTART, "started before"),
        ],
        differs: &[
            "/etc/kubernetes/pki/apiserver-kubelet-client.crt",
            "/etc/kubernetes/pki/apiserver-kubelet-client.key",
        ],
        ..KIND
    },
    Kind {
        says: "pki: a key is world-readable",
        by: Root("m1", "chmod 644 /etc/kubernetes/pki/ca.key"),
        shows: &[
            (".", "pki", "pki.file[ca.key]", "mode 644 root:root"),
            (".", "static-pods", RESTART, "ca.key"),
        ],
        ..KIND
    },
    Kind {
        says: "pki: sa.pub does not match its key",
        by: Root("m1", "sed -i '2s/.$/x/' /etc/kubernetes/pki/sa.pub"),
        shows: &[(".", "pki", "pki.file[sa.pub]", "sha256"), (".", "static-pods", RESTART, "sa.pub")],
        ..KIND
    },
    Kind {
        says: "pki: the control plane runs with older files",
        by: Root("m1", "touch /etc/kubernetes/pki/front-proxy-ca.crt"),
        shows: &[(".", "static-pods", RESTART, "started before /etc/kubernetes/pki/front-proxy-ca.crt changed")],
        ..KIND
    },
    Kind {
        says: "pki: admin.conf is missing",
        by: Root("m1", "rm /etc/kubernetes/admin.conf"),
        shows: &[(".", "kubeconfigs", ADMIN, "server https://api.demo.internal:6443")],
        differs: &["/etc/kubernetes/admin.conf"],
        // The machine has no other administrator's kubeconfig.
        silences_the_api: true,
        ..KIND
    },
    Kind {
        says: "pki: admin.conf points to another server",
        by: Root("m1", "sed -i 's,server: .*,server: https://198.18.0.99:6443,' /etc/kubernetes/admin.conf"),
        shows: &[(".", "kubeconfigs", ADMIN, "server https://198.18.0.99:6443")],
        differs: &["/etc/kubernetes/admin.conf"],
        ..KIND
    },
    Kind {
        says: "pki: admin.conf has another namespace",
        by: Root(
            "m1",
            "KUBECONFIG=/etc/kubernetes/admin.conf kubectl config set-context --current --namespace=dev",
        ),
        shows: &[(".", "kubeconfigs", ADMIN, "namespace dev")],
        differs: &["/etc/kubernetes/admin.conf"],
        ..KIND
    },
    Kind {
        says: "pki: admin.conf expires soon",
        by: Operator(|world| {
            expire(world, "/etc/kubernetes/admin.conf", ("kubernetes-admin", "kubeadm:cluster-admins"), 30);
        }),
        shows: &[("m1", "kubeconfigs", ADMIN, "certificate: it expires 20")],
        differs: &["/etc/kubernetes/admin.conf"],
        ..KIND
    },
    Kind {
        says: "pki: admin.conf has expired",
        by: Operator(|world| {
            expire(world, "/etc/kubernetes/admin.conf", ("kubernetes-admin", "kubeadm:cluster-admins"), -1);
        }),
        shows: &[("m1", "kubeconfigs", ADMIN, "certificate: it expired 20")],
        differs: &["/etc/kubernetes/admin.conf"],
        silences_the_api: true,
        ..KIND
    },
    Kind {
        says: "pki: super-admin.conf is on the machine",
        by: Root("m1", "echo '# left' >/etc/kubernetes/super-admin.conf"),
        shows: &[(".", "member", "member.no-super-admin", "sha256")],
        ..KIND
    },
    Kind {
        says: "pki: a killed fix left its credentials",
        by: Root("m1", "echo '# left' | tee /run/ironstrap/masters.conf >/run/ironstrap/discovery.conf"),
        shows: &[(".", "member", "member.no-credentials", "/run/ironstrap/masters.conf")],
        ..KIND
    },
    Kind {
        says: "pki: the administrators' binding is missing",
        by: Kubectl("k delete clusterrolebinding kubeadm:cluster-admins"),
        shows: &[("m1", "member", RIGHTS, "kubeadm:cluster-admins")],
        silences_the_api: true,
        then: "[ -z \"$(ls /run/ironstrap/masters.conf /etc/kubernetes/super-admin.conf 2>/dev/null)\" ]",
        ..KIND
    },
    Kind {
        says: "pki: the administrators' binding has another role",
        by: Kubectl(
            "k create clusterrolebinding meanwhile --clusterrole=cluster-admin --group=kubeadm:cluster-admins
             k delete clusterrolebinding kubeadm:cluster-admins
             k create clusterrolebinding kubeadm:cluster-admins --clusterrole=view --group=kubeadm:cluster-admins
             k delete clusterrolebinding meanwhile",
        ),
        shows: &[("m1", "member", RIGHTS, "kubeadm:cluster-admins")],
        silences_the_api: true,
        ..KIND
    },
    Kind {
        says: "pki: controller-manager.conf points to another server",
        by: Root(
            "m1",
            "sed -i 's,server: .*,server: https://198.18.0.99:6443,' /etc/kubernetes/controller-manager.conf",
        ),
        shows: &[
            (".", "kubeconfigs", MANAGER, "server https://198.18.0.99:6443"),
            (".", "static-pods", RESTART, "controller-manager.conf"),
        ],
        differs: &["/etc/kubernetes/controller-manager.conf"],
        ..KIND
    },
    Kind {
        // The scheduler ends at each start: 11, 32, 73 and 154 seconds later, because the kubelet waits ever longer.
        says: "pki: scheduler.conf has half a key, and the scheduler crash-loops",
        by: Root(
            "m1",
            "sed -i '/client-key-data:/s/.\\{40\\}$//' /etc/kubernetes/scheduler.conf
p=$(pidof kube-apiserver)
until [ $(($(cut -d . -f 1 /proc/uptime) - $(cut -d ' ' -f 22 /proc/$p/stat) / 100)) -gt 125 ]; do sleep 1; done
kill $(pidof kube-scheduler); sleep 85",
        ),
        shows: &[
            (".", "kubeconfigs", SCHEDULER, "client-key-data is damaged"),
            (".", "static-pods", RESTART, "kube-scheduler does not run"),
        ],
        differs: &["/etc/kubernetes/scheduler.conf"],
        alone: "the API server has to run for a while",
        ..KIND
    },
    Kind {
        says: "pki: scheduler.conf is missing",
        by: Root("m1", "rm /etc/kubernetes/scheduler.conf"),
        shows: &[
            (".", "kubeconfigs", SCHEDULER, "server https://198.18.0.11:6443"),
            (".", "static-pods", RESTART, "restarted, because /etc/kubernetes/scheduler.conf changes"),
        ],
        differs: &["/etc/kubernetes/scheduler.conf"],
        ..KIND
    },
    Kind {
        says: "pki: scheduler.conf expires soon",
        by: Operator(|world| {
            expire(world, "/etc/kubernetes/scheduler.conf", ("system:kube-scheduler", ""), 30)
        }),
        shows: &[
            ("m1", "kubeconfigs", SCHEDULER, "certificate: it expires 20"),
            ("m1", "static-pods", RESTART, "scheduler.conf"),
        ],
        differs: &["/etc/kubernetes/scheduler.conf"],
        ..KIND
    },
];

fn client(world: &World, days: i64) -> super::certificates::Made {
    make(world, ("kube-apiserver-kubelet-client", ""), &[], days)
}

/// Replaces the certificate in a kubeconfig of m1. The new one expires after `days`.
fn expire(world: &World, path: &str, who: (&str, &str), days: i64) {
    let made = make(world, who, &[], days);
    let text = std::fs::read_to_string(world.lab.disk("m1", path)).unwrap();
    let line = |line: &str| match line.trim_start().split(':').next().unwrap_or_default() {
        "client-certificate-data" => {
            format!("    client-certificate-data: {}\n", BASE64_STANDARD.encode(&made.cert))
        }
        "client-key-data" => format!("    client-key-data: {}\n", BASE64_STANDARD.encode(&made.key)),
        _ => format!("{line}\n"),
    };
    lay(world, path, &text.lines().map(line).collect::<String>());
}
