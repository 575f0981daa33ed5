# Shell functions that check what flannel set up on this machine, and make flannel set it up again. Sent after daemons.sh.
# POSIX sh.

# flannel_wrote: sets $own, $all, $mtu and $masq to what flannel wrote about this node.
flannel_wrote() {
  own='' all='' mtu='' masq=''
  { while IFS='=' read -r key value || [ -n "$key" ]; do
    case $key in
    FLANNEL_SUBNET) own=$value ;;
    FLANNEL_NETWORK) all=$value ;;
    FLANNEL_MTU) mtu=$value ;;
    FLANNEL_IPMASQ) masq=$value ;;
    esac
  done </run/flannel/subnet.env; } 2>/dev/null || :
}

# flannel_lacks PODS: prints a line for each setting that flannel did not write. Call it after flannel_wrote. flannel's CNI
# plugin connects no pod if one of the four is missing (flannel-io/cni-plugin, flannel.go, `missing`).
flannel_lacks() {
  [ "$all" = "$1" ] || echo "/run/flannel/subnet.env does not have FLANNEL_NETWORK=$1"
  case $mtu in '' | *[!0-9]*) echo '/run/flannel/subnet.env does not have FLANNEL_MTU' ;; esac
  [ "$masq" = true ] || echo '/run/flannel/subnet.env does not have FLANNEL_IPMASQ=true'
}

# flannel_faults ADDRESS PODS: prints a line for each thing on this node that is not as flannel sets it up. ADDRESS is the
# node's own address, and PODS the range of all pods.
flannel_faults() {
  flannel_wrote
  link=$(ip -d -o link show dev flannel.1 2>/dev/null) || link=
  # A start of flannel does not repair these, so they also count while flannel starts.
  case $mtu:$link in
  :* | *: | *" mtu $mtu "*) ;;
  *)
    is=${link#* mtu }
    echo "the MTU of flannel.1 is ${is%% *} instead of $mtu" ;;
  esac
  # The kernel gives a VXLAN interface no queue. With one, small packets can pass and large ones get lost.
  case $link in '' | *' qdisc noqueue '* | *' qdisc noop '*) ;; *' qdisc '*)
    is=${link#* qdisc }
    echo "flannel.1 has the queueing discipline ${is%% *} instead of noqueue" ;;
  esac
  [ -z "$own" ] || [ -z "$link" ] || tunnels "$own" "$2" elsewhere
  lasting kube-flannel_flannel flanneld || return 0
  if [ -z "$own" ]; then echo '/run/flannel/subnet.env does not name the range of this node'; return 0; fi
  flannel_lacks "$2"
  if ! grep -q '^ *flannel\.1:' /proc/net/dev; then echo 'the interface flannel.1 does not exist'; return 0; fi
  # flannel gives the interface the first address of the range, and notes the one after it.
  host=${own%/*}
  net=${host%.*}.$((${host##*.} - 1))
  case "$(ip -4 -o addr show dev flannel.1) " in *" inet $net/32 "*) ;; *) echo "flannel.1 does not have the address $net" ;; esac
  case $link in *[\<,]UP[,\>]*) ;; *) echo 'flannel.1 is down' ;; esac
  case $1 in *:*) ;; *) case $link in *" vxlan id "*" local $1 "*) ;; *) echo "flannel.1 does not send from the address $1" ;; esac ;; esac
  tunnels "$own" "$2" fault
}

# tunnels OWN PODS WHAT: prints what is wrong with the paths to the pods of other nodes. flannel keeps a route, a neighbour
# and a forwarding entry for each node. With WHAT "fault" it prints a line for each path that is not complete. With
# "elsewhere" it prints a line for each route that leads the packets for these pods elsewhere, and with "stray" the
# destination of each such route.
tunnels() {
  {
    echo '- neigh'
    ip -4 neigh show dev flannel.1 nud permanent
    echo '- fdb'
    bridge fdb show dev flannel.1
    echo '- route'
    ip -4 route show root "$2"
  } | awk -v own="$1" -v what="$3" '
    function number(ip,  a) { split(ip, a, "."); return ((a[1] * 256 + a[2]) * 256 + a[3]) * 256 + a[4] }
    function range(ip) { return int(number(ip) / 2 ^ (32 - bits)) }
    BEGIN { split(own, a, "/"); a0 = a[1]; bits = a[2] }
    function say(kind, text) { if (kind == what) print text }
    $1 == "-" { section = $2; next }
    section == "neigh" { for (i = 1; i < NF; i++) if ($i == "lladdr") mac[$1] = $(i + 1) }
    section == "fdb" { for (i = 1; i < NF; i++) if ($i == "dst") dst[$1] = $(i + 1) }
    section == "route" { line[++n] = $0 }
    END {
      for (i = 1; i <= n; i++) {
        $0 = line[i]
        to = $1 ~ /^[0-9]/ ? $1 : $2
        split(to, a, "/")
        sub(/ +$/, "")
        if ($2 == "via" && $1 == $3 "/" bits && $5 == "flannel.1") { routed[$3] = 1; continue }
        stray[++m] = $0; where[m] = range(a[1]); size[m] = a[2] == "" ? 32 : a[2]; dest[m] = to
      }
      for (gateway in mac) {
        taken = ""
        for (i = 1; i <= m; i++) if (where[i] == range(gateway) && size[i] >= bits) { taken = stray[i]; say("stray", dest[i]) }
        if (taken != "") say("elsewhere", "a route diverts packets for the pods of " gateway "/" bits ": " taken)
        else if (!(gateway in routed)) say("fault", "there is no route to the pods of " gateway "/" bits)
        else if (!(mac[gateway] in dst)) say("fault", "flannel.1 has no forwarding entry for " mac[gateway] ", the gateway to the pods of " gateway "/" bits)
      }
      # The bridge plugin makes one route to all pods of this node. A second one to all of them, with a higher metric, is not used.
      for (i = 1; i <= m; i++) if (where[i] == range(a0) && size[i] > bits && stray[i] !~ / dev cni0( |$)/) {
        say("stray", dest[i])
        say("elsewhere", "a route diverts packets for pods of this node: " stray[i])
      }
      for (gateway in routed) if (!(gateway in mac)) say("fault", "flannel.1 has no neighbour entry for " gateway ", the gateway to the pods of its node")
    }'
}

# flannel_drift ADDRESS PODS SERVICE: prints the faults. It prints none if flannel has set up nothing yet because the API's
# Service does not answer. Then kube-proxy has to be repaired first, and its own asks say so. Sent after packets.sh.
flannel_drift() {
  faults=$(flannel_faults "$1" "$2")
  case $faults in
    *subnet.env* | *'does not exist') service_answers "$3" 443 2>/dev/null || return 0 ;;
    '') return 0 ;;
  esac
  printf '%s\n' "$faults"
  lacks_configmap kube-flannel flannel
}

# flannel_is_right ADDRESS PODS: succeeds if flannel runs and has no faults. Otherwise it says why not.
flannel_is_right() {
  faults=$(flannel_faults "$@")
  [ -n "$(daemon kube-flannel_flannel flanneld)" ] || { echo 'flannel is not running on this node' >&2; return 1; }
  lasting kube-flannel_flannel flanneld || { echo 'flannel started a moment ago' >&2; return 1; }
  [ -z "$faults" ] || { echo "$faults" >&2; return 1; }
}

# flannel_again NODE ADDRESS PODS: deletes routes that lead the packets for pods elsewhere, and restarts flannel. At its start, flannel sets up everything. It keeps an existing interface with its present MTU and
# queue (flannel, vxlan/device.go, `ensureLink`), so these are set here. If only they were wrong, flannel goes on running.
flannel_again() {
  ! flannel_is_right "$2" "$3" 2>/dev/null || return 0
  flannel_wrote
  if [ -n "$own" ] && grep -q '^ *flannel\.1:' /proc/net/dev; then
    tunnels "$own" "$3" stray | while read -r to; do ip -4 route flush exact "$to"; done
    case $mtu in '' | *[!0-9]*) ;; *) ip link set flannel.1 mtu "$mtu" ;; esac
    case $(ip -o link show dev flannel.1) in *' qdisc noqueue '* | *' qdisc noop '*) ;; *) tc qdisc delete dev flannel.1 root || : ;; esac
  fi
  ! flannel_is_right "$2" "$3" 2>/dev/null || return 0
  restart "$1" kube-flannel flannel flanneld app=flannel
  retry flannel_is_right "$2" "$3"
}
