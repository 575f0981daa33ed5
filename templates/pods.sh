# Shell functions that find the processes of pods. They use the cgroups and folders that the kubelet makes, and the labels
# that the kubelet gives a container. They never use the name of a process, which each process chooses for itself. POSIX sh.

# k8s ARGS...: runs ctr in containerd's namespace for Kubernetes, for at most 30 seconds.
k8s() {
  timeout 30 ctr -n k8s.io "$@"
}

# running FILTER: prints id and process id, one line each, of the running containers with these labels (containerd's filter
# syntax). Prints nothing if containerd does not run.
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

# labelled NAMESPACE CONTAINER [POD]: prints the filter for containers of this name in the namespace's pods, or in this pod.
labelled() {
  echo "labels.\"io.cri-containerd.kind\"==\"container\",labels.\"io.kubernetes.pod.namespace\"==\"$1\",labels.\"io.kubernetes.container.name\"==\"$2\"${3:+,labels.\"io.kubernetes.pod.name\"==\"$3\"}"
}

# find_program UID NAME: adds the processes of the pod UID that were started as the program NAME to $pids. They are in the
# cgroup that the kubelet made for the pod, below the root of cgroup v2, or of a hierarchy of v1. One process of sed reads
# all command lines.
find_program() {
  rest=$1 slice=pod
  while [ "$rest" != "${rest#*-}" ]; do slice=$slice${rest%%-*}_ rest=${rest#*-}; done
  slice=$slice$rest.slice lines=
  for top in /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
    top=$top/kubepods.slice
    for list in "$top/kubepods-$slice"/*/cgroup.procs "$top/kubepods-burstable.slice/kubepods-burstable-$slice"/*/cgroup.procs \
      "$top/kubepods-besteffort.slice/kubepods-besteffort-$slice"/*/cgroup.procs; do
      [ -e "$list" ] || continue
      { while read -r pid; do lines="$lines /proc/$pid/cmdline"; done <"$list"; } 2>/dev/null || :
    done
  done
  [ -n "$lines" ] || return 0
  # If a process ends while sed reads its file, sed fails with 4. Then all files are read again.
  lines=$(first_words) || { [ $? = 4 ] && lines=$(first_words); } || :
  while read -r path && IFS= read -r is; do
    pid=${path%/cmdline}
    pid=${pid##*/}
    case " $pids " in *" $pid "*) continue ;; esac
    [ "${is##*/}" != "$2" ] || pids="$pids $pid"
  done <<LINES
$lines
LINES
}

# first_words: prints the path of each file of $lines and, on the next line, the first word of its command line.
first_words() {
  # shellcheck disable=SC2086
  sed -s -n -e '1F' -e '1s/\x00.*//' -e 1p -- $lines 2>/dev/null
}

# program UID NAME: prints the processes that find_program finds.
program() {
  pids=
  find_program "$@"
  # shellcheck disable=SC2086
  [ -z "$pids" ] || printf '%s\n' $pids
}

# find_component NAME NODE: sets $pids to the processes of NAME in kubeadm's static pod kube-system/NAME-NODE. The uid of a
# static pod is a hash of its manifest, in hexadecimal digits. Every other pod has a UUID with dashes. Names of namespaces
# and pods have no underscore, so no other pod has such a log folder. Without such a folder, containerd is asked.
find_component() {
  seen='' pids=''
  for folder in "/var/log/pods/kube-system_$1-$2"_*; do
    uid=${folder##*_}
    case $uid in '' | *[!0-9a-f]*) continue ;; esac
    for top in /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
      [ ! -d "$top/kubepods.slice" ] || seen=yes
    done
    find_program "$uid" "$1"
  done
  [ -z "$seen" ] && [ -e "/etc/kubernetes/manifests/$1.yaml" ] || return 0
  found=$(running "$(labelled kube-system "$1" "$1-$2")") || return 1
  pids=$(printf '%s\n' "$found" | sed 's/.* //')
}

# component NAME NODE: prints the processes that find_component finds.
component() {
  find_component "$@" || return 1
  # shellcheck disable=SC2086
  [ -z "$pids" ] || printf '%s\n' $pids
}

# find_start: sets $started to when process $pid started, in hundredths of a second since boot (proc(5)).
find_start() {
  { read -r stat <"/proc/$pid/stat"; } 2>/dev/null || return 1
  # shellcheck disable=SC2086
  set -- ${stat##*) }
  started=${20}
}

# stale NODE [also]: prints process, component and newest file of each component that started before a file of its command
# line was changed. If a component runs with other arguments than its manifest has, the word "arguments" stands in the place
# of the file. The kubelet needs a while to notice a new manifest, so a manifest that changed within two minutes does not
# count. With "also" it also prints "- COMPONENT" for each component that does not run and should.
stale() {
  processes='' starts='' manifests='' absent=''
  for name in etcd kube-apiserver kube-controller-manager kube-scheduler; do
    find_component "$name" "$1" || return 1
    [ -n "$pids" ] || absent="$absent $name"
    for pid in $pids; do
      find_start || continue
      processes="$processes $pid:$name" starts="$starts $pid:$started" manifests="$manifests /etc/kubernetes/manifests/$name.yaml"
    done
  done
  [ -z "${2:-}" ] || [ -z "$absent" ] || components_gone "$1"
  [ -n "$processes" ] || return 0
  runs=$(arguments "$processes")
  files=
  for word in $runs; do case $word in /*) files="$files $word" ;; esac; done
  read -r up _ </proc/uptime
  # The time of a file below /proc is the present time.
  # shellcheck disable=SC2086
  { stat -L -c '%.2Z %n' -- /proc/self/stat $manifests $files 2>/dev/null || :; } | runs=$runs awk -v up="$up" -v starts="$starts" '
    NR == 1 { now = $1; next }
    { changed[$2] = $1 }
    END {
      n = split(starts, words, " ")
      for (i = 1; i <= n; i++) { split(words[i], word, ":"); start[word[1]] = word[2] }
      n = split(ENVIRON["runs"], lines, "\n")
      for (i = 1; i <= n; i++) {
        split(lines[i], word, " ")
        process = word[1] " " word[2]
        if (word[3] == "unknown") continue
        if (word[3] == "arguments") {
          manifest = "/etc/kubernetes/manifests/" word[2] ".yaml"
          if (manifest in changed && now - changed[manifest] >= 120) print process, "arguments"
        } else if (changed[word[3]] > newest[process]) {
          newest[process] = changed[word[3]]
          file[process] = word[3]
        }
      }
      for (process in newest) {
        split(process, word, " ")
        if (newest[process] > now - up + start[word[1]] / 100) print process, file[process]
      }
    }'
}

# components_gone NODE: the part of `stale` for the components that do not run. Only the first one counts, because others
# follow from it. The API server ends without its etcd, and the two others end while the API server does not answer. The
# kubelet then waits about as long before it starts them again. Prints nothing if the kubelet, the manifest, or a component
# that is needed is young, as in a run that has just made it.
components_gone() {
  { [ -e /etc/kubernetes/manifests/etcd.yaml ] && [ -e /etc/kubernetes/manifests/kube-apiserver.yaml ]; } || return 0
  read -r up _ </proc/uptime
  since=$(systemctl show -p ActiveEnterTimestampMonotonic --value kubelet 2>/dev/null) || return 0
  systemctl is-active -q kubelet && [ $((${up%.*} - ${since:-0} / 1000000)) -ge 60 ] || return 0
  sleep 1
  for name in etcd kube-apiserver kube-controller-manager kube-scheduler; do
    case $name in kube-controller-manager) component_api_answers || return 0 ;; esac
    find_component "$name" "$1" || return 1
    if [ -n "$pids" ]; then
      case $name in etcd | kube-apiserver) ;; *) continue ;; esac
      for pid in $pids; do
        ! find_start || [ $((${up%.*} - started / 100)) -ge 120 ] || return 0
      done
      continue
    fi
    case " $absent " in *" $name "*) ;; *) return 0 ;; esac
    manifest=/etc/kubernetes/manifests/$name.yaml
    # The time of a file below /proc is the present time.
    # shellcheck disable=SC2046
    set -- "$1" $(stat -L -c %Z -- /proc/self/stat "$manifest" 2>/dev/null || :)
    [ $# != 3 ] || [ $(($2 - $3)) -lt 120 ] || echo "- $name"
    case $name in etcd | kube-apiserver) return 0 ;; esac
  done
}

# component_api_answers: succeeds if the API server of this machine answers, at the address that its controller manager has.
component_api_answers() {
  server=
  while read -r key value; do
    [ "$key" != server: ] || server=$value
  done 2>/dev/null </etc/kubernetes/controller-manager.conf || return 1
  NO_PROXY='*' command timeout 5 kubectl --kubeconfig /etc/kubernetes/admin.conf --cache-dir /run/ironstrap/kube --server "$server" \
    get --raw /livez >/dev/null 2>&1
}

# arguments PID:NAME...: prints a line "PID NAME FILE" for each file below /etc/kubernetes that the command line of a
# component names. It prints "PID NAME arguments" for a component whose arguments are not those of its manifest. Quotes do
# not count, because they are YAML's, and neither do line breaks in a long argument. "PID NAME unknown" is a component that
# cannot be compared. It has no command line, because it is ending, or no manifest.
arguments() {
  for process in $1; do
    pid=${process%%:*}
    echo "$process"
    { tr '\0' '\n' <"/proc/$pid/cmdline"; } 2>/dev/null || :
  done | awk '
    function count(text, by) {
      gsub(/["\047\\]/, "", text)
      if (text ~ /^--/) seen[text] += by
    }
    function compare(  line, path, text, differs, read, argument, depth, dash) {
      if (process == "") return
      path = "/etc/kubernetes/manifests/" name ".yaml"
      while ((getline line < path) > 0) {
        read = 1
        match(line, /^ */); depth = RLENGTH
        if (argument != "" && depth > dash && line !~ /^ *- /) { argument = argument " " substr(line, depth + 1); continue }
        count(argument, -1); argument = ""
        if (line ~ /^ *- /) { dash = depth; argument = substr(line, depth + 3) }
      }
      close(path)
      count(argument, -1)
      for (text in seen) if (seen[text] != 0) differs = 1
      if (!lines || !read) print process, name, "unknown"
      else if (differs) print process, name, "arguments"
    }
    /^[0-9]+:[a-z-]+$/ { compare(); split($0, word, ":"); process = word[1]; name = word[2]; lines = 0; split("", seen); next }
    { lines++; count($0, 1) }
    /^--[a-z-]*=[^ ]*$/ && index($0, "=/etc/kubernetes/") { print process, name, substr($0, index($0, "=") + 1) }
    END { compare() }'
}

# as_written NAME NODE: succeeds if all processes of the component have the arguments that its manifest has now.
as_written() {
  find_component "$1" "$2" || return 1
  [ -n "$pids" ] || { echo "$1 does not run" >&2; return 1; }
  processes=
  for pid in $pids; do processes="$processes $pid:$1"; done
  case "$(arguments "$processes")" in *' arguments'* | *' unknown'*) echo "$1 has not been started with its new manifest" >&2; return 1 ;; esac
}
