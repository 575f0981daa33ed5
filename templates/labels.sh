# Shell that gives a Node its labels and taints, after kubectl. What ironstrap set is noted in the ConfigMap
# kube-system/ironstrap, an entry a Node, so that it can be taken back later. A kubelet can write to its Node, and not
# there. A note is a list of "label KEY" and "taint KEY:EFFECT", with commas in between.

# noted NODE: what ironstrap set on it. A dot in the name would lead kubectl's jsonpath one level down.
noted() {
  noted_key=$(printf '%s' "$1" | sed 's/[.]/\\./g')
  kubectl -n kube-system get configmap ironstrap --ignore-not-found -o "jsonpath={.data['$noted_key']}"
}

# note NODE LIST
note() {
  if [ -z "$(kubectl -n kube-system get configmap ironstrap --ignore-not-found -o name)" ]; then
    kubectl -n kube-system create configmap ironstrap >/dev/null
  fi
  kubectl -n kube-system patch configmap ironstrap --type merge -p "{\"data\":{\"$1\":\"$2\"}}" >/dev/null
}

# unmark NODE LIST WANTED KUBEADMS: takes off what ironstrap noted, or kubeadm set, and is not WANTED. LIST is noted before
# anything is set, beside what was noted: a run that is killed forgets nothing.
unmark() {
  before=$(noted "$1")
  [ "$before" = "$2" ] || note "$1" "$2${before:+${2:+,}$before}"
  echo "$before,$4" | tr , '\n' | sort -u | while read -r kind key; do
    case ",$3," in *",$kind $key,"*) continue ;; esac
    case $kind in
    # A taint that is not there is an error to kubectl, and a label is not.
    taint) why=$(kubectl taint node -- "$1" "$key-" 2>&1) ||
      case $why in *'not found'*) ;; *) printf '%s\n' "$why" >&2; exit 1 ;; esac ;;
    label) kubectl label node -- "$1" "$key-" >/dev/null ;;
    esac
  done
}

# marked NODE LIST: all is set. An older ironstrap noted it on the Node, where nobody has to believe it.
marked() {
  kubectl annotate node -- "$1" ironstrap.dev/set- >/dev/null
  [ "$(noted "$1")" = "$2" ] || note "$1" "$2"
}
