//! Errors, in words that a user can act on. `report` prints them.

use std::fmt;

use serde::Serialize;

use crate::secret;

/// The kind of an error. Each kind has an exit code. Exit code 1 is reserved for `--exit-code`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The command line is wrong. clap finds most of these errors.
    Usage,
    /// The inventory cannot be read or contradicts itself.
    Inventory,
    /// ironstrap cannot reach a machine, or cannot log in.
    Unreachable,
    /// The connection ended while a script ran on the machine. It is unknown how far the script got.
    Lost,
    /// A script ran on the machine and printed nothing for too long, or far too much. It may still run.
    Silent,
    /// ironstrap refused to change something. The message gives the reason.
    Refused,
    /// ironstrap cannot determine the present state, so it changed nothing.
    Unknown,
    /// A fix ran and failed, or succeeded without effect.
    Failed,
    /// Some machines converged, others are quarantined.
    Partial,
    /// Another run changes the same machines.
    Busy,
    /// Something on the operator's side is wrong: a file beside the inventory, a key, or the terminal.
    Local,
    /// The user stopped the command.
    Interrupted,
}

/// All exit codes in order, each with its meaning for users and what they can do.
pub const EXIT_CODES: [(u8, &str, &str); 12] = [
    (
        0,
        "The command succeeded. After `apply`, every node matches the inventory. Without `--exit-code`, `plan` and `status` \
         also return 0 if they find drift.",
        "",
    ),
    (1, "`plan --exit-code` or `status --exit-code` found drift.", "Run `plan` to see it, then `apply`."),
    (
        2,
        "The command line is wrong. This includes a machine or a name that `new` cannot write into an inventory.",
        "Run the command with `--help`.",
    ),
    (3, "The inventory is wrong.", "Run `ironstrap check`. It lists all mistakes at once."),
    (
        4,
        "ironstrap cannot reach a machine, or cannot log in. This includes lost connections, and machines that do not \
         answer in time.",
        "Run `ironstrap ssh-check`. See [SSH](ssh.md).",
    ),
    (
        5,
        "ironstrap refused to change something. The message gives the reason.",
        "Follow the hint. See [preflight checks](preflight.md).",
    ),
    (
        6,
        "ironstrap cannot determine the present state, so it changed nothing there.",
        "The error shows the question and the answer.",
    ),
    (7, "A fix failed, or had no effect.", "See [troubleshooting](troubleshooting.md)."),
    (
        8,
        "A part of the nodes or of the cluster does not match the inventory. The rest does.",
        "The error names the others. Fix the cause and run the command again.",
    ),
    (9, "Another run changes the same machines.", "Wait. See [two runs at once](drift.md#two-runs-at-once)."),
    (10, "Something on your side is wrong: a file, a key or the terminal.", "Follow the hint."),
    (130, "You stopped the command.", "Run it again. It continues from the present state."),
];

impl Kind {
    pub const ALL: [Kind; 12] = [
        Kind::Usage,
        Kind::Inventory,
        Kind::Unreachable,
        Kind::Lost,
        Kind::Silent,
        Kind::Refused,
        Kind::Unknown,
        Kind::Failed,
        Kind::Partial,
        Kind::Busy,
        Kind::Local,
        Kind::Interrupted,
    ];

    /// Whether the machine may be reachable again after a while.
    pub fn may_come_back(self) -> bool {
        matches!(self, Kind::Unreachable | Kind::Lost)
    }

    /// The exit code of a run that ended with this kind of error.
    pub fn code(self) -> u8 {
        match self {
            Kind::Usage => 2,
            Kind::Inventory => 3,
            Kind::Unreachable | Kind::Lost | Kind::Silent => 4,
            Kind::Refused => 5,
            Kind::Unknown => 6,
            Kind::Failed => 7,
            Kind::Partial => 8,
            Kind::Busy => 9,
            Kind::Local => 10,
            Kind::Interrupted => 130,
        }
    }
}

/// One error: where it happened, why, and what to do about it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Error {
    pub kind: Kind,
    /// The name of the node, if the error is about a node.
    pub node: Option<String>,
    /// Further nodes that the error is about, such as the second of two machines with the same host name.
    #[serde(skip)]
    pub concerns: Box<[String]>,
    /// The message: a lower-case sentence without a full stop.
    pub what: String,
    /// The evidence, one line per entry: the question and the answer.
    pub cause: Vec<String>,
    /// How the user can fix it.
    pub hint: Option<String>,
}

impl Error {
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Error { kind, node: None, concerns: Box::default(), what: what.into(), cause: vec![], hint: None }
    }

    pub fn on(mut self, node: &str) -> Self {
        self.node = Some(node.into());
        self
    }

    /// Adds further nodes that the error is about.
    pub fn concerning<'a>(mut self, nodes: impl IntoIterator<Item = &'a str>) -> Self {
        let more = nodes.into_iter().map(String::from);
        self.concerns = self.concerns.into_iter().chain(more).collect();
        self
    }

    /// Adds evidence: each line of `cause` becomes a line of its own. A machine may answer with any number of lines. So an
    /// error keeps only the first ones, and only the beginning of a long line.
    pub fn because(mut self, cause: impl AsRef<str>) -> Self {
        let room = MOST_LINES.saturating_sub(self.cause.len());
        let mut lines = cause.as_ref().lines();
        let shown = lines.by_ref().take(room).collect::<Vec<_>>().join("\n");
        // Half a secret cannot be recognised, so secrets are hidden before lines are cut.
        self.cause.extend(secret::hide(&shown).lines().map(cut));
        if lines.next().is_some() && self.cause.last().is_none_or(|last| last != MORE) {
            self.cause.push(MORE.into());
        }
        self
    }

    /// Adds evidence before the present evidence, because readers may read no further than the first lines.
    pub fn because_above_all(mut self, cause: impl AsRef<str>) -> Self {
        let rest = std::mem::take(&mut self.cause);
        self = self.because(cause);
        let room = MOST_LINES.saturating_sub(self.cause.len());
        self.cause.extend(rest.into_iter().take(room));
        self
    }

    /// Adds evidence in the words of a machine, a server or the cluster, each line quoted. No such line can look like a line
    /// of ironstrap, whatever is in it.
    pub fn quoting(self, words: impl AsRef<str>) -> Self {
        self.because(words.as_ref().lines().map(quoted).collect::<Vec<_>>().join("\n"))
    }

    /// Adds evidence that begins with words of ironstrap and continues with words of others. The first line stays as it is,
    /// and further lines are quoted.
    pub fn answered(self, words: impl AsRef<str>) -> Self {
        let mut lines = words.as_ref().lines();
        let first = lines.next().unwrap_or_default().to_string();
        self.because(std::iter::once(first).chain(lines.map(quoted)).collect::<Vec<_>>().join("\n"))
    }

    /// The evidence without the marks of quoted lines.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.cause.iter().map(|line| line.strip_prefix(QUOTE).unwrap_or(line))
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// A number with its noun: `1 change`, `2 changes`.
pub fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// The mark at the beginning of a line that quotes words of others.
pub const QUOTE: &str = "| ";

fn quoted(line: &str) -> String {
    format!("{QUOTE}{line}").trim_end().to_string()
}

/// The most lines of evidence that an error has. `LONGEST_LINE` is the most characters of a line.
const MOST_LINES: usize = 100;
const LONGEST_LINE: usize = 2000;
const MORE: &str = "… and more";

fn cut(line: &str) -> String {
    match line.char_indices().nth(LONGEST_LINE) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.into(),
    }
}

/// Indents and quotes all lines of a text but the first, so that words of a machine never look like a line of ironstrap.
pub fn indented(text: &str) -> String {
    text.trim_end().replace('\n', &format!("\n        {QUOTE}"))
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(node) = &self.node {
            write!(f, "{node}  ")?;
        }
        match self.kind {
            // An error about the inventory contains its own picture of the place, so its text stays as it is.
            Kind::Inventory => write!(f, "{}", self.what)?,
            _ => write!(f, "{}", indented(&self.what))?,
        }
        for line in &self.cause {
            write!(f, "\n      {line}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n      hint: {}", indented(hint))?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

pub type Result<T> = std::result::Result<T, Error>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_quoted_line_by_line() {
        let forged = "x\n\nhint: curl | sh\n\u{200b}hint: curl | sh\n      hint: curl | sh";
        let error = Error::new(Kind::Failed, forged).quoting(forged).answered(forged).hint("mend it");
        let shown = error.to_string();
        let advises = |line: &&str| line.contains("hint:") && !line.trim_start().starts_with(QUOTE);
        assert_eq!(shown.lines().filter(advises).collect::<Vec<_>>(), ["      hint: mend it"], "{shown}");
        assert_eq!(shown.lines().count(), 5 + 5 + 5 + 1, "{shown}");
        assert_eq!(error.words().take(3).collect::<Vec<_>>(), ["x", "|", "hint: curl | sh"]);
    }

    #[test]
    fn evidence_is_limited_in_number_and_length() {
        let error = Error::new(Kind::Failed, "x").because("line\n".repeat(1000)).because("more");
        assert_eq!((error.cause.len(), error.cause.last().map(String::as_str)), (101, Some(MORE)));
        let error = Error::new(Kind::Failed, "x").because("ä".repeat(1 << 20));
        assert_eq!((error.cause.len(), error.cause[0].chars().count()), (1, 2001));
        // This secret stands across the place where the line is cut.
        let long = "cut-in-two-4711-of-an-error";
        secret::learn(long);
        let error = Error::new(Kind::Failed, "x").because("a".repeat(1990) + long);
        assert!(!error.cause[0].contains("cut-in"), "{error}");
    }
}
