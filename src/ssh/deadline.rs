//! A time limit that pauses while ironstrap asks the operator: people may type slowly.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How precisely the limit holds after a pause.
const TICK: Duration = Duration::from_millis(250);

pub(super) struct PausableTimeout {
    pub limit: Duration,
    asking: AtomicUsize,
}

/// The clock pauses for as long as this value lives.
pub(super) struct Paused<'a>(&'a PausableTimeout);

impl PausableTimeout {
    pub fn new(limit: Duration) -> Self {
        PausableTimeout { limit, asking: AtomicUsize::new(0) }
    }

    pub fn pause(&self) -> Paused<'_> {
        self.asking.fetch_add(1, Ordering::Relaxed);
        Paused(self)
    }

    /// Returns the result of the work, or `None` if the time ran out first.
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

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        self.0.asking.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_time_of_a_pause_does_not_count() {
        let deadline = PausableTimeout::new(Duration::from_millis(100));
        let asked = async {
            let _stopped = deadline.pause();
            sleep(Duration::from_millis(400)).await;
        };
        assert_eq!(deadline.within(asked).await, Some(()));
        let since = Instant::now();
        assert_eq!(deadline.within(sleep(Duration::from_secs(60))).await, None);
        assert!(since.elapsed() < Duration::from_secs(5));
    }
}
