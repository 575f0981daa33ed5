# Shell functions that find which packages would have to be removed. Sent only with the ask about that.

# removals_installed: prints a line for each installed package: its name, "held" or "-", what it conflicts with, what it
# needs and what it provides, with tabs in between.
removals_installed() {
  dpkg-query -W -f '${db:Status-Abbrev}\t${Package}\t${Conflicts}, ${Breaks}\t${Pre-Depends}, ${Depends}\t${Provides}\n' |
    awk -F '\t' -v OFS='\t' 'substr($1, 2, 1) ~ /[a-zA-Z]/ && substr($1, 2, 1) !~ /[nc]/ { print $2, $1 ~ /^h/ ? "held" : "-", $3, $4, $5 }'
}

# removals_declared PACKAGE...: prints which installed packages declare a conflict with one of these, and which packages need
# such a package. It reads the output of removals_installed. Conflicts that depend on a version are left to apt.
removals_declared() {
  awk -F '\t' -v coming="$*" '
    function bare(word) { sub(/^ +/, "", word); sub(/[ :(].*/, "", word); return word }
    BEGIN { n = split(coming, a, " "); for (i = 1; i <= n; i++) comes[a[i]] = 1 }
    { there[$1] = 1; needs[$1] = $4; conflicts[$1] = $3
      n = split($5, a, ","); for (i = 1; i <= n; i++) gives[$1, ++given[$1]] = bare(a[i]) }
    END {
      for (p in there) {
        n = split(conflicts[p], a, ",")
        for (i = 1; i <= n; i++) { w = bare(a[i]); if (a[i] !~ /\(/ && w in comes && !(w in there)) { gone[p] = 1; more = 1 } }
      }
      while (more) {
        more = 0
        # The names that exist once those packages are gone.
        split("", has)
        for (w in comes) has[w] = 1
        for (p in there) if (!(p in gone)) { has[p] = 1; for (i = 1; i <= given[p]; i++) has[gives[p, i]] = 1 }
        for (p in there) if (!(p in gone)) {
          n = split(needs[p], a, ",")
          for (i = 1; i <= n; i++) {
            m = split(a[i], b, "|"); was = now = 0
            for (j = 1; j <= m; j++) {
              w = bare(b[j])
              if (w in has) now = 1
              if (w in gone) was = 1
              for (g in gone) for (k = 1; k <= given[g]; k++) if (gives[g, k] == w) was = 1
            }
            if (was && !now) { gone[p] = 1; more = 1 }
          }
        }
      }
      for (p in gone) print p
    }'
}

# removals_simulated ARGS...: prints which packages apt would remove to install these, and "change NAME" for each installed
# package that it would change. Prints nothing if the lists of apt do not have them. It leaves the caches of apt as they are.
removals_simulated() {
  apt-get -s --ignore-hold -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Install-Recommends=false \
    install --allow-change-held-packages --allow-downgrades "$@" 2>/dev/null |
    awk '$1 == "Remv" || $1 == "Purg" { print $2 } $1 == "Inst" && $3 ~ /^\[/ { print "change", $2 }'
}

# removals_owner FILE PACKAGE: prints the package that owns the file, if that is another package.
removals_owner() {
  [ -e "$1" ] || return 0
  dpkg-query -S "$1" 2>/dev/null | sed -n "s#: $1\$##p" | sed 's/:.*//' | grep -vxF "$2" || :
}

# removals VERSION: prints in words which packages would be removed, or changed against a hold, for containerd and this
# version of Kubernetes.
removals() {
  command -v dpkg-query >/dev/null || return 0
  removals_all=$(removals_installed)
  removals_kubernetes="kubelet=$1-* kubeadm=$1-* kubectl=$1-*"
  removals_containerd=containerd
  # A containerd on hold is used as it is.
  case $(dpkg-query -W -f '${db:Status-Abbrev}' containerd 2>/dev/null || :) in hi*) removals_containerd= ;; esac
  {
    printf '%s\n' "$removals_all" | removals_declared containerd runc kubelet kubeadm kubectl kubernetes-cni cri-tools
    # shellcheck disable=SC2086
    removals_simulated $removals_containerd $removals_kubernetes
    # None of apt's lists may have Kubernetes yet.
    [ -z "$removals_containerd" ] || removals_simulated containerd
    for p in kubelet kubeadm kubectl; do removals_owner "/usr/bin/$p" $p; done
    removals_owner /usr/bin/crictl cri-tools
  } | sort -u | {
    held=$(printf '%s\n' "$removals_all" | awk -F '\t' '$2 == "held" { print $1 }')
    while read -r p q; do
      hold=
      case " $(echo $held) " in *" ${q:-$p} "*) hold=' (on hold)' ;; esac
      if [ "$p" != change ]; then
        echo "$p$hold would be removed"
        continue
      fi
      # A change of these packages is what ironstrap is for.
      case $q in containerd | kubelet | kubeadm | kubectl) continue ;; esac
      [ -z "$hold" ] || echo "$q$hold would be changed"
    done
  }
}
