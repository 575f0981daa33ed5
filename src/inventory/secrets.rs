//! Registers what an inventory and its manifests have that must not be shown, before anything is shown of them.

use std::sync::LazyLock;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use regex::Regex;
use serde_json::Value;
use toml::de::{DeTable, DeValue};

use crate::cluster::Cluster;
use crate::secret::{learn_field, learn_names, learn_url};

/// Fields whose values are secrets, such as those of a registry in containerd's configuration.
static FIELDS: LazyLock<Regex> = LazyLock::new(|| {
    let fields = r"(?i)(?:passw(?:or)?d|secret|token|auth|private-?key|client-key-data)$";
    Regex::new(fields).expect("it is a constant, and tested")
});

/// The credentials in an inventory: those of URLs, wherever one stands, and the values of fields that are named like one.
pub fn learn(table: &DeTable) {
    for (name, value) in table {
        learn_value(name.get_ref(), value.get_ref());
    }
}

fn learn_value(name: &str, value: &DeValue) {
    match value {
        DeValue::String(text) => {
            learn_url(text);
            // A path says where a secret is.
            if FIELDS.is_match(name) && !text.starts_with(['/', '~', '.']) {
                learn_field(name, text);
            }
        }
        DeValue::Array(values) => values.iter().for_each(|value| learn_value(name, value.get_ref())),
        DeValue::Table(table) => learn(table),
        _ => {}
    }
}

/// Everything below `data` and `stringData` of a Secret, as it is written and as what it is the base64 of.
pub fn learn_object(object: &Value) {
    if object["kind"] != "Secret" {
        return;
    }
    let fields = |of: &str| object[of].as_object().into_iter().flatten().collect::<Vec<_>>();
    for (name, value) in fields("stringData") {
        learn_strings(name, value);
    }
    for (name, value) in fields("data") {
        learn_strings(name, value);
        let written: String = value.as_str().unwrap_or_default().split_whitespace().collect();
        if let Some(text) =
            BASE64_STANDARD.decode(written).ok().and_then(|bytes| String::from_utf8(bytes).ok())
        {
            learn_field(name, &text);
        }
    }
}

fn learn_strings(name: &str, value: &Value) {
    match value {
        Value::String(text) => learn_field(name, text),
        Value::Number(number) => learn_field(name, &number.to_string()),
        Value::Array(values) => values.iter().for_each(|value| learn_strings(name, value)),
        Value::Object(fields) => fields.iter().for_each(|(name, value)| learn_strings(name, value)),
        Value::Null | Value::Bool(_) => {}
    }
}

/// The names that every message has: of the cluster, its nodes, their hosts and users.
pub fn learn_names_of(cluster: &Cluster) {
    let ssh = cluster.nodes.iter().flat_map(|node| {
        let user = node.ssh.user.as_deref();
        [Some(node.name.as_str()), Some(node.ssh.host.as_str()), user].into_iter().flatten()
    });
    learn_names(ssh.chain([cluster.name.as_str(), cluster.endpoint.host.as_str()]));
}

#[cfg(test)]
mod tests {
    use crate::secret::hide;

    #[test]
    fn a_secret_of_a_manifest_is_known_in_every_form() {
        let text = "kind: Secret\napiVersion: v1\nmetadata: {name: s}\nstringData:\n  db: sesame-open-1\n  pin: '12'\n\
                    data:\n  key: c2VzYW1lLW9wZW4tMg==\n---\nkind: ConfigMap\napiVersion: v1\nmetadata: {name: c}\n\
                    data: {a: no-secret-at-all}\n";
        let (objects, wrong) = super::super::objects(text, "x.yaml");
        assert_eq!((objects.unwrap().len(), wrong), (2, vec![]));
        for text in ["sesame-open-1", "c2VzYW1lLW9wZW4tMQ==", "sesame-open-2", "c2VzYW1lLW9wZW4tMg=="] {
            assert_eq!(hide(text), "[secret]", "{text}");
        }
        assert_eq!(hide("pin: \"12\", 12, no-secret-at-all"), "pin: \"[secret]\", 12, no-secret-at-all");
    }

    #[test]
    fn credentials_of_an_inventory_are_known_also_where_it_has_mistakes() {
        let text = "[proxy]\nhttps = 'http://me:proxy-word-1@proxy:3128'\n[registries.\"docker.io\"]\n\
                    mirrors = ['https://mirror-token-1@m.example']\n[containerd.x]\nidentitytoken = 'identity-word-1'\n\
                    auth = '/etc/a-path-of-auth'\n";
        assert!(super::super::parse(text, "x.toml".as_ref()).is_err());
        for text in ["proxy-word-1", "mirror-token-1", "identity-word-1"] {
            assert_eq!(hide(text), "[secret]", "{text}");
        }
        assert_eq!(hide("/etc/a-path-of-auth"), "/etc/a-path-of-auth");
    }
}
