# A machine with its own kernel and cgroup v2, under QEMU without KVM. It tests what the lab's other machines share
# with their host: swap, modules, kernel.* and vm.* settings, and the clock. SSH on the host's loopback is its only
# connection. It is not part of the lab's network and cannot reach other hosts.
# shellcheck shell=bash

VM=k1
# Its additional packages: udev, a kernel, and a generator for compressed swap in memory.
VM_MORE=udev,linux-image-cloud-amd64,systemd-zram-generator

plan_vm() { part vm recipe_vm "$ARCH $SUITE $(declare -f bootstrap)" "$MACHINE,$VM_MORE"; }

# The cloud kernel has NVMe and ext4 built in, so it needs no initrd to find its disk.
recipe_vm() {
  bootstrap root "$MACHINE,$VM_MORE"
  rm -f root/boot/initrd* root/initrd* root/etc/ssh/ssh_host_* root/etc/machine-id root/etc/hostname
  rm -f root/etc/apt/sources.list root/etc/resolv.conf
}

build_vm() {
  [[ $ARCH == amd64 ]] || die "the machine with its own kernel needs an amd64 host, and this host is $ARCH"
  if [[ ! -d ${PART[vm]} ]] || ! type -P qemu-system-x86_64 sfdisk mke2fs >/dev/null; then
    tools qemu-system-x86_64:qemu-system-x86 sfdisk:fdisk mke2fs:e2fsprogs
  fi
  make_part vm
}

# vm_disk: makes a disk with the partitions of a usual installation, including swap, without a loop device
vm_disk() {
  local d=$LAB/qemu r=$LAB/qemu/root disk=$LAB/qemu/disk.making
  rm -rf "$r" "$disk"
  cp -a --reflink=auto "${PART[vm]}/root" "$r"
  name_it "$VM" "$r"
  printf '[Match]\nName=e*\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\n' >"$r/etc/systemd/network/lab.network"
  printf 'nameserver 10.0.2.3\n' >"$r/etc/resolv.conf"
  ln -s /usr/lib/systemd/system/systemd-networkd.service "$r/etc/systemd/system/multi-user.target.wants/"
  printf '%s\n' '/dev/nvme0n1p1 / ext4 errors=remount-ro 0 1' '/swap.img none swap sw 0 0' >"$r/etc/fstab"
  # On a busy host a device may appear late.
  install -D -m 644 /dev/stdin "$r/etc/systemd/system.conf.d/lab.conf" <<'U'
[Manager]
DefaultDeviceTimeoutSec=10min
DefaultTimeoutStartSec=10min
U
  # Not zeros, because mke2fs would make holes of them, and a swap file must not have holes.
  head -c 64M /dev/zero | tr '\0' '\377' >"$r/swap.img"
  chmod 600 "$r/swap.img"
  mkswap --quiet "$r/swap.img"

  truncate -s 8G "$disk"
  sfdisk --quiet "$disk" <<'P'
label: gpt
start=1MiB, size=7GiB, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709
start=7169MiB, size=64MiB, type=S
P
  mke2fs -q -t ext4 -E offset=1048576 -d "$r" "$disk" 7G
  truncate -s 64M "$d/swap"
  mkswap --quiet "$d/swap"
  dd if="$d/swap" of="$disk" bs=1M seek=7169 conv=notrunc,sparse status=none
  rm -rf --one-file-system "$r" "$d/swap"
  mv "$disk" "$d/disk.img"
}

vm_port() { cat "$LAB/qemu/port"; }

# vm_on: starts the machine. The first free port of a list leads to its sshd. `-cpu max` and cmpxchg16b of older QEMUs
# break kernels. The machine has one CPU, because with two, one of them sometimes hangs.
vm_on() {
  local d=$LAB/qemu port kernel=("${PART[vm]}"/root/boot/vmlinuz-*)
  recorded "$d/pid" >/dev/null && return
  for port in {22022..22041}; do
    ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || continue
    IRONSTRAP_LAB_OF=$LAB alone qemu-system-x86_64 -accel tcg -cpu qemu64,-cx16 -smp 1 -m 2048 \
      -display none -no-user-config -nodefaults -serial "file:$d/console.log" \
      -kernel "${kernel[0]}" -append 'root=/dev/nvme0n1p1 rw console=ttyS0 quiet' \
      -drive "file=$d/disk.img,format=raw,if=none,id=disk,cache=unsafe" -device nvme,drive=disk,serial=lab \
      -netdev "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:$port-:22" -device virtio-net-pci,netdev=net \
      -device virtio-rng-pci </dev/null >"$d/qemu.log" 2>&1 &
    remember "$d/pid" $!
    printf '%s\n' "$port" >"$d/port"
    trust "$VM" "[127.0.0.1]:$port"
    sleep 0.5
    recorded "$d/pid" >/dev/null && return
    grep -q 'Could not set up host forwarding' "$d/qemu.log" || break
  done
  die "QEMU does not start: $(tail -n 3 "$d/qemu.log")"
}

vm_up() {
  mkdir -p "$LAB/qemu"
  [[ -f $LAB/qemu/disk.img ]] || room 6
  identity
  [[ -f $LAB/hostkeys/$VM ]] || trust "$VM" "$VM"
  [[ -f $LAB/qemu/disk.img ]] || vm_disk
  vm_on
  vm_booted ''
}

# vm_ssh SECONDS COMMAND…: runs the command and ends it after this time; 0 means no limit
vm_ssh() {
  local seconds=$1
  shift
  timeout "$seconds" "${SSH[@]}" -o ConnectTimeout=30 -p "$(vm_port)" root@127.0.0.1 "$@"
}

vm_boot_id() { vm_ssh 30 cat /proc/sys/kernel/random/boot_id 2>/dev/null </dev/null; }

# vm_booted BEFORE: waits until the machine has another boot id than this and has started all its units
vm_booted() {
  local id end=$((SECONDS + 600))
  while ((SECONDS < end)); do
    recorded "$LAB/qemu/pid" >/dev/null || die "$VM went off: $LAB/qemu/console.log"
    if id=$(vm_boot_id) && [[ $id != "$1" ]]; then
      vm_ssh 300 systemctl is-system-running --wait </dev/null >/dev/null || true
      return
    fi
    sleep 0.5
  done
  die "$VM does not answer by SSH: $LAB/qemu/console.log"
}

vm_reboot() {
  local before
  before=$(vm_boot_id) || die "$VM does not answer"
  vm_ssh 30 systemctl reboot </dev/null || true
  vm_booted "$before"
}

vm_down() {
  finish "$LAB/qemu/pid" TERM
  rm -rf --one-file-system "$LAB/qemu"
}

vm() {
  local command=${1:-up}
  shift || true
  case $command in
    up) held "$CACHE/lock" build_vm; held "$CACHE/lock-$ID" vm_up ;;
    ssh) vm_ssh 0 "$@" ;;
    port) vm_port ;;
    reboot) vm_reboot ;;
    down) held "$CACHE/lock-$ID" vm_down ;;
    *) usage >&2; exit 2 ;;
  esac
}
