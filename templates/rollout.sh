# Shell functions that wait for what runs in the cluster, and end the wait if waiting cannot help. Sent after KUBECTL and
# lib.sh. POSIX sh.

# owner(json): returns the controller of an object as KIND/NAME, from its ownerReferences in JSON. In place of a ReplicaSet
# it returns the Deployment after which the ReplicaSet is named. A tenant writes the owners of a pod, and their kinds and
# names can have any text. As JSON they have no line break, and no quote without a backslash. So no text looks like these
# keys. kubectl sorts the keys.
OWNER='
  function owner(json) {
    if (!match(json, /[{]"apiVersion":"(apps|batch)\/v1",("blockOwnerDeletion":(true|false),)?"controller":true,"kind":"[A-Za-z]+","name":"[a-z0-9.-]+",/)) return ""
    json = substr(json, RSTART, RLENGTH - 2)
    sub(/^.*,"kind":"/, "", json)
    sub(/","name":"/, "/", json)
    if (json ~ /^ReplicaSet\//) { sub(/-[^-]*$/, "", json); sub(/^ReplicaSet/, "Deployment", json) }
    return json
  }
'

# covers NAMESPACE DAEMONSET UNMANAGED LEAST NODES: succeeds if the last change of the DaemonSet is up on all Nodes that it is
# meant for. UNMANAGED is the number of unmanaged nodes, which may lack it. The DaemonSet must be meant for LEAST Nodes or
# more. NODES is the number of nodes in the inventory: with the unmanaged nodes there are no more, although the status may
# still count a Node that was deleted. `kubectl rollout status` also waits for Nodes of other tools and for deleted Nodes. It
# does not wait for a controller that has not seen yet that a Node came back.
covers() {
  covers_said=$(kubectl -n "$1" get daemonset "$2" --request-timeout=5s -o 'jsonpath={.status.desiredNumberScheduled}/{.status.updatedNumberScheduled}/{.status.numberAvailable}/{.metadata.generation}/{.status.observedGeneration}') || return 1
  # In this output, a field that is 0 is empty.
  covers_lacks=$(printf '%s\n' "$covers_said" | awk -F / -v unmanaged="$3" -v least="$4" -v nodes="$5" '
    $5 + 0 < $4 + 0 { print "its controller has not seen the last change yet"; exit }
    $1 + 0 < least { print "selects only " $1 + 0 " of " least " nodes"; exit }
    {
      up = $2 + 0 < $3 + 0 ? $2 + 0 : $3 + 0
      wanted = $1 - unmanaged < nodes + 0 ? $1 - unmanaged : nodes
      if (up < wanted) print up " of " wanted " available"
    }') || return 1
  [ -z "$covers_lacks" ] || { echo "$2: $covers_lacks" >&2; return 1; }
}

# count_again NAMESPACE KIND/NAME: makes the controller count the Nodes of a DaemonSet, at most every ten seconds. The
# controller does not count a Node that was deleted and came back while its pods were still there, until the DaemonSet or one
# of its pods changes (kubernetes, pkg/controller/daemon/daemon_controller.go, `syncNodeUpdate`). This change leaves nothing.
count_again() {
  count_now=$(date +%s)
  [ "${count_of-}" != "$1/$2" ] || [ "$count_now" -ge $((count_last + 10)) ] || return 0
  count_of=$1/$2 count_last=$count_now
  kubectl -n "$1" annotate "$2" --overwrite --field-manager=ironstrap "ironstrap.dev/counted=$count_now" >/dev/null &&
    kubectl -n "$1" annotate "$2" --field-manager=ironstrap ironstrap.dev/counted- >/dev/null
}

# up NAMESPACE KIND/NAME COMMAND...: runs the command. It fails with 76, which ends `retry`, if a pod of the object cannot
# start, no matter how long the wait is.
up() {
  up_namespace=$1 up_object=$2
  shift 2
  ! up_said=$("$@" 2>&1 >/dev/null) || return 0
  case $up_said in *': selects only '*) count_again "$up_namespace" "$up_object" || : ;; esac
  ! stuck "$up_namespace" "$up_object" || return 76
  [ -z "$up_said" ] || printf '%s\n' "$up_said" >&2
  return 1
}

# stuck NAMESPACE KIND/NAME: prints which pod of the object cannot start, and why. Fails if there is none. A kubelet tries to
# pull an image more and more rarely (kubernetes.io, "Images"). So a pod without its image is deleted and made again once,
# because the image may be there by now. A pod without a node, or one that the API server refuses, gets time, because nodes
# and quotas come back. For a refused pod only the newest ReplicaSet counts, because only its controller writes its status.
# Every kubelet and many tenants may write an event. A DaemonSet, a StatefulSet and a Job have no such status, so the wait
# for those goes on. A DaemonSet makes a pod for each Node of the cluster. A pod for a Node that is not one of
# $rollout_nodes, or that is gone, says nothing about those.
stuck() {
  stuck_since=${retry_since:-$(date +%s)}
  stuck_pods=$(kubectl -n "$1" get pods -o 'jsonpath={range .items[*]}pod{"\t"}{.metadata.ownerReferences}{"\t"}{.metadata.name}{"\t"}{.metadata.uid}{"\t"}{.status.initContainerStatuses[*].state.waiting}{.status.containerStatuses[*].state.waiting}{"\t"}{.status.conditions[?(@.type=="PodScheduled")]}{"\t"}{.metadata.creationTimestamp}{"\t"}{.spec.nodeName}{"\t"}{.spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[*].matchFields}{"\n"}{end}') || return 1
  stuck_sets=
  case $2 in Deployment/*)
    stuck_sets=$(kubectl -n "$1" get replicasets -o 'jsonpath={range .items[*]}set{"\t"}{.metadata.ownerReferences}{"\t"}{.metadata.creationTimestamp}{"\t"}{.status.conditions[?(@.type=="ReplicaFailure")]}{"\n"}{end}') || return 1 ;;
  esac
  stuck_said=$(printf '%s\n' "$stuck_sets" "$stuck_pods" | awk -F '\t' -v namespace="$1" -v object="$2" -v nodes="${rollout_nodes-}" \
    -v waited=$(($(date +%s) - stuck_since)) -v since="$(date -u -d "@$stuck_since" +%Y-%m-%dT%H:%M:%SZ)" "$OWNER"'
    function field(json, name) {
      if (!match(json, "\"" name "\":\"([^\"\\\\]|\\\\.)*\"")) return ""
      json = substr(json, RSTART + length(name) + 4, RLENGTH - length(name) - 5)
      gsub(/\\"/, "\"", json)
      return json
    }
    function message(json) { return field(json, "message") == "" ? json : field(json, "message") }
    # Whether a DaemonSet made its pod for a node that is not one of nodes (kubernetes, pkg/controller/daemon/util,
    # `ReplaceDaemonSetPodNodeNameNodeAffinity`).
    function is_of_others(json) {
      if (object !~ /^DaemonSet\// || !match(json, /"key":"metadata.name","operator":"In","values":\["[^"]*"\]/)) return 0
      json = substr(json, RSTART, RLENGTH - 2)
      sub(/^.*"/, "", json)
      return !index(" " nodes " ", " " json " ")
    }
    # A kubelet may write the status of the pods on its own node. So a pod that has a node counts as scheduled.
    function reason() {
      if (is_of_others($9)) return ""
      if ($8 == "" && $6 ~ /"reason":"Unschedulable"/ && waited >= 40) return "- pod " namespace "/" $3 " has no node: " message($6)
      if ($5 ~ /"reason":"(ErrImageNeverPull|InvalidImageName)"/ ||
        $5 ~ /"reason":"(ErrImagePull|ImagePullBackOff)"/ && $5 ~ /: not found|pull access denied|401 Unauthorized|403 Forbidden/)
        return $4 " pod " namespace "/" $3 " has no image: " message($5)
    }
    function refused(json) {
      if (json !~ /"status":"True"/ || message(json) !~ /forbidden/) return ""
      if (field(json, "lastTransitionTime") < since && waited < 40) return ""
      return "- no pod of " object " in " namespace " is allowed: " message(json)
    }
    $1 == "set" && NF == 4 && owner($2) == object && $3 > set_made { set_made = $3; no = refused($4) }
    $1 != "pod" || NF != 9 || owner($2) != object { next }
    # Pods of earlier versions of a Deployment stay until the newest can start, and may be stuck for another reason.
    $7 > made { made = $7; by = $2 }
    reason() { why[$2] = reason() }
    END { if (no) print no; else if (why[by]) print why[by] }')
  [ -n "$stuck_said" ] || return 1
  stuck_uid=${stuck_said%% *} stuck_said=${stuck_said#* }
  case $2,$stuck_uid in
  *,- | Job/*) ;;
  *,"${stuck_again:-$stuck_uid}")
    stuck_again=$stuck_uid stuck_pod=${stuck_said#pod */}
    kubectl -n "$1" delete pod "${stuck_pod%% *}" --ignore-not-found --wait=false >/dev/null || :
    return 1
    ;;
  esac
  printf '%s\n' "$stuck_said" >&2
}

# not_up NAMESPACE DAEMONSET NODE...: prints on which of these Nodes the DaemonSet has no ready pod, if it has one on another
# Node of the cluster. If none is ready, no Node is at fault. A pod that is being deleted does not count. Its kubelet can
# report it as ready and never end it, and then no other Node gets its new pod. Those other Nodes are not at fault, although
# their pods are of an earlier revision. So the revision does not count.
not_up() {
  not_up_namespace=$1 not_up_object=DaemonSet/$2
  shift 2
  not_up_pods=$(kubectl -n "$not_up_namespace" get pods -o 'jsonpath={range .items[*]}{.metadata.ownerReferences}{"\t"}{.spec.nodeName}{"\t"}{.metadata.deletionTimestamp}{"\t"}{.status.conditions[?(@.type=="Ready")]}{"\n"}{end}') || return 0
  printf '%s\n' "$not_up_pods" | awk -F '\t' -v object="$not_up_object" -v nodes="$*" "$OWNER"'
    # A kubelet writes the condition. As JSON, it has no line break.
    NF == 4 && owner($1) == object && $3 == "" && $4 ~ /"status":"True"/ { up[$2] = 1; any = 1 }
    END { n = split(nodes, all, " "); for (i = 1; any && i <= n; i++) if (!(all[i] in up)) print "rollout: " object " is not up on " all[i] }'
}

# dying NAMESPACE KIND/NAME: deletes the pods of the object that keep dying, so that new ones start at once.
dying() {
  # A kubelet writes the status of its pods, and a line break in it must not look like another pod. JSON has no line break.
  kubectl -n "$1" get pods -o 'jsonpath={range .items[*]}{.metadata.name}{"\t"}{.metadata.ownerReferences}{"\t"}{.status.containerStatuses[*].state.waiting}{"\n"}{end}' |
    awk -F '\t' -v object="$2" "$OWNER"'
      NF == 3 && owner($2) == object && $3 ~ /"reason":"CrashLoopBackOff"/ && $1 ~ /^[a-z0-9][a-z0-9.-]*$/ { print $1 }' |
    while read -r pod; do
      kubectl -n "$1" delete pod "$pod" --ignore-not-found --timeout=20s >/dev/null || :
    done
}
