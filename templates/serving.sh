# Shell that gets a kubelet the certificate that it serves with, where `serverTLSBootstrap` is set. ironstrap has judged the requests
# (src/pki/serving.rs). After KUBECTL and lib.sh. POSIX sh.

# newest_requests: reads a request on each line, as `serving_requests` asks for them, the newest first. Of each user it prints the
# newest 20 that have 20000 bytes together, with `signed` in place of a certificate. A worker can make any number of requests,
# and they must not crowd out those of others. A user is known by the JSON of the request, in which no text has a bare quote.
newest_requests() {
  LC_ALL=C awk -F '\t' -v OFS='\t' '
    NF == 7 && match($7, /"username":"([^"\\]|\\.)*"/) {
      user = substr($7, RSTART, RLENGTH)
      if ($6 != "") $6 = "signed"
      if (length($0) < 20000 && count[user]++ < 20 && (bytes[user] += length($0)) <= 20000) print
    }'
}

# serving_requests: NAME, UID, VERSION, CREATED, CONDITIONS, CERTIFICATE and SPEC of the requests, with tabs between them.
serving_requests() {
  asked=$(kubectl get certificatesigningrequests --request-timeout=10s --field-selector spec.signerName=kubernetes.io/kubelet-serving \
    --sort-by=.metadata.creationTimestamp -o 'jsonpath={range .items[*]}{.metadata.name}{"\t"}{.metadata.uid}{"\t"}{.metadata.resourceVersion}{"\t"}{.metadata.creationTimestamp}{"\t"}{.status.conditions[*].type}{"\t"}{.status.certificate}{"\t"}{.spec}{"\n"}{end}') || return 1
  printf '%s\n' "$asked" | tac | newest_requests
}

# approve_serving NODE ADDRESS NAME: approves the request NAME as it is on standard input, waits until it is signed, and until the
# kubelet of NODE serves with it. ADDRESS is where it serves.
approve_serving() {
  serving_request=$(cat)
  patiently approved "$3"
  echo "$3 of $1 is approved"
  patiently signed "$3"
  patiently serves "$1" "$2"
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
  *) printf '%s\n' "$1: ${said#there }" | head -c 1000 >&2; return 76 ;;
  esac
}

# kubelet_tls NODE ADDRESS: prints `serves` where the kubelet there answers with a certificate, and `bare` where it refuses with an alert
# because it has none. Every other answer says nothing of certificates. openssl sends no credentials, and follows nothing. A
# worker's kubelet can answer any number of bytes. The API server, which is asked without openssl, passes them on.
kubelet_tls() {
  if command -v openssl >/dev/null; then
    serving_said=$(timeout 5 openssl s_client -connect "$2" </dev/null 2>&1 | head -c 65536 |
      LC_ALL=C grep -a -o -e '-----BEGIN CERTIFICATE-----' -e 'alert internal error' | sort -u) || :
  else
    serving_said=$(kubectl get --raw "/api/v1/nodes/$1/proxy/healthz" --request-timeout=5s 2>&1 | head -c 4096 | LC_ALL=C tr -d '\000') || :
  fi
  case $serving_said in
  *'BEGIN CERTIFICATE'* | ok) echo serves ;;
  *'alert internal error'* | *'tls: internal error'*) echo bare ;;
  esac
}

# serves NODE ADDRESS: nothing says that its kubelet has no certificate.
serves() {
  [ "$(kubelet_tls "$1" "$2")" = bare ] || return 0
  echo "the kubelet of $1 has no certificate to serve with yet" >&2
  return 1
}

# await_serving NODE ADDRESS SECONDS REASON NAME...: waits until the kubelet of NODE has asked for a certificate by another request than
# these, or serves. REASON says why none of these will do.
await_serving() {
  serving_node=$1 serving_at=$2 serving_end=$(($(date +%s) + $3)) serving_why=$4
  shift 4
  serving_known=" $* "
  until asked_otherwise || [ "$(kubelet_tls "$serving_node" "$serving_at")" = serves ]; do
    if [ "$(date +%s)" -ge "$serving_end" ]; then
      printf 'reason: %s\n' "$serving_node: $serving_why"
      echo 'by hand: serving-request'
      return 1
    fi
    renew
    sleep 1
  done
}

# asked_otherwise: the newest request of $serving_node is none of $serving_known. Those are its newest ones, so an older one says
# nothing.
asked_otherwise() {
  asked=$(kubectl get certificatesigningrequests --request-timeout=10s --field-selector spec.signerName=kubernetes.io/kubelet-serving \
    --sort-by=.metadata.creationTimestamp -o "jsonpath={range .items[?(@.spec.username==\"system:node:$serving_node\")]}{.metadata.name}{\"\n\"}{end}") || return 1
  asked=$(printf '%s\n' "$asked" | tail -n 1)
  case "$serving_known" in *" $asked "*) return 1 ;; esac
  [ -n "$asked" ]
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
