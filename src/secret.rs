//! Secrets: a type that holds one, the registry of all that this program knows, and the redactor. The redactor
//! takes secrets out of every text before it leaves the process. `report::exit` writes the text.
//!
//! ironstrap registers a secret where it enters. That is when the user types a password or a command prints one. It is also
//! when ironstrap makes or loads a key, or reads the inventory or a manifest. From then on, no output shows the secret.
//!
//! **Short secrets.** ironstrap hides a secret of at least six characters wherever it stands. The exceptions are common
//! words (`default`, `kubernetes`) and names of the inventory (a node, a user, a host). To hide these words, or shorter
//! secrets, would make other texts unreadable. To hide a name would also tell that the name is the secret. ironstrap hides
//! these secrets after the name of their field (`pin: 1234`), in URLs, and where their form gives them away (`password=…`).

use std::borrow::Cow;
use std::fmt;
use std::sync::{LazyLock, PoisonError, RwLock};

use serde_json::Value;
use zeroize::Zeroizing;

mod clean;
mod registry;
mod shapes;
#[cfg(test)]
mod tests;

pub use clean::{clean, clean_json, is_forbidden};
pub use registry::{Registry, without_percent};
pub use shapes::{hide_login, hide_mistaken};

/// The text that replaces a secret.
pub const HIDDEN: &str = "[secret]";

static KNOWN: LazyLock<RwLock<Registry>> = LazyLock::new(RwLock::default);

/// A secret text: a password, a key, a token. Its memory is wiped when it is dropped, and `Debug` does not show it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    /// Holds a secret, and registers it.
    pub fn new(text: impl Into<String>) -> Self {
        let text = SecretText(Zeroizing::new(text.into()));
        learn(text.reveal());
        text
    }

    /// The secret itself. Every caller is a place to review.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for SecretText {
    fn from(text: String) -> Self {
        SecretText::new(text)
    }
}

impl From<&str> for SecretText {
    fn from(text: &str) -> Self {
        SecretText::new(text)
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

/// Text that may leave the process. It has no secrets and no characters that a terminal obeys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown(String);

impl Shown {
    pub fn of(text: &str) -> Shown {
        Shown(shown(text, hide))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Hides secrets, cleans the text, and hides secrets again. The end of an escape may complete a secret with the
/// text that follows it.
fn shown(text: &str, hide: impl Fn(&str) -> Cow<'_, str>) -> String {
    let hidden = hide(text);
    match clean(&hidden) {
        Cow::Borrowed(_) => hidden.into_owned(),
        Cow::Owned(cleaned) => hide(&cleaned).into_owned(),
    }
}

/// Registers a secret. From now on, no output shows this text.
pub fn learn(secret: &str) {
    change(|known| known.add(secret));
}

/// Registers the value of a field as a secret. A short value is hidden after the field's name.
pub fn learn_field(field: &str, secret: &str) {
    change(|known| known.add_field(field, secret));
}

/// Registers the credentials in a URL as secrets.
pub fn learn_url(url: &str) {
    change(|known| known.add_url(url));
}

/// Registers names that are not secret, even if a secret has the same text.
pub fn learn_names<'a>(names: impl IntoIterator<Item = &'a str>) {
    change(|known| names.into_iter().for_each(|name| known.add_plain(name)));
}

fn change(how: impl FnOnce(&mut Registry)) {
    how(&mut KNOWN.write().unwrap_or_else(PoisonError::into_inner));
}

/// The text without secrets.
pub fn hide(text: &str) -> Cow<'_, str> {
    match KNOWN.try_read() {
        Ok(known) => known.hide(text),
        Err(std::sync::TryLockError::Poisoned(known)) => known.into_inner().hide(text),
        Err(std::sync::TryLockError::WouldBlock) => waited(text),
    }
}

/// The beginning of a text without secrets, of at most `chars` characters. The registry does not recognize half
/// a secret, so the text is cut only after its secrets are hidden.
pub fn beginning(text: &str, chars: usize) -> String {
    hide(text).chars().take(chars).collect()
}

/// Hides secrets while another thread registers one, and waits for that thread. A thread that panics may be the
/// one that registers, and must not wait for itself. Then the whole text is hidden.
fn waited(text: &str) -> Cow<'_, str> {
    if std::thread::panicking() {
        return HIDDEN.into();
    }
    Cow::Owned(KNOWN.read().unwrap_or_else(PoisonError::into_inner).hide(text).into_owned())
}

/// Hides secrets in every string of a value. Returns whether there was anything to hide.
pub fn hide_in(value: &mut Value) -> bool {
    match value {
        Value::String(text) => match hide(text) {
            hidden if hidden == *text => false,
            hidden => {
                *text = hidden.into_owned();
                true
            }
        },
        Value::Array(values) => values.iter_mut().fold(false, |any, value| hide_in(value) | any),
        Value::Object(map) => map.values_mut().fold(false, |any, value| hide_in(value) | any),
        _ => false,
    }
}
