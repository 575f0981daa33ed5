//! Gives a kubelet that the API server does not let in any more a temporary certificate, with which it asks for its own.

use crate::pki::KUBELET_CERTIFICATE;
use crate::shell::{Sh, here, sh};
use crate::step::Cx;

pub(in crate::steps) const KUBELET_CONF: &str = "/etc/kubernetes/kubelet.conf";

/// The API servers that kubelet.conf may name; the first is the one to write. kubeadm before 1.33 makes the kubelet of a
/// control plane use the endpoint, too.
pub(in crate::steps) fn servers(cx: &Cx) -> Vec<String> {
    let endpoint = format!("https://{}", cx.cluster.endpoint);
    let local = format!("https://{}", std::net::SocketAddr::new(cx.node.ip, cx.cluster.api_port()));
    if cx.node.is_control_plane() { vec![local, endpoint] } else { vec![endpoint] }
}

/// Shell that writes kubelet.conf, which names the file of the kubelet's certificate and holds no key.
pub(in crate::steps) fn kubelet_conf(cx: &Cx) -> Sh {
    let text = cx.trust.kubelet_kubeconfig(&servers(cx)[0]);
    here(sh!("put {KUBELET_CONF} 600", KUBELET_CONF), &text)
}

/// Shell that defines what `readmit` (templates/credentials.sh) needs.
pub(in crate::steps) fn functions(cx: &Cx) -> Sh {
    sh!(
        "pem={KUBELET_CERTIFICATE}\nby_its_certificate() {\n{conf}}\n",
        KUBELET_CERTIFICATE,
        conf = kubelet_conf(cx)
    )
}
