# Shell that fixes share. Sent at the head of each script of fixes; POSIX sh, for dash and bash alike.

RUN=/run/ironstrap
KEPT=/var/lib/ironstrap

# before_file KEY PATH: keeps what stood in PATH before ironstrap first changed it, and which folders it will make.
before_file() {
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
  summed "$1"
}

# summed KEY: the last that is kept of an entry: what its files have in them. By it a reset sees an entry that was damaged.
# Entries of older versions have none.
summed() {
  (
    cd "$KEPT/before" || exit 1
    for f in file absent path answer kept; do [ ! -e "$1.$f" ] || sha256sum -- "$1.$f"; done >".$1"
    mv ".$1" "$1.sum"
  )
}

# before_answer KEY: keeps the answer on standard input, likewise.
before_answer() {
  [ ! -e "$KEPT/before/$1.answer" ] || return 0
  mkdir -p -m 700 "$KEPT" "$KEPT/before"
  ( umask 077; cat >"$KEPT/before/.$1" ) && mv "$KEPT/before/.$1" "$KEPT/before/$1.answer"
  summed "$1"
}

# before_kept KEY: keeps what the function `keep` prints, likewise; to be called before before_answer.
before_kept() {
  [ ! -e "$KEPT/before/$1.answer" ] || return 0
  mkdir -p -m 700 "$KEPT" "$KEPT/before"
  ( umask 077; keep >"$KEPT/before/.$1" ) && mv "$KEPT/before/.$1" "$KEPT/before/$1.kept"
}

# put PATH MODE: standard input becomes the file, whole or not at all. MODE "kept" keeps mode and owner; a new
# file gets 644.
put() {
  file=$1
  [ ! -L "$file" ] || file=$(readlink -f "$file")
  mkdir -p "$(dirname "$file")"
  new=$file.ironstrap
  ( umask 077; cat >"$new" )
  if [ "$2" != kept ]; then chmod "$2" "$new"
  elif [ -e "$file" ]; then chmod --reference="$file" "$new"; chown --reference="$file" "$new"
  else chmod 644 "$new"; fi
  sync -d "$new"
  # A file that is itself a mount point, as in containers, cannot be renamed over.
  if mountpoint -q "$file" 2>/dev/null; then cat "$new" >"$file"; rm -f "$new"; else mv -f "$new" "$file"; fi
}

# lock_lease: no other script reads or writes the lease until unlock_lease. `vanish` deletes the lock together with its
# folder, and a lock that is no longer the one in the folder protects nothing.
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

# write_lease RUN UNTIL OWNER KIN: the lease has the old text or the new one, never half of it.
write_lease() {
  echo "$epoch $1 $2 $taken $3${4:+ $4}" >"$RUN/lease.new"
  mv "$RUN/lease.new" "$RUN/lease"
}

# leaseholder: prints the owner of the lease that read_lease read.
leaseholder() {
  printf '%s (run %.4s)\n' "$owner" "$run"
}

lease_lost() {
  echo "lease lost: $(leaseholder) took it"
  exit 75
}

# working: prints the transient units of ironstrap that still work.
working() {
  for f in /run/systemd/transient/ironstrap-*.service; do
    [ ! -e "$f" ] || { f=${f##*/}; printf '%s ' "${f%.service}"; }
  done
}

# sweep: deletes what earlier runs left behind: scripts, logs and exit codes of units, and answers. A script can hold secrets.
# Call it only when no unit works. The names without a run are those of earlier versions.
sweep() {
  for f in "$RUN"/*.*.sh "$RUN"/*.*.log "$RUN"/*.*.rc "$RUN"/*.*.*.new; do
    [ ! -f "$f" ] || rm -f "$f"
  done
  for f in control-plane drain kubeadm kubelet runtime; do
    rm -f "$RUN/$f.sh" "$RUN/$f.log" "$RUN/$f.rc" "$RUN/$f.rc.new"
  done
  # Answers of questions that were ended. Questions that still run are younger.
  find "$RUN" -maxdepth 1 \( -name 'answers.*' -o -name 'settings.*' \) -mmin +10 -exec rm -rf {} +
}

# lease EPOCH RUN OWNER SECONDS KIN FROM: takes the machine for this run, or keeps it. FROM is the run that may be replaced
# before its lease has ended. Exit 75 when another run holds the machine, when a unit of another run still works, or when
# the lease has changed hands since EPOCH was read.
lease() {
  lock_lease
  read_lease
  now=$(date +%s)
  if [ "$run" != "$2" ]; then
    [ "$epoch" = "$1" ] || lease_lost
    units=$(working)
    if [ -n "$units" ]; then echo "lease held: ${units% } of $(leaseholder) still works"; exit 75; fi
    if [ "$until" -gt "$now" ] && [ "$run" != "$6" ]; then echo "lease held: by $(leaseholder)"; exit 75; fi
    sweep
    epoch=$((epoch + 1)) taken=$now
  fi
  write_lease "$2" $((now + $4)) "$3" "$5"
  unlock_lease
  mine=$2 hold=$4
}

# renew: keeps the lease for what comes next. Exit 75 when another run has taken the machine. A unit has no lease: it
# keeps the machine by being there.
renew() {
  [ -n "${mine:-}" ] || return 0
  lock_lease
  read_lease
  [ "$run" = "$mine" ] || lease_lost
  write_lease "$run" $(($(date +%s) + hold)) "$owner" "$kin"
  unlock_lease
}

# failed: ends a script after a fix that failed. A fix also fails when it loses the lease in a subshell, so the lease is
# read again: exit 75 when another run has taken the machine.
failed() {
  read_lease
  [ "$run" = "$mine" ] || lease_lost
  exit 1
}

# unlease RUN: gives the machine back, if this run still holds it.
unlease() {
  [ -e "$RUN/lease" ] || return 0
  lock_lease
  read_lease
  [ "$run" != "$1" ] || write_lease "$run" 0 "$owner" "$kin"
  unlock_lease
}

# long NAME MINUTES: runs the script on standard input as the unit ironstrap-NAME, which goes on when the
# connection is lost, and follows it. Only the unit itself gives the script its name, so a unit of that name that
# already works keeps its files: systemd refuses the second one first.
long() {
  job=$RUN/$1.$mine
  new=$job.$$.new
  ( umask 077; cat >"$new" )
  # What an earlier unit of this run left says nothing about this one.
  [ -e "/run/systemd/transient/ironstrap-$1.service" ] || rm -f "$job.rc"
  systemd-run --quiet --collect --unit="ironstrap-$1" -p RuntimeMaxSec="$(($2 * 60))" -p StandardInput=null \
    -p ExecStopPost="/bin/rm -f $new $job.sh" \
    /bin/sh -c "rm -f $job.rc $job.log; ( umask 077; : >$job.log ); mv $new $job.sh; sh $job.sh >>$job.log 2>&1; r=\$?; rm -f $job.sh; echo \$r >$job.rc.new; mv $job.rc.new $job.rc" ||
    { r=$?; rm -f "$new"; return $r; }
  while [ -e "$new" ] && [ -e "/run/systemd/transient/ironstrap-$1.service" ]; do sleep 0.1; done
  follow "$1" "$job"
}

# attach NAME: follows ironstrap-NAME, which an earlier run started. That run has the lease for as long as the unit works.
# Earlier versions named the files without the run.
attach() {
  read_lease
  job=$RUN/$1.$run
  [ -e "$job.log" ] || job=$RUN/$1
  follow "$1" "$job"
}

# follow NAME JOB: shows what ironstrap-NAME prints into JOB.log until it ends; ends as it did.
follow() {
  pid=$(systemctl show -p MainPID --value "ironstrap-$1")
  if [ "${pid:-0}" != 0 ]; then tail -n +1 -s 0.1 --pid="$pid" -f "$2.log"; elif [ -e "$2.log" ]; then cat "$2.log"; fi
  # The unit is gone an instant after its process; while it is there, others take the machine for busy.
  n=0
  while [ -e "/run/systemd/transient/ironstrap-$1.service" ] && [ $n -lt 100 ]; do sleep 0.1; n=$((n + 1)); done
  if [ ! -e "$2.rc" ]; then echo "ironstrap-$1 was ended before it was done"; return 1; fi
  read -r r <"$2.rc"
  return "$r"
}

# fresh UNIT FILE...: it runs, and started in a later second than any of the files changed. What was installed a
# moment ago, with its configuration in place, need not be restarted.
fresh() {
  systemctl is-active -q "$1" || return 1
  since=$(date -d "$(systemctl show -p ActiveEnterTimestamp --value "$1")" +%s)
  shift
  for f in "$@"; do [ ! -e "$f" ] || [ "$since" -gt "$(stat -L -c %Z "$f")" ] || return 1; done
}

# steady UNIT: it runs, and goes on running. A unit that does not tell when it is ready counts as active before it
# has so much as read its configuration.
steady() {
  n=0
  until [ $n -ge 6 ] || [ "$(systemctl show -p Type --value "$1")" = notify ]; do
    systemctl is-active -q "$1" || return 1
    sleep 0.5
    n=$((n + 1))
  done
  systemctl is-active -q "$1"
}

# again_if_active UNIT: restarts a unit that runs. Where it does not start any more, what keeps it from that may be another file,
# which a later want is about; the last of them wants it to run.
again_if_active() {
  systemctl is-active -q "$1" || return 0
  { systemctl restart "$1" && steady "$1"; } || echo "$1 does not start; what else is wrong with it comes later"
}

# kubelet_is_written: the kubelet's files are as kubeadm wrote them. Where they are not, a later stage has kubeadm write them, and the
# kubelet may not start before that.
kubelet_is_written() {
  for written in /var/lib/kubelet/config.yaml /var/lib/kubelet/kubeadm-flags.env; do
    [ -f $written ] && grep -qxF "$(sha256sum $written)" /var/lib/ironstrap/kubeadm-receipt 2>/dev/null || return 1
  done
}

# kubelet_ended: the kubelet ended by itself, and systemd is about to start it again or has given up. A kubelet that runs
# repeats words of tenants, e.g. those of a mount, and a line of theirs can look like its own.
kubelet_ended() {
  case $(systemctl show -p SubState --value kubelet 2>/dev/null) in auto-restart* | failed) ;; *) return 1 ;; esac
}

# keeps_ending SINCE: prints what the kubelet ended with, where that was the same three times.
keeps_ending() {
  journalctl -q --no-pager -o cat -u kubelet --since "@$1" 2>/dev/null |
    sed -n 's/^[EF][0-9]\{4\} [0-9:.]* *[0-9]* [A-Za-z0-9_.-]*\.go:[0-9]*\] "command failed" err=/the kubelet ends with /p' |
    awk '++ends[$0] == 3 { print; ended = 1; exit } END { exit !ended }'
}

# hopeless SINCE: prints the first line of a log that one of $HOPELESS matches, which no waiting changes; fails where there
# is none, and the kubelet does not keep ending. The journal of a kubelet that runs does not count. The patterns begin where a line begins, so a line of a container must lose
# what the kubelet writes before it.
hopeless() {
  [ -n "${HOPELESS:-}" ] || return 1
  hopeless_kubelet=
  ! kubelet_ended || hopeless_kubelet=1
  {
    [ -z "$hopeless_kubelet" ] || journalctl -q --no-pager -o cat -u kubelet --since "@$1"
    find /var/log/pods -path '*/kube-system_*.log' -newermt "@$1" -exec tail -q -n 40 {} + |
      awk -v since="$(date -d "@$1" +%Y-%m-%dT%H:%M:%S)" '$1 >= since && sub(/^[^ ]+ std(out|err) [FP] /, "")'
  } 2>/dev/null | grep -m 1 -E -e "$HOPELESS" || { [ -n "$hopeless_kubelet" ] && keeps_ending "$1"; }
}

# hopeful COMMAND...: runs it for as long as there is hope. A kubelet that keeps dying would speak of what was
# before, so it is stopped first.
hopeful() {
  systemctl is-active -q kubelet || systemctl stop kubelet
  since=$(date +%s)
  "$@" &
  hoping=$!
  (
    # It ends with the command, also when this shell is killed.
    while sleep 1 && kill -0 "$hoping" 2>/dev/null; do
      why=$(hopeless "$since") || continue
      printf '%s\n' "no waiting helps: $why" >&2
      kill "$hoping"
      break
    done
  ) &
  watching=$!
  wait "$hoping" && r=0 || r=$?
  kill "$watching" 2>/dev/null || :
  return $r
}

# waited: says how long, and how the user changes that.
waited() {
  echo "waited $PATIENCE s for it (--wait-timeout)"
}

# patiently COMMAND...: repeats it for $PATIENCE seconds while it fails and there is hope, for a busy machine takes its
# time; says at the end what it said last, indented: words of the cluster must not look like a line that ironstrap reads. A
# single try must end well within a lease. One that fails with 76 says that no
# waiting helps, and why. Runs $WHILE_WAITING between two tries.
patiently() {
  patient_since=$(date +%s)
  patience_ends=$((patient_since + PATIENCE))
  until "$@" 2>"$RUN/patience"; do
    [ $? != 76 ] || { printf '%s\n' "no waiting helps: $(sed '2,$s/^/  /' "$RUN/patience")" >&2; return 1; }
    if [ "$(date +%s)" -ge "$patience_ends" ]; then sed 's/^/  /' "$RUN/patience" >&2; waited >&2; return 1; fi
    if why=$(hopeless "$patient_since"); then printf '%s\n' "no waiting helps: $why" >&2; return 1; fi
    ${WHILE_WAITING:-:} || :
    renew
    sleep 0.5
  done
}

# api_is_away WORDS: what kubectl says where no API server was reached, or where that one had no etcd.
api_is_away() {
  case $1 in *refused* | *EOF* | *'connection reset'* | *'connection lost'* | *'TLS handshake timeout'* | *'etcdserver: '*) ;; *) return 1 ;; esac
}

# holder FILE...: the process that has the first of them locked that anybody has, as "PID (name)"; "unknown". The table
# is read at once: a shell reads it in small pieces, between which others come and go, and lines are missed.
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

# What those who install packages lock.
LOCKS="/var/lib/dpkg/lock-frontend /var/lib/dpkg/lock /var/lib/apt/lists/lock"

# is_locked: what apt said last is that another program holds a lock.
is_locked() {
  case $(cat "$RUN/apt.out") in
  *'Could not get lock '* | *'Unable to acquire the dpkg frontend lock'* | *'Unable to lock directory'*) ;;
  *) return 1 ;;
  esac
}

# locked: says who holds the package lock, and what to do about it.
locked() {
  echo "reason: the package lock is held by process $(holder $LOCKS)"
  echo "by hand: package-lock"
}

# apt ARGS...: apt-get without questions. Waits $PATIENCE seconds for a program that holds a lock, and says so.
apt() {
  n=0
  while :; do
    NEEDRESTART_SUSPEND=1 NEEDRESTART_MODE=l APT_LISTCHANGES_FRONTEND=none DEBIAN_FRONTEND=noninteractive \
      apt-get -y -q -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold -o Dpkg::Options::=--force-confdef \
      -o DPkg::Lock::Timeout=0 -o Acquire::Retries=2 -o APT::Install-Recommends=false "$@" \
      >"$RUN/apt.out" 2>&1 && r=0 || r=$?
    cat "$RUN/apt.out"
    [ $r != 0 ] || return 0
    is_locked || return $r
    [ $((n * 2)) -lt "$PATIENCE" ] || { waited; locked; return $r; }
    [ $n -gt 0 ] || echo "waits for: the package lock, held by process $(holder $LOCKS)"
    sleep 2
    n=$((n + 1))
  done
}

# repaired: finishes whatever a killed dpkg left half done.
repaired() {
  mkdir -p -m 700 "$RUN"
  n=0
  while ! dpkg --configure -a --force-confold --force-confdef >"$RUN/dpkg.out" 2>&1; do
    grep -q 'lock' "$RUN/dpkg.out" || { cat "$RUN/dpkg.out"; break; }
    [ $((n * 2)) -lt "$PATIENCE" ] || { waited; locked; return 1; }
    [ $n -gt 0 ] || echo "waits for: the package lock, held by process $(holder $LOCKS)"
    sleep 2
    n=$((n + 1))
  done
}

# packages NAME PACKAGE...: installs them, and notes under NAME which ones come in with them. It removes none.
packages() {
  came=$KEPT/came/$1
  shift
  repaired
  mkdir -p -m 700 "$KEPT" "$KEPT/came"
  # What fails here fails again below, with a message.
  foreseen=$(apt-get -s -o APT::Install-Recommends=false install --allow-change-held-packages --allow-downgrades "$@" 2>/dev/null) || :
  would_go=$(printf '%s\n' "$foreseen" | awk '$1 == "Remv" || $1 == "Purg" { print $2 }' | xargs)
  if [ -n "$would_go" ]; then echo "these packages would be removed: $would_go"; return 1; fi
  printf '%s\n' "$foreseen" | awk '$1 == "Inst" && $3 ~ /^\(/ { print $2 }' >>"$came"
  apt install --no-remove --allow-change-held-packages --allow-downgrades "$@" || return
  # A package with a drop-in alone, as kubeadm's, does not tell systemd.
  systemctl daemon-reload
}
