# Shell functions that put back what kubeadm installs in the cluster. Sent after objects.sh. POSIX sh.

# restarted KIND/NAME: restarts the pods of this object, if it exists. The token of a pod is invalid once its ServiceAccount
# was deleted, and the kubelet does not notice.
restarted() {
  found=$(kubectl -n kube-system get "$1" --ignore-not-found -o name) || return 1
  [ -z "$found" ] || kubectl -n kube-system rollout restart "$1" >/dev/null
}

# put_deployment PATCH: does `put_object PATCH` for the Deployment coredns, with its present number of replicas. Another
# program may scale it. With 0 replicas there is no DNS, so then the number of the manifest counts.
put_deployment() {
  deployment=$(cat)
  replicas=$(kubectl -n kube-system get deployment/coredns --ignore-not-found -o 'jsonpath={.spec.replicas}') || return 1
  case $replicas in
  '' | 0) ;;
  *) deployment=$(printf '%s\n' "$deployment" | sed "s/^  replicas: .*/  replicas: $replicas/") ;;
  esac
  printf '%s\n' "$deployment" | put_object "$@"
}

# corefile_kept: copies the Corefile that is about to be replaced into the ConfigMap coredns-replaced.
corefile_kept() {
  corefile=$(kubectl -n kube-system get configmap coredns --ignore-not-found -o 'jsonpath={.data.Corefile}') || return 1
  [ -n "$corefile" ] || return 0
  mkdir -p -m 700 /run/ironstrap
  printf '%s\n' "$corefile" >/run/ironstrap/Corefile
  replaced=$(kubectl -n kube-system create configmap coredns-replaced --from-file=/run/ironstrap/Corefile --dry-run=client -o yaml) || return 1
  rm -f /run/ironstrap/Corefile
  printf '%s\n' "$replaced" | put_object
}

# api_again NODE: restarts the API server of this machine. Sent after pods.sh. At its start, the API server adds what its own
# roles lack, and /readyz waits for that (pkg/registry/rbac/rest, `PostStartHook`).
api_again() {
  pid=$(component kube-apiserver "$1" | head -n 1) && [ -n "$pid" ] || {
    echo 'the API server of this machine is not running' >&2
    return 1
  }
  kill -s TERM "$pid"
  n=0
  # The API server waits until all its clients leave. It gets three seconds to finish its answers, and is killed after that.
  while [ -e "/proc/$pid" ]; do
    n=$((n + 1))
    [ $n != 30 ] || kill -s KILL "$pid" 2>/dev/null || :
    [ $n -lt 200 ] || { echo "the old API server (process $pid) does not end" >&2; return 1; }
    sleep 0.1
  done
  retry kubectl get --raw /readyz >/dev/null
}
