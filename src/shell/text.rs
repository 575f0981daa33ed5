//! A type for text that a shell will run. It consists of constants of this program, of numbers and addresses, and of quoted
//! words. A `String` becomes part of it only as one quoted word, or as the text of a here-document.

use std::borrow::Cow;
use std::fmt::{Display, Formatter};
use std::net::IpAddr;
use std::ops::{Add, AddAssign, Deref};

use ipnet::IpNet;
use semver::Version;
use sha2::{Digest, Sha256};

/// Text that a shell will run: a script, or a part of one.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sh(Cow<'static, str>);

impl Sh {
    pub const EMPTY: Sh = Sh::raw("");

    /// Makes shell from a constant of the program. Never pass a text that is known only at run time.
    pub const fn raw(text: &'static str) -> Sh {
        Sh(Cow::Borrowed(text))
    }

    /// Joins all of these in their order, with `between` between them.
    pub fn join<T: ToSh>(between: &'static str, all: impl IntoIterator<Item = T>) -> Sh {
        let mut text = String::new();
        for (i, one) in all.into_iter().enumerate() {
            text += if i > 0 { between } else { "" };
            text += &one.to_sh().0;
        }
        Sh(Cow::Owned(text))
    }

    /// Returns the same shell, with `by` in place of each `what`.
    pub fn replaced(&self, what: &'static str, by: impl ToSh) -> Sh {
        let (mut text, is_text) = (String::new(), by.is_text());
        let (by, mut quotes) = (by.to_sh(), Quotes::default());
        let mut parts = self.split(what).peekable();
        while let Some(part) = parts.next() {
            text += part;
            quotes.pass(part);
            if parts.peek().is_some() {
                debug_assert!(!quotes.break_at(&by, is_text), "{by} within quotes: {self}");
                text += &by;
            }
        }
        Sh(Cow::Owned(text))
    }

    /// Joins these as a list of words, with spaces between them.
    pub fn words<T: ToSh>(all: impl IntoIterator<Item = T>) -> Sh {
        Sh::join(" ", all)
    }
}

/// Reading the text is harmless. A text made from it is a `String`, which is quoted when it becomes shell again.
impl Deref for Sh {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Display for Sh {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&'static str> for Sh {
    fn from(text: &'static str) -> Sh {
        Sh::raw(text)
    }
}

impl From<&Sh> for Sh {
    fn from(text: &Sh) -> Sh {
        text.clone()
    }
}

impl<T: Into<Sh>> Add<T> for Sh {
    type Output = Sh;

    fn add(mut self, more: T) -> Sh {
        self += more;
        self
    }
}

impl<T: Into<Sh>> AddAssign<T> for Sh {
    fn add_assign(&mut self, more: T) {
        self.0.to_mut().push_str(&more.into());
    }
}

impl FromIterator<Sh> for Sh {
    fn from_iter<I: IntoIterator<Item = Sh>>(all: I) -> Sh {
        Sh::join("", all)
    }
}

/// A value that can stand in a script. Shell, numbers and addresses stand as they are. Any other text becomes one quoted word.
pub trait ToSh {
    fn to_sh(&self) -> Sh;

    /// Whether the value is a text, which brings quotes of its own. Its place in a template must not be within quotes.
    fn is_text(&self) -> bool {
        false
    }
}

impl ToSh for Sh {
    fn to_sh(&self) -> Sh {
        self.clone()
    }
}

impl<T: ToSh + ?Sized> ToSh for &T {
    fn to_sh(&self) -> Sh {
        (**self).to_sh()
    }

    fn is_text(&self) -> bool {
        (**self).is_text()
    }
}

impl ToSh for str {
    fn to_sh(&self) -> Sh {
        quote(self)
    }

    fn is_text(&self) -> bool {
        true
    }
}

impl ToSh for String {
    fn to_sh(&self) -> Sh {
        quote(self)
    }

    fn is_text(&self) -> bool {
        true
    }
}

/// Implements `ToSh` for types whose text holds nothing but letters, digits, `.`, `:`, `/`, `+` and `-`.
macro_rules! verbatim {
    ($($kind:ty)*) => {
        $(impl ToSh for $kind {
            fn to_sh(&self) -> Sh {
                Sh(Cow::Owned(self.to_string()))
            }
        })*
    };
}
verbatim!(u8 u16 u32 u64 usize i32 i64 IpAddr IpNet Version);

/// Returns `text` as one word of shell, whatever characters it has. A text that means the same without quotes gets none.
pub fn quote(text: &str) -> Sh {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./@+,-".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return Sh(Cow::Owned(text.to_string()));
    }
    Sh(Cow::Owned(format!("'{}'", text.replace('\'', r"'\''"))))
}

/// Returns a command that gets this text on its standard input. The shell passes the text on unchanged, and its last line ends
/// with a line break.
///
/// The word that ends the here-document is made from the hash of the text. So nobody can write a text that ends its own
/// here-document, and the same text always makes the same shell.
pub fn here(command: impl Into<Sh>, text: &str) -> Sh {
    let mut end = String::new();
    for round in 0_u32.. {
        end = end_word(text, round);
        if text.lines().all(|line| line != end) {
            break;
        }
    }
    let command = command.into();
    let line_break = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    Sh(Cow::Owned(format!("{command} <<'{end}'\n{text}{line_break}{end}\n")))
}

fn end_word(text: &str, round: u32) -> String {
    let mut hash = Sha256::new();
    hash.update(round.to_be_bytes());
    hash.update(text);
    hash.finalize().iter().take(16).fold("--".to_string(), |word, byte| word + &format!("{byte:02x}"))
}

/// Makes shell from a constant template: `sh!("systemctl restart {unit}\n", unit = name)`. It replaces each `{name}` of the
/// list as `ToSh` says. So a text becomes one word, and its place must not be within quotes. Braces of the shell itself need no
/// escape. A name that is missing in the template or in the list is a compile error.
macro_rules! sh {
    ($template:expr $(,)?) => { $crate::shell::sh!(@ $template; []; []; ) };
    ($template:expr, $($rest:tt)+) => { $crate::shell::sh!(@ $template; []; []; $($rest)+) };
    (@ $template:expr; [$($name:ident)*]; [$($value:expr,)*]; ) => {{
        const TEMPLATE: &str = $template;
        const NAMES: &[&str] = &[$(stringify!($name)),*];
        const _: () = $crate::shell::check(TEMPLATE, NAMES);
        $crate::shell::fill(TEMPLATE, NAMES, &[$($crate::shell::value(&$value)),*])
    }};
    (@ $template:expr; [$($names:ident)*]; [$($values:expr,)*]; $name:ident = $value:expr $(, $($rest:tt)*)?) => {
        $crate::shell::sh!(@ $template; [$($names)* $name]; [$($values,)* $value,]; $($($rest)*)?)
    };
    (@ $template:expr; [$($names:ident)*]; [$($values:expr,)*]; $name:ident $(, $($rest:tt)*)?) => {
        $crate::shell::sh!(@ $template; [$($names)* $name]; [$($values,)* $name,]; $($($rest)*)?)
    };
}
pub(crate) use sh;

/// Returns where the next `{name}` at or after `at` begins and ends. `${name}` belongs to the shell, and `{end}` to kubectl.
const fn next(template: &[u8], mut at: usize) -> Option<(usize, usize)> {
    while at < template.len() {
        if template[at] == b'{' && (at == 0 || template[at - 1] != b'$') {
            let mut end = at + 1;
            while end < template.len() && (template[end].is_ascii_alphanumeric() || template[end] == b'_') {
                end += 1;
            }
            let is_name = end > at + 1 && template[at + 1].is_ascii_alphabetic();
            let is_kubectls = is(template, at + 1, end, "end");
            if is_name && !is_kubectls && end < template.len() && template[end] == b'}' {
                return Some((at, end + 1));
            }
        }
        at += 1;
    }
    None
}

const fn is(template: &[u8], from: usize, to: usize, name: &str) -> bool {
    let name = name.as_bytes();
    let mut i = 0;
    while i < name.len() && from + i < to && template[from + i] == name[i] {
        i += 1;
    }
    i == name.len() && from + i == to
}

/// Checks for `sh!` that a template and its list of names fit each other.
pub const fn check(template: &str, names: &[&str]) {
    let text = template.as_bytes();
    let (mut at, mut seen) = (0, 0_u64);
    while let Some((from, to)) = next(text, at) {
        let mut i = 0;
        while i < names.len() && !is(text, from + 1, to - 1, names[i]) {
            i += 1;
        }
        assert!(i < names.len(), "the template has a name in braces that is not in the list");
        seen |= 1 << i;
        at = to;
    }
    assert!(seen == (1 << names.len()) - 1, "the list has a name that is nowhere in the template");
    at = 0;
    while at + 1 < text.len() {
        assert!(text[at] != b'{' || text[at + 1] != b'{', "braces are single in a template");
        at += 1;
    }
}

/// Returns for `sh!` the shell of a value, and whether the value is a text.
pub fn value(of: &impl ToSh) -> (Sh, bool) {
    (of.to_sh(), of.is_text())
}

/// Fills the values into a template for `sh!`.
pub fn fill(template: &'static str, names: &[&str], values: &[(Sh, bool)]) -> Sh {
    let (mut text, mut at) = (String::with_capacity(template.len()), 0);
    let mut quotes = Quotes::default();
    while let Some((from, to)) = next(template.as_bytes(), at) {
        text += &template[at..from];
        quotes.pass(&template[at..from]);
        let value = names.iter().position(|name| *name == &template[from + 1..to - 1]).map(|i| &values[i]);
        if let Some((value, is_text)) = value {
            debug_assert!(!quotes.break_at(value, *is_text), "{value} within quotes: {template}");
            text += value;
        }
        at = to;
    }
    text += &template[at..];
    Sh(Cow::Owned(text))
}

/// Tracks whether a place in a template is within quotes.
#[derive(Default)]
struct Quotes {
    open: Option<char>,
    escaped: bool,
    comment: bool,
    before: Option<char>,
}

impl Quotes {
    fn pass(&mut self, text: &str) {
        for c in text.chars() {
            match (self.open, c) {
                _ if self.comment => self.comment = c != '\n',
                _ if self.escaped => self.escaped = false,
                (None | Some('"'), '\\') => self.escaped = true,
                (Some(open), _) if open == c => self.open = None,
                (None, '\'' | '"') => self.open = Some(c),
                (None, '#') => self.comment = self.before.is_none_or(|before| " \n;".contains(before)),
                _ => {}
            }
            self.before = Some(c);
        }
    }

    /// Whether a value in this place would end the quotes around it with quotes of its own.
    fn break_at(&self, value: &str, is_text: bool) -> bool {
        match self.open {
            Some('\'') => is_text || value.contains('\''),
            Some(_) => is_text || value.starts_with('\''),
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_quoted_and_numbers_and_addresses_are_not() {
        let (name, address): (String, IpAddr) = ("a'; b".into(), "fd00::1".parse().unwrap());
        let made = sh!(
            "{KUBECTL} get {name} ${name} {end} {\"x\"} {port}@{address}\n",
            KUBECTL = Sh::raw("kubectl"),
            name,
            port = 6443_u16,
            address
        );
        assert_eq!(&*made, "kubectl get 'a'\\''; b' ${name} {end} {\"x\"} 6443@fd00::1\n");
        assert_eq!(Sh::words(["a b", "c", "", "~"]), Sh::raw("'a b' c '' '~'"));
    }

    #[test]
    #[should_panic(expected = "within quotes")]
    fn a_placeholder_within_quotes_is_refused() {
        let name = "w1".to_string();
        let _ = sh!("echo 'no {name}'", name);
    }

    #[test]
    fn a_placeholder_after_closed_or_escaped_quotes_is_accepted() {
        let name = "w1";
        for made in [
            sh!("echo 'no '{name}", name),
            sh!("echo \"a \\\" b\" {name}", name),
            sh!("# it's\necho {name}", name),
            sh!("echo it\\'s {name}", name),
        ] {
            assert!(made.ends_with("w1"), "{made}");
        }
    }

    #[test]
    fn placeholders_and_arguments_must_match() {
        let fits = |template: &'static str, names: &'static [&str]| {
            std::panic::catch_unwind(|| check(template, names)).is_ok()
        };
        assert!(fits("a {b} ${c} {end} { d; } {1} {x.y}", &["b"]));
        assert!(!fits("a {b}", &[]) && !fits("a", &["b"]) && !fits("${b}", &["b"]));
        assert!(!fits("a {{ b; }}", &[]));
    }

    #[test]
    fn text_cannot_end_a_here_document() {
        let one = here("cat", "a\nEOF\n");
        assert_eq!(one, here("cat", "a\nEOF\n"), "equal texts give equal scripts");
        assert_ne!(one, here("cat", "a\n"));
        let end = one.lines().last().unwrap().to_string();
        assert!(end.len() == 34 && one.starts_with(&format!("cat <<'{end}'\na\nEOF\n--")), "{one}");
        assert!(here("cat", &one).ends_with('\n') && !here("cat", &one).ends_with(&format!("{end}\n")));
        assert!(here("cat", "no end").contains("\nno end\n--"));
        let empty = here("cat", "");
        assert_eq!(empty.lines().count(), 2, "{empty}");
    }
}
