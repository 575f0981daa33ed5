# Shell that finds the processes of pods: by the cgroups and folders that the kubelet makes, and by the labels that the
# kubelet gives a container. Never by a process's name, which each process chooses for itself. POSIX sh.

# k8s ARGS...: what containerd runs for the kubelet.
k8s() {
  timeout 30 ctr -n k8s.io "$@"
}

# running FILTER: id and process id, a line each, of the running containers that have these labels (containerd's filter
# syntax). Nothing where containerd does not run.
running() {
  command -v ctr >/dev/null && systemctl is-active -q containerd || return 0
  running_ids=$(k8s containers ls -q "$1") || return 1
  [ -n "$running_ids" ] || return 0
  running_tasks=$(k8s tasks ls) || return 1
  echo "$running_tasks" | while read -r id pid state; do
    case "
$running_ids
" in *"
$id
"*) [ "$state" != RUNNING ] || echo "$id $pid" ;; esac
  done
}

# labelled NAMESPACE CONTAINER [POD]: the filter for containers of this name in the namespace's pods.
labelled() {
  echo "labels.\"io.cri-containerd.kind\"==\"container\",labels.\"io.kubernetes.pod.namespace\"==\"$1\",labels.\"io.kubernetes.container.name\"==\"$2\"${3:+,labels.\"io.kubernetes.pod.name\"==\"$3\"}"
}

# program UID NAME: the processes of the pod UID that were started as the program NAME. They are in the cgroup that the
# kubelet made for the pod, below the root of cgroup v2, or of a hierarchy of v1.
program() {
  slice=pod$(echo "$1" | tr - _).slice
  for top in /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
    top=$top/kubepods.slice
    for list in "$top/kubepods-$slice"/*/cgroup.procs "$top/kubepods-burstable.slice/kubepods-burstable-$slice"/*/cgroup.procs \
      "$top/kubepods-besteffort.slice/kubepods-besteffort-$slice"/*/cgroup.procs; do
      [ -e "$list" ] || continue
      for pid in $(cat "$list" 2>/dev/null || :); do
        is=$({ tr '\0' '\n' <"/proc/$pid/cmdline" | head -n 1; } 2>/dev/null) || continue
        [ "${is##*/}" != "$2" ] || echo "$pid"
      done
    done
  done | sort -u
}

# component NAME NODE: the processes of NAME in kubeadm's static pod kube-system/NAME-NODE. The uid of a static pod is a
# hash of its manifest, in hexadecimal digits; every other pod has a UUID with dashes. Neither namespaces nor pods have
# an underscore in their names, so no other pod has such a folder of logs. Without one, containerd is asked.
component() {
  seen=
  for folder in "/var/log/pods/kube-system_$1-$2"_*; do
    uid=${folder##*_}
    case $uid in '' | *[!0-9a-f]*) continue ;; esac
    for top in /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
      [ ! -d "$top/kubepods.slice" ] || seen=yes
    done
    program "$uid" "$1"
  done
  [ -z "$seen" ] && [ -e "/etc/kubernetes/manifests/$1.yaml" ] || return 0
  found=$(running "$(labelled kube-system "$1" "$1-$2")") || return 1
  [ -z "$found" ] || echo "$found" | cut -d ' ' -f 2
}

# stale NODE: process, component and newest file of each component that was started before one of the files that its own
# command line names was changed. A process's start is counted in hundredths of a second since boot (proc(5)).
stale() {
  read -r up _ </proc/uptime
  now=$(date +%s.%N)
  for name in etcd kube-apiserver kube-controller-manager kube-scheduler; do
    pids=$(component "$name" "$1") || return 1
    for pid in $pids; do
      { read -r stat <"/proc/$pid/stat"; } 2>/dev/null || continue
      files=$({ tr '\0' '\n' <"/proc/$pid/cmdline" | sed -n 's,^--[a-z-]*=\(/etc/kubernetes/.*\),\1,p'; } 2>/dev/null) || continue
      [ -n "$files" ] || continue
      # shellcheck disable=SC2086
      started=$(set -- ${stat##*) }; echo "${20}")
      # shellcheck disable=SC2086
      { stat -L -c '%.2Z %n' -- $files 2>/dev/null || :; } | sort -rn | awk -v now="$now" -v up="$up" -v ticks="$started" \
        -v process="$pid $name" 'NR == 1 && $1 > now - up + ticks / 100 { print process, $2 }'
    done
  done
}

# as_written NAME NODE: all of the component that runs has the arguments that its manifest has now. Quotes are YAML's.
as_written() {
  want=$(sed -n 's/^ *- //p' "/etc/kubernetes/manifests/$1.yaml" | tr -d "\"'\\\\" | grep '^--' | sort)
  pids=$(component "$1" "$2") || return 1
  [ -n "$pids" ] || { echo "$1 does not run" >&2; return 1; }
  for pid in $pids; do
    runs=$({ tr '\0' '\n' <"/proc/$pid/cmdline"; } 2>/dev/null | tr -d "\"'\\\\" | grep '^--' | sort) || continue
    [ "$runs" = "$want" ] || { echo "$1 has not been started with its new manifest" >&2; return 1; }
  done
}
