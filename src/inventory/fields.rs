//! Every table and field an inventory may have: the one list that reading, suggestions and the complete
//! example are held against. What the values mean is not here.

/// One entry of a table.
pub struct Field {
    pub name: &'static str,
    pub shape: Shape,
    pub need: Need,
    /// What it is, as the end of "it says …".
    pub doc: &'static str,
}

/// What a value looks like in the file.
pub enum Shape {
    Text,
    Integer,
    Switch,
    Texts,
    /// Names and texts: labels.
    Pairs,
    /// `"flannel"`, `"none"` or `{ manifests = […] }`.
    Network,
    Table(&'static [Field]),
    /// Tables of the same fields, each under a name of the user's.
    Named(&'static [Field]),
    /// Another program's configuration, in that program's spelling.
    Open,
}

/// What happens where it is not written.
pub enum Need {
    /// It is a mistake; with an example.
    Required(&'static str),
    /// The same as if this were written.
    Default(&'static str),
    Optional,
}

use Need::{Default, Optional, Required};
use Shape::{Integer, Named, Network, Open, Pairs, Switch, Table, Text, Texts};

const fn field(name: &'static str, shape: Shape, need: Need, doc: &'static str) -> Field {
    Field { name, shape, need, doc }
}

/// The whole file.
pub const ROOT: &[Field] = &[
    field("cluster", Table(CLUSTER), Required("[cluster]"), "what the cluster is"),
    field("ssh", Table(SSH), Optional, "how machines are reached, unless a node says otherwise"),
    field("kubelet", Open, Optional, "KubeletConfiguration fields"),
    field("kube-proxy", Open, Optional, "KubeProxyConfiguration fields"),
    field("api-server", Open, Optional, "flags of kube-apiserver, without dashes"),
    field("controller-manager", Open, Optional, "flags of kube-controller-manager, without dashes"),
    field("scheduler", Open, Optional, "flags of kube-scheduler, without dashes"),
    field("etcd", Open, Optional, "flags of etcd, without dashes"),
    field("kubeadm", Open, Optional, "ClusterConfiguration fields"),
    field("containerd", Open, Optional, "containerd's configuration, `version = 2`"),
    field("flannel", Table(FLANNEL), Optional, "flannel's images"),
    field("coredns", Table(COREDNS), Optional, "replicas and Corefile of the cluster's DNS"),
    field("registries", Named(REGISTRY), Optional, "where images of a registry are pulled from"),
    field("packages", Table(PACKAGES), Optional, "where packages come from"),
    field("proxy", Table(PROXY), Optional, "proxies for packages and images"),
    field("addons", Named(ADDON), Optional, "manifests to apply once the cluster is up, in this order"),
    field("nodes", Named(NODE), Required("[nodes.m1]"), "which machines the cluster is made of"),
];

const CLUSTER: &[Field] = &[
    field("name", Text, Required(r#"name = "demo""#), "the cluster's name"),
    field("kubernetes", Text, Required(r#"kubernetes = "1.36.3""#), "the exact version"),
    field("pods", Text, Default("10.244.0.0/16"), "the addresses of pods"),
    field("services", Text, Default("10.96.0.0/12"), "the addresses of Services"),
    field("domain", Text, Default("cluster.local"), "the DNS domain of Services"),
    field("network", Network, Default("flannel"), "what connects the pods"),
    field("endpoint", Text, Optional, "where clients find the API"),
    field("api-names", Texts, Optional, "more names of the API server, for its certificate"),
    field("image-repository", Text, Default("registry.k8s.io"), "where images of Kubernetes come from"),
    field("ignore-preflight", Texts, Optional, "kubeadm preflight checks to ignore"),
];

const MANIFESTS: &[Field] =
    &[field("manifests", Texts, Required(r#"manifests = ["calico.yaml"]"#), "YAML files to apply")];

const SSH: &[Field] = &[
    field("user", Text, Optional, "the user to log in as"),
    field("port", Integer, Optional, "the port of sshd"),
    field("key", Text, Optional, "a private key file"),
    field("jump", Texts, Optional, "hosts to go through, in this order"),
    field("known-hosts", Text, Optional, "the file of known host keys"),
];

const FLANNEL: &[Field] = &[
    field("image", Text, Default("docker.io/flannel/flannel:v0.27.4"), "flanneld's image"),
    field(
        "plugin",
        Text,
        Default("docker.io/flannel/flannel-cni-plugin:v1.8.0-flannel1"),
        "the image of its CNI plugin",
    ),
];

const COREDNS: &[Field] = &[
    field("replicas", Integer, Optional, "the number of its pods"),
    field("corefile", Text, Optional, "a file with its configuration"),
];

const REGISTRY: &[Field] = &[
    field(
        "mirrors",
        Texts,
        Optional,
        "URLs, tried in order; one with /v2/PROJECT is asked there; without them, the registry itself",
    ),
    field("fallback", Switch, Default("true"), "ask the registry itself where no mirror has the image"),
    field("user", Text, Optional, "the user at the mirrors, or at the registry itself without them"),
    field("password-file", Text, Optional, "a file that holds that user's password alone"),
    field("password", Text, Optional, "the password itself; who reads the inventory knows it"),
    field("ca", Text, Optional, "a PEM file of the CA of the mirrors"),
    field("skip-verify", Switch, Default("false"), "trust mirrors without looking at their certificates"),
];

const PACKAGES: &[Field] = &[
    field(
        "kubernetes",
        Text,
        Default("https://pkgs.k8s.io/core:/stable:/v{minor}/deb/"),
        "the apt repository of Kubernetes",
    ),
    field("key", Text, Optional, "a file with its signing key, armored"),
];

const PROXY: &[Field] = &[
    field("http", Text, Default(""), "the proxy for http"),
    field("https", Text, Default(""), "the proxy for https"),
    field("no", Texts, Optional, "what is reached directly"),
];

const ADDON: &[Field] = &[
    field("manifest", Text, Required(r#"manifest = "dashboard.yaml""#), "a YAML file or a URL"),
    field("sha256", Text, Optional, "the hash of what is behind the URL"),
    field("wait", Switch, Default("true"), "wait until what it runs is available"),
];

const NODE: &[Field] = &[
    field("address", Text, Required(r#"address = "198.18.0.11""#), "where SSH goes"),
    field("ip", Text, Optional, "the cluster's own address of it"),
    field("role", Text, Required(r#"role = "worker""#), "\"control-plane\" or \"worker\""),
    field("user", Text, Optional, "the user to log in as"),
    field("port", Integer, Optional, "the port of sshd"),
    field("key", Text, Optional, "a private key file"),
    field("jump", Texts, Optional, "hosts to go through, in this order"),
    field("host-key", Text, Optional, "the fingerprint of its host key"),
    field("labels", Pairs, Optional, "labels of the Node"),
    field("taints", Texts, Optional, "taints of the Node"),
    field("kubelet", Open, Optional, "KubeletConfiguration fields of this node, over those of [kubelet]"),
];

impl Shape {
    /// As the end of "… is …".
    pub fn name(&self) -> &'static str {
        match self {
            Text => "a string",
            Integer => "an integer",
            Switch => "true or false",
            Texts => "an array of strings",
            Pairs => "a table of strings",
            Network => "a string or { manifests = […] }",
            Table(_) | Open => "a table",
            Named(_) => "a table of tables",
        }
    }

    /// The fields of the tables beneath it, where they are ours.
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

/// Fields that have a password, or in which people look for a place for one.
const SECRET: [&str; 3] = ["key", "password", "password-file"];

/// Whether there is a field of this name, and its value is no secret in any table.
pub fn has_no_secret(name: &str) -> bool {
    let is_field = ROOT.iter().flat_map(|table| table.shape.fields()).any(|field| field.name == name);
    !SECRET.contains(&name) && (is_field || tables().any(|table| table == name))
}

/// What other tools call our fields, without case, dashes and underscores.
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

/// The one of `names` that was probably meant by `word`.
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
    fn what_was_probably_meant_is_found() {
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
