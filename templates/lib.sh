# Shell functions that fixes share. Sent at the head of each script of fixes. POSIX sh, for dash and bash alike.

RUN=/run/ironstrap
KEPT=/var/lib/ironstrap

# backup_file KEY PATH: keeps what was in PATH before ironstrap first changed it, and notes which folders ironstrap will create.
backup_file() {
  [ ! -e "$KEPT/before/$1.file" ] && [ ! -e "$KEPT/before/$1.absent" ] || return 0
  mkdir -p -m 700 "$KEPT" "$KEPT/before"
  folder=$(dirname "$2")
  while [ ! -e "$folder" ]; do echo "$folder" >>"$KEPT/folders"; folder=$(dirname "$folder"); done
  echo "$2" >"$KEPT/before/$1.path"
  if [ -e "$2" ]; then
    cp -pL "$2" "$KEPT/before/.$1" && mv "$KEPT/before/.$1" "$KEPT/before/$1.file"
  else
    : >"$KEPT/before/$1.absent"
  fi
  backup_checksum "$1"
}

# backup_checksum KEY: writes the checksums of the files of an entry, as the last part of the entry. A reset finds damaged
# entries by them. Entries of earlier versions have none.
backup_checksum() {
  (
    cd "$KEPT/before" || exit 1
    for f in file absent path answer kept; do [ ! -e "$1.$f" ] || sha256sum -- "$1.$f"; done >".$1"
    mv ".$1" "$1.sum"
  )
}

# backup_answer KEY: keeps the answer on standard input in the same way.
backup_answer() {
  [ ! -e "$KEPT/before/$1.answer" ] || return 0
  mkdir -p -m 700 "$KEPT" "$KEPT/before"
  ( umask 077; cat >"$KEPT/before/.$1" ) && mv "$KEPT/before/.$1" "$KEPT/before/$1.answer"
  backup_checksum "$1"
}

# backup_extra KEY: keeps what the function `keep` prints in the same way. Call it before backup_answer.
backup_extra() {
  [ ! -e "$KEPT/before/$1.answer" ] || return 0
  mkdir -p -m 700 "$KEPT" "$KEPT/before"
  ( umask 077; keep >"$KEPT/before/.$1" ) && mv "$KEPT/before/.$1" "$KEPT/before/$1.kept"
}

# write_file PATH MODE: writes standard input to the file, whole or not at all. "kept" keeps mode and owner. A new file gets 644.
write_file() {
  file=$1
  [ ! -L "$file" ] || file=$(readlink -f "$file")
  mkdir -p "$(dirname "$file")"
  new=$file.ironstrap
  ( umask 077; cat >"$new" )
  if [ "$2" != kept ]; then chmod "$2" "$new"
  elif [ -e "$file" ]; then chmod --reference="$file" "$new"; chown --reference="$file" "$new"
  else chmod 644 "$new"; fi
  sync -d "$new"
  # A file that is itself a mount point, as in containers, cannot be replaced by a rename.
  if mountpoint -q "$file" 2>/dev/null; then cat "$new" >"$file"; rm -f "$new"; else mv -f "$new" "$file"; fi
}

# lock_lease: locks the lease, so that no other script reads or writes it until unlock_lease. `cleanup_run_dir` deletes the
# lock together with its folder. A lock that is no longer the one in the folder protects nothing.
lock_lease() {
  lock_tries=0
  # shellcheck disable=SC3013 # dash and bash have -ef
  until
    mkdir -p -m 700 "$RUN"
    exec 9>"$RUN/lock"
    flock -w 10 9 || { echo "cannot lock $RUN/lock within 10 seconds" >&2; exit 1; }
    [ "$RUN/lock" -ef /proc/self/fd/9 ]
  do
    lock_tries=$((lock_tries + 1))
    [ $lock_tries -lt 20 ] || { echo "cannot lock $RUN/lock: it is replaced again and again" >&2; exit 1; }
  done
}

unlock_lease() {
  exec 9>&-
}

# read_lease: sets epoch, run, until, taken, owner and kin. Leases of older versions have no kin.
read_lease() {
  epoch=0 run=- until=0 taken=0 owner=nobody kin=
  [ ! -e "$RUN/lease" ] || read -r epoch run until taken owner kin <"$RUN/lease"
}

# write_lease RUN UNTIL OWNER KIN: replaces the lease at once. It has the old text or the new one, never half of it.
write_lease() {
  echo "$epoch $1 $2 $taken $3${4:+ $4}" >"$RUN/lease.new"
  mv "$RUN/lease.new" "$RUN/lease"
}

# leaseholder: prints the owner of the lease that read_lease read.
leaseholder() {
  printf '%s (run %.4s)\n' "$owner" "$run"
}

lease_lost() {
  case $run in
  -) echo 'lease lost: the file of the lease is gone' ;;
  *) echo "lease lost: $(leaseholder) took it" ;;
  esac
  exit 75
}

# active_units: prints the transient units of ironstrap that still work.
active_units() {
  for f in /run/systemd/transient/ironstrap-*.service; do
    [ ! -e "$f" ] || { f=${f##*/}; printf '%s ' "${f%.service}"; }
  done
}

# delete_leftovers: deletes what earlier runs left behind: scripts, logs and exit codes of units, and answers. A script can
# hold secrets. Call it only when no unit works. The names without a run are those of earlier versions.
delete_leftovers() {
  for f in "$RUN"/*.*.sh "$RUN"/*.*.log "$RUN"/*.*.rc "$RUN"/*.*.*.new; do
    [ ! -f "$f" ] || rm -f "$f"
  done
  for f in control-plane drain kubeadm kubelet runtime; do
    rm -f "$RUN/$f.sh" "$RUN/$f.log" "$RUN/$f.rc" "$RUN/$f.rc.new"
  done
  # Delete answers of asks that were ended. Answers of asks that still run are younger.
  find "$RUN" -maxdepth 1 \( -name 'answers.*' -o -name 'settings.*' \) -mmin +10 -exec rm -rf {} +
}

# take_lease EPOCH RUN OWNER SECONDS KIN FROM: takes the machine for this run, or keeps it. FROM is the run that may be
# replaced before its lease has ended. Exit 75 when another run holds the machine, when a unit of another run still works,
# or when the lease has changed hands since EPOCH was read.
take_lease() {
  lock_lease
  read_lease
  now=$(date +%s)
  if [ "$run" != "$2" ]; then
    [ "$epoch" = "$1" ] || lease_lost
    units=$(active_units)
    if [ -n "$units" ]; then echo "lease held: ${units% } of $(leaseholder) still works"; exit 75; fi
    if [ "$until" -gt "$now" ] && [ "$run" != "$6" ]; then echo "lease held: by $(leaseholder)"; exit 75; fi
    delete_leftovers
    epoch=$((epoch + 1)) taken=$now
  fi
  write_lease "$2" $((now + $4)) "$3" "$5"
  unlock_lease
  lease_run=$2 lease_seconds=$4
}

# renew_lease: extends the lease for the next part of a script. Exit 75 when another run has taken the machine. A unit has
# no lease, because other runs do not take the machine while the unit works.
renew_lease() {
  [ -n "${lease_run:-}" ] || return 0
  lock_lease
  read_lease
  [ "$run" = "$lease_run" ] || lease_lost
  write_lease "$run" $(($(date +%s) + lease_seconds)) "$owner" "$kin"
  unlock_lease
}

# end_failed: ends a script after a fix that failed. A fix also fails when it loses the lease in a subshell, so the lease
# is read again: exit 75 when another run has taken the machine.
end_failed() {
  read_lease
  [ "$run" = "$lease_run" ] || lease_lost
  exit 1
}

# release_lease RUN: ends the lease, if this run still holds it.
release_lease() {
  [ -e "$RUN/lease" ] || return 0
  lock_lease
  read_lease
  [ "$run" != "$1" ] || write_lease "$run" 0 "$owner" "$kin"
  unlock_lease
}

# run_as_unit NAME MINUTES: runs the script on standard input as the unit ironstrap-NAME, and follows it. The unit goes on
# when the connection is lost. Only the unit itself gives the script its name. So a unit of that name that already works
# keeps its files, because systemd refuses the second one first.
run_as_unit() {
  job=$RUN/$1.$lease_run
  new=$job.$$.new
  ( umask 077; cat >"$new" )
  # The exit code of an earlier unit of this run says nothing about this unit.
  [ -e "/run/systemd/transient/ironstrap-$1.service" ] || rm -f "$job.rc"
  systemd-run --quiet --collect --unit="ironstrap-$1" -p RuntimeMaxSec="$(($2 * 60))" -p StandardInput=null \
    -p ExecStopPost="/bin/rm -f $new $job.sh" \
    /bin/sh -c "rm -f $job.rc $job.log; ( umask 077; : >$job.log ); mv $new $job.sh; sh $job.sh >>$job.log 2>&1; r=\$?; rm -f $job.sh; echo \$r >$job.rc.new; mv $job.rc.new $job.rc" ||
    { r=$?; rm -f "$new"; return $r; }
  while [ -e "$new" ] && [ -e "/run/systemd/transient/ironstrap-$1.service" ]; do sleep 0.1; done
  follow "$1" "$job"
}

# follow_earlier_unit NAME: follows ironstrap-NAME, which an earlier run started. That run has the lease for as long as the
# unit works. Earlier versions named the files without the run.
follow_earlier_unit() {
  read_lease
  job=$RUN/$1.$run
  [ -e "$job.log" ] || job=$RUN/$1
  follow "$1" "$job"
}

# follow NAME JOB: prints what ironstrap-NAME writes to JOB.log until the unit ends, and returns the exit code of the unit.
follow() {
  pid=$(systemctl show -p MainPID --value "ironstrap-$1")
  if [ "${pid:-0}" != 0 ]; then tail -n +1 -s 0.1 --pid="$pid" -f "$2.log"; elif [ -e "$2.log" ]; then cat "$2.log"; fi
  # systemd removes the unit an instant after its process ends. Until then, others take the machine for busy.
  n=0
  while [ -e "/run/systemd/transient/ironstrap-$1.service" ] && [ $n -lt 100 ]; do sleep 0.1; n=$((n + 1)); done
  if [ ! -e "$2.rc" ]; then echo "ironstrap-$1 was stopped before it finished"; return 1; fi
  read -r r <"$2.rc"
  return "$r"
}

# started_after UNIT FILE...: succeeds if the unit runs, and started in a later second than any of the files changed. A unit
# that was installed a moment ago, with its configuration in place, needs no restart.
started_after() {
  systemctl is-active -q "$1" || return 1
  since=$(date -d "$(systemctl show -p ActiveEnterTimestamp --value "$1")" +%s)
  shift
  for f in "$@"; do [ ! -e "$f" ] || [ "$since" -gt "$(stat -L -c %Z "$f")" ] || return 1; done
}

# stays_active UNIT: succeeds if the unit runs, and goes on running. A unit that does not tell when it is ready counts as
# active before it has even read its configuration.
stays_active() {
  n=0
  until [ $n -ge 6 ] || [ "$(systemctl show -p Type --value "$1")" = notify ]; do
    systemctl is-active -q "$1" || return 1
    sleep 0.5
    n=$((n + 1))
  done
  systemctl is-active -q "$1"
}

# again_if_active UNIT: restarts a unit that runs. If it no longer starts, the cause may be another file, which a later want
# is about. The last of these wants requires that the unit runs.
again_if_active() {
  systemctl is-active -q "$1" || return 0
  { systemctl restart "$1" && stays_active "$1"; } || echo "$1 does not start yet; later fixes of this run handle other faults"
}

# kubelet_is_written: succeeds if the kubelet's files are as kubeadm wrote them. Otherwise a later stage has kubeadm write
# them, and the kubelet may be unable to start before that.
kubelet_is_written() {
  for written in /var/lib/kubelet/config.yaml /var/lib/kubelet/kubeadm-flags.env; do
    [ -f $written ] && grep -qxF "$(sha256sum $written)" /var/lib/ironstrap/kubeadm-receipt 2>/dev/null || return 1
  done
}

# kubelet_ended: succeeds if the kubelet ended by itself, and systemd is about to start it again or has given up. A running
# kubelet repeats words of tenants, such as those of a mount. Such a line can look like a line of the kubelet itself.
kubelet_ended() {
  case $(systemctl show -p SubState --value kubelet 2>/dev/null) in auto-restart* | failed) ;; *) return 1 ;; esac
}

# keeps_ending SINCE: prints the error with which the kubelet ended, if that was the same one three times.
keeps_ending() {
  journalctl -q --no-pager -o cat -u kubelet --since "@$1" 2>/dev/null |
    sed -n 's/^[EF][0-9]\{4\} [0-9:.]* *[0-9]* [A-Za-z0-9_.-]*\.go:[0-9]*\] "command failed" err=/the kubelet ends with /p' |
    awk '++ends[$0] == 3 { print; ended = 1; exit } END { exit !ended }'
}

# fatal_log_line SINCE: prints the first log line that matches one of $FATAL_PATTERNS. No waiting changes such an error. Fails if
# there is none, and the kubelet does not keep ending. The journal of a running kubelet does not count. The patterns match at the
# beginning of a line, so the text that the kubelet writes before a line of a container is removed.
fatal_log_line() {
  [ -n "${FATAL_PATTERNS:-}" ] || return 1
  fatal_kubelet=
  ! kubelet_ended || fatal_kubelet=1
  {
    [ -z "$fatal_kubelet" ] || journalctl -q --no-pager -o cat -u kubelet --since "@$1"
    find /var/log/pods -path '*/kube-system_*.log' -newermt "@$1" -exec tail -q -n 40 {} + |
      awk -v since="$(date -d "@$1" +%Y-%m-%dT%H:%M:%S)" '$1 >= since && sub(/^[^ ]+ std(out|err) [FP] /, "")'
  } 2>/dev/null | grep -m 1 -E -e "$FATAL_PATTERNS" || { [ -n "$fatal_kubelet" ] && keeps_ending "$1"; }
}

# run_unless_fatal COMMAND...: runs the command, and stops it once fatal_log_line finds an error. A kubelet that keeps dying is
# stopped first, because it would report old errors.
run_unless_fatal() {
  systemctl is-active -q kubelet || systemctl stop kubelet
  since=$(date +%s)
  "$@" &
  hoping=$!
  (
    # This loop ends with the command, also when this shell is killed.
    while sleep 1 && kill -0 "$hoping" 2>/dev/null; do
      why=$(fatal_log_line "$since") || continue
      printf '%s\n' "waiting does not help: $why" >&2
      kill "$hoping"
      break
    done
  ) &
  watching=$!
  wait "$hoping" && r=0 || r=$?
  kill "$watching" 2>/dev/null || :
  return $r
}

# timed_out: prints how long the script has waited, and how the user changes that.
timed_out() {
  echo "timed out after $WAIT_TIMEOUT s (--wait-timeout)"
}

# retry COMMAND...: repeats the command while it fails, for $WAIT_TIMEOUT seconds, because a busy machine takes its time. It
# stops early if fatal_log_line finds an error, or if the command fails with 76. 76 means that waiting does not help, and the
# command says why. At the end it prints the last error, indented, because words of the cluster must not look like a line
# that ironstrap reads. A single try must end well within a lease. It runs $BETWEEN_TRIES between two tries.
retry() {
  retry_since=$(date +%s)
  retry_ends=$((retry_since + WAIT_TIMEOUT))
  until "$@" 2>"$RUN/patience"; do
    [ $? != 76 ] || { printf '%s\n' "waiting does not help: $(sed '2,$s/^/  /' "$RUN/patience")" >&2; return 1; }
    if why=$(fatal_log_line "$retry_since"); then printf '%s\n' "waiting does not help: $why" >&2; return 1; fi
    if [ "$(date +%s)" -ge "$retry_ends" ]; then sed 's/^/  /' "$RUN/patience" >&2; timed_out >&2; return 1; fi
    ${BETWEEN_TRIES:-:} || :
    renew_lease
    sleep 0.5
  done
}

# api_is_away WORDS: succeeds if kubectl says that no API server was reached, or that the API server had no etcd.
api_is_away() {
  case $1 in *refused* | *EOF* | *'connection reset'* | *'connection lost'* | *'TLS handshake timeout'* | *'etcdserver: '*) ;; *) return 1 ;; esac
}

# holder FILE...: prints the process that holds the first locked file, as "PID (name)", or "unknown". The table is read at
# once. A shell reads it in small pieces, and misses lines if processes come and go in between.
holder() {
  locks=$(cat /proc/locks) || :
  for f; do
    i=$(stat -c %i "$f" 2>/dev/null) || continue
    found=$(printf '%s\n' "$locks" | while read -r _ _ _ _ pid inode _; do
      case $inode in *:"$i") ;; *) continue ;; esac
      read -r name <"/proc/$pid/comm" 2>/dev/null || name='?'
      echo "$pid ($name)"
      break
    done)
    [ -z "$found" ] || { echo "$found"; return 0; }
  done
  echo unknown
}

# Files that programs lock while they install packages.
LOCKS="/var/lib/dpkg/lock-frontend /var/lib/dpkg/lock /var/lib/apt/lists/lock"

# is_locked: succeeds if apt's last output says that another program holds a lock.
is_locked() {
  case $(cat "$RUN/apt.out") in
  *'Could not get lock '* | *'Unable to acquire the dpkg frontend lock'* | *'Unable to lock directory'*) ;;
  *) return 1 ;;
  esac
}

# locked: prints which process holds the package lock, and what to do about it.
locked() {
  echo "reason: the package lock is held by process $(holder $LOCKS)"
  echo "by hand: package-lock"
}

# apt_get ARGS...: runs apt-get without questions. It waits $WAIT_TIMEOUT seconds for a program that holds a lock, and says so.
apt_get() {
  n=0
  while :; do
    NEEDRESTART_SUSPEND=1 NEEDRESTART_MODE=l APT_LISTCHANGES_FRONTEND=none DEBIAN_FRONTEND=noninteractive \
      apt-get -y -q -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold -o Dpkg::Options::=--force-confdef \
      -o DPkg::Lock::Timeout=0 -o Acquire::Retries=2 -o APT::Install-Recommends=false "$@" \
      >"$RUN/apt.out" 2>&1 && r=0 || r=$?
    cat "$RUN/apt.out"
    [ $r != 0 ] || return 0
    is_locked || return $r
    [ $((n * 2)) -lt "$WAIT_TIMEOUT" ] || { timed_out; locked; return $r; }
    [ $n -gt 0 ] || echo "waits for: the package lock, held by process $(holder $LOCKS)"
    sleep 2
    n=$((n + 1))
  done
}

# pkg_repair: finishes what a killed dpkg left half done.
pkg_repair() {
  mkdir -p -m 700 "$RUN"
  n=0
  while ! dpkg --configure -a --force-confold --force-confdef >"$RUN/dpkg.out" 2>&1; do
    grep -q 'lock' "$RUN/dpkg.out" || { cat "$RUN/dpkg.out"; break; }
    [ $((n * 2)) -lt "$WAIT_TIMEOUT" ] || { timed_out; locked; return 1; }
    [ $n -gt 0 ] || echo "waits for: the package lock, held by process $(holder $LOCKS)"
    sleep 2
    n=$((n + 1))
  done
}

# pkg_install NAME PACKAGE...: installs these packages, and notes under NAME which ones come in with them. It removes none.
pkg_install() {
  came=$KEPT/came/$1
  shift
  pkg_repair
  mkdir -p -m 700 "$KEPT" "$KEPT/came"
  # If this simulation fails, the installation below fails again, with a message.
  foreseen=$(apt-get -s -o APT::Install-Recommends=false install --allow-change-held-packages --allow-downgrades "$@" 2>/dev/null) || :
  would_go=$(printf '%s\n' "$foreseen" | awk '$1 == "Remv" || $1 == "Purg" { print $2 }' | xargs)
  if [ -n "$would_go" ]; then echo "these packages would be removed: $would_go"; return 1; fi
  printf '%s\n' "$foreseen" | awk '$1 == "Inst" && $3 ~ /^\(/ { print $2 }' >>"$came"
  apt_get install --no-remove --allow-change-held-packages --allow-downgrades "$@" || return
  # A package that has only a drop-in, such as kubeadm's, does not tell systemd.
  systemctl daemon-reload
}
