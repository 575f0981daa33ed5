# Shell that finds and restarts the programs of DaemonSets on this machine. Sent after pods.sh. POSIX sh.

# find_daemon NAMESPACE_POD PROGRAM: sets $pids to the processes of this program in the pods whose folders of logs begin so.
find_daemon() {
  pids=
  for folder in "/var/log/pods/$1"-*_*; do
    [ ! -d "$folder" ] || find_program "${folder##*_}" "$2"
  done
}

# daemon NAMESPACE_POD PROGRAM: prints what find_daemon finds.
daemon() {
  find_daemon "$@"
  # shellcheck disable=SC2086
  [ -z "$pids" ] || printf '%s\n' $pids
}

# lasting NAMESPACE_POD PROGRAM [SECONDS]: such a process runs, and has run for SECONDS (5). One that started a moment ago is still
# at work on what it has to set up.
lasting() {
  read -r up _ </proc/uptime
  find_daemon "$1" "$2"
  for pid in $pids; do
    find_start || continue
    [ $((${up%.*} - started / 100)) -lt "${3:-5}" ] || return 0
  done
  return 1
}

# lacks_configmap NAMESPACE NAME: says so where the cluster has no such ConfigMap. A pod that has it as a volume does not start then. A
# kubelet may see those of its own pods.
lacks_configmap() {
  case $(command kubectl --kubeconfig /etc/kubernetes/kubelet.conf --cache-dir /run/ironstrap/kube --request-timeout=3s \
    -n "$1" get configmap "$2" -o name 2>&1) in *'(NotFound)'*) echo "lacks ConfigMap $1/$2" ;; esac
}

# restart NODE NAMESPACE POD PROGRAM LABEL: ends the program; the kubelet starts its container again. A kubelet waits longer each
# time, up to five minutes, so after five seconds the pod is deleted: a new one starts at once.
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

# delete_pods NODE NAMESPACE LABEL: deletes the pods with this label on this machine. A kubelet may do that. An API server that is
# being restarted is waited for.
delete_pods() {
  patiently delete_pods_once "$@"
}

# delete_pods_once NODE NAMESPACE LABEL: the same, without waiting. Fails where no API server was reached.
delete_pods_once() {
  said=$(command kubectl --kubeconfig /etc/kubernetes/kubelet.conf --cache-dir "$RUN/kube" -n "$2" delete pod --wait=false \
    --field-selector "spec.nodeName=$1" -l "$3" 2>&1 >/dev/null) && return 0
  printf '%s\n' "$said" >&2
  ! api_is_away "$said"
}
