//! Merges a cluster into a user's own kubeconfig, and changes nothing else in it. `store` finds that file and writes it.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::kubeconfig::Entry;
use super::read::{Seen, der_of};
use crate::error::{Error, Kind, Result};
use crate::yaml;

/// The result of a merge into a kubeconfig.
#[derive(Clone, Debug, PartialEq)]
pub struct Merged {
    /// The new text. `None`: the kubeconfig already has the whole entry.
    pub text: Option<String>,
    /// Whether the kubeconfig had comments. The new text has none of them.
    pub had_comments: bool,
}

/// Puts an entry into a kubeconfig. Without a kubeconfig, it makes one. It updates our cluster, user and
/// context, and keeps what others added to them. Fails if one of these names is in use for something else.
pub fn merged(theirs: Option<&str>, entry: &Entry) -> Result<Merged> {
    let text = theirs.unwrap_or_default();
    let before = parsed(text)?;
    let mut config = before.clone().unwrap_or_else(|| json!({"apiVersion": "v1", "kind": "Config"}));
    let cluster = json!({
        "server": entry.server,
        "certificate-authority-data": BASE64_STANDARD.encode(&entry.ca.cert),
    });
    let user = json!({
        "client-certificate-data": BASE64_STANDARD.encode(&entry.pair.cert),
        "client-key-data": BASE64_STANDARD.encode(entry.pair.key.reveal()),
    });
    let context = json!({"cluster": entry.cluster, "user": entry.user});
    put(&mut config, ("clusters", "cluster", entry.cluster), cluster, |it| is_our_cluster(it, entry))?;
    put(&mut config, ("users", "user", entry.user), user, |it| is_our_user(it, entry))?;
    put(&mut config, ("contexts", "context", entry.context), context.clone(), |it| {
        (&it["cluster"], &it["user"]) == (&context["cluster"], &context["user"])
    })?;
    match &config["current-context"] {
        Value::Null => config["current-context"] = entry.context.into(),
        Value::String(name) if name.is_empty() => config["current-context"] = entry.context.into(),
        Value::String(_) => {}
        _ => return Err(unreadable("current-context is not a name")),
    }
    if before.as_ref() == Some(&config) {
        return Ok(Merged { text: None, had_comments: false });
    }
    let had_comments = text.lines().any(|line| line.trim_start().starts_with('#') || line.contains(" #"));
    Ok(Merged { text: Some(written(&config)?), had_comments })
}

fn unreadable(why: &str) -> Error {
    Error::new(Kind::Local, "cannot read your kubeconfig").because(why)
}

/// Reads a kubeconfig. `None`: there is nothing in it.
fn parsed(text: &str) -> Result<Option<Value>> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    // The error keeps only the first line, which says where the mistake is. Below it, the parser shows lines of
    // the file, and so perhaps a key or a token.
    let no = |why: String| Err(unreadable(why.lines().next().unwrap_or_default()));
    match yaml::read::<Value>(text) {
        Err(error) => no(error),
        Ok(Value::Null) => Ok(None),
        Ok(config) if config.is_object() && config.get("kind").is_none_or(|kind| kind == "Config") => {
            Ok(Some(config))
        }
        Ok(_) => no("it is YAML, but not a kubeconfig".into()),
    }
}

/// Sets the fields of the entry of this name in one of the lists. A new entry goes to the end of the list.
fn put(
    config: &mut Value,
    (list, what, name): (&str, &str, &str),
    fields: Value,
    is_ours: impl Fn(&Value) -> bool,
) -> Result<()> {
    let odd = || unreadable(&format!("{list} is not a list"));
    if config[list].is_null() {
        config[list] = json!([]);
    }
    let entries = config[list].as_array_mut().ok_or_else(odd)?;
    let Some(theirs) = entries.iter_mut().find(|it| it["name"] == name) else {
        entries.push(json!({"name": name, what: fields}));
        return Ok(());
    };
    if !is_ours(&theirs[what]) {
        return Err(Error::new(Kind::Refused, format!("your kubeconfig has another {what} named {name}"))
            .hint("rename or remove that one, or write a separate file with --write FILE"));
    }
    let present = theirs[what].as_object_mut().ok_or_else(odd)?;
    present.extend(fields.as_object().cloned().unwrap_or_default());
    Ok(())
}

fn is_our_cluster(theirs: &Value, entry: &Entry) -> bool {
    let ca = theirs["certificate-authority-data"].as_str().and_then(der_of);
    ca.is_some() && ca == der_of(&entry.ca.cert)
}

/// Whether the user's client certificate is one of this cluster's.
fn is_our_user(theirs: &Value, entry: &Entry) -> bool {
    let pem = theirs["client-certificate-data"].as_str().and_then(|data| BASE64_STANDARD.decode(data).ok());
    let pem = pem.and_then(|pem| String::from_utf8(pem).ok());
    let (Some(cert), Some(ca)) = (pem.and_then(|pem| Seen::of(&pem)), Seen::of(&entry.ca.cert)) else {
        return false;
    };
    cert.is_signed_by(&ca)
}

/// Writes the kubeconfig as YAML, and makes sure that the YAML means the same.
fn written(config: &Value) -> Result<String> {
    let lost = |why: String| {
        Error::new(Kind::Local, "cannot write your kubeconfig without losing a part of it").because(why)
    };
    let text = yaml::write(config).map_err(lost)?;
    match yaml::read::<Value>(&text) {
        Ok(again) if again == *config => Ok(text),
        _ => Err(lost("a part of it would not be written as it was read".into())
            .hint("write a separate file with --write FILE, and name both in $KUBECONFIG")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::tests::{NOW, cluster, pki};
    use crate::pki::{ClusterPki, Person};

    const SERVER: &str = "https://10.0.0.11:6443";

    fn merge(theirs: Option<&str>, pki: &ClusterPki) -> Result<Merged> {
        merged(theirs, &pki.entry(&cluster(), SERVER, ("demo", "demo"), &pki.admin))
    }

    fn value(text: &str) -> Value {
        yaml::read(text).unwrap()
    }

    #[test]
    fn a_merge_with_nothing_creates_a_kubeconfig() {
        let pki = pki();
        for nothing in [None, Some(""), Some("# mine\n")] {
            let config = value(&merge(nothing, &pki).unwrap().text.unwrap());
            assert_eq!((&config["kind"], &config["current-context"]), (&json!("Config"), &json!("demo")));
            assert_eq!(config["clusters"][0]["cluster"]["server"], SERVER);
        }
    }

    const THEIRS: &str = "# for work\napiVersion: v1\nkind: Config\npreferences: {colors: true}\n\
        clusters:\n- name: work\n  cluster: {server: 'https://work', insecure-skip-tls-verify: true}\n\
        users:\n- name: me\n  user:\n    exec: {command: login, args: ['0123', 'no', '1e3', '~'], env: null}\n\
        contexts:\n- name: work\n  context: {cluster: work, user: me, namespace: shop}\n\
        current-context: work\nextensions: [{name: x, extension: {a: 1.5, b: 'yes'}}]\n";

    #[test]
    fn a_merge_loses_only_comments_and_is_idempotent() {
        let pki = pki();
        let merged = merge(Some(THEIRS), &pki).unwrap();
        assert!(merged.had_comments);
        let text = merged.text.unwrap();
        let (before, mut after) = (value(THEIRS), value(&text));
        for list in ["clusters", "users", "contexts"] {
            let entries = after[list].as_array_mut().unwrap();
            assert_eq!((entries.len(), entries.pop().unwrap()["name"].as_str()), (2, Some("demo")), "{list}");
        }
        assert_eq!(after, before);
        assert_eq!(merge(Some(&text), &pki).unwrap().text, None);
    }

    #[test]
    fn a_merge_keeps_added_fields_and_updates_old_ones() {
        let mut pki = pki();
        let text = merge(None, &pki).unwrap().text.unwrap();
        let mut config = value(&text);
        config["clusters"][0]["cluster"]["proxy-url"] = "socks5://localhost:1080".into();
        config["clusters"][0]["cluster"]["server"] = "https://old".into();
        config["contexts"][0]["context"]["namespace"] = "shop".into();
        let person = Person::new("x", &[]).unwrap();
        pki.admin = pki.issue(&person, time::Duration::days(400), NOW).unwrap().0;
        let theirs = yaml::write(&config).unwrap();
        let after = value(&merge(Some(&theirs), &pki).unwrap().text.unwrap());
        assert_eq!(after["contexts"], config["contexts"]);
        assert_eq!(after["clusters"][0]["cluster"]["proxy-url"], "socks5://localhost:1080");
        assert_eq!(after["clusters"][0]["cluster"]["server"], SERVER);
        assert_ne!(after["users"], config["users"]);
    }

    #[test]
    fn a_name_used_for_another_cluster_is_refused() {
        let (ours, other) = (pki(), pki());
        let theirs = merge(None, &other).unwrap().text.unwrap();
        let error = merge(Some(&theirs), &ours).unwrap_err();
        assert_eq!(
            (error.kind, error.what.as_str()),
            (Kind::Refused, "your kubeconfig has another cluster named demo")
        );
        let user = "users: [{name: demo, user: {token: abc}}]";
        assert!(merge(Some(user), &ours).unwrap_err().what.contains("another user"));
        let context = "contexts: [{name: demo, context: {cluster: work, user: me}}]";
        assert!(merge(Some(context), &ours).unwrap_err().what.contains("another context"));
    }

    #[test]
    fn an_error_shows_no_line_of_a_broken_kubeconfig() {
        let broken = "users:\n- name: a\n  user:\n    token: sesame-one\n   x: sesame-two\n    username: sesame-three\n";
        let error = merge(Some(broken), &pki()).unwrap_err();
        assert!(!error.to_string().contains("sesame"), "{error}");
        assert!(!error.cause.is_empty(), "{error}");
    }

    #[test]
    fn text_that_is_no_kubeconfig_is_refused() {
        for wrong in [
            "a: [",
            "[]",
            "kind: Pod",
            "clusters: 3",
            "just words",
            "current-context: [work]",
            "current-context: 0",
        ] {
            assert_eq!(merge(Some(wrong), &pki()).unwrap_err().kind, Kind::Local, "{wrong}");
        }
    }
}
