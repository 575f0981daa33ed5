# The watchdog of a script of questions: one for all of them. POSIX sh, for dash and bash alike.

# watch MARK TICK EACH ALL: reads from standard input the process of the script, and then the number of each question as it
# begins. Ends a question that lasts longer than EACH times TICK seconds, and the script after ALL times TICK seconds;
# standard output says so after the word MARK. Ends at once when the script ends, for that ends its input.
watch() {
  mark=$1 number=0 idle=0 total=0
  read -r script || return 0
  while :; do
    begun=$(timeout "$2" cat) && r=0 || r=$?
    [ $r != 0 ] || return 0
    # Without this the next number would end the script.
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

# watch_end WHY: says what the question waits for, and ends its processes, first gently. Ends the script where one survives,
# and where WHY is "overdue".
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

# watch_find PID...: sets $found, words of PID:START, to those of it that still live, with all their descendants and those
# of PID. The deepest comes last. Zombies do not live. It reads /proc by itself: `ps` is not on every machine.
watch_find() {
  roots=$* all=' '
  for d in /proc/[0-9]*; do
    s=
    { while read -r x || [ -n "$x" ]; do s="$s$x "; done <"$d/stat"; } 2>/dev/null || continue
    # A name may hold anything; the numbers follow its last parenthesis.
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

# watch_say WHY: says it of the question that runs, with the process that it waits for.
watch_say() {
  pid=${found##* } name='?'
  pid=${pid%%:*}
  { read -r name <"/proc/${pid:-0}/comm"; } 2>/dev/null || :
  printf '\n%s %s %s %s %s\n' "$mark" "$1" "$number" "${pid:-0}" "$name"
}
