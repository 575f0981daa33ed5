# Shell functions that check the modes and owners of files that decide how a node runs, and the folders that a node writes
# to. Sent after ETCD, etcd's data folder, which is empty on a worker. POSIX sh.

# modes_noted MOST LEAST RIGHT FILE...: notes those of the files that exist. MOST is the widest mode that is right. LEAST is
# what others need of it. RIGHT is the mode of a new file.
modes_noted() {
  modes_words="$1 $2 $3"
  shift 3
  for f; do [ ! -e "$f" ] || modes_all="$modes_all$modes_words $f
"; done
}

# modes_list: sets $modes_all to all files to check, with their modes.
modes_list() {
  modes_all=
  # apt reads keys as a user of its own.
  modes_noted 755 005 755 /etc/apt /etc/apt/keyrings
  modes_noted 755 000 755 /etc/apt/sources.list.d /etc/kubernetes /etc/kubernetes/manifests /etc/kubernetes/pki /etc/kubernetes/pki/etcd \
    /var/lib/kubelet /var/lib/kubelet/pki /etc/containerd /etc/containerd/certs.d /etc/containerd/certs.d/* /etc/cni \
    /etc/cni/net.d /opt/cni /opt/cni/bin /etc/ironstrap /etc/systemd/system/containerd.service.d \
    /etc/systemd/system/kubelet.service.d /var/log/pods /var/log/containers
  modes_noted 644 000 644 /var/lib/kubelet/config.yaml /var/lib/kubelet/kubeadm-flags.env /var/lib/kubelet/instance-config.yaml \
    /var/lib/kubelet/pki/*.crt
  modes_noted 644 000 600 /etc/kubernetes/manifests/*.yaml
  modes_noted 600 000 600 /var/lib/kubelet/pki/*.key /var/lib/kubelet/pki/kubelet-client-2*.pem /var/lib/kubelet/pki/kubelet-server-2*.pem
  # These are usually links to one of the files above.
  for linked in /var/lib/kubelet/pki/kubelet-client-current.pem /var/lib/kubelet/pki/kubelet-server-current.pem; do
    # shellcheck disable=SC3013 # dash and bash have -ef
    for f in "${linked%current.pem}"2*.pem; do [ ! "$f" -ef "$linked" ] || linked=; done
    [ -z "$linked" ] || modes_noted 600 000 600 "$linked"
  done
  modes_noted 660 000 660 /run/containerd/containerd.sock
  modes_noted 700 000 700 /var/lib/ironstrap
  [ -n "$ETCD" ] || return 0
  # etcd's data folder may be a disk of its own.
  modes_noted 755 000 700 "$ETCD"
  modes_noted 700 000 700 "$ETCD/member" "$ETCD/member/snap" "$ETCD/member/wal"
}

# modes: prints RIGHT MODE OWNER FILE for each file with a wrong mode or owner. Others can change it, can read it but should
# not, or cannot read it but should, or its owner is not root.
modes() {
  modes_list
  set --
  while read -r _ _ _ f; do [ -z "$f" ] || set -- "$@" "$f"; done <<EOF
$modes_all
EOF
  [ $# != 0 ] || return 0
  stat -L -c '%a %u %U:%G %n' -- "$@" | ALL=$modes_all awk '
    # Whether one mode has a bit that the other lacks. Modes are octal digits. A folder that passes its group on does no
    # harm.
    function more(one, other,  i, b) {
      one = sprintf("%04d", one); other = sprintf("%04d", other)
      for (i = 2; i <= 4; i++)
        for (b = 1; b <= 4; b *= 2) if (int(substr(one, i, 1) / b) % 2 && !(int(substr(other, i, 1) / b) % 2)) return 1
      return 0
    }
    function rest(line, words,  i) {
      for (i = 0; i < words; i++) line = substr(line, index(line, " ") + 1)
      return line
    }
    BEGIN {
      n = split(ENVIRON["ALL"], lines, "\n")
      for (i = 1; i < n; i++) { split(lines[i], w, " "); f = rest(lines[i], 3); most[f] = w[1]; least[f] = w[2]; right[f] = w[3] }
    }
    { f = rest($0, 3) }
    f in most && ($2 != 0 || more($1, most[f]) || more(least[f], $1)) { print right[f], $1, $3, f }'
}

# may_write FOLDER: succeeds if the folder can be written to.
may_write() {
  [ -w "$1" ]
}

# unwritable: prints FOLDER and what is wrong, for each folder that the kubelet or containerd writes to and cannot.
unwritable() {
  for d in /var/log/pods /var/log/containers; do [ -d "$d" ] || echo "$d is missing"; done
  # Below /var/lib/cni, CNI plugins note which pod has which address, and containerd notes what the plugins answered.
  for d in /var/log/pods /var/log/containers /var/lib/kubelet /var/lib/kubelet/pods /var/lib/kubelet/pki /var/lib/containerd \
    /run/containerd /etc/kubernetes /etc/cni/net.d /var/lib/cni /var/lib/cni/networks /var/lib/cni/networks/* /var/lib/cni/flannel \
    /var/lib/cni/results ${ETCD:+"$ETCD" "$ETCD/member" "$ETCD/member/snap" "$ETCD/member/wal"}; do
    [ ! -d "$d" ] || may_write "$d" || echo "$d is not writable"
  done
}
