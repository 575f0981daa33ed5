//! Registers the secrets of an inventory and of its manifests, before anything of them is shown.

use std::sync::LazyLock;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use regex::Regex;
use serde_json::Value;
use toml::de::{DeTable, DeValue};

use crate::cluster::Cluster;
use crate::secret::{learn, learn_field, learn_names, learn_url};

/// Matches names of fields whose values are secrets, such as those of a registry in containerd's configuration.
static FIELDS: LazyLock<Regex> = LazyLock::new(|| {
    let fields = r"(?i)(?:passw(?:or)?d|secret|token|auth|private-?key|client-key-data)$";
    Regex::new(fields).expect("it is a constant, and tested")
});

/// Registers the credentials in an inventory: those in URLs, in any field, and the values of fields whose names match `FIELDS`.
pub fn learn_table(table: &DeTable) {
    for (name, value) in table {
        learn_value(name.get_ref(), value.get_ref());
    }
}

fn learn_value(name: &str, value: &DeValue) {
    match value {
        DeValue::String(text) => {
            learn_url(text);
            // A path says where a secret is. The value of `password` is never a path.
            if FIELDS.is_match(name) && (name == "password" || !text.starts_with(['/', '~', '.'])) {
                learn_field(name, text);
            }
        }
        DeValue::Array(values) => values.iter().for_each(|value| learn_value(name, value.get_ref())),
        DeValue::Table(table) => learn_table(table),
        _ => {}
    }
}

/// Registers every value below `data` and `stringData` of a Secret. For `data` it registers both the base64 text and
/// the decoded text.
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

/// Registers the line with which machines log in to the package repository. A password in that line may be short, or a
/// common word.
pub fn learn_login_of(cluster: &Cluster) {
    let line = cluster.packages.credentials().unwrap_or_default();
    if let Some((_, login)) = line.split_once(" login ") {
        learn(&format!("login {}", login.trim_end()));
    }
}

/// Registers the names that every message may have: those of the cluster, its endpoint, its nodes, their hosts and users.
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
    fn a_manifests_secrets_are_hidden_in_text_and_base64() {
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
    fn an_invalid_url_shows_no_password() {
        for text in [
            "[proxy]\nhttp = 'http://me:a/slash-word-1@proxy:3128'\n",
            "[proxy]\nhttp = 'http://me:12/34@proxy:3128'\n",
            "[proxy]\nhttp = 'http://t0k/en@proxy:3128'\n",
            "[packages]\nkubernetes = 'https://ci:12/34@packages.example/deb/'\n",
            "[registries.'docker.io']\nmirrors = ['https://ci:12/34@m.example']\n",
            "[proxy]\nhttp = 'http://me:12/34@proxy:3128\n",
        ] {
            let error = super::super::parse(text, "x.toml".as_ref()).unwrap_err();
            let shown = hide(&error.what).into_owned();
            for secret in ["slash-word-1", "12/34", "t0k/en"] {
                assert!(!shown.contains(secret), "{shown}");
            }
            // A report shows only the beginning of a URL that is on a line that cannot be read.
            let is_shown = shown.contains("://[secret]@") || shown.contains("http[secret]");
            assert!(is_shown, "the report shows the mistake: {shown}");
        }
    }

    #[test]
    fn an_invalid_value_hides_text_before_its_at_sign() {
        for text in [
            "[proxy]\nhttp = 'me:hunter-2@proxy:3128'\n",
            "[proxy]\nhttp = 'hunter-2@proxy:3128'\n",
            "[proxy]\nhttps = ['me:hunter-2@proxy:3128']\n",
            "[proxy]\nhttps = { x = 'me:hunter-2@proxy:3128' }\n",
            "[proxy]\nhtpp = 'me:hunter-2@proxy:3128'\n",
            "[proxy]\nhttp = me:hunter-2@proxy:3128\n",
            "[proxy]\nhttp = 'me:hunter-2@proxy:3128\n",
            "[proxy]\nhttp = \"http://me:\"hunter-2@proxy:3128\"\n",
            "[proxy]\nhttp = \"http://me:a \\q hunter-2@proxy:3128\"\n",
            "[proxy]\nno = ['me:hunter-2@proxy:3128']\n",
            "[proxy]\nno = 'me:hunter-2@proxy:3128'\n",
            "[packages]\nkubernetes = 'me:hunter-2@packages.example/deb/'\n",
            "[packages]\nkubernetes = 'me:hunter-2@packages.example/{x}/'\n",
            "[registries.'docker.io']\nmirrors = [\n  'me:hunter-2@m.example',\n]\n",
            "[registries.'docker.io']\nmirrors = 'me:hunter-2@m.example'\n",
            "[registries.'me:hunter-2@r.example']\nmirrors = ['https://m.example']\n",
            "[cluster]\nimage-repository = 'me:hunter-2@r.example/x'\n",
            "[cluster]\nendpoint = 'me:hunter-2@api.example'\n",
            "[addons.x]\nmanifest = 'me:hunter-2@files.example/x.yaml'\n",
            "[addons.x]\nmanifest = 'ftp://me:hunter-2@files.example/x.yaml'\n",
            "[addons.'me:hunter-2@x']\nmanifest = 'x.yaml'\n",
            "[flannel]\nimage = 'me:hunter-2@r.example/flannel'\n",
            "[nodes.m1]\naddress = 'root:hunter-2@198.18.0.11'\n",
            "[nodes.m1]\naddress = '198.18.0.11'\nip = 'me:hunter-2@198.18.0.11'\n",
            "[ssh]\njump = ['ops:hunter-2@bastion']\n",
            "[ssh]\nuser = 'ops:hunter-2@bastion'\n",
            "'me:hunter-2@x' = 1\n'me:hunter-2@x' = 1\n",
        ] {
            let error = super::super::parse(text, "x.toml".as_ref()).unwrap_err().to_string();
            assert!(!error.contains("hunter"), "{text}: {error}");
            // The mistake of this addon may be its missing file instead of its name.
            let is_elsewhere = text.starts_with("[addons.'me");
            assert!(is_elsewhere || error.contains("[secret]"), "the report shows the mistake: {error}");
        }
    }

    #[test]
    fn a_password_under_a_wrong_key_is_hidden() {
        for text in [
            "[registries.'r.example']\nuser = 'me'\npasword = 'hunter-2'\n",
            "[registries.'r.example']\nuser = 'me'\npasswd = [\n'hunter-2']\n",
            "[registries.'r.example']\nuser = 'me'\nx = { y = 'hunter-2' }\n",
            "[registries]\n'r.example' = { user = 'me', pass-word = 'hunter-2', ca = 1 }\n",
            "registires = { 'r.example' = { user = 'me', password = 'hunter-2' } }\n",
            "[registries.'r.example']\nuser = 'me'\npasword.x = 'hunter-2'\n",
            "[registries.'r.example']\npassword = 'hunter-2'\n",
            "[registries.'r.example']\nuser = 'me'\npassword = ['hunter-2']\n",
            "[registries.'r.example']\nuser = 'me'\npassword-file = ['hunter-2']\n",
            "[registries.'r.example']\nuser = 'me'\npassword-file = 'hunter-2'\n",
            "[registries.'r.example']\npassword-file = 'hunter-2'\n",
            "[registries.'r.example']\nuser = 'me'\npassword-file = 'hunter-2'\npassword = 'hunter-2'\n",
            "[registries.'r.example']\nuser = 'me:hunter-2'\npassword = 'x'\n",
            "[registries.'r.example']\nuser = 'me:hunter-2'\n",
            "[registries.'r.example']\nuser = ['me:hunter-2']\n",
            "[registries]\n'r.example' = { user = 'me:hunter-2', password = 'x' }\n",
            "[packages]\npasword = 'hunter-2'\n",
            "[proxy]\npasword = 'hunter-2'\n",
        ] {
            let error = super::super::parse(text, "x.toml".as_ref()).unwrap_err().to_string();
            assert!(!error.contains("hunter"), "{text}: {error}");
            let is_there = error.contains("[secret]") || text.contains("[\n");
            assert!(is_there, "the report shows the mistake: {error}");
        }
        let text = "[registries.'r.example']\nuser = 'me'\npassword-file = 'secrets/r.password'\n";
        let error = super::super::parse(text, "x.toml".as_ref()).unwrap_err().to_string();
        assert!(error.contains("/secrets/r.password"), "the report shows a path: {error}");
    }

    #[test]
    fn a_short_repository_password_is_hidden_in_apts_line() {
        let text = "[cluster]\nname = 'demo'\nkubernetes = '1.36.3'\n[nodes.m1]\naddress = '198.18.0.11'\n\
                    role = 'control-plane'\n[packages]\nkubernetes = 'https://me:p%22q@packages.example/deb/'\n";
        let cluster = super::super::parse(text, "x.toml".as_ref()).unwrap();
        let line = cluster.packages.credentials().unwrap();
        assert!(line.contains("p\"q"), "{line}");
        for text in [line.clone(), serde_json::json!(line).to_string()] {
            let shown = hide(&text).into_owned();
            assert!(shown.contains("machine https://packages.example/deb/ [secret]"), "{shown}");
            assert!(!shown.contains("p\"q") && !shown.contains("p\\\"q"), "{shown}");
        }
    }

    #[test]
    fn credentials_of_an_invalid_inventory_are_hidden() {
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
