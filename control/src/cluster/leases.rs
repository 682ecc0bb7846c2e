//! Everybody's leases, where this node leads: granted when asked for, and called out by a command when they are over.
//!
//! [`Granter`] decides; here is what it needs done: the voters are asked whether this node still leads, and what it finds is committed.
//! `crate::lease` says what is owed to it. Every node has one of these, and only the leader's does anything.
//!
//! A leader's first act is [`Command::Lead`], which it waits for. What an earlier one has decided, and has not been written down yet,
//! is refused after that; so nobody is called out of a lease that was granted since.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::service::Grants;
use crate::clock::now_ns;
use crate::lease::{Answer, BootTime, Clock, Granter, Member, Timing, Verdict};
use crate::raft::{Replica, Standing};
use crate::state::{Command, Health, NodeId, State};

/// A request is looked at so often before its node is told to ask again: a majority's answer is enough the first time, unless this
/// node had no time meanwhile.
const LOOKS: usize = 3;

/// See the module's page.
pub struct Leases {
    replica: Replica,
    clock: Clock,
    timing: Timing,
    led: Mutex<Option<Led>>,
    /// Held while the voters are asked: who comes meanwhile needs not ask for itself again.
    asking: tokio::sync::Mutex<()>,
}

/// A term in which this node leads.
struct Led {
    term: u64,
    granter: Granter,
    /// Whom the granter has seen.
    seen: BTreeSet<NodeId>,
}

impl Leases {
    /// Leases of all nodes, in `clock`'s time.
    pub fn new(replica: Replica, clock: Clock, timing: Timing) -> Arc<Self> {
        Arc::new(Self {
            replica,
            clock,
            timing,
            led: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
        })
    }

    /// Calls out whose lease is over, for as long as this node leads others; for ever. In a cluster of one nothing happens.
    pub async fn run(self: Arc<Self>) {
        let mut calling = FuturesUnordered::new();
        let mut called = BTreeSet::new();
        loop {
            let standing = self.replica.standing();
            if !self.leads(&standing) || standing.members.len() <= 1 {
                // What is under way is done or not, and refused where another leads.
                calling.clear();
                called.clear();
                self.replica.standing_other_than(&standing).await;
                continue;
            }
            let term = standing.term;
            let (overdue, due) = self.overdue(term).await;
            for member in overdue {
                if called.insert((term, member)) {
                    tracing::warn!(node = %member.node, "its lease is over");
                    let call = self.call_out(term, member);
                    calling.push(async move {
                        call.await;
                        (term, member)
                    });
                }
            }
            let tick = tokio::time::sleep(self.until_next_look(due));
            tokio::select! {
                // Whoever isn't called out yet will be found again.
                Some(done) = calling.next() => drop(called.remove(&done)),
                () = self.replica.standing_other_than(&standing) => {}
                () = tick => {}
            }
        }
    }

    /// From one look for those that are out to the next. `due`: when the first of the others is.
    fn until_next_look(&self, due: Option<BootTime>) -> Duration {
        let now = self.now();
        let ns = match due {
            // The granter is to be told the time so often.
            None => self.timing.renew / 2,
            // It could not be made sure of.
            Some(due) if due < now => self.timing.retry,
            Some(due) => (due.0 + 1 - now.0).min(self.timing.renew / 2),
        };
        Duration::from_nanos(ns)
    }

    fn leads(&self, standing: &Standing) -> bool {
        standing.leader == Some(self.replica.node())
    }

    fn now(&self) -> BootTime {
        (self.clock)()
    }

    fn led(&self) -> MutexGuard<'_, Option<Led>> {
        self.led.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// With what is known of a term that this node leads in, which begins now if it is another than before. None: a later one is known.
    fn in_term<T>(&self, term: u64, work: impl FnOnce(&mut Led, BootTime) -> T) -> Option<T> {
        let mut led = self.led();
        // After whatever was waited for.
        let now = self.now();
        if led.as_ref().is_none_or(|led| led.term < term) {
            *led = Some(Led {
                term,
                granter: Granter::elected(self.timing, now),
                seen: BTreeSet::new(),
            });
        }
        let led = led.as_mut().filter(|led| led.term == term)?;
        led.granter.tick(now);
        Some(work(led, now))
    }

    /// Asks the voters, after `since`, whether this node leads in this term, and makes its word the last one about leases. False: it
    /// doesn't, or can't be sure. `waits`: for others whom one question serves as well, where there is time.
    async fn confirm(&self, term: u64, since: BootTime, waits: bool) -> bool {
        let _asking = self.asking.lock().await;
        let known = self.in_term(term, |led, _| {
            let confirmed = led.granter.last_confirmed();
            confirmed.is_some_and(|asked| asked >= since)
        });
        match known {
            None => return false,
            Some(true) => return true,
            Some(false) => {}
        }
        if waits && self.replica.rests() {
            tokio::time::sleep(Duration::from_nanos(self.timing.together)).await;
        }
        let asked = self.now();
        let patience = Duration::from_nanos(self.timing.renew);
        let confirming = async {
            self.replica.confirm().await.ok()?;
            if self.replica.state().term < term {
                let lead = self.replica.propose(Command::Lead { term }).await;
                lead.ok()?.ok()?;
            }
            (self.replica.state().term == term).then_some(())
        };
        if !matches!(
            tokio::time::timeout(patience, confirming).await,
            Ok(Some(()))
        ) {
            return false;
        }
        let told = self.in_term(term, |led, now| led.granter.confirmed(asked, now));
        told.is_some()
    }

    /// Who is out, of those that the state calls in; and when the first of the others is, unless it asks before.
    async fn overdue(&self, term: u64) -> (Vec<Member>, Option<BootTime>) {
        let found = self.in_term(term, |led, now| {
            let members = led.members(&self.replica.state());
            // From now on silence counts.
            let overdue = led.granter.overdue(members.iter().copied(), now);
            let others = members.into_iter().filter(|it| !overdue.contains(it));
            let due = led.granter.first_due(others, now);
            (overdue, due, now)
        });
        let Some((overdue, due, now)) = found else {
            return (Vec::new(), None);
        };
        let Some(first) = due.filter(|due| *due < now) else {
            return (overdue, due);
        };
        if !self.confirm(term, first.plus_ns(1), false).await {
            return (overdue, due);
        }
        let overdue = self.in_term(term, |led, now| {
            let members = led.members(&self.replica.state());
            led.granter.overdue(members, now)
        });
        // The others are looked at again soon.
        (overdue.unwrap_or_default(), due)
    }

    async fn call_out(&self, term: u64, member: Member) {
        let down = Command::NodeHealth {
            at_ns: now_ns(),
            node: member.node,
            health: Health::Down {
                reason: "it has been out of touch for longer than its lease".to_owned(),
            },
            tenure: member.tenure,
            term: Some(term),
        };
        match self.replica.propose(down).await {
            Ok(Ok(_)) => {}
            Ok(Err(refusal)) => tracing::debug!(%refusal, "another has changed it first"),
            Err(error) => {
                tracing::warn!(%error, node = %member.node, "a node is not called out yet")
            }
        }
    }
}

impl Led {
    /// Those that the state calls in. Those that it knows no more are forgotten.
    fn members(&mut self, state: &State) -> Vec<Member> {
        let gone = |node: &NodeId| !state.nodes.contains_key(node);
        for node in self.seen.extract_if(.., gone) {
            self.granter.removed(node);
        }
        let ready = state.nodes.values().filter(|node| node.is_ready());
        let members: Vec<_> = ready.map(Member::of).collect();
        self.seen.extend(members.iter().map(|member| member.node));
        members
    }
}

#[async_trait]
impl Grants for Leases {
    async fn grant(&self, node: NodeId) -> Answer {
        let arrived = self.now();
        for _ in 0..LOOKS {
            let standing = self.replica.standing();
            if !self.leads(&standing) || !self.confirm(standing.term, arrived, true).await {
                return Answer::NotLeading;
            }
            let verdict = self.in_term(standing.term, |led, now| {
                let state = self.replica.state();
                if state.term != standing.term {
                    return Verdict::Answer(Answer::NotLeading);
                }
                if state.cluster.leaving.contains(&node) {
                    // What it was granted is to come to its end.
                    return Verdict::Answer(Answer::NotLeading);
                }
                match state.nodes.get(&node).filter(|node| node.is_ready()) {
                    None => Verdict::Answer(Answer::Out),
                    Some(node) => {
                        led.seen.insert(node.id);
                        led.granter.request(Member::of(node), arrived, now)
                    }
                }
            });
            match verdict {
                Some(Verdict::Answer(answer)) => return answer,
                Some(Verdict::Unconfirmed) => {}
                None => return Answer::NotLeading,
            }
        }
        Answer::NotLeading
    }
}
