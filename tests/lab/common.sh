# What all of the lab's files share: where things are, words to the caller, and processes
# remembered so that only what the lab itself started is ever ended.
# shellcheck shell=bash disable=SC2034 # the files that source this one use these

CACHE=${IRONSTRAP_LAB_CACHE:-/var/cache/ironstrap-lab}
LAB=${IRONSTRAP_LAB:-/var/lib/ironstrap-lab}
# Names in the host's tables (network namespaces, cgroups) begin with the lab's own name, so two
# labs in two folders can live side by side: their networks never meet.
ID=$(basename "$LAB")
NET=198.18.0

say() { printf '%s\n' "$*" >&2; }
die() { say "lab: $*"; exit 1; }

# room GIB: fails where the lab's file system has less free space. Machines that find it full fail later, in many ways.
room() {
  local free
  free=$(df --output=avail -B1M "$LAB" | tail -n 1)
  ((free >= $1 * 1024)) ||
    die "$LAB has $((free / 1024)) GiB free, and the lab needs $1: delete something, or name another folder in IRONSTRAP_LAB"
}

# held LOCK COMMAND…: runs a command of the lab while nobody else holds the lock. What it leaves
# running must run alone, or the lock would stay with it.
held() {
  local lock=$1; shift
  mkdir -p "$(dirname "$lock")"
  exec 9>"$lock"
  flock -w 3600 9 || die "another lab command has held $lock for an hour"
  "$@"
  exec 9>&-
}

# alone COMMAND…: becomes a session of its own, with no open file but the three that everybody has:
# whoever calls the lab may have others, a lock say, that must not live as long as a machine does.
alone() {
  local fd
  for fd in /proc/self/fd/*; do
    fd=${fd##*/}
    ((fd <= 2)) || eval "exec $fd>&-"
  done
  exec setsid "$@"
}

# started PID: when the kernel started that process, in clock ticks; empty for one that is gone
# or only waits to be collected. A process id alone may be somebody else's by now.
started() {
  local line fields
  { line=$(<"/proc/$1/stat"); } 2>/dev/null || return 0
  read -ra fields <<<"${line##*) }"
  [[ ${fields[0]} == Z ]] || printf '%s\n' "${fields[19]}"
}

remember() { printf '%s %s\n' "$2" "$(started "$2")" >"$1"; } # FILE PID

# recorded FILE: the process id in it, if that process still is the one that was remembered
recorded() {
  local pid start
  [[ -s $1 ]] && read -r pid start <"$1" && [[ -n $start && $(started "$pid") == "$start" ]] && printf '%s\n' "$pid"
}

# gone FILE SECONDS: waits for the remembered process to end
gone() {
  local try
  for ((try = 0; try < $2 * 20; try++)); do
    recorded "$1" >/dev/null || return 0
    sleep 0.05
  done
  return 1
}

# finish FILE SIGNAL: ends the remembered process, with the last word if it does not listen
finish() {
  local pid
  pid=$(recorded "$1") || { rm -f "$1"; return 0; }
  kill -s "$2" "$pid" 2>/dev/null || true
  gone "$1" 5 || { kill -s KILL "$pid" 2>/dev/null || true; gone "$1" 5 || die "process $pid does not end"; }
  rm -f "$1"
}
