//! Explains all fields of the inventory, for the terminal, for the documentation, and for editors. The texts come from
//! the list of fields.

use serde_json::{Map, Value, json};

use super::fields::{Field, Need, ROOT, Shape, nearest};
use crate::error::{Error, Kind, Result};

/// The example inventory with every field.
const FULL: &str = include_str!("../../inventories/full.toml");

/// A field with its table, as people write that: `nodes.NAME`. If the field is a table itself, `table` is empty.
struct Place {
    table: String,
    field: &'static Field,
}

impl Place {
    fn name(&self) -> String {
        match self.table.is_empty() {
            true => format!("[{}]", header(self.field)),
            false => format!("[{}] {}", self.table, self.field.name),
        }
    }
}

/// The name of a table as it is written in brackets.
fn header(table: &Field) -> String {
    match table.shape {
        Shape::Named(_) => format!("{}.NAME", table.name),
        _ => table.name.into(),
    }
}

/// Explains a table or a field: `nodes`, `nodes.taints`, `nodes.m1.taints` or `taints`. `None` lists all tables.
///
/// # Errors
/// `Kind::Usage` if there is no such field. The hint names the one that was probably meant, if any.
pub fn explain(path: Option<&str>) -> Result<String> {
    let Some(path) = path else {
        let tables =
            ROOT.iter().map(|table| format!("{:<22} {}\n", format!("[{}]", header(table)), table.doc));
        return Ok(tables.collect::<String>() + "\nA table or a field: ironstrap explain nodes.taints\n");
    };
    let found = find(path);
    if found.is_empty() {
        let error = Error::new(Kind::Usage, format!("the inventory has no table or field {path:?}"));
        return Err(error.hint(match meant(path) {
            Some(name) => format!("did you mean {name}? `ironstrap explain` lists all tables"),
            None => "`ironstrap explain` lists all tables".into(),
        }));
    }
    Ok(found.iter().map(explained).collect::<Vec<_>>().join("\n"))
}

/// The table or field that was probably meant. It comes with its table, if `path` names one.
fn meant(path: &str) -> Option<String> {
    let (first, last) = (path.split('.').next()?, path.rsplit('.').next()?);
    if let Some(table) = ROOT.iter().find(|table| table.name == first) {
        let name = nearest(last, table.shape.fields().iter().map(|field| field.name))?;
        return Some(format!("{first}.{name}"));
    }
    let names = ROOT.iter().flat_map(|table| std::iter::once(table).chain(table.shape.fields()));
    nearest(last, names.map(|field| field.name)).map(String::from)
}

fn find(path: &str) -> Vec<Place> {
    let words: Vec<&str> = path.trim_matches(['[', ']']).split('.').collect();
    let (first, last) = (words[0], words[words.len() - 1]);
    if let Some(table) = ROOT.iter().find(|table| table.name == first) {
        let is_open = matches!(table.shape, Shape::Open);
        if let Some(field) = within(table, &words) {
            return vec![Place { table: header(table), field }];
        }
        let field = table.shape.fields().iter().find(|field| field.name == last).filter(|_| words.len() > 1);
        return match field {
            Some(field) => vec![Place { table: header(table), field }],
            None if words.len() == 1 || is_open || is_name(table, last) => {
                vec![Place { table: String::new(), field: table }]
            }
            None => vec![],
        };
    }
    let in_table = |table: &'static Field| {
        let field = table.shape.fields().iter().find(|field| field.name == path)?;
        Some(Place { table: header(table), field })
    };
    ROOT.iter().filter_map(in_table).collect()
}

/// The field of this table that contains what a longer path names, such as `network` of `cluster.network.manifests` or
/// `kubelet` of `nodes.m1.kubelet.maxPods`.
fn within(table: &'static Field, words: &[&str]) -> Option<&'static Field> {
    let holds = |field: &&Field| matches!(field.shape, Shape::Network | Shape::Open | Shape::Pairs);
    let at = if matches!(table.shape, Shape::Named(_)) { 2 } else { 1 };
    let name = words.get(at).filter(|_| words.len() > at + 1)?;
    table.shape.fields().iter().filter(holds).find(|field| field.name == *name)
}

/// Whether `word` is the name of an entry of this table, and not a misspelt field.
fn is_name(table: &Field, word: &str) -> bool {
    let fields = table.shape.fields().iter().map(|field| field.name);
    matches!(table.shape, Shape::Named(_)) && nearest(word, fields).is_none()
}

fn explained(place: &Place) -> String {
    let field = place.field;
    let shape = if place.table.is_empty() { String::new() } else { format!(": {}", field.shape.name()) };
    let mut text = format!("{}{shape}\n\n  {}\n", place.name(), field.doc);
    if let Some(need) = need(field) {
        text += &format!("  {need}\n");
    }
    if place.table.is_empty() {
        for inner in field.shape.fields() {
            text += &format!("\n  {:<18} {}", inner.name, inner.doc);
        }
        if !field.shape.fields().is_empty() {
            text += "\n";
        }
    }
    let lines = example(place);
    if !lines.is_empty() {
        text += "\n  Example:\n";
        lines.iter().for_each(|line| text += &format!("    {line}\n"));
    }
    text
}

fn need(field: &Field) -> Option<String> {
    match field.need {
        Need::Required(_) => Some("required".into()),
        Need::Default("") | Need::Optional => None,
        Need::Default(value) => Some(format!("default: {value}")),
    }
}

/// The lines of the full example about a field, or about a table whose fields ironstrap does not define.
fn example(place: &Place) -> Vec<String> {
    let table = place.table.split('.').next().unwrap_or_default();
    let name = if place.table.is_empty() { place.field.name } else { table };
    let lines = section(name);
    if place.table.is_empty() {
        return if place.field.shape.fields().is_empty() { lines } else { vec![] };
    }
    let begins = format!("{} = ", place.field.name);
    let of = |line: &&String| line.trim_start_matches("# ").starts_with(&begins);
    let longest = lines.iter().filter(of).max_by_key(|line| line.len());
    longest.map(|line| line.trim_start_matches("# ").to_string()).into_iter().collect()
}

/// The lines of the full example in `[table]` or `[table.…]`, without the comments at their ends.
fn section(table: &str) -> Vec<String> {
    let mut inside = false;
    let mut lines = Vec::new();
    for line in FULL.lines() {
        if let Some(head) = line.strip_prefix('[') {
            inside = head.strip_prefix(table).is_some_and(|rest| rest.starts_with(['.', ']']));
        }
        if inside {
            lines.push(uncommented(line).to_string());
        }
    }
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines.retain(|line| !line.trim().is_empty());
    lines
}

/// A line without the comment at its end.
fn uncommented(line: &str) -> &str {
    let (mut quoted, start) = (false, line.len() - line.trim_start_matches("# ").len());
    for (at, c) in line.char_indices().skip(start) {
        match c {
            '"' => quoted = !quoted,
            '#' if !quoted => return line[..at].trim_end(),
            _ => {}
        }
    }
    line.trim_end()
}

/// The text of the documentation page about the inventory.
pub fn page() -> String {
    let mut text = String::from(
        "# Inventory reference\n\n\
         This page is generated from the list of fields in `src/inventory/fields.rs`. `ironstrap explain FIELD` prints\n\
         a field on a terminal. [inventories/full.toml](../inventories/full.toml) is an inventory with every field.\n\n\
         Paths are relative to the inventory, and `~` is your home. A range in brackets stands for several nodes:\n\
         `[nodes.\"w[1-3]\"]` with `address = \"10.0.0.2[1-3]\"`. Both ranges have the same length.\n\n\
         `ironstrap check` knows every table and field of this page, and the fields of KubeletConfiguration and\n\
         KubeProxyConfiguration. It does not know all flags, feature gates and settings of containerd: a wrong one stops that\n\
         program, and `apply` names it.\n\n\
         For completion and checks in an editor, write `ironstrap schema >ironstrap.schema.json`. Editors that use Taplo, such\n\
         as VS Code with Even Better TOML, need one line at the top of the inventory:\n\n\
         ```toml\n#:schema ./ironstrap.schema.json\n```\n",
    );
    for table in ROOT {
        text += &format!("\n## [{}]\n\n{}.\n", header(table), sentence(table.doc));
        if let Need::Required(_) = table.need {
            text += "This table is required.\n";
        }
        let fields = table.shape.fields();
        if !fields.is_empty() {
            text += "\n| field | value | default | meaning |\n|---|---|---|---|\n";
        }
        for field in fields {
            let default = match field.need {
                Need::Required(_) => "required".to_string(),
                Need::Default("") | Need::Optional => String::new(),
                Need::Default(value) => format!("`{value}`"),
            };
            let shape = field.shape.name().trim_start_matches("a ").trim_start_matches("an ");
            text += &format!("| `{}` | {shape} | {default} | {} |\n", field.name, sentence(field.doc));
        }
        let lines = section(table.name);
        if !lines.is_empty() {
            text += &format!("\n```toml\n{}\n```\n", lines.join("\n"));
        }
    }
    text
}

/// The words with a capital letter in front. Words that begin with code stay as they are.
fn sentence(words: &str) -> String {
    let mut chars = words.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// A JSON Schema of the inventory (draft 2020-12), for editors.
pub fn schema() -> Value {
    let mut schema = table(ROOT);
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("ironstrap inventory");
    schema
}

fn table(fields: &[Field]) -> Value {
    let properties: Map<String, Value> =
        fields.iter().map(|field| (field.name.to_string(), property(field))).collect();
    let required: Vec<&str> = fields
        .iter()
        .filter(|field| matches!(field.need, Need::Required(_)))
        .map(|field| field.name)
        .collect();
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

fn property(field: &Field) -> Value {
    let texts = || json!({"type": "array", "items": {"type": "string"}});
    let mut schema = match &field.shape {
        Shape::Text => json!({"type": "string"}),
        Shape::Integer => json!({"type": "integer"}),
        Shape::Switch => json!({"type": "boolean"}),
        Shape::Choice(values) => json!({"enum": values}),
        Shape::Texts => texts(),
        Shape::Pairs => json!({"type": "object", "additionalProperties": {"type": "string"}}),
        Shape::Network => json!({"anyOf": [{"enum": ["flannel", "none"]}, table(field.shape.fields())]}),
        Shape::Table(fields) => table(fields),
        Shape::Named(fields) => json!({"type": "object", "additionalProperties": table(fields)}),
        Shape::Open => json!({"type": "object"}),
    };
    schema["description"] = json!(sentence(field.doc));
    match (&field.need, &field.shape) {
        (Need::Default(value), Shape::Switch) => schema["default"] = json!(*value == "true"),
        (Need::Default(value), _) => schema["default"] = json!(value),
        (Need::Required(_), Shape::Named(_)) => schema["minProperties"] = json!(1),
        _ => {}
    }
    schema
}
