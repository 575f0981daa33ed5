# Shell functions that take a machine out of its cluster, and note beforehand what the machine already has. Sent after
# pods.sh, remains.sh and etcd.sh, with ETCD, etcd's data folder, and NETWORK, the kind of network. Kubernetes' own things
# are deleted. In places and tables that Kubernetes shares with others, only things that were added since are deleted. Paths
# are compared whole or up to a slash, never as patterns.

# Settings of the kernel that the kubelet, kube-proxy and the network set while they run (kubelet: setupKernelTunables).
SYSCTLS="vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys
  kernel/keys/root_maxbytes net/ipv4/ip_forward net/ipv4/conf/all/route_localnet net/netfilter/nf_conntrack_max
  net/netfilter/nf_conntrack_tcp_timeout_established net/netfilter/nf_conntrack_tcp_timeout_close_wait"
# The first line of notes that `traces` took through folders that are links.
THROUGH='links were followed'

# there -H|-P: prints what exists in the places where Kubernetes writes. -H follows those of the named folders that are
# links, and -P follows none. Names with line breaks are left out, with everything below them, because no list of lines can
# hold them.
there() {
  break='
'
  find "$1" /etc/kubernetes /var/lib/kubelet /var/log/pods /var/log/containers /run/flannel /run/xtables.lock \
    /etc/cni /opt/cni /var/lib/cni -maxdepth 3 \( -name "*$break*" -prune -o -printf 'path %p\n' \) 2>/dev/null || :
  find "$1" /run/netns -maxdepth 1 \( -name "*$break*" -prune -o -printf 'path %p\n' \) 2>/dev/null || :
  # etcd may share its data folder with others.
  for d in "$ETCD" "$ETCD/member" "$ETCD/member/wal" "$ETCD/member/wal.tmp" "$ETCD/member/snap"; do
    if [ -e "$d" ] || [ -L "$d" ]; then echo "path $d"; fi
  done
}

# traces: prints what the machine has, one line each, with its kind in front.
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

# links: prints the names of the network interfaces.
links() {
  ip -o link | sed 's/^[0-9]*: \([^:@]*\).*/\1/'
}

# find_proxy: sets $PROXY to the container of kube-proxy, which brings an nft of its own. If the machine has none, that nft
# runs in the container, which is privileged and on the network of the machine. No program of a container runs outside of it.
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

# variants FAMILY: prints the commands of iptables with which rules can be listed. The commands of the kernel's older tables
# count only if the kernel has such tables, because listing creates them.
variants() {
  for v in nft legacy; do
    if [ $v = legacy ] && [ ! -s "/proc/net/$(echo "$1" | sed 's/tables$/_tables_names/')" ]; then continue; fi
    ! command -v "$1-$v-save" >/dev/null || echo "$1-$v"
  done
}

# tables FAMILY: prints all rules of iptables or ip6tables.
tables() {
  for v in $(variants "$1"); do "$v-save" 2>/dev/null; done
}

# came FOLDER: prints FOLDER and what is below it, the deepest first, without what was there before. Prints nothing if there
# are no notes of what was there before.
came() {
  [ -s "$kept" ] || return 0
  follow=-P
  ! grep -qxF "$THROUGH" "$kept" || follow=-H
  there $follow | grep -vxF -f "$kept" | cut -c 6- |
    FOLDER=$1 awk '$0 == ENVIRON["FOLDER"] || index($0, ENVIRON["FOLDER"] "/") == 1' | sort -r
}

# cleared FOLDER: deletes what was added to the folder. Mounts of others in it stay, with the folders that lead there.
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

# by_kubeadm: has kubeadm end the pods, in a way that also notifies the CNI plugins. kubeadm would empty the kubelet's folder
# and its own, with files and mounts of others in them. So it gets empty folders to see instead. Without credentials in them,
# it does not ask an API server, which may be down.
by_kubeadm() {
  timeout 240 unshare --mount --propagation slave sh -c '
    below=$(readlink -f /var/lib/kubelet)/
    BELOW=$below awk "index(\$2, ENVIRON[\"BELOW\"]) == 1 { print \$2 }" /proc/self/mounts | sort -r |
      while read -r m; do umount -i -c -l "$m"; done
    for d in /var/lib/kubelet /etc/kubernetes; do [ ! -d $d ] || mount -t tmpfs none $d || exit 1; done
    exec kubeadm reset phase cleanup-node --cri-socket unix:///run/containerd/containerd.sock'
}

# runtime: makes containerd run and answer, if it is installed and can be started. Containers go on while containerd is
# stopped, and only containerd can delete what it keeps of them.
runtime() {
  command -v ctr >/dev/null || return 0
  systemctl is-active -q containerd || systemctl start containerd || return 0
  k8s namespaces ls -q >/dev/null 2>&1 || [ $? != 124 ] || {
    echo "containerd does not answer: ironstrap restarts it, and its containers keep running"
    systemctl kill -s KILL containerd || :
    systemctl restart containerd || :
  }
}

# remove_pods: ends every container of Kubernetes that containerd knows, with its network. Containers of other containerd
# namespaces go on.
remove_pods() {
  command -v ctr >/dev/null && systemctl is-active -q containerd || return 0
  if ! k8s containers ls -q >/dev/null; then echo "containerd does not answer: ironstrap ends its containers without it"; return 0; fi
  ! command -v kubeadm >/dev/null || by_kubeadm || :
  for c in $(k8s containers ls -q); do
    # If containerd cannot end a container within its time, the others are not tried. `ended` needs no containerd.
    k8s tasks delete -f "$c" >/dev/null 2>&1 || [ $? != 124 ] || break
    k8s containers rm "$c" || :
  done
  k8s images ls -q | xargs -r timeout 120 ctr -n k8s.io images rm --sync >/dev/null || :
  for s in $(k8s leases ls -q); do k8s leases rm "$s" || :; done
  ctr namespaces rm k8s.io >/dev/null 2>&1 || :
}

# networks: prints the names of the networks that came with the cluster. With flannel only flannel's file counts, because
# nothing is known of files of others beside it. A name that the CNI specification does not allow could lead to another path,
# so it is left out.
networks() {
  echo cbr0
  came /etc/cni/net.d | while IFS= read -r f; do
    case $NETWORK:$f in flannel:/etc/cni/net.d/10-flannel.conflist | manifests:*.conf | manifests:*.conflist) ;; *) continue ;; esac
    sed -n 's/.*"name": *"\([A-Za-z0-9][A-Za-z0-9_.-]*\)".*/\1/p' "$f" 2>/dev/null | head -n 1
  done
}

# our_rules NETWORKS: reads rules as iptables-save prints them, and prints what deletes those of the cluster. A chain of a
# CNI plugin belongs to the cluster if a rule that leads to it names one of NETWORKS. A common chain of the plugins belongs
# to the cluster if it was added since and leads nowhere else.
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

# no_table FAMILY NAME: deletes a table of nftables if there is no nft to do it, because kube-proxy's went with its
# container. It sends the kernel what nft would (linux/netfilter/nf_tables.h): begin, NFT_MSG_DELTABLE, end. A missing table
# is no error.
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

# remove_rules: deletes the cluster's rules from the kernel's tables, and no others.
remove_rules() {
  for v in $(variants iptables) $(variants ip6tables); do
    "$v-save" 2>/dev/null | our_rules "$(networks | xargs)" >/run/ironstrap/rules
    [ ! -s /run/ironstrap/rules ] || "$v-restore" --noflush </run/ironstrap/rules
  done
  if has_nft; then
    for t in 'ip kube-proxy' 'ip6 kube-proxy' 'ip flannel-ipv4' 'ip6 flannel-ipv6'; do
      # shellcheck disable=SC2086
      ! nft list table $t >/dev/null 2>&1 || nft delete table $t
    done
    # Delete tables that iptables had created only for the rules of the cluster.
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
    echo "nft is not installed: nftables rules of the cluster, if any, stay until the next boot"
  fi
}

# result NAME FILE: succeeds if FILE is the CNI plugins' note about a container in this network: NAME-ID-INTERFACE. Files of
# a network with a longer name do not match.
result() {
  id=${2##*/"$1"-}
  id=${id%%-*}
  case $id in *[!0-9a-f]*) return 1 ;; esac
  [ ${#id} = 64 ]
}

# remove_network: deletes the interfaces and files of the cluster's network, and no others.
remove_network() {
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

# no_netns: deletes the network namespaces of the CRI. One in which a process still runs stays, because it belongs to others.
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

# no_etcd: deletes etcd's data. The folder is deleted only if it came with etcd and is empty.
no_etcd() {
  for d in "$ETCD/member/wal" "$ETCD/member/wal.tmp" "$ETCD/member/snap"; do
    if is_new path "$d"; then gone "$d"; fi
  done
  for d in "$ETCD/member" "$ETCD"; do
    if is_new path "$d"; then rmdir -- "$d" 2>/dev/null || :; fi
  done
}

# leave: does all of the above, in an order that can be begun again.
leave() {
  etcd_is
  # Hanging volumes go first, because the kubelet itself may wait for them.
  for d in $VOLUMES; do unhung "$d"; done
  systemctl stop kubelet 2>/dev/null || :
  # The receipt says that kubeadm finished. Together with the CA's certificate, which is deleted later, it says that this
  # machine is a member.
  rm -f /var/lib/ironstrap/kubeadm-receipt
  runtime
  find_proxy
  # kube-proxy and flannel would write their rules again, so they are stopped. kube-proxy is not ended yet, because it has
  # what it takes to list the rules.
  for filter in "$(labelled kube-system kube-proxy)" "$(labelled kube-flannel flannel)"; do
    running "$filter" | while read -r id pid; do kill -s STOP "$pid" 2>/dev/null || :; done
  done
  [ -z "$PROXY" ] || remove_rules
  remove_pods
  # End the processes of pods that containerd does not know, or could not end.
  ended 20 || :
  # If kube-proxy was not found above, it may have run until now. So the rules are deleted now, or once more.
  if [ -z "$PROXY" ] || [ -x /usr/sbin/nft ]; then PROXY= && remove_rules; fi
  [ -z "$(our_kubepods)" ] || systemctl stop kubepods.slice 2>/dev/null || :
  our_kubepods | while IFS= read -r d; do find "$d" -depth -type d -exec rmdir {} + 2>/dev/null || :; done
  for d in $VOLUMES $RUNNING; do unmounted "$d"; done
  for d in $RUNNING; do empty "$d"; done
  no_netns
  remove_network
  # etcd's manifest says where its data is. So the manifest is deleted after the data.
  no_etcd
  # The kubelet's certificate makes this machine a member, and /etc/kubernetes says in which role. So the certificate goes
  # first: a control plane that is cut off here would look like a worker.
  for d in /var/lib/kubelet /etc/kubernetes /var/log/pods /var/log/containers /run/flannel; do cleared "$d"; done
  if is_new path /run/xtables.lock && [ -f /run/xtables.lock ]; then flock -n /run/xtables.lock rm -f /run/xtables.lock || :; fi
  sed -n 's/^sysctl //p' "$kept" | while read -r s value; do
    [ ! -w "/proc/sys/$s" ] || [ "$(cat "/proc/sys/$s")" = "$value" ] || echo "$value" >"/proc/sys/$s" || :
  done
  left=$(remains)
  if [ -n "$left" ]; then echo "$left"; echo "by hand: reboot"; return 1; fi
}
