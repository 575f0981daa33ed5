# Shell that keeps lines in the file from which cloud-init writes /etc/hosts at each boot. Sent with the question and the fix
# that need it.

# cloud_hosts: prints that file, on a machine where cloud-init does this. What a user gave cloud-init (cloud-config.txt) wins over
# what a provider did (the two of the vendor), that over the machine's own files, and the last of these over those before it.
cloud_hosts() {
  [ -f /etc/cloud/templates/hosts.debian.tmpl ] && [ ! -e /etc/cloud/cloud-init.disabled ] || return 0
  set --
  for f in /etc/cloud/cloud.cfg /etc/cloud/cloud.cfg.d/*.cfg /var/lib/cloud/instance/vendor-cloud-config.txt \
    /var/lib/cloud/instance/vendor2-cloud-config.txt /var/lib/cloud/instance/cloud-config.txt; do
    [ ! -f "$f" ] || set -- "$@" "$f"
  done
  [ $# -gt 0 ] || return 0
  # With `localhost` it changes one line, and leaves the others.
  case $(sed -n 's/^["'\'']\{0,1\}manage_etc_hosts["'\'']\{0,1\} *: *//p' "$@" | tail -n 1) in
  [Tt]rue* | TRUE* | template* | [\"\']true* | [\"\']template*) echo /etc/cloud/templates/hosts.debian.tmpl ;;
  esac
}

# cloud_hosts_say MARK: prints the lines there that end in MARK; "not here" where cloud-init leaves /etc/hosts alone.
cloud_hosts_say() {
  cloud_file=$(cloud_hosts)
  if [ -z "$cloud_file" ]; then echo not here; return 0; fi
  MARK=$1 awk 'BEGIN { mark = ENVIRON["MARK"] } substr($0, length($0) - length(mark) + 1) == mark' "$cloud_file"
}

# cloud_hosts_put MARK LINE...: has these lines there, in place of others that end in MARK.
cloud_hosts_put() {
  cloud_mark=$1
  shift
  cloud_file=$(cloud_hosts)
  [ -n "$cloud_file" ] || return 0
  before_file hosts-cloud-init "$cloud_file"
  {
    MARK=$cloud_mark awk 'BEGIN { mark = ENVIRON["MARK"] } substr($0, length($0) - length(mark) + 1) != mark' "$cloud_file"
    printf '%s\n' "$@"
  } | put "$cloud_file" kept
}
