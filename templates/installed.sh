# Shell that puts back what kubeadm installs in the cluster. It comes after objects.sh; POSIX sh.

# restarted KIND/NAME: its pods start again, if there is such a thing. The token of a pod is void once its ServiceAccount
# was deleted, and the kubelet does not notice.
restarted() {
  found=$(kubectl -n kube-system get "$1" --ignore-not-found -o name) || return 1
  [ -z "$found" ] || kubectl -n kube-system rollout restart "$1" >/dev/null
}

# put_deployment PATCH: `put_object PATCH` for the Deployment coredns, with as many replicas as there are. Another program may
# scale it; without any there is no DNS, and then it keeps those of the manifest.
put_deployment() {
  deployment=$(cat)
  replicas=$(kubectl -n kube-system get deployment/coredns --ignore-not-found -o 'jsonpath={.spec.replicas}') || return 1
  case $replicas in
  '' | 0) ;;
  *) deployment=$(printf '%s\n' "$deployment" | sed "s/^  replicas: .*/  replicas: $replicas/") ;;
  esac
  printf '%s\n' "$deployment" | put_object "$@"
}

# corefile_kept: the Corefile that is about to be replaced is in the ConfigMap coredns-replaced.
corefile_kept() {
  corefile=$(kubectl -n kube-system get configmap coredns --ignore-not-found -o 'jsonpath={.data.Corefile}') || return 1
  [ -n "$corefile" ] || return 0
  mkdir -p -m 700 /run/ironstrap
  printf '%s\n' "$corefile" >/run/ironstrap/Corefile
  replaced=$(kubectl -n kube-system create configmap coredns-replaced --from-file=/run/ironstrap/Corefile --dry-run=client -o yaml) || return 1
  rm -f /run/ironstrap/Corefile
  printf '%s\n' "$replaced" | put_object
}
