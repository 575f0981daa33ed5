//! A control plane that kubeadm created by hand, in place of ironstrap's. This scenario destroys the cluster.

use std::fs;

use crate::lab::assert_untouched;
use crate::world::{Moved, World};
use crate::{Ground, Scenario};

pub const SCENARIOS: &[Scenario] = &[Scenario {
    says: "a cluster that ironstrap did not create is refused and unchanged",
    ground: Ground::Cluster,
    run: foreign_cluster,
}];

/// Creates a cluster by hand, with the settings that the lab's machines need.
const BY_HAND: &str = r#"set -e
kubeadm reset -f >/dev/null 2>&1
cat >/root/by-hand.yaml <<'Y'
apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
nodeRegistration: {name: m1, ignorePreflightErrors: [SystemVerification]}
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: v1.36.3
networking: {podSubnet: 10.244.0.0/16}
---
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
Y
kubeadm init --config /root/by-hand.yaml >/root/by-hand.log 2>&1 || { tail -n 20 /root/by-hand.log; exit 1; }
"#;

fn foreign_cluster(world: &World) {
    world.lab.ssh("m1", BY_HAND);
    let theirs = fs::read(world.lab.disk("m1", "/etc/kubernetes/pki/ca.crt")).unwrap();
    assert!(
        theirs != fs::read(world.dir.join("demo.trust/ca.crt")).unwrap(),
        "the CA is that of another cluster"
    );
    let before = world.lab.look_at_all();
    world.apply().refused(5, "m1", &["belongs to a cluster with another PKI", "pki/ca.crt"]);
    world.plan().refused(5, "m1", &["belongs to a cluster with another PKI"]);
    // An operator without a PKI gets a similar error, and ironstrap creates no PKI.
    let away = Moved::new(world.dir.join("demo.trust"), world.dir.join("elsewhere"));
    world.apply().refused(5, "m1", &["demo.trust does not exist"]);
    assert!(!world.dir.join("demo.trust").exists(), "a PKI was created for a foreign cluster");
    drop(away);
    assert_untouched(&before, &world.lab.look_at_all());
    world.lab.run(&["fresh"]);
}
