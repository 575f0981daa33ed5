# Waits for what runs in the cluster, and ends the wait where waiting cannot help. After KUBECTL and lib.sh. POSIX sh.

# covers NAMESPACE DAEMONSET STRANGERS: it is up on all Nodes but this many. `kubectl rollout status` waits for all Nodes,
# also for those of other tools.
covers() {
  counts=$(kubectl -n "$1" get daemonset "$2" -o 'jsonpath={.status.desiredNumberScheduled} {.status.updatedNumberScheduled} {.status.numberAvailable}') || return 1
  # shellcheck disable=SC2086
  set -- "$2" "$3" $counts
  [ "${4:-0}" -ge $((${3:-0} - $2)) ] && [ "${5:-0}" -ge $((${3:-0} - $2)) ] || { echo "$1: ${5:-0} of ${3:-0} available" >&2; return 1; }
}

# up NAMESPACE KIND/NAME COMMAND...: the command succeeds. It fails with 76, which ends `patiently`, where a pod of that
# object cannot start however long it is waited for.
up() {
  up_namespace=$1 up_object=$2
  shift 2
  ! up_said=$("$@" 2>&1 >/dev/null) || return 0
  ! stuck "$up_namespace" "$up_object" || return 76
  [ -z "$up_said" ] || printf '%s\n' "$up_said" >&2
  return 1
}

# stuck NAMESPACE KIND/NAME: says which pod of it cannot start, and why; fails where there is none. A kubelet tries to pull
# an image ever more rarely (kubernetes.io, "Images"), so a pod without its image is made again once: the image may be there
# by now. A pod without a node, or that the API server refuses, gets time, for nodes and quotas come back.
stuck() {
  stuck_since=${patient_since:-$(date +%s)}
  stuck_pods=$(kubectl -n "$1" get pods -o 'jsonpath={range .items[*]}pod{"\t"}{.metadata.ownerReferences[0].kind}/{.metadata.ownerReferences[0].name}{"\t"}{.metadata.name}{"\t"}{.metadata.uid}{"\t"}{.status.initContainerStatuses[*].state.waiting}{.status.containerStatuses[*].state.waiting}{"\t"}{.status.conditions[?(@.type=="PodScheduled")]}{"\t"}{.metadata.creationTimestamp}{"\n"}{end}') || return 1
  stuck_events=$(kubectl -n "$1" get events --field-selector reason=FailedCreate -o 'jsonpath={range .items[*]}event{"\t"}{.involvedObject.kind}/{.involvedObject.name}{"\t"}{.lastTimestamp}{"\t"}{.message}{"\n"}{end}') || return 1
  # The message of an event is anybody's who may write one, and could have lines of its own that look like a pod.
  stuck_events=$(printf '%s\n' "$stuck_events" | grep '^event' || :)
  stuck_said=$(printf '%s\n' "$stuck_events" "$stuck_pods" | awk -F '\t' -v namespace="$1" -v object="$2" \
    -v waited=$(($(date +%s) - stuck_since)) -v since="$(date -u -d "@$stuck_since" +%Y-%m-%dT%H:%M:%SZ)" '
    # A ReplicaSet is called after its Deployment.
    function owned(by) {
      if (by ~ /^ReplicaSet\//) { sub(/-[^-]*$/, "", by); sub(/^ReplicaSet/, "Deployment", by) }
      return by == object
    }
    function message(json) {
      if (!match(json, /"message":"([^"\\]|\\.)*"/)) return json
      json = substr(json, RSTART + 11, RLENGTH - 12)
      gsub(/\\"/, "\"", json)
      return json
    }
    function reason() {
      if ($6 ~ /"reason":"Unschedulable"/ && waited >= 40) return "- pod " namespace "/" $3 " has no node: " message($6)
      if ($5 ~ /"reason":"(ErrImageNeverPull|InvalidImageName)"/ ||
        $5 ~ /"reason":"(ErrImagePull|ImagePullBackOff)"/ && $5 ~ /: not found|pull access denied|401 Unauthorized|403 Forbidden/)
        return $4 " pod " namespace "/" $3 " has no image: " message($5)
    }
    !owned($2) { next }
    $1 == "event" && $4 ~ /forbidden/ && ($3 >= since || waited >= 40) { print "- no pod of " object " in " namespace " is let in: " $4 }
    # Pods of earlier versions of a Deployment stay until the newest can start, and may be stuck for another reason.
    $1 == "pod" && $7 > made { made = $7; by = $2 }
    $1 == "pod" && reason() { why[$2] = reason() }
    END { if (why[by]) print why[by] }' | head -n 1)
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

# dying NAMESPACE KIND/NAME: has its pods that keep dying made again, so that they try at once.
dying() {
  # A kubelet writes the status of its pods, and a line break in its words must not look like another pod: JSON has none.
  kubectl -n "$1" get pods -o 'jsonpath={range .items[*]}{.metadata.name}{"\t"}{.metadata.ownerReferences[0].kind}/{.metadata.ownerReferences[0].name}{"\t"}{.status.containerStatuses[*].state.waiting}{"\n"}{end}' |
    awk -F '\t' -v object="$2" '
      # A ReplicaSet is called after its Deployment, with one more word.
      $2 ~ /^ReplicaSet\// { sub(/-[^-]*$/, "", $2); sub(/^ReplicaSet/, "Deployment", $2) }
      NF == 3 && $2 == object && $3 ~ /"reason":"CrashLoopBackOff"/ && $1 ~ /^[a-z0-9][a-z0-9.-]*$/ { print $1 }' |
    while read -r pod; do
      kubectl -n "$1" delete pod "$pod" --ignore-not-found --timeout=20s >/dev/null || :
    done
}
