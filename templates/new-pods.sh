# Shell functions that ask the API server whether it admits new pods. Sent after KUBECTL and lib.sh. POSIX sh.

# new_pods IMAGE: prints what the API server answers to a new pod in each of two namespaces. No pod is created
# (kubernetes.io, "API Concepts", dry run). The pods are as restricted as Pod Security can require. Prints nothing if no API
# server runs here, or if kubeadm did not finish.
new_pods() {
  [ -e /etc/kubernetes/manifests/kube-apiserver.yaml ] && [ -e /etc/kubernetes/admin.conf ] || return 0
  [ -e /var/lib/ironstrap/kubeadm-receipt ] || [ -e /var/lib/kubelet/pki/kubelet-client-current.pem ] || return 0
  for new_pods_in in default kube-system; do
    cat <<POD
---
apiVersion: v1
kind: Pod
metadata: {name: ironstrap-in-$new_pods_in, namespace: $new_pods_in}
spec:
  automountServiceAccountToken: false
  securityContext: {runAsNonRoot: true, runAsUser: 65535, seccompProfile: {type: RuntimeDefault}}
  containers:
  - {name: none, image: "$1", securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}}
POD
  done | kubectl create --dry-run=server --validate=false --request-timeout=5s -o name -f - 2>&1 || :
}

# new_pods_refused IMAGE: waits a while until the API server admits these pods. Otherwise it prints what refuses them, and
# fails.
new_pods_refused() {
  new_pods_tries=0
  while new_pods_said=$(new_pods "$1"); do
    case $new_pods_said in '' | *pod/ironstrap-in-default*pod/ironstrap-in-kube-system*) return 0 ;; esac
    [ $new_pods_tries -lt 20 ] || break
    new_pods_tries=$((new_pods_tries + 1))
    renew_lease
    sleep 1
  done
  printf '%s\n' "$new_pods_said" | sed -n 's/^Error from server.* creating "STDIN": /reason: /p' | sort -u
  echo 'by hand: new-pods'
  return 1
}
