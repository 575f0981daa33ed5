# Shell functions that find what keeps kernel modules from being loaded. Modules are loaded now by modprobe, at boot by
# systemd-modules-load, and at the requests of the kernel itself. Sent with the ask and the fix that need them. POSIX sh.

# modprobe_bars EDIT FILE...: prints FILE:LINE: TEXT for each line that bars one of the modules that the cluster needs. The
# line is a blacklist, or a command in place of loading the module that does not load it either. If several folders have a
# file of one name, the first one hides the others (modprobe.d(5)). With EDIT it prints the text of one file, with these
# lines commented out.
modprobe_bars() {
  modprobe_edit=$1
  shift
  awk -v edit="$modprobe_edit" '
    BEGIN { n = split("MODULES", a, " "); for (i = 1; i <= n; i++) ours[a[i]] }
    FNR == 1 { name = FILENAME; sub(/.*\//, "", name); shown = !seen[name]++ }
    {
      module = $2
      gsub(/-/, "_", module)
      bars = shown && module in ours && ($1 == "blacklist" || $1 == "install" && $0 !~ /modprobe|insmod/)
      if (edit) print (bars ? "# ironstrap: " : "") $0; else if (bars) print FILENAME ":" FNR ": " $0
    }' "$@"
}

# modprobe_barred: prints all of these lines, and the words of the kernel's command line that do the same.
modprobe_barred() {
  set --
  for f in /etc/modprobe.d/*.conf /run/modprobe.d/*.conf /usr/local/lib/modprobe.d/*.conf /usr/lib/modprobe.d/*.conf; do
    [ ! -f "$f" ] || set -- "$@" "$f"
  done
  [ $# = 0 ] || modprobe_bars '' "$@"
  read -r words </proc/cmdline || :
  for word in $words; do
    case $word in
    module_blacklist=* | modprobe.blacklist=*)
      # shellcheck disable=SC2043 # several stand in its place when it is sent
      for module in MODULES; do
        case ",${word#*=}," in *",$module,"*) echo "/proc/cmdline: $word" && break ;; esac
      done
      ;;
    esac
  done
}

# modprobe_unbarred: comments these lines out, and keeps the files as they were. A file of a package is replaced by a file of
# the same name below /etc.
modprobe_unbarred() {
  modprobe_barred | sed -n '/^\/proc\//!s/:[0-9]*: .*//p' | sort -u | while IFS= read -r f; do
    case $f in /etc/*) t=$f ;; *) t=/etc/modprobe.d/${f##*/} ;; esac
    backup_file "kernel-modprobe-${f##*/}" "$t"
    modprobe_bars edit "$f" | write_file "$t" kept
  done
  left=$(modprobe_barred)
  [ -n "$left" ] || return 0
  echo "reason: $left"
  echo 'by hand: kernel-command-line'
  return 1
}
