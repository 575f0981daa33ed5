//! Checks fields of the configuration files of Kubernetes components, and the form of their values. A component notices
//! an unknown field only at its next start, when the machine depends on it. It then ignores or refuses the field.
//! `reserved` says which fields belong to ironstrap.

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::diagnostic::Mistakes;
use super::fields::nearest;
use super::shape::kind;
use super::table::Table;

/// A component whose configuration the inventory may hold.
struct Component {
    table: &'static str,
    configuration: &'static str,
    fields: &'static str,
}

const COMPONENTS: [Component; 3] = [
    Component {
        table: "kubelet",
        configuration: "KubeletConfiguration",
        fields: include_str!("components/kubelet.txt"),
    },
    Component {
        table: "kube-proxy",
        configuration: "KubeProxyConfiguration",
        fields: include_str!("components/kube-proxy.txt"),
    },
    Component {
        table: "kubeadm",
        configuration: "ClusterConfiguration",
        fields: include_str!("components/kubeadm.txt"),
    },
];

/// Fields whose value is one of a few words. A component refuses any other word at its start. Sources: k8s.io/kubelet
/// config/v1beta1/types.go, k8s.io/kube-proxy config/v1alpha1/types.go, and kubeadm v1beta4.
const WORDS: &[(&str, &str, &[&str])] = &[
    ("kubelet", "authorization.mode", &["AlwaysAllow", "Webhook"]),
    ("kubelet", "configMapAndSecretChangeDetectionStrategy", &["Get", "Cache", "Watch"]),
    ("kubelet", "cpuManagerPolicy", &["none", "static"]),
    ("kubelet", "hairpinMode", &["promiscuous-bridge", "hairpin-veth", "none"]),
    ("kubelet", "logging.format", &["text", "json"]),
    ("kubelet", "memoryManagerPolicy", &["None", "Static"]),
    ("kubelet", "memorySwap.swapBehavior", &["", "NoSwap", "LimitedSwap"]),
    ("kubelet", "topologyManagerPolicy", &["none", "best-effort", "restricted", "single-numa-node"]),
    ("kubelet", "topologyManagerScope", &["container", "pod"]),
    (
        "kube-proxy",
        "detectLocalMode",
        &["", "ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix"],
    ),
    ("kube-proxy", "logging.format", &["text", "json"]),
    ("kube-proxy", "mode", &["", "iptables", "ipvs", "nftables"]),
    ("kubeadm", "encryptionAlgorithm", &["", "RSA-2048", "RSA-3072", "RSA-4096", "ECDSA-P256", "ECDSA-P384"]),
];

/// A field of one version of Kubernetes.
struct Field {
    path: &'static str,
    takes: &'static str,
}

/// Reports fields in `[name]` that Kubernetes 1.`minor` does not have, and values that a field does not take. Tables
/// that are not in `COMPONENTS` are ignored, because they are for other programs.
pub fn check(root: &Table, name: &str, minor: u64, mistakes: &mut Mistakes) {
    let Some(component) = COMPONENTS.iter().find(|component| component.table == name) else { return };
    let Some(DeValue::Table(table)) = root.value(name).map(Spanned::get_ref) else { return };
    let fields = component.fields.lines().filter(|line| !line.starts_with('#'));
    let fields: Vec<Field> = fields.filter_map(|line| field(line, minor)).collect();
    let mut check = Check { component, minor, fields, mistakes };
    check.table(table, "", "");
}

/// The field that a line of the list describes, if this version has it.
fn field(line: &'static str, minor: u64) -> Option<Field> {
    let (path, rest) = line.split_once(' ')?;
    let bound = |word: &str| -> Option<u64> { rest.split_once(word)?.1.split(' ').next()?.parse().ok() };
    let has = bound(" since 1.").is_none_or(|first| first <= minor)
        && bound(" until 1.").is_none_or(|last| minor <= last);
    let takes = rest.split(" since ").next()?.split(" until ").next()?;
    has.then_some(Field { path, takes })
}

struct Check<'a> {
    component: &'static Component,
    minor: u64,
    fields: Vec<Field>,
    mistakes: &'a mut Mistakes,
}

impl Check<'_> {
    /// Checks one table. `within` is the path of the table in the list of fields, with a dot at its end. It is empty
    /// for the whole configuration. `shown` is the same path as the inventory writes it.
    fn table(&mut self, table: &DeTable, within: &str, shown: &str) {
        // `reserved` reports these two, because they are ironstrap's own.
        let kept = |key: &str| within.is_empty() && ["apiVersion", "kind"].contains(&key);
        for (key, value) in table.iter().filter(|(key, _)| !kept(key.get_ref())) {
            let (path, name) = (format!("{within}{}", key.get_ref()), format!("{shown}{}", key.get_ref()));
            match self.fields.iter().find(|field| field.path == path) {
                Some(field) => self.value(field.takes, value, &path, &name),
                None => {
                    let says = self.unknown(key.get_ref(), &path, within, &name);
                    self.mistakes.add(&key.span(), says);
                }
            }
        }
    }

    fn unknown(&self, key: &str, path: &str, within: &str, name: &str) -> String {
        let (configuration, minor) = (self.component.configuration, self.minor);
        let other = self.component.fields.lines().find_map(|line| line.strip_prefix(path)?.strip_prefix(' '));
        if let Some((_, version)) = other.and_then(|rest| rest.split_once(" since ")) {
            return format!("{configuration} has `{name}` since {version}; the cluster has 1.{minor}");
        }
        if let Some((_, version)) = other.and_then(|rest| rest.split_once(" until ")) {
            return format!("{configuration} has `{name}` until {version}; the cluster has 1.{minor}");
        }
        let siblings = self.fields.iter().filter_map(|field| field.path.strip_prefix(within));
        let siblings = siblings.filter(|name| !name.contains(['.', '[', '{']));
        let meant = nearest(key, siblings).map(|meant| format!("; did you mean `{meant}`?"));
        format!("{configuration} has no field `{name}` in Kubernetes 1.{minor}{}", meant.unwrap_or_default())
    }

    fn value(&mut self, takes: &str, value: &Spanned<DeValue>, path: &str, name: &str) {
        let (first, rest) = takes.split_once(' ').unwrap_or((takes, ""));
        match (first, value.get_ref()) {
            ("any", _) => {}
            ("table", DeValue::Table(table)) => self.table(table, &format!("{path}."), &format!("{name}.")),
            ("list", DeValue::Array(elements)) => {
                for (n, element) in elements.iter().enumerate() {
                    self.value(rest, element, &format!("{path}[]"), &format!("{name}[{n}]"));
                }
            }
            ("map", DeValue::Table(table)) => {
                for (key, value) in table {
                    self.value(rest, value, &format!("{path}{{}}"), &format!("{name}.{}", key.get_ref()));
                }
            }
            ("text", DeValue::String(text)) => self.word(text, value, path, name),
            (_, is) if takes_plain(first, is) => {}
            (_, is) => {
                let is = match is {
                    DeValue::String(text) if first == "duration" => format!("{text:?}"),
                    DeValue::Integer(number) if number_of(number).is_some_and(|_| first.contains("int")) => {
                        number.as_str().to_string()
                    }
                    is => kind(is).to_string(),
                };
                self.mistakes.add(
                    &value.span(),
                    format!("`{name}` must be {}, not {is}", named(first, value.get_ref())),
                );
            }
        }
    }

    fn word(&mut self, text: &str, value: &Spanned<DeValue>, path: &str, name: &str) {
        let all = WORDS.iter().find(|(table, field, _)| *table == self.component.table && *field == path);
        let Some((_, _, words)) = all.filter(|(_, _, words)| !words.contains(&text)) else { return };
        let quoted: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
        self.mistakes.add(&value.span(), format!("`{name}` must be one of {}", quoted.join(", ")));
    }
}

/// Whether a value fits a type that is not a table, list or map.
fn takes_plain(takes: &str, value: &DeValue) -> bool {
    match (takes, value) {
        ("bool", DeValue::Boolean(_))
        | ("float", DeValue::Float(_) | DeValue::Integer(_))
        | ("quantity", DeValue::String(_) | DeValue::Integer(_))
        | ("time", DeValue::String(_) | DeValue::Datetime(_)) => true,
        ("duration", DeValue::String(text)) => is_duration(text),
        // `component_args` reports a number that does not fit into 64 bits.
        (_, DeValue::Integer(number)) if takes.contains("int") => {
            number_of(number).is_none_or(|number| match takes {
                "int32" => i32::try_from(number).is_ok(),
                "uint32" => u32::try_from(number).is_ok(),
                _ => true,
            })
        }
        _ => false,
    }
}

fn number_of(number: &DeInteger) -> Option<i64> {
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

/// The words for a type in a message. For a number out of bounds they include the bounds.
fn named(takes: &str, value: &DeValue) -> &'static str {
    match takes {
        "table" | "map" => "a table",
        "list" => "an array",
        "text" => "a string",
        "bool" => "true or false",
        "float" => "a number",
        "quantity" => "a quantity, as in \"100Mi\"",
        "time" => "a time",
        "duration" => "a duration, as in \"1m30s\"",
        "int32" if value.is_integer() => "an integer from -2147483648 to 2147483647",
        "uint32" if value.is_integer() => "an integer from 0 to 4294967295",
        _ => "an integer",
    }
}

/// Whether Go's `time.ParseDuration` accepts the text: `0`, or numbers with units.
fn is_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    let empty = rest.is_empty();
    while !rest.is_empty() {
        let unit = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        let number = &rest[..rest.len() - unit.len()];
        let is_number = number.bytes().any(|b| b.is_ascii_digit()) && number.matches('.').count() <= 1;
        let units = ["ns", "us", "µs", "μs", "ms", "s", "m", "h"];
        let Some(after) = units.iter().find_map(|name| unit.strip_prefix(name)).filter(|_| is_number) else {
            return false;
        };
        rest = after;
    }
    !empty
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_recognized_as_in_go() {
        for right in ["0", "10s", "1m30s", "1.5h", "-2ms", "+3us", "0s", "1h0m0.5s"] {
            assert!(is_duration(right), "{right}");
        }
        for wrong in ["", "10", "s", "1d", "1 s", "1.2.3s", ".s", "10sec"] {
            assert!(!is_duration(wrong), "{wrong}");
        }
    }

    #[test]
    fn every_listed_field_has_a_known_type_and_parent() {
        for component in COMPONENTS {
            let lines = component.fields.lines().filter(|line| !line.starts_with('#'));
            let fields: Vec<Field> = (32..=37)
                .flat_map(|minor| lines.clone().filter_map(move |line| field(line, minor)))
                .collect();
            assert!(fields.len() > 100, "{}", component.table);
            for Field { path, takes } in &fields {
                let plain = takes.rsplit(' ').next().unwrap();
                let known = [
                    "any", "table", "text", "bool", "float", "quantity", "time", "duration", "int32",
                    "uint32", "int64",
                ];
                assert!(known.contains(&plain), "{path} {takes}");
                let Some((parent, _)) = path.rsplit_once('.') else { continue };
                let parent = parent.trim_end_matches("[]").trim_end_matches("{}");
                assert!(fields.iter().any(|field| field.path == parent), "{path} has no parent");
            }
        }
    }

    #[test]
    fn every_field_with_fixed_values_is_text() {
        for (table, path, _) in WORDS {
            let component = COMPONENTS.iter().find(|component| component.table == *table).unwrap();
            assert!(component.fields.lines().any(|line| line == format!("{path} text")), "{table} {path}");
        }
    }
}
