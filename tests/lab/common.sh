# Shared by all files of the lab: paths, messages, and a record of the lab's processes, so that it ends
# only processes that it started.
# shellcheck shell=bash disable=SC2034 # the files that source this one use these

CACHE=${IRONSTRAP_LAB_CACHE:-/var/cache/ironstrap-lab}
LAB=${IRONSTRAP_LAB:-/var/lib/ironstrap-lab}
# The names of network namespaces and cgroups begin with the lab's name. So two labs in two folders
# can run side by side, and their networks are separate.
ID=$(basename "$LAB")
NET=198.18.0

say() { printf '%s\n' "$*" >&2; }
die() { say "lab: $*"; exit 1; }

# room GIB: fails if the lab's file system has less free space. On a full disk, machines would fail later in many ways.
room() {
  local free
  free=$(df --output=avail -B1M "$LAB" | tail -n 1)
  ((free >= $1 * 1024)) ||
    die "$LAB has $((free / 1024)) GiB free, and the lab needs $1: delete something, or name another folder in IRONSTRAP_LAB"
}

# held LOCK COMMAND…: runs a command of the lab while holding the lock. The command must start background
# processes with `alone`, or they would keep the lock.
held() {
  local lock=$1; shift
  mkdir -p "$(dirname "$lock")"
  exec 9>"$lock"
  flock -w 3600 9 || die "another lab command has held $lock for an hour"
  "$@"
  exec 9>&-
}

# alone COMMAND…: runs the command in a new session with only the three standard files open. Other open files
# of the caller, for example a lock, must not stay open as long as a machine runs.
alone() {
  local fd
  for fd in /proc/self/fd/*; do
    fd=${fd##*/}
    ((fd <= 2)) || eval "exec $fd>&-"
  done
  exec setsid "$@"
}

# started PID: the start time of the process in clock ticks. Empty if the process has ended or is a zombie.
# A process id alone is not enough, because another process may have it by now.
started() {
  local line fields
  { line=$(<"/proc/$1/stat"); } 2>/dev/null || return 0
  read -ra fields <<<"${line##*) }"
  [[ ${fields[0]} == Z ]] || printf '%s\n' "${fields[19]}"
}

remember() { printf '%s %s\n' "$2" "$(started "$2")" >"$1"; } # FILE PID

# recorded FILE: the process id in the file, if it still belongs to the recorded process
recorded() {
  local pid start
  [[ -s $1 ]] && read -r pid start <"$1" && [[ -n $start && $(started "$pid") == "$start" ]] && printf '%s\n' "$pid"
}

# gone FILE SECONDS: waits for the recorded process to end
gone() {
  local try
  for ((try = 0; try < $2 * 20; try++)); do
    recorded "$1" >/dev/null || return 0
    sleep 0.05
  done
  return 1
}

# finish FILE SIGNAL: ends the recorded process with the signal, and with SIGKILL if it does not end
finish() {
  local pid
  pid=$(recorded "$1") || { rm -f "$1"; return 0; }
  kill -s "$2" "$pid" 2>/dev/null || true
  gone "$1" 5 || { kill -s KILL "$pid" 2>/dev/null || true; gone "$1" 5 || die "process $pid does not end"; }
  rm -f "$1"
}
