# Shell functions that check the package sources that a machine already has. Sent with the asks that need them. $d is a
# folder that the ask deletes.

# sources_apt ARGS...: runs apt-get with this machine's sources, but keeps nothing that it learns. It reads no lists of
# packages, and runs none of the machine's own commands before or after it.
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

# sources_where: reads words of apt, and prints FILE:LINE of each source that they are about.
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

# sources_named: prints each line of apt on standard input, with the place of the source that it is about in front.
sources_named() {
  while IFS= read -r x; do
    # In these lines, apt itself says where.
    case $x in *' list file /'* | *' source list /'*) printf '%s\n' "$x"; continue ;; esac
    w=$(printf '%s\n' "$x" | sources_where | xargs)
    printf '%s\n' "${w:+$w: }$x"
  done
}

# sources_dead: prints in apt's words which sources it cannot read, each with its place. If apt-get fails and names no
# source, it prints how apt-get ended.
sources_dead() {
  sources_said=$(sources_apt update) && r=0 || r=$?
  if [ $r = 124 ]; then echo 'apt-get update does not end within 40 s'; return 0; fi
  # If there are errors, apt leaves out its warnings, and a source that does not answer is only a warning.
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
  # An apt-get that was killed or has crashed names no source, and has read nothing.
  if [ -n "$sources_found" ]; then printf '%s\n' "$sources_found"
  elif [ $r != 0 ]; then echo "apt-get update failed with exit code $r"; fi
}

# sources_conflict KEY URL: prints which sources apt could no longer read beside the one that ironstrap adds. They are the
# same repository with another key.
sources_conflict() {
  mkdir "$d/parts"
  for f in /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
    # ironstrap replaces this file.
    case $f in */kubernetes.list) continue ;; esac
    [ ! -f "$f" ] || ln -s "$f" "$d/parts/"
  done
  echo "deb [signed-by=$1] $2 /" >"$d/parts/kubernetes.list"
  { sources_apt -o "Dir::Etc::SourceParts=$d/parts" update --print-uris || :; } |
    sed -n 's/^E[a-z]*: \(Conflicting values .*\)/\1/p' | sort -u | sources_named
}
