//! Renders the files that ironstrap writes, from `templates/`, and merges settings of the inventory over them.

use std::sync::LazyLock;

use serde_json::{Map, Value};
use tera::{Context, Tera};

use crate::error::{Error, Kind, Result};
use crate::yaml;

/// Every template, by name.
const TEMPLATES: &[(&str, &str)] = &[
    ("administrators.yaml", include_str!("../templates/administrators.yaml")),
    ("bootstrap.yaml", include_str!("../templates/bootstrap.yaml")),
    ("containerd.toml", include_str!("../templates/containerd.toml")),
    ("coredns.yaml", include_str!("../templates/coredns.yaml")),
    ("flannel.yaml", include_str!("../templates/flannel.yaml")),
    ("hosts.toml", include_str!("../templates/hosts.toml")),
    ("inventory.toml", include_str!("../templates/inventory.toml")),
    ("kube-proxy.yaml", include_str!("../templates/kube-proxy.yaml")),
    ("kubeadm-init.yaml", include_str!("../templates/kubeadm-init.yaml")),
    ("kubeadm-join.yaml", include_str!("../templates/kubeadm-join.yaml")),
    ("rbac.yaml", include_str!("../templates/rbac.yaml")),
];

/// Renders a template; a variable that is not in `values` is an error.
pub fn render(name: &str, values: Value) -> Result<String> {
    let wrong =
        |e: tera::Error| Error::new(Kind::Local, format!("cannot render {name}")).because(e.to_string());
    let all = parsed().as_ref().map_err(Clone::clone)?;
    all.render(name, &Context::from_serialize(&values).map_err(wrong)?).map_err(wrong)
}

/// All templates. They are parsed once, because a run renders some of them each time it observes a node.
fn parsed() -> &'static Result<Tera> {
    static PARSED: LazyLock<Result<Tera>> = LazyLock::new(|| {
        let mut tera = Tera::default();
        tera.autoescape_on(Vec::<&str>::new());
        let wrong = |e: tera::Error| Error::new(Kind::Local, "cannot read a template").because(e.to_string());
        tera.add_raw_templates(TEMPLATES.to_vec()).map_err(wrong)?;
        Ok(tera)
    });
    &PARSED
}

/// Parses the documents of a YAML text. `name` is for the error.
pub fn documents(name: &str, text: &str) -> Result<Vec<Value>> {
    let wrong = |why: String| Error::new(Kind::Inventory, format!("cannot read {name}")).because(why);
    yaml::read_all(text).map_err(wrong)
}

/// Writes documents one after the other, as one YAML text.
pub fn yaml(documents: &[Value]) -> Result<String> {
    let wrong = |why: String| Error::new(Kind::Local, "cannot write YAML").because(why);
    let texts: Result<Vec<String>> = documents.iter().map(|d| yaml::write(d).map_err(wrong)).collect();
    Ok(texts?.join("---\n"))
}

/// Merges `over` into `base`: tables are merged, and everything else is replaced.
pub fn merge(base: &mut Value, over: &Map<String, Value>) {
    let Value::Object(base) = base else { return };
    for (key, value) in over {
        match (base.get_mut(key), value) {
            (Some(mine @ Value::Object(_)), Value::Object(theirs)) => merge(mine, theirs),
            _ => drop(base.insert(key.clone(), value.clone())),
        }
    }
}

/// Merges `over` into `base` in the same way, for TOML.
pub fn merge_toml(base: &mut toml::Table, over: &toml::Table) {
    for (key, value) in over {
        match (base.get_mut(key), value) {
            (Some(toml::Value::Table(mine)), toml::Value::Table(theirs)) => merge_toml(mine, theirs),
            _ => drop(base.insert(key.clone(), value.clone())),
        }
    }
}
