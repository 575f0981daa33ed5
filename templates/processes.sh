# Shell functions that check the processes of a node: whether they are stopped or frozen, and what the kubelet was started
# with. They also know where the kubelet and kube-proxy answer over HTTP. They find a process by its cgroup, never by its
# name. Sent after packets.sh. POSIX sh.

# each_group ACTION NAMESPACE_POD...: runs ACTION with each cgroup of containerd and the kubelet, and of the pods whose log
# folders begin with NAMESPACE_POD. $top is the root of the hierarchy, and $what says whose cgroup it is.
each_group() {
  action=$1
  shift
  for top in /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
    for unit in containerd kubelet; do
      what=$unit.service
      for group in "$top/$what" "$top"/*.slice/"$what" "$top"/*.slice/*.slice/"$what"; do
        [ ! -e "$group/cgroup.procs" ] || "$action" "$group"
      done
    done
    [ -d "$top/kubepods.slice" ] || continue
    for prefix; do
      for folder in "/var/log/pods/$prefix"*; do
        [ ! -d "$folder" ] || pod_groups "$folder"
      done
    done
  done
}

# pod_groups FOLDER: the part of each_group for the pod with this log folder.
pod_groups() {
  rest=${1##*_} slice=pod
  while [ "$rest" != "${rest#*-}" ]; do slice=$slice${rest%%-*}_ rest=${rest#*-}; done
  slice=$slice$rest.slice
  what=${1##*/}
  what=${what%_*}
  what=${what%%_*}/${what#*_}
  for group in "$top/kubepods.slice/kubepods-$slice"/* "$top/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-$slice"/* \
    "$top/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-$slice"/*; do
    [ ! -e "$group/cgroup.procs" ] || "$action" "$group"
  done
}

# stopped NAMESPACE_POD...: prints a line for each stopped process, and for each frozen cgroup, of each_group. A process
# under a tracer may be stopped for a moment, so it counts only if three observations in a row find something.
stopped() {
  looks=0
  while :; do
    found=
    each_group look "$@"
    [ -n "$found" ] || return 0
    looks=$((looks + 1))
    [ $looks -lt 3 ] || break
    sleep 0.2
  done
  printf '%s' "$found"
}

# look GROUP: adds the lines of this cgroup to $found.
look() {
  if frozen "$1"; then
    found="${found}frozen: $what ($1)
"
    return 0
  fi
  pids_of "$1"
  for pid in $pids; do
    is_stopped || continue
    case $found in *" process $pid "*) continue ;; esac
    program=$({ tr '\0' '\n' <"/proc/$pid/cmdline" | head -n 1; } 2>/dev/null) || program=
    holder=$(traced)
    found="${found}stopped: ${program##*/}, process $pid of $what${holder:+, held by $holder}
"
  done
}

# pids_of GROUP: sets $pids to the processes of this cgroup, or to nothing if the cgroup has just gone.
pids_of() {
  pids=
  { while read -r pid; do pids="$pids $pid"; done <"$1/cgroup.procs"; } 2>/dev/null || :
}

# is_stopped: succeeds if process $pid is stopped.
is_stopped() {
  { read -r stat <"/proc/$pid/stat"; } 2>/dev/null || return 1
  case ${stat##*) } in [Tt]' '*) ;; *) return 1 ;; esac
}

# traced: prints the process that holds $pid by ptrace, if there is one.
traced() {
  tracer=$(sed -n 's/^TracerPid:[[:space:]]*//p' "/proc/$pid/status" 2>/dev/null) || tracer=0
  [ "${tracer:-0}" != 0 ] || return 0
  { read -r name <"/proc/$tracer/comm"; } 2>/dev/null || name='?'
  echo "process $tracer ($name)"
}

# frozen GROUP: succeeds if the processes of this cgroup are frozen, by itself or by a cgroup above it.
frozen() {
  state=
  { while read -r key value; do [ "$key $value" != 'frozen 1' ] || state=FROZEN; done <"$1/cgroup.events"; } 2>/dev/null || :
  { read -r state <"/sys/fs/cgroup/freezer${1#"$top"}/freezer.state"; } 2>/dev/null || :
  case $state in FROZEN | FREEZING) ;; *) return 1 ;; esac
}

# resume NAMESPACE_POD...: lets everything that `stopped` finds go on. Fails if something does not.
resume() {
  each_group go_on "$@"
  found=$(stopped "$@")
  [ -n "$found" ] || return 0
  echo "$found"
  case $found in
  *', held by process '*)
    echo "reason: a debugger holds it: $(echo "$found" | grep -m 1 ', held by process ')"
    echo 'by hand: debugger'
    ;;
  esac
  return 1
}

# go_on GROUP: thaws this cgroup, and lets its stopped processes go on.
go_on() {
  ! frozen "$1" || thaw "$1"
  pids_of "$1"
  for pid in $pids; do
    ! is_stopped || kill -s CONT "$pid" 2>/dev/null || :
  done
}

# thaw GROUP: thaws this cgroup, and also the cgroups above it that freeze it. systemd records which cgroups it froze, so
# systemd thaws them first.
thaw() {
  at=$1
  while [ "$at" != "$top" ]; do
    below=${at#"$top"}
    freezes=0
    { read -r freezes <"$at/cgroup.freeze"; } 2>/dev/null || :
    if [ "$freezes" = 1 ]; then
      systemctl thaw "${at##*/}" 2>/dev/null || :
      echo 0 >"$at/cgroup.freeze"
    fi
    freezes=0
    { read -r freezes <"/sys/fs/cgroup/freezer$below/freezer.self_freezing"; } 2>/dev/null || :
    [ "$freezes" != 1 ] || echo THAWED >"/sys/fs/cgroup/freezer$below/freezer.state"
    at=${at%/*}
  done
}

# find_kubelet: sets $main to the kubelet's own process, and $age to how many seconds it has run. Both are empty if none
# runs.
find_kubelet() {
  main='' age=''
  each_group find_main
}

# find_main GROUP: the part of find_kubelet for one cgroup. The parent of a unit's main process does not belong to the unit.
find_main() {
  [ "$what" = kubelet.service ] || return 0
  read -r up _ </proc/uptime
  pids_of "$1"
  for pid in $pids; do
    { read -r stat <"/proc/$pid/stat"; } 2>/dev/null || continue
    # shellcheck disable=SC2086
    set -- ${stat##*) }
    case "$pids " in *" $2 "*) ;; *) main=$pid age=$((${up%.*} - ${20} / 100)) ;; esac
  done
}

# kubelet_only FILE...: prints each argument of the running kubelet that no file of this machine gives it. Call it after
# find_kubelet. Prints nothing if one of the files changed after the kubelet started, because then the kubelet has to be
# restarted for that.
kubelet_only() {
  [ -n "$main" ] || return 0
  runs=$(sed -e '1s/^[^\x00]*\x00//' -e 's/\x00/\n/g' -e "s/[\"'\\]//g" "/proc/$main/cmdline" 2>/dev/null) || return 0
  # The time of a file below /proc is the present time.
  now=
  for changed in $(stat -L -c %Z -- /proc/self/stat "$@" 2>/dev/null || :); do
    if [ -z "$now" ]; then now=$changed; continue; fi
    [ "$changed" -lt $((now - age)) ] || return 0
  done
  set -- /var/lib/kubelet/kubeadm-flags.env /etc/default/kubelet
  for file in /etc/systemd/system /run/systemd/system /run/systemd/transient /usr/local/lib/systemd/system /usr/lib/systemd/system \
    /etc/systemd/system.control /run/systemd/system.control; do
    set -- "$@" "$file/kubelet.service" "$file"/kubelet.service.d/*.conf "$file"/service.d/*.conf
  done
  given=$(kubelet_words "$@")
  # Add the environment files that a unit names.
  set -f
  set --
  for word in $given; do
    case $word in
    EnvironmentFile=*)
      word=${word#*=}
      set -- "$@" "${word#-}"
      ;;
    esac
  done
  set +f
  given=" $given $(kubelet_words "$@") "
  while IFS= read -r argument; do
    [ -n "$argument" ] || continue
    case $given in *[\ =]"$argument "*) ;; *) is_expanded "${argument%%=*}" || echo "$argument" ;; esac
  done <<ARGUMENTS
$runs
ARGUMENTS
}

# kubelet_words FILE...: prints the words of those files that exist, without comments and quotes, on one line.
kubelet_words() {
  for file; do
    shift
    [ ! -f "$file" ] || set -- "$@" "$file"
  done
  [ $# = 0 ] || sed -n -e "/^[[:space:]]*[#;]/!{s/[\"'\\\\]//g;y/\t/ /;H}" -e '${x;s/\n/ /g;p}' -- "$@"
}

# is_expanded FLAG: succeeds if a file gives this flag a value that systemd expands from a variable or a specifier.
is_expanded() {
  case $given in *"$1="[!\ ]*) ;; *) return 1 ;; esac
  value=${given#*"$1="}
  case ${value%% *} in *[%$]*) ;; *) return 1 ;; esac
}

# kubelet_as_given FILE...: restarts the kubelet if it has other arguments, as kubelet_only finds with these files.
kubelet_as_given() {
  find_kubelet
  [ -n "$(kubelet_only "$@")" ] || return 0
  # Variables that were set in systemd's own process are in no file, and go with a restart of the machine.
  systemctl unset-environment KUBELET_KUBECONFIG_ARGS KUBELET_CONFIG_ARGS KUBELET_KUBEADM_ARGS KUBELET_EXTRA_ARGS
  systemctl daemon-reload
  again_if_active kubelet
  find_kubelet
  still=$(kubelet_only "$@")
  [ -n "$still" ] || return 0
  echo "reason: the kubelet still runs with $(echo "$still" | tr '\n' ' ')"
  where=$(grep -l KUBELET_ /etc/systemd/system.conf /etc/systemd/system.conf.d/*.conf /run/systemd/system.conf.d/*.conf 2>/dev/null | xargs)
  [ -z "$where" ] || echo "reason: systemd sets variables of the kubelet in $where"
  echo "by hand: kubelet-arguments"
  return 1
}

# local_asks: sets $local_asks to questions for `packets`: the health of the kubelet and kube-proxy, and the settings with
# which kube-proxy runs. Their files say where they answer.
local_asks() {
  local_asks=
  if [ -e /var/lib/kubelet/config.yaml ]; then
    address=127.0.0.1 port=10248
    while read -r key value _; do
      case $key in
      healthzBindAddress:) ! unquoted "$value" || address=$value ;;
      healthzPort:) ! unquoted "$value" || port=$value ;;
      esac
    done </var/lib/kubelet/config.yaml
    loopback "$address"
    [ "$port" = 0 ] || local_asks="kubelet-health $address http:$port/healthz"
  fi
  for file in /var/lib/kubelet/pods/*/volumes/kubernetes.io~configmap/kube-proxy/config.conf; do
    [ -e "$file" ] || continue
    health=0.0.0.0:10256 metrics=127.0.0.1:10249
    while read -r key value _; do
      case $key in
      healthzBindAddress:) ! unquoted "$value" || health=$value ;;
      metricsBindAddress:) ! unquoted "$value" || metrics=$value ;;
      esac
    done <"$file"
    loopback "${health%:*}"
    local_asks="$local_asks proxy $address http:${health##*:}/livez"
    loopback "${metrics%:*}"
    local_asks="$local_asks proxy-mode $address http:${metrics##*:}/proxyMode proxy-settings $address json:${metrics##*:}/configz"
    break
  done
}

# unquoted VALUE: sets $value to VALUE without YAML's quotes. Fails if it is empty.
unquoted() {
  value=${1#[\"\']}
  value=${value%[\"\']}
  [ -n "$value" ]
}

# loopback ADDRESS: sets $address to an address at which this machine reaches what listens on ADDRESS.
loopback() {
  address=${1#[}
  address=${address%]}
  case $address in 0.0.0.0 | '') address=127.0.0.1 ;; ::) address=::1 ;; esac
}

# answers_well NAME: succeeds if the question of local_asks with this name has a good answer.
answers_well() {
  local_asks
  # shellcheck disable=SC2086
  said=$(packets $local_asks | sed -n "s/^$1 //p")
  case $said in 'says 200 '*) ;; *) printf '%s\n' "$1: ${said:-not asked}" >&2; return 1 ;; esac
}

# answers_after_all NAME: succeeds if answers_well does in one of three tries. The machine may be busy.
answers_after_all() {
  answers_well "$1" 2>/dev/null || { sleep 1; answers_well "$1" 2>/dev/null; } || { sleep 1; answers_well "$1" 2>/dev/null; }
}

# kubelet_again: restarts a kubelet that does not answer.
kubelet_again() {
  ! answers_after_all kubelet-health || return 0
  again_if_active kubelet
  ! systemctl is-active -q kubelet || retry answers_well kubelet-health
}

# proxy_answers_again NODE: restarts a kube-proxy that does not answer.
proxy_answers_again() {
  ! answers_after_all proxy || return 0
  restart "$1" kube-system kube-proxy kube-proxy k8s-app=kube-proxy
  retry answers_well proxy
}

# runs_in MODE: succeeds if kube-proxy says that it runs in this mode.
runs_in() {
  answers_well proxy-mode || return 1
  [ "$said" = "says 200 $1" ] || { printf '%s\n' "kube-proxy $said" >&2; return 1; }
}

# proxy_mode_again NODE MODE: has kube-proxy read its ConfigMap again, by a new pod. A new pod gets the ConfigMap as it is
# now. A running pod gets it from the kubelet up to two minutes later.
proxy_mode_again() {
  ! runs_in "$2" 2>/dev/null || return 0
  delete_pods "$1" kube-system k8s-app=kube-proxy
  retry runs_in "$2"
}

# has_restarted OLD: succeeds if kube-proxy runs, with other processes than OLD, and answers.
has_restarted() {
  new=$(daemon kube-system_kube-proxy kube-proxy)
  if [ -z "$new" ] || [ "$new" = "$1" ]; then echo "kube-proxy has not restarted yet" >&2; return 1; fi
  answers_well proxy-settings
}

# proxy_settings_again NODE: has kube-proxy read its ConfigMap again.
proxy_settings_again() {
  before=$(daemon kube-system_kube-proxy kube-proxy)
  delete_pods "$1" kube-system k8s-app=kube-proxy
  retry has_restarted "$before"
}
