# Shell functions that only a reset needs. Sent after lib.sh. They restore what backup_file, backup_answer and pkg_install
# kept. A restored entry is removed from the ledger, so a reset that was killed goes on where it was.

# forget KEY: removes an entry from the ledger.
forget() {
  # The checksums go first. Without them an entry that is half gone does not count as damaged.
  for f in sum file absent answer kept path; do rm -f "$KEPT/before/$1.$f"; done
}

# cleanup_run_dir RUN: ends the lease, if this run still holds it. If ironstrap keeps nothing on the machine any more, it
# deletes the whole folder.
cleanup_run_dir() {
  [ -e "$RUN/lease" ] || return 0
  lock_lease
  read_lease
  if [ "$run" = "$1" ]; then
    if [ -e "$KEPT" ]; then write_lease "$run" 0 "$owner" "$kin"; else rm -rf "$RUN"; fi
  fi
  unlock_lease
}

# remove_empty_dirs: deletes folders that were made for files of ironstrap and are empty again.
remove_empty_dirs() {
  [ ! -e "$KEPT/folders" ] || sort -ru "$KEPT/folders" | while read -r d; do rmdir "$d" 2>/dev/null || :; done
}

# restore KEY: puts back the file that backup_file kept.
restore() {
  kept=$KEPT/before/$1
  [ -e "$kept.path" ] || return 0
  read -r path <"$kept.path"
  if [ -e "$kept.file" ]; then
    write_file "$path" kept <"$kept.file"
    chmod --reference="$kept.file" "$path"
    chown --reference="$kept.file" "$path"
    touch --reference="$kept.file" "$path"
  elif [ -e "$kept.absent" ]; then
    rm -f "$path"
    remove_empty_dirs
  fi
  forget "$1"
}

# mounted FOLDER [TABLE]: prints what is mounted below the folder, the deepest first. It reads /proc/mounts, or another file
# of that syntax (fstab(5)). A line break in a name stays written as \012, so that a line is one name.
mounted() {
  below=$(readlink -m -- "$1")
  BELOW=${below%/}/ awk '
    BEGIN { below = ENVIRON["BELOW"]; gsub(/\\/, "\\134", below); gsub(/ /, "\\040", below); gsub(/\t/, "\\011", below); gsub(/\n/, "\\012", below) }
    index($2, below) == 1 && $2 != below { m = $2; gsub(/\\040/, " ", m); gsub(/\\011/, "\t", m); gsub(/\\134/, "\\\\", m); print m }
  ' "${2:-/proc/mounts}" | sort -ru
}

# is_mount PATH: succeeds if something is mounted there. It reads the table of mounts. The mount itself is not asked, because
# it may not answer.
is_mount() {
  at=$(readlink -m -- "$(dirname -- "$1")")
  mounted "$at" | grep -qxF -- "${at%/}/${1##*/}"
}

# empty FOLDER: deletes everything in the folder, except what is mounted in it, from this file system or another. A folder in
# which something is mounted stays.
empty() {
  [ -d "$1" ] || return 0
  if [ -z "$(mounted "$1")" ]; then find "$1/" -xdev -mindepth 1 -delete; return; fi
  for e in "$1"/* "$1"/.*; do
    case ${e##*/} in . | ..) continue ;; esac
    if [ ! -L "$e" ] && is_mount "$e"; then echo "$e stays: something is mounted there"
    elif [ -d "$e" ] && [ ! -L "$e" ]; then ( empty "$e" ); rmdir -- "$e" 2>/dev/null || :
    elif [ -e "$e" ] || [ -L "$e" ]; then rm -f -- "$e"; fi
  done
}

# gone PATH: deletes it, with everything below it, except what `empty` leaves. If it is a link, its target stays.
gone() {
  if [ -L "$1" ] || [ ! -d "$1" ]; then rm -f -- "$1"; return; fi
  if is_mount "$1"; then echo "$1 stays: something is mounted there"; return; fi
  empty "$1"
  rmdir -- "$1" 2>/dev/null || :
}

# unit_back UNIT STATE [ACTIVE]: makes the unit start at boot, and run, as it did before. STATE "absent" means that it went
# with its package. It also went with its package if a run was cut between the package and the unit. STATE is then that of
# the new unit.
unit_back() {
  systemctl daemon-reload
  if [ "$(systemctl show -p LoadState --value -- "$1")" = not-found ]; then
    # The unit went without being disabled, so the link that would start it at boot leads nowhere.
    for l in "/etc/systemd/system/"*.wants/"${1%.service}.service"; do [ ! -L "$l" ] || [ -e "$l" ] || rm -f "$l"; done
    systemctl daemon-reload
    return 0
  fi
  case $2 in
  absent) return 0 ;;
  masked) systemctl mask -q --now "$1"; return 0 ;;
  enabled) systemctl unmask -q "$1"; systemctl enable -q "$1" ;;
  disabled) systemctl unmask -q "$1"; systemctl disable -q "$1" ;;
  esac
  case ${3-} in
  active | activating | reloading) systemctl restart "$1" ;;
  *) systemctl stop "$1" ;;
  esac
}

# status PACKAGE: prints the state that dpkg has for it, in three letters, or nothing. Fails if dpkg cannot read its
# database, because that says nothing about a package.
status() {
  r=0
  is=$(dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2>"$RUN/dpkg.out") || r=$?
  case $r in
  0) echo "$is" | tr -d ' ' ;;
  1) ;;
  *)
    sed 's/^/reason: /' "$RUN/dpkg.out" >&2
    echo "by hand: dpkg" >&2
    return 1 ;;
  esac
}

# Folders that come with packages. On a machine, links to other places may stand in for them.
LINKED="/etc/kubernetes /etc/kubernetes/manifests /etc/containerd /etc/cni /etc/cni/net.d /opt/cni /opt/cni/bin
  /opt/containerd /var/lib/kubelet /var/lib/containerd /var/lib/cni /var/log/pods /var/log/containers"

# links_noted: notes which of these folders are links. dpkg takes such a link for a folder of the package that it removes.
links_noted() {
  for l in $LINKED; do
    [ -L "$l" ] || continue
    grep -qs "^$l " "$KEPT/links" || echo "$l $(stat -c %u:%g "$l") $(readlink "$l")" >>"$KEPT/links"
  done
}

# links_back: puts the noted links back.
links_back() {
  [ -e "$KEPT/links" ] || return 0
  while read -r l owner target; do
    if [ ! -L "$l" ] && [ -d "$l" ]; then rmdir "$l" 2>/dev/null || :; fi
    if [ ! -L "$l" ] && [ ! -e "$l" ]; then mkdir -p "${l%/*}"; ln -s -- "$target" "$l"; chown -h "$owner" "$l"; fi
  done <"$KEPT/links"
}

# apt_would_remove ARGS...: prints which packages apt would remove.
apt_would_remove() {
  apt-get -s "$@" | awk '$1 == "Remv" || $1 == "Purg" { print $2 }'
}

# purged PACKAGE...: removes these packages, with their settings. apt fails if something else on the machine is broken, and
# dpkg does not. dpkg refuses if a package that stays needs one of them.
purged() {
  ! apt_get purge --allow-change-held-packages "$@" || return 0
  ! is_locked || return 1
  left=
  for p; do
    is=$(status "$p") || return 1
    case $is in '' | un*) ;; *) left="$left $p" ;; esac
  done
  # shellcheck disable=SC2086
  [ -z "$left" ] || dpkg --purge $left
}

# pkg_remove WAS KEPT NAME...: removes packages that were not there before, and what came in with them and no other package
# needs. Packages that were there before stay, without a hold if they had none. WAS is a file with a line for each package as
# it was. KEPT is a file with the packages that somebody had asked for.
pkg_remove() {
  was=$1 kept=$2 gone='' stays=''
  shift 2
  pkg_repair
  links_noted
  cat "$KEPT"/came/* 2>/dev/null | sort -u >"$RUN/came"
  for p in "$@"; do
    now=$(status "$p") || return 1
    case $(sed -n "s/^$p //p" "$was") in
    h*) continue ;;
    i*)
      [ -z "$now" ] || apt-mark unhold "$p" >/dev/null
      grep -qxF "$p" "$kept" || apt-mark auto "$p" >/dev/null
      continue ;;
    esac
    case $now in
    '' | un*) continue ;;
    # apt does not touch a package that dpkg left broken.
    *R) dpkg --purge --force-remove-reinstreq --force-depends "$p"; continue ;;
    esac
    apt-mark unhold "$p" >/dev/null
    gone="$gone $p"
  done
  for p in $gone; do
    others=$(apt_would_remove remove "$p" | grep -vxF -f "$RUN/came" | xargs)
    if [ -n "$others" ]; then
      echo "$p stays: apt would also remove $others"
      apt-mark auto "$p" >/dev/null
      stays="$stays $p"
    fi
  done
  for p in $stays; do gone=$(echo " $gone " | sed "s/ $p / /" | xargs); done
  for p in $gone; do
    for unit in $(dpkg -L "$p" 2>/dev/null | sed -n 's#.*/systemd/system/\([^/]*\.\(service\|socket\|timer\|path\)\)$#\1#p'); do
      systemctl disable -q --now "$unit" 2>/dev/null || :
      systemctl reset-failed "$unit" 2>/dev/null || :
    done
  done
  # shellcheck disable=SC2086
  [ -z "$gone" ] || purged $gone
  # A package that only suggests or recommends one of these worked without it before.
  alone=$(apt_would_remove autoremove -o APT::AutoRemove::RecommendsImportant=false -o APT::AutoRemove::SuggestsImportant=false | grep -xF -f "$RUN/came" | xargs) || :
  # shellcheck disable=SC2086
  [ -z "$alone" ] || purged $alone
  # dpkg also removes an empty /opt, which belongs to no package.
  if grep -qxF 'folder /opt' "$kept"; then mkdir -p /opt; fi
  # If somebody removed a package before, the folders that it had brought are still there.
  if grep -qxF 'folders noted' "$kept"; then
    for d in $(printf '%s\n' $LINKED | sort -r); do
      grep -qxF "folder $d" "$kept" || [ -L "$d" ] || rmdir "$d" 2>/dev/null || :
    done
  fi
  links_back
  systemctl daemon-reload
}
