# Shell functions that repair what programs.sh, files.sh and unit-files.sh find. Sent after lib.sh and after the file that
# finds the fault. POSIX sh.

# programs_again NAME PACKAGE: unpacks the package again, in the version that is installed. The package stays on hold, and
# stays marked as installed manually or automatically, as it was.
programs_again() {
  programs_is=$(dpkg-query -W -f '${db:Status-Abbrev} ${Version}' "$2") || { pkg_install "$1" "$2"; return; }
  # An earlier fix may have unpacked the package already.
  [ -n "$(programs "$2")" ] || return 0
  programs_version=${programs_is##* }
  programs_auto=$(apt-mark showauto "$2")
  pkg_install "$1" --reinstall "$2=$programs_version"
  # apt-get succeeds even if it cannot install the package again.
  if grep -q '^Reinstallation of .* is not possible' "$RUN/apt.out"; then
    echo "reason: no package source has $2 $programs_version any more"
    echo "by hand: package-version"
    return 1
  fi
  [ -z "$programs_auto" ] || apt-mark auto "$2" >/dev/null
  case $programs_is in h*) apt-mark hold "$2" >/dev/null ;; esac
}

# modes_again [apt]: gives each file that `modes` prints its right mode, and makes it root's. With "apt" it handles only the
# files that apt reads, otherwise only the others.
modes_again() {
  modes | while read -r right _ owner f; do
    case $f in /etc/apt*) [ "${1:-}" = apt ] || continue ;; *) [ -z "${1:-}" ] || continue ;; esac
    case $owner in root:*) ;; *) chown root:root -- "$f" ;; esac
    chmod "$right" -- "$f"
  done
}

# writable_again: makes the folders that `unwritable` prints writable, as far as that does not need a human.
writable_again() {
  for d in /var/log/pods /var/log/containers; do [ -d "$d" ] || mkdir -p -m 755 "$d"; done
  unwritable | while read -r d _; do
    ! command -v chattr >/dev/null || chattr -i -a "$d" 2>/dev/null || :
    ! may_write "$d" || continue
    echo "reason: $d is on a file system that is mounted read-only"
    echo "by hand: read-only"
    exit 1
  done
}

# unit_files_out UNIT: comments out the lines that `unit_files` prints, and deletes files that take the place of the
# package's files. It keeps the files as they were, and restarts a unit that runs.
unit_files_out() {
  found=$(unit_files "$1" | sed 's/^[a-z]*: //; s/:[0-9]*: .*//' | sort -u)
  # systemd reads the settings of all units only when it starts.
  all_units=$(printf '%s\n' "$found" | grep -E '/system\.conf(\.d/[^/]*)?$') || all_units=
  printf '%s\n' "$found" | while IFS= read -r f; do
    [ -n "$f" ] || continue
    backup_file "kubelet-args$(printf %s "$f" | tr -c 'A-Za-z0-9.\n' -)" "$f"
    if [ -n "$(unit_files_instead "$1" "$f")" ]; then rm -f -- "$f"; else unit_files_read "$1" edit "$f" | write_file "$f" kept; fi
  done
  systemctl daemon-reload
  [ -z "$all_units" ] || systemctl daemon-reexec
  again_if_active "$1"
}
