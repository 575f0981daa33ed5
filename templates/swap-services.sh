# Shell functions that find services which turn swap on by themselves, as those of zram-tools and dphys-swapfile do. Neither
# fstab nor swap.target knows of them. Sent with the ask and the fix that need them.

# swap_services: prints the services that start at boot and turn swap on, in their unit or in the script that it starts.
swap_services() {
  set --
  for f in /etc/systemd/system/*.wants/*.service /etc/systemd/system/*.requires/*.service; do
    [ ! -f "$f" ] || set -- "$@" "$f"
  done
  [ $# -gt 0 ] || return 0
  awk '
    FNR == 1 { unit = FILENAME; sub(/.*\//, "", unit) }
    unit == "swapspace.service" { print unit, "-"; next }
    /^[ \t]*Exec(Start|StartPre|StartPost)[ \t]*=/ {
      if ($0 ~ /(^|[\/ ;&|"\047])swapon([ ;&|"\047]|$)/) { print unit, "-"; next }
      sub(/^[^=]*=[ \t]*[-@:+!|]*/, "")
      if ($1 !~ /^\//) next
      # Only a script can be searched for what it does.
      first = ""
      if ((getline first <$1) > 0 && first ~ /^#!/) print unit, $1
      close($1)
    }' "$@" | sort -u | while read -r unit program; do
    [ "$program" = - ] || grep -qE '(^|[^A-Za-z_])swapon([^A-Za-z_]|$)' "$program" || continue
    echo "$unit"
  done | sort -u
}

# swap_units: prints the swap units that another unit than swap.target starts at boot. swap.target is masked.
swap_units() {
  for f in /etc/systemd/system/*.wants/*.swap /etc/systemd/system/*.requires/*.swap; do
    case $f in /etc/systemd/system/swap.target.*) continue ;; esac
    [ ! -L "$f" ] && [ ! -e "$f" ] || printf '%s\n' "${f##*/}"
  done | sort -u
}

# swap_units_off: keeps these units from starting.
swap_units_off() {
  for unit in $(swap_units); do systemctl disable -q "$unit" || :; done
}

# swap_services_off: keeps these services from starting, ends what they turned on, and turns swap off.
swap_services_off() {
  for unit in $(swap_services); do
    systemctl disable -q --now "$unit" || :
    # A service that failed because swap was off already must not look broken.
    systemctl reset-failed "$unit" 2>/dev/null || :
  done
  swapoff -a
}
