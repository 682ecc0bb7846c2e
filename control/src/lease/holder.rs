//! A node's own lease: asks for it to be extended, and knows until when it is.

use std::collections::VecDeque;

use super::{Answer, BootTime, Timing};

/// Names a request among those of one holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// A lease as its holder sees it. It ends with the node being out: the next lease has another holder.
#[derive(Debug)]
pub struct Holder {
    timing: Timing,
    deadline: BootTime,
    next_id: u64,
    /// When to ask next.
    next_at: BootTime,
    /// Requests that have had no answer and could still extend the lease, oldest first: when the clock was read for each.
    asked: VecDeque<(RequestId, BootTime)>,
    out: bool,
}

impl Holder {
    /// Of a lease that is until `deadline`, by the page; it may have passed. `first` is random, lest an answer to an earlier holder's request
    /// be taken for one to this one's.
    pub fn new(timing: Timing, first: u64, deadline: BootTime) -> Self {
        Self {
            timing,
            deadline,
            next_id: first,
            next_at: BootTime::default(),
            asked: VecDeque::new(),
            out: false,
        }
    }

    /// The request that is due, if one is: to be sent to whoever leads, after this. `now` counts as when it was made.
    pub fn ask(&mut self, now: BootTime) -> Option<RequestId> {
        if self.out || now < self.next_at {
            return None;
        }
        let hold = self.timing.hold;
        self.asked.retain(|(_, asked)| asked.plus_ns(hold) > now);
        let id = RequestId(self.next_id);
        self.next_id = self.next_id.wrapping_add(1);
        self.next_at = now.plus_ns(self.timing.renew);
        self.asked.push_back((id, now));
        Some(id)
    }

    /// When [`Holder::ask`] has the next one. None: never again.
    pub fn asks_at(&self) -> Option<BootTime> {
        (!self.out).then_some(self.next_at)
    }

    /// An answer has come. Returns the new deadline where it extends the lease: to be written to the page.
    pub fn answered(&mut self, id: RequestId, answer: Answer, now: BootTime) -> Option<BootTime> {
        let at = self.asked.iter().position(|(asked, _)| *asked == id)?;
        match answer {
            Answer::Granted => {
                let (_, asked) = self.asked[at];
                // Those before it would extend it less.
                self.asked.drain(..=at);
                let deadline = asked.plus_ns(self.timing.hold);
                if deadline <= self.deadline || deadline <= now {
                    return None;
                }
                self.deadline = deadline;
                Some(deadline)
            }
            Answer::Out => {
                self.out = true;
                self.asked.clear();
                None
            }
            Answer::NotLeading => {
                self.failed(id, now);
                None
            }
        }
    }

    /// A request has had no answer, and what comes of it later doesn't count.
    pub fn failed(&mut self, id: RequestId, now: BootTime) {
        let before = self.asked.len();
        self.asked.retain(|(asked, _)| *asked != id);
        if self.asked.len() < before {
            self.next_at = self.next_at.min(now.plus_ns(self.timing.retry));
        }
    }

    /// The leader rests, and has just answered all that asked: they ask again together, so that it has one question for all.
    pub fn ask_together(&mut self, now: BootTime) {
        let Timing {
            renew, together, ..
        } = self.timing;
        self.next_at = self.next_at.min(now.plus_ns(renew - together));
    }

    /// Until when the lease is.
    pub fn deadline(&self) -> BootTime {
        self.deadline
    }

    /// The node is out, by the word of one that leads. The lease is not extended any more; see the module for what is due then.
    pub fn is_out(&self) -> bool {
        self.out
    }
}
