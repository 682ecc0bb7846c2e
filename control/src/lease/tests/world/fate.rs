//! What befalls nodes, and what becomes of their commands.

use rand::Rng;

use super::{ANY_LIFE, Event, NODES, S, World};
use crate::lease::{BootTime, Holder};

impl World {
    /// The instant at which a majority says whether it has heard of a later term.
    pub(super) fn majority(&mut self, node: usize, life: u64, term: u64, asked: BootTime) {
        let yes = self.term == term && self.has_majority(node);
        let delay = self.delay();
        self.after(delay, node, life, Event::Confirmed(term, asked, yes));
    }

    pub(super) fn has_majority(&self, node: usize) -> bool {
        let reached = (0..NODES).filter(|other| {
            let there = self.nodes[*other].up && !self.nodes[*other].asleep;
            let (from, to) = (self.cut[node][*other], self.cut[*other][node]);
            *other == node || there && self.now >= from.max(to)
        });
        reached.count() > NODES / 2
    }

    /// The instant at which a command is committed, or isn't.
    pub(super) fn call_out(&mut self, node: usize, life: u64, term: u64, member: (usize, u64)) {
        let (of, tenure) = member;
        if self.term == term && self.has_majority(node) {
            if self.tenures[of] == tenure || self.rules.any_tenure {
                self.out[of] = true;
                self.seen.out += 1;
                let delay = self.delay();
                self.after(delay, node, life, Event::CalledOut(term, of));
            }
        } else if let Some(leads) = self.leads(node, term) {
            leads.called.remove(&member);
        }
    }

    /// The same of a node that comes in again.
    pub(super) fn call_in(&mut self, node: usize, life: u64) {
        let leader = self.leader;
        let it = &mut self.nodes[node];
        if it.life != life {
            return;
        }
        it.asked_in = false;
        let leads = self.nodes[leader].leads.as_ref();
        if leads.is_none_or(|leads| leads.term != self.term) || !self.has_majority(leader) {
            return;
        }
        let first = self.random.random();
        let it = &mut self.nodes[node];
        it.holder = Holder::new(self.rules.timing, first, BootTime(0));
        self.seen.admitted += u64::from(self.out[node]);
        self.out[node] = false;
        self.tenures[node] += 1;
        let called_in = Event::CalledIn(node, self.tenures[node]);
        let (leader_life, delay) = (self.nodes[leader].life, self.delay());
        self.after(delay, leader, leader_life, called_in);
    }

    pub(super) fn election(&mut self) {
        let next = 2 * S + self.upto(25 * S);
        if self.rules.faults {
            self.elect_after(next);
        }
        let candidate = self.random.random_range(0..NODES);
        let candidate = (0..NODES)
            .map(|n| (candidate + n) % NODES)
            .find(|n| self.nodes[*n].up && !self.nodes[*n].asleep && self.has_majority(*n));
        let Some(candidate) = candidate else {
            return;
        };
        self.term += 1;
        self.leader = candidate;
        self.seen.elected += 1;
        let (term, life) = (self.term, self.nodes[candidate].life);
        let delay = self.delay();
        self.after(delay, candidate, life, Event::Elected(term));
        for other in 0..NODES {
            let delay = if self.rules.faults {
                self.upto(20 * S)
            } else {
                self.delay()
            };
            self.after(delay, other, ANY_LIFE, Event::Deposed(term));
        }
    }

    pub(super) fn fault(&mut self) {
        if !self.rules.faults {
            return;
        }
        let next = self.upto(8 * S);
        self.after(next, 0, ANY_LIFE, Event::Fault);
        let node = self.random.random_range(0..NODES);
        let span = self.upto(25 * S);
        let it = &mut self.nodes[node];
        match self.random.random_range(0..5) {
            0 if it.up && !it.asleep => {
                it.asleep = true;
                self.after(span, node, ANY_LIFE, Event::Wake);
            }
            1 if it.up => {
                self.crash(node);
                self.after(span, node, ANY_LIFE, Event::Boot);
            }
            2 if it.control => {
                (it.control, it.leads) = (false, None);
                it.life += 1;
                self.after(span, node, ANY_LIFE, Event::Control);
            }
            3 => {
                let other = self.random.random_range(0..NODES);
                self.cut[node][other] = self.now + span;
            }
            _ => {
                for other in (0..NODES).filter(|other| *other != node) {
                    self.cut[node][other] = self.now + span;
                    self.cut[other][node] = self.now + span;
                }
            }
        }
    }

    /// A virtual CPU looks at its lease before it goes on.
    pub(super) fn wake(&mut self, node: usize) {
        let now = self.clock(node);
        let it = &mut self.nodes[node];
        if !it.asleep {
            return;
        }
        it.asleep = false;
        if now >= it.page && !it.ended {
            it.ended = true;
            self.seen.lapsed += u64::from(!self.out[node]);
        }
    }

    pub(super) fn boot(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        (it.up, it.control, it.booted, it.page) = (true, false, self.now, BootTime(0));
        self.control(node);
    }

    pub(super) fn control(&mut self, node: usize) {
        let first = self.random.random();
        let timing = self.rules.timing;
        let it = &mut self.nodes[node];
        if it.up && !it.control {
            it.life += 1;
            (it.control, it.asked_in) = (true, false);
            it.holder = Holder::new(timing, first, it.page);
        }
    }
}
