//! Converts tables with settings of other programs from TOML to the format that those programs read. `reserved` lists
//! the settings that these tables may not have.

use serde_json::{Map, Number, Value};
use toml::Spanned;
use toml::de::{DeInteger, DeValue};

use super::components;
use super::diagnostic::Mistakes;
use super::reserved;
use super::shape::kind;
use super::table::Table;
use crate::cluster::Args;

/// `[name]` as JSON, for the YAML configuration files of Kubernetes 1.`minor`.
pub fn json(root: &Table, name: &str, minor: u64, mistakes: &mut Mistakes) -> Map<String, Value> {
    reserved::check(root, name, mistakes);
    components::check(root, name, minor, mistakes);
    let entries = root.table(name).entries();
    let fields = entries
        .into_iter()
        .filter_map(|(key, value)| Some((key.get_ref().to_string(), to_json(value, mistakes)?)));
    fields.collect()
}

/// `[name]` as TOML.
pub fn toml(root: &Table, name: &str, mistakes: &mut Mistakes) -> toml::Table {
    reserved::check(root, name, mistakes);
    let entries = root.table(name).entries();
    let fields = entries
        .into_iter()
        .filter_map(|(key, value)| Some((key.get_ref().to_string(), to_toml(value, mistakes)?)));
    fields.collect()
}

/// `[name]` as flags.
pub fn args(root: &Table, name: &str, mistakes: &mut Mistakes) -> Args {
    reserved::check(root, name, mistakes);
    let mut args = vec![];
    for (key, value) in root.table(name).entries() {
        let flag = key.get_ref().as_ref();
        if let Some(bare) = flag.strip_prefix('-') {
            let help = format!("as in `{}`", bare.trim_start_matches('-'));
            mistakes.add_help(&key.span(), "write flags without leading dashes", help);
        } else if !is_flag(flag) {
            mistakes.add(&key.span(), "this is not a flag name; these have only a-z, 0-9 and -");
        }
        match value.get_ref() {
            DeValue::Array(elements) if elements.is_empty() => {
                mistakes.add(&value.span(), "an empty array does not set the flag; leave it out");
            }
            DeValue::Array(elements) => {
                let values = elements.iter().filter_map(|element| arg(element, mistakes));
                args.extend(values.map(|value| (flag.to_string(), value)));
            }
            _ => args.extend(arg(value, mistakes).map(|value| (flag.to_string(), value))),
        }
    }
    args
}

fn is_flag(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !name.is_empty() && name.chars().all(inner)
}

fn arg(value: &Spanned<DeValue>, mistakes: &mut Mistakes) -> Option<String> {
    match value.get_ref() {
        DeValue::String(text) if text.contains(['\n', '\0']) => {
            mistakes.add(&value.span(), "a flag's value must be one line");
            None
        }
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Boolean(is) => Some(is.to_string()),
        DeValue::Integer(number) => integer(value, number, mistakes).map(|number| number.to_string()),
        other => {
            let says = "a flag's value must be a string, an integer, true or false, or an array of these";
            mistakes.add(&value.span(), format!("{says}, not {}", kind(other)));
            None
        }
    }
}

fn integer(value: &Spanned<DeValue>, number: &DeInteger, mistakes: &mut Mistakes) -> Option<i64> {
    let parsed = i64::from_str_radix(number.as_str(), number.radix()).ok();
    if parsed.is_none() {
        mistakes.add(&value.span(), "this integer does not fit into 64 bits");
    }
    parsed
}

fn to_json(value: &Spanned<DeValue>, mistakes: &mut Mistakes) -> Option<Value> {
    Some(match value.get_ref() {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Boolean(is) => Value::Bool(*is),
        DeValue::Datetime(time) => Value::String(time.to_string()),
        DeValue::Integer(number) => Value::from(integer(value, number, mistakes)?),
        DeValue::Float(number) => match number.as_str().parse().ok().and_then(Number::from_f64) {
            Some(number) => Value::Number(number),
            None => {
                mistakes.add(&value.span(), "the number must be finite");
                return None;
            }
        },
        DeValue::Array(elements) => {
            Value::Array(elements.iter().filter_map(|element| to_json(element, mistakes)).collect())
        }
        DeValue::Table(table) => {
            let entries = table.iter();
            let fields = entries
                .filter_map(|(key, value)| Some((key.get_ref().to_string(), to_json(value, mistakes)?)));
            Value::Object(fields.collect())
        }
    })
}

fn to_toml(value: &Spanned<DeValue>, mistakes: &mut Mistakes) -> Option<toml::Value> {
    Some(match value.get_ref() {
        DeValue::String(text) => toml::Value::String(text.to_string()),
        DeValue::Boolean(is) => toml::Value::Boolean(*is),
        DeValue::Datetime(time) => toml::Value::Datetime(*time),
        DeValue::Integer(number) => toml::Value::Integer(integer(value, number, mistakes)?),
        DeValue::Float(number) => toml::Value::Float(number.as_str().parse().ok()?),
        DeValue::Array(elements) => {
            toml::Value::Array(elements.iter().filter_map(|element| to_toml(element, mistakes)).collect())
        }
        DeValue::Table(table) => {
            let entries = table.iter();
            let fields = entries
                .filter_map(|(key, value)| Some((key.get_ref().to_string(), to_toml(value, mistakes)?)));
            toml::Value::Table(fields.collect())
        }
    })
}
