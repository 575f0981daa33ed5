# Shell that looks at the folders by which containerd finds where images come from. POSIX sh.

CERTS=/etc/containerd/certs.d

# registries_left HOST...: a line for each other folder that leads containerd somewhere: "ours" is of an earlier inventory, "other" is
# somebody's own.
registries_left() {
  for f in "$CERTS"/*/hosts.toml; do
    [ -f "$f" ] || continue
    folder=${f%/hosts.toml} first='' known=
    folder=${folder##*/}
    for host; do [ "$host" != "$folder" ] || known=yes; done
    [ -z "$known" ] || continue
    { IFS= read -r first <"$f"; } 2>/dev/null || :
    case $first in '# Kept by ironstrap: '*) echo "ours $folder" ;; *) echo "other $folder" ;; esac
  done
}

# registries_gone HOST...: deletes what an earlier inventory called for. A certificate that somebody else's file names stays.
registries_gone() {
  registries_left "$@" | while read -r whose folder; do
    [ "$whose" = ours ] || continue
    ! grep -qF "ca = \"$CERTS/$folder/ca.crt\"" "$CERTS/$folder/hosts.toml" || rm -f "$CERTS/$folder/ca.crt"
    rm -f "$CERTS/$folder/hosts.toml"
    rmdir "$CERTS/$folder" 2>/dev/null || :
  done
}
