//! The last events of each tenant: for those who ask what was, and for those who follow, each at its own pace.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{broadcast, watch};
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use crate::controller::Controller;
use crate::state::{Event, Tenant};

/// Events that are told to those who ask what was: as many as docker keeps.
const TOLD: usize = 256;
/// Events of a tenant that are kept, for clients that are slow.
const EVENTS_MAX: usize = 4096;
/// Bytes of these: events repeat their container's labels, which are the tenant's to choose. Usual ones have some hundred.
const BYTES_MAX: usize = 4 << 20;

/// The last events, and those who wait for the next.
pub struct History {
    shared: Arc<Shared>,
    _follower: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct Shared {
    /// There are as many as the owner has given certificates to. Guards each one's order.
    tenants: Mutex<HashMap<Tenant, Last>>,
}

/// The last events of one tenant.
#[derive(Default)]
struct Last {
    events: VecDeque<Arc<Event>>,
    /// Number of the first of them.
    first: u64,
    bytes: usize,
    grown: watch::Sender<()>,
}

/// Follows a tenant's events.
pub struct Subscriber {
    shared: Weak<Shared>,
    tenant: Tenant,
    /// Number of the next event.
    next: u64,
    grown: watch::Receiver<()>,
}

/// Why a subscriber gets no event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Missed {
    /// It is so far behind that some are gone.
    #[error("the client is too slow: {0} events were lost")]
    Lost(u64),
    /// There won't be any.
    #[error("the node is going down")]
    End,
}

impl History {
    /// Follows a controller's events until dropped.
    pub fn follow(controller: &Controller) -> Self {
        let shared = Arc::<Shared>::default();
        let mut events = controller.events();
        let to = Arc::clone(&shared);
        let follower = tokio::spawn(async move {
            loop {
                match events.recv().await {
                    Ok(event) => to.add(event),
                    Err(broadcast::error::RecvError::Lagged(lost)) => {
                        warn!(lost, "events were lost")
                    }
                    Err(broadcast::error::RecvError::Closed) => return,
                }
            }
        });
        Self {
            shared,
            _follower: AbortOnDropHandle::new(follower),
        }
    }

    /// What was of a tenant's, and what comes.
    pub fn subscribe(&self, tenant: &Tenant) -> (Vec<Arc<Event>>, Subscriber) {
        self.shared.subscribe(tenant)
    }
}

impl Shared {
    fn tenants(&self) -> MutexGuard<'_, HashMap<Tenant, Last>> {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, event: Event) {
        self.tenants()
            .entry(event.tenant.clone())
            .or_default()
            .add(event);
    }

    fn subscribe(self: &Arc<Self>, tenant: &Tenant) -> (Vec<Arc<Event>>, Subscriber) {
        let mut tenants = self.tenants();
        let last = tenants.entry(tenant.clone()).or_default();
        let count = last.events.len();
        let told = last.events.range(count.saturating_sub(TOLD)..);
        let subscriber = Subscriber {
            shared: Arc::downgrade(self),
            tenant: tenant.clone(),
            next: last.first + count as u64,
            grown: last.grown.subscribe(),
        };
        (told.cloned().collect(), subscriber)
    }
}

impl Last {
    fn add(&mut self, event: Event) {
        self.bytes += event.size();
        self.events.push_back(Arc::new(event));
        // The newest is kept in any case: what a client may make one of is bounded where its requests are read.
        while self.events.len() > EVENTS_MAX || self.bytes > BYTES_MAX && self.events.len() > 1 {
            if let Some(oldest) = self.events.pop_front() {
                self.bytes -= oldest.size();
                self.first += 1;
            }
        }
        self.grown.send_replace(());
    }
}

impl Subscriber {
    /// The next event, when there is one.
    pub async fn next(&mut self) -> Result<Arc<Event>, Missed> {
        loop {
            self.grown.borrow_and_update();
            if let Some(event) = self.look()? {
                return Ok(event);
            }
            self.grown.changed().await.map_err(|_| Missed::End)?;
        }
    }

    fn look(&mut self) -> Result<Option<Arc<Event>>, Missed> {
        let shared = self.shared.upgrade().ok_or(Missed::End)?;
        let tenants = shared.tenants();
        let last = tenants.get(&self.tenant).ok_or(Missed::End)?;
        let lost = last.first.saturating_sub(self.next);
        if lost > 0 {
            return Err(Missed::Lost(lost));
        }
        let found = last.events.get((self.next - last.first) as usize).cloned();
        self.next += u64::from(found.is_some());
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Action, EventKind};

    fn event(tenant: &str, number: u64, bytes: usize) -> Event {
        Event {
            revision: 1,
            tenant: tenant.parse().unwrap(),
            kind: EventKind::Container,
            action: Action::Die,
            id: String::new(),
            attributes: [(String::new(), "x".repeat(bytes))].into(),
            at_ns: number,
        }
    }

    #[tokio::test]
    async fn a_tenants_events_are_not_forgotten_for_anothers() {
        let shared = Arc::<Shared>::default();
        let acme: Tenant = "acme".parse().unwrap();
        let (_, mut subscriber) = shared.subscribe(&acme);
        shared.add(event("acme", 7, 10));
        for number in 0..2 * EVENTS_MAX as u64 {
            shared.add(event("other", number, 10));
        }
        assert_eq!(subscriber.next().await.unwrap().at_ns, 7);
        assert_eq!(shared.subscribe(&acme).0.len(), 1);
        let (others, _) = shared.subscribe(&"other".parse().unwrap());
        let newest = 2 * EVENTS_MAX - 1;
        assert_eq!(
            (others.len(), others[TOLD - 1].at_ns),
            (TOLD, newest as u64)
        );
    }

    #[tokio::test]
    async fn large_events_are_kept_up_to_a_number_of_bytes_and_who_is_behind_is_told() {
        let shared = Arc::<Shared>::default();
        let acme: Tenant = "acme".parse().unwrap();
        let (_, mut slow) = shared.subscribe(&acme);
        let (_, mut quick) = shared.subscribe(&acme);
        for number in 0..10 {
            shared.add(event("acme", number, BYTES_MAX / 4));
            assert_eq!(quick.next().await.unwrap().at_ns, number);
        }
        let kept: usize = shared.subscribe(&acme).0.iter().map(|e| e.size()).sum();
        assert!(kept <= BYTES_MAX);
        assert_eq!(slow.next().await, Err(Missed::Lost(6)));
        shared.add(event("acme", 10, 2 * BYTES_MAX));
        assert_eq!(shared.subscribe(&acme).0.len(), 1, "the newest stays");
        drop(shared);
        assert_eq!(quick.next().await, Err(Missed::End));
    }
}
