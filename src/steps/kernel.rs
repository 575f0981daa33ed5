//! kernel: the kernel has what containers and their network need, now and at boot.

use crate::error::Result;
use crate::shell::{Sh, sh};
use crate::step::{Ask, Back, Cx, Step, Undo, Verdict, Want};

pub const STEP: Step =
    Step { name: "kernel", why: "pods and Services need a kernel that forwards and filters packets", wants };

const MODULES: &str = "# Kept by ironstrap.\noverlay\nbr_netfilter\nnf_conntrack\n";

/// The modules of `MODULES`, and further ones that the kernel loads by itself. flannel's interface, the bridge of the pods
/// and kube-proxy's rules make it load those.
const USED: &str = "overlay br_netfilter nf_conntrack nf_tables vxlan bridge veth";

const MODPROBE: &str = include_str!("../../templates/modprobe.sh");

const SYSCTL_FILE: &str = "99-zz-ironstrap.conf";

/// The values that must hold in `/proc/sys`. They are the documented prerequisites of containerd and kubeadm.
const SYSCTLS: &[(&str, &str)] = &[
    ("net.bridge.bridge-nf-call-ip6tables", "1"),
    ("net.bridge.bridge-nf-call-iptables", "1"),
    ("net.ipv4.ip_forward", "1"),
];

/// A further value for pods that have IPv6 addresses. kubeadm checks it, too.
const IPV6: &[(&str, &str)] = &[("net.ipv6.conf.default.forwarding", "1")];

/// The values that must be at least this high. Each pod takes inotify instances of root's, and a kernel gives root 128. The
/// value is kubeone's, and kubespray and k0s raise it, too. Its file is read before all others, so a higher value of yours
/// wins.
const AT_LEAST: &[(&str, &str)] = &[("fs.inotify.max_user_instances", "8192")];

const AT_LEAST_FILE: &str = "00-ironstrap.conf";

/// The values that the kubelet sets by itself when it starts. With `protectKernelDefaults` it only checks them, and refuses
/// to run if one of them differs (`setupKernelTunables` in `pkg/kubelet/cm`, values in `pkg/util/sysctl`).
const KUBELETS_OWN: &[(&str, &str)] = &[
    ("vm.overcommit_memory", "1"),
    ("vm.panic_on_oom", "0"),
    ("kernel.panic", "10"),
    ("kernel.panic_on_oops", "1"),
    ("kernel.keys.root_maxkeys", "1000000"),
    ("kernel.keys.root_maxbytes", "25000000"),
];

fn wants(cx: &Cx) -> Result<Vec<Want>> {
    let protected = cx.cluster.kubelet.get("protectKernelDefaults") == Some(&true.into());
    let also = |list: &'static [(&str, &str)], wanted: bool| if wanted { list } else { &[] };
    let ipv6 = also(IPV6, cx.cluster.pods.addr().is_ipv6());
    let sysctls: Vec<_> = SYSCTLS.iter().chain(ipv6).chain(also(KUBELETS_OWN, protected)).collect();
    let file = |sysctls: &[&(&str, &str)]| -> String {
        let lines: String = sysctls.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        format!("# Kept by ironstrap.\n{lines}")
    };
    let at_least: Vec<_> = AT_LEAST.iter().collect();
    let mut wants = vec![
        nothing_bars_modules(),
        Want::file(
            "kernel.modules-at-boot",
            "kernel modules are loaded at boot",
            "/etc/modules-load.d/ironstrap.conf",
            0o644,
            MODULES,
        ),
        Want::file(
            "kernel.sysctls-at-boot",
            "sysctls are set at boot",
            &format!("/etc/sysctl.d/{SYSCTL_FILE}"),
            0o644,
            &file(&sysctls),
        ),
        nothing_overrides(&sysctls),
        Want::file(
            "kernel.inotify-at-boot",
            "inotify limits are set at boot",
            &format!("/etc/sysctl.d/{AT_LEAST_FILE}"),
            0o644,
            &file(&at_least),
        ),
        nothing_lowers(&at_least),
        effect("overlay file systems can be mounted", "grep -qw overlay /proc/filesystems", "overlay"),
        effect(
            "bridged traffic can be filtered",
            "[ -e /proc/sys/net/bridge/bridge-nf-call-iptables ]",
            "br_netfilter",
        ),
        effect("connections are tracked", "[ -e /proc/sys/net/netfilter/nf_conntrack_max ]", "nf_conntrack"),
    ];
    wants.extend(sysctls.iter().map(|(key, value)| live(key, value).is(*value)));
    wants.push(forwards(cx));
    wants.extend([
        boot_unit("systemd-modules-load", "loads modules"),
        boot_unit("systemd-sysctl", "sets sysctls"),
    ]);
    wants.extend(at_least.iter().map(|(key, value)| {
        let enough = |have: &str| {
            have.trim().parse::<u64>().is_ok_and(|have| value.parse().is_ok_and(|value| have >= value))
        };
        Want {
            that: format!("{key} is {value} or more"),
            ..live(key, value).passes(format!("{value} or more"), enough)
        }
    }));
    Ok(wants)
}

/// The want that this unit of systemd does its part at boot. Everything that a machine needs after a reboot depends on it.
fn boot_unit(unit: &'static str, does: &str) -> Want {
    Want::new("kernel.boot-unit", format!("{unit} {does} at boot"))
        .of(unit)
        .ask(Ask::Unit { unit: format!("{unit}.service"), reads: vec![] })
        .judged_presence(|state| match state == Some("masked") {
            false => Verdict::Holds,
            true => Verdict::Differs { have: "masked".into(), want: "not masked".into() },
        })
        .run(sh!("systemctl unmask -q {unit}\nsystemctl unmask -q --runtime {unit}", unit))
        .undone_by(Undo::Back(
            Back::new(&format!("boot-unit-{unit}"), format!("{unit} is restored to its earlier state"))
                .script(sh!("systemctl mask -q {unit}", unit)),
        ))
}

/// The want for the effect of a module. It does not ask for the module itself, which may be built into the kernel.
fn effect(that: &str, test: &'static str, module: &'static str) -> Want {
    let (test, module) = (Sh::raw(test), Sh::raw(module));
    Want::new("kernel.module", that)
        .of(&*module)
        .ask(sh!("if {test}; then echo yes; else echo no; fi", test))
        .is("yes")
        .run(sh!("modprobe {module}", module))
        .undone_by(Undo::Back(
            // `modprobe -r` would also remove modules that others may use. A module that is in use stays until a reboot.
            Back::new(&module, format!("{module} is unloaded unless something uses it"))
                .script(sh!("rmmod {module} 2>/dev/null || echo '{module} is in use, or built in'", module)),
        ))
}

fn live(key: &'static str, value: &'static str) -> Want {
    let path = format!("/proc/sys/{}", key.replace('.', "/"));
    Want::new("kernel.sysctl", format!("{key} is {value}"))
        .of(key)
        .ask(sh!("[ -e {path} ] || absent\ncat {path}", path))
        .run(sh!("sysctl -qw {key}={value}", key, value))
        .undone_by(Undo::Back(
            Back::new(key, format!("{key} is restored to its earlier value"))
                .now(sh!("if [ -e {path} ]; then cat {path}; else echo absent; fi", path))
                .script(sh!(
                    "read -r value <\"$was\"\nif [ \"$value\" != absent ] && [ -e {path} ]; then sysctl -qw {key}=\"$value\"; fi",
                    path,
                    key
                )),
        ))
}

/// The want that nothing keeps the modules from being loaded. Hardening guides bar modules that no machine of their authors
/// needs. A node needs them, from the next boot on at the latest.
fn nothing_bars_modules() -> Want {
    let functions = Sh::raw(MODPROBE).replaced("MODULES", Sh::raw(USED));
    Want::new("kernel.barred-modules", "no setting blocks the kernel modules that the cluster needs")
        .ask(functions.clone() + "modprobe_barred\n")
        .is("")
        .run(functions + "modprobe_unbarred\n")
        .nothing_to_undo("each file that it edits is kept by itself, and comes back")
}

/// The want that the network interfaces of pods forward packets. While `net.ipv4.ip_forward` is 1, an interface may still
/// have forwarding off, by itself or by the default for new interfaces. It then drops packets from and to pods that pass
/// through it.
fn forwards(cx: &Cx) -> Want {
    let off = FORWARD_NOT.replaced("ADDRESS", cx.node.ip.to_string());
    let ask = off.clone() + "forward_not\n";
    let each = |value: &'static str| {
        sh!(
            "while IFS= read -r d; do f=/proc/sys/net/ipv4/conf/$d/forwarding; [ ! -e \"$f\" ] || echo {value} >\"$f\"; done",
            value
        )
    };
    Want::new("kernel.forwarding", "the network interfaces of the node and its pods forward packets")
        .ask(ask.clone())
        .is("")
        .run(sh!("{off}forward_not | {each}", off, each = each("1")))
        .undone_by(Undo::Back(
            Back::new("forwarding", "forwarding of the network interfaces is restored to its earlier state")
                .now(ask)
                .script(sh!("{each} <\"$was\"", each = each("0"))),
        ))
        .only(cx.cluster.pods.addr().is_ipv4())
}

/// Defines `forward_not`, which prints the interfaces that do not forward. It prints nothing if none forwards at all. Then
/// another want turns on `ip_forward`, and that turns on all of them.
const FORWARD_NOT: Sh = Sh::raw(
    r#"forward_not() {
  # A kernel without IPv4 has none.
  [ -d /proc/sys/net/ipv4/conf ] || return 0
  cd /proc/sys/net/ipv4/conf
  # shellcheck disable=SC2046 # no card has a space in its name
  set -- $(grep -lx 0 */forwarding)
  off=" $* "
  case $off in '  ' | *' all/forwarding '*) return 0 ;; esac
  for d in default cni0 flannel.1 $(ip -o addr show to ADDRESS | awk '{ print $2; exit }'); do
    case $off in *" $d/forwarding "*) echo "$d" ;; esac
  done
}
"#,
);

/// An awk program that finds lines which override ironstrap's sysctls at boot. systemd-sysctl reads these lines after
/// ironstrap's file. They set one of its keys to another value, or with `-v least=1` to a lower one. The order of the files
/// is that of their own names, whichever folder they are in. The first folder that has a name hides the others (sysctl.d(5)).
/// `ip_forward` has a second name, and a key for each interface (kernel, Documentation/networking/ip-sysctl). The program
/// prints FILE: LINE. With `-v edit=1` it prints the texts of the files, with these lines commented out.
const OVERRIDES: Sh = Sh::raw(
    r##"BEGIN { n = split(wants, a, " "); for (i = 1; i <= n; i++) { split(a[i], p, "="); want[p[1]] = p[2] }
  forwards = "net.ipv4.ip_forward" in want
  if ("net.ipv6.conf.default.forwarding" in want) want["net.ipv6.conf.all.forwarding"] = 1 }
FNR == 1 { name = FILENAME; sub(/.*\//, "", name); after = name > ours && !seen[name]++ }
{ k = v = $0; sub(/=.*/, "", k); gsub(/^[ \t-]+|[ \t]+$/, "", k); gsub(/\//, ".", k)
  sub(/^[^=]*=/, "", v); gsub(/^[ \t]+|[ \t]+$/, "", v)
  bad = after && (k in want && (least ? v + 0 < want[k] + 0 : v != want[k]) || forwards && k ~ /^net\.ipv4\.conf\..*\.forwarding$/ && v == "0")
  if (edit) print (bad ? "# ironstrap: " : "") $0; else if (bad) print FILENAME ": " $0 }"##,
);

/// Shell that defines `overrides`, which checks the files that it is given. The shell also sets its own arguments to all
/// files that are read at boot.
fn boot_files(ours: &str, sysctls: &[&(&str, &str)], least: bool) -> Sh {
    let wants: Vec<String> = sysctls.iter().map(|(key, value)| format!("{key}={value}")).collect();
    sh!(
        "overrides() { awk -v ours={ours} -v wants={wants} -v least={least} \"$@\"; }\nset --\n\
         for f in /etc/sysctl.d/*.conf /run/sysctl.d/*.conf /usr/local/lib/sysctl.d/*.conf /usr/lib/sysctl.d/*.conf; do\n\
         [ ! -f \"$f\" ] || set -- \"$@\" \"$f\"; done\n",
        ours,
        wants = wants.join(" "),
        least = u8::from(least)
    )
}

fn nothing_overrides(sysctls: &[&(&str, &str)]) -> Want {
    nothing_after(
        "kernel.sysctl-overrides",
        "no file overrides ironstrap's sysctls at boot",
        boot_files(SYSCTL_FILE, sysctls, false),
    )
}

fn nothing_lowers(at_least: &[&(&str, &str)]) -> Want {
    nothing_after(
        "kernel.inotify-overrides",
        "no file lowers the inotify limits at boot",
        boot_files(AT_LEAST_FILE, at_least, true),
    )
}

fn nothing_after(id: &'static str, that: &str, files: Sh) -> Want {
    Want::new(id, that)
        .ask(sh!("{files}[ $# = 0 ] || overrides '{OVERRIDES}' \"$@\"", files, OVERRIDES))
        .is("")
        .run(sh!(
            "{files}overrides '{OVERRIDES}' \"$@\" | sed 's/: .*//' | sort -u | while read -r f; do\n\
             case $f in /usr/lib/*) t=/etc/sysctl.d/${f##*/} ;; *) t=$f ;; esac\n\
             backup_file \"kernel-${f##*/}\" \"$t\"\noverrides -v edit=1 '{OVERRIDES}' \"$f\" | write_file \"$t\" kept\ndone",
            files,
            OVERRIDES
        ))
        .nothing_to_undo("each file that it edits is kept by itself, and comes back")
}
