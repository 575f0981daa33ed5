# Shell functions that compare the programs and units of packages with what dpkg noted of them. POSIX sh.

# programs PACKAGE...: prints PACKAGE: FILE WHAT for each program and unit of these packages that is not as in its package.
# Nothing can set the time at which an inode changed last, and dpkg writes the list of a package after its files. So a file
# that did not change since is the package's, and is not read. A file that is mounted over another has times of its own.
programs() {
  programs_info=/var/lib/dpkg/info programs_diverted=/var/lib/dpkg/diversions
  for p; do
    shift
    for f in "$programs_info/$p.list" "$programs_info/$p.md5sums"; do [ ! -f "$f" ] || set -- "$@" "$f"; done
  done
  [ $# != 0 ] || return 0
  [ ! -f "$programs_diverted" ] || set -- "$programs_diverted" "$@"
  programs_of=$(programs_listed "$@")
  [ -n "$programs_of" ] || return 0
  while read -r package _ f; do
    if [ -e "$f" ] || [ -L "$f" ]; then set -- "$@" "$f"; else echo "$package: $f is gone"; fi
  done <<EOF
$programs_of
EOF
  # The time of a file of this process is the present time.
  programs_found=$(stat -c '%n %a %u %.6Z %.6Y %F' -- /proc/self/stat "$@" | OF=$programs_of programs_judged)
  [ -n "$programs_found" ] || return 0
  while read -r package f what; do
    case $what in
    sum\ *)
      is=$(md5sum <"$f")
      [ "${is%% *}" != "${what#sum }" ] || continue
      case $f in */systemd/*) what='was edited' ;; *) what='was changed' ;; esac ;;
    esac
    echo "$package: $f $what"
  done <<EOF
$programs_found
EOF
}

# programs_listed FILE...: prints PACKAGE SUM FILE for each program and unit that dpkg lists. Diverted files are left out,
# because others put files there.
programs_listed() {
  awk '
    FNR == 1 {
      package = FILENAME; sub(/.*\//, "", package); kind = package
      sub(/.*\./, "", kind); sub(/\.[a-z0-9]*$/, "", package)
    }
    { file = $0 }
    kind == "md5sums" { sub(/^[0-9a-f]+ +/, "/", file) }
    { sub(/^\/(bin|sbin|lib)\//, "/usr&", file) }
    kind == "diversions" { if (FNR % 3 == 1) diverted[file]; next }
    file !~ /^\/usr\/s?bin\/[^ ]+$|^\/opt\/cni\/bin\/[^ ]+$|^\/usr\/lib\/(cni|systemd\/system)\/[^ ]+$/ { next }
    !(file in of) { all[++count] = file }
    { of[file] = package }
    kind == "md5sums" { sum[file] = $1 }
    END {
      for (i = 1; i <= count; i++) { file = all[i]; if (!(file in diverted)) print of[file], (file in sum ? sum[file] : "-"), file }
    }
  ' "$@"
}

# programs_judged: reads the output of stat, and prints PACKAGE FILE WHAT for each file of $OF that is wrong. WHAT is "sum"
# and the right sum if only the content tells.
programs_judged() {
  awk '
    function mounted(f) {
      for (; f != "" && f != "/usr"; sub(/\/[^\/]*$/, "", f)) if (f in mounts) return 1
      return 0
    }
    # Whether a digit of a mode has a bit: w for two, x for one.
    function has(mode, place, bit) {
      return int(substr(mode, length(mode) - place, 1) / bit) % 2
    }
    BEGIN {
      n = split(ENVIRON["OF"], lines, "\n")
      for (i = 1; i <= n; i++) { split(lines[i], w, " "); of[w[3]] = w[1]; sum[w[3]] = w[2] }
      while ((getline line <"/proc/mounts") > 0) { split(line, w, " "); mounts[w[2]] }
    }
    NR == 1 { now = $4; next }
    !($1 in of) {
      package = $1; sub(/.*\//, "", package); lists = package ~ /\.list$/; sub(/\.[a-z0-9]*$/, "", package)
      at = $4 + 0
      # The file with the sums comes with the package and keeps its time of modification. Only that of the list counts.
      if (lists && $5 + 0 < at) at = $5 + 0
      if (lists) listed[package]
      if (!(package in since) || at < since[package]) since[package] = at
      next
    }
    $6 == "directory" { next }
    $6 != "regular" { if (sum[$1] != "-") print of[$1], $1, "is not a regular file"; next }
    $3 != 0 || length($2) > 3 || has($2, 0, 2) || has($2, 1, 2) || ($1 !~ /^\/usr\/lib\// && !has($2, 2, 1)) {
      print of[$1], $1, "has mode " $2 " and the owner " ($3 == 0 ? "root" : $3)
    }
    sum[$1] == "-" { print of[$1], $1, "has no checksum in the list of dpkg"; next }
    {
      package = of[$1]
      if (!(package in listed) || since[package] > now + 0 || $4 + 0 > since[package] || mounted($1)) print package, $1, "sum " sum[$1]
    }'
}
