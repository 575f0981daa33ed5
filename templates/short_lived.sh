# Shell functions that test nodes without a pod. They make a pod there, ask it with real packets, and delete it. Sent in
# fixes, after packets.sh and `kubectl`. POSIX sh.

MADE=app.kubernetes.io/managed-by=ironstrap,app.kubernetes.io/component=packets

# made_pod NODE IMAGE: prints the manifest of such a pod. The pod needs no scheduler, asks for no resources, and ends by
# itself. The kubelet has the image, because it uses it for every pod, so nothing is pulled.
made_pod() {
  cat <<POD
{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ironstrap-packets-$1", "namespace": "kube-system", "labels": {"app.kubernetes.io/managed-by": "ironstrap", "app.kubernetes.io/component": "packets"}}, "spec": {"nodeName": "$1", "tolerations": [{"operator": "Exists"}], "restartPolicy": "Never", "activeDeadlineSeconds": 300, "terminationGracePeriodSeconds": 1, "automountServiceAccountToken": false, "enableServiceLinks": false, "containers": [{"name": "pause", "image": "$2", "imagePullPolicy": "Never", "securityContext": {"runAsUser": 65535, "runAsNonRoot": true, "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]}}
POD
}

# delete_made ARGS...: deletes these pods, also those of a run that was killed.
delete_made() {
  kubectl -n kube-system delete pods -l "$MADE" "$@" >/dev/null 2>&1 || :
}

# made_pods: prints "NODE PHASE ADDRESS/REASON" for each of these pods. For a pending pod it adds what its container waits
# for, or that the kubelet has not noticed the pod. A kubelet writes the status of its pods. A line break in it must not look
# like another pod, so it comes as JSON.
made_pods() {
  made_status=$(kubectl -n kube-system get pods -l "$MADE" --request-timeout=5s \
    -o jsonpath='{range .items[*]}{.spec.nodeName}{"\t"}{.status}{"\n"}{end}') || return 1
  printf '%s\n' "$made_status" | awk -F '\t' '
    function value(key) {
      return match(status, "\"" key "\":\"[A-Za-z0-9.:]*\"") ? substr(status, RSTART + length(key) + 4, RLENGTH - length(key) - 5) : ""
    }
    NF == 2 {
      status = $2; phase = value("phase"); address = value("podIP"); waits = ""
      if (phase == "Pending" && match(status, /"waiting":{("message":"([^"\\]|\\.)*",)?"reason":"[A-Za-z]*"/)) {
        waits = substr(status, RSTART, RLENGTH - 1)
        sub(/^.*"/, " ", waits)
      } else if (phase == "Pending" && status !~ /"startTime":"/) waits = " unnoticed"
      # The reasons of containers stand before the phase.
      sub(/^.*"phase":/, "", status)
      print $1, phase, address "/" value("reason") waits
    }'
}

# made_why NODE: prints the last event of the pod of this node. It is only evidence, because every kubelet may write an
# event.
made_why() {
  kubectl -n kube-system get events --request-timeout=5s --field-selector "involvedObject.name=ironstrap-packets-$1,type=Warning" \
    -o jsonpath='{range .items[*]}{.reason}: {.message}{"\n"}{end}' 2>&1 | grep . | tail -n 1 | cut -c 1-300
}

# wait_for_made NODE...: waits until each of the pods runs or has ended, and sets `made` to the output of made_pods. A
# kubelet that could not reach the API server lists new pods again within a minute (client-go's reflector: 30 s with a jitter
# of 1.0). A kubelet that has noticed its pod gets a minute to start it.
wait_for_made() {
  made_since=$(date +%s)
  made_noticed=$made_since
  while :; do
    # A pod has its address before its container starts. The state of a waiting pod is final only if its image is missing.
    if made=$(made_pods 2>/dev/null); then
      made_waits=$(printf '%s\n' "$made" | grep -E ' Pending | Running /' | grep -v ' ErrImageNeverPull$') || made_waits=
    else made='' made_waits=$*; fi
    [ -n "$made_waits" ] || return 0
    made_now=$(date +%s)
    case $made_waits in
    *unnoticed*) made_noticed=$made_now made_by=$((made_since + 90)) ;;
    *) made_by=$((made_noticed + 60)) ;;
    esac
    [ $made_now -lt $made_by ] && [ $((made_now - made_since)) -lt "$WAIT_TIMEOUT" ] || return 0
    renew_lease
    sleep 0.3
  done
}

# insist NAME ADDRESS PORT...: asks until all answer, for up to 15 seconds, and sets `said` to the last output of `packets`.
insist() {
  insist_by=$(($(date +%s) + (WAIT_TIMEOUT < 15 ? WAIT_TIMEOUT : 15)))
  while :; do
    said=$(packets "$@")
    case $said in *' silent'*) ;; *) return 0 ;; esac
    [ "$(date +%s)" -lt "$insist_by" ] || return 0
    renew_lease
    sleep 0.3
  done
}

# ask_nodes SELF IMAGE NODE...: asks a pod on each of these nodes. It makes a pod on a node that has none. It asks from SELF,
# which is this machine, and from within a made pod here. Packets of the machine itself do not pass its forward chain. Prints
# "packets: pod:NODE is reached", or what came instead. If each node has a pod of its own, it prints nothing, because those
# were asked already. Fails if a pod is silent.
ask_nodes() {
  self=$1 image=$2
  shift 2
  delete_made --timeout=20s
  there=$(pods_of "$@") || { printf '%s\n' "packets: cannot list pods: $there"; return 1; }
  lacking=
  for node; do case "
$there" in *"
pod:$node "*) ;; *) lacking="$lacking $node" ;; esac; done
  [ -n "$lacking" ] || return 0
  trap 'delete_made --wait=false' EXIT
  trap 'exit 1' HUP INT TERM PIPE
  refused=$(for node in $lacking; do made_pod "$node" "$image"; done | kubectl create -f - 2>&1 >/dev/null) || :
  # shellcheck disable=SC2086
  wait_for_made $lacking
  wrong='' pods=''
  for node in $lacking; do
    line=$(printf '%s\n' "$made" | awk -v node="$node" '$1 == node')
    case $line in
    '') printf '%s\n' "packets: pod:$node is not checked: $(printf '%s\n' "$refused" | grep -F "ironstrap-packets-$node\"" | head -n 1)" ;;
    *' Pending '* | *' Running /'*)
      why=$(made_why "$node")
      case $line in
      *' ErrImageNeverPull') printf '%s\n' "packets: pod:$node is not checked: ${why:-its kubelet does not have the image}" ;;
      *' unnoticed') printf '%s\n' "packets: no new pod starts on $node: ${why:-its kubelet does not notice new pods}"; wrong=yes ;;
      *) printf '%s\n' "packets: no new pod starts on $node: ${why:-no event says why}"; wrong=yes ;;
      esac ;;
    *' Running '*) line=${line##* }; pods="$pods pod:$node ${line%%/*} 1" ;;
    *) printf '%s\n' "packets: pod:$node is not checked: the kubelet refused a pod: ${line#*/}" ;;
    esac
  done
  ask_made "$self" "$there" "$pods" || wrong=yes
  [ -z "$wrong" ]
}

# ask_made SELF THERE MADE: asks the targets in THERE and MADE from this machine, and from within its own made pod. THERE and
# MADE are arguments of `packets`.
ask_made() {
  self=$1
  pid=$(daemon kube-system_ironstrap-packets pause | head -n 1)
  # shellcheck disable=SC2046,SC2086
  set -- $(echo $2 $3 | xargs -n 3 | awk -v own="pod:$1" '$1 != own')
  [ $# -gt 0 ] || return 0
  before=$(through_flannel)
  insist "$@"
  from_here=$said from_within=
  case $said in 'the machine has no bash'*) printf '%s\n' "packets: not checked: $said"; return 0 ;; esac
  if [ -n "$pid" ] && command -v nsenter >/dev/null; then
    within="nsenter -t $pid -n"
    insist "$@"
    from_within=$said within=
  fi
  silent='' policed=''
  case $from_here$from_within in
  *' silent'*) find_policed || { echo 'packets: not checked: cannot read NetworkPolicies'; return 0; } ;;
  esac
  case " $policed" in *' kube-system '*)
    echo 'packets: not checked: kube-system has a NetworkPolicy, which may forbid the answer'
    return 0
    ;;
  esac
  for node in $(printf '%s\n' "$from_here" | sed -n 's/^pod:\([^ ]*\) .*/\1/p'); do
    case "$(said_of "$from_here" "$node")/$(said_of "$from_within" "$node")" in
    silent/*) echo "packets: pod:$node is silent"; silent=yes ;;
    */silent) echo "packets: pod:$node is silent, asked from a pod of $self"; silent=yes ;;
    *) echo "packets: pod:$node is reached" ;;
    esac
  done
  case $from_within in *' reached'* | *' refused'*) echo "packets: pod:$self is reached" ;; esac
  [ -n "$silent" ] || return 0
  swallowed "$before"
  return 1
}

# said_of SAID NODE: prints what `packets` said of this node's pod.
said_of() {
  printf '%s\n' "$1" | awk -v name="pod:$2" '$1 == name { print $2; exit }'
}
