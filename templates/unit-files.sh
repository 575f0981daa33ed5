# Shell functions that find files of systemd that change how a unit starts, and are neither its package's nor ironstrap's.
# POSIX sh.

# unit_files_list UNIT: prints the files beside those of the package and of ironstrap, one line each.
unit_files_list() {
  for d in /etc/systemd/system.control /run/systemd/system.control /run/systemd/transient /run/systemd/generator.early \
    /etc/systemd/system /etc/systemd/system.attached /run/systemd/system /run/systemd/system.attached /run/systemd/generator \
    /usr/local/lib/systemd/system /usr/lib/systemd/system /run/systemd/generator.late; do
    for f in "$d/$1.service" "$d/$1.service.d"/*.conf "$d"/service.d/*.conf; do
      case $f in
      "/usr/lib/systemd/system/$1.service" | /usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf | \
        /etc/systemd/system/containerd.service.d/ironstrap-proxy.conf) continue ;;
      esac
      [ ! -e "$f" ] || printf '%s\n' "$f"
    done
  done
  # These files have settings of all units, and the variables that the kubelet reads because of kubeadm's drop-in.
  for f in /etc/systemd/system.conf /etc/systemd/system.conf.d/*.conf /run/systemd/system.conf.d/*.conf \
    /usr/lib/systemd/system.conf.d/*.conf; do
    [ ! -f "$f" ] || printf '%s\n' "$f"
  done
  [ "$1" != kubelet ] || [ ! -f /etc/default/kubelet ] || echo /etc/default/kubelet
}

# unit_files_instead UNIT FILE: prints the package's file that systemd does not read because of this one. A masked unit does
# not count, nor does a file with the same text.
unit_files_instead() {
  case $2 in
  */"$1.service") instead=/usr/lib/systemd/system/$1.service; [ -f "$2" ] || return 0 ;;
  *) instead=/usr/lib/systemd/system/$1.service.d/${2##*/} ;;
  esac
  [ "$2" != "$instead" ] && [ -f "$instead" ] || return 0
  cmp -s "$2" "$instead" || printf '%s\n' "$instead"
}

# unit_files UNIT...: prints UNIT: FILE:LINE: DIRECTIVE for each line that changes how the unit starts or ends.
unit_files() {
  for u; do
    unit_files_list "$u" | while IFS= read -r f; do
      instead=$(unit_files_instead "$u" "$f")
      if [ -n "$instead" ]; then echo "$u: $f:1: it replaces $instead"
      elif [ -f "$f" ] && ! cmp -s "$f" "/usr/lib/systemd/system/$u.service"; then unit_files_read "$u" '' "$f"; fi
    done
  done
}

# unit_files_read UNIT EDIT FILE: prints these lines of one file. With EDIT it prints the text of the file, with these lines
# commented out. The kubelet's start command and its flags are left to kubelet-args.sh. For variables, only the names are
# printed.
unit_files_read() {
  awk -v unit="$1" -v edit="$2" '
    function counts(name) {
      if (tolower(name) ~ /^(https?|no|all|ftp)_proxy$/) return 1
      return unit == "kubelet" ? name ~ /^KUBELET_[A-Z_]*ARGS$/ : name ~ /^CONTAINERD_/
    }
    function names(key, value,  n, a, i, found) {
      # Flags are left to kubelet-args.sh.
      if (unit == "kubelet" && value ~ /--[A-Za-z]/) return ""
      gsub(/["\047]/, " ", value)
      n = split(value, a, /[ \t]+/)
      for (i = 1; i <= n; i++) {
        if (key ~ /Environment$/ && a[i] !~ /^[A-Za-z_][A-Za-z_0-9]*=/) continue
        sub(/=.*/, "", a[i])
        if (counts(a[i])) found = found (found == "" ? "" : " ") a[i]
      }
      return found == "" ? "" : key "=" found
    }
    # A file of variables counts only if it has variables that count.
    function named(value,  file, line, found) {
      file = value
      gsub(/^-|["\047]/, "", file)
      while ((getline line <file) > 0) {
        sub(/^[ \t]*/, "", line)
        if (line ~ /^[A-Za-z_][A-Za-z_0-9]*=/) { sub(/=.*/, "", line); if (counts(line)) found = found " " line }
      }
      close(file)
      return found == "" ? "" : "EnvironmentFile=" value ", with" found
    }
    function resets(  base) {
      base = FILENAME
      sub(/.*\//, "", base)
      return base > "ironstrap-proxy.conf"
    }
    function wrong(line,  key, value) {
      if (line !~ /=/) return ""
      key = value = line
      sub(/=.*/, "", key); gsub(/[ \t]/, "", key)
      sub(/^[^=]*=[ \t]*/, "", value); sub(/[ \t]+$/, "", value)
      if (FILENAME ~ /\/system\.conf(\.d\/[^\/]*)?$/) return key == "DefaultEnvironment" ? names(key, value) : ""
      if (FILENAME ~ /\/etc\/default\/kubelet$/) return key ~ /_(proxy|PROXY)$/ && counts(key) ? key : ""
      if (key == "ExecStart" && unit == "kubelet") return ""
      if (key ~ /^(Environment|PassEnvironment|UnsetEnvironment)$/) return names(key, value)
      # Without a value, this line takes back all such lines before it, also that of ironstrap.
      if (key == "EnvironmentFile" && value == "" && unit == "containerd") return resets() ? key "=" : ""
      if (key == "EnvironmentFile") return unit == "kubelet" ? "" : named(value)
      if (key ~ /^(Exec|Condition|Assert|Private|Protect|Restrict|Inaccessible|ReadOnly|SystemCall|IPAddress|Root)/) return key "=" value
      if (key ~ /^(Type|User|Group|DynamicUser|KillMode|KillSignal|Requisite|BindsTo|Conflicts|RuntimeMaxSec|RefuseManualStart)$/)
        return key "=" value
      if (key ~ /^(MountFlags|TemporaryFileSystem|NetworkNamespacePath|CapabilityBoundingSet|NoNewPrivileges|Delegate|DevicePolicy)$/)
        return key "=" value
      return ""
    }
    {
      raw[FNR] = $0
      if (held == "" && /^[ \t]*([#;]|$)/) next
      if (held == "") first = FNR
      if (sub(/\\$/, " ")) { held = held $0; next }
      what = wrong(held $0)
      held = ""
      if (what == "") next
      if (!edit) print unit ": " FILENAME ":" first ": " what
      for (i = first; i <= FNR; i++) bad[i]
    }
    END { if (edit) for (i = 1; i <= FNR; i++) print (i in bad ? "# ironstrap: " : "") raw[i] }
  ' "$3"
}
