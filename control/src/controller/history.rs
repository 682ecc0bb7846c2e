//! The last changes of each tenant: for those who ask what was, and for those who follow, each at its own pace.
//!
//! A subscriber holds a number and no changes: however many there are, and however slow they are, a change is kept once.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, broadcast, watch};

use crate::agent::Happening;
use crate::state::{Change, Container, Object, Tenant};

/// Events that are told to those who ask what was: as many as docker keeps.
const TOLD: usize = 256;
/// Events of a tenant that are kept, for subscribers that are slow.
const EVENTS_MAX: usize = 4096;
/// Bytes of these: events repeat their container's labels, which are the tenant's to choose. Usual ones have some hundred.
const BYTES_MAX: usize = 4 << 20;

/// Happenings that wait for a node that follows them: it is as near as the network.
const HAPPENINGS_MAX: usize = 256;

/// The last events, and those who wait for the next. Told by the state machine itself, so that nothing lies between the two.
#[derive(Default)]
pub struct History {
    /// As many as the owner has given certificates to. Guards each one's order.
    tenants: Mutex<HashMap<Tenant, Last>>,
    /// How many follow.
    followers: watch::Sender<usize>,
    /// What happens here and isn't in the log, for other nodes.
    happened: Happened,
}

struct Happened(broadcast::Sender<Happening>);

impl Default for Happened {
    fn default() -> Self {
        Self(broadcast::channel(HAPPENINGS_MAX).0)
    }
}

/// The last events of one tenant.
#[derive(Default)]
struct Last {
    events: VecDeque<Arc<Change>>,
    /// Number of the first of them.
    first: u64,
    bytes: usize,
    grown: Arc<Notify>,
}

/// Follows a tenant's events. There are no more of these than connections.
pub struct Subscriber {
    history: Arc<History>,
    tenant: Tenant,
    /// Number of the next event.
    next: u64,
    grown: Arc<Notify>,
}

/// A subscriber is so far behind that some events are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "events were lost, at least {0}: the client is too slow, or the node was out of touch with the others"
)]
pub struct Lost(pub u64);

impl History {
    fn tenants(&self) -> MutexGuard<'_, HashMap<Tenant, Last>> {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, change: Change) {
        let tenant = match (&change.object, change.tenant()) {
            (_, Some(tenant)) => tenant.clone(),
            (Object::Node(_), None) => Tenant::owner(),
            // Nobody follows it.
            (_, None) => return,
        };
        self.tenants().entry(tenant).or_default().add(change);
    }

    /// Something has happened here that isn't in the log.
    pub(super) fn happened(&self, revision: u64, container: Arc<Container>, it: Happening) {
        let Happening { what, at_ns, .. } = it.clone();
        self.add(Change {
            revision,
            at_ns,
            object: Object::Container(container),
            what,
        });
        // An error: nobody follows.
        let _ = self.happened.0.send(it);
    }

    /// What [`History::happened`] is told from now on.
    pub(super) fn happenings(&self) -> broadcast::Receiver<Happening> {
        self.happened.0.subscribe()
    }

    /// How many follow now, and from now on.
    pub(super) fn followers(&self) -> watch::Receiver<usize> {
        self.followers.subscribe()
    }

    /// Nobody here knows what has happened meanwhile: whoever follows is told that there is a gap.
    pub(super) fn interrupt(&self) {
        self.tenants().values_mut().for_each(Last::interrupt);
    }

    /// What comes of a tenant's events; after what was, where that is asked for.
    pub(super) fn subscribe(self: &Arc<Self>, tenant: &Tenant, with_past: bool) -> Subscriber {
        let mut tenants = self.tenants();
        let last = tenants.entry(tenant.clone()).or_default();
        let count = last.events.len();
        let told = if with_past { count.min(TOLD) } else { 0 };
        self.followers.send_modify(|count| *count += 1);
        Subscriber {
            history: Arc::clone(self),
            tenant: tenant.clone(),
            next: last.first + (count - told) as u64,
            grown: Arc::clone(&last.grown),
        }
    }
}

impl Last {
    fn add(&mut self, change: Change) {
        self.bytes += change.size();
        self.events.push_back(Arc::new(change));
        // The newest is kept in any case: what a client may make one of is bounded where its requests are read.
        while self.events.len() > EVENTS_MAX || self.bytes > BYTES_MAX && self.events.len() > 1 {
            if let Some(oldest) = self.events.pop_front() {
                self.bytes -= oldest.size();
                self.first += 1;
            }
        }
        self.grown.notify_waiters();
    }
}

impl Last {
    fn interrupt(&mut self) {
        // One more than there were: a subscriber that had them all misses something too.
        self.first += self.events.len() as u64 + 1;
        self.events.clear();
        self.bytes = 0;
        self.grown.notify_waiters();
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.history.followers.send_modify(|count| *count -= 1);
    }
}

impl Subscriber {
    /// The next event, when there is one. Dropping the future loses none.
    pub async fn next(&mut self) -> Result<Arc<Change>, Lost> {
        loop {
            // Before looking: it hears of everything that is added from here on.
            let grown = self.grown.notified();
            let found = {
                let tenants = self.history.tenants();
                // A tenant that was known once stays so.
                tenants.get(&self.tenant).map(|last| last.at(self.next))
            };
            if let Some(event) = found.transpose()?.flatten() {
                self.next += 1;
                return Ok(event);
            }
            grown.await;
        }
    }
}

impl Last {
    fn at(&self, number: u64) -> Result<Option<Arc<Change>>, Lost> {
        match number.checked_sub(self.first) {
            Some(at) => Ok(usize::try_from(at)
                .ok()
                .and_then(|at| self.events.get(at))
                .cloned()),
            None => Err(Lost(self.first - number)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::What;

    fn event(tenant: &str, number: u64, bytes: usize) -> Change {
        Change {
            revision: 1,
            at_ns: number,
            object: Object::Image {
                tenant: tenant.parse().unwrap(),
                id: String::new(),
                name: "x".repeat(bytes),
            },
            what: What::Tagged,
        }
    }

    /// What a subscriber finds without waiting.
    async fn ready(subscriber: &mut Subscriber) -> Vec<Arc<Change>> {
        let mut found = Vec::new();
        while let std::task::Poll::Ready(event) =
            futures_util::poll!(std::pin::pin!(subscriber.next()))
        {
            found.push(event.unwrap());
        }
        found
    }

    #[tokio::test]
    async fn a_tenants_events_are_not_forgotten_for_anothers_nor_seen_by_it() {
        let history = Arc::<History>::default();
        let (acme, other): (Tenant, Tenant) = ("acme".parse().unwrap(), "other".parse().unwrap());
        let mut follower = history.subscribe(&acme, false);
        history.add(event("acme", 7, 10));
        for number in 0..2 * EVENTS_MAX as u64 {
            history.add(event("other", number, 10));
        }
        let own = ready(&mut follower).await;
        assert_eq!((own.len(), own[0].at_ns), (1, 7));
        assert_eq!(ready(&mut history.subscribe(&acme, true)).await, own);
        assert!(ready(&mut history.subscribe(&acme, false)).await.is_empty());
        let others = ready(&mut history.subscribe(&other, true)).await;
        let newest = 2 * EVENTS_MAX - 1;
        assert_eq!(
            (others.len(), others[TOLD - 1].at_ns),
            (TOLD, newest as u64)
        );
    }

    #[tokio::test]
    async fn large_events_are_kept_once_and_up_to_a_number_of_bytes_and_who_is_behind_is_told() {
        let history = Arc::<History>::default();
        let acme: Tenant = "acme".parse().unwrap();
        let mut slow = history.subscribe(&acme, false);
        let mut quick = history.subscribe(&acme, false);
        let mut first = std::sync::Weak::new();
        for number in 0..10 {
            history.add(event("acme", number, BYTES_MAX / 4));
            let told = quick.next().await.unwrap();
            assert_eq!(told.at_ns, number);
            if number == 0 {
                first = Arc::downgrade(&told);
            }
        }
        assert!(first.upgrade().is_none(), "nobody holds on to it");
        let kept = ready(&mut history.subscribe(&acme, true)).await;
        assert!(kept.iter().map(|event| event.size()).sum::<usize>() <= BYTES_MAX);
        assert_eq!(slow.next().await, Err(Lost(6)));
        history.add(event("acme", 10, 2 * BYTES_MAX));
        let newest = ready(&mut history.subscribe(&acme, true)).await;
        assert_eq!((newest.len(), newest[0].at_ns), (1, 10));
    }

    #[tokio::test]
    async fn who_waits_is_told_of_the_next() {
        let history = Arc::<History>::default();
        let acme: Tenant = "acme".parse().unwrap();
        let mut follower = history.subscribe(&acme, false);
        let mut next = std::pin::pin!(follower.next());
        assert!(futures_util::poll!(&mut next).is_pending());
        history.add(event("acme", 1, 1));
        assert_eq!(next.await.unwrap().at_ns, 1);
    }
}
