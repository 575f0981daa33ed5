//! Confirmations for fixes that replace the work of a human. Such a fix runs only after a confirmation of its own.

/// A confirmation that an ordinary yes does not include.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Confirmation {
    /// The option of `apply` that gives the confirmation.
    pub option: &'static str,
    /// The question of `apply` on a terminal.
    pub question: &'static str,
    /// The message that the present state was kept.
    pub kept: &'static str,
    /// How to keep the present state, and how to replace it.
    pub hint: &'static str,
}
