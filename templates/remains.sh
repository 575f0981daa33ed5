# Shell functions that find what is left of pods without asking containerd. containerd may be gone, or it may be new and know
# nothing of them. The functions use the cgroups that the kubelet makes, the command lines of containerd's shims, and the
# kernel's table of mounts. Sent after undo.sh. POSIX sh.

# The address at which the kubelet's containerd listens. A shim has it in its command line.
SOCKET=/run/containerd/containerd.sock
# The folders in which containerd mounts what runs for Kubernetes, and nothing else.
RUNNING="/run/containerd/io.containerd.runtime.v2.task/k8s.io /run/containerd/io.containerd.grpc.v1.cri
  /run/containerd/io.containerd.sandbox.controller.v1.shim/k8s.io"
VOLUMES="/var/lib/kubelet/pods /var/lib/kubelet/plugins"

# is_new KIND NAME: succeeds if this is not in $kept, the notes of what was there before.
is_new() {
  [ -s "$kept" ] && ! grep -qxF -- "$1 $2" "$kept"
}

# unmounted FOLDER: unmounts everything below the folder that was not mounted before, and is not mounted at boot.
unmounted() {
  at_boot=$(mounted "$1" /etc/fstab 2>/dev/null || :)
  mounted "$1" | while IFS= read -r m; do
    is_new mount "$m" || continue
    ! printf '%s\n' "$at_boot" | grep -qxF -- "$m" || continue
    umount -- "$m" || umount -l -- "$m" || :
  done
}

# shims: prints process and namespace of each shim that the kubelet's containerd started, one line each. A machine that runs
# within this one has another PID namespace, and its containerd may have the same names. Its shims do not count.
shims() {
  shims_here=$(readlink /proc/self/ns/pid)
  for shim in $(find /proc/[0-9]*/exe -maxdepth 0 -lname '*/containerd-shim*' 2>/dev/null || :); do
    pid=${shim%/exe} pid=${pid##*/}
    [ "$(readlink "/proc/$pid/ns/pid" 2>/dev/null)" = "$shims_here" ] || continue
    { tr '\0' '\n' <"/proc/$pid/cmdline"; } 2>/dev/null | awk -v pid="$pid" -v socket="$SOCKET" '
      last == "-namespace" { namespace = $0 } last == "-address" { address = $0 } { last = $0 }
      END { if (namespace != "" && address == socket) print pid, namespace }'
  done
}

# family: prints the processes on standard input and all their descendants, without those that have ended. In the kernel's
# lists, a process outside of this PID namespace is 0, and process 1 descends from it. So 0 and 1 are left out.
family() {
  kin=$(cat)
  [ -n "$kin" ] || return 0
  { grep -HsE '^(State|PPid):' /proc/[0-9]*/status || :; } | KIN=$kin awk '
    BEGIN { n = split(ENVIRON["KIN"], a); for (i = 1; i <= n; i++) if (a[i] > 1) kin[a[i]] }
    match($0, /\/[0-9]+\/status:/) {
      pid = substr($0, RSTART + 1, RLENGTH - 9); split(substr($0, RSTART + RLENGTH), w)
      if (w[1] == "PPid:") parent[pid] = w[2]; else if (w[2] ~ /[ZX]/) ended[pid]
    }
    END {
      do { more = 0; for (p in parent) if (!(p in kin) && (parent[p] in kin)) { kin[p]; more = 1 } } while (more)
      for (p in kin) if ((p in parent) && !(p in ended)) print p
    }'
}

# kubepods: prints the cgroups that the kubelet makes for all pods, below the root of cgroup v2, or of each hierarchy of v1.
kubepods() {
  for top in /sys/fs/cgroup /sys/fs/cgroup/*; do
    case $top in */cgroup) ;; *) [ ! -e /sys/fs/cgroup/cgroup.controllers ] || continue ;; esac
    for d in "$top/kubepods.slice" "$top/kubepods"; do [ ! -d "$d" ] || echo "$d"; done
  done
}

# our_kubepods: prints those of kubepods that were not there before the machine joined.
our_kubepods() {
  kubepods | while IFS= read -r d; do if is_new cgroup "$d"; then echo "$d"; fi; done
}

# of_pods: prints the processes of pods, and the shims that hold them.
of_pods() {
  {
    shims | sed -n 's/ k8s\.io$//p'
    our_kubepods | while IFS= read -r d; do find "$d" -name cgroup.procs -exec cat {} + 2>/dev/null || :; done
  } | family
}

# ended SECONDS: kills every process of pods. Fails if one does not end within this time.
ended() {
  # A frozen process takes no signal (cgroup v1).
  our_kubepods | while IFS= read -r d; do
    find "$d" -name freezer.state 2>/dev/null | while IFS= read -r f; do { echo THAWED >"$f"; } 2>/dev/null || :; done
  done
  n=0
  while :; do
    left=$(of_pods) || return 1
    [ -n "$left" ] || return 0
    [ $n -lt $(($1 * 5)) ] || return 1
    # shellcheck disable=SC2086
    kill -s KILL $left 2>/dev/null || :
    sleep 0.2
    n=$((n + 1))
  done
}

# answers MOUNT: succeeds if the file system of the mount answers within 5 seconds. A process that asks a file system without
# an answer may wait endlessly, and cannot even be killed. So a background process asks.
answers() {
  rm -f "$RUN/answered"
  ( { timeout -s KILL 5 stat -f -- "$1" || [ $? -lt 124 ]; } && : >"$RUN/answered" ) >/dev/null 2>&1 </dev/null &
  n=0
  until [ -e "$RUN/answered" ]; do
    [ $n -lt 60 ] || return 1
    sleep 0.1
    n=$((n + 1))
  done
}

# unhung FOLDER: unmounts by force the mounts below the folder that do not answer. Only mounts of pods that a program or a
# network serves count. A process that waits for such a mount goes on with an error. A mount that answers loses nothing,
# because it is unmounted in the usual way.
unhung() {
  grep -vE '^[^ ]+ [^ ]+ (tmpfs|overlay|ext[234]|xfs|btrfs|zfs|nsfs|proc|sysfs|mqueue|devpts|devtmpfs|cgroup2?|bpf) ' /proc/mounts \
    >"$RUN/served" || :
  mounted "$1" "$RUN/served" | while IFS= read -r m; do
    is_new mount "$m" || continue
    ! answers "$m" || continue
    echo "$m does not answer; ironstrap unmounts it by force"
    umount -i -c -f -l -- "$m" || :
  done
}

# remains: prints what is still there of pods, one line each, in words.
remains() {
  left=$(of_pods) || echo "reason: cannot list the processes of pods"
  for pid in $left; do
    words=$({ tr '\0' ' ' <"/proc/$pid/cmdline"; } 2>/dev/null) || continue
    echo "reason: process $pid (${words%% *}) belongs to a pod and does not end when it is killed"
  done
  for d in $RUNNING $VOLUMES; do
    mounted "$d" | while IFS= read -r m; do ! is_new mount "$m" || echo "reason: $m cannot be unmounted"; done
  done
}
