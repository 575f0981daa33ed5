# Shell that takes a machine out of its cluster, and before that notes what is there already. What is Kubernetes' own
# goes; in places and tables that it shares with others only what came since.

# Where the kubelet, kubeadm and etcd write; whatever came since is theirs.
OWN="/etc/kubernetes /var/lib/kubelet $ETCD /var/log/pods /var/log/containers /run/flannel /run/netns /run/xtables.lock"
# Where networks of containers write, other people's too.
SHARED="/etc/cni /opt/cni /var/lib/cni"
# What the kubelet, kube-proxy and the network set while they run (kubelet: setupKernelTunables).
SYSCTLS="vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys
  kernel/keys/root_maxbytes net/ipv4/ip_forward net/ipv4/conf/all/route_localnet net/netfilter/nf_conntrack_max
  net/netfilter/nf_conntrack_tcp_timeout_established net/netfilter/nf_conntrack_tcp_timeout_close_wait"

there() {
  # shellcheck disable=SC2086
  find $OWN $SHARED -maxdepth 3 -printf 'path %p\n' 2>/dev/null || :
}

# traces: what is there, a line each, with its kind in front.
traces() {
  there
  links | sed 's/^/link /'
  for s in $SYSCTLS; do [ ! -r "/proc/sys/$s" ] || echo "sysctl $s $(cat "/proc/sys/$s")"; done
  for t in iptables ip6tables; do tables $t | sed -n 's/^:\(CNI-[^ ]*\).*/chain \1/p'; done
  ! has_nft || nft list tables
}

# links: the names of the interfaces.
links() {
  ip -o link | sed 's/^[0-9]*: \([^:@]*\).*/\1/'
}

# process NAME: which of the pods' processes is called so; whatever else runs here under that name is not meant.
process() {
  command -v ctr >/dev/null && systemctl is-active -q containerd || return 0
  timeout 30 ctr -n k8s.io tasks ls 2>/dev/null | awk 'NR > 1 { print $2 }' | while read -r p; do
    { read -r name <"/proc/$p/comm"; } 2>/dev/null || continue
    if [ "$name" = "$1" ]; then echo "$p"; fi
  done
}

# kube-proxy brings an nft of its own, where the machine has none.
PROXY=$(process kube-proxy | head -n 1)
has_nft() {
  [ -x /usr/sbin/nft ] || { [ -n "$PROXY" ] && [ -x "/proc/$PROXY/root/usr/sbin/nft" ]; }
}
nft() {
  if [ -x /usr/sbin/nft ]; then /usr/sbin/nft "$@"; else chroot "/proc/$PROXY/root" /usr/sbin/nft "$@"; fi
}

# variants FAMILY: the commands of iptables that there are to look with: those of the kernel's older tables only
# where it has any, for looking makes them.
variants() {
  for v in nft legacy; do
    if [ $v = legacy ] && [ ! -s "/proc/net/$(echo "$1" | sed 's/tables$/_tables_names/')" ]; then continue; fi
    ! command -v "$1-$v-save" >/dev/null || echo "$1-$v"
  done
}

# tables FAMILY: all rules of iptables or ip6tables.
tables() {
  for v in $(variants "$1"); do "$v-save" 2>/dev/null; done
}

# came: paths that were not there before.
came() {
  there | grep -vxF -f "$kept" | cut -d ' ' -f 2- || :
}

# is_new KIND NAME
is_new() {
  ! grep -qxF "$1 $2" "$kept"
}

# no_pods: every container of Kubernetes ends, with its network; those of other namespaces go on.
no_pods() {
  command -v ctr >/dev/null || return 0
  systemctl is-active -q containerd || systemctl start containerd || return 0
  # The way that also tells the network's plugins. Without a client it asks no API server that may be down.
  rm -f /etc/kubernetes/admin.conf
  if command -v kubeadm >/dev/null; then
    timeout 240 kubeadm reset phase cleanup-node --cri-socket unix:///run/containerd/containerd.sock || :
  fi
  k8s() { timeout 60 ctr -n k8s.io "$@"; }
  for c in $(k8s containers ls -q); do
    k8s tasks delete -f "$c" >/dev/null 2>&1 || :
    k8s containers rm "$c" || :
  done
  k8s images ls -q | xargs -r timeout 120 ctr -n k8s.io images rm --sync >/dev/null || :
  for s in $(k8s leases ls -q); do k8s leases rm "$s" || :; done
  ctr namespaces rm k8s.io >/dev/null 2>&1 || :
}

# unmounted PREFIX: nothing is mounted below it.
unmounted() {
  awk -v prefix="$1" 'index($2, prefix) == 1 { print $2 }' /proc/mounts | sort -r | while read -r m; do
    umount "$m" || umount -l "$m" || :
  done
}

# networks: the names of the networks that came with the cluster.
networks() {
  echo cbr0
  for f in $(came | grep '^/etc/cni/net.d/.*conf' || :); do sed -n 's/.*"name": *"\([^"]*\)".*/\1/p' "$f" 2>/dev/null | head -n 1; done
}

# our_rules: of rules as iptables-save prints them, what takes ours out again. Chains of CNI's plugins are ours where
# a rule that leads there names one of our networks; their common chains, where they came since and lead nowhere else.
our_rules() {
  awk -v kept="$kept" -v networks="$1" '
    BEGIN { while ((getline line <kept) > 0) before[line] = 1; n = split(networks, names, " ") }
    function ours(c) { return c ~ /^KUBE-/ || c ~ /^FLANNEL/ || c in mine }
    function target(rule,   i, w, k) { k = split(rule, w, " "); for (i = 1; i < k; i++) if (w[i] == "-j" || w[i] == "-g") return w[i + 1]; return "" }
    function named(rule,   i) { for (i = 1; i <= n; i++) if (index(rule, "name: \\\"" names[i] "\\\"")) return 1; return 0 }
    /^\*/ { table = $0; chains = rules = 0; delete mine; next }
    /^:/ { chain[++chains] = substr($1, 2); next }
    /^-A/ { rule[++rules] = $0; next }
    /^COMMIT/ {
      busy = 0
      for (i = 1; i <= rules; i++) {
        t = target(rule[i])
        if (t ~ /^CNI-/ && t !~ /^CNI-HOSTPORT/) { if (named(rule[i])) mine[t] = 1; else if (rule[i] ~ /^-A CNI-HOSTPORT/) busy = 1 }
      }
      for (i = 1; i <= chains; i++)
        if (chain[i] ~ /^CNI-HOSTPORT/ && !busy && !(("chain " chain[i]) in before)) mine[chain[i]] = 1
      out = ""
      for (i = 1; i <= chains; i++) if (ours(chain[i])) out = out ":" chain[i] " - [0:0]\n"
      for (i = 1; i <= rules; i++) {
        split(rule[i], w, " ")
        if (!ours(w[2]) && (ours(target(rule[i])) || rule[i] ~ /--comment "?flanneld/)) out = out "-D" substr(rule[i], 3) "\n"
      }
      for (i = 1; i <= chains; i++) if (ours(chain[i])) out = out "-X " chain[i] "\n"
      if (out != "") printf "%s\n%sCOMMIT\n", table, out
    }'
}

# no_rules: our rules are gone from the kernel's tables, and no other.
no_rules() {
  for v in $(variants iptables) $(variants ip6tables); do
    "$v-save" 2>/dev/null | our_rules "$(networks | xargs)" >/run/ironstrap/rules
    [ ! -s /run/ironstrap/rules ] || "$v-restore" --noflush </run/ironstrap/rules
  done
  if has_nft; then
    for t in 'ip kube-proxy' 'ip6 kube-proxy' 'ip flannel-ipv4' 'ip6 flannel-ipv6'; do
      # shellcheck disable=SC2086
      ! nft list table $t >/dev/null 2>&1 || nft delete table $t
    done
    # Tables that only our rules had brought about.
    nft list tables | while read -r t family name; do
      is_new table "$family $name" || continue
      rules=$(nft list table "$family" "$name" | grep -vE '^(#.*|table .*\{|	chain .*\{|		type .*policy accept;|	\}|\}|)$' || :)
      [ -n "$rules" ] || nft delete table "$family" "$name"
    done
  else
    echo "there is no nft here to look with: where the cluster's rules were in tables of nft, they stay until the next boot"
  fi
}

# no_network: interfaces and files of the network are gone, and no other's.
no_network() {
  names=$(networks | sort -u)
  for i in cni0 flannel.1 flannel-v6.1 kube-ipvs0; do
    if links | grep -qxF "$i" && is_new link "$i"; then ip link delete "$i"; fi
  done
  for name in $names; do
    for f in "/var/lib/cni/networks/$name" /var/lib/cni/results/"$name"-* /var/lib/cni/cache/results/"$name"-* /var/lib/cni/flannel; do
      if [ -e "$f" ] && is_new path "$f"; then rm -rf "$f"; fi
    done
  done
  for f in $(came | grep -E '^/(etc/cni/net.d|opt/cni/bin)/' || :); do
    case $NETWORK:$f in
    flannel:*/10-flannel.conflist | flannel:/opt/cni/bin/flannel) rm -f "$f" ;;
    manifests:*) dpkg -S "$f" >/dev/null 2>&1 || rm -rf "$f" ;;
    esac
  done
  came | grep -E '^/(etc|opt|var/lib)/cni' | sort -r | while read -r d; do [ ! -d "$d" ] || rmdir "$d" 2>/dev/null || :; done
}

# leave: all of it, in an order that can be begun again.
leave() {
  systemctl stop kubelet 2>/dev/null || :
  # They would bring their rules back; and they have what it takes to list them.
  for p in $(process kube-proxy) $(process flanneld); do kill -s STOP "$p"; done
  no_rules
  no_pods
  systemctl stop kubepods.slice 2>/dev/null || :
  unmounted /var/lib/kubelet/
  # Of pods that could only be killed.
  unmounted /run/containerd/io.containerd.grpc.v1.cri/
  for n in $(came | grep '^/run/netns/' || :); do umount "$n" 2>/dev/null || :; done
  no_network
  # shellcheck disable=SC2086
  came | grep -E "^($(echo $OWN | tr ' ' '|'))(/|\$)" | sort -r | while read -r f; do
    if [ -d "$f" ] && [ ! -L "$f" ]; then empty "$f"; rmdir "$f"; else rm -f "$f"; fi
  done
  sed -n 's/^sysctl //p' "$kept" | while read -r s value; do
    [ ! -w "/proc/sys/$s" ] || [ "$(cat "/proc/sys/$s")" = "$value" ] || echo "$value" >"/proc/sys/$s" || :
  done
}
