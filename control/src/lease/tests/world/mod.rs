//! Three nodes in one true time: clocks that drift, messages that are lost, late or repeated, leaders that come and go, machines that
//! sleep, crash and boot, controls that are away. Raft is played by an oracle: there is one highest term, only its leader is confirmed, and
//! only its leader's commands are committed.
//!
//! After every event: no node's pods run that others may have started.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::lease::{Answer, BootTime, Granter, Holder, RequestId, Timing};
use crate::state::NodeId;

mod control;
mod fate;

pub const NODES: usize = 3;
pub const MS: u64 = 1_000_000;
pub const S: u64 = 1000 * MS;

/// What a world is like, and which rules are broken in it.
#[derive(Clone, Copy)]
pub struct Rules {
    pub timing: Timing,
    /// Clocks are wrong by one part in this.
    pub drift: u64,
    /// How late microVMs stand still, nanoseconds.
    pub kill: u64,
    /// Machines, links and controls fail.
    pub faults: bool,
    /// Broken: a leader takes for granted that it leads.
    pub unconfirmed: bool,
    /// Broken: a deadline counts from the answer.
    pub from_answer: bool,
    /// Broken: what is on its way to be called out is granted a lease.
    pub grants_out: bool,
    /// Broken: a command calls a node out whatever has become of it since.
    pub any_tenure: bool,
}

/// What has happened in a world.
#[derive(Default, Debug)]
pub struct Seen {
    pub granted: u64,
    pub out: u64,
    pub admitted: u64,
    /// Pods of a node that was in have ended by themselves.
    pub lapsed: u64,
    pub elected: u64,
    /// Whose pods ran on though others may have started them: the rule that is to hold, broken.
    pub twice: Option<String>,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    // Of one node's control: what has come to it.
    Tick,
    Request(usize, RequestId),
    Answered(RequestId, Answer),
    TimedOut(RequestId),
    Confirmed(u64, BootTime, bool),
    Elected(u64),
    CalledOut(u64, usize),
    CalledIn(usize, u64),
    Deposed(u64),
    // Of the world.
    Election,
    Fault,
    Majority(u64, BootTime),
    CallOut(u64, usize, u64),
    CallIn,
    Wake,
    Boot,
    Control,
}

struct Leading {
    term: u64,
    granter: Granter,
    waiting: Vec<(usize, RequestId, BootTime)>,
    asking: bool,
    /// As its state machine has them.
    out: BTreeSet<usize>,
    tenures: [u64; NODES],
    called: BTreeSet<(usize, u64)>,
}

struct Node {
    up: bool,
    asleep: bool,
    control: bool,
    /// Counts boots and controls: what was on its way within an earlier one has gone with it.
    life: u64,
    booted: u64,
    /// Parts in a thousand million by which the clock is fast.
    fast: i64,
    page: BootTime,
    /// The page's deadline has passed and microVMs stand still.
    ended: bool,
    holder: Holder,
    asked_in: bool,
    leads: Option<Leading>,
}

pub struct World {
    rules: Rules,
    random: StdRng,
    now: u64,
    queue: BinaryHeap<Reverse<(u64, u64, usize, u64)>>,
    events: Vec<Event>,
    nodes: Vec<Node>,
    term: u64,
    leader: usize,
    /// As it is committed.
    out: [bool; NODES],
    tenures: [u64; NODES],
    /// Until when nothing gets from one to another.
    cut: [[u64; NODES]; NODES],
    pub seen: Seen,
}

const ANY_LIFE: u64 = u64::MAX;

fn id(node: usize) -> NodeId {
    NodeId(node as u64 + 1)
}

impl World {
    pub fn new(seed: u64, rules: Rules) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let most = (1_000_000_000 / rules.drift) as i64;
        let nodes = (0..NODES).map(|_| Node {
            up: true,
            asleep: false,
            control: true,
            life: 0,
            booted: 0,
            fast: match random.random_range(0..3) {
                0 => most,
                1 => -most,
                _ => random.random_range(-most..=most),
            },
            page: BootTime(0),
            ended: true,
            holder: Holder::new(rules.timing, random.random(), BootTime(0)),
            asked_in: false,
            leads: None,
        });
        let nodes = nodes.collect();
        let mut world = Self {
            rules,
            random,
            now: 100 * S,
            queue: BinaryHeap::new(),
            events: Vec::new(),
            nodes,
            term: 0,
            leader: 0,
            out: [false; NODES],
            tenures: [0; NODES],
            cut: [[0; NODES]; NODES],
            seen: Seen::default(),
        };
        for node in 0..NODES {
            world.after(0, node, ANY_LIFE, Event::Tick);
        }
        world.after(0, 0, ANY_LIFE, Event::Election);
        world.after(5 * S, 0, ANY_LIFE, Event::Fault);
        world
    }

    /// Until a span of true time is over, or a pod runs twice.
    pub fn run(&mut self, span: u64) {
        let end = self.now + span;
        while self.seen.twice.is_none() {
            match self.queue.peek() {
                Some(Reverse((at, ..))) if *at <= end => {}
                _ => break,
            }
            let Some(Reverse((at, event, node, life))) = self.queue.pop() else {
                break;
            };
            self.now = self.now.max(at);
            self.look();
            self.happen(node, life, self.events[event as usize]);
            self.look();
        }
        self.now = end;
    }

    pub fn leader(&self) -> usize {
        self.leader
    }

    pub fn crash(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        (node.up, node.asleep, node.leads, node.ended) = (false, false, None, true);
        node.life += 1;
    }

    pub fn elect_after(&mut self, span: u64) {
        self.after(span, 0, ANY_LIFE, Event::Election);
    }

    fn after(&mut self, span: u64, node: usize, life: u64, event: Event) {
        let number = self.events.len() as u64;
        self.events.push(event);
        self.queue
            .push(Reverse((self.now + span, number, node, life)));
    }

    fn upto(&mut self, span: u64) -> u64 {
        self.random.random_range(0..=span)
    }

    fn one_in(&mut self, many: u32) -> bool {
        self.random.random_ratio(1, many)
    }

    /// How long something takes on its way.
    fn delay(&mut self) -> u64 {
        if self.rules.faults && self.one_in(20) {
            self.upto(10 * S)
        } else {
            MS + self.upto(100 * MS)
        }
    }

    fn clock(&self, node: usize) -> BootTime {
        let node = &self.nodes[node];
        let since = i128::from(self.now - node.booted);
        let clock = since + since * i128::from(node.fast) / 1_000_000_000;
        BootTime(clock as u64)
    }

    /// True time at which a node's clock has come to something.
    fn true_time(&self, node: usize, clock: BootTime) -> u64 {
        let node = &self.nodes[node];
        let rate = 1_000_000_000 + i128::from(node.fast);
        let since = (i128::from(clock.0) * 1_000_000_000 + rate - 1) / rate;
        node.booted + since as u64
    }

    /// Whether pods end, and whether one runs that must not.
    fn look(&mut self) {
        for node in 0..NODES {
            let end = self.true_time(node, self.nodes[node].page) + self.rules.kill;
            let it = &mut self.nodes[node];
            if it.asleep || it.ended {
                continue;
            }
            if self.now >= end {
                it.ended = true;
                self.seen.lapsed += u64::from(!self.out[node]);
            } else if self.out[node] {
                let text = format!("node {node} at {} until {end}", self.now);
                self.seen.twice.get_or_insert(text);
            }
        }
    }

    fn send(&mut self, from: usize, to: usize, event: Event) {
        if self.now < self.cut[from][to] || self.rules.faults && self.one_in(20) {
            return;
        }
        let delay = self.delay();
        self.after(delay, to, ANY_LIFE, event);
        if self.rules.faults && self.one_in(20) {
            let again = self.upto(20 * S);
            self.after(again, to, ANY_LIFE, event);
        }
    }
}
