# Builds the parts of the lab once: Kubernetes and related programs from source, the machine's image, the
# package repositories and the registry's store. Each part is a folder of the cache. Its name ends with a
# hash of all its inputs, and the folder gets this name only when the part is complete.
# shellcheck shell=bash disable=SC2164 # lab sets -e: a cd that fails ends it

SUITE=trixie
KUBERNETES=1.36.3 ETCD=3.6.8 COREDNS=1.14.2 PAUSE=3.10.2 CNI=1.8.0 FLANNEL=0.19.2 FLANNEL_CNI=0.9.0
REVISION=1.1 # of the Debian packages: 1.36.3-1.1

# Only sshd and basic tools. ironstrap has to install everything else that a cluster needs.
MACHINE=systemd,systemd-sysv,dbus,openssh-server,sudo,iproute2,procps,kmod,ca-certificates
# The base layer of images that call programs of a distribution.
USERLAND=nftables,iptables,conntrack,kmod,nginx-light
# The packages of the Debian mirror. It also has their dependencies that the machine's image lacks.
MIRRORED=(containerd runc containernetworking-plugins conntrack socat ethtool ebtables ipset ipvsadm
  iptables nftables curl gpg gnupg apt-transport-https chrony systemd-timesyncd haproxy keepalived
  open-iscsi nfs-common rsync jq opendoas fish tcsh libpam-oath)

declare -A PART=() RECIPE=()
PARTS=()

# part NAME RECIPE [INGREDIENT…]: defines a part. An ingredient is a file, or a word that enters the hash.
part() {
  local name=$1 recipe=$2 key i
  shift 2
  key=$({
    declare -f "$recipe"
    for i; do if [[ -f $i ]]; then cat "$i"; else printf '%s\n' "$i"; fi; done
  } | sha256sum)
  PART[$name]=$CACHE/$name-${key:0:16}
  RECIPE[$name]=$recipe
  PARTS+=("$name")
}

# plan: defines every part with its inputs
plan() {
  local p=$HERE/parts name go deb
  ARCH=$(dpkg --print-architecture)
  go=$(declare -f go_build) deb="$ARCH $SUITE $(declare -f bootstrap)"
  for name in kubernetes etcd coredns flannel cni flannel-cni; do
    part "$name" "recipe_${name//-/_}" "$p/$name"/go.{mod,sum} "$go" "$KUBERNETES"
  done
  part pause recipe_pause "$p"/pause/{go.mod,main.go} "$go"
  part machine recipe_machine "$deb" "$MACHINE"
  part userland recipe_userland "$deb" "$USERLAND"
  part mirror recipe_mirror "${MIRRORED[*]}" "${PART[machine]}" "$(declare -f sign index)"
  part packages recipe_packages "$KUBERNETES-$REVISION $CNI" "${PART[kubernetes]}" "${PART[cni]}" "$(declare -f sign index package)"
  part distribution recipe_distribution "$ARCH"
  part registry recipe_registry "$HERE/image.py" "$(images)" "${PART[distribution]}" "$(declare -f push)"
  plan_vm
}

# --- building

build() {
  local name missing=() debian go failed=0
  mkdir -p "$CACHE"
  # No part needs the machine with its own kernel. `lab qemu up` builds it.
  for name in "${PARTS[@]}"; do [[ $name == vm || -d ${PART[$name]} ]] || missing+=("$name"); done
  ((${#missing[@]})) || return 0
  tools
  sweep
  # Compiling needs the cores, and debootstrap needs the disk and the mirror, so they run side by side. Each has
  # its own process group, so that all its processes can be ended.
  set -m
  (for name in machine userland mirror distribution; do make_part "$name"; done) & debian=$!
  (for name in kubernetes etcd coredns flannel cni flannel-cni pause; do make_part "$name"; done) & go=$!
  set +m
  trap 'kill -- "-$debian" "-$go" 2>/dev/null || true; exit 130' INT TERM
  wait "$debian" || failed=1
  wait "$go" || failed=1
  trap - INT TERM
  ((!failed)) || die "cannot build all parts; the finished ones are kept"
  make_part packages
  make_part registry
}

# make_part NAME: builds the part in a temporary folder, which gets the part's name if the build succeeds. The recipe
# runs in its own process, so that its first failing command ends it.
make_part() {
  local name=$1 work=$CACHE/.making-$1 begin=$SECONDS
  [[ ! -d ${PART[$name]} ]] || return 0
  mkdir -p "$work"
  say "lab: $name: building"
  "$HERE/lab" _cook "$name" "$work" >"$CACHE/$name.log" 2>&1 </dev/null 9>&- || {
    tail -n 15 "$CACHE/$name.log" >&2
    die "cannot build $name; its output is in $CACHE/$name.log"
  }
  mv -T "$work" "${PART[$name]}"
  say "lab: $name: done in $((SECONDS - begin)) s"
}

cook() { # NAME FOLDER
  umask 022
  cd "$2"
  "${RECIPE[$1]}"
}

# sweep: removes the temporary folders and mounts of an interrupted build
sweep() {
  local half at
  for half in "$CACHE"/.making-*; do
    [[ -d $half ]] || continue
    while read -r _ at _; do [[ $at != "$half"/* ]] || umount "$at"; done < <(tac /proc/mounts)
    rm -rf --one-file-system "$half"
  done
}

# tools [PROGRAM:PACKAGE…]: installs missing programs from the host's distribution: those that the lab needs, and these
tools() {
  local program missing=() from=(debootstrap:debootstrap systemd-nspawn:systemd-container skopeo:skopeo
    apt-ftparchive:apt-utils dpkg-deb:dpkg gpg:gnupg xz:xz-utils python3:python3 ip:iproute2 gcc:gcc
    openssl:openssl ssh:openssh-client nsenter:util-linux pgrep:procps "$@")
  command -v go >/dev/null ||
    die "Go is missing, and most of the lab is built with it: install Go $(awk '/^go /{print $2}' "$HERE/parts/kubernetes/go.mod") or newer and put it on the PATH"
  for program in "${from[@]}"; do
    command -v "${program%:*}" >/dev/null || missing+=("${program#*:}")
  done
  [[ -e /usr/include/stdio.h ]] || missing+=(libc6-dev)
  say "lab: package lists${missing:+, and installing ${missing[*]}}"
  {
    apt-get update -q
    ((!${#missing[@]})) || DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
  } >"$CACHE/tools.log" 2>&1 </dev/null || die "apt-get failed: $CACHE/tools.log"
}

# debian: the address of the Debian mirror that this host uses
debian() {
  local uri=${IRONSTRAP_LAB_DEBIAN:-}
  # shellcheck disable=SC2016 # the format is apt's, not the shell's
  [[ -n $uri ]] || uri=$(apt-get indextargets --format '$(REPO_URI)' 'Identifier: Packages' 'Origin: Debian' 'Label: Debian' | head -n 1)
  [[ -n $uri ]] || die "no Debian mirror in this host's apt sources: name one in IRONSTRAP_LAB_DEBIAN"
  printf '%s\n' "${uri%/}"
}

bootstrap() { # FOLDER PACKAGES
  debootstrap --variant=minbase --include="$2" "$SUITE" "$1" "$(debian)"
  rm -f "$1"/var/cache/apt/archives/*.deb "$1"/var/lib/apt/lists/*_*
  # These are a third of the files, and a cluster does not read them.
  find "$1"/usr/share/{doc,man,info,locale} -mindepth 1 -delete
}

# --- programs

# go_build MODULE CGO PATTERN [LDFLAGS]: go.sum in the repository decides what may be built
go_build() {
  local out=$PWD
  cd "$HERE/parts/$1"
  CGO_ENABLED=$2 GOFLAGS=-mod=readonly GOWORK=off go build -trimpath -buildvcs=false -ldflags "-s -w ${4:-}" -o "$out/" "$3"
  cd "$out"
}

recipe_kubernetes() {
  local stamps='' package major=${KUBERNETES%%.*} minor=${KUBERNETES#*.}
  for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    stamps+=" -X $package.gitVersion=v$KUBERNETES -X $package.gitMajor=$major -X $package.gitMinor=${minor%.*} -X $package.gitTreeState=clean"
  done
  go_build kubernetes 0 tool "${stamps# }"
}
recipe_etcd() { go_build etcd 0 tool; mv server etcd; }
recipe_coredns() { go_build coredns 0 tool; }
recipe_flannel() { go_build flannel 1 tool; mv flannel flanneld; } # its UDP backend is C
recipe_cni() { go_build cni 0 tool; }
recipe_flannel_cni() { go_build flannel-cni 0 tool; }
recipe_pause() { go_build pause 0 .; }

# Extracts the registry's program from its package. An installed package would start a service on this host.
recipe_distribution() {
  apt-get -o APT::Sandbox::User=root download docker-registry
  dpkg-deb -x docker-registry_*.deb unpacked
  mv unpacked/usr/bin/docker-registry .
  rm -r unpacked docker-registry_*.deb
}

# --- machine images

recipe_userland() { bootstrap root "$USERLAND"; ln -sf /dev/stdout root/var/log/nginx/access.log; ln -sf /dev/stderr root/var/log/nginx/error.log; }

recipe_machine() {
  local program
  bootstrap root "$MACHINE"
  chroot root useradd --create-home --shell /bin/bash ops
  install -m 440 /dev/stdin root/etc/sudoers.d/ops <<<'ops ALL=(ALL:ALL) NOPASSWD: ALL'
  # The lab replaces these two programs (see machine-swap). The originals stay callable under another name.
  for program in swapon swapoff; do
    chroot root dpkg-divert --local --rename --divert "/usr/sbin/$program.real" --add "/usr/sbin/$program"
  done
  # Every machine gets its own files, or those of the lab.
  rm -f root/etc/ssh/ssh_host_* root/etc/machine-id root/var/lib/dbus/machine-id root/etc/hostname
  rm -f root/etc/apt/sources.list root/etc/resolv.conf
}

# --- package repositories

# sign OWNER: signs the file Release in both formats of apt, with a temporary key. Release.key gets the public key.
sign() {
  local home gpg
  home=$(mktemp -d)
  gpg=(gpg --homedir "$home" --batch --quiet --passphrase '')
  "${gpg[@]}" --quick-gen-key "$1" rsa3072 sign never
  "${gpg[@]}" --clearsign --output InRelease Release
  "${gpg[@]}" --armor --detach-sign --output Release.gpg Release
  "${gpg[@]}" --armor --output Release.key --export
  gpgconf --homedir "$home" --kill all
  rm -rf "$home"
}

# index PACKAGES FOLDER: writes the list of the packages below a folder
index() {
  apt-ftparchive packages "$2" >"$1"
  gzip -kn9 "$1"
}

# A mirror with `dists` and `pool`. apt resolves each package separately against the machine's image, because
# some packages conflict with each other.
recipe_mirror() {
  local name apt root=${PART[machine]}/root release=dists/$SUITE
  mkdir -p apt/{lists,archives}/partial pool/main "$release/main/binary-$ARCH"
  printf 'deb [signed-by=%s] %s %s main\n' "$root/usr/share/keyrings/debian-archive-keyring.gpg" "$(debian)" "$SUITE" >apt/sources
  apt=(apt-get -q -o APT::Sandbox::User=root -o APT::Architecture="$ARCH" -o Dir::Etc::SourceList="$PWD/apt/sources"
    -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists="$PWD/apt/lists" -o Dir::Cache="$PWD/apt"
    -o Dir::State::status="$root/var/lib/dpkg/status" -o Dir::State::extended_states="$root/var/lib/apt/extended_states")
  "${apt[@]}" update
  for name in "${MIRRORED[@]}"; do "${apt[@]}" -y --download-only install "$name"; done
  mv apt/archives/*.deb pool/main/
  rm -r apt
  index "$release/main/binary-$ARCH/Packages" pool/main
  cd "$release"
  apt-ftparchive -o APT::FTPArchive::Release::Origin=Debian -o APT::FTPArchive::Release::Label=Debian \
    -o APT::FTPArchive::Release::Suite=stable -o APT::FTPArchive::Release::Codename="$SUITE" \
    -o APT::FTPArchive::Release::Components=main -o APT::FTPArchive::Release::Architectures="$ARCH" release . >../Release
  mv ../Release .
  sign 'Debian mirror of the ironstrap lab <debian@ironstrap.invalid>'
}

# package NAME VERSION DEPENDS DESCRIPTION: builds a package from the files in pkg/NAME
package() {
  install -d "pkg/$1/DEBIAN"
  {
    printf 'Package: %s\nVersion: %s\nArchitecture: %s\nSection: admin\nPriority: optional\n' "$1" "$2" "$ARCH"
    printf 'Maintainer: ironstrap lab <packages@ironstrap.invalid>\n'
    [[ -z $3 ]] || printf 'Depends: %s\n' "$3"
    printf 'Description: %s\n' "$4"
  } >"pkg/$1/DEBIAN/control"
  dpkg-deb --root-owner-group -Zzstd -z3 --build "pkg/$1" "$ARCH/"
}

# A repository like that of Kubernetes: flat, one per minor version, the same packages with the same files.
recipe_packages() {
  local name k=${PART[kubernetes]} obs=core:/stable:/v${KUBERNETES%.*}/deb
  mkdir -p "$obs/$ARCH"
  cd "$obs"

  for name in kubelet kubeadm kubectl; do install -D "$k/$name" "pkg/$name/usr/bin/$name"; done
  install -d pkg/kubelet/{etc/default,etc/kubernetes/manifests,var/lib/kubelet,usr/lib/systemd/system,DEBIAN}
  touch pkg/kubelet/{etc/kubernetes/manifests,var/lib/kubelet}/.kubelet-keep
  echo KUBELET_EXTRA_ARGS= >pkg/kubelet/etc/default/kubelet
  echo /etc/default/kubelet >pkg/kubelet/DEBIAN/conffiles
  cat >pkg/kubelet/usr/lib/systemd/system/kubelet.service <<'U'
[Unit]
Description=kubelet: The Kubernetes Node Agent
Documentation=https://kubernetes.io/docs/
Wants=network-online.target
After=network-online.target

[Service]
ExecStart=/usr/bin/kubelet
Restart=always
StartLimitInterval=0
RestartSec=10

[Install]
WantedBy=multi-user.target
U
  install -D -m 644 /dev/stdin pkg/kubeadm/usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf <<'U'
# Note: This dropin only works with kubeadm and kubelet v1.11+
[Service]
Environment="KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf"
Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml"
# This is a file that "kubeadm init" and "kubeadm join" generates at runtime, populating the KUBELET_KUBEADM_ARGS variable dynamically
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
# This is a file that the user can use for overrides of the kubelet args as a last resort. Preferably, the user should use
# the .NodeRegistration.KubeletExtraArgs object in the configuration files instead. KUBELET_EXTRA_ARGS should be sourced from this file.
EnvironmentFile=-/etc/default/kubelet
ExecStart=
ExecStart=/usr/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS
U
  install -d pkg/kubernetes-cni/{opt/cni/bin,etc/cni/net.d}
  install "${PART[cni]}"/* pkg/kubernetes-cni/opt/cni/bin/
  touch pkg/kubernetes-cni/etc/cni/net.d/.kubernetes-cni-keep

  package kubelet "$KUBERNETES-$REVISION" 'iptables (>= 1.4.21), kubernetes-cni (>= 1.2.0), util-linux, mount' 'Node agent for Kubernetes clusters'
  package kubeadm "$KUBERNETES-$REVISION" '' 'Command-line utility for administering a Kubernetes cluster'
  package kubectl "$KUBERNETES-$REVISION" '' 'Command-line utility for interacting with a Kubernetes cluster'
  package kubernetes-cni "$CNI-$REVISION" '' 'Binaries required to provision kubernetes container networking'
  rm -r pkg

  index Packages .
  name=isv:kubernetes:core:stable:v${KUBERNETES%.*}
  apt-ftparchive -o APT::FTPArchive::Release::Origin="$name" -o APT::FTPArchive::Release::Label="$name" \
    -o APT::FTPArchive::Release::Architectures="$ARCH" release . >../Release
  mv ../Release .
  sign 'Kubernetes packages of the ironstrap lab <packages@ironstrap.invalid>'
}

# --- images

# images: one line per image, in the format of image.py. Images that call programs of a distribution begin with the
# userland's layer, so a machine downloads it once for all of them.
images() {
  local name k=${PART[kubernetes]} e=${PART[etcd]} under=${PART[userland]}/root
  image() { local IFS=$'\t'; printf '%s\n' "$*"; }
  for name in kube-apiserver kube-controller-manager kube-scheduler; do
    image "registry.k8s.io/$name:v$KUBERNETES" '[]' "usr/local/bin/$name=$k/$name"
  done
  image "registry.k8s.io/kube-proxy:v$KUBERNETES" '[]' "$under" "usr/local/bin/kube-proxy=$k/kube-proxy"
  image "registry.k8s.io/pause:$PAUSE" '["/pause"]' "pause=${PART[pause]}/pause"
  image "registry.k8s.io/etcd:$ETCD-0" '[]' "usr/local/bin/etcd=$e/etcd,usr/local/bin/etcdctl=$e/etcdctl"
  image "registry.k8s.io/coredns/coredns:v$COREDNS" '["/coredns"]' "coredns=${PART[coredns]}/coredns"
  image "docker.io/flannel/flannel:v$FLANNEL" '["/opt/bin/flanneld"]' "$under" "opt/bin/flanneld=${PART[flannel]}/flanneld"
  image "docker.io/flannel/flannel-cni-plugin:v$FLANNEL_CNI" '[]' "$under" "flannel=${PART[flannel-cni]}/flannel"
  image docker.io/library/nginx:1 '["/usr/sbin/nginx","-g","daemon off;"]' "$under"
}

# The registry's store. A registry in its own network namespace fills it, so it uses no port of this host. Images have
# their path without the host: registry.k8s.io/pause is pause.
recipe_registry() {
  images | python3 "$HERE/image.py" layout "$ARCH"
  cat >config.yml <<Y
version: 0.1
log: {level: warn, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: $PWD/store}}
http: {addr: "127.0.0.1:5000"}
Y
  images | cut -f1 | unshare --net bash -euo pipefail -c "$(declare -f push); push ${PART[distribution]}/docker-registry"
  rm -r layout config.yml
}

push() { # REGISTRY, references on standard input
  local reference try
  ip link set lo up
  "$1" serve config.yml </dev/null &
  server=$! # not local: the trap outlives this function
  trap 'kill "$server"; wait' EXIT
  for ((try = 0; try < 100; try++)); do
    (exec 3<>/dev/tcp/127.0.0.1/5000) 2>/dev/null && break
    sleep 0.1
  done
  while read -r reference; do
    skopeo --insecure-policy copy --quiet --dest-tls-verify=false "oci:layout:$reference" "docker://127.0.0.1:5000/${reference#*/}"
  done
}
