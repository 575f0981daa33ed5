# Shell functions that set the labels and taints of a Node. Sent after kubectl. ironstrap notes what it set in the ConfigMap
# kube-system/ironstrap, with an entry for each Node, so that it can remove it later. A kubelet can write to its Node, but
# not to the ConfigMap. A note is a list of "label KEY" and "taint KEY:EFFECT", with commas in between.

# noted NODE: prints what ironstrap set on this Node. A dot in the name would lead kubectl's jsonpath one level down, so it
# is escaped.
noted() {
  noted_key=$(printf '%s' "$1" | sed 's/[.]/\\./g')
  kubectl -n kube-system get configmap ironstrap --ignore-not-found -o "jsonpath={.data['$noted_key']}"
}

# note NODE LIST: writes the note of this Node.
note() {
  if [ -z "$(kubectl -n kube-system get configmap ironstrap --ignore-not-found -o name)" ]; then
    kubectl -n kube-system create configmap ironstrap >/dev/null
  fi
  kubectl -n kube-system patch configmap ironstrap --type merge -p "{\"data\":{\"$1\":\"$2\"}}" >/dev/null
}

# unmark NODE LIST WANTED KUBEADMS: removes what ironstrap noted, or kubeadm set (KUBEADMS), and is not WANTED. LIST is added
# to the note before anything is set, so a run that is killed forgets nothing.
unmark() {
  before=$(noted "$1")
  [ "$before" = "$2" ] || note "$1" "$2${before:+${2:+,}$before}"
  echo "$before,$4" | tr , '\n' | sort -u | while read -r kind key; do
    case ",$3," in *",$kind $key,"*) continue ;; esac
    case $kind in
    # For kubectl, the removal of a missing taint is an error, and the removal of a missing label is not.
    taint) why=$(kubectl taint node -- "$1" "$key-" 2>&1) ||
      case $why in *'not found'*) ;; *) printf '%s\n' "$why" >&2; exit 1 ;; esac ;;
    label) kubectl label node -- "$1" "$key-" >/dev/null ;;
    esac
  done
}

# marked NODE LIST: notes that all of LIST is set. An earlier version noted it on the Node, where a kubelet can forge it, so
# that note is removed.
marked() {
  kubectl annotate node -- "$1" ironstrap.dev/set- >/dev/null
  [ "$(noted "$1")" = "$2" ] || note "$1" "$2"
}
