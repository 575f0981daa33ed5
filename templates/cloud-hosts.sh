# Shell functions that keep lines in the template from which cloud-init writes /etc/hosts at each boot. Sent with the ask and
# the fix that need them.

# cloud_hosts: prints the path of that template, on a machine where cloud-init writes /etc/hosts. Settings of the user
# (cloud-config.txt) win over those of the provider (the two vendor files). Those win over the files of the machine, of which
# the last one wins.
cloud_hosts() {
  [ -f /etc/cloud/templates/hosts.debian.tmpl ] && [ ! -e /etc/cloud/cloud-init.disabled ] || return 0
  set --
  for f in /etc/cloud/cloud.cfg /etc/cloud/cloud.cfg.d/*.cfg /var/lib/cloud/instance/vendor-cloud-config.txt \
    /var/lib/cloud/instance/vendor2-cloud-config.txt /var/lib/cloud/instance/cloud-config.txt; do
    [ ! -f "$f" ] || set -- "$@" "$f"
  done
  [ $# -gt 0 ] || return 0
  # With `localhost`, cloud-init changes one line of /etc/hosts and leaves the others.
  case $(sed -n 's/^["'\'']\{0,1\}manage_etc_hosts["'\'']\{0,1\} *: *//p' "$@" | tail -n 1) in
  [Tt]rue* | TRUE* | template* | [\"\']true* | [\"\']template*) echo /etc/cloud/templates/hosts.debian.tmpl ;;
  esac
}

# cloud_hosts_say MARK: prints the lines of the template that end in MARK. Ends the ask by `not_here` if cloud-init does not
# write /etc/hosts.
cloud_hosts_say() {
  cloud_file=$(cloud_hosts)
  [ -n "$cloud_file" ] || not_here
  MARK=$1 awk 'BEGIN { mark = ENVIRON["MARK"] } substr($0, length($0) - length(mark) + 1) == mark' "$cloud_file"
}

# cloud_hosts_put MARK LINE...: puts these lines into the template, in place of all lines that end in MARK.
cloud_hosts_put() {
  cloud_mark=$1
  shift
  cloud_file=$(cloud_hosts)
  [ -n "$cloud_file" ] || return 0
  backup_file hosts-cloud-init "$cloud_file"
  {
    MARK=$cloud_mark awk 'BEGIN { mark = ENVIRON["MARK"] } substr($0, length($0) - length(mark) + 1) != mark' "$cloud_file"
    printf '%s\n' "$@"
  } | write_file "$cloud_file" kept
}
