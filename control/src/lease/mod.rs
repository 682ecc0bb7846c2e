//! Leases: until when a node's pods may run though nobody hears of it, and from when on others may start them.
//!
//! A node that is out of touch with the majority ends its pods by itself, by its own clock; the others wait, by theirs, until it
//! must have done so. [`Holder`] is the one side, for each node's own lease; [`Granter`] the other, for the node that leads. Both are told
//! the time and what has arrived, and say what follows; they send, ask and store nothing: `cluster::tenant` and `cluster::leases` do. [`Page`] is
//! where the holder's deadline goes, so that monitors keep to it without control (`hearth_vmm_api::lease`), and [`NodeLease`] what of control
//! shares it.
//!
//! # Why no pod runs twice
//!
//! Assumed: clocks ([`BootTime`]) run right but for one part in [`DRIFT`], too fast or too slow, and count what their machine sleeps;
//! a microVM stands still within [`KILL`] of its deadline. Nothing is assumed of messages: they may be lost, late, repeated.
//!
//! A holder reads its clock, at true time *a*, before it sends a request. The request reaches a leader at *b*, so *a* ≤ *b*. Granted,
//! it sets the deadline to [`Timing::hold`] after *a*, by the holder's clock. From that grant the node's pods run until
//! *a* + hold / (1 − 1/DRIFT) + KILL at the latest.
//!
//! Whoever calls the node *out*, after which others may start its pods, does so
//!
//! - as the same leader, which counts [`Timing::out`] from *b*: not before *b* + out / (1 + 1/DRIFT);
//! - or as one of a later term, which counts from when it had been elected. The leader that granted has been confirmed by a majority that
//!   was asked after *b*, so nobody had been elected for a later term at *b*: again not before *b* + out / (1 + 1/DRIFT);
//! - or as one of an earlier term, by a command in the log. Committed, it is in the log of every later leader, which applies it
//!   before it grants anything, and refuses. Not committed, nobody is out;
//! - or as the same leader before *b*: then it has noted it, and refuses until the node has come in again.
//!
//! The command that calls a node out names its tenure ([`Member`]), and each time that a node comes in it has the next one. So a command
//! that was late calls nobody out who has come in, and been granted a lease, since it was thought of. It also names the term of the leader that
//! thought of it, and is refused once the log holds the word of a later one (`Command::Lead`), which grants nothing before that.
//!
//! So it is enough that hold / (1 − 1/DRIFT) + KILL ≤ out / (1 + 1/DRIFT), which [`Timing::is_safe`] says in whole numbers and the
//! compiler checks. That an answer is late changes nothing, for the deadline is counted from when it was asked for.
//!
//! A node that was out comes in again with another page and another holder: what it had before stays over, for whoever slept through
//! its end as well.
//!
//! A term has one leader: openraft is built with `single-term-leader`, without which a candidate with a larger id could take over within a term,
//! and the simulation fails where it sees two.
//!
//! # What the caller owes
//!
//! - The clock is read before a request is sent, after one has arrived, before a majority is asked, after an election was won.
//! - A leader grants once it has applied its own term's first entry, and everything before it. The members that it tells its granter are
//!   those that the applied state calls in at that moment; requests of others are answered [`Answer::Out`].
//! - That a node is out is a command, which counts only where no leader of a later term may have granted anything before it, and which is
//!   refused where the node's tenure is another by then. Coming in always begins the next tenure, whether or not the state calls the node out. Pods are placed anew by what is
//!   applied, never by [`Granter::overdue`] itself.
//! - A holder that was told [`Answer::Out`] ends: control waits until the page's deadline has passed and no monitor of a pod with a
//!   lease is left (it kills those that are), makes the page anew, and only then proposes that the node comes in again; a new holder asks for the new lease.
//! - Where a cluster of one takes in a second node: first [`Page::limit`], then the signal (`hearth_vmm_api::lease::LOOK_AGAIN`)
//!   to every monitor with a lease, then the new member. A control that has just started signals those that it takes up again, since the
//!   one before may have ended between the two.
//!
//! # How long it takes
//!
//! A node dies that was granted its lease just then, and leads. Once another is elected, that one calls it out [`Timing::out`] later, and
//! half a second for a look at the clock. To be placed and started elsewhere by 15 s, the election and a pod's start have the rest: 5.9 s.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

mod granter;
mod holder;
mod node;
mod page;
#[cfg(test)]
mod tests;

pub use granter::{Granter, Member, Verdict};
pub use holder::{Holder, RequestId};
pub use node::NodeLease;
pub use page::{Page, PageError};

/// How long a lease is, but for the margin. Much longer: a dead node's pods are missed for longer. Much shorter: a leader that
/// dies at a bad moment ends what runs on nodes that have nothing wrong with them.
const LEASE: Duration = Duration::from_secs(8);
/// From one request to the next. Three fail before a deadline comes: as many as an election costs, and one more.
const RENEW: Duration = Duration::from_secs(2);
/// From a request that has failed to the next: some times within an election, for it to cost no more than it takes.
const RETRY: Duration = Duration::from_millis(500);
/// Where the leader rests, it answers those together that ask within this, with one question to the voters. Less than what a request may take
/// before it counts as failed, and counted off the lease, since that begins when it is asked for.
const TOGETHER: Duration = Duration::from_millis(700);
/// Clocks are wrong by one part in this, at most. Crystals are by one in 10,000 at worst, what the kernel takes them for (the TSC's rate,
/// measured at boot) by one in 2,000. Nobody slews them: the node's time is set by steps, which this clock doesn't take.
const DRIFT: u64 = 1000;
/// From a deadline to when a microVM stands still. Ordinarily some microseconds. A pod that has used up its share of the
/// processor gets some in one of the next periods of a tenth of a second; its guest gets none meanwhile either, but that one has more threads.
const KILL: Duration = Duration::from_secs(1);
/// What a holder takes off the lease, and a granter adds to it: for drift, a thousandth of the lease each; for [`KILL`], half of it;
/// the rest, a tenth of a second, is what nobody has thought of.
const MARGIN: Duration = Duration::from_millis(600);

const _: () = assert!(2 * TOGETHER.as_nanos() < RENEW.as_nanos());
const _: () = assert!(Timing::STANDARD.is_safe(DRIFT, KILL.as_nanos() as u64));

/// Nanoseconds of a node's `CLOCK_BOOTTIME`, comparable on this node, during this boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BootTime(pub u64);

impl BootTime {
    /// Now.
    pub fn now() -> Self {
        Self(hearth_vmm_api::lease::now_ns())
    }

    /// So many nanoseconds later.
    pub fn plus_ns(self, ns: u64) -> Self {
        Self(self.0.saturating_add(ns))
    }

    /// From `now` until then; nothing, if that is over.
    pub fn after(self, now: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(now.0))
    }
}

/// Where [`BootTime`]s come from: [`BootTime::now`], or a simulation.
pub type Clock = Arc<dyn Fn() -> BootTime + Send + Sync>;

/// Until when a node's pods may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deadline {
    /// Until then.
    At(BootTime),
    /// For good: there is nobody else to start them.
    Never,
}

/// What is answered to a request for a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Until [`Timing::hold`] after the request was made.
    Granted,
    /// The node is out: others may have started its pods.
    Out,
    /// The one that was asked doesn't lead, or couldn't be sure that it does.
    NotLeading,
}

/// The spans of time that holders and granters of one cluster agree on, nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// The holder's: from a request to the deadline, once it is granted.
    pub hold: u64,
    /// The granter's: from a request's arrival to when the node is out, unless there is another.
    pub out: u64,
    /// From one request to the next.
    pub renew: u64,
    /// From a request that has failed to the next.
    pub retry: u64,
    /// Where the leader rests: those that ask within this are answered together.
    pub together: u64,
}

impl Timing {
    /// All of Hearth's.
    pub const STANDARD: Self = Self {
        hold: (LEASE.as_nanos() - MARGIN.as_nanos()) as u64,
        out: (LEASE.as_nanos() + MARGIN.as_nanos()) as u64,
        renew: RENEW.as_nanos() as u64,
        retry: RETRY.as_nanos() as u64,
        together: TOGETHER.as_nanos() as u64,
    };

    /// Whether no pod runs twice where clocks are wrong by one part in `drift` at most, and microVMs stand still within `kill` nanoseconds:
    /// hold · d / (d − 1) + kill ≤ out · d / (d + 1).
    pub const fn is_safe(&self, drift: u64, kill: u64) -> bool {
        let (hold, out, kill) = (self.hold as u128, self.out as u128, kill as u128);
        let d = drift as u128;
        d > 1 && hold * d * (d + 1) + kill * (d - 1) * (d + 1) <= out * d * (d - 1)
    }
}
