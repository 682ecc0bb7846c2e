//! Who is working on what: two pulls of one image or layer do the work once, and nobody removes what another is about
//! to use.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::Mutex as AsyncMutex;

use crate::Digest;

/// The digests that somebody is working on.
#[derive(Debug, Default)]
pub(super) struct Claims {
    // Protects the map only; never held across an await.
    held: Mutex<HashMap<Digest, Weak<AsyncMutex<()>>>>,
}

/// While it lives, the blob stays. Locking it gives the exclusive right to make or remove the blob.
pub(super) type Claim = Arc<AsyncMutex<()>>;

impl Claims {
    pub(super) fn claim(&self, digest: &Digest) -> Claim {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|_, claim| claim.strong_count() > 0);
        if let Some(claim) = held.get(digest).and_then(Weak::upgrade) {
            return claim;
        }
        let claim = Claim::default();
        held.insert(*digest, Arc::downgrade(&claim));
        claim
    }

    /// Runs `remove` unless somebody has a claim; nobody gets one meanwhile.
    pub(super) fn unless_claimed<T>(
        &self,
        digest: &Digest,
        remove: impl FnOnce() -> T,
    ) -> Option<T> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let claimed = held
            .get(digest)
            .is_some_and(|claim| claim.strong_count() > 0);
        (!claimed).then(remove)
    }
}
