# Shell functions that put objects into the cluster, with nothing more than their manifests say. Sent after `kubectl`
# (src/shell.rs). POSIX sh.

# trim_object PATCH: removes what others added to the object on standard input, with this JSON patch. `kubectl apply` keeps
# every field that its manifest lacks. An object that does not exist is left to `apply`. A roleRef is fixed for the life of
# its binding, so such a binding is deleted and created again. Other fixed fields are left to `put_object`.
trim_object() {
  object=$(cat)
  if said=$(printf '%s\n' "$object" | kubectl patch --type=json --field-manager=ironstrap -p "$1" -f - 2>&1); then
    return 0
  fi
  case $said in
  *'cannot change roleRef'*) printf '%s\n' "$object" | kubectl replace --force -f - ;;
  *'(NotFound)'* | *' is invalid: '*) ;;
  *) printf '%s\n' "$said" >&2; return 1 ;;
  esac
}

# put_object [PATCH]: applies the object on standard input, after `trim_object PATCH`. Server-side apply cannot change what
# is fixed for the life of an object, such as a clusterIP. It cannot change an entry of a list either if another program owns
# an entry beside it, such as a port of the same name. Then the object is replaced.
put_object() {
  object=$(cat)
  if [ -n "${1:-}" ]; then
    printf '%s\n' "$object" | trim_object "$1" || return 1
  fi
  if said=$(printf '%s\n' "$object" | kubectl apply --server-side --field-manager=ironstrap --force-conflicts -f - 2>&1); then
    [ -z "$said" ] || printf '%s\n' "$said"
    return 0
  fi
  case $said in
  *' is invalid: '*) ;;
  *) printf '%s\n' "$said" >&2; return 1 ;;
  esac
  printf '%s\n' "$object" | kubectl replace -f - 2>/dev/null || printf '%s\n' "$object" | kubectl replace --force -f -
}
