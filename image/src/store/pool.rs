//! Threads for what takes long: taking layers apart, hashing, writing root file systems.
//!
//! The runtime's blocking threads are everybody's, the replicated log's among them. Work whose length a stranger sets
//! never takes one of those, and never holds a slot here while it waits for a network: a layer is handed over when it
//! is wholly on the disk. So however many pulls there are, each slot comes free again.

use std::sync::Arc;

use tokio::sync::{Semaphore, oneshot};

use crate::Error;

/// A bounded number of threads, each of which ends with its work.
#[derive(Debug)]
pub(super) struct Pool {
    slots: Arc<Semaphore>,
}

impl Pool {
    /// So many pieces of work go on at the same time.
    pub(super) fn of(slots: usize) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(slots)),
        }
    }

    /// Runs `work` when a slot is free. The slot is given back when the work ends, even if nobody waits for it any more.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let slot = self.slots.clone().acquire_owned().await;
        let slot = slot.map_err(|_| Error::Cancelled)?;
        thread("image-work", move || {
            let _slot = slot;
            work()
        })
        .await
    }
}

/// Runs `work` on a thread of its own. Whoever calls this bounds how many there are.
pub(super) async fn thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let (sender, receiver) = oneshot::channel();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            // Nobody may be waiting any more.
            let _ = sender.send(work());
        })
        .map_err(Error::io("starting a thread"))?;
    // A panic is a fault of the image's, as far as anybody can tell.
    receiver.await.unwrap_or_else(|_| {
        tracing::error!(name, "a thread of the image store failed");
        Err(Error::malformed(
            "image",
            "it could not be processed; the node's log says why",
        ))
    })
}
