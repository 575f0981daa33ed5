# Shell that asks the network of pods and Services with real packets, and looks at what flannel made. Sent after pods.sh.
# bash makes the connections, because other tools may be missing. POSIX sh.

# daemon NAMESPACE_POD PROGRAM: the processes of this program in the pods whose folders of logs begin so.
daemon() {
  for folder in "/var/log/pods/$1"-*_*; do
    [ ! -d "$folder" ] || program "${folder##*_}" "$2"
  done
}

# lasting NAMESPACE_POD PROGRAM: such a process runs, and has run for five seconds. One that started a moment ago is still
# at work on what it has to set up.
lasting() {
  read -r up _ </proc/uptime
  for pid in $(daemon "$1" "$2"); do
    { read -r stat <"/proc/$pid/stat"; } 2>/dev/null || continue
    # shellcheck disable=SC2086
    started=$(set -- ${stat##*) }; echo "${20}")
    [ $((${up%.*} - started / 100)) -lt 5 ] || return 0
  done
  return 1
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
  command kubectl --kubeconfig /etc/kubernetes/kubelet.conf --cache-dir "$RUN/kube" -n "$2" delete pod --wait=false \
    --field-selector "spec.nodeName=$1" -l "$5" >/dev/null || :
}

# flannel_value NAME: what flannel wrote about this node.
flannel_value() {
  sed -n "s/^$1=//p" /run/flannel/subnet.env 2>/dev/null || :
}

# flannel_faults ADDRESS PODS: a line for each thing that flannel made on this node, and that is not as flannel makes it.
# ADDRESS is the node's own address, and PODS the range of all pods.
flannel_faults() {
  lasting kube-flannel_flannel flanneld || return 0
  own=$(flannel_value FLANNEL_SUBNET)
  if [ -z "$own" ]; then echo '/run/flannel/subnet.env does not name the range of this node'; return 0; fi
  if ! grep -q '^ *flannel\.1:' /proc/net/dev; then echo 'the interface flannel.1 does not exist'; return 0; fi
  # flannel gives the interface the first address of the range, and notes the one after it.
  host=${own%/*}
  net=${host%.*}.$((${host##*.} - 1))
  case "$(ip -4 -o addr show dev flannel.1) " in *" inet $net/32 "*) ;; *) echo "flannel.1 does not have the address $net" ;; esac
  link=$(ip -d -o link show dev flannel.1)
  case $link in *[\<,]UP[,\>]*) ;; *) echo 'flannel.1 is down' ;; esac
  mtu=$(flannel_value FLANNEL_MTU)
  case $link in *" mtu ${mtu:-1450} "*) ;; *) echo "the MTU of flannel.1 is not ${mtu:-1450}" ;; esac
  case $1 in *:*) ;; *) case $link in *" vxlan id "*" local $1 "*) ;; *) echo "flannel.1 does not send from $1" ;; esac ;; esac
  tunnels "$own" "$2" | awk '$1 == "fault" { sub(/^fault /, ""); print }'
}

# tunnels OWN PODS: the way to the pods of each other node. "tunnel GATEWAY ADDRESS" is one that is complete, and "fault" a line
# about one that is not. flannel keeps a route, a neighbour and a forwarding entry for each.
tunnels() {
  {
    ip -4 neigh show dev flannel.1 nud permanent | sed 's/^/neigh /'
    bridge fdb show dev flannel.1 | sed 's/^/fdb /'
    ip -4 route show root "$2" | sed 's/^/route /'
  } | awk -v own="$1" '
    function number(ip,  a) { split(ip, a, "."); return ((a[1] * 256 + a[2]) * 256 + a[3]) * 256 + a[4] }
    function range(ip) { return int(number(ip) / 2 ^ (32 - bits)) }
    BEGIN { split(own, a, "/"); bits = a[2] }
    $1 == "neigh" { for (i = 2; i < NF; i++) if ($i == "lladdr") mac[$2] = $(i + 1) }
    $1 == "fdb" { for (i = 2; i < NF; i++) if ($i == "dst") dst[$2] = $(i + 1) }
    $1 == "route" { line[++n] = $0 }
    END {
      for (i = 1; i <= n; i++) {
        $0 = line[i]
        to = $2 ~ /^[0-9]/ ? $2 : $3
        split(to, a, "/")
        sub(/^route /, "")
        sub(/ +$/, "")
        if ($2 == "via" && $1 == $3 "/" bits && $5 == "flannel.1") { routed[$3] = 1; continue }
        stray[++m] = $0; where[m] = range(a[1]); size[m] = a[2] == "" ? 32 : a[2]; dest[m] = to
      }
      for (gateway in mac) {
        taken = ""
        for (i = 1; i <= m; i++) if (where[i] == range(gateway) && size[i] >= bits) { taken = stray[i]; print "stray " dest[i] }
        if (taken != "") print "fault a route leads the pods of " gateway "/" bits " elsewhere: " taken
        else if (!(gateway in routed)) print "fault there is no route to the pods of " gateway "/" bits
        else if (!(mac[gateway] in dst)) print "fault flannel.1 does not know which node has " mac[gateway] ", the way to the pods of " gateway "/" bits
        else print "tunnel " gateway " " dst[mac[gateway]]
      }
      for (gateway in routed) if (!(gateway in mac)) print "fault flannel.1 does not know the neighbour " gateway ", the way to its pods"
    }'
}

# flannel_is_right ADDRESS PODS
flannel_is_right() {
  faults=$(flannel_faults "$@")
  [ -n "$(daemon kube-flannel_flannel flanneld)" ] || { echo 'flannel does not run here' >&2; return 1; }
  lasting kube-flannel_flannel flanneld || { echo 'flannel started a moment ago' >&2; return 1; }
  [ -z "$faults" ] || { echo "$faults" >&2; return 1; }
}

# flannel_again NODE ADDRESS PODS: takes routes away that lead the pods of other nodes elsewhere, and restarts flannel, which lays out
# everything when it starts.
flannel_again() {
  ! flannel_is_right "$2" "$3" 2>/dev/null || return 0
  own=$(flannel_value FLANNEL_SUBNET)
  if [ -n "$own" ] && grep -q '^ *flannel\.1:' /proc/net/dev; then
    tunnels "$own" "$3" | sed -n 's/^stray //p' | while read -r to; do ip -4 route flush exact "$to"; done
  fi
  restart "$1" kube-flannel flannel flanneld app=flannel
  patiently flannel_is_right "$2" "$3"
}

# packets NAME ADDRESS PORT ...: asks all of these at once, and says "NAME reached", "NAME refused" or "NAME silent" of each. A
# PORT that begins with dns: is a query for a name of this cluster, in the words of printf; its answer must have the address that
# follows as hexadecimal digits.
packets() {
  command -v bash >/dev/null || { echo 'there is no bash to ask with'; return 0; }
  # What hangs is ended with all its processes; the kernel sends the first packet of a connection again after a second.
  answers=$(LC_ALL=C timeout 1.2 bash -c "$PACKETS" packets "$@" 2>/dev/null) || :
  while [ $# -gt 0 ]; do
    case "
$answers
" in
    *"
$1 reached
"*) echo "$1 reached" ;;
    *"
$1 refused
"*) echo "$1 refused" ;;
    *) echo "$1 silent" ;;
    esac
    shift 3
  done
}

# A connection to an address where nothing listens is refused by the machine that has the address: it was reached.
# shellcheck disable=SC2016
PACKETS='
dns() {
  exec 3<>"/dev/udp/$2/53" || return
  query=${3#dns:} expected=${3##*:}
  query=${query%:*}
  for _ in 1 2; do
    # bash writes up to each line break by itself, and each write would be a datagram.
    printf "$query" | dd obs=512 >&3 2>/dev/null
    answer=$(timeout 0.5 dd bs=512 count=1 <&3 2>/dev/null | od -An -v -tx1 | tr -d " \n")
    case $answer in
      4952[89a-f]??0*"$expected"*) echo "$1 reached"; return ;;
      4952[89a-f]*) echo "$1 refused"; return ;;
    esac
  done
}
tcp() {
  said=$( { exec 3<>"/dev/tcp/$2/$3"; } 2>&1) && { echo "$1 reached"; return; }
  case $said in *refused*) echo "$1 refused" ;; esac
}
while [ $# -gt 0 ]; do
  case $3 in dns:*) dns "$1" "$2" "$3" & ;; *) tcp "$1" "$2" "$3" & ;; esac
  shift 3
done
wait
'

# pods_of NODE...: "pod:NODE ADDRESS PORT" for one running pod on each of these nodes that has one with an address of its own. It
# reads the first 500 pods of the cluster. Fails with kubectl's words on standard output.
pods_of() {
  pods=$(kubectl get --raw '/api/v1/pods?limit=500&fieldSelector=status.phase%3DRunning,spec.hostNetwork%3Dfalse' --request-timeout=2s 2>&1) ||
    { echo "$pods" | head -n 1; return 1; }
  printf '%s\n' "$pods" | grep -o -e '"nodeName":"[^"]*"' -e '"podIP":"[^"]*"' -e '"containerPort":[0-9]*,"protocol":"TCP"' |
    awk -F '"' -v nodes=" $* " '
      /^"containerPort"/ { split($3, a, /[:,]/); if (port == "") port = a[2] }
      /^"nodeName"/ { node = $4 }
      /^"podIP"/ {
        if (node != "" && index(nodes, " " node " ") && $4 ~ /^[0-9a-f.:]+$/ && !(node in found)) {
          found[node] = 1
          print "pod:" node, $4, port == "" ? 1 : port
        }
        node = port = ""
      }'
}

# service_answers ADDRESS PORT
service_answers() {
  case $(packets service "$1" "$2") in 'service reached') ;; *) echo "$1 port $2 does not answer" >&2; return 1 ;; esac
}

# proxy_again NODE ADDRESS PORT: restarts kube-proxy, which writes all of its rules when it starts.
proxy_again() {
  ! service_answers "$2" "$3" 2>/dev/null || return 0
  restart "$1" kube-system kube-proxy kube-proxy k8s-app=kube-proxy
  patiently service_answers "$2" "$3"
}

# answered NAME STATE...: waits until the question NAME, which the function `questions` asks with others, comes out as one of
# these, or is not asked any more.
answered() {
  name=$1 states=$2 more=${3:-}
  answered_by=$(($(date +%s) + (PATIENCE < 30 ? PATIENCE : 30)))
  before=$(through_flannel)
  while :; do
    said=$(questions)
    state=$(printf '%s\n' "$said" | sed -n "s/^$name //p")
    case $state in "$states" | "${more:-$states}" | '') return 0 ;; esac
    [ "$(date +%s)" -lt "$answered_by" ] || break
    renew
    sleep 1
  done
  echo "packets: $name is $state"
  # shellcheck disable=SC2046,SC2086
  set -- $before $(through_flannel)
  case $state:$# in silent:4) [ "$1" != "$3" ] || [ "$2" = "$4" ] || echo "packets: flannel.1 sent $(($4 - $2)) packets and received none" ;; esac
  return 1
}

# through_flannel: how many packets flannel.1 received and sent.
through_flannel() {
  sed -n 's/^ *flannel\.1: *//p' /proc/net/dev | {
    read -r _ received _ _ _ _ _ _ _ sent _ || return 0
    echo "$received $sent"
  }
}
