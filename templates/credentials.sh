# Shell for fixes that hold a credential on the machine for a while. Sent with lib.sh. What a fix is let in with, the
# function `credential` prints as a kubeconfig; it is defined at the head of the fix.

# fleeting FILE...: these files are gone when this script ends, however it ends.
fleeting() {
  FLEETING="${FLEETING:-} $*"
  trap withdrawn EXIT
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 141' PIPE
  trap 'exit 143' TERM
}

# withdrawn: what `fleeting` does at the end. Where a join did not get to its end, kubeadm leaves the credential in
# bootstrap-kubelet.conf: the file stays, for it shows that a join was begun, and its key goes.
withdrawn() {
  rm -f $FLEETING
  if grep -qs 'client-key-data:' /etc/kubernetes/bootstrap-kubelet.conf; then
    sed -i '/client-key-data:/d' /etc/kubernetes/bootstrap-kubelet.conf
  fi
  # The first line of the kubeconfig that `credential` prints. What `readmit` puts there goes as well.
  ! grep -qs '^# Made by ironstrap for one fix' /etc/kubernetes/kubelet.conf || by_its_certificate
}

# lent FILE: puts the credential into this file until the script ends.
lent() {
  mkdir -p -m 700 "$RUN"
  fleeting "$1"
  ( umask 077; credential >"$1" )
}

# made_up FILE: gives the bootstrap token in kubeadm's configuration a random secret, which is in no argument.
made_up() {
  secret=$(tr -dc 'a-z0-9' </dev/urandom 2>/dev/null | head -c 16)
  [ ${#secret} = 16 ]
  printf 's/ironst\\.0000000000000000/ironst.%s/\n' "$secret" | sed -i -f /dev/stdin "$1"
}

# rotated: the kubelet has a certificate of its own. One that starts with a client certificate in kubelet.conf takes that
# for its first one, and asks for another at once (client-go, `getCurrentCertificateOrBootstrap`).
rotated() {
  first=$(credential | sed -n 's/^ *client-certificate-data: //p' | base64 -d | grep -v -e '-----' | tr -d '\n')
  now=$(sed '/-----END CERTIFICATE-----/q' /var/lib/kubelet/pki/kubelet-client-current.pem | grep -v -e '-----' | tr -d '\n')
  [ -n "$first" ] && [ -n "$now" ] && [ "$first" != "$now" ] || {
    echo 'the kubelet has no certificate of its own yet: the controller manager signs it' >&2
    return 1
  }
}

# readmit: starts the kubelet with the credential in kubelet.conf, as `kubeadm init` does. The kubelet takes that for its
# first certificate and asks for one of its own. It needs no API server to start, so a control plane comes up with it.
# `by_its_certificate` is defined at the head of the fix.
readmit() {
  systemctl stop kubelet
  rm -f /etc/kubernetes/bootstrap-kubelet.conf
  for f in /var/lib/kubelet/pki/kubelet-client-*.pem; do rm -f -- "$f"; done
  fleeting /etc/kubernetes/kubelet.conf.new
  ( umask 077; credential >/etc/kubernetes/kubelet.conf.new )
  mv /etc/kubernetes/kubelet.conf.new /etc/kubernetes/kubelet.conf
  systemctl start kubelet
  patiently rotated
  by_its_certificate
}

# administer: binds kubeadm's administrators, and nobody else, to their role, as one of system:masters; after KUBECTL.
administer() {
  lent "$RUN/masters.conf"
  patiently bound
  patiently kubectl get nodes -o name >/dev/null
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
