# Shell functions that find a Lease which its holder no longer renews. Sent after KUBECTL and lib.sh. POSIX sh.

# lease_read NAMESPACE NAME: sets $holder, $seconds and $renewed. They are empty if there is no such Lease.
lease_read() {
  lease_said=$(kubectl -n "$1" get lease "$2" --ignore-not-found --request-timeout=5s \
    -o 'jsonpath={.spec.holderIdentity} {.spec.leaseDurationSeconds} {.spec.renewTime}') || return 1
  read -r holder seconds renewed <<SAID
$lease_said
SAID
}

# lease_expired NAMESPACE NAME: prints "HOLDER TIME" if the Lease was last renewed at TIME, and that is longer ago than 90 seconds
# and six times what the Lease says. Clocks of control planes may be a minute apart. Prints nothing if no API server runs here, or
# if kubeadm did not finish.
lease_expired() {
  [ -e /etc/kubernetes/manifests/kube-apiserver.yaml ] && [ -e /etc/kubernetes/admin.conf ] || return 0
  [ -e /var/lib/ironstrap/kubeadm-receipt ] || [ -e /var/lib/kubelet/pki/kubelet-client-current.pem ] || return 0
  holder='' seconds='' renewed=''
  lease_read "$1" "$2" || return 1
  [ -n "$holder" ] && [ -n "$renewed" ] || return 0
  since=$(date -d "$renewed" +%s) || return 1
  limit=$((seconds * 6 > 90 ? seconds * 6 : 90))
  [ $(($(date +%s) - since)) -gt $limit ] || return 0
  before=$renewed
  sleep 5
  lease_read "$1" "$2" || return 1
  [ "$renewed" != "$before" ] || printf '%s\n' "$holder $renewed"
}

# lease_lasts NAMESPACE NAME: succeeds if the Lease is renewed within five seconds.
lease_lasts() {
  lease_read "$1" "$2" || return 1
  before=$renewed
  sleep 5
  lease_read "$1" "$2" || return 1
  [ "$renewed" != "$before" ] || { echo "the Lease $2 was last renewed at $renewed" >&2; return 1; }
}
