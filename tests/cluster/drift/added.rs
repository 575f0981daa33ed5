//! Drift by additions to objects: rights for others, other ways to run pods, other targets of a Service. Each object still has
//! everything of its manifest. One row has several objects that do not affect each other.

use super::By::Kubectl;
use super::{KIND, Kind, RESTARTS};

const ADMINS: &str = "kubeadm-objects.object[ClusterRoleBinding kubeadm:cluster-admins]";

pub const KINDS: &[Kind] = &[
    Kind {
        says: "added: all users are administrators, and roles have additional rights",
        by: Kubectl(
            "for b in kubeadm:cluster-admins cluster-admin kubeadm:node-autoapprove-bootstrap system:kube-scheduler; do
               k patch clusterrolebinding $b --type=json -p '[{\"op\": \"add\", \"path\": \"/subjects/-\", \"value\":
                 {\"apiGroup\": \"rbac.authorization.k8s.io\", \"kind\": \"User\", \"name\": \"system:anonymous\"}}]'
             done
             k patch clusterrole kubeadm:get-nodes --type=json -p '[{\"op\": \"replace\", \"path\": \"/rules/0/verbs\", \"value\": [\"*\"]},
               {\"op\": \"add\", \"path\": \"/aggregationRule\", \"value\": {\"clusterRoleSelectors\": [{\"matchLabels\": {\"no\": \"role\"}}]}}]'
             k patch clusterrole flannel --type=json -p '[{\"op\": \"add\", \"path\": \"/rules/-\", \"value\":
               {\"apiGroups\": [\"\"], \"resources\": [\"secrets\"], \"verbs\": [\"get\", \"list\"]}}]'
             k patch clusterrole system:coredns --type=json -p '[{\"op\": \"replace\", \"path\": \"/rules\", \"value\": []}]'",
        ),
        shows: &[
            ("m1", "installed", ADMINS, "subjects[system:anonymous]: none"),
            ("m1", "installed", "kubeadm-objects.object[ClusterRoleBinding cluster-admin]", "subjects[system:anonymous]: none"),
            (
                "m1",
                "installed",
                "kubeadm-objects.object[ClusterRoleBinding kubeadm:node-autoapprove-bootstrap]",
                "subjects[system:anonymous]: none",
            ),
            (
                "m1",
                "installed",
                "kubeadm-objects.object[ClusterRoleBinding system:kube-scheduler]",
                "subjects[system:anonymous]: none",
            ),
            ("m1", "installed", "kubeadm-objects.object[ClusterRole kubeadm:get-nodes]", "aggregationRule: none"),
            ("m1", "installed", "kubeadm-objects.object[ClusterRole system:coredns]", "rules: none"),
            ("m1", "network", "network.object[ClusterRole flannel]", "rules[3]: none"),
        ],
        ..KIND
    },
    Kind {
        // They keep their rights meanwhile; without them, this would be another kind of drift.
        says: "added: the administrators and flannel are bound to another role",
        by: Kubectl(
            "k create clusterrolebinding meanwhile --clusterrole=cluster-admin --group=kubeadm:cluster-admins
             k delete clusterrolebinding kubeadm:cluster-admins flannel
             k create clusterrolebinding kubeadm:cluster-admins --clusterrole=view --group=kubeadm:cluster-admins
             k create clusterrolebinding flannel --clusterrole=cluster-admin --serviceaccount=kube-flannel:flannel",
        ),
        shows: &[
            ("m1", "installed", ADMINS, "roleRef.name: \"cluster-admin\""),
            ("m1", "network", "network.object[ClusterRoleBinding flannel]", "roleRef.name: \"flannel\""),
        ],
        then: "k delete clusterrolebinding meanwhile; k get nodes",
        alone: "other rows change them",
        ..KIND
    },
    Kind {
        // With OnDelete and paused, no pod restarts before the repair.
        says: "added: pods would run with other settings after their next start",
        by: Kubectl(
            "k -n kube-system patch daemonset kube-proxy --type=json -p '[
               {\"op\": \"add\", \"path\": \"/spec/updateStrategy\", \"value\": {\"type\": \"OnDelete\"}},
               {\"op\": \"add\", \"path\": \"/spec/template/spec/affinity\", \"value\": {\"nodeAffinity\": {\"requiredDuringSchedulingIgnoredDuringExecution\":
                 {\"nodeSelectorTerms\": [{\"matchExpressions\": [{\"key\": \"kubernetes.io/hostname\", \"operator\": \"Exists\"}]}]}}}},
               {\"op\": \"add\", \"path\": \"/spec/template/spec/containers/-\", \"value\": {\"name\": \"side\", \"image\": \"registry.k8s.io/pause\"}},
               {\"op\": \"add\", \"path\": \"/spec/template/spec/containers/0/args\", \"value\": [\"--cleanup\"]}]'
             k -n kube-flannel patch daemonset flannel --type=json -p '[
               {\"op\": \"add\", \"path\": \"/spec/updateStrategy\", \"value\": {\"type\": \"OnDelete\"}},
               {\"op\": \"add\", \"path\": \"/spec/minReadySeconds\", \"value\": 9},
               {\"op\": \"add\", \"path\": \"/spec/template/spec/hostPID\", \"value\": true}]'
             k -n kube-system patch deployment coredns --type=json -p '[
               {\"op\": \"add\", \"path\": \"/spec/paused\", \"value\": true},
               {\"op\": \"add\", \"path\": \"/spec/strategy\", \"value\": {\"type\": \"Recreate\"}},
               {\"op\": \"add\", \"path\": \"/spec/template/spec/schedulerName\", \"value\": \"nobody\"},
               {\"op\": \"add\", \"path\": \"/spec/template/spec/containers/0/lifecycle\", \"value\": {\"preStop\": {\"sleep\": {\"seconds\": 1}}}}]'",
        ),
        shows: &[
            (
                "m1",
                "installed",
                "kubeadm-objects.object[DaemonSet kube-system/kube-proxy]",
                "containers[side]: none",
            ),
            ("m1", "installed", "kubeadm-objects.object[Deployment kube-system/coredns]", "schedulerName: \"default-scheduler\""),
            ("m1", "network", "network.object[DaemonSet kube-flannel/flannel]", "hostPID: none"),
        ],
        then: "k='kubectl --kubeconfig /etc/kubernetes/admin.conf'
               for o in daemonset/kube-proxy deployment/coredns; do $k -n kube-system rollout status $o --timeout=120s; done
               $k -n kube-flannel rollout status daemonset/flannel --timeout=120s",
        alone: "other rows change them",
        ..KIND
    },
    Kind {
        says: "added: the DNS Service has other targets, its pods get no token, and new pods are refused",
        by: Kubectl(
            "k -n kube-system patch service kube-dns -p '{\"spec\": {\"internalTrafficPolicy\": \"Local\", \"externalIPs\": [\"192.0.2.53\"],
               \"publishNotReadyAddresses\": true, \"sessionAffinity\": \"ClientIP\", \"ports\": [{\"name\": \"more\", \"port\": 5353}]}}'
             k -n kube-system patch serviceaccount coredns -p '{\"automountServiceAccountToken\": false}'
             k label namespace kube-system pod-security.kubernetes.io/enforce=restricted pod-security.kubernetes.io/warn=baseline",
        ),
        shows: &[
            ("m1", "installed", "kubeadm-objects.object[Service kube-system/kube-dns]", "internalTrafficPolicy: \"Cluster\""),
            ("m1", "installed", "kubeadm-objects.object[ServiceAccount kube-system/coredns]", "automountServiceAccountToken: true"),
            (
                "m1",
                "installed",
                "kubeadm-objects.admission",
                "pod-security.kubernetes.io/enforce=restricted",
            ),
        ],
        then: "k='kubectl --kubeconfig /etc/kubernetes/admin.conf -n kube-system'
               $k rollout status deployment/coredns --timeout=120s; $k label namespace kube-system pod-security.kubernetes.io/warn-",
        ..KIND
    },
    Kind {
        // A running API server does not restore these.
        says: "added: a default role of the API server has no rules",
        by: Kubectl(
            "k patch clusterrole system:kubelet-api-admin --type=json -p '[{\"op\": \"replace\", \"path\": \"/rules\", \"value\": []}]'
             k delete clusterrole system:node-bootstrapper",
        ),
        shows: &[(
            "m1",
            "installed",
            "kubeadm-objects.roles",
            "ClusterRole system:kubelet-api-admin: no rules",
        )],
        alone: RESTARTS,
        ..KIND
    },
    Kind {
        says: "added: a default role of the API server lacks rights",
        by: Kubectl(
            "k patch clusterrole system:node-proxier --type=json -p '[{\"op\": \"replace\", \"path\": \"/rules\", \"value\":
               [{\"apiGroups\": [\"\"], \"resources\": [\"nodes\"], \"verbs\": [\"get\"]}]}]'",
        ),
        shows: &[(
            "m1",
            "installed",
            "kubeadm-objects.roles",
            "ClusterRole system:node-proxier: may list, watch endpointslices.discovery.k8s.io",
        )],
        alone: RESTARTS,
        ..KIND
    },
    Kind {
        says: "added: controllers lack their rights",
        by: Kubectl(
            "k delete clusterrolebinding system:controller:endpointslice-controller system:controller:replicaset-controller
             k patch clusterrole system:controller:job-controller --type=json -p '[{\"op\": \"replace\", \"path\": \"/rules\", \"value\": []}]'",
        ),
        shows: &[
            (
                "m1",
                "installed",
                "kubeadm-objects.controllers",
                "ClusterRoleBinding system:controller:endpointslice-controller: none",
            ),
            (
                "m1",
                "installed",
                "kubeadm-objects.controllers",
                "ClusterRole system:controller:job-controller: missing, or without rules",
            ),
        ],
        alone: RESTARTS,
        ..KIND
    },
];
