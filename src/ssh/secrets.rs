//! Words that only the operator knows: asked for once, for all machines, and never told to another process. Who asks,
//! and how, is somebody else's.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

use super::clock::Clock;
use crate::error::Result;

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
    Prompt { host: String, words: String },
}

type Answer = Pin<Box<dyn Future<Output = Result<Option<String>>> + Send>>;

/// Asks the operator; `None` where there is nobody to ask.
pub type Ask = Box<dyn Fn(Secret) -> Answer + Send + Sync>;

pub(super) struct Secrets {
    ask: Ask,
    /// How often in all a wrong word may be asked for again.
    tries: u8,
    known: Mutex<BTreeMap<Secret, Arc<tokio::sync::Mutex<Known>>>>,
}

#[derive(Default)]
struct Known {
    word: Option<String>,
    asked: u8,
    nobody: bool,
}

/// A word to be tried. As long as nobody knows whether it is right, everybody else who needs it waits.
pub(super) struct Lent {
    pub word: String,
    unproven: Option<OwnedMutexGuard<Known>>,
}

impl Secrets {
    pub fn new(ask: Ask, tries: u8) -> Self {
        Secrets { ask, tries, known: Mutex::default() }
    }

    /// Nobody knows any.
    pub fn none() -> Self {
        Secrets::new(Box::new(|_| Box::pin(async { Ok(None) })), 1)
    }

    /// `None` where nobody can be asked, or was asked often enough.
    pub async fn lend(&self, what: &Secret, clock: &Clock) -> Result<Option<Lent>> {
        let _stopped = clock.stop();
        if matches!(what, Secret::Prompt { .. }) {
            let word = (self.ask)(what.clone()).await?;
            return Ok(word.map(|word| Lent { word, unproven: None }));
        }
        let known = {
            let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            all.entry(what.clone()).or_default().clone()
        };
        let mut known = known.lock_owned().await;
        if let Some(word) = &known.word {
            return Ok(Some(Lent { word: word.clone(), unproven: None }));
        }
        if known.nobody || known.asked >= self.tries {
            return Ok(None);
        }
        known.asked += 1;
        let word = (self.ask)(what.clone()).await?;
        known.nobody = word.is_none();
        Ok(word.map(|word| Lent { word, unproven: Some(known) }))
    }
}

impl Lent {
    /// It was right: nobody is asked for it again.
    pub fn proved(self) -> String {
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
            Box::pin(async move { Ok(Some(word.to_string())) })
        };
        Secrets::new(Box::new(ask), 3)
    }

    #[tokio::test]
    async fn what_is_wrong_is_asked_again_and_what_is_right_never() {
        let (asked, clock) = (Arc::new(AtomicU8::new(0)), Clock::new(Duration::from_secs(1)));
        let secrets = secrets(&asked);
        let what = Secret::Password("bob".into());
        assert_eq!(secrets.lend(&what, &clock).await.unwrap().unwrap().word, "wrong");
        let lent = secrets.lend(&what, &clock).await.unwrap().unwrap();
        assert!(!lent.was_right_elsewhere());
        assert_eq!(lent.proved(), "right");
        let again = secrets.lend(&what, &clock).await.unwrap().unwrap();
        assert!(again.was_right_elsewhere() && again.word == "right");
        assert_eq!(asked.load(SeqCst), 2);
    }

    #[tokio::test]
    async fn nobody_is_asked_for_ever_or_where_nobody_is() {
        let (asked, clock) = (Arc::new(AtomicU8::new(0)), Clock::new(Duration::from_secs(1)));
        let secrets = secrets(&asked);
        let what = Secret::Sudo("bob".into());
        for _ in 0..3 {
            assert!(secrets.lend(&what, &clock).await.unwrap().is_some());
        }
        assert!(secrets.lend(&what, &clock).await.unwrap().is_none());
        assert!(Secrets::none().lend(&what, &clock).await.unwrap().is_none());
    }
}
