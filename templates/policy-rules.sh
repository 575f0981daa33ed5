# A shell function that finds policy rules which lead the packets of pods elsewhere. Sent after flannel.sh. POSIX sh.

# rule_faults PODS SERVICES: prints a line for each route that the kernel gives to packets of pods, and that is not flannel's. It
# prints nothing if the machine has no policy rules of its own. PODS and SERVICES are the ranges of pods and Services. The kernel
# is asked about an address of each node, and about one of each range that a rule names.
rule_faults() {
  rules=$(ip -4 rule show | grep -vE '^(0:.from all lookup local|32766:.from all lookup main|32767:.from all lookup default) *$') || return 0
  flannel_wrote
  [ -n "$own" ] && grep -q '^ *cni0:' /proc/net/dev && grep -q '^ *flannel\.1:' /proc/net/dev || return 0
  # Without forwarding, the kernel has no route for a packet of others. The step `kernel` reports that.
  [ "$(cat /proc/sys/net/ipv4/ip_forward)" = 1 ] || return 0
  routed=$(ip -4 route show root "$1" | awk '$2 == "via" && $5 == "flannel.1" { print $3 }')
  asked=$(printf '%s\n' "$rules" | awk -v own="$own" -v services="$2" -v routed="$routed" '
    function number(ip,  a) { split(ip, a, "."); return ((a[1] * 256 + a[2]) * 256 + a[3]) * 256 + a[4] }
    function address(n) { return int(n / 16777216) % 256 "." int(n / 65536) % 256 "." int(n / 256) % 256 "." n % 256 }
    function first(range,  a) { split(range, a, "/"); return int(number(a[1]) / size(range)) * size(range) }
    function size(range,  a) { return split(range, a, "/") < 2 ? 1 : 2 ^ (32 - a[2]) }
    function within(n, range) { return n >= first(range) && n < first(range) + size(range) }
    # An address that is in both ranges, or -1.
    function common(range, other) {
      if (within(first(range), other)) return first(range) + (size(range) > 2 ? 2 : 0)
      return within(first(other), range) ? first(other) + 2 : -1
    }
    function source(n) { if (!(n in sources)) { sources[n] = 1; from[++froms] = n } }
    function target(n) { if (!(n in targets)) { targets[n] = 1; to[++tos] = n } }
    BEGIN {
      n = split(routed, gateway, "\n")
      source(first(own) + 2); target(first(own) + 2)
      # Nothing is known of ranges that no present node has.
      node[0] = own; bits = own; sub(/.*\//, "", bits)
      for (i = 1; i <= n; i++) { node[i] = gateway[i] "/" bits; target(number(gateway[i]) + 2); if (i == 1) source(number(gateway[i]) + 2) }
    }
    {
      for (i = 2; i < NF; i++) {
        if ($i == "from" && $(i + 1) == "all" || $i != "from" && $i != "to") continue
        for (k = 0; k <= n; k++) if ((x = common($(i + 1), node[k])) >= 0) { if ($i == "from") source(x); else target(x) }
        if ($i == "to" && services ~ /^[0-9.\/]+$/ && (x = common($(i + 1), services)) >= 0) print address(x), "-", "any"
      }
    }
    END {
      # A pod reaches others of its own node through the bridge alone.
      for (i = 1; i <= froms; i++) for (k = 1; k <= tos; k++) {
        if (within(from[i], own) && !within(to[k], own)) print address(to[k]), address(from[i]), "cni0", "flannel.1"
        if (!within(from[i], own) && within(to[k], own)) print address(to[k]), address(from[i]), "flannel.1", "cni0"
      }
    }')
  printf '%s\n' "$asked" | sed -E 's/^([^ ]+) - .*/route get \1/; s/^([^ ]+) ([^ ]+) ([^ ]+) .*/route get \1 from \2 iif \3/' |
    ip -4 -o -force -batch - 2>/dev/null | awk -v asked="$asked" -v rules="$rules" '
    /^[0-9]/ { for (i = 2; i < NF; i++) if ($i == "dev") dev[$1 " " ($2 == "from" ? $3 : "-")] = $(i + 1) }
    END {
      gsub(/\t/, " ", rules); gsub(/ *\n/, "; ", rules)
      n = split(asked, line, "\n")
      for (i = 1; i <= n; i++) {
        split(line[i], word, " ")
        is = dev[word[1] " " word[2]]
        if (word[1] == "" || is != "" && (word[3] == "any" || is == word[4])) continue
        packets = word[2] == "-" ? "packets to " word[1] : "packets from " word[2] " to " word[1]
        way = is == "" ? "are refused" : "go through " is " instead of " word[4]
        if (++shown <= 3) print packets " " way " because of one of these rules: " rules
      }
      if (shown > 3) print "and " shown - 3 " more"
    }'
}
