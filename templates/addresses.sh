# Shell functions that count the addresses of this node that pods have taken, and free those of pods that are gone. The CNI
# plugin host-local keeps a file for each address. The file has the name of the address, and the id of the pod's sandbox in
# its first line. POSIX sh.

ADDRESSES=/var/lib/cni/networks/cbr0

# addresses_taken: prints how many addresses this node has for pods, how many of them are taken, how many of these belong to pods
# that are gone, and how many may belong to pods that are just starting. Prints nothing if some addresses are free, or if flannel has not noted the range.
addresses_taken() {
  own=
  { while IFS='=' read -r key value || [ -n "$key" ]; do
    [ "$key" != FLANNEL_SUBNET ] || own=$value
  done </run/flannel/subnet.env; } 2>/dev/null || :
  case $own in *.*.*.*/[0-9] | *.*.*.*/[12][0-9] | *.*.*.*/3[0-2]) ;; *) return 0 ;; esac
  # Two addresses of the range belong to no host, and the first of the others is the bridge's.
  size=$(((1 << (32 - ${own#*/})) - 3))
  set -- "$ADDRESSES"/[0-9]*.*
  [ $# -ge $size ] || return 0
  taken=$(printf '%s\n' "$@" | awk -v own="$own" '
    function range(ip,  a) { split(ip, a, "."); return int((((a[1] * 256 + a[2]) * 256 + a[3]) * 256 + a[4]) / 2 ^ (32 - bits)) }
    BEGIN { split(own, word, "/"); bits = word[2] }
    { sub(/.*\//, "") }
    /^[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+$/ && range($0) == range(own) { n++ }
    END { print n + 0 }')
  [ "$taken" -ge $size ] || return 0
  leaked=$(addresses_leaked) || return 1
  unknown=$(addresses_leaked -true) || return 1
  # shellcheck disable=SC2086
  set -- $leaked
  gone=$#
  # shellcheck disable=SC2086
  set -- $unknown
  echo "$size $taken $gone $(($# - gone))"
}

# addresses_leaked [-true]: prints the files of addresses whose pod is gone. containerd knows a sandbox only once the sandbox has its
# address, so files younger than ten minutes do not count. With -true they do. A file without text comes from a write that a power cut ended.
addresses_leaked() {
  known=$(addresses_known) || { echo 'containerd does not list its pods' >&2; return 1; }
  # shellcheck disable=SC2086
  find "$ADDRESSES" -maxdepth 1 -type f -name '[0-9]*.*' ${1:--mmin +10} | while IFS= read -r f; do
    id=
    { read -r id <"$f"; } 2>/dev/null || [ -n "$id" ] || [ ! -s "$f" ] || continue
    # The line ends with a carriage return.
    id=${id%%[!0-9a-f]*}
    [ ${#id} = 64 ] || [ ! -s "$f" ] || continue
    case "
$known
" in *"
${id:-nothing}
"*) ;; *) echo "$f" ;; esac
  done
}

# addresses_known: prints the ids of all containers and sandboxes that containerd has, in every namespace.
addresses_known() {
  namespaces=$(timeout 30 ctr namespaces ls -q) || return 1
  for namespace in $namespaces; do
    timeout 30 ctr -n "$namespace" containers ls -q || return 1
    sandboxes=$(timeout 30 ctr -n "$namespace" sandboxes ls 2>/dev/null) || sandboxes=
    printf '%s\n' "$sandboxes" | while read -r id _; do echo "$id"; done
  done
}

# addresses_free: frees the addresses of pods that are gone. No pod takes an address meanwhile, because host-local locks the
# same file.
addresses_free() {
  (
    flock -w 10 8 || { echo "cannot lock $ADDRESSES/lock within 10 seconds"; exit 1; }
    leaked=$(addresses_leaked) || exit 1
    for f in $leaked; do rm -f "$f"; done
  ) 8>>"$ADDRESSES/lock"
}
