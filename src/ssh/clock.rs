//! A time limit that does not run while somebody is being asked: people type as slowly as they like.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How exactly the limit is kept where the clock was stopped in between.
const TICK: Duration = Duration::from_millis(250);

pub(super) struct Clock {
    pub limit: Duration,
    asking: AtomicUsize,
}

/// The clock stands for as long as this is kept.
pub(super) struct Stopped<'a>(&'a Clock);

impl Clock {
    pub fn new(limit: Duration) -> Self {
        Clock { limit, asking: AtomicUsize::new(0) }
    }

    pub fn stop(&self) -> Stopped<'_> {
        self.asking.fetch_add(1, Ordering::Relaxed);
        Stopped(self)
    }

    /// What comes of the work; `None` where the time ran out before.
    pub async fn within<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(work);
        let mut spent = Duration::ZERO;
        loop {
            let since = Instant::now();
            tokio::select! {
                biased;
                done = &mut work => return Some(done),
                () = sleep(TICK.min(self.limit.saturating_sub(spent))) => {
                    if self.asking.load(Ordering::Relaxed) == 0 {
                        spent += since.elapsed();
                    }
                    if spent >= self.limit {
                        return None;
                    }
                }
            }
        }
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.0.asking.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_time_somebody_takes_to_answer_does_not_count() {
        let clock = Clock::new(Duration::from_millis(100));
        let asked = async {
            let _stopped = clock.stop();
            sleep(Duration::from_millis(400)).await;
        };
        assert_eq!(clock.within(asked).await, Some(()));
        let since = Instant::now();
        assert_eq!(clock.within(sleep(Duration::from_secs(60))).await, None);
        assert!(since.elapsed() < Duration::from_secs(5));
    }
}
