//! A machine's shell as a run uses it: one of so many at once.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::error::{Error, Kind, Result};
use crate::shell::{Output, Shell};

pub(super) struct Told<S> {
    pub shell: S,
    /// Shared by the whole fleet; who has a place may run something.
    pub places: Arc<Semaphore>,
}

impl<S: Shell> Shell for Told<S> {
    async fn run(&self, script: &str, heard: &mut (dyn FnMut(&[u8]) + Send)) -> Result<Output> {
        let place = self.places.acquire().await;
        let _place = place.map_err(|e| Error::new(Kind::Local, "the run is over").because(e.to_string()))?;
        self.shell.run(script, heard).await
    }
}
