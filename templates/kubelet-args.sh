# Shell functions that find files which give the kubelet flags that are neither kubeadm's nor ironstrap's. Flags win over the
# kubelet's configuration. Sent with the asks and the fixes that need them.

# kubelet_args_read EDIT: runs kubelet_args_of over all files of this machine that may give the kubelet flags. These are the
# environment files, and the units of systemd that are not the packages' own.
kubelet_args_read() {
  kubelet_args_options=$1
  set --
  for f in /etc/default/kubelet \
    /etc/systemd/system/kubelet.service /run/systemd/system/kubelet.service /usr/local/lib/systemd/system/kubelet.service \
    /etc/systemd/system.control/kubelet.service.d/*.conf /run/systemd/system.control/kubelet.service.d/*.conf \
    /etc/systemd/system/kubelet.service.d/*.conf /run/systemd/system/kubelet.service.d/*.conf \
    /usr/local/lib/systemd/system/kubelet.service.d/*.conf /usr/lib/systemd/system/kubelet.service.d/*.conf \
    /etc/systemd/system/service.d/*.conf /run/systemd/system/service.d/*.conf /etc/systemd/system.conf \
    /etc/systemd/system.conf.d/*.conf /run/systemd/system.conf.d/*.conf; do
    case $f in /usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf) continue ;; esac
    # A unit that is masked is a link to /dev/null.
    [ ! -f "$f" ] || set -- "$@" "$f"
  done
  [ $# = 0 ] || kubelet_args_of "$kubelet_args_options" "$@"
}

# kubelet_args_of EDIT FILE...: prints FILE:LINE: FLAGS for each line that gives the kubelet such flags or starts another
# program. It reads these files, and the environment files that they name. With EDIT it prints the text of one file, with
# these lines commented out.
kubelet_args_of() {
  kubelet_args_edit=$1
  shift
  awk -v edit="$kubelet_args_edit" '
    # Flags that no setting of an inventory is about, and flags that kubeadm itself gives the kubelet.
    function harmless(flag) {
      return flag ~ /^--(v|vmodule|log-.*|logging-.*|cloud-provider|image-credential-provider-.*|runtime-cgroups|kubelet-cgroups)(=|$)/ ||
        flag == "--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf" ||
        flag == "--kubeconfig=/etc/kubernetes/kubelet.conf" || flag == "--config=/var/lib/kubelet/config.yaml"
    }
    function flags(text,  n, a, i, found) {
      gsub(/["\047]/, " ", text)
      n = split(text, a, /[ \t]+/)
      for (i = 1; i <= n; i++) {
        sub(/^[A-Za-z_][A-Za-z_0-9]*=/, "", a[i])
        if (a[i] ~ /^--[A-Za-z]/ && !harmless(a[i])) found = found (found == "" ? "" : " ") a[i]
      }
      return found
    }
    function name_files(value,  n, a, i, x) {
      n = split(value, a, /[ \t]+/)
      for (i = 1; i <= n; i++) {
        sub(/^-/, "", a[i]); gsub(/["\047]/, "", a[i])
        if (a[i] == "" || a[i] == "/var/lib/kubelet/kubeadm-flags.env" || a[i] == "/etc/default/kubelet" || named[a[i]]++) continue
        if ((getline x <a[i]) >= 0) { close(a[i]); ARGV[ARGC++] = a[i] }
      }
    }
    # Returns what a line gives the kubelet. The line may have continued over several lines of the file.
    function given(line,  key, value, program) {
      if (line !~ /=/) return ""
      key = value = line
      sub(/=.*/, "", key); gsub(/[ \t]/, "", key)
      sub(/^[^=]*=[ \t]*/, "", value)
      if (!unit) return flags(value)
      if (key == "EnvironmentFile" && !edit) name_files(value)
      if (key == "Environment") return flags(value)
      # This setting is for all units of the machine.
      if (key == "DefaultEnvironment") return value ~ /KUBELET_[A-Z_]*ARGS=/ ? flags(value) : ""
      if (key != "ExecStart" || value == "") return ""
      program = value
      sub(/^[-@:+!|]+/, "", program); sub(/[ \t].*/, "", program)
      if (program != "/usr/bin/kubelet") return "ExecStart=" program
      program = flags(value)
      # Without its configuration the kubelet would run standalone.
      if (program == "" && value !~ /\$KUBELET_CONFIG_ARGS|\$\{KUBELET_CONFIG_ARGS\}|--config=/) return "ExecStart=" value
      return program
    }
    FNR == 1 { unit = FILENAME ~ /\.(conf|service)$/; held = "" }
    {
      raw[FNR] = $0
      if (held == "" && /^[ \t]*([#;]|$)/) next
      if (held == "") first = FNR
      if (sub(/\\$/, " ")) { held = held $0; next }
      held = held $0
      what = given(held)
      if (what != "") {
        if (!edit) print FILENAME ":" first ": " what
        for (i = first; i <= FNR; i++) bad[i] = 1
        if (held ~ /^[ \t]*ExecStart[ \t]*=/) starts = 1
      }
      held = ""
    }
    # A line ExecStart= without a value drops the other start lines. With the start line commented out, it would leave none.
    END { if (edit) for (i = 1; i <= FNR; i++) print (bad[i] || starts && raw[i] ~ /^[ \t]*ExecStart[ \t]*=[ \t]*$/ ? "# ironstrap: " : "") raw[i] }
  ' "$@"
}

# kubelet_args: prints FILE:LINE: FLAGS for all such lines on this machine.
kubelet_args() {
  kubelet_args_read ''
}

# kubelet_args_out: comments these lines out, keeps the files as they were, and restarts a kubelet that runs.
kubelet_args_out() {
  kubelet_args | sed 's/:[0-9]*: .*//' | sort -u | while read -r f; do
    backup_file "kubelet-args$(printf %s "$f" | tr -c 'A-Za-z0-9.\n' -)" "$f"
    kubelet_args_of edit "$f" | write_file "$f" kept
  done
  systemctl daemon-reload
  again_if_active kubelet
}
