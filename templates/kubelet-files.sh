# Shell functions that check the files that the kubelet keeps for itself, and reads only when it starts or renews its
# certificates. POSIX sh.

KUBELET=/var/lib/kubelet

# kubelet_links: prints a line for each file that must be a link and is not. The kubelet does not renew a certificate over a
# file (client-go, certificate_store.go, `updateSymlink`).
kubelet_links() {
  for f in $KUBELET/pki/kubelet-client-current.pem $KUBELET/pki/kubelet-client-updated.pem $KUBELET/pki/kubelet-server-current.pem \
    $KUBELET/pki/kubelet-server-updated.pem; do
    [ ! -e "$f" ] || [ -L "$f" ] || echo "$f is a file instead of a link"
  done
}

# kubelet_links_again: gives the current certificate a name with a date, as the kubelet does, and makes a link to it. The
# kubelet makes the other link only for a moment, so a file in its place is deleted.
kubelet_links_again() {
  now=$(date -u +%Y-%m-%d-%H-%M-%S)
  kubelet_links | while read -r f _; do
    case $f in
    *-updated.pem) rm -f "$f" ;;
    *)
      ln -f "$f" "${f%current.pem}$now.pem"
      ln -s -f "${f%current.pem}$now.pem" "$f.ironstrap"
      mv -T -f "$f.ironstrap" "$f"
      ;;
    esac
  done
}

# kubelet_unreadable [PAIR]: prints a line for each file with which the kubelet ends when it starts. With PAIR, the kubelet
# makes its serving certificate itself. It needs both of its two files or none (kubelet, server.go, `InitializeTLS`).
kubelet_unreadable() {
  if [ -n "${1:-}" ]; then
    if [ -e $KUBELET/pki/kubelet.crt ] || [ -e $KUBELET/pki/kubelet.key ]; then
      for f in $KUBELET/pki/kubelet.crt $KUBELET/pki/kubelet.key; do
        if [ ! -e $f ]; then echo "$f is missing"; elif [ ! -s $f ]; then echo "$f is empty"; fi
      done
    fi
  fi
  # Each is one object of JSON, written at once, without a line break.
  for f in $KUBELET/cpu_manager_state $KUBELET/memory_manager_state $KUBELET/dra_manager_state $KUBELET/allocated_pods_state \
    $KUBELET/actuated_pods_state; do
    [ -f $f ] || continue
    state=
    { IFS= read -r state <$f; } 2>/dev/null || :
    case $state in '{'*'}') ;; *) echo "$f is not valid JSON" ;; esac
  done
}

# kubelet_readable_again [PAIR]: deletes these files, and both files of a pair that is not complete. The kubelet makes them
# again when it starts.
kubelet_readable_again() {
  [ -n "$(kubelet_unreadable "$@")" ] || return 0
  systemctl stop kubelet
  kubelet_unreadable "$@" | while read -r f _; do
    case $f in */kubelet.crt | */kubelet.key) rm -f $KUBELET/pki/kubelet.crt $KUBELET/pki/kubelet.key ;; *) rm -f "$f" ;; esac
  done
  # If something else keeps the kubelet from starting, a later want is about it.
  systemctl start kubelet || echo 'the kubelet does not start yet; later fixes of this run handle other faults'
}
