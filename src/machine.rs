//! The facts that a machine reports at the head of every reply, in addition to the other answers. `fleet` and the steps
//! decide what follows from them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use time::OffsetDateTime;

use crate::secret;
use crate::shell::{Sh, sh};

/// The folder on a machine for what must not outlive a boot: the lease, and the scripts and output of running units.
pub const RUN: &str = "/run/ironstrap";
/// The prefix of the names of ironstrap's transient units.
pub const UNIT: &str = "ironstrap-";

/// The names of the parts at the head of a reply.
pub const HEAD: [&str; 3] = ["facts", "authorities", "identity"];

/// The shell for each part of `HEAD`. `etcd_dir` is the folder where etcd keeps its data on control planes.
pub fn questions(etcd_dir: &str) -> [Sh; 3] {
    [facts(etcd_dir), AUTHORITIES.into(), IDENTITY.into()]
}

/// Network interfaces that containers and their networks create, as a pattern of the shell's `case`.
const VIRTUAL: Sh = Sh::raw(
    "lo | docker* | br-* | veth* | cni* | flannel* | cali* | cilium* | lxc* | kube-* | tunl* | vxlan* | virbr*",
);

fn facts(etcd_dir: &str) -> Sh {
    // This is the same pattern for a line of `ip route`, which names the interface after `dev`.
    let routes = VIRTUAL;
    let routes =
        routes.split(" | ").map(|name| sh!("*{dev}*", dev = format!(" dev {}", name.trim_end_matches('*'))));
    let virtual_dev = Sh::join(" | ", routes);
    sh!(
        r#"ID= VERSION_CODENAME=
if [ -e /etc/os-release ]; then . /etc/os-release; fi
echo "os $ID"
echo "codename $VERSION_CODENAME"
echo "arch $(uname -m)"
echo "uid $(id -u)"
echo "clock $(date +%s.%N)"
echo "cpus $(nproc)"
read -r x </proc/sys/kernel/hostname; echo "hostname $x"
read -r x </proc/sys/kernel/random/boot_id; echo "boot $x"
read -r x </proc/1/comm; echo "init $x"
while read -r k v x; do case $k in MemTotal:) echo "memory $v" ;; esac; done </proc/meminfo
for f in /etc/machine-id /sys/class/dmi/id/product_uuid; do
  x=; { read -r x <$f; } 2>/dev/null || :
  [ -z "$x" ] || echo "${f##*/} $x"
done
for f in /etc/ssh/ssh_host_*_key.pub; do
  k=; { read -r k x v <"$f"; } 2>/dev/null || :
  [ -z "$k" ] || echo "host-key $k $x"
done
# Of a member nothing more is made: it has shown that its network works.
if [ ! -e /var/lib/kubelet/pki/kubelet-client-current.pem ] && command -v ip >/dev/null; then
  ip -o link show | while read -r x k v; do
    k=${k%:}; k=${k%@*}
    case "$k $v" in *' link/ether '*) v=${v##* link/ether }; echo "mac $k ${v%% *}" ;; esac
  done
  ip -o addr show | while read -r x k f v x; do
    case $k in {VIRTUAL}) ;; *) echo "address $k ${v%/*}" ;; esac
  done
  { ip -4 route show; ip -6 route show 2>/dev/null || :; } | while read -r v x; do
    case "$v $x" in {virtual_dev}) ;; [0-9a-f]*) echo "route $v" ;; esac
  done
fi
for f in /run/systemd/transient/ironstrap-*.service; do [ ! -e "$f" ] || { f=${f##*/ironstrap-}; echo "busy ${f%.service}"; }; done
if [ -e /run/ironstrap/lease ]; then read -r x </run/ironstrap/lease; echo "lease $x"; fi
if [ -e /var/lib/kubelet/pki/kubelet-client-current.pem ]; then
  echo "has client-certificate"
  x=$(systemctl show -p ActiveEnterTimestampMonotonic --value kubelet.service 2>/dev/null) || x=
  read -r up k </proc/uptime
  echo "kubelet ${x:-0} $up"
fi
if [ -e {etcd_dir}/member ] || [ -e /etc/kubernetes/manifests/etcd.yaml ]; then echo "has etcd"; fi
[ ! -e /var/lib/ironstrap/kubeadm-receipt ] || echo "has receipt"
[ ! -e /run/flannel/subnet.env ] || echo "has flannel"
[ ! -e /var/lib/kubelet/pki/kubelet-server-current.pem ] || echo "has server-certificate"
cd /etc/kubernetes 2>/dev/null || exit 0
for f in kubelet.conf bootstrap-kubelet.conf admin.conf manifests/kube-apiserver.yaml pki/ca.crt; do [ ! -e $f ] || echo "has $f"; done
"#,
        VIRTUAL,
        virtual_dev,
        etcd_dir
    )
}

/// Prints every certificate authority that a part of Kubernetes on this machine trusts. Each line has the file and the
/// authority in base64.
const AUTHORITIES: &str = r#"cd /etc/kubernetes 2>/dev/null || exit 0
for f in kubelet.conf bootstrap-kubelet.conf; do
  [ ! -e $f ] || sed -n "s/^ *certificate-authority-data: */$f /p" $f
done
[ ! -e pki/ca.crt ] || echo "pki/ca.crt $(base64 -w 0 pki/ca.crt)"
"#;

/// Prints the settings with which the cluster was created, from the files with which its control plane runs. So the answer
/// does not need the API, and does not depend on the tool that created the cluster. The lines of ironstrap's own receipt
/// come last and win, because a kubeconfig is easily edited. A manifest is easily edited, too. So the address of a control
/// plane counts only if API server and etcd agree on it.
const IDENTITY: &str = r#"cd /etc/kubernetes/manifests 2>/dev/null || exit 0
for f in kube-apiserver.yaml kube-controller-manager.yaml; do
  [ ! -e $f ] || sed -n -e 's/^ *- --cluster-cidr=/pods /p' -e 's/^ *- --service-cluster-ip-range=/services /p' \
    -e 's/^ *image: .*kube-apiserver:v/kubernetes /p' $f
done
a= e=
[ ! -e kube-apiserver.yaml ] || a=$(sed -n 's/^ *- --advertise-address=//p' kube-apiserver.yaml 2>/dev/null) || a=
[ ! -e etcd.yaml ] || e=$(sed -n '/^ *- --initial-advertise-peer-urls=https:.*:2380$/{s/.*=https:\/\///;s/:2380$//;s/[][]//g;p}' etcd.yaml 2>/dev/null) || e=
[ -z "$a" ] || [ "$a" != "$e" ] || echo "address $a"
a= e=
[ ! -e kube-apiserver.yaml ] || a=$(sed -n 's/^ *- --service-account-issuer=https:\/\/kubernetes\.default\.svc\.//p' kube-apiserver.yaml 2>/dev/null) || a=
[ ! -e /var/lib/kubelet/config.yaml ] || e=$(sed -n 's/^clusterDomain: //p' /var/lib/kubelet/config.yaml 2>/dev/null) || e=
[ -z "$a" ] || [ "$a" != "$e" ] || echo "domain $a"
[ ! -e ../admin.conf ] || sed -n -e 's/^    server: https:\/\//endpoint /p' -e '/^clusters:/,/^contexts:/s/^  name: /name /p' ../admin.conf
[ ! -e /var/lib/ironstrap/kubeadm-receipt ] || sed -n -e '/^endpoint /p' -e '/^name /p' /var/lib/ironstrap/kubeadm-receipt
"#;

/// The facts about one machine, as it reported them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Machine {
    /// `ID` of os-release: `debian`.
    pub os: String,
    /// `VERSION_CODENAME` of os-release: `trixie`.
    pub codename: String,
    /// The architecture, as `uname -m` prints it.
    pub arch: String,
    pub uid: u32,
    /// The time of the machine's own clock, in seconds since 1970.
    pub clock: f64,
    /// How long the machine took to answer all questions, in seconds.
    pub took: f64,
    pub cpus: u32,
    /// The total memory, in KiB.
    pub memory: u64,
    pub hostname: String,
    pub boot: String,
    /// The name of process 1.
    pub init: String,
    pub machine_id: Option<String>,
    /// The UUID that the firmware reports. A hypervisor makes one up.
    pub product_uuid: Option<String>,
    /// The MAC addresses of its network interfaces, by interface. A member has none here.
    pub macs: BTreeMap<String, String>,
    /// The public keys of its sshd, as kind and base64.
    pub host_keys: Vec<String>,
    /// The host key by which ironstrap reached the machine, as kind and base64. The connection proves it, and the machine
    /// does not report it.
    pub proven_key: Option<String>,
    /// The machine's own addresses, each with its interface. It is empty for a member, and if the machine cannot list them.
    pub addresses: BTreeMap<IpAddr, String>,
    /// The networks to which it has routes through its own interfaces, without default routes.
    pub routes: Vec<IpNet>,
    /// Long work that is still running: the names of ironstrap's transient units, without `UNIT`.
    pub busy: Vec<String>,
    pub lease: Option<Lease>,
    /// How long ago the kubelet of a member last started, in seconds. A point in time would not do, because clocks are set,
    /// mostly at boot.
    pub kubelet_age: Option<f64>,
    /// The traces of Kubernetes on the machine: `kubelet.conf`, `client-certificate`, …
    pub has: BTreeSet<String>,
    /// The files that contain a certificate authority, each with that authority in base64 (PEM inside).
    pub authorities: Vec<(String, String)>,
    /// The settings with which the cluster was created: `kubernetes`, `pods`, `services`, `domain`, `endpoint`, `name`.
    /// `address` is the control plane's own address.
    pub identity: BTreeMap<String, String>,
}

/// The lease of a machine: which run changes it, or changed it last.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lease {
    /// How often the lease has changed hands.
    pub epoch: u64,
    /// The run that holds it.
    pub run: String,
    /// When the lease ends, by the machine's clock, in seconds since 1970.
    pub until: u64,
    pub since: u64,
    /// The owner of the run, as `user@host`.
    pub owner: String,
    /// The mark by which runs of the same PKI directory recognize the lease. It is empty in leases of earlier versions.
    pub kin: String,
}

impl Machine {
    /// Parses the answers to `questions`, in their order. The error says what is missing or wrong.
    pub fn read(facts: &str, authorities: &str, identity: &str) -> Result<Machine, String> {
        let (mut machine, mut times) = (Machine::default(), BTreeMap::new());
        for line in facts.lines() {
            let (key, value) = line.split_once(' ').unwrap_or((line, ""));
            limited(line, key, &mut times)?;
            machine.take(key, value.trim()).ok_or_else(|| format!("cannot read \"{line}\""))?;
        }
        if machine.init.is_empty() || machine.clock == 0.0 {
            return Err("the facts about the machine are incomplete".into());
        }
        let pairs = |text: &str| -> Vec<(String, String)> {
            let pair = |l: &str| l.split_once(' ').map(|(k, v)| (k.to_string(), v.trim().to_string()));
            text.lines().filter_map(pair).collect()
        };
        // ironstrap does not ask a member about its network, so these facts of a member do not count.
        if machine.has("client-certificate") {
            machine.macs.clear();
            machine.addresses.clear();
            machine.routes.clear();
        }
        let distinct: BTreeSet<IpNet> = machine.routes.drain(..).collect();
        machine.routes = distinct.into_iter().collect();
        machine.authorities = pairs(authorities);
        if machine.authorities.len() > FEW {
            return Err(format!("it reports more than {FEW} authorities"));
        }
        machine.identity = pairs(identity).into_iter().collect();
        Ok(machine)
    }

    fn take(&mut self, key: &str, value: &str) -> Option<()> {
        match key {
            "os" => self.os = value.into(),
            "codename" => self.codename = value.into(),
            "arch" => self.arch = value.into(),
            "uid" => self.uid = value.parse().ok()?,
            "clock" => self.clock = finite(value)?,
            "cpus" => self.cpus = value.parse().ok()?,
            "memory" => self.memory = value.parse().ok()?,
            "hostname" => self.hostname = value.into(),
            "boot" => self.boot = value.into(),
            "init" => self.init = value.into(),
            "machine-id" => self.machine_id = Some(value.into()).filter(|id: &String| id != "uninitialized"),
            "product_uuid" => self.product_uuid = Some(value.to_lowercase()),
            "host-key" => self.host_keys.push(value.into()),
            "mac" => drop(value.split_once(' ').map(|(on, mac)| self.macs.insert(on.into(), mac.into()))),
            "address" => {
                let (on, ip) = value.split_once(' ')?;
                self.addresses.insert(ip.parse().ok()?, on.into());
            }
            // `ip route` prints a single host without a prefix length. A line that has no network, such as `default` or
            // `blackhole`, is skipped.
            "route" => {
                self.routes.extend(value.parse().ok().or(value.parse::<IpAddr>().ok().map(IpNet::from)))
            }
            "busy" => self.busy.push(value.into()),
            "lease" => self.lease = Some(Lease::read(value)?),
            "kubelet" => self.kubelet_age = age(value)?,
            "has" => drop(self.has.insert(value.into())),
            _ => return None,
        }
        Some(())
    }

    pub fn has(&self, trace: &str) -> bool {
        self.has.contains(trace)
    }

    /// Whether this machine is a control plane: kubeadm got at least as far as writing the API server's manifest. If
    /// somebody deleted that manifest since, etcd's data or etcd's manifest is still there.
    pub fn runs_control_plane(&self) -> bool {
        self.has("manifests/kube-apiserver.yaml") || (self.is_member() && self.has("etcd"))
    }

    /// Whether this machine is a member of a cluster. The kubelet has a certificate that the cluster signed for it, or had
    /// one when kubeadm finished. Files of the kubelet may have been deleted since. `kubeadm reset` also deletes the
    /// certificate of the CA, so after it the machine is no member.
    pub fn is_member(&self) -> bool {
        self.has("client-certificate") || (self.has("receipt") && self.has("pki/ca.crt"))
    }

    /// When the kubelet of a member last started, by the machine's clock, in whole seconds since 1970.
    pub fn kubelet_since(&self) -> Option<i64> {
        self.kubelet_age.map(|age| (self.clock - age).floor() as i64)
    }

    /// Whether a run's lease is still valid, or work that the run started still goes on.
    pub fn is_taken(&self) -> bool {
        let live = |lease: &Lease| lease.until as f64 > self.clock || !self.busy.is_empty();
        self.lease.as_ref().is_some_and(live)
    }
}

/// The longest line of the facts, in bytes: the public part of a long RSA key takes 3 KiB.
const LONGEST: usize = 8192;
/// How many facts of one kind a machine may report about its network. `FEW` is the limit for every other kind.
const MANY: usize = 4096;
const FEW: usize = 64;

/// Fails if a machine reports more than any honest machine does. ironstrap compares all machines by their facts.
fn limited<'a>(line: &str, key: &'a str, times: &mut BTreeMap<&'a str, usize>) -> Result<(), String> {
    if line.len() > LONGEST {
        let head = secret::beginning(line, 80);
        return Err(format!("a line is longer than {LONGEST} bytes: \"{head}…\""));
    }
    let most = if ["mac", "address", "route"].contains(&key) { MANY } else { FEW };
    let times = times.entry(key).or_insert(0);
    *times += 1;
    if *times > most { Err(format!("it reports more than {most} lines of {key}")) } else { Ok(()) }
}

/// Parses a number that a machine reports. NaN is no number: every comparison with it fails, and so every check would hold.
pub(crate) fn finite(text: &str) -> Option<f64> {
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

/// Parses `START NOW`, in microseconds and seconds since boot, into an age in seconds. A unit that never started has 0, and
/// no age. A start in the future counts as now.
fn age(text: &str) -> Option<Option<f64>> {
    let (start, now) = text.split_once(' ')?;
    let (start, now) = (finite(start)?, finite(now)?);
    Some((start > 0.0).then_some((now - start / 1e6).max(0.0)))
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Machine { hostname, os, codename, arch, uid, cpus, init, .. } = self;
        let memory = self.memory / 1024;
        write!(
            f,
            "{hostname}: {os} {codename}, {arch}, {cpus} processors, {memory} MiB, {init}, as user {uid}"
        )
    }
}

impl Lease {
    /// Parses `EPOCH RUN UNTIL SINCE OWNER KIN`, as the script on the node writes it. Earlier versions write no `KIN`, and
    /// take one for a part of `OWNER`. So they never mistake the lease for one of their own.
    fn read(text: &str) -> Option<Lease> {
        let mut words = text.splitn(6, ' ');
        Some(Lease {
            epoch: words.next()?.parse().ok()?,
            // The id of the run goes into scripts, so only these characters are allowed.
            run: words
                .next()
                .filter(|run| run.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'))?
                .into(),
            until: words.next()?.parse().ok()?,
            since: words.next()?.parse().ok()?,
            owner: words.next()?.into(),
            kin: words.next().unwrap_or_default().into(),
        })
    }

    /// The run that holds the lease, for people: its owner, the beginning of its id, and the start of the lease.
    pub fn holder(&self) -> String {
        let head: String = self.run.chars().take(4).collect();
        format!("{} (run {head}, since {})", self.owner, self.since())
    }

    /// `since` as a time of day, for people.
    pub fn since(&self) -> String {
        let format = time::macros::format_description!("[hour]:[minute]:[second] UTC");
        OffsetDateTime::from_unix_timestamp(self.since.try_into().unwrap_or(0))
            .ok()
            .and_then(|time| time.format(&format).ok())
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
