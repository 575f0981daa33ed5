# Shell that finds where etcd keeps its data on this machine.

# etcd_is: ETCD is the folder that etcd's manifest names. It stays what the inventory says where there is no manifest. The
# inventory may have changed since etcd began, and the folder that it says now may hold somebody else's data.
etcd_is() {
  m=/etc/kubernetes/manifests/etcd.yaml
  [ -e $m ] || return 0
  at=$(sed -n 's#^ *- --data-dir=\(/[A-Za-z0-9._/-]*\)$#\1#p' $m | head -n 1)
  ETCD=${at:-$ETCD}
}
