//! Reads TOML tables by the list of fields. Values are found by name, with the place where they are written. A value of
//! the wrong shape counts as not written, and `shape` reports it.

use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::diagnostic::{Mistakes, Span};
use super::fields::{Field, Need, ROOT};

/// A piece of text, and where it is written.
#[derive(Clone, Debug)]
pub struct Text<'a> {
    pub is: &'a str,
    pub at: Span,
}

/// A key and its value.
pub type Entry<'a> = (&'a Spanned<DeString<'a>>, &'a Spanned<DeValue<'a>>);

/// A table of the inventory.
#[derive(Clone)]
pub struct Table<'a> {
    /// The path as it is written in brackets, such as `nodes.m1`.
    pub path: String,
    /// Where the name of the table is written.
    pub at: Span,
    pub fields: &'static [Field],
    values: Option<&'a DeTable<'a>>,
}

impl<'a> Table<'a> {
    pub fn root(values: &'a DeTable<'a>) -> Self {
        Table { path: String::new(), at: 0..0, fields: ROOT, values: Some(values) }
    }

    /// The table called `name`. It is empty if the file has none.
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

    /// Whether the table is written in the file.
    pub fn is_written(&self) -> bool {
        self.values.is_some()
    }

    /// Where the value of `name` is written. Without a value, this is the place of the table.
    pub fn at(&self, name: &str) -> Span {
        self.entry(name).map_or(self.at.clone(), |(_, value)| value.span())
    }

    /// Where the key `name` is written. Without it, this is the place of the table.
    pub fn key_at(&self, name: &str) -> Span {
        self.entry(name).map_or(self.at.clone(), |(key, _)| key.span())
    }

    /// The value as it is written, of any shape.
    pub fn value(&self, name: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.entry(name).map(|(_, value)| value)
    }

    /// The text that is written, or the default.
    pub fn text(&self, name: &str) -> Option<Text<'a>> {
        match self.value(name) {
            Some(value) => Some(Text { is: value.get_ref().as_str()?, at: value.span() }),
            None => Some(Text { is: self.default(name)?, at: self.at.clone() }),
        }
    }

    /// The strings of an array. Other values are left out.
    pub fn texts(&self, name: &str) -> Vec<Text<'a>> {
        let Some(array) = self.value(name).and_then(|value| value.get_ref().as_array()) else {
            return vec![];
        };
        let text =
            |value: &'a Spanned<DeValue<'a>>| Some(Text { is: value.get_ref().as_str()?, at: value.span() });
        array.iter().filter_map(text).collect()
    }

    /// The names and strings of a table. Entries with other values are left out.
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

    /// A port from 1 to 65535. Another number is a mistake.
    pub fn port(&self, name: &str, mistakes: &mut Mistakes) -> Option<u16> {
        let Some(value) = self.value(name) else {
            return self.default(name).and_then(|port| u16::from_str(port).ok());
        };
        let number = value.get_ref().as_integer()?;
        let port = u16::from_str_radix(number.as_str(), number.radix()).ok().filter(|port| *port > 0);
        if port.is_none() {
            mistakes.add(&value.span(), "a port must be a number from 1 to 65535");
        }
        port
    }

    /// All entries of the table, in the order of the file.
    pub fn entries(&self) -> Vec<Entry<'a>> {
        let mut entries: Vec<_> = self.values.into_iter().flatten().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        entries
    }

    fn entry(&self, name: &str) -> Option<Entry<'a>> {
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

    /// The path of a table in this one, as it is written in brackets.
    pub fn path_to(&self, name: &str) -> String {
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
}
