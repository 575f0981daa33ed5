# Shell functions that ask containerd how it reads its configuration. POSIX sh.

# containerd_config: prints the settings that matter to the kubelet, and the registries with a login, in the order of their
# names. Ends the ask by `absent` if containerd is not installed. containerd takes long to answer. So a clean answer is kept, with the
# state of the program and of all its files. Files that the configuration imports may be anywhere, and then no answer is
# kept.
containerd_config() {
  [ -x /usr/bin/containerd ] && [ -e /etc/containerd/config.toml ] || absent
  files=$(find -L /usr/bin/containerd /etc/containerd -printf '%p %y %i %s %C@\n' 2>/dev/null) || files=
  kept=/run/ironstrap/containerd-config
  said=$(cat $kept 2>/dev/null) || said=
  case $said in "$files
= "*)
    [ -z "$files" ] || { printf '%s\n' "${said#*"
= "}"; return 0; }
    ;;
  esac
  code=0
  said=$(containerd_says) || code=$?
  [ -z "$said" ] || printf '%s\n' "$said"
  [ $code = 0 ] || return $code
  [ -n "$said" ] && [ -n "$files" ] && [ -d /run/ironstrap ] || return 0
  ! grep -q "^[[:space:]]*[\"']\{0,1\}imports" /etc/containerd/config.toml || return 0
  # An answer with a warning is not kept.
  [ -z "$( { containerd_says >/dev/null; } 2>&1)" ] || return 0
  { printf '%s\n= %s\n' "$files" "$said" >$kept.$$ && mv -f $kept.$$ $kept; } 2>/dev/null || rm -f $kept.$$
}

# containerd_says: prints the relevant settings of `containerd config dump`, in short form.
containerd_says() {
  dump=$(/usr/bin/containerd config dump) || return 1
  printf '%s\n' "$dump" | tr -d "'\"[] " | sed -n -e 's/^SystemdCgroup=/1 SystemdCgroup = /p' -e 's/^sandbox\(_image\)\?=/2 /p' \
    -e 's/^bin_dirs\?=/3 /p' -e 's/^plugins\..*\.registry\.configs\.\(.*\)\.auth$/4 login at \1/p' | sort -u | cut -c 3-
}
