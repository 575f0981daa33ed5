//! With `serverTLSBootstrap`, each kubelet serves with a certificate that the cluster signed, for its own name and address
//! only.

use serde_json::Value;

use crate::lab::NODES;
use crate::world::{PATIENCE, World, set};
use crate::{Ground, Scenario};

pub const SCENARIOS: &[Scenario] = &[Scenario {
    says: "kubelets serve with cluster certificates, and a worker's request for other names stays pending",
    ground: Ground::Cluster,
    run: serving,
}];

/// Requests a certificate for m1's address with the kubelet credentials of w1.
const ASKS: &str = r#"set -e
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout /root/asks.key \
  -subj "/O=system:nodes/CN=system:node:w1" -addext 'subjectAltName=DNS:w1,IP:198.18.0.11' -out /root/asks.csr 2>/dev/null
kubectl --kubeconfig /etc/kubernetes/kubelet.conf create -f - <<CSR
apiVersion: certificates.k8s.io/v1
kind: CertificateSigningRequest
metadata: {name: asks-too-much}
spec: {signerName: kubernetes.io/kubelet-serving, usages: [digital signature, server auth], request: $(base64 -w 0 /root/asks.csr)}
CSR
rm /root/asks.*"#;

fn want(node: &str) -> String {
    format!("serving-certificates.certificate[{node}]")
}

fn serving(world: &World) {
    world.inventory(|inventory| set(inventory, &["kubelet", "serverTLSBootstrap"], "true"));
    let planned = world.plan().good().triples("drift");
    for node in NODES {
        assert!(planned.contains(&("m1".into(), "serving".into(), want(node))), "{node}: {planned:#?}");
    }
    world.apply().good();
    world.assert_converged();
    for (node, octet) in NODES.iter().zip([11, 12, 13]) {
        let pods = format!("/api/v1/nodes/{node}/proxy/pods");
        assert_eq!(world.kubectl_json(&["get", "--raw", &pods])["kind"], "PodList", "{node}");
        let text = world.lab.ssh(
            node,
            "f=/var/lib/kubelet/pki/kubelet-server-current.pem; openssl verify -CAfile /etc/kubernetes/pki/ca.crt $f; \
             openssl x509 -in $f -noout -ext subjectAltName",
        );
        assert!(text.contains("kubelet-server-current.pem: OK"), "{node}: {text}");
        let names = format!("DNS:{node}, IP Address:198.18.0.{octet}");
        assert!(text.lines().any(|line| line.trim() == names), "{node}: {text}");
    }
    foreign_request_stays_pending(world);
    lost_certificate_is_replaced(world);
    world.inventory(|_| {});
    world.apply().good();
    world.assert_converged();
}

fn foreign_request_stays_pending(world: &World) {
    world.lab.ssh("w1", ASKS);
    let run = world.start(&["apply", "--yes"]).end(PATIENCE).good();
    assert_eq!(run.changes(), 0);
    let state = world.kubectl(&["get", "csr", "asks-too-much", "-o", "jsonpath={.status}"]);
    assert!(state.is_empty() || state == "{}", "{state}");
    world.kubectl(&["delete", "csr", "asks-too-much"]);
}

/// A kubelet that lost its certificate requests a new one, and the same apply approves it.
fn lost_certificate_is_replaced(world: &World) {
    world.lab.ssh("w2", "rm /var/lib/kubelet/pki/kubelet-server-*.pem; systemctl restart kubelet");
    let run = world.apply().good();
    let fixed: Vec<Value> = run.triples("fixed").into_iter().map(|(.., that)| that.into()).collect();
    assert!(fixed.contains(&want("w2").into()), "{fixed:?}");
    world.assert_converged();
}
