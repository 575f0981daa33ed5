//! The credentials that a control plane keeps to administer the cluster. They are kubeadm's `admin.conf`, to which RBAC
//! applies, and nothing that bypasses RBAC.

use crate::pki::Credential;
use crate::shell::KUBECTL;
use crate::step::{Ask, Cx, Verdict, WITH_THE_CLUSTER, WITH_THE_MEMBER, Want};
use crate::steps::kubeadm;

pub(super) fn wants(cx: &Cx) -> Vec<Want> {
    // Until kubeadm is done, it needs super-admin.conf itself, to bind the administrators.
    let through = cx.machine.is_member() && cx.machine.has("receipt");
    vec![administrator(cx).only(through), no_super_admin().only(through)]
}

/// The want that `kubernetes-admin` has its rights. Without its binding, `admin.conf` has no rights. So the fix that binds
/// it again cannot depend on RBAC.
fn administrator(cx: &Cx) -> Want {
    let want = Want::new("bootstrap.administrator", "kubernetes-admin may administer the cluster")
        .ask(Ask::Administrator)
        .judged(|answer| match answer {
            "may not" => Verdict::Differs {
                have: "RBAC does not allow it".into(),
                want: "ClusterRoleBinding kubeadm:cluster-admins".into(),
            },
            _ => Verdict::Holds,
        });
    bound(cx, want)
}

/// `want` with a fix that binds kubeadm's administrators and nobody else. The fix uses a credential that RBAC does not
/// apply to. Any other client that deletes this binding to create it again has no rights in between.
pub(in crate::steps) fn bound(cx: &Cx, want: Want) -> Want {
    let server = format!("https://{}", std::net::SocketAddr::new(cx.node.ip, cx.cluster.api_port()));
    want.run(KUBECTL + "administer").with(Credential::of_masters(server)).nothing_to_undo(WITH_THE_CLUSTER)
}

/// The want that `super-admin.conf` is gone, as kubeadm and CIS 5.1.7 advise. A credential of `system:masters` that stays
/// on a machine cannot be revoked.
fn no_super_admin() -> Want {
    Want::no_file("member.no-super-admin", "super-admin.conf is not on this machine", kubeadm::SUPER_ADMIN)
        .nothing_to_undo(WITH_THE_MEMBER)
}
