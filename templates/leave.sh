# Shell that takes a machine out of its cluster, and before that notes what is there already. It comes after pods.sh,
# remains.sh and etcd.sh, with ETCD, etcd's data folder, and NETWORK, the kind of network. What is Kubernetes' own goes; in places and tables that it
# shares with others only what came since. Paths are compared whole or up to a slash, never as patterns.

# What the kubelet, kube-proxy and the network set while they run (kubelet: setupKernelTunables).
SYSCTLS="vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys
  kernel/keys/root_maxbytes net/ipv4/ip_forward net/ipv4/conf/all/route_localnet net/netfilter/nf_conntrack_max
  net/netfilter/nf_conntrack_tcp_timeout_established net/netfilter/nf_conntrack_tcp_timeout_close_wait"
# The first line of `traces`, where they were taken through folders that are links.
THROUGH='links were followed'

# there -H|-P: what there is where Kubernetes writes, with links followed that are named here (-H) or not. Names with line
# breaks are left out, with what is below them: no list of lines can hold them.
there() {
  break='
'
  find "$1" /etc/kubernetes /var/lib/kubelet /var/log/pods /var/log/containers /run/flannel /run/xtables.lock \
    /etc/cni /opt/cni /var/lib/cni -maxdepth 3 \( -name "*$break*" -prune -o -printf 'path %p\n' \) 2>/dev/null || :
  find "$1" /run/netns -maxdepth 1 \( -name "*$break*" -prune -o -printf 'path %p\n' \) 2>/dev/null || :
  # It may share its folder with others.
  for d in "$ETCD" "$ETCD/member" "$ETCD/member/wal" "$ETCD/member/wal.tmp" "$ETCD/member/snap"; do
    if [ -e "$d" ] || [ -L "$d" ]; then echo "path $d"; fi
  done
}

# traces: what is there, a line each, with its kind in front.
traces() {
  echo "$THROUGH"
  there -H
  mounted / | sed 's/^/mount /'
  links | sed 's/^/link /'
  kubepods | sed 's/^/cgroup /'
  for s in $SYSCTLS; do [ ! -r "/proc/sys/$s" ] || echo "sysctl $s $(cat "/proc/sys/$s")"; done
  for t in iptables ip6tables; do tables $t | sed -n 's/^:\([^ ]*\).*/chain \1/p'; done
  ! has_nft || nft list tables
}

# links: the names of the interfaces.
links() {
  ip -o link | sed 's/^[0-9]*: \([^:@]*\).*/\1/'
}

# kube-proxy brings an nft of its own. Where the machine has none, it runs in kube-proxy's container, which is privileged
# and on the machine's network. Outside of it nothing runs that a container brings.
find_proxy() {
  PROXY=$(running "$(labelled kube-system kube-proxy)" | head -n 1 | cut -d ' ' -f 1) || PROXY=
}
find_proxy
has_nft() {
  [ -x /usr/sbin/nft ] || { [ -n "$PROXY" ] && nft --version >/dev/null 2>&1; }
}
nft() {
  if [ -x /usr/sbin/nft ]; then /usr/sbin/nft "$@"; return; fi
  k8s tasks exec --exec-id "ironstrap-$(od -An -N8 -tx8 /dev/urandom | tr -d ' ')" "$PROXY" /usr/sbin/nft "$@" </dev/null
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

# came FOLDER: it and what is below it, the deepest first, as far as it was not there before. Nothing, where nobody noted
# what was there before.
came() {
  [ -s "$kept" ] || return 0
  follow=-P
  ! grep -qxF "$THROUGH" "$kept" || follow=-H
  there $follow | grep -vxF -f "$kept" | cut -c 6- |
    FOLDER=$1 awk '$0 == ENVIRON["FOLDER"] || index($0, ENVIRON["FOLDER"] "/") == 1' | sort -r
}

# cleared FOLDER: what came into it goes. What others have mounted in it stays, with the folders that lead there.
cleared() {
  mounts=$(mounted "$1")
  came "$1" | while IFS= read -r f; do
    d=$f held=
    while [ -n "$mounts" ] && [ -z "$held" ] && [ "$d" != "$1" ]; do
      [ -L "$d" ] || ! is_mount "$d" || held=$d
      d=${d%/*}
    done
    [ -n "$held" ] || gone "$f"
  done
}

# by_kubeadm: kubeadm ends the pods, in the way that also tells the network's plugins. It would empty the kubelet's folder
# and its own, with what others have there and have mounted there: it is shown empty ones. Without a client in them it asks
# no API server that may be down.
by_kubeadm() {
  timeout 240 unshare --mount --propagation slave sh -c '
    below=$(readlink -f /var/lib/kubelet)/
    BELOW=$below awk "index(\$2, ENVIRON[\"BELOW\"]) == 1 { print \$2 }" /proc/self/mounts | sort -r |
      while read -r m; do umount -i -c -l "$m"; done
    for d in /var/lib/kubelet /etc/kubernetes; do [ ! -d $d ] || mount -t tmpfs none $d || exit 1; done
    exec kubeadm reset phase cleanup-node --cri-socket unix:///run/containerd/containerd.sock'
}

# runtime: containerd runs and answers, where it is installed and can be started. Its containers go on while it is stopped,
# and what it keeps of them only it can take away.
runtime() {
  command -v ctr >/dev/null || return 0
  systemctl is-active -q containerd || systemctl start containerd || return 0
  k8s namespaces ls -q >/dev/null 2>&1 || [ $? != 124 ] || {
    echo "containerd does not answer: it is started again, and its containers go on"
    systemctl kill -s KILL containerd || :
    systemctl restart containerd || :
  }
}

# no_pods: every container of Kubernetes that containerd knows ends, with its network; those of other namespaces go on.
no_pods() {
  command -v ctr >/dev/null && systemctl is-active -q containerd || return 0
  if ! k8s containers ls -q >/dev/null; then echo "containerd does not answer: its containers end without it"; return 0; fi
  ! command -v kubeadm >/dev/null || by_kubeadm || :
  for c in $(k8s containers ls -q); do
    # One that it cannot end within its time is enough: `ended` needs none.
    k8s tasks delete -f "$c" >/dev/null 2>&1 || [ $? != 124 ] || break
    k8s containers rm "$c" || :
  done
  k8s images ls -q | xargs -r timeout 120 ctr -n k8s.io images rm --sync >/dev/null || :
  for s in $(k8s leases ls -q); do k8s leases rm "$s" || :; done
  ctr namespaces rm k8s.io >/dev/null 2>&1 || :
}

# networks: the names of the networks that came with the cluster. Of files that others laid out beside flannel's nothing
# is known. A name that is none (CNI specification) could lead elsewhere.
networks() {
  echo cbr0
  came /etc/cni/net.d | while IFS= read -r f; do
    case $NETWORK:$f in flannel:/etc/cni/net.d/10-flannel.conflist | manifests:*.conf | manifests:*.conflist) ;; *) continue ;; esac
    sed -n 's/.*"name": *"\([A-Za-z0-9][A-Za-z0-9_.-]*\)".*/\1/p' "$f" 2>/dev/null | head -n 1
  done
}

# our_rules: of rules as iptables-save prints them, what takes ours out again. Chains of CNI's plugins are ours where
# a rule that leads there names one of our networks; their common chains, where they came since and lead nowhere else.
our_rules() {
  awk -v kept="$kept" -v networks="$1" '
    BEGIN { while ((getline line <kept) > 0) before[line] = 1; n = split(networks, names, " ") }
    function ours(c) { return ((c ~ /^KUBE-/ || c ~ /^FLANNEL-/) && !(("chain " c) in before)) || c in mine }
    function target(rule,   i, w, k) { gsub(/"([^"\\]|\\.)*"/, "", rule); k = split(rule, w, " "); for (i = 1; i < k; i++) if (w[i] == "-j" || w[i] == "-g") return w[i + 1]; return "" }
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
        if (!ours(w[2]) && (ours(target(rule[i])) || rule[i] ~ /--comment "flanneld (masq|forward)"/)) out = out "-D" substr(rule[i], 3) "\n"
      }
      for (i = 1; i <= chains; i++) if (ours(chain[i])) out = out "-X " chain[i] "\n"
      if (out != "") printf "%s\n%sCOMMIT\n", table, out
    }'
}

# no_table FAMILY NAME: deletes a table of nftables, where there is no nft to do it: kube-proxy's went with its container.
# It sends the kernel what nft would (linux/netfilter/nf_tables.h): begin, NFT_MSG_DELTABLE, end. No such table is fine.
no_table() {
  # shellcheck disable=SC2016
  perl -MSocket -e '
    my ($family, $name, $seq) = ({ip => 2, ip6 => 10}->{$ARGV[0]}, "$ARGV[1]\0", 0);
    socket(my $s, 16, SOCK_RAW, 12) or exit 0;
    my $message = sub {
      my ($type, $flags, $of, $version, $body) = @_;
      $body = pack("CCn", $of, 0, $version) . $body;
      pack("LSSLL", 16 + length $body, $type, $flags, ++$seq, 0) . $body;
    };
    my $table = pack("SS", 4 + length $name, 1) . $name . "\0" x (-length($name) % 4);
    my $all = $message->(0x10, 1, 0, 10, "") . $message->(0xa02, 5, $family, 0, $table) . $message->(0x11, 1, 0, 10, "");
    defined send($s, $all, 0, pack("SSLL", 16, 0, 0, 0)) or die "$!\n";
    alarm 5;
    while (defined recv($s, my $answer, 65536, 0)) {
      while (length $answer >= 20) {
        my ($length, $type, $x, $of, $y, $error) = unpack("LSSLLl", $answer);
        if ($type == 2 && $error != 0 && $error != -2) { $! = -$error; die "$!\n" }
        exit 0 if $type == 2 && $of == 2;
        substr($answer, 0, ($length + 3) & ~3) = "";
      }
    }' "$1" "$2" || echo "table $1 $2 of nftables stays until the next boot: it cannot be deleted without nft"
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
    # Tables that iptables had made for our rules only.
    nft list tables | while read -r t family name; do
      case "$family $name" in 'ip '* | 'ip6 '*) ;; *) continue ;; esac
      case $name in filter | nat | mangle | raw | security) ;; *) continue ;; esac
      is_new table "$family $name" || continue
      rules=$(nft list table "$family" "$name" | grep -vE '^(#.*|table .*\{|	chain .*\{|		type .*policy accept;|	\}|\}|)$' || :)
      [ -n "$rules" ] || nft delete table "$family" "$name"
    done
  elif command -v perl >/dev/null; then
    no_table ip kube-proxy; no_table ip6 kube-proxy; no_table ip flannel-ipv4; no_table ip6 flannel-ipv6
  else
    echo "there is no nft here to look with: where the cluster's rules were in tables of nft, they stay until the next boot"
  fi
}

# result NAME FILE: the plugins' note of a container in this network, NAME-ID-INTERFACE. A network with a longer name has
# other files.
result() {
  id=${2##*/"$1"-}
  id=${id%%-*}
  case $id in *[!0-9a-f]*) return 1 ;; esac
  [ ${#id} = 64 ]
}

# no_network: interfaces and files of the network are gone, and no other's.
no_network() {
  for i in cni0 flannel.1 flannel-v6.1 kube-ipvs0; do
    if links | grep -qxF "$i" && is_new link "$i"; then ip link delete "$i"; fi
  done
  for name in $(networks | sort -u); do
    for f in "/var/lib/cni/networks/$name" /var/lib/cni/flannel; do
      if [ -e "$f" ] && is_new path "$f"; then gone "$f"; fi
    done
    for f in /var/lib/cni/results/"$name"-* /var/lib/cni/cache/results/"$name"-*; do
      if [ -f "$f" ] && result "$name" "$f" && is_new path "$f"; then rm -f -- "$f"; fi
    done
  done
  for d in /etc/cni /opt/cni /var/lib/cni; do
    came "$d" | while IFS= read -r f; do
      case $NETWORK:$f in
      flannel:/etc/cni/net.d/10-flannel.conflist | flannel:/opt/cni/bin/flannel) rm -f "$f" ;;
      manifests:/etc/cni/net.d/* | manifests:/opt/cni/bin/*) dpkg -S "$f" >/dev/null 2>&1 || gone "$f" ;;
      esac
      [ ! -d "$f" ] || [ -L "$f" ] || rmdir -- "$f" 2>/dev/null || :
    done
  done
}

# no_netns: the CRI's network namespaces are gone, save one in which a process still runs: it is somebody else's.
no_netns() {
  came /run/netns | while IFS= read -r n; do
    case $n in /run/netns/cni-*) ;; *) continue ;; esac
    net=$(stat -L -c %i -- "$n") || continue
    ! stat -L -c %i /proc/[0-9]*/ns/net 2>/dev/null | grep -qxF "$net" || continue
    umount -- "$n" 2>/dev/null || :
    rm -f -- "$n"
  done
  if is_new path /run/netns; then rmdir /run/netns 2>/dev/null || :; fi
}

# no_etcd: what etcd keeps is gone; the folder only where it came with etcd and is empty.
no_etcd() {
  for d in "$ETCD/member/wal" "$ETCD/member/wal.tmp" "$ETCD/member/snap"; do
    if is_new path "$d"; then gone "$d"; fi
  done
  for d in "$ETCD/member" "$ETCD"; do
    if is_new path "$d"; then rmdir -- "$d" 2>/dev/null || :; fi
  done
}

# leave: all of it, in an order that can be begun again.
leave() {
  etcd_is
  # The kubelet itself may wait for them.
  for d in $VOLUMES; do unhung "$d"; done
  systemctl stop kubelet 2>/dev/null || :
  # It says that kubeadm was through, and with the CA's certificate, which goes later, that this machine is a member.
  rm -f /var/lib/ironstrap/kubeadm-receipt
  runtime
  find_proxy
  # They would bring their rules back; and kube-proxy has what it takes to list them.
  for filter in "$(labelled kube-system kube-proxy)" "$(labelled kube-flannel flannel)"; do
    running "$filter" | while read -r id pid; do kill -s STOP "$pid" 2>/dev/null || :; done
  done
  [ -z "$PROXY" ] || no_rules
  no_pods
  # Of pods that containerd does not know, or could not end.
  ended 20 || :
  # Of what was not found above, kube-proxy ran until now.
  if [ -z "$PROXY" ] || [ -x /usr/sbin/nft ]; then PROXY= && no_rules; fi
  [ -z "$(our_kubepods)" ] || systemctl stop kubepods.slice 2>/dev/null || :
  our_kubepods | while IFS= read -r d; do find "$d" -depth -type d -exec rmdir {} + 2>/dev/null || :; done
  for d in $VOLUMES $RUNNING; do unmounted "$d"; done
  for d in $RUNNING; do empty "$d"; done
  no_netns
  no_network
  # Its manifest says where its data is. So the manifest goes after the data.
  no_etcd
  for d in /etc/kubernetes /var/lib/kubelet /var/log/pods /var/log/containers /run/flannel; do cleared "$d"; done
  if is_new path /run/xtables.lock && [ -f /run/xtables.lock ]; then flock -n /run/xtables.lock rm -f /run/xtables.lock || :; fi
  sed -n 's/^sysctl //p' "$kept" | while read -r s value; do
    [ ! -w "/proc/sys/$s" ] || [ "$(cat "/proc/sys/$s")" = "$value" ] || echo "$value" >"/proc/sys/$s" || :
  done
  left=$(remains)
  if [ -n "$left" ]; then echo "$left"; echo "by hand: reboot"; return 1; fi
}
