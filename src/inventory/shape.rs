//! Compares the file with the list of fields. Reports what is unknown, missing, or of the wrong shape. Other modules
//! check the meaning of values.

use toml::Spanned;
use toml::de::DeValue;

use super::diagnostic::Mistakes;
use super::doubt::LOG_IN;
use super::fields::{Field, Need, ROOT, Shape, has_no_secret, nearest};
use super::table::{Entry, Table};

/// Reports mistakes in this table and in all tables below it.
pub fn check(table: &Table, mistakes: &mut Mistakes) {
    let mut excused = vec![];
    for (key, value) in table.entries() {
        match table.fields.iter().find(|field| field.name == key.get_ref().as_ref()) {
            Some(field) => check_value(table, field, value, mistakes),
            None => excused.extend(unknown(table, (key, value), mistakes)),
        }
    }
    for field in table.fields {
        let Need::Required(example) = field.need else { continue };
        if table.value(field.name).is_some() || excused.contains(&field.name) {
            continue;
        }
        match table.path.is_empty() {
            true => mistakes.add_missing(format!("[{}] is missing: {}", field.name, field.summary())),
            false => mistakes.add_help(
                &table.at,
                format!("[{}] lacks `{}`: {}", table.path, field.name, field.summary()),
                format!("as in {example}"),
            ),
        }
    }
}

fn check_value(table: &Table, field: &'static Field, value: &Spanned<DeValue>, mistakes: &mut Mistakes) {
    match (&field.shape, value.get_ref()) {
        (Shape::Text | Shape::Choice(_) | Shape::Network, DeValue::String(_))
        | (Shape::Integer, DeValue::Integer(_))
        | (Shape::Switch, DeValue::Boolean(_))
        | (Shape::Open, DeValue::Table(_)) => {}
        (Shape::Table(_) | Shape::Network, DeValue::Table(_)) => check(&table.table(field.name), mistakes),
        (Shape::Named(_), DeValue::Table(_)) => check_named(table, field, mistakes),
        (Shape::Texts, DeValue::Array(values)) => {
            for value in values.iter().filter(|value| !value.get_ref().is_str()) {
                let (shape, is) = (field.shape.name(), kind(value.get_ref()));
                mistakes.add(&value.span(), format!("`{}` must be {shape}, but this is {is}", field.name));
            }
        }
        (Shape::Pairs, DeValue::Table(values)) => {
            for (key, value) in values.iter().filter(|(_, value)| !value.get_ref().is_str()) {
                let says =
                    format!("`{}` must be a string in quotes, not {}", key.get_ref(), kind(value.get_ref()));
                mistakes.add(&value.span(), says);
            }
        }
        _ => wrong(field, value, mistakes),
    }
}

fn check_named(table: &Table, field: &Field, mistakes: &mut Mistakes) {
    let parent = table.table(field.name);
    let entries = parent.entries();
    if let (true, Need::Required(example)) = (entries.is_empty(), &field.need) {
        let says = format!("[{}] is empty; it must list {}", field.name, field.summary());
        mistakes.add_help(&table.key_at(field.name), says, format!("as in {example}"));
    }
    for (key, value) in entries.iter().filter(|(_, value)| !value.get_ref().is_table()) {
        let is = kind(value.get_ref());
        let says = format!("every entry of [{}] must be a table, not {is}", parent.path);
        mistakes.add_help(&key.span(), says, format!("as in [{}]", parent.path_to(key.get_ref())));
    }
    for (_, table) in table.named(field.name) {
        check(&table, mistakes);
    }
}

/// Reports a value of the wrong shape.
fn wrong(field: &Field, value: &Spanned<DeValue>, mistakes: &mut Mistakes) {
    if !has_no_secret(field.name) || field.name == "user" {
        mistakes.hide(&value.span());
    } else if value.get_ref().is_table() {
        hide(value, mistakes);
    }
    let says = format!("`{}` must be {}, not {}", field.name, field.shape.name(), kind(value.get_ref()));
    match (&field.shape, value.get_ref()) {
        (Shape::Text | Shape::Choice(_), DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_)) => {
            let help = match field.need {
                Need::Required(example) => format!("put it in quotes, as in {example}"),
                _ => "put it in quotes".into(),
            };
            mistakes.add_help(&value.span(), says, help);
        }
        (Shape::Texts, DeValue::String(text)) => {
            let text = if text.contains([':', '@']) { "…" } else { text };
            let words: Vec<String> = text.split(',').map(|word| format!("{:?}", word.trim())).collect();
            mistakes.add_help(&value.span(), says, format!("as in {} = [{}]", field.name, words.join(", ")));
        }
        _ => mistakes.add(&value.span(), says),
    }
}

/// Reports a key that is not in the list. Returns the fields that do not count as missing then, because a misspelt
/// field is one mistake and not two.
fn unknown(table: &Table, (key, value): Entry, mistakes: &mut Mistakes) -> Vec<&'static str> {
    let word = key.get_ref().as_ref();
    let meant = nearest(word, table.fields.iter().map(|field| field.name));
    let elsewhere = ROOT.iter().find(|table| table.shape.fields().iter().any(|field| field.name == word));
    let elsewhere = elsewhere.map(|table| match table.shape {
        Shape::Named(_) => format!("`{word}` belongs in [{}.…]", table.name),
        _ => format!("`{word}` belongs in [{}]", table.name),
    });
    let at = &key.span();
    let is_open = meant.into_iter().chain([word]).any(has_no_secret);
    if !is_open || table.path.is_empty() && value.get_ref().is_table() {
        hide(value, mistakes);
    }
    if table.path.is_empty() {
        let says = match (meant, elsewhere) {
            (Some(name), _) => format!("no such table; did you mean [{name}]?"),
            (_, Some(elsewhere)) => format!("no such table; {elsewhere}"),
            _ => format!("no such table; the tables are {}", names(table.fields)),
        };
        mistakes.add(at, says);
        return meant.into_iter().collect();
    }
    let says = format!("no such field in [{}]", table.path);
    match (meant, elsewhere) {
        (Some(name), _) => mistakes.add(at, format!("{says}; did you mean `{name}`?")),
        _ if value.get_ref().is_table() && table.path.starts_with("nodes.") => {
            let name = table.path.trim_start_matches("nodes.").replace('"', "");
            let name = dotted(format!("{name}.{word}"), value.get_ref());
            mistakes.add_help(at, says, format!("write a name with dots in quotes: [nodes.\"{name}\"]"));
            return table.fields.iter().map(|field| field.name).collect();
        }
        _ if word == "password" && (table.path == "ssh" || table.path.starts_with("nodes.")) => {
            mistakes.add_help(at, says, LOG_IN);
        }
        (_, Some(elsewhere)) => mistakes.add(at, format!("{says}; {elsewhere}")),
        _ => mistakes.add(at, format!("{says}; its fields are {}", names(table.fields))),
    }
    meant.into_iter().collect()
}

/// Hides a value that may be a password, such as that of a misspelt key. Only the values in a table are hidden, so its
/// head stays visible.
fn hide(value: &Spanned<DeValue>, mistakes: &mut Mistakes) {
    match value.get_ref() {
        DeValue::Table(values) => values.iter().for_each(|(_, value)| hide(value, mistakes)),
        _ => mistakes.hide(&value.span()),
    }
}

/// The whole name of a node whose dots TOML took for nested tables.
fn dotted(name: String, value: &DeValue) -> String {
    let only = value.as_table().filter(|table| table.len() == 1).and_then(|table| table.iter().next());
    match only.filter(|(_, value)| value.get_ref().is_table()) {
        Some((key, value)) => dotted(format!("{name}.{}", key.get_ref()), value.get_ref()),
        None => name,
    }
}

fn names(fields: &[Field]) -> String {
    fields.iter().map(|field| field.name).collect::<Vec<_>>().join(", ")
}

/// The kind of a value in words, with an article.
pub fn kind(value: &DeValue) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}
