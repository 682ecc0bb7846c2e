//! A network that loses, delays and repeats what it carries, and that is cut in one direction or both, as it is told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::hooks::{one_in, pick, true_ns};
use super::life::Life;
use super::truth::Truth;
use crate::cluster::leases::Leases;
use crate::cluster::service::{Grants, LEASE, Node as Service, RAFT};
use crate::cluster::tenant::Ask;
use crate::lease::Answer;
use crate::peers::Service as _;
use crate::raft::{Replica, Transport, TransportError};
use crate::state::{NodeId, encoding};

/// As in `crate::peers`.
const RAFT_PATIENCE: Duration = Duration::from_secs(20);
/// As in `crate::cluster::ways`.
const LEASE_PATIENCE: Duration = Duration::from_secs(2);
/// From one machine to another where nothing is wrong, microseconds.
const DELAY_US: std::ops::Range<u64> = 50..2_000;
/// The same where a link is slow.
const SLOW_US: std::ops::Range<u64> = 1_000..400_000;
/// A request that is repeated comes again within this, milliseconds.
const REPEATED_MS: std::ops::Range<u64> = 1..3_000;
/// A dead connection is found out within this, milliseconds (`crate::peers`' pings).
const FOUND_OUT_MS: std::ops::Range<u64> = 500..3_000;

/// All machines' links.
pub struct Network {
    shared: Mutex<Links>,
    truth: Arc<Truth>,
}

#[derive(Default)]
struct Links {
    services: BTreeMap<NodeId, (Life, Service)>,
    /// From whom to whom nothing gets through.
    cut: BTreeSet<(NodeId, NodeId)>,
    /// From whom to whom nothing gets through for so many nanoseconds, and then everything for as long.
    flaps: BTreeMap<(NodeId, NodeId), u64>,
    weather: Weather,
}

/// What the whole network is like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Weather {
    /// One message of so many is lost; 0: none.
    pub lost: u64,
    /// One request of so many comes twice; 0: none.
    pub repeated: u64,
    /// Messages take long.
    pub slow: bool,
}

impl Links {
    fn passes(&self, from: NodeId, to: NodeId) -> bool {
        let flaps = self.flaps.get(&(from, to));
        let is_down = flaps.is_some_and(|period| (true_ns() / period) % 2 == 1);
        !is_down && !self.cut.contains(&(from, to))
    }
}

impl Network {
    /// With nobody on it.
    pub fn new(truth: &Arc<Truth>) -> Arc<Self> {
        Arc::new(Self {
            shared: Mutex::default(),
            truth: Arc::clone(truth),
        })
    }

    fn links(&self) -> MutexGuard<'_, Links> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node's process listens.
    pub fn listen(&self, node: NodeId, life: Life, service: Service) {
        self.links().services.insert(node, (life, service));
    }

    /// Nothing gets from one to the other, or it does again.
    pub fn cut(&self, from: NodeId, to: NodeId, off: bool) {
        let mut links = self.links();
        match off {
            true => links.cut.insert((from, to)),
            false => links.cut.remove(&(from, to)),
        };
    }

    /// A link comes and goes.
    pub fn flap(&self, from: NodeId, to: NodeId, period: Duration) {
        let period = period.as_nanos() as u64;
        self.links().flaps.insert((from, to), period.max(1));
    }

    /// Everything gets through, everywhere.
    pub fn heal(&self) {
        let mut links = self.links();
        links.cut.clear();
        links.flaps.clear();
        links.weather = Weather::default();
    }

    /// From now on it is like this.
    pub fn set_weather(&self, weather: Weather) {
        self.links().weather = weather;
    }

    /// A message's way. False: it doesn't arrive.
    async fn travel(&self, from: NodeId, to: NodeId) -> bool {
        let weather = self.links().weather;
        let delay = pick(if weather.slow && one_in(3) {
            SLOW_US
        } else {
            DELAY_US
        });
        tokio::time::sleep(Duration::from_micros(delay)).await;
        let lost = weather.lost > 0 && one_in(weather.lost);
        !lost && self.links().passes(from, to)
    }

    async fn ask(
        self: &Arc<Self>,
        from: Option<NodeId>,
        to: NodeId,
        path: &str,
        body: &Bytes,
    ) -> Option<Result<Bytes, String>> {
        let source = from.unwrap_or(NodeId(0));
        if !self.travel(source, to).await {
            return None;
        }
        let weather = self.links().weather;
        if weather.repeated > 0 && one_in(weather.repeated) {
            let (again, path, body) = (Arc::clone(self), path.to_owned(), body.clone());
            tokio::spawn(async move {
                let later = Duration::from_millis(pick(REPEATED_MS));
                tokio::time::sleep(later).await;
                again.serve(from, to, path, body).await;
            });
        }
        // It goes on though whoever has asked waits no more.
        let serving = Arc::clone(self).serve_owned(from, to, path.to_owned(), body.clone());
        let answer = tokio::spawn(serving).await.ok()?;
        let arrives = self.travel(to, source).await;
        answer.filter(|_| arrives)
    }

    async fn serve_owned(
        self: Arc<Self>,
        from: Option<NodeId>,
        to: NodeId,
        path: String,
        body: Bytes,
    ) -> Option<Result<Bytes, String>> {
        self.serve(from, to, path, body).await
    }

    async fn serve(
        &self,
        from: Option<NodeId>,
        to: NodeId,
        path: String,
        body: Bytes,
    ) -> Option<Result<Bytes, String>> {
        let (life, service) = self.links().services.get(&to).cloned()?;
        self.truth.note("arrives", &(from, to, &path, body.len()));
        let answer = tokio::select! {
            biased;
            () = life.ended() => return None,
            answer = service.call(from, &path, body) => answer,
        };
        Some(answer.map_err(|refusal| refusal.to_string()))
    }

    /// Asks a node, as another one or as a stranger.
    pub async fn call(
        self: &Arc<Self>,
        from: Option<NodeId>,
        to: NodeId,
        path: &str,
        body: Bytes,
        within: Duration,
    ) -> Result<Bytes, String> {
        let asked = tokio::time::timeout(within, async {
            match self.ask(from, to, path, &body).await {
                Some(answer) => answer,
                None => {
                    let found_out = Duration::from_millis(pick(FOUND_OUT_MS));
                    tokio::time::sleep(found_out).await;
                    Err("nothing gets through".to_owned())
                }
            }
        });
        asked
            .await
            .unwrap_or_else(|_| Err("no answer in time".to_owned()))
    }
}

/// A process's end of the network.
#[derive(Clone)]
pub struct End {
    /// The network.
    pub network: Arc<Network>,
    /// Whose.
    pub node: NodeId,
    /// Its process's.
    pub life: Life,
}

impl End {
    async fn call(
        &self,
        to: NodeId,
        path: &str,
        body: Bytes,
        within: Duration,
    ) -> Result<Bytes, String> {
        let asked = self.network.call(Some(self.node), to, path, body, within);
        self.life.within(asked).await
    }
}

#[async_trait]
impl Transport for End {
    async fn call(&self, to: NodeId, _: &str, request: Bytes) -> Result<Bytes, TransportError> {
        let answer = self.call(to, RAFT, request, RAFT_PATIENCE);
        answer.await.map_err(TransportError)
    }
}

/// Asks whoever leads for a node's lease, as `crate::cluster::ways` does.
pub struct Asking {
    /// The way there.
    pub end: End,
    /// Knows who leads.
    pub replica: Replica,
    /// Where this node leads.
    pub own: Arc<Leases>,
}

#[async_trait]
impl Ask for Asking {
    async fn ask(&self) -> Result<Answer, String> {
        let leader = self.replica.standing().leader.ok_or("no node leads")?;
        if leader == self.replica.node() {
            return Ok(self.own.grant(leader).await);
        }
        let asked = self.end.call(leader, LEASE, Bytes::new(), LEASE_PATIENCE);
        let answer = asked.await?;
        encoding::decode(&answer).map_err(|e| e.to_string())
    }
}
