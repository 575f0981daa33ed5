//! Which answer is right, and the verdict on an answer.

use std::sync::Arc;

use serde_json::Value;

use super::{Confirmation, Edit, Want};
use crate::fleet::Blocked;

/// Judges the content of a file, or `None` if it does not exist.
pub type PresenceJudge = Arc<dyn Fn(Option<&str>) -> Verdict + Send + Sync>;
/// Judges objects. `None` is one that does not exist.
pub type ObjectsJudge = Arc<dyn Fn(&[Option<Value>]) -> Verdict + Send + Sync>;

/// The right answer.
#[derive(Clone)]
pub enum Expect {
    /// Exactly this text, apart from a line break at the end.
    Is(String),
    /// The text that this makes of the present one. It is for files that ironstrap shares with others.
    Edited(Edit),
    /// That the file does not exist.
    Absent,
    /// Any text that this finds right.
    Judged(Arc<dyn Fn(&str) -> Verdict + Send + Sync>),
    /// As `Judged`, where the file or the unit may not exist.
    JudgedPresence(PresenceJudge),
    /// Any objects that this finds right.
    JudgedObjects(ObjectsJudge),
    /// Any answer. Nothing is wanted of this machine.
    Anything,
}

/// The result of judging an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    Holds,
    /// It does not hold. `have` is what is there and `want` what should be there, as texts to compare.
    Differs {
        have: String,
        want: String,
    },
    /// It does not hold, and others must do something first. `for_what` says what.
    Waits {
        have: String,
        want: String,
        for_what: Blocked,
    },
    /// It does not hold, and the fix replaces what a human wrote. The fix runs only after this confirmation.
    Unconfirmed {
        have: String,
        want: String,
        confirmation: &'static Confirmation,
    },
    /// ironstrap does not judge it. It reports this text as a note and changes nothing.
    Noted(String),
    /// The answer does not tell whether it holds, and this says why.
    Unknown(String),
    /// ironstrap could not ask, and this says why. There is nothing to change, and the want does not count as right.
    Unchecked(String),
}

impl Want {
    pub fn is(mut self, answer: impl Into<String>) -> Self {
        self.expect = Expect::Is(answer.into());
        self
    }

    pub fn judged(mut self, judge: impl Fn(&str) -> Verdict + Send + Sync + 'static) -> Self {
        self.expect = Expect::Judged(Arc::new(judge));
        self
    }

    /// As `judged`, for a file or a unit that may not exist. Then the judge gets `None`.
    pub fn judged_presence(
        mut self,
        judge: impl Fn(Option<&str>) -> Verdict + Send + Sync + 'static,
    ) -> Self {
        self.expect = Expect::JudgedPresence(Arc::new(judge));
        self
    }

    /// As `judged`, for the objects of `Ask::Objects`, in their order. The judge gets `None` for an object that does not exist.
    pub fn judged_objects(
        mut self,
        judge: impl Fn(&[Option<Value>]) -> Verdict + Send + Sync + 'static,
    ) -> Self {
        self.expect = Expect::JudgedObjects(Arc::new(judge));
        self
    }

    /// As `judged_objects`, for the first object of the ask.
    pub fn judged_object(self, judge: impl Fn(Option<&Value>) -> Verdict + Send + Sync + 'static) -> Self {
        self.judged_objects(move |objects| judge(objects.first().and_then(Option::as_ref)))
    }

    /// Changes the verdicts of the judge. A want without a judge stays as it is.
    pub fn map_verdict(self, change: impl Fn(Verdict) -> Verdict + Send + Sync + 'static) -> Self {
        match self.expect.clone() {
            Expect::Judged(judge) => self.judged(move |text| change(judge(text))),
            Expect::JudgedPresence(judge) => self.judged_presence(move |text| change(judge(text))),
            Expect::JudgedObjects(judge) => self.judged_objects(move |objects| change(judge(objects))),
            Expect::Is(_) | Expect::Edited(_) | Expect::Absent | Expect::Anything => self,
        }
    }

    /// Holds if `test` accepts the text of the answer. What does not exist does not pass. `what` tells people what passes.
    pub fn passes(
        self,
        what: impl Into<String>,
        test: impl Fn(&str) -> bool + Send + Sync + 'static,
    ) -> Self {
        let what = what.into();
        self.judged_presence(move |have| match have.is_some_and(&test) {
            true => Verdict::Holds,
            false => Verdict::Differs { have: have.unwrap_or("absent").into(), want: what.clone() },
        })
    }
}
