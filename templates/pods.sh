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
# command line names was changed. A process's start is counted in hundredths of a second since boot (proc(5)). In the place of the
# file it says "arguments" of a component that runs with others than its manifest has. The kubelet needs a while to notice a new
# manifest, so one that changed within two minutes tells nothing.
stale() {
  read -r up _ </proc/uptime
  now=$(date +%s.%N)
  for name in etcd kube-apiserver kube-controller-manager kube-scheduler; do
    pids=$(component "$name" "$1") || return 1
    for pid in $pids; do
      { read -r stat <"/proc/$pid/stat"; } 2>/dev/null || continue
      runs=$({ tr '\0' '\n' <"/proc/$pid/cmdline"; } 2>/dev/null) || continue
      [ -n "$runs" ] || continue
      manifest=/etc/kubernetes/manifests/$name.yaml
      if [ -e "$manifest" ] && ! has_arguments "$runs" "$manifest"; then
        changed=$(stat -L -c %Z "$manifest" 2>/dev/null) || changed=${now%.*}
        [ $((${now%.*} - changed)) -lt 120 ] || echo "$pid $name arguments"
      fi
      files=$(echo "$runs" | sed -n 's,^--[a-z-]*=\(/etc/kubernetes/.*\),\1,p')
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
  pids=$(component "$1" "$2") || return 1
  [ -n "$pids" ] || { echo "$1 does not run" >&2; return 1; }
  for pid in $pids; do
    runs=$({ tr '\0' '\n' <"/proc/$pid/cmdline"; } 2>/dev/null) || continue
    has_arguments "$runs" "/etc/kubernetes/manifests/$1.yaml" || { echo "$1 has not been started with its new manifest" >&2; return 1; }
  done
}

# has_arguments LINES MANIFEST: these are the arguments of the manifest. Quotes are YAML's, and so are line breaks in a long one.
has_arguments() {
  printf '%s\n' "$1" | awk '
    function count(text, by) {
      gsub(/["\047\\]/, "", text)
      if (text ~ /^--/) seen[text] += by
    }
    NR == FNR { count($0, 1); next }
    { match($0, /^ */); depth = RLENGTH }
    argument != "" && depth > dash && !/^ *- / { argument = argument " " substr($0, depth + 1); next }
    { count(argument, -1); argument = "" }
    /^ *- / { dash = depth; argument = substr($0, depth + 3) }
    END { count(argument, -1); for (text in seen) if (seen[text] != 0) exit 1 }
  ' - "$2"
}
