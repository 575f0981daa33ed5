//! Drift of the cluster's objects, and changes that ironstrap keeps.

use super::By::{Kubectl, Operator, Root};
use super::{KIND, Kind};

const W1: &str = "labels.node[w1]";
const W2: &str = "labels.node[w2]";
const M1: &str = "labels.node[m1]";

pub const KINDS: &[Kind] = &[
    Kind {
        says: "cluster: a label is missing",
        by: Kubectl("k label node w1 disk-"),
        shows: &[("m1", "labels", W1, "label disk=ssd")],
        ..KIND
    },
    Kind {
        says: "cluster: a label is missing, and root has a kuberc file",
        by: Root(
            "m1",
            "KUBECONFIG=/etc/kubernetes/admin.conf kubectl label node w1 disk-; mkdir -p /root/.kube; \
             printf 'apiVersion: kubectl.config.k8s.io/v1beta1\\nkind: Preference\\ndefaults:\\n- command: get\\n  options:\\n  - name: output\\n    default: wide\\n' >/root/.kube/kuberc",
        ),
        shows: &[("m1", "labels", W1, "label disk=ssd")],
        alone: "the kubectl of these tests would use it, too",
        then: "rm -r /root/.kube",
        ..KIND
    },
    Kind {
        says: "cluster: a label has another value",
        by: Kubectl("k label node w1 disk=hdd --overwrite"),
        shows: &[("m1", "labels", W1, "label disk=hdd")],
        ..KIND
    },
    Kind {
        says: "cluster: a taint is missing",
        by: Kubectl("k taint node w2 lab:PreferNoSchedule-"),
        shows: &[("m1", "labels", W2, "taint lab=yes:PreferNoSchedule")],
        ..KIND
    },
    Kind {
        says: "cluster: a taint has another value",
        by: Kubectl("k taint node w2 --overwrite lab=no:PreferNoSchedule"),
        shows: &[("m1", "labels", W2, "taint lab=no:PreferNoSchedule")],
        ..KIND
    },
    Kind {
        says: "cluster: the control plane's taint is missing",
        by: Kubectl("k taint node m1 node-role.kubernetes.io/control-plane-"),
        shows: &[("m1", "labels", M1, "taint node-role.kubernetes.io/control-plane:NoSchedule")],
        ..KIND
    },
    Kind {
        says: "cluster: the control plane's label is missing",
        by: Kubectl("k label node m1 node-role.kubernetes.io/control-plane-"),
        shows: &[("m1", "labels", M1, "label node-role.kubernetes.io/control-plane=")],
        ..KIND
    },
    Kind {
        says: "cluster: the control plane's load balancer label is missing",
        by: Kubectl("k label node m1 node.kubernetes.io/exclude-from-external-load-balancers-"),
        shows: &[("m1", "labels", M1, "label node.kubernetes.io/exclude-from-external-load-balancers=")],
        ..KIND
    },
    Kind {
        // The kubelet itself restores the labels of its operating system within ten seconds.
        says: "cluster: the hostname label of a Node is wrong",
        by: Kubectl("k label node w1 kubernetes.io/hostname=other --overwrite"),
        shows: &[("m1", "labels", W1, "label kubernetes.io/hostname=other")],
        ..KIND
    },
    Kind {
        says: "cluster: a killed run left a probe pod",
        by: Kubectl(
            "k create -f - <<'POD'
{apiVersion: v1, kind: Pod, metadata: {name: ironstrap-packets-w1, namespace: kube-system, labels: {app.kubernetes.io/managed-by: ironstrap, app.kubernetes.io/component: packets}},
 spec: {nodeName: w1, terminationGracePeriodSeconds: 1, containers: [{name: pause, image: registry.k8s.io/pause, imagePullPolicy: Never}]}}
POD",
        ),
        shows: &[("m1", "access", "bootstrap.probe-pods", "probe pods in kube-system: 1")],
        ..KIND
    },
    Kind {
        says: "cluster: an earlier release left a join token",
        by: Kubectl(
            "k -n kube-system create secret generic bootstrap-token-ironst --type=bootstrap.kubernetes.io/token \\
               --from-literal=token-id=ironst --from-literal=token-secret=0123456789abcdef --from-literal=usage-bootstrap-authentication=true
             k -n kube-system create secret generic bootstrap-token-abcdef --type=bootstrap.kubernetes.io/token \\
               --from-literal=token-id=abcdef --from-literal=token-secret=0123456789abcdef",
        ),
        shows: &[("m1", "access", "bootstrap.no-token", "bootstrap-token-ironst")],
        then: "k=/etc/kubernetes/admin.conf; kubectl --kubeconfig $k -n kube-system delete secret bootstrap-token-abcdef
               [ -z \"$(kubectl --kubeconfig $k -n kube-system get secret bootstrap-token-ironst --ignore-not-found)\" ]",
        ..KIND
    },
    Kind {
        // Its port is not that of the Service, so connections still work.
        says: "cluster: a foreign EndpointSlice adds an address to the API's Service",
        by: Kubectl(
            "k create -f - <<'SLICE'
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, metadata: {name: mine, namespace: default, labels: {kubernetes.io/service-name: kubernetes}},
 endpoints: [{addresses: [198.18.0.99], conditions: {ready: true}}], ports: [{name: other, port: 6443, protocol: TCP}]}
SLICE",
        ),
        shows: &[(
            "m1",
            "access",
            "bootstrap.api-service",
            "EndpointSlice default/mine has other endpoints: 198.18.0.99",
        )],
        then: "[ -z \"$(k -n default get endpointslice mine --ignore-not-found)\" ]",
        ..KIND
    },
    Kind {
        // The components that held the Leases give up after ten seconds and restart.
        says: "cluster: an unknown holder keeps the Leases of scheduler and controller manager for eleven days",
        by: Kubectl(
            "for l in kube-scheduler kube-controller-manager; do
               k -n kube-system patch lease $l --type=merge -p '{\"spec\": {\"holderIdentity\": \"nobody\", \"leaseDurationSeconds\": 1000000,
                 \"renewTime\": \"2026-01-01T00:00:00.000000Z\"}}'
             done
             sleep 20
             # After earlier rows a kubelet may wait minutes before it starts them again.
             k -n kube-system wait --for=condition=Ready --timeout=330s pod/kube-scheduler-m1 pod/kube-controller-manager-m1",
        ),
        shows: &[
            ("m1", "leases", "leases.renewed[Lease kube-system/kube-scheduler]", "held by nobody for 1000000 s"),
            ("m1", "leases", "leases.renewed[Lease kube-system/kube-controller-manager]", "held by nobody for 1000000 s"),
        ],
        then: "for l in kube-scheduler kube-controller-manager; do
                 n=0; until k -n kube-system get lease $l -o 'jsonpath={.spec.holderIdentity}' | grep -q '^m1_'; do n=$((n + 1)); [ $n -lt 60 ]; sleep 1; done
               done",
        alone: "the control plane does not work meanwhile",
        ..KIND
    },
    Kind {
        says: "cluster: the API server's access to kubelets is missing",
        by: Kubectl("k delete clusterrolebinding kubeadm:apiserver-kubelet-client"),
        shows: &[(
            "m1",
            "access",
            "bootstrap.object[ClusterRoleBinding kubeadm:apiserver-kubelet-client]",
            "ClusterRoleBinding kubeadm:apiserver-kubelet-client",
        )],
        ..KIND
    },
    Kind {
        says: "cluster: a worker's Node is deleted while its kubelet runs",
        by: Kubectl("k delete node w1"),
        shows: &[
            ("w1", "member", "member.node-object", "Node w1"),
            ("m1", "nodes", "nodes.registered[w1]", "not registered"),
            ("m1", "nodes", "nodes.ready[w1]", "not registered"),
            ("m1", "nodes", "nodes.announced[w1]", "not registered"),
            ("m1", "labels", W1, "label disk=ssd"),
        ],
        ..KIND
    },
    Kind {
        // The repair of the other drift does not register the Node again.
        says: "cluster: a worker's Node is deleted, and its machine has drifted",
        by: Operator(|world| {
            world.lab.ssh("w1", "sysctl -qw net.ipv4.ip_forward=0");
            world.kubectl(&["delete", "node", "w1"]);
        }),
        shows: &[
            ("w1", "kernel", "kernel.sysctl[net.ipv4.ip_forward]", "0\n1"),
            ("w1", "member", "member.node-object", "Node w1"),
            ("m1", "nodes", "nodes.registered[w1]", "not registered"),
            ("m1", "nodes", "nodes.ready[w1]", "not registered"),
            ("m1", "nodes", "nodes.announced[w1]", "not registered"),
            ("m1", "labels", W1, "label disk=ssd"),
        ],
        alone: "its parts are kinds of their own",
        ..KIND
    },
    Kind {
        // The controller of DaemonSets does not count it until a pod of the DaemonSet or the DaemonSet itself changes.
        says: "cluster: a worker's Node is deleted and comes back before its pods are gone",
        by: Kubectl(
            "k get node w2 -o yaml | sed '/^  resourceVersion:/d; /^  uid:/d' >/run/w2.yaml
             k delete node w2
             for change in lab/changed=yes lab/changed-; do k -n kube-system annotate daemonset kube-proxy $change; done
             k -n kube-system wait daemonset kube-proxy --for=jsonpath='{.status.desiredNumberScheduled}'=2 --timeout=20s
             sleep 1
             k create -f /run/w2.yaml
             rm /run/w2.yaml
             k wait node w2 --for=condition=Ready --timeout=60s",
        ),
        shows: &[("m1", "nodes", "nodes.network", "selects only 2 of 3 nodes")],
        ..KIND
    },
    Kind {
        says: "cluster: the control plane's Node is deleted while its kubelet runs",
        by: Kubectl("k delete node m1"),
        shows: &[
            ("m1", "member", "member.node-object", "Node m1"),
            ("m1", "nodes", "nodes.registered[m1]", "not registered"),
            ("m1", "nodes", "nodes.ready[m1]", "not registered"),
            ("m1", "nodes", "nodes.announced[m1]", "not registered"),
            ("m1", "labels", M1, "label node-role.kubernetes.io/control-plane="),
        ],
        ..KIND
    },
    Kind {
        says: "cluster: a cordoned node is noted and stays cordoned",
        by: Kubectl("k cordon w2"),
        notes: "w2 is cordoned",
        then: "k uncordon w2",
        ..KIND
    },
    Kind {
        says: "cluster: a foreign taint that keeps pods away is noted and stays",
        by: Kubectl("k taint node w2 maintenance=disk:NoSchedule"),
        notes: "w2 has a taint that keeps pods away and is not in the inventory: maintenance=disk:NoSchedule",
        then: "k taint node w2 maintenance-",
        ..KIND
    },
    Kind {
        says: "cluster: a dead webhook blocks new pods",
        by: Kubectl(
            "k apply -f - <<'WEBHOOK'\n\
             {\"apiVersion\": \"admissionregistration.k8s.io/v1\", \"kind\": \"ValidatingWebhookConfiguration\", \"metadata\": {\"name\": \"gone\"},\n\
             \"webhooks\": [{\"name\": \"gone.example.com\", \"failurePolicy\": \"Fail\", \"sideEffects\": \"None\", \"admissionReviewVersions\": [\"v1\"],\n\
             \"clientConfig\": {\"service\": {\"namespace\": \"default\", \"name\": \"gone\"}},\n\
             \"rules\": [{\"apiGroups\": [\"\"], \"apiVersions\": [\"v1\"], \"operations\": [\"CREATE\"], \"resources\": [\"pods\"]}]}]}\n\
             WEBHOOK\n",
        ),
        shows: &[
            ("m1", "nodes", "nodes.new-pods", "failed calling webhook \"gone.example.com\""),
            ("m1", "nodes", "nodes.webhooks", "gone.example.com must answer, and its Service default/gone does not exist"),
        ],
        by_hand: "k delete validatingwebhookconfiguration gone",
        alone: "only a human can repair it",
        ..KIND
    },
    Kind {
        // Scheduler and controller manager end without their Leases.
        says: "cluster: a dead webhook blocks the control plane's Leases",
        by: Kubectl(
            "k apply -f - <<'WEBHOOK'\n\
             {\"apiVersion\": \"admissionregistration.k8s.io/v1\", \"kind\": \"MutatingWebhookConfiguration\", \"metadata\": {\"name\": \"left\"},\n\
             \"webhooks\": [{\"name\": \"left.example.com\", \"failurePolicy\": \"Fail\", \"sideEffects\": \"None\", \"admissionReviewVersions\": [\"v1\"],\n\
             \"clientConfig\": {\"service\": {\"namespace\": \"default\", \"name\": \"gone\"}},\n\
             \"rules\": [{\"apiGroups\": [\"coordination.k8s.io\"], \"apiVersions\": [\"v1\"], \"operations\": [\"UPDATE\"], \"resources\": [\"leases\"]}]}]}\n\
             WEBHOOK\n",
        ),
        shows: &[(
            "m1",
            "nodes",
            "nodes.webhooks",
            "MutatingWebhookConfiguration left: left.example.com must answer, and its Service default/gone does not exist",
        )],
        by_hand: "k delete mutatingwebhookconfiguration left",
        alone: "only a human can repair it",
        ..KIND
    },
    Kind {
        says: "cluster: an admission policy blocks the scheduler's Lease",
        by: Kubectl(
            "k apply -f - <<'POLICY'\n\
             {\"apiVersion\": \"admissionregistration.k8s.io/v1\", \"kind\": \"ValidatingAdmissionPolicy\", \"metadata\": {\"name\": \"frozen\"},\n\
             \"spec\": {\"failurePolicy\": \"Fail\", \"matchConstraints\": {\"resourceRules\": [{\"apiGroups\": [\"coordination.k8s.io\"],\n\
             \"apiVersions\": [\"v1\"], \"operations\": [\"UPDATE\"], \"resources\": [\"leases\"], \"resourceNames\": [\"kube-scheduler\"]}]},\n\
             \"validations\": [{\"expression\": \"false\", \"message\": \"frozen\"}]}}\n\
             POLICY\n\
             k apply -f - <<'BINDING'\n\
             {\"apiVersion\": \"admissionregistration.k8s.io/v1\", \"kind\": \"ValidatingAdmissionPolicyBinding\", \"metadata\": {\"name\": \"frozen\"},\n\
             \"spec\": {\"policyName\": \"frozen\", \"validationActions\": [\"Deny\"]}}\n\
             BINDING\n\
             sleep 110\n",
        ),
        shows: &[("m1", "leases", "leases.lasts[Lease kube-system/kube-scheduler]", "held by m1_")],
        by_hand: "k delete validatingadmissionpolicybinding frozen; k delete validatingadmissionpolicy frozen",
        alone: "only a human can repair it",
        ..KIND
    },
    Kind {
        says: "cluster: an aggregated API is unavailable",
        by: Kubectl(
            "k apply -f - <<'API'\n\
             {\"apiVersion\": \"apiregistration.k8s.io/v1\", \"kind\": \"APIService\", \"metadata\": {\"name\": \"v1.gone.example.com\"},\n\
             \"spec\": {\"group\": \"gone.example.com\", \"version\": \"v1\", \"groupPriorityMinimum\": 100, \"versionPriority\": 100,\n\
             \"service\": {\"namespace\": \"default\", \"name\": \"gone\"}}}\n\
             API\n\
             k wait --for=condition=Available=false apiservice/v1.gone.example.com --timeout=30s\n",
        ),
        notes: "these APIServices are not available, so a deleted namespace may stay in Terminating: v1.gone.example.com",
        then: "k delete apiservice v1.gone.example.com",
        ..KIND
    },
    Kind {
        says: "cluster: a LimitRange refuses the pods of CoreDNS",
        by: Kubectl(
            "k apply -f - <<'LIMIT'\n\
             {\"apiVersion\": \"v1\", \"kind\": \"LimitRange\", \"metadata\": {\"namespace\": \"kube-system\", \"name\": \"low\"},\n\
             \"spec\": {\"limits\": [{\"type\": \"Container\", \"max\": {\"memory\": \"60Mi\"}}]}}\n\
             LIMIT\n\
             k -n kube-system delete $(k -n kube-system get pods -l k8s-app=kube-dns -o name | head -n 1)\n\
             k -n kube-system wait --for=condition=ReplicaFailure deployment/coredns --timeout=30s\n",
        ),
        shows: &[("m1", "nodes", "nodes.dns", "the API server refuses a pod of coredns: pods \"coredns-")],
        by_hand: "k -n kube-system delete limitrange low",
        alone: "only a human can repair it",
        ..KIND
    },
    Kind {
        // No kubelet sets this condition, so none clears it.
        says: "cluster: a Ready node has a bad condition",
        by: Kubectl(
            "k patch node w2 --subresource=status -p '{\"status\": {\"conditions\": [{\"type\": \"NetworkUnavailable\",
               \"status\": \"True\", \"reason\": \"Lost\", \"message\": \"no route was made\"}]}}'",
        ),
        shows: &[("m1", "nodes", "nodes.pressure[w2]", "NetworkUnavailable: no route was made")],
        by_hand: "k patch node w2 --subresource=status -p '{\"status\": {\"conditions\": [{\"type\": \"NetworkUnavailable\", \"status\": \"False\"}]}}'",
        ..KIND
    },
    Kind {
        says: "cluster: a Node outside the inventory is noted and stays",
        by: Kubectl(
            "k create -f - <<'N'\n{\"apiVersion\": \"v1\", \"kind\": \"Node\", \"metadata\": {\"name\": \"x9\"}}\nN",
        ),
        notes: "Nodes that are not in the inventory: x9",
        then: "k delete node x9",
        ..KIND
    },
];
