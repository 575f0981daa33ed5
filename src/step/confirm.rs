//! What replaces the work of a human: it is done only after a confirmation of its own.

/// A confirmation that an ordinary yes does not include.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Confirmation {
    /// The option of `apply` that gives it.
    pub option: &'static str,
    /// What `apply` asks on a terminal.
    pub question: &'static str,
    /// Says that the present state was kept.
    pub kept: &'static str,
    /// How to go either way.
    pub hint: &'static str,
}
