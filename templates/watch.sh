# The watchdog of a script of asks. All asks of the script share one. POSIX sh, for dash and bash alike.

# watch MARK TICK EACH ALL: reads the process of the script from standard input, and then the number of each ask as it
# begins. It ends an ask that lasts longer than EACH times TICK seconds, and the script after ALL times TICK seconds. It says
# so on standard output, after the word MARK. It ends at once when the script ends, because that ends its input.
watch() {
  mark=$1 number=0 idle=0 total=0
  read -r script || return 0
  while :; do
    begun=$(timeout "$2" cat) && r=0 || r=$?
    [ $r != 0 ] || return 0
    # Without a reader of its pipe, the next number would end the script.
    [ $r = 124 ] || { cat >/dev/null; return 0; }
    idle=$((idle + 1)) total=$((total + 1))
    if [ -n "$begun" ]; then
      idle=0 number=${begun##*[!0-9]}
    fi
    if [ $total -ge "$4" ]; then
      watch_end overdue
      return 0
    fi
    [ $idle -lt "$3" ] || { watch_end late && idle=0; } || return 0
  done
}

# watch_end WHY: says what the ask waits for, and ends its processes, first gently. It ends the script if a process survives,
# or if WHY is "overdue".
watch_end() {
  found=
  watch_find "$script"
  watch_say "$1"
  watch_kill TERM
  n=0
  while [ $n -lt 5 ]; do
    sleep 1
    watch_find
    [ -n "$found" ] || break
    watch_kill KILL
    n=$((n + 1))
  done
  [ -z "$found" ] || watch_say stuck
  [ -n "$found" ] || [ "$1" = overdue ] || return 0
  kill -KILL "$script"
  return 1
}

# watch_find PID...: reduces $found, words of PID:START, to those that still live, and adds all descendants of them and of
# PID. The deepest comes last. Zombies do not count as alive. It reads /proc by itself, because not every machine has `ps`.
watch_find() {
  roots=$* all=' '
  for d in /proc/[0-9]*; do
    s=
    { while read -r x || [ -n "$x" ]; do s="$s$x "; done <"$d/stat"; } 2>/dev/null || continue
    # The name of a process may contain anything. The numbers follow its last parenthesis.
    set -- ${s##*) }
    case ${1:-Z} in [ZX]) ;; *) all="$all${d#/proc/}:${20}:$2 " ;; esac
  done
  pids=" $roots " kept=
  for p in $found; do
    case $all in *" $p:"*) kept="$kept $p" pids="$pids${p%%:*} " ;; esac
  done
  found=$kept more=yes
  while [ -n "$more" ]; do
    more=
    for p in $all; do
      case $pids in *" ${p%%:*} "*) continue ;; esac
      case $pids in *" ${p##*:} "*) found="$found ${p%:*}" pids="$pids${p%%:*} " more=yes ;; esac
    done
  done
}

watch_kill() {
  for p in $found; do kill -"$1" "${p%%:*}" 2>/dev/null || :; done
}

# watch_say WHY: says WHY about the running ask, with the process that it waits for.
watch_say() {
  pid=${found##* } name='?'
  pid=${pid%%:*}
  { read -r name <"/proc/${pid:-0}/comm"; } 2>/dev/null || :
  printf '\n%s %s %s %s %s\n' "$mark" "$1" "$number" "${pid:-0}" "$name"
}
