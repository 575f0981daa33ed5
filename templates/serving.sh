# Shell functions that get a kubelet its serving certificate, if `serverTLSBootstrap` is set. ironstrap has judged the
# requests (src/pki/serving.rs). Sent after KUBECTL and lib.sh. POSIX sh.
#
# A worker can make any number of requests, of up to 2 MB each. Their names, annotations and users can have any text, with
# line breaks and tabs. So the requests come as JSON, which has no raw line break. Never more than a page of them is in
# memory.

REQUESTS=/apis/certificates.k8s.io/v1/certificatesigningrequests

# request_page: reads a page of requests as the API server writes it. It prints a line for each request: CREATED, BYTES,
# NAME, USER and JSON, with tabs between them. A text that no kubelet's request has is printed as "-". USER is as in JSON.
# The JSON lacks what ironstrap does not need. A kubelet's request has less than 4 KiB, so "-" stands for the JSON of one of
# more than 16000 bytes. The last line is "end whole" or "end part", the token of the next page or "-", the number of bytes
# read, and what kubectl said in place of JSON.
request_page() {
  LC_ALL=C awk '
    function add(part) {
      if (!one || skip || size > 16000) return
      size += length(part)
      json = size > 16000 ? "" : json part
    }
    function opens(c) {
      if (depth == 0) texts++
      kind[++depth] = c; key[depth] = ""; naming = c == "{"
      if (depth == 3 && key[1] == "items" && kind[2] == "[") {
        one = 1; skip = 0; size = 0; json = ""; name = user = created = "-"; since = bytes
      }
      add(c)
    }
    function closes(c) {
      if (skip == depth) skip = 0
      add(c)
      naming = 0
      if (--depth == 0) whole = listed
      if (!one || depth != 2) return
      print created "\t" bytes - since "\t" name "\t" user "\t" (size > 16000 ? "-" : json)
      one = 0
    }
    # The text between two strings.
    function between(text, n, i, c) {
      n = length(text)
      for (i = 1; i <= n; i++) {
        c = substr(text, i, 1)
        if (c == "{" || c == "[") opens(c)
        else if (depth == 0) { if (length(said) < 300 && c != "\n") said = said c }
        else if (c == "}" || c == "]") closes(c)
        else if (c == ",") { if (skip == depth) skip = 0; add(c); naming = kind[depth] == "{" }
        else if (c == ":") { naming = 0; add(c); if (one && depth == 4 && (key[3] " " key[4]) in spare) { add("1"); skip = 4 } }
        else if (c != "\n") add(c)
      }
    }
    function string(text) {
      add("\"" text "\"")
      if (naming) key[depth] = text
      else if (depth == 1 && key[1] == "kind") listed = text == "CertificateSigningRequestList"
      else if (depth == 2 && key[1] == "metadata" && key[2] == "continue") token = text ~ /^[A-Za-z0-9_-]+$/ ? text : "?"
      else if (depth != 4) return
      else if (key[3] == "spec" && key[4] == "username" && length(text) < 300) user = text
      else if (key[3] == "metadata" && key[4] == "name" && length(text) < 254 && text ~ /^[a-z0-9][a-z0-9.-]*$/) name = text
      else if (key[3] == "metadata" && key[4] == "creationTimestamp" && text ~ /^[0-9TZ:.-]+$/) created = text
    }
    BEGIN {
      RS = "\""; token = "-"
      spare["metadata managedFields"]; spare["metadata annotations"]; spare["metadata labels"]; spare["metadata ownerReferences"]
      spare["metadata finalizers"]; spare["status certificate"]
    }
    {
      bytes += length($0) + 1
      if (!inside) { between($0); inside = depth > 0; next }
      # A quote behind an odd number of backslashes does not end the string.
      for (n = length($0); n > 0 && substr($0, n, 1) == "\\"; n--) ;
      if (length(text) < 20000) text = text $0
      if ((length($0) - n) % 2) { if (length(text) < 20000) text = text "\""; next }
      string(text)
      text = ""; inside = 0
    }
    END { print "end " (whole && texts == 1 && token != "?" ? "whole" : "part") " " token " " bytes + 0 " " said }'
}

# request_pages: prints the lines of all pages, and at the end "end whole", or "end part" and why not all could be read. If
# the API server returns no page, the last line is "end no" and its words. A page of more than 4 MiB is read again in small
# ones.
request_pages() {
  pages_end=$(($(date +%s) + 8)) page_limit=500 page_token=-
  while :; do
    case $page_token in -) page_more= ;; *) page_more="&continue=$page_token" ;; esac
    page=$(kubectl get --request-timeout=5s --raw "$REQUESTS?limit=$page_limit&fieldSelector=spec.signerName%3Dkubernetes.io%2Fkubelet-serving$page_more" 2>&1 |
      head -c 4194304 | request_page)
    read -r _ page_state page_next page_bytes page_said <<END
$(printf '%s\n' "$page" | tail -n 1)
END
    if [ "$page_state" = whole ]; then
      printf '%s\n' "$page" | sed '$d'
      page_token=$page_next
      [ "$page_token" != - ] || { echo 'end whole'; return 0; }
    elif [ "${page_bytes:-0}" -ge 4194304 ] && [ "$page_limit" -gt 1 ]; then page_limit=$((page_limit > 12 ? 12 : page_limit > 3 ? 3 : 1))
    else
      case $page_said in
      *[Tt]imeout* | *'deadline exceeded'* | *Expired* | *TooManyRequests* | *'too many requests'* | '') echo "end part the API server does not return all of them: ${page_said:-its answer is incomplete}" ;;
      *) echo "end no $page_said" ;;
      esac
      return 0
    fi
    [ "$(date +%s)" -lt "$pages_end" ] || { echo 'end part they take more than 8 seconds to read'; return 0; }
  done
}

# newest_requests: reads the lines of all pages. It prints the JSON of requests, the newest first, and at last the line "end
# whole", or "end part" and why not all could be read. For each user it prints the newest 20, up to 20000 bytes together, so
# that a user with many requests does not crowd out others.
newest_requests() {
  LC_ALL=C sort -S 16M -r | LC_ALL=C awk -F '\t' '
    /^end / { end = $0; next }
    NF == 5 {
      all++; sum += $2; of[$4] += $2
      if (of[$4] > of[most]) most = $4
      if ($5 != "-" && $4 != "-" && count[$4]++ < 20 && (shown[$4] += length($5)) <= 20000) print $5
    }
    END {
      if (end ~ /^end part/ && all) end = end ": " all " requests and " int(sum / 1048576) " MB so far, most of them of \"" most "\""
      print end
    }'
}

# serving_requests: prints what newest_requests prints. Fails if the API server does not answer.
serving_requests() {
  asked=$(request_pages | newest_requests)
  case $(printf '%s\n' "$asked" | tail -n 1) in
  'end whole' | 'end part '*) printf '%s\n' "$asked" ;;
  *) printf '%s\n' "$asked" | tail -n 1 | sed 's/^end no /kubectl: /' >&2; return 1 ;;
  esac
}

# requests_of NODE: prints the names of the requests of the node's kubelet, the newest first, without those that ironstrap
# does not handle.
requests_of() {
  request_pages | LC_ALL=C sort -S 16M -r | LC_ALL=C awk -F '\t' -v user="system:node:$1" '
    /^end no / { failed = 1; sub(/^end no /, "kubectl: "); print | "cat >&2" }
    NF == 5 && $3 != "-" && $4 == user { print $3 }
    END { exit failed }'
}

# approve_serving NODE ADDRESS NAME JUDGED: approves the request NAME with the object on standard input. It waits until the
# request is signed, and until the kubelet of NODE serves with the certificate. JUDGED is what request_now printed of the
# request that ironstrap judged. ADDRESS is where the kubelet serves.
approve_serving() {
  serving_request=$(cat) serving_judged=$4
  retry approved "$3"
  echo "$3 of $1 $serving_said"
  retry signed "$3"
  retry serves "$1" "$2"
}

# request_now NAME: prints uid, version, signer, request and user of the request that has this name now. A dot ends the user,
# which can contain any text.
request_now() {
  kubectl get certificatesigningrequest "$1" --ignore-not-found --request-timeout=10s \
    -o 'jsonpath={.metadata.uid} {.metadata.resourceVersion} {.spec.signerName} {.spec.request} {.spec.username}.'
}

# approved NAME: approves the request if it is the one that was judged. The API server does not compare the spec, so this
# function does. The API server compares uid and version, so nothing changes in between. If anything differs, the requests
# are judged again.
approved() {
  serving_said='has changed, and ironstrap checks it again'
  said=$(request_now "$1") || return 1
  [ "$said" = "$serving_judged" ] || return 0
  if said=$(printf '%s\n' "$serving_request" | kubectl replace --raw "$REQUESTS/$1/approval" -f - 2>&1 >/dev/null); then
    serving_said='is approved'
    return 0
  fi
  case $said in *'(Conflict)'* | *'(NotFound)'* | *'object has been modified'* | *'not found'*) return 0 ;; esac
  printf '%s\n' "$said" | head -n 3 >&2
  return 1
}

# signed NAME: succeeds if the controller manager has signed the request, or if the request is gone.
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

# kubelet_tls NODE ADDRESS: prints `serves` if the kubelet there answers with a certificate, and `bare` if it refuses with an
# alert because it has none. Every other answer says nothing about certificates. openssl sends no credentials, and follows
# nothing. A worker's kubelet can answer any number of bytes. Without openssl the API server is asked, and passes them on.
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

# serves NODE ADDRESS: succeeds unless something says that the kubelet has no certificate.
serves() {
  [ "$(kubelet_tls "$1" "$2")" = bare ] || return 0
  echo "the kubelet of $1 has no serving certificate yet" >&2
  return 1
}

# await_serving NODE ADDRESS SECONDS REASON NAME...: waits until the kubelet of NODE has made another request than NAME...,
# or serves. REASON says why none of NAME... will do.
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
    renew_lease
    sleep 1
  done
}

# asked_otherwise: succeeds if the newest request of $serving_node is none of $serving_known. Those are its newest ones, so
# an older request says nothing.
asked_otherwise() {
  asked=$(requests_of "$serving_node") || return 1
  asked=$(printf '%s\n' "$asked" | head -n 1)
  case "$serving_known" in *" $asked "*) return 1 ;; esac
  [ -n "$asked" ]
}

# forget_requests NODE: deletes the requests of the kubelet of a node that is gone. Kubernetes keeps a pending request for a
# day.
forget_requests() {
  asked=$(requests_of "$1") || return 1
  # A worker can make any number of requests, so this deletes 100 at most.
  printf '%s\n' "$asked" | sed '/^$/d' | head -n 100 | while read -r name; do
    kubectl delete certificatesigningrequest --ignore-not-found --request-timeout=10s -- "$name" >/dev/null
  done
}
