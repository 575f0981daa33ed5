# Shell that gets a kubelet the certificate that it serves with, where `serverTLSBootstrap` is set. ironstrap has judged the requests
# (src/pki/serving.rs). After KUBECTL and lib.sh. POSIX sh.

# approve_serving NODE NAME: approves the request NAME as it is on standard input, waits until it is signed, and until the
# kubelet of NODE serves with it.
approve_serving() {
  serving_request=$(cat)
  patiently approved "$2"
  echo "$2 of $1 is approved"
  patiently signed "$2"
  patiently serves "$1"
}

# approved NAME: the API server takes $serving_request if nothing else has that name by now: it compares uid and version. Where
# they differ, the requests are judged again.
approved() {
  said=$(printf '%s\n' "$serving_request" |
    kubectl replace --raw "/apis/certificates.k8s.io/v1/certificatesigningrequests/$1/approval" -f - 2>&1 >/dev/null) && return 0
  case $said in *'(Conflict)'* | *'(NotFound)'* | *'object has been modified'* | *'not found'*) return 0 ;; esac
  printf '%s\n' "$said" | head -n 3 >&2
  return 1
}

# signed NAME: the controller manager has signed it, or it is gone.
signed() {
  said=$(kubectl get certificatesigningrequest "$1" --ignore-not-found --request-timeout=10s \
    -o 'jsonpath=there {.status.conditions[?(@.type=="Failed")].message}{.status.conditions[?(@.type=="Denied")].message} {.status.certificate}') || return 1
  case $said in
  '') ;;
  'there  ') echo "the controller manager has not signed $1" >&2; return 1 ;;
  'there  '*) ;;
  *) echo "$1: ${said#there }" >&2; return 76 ;;
  esac
}

# serves NODE: the API server reaches its kubelet by TLS. A kubelet that has no certificate refuses with an alert; every other
# error says nothing of certificates.
serves() {
  said=$(kubectl get --raw "/api/v1/nodes/$1/proxy/healthz" --request-timeout=10s 2>&1 >/dev/null) && return 0
  case $said in *'tls: internal error'*) ;; *) return 0 ;; esac
  echo "the kubelet of $1 has no certificate to serve with yet" >&2
  return 1
}

# await_serving NODE SECONDS REASON NAME...: waits until the kubelet of NODE has asked for a certificate by another request than
# these, or serves. REASON says why none of these will do.
await_serving() {
  serving_node=$1 serving_end=$(($(date +%s) + $2)) serving_why=$3
  shift 3
  serving_known=" $* "
  until asked_otherwise || kubectl get --raw "/api/v1/nodes/$serving_node/proxy/healthz" --request-timeout=10s >/dev/null 2>&1; do
    if [ "$(date +%s)" -ge "$serving_end" ]; then
      printf 'reason: %s\n' "$serving_node: $serving_why"
      echo 'by hand: serving-request'
      return 1
    fi
    renew
    sleep 1
  done
}

# asked_otherwise: $serving_node has another request than $serving_known.
asked_otherwise() {
  asked=$(kubectl get certificatesigningrequests --request-timeout=10s --field-selector spec.signerName=kubernetes.io/kubelet-serving \
    -o "jsonpath={range .items[?(@.spec.username==\"system:node:$serving_node\")]}{.metadata.name} {end}") || return 1
  for name in $asked; do
    case $serving_known in *" $name "*) ;; *) return 0 ;; esac
  done
  return 1
}

# forget_requests NODE: deletes the requests of the kubelet of a node that is gone. Kubernetes keeps one that is pending for a day.
forget_requests() {
  asked=$(kubectl get certificatesigningrequests --request-timeout=10s --field-selector spec.signerName=kubernetes.io/kubelet-serving \
    -o "jsonpath={range .items[?(@.spec.username==\"system:node:$1\")]}{.metadata.name}{\"\n\"}{end}") || return 1
  # A worker can make any number of them.
  printf '%s\n' "$asked" | sed '/^$/d' | head -n 100 | while read -r name; do
    kubectl delete certificatesigningrequest --ignore-not-found --request-timeout=10s -- "$name" >/dev/null
  done
}
