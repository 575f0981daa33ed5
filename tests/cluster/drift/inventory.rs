//! Changes of the inventory. They are planned and rolled out, and nothing is reinstalled.

use super::By::{Inventory, Operator};
use super::{KIND, Kind};

const WROTE: &str = "member.kubeadm-files";
const ANOTHER: &str = "the inventory's settings changed since kubeadm";
const KUBELET: &str = "kubeadm-config.config[kubelet-config]";
const KUBEADM: &str = "kubeadm-config.config[kubeadm-config]";
const RUNS: &str = "runtime.unit";
const DROP_INS: &str = "/etc/systemd/system/containerd.service.d";
const PORT: &str = "runtime.mirrors[r.example:5000]";
const ONE_AT_A_TIME: &str = "one inventory at a time";

pub const KINDS: &[Kind] = &[
    Kind {
        says: "inventory: a label is added",
        by: Inventory(&[(&["nodes", "w1", "labels"], "{ disk = \"ssd\", rack = \"a1\" }")]),
        shows: &[("m1", "labels", "labels.node[w1]", "label rack=a1")],
        alone: ONE_AT_A_TIME,
        ..KIND
    },
    Kind {
        says: "inventory: a mirror is added",
        by: Inventory(&[
            (&["registries", "quay.io", "mirrors"], "[\"http://198.18.0.1:5000\"]"),
            (&["registries", "quay.io", "fallback"], "false"),
        ]),
        shows: &[
            ("m1", "runtime", "runtime.mirrors[quay.io]", "http://198.18.0.1:5000"),
            ("w1", "runtime", "runtime.mirrors[quay.io]", "http://198.18.0.1:5000"),
            ("w2", "runtime", "runtime.mirrors[quay.io]", "http://198.18.0.1:5000"),
        ],
        differs: &["/etc/containerd/certs.d/"],
        alone: ONE_AT_A_TIME,
        ..KIND
    },
    Kind {
        says: "inventory: two kubelet settings change",
        by: Inventory(&[(&["kubelet", "maxPods"], "78"), (&["kubelet", "containerLogMaxFiles"], "7")]),
        shows: &[
            ("m1", "member", WROTE, ANOTHER),
            ("w1", "member", WROTE, ANOTHER),
            ("w2", "member", WROTE, ANOTHER),
            ("m1", "uploads", KUBELET, ANOTHER),
        ],
        // kubeadm does not write the settings of the registration again.
        differs: &["/var/lib/kubelet/config.yaml", "/var/lib/kubelet/kubeadm-flags.env"],
        alone: ONE_AT_A_TIME,
        ..KIND
    },
    Kind {
        says: "inventory: the API gets another name, and its server another argument",
        by: Inventory(&[
            (&["cluster", "api-names"], "[\"k8s.example.org\"]"),
            (&["api-server", "event-ttl"], "\"3h0m0s\""),
        ]),
        shows: &[
            ("m1", "pki", "pki.file[apiserver.crt]", "valid for k8s.example.org"),
            ("m1", "pki", "pki.file[apiserver.key]", "sha256"),
            ("m1", "static-pods", "static-pods.current", "restarted, because"),
            ("m1", "member", WROTE, ANOTHER),
            ("m1", "uploads", KUBEADM, ANOTHER),
        ],
        differs: &[
            "/etc/kubernetes/pki/apiserver.crt",
            "/etc/kubernetes/pki/apiserver.key",
            "/etc/kubernetes/manifests/kube-apiserver.yaml",
        ],
        alone: ONE_AT_A_TIME,
        ..KIND
    },
    Kind {
        says: "inventory: a proxy password has special characters of systemd and shells",
        by: Inventory(&[(
            &["proxy"],
            r#"{ http = "http://ops:p%25w&~$HOME;%27%20@198.18.0.1:3128", no = ["198.18.0.1"] }"#,
        )]),
        shows: &[
            ("m1", "runtime", "runtime.proxy-variables", "sha256"),
            ("w1", "runtime", "runtime.proxy-variables", "sha256"),
            ("w2", "runtime", "runtime.proxy-variables", "sha256"),
            ("m1", "runtime", "runtime.proxy", "sha256"),
            ("w1", "runtime", "runtime.proxy", "sha256"),
            ("w2", "runtime", "runtime.proxy", "sha256"),
            ("m1", "runtime", RUNS, "restarted, because"),
            ("w1", "runtime", RUNS, "restarted, because"),
            ("w2", "runtime", RUNS, "restarted, because"),
        ],
        differs: &[
            "/etc/ironstrap",
            "/etc/ironstrap/",
            DROP_INS,
            "/etc/systemd/system/containerd.service.d/",
        ],
        alone: ONE_AT_A_TIME,
        then: r#"f=/proc/$(systemctl show -p MainPID --value containerd)/environ
tr '\0' '\n' <"$f" | grep -qxF 'HTTP_PROXY=http://ops:p%25w&~$HOME;%27%20@198.18.0.1:3128'
! systemctl show containerd | grep -F p%25w"#,
        ..KIND
    },
    Kind {
        says: "inventory: CoreDNS gets more replicas",
        by: Inventory(&[(&["coredns", "replicas"], "3")]),
        shows: &[(
            "m1",
            "installed",
            "kubeadm-objects.object[Deployment kube-system/coredns]",
            "spec.replicas: 3",
        )],
        alone: ONE_AT_A_TIME,
        ..KIND
    },
    Kind {
        // The first inventory has no number of replicas, so they stay.
        says: "inventory: the first inventory returns",
        by: Inventory(&[]),
        shows: &[
            ("m1", "runtime", "runtime.old-mirrors", "quay.io"),
            ("w1", "runtime", "runtime.old-mirrors", "quay.io"),
            ("w2", "runtime", "runtime.old-mirrors", "quay.io"),
            ("m1", "runtime", "runtime.proxy-variables", ""),
            ("w1", "runtime", "runtime.proxy-variables", ""),
            ("w2", "runtime", "runtime.proxy-variables", ""),
            ("m1", "runtime", "runtime.proxy", "sha256"),
            ("w1", "runtime", "runtime.proxy", "sha256"),
            ("w2", "runtime", "runtime.proxy", "sha256"),
            ("m1", "runtime", RUNS, "restarted, because"),
            ("w1", "runtime", RUNS, "restarted, because"),
            ("w2", "runtime", RUNS, "restarted, because"),
            ("m1", "labels", "labels.node[w1]", "label rack=a1"),
            // The certificate no longer contains the removed name.
            ("m1", "pki", "pki.file[apiserver.crt]", ""),
            ("m1", "pki", "pki.file[apiserver.key]", "sha256"),
            ("m1", "static-pods", "static-pods.current", "restarted, because"),
            ("m1", "member", WROTE, ANOTHER),
            ("w1", "member", WROTE, ANOTHER),
            ("w2", "member", WROTE, ANOTHER),
            ("m1", "uploads", KUBELET, ANOTHER),
            ("m1", "uploads", KUBEADM, ANOTHER),
        ],
        differs: &[
            "/etc/containerd/certs.d",
            "/etc/containerd/certs.d/",
            "/etc/kubernetes/pki/apiserver.crt",
            "/etc/kubernetes/pki/apiserver.key",
            "/var/lib/kubelet/config.yaml",
            "/etc/kubernetes/manifests/kube-apiserver.yaml",
            "/etc/ironstrap",
            "/etc/ironstrap/",
            DROP_INS,
            "/etc/systemd/system/containerd.service.d/",
        ],
        alone: ONE_AT_A_TIME,
        ..KIND
    },
    Kind {
        says: "inventory: a registry with a port has a folder with another name",
        by: Operator(|world| {
            world.edit(&[(&["registries", "r.example:5000", "mirrors"], "[\"http://198.18.0.1:5000\"]")]);
            world.lab.ssh("w1", "mkdir -p /etc/containerd/certs.d/r.example_5000_");
        }),
        shows: &[
            ("m1", "runtime", PORT, "http://198.18.0.1:5000"),
            ("w1", "runtime", PORT, "http://198.18.0.1:5000"),
            ("w2", "runtime", PORT, "http://198.18.0.1:5000"),
            (
                "w1",
                "runtime",
                "runtime.other-folder[r.example_5000_]",
                "/etc/containerd/certs.d/r.example_5000_",
            ),
        ],
        differs: &["/etc/containerd/certs.d/"],
        alone: ONE_AT_A_TIME,
        ..KIND
    },
];
