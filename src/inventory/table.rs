//! Reads TOML tables by the list of fields: whatever is unknown, missing or of the wrong shape is a mistake,
//! and what is right can be had by name. Not what the values mean.

use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fields::{Field, Need, ROOT, Shape, nearest};
use super::mistake::{Mistakes, Span};

/// A piece of text, and where it is written.
#[derive(Clone, Debug)]
pub struct Text<'a> {
    pub is: &'a str,
    pub at: Span,
}

/// A table of the inventory. Its fields have their shapes, or count as not written: `check` reported them.
#[derive(Clone)]
pub struct Table<'a> {
    /// As it is written in brackets: `nodes.m1`.
    pub path: String,
    /// Where its name is written.
    pub at: Span,
    fields: &'static [Field],
    values: Option<&'a DeTable<'a>>,
}

impl<'a> Table<'a> {
    pub fn root(values: &'a DeTable<'a>) -> Self {
        Table { path: String::new(), at: 0..0, fields: ROOT, values: Some(values) }
    }

    /// The table called `name`; an empty one where there is none.
    pub fn table(&self, name: &str) -> Table<'a> {
        let (at, values) = match self.entry(name) {
            Some((key, value)) => (key.span(), value.get_ref().as_table()),
            None => (self.at.clone(), None),
        };
        Table { path: self.path_to(name), at, fields: self.field(name).shape.fields(), values }
    }

    /// The tables of the table called `name`, in the order of the file, each with its name.
    pub fn named(&self, name: &str) -> Vec<(Text<'a>, Table<'a>)> {
        let parent = self.table(name);
        let tables = parent.entries().into_iter().filter_map(|(key, value)| {
            let values = Some(value.get_ref().as_table()?);
            let (is, at) = (key.get_ref().as_ref(), key.span());
            let table = Table { path: parent.path_to(is), at: at.clone(), fields: parent.fields, values };
            Some((Text { is, at }, table))
        });
        tables.collect()
    }

    /// Is it written in the file?
    pub fn is_written(&self) -> bool {
        self.values.is_some()
    }

    /// Where `name` is written; where it is not, its table.
    pub fn at(&self, name: &str) -> Span {
        self.entry(name).map_or(self.at.clone(), |(_, value)| value.span())
    }

    fn key_at(&self, name: &str) -> Span {
        self.entry(name).map_or(self.at.clone(), |(key, _)| key.span())
    }

    /// The value as it is written, of whatever shape.
    pub fn value(&self, name: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.entry(name).map(|(_, value)| value)
    }

    /// What is written or the default.
    pub fn text(&self, name: &str) -> Option<Text<'a>> {
        match self.value(name) {
            Some(value) => Some(Text { is: value.get_ref().as_str()?, at: value.span() }),
            None => Some(Text { is: self.default(name)?, at: self.at.clone() }),
        }
    }

    /// The strings of an array; those that are none are left out.
    pub fn texts(&self, name: &str) -> Vec<Text<'a>> {
        let Some(array) = self.value(name).and_then(|value| value.get_ref().as_array()) else {
            return vec![];
        };
        let text =
            |value: &'a Spanned<DeValue<'a>>| Some(Text { is: value.get_ref().as_str()?, at: value.span() });
        array.iter().filter_map(text).collect()
    }

    /// The names and strings of a table; those that are none are left out.
    pub fn pairs(&self, name: &str) -> Vec<(Text<'a>, Text<'a>)> {
        let pairs = self.table(name).entries().into_iter().filter_map(|(key, value)| {
            let text = Text { is: value.get_ref().as_str()?, at: value.span() };
            Some((Text { is: key.get_ref().as_ref(), at: key.span() }, text))
        });
        pairs.collect()
    }

    pub fn switch(&self, name: &str) -> bool {
        let written = self.value(name).and_then(|value| value.get_ref().as_bool());
        written.unwrap_or(self.default(name) == Some("true"))
    }

    /// A port, from 1 on.
    pub fn port(&self, name: &str, mistakes: &mut Mistakes) -> Option<u16> {
        let Some(value) = self.value(name) else {
            return self.default(name).and_then(|port| u16::from_str(port).ok());
        };
        let number = value.get_ref().as_integer()?;
        let port = u16::from_str_radix(number.as_str(), number.radix()).ok().filter(|port| *port > 0);
        if port.is_none() {
            mistakes.add(&value.span(), "a port is a number from 1 to 65535");
        }
        port
    }

    /// Everything in it, in the order of the file.
    pub fn entries(&self) -> Vec<(&'a Spanned<toml::de::DeString<'a>>, &'a Spanned<DeValue<'a>>)> {
        let mut entries: Vec<_> = self.values.into_iter().flatten().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        entries
    }

    fn entry(&self, name: &str) -> Option<(&'a Spanned<toml::de::DeString<'a>>, &'a Spanned<DeValue<'a>>)> {
        self.values?.get_key_value(name)
    }

    fn field(&self, name: &str) -> &'static Field {
        let field = self.fields.iter().find(|field| field.name == name);
        field.expect("the reader asks only for fields of the list")
    }

    fn default(&self, name: &str) -> Option<&'static str> {
        match self.field(name).need {
            Need::Default(value) => Some(value),
            _ => None,
        }
    }

    fn path_to(&self, name: &str) -> String {
        let bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let name = match !name.is_empty() && name.chars().all(bare) {
            true => name.to_string(),
            false => format!("{name:?}"),
        };
        match self.path.is_empty() {
            true => name,
            false => format!("{}.{name}", self.path),
        }
    }

    /// Reports what is unknown, missing, or has the wrong shape, here and in all tables beneath.
    pub fn check(&self, mistakes: &mut Mistakes) {
        let mut meant = vec![];
        for (key, value) in self.entries() {
            match self.fields.iter().find(|field| field.name == key.get_ref().as_ref()) {
                Some(field) => self.check_field(field, value, mistakes),
                None => meant.extend(self.unknown(key, value, mistakes)),
            }
        }
        for field in self.fields {
            let Need::Required(example) = field.need else { continue };
            // A misspelt field is one mistake, not two.
            if self.entry(field.name).is_some() || meant.contains(&field.name) {
                continue;
            }
            match self.path.is_empty() {
                true => mistakes.add_missing(format!("{example} is missing: {}", field.doc)),
                false => mistakes.add_help(
                    &self.at,
                    format!("[{}] lacks `{}`: {}", self.path, field.name, field.doc),
                    format!("as in {example}"),
                ),
            }
        }
    }

    fn check_field(&self, field: &'static Field, value: &Spanned<DeValue>, mistakes: &mut Mistakes) {
        let is = value.get_ref();
        let wrong = || format!("`{}` is {}, not {}", field.name, field.shape.name(), kind(is));
        match (&field.shape, is) {
            (Shape::Text | Shape::Network, DeValue::String(_))
            | (Shape::Integer, DeValue::Integer(_))
            | (Shape::Switch, DeValue::Boolean(_))
            | (Shape::Open, DeValue::Table(_)) => {}
            (Shape::Table(_) | Shape::Network, DeValue::Table(_)) => self.table(field.name).check(mistakes),
            (Shape::Named(_), DeValue::Table(table)) => {
                if let (true, Need::Required(example)) = (table.is_empty(), &field.need) {
                    let says = format!("[{}] is empty; it says {}", field.name, field.doc);
                    mistakes.add_help(&self.key_at(field.name), says, format!("as in {example}"));
                }
                for (key, value) in table.iter().filter(|(_, value)| !value.get_ref().is_table()) {
                    let path = self.path_to(field.name);
                    let says = format!(
                        "every entry of [{path}] is a table of its own, not {}",
                        kind(value.get_ref())
                    );
                    mistakes.add_help(&key.span(), says, format!("as in [{path}.{}]", key.get_ref()));
                }
                self.named(field.name).iter().for_each(|(_, table)| table.check(mistakes));
            }
            (Shape::Texts, DeValue::Array(values)) => {
                for value in values.iter().filter(|value| !value.get_ref().is_str()) {
                    let says = format!(
                        "`{}` is {}, and this is {}",
                        field.name,
                        field.shape.name(),
                        kind(value.get_ref())
                    );
                    mistakes.add(&value.span(), says);
                }
            }
            (Shape::Pairs, DeValue::Table(values)) => {
                for (key, value) in values.iter().filter(|(_, value)| !value.get_ref().is_str()) {
                    let says =
                        format!("`{}` is a string, in quotes, not {}", key.get_ref(), kind(value.get_ref()));
                    mistakes.add(&value.span(), says);
                }
            }
            (Shape::Text, DeValue::Integer(_) | DeValue::Float(_) | DeValue::Boolean(_)) => {
                mistakes.add_help(&value.span(), wrong(), "put it in quotes");
            }
            (Shape::Texts, DeValue::String(text)) => {
                mistakes.add_help(&value.span(), wrong(), format!("as in {} = [{text:?}]", field.name));
            }
            _ => mistakes.add(&value.span(), wrong()),
        }
    }

    /// Reports a key that is not in the list; gives the name that was probably meant.
    fn unknown(
        &self,
        key: &Spanned<toml::de::DeString>,
        value: &Spanned<DeValue>,
        mistakes: &mut Mistakes,
    ) -> Option<&'static str> {
        let word = key.get_ref().as_ref();
        let meant = nearest(word, self.fields.iter().map(|field| field.name));
        let elsewhere = ROOT.iter().find(|table| table.shape.fields().iter().any(|field| field.name == word));
        let at = &key.span();
        if self.path.is_empty() {
            let says = match (meant, elsewhere) {
                (Some(name), _) => format!("no such table; did you mean [{name}]?"),
                (_, Some(table)) => format!("no such table; `{word}` belongs in [{}]", table.name),
                _ => format!("no such table; there are {}", names(self.fields)),
            };
            mistakes.add(at, says);
            return meant;
        }
        let says = format!("no such field in [{}]", self.path);
        match (meant, elsewhere) {
            (Some(name), _) => mistakes.add(at, format!("{says}; did you mean `{name}`?")),
            (_, Some(table)) => mistakes.add(at, format!("{says}; `{word}` belongs in [{}]", table.name)),
            _ if value.get_ref().is_table() && self.path.starts_with("nodes.") => {
                let name = format!("{}.{word}", self.path.trim_start_matches("nodes."));
                let help =
                    format!("a name with dots is written in quotes: [nodes.\"{}\"]", name.replace('"', ""));
                mistakes.add_help(at, says, help);
            }
            _ => mistakes.add(at, format!("{says}; there are {}", names(self.fields))),
        }
        meant
    }
}

fn names(fields: &[Field]) -> String {
    fields.iter().map(|field| field.name).collect::<Vec<_>>().join(", ")
}

/// What a value is, with its article.
pub fn kind(value: &DeValue) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}
