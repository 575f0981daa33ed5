# Shell functions for fixes that hold a credential on the machine for a while. Sent with lib.sh. The head of such a fix
# defines the function `credential`, which prints the credential as a kubeconfig.

# fleeting FILE...: deletes these files when this script ends, however it ends.
fleeting() {
  FLEETING="${FLEETING:-} $*"
  trap withdrawn EXIT
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 141' PIPE
  trap 'exit 143' TERM
}

# withdrawn: takes the credentials away at the end of the script, for `fleeting`. If a join did not finish, kubeadm leaves
# the credential in bootstrap-kubelet.conf. The file stays, because it shows that a join was begun, but its key is deleted.
withdrawn() {
  rm -f $FLEETING
  if grep -qs 'client-key-data:' /etc/kubernetes/bootstrap-kubelet.conf; then
    sed -i '/client-key-data:/d' /etc/kubernetes/bootstrap-kubelet.conf
  fi
  # This is the first line of the kubeconfig that `credential` prints. `readmit` puts that kubeconfig there, and here it is
  # replaced. Only the head of such a fix defines the function. What a killed fix left there is a want of its own.
  [ -z "${readmits-}" ] || ! grep -qs '^# Made by ironstrap for one fix' /etc/kubernetes/kubelet.conf || by_its_certificate
}

# lent FILE: puts the credential into this file until the script ends.
lent() {
  mkdir -p -m 700 "$RUN"
  fleeting "$1"
  ( umask 077; credential >"$1" )
}

# made_up FILE: gives the bootstrap token in kubeadm's configuration a random secret, which appears in no argument.
made_up() {
  secret=$(tr -dc 'a-z0-9' </dev/urandom 2>/dev/null | head -c 16)
  [ ${#secret} = 16 ]
  printf 's/ironst\\.0000000000000000/ironst.%s/\n' "$secret" | sed -i -f /dev/stdin "$1"
}

# rotated: succeeds if the kubelet has a certificate of its own. A kubelet that starts with a client certificate in
# kubelet.conf uses that as its first one, and requests another at once (client-go, `getCurrentCertificateOrBootstrap`).
rotated() {
  first=$(credential | sed -n 's/^ *client-certificate-data: //p' | base64 -d | grep -v -e '-----' | tr -d '\n')
  now=$(sed '/-----END CERTIFICATE-----/q' /var/lib/kubelet/pki/kubelet-client-current.pem | grep -v -e '-----' | tr -d '\n')
  [ -n "$first" ] && [ -n "$now" ] && [ "$first" != "$now" ] || {
    echo 'the kubelet has no certificate of its own yet: it waits for the controller manager to sign one' >&2
    return 1
  }
}

# readmit: starts the kubelet with the credential in kubelet.conf, as `kubeadm init` does. The kubelet uses that as its first
# certificate and requests one of its own. The kubelet needs no API server to start, so a control plane starts with it, too.
# The head of the fix defines `by_its_certificate`.
readmit() {
  readmits=yes
  systemctl stop kubelet
  rm -f /etc/kubernetes/bootstrap-kubelet.conf
  for f in /var/lib/kubelet/pki/kubelet-client-*.pem; do rm -f -- "$f"; done
  fleeting /etc/kubernetes/kubelet.conf.new
  ( umask 077; credential >/etc/kubernetes/kubelet.conf.new )
  mv /etc/kubernetes/kubelet.conf.new /etc/kubernetes/kubelet.conf
  systemctl start kubelet
  retry rotated
  by_its_certificate
}

# administer: binds kubeadm's administrators, and no other subject, to their role, as a member of system:masters. Sent after
# KUBECTL.
administer() {
  lent "$RUN/masters.conf"
  retry bound
  retry kubectl get nodes -o name >/dev/null
}

bound() {
  kubectl --kubeconfig "$RUN/masters.conf" auth reconcile --remove-extra-subjects -f - <<'RIGHTS'
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: cluster-admin}
rules:
- {apiGroups: ["*"], resources: ["*"], verbs: ["*"]}
- {nonResourceURLs: ["*"], verbs: ["*"]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: "kubeadm:cluster-admins"}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects:
- {apiGroup: rbac.authorization.k8s.io, kind: Group, name: "kubeadm:cluster-admins"}
RIGHTS
}
