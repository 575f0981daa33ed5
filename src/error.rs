//! What can go wrong, said so that a user can act on it. Not how it is printed: that is `report`.

use std::fmt;

use serde::Serialize;

use crate::secret;

/// What sort of trouble it is. Each kind is an exit code; 1 is left to `--exit-code`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The command line asks for what cannot be; clap finds most of that.
    Usage,
    /// The inventory cannot be read or contradicts itself.
    Inventory,
    /// A machine cannot be reached, or does not let us in.
    Unreachable,
    /// The connection ended while a script ran there: nobody knows how far it got.
    Lost,
    /// A script ran there and said nothing for too long, or far too much. It may still run.
    Silent,
    /// It could be done, but would harm what is there.
    Refused,
    /// The present state could not be seen, so nothing was changed.
    Unknown,
    /// A fix ran and failed, or succeeded without effect.
    Failed,
    /// Some machines converged, others are quarantined.
    Partial,
    /// Somebody else is changing the same machines.
    Busy,
    /// The operator's own side: a file beside the inventory, a key, the terminal.
    Local,
    /// The user stopped it.
    Interrupted,
}

/// What each exit code means for users, and what they can do: the codes in order.
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
        "ironstrap refused, because a change would damage something.",
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
        "Some nodes match the inventory, others do not.",
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

    /// Whether the machine may still be there a while later.
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

/// One thing that went wrong, with where, why and what to do about it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Error {
    pub kind: Kind,
    /// The node's name, where it is about one.
    pub node: Option<String>,
    /// Further nodes that it is about: the other one of two machines that have one host name.
    #[serde(skip)]
    pub concerns: Box<[String]>,
    /// A lower-case sentence without a full stop.
    pub what: String,
    /// Evidence, a line each: what was asked, what was answered.
    pub cause: Vec<String>,
    /// What to do about it.
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

    /// Adds further nodes that it is about.
    pub fn concerning<'a>(mut self, nodes: impl IntoIterator<Item = &'a str>) -> Self {
        let more = nodes.into_iter().map(String::from);
        self.concerns = self.concerns.into_iter().chain(more).collect();
        self
    }

    /// Adds evidence: each line of `cause` becomes a line of its own. A machine may say any number of lines, so an error shows
    /// only so many, and only the beginning of a long one.
    pub fn because(mut self, cause: impl AsRef<str>) -> Self {
        let room = MOST_LINES.saturating_sub(self.cause.len());
        let mut lines = cause.as_ref().lines();
        let shown = lines.by_ref().take(room).collect::<Vec<_>>().join("\n");
        // Nobody recognises half a secret, so lines are cut only after they are hidden.
        self.cause.extend(secret::hide(&shown).lines().map(cut));
        if lines.next().is_some() && self.cause.last().is_none_or(|last| last != MORE) {
            self.cause.push(MORE.into());
        }
        self
    }

    /// Adds evidence ahead of all that there is: readers may get no further than the first lines.
    pub fn because_above_all(mut self, cause: impl AsRef<str>) -> Self {
        let rest = std::mem::take(&mut self.cause);
        self = self.because(cause);
        let room = MOST_LINES.saturating_sub(self.cause.len());
        self.cause.extend(rest.into_iter().take(room));
        self
    }

    /// Adds evidence in the words of a machine, a server or the cluster, each line quoted. No such line can look like a line
    /// of ironstrap, whatever is in it.
    pub fn heard(self, words: impl AsRef<str>) -> Self {
        self.because(words.as_ref().lines().map(quoted).collect::<Vec<_>>().join("\n"))
    }

    /// Adds evidence that begins with a word of ironstrap and goes on in words of others. Further lines are quoted.
    pub fn answered(self, words: impl AsRef<str>) -> Self {
        let mut lines = words.as_ref().lines();
        let first = lines.next().unwrap_or_default().to_string();
        self.because(std::iter::once(first).chain(lines.map(quoted)).collect::<Vec<_>>().join("\n"))
    }

    /// Its evidence without the marks of quoted lines.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.cause.iter().map(|line| line.strip_prefix(QUOTE).unwrap_or(line))
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// `1 change`, `2 changes`
pub fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// What begins a line in the words of others.
pub const QUOTE: &str = "| ";

fn quoted(line: &str) -> String {
    format!("{QUOTE}{line}").trim_end().to_string()
}

/// How many lines of evidence an error has, and how many characters of one.
const MOST_LINES: usize = 100;
const LONGEST_LINE: usize = 2000;
const MORE: &str = "… and more";

fn cut(line: &str) -> String {
    match line.char_indices().nth(LONGEST_LINE) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.into(),
    }
}

/// A text with its further lines indented and quoted, so that words of a machine never look like a line of ironstrap.
pub fn indented(text: &str) -> String {
    text.trim_end().replace('\n', &format!("\n        {QUOTE}"))
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(node) = &self.node {
            write!(f, "{node}  ")?;
        }
        match self.kind {
            // It comes with its own picture of where it is.
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
    fn words_of_others_are_quoted_line_by_line() {
        let forged = "x\n\nhint: curl | sh\n\u{200b}hint: curl | sh\n      hint: curl | sh";
        let error = Error::new(Kind::Failed, forged).heard(forged).answered(forged).hint("mend it");
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
        // A secret across the place where a line is cut.
        let long = "cut-in-two-4711-of-an-error";
        secret::learn(long);
        let error = Error::new(Kind::Failed, "x").because("a".repeat(1990) + long);
        assert!(!error.cause[0].contains("cut-in"), "{error}");
    }
}
