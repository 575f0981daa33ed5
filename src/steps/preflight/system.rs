//! The system that Kubernetes will run on: its kernel, its cgroups, and what restricts containers.

use super::named;
use crate::cluster::{Cluster, Network};
use crate::shell::{Sh, sh};
use crate::step::{Ask, Verdict, Want};

/// Kernel configuration that kubeadm's SystemVerification requires (system-validators 1.12). If two options have a |
/// between them, either is enough.
const CONFIG: &str = "NAMESPACES NET_NS PID_NS IPC_NS UTS_NS CPUSETS MEMCG INET EXT4_FS PROC_FS \
    NETFILTER_XT_TARGET_REDIRECT|IP_NF_TARGET_REDIRECT NETFILTER_XT_MATCH_COMMENT FAIR_GROUP_SCHED CGROUPS CGROUP_BPF \
    CGROUP_PIDS CGROUP_SCHED";
/// Controllers of cgroup v2 that SystemVerification requires. It also requires devices and freezer, which cgroup v2 does
/// not list, but always has.
const CONTROLLERS: [&str; 4] = ["cpu", "cpuset", "memory", "pids"];
/// Minor numbers of the kernels of version 5 that SystemVerification knows. From version 6 on it takes any kernel.
const LONG_TERM: [u32; 3] = [4, 10, 15];

pub(super) fn wants(cluster: &Cluster) -> Vec<Want> {
    vec![
        cgroups(cluster),
        kernel(),
        named(cluster, "SystemVerification", config()),
        modules(cluster),
        log(),
        protections(),
    ]
}

/// The want that the kubelet runs with the machine's cgroups. From 1.35 on, kubelets refuse cgroup v1 unless `failCgroupV1`
/// is false (KEP-5573).
fn cgroups(cluster: &Cluster) -> Want {
    let bears = cluster.kubernetes.minor < 35 || cluster.kubelet.get("failCgroupV1") == Some(&false.into());
    let of_v2 = |controllers: &str| {
        let off: Vec<&str> =
            CONTROLLERS.into_iter().filter(|name| !controllers.split(' ').any(|on| on == *name)).collect();
        (!off.is_empty()).then(|| format!("version 2 without: {}", off.join(" ")))
    };
    let judge = move |answer: &str| {
        let wrong = match answer.strip_prefix("version 2 ") {
            Some(controllers) => of_v2(controllers.trim()),
            None => (!bears).then(|| answer.to_string()),
        };
        match wrong {
            None => Verdict::Holds,
            Some(have) => {
                Verdict::Differs { have, want: format!("version 2 with {}", CONTROLLERS.join(" ")) }
            }
        }
    };
    Want::new("preflight.cgroups", "the machine has the cgroups that the kubelet needs")
        .ask("if [ -e /sys/fs/cgroup/cgroup.controllers ]; then read -r c </sys/fs/cgroup/cgroup.controllers || :; echo \"version 2 $c\"; else echo version 1; fi")
        .judged(judge)
        .by_hand(
            "add to the kernel command line systemd.unified_cgroup_hierarchy=1 for version 2, or cgroup_enable=memory for memory (as on \
             a Raspberry Pi), then reboot; or keep version 1 while Kubernetes supports it: failCgroupV1 = false under [kubelet] and \
             ignore-preflight = [\"SystemVerification\"] under [cluster]",
        )
}

/// Notes a kernel that Kubernetes is not tested with. kubeadm itself only warns of such a kernel.
fn kernel() -> Want {
    let is_known = |release: &str| {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<u32>());
        match (numbers.next(), numbers.next()) {
            (Some(Ok(5)), Some(Ok(minor))) => LONG_TERM.contains(&minor),
            (Some(Ok(major)), _) => major > 5,
            _ => false,
        }
    };
    Want::new("preflight.kernel-version", "the kernel is one that Kubernetes is tested with")
        .ask(Ask::OnlyBeforeJoin("uname -r".into()))
        .judged(move |release| match is_known(release) {
            true => Verdict::Holds,
            false => Verdict::Noted(format!(
                "Kubernetes is not tested with kernel {release}, but with 5.4, 5.10, 5.15, and 6 and newer"
            )),
        })
}

/// The want that the kernel has the options that kubeadm looks for. It looks where kubeadm looks, except in places that
/// only a kernel built on the machine has.
fn config() -> Want {
    let keys: Vec<&str> = CONFIG.split_whitespace().collect();
    let ask = sh!(
        "for f in /proc/config.gz /boot/config-$(uname -r) /usr/lib/modules/$(uname -r)/config; do\n  \
         [ -e $f ] || continue\n  c=$(zcat -f <$f)\n  \
         printf '%s\\n' \"$c\" | sed -nE 's/^CONFIG_({keys})=[ym].*/\\1/p'\n  exit 0\ndone\necho no configuration",
        keys = Sh::join("|", CONFIG.split_whitespace().map(Sh::raw))
    );
    let judge = move |answer: &str| {
        let there = |key: &&str| key.split('|').any(|key| answer.lines().any(|line| line == key));
        let off: Vec<String> = keys
            .iter()
            .filter(|key| !there(key))
            .map(|key| format!("no CONFIG_{}", key.replace('|', " or ")))
            .collect();
        let have = match answer {
            _ if off.is_empty() => return Verdict::Holds,
            "no configuration" => {
                "no kernel configuration in /proc/config.gz, /boot or /usr/lib/modules".into()
            }
            _ => off.join(", "),
        };
        Verdict::Differs { have, want: String::new() }
    };
    Want::new("preflight.kernel-config", "the kernel has the options that kubeadm looks for").ask(Ask::OnlyBeforeJoin(ask)).judged(judge).by_hand(
        "install a kernel of Debian: apt-get install linux-image-$(dpkg --print-architecture), then reboot",
    )
}

/// Prints the kernel modules that containers and their network need and that are missing: they cannot be loaded, are not
/// loaded and are not built in. If there are no modules anywhere, as in a container, it prints nothing. The kernel step
/// asks for the effects. If a machine has modules, but not those of the kernel that runs, that kernel was replaced and the
/// machine was not booted since.
const MODULES: &str = r#"command -v modprobe >/dev/null || exit 0
k=$(uname -r)
missing=
for m in $modules; do
  [ -e "/sys/module/$m" ] || modprobe -n -q "$m" 2>/dev/null || missing="$missing $m"
done
[ -n "$missing" ] || exit 0
if [ -e "/usr/lib/modules/$k/modules.dep" ]; then
  for m in $missing; do echo "no module $m for kernel $k"; done
else
  set -- /usr/lib/modules/*/modules.dep
  [ ! -e "$1" ] || echo "no modules for the running kernel $k in /usr/lib/modules, only for $(for f; do f=${f%/modules.dep}; echo "${f##*/}"; done | xargs)"
fi"#;

fn modules(cluster: &Cluster) -> Want {
    let mut modules = vec!["overlay", "br_netfilter", "nf_conntrack", "nf_tables"];
    modules.extend(matches!(cluster.network, Network::Flannel(_)).then_some("vxlan"));
    Want::new("preflight.kernel-modules", "the kernel modules for containers and their network are available")
        .ask(Ask::OnlyBeforeJoin(sh!("modules={modules}\n", modules = modules.join(" ")) + MODULES))
        .passes("", |answer| answer.is_empty())
        .by_hand(
            "if the kernel was replaced, reboot; otherwise install a kernel of Debian: apt-get install \
             linux-image-$(dpkg --print-architecture), then reboot",
        )
}

/// The want that the kernel's log can be read. The kubelet reads it to see what was killed for lack of memory, and does not
/// start without it.
fn log() -> Want {
    Want::new("preflight.kernel-log", "the kernel log is readable")
        .ask(Ask::OnlyBeforeJoin("if { : </dev/kmsg; } 2>/dev/null; then echo yes; else ls -l /dev/kmsg 2>&1; fi".into()))
        .passes("/dev/kmsg", |answer| answer.trim_end() == "yes")
        .by_hand(
            "use a virtual machine, or pass /dev/kmsg to the container (LXC: lxc.mount.entry = /dev/kmsg dev/kmsg none \
             bind,create=file; systemd-nspawn: --bind=/dev/kmsg)",
        )
}

/// Notes systems that restrict containers, if that has consequences.
fn protections() -> Want {
    Want::new("preflight.protections", "whether SELinux or AppArmor restricts containers")
        .ask(Ask::OnlyBeforeJoin(PROTECTIONS.into()))
        .judged(|answer| match answer {
            "" => Verdict::Holds,
            lines => Verdict::Noted(lines.replace('\n', "; ")),
        })
}

const PROTECTIONS: &str = r#"if [ -e /sys/fs/selinux/enforce ]; then
  # No line break comes after it.
  read -r x </sys/fs/selinux/enforce || :
  [ "$x" != 1 ] || echo "SELinux is enforcing: containers need its policy container-selinux, and containerd needs enable_selinux = true"
fi
x=N
[ ! -e /sys/module/apparmor/parameters/enabled ] || read -r x </sys/module/apparmor/parameters/enabled || :
[ "$x" != Y ] || command -v apparmor_parser >/dev/null ||
  echo "AppArmor is on, but nothing loads its profiles, so containers run without them (apt-get install apparmor)""#;
