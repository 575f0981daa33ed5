# Shell function that finds where etcd keeps its data on this machine.

# etcd_is: sets ETCD to the folder that etcd's manifest names. Without a manifest, ETCD keeps the value of the inventory. The
# inventory may have changed since etcd began, and its present folder may contain data of others.
etcd_is() {
  m=/etc/kubernetes/manifests/etcd.yaml
  [ -e $m ] || return 0
  at=$(sed -n 's#^ *- --data-dir=\(/[A-Za-z0-9._/-]*\)$#\1#p' $m | head -n 1)
  ETCD=${at:-$ETCD}
}
