//! The list of all tables and fields of an inventory. Reading, suggestions and the complete example all use it. Other
//! modules define the meaning of values.

/// One entry of a table.
pub struct Field {
    pub name: &'static str,
    pub shape: Shape,
    pub need: Need,
    /// The meaning, as a noun phrase without a full stop.
    pub doc: &'static str,
}

/// The form of a value in the file.
pub enum Shape {
    Text,
    Integer,
    Switch,
    Texts,
    /// One of these texts.
    Choice(&'static [&'static str]),
    /// Names with a text each, such as labels.
    Pairs,
    /// `"flannel"`, `"none"` or `{ manifests = […] }`.
    Network,
    Table(&'static [Field]),
    /// Tables with the same fields, each under a name that the user chooses.
    Named(&'static [Field]),
    /// Settings of another program, in the spelling of that program.
    Open,
}

/// The effect of a field that is not written.
pub enum Need {
    /// A mistake. The text is an example of the field.
    Required(&'static str),
    /// The same effect as this value.
    Default(&'static str),
    Optional,
}

use Need::{Default, Optional, Required};
use Shape::{Choice, Integer, Named, Network, Open, Pairs, Switch, Table, Text, Texts};

const fn field(name: &'static str, shape: Shape, need: Need, doc: &'static str) -> Field {
    Field { name, shape, need, doc }
}

/// The tables of the whole file.
pub const ROOT: &[Field] = &[
    field("cluster", Table(CLUSTER), Required("[cluster]"), "the cluster as a whole"),
    field(
        "ssh",
        Table(SSH),
        Optional,
        "how ironstrap logs in to machines, unless a node says otherwise; missing settings come from your ssh_config",
    ),
    field("kubelet", Open, Optional, "fields of KubeletConfiguration, for all nodes"),
    field("kube-proxy", Open, Optional, "fields of KubeProxyConfiguration"),
    field("api-server", Open, Optional, "flags of kube-apiserver, without the leading dashes"),
    field(
        "controller-manager",
        Open,
        Optional,
        "flags of kube-controller-manager, without the leading dashes",
    ),
    field("scheduler", Open, Optional, "flags of kube-scheduler, without the leading dashes"),
    field("etcd", Open, Optional, "flags of etcd, without the leading dashes"),
    field("kubeadm", Open, Optional, "any other field of kubeadm's ClusterConfiguration (v1beta4)"),
    field("containerd", Open, Optional, "settings of containerd, in the format of its `version = 2`"),
    field("flannel", Table(FLANNEL), Optional, "images of flannel, the default pod network"),
    field("coredns", Table(COREDNS), Optional, "CoreDNS, the DNS server of the cluster"),
    field(
        "registries",
        Named(REGISTRY),
        Optional,
        "mirrors and logins of image registries; NAME is the registry, and `_default` stands for all others",
    ),
    field("packages", Table(PACKAGES), Optional, "the repository of the Kubernetes packages"),
    field("proxy", Table(PROXY), Optional, "proxies for downloads of packages and images"),
    field("addons", Named(ADDON), Optional, "manifests to apply to the running cluster, in this order"),
    field(
        "nodes",
        Named(NODE),
        Required("[nodes.m1]"),
        "the machines of the cluster, by node name; a range as in \"w[1-3]\" stands for several",
    ),
];

const CLUSTER: &[Field] = &[
    field(
        "name",
        Text,
        Required(r#"name = "demo""#),
        "name of the cluster; also the name of the PKI directory and of the kubeconfig beside the inventory",
    ),
    field("kubernetes", Text, Required(r#"kubernetes = "1.36.3""#), "exact version of Kubernetes"),
    field("pods", Text, Default("10.244.0.0/16"), "address range of pods; each node uses a /24 of it"),
    field("services", Text, Default("10.96.0.0/12"), "address range of Services"),
    field("domain", Text, Default("cluster.local"), "DNS domain of Services"),
    field(
        "network",
        Network,
        Default("flannel"),
        "pod network: `flannel`, your own manifests, or `none` if you install one yourself",
    ),
    field(
        "endpoint",
        Text,
        Optional,
        "name or address of the API, with an optional port; without it ironstrap keeps a name in /etc/hosts of every node",
    ),
    field(
        "api-names",
        Texts,
        Optional,
        "additional names and addresses in the certificate of the API server",
    ),
    field("image-repository", Text, Default("registry.k8s.io"), "registry of the Kubernetes images"),
    field("ignore-preflight", Texts, Optional, "preflight checks that only warn"),
];

const MANIFESTS: &[Field] = &[field(
    "manifests",
    Texts,
    Required(r#"manifests = ["calico.yaml"]"#),
    "YAML files beside the inventory",
)];

const SSH: &[Field] = &[
    field("user", Text, Optional, "user to log in as: root, or a user who may use sudo or doas"),
    field("port", Integer, Optional, "port of the SSH server"),
    field("key", Text, Optional, "private key file; if it is set, no other key is tried"),
    field("jump", Texts, Optional, "jump hosts, in this order; [] is none"),
    field("known-hosts", Text, Optional, "file of known host keys"),
];

const FLANNEL: &[Field] = &[
    field("image", Text, Default("docker.io/flannel/flannel:v0.27.4"), "image of flanneld"),
    field(
        "plugin",
        Text,
        Default("docker.io/flannel/flannel-cni-plugin:v1.8.0-flannel1"),
        "image of flannel's CNI plugin",
    ),
];

const COREDNS: &[Field] = &[
    field(
        "replicas",
        Integer,
        Optional,
        "number of CoreDNS pods; without it, a new cluster has 2 and an existing number is kept",
    ),
    field(
        "corefile",
        Text,
        Optional,
        "file with the configuration of CoreDNS; without it, an existing cluster keeps its own, and \
         a new one gets that of kubeadm",
    ),
];

const REGISTRY: &[Field] = &[
    field(
        "mirrors",
        Texts,
        Optional,
        "URLs of mirrors, tried in order; a URL with /v2/PROJECT is used unchanged",
    ),
    field("fallback", Switch, Default("true"), "use the registry itself if no mirror has the image"),
    field("user", Text, Optional, "user at the mirrors, or at the registry itself if there are none"),
    field("password-file", Text, Optional, "file with the password of that user, and nothing else"),
    field("password", Text, Optional, "the password itself; everyone who reads the inventory can see it"),
    field("ca", Text, Optional, "PEM file of the CA of the mirrors"),
    field("skip-verify", Switch, Default("false"), "do not verify the certificates of mirrors"),
];

const PACKAGES: &[Field] = &[
    field(
        "kubernetes",
        Text,
        Default("https://pkgs.k8s.io/core:/stable:/v{minor}/deb/"),
        "apt repository of Kubernetes; ironstrap replaces {minor} with the minor version",
    ),
    field(
        "key",
        Text,
        Optional,
        "file with the signing key of the repository, armored; without it the key is fetched from the repository",
    ),
];

const PROXY: &[Field] = &[
    field("http", Text, Default(""), "proxy for http"),
    field("https", Text, Default(""), "proxy for https"),
    field(
        "no",
        Texts,
        Optional,
        "hosts and ranges that are reached without a proxy; ironstrap adds those of the cluster",
    ),
];

const ADDON: &[Field] = &[
    field(
        "manifest",
        Text,
        Required(r#"manifest = "dashboard.yaml""#),
        "YAML file beside the inventory, or a URL",
    ),
    field("sha256", Text, Optional, "SHA-256 of the file at the URL; required for a URL"),
    field("wait", Switch, Default("true"), "wait until its pods are available"),
];

const NODE: &[Field] = &[
    field(
        "address",
        Text,
        Required(r#"address = "198.18.0.11""#),
        "name or address for SSH, with an optional port",
    ),
    field("ip", Text, Optional, "address that the other nodes use; without it, `address`"),
    field(
        "role",
        Choice(&["control-plane", "worker"]),
        Required(r#"role = "worker""#),
        "role of the node: control-plane or worker",
    ),
    field("user", Text, Optional, "user to log in as: root, or a user who may use sudo or doas"),
    field("port", Integer, Optional, "port of the SSH server"),
    field("key", Text, Optional, "private key file; if it is set, no other key is tried"),
    field("jump", Texts, Optional, "jump hosts, in this order; [] is none"),
    field("host-key", Text, Optional, "fingerprint of the host key; no other key is accepted"),
    field("labels", Pairs, Optional, "labels of the Node"),
    field(
        "taints",
        Texts,
        Optional,
        "taints of the Node; without it, control planes have node-role.kubernetes.io/control-plane:NoSchedule",
    ),
    field(
        "kubelet",
        Open,
        Optional,
        "fields of KubeletConfiguration for this node, over those of [kubelet]; failSwapOn, failCgroupV1, protectKernelDefaults and resolvConf are the same for all nodes",
    ),
];

impl Field {
    /// The first part of `doc`, for messages.
    pub fn summary(&self) -> &'static str {
        self.doc.split("; ").next().unwrap_or(self.doc)
    }
}

impl Shape {
    /// The shape in words, for the end of a message "… is …".
    pub fn name(&self) -> &'static str {
        match self {
            Text | Choice(_) => "a string",
            Integer => "an integer",
            Switch => "true or false",
            Texts => "an array of strings",
            Pairs => "a table of strings",
            Network => "a string or { manifests = […] }",
            Table(_) | Open => "a table",
            Named(_) => "a table of tables",
        }
    }

    /// The fields of the tables in this shape. There are none if ironstrap does not define them.
    pub fn fields(&self) -> &'static [Field] {
        match self {
            Table(fields) | Named(fields) => fields,
            Network => MANIFESTS,
            _ => &[],
        }
    }
}

/// The names of all tables.
pub fn tables() -> impl Iterator<Item = &'static str> {
    ROOT.iter().map(|table| table.name)
}

/// Fields that have a password, or in which people look for a place to write one.
const SECRET: [&str; 3] = ["key", "password", "password-file"];

/// Whether there is a field or table of this name, and its value is not a secret in any table.
pub fn has_no_secret(name: &str) -> bool {
    let is_field = ROOT.iter().flat_map(|table| table.shape.fields()).any(|field| field.name == name);
    !SECRET.contains(&name) && (is_field || tables().any(|table| table == name))
}

/// The names that other tools use for our fields, without case, dashes and underscores.
const ALIASES: &[(&str, &str)] = &[
    ("version", "kubernetes"),
    ("kubernetesversion", "kubernetes"),
    ("podcidr", "pods"),
    ("podsubnet", "pods"),
    ("servicecidr", "services"),
    ("servicesubnet", "services"),
    ("cni", "network"),
    ("certsans", "api-names"),
    ("controlplaneendpoint", "endpoint"),
    ("host", "address"),
    ("hostname", "address"),
    ("username", "user"),
    ("privatekey", "key"),
    ("identityfile", "key"),
    ("hosts", "nodes"),
    ("machines", "nodes"),
    ("node", "nodes"),
    ("insecure", "skip-verify"),
    ("noproxy", "no"),
];

/// The one of `names` that `word` probably means.
pub fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |name: &str| name.to_lowercase().replace(['-', '_'], "");
    let word = plain(word);
    let alias = ALIASES.iter().find(|(theirs, _)| *theirs == word).map(|(_, ours)| *ours);
    names
        .into_iter()
        .map(|name| match alias == Some(name) {
            true => (0, name),
            false => (strsim::damerau_levenshtein(&word, &plain(name)), name),
        })
        .filter(|(distance, name)| *distance <= (name.len() / 3).max(1) && *distance < word.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = include_str!("../../inventories/full.toml");

    /// The lines of `[table]`, or of `[table.…]`.
    fn sections(table: &str) -> String {
        let mut inside = false;
        let of_table = FULL.lines().filter(|line| {
            if let Some(head) = line.strip_prefix('[') {
                inside = head.strip_prefix(table).is_some_and(|rest| rest.starts_with(['.', ']']));
            }
            inside
        });
        of_table.map(|line| format!("{line}\n")).collect()
    }

    #[test]
    fn the_full_example_mentions_every_field() {
        for table in ROOT {
            let lines = sections(table.name);
            assert!(!lines.is_empty(), "inventories/full.toml lacks [{}]", table.name);
            for field in table.shape.fields() {
                let mentioned = lines
                    .lines()
                    .any(|line| line.trim_start_matches("# ").starts_with(&format!("{} = ", field.name)));
                assert!(mentioned, "inventories/full.toml lacks {} in [{}]", field.name, table.name);
            }
        }
        assert!(FULL.contains("{ manifests = "));
    }

    #[test]
    fn the_nearest_field_name_is_found() {
        let names = ["kubernetes", "address", "api-names", "role", "ip"];
        for (word, meant) in [
            ("kubernets", Some("kubernetes")),
            ("version", Some("kubernetes")),
            ("apiNames", Some("api-names")),
            ("api_names", Some("api-names")),
            ("adress", Some("address")),
            ("IP", Some("ip")),
            ("colour", None),
            ("x", None),
        ] {
            assert_eq!(nearest(word, names), meant, "{word}");
        }
    }
}
