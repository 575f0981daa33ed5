# Prints what a machine knows about the cause of a failure: lines of PLACE, a tab and a text. The script only reads. It is
# bounded in time and size, quiet, and harmless on every machine. Sent after the line that sets AGE, JOURNAL and ETCD. AGE
# and JOURNAL say how far back logs are read, in seconds, and ETCD is etcd's data folder. POSIX sh.

exec 2>/dev/null
now=$(date +%s)

# last: prints each line once, at its last place, regardless of the time and the process in it. A program in trouble repeats
# itself, and its earlier lines must not be lost because of that.
last() {
  awk '{ said = $0; sub(/^[A-Z][0-9]+ [0-9:.]+ +[0-9]+ /, "", said); line[NR] = $0; key[NR] = said; at[said] = NR }
    END { for (i = 1; i <= NR; i++) if (at[key[i]] == i) print line[i] }'
}

# from PLACE LINES: prints the last lines of standard input, without those that are only informative.
from() {
  sed -e '/^I[0-9][0-9][0-9][0-9] /d' -e '/ level=info /d' -e '/^{"level":"\(info\|debug\)"/d' -e '/^[[:space:]]*$/d' |
    last | tail -n "$2" | cut -c 1-1500 | sed "s|^|$1$(printf '\t')|"
}

# A kubelet writes the status of its Node and of its pods. That status comes as JSON. So no line break in it looks like
# another Node or pod. kubectl prints a list of JSON without anything in between.
FIELD='
  function field(json, name) {
    if (!match(json, "\"" name "\":\"([^\"\\\\]|\\\\.)*\"")) return ""
    json = substr(json, RSTART + length(name) + 4, RLENGTH - length(name) - 5)
    gsub(/\\"/, "\"", json)
    return json
  }
'

# unready: prints the Nodes that are not Ready, and why. It reads lines with a name and a condition.
unready() {
  awk -F '\t' "$FIELD"'NF == 2 && field($2, "status") != "True" { print $1 ": " field($2, "status") " " field($2, "message") }'
}

# waiting: prints the pods that do not run, and what they wait for. It reads lines with a name, a Node, a phase and states of
# containers.
waiting() {
  awk -F '\t' "$FIELD"'NF == 4 && ($3 != "Running" || $4 != "") {
    why = field($4, "reason")
    print $1 " on " ($2 == "" ? "<none>" : $2) ": " $3 ", waiting: " (why == "" ? "<none>" : why)
  }'
}

# young FILE SECONDS: succeeds if the file was written to in the last SECONDS.
young() { [ -f "$1" ] && [ $((now - $(stat -L -c %Y "$1"))) -le "$2" ]; }

for unit in containerd kubelet; do
  state=$(systemctl show -p LoadState -p ActiveState -p SubState -p Result -- $unit.service | tr '\n' ' ')
  case $state in *LoadState=not-found*) ;; *) printf '%s\n' "$state" | from "unit $unit" 1 ;; esac
  timeout 5 journalctl -q --no-pager -o cat -n 2000 --since "-${JOURNAL}s" -u $unit | from "journal $unit" 200
done

for file in /run/ironstrap/*.log; do
  if young "$file" "$AGE"; then from "log $(basename "$file" .log)" 100 <"$file"; fi
done

# For a container that runs, only recent lines count. A container that keeps dying is started again after up to five minutes,
# and may not have printed anything since. So all of its lines count.
since=$(date -d "-$AGE seconds" +%Y-%m-%dT%H:%M:%S)
for folder in /var/log/pods/kube-system_etcd-*/etcd /var/log/pods/kube-system_kube-*/kube-apiserver \
  /var/log/pods/kube-system_kube-*/kube-controller-manager /var/log/pods/kube-system_kube-*/kube-scheduler \
  /var/log/pods/kube-system_kube-*/kube-proxy /var/log/pods/kube-flannel_flannel-*/flannel; do
  name=$(basename "$folder") from=$since
  uid=${folder%/*} uid=${uid##*_}
  case $name in flannel) program=flanneld ;; *) program=$name ;; esac
  [ -n "$(program "$uid" "$program")" ] || from=
  for file in $(ls -t "$folder" | head -n 2 | sort -n); do
    if young "$folder/$file" $((AGE + 300)); then
      tail -n 300 "$folder/$file" | awk -v from="$from" '$1 >= from' | cut -d ' ' -f 4- | from "container $name" 40
    fi
  done
done

# chains: prints the chains of nftables. A forward chain with policy drop drops what no rule accepts. Not every machine has
# nft, but the image of kube-proxy has it.
chains() {
  if [ -x /usr/sbin/nft ]; then timeout 5 /usr/sbin/nft list chains; return; fi
  proxy=$(running "$(labelled kube-system kube-proxy)" | head -n 1 | cut -d ' ' -f 1)
  [ -z "$proxy" ] || k8s tasks exec --exec-id "ironstrap-$(od -An -N8 -tx8 /dev/urandom | tr -d ' ')" "$proxy" /usr/sbin/nft list chains </dev/null
}
chains |
  awk '$1 == "table" { table = $2 " " $3 } $1 == "chain" { chain = $2 } / hook forward / && /policy drop/ { print "chain " chain " of table " table " has policy drop" }' |
  from forward 5

while read -r swap _; do
  [ "$swap" = Filename ] || printf '%s\n' "$swap" | from swap 1
done </proc/swaps

for folder in /var/lib/kubelet /var/lib/containerd "$ETCD" /var/log /var/cache/apt /etc; do
  [ ! -d "$folder" ] || timeout 2 df -P -k "$folder" | awk -v f="$folder" 'NR == 2 && $4 < 1024 { print f " has " $4 " KiB left of " $2 }' | from disk 1
done

if [ -e /etc/kubernetes/admin.conf ] && [ -e /etc/kubernetes/manifests/kube-apiserver.yaml ]; then
  kubectl --request-timeout=5s get nodes -o 'jsonpath={range .items[*]}{.metadata.name}{"\t"}{.status.conditions[?(@.type=="Ready")]}{"\n"}{end}' |
    unready | from node 20
  kubectl --request-timeout=5s get pods -A -o 'jsonpath={range .items[?(@.status.phase=="Pending")]}{.metadata.namespace}/{.metadata.name}{"\t"}{.spec.nodeName}{"\t"}Pending{"\t"}{.status.containerStatuses[*].state.waiting}{"\n"}{end}{range .items[?(@.status.phase=="Failed")]}{.metadata.namespace}/{.metadata.name}{"\t"}{.spec.nodeName}{"\t"}Failed{"\t"}{.status.containerStatuses[*].state.waiting}{"\n"}{end}{range .items[?(@.status.phase=="Running")]}{.metadata.namespace}/{.metadata.name}{"\t"}{.spec.nodeName}{"\t"}Running{"\t"}{.status.containerStatuses[*].state.waiting}{"\n"}{end}' |
    waiting | from pod 20
  since=$(date -u -d "-$AGE seconds" +%Y-%m-%dT%H:%M:%SZ)
  kubectl --request-timeout=5s get events -A --field-selector 'type!=Normal' -o 'jsonpath={range .items[*]}{.lastTimestamp}{" "}{.involvedObject.kind} {.involvedObject.name}: {.message}{"\n"}{end}' |
    sort | awk -v since="$since" '$1 >= since { $1 = ""; print substr($0, 2) }' | from event 40
fi
