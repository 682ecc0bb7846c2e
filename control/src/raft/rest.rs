//! How often a leader gives signs of life. Where commands come, every [`HEARTBEAT`]; where none has come for a while it rests, and gives
//! few: what an idle cluster costs is almost nothing but these. It tells the others that it rests, so that they don't take its silence
//! for its death.
//!
//! A leader that dies while it rests is missed by whoever asks it for something: a command, a read, a lease, which every node asks for every
//! two seconds. From then on that node waits no longer than it would have for one that doesn't rest ([`super::election`]), and a node
//! without a vote has the voters ask. So clients wait as long as they always do, and the nodes' leases have the leader replaced without clients.
//!
//! Rest ends with the next entry of the log, and when a node starts, which waits for signs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::metrics::RaftServerMetrics;
use openraft::{BasicNode, ServerState};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::HEARTBEAT;
use super::batch::Leader;

/// Without an entry for so long, a leader rests: longer than clients need from one command of a piece of work to the next.
const RESTS_AFTER: Duration = Duration::from_secs(8);
/// It says so several times before its signs become rare: one that is lost must not look like its death.
const TELLS_FOR: Duration = Duration::from_secs(2);
/// From the last sign to all who vote to the next, while it rests. Leases come first: when they are asked for, every two seconds, the voters
/// are asked whether this node leads, which is a sign too.
const SIGN: Duration = Duration::from_millis(2_500);
/// The same to all who don't vote, who get no other.
const SIGN_TO_ALL: Duration = Duration::from_secs(10);
/// A voter that asks for nothing misses a resting leader after this: two of its signs may be lost.
pub(super) const LEASE_AT_REST: Duration = Duration::from_secs(7);

const _: () = assert!(RESTS_AFTER.as_millis() > 3 * HEARTBEAT.as_millis());
const _: () = assert!(LEASE_AT_REST.as_millis() > 2 * SIGN.as_millis());

/// Whether this node's replica, where it leads, rests.
pub(super) struct Rest {
    ended: Notify,
    now: Mutex<Now>,
}

struct Now {
    rests: bool,
    /// When the last entry came, or whatever else there was.
    news: Instant,
    /// When the last sign of life was given, to anybody.
    sign: Instant,
}

impl Rest {
    pub fn new() -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            ended: Notify::new(),
            now: Mutex::new(Now {
                rests: false,
                news: now,
                sign: now,
            }),
        })
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It leads, and rests.
    pub fn rests(&self) -> bool {
        self.now().rests
    }

    /// There is something: an entry in the log, a node that has started. If it leads, it doesn't rest.
    pub fn ends(&self) {
        let mut now = self.now();
        now.news = Instant::now();
        if std::mem::take(&mut now.rests) {
            self.ended.notify_one();
        }
    }

    /// It leads: from a while after the last news on it rests.
    fn begins(&self) {
        let mut now = self.now();
        now.rests = now.news.elapsed() >= RESTS_AFTER;
    }

    /// A sign of life is on its way.
    pub fn gives_sign(&self) {
        self.now().sign = Instant::now();
    }

    /// When the next is due. `all`: when all were last given one.
    fn next(&self, all: Instant) -> Instant {
        let now = self.now();
        match now.news.elapsed() < RESTS_AFTER + TELLS_FOR {
            true => all + HEARTBEAT,
            // To those who are out of reach none goes out.
            false => (now.sign.max(all) + SIGN).min(all + SIGN_TO_ALL),
        }
    }
}

fn leads_others(now: &RaftServerMetrics<u64, BasicNode>) -> bool {
    let members = now.membership_config.membership().nodes().count();
    now.state == ServerState::Leader && members > 1
}

/// Gives signs of life where this node leads others. Until the replica is gone.
pub(super) async fn give_signs(leader: Leader, rest: Arc<Rest>) {
    let mut metrics = leader.raft.server_metrics();
    let mut all = Instant::now();
    loop {
        let leads = leads_others(&metrics.borrow_and_update());
        if !leads {
            rest.ends();
            if metrics.changed().await.is_err() {
                return;
            }
            continue;
        }
        rest.begins();
        let due = rest.next(all);
        tokio::select! {
            biased;
            changed = metrics.changed() => match changed {
                Ok(()) => rest.ends(),
                Err(_) => return,
            },
            () = rest.ended.notified() => {}
            // Meanwhile another sign may have been given.
            () = tokio::time::sleep_until(due) => if Instant::now() >= rest.next(all) {
                all = Instant::now();
                if let Err(error) = leader.raft.trigger().heartbeat().await {
                    tracing::debug!(%error, "giving a sign of life");
                }
            }
        }
    }
}
