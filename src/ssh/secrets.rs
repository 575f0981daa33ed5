//! Words that only the operator knows: asked for once, for all machines, and never told to another process. Who asks,
//! and how, is somebody else's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

use super::clock::Clock;
use crate::error::Result;
use crate::secret::SecretText;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Secret {
    /// What this key file is encrypted with.
    Passphrase(PathBuf),
    /// To log in as this user.
    Password(String),
    /// This user's, for sudo.
    Sudo(String),
    /// What a server asks in its own words, such as a code that is good once.
    Prompt { words: String },
}

/// A question to the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub what: Secret,
    /// The machine that needs the answer, and its user: `m1 (deploy@198.18.0.11)`. Empty for a file of the operator.
    pub asks: String,
    /// The answer goes to this machine alone. Otherwise all machines of the same user get it.
    pub alone: bool,
}

type Answer = Pin<Box<dyn Future<Output = Result<Option<SecretText>>> + Send>>;

/// Asks the operator; `None` where there is nobody to ask.
pub type Ask = Box<dyn Fn(Question) -> Answer + Send + Sync>;

pub(super) struct Secrets {
    ask: Ask,
    /// How often in all a wrong word may be asked for again.
    tries: u8,
    /// With a machine: what that machine alone takes.
    known: Mutex<BTreeMap<Owner, Arc<tokio::sync::Mutex<Known>>>>,
    /// Machines that refused what another one took.
    refused: Mutex<BTreeSet<(Secret, String)>>,
}

type Owner = (Secret, Option<String>);

#[derive(Default)]
struct Known {
    word: Option<SecretText>,
    asked: u8,
    nobody: bool,
}

/// A word to be tried. As long as nobody knows whether it is right, everybody else who needs it waits.
pub(super) struct Lent {
    pub word: SecretText,
    unproven: Option<OwnedMutexGuard<Known>>,
    alone: bool,
}

impl Secrets {
    pub fn new(ask: Ask, tries: u8) -> Self {
        Secrets { ask, tries, known: Mutex::default(), refused: Mutex::default() }
    }

    /// Nobody knows any.
    pub fn none() -> Self {
        Secrets::new(Box::new(|_| Box::pin(async { Ok(None) })), 1)
    }

    /// Lends this machine what it needs; `None` where nobody can be asked, or was asked often enough. What one machine of
    /// a user took is offered to the user's other machines. One that refused it gets an answer of its own.
    pub async fn lend(&self, what: &Secret, asks: &str, clock: &Clock) -> Result<Option<Lent>> {
        let _stopped = clock.stop();
        let question = |alone| Question { what: what.clone(), asks: asks.into(), alone };
        if matches!(what, Secret::Prompt { .. }) {
            let word = (self.ask)(question(true)).await?;
            return Ok(word.map(|word| Lent { word, unproven: None, alone: true }));
        }
        let alone = {
            let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
            refused.contains(&(what.clone(), asks.to_string()))
        };
        let mut known = self.known(what, alone.then_some(asks)).lock_owned().await;
        if let Some(word) = &known.word {
            return Ok(Some(Lent { word: word.clone(), unproven: None, alone }));
        }
        if known.nobody || known.asked >= self.tries {
            return Ok(None);
        }
        known.asked += 1;
        let word = (self.ask)(question(alone)).await?;
        known.nobody = word.is_none();
        Ok(word.map(|word| Lent { word, unproven: Some(known), alone }))
    }

    /// This machine refused the word. Where another machine took it, the operator is asked for this one alone from now on.
    pub async fn refused(&self, what: &Secret, asks: &str, lent: Lent) {
        match (lent.was_right_elsewhere(), lent.alone) {
            // The next question is as good as the first.
            (false, _) => {}
            (true, false) => {
                let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
                refused.insert((what.clone(), asks.to_string()));
            }
            // It took it before, and does so no more.
            (true, true) => self.known(what, Some(asks)).lock().await.word = None,
        }
    }

    fn known(&self, what: &Secret, of: Option<&str>) -> Arc<tokio::sync::Mutex<Known>> {
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry((what.clone(), of.map(str::to_string))).or_default().clone()
    }
}

impl Lent {
    /// It was right: nobody is asked for it again.
    pub fn proved(self) -> SecretText {
        if let Some(mut known) = self.unproven {
            known.word = Some(self.word.clone());
        }
        self.word
    }

    /// Somebody else has found it to be right before.
    pub fn was_right_elsewhere(&self) -> bool {
        self.unproven.is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU8, Ordering::SeqCst};
    use std::time::Duration;

    use super::*;

    /// Says `wrong` once, and then what is right; counts.
    fn secrets(asked: &Arc<AtomicU8>) -> Secrets {
        let asked = asked.clone();
        let ask = move |_| -> Answer {
            let word = if asked.fetch_add(1, SeqCst) == 0 { "wrong" } else { "right" };
            Box::pin(async move { Ok(Some(word.into())) })
        };
        Secrets::new(Box::new(ask), 3)
    }

    #[tokio::test]
    async fn what_is_wrong_is_asked_again_and_what_is_right_never() {
        let (asked, clock) = (Arc::new(AtomicU8::new(0)), Clock::new(Duration::from_secs(1)));
        let secrets = secrets(&asked);
        let what = Secret::Password("bob".into());
        assert_eq!(secrets.lend(&what, "m1", &clock).await.unwrap().unwrap().word.reveal(), "wrong");
        let lent = secrets.lend(&what, "m1", &clock).await.unwrap().unwrap();
        assert!(!lent.was_right_elsewhere());
        assert_eq!(lent.proved().reveal(), "right");
        let again = secrets.lend(&what, "m2", &clock).await.unwrap().unwrap();
        assert!(again.was_right_elsewhere() && again.word.reveal() == "right");
        assert_eq!(asked.load(SeqCst), 2);
    }

    #[tokio::test]
    async fn nobody_is_asked_for_ever_or_where_nobody_is() {
        let (asked, clock) = (Arc::new(AtomicU8::new(0)), Clock::new(Duration::from_secs(1)));
        let secrets = secrets(&asked);
        let what = Secret::Sudo("bob".into());
        for _ in 0..3 {
            assert!(secrets.lend(&what, "m1", &clock).await.unwrap().is_some());
        }
        assert!(secrets.lend(&what, "m1", &clock).await.unwrap().is_none());
        assert!(Secrets::none().lend(&what, "m1", &clock).await.unwrap().is_none());
    }

    /// Answers with who asks, and for how many.
    fn honest() -> Secrets {
        let ask = |question: Question| -> Answer {
            let Question { asks, alone, .. } = question;
            Box::pin(async move { Ok(Some(format!("{asks} {alone}").into())) })
        };
        Secrets::new(Box::new(ask), 2)
    }

    #[tokio::test]
    async fn a_machine_that_refuses_what_another_took_is_asked_for_alone() {
        let (secrets, clock) = (honest(), Clock::new(Duration::from_secs(1)));
        let what = Secret::Sudo("bob".into());
        let lend = async |asks: &str| secrets.lend(&what, asks, &clock).await.unwrap();
        lend("m1").await.unwrap().proved();
        let lent = lend("m2").await.unwrap();
        assert_eq!(lent.word.reveal(), "m1 false", "the other machines of the user get it");
        secrets.refused(&what, "m2", lent).await;
        let own = lend("m2").await.unwrap();
        assert_eq!(own.word.reveal(), "m2 true");
        own.proved();
        assert_eq!(lend("m3").await.unwrap().word.reveal(), "m1 false", "what m2 took stays with m2");
        // What it took before and refuses now is asked for again, as often as `tries`.
        secrets.refused(&what, "m2", lend("m2").await.unwrap()).await;
        lend("m2").await.unwrap().proved();
        secrets.refused(&what, "m2", lend("m2").await.unwrap()).await;
        assert!(lend("m2").await.is_none());
    }
}
