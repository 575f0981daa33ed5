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
        what: "a component of the control plane does not start: it does not know the argument {flag}",
        remedy: "remove {flag} from the inventory ([api-server], [controller-manager], [scheduler] or [etcd])",
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
        what: "swap is on again, so the kubelet does not start",
        remedy: "on {node}, find out what turns swap on: swapon --show; systemctl list-units --all --type=swap; grep -rl swapon /etc/systemd/system /usr/lib/systemd/system /etc/rc.local /etc/cron*; then swapoff -a",
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
        what: "swap is on again right after ironstrap turned it off",
        remedy: "on {node}, find out what turns swap on: systemctl list-units --all --type=swap; grep -rl swapon /etc/systemd/system /usr/lib/systemd/system /etc/rc.local /etc/cron*",
        signs: &[sign("fix", r"the fix had no effect: expected that swap is off")],
        ..PLAIN
    },
    Cause {
        name: "cgroup-driver",
        what: "the kubelet and containerd use different cgroup drivers, cgroupfs and systemd",
        remedy: "both must use systemd; on {node}, find the setting that differs: grep -RinsE \"cgroup-?driver|SystemdCgroup\" /etc/default/kubelet /etc/systemd/system /usr/lib/systemd/system /var/lib/kubelet/config.yaml /var/lib/kubelet/kubeadm-flags.env /etc/containerd; systemctl cat containerd",
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
        what: "{node} uses cgroup v1, and its kubelet is configured not to run with it",
        remedy: "boot {node} with cgroup v2 (systemd.unified_cgroup_hierarchy=1), or set failCgroupV1 = false in [kubelet] of the inventory",
        signs: &[sign("journal kubelet", "kubelet is configured to not run on a host using cgroup v1")],
        fatal: Some(klog!("command failed", ".*kubelet is configured to not run on a host using cgroup v1")),
        ..PLAIN
    },
    Cause {
        name: "field-unknown",
        what: "{kind} has no field {field}",
        remedy: "remove {field} from the inventory ([kubelet], [kube-proxy] or [kubeadm])",
        signs: &[sign(
            "",
            r#"Kind:"(?<kind>[^"]+)"\}: strict decoding error: unknown field "(?<field>[^"]+)""#,
        )],
        ..PLAIN
    },
    Cause {
        name: "feature-gate-unknown",
        what: "the kubelet does not know the feature gate {gate}",
        remedy: "remove {gate} from featureGates in [kubelet] of the inventory",
        signs: &[sign("journal kubelet", r"unrecognized feature gate: (?<gate>\w+)")],
        fatal: Some("^panic: .*unrecognized feature gate: "),
        ..PLAIN
    },
    Cause {
        name: "hostname-changed",
        what: "the host name is now {new}, but the kubelet has the credentials of {old}",
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
        what: "an earlier etcd left data in {etcd}",
        remedy: "if you may still need that data, stop here and restore its cluster first: this may be the only copy; otherwise, on {node}: mv -T {etcd} {etcd}.old",
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
        remedy: "correct the image name (image-repository or [flannel] in the inventory, or the addon's manifest), or push the image to that registry if it is yours; to test it on {node}: ctr -n k8s.io images pull --hosts-dir /etc/containerd/certs.d {image}",
        signs: &[sign("", NOT_FOUND), sign("journal ", NOT_FOUND), sign("state", NOT_FOUND)],
        ..PLAIN
    },
    Cause {
        name: "no-node",
        what: "no node accepts pod {pod}: {why}",
        remedy: "compare nodeSelector, tolerations and requests of the pod with the taints and resources of the nodes: kubectl describe nodes",
        signs: &[sign("state", r"^waiting does not help: pod (?<pod>\S+) has no node: (?<why>.+)$")],
        ..PLAIN
    },
    Cause {
        name: "pod-refused",
        what: "the API server refuses the pods of {owner}: {why}",
        remedy: "correct the pod in its manifest, or the quota, webhook or permissions that refuse it; only if the pod really needs what PodSecurity refuses, give it its own namespace with the label pod-security.kubernetes.io/enforce=privileged",
        signs: &[sign(
            "state",
            r"^waiting does not help: no pod of (?<owner>\S+ in \S+) is allowed: (?<why>.+)$",
        )],
        ..PLAIN
    },
    Cause {
        name: "registry-unreachable",
        what: "the registry of {image} is unreachable: {why}",
        remedy: "check that the registry runs; if {node} must use another one, correct [registries] or [proxy] in the inventory (on {node}: /etc/containerd/certs.d)",
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
        what: "another program uses port {port}",
        remedy: "find that program on {node}: ss -ltnp 'sport = :{port}'; stop it, or configure another port for it",
        signs: &[
            sign("", r":(?<port>\d+): bind: address already in use"),
            sign("", r"ERROR Port-(?<port>\d+)\]"),
        ],
        ..PLAIN
    },
    Cause {
        name: "disk-full",
        what: "a disk of {node} is full",
        remedy: "on {node}, find what fills it: df -h; df -i; du -xh --max-depth=2 /var | sort -h | tail; then delete logs, caches and images, but nothing of etcd or the kubelet",
        signs: &[sign("", FULL), sign("journal ", FULL), sign("disk", " KiB left of ")],
        ..PLAIN
    },
    Cause {
        name: "kernel-log",
        what: "the kubelet cannot read the kernel log: {why}",
        remedy: "if {node} is a container, give it the device /dev/kmsg; virtual machines have it",
        signs: &[sign("journal kubelet", r#"open /dev/kmsg: (?<why>[^\\"]+)"#)],
        fatal: Some(klog!("command failed", ".*open /dev/kmsg: ")),
        ..PLAIN
    },
    Cause {
        name: "inotify",
        what: "all inotify instances of the kernel are in use",
        remedy: "run apply, which sets the limit to 8192 or more; on {node}, sysctl fs.inotify.max_user_instances shows the limit, and this shows what uses the instances: find /proc/*/fd -lname anon_inode:inotify | cut -d/ -f3 | sort | uniq -c | sort -n",
        signs: &[sign("", INOTIFY), sign("journal ", INOTIFY)],
        ..PLAIN
    },
    Cause {
        name: "clock",
        what: "the clock of {node} says {now}, but a certificate that it received is valid only from {from}",
        remedy: "compare date -u on {node}, on the control planes and on your own computer, and correct the wrong clock, best with a time service such as chrony; if all agree, a clock was wrong when the certificate was made: wait until it is valid",
        signs: &[sign(
            "",
            r"certificate has expired or is not yet valid: current time (?<now>\S+) is before (?<from>[0-9TZ:+-]+)",
        )],
        ..PLAIN
    },
    Cause {
        name: "certificate-expired",
        what: "a certificate was valid until {end}, but the clock of {node} says {now}",
        remedy: "if the clock (date -u) is right, run apply again with every control plane reachable: it renews the certificates that ironstrap manages",
        signs: &[sign(
            "",
            r"certificate has expired or is not yet valid: current time (?<now>\S+) is after (?<end>[0-9TZ:+-]+)",
        )],
        ..PLAIN
    },
    Cause {
        name: "authority-unknown",
        what: "the server at the API's address has a certificate of another CA, so it is not this cluster's API server",
        remedy: "the endpoint must lead to this cluster's control planes: on {node}, getent ahosts with its name and ip route get with its address show where it leads; if that is right, compare /etc/kubernetes/pki/ca.crt of all machines",
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
        what: "the API server refuses the certificate for the join",
        remedy: "compare the clocks (date -u on {node} and on a control plane), then run apply again: each run signs a new certificate",
        signs: REFUSED,
        symptom: true,
        ..PLAIN
    },
    Cause {
        name: "name-unresolved",
        what: "the name {name} does not resolve on {node}",
        remedy: "getent hosts {name} on {node} must show its address: if /etc/hosts has the name (grep {name} /etc/hosts), put files before dns in the line hosts: of /etc/nsswitch.conf; otherwise check that the servers in /etc/resolv.conf answer and know {name}",
        signs: &[sign("log kubeadm", LOOKUP), sign("fix", LOOKUP), sign("journal kubelet", LOOKUP)],
        ..PLAIN
    },
    Cause {
        name: "cni-plugin-missing",
        what: "a file in /etc/cni/net.d needs the network plugin {plugin}, which is not in {folder}",
        remedy: "find the file on {node} and every other node: grep -l {plugin} /etc/cni/net.d/*; move it away if nothing needs it; otherwise restore the plugin (standard plugins: apt-get install --reinstall kubernetes-cni; the plugin of a pod network: its DaemonSet)",
        signs: &[sign("", PLUGIN), sign("journal ", PLUGIN), sign("event", PLUGIN)],
        ..PLAIN
    },
    Cause {
        name: "conntrack-limits",
        what: "kube-proxy has no permission to set the connection tracking limits of the kernel",
        remedy: "if {node} is a container, it uses the kernel of its host: set maxPerCore = 0 and min = 0 under [kube-proxy.conntrack] in the inventory, so that kube-proxy does not change the limit of the host",
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
        remedy: "wait until that program ends, or check on {node} what it is: ps -fp $(fuser /var/lib/dpkg/lock-frontend)",
        signs: &[sign("", r"Could not get lock \S+\. It is held by process (?<holder>\d+ \([^)]+\))")],
        ..PLAIN
    },
    Cause {
        name: "package-source-unreachable",
        what: "the package repository at {source} is unreachable",
        remedy: "check that the server runs, and on {node} that it answers: apt-get update; if {node} must use another one, correct [packages] or [proxy] in the inventory",
        signs: &[
            sign("", r"Could not connect to (?<source>[^ :]+:\d+) .*- connect \("),
            sign("", r"(?:Could not|Unable to) connect to (?<source>[^ :]+:\d+)"),
            sign("", r"(?:Temporary failure resolving|Could not resolve) '(?<source>[^']+)'"),
        ],
        ..PLAIN
    },
    Cause {
        name: "package-script",
        what: "dpkg cannot run {script}: its file system is mounted noexec",
        remedy: "on {node}, findmnt -T {script} shows the mount: remount it (mount -o remount,exec MOUNT), remove noexec from /etc/fstab, then run dpkg --configure -a",
        signs: &[sign(
            "",
            r"^dpkg[^:]*: unable to execute .+ script \((?<script>/[^)]+)\): Permission denied",
        )],
        ..PLAIN
    },
    Cause {
        name: "packages-go",
        what: "apt would have to remove {packages} for this installation",
        remedy: "ironstrap removes no package that it did not install; if nothing needs them any more, on {node}: apt-get remove --allow-change-held-packages {packages}",
        signs: &[sign(
            "",
            r"^these packages would be removed: (?<packages>[a-z0-9][a-z0-9+.:-]*(?: [a-z0-9][a-z0-9+.:-]*)*)$",
        )],
        ..PLAIN
    },
    Cause {
        name: "packages-held",
        what: "packages on hold prevent the installation",
        remedy: "list them on {node}: apt-mark showhold; then end the hold with apt-mark unhold NAME, or remove the package if nothing needs it",
        signs: &[sign("", r"^E: .*(?:this may be caused by held packages|you have held broken packages)")],
        ..PLAIN
    },
    Cause {
        name: "source-conflict",
        what: "two package sources name {source} with different keys, so apt reads no source at all",
        remedy: "find both on {node}: grep -rn {source} /etc/apt/sources.list /etc/apt/sources.list.d; keep kubernetes.list, and delete the other",
        signs: &[sign(
            "",
            r"^E: Conflicting values set for option Signed-By regarding source (?<source>\S+)",
        )],
        ..PLAIN
    },
    Cause {
        name: "source-dead",
        what: "apt cannot read the package source {source}",
        remedy: "find it on {node}: grep -rn {source} /etc/apt/sources.list /etc/apt/sources.list.d; correct its line, or put # before it, until apt-get update succeeds",
        signs: &[sign(
            "",
            r"^E: The repository '(?<source>[^' ]+)[^']*' (?:does not have a Release file|no longer has a Release file|is not signed|is no longer signed)",
        )],
        ..PLAIN
    },
    Cause {
        name: "package-missing",
        what: "no package repository has {package} {version}",
        remedy: "check the available versions on {node}: apt-cache policy {package}; then correct `kubernetes` or [packages] in the inventory",
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
        remedy: "find out why on {node}: systemctl cat containerd; journalctl -u containerd -n 30",
        signs: &[sign("journal containerd", r"^containerd: .+"), CONTAINERD_DOWN, CONTAINERD_LOST],
        besides: &[CONTAINERD_DOWN, CONTAINERD_LOST],
        ..PLAIN
    },
    Cause {
        name: "forward-drop",
        what: "the packet filter of {node} drops forwarded packets, so none reach its pods: {chain}",
        remedy: "on {node}, accept forwarded packets from and to the range of the pods (pods in [cluster]) and through flannel.1; nft list ruleset shows which program made the chain",
        signs: &[sign("forward", r"^(?<chain>chain .+) has policy drop$")],
        besides: NO_ANSWER,
        ..PLAIN
    },
    Cause {
        name: "api-server-silent",
        what: "an API server does not answer {node} at its own address, although the API's Service answers",
        remedy: "find what drops these packets on {node} or on that control plane: nft list ruleset; iptables-save; ip route get with the address",
        signs: &[sign("fix", r"^packets: server\d+ is silent")],
        ..PLAIN
    },
    Cause {
        name: "vxlan-swallowed",
        what: "flannel.1 receives no packets: the network between the machines may block VXLAN",
        remedy: "allow UDP port 8472 between all nodes, in firewalls and security groups; on both ends, tcpdump -ni any udp port 8472 shows what is sent and what arrives",
        signs: &[sign("fix", r"^packets: flannel\.1 sent \d+ packets and received none")],
        symptom: true,
        ..PLAIN
    },
    Cause {
        name: "tunnel-silent",
        what: "{peer} does not answer through flannel.1, although {peer} answers other nodes: the network between the two may block VXLAN",
        remedy: "allow UDP port 8472 between {node} and {peer} in both directions, in firewalls and security groups; on both ends, tcpdump -ni any udp port 8472 shows what is sent and what arrives",
        signs: &[sign("fix", r"^packets: tunnel:(?<peer>[a-z0-9.-]+) is silent$")],
        symptom: true,
        ..PLAIN
    },
    Cause {
        name: "kubelet-file-missing",
        what: "the kubelet does not start because its file {file} is missing",
        remedy: "run apply again, which restores what kubeadm wrote there; then find out what deleted the file",
        signs: &[sign(
            "journal kubelet",
            r#""command failed"(?: err=|,"err":)"failed to load kubelet config file, path: (?<file>/[^ ,"\\]+), .*no such file or directory"#,
        )],
        ..PLAIN
    },
    Cause {
        name: "kubelet-ends",
        what: "the kubelet exits when it starts: {why}",
        remedy: "correct the setting that the error names in the inventory ([kubelet]); on {node}, systemctl cat kubelet shows what else sets its arguments",
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
        remedy: "{node} needs a route to {address} and open firewalls, and that machine must be on: check ip route and the packet filter (nft list ruleset, iptables-save) of {node} and of the machine with that address",
        signs: &[sign("log kubeadm", DIAL), sign("fix", DIAL)],
        symptom: true,
        ..PLAIN
    },
];
