//! The known causes as data, the most specific first. An entry claims a cause only from words that can mean nothing
//! else. The tests have evidence from real machines for nearly every cause, and name the exceptions.

use super::Cause;
use super::signs::{
    CONNTRACK, CONTAINERD_DOWN, CONTAINERD_LOST, DIAL, ETCD_DATA, FULL, INOTIFY, LOOKUP, NO_ANSWER,
    NOT_FOUND, PLAIN, PLUGIN, REFUSED, SANDBOX, SWAP, UNREACHABLE, klog, sign,
};

pub const CAUSES: &[Cause] = &[
    Cause {
        name: "argument-unknown",
        what: "a component of the control plane does not know its argument {flag}, and does not start",
        remedy: "take {flag} out of the inventory ([api-server], [controller-manager], [scheduler] or [etcd])",
        signs: &[
            sign("container ", r"^(?:Error: )?unknown flag: (?<flag>--\S+)"),
            sign("container etcd", r"^flag provided but not defined: (?<flag>-\S+)"),
            sign("fix", r"^waiting does not help: Error: unknown flag: (?<flag>--\S+)"),
        ],
        fatal: Some("^Error: unknown flag: "),
        ..PLAIN
    },
    Cause {
        name: "swap-on",
        what: "swap is on again, and the kubelet does not start with it",
        remedy: "on {node}, find out what turns it on: swapon --show; systemctl list-units --all --type=swap; grep -rl swapon /etc/systemd/system /usr/lib/systemd/system /etc/rc.local /etc/cron*; then swapoff -a",
        signs: &[
            sign("journal kubelet", SWAP),
            sign(
                "fix",
                r#"^waiting does not help: (?:[EF]\d{4} [^"]*\] |\{"ts":[\d.]+,"caller":"[^"]*","msg":)"command failed"(?: err=|,"err":)"failed to run Kubelet: running with swap on is not supported"#,
            ),
            sign(
                "fix",
                "^waiting does not help: the kubelet ends with \"failed to run Kubelet: running with swap on is not supported",
            ),
        ],
        fatal: Some(SWAP),
        ..PLAIN
    },
    Cause {
        name: "swap-returns",
        what: "swap is on again right after it was turned off",
        remedy: "find out what turns it on, on {node}: systemctl list-units --all --type=swap; grep -rl swapon /etc/systemd/system /usr/lib/systemd/system /etc/rc.local /etc/cron*",
        signs: &[sign("fix", r"the fix had no effect; wanted: no swap is active")],
        ..PLAIN
    },
    Cause {
        name: "cgroup-driver",
        what: "the kubelet and containerd use different cgroup drivers, cgroupfs and systemd",
        remedy: "both must use systemd; on {node}, see what says otherwise: grep -RinsE \"cgroup-?driver|SystemdCgroup\" /etc/default/kubelet /etc/systemd/system /usr/lib/systemd/system /var/lib/kubelet/config.yaml /var/lib/kubelet/kubeadm-flags.env /etc/containerd; systemctl cat containerd",
        signs: &[
            sign("journal ", SANDBOX),
            sign(
                "journal ",
                r#"^time="[^"]*" level=error msg="runc create failed: expected cgroupsPath to be of format"#,
            ),
            sign("journal kubelet", "cgroup driver: .* is different from"),
        ],
        ..PLAIN
    },
    Cause {
        name: "cgroup-v1",
        what: "the machine has cgroup v1, and the kubelet is set not to run on it",
        remedy: "boot {node} with cgroup v2 (systemd.unified_cgroup_hierarchy=1), or say failCgroupV1 = false in [kubelet]",
        signs: &[sign("journal kubelet", "kubelet is configured to not run on a host using cgroup v1")],
        fatal: Some(klog!("command failed", ".*kubelet is configured to not run on a host using cgroup v1")),
        ..PLAIN
    },
    Cause {
        name: "field-unknown",
        what: "{kind} has no field {field}",
        remedy: "take {field} out of the inventory ([kubelet], [kube-proxy] or [kubeadm])",
        signs: &[sign(
            "",
            r#"Kind:"(?<kind>[^"]+)"\}: strict decoding error: unknown field "(?<field>[^"]+)""#,
        )],
        ..PLAIN
    },
    Cause {
        name: "feature-gate-unknown",
        what: "the kubelet does not know the feature gate {gate}",
        remedy: "take {gate} out of featureGates in [kubelet] of the inventory",
        signs: &[sign("journal kubelet", r"unrecognized feature gate: (?<gate>\w+)")],
        fatal: Some("^panic: .*unrecognized feature gate: "),
        ..PLAIN
    },
    Cause {
        name: "hostname-changed",
        what: "the machine is called {new} now, and its kubelet's credentials are those of {old}",
        remedy: "on {node}: hostnamectl set-hostname {old} && systemctl restart kubelet",
        signs: &[
            sign(
                "journal kubelet",
                r#"node \\?"(?<old>[^"\\]+)\\?" is not allowed to modify node \\?"(?<new>[^"\\]+)\\?""#,
            ),
            sign(
                "journal kubelet",
                "node '(?<old>[^']+)' cannot read '(?<new>[^']+)', only its own Node object",
            ),
        ],
        ..PLAIN
    },
    Cause {
        name: "etcd-data",
        what: "there is data of an earlier etcd in {etcd}",
        remedy: "this may be the only copy of a cluster; if it is needed, stop here, and bring that cluster back first; if nothing of it is needed any more, on {node}: mv -T {etcd} {etcd}.old",
        signs: &[
            sign("log kubeadm", ETCD_DATA),
            sign("fix", ETCD_DATA),
            sign(
                "container etcd",
                r#"^\{"level":"\w+","ts":"[^"]*","caller":"[^"]*","msg":"request sent was ignored by remote peer due to cluster ID mismatch""#,
            ),
        ],
        ..PLAIN
    },
    Cause {
        name: "image-not-found",
        what: "the registry does not have the image {image}",
        remedy: "correct the image where it is named (image-repository or [flannel] in the inventory, or the addon's manifest), or push it to that registry if it is yours; on {node}, this shows whether it is there: ctr -n k8s.io images pull --hosts-dir /etc/containerd/certs.d {image}",
        signs: &[sign("", NOT_FOUND), sign("journal ", NOT_FOUND), sign("state", NOT_FOUND)],
        ..PLAIN
    },
    Cause {
        name: "no-node",
        what: "no node takes pod {pod}: {why}",
        remedy: "kubectl describe nodes shows what nodes have, and their taints; compare nodeSelector, tolerations and requests of the pod",
        signs: &[sign("state", r"^waiting does not help: pod (?<pod>\S+) has no node: (?<why>.+)$")],
        ..PLAIN
    },
    Cause {
        name: "pod-refused",
        what: "the API server refuses the pods of {owner}: {why}",
        remedy: "correct the pod in its manifest, or the quota, webhook or rights that refuse it; only if PodSecurity refuses what it really needs, give it a namespace of its own with the label pod-security.kubernetes.io/enforce=privileged",
        signs: &[sign("state", r"^waiting does not help: no pod of (?<owner>\S+ in \S+) is allowed: (?<why>.+)$")],
        ..PLAIN
    },
    Cause {
        name: "registry-unreachable",
        what: "the registry of {image} cannot be reached: {why}",
        remedy: "see whether that server runs; where {node} must use another one, correct [registries] or [proxy] in the inventory (on {node}: /etc/containerd/certs.d)",
        signs: &[
            sign("", UNREACHABLE),
            sign("journal ", UNREACHABLE),
            sign("state", UNREACHABLE),
            sign("event", UNREACHABLE),
        ],
        ..PLAIN
    },
    Cause {
        name: "port-taken",
        what: "port {port} is taken by another program",
        remedy: "on {node}: ss -ltnp 'sport = :{port}' shows that program; stop it, or have it use another port",
        signs: &[
            sign("", r":(?<port>\d+): bind: address already in use"),
            sign("", r"ERROR Port-(?<port>\d+)\]"),
        ],
        ..PLAIN
    },
    Cause {
        name: "disk-full",
        what: "a disk is full",
        remedy: "on {node}: df -h; df -i; du -xh --max-depth=2 /var | sort -h | tail; then free logs, caches and images, and nothing of etcd or of the kubelet",
        signs: &[sign("", FULL), sign("journal ", FULL), sign("disk", " KiB left of ")],
        ..PLAIN
    },
    Cause {
        name: "kernel-log",
        what: "the kubelet cannot read the kernel's log: {why}",
        remedy: "a virtual machine has /dev/kmsg; what runs {node} as a container must give it one",
        signs: &[sign("journal kubelet", r#"open /dev/kmsg: (?<why>[^\\"]+)"#)],
        fatal: Some(klog!("command failed", ".*open /dev/kmsg: ")),
        ..PLAIN
    },
    Cause {
        name: "inotify",
        what: "all inotify instances of the kernel are taken",
        remedy: "on {node}: sysctl fs.inotify.max_user_instances shows the limit, and apply sets it to 8192 or more; what takes them: find /proc/*/fd -lname anon_inode:inotify | cut -d/ -f3 | sort | uniq -c | sort -n",
        signs: &[sign("", INOTIFY), sign("journal ", INOTIFY)],
        ..PLAIN
    },
    Cause {
        name: "clock",
        what: "{node} says that it is {now}, and the certificate that it was shown begins at {from}",
        remedy: "compare date -u of {node}, of the control planes and of your own computer; set the clock that is wrong, best by a time service such as chrony; if all agree, a clock was wrong when the certificate was made: wait until it is valid",
        signs: &[sign(
            "",
            r"certificate has expired or is not yet valid: current time (?<now>\S+) is before (?<from>[0-9TZ:+-]+)",
        )],
        ..PLAIN
    },
    Cause {
        name: "certificate-expired",
        what: "a certificate was valid until {end}, and the clock of {node} says {now}",
        remedy: "if the clock (date -u) is right, apply renews what is ours: run it again with every control plane reachable",
        signs: &[sign(
            "",
            r"certificate has expired or is not yet valid: current time (?<now>\S+) is after (?<end>[0-9TZ:+-]+)",
        )],
        ..PLAIN
    },
    Cause {
        name: "authority-unknown",
        what: "what answers at the API's address has a certificate of another authority: it is not this cluster's API",
        remedy: "on {node}, getent ahosts with the name of the endpoint and ip route get with its address tell where it leads; it must lead to this cluster's control planes; if it does, compare /etc/kubernetes/pki/ca.crt of all machines",
        signs: &[
            sign("log kubeadm", "x509: certificate signed by unknown authority"),
            sign("fix", "x509: certificate signed by unknown authority"),
            sign(
                "journal kubelet",
                "https://[^ ]+: tls: failed to verify certificate: x509: certificate signed by unknown authority",
            ),
        ],
        ..PLAIN
    },
    Cause {
        name: "credential-refused",
        what: "the API server does not accept the certificate to join with",
        remedy: "compare the clocks: date -u on {node} and on a control plane; then run apply again, each run signs a new certificate",
        signs: REFUSED,
        symptom: true,
        ..PLAIN
    },
    Cause {
        name: "name-unresolved",
        what: "the name {name} does not resolve on {node}",
        remedy: "on {node}, getent hosts {name} must show its address; if it stands in /etc/hosts (grep {name} /etc/hosts), see that the line hosts: of /etc/nsswitch.conf has files before dns; else see that the servers in /etc/resolv.conf answer and know {name}",
        signs: &[sign("log kubeadm", LOOKUP), sign("fix", LOOKUP), sign("journal kubelet", LOOKUP)],
        ..PLAIN
    },
    Cause {
        name: "cni-plugin-missing",
        what: "a file in /etc/cni/net.d asks for the network plugin {plugin}, which is not in {folder}",
        remedy: "on {node} and every other node: grep -l {plugin} /etc/cni/net.d/* shows the file; move it away if nothing needs it; else bring the plugin back (the usual ones: apt-get install --reinstall kubernetes-cni; that of a network: its DaemonSet)",
        signs: &[sign("", PLUGIN), sign("journal ", PLUGIN), sign("event", PLUGIN)],
        ..PLAIN
    },
    Cause {
        name: "conntrack-limits",
        what: "kube-proxy is not allowed to set how many connections the kernel keeps track of",
        remedy: "if {node} is a container, its kernel is its host's: put maxPerCore = 0 and min = 0 under [kube-proxy.conntrack] in the inventory, and kube-proxy leaves the host's limit as it is",
        signs: &[sign("container kube-proxy", CONNTRACK), sign("fix", CONNTRACK)],
        fatal: Some(klog!(
            "command failed|Error running ProxyServer",
            "could not set conntrack parameters from kube-proxy configuration"
        )),
        ..PLAIN
    },
    Cause {
        name: "package-lock",
        what: "another program holds the package lock: process {holder}",
        remedy: "wait until it is done, or see on {node} what it is: ps -fp $(fuser /var/lib/dpkg/lock-frontend)",
        signs: &[sign("", r"Could not get lock \S+\. It is held by process (?<holder>\d+ \([^)]+\))")],
        ..PLAIN
    },
    Cause {
        name: "package-source-unreachable",
        what: "the package repository at {source} cannot be reached",
        remedy: "see whether that server runs; where {node} must use another one, correct [packages] or [proxy] in the inventory; on {node}, apt-get update shows whether it answers",
        signs: &[
            sign("", r"Could not connect to (?<source>[^ :]+:\d+) .*- connect \("),
            sign("", r"(?:Could not|Unable to) connect to (?<source>[^ :]+:\d+)"),
            sign("", r"(?:Temporary failure resolving|Could not resolve) '(?<source>[^']+)'"),
        ],
        ..PLAIN
    },
    Cause {
        name: "package-script",
        what: "dpkg may not run {script}: its file system is mounted noexec",
        remedy: "on {node}: findmnt -T {script} shows the mount; mount -o remount,exec it, take noexec out of /etc/fstab, then dpkg --configure -a",
        signs: &[sign(
            "",
            r"^dpkg[^:]*: unable to execute .+ script \((?<script>/[^)]+)\): Permission denied",
        )],
        ..PLAIN
    },
    Cause {
        name: "packages-go",
        what: "to install it, apt would remove {packages}",
        remedy: "ironstrap removes no package that it did not install; if nothing needs them any more, on {node}: apt-get remove --allow-change-held-packages {packages}",
        signs: &[sign(
            "",
            r"^these packages would be removed: (?<packages>[a-z0-9][a-z0-9+.:-]*(?: [a-z0-9][a-z0-9+.:-]*)*)$",
        )],
        ..PLAIN
    },
    Cause {
        name: "packages-held",
        what: "packages on hold keep it from being installed",
        remedy: "on {node}: apt-mark showhold shows them; take the hold off with apt-mark unhold NAME, or remove the package if nothing needs it",
        signs: &[sign("", r"^E: .*(?:this may be caused by held packages|you have held broken packages)")],
        ..PLAIN
    },
    Cause {
        name: "source-conflict",
        what: "two sources of packages name {source} with different keys, so apt reads no source at all",
        remedy: "on {node}: grep -rn {source} /etc/apt/sources.list /etc/apt/sources.list.d shows both; keep kubernetes.list, and delete the other",
        signs: &[sign(
            "",
            r"^E: Conflicting values set for option Signed-By regarding source (?<source>\S+)",
        )],
        ..PLAIN
    },
    Cause {
        name: "source-dead",
        what: "apt cannot read the source of packages {source}",
        remedy: "on {node}: grep -rn {source} /etc/apt/sources.list /etc/apt/sources.list.d shows where it is; put it right, or put # before its line, until apt-get update ends without an error",
        signs: &[sign(
            "",
            r"^E: The repository '(?<source>[^' ]+)[^']*' (?:does not have a Release file|no longer has a Release file|is not signed|is no longer signed)",
        )],
        ..PLAIN
    },
    Cause {
        name: "package-missing",
        what: "no package repository has {package} {version}",
        remedy: "see on {node}: apt-cache policy {package}; then put `kubernetes` or [packages] right in the inventory",
        signs: &[sign(
            "",
            r"E: (?:Version '(?<version>[^']+)' for '|Unable to locate package )(?<package>[^' ]+)",
        )],
        symptom: true,
        ..PLAIN
    },
    Cause {
        name: "containerd-stopped",
        what: "containerd does not run",
        remedy: "on {node}: systemctl cat containerd; journalctl -u containerd -n 30",
        signs: &[sign("journal containerd", r"^containerd: .+"), CONTAINERD_DOWN, CONTAINERD_LOST],
        besides: &[CONTAINERD_DOWN, CONTAINERD_LOST],
        ..PLAIN
    },
    Cause {
        name: "forward-drop",
        what: "the packet filter of {node} drops forwarded packets, so none reach its pods: {chain}",
        remedy: "on {node}: accept forwarded packets from and to the range of the pods (pods in [cluster]) and through flannel.1; nft list ruleset shows whose chain it is",
        signs: &[sign("forward", r"^(?<chain>chain .+) has policy drop$")],
        besides: NO_ANSWER,
        ..PLAIN
    },
    Cause {
        name: "api-server-silent",
        what: "{node} gets no answer from an API server at its own address, and does get one from the Service that leads there",
        remedy: "look for what drops this on {node} or on that control plane: nft list ruleset, iptables-save, and ip route get with the address",
        signs: &[sign("fix", r"^packets: server\d+ is silent")],
        ..PLAIN
    },
    Cause {
        name: "vxlan-swallowed",
        what: "nothing comes back through flannel.1: the network between the machines may not carry VXLAN",
        remedy: "let UDP port 8472 pass between all nodes, in firewalls and security groups; on both ends, tcpdump -ni any udp port 8472 shows what is sent and what arrives",
        signs: &[sign("fix", r"^packets: flannel\.1 sent \d+ packets and received none")],
        symptom: true,
        ..PLAIN
    },
    Cause {
        name: "tunnel-silent",
        what: "nothing comes back from {peer} through flannel.1, although {peer} answers other nodes: the network between the two may not carry VXLAN",
        remedy: "let UDP port 8472 pass between {node} and {peer} in both directions, in firewalls and security groups; on both ends, tcpdump -ni any udp port 8472 shows what is sent and what arrives",
        signs: &[sign("fix", r"^packets: tunnel:(?<peer>[a-z0-9.-]+) is silent$")],
        symptom: true,
        ..PLAIN
    },
    Cause {
        name: "kubelet-file-missing",
        what: "the kubelet does not start without its file {file}",
        remedy: "run apply again, which writes what kubeadm wrote there; then find out what deleted the file",
        signs: &[sign(
            "journal kubelet",
            r#""command failed"(?: err=|,"err":)"failed to load kubelet config file, path: (?<file>/[^ ,"\\]+), .*no such file or directory"#,
        )],
        ..PLAIN
    },
    Cause {
        name: "kubelet-ends",
        what: "the kubelet ends at its start: {why}",
        remedy: "correct the setting that it names in the inventory ([kubelet]); on {node}, systemctl cat kubelet shows what else sets its arguments",
        signs: &[sign(
            "journal kubelet",
            r#"^(?:[EF]\d{4} [^"]*\] |\{"ts":[\d.]+,"caller":"[^"]*","msg":)"command failed"(?: err=|,"err":)"(?:failed to run Kubelet: )?(?<why>.+)"\}?$"#,
        )],
        fatal: Some(klog!("command failed", "failed to validate kubelet ")),
        symptom: true,
        ..PLAIN
    },
    Cause {
        name: "endpoint-unreachable",
        what: "{node} cannot reach {address}: {why}",
        remedy: "a route and open firewalls must lead from {node} to {address}, and that machine must be on: see ip route and the packet filter (nft list ruleset, iptables-save) of {node} and of the machine with that address",
        signs: &[sign("log kubeadm", DIAL), sign("fix", DIAL)],
        symptom: true,
        ..PLAIN
    },
];
