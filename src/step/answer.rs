//! The answer of a machine to an ask.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

/// A machine's answer to one ask.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The text that the ask is for.
    Said(String),
    /// The file or the unit of the ask does not exist.
    Absent,
    /// Each object of the ask as JSON, in the order of the ask. `None`: the cluster does not have it.
    Objects(Vec<Option<Arc<str>>>),
    /// The ask does not concern this machine.
    NotHere,
    /// A file changed while the machine read it. The same ask gets an answer a moment later.
    Changing,
    /// The ask itself failed, and why. This never means "not there".
    Unknown(String),
}

/// Writes an answer for people, and for the machine's notes of what was there before.
impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Said(text) => f.write_str(text),
            Answer::Absent => f.write_str("absent"),
            Answer::Objects(objects) => {
                objects.iter().try_for_each(|object| writeln!(f, "{}", object.as_deref().unwrap_or("absent")))
            }
            Answer::NotHere => f.write_str("not here"),
            Answer::Changing | Answer::Unknown(_) => {
                write!(f, "cannot determine: {}", self.unknown().unwrap_or_default())
            }
        }
    }
}

impl Answer {
    /// Why the answer is unknown. `None`: it is known.
    pub fn unknown(&self) -> Option<&str> {
        match self {
            Answer::Changing => Some("a file changed while it was read"),
            Answer::Unknown(why) => Some(why),
            _ => None,
        }
    }

    /// The objects of the answer. The error says why there are none.
    pub fn objects(&self) -> Result<Vec<Option<Value>>, String> {
        match self {
            Answer::Objects(objects) => (0..objects.len()).map(|at| self.object(at)).collect(),
            other => Err(other.no("objects")),
        }
    }

    /// The object at this place of the ask, without a look at the others. `None`: it does not exist.
    pub fn object(&self, at: usize) -> Result<Option<Value>, String> {
        let Answer::Objects(objects) = self else { return Err(self.no("objects")) };
        let object = objects.get(at).ok_or("an object is missing from the answer")?;
        let parsed = object.as_deref().map(serde_json::from_str).transpose();
        parsed.map_err(|error| format!("the object is not valid JSON: {error}"))
    }

    fn no(&self, form: &str) -> String {
        self.unknown().map_or_else(|| format!("the answer is not {form}: {self}"), str::to_string)
    }

    /// The text of the answer. The error says why there is none.
    pub fn text(&self) -> Result<&str, String> {
        match self {
            Answer::Said(text) => Ok(text),
            other => Err(other.no("text")),
        }
    }
}

/// The exit status with which the shell of an ask says that what it is about does not exist. No common program ends with it.
pub const ABSENT: i32 = 112;
/// The exit status with which the shell of an ask says that the ask does not concern this machine.
pub const NOT_HERE: i32 = 111;
