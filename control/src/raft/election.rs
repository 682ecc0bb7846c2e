//! When a node asks to lead. openraft's own elections (0.9.25) are switched off, for they come late: it looks at its timers once in one and a
//! half heartbeat intervals, so that two nodes whose timers have the same phase collide; it draws its patience once in a process's life, so
//! that they do so again; and whoever was refused by one with a longer log waits for another two timeouts, though that was long ago and
//! it has had a leader since.
//!
//! Here they take turns: which is first, second and so on follows from the term and the voters' ids, so that no two ask at the same time and
//! part the votes. From a leader's last sign of life to the next one's first entry it takes
//!
//! ```text
//! LEASE                   voters refuse others for as long as they believe in a leader
//! + SLACK                 its last sign didn't come to all at the same time
//! + 0..SPREAD             by whose turn it is, the dead ones' included: with three voters two turns, 125 ms for two writes of a vote and their
//!                         way; with five four, 62 ms
//! + ROUND + 0..SPREAD     where nobody has won, for the first had fewer entries, or a slow disk
//! ```
//!
//! which is 1.4 s at most where the first wins, and 1.9 s with a second round. Rounds that fail become longer: on disks that need half a second
//! for each write, nobody would ever win the short ones. The next term has another first: one whose disk is slow isn't always asked first.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::metrics::RaftServerMetrics;
use openraft::{BasicNode, ServerState, Vote};
use tokio::sync::watch;
use tokio::time::Instant;

use super::batch::Leader;
use super::rest::LEASE_AT_REST;
use super::{HEARTBEAT, LEASE};
use crate::entropy;

/// See the module's page.
const SLACK: Duration = Duration::from_millis(20);
/// See the module's page.
const SPREAD: Duration = Duration::from_millis(250);
/// From one's asking to its asking again, at least: two writes to a home's disk, 100 ms each when it is busy.
const ROUND: Duration = Duration::from_millis(250);
/// Rounds are at most so many times as long as the first.
const ROUNDS_GROW_TO: u32 = 4;

const _: () = assert!(3 * HEARTBEAT.as_millis() <= LEASE.as_millis());

/// A sign of life of a leader.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Heard {
    /// Its vote.
    pub vote: Vote<u64>,
    /// When.
    pub at: Instant,
    /// It has had nothing to do for a while, and gives few ([`super::rest`]).
    pub rests: bool,
}

/// What speaks for the leader's being there, and what against it.
#[derive(Clone, Default)]
pub(super) struct Signs(Arc<watch::Sender<Known>>);

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Known {
    heard: Option<Heard>,
    /// When the first thing was asked of it that it hasn't answered.
    asked: Option<Instant>,
}

impl Known {
    /// Since when a voter that believes in this vote has waited for a sign, and whether the leader rests.
    fn since(&self, vote: Vote<u64>) -> Option<(Instant, bool)> {
        let heard = self.heard.filter(|heard| heard.vote == vote)?;
        let asked = self.asked.filter(|asked| *asked > heard.at);
        match asked.filter(|_| heard.rests) {
            Some(asked) => Some((asked, false)),
            None => Some((heard.at, heard.rests)),
        }
    }
}

impl Signs {
    pub fn subscribe(&self) -> watch::Receiver<Known> {
        self.0.subscribe()
    }

    pub fn heard(&self, heard: Heard) {
        self.0.send_modify(|known| known.heard = Some(heard));
    }

    /// By its last sign, where this is its vote.
    pub fn leader_rests(&self, vote: Vote<u64>) -> bool {
        let heard = self.0.borrow().heard;
        heard.is_some_and(|heard| heard.rests && heard.vote == vote)
    }

    /// Asks something of the leader.
    pub async fn asking<T, E>(&self, ask: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        self.0.send_if_modified(|known| {
            // One that doesn't rest gives a sign in any case.
            let Some(heard) = known.heard.filter(|heard| heard.rests) else {
                return false;
            };
            let first = known.asked.is_none_or(|asked| asked <= heard.at);
            if first {
                known.asked = Some(Instant::now());
            }
            first
        });
        let answer = ask.await;
        if answer.is_ok() {
            self.0
                .send_if_modified(|known| known.asked.take().is_some());
        }
        answer
    }
}

/// Set where a voter has refused this node since it knows of entries that this one doesn't: it lets that one go first.
pub(super) type Behind = Arc<AtomicBool>;

/// How long a node waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waits {
    /// For the leader that it believes in, which rests or doesn't.
    ForLeader { rests: bool },
    /// For what becomes of an election, after so many that have come to nothing.
    ForElection(u32),
}

impl Waits {
    /// Since the last sign of whoever it waits for. `luck`: a number below what it is given.
    fn patience(self, turn: Turn, luck: impl FnOnce(u64) -> u64) -> Duration {
        let (least, spread) = match self {
            Self::ForLeader { rests: false } => (LEASE + SLACK, SPREAD),
            Self::ForLeader { rests: true } => (LEASE_AT_REST, SPREAD),
            Self::ForElection(failed) => {
                let times = failed.clamp(1, ROUNDS_GROW_TO);
                (ROUND * times, SPREAD * times)
            }
        };
        let turns = spread / turn.of;
        // Whoever's turn it is draws when it begins: two nodes may disagree on whose that is.
        least + turns * turn.number + Duration::from_nanos(luck(turns.as_nanos() as u64 / 4))
    }
}

/// When it is a node's turn, among all who may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Turn {
    /// From 0.
    number: u32,
    of: u32,
}

impl Turn {
    /// `voters`: all of them. Whoever has led isn't waited for.
    fn of(node: u64, voters: impl Iterator<Item = u64>, vote: Vote<u64>) -> Self {
        let led = vote.leader_id().voted_for().filter(|_| vote.is_committed());
        let others: Vec<u64> = voters.filter(|voter| Some(*voter) != led).collect();
        let of = others.len().max(1) as u64;
        let place = others.iter().filter(|voter| **voter < node).count() as u64;
        let number = (place % of + vote.leader_id().term % of) % of;
        Self {
            number: number as u32,
            of: of as u32,
        }
    }
}

fn luck(below: u64) -> u64 {
    u64::from_le_bytes(entropy::random()) % below
}

/// What a node waits for; None: it leads, or has no vote.
fn waits(now: &RaftServerMetrics<u64, BasicNode>, rests: bool, failed: u32) -> Option<Waits> {
    let mut voters = now.membership_config.voter_ids();
    if now.state == ServerState::Leader || !voters.any(|voter| voter == now.id) {
        return None;
    }
    match now.vote.is_committed() {
        true => Some(Waits::ForLeader { rests }),
        false => Some(Waits::ForElection(failed)),
    }
}

/// Until the replica is gone.
pub(super) async fn elect_in_time(
    leader: Leader,
    mut signs: watch::Receiver<Known>,
    behind: Behind,
) {
    let mut metrics = leader.raft.server_metrics();
    // What it waits for and since when, and until when that is.
    let mut waiting: Option<(Waits, Instant, Instant)> = None;
    let (mut vote, mut changed_at, mut failed) = (None, Instant::now(), 0);
    loop {
        let now = metrics.borrow_and_update().clone();
        if vote != Some(now.vote) {
            (vote, changed_at) = (Some(now.vote), Instant::now());
            if now.vote.is_committed() {
                failed = 0;
                // Of an election that is over.
                behind.store(false, Ordering::Relaxed);
            }
        }
        let since = signs.borrow_and_update().since(now.vote);
        let (since, rests) = since.unwrap_or((changed_at, false));
        let since = since.max(changed_at);
        let what = waits(&now, rests, failed);
        if waiting.map(|(what, since, _)| (what, since)) != what.map(|what| (what, since)) {
            let turn = Turn::of(now.id, now.membership_config.voter_ids(), now.vote);
            waiting = what.map(|what| (what, since, since + what.patience(turn, luck)));
        }
        let due = async {
            match waiting {
                Some((_, _, due)) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            changed = metrics.changed() => if changed.is_err() { return },
            changed = signs.changed() => if changed.is_err() { return },
            () = due => {
                if behind.swap(false, Ordering::Relaxed) {
                    waiting = waiting.map(|(what, since, due)| (what, since, due + SPREAD));
                    continue;
                }
                // Also where openraft had reasons not to: the next is a round later.
                (changed_at, failed) = (Instant::now(), failed + 1);
                if let Err(error) = leader.raft.trigger().elect().await {
                    tracing::debug!(%error, "asking for an election");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Turn = Turn { number: 0, of: 2 };

    #[test]
    fn a_dead_leaders_place_is_taken_within_two_seconds_though_nobody_wins_the_first_round() {
        let last = |below: u64| below - 1;
        let waits = |waits: Waits| waits.patience(Turn { number: 3, of: 4 }, last);
        let waited = waits(Waits::ForLeader { rests: false }) + waits(Waits::ForElection(1));
        // Two rounds' writes to disk take the rest.
        assert!(waited < Duration::from_millis(1_900), "{waited:?}");
        assert!(Waits::ForLeader { rests: false }.patience(FIRST, |_| 0) > LEASE);
    }

    #[test]
    fn no_two_have_the_same_turn_and_each_is_first_in_some_term() {
        let voters = [3, 5, 8, 13, 21];
        let waits = Waits::ForLeader { rests: false };
        let mut first = std::collections::BTreeSet::new();
        for term in 1..9 {
            let vote = Vote::new_committed(term, 8);
            let turn = |node| Turn::of(node, voters.into_iter(), vote);
            let mut turns: Vec<_> = voters
                .into_iter()
                .filter(|node| *node != 8)
                .map(|node| (turn(node), node))
                .collect();
            turns.sort_by_key(|(turn, _)| turn.number);
            first.insert(turns[0].1);
            for pair in turns.windows(2) {
                let latest = waits.patience(pair[0].0, |below| below - 1);
                let soonest = waits.patience(pair[1].0, |_| 0);
                // Two writes and their way, on most disks.
                assert!(latest + Duration::from_millis(40) < soonest, "{pair:?}");
            }
        }
        assert_eq!(first.len(), 4);
    }

    #[test]
    fn rounds_that_come_to_nothing_become_longer_up_to_a_limit() {
        let rounds: Vec<Duration> = (0..9)
            .map(|failed| Waits::ForElection(failed).patience(FIRST, |_| 0))
            .collect();
        assert!(rounds.is_sorted());
        assert_eq!(rounds[8], ROUND * ROUNDS_GROW_TO);
    }
}
