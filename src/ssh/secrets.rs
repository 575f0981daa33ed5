//! Secrets that only the operator knows. ironstrap asks for each once for all machines, and never passes it to
//! another process. How to ask is the caller's decision: see `Ask`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

use super::deadline::PausableTimeout;
use crate::error::Result;
use crate::secret::SecretText;

/// The kind of secret that a question asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Secret {
    /// The passphrase of this key file.
    Passphrase(PathBuf),
    /// The login password of this user, or of this user at a jump host.
    Password(String),
    /// The password of this user for sudo.
    Sudo(String),
    /// The answer to a server's own question, such as a one-time code.
    Prompt { words: String },
}

/// A question to the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub what: Secret,
    /// The machine that needs the answer, and its user: `m1 (deploy@198.18.0.11)`. Empty for a file of the operator.
    pub asks: String,
    /// Only this machine gets the answer. Otherwise all machines of the same user get it.
    pub alone: bool,
}

type Answer = Pin<Box<dyn Future<Output = Result<Option<SecretText>>> + Send>>;

/// Asks the operator. The answer is `None` if nobody can be asked.
pub type Ask = Box<dyn Fn(Question) -> Answer + Send + Sync>;

pub(super) struct Secrets {
    ask: Ask,
    /// How often ironstrap asks for one secret in all, if the answers are wrong.
    tries: u8,
    /// Known secrets. With a machine in the key, the secret is for that machine alone.
    known: Mutex<BTreeMap<Owner, Arc<tokio::sync::Mutex<Known>>>>,
    /// Machines that refused a secret which another machine took.
    refused: Mutex<BTreeSet<(Secret, String)>>,
}

type Owner = (Secret, Option<String>);

#[derive(Default)]
struct Known {
    word: Option<SecretText>,
    asked: u8,
    nobody: bool,
}

/// A secret to try. Until it is known to be right, everything else that needs it waits.
pub(super) struct CandidateSecret {
    pub word: SecretText,
    unproven: Option<OwnedMutexGuard<Known>>,
    alone: bool,
}

impl Secrets {
    pub fn new(ask: Ask, tries: u8) -> Self {
        Secrets { ask, tries, known: Mutex::default(), refused: Mutex::default() }
    }

    /// Secrets of an operator who cannot be asked.
    pub fn none() -> Self {
        Secrets::new(Box::new(|_| Box::pin(async { Ok(None) })), 1)
    }

    /// Offers the secret that this machine needs, or `None` if nobody can be asked, or the operator was asked often
    /// enough. The user's other machines get what one machine of the user took. A machine that refused it gets an
    /// answer of its own.
    pub async fn offer(
        &self,
        what: &Secret,
        asks: &str,
        deadline: &PausableTimeout,
    ) -> Result<Option<CandidateSecret>> {
        let _stopped = deadline.pause();
        let question = |alone| Question { what: what.clone(), asks: asks.into(), alone };
        if matches!(what, Secret::Prompt { .. }) {
            let word = (self.ask)(question(true)).await?;
            return Ok(word.map(|word| CandidateSecret { word, unproven: None, alone: true }));
        }
        let alone = {
            let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
            refused.contains(&(what.clone(), asks.to_string()))
        };
        let mut known = self.known(what, alone.then_some(asks)).lock_owned().await;
        if let Some(word) = &known.word {
            return Ok(Some(CandidateSecret { word: word.clone(), unproven: None, alone }));
        }
        if known.nobody || known.asked >= self.tries {
            return Ok(None);
        }
        known.asked += 1;
        let word = (self.ask)(question(alone)).await?;
        known.nobody = word.is_none();
        Ok(word.map(|word| CandidateSecret { word, unproven: Some(known), alone }))
    }

    /// Records that this machine refused the secret. If another machine took it, ironstrap asks for this machine
    /// alone from now on.
    pub async fn refused(&self, what: &Secret, asks: &str, candidate: CandidateSecret) {
        match (candidate.was_right_elsewhere(), candidate.alone) {
            // This was a new secret, so the next offer asks the same question again.
            (false, _) => {}
            (true, false) => {
                let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
                refused.insert((what.clone(), asks.to_string()));
            }
            // The machine took this secret before, and refuses it now.
            (true, true) => self.known(what, Some(asks)).lock().await.word = None,
        }
    }

    fn known(&self, what: &Secret, of: Option<&str>) -> Arc<tokio::sync::Mutex<Known>> {
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry((what.clone(), of.map(str::to_string))).or_default().clone()
    }
}

impl CandidateSecret {
    /// Records that the secret was right. ironstrap does not ask for it again.
    pub fn confirm(self) -> SecretText {
        if let Some(mut known) = self.unproven {
            known.word = Some(self.word.clone());
        }
        self.word
    }

    /// Whether the secret was already known to be right.
    pub fn was_right_elsewhere(&self) -> bool {
        self.unproven.is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU8, Ordering::SeqCst};
    use std::time::Duration;

    use super::*;

    /// Answers `wrong` once, and then `right`. It counts the questions.
    fn secrets(asked: &Arc<AtomicU8>) -> Secrets {
        let asked = asked.clone();
        let ask = move |_| -> Answer {
            let word = if asked.fetch_add(1, SeqCst) == 0 { "wrong" } else { "right" };
            Box::pin(async move { Ok(Some(word.into())) })
        };
        Secrets::new(Box::new(ask), 3)
    }

    #[tokio::test]
    async fn only_a_wrong_password_is_asked_for_again() {
        let (asked, deadline) = (Arc::new(AtomicU8::new(0)), PausableTimeout::new(Duration::from_secs(1)));
        let secrets = secrets(&asked);
        let what = Secret::Password("bob".into());
        assert_eq!(secrets.offer(&what, "m1", &deadline).await.unwrap().unwrap().word.reveal(), "wrong");
        let candidate = secrets.offer(&what, "m1", &deadline).await.unwrap().unwrap();
        assert!(!candidate.was_right_elsewhere());
        assert_eq!(candidate.confirm().reveal(), "right");
        let again = secrets.offer(&what, "m2", &deadline).await.unwrap().unwrap();
        assert!(again.was_right_elsewhere() && again.word.reveal() == "right");
        assert_eq!(asked.load(SeqCst), 2);
    }

    #[tokio::test]
    async fn the_number_of_questions_is_limited() {
        let (asked, deadline) = (Arc::new(AtomicU8::new(0)), PausableTimeout::new(Duration::from_secs(1)));
        let secrets = secrets(&asked);
        let what = Secret::Sudo("bob".into());
        for _ in 0..3 {
            assert!(secrets.offer(&what, "m1", &deadline).await.unwrap().is_some());
        }
        assert!(secrets.offer(&what, "m1", &deadline).await.unwrap().is_none());
        assert!(Secrets::none().offer(&what, "m1", &deadline).await.unwrap().is_none());
    }

    /// Each answer names the asking machine, and says whether it is for that machine only.
    fn honest() -> Secrets {
        let ask = |question: Question| -> Answer {
            let Question { asks, alone, .. } = question;
            Box::pin(async move { Ok(Some(format!("{asks} {alone}").into())) })
        };
        Secrets::new(Box::new(ask), 2)
    }

    #[tokio::test]
    async fn a_machine_with_another_password_is_asked_separately() {
        let (secrets, deadline) = (honest(), PausableTimeout::new(Duration::from_secs(1)));
        let what = Secret::Sudo("bob".into());
        let lend = async |asks: &str| secrets.offer(&what, asks, &deadline).await.unwrap();
        lend("m1").await.unwrap().confirm();
        let candidate = lend("m2").await.unwrap();
        assert_eq!(candidate.word.reveal(), "m1 false", "other machines of the user get the same password");
        secrets.refused(&what, "m2", candidate).await;
        let own = lend("m2").await.unwrap();
        assert_eq!(own.word.reveal(), "m2 true");
        own.confirm();
        assert_eq!(lend("m3").await.unwrap().word.reveal(), "m1 false", "the password of m2 stays with m2");
        // m2 took this secret before and refuses it now. ironstrap asks for it again, as often as `tries`.
        secrets.refused(&what, "m2", lend("m2").await.unwrap()).await;
        lend("m2").await.unwrap().confirm();
        secrets.refused(&what, "m2", lend("m2").await.unwrap()).await;
        assert!(lend("m2").await.is_none());
    }
}
