//! Everybody's leases, as the leader of one term sees them: what it has granted, and who is out.
//!
//! It begins with a term and ends with it. What leaders before have granted it doesn't know, and need not: each node counts as
//! granted when this one first sees it, which is after it was elected, and that is later than any of those.

use std::collections::BTreeMap;

use crate::state::{Node, NodeId};

use super::{Answer, BootTime, Timing};

/// What comes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// To be sent.
    Answer(Answer),
    /// A majority is to be asked first whether this node still leads, and its answer told to [`Granter::confirmed`].
    Unconfirmed,
}

/// A node as the applied state has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// Which.
    pub node: NodeId,
    /// How often it has come in. The command that calls it out names this, and is refused where it is another by then: the node may have
    /// heard that it is out before that was committed, and have come in again.
    pub tenure: u64,
}

impl Member {
    /// A node as it is in the state.
    pub fn of(node: &Node) -> Self {
        Self {
            node: node.id,
            tenure: node.tenure,
        }
    }
}

/// What a leader knows of one node.
#[derive(Debug, Clone, Copy)]
struct Standing {
    tenure: u64,
    /// When its last granted request arrived, or when it was first seen.
    granted: BootTime,
    /// It was found overdue: nothing is granted to it any more, since the command that says so may be on its way already.
    out: bool,
}

/// See the module. Its time is this node's.
#[derive(Debug)]
pub struct Granter {
    timing: Timing,
    /// What was granted before counts as granted then: when this node was elected, or has last slept.
    since: BootTime,
    /// Of the last call.
    seen: BootTime,
    /// When a majority was last asked, of those times that it has answered.
    confirmed: Option<BootTime>,
    nodes: BTreeMap<NodeId, Standing>,
}

impl Granter {
    /// For a term that this node has been elected for. `now` was read after that.
    pub fn elected(timing: Timing, now: BootTime) -> Self {
        Self {
            timing,
            since: now,
            seen: now,
            confirmed: None,
            nodes: BTreeMap::new(),
        }
    }

    /// To be called in less than [`Timing::renew`], again and again, and first of all after each wait.
    ///
    /// A leader that was away for longer than [`Timing::renew`] (its machine slept, or had no time for it) has heard no requests meanwhile, and
    /// nobody's silence says anything: all counts from now on again, as it does after an election.
    pub fn tick(&mut self, now: BootTime) {
        if now > self.seen.plus_ns(self.timing.renew) {
            self.since = now;
            self.confirmed = None;
        }
        self.seen = self.seen.max(now);
    }

    /// A majority that was asked at `asked` says that this node leads, in this term.
    pub fn confirmed(&mut self, asked: BootTime, now: BootTime) {
        self.tick(now);
        if asked >= self.since {
            self.confirmed = self.confirmed.max(Some(asked));
        }
    }

    /// When a majority was last asked that says so. None: it is to be asked again.
    pub fn last_confirmed(&self) -> Option<BootTime> {
        self.confirmed
    }

    /// What is answered to a request that has arrived at `arrived` from a node that the state calls in. Asked again, with the member as it is
    /// then, until there is an answer.
    pub fn request(&mut self, member: Member, arrived: BootTime, now: BootTime) -> Verdict {
        self.tick(now);
        if self.confirmed.is_none_or(|asked| asked < arrived) {
            return Verdict::Unconfirmed;
        }
        self.know(member, now);
        let same = |standing: &&mut Standing| standing.tenure == member.tenure && !standing.out;
        match self.nodes.get_mut(&member.node).filter(same) {
            Some(standing) => {
                standing.granted = standing.granted.max(arrived);
                Verdict::Answer(Answer::Granted)
            }
            None => Verdict::Answer(Answer::Out),
        }
    }

    /// Those of `members`, whom the state calls in, that are out: their pods can't run any more. From here on nothing is granted to them.
    ///
    /// Only those whom a majority, asked since they were overdue, has left to this node to judge.
    pub fn overdue(
        &mut self,
        members: impl IntoIterator<Item = Member>,
        now: BootTime,
    ) -> Vec<Member> {
        self.tick(now);
        let mut out = Vec::new();
        for member in members {
            self.know(member, now);
            let due = self.due(member, now);
            if self.confirmed.is_none_or(|asked| asked <= due) {
                continue;
            }
            if let Some(standing) = self.nodes.get_mut(&member.node) {
                standing.out = true;
                out.push(member);
            }
        }
        out
    }

    /// When the first of `members` is overdue, unless it asks before: a majority is to be asked right after, for [`Granter::overdue`].
    pub fn first_due(
        &self,
        members: impl IntoIterator<Item = Member>,
        now: BootTime,
    ) -> Option<BootTime> {
        let due = members.into_iter().map(|member| self.due(member, now));
        due.min()
    }

    /// A node is no member any more.
    pub fn removed(&mut self, node: NodeId) {
        self.nodes.remove(&node);
    }

    /// One that was not known, or only from before it came in again, counts as granted from now on.
    fn know(&mut self, member: Member, now: BootTime) {
        let known = self.nodes.get(&member.node);
        if known.is_none_or(|standing| standing.tenure < member.tenure) {
            let standing = Standing {
                tenure: member.tenure,
                granted: now,
                out: false,
            };
            self.nodes.insert(member.node, standing);
        }
    }

    fn due(&self, member: Member, now: BootTime) -> BootTime {
        let known = self.nodes.get(&member.node);
        let granted = match known.filter(|standing| standing.tenure == member.tenure) {
            Some(standing) if standing.out => return BootTime::default(),
            Some(standing) => standing.granted.max(self.since),
            None => now,
        };
        granted.plus_ns(self.timing.out)
    }
}
