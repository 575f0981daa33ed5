# The running lab: the operator's network with its package server and registry, and the machines. Each machine
# has its own systemd, network, cgroup and file system.
# shellcheck shell=bash

OCTETS=(m1:11 w1:12 w2:13) # what `lab up` starts with

# --- the operator's side

netns() { ip netns list | grep -qE "^$1( |\$)"; }

# inside COMMAND…: runs the command on the operator's side of the network. Everything else is as for the caller.
inside() { nsenter --net="/run/netns/$ID" -- "$@"; }

network() {
  netns "$ID" && return
  ip netns add "$ID"
  ip -n "$ID" link set lo up
  # A fixed MAC address. Otherwise the bridge would take that of a port and change it with its ports.
  ip -n "$ID" link add br0 address 02:00:c6:12:00:01 type bridge
  ip -n "$ID" addr add "$NET.1/24" dev br0
  ip -n "$ID" link set br0 up
}

# serve NAME PORT COMMAND…: starts a server on the operator's side unless it runs
serve() {
  local name=$1 port=$2 try
  shift 2
  recorded "$LAB/$name.pid" >/dev/null && return
  IRONSTRAP_LAB_OF=$LAB alone nsenter --net="/run/netns/$ID" -- "$@" </dev/null >>"$LAB/$name.log" 2>&1 &
  remember "$LAB/$name.pid" $!
  for ((try = 0; try < 200; try++)); do
    inside bash -c "exec 3<>/dev/tcp/$NET.1/$port" 2>/dev/null && return
    recorded "$LAB/$name.pid" >/dev/null || break
    sleep 0.05
  done
  die "the $name does not answer: $LAB/$name.log"
}

# certificate: the server's certificate and key. The machines trust it like the CAs of their distribution.
certificate() {
  [[ ! -f $LAB/tls.crt ]] || return 0
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj '/CN=the lab' \
    -addext "subjectAltName=IP:$NET.1" -keyout "$LAB/tls.key" -out "$LAB/tls.crt.next" 2>/dev/null
  mv "$LAB/tls.crt.next" "$LAB/tls.crt"
}

services() {
  mkdir -p "$LAB/web"
  ln -sfnT "${PART[packages]}/core:" "$LAB/web/core:"
  ln -sfnT "${PART[mirror]}" "$LAB/web/debian"
  certificate
  serve packages-tls 8443 python3 "$HERE/serve.py" "$NET.1" 8443 "$LAB/web" "$LAB/tls.crt" "$LAB/tls.key"
  serve packages 8080 python3 -m http.server --bind "$NET.1" --directory "$LAB/web" 8080
  # Read-only, so that a test cannot change the cache by mistake.
  cat >"$LAB/registry.yml" <<Y
version: 0.1
log: {level: warn, accesslog: {disabled: true}}
storage:
  filesystem: {rootdirectory: ${PART[registry]}/store}
  maintenance: {readonly: {enabled: true}}
http: {addr: "$NET.1:5000"}
Y
  serve registry 5000 "${PART[distribution]}/docker-registry" serve "$LAB/registry.yml"
}

# --- making machines

known() { [[ -d $LAB/machines/$1 ]] || die "there is no machine $1 here: $(machines)"; }
machines() { [[ ! -d $LAB/machines ]] || ls "$LAB/machines"; }
# ever: the names of all machines that this lab has or had, because the name of another lab may begin with this one's
ever() { { machines; printf '%s\n' "${OCTETS[@]%:*}"; cat "$CACHE/machines-$ID" 2>/dev/null || true; } | sort -u; }
address() { printf '%s.%s\n' "$NET" "$(<"$LAB/machines/$1/octet")"; }
running() { recorded "$LAB/machines/$1/run.pid" >/dev/null; }

# identity: the operator's key, and the folder of host keys. A machine that is made again keeps its host key, so
# known_hosts stays valid.
identity() {
  mkdir -p "$LAB/hostkeys"
  [[ -f $LAB/id_ed25519 ]] || ssh-keygen -q -t ed25519 -N '' -C operator -f "$LAB/id_ed25519"
}

trust() { # NAME WHERE
  local key=$LAB/hostkeys/$1 others=''
  [[ -f $key ]] || ssh-keygen -q -t ed25519 -N '' -C "root@$1" -f "$key"
  [[ ! -f $LAB/known_hosts ]] || others=$(grep -vF "$2 " "$LAB/known_hosts" || true)
  printf '%s\n' ${others:+"$others"} "$2 $(cut -d' ' -f1,2 "$key.pub")" >"$LAB/known_hosts.next"
  mv "$LAB/known_hosts.next" "$LAB/known_hosts"
}

# name_it NAME ROOT: writes what differs between machines: the name, the host keys and the authorized keys
name_it() {
  local name=$1 r=$2 home
  printf '%s\n' "$name" >"$r/etc/hostname"
  printf '127.0.0.1 localhost\n127.0.1.1 %s\n' "$name" >"$r/etc/hosts"
  tr -d - </proc/sys/kernel/random/uuid >"$r/etc/machine-id"
  install -m 600 "$LAB/hostkeys/$name" "$r/etc/ssh/ssh_host_ed25519_key"
  install -m 644 "$LAB/hostkeys/$name.pub" "$r/etc/ssh/ssh_host_ed25519_key.pub"
  for home in "$r/root" "$r"/home/*; do
    [[ -d $home ]] || continue
    install -d -m 700 "$home/.ssh"
    install -m 600 "$LAB/id_ed25519.pub" "$home/.ssh/authorized_keys"
    chown -R --reference="$home" "$home/.ssh"
  done
}

# create NAME OCTET: makes a machine from the image, with a name, keys and package sources. The root is a copy
# and not an overlay, because containerd mounts overlays on it, and overlays cannot be nested.
create() {
  local name=$1 octet=$2 d=$LAB/machines/$1 r
  trust "$name" "$NET.$octet"
  ever | grep -qxF "$name" || printf '%s\n' "$name" >>"$CACHE/machines-$ID"
  mkdir -p "$d"
  r=$d/root.making
  rm -rf "$r"
  cp -a --reflink=auto "${PART[machine]}/root" "$r"

  name_it "$name" "$r"
  # No server runs at this address, so a lookup fails at once and not after a timeout.
  printf 'nameserver %s.1\n' "$NET" >"$r/etc/resolv.conf"
  printf '%s\n' '# <file system> <mount point> <type> <options> <dump> <pass>' '/dev/vda1 / ext4 errors=remount-ro 0 1' '/swap.img none swap sw 0 0' >"$r/etc/fstab"
  install -m 600 /dev/null "$r/swap.img"
  truncate -s 1G "$r/swap.img"
  mkswap --quiet "$r/swap.img"

  install -D -m 644 "${PART[mirror]}/dists/$SUITE/Release.key" "$r/etc/apt/keyrings/debian-mirror.asc"
  printf 'deb [signed-by=/etc/apt/keyrings/debian-mirror.asc] http://%s.1:8080/debian %s main\n' "$NET" "$SUITE" >"$r/etc/apt/sources.list"

  # The result of update-ca-certificates.
  install -D -m 644 "$LAB/tls.crt" "$r/usr/local/share/ca-certificates/lab.crt"
  cat "$LAB/tls.crt" >>"$r/etc/ssl/certs/ca-certificates.crt"

  install -m 755 "$HERE/machine-init" "$r/lab-init"
  install -m 755 "$HERE/machine-swap" "$r/usr/sbin/swapon"
  install -m 755 "$HERE/machine-swap" "$r/usr/sbin/swapoff"
  # No one uses this console, and it would take one of the host's few inotify instances.
  ln -s /dev/null "$r/etc/systemd/system/console-getty.service"
  # At shutdown, an API server waits for its stopped etcd until systemd kills it.
  install -D -m 644 /dev/stdin "$r/etc/systemd/system.conf.d/lab.conf" <<'U'
[Manager]
DefaultTimeoutStopSec=15s
U
  # Machines must not set the host's clock. With -x, chronyd runs without setting it.
  install -D -m 644 /dev/stdin "$r/etc/systemd/system/chrony.service.d/lab.conf" <<'U'
[Unit]
ConditionCapability=
[Service]
ExecStart=
ExecStart=!/usr/sbin/chronyd -x $DAEMON_OPTS
U

  printf '%s\n' "$octet" >"$d/octet"
  mv -T "$r" "$d/root"
}

scrap() { # NAME: removes the machine and keeps its host key
  cut_power "$1"
  rm -rf --one-file-system "$LAB/machines/$1"
}

# --- power

plug() { # NAME: a new network interface, without settings from before the boot
  local name=$1 ns=$ID-$1 mac
  unplug "$name"
  printf -v mac '02:00:c6:12:00:%02x' "$(<"$LAB/machines/$name/octet")" # a card keeps its address
  ip netns add "$ns"
  ip -n "$ns" link set lo up
  ip -n "$ID" link add "to-$name" type veth peer name eth0 address "$mac" netns "$ns"
  ip -n "$ID" link set "to-$name" master br0 up
  ip -n "$ns" addr add "$(address "$name")/24" dev eth0
  ip -n "$ns" link set eth0 up
  ip -n "$ns" route add default via "$NET.1"
}

unplug() {
  ip -n "$ID" link del "to-$1" 2>/dev/null || true
  ! netns "$ID-$1" || ip netns del "$ID-$1"
}

# controllers: the folders in which a cgroup has to be made: one on v2, one per controller on v1, and both trees
# on a host with both. The host's mounts do not change.
controllers() {
  local c
  if [[ -e /sys/fs/cgroup/cgroup.controllers ]]; then
    echo /sys/fs/cgroup
    return
  fi
  for c in /sys/fs/cgroup/*; do
    [[ -L $c || ! -e $c/cgroup.procs ]] || printf '%s\n' "$c"
  done
}

# enclose NAME: moves this process, and so all processes that it starts, into the machine's own cgroup.
# Two machines in one cgroup would share /system.slice and their units.
enclose() {
  local c g
  for c in $(controllers); do
    g=$c/$ID-$1
    mkdir -p "$g"
    if [[ -e $c/cpuset.cpus && -e $g/cgroup.clone_children ]]; then # empty in a new v1 cpuset
      cat "$c/cpuset.cpus" >"$g/cpuset.cpus"
      cat "$c/cpuset.mems" >"$g/cpuset.mems"
      echo 1 >"$g/cgroup.clone_children"
    fi
    echo "$BASHPID" >"$g/cgroup.procs"
  done
}

# thaw NAME: unfreezes the machine's processes so that they can end. runc freezes a container while it changes its limits,
# and the power may fail at that moment.
thaw() {
  local c f
  for c in $(controllers); do
    [[ -d $c/$ID-$1 ]] || continue
    while read -r f; do
      case $f in
        *.state) echo THAWED >"$f" ;;
        *) echo 0 >"$f" ;;
      esac 2>/dev/null || true
    done < <(find "$c/$ID-$1" \( -name freezer.state -o -name cgroup.freeze \) 2>/dev/null)
  done
}

# open_up NAME: removes the machine's cgroups after its last process has ended
open_up() {
  local c try left
  for ((try = 0; try < 100; try++)); do
    thaw "$1"
    left=''
    for c in $(controllers); do
      [[ ! -d $c/$ID-$1 ]] || find "$c/$ID-$1" -depth -type d -exec rmdir {} + 2>/dev/null || left+=" $c/$ID-$1"
    done
    [[ -n $left ]] || return 0
    sleep 0.05
  done
  die "$1 leaves cgroups:$left"
}

# run NAME: runs the machine until it is off. When the machine reboots itself, nspawn ends with 133.
run() {
  local name=$1 d=$LAB/machines/$1 status
  enclose "$name"
  while :; do
    plug "$name"
    status=0
    SYSTEMD_NSPAWN_API_VFS_WRITABLE=yes systemd-nspawn --quiet --directory="$d/root" \
      --machine="$ID-$name" --hostname="$name" --register=no --keep-unit --link-journal=no \
      --network-namespace-path="/run/netns/$ID-$name" --resolv-conf=off --timezone=off \
      --capability=all --drop-capability=CAP_SYS_TIME --system-call-filter=@known \
      --bind=/dev/kmsg /lab-init &
    remember "$d/nspawn.pid" $!
    wait $! || status=$?
    unplug "$name"
    ((status == 133)) || return "$status"
  done
}

boot() { # NAME: starts the machine without waiting
  local name=$1 d=$LAB/machines/$1
  ! running "$name" || return 0
  IRONSTRAP_LAB_OF=$LAB IRONSTRAP_LAB=$LAB alone "$HERE/lab" _run "$name" </dev/null >>"$d/console.log" 2>&1 &
  remember "$d/run.pid" $!
}

# first NAME: the machine's PID 1 as a process id of this host
first() {
  local nspawn child
  nspawn=$(recorded "$LAB/machines/$1/nspawn.pid") || return 1
  for child in $(pgrep -P "$nspawn"); do
    if grep -qsE '^NSpid:.*[[:space:]]1$' "/proc/$child/status"; then
      printf '%s\n' "$child"
      return
    fi
  done
  return 1
}

shut_down() { # NAME: shuts the machine down like `poweroff`
  local d=$LAB/machines/$1 pid
  running "$1" || return 0
  pid=$(first "$1") || die "$1 has no PID 1"
  kill -s RTMIN+4 "$pid"
  gone "$d/run.pid" 120 || die "$1 does not halt: $d/console.log"
  open_up "$1"
}

# cut_power NAME: simulates a power loss. The kill of PID 1 ends all processes of the machine. A kill of nspawn first
# would leave the machine running.
cut_power() {
  local d=$LAB/machines/$1 pid file
  if pid=$(first "$1"); then kill -s KILL "$pid" 2>/dev/null || true; fi
  for file in run nspawn; do finish "$d/$file.pid" KILL; done
  unplug "$1"
  open_up "$1"
}

# SSH as the operator, who knows only the lab's machines.
SSH=(ssh -i "$LAB/id_ed25519" -o IdentitiesOnly=yes -o UserKnownHostsFile="$LAB/known_hosts"
  -o StrictHostKeyChecking=yes -o BatchMode=yes -o LogLevel=ERROR)

# remote USER NAME COMMAND…
remote() {
  local to
  to=$1@$(address "$2")
  shift 2
  inside "${SSH[@]}" -o ConnectTimeout=5 "$to" "$@"
}

# reachable NAME…: waits until each machine accepts user logins, which is later than sshd's first answer
reachable() {
  local name try
  for name; do
    for ((try = 0; try < 300; try++)); do
      remote ops "$name" true </dev/null 2>/dev/null && continue 2
      running "$name" || die "$name went off while booting: $LAB/machines/$name/console.log"
      sleep 0.2
    done
    die "$name does not answer by SSH: $LAB/machines/$name/console.log"
  done
}

# --- the lab as a whole

up() {
  local pair
  mkdir -p "$LAB/machines"
  [[ -n $(machines) ]] || room 10
  identity
  network
  services
  for pair in "${OCTETS[@]}"; do
    [[ -d $LAB/machines/${pair%:*}/root ]] || create "${pair%:*}" "${pair#*:}"
    boot "${pair%:*}"
  done
  reachable "${OCTETS[@]%:*}"
}

node() { # NAME OCTET
  [[ $1 =~ ^[a-z][a-z0-9-]{0,11}$ ]] || die "the name of a machine has at most 12 lowercase letters, digits and hyphens: $1"
  [[ $2 =~ ^[1-9][0-9]{0,2}$ ]] || die "not a number: $2"
  (($2 > 1 && $2 < 255)) || die "the last number of the address must be from 2 to 254: $2"
  local other
  for other in $(machines); do
    [[ $other == "$1" || $(<"$LAB/machines/$other/octet") != "$2" ]] || die "$NET.$2 is the address of $other"
  done
  [[ -e $LAB/id_ed25519 ]] || die 'the lab is not up'
  [[ -d $LAB/machines/$1/root ]] || create "$1" "$2"
  boot "$1"
  reachable "$1"
}

fresh() { # [NAME…]
  local name octet all
  (($#)) || { mapfile -t all < <(machines); set -- "${all[@]}"; }
  for name; do known "$name"; done
  for name; do
    octet=$(<"$LAB/machines/$name/octet")
    scrap "$name"
    create "$name" "$octet"
    boot "$name"
  done
  reachable "$@"
}

down() {
  local name file
  for name in $(machines); do scrap "$name"; done
  vm_down
  for file in "$LAB"/*.pid; do [[ ! -e $file ]] || finish "$file" TERM; done
  ! netns "$ID" || ip netns del "$ID"
  rm -rf "$LAB"/{machines,hostkeys,web,registry.yml,known_hosts,id_ed25519{,.pub},tls.{crt,key},*.log}
  [[ ! -d $LAB ]] || rmdir --ignore-fail-on-non-empty "$LAB"
}

status() {
  local name power
  for name in $(machines); do
    power=off
    ! running "$name" || power="on, PID 1 is $(first "$name" || echo missing)"
    printf '%-12s %-14s %s\n' "$name" "$(address "$name")" "$power"
  done
}

# leftovers: lists everything of this lab that is still on the host
leftovers() {
  local c p line own=()
  mapfile -t own < <(ever | sed "s/^/$ID-/")
  while read -r _ line _; do [[ $line != "$LAB"/* ]] || printf 'mount %s\n' "$line"; done </proc/mounts
  ip netns list | while read -r line _; do
    ! printf '%s\n' "$ID" "${own[@]}" | grep -qxF -- "$line" || printf 'network namespace %s\n' "$line"
  done
  for c in $(controllers); do
    for p in "${own[@]/#/$c/}"; do [[ ! -d $p ]] || printf 'cgroup %s\n' "$p"; done
  done
  for p in /proc/[0-9]*; do
    if { grep -qszxF "IRONSTRAP_LAB_OF=$LAB" "$p/environ" || sed 's,$,/,' "$p/cgroup" 2>/dev/null | grep -qF "$(printf '/%s/\n' "${own[@]}")"; } && [[ -n $(started "${p#/proc/}") ]]; then
      printf 'process %s %s\n' "${p#/proc/}" "$(tr '\0' ' ' <"$p/cmdline")"
    fi
  done
  [[ ! -e $LAB ]] || find "$LAB" -mindepth 1 -maxdepth 1 -printf 'file %p\n'
}

check_clean() {
  local left
  left=$(leftovers 2>/dev/null)
  [[ -z $left ]] || { printf '%s\n' "$left"; exit 1; }
  rm -f "$CACHE/machines-$ID"
}
