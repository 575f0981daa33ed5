# Shell functions that check the links between this node's pods and their bridge cni0, and repair them. Sent after pods.sh.
# POSIX sh.

# link_faults: prints a line for each link that is not as the CNI plugin `bridge` makes it. libcni notes the name of the link once
# the network of a pod is complete. A pod can have more links, of other networks.
link_faults() {
  links_of fault
}

# links_of WHAT: with WHAT "fault" it prints what is wrong, as a sentence. With "link" it prints the names of links that can be
# set right, and with "netns" the network namespaces of pods whose network has to be made again.
links_of() {
  set -- "$1" /run/netns/cni-*
  [ -e "$2" ] || return 0
  {
    echo '- noted'
    grep -hs '' /var/lib/cni/results/cbr0-*-eth0 || :
    echo '- link'
    ip -d -o link show
  } | awk -v what="$1" '
    function after(text, key, pattern) {
      return match(text, key pattern) ? substr(text, RSTART + length(key), RLENGTH - length(key)) : ""
    }
    function fault(text, repair,  before) {
      # Such a fault counts only if a process is in that namespace: a sandbox that ended may leave its own behind.
      before = repair == "netns" ? "?" netns " " : ""
      if (what == "fault") print before text
      if (what == "link" && repair == "link") print name
      if (what == "netns" && repair == "netns") print before netns
    }
    $1 == "-" && NF == 2 { section = $2; next }
    section == "noted" {
      netns = after($0, "/netns/", "cni-[0-9a-f-]+")
      veth[netns] = after($0, "\"name\":\"", "veth[0-9a-f]+")
      pod[netns] = after($0, "K8S_POD_NAMESPACE\",\"", "[a-z0-9.-]+") "/" after($0, "K8S_POD_NAME\",\"", "[a-z0-9.-]+")
      next
    }
    { name = $2; sub(/[@:].*/, "", name) }
    name == "cni0" { bridge = $0 }
    { line[name] = $0 }
    # Whether this line of `ip` shows another queueing discipline than the kernel gives such a link, or that the link is down.
    function is_altered(line, of,  queue) {
      queue = after(line, " qdisc ", "[^ ]+")
      if (queue != "noqueue" && queue != "noop") fault(of " has the queueing discipline " queue " instead of noqueue", "link")
      if (line !~ /[<,]UP[,>]/) fault(of " is down", "link")
      return line !~ /[<,]UP[,>]/
    }
    END {
      name = "cni0"
      down = bridge != "" && is_altered(bridge, "cni0")
      for (netns in pod) {
        name = veth[netns]
        if (netns == "" || name == "") continue
        of = name " of pod " pod[netns]
        if (!(name in line)) fault("the link of pod " pod[netns] " is missing", "netns")
        else if (bridge == "") fault("the bridge cni0 does not exist, and pod " pod[netns] " needs it", "netns")
        else if (is_altered(line[name], of)) continue
        # The pod itself may have turned off its end.
        else if (line[name] !~ /[<,]LOWER_UP[,>]/) continue
        else if (line[name] !~ / master cni0 /) fault(of " is not in the bridge cni0", "link")
        else if (!down && line[name] ~ / state (disabled|blocking|listening) | hairpin off | guard on | learning off | flood off | isolated on /)
          fault("the bridge cni0 does not pass all packets of " of, "link")
      }
    }' | while IFS= read -r line; do
    case $line in \?*)
      netns=${line%% *}
      netns_is_used "${netns#?}" || continue
      line=${line#* }
      ;;
    esac
    printf '%s\n' "$line"
  done
}

# netns_is_used NETNS: succeeds if a process is in this network namespace.
netns_is_used() {
  inode=$(stat -L -c %i "/run/netns/$1" 2>/dev/null) || return 1
  find /proc/[0-9]*/ns/net -lname "net:?$inode?" 2>/dev/null | grep -q .
}

# link_drift: prints the faults that are still there a second later. A pod that starts or ends has an incomplete link.
link_drift() {
  drift=$(link_faults)
  [ -n "$drift" ] || return 0
  sleep 1
  link_faults | while IFS= read -r line; do
    case "
$drift
" in *"
$line
"*) printf '%s\n' "$line" ;; esac
  done
}

# links_are_right: succeeds if there are no such faults. Otherwise it prints them.
links_are_right() {
  drift=$(link_drift)
  [ -z "$drift" ] || { printf '%s\n' "$drift" >&2; return 1; }
}

# links_again: sets the links right. It ends the sandbox of a pod whose link is gone, and the kubelet makes sandbox and pod
# again. The bridge plugin turns on hairpin mode, because flannel's configuration says so.
links_again() {
  for link in $(links_of link); do
    tc qdisc delete dev "$link" root 2>/dev/null || :
    if [ "$link" = cni0 ]; then ip link set cni0 up; continue; fi
    # A pod that ends takes its link with it.
    ip link set "$link" up && ip link set "$link" master cni0 || continue
    bridge link set dev "$link" state 3 hairpin on guard off learning on flood on isolated off || :
  done
  # shellcheck disable=SC2046
  set -- $(links_of netns)
  end_sandboxes "$@"
  await_removal "$@"
  retry links_are_right
}

# end_sandboxes NETNS...: ends the sandboxes of pods in these network namespaces, given by name or path. A pod is in the network
# namespace of its sandbox, and so is the sandbox's first process. Without that process the kubelet makes sandbox and pod again.
end_sandboxes() {
  [ $# -gt 0 ] || return 0
  sandboxes=$(running 'labels."io.cri-containerd.kind"=="sandbox"') || return 1
  inodes=' '
  for netns; do inodes="$inodes$(stat -L -c %i "/run/netns/${netns##*/}" 2>/dev/null || :) "; done
  # shellcheck disable=SC2046
  set -- $(printf '%s\n' "$sandboxes" | while read -r _ pid; do echo "/proc/$pid/ns/net"; done)
  { [ $# = 0 ] || stat -L -c '%i %n' -- "$@" 2>/dev/null || :; } | while read -r inode path; do
    pid=${path#/proc/}
    case $inodes in *" $inode "*) kill -s KILL "${pid%%/*}" 2>/dev/null || : ;; esac
  done
}

# await_removal NETNS...: waits until the kubelet has removed these network namespaces, for up to 30 seconds. Their links are
# incomplete until then.
await_removal() {
  tries=0
  for netns; do
    while [ -e "/run/netns/${netns##*/}" ] && [ $tries -lt 60 ]; do
      tries=$((tries + 1))
      renew_lease
      sleep 0.5
    done
  done
}
