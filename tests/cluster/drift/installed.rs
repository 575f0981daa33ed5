//! Drift of the objects that kubeadm installs: rights, cluster-info, kube-proxy and CoreDNS.

use super::By::Kubectl;
use super::{KIND, Kind};

const INFO: &str = "kubeadm-objects.cluster-info";
const COREFILE: &str = "kubeadm-objects.corefile";
const COREDNS: &str = "kubeadm-objects.object[Deployment kube-system/coredns]";
const PROXY: &str = "kubeadm-objects.object[DaemonSet kube-system/kube-proxy]";
const SERVICE: &str = "kubeadm-objects.object[Service kube-system/kube-dns]";

pub const KINDS: &[Kind] = &[
    Kind {
        says: "installed: kubelets with a token may not request certificates",
        by: Kubectl("k delete clusterrolebinding kubeadm:kubelet-bootstrap"),
        shows: &[(
            "m1",
            "installed",
            "kubeadm-objects.object[ClusterRoleBinding kubeadm:kubelet-bootstrap]",
            "ClusterRoleBinding kubeadm:kubelet-bootstrap",
        )],
        ..KIND
    },
    Kind {
        says: "installed: certificates of new and known kubelets are not approved",
        by: Kubectl(
            "k delete clusterrolebinding kubeadm:node-autoapprove-bootstrap kubeadm:node-autoapprove-certificate-rotation",
        ),
        shows: &[
            (
                "m1",
                "installed",
                "kubeadm-objects.object[ClusterRoleBinding kubeadm:node-autoapprove-bootstrap]",
                "ClusterRoleBinding kubeadm:node-autoapprove-bootstrap",
            ),
            (
                "m1",
                "installed",
                "kubeadm-objects.object[ClusterRoleBinding kubeadm:node-autoapprove-certificate-rotation]",
                "ClusterRoleBinding kubeadm:node-autoapprove-certificate-rotation",
            ),
        ],
        ..KIND
    },
    Kind {
        says: "installed: the rights of joining machines are gone or changed",
        by: Kubectl(
            "k delete clusterrole kubeadm:get-nodes
             k -n kube-public delete rolebinding kubeadm:bootstrap-signer-clusterinfo
             k -n kube-system delete role kubeadm:kubelet-config
             k -n kube-system patch role kubeadm:nodes-kubeadm-config --type=json -p '[{\"op\": \"replace\", \"path\": \"/rules/0/verbs\", \"value\": [\"list\"]}]'",
        ),
        shows: &[
            ("m1", "installed", "kubeadm-objects.object[ClusterRole kubeadm:get-nodes]", "ClusterRole kubeadm:get-nodes"),
            (
                "m1",
                "installed",
                "kubeadm-objects.object[RoleBinding kube-public/kubeadm:bootstrap-signer-clusterinfo]",
                "RoleBinding kube-public/kubeadm:bootstrap-signer-clusterinfo",
            ),
            (
                "m1",
                "installed",
                "kubeadm-objects.object[Role kube-system/kubeadm:kubelet-config]",
                "Role kube-system/kubeadm:kubelet-config",
            ),
            (
                "m1",
                "installed",
                "kubeadm-objects.object[Role kube-system/kubeadm:nodes-kubeadm-config]",
                "verbs[0]: \"get\"",
            ),
        ],
        ..KIND
    },
    Kind {
        says: "installed: a deleted binding waits for a finalizer",
        by: Kubectl(
            "k patch clusterrolebinding kubeadm:get-nodes -p '{\"metadata\": {\"finalizers\": [\"example.com/stays\"]}}'
             k delete clusterrolebinding kubeadm:get-nodes --wait=false",
        ),
        shows: &[(
            "m1",
            "installed",
            "kubeadm-objects.object[ClusterRoleBinding kubeadm:get-nodes]",
            "is being deleted, and waits for its finalizers: example.com/stays",
        )],
        by_hand: "k patch clusterrolebinding kubeadm:get-nodes --type=json -p '[{\"op\": \"remove\", \"path\": \"/metadata/finalizers\"}]'",
        ..KIND
    },
    Kind {
        says: "installed: the control plane lacks rights in kube-system",
        by: Kubectl(
            "k -n kube-system delete rolebinding system::extension-apiserver-authentication-reader system::leader-locking-kube-scheduler
             k -n kube-system patch rolebinding system::leader-locking-kube-controller-manager --type=json -p '[{\"op\": \"remove\", \"path\": \"/subjects/0\"}]'",
        ),
        shows: &[
            (
                "m1",
                "installed",
                "kubeadm-objects.object[RoleBinding kube-system/system::extension-apiserver-authentication-reader]",
                "RoleBinding kube-system/system::extension-apiserver-authentication-reader",
            ),
            (
                "m1",
                "installed",
                "kubeadm-objects.object[RoleBinding kube-system/system::leader-locking-kube-scheduler]",
                "RoleBinding kube-system/system::leader-locking-kube-scheduler",
            ),
            (
                "m1",
                "installed",
                "kubeadm-objects.object[RoleBinding kube-system/system::leader-locking-kube-controller-manager]",
                "subjects[system:kube-controller-manager]",
            ),
        ],
        ..KIND
    },
    Kind {
        says: "installed: kube-proxy's rights are missing",
        by: Kubectl("k delete clusterrolebinding kubeadm:node-proxier"),
        shows: &[(
            "m1",
            "installed",
            "kubeadm-objects.object[ClusterRoleBinding kubeadm:node-proxier]",
            "ClusterRoleBinding kubeadm:node-proxier",
        )],
        ..KIND
    },
    Kind {
        says: "installed: kube-proxy's binding has another subject",
        by: Kubectl(
            "k delete clusterrolebinding kubeadm:node-proxier
             k create clusterrolebinding kubeadm:node-proxier --clusterrole=system:node-proxier --serviceaccount=kube-system:other",
        ),
        shows: &[(
            "m1",
            "installed",
            "kubeadm-objects.object[ClusterRoleBinding kubeadm:node-proxier]",
            "subjects[kube-proxy]",
        )],
        alone: "another row deletes it",
        ..KIND
    },
    Kind {
        // The role of an existing binding cannot change.
        says: "installed: kube-proxy's binding has another role",
        by: Kubectl(
            "k delete clusterrolebinding kubeadm:node-proxier
             k create clusterrolebinding kubeadm:node-proxier --clusterrole=view --serviceaccount=kube-system:kube-proxy",
        ),
        shows: &[(
            "m1",
            "installed",
            "kubeadm-objects.object[ClusterRoleBinding kubeadm:node-proxier]",
            "roleRef.name: \"system:node-proxier\"",
        )],
        alone: "another row deletes it",
        ..KIND
    },
    Kind {
        says: "installed: the ServiceAccounts of kube-proxy and CoreDNS are missing",
        by: Kubectl("k -n kube-system delete serviceaccount kube-proxy coredns"),
        shows: &[
            (
                "m1",
                "installed",
                "kubeadm-objects.object[ServiceAccount kube-system/kube-proxy]",
                "ServiceAccount kube-system/kube-proxy",
            ),
            ("m1", "installed", "kubeadm-objects.object[ServiceAccount kube-system/coredns]", "ServiceAccount kube-system/coredns"),
        ],
        then: "k='kubectl --kubeconfig /etc/kubernetes/admin.conf -n kube-system'
               $k rollout status daemonset/kube-proxy --timeout=120s; $k rollout status deployment/coredns --timeout=120s",
        ..KIND
    },
    Kind {
        says: "installed: kube-proxy has another image",
        by: Kubectl("k -n kube-system set image daemonset/kube-proxy kube-proxy=registry.k8s.io/kube-proxy:v1.0.0"),
        shows: &[("m1", "installed", PROXY, "containers[kube-proxy].image: \"registry.k8s.io/kube-proxy:v1.36.3\"")],
        ..KIND
    },
    Kind {
        says: "installed: kube-proxy's DaemonSet is missing",
        by: Kubectl("k -n kube-system delete daemonset kube-proxy"),
        shows: &[("m1", "installed", PROXY, "DaemonSet kube-system/kube-proxy")],
        alone: "another row changes it",
        ..KIND
    },
    Kind {
        says: "installed: kube-proxy's node selector matches no node",
        by: Kubectl(
            "k -n kube-system patch daemonset kube-proxy -p '{\"spec\": {\"template\": {\"spec\": {\"nodeSelector\": {\"nowhere\": \"yes\"}}}}}'",
        ),
        shows: &[("m1", "installed", PROXY, "nodeSelector.nowhere: \"yes\"")],
        alone: "another row changes it",
        ..KIND
    },
    Kind {
        says: "installed: CoreDNS has another image",
        by: Kubectl("k -n kube-system set image deployment/coredns coredns=registry.k8s.io/coredns/coredns:v1.0.0"),
        shows: &[("m1", "installed", COREDNS, "containers[coredns].image: \"registry.k8s.io/coredns/coredns:v1.14.2\"")],
        ..KIND
    },
    Kind {
        says: "installed: CoreDNS is scaled to zero",
        by: Kubectl("k -n kube-system scale deployment coredns --replicas=0"),
        shows: &[("m1", "installed", COREDNS, "spec.replicas: 2")],
        alone: "another row changes it",
        ..KIND
    },
    Kind {
        says: "installed: CoreDNS' Deployment is missing",
        by: Kubectl("k -n kube-system delete deployment coredns"),
        shows: &[("m1", "installed", COREDNS, "Deployment kube-system/coredns")],
        alone: "another row changes it",
        ..KIND
    },
    Kind {
        says: "installed: CoreDNS' ConfigMap is missing",
        by: Kubectl("k -n kube-system delete configmap coredns"),
        shows: &[("m1", "installed", COREFILE, "kubernetes cluster.local in-addr.arpa ip6.arpa")],
        ..KIND
    },
    Kind {
        says: "installed: CoreDNS' rights are missing",
        by: Kubectl("k delete clusterrole system:coredns; k delete clusterrolebinding system:coredns"),
        shows: &[
            ("m1", "installed", "kubeadm-objects.object[ClusterRole system:coredns]", "ClusterRole system:coredns"),
            ("m1", "installed", "kubeadm-objects.object[ClusterRoleBinding system:coredns]", "ClusterRoleBinding system:coredns"),
        ],
        ..KIND
    },
    Kind {
        says: "installed: the DNS Service has another port",
        by: Kubectl(
            "k -n kube-system patch service kube-dns --type=json -p '[{\"op\": \"replace\", \"path\": \"/spec/ports/0/port\", \"value\": 54}]'",
        ),
        shows: &[("m1", "installed", SERVICE, "spec.ports[dns].port: 53")],
        ..KIND
    },
    Kind {
        says: "installed: the DNS Service has another address",
        by: Kubectl(
            "k -n kube-system get service kube-dns -o yaml | sed '/clusterIP/d; /clusterIPs/d; /^  - 10[.]/d; /resourceVersion/d; /uid/d' >/tmp/kube-dns.yaml
             k -n kube-system delete service kube-dns; k create -f /tmp/kube-dns.yaml; rm /tmp/kube-dns.yaml",
        ),
        shows: &[("m1", "installed", SERVICE, "spec.clusterIP: \"10.96.0.10\"")],
        alone: "another row changes it",
        ..KIND
    },
    Kind {
        says: "installed: the DNS Service selects no pod",
        by: Kubectl("k -n kube-system patch service kube-dns -p '{\"spec\": {\"selector\": {\"nowhere\": \"yes\"}}}'"),
        shows: &[("m1", "installed", SERVICE, "spec.selector.nowhere: \"yes\"")],
        alone: "another row changes it",
        ..KIND
    },
    Kind {
        says: "installed: cluster-info is missing",
        by: Kubectl("k -n kube-public delete configmap cluster-info"),
        shows: &[("m1", "installed", INFO, "server: https://api.demo.internal:6443")],
        ..KIND
    },
    Kind {
        says: "installed: cluster-info points to another server",
        by: Kubectl(
            "k -n kube-public get configmap cluster-info -o yaml | sed 's#server: .*#server: https://192.0.2.1:6443#' | k replace -f -",
        ),
        shows: &[("m1", "installed", INFO, "server: https://192.0.2.1:6443")],
        alone: "another row deletes it",
        ..KIND
    },
    Kind {
        says: "installed: cluster-info has the CA of another cluster",
        by: Kubectl(
            "c=$(base64 -w0 </etc/kubernetes/pki/front-proxy-ca.crt)
             k -n kube-public get configmap cluster-info -o yaml | sed \"s#certificate-authority-data: .*#certificate-authority-data: $c#\" | k replace -f -",
        ),
        shows: &[("m1", "installed", INFO, "CA: of another cluster")],
        alone: "another row deletes it",
        ..KIND
    },
    Kind {
        says: "installed: an edited Corefile stays until its replacement is confirmed",
        by: Kubectl(
            "k -n kube-system get configmap coredns -o yaml | sed 's#cache 30 {#cache 29 {#' | k replace -f -",
        ),
        shows: &[("m1", "installed", COREFILE, "cache 29 {")],
        confirm: "--replace-corefile",
        then: "[ \"$(k -n kube-system get configmap coredns-replaced -o 'jsonpath={.data.Corefile}' | grep -c 'cache 29 {')\" = 1 ]
               k -n kube-system delete configmap coredns-replaced",
        alone: "another row could not be repaired",
        ..KIND
    },
    Kind {
        says: "installed: more replicas of CoreDNS by an autoscaler stay",
        by: Kubectl("k -n kube-system scale deployment coredns --replicas=3"),
        then: "k='kubectl --kubeconfig /etc/kubernetes/admin.conf -n kube-system'
               [ \"$($k get deployment coredns -o 'jsonpath={.spec.replicas}')\" = 3 ]; $k scale deployment coredns --replicas=2",
        alone: "another row changes it",
        ..KIND
    },
];
