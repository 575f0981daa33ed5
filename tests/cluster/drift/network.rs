//! Drift of the network.

use super::By::{Anywhere, Kubectl, Root};
use super::{KIND, Kind};

const FLANNEL: &str = "flannel.interface";
const PROXY: &str = "services.rules";
const BRIDGE: &str = "cni.bridge";
const PLUGINS: &str = "cni.programs[kubernetes-cni]";
const CONFLIST: &str = "cni.config";

const ADDRESSES: &str = "cni.addresses";

/// Writes reservations of addresses in the format of host-local. Some are empty, as after a power loss.
const LEAKED: &str = r"d=/var/lib/cni/networks/cbr0; mkdir -p $d; . /run/flannel/subnet.env; i=2
while [ $i -le 254 ]; do
  f=$d/${FLANNEL_SUBNET%.*}.$i
  if [ ! -e $f ]; then
    if [ $((i % 9)) = 0 ]; then : >$f; else printf '%064x\r\neth0' $i >$f; fi
    touch -d '1 hour ago' $f
  fi
  i=$((i + 1))
done";

const LINKS: &str = "flannel.links";

/// Writes reservations whose addresses belong to an existing sandbox.
const TAKEN: &str = r"d=/var/lib/cni/networks/cbr0; . /run/flannel/subnet.env; i=2
id=$(ctr -n k8s.io containers ls -q | head -n 1)
while [ $i -le 254 ]; do
  f=$d/${FLANNEL_SUBNET%.*}.$i
  if [ ! -e $f ]; then printf '%s\r\neth0' $id >$f; touch -d 2001-01-02 $f; fi
  i=$((i + 1))
done";

/// Uses the nft of kube-proxy's image, because the machines have none.
const NO_RULES: &str = "chroot /proc/$(pidof kube-proxy)/root nft delete table ip kube-proxy";

pub const KINDS: &[Kind] = &[
    Kind {
        says: "network: the CNI configuration is missing",
        by: Root("w1", "rm /etc/cni/net.d/10-flannel.conflist"),
        shows: &[(".", "cni", CONFLIST, "\"type\": \"flannel\"")],
        ..KIND
    },
    Kind {
        says: "network: the CNI configuration is edited",
        by: Anywhere("w2", "sed -i s/portmap/bandwidth/ /etc/cni/net.d/10-flannel.conflist"),
        shows: &[(".", "cni", CONFLIST, "\"type\": \"bandwidth\"")],
        ..KIND
    },
    Kind {
        says: "network: a plugin of the package is missing",
        by: Anywhere("w2", "rm /opt/cni/bin/bridge"),
        shows: &[(".", "cni", PLUGINS, "/opt/cni/bin/bridge is gone")],
        ..KIND
    },
    Kind {
        says: "network: a plugin of the package is empty",
        by: Anywhere("w1", ": >/opt/cni/bin/host-local"),
        shows: &[(".", "cni", PLUGINS, "/opt/cni/bin/host-local was changed")],
        ..KIND
    },
    Kind {
        says: "network: another program replaces flannel's plugin",
        by: Anywhere("w2", "rm /opt/cni/bin/flannel; cp /bin/false /opt/cni/bin/flannel"),
        shows: &[(".", "cni", "cni.flannel-plugin", "no\nyes")],
        ..KIND
    },
    Kind {
        says: "network: flannel's plugin is missing",
        by: Anywhere("w1", "rm /opt/cni/bin/flannel"),
        shows: &[(".", "cni", "cni.flannel-plugin", "no\nyes")],
        ..KIND
    },
    Kind {
        says: "network: the bridge has another node's range",
        // On the node of coredns, because other nodes may have no pods and so no bridge.
        by: Root("m1", "ip address flush dev cni0 scope global; ip address add 10.244.77.1/24 dev cni0"),
        shows: &[(".", "cni", BRIDGE, "cni0 has the address 10.244.77.1/24, but flannel has 10.244.")],
        ..KIND
    },
    Kind {
        says: "network: flannel's interface is missing",
        by: Anywhere("w1", "ip link delete flannel.1"),
        shows: &[(".", "flannel", FLANNEL, "the interface flannel.1 does not exist")],
        ..KIND
    },
    Kind {
        says: "network: flannel's interface is down",
        by: Anywhere("w2", "ip link set flannel.1 down"),
        shows: &[(".", "flannel", FLANNEL, "flannel.1 is down")],
        ..KIND
    },
    Kind {
        says: "network: flannel's interface has no address",
        by: Anywhere("w1", "ip address flush dev flannel.1"),
        shows: &[(".", "flannel", FLANNEL, "flannel.1 does not have the address 10.244.")],
        ..KIND
    },
    Kind {
        says: "network: flannel's interface has another MTU",
        by: Anywhere("w2", "ip link set flannel.1 mtu 600"),
        shows: &[(".", "flannel", "flannel.interface", "the MTU of flannel.1 is 600 instead of ")],
        ..KIND
    },
    Kind {
        // The rule does not affect connections through the Service.
        says: "network: a packet filter blocks a worker's connections to the API server's address",
        by: Root(
            "w2",
            "NFT=\"chroot /proc/$(pidof kube-proxy)/root nft\"; $NFT add table inet mine; \
             $NFT add chain inet mine out '{ type filter hook output priority -100; }'; \
             $NFT add rule inet mine out ip daddr 198.18.0.11 tcp dport 6443 ct state new drop",
        ),
        shows: &[(".", "packets", "connectivity.api-server[m1]", "198.18.0.11 port 6443: no answer")],
        by_hand: "chroot /proc/$(pidof kube-proxy)/root nft delete table inet mine",
        alone: "only a human can repair it",
        ..KIND
    },
    Kind {
        says: "network: a route to another node's pods has another target",
        by: Anywhere(
            "w1",
            "ip route replace $(ip route show dev flannel.1 | cut -d ' ' -f 1 | head -n 1) via 198.18.0.1",
        ),
        shows: &[(".", "flannel", FLANNEL, "elsewhere: 10.244.")],
        ..KIND
    },
    Kind {
        says: "network: a narrower route diverts some of another node's pods",
        by: Anywhere(
            "w2",
            "ip route add blackhole $(ip route show dev flannel.1 | cut -d / -f 1 | head -n 1)/25",
        ),
        shows: &[(".", "flannel", FLANNEL, "elsewhere: blackhole 10.244.")],
        ..KIND
    },
    Kind {
        says: "network: the route to another node's pods is missing",
        by: Anywhere("m1", "ip route delete $(ip route show dev flannel.1 | cut -d ' ' -f 1 | tail -n 1)"),
        shows: &[(".", "flannel", FLANNEL, "there is no route to the pods of 10.244.")],
        ..KIND
    },
    Kind {
        says: "network: all entries for the pods of another node are missing",
        by: Root(
            "w1",
            "mac=$(bridge fdb show dev flannel.1 | awk '/dst 198.18.0.13 / { print $1 }')
to=$(ip -4 neigh show dev flannel.1 nud permanent | awk -v mac=$mac '$3 == mac { print $1 }')
ip route flush exact $to/24; ip neigh delete $to dev flannel.1; bridge fdb delete $mac dev flannel.1 dst 198.18.0.13 self",
        ),
        shows: &[
            (".", "packets", "connectivity.tunnel[w2]", "flannel.1 has no entries for the pods of w2"),
            ("w2", "packets", "connectivity.tunnel[w1]", "flannel.1 of w1, asked from this node: no answer"),
        ],
        ..KIND
    },
    Kind {
        says: "network: a route refuses packets for Services",
        by: Anywhere("w2", "ip route add blackhole 10.96.0.0/24"),
        shows: &[
            (".", "services", "services.routes", "blackhole 10.96.0.0/24"),
            (".", "services", PROXY, "10.96.0.1: no answer"),
        ],
        ..KIND
    },
    Kind {
        says: "network: a route diverts packets for pods of this node from the bridge",
        by: Anywhere("w1", "ip route add blackhole $(sed -n 's,FLANNEL_SUBNET=\\(.*\\)\\.1/24,\\1,p' /run/flannel/subnet.env).128/25"),
        shows: &[(".", "flannel", FLANNEL, "a route diverts packets for pods of this node: blackhole 10.244.")],
        ..KIND
    },
    Kind {
        says: "network: a policy rule blocks half of a node's pods",
        by: Root(
            "m1",
            "ip rule add pref 100 from $(sed -n 's,FLANNEL_SUBNET=\\(.*\\)\\.1/24,\\1,p' /run/flannel/subnet.env).128/25 blackhole",
        ),
        shows: &[(".", "flannel", "flannel.rules", "are refused because of one of these rules: 100: from 10.244.")],
        by_hand: "ip rule delete pref 100",
        alone: "only a human can repair it",
        ..KIND
    },
    Kind {
        says: "network: a queue on flannel's interface drops large packets",
        by: Anywhere("w2", "tc qdisc add dev flannel.1 root tbf rate 1mbit burst 600 limit 600"),
        shows: &[(".", "flannel", FLANNEL, "flannel.1 has the queueing discipline tbf instead of noqueue")],
        ..KIND
    },
    Kind {
        says: "network: large packets are lost between two workers",
        by: Root(
            "w1",
            "NFT=\"chroot /proc/$(pidof kube-proxy)/root nft\"; $NFT add table inet mine; \
             $NFT add chain inet mine out '{ type filter hook output priority -100; }'; \
             $NFT add rule inet mine out ip daddr 198.18.0.13 udp dport 8472 meta length gt 1000 drop",
        ),
        shows: &[(".", "packets", "connectivity.tunnel[w2]", "small packets reach w2 through flannel's tunnel, but large")],
        by_hand: "chroot /proc/$(pidof kube-proxy)/root nft delete table inet mine",
        alone: "only a human can repair it",
        ..KIND
    },
    Kind {
        says: "network: a pod's link is not in the bridge",
        by: Root("m1", "ip link set $(ip -o link show type veth | sed -n 's/^[0-9]*: \\(veth[^@]*\\)@.* master cni0 .*/\\1/p' | head -n 1) nomaster"),
        shows: &[(".", "flannel", LINKS, "is not in the bridge cni0")],
        ..KIND
    },
    Kind {
        says: "network: a pod's link is missing",
        by: Root("m1", "ip link delete $(ip -o link show type veth | sed -n 's/^[0-9]*: \\(veth[^@]*\\)@.* master cni0 .*/\\1/p' | head -n 1)"),
        shows: &[(".", "flannel", LINKS, "the link of pod kube-system/coredns-")],
        ..KIND
    },
    Kind {
        says: "network: the bridge of the pods is missing",
        by: Root("m1", "ip link delete cni0"),
        shows: &[(".", "flannel", LINKS, "the bridge cni0 does not exist, and pod ")],
        ..KIND
    },
    Kind {
        says: "network: the pods of one node have no DNS",
        by: Root(
            "m1",
            "NFT=\"chroot /proc/$(pidof kube-proxy)/root nft\"; $NFT add table ip mine; \
             $NFT add chain ip mine in '{ type filter hook prerouting priority raw; }'; \
             $NFT add rule ip mine in iifname cni0 udp dport 53 drop",
        ),
        shows: &[(".", "packets", "connectivity.pod-dns", "10.96.0.10 port 53, asked from pod kube-system/coredns-")],
        by_hand: "chroot /proc/$(pidof kube-proxy)/root nft delete table ip mine",
        alone: "only a human can repair it",
        ..KIND
    },
    Kind {
        // The kubelet's probes use this path.
        says: "network: a packet filter blocks a node's connections to its own pods",
        by: Root(
            "m1",
            "NFT=\"chroot /proc/$(pidof kube-proxy)/root nft\"; $NFT add table ip mine; \
             $NFT add chain ip mine out '{ type filter hook output priority 0; }'; \
             $NFT add rule ip mine out oifname cni0 ip protocol tcp drop",
        ),
        shows: &[(".", "packets", "connectivity.own-pod", "asked from this node: no answer")],
        by_hand: "chroot /proc/$(pidof kube-proxy)/root nft delete table ip mine",
        alone: "only a human can repair it",
        ..KIND
    },
    Kind {
        says: "network: existing pods use all addresses",
        by: Root("m1", TAKEN),
        shows: &[(".", "cni", "cni.range", "existing pods have taken 25")],
        by_hand: "find /var/lib/cni/networks/cbr0 -name '10.*' ! -newermt 2001-01-03 -delete",
        alone: "only a human can repair it",
        ..KIND
    },
    Kind {
        // The control plane does not detect it, because the pods of both workers answer it.
        says: "network: a packet filter blocks VXLAN between two workers",
        by: Root(
            "w1",
            "NFT=\"chroot /proc/$(pidof kube-proxy)/root nft\"; $NFT add table inet mine; \
             $NFT add chain inet mine out '{ type filter hook output priority -100; }'; \
             $NFT add rule inet mine out ip daddr 198.18.0.13 udp dport 8472 drop",
        ),
        shows: &[
            (".", "packets", "connectivity.tunnel[w2]", "flannel.1 of w2, asked from this node: no answer"),
            ("w2", "packets", "connectivity.tunnel[w1]", "flannel.1 of w1, asked from this node: no answer"),
        ],
        by_hand: "chroot /proc/$(pidof kube-proxy)/root nft delete table inet mine",
        alone: "only a human can repair it",
        ..KIND
    },
    Kind {
        says: "network: flannel's forwarding entries are missing",
        by: Anywhere(
            "w1",
            "bridge fdb show dev flannel.1 | while read -r mac _ dst _; do bridge fdb delete $mac dev flannel.1 dst $dst self; done",
        ),
        shows: &[(".", "flannel", FLANNEL, "has no forwarding entry for")],
        ..KIND
    },
    Kind {
        says: "network: flannel's neighbour entries are missing",
        by: Anywhere("w2", "ip neigh flush dev flannel.1 nud permanent"),
        shows: &[(".", "flannel", FLANNEL, "has no neighbour entry for 10.244.")],
        ..KIND
    },
    Kind {
        says: "network: flannel's subnet.env is missing",
        by: Anywhere("w1", "rm /run/flannel/subnet.env"),
        shows: &[(".", "flannel", FLANNEL, "/run/flannel/subnet.env does not name the range")],
        ..KIND
    },
    Kind {
        says: "network: flannel's subnet.env is empty",
        by: Anywhere("w2", ": >/run/flannel/subnet.env"),
        shows: &[(".", "flannel", FLANNEL, "/run/flannel/subnet.env does not name the range")],
        ..KIND
    },
    Kind {
        says: "network: flannel's subnet.env lacks the range of all pods",
        by: Anywhere("w1", "sed -i /FLANNEL_NETWORK/d /run/flannel/subnet.env"),
        shows: &[(".", "flannel", FLANNEL, "subnet.env does not have FLANNEL_NETWORK=10.244.0.0/16")],
        ..KIND
    },
    Kind {
        says: "network: flannel's subnet.env lacks the MTU and the masquerade",
        by: Anywhere("w2", "sed -i '/FLANNEL_MTU/d; /FLANNEL_IPMASQ/d' /run/flannel/subnet.env"),
        shows: &[(
            ".",
            "flannel",
            FLANNEL,
            "FLANNEL_MTU\n/run/flannel/subnet.env does not have FLANNEL_IPMASQ=true",
        )],
        ..KIND
    },
    Kind {
        says: "network: deleted pods still use all addresses",
        by: Anywhere("w2", LEAKED),
        shows: &[(".", "cni", ADDRESSES, "of 253 addresses are taken")],
        ..KIND
    },
    Kind {
        says: "network: the rules of Services are missing",
        by: Anywhere("w1", NO_RULES),
        shows: &[(".", "services", PROXY, "10.96.0.1: no answer")],
        ..KIND
    },
    Kind {
        says: "network: the rules of Services are missing on the control plane",
        by: Root("m1", NO_RULES),
        shows: &[("m1", "services", PROXY, "10.96.0.1: no answer")],
        ..KIND
    },
    Kind {
        says: "network: a foreign CNI configuration is noted and stays",
        by: Root(
            "m1",
            "sed s/cbr0/mine/ /etc/cni/net.d/10-flannel.conflist >/etc/cni/net.d/05-mine.conflist",
        ),
        notes: "containerd uses /etc/cni/net.d/05-mine.conflist",
        differs: &["/etc/cni/net.d/05-mine.conflist"],
        then: "rm /etc/cni/net.d/05-mine.conflist",
        ..KIND
    },
    Kind {
        says: "network: flannel announces a node at another address",
        by: Kubectl("k annotate node w2 flannel.alpha.coreos.com/public-ip=198.18.0.99 --overwrite"),
        shows: &[("m1", "nodes", "nodes.announced[w2]", "announced by flannel at 198.18.0.99")],
        ..KIND
    },
    Kind {
        says: "network: flannel does not announce a node",
        by: Kubectl("k annotate node w2 flannel.alpha.coreos.com/public-ip-"),
        shows: &[("m1", "nodes", "nodes.announced[w2]", "flannel does not announce its pods")],
        ..KIND
    },
    Kind {
        says: "network: flannel's DaemonSet is edited",
        by: Kubectl("k -n kube-flannel set resources daemonset/flannel -c flannel --requests=cpu=50m"),
        shows: &[("m1", "network", "network.object[DaemonSet kube-flannel/flannel]", "cpu: \"50m\"")],
        ..KIND
    },
    Kind {
        says: "network: flannel's ConfigMap is edited",
        by: Kubectl("k -n kube-flannel patch configmap flannel -p '{\"data\": {\"net-conf.json\": \"{}\"}}'"),
        shows: &[("m1", "network", "network.object[ConfigMap kube-flannel/flannel]", "10.244.0.0/16")],
        ..KIND
    },
    Kind {
        says: "network: flannel's ConfigMap is missing",
        by: Kubectl("k -n kube-flannel delete configmap flannel"),
        shows: &[(
            "m1",
            "network",
            "network.object[ConfigMap kube-flannel/flannel]",
            "ConfigMap kube-flannel/flannel",
        )],
        ..KIND
    },
    Kind {
        says: "network: flannel's ConfigMap is missing, and a route that only a restart of flannel restores",
        by: Root(
            "m1",
            "kubectl --kubeconfig /etc/kubernetes/admin.conf -n kube-flannel delete configmap flannel
ip route delete $(ip route show dev flannel.1 | cut -d ' ' -f 1 | tail -n 1)",
        ),
        shows: &[
            (
                ".",
                "network",
                "network.object[ConfigMap kube-flannel/flannel]",
                "ConfigMap kube-flannel/flannel",
            ),
            (".", "flannel", FLANNEL, "there is no route to the pods of 10.244."),
        ],
        ..KIND
    },
    Kind {
        says: "network: flannel's rights are missing",
        by: Kubectl("k delete clusterrolebinding flannel"),
        shows: &[(
            "m1",
            "network",
            "network.object[ClusterRoleBinding flannel]",
            "ClusterRoleBinding flannel",
        )],
        ..KIND
    },
];
