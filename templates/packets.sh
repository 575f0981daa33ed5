# Shell functions that test the network of pods and Services with real packets. Sent after daemons.sh. bash makes the
# connections, because other tools may be missing. POSIX sh.

# packets NAME ADDRESS PORT ...: asks all of these at once, and prints "NAME reached", "NAME refused" or "NAME silent" for
# each. A PORT that begins with dns: is a query for a name of this cluster, written for printf. Its answer must contain the
# address that follows, as hexadecimal digits. "NAME partly" means that some of six such queries have no answer. A PORT
# large:PORT is a TLS server that gets a packet of full size, and "NAME partly" means that only a small one has an answer. A PORT
# http:PORT/PATH is a request, and its answer is "NAME says STATUS WORDS". With json: in place of http: the answer has up to
# 16000 characters instead of 110. If `within` is set, bash runs under that command.
packets() {
  command -v bash >/dev/null || { echo 'the machine has no bash, which this check needs'; return 0; }
  # A connection that hangs is ended with all its processes. The kernel sends the first packet of a connection again after a
  # second.
  # shellcheck disable=SC2086
  answers=$(LC_ALL=C timeout 1.2 ${within-} bash -c "$PACKETS" packets "$@" 2>/dev/null) || :
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
    *"
$1 partly
"*) echo "$1 partly" ;;
    *"
$1 says "*)
      answer="
$answers"
      answer=${answer#*"
$1 says "}
      printf '%s\n' "$1 says ${answer%%"
"*}" ;;
    *) echo "$1 silent" ;;
    esac
    shift 3
  done
}

# If nothing listens at an address, the machine that has the address refuses the connection. So the packet reached it.
# shellcheck disable=SC2016
PACKETS='
dns() {
  exec 3<>"/dev/udp/$2/53" || return
  query=${3#dns:} expected=${3##*:}
  query=${query%:*}
  others "$2" & rest=$!
  for _ in 1 2; do
    # bash writes up to each line break separately, and each write would be a datagram. So dd writes the query.
    printf "$query" | dd obs=512 >&3 2>/dev/null
    answer=$(timeout 0.5 dd bs=512 count=1 <&3 2>/dev/null | od -An -v -tx1)
    answer=${answer//[[:space:]]/}
    case $answer in
      4952[89a-f]??0*"$expected"*)
        if wait "$rest"; then echo "$1 reached"; else echo "$1 partly"; fi
        return ;;
      4952[89a-f]*) echo "$1 refused"; return ;;
    esac
  done
}
# Each query comes from a port of its own, so kube-proxy sends each to a pod of its choice. If one of two pods does not
# answer, all queries miss it once in 64 times. Only the first answer is read as a whole.
others() {
  failed=
  for _ in 1 2 3 4 5; do
    { exec 3<>"/dev/udp/$1/53"
      for _ in 1 2; do
        printf "$query" | dd obs=512 >&3 2>/dev/null
        ! read -r -t 0.5 -n 1 _ <&3 || exit 0
      done
      exit 1; } & asked="${asked-} $!"
  done
  for pid in $asked; do wait "$pid" || failed=yes; done
  [ -z "$failed" ]
}
tcp() {
  said=$( { exec 3<>"/dev/tcp/$2/$3"; } 2>&1) && { echo "$1 reached"; return; }
  case $said in *refused*) echo "$1 refused" ;; esac
}
# A TLS server answers anything that is not TLS, so a request of HTTP need not be complete. Its first segment has the full size.
large() {
  port=${3#large:}
  for size in 4000 1 4000; do
    { exec 3<>"/dev/tcp/$2/$port"; } 2>/dev/null || { tcp "$1" "$2" "$port"; return; }
    printf "GET /%0${size}d" 0 >&3
    # A connection that the machine ends has been answered. After a limit of time, read returns more than 128.
    read -r -t 0.35 -n 1 _ <&3
    case $?/$size in
    12[89]/1 | 1[3-9]?/1) break ;;
    */1) small=yes ;;
    12[89]/* | 1[3-9]?/*) [ -z "${small-}" ] || { echo "$1 partly"; return; } ;;
    *) break ;;
    esac
  done
  echo "$1 reached"
}
http() {
  path=/${3#*/} port=${3#*:} most=110
  case $3 in json:*) most=16000 ;; esac
  { exec 3<>"/dev/tcp/$2/${port%%/*}"; } 2>/dev/null || { tcp "$1" "$2" "${port%%/*}"; return; }
  printf "GET %s HTTP/1.0\r\n\r\n" "$path" >&3
  read -r _ status _ <&3 || return
  while read -r line && [ ${#line} -gt 1 ]; do :; done <&3
  words=
  while read -r line || [ -n "$line" ]; do
    case $line in "[-]"*) words=$line; break ;; esac
    words=${words:-$line}
  done <&3
  words=$status\ $words
  words=${words//[^[:print:]]/}
  printf "%s\n" "$1 says ${words:0:most}"
}
while [ $# -gt 0 ]; do
  case $3 in dns:*) dns "$1" "$2" "$3" & ;; large:*) large "$1" "$2" "$3" & ;; http:* | json:*) http "$1" "$2" "$3" & ;; *) tcp "$1" "$2" "$3" & ;; esac
  shift 3
done
wait
'

# fields PATH...: reads a list of the API server as JSON. For each item it prints "PATH<tab>VALUE" for each of these fields,
# and then "end". It finds a field by its path alone, because a tenant chooses keys and values of annotations and labels.
# Strings keep the escapes of JSON, so each stays on its line. kubectl's own formats cannot limit the number of items.
fields() {
  LC_ALL=C grep -oE '"([^"\\]|\\.)*":?|[][{}]|-?[0-9.]+|true|false' | awk -v paths=" $* " '
    function path() {
      at = ""
      for (i = 3; i <= depth; i++) if (key[i] != "") at = at (at == "" ? "" : ".") key[i]
      return at
    }
    /^[[{]/ { depth++; key[depth] = ""; next }
    /^[]}]/ { depth--; if (depth == 2 && key[1] == "items") print "end"; next }
    /^".*":$/ { key[depth] = substr($0, 2, length($0) - 3); next }
    depth >= 3 && key[1] == "items" && index(paths, " " path() " ") {
      gsub(/^"|"$/, "")
      print at "\t" $0
    }'
}

# pods_of NODE...: prints "pod:NODE ADDRESS PORT" for one running pod on each of these nodes that has one with an address of
# its own. A pod that is being deleted does not count, because it may no longer answer. A pod in a namespace of `policed`
# need not answer, so it does not count either. The function reads the first 500 pods of the cluster. If it fails, kubectl's
# words are on standard output.
pods_of() {
  pods=$(kubectl get --raw '/api/v1/pods?limit=500&fieldSelector=status.phase%3DRunning,spec.hostNetwork%3Dfalse' --request-timeout=2s 2>&1) ||
    { printf '%s\n' "$pods" | head -n 1; return 1; }
  printf '%s\n' "$pods" |
    fields metadata.namespace metadata.deletionTimestamp spec.nodeName spec.containers.ports.containerPort spec.containers.ports.protocol status.podIP |
    awk -F '\t' -v nodes=" $* " -v policed=" ${policed-}" '
      $1 == "metadata.namespace" { space = $2 }
      $1 == "metadata.deletionTimestamp" { gone = 1 }
      $1 == "spec.nodeName" { node = $2 }
      $1 == "spec.containers.ports.containerPort" { last = $2 }
      $1 == "spec.containers.ports.protocol" && $2 == "TCP" && port == "" { port = last }
      $1 == "status.podIP" { address = $2 }
      $1 == "end" {
        if (!gone && !index(policed, " " space " ") && node ~ /^[a-z0-9][a-z0-9.-]*$/ && index(nodes, " " node " ") && address ~ /^[0-9a-f.:]+$/ && !(node in found)) {
          found[node] = 1
          print "pod:" node, address, port ~ /^[0-9]+$/ ? port : 1
        }
        space = node = address = port = last = gone = ""
      }'
}

# local_pods: prints "NETNS/NAMESPACE/POD/ADDRESS" for up to three pods of flannel's network on this machine, as libcni noted them.
# One of kube-system comes first, and then others of other namespaces where there are any.
local_pods() {
  set -- /run/netns/cni-*
  [ -e "$1" ] || return 0
  { grep -hs '' /var/lib/cni/results/cbr0-*-eth0 || :; echo -; printf '%s\n' "$@"; } | awk '
    function after(text, key, pattern) {
      return match(text, key pattern) ? substr(text, RSTART + length(key), RLENGTH - length(key)) : ""
    }
    $0 == "-" { there = 1; next }
    !there {
      netns = after($0, "/netns/", "cni-[0-9a-f-]+")
      space[netns] = after($0, "K8S_POD_NAMESPACE\",\"", "[a-z0-9.-]+")
      pod[netns] = space[netns] "/" after($0, "K8S_POD_NAME\",\"", "[a-z0-9.-]+") "/" after($0, "\"address\":\"", "[0-9a-f.:]+")
      next
    }
    {
      sub(/.*\//, "")
      if (!($0 in space)) next
      rank = space[$0] == "kube-system" ? 0 : space[$0] in seen ? 2 : 1
      seen[space[$0]] = 1
      print rank, $0 "/" pod[$0]
    }' | sort | head -n 3 | cut -d ' ' -f 2
}

# from_pods NAME ADDRESS PORT: asks as `packets` does, from within the first of local_pods. If it gets no answer, the others are
# asked. Prints a line "NAME-from NAMESPACE/POD" for each, and then the last answer. Prints nothing if this machine has no such pod.
from_pods() {
  from_said=
  for from in $(local_pods); do
    command -v nsenter >/dev/null || { echo "$1 unknown: the machine has no nsenter, which this check needs"; return 0; }
    within="nsenter --net=/run/netns/${from%%/*}"
    from_said=$(packets "$@")
    within=''
    from=${from#*/}
    printf '%s\n' "$1-from ${from%/*}"
    case $from_said in *' reached') break ;; esac
  done
  [ -z "$from_said" ] || printf '%s\n' "$from_said"
}

# to_pods NAME: asks all of local_pods at once from this machine, as a kubelet does. Prints "NAME reached" if one of them answers,
# and otherwise "NAME silent" after a line "NAME-of NAMESPACE/POD" for each. Prints nothing if this machine has no such pod.
to_pods() {
  to_all=$(local_pods)
  to_asked=
  for to in $to_all; do
    case ${to##*/} in *[0-9a-f]*) to_asked="$to_asked to-pod ${to##*/} 1" ;; esac
  done
  [ -n "$to_asked" ] || return 0
  # shellcheck disable=SC2086
  case $(packets $to_asked) in
  *'no bash'*) ;;
  *reached* | *refused*) echo "$1 reached" ;;
  *)
    for to in $to_all; do to=${to#*/}; echo "$1-of ${to%/*}"; done
    echo "$1 silent" ;;
  esac
}

# tunnels_to NODE ADDRESS PORT ...: prints "tunnel:NODE ADDRESS PORT" for each of these nodes. ADDRESS becomes the address of flannel.1
# on that node, as the neighbours and forwarding entries of flannel.1 here have it. An entry of an earlier Node may be left, so a node
# can have several. A packet to it goes through VXLAN, and that machine itself answers. Prints "tunnel:NODE absent" for a node that
# flannel.1 does not know, unless a neighbour without a forwarding entry is left, which may be its own: flannel_faults reports that.
# Prints nothing without flannel.1.
tunnels_to() {
  grep -q '^ *flannel\.1:' /proc/net/dev || return 0
  {
    ip -4 neigh show dev flannel.1 nud permanent
    echo -
    bridge fdb show dev flannel.1
  } 2>/dev/null | awk -v nodes="$*" '
    $1 == "-" { fdb = 1; next }
    !fdb { for (i = 1; i < NF; i++) if ($i == "lladdr") { address[$(i + 1)] = $1; halves++ } next }
    { for (i = 1; i < NF; i++) if ($i == "dst" && $1 in address) { at[$(i + 1)] = at[$(i + 1)] " " address[$1]; halves-- } }
    END {
      n = split(nodes, word, " ")
      for (i = 1; i < n; i += 3) {
        m = split(at[word[i + 1]], all, " ")
        for (k = 1; k <= m; k++) print "tunnel:" word[i], all[k], word[i + 2]
        if (!m && !halves) print "tunnel:" word[i], "absent"
      }
    }'
}

# tunnel_again NODE OTHER: waits until the machine at the end of the tunnel to OTHER answers. If flannel.1 of this node NODE does not know
# OTHER, it waits for the way alone, and restarts flannel after ten seconds: flannel lays out all its ways when it starts. Whether a
# machine answers that did not before is for the next look: a firewall there may drop packets to it.
tunnel_again() {
  tries=0
  while case "$(questions)" in *"tunnel:$2 absent"*) ;; *) false ;; esac do
    tries=$((tries + 1))
    [ $tries -lt 40 ] || { echo "packets: tunnel:$2 is absent"; return 1; }
    [ $tries != 10 ] || restart "$1" kube-flannel flannel flanneld app=flannel
    renew_lease
    sleep 1
  done
  [ $tries = 0 ] || return 0
  # What loses only large packets does not go away by itself.
  case "$(questions)" in *"tunnel:$2 partly"*) wait_at_most 5 ;; esac
  answered "tunnel:$2" reached refused
}

# find_policed: sets `policed` to the namespaces that have a NetworkPolicy. Fails if the API server does not answer.
find_policed() {
  policies=$(kubectl get --raw '/apis/networking.k8s.io/v1/networkpolicies?limit=500' --request-timeout=2s 2>/dev/null) || return 1
  policed=$(printf '%s\n' "$policies" | fields metadata.namespace | sed -n 's/^metadata\.namespace\t//p' | sort -u | tr '\n' ' ')
}

# unless_policed SAID NODE...: prints SAID, the output of `packets`. If a pod in it is silent, a NetworkPolicy may be the
# reason. Then it asks pods of namespaces without one instead, and leaves out a node that has no such pod.
unless_policed() {
  policed=
  case "
$1" in
  *"
pod:"*' silent'*)
    if ! find_policed; then
      printf '%s\n' "$1" | grep -v '^pod:' || :
      echo 'pods unknown: cannot read NetworkPolicies'
      return 0
    fi ;;
  esac
  if [ -z "$policed" ]; then printf '%s\n' "$1"; return 0; fi
  printf '%s\n' "$1" | grep -v '^pod:' || :
  shift
  others=$(pods_of "$@") || { printf '%s\n' "pods unknown: $others"; return 0; }
  # shellcheck disable=SC2086
  [ -z "$others" ] || packets $others
}

# server_is_young: succeeds if this machine's API server started less than 30 seconds ago.
server_is_young() {
  [ -n "$(daemon kube-system_kube-apiserver kube-apiserver)" ] && ! lasting kube-system_kube-apiserver kube-apiserver 30
}

# service_answers ADDRESS PORT: succeeds if this Service answers.
service_answers() {
  case $(packets service "$1" "$2") in 'service reached') ;; *) echo "$1 port $2 does not answer" >&2; return 1 ;; esac
}

# proxy_again NODE ADDRESS PORT: restarts kube-proxy if the Service does not answer. kube-proxy writes all of its rules when
# it starts. An API server that stops takes its address out of its Service. After its next start, kube-proxy may connect
# again only after half a minute.
proxy_again() {
  ! service_answers "$2" "$3" 2>/dev/null || return 0
  tries=0
  while [ $tries -lt 30 ] && server_is_young; do
    renew_lease
    sleep 1
    ! service_answers "$2" "$3" 2>/dev/null || return 0
    tries=$((tries + 1))
  done
  restart "$1" kube-system kube-proxy kube-proxy k8s-app=kube-proxy
  retry service_answers "$2" "$3"
}

# answered NAME STATE...: waits until the question NAME has one of these states, or is not asked any more. The function
# `questions` asks it together with others.
answered() {
  name=$1 states=$2 more=${3:-}
  # After an API server was down, kube-proxy and flannel connect again within a minute (client-go, reflector.go: 30 s, with
  # jitter).
  answered_by=$(($(date +%s) + (WAIT_TIMEOUT < 75 ? WAIT_TIMEOUT : 75)))
  before=$(through_flannel)
  while :; do
    said=$(questions)
    state=$(printf '%s\n' "$said" | awk -v name="$name" '$1 == name { sub(/^[^ ]* /, ""); print }')
    case $state in "$states" | "${more:-$states}" | '') return 0 ;; esac
    [ "$(date +%s)" -lt "$answered_by" ] || break
    renew_lease
    sleep 1
  done
  printf '%s\n' "packets: $name is $state"
  case $state in silent | partly) swallowed "$before" ;; esac
  return 1
}

# wait_at_most SECONDS: lets `answered` wait no longer.
wait_at_most() {
  WAIT_TIMEOUT=$((WAIT_TIMEOUT < $1 ? WAIT_TIMEOUT : $1))
}

# swallowed BEFORE: prints a line if flannel.1 has sent packets and received none since through_flannel printed BEFORE.
swallowed() {
  # shellcheck disable=SC2046,SC2086
  set -- $1 $(through_flannel)
  [ $# != 4 ] || [ "$1" != "$3" ] || [ "$2" = "$4" ] || echo "packets: flannel.1 sent $(($4 - $2)) packets and received none"
}

# through_flannel: prints how many packets flannel.1 received and sent.
through_flannel() {
  sed -n 's/^ *flannel\.1: *//p' /proc/net/dev | {
    read -r _ received _ _ _ _ _ _ _ sent _ || return 0
    echo "$received $sent"
  }
}
