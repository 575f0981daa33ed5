# Shell about the sources of packages that a machine has already. Sent with the questions that need it. $d is a folder that
# the question deletes.

# sources_apt ARGS...: apt-get, as it would read this machine's sources, but nothing it learns outlives the question. It reads
# no lists of packages, and nothing of the machine's own runs before or after it.
sources_apt() {
  mkdir -p "$d/lists/partial"
  cat >"$d/apt.conf" <<END
#clear APT::Update;
#clear Acquire::IndexTargets;
Dir::State::Lists "$d/lists";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
APT::Sandbox::User "root";
Acquire::Retries "0";
Acquire::http::Timeout "5";
Acquire::https::Timeout "5";
END
  timeout 40 apt-get -q -c "$d/apt.conf" "$@" </dev/null 2>&1
}

# sources_where: prints FILE:LINE of each source that the words of apt on standard input are about.
sources_where() {
  sources_text=$(cat)
  set --
  for f in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
    [ ! -f "$f" ] || set -- "$@" "$f"
  done
  [ $# -gt 0 ] || return 0
  SOURCES_TEXT=$sources_text awk '
    function about(uri, suite,  at, next_one) {
      if (uri ~ /^cdrom:/) return text ~ /cdrom:/
      sub(/\/+$/, "", uri)
      at = uri == "" ? 0 : index(text, uri)
      next_one = substr(text, at + length(uri), 1)
      return at && (next_one == "" || index("/ \047:", next_one)) && (suite == "" || suite ~ /\/$/ || index(text, suite))
    }
    function found() { if (!seen[FILENAME, FNR]++) print FILENAME ":" FNR }
    BEGIN { text = ENVIRON["SOURCES_TEXT"] }
    FNR == 1 { stanzas = FILENAME ~ /\.sources$/; field = "" }
    /^[ \t]*#/ { next }
    stanzas {
      line = $0
      if (line ~ /^[A-Za-z-]+:/) { field = tolower(line); sub(/:.*/, "", field); sub(/^[^:]*:/, "", line) }
      else if (line !~ /^[ \t]/) field = ""
      if (field == "uris") { n = split(line, a, /[ \t]+/); for (i = 1; i <= n; i++) if (a[i] != "" && about(a[i], "")) found() }
      next
    }
    sub(/^[ \t]*deb(-src)?[ \t]+/, "") { sub(/^\[[^]]*\][ \t]*/, ""); if (about($1, $2)) found() }
  ' "$@"
}

# sources_named: puts before each line of apt on standard input where the source is that it is about.
sources_named() {
  while IFS= read -r x; do
    # Of these words apt itself says where.
    case $x in *' list file /'* | *' source list /'*) printf '%s\n' "$x"; continue ;; esac
    w=$(printf '%s\n' "$x" | sources_where | xargs)
    printf '%s\n' "${w:+$w: }$x"
  done
}

# sources_dead: prints in apt's words which sources it cannot read, each with its place, or that it ended without a word of them.
sources_dead() {
  sources_said=$(sources_apt update) && r=0 || r=$?
  if [ $r = 124 ]; then echo 'apt-get update does not end within 40 s'; return 0; fi
  # Beside errors apt leaves out its warnings, and a source that does not answer is only a warning.
  sources_found=$(printf '%s\n' "$sources_said" | awk '
    sub(/^(E|Error): /, "") { if (!/^The list of sources could not be read/) said[++n] = $0; next }
    sub(/^Err:[0-9]+ /, "") { what = $1 " " $2; next }
    what != "" && sub(/^ +/, "") { silent[++m] = what; why[m] = $0 }
    { what = "" }
    END {
      for (i = 1; i <= n; i++) print said[i]
      for (j = 1; j <= m; j++) {
        for (i = 1; i <= n && !index(said[i], silent[j]); i++);
        if (i > n) print silent[j] ": " why[j]
      }
    }' | sort -u | sources_named)
  # One that was killed or has crashed says nothing of that kind, and has read nothing.
  if [ -n "$sources_found" ]; then printf '%s\n' "$sources_found"
  elif [ $r != 0 ]; then echo "apt-get update ended with $r"; fi
}

# sources_conflict KEY URL: prints which sources apt could not read any more beside the one that ironstrap adds: the
# same repository with another key.
sources_conflict() {
  mkdir "$d/parts"
  for f in /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
    # ironstrap replaces this one.
    case $f in */kubernetes.list) continue ;; esac
    [ ! -f "$f" ] || ln -s "$f" "$d/parts/"
  done
  echo "deb [signed-by=$1] $2 /" >"$d/parts/kubernetes.list"
  { sources_apt -o "Dir::Etc::SourceParts=$d/parts" update --print-uris || :; } |
    sed -n 's/^E[a-z]*: \(Conflicting values .*\)/\1/p' | sort -u | sources_named
}
