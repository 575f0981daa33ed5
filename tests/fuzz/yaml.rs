//! Fuzzes the reader and the writer of YAML. Parsers of YAML 1.1 and 1.2 read back what the writer wrote.

use std::sync::LazyLock;

use ironstrap::{inventory, template, yaml};
use regex::Regex;
use serde_json::{Value, json};

use crate::support::fuzz;

/// The pieces of strings and keys. Some look like other types to one of the readers. Others are delimiters, blanks and all
/// kinds of line breaks.
const PIECES: &[&str] = &[
    "y",
    "N",
    "yes",
    "no",
    "on",
    "Off",
    "true",
    "FALSE",
    "null",
    "Null",
    "~",
    "<<",
    "=",
    "0",
    "7",
    "9",
    "0644",
    "0o17",
    "0x1F",
    "0b1",
    "1e3",
    ".5",
    "1.",
    "+1",
    "-0",
    "1_000",
    "e",
    "E+",
    "-",
    "_",
    ".",
    ".inf",
    "-.INF",
    ".nan",
    "NaN",
    "12:30",
    "190:20:30.5",
    "2001-12-14",
    "t21:59:43.10-05:00",
    " ",
    "  ",
    "\t",
    "\n",
    "\n\n",
    "\r",
    "\r\n",
    "\u{85}",
    "\u{2028}",
    "\u{2029}",
    "\u{feff}",
    "\0",
    "\u{7}",
    "\u{1b}",
    "\u{7f}",
    "\u{9b}",
    "\u{a0}",
    "\u{3000}",
    "\u{fffd}",
    "\u{fffe}",
    "\u{10ffff}",
    "é",
    "語",
    "🦀",
    "a",
    "b c",
    "word ",
    "#",
    " #",
    ": ",
    ":",
    "- ",
    "? ",
    "?",
    ",",
    "[",
    "]",
    "{",
    "}",
    "&a ",
    "*a",
    "!",
    "!!str ",
    "|",
    ">",
    "|2-\n",
    "@",
    "`",
    "%",
    "%YAML 1.1\n",
    "'",
    "''",
    "\"",
    "\\",
    "\\n",
    "---",
    "--- ",
    "\n---\n",
    "...",
    "\n...\n",
    "\n  ",
    "\n\t",
    "  \n",
    "a long line that a writer may fold where it has a blank, since it has more than eighty characters ",
];

/// A random value, as in manifests and configurations.
fn value(random: &mut fuzz::Random, depth: usize) -> Value {
    match random.below(if depth == 0 { 8 } else { 12 }) {
        0 => Value::Null,
        1 => (random.below(2) == 0).into(),
        2 => (random.next() as i64 >> random.below(64)).into(),
        3 => (random.next() >> random.below(64)).into(),
        4 => json!(f64::from_bits(random.next())),
        5 => json!((random.next() as i32 as f64) / 1000.0),
        6 | 7 => random.several(PIECES, 6).into(),
        8 | 9 => (0..random.below(4)).map(|_| value(random, depth - 1)).collect(),
        _ => Value::Object(
            (0..random.below(4)).map(|_| (random.several(PIECES, 4), value(random, depth - 1))).collect(),
        ),
    }
}

/// A deeply nested value of lists and tables in random order.
fn deep(random: &mut fuzz::Random) -> Value {
    let mut value = value(random, 1);
    for _ in 0..random.below(50) {
        value = match random.below(3) {
            0 => json!([value]),
            1 => json!([random.several(PIECES, 2), value]),
            _ => json!({random.several(PIECES, 2): value}),
        };
    }
    value
}

/// Words that PyYAML or Go's yaml.v2 do not read as a string: booleans, null, the merge key, times, and numbers in base 60.
static WORDS: LazyLock<Regex> = LazyLock::new(|| {
    let zone = r"(?:[ \t]*(?:z|[-+][0-9][0-9]?(?::[0-9]{2})?))?";
    let time = format!(r"(?:(?:t|[ \t]+)[0-9][0-9]?:[0-9]{{2}}:[0-9]{{2}}(?:\.[0-9]*)?{zone})?");
    let date = r"[0-9]{4}-[0-9][0-9]?-[0-9][0-9]?";
    let words = r"|~|null|<<|=|y|n|yes|no|on|off|true|false|[-+]?\.inf|\.nan";
    let base60 = r"[-+]?(?:[1-9][0-9_]*(?::[0-5]?[0-9])+|[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*)";
    Regex::new(&format!("(?i-u)^(?:{words}|{date}{time}|{base60})$")).unwrap()
});
/// The other numbers, in any base and without `_`.
static NUMBERS: LazyLock<Regex> = LazyLock::new(|| {
    let all = [r"0b[01]+|0o[0-7]+|0x[0-9a-f]+|[0-9]+", r"(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:e[-+]?[0-9]+)?"];
    Regex::new(&format!("(?i-u)^[-+]?(?:{})$", all.join("|"))).unwrap()
});

fn is_no_string(word: &str) -> bool {
    let begins_a_number = word.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c));
    WORDS.is_match(word) || begins_a_number && NUMBERS.is_match(&word.replace('_', ""))
}

/// Returns whether a key or a value is written without quotes and not as a block.
fn is_plain(written: &str) -> bool {
    !written.starts_with(['"', '\'', '|', '>', '?'])
}

fn is_quoted_where_it_must_be(text: &str) {
    let as_value = yaml::write(&json!({"k": text})).unwrap();
    let as_key = yaml::write(&json!({text: "v"})).unwrap();
    for written in [as_value.strip_prefix("k: ").unwrap(), as_key.as_str()] {
        assert!(!is_plain(written) || !is_no_string(text), "{text:?} is written as {written:?}");
    }
}

/// Collects every string of a value, including keys.
fn strings<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => found.push(text),
        Value::Array(all) => all.iter().for_each(|one| strings(one, found)),
        Value::Object(all) => all.iter().for_each(|(key, one)| {
            found.push(key);
            strings(one, found);
        }),
        _ => {}
    }
}

/// Returns whether a reader of YAML 1.1 treats a character as a line break, or rejects it.
fn breaks_readers(c: char) -> bool {
    !matches!(c, '\n' | '\t')
        && (c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}'))
}

fn survives(documents: &[Value]) {
    let text = template::yaml(documents).unwrap();
    assert!(!text.contains(breaks_readers), "{text:?}");
    // A reader of YAML 1.1 may treat a leading tab as indentation.
    assert!(!text.lines().any(|line| line.trim_start_matches(' ').starts_with('\t')), "{text:?}");
    assert!(!text.starts_with('{') || documents[0] == json!({}), "{text}");
    assert_eq!(template::documents("x.yaml", &text).unwrap(), documents, "{text}");
    if let [document] = documents {
        assert_eq!(yaml::read::<Value>(&text).as_ref(), Ok(document), "{text}");
    }
}

#[test]
fn written_yaml_reads_back_equal() {
    let make = |random: &mut fuzz::Random| -> Vec<Value> {
        let one = |random: &mut fuzz::Random| {
            let value = if random.below(8) == 0 { deep(random) } else { value(random, 4) };
            json!({ random.several(PIECES, 3): value })
        };
        (0..=random.below(3)).map(|_| one(random)).collect()
    };
    fuzz::each(600, make, |documents| {
        survives(documents);
        let mut found = Vec::new();
        documents.iter().for_each(|document| strings(document, &mut found));
        found.into_iter().for_each(is_quoted_where_it_must_be);
    });
}

const MANIFEST: &str = include_str!("../../templates/flannel.yaml");
const TRAPS: &str = "%YAML 1.1\n---\nkind: ConfigMap\napiVersion: v1\nmetadata: {name: a, labels: &l {b: 'yes', \"c\": no}}\n\
    data:\n  a: |\n    one\n\n     two\n  b: >-\n    folded\n    twice\n  ? c\n  : !!binary aGk=\n  d: *l\n  <<: *l\n  e: 0644\n\
    ...\n---\nkind: List\nitems:\n- {kind: Secret, apiVersion: v1, metadata: {name: s}}\n- [~, .5, 1_000, 0x1F, 2001-01-01]\n";

#[test]
fn a_mutated_manifest_does_not_break_the_reader() {
    let deep = ["[".repeat(3000), "- ".repeat(3000), "{a: ".repeat(3000), "? ".repeat(3000)];
    let aliases = (0..15).fold("a: &a0 [x]\n".to_string(), |text, n| {
        format!("{text}b{n}: &a{} [*a{n}, *a{n}, *a{n}]\n", n + 1)
    });
    let mut seeds = vec![MANIFEST, TRAPS, &aliases];
    seeds.extend(deep.iter().map(String::as_str));
    fuzz::each(
        60,
        |random| random.text(&seeds),
        |text| {
            let _ = inventory::objects(text, "x.yaml");
            let Ok(documents) = yaml::read_all(text) else { return };
            let objects: Vec<Value> = documents.into_iter().filter(Value::is_object).collect();
            if !objects.is_empty() {
                survives(&objects);
            }
        },
    );
}
