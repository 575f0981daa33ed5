# Shell functions that find and restart the programs of DaemonSets on this machine. Sent after pods.sh. POSIX sh.

# find_daemon NAMESPACE_POD PROGRAM: sets $pids to the processes of PROGRAM in the pods whose log folders begin with
# NAMESPACE_POD.
find_daemon() {
  pids=
  for folder in "/var/log/pods/$1"-*_*; do
    [ ! -d "$folder" ] || find_program "${folder##*_}" "$2"
  done
}

# daemon NAMESPACE_POD PROGRAM: prints the processes that find_daemon finds.
daemon() {
  find_daemon "$@"
  # shellcheck disable=SC2086
  [ -z "$pids" ] || printf '%s\n' $pids
}

# lasting NAMESPACE_POD PROGRAM [SECONDS]: succeeds if such a process has run for SECONDS (default: 5). A process that
# started a moment ago is still setting things up.
lasting() {
  read -r up _ </proc/uptime
  find_daemon "$1" "$2"
  for pid in $pids; do
    find_start || continue
    [ $((${up%.*} - started / 100)) -lt "${3:-5}" ] || return 0
  done
  return 1
}

# lacks_configmap NAMESPACE NAME: prints a line if the cluster has no such ConfigMap. A pod that has the ConfigMap as a
# volume does not start then. A kubelet may read the ConfigMaps of its own pods.
lacks_configmap() {
  case $(command kubectl --kubeconfig /etc/kubernetes/kubelet.conf --cache-dir /run/ironstrap/kube --request-timeout=3s \
    -n "$1" get configmap "$2" -o name 2>&1) in *'(NotFound)'*) echo "lacks ConfigMap $1/$2" ;; esac
}

# restart NODE NAMESPACE POD PROGRAM LABEL: ends the program, and the kubelet starts its container again. A kubelet waits
# longer each time, up to five minutes. So after five seconds the pod is deleted, and a new one starts at once.
restart() {
  old=$(daemon "$2_$3" "$4")
  for pid in $old; do kill -s TERM "$pid" 2>/dev/null || :; done
  tries=0
  while [ $tries -lt 25 ]; do
    sleep 0.2
    new=$(daemon "$2_$3" "$4")
    [ -z "$new" ] || [ "$new" = "$old" ] || return 0
    tries=$((tries + 1))
  done
  delete_pods "$1" "$2" "$5"
}

# delete_pods NODE NAMESPACE LABEL: deletes the pods with this label on this machine, as the kubelet, which may do that. It
# waits for an API server that is being restarted.
delete_pods() {
  retry delete_pods_once "$@"
}

# delete_pods_once NODE NAMESPACE LABEL: does the same as delete_pods, without waiting. Fails if no API server was reached.
delete_pods_once() {
  said=$(command kubectl --kubeconfig /etc/kubernetes/kubelet.conf --cache-dir "$RUN/kube" -n "$2" delete pod --wait=false \
    --field-selector "spec.nodeName=$1" -l "$3" 2>&1 >/dev/null) && return 0
  printf '%s\n' "$said" >&2
  ! api_is_away "$said"
}
