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
}

# before_answer KEY: keeps the answer on standard input, likewise.
before_answer() {
  [ ! -e "$KEPT/before/$1.answer" ] || return 0
  mkdir -p -m 700 "$KEPT" "$KEPT/before"
  ( umask 077; cat >"$KEPT/before/.$1" ) && mv "$KEPT/before/.$1" "$KEPT/before/$1.answer"
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

# lease EPOCH RUN OWNER SECONDS: takes the machine for this run, or keeps it. Exit 75 where somebody else has
# it, or took it since EPOCH was read.
lease() {
  mkdir -p -m 700 "$RUN"
  exec 9>"$RUN/lock"
  flock -w 10 9
  now=$(date +%s) epoch=0 run=- until=0 taken=$now owner=-
  [ ! -e "$RUN/lease" ] || read -r epoch run until taken owner <"$RUN/lease"
  if [ "$run" != "$2" ]; then
    busy=
    for f in /run/systemd/transient/ironstrap-*.service; do [ ! -e "$f" ] || busy=yes; done
    if [ "$epoch" != "$1" ]; then echo "lease lost: $owner took it"; exit 75; fi
    if [ "$owner" != "$3" ] && { [ "$until" -gt "$now" ] || [ -n "$busy" ]; }; then echo "lease held: by $owner"; exit 75; fi
    epoch=$((epoch + 1)) taken=$now
  fi
  echo "$epoch $2 $((now + $4)) $taken $3" >"$RUN/lease.new"
  mv "$RUN/lease.new" "$RUN/lease"
  exec 9>&-
  mine=$2 hold=$4
}

# renew: keeps the lease for what comes next. Exit 75 where somebody took it in the meantime. Work that runs as a
# unit has no lease: it keeps the machine by being there.
renew() {
  [ -n "${mine:-}" ] || return 0
  read -r epoch run until taken owner <"$RUN/lease"
  if [ "$run" != "$mine" ]; then echo "lease lost: $owner took it"; exit 75; fi
  echo "$epoch $run $(($(date +%s) + hold)) $taken $owner" >"$RUN/lease.new"
  mv "$RUN/lease.new" "$RUN/lease"
}

# unlease RUN: gives the machine back, if it is still ours.
unlease() {
  [ -e "$RUN/lease" ] || return 0
  exec 9>"$RUN/lock"
  flock -w 10 9
  read -r epoch run until taken owner <"$RUN/lease"
  [ "$run" != "$1" ] || { echo "$epoch $run 0 $taken $owner" >"$RUN/lease.new"; mv "$RUN/lease.new" "$RUN/lease"; }
  exec 9>&-
}

# long NAME MINUTES: runs the script on standard input as the unit ironstrap-NAME, which goes on when the
# connection is lost, and follows it.
long() {
  mkdir -p -m 700 "$RUN"
  ( umask 077; cat >"$RUN/$1.sh"; : >"$RUN/$1.log" )
  rm -f "$RUN/$1.rc"
  systemd-run --quiet --collect --unit="ironstrap-$1" -p RuntimeMaxSec="$(($2 * 60))" -p StandardInput=null \
    /bin/sh -c "sh $RUN/$1.sh >>$RUN/$1.log 2>&1; r=\$?; rm -f $RUN/$1.sh; echo \$r >$RUN/$1.rc.new; mv $RUN/$1.rc.new $RUN/$1.rc"
  follow "$1"
}

# follow NAME: shows what ironstrap-NAME prints until it ends; ends as it did.
follow() {
  pid=$(systemctl show -p MainPID --value "ironstrap-$1")
  if [ "${pid:-0}" != 0 ]; then tail -n +1 -s 0.1 --pid="$pid" -f "$RUN/$1.log"; else cat "$RUN/$1.log"; fi
  # The unit is gone an instant after its process; while it is there, others take the machine for busy.
  n=0
  while [ -e "/run/systemd/transient/ironstrap-$1.service" ] && [ $n -lt 100 ]; do sleep 0.1; n=$((n + 1)); done
  if [ ! -e "$RUN/$1.rc" ]; then echo "ironstrap-$1 was ended before it was done"; return 1; fi
  read -r r <"$RUN/$1.rc"
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

# hopeless SINCE: prints the first line of a log with one of $HOPELESS, which no waiting changes; fails where there
# is none.
hopeless() {
  [ -n "${HOPELESS:-}" ] || return 1
  {
    journalctl -q --no-pager -o cat -u kubelet --since "@$1"
    find /var/log/pods -path '*/kube-system_*.log' -newermt "@$1" -exec tail -q -n 40 {} + |
      awk -v since="$(date -d "@$1" +%Y-%m-%dT%H:%M:%S)" '$1 >= since'
  } 2>/dev/null | grep -m 1 -F -e "$HOPELESS"
}

# hopeful COMMAND...: runs it for as long as there is hope. A kubelet that keeps dying would speak of what was
# before, so it is stopped first.
hopeful() {
  systemctl is-active -q kubelet || systemctl stop kubelet
  since=$(date +%s)
  "$@" &
  hoping=$!
  (
    while sleep 1; do
      why=$(hopeless "$since") || continue
      echo "no waiting helps: $why" >&2
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
  echo "waited $PATIENCE s for it (--wait)"
}

# patiently COMMAND...: repeats it for $PATIENCE seconds while it fails and there is hope, for a busy machine takes its
# time; says at the end what it said last. A single try must end well within a lease.
patiently() {
  patient_since=$(date +%s)
  patience_ends=$((patient_since + PATIENCE))
  until "$@" 2>"$RUN/patience"; do
    if [ "$(date +%s)" -ge "$patience_ends" ]; then cat "$RUN/patience" >&2; waited >&2; return 1; fi
    if why=$(hopeless "$patient_since"); then echo "no waiting helps: $why" >&2; return 1; fi
    renew
    sleep 0.5
  done
}

# holder FILE...: the process that has the first of them locked that anybody has, as "PID (name)"; "unknown". The table
# is read at once: a shell reads it in small pieces, between which others come and go, and lines are missed.
holder() {
  locks=$(cat /proc/locks) || :
  for f; do
    i=$(stat -c %i "$f" 2>/dev/null) || continue
    while read -r _ _ _ _ pid inode _; do
      case $inode in *:"$i")
        read -r name <"/proc/$pid/comm" 2>/dev/null || name='?'
        echo "$pid ($name)"
        return 0 ;;
      esac
    done <<LOCKS
$locks
LOCKS
  done
  echo unknown
}

# What those who install packages lock.
LOCKS="/var/lib/dpkg/lock-frontend /var/lib/dpkg/lock /var/lib/apt/lists/lock"

# apt ARGS...: apt-get without questions; waits $PATIENCE seconds for whoever holds a lock, and says so.
apt() {
  n=0
  while :; do
    NEEDRESTART_SUSPEND=1 NEEDRESTART_MODE=l APT_LISTCHANGES_FRONTEND=none DEBIAN_FRONTEND=noninteractive \
      apt-get -y -q -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold -o Dpkg::Options::=--force-confdef \
      -o DPkg::Lock::Timeout=0 -o Acquire::Retries=2 -o APT::Install-Recommends=false "$@" \
      >"$RUN/apt.out" 2>&1 && r=0 || r=$?
    cat "$RUN/apt.out"
    [ $r != 0 ] || return 0
    case $(cat "$RUN/apt.out") in
    *'Could not get lock '* | *'Unable to acquire the dpkg frontend lock'* | *'Unable to lock directory'*) ;;
    *) return $r ;;
    esac
    [ $((n * 2)) -lt "$PATIENCE" ] || { waited; return $r; }
    [ $n -gt 0 ] || echo "waiting for the package lock, held by process $(holder $LOCKS)"
    sleep 2
    n=$((n + 1))
  done
}

# repaired: finishes whatever a killed dpkg left half done.
repaired() {
  mkdir -p -m 700 "$RUN"
  n=0
  while ! dpkg --configure -a --force-confold --force-confdef >"$RUN/dpkg.out" 2>&1; do
    grep -q 'lock' "$RUN/dpkg.out" && [ $((n * 2)) -lt "$PATIENCE" ] || { cat "$RUN/dpkg.out"; break; }
    [ $n -gt 0 ] || echo "waiting for the package lock, held by process $(holder $LOCKS)"
    sleep 2
    n=$((n + 1))
  done
}

# packages NAME PACKAGE...: installs them, and notes under NAME which ones come in with them.
packages() {
  came=$KEPT/came/$1
  shift
  repaired
  mkdir -p -m 700 "$KEPT" "$KEPT/came"
  # What fails here fails again below, and is told there.
  apt-get -s -o APT::Install-Recommends=false install --allow-change-held-packages --allow-downgrades "$@" 2>/dev/null \
    | awk '$1 == "Inst" && $3 ~ /^\(/ { print $2 }' >>"$came"
  apt install --allow-change-held-packages --allow-downgrades "$@"
}
