//! Whether a control process still lives. What it has begun can't be dropped from outside (openraft has tasks of its own): instead, all that it
//! reaches the world by stands still for good once it is dead.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

/// One process's. Cheap to clone.
#[derive(Clone, Default)]
pub struct Life {
    over: CancellationToken,
    /// Random, or rather counted: which of a node's processes it is.
    number: Arc<()>,
}

impl Life {
    /// It is killed.
    pub fn end(&self) {
        self.over.cancel();
    }

    /// It lives.
    pub fn lasts(&self) -> bool {
        !self.over.is_cancelled()
    }

    /// Returns at once where it lives, and never where it doesn't.
    pub async fn check(&self) {
        if !self.lasts() {
            std::future::pending::<()>().await;
        }
    }

    /// Returns once it is dead.
    pub async fn ended(&self) {
        self.over.cancelled().await;
    }

    /// The same process's.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.number, &other.number)
    }

    /// Works while it lives, and then never returns.
    pub async fn within<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        let done = tokio::select! {
            biased;
            () = self.over.cancelled() => None,
            done = &mut work => Some(done),
        };
        match done {
            Some(done) => done,
            None => std::future::pending().await,
        }
    }
}
