# Shell functions that check the folders in which containerd finds where images come from. POSIX sh.

CERTS=/etc/containerd/certs.d

# registries_left HOST...: prints a line for each folder of another host that has a hosts.toml. "ours" means that it is of an
# earlier inventory, and "other" that it belongs to somebody else.
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

# registries_gone HOST...: deletes the files of an earlier inventory. A certificate is deleted only if the hosts.toml beside
# it names it.
registries_gone() {
  registries_left "$@" | while read -r whose folder; do
    [ "$whose" = ours ] || continue
    ! grep -qF "ca = \"$CERTS/$folder/ca.crt\"" "$CERTS/$folder/hosts.toml" || rm -f "$CERTS/$folder/ca.crt"
    rm -f "$CERTS/$folder/hosts.toml"
    rmdir "$CERTS/$folder" 2>/dev/null || :
  done
}
