//! Who is let in, and who has to make room: no stranger, and no tenant, can keep the others out.
//!
//! ```text
//! accepted ──▶ silent ──hello──▶ greeted ──certificate──▶ a client
//!              counted by address                         counted by tenant
//! ```
//!
//! A newcomer never waits. Where there is no room, the oldest stranger of the address that has most of them is closed in its favour: an
//! address that opens connections without end closes its own. Those who have said hello, in full, are counted apart from those who
//! haven't: who says nothing closes none who does. Whoever has shown a certificate has a place among the clients, where each tenant has
//! a share, and the owner more room than all tenants together can take. A client whose connection is idle makes room for another; one
//! that waits for an answer is never closed, and keeps its place until what it asked for is done.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use crate::state::Tenant;

/// Connections at the same time that haven't said hello yet. Each costs a socket and what it has sent of its hello; more than are
/// accepted before the first is looked at.
const SILENT_MAX: usize = 256;
/// Connections at the same time whose handshake is under way: each costs some 20 KiB of TLS's buffers. It takes a round trip and some
/// milliseconds; this many newer ones have to get as far, from the client's own address, to close it.
const GREETED_MAX: usize = 128;
/// Clients connected at the same time, attached ones included. Each costs some 100 KiB at worst.
const CLIENTS_MAX: usize = 1024;
/// One tenant's connections, attached ones included: Compose has one for each container that it follows.
pub(super) const TENANT_MAX: usize = 256;
/// Places that only the owner gets: whoever owns the machine must be able to see what goes on, and to end it.
const OWNERS_OWN: usize = 256;

/// Where a connection comes from, as far as an address says who somebody is: a household has one IPv4 address, or a /64 of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Origin {
    V4(Ipv4Addr),
    V6([u16; 4]),
}

impl From<IpAddr> for Origin {
    fn from(address: IpAddr) -> Self {
        let v6 = |address: Ipv6Addr| {
            let [a, b, c, d, ..] = address.segments();
            Self::V6([a, b, c, d])
        };
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => v6(address),
        }
    }
}

/// All connections. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Admission(Arc<Mutex<Connections>>);

#[derive(Default)]
struct Connections {
    /// By number: the first is the oldest.
    strangers: BTreeMap<u64, Stranger>,
    clients: BTreeMap<u64, Client>,
    /// Counts admissions and turns to idleness: what has a greater number came later.
    now: u64,
}

struct Stranger {
    origin: Origin,
    greeted: bool,
    closed: CancellationToken,
}

struct Client {
    tenant: Tenant,
    /// Requests that aren't done.
    busy: usize,
    idle_since: u64,
    closed: CancellationToken,
}

/// There is no room for another client of this tenant.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Admission {
    /// Takes a new connection in, in place of another if need be.
    pub fn admit(&self, address: IpAddr) -> Arc<Place> {
        let closed = CancellationToken::new();
        let mut connections = self.lock();
        connections.make_room_for_a_stranger(false);
        let number = connections.tick();
        let stranger = Stranger {
            origin: address.into(),
            greeted: false,
            closed: closed.clone(),
        };
        connections.strangers.insert(number, stranger);
        Arc::new(Place {
            admission: self.clone(),
            number,
            closed,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connections {
    fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    fn make_room_for_a_stranger(&mut self, greeted: bool) {
        let alike = || {
            self.strangers
                .iter()
                .filter(|(_, stranger)| stranger.greeted == greeted)
        };
        let places = if greeted { GREETED_MAX } else { SILENT_MAX };
        if alike().count() < places {
            return;
        }
        let mut shares: HashMap<Origin, usize> = HashMap::new();
        for (_, stranger) in alike() {
            *shares.entry(stranger.origin).or_default() += 1;
        }
        let most = shares.values().max().copied().unwrap_or_default();
        let oldest = alike().find(|(_, stranger)| shares[&stranger.origin] == most);
        if let Some((&number, stranger)) = oldest {
            stranger.closed.cancel();
            self.strangers.remove(&number);
        }
    }

    /// Closes the connection that has been idle for longest, of the tenant that has most of those that are idle; of tenants that `may` be
    /// chosen.
    fn close_an_idle_one(&mut self, may: impl Fn(&Tenant) -> bool) -> Result<(), Full> {
        let idle = || {
            self.clients
                .iter()
                .filter(|(_, client)| client.busy == 0 && may(&client.tenant))
        };
        let mut shares: HashMap<&Tenant, usize> = HashMap::new();
        for (_, client) in idle() {
            *shares.entry(&client.tenant).or_default() += 1;
        }
        let (greediest, _) = shares
            .into_iter()
            .max_by_key(|(_, share)| *share)
            .ok_or(Full)?;
        let (&number, client) = idle()
            .filter(|(_, client)| client.tenant == *greediest)
            .min_by_key(|(_, client)| client.idle_since)
            .ok_or(Full)?;
        client.closed.cancel();
        self.clients.remove(&number);
        Ok(())
    }

    fn make_room_for(&mut self, tenant: &Tenant) -> Result<(), Full> {
        let is_owner = |tenant: &Tenant| tenant.as_str() == Tenant::OWNER;
        let count = |of: &dyn Fn(&Tenant) -> bool| {
            self.clients
                .values()
                .filter(|client| of(&client.tenant))
                .count()
        };
        if !is_owner(tenant) {
            if count(&|other| other == tenant) >= TENANT_MAX {
                return self.close_an_idle_one(|other| other == tenant);
            }
            if count(&|other| !is_owner(other)) >= CLIENTS_MAX - OWNERS_OWN {
                return self.close_an_idle_one(|other| !is_owner(other));
            }
        }
        if self.clients.len() >= CLIENTS_MAX {
            return self.close_an_idle_one(|_| true);
        }
        Ok(())
    }
}

/// One connection's place; dropped with the last that needs it, a request that goes on without its client included.
pub(super) struct Place {
    admission: Admission,
    number: u64,
    closed: CancellationToken,
}

impl Place {
    /// Waits until the connection has to make room for another.
    pub fn closed(&self) -> WaitForCancellationFuture<'_> {
        self.closed.cancelled()
    }

    /// The connection has said hello.
    pub fn has_greeted(&self) {
        let mut connections = self.admission.lock();
        connections.make_room_for_a_stranger(true);
        if let Some(stranger) = connections.strangers.get_mut(&self.number) {
            stranger.greeted = true;
        }
    }

    /// From now on the connection is a tenant's. If there is no room for it, it goes on as a stranger's.
    pub fn belongs_to(&self, tenant: Tenant) -> Result<(), Full> {
        let mut connections = self.admission.lock();
        if !connections.strangers.contains_key(&self.number) {
            return Err(Full);
        }
        connections.make_room_for(&tenant)?;
        connections.strangers.remove(&self.number);
        let client = Client {
            tenant,
            busy: 0,
            idle_since: connections.tick(),
            closed: self.closed.clone(),
        };
        connections.clients.insert(self.number, client);
        Ok(())
    }

    /// A request has come: until it is done, the connection isn't closed for another. None: it has been closed already.
    pub fn busy(self: &Arc<Self>) -> Option<Busy> {
        let mut connections = self.admission.lock();
        let client = connections.clients.get_mut(&self.number);
        let is_client = client.map(|client| client.busy += 1).is_some();
        (is_client || connections.strangers.contains_key(&self.number)).then(|| Busy {
            place: Arc::clone(self),
            is_client,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut connections = self.admission.lock();
        connections.strangers.remove(&self.number);
        connections.clients.remove(&self.number);
    }
}

/// A request that isn't done.
pub(super) struct Busy {
    place: Arc<Place>,
    /// Otherwise a stranger's, who is told why it is refused and may be closed at any time.
    is_client: bool,
}

impl Drop for Busy {
    fn drop(&mut self) {
        if !self.is_client {
            return;
        }
        let mut connections = self.place.admission.lock();
        let now = connections.tick();
        if let Some(client) = connections.clients.get_mut(&self.place.number) {
            client.busy -= 1;
            client.idle_since = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn tenant(name: &str) -> Tenant {
        name.parse().unwrap()
    }

    fn client(admission: &Admission, name: &str) -> Result<Arc<Place>, Full> {
        let place = admission.admit(address(1));
        place.belongs_to(tenant(name)).map(|()| place)
    }

    fn clients(admission: &Admission, name: &str, count: usize) -> Vec<Arc<Place>> {
        (0..count)
            .map(|_| client(admission, name).unwrap())
            .collect()
    }

    fn is_closed(place: &Place) -> bool {
        place.closed.is_cancelled()
    }

    #[test]
    fn the_address_with_most_strangers_makes_room_with_its_oldest() {
        let admission = Admission::default();
        let quiet = admission.admit(address(1));
        let flood: Vec<_> = (0..10_000).map(|_| admission.admit(address(2))).collect();
        assert!(!is_closed(&quiet));
        let open = flood.iter().filter(|place| !is_closed(place)).count();
        assert_eq!(open, SILENT_MAX - 1);
        assert!(flood[..flood.len() - open].iter().all(|p| is_closed(p)));
        let another = admission.admit(address(3));
        assert!(!is_closed(&another) && !is_closed(&quiet));
    }

    #[test]
    fn whoever_has_said_hello_outlives_any_number_who_say_nothing() {
        let admission = Admission::default();
        let client = admission.admit(address(1));
        let newer: Vec<_> = (1..SILENT_MAX)
            .map(|_| admission.admit(address(1)))
            .collect();
        client.has_greeted();
        let _flood: Vec<_> = (0..10_000).map(|_| admission.admit(address(1))).collect();
        for stranger in &newer[..GREETED_MAX - 1] {
            stranger.has_greeted();
        }
        assert_eq!(client.belongs_to(tenant("a")), Ok(()));
    }

    #[test]
    fn of_those_who_have_said_hello_the_oldest_of_the_greediest_address_makes_room() {
        let admission = Admission::default();
        let quiet = admission.admit(address(1));
        quiet.has_greeted();
        let flood: Vec<_> = (0..1000)
            .map(|_| {
                let stranger = admission.admit(address(2));
                stranger.has_greeted();
                stranger
            })
            .collect();
        assert!(!is_closed(&quiet));
        let open = flood.iter().filter(|place| !is_closed(place)).count();
        assert_eq!(open, GREETED_MAX - 1);
    }

    #[test]
    fn addresses_of_one_household_are_one_origin() {
        let origin = |text: &str| Origin::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(origin("2001:db8:1:2::1"), origin("2001:db8:1:2:ffff::9"));
        assert_ne!(origin("2001:db8:1:2::1"), origin("2001:db8:1:3::1"));
        assert_eq!(origin("::ffff:192.0.2.1"), origin("192.0.2.1"));
        assert_ne!(origin("192.0.2.2"), origin("192.0.2.1"));
    }

    #[test]
    fn a_tenant_has_a_share_and_its_idle_connections_make_room_for_its_next() {
        let admission = Admission::default();
        let held = clients(&admission, "a", TENANT_MAX);
        let first = held[0].busy().unwrap();
        let _next = client(&admission, "a").unwrap();
        assert!(!is_closed(&held[0]) && is_closed(&held[1]));
        // Idle again, but the one that has been so for the shortest time.
        drop(first);
        let _next = client(&admission, "a").unwrap();
        assert!(!is_closed(&held[0]) && is_closed(&held[2]));
        assert!(held[1].busy().is_none(), "it has been closed");
    }

    #[test]
    fn a_tenant_whose_connections_are_all_busy_gets_no_more_and_others_do() {
        let admission = Admission::default();
        let held = clients(&admission, "a", TENANT_MAX);
        let mut busy: Vec<_> = held.iter().map(|place| place.busy().unwrap()).collect();
        assert_eq!(client(&admission, "a").err(), Some(Full));
        assert!(client(&admission, "b").is_ok());
        // A request that goes on without its connection keeps the place.
        drop(held);
        assert_eq!(client(&admission, "a").err(), Some(Full));
        busy.pop();
        assert!(client(&admission, "a").is_ok());
    }

    #[test]
    fn the_owner_gets_in_when_tenants_have_taken_all_they_can() {
        let admission = Admission::default();
        let mut held = Vec::new();
        let mut busy = Vec::new();
        for number in 0.. {
            let Ok(place) = client(&admission, &format!("t{}", number / 100)) else {
                break;
            };
            busy.push(place.busy().unwrap());
            held.push(place);
        }
        assert_eq!(held.len(), CLIENTS_MAX - OWNERS_OWN);
        let owners = clients(&admission, Tenant::OWNER, OWNERS_OWN);
        assert!(owners.iter().all(|place| !is_closed(place)));
        // Beyond that the owner's idle ones make room for the owner's next.
        let _next = client(&admission, Tenant::OWNER).unwrap();
        assert!(is_closed(&owners[0]));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn bounds_hold_whatever_comes(steps in proptest::collection::vec((0u8..5, 0u8..5, any::<prop::sample::Index>()), 0..80)) {
            let admission = Admission::default();
            let mut places: Vec<Arc<Place>> = Vec::new();
            let mut busy = Vec::new();
            for (what, who, which) in steps {
                match what {
                    4 => places.iter().skip(which.index(100)).take(200).for_each(|place| Place::has_greeted(place)),
                    0 => places.extend((0..40).map(|_| admission.admit(address(who)))),
                    1 => for place in places.iter().skip(which.index(100)).take(60) {
                        let _: Result<(), Full> = Place::belongs_to(place, tenant(["owner", "a", "b", "c", "d"][usize::from(who)]));
                    },
                    2 => busy.extend(places.iter().skip(which.index(100)).take(60).filter_map(Place::busy)),
                    _ => {
                        places.drain(..which.index(places.len() + 1));
                        busy.drain(..which.index(busy.len() + 1));
                    }
                }
                let connections = admission.lock();
                let greeted = connections.strangers.values().filter(|s| s.greeted).count();
                prop_assert!(greeted <= GREETED_MAX);
                prop_assert!(connections.strangers.len() - greeted <= SILENT_MAX);
                prop_assert!(connections.clients.len() <= CLIENTS_MAX);
                let count = |name: &str| connections.clients.values().filter(|c| c.tenant.as_str() == name).count();
                prop_assert!(["a", "b", "c", "d"].into_iter().all(|name| count(name) <= TENANT_MAX));
                prop_assert!(connections.clients.len() - count("owner") <= CLIENTS_MAX - OWNERS_OWN);
            }
            drop((places, busy));
            prop_assert!(admission.lock().strangers.is_empty() && admission.lock().clients.is_empty());
        }
    }
}
